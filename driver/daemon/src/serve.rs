//! The loop of the driver process.
//!
//! While there is work it does not sleep and makes system calls only in batches; with nothing to do
//! it sleeps until the next period begins, a frame arrives, a domain rings or the flow manager
//! speaks.

use std::io::{self, Write};
use std::num::NonZeroU64;

use base_flow::Rate;
use base_rpc::{DomainId, FromDriver};
use base_wire::Mac;
use driver_atropos::{Atropos, Line, Scheduler};
use driver_core::{Driver, Limits, bill_words};
use driver_link::Polled;
use driver_netlink::{News, Owned, Watch};
use rbuf_shm::{
    Access, Arena, ArenaError, ConfineError, Connection, ShmWords, confine, monotonic_ns,
    raise_descriptor_limit,
};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::net::sockopt::socket_error;

use crate::arenas::ShmArenas;
use crate::bells::Bells;
use crate::confine::LOOP;
use crate::control::{Control, Heard};
use crate::frame_cost;
use crate::reaper::Reaper;
use crate::thread_clock::ThreadClock;

/// How a driver process works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the interface, for people.
    pub name: String,
    /// Kind of link, for people.
    pub kind: String,
    /// Rate the wire is scheduled at.
    pub rate: Rate,
    /// How far ahead of the wire frames are handed to the device; `None` for as far as a driver
    /// that sleeps needs.
    pub lead_ns: Option<u64>,
    /// Do not sleep when the next thing to do is at most so far away, nor for so long after the last
    /// one; 0 to always sleep.
    pub spin_ns: u64,
    /// Least that a frame is charged, in nanoseconds; `None` to measure what one costs the driver. It takes the place
    /// of the one in `limits`.
    pub frame_cost_ns: Option<u64>,
    /// How much it takes on.
    pub limits: Limits,
    /// Whether to give up privileges; only tests that run in a thread do not.
    pub confine: bool,
}

/// What is said when the flow manager has gone.
const ALONE: &str = "plumb driver: the flow manager is gone. Open flows go on, but nobody can open or close one: \
    start a flow manager, and then this driver anew, which ends them\n";

/// What is said of an interface whose cable is out, or whose other end is down.
const NO_CARRIER: &str =
    "has no carrier: nothing is sent or received until its cable is in and the other end is up";

/// Why the driver process ended or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The counter area could not be made.
    #[error("counter area: {0}")]
    Counters(#[from] ArenaError),
    /// Privileges could not be given up.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The flow manager does not want this driver.
    #[error("the flow manager refuses this driver: {0}")]
    Refused(String),
    /// The interface is not there any more.
    #[error(
        "interface {name} is gone: it was deleted, or moved to another network namespace; its flows are closed, start again when it is there"
    )]
    Gone {
        /// What it was called.
        name: String,
    },
    /// The interface has got another address.
    #[error(
        "interface {name} has now the address {station}: what its flows may send is made for {before}; they are closed, start again"
    )]
    Station {
        /// The interface.
        name: String,
        /// Its address now.
        station: Mac,
        /// Its address until then.
        before: Mac,
    },
    /// The kernel refused.
    #[error("{call}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn os(call: &'static str) -> impl Fn(rustix::io::Errno) -> ServeError {
    move |errno| ServeError::Os { call, source: errno.into() }
}

/// Lead of a driver that sleeps: it is woken within half of this, nearly always.
const SLEEPER_LEAD_NS: u64 = 1_000_000;

/// Lead of a driver that does not: what it takes to hand over a few frames, so that on a fast line they are
/// handed over together.
const SPINNER_LEAD_NS: u64 = 10_000;

/// With work all the time, other things are looked after this often.
const ROUNDS_MAX: u32 = 64;

const CONTROL: u64 = u64::MAX;
const INTERFACE: u64 = u64::MAX - 1;

/// Drives `link` for the flow manager at the other end of `connection`, until the process is
/// killed. When the flow manager goes away, the flows go on. If the link is an interface, `watch` says
/// when somebody changes it.
///
/// # Errors
///
/// Only before anything was served, or if the kernel refuses to let the loop wait.
pub fn serve<L: Polled>(
    link: L,
    watch: Option<Watch>,
    connection: Connection,
    options: &Options,
) -> Result<(), ServeError> {
    serve_by(|line| Atropos::new(line, monotonic_ns() as i64), link, watch, connection, options)
}

