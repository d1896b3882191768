//! What is copied on the way out: headers, and nothing else.

mod rig;

use base_flow::Rate;
use driver_filter::Checked;
use driver_link::null::NullLink;
use driver_link::{Arrival, Facts, Link};
use rbuf_channel::Data;
use rig::{BUFFER, PEER, THEIRS, US, fib};

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
    let (mut driver, mut app) = rig::one_app(link, Rate::mbit(100));
    app.fib = fib(app.flow, rig::OURS, 4000, Some((THEIRS, 4000)), Some(PEER));
    driver.attach(&app.fib, 0).unwrap();

    let frame = app.frame(&[7; 1000]);
    (0..3).for_each(|_| assert!(app.send(&frame)));
    // Each when the line has sent the one before.
    for now_ms in 0..3 {
        driver.transmit(now_ms * 1_000_000, &mut || 0);
    }
    let memory = app.tx_data.memory();
    let header_bytes = (frame.len() - 1000) as u32;
    let expected =
        (0..3).map(|index| (memory, index * BUFFER + header_bytes, 1000)).collect::<Vec<_>>();
    assert_eq!(driver.link().payload, expected);
}
