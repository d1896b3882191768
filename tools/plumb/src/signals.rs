//! Signals that ask the program to end, and those that do not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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
        Self::by(&[SIGINT, SIGTERM, SIGHUP])
    }

    /// As [`Self::listen`], but a lost terminal is no reason to end: others' networking does not end with the
    /// session of who started it.
    ///
    /// # Errors
    ///
    /// As [`Self::listen`].
    pub fn listen_as_daemon() -> io::Result<Self> {
        ignore(&[SIGHUP])?;
        Self::by(&[SIGINT, SIGTERM])
    }

    fn by(signals: &[i32]) -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for &signal in signals {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Whether one of them has come.
    pub fn yet(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a terminal says is not for a daemon, unless somebody runs it there: a lost terminal never ends it, and
/// Ctrl-C is for its parent if that supervises it.
///
/// # Errors
///
/// Only if the kernel refuses a handler.
pub fn be_a_daemon(supervised: bool) -> io::Result<()> {
    ignore(if supervised { &[SIGHUP, SIGINT] } else { &[SIGHUP] })
}

/// Handlers that do nothing, unlike ignored signals, are not inherited by programs we start.
fn ignore(signals: &[i32]) -> io::Result<()> {
    for &signal in signals {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}
