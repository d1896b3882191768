//! A connection: what it consists of, how it begins, and what can be asked of it.

use base_wire::tcp_flag;

use crate::config::{Config, MSS_MIN};
use crate::congestion::{Congestion, Window};
use crate::fast_open::Fast;
use crate::path::Path;
use crate::receiver::Receiver;
use crate::records::Records;
use crate::recovery::Recovery;
use crate::rtt::{RtoBounds, Rtt};
use crate::send_map::SendMap;
use crate::timers::Timers;
use crate::trace::{Event, Trace};
use crate::transmit::Pending;
use crate::waiting::Waiting;
use crate::{Position, Segment};

/// State of a connection (RFC 9293 §3.3.2). LISTEN is a [`Listener`](crate::Listener)'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A SYN was sent.
    SynSent,
    /// SYNs of both sides are there, ours is not acknowledged.
    SynReceived,
    /// Data can go both ways.
    Established,
    /// We have closed, and the peer does not know it.
    FinWait1,
    /// We have closed, and the peer knows it.
    FinWait2,
    /// The peer has closed.
    CloseWait,
    /// Both closed at the same time, and the peer does not know it.
    Closing,
    /// The peer closed first, then we; the peer does not know it.
    LastAck,
    /// Both have closed; segments of the connection may still be in the network.
    TimeWait,
    /// No connection.
    Closed,
}

impl State {
    /// Whether both sides know each other's numbers.
    pub const fn is_synchronised(self) -> bool {
        !matches!(self, Self::SynSent | Self::SynReceived | Self::Closed)
    }

    /// Whether the application may add to what is sent.
    pub const fn can_send(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived | Self::Established | Self::CloseWait)
    }
}

/// Why a connection ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer does not listen there.
    #[error("the peer refused the connection")]
    Refused,
    /// The peer reset the connection.
    #[error("the peer reset the connection")]
    Reset,
    /// The peer did not answer for as long as it may take.
    #[error("the peer does not answer")]
    TimedOut,
    /// A router says that no way leads to the peer's net, or that nothing may pass to it.
    #[error("a router says that no way leads to the peer's net")]
    NetUnreachable,
    /// A router says that the peer is not to be reached, or that nothing may pass to it.
    #[error("a router says that the peer cannot be reached")]
    HostUnreachable,
    /// A router says that there is no such host.
    #[error("a router says that there is no such host")]
    HostUnknown,
    /// A router says that the peer is cut off.
    #[error("a router says that the peer is isolated")]
    HostIsolated,
    /// The peer speaks no TCP.
    #[error("the peer does not speak TCP")]
    ProtocolUnreachable,
    /// A router cannot follow the source route.
    #[error("a router cannot follow the source route")]
    SourceRoute,
    /// A router, or the peer, finds a header wrong.
    #[error("a router finds the header of a packet wrong")]
    Header,
    /// This side aborted the connection.
    #[error("the connection was aborted by this side")]
    Aborted,
}

/// Numbers that an outsider must not be able to guess; see [`Secret`](crate::Secret).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Our initial sequence number (RFC 6528).
    pub initial_sequence: u32,
    /// What our clock shows at time 0 (RFC 7323 §7.1: different for every connection).
    pub timestamp_offset: u32,
}

/// Where a connection in TIME-WAIT stands (RFC 9293 §3.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWait {
    /// Our next number.
    pub sequence: u32,
    /// The number after the peer's FIN.
    pub acknowledgment: u32,
    /// What our clock shows, in milliseconds, and what the peer's did last, if they were agreed on.
    pub clocks: Option<(u32, u32)>,
}

