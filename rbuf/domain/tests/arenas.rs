//! A domain lays its flows out in arenas that are made as a driver makes them.

use std::os::fd::AsFd;

use rbuf_domain::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, Domain, DomainError, Passed, Shape};
use rbuf_shm::Access::{Read, Write};
use rbuf_shm::{Arena, Doorbell, DriverBell};

const SHAPE: Shape = Shape { tx_words: 8, rx_words: 16, tx_bytes: 4096, rx_bytes: 8192 };

/// A domain of `flows_max` flows, with so many bytes in each arena of its kind.
fn domain(flows_max: u32, control: u64, tx_data: u64, rx_data: u64) -> Result<Domain, DomainError> {
    let make = |bytes, ours, others| {
        let arena = Arena::create("arena", bytes, ours, others).unwrap();
        arena.file().try_clone_to_owned().unwrap()
    };
    let (bell, _) = Doorbell::new().unwrap();
    let passed = Passed {
        control_out: make(control, Read, Write),
        control_in: make(control, Write, Read),
        tx_data: make(tx_data, Read, Write),
        rx_data: make(rx_data, Write, Read),
        bell: bell.into(),
        driver_bell: DriverBell::new().unwrap().as_fd().try_clone_to_owned().unwrap(),
    };
    Domain::new(flows_max, passed.into())
}

#[test]
fn arenas_as_large_as_a_driver_may_make_them_are_taken_and_no_larger() {
    assert_eq!((CONTROL_BYTES_MAX, DATA_BYTES_MAX), (268_435_456, 4_294_967_296));
    domain(4, CONTROL_BYTES_MAX, DATA_BYTES_MAX, DATA_BYTES_MAX).unwrap();
    let page = 4096;
    for (control, tx, rx) in [
        (CONTROL_BYTES_MAX + page, page, page),
        (page, DATA_BYTES_MAX + page, page),
        (page, page, DATA_BYTES_MAX + page),
    ] {
        let refused = domain(4, control, tx, rx);
        assert!(matches!(refused, Err(DomainError::Arena(_))), "{control} {tx} {rx}");
    }
}

#[test]
fn flows_share_no_byte_and_what_is_given_back_is_used_again() {
    let domain = domain(3, 1 << 16, 3 * 4096, 3 * 8192).unwrap();
    let layouts = [(); 3].map(|()| domain.lay_out(&SHAPE).unwrap());
    for (index, layout) in layouts.iter().enumerate() {
        assert_eq!(layout.slot, index as u32);
        assert_eq!(layout.tx_data.offset, 4096 * index as u64);
        assert_eq!(layout.rx_data.offset, 8192 * index as u64);
        assert_eq!((layout.tx_data.bytes, layout.rx_data.bytes), (4096, 8192));
        assert_eq!((layout.tx_words, layout.rx_words), (8, 16));
        domain.ends(layout).unwrap();
    }
    let block = layouts[1].control_offset - layouts[0].control_offset;
    assert!(layouts[0].control_offset > 0 && block > 0, "the event FIFO stands before the flows");
    assert_eq!(layouts[2].control_offset - layouts[1].control_offset, block);
    assert_eq!(domain.in_use(), [3 * block, 3 * 4096, 3 * 8192]);
    assert!(matches!(domain.lay_out(&SHAPE), Err(DomainError::Slots(3))));
    domain.give_back(&layouts[1]);
    assert_eq!((domain.slots_left(), domain.in_use()), (1, [2 * block, 2 * 4096, 2 * 8192]));
    assert_eq!(domain.lay_out(&SHAPE).unwrap(), layouts[1]);
}

#[test]
fn a_flow_that_does_not_fit_one_arena_takes_nothing_of_the_others() {
    for (control, tx_data, rx_data) in
        [(4096, 1 << 20, 1 << 20), (1 << 16, 4096, 1 << 20), (1 << 16, 1 << 20, 8192)]
    {
        let domain = domain(64, control, tx_data, rx_data).unwrap();
        let mut fitted = 0;
        let full = loop {
            let before = domain.in_use();
            match domain.lay_out(&SHAPE) {
                Ok(_) => fitted += 1,
                Err(error) => break (error, before),
            }
        };
        assert!(matches!(full.0, DomainError::Full), "{}", full.0);
        assert_eq!((domain.in_use(), domain.slots_left()), (full.1, 64 - fitted));
    }
}
