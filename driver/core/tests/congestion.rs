//! A device that has no room for a while: nothing is lost, nothing is returned early, and the loop
//! comes back without being told.

mod rig;

use base_flow::{DropReason, FlowId, Rate};
use base_rpc::{DomainId, DomainUser, FlowLayout, Region};
use driver_core::{Arenas, Driver, HeapArenas, Limits, bill_words};
use driver_filter::Checked;
use driver_link::{Arrival, Facts, Link};
use rbuf_channel::{
    Data, End, FifoWriter, HeapWords, IoRec, Pair, block_words, fifo_words, flag, flow_block_bytes,
};

/// A link that accepts frames and keeps them until it is freed.
struct StuckLink {
    stuck: bool,
    /// Whether what it had was sent.
    sends: bool,
    accepted: usize,
    sent: usize,
}

impl Link for StuckLink {
    fn facts(&self) -> Facts {
        Facts { station: rig::US, mtu: 1500, unit_bytes: 1500, vlan: None }
    }

    fn poll_rx(&mut self, _budget: usize, _sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        0
    }

    fn room(&self) -> usize {
        8 - self.accepted
    }

    fn transmit<D: Data>(&mut self, _frame: &Checked<'_, D>) -> bool {
        self.accepted += 1;
        true
    }

    fn flush(&mut self) {}

    fn complete(&mut self, done: &mut impl FnMut(bool)) {
        if !self.stuck {
            for _ in 0..std::mem::take(&mut self.accepted) {
                self.sent += 1;
                done(self.sends);
            }
        }
    }

    fn is_congested(&self) -> bool {
        self.stuck && self.accepted > 0
    }

    fn take_overflow(&mut self) -> u64 {
        0
    }
}

/// A driver of such a link with one flow, and its application by hand.
struct Bench {
    driver: Driver<StuckLink, HeapArenas, HeapWords>,
    arenas: HeapArenas,
    layout: FlowLayout,
    tx: End<HeapWords>,
    events: FifoWriter<HeapWords>,
    frame: Vec<u8>,
}

const FLOW: FlowId = FlowId { index: 0, generation: 0 };

impl Bench {
    fn new(lead_ns: u64) -> Self {
        let link = StuckLink { stuck: true, sends: true, accepted: 0, sent: 0 };
        let limits = Limits { flows_max: 1, ..Limits::default() };
        let counters = HeapWords::new(bill_words(1));
        let mut driver =
            Driver::new(link, Rate::mbit(1000), lead_ns, limits, counters, [1, 2], 0).unwrap();
        let offset = (fifo_words(1) as u64 * 8).next_multiple_of(64);
        let arenas = HeapArenas::new(offset + flow_block_bytes(64, 64), 4096, 4096);
        let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1, arena_bytes: 1 << 28 };
        driver.add_domain(DomainId(1), arenas.clone(), 1, user).unwrap();
        let region = Region { offset: 0, bytes: 4096 };
        let layout = FlowLayout {
            slot: 0,
            control_offset: offset,
            tx_words: 64,
            rx_words: 64,
            tx_data: region,
            rx_data: region,
        };
        let frame = rig::frame(rig::US, rig::PEER, rig::OURS, rig::THEIRS, 4000, 4000, b"x");
        arenas.tx_data(0, 4096).unwrap().write(0, &frame);
        let events = FifoWriter::new(arenas.control_out(0, fifo_words(1)).unwrap()).unwrap();
        let tx = Self::end(&arenas, &layout);
        let mut bench = Self { driver, arenas, layout, tx, events, frame };
        bench.open(FLOW);
        bench
    }

    fn end(arenas: &HeapArenas, layout: &FlowLayout) -> End<HeapWords> {
        let offset = layout.control_offset;
        let mine = arenas.control_out(offset, block_words(64)).unwrap();
        let theirs = arenas.control_in(offset, block_words(64)).unwrap();
        End::new(mine, theirs, 4096).unwrap()
    }

    fn open(&mut self, flow: FlowId) {
        self.driver.add_flow(flow, DomainId(1), &self.layout, &rig::ms(50, 100), 1, &[]).unwrap();
        let fib = rig::fib(flow, rig::OURS, 4000, Some((rig::THEIRS, 4000)), Some(rig::PEER));
        self.driver.attach(&fib, 0).unwrap();
    }

    fn send(&mut self, count: u16) {
        for cookie in 0..count {
            let pair = Pair { offset: 0, len: self.frame.len() as u32 };
            assert!(self.tx.put(&IoRec::single(cookie, pair)).unwrap());
        }
        assert!(self.tx.notice().post);
        self.events.post(0);
    }
}

#[test]
fn a_device_without_room_is_tried_again_and_loses_nothing() {
    let mut bench = Bench::new(1_000_000);
    // More than the device has room for.
    bench.send(12);
    let again = bench.driver.transmit(0, &mut || 0).unwrap();
    assert!(again > 0 && again <= 100_000, "tried again soon: {again}");
    assert_eq!(bench.tx.take(), Ok(None), "no buffer comes back before its frame is gone");
    bench.driver.link_mut().stuck = false;
    bench.driver.transmit(again, &mut || 0);
    bench.driver.transmit(again, &mut || 0);
    assert_eq!(bench.driver.link().sent, 12);
    let returned: Vec<u16> =
        std::iter::from_fn(|| bench.tx.take().unwrap()).map(|rec| rec.cookie).collect();
    assert_eq!(returned, Vec::from_iter(0..12));
}

#[test]
fn a_device_with_room_is_not_waited_for_longer_than_the_line_is_busy() {
    let mut bench = Bench::new(0);
    bench.send(2);
    assert_eq!(bench.driver.transmit(0, &mut || 0), Some(672), "the shortest frame's time");
    assert!(bench.driver.link().is_congested());
}

#[test]
fn what_the_device_did_not_send_comes_back_as_refused_and_is_counted() {
    let mut bench = Bench::new(1_000_000);
    bench.driver.link_mut().stuck = false;
    bench.driver.link_mut().sends = false;
    bench.send(1);
    bench.driver.transmit(0, &mut || 0);
    let back = bench.tx.take().unwrap().expect("it is back");
    assert_eq!(back.flags & flag::REJECTED, flag::REJECTED);
    let bill = bench.driver.flow_bill(FLOW).unwrap();
    assert_eq!(bill.dropped(DropReason::LinkRefused), 1);
}

#[test]
fn the_next_flow_in_a_place_gets_no_buffers_of_the_one_before() {
    let mut bench = Bench::new(1_000_000);
    bench.send(1);
    bench.driver.transmit(0, &mut || 0);
    bench.driver.remove_flow(FLOW, 0);
    let later = 1_000_000_000;
    bench.driver.take_settled(later);
    bench.tx.clear();
    bench.tx = Bench::end(&bench.arenas, &bench.layout);
    bench.open(FlowId { generation: 1, ..FLOW });
    bench.driver.link_mut().stuck = false;
    bench.driver.transmit(later, &mut || 0);
    assert_eq!((bench.driver.link().sent, bench.tx.take()), (1, Ok(None)));
}
