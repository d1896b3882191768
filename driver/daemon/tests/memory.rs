//! What flows cost the driver in memory: real pages, as the kernel counts them.

use base_flow::{Contract, FlowId, Rate};
use base_rpc::{DomainId, DomainUser, FlowLayout, InstallError, Region};
use base_wire::Mac;
use driver_core::{Driver, Limits, bill_words};
use driver_daemon::{Joined, Reaper, ShmArenas};
use driver_link::null::NullLink;
use rbuf_channel::{HeapWords, RING_WORDS_MAX, flow_block_bytes};
use rbuf_domain::Passed;
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, fstat};

#[test]
fn flows_that_are_opened_and_closed_cost_a_few_pages_each_however_large_their_rings_are() {
    let limits = Limits { flows_max: 1, ..Limits::default() };
    let link = NullLink::new(Mac([2; 6]), 1500);
    let words = HeapWords::new(bill_words(1));
    let mut driver = Driver::new(link, Rate::mbit(1000), 0, limits, words, [1, 2], 0).unwrap();
    let Joined { arenas, passed, .. } = ShmArenas::make(1 << 20, &Reaper::NOBODY).unwrap();
    let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1, arena_bytes: 1 << 20 };
    driver.add_domain(DomainId(1), arenas, 1, user).unwrap();
    for file in [&passed.control_out, &passed.tx_data] {
        fcntl_add_seals(file, SealFlags::FUTURE_WRITE).unwrap();
    }
    let pages =
        || [&passed.control_in, &passed.control_out].map(|file| fstat(file).unwrap().st_blocks / 8);
    let before = pages();
    let flows = 200;
    let data = Region { offset: 0, bytes: 4096 };
    for index in 0..flows {
        let layout = FlowLayout {
            slot: 0,
            control_offset: 4096 + index * flow_block_bytes(RING_WORDS_MAX, RING_WORDS_MAX),
            tx_words: RING_WORDS_MAX,
            rx_words: RING_WORDS_MAX,
            tx_data: data,
            rx_data: data,
        };
        let flow = FlowId { index: 0, generation: index as u32 };
        driver.add_flow(flow, DomainId(1), &layout, &Contract::BEST_EFFORT, 1, &[]).unwrap();
        driver.remove_flow(flow, 0);
        assert_eq!(driver.take_removed().len(), 1);
    }
    for (before, after) in before.into_iter().zip(pages()) {
        assert!(after - before <= 3 * flows as i64, "{} pages for {flows} flows", after - before);
    }
}

#[test]
fn a_domain_has_no_flow_before_its_memory_can_have_no_holes() {
    let limits = Limits { flows_max: 1, ..Limits::default() };
    let link = NullLink::new(Mac([2; 6]), 1500);
    let words = HeapWords::new(bill_words(1));
    let mut driver = Driver::new(link, Rate::mbit(1000), 0, limits, words, [1, 2], 0).unwrap();
    let Joined { arenas, passed, .. } = ShmArenas::make(1 << 20, &Reaper::NOBODY).unwrap();
    let user = DomainUser { uid: Some(1000), rx_cpu_ppb: 1, arena_bytes: 1 << 20 };
    driver.add_domain(DomainId(1), arenas, 1, user).unwrap();
    let data = Region { offset: 0, bytes: 4096 };
    let layout = FlowLayout {
        slot: 0,
        control_offset: 4096,
        tx_words: 64,
        rx_words: 64,
        tx_data: data,
        rx_data: data,
    };
    let flow = FlowId { index: 0, generation: 0 };
    let mut open = || driver.add_flow(flow, DomainId(1), &layout, &Contract::BEST_EFFORT, 1, &[]);
    let punch =
        |file| fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096);
    for file in [&passed.control_out, &passed.tx_data] {
        assert_eq!(open(), Err(InstallError::NotClosed));
        punch(file).unwrap();
        fcntl_add_seals(file, SealFlags::FUTURE_WRITE).unwrap();
    }
    open().unwrap();
    let Passed { control_out, control_in, tx_data, rx_data, .. } = &passed;
    for file in [control_out, control_in, tx_data, rx_data] {
        punch(file).unwrap_err();
    }
}
