//! How much may be under way: the congestion window, and who decides it.
//!
//! The connection keeps the [`Window`], detects losses and paces recovery (RFC 6937); a [`Congestion`]
//! says how the window grows and what remains of it after congestion.
//!
//! | Algorithm | For |
//! |---|---|
//! | [`Cubic`] | paths that others share: what everybody else runs (RFC 9438, RFC 9406) |
//! | [`Reno`] | comparison, and short paths (RFC 5681) |
//! | [`Guaranteed`] | flows with a contract: starts at what was given and probes for what was not |

mod cubic;
mod guaranteed;
mod hystart;
mod reno;

pub use cubic::Cubic;
pub use guaranteed::Guaranteed;
pub use reno::Reno;

use core::fmt::Debug;

/// How much may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bytes that may be in flight.
    pub bytes: u64,
    /// Below this many bytes the window grows exponentially.
    pub threshold: u64,
    /// Payload bytes of a full segment.
    pub segment: u64,
}

impl Window {
    /// The initial window: ten segments, or what RFC 6928 §2 leaves of them if they are large.
    pub fn initial(segment: u64) -> Self {
        let bytes = (10 * segment).min((2 * segment).max(14_600));
        Self { bytes, threshold: u64::MAX, segment }
    }

    /// Whether it grows exponentially.
    pub const fn is_slow_start(&self) -> bool {
        self.bytes < self.threshold
    }
}

/// Bytes arrived at the peer, and nothing is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// When this was heard.
    pub now_ns: u64,
    /// How many; none with the acknowledgment that ends a reduction.
    pub bytes: u64,
    /// Round-trip time of this acknowledgment, if it gives one.
    pub rtt_ns: Option<u64>,
    /// Smoothed round-trip time; 0 before the first sample.
    pub smoothed_rtt_ns: u64,
    /// Whether a round trip begins with this acknowledgment.
    pub new_round: bool,
    /// Whether the window was what limited the sender. If not, it is not known to be right, and does
    /// not grow (RFC 7661, RFC 9438 §5.8).
    pub limited: bool,
}

/// Decides how the window changes.
pub trait Congestion: Debug + Send {
    /// What it is called, as in `TCP_CONGESTION`.
    fn name(&self) -> &'static str;

    /// Bytes arrived outside recovery.
    fn acked(&mut self, window: &mut Window, acked: &Acked);

    /// Congestion: something was lost, or marked (RFC 3168 §6.1.2). Called once a round trip at most;
    /// `flight` bytes were not acknowledged. Returns the new threshold.
    fn congested(&mut self, window: &Window, flight: u64) -> u64;

    /// The time-out expired (RFC 5681 §3.1). Returns the new threshold.
    fn timed_out(&mut self, window: &Window, flight: u64) -> u64 {
        self.congested(window, flight)
    }

    /// The time-out expired in an episode for which the window was reduced already. Returns the new threshold:
    /// by RFC 5681 §3.1, equation 4, the flight of now counts.
    fn timed_out_again(&mut self, window: &Window, flight: u64) -> u64 {
        window.threshold.min((flight / 2).max(2 * window.segment))
    }

    /// What was taken for congestion was none; window and threshold are what they were before.
    fn undo(&mut self) {}

    /// Bytes a second at which to send, if the algorithm has an opinion.
    fn pacing_bytes_per_second(&self) -> Option<u64> {
        None
    }
}

/// What remains of the window after congestion: at least two segments (RFC 5681 §3.1, equation 4).
fn remains(window: &Window, flight: u64, part: u64, of: u64) -> u64 {
    // Not the window alone: it says little if it was not used.
    (window.bytes.min(flight) * part / of).max(2 * window.segment)
}
