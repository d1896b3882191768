//! The end of the process: what it wrote is delivered first.
//!
//! A kernel sends what a process wrote after that process has gone. These streams are part of it. So a
//! process that ends in order, when `main` returns or by [`std::process::exit`], first closes its streams
//! and waits until their peers have everything: as long as they take what there is, and not for ever. What
//! they do not have then is said on standard error, for no call is left that could. A process that is
//! killed leaves its peers a reset, which the flow manager sends.

use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::service::{Served, Service, Undelivered};

/// Longest that the end of the process is held up while no peer takes anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest that it is held up in all: peers may take as little as they like.
const LONGEST: Duration = Duration::from_secs(300);

/// Between looks.
const PAUSE: Duration = Duration::from_micros(500);

static SERVICES: Mutex<Vec<Weak<Service>>> = Mutex::new(Vec::new());

/// The process that has these streams; a child that it forked has copies, and no say.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The sockets of `service` are closed when the process ends.
pub(super) fn include(service: &Arc<Service>) {
    let mut services = SERVICES.lock().unwrap_or_else(PoisonError::into_inner);
    services.retain(|known| known.strong_count() > 0);
    services.push(Arc::downgrade(service));
    register();
}

/// Something that another part of the library has to do before the process ends, which takes seconds at most.
#[derive(Debug)]
pub(crate) struct Errand(());

static ERRANDS: AtomicUsize = AtomicUsize::new(0);

impl Errand {
    /// The end of the process waits until it is dropped.
    pub(crate) fn begin() -> Self {
        register();
        ERRANDS.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        ERRANDS.fetch_sub(1, Ordering::AcqRel);
    }
}

fn register() {
    static ONCE: Once = Once::new();
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
    let services = SERVICES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let sockets: Vec<Arc<dyn Served>> =
        services.iter().filter_map(Weak::upgrade).flat_map(|service| service.sockets()).collect();
    for socket in &sockets {
        socket.leave();
    }
    let left = || sockets.iter().filter_map(|socket| socket.undelivered()).collect::<Vec<_>>();
    let (begun, mut vigil) = (Instant::now(), Vigil::default());
    while ERRANDS.load(Ordering::Acquire) > 0 && begun.elapsed() < PATIENCE {
        thread::sleep(PAUSE);
    }
    let mut undelivered = left();
    while vigil.goes_on(begun.elapsed(), &undelivered) {
        thread::sleep(PAUSE);
        undelivered = left();
    }
    for Undelivered { to, bytes } in undelivered {
        // Nobody is left to hear that this failed.
        let _ = writeln!(
            io::stderr(),
            "plumb: this process ends before {to} has taken {bytes} bytes that were written; \
             `TcpStream::finish` waits for as long as you like"
        );
    }
}

/// How long the end of the process is held up.
#[derive(Debug, Default)]
struct Vigil {
    /// What was left when a peer took something, and when that was.
    least: Option<(usize, u64)>,
    moved_at: Duration,
}

impl Vigil {
    /// Whether there is something to wait for and hope, so long after the beginning.
    fn goes_on(&mut self, elapsed: Duration, left: &[Undelivered]) -> bool {
        let now = (left.len(), left.iter().map(|socket| socket.bytes).sum());
        if self.least.is_none_or(|least| now < least) {
            (self.least, self.moved_at) = (Some(now), elapsed);
        }
        !left.is_empty() && elapsed < LONGEST && elapsed - self.moved_at < PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(bytes: &[u64]) -> Vec<Undelivered> {
        let to = std::net::SocketAddr::from(([10, 77, 0, 2], 80));
        bytes.iter().map(|&bytes| Undelivered { to, bytes }).collect()
    }

    #[test]
    fn the_end_waits_while_any_peer_takes_something_and_gives_up_when_none_has_for_a_while() {
        let mut vigil = Vigil::default();
        let at = |tenths: u64| Duration::from_millis(tenths * 100);
        assert!(vigil.goes_on(at(0), &left(&[150_000, 7])));
        // Half a kilobyte in nine seconds, and then a connection is over.
        assert!(vigil.goes_on(at(90), &left(&[149_500, 7])));
        assert!(vigil.goes_on(at(180), &left(&[149_500])));
        assert!(vigil.goes_on(at(279), &left(&[149_500])));
        assert!(!vigil.goes_on(at(280), &left(&[149_500])));
        assert!(!Vigil::default().goes_on(at(0), &[]), "there is nothing to wait for");
    }

    #[test]
    fn a_peer_that_takes_a_byte_now_and_then_holds_nobody_up_for_ever() {
        let mut vigil = Vigil::default();
        let waits = (0..).take_while(|&second| {
            vigil.goes_on(Duration::from_secs(second), &left(&[100_000 - second]))
        });
        assert_eq!(waits.count() as u64, LONGEST.as_secs());
    }
}
