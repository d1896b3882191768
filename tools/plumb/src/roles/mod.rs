//! The processes that the demo and live experiments are made of.
//!
//! | Role | Side | What it does |
//! |---|---|---|
//! | [`sender`] | ours | Sends as fast as it can, or at a steady rate |
//! | [`reader`] | ours | Reads, and works on what it reads |
//! | [`work`] | ours | Computes, and says what it was charged for that |
//! | [`capture`] | the peer's | Notes when each frame arrived |
//! | [`source`] | the peer's | Sends at steady rates, or a flood |
//!
//! A datagram begins with its number and the time at which it was sent, 64 bits each. Times are of the
//! monotonic clock, which all processes of a machine share.

pub mod capture;
pub mod reader;
pub mod sender;
pub mod source;
pub mod work;

use rustix::time::{ClockId, clock_gettime};

/// Bytes of number and time at the start of a datagram.
pub const STAMP_BYTES: usize = 16;

/// Writes number and time.
pub fn stamp(payload: &mut [u8], number: u64, now_ns: u64) {
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload[8..STAMP_BYTES].copy_from_slice(&now_ns.to_be_bytes());
}

/// Reads number and time.
pub fn read_stamp(payload: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| Some(u64::from_be_bytes(payload.get(at..at + 8)?.try_into().ok()?));
    Some((word(0)?, word(8)?))
}

/// Processor time this process was charged.
pub fn charged_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits until the monotonic clock shows `until_ns`, awake for the last stretch of it.
pub fn wait_until(until_ns: u64) {
    const AWAKE_NS: u64 = 150_000;
    loop {
        let left = until_ns.saturating_sub(rbuf_shm::monotonic_ns());
        if left == 0 {
            return;
        }
        if left > AWAKE_NS {
            std::thread::sleep(std::time::Duration::from_nanos(left - AWAKE_NS));
        } else {
            std::hint::spin_loop();
        }
    }
}
