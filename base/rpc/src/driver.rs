//! Messages between the flow manager and a driver (the paper's `Netif` interface).

use base_flow::{Bill, Contract, Endpoints, Fib, FlowId, LinkFacts, Pace, Prefix, Stray};
use serde::{Deserialize, Serialize};

/// Names a domain (an application that joined a driver) to flow manager and driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DomainId(pub u32);

/// Who a domain belongs to, and what all domains of that user share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainUser {
    /// The kernel's number of the user; `None` for the flow manager itself.
    pub uid: Option<u32>,
    /// Driver time that the user's flows may use for receiving, all together: nanoseconds per second.
    pub rx_cpu_ppb: u32,
    /// How large each of the domain's data arenas is.
    pub arena_bytes: u64,
}

impl DomainUser {
    /// The flow manager: only the budgets of its flows limit it.
    pub const FLOW_MANAGER: Self = Self { uid: None, rx_cpu_ppb: 0, arena_bytes: 1 << 26 };
}

/// A range of bytes in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// First byte, a multiple of 64.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u32,
}

/// Where a flow's channels lie in its domain's arenas.
///
/// Chosen by the application, whose memory it is; checked by the driver against the size of the
/// arenas. Layouts that overlap hurt only the application that chose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLayout {
    /// The flow's number within its domain: what the event FIFOs carry.
    pub slot: u32,
    /// Byte offset of the flow's block in *both* control arenas, a multiple of 64.
    pub control_offset: u64,
    /// Words in each control area of the transmit channel; a power of two.
    pub tx_words: u32,
    /// Words in each control area of the receive channel; a power of two.
    pub rx_words: u32,
    /// Data area of the transmit channel, in the transmit data arena.
    pub tx_data: Region,
    /// Data area of the receive channel, in the receive data arena.
    pub rx_data: Region,
}

/// What the flow manager tells a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDriver {
    /// The driver that said [`FromDriver::Hello`] is not wanted. Nothing follows.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// A domain joins: make its arenas and doorbells. Answered by [`FromDriver::DomainAdded`].
    AddDomain {
        /// Its name from now on.
        domain: DomainId,
        /// How many flows it may have at a time; sizes its event FIFOs.
        flows_max: u32,
        /// Whose it is.
        user: DomainUser,
    },
    /// A domain left: remove its flows and unmap its arenas.
    RemoveDomain {
        /// Which.
        domain: DomainId,
    },
    /// Set up a flow's channels. It can neither send nor receive before [`ToDriver::Attach`].
    AddFlow {
        /// Its name.
        flow: FlowId,
        /// Its owner.
        domain: DomainId,
        /// Where its channels are.
        layout: FlowLayout,
        /// Its admitted contract.
        contract: Contract,
        /// Driver time it may use for receiving: nanoseconds per second.
        rx_cpu_ppb: u32,
        /// Flows, of the same user, whose earlier contracts its first budget must wait for.
        after: Vec<FlowId>,
    },
    /// Let the flow send what `fib` describes, and receive what matches its endpoints.
    Attach {
        /// Endpoints and addresses; the driver makes template and filter from it.
        fib: Fib,
    },
    /// Let the flow neither send nor receive, but keep its channels.
    Detach {
        /// Which.
        flow: FlowId,
    },
    /// Remove the flow. Answered by [`FromDriver::FlowRemoved`].
    RemoveFlow {
        /// Which.
        flow: FlowId,
        /// Both ends of the connection that it leaves: parked as by [`ToDriver::Park`] before another frame
        /// comes, which whoever listens there would take for the beginning of a new one.
        parks: Option<Endpoints>,
    },
    /// Change the contract. Answered by [`FromDriver::Settled`] when the earlier one binds no longer.
    SetContract {
        /// Which.
        flow: FlowId,
        /// The admitted contract.
        contract: Contract,
        /// Its number among those of the flow.
        change: u32,
        /// Flows, of the same user, whose earlier contracts its first budget must wait for.
        after: Vec<FlowId>,
    },
    /// The addresses this host owns; packets for others are dropped, and packets from them that come from the
    /// wire.
    SetAddresses {
        /// All of the link.
        addresses: Vec<Prefix>,
        /// All of the host's other links.
        elsewhere: Vec<Prefix>,
    },
    /// Frames of a kind that nobody claims go to `flow`, which may send any frame from our station.
    SetLastResort {
        /// Which kind.
        stray: Stray,
        /// The flow manager's own flow for it.
        flow: FlowId,
        /// How many are passed on.
        pace: Pace,
    },
    /// What is between these ends goes to the flow manager, whoever listens there.
    Park {
        /// Both ends, the remote one included.
        endpoints: Endpoints,
    },
    /// No longer so.
    Unpark {
        /// Which ends.
        endpoints: Endpoints,
    },
    /// Treat `frame` as if it had just arrived for the flow that claims it. If none does, it does not go to
    /// the last resort once more.
    Inject {
        /// An Ethernet frame.
        frame: Vec<u8>,
    },
    /// Release nothing, admit nothing, just answer [`FromDriver::Pong`].
    Ping {
        /// Echoed in the answer.
        tag: u64,
    },
}

