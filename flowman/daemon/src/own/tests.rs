//! The own flows against a driver's side by hand, in threads.

use std::os::fd::{AsFd, BorrowedFd};

use base_flow::{Contract, FlowId, Pace};
use rbuf_channel::{End, FifoReader, FifoWriter, block_words, fifo_words, rx_block_offset};
use rbuf_domain::Passed;
use rbuf_shm::{Access, Arena, DriverBell, Ringer, ShmData, ShmWords};
use rustix::event::{PollFd, PollFlags, poll};

use super::*;

const FRAME_BYTES: u32 = 256;

/// A driver's side of the own flows.
struct Driver {
    posts: FifoWriter<ShmWords>,
    events: FifoReader<ShmWords>,
    bell: Ringer,
    rx: Vec<(End<ShmWords>, ShmData)>,
}

fn flows(buffers: u32) -> [flowman_core::OwnFlow; Stray::COUNT] {
    Stray::ALL.map(|stray| flowman_core::OwnFlow {
        stray,
        flow: FlowId { index: stray.index() as u32, generation: 0 },
        contract: Contract::BEST_EFFORT,
        rx_cpu_ppb: 0,
        pace: Pace { per_s: 0, burst: 0 },
        buffers,
        words: buffers * 2,
    })
}

fn joined(buffers: u32) -> (OwnFlows, Driver) {
    use Access::{Read, Write};
    let count = Stray::COUNT as u32;
    let make = |ours, others| Arena::create("arena", 1 << 22, ours, others).unwrap();
    let (control_out, control_in) = (make(Read, Write), make(Write, Read));
    let (tx_data, rx_data) = (make(Read, Write), make(Write, Read));
    let (bell, ringer) = Doorbell::new().unwrap();
    let driver_bell = DriverBell::new().unwrap();
    let copy = |file: BorrowedFd<'_>| file.try_clone_to_owned().unwrap();
    let passed = Passed {
        control_out: copy(control_out.file()),
        control_in: copy(control_in.file()),
        tx_data: copy(tx_data.file()),
        rx_data: copy(rx_data.file()),
        bell: bell.into(),
        driver_bell: copy(driver_bell.as_fd()),
    };
    let plan = flows(buffers);
    let (own, messages) = OwnFlows::open(passed.into(), FRAME_BYTES, DomainId(1), &plan).unwrap();
    let layouts = messages.iter().filter_map(|message| match message {
        ToDriver::AddFlow { layout, .. } => Some(*layout),
        _ => None,
    });
    let rx = layouts.map(|layout| {
        let at = layout.control_offset + rx_block_offset(layout.tx_words);
        let words = |arena: &Arena| arena.words(at, block_words(layout.rx_words)).unwrap();
        let end = End::new(words(&control_in), words(&control_out), layout.rx_data.bytes).unwrap();
        (end, rx_data.data(layout.rx_data.offset, layout.rx_data.bytes).unwrap())
    });
    let words = fifo_words(count);
    let driver = Driver {
        posts: FifoWriter::new(control_in.words(0, words).unwrap()).unwrap(),
        events: FifoReader::new(control_out.words(0, words).unwrap(), count).unwrap(),
        bell: ringer,
        rx: rx.collect(),
    };
    (own, driver)
}

impl Driver {
    /// Gives the flow for a kind a frame with this number; `false` if it has no buffer.
    fn deliver(&mut self, stray: usize, number: u64) -> bool {
        let (end, data) = &mut self.rx[stray];
        let Some(mut rec) = end.take().unwrap() else { return false };
        assert!(data.write(rec.pairs()[0].offset, &number.to_ne_bytes()));
        rec.set_len(0, 8);
        assert!(end.put(&rec).unwrap());
        true
    }

    /// The end of a round: tells what was asked for.
    fn announce(&mut self, stray: usize) {
        if self.rx[stray].0.notice().post {
            self.posts.post(stray as u32);
            if self.events.peer_asleep() {
                self.bell.ring();
            }
        }
    }
}

/// Frames that a soak takes: `PLUMB_SOAK_FRAMES`, or what a test has time for.
fn soak_frames() -> u64 {
    let set = std::env::var("PLUMB_SOAK_FRAMES").ok();
    set.and_then(|count| count.parse().ok()).unwrap_or(300_000)
}

#[test]
fn every_frame_of_a_soak_is_heard_and_who_sleeps_is_woken() {
    let (mut own, mut driver) = joined(64);
    let frames = soak_frames();
    let sender = std::thread::spawn(move || {
        let (mut lot, mut sent) = (12_345u64, 0);
        while sent < frames {
            lot ^= lot << 13;
            lot ^= lot >> 7;
            lot ^= lot << 17;
            let stray = (lot % Stray::COUNT as u64) as usize;
            let mut any = false;
            for _ in 0..1 + (lot >> 8) % 3 {
                if sent < frames && driver.deliver(stray, sent) {
                    sent += 1;
                    any = true;
                }
            }
            if any {
                driver.announce(stray);
            } else {
                std::thread::yield_now();
            }
            for _ in 0..(lot >> 16) % 200 {
                std::hint::spin_loop();
            }
        }
        driver
    });
    let (mut heard, mut sum) = (0u64, 0u64);
    let mut more = true;
    while heard < frames {
        if !more {
            // A bell that is never rung is a frame that is never heard.
            let mut bell = [PollFd::new(own.bell(), PollFlags::IN)];
            let patience = rustix::time::Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_eq!(poll(&mut bell, Some(&patience)), Ok(1), "asleep after {heard} frames");
            own.bell().answer();
        }
        more = own
            .receive(|frame| {
                heard += 1;
                sum += u64::from_ne_bytes(frame.try_into().unwrap());
            })
            .expect("the driver broke no rule");
    }
    drop(sender.join().unwrap());
    assert_eq!((heard, sum), (frames, frames * (frames - 1) / 2), "each of them once");
}

#[test]
fn a_flood_of_strangers_leaves_others_their_buffers_and_their_turn() {
    let (mut own, mut driver) = joined(256);
    let (arp, segments) = (Stray::Neighbours.index(), Stray::Segments.index());
    let parked = Stray::Parked.index();
    let flood = (0..10_000).filter(|_| driver.deliver(segments, 0)).count();
    assert_eq!(flood, 256, "as many as it has buffers");
    // A hundred and twenty clients call again at once.
    assert!((0..120).all(|_| driver.deliver(parked, 1)) && driver.deliver(arp, 2));
    for stray in [arp, segments, parked] {
        driver.announce(stray);
    }
    let mut order = Vec::new();
    own.receive(|frame| order.push(frame[0])).unwrap();
    assert_eq!(order[0], 2, "ARP comes first");
    let of = |number| order.iter().filter(|&&seen| seen == number).count();
    assert!(of(0) <= FRAMES_PER_ROUND && of(1) == FRAMES_PER_ROUND, "{} {}", of(0), of(1));
    while own.receive(|frame| order.push(frame[0])).unwrap() {}
    assert_eq!(order.len(), 256 + 120 + 1);
}
