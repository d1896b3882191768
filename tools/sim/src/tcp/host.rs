//! One end of a connection: an application that writes a known stream and checks the other's.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Shutdown};

use base_wire::{ETHERNET_BYTES, EtherType, Ethernet, Mac};
use rbuf_channel::{HeapData, HeapWords};
use stack_socket::{Error, Readiness, TcpSocket};
use stack_tcp::{Config, Connection, Identity, Segment, State, reset_for};
use zerocopy::IntoBytes;

use super::byte_at;
use super::flow::{HeapFlow, HeapFlowOptions};
use super::packet::{packet, unwrap};

/// An IPv4 packet.
pub type RawPacket = Vec<u8>;

/// What the application at one end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Bytes it writes before it closes its half.
    pub writes: u64,
    /// Bytes it writes at a time.
    pub chunk: usize,
    /// Time between two chunks.
    pub write_every_ns: u64,
    /// Bytes it reads at a time.
    pub read_chunk: usize,
    /// Time between two reads.
    pub read_every_ns: u64,
    /// When it closes altogether, whatever was written and read; `None` for never.
    pub closes_at_ns: Option<u64>,
    /// Bytes of its send buffer.
    pub send_bytes: usize,
}

impl Behaviour {
    /// Writes `bytes` and reads everything, as fast as it can.
    pub const fn sends(bytes: u64) -> Self {
        Self {
            writes: bytes,
            chunk: 1 << 16,
            write_every_ns: 0,
            read_chunk: usize::MAX,
            read_every_ns: 0,
            closes_at_ns: None,
            send_bytes: 1 << 20,
        }
    }
}

/// How far an application got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes written.
    pub written: u64,
    /// Bytes read, all of them right.
    pub read: u64,
    /// Whether the end of the other's stream was read.
    pub ended: bool,
    /// First byte that was wrong.
    pub wrong: Option<u64>,
    /// When something was read last.
    pub last_read_ns: u64,
}

/// What speaks TCP at one end.
pub trait Host {
    /// Takes a packet in.
    fn arrive(&mut self, now_ns: u64, packet: &[u8]);

    /// Does what is due, and passes packets to send to `out`.
    fn poll(&mut self, now_ns: u64, out: &mut dyn FnMut(RawPacket));

    /// When to be called again although nothing arrives.
    fn deadline(&self) -> Option<u64>;

    /// How far the application got.
    fn progress(&self) -> Progress;

    /// Whether the connection is over, in order or not.
    fn is_over(&self) -> bool;

    /// Whether it ended before its time, and why.
    fn failure(&self) -> Option<String>;
}

/// A connection: its socket, and the driver's side of its flow.
#[derive(Debug)]
struct Endpoint {
    socket: TcpSocket<HeapWords, HeapData>,
    flow: HeapFlow,
}

/// A host with our sockets.
#[derive(Debug)]
pub struct Engine {
    side: u8,
    address: Ipv4Addr,
    peer: Ipv4Addr,
    ports: (u16, u16),
    config: Config,
    identity: Identity,
    behaviour: Behaviour,
    tcp: Option<Endpoint>,
    progress: Progress,
    next_write_ns: u64,
    next_read_ns: u64,
    closed: bool,
    /// Segments for which there was no connection.
    resets: Vec<Segment>,
    /// Packets that were damaged.
    pub damaged: u64,
}

impl Engine {
    /// A host at end `side` (0 or 1) of the wire; the connection begins with a [`Engine::connect`] or with
    /// the peer's.
    pub fn new(side: u8, config: Config, behaviour: Behaviour, isn: u32) -> Self {
        let address = |side: u8| Ipv4Addr::new(10, 0, 0, 1 + side);
        let port = |side: u8| 4000 + u16::from(side);
        Self {
            side,
            address: address(side),
            peer: address(1 - side),
            ports: (port(side), port(1 - side)),
            config,
            identity: Identity { initial_sequence: isn, timestamp_offset: isn.rotate_left(16) },
            behaviour,
            tcp: None,
            progress: Progress::default(),
            next_write_ns: 0,
            next_read_ns: 0,
            closed: false,
            resets: Vec::new(),
            damaged: 0,
        }
    }

    /// Begins to open the connection.
    pub fn connect(&mut self, now_ns: u64) {
        let connection = Connection::connect(now_ns, self.config.clone(), self.identity);
        self.join(now_ns, connection);
    }

    fn join(&mut self, now_ns: u64, connection: Connection) {
        let options = HeapFlowOptions {
            local: (self.address, self.ports.0),
            remote: Some((self.peer, self.ports.1)),
            mtu: self.config.mtu,
            gso_max_size: self.config.mtu,
            packet_max: self.config.mtu,
            send_bytes: self.behaviour.send_bytes as u32,
            receive_bytes: self.config.receive_bytes,
            receive_bytes_max: self.config.receive_bytes_max,
        };
        let (flow, stack, memory) = HeapFlow::new(&options);
        let socket = TcpSocket::new(now_ns, stack, memory, flow.fib(), connection);
        self.tcp = Some(Endpoint { socket, flow });
    }

    /// The connection, once there is one.
    pub fn connection(&self) -> Option<&Connection> {
        self.tcp.as_ref().map(|tcp| tcp.socket.connection())
    }

    /// The connection, to do with it what the application would.
    pub fn connection_mut(&mut self) -> Option<&mut Connection> {
        self.tcp.as_mut().map(|tcp| tcp.socket.connection_mut())
    }

