//! The Internet checksum (RFC 1071).
//!
//! Sums are kept as `u64` words added with end-around carry and folded once at the end, which
//! is eight bytes per addition; [`finish`] gives the complement that goes on the wire.

/// One's-complement sum of `bytes` taken as big-endian 16-bit words; an odd last byte is padded.
///
/// Sums of parts may be added as long as every part but the last has an even length. The result
/// is partly folded (below 2³³), so thousands may be added before [`finish`].
pub fn sum(bytes: &[u8]) -> u64 {
    // RFC 1071 §2(B): byte order does not matter until the end, so sum native words.
    let mut total: u64 = 0;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
        let (added, carry) = total.overflowing_add(word);
        total = added + u64::from(carry);
    }
    let mut tail = [0; 8];
    let rest = chunks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    let (added, carry) = total.overflowing_add(u64::from_ne_bytes(tail));
    total = added + u64::from(carry);
    u64::from(u16::from_be(fold(total)))
}

/// The sum of bytes that begin at an odd place, given their sum (RFC 1071 §2(B): byte order does not
/// matter, so their bytes are swapped).
pub const fn shifted(sum: u64) -> u64 {
    fold(sum).swap_bytes() as u64
}

/// The checksum field for a sum: its complement, folded to 16 bits.
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Whether a sum that included the checksum field is that of undamaged data.
pub const fn is_valid(sum: u64) -> bool {
    fold(sum) == 0xffff
}

const fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_holds() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(sum(&bytes)), !0xddf2);
    }

    proptest! {
        #[test]
        fn parts_of_odd_length_add_up_when_the_rest_is_shifted(a in proptest::collection::vec(any::<u8>(), 0..50), b in proptest::collection::vec(any::<u8>(), 0..50)) {
            let rest = if a.len() % 2 == 0 { sum(&b) } else { shifted(sum(&b)) };
            prop_assert_eq!(finish(sum(&a) + rest), finish(sum(&[a, b].concat())));
        }

        #[test]
        fn any_bytes_sum_as_defined(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(finish(sum(&bytes)), slow(&bytes));
        }

        #[test]
        fn parts_of_even_length_add_up(a in proptest::collection::vec(any::<u16>(), 0..100), b in proptest::collection::vec(any::<u8>(), 0..100)) {
            let a: Vec<u8> = a.iter().flat_map(|w| w.to_be_bytes()).collect();
            let whole = [a.clone(), b.clone()].concat();
            prop_assert_eq!(finish(sum(&a) + sum(&b)), finish(sum(&whole)));
        }
    }

    #[test]
    fn carries_come_round_whatever_the_length() {
        for length in 0..64 {
            let bytes = vec![0xff; length];
            assert_eq!(finish(sum(&bytes)), slow(&bytes), "{length} bytes");
        }
    }
}