/// The state machine of one connection; see the [crate](crate) for how to drive it.
#[derive(Debug)]
pub struct Connection {
    pub(crate) config: Config,
    pub(crate) state: State,
    /// Whether it came out of LISTEN (MUST-11).
    pub(crate) passive: bool,
    pub(crate) error: Option<Error>,
    /// What a router said, in case the connection ends because of it (MUST-56).
    pub(crate) soft_error: Option<Error>,
    pub(crate) send: Sender,
    pub(crate) map: SendMap,
    pub(crate) receive: Receiver,
    pub(crate) rtt: Rtt,
    pub(crate) window: Window,
    pub(crate) control: Box<dyn Congestion>,
    pub(crate) usage: Usage,
    pub(crate) waiting: Waiting,
    pub(crate) recovery: Recovery,
    pub(crate) path: Path,
    pub(crate) timers: Timers,
    pub(crate) pending: Pending,
    /// Data on SYNs.
    pub(crate) fast: Fast,
    /// Whether the application reads no more: what comes then is answered by a reset.
    pub(crate) unread: bool,
    pub(crate) ecn: EcnState,
    pub(crate) clock: Clock,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Our SYN.
    pub(crate) initial: Position,
    /// End of what the application wrote.
    pub(crate) written: Position,
    /// Whether a FIN follows that.
    pub(crate) fin: bool,
    /// The peer's window, in bytes from the first unacknowledged one.
    pub(crate) window: u64,
    /// The largest it ever was.
    pub(crate) window_max: u64,
    /// Sequence and acknowledgment number of the segment that told it.
    pub(crate) window_from: (Position, Position),
    /// Shift of the peer's windows, and whether shifts were agreed on.
    pub(crate) shift: u8,
    pub(crate) scaling: bool,
    /// The peer's MSS.
    pub(crate) mss: u16,
    /// End of what is to be passed on to the application without delay.
    pub(crate) push: Position,
    /// Where what was written may not be joined.
    pub(crate) records: Records,
    /// End of urgent data.
    pub(crate) urgent: Option<Position>,
    /// End of the last segment that was not full (Nagle, as Minshall amended it).
    pub(crate) small: Position,
    pub(crate) no_delay: bool,
    pub(crate) cork: bool,
    /// The application said that more follows soon.
    pub(crate) more: bool,
    /// End of what goes without waiting for more.
    pub(crate) flush: Position,
    /// Whether selective acknowledgments were agreed on.
    pub(crate) sack: bool,
    /// Transmissions so far.
    pub(crate) transmissions: u64,
    /// Transmissions that have left this host.
    pub(crate) departed: u64,
}

/// How much of the congestion window is used.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Whether the window was what limited the sender.
    pub(crate) limited: bool,
    /// Most bytes in flight of late.
    pub(crate) flight_max: u64,
    pub(crate) until: Position,
    /// End of the present round trip.
    pub(crate) round_end: Position,
    /// When data was sent last.
    pub(crate) last_sent_ns: u64,
}

/// Explicit congestion notification (RFC 3168 §6.1).
#[derive(Debug, Default)]
pub(crate) struct EcnState {
    /// Whether it was agreed on.
    pub(crate) on: bool,
    /// Echo marks until the peer says that it has slowed down.
    pub(crate) echo: bool,
    /// Say with the next new data that we have slowed down.
    pub(crate) reduced: bool,
    /// Marks that arrive are echoed; we may have offered it and then thought better of it.
    pub(crate) hears: bool,
    /// Our SYN offered it; or one before it did.
    pub(crate) offered: bool,
    pub(crate) offered_once: bool,
}

/// Timestamps (RFC 7323 §3).
#[derive(Debug)]
pub(crate) struct Clock {
    /// Whether they were agreed on.
    pub(crate) on: bool,
    pub(crate) offset: u32,
    /// The peer's clock as it was last seen in order (`TS.Recent`), and when.
    pub(crate) recent: u32,
    pub(crate) recent_ns: u64,
}

/// Nanoseconds of a tick of the timestamp clock.
pub(crate) const TICK_NS: u64 = 1_000_000;

impl Clock {
    pub(crate) const fn value(&self, now_ns: u64) -> u32 {
        ((now_ns / TICK_NS) as u32).wrapping_add(self.offset)
    }
}

/// What happened on a connection, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Segments that arrived.
    pub segments_in: u64,
    /// Segments that were sent, a super-segment as one.
    pub segments_out: u64,
    /// Bytes of payload sent again.
    pub retransmitted_bytes: u64,
    /// Transmissions of old payload, and of SYNs.
    pub retransmissions: u64,
    /// Expired retransmission time-outs.
    pub timeouts: u64,
    /// Loss episodes answered without a time-out.
    pub recoveries: u64,
    /// Tail loss probes.
    pub probes: u64,
    /// Episodes that turned out not to have been losses.
    pub undone: u64,
    /// Segments dropped because their timestamp was old.
    pub old_timestamps: u64,
    /// Segments dropped because they were outside the window.
    pub outside_window: u64,
    /// Payload bytes that came again.
    pub duplicate_bytes: u64,
    /// Challenge ACKs sent.
    pub challenges: u64,
    /// Challenge ACKs not sent because there were too many.
    pub challenges_suppressed: u64,
    /// Selective acknowledgments of bytes that were not in flight.
    pub impossible_sacks: u64,
}

