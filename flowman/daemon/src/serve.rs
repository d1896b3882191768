//! The loop of the flow manager process.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use base_flow::{BILL_WORDS, Bill, Stray, bill_word};
use base_rpc::{
    Answer, Call, DomainUser, FromDriver, MESSAGE_BYTES_MAX, Refusal, Reply, ToDriver, decode,
    encode,
};
use flowman_core::{ClientId, Config, Counters, FlowManager, LinkId, Output, Unwelcome};
use rbuf_domain::DomainError;
use rbuf_shm::{
    Access, Arena, Calls, ConfineError, Connection, DESCRIPTORS_MAX, Descriptors, Listener,
    PeerProcess, ReceiveError, confine, monotonic_ns, raise_descriptor_limit,
};
use rustix::event::{Timespec, epoll};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::door::Door;
use crate::line::{Line, Topic};
use crate::own::OwnFlows;
use crate::shares::{SHARE_DESCRIPTORS, Shares};
use crate::turns::Turns;

/// Requests that are served between two looks at what else there is.
const TURNS: usize = 16;

/// Connections accepted between two looks at what else there is.
const ACCEPTS: usize = 16;

/// Messages that a driver may leave unread before no more requests are taken that would make others.
const DRIVER_UNREAD_MAX: usize = 256;

/// How long nothing is accepted when the keeper has to read first.
const BREATH_NS: u64 = 1_000_000;

/// How long nothing is accepted when the kernel has nothing left for a connection.
const DEAF_NS: u64 = 100_000_000;

/// Descriptors that a connection may need: its own, that of its process, those on their way to it, and what it shares
/// with the drivers of so many links.
const fn connection_descriptors(links: u64) -> u64 {
    2 + DESCRIPTORS_MAX as u64 + links * SHARE_DESCRIPTORS
}

/// Descriptors kept for drivers, and for whatever else is open.
const OTHER_DESCRIPTORS: u64 = 256;

/// Why the flow manager could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket could not be made.
    #[error("cannot listen at {path}: {source}")]
    Listen {
        /// Where.
        path: String,
        /// Why: somebody listens there, or what stands there is not ours.
        source: io::Error,
    },
    /// Nobody closes what applications send.
    #[error(
        "its keeper is gone, which closes what this kernel cannot refuse to applications (before Linux 6.16): {0}"
    )]
    Keeper(io::Error),
    /// Privileges could not be given up.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The kernel refused.
    #[error("{call}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn os<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> ServeError {
    move |error| ServeError::Os { call, source: error.into() }
}

/// How long drivers may take to join before somebody is told that they have not.
const PATIENCE_NS: u64 = 3_000_000_000;

/// Tells whoever reads standard error; if that is nobody, nothing depends on it.
fn notice(words: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "plumb flowman: {words}");
}

/// What the loop needs of the kernel.
const CALLS: &[i64] = &[
    // Applications, drivers, and when they die.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_pidfd_open,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // What drivers share.
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getrandom,
];

/// Told once of all that has arrived: who has said it waits for his turn.
const HEARS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

const APPLICATIONS: u64 = 0;
const DRIVERS: u64 = 1;
const KEEPER: u64 = 2;
const CLIENT: u64 = 1 << 56;
const DRIVER: u64 = 2 << 56;
const BELL: u64 = 3 << 56;
const PROCESS: u64 = 4 << 56;
const NUMBER: u64 = (1 << 56) - 1;

struct DriverLine {
    line: Line,
    link: Option<LinkId>,
    /// The link's, once it has joined.
    name: String,
    counters: Option<Arena>,
    flows_max: u32,
    frame_bytes: u32,
    own: Option<OwnFlows>,
}

/// An application.
struct Application {
    line: Line,
    uid: u32,
    /// As long as it lives.
    process: Option<PeerProcess>,
    /// What it has asked of a driver that is behind, or that has no time left for it.
    held: Option<Call>,
}

