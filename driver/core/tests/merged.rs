//! Merged frames, and frames with open checksums, from a link to flows and to the last resort.

mod rig;

use std::collections::VecDeque;

use base_flow::{Bill, Contract, DropReason, Endpoints, FlowId, Pace, Rate, Sap, Stray, Transport};
use base_rpc::{DomainId, DomainUser, FlowLayout, Region};
use base_wire::{Protocol, checksum};
use driver_core::{Arenas, Driver, HeapArenas, Limits, bill_words};
use driver_filter::{Checked, PIECES_MAX};
use driver_link::{Arrival, Checksum, Facts, Link, Merged};
use etherparse::PacketBuilder;
use rbuf_channel::{
    Data, End, HeapData, HeapWords, IoRec, Pair, block_words, fifo_words, flag, flow_block_bytes,
    rx_block_offset,
};
use rig::{OURS, PEER, THEIRS, US};

const PORT: u16 = 80;
const BUFFERS: u32 = 64;
const BUFFER: u32 = 2048;
const WORDS: u32 = 256;

/// What arrives: the frame, and what is said of it.
struct Told {
    frame: Vec<u8>,
    checksum: Checksum,
    merged: Option<Merged>,
    missing: u32,
}

/// A link on which things arrive that are said to be something.
#[derive(Default)]
struct Telling(VecDeque<Told>);

impl Link for Telling {
    fn facts(&self) -> Facts {
        Facts { station: US, mtu: 1500, unit_bytes: 1500, vlan: None }
    }

    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        let mut count = 0;
        while count < budget
            && let Some(Told { frame, checksum, merged, missing }) = self.0.pop_front()
        {
            let arrival = Arrival { frame: &frame, vlan: None, checksum, merged, missing };
            count += arrival.frames();
            sink(arrival);
        }
        count
    }

    fn room(&self) -> usize {
        1
    }

    fn transmit<D: Data>(&mut self, _frame: &Checked<'_, D>) -> bool {
        false
    }

    fn flush(&mut self) {}

    fn complete(&mut self, _done: &mut impl FnMut(bool)) {}

    fn is_congested(&self) -> bool {
        false
    }

    fn take_overflow(&mut self) -> u64 {
        0
    }
}

/// A driver with a flow of its own for `transport`, or a handler of last resort if there is none.
struct Rig {
    driver: Driver<Telling, HeapArenas, HeapWords>,
    flow: FlowId,
    rx: End<HeapWords>,
    rx_data: HeapData,
}

impl Rig {
    fn new(transport: Option<Transport>) -> Self {
        Self::offering(transport, |pair| IoRec::single((pair.offset / BUFFER) as u16, pair))
    }

    /// As [`Self::new`], with what `offer` makes of each buffer.
    fn offering(transport: Option<Transport>, offer: impl Fn(Pair) -> IoRec) -> Self {
        let limits = Limits { flows_max: 1, ..Limits::default() };
        let counters = HeapWords::new(bill_words(1));
        let link = Telling::default();
        let mut driver =
            Driver::new(link, Rate::mbit(1000), 0, limits, counters, [1, 2], 0).unwrap();
        driver.set_addresses(&["10.77.0.1/24".parse().unwrap()]);
        let offset = (fifo_words(1) as u64 * 8).next_multiple_of(64);
        let area = BUFFERS * BUFFER;
        let arenas = HeapArenas::new(offset + flow_block_bytes(WORDS, WORDS), area, area);
        let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1_000_000_000, arena_bytes: 1 << 28 };
        driver.add_domain(DomainId(1), arenas.clone(), 1, user).unwrap();
        let region = Region { offset: 0, bytes: area };
        let layout = FlowLayout {
            slot: 0,
            control_offset: offset,
            tx_words: WORDS,
            rx_words: WORDS,
            tx_data: region,
            rx_data: region,
        };
        let flow = FlowId { index: 0, generation: 0 };
        driver
            .add_flow(flow, DomainId(1), &layout, &Contract::BEST_EFFORT, 1_000_000_000, &[])
            .unwrap();
        let mut fib = rig::fib(flow, OURS, PORT, None, None);
        match transport {
            Some(transport) => {
                let local = Sap::new(OURS.into(), PORT);
                fib.endpoints = Endpoints { transport, local, remote: None };
                driver.attach(&fib, 0).unwrap();
            }
            None => {
                let pace = Pace { per_s: 1_000_000, burst: 1_000_000 };
                for stray in Stray::ALL {
                    driver.set_last_resort(stray, flow, pace, 0).unwrap();
                }
            }
        }
        let rx_offset = offset + rx_block_offset(WORDS);
        let mine = arenas.control_out(rx_offset, block_words(WORDS)).unwrap();
        let theirs = arenas.control_in(rx_offset, block_words(WORDS)).unwrap();
        let mut rx = End::new(mine, theirs, area).unwrap();
        for index in 0..BUFFERS {
            assert!(rx.put(&offer(Pair { offset: index * BUFFER, len: BUFFER })).unwrap());
        }
        Self { driver, flow, rx, rx_data: arenas.rx_data(0, area).unwrap() }
    }

    /// Lets something arrive; the frames that come of it, with their flags.
    fn arrive(&mut self, told: Told) -> Vec<(Vec<u8>, u8)> {
        self.driver.link_mut().0.push_back(told);
        while self.driver.receive(1, &mut || 0) > 0 {}
        let mut frames = Vec::new();
        while let Some(rec) = self.rx.take().unwrap() {
            let pair = rec.pairs()[0];
            let mut frame = vec![0; pair.len as usize];
            self.rx_data.read(pair.offset, &mut frame);
            frames.push((frame, rec.flags));
            let whole = Pair { offset: u32::from(rec.cookie) * BUFFER, len: BUFFER };
            self.rx.put(&IoRec::single(rec.cookie, whole)).unwrap();
        }
        frames
    }

    fn bill(&self) -> Bill {
        self.driver.flow_bill(self.flow).unwrap()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.driver.link_bill().dropped(reason)
    }
}

