//! Messages between an application and the flow manager (the paper's `FlowMan` interface).

use std::fmt;
use std::net::IpAddr;

use base_flow::{
    Bill, Contract, Endpoints, Fib, FlowId, InvalidContract, Ms, Prefix, Reason, Refused, Sap,
    Transport,
};
use base_wire::Mac;
use serde::{Deserialize, Serialize};

use crate::FlowLayout;

/// A request with the tag its [`Answer`] will carry, so that requests can overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the application.
    pub tag: u32,
    /// What it asks.
    pub request: Request,
}

/// A reply with the tag of its [`Call`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The call's tag.
    pub tag: u32,
    /// What the flow manager says.
    pub reply: Reply,
}

/// What an application can ask of the flow manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First request. Answered by [`Reply::Welcome`].
    Hello,
    /// Share arenas with a link's driver, which makes them. Answered by [`Reply::Joined`].
    Join(JoinOffer),
    /// Reserve a local access point. Answered by [`Reply::Bound`].
    Bind {
        /// The protocol.
        transport: Transport,
        /// Address or any, port or 0 for a free one.
        local: Sap,
    },
    /// Give a reservation back. Answered by [`Reply::Done`].
    Unbind {
        /// The protocol.
        transport: Transport,
        /// As in the answer to `Bind`.
        local: Sap,
    },
    /// Open a flow on a link; with endpoints, attach it at once. Answered by [`Reply::Opened`].
    ///
    /// A local port that this application has not bound is bound for the life of the flow.
    Open {
        /// Number of a link in [`Reply::Welcome`].
        link: u16,
        /// Contract to admit.
        contract: Contract,
        /// Where the channels are in the joined arenas.
        layout: FlowLayout,
        /// Ends of the flow.
        endpoints: Option<Endpoints>,
    },
    /// Give an open flow its ends. Answered by [`Reply::Attached`].
    Attach {
        /// Which flow.
        flow: FlowId,
        /// Its ends.
        endpoints: Endpoints,
        /// If so, it has none until it is known where the next hop is, or for good if that is silent. If not, it
        /// keeps the ends that it had if it cannot have these, and if it can, the answer comes when the driver knows
        /// of these: where the next hop is, is said when it is known ([`Reply::Reorganised`]).
        waits: bool,
    },
    /// Take a flow's ends away. Answered by [`Reply::Done`].
    Detach {
        /// Which flow.
        flow: FlowId,
    },
    /// Close a flow. Answered by [`Reply::Closed`] when the driver has let go of its memory.
    Close {
        /// Which flow.
        flow: FlowId,
        /// If it was a TCP connection that both sides have closed: what is to be said in its place
        /// until no segment of it can be in the network any more.
        time_wait: Option<TimeWait>,
    },
    /// Change the contract of a running flow of one's own, or of another application of the same user;
    /// who may see others' flows may change theirs. Answered by [`Reply::Adjusted`].
    AdjustQos {
        /// Which flow.
        flow: FlowId,
        /// Contract to admit in place of the present one.
        contract: Contract,
    },
    /// Packets of up to so many bytes get to a host that a flow sends to, as a router said, or as was found out;
    /// for whatever of this user sends there next (RFC 1191 §6.3). Answered by [`Reply::Done`].
    PathCarries {
        /// Which flow.
        flow: FlowId,
        /// The host: that of the flow's remote end, if it has one.
        remote: IpAddr,
        /// Largest IP packet, in bytes.
        mtu: u16,
    },
    /// Frames were received by a flow that came from others than whom its socket is connected to, and were thrown
    /// away: they are shown in its bill. Answered by [`Reply::Done`].
    Strangers {
        /// Which flow.
        flow: FlowId,
        /// Number of frames since that was last said.
        frames: u64,
    },
    /// Find the way to a host. Answered by [`Reply::Resolved`], after ARP if need be.
    Resolve {
        /// The host.
        remote: IpAddr,
    },
    /// Look at the flow manager's state. Answered by [`Reply::Found`].
    Query(Query),
}

/// What remains of a TCP connection in TIME-WAIT (RFC 9293 §3.6.1): where it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeWait {
    /// Our next number.
    pub sequence: u32,
    /// The number after the peer's FIN.
    pub acknowledgment: u32,
    /// What our clock shows now, in milliseconds, and what the peer's did last, if they were agreed on.
    pub clocks: Option<(u32, u32)>,
}

/// What an application wants to share with a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinOffer {
    /// Number of a link in [`Reply::Welcome`].
    pub link: u16,
    /// How many flows the application wants to have at a time; sizes the event FIFOs.
    pub flows_max: u32,
}

