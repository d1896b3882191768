//! Cost of a frame to the driver, on the null link, over real shared memory.
//!
//! The application's side (filling channels, taking buffers back) is outside the measured intervals; what
//! is measured is everything the driver does: events, scheduling, template, copy, demultiplexing,
//! bills. Medians over bursts of 64 frames. "few" is eight active flows among the open ones.

use std::time::Instant;

use base_flow::{Contract, Endpoints, Fib, FlowId, Rate, Sap, Transport};
use base_rpc::{DomainId, DomainUser, FlowLayout};
use base_wire::{Header, Ipv4, Mac, Protocol};
use driver_core::{Driver, Limits, bill_words};
use driver_daemon::{Joined, Reaper, ShmArenas};
use driver_link::null::NullLink;
use rbuf_channel::{Data, IoRec, Pair};
use rbuf_domain::{Domain, Ends};
use rbuf_shm::{Access, Arena, ShmWords, monotonic_ns};

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const WORDS: u32 = 16;
/// Frames a flow has in its channel at a time: its rings hold twice as many words.
const DEPTH: u32 = 8;
/// The same where there are thousands of active flows, whose buffers are as much memory.
const DEPTH_MANY: u32 = 1;
const BUFFER: u32 = 2048;
const BURST: usize = 64;
/// Frames measured in each case.
const FRAMES: usize = 400_000;

fn main() {
    println!(
        "{:>8} {:>7} {:>7} {:>12} {:>12}",
        "flows", "active", "bytes", "transmit ns", "receive ns"
    );
    for flows in [1u32, 64, 4_096, 65_536] {
        for (name, active) in [("few", flows.min(8)), ("all", flows)] {
            for payload in [64usize - 42, 1472] {
                let mut bench = Bench::new(flows, active, payload);
                let (tx, rx) = (bench.transmit(), bench.receive());
                println!("{flows:>8} {name:>7} {:>7} {tx:>12.1} {rx:>12.1}", payload + 42);
            }
        }
    }
}

struct Bench {
    driver: Driver<NullLink, ShmArenas, ShmWords>,
    domain: Domain,
    ends: Vec<Ends>,
    frame_bytes: u32,
    incoming: Vec<Vec<u8>>,
    depth: u32,
}

impl Bench {
    fn new(flows: u32, active: u32, payload: usize) -> Self {
        let words = bill_words(flows);
        let counters =
            Arena::create("bench", words as u64 * 8, Access::Write, Access::Read).unwrap();
        let limits =
            Limits { flows_max: flows, burst: BURST, events: 1 << 17, ..Limits::default() };
        let rate = Rate::bits(Rate::MAX_BITS_PER_S).unwrap();
        let link = NullLink::new(US, 1500);
        let words = counters.words(0, words).unwrap();
        let mut driver =
            Driver::new(link, rate, 10_000, limits, words, [1, 2], monotonic_ns()).unwrap();
        // Setting up is nobody's.
        driver.bill_idle(monotonic_ns());
        driver.set_addresses(&["10.0.0.1/8".parse().unwrap()]);

        let Joined { arenas, passed, .. } = ShmArenas::make(1 << 32, &Reaper::NOBODY).unwrap();
        let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1_000_000_000, arena_bytes: 1 << 28 };
        driver.add_domain(DomainId(1), arenas, flows, user).unwrap();
        let domain = Domain::new(flows, passed.into()).unwrap();

