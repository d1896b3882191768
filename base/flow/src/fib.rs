//! The flow information block, and facts about links (paper §4.1).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use base_wire::Mac;

use crate::{Endpoints, FlowId, Rate};

/// What an application must know to format the packets of one flow (paper §4.1).
///
/// It is information, not authority: that packets are formatted so is guaranteed by the transmit
/// template which the flow manager gave to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fib {
    /// The flow.
    pub flow: FlowId,
    /// Both ends: what the flow receives.
    pub endpoints: Endpoints,
    /// Source address of what the flow sends; also given if the local end is "any address".
    pub source: IpAddr,
    /// Source address on the link.
    pub source_mac: Mac,
    /// Next hop on the link; `None` for a flow that is not connected.
    pub next_hop_mac: Option<Mac>,
    /// Largest IP packet the link carries, in bytes.
    pub mtu: u16,
    /// Largest IP packet that may be handed to the driver, in bytes: what is longer than the MTU
    /// is a TCP segment that the link cuts.
    pub unit_bytes: u16,
    /// Largest IP packet that is known to get all the way to the remote end, if that is less than the link
    /// carries (RFC 1191): what others of the same user found out of late.
    pub path_mtu: Option<u16>,
    /// VLAN of the link: packets must be tagged with it; `None` if they are not tagged.
    pub vlan: Option<u16>,
}

/// What a driver tells about its link.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkFacts {
    /// Name of the interface, for people.
    pub name: String,
    /// Kind of link: `packet`, `sim`, `null`.
    pub kind: String,
    /// Our address on the link.
    pub mac: Mac,
    /// Largest IP packet the link carries now, in bytes.
    pub mtu: u16,
    /// Largest that it ever carries while it has this driver, and what buffers are made for.
    pub mtu_max: u16,
    /// Largest IP packet it takes, in bytes: longer TCP segments it cuts. Not less than the MTU.
    pub unit_bytes: u16,
    /// The VLAN of the interface that is driven, if it is not the untagged one.
    pub vlan: Option<u16>,
    /// The rate the wire is scheduled at.
    pub rate: Rate,
    /// Least that a frame is charged, in nanoseconds: the driver's own time for it.
    pub frame_cost_ns: u64,
    /// How late beyond its deadline a guaranteed frame can be, in nanoseconds.
    pub tardiness_ns: u64,
}

/// An address and the length of its network prefix, as in `10.77.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// `address` in a network of `bits` leading bits.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix`] if the address has fewer bits than that.
    pub const fn new(address: IpAddr, bits: u8) -> Result<Self, InvalidPrefix> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        if bits > max { Err(InvalidPrefix) } else { Ok(Self { address, bits }) }
    }

    /// The address, host part included.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the network part in bits.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `address` is of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(32 - u32::from(self.bits))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(128 - u32::from(self.bits))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }

    /// The address that reaches every host of the network; `None` for IPv6 and for /31 and /32.
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.address {
            IpAddr::V4(a) if self.bits < 31 => {
                Some(IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | (u32::MAX >> self.bits))))
            }
            _ => None,
        }
    }

    /// The same network with the host part cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Self { address, bits: self.bits }
    }
}

/// The text is no address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPrefix;

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address with its prefix length looks like 10.77.0.1/24 or fd00::1/64")
    }
}

impl core::error::Error for InvalidPrefix {}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let (address, bits) = text.split_once('/').ok_or(InvalidPrefix)?;
        let address = address.parse().map_err(|_| InvalidPrefix)?;
        Self::new(address, bits.parse().map_err(|_| InvalidPrefix)?)
    }
}

impl TryFrom<String> for Prefix {
    type Error = InvalidPrefix;

    fn try_from(text: String) -> Result<Self, InvalidPrefix> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_contains_what_shares_its_leading_bits() {
        let lan: Prefix = "10.77.0.1/24".parse().unwrap();
        assert!(lan.contains("10.77.0.255".parse().unwrap()));
        assert!(!lan.contains("10.77.1.0".parse().unwrap()));
        assert!(!lan.contains("fd00::1".parse().unwrap()));
        assert_eq!(lan.broadcast(), Some("10.77.0.255".parse().unwrap()));
        assert_eq!(lan.network().to_string(), "10.77.0.0/24");
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("192.0.2.1".parse().unwrap()));
        assert_eq!(all.network(), all);
        let host: Prefix = "192.0.2.1/32".parse().unwrap();
        assert!(
            host.contains("192.0.2.1".parse().unwrap())
                && !host.contains("192.0.2.2".parse().unwrap())
        );
        assert_eq!(host.broadcast(), None);
        let six: Prefix = "fd00::1/64".parse().unwrap();
        assert!(
            six.contains("fd00::ffff".parse().unwrap())
                && !six.contains("fd00:0:0:1::".parse().unwrap())
        );
    }

    #[test]
    fn malformed_prefixes_are_refused() {
        for bad in ["10.0.0.1", "10.0.0.1/33", "fd00::1/129", "/24", "10.0.0/8", "10.0.0.1/-1"] {
            assert_eq!(bad.parse::<Prefix>(), Err(InvalidPrefix), "{bad}");
        }
    }

    /// An address as its bits, the first one first.
    fn bits(address: IpAddr) -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    }

    /// An address, and one that differs from it from some bit on; neither is special.
    fn two_addresses() -> impl Strategy<Value = (IpAddr, IpAddr, usize)> {
        prop_oneof![
            (any::<u32>(), 0u32..=32).prop_map(|(a, at)| {
                let b = a ^ 1u32.checked_shl(31 - at.min(31)).filter(|_| at < 32).unwrap_or(0);
                (IpAddr::V4(a.into()), IpAddr::V4(b.into()), at as usize)
            }),
            (any::<u128>(), 0u32..=128).prop_map(|(a, at)| {
                let b = a ^ 1u128.checked_shl(127 - at.min(127)).filter(|_| at < 128).unwrap_or(0);
                (IpAddr::V6(a.into()), IpAddr::V6(b.into()), at as usize)
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_prefix_is_its_leading_bits((a, b, at) in two_addresses(), length in 0u8..=128) {
            let width = bits(a).len();
            let Ok(prefix) = Prefix::new(a, length) else {
                prop_assert!(usize::from(length) > width);
                return Ok(());
            };
            prop_assert!(usize::from(length) <= width);
            prop_assert_eq!((prefix.address(), prefix.bits()), (a, length));
            // They differ in bit `at` alone, or not at all.
            prop_assert_eq!(prefix.contains(b), at >= usize::from(length));
            let network = prefix.network();
            prop_assert_eq!(network.bits(), length);
            for (index, (kept, bit)) in bits(network.address()).into_iter().zip(bits(a)).enumerate() {
                prop_assert_eq!(kept, bit && index < usize::from(length));
            }
            let all = prefix.broadcast();
            prop_assert_eq!(all.is_some(), a.is_ipv4() && length < 31);
            for (index, (reached, bit)) in all.into_iter().flat_map(bits).zip(bits(a)).enumerate() {
                prop_assert_eq!(reached, bit || index >= usize::from(length));
            }
            let text = String::from(prefix);
            prop_assert_eq!(Prefix::try_from(text), Ok(prefix));
        }
    }

    #[test]
    fn who_types_no_prefix_is_shown_one() {
        assert!(InvalidPrefix.to_string().contains("10.77.0.1/24"));
    }
}
