//! Segments in from the driver, segments out to it.

use rbuf_channel::{Data, Words};
use stack_layer::{Arrived, Peer, Received, SendError};
use stack_tcp::{ReceiveQueue as _, Segment, Transmit};

use super::{InDriver, QUEUED_BYTES_MAX, ReopenRequest, TcpSocket, receive_buffers};
use crate::FlowEnd;
use crate::memory::Payload;

/// How soon to look again whether the driver has sent something, if that is all there is to wait for.
pub(crate) const STARVED_NS: u64 = 500_000;

/// Most bytes of what is sent at a time.
pub const SUPER_SEGMENT_BYTES: u32 = 65_160;

/// Segments with less payload are not for the link to cut.
const GSO_SIZE_MIN: u32 = 256;

impl<W: Words, D: Data> TcpSocket<W, D> {
    /// Takes in what has arrived. A SYN that opens the connection anew is for [`Self::take_reopen`] if it
    /// `has_listener`; if not, or while somebody reads or writes where its bytes lie, the peer is to ask again.
    pub fn receive(&mut self, now_ns: u64, has_listener: bool) {
        while let Some(stack) = &mut self.stack {
            match stack.receive() {
                Ok(Some(Arrived::Segment(received))) => {
                    self.take_segment(now_ns, received, has_listener);
                }
                Ok(Some(Arrived::RouterError { sequence, error, .. })) => {
                    self.stream.connection.on_router_error(now_ns, sequence, error);
                }
                Ok(None) => break,
                Err(fault) => return self.fault(now_ns, fault),
            }
        }
        // Before anybody looks whether there is room, or everything has left.
        self.reap(now_ns);
        self.offer(now_ns);
    }

    fn take_segment(&mut self, now_ns: u64, received: Received, has_listener: bool) {
        let Received { segment, mac, buffer, payload, .. } = received;
        let arrival = self.stream.on_segment(now_ns, &segment, Payload::Frame(buffer, payload));
        self.was_open |= self.stream.connection.is_open();
        let is_lent = self.is_received_lent || self.is_room_lent;
        if let Some(sequence_min) = arrival.reopens.filter(|_| has_listener && !is_lent) {
            self.stream.receive.leave_frames();
            self.in_driver.clear();
            self.stack = None;
            let remote = self.remote;
            self.reopen = Some(ReopenRequest { syn: segment, remote, mac, sequence_min });
        }
    }

    /// Takes in a segment that arrived elsewhere after the connection had been made, and so before what has arrived
    /// here; [`Self::transmit`] sends what follows from it.
    pub fn take_copied(&mut self, now_ns: u64, segment: &Segment, payload: &[u8]) {
        self.stream.on_segment(now_ns, segment, Payload::Bytes(payload));
        self.was_open |= self.stream.connection.is_open();
    }

    /// The request of a peer for a new connection between the same ends (RFC 6191). The flow is to be closed, and then the
    /// listener told: it is in the way. What was not read is kept.
    pub const fn take_reopen(&mut self) -> Option<ReopenRequest> {
        self.reopen.take()
    }

    /// Sends what there is to send, as far as the driver has room. The driver is to be told ([`Device::notice`]).
    ///
    /// [`Device::notice`]: stack_layer::Device::notice
    pub fn transmit(&mut self, now_ns: u64) {
        self.offer(now_ns);
        self.starved = false;
        while self.ended.is_none() {
            let Some(stack) = &mut self.stack else { return };
            let (_, free) = stack.device().send_buffers();
            if free < usize::from(self.frames_max) || self.queued_bytes > QUEUED_BYTES_MAX {
                self.starved = true;
                break;
            }
            let bytes = self.super_segment_bytes();
            self.stream.connection.set_super_segment_bytes(bytes);
            let Some(transmit) = self.stream.poll_transmit(now_ns) else { break };
            self.send(now_ns, &transmit);
        }
        self.note_in_driver();
    }

