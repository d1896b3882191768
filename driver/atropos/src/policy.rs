//! What a scheduler of the wire is asked, and what it answers.

use base_flow::Contract;

use crate::Line;

/// What a flow has at the head of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A frame of this cost.
    Frame {
        /// What it will be charged, [`Line::cost_ns`]; no more than [`Line::unit_ns`], whatever is claimed.
        cost_ns: u64,
    },
    /// Nothing.
    Empty,
    /// A frame, but nowhere to return its buffer: the flow is left out until it wakes.
    Blocked,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send the head frame of this flow, then report with [`Scheduler::served`].
    Serve {
        /// The flow.
        flow: u32,
        /// Whether it is sent on slack.
        slack: bool,
        /// When it should have left the wire, on the scheduler's clock.
        key_ns: i64,
    },
    /// Nothing may be sent for now. Times are of the caller's clock.
    Sleep {
        /// When something may be sent; `None` if only a wake-up changes anything.
        until_ns: Option<i64>,
        /// When the wire will stand idle if nothing was sent by then; not before `until_ns` less
        /// the lead. A caller that sleeps may do so until shortly before this.
        idle_ns: i64,
    },
}

/// What decides which flow may use the wire next: [`crate::Atropos`], or a policy that it is to be
/// compared with behind the same driver.
///
/// Times are of the caller's clock, which never goes back. Flows are small indices.
pub trait Scheduler {
    /// The line.
    fn line(&self) -> &Line;

    /// Nanoseconds the line stood idle although there was work, because the caller was kept from running;
    /// 0 from a policy that does not know the difference.
    fn stall_ns(&self) -> i64;

    /// Adds flow `index`, idle, with a contract that was admitted: by what is left of the line, or after
    /// the earlier contracts of the flows `after`. Then its first budget does not begin before those are
    /// settled.
    ///
    /// # Panics
    ///
    /// If there is such a flow, or its place [`binds`](Self::binds).
    fn add(&mut self, index: u32, contract: &Contract, after: &[u32]);

    /// Removes flow `index`; no effect if there is none.
    fn remove(&mut self, index: u32);

    /// Gives flow `index` another admitted contract, admitted as in [`Self::add`]. Its first budget begins
    /// at once, unless what was sent under earlier ones is not paid for yet.
    fn set_contract(&mut self, index: u32, contract: &Contract, after: &[u32], now_ns: i64);

    /// Whether an earlier contract at place `index` still binds: of its flow, or of one that was removed.
    fn binds(&self, index: u32) -> bool {
        let _ = index;
        false
    }

    /// A place where no earlier contract binds any more: each that [`binds`](Self::binds), once.
    fn settled(&mut self, now_ns: i64) -> Option<u32> {
        let _ = now_ns;
        None
    }

    /// Whether the scheduler must be told, by [`Self::wake`], that flow `index` has a frame.
    fn wants_wake(&self, index: u32) -> bool;

    /// Flow `index` had nothing to send, or could not, and now has a frame of `cost_ns`. No effect
    /// if the scheduler knows of a frame already.
    fn wake(&mut self, index: u32, cost_ns: u64, now_ns: i64);

    /// The device had the last frame that was served at `now_ns`, which may be later than it was
    /// served: from then on it occupies the line.
    fn handed_over(&mut self, now_ns: i64) {
        let _ = now_ns;
    }

    /// The caller's thread has used `used_ns` of processor time until `now_ns`. What the line waited while it
    /// worked is no stall, and makes frames late. Who never tells is taken to have worked no time at all.
    fn ran(&mut self, now_ns: i64, used_ns: u64) {
        let _ = (now_ns, used_ns);
    }

    /// What to do at `now_ns`. Ask again after every frame served.
    fn next(&mut self, now_ns: i64) -> Next;

    /// The flow that [`Self::next`] chose was served: `cost_ns` was charged, and `head` is next.
    ///
    /// `sent` says whether the frame occupies the wire; a refused one is charged all the same. Returns
    /// whether it is the first of its period that leaves the wire later than the contract allows.
    fn served(
        &mut self,
        index: u32,
        slack: bool,
        cost_ns: u64,
        sent: bool,
        head: Head,
        now_ns: i64,
    ) -> bool;
}

/// A scheduler chosen at run time.
impl<S: Scheduler + ?Sized> Scheduler for Box<S> {
    fn line(&self) -> &Line {
        (**self).line()
    }

    fn stall_ns(&self) -> i64 {
        (**self).stall_ns()
    }

    fn add(&mut self, index: u32, contract: &Contract, after: &[u32]) {
        (**self).add(index, contract, after);
    }

    fn remove(&mut self, index: u32) {
        (**self).remove(index);
    }

    fn set_contract(&mut self, index: u32, contract: &Contract, after: &[u32], now_ns: i64) {
        (**self).set_contract(index, contract, after, now_ns);
    }

    fn binds(&self, index: u32) -> bool {
        (**self).binds(index)
    }

    fn settled(&mut self, now_ns: i64) -> Option<u32> {
        (**self).settled(now_ns)
    }

    fn wants_wake(&self, index: u32) -> bool {
        (**self).wants_wake(index)
    }

    fn wake(&mut self, index: u32, cost_ns: u64, now_ns: i64) {
        (**self).wake(index, cost_ns, now_ns);
    }

    fn handed_over(&mut self, now_ns: i64) {
        (**self).handed_over(now_ns);
    }

    fn ran(&mut self, now_ns: i64, used_ns: u64) {
        (**self).ran(now_ns, used_ns);
    }

    fn next(&mut self, now_ns: i64) -> Next {
        (**self).next(now_ns)
    }

    fn served(
        &mut self,
        index: u32,
        slack: bool,
        cost_ns: u64,
        sent: bool,
        head: Head,
        now_ns: i64,
    ) -> bool {
        (**self).served(index, slack, cost_ns, sent, head, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use base_flow::Rate;

    use super::*;

    /// A policy without contracts that bind, and nothing else.
    struct Plain(Line);

    impl Scheduler for Plain {
        fn line(&self) -> &Line {
            &self.0
        }
        fn stall_ns(&self) -> i64 {
            0
        }
        fn add(&mut self, _: u32, _: &Contract, _: &[u32]) {}
        fn remove(&mut self, _: u32) {}
        fn set_contract(&mut self, _: u32, _: &Contract, _: &[u32], _: i64) {}
        fn wants_wake(&self, _: u32) -> bool {
            true
        }
        fn wake(&mut self, _: u32, _: u64, _: i64) {}
        fn next(&mut self, _: i64) -> Next {
            Next::Sleep { until_ns: None, idle_ns: i64::MAX }
        }
        fn served(&mut self, _: u32, _: bool, _: u64, _: bool, _: Head, _: i64) -> bool {
            false
        }
    }

    #[test]
    fn nothing_binds_and_nothing_is_settled_under_a_policy_that_does_not_say_so() {
        let mut plain = Plain(Line::new(Rate::mbit(100), 1514, 1_000));
        assert!((0..4).all(|index| !plain.binds(index)));
        assert_eq!([0, i64::MAX].map(|now_ns| plain.settled(now_ns)), [None, None]);
    }
}