const OPEN_TCP: Checksum = Checksum::Partial { start: 34, field: 16 };
const OPEN_UDP: Checksum = Checksum::Partial { start: 34, field: 6 };

const fn of(protocol: Protocol, piece_bytes: u16) -> Option<Merged> {
    Some(Merged { protocol, piece_bytes })
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .tcp(4000, PORT, 7, 1000)
        .ack(1)
        .write(&mut frame, payload)
        .unwrap();
    open(&mut frame, 16);
    frame
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = rig::incoming(PORT, payload);
    open(&mut frame, 6);
    frame
}

/// Leaves the checksum open as a kernel does: the sum of the pseudo header stands there.
fn open(frame: &mut [u8], field: usize) {
    let at = 34 + field;
    let whole = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].fill(0);
    // whole = !(pseudo + rest)
    let rest = checksum::finish(checksum::sum(&frame[34..]));
    let pseudo = !checksum::finish(u64::from(!whole) + u64::from(rest));
    frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
}

#[test]
fn a_merged_frame_is_billed_as_the_frames_it_was_merged_from() {
    let mut rig = Rig::new(Some(Transport::Tcp));
    let payload = vec![9; 40 * 1448 + 10];
    let merged = of(Protocol::TCP, 1448);
    let told = Told { frame: tcp(&payload), checksum: OPEN_TCP, merged, missing: 0 };
    let frames = rig.arrive(told);
    assert_eq!(frames.len(), 41);
    assert!(frames.iter().all(|(_, flags)| *flags == flag::CHECKSUM_PARTIAL));
    let carried: Vec<u8> = frames.iter().flat_map(|(frame, _)| frame[54..].to_vec()).collect();
    assert!(carried == payload);
    let bill = rig.bill();
    assert_eq!((bill.rx_offered, bill.rx_frames), (41, 41));
    assert_eq!(bill.rx_bytes, 41 * 54 + payload.len() as u64);
}

#[test]
fn who_has_too_few_buffers_loses_the_rest_of_a_merged_frame_under_its_name() {
    let mut rig = Rig::new(Some(Transport::Udp));
    let pieces = BUFFERS as usize + 10;
    let frame = udp(&vec![1; pieces * 600]);
    let merged = of(Protocol::UDP, 600);
    let frames = rig.arrive(Told { frame, checksum: OPEN_UDP, merged, missing: 0 });
    assert_eq!(frames.len(), BUFFERS as usize);
    assert!(frames.iter().all(|(frame, _)| frame.len() == 42 + 600));
    assert_eq!(rig.bill().dropped(DropReason::NoFreeBuffer), 10);
}

