//! UDP sockets.
//!
//! A socket at one address has a flow. One at any address has a flow on each link, and a datagram leaves on the
//! one that leads to its destination ([`doors`]). No call waits for a neighbour ([`hops`]). What routers and
//! hosts say of datagrams is told as `std::net::UdpSocket` tells it ([`troubles`]).

mod buffers;
mod courier;
mod door;
mod doors;
mod hops;
mod sending;
mod troubles;
mod turning;
mod waiting;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use base_flow::{Bill, Contract, Endpoints, Fib, FlowId};
use base_rpc::Refusal;
use rbuf_channel::Wait;
use rbuf_shm::monotonic_ns;
use stack_layer::{Control, Layer as _};

pub use self::buffers::{Datagram, SendBuffer};
use self::door::Side;
use self::doors::Doors;
use self::hops::Hops;
use self::troubles::{PATH_NS, Troubles};
use crate::options::first;
use crate::tcp::last_words::Errand;
use crate::{Error, Host, Options};

/// A UDP socket with its own stack, its own buffers and its own contract.
///
/// The methods are those of `std::net::UdpSocket`, and it can be used from several threads.
/// Dropping it closes its flows; what was sent leaves. A socket at any address receives on every link, and has
/// its contract on each.
#[derive(Debug)]
pub struct Udp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    options: Options,
    doors: RwLock<Arc<Doors>>,
    /// The door that is looked at first, so that none is always last.
    turn: AtomicUsize,
    hops: Mutex<Hops>,
    /// Some way was found, or some datagram that waited has left.
    moved: Condvar,
    /// Whether a thread sends what waits.
    has_courier: AtomicBool,
    /// Whether a thread turns the flows to whom the socket is connected; the number of the connection to which they
    /// are turned, or could not be, and why not.
    has_turner: AtomicBool,
    turned: AtomicU64,
    refused: Mutex<Option<(u64, Refusal)>>,
    /// The end of the process waits for what is held.
    errand: Mutex<Option<Errand>>,
    troubles: Mutex<Troubles>,
    /// Whether anything was ever said of a datagram.
    is_troubled: AtomicBool,
    wait: Wait,
    nonblocking: AtomicBool,
    read_timeout_ns: AtomicU64,
    write_timeout_ns: AtomicU64,
    damaged: AtomicU64,
}

