//! A TCP listener as `std::net` has it: a door at each of its addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base_flow::FlowId;
use base_rpc::Refusal;
use stack_socket::AcceptQueue;
use stack_tcp::ListenCounts;

use super::door::Door;
use super::stream::{TcpStream, valid_ttl};
use crate::{Error, Host, Options};

/// Listens for TCP connections. The methods are those of `std::net::TcpListener`.
///
/// SYNs are taken by the thread that accepts, or by the service thread of this process while none
/// does, and never by anybody else: who floods this service with them hurts nobody but it. A listener at any
/// address listens at each that this host has, and answers from there. Dropping the last handle resets
/// connections that were not accepted.
#[derive(Debug)]
pub struct TcpListener {
    handle: Arc<Handle>,
}

/// The application's hold on a listener.
#[derive(Debug)]
struct Handle {
    local: SocketAddr,
    /// The one at which threads accept.
    main: Arc<Door>,
    /// Whose connections are accepted there.
    others: Vec<Arc<Door>>,
    /// Who comes to all of them.
    queue: AcceptQueue,
    nonblocking: AtomicBool,
}

/// Connections of a listener, one after the other.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

/// Ports that are tried if each is in use at one of several addresses.
const PORTS_TRIED: usize = 16;

impl TcpListener {
    /// A listener at `local`, whose connections have no contract.
    ///
    /// # Errors
    ///
    /// What the flow manager says: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`.
    pub fn bind(local: impl ToSocketAddrs) -> io::Result<Self> {
        Options::new().listen(local)
    }

    pub(crate) fn open(options: &Options, local: SocketAddr) -> io::Result<Self> {
        let host = options.chosen_host()?;
        let addresses = addresses(&host, local.ip())?;
        for _ in 1..PORTS_TRIED {
            match Self::open_at(options, local, &addresses) {
                // Taken at another address than that which chose it.
                Err(error) if local.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                opened => return opened,
            }
        }
        Self::open_at(options, local, &addresses)
    }

    fn open_at(options: &Options, local: SocketAddr, addresses: &[IpAddr]) -> io::Result<Self> {
        let queue = AcceptQueue::new(options.backlog as usize);
        let (mut main, mut others, mut port) = (None, Vec::new(), local.port());
        for address in addresses {
            let at = SocketAddr::new(*address, port);
            match Door::open(options, at, &queue, main.as_ref()) {
                Ok(door) => {
                    port = door.local.port();
                    match main {
                        None => main = Some(door),
                        Some(_) => others.push(door),
                    }
                }
                // A link without a driver brings nobody.
                Err(Error::Refused(Refusal::NoLink { .. })) if addresses.len() > 1 => {}
                Err(error) => return Err(error.into()),
            }
        }
        let main = main.ok_or_else(|| Error::Address("no link has a driver".into()))?;
        let (local, nonblocking) = (SocketAddr::new(local.ip(), port), AtomicBool::new(false));
        Ok(Self { handle: Arc::new(Handle { local, main, others, queue, nonblocking }) })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.handle.local)
    }

    /// The name of the flow on which SYNs arrive, of the first one if there are several.
    pub fn flow_id(&self) -> FlowId {
        self.handle.main.flow_id()
    }

    /// What happened to SYNs.
    pub fn counts(&self) -> ListenCounts {
        let add = |a: ListenCounts, b: ListenCounts| ListenCounts {
            syns: a.syns + b.syns,
            cookies_sent: a.cookies_sent + b.cookies_sent,
            cookies_accepted: a.cookies_accepted + b.cookies_accepted,
            refused: a.refused + b.refused,
            put_off: a.put_off + b.put_off,
            abandoned: a.abandoned + b.abandoned,
            answers_dropped: a.answers_dropped + b.answers_dropped,
            fast_opens: a.fast_opens + b.fast_opens,
        };
        self.handle.doors().map(Door::counts).fold(ListenCounts::default(), add)
    }

    /// How many connections whose handshake was complete were reset because they could have no flow, and why the
    /// first one could not. A limit that is known before, as [`Host::connect_for`]'s, is met by answering no
    /// more SYNs; one that may pass, by waiting five seconds.
    pub fn turned_away(&self) -> (u64, Option<String>) {
        self.handle.queue.turned_away()
    }

    /// Another handle on the same listener.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { handle: Arc::clone(&self.handle) })
    }

    /// Never wait: [`Self::accept`] fails with `WouldBlock` if nobody waits.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.handle.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// How many routers packets of connections to come may pass.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for 0 and for more than 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = valid_ttl(ttl)?;
        self.handle.doors().for_each(|door| door.set_ttl(ttl));
        Ok(())
    }

    /// What [`Self::set_ttl`] was told.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.handle.main.ttl().into())
    }

    /// Why nobody can be accepted any more, if so: once.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.handle.main.take_error())
    }

    /// A descriptor for `poll` and `epoll` that is readable while [`Self::accept`] would not wait.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn acceptable_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.handle.main.acceptable_fd()
    }

    /// The next connection, and who it is with.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or `NotConnected` if the flow was lost.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let stream = self.handle.main.accept(self.handle.nonblocking.load(Ordering::Relaxed))?;
        let remote = stream.peer_addr()?;
        Ok((stream, remote))
    }

    /// Accepts for ever.
    pub const fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }
}

/// The addresses of this host that `address` means: itself, or all of them.
fn addresses(host: &Host, address: IpAddr) -> Result<Vec<IpAddr>, Error> {
    if address != IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        return Ok(vec![address]);
    }
    host.refresh_links()?;
    let links = host.links();
    let all = links.iter().flat_map(|link| &link.addresses);
    Ok(all.map(|prefix| prefix.address()).filter(IpAddr::is_ipv4).collect())
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl Handle {
    fn doors(&self) -> impl Iterator<Item = &Door> {
        std::iter::once(&self.main).chain(&self.others).map(|door| &**door)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.doors().for_each(Door::close);
    }
}