        let mut bench = Self {
            driver,
            domain,
            ends: Vec::new(),
            frame_bytes: (payload + 42) as u32,
            incoming: Vec::new(),
            depth: if active > 1024 { DEPTH_MANY } else { DEPTH },
        };
        for index in 0..flows {
            bench.open(index, active, payload);
        }
        bench
    }

    fn open(&mut self, index: u32, active: u32, payload: usize) {
        let shape = rbuf_domain::Shape {
            tx_words: WORDS,
            rx_words: WORDS,
            tx_bytes: BUFFER,
            rx_bytes: self.depth * BUFFER,
        };
        // The data areas of idle flows are never touched, and so cost no memory.
        let layout: FlowLayout = self.domain.lay_out(&shape).unwrap();
        let flow = FlowId { index, generation: 0 };
        self.driver
            .add_flow(flow, DomainId(1), &layout, &Contract::BEST_EFFORT, 1_000_000_000, &[])
            .unwrap();
        let address = |last: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + last);
        let (ours, theirs) = (address(1), address(2 + index));
        let fib = Fib {
            flow,
            endpoints: Endpoints {
                transport: Transport::Udp,
                local: Sap::new(ours.into(), 1000),
                remote: Some(Sap::new(theirs.into(), 1000)),
            },
            source: ours.into(),
            source_mac: US,
            next_hop_mac: Some(PEER),
            mtu: 1500,
            unit_bytes: 1500,
            path_mtu: None,
            vlan: None,
        };
        self.driver.attach(&fib, monotonic_ns()).unwrap();
        if index >= active {
            return;
        }
        let mut ends = self.domain.ends(&layout).unwrap();
        ends.tx_data.write(0, &frame(PEER, US, ours, theirs, payload));
        for slot in 0..self.depth {
            let pair = Pair { offset: slot * BUFFER, len: BUFFER };
            assert!(ends.rx.put(&IoRec::single(slot as u16, pair)).unwrap());
        }
        self.incoming.push(frame(US, PEER, theirs, ours, payload));
        self.ends.push(ends);
    }

    /// Median nanoseconds per transmitted frame.
    fn transmit(&mut self) -> f64 {
        let rec = IoRec::single(0, Pair { offset: 0, len: self.frame_bytes });
        let mut times = Vec::new();
        let mut sent = 0;
        while sent < FRAMES {
            let mut queued = 0;
            for (slot, ends) in self.ends.iter_mut().enumerate() {
                while ends.tx.take().unwrap().is_some() {}
                // One frame each where there are many flows: every frame is another flow's.
                for _ in 0..if slot < 64 { DEPTH / 2 } else { 1 } {
                    queued += usize::from(ends.tx.put(&rec).unwrap());
                }
                if ends.tx.notice().post {
                    self.domain.post(slot as u32);
                }
            }
            let before = self.driver.link().frames;
            while self.driver.link().frames - before < queued as u64 {
                let (already, begun) = (self.driver.link().frames, Instant::now());
                self.driver.transmit(monotonic_ns(), &mut monotonic_ns);
                bill(&mut self.driver);
                let elapsed = begun.elapsed().as_nanos() as f64;
                let frames = self.driver.link().frames - already;
                if frames > 0 && sent > 0 {
                    times.push((elapsed / frames as f64, frames));
                }
            }
            sent += queued;
        }
        median(&mut times)
    }

    /// Median nanoseconds per received frame.
    fn receive(&mut self) -> f64 {
        let mut times = Vec::new();
        let mut received = 0;
        let round = self.ends.len() * self.depth as usize;
        let all = std::mem::take(&mut self.incoming);
        while received < FRAMES {
            let count = round.min(all.len().max(BURST)).min(round) as u64;
            self.driver.link_mut().arrive(all.clone(), count);
            let mut left = count as usize;
            while left > 0 {
                let begun = Instant::now();
                let frames = self.driver.receive(monotonic_ns(), &mut monotonic_ns);
                bill(&mut self.driver);
                // The first round touches the buffers for the first time.
                if received > 0 {
                    times.push((begun.elapsed().as_nanos() as f64 / frames as f64, frames as u64));
                }
                left -= frames;
            }
            for ends in &mut self.ends {
                while let Some(rec) = ends.rx.take().unwrap() {
                    let pair = Pair { offset: u32::from(rec.cookie) * BUFFER, len: BUFFER };
                    assert!(ends.rx.put(&IoRec::single(rec.cookie, pair)).unwrap());
                }
            }
            received += count as usize;
        }
        assert_eq!(self.driver.link_bill().dropped_total(), 0, "every frame was delivered");
        median(&mut times)
    }
}

/// What a loop does at the end of a round.
fn bill(driver: &mut Driver<NullLink, ShmArenas, ShmWords>) {
    let used_ns = monotonic_ns();
    if !driver.bill(used_ns) {
        driver.bill_idle(used_ns);
    }
}

/// Median over frames of the time of the burst they were in.
fn median(times: &mut [(f64, u64)]) -> f64 {
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = times.iter().map(|(_, frames)| frames).sum::<u64>() / 2;
    let mut seen = 0;
    let at = times.iter().position(|(_, frames)| {
        seen += frames;
        seen >= half
    });
    times[at.unwrap_or(0)].0
}

fn frame(
    to: Mac,
    from: Mac,
    source: std::net::Ipv4Addr,
    destination: std::net::Ipv4Addr,
    payload: usize,
) -> Vec<u8> {
    let mut frame = vec![0; 42 + payload];
    let ethernet = base_wire::Ethernet {
        destination: to,
        source: from,
        ether_type: base_wire::EtherType::IPV4,
    };
    ethernet.put(&mut frame);
    Ipv4::new(source, destination, Protocol::UDP, payload as u16 + 8).put(&mut frame[14..]);
    let udp = base_wire::Udp {
        source: 1000.into(),
        destination: 1000.into(),
        bytes: (payload as u16 + 8).into(),
        checksum: 0.into(),
    };
    udp.put(&mut frame[34..]);
    frame
}
