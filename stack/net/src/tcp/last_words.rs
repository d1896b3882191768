//! The end of the process: what it wrote is delivered first.
//!
//! A kernel sends what a process wrote after that process has gone. These streams are part of it. So a
//! process that ends in order, when `main` returns or by [`std::process::exit`], first closes its streams
//! and waits until their peers have everything; not for ever. One that is killed leaves its peers a reset,
//! which the flow manager sends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::service::{Served, Service};

/// Longest that the end of the process is held up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between looks.
const PAUSE: Duration = Duration::from_micros(500);

static SERVICES: Mutex<Vec<Weak<Service>>> = Mutex::new(Vec::new());

/// The process that has these streams; a child that it forked has copies, and no say.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The sockets of `service` are closed when the process ends.
pub(super) fn include(service: &Arc<Service>) {
    static ONCE: Once = Once::new();
    let mut services = SERVICES.lock().unwrap_or_else(PoisonError::into_inner);
    services.retain(|known| known.strong_count() > 0);
    services.push(Arc::downgrade(service));
    OWNER.store(std::process::id(), Ordering::Relaxed);
    // Where the kernel's library has no room for it, streams end as those of a killed process.
    ONCE.call_once(|| _ = rbuf_shm::at_exit(say));
}

extern "C" fn say() {
    // Nothing may unwind from here.
    let _ = catch_unwind(AssertUnwindSafe(finish));
}

fn finish() {
    if OWNER.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    let begun = Instant::now();
    let services = SERVICES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let sockets: Vec<Arc<dyn Served>> =
        services.iter().filter_map(Weak::upgrade).flat_map(|service| service.sockets()).collect();
    for socket in &sockets {
        socket.leave();
    }
    while begun.elapsed() < PATIENCE && !sockets.iter().all(|socket| socket.is_delivered()) {
        thread::sleep(PAUSE);
    }
}
