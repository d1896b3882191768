//! Looking, and sleeping between looks, at one door or at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rbuf_channel::Wait;
use rbuf_shm::monotonic_ns;

use super::door::{Desk, Door, Side};
use super::doors::DOORS_MAX;
use super::{Inner, NEVER, lock};
use crate::flow::NEWS_NS;
use crate::{Error, sleep};

/// So many looks a socket that never sleeps makes between a system call and the next.
const LOOKS_DEAF: u32 = 1 << 14;

impl Inner {
    /// Looks until there is what `look` looks for, then sleeps between looks, as long as the socket waits.
    /// At `only` this door, or else at all.
    pub(super) fn wait_on<T>(
        &self,
        side: Side,
        only: Option<&Arc<Door>>,
        look: impl FnMut(&Arc<Door>, &mut Desk) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let deadline_ns = if self.nonblocking.load(Ordering::Relaxed) {
            0
        } else {
            deadline(match side {
                Side::Send => &self.write_timeout_ns,
                Side::Receive => &self.read_timeout_ns,
            })
        };
        self.wait_until(side, only, deadline_ns, true, look)
    }

    /// As [`Self::wait_on`], until `deadline_ns`; 0 looks once. Errors that the next call is to return are for `is_call`
    /// only.
    pub(super) fn wait_until<T>(
        &self,
        side: Side,
        only: Option<&Arc<Door>>,
        deadline_ns: u64,
        is_call: bool,
        mut look: impl FnMut(&Arc<Door>, &mut Desk) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut looks = Looks::new(self.wait);
        let mut calls = [0; DOORS_MAX];
        'again: loop {
            let all = self.doors();
            let doors = only.map_or_else(|| all.all(), std::slice::from_ref);
            let turn = if doors.len() > 1 { self.turn.load(Ordering::Relaxed) } else { 0 };
            for at in 0..doors.len() {
                let at = (at + turn) % doors.len();
                let (door, mut desk) = (&doors[at], doors[at].desk());
                calls[at] = door.shared.calls();
                match desk.hear(&door.shared) {
                    Err(Error::Lost(_)) if self.leave(door) && only.is_none() => continue 'again,
                    heard => heard?,
                }
                if side == Side::Send {
                    self.take_controls(&mut desk)?;
                    self.tell_if(is_call)?;
                }
                if let Some(found) = look(door, &mut desk)? {
                    self.turn.store(at + 1, Ordering::Relaxed);
                    return Ok(found);
                }
                self.take_controls(&mut desk)?;
                // What was looked through may be what the driver waits for.
                desk.kick(&door.shared);
            }
            self.tell_if(is_call)?;
            if deadline_ns == 0 {
                return Err(Error::WouldBlock);
            }
            if looks.again() {
                if looks.is_time_to_hear() && !self.hear_spinning(deadline_ns) {
                    return Err(Error::WouldBlock);
                }
                continue;
            }
            if !self.sleep(side, doors, &calls, deadline_ns)? {
                return Err(Error::WouldBlock);
            }
        }
    }

    /// Sleeps until a driver has advanced a count, or somebody calls; `false` if `deadline_ns` has passed.
    fn sleep(
        &self,
        side: Side,
        doors: &[Arc<Door>],
        calls: &[u32],
        deadline_ns: u64,
    ) -> Result<bool, Error> {
        let mut seen = Vec::with_capacity(doors.len());
        let mut failed = None;
        for door in doors {
            match door.desk().fall_asleep(side) {
                Ok(Some(count)) => seen.push(count),
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let mut woken = true;
        if seen.len() == doors.len() {
            let until_ns = deadline_ns.min(monotonic_ns().saturating_add(NEWS_NS));
            let causes = doors.iter().zip(&seen).zip(calls).map(|((door, &seen), &call)| {
                let shared = &door.shared;
                let words = if side == Side::Send { &shared.tx_words } else { &shared.rx_words };
                shared.cause(words, seen, call)
            });
            woken = sleep::until(&causes.collect::<Vec<_>>(), until_ns);
            if !woken {
                self.host.hear_notices();
                self.host.check_drivers();
            }
        }
        for door in &doors[..seen.len()] {
            door.desk().wake_up(side);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(woken || monotonic_ns() < deadline_ns),
        }
    }

    /// What a sleeper does when it wakes, for one that never sleeps; `false` if the deadline has passed.
    fn hear_spinning(&self, deadline_ns: u64) -> bool {
        self.host.hear_notices();
        self.host.check_drivers();
        monotonic_ns() < deadline_ns
    }

    /// Takes what control messages say from a door, at most a datagram's worth of work for each.
    pub(super) fn take_controls(&self, desk: &mut Desk) -> Result<(), Error> {
        while let Some(control) = desk.control()? {
            let (mtu, to) = (desk.fib().mtu, control.to.ip());
            // One about a datagram to somebody else, from before, is no error of a connected socket.
            let is_connected = self.doors().remote() == Some(control.to);
            // Before anybody can have heard of it from elsewhere.
            self.is_troubled.store(true, Ordering::Release);
            let news = lock(&self.troubles).hear(control, is_connected, mtu, monotonic_ns());
            if let Some(path_mtu) = news {
                desk.flow.shared.tell_path(to, path_mtu);
            }
        }
        Ok(())
    }

    /// Takes them from all doors.
    pub(super) fn hear_controls(&self) -> Result<(), Error> {
        let doors = self.doors();
        for door in doors.all() {
            let mut desk = door.desk();
            match desk.hear(&door.shared) {
                Err(Error::Lost(_)) if self.leave(door) => continue,
                heard => heard?,
            }
            self.take_controls(&mut desk)?;
        }
        Ok(())
    }

    /// As [`Self::hear_controls`], and tells the error of a connected socket.
    pub(super) fn hear_troubles(&self) -> Result<(), Error> {
        self.hear_controls()?;
        self.tell_if(true)
    }

    /// The error that was not told yet, if there is one.
    fn tell_if(&self, is_call: bool) -> Result<(), Error> {
        if !is_call || !self.is_troubled.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.troubles).take_error().map_or(Ok(()), Err)
    }
}

pub(super) fn deadline(timeout_ns: &AtomicU64) -> u64 {
    match timeout_ns.load(Ordering::Relaxed) {
        NEVER => NEVER,
        timeout_ns => monotonic_ns().saturating_add(timeout_ns).max(1),
    }
}

/// Counts looks: those left before sleeping or, if it never sleeps, those made.
struct Looks {
    left: u32,
    endless: bool,
}

impl Looks {
    const fn new(wait: Wait) -> Self {
        match wait {
            Wait::Spin => Self { left: 0, endless: true },
            Wait::Block => Self { left: 0, endless: false },
            Wait::Adaptive { spins } => Self { left: spins, endless: false },
        }
    }

    fn again(&mut self) -> bool {
        std::hint::spin_loop();
        if self.endless {
            self.left = self.left.wrapping_add(1);
            return true;
        }
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }

    /// Whether an endless look is to see what time it is and what the flow manager says.
    const fn is_time_to_hear(&self) -> bool {
        self.endless && self.left.is_multiple_of(LOOKS_DEAF)
    }
}
