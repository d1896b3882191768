//! One word that says what a socket is ready for, by the names of `poll(2)`.

use core::ops::{BitOr, BitOrAssign};

/// State of both directions at once. Two words differ exactly if somebody who waits may find something else.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Readiness(u16);

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `POLLIN`: a read or an accept gives something, the end, or an error.
    pub const IN: Self = Self(0x001);
    /// `POLLPRI`: something that can be read is urgent.
    pub const PRI: Self = Self(0x002);
    /// `POLLOUT`: a write takes something, or gives an error.
    pub const OUT: Self = Self(0x004);
    /// `POLLERR`: there is an error that was not told.
    pub const ERR: Self = Self(0x008);
    /// `POLLHUP`: both directions are over.
    pub const HUP: Self = Self(0x010);
    /// `POLLRDHUP`: the peer sends no more.
    pub const RDHUP: Self = Self(0x2000);
    /// The handshake is complete.
    pub const OPEN: Self = Self(0x4000);
    /// The peer has everything that was written, the end of the stream included.
    pub const DELIVERED: Self = Self(0x8000);

    /// `self` if `holds`, or nothing.
    #[must_use]
    pub const fn when(self, holds: bool) -> Self {
        if holds { self } else { Self::NONE }
    }

    /// `self` without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Tells whether there is anything of `other` in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits that `poll` knows, as it numbers them.
    pub const fn poll_bits(self) -> u16 {
        self.0 & !(Self::OPEN.0 | Self::DELIVERED.0)
    }
}

impl BitOr for Readiness {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl core::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names = [
            (Self::IN, "IN"),
            (Self::PRI, "PRI"),
            (Self::OUT, "OUT"),
            (Self::ERR, "ERR"),
            (Self::HUP, "HUP"),
            (Self::RDHUP, "RDHUP"),
            (Self::OPEN, "OPEN"),
            (Self::DELIVERED, "DELIVERED"),
        ];
        let there = names.into_iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| name);
        f.write_str(&there.collect::<Vec<_>>().join("|"))
    }
}
