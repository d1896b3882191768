//! Line rates, and the wire time a frame costs at a rate.

use core::fmt;
use core::str::FromStr;

use base_wire::wire_bytes;

/// A line rate in bits per second, never zero.
///
/// Written `100mbit`, `2.5gbit`, `64kbit` or plain bits per second.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Rate {
    bits_per_s: u64,
}

impl Rate {
    /// Slowest line Plumb schedules: below it a frame would take seconds.
    pub const MIN_BITS_PER_S: u64 = 10_000;
    /// Fastest: 1 Tbit/s, a millionth of what would overflow.
    pub const MAX_BITS_PER_S: u64 = 1_000_000_000_000;

    /// A rate of `bits_per_s`, or `None` outside what can be scheduled.
    pub const fn bits(bits_per_s: u64) -> Option<Self> {
        if bits_per_s < Self::MIN_BITS_PER_S || bits_per_s > Self::MAX_BITS_PER_S {
            None
        } else {
            Some(Self { bits_per_s })
        }
    }

    /// A rate of `mbit` million bits per second; `mbit` is clamped to what can be scheduled.
    pub const fn mbit(mbit: u32) -> Self {
        let mbit = if mbit == 0 {
            1
        } else if mbit > 1_000_000 {
            1_000_000
        } else {
            mbit
        };
        Self { bits_per_s: mbit as u64 * 1_000_000 }
    }

    /// Bits per second.
    pub const fn bits_per_s(self) -> u64 {
        self.bits_per_s
    }

    /// Wire time of a frame of `frame_bytes` (without check sequence), in nanoseconds.
    ///
    /// Padding, check sequence, preamble and gap included: 1 514 bytes at 100 Mbit/s are
    /// 123 040 ns. Rounded to nearest by a fixed-point multiplier, so one multiplication.
    pub const fn wire_ns(self, frame_bytes: usize) -> u64 {
        (wire_bytes(frame_bytes) as u64 * self.ns_per_byte_q20()) >> 20
    }

    /// Nanoseconds per byte in units of 2⁻²⁰ ns.
    const fn ns_per_byte_q20(self) -> u64 {
        ((8_000_000_000u64 << 20) + self.bits_per_s / 2) / self.bits_per_s
    }
}

impl TryFrom<u64> for Rate {
    type Error = InvalidRate;

    fn try_from(bits_per_s: u64) -> Result<Self, InvalidRate> {
        Self::bits(bits_per_s).ok_or(InvalidRate)
    }
}

impl From<Rate> for u64 {
    fn from(rate: Rate) -> Self {
        rate.bits_per_s
    }
}

/// The text is no rate, or one outside 10 kbit/s … 1 Tbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRate;

impl fmt::Display for InvalidRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a rate is a number and kbit, mbit or gbit, from 10kbit to 1000gbit, as in 100mbit",
        )
    }
}

impl core::error::Error for InvalidRate {}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let text = text.trim().to_ascii_lowercase();
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale: u64 = match unit {
            "" | "bit" | "bps" => 1,
            "k" | "kbit" => 1_000,
            "m" | "mbit" => 1_000_000,
            "g" | "gbit" => 1_000_000_000,
            _ => return Err(InvalidRate),
        };
        let (whole, fraction) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
        if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidRate);
        }
        let whole: u64 = whole.parse().map_err(|_| InvalidRate)?;
        let denominator = 10u64.pow(fraction.len() as u32);
        let fraction: u64 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| InvalidRate)? };
        let bits = u128::from(whole) * u128::from(scale)
            + u128::from(fraction) * u128::from(scale) / u128::from(denominator);
        u64::try_from(bits).ok().and_then(Self::bits).ok_or(InvalidRate)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits_per_s;
        for (scale, unit) in [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1_000, "kbit")] {
            if bits.is_multiple_of(scale) {
                return write!(f, "{}{unit}", bits / scale);
            }
        }
        write!(f, "{bits}bit")
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_costs_its_wire_time() {
        for (mbit, frame, ns) in [
            (100, 1514, 123_040),
            (1000, 1514, 12_304),
            (10_000, 1514, 1_230),
            (100, 42, 6_720),
            (100_000, 60, 6),
        ] {
            assert_eq!(Rate::mbit(mbit).wire_ns(frame), ns, "{frame} bytes at {mbit} Mbit/s");
        }
    }

    #[test]
    fn text_means_what_it_says() {
        for (text, bits) in [
            ("100mbit", 100_000_000),
            ("2.5gbit", 2_500_000_000),
            ("64kbit", 64_000),
            ("1G", 1_000_000_000),
            ("250000", 250_000),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().bits_per_s(), bits, "{text}");
        }
        for bad in [
            "",
            "fast",
            "1",
            "-1mbit",
            "100 parsec",
            "2000gbit",
            "1.2.3mbit",
            "99999999999999999999gbit",
        ] {
            assert_eq!(bad.parse::<Rate>(), Err(InvalidRate), "{bad}");
        }
    }

    #[test]
    fn display_can_be_parsed_back() {
        for text in ["100mbit", "2500mbit", "64kbit", "1gbit", "10001bit"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rate_is_one_that_can_be_scheduled() {
        let (least, most) = (Rate::MIN_BITS_PER_S, Rate::MAX_BITS_PER_S);
        for (bits, can) in [(least, true), (least - 1, false), (most, true), (most + 1, false)] {
            assert_eq!(Rate::bits(bits).map(Rate::bits_per_s), can.then_some(bits));
            assert_eq!(
                Rate::try_from(bits).map(u64::from),
                Rate::bits(bits).map(u64::from).ok_or(InvalidRate)
            );
        }
        for (mbit, bits) in [(0, 1_000_000), (1, 1_000_000), (1_000_000, most), (1_000_001, most)] {
            assert_eq!(Rate::mbit(mbit).bits_per_s(), bits);
        }
        assert_eq!(format!("{:?}", Rate::mbit(100)), "100mbit");
        assert!(InvalidRate.to_string().contains("100mbit"));
    }

    #[test]
    fn a_fraction_of_a_unit_has_at_most_nine_digits() {
        assert_eq!("1.123456789gbit".parse().map(Rate::bits_per_s), Ok(1_123_456_789));
        assert_eq!("1.1234567890gbit".parse::<Rate>(), Err(InvalidRate));
        assert_eq!("64.5k".parse().map(Rate::bits_per_s), Ok(64_500));
    }

    proptest! {
        /// The fixed-point multiplier is the nearest one there is.
        #[test]
        fn a_byte_costs_what_it_takes_rounded_to_nearest(
            bits_per_s in Rate::MIN_BITS_PER_S..=Rate::MAX_BITS_PER_S,
            scale in 0u32..27,
        ) {
            let bits_per_s = (bits_per_s >> scale).max(Rate::MIN_BITS_PER_S);
            let rate = Rate::bits(bits_per_s).unwrap();
            let exact = 8_000_000_000u128 << 20;
            let product = u128::from(rate.ns_per_byte_q20()) * u128::from(bits_per_s);
            prop_assert!(2 * product.abs_diff(exact) <= u128::from(bits_per_s));
        }
    }
}
