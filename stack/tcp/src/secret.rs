//! Numbers that an outsider cannot guess (RFC 6528, RFC 7323 §7.1).

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use siphasher::sip::SipHasher24;

use crate::connection::Identity;

/// A key, drawn at random once and kept while connections of this host may be remembered by
/// others.
#[derive(Clone)]
pub struct Secret([u8; 16]);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret")
    }
}

/// A tick of the clock of RFC 9293 §3.4.1 (MUST-8): 4 µs.
const ISN_TICK_NS: u64 = 4_000;

impl Secret {
    /// From random bytes.
    pub const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    pub(crate) fn hash(&self, purpose: u8, what: &impl Hash) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u8(purpose);
        what.hash(&mut hasher);
        hasher.finish()
    }

    /// The numbers of a connection between `local` and `remote` that begins now (MUST-9).
    ///
    /// The sequence number grows with the clock, so that a new connection between the same ends begins
    /// above the old one; the clock's offset is the same for the same ends, so that a peer in TIME-WAIT
    /// sees it go forward (RFC 6191).
    pub fn identity(&self, now_ns: u64, local: SocketAddr, remote: SocketAddr) -> Identity {
        let ends = (local, remote);
        Identity {
            initial_sequence: (self.hash(1, &ends) as u32)
                .wrapping_add((now_ns / ISN_TICK_NS) as u32),
            timestamp_offset: self.hash(2, &ends) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([10, 0, 0, 1], port)), SocketAddr::from(([10, 0, 0, 2], 80)))
    }

    #[test]
    fn numbers_of_the_same_ends_go_forward_and_of_others_tell_nothing() {
        // RFC 9293 MUST-8, MUST-9.
        let secret = Secret::new([7; 16]);
        let (local, remote) = ends(4000);
        let (first, later) =
            (secret.identity(0, local, remote), secret.identity(1_000_000_000, local, remote));
        assert_eq!(later.initial_sequence.wrapping_sub(first.initial_sequence), 250_000);
        assert_eq!(later.timestamp_offset, first.timestamp_offset);
        let (local, remote) = ends(4001);
        let other = secret.identity(0, local, remote);
        assert_ne!(other, first);
        assert_ne!(Secret::new([8; 16]).identity(0, local, remote), other);
    }
}
