//! Sequence numbers that do not wrap.

use core::ops::{Add, AddAssign, Sub};

/// A place in one direction of a connection.
///
/// On the wire a sequence number has 32 bits and wraps (RFC 9293 §3.4). Inside, it has 64, of which the
/// low half is the number on the wire, so that places compare as numbers do and no comparison has to
/// be modular. Bytes of sequence space are counted, SYN and FIN as one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// The position of a SYN with this sequence number. There is room below it, so that numbers from
    /// before the connection have places too.
    pub const fn initial(number: u32) -> Self {
        Self(1 << 32 | number as u64)
    }

    /// The number on the wire.
    pub const fn wire(self) -> u32 {
        self.0 as u32
    }

    /// The position with the number `wire` that is closest to this one.
    #[must_use]
    pub const fn nearest(self, wire: u32) -> Self {
        let ahead = wire.wrapping_sub(self.wire()) as i32;
        Self(self.0.saturating_add_signed(ahead as i64))
    }

    /// The place `bytes` before.
    #[must_use]
    pub const fn before(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }
}

impl Add<u64> for Position {
    type Output = Self;

    fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl AddAssign<u64> for Position {
    fn add_assign(&mut self, bytes: u64) {
        *self = *self + bytes;
    }
}

/// How far the left one is ahead; 0 if it is not.
impl Sub for Position {
    type Output = u64;

    fn sub(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_around_the_wrap_are_neighbours() {
        let before = Position::initial(u32::MAX);
        assert_eq!(before.nearest(0), before + 1);
        assert_eq!((before + 1).wire(), 0);
        assert_eq!((before + 1).nearest(u32::MAX), before);
        assert_eq!(Position::initial(0).nearest(u32::MAX).wire(), u32::MAX);
    }

    proptest! {
        #[test]
        fn what_is_sent_within_half_the_space_is_found_again(isn: u32, far in 0u64..1 << 40, step in 0u64..1 << 31) {
            let place = Position::initial(isn) + far;
            prop_assert_eq!(place.nearest((place + step).wire()), place + step);
            prop_assert_eq!((place + step).nearest(place.wire()), place);
        }
    }
}
