//! A driver on a simulated wire with applications in the same process.
#![allow(dead_code, reason = "each test file uses its part of the rig")]

use std::net::Ipv4Addr;

use base_flow::{Contract, Endpoints, Fib, FlowId, Rate, Sap, Transport};
use base_rpc::{DomainId, DomainUser, FlowLayout, FromDriver, Region};
use base_wire::Mac;
use driver_core::{Arenas, Driver, HeapArenas, Limits, bill_words};
use driver_link::Link;
use driver_link::sim::{Side, SimLink, Wire};
use etherparse::PacketBuilder;
use rbuf_channel::{
    AtomicU64, Data, End, FifoWriter, HeapWords, IoRec, Pair, block_words, fifo_words,
    flow_block_bytes, rx_block_offset,
};

pub const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const WORDS: u32 = 64;
pub const BUFFER: u32 = 2048;

pub struct Rig {
    pub wire: Wire,
    pub driver: Driver<SimLink, HeapArenas, HeapWords>,
    pub now: u64,
    /// What the flow manager would have heard of contracts that bind no longer.
    pub settled: Vec<FromDriver>,
    /// Processor time of the driver so far: a microsecond a round.
    pub used: u64,
    /// What the driver counts, as whoever maps it sees it.
    pub counters: HeapWords,
    /// Whose the next application is, and how long its user's flows may receive.
    pub uid: u32,
    pub rx_cpu_ppb: u32,
    /// Number of the next application's domain and flow.
    pub next_index: u32,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(0, usize::MAX)
    }

    /// A rig whose driver sends `lead_ns` ahead and has a receive ring of `slots`.
    pub fn with(lead_ns: u64, slots: usize) -> Self {
        let limits = Limits { flows_max: 64, ..Limits::default() };
        Self::made(Rate::mbit(100), lead_ns, slots, limits)
    }

    /// A rig whose driver sends `lead_ns` ahead and takes on no more than `limits`.
    pub fn limited(lead_ns: u64, limits: Limits) -> Self {
        Self::at(Rate::mbit(100), lead_ns, limits)
    }

    /// The same on a line of `rate`.
    pub fn at(rate: Rate, lead_ns: u64, limits: Limits) -> Self {
        Self::made(rate, lead_ns, usize::MAX, limits)
    }

    fn made(rate: Rate, lead_ns: u64, slots: usize, limits: Limits) -> Self {
        let wire = Wire::new(rate, 1);
        let link = wire.link(Side::Left, US, 1500).with_ring(slots);
        let counters = HeapWords::new(bill_words(64));
        let mut driver =
            Driver::new(link, rate, lead_ns, limits, counters.clone(), [1, 2], 0).unwrap();
        driver.set_addresses(&["10.77.0.1/24".parse().unwrap()]);
        Self {
            wire,
            driver,
            now: 0,
            settled: Vec::new(),
            used: 0,
            counters,
            uid: 1000,
            rx_cpu_ppb: 1_000_000_000,
            next_index: 0,
        }
    }

    /// An application with one flow, UDP from `port` to the peer's `port`.
    pub fn app(&mut self, port: u16, contract: Contract) -> App {
        let mut app = self.bare(contract);
        app.fib = fib(app.flow, OURS, port, Some((THEIRS, port)), Some(PEER));
        self.driver.attach(&app.fib, self.now).unwrap();
        app
    }

    /// An application with one flow that is not attached.
    pub fn bare(&mut self, contract: Contract) -> App {
        let index = self.next_index;
        self.next_index += 1;
        let fifo = (fifo_words(4) as u64 * 8).next_multiple_of(64);
        let arenas =
            HeapArenas::new(fifo + flow_block_bytes(WORDS, WORDS), 32 * BUFFER, 32 * BUFFER);
        let domain = DomainId(index);
        let user =
            DomainUser { uid: Some(self.uid), rx_cpu_ppb: self.rx_cpu_ppb, arena_bytes: 1 << 28 };
        self.driver.add_domain(domain, arenas.clone(), 4, user).unwrap();
        let layout = self.layout();
        let flow = FlowId { index, generation: 0 };
        self.driver.add_flow(flow, domain, &layout, &contract, self.rx_cpu_ppb, &[]).unwrap();
        App::new(flow, domain, arenas, &layout)
    }

    /// An application of another user, which does nothing.
    pub fn idle_neighbour(&mut self) -> App {
        let uid = std::mem::replace(&mut self.uid, u32::MAX - 1);
        let app = self.bare(Contract::BEST_EFFORT);
        self.uid = uid;
        app
    }

    /// Where the one flow of an application lies.
    pub fn layout(&self) -> FlowLayout {
        FlowLayout {
            slot: 1,
            control_offset: (fifo_words(4) as u64 * 8).next_multiple_of(64),
            tx_words: WORDS,
            rx_words: WORDS,
            tx_data: Region { offset: 0, bytes: 32 * BUFFER },
            rx_data: Region { offset: 0, bytes: 32 * BUFFER },
        }
    }

    /// Runs the driver until `until`, delivering nothing to anyone but the wire.
    pub fn run(&mut self, until: u64) {
        while self.now < until {
            self.step(until);
        }
    }

    pub fn step(&mut self, until: u64) {
        self.wire.advance(self.now);
        let used = self.used;
        let received = self.driver.receive(self.now, &mut || used);
        let again = self.driver.transmit(self.now, &mut || used);
        self.settled.extend(self.driver.take_settled(self.now));
        self.used += 1000;
        if !self.driver.bill(self.used) {
            self.driver.bill_idle(self.used);
        }
        let arrival = self.wire.next_arrival(Side::Left).unwrap_or(u64::MAX);
        let next = again.unwrap_or(u64::MAX).min(arrival).min(until);
        self.now = if received > 0 { self.now } else { next.max(self.now + 1) };
    }

    /// What the peer has received since last asked; lets what is on the wire arrive first.
    pub fn arrived(&mut self) -> Vec<Vec<u8>> {
        self.now += 1_000_000;
        self.wire.advance(self.now);
        std::iter::from_fn(|| self.wire.receive(Side::Right)).map(|(_, frame)| frame).collect()
    }
}