/// As [`serve`], with the scheduler that `schedule` makes for the line.
///
/// # Errors
///
/// As [`serve`].
pub fn serve_by<L: Polled, S: Scheduler>(
    schedule: impl FnOnce(Line) -> S,
    link: L,
    watch: Option<Watch>,
    connection: Connection,
    options: &Options,
) -> Result<(), ServeError> {
    // Sleeps end when they should, not up to 50 µs later.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    connection.set_nonblocking().map_err(|source| ServeError::Os { call: "fcntl", source })?;
    let (link, frame_cost_ns) = match options.frame_cost_ns {
        Some(cost_ns) => (link, cost_ns),
        None => frame_cost::measure(link),
    };
    let limits = Limits { frame_cost_ns, ..options.limits };
    let words = bill_words(limits.flows_max);
    let bytes = words as u64 * 8;
    let counters = Arena::create("plumb-bills", bytes, Access::Write, Access::Read)?;
    let secret = secret().map_err(os("getrandom"))?;
    let frame_ns = options.rate.wire_ns(link.facts().frame_bytes_max());
    let lead_ns = options.lead_ns.unwrap_or_else(|| {
        if options.spin_ns > 0 {
            SPINNER_LEAD_NS.max(frame_ns)
        } else {
            SLEEPER_LEAD_NS.max(2 * frame_ns)
        }
    });
    let driver = counters.words(0, words).and_then(|words| {
        Driver::scheduled_by(schedule, link, options.rate, lead_ns, limits, words, secret)
    });
    let driver = driver.expect("the counter area was made large enough");
    let reaper = Reaper::start(options.confine)?;
    let mut server = Server::new(driver, watch, connection, reaper, options)?;
    let hello = FromDriver::Hello {
        facts: server.driver.facts(&options.name, &options.kind),
        flows_max: limits.flows_max,
    };
    let file = counters
        .file()
        .try_clone_to_owned()
        .map_err(|source| ServeError::Os { call: "dup", source })?;
    raise_descriptor_limit();
    if options.confine {
        let landlock = confine(LOOP)?;
        if landlock.is_absent() {
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "plumb driver: {landlock}");
        }
    }
    server.control.as_mut().expect("connected").tell(&hello, vec![file]);
    server.tell_addresses();
    server.run()
}

fn secret() -> Result<[u64; 2], rustix::io::Errno> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let (a, b) = bytes.split_at(8);
    Ok([a, b].map(|half| half.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))))
}

struct Server<L, S> {
    driver: Driver<L, ShmArenas, ShmWords, S>,
    watch: Option<Watch>,
    /// What the interface is called.
    name: String,
    /// Whether it was down or without a carrier, and is not up with one yet.
    is_away: bool,
    control: Option<Control>,
    bells: Bells,
    spin_ns: u64,
    clock: ThreadClock,
}

impl<L: Polled, S: Scheduler> Server<L, S> {
    fn new(
        driver: Driver<L, ShmArenas, ShmWords, S>,
        watch: Option<Watch>,
        connection: Connection,
        reaper: Reaper,
        options: &Options,
    ) -> Result<Self, ServeError> {
        let bells = Bells::new().map_err(os("epoll_create"))?;
        let data = epoll::EventData::new_u64(CONTROL);
        epoll::add(&bells, &connection, data, epoll::EventFlags::IN).map_err(os("epoll_ctl"))?;
        if let Some(watch) = &watch {
            let data = epoll::EventData::new_u64(INTERFACE);
            epoll::add(&bells, watch, data, epoll::EventFlags::IN).map_err(os("epoll_ctl"))?;
        }
        let is_away = watch.as_ref().is_some_and(|watch| !watch.is_active());
        Ok(Self {
            driver,
            watch,
            is_away,
            control: Some(Control::new(connection, reaper)),
            bells,
            name: options.name.clone(),
            spin_ns: options.spin_ns,
            clock: ThreadClock::new(monotonic_ns()),
        })
    }

