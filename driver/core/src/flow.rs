//! What the driver keeps of a flow.

use base_flow::{Endpoints, FlowId};
use driver_filter::Template;
use rbuf_channel::{End, IoRec};

use crate::arenas::Arenas;

/// Which channel of a flow moved.
pub(crate) mod touched {
    pub(crate) const TX: u8 = 1;
    pub(crate) const RX: u8 = 2;
}

/// No flow has this number.
pub(crate) const NO_FLOW: u32 = u32::MAX;

pub(crate) struct Flow<A: Arenas> {
    pub(crate) id: FlowId,
    /// Index of its domain.
    pub(crate) domain: u32,
    /// Its number within the domain.
    pub(crate) slot: u32,
    pub(crate) tx: End<A::Words>,
    pub(crate) tx_data: A::Data,
    pub(crate) rx: End<A::Words>,
    pub(crate) rx_data: A::Data,
    /// The next packet to send, taken from the channel, if it names anything: its owner can no longer
    /// change it.
    pub(crate) head: IoRec,
    /// A buffer taken for receiving that was not used.
    pub(crate) spare: IoRec,
    /// Whether an arming is out whose event was not read: there is never a second one, so that the
    /// events of a flow never exceed its place in the event channel.
    pub(crate) event_due: bool,
    /// Words needed to return the packets that the link has.
    pub(crate) owed_words: u64,
    /// What it may send; nothing before it is attached.
    pub(crate) template: Option<Template>,
    pub(crate) endpoints: Option<Endpoints>,
    pub(crate) receive_budget: Budget,
    /// Channels whose other side is to be told of something at the end of the round: bits of
    /// [`touched`].
    pub(crate) touched: u8,
    /// Words of the channel that are still to be sent, if the flow is being closed.
    pub(crate) drain_words: Option<u64>,
    /// Whether its owner lied: it has no channels any more.
    pub(crate) faulted: bool,
}

/// Driver time a flow may use for receiving: so many nanoseconds a second, saved up for a while.
///
/// It is charged after the fact, so it can go into debt by a batch of frames, and no further.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    per_second: u64,
    left: i64,
    counted_at: u64,
}

impl Budget {
    /// How long a budget can be saved up, in nanoseconds: no longer than a flood of small frames that
    /// uses all of it at once takes to fill the link's ring, where others' frames would be lost.
    const SAVED_NS_MAX: u64 = 5_000_000;

    pub(crate) const fn new(per_second: u32) -> Self {
        let mut budget = Self { per_second: per_second as u64, left: 0, counted_at: 0 };
        budget.left = budget.cap();
        budget
    }

    const fn cap(&self) -> i64 {
        (self.per_second * Self::SAVED_NS_MAX / 1_000_000_000) as i64
    }

    /// Whether anything is left at `now_ns`.
    pub(crate) fn is_open(&mut self, now_ns: u64) -> bool {
        let passed = now_ns.saturating_sub(self.counted_at).min(10 * Self::SAVED_NS_MAX);
        let earned = passed * self.per_second / 1_000_000_000;
        if earned > 0 {
            self.left = (self.left + earned as i64).min(self.cap());
            self.counted_at = now_ns;
        }
        self.left > 0
    }

    pub(crate) fn pay(&mut self, spent_ns: u64) {
        self.left = (self.left - spent_ns as i64).max(-self.cap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_what_was_earned_and_no_more() {
        let mut budget = Budget::new(100_000_000);
        assert!(budget.is_open(0), "a new flow starts with its savings");
        budget.pay(500_000);
        assert!(!budget.is_open(1));
        budget.pay(250_000);
        assert!(!budget.is_open(2_500_000), "a tenth of 2.5 ms pays a debt of 0.25 ms");
        assert!(budget.is_open(2_500_100));
        budget.pay(1_000_000_000);
        assert!(!budget.is_open(7_500_000) && budget.is_open(7_500_300), "debt has a limit too");
    }
}
