//! The socket: opened, bound to one interface, mapped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use base_wire::{ETHERNET_BYTES, FRAME_BYTES_MIN, IPV6_BYTES, Mac, VLAN_TAG_BYTES};
use driver_filter::Checked;
use driver_link::{Arrival, Facts, Link, Polled};
use driver_netlink::{Netlink, NetlinkError};
use rbuf_channel::Data;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::bulk::Bulk;
use crate::ring::{Ring, Shape};
use crate::send::Batch;
use crate::vnet::VirtioNetHdr;

/// Slots of the receive ring: what arrives while the driver is kept from the processor waits there.
/// 2.7 ms of the smallest frames at a gigabit, 24 ms at what a kernel can send to itself.
const RING_SLOTS: usize = 4096;

/// Slots of the ring for frames that are too long for the other: 18 MB, for 1.5 ms of what a kernel can
/// send to itself in frames of 64 KiB.
const WIDE_SLOTS: usize = 256;

/// Longest frame that the kernel makes unless it is told to merge more: an IP packet of 64 KiB.
const MERGED_BYTES_MAX: usize = ETHERNET_BYTES + VLAN_TAG_BYTES + IPV6_BYTES + u16::MAX as usize;

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
    /// Its frames are not Ethernet's.
    #[error(
        "interface {name} has no Ethernet frames between stations (its type is {hardware}, its address {mac}; one without ARP, as a dummy, has none either): give an Ethernet interface, such as a network card, veth, a bridge or a tap device"
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// What its frames are (`ARPHRD_…` of `if_arp.h`).
        hardware: u16,
        /// Its address.
        mac: Mac,
    },
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
    /// Frames as a wire carries them, and those that are longer: merged ones.
    narrow: Receiver,
    wide: Receiver,
    batch: Batch,
    sender: OwnedFd,
    facts: Facts,
}

/// A socket that receives, and its ring.
struct Receiver {
    // Dropped before the socket it maps.
    ring: Ring,
    socket: OwnedFd,
}

/// Which frames a socket receives, by their length.
#[derive(Clone, Copy)]
enum Lengths {
    UpTo(usize),
    Above(usize),
}

impl Receiver {
    fn open(index: u32, shape: Shape, lengths: Lengths) -> Result<Self, OpenError> {
        let socket = packet_socket().map_err(os("socket(AF_PACKET)"))?;
        let on: libc::c_int = 1;
        set_option(&socket, libc::PACKET_IGNORE_OUTGOING, &on)
            .map_err(os("PACKET_IGNORE_OUTGOING"))?;
        let ring = Ring::map(&socket, shape).map_err(os("PACKET_RX_RING"))?;
        admit(&socket, lengths).map_err(os("SO_ATTACH_FILTER"))?;
        bind(&socket, index, libc::ETH_P_ALL as u16).map_err(os("bind"))?;
        Ok(Self { ring, socket })
    }

