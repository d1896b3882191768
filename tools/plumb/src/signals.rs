//! Signals that ask the program to end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the program was asked to end.
#[derive(Debug, Clone)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Listens for Ctrl-C, `kill` and a lost terminal from now on, instead of dying of them.
    ///
    /// # Errors
    ///
    /// Only if the kernel refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in
            [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Whether one of them has come.
    pub fn yet(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