/// The flow manager process.
pub struct Daemon {
    core: FlowManager,
    door: Door,
    drivers: Listener,
    clients: HashMap<ClientId, Application>,
    /// Clients that have said something, maybe.
    speaking: Turns<ClientId>,
    /// Clients whose request waits for a driver that is behind.
    held: HashMap<LinkId, Turns<ClientId>>,
    /// Clients for whose request a driver has no time before then.
    spent: BTreeSet<(u64, ClientId)>,
    driver_lines: HashMap<u64, DriverLine>,
    /// What applications share with drivers.
    shares: Shares,
    epoll: OwnedFd,
    next: u64,
    /// Own flows that had more frames than a round may handle.
    unfinished: Vec<u64>,
    /// When connections are accepted again, should they wait now because the kernel had nothing left for them.
    deaf_until_ns: Option<u64>,
    /// How many there are.
    links: u64,
}

/// The counters of all drivers, and what is shared with them.
struct AllCounters<'a>(&'a HashMap<u64, DriverLine>, &'a Shares);

impl AllCounters<'_> {
    fn words(&self, link: LinkId, index: impl Fn(u32) -> u32) -> Option<Vec<u64>> {
        let line = self.0.values().find(|line| line.link == Some(link))?;
        let offset = u64::from(index(line.flows_max)) * BILL_WORDS as u64 * 8;
        let words = line.counters.as_ref()?.words(offset, BILL_WORDS)?;
        Some(words.iter().map(|word| word.load(Ordering::Relaxed)).collect())
    }
}

impl Counters for AllCounters<'_> {
    fn bill(&self, link: LinkId, flow: u32) -> Bill {
        self.words(link, |_| flow)
            .map_or_else(Bill::default, |words| Bill::from_words(|at| words[at]))
    }

    fn link(&self, link: LinkId) -> (Bill, u64, u64) {
        let words = self.words(link, |flows_max| flows_max);
        words.map_or_else(Default::default, |words| {
            (
                Bill::from_words(|at| words[at]),
                words[bill_word::LINK_STALL_NS],
                words[bill_word::LINK_THREAD_NS],
            )
        })
    }

    fn held_bytes(&self, client: ClientId, link: LinkId) -> u64 {
        self.1.held_bytes(client, link)
    }
}

impl Daemon {
    /// Listens for applications at `socket`, and for drivers at `socket` with `.driver` appended. On a kernel that
    /// cannot refuse descriptors to applications, `start_keeper` starts a process that [keeps](crate::keep), and
    /// returns the connection to it.
    ///
    /// # Errors
    ///
    /// See [`ServeError`].
    pub fn new(
        config: Config,
        socket: &Path,
        start_keeper: impl FnOnce() -> io::Result<Connection>,
    ) -> Result<Self, ServeError> {
        let listen = |path: &Path, mode, descriptors| {
            Listener::bind(path, mode, descriptors)
                .map_err(|source| ServeError::Listen { path: path.display().to_string(), source })
        };
        let drivers = listen(&driver_socket(socket), 0o600, Descriptors::Taken)?;
        let applications = listen(socket, 0o666, Descriptors::Refused)?;
        let door = Door::new(applications, start_keeper).map_err(ServeError::Keeper)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(os("epoll_create"))?;
        let mut key = [0; 16];
        getrandom(&mut key, GetRandomFlags::empty()).map_err(os("getrandom"))?;
        let links = config.links.len() as u64;
        let mut daemon = Self {
            core: FlowManager::new(config, key),
            door,
            drivers,
            clients: HashMap::new(),
            speaking: Turns::default(),
            held: HashMap::new(),
            spent: BTreeSet::new(),
            driver_lines: HashMap::new(),
            shares: Shares::default(),
            epoll,
            next: 1,
            unfinished: Vec::new(),
            deaf_until_ns: None,
            links,
        };
        watch(&daemon.epoll, daemon.door.as_fd(), APPLICATIONS)?;
        watch(&daemon.epoll, daemon.drivers.as_fd(), DRIVERS)?;
        if let Some(keeper) = daemon.door.keeper() {
            watch(&daemon.epoll, keeper.as_fd(), KEEPER)?;
        }
        Ok(daemon)
    }