/// What can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The links and their state.
    Links,
    /// The routing table.
    Routes,
    /// The neighbour cache.
    Neighbours,
    /// Flows, a page at a time. Bills of other users' flows are left out.
    Flows {
        /// First flow index of the page.
        from: u32,
    },
    /// Connections, flows and memory of users, a page at a time: of all, or of the user who asks if others are not to be seen.
    Users {
        /// First number of the page.
        from: u32,
    },
    /// Totals.
    Status,
}

/// What the flow manager answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The flow manager will work for this application.
    Welcome {
        /// Links to choose from.
        links: Vec<LinkInfo>,
        /// Flows that its user may have open.
        flows_max: u32,
    },
    /// The driver has made what they share. Descriptors: control-out, control-in, transmit data and receive
    /// data arenas, the application's doorbell, the driver's bell.
    Joined,
    /// The access point is reserved.
    Bound {
        /// With the port filled in.
        local: Sap,
    },
    /// The flow is open.
    Opened {
        /// Its name.
        flow: FlowId,
        /// How to format its packets, if it is attached.
        fib: Option<Fib>,
        /// The contract as admitted.
        contract: Contract,
        /// How late beyond its deadline a guaranteed frame can be, in nanoseconds.
        tardiness_ns: u64,
    },
    /// The flow has its ends.
    Attached {
        /// How to format its packets.
        fib: Fib,
    },
    /// The contract is admitted, and holds as soon as what was sent is paid for.
    Adjusted {
        /// The contract as admitted.
        contract: Contract,
        /// How late beyond its deadline a guaranteed frame can be, in nanoseconds.
        tardiness_ns: u64,
    },
    /// The flow is gone and its memory is free.
    Closed {
        /// What it used altogether.
        bill: Bill,
    },
    /// The way to the host is known.
    Resolved {
        /// Next hop on the link.
        mac: Mac,
        /// Source address to use.
        source: IpAddr,
        /// Link to use.
        link: u16,
        /// Largest IP packet that is known to get there, if it is smaller than what the link carries.
        path_mtu: Option<u16>,
    },
    /// What was looked for.
    Found(QueryReply),
    /// It is done.
    Done,
    /// It was not done.
    Refused(Refusal),
    /// Not an answer (tag 0): the way to the flow's remote end has changed, and so has what the
    /// flow may send: format packets by `fib` from now on (paper §3.2).
    Reorganised {
        /// How to format its packets.
        fib: Fib,
    },
    /// Not an answer (tag 0): the link carries packets of another size from now on, and so do all the
    /// application's flows on it. Larger ones are refused by the driver.
    Carries {
        /// Number of the link in [`Reply::Welcome`].
        link: u16,
        /// Largest IP packet, in bytes; never more than the `mtu_max` of the link.
        mtu: u16,
        /// Largest IP packet that may be handed to the driver, in bytes.
        unit_bytes: u16,
    },
    /// Not an answer (tag 0): a SYN opens a connection anew that this host still remembers (RFC 9293
    /// MAY-2). The listener is to answer it as if it had arrived at its flow.
    Reopened {
        /// The listener's flow.
        flow: FlowId,
        /// Who calls.
        remote: Sap,
        /// The station it came from.
        station: Mac,
        /// TCP header and options of the SYN; the checksum was right.
        header: Vec<u8>,
        /// The new connection's numbers begin here or above: they tell its segments from those of the
        /// old one.
        above: u32,
    },
    /// Not an answer (tag 0): somebody else who may has changed the flow's contract.
    Recontracted {
        /// Which flow.
        flow: FlowId,
        /// The contract as admitted; it holds as soon as what was sent is paid for.
        contract: Contract,
    },
    /// Not an answer (tag 0): a flow was closed by the driver or the flow manager.
    Lost {
        /// Which flow.
        flow: FlowId,
        /// Why, in a clause.
        reason: String,
    },
}

/// Answers to [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryReply {
    /// Links.
    Links(Vec<LinkInfo>),
    /// Routes.
    Routes(Vec<RouteInfo>),
    /// Neighbours.
    Neighbours(Vec<NeighbourInfo>),
    /// A page of flows, and where the next page begins.
    Flows {
        /// Flows in order of their index.
        flows: Vec<FlowInfo>,
        /// First index of the next page, or `None` if this is the last.
        next: Option<u32>,
    },
    /// A page of users, and where the next page begins.
    Users {
        /// Users in order of their number: all, or who asks if others are not to be seen.
        users: Vec<UserInfo>,
        /// First number of the next page, or `None` if this is the last.
        next: Option<u32>,
    },
    /// Totals.
    Status(StatusInfo),
}

