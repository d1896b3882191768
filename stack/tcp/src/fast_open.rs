//! TCP Fast Open (RFC 7413): data on SYNs, for who has proved with a cookie that it is where it says.
//!
//! A client asks for a cookie once, and keeps it; whoever drives the engine keeps it, for it is good for
//! every connection to that host ([`Connection::take_learned`]). With it, the SYN carries data
//! ([`Connection::open_fast`]). If a SYN is lost, the next one carries neither: somebody on the way may not
//! like them. A listener gives a connection away with the first SYN if the cookie is right, and so many only
//! are not complete ([`FastOpening`]); the application may read and answer before the handshake ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base_wire::tcp_flag;

use crate::arrive::Arrival;
use crate::config::Config;
use crate::connection::{Connection, Error, Identity, State};
use crate::{Position, Segment};

/// What a server knows its clients again by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cookie {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

impl Cookie {
    /// RFC 7413 §2.
    const BYTES_MIN: usize = 4;
    const BYTES_MAX: usize = 16;

    /// These bytes, if they are as many as a cookie has: 4 to 16, an even number.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let fits = (Self::BYTES_MIN..=Self::BYTES_MAX).contains(&bytes.len());
        if !fits || !bytes.len().is_multiple_of(2) {
            return None;
        }
        let mut all = [0; Self::BYTES_MAX];
        all[..bytes.len()].copy_from_slice(bytes);
        Some(Self { bytes: all, len: bytes.len() as u8 })
    }

    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// The option of a SYN or a SYN-ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastOpen {
    /// The cookie; without one, a client asks for it.
    pub cookie: Option<Cookie>,
    /// In the option that experiments used (RFC 6994), which some hosts still speak.
    pub experimental: bool,
}

/// How a connection is opened with data on its SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With this cookie; or it asks for one, and data waits for the handshake.
    Option(FastOpen),
    /// Both ends are known to do without cookies.
    Bare,
}

/// What a client should remember of the host that it opened a connection to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The cookie that it gave, if it gave one.
    pub cookie: Option<FastOpen>,
    /// The MSS that it told.
    pub mss: u16,
    /// The SYN with the data, or its answer, was lost: somebody on the way may drop them.
    pub lost: bool,
    /// It was asked for a cookie, by the first SYN, and gave none.
    pub in_vain: bool,
}

/// What a listener does about data on SYNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastOpening {
    /// So many connections may be open before their handshakes are complete (RFC 7413 §5.1).
    pub pending_max: usize,
    /// Whether data counts only with a cookie. Without, anybody makes this host work under others' names.
    pub needs_cookie: bool,
}

/// Where a connection stands that began with data on a SYN.
#[derive(Debug, Default)]
pub(crate) struct Fast {
    /// What our SYN carries.
    pub(crate) option: Option<FastOpen>,
    /// Whether it carried it.
    asked: bool,
    /// Whether our SYN may carry data, in segments of the MSS that the peer told last time.
    data: bool,
    mss: Option<u16>,
    /// Whether more will be written at once.
    pub(crate) more: bool,
    /// End of the data on our SYN.
    carried: Option<Position>,
    /// The application has it before the handshake is complete.
    pub(crate) early: bool,
    /// The SYN itself is still to be taken in.
    pub(crate) fresh: bool,
    /// Data on the SYN arrived, whoever sent it.
    arrived: bool,
    learned: Option<Learned>,
    /// Until the handshake is complete.
    slot: Option<Slot>,
}

/// Room for the longest options beside data on a SYN.
const OPTION_BYTES_MAX: u64 = 40;

impl Connection {
    /// The SYN, which has not been sent, is to carry what will have been written by then, as far as the
    /// option lets it. `mss` is what the peer told last time.
    pub fn open_fast(&mut self, opening: Opening, mss: Option<u16>) {
        if self.state != State::SynSent || !self.pending.open {
            return;
        }
        let option = match opening {
            Opening::Option(option) => Some(option),
            Opening::Bare => None,
        };
        self.fast = Fast {
            option,
            asked: option.is_some(),
            data: option.is_none_or(|option| option.cookie.is_some()),
            mss,
            ..Fast::default()
        };
    }

    /// More than the SYN carries is about to be written: the answer to it is acknowledged with that.
    pub const fn expect_more(&mut self) {
        self.fast.more = true;
    }

    /// Most data that the SYN can carry.
    pub fn fast_room(&self) -> u64 {
        let mss = self.fast.mss.unwrap_or_else(|| self.config.own_mss());
        let room = u64::from(self.path.mss(mss)).saturating_sub(OPTION_BYTES_MAX);
        if self.fast.data { room } else { 0 }
    }

    /// Whether the application can write, and what it wrote leaves.
    pub fn is_open(&self) -> bool {
        self.state.is_synchronised() || self.fast.early && self.state == State::SynReceived
    }

    /// Whether data on the SYN, ours or the peer's, was taken.
    pub const fn is_fast(&self) -> bool {
        self.fast.arrived
    }

    pub(crate) const fn fast_end(&self) -> Option<Position> {
        self.fast.carried
    }

    pub(crate) fn on_syn_bytes(&self) -> u64 {
        self.fast.carried.map_or(0, |end| end - (self.send.initial + 1))
    }

    /// What is to be remembered of the peer's host; once.
    pub const fn take_learned(&mut self) -> Option<Learned> {
        self.fast.learned.take()
    }

