//! What a whole process has once, made by the first thread that wants it.
//!
//! Making it may take as long as another process stands still. Who wants it meanwhile waits for it, until its own
//! deadline and not longer: threads do not try one after the other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rbuf_shm::monotonic_ns;

use crate::Error;

struct State<T> {
    made: Option<T>,
    /// Whether a thread is making it.
    making: bool,
}

/// Something that is made once for all threads, and anew when it is of no use any more.
pub(crate) struct Common<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// Somebody makes it, as long as this lives.
struct Making<'a, T>(&'a Common<T>);

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        self.0.state().making = false;
        self.0.changed.notify_all();
    }
}

impl<T: Clone> Common<T> {
    pub(crate) const fn new() -> Self {
        Self { state: Mutex::new(State { made: None, making: false }), changed: Condvar::new() }
    }

    /// What there is, if it `is_of_use`, or what `make` makes, or what another thread makes until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// Those of `make`, or [`Error::TimedOut`].
    pub(crate) fn get(
        &self,
        deadline_ns: u64,
        is_of_use: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut state = self.state();
        loop {
            if let Some(made) = state.made.clone() {
                // Hearing whether it is may run what wants it, too.
                drop(state);
                if is_of_use(&made) {
                    return Ok(made);
                }
                state = self.state();
            }
            if !state.making {
                state.making = true;
                break;
            }
            let left_ns = deadline_ns.saturating_sub(monotonic_ns());
            if left_ns == 0 {
                return Err(Error::TimedOut);
            }
            let waited = self.changed.wait_timeout(state, Duration::from_nanos(left_ns));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let making = Making(self);
        let made = make()?;
        self.state().made = Some(made.clone());
        drop(making);
        Ok(made)
    }
}

impl<T> Common<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    fn in_a_while() -> u64 {
        monotonic_ns() + 20_000_000_000
    }

    #[test]
    fn who_waits_while_another_makes_it_waits_until_its_own_deadline() {
        let common = Common::new();
        let ((begun, has_begun), (made, is_made)) = (channel(), channel::<()>());
        let shared = &common;
        thread::scope(|scope| {
            let maker = scope.spawn(move || {
                shared.get(
                    in_a_while(),
                    |_| true,
                    || {
                        begun.send(()).unwrap();
                        let _ = is_made.recv_timeout(Duration::from_secs(20));
                        Ok(7)
                    },
                )
            });
            has_begun.recv().unwrap();
            let refused = common.get(monotonic_ns(), |_| true, || panic!("it is being made"));
            assert!(matches!(refused, Err(Error::TimedOut)));
            assert!(!maker.is_finished(), "who was brief has waited for the maker");
            made.send(()).unwrap();
            assert_eq!(maker.join().unwrap().unwrap(), 7);
        });
        assert_eq!(common.get(0, |_| true, || panic!("there is one")).unwrap(), 7);
        assert_eq!(common.get(0, |_| false, || Ok(8)).unwrap(), 8, "that one was of no use");
    }

    #[test]
    fn who_waited_for_one_that_fails_makes_it_itself() {
        let common = Common::new();
        let ((begun, has_begun), (failed, has_failed)) = (channel(), channel::<()>());
        let shared = &common;
        thread::scope(|scope| {
            let first = scope.spawn(move || {
                shared.get(
                    in_a_while(),
                    |_| true,
                    || {
                        begun.send(()).unwrap();
                        let _ = has_failed.recv();
                        Err(Error::TimedOut)
                    },
                )
            });
            has_begun.recv().unwrap();
            let second = scope.spawn(|| common.get(in_a_while(), |_| true, || Ok(9)));
            failed.send(()).unwrap();
            first.join().unwrap().unwrap_err();
            assert_eq!(second.join().unwrap().unwrap(), 9);
        });
    }
}