    /// Gives up all capabilities, files and every system call but those of its loop, and serves until the process is
    /// killed.
    ///
    /// # Errors
    ///
    /// If the kernel does not let it wait any more.
    pub fn run(&mut self) -> Result<(), ServeError> {
        let descriptors = raise_descriptor_limit();
        let free = descriptors.saturating_sub(OTHER_DESCRIPTORS);
        let room = free / connection_descriptors(self.links);
        self.core.set_connections_max(u32::try_from(room).unwrap_or(u32::MAX));
        if let Some(keeper) = self.door.keeper() {
            // It may have as many descriptors, and needs one for each connection.
            keeper.set_kept_max(usize::try_from(free).unwrap_or(usize::MAX));
        }
        // What it holds is all it needs.
        let landlock = confine(Calls { all: CALLS, only: &[] })?;
        if landlock.is_absent() {
            notice(format_args!("{landlock}"));
        }
        let patient_until = monotonic_ns() + PATIENCE_NS;
        while monotonic_ns() < patient_until && self.core.undriven().next().is_some() {
            self.round(Some(patient_until.saturating_sub(monotonic_ns())))?;
        }
        for name in self.core.undriven() {
            notice(format_args!(
                "no driver of {name} has joined yet: start `plumb driver --dev {name}`, anew if it served another flow manager"
            ));
        }
        loop {
            self.round(None)?;
        }
    }