/// A link with a driver, and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// The number by which requests name it.
    pub link: u16,
    /// What the driver told.
    pub facts: base_flow::LinkFacts,
    /// Our addresses on it.
    pub addresses: Vec<Prefix>,
    /// Density promised to flows, in parts per million.
    pub promised_ppm: u64,
    /// Density that may be promised, in parts per million.
    pub promisable_ppm: u64,
    /// The link's own bill: frames of no flow, and the driver's time.
    pub bill: Bill,
    /// Time the line stood still because the driver could not run, in nanoseconds.
    pub stall_ns: u64,
    /// Processor time the driver has used, in nanoseconds.
    pub driver_ns: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteInfo {
    /// Destinations.
    pub prefix: Prefix,
    /// Router, or `None` if they are on the link.
    pub gateway: Option<IpAddr>,
    /// Name of the link.
    pub link: String,
}

/// How much is known of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeighbourState {
    /// Asked, not answered yet.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Answered some time ago; asked again on next use.
    Stale,
    /// Did not answer.
    Failed,
}

/// An entry of the neighbour cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its station, if known.
    pub mac: Option<Mac>,
    /// How much is known.
    pub state: NeighbourState,
    /// Since when, in milliseconds.
    pub age_ms: u64,
    /// Name of the link.
    pub link: String,
}

/// A flow and its bill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// Its name.
    pub flow: FlowId,
    /// Its ends, if attached.
    pub endpoints: Option<Endpoints>,
    /// Its contract.
    pub contract: Contract,
    /// Name of the link.
    pub link: String,
    /// Owner: process.
    pub pid: i32,
    /// Owner: user.
    pub uid: u32,
    /// What it used, if the asker may know.
    pub bill: Option<Bill>,
}

/// Connections, flows and memory of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// The kernel's number of the user.
    pub uid: u32,
    /// Connected applications.
    pub connections: u32,
    /// Flows, those included that are closed and not paid for yet.
    pub flows: u32,
    /// Memory that the channels of open flows come to, in bytes.
    pub laid_out_bytes: u64,
    /// Memory of the arenas that the user's applications share with drivers, in bytes: real pages.
    pub held_bytes: u64,
    /// Limit of either for the user, in bytes.
    pub memory_bytes: u64,
}

/// Totals of the flow manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Connected applications.
    pub clients: u32,
    /// Open flows, the flow manager's own included.
    pub flows: u32,
    /// Reserved access points.
    pub ports: u32,
    /// Neighbour cache entries.
    pub neighbours: u32,
    /// ARP requests answered.
    pub arp_answered: u64,
    /// Stations that claimed one of our addresses.
    pub conflicts: u64,
    /// Echo requests answered.
    pub echo_answered: u64,
    /// Port-unreachable messages sent.
    pub unreachable_sent: u64,
    /// TCP resets sent.
    pub resets_sent: u64,
    /// Replies not sent because of the rate limit.
    pub replies_suppressed: u64,
    /// How often the flow manager's own flows on a link were lost, and opened again.
    pub last_resorts_lost: u64,
}