    fn run(&mut self) -> Result<(), ServeError> {
        if self.watch.as_ref().is_some_and(Watch::lacks_carrier) {
            self.say(NO_CARRIER);
        }
        let mut rounds = 0;
        let mut worked_at = 0;
        let mut now = monotonic_ns();
        loop {
            let Self { driver, clock, .. } = self;
            let received = driver.receive(now, &mut || clock.used_ns());
            if received > 0 {
                now = monotonic_ns();
            }
            driver.ran(now, clock.read(now));
            let until = driver.transmit(now, &mut || clock.used_ns());
            now = monotonic_ns();
            let used = clock.read(now);
            driver.ran(now, used);
            driver.handed_over(now);
            let worked = driver.bill(used);
            if !worked {
                driver.bill_idle(used);
            }
            self.report(now);
            let wait_ns = until.map(|at| at.saturating_sub(now));
            if worked {
                worked_at = now;
            }
            let busy = received > 0
                || wait_ns.is_some_and(|wait| wait <= self.spin_ns)
                || now - worked_at < self.spin_ns;
            rounds += 1;
            if busy && rounds < ROUNDS_MAX {
                continue;
            }
            rounds = 0;
            self.driver.publish(used);
            self.wait(if busy { Some(0) } else { wait_ns })?;
            now = monotonic_ns();
        }
    }

    /// Tells the flow manager what it has to know of the round.
    fn report(&mut self, now_ns: u64) {
        match &mut self.control {
            Some(control) => control.report_removed(&mut self.driver),
            None if self.driver.has_removed() => drop(self.driver.take_removed()),
            None => {}
        }
        for settled in self.driver.take_settled(now_ns) {
            self.tell(&settled);
        }
        if self.driver.has_faults() {
            for fault in self.driver.take_faults() {
                self.tell(&fault);
            }
        }
    }

    fn tell(&mut self, news: &FromDriver) {
        if let Some(control) = &mut self.control {
            control.tell(news, Vec::new());
        }
    }