    fn work(&mut self, now_ns: u64) {
        let Some(Endpoint { socket, .. }) = &mut self.tcp else { return };
        self.progress.read_from(socket, self.side, now_ns, &self.behaviour, &mut self.next_read_ns);
        let behaviour = &self.behaviour;
        if behaviour.closes_at_ns.is_some_and(|at| at <= now_ns) && !self.closed {
            self.closed = true;
            socket.close(now_ns, false);
        }
        while !self.closed && socket.readiness().has(Readiness::OUT) && now_ns >= self.next_write_ns
        {
            let left = behaviour.writes - self.progress.written;
            if left == 0 {
                self.closed = true;
                let _ = socket.shut_down(now_ns, Shutdown::Write);
                break;
            }
            let bytes = left.min(behaviour.chunk as u64);
            let from = self.progress.written;
            let chunk: Vec<u8> =
                (from..from + bytes).map(|offset| byte_at(self.side, offset)).collect();
            match socket.write(&[IoSlice::new(&chunk)], false) {
                Err(Error::WouldBlock) => break,
                Err(_) => {
                    // It has ended, and will be writable for ever.
                    self.closed = true;
                    break;
                }
                Ok(taken) => self.progress.written += taken as u64,
            }
            self.next_write_ns = now_ns + behaviour.write_every_ns;
            if behaviour.write_every_ns > 0 {
                break;
            }
        }
    }
}

impl Progress {
    fn read_from(
        &mut self,
        socket: &mut TcpSocket<HeapWords, HeapData>,
        side: u8,
        now_ns: u64,
        behaviour: &Behaviour,
        next_ns: &mut u64,
    ) {
        let mut out = [0; 4096];
        while now_ns >= *next_ns {
            let want = behaviour.read_chunk.min(out.len());
            let read = socket.read(now_ns, &mut [IoSliceMut::new(&mut out[..want])]);
            let bytes = read.unwrap_or(0);
            self.check(1 - side, now_ns, &out[..bytes]);
            self.ended |= socket.connection().is_at_end();
            if bytes == 0 {
                break;
            }
            *next_ns = now_ns + behaviour.read_every_ns;
        }
    }

    /// Takes bytes that were read; `from` says whose they are.
    pub fn check(&mut self, from: u8, now_ns: u64, bytes: &[u8]) {
        for (byte, offset) in bytes.iter().zip(self.read..) {
            if *byte != byte_at(from, offset) {
                self.wrong.get_or_insert(offset);
            }
        }
        self.read += bytes.len() as u64;
        if !bytes.is_empty() {
            self.last_read_ns = now_ns;
        }
    }
}

impl Host for Engine {
    fn arrive(&mut self, now_ns: u64, packet: &[u8]) {
        let Some((ports, segment, _)) = unwrap(packet) else {
            self.damaged += 1;
            return;
        };
        if ports != (self.ports.1, self.ports.0) {
            self.damaged += 1;
            return;
        }
        if self.tcp.is_none()
            && let Some(connection) =
                Connection::accept(now_ns, self.config.clone(), self.identity, &segment)
        {
            self.join(now_ns, connection);
            return;
        }
        match &mut self.tcp {
            Some(Endpoint { socket, flow }) if socket.connection().state() != State::Closed => {
                // One that there is no buffer for is lost, as anywhere.
                let _ = flow.deliver(packet);
                socket.receive(now_ns, false);
            }
            _ => self.resets.extend(reset_for(&segment)),
        }
    }

    fn poll(&mut self, now_ns: u64, out: &mut dyn FnMut(RawPacket)) {
        for segment in std::mem::take(&mut self.resets) {
            out(packet((self.address, self.peer), self.ports, &segment, &[]));
        }
        loop {
            self.work(now_ns);
            let Some(Endpoint { socket, flow }) = &mut self.tcp else { return };
            socket.transmit(now_ns);
            let mut left = false;
            while let Ok(Some(packet)) = flow.take() {
                left = true;
                out(packet);
            }
            socket.reap(now_ns);
            if !left {
                return;
            }
        }
    }

    fn deadline(&self) -> Option<u64> {
        let socket = &self.tcp.as_ref()?.socket;
        let unfinished = !self.closed && self.next_write_ns > 0;
        let connection = socket.connection();
        let reads = connection.readable() > 0 || connection.is_finished() && !self.progress.ended;
        let closes = self.behaviour.closes_at_ns.filter(|_| !self.closed);
        [
            connection.next_deadline(),
            (unfinished && socket.readiness().has(Readiness::OUT)).then_some(self.next_write_ns),
            reads.then_some(self.next_read_ns),
            closes,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn is_over(&self) -> bool {
        // Without a connection it is over if it is for the other end.
        self.tcp.as_ref().is_none_or(|tcp| {
            let connection = tcp.socket.connection();
            matches!(connection.state(), State::Closed | State::TimeWait)
                && (self.progress.ended || connection.readable() == 0 && !connection.is_finished())
        })
    }

    fn failure(&self) -> Option<String> {
        self.tcp.as_ref()?.socket.connection().error().map(|error| error.to_string())
    }
}

/// The frame of a packet.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let header =
        Ethernet { destination: Mac([2; 6]), source: Mac([2; 6]), ether_type: EtherType::IPV4 };
    [header.as_bytes(), packet].concat()
}

/// The packet of a frame.
pub fn packet_of(frame: &[u8]) -> &[u8] {
    frame.get(ETHERNET_BYTES..).unwrap_or(&[])
}
