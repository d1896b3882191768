//! I/O records: a header and the ranges of the data area that make up one packet (paper §2.2.2).

use crate::Fault;

/// Most pairs an iorec may have.
pub const PAIRS_MAX: usize = 16;

/// Flags of an iorec's header.
pub mod flag {
    /// Received: the transport checksum was not verified by the link, nor promised to be right.
    pub const CHECKSUM_UNVERIFIED: u8 = 0x01;
    /// Received: the frame never was on a wire, so its checksum may not have been filled in.
    pub const CHECKSUM_PARTIAL: u8 = 0x02;
    /// Returned to a sender: the frame was not sent; the bill says why.
    pub const REJECTED: u8 = 0x04;
}

/// A contiguous range of the data area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pair {
    /// First byte, counted from the start of the channel's data area.
    pub offset: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Pair {
    const fn from_word(word: u64) -> Self {
        Self { offset: word as u32, len: (word >> 32) as u32 }
    }

    const fn to_word(self) -> u64 {
        self.offset as u64 | (self.len as u64) << 32
    }

    /// First byte after the range; does not overflow.
    pub const fn end(self) -> u64 {
        self.offset as u64 + self.len as u64
    }
}

/// One packet: up to [`PAIRS_MAX`] ranges, flags, and the master's cookie.
///
/// A header word is `count:8 | flags:8 | cookie:16 | gso_size:16 | reserved:16` from the lowest bit,
/// a pair word `offset:32 | len:32`.
///
/// Large for what most packets need, so the data path keeps iorecs where they are and copies only
/// what is used ([`Self::copy_from`]).
#[derive(Debug, Clone)]
pub struct IoRec {
    count: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Chosen by the master, carried back unchanged by the slave.
    pub cookie: u16,
    /// Payload bytes per segment if the link is to cut the packet; 0 if it is one frame.
    pub gso_size: u16,
    pairs: [Pair; PAIRS_MAX],
}

impl PartialEq for IoRec {
    fn eq(&self, other: &Self) -> bool {
        self.header_word() == other.header_word() && self.pairs() == other.pairs()
    }
}

impl Eq for IoRec {}

impl IoRec {
    /// An iorec that names nothing yet.
    pub const EMPTY: Self = Self {
        count: 0,
        flags: 0,
        cookie: 0,
        gso_size: 0,
        pairs: [Pair { offset: 0, len: 0 }; PAIRS_MAX],
    };

    /// An iorec of one range.
    pub const fn single(cookie: u16, pair: Pair) -> Self {
        let mut rec = Self::EMPTY;
        rec.count = 1;
        rec.cookie = cookie;
        rec.pairs[0] = pair;
        rec
    }

    /// Whether it names nothing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Makes it name nothing.
    pub const fn clear(&mut self) {
        self.count = 0;
    }

    /// Becomes equal to `other`.
    pub fn copy_from(&mut self, other: &Self) {
        (self.count, self.flags) = (other.count, other.flags);
        (self.cookie, self.gso_size) = (other.cookie, other.gso_size);
        let used = other.count as usize;
        self.pairs[..used].copy_from_slice(&other.pairs[..used]);
    }

    /// Adds a range at the end; `false` if there are [`PAIRS_MAX`] already.
    pub const fn push(&mut self, pair: Pair) -> bool {
        if self.count as usize == PAIRS_MAX {
            return false;
        }
        self.pairs[self.count as usize] = pair;
        self.count += 1;
        true
    }

