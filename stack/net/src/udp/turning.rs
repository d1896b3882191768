//! Whom the flows of a socket are with.
//!
//! `connect` only says with whom they are to be. From then on, datagrams go there and are taken from there only,
//! and nobody is waited for. A thread sees to it that the flow manager and the driver hear of it: it *turns* the flows.
//! Then the driver gives the flow nothing from strangers, and lets nothing out to them. What was accepted for others
//! leaves before that, by flows that are with anybody; what is sent to a host to whom no flow admits it is held until
//! one does. The neighbour is not waited for: a host that is silent has its flow at once.
//!
//! No other flow is opened for that, unless the host is on a link on which the socket has none. A socket at any
//! address keeps a flow on each link, without ends while it is connected.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base_flow::Endpoints;
use base_rpc::Refusal;
use rbuf_shm::monotonic_ns;

use super::door::{Door, Side, Turning, With};
use super::doors::Doors;
use super::hops::Waiting;
use super::sending::KNOWN_NS;
use super::troubles::PATH_NS;
use super::{Inner, lock};
use crate::tcp::last_words::Errand;
use crate::{Error, Host};

/// How long the daemons are given to turn a flow, what was sent to leave, and neighbours to answer.
const PATIENCE_NS: u64 = 10_000_000_000;

impl Inner {
    /// Connects the socket to `remote`, or to nobody. Who may wait hears if the flow manager refuses it, and has
    /// flows that are turned if that is quick.
    pub(super) fn turn_to(this: &Arc<Self>, remote: Option<SocketAddr>) -> Result<(), Error> {
        let is_patient = !this.nonblocking.load(Ordering::Relaxed);
        if let Some(remote) = remote.filter(|_| is_patient) {
            this.know_way(remote)?;
        }
        let before = this.wish(remote);
        Self::call_turner(this)?;
        if is_patient {
            this.await_turned(monotonic_ns() + KNOWN_NS);
            if let Some(refusal) = this.why_not() {
                this.wish(before);
                Self::call_turner(this)?;
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    /// Says with whom the flows are to be, and whom the socket was connected to before.
    fn wish(&self, remote: Option<SocketAddr>) -> Option<SocketAddr> {
        let before = {
            let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
            let before = doors.remote();
            *doors = Arc::new(doors.wishing(remote));
            before
        };
        // Whoever waits is to look again for whom.
        self.doors().all().iter().for_each(|door| door.shared.call());
        self.notify_moved();
        before
    }

    /// Why the flows are not with whom they were last said to be.
    pub(super) fn why_not(&self) -> Option<Refusal> {
        let (serial, refusal) = lock(&self.refused).clone()?;
        (serial == self.doors().serial()).then_some(refusal)
    }

    fn notify_moved(&self) {
        let _hops = lock(&self.hops);
        self.moved.notify_all();
    }

    /// Whether the flows are with whom they are to be, or will not be.
    fn is_turned(&self) -> bool {
        self.turned.load(Ordering::Acquire) == self.doors().serial()
    }

    /// Makes sure that the flows are turned, and what is held is sent.
    pub(super) fn call_turner(this: &Arc<Self>) -> Result<(), Error> {
        if this.has_turner.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let inner = Arc::clone(this);
        let work = move || Self::turn(&inner);
        let spawned = thread::Builder::new().name("plumb-udp".into()).spawn(work);
        if let Err(error) = spawned {
            this.has_turner.store(false, Ordering::Release);
            return Err(Error::Thread(error));
        }
        Ok(())
    }

    fn turn(this: &Arc<Self>) {
        loop {
            while !this.is_turned() {
                let doors = this.doors();
                match Self::turn_once(this, &doors) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(Error::Refused(refusal)) => {
                        *lock(&this.refused) = Some((doors.serial(), refusal));
                    }
                    // Lost, or nobody to ask: every call says so.
                    Err(_) => {}
                }
                this.turned.store(doors.serial(), Ordering::Release);
                this.notify_moved();
            }
            Self::send_held(this);
            this.has_turner.store(false, Ordering::Release);
            this.notify_moved();
            // Who wanted something else meanwhile, or had something held, has found a turner.
            let is_idle = this.is_turned() && lock(&this.hops).first_held().is_none();
            if is_idle || this.has_turner.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }

    /// Turns the flows, if the time has come; `false` if it is to be looked again.
    fn turn_once(this: &Arc<Self>, doors: &Doors) -> Result<bool, Error> {
        let waits = |to: &SocketAddr| lock(&this.hops).waits_for_others(*to);
        let wanted = doors.remote().filter(|to| !waits(to));
        if !doors.are_with(wanted) {
            this.begin_turning(doors, wanted);
            let turned = match wanted {
                // Whoever sends now knows of it, and is not cut off if something else is wanted.
                _ if this.doors().serial() != doors.serial() => Ok(()),
                None => this.turn_to_anybody(doors),
                Some(remote) => this.turn_to_one(doors, remote),
            };
            for door in doors.all() {
                door.desk().set_turning(None);
                door.shared.tell_strangers();
            }
            this.notify_moved();
            turned?;
        }
        if this.doors().serial() != doors.serial() {
            return Ok(false);
        }
        let Some(remote) = doors.remote().filter(|_| wanted.is_none()) else { return Ok(true) };
        Self::send_held(this);
        let hops = lock(&this.hops);
        let is_early = !hops.is_holding() && hops.waits_for_others(remote);
        if is_early && this.doors().serial() == doors.serial() {
            drop(this.moved.wait_timeout(hops, Duration::from_nanos(PATIENCE_NS)));
        }
        Ok(false)
    }

    /// From now on nothing is sent that would be refused when the flows are turned.
    fn begin_turning(&self, doors: &Doors, to: Option<SocketAddr>) {
        let is_free = doors.bound().local.is_any_address();
        for door in doors.all() {
            let changes_source = is_free && self.host.has_many(door.shared.link());
            door.desk().set_turning(Some(Turning { to, changes_source }));
        }
    }

    fn turn_to_anybody(&self, doors: &Doors) -> Result<(), Error> {
        for door in doors.all() {
            self.turn_door(door, doors.bound())?;
        }
        if doors.bound().local.is_any_address() {
            let missing = doors.missing(&self.host);
            // A link that has no room for it, or no driver, brings nothing.
            let open = |link| Door::open(&self.host, &self.options, doors.bound(), Some(link));
            let more = missing.into_iter().filter_map(|link| open(link).ok());
            self.replace(doors, doors.all().iter().cloned().chain(more).collect());
        }
        Ok(())
    }

    fn turn_to_one(&self, doors: &Doors, remote: SocketAddr) -> Result<(), Error> {
        for door in doors.all() {
            self.await_left(door, doors.serial())?;
        }
        if doors.serial() != self.doors().serial() {
            return Ok(());
        }
        let ends = Endpoints { remote: Some(remote.into()), ..doors.bound() };
        let mut door = Arc::clone(doors.main());
        match self.turn_door(&door, ends) {
            Err(Error::Refused(Refusal::OtherLink { link, .. })) => {
                door = match doors.to(link) {
                    Some(door) => Arc::clone(door),
                    // It is the neighbour that opening with both ends would wait for.
                    None => Door::open(&self.host, &self.options, doors.bound(), Some(link))?,
                };
                self.turn_door(&door, ends)?;
            }
            turned => turned?,
        }
        self.learn_path(remote.ip(), door.desk().fib().path_mtu, PATH_NS);
        let others = doors.all().iter().filter(|other| !Arc::ptr_eq(other, &door));
        let others: Vec<Arc<Door>> = others.cloned().collect();
        for other in &others {
            other.switch_off();
        }
        self.replace(doors, std::iter::once(door).chain(others).collect());
        Ok(())
    }

    /// Puts other doors in place of `doors`, unless those have changed.
    fn replace(&self, doors: &Doors, list: Vec<Arc<Door>>) {
        let mut known = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        if known.all().iter().map(Arc::as_ptr).eq(doors.all().iter().map(Arc::as_ptr)) {
            *known = Arc::new(known.with_list(list));
        }
    }

    /// Has a flow be between `ends`.
    fn turn_door(&self, door: &Arc<Door>, ends: Endpoints) -> Result<(), Error> {
        let wanted = ends.remote.map_or(With::Anybody, |remote| With::One(remote.into()));
        if door.with() == wanted {
            return Ok(());
        }
        if self.host.is_gone() {
            return Err(Error::FlowManagerGone);
        }
        let said = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&said);
        door.shared.turn(ends, move |turned| *lock(&heard) = Some(turned));
        let is_said = || lock(&said).is_some();
        Host::settle(&self.host, monotonic_ns() + PATIENCE_NS, is_said)?;
        lock(&said).take().unwrap_or(Err(Error::TimedOut))?;
        let mut desk = door.desk();
        desk.switch_on();
        desk.hear(&door.shared)
    }

    /// Waits until what was sent up to now has left, or something else is wanted.
    fn await_left(&self, door: &Arc<Door>, serial: u64) -> Result<(), Error> {
        let sent = door.desk().sent();
        let deadline_ns = monotonic_ns() + PATIENCE_NS;
        let left = self.wait_until(Side::Send, Some(door), deadline_ns, false, |_, desk| {
            let is_over = desk.left()? >= sent || self.doors().serial() != serial;
            Ok(is_over.then_some(()))
        });
        match left {
            // What has not left by then is refused, and counted.
            Err(Error::WouldBlock) => Ok(()),
            left => left,
        }
    }

    /// Sends what was held, now that it can be sent or never will.
    fn send_held(this: &Arc<Self>) {
        loop {
            let Some((to, payload)) = lock(&this.hops).first_held() else { return };
            // Nobody asked for what the flows are with now: they will be turned first.
            if !this.admits(to) && !this.is_turned() {
                return;
            }
            let deadline_ns = monotonic_ns() + PATIENCE_NS;
            if !matches!(Self::pass(this, &payload, to, deadline_ns, false), Ok(true)) {
                this.mourn(vec![to]);
            }
            let mut hops = lock(&this.hops);
            hops.let_go();
            if hops.first_held().is_none() {
                *lock(&this.errand) = None;
            }
            drop(hops);
            this.notify_moved();
        }
    }

    /// Lets a datagram wait until the flows are turned, and the end of the process for it; `false` if too many do.
    pub(super) fn hold(this: &Arc<Self>, datagram: Waiting) -> Result<bool, Error> {
        let mut hops = lock(&this.hops);
        let is_held = hops.hold(datagram);
        if is_held {
            lock(&this.errand).get_or_insert_with(Errand::begin);
        }
        drop(hops);
        this.notify_moved();
        Self::call_turner(this)?;
        Ok(is_held)
    }

    /// No flow admits whom the socket is connected to: they are turned once more if they were, and nobody has said
    /// that they cannot be.
    pub(super) fn insist(&self) -> Result<(), Error> {
        if let Some(refusal) = self.why_not() {
            return Err(refusal.into());
        }
        if self.host.is_gone() {
            return Err(Error::FlowManagerGone);
        }
        if self.is_turned() {
            self.wish(self.doors().remote());
        }
        Ok(())
    }

    /// Waits until the flows are turned.
    pub(super) fn await_turned(&self, deadline_ns: u64) {
        self.await_moved(deadline_ns, |_| self.is_turned());
    }

    /// Waits until nothing is held any more.
    pub(super) fn await_held(&self, deadline_ns: u64) {
        self.await_moved(deadline_ns, |hops| hops.first_held().is_none());
    }

    /// Waits until more can be held, or need not be.
    pub(super) fn await_room(&self, deadline_ns: u64) {
        self.await_moved(deadline_ns, |hops| !hops.is_full());
    }

    fn await_moved(&self, deadline_ns: u64, done: impl Fn(&super::Hops) -> bool) {
        let mut hops = lock(&self.hops);
        while !done(&hops) {
            let left_ns = deadline_ns.saturating_sub(monotonic_ns());
            if left_ns == 0 {
                return;
            }
            let waited = self.moved.wait_timeout(hops, Duration::from_nanos(left_ns));
            hops = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
