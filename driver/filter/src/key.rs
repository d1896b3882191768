//! Keys of the demultiplexer's table, and how they are hashed.
//!
//! IPv4 flows have keys of one 128-bit word, IPv6 flows of three. Open ends are zero, which no
//! packet has: port 0 and the unspecified address are not valid on the wire as a packet's own end.

use core::hash::{BuildHasher, Hasher};
use core::net::IpAddr;

use base_flow::{Endpoints, Sap};
use base_wire::Protocol;

/// A flow's key if both ends are IPv4: `protocol:8 | local port:16 | remote port:16 | local:32 |
/// remote:32`.
pub(crate) type Key4 = u128;

/// A flow's key if its ends are IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key6 {
    local: u128,
    remote: u128,
    /// `protocol:8 | local port:16 | remote port:16`.
    rest: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    V4(Key4),
    V6(Key6),
}

impl Key {
    /// `None` if the ends are of different families.
    pub(crate) fn new(protocol: Protocol, local: Sap, remote: Option<Sap>) -> Option<Self> {
        let rest = u64::from(protocol.0) << 32
            | u64::from(local.port) << 16
            | u64::from(remote.map_or(0, |sap| sap.port));
        match (local.address, remote.map(|sap| sap.address)) {
            (IpAddr::V4(l), None) => Some(Self::V4(v4(rest, l.to_bits(), 0))),
            (IpAddr::V4(l), Some(IpAddr::V4(r))) => {
                Some(Self::V4(v4(rest, l.to_bits(), r.to_bits())))
            }
            (IpAddr::V6(l), None) => Some(Self::V6(Key6 { local: l.to_bits(), remote: 0, rest })),
            (IpAddr::V6(l), Some(IpAddr::V6(r))) => {
                Some(Self::V6(Key6 { local: l.to_bits(), remote: r.to_bits(), rest }))
            }
            _ => None,
        }
    }

    pub(crate) fn of(endpoints: &Endpoints) -> Option<Self> {
        let protocol = endpoints.transport.protocol(endpoints.local.address);
        Self::new(protocol, endpoints.local, endpoints.remote)
    }
}

const fn v4(rest: u64, local: u32, remote: u32) -> Key4 {
    (rest as u128) << 64 | (local as u128) << 32 | remote as u128
}

/// Hashes keys with two secret words, so that a remote host cannot choose ports that collide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secret(pub(crate) [u64; 2]);

impl BuildHasher for Secret {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold { state: self.0[0], secret: self.0[1] }
    }
}

/// Multiplies and folds, 64 bits at a time.
pub(crate) struct Fold {
    state: u64,
    secret: u64,
}

impl Fold {
    fn mix(&mut self, low: u64, high: u64) {
        let product = u128::from(low ^ self.state) * u128::from(high ^ self.secret);
        self.state = (product as u64) ^ ((product >> 64) as u64) ^ self.state.rotate_left(23);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word, word.rotate_left(32));
    }

    fn write_u128(&mut self, word: u128) {
        self.mix(word as u64, (word >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its bucket from the low bits and its tag from the high ones.
        let product = u128::from(self.state) * u128::from(0x9e37_79b9_7f4a_7c15 ^ self.secret | 1);
        (product as u64) ^ ((product >> 64) as u64)
    }
}