    /// Waits for `wait_ns`, or for ever; returns at once if there is something to do.
    fn wait(&mut self, wait_ns: Option<u64>) -> Result<(), ServeError> {
        let now_ns = monotonic_ns();
        let wait_ns = match wait_ns {
            Some(0) => Some(0),
            _ => match self.driver.doze(now_ns) {
                None => Some(0),
                Some(u64::MAX) => wait_ns,
                Some(until) => {
                    let most = until.saturating_sub(now_ns);
                    Some(wait_ns.map_or(most, |ns| ns.min(most)))
                }
            },
        };
        let behind = self.control.as_ref().is_some_and(Control::is_behind);
        let limit = if behind {
            wait_ns.map_or(Some(1_000_000), |ns| Some(ns.min(1_000_000)))
        } else {
            wait_ns
        };
        if limit != Some(0) {
            let timeout = limit.map(|ns| Timespec {
                tv_sec: (ns / 1_000_000_000) as i64,
                tv_nsec: (ns % 1_000_000_000) as _,
            });
            // Waiting for the epoll set itself gives a timeout in nanoseconds on every kernel. The link
            // is not in the set: each frame would tell it, also while nobody sleeps.
            let [one, other] = self.driver.link().descriptors();
            let mut watched = [
                PollFd::new(&self.bells, PollFlags::IN),
                PollFd::from_borrowed_fd(one, PollFlags::IN),
                PollFd::from_borrowed_fd(other, PollFlags::IN),
            ];
            match poll(&mut watched, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(os("ppoll")(errno)),
            }
            for link in &watched[1..] {
                if link.revents().contains(PollFlags::ERR) {
                    // Such as an interface that went down: reading the error clears it.
                    let _ = socket_error(link);
                }
            }
        }
        self.driver.awake();
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 64];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.bells, &mut events, Some(&now)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => return Err(os("epoll_wait")(errno)),
        };
        let mut control = false;
        let mut rung = false;
        for event in &events[..count] {
            match event.data.u64() {
                CONTROL => control = true,
                INTERFACE => self.hear_interface()?,
                // A domain rang: it has posted what it wants.
                _ => rung = true,
            }
        }
        if rung {
            let rang = events[..count].iter().map(|event| event.data.u64());
            self.hear_bells(rang.filter_map(|data| u32::try_from(data).ok()).map(DomainId));
        }
        self.bells.unmute(|domain| self.driver.is_open(domain, monotonic_ns()));
        if control || behind {
            self.obey()?;
        }
        Ok(())
    }

    /// Whoever has rung pays for having woken the loop; who cannot is not heard for a while.
    fn hear_bells(&mut self, ringers: impl Iterator<Item = DomainId> + Clone) {
        self.driver.bill_rings(self.clock.used_ns(), ringers.clone());
        let now_ns = monotonic_ns();
        for ringer in ringers {
            if !self.driver.is_open(ringer, now_ns) {
                self.bells.mute(ringer);
            }
        }
    }

    /// Somebody has changed the interface.
    fn hear_interface(&mut self) -> Result<(), ServeError> {
        let news = self.watch.as_mut().map(Watch::changed).unwrap_or_default();
        for news in news {
            self.is_away |= matches!(news, News::Up(false) | News::Carrier(false));
            match news {
                News::Mtu(mtu) => {
                    // More than a packet can have is more than anybody sends.
                    let news = self.driver.set_mtu(u16::try_from(mtu).unwrap_or(u16::MAX));
                    if let (Some(news), Some(control)) = (news, &mut self.control) {
                        control.tell(&news, Vec::new());
                    }
                }
                News::Up(true) => self.say("is up again"),
                News::Up(false) => {
                    self.say("is down: nothing is sent or received until somebody brings it up");
                }
                News::Carrier(true) => self.say("has a carrier again"),
                News::Carrier(false) => self.say(NO_CARRIER),
                News::Name(name) => {
                    self.say(&format!("is called {name} now"));
                    self.name = name;
                }
                News::Station(station) => {
                    let before = self.driver.link().facts().station;
                    return Err(ServeError::Station { name: self.name.clone(), station, before });
                }
                News::Gone => return Err(ServeError::Gone { name: self.name.clone() }),
                News::Owns(owned) => self.tell_address(&owned, true),
                News::Disowns(owned) => self.tell_address(&owned, false),
            }
        }
        if self.is_away && self.watch.as_ref().is_some_and(Watch::is_active) {
            self.is_away = false;
            self.tell(&FromDriver::CameUp);
        }
        Ok(())
    }

    /// Tells the flow manager which addresses the kernel has: it answers for each on every interface.
    fn tell_addresses(&mut self) {
        let owned: Vec<Owned> = self.watch.iter().flat_map(Watch::addresses).cloned().collect();
        for owned in &owned {
            self.tell_address(owned, true);
        }
    }

    fn tell_address(&mut self, owned: &Owned, taken: bool) {
        let (prefix, dev) = (owned.prefix, owned.dev.clone());
        if prefix.address().is_ipv4() && !prefix.address().is_loopback() {
            self.tell(&FromDriver::KernelAddress { prefix, dev, taken });
        }
    }

    /// Tells whoever runs the driver something of the interface.
    fn say(&self, what: &str) {
        // Nobody may be listening.
        let _ = writeln!(io::stderr(), "plumb driver: {} {what}", self.name);
    }

    fn obey(&mut self) -> Result<(), ServeError> {
        let Some(control) = &mut self.control else { return Ok(()) };
        control.flush();
        let Self { driver, bells, clock, .. } = self;
        match control.obey(driver, bells, monotonic_ns(), &mut || clock.used_ns()) {
            Heard::All => Ok(()),
            Heard::Refused(reason) => Err(ServeError::Refused(reason)),
            Heard::Gone => {
                epoll::delete(&self.bells, control.as_fd()).map_err(os("epoll_ctl"))?;
                self.control = None;
                // Nothing depends on whether somebody reads it.
                let _ = io::stderr().write_all(ALONE.as_bytes());
                Ok(())
            }
        }
    }
}
