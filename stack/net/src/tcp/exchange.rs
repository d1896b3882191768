//! A connection over its flow: segments in from the driver, segments out to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Weak;

use base_rpc::TimeWait;
use base_wire::{Mac, tcp_flag};
use rbuf_channel::Buffer;
use rbuf_shm::{ShmData, monotonic_ns};
use stack_layer::{Arrived, HEAD_BYTES_MAX, Peer, SendError};
use stack_tcp::{
    Algorithm, Connection, ReceiveQueue as _, Segment, State as TcpState, Stream, Transmit,
};

use super::buffers::{Frames, Payload, SendArea};
use super::door::{Door, Knock};
use super::dump::{self, Dump};
use super::fast_cache;
use super::layers::{
    FIRST_RECEIVE_BYTES, HEADERS, Layers, SUPER_SEGMENT_BYTES, congestion, device,
};
use super::readiness::Condition;
use super::seat::{NEVER, Work};
use crate::Error;
use crate::error::Ending;
use crate::flow::{Changes, Flow, Shared};
use crate::options::{Options, stream_buffers};

/// Most frames of a super-segment: half of the headers, so that the next one can be formed meanwhile.
const FRAMES_MAX: u16 = HEADERS / 2;

/// Most payload that waits for the wire in the flow's own channel: what waits there is part of the
/// round-trip time.
const QUEUED_BYTES_MAX: u32 = 256 << 10;

/// How soon to look again whether the driver has sent something, if that is all there is to wait for.
pub(super) const STARVED_NS: u64 = 500_000;

/// How many routers a packet may pass unless somebody says otherwise: what `Ip4` begins with.
pub(super) const TTL: u8 = 64;

/// Segments with less payload are not for the link to cut.
const CUT_BYTES_MIN: u32 = 256;

/// A connection, its flow, and the layers between them.
pub(super) struct Exchange {
    // Dropped before the flow is closed.
    pub(super) stack: Layers,
    pub(super) stream: Stream<SendArea<ShmData>, Frames<ShmData>>,
    /// `None` once it was given up: see [`Self::make_way`].
    flow: Option<Flow>,
    endpoints: (SocketAddr, SocketAddr),
    /// Where the connection came in, if it did.
    pub(super) door: Weak<Door>,
    /// The congestion control that the application chose; the contract does if it did not.
    congestion: Option<Algorithm>,
    /// The window for which the driver was offered buffers.
    offered_for: u64,
    /// Packets that the driver has, oldest first.
    in_driver: VecDeque<InDriver>,
    /// Payload of these.
    queued_bytes: u32,
    /// Why the flow is of no use any more.
    pub(super) failed: Option<Ending>,
    /// Whether there is more to send than the driver has room for.
    starved: bool,
    /// Whether the error of the connection was told.
    pub(super) told: bool,
    pub(super) read_shut: bool,
    /// Whether a thread writes where the next bytes will be sent from, or reads where they arrived, without the
    /// lock; others wait.
    pub(super) is_room_lent: bool,
    pub(super) is_received_lent: bool,
    pub(super) ttl: u8,
    /// Time-outs up to which what happened was noted, and what of it is to be written down.
    noted_timeouts: u64,
    notes: Option<Dump>,
}

impl Drop for Exchange {
    /// What went wrong is kept for whoever asks, and the flow manager waits in our place until no segment
    /// can be in the network any more.
    fn drop(&mut self) {
        if self.stream.connection.error().is_some() {
            self.note();
            self.report().iter().for_each(dump::append);
        }
        if let Some(left) = self.stream.connection.time_wait(monotonic_ns()) {
            let stack_tcp::TimeWait { sequence, acknowledgment, clocks } = left;
            if let Some(flow) = &self.flow {
                flow.shared.leave(TimeWait { sequence, acknowledgment, clocks });
            }
        }
    }
}

/// A packet that the driver has.
struct InDriver {
    buffer: Buffer,
    /// Number of the transmission it ends; 0 if more of it follows.
    number: u64,
    /// First byte of its payload.
    offset: Option<u64>,
    bytes: u32,
}