impl Connection {
    /// Begins to open a connection (MUST-11: actively).
    pub fn connect(now_ns: u64, config: Config, identity: Identity) -> Self {
        let mut connection = Self::new(now_ns, config, identity, State::SynSent, false);
        connection.ecn.offered = connection.config.ecn;
        connection.ecn.offered_once = connection.config.ecn;
        connection.pending.open = true;
        connection
    }

    /// Begins to accept a connection with a SYN that came to a listener. `None` if the segment is not
    /// one that opens a connection.
    pub fn accept(now_ns: u64, config: Config, identity: Identity, syn: &Segment) -> Option<Self> {
        if !syn.opens() {
            return None;
        }
        let mut connection = Self::new(now_ns, config, identity, State::SynReceived, true);
        connection.agree(now_ns, syn);
        connection.pending.open = true;
        Some(connection)
    }

    pub(crate) fn new(
        now_ns: u64,
        config: Config,
        identity: Identity,
        state: State,
        passive: bool,
    ) -> Self {
        let initial = Position::initial(identity.initial_sequence);
        let path = Path::new(&config);
        let mss = config.default_mss();
        let segment = u64::from(path.mss(mss));
        let receive = Receiver::new(
            config.receive_bytes,
            config.receive_bytes_max,
            if config.window_scaling { config.window_shift() } else { 0 },
            now_ns,
        );
        Self {
            state,
            passive,
            error: None,
            soft_error: None,
            send: Sender {
                initial,
                written: initial + 1,
                fin: false,
                window: 0,
                window_max: 0,
                window_from: (Position::default(), Position::default()),
                shift: 0,
                scaling: false,
                mss,
                push: initial,
                records: Records::default(),
                urgent: None,
                small: initial,
                no_delay: config.no_delay,
                cork: false,
                more: false,
                flush: initial,
                sack: config.sack,
                transmissions: 0,
                departed: u64::MAX,
            },
            map: SendMap::new(initial),
            receive,
            rtt: Rtt::new(),
            window: Window::initial(segment),
            control: config.congestion.build(),
            usage: Usage {
                limited: false,
                flight_max: 0,
                until: initial,
                round_end: initial,
                last_sent_ns: now_ns,
            },
            waiting: Waiting::new(now_ns),
            recovery: Recovery::new(initial),
            path,
            timers: Timers::new(now_ns),
            pending: Pending::default(),
            fast: Fast::default(),
            unread: false,
            ecn: EcnState::default(),
            clock: Clock {
                on: config.timestamps,
                offset: identity.timestamp_offset,
                recent: 0,
                recent_ns: 0,
            },
            trace: Trace::default(),
            counts: Counts::default(),
            config,
        }
    }

    /// Takes over what a SYN offers and what we accept of it (RFC 9293 §3.7.1, RFC 7323 §2.2, §3.2,
    /// RFC 2018 §2, RFC 3168 §6.1.1); MUST-14 is the MSS.
    pub(crate) fn agree(&mut self, now_ns: u64, syn: &Segment) {
        let options = &syn.options;
        self.send.mss = options.mss.unwrap_or(self.config.default_mss()).max(MSS_MIN);
        match options.window_shift.filter(|_| self.config.window_scaling) {
            Some(shift) => (self.send.shift, self.send.scaling) = (shift, true),
            None => self.receive.shift = 0,
        }
        self.send.sack = self.config.sack && options.sack_permitted;
        match options.timestamps.filter(|_| self.config.timestamps) {
            Some(timestamps) => {
                self.clock.on = true;
                self.clock.recent = timestamps.value;
                self.clock.recent_ns = now_ns;
            }
            None => self.clock.on = false,
        }
        let (mark, both) = (tcp_flag::ECE, tcp_flag::ECE | tcp_flag::CWR);
        let accepted = if syn.has(tcp_flag::ACK) {
            self.ecn.offered_once && syn.flags & both == mark
        } else {
            (self.config.ecn || self.config.ecn_accepted) && syn.flags & both == both
        };
        self.ecn.hears = accepted;
        self.ecn.on = accepted && (self.ecn.offered || !syn.has(tcp_flag::ACK));
        self.receive.synchronise(syn.sequence, self.announced_mss());
        self.set_segment_bytes();
        self.window = Window::initial(self.window.segment);
        let from = (self.receive.next().before(1), self.send.initial);
        self.set_peer_window(u64::from(syn.window), from);
    }

