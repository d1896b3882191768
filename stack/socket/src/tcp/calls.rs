//! What a call of the application means to a connection.

use std::io::{IoSlice, IoSliceMut};
use std::net::Shutdown;

use rbuf_channel::{Data, Pair, Words};
use stack_tcp::{SendBuffer as _, State};

use super::TcpSocket;
use crate::Error;
use crate::memory::Place;

impl<W: Words, D: Data> TcpSocket<W, D> {
    /// Tells whether the handshake is complete.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] if it is not yet, or why it will not be: [`Error::Connection`] once, and
    /// [`Error::NotConnected`] then.
    pub fn opened(&mut self) -> Result<(), Error> {
        self.check()?;
        match self.stream.connection.state() {
            State::Closed if !self.was_open => Err(Error::NotConnected),
            _ if self.was_open => Ok(()),
            _ => Err(Error::WouldBlock),
        }
    }

    /// Reads what has arrived, in order, into `out`; 0 at the end of the stream. No read passes the end of what is
    /// urgent.
    ///
    /// # Errors
    ///
    /// What arrived before an error is read before it is told.
    pub fn read(&mut self, now_ns: u64, out: &mut [IoSliceMut<'_>]) -> Result<usize, Error> {
        if self.is_received_lent {
            return Err(Error::WouldBlock);
        }
        let mark = self.stream.connection.urgent_bytes();
        let mut total = 0;
        for part in out.iter_mut() {
            let bytes = self.stream.read(now_ns, part);
            total += bytes;
            if bytes < part.len() || mark == Some(total as u64) {
                break;
            }
        }
        if total > 0 { Ok(total) } else { self.nothing_to_read() }
    }

    /// As [`Self::read`], and what was read can be read again.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn peek(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        if self.is_received_lent {
            return Err(Error::WouldBlock);
        }
        match self.stream.peek(out) {
            0 => self.nothing_to_read(),
            bytes => Ok(bytes),
        }
    }

    /// The end of the stream, or why there is nothing, or nothing yet.
    fn nothing_to_read(&mut self) -> Result<usize, Error> {
        if self.read_shut {
            return Ok(0);
        }
        self.check()?;
        let connection = &self.stream.connection;
        match connection.state() {
            State::Closed if !self.was_open => Err(Error::NotConnected),
            State::Closed => Ok(0),
            _ if connection.is_at_end() => Ok(0),
            _ => Err(Error::WouldBlock),
        }
    }

    /// Writes as much of `parts` as there is room for. With `follows` there will be more, and no segment leaves that is
    /// not full.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlock`] if there is no room, or the handshake is not complete.
    pub fn write(&mut self, parts: &[IoSlice<'_>], follows: bool) -> Result<usize, Error> {
        self.check_writable()?;
        let mut total = 0;
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            let taken = self.stream.write(part, follows || !last)?;
            total += taken;
            if taken < part.len() {
                break;
            }
        }
        if total == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Err(Error::WouldBlock);
        }
        Ok(total)
    }

    /// Puts `bytes` where the SYN, which leaves afterwards, takes them from (RFC 7413); says how many there was room for.
    ///
    /// # Errors
    ///
    /// [`Error::BrokenPipe`] if the connection is over.
    pub fn put_on_syn(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(self.stream.write(bytes, false)?)
    }

    fn check_writable(&mut self) -> Result<(), Error> {
        self.check()?;
        let connection = &self.stream.connection;
        let may_write = connection.is_open() || connection.state() == State::Closed;
        if self.is_room_lent || !may_write { Err(Error::WouldBlock) } else { Ok(()) }
    }

    /// Lends up to `bytes` of what can be read, where it lies; nothing at the end of the stream.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn lend_received(&mut self, bytes: u64) -> Result<Place, Error> {
        if self.is_received_lent {
            return Err(Error::WouldBlock);
        }
        let connection = &self.stream.connection;
        let urgent = connection.urgent_bytes().unwrap_or(u64::MAX);
        let bytes = connection.readable().min(bytes).min(urgent);
        if bytes == 0 {
            self.nothing_to_read()?;
        }
        self.is_received_lent = bytes > 0;
        Ok(self.stream.receive.place(bytes))
    }

    /// Takes back what was lent, of which `bytes` were read.
    pub fn take_back_received(&mut self, now_ns: u64, bytes: u64) {
        self.is_received_lent = false;
        self.stream.skip(now_ns, bytes);
    }

    /// Lends room for up to `bytes` where they will be sent from.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub fn lend_room(&mut self, bytes: usize) -> Result<[Pair; 2], Error> {
        self.check_writable()?;
        self.stream.connection.write(0, true)?;
        if self.stream.send.room() == 0 {
            return Err(Error::WouldBlock);
        }
        self.is_room_lent = true;
        Ok(self.stream.send.next(bytes))
    }

    /// Takes back room that was lent, of which `bytes` were filled, and are to be sent.
    ///
    /// # Errors
    ///
    /// [`Error::BrokenPipe`] if nothing can be sent any more.
    pub fn take_back_room(&mut self, bytes: u32) -> Result<(), Error> {
        self.is_room_lent = false;
        if bytes > 0 {
            self.stream.connection.write(bytes.into(), false)?;
            self.stream.send.append(bytes);
        }
        Ok(())
    }

    /// Ends one half, or both. What has arrived can still be read.
    ///
    /// # Errors
    ///
    /// [`Error::NotConnected`] if there is no connection.
    pub fn shut_down(&mut self, now_ns: u64, how: Shutdown) -> Result<(), Error> {
        if self.stream.connection.state() == State::Closed {
            return Err(Error::NotConnected);
        }
        self.read_shut |= how != Shutdown::Write;
        if how != Shutdown::Read {
            self.stream.connection.shut_down(now_ns);
        }
        Ok(())
    }

    /// The application lets go: what was written is still delivered, or, `at_once`, the peer hears a reset.
    pub fn close(&mut self, now_ns: u64, at_once: bool) {
        if at_once {
            self.stream.connection.abort(now_ns);
        } else {
            self.stream.connection.close(now_ns);
        }
    }
}