/// What a thread may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    readable: bool,
    writable: bool,
    delivered: bool,
    open: bool,
}

/// Descriptors that show what a socket is ready for.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) readable: Condition,
    pub(super) writable: Condition,
    pub(super) urgent: Condition,
}

impl Work for Exchange {
    type Sight = Sight;
    type Conditions = Conditions;

    fn layers(&mut self) -> Option<&mut Layers> {
        self.flow.as_ref().map(|_| &mut self.stack)
    }

    fn take_in(&mut self, shared: &Shared, now_ns: u64) {
        if self.flow.is_none() {
            return;
        }
        match shared.news() {
            Ok(None) => {}
            Ok(Some(changes)) => self.heed(now_ns, &changes),
            Err(error) => self.fail(now_ns, &error),
        }
        loop {
            match self.stack.receive() {
                Ok(Some(Arrived::Segment(received))) => {
                    let payload = Payload::Frame(received.buffer, received.payload);
                    let arrival = self.stream.on_segment(now_ns, &received.segment, payload);
                    if let Some(number) = arrival.reopens
                        && self.make_way(received.segment, received.station, number)
                    {
                        return;
                    }
                }
                Ok(Some(Arrived::RouterError { sequence, error, .. })) => {
                    self.stream.connection.on_router_error(now_ns, sequence, error);
                }
                Ok(None) => break,
                Err(fault) => return self.fail(now_ns, &fault.into()),
            }
        }
        if let Some(learned) = self.stream.connection.take_learned() {
            fast_cache().learn(now_ns, self.endpoints.1.ip(), &learned);
        }
        // Before anybody looks whether there is room, or everything has left.
        self.reap(now_ns);
        self.give_back(now_ns);
    }

    fn send_out(&mut self, shared: &Shared, now_ns: u64) {
        if self.flow.is_none() {
            return;
        }
        self.give_back(now_ns);
        self.starved = false;
        while self.failed.is_none() {
            let (_, free) = device(&mut self.stack).send_buffers();
            if free < usize::from(FRAMES_MAX) || self.queued_bytes > QUEUED_BYTES_MAX {
                self.starved = true;
                break;
            }
            let unit = self.unit_bytes();
            self.stream.connection.set_super_segment_bytes(unit);
            let Some(transmit) = self.stream.poll_transmit(now_ns) else { break };
            let whole = self.is_for_the_link_to_cut(&transmit);
            let cut = if whole { transmit.segment_bytes as u16 } else { 0 };
            let whole = whole.then_some(transmit);
            let frames = (cut == 0).then(|| transmit.frames()).into_iter().flatten();
            let mut packets = whole.into_iter().chain(frames).peekable();
            while let Some(frame) = packets.next() {
                let number = if packets.peek().is_none() { frame.number } else { 0 };
                let bytes = frame.segment.payload_bytes;
                let parts = self.stream.send.parts(frame.offset, bytes);
                match self.stack.send(&frame.segment, Peer::Connected, parts, cut) {
                    Ok(Some(buffer)) => {
                        self.queued_bytes += bytes;
                        let offset = (bytes > 0).then_some(frame.offset);
                        self.in_driver.push_back(InDriver { buffer, number, offset, bytes });
                    }
                    // As if it had been lost on the way, after the part of it that leaves. (A link may carry
                    // less than an acknowledgment with all its options.)
                    Ok(None) | Err(SendError::TooLong { .. }) => {
                        match self.in_driver.back_mut() {
                            Some(last) => last.number = transmit.number,
                            None => self.stream.connection.set_departed(transmit.number),
                        }
                        break;
                    }
                    Err(error) => {
                        self.fail(now_ns, &error.into());
                        break;
                    }
                }
            }
        }
        if let Some(mtu) = self.stream.connection.take_path_news() {
            shared.tell_path(self.endpoints.1.ip(), mtu);
        }
        let timeouts = self.stream.connection.counts().timeouts;
        if timeouts > self.noted_timeouts {
            self.noted_timeouts = timeouts;
            self.note();
        }
        self.stream.send.in_driver = self.in_driver.iter().filter_map(|packet| packet.offset).min();
        shared.kick(device(&mut self.stack));
    }

