//! The thread that hears which ways were found while no call does, and sends what waited for them. There is one
//! while something waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rbuf_shm::monotonic_ns;
use stack_layer::{ControlError, Peer};

use super::hops::{Waiting, Way};
use super::{Inner, lock};
use crate::tcp::last_words;
use crate::{Error, Host};

/// Longest that a neighbour is asked for, and more.
const PATIENCE_NS: u64 = 10_000_000_000;

impl Inner {
    /// Makes sure that what waits is sent when it can be.
    pub(super) fn call_courier(this: &Arc<Self>) -> Result<(), Error> {
        if this.has_courier.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let (inner, errand) = (Arc::clone(this), last_words::Errand::begin());
        let work = move || {
            let _errand = errand;
            while inner.carry() {}
        };
        let spawned = thread::Builder::new().name("plumb-udp".into()).spawn(work);
        if let Err(error) = spawned {
            this.has_courier.store(false, Ordering::Release);
            return Err(Error::Thread(error));
        }
        Ok(())
    }

    /// Waits for a way and sends what waited for it; `false` if nothing waits any more.
    fn carry(&self) -> bool {
        let deadline_ns = monotonic_ns() + PATIENCE_NS;
        let is_next = || {
            let hops = lock(&self.hops);
            hops.is_settled() || hops.is_ready()
        };
        let told = Host::settle(&self.host, deadline_ns, is_next);
        loop {
            let next = lock(&self.hops).next_ready(monotonic_ns());
            let Some((datagram, way)) = next else { break };
            self.deliver(datagram, way);
            lock(&self.hops).has_left();
            self.moved.notify_all();
        }
        if told.is_err() {
            // Nobody will say.
            let lost = lock(&self.hops).give_up();
            self.mourn(lost);
            self.moved.notify_all();
        }
        if !lock(&self.hops).is_settled() {
            return true;
        }
        self.has_courier.store(false, Ordering::Release);
        self.moved.notify_all();
        // Who began to wait meanwhile has found a courier.
        !lock(&self.hops).is_settled() && !self.has_courier.swap(true, Ordering::AcqRel)
    }

    fn deliver(&self, datagram: Waiting, (mac, link): Way) {
        let Waiting { to, payload } = datagram;
        let peer = Peer::At { address: to, mac };
        let doors = self.doors();
        let sent = doors.to(link).is_some_and(|door| {
            let buffer = self.late_buffer(door, to, peer, monotonic_ns() + PATIENCE_NS);
            buffer.is_ok_and(|mut buffer| {
                buffer.write(&payload) && buffer.leave().is_ok_and(|left| left)
            })
        });
        match self.too_narrow(to, payload.len()) {
            _ if sent => {}
            // Accepted before that was known.
            Some(mtu) => self.tell_lost(to, ControlError::TooLarge { mtu }),
            None => self.mourn(vec![to]),
        }
    }

    /// Waits until some way is found, some datagram has left, or flows are turned; not for long.
    pub(super) fn await_move(&self, deadline_ns: u64) {
        let left_ns = deadline_ns.saturating_sub(monotonic_ns());
        let hops = lock(&self.hops);
        if hops.is_settled() && !hops.is_holding() {
            return;
        }
        drop(self.moved.wait_timeout(hops, Duration::from_nanos(left_ns.min(PATIENCE_NS))));
    }

    /// Waits until nothing waits any more.
    pub(super) fn await_courier(&self, deadline_ns: u64) {
        while self.has_courier.load(Ordering::Acquire) && monotonic_ns() < deadline_ns {
            let hops = lock(&self.hops);
            if self.has_courier.load(Ordering::Acquire) {
                let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
                drop(self.moved.wait_timeout(hops, left));
            }
        }
    }
}
