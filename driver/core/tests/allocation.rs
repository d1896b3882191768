//! Invariant 1: the data path allocates nothing.

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rig::{Rig, ms};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
#[allow(unsafe_code, reason = "counting allocations takes an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn frames_are_sent_received_refused_and_billed_without_allocating() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(50, 100));
    let honest = app.frame(&[7; 1000]);
    let mut forged = honest.clone();
    forged[30] = 99;
    app.offer(20);
    // The simulated wire allocates per frame; so frames are injected, and those sent are refused
    // or counted with the wire's own allocations, which are one buffer and one heap entry each.
    let incoming = rig::incoming(4000, &[9; 1000]);
    let warm = |rig: &mut Rig, app: &mut rig::App| {
        for _ in 0..20 {
            app.send(&forged);
            rig.driver.inject_frame(&incoming, rig.now);
            rig.driver.receive(rig.now, &mut || 0);
            rig.driver.transmit(rig.now, &mut || 0);
            rig.driver.bill(1000);
            app.reap();
            rig.now += 1_000_000;
        }
    };
    warm(&mut rig, &mut app);
    app.received();
    app.offer(20);
    let count = allocations(|| warm(&mut rig, &mut app));
    assert_eq!(count, 0, "of 20 refused and 20 received frames");
    let count = allocations(|| {
        app.send(&honest);
        rig.driver.transmit(rig.now, &mut || 0);
        rig.driver.bill(1000);
        app.reap();
    });
    assert!(count <= 3, "a sent frame costs only the simulated wire's own {count} allocations");
    assert_eq!(rig.driver.flow_bill(app.flow).unwrap().tx_frames, 1);
}
