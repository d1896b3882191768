//! Those who come to a listener, at all its doors: how many wait to be accepted, and who could not come in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the doors of a listener have in common.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Connections that are complete and that nobody has accepted.
    waiting: AtomicUsize,
    turned_away: Mutex<TurnedAway>,
}

/// Connections that were reset because they could have no flow, and why the first one could not: what comes later
/// often comes of it.
#[derive(Debug, Clone, Default)]
struct TurnedAway {
    count: u64,
    reason: Option<String>,
}

/// One of those that the application lets wait.
pub(super) struct Place(Arc<Crowd>);

impl Crowd {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Another one waits, until its place is dropped.
    pub(super) fn admit(self: &Arc<Self>) -> Place {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }

    /// A connection is reset, for this reason.
    pub(super) fn turn_away(&self, reason: impl ToString) {
        let mut turned_away = self.lock();
        turned_away.count += 1;
        turned_away.reason.get_or_insert_with(|| reason.to_string());
    }

    /// How many were reset, and why the first one was.
    pub(super) fn turned_away(&self) -> (u64, Option<String>) {
        let TurnedAway { count, reason } = self.lock().clone();
        (count, reason)
    }

    fn lock(&self) -> MutexGuard<'_, TurnedAway> {
        self.turned_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_first_says_why_and_all_are_counted() {
        let crowd = Crowd::default();
        assert_eq!(crowd.turned_away(), (0, None));
        crowd.turn_away("no memory");
        crowd.turn_away("no thread");
        crowd.turn_away("no thread");
        assert_eq!(crowd.turned_away(), (3, Some("no memory".into())));
    }

    #[test]
    fn whoever_has_a_place_waits_until_that_is_dropped() {
        let crowd = Arc::new(Crowd::default());
        let places = [crowd.admit(), crowd.admit()];
        assert_eq!(crowd.waiting(), 2);
        let [first, second] = places;
        drop(first);
        assert_eq!(crowd.waiting(), 1);
        drop(second);
        assert_eq!(crowd.waiting(), 0);
    }
}
