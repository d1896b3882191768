//! Whose turn it is: users take turns, and each user's clients among themselves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

/// Those who want something, each once.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    /// Users who have somebody waiting, by whose turn is next.
    order: VecDeque<u32>,
    queues: HashMap<u32, VecDeque<T>>,
    waiting: HashSet<T>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), queues: HashMap::new(), waiting: HashSet::new() }
    }
}

impl<T: Copy + Eq + Hash> Turns<T> {
    /// One of user `uid` wants something; no effect if it waits already.
    pub(crate) fn push(&mut self, uid: u32, who: T) {
        if !self.waiting.insert(who) {
            return;
        }
        let queue = self.queues.entry(uid).or_default();
        if queue.is_empty() {
            self.order.push_back(uid);
        }
        queue.push_back(who);
    }

    /// Whose turn it is. Whoever wants more has to say so again.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let uid = self.order.pop_front()?;
        let queue = self.queues.get_mut(&uid)?;
        let who = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&uid);
        } else {
            self.order.push_back(uid);
        }
        self.waiting.remove(&who);
        Some(who)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_one_client_waits_for_one_of_every_other_user_at_most() {
        let mut turns = Turns::default();
        for uid in 0..90 {
            (0..256).for_each(|client| turns.push(uid, (uid, client)));
        }
        for round in 0..1000 {
            turns.push(1000, (1000, 0));
            // Pushing twice brings nothing.
            turns.push(1000, (1000, 0));
            let others = std::iter::from_fn(|| {
                let who = turns.pop().unwrap();
                // They always want more.
                (who.0 != 1000).then(|| turns.push(who.0, who))
            });
            assert_eq!(others.count(), 90, "in round {round}");
        }
    }

    #[test]
    fn everybody_has_a_turn_and_clients_of_a_user_have_as_many() {
        let mut turns = Turns::default();
        let mut had = HashMap::new();
        for client in 0..100_u32 {
            turns.push(client % 3, client);
        }
        for _ in 0..3_000 {
            let who = turns.pop().unwrap();
            *had.entry(who).or_insert(0) += 1;
            turns.push(who % 3, who);
        }
        assert_eq!(had.len(), 100);
        assert!(had.values().all(|&turns| (29..=31).contains(&turns)), "{had:?}");
        while turns.pop().is_some() {}
        assert!(turns.is_empty() && turns.queues.is_empty() && turns.waiting.is_empty());
    }
}
