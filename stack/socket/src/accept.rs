//! An accept queue: who comes to a listener, at all its addresses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections wait to be accepted, at all addresses of a listener together, and who could not come in.
#[derive(Debug, Clone)]
pub struct AcceptQueue {
    shared: Arc<Shared>,
    backlog: usize,
}

#[derive(Debug, Default)]
struct Shared {
    /// Connections that are complete and that nobody has accepted.
    length: AtomicUsize,
    turned_away: Mutex<TurnedAway>,
}

/// Connections that were reset because they could have no flow, and why the first one could not: what comes later
/// often comes of it.
#[derive(Debug, Clone, Default)]
struct TurnedAway {
    count: u64,
    reason: Option<String>,
}

/// A slot in an [`AcceptQueue`], until it is dropped.
#[derive(Debug)]
pub struct AcceptSlot(Arc<Shared>);

impl AcceptQueue {
    /// An empty queue with room for `backlog` connections.
    pub fn new(backlog: usize) -> Self {
        Self { shared: Arc::default(), backlog }
    }

    pub(crate) const fn set_backlog(&mut self, backlog: usize) {
        self.backlog = backlog;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.shared.length.load(Ordering::Relaxed) >= self.backlog
    }

    /// Another one waits, until its slot is dropped.
    pub(crate) fn slot(&self) -> AcceptSlot {
        self.shared.length.fetch_add(1, Ordering::Relaxed);
        AcceptSlot(Arc::clone(&self.shared))
    }

    /// A connection is reset, for this reason.
    pub fn turn_away(&self, reason: impl ToString) {
        let mut turned_away = self.turned_away_now();
        turned_away.count += 1;
        turned_away.reason.get_or_insert_with(|| reason.to_string());
    }

    /// How many were reset, and why the first one was.
    pub fn turned_away(&self) -> (u64, Option<String>) {
        let TurnedAway { count, reason } = self.turned_away_now().clone();
        (count, reason)
    }

    fn turned_away_now(&self) -> MutexGuard<'_, TurnedAway> {
        self.shared.turned_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AcceptSlot {
    fn drop(&mut self) {
        self.0.length.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_first_says_why_and_all_are_counted() {
        let queue = AcceptQueue::new(1);
        assert_eq!(queue.turned_away(), (0, None));
        queue.turn_away("no memory");
        queue.turn_away("no thread");
        queue.turn_away("no thread");
        assert_eq!(queue.turned_away(), (3, Some("no memory".into())));
    }

    #[test]
    fn a_queue_is_full_when_as_many_have_slots_as_the_backlog_allows() {
        let queue = AcceptQueue::new(2);
        let other = queue.clone();
        let slots = [queue.slot(), other.slot()];
        assert!(queue.is_full() && other.is_full());
        let [first, second] = slots;
        drop(first);
        assert!(!queue.is_full());
        drop(second);
        assert!(!other.is_full());
    }
}