    /// The ranges, in order.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs[..self.count as usize]
    }

    /// Forgets all ranges but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.count = self.count.min(count.min(PAIRS_MAX) as u8);
    }

    /// Sets the length of range `index`; ignored if there is no such range.
    pub fn set_len(&mut self, index: usize, len: u32) {
        if let Some(pair) = self.pairs[..self.count as usize].get_mut(index) {
            pair.len = len;
        }
    }

    /// Bytes of all ranges together; does not overflow.
    pub fn bytes(&self) -> u64 {
        self.pairs().iter().map(|pair| u64::from(pair.len)).sum()
    }

    /// Words it occupies in a control area.
    pub const fn words(&self) -> u64 {
        self.count as u64 + 1
    }

    pub(crate) const fn header_word(&self) -> u64 {
        self.count as u64
            | (self.flags as u64) << 8
            | (self.cookie as u64) << 16
            | (self.gso_size as u64) << 32
    }

    /// Reads the header word, checking only what can be checked without the pairs, which are then
    /// to be set. After a fault it names nothing.
    pub(crate) const fn set_header_word(&mut self, header: u64) -> Result<(), Fault> {
        self.count = 0;
        let count = header as u8;
        if count == 0 || count as usize > PAIRS_MAX {
            return Err(Fault::PairCount { count });
        }
        if header >> 48 != 0 {
            return Err(Fault::Reserved { header });
        }
        self.count = count;
        self.flags = (header >> 8) as u8;
        self.cookie = (header >> 16) as u16;
        self.gso_size = (header >> 32) as u16;
        Ok(())
    }

    pub(crate) const fn pair_word(&self, index: usize) -> u64 {
        self.pairs[index].to_word()
    }

    pub(crate) const fn set_pair_word(&mut self, index: usize, word: u64) {
        self.pairs[index] = Pair::from_word(word);
    }

    /// Checks every range against a data area of `area` bytes, and against the others.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: a range that is empty, outside the area, or shared.
    pub fn validate(&self, area: u32) -> Result<(), Fault> {
        let pairs = self.pairs();
        for (index, pair) in pairs.iter().enumerate() {
            if pair.len == 0 {
                return Err(Fault::EmptyPair { offset: pair.offset });
            }
            if pair.end() > u64::from(area) {
                return Err(Fault::OutsideArea { offset: pair.offset, len: pair.len, area });
            }
            for other in &pairs[..index] {
                if u64::from(pair.offset) < other.end() && u64::from(other.offset) < pair.end() {
                    return Err(Fault::Overlap { first: other.offset, second: pair.offset });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn pair(offset: u32, len: u32) -> Pair {
        Pair { offset, len }
    }

    #[test]
    fn ranges_are_checked_at_their_limits() {
        let check = |pairs: &[Pair], area| {
            let mut rec = IoRec::EMPTY;
            for &pair in pairs {
                assert!(rec.push(pair));
            }
            rec.validate(area)
        };
        assert_eq!(check(&[pair(0, 64)], 64), Ok(()));
        assert_eq!(
            check(&[pair(1, 64)], 64),
            Err(Fault::OutsideArea { offset: 1, len: 64, area: 64 })
        );
        assert!(check(&[pair(u32::MAX, u32::MAX)], u32::MAX).is_err());
        assert_eq!(check(&[pair(3, 0)], 64), Err(Fault::EmptyPair { offset: 3 }));
        assert_eq!(check(&[pair(0, 8), pair(8, 8)], 64), Ok(()));
        assert_eq!(
            check(&[pair(0, 9), pair(8, 8)], 64),
            Err(Fault::Overlap { first: 0, second: 8 })
        );
        assert_eq!(
            check(&[pair(8, 8), pair(0, 9)], 64),
            Err(Fault::Overlap { first: 8, second: 0 })
        );
    }

    #[test]
    fn an_iorec_holds_no_more_than_its_pairs() {
        let mut rec = IoRec::EMPTY;
        for i in 0..PAIRS_MAX as u32 {
            assert!(rec.push(pair(i, 1)));
        }
        assert!(!rec.push(pair(99, 1)));
        assert_eq!(rec.words(), 17);
    }

    proptest! {
        #[test]
        fn any_header_word_is_read_or_refused(
            header in prop_oneof![any::<u64>(), any::<u64>().prop_map(|word| word & 0xffff_ffff_ff1f)],
        ) {
            let mut rec = IoRec::EMPTY;
            match rec.set_header_word(header) {
                Ok(()) => prop_assert_eq!(rec.header_word(), header),
                Err(fault) => {
                    prop_assert!(rec.is_empty());
                    let named = matches!(fault, Fault::PairCount { .. } | Fault::Reserved { .. });
                    prop_assert!(named, "{}", fault);
                }
            }
        }
    }
}
