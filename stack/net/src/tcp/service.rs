//! The service thread: what keeps connections going while the application computes (paper §3.3).
//!
//! One thread for each link whose arenas are in use by TCP. A thread of the application that leaves a call
//! puts its socket on a list. Once in a tick the service thread looks after what is listed: it does
//! what has become due, and arms the flow, so that the driver posts an event for what comes next.
//! A socket in which a thread sleeps is left to that thread. When nothing was listed for a tick it
//! sleeps until an event, a timer or a call-back of the flow manager. So an application that calls all
//! the time is disturbed once in a tick, and one that does not is served.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rbuf_channel::Event;
use rbuf_domain::Domain;
use rbuf_shm::{Doorbell, Ringer, monotonic_ns};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::last_words;
use crate::Host;
use crate::host::WeakHost;

/// How long a listed socket may wait.
const TICK_NS: u64 = 2_000_000;

/// What is listed in a tick takes no more memory than this at first, however often the same is.
const LISTED: usize = 1024;

/// So many orphans hold nobody up.
const ORPHANS_EASY: usize = 128;

/// How long each one more does, and for how many of them at most.
const ORPHAN_TURN: Duration = Duration::from_micros(50);
const ORPHAN_TURNS_MAX: u32 = 400;

/// Something that a service thread looks after.
pub(crate) trait Served: Send + Sync {
    /// Its place among the flows of the domain.
    fn slot(&self) -> u32;

    /// Does what is due and arms the flow, unless a thread of the application is at it.
    fn serve(&self) -> Outcome;

    /// The driver's event was read: the flow may be armed again.
    fn event_read(&self, event: Event);

    /// The process ends: what was written is the last.
    fn leave(&self) {}

    /// What has to be waited for when the process ends, if anything.
    fn undelivered(&self) -> Option<Undelivered> {
        None
    }
}

/// What a peer does not have yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Undelivered {
    pub(crate) to: SocketAddr,
    /// 0 if it is the last word only.
    pub(crate) bytes: u64,
}

/// What is to become of a socket that was served.
pub(crate) enum Outcome {
    /// It is at rest until then, or until something arrives; or a thread of the application looks after
    /// it, and will list it when it leaves.
    Until(Option<u64>),
    /// Nothing is left to be done, ever.
    Finished,
}

/// The services of a host, by link.
#[derive(Debug, Default)]
pub(crate) struct Services {
    by_link: Mutex<HashMap<u16, Arc<Service>>>,
}

impl Services {
    /// The service of `link`, started on first use.
    pub(crate) fn of(
        &self,
        host: &Host,
        link: u16,
        domain: &Arc<Domain>,
    ) -> std::io::Result<Arc<Service>> {
        let mut by_link = lock(&self.by_link);
        if let Some(service) = by_link.get(&link).filter(|old| Arc::ptr_eq(&old.domain, domain)) {
            return Ok(Arc::clone(service));
        }
        let service = Service::start(host, domain)?;
        by_link.insert(link, Arc::clone(&service));
        Ok(service)
    }

    /// The flow manager has something to say to a socket of `link`, if that is one of ours.
    pub(crate) fn list(&self, link: u16, slot: u32) {
        if let Some(service) = lock(&self.by_link).get(&link) {
            service.list(slot);
        }
    }
}

pub(crate) struct Service {
    domain: Arc<Domain>,
    bell: Ringer,
    all: Mutex<HashMap<u32, Weak<dyn Served>>>,
    /// Sockets whose application has gone, and which have not finished.
    orphans: Mutex<Vec<Arc<dyn Served>>>,
    listed: Mutex<Vec<u32>>,
    dormant: AtomicBool,
}

