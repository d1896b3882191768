//! Signals that ask the program to end, and those that do not.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long a program is given to end by itself.
const GRACE: Duration = Duration::from_secs(1);

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

    /// As [`Self::listen`], for a program that waits for daemons and leaves nothing behind: they may stand still,
    /// so what asks it to end ends it, if it has not ended by itself [`GRACE`] later.
    ///
    /// # Errors
    ///
    /// As [`Self::listen`].
    pub fn listen_or_die() -> io::Result<Self> {
        let (mut bell, ringer) = UnixStream::pair()?;
        let which = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&which), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, ringer.try_clone()?)?;
        }
        let asked = Self::listen()?;
        thread::Builder::new().name("asked".into()).spawn(move || {
            if bell.read_exact(&mut [0]).is_ok() {
                thread::sleep(GRACE);
                let signal = which.load(Ordering::Relaxed);
                let _ = signal_hook::low_level::emulate_default_handler(signal as i32);
            }
        })?;
        Ok(asked)
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