/// Why the flow manager did not do it, and what to do about that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The message could not be read; the connection is closed.
    #[error("message refused: {0}")]
    Message(String),
    /// The application shares no arenas with the link's driver, or no longer does.
    #[error("link {link} was not joined, or its driver has gone since: join it")]
    NotJoined {
        /// The link.
        link: u16,
    },
    /// Requests came in the wrong order.
    #[error("{0}")]
    Order(String),
    /// The descriptors beside the message are not the right ones.
    #[error("descriptors refused: {0}")]
    Descriptors(String),
    /// The contract means nothing on any link.
    #[error("contract refused: {0}")]
    Contract(InvalidContract),
    /// The slice is shorter than the longest frame, so a period could pass without one.
    #[error(
        "slice of {} is shorter than a full frame of {}: {}", Ms(*slice_ns), Ms(*frame_ns), Offer(*offer)
    )]
    SliceTooShort {
        /// Asked for.
        slice_ns: u64,
        /// Charge of the longest frame, in nanoseconds.
        frame_ns: u64,
        /// What would be admitted.
        offer: Option<Contract>,
    },
    /// The link has promised too much already.
    #[error(
        "guarantee needs {} of the link, {} are left: {}", Percent(*needed_ppm), Percent(*left_ppm), Offer(*offer)
    )]
    OverAllocation {
        /// Density asked for, in parts per million.
        needed_ppm: u64,
        /// Density left.
        left_ppm: u64,
        /// What would be admitted.
        offer: Option<Contract>,
    },
    /// Policy allows this user no such guarantee.
    #[error(
        "policy: guarantee needs {} of the link, this user may have {} (more): {}",
        Percent(*needed_ppm), Percent(*left_ppm), Offer(*offer)
    )]
    OverAllowance {
        /// Density asked for, in parts per million.
        needed_ppm: u64,
        /// What of his right the user has left.
        left_ppm: u64,
        /// What would be admitted.
        offer: Option<Contract>,
    },
    /// Policy allows this user less.
    #[error("policy: {0}")]
    Policy(String),
    /// Someone has the access point.
    #[error("{transport} {sap} is in use: choose another port, or 0 for a free one")]
    InUse {
        /// The protocol.
        transport: Transport,
        /// The access point.
        sap: Sap,
    },
    /// No free port is left.
    #[error("no free {transport} port is left")]
    NoFreePort {
        /// The protocol.
        transport: Transport,
    },
    /// The address is not one of ours.
    #[error("{address} is not an address of this host")]
    NotOurAddress {
        /// The address.
        address: IpAddr,
    },
    /// No route leads to the host.
    #[error("no route to {address}: {}", way_to(address))]
    NoRoute {
        /// The host.
        address: IpAddr,
    },
    /// Port 0 stands for any port, and no other end is at any.
    #[error("port 0 is nobody's: name the {transport} port of the other end")]
    NoRemotePort {
        /// The protocol.
        transport: Transport,
    },
    /// The address is a group's or everybody's, and two are connected (RFC 9293 MUST-46).
    #[error("{address} is the address of many hosts, and TCP connects to one: give a host's")]
    ForMany {
        /// The address.
        address: IpAddr,
    },
    /// The way to the host leads over another link.
    #[error("the way to {address} leads over link {link}: open the flow there")]
    OtherLink {
        /// The host.
        address: IpAddr,
        /// The link to use.
        link: u16,
    },
    /// The next hop does not answer ARP.
    #[error("{address} does not answer: is the host up and on this link?")]
    Unreachable {
        /// The next hop.
        address: IpAddr,
    },
    /// Not implemented for this family of addresses.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// No such flow of this application.
    #[error("no such flow")]
    UnknownFlow,
    /// No such link, or its driver is not connected.
    #[error(
        "link {link} has no driver: start `plumb driver`, anew if it served another flow manager"
    )]
    NoLink {
        /// Index asked for.
        link: u16,
    },
    /// The driver refused.
    #[error("driver: {0}")]
    Driver(crate::InstallError),
    /// A quota is used up.
    #[error("quota: {0}")]
    Quota(String),
}

impl Refusal {
    /// Why a guarantee that was asked for is not given, and what would be.
    pub fn guarantee(asked: &Contract, refused: Refused) -> Self {
        let offer = refused.offer;
        match refused.reason {
            Reason::SliceTooShort { frame_ns } => {
                Self::SliceTooShort { slice_ns: asked.slice_ns, frame_ns, offer }
            }
            Reason::OverAllocation { needed_ppm, left_ppm } => {
                Self::OverAllocation { needed_ppm, left_ppm, offer }
            }
            Reason::OverAllowance { needed_ppm, left_ppm } => {
                Self::OverAllowance { needed_ppm, left_ppm, offer }
            }
        }
    }
}

/// What would be admitted, in the notation one types.
struct Offer(Option<Contract>);

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offer) => write!(f, "{} would be admitted", offer.options()),
            None => f.write_str("no guarantee would be admitted now, only --slack"),
        }
    }
}

/// Parts per million as per cent.
struct Percent(u64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        write!(f, "{} %", digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What would help who wants to go where no route leads.
fn way_to(address: &IpAddr) -> &'static str {
    match address {
        IpAddr::V6(_) => "nothing here speaks IPv6 yet",
        // RFC 1122 3.2.1.3.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "it means no host",
        IpAddr::V4(v4) if v4.is_loopback() => {
            "that is the kernel's own; programs of this host are reached at Plumb's addresses"
        }
        IpAddr::V4(v4) if v4.is_multicast() => {
            "nothing says on which link its group is: add a gateway, over which groups go too"
        }
        IpAddr::V4(_) => "add a gateway, or use an address of a connected network",
    }
}