impl core::fmt::Debug for Service {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Service").field("listed", &self.listed).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    fn start(host: &Host, domain: &Arc<Domain>) -> std::io::Result<Arc<Self>> {
        let (bell, ringer) = Doorbell::new()?;
        let service = Arc::new(Self {
            domain: Arc::clone(domain),
            bell: ringer,
            all: Mutex::default(),
            orphans: Mutex::default(),
            listed: Mutex::new(Vec::with_capacity(LISTED)),
            dormant: AtomicBool::new(true),
        });
        last_words::include(&service);
        let mut sleeper = Sleeper {
            domain: Arc::clone(domain),
            bell,
            notices: Some(host.descriptor().try_clone_to_owned()?),
            is_told: true,
            is_abandoned: false,
            tells: false,
            deadlines: Deadlines::default(),
            due: Vec::new(),
            listed: Vec::with_capacity(LISTED),
            tick_ns: None,
        };
        let (running, host) = (Arc::downgrade(&service), host.downgrade());
        thread::Builder::new()
            .name("plumb-tcp".into())
            .spawn(move || while sleeper.work(&running, &host) {})?;
        Ok(service)
    }

    pub(super) fn add(&self, socket: &Arc<dyn Served>) {
        lock(&self.all).insert(socket.slot(), Arc::downgrade(socket));
    }

    /// Forgets `served`, if it is still the one in `slot`.
    pub(super) fn remove(&self, slot: u32, served: *const ()) {
        let mut all = lock(&self.all);
        if all.get(&slot).is_some_and(|known| known.as_ptr().cast() == served) {
            all.remove(&slot);
        }
    }

    /// Keeps a socket until it has finished, for its application has gone. Who lets go of many is held up
    /// until there are fewer: each has its flow until it has finished.
    pub(super) fn adopt(&self, socket: Arc<dyn Served>) {
        let slot = socket.slot();
        let count = {
            let mut orphans = lock(&self.orphans);
            orphans.push(socket);
            orphans.len()
        };
        self.list(slot);
        if count > ORPHANS_EASY {
            let turns = ((count - ORPHANS_EASY) as u32).min(ORPHAN_TURNS_MAX);
            thread::sleep(ORPHAN_TURN * turns);
        }
    }

    /// A thread has left a call on this socket.
    pub(super) fn list(&self, slot: u32) {
        lock(&self.listed).push(slot);
        if self.dormant.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    /// Gives up a socket that was adopted.
    fn let_go(&self, slot: u32) -> Option<Arc<dyn Served>> {
        let mut orphans = lock(&self.orphans);
        let index = orphans.iter().position(|orphan| orphan.slot() == slot)?;
        Some(orphans.swap_remove(index))
    }

    /// All that there are.
    pub(super) fn sockets(&self) -> Vec<Arc<dyn Served>> {
        lock(&self.all).values().filter_map(Weak::upgrade).collect()
    }

    fn get(&self, slot: u32) -> Option<Arc<dyn Served>> {
        lock(&self.all).get(&slot).and_then(Weak::upgrade)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The thread finds nobody to serve.
        self.bell.ring();
    }
}

/// Deadlines, by time and by slot.
#[derive(Default)]
struct Deadlines {
    by_time: BTreeSet<(u64, u32)>,
    by_slot: HashMap<u32, u64>,
}

impl Deadlines {
    fn set(&mut self, slot: u32, at_ns: Option<u64>) {
        if let Some(old_ns) = self.by_slot.remove(&slot) {
            self.by_time.remove(&(old_ns, slot));
        }
        if let Some(at_ns) = at_ns {
            self.by_slot.insert(slot, at_ns);
            self.by_time.insert((at_ns, slot));
        }
    }

    fn due(&mut self, now_ns: u64) -> Option<u32> {
        let (at_ns, slot) = *self.by_time.first()?;
        (at_ns <= now_ns).then(|| {
            self.set(slot, None);
            slot
        })
    }
}

/// What the thread has of its own. Nothing that it holds while it sleeps keeps a service or a host
/// alive.
struct Sleeper {
    domain: Arc<Domain>,
    bell: Doorbell,
    /// Readable when the flow manager has something to say; `None` when it has gone.
    notices: Option<OwnedFd>,
    /// Whether it may have said something.
    is_told: bool,
    deadlines: Deadlines,
    /// What is looked after in this round, and room for what is listed meanwhile.
    due: Vec<u32>,
    listed: Vec<u32>,
    /// Whether the driver is gone, so that it rings no more, and whether that is to be told.
    is_abandoned: bool,
    tells: bool,
    /// When the list is looked at; `None` while the thread is dormant.
    tick_ns: Option<u64>,
}

