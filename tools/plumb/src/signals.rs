//! Signals that ask the program to end, and those that do not.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long a program is given to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// How long a command is given to end when it is told to.
const COMMAND_GRACE: Duration = Duration::from_secs(2);

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
        let mut bell = Bell::of(&[SIGINT, SIGTERM, SIGHUP])?;
        let asked = Self::listen()?;
        thread::Builder::new().name("asked".into()).spawn(move || {
            if let Some(signal) = bell.wait() {
                thread::sleep(GRACE);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
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

/// What a program that waits for another one is told meanwhile.
#[derive(Debug)]
pub struct Bell {
    hears: UnixStream,
    which: Arc<AtomicUsize>,
}

impl Bell {
    fn of(signals: &[i32]) -> io::Result<Self> {
        let (hears, ringer) = UnixStream::pair()?;
        let which = Arc::new(AtomicUsize::new(0));
        for &signal in signals {
            signal_hook::flag::register_usize(signal, Arc::clone(&which), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, ringer.try_clone()?)?;
        }
        Ok(Self { hears, which })
    }

    /// Hears from now on what is to be passed on to a command: that it is to end. What a terminal says of keys, it
    /// hears itself.
    ///
    /// # Errors
    ///
    /// Only if the kernel refuses a handler.
    pub fn for_a_command() -> io::Result<Self> {
        Self::of(&[SIGTERM, SIGHUP])
    }

    /// Waits for a signal.
    fn wait(&mut self) -> Option<i32> {
        self.hears.read_exact(&mut [0]).ok().map(|()| self.which.load(Ordering::Relaxed) as i32)
    }

    /// Passes a signal on to a command that was started, also one that came before; a command that has not ended
    /// [`COMMAND_GRACE`] later is killed, as shells are that terminals talk to.
    ///
    /// # Errors
    ///
    /// The kernel gives no thread, or no way to signal this process and no later one of its number.
    pub fn pass_on(mut self, command: &Child) -> io::Result<()> {
        let command = pidfd_open(Pid::from_child(command), PidfdFlags::empty())?;
        thread::Builder::new().name("asked".into()).spawn(move || {
            let Some(signal) = self.wait() else { return };
            let signal = if signal == SIGHUP { Signal::HUP } else { Signal::TERM };
            let _ = pidfd_send_signal(&command, signal);
            thread::sleep(COMMAND_GRACE);
            let _ = pidfd_send_signal(&command, Signal::KILL);
        })?;
        Ok(())
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
