//! What a call of the application means to a connection, and which error it gets: those of `std::net`.

use std::io;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use base_flow::Contract;
use stack_tcp::{SendBuffer as _, State as TcpState, WriteError};

use super::exchange::Exchange;
use super::seat::NEVER;
use crate::Error;
use crate::flow::Flow;

impl Exchange {
    /// The error that ended the connection, if one did: once; after that it is at its end.
    pub(super) fn check(&mut self) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(Error::Lost(reason.clone()).into());
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
        out: &mut [&mut [u8]],
        peek: bool,
    ) -> io::Result<Option<usize>> {
        if self.read_shut {
            return Ok(Some(0));
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
        Ok(self.stream.connection.state().is_synchronised())
    }

    pub(super) fn receive_to(
        &mut self,
        now_ns: u64,
        file: BorrowedFd<'_>,
        bytes: usize,
    ) -> io::Result<Option<usize>> {
        let urgent = self.stream.connection.urgent_bytes().unwrap_or(u64::MAX);
        let bytes = self.stream.connection.readable().min(bytes as u64).min(urgent);
        if self.read_shut || bytes == 0 {
            return if self.read_shut { Ok(Some(0)) } else { self.nothing_to_read() };
        }
        let taken = self.stream.receive.drain_to(file, bytes)?;
        self.stream.skip(now_ns, taken as u64);
        Ok(Some(taken))
    }

    pub(super) fn send_from(
        &mut self,
        file: BorrowedFd<'_>,
        bytes: usize,
    ) -> io::Result<Option<usize>> {
        if !self.can_write()? {
            return Ok(None);
        }
        let ended = |_: WriteError| io::Error::from(io::ErrorKind::BrokenPipe);
        self.stream.connection.write(0, true).map_err(ended)?;
        if self.stream.send.room() == 0 {
            return Ok(None);
        }
        let taken = self.stream.send.fill_from(file, bytes)?;
        self.stream.connection.write(taken as u64, false).map_err(ended)?;
        Ok(Some(taken))
    }

    /// Whether there is a connection that could be written to, or was.
    fn can_write(&mut self) -> io::Result<bool> {
        self.check()?;
        let state = self.stream.connection.state();
        Ok(state.is_synchronised() || state == TcpState::Closed)
    }

    pub(super) fn write(&mut self, parts: &[&[u8]], follows: bool) -> io::Result<Option<usize>> {
        if !self.can_write()? {
            return Ok(None);
        }
        let mut total = 0;
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            let taken = match self.stream.write(part, follows || !last) {
                Ok(taken) => taken,
                Err(WriteError::ShutDown | WriteError::Ended) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            };
            total += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok((total > 0).then_some(total))
    }

    pub(super) fn shut_down(&mut self, now_ns: u64, how: Shutdown) -> io::Result<()> {
        let connection = &mut self.stream.connection;
        if !connection.state().is_synchronised() {
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
        self.stack.lower().set_ttl(ttl);
    }

    pub(super) fn set_service(&mut self, class: u8) {
        self.stack.lower().set_service(class);
    }

    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.check().err()
    }

    pub(super) fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }

    pub(super) fn contract(&self) -> Contract {
        self.flow.contract()
    }
}

fn io_error(error: stack_tcp::Error) -> io::Error {
    use stack_tcp::Error as Tcp;
    let kind = match error {
        Tcp::Refused => io::ErrorKind::ConnectionRefused,
        Tcp::Reset => io::ErrorKind::ConnectionReset,
        Tcp::TimedOut => io::ErrorKind::TimedOut,
        Tcp::Unreachable => io::ErrorKind::HostUnreachable,
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