    fn sight(&self) -> Sight {
        Sight {
            readable: self.is_readable(),
            writable: self.is_writable(),
            delivered: self.is_delivered(),
            open: self.stream.connection.is_open(),
        }
    }

    fn due_ns(&self, now_ns: u64) -> u64 {
        let due_ns = self.stream.connection.next_deadline().unwrap_or(NEVER);
        // The peer has everything, and only the driver's word that it is done with it is missing.
        let connection = &self.stream.connection;
        let rest = self.stream.send.in_driver.is_some()
            || connection.is_fin_acknowledged() && !self.in_driver.is_empty();
        let lacks_word = rest && connection.unacknowledged() == 0;
        if self.starved || self.is_over() || lacks_word {
            due_ns.min(now_ns + STARVED_NS)
        } else {
            due_ns
        }
    }

    fn is_done(&self) -> bool {
        self.is_over() && (self.in_driver.is_empty() || self.failed.is_some())
    }

    fn is_watched(conditions: &Conditions) -> bool {
        let Conditions { readable, writable, urgent } = conditions;
        [readable, writable, urgent].into_iter().any(Condition::is_watched)
    }

    fn show(&self, conditions: &Conditions) {
        conditions.urgent.set(self.stream.connection.urgent_bytes().is_some());
        conditions.readable.set(self.is_readable());
        conditions.writable.set(self.is_writable());
    }

    fn report(&mut self) -> Option<Dump> {
        self.notes.take()
    }
}

impl Exchange {
    /// Joins a connection with its flow.
    pub(super) fn new(
        options: &Options,
        flow: Flow,
        mut stack: Layers,
        mut connection: Connection,
    ) -> Self {
        // It may have begun before the link changed.
        let (now_ns, path_mtu) = (monotonic_ns(), flow.fib().path_mtu);
        connection.on_route(now_ns, flow.fib().mtu);
        if let Some(mtu) = path_mtu {
            connection.set_path_mtu(now_ns, mtu);
        }
        let (tx_data, rx_data) = flow.shared.areas.clone();
        let offered_for = u64::from(options.receive_bytes.min(FIRST_RECEIVE_BYTES));
        let send = SendArea::new(tx_data, u32::from(HEADERS) * HEAD_BYTES_MAX as u32);
        let buffers = device(&mut stack).receive_buffers();
        let receive = Frames::new(rx_data, buffers, offered_for, options.receive_bytes.into());
        let fib = flow.fib();
        let local = SocketAddr::new(fib.source, fib.endpoints.local.port);
        let endpoints = (local, fib.endpoints.remote.map_or(local, SocketAddr::from));
        Self {
            stack,
            stream: Stream::new(connection, send, receive),
            flow: Some(flow),
            endpoints,
            door: Weak::new(),
            congestion: options.congestion,
            offered_for,
            in_driver: VecDeque::new(),
            queued_bytes: 0,
            failed: None,
            starved: false,
            told: false,
            read_shut: false,
            is_room_lent: false,
            is_received_lent: false,
            ttl: TTL,
            noted_timeouts: 0,
            notes: None,
        }
    }

    fn note(&mut self) {
        self.notes = dump::of(self.endpoints, &self.stream.connection);
    }

    /// The peer opens a new connection between the same ends, and this one is in its way, in TIME-WAIT: gives
    /// its flow up, and the SYN to the listener (RFC 6191). What was not read is kept. `false`, and the peer is to
    /// ask again, if nobody listens, or while somebody reads or writes where it lies.
    fn make_way(&mut self, syn: Segment, station: Mac, number: u32) -> bool {
        let is_lent = self.is_received_lent || self.is_room_lent;
        let Some(door) = self.door.upgrade().filter(|_| !is_lent) else { return false };
        self.stream.receive.leave_frames();
        self.in_driver.clear();
        // Closed before the listener asks for another.
        self.flow = None;
        door.knock(Knock { syn, remote: self.endpoints.1, station, number });
        true
    }