/// For ever.
const NEVER: u64 = u64::MAX;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Udp {
    /// Options for a socket: contract, buffers, waiting.
    pub fn options() -> Options {
        Options::new()
    }

    /// A best-effort socket that receives from anyone at `local`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn bind(local: impl ToSocketAddrs) -> Result<Self, Error> {
        Options::new().bind(local)
    }

    pub(crate) fn open(options: &Options, endpoints: Endpoints) -> Result<Self, Error> {
        let host = options.chosen_host()?;
        let doors = Doors::open(&host, options, endpoints)?;
        let inner = Inner {
            doors: RwLock::new(Arc::new(doors)),
            turn: AtomicUsize::new(0),
            hops: Mutex::default(),
            moved: Condvar::new(),
            has_courier: AtomicBool::new(false),
            has_turner: AtomicBool::new(false),
            turned: AtomicU64::new(0),
            refused: Mutex::default(),
            errand: Mutex::default(),
            troubles: Mutex::default(),
            is_troubled: AtomicBool::new(false),
            wait: options.wait,
            nonblocking: AtomicBool::new(false),
            read_timeout_ns: AtomicU64::new(NEVER),
            write_timeout_ns: AtomicU64::new(NEVER),
            damaged: AtomicU64::new(0),
            options: options.clone(),
            host,
        };
        if let Some(remote) = endpoints.remote {
            let path_mtu = inner.doors().main().desk().fib().path_mtu;
            inner.learn_path(remote.address, path_mtu, PATH_NS);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The flow's name, as `plumb flows` shows it; of the first one if there are several.
    pub fn flow_id(&self) -> FlowId {
        self.inner.doors().main().desk().flow.id()
    }

    /// How packets are formatted; on the first link if there are several.
    pub fn fib(&self) -> Fib {
        *self.inner.doors().main().desk().fib()
    }

    /// Our end.
    pub fn local_addr(&self) -> SocketAddr {
        self.fib().endpoints.local.into()
    }

    /// The other end, if the socket is connected.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.doors().remote().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The contract as admitted.
    pub fn contract(&self) -> Contract {
        self.inner.host.hear_notices();
        self.inner.doors().main().shared.contract()
    }

    /// Asks for another contract, on each link; it holds as soon as what was sent
    /// is paid for.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the present contract stays on that link and the rest then.
    pub fn adjust(&self, contract: Contract) -> Result<Contract, Error> {
        let mut admitted = contract;
        for door in self.inner.doors().all() {
            admitted = door.shared.adjust(contract)?;
        }
        Ok(admitted)
    }

    /// Connects the socket to `remote`, or to another one: from now on packets go there and come
    /// only from there. It is not waited for the host to say where it is, and for nothing if the socket does not
    /// wait: the next call says what is wrong. What the socket was told of others before, it still tells, as
    /// a kernel's does.
    ///
    /// The flow manager and the driver hear of it in the background. Until they have, it is this side that
    /// takes nothing from others; what it threw away stands in the flow's bill ([`DropReason::Stranger`](crate::DropReason)).
    ///
    /// # Errors
    ///
    /// `NetworkUnreachable` or `HostUnreachable` if it is known that no way leads to there, and what the flow manager
    /// says, if the socket waits: it stays as it was then.
    pub fn connect(&self, remote: impl ToSocketAddrs) -> Result<(), Error> {
        Inner::turn_to(&self.inner, Some(first(remote)?))
    }

    /// Connects the socket to nobody: it receives from anyone and sends to anyone again, at the address and the port
    /// that it was bound to, or had when it was opened. (A kernel's `connect` to `AF_UNSPEC`.)
    ///
    /// # Errors
    ///
    /// What the flow manager says, if the socket waits: another application may have got the port at another of our
    /// addresses meanwhile.
    pub fn disconnect(&self) -> Result<(), Error> {
        Inner::turn_to(&self.inner, None)
    }

    /// Never wait: operations that would have to fail with `WouldBlock`.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.inner.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// Waits for packets no longer than this; `None` for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.inner.read_timeout_ns.store(nanos(timeout), Ordering::Relaxed);
    }

    /// Waits for buffers no longer than this; `None` for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.inner.write_timeout_ns.store(nanos(timeout), Ordering::Relaxed);
    }

    /// Largest payload of a datagram, as far as is known: on each link and, if the socket is connected, on the
    /// path.
    pub fn payload_bytes_max(&self) -> usize {
        let doors = self.inner.doors();
        let link = doors.all().iter().map(|door| door.payload_bytes_max()).min();
        let path = doors.remote().map_or(usize::MAX, |to| self.inner.path_payload(to));
        link.unwrap_or(0).min(path)
    }

    /// Largest IP packet that is thought to reach `destination`, in bytes: what the link carries, or less if a
    /// router has said so in the last ten minutes (RFC 1191), to this socket or, before this one first sent there,
    /// to another socket or connection of the same user.
    ///
    /// # Errors
    ///
    /// If an address is given that cannot be understood.
    pub fn path_mtu(&self, destination: impl ToSocketAddrs) -> Result<u16, Error> {
        let to = first(destination)?.ip();
        let mtu = self.fib().mtu;
        Ok(lock(&self.inner.troubles).path(to, monotonic_ns()).map_or(mtu, |path| path.min(mtu)))
    }

    /// Received packets that were damaged or not for us, and sent ones that the driver refused.
    pub fn errors(&self) -> (u64, u64) {
        let mut sum = (self.inner.damaged.load(Ordering::Relaxed), 0);
        for door in self.inner.doors().all() {
            let desk = door.desk();
            sum = (sum.0 + desk.stack.damaged(), sum.1 + desk.rejected);
        }
        sum
    }

    /// The error that the next call would return, if the socket is connected and a router or the peer has
    /// reported one: once.
    ///
    /// # Errors
    ///
    /// If the flow was lost.
    pub fn take_error(&self) -> Result<Option<io::Error>, Error> {
        self.inner.hear_controls()?;
        Ok(lock(&self.inner.troubles).take_error().map(io::Error::from))
    }

    /// The oldest message of a router, a host or this host about a datagram, whether the socket is connected or
    /// not: to whom it was, and what became of it. Sixty-four are kept (Linux's `IP_RECVERR`).
    ///
    /// # Errors
    ///
    /// If the flow was lost.
    pub fn take_control(&self) -> Result<Option<Control>, Error> {
        self.inner.hear_controls()?;
        Ok(lock(&self.inner.troubles).take())
    }

    /// Sends a datagram to whom the socket is connected.
    ///
    /// # Errors
    ///
    /// `NotConnected` if it is not; `EMSGSIZE` if the datagram is too long for what the link and the path carry
    /// now; `WouldBlock` if there is no buffer and waiting is not wanted; `NotConnected` if the flow was
    /// lost; what a router or the peer has said of an earlier one, as `ConnectionRefused`: then this one was
    /// not sent. A datagram that is sent before this socket has heard of a smaller link is dropped by the
    /// driver, and counted by [`Self::errors`].
    pub fn send(&self, payload: &[u8]) -> io::Result<usize> {
        Ok(Inner::send(&self.inner, payload)?)
    }

    /// Sends a datagram to `destination`. It is never waited for the host to say where it is: the datagram
    /// waits for that, and if the host does not answer, [`Self::take_control`] says so, and for a second
    /// sending there fails.
    ///
    /// # Errors
    ///
    /// As [`Self::send`]; `NetworkUnreachable` or `HostUnreachable` if no way leads to there; `WouldBlock` also if
    /// as much as can waits for the way.
    pub fn send_to(&self, payload: &[u8], destination: impl ToSocketAddrs) -> io::Result<usize> {
        Ok(Inner::send_to(&self.inner, payload, first(destination)?)?)
    }

    /// A buffer in which to write a datagram where it will be sent from, for a connected socket.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn buffer(&self) -> io::Result<SendBuffer<'_>> {
        Ok(Inner::connected_buffer(&self.inner)?)
    }

    /// Receives a datagram; what does not fit into `out` is lost.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none comes in time; `NotConnected` if the flow was lost; if the socket is connected, what
    /// a router or the peer has said of a datagram that was sent, as `ConnectionRefused`.
    pub fn recv_from(&self, out: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let mut datagram = self.datagram()?;
            match datagram.read(out) {
                Some(bytes) => return Ok((bytes, datagram.from())),
                // Damaged: as if it had never come.
                None => self.inner.damaged.fetch_add(1, Ordering::Relaxed),
            };
        }
    }

    /// Receives a datagram from whom the socket is connected to.
    ///
    /// # Errors
    ///
    /// As [`Self::recv_from`].
    pub fn recv(&self, out: &mut [u8]) -> io::Result<usize> {
        self.recv_from(out).map(|(bytes, _)| bytes)
    }

    /// Receives a datagram where the driver put it; its buffer is given back when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::recv_from`].
    pub fn datagram(&self) -> io::Result<Datagram<'_>> {
        let (door, packet) = self.inner.wait_on(Side::Receive, None, |door, desk| {
            let packet = desk.receive_from(self.inner.doors().remote(), &door.shared)?;
            Ok(packet.map(|packet| (Arc::clone(door), packet)))
        })?;
        Ok(Datagram::new(door, packet))
    }

    /// Closes the socket when everything that it sent has left, and returns what its flows used altogether.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn close(self) -> Result<Bill, Error> {
        self.inner.close()
    }
}

fn nanos(timeout: Option<Duration>) -> u64 {
    timeout.map_or(NEVER, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(NEVER - 1))
}