/// Why a driver could not do what it was told; never because of what is already installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum InstallError {
    /// The driver is short of memory, descriptors or address space.
    #[error("{what} could not be made: {problem}")]
    Memory {
        /// Which arena, or a doorbell.
        what: String,
        /// What the kernel says.
        problem: String,
    },
    /// A region lies outside its arena or is not aligned.
    #[error("{region} does not fit its arena")]
    Region {
        /// Which region.
        region: String,
    },
    /// Holes could be punched into what the application writes.
    #[error(
        "the arenas that the application writes are not sealed against new writers (F_SEAL_FUTURE_WRITE)"
    )]
    NotClosed,
    /// The layout's slot or depth is out of range.
    #[error("layout is invalid: {0}")]
    Layout(String),
    /// Another flow has the place, or the endpoints.
    #[error("already in use: {0}")]
    InUse(String),
    /// No such domain or flow.
    #[error("unknown {0}")]
    Unknown(String),
    /// The table is full.
    #[error("the driver's table is full")]
    Full,
}

/// Domain or user that has used up its part of a driver's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spender {
    /// A domain, for its flows.
    Domain(DomainId),
    /// A user, by joining and leaving.
    User(u32),
}

impl Spender {
    /// The longest that is waited for anybody at a time: who owes more is looked at again then.
    pub const NS_MAX: u64 = 1_000_000_000;
}

/// What a driver tells the flow manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDriver {
    /// First message. Descriptor: the counter area, read-only, one bill per flow index, the last
    /// one for the link itself.
    Hello {
        /// The link it drives.
        facts: LinkFacts,
        /// How many flows it can have.
        flows_max: u32,
    },
    /// The domain can open flows, or not.
    ///
    /// Descriptors, if it can: control-out, control-in (read-only), transmit data and receive data arenas, the
    /// domain's end of its doorbell, and the eventfd that wakes the driver.
    DomainAdded {
        /// Which.
        domain: DomainId,
        /// Why not.
        result: Result<(), InstallError>,
    },
    /// A flow could not be added or attached; it has no channels.
    FlowFailed {
        /// Which.
        flow: FlowId,
        /// Why.
        error: InstallError,
    },
    /// A flow is gone. Its place, and its share of the line, may be reused when it is settled.
    FlowRemoved {
        /// Which.
        flow: FlowId,
        /// What it used altogether.
        bill: Bill,
        /// Whether it is settled at once: else [`FromDriver::Settled`] follows.
        settled: bool,
    },
    /// What a flow has sent under earlier contracts is paid for: they bind no longer.
    Settled {
        /// Which.
        flow: FlowId,
        /// The number of the contract that it has; `None` if it was removed.
        change: Option<u32>,
    },
    /// A domain is gone; nothing of it is mapped any more.
    DomainRemoved {
        /// Which.
        domain: DomainId,
    },
    /// Whoever this is has used up his part of the driver's time: nothing more is to be told for him before there is
    /// some again. Told once until then.
    Spent {
        /// Who.
        whose: Spender,
        /// Until when, in nanoseconds of the monotonic clock; no later than [`Spender::NS_MAX`] from now.
        until_ns: u64,
    },
    /// The owner of a flow wrote what cannot be: its channel was closed.
    Fault {
        /// Which flow.
        flow: FlowId,
        /// What was alleged.
        fault: String,
    },
    /// The link carries other packets from now on: somebody has changed the interface.
    Carries {
        /// Largest IP packet, in bytes; never more than the `mtu_max` of its facts.
        mtu: u16,
        /// Largest IP packet it takes, in bytes: longer TCP segments it cuts.
        unit_bytes: u16,
    },
    /// The interface is up and has a carrier again: meanwhile it may have been another network, or somebody may have
    /// taken our addresses (RFC 5227 §2.1).
    CameUp,
    /// The kernel of this host has an address, or no longer. Told of all that it has, after
    /// [`FromDriver::Hello`], and of every change.
    KernelAddress {
        /// Which, and its network.
        prefix: Prefix,
        /// On which interface.
        dev: String,
        /// True if the kernel has it now, false if no more.
        taken: bool,
    },
    /// Answer to [`ToDriver::Ping`].
    Pong {
        /// The question's tag.
        tag: u64,
    },
}
