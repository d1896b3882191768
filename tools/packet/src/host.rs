//! A host in virtual time: sockets on one side, packets on the other, the engine between them.
//!
//! Nothing waits here: a call that would have to fails with [`Errno::Again`] or
//! [`Errno::InProgress`], and whoever drives the host asks again when time has gone on.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use base_wire::{Header, Icmp, Ipv4, Protocol};
use rbuf_channel::{HeapData, HeapWords};
use stack_socket::{AcceptQueue, ListenSocket, Readiness};
use stack_tcp::{Connection, FastCache, Listener, Opening, Secret, Segment, State, reset_for};
use tools_sim::tcp::{HeapFlow, packet, unwrap};

use crate::endpoint::{Endpoint, flow_options};
use crate::errno::Errno;
use crate::info::Information;
use crate::option::{Choices, SocketOption};
use crate::settings::{FastSettings, Settings};

/// A descriptor.
pub type Fd = i32;

/// Address of a host, where nothing else is said.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

/// Address of who it talks to.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A packet that left the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at_ns: u64,
    /// From the IP header on.
    pub packet: Vec<u8>,
}

/// How far the stream that an application wrote has got, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Was written.
    pub written: u64,
    /// Has left this host.
    pub sent: u64,
    /// Has arrived.
    pub acknowledged: u64,
    /// There is no connection any more.
    pub over: bool,
}

/// A host in virtual time, with the engine in it.
#[derive(Debug)]
pub struct Host {
    now_ns: u64,
    address: Ipv4Addr,
    /// What new sockets begin with.
    pub settings: Settings,
    secret: Secret,
    sockets: BTreeMap<Fd, Socket>,
    /// Connections that the application closed, and that are not over.
    orphans: Vec<Endpoint>,
    /// What is known of hosts that were called.
    fast: FastCache,
    sent: VecDeque<Sent>,
}

#[derive(Debug)]
struct Socket {
    choices: Choices,
    local: Option<(Ipv4Addr, u16)>,
    role: Role,
}

#[derive(Debug)]
enum Role {
    None,
    Listens(Box<Listening>),
    /// It will connect with what is written first.
    Waits((Ipv4Addr, u16)),
    Connects(Box<Endpoint>),
}

#[derive(Debug)]
struct Listening {
    socket: ListenSocket<HeapWords, HeapData, Endpoint, ()>,
    flow: HeapFlow,
    backlog: usize,
}

impl Listening {
    /// A packet arrives; handshakes that it completes have flows at once.
    fn arrive(&mut self, now_ns: u64, packet: &[u8], local: (Ipv4Addr, u16), choices: &Choices) {
        let _ = self.flow.deliver(packet);
        self.socket.receive(now_ns, usize::MAX);
        while let Some(complete) = self.socket.pop_complete() {
            let SocketAddr::V4(to) = complete.remote else { continue };
            let (connection, slot) = complete.into_parts();
            let ends = (local, (*to.ip(), to.port()));
            let mut endpoint = Endpoint::new(now_ns, ends, connection, choices);
            for (segment, payload) in self.socket.joined(to.into(), ()) {
                endpoint.take_copied(now_ns, &segment, &payload);
            }
            let _ = self.socket.push_ready(endpoint, slot);
        }
    }
}

/// Backlog of Linux: one more than was asked for.
const fn accept_queue(backlog: usize) -> usize {
    backlog.saturating_add(1)
}

/// First of the ports that are given to sockets without one.
const PORT_FIRST: u16 = 32_768;

impl Host {
    /// A host with this address, at time 0.
    pub fn new(address: Ipv4Addr, settings: Settings) -> Self {
        Self {
            now_ns: 0,
            address,
            settings,
            secret: Secret::new([7; 16]),
            sockets: BTreeMap::new(),
            orphans: Vec::new(),
            fast: FastCache::default(),
            sent: VecDeque::new(),
        }
    }

    /// Another address from now on.
    pub const fn set_address(&mut self, address: Ipv4Addr) {
        self.address = address;
    }

    /// The present.
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// The oldest packet that left and that nobody has taken.
    pub fn take_sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    /// The same, and it stays.
    pub fn next_sent(&self) -> Option<&Sent> {
        self.sent.front()
    }

