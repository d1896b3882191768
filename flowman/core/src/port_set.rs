//! The dynamic ports, as a set of bits: 64 ports are looked at in one step.

/// The dynamic range of RFC 6335.
pub(crate) const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// How many there are.
pub(crate) const COUNT: u16 = *DYNAMIC_PORTS.end() - *DYNAMIC_PORTS.start() + 1;

/// Ports in a word.
const BITS: u16 = 64;

/// Words of a set.
pub(crate) const WORDS: usize = (COUNT / BITS) as usize;

/// The word of a set in which a port stands, and its bit there; `None` if it is not dynamic.
pub(crate) fn place(port: u16) -> Option<(usize, u64)> {
    let at = port.checked_sub(*DYNAMIC_PORTS.start())?;
    Some((usize::from(at / BITS), 1 << (at % BITS)))
}

/// Some of the dynamic ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortSet([u64; WORDS]);

impl Default for PortSet {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl PortSet {
    /// Says whether `port` is in; nothing is kept of other ports than dynamic ones.
    pub(crate) fn set(&mut self, port: u16, is_in: bool) {
        if let Some((word, bit)) = place(port) {
            self.0[word] = if is_in { self.0[word] | bit } else { self.0[word] & !bit };
        }
    }

    /// A word of it.
    pub(crate) const fn word(&self, word: usize) -> u64 {
        self.0[word]
    }
}

/// The first port from `at` on, around the range, that is in none of the words that `taken` tells.
pub(crate) fn first_free(at: u16, taken: impl Fn(usize) -> u64) -> Option<u16> {
    let (begin, bit) = (usize::from(at / BITS), at % BITS);
    let before = (1 << bit) - 1;
    // The word where it begins comes twice: from there on, and up to there.
    (0..=WORDS).find_map(|step| {
        let word = (begin + step) % WORDS;
        let others = match step {
            0 => before,
            WORDS => !before,
            _ => 0,
        };
        let free = !(taken(word) | others);
        let at = || word as u16 * BITS + free.trailing_zeros() as u16;
        (free != 0).then(|| *DYNAMIC_PORTS.start() + at())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_free_port_is_the_one_that_a_walk_over_all_finds(
            at in 0..COUNT, holes in proptest::collection::vec(0..COUNT, 0..4),
        ) {
            let mut taken = PortSet::default();
            for port in DYNAMIC_PORTS {
                taken.set(port, !holes.contains(&(port - DYNAMIC_PORTS.start())));
            }
            let walk = (0..COUNT).map(|step| (at + step) % COUNT).find(|at| holes.contains(at));
            let found = first_free(at, |word| taken.word(word));
            prop_assert_eq!(found, walk.map(|at| at + DYNAMIC_PORTS.start()));
        }
    }
}
