//! When something is to happen without a segment: one deadline for all of it.
//!
//! A timer is a field; setting it costs a store. Whoever drives the connection asks
//! [`Connection::next_deadline`] when it has nothing else to do.

use crate::connection::{Connection, Error, State, TICK_NS};
use crate::recovery::Phase;

#[derive(Debug)]
pub(crate) struct Timers {
    /// What a retransmission waits for.
    pub(crate) retransmission: Option<(Cause, u64)>,
    /// Since when the time-out runs.
    from_ns: u64,
    /// When more will be known about what arrived out of order.
    pub(crate) reorder_ns: Option<u64>,
    /// Since when the peer has not acknowledged anything new although there was something.
    pub(crate) stalled_ns: Option<u64>,
    /// When the peer was heard last.
    pub(crate) heard_ns: u64,
    /// Unanswered probes whether the peer lives.
    pub(crate) probes: u8,
    /// When the last of them was sent.
    probed_ns: u64,
    /// Probes of the closed window, answered or not: each waits longer (SHLD-30).
    pub(crate) window_probes: u8,
    /// End of FIN-WAIT-2 or TIME-WAIT.
    pub(crate) wait_ns: Option<u64>,
    /// Nothing leaves before, for the sake of the rate.
    pub(crate) pace_ns: u64,
    /// Second in which challenges are counted, and how many there were.
    challenges: (u64, u16),
}

/// Why something will be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The retransmission time-out (RFC 6298).
    TimeOut,
    /// Tail loss probe (RFC 8985 §7).
    TailProbe,
    /// What arrived late enough to be lost (RFC 8985 §6).
    Reordering,
    /// The peer's window is closed (RFC 9293 §3.8.6.1).
    Persist,
}

/// After so many time-outs in a row, packets may be too large for the path (RFC 4821 §7.7).
const BLACK_HOLE_TIMEOUTS: u8 = 4;

impl Timers {
    pub(crate) const fn new(now_ns: u64) -> Self {
        Self {
            retransmission: None,
            from_ns: now_ns,
            reorder_ns: None,
            stalled_ns: None,
            heard_ns: now_ns,
            probes: 0,
            probed_ns: now_ns,
            window_probes: 0,
            wait_ns: None,
            pace_ns: 0,
            challenges: (0, 0),
        }
    }

    pub(crate) const fn stop(&mut self) {
        self.retransmission = None;
        self.reorder_ns = None;
        self.stalled_ns = None;
        self.wait_ns = None;
    }

    /// The peer acknowledged something new (RFC 6298 §5.3).
    pub(crate) const fn restart(&mut self, now_ns: u64) {
        self.from_ns = now_ns;
        self.stalled_ns = Some(now_ns);
    }

    /// The time-out runs from now on.
    pub(crate) const fn restart_timeout(&mut self, now_ns: u64) {
        self.from_ns = now_ns;
    }

    /// Something was sent; the time-out starts if it does not run.
    pub(crate) const fn start(&mut self, now_ns: u64) {
        if self.retransmission.is_none() {
            self.from_ns = now_ns;
        }
        self.stall(now_ns);
    }

    /// What was waited for with probes of a closed window has been sent.
    pub(crate) const fn end_persist(&mut self) {
        self.retransmission = None;
        self.stalled_ns = None;
        self.window_probes = 0;
    }

    /// The peer is asked and has not answered yet: from now on it counts how long it does not.
    pub(crate) const fn stall(&mut self, now_ns: u64) {
        if self.stalled_ns.is_none() {
            self.stalled_ns = Some(now_ns);
        }
    }

    /// Whether another challenge ACK may be sent (RFC 5961 §7).
    pub(crate) const fn may_challenge(&mut self, now_ns: u64, per_second: u16) -> bool {
        let second = now_ns / 1_000_000_000;
        if self.challenges.0 != second {
            self.challenges = (second, 0);
        }
        let may = self.challenges.1 < per_second;
        self.challenges.1 += may as u16;
        may
    }
}