    /// Payload of a full segment, which both sides, the path and the options have a say in
    /// (RFC 9293 §3.7.1, MUST-16).
    pub(crate) fn set_segment_bytes(&mut self) {
        let options = if self.clock.on { 12 } else { 0 };
        let mss = self.path.mss(self.send.mss);
        self.window.segment = u64::from(mss.saturating_sub(options).max(MSS_MIN / 2));
    }

    /// MSS to announce (MUST-67): no packet larger than the path is known to carry is asked for. Its way here
    /// may be another one, but seldom is wider.
    pub(crate) fn announced_mss(&self) -> u16 {
        self.config.own_mss().min(self.path.mss(u16::MAX))
    }

    pub(crate) fn set_peer_window(&mut self, window: u64, from: (Position, Position)) {
        self.send.window = window;
        self.send.window_max = self.send.window_max.max(window);
        self.send.window_from = from;
    }

    pub(crate) const fn rto_bounds(&self) -> RtoBounds {
        RtoBounds {
            initial_ns: self.config.rto_initial_ns,
            min_ns: self.config.rto_min_ns,
            max_ns: self.config.rto_max_ns,
        }
    }

    pub(crate) fn enter(&mut self, now_ns: u64, state: State) {
        if self.state != state {
            self.state = state;
            self.trace.record(now_ns, Event::State, state as u32, 0);
        }
    }

    /// Ends the connection (MUST-12: the application hears why).
    pub(crate) fn fail(&mut self, now_ns: u64, error: Error) {
        self.leave_slot(error);
        self.error.get_or_insert(error);
        self.enter(now_ns, State::Closed);
        self.timers.stop();
        self.pending.quiet();
    }

    /// Payload of a full segment, without reports of what arrived out of order.
    pub const fn segment_bytes(&self) -> u32 {
        self.window.segment as u32
    }

    /// The present state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why the connection ended, if it did before its time.
    pub const fn error(&self) -> Option<Error> {
        self.error
    }

    /// What a router said of the peer, which may pass (RFC 9293 §3.9.2.2); for the application to know
    /// (MUST-47).
    pub const fn soft_error(&self) -> Option<Error> {
        self.soft_error
    }

    /// Bytes that arrived in order and were not read.
    pub fn readable(&self) -> u64 {
        self.receive.readable()
    }

    /// Bytes that arrived in order, read or not.
    pub fn received(&self) -> u64 {
        self.receive.received()
    }

    /// Whether the peer has closed and everything it sent was read: the end of the stream.
    pub fn is_at_end(&self) -> bool {
        self.receive.is_finished() && self.receive.readable() == 0
    }

    /// Whether all that the peer will ever send has arrived.
    pub fn is_finished(&self) -> bool {
        self.receive.is_finished()
    }

    /// Bytes written that the peer has not acknowledged: they must stay where they are.
    pub fn unacknowledged(&self) -> u64 {
        self.send.written - self.map.start().max(self.send.initial + 1)
    }

    /// Bytes written that were not sent yet.
    pub fn unsent(&self) -> u64 {
        self.send.written - self.map.end().max(self.send.initial + 1)
    }

