//! A TCP socket: a connection, its buffers, and the layers of the flow that it has for itself.
//!
//! `segments` moves segments from and to the driver; `calls` says what the application's calls mean.

mod calls;
mod segments;

pub(crate) use segments::STARVED_NS;
pub use segments::SUPER_SEGMENT_BYTES;

use std::collections::VecDeque;
use std::net::SocketAddr;

use base_flow::Fib;
use base_wire::Mac;
use rbuf_channel::{Buffer, Data, Fault, Words};
use stack_layer::{Device, Ether, HEAD_BYTES_MAX, Ip4, Network as _, Tcp};
use stack_tcp::{Connection, Segment, State, Stream};

use crate::memory::{FrameQueue, SendArea};
use crate::{Error, FlowEnd, Readiness};

/// The layers of a TCP flow.
pub type Layers<W, D> = Tcp<Ip4<Ether<Device<W, D>>>>;

/// How many routers a packet may pass unless somebody says otherwise: what `Ip4` begins with.
pub const TTL: u8 = 64;

/// Most payload that waits for the wire in the flow's own channel: what waits there is part of the round-trip time.
pub const QUEUED_BYTES_MAX: u32 = 256 << 10;

/// Most receive buffers of a flow.
const BUFFERS_MAX: u64 = 16_384;

/// Receive buffers beyond those that a window fills: some are with the driver.
const SPARE_BUFFERS: u64 = 64;

/// Receive buffers for a window of `window` bytes: segments of two thirds of a packet fill it.
pub const fn receive_buffers(mtu: u16, window: u64) -> usize {
    let needed = SPARE_BUFFERS + window * 3 / 2 / (mtu as u64 + 1);
    (if needed < BUFFERS_MAX { needed } else { BUFFERS_MAX }) as usize
}

/// Memory of a flow that a TCP socket uses, and how much of it is for what.
#[derive(Debug)]
pub struct TcpMemory<D> {
    /// Transmit data: `headers` of [`HEAD_BYTES_MAX`] bytes, and behind them what was written.
    pub tx: D,
    /// Receive data.
    pub rx: D,
    /// Headers that can be on their way to the wire.
    pub headers: u16,
    /// Bytes that can be received before it is known how fast the application reads.
    pub receive_bytes: u32,
    /// Bytes that can be received at most.
    pub receive_bytes_max: u32,
}

/// A SYN that opens a connection anew which its application still holds, in TIME-WAIT (RFC 6191).
#[derive(Debug, Clone)]
pub struct ReopenRequest {
    /// The SYN.
    pub syn: Segment,
    /// Who sent it.
    pub remote: SocketAddr,
    /// The way back to it.
    pub mac: Mac,
    /// Where the new connection's numbers begin at least.
    pub sequence_min: u32,
}

/// A TCP socket with a flow of its own.
#[derive(Debug)]
pub struct TcpSocket<W, D> {
    /// `None` once they were given up: see [`Self::take_reopen`].
    stack: Option<Layers<W, D>>,
    stream: Stream<SendArea<D>, FrameQueue<D>>,
    local: SocketAddr,
    remote: SocketAddr,
    mtu: u16,
    ttl: u8,
    /// Most bytes of what is sent at a time, and most frames of it: half of the headers, so that the next can be formed meanwhile.
    super_segment_bytes_max: u32,
    frames_max: u16,
    /// The window for which the driver was offered buffers.
    offered_for: u64,
    /// Packets that the driver has, oldest first, and their payload.
    in_driver: VecDeque<InDriver>,
    queued_bytes: u32,
    /// Whether there is more to send than the driver has room for.
    starved: bool,
    reopen: Option<ReopenRequest>,
    ended: Option<FlowEnd>,
    /// Whether the connection was ever open, and whether its error was told.
    was_open: bool,
    told: bool,
    read_shut: bool,
    /// Whether somebody writes where the next bytes will be sent from, or reads where they arrived, between turns;
    /// others wait.
    is_room_lent: bool,
    is_received_lent: bool,
}

/// A packet that the driver has.
#[derive(Debug)]
struct InDriver {
    buffer: Buffer,
    /// Number of the transmission it ends; 0 if more of it follows.
    number: u64,
    /// First byte of its payload.
    offset: Option<u64>,
    bytes: u32,
}

