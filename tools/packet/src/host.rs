//! A host in virtual time: sockets on one side, packets on the other, the engine between them.
//!
//! Nothing waits here: a call that would have to fails with [`Errno::Again`] or
//! [`Errno::InProgress`], and whoever drives the host asks again when time has gone on.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use base_wire::{Header, ICMP_BYTES, Icmp, Ipv4, Protocol};
use stack_tcp::{
    Connection, FastCache, Listener, Opening, RouterError, Secret, Segment, State, reset_for,
};
use tools_sim::tcp::{packet, unwrap};

use crate::endpoint::{Endpoint, Readiness};
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

impl Socket {
    /// Its connection in TIME-WAIT between these ends gives way to a new one.
    fn forget(&mut self, local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16), now_ns: u64) {
        if let Role::Connects(endpoint) = &mut self.role
            && (endpoint.local, endpoint.remote) == (local, remote)
        {
            endpoint.stream.connection.abort(now_ns);
            endpoint.forgive();
        }
    }
}

#[derive(Debug)]
struct Listening {
    listener: Listener<Ipv4Addr>,
    /// Open connections that the application has not taken.
    open: VecDeque<Endpoint>,
    backlog: usize,
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
            Role::Listens(listening) => listening.backlog = backlog,
            Role::Connects(_) | Role::Waits(_) => return Err(Errno::Invalid),
            role @ Role::None => {
                let config = socket.choices.settings.config.clone();
                let mut listener = Listener::new(address(local), config, secret, backlog.max(1));
                let key = socket.choices.settings.fast_open.key;
                listener.set_fast_open(socket.choices.fast_opening(backlog), key);
                listener.set_defer_ns(socket.choices.defer_ns);
                let open = VecDeque::new();
                *role = Role::Listens(Box::new(Listening { listener, open, backlog }));
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
        let endpoint = listening.open.pop_front().ok_or(Errno::Again)?;
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
        let endpoint = Endpoint::new(local, remote, connection, &socket.choices);
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
        let taken = endpoint
            .stream
            .write(&bytes[..bytes.len().min(room)], false)
            .map_err(|_| Errno::Pipe)?;
        if waits && taken < bytes.len() {
            endpoint.stream.connection.expect_more();
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
            endpoint.stream.connection.end_record();
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
            endpoint.stream.connection.mark_urgent();
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
                let connection = &mut endpoint.stream.connection;
                match socket.choices.linger_s {
                    Some(0) => connection.abort(now_ns),
                    _ => connection.close(now_ns),
                }
                self.orphans.push(*endpoint);
            }
            Role::Listens(listening) => {
                for mut endpoint in listening.open {
                    endpoint.stream.connection.abort(now_ns);
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
                socket.choices.apply(&mut endpoint.stream.connection);
                if option == SocketOption::NoDelay(true) {
                    // As Linux has it: stronger than a cork, once.
                    endpoint.stream.connection.flush();
                }
                endpoint.type_of_service = socket.choices.type_of_service;
            }
            Role::Listens(listening) => {
                listening.listener.set_config(socket.choices.settings.config.clone());
                listening.listener.set_defer_ns(socket.choices.defer_ns);
                let opening = socket.choices.fast_opening(listening.backlog);
                listening.listener.set_fast_open(opening, socket.choices.settings.fast_open.key);
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
            Role::Listens(listening) => {
                Readiness { readable: !listening.open.is_empty(), ..Readiness::default() }
            }
            Role::Waits(_) => Readiness { writable: true, ..Readiness::default() },
            Role::None => Readiness { writable: true, hung_up: true, ..Readiness::default() },
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
            Role::Listens(listening) => listening.listener.next_deadline(),
            _ => None,
        });
        let endpoints = self.endpoints().filter_map(|end| end.connection().next_deadline());
        listening.chain(endpoints).min()
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let held = self.sockets.values().flat_map(|socket| {
            let (one, several) = match &socket.role {
                Role::Connects(endpoint) => (Some(&**endpoint), None),
                Role::Listens(listening) => (None, Some(&listening.open)),
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
                Role::Listens(listening) => (None, Some(&mut listening.open)),
                Role::None | Role::Waits(_) => (None, None),
            };
            one.into_iter().chain(several.into_iter().flatten())
        });
        held.chain(&mut self.orphans)
    }

    /// A packet arrives, from the IP header on. One that is damaged is forgotten.
    pub fn arrive(&mut self, bytes: &[u8]) {
        if let Some((ports, segment, payload)) = unwrap(bytes)
            && let Some((ip, _)) = Ipv4::split(bytes)
        {
            let ends = ((ip.destination(), ports.1), (ip.source(), ports.0));
            self.on_segment(ends, &segment, payload);
        } else {
            self.on_control(bytes);
        }
        self.transmit();
    }