#[test]
fn an_open_checksum_is_believed_only_where_the_one_of_the_transport_is() {
    let mut rig = Rig::new(Some(Transport::Udp));
    for (checksum, flags) in [
        (OPEN_UDP, flag::CHECKSUM_PARTIAL),
        (Checksum::Verified, 0),
        (Checksum::Unverified, flag::CHECKSUM_UNVERIFIED),
        (Checksum::Partial { start: 34, field: 16 }, flag::CHECKSUM_UNVERIFIED),
        (Checksum::Partial { start: 14, field: 6 }, flag::CHECKSUM_UNVERIFIED),
        (Checksum::Partial { start: u16::MAX, field: u16::MAX }, flag::CHECKSUM_UNVERIFIED),
    ] {
        let frame = udp(b"some data");
        let frames = rig.arrive(Told { frame: frame.clone(), checksum, merged: None, missing: 0 });
        assert_eq!(frames, [(frame, flags)], "{checksum:?}");
    }
}

#[test]
fn the_last_resort_sees_what_a_wire_would_have_carried() {
    let mut rig = Rig::new(None);
    let plain = rig::incoming(PORT, b"some data");
    let frame = udp(b"some data");
    assert_ne!(frame, plain);
    let frames = rig.arrive(Told { frame, checksum: OPEN_UDP, merged: None, missing: 0 });
    assert_eq!(frames, [(plain, flag::CHECKSUM_UNVERIFIED)]);
    // One of many is enough to answer, and the others are counted.
    let frame = udp(&[1; 6000]);
    let merged = of(Protocol::UDP, 600);
    let frames = rig.arrive(Told { frame, checksum: OPEN_UDP, merged, missing: 0 });
    assert_eq!(frames, [(rig::incoming(PORT, &[1; 600]), flag::CHECKSUM_UNVERIFIED)]);
    assert_eq!(rig.dropped(DropReason::Unclaimed), 9);
}

#[test]
fn what_cannot_be_cut_is_counted_once_and_delivered_to_nobody() {
    let mut rig = Rig::new(Some(Transport::Udp));
    let long = |pieces: usize| udp(&vec![1; pieces * 100]);
    for (frame, checksum, merged, missing) in [
        (long(10), Checksum::Unverified, of(Protocol::UDP, 100), 0),
        (long(PIECES_MAX + 1), OPEN_UDP, of(Protocol::UDP, 100), 0),
        (long(10), OPEN_UDP, of(Protocol::UDP, 0), 0),
        (long(10), OPEN_UDP, of(Protocol::TCP, 100), 0),
        (long(10), OPEN_UDP, of(Protocol(47), 100), 0),
        (long(10), OPEN_UDP, None, 10),
    ] {
        let before = rig.dropped(DropReason::Merged);
        assert_eq!(rig.arrive(Told { frame, checksum, merged, missing }), []);
        assert_eq!(rig.dropped(DropReason::Merged), before + 1, "{merged:?}");
    }
    assert_eq!(rig.bill().rx_offered, 0);
}

#[test]
fn a_piece_of_a_merged_frame_fills_each_range_of_its_buffer_and_no_byte_more() {
    let mut rig = Rig::offering(Some(Transport::Tcp), |pair| {
        let mut rec = IoRec::single(0, Pair { len: 100, ..pair });
        assert!(rec.push(Pair { offset: pair.offset + 100, len: 1402 }));
        rec
    });
    let payload: Vec<u8> = (0..2 * 1448).map(|at| at as u8).collect();
    let merged = of(Protocol::TCP, 1448);
    let frame = tcp(&payload);
    rig.driver.link_mut().0.push_back(Told { frame, checksum: OPEN_TCP, merged, missing: 0 });
    rig.driver.receive(1, &mut || 0);
    for piece in payload.chunks(1448) {
        let rec = rig.rx.take().unwrap().expect("it was delivered");
        let lens: Vec<u32> = rec.pairs().iter().map(|pair| pair.len).collect();
        assert_eq!(lens, [100, 1402]);
        let mut carried = vec![0; 1402];
        rig.rx_data.read(rec.pairs()[1].offset, &mut carried);
        assert!(carried == piece[46..]);
    }
}

#[test]
fn what_the_last_resort_sees_of_an_open_checksum_elsewhere_is_what_came() {
    let mut rig = Rig::new(None);
    let frame = udp(b"x");
    let checksum = Checksum::Partial { start: 14, field: 6 };
    let seen = rig.arrive(Told { frame: frame.clone(), checksum, merged: None, missing: 0 });
    assert_eq!(seen, [(frame, flag::CHECKSUM_UNVERIFIED)]);
}
