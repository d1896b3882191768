//! A connection and its buffers: what reading and writing mean.

use crate::Segment;
use crate::application::WriteError;
use crate::arrive::Arrival;
use crate::connection::{Connection, State};
use crate::receiver::Keep;
use crate::transmit::Transmit;

/// Where written bytes lie until they are acknowledged. They are sent from there, and sent again from
/// there.
pub trait SendBuffer {
    /// Bytes that can be written now.
    fn room(&self) -> usize;

    /// Appends as much of `bytes` as there is room for, and returns how much that was.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// Everything below this place in the stream is acknowledged.
    fn release(&mut self, below: u64);
}

/// Where received bytes lie until they are read.
pub trait ReceiveQueue {
    /// A segment's payload as it arrives: bytes, or the buffer they came in.
    type Payload<'a>;

    /// Takes part of a payload over. Every byte of the stream is given once, in any order, and all of them
    /// are taken: the peer was invited to send them. They are not further ahead of what was read than the
    /// largest capacity so far (or two units of the window's scale, if it is less), and two such units.
    fn keep(&mut self, keep: Keep, payload: Self::Payload<'_>);

    /// Copies part of a payload of which another part will be taken over. As for [`Self::keep`], every
    /// byte is given once.
    fn keep_part(&mut self, keep: Keep, payload: &Self::Payload<'_>);

    /// Gives back a payload of which nothing is new.
    fn discard(&mut self, payload: Self::Payload<'_>);

    /// Copies the next bytes of the stream out; all of them were kept.
    fn read(&mut self, out: &mut [u8]);

    /// Copies the next bytes of the stream out and does not forget them.
    fn peek(&self, out: &mut [u8]);

    /// Forgets the next bytes of the stream.
    fn skip(&mut self, bytes: u64);

    /// Bytes that can be kept and not read.
    fn capacity(&self) -> u64;

    /// Grows towards `wanted`, as far as its owner allows.
    fn grow(&mut self, wanted: u64);
}

/// A connection with its buffers.
#[derive(Debug)]
pub struct Stream<S, R> {
    /// The state machine.
    pub connection: Connection,
    /// What was written.
    pub send: S,
    /// What was received.
    pub receive: R,
}

impl<S: SendBuffer, R: ReceiveQueue> Stream<S, R> {
    /// Joins them.
    pub fn new(mut connection: Connection, send: S, receive: R) -> Self {
        connection.set_receive_bytes(receive.capacity());
        Self { connection, send, receive }
    }

    /// A segment with its payload arrived.
    pub fn on_segment(
        &mut self,
        now_ns: u64,
        segment: &Segment,
        payload: R::Payload<'_>,
    ) -> Arrival {
        let arrival = self.connection.on_segment(now_ns, segment);
        match arrival.keep {
            Some(mut keep) => {
                // One that fills several gaps.
                while let Some(more) = self.connection.more_of(now_ns, segment) {
                    self.receive.keep_part(keep, &payload);
                    keep = more;
                }
                self.receive.keep(keep, payload);
            }
            None => self.receive.discard(payload),
        }
        self.send.release(self.connection.acknowledged());
        arrival
    }

    /// The next thing to send; see [`Connection::poll_transmit`].
    pub fn poll_transmit(&mut self, now_ns: u64) -> Option<Transmit> {
        self.connection.poll_transmit(now_ns)
    }

    /// Writes as much of `bytes` as there is room for; 0 if there is none. More `follows` soon.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write(&mut self, bytes: &[u8], follows: bool) -> Result<usize, WriteError> {
        // Asked first, so that nothing is put into a buffer that nobody sends from.
        self.connection.write(0, true)?;
        let taken = self.send.write(bytes);
        if taken > 0 {
            self.connection.write(taken as u64, follows)?;
        }
        Ok(taken)
    }

    /// Reads what has arrived, as much as fits into `out`; 0 if there is nothing, now or, if
    /// [`Connection::is_at_end`], for ever.
    ///
    /// What is urgent and what follows it are not read at once (RFC 9293 §3.9.1.3).
    pub fn read(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        let urgent = self.connection.urgent_bytes().unwrap_or(u64::MAX);
        let bytes = self.connection.readable().min(out.len() as u64).min(urgent);
        if bytes == 0 {
            return 0;
        }
        self.receive.read(&mut out[..bytes as usize]);
        self.consumed(now_ns, bytes);
        bytes as usize
    }

    /// As [`Self::read`], but what was read can be read again.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        let bytes = self.connection.readable().min(out.len() as u64) as usize;
        self.receive.peek(&mut out[..bytes]);
        bytes
    }

    /// Throws away up to `bytes` of what has arrived.
    pub fn skip(&mut self, now_ns: u64, bytes: u64) -> u64 {
        let bytes = self.connection.readable().min(bytes);
        self.receive.skip(bytes);
        self.consumed(now_ns, bytes);
        bytes
    }

    fn consumed(&mut self, now_ns: u64, bytes: u64) {
        self.connection.consume(now_ns, bytes);
        let wanted = self.connection.receive_bytes_wanted();
        if wanted > self.receive.capacity() {
            self.receive.grow(wanted);
            self.connection.set_receive_bytes(self.receive.capacity());
        }
    }

    /// Whether a write would take something, or fail.
    pub fn is_writable(&self) -> bool {
        let state = self.connection.state();
        (self.connection.is_open() || state == State::Closed)
            && (self.send.room() > 0 || !state.can_send())
    }

    /// Whether a read would give something, or the end, or fail.
    pub fn is_readable(&self) -> bool {
        self.connection.readable() > 0
            || self.connection.is_finished()
            || self.connection.state() == State::Closed
    }
}