impl Sleeper {
    /// One round: serves what is due and sleeps; `false` if there is nobody to serve any more.
    fn work(&mut self, service: &Weak<Service>, host: &WeakHost) -> bool {
        let (Some(service), Some(host)) = (service.upgrade(), host.upgrade()) else { return false };
        self.domain.bell().answer();
        self.bell.answer();
        if std::mem::take(&mut self.is_told) {
            host.hear_notices();
        }
        if std::mem::take(&mut self.tells) {
            host.check_drivers();
        }
        let now_ns = monotonic_ns();
        let mut due = std::mem::take(&mut self.due);
        self.take_listed(&service, now_ns, &mut due);
        // A fault of the driver shows in each flow by itself.
        while let Ok(Some(event)) = self.domain.next_event() {
            let slot = event.slot();
            if let Some(socket) = service.get(slot) {
                socket.event_read(event);
            }
            due.push(slot);
        }
        due.extend(std::iter::from_fn(|| self.deadlines.due(now_ns)));
        due.sort_unstable();
        due.dedup();
        for slot in due.drain(..) {
            let Some(socket) = service.get(slot) else {
                self.deadlines.set(slot, None);
                continue;
            };
            let at_ns = match socket.serve() {
                Outcome::Until(at_ns) => at_ns,
                Outcome::Finished => {
                    // Closes its flow, which asks the flow manager: not under a lock.
                    drop(service.let_go(slot));
                    None
                }
            };
            self.deadlines.set(slot, at_ns);
        }
        self.due = due;
        // What others wait for is heard at once.
        let expects = host.is_opening();
        drop(service);
        drop(host);
        self.sleep(expects);
        true
    }

    /// Takes what is listed, if it is time to look. Nothing for a whole tick: the thread is dormant, and is
    /// rung for by whoever lists something.
    fn take_listed(&mut self, service: &Service, now_ns: u64, due: &mut Vec<u32>) {
        let mut listed = lock(&service.listed);
        match self.tick_ns {
            Some(tick_ns) if tick_ns > now_ns => {}
            Some(_) => {
                self.is_told = true;
                service.dormant.store(listed.is_empty(), Ordering::SeqCst);
                self.tick_ns = (!listed.is_empty()).then_some(now_ns + TICK_NS);
                std::mem::swap(&mut *listed, &mut self.listed);
                due.append(&mut self.listed);
            }
            None => self.tick_ns = (!listed.is_empty()).then_some(now_ns + TICK_NS),
        }
    }

    /// Sleeps until something happens, a deadline, or the next tick.
    fn sleep(&mut self, expects: bool) {
        self.domain.set_asleep(true);
        if !self.domain.has_events() {
            let now_ns = monotonic_ns();
            let deadline_ns = self.deadlines.by_time.first().map(|(at_ns, _)| *at_ns);
            let until_ns = deadline_ns.into_iter().chain(self.tick_ns).min();
            let timeout = until_ns.map(|at_ns| {
                let left_ns = at_ns.saturating_sub(now_ns);
                Timespec {
                    tv_sec: (left_ns / 1_000_000_000) as _,
                    tv_nsec: (left_ns % 1_000_000_000) as _,
                }
            });
            let own = self.bell.as_fd();
            let bell = if self.is_abandoned { own } else { self.domain.bell().as_fd() };
            // Who calls the flow manager hears the answer himself, so a thread with a tick to wait for
            // looks then, and is not woken by each.
            let notices = self.notices.as_ref().filter(|_| expects || self.tick_ns.is_none());
            let mut watched = [
                PollFd::from_borrowed_fd(bell, PollFlags::IN),
                PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(notices.map_or(bell, AsFd::as_fd), PollFlags::IN),
            ];
            let count = if notices.is_some() { 3 } else { 2 };
            let _ = poll(&mut watched[..count], timeout.as_ref());
            let gone = PollFlags::HUP | PollFlags::ERR;
            if !self.is_abandoned && watched[0].revents().intersects(gone) {
                (self.is_abandoned, self.tells) = (true, true);
            }
            let said = watched[2].revents();
            self.is_told |= !said.is_empty();
            if notices.is_some() && said.intersects(gone) {
                self.notices = None;
            }
        }
        self.domain.set_asleep(false);
    }
}
