//! One connection of a host: the engine, its buffers, and what the application was told.

use std::net::Ipv4Addr;

use stack_tcp::{Connection, ReceiveRing, Segment, SendRing, State, Stream, Transmit, WriteError};

use crate::errno::Errno;
use crate::option::Choices;

/// What a connection or a listener is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// A read, or an accept, gives something, the end, or an error.
    pub readable: bool,
    /// A write takes something, or gives an error.
    pub writable: bool,
    /// There is an error that was not told.
    pub error: bool,
    /// Both directions are over.
    pub hung_up: bool,
    /// The peer sends no more.
    pub peer_done: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) local: (Ipv4Addr, u16),
    pub(crate) remote: (Ipv4Addr, u16),
    pub(crate) stream: Stream<SendRing, ReceiveRing>,
    pub(crate) type_of_service: u8,
    /// The error was told to the application, which it is once.
    told: bool,
    /// Whether the application reads no more.
    deaf: bool,
    /// When it was opened, if it ever was.
    opened_ns: Option<u64>,
}

impl Endpoint {
    pub(crate) fn new(
        local: (Ipv4Addr, u16),
        remote: (Ipv4Addr, u16),
        connection: Connection,
        choices: &Choices,
    ) -> Self {
        let config = &choices.settings.config;
        let send = SendRing::new(choices.settings.send_bytes as usize);
        let receive =
            ReceiveRing::new(config.receive_bytes as usize, config.receive_bytes_max as usize);
        let mut stream = Stream::new(connection, send, receive);
        choices.apply(&mut stream.connection);
        Self {
            local,
            remote,
            stream,
            type_of_service: choices.type_of_service,
            told: false,
            deaf: false,
            opened_ns: None,
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.stream.connection
    }

    /// When it was opened; 0 if it never was.
    pub(crate) fn opened_ns(&self) -> u64 {
        self.opened_ns.unwrap_or(0)
    }

    /// Whether nothing can come of it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.connection().state() == State::Closed
    }

    /// A segment arrived; if it opens a new connection, at which number.
    pub(crate) fn on_segment(
        &mut self,
        now_ns: u64,
        segment: &Segment,
        payload: &[u8],
    ) -> Option<u32> {
        let reopens = self.stream.on_segment(now_ns, segment, payload).reopens;
        if self.connection().is_open() {
            self.opened_ns.get_or_insert(now_ns);
        }
        reopens
    }

    /// Payload of what is to be sent, as it lies in the send buffer.
    pub(crate) fn payload(&self, transmit: &Transmit) -> [&[u8]; 2] {
        match transmit.segment.payload_bytes as usize {
            0 => [&[]; 2],
            bytes => self.stream.send.parts(transmit.offset, bytes),
        }
    }

    /// That it ended is nobody's fault.
    pub(crate) const fn forgive(&mut self) {
        self.told = true;
    }

    /// The error of the connection, once.
    pub(crate) fn error(&mut self) -> Option<Errno> {
        let error = self.connection().error().filter(|_| !self.told)?;
        self.told = true;
        Some(error.into())
    }

    pub(crate) fn read(&mut self, now_ns: u64, out: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let bytes = match peek {
            true => self.stream.peek(out),
            false => self.stream.read(now_ns, out),
        };
        if bytes > 0 || self.deaf {
            return Ok(bytes);
        }
        if let Some(error) = self.error() {
            return Err(error);
        }
        let connection = self.connection();
        if connection.is_at_end() || connection.state() == State::Closed && self.opened_ns.is_some()
        {
            return Ok(0);
        }
        match connection.state() {
            State::Closed => Err(Errno::NotConnected),
            _ if out.is_empty() => Ok(0),
            _ => Err(Errno::Again),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8], follows: bool) -> Result<usize, Errno> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        if !self.connection().is_open() && self.connection().state() != State::Closed {
            return Err(Errno::Again);
        }
        match self.stream.write(bytes, follows) {
            Ok(0) if !bytes.is_empty() => Err(Errno::Again),
            Ok(taken) => Ok(taken),
            Err(WriteError::ShutDown | WriteError::Ended) => Err(Errno::Pipe),
        }
    }

    /// Whether a connection that was begun is open, and if not, why.
    pub(crate) fn opened(&mut self) -> Result<(), Errno> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        match self.connection().state() {
            State::SynSent | State::SynReceived if !self.connection().is_open() => {
                Err(Errno::InProgress)
            }
            State::Closed => Err(Errno::ConnectionAborted),
            _ => Ok(()),
        }
    }

    pub(crate) fn shut_down(
        &mut self,
        now_ns: u64,
        reading: bool,
        writing: bool,
    ) -> Result<(), Errno> {
        let state = self.connection().state();
        if matches!(state, State::Closed) {
            return Err(Errno::NotConnected);
        }
        self.deaf |= reading;
        if writing {
            self.stream.connection.shut_down(now_ns);
        }
        Ok(())
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let connection = self.connection();
        let peer_done = connection.is_finished() || connection.state() == State::Closed;
        let done = !connection.state().can_send();
        Readiness {
            readable: self.stream.is_readable() || self.deaf,
            writable: self.stream.is_writable(),
            error: connection.error().is_some() && !self.told,
            hung_up: connection.state() == State::Closed || peer_done && done,
            peer_done,
        }
    }
}