pub fn fib(
    flow: FlowId,
    source: Ipv4Addr,
    port: u16,
    remote: Option<(Ipv4Addr, u16)>,
    hop: Option<Mac>,
) -> Fib {
    Fib {
        flow,
        endpoints: Endpoints {
            transport: Transport::Udp,
            local: Sap::new(source.into(), port),
            remote: remote.map(|(address, port)| Sap::new(address.into(), port)),
        },
        source: source.into(),
        source_mac: US,
        next_hop_mac: hop,
        mtu: 1500,
        unit_bytes: 1500,
        path_mtu: None,
        vlan: None,
    }
}

fn ends(arenas: &HeapArenas, layout: &FlowLayout) -> (End<HeapWords>, End<HeapWords>) {
    let end = |offset: u64, area: u32| {
        let mine = arenas.control_out(offset, block_words(WORDS)).unwrap();
        let theirs = arenas.control_in(offset, block_words(WORDS)).unwrap();
        End::new(mine, theirs, area).unwrap()
    };
    let control = layout.control_offset;
    (
        end(control, layout.tx_data.bytes),
        end(control + rx_block_offset(WORDS), layout.rx_data.bytes),
    )
}

/// The application's side of a flow, by hand.
pub struct App {
    pub flow: FlowId,
    pub domain: DomainId,
    pub arenas: HeapArenas,
    pub tx: End<HeapWords>,
    pub rx: End<HeapWords>,
    pub tx_data: rbuf_channel::HeapData,
    pub rx_data: rbuf_channel::HeapData,
    pub events: FifoWriter<HeapWords>,
    /// Every word the application may write.
    pub words: HeapWords,
    pub fib: Fib,
    next_buffer: u32,
}

impl App {
    pub fn new(flow: FlowId, domain: DomainId, arenas: HeapArenas, layout: &FlowLayout) -> Self {
        let (tx, rx) = ends(&arenas, layout);
        let control = layout.control_offset;
        let all = (control + flow_block_bytes(WORDS, WORDS)) as usize / 8;
        Self {
            flow,
            domain,
            tx,
            rx,
            tx_data: arenas.tx_data(0, layout.tx_data.bytes).unwrap(),
            rx_data: arenas.rx_data(0, layout.rx_data.bytes).unwrap(),
            events: FifoWriter::new(arenas.control_out(0, fifo_words(4)).unwrap()).unwrap(),
            words: arenas.control_out(0, all).unwrap(),
            arenas,
            fib: fib(flow, OURS, 0, None, None),
            next_buffer: 0,
        }
    }

