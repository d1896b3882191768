//! A device that has no room for a while: nothing is lost, nothing is returned early, and the loop
//! comes back without being told.

mod rig;

use base_flow::Rate;
use base_rpc::{DomainId, DomainUser, FlowLayout, Region};
use driver_core::{Arenas, Driver, HeapArenas, Limits, bill_words};
use driver_filter::Checked;
use driver_link::{Arrival, Facts, Link};
use rbuf_channel::{
    Data, End, FifoWriter, HeapWords, IoRec, Pair, block_words, fifo_words, flow_block_bytes,
};

/// A link that accepts frames and keeps them until it is freed.
struct StuckLink {
    stuck: bool,
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
                done(true);
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

#[test]
fn a_device_without_room_is_tried_again_and_loses_nothing() {
    let link = StuckLink { stuck: true, accepted: 0, sent: 0 };
    let limits = Limits { flows_max: 1, ..Limits::default() };
    let counters = HeapWords::new(bill_words(1));
    let mut driver =
        Driver::new(link, Rate::mbit(1000), 1_000_000, limits, counters, [1, 2], 0).unwrap();
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
    let flow = base_flow::FlowId { index: 0, generation: 0 };
    driver.add_flow(flow, DomainId(1), &layout, &rig::ms(50, 100), 1, &[]).unwrap();
    let fib = rig::fib(flow, rig::OURS, 4000, Some((rig::THEIRS, 4000)), Some(rig::PEER));
    driver.attach(&fib, 0).unwrap();
    let words = |words: Option<HeapWords>| words.unwrap();
    let mut tx = End::new(
        words(arenas.control_out(offset, block_words(64))),
        words(arenas.control_in(offset, block_words(64))),
        4096,
    )
    .unwrap();
    let mut events = FifoWriter::new(words(arenas.control_out(0, fifo_words(1)))).unwrap();
    let frame = rig::frame(rig::US, rig::PEER, rig::OURS, rig::THEIRS, 4000, 4000, b"x");
    arenas.tx_data(0, 4096).unwrap().write(0, &frame);
    // More than the device has room for.
    for cookie in 0..12 {
        assert!(
            tx.put(&IoRec::single(cookie, Pair { offset: 0, len: frame.len() as u32 })).unwrap()
        );
    }
    assert!(tx.notice().post);
    events.post(0);
    let again = driver.transmit(0, &mut || 0).unwrap();
    assert!(again > 0 && again <= 100_000, "tried again soon: {again}");
    assert_eq!(tx.take(), Ok(None), "no buffer comes back before its frame is gone");
    driver.link_mut().stuck = false;
    driver.transmit(again, &mut || 0);
    driver.transmit(again, &mut || 0);
    assert_eq!(driver.link().sent, 12);
    let returned: Vec<u16> =
        std::iter::from_fn(|| tx.take().unwrap()).map(|rec| rec.cookie).collect();
    assert_eq!(returned, Vec::from_iter(0..12));
}
