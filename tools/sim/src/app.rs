//! An application of the simulation: one flow, its layers, and what it does with them.

use base_flow::{Fib, FlowId};
use base_rpc::{DomainId, FlowLayout, Region};
use base_wire::Protocol;
use driver_core::{Arenas, HeapArenas};
use rbuf_channel::{
    End, FifoWriter, HeapData, HeapWords, block_words, fifo_words, flow_block_bytes,
    rx_block_offset,
};
use stack_layer::{Device, Ether, Ip4, Layer, Udp};

/// Names an application of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AppId(pub(crate) usize);

/// Words of each control area, and buffers in each direction.
const WORDS: u32 = 512;
const BUFFERS: u32 = 256;

type Stack = Udp<Ip4<Ether<Device<HeapWords, HeapData>>>>;

/// A datagram of a [`Stream`](crate::Stream), as the application that reads them one at a time saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumed {
    /// Its number.
    pub number: u64,
    /// When its last bit was on the wire.
    pub sent_ns: u64,
    /// When the application read it.
    pub read_ns: u64,
}

/// How long an application works on a datagram, given how many it has read before.
pub(crate) type Work = Box<dyn Fn(u64) -> u64>;

pub(crate) struct App {
    pub(crate) flow: FlowId,
    stack: Stack,
    events: FifoWriter<HeapWords>,
    /// Payload of the datagrams it sends as fast as it can; 0 for none.
    pub(crate) saturate_bytes: usize,
    pub(crate) received: Vec<Vec<u8>>,
    sent: u64,
    /// If it reads one datagram at a time: how long each takes it, and until when it is busy.
    pub(crate) consumer: Option<Work>,
    pub(crate) busy_until: u64,
    /// Datagrams that are there for it, and those that it has taken.
    pub(crate) delivered: u64,
    pub(crate) taken: u64,
    pub(crate) consumed: Vec<Consumed>,
}

/// Arenas and layout of an application with one flow.
pub(crate) fn lay_out(mtu: u16) -> (HeapArenas, FlowLayout) {
    let buffer = Device::<HeapWords, HeapData>::buffer_bytes(mtu);
    let bytes = BUFFERS * buffer;
    let fifo = (fifo_words(1) as u64 * 8).next_multiple_of(64);
    let arenas = HeapArenas::new(fifo + flow_block_bytes(WORDS, WORDS), bytes, bytes);
    let region = Region { offset: 0, bytes };
    let layout = FlowLayout {
        slot: 0,
        control_offset: fifo,
        tx_words: WORDS,
        rx_words: WORDS,
        tx_data: region,
        rx_data: region,
    };
    (arenas, layout)
}

impl App {
    pub(crate) fn new(arenas: &HeapArenas, layout: &FlowLayout, fib: &Fib) -> Option<Self> {
        let end = |offset| {
            let mine = arenas.control_out(offset, block_words(WORDS))?;
            let theirs = arenas.control_in(offset, block_words(WORDS))?;
            End::new(mine, theirs, layout.tx_data.bytes)
        };
        let ends =
            (end(layout.control_offset)?, end(layout.control_offset + rx_block_offset(WORDS))?);
        let areas =
            (arenas.tx_data(0, layout.tx_data.bytes)?, arenas.rx_data(0, layout.rx_data.bytes)?);
        let device = Device::new(ends, areas, fib.mtu).ok()?;
        let events = FifoWriter::new(arenas.control_out(0, fifo_words(1))?)?;
        let network = Ip4::new(Ether::new(device, fib), fib, Protocol::UDP).ok()?;
        let stack = Udp::new(network, fib);
        Some(Self {
            flow: fib.flow,
            stack,
            events,
            saturate_bytes: 0,
            received: Vec::new(),
            sent: 0,
            consumer: None,
            busy_until: 0,
            delivered: 0,
            taken: 0,
            consumed: Vec::new(),
        })
    }

    /// Sends what there are buffers for.
    pub(crate) fn work(&mut self) {
        if self.saturate_bytes > 0 {
            let mut payload = vec![0; self.saturate_bytes.max(8)];
            loop {
                payload[..8].copy_from_slice(&self.sent.to_be_bytes());
                if !self.send(&payload) {
                    break;
                }
            }
        }
        while let Ok(Some(packet)) = self.stack.receive() {
            let mut payload = vec![0; packet.len()];
            if packet.read(&mut payload).is_some() {
                self.received.push(payload);
            }
            if self.stack.give_back(packet).is_err() {
                break;
            }
        }
        self.kick();
    }

    /// Reads one datagram, if there is one, and begins to work on it.
    pub(crate) fn consume(&mut self, now: u64) {
        let Some(work) = &self.consumer else { return };
        let Ok(Some(packet)) = self.stack.receive() else { return };
        self.taken += 1;
        let mut payload = vec![0; packet.len()];
        let whole = packet.read(&mut payload).is_some();
        let word = |at: usize| payload.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        if whole && let (Some(number), Some(sent)) = (word(0), word(8)) {
            self.busy_until = now + work(self.consumed.len() as u64);
            self.consumed.push(Consumed {
                number: u64::from_be_bytes(number),
                sent_ns: u64::from_be_bytes(sent),
                read_ns: now,
            });
        }
        let _ = self.stack.give_back(packet);
        self.kick();
    }

    pub(crate) fn send(&mut self, payload: &[u8]) -> bool {
        let Ok(Some(mut packet)) = self.stack.packet() else { return false };
        packet.write(payload);
        let sent = self.stack.send(packet).is_ok();
        self.sent += u64::from(sent);
        self.kick();
        sent
    }

    fn kick(&mut self) {
        let device = self.stack.device();
        let [tx, rx] = device.notice();
        if tx.post || rx.post {
            self.events.post(0);
        }
    }
}

/// What the world remembers of an application while the flow manager has not answered.
pub(crate) struct Opening {
    pub(crate) arenas: HeapArenas,
    pub(crate) layout: FlowLayout,
    pub(crate) domain: Option<DomainId>,
}