impl<W: Words, D: Data> TcpSocket<W, D> {
    /// Joins a connection with the layers of its flow, which goes as `fib` says.
    pub fn new(
        now_ns: u64,
        mut stack: Layers<W, D>,
        memory: TcpMemory<D>,
        fib: &Fib,
        mut connection: Connection,
    ) -> Self {
        // It may have begun before the link changed.
        connection.on_route(now_ns, fib.mtu);
        if let Some(mtu) = fib.path_mtu {
            connection.set_path_mtu(now_ns, mtu);
        }
        let TcpMemory { tx, rx, headers, receive_bytes, receive_bytes_max } = memory;
        let offered_for = u64::from(receive_bytes.min(receive_bytes_max));
        let send = SendArea::new(tx, u32::from(headers) * HEAD_BYTES_MAX as u32);
        let buffers = stack.device().receive_buffers();
        let receive = FrameQueue::new(rx, buffers, offered_for, receive_bytes_max.into());
        let local = SocketAddr::new(fib.source, fib.endpoints.local.port);
        let super_segment_bytes_max = connection.super_segment_bytes();
        Self {
            stack: Some(stack),
            was_open: connection.is_open(),
            stream: Stream::new(connection, send, receive),
            local,
            remote: fib.endpoints.remote.map_or(local, SocketAddr::from),
            mtu: fib.mtu,
            ttl: TTL,
            super_segment_bytes_max,
            frames_max: headers / 2,
            offered_for,
            in_driver: VecDeque::new(),
            queued_bytes: 0,
            starved: false,
            reopen: None,
            ended: None,
            told: false,
            read_shut: false,
            is_room_lent: false,
            is_received_lent: false,
        }
    }

    /// Our end.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The peer's end.
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The connection, to be asked.
    pub const fn connection(&self) -> &Connection {
        &self.stream.connection
    }

    /// The connection, to be given options.
    pub const fn connection_mut(&mut self) -> &mut Connection {
        &mut self.stream.connection
    }

    /// The flow's channels; `None` if the flow was given up.
    pub fn device(&mut self) -> Option<&mut Device<W, D>> {
        self.stack.as_mut().map(Tcp::device)
    }

    /// Tells whether the socket has its flow still: see [`Self::take_reopen`].
    pub const fn has_flow(&self) -> bool {
        self.stack.is_some()
    }

    /// The flow goes another way.
    pub fn set_fib(&mut self, now_ns: u64, fib: &Fib) {
        self.mtu = fib.mtu;
        if let Some(stack) = &mut self.stack {
            stack.reorganise(fib);
        }
        self.stream.connection.on_route(now_ns, fib.mtu);
    }

    /// Sets how many routers a packet may pass.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.ttl = ttl;
        if let Some(stack) = &mut self.stack {
            stack.network().set_ttl(ttl);
        }
    }

    /// How many routers a packet may pass.
    pub const fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Sets the service class of what is sent: 0 to 63.
    pub fn set_service(&mut self, class: u8) {
        if let Some(stack) = &mut self.stack {
            stack.network().set_service(class);
        }
    }

    /// The flow is of no use any more, and so the connection.
    pub fn fail(&mut self, now_ns: u64, end: FlowEnd) {
        self.ended.get_or_insert(end);
        self.stream.connection.abort(now_ns);
    }

    fn fault(&mut self, now_ns: u64, fault: Fault) {
        self.fail(now_ns, FlowEnd::Fault(fault));
    }

    /// Why the flow is of no use, if it is not.
    pub const fn flow_end(&self) -> Option<&FlowEnd> {
        self.ended.as_ref()
    }

    /// What can be found by who calls now.
    pub fn readiness(&self) -> Readiness {
        let connection = &self.stream.connection;
        let state = connection.state();
        let dead = self.ended.is_some() || state == State::Closed;
        let peer_done = dead || connection.is_finished();
        let error = self.ended.is_some() || connection.error().is_some() && !self.told;
        let readable =
            self.read_shut || dead || !self.is_received_lent && self.stream.is_readable();
        let writable = self.ended.is_some() || !self.is_room_lent && self.stream.is_writable();
        Readiness::IN.when(readable)
            | Readiness::OUT.when(writable)
            | Readiness::PRI.when(connection.urgent_bytes().is_some())
            | Readiness::ERR.when(error)
            | Readiness::RDHUP.when(peer_done)
            | Readiness::HUP.when(dead || peer_done && !state.can_send())
            | Readiness::OPEN.when(connection.is_open())
            | Readiness::DELIVERED.when(self.is_delivered())
    }

    /// Tells whether the peer has everything, and the last word has left this host.
    pub fn is_delivered(&self) -> bool {
        let heard = self.is_over() || self.stream.connection.is_fin_acknowledged();
        heard && self.has_left()
    }

    /// Tells whether the connection has ended; TIME-WAIT is somebody else's to keep.
    pub fn is_over(&self) -> bool {
        let state = self.stream.connection.state();
        self.ended.is_some() || matches!(state, State::Closed | State::TimeWait)
    }

    /// Tells whether nothing is left to be done, ever.
    pub fn is_done(&self) -> bool {
        self.is_over() && self.has_left()
    }

    fn has_left(&self) -> bool {
        self.in_driver.is_empty() || self.ended.is_some()
    }

    /// The error of the connection or of its flow, as long as it was not told.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] once, [`Error::Flow`] always.
    pub fn check(&mut self) -> Result<(), Error> {
        if let Some(end) = &self.ended {
            return Err(end.clone().into());
        }
        match self.stream.connection.error() {
            Some(error) if !self.told => {
                self.told = true;
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}