    /// A new socket, at the lowest free number from 3 on.
    pub fn socket(&mut self) -> Fd {
        let choices = Choices::new(self.settings.clone());
        self.place(Socket { choices, local: None, role: Role::None })
    }

    fn place(&mut self, socket: Socket) -> Fd {
        let fd = (3..).find(|fd| !self.sockets.contains_key(fd)).unwrap_or(Fd::MAX);
        self.sockets.insert(fd, socket);
        fd
    }

    fn get(&mut self, fd: Fd) -> Result<&mut Socket, Errno> {
        self.sockets.get_mut(&fd).ok_or(Errno::BadDescriptor)
    }

    fn endpoint(&mut self, fd: Fd, otherwise: Errno) -> Result<&mut Endpoint, Errno> {
        match &mut self.get(fd)?.role {
            Role::Connects(endpoint) => Ok(endpoint),
            _ => Err(otherwise),
        }
    }

    /// `bind`.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn bind(&mut self, fd: Fd, port: u16) -> Result<(), Errno> {
        let own = self.address;
        let socket = self.get(fd)?;
        if socket.local.is_some() {
            return Err(Errno::Invalid);
        }
        let port = if port == 0 { self.free_port() } else { port };
        self.get(fd)?.local = Some((own, port));
        Ok(())
    }

    fn free_port(&self) -> u16 {
        let used = |port: u16| {
            self.sockets.values().any(|socket| socket.local.is_some_and(|local| local.1 == port))
                || self.orphans.iter().any(|orphan| orphan.local.1 == port)
        };
        (PORT_FIRST..).find(|port| !used(*port)).unwrap_or(PORT_FIRST)
    }

    /// `listen`.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn listen(&mut self, fd: Fd, backlog: usize) -> Result<(), Errno> {
        if self.get(fd)?.local.is_none() {
            self.bind(fd, 0)?;
        }
        let secret = self.secret.clone();
        let socket = self.get(fd)?;
        let local = socket.local.ok_or(Errno::Invalid)?;
        match &mut socket.role {
            Role::Listens(listening) => {
                listening.backlog = backlog;
                listening.socket.set_backlog(accept_queue(backlog));
            }
            Role::Connects(_) | Role::Waits(_) => return Err(Errno::Invalid),
            role @ Role::None => {
                let config = socket.choices.settings.config.clone();
                let mut listener = Listener::new(address(local), config, secret, backlog.max(1));
                let key = socket.choices.settings.fast_open.key;
                listener.set_fast_open(socket.choices.fast_opening(backlog), key);
                listener.set_defer_ns(socket.choices.defer_ns);
                let (flow, stack, memory) =
                    HeapFlow::new(&flow_options(local, None, &socket.choices));
                let queue = AcceptQueue::new(accept_queue(backlog));
                let config = socket.choices.settings.config.clone();
                let mut listen = ListenSocket::new(stack, memory.rx, listener, config, &queue);
                listen.set_service(socket.choices.type_of_service >> 2);
                *role = Role::Listens(Box::new(Listening { socket: listen, flow, backlog }));
            }
        }
        Ok(())
    }

    /// `accept`: the new socket and who is connected to it.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn accept(&mut self, fd: Fd) -> Result<(Fd, (Ipv4Addr, u16)), Errno> {
        let socket = self.get(fd)?;
        let Role::Listens(listening) = &mut socket.role else { return Err(Errno::Invalid) };
        let endpoint = listening.socket.accept().ok_or(Errno::Again)?;
        let (choices, remote) = (socket.choices.clone(), endpoint.remote);
        let local = Some(endpoint.local);
        let role = Role::Connects(Box::new(endpoint));
        Ok((self.place(Socket { choices, local, role }), remote))
    }

    /// `connect`, which never waits: [`Errno::InProgress`] the first time, then [`Errno::Already`] or how it
    /// went.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn connect(&mut self, fd: Fd, remote: (Ipv4Addr, u16)) -> Result<(), Errno> {
        if let Role::Connects(endpoint) = &mut self.get(fd)?.role {
            return match endpoint.opened() {
                Err(Errno::InProgress) => Err(Errno::Already),
                Err(error) => Err(error),
                Ok(()) => Err(Errno::IsConnected),
            };
        }
        let choices = &self.get(fd)?.choices;
        let fast = choices.fast_connect && choices.settings.fast_open.client;
        let opening = if fast { self.opening(fd, remote)? } else { None };
        let waits = |opening: &Opening| match opening {
            Opening::Option(option) => option.cookie.is_some(),
            Opening::Bare => true,
        };
        if opening.as_ref().is_some_and(|(opening, _)| waits(opening)) {
            let socket = self.get(fd)?;
            return match socket.role {
                Role::None => {
                    socket.role = Role::Waits(remote);
                    Ok(())
                }
                _ => Err(Errno::IsConnected),
            };
        }
        self.begin(fd, remote, opening)?;
        self.transmit();
        Err(Errno::InProgress)
    }

    /// How a connection to `remote` is opened with data.
    fn opening(
        &mut self,
        fd: Fd,
        remote: (Ipv4Addr, u16),
    ) -> Result<Option<(Opening, Option<u16>)>, Errno> {
        let bare = self.get(fd)?.choices.settings.fast_open.client_bare;
        Ok(self.fast.opening(self.now_ns, remote.0.into(), bare))
    }

    /// A connection that is about to send its SYN.
    fn begin(
        &mut self,
        fd: Fd,
        remote: (Ipv4Addr, u16),
        opening: Option<(Opening, Option<u16>)>,
    ) -> Result<(), Errno> {
        if self.get(fd)?.local.is_none() {
            self.bind(fd, 0)?;
        }
        let (now_ns, secret) = (self.now_ns, self.secret.clone());
        let socket = self.get(fd)?;
        let local = socket.local.ok_or(Errno::Invalid)?;
        if matches!(socket.role, Role::Listens(_)) {
            return Err(Errno::IsConnected);
        }
        let config = socket.choices.settings.config.clone();
        let identity = secret.identity(now_ns, address(local), address(remote));
        let mut connection = Connection::connect(now_ns, config, identity);
        if let Some((opening, mss)) = opening {
            connection.open_fast(opening, mss);
        }
        let endpoint = Endpoint::new(now_ns, (local, remote), connection, &socket.choices);
        socket.role = Role::Connects(Box::new(endpoint));
        Ok(())
    }

    /// What is decided about data on SYNs now, for a socket that is there already.
    ///
    /// # Errors
    ///
    /// Without such a descriptor.
    pub fn set_fast_settings(&mut self, fd: Fd, fast: FastSettings) -> Result<(), Errno> {
        let own = &mut self.get(fd)?.choices.settings.fast_open;
        *own = FastSettings { key: own.key.or(fast.key), ..fast };
        Ok(())
    }

    /// Where a socket will connect to when something is written.
    pub fn waits_for(&mut self, fd: Fd) -> Option<(Ipv4Addr, u16)> {
        match self.get(fd).ok()?.role {
            Role::Waits(remote) => Some(remote),
            _ => None,
        }
    }

    /// `sendto` with `MSG_FASTOPEN`: connects, with as much of `bytes` on the SYN as it can carry, and says
    /// how much that is. [`Errno::InProgress`] if it carries none. Who `waits` writes the rest at once.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn connect_with(
        &mut self,
        fd: Fd,
        remote: (Ipv4Addr, u16),
        bytes: &[u8],
        waits: bool,
    ) -> Result<usize, Errno> {
        if !self.get(fd)?.choices.settings.fast_open.client {
            return Err(Errno::NotSupported);
        }
        match self.get(fd)?.role {
            Role::None | Role::Waits(_) => {}
            Role::Listens(_) => return Err(Errno::IsConnected),
            Role::Connects(ref mut endpoint) => {
                endpoint.opened().map_err(|error| match error {
                    Errno::InProgress => Errno::Already,
                    error => error,
                })?;
                return self.write(fd, bytes, false);
            }
        }
        let opening = self.opening(fd, remote)?;
        self.begin(fd, remote, opening)?;
        let endpoint = self.endpoint(fd, Errno::Pipe)?;
        let room = usize::try_from(endpoint.connection().fast_room()).unwrap_or(usize::MAX);
        let taken =
            endpoint.socket.put_on_syn(&bytes[..bytes.len().min(room)]).map_err(|_| Errno::Pipe)?;
        if waits && taken < bytes.len() {
            endpoint.socket.connection_mut().expect_more();
        }
        self.transmit();
        if taken > 0 { Ok(taken) } else { Err(Errno::InProgress) }
    }

    /// Whether a connection that was begun is open.
    ///
    /// # Errors
    ///
    /// [`Errno::InProgress`], or why it failed.
    pub fn connected(&mut self, fd: Fd) -> Result<(), Errno> {
        self.endpoint(fd, Errno::NotConnected)?.opened()
    }

    /// `recv`, with `MSG_PEEK` or without.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn read(&mut self, fd: Fd, out: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let now_ns = self.now_ns;
        if self.waits_for(fd).is_some() {
            return Err(Errno::Again);
        }
        let result = self.endpoint(fd, Errno::NotConnected)?.read(now_ns, out, peek);
        self.transmit();
        result
    }

    /// `send`, with `MSG_MORE` or without.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn write(&mut self, fd: Fd, bytes: &[u8], more: bool) -> Result<usize, Errno> {
        let result = self.endpoint(fd, Errno::Pipe)?.write(bytes, more);
        self.transmit();
        result
    }

    /// `send` with `MSG_EOR`: what is written ends a record.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn write_record(&mut self, fd: Fd, bytes: &[u8]) -> Result<usize, Errno> {
        let endpoint = self.endpoint(fd, Errno::Pipe)?;
        let result = endpoint.write(bytes, false);
        if result == Ok(bytes.len()) {
            endpoint.socket.connection_mut().end_record();
        }
        self.transmit();
        result
    }

    /// `send` with `MSG_OOB`: what is written is urgent.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn write_urgent(&mut self, fd: Fd, bytes: &[u8]) -> Result<usize, Errno> {
        let endpoint = self.endpoint(fd, Errno::Pipe)?;
        let result = endpoint.write(bytes, false);
        if result.is_ok() {
            endpoint.socket.connection_mut().mark_urgent();
        }
        self.transmit();
        result
    }

    /// How far what is to be read is urgent (`SIOCATMARK` and `MSG_OOB` in one).
    ///
    /// # Errors
    ///
    /// Without a connection.
    pub fn urgent_bytes(&mut self, fd: Fd) -> Result<Option<u64>, Errno> {
        Ok(self.endpoint(fd, Errno::NotConnected)?.connection().urgent_bytes())
    }

    /// `shutdown` of reading, writing, or both.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn shut_down(&mut self, fd: Fd, reading: bool, writing: bool) -> Result<(), Errno> {
        let now_ns = self.now_ns;
        let result = self.endpoint(fd, Errno::NotConnected)?.shut_down(now_ns, reading, writing);
        self.transmit();
        result
    }

    /// `close`. The connection goes on without the application until it is over.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn close(&mut self, fd: Fd) -> Result<(), Errno> {
        let socket = self.sockets.remove(&fd).ok_or(Errno::BadDescriptor)?;
        let now_ns = self.now_ns;
        match socket.role {
            Role::None | Role::Waits(_) => {}
            Role::Connects(mut endpoint) => {
                endpoint.socket.close(now_ns, socket.choices.linger_s == Some(0));
                self.orphans.push(*endpoint);
            }
            Role::Listens(mut listening) => {
                for mut endpoint in listening.socket.close().1 {
                    endpoint.socket.close(now_ns, true);
                    self.orphans.push(endpoint);
                }
            }
        }
        self.transmit();
        Ok(())
    }

    /// `setsockopt`.
    ///
    /// # Errors
    ///
    /// As on Linux.
    pub fn set(&mut self, fd: Fd, option: SocketOption) -> Result<(), Errno> {
        let socket = self.get(fd)?;
        socket.choices.set(option);
        match &mut socket.role {
            Role::Connects(endpoint) => {
                endpoint.apply(&socket.choices);
                if option == SocketOption::NoDelay(true) {
                    // As Linux has it: stronger than a cork, once.
                    endpoint.socket.connection_mut().flush();
                }
            }
            Role::Listens(listening) => {
                let opening = socket.choices.fast_opening(listening.backlog);
                listening.socket.set_config(socket.choices.settings.config.clone());
                listening.socket.set_service(socket.choices.type_of_service >> 2);
                let listener = listening.socket.listener_mut();
                listener.set_defer_ns(socket.choices.defer_ns);
                listener.set_fast_open(opening, socket.choices.settings.fast_open.key);
            }
            Role::None | Role::Waits(_) => {}
        }
        self.transmit();
        Ok(())
    }

    /// `SO_ERROR`: the error of the socket, once.
    ///
    /// # Errors
    ///
    /// Without such a descriptor.
    pub fn take_error(&mut self, fd: Fd) -> Result<Option<Errno>, Errno> {
        Ok(match &mut self.get(fd)?.role {
            Role::Connects(endpoint) => endpoint.error(),
            _ => None,
        })
    }

    /// `TCP_INFO`.
    ///
    /// # Errors
    ///
    /// Without such a descriptor.
    pub fn information(&mut self, fd: Fd) -> Result<Information, Errno> {
        let now_ns = self.now_ns;
        let socket = self.get(fd)?;
        let asked = socket.choices.settings.config.mss_max.map_or(536, u64::from);
        Ok(match &socket.role {
            Role::Connects(endpoint) => {
                Information::of(endpoint.connection(), now_ns, endpoint.opened_ns())
            }
            Role::Listens(_) => Information { snd_mss: asked, ..Information::listening() },
            Role::None | Role::Waits(_) => Information { snd_mss: asked, ..Information::closed() },
        })
    }

    /// Bytes that could be read, and bytes that were written and not acknowledged (`SIOCINQ`,
    /// `SIOCOUTQ`).
    ///
    /// # Errors
    ///
    /// Without a connection.
    pub fn queued(&mut self, fd: Fd) -> Result<(u64, u64), Errno> {
        let connection = self.endpoint(fd, Errno::Invalid)?.connection();
        Ok((connection.readable(), connection.unacknowledged()))
    }

    /// How far what was written has got.
    ///
    /// # Errors
    ///
    /// Without a connection.
    pub fn progress(&mut self, fd: Fd) -> Result<Progress, Errno> {
        let endpoint = self.endpoint(fd, Errno::NotConnected)?;
        let connection = endpoint.connection();
        let acknowledged = connection.acknowledged();
        let written = acknowledged + connection.unacknowledged();
        let sent = written - connection.unsent();
        Ok(Progress { written, sent, acknowledged, over: endpoint.is_over() })
    }

    /// What a socket is ready for.
    ///
    /// # Errors
    ///
    /// Without such a descriptor.
    pub fn readiness(&mut self, fd: Fd) -> Result<Readiness, Errno> {
        Ok(match &self.get(fd)?.role {
            Role::Connects(endpoint) => endpoint.readiness(),
            Role::Listens(listening) => listening.socket.readiness(),
            Role::Waits(_) => Readiness::OUT,
            Role::None => Readiness::OUT | Readiness::HUP,
        })
    }

    /// Lets time go on to `to_ns`, or to the next thing that happens by itself before; says whether
    /// something did.
    pub fn step(&mut self, to_ns: u64) -> bool {
        match self.next_deadline().filter(|at| *at <= to_ns) {
            Some(at) => {
                self.now_ns = self.now_ns.max(at);
                self.transmit();
                true
            }
            None => {
                self.now_ns = self.now_ns.max(to_ns);
                false
            }
        }
    }

    /// When something happens by itself.
    pub fn next_deadline(&self) -> Option<u64> {
        let listening = self.sockets.values().filter_map(|socket| match &socket.role {
            Role::Listens(listening) => listening.socket.next_deadline(self.now_ns),
            _ => None,
        });
        let endpoints = self.endpoints().filter_map(|end| end.socket.next_deadline(self.now_ns));
        listening.chain(endpoints).min()
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let held = self.sockets.values().flat_map(|socket| {
            let (one, several) = match &socket.role {
                Role::Connects(endpoint) => (Some(&**endpoint), None),
                Role::Listens(listening) => (None, Some(listening.socket.ready())),
                Role::None | Role::Waits(_) => (None, None),
            };
            one.into_iter().chain(several.into_iter().flatten())
        });
        held.chain(&self.orphans)
    }

    fn endpoints_mut(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        let held = self.sockets.values_mut().flat_map(|socket| {
            let (one, several) = match &mut socket.role {
                Role::Connects(endpoint) => (Some(&mut **endpoint), None),
                Role::Listens(listening) => (None, Some(listening.socket.ready_mut())),
                Role::None | Role::Waits(_) => (None, None),
            };
            one.into_iter().chain(several.into_iter().flatten())
        });
        held.chain(&mut self.orphans)
    }

    /// A packet arrives, from the IP header on. One that is damaged is forgotten.
    pub fn arrive(&mut self, bytes: &[u8]) {
        if let Some((ports, segment, _)) = unwrap(bytes)
            && let Some((ip, _)) = Ipv4::split(bytes)
        {
            let ends = ((ip.destination(), ports.1), (ip.source(), ports.0));
            self.on_segment(ends, &segment, bytes);
        } else {
            self.on_control(bytes);
        }
        self.transmit();
    }

    fn listening(&mut self, local: (Ipv4Addr, u16)) -> Option<(&mut Listening, &Choices)> {
        self.sockets.values_mut().find_map(|socket| match &mut socket.role {
            Role::Listens(listening) if socket.local == Some(local) => {
                Some((&mut **listening, &socket.choices))
            }
            _ => None,
        })
    }

    /// The flow of a connection, or of a listener; who is nobody's is reset.
    fn on_segment(&mut self, ends: Ends, segment: &Segment, packet: &[u8]) {
        let (now_ns, (local, remote)) = (self.now_ns, ends);
        let has_listener = self
            .listening(local)
            .is_some_and(|(listening, _)| !listening.socket.is_full(now_ns, usize::MAX));
        let endpoint =
            self.endpoints_mut().find(|end| (end.local, end.remote) == ends && !end.is_over());
        if let Some(endpoint) = endpoint {
            endpoint.arrive(now_ns, packet, has_listener);
            let (learned, reopen) =
                (endpoint.socket.connection_mut().take_learned(), endpoint.socket.take_reopen());
            if let Some(learned) = learned {
                self.fast.learn(now_ns, remote.0.into(), &learned);
            }
            if let Some(request) = reopen
                && let Some((listening, _)) = self.listening(local)
            {
                listening.socket.reopen(now_ns, &request, usize::MAX);
            }
            self.orphans.retain(|orphan| orphan.socket.has_flow());
        } else if let Some((listening, choices)) = self.listening(local) {
            let choices = choices.clone();
            listening.arrive(now_ns, packet, local, &choices);
        } else if let Some(reset) = reset_for(segment) {
            self.send(local, remote, &reset);
        }
    }

    /// A control message (RFC 792) quotes what we sent.
    fn on_control(&mut self, bytes: &[u8]) {
        let Some((local, remote)) = quoted_ends(bytes) else { return };
        let now_ns = self.now_ns;
        let ends = (local, remote);
        if let Some(endpoint) = self.endpoints_mut().find(|end| (end.local, end.remote) == ends) {
            endpoint.arrive(now_ns, bytes, false);
        } else if let Some((listening, choices)) = self.listening(local) {
            let choices = choices.clone();
            listening.arrive(now_ns, bytes, local, &choices);
        }
    }

    /// Sends what is to be sent now.
    fn transmit(&mut self) {
        let now_ns = self.now_ns;
        let mut out = Vec::new();
        for socket in self.sockets.values_mut() {
            let Role::Listens(listening) = &mut socket.role else { continue };
            listening.socket.transmit(now_ns);
            while let Ok(Some(packet)) = listening.flow.take() {
                out.push(packet);
            }
        }
        self.endpoints_mut().for_each(|endpoint| endpoint.transmit(now_ns, &mut out));
        self.sent.extend(out.into_iter().map(|packet| Sent { at_ns: now_ns, packet }));
        self.orphans.retain(|orphan| orphan.connection().state() != State::Closed);
    }

    fn send(&mut self, local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16), segment: &Segment) {
        let packet = packet((local.0, remote.0), (local.1, remote.1), segment, &[]);
        self.sent.push_back(Sent { at_ns: self.now_ns, packet });
    }
}

const fn address((ip, port): (Ipv4Addr, u16)) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}

type Ends = ((Ipv4Addr, u16), (Ipv4Addr, u16));

/// The ends of the connection, or of the attempt, whose segment a control message quotes.
fn quoted_ends(bytes: &[u8]) -> Option<Ends> {
    let (ip, _) = Ipv4::split(bytes).filter(|(ip, _)| ip.protocol == Protocol::ICMP)?;
    let (_, quote) = Icmp::split(bytes.get(ip.header_bytes()..)?)?;
    let (quoted, _) = Ipv4::split(quote)?;
    let [a, b, c, d] = *quote.get(quoted.header_bytes()..)?.first_chunk()?;
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(((quoted.source(), source), (quoted.destination(), destination)))
}
