//! What a connection is told when it is made.

use crate::congestion::{Congestion, Cubic, Guaranteed, Reno};

/// Facts about the path, and choices about the protocol. The defaults are those of Linux where
/// the RFCs leave a choice.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest IP packet of the link, in bytes.
    pub mtu: u16,
    /// Bytes of IP header in every packet: 20 or 40.
    pub ip_header_bytes: u16,
    /// Largest MSS to announce, and to use; e.g. what an application asked for.
    pub mss_max: Option<u16>,
    /// Bytes of payload that one [`Transmit`](crate::Transmit) may carry; more than a segment's if
    /// whoever sends it can cut it.
    pub super_segment_bytes: u32,
    /// So many segments leave in one [`Transmit`](crate::Transmit) even where the path takes more than a
    /// millisecond for them.
    pub burst_segments_min: u16,
    /// Bytes that can be received and not read.
    pub receive_bytes: u32,
    /// How many there could be; decides the window's scale.
    pub receive_bytes_max: u32,
    /// Offer timestamps (RFC 7323).
    pub timestamps: bool,
    /// Offer selective acknowledgments (RFC 2018).
    pub sack: bool,
    /// Offer a window scale (RFC 7323).
    pub window_scaling: bool,
    /// Offer explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// Agree to it where a peer offers it, whether we do or not.
    pub ecn_accepted: bool,
    /// Who decides the congestion window.
    pub congestion: Algorithm,
    /// Narrow the window of a connection that was idle (RFC 5681 §4.1).
    pub restart_after_idle: bool,
    /// Send small segments at once (MUST-17).
    pub no_delay: bool,
    /// Never wait longer than this before data is acknowledged; below 500 ms (MUST-40).
    pub ack_delay_ns: u64,
    /// Time-out before there is a sample (RFC 6298 §2.1).
    pub rto_initial_ns: u64,
    /// Least margin of the time-out above the round-trip time. RFC 6298 §2.4 asks for 1 s in all; 200 ms is
    /// what hosts use since clocks are finer than it assumed.
    pub rto_min_ns: u64,
    /// Largest time-out.
    pub rto_max_ns: u64,
    /// R2 (MUST-20, MUST-21): data unacknowledged for so long ends the connection.
    pub user_timeout_ns: u64,
    /// So many time-outs of a SYN of ours are not doubled: what is lost first is a packet, not a path (MUST-19
    /// asks for doubling from the first on; Linux has these four).
    pub syn_linear_timeouts: u8,
    /// A SYN is repeated so often before it is given up, if that is sooner.
    pub syn_repetitions: Option<u8>,
    /// R2 of a SYN (MUST-23: 3 minutes at least).
    pub syn_timeout_ns: u64,
    /// Keep-alive probes, if any (MUST-24, MUST-25: only if asked for).
    pub keepalive: Option<Keepalive>,
    /// How long a closed connection waits in FIN-WAIT-2 for a peer that does not close.
    pub fin_wait_2_ns: u64,
    /// Longest life of a segment in the network (RFC 9293 §3.4.2 suggests 2 minutes; nobody waits so
    /// long). TIME-WAIT lasts twice that.
    pub msl_ns: u64,
    /// Challenge ACKs in a second (RFC 5961 §7).
    pub challenges_per_second: u16,
    /// Look for larger packets and for black holes without help of routers (RFC 4821).
    pub probe_mtu: bool,
    /// Most bytes a second to send at.
    pub pacing_bytes_per_second: Option<u64>,
}

/// Probes of an idle connection (RFC 9293 §3.8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is idle before the first.
    pub idle_ns: u64,
    /// Time between probes.
    pub interval_ns: u64,
    /// So many unanswered ones end the connection; two at least (MUST-29).
    pub probes: u8,
}

/// A congestion control to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 9438.
    Cubic,
    /// RFC 5681.
    Reno,
    /// For a flow with a contract.
    Guaranteed {
        /// What its slices amount to.
        bytes_per_second: u64,
        /// Its period.
        period_ns: u64,
        /// Whether it takes slack.
        slack: bool,
    },
}

impl Algorithm {
    pub(crate) fn build(self) -> Box<dyn Congestion> {
        match self {
            Self::Cubic => Box::new(Cubic::new()),
            Self::Reno => Box::<Reno>::default(),
            Self::Guaranteed { bytes_per_second, period_ns, slack } => {
                Box::new(Guaranteed::new(bytes_per_second, period_ns, slack))
            }
        }
    }
}

const SECOND_NS: u64 = 1_000_000_000;

impl Default for Config {
    fn default() -> Self {
        Self {
            mtu: 1500,
            ip_header_bytes: 20,
            mss_max: None,
            super_segment_bytes: 0,
            burst_segments_min: 2,
            receive_bytes: 65_536,
            receive_bytes_max: 4 << 20,
            timestamps: true,
            sack: true,
            window_scaling: true,
            ecn: false,
            ecn_accepted: true,
            syn_linear_timeouts: 4,
            syn_repetitions: None,
            congestion: Algorithm::Cubic,
            restart_after_idle: true,
            no_delay: false,
            ack_delay_ns: SECOND_NS / 25,
            rto_initial_ns: SECOND_NS,
            rto_min_ns: SECOND_NS / 5,
            rto_max_ns: 120 * SECOND_NS,
            user_timeout_ns: 900 * SECOND_NS,
            syn_timeout_ns: 180 * SECOND_NS,
            keepalive: None,
            fin_wait_2_ns: 60 * SECOND_NS,
            msl_ns: 30 * SECOND_NS,
            challenges_per_second: 10,
            probe_mtu: true,
            pacing_bytes_per_second: None,
        }
    }
}

impl Keepalive {
    /// Two hours (MUST-28), then 9 probes 75 s apart.
    pub const DEFAULT: Self =
        Self { idle_ns: 7200 * SECOND_NS, interval_ns: 75 * SECOND_NS, probes: 9 };
}

impl Config {
    /// MSS to announce (RFC 9293 §3.7.1, MUST-67): what a packet carries without options.
    pub(crate) fn own_mss(&self) -> u16 {
        let mss = self.mtu.saturating_sub(self.ip_header_bytes + 20).max(MSS_MIN);
        self.mss_max.map_or(mss, |max| max.clamp(MSS_MIN, mss))
    }

    /// MSS to assume of a peer that does not say (RFC 9293 §3.7.1, MUST-15).
    pub(crate) const fn default_mss(&self) -> u16 {
        if self.ip_header_bytes >= 40 { 1220 } else { 536 }
    }

    /// Shift of the windows we announce: the smallest with which all of the buffer can be told.
    pub(crate) fn window_shift(&self) -> u8 {
        let max = u64::from(self.receive_bytes_max.max(self.receive_bytes));
        (0..crate::options::WINDOW_SHIFT_MAX)
            .find(|shift| max >> shift <= 0xffff)
            .unwrap_or(crate::options::WINDOW_SHIFT_MAX)
    }
}

/// No smaller MSS is believed: what is left of IPv4's smallest packet without its longest options
/// (CVE-2019-11479: tiny ones make a sender work for nothing).
pub(crate) const MSS_MIN: u16 = 48;