    /// Waits for something to happen, for `limit_ns` at most, and handles it.
    ///
    /// # Errors
    ///
    /// If the kernel does not let it wait any more.
    pub fn round(&mut self, limit_ns: Option<u64>) -> Result<(), ServeError> {
        let earned = self.spent.first().map(|(at, _)| *at);
        let deadlines = [self.core.next_deadline(), self.deaf_until_ns, earned];
        let deadline = deadlines.into_iter().flatten().min();
        let deadline = deadline.map(|at| at.saturating_sub(monotonic_ns()));
        let behind = !self.held.is_empty()
            || self.driver_lines.values().any(|line| !line.line.is_idle())
            || self.door.is_behind();
        let at_once = !self.unfinished.is_empty() || !self.speaking.is_empty();
        let soon = if at_once { Some(0) } else { behind.then_some(1_000_000) };
        let wait = [deadline, limit_ns, soon].into_iter().flatten().min();
        // Rounded up to what every kernel's epoll understands.
        let timeout = wait.map(|ns| ns.div_ceil(1_000_000) * 1_000_000).map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as _,
        });
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 256];
        let count = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => return Err(os("epoll_wait")(errno)),
        };
        for event in &events[..count] {
            let token = event.data.u64();
            match token & !NUMBER {
                CLIENT => self.stirs(ClientId(token & NUMBER))?,
                DRIVER => self.hear_driver(token & NUMBER)?,
                BELL => self.hear_bell(token & NUMBER),
                PROCESS => self.hear_death(ClientId(token & NUMBER)),
                _ if token == APPLICATIONS => self.accept_clients()?,
                _ if token == KEEPER => self.hear_keeper()?,
                _ => self.accept_driver()?,
            }
        }
        self.listen_again()?;
        while self.spent.first().is_some_and(|(at, _)| *at <= monotonic_ns()) {
            let earned = self.spent.pop_first();
            earned.into_iter().for_each(|(_, client)| self.is_speaking(client));
        }
        for number in std::mem::take(&mut self.unfinished) {
            self.hear_bell(number);
        }
        for _ in 0..TURNS {
            let Some(client) = self.speaking.pop() else { break };
            self.hear_client(client);
        }
        self.core.tick(monotonic_ns());
        self.carry_out(Vec::new());
        if behind {
            self.catch_up();
        }
        Ok(())
    }

    fn accept_clients(&mut self) -> Result<(), ServeError> {
        for _ in 0..ACCEPTS {
            let id = ClientId(self.number());
            match self.door.accept(id.0) {
                Ok(Some(connection)) => self.welcome(id, connection),
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.pause_listening(BREATH_NS);
                }
                Err(_) => return self.pause_listening(DEAF_NS),
            }
        }
        Ok(())
    }

    /// It has closed some connections.
    fn hear_keeper(&mut self) -> Result<(), ServeError> {
        let Some(keeper) = self.door.keeper() else { return Ok(()) };
        keeper.hear().map_err(ServeError::Keeper)
    }

    /// Out of descriptors or memory, of this process, its keeper or the system: connections wait in their queues for
    /// a while.
    fn pause_listening(&mut self, pause_ns: u64) -> Result<(), ServeError> {
        if self.deaf_until_ns.is_none() {
            for listener in [self.door.as_fd(), self.drivers.as_fd()] {
                epoll::delete(&self.epoll, listener).map_err(os("epoll_ctl"))?;
            }
        }
        self.deaf_until_ns = Some(monotonic_ns() + pause_ns);
        Ok(())
    }

    fn listen_again(&mut self) -> Result<(), ServeError> {
        let now_ns = monotonic_ns();
        if self.deaf_until_ns.is_none_or(|until_ns| until_ns > now_ns) {
            return Ok(());
        }
        let again = [(self.door.as_fd(), APPLICATIONS), (self.drivers.as_fd(), DRIVERS)];
        let watched = again.map(|(listener, token)| match watch(&self.epoll, listener, token) {
            // Also if the one before failed.
            Err(ServeError::Os { source, .. }) => source.raw_os_error() == Some(libc::EEXIST),
            other => other.is_ok(),
        });
        let heard = watched.into_iter().all(|watched| watched);
        self.deaf_until_ns = if heard { None } else { Some(now_ns + DEAF_NS) };
        // Somebody may have been accepted already, of whom no event tells.
        if heard { self.accept_clients() } else { Ok(()) }
    }

    /// Takes a client in, or sends it away if the kernel cannot tell when it speaks or dies.
    fn welcome(&mut self, id: ClientId, connection: Connection) {
        let Ok(peer) = connection.peer() else { return self.door.part(id.0, connection) };
        if let Err(refusal) = self.core.client_joined(id, peer.pid, peer.uid) {
            turn_away(&connection, refusal);
            return self.door.part(id.0, connection);
        }
        let watched = connection.process().is_ok_and(|process| {
            let data = epoll::EventData::new_u64(CLIENT | id.0);
            let speaks = epoll::add(&self.epoll, &connection, data, HEARS).is_ok();
            let dies = process
                .as_ref()
                .is_none_or(|process| watch(&self.epoll, process.as_fd(), PROCESS | id.0).is_ok());
            let (line, held) = (Line::new(connection), None);
            self.clients.insert(id, Application { line, uid: peer.uid, process, held });
            speaks && dies
        });
        if !watched {
            // Or it is dead already.
            self.forget_client(id);
        }
    }

    /// A client has said something, or takes what it has not been sent yet.
    fn stirs(&mut self, id: ClientId) -> Result<(), ServeError> {
        let Some(Application { line, .. }) = self.clients.get_mut(&id) else { return Ok(()) };
        if !line.is_idle() {
            line.flush();
            if line.is_idle() {
                if line.closing {
                    self.lose_client(id);
                    return Ok(());
                }
                let data = epoll::EventData::new_u64(CLIENT | id.0);
                epoll::modify(&self.epoll, &line.connection, data, HEARS)
                    .map_err(os("epoll_ctl"))?;
            }
        }
        self.is_speaking(id);
        Ok(())
    }

    /// A client has said something, or is to be heard again for another reason.
    fn is_speaking(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get(&id) {
            self.speaking.push(client.uid, id);
        }
    }

    fn accept_driver(&mut self) -> Result<(), ServeError> {
        let connection = match self.drivers.accept() {
            Ok(Some(connection)) => connection,
            Ok(None) => return Ok(()),
            Err(_) => return self.pause_listening(DEAF_NS),
        };
        let number = self.number();
        if watch(&self.epoll, connection.as_fd(), DRIVER | number).is_err() {
            return Ok(());
        }
        let line = DriverLine {
            line: Line::new(connection),
            link: None,
            name: String::new(),
            counters: None,
            flows_max: 0,
            frame_bytes: 0,
            own: None,
        };
        self.driver_lines.insert(number, line);
        Ok(())
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Serves one request of a client whose turn it is.
    fn hear_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        // Who does not take his answers is not asked what else he wants.
        if client.line.closing || client.line.answers() > 0 {
            return;
        }
        if let Some(call) = client.held.take() {
            return self.serve(id, call);
        }
        let refusal = match client.line.connection.try_receive(MESSAGE_BYTES_MAX) {
            Ok(received) => match decode::<Call>(&received.bytes) {
                Ok(call) => return self.serve(id, call),
                Err(error) => Refusal::Message(error.to_string()),
            },
            Err(ReceiveError::WouldBlock) => return,
            Err(error @ ReceiveError::Cut) => Refusal::Message(error.to_string()),
            Err(error @ ReceiveError::Descriptors) => Refusal::Descriptors(error.to_string()),
            Err(_) => return self.lose_client(id),
        };
        self.core.unreadable(id, refusal);
        self.carry_out(Vec::new());
    }

    /// Does what a client asks for, or keeps it until the driver that it is for has time for the client, and has read
    /// what it was told before.
    fn serve(&mut self, id: ClientId, call: Call) {
        let spent_until = self.core.spent_until(monotonic_ns(), id, &call.request);
        if let Some(until_ns) = spent_until
            && let Some(client) = self.clients.get_mut(&id)
        {
            client.held = Some(call);
            self.spent.insert((until_ns, id));
            return;
        }
        let link = self.core.driver_for(&call.request).filter(|link| self.room_at(*link) == 0);
        if let Some(link) = link
            && let Some(client) = self.clients.get_mut(&id)
        {
            client.held = Some(call);
            return self.held.entry(link).or_default().push(client.uid, id);
        }
        let counters = AllCounters(&self.driver_lines, &self.shares);
        self.core.request(monotonic_ns(), id, call, &counters);
        self.carry_out(Vec::new());
        // There may be more.
        self.is_speaking(id);
    }

    /// How much the driver of a link may be told before no requests are taken for it.
    fn room_at(&self, link: LinkId) -> usize {
        let line = self.driver_lines.values().find(|line| line.link == Some(link));
        line.map_or(DRIVER_UNREAD_MAX, |line| DRIVER_UNREAD_MAX.saturating_sub(line.line.answers()))
    }

    /// Those who waited for a driver are heard, as far as it has room.
    fn release(&mut self) {
        let links: Vec<LinkId> = self.held.keys().copied().collect();
        for link in links {
            for _ in 0..self.room_at(link) {
                match self.held.get_mut(&link).and_then(Turns::pop) {
                    Some(client) => self.is_speaking(client),
                    None => {
                        self.held.remove(&link);
                        break;
                    }
                }
            }
        }
    }

    /// A client's process is dead. What it said before is heard, and then its connection is closed, whoever
    /// holds the other end.
    fn hear_death(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.process = None;
            client.line.connection.end();
        }
    }

    fn lose_client(&mut self, id: ClientId) {
        self.forget_client(id);
        self.carry_out(Vec::new());
    }

    fn forget_client(&mut self, id: ClientId) {
        let Some(Application { line, .. }) = self.clients.remove(&id) else { return };
        // Closing it would not do, if there is a copy.
        let _ = epoll::delete(&self.epoll, &line.connection);
        self.door.part(id.0, line.connection);
        self.shares.forget_client(id);
        self.core.client_left(id);
    }

    fn hear_driver(&mut self, number: u64) -> Result<(), ServeError> {
        let Some(line) = self.driver_lines.get_mut(&number) else { return Ok(()) };
        let received = match line.line.connection.try_receive(MESSAGE_BYTES_MAX) {
            Ok(received) => received,
            Err(ReceiveError::WouldBlock) => return Ok(()),
            Err(_) => {
                self.lose_driver(number);
                return Ok(());
            }
        };
        let Ok(message) = decode::<FromDriver>(&received.bytes) else {
            self.lose_driver(number);
            return Ok(());
        };
        match (line.link, message) {
            (None, FromDriver::Hello { facts, flows_max }) => {
                let tag = if facts.vlan.is_some() { 18 } else { 14 };
                line.frame_bytes = u32::from(facts.mtu_max) + tag;
                line.flows_max = flows_max;
                line.counters = received
                    .descriptors
                    .into_iter()
                    .next()
                    .and_then(|file| Arena::open(file, Access::Read, 1 << 30).ok());
                let name = facts.name.clone();
                match self.core.driver_joined(facts) {
                    Ok(link) => {
                        (line.link, line.name) = (Some(link), name);
                        self.carry_out(Vec::new());
                    }
                    Err(unwelcome) => self.refuse_driver(number, &unwelcome),
                }
            }
            (Some(link), message) => {
                self.core.driver_message(link, message);
                self.carry_out(received.descriptors);
            }
            (None, _) => self.lose_driver(number),
        }
        Ok(())
    }

    /// Tells a driver why it is not wanted, and who drives the link instead.
    fn refuse_driver(&mut self, number: u64, unwelcome: &Unwelcome) {
        let mut reason = unwelcome.to_string();
        if let Unwelcome::Driven { name } = unwelcome
            && let Some(first) = self.driver_lines.values().find(|line| line.name == *name)
            && let Ok(peer) = first.line.connection.peer()
        {
            reason = format!("{reason}, process {}", peer.pid);
        }
        self.dismiss_driver(number, reason);
    }

    /// Tells a driver, which the core does not know or not any more, why it is not wanted.
    fn dismiss_driver(&mut self, number: u64, reason: String) {
        notice(format_args!("a driver is refused: {reason}"));
        if let Some(mut line) = self.driver_lines.remove(&number) {
            line.line.send(encode(&ToDriver::Refused { reason }), Vec::new(), None);
            part(&line.line.connection);
        }
    }

    fn lose_driver(&mut self, number: u64) {
        if let Some(line) = self.driver_lines.remove(&number)
            && let Some(link) = line.link
        {
            notice(format_args!("the driver of {} is gone, and all flows of that link", line.name));
            self.shares.forget_link(link);
            self.core.driver_left(link);
            self.carry_out(Vec::new());
        }
    }

    /// Frames have come that nobody claimed.
    fn hear_bell(&mut self, number: u64) {
        let Some(line) = self.driver_lines.get_mut(&number) else { return };
        let (Some(mut own), Some(link)) = (line.own.take(), line.link) else { return };
        own.bell().answer();
        let core = &mut self.core;
        match own.receive(|frame| core.frame(monotonic_ns(), link, frame)) {
            Err(fault) => self.core.own_lost(link, fault.to_string()),
            Ok(more) => {
                if more {
                    self.unfinished.push(number);
                }
                line.own = Some(own);
            }
        }
        self.carry_out(Vec::new());
    }

    /// Does what the core decided; `descriptors` came with the message it decided on.
    fn carry_out(&mut self, mut descriptors: Vec<OwnedFd>) {
        let mut leave = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Answer { client, answer, with_descriptors } => {
                    let beside = if with_descriptors {
                        std::mem::take(&mut descriptors)
                    } else {
                        Vec::new()
                    };
                    if let Some(Application { line, .. }) = self.clients.get_mut(&client) {
                        // Anybody's SYN makes one, and it comes again.
                        let is_spare = matches!(answer.reply, Reply::Reopened { .. });
                        if is_spare && line.is_crowded() {
                            continue;
                        }
                        let topic = Topic::of(answer.tag, &answer.reply);
                        let was_idle = line.is_idle();
                        line.send(encode(&answer), beside, topic);
                        if was_idle && !line.is_idle() {
                            let data = epoll::EventData::new_u64(CLIENT | client.0);
                            let flags = HEARS | epoll::EventFlags::OUT;
                            let watched = epoll::modify(&self.epoll, &line.connection, data, flags);
                            // Out of memory: nothing would tell when it can be told.
                            if watched.is_err() {
                                leave.push(client);
                            }
                        }
                    }
                }
                Output::Shares { client, link } => {
                    // Out of descriptors: what it holds could not be counted.
                    if self.shares.add(client, link, &descriptors).is_err() {
                        leave.push(client);
                    }
                }
                Output::Disconnect { client } => {
                    if let Some(Application { line, .. }) = self.clients.get_mut(&client) {
                        line.closing = true;
                        // After what could be said was said.
                        if line.is_idle() {
                            leave.push(client);
                        }
                    }
                }
                Output::Driver { link, message } => self.tell_driver(link, &message),
                Output::JoinOwn { link, domain } => {
                    let (flows_max, user) = (Stray::COUNT as u32, DomainUser::FLOW_MANAGER);
                    self.tell_driver(link, &ToDriver::AddDomain { domain, flows_max, user });
                }
                Output::OpenOwn { link, domain, flows } => {
                    let files = std::mem::take(&mut descriptors);
                    let Some(line) = self.line_of(link) else { continue };
                    let opened = OwnFlows::open(files, line.frame_bytes, domain, &flows);
                    if let Err(error) = self.own_opened(link, opened) {
                        self.core.own_lost(link, error.to_string());
                    }
                }
                Output::OwnLost { link, reason } => {
                    notice(format_args!(
                        "nothing can be answered on link {}, which is tried again in a second: {reason}",
                        link.0
                    ));
                    if let Some(line) = self.line_of(link) {
                        line.own = None;
                    }
                }
                Output::RefuseDriver { link, reason } => {
                    let mut all = self.driver_lines.iter();
                    let found = all.find(|(_, line)| line.link == Some(link));
                    if let Some(&number) = found.map(|(number, _)| number) {
                        self.dismiss_driver(number, reason);
                    }
                }
                Output::Say { words } => notice(format_args!("{words}")),
                Output::Frame { link, stray, frame } => {
                    if let Some(line) = self.line_of(link)
                        && let Some(own) = &mut line.own
                        && let Err(fault) = own.send(stray, &frame)
                    {
                        self.core.own_lost(link, fault.to_string());
                    }
                }
            }
        }
        for client in leave {
            self.lose_client(client);
        }
    }

    fn own_opened(
        &mut self,
        link: LinkId,
        opened: Result<(OwnFlows, Vec<ToDriver>), DomainError>,
    ) -> Result<(), DomainError> {
        let (own, messages) = opened?;
        for message in messages {
            self.tell_driver(link, &message);
        }
        let number = self
            .driver_lines
            .iter()
            .find(|(_, line)| line.link == Some(link))
            .map(|(&number, _)| number);
        if let Some(number) = number {
            watch(&self.epoll, own.bell().as_fd(), BELL | number)
                .map_err(|error| DomainError::Doorbell(io::Error::other(error)))?;
            if let Some(line) = self.driver_lines.get_mut(&number) {
                line.own = Some(own);
            }
            // The bell rings from the first look on.
            self.unfinished.push(number);
        }
        Ok(())
    }

    fn line_of(&mut self, link: LinkId) -> Option<&mut DriverLine> {
        self.driver_lines.values_mut().find(|line| line.link == Some(link))
    }

    fn tell_driver(&mut self, link: LinkId, message: &ToDriver) {
        if let Some(line) = self.line_of(link) {
            line.line.send(encode(message), Vec::new(), None);
        }
    }

    /// Sends drivers and the keeper what could not be sent before, and hears those who waited for that.
    fn catch_up(&mut self) {
        for line in self.driver_lines.values_mut() {
            line.line.flush();
        }
        if let Some(keeper) = self.door.keeper() {
            keeper.flush();
        }
        self.release();
    }
}

fn watch(epoll: &OwnedFd, source: BorrowedFd<'_>, token: u64) -> Result<(), ServeError> {
    epoll::add(epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        .map_err(os("epoll_ctl"))
}

/// Tells whoever connected why not.
fn turn_away(connection: &Connection, refusal: Refusal) {
    let _ = connection.try_send(&encode(&Answer { tag: 0, reply: Reply::Refused(refusal) }));
    part(connection);
}

/// Ends a connection whose other side is to hear the last words: what it has said and nobody reads would be an error
/// to it, before them.
fn part(connection: &Connection) {
    connection.end();
    while connection.try_receive(MESSAGE_BYTES_MAX).is_ok() {}
}

/// Where drivers connect, given where applications do.
pub fn driver_socket(socket: &Path) -> std::path::PathBuf {
    let mut path = socket.as_os_str().to_os_string();
    path.push(".driver");
    path.into()
}
