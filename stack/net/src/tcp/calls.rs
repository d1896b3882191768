//! What a call of the application means to a connection, and which error it gets: those of `std::net`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::time::Duration;

use rbuf_channel::Pair;
use stack_tcp::{SendBuffer as _, State as TcpState, WriteError};

use super::buffers::Place;
use super::exchange::Exchange;
use super::seat::NEVER;

impl Exchange {
    /// The error that ended the connection, if one did: once; after that it is at its end.
    pub(super) fn check(&mut self) -> io::Result<()> {
        if let Some(ending) = &self.failed {
            return Err(ending.clone().into());
        }
        match self.stream.connection.error() {
            Some(error) if !self.told => {
                self.told = true;
                Err(io_error(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn read(
        &mut self,
        now_ns: u64,
        out: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<Option<usize>> {
        if self.read_shut {
            return Ok(Some(0));
        }
        if self.is_received_lent {
            return Ok(None);
        }
        let mut total = 0;
        if peek {
            total = out.first_mut().map_or(0, |part| self.stream.peek(part));
        } else {
            let mark = self.stream.connection.urgent_bytes();
            for part in out.iter_mut() {
                let bytes = self.stream.read(now_ns, part);
                total += bytes;
                // No read passes the end of what is urgent, in several parts neither.
                if bytes < part.len() || mark == Some(total as u64) {
                    break;
                }
            }
        }
        if total > 0 {
            return Ok(Some(total));
        }
        self.nothing_to_read()
    }

    /// The end of the stream, or why there is nothing, or nothing yet.
    fn nothing_to_read(&mut self) -> io::Result<Option<usize>> {
        // What arrived before an error is read before it is told.
        self.check()?;
        let connection = &self.stream.connection;
        if connection.is_at_end() || connection.state() == TcpState::Closed {
            return Ok(Some(0));
        }
        if connection.state() == TcpState::SynSent {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(None)
    }

    /// Whether the connection is open, or why it will not be.
    pub(super) fn opened(&mut self) -> io::Result<bool> {
        self.check()?;
        Ok(self.stream.connection.is_open())
    }

    /// Puts `bytes` where the SYN, which leaves afterwards, takes them from; says how many there was room for.
    pub(super) fn put_on_syn(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.stream.write(bytes, false).map_err(ended)
    }

    /// Lends up to `bytes` of what can be read, where it lies; nothing at the end of the stream.
    pub(super) fn lend_received(&mut self, bytes: u64) -> io::Result<Option<Place>> {
        let connection = &self.stream.connection;
        let urgent = connection.urgent_bytes().unwrap_or(u64::MAX);
        let bytes = match connection.readable().min(bytes).min(urgent) {
            _ if self.read_shut => 0,
            _ if self.is_received_lent => return Ok(None),
            0 if self.nothing_to_read()?.is_none() => return Ok(None),
            bytes => bytes,
        };
        self.is_received_lent |= bytes > 0;
        Ok(Some(self.stream.receive.place(bytes)))
    }

    /// What was lent is given back; `bytes` of it were read.
    pub(super) fn take_back_received(&mut self, now_ns: u64, bytes: u64) {
        self.is_received_lent = false;
        self.stream.skip(now_ns, bytes);
    }

    /// Lends room for up to `bytes` where they will be sent from.
    pub(super) fn lend_room(&mut self, bytes: usize) -> io::Result<Option<[Pair; 2]>> {
        if self.is_room_lent || !self.can_write()? {
            return Ok(None);
        }
        self.stream.connection.write(0, true).map_err(ended)?;
        if self.stream.send.room() == 0 {
            return Ok(None);
        }
        self.is_room_lent = true;
        Ok(Some(self.stream.send.next(bytes)))
    }

    /// Room that was lent is given back; `bytes` of it were filled, and are to be sent.
    pub(super) fn take_back_room(&mut self, bytes: u32) -> io::Result<()> {
        self.is_room_lent = false;
        if bytes > 0 {
            self.stream.connection.write(bytes.into(), false).map_err(ended)?;
            self.stream.send.append(bytes);
        }
        Ok(())
    }

    /// Whether there is a connection that could be written to, or was.
    fn can_write(&mut self) -> io::Result<bool> {
        self.check()?;
        let connection = &self.stream.connection;
        Ok(connection.is_open() || connection.state() == TcpState::Closed)
    }

    pub(super) fn write(
        &mut self,
        parts: &[IoSlice<'_>],
        follows: bool,
    ) -> io::Result<Option<usize>> {
        if self.is_room_lent || !self.can_write()? {
            return Ok(None);
        }
        let mut total = 0;
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            let taken = self.stream.write(part, follows || !last).map_err(ended)?;
            total += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok((total > 0).then_some(total))
    }

    pub(super) fn shut_down(&mut self, now_ns: u64, how: Shutdown) -> io::Result<()> {
        let connection = &mut self.stream.connection;
        if !connection.is_open() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if how != Shutdown::Write {
            self.read_shut = true;
        }
        if how != Shutdown::Read {
            connection.shut_down(now_ns);
        }
        Ok(())
    }

    /// What routers say of the peer, which may pass.
    pub(super) fn soft_error(&self) -> Option<io::Error> {
        self.stream.connection.soft_error().map(io_error)
    }

    pub(super) fn set_ttl(&mut self, ttl: u8) {
        self.ttl = ttl;
        self.stack.lower().set_ttl(ttl);
    }

    pub(super) fn set_service(&mut self, class: u8) {
        self.stack.lower().set_service(class);
    }

    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.check().err()
    }
}

/// Nothing can be written any more.
fn ended((WriteError::ShutDown | WriteError::Ended): WriteError) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// An error as a program is told it: what control messages said, as of a datagram.
pub(crate) fn io_error(error: stack_tcp::Error) -> io::Error {
    use stack_layer::ControlError as Said;
    use stack_tcp::Error as Tcp;
    let said = |said, error| match crate::error::kind_of(said) {
        Ok(kind) => io::Error::new(kind, error),
        Err(errno) => errno.into(),
    };
    let kind = match error {
        Tcp::Refused => return said(Said::PortUnreachable, error),
        Tcp::Reset => io::ErrorKind::ConnectionReset,
        Tcp::TimedOut => io::ErrorKind::TimedOut,
        Tcp::NetUnreachable => return said(Said::NetworkUnreachable, error),
        Tcp::HostUnreachable => return said(Said::HostUnreachable, error),
        Tcp::HostUnknown => return said(Said::HostUnknown, error),
        Tcp::HostIsolated => return said(Said::HostIsolated, error),
        Tcp::ProtocolUnreachable => return said(Said::ProtocolUnreachable, error),
        Tcp::SourceRoute => return said(Said::SourceRouteFailed, error),
        Tcp::Header => return said(Said::ParameterProblem, error),
        Tcp::Aborted => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

pub(super) fn nanos(timeout: Option<Duration>) -> io::Result<u64> {
    match timeout {
        Some(Duration::ZERO) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a timeout of zero; use set_nonblocking",
        )),
        Some(timeout) => Ok(u64::try_from(timeout.as_nanos()).unwrap_or(NEVER - 1)),
        None => Ok(NEVER),
    }
}