    fn send(&mut self, now_ns: u64, transmit: &Transmit) {
        let whole = self.is_for_the_link_to_cut(transmit);
        let gso_size = if whole { transmit.segment_bytes as u16 } else { 0 };
        let frames = (!whole).then(|| transmit.frames()).into_iter().flatten();
        let mut packets = whole.then_some(*transmit).into_iter().chain(frames).peekable();
        while let (Some(frame), Some(stack)) = (packets.next(), &mut self.stack) {
            let number = if packets.peek().is_none() { frame.number } else { 0 };
            let bytes = frame.segment.payload_bytes;
            let parts = self.stream.send.parts(frame.offset, bytes);
            match stack.send(&frame.segment, Peer::Connected, parts, gso_size) {
                Ok(Some(buffer)) => {
                    self.queued_bytes += bytes;
                    let offset = (bytes > 0).then_some(frame.offset);
                    self.in_driver.push_back(InDriver { buffer, number, offset, bytes });
                }
                // As if it had been lost on the way, after the part of it that leaves. (A link may carry less than an
                // acknowledgment with all its options.)
                Ok(None) | Err(SendError::TooLong { .. }) => {
                    match self.in_driver.back_mut() {
                        Some(last) => last.number = transmit.number,
                        None => self.stream.connection.set_departed(transmit.number),
                    }
                    return;
                }
                Err(SendError::Fault(fault)) => return self.fault(now_ns, fault),
                Err(error) => return self.fail(now_ns, FlowEnd::Send(error)),
            }
        }
    }

    /// When there is something to do although nothing arrives.
    pub fn next_deadline(&self, now_ns: u64) -> Option<u64> {
        self.stack.as_ref()?;
        let connection = &self.stream.connection;
        let due_ns = connection.next_deadline();
        // The peer has everything, and only the driver's word that it is done with it is missing.
        let rest = self.stream.send.in_driver.is_some()
            || connection.is_fin_acknowledged() && !self.in_driver.is_empty();
        let lacks_word = rest && connection.unacknowledged() == 0;
        if self.starved || self.is_over() && !self.has_left() || lacks_word {
            let soon_ns = now_ns + STARVED_NS;
            Some(due_ns.map_or(soon_ns, |due_ns| due_ns.min(soon_ns)))
        } else {
            due_ns
        }
    }

    /// Packets that the driver is done with: their bytes can be written over once they are acknowledged.
    pub fn reap(&mut self, now_ns: u64) {
        let Some(stack) = &mut self.stack else { return };
        let (in_driver, queued_bytes) = (&mut self.in_driver, &mut self.queued_bytes);
        let mut departed = 0;
        let reaped = stack.device().reap_each(|buffer| {
            while let Some(first) = in_driver.pop_front() {
                departed = departed.max(first.number);
                *queued_bytes -= first.bytes;
                if first.buffer == buffer {
                    break;
                }
            }
        });
        if let Err(fault) = reaped {
            return self.fault(now_ns, fault);
        }
        if departed > 0 {
            self.stream.connection.set_departed(departed);
        }
        self.note_in_driver();
    }

    fn note_in_driver(&mut self) {
        self.stream.send.in_driver = self.in_driver.iter().filter_map(|packet| packet.offset).min();
    }

    /// Offers buffers that were read; and more of them, if there is to be room for more.
    fn offer(&mut self, now_ns: u64) {
        let Some(stack) = &mut self.stack else { return };
        let capacity = self.stream.receive.capacity();
        let mut offered = Ok(());
        if capacity > self.offered_for {
            self.offered_for = capacity;
            let device = stack.device();
            offered = device.offer_buffers(receive_buffers(self.mtu, capacity));
            self.stream.receive.set_buffers(device.receive_buffers());
        }
        while offered.is_ok()
            && let Some(buffer) = self.stream.receive.free.pop()
        {
            offered = stack.release(buffer);
        }
        if let Err(fault) = offered {
            self.fault(now_ns, fault);
        }
    }

    /// Most payload of what is sent at a time: as much as the link cuts, or as many frames as there are headers for.
    fn super_segment_bytes(&self) -> u32 {
        let Some(stack) = &self.stack else { return 0 };
        let segment = self.stream.connection.segment_bytes();
        match stack.gso_payload_max() {
            // Reports in every header make segments a little smaller, and so more.
            0 => {
                let frames = self.frames_max - self.frames_max / 8;
                (segment * u32::from(frames)).min(self.super_segment_bytes_max)
            }
            max => {
                let segments = segment * u32::from(stack.gso_max_segs());
                max.min(segments).min(self.super_segment_bytes_max)
            }
        }
    }

    /// Tells whether the link cuts this; what has flags for one frame alone is cut here.
    fn is_for_the_link_to_cut(&self, transmit: &Transmit) -> bool {
        use base_wire::tcp_flag::{CWR, URG};

        let Segment { payload_bytes, flags, .. } = transmit.segment;
        let max = self.stack.as_ref().map_or(0, |stack| stack.gso_payload_max());
        payload_bytes > transmit.segment_bytes
            && payload_bytes <= max
            && flags & (CWR | URG) == 0
            && transmit.segment_bytes >= GSO_SIZE_MIN
    }
}
