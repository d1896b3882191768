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

/// 2⁶⁴ divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

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
        // Not zero, whatever the secret is.
        let multiplier = (MULTIPLIER ^ self.secret) | 1;
        let product = u128::from(self.state) * u128::from(multiplier);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [u64; 5] = [0, 1, u64::MAX, MULTIPLIER, MULTIPLIER ^ 1];

    /// Secrets that the lot is unlikely to yield: keys may then be spread worse, but do not all collide.
    fn odd_secrets() -> impl Iterator<Item = Secret> {
        WORDS.into_iter().flat_map(|first| WORDS.map(|second| Secret([first, second])))
    }

    /// Numbers drawn by lot, the same in every run (SplitMix64).
    struct Lot(u64);

    impl Lot {
        fn draw(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(MULTIPLIER);
            let mut word = self.0;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        }

        fn secret(&mut self) -> Secret {
            Secret([self.draw(), self.draw()])
        }
    }

    fn v4_key(remote: u32, remote_port: u16) -> Key4 {
        v4(6 << 32 | 80 << 16 | u64::from(remote_port), 0x0a4d_0001, remote)
    }

    fn v6_key(remote: u128, remote_port: u16) -> Key6 {
        let rest = 6 << 32 | 80 << 16 | u64::from(remote_port);
        Key6 { local: 0xfd << 120 | 1, remote, rest }
    }

    /// Most of `hashes` that have the same place among 256, by the bits from `shift` on.
    fn fullest(hashes: &[u64], shift: u32) -> usize {
        let mut places = [0; 256];
        for hash in hashes {
            places[(hash >> shift) as usize & 255] += 1;
        }
        places.into_iter().max().unwrap()
    }

    /// Neighbours in one field each, as a remote host can choose them: 256 keys in a row.
    fn rows(secret: Secret) -> [Vec<u64>; 5] {
        let row = |key: &dyn Fn(u16) -> u64| (0..256).map(key).collect::<Vec<_>>();
        [
            row(&|i| secret.hash_one(v4_key(0xc000_0201, 1024 + i))),
            row(&|i| secret.hash_one(v4_key(0xc000_0200 + u32::from(i), 4000))),
            row(&|i| secret.hash_one(v6_key(0xfd << 120 | 2, 1024 + i))),
            row(&|i| secret.hash_one(v6_key(0xfd << 120 | u128::from(i), 4000))),
            row(&|i| secret.hash_one(v6_key(u128::from(i) << 64 | 2, 4000))),
        ]
    }

    #[test]
    fn keys_in_a_row_spread_over_the_table_whatever_the_secret_is() {
        let mut lot = Lot(1);
        let drawn = (0..64).map(|_| (lot.secret(), 12));
        for (secret, bound) in odd_secrets().map(|secret| (secret, 64)).chain(drawn) {
            for (kind, hashes) in rows(secret).iter().enumerate() {
                for shift in [0, 8, 56] {
                    let most = fullest(hashes, shift);
                    assert!(most <= bound, "{most} of 256, kind {kind}, bits {shift}, {secret:x?}");
                }
            }
        }
    }

    #[test]
    fn keys_that_collide_under_one_secret_are_spread_by_another() {
        let mut lot = Lot(2);
        let (known, secret) = (lot.secret(), lot.secret());
        let mut chosen = [Vec::new(), Vec::new()];
        for i in 0..1 << 17 {
            let (remote, port) = (lot.draw() as u32, i as u16);
            let (short, long) = (v4_key(remote, port), v6_key(remote.into(), port));
            if known.hash_one(short) & 255 == 0 {
                chosen[0].push(secret.hash_one(short));
            }
            if known.hash_one(long) & 255 == 0 {
                chosen[1].push(secret.hash_one(long));
            }
        }
        for hashes in &chosen {
            let hashes = &hashes[..256];
            let (low, high) = (fullest(hashes, 0), fullest(hashes, 56));
            assert!(low <= 10 && high <= 10, "{low} and {high} of 256 in one place still");
        }
    }

    /// Counts, for each bit of the hash, how often it changes when a bit of the key, or of the secret, does.
    #[test]
    fn every_bit_of_key_and_secret_changes_every_bit_of_the_hash_half_the_time() {
        const ROUNDS: u32 = 512;
        let mut lot = Lot(3);
        let mut least_and_most = (ROUNDS, 0);
        for bit in 0..104 + 128 {
            let mut changed = [0_u32; 64];
            for _ in 0..ROUNDS {
                let secret = lot.secret();
                let key = u128::from(lot.draw()) << 64 | u128::from(lot.draw());
                let (mut other_key, mut other) = (key, secret);
                match bit {
                    0..104 => other_key ^= 1 << bit,
                    _ => other.0[(bit - 104) / 64] ^= 1 << ((bit - 104) % 64),
                }
                let difference = secret.hash_one(key) ^ other.hash_one(other_key);
                for (place, count) in changed.iter_mut().enumerate() {
                    *count += (difference >> place & 1) as u32;
                }
            }
            for count in changed {
                least_and_most.0 = least_and_most.0.min(count);
                least_and_most.1 = least_and_most.1.max(count);
            }
        }
        let (least, most) = least_and_most;
        assert!(least > ROUNDS * 3 / 8 && most < ROUNDS * 5 / 8, "{least} to {most} of {ROUNDS}");
    }

    #[test]
    fn bytes_are_hashed_as_the_words_that_they_are() {
        let secret = Lot(4).secret();
        let of = |bytes: &[u8]| {
            let mut hasher = secret.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        let mut words = secret.build_hasher();
        words.write_u64(0x0807_0605_0403_0201);
        words.write_u64(0x0a09);
        assert_eq!(of(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), words.finish());
        assert_ne!(of(&[1, 2, 3]), of(&[1, 2, 4]));
    }
}
