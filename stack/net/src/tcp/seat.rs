//! A seat at a flow: where threads of the application and the service thread take turns.
//!
//! Whoever holds the lock does the work, and nobody sleeps with it, asks the flow manager, or reads or writes
//! a file. While a thread sleeps here, what arrives wakes it, and the service thread leaves the work to it. A
//! thread that leaves a call lists the seat, and the service thread looks after it within a tick.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbuf_channel::{Event, Fault, Wait};
use rbuf_shm::monotonic_ns;

use super::dump::{self, Dump};
use super::readiness::Condition;
use super::service::{Outcome, Served, Service};
use crate::Error;
use crate::error::io_error;
use crate::flow::{FlowDevice, Shared};

/// For ever.
pub(super) const NEVER: u64 = u64::MAX;

/// What is done at a seat, under its lock.
pub(super) trait Work {
    /// What threads may wait for; a change wakes those that sleep.
    type Sight: Copy + PartialEq;
    /// Descriptors that show it to whoever watches them.
    type Conditions: Default;

    /// The flow's channels; `None` if it is not ours any more.
    fn device(&mut self) -> Option<&mut FlowDevice>;

    /// Takes in what has arrived, and what the flow manager says.
    fn take_in(&mut self, shared: &Shared, now_ns: u64);

    /// Sends what follows from that.
    fn send_out(&mut self, shared: &Shared, now_ns: u64);

    /// What a thread would see now.
    fn sight(&self) -> Self::Sight;

    /// When there is something to do although nothing arrives; [`NEVER`].
    fn due_ns(&self, now_ns: u64) -> u64;

    /// Whether nothing is left to be done.
    fn is_done(&self) -> bool;

    /// Whether anybody watches.
    fn is_watched(conditions: &Self::Conditions) -> bool;

    /// Shows those who watch what they would see.
    fn show(&self, conditions: &Self::Conditions);

    /// What is to be written down, if anything.
    fn report(&mut self) -> Option<Dump> {
        None
    }
}

pub(super) struct Seat<W: Work> {
    desk: Mutex<Desk<W>>,
    pub(super) shared: Arc<Shared>,
    service: Arc<Service>,
    conditions: W::Conditions,
    wait: Wait,
    /// Whether the service thread will look here within a tick.
    listed: AtomicBool,
}

/// What is protected by the lock.
struct Desk<W: Work> {
    work: W,
    /// Threads that sleep.
    sleepers: u32,
    /// When one of them at least wakes by itself, and what it saw before it slept.
    asleep_until_ns: u64,
    seen: Option<W::Sight>,
}

impl<W: Work> Seat<W> {
    /// A seat of `shared`, which `service` looks after.
    pub(super) fn new(work: W, shared: Arc<Shared>, service: Arc<Service>, wait: Wait) -> Self {
        let desk = Desk { work, sleepers: 0, asleep_until_ns: 0, seen: None };
        Self {
            desk: Mutex::new(desk),
            shared,
            service,
            conditions: W::Conditions::default(),
            wait,
            listed: AtomicBool::new(false),
        }
    }

    /// Its place among the flows of the domain.
    pub(super) fn slot(&self) -> u32 {
        self.shared.slot()
    }

    /// From now on the service thread looks after `served`, which sits here.
    pub(super) fn register(&self, served: &Arc<dyn Served>) {
        self.service.add(served);
    }

    /// The service thread looks here no more, for `served`; another one may have the slot by now.
    pub(super) fn leave_for_good(&self, served: *const ()) {
        self.service.remove(self.slot(), served);
    }

    /// The service thread will look at `slot` within a tick.
    pub(super) fn list(&self) {
        self.service.list(self.slot());
    }

    /// The service thread is to keep `served` until it is done.
    pub(super) fn adopt(&self, served: Arc<dyn Served>) {
        self.service.adopt(served);
    }

    fn lock(&self) -> MutexGuard<'_, Desk<W>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, and does nothing.
    pub(super) fn peek<T>(&self, look: impl FnOnce(&W) -> T) -> T {
        look(&self.lock().work)
    }

