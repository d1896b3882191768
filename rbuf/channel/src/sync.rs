//! Atomics: the real ones, or loom's when its model checker runs the tests.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// A byte of a data area. Never model-checked: no protocol depends on its value.
pub use core::sync::atomic::AtomicU8;