    /// Frames lost since the last call.
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

/// Lets only frames of these `lengths` into a socket.
fn admit(socket: &OwnedFd, lengths: Lengths) -> io::Result<()> {
    const LOAD_LENGTH: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16;
    const IF_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ALL: u32 = u32::MAX;
    let (limit, short, long) = match lengths {
        Lengths::UpTo(limit) => (limit, ALL, 0),
        Lengths::Above(limit) => (limit, 0, ALL),
    };
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD_LENGTH, 0, 0, 0),
        step(IF_ABOVE, 0, 1, limit as u32),
        step(RETURN, 0, 0, long),
        step(RETURN, 0, 0, short),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    set_option_of(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
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
        if !interface.is_ethernet() {
            let (hardware, mac) = (interface.hardware, interface.mac);
            return Err(OpenError::NotEthernet { name: name.to_string(), hardware, mac });
        }
        if !interface.up {
            return Err(OpenError::Down(name.to_string()));
        }
        let mtu = u16::try_from(interface.mtu)
            .map_err(|_| OpenError::Mtu { name: name.to_string(), mtu: interface.mtu })?;
        let mut facts = Facts { station: interface.mac, mtu, unit_bytes: mtu, vlan };
        let shape = Shape::narrow(slots, facts.frame_bytes_max() + VLAN_TAG_BYTES);
        let limit = shape.frame_bytes_max();
        let narrow = Receiver::open(interface.index, shape, Lengths::UpTo(limit))?;
        let shape = Shape::wide(WIDE_SLOTS, MERGED_BYTES_MAX);
        let wide = Receiver::open(interface.index, shape, Lengths::Above(limit))?;
        // A socket of its own sends, which can ask for segmentation where the kernel offers that. Tags are not
        // among what kernels are known to cut well.
        let sender = packet_socket().map_err(os("socket(AF_PACKET)"))?;
        let on: libc::c_int = 1;
        let told = vlan.is_none() && set_option(&sender, libc::PACKET_VNET_HDR, &on).is_ok();
        // No protocol: nothing arrives here.
        bind(&sender, interface.index, 0).map_err(os("bind"))?;
        if told {
            facts.unit_bytes = UNIT_BYTES;
        }
        // More than the limit for everybody is only for the privileged; a smaller buffer only
        // means smaller batches.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&sender, SEND_BYTES);
        // An interface with a queue pushes back, which a socket heeds and a program does not hear in time.
        let has_queue = interface.queue != NO_QUEUE;
        let bulk = match vlan {
            None if !has_queue => Bulk::open(interface.index, facts.frame_bytes_max()).ok(),
            _ => None,
        };
        let batch = Batch::new(told, has_queue, bulk);
        Ok(Self { narrow, wide, batch, sender, facts })
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
        let mut count = 0;
        while count < budget {
            // What one processor receives, it puts into one ring after the other: when a frame is seen in the
            // wide one, those before it can be seen in the narrow one, and are older.
            let wide = self.wide.ring.next_stamp();
            let older = |wide_ns| self.narrow.ring.next_stamp().is_none_or(|ns| wide_ns < ns);
            let ring =
                if wide.is_some_and(older) { &mut self.wide.ring } else { &mut self.narrow.ring };
            match ring.take(sink) {
                0 => break,
                frames => count += frames,
            }
        }
        count
    }

    /// Sends a frame as it arrived elsewhere, whoever it is from: for what stands between two links. A driver
    /// sends what was checked.
    ///
    /// # Errors
    ///
    /// Such as `EAGAIN`, if there is no room, and `EINVAL`, if what is said of the frame makes no sense.
    pub fn forward(&self, arrival: &Arrival<'_>) -> io::Result<()> {
        let vnet_hdr = VirtioNetHdr::again(arrival).to_bytes();
        let vnet_hdr = if self.batch.is_told() { &vnet_hdr[..] } else { &[] };
        let pieces = [io::IoSlice::new(vnet_hdr), io::IoSlice::new(arrival.frame)];
        let flags = SendFlags::DONTWAIT;
        sendmsg(&self.sender, &pieces, &mut SendAncillaryBuffer::default(), flags)?;
        Ok(())
    }
}

impl Polled for PacketLink {
    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.narrow.socket.as_fd(), self.wide.socket.as_fd()]
    }
}

impl Link for PacketLink {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        self.poll_stamped(budget, &mut |arrival, _| sink(arrival))
    }

    fn room(&self) -> usize {
        self.batch.room()
    }

    fn transmit<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool {
        self.batch.push(frame)
    }

    fn flush(&mut self) {
        self.batch.flush(&self.sender);
    }

    fn complete(&mut self, done: &mut impl FnMut(bool)) {
        self.batch.complete(done);
    }

    fn is_congested(&self) -> bool {
        !self.batch.is_empty()
    }

    fn take_overflow(&mut self) -> u64 {
        self.narrow.take_overflow() + self.wide.take_overflow()
    }
}

/// Sets an option of the packet layer.
pub(crate) fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    set_option_of(socket, libc::SOL_PACKET, option, value)
}

fn set_option_of<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
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
