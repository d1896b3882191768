//! One connection of a host: its socket, and the driver's side of its flow.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Shutdown};

use rbuf_channel::{HeapData, HeapWords};
use stack_socket::{Readiness, TcpSocket};
use stack_tcp::Connection;
use tools_sim::tcp::{HeapFlow, HeapFlowOptions, RawPacket};

use crate::errno::Errno;
use crate::option::Choices;

/// A connection.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) local: (Ipv4Addr, u16),
    pub(crate) remote: (Ipv4Addr, u16),
    pub(crate) socket: TcpSocket<HeapWords, HeapData>,
    flow: HeapFlow,
    /// When it was opened, if it ever was.
    opened_ns: Option<u64>,
}

/// What the flow of a socket with these choices is like.
pub(crate) fn flow_options(
    local: (Ipv4Addr, u16),
    remote: Option<(Ipv4Addr, u16)>,
    choices: &Choices,
) -> HeapFlowOptions {
    let config = &choices.settings.config;
    let whole = choices.settings.whole_segments;
    HeapFlowOptions {
        local,
        remote,
        mtu: config.mtu,
        gso_max_size: if whole { u16::MAX } else { config.mtu },
        packet_max: u16::MAX,
        send_bytes: choices.settings.send_bytes,
        receive_bytes: config.receive_bytes,
        receive_bytes_max: config.receive_bytes_max,
    }
}

impl Endpoint {
    pub(crate) fn new(
        now_ns: u64,
        (local, remote): ((Ipv4Addr, u16), (Ipv4Addr, u16)),
        connection: Connection,
        choices: &Choices,
    ) -> Self {
        let (flow, stack, memory) = HeapFlow::new(&flow_options(local, Some(remote), choices));
        let socket = TcpSocket::new(now_ns, stack, memory, flow.fib(), connection);
        let mut endpoint = Self { local, remote, socket, flow, opened_ns: None };
        endpoint.apply(choices);
        endpoint
    }

    /// Makes all choices that a connection can still take.
    pub(crate) fn apply(&mut self, choices: &Choices) {
        choices.apply(self.socket.connection_mut());
        self.socket.set_service(choices.type_of_service >> 2);
    }

    pub(crate) const fn connection(&self) -> &Connection {
        self.socket.connection()
    }

    /// When it was opened; 0 if it never was.
    pub(crate) fn opened_ns(&self) -> u64 {
        self.opened_ns.unwrap_or(0)
    }

    /// Whether nothing can come of it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.connection().state() == stack_tcp::State::Closed || !self.socket.has_flow()
    }

    /// A packet arrives in the flow.
    pub(crate) fn arrive(&mut self, now_ns: u64, packet: &[u8], has_listener: bool) {
        // One that there is no buffer for is lost, as anywhere.
        let _ = self.flow.deliver(packet);
        self.socket.receive(now_ns, has_listener);
        self.note_opened(now_ns);
    }

    /// A segment that arrived before there was a flow.
    pub(crate) fn take_copied(
        &mut self,
        now_ns: u64,
        segment: &stack_tcp::Segment,
        payload: &[u8],
    ) {
        self.socket.take_copied(now_ns, segment, payload);
        self.note_opened(now_ns);
    }

    fn note_opened(&mut self, now_ns: u64) {
        if self.connection().is_open() {
            self.opened_ns.get_or_insert(now_ns);
        }
    }

    /// Sends what there is to send now, as packets.
    pub(crate) fn transmit(&mut self, now_ns: u64, out: &mut Vec<RawPacket>) {
        loop {
            let before = out.len();
            self.socket.transmit(now_ns);
            while let Ok(Some(packet)) = self.flow.take() {
                out.push(packet);
            }
            self.socket.reap(now_ns);
            if out.len() == before {
                return;
            }
        }
    }

    /// The error of the connection, once.
    pub(crate) fn error(&mut self) -> Option<Errno> {
        self.socket.check().err().map(Errno::from)
    }

    pub(crate) fn read(&mut self, now_ns: u64, out: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let is_empty = out.is_empty();
        let result = match peek {
            true => self.socket.peek(out),
            false => self.socket.read(now_ns, &mut [IoSliceMut::new(out)]),
        };
        match result.map_err(Errno::from) {
            Err(Errno::Again) if is_empty => Ok(0),
            result => result,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8], follows: bool) -> Result<usize, Errno> {
        Ok(self.socket.write(&[IoSlice::new(bytes)], follows)?)
    }

    /// Whether a connection that was begun is open, and if not, why.
    pub(crate) fn opened(&mut self) -> Result<(), Errno> {
        self.socket.opened().map_err(|error| match error.into() {
            Errno::Again => Errno::InProgress,
            Errno::NotConnected => Errno::ConnectionAborted,
            error => error,
        })
    }

    pub(crate) fn shut_down(
        &mut self,
        now_ns: u64,
        reading: bool,
        writing: bool,
    ) -> Result<(), Errno> {
        let how = match (reading, writing) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            _ => Shutdown::Write,
        };
        Ok(self.socket.shut_down(now_ns, how)?)
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.socket.readiness()
    }
}