impl Connection {
    /// When [`Self::poll_transmit`] is to be called although nothing else happens; `None` for never.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.state == State::Closed {
            return None;
        }
        let paced = self.timers.pace_ns;
        let waits = (paced > 0 && self.wants_to_send()).then_some(paced);
        [
            self.timers.retransmission.map(|(_, due_ns)| due_ns),
            self.receive.acks.deadline,
            self.timers.wait_ns,
            self.keepalive_due_ns(),
            self.user_timeout_due_ns(),
            waits,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn wants_to_send(&self) -> bool {
        let fin_due = self.send.fin && self.map.end() <= self.send.written;
        self.map.lost() > 0 || self.unsent() > 0 || fin_due
    }

    /// Sets what a retransmission waits for.
    pub(crate) fn arm_retransmission(&mut self, now_ns: u64) {
        if self.map.is_empty() {
            self.timers.reorder_ns = None;
            if !matches!(self.timers.retransmission, Some((Cause::Persist, _))) {
                self.timers.retransmission = None;
                self.timers.stalled_ns = None;
            }
            return;
        }
        let timeout_ns = self.rtt.timeout_ns(&self.rto_bounds());
        let timeout_ns = self.timers.from_ns.saturating_add(timeout_ns);
        let mut next = (Cause::TimeOut, timeout_ns);
        if let Some(reorder_ns) = self.timers.reorder_ns {
            next = (Cause::Reordering, reorder_ns.min(timeout_ns));
        } else if self.wants_tail_probe() {
            let due_ns = self.usage.last_sent_ns.max(self.timers.from_ns.min(now_ns))
                + self.tail_probe_after_ns();
            // RFC 8985 §7.2: a probe in place of the time-out, if that would be earlier.
            next = (Cause::TailProbe, due_ns.min(timeout_ns));
        }
        self.timers.retransmission = Some(next);
    }

    /// The window is closed, and data waits: asks the peer now and then (MUST-35, MUST-36, SHLD-29).
    pub(crate) fn arm_persist(&mut self, now_ns: u64) {
        if self.timers.retransmission.is_some() {
            return;
        }
        let bounds = self.rto_bounds();
        let base = self.rtt.timeout_ns(&bounds);
        let after = base.saturating_mul(1 << self.timers.window_probes.min(32)).min(bounds.max_ns);
        self.timers.retransmission = Some((Cause::Persist, now_ns.saturating_add(after)));
    }

    /// Does what is due.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        if self.timers.wait_ns.is_some_and(|due_ns| due_ns <= now_ns) {
            self.enter(now_ns, State::Closed);
            self.timers.stop();
            self.pending.quiet();
            return;
        }
        if self.user_timeout_due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.give_up(now_ns);
            return;
        }
        if let Some((cause, due_ns)) = self.timers.retransmission.filter(|(_, due)| *due <= now_ns)
        {
            self.retransmission_due(now_ns, cause, due_ns);
        }
        if self.receive.acks.deadline.is_some_and(|due_ns| due_ns <= now_ns) {
            self.receive.acks.now = true;
        }
        if self.keepalive_due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.keepalive_due(now_ns);
        }
    }

    fn retransmission_due(&mut self, now_ns: u64, cause: Cause, due_ns: u64) {
        self.timers.retransmission = None;
        match cause {
            Cause::TimeOut => self.timeout_due(now_ns),
            Cause::TailProbe => self.pending.tail_probe = true,
            Cause::Reordering => {
                let timeout_ns = self.rtt.timeout_ns(&self.rto_bounds());
                if self.timers.from_ns.saturating_add(timeout_ns) <= due_ns {
                    self.timeout_due(now_ns);
                } else {
                    self.reordering_due(now_ns);
                    self.arm_retransmission(now_ns);
                }
            }
            Cause::Persist => {
                self.timers.window_probes = self.timers.window_probes.saturating_add(1);
                self.pending.window_probe = true;
            }
        }
    }

    fn timeout_due(&mut self, now_ns: u64) {
        if self.pending_departure() {
            // It has not even left this host: the wire is slow, not the path.
            self.timers.from_ns = now_ns;
            self.arm_retransmission(now_ns);
            return;
        }
        let repetitions = self.config.syn_repetitions.filter(|_| self.state == State::SynSent);
        if repetitions.is_some_and(|max| self.counts.timeouts >= u64::from(max)) {
            self.give_up(now_ns);
            return;
        }
        self.time_out(now_ns);
        if self.rtt.backoff() >= BLACK_HOLE_TIMEOUTS
            && self.recovery.phase() == Phase::Loss
            && self.state.is_synchronised()
            && self.send.window > 0
            && self.front_is_full()
            && self.path.black_hole(now_ns)
        {
            self.mtu_changed(now_ns);
        }
        // Runs from now on (RFC 6298 §5.6).
        self.timers.from_ns = now_ns;
        self.arm_retransmission(now_ns);
    }

    /// R2 (RFC 9293 §3.8.3): when a connection without progress ends.
    fn user_timeout_due_ns(&self) -> Option<u64> {
        let limit_ns = if self.state.is_synchronised() {
            self.config.user_timeout_ns
        } else {
            self.config.syn_timeout_ns
        };
        self.timers.stalled_ns.map(|since_ns| since_ns.saturating_add(limit_ns))
    }

    fn give_up(&mut self, now_ns: u64) {
        let error = self.soft_error.unwrap_or(Error::TimedOut);
        // RFC 9293 §3.8.3: the peer, should it be there, had better know.
        let tell = self.state.is_synchronised();
        self.fail(now_ns, error);
        if tell {
            self.pending.reset(self.map.end(), Some(self.receive.next()));
        }
    }

    /// Only a connection that waits for nothing is probed (RFC 9293 §3.8.4).
    fn keepalive_due_ns(&self) -> Option<u64> {
        let keepalive = self.config.keepalive?;
        let idle = self.state.is_synchronised()
            && self.state != State::TimeWait
            && self.map.is_empty()
            && self.timers.retransmission.is_none();
        // Not sooner than a tick after each other, whatever the application says; and each has its time
        // for an answer, however long the connection was idle before it was to be probed.
        let due_ns = match self.timers.probes {
            0 => self.timers.heard_ns.saturating_add(keepalive.idle_ns),
            _ => self.timers.probed_ns.saturating_add(keepalive.interval_ns.max(TICK_NS)),
        };
        idle.then_some(due_ns)
    }

    fn keepalive_due(&mut self, now_ns: u64) {
        let Some(keepalive) = self.config.keepalive else { return };
        // MUST-29: one that is lost says nothing.
        if self.timers.probes >= keepalive.probes.max(2) {
            self.give_up(now_ns);
        } else {
            self.timers.probes += 1;
            self.timers.probed_ns = now_ns;
            self.pending.alive_probe = true;
        }
    }
}
