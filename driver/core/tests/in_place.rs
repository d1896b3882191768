//! What is copied on the way out: headers, and nothing else.

mod rig;

use base_flow::Rate;
use base_rpc::{DomainId, DomainUser};
use driver_core::{Arenas, Driver, HeapArenas, Limits, bill_words};
use driver_filter::Checked;
use driver_link::null::NullLink;
use driver_link::{Arrival, Facts, Link};
use rbuf_channel::{Data, HeapWords, fifo_words, flow_block_bytes};
use rig::{App, BUFFER, PEER, Rig, THEIRS, US, WORDS, fib, ms};

/// Notes where the payload of what it is to send lies, and where in there.
struct Noting {
    link: NullLink,
    payload: Vec<(usize, u32, u32)>,
}

impl Link for Noting {
    fn facts(&self) -> Facts {
        self.link.facts()
    }

    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        self.link.poll_rx(budget, sink)
    }

    fn room(&self) -> usize {
        self.link.room()
    }

    fn transmit<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool {
        for pair in frame.payload() {
            self.payload.push((frame.data().memory(), pair.offset, pair.len));
        }
        self.link.transmit(frame)
    }

    fn flush(&mut self) {
        self.link.flush();
    }

    fn complete(&mut self, done: &mut impl FnMut(bool)) {
        self.link.complete(done);
    }

    fn is_congested(&self) -> bool {
        self.link.is_congested()
    }

    fn take_overflow(&mut self) -> u64 {
        self.link.take_overflow()
    }
}

#[test]
fn payload_is_sent_from_the_arena_of_its_application() {
    let link = Noting { link: NullLink::new(US, 1500), payload: Vec::new() };
    let limits = Limits { flows_max: 64, ..Limits::default() };
    let words = HeapWords::new(bill_words(64));
    let mut driver = Driver::new(link, Rate::mbit(100), 0, limits, words, [1, 2], 0).unwrap();
    driver.set_addresses(&["10.77.0.1/24".parse().unwrap()]);
    let fifo = (fifo_words(4) as u64 * 8).next_multiple_of(64);
    let arenas = HeapArenas::new(fifo + flow_block_bytes(WORDS, WORDS), 32 * BUFFER, 32 * BUFFER);
    let (domain, layout) = (DomainId(0), Rig::new().layout());
    let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1_000_000, arena_bytes: 1 << 28 };
    driver.add_domain(domain, arenas.clone(), 4, user).unwrap();
    let flow = base_flow::FlowId { index: 0, generation: 0 };
    driver.add_flow(flow, domain, &layout, &ms(50, 100), 1_000_000, &[]).unwrap();
    let mut app = App::new(flow, domain, arenas.clone(), &layout);
    app.fib = fib(flow, rig::OURS, 4000, Some((THEIRS, 4000)), Some(PEER));
    driver.attach(&app.fib, 0).unwrap();

    let frame = app.frame(&[7; 1000]);
    (0..3).for_each(|_| assert!(app.send(&frame)));
    // Each when the line has sent the one before.
    for now_ms in 0..3 {
        driver.transmit(now_ms * 1_000_000, &mut || 0);
    }
    let memory = arenas.tx_data(0, layout.tx_data.bytes).unwrap().memory();
    let header_bytes = (frame.len() - 1000) as u32;
    let expected =
        (0..3).map(|index| (memory, index * BUFFER + header_bytes, 1000)).collect::<Vec<_>>();
    assert_eq!(driver.link().payload, expected);
}
