//! A neighbour that only computes: how much it gets done for the processor time it is charged.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::charged_ns;
use crate::daemons::die_with_parent;
use crate::output::say;
use crate::process;

/// Computes until it is told to end, then prints units of work and nanoseconds charged.
pub fn run() -> Result<ExitCode> {
    die_with_parent()?;
    process::ready()?;
    let told = process::told_to_end();
    let begun = charged_ns();
    let mut done = 0u64;
    let mut state = 1u64;
    while !told.load(Ordering::Relaxed) {
        for _ in 0..10_000 {
            // A step that depends on the one before it.
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        done += 1;
    }
    say!("{done} {}", charged_ns() - begun)?;
    Ok(ExitCode::SUCCESS)
}
