//! Thousands of threads that sleep for one thing.

use std::sync::atomic::{AtomicBool, Ordering};

use base_flow::Contract;
use rbuf_channel::{AtomicU64, Park};
use rbuf_domain::Domain;
use rbuf_shm::{Futex, monotonic_ns};

use crate::ground::{peer_hears, row, say};
use crate::raw::{RawFlow, greet, join};

/// Enough that waking all of them each time takes the driver's processor.
const THREADS: usize = 2_000;

#[test]
fn two_thousand_threads_asleep_on_one_count_cost_nobody_his_contract() {
    let attack = || {
        let connection = greet();
        let domain = Domain::new(4, join(&connection, 4)).unwrap();
        let contract = Contract::BEST_EFFORT.with_slack(true);
        let mut flow = RawFlow::open(&connection, &domain, 6200, contract);
        let stop = AtomicBool::new(false);
        let words = flow.ends.tx.peer_words();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let sleeper = || {
                    let _ = rustix::process::nice(19);
                    while !stop.load(Ordering::Relaxed) {
                        let word: &AtomicU64 = &words[0];
                        Futex::until(monotonic_ns() + 1_000_000_000)
                            .sleep(word, word.load(Ordering::Relaxed));
                    }
                };
                let builder = std::thread::Builder::new().stack_size(32 << 10);
                builder.spawn_scoped(scope, sleeper).unwrap();
            }
            say("asleep");
            loop {
                flow.reap();
                flow.send(&domain, 0..64);
                let _ = flow.ends.tx.await_published(1);
            }
        });
    };
    let name = "sleepers::two_thousand_threads_asleep_on_one_count_cost_nobody_his_contract";
    row(name, attack, |ground| {
        let _peer = peer_hears(7000);
        ground.compare_with(|| ground.busy(), || ground.attacker_that_says("asleep"), |_, _| true);
    });
}