    /// Accepts a connection of which the SYN carries data that counts: the application may have it at
    /// once, and the segment is to be given to it.
    pub(crate) fn accept_fast(
        now_ns: u64,
        config: Config,
        identity: Identity,
        syn: &Segment,
        slot: Slot,
    ) -> Option<Self> {
        let mut connection = Self::accept(now_ns, config, identity, syn)?;
        // The answer will tell this window; what the SYN carries is within it.
        connection.receive.announce(false);
        connection.fast = Fast { early: true, fresh: true, slot: Some(slot), ..Fast::default() };
        Some(connection)
    }

    /// The SYN that [`Self::accept_fast`] was about, with its payload.
    pub(crate) fn take_fast_syn(&mut self, now_ns: u64, syn: &Segment) -> Arrival {
        self.fast.fresh = false;
        let mut rest = *syn;
        rest.flags &= !tcp_flag::SYN;
        rest.sequence = syn.sequence.wrapping_add(1);
        let start = self.receive.next().nearest(rest.sequence);
        let keep = self.take_payload(now_ns, &rest, start);
        self.fast.arrived = keep.is_some();
        // The answer to the SYN acknowledges it.
        self.receive.acks.now = false;
        Arrival { keep, reopens: None }
    }

    /// Where the data ends that goes with the SYN, which leaves now.
    pub(crate) fn data_on_syn(&mut self) -> Option<Position> {
        let bytes = self.fast_room().min(self.unsent());
        self.fast.carried = (bytes > 0).then(|| self.send.initial + 1 + bytes);
        self.fast.carried
    }

    /// The handshake is complete: our SYN was answered by `answer`.
    pub(crate) fn end_fast_open(&mut self, now_ns: u64, answer: &Segment, again: bool) {
        if let Some(slot) = self.fast.slot.take() {
            slot.leave(false);
        }
        let missed = self.fast.carried.is_some_and(|end| self.map.start() < end);
        if self.fast.carried.is_some() && !missed {
            self.fast.arrived = true;
        }
        if answer.has(tcp_flag::SYN) && (self.fast.asked || self.fast.data) {
            // Who did not ask has none: it may be somebody else's answer.
            let given = answer.options.fast_open.filter(|_| self.fast.asked);
            let cookie = given.filter(|option| option.cookie.is_some());
            self.fast.learned = Some(Learned {
                cookie,
                mss: self.send.mss,
                lost: self.fast.asked && again && cookie.is_none() && missed,
                in_vain: self.fast.asked && !again && cookie.is_none() && !self.fast.data,
            });
        }
        if missed {
            // RFC 7413 §4.2.2: at once, for the answer says so, and it is no congestion.
            let lost = self.map.mark_lost(|_, _| Some(true));
            self.recovery.forgiven += lost;
            self.arm_retransmission(now_ns);
        }
    }

    /// The connection ends, for this reason.
    pub(crate) fn leave_slot(&mut self, error: Error) {
        if let Some(slot) = self.fast.slot.take() {
            slot.leave(error == Error::Reset);
        }
    }
}

/// Connections of a listener whose handshakes are not complete.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    count: AtomicUsize,
    /// Of those that were reset, how many the listener has not noted yet.
    reset: AtomicUsize,
}

/// A place among them.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Pending>);

impl Slot {
    /// Whoever was reset keeps its place for a while: who sends resets in others' names, or lets others
    /// send them, would have as many as it likes (RFC 7413 §5.1).
    fn leave(self, reset: bool) {
        if reset {
            self.0.reset.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a listener knows of connections that are not complete.
#[derive(Debug)]
pub(crate) struct Slots {
    opening: FastOpening,
    pending: Arc<Pending>,
    /// When those that were reset are forgotten.
    held_until_ns: std::collections::VecDeque<u64>,
}

/// A place that was reset is free again after this time (as Linux has it).
const HELD_NS: u64 = 60_000_000_000;

impl Slots {
    pub(crate) fn new(opening: FastOpening) -> Self {
        Self { opening, pending: Arc::default(), held_until_ns: std::collections::VecDeque::new() }
    }

    pub(crate) const fn opening(&self) -> FastOpening {
        self.opening
    }

    /// A place, if there is one.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<Slot> {
        let max = self.opening.pending_max;
        for _ in 0..self.pending.reset.swap(0, Ordering::Relaxed) {
            if self.held_until_ns.len() < max {
                self.held_until_ns.push_back(now_ns + HELD_NS);
            }
        }
        while self.held_until_ns.front().is_some_and(|until_ns| *until_ns <= now_ns) {
            self.held_until_ns.pop_front();
        }
        if self.pending.count.load(Ordering::Relaxed) + self.held_until_ns.len() >= max {
            return None;
        }
        self.pending.count.fetch_add(1, Ordering::Relaxed);
        Some(Slot(Arc::clone(&self.pending)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_has_four_to_sixteen_bytes_and_an_even_number() {
        for bytes in 0..20 {
            let is_one = matches!(bytes, 4 | 6 | 8 | 10 | 12 | 14 | 16);
            assert_eq!(Cookie::new(&vec![7; bytes]).is_some(), is_one, "{bytes}");
        }
    }

    #[test]
    fn who_is_reset_keeps_its_place_for_a_minute() {
        let mut slots = Slots::new(FastOpening { pending_max: 2, needs_cookie: true });
        let (one, two) = (slots.take(0).unwrap(), slots.take(0).unwrap());
        assert!(slots.take(0).is_none());
        one.leave(false);
        let three = slots.take(0).unwrap();
        two.leave(true);
        three.leave(true);
        assert!(slots.take(1).is_none(), "both were reset");
        assert!(slots.take(HELD_NS).is_none());
        assert!(slots.take(HELD_NS + 1).is_some());
    }
}