    /// New ends in the place of those of a flow that was closed.
    pub fn reopen(&mut self, layout: &FlowLayout) {
        self.tx.clear();
        self.rx.clear();
        (self.tx, self.rx) = ends(&self.arenas, layout);
    }

    /// Whether the driver said that it is to be rung.
    pub fn driver_sleeps(&self) -> bool {
        let posts = self.arenas.control_in(0, fifo_words(4)).unwrap();
        rbuf_channel::FifoReader::new(posts, 4).unwrap().peer_asleep()
    }

    /// Puts `frame` into the channel; `false` if it is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let offset = self.next_buffer % 32 * BUFFER;
        assert!(self.tx_data.write(offset, frame));
        let rec = IoRec::single(self.next_buffer as u16, Pair { offset, len: frame.len() as u32 });
        let put = self.tx.put(&rec).unwrap();
        self.next_buffer += u32::from(put);
        if self.tx.notice().post {
            self.events.post(1);
        }
        put
    }

    /// Takes returned buffers; how many there were, and how many of them were refused.
    pub fn reap(&mut self) -> (usize, usize) {
        let mut count = (0, 0);
        while let Some(rec) = self.tx.take().unwrap() {
            count.0 += 1;
            count.1 += usize::from(rec.flags & rbuf_channel::flag::REJECTED != 0);
        }
        if self.tx.notice().post {
            self.events.post(1);
        }
        count
    }

    /// Offers `count` buffers for receiving.
    pub fn offer(&mut self, count: u32) {
        for index in 0..count {
            let rec = IoRec::single(index as u16, Pair { offset: index * BUFFER, len: BUFFER });
            assert!(self.rx.put(&rec).unwrap());
        }
    }

    /// Takes received frames and gives their buffers back; how many there were.
    pub fn taken(&mut self) -> usize {
        let mut count = 0;
        while let Some(rec) = self.rx.take().unwrap() {
            let pair = Pair { offset: u32::from(rec.cookie) * BUFFER, len: BUFFER };
            assert!(self.rx.put(&IoRec::single(rec.cookie, pair)).unwrap());
            count += 1;
        }
        count
    }

    /// Takes received frames.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(rec) = self.rx.take().unwrap() {
            let mut frame = Vec::new();
            for pair in rec.pairs() {
                let mut part = vec![0; pair.len as usize];
                assert!(self.rx_data.read(pair.offset, &mut part));
                frame.extend(part);
            }
            frames.push(frame);
        }
        frames
    }

    /// An honest frame of this flow.
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let port = self.fib.endpoints.local.port;
        frame(
            US,
            PEER,
            OURS,
            THEIRS,
            port,
            self.fib.endpoints.remote.map_or(port, |r| r.port),
            payload,
        )
    }

    pub fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }
}

pub fn frame(
    from: Mac,
    to: Mac,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    sport: u16,
    dport: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, to.0)
        .ipv4(source.octets(), destination.octets(), 64)
        .udp(sport, dport)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// A frame from the peer to `port`.
pub fn incoming(port: u16, payload: &[u8]) -> Vec<u8> {
    frame(PEER, US, THEIRS, OURS, port, port, payload)
}

pub fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

/// A driver of any link with one application, whose one flow is guaranteed half of the line and not attached.
pub fn one_app<L: Link>(link: L, rate: Rate) -> (Driver<L, HeapArenas, HeapWords>, App) {
    let limits = Limits { flows_max: 64, ..Limits::default() };
    let words = HeapWords::new(bill_words(64));
    let mut driver = Driver::new(link, rate, 0, limits, words, [1, 2], 0).unwrap();
    driver.set_addresses(&["10.77.0.1/24".parse().unwrap()]);
    let fifo = (fifo_words(4) as u64 * 8).next_multiple_of(64);
    let arenas = HeapArenas::new(fifo + flow_block_bytes(WORDS, WORDS), 32 * BUFFER, 32 * BUFFER);
    let (domain, layout) = (DomainId(0), Rig::new().layout());
    let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1_000_000, arena_bytes: 1 << 28 };
    driver.add_domain(domain, arenas.clone(), 4, user).unwrap();
    let flow = FlowId { index: 0, generation: 0 };
    driver.add_flow(flow, domain, &layout, &ms(50, 100), 1_000_000, &[]).unwrap();
    (driver, App::new(flow, domain, arenas, &layout))
}
