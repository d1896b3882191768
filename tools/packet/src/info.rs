//! What a connection believes, by the names and in the units of Linux's `TCP_INFO`.

use stack_tcp::{Connection, Phase, State};

macro_rules! information {
    ($($(#[$meaning:meta])* $field:ident $name:literal;)*) => {
        /// Values of `TCP_INFO`. Windows are in segments, times in microseconds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Information {
            $($(#[$meaning])* pub $field: u64,)*
        }

        impl Information {
            /// A value by the name that Linux gives it, as `tcpi_snd_cwnd`.
            pub fn get(&self, name: &str) -> Option<u64> {
                match name {
                    $($name => Some(self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

information! {
    /// State, by its number in Linux.
    state "tcpi_state";
    /// 0 open, 1 with something out of order, 2 reduced by a mark, 3 recovery, 4 loss.
    ca_state "tcpi_ca_state";
    /// Time-outs in a row.
    retransmits "tcpi_retransmits";
    /// How often the time-out was doubled.
    backoff "tcpi_backoff";
    /// 1 timestamps, 2 SACK, 4 window scale, 8 ECN, 32 data on the SYN.
    options "tcpi_options";
    /// Shift of the peer's window.
    snd_wscale "tcpi_snd_wscale";
    /// Shift of ours.
    rcv_wscale "tcpi_rcv_wscale";
    /// Retransmission time-out.
    rto "tcpi_rto";
    /// Payload of a full segment.
    snd_mss "tcpi_snd_mss";
    /// MSS announced.
    advmss "tcpi_advmss";
    /// Segments in the network and in doubt.
    unacked "tcpi_unacked";
    /// Segments selectively acknowledged.
    sacked "tcpi_sacked";
    /// Segments thought lost, those among them that were sent again.
    lost "tcpi_lost";
    /// By how many segments something was overtaken, at most; 3 at least.
    reordering "tcpi_reordering";
    /// Largest segment received.
    rcv_mss "tcpi_rcv_mss";
    /// Milliseconds since data arrived.
    last_data_recv "tcpi_last_data_recv";
    /// Microseconds with something to send or unacknowledged.
    busy_time "tcpi_busy_time";
    /// Microseconds of those with the peer's window in the way.
    rwnd_limited "tcpi_rwnd_limited";
    /// Largest packet of the path.
    pmtu "tcpi_pmtu";
    /// Smoothed round-trip time.
    rtt "tcpi_rtt";
    /// Its variation.
    rttvar "tcpi_rttvar";
    /// Slow start threshold, in segments.
    snd_ssthresh "tcpi_snd_ssthresh";
    /// Congestion window, in segments.
    snd_cwnd "tcpi_snd_cwnd";
    /// Segments sent again, and neither acknowledged nor lost again.
    retrans "tcpi_retrans";
    /// Bytes received.
    bytes_received "tcpi_bytes_received";
    /// Bytes sent, again or not.
    bytes_sent "tcpi_bytes_sent";
    /// Segments that arrived at the peer, the SYN included.
    delivered "tcpi_delivered";
    /// Retransmissions in all.
    total_retrans "tcpi_total_retrans";
    /// Bytes acknowledged.
    bytes_acked "tcpi_bytes_acked";
    /// Bytes retransmitted.
    bytes_retrans "tcpi_bytes_retrans";
    /// Segments sent.
    segs_out "tcpi_segs_out";
    /// Segments received.
    segs_in "tcpi_segs_in";
    /// Bytes written and not sent.
    notsent_bytes "tcpi_notsent_bytes";
    /// Least round-trip time.
    min_rtt "tcpi_min_rtt";
    /// The peer's window, in bytes.
    snd_wnd "tcpi_snd_wnd";
    /// Our window, in bytes.
    rcv_wnd "tcpi_rcv_wnd";
    /// Episodes that turned out not to have been losses.
    undone "plumb_undone";
    /// Tail loss probes sent.
    tail_probes "plumb_tail_probes";
    /// Challenge acknowledgments sent.
    challenges "plumb_challenges";
}

/// What Linux says where there was no congestion yet.
pub(crate) const INFINITE_THRESHOLD: u64 = 0x7fff_ffff;

/// A state's number in Linux.
const fn number(state: State) -> u64 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}

impl Information {
    pub(crate) fn closed() -> Self {
        Self { state: 7, ..Self::default() }
    }

    pub(crate) fn listening() -> Self {
        Self { state: 10, ..Self::default() }
    }

    /// `opened_ns` is when it was opened.
    pub(crate) fn of(connection: &Connection, now_ns: u64, opened_ns: u64) -> Self {
        let (info, counts) = (connection.info(), connection.counts());
        let segment = u64::from(info.segment_bytes.max(1));
        let segments = |bytes: u64| bytes.div_ceil(segment);
        let micros = |ns: u64| ns / 1_000;
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let (busy_ns, window_ns) = connection.waited_ns(now_ns);
        let disordered = info.sacked_bytes > 0 || info.duplicates > 0;
        let last_data_ns = connection.last_data_ns().max(opened_ns);
        let on_syn = if info.fast { info.on_syn_bytes.min(connection.acknowledged()) } else { 0 };
        let outstanding = connection.unacknowledged() - connection.unsent();
        Self {
            state: number(info.state),
            ca_state: match info.phase {
                Phase::Open => u64::from(disordered),
                Phase::Reduced => 2,
                Phase::Recovery => 3,
                Phase::Loss => 4,
            },
            retransmits: match info.state {
                State::SynSent => counts.timeouts,
                _ => u64::from(info.backoff),
            },
            backoff: u64::from(info.backoff),
            options: bit(info.timestamps, 1)
                | bit(info.sack, 2)
                | bit(info.window_shifts != (0, 0), 4)
                | bit(info.ecn, 8)
                | bit(info.fast, 32),
            snd_wscale: u64::from(info.window_shifts.0),
            rcv_wscale: u64::from(info.window_shifts.1),
            rto: micros(info.timeout_ns),
            snd_mss: segment,
            advmss: u64::from(info.own_mss) - bit(info.timestamps, 12),
            // The SYN is one.
            unacked: segments(outstanding) + u64::from(info.state == State::SynSent),
            sacked: segments(info.sacked_bytes),
            lost: segments(info.lost_bytes + info.missed_bytes),
            reordering: segments(info.reordering_bytes).clamp(3, 300),
            rcv_mss: info.received_segment_bytes.into(),
            last_data_recv: now_ns.saturating_sub(last_data_ns) / 1_000_000,
            busy_time: micros(busy_ns),
            rwnd_limited: micros(window_ns),
            pmtu: u64::from(info.mtu),
            rtt: micros(info.smoothed_rtt_ns.unwrap_or(0)),
            rttvar: micros(info.rtt_variation_ns),
            snd_ssthresh: info.threshold_bytes.map_or(INFINITE_THRESHOLD, |bytes| bytes / segment),
            snd_cwnd: info.window_bytes / segment,
            retrans: segments(info.again_bytes),
            bytes_received: connection.received(),
            bytes_sent: connection.acknowledged() + outstanding + counts.retransmitted_bytes,
            // What a SYN carried arrived with it.
            delivered: u64::from(info.state.is_synchronised())
                + segments(connection.acknowledged() - on_syn)
                + segments(info.sacked_bytes),
            total_retrans: counts.retransmissions,
            bytes_acked: connection.acknowledged(),
            bytes_retrans: counts.retransmitted_bytes,
            segs_out: counts.segments_out,
            segs_in: counts.segments_in,
            notsent_bytes: info.unsent_bytes,
            min_rtt: micros(info.min_rtt_ns.unwrap_or(0)),
            snd_wnd: info.peer_window_bytes,
            rcv_wnd: info.receive_window_bytes,
            undone: counts.undone,
            tail_probes: counts.probes,
            challenges: counts.challenges,
        }
    }
}