    /// Does something, sends what follows from it, and leaves the rest to the service thread.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut W, u64) -> T) -> T {
        let (mut desk, now_ns) = (self.lock(), monotonic_ns());
        desk.work.take_in(&self.shared, now_ns);
        let result = act(&mut desk.work, now_ns);
        desk.work.send_out(&self.shared, now_ns);
        self.leave(desk, now_ns);
        result
    }

    /// Does something, and neither takes in what has arrived nor sends.
    pub(super) fn aside<T>(&self, act: impl FnOnce(&mut W, u64) -> T) -> T {
        act(&mut self.lock().work, monotonic_ns())
    }

    /// Looks until there is what `look` looks for, and sleeps between looks, until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or what `look` says.
    pub(super) fn wait_for<T>(
        &self,
        deadline_ns: u64,
        nonblocking: bool,
        mut look: impl FnMut(&mut W, u64) -> Result<T, stack_socket::Error>,
    ) -> io::Result<T> {
        let spins_max = match self.wait {
            Wait::Spin => u64::MAX,
            Wait::Block => 0,
            Wait::Adaptive { spins } => u64::from(spins),
        };
        let mut spins = spins_max;
        loop {
            let (mut desk, now_ns) = (self.lock(), monotonic_ns());
            let call = self.shared.calls();
            desk.work.take_in(&self.shared, now_ns);
            let found = look(&mut desk.work, now_ns);
            desk.work.send_out(&self.shared, now_ns);
            if !matches!(found, Err(stack_socket::Error::WouldBlock)) {
                self.leave(desk, now_ns);
                return found.map_err(io_error);
            }
            if nonblocking || now_ns >= deadline_ns {
                self.leave(desk, now_ns);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if spins > 0 {
                spins -= 1;
                drop(desk);
                std::hint::spin_loop();
                continue;
            }
            self.sleep(desk, call, deadline_ns, now_ns).map_err(Error::from)?;
            spins = spins_max;
        }
    }

    /// Sleeps until something arrives or is due, or somebody else at this seat sees something new and has
    /// called more than `call` times.
    fn sleep(
        &self,
        mut desk: MutexGuard<'_, Desk<W>>,
        call: u32,
        deadline_ns: u64,
        now_ns: u64,
    ) -> Result<(), Fault> {
        // Nothing arrives any more without a flow: what is to be seen is.
        let seen = match desk.work.device() {
            Some(device) => device.rx().await_published(1)?,
            None => None,
        };
        let Some(seen) = seen else { return Ok(()) };
        // What this thread saw and has no use for may be what another one waits for, or watches.
        let wakes = self.signal(&mut desk, now_ns);
        let until_ns = deadline_ns.min(desk.work.due_ns(now_ns));
        desk.note_sleep(until_ns);
        self.let_go(desk);
        if wakes {
            // This thread as well, unless it counts its own call.
            self.shared.call();
        }
        let call = if wakes { call.wrapping_add(1) } else { call };
        // News of the flow manager is the service thread's to hear, which calls.
        self.shared.sleep(&self.shared.rx_words, seen, call, until_ns);
        let mut desk = self.lock();
        desk.sleepers -= 1;
        if desk.sleepers == 0
            && let Some(device) = desk.work.device()
        {
            device.rx().awake();
        }
        Ok(())
    }

    /// Gives the lock up; sleeping threads look again if something has changed that they may wait for,
    /// or if something is due before they would.
    fn leave(&self, mut desk: MutexGuard<'_, Desk<W>>, now_ns: u64) {
        let wakes = self.signal(&mut desk, now_ns);
        self.let_go(desk);
        if wakes {
            self.shared.call();
        }
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.service.list(self.slot());
        }
    }

    /// Gives the lock up, and then writes down what is to be.
    fn let_go(&self, mut desk: MutexGuard<'_, Desk<W>>) {
        let report = desk.work.report();
        drop(desk);
        if let Some(report) = report {
            dump::append(&report);
        }
    }

    /// Shows what there is to see to whoever watches, and returns whether those that sleep are to be called.
    /// An application that watches is not in a call when something arrives, so the driver is to say at once
    /// that it has.
    fn signal(&self, desk: &mut Desk<W>, now_ns: u64) -> bool {
        if W::is_watched(&self.conditions) {
            desk.arm(&self.shared);
            desk.work.show(&self.conditions);
        }
        desk.sleepers > 0 && desk.has_news_for_sleepers(now_ns)
    }

    /// Whether somebody has asked for a descriptor.
    pub(super) fn is_watched(&self) -> bool {
        W::is_watched(&self.conditions)
    }

    /// A descriptor that is readable while what it shows is to be seen.
    pub(super) fn descriptor(
        &self,
        which: impl Fn(&W::Conditions) -> &Condition,
    ) -> io::Result<BorrowedFd<'_>> {
        which(&self.conditions).descriptor()?;
        self.with(|_, _| ());
        which(&self.conditions).descriptor()
    }

    /// What the service thread does: what is due; and arms the flow, unless a thread is at it.
    pub(super) fn serve(&self) -> Outcome {
        self.listed.store(false, Ordering::Release);
        let mut desk = self.lock();
        if desk.sleepers > 0 {
            return Outcome::Until(None);
        }
        let now_ns = monotonic_ns();
        desk.work.take_in(&self.shared, now_ns);
        desk.work.send_out(&self.shared, now_ns);
        desk.arm(&self.shared);
        // Nobody sleeps here.
        self.signal(&mut desk, now_ns);
        let (done, due_ns) = (desk.work.is_done(), desk.work.due_ns(now_ns));
        self.let_go(desk);
        if done {
            return Outcome::Finished;
        }
        Outcome::Until(Some(due_ns).filter(|due_ns| *due_ns != NEVER))
    }

    /// Whether threads sleep here, who will look after what arrives.
    pub(super) fn is_attended(&self) -> bool {
        self.lock().sleepers > 0
    }

    /// The driver's event was read: the flow may be armed again.
    pub(super) fn event_read(&self, event: Event) {
        if let Some(device) = self.lock().work.device() {
            device.rx().heard(event);
        }
    }
}

impl<W: Work> Desk<W> {
    /// Asks the driver for an event when something arrives; what came before that was asked is taken in.
    fn arm(&mut self, shared: &Shared) {
        let Some(device) = self.work.device() else { return };
        if device.rx().is_armed() {
            return;
        }
        // What came before it was armed is found by looking once more.
        if device.rx().arm() != Ok(false) {
            // Later: what was sent a moment ago may be answered already.
            let now_ns = monotonic_ns();
            self.work.take_in(shared, now_ns);
            self.work.send_out(shared, now_ns);
        }
    }

    /// A thread is about to sleep.
    fn note_sleep(&mut self, until_ns: u64) {
        let earlier_ns = if self.sleepers > 0 { self.asleep_until_ns } else { NEVER };
        self.asleep_until_ns = until_ns.min(earlier_ns);
        self.sleepers += 1;
        self.seen = Some(self.work.sight());
    }

    /// Whether threads that sleep see something else than when they went to sleep, or would be late.
    fn has_news_for_sleepers(&mut self, now_ns: u64) -> bool {
        let late = self.work.due_ns(now_ns) < self.asleep_until_ns;
        let sight = Some(self.work.sight());
        std::mem::replace(&mut self.seen, sight) != sight || late
    }
}
