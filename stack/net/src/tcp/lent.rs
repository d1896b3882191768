//! Parts of a stream where they lie: room in which the application writes what is sent from there, and what
//! arrived, in the buffers in which it did. Neither is copied in this process.
//!
//! The lock of the stream is not held meanwhile. Of each kind one is lent at a time; other threads that want to
//! write, or to read, wait as for room, or for something to read. Bytes are cells: the driver may look at them,
//! or write them if it does not keep to the rules, at any time.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use rbuf_channel::{Data, Pair};
use rbuf_shm::ShmData;

use super::socket::Socket;
use stack_socket::Place;

use crate::error::io_error;

/// Room of a stream's own send buffer: see [`TcpStream::room`](super::TcpStream::room).
#[derive(Debug)]
pub struct Room<'a> {
    socket: &'a Socket,
    data: ShmData,
    parts: [Pair; 2],
    written: u32,
    is_lent: bool,
}

impl<'a> Room<'a> {
    pub(super) fn lend(socket: &'a Socket, bytes: usize) -> io::Result<Self> {
        let parts = socket.lend_room(bytes)?;
        Ok(Self {
            socket,
            data: socket.seat.shared.areas.0.clone(),
            parts,
            written: 0,
            is_lent: true,
        })
    }

    /// Bytes that can still be written.
    pub const fn len(&self) -> usize {
        let [first, second] = self.parts;
        (first.len + second.len) as usize
    }

    /// Whether nothing more fits.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes themselves, in one or two parts: to be stored to, and then [advanced](Self::advance) over.
    pub fn cells(&self) -> [&[AtomicU8]; 2] {
        self.parts.map(|part| self.data.cells(part.offset, part.len))
    }

    /// The next `bytes` are written: as many as there are at most.
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len()) as u32;
        let [first, second] = &mut self.parts;
        let from_first = bytes.min(first.len);
        for (part, taken) in [(first, from_first), (second, bytes - from_first)] {
            *part = Pair { offset: part.offset + taken, len: part.len - taken };
        }
        self.written += bytes;
    }

    /// Sends what was written, and returns how much that was.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the connection was closed meanwhile.
    pub fn send(mut self) -> io::Result<usize> {
        let bytes = self.written;
        self.give_back(bytes)?;
        Ok(bytes as usize)
    }

    /// Others may write now; what they do is not ours to end once more.
    fn give_back(&mut self, bytes: u32) -> io::Result<()> {
        if std::mem::take(&mut self.is_lent) {
            self.socket
                .seat
                .with(|exchange, _| exchange.socket.take_back_room(bytes))
                .map_err(io_error)?;
        }
        Ok(())
    }

    pub(super) fn fill_from(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let bytes = self.data.fill_from(&self.parts, file)?;
        self.advance(bytes);
        Ok(bytes)
    }
}

impl Write for Room<'_> {
    /// Writes as much of `bytes` as there is room for.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.len());
        let (head, tail) = bytes[..taken].split_at(taken.min(self.parts[0].len as usize));
        self.data.write(self.parts[0].offset, head);
        self.data.write(self.parts[1].offset, tail);
        self.advance(taken);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        // What was written and not sent is forgotten; nobody is left to hear of a failure.
        let _ = self.give_back(0);
    }
}

/// Bytes of a stream in the buffers in which they arrived: see
/// [`TcpStream::received`](super::TcpStream::received).
#[derive(Debug)]
pub struct Received<'a> {
    socket: &'a Socket,
    data: ShmData,
    place: Place,
    /// Bytes in `place`, and how many of them were consumed.
    bytes: usize,
    consumed: usize,
}

impl<'a> Received<'a> {
    pub(super) fn lend(socket: &'a Socket, bytes: u64) -> io::Result<Self> {
        let place = socket.lend_received(bytes)?;
        let framed: usize = place.ranges().iter().map(|range| range.len as usize).sum();
        let bytes = framed + place.copied.len();
        let data = socket.seat.shared.areas.1.clone();
        Ok(Self { socket, data, place, bytes, consumed: 0 })
    }

    /// Bytes that were not consumed.
    pub const fn len(&self) -> usize {
        self.bytes - self.consumed
    }

    /// Whether nothing is left; at once, if the stream has ended.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was not consumed, part by part.
    pub fn cells(&self) -> impl Iterator<Item = &[AtomicU8]> {
        let parts = self.place.ranges().iter().map(|part| self.data.cells(part.offset, part.len));
        let mut skip = self.consumed;
        let left = parts.chain([&*self.place.copied]).map(move |cells| {
            let passed = skip.min(cells.len());
            skip -= passed;
            &cells[passed..]
        });
        left.filter(|cells| !cells.is_empty())
    }

    /// The next `bytes` will not be read again: as many as there are at most.
    pub fn consume(&mut self, bytes: usize) {
        self.consumed += bytes.min(self.len());
    }

    /// Writes all of it to `file`, and consumes what that takes; before anything else was consumed.
    pub(super) fn drain_to(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let bytes = if self.place.ranges().is_empty() {
            let copied = self.place.copied.iter().map(|byte| byte.load(Ordering::Relaxed));
            rustix::io::write(file, &copied.collect::<Vec<u8>>())?
        } else {
            self.data.drain_to(self.place.ranges(), file)?
        };
        self.consume(bytes);
        Ok(bytes)
    }
}

impl Read for Received<'_> {
    /// Copies out and consumes; 0 when nothing is left.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (mut done, mut skip) = (0, self.consumed as u32);
        for range in self.place.ranges() {
            let passed = skip.min(range.len);
            let bytes = (range.len - passed).min((out.len() - done) as u32);
            let end = done + bytes as usize;
            self.data.read(range.offset + passed, &mut out[done..end]);
            (done, skip) = (end, skip - passed);
        }
        for (to, from) in out.iter_mut().zip(self.place.copied.iter().skip(self.consumed)) {
            *to = from.load(Ordering::Relaxed);
            done += 1;
        }
        self.consume(done);
        Ok(done)
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let consumed = self.consumed as u64;
            self.socket
                .seat
                .with(|exchange, now_ns| exchange.socket.take_back_received(now_ns, consumed));
        }
    }
}