    /// Place in the stream below which everything is acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.map.start().min(self.send.written) - (self.send.initial + 1)
    }

    /// Whether the peer has acknowledged our FIN.
    pub fn is_fin_acknowledged(&self) -> bool {
        self.send.fin && self.map.start() > self.send.written
    }

    /// How large the receive buffer should be by now: what the application reads in a round trip asks
    /// for it. Whoever owns the buffer may follow with [`Self::set_receive_bytes`].
    pub const fn receive_bytes_wanted(&self) -> u64 {
        self.receive.wanted()
    }

    /// How long until now there was something to send, or unacknowledged; and how much of that the peer's
    /// window was in the way.
    pub const fn waited_ns(&self, now_ns: u64) -> (u64, u64) {
        self.waiting.spent_ns(now_ns)
    }

    /// When data arrived last; 0 if none has.
    pub const fn last_data_ns(&self) -> u64 {
        self.receive.acks.last_data_ns
    }

    /// How long ago it began, while it is half open.
    pub(crate) const fn age_ns(&self, now_ns: u64) -> u64 {
        match self.timers.stalled_ns {
            Some(since_ns) => now_ns.saturating_sub(since_ns),
            None => 0,
        }
    }

    /// What happened so far.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The trace ring.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What remains of a connection in TIME-WAIT, for whoever speaks in its place from now on.
    pub fn time_wait(&self, now_ns: u64) -> Option<TimeWait> {
        (self.state == State::TimeWait).then(|| TimeWait {
            sequence: self.map.end().wire(),
            acknowledgment: self.receive.next().wire(),
            clocks: self.clock.on.then(|| (self.clock.value(now_ns), self.clock.recent)),
        })
    }

    /// A snapshot of what the connection believes, in the manner of `TCP_INFO`.
    pub fn info(&self) -> Info {
        let (again_bytes, missed_bytes) = self.map.in_flight_again();
        Info {
            state: self.state,
            segment_bytes: self.window.segment as u32,
            peer_mss: self.send.mss,
            own_mss: self.announced_mss(),
            mtu: self.path.mtu(),
            window_bytes: self.window.bytes,
            threshold_bytes: (self.window.threshold != u64::MAX).then_some(self.window.threshold),
            in_flight_bytes: self.map.in_flight(),
            sacked_bytes: self.map.sacked(),
            lost_bytes: self.map.lost(),
            again_bytes,
            missed_bytes,
            duplicates: self.recovery.duplicates,
            reordering_bytes: self.recovery.rack.distance,
            smoothed_rtt_ns: self.rtt.smoothed_ns(),
            rtt_variation_ns: self.rtt.variation_ns(),
            min_rtt_ns: self.rtt.min_ns(),
            timeout_ns: self.rtt.timeout_ns(&self.rto_bounds()),
            backoff: self.rtt.backoff(),
            phase: self.recovery.phase(),
            peer_window_bytes: self.send.window,
            receive_window_bytes: self.receive.edge() - self.receive.next(),
            receive_bytes: self.receive.capacity(),
            received_segment_bytes: self.receive.acks.segment_bytes,
            unsent_bytes: self.unsent(),
            held_stretches: self.receive.held_stretches() as u32,
            map_entries: self.map.entries() as u32,
            timestamps: self.clock.on,
            sack: self.send.sack,
            ecn: self.ecn.on,
            fast: self.is_fast(),
            on_syn_bytes: self.on_syn_bytes(),
            window_shifts: (self.send.shift, self.receive.shift),
            congestion: self.control.name(),
        }
    }
}

/// What a connection believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// State.
    pub state: State,
    /// Payload of a full segment.
    pub segment_bytes: u32,
    /// MSS the peer announced.
    pub peer_mss: u16,
    /// MSS we announced.
    pub own_mss: u16,
    /// Largest IP packet thought to reach the peer.
    pub mtu: u16,
    /// Congestion window.
    pub window_bytes: u64,
    /// Slow start threshold, once there was congestion.
    pub threshold_bytes: Option<u64>,
    /// Bytes thought to be in the network.
    pub in_flight_bytes: u64,
    /// Bytes selectively acknowledged.
    pub sacked_bytes: u64,
    /// Bytes thought to be lost, and not sent again yet.
    pub lost_bytes: u64,
    /// Bytes in the network that were sent more than once.
    pub again_bytes: u64,
    /// Those of them that had been taken for lost.
    pub missed_bytes: u64,
    /// Duplicate acknowledgments of a peer that reports nothing selectively.
    pub duplicates: u32,
    /// How far from its place something that was late had been overtaken, at most.
    pub reordering_bytes: u64,
    /// Smoothed round-trip time.
    pub smoothed_rtt_ns: Option<u64>,
    /// Its variation.
    pub rtt_variation_ns: u64,
    /// The smallest of late.
    pub min_rtt_ns: Option<u64>,
    /// Retransmission time-out.
    pub timeout_ns: u64,
    /// How often it was doubled.
    pub backoff: u8,
    /// Whether losses are being repaired.
    pub phase: crate::recovery::Phase,
    /// The peer's window.
    pub peer_window_bytes: u64,
    /// Ours.
    pub receive_window_bytes: u64,
    /// Size of the receive buffer.
    pub receive_bytes: u64,
    /// Largest segment received, or what one is taken for.
    pub received_segment_bytes: u32,
    /// Bytes written and not sent.
    pub unsent_bytes: u64,
    /// Stretches received out of order.
    pub held_stretches: u32,
    /// Entries of the send map.
    pub map_entries: u32,
    /// Whether timestamps are in use.
    pub timestamps: bool,
    /// Whether selective acknowledgments are.
    pub sack: bool,
    /// Whether explicit congestion notification is.
    pub ecn: bool,
    /// Whether data on the SYN was taken (RFC 7413).
    pub fast: bool,
    /// Bytes that our SYN carried.
    pub on_syn_bytes: u64,
    /// Shifts of the peer's windows and of ours.
    pub window_shifts: (u8, u8),
    /// Congestion control.
    pub congestion: &'static str,
}