    /// Packets that the driver is done with: their bytes can be written over once they are acknowledged.
    fn reap(&mut self, now_ns: u64) {
        let (in_driver, queued_bytes) = (&mut self.in_driver, &mut self.queued_bytes);
        let mut departed = 0;
        let reaped = device(&mut self.stack).reap_each(|buffer| {
            while let Some(first) = in_driver.pop_front() {
                departed = departed.max(first.number);
                *queued_bytes -= first.bytes;
                if first.buffer == buffer {
                    break;
                }
            }
        });
        if let Err(fault) = reaped {
            return self.fail(now_ns, &fault.into());
        }
        if departed > 0 {
            self.stream.connection.set_departed(departed);
        }
        self.stream.send.in_driver = self.in_driver.iter().filter_map(|packet| packet.offset).min();
    }

    /// The flow goes another way, or has another contract.
    fn heed(&mut self, now_ns: u64, changes: &Changes) {
        if let Some(fib) = &changes.fib {
            self.stack.reorganise(fib);
            self.stream.connection.on_route(now_ns, fib.mtu);
        }
        if let Some(flow) = &self.flow
            && changes.contract.is_some()
            && self.congestion.is_none()
        {
            self.stream.connection.set_congestion(congestion(flow));
        }
    }

    /// Offers buffers that were read; and more of them, if there is to be room for more.
    fn give_back(&mut self, now_ns: u64) {
        let Some(mtu) = self.flow.as_ref().map(|flow| flow.fib().mtu) else { return };
        let capacity = self.stream.receive.capacity();
        if capacity > self.offered_for {
            self.offered_for = capacity;
            let count = stream_buffers(mtu, capacity);
            if let Err(fault) = device(&mut self.stack).offer_buffers(count) {
                return self.fail(now_ns, &fault.into());
            }
            let count = device(&mut self.stack).receive_buffers();
            self.stream.receive.set_buffers(count);
        }
        while let Some(buffer) = self.stream.receive.free.pop() {
            if let Err(fault) = self.stack.release(buffer) {
                return self.fail(now_ns, &fault.into());
            }
        }
    }

    /// Most payload of what is sent at a time: as much as the link cuts, or as many frames as there are
    /// headers for.
    fn unit_bytes(&self) -> u32 {
        let segment = self.stream.connection.segment_bytes();
        match self.stack.unit_payload_max() {
            // Reports in every header make segments a little smaller, and so more.
            0 => (segment * u32::from(FRAMES_MAX - FRAMES_MAX / 8)).min(SUPER_SEGMENT_BYTES),
            unit => unit.min(segment * u32::from(self.stack.unit_frames())),
        }
    }

    /// Whether the link cuts this; what has flags for one frame alone is cut here.
    fn is_for_the_link_to_cut(&self, transmit: &Transmit) -> bool {
        let Segment { payload_bytes, flags, .. } = transmit.segment;
        payload_bytes > transmit.segment_bytes
            && payload_bytes <= self.stack.unit_payload_max()
            && flags & (tcp_flag::CWR | tcp_flag::URG) == 0
            && transmit.segment_bytes >= CUT_BYTES_MIN
    }

    pub(super) fn is_readable(&self) -> bool {
        self.read_shut
            || self.failed.is_some()
            || !self.is_received_lent && self.stream.is_readable()
    }

    pub(super) fn is_writable(&self) -> bool {
        self.failed.is_some() || !self.is_room_lent && self.stream.is_writable()
    }

    /// The flow is of no use any more.
    pub(super) fn fail(&mut self, now_ns: u64, error: &Error) {
        self.failed.get_or_insert_with(|| error.into());
        self.stream.connection.abort(now_ns);
    }

    /// Whether the peer has everything, and the last word has left this host.
    pub(super) fn is_delivered(&self) -> bool {
        let heard = self.is_over() || self.stream.connection.is_fin_acknowledged();
        heard && (self.in_driver.is_empty() || self.failed.is_some())
    }

    /// Whether the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        self.failed.is_some()
            || matches!(self.stream.connection.state(), TcpState::Closed | TcpState::TimeWait)
    }
}
