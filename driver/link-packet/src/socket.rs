//! The socket: opened, bound to one interface, mapped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use base_wire::FRAME_BYTES_MIN;
use driver_filter::Checked;
use driver_link::{Arrival, Facts, Link};
use driver_netlink::{Netlink, NetlinkError};
use rbuf_channel::Data;

use crate::bulk::Bulk;
use crate::ring::Ring;
use crate::send::Batch;

/// Slots of the receive ring: what arrives while the driver is kept from the processor waits there.
/// 2.7 ms of the smallest frames at a gigabit, 24 ms at what a kernel can send to itself.
const RING_SLOTS: usize = 4096;

/// Bytes the kernel may queue for sending: more than a batch of the largest frames.
const SEND_BYTES: usize = 1 << 20;

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The interface cannot be looked up.
    #[error(transparent)]
    Interface(#[from] NetlinkError),
    /// The interface is down.
    #[error("interface {0} is down: bring it up with `ip link set {0} up`")]
    Down(String),
    /// The MTU is more than a header can say.
    #[error("interface {name} has an MTU of {mtu}: at most 65535 is possible")]
    Mtu {
        /// The interface.
        name: String,
        /// Its MTU.
        mtu: u32,
    },
    /// The kernel does not permit packet sockets.
    #[error(
        "packet sockets need CAP_NET_RAW: run as root, `setcap cap_net_raw+ep` the program, or try `plumb lab`"
    )]
    Permission,
    /// Some other refusal.
    #[error("{call}: {source}")]
    Os {
        /// What was attempted.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn os(call: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| {
        if source.kind() == io::ErrorKind::PermissionDenied {
            OpenError::Permission
        } else {
            OpenError::Os { call, source }
        }
    }
}

/// A network interface through a packet socket.
pub struct PacketLink {
    // Dropped before the socket it maps.
    ring: Ring,
    batch: Batch,
    socket: OwnedFd,
    /// Sends through a socket of its own, which can ask for segmentation; where the kernel does not
    /// offer that, through the other.
    sender: Option<OwnedFd>,
    facts: Facts,
}

impl PacketLink {
    /// Opens the interface called `name`; with `vlan`, only that VLAN of it.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; each says what to do.
    pub fn open(name: &str, vlan: Option<u16>) -> Result<Self, OpenError> {
        Self::open_with_ring(name, vlan, RING_SLOTS)
    }

    /// As [`Self::open`], with a receive ring of at least `slots`, for a reader that sleeps longer
    /// than a driver may.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with_ring(name: &str, vlan: Option<u16>, slots: usize) -> Result<Self, OpenError> {
        let interface = Netlink::open()?.interface(name)?;
        if !interface.up {
            return Err(OpenError::Down(name.to_string()));
        }
        let mtu = u16::try_from(interface.mtu)
            .map_err(|_| OpenError::Mtu { name: name.to_string(), mtu: interface.mtu })?;
        let mut facts = Facts { station: interface.mac, mtu, unit_bytes: mtu, vlan };
        let socket = packet_socket().map_err(os("socket(AF_PACKET)"))?;
        let on: libc::c_int = 1;
        set_option(&socket, libc::PACKET_IGNORE_OUTGOING, &on)
            .map_err(os("PACKET_IGNORE_OUTGOING"))?;
        let ring =
            Ring::map(&socket, slots, facts.frame_bytes_max() + 4).map_err(os("PACKET_RX_RING"))?;
        bind(&socket, interface.index, libc::ETH_P_ALL as u16).map_err(os("bind"))?;
        // Tags are not among what kernels are known to cut well.
        let sender = if vlan.is_none() { segmenting(interface.index).ok() } else { None };
        if sender.is_some() {
            facts.unit_bytes = UNIT_BYTES;
        }
        // More than the limit for everybody is only for the privileged; a smaller buffer only
        // means smaller batches.
        let sends = sender.as_ref().unwrap_or(&socket);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(sends, SEND_BYTES);
        // An interface with a queue pushes back, which a socket heeds and a program does not hear in time.
        let has_queue = interface.queue != NO_QUEUE;
        let bulk = match vlan {
            None if !has_queue => Bulk::open(interface.index, facts.frame_bytes_max()).ok(),
            _ => None,
        };
        let batch = Batch::new(sender.is_some(), has_queue, bulk);
        Ok(Self { ring, batch, socket, sender, facts })
    }
}

/// Whether this process may load the program that sends in bulk, and the kernel takes it.
///
/// # Errors
///
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` outside any user namespace; others on old kernels.
pub fn bulk_is_possible() -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    Bulk::open(LOOPBACK, FRAME_BYTES_MIN).map(drop)
}

/// The queueing discipline of interfaces that have none.
const NO_QUEUE: &str = "noqueue";

/// Largest IP packet that the kernel cuts.
const UNIT_BYTES: u16 = u16::MAX;

fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned by the kernel and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A socket that only sends, and whose frames begin with what is to be done to them
/// (`PACKET_VNET_HDR`).
fn segmenting(index: u32) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    let on: libc::c_int = 1;
    set_option(&socket, libc::PACKET_VNET_HDR, &on)?;
    // No protocol: nothing arrives here.
    bind(&socket, index, 0)?;
    Ok(socket)
}

impl PacketLink {
    /// Whether stretches of frames leave in one pass of the kernel. If not, the interface has a queue or a
    /// VLAN, or [`bulk_is_possible`] says why.
    pub const fn sends_in_bulk(&self) -> bool {
        self.batch.sends_in_bulk()
    }

    /// As [`Link::poll_rx`], with the time at which the kernel saw each frame: nanoseconds of the
    /// realtime clock.
    pub fn poll_stamped(
        &mut self,
        budget: usize,
        sink: &mut impl FnMut(Arrival<'_>, u64),
    ) -> usize {
        self.ring.poll(budget, sink)
    }
}

impl AsFd for PacketLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link for PacketLink {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        self.ring.poll(budget, &mut |arrival, _| sink(arrival))
    }

    fn room(&self) -> usize {
        self.batch.room()
    }

    fn transmit<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool {
        self.batch.push(frame)
    }

    fn flush(&mut self) {
        self.batch.flush(self.sender.as_ref().unwrap_or(&self.socket));
    }

    fn complete(&mut self, done: &mut impl FnMut(bool)) {
        self.batch.complete(done);
    }

    fn is_congested(&self) -> bool {
        !self.batch.is_empty()
    }

    fn take_overflow(&mut self) -> u64 {
        if !std::mem::take(&mut self.ring.losing) {
            return 0;
        }
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `stats`, which is that large.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result == 0 { stats.tp_drops.into() } else { 0 }
    }
}

/// Sets an option of the packet layer.
pub(crate) fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds to `protocol` of interface `index`: from now on its frames arrive, if it is not 0.
fn bind(socket: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads `size_of::<sockaddr_ll>()` bytes of `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