    fn on_segment(
        &mut self,
        (local, remote): ((Ipv4Addr, u16), (Ipv4Addr, u16)),
        segment: &Segment,
        payload: &[u8],
    ) {
        let now_ns = self.now_ns;
        let endpoint = self
            .endpoints_mut()
            .find(|end| (end.local, end.remote) == (local, remote) && !end.is_over());
        let mut above = None;
        if let Some(endpoint) = endpoint {
            above = endpoint.on_segment(now_ns, segment, payload);
            if let Some(learned) = endpoint.stream.connection.take_learned() {
                self.fast.learn(now_ns, remote.0.into(), &learned);
            }
            if above.is_none() {
                return;
            }
        }
        let listening = self.sockets.values_mut().find_map(|socket| match &mut socket.role {
            Role::Listens(listening) if socket.local == Some(local) => {
                Some((listening, &socket.choices))
            }
            _ => None,
        });
        let Some((listening, choices)) = listening else {
            if above.is_some() {
                // Nobody listens: TIME-WAIT goes on.
                return;
            }
            if let Some(reset) = reset_for(segment) {
                self.send(local, remote, 0, &reset, [&[]; 2]);
            }
            return;
        };
        let full = listening.open.len() > listening.backlog;
        let from = (address(remote), remote.0);
        if let Some(number) = above {
            if !full {
                listening.listener.reopen(now_ns, from, segment, full, number);
                self.orphans.retain(|end| (end.local, end.remote) != (local, remote));
                for socket in self.sockets.values_mut() {
                    socket.forget(local, remote, now_ns);
                }
            }
            return;
        }
        if let Some(connection) = listening.listener.on_segment(now_ns, from, segment, full) {
            let mut endpoint = Endpoint::new(local, remote, connection, choices);
            endpoint.on_segment(now_ns, segment, payload);
            listening.open.push_back(endpoint);
        }
    }

    /// A control message (RFC 792) quotes what we sent.
    fn on_control(&mut self, bytes: &[u8]) {
        let Some(((local, remote), sequence, error)) = control(bytes) else { return };
        let now_ns = self.now_ns;
        let endpoint = self.endpoints_mut().find(|end| (end.local, end.remote) == (local, remote));
        if let Some(endpoint) = endpoint {
            return endpoint.stream.connection.on_router_error(now_ns, sequence, error);
        }
        for socket in self.sockets.values_mut() {
            if let Role::Listens(listening) = &mut socket.role
                && socket.local == Some(local)
            {
                listening.listener.on_router_error(now_ns, address(remote), sequence, error);
            }
        }
    }

    /// Sends what is to be sent now.
    fn transmit(&mut self) {
        let (now_ns, whole) = (self.now_ns, self.settings.whole_segments);
        let mut out = Vec::new();
        for socket in self.sockets.values_mut() {
            let (Role::Listens(listening), Some(local)) = (&mut socket.role, socket.local) else {
                continue;
            };
            while let Some((to, ip, segment)) = listening.listener.poll_transmit(now_ns) {
                let tos = socket.choices.type_of_service;
                let bytes = packet((local.0, ip), (local.1, to.port()), &segment, &[]);
                out.push(with_tos(bytes, tos));
            }
        }
        for endpoint in self.endpoints_mut() {
            while let Some(transmit) = endpoint.stream.poll_transmit(now_ns) {
                let frames = (!whole).then(|| transmit.frames()).into_iter().flatten();
                for frame in whole.then_some(transmit).into_iter().chain(frames) {
                    let bytes = packet(
                        (endpoint.local.0, endpoint.remote.0),
                        (endpoint.local.1, endpoint.remote.1),
                        &frame.segment,
                        &endpoint.payload(&frame),
                    );
                    out.push(with_tos(bytes, endpoint.type_of_service));
                }
            }
        }
        self.sent.extend(out.into_iter().map(|packet| Sent { at_ns: now_ns, packet }));
        self.orphans.retain(|orphan| orphan.connection().state() != State::Closed);
    }

    fn send(
        &mut self,
        local: (Ipv4Addr, u16),
        remote: (Ipv4Addr, u16),
        tos: u8,
        segment: &Segment,
        payload: [&[u8]; 2],
    ) {
        let bytes = packet((local.0, remote.0), (local.1, remote.1), segment, &payload);
        self.sent.push_back(Sent { at_ns: self.now_ns, packet: with_tos(bytes, tos) });
    }
}

const fn address((ip, port): (Ipv4Addr, u16)) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}

/// With a type of service beside the congestion bits.
fn with_tos(mut bytes: Vec<u8>, tos: u8) -> Vec<u8> {
    if tos != 0
        && let Some((ip, payload)) = Ipv4::split(&bytes)
    {
        let mut ip = *ip;
        ip.tos |= tos;
        ip.fill_checksum();
        bytes = [zerocopy::IntoBytes::as_bytes(&ip), payload].concat();
    }
    bytes
}

type Ends = ((Ipv4Addr, u16), (Ipv4Addr, u16));

/// What a control message says, and of which segment of which connection.
fn control(bytes: &[u8]) -> Option<(Ends, u32, RouterError)> {
    let (ip, _) = Ipv4::split(bytes).filter(|(ip, _)| ip.protocol == Protocol::ICMP)?;
    let (icmp, quote) = Icmp::split(bytes.get(ip.header_bytes()..)?)?;
    let (quoted, _) = Ipv4::split(quote)?;
    let head = quote.get(quoted.header_bytes()..)?.first_chunk::<ICMP_BYTES>()?;
    let [a, b, c, d, sequence @ ..] = *head;
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let ends = ((quoted.source(), source), (quoted.destination(), destination));
    let error = RouterError::from_icmp_v4(icmp.kind, icmp.code, icmp.sequence.get())?;
    Some((ends, u32::from_be_bytes(sequence), error))
}
