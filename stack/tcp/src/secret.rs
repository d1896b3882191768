//! Numbers that an outsider cannot guess (RFC 6528, RFC 7323 §7.1).

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use crate::connection::Identity;
use crate::fast_open::Cookie;

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

    /// The key of this host's Fast Open cookies.
    pub(crate) fn fast_key(&self) -> FastKey {
        let half = |purpose| self.hash(purpose, &()).to_le_bytes();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&half(5));
        key[8..].copy_from_slice(&half(6));
        FastKey(key)
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

/// A key of Fast Open cookies (RFC 7413 §4.1.2). Hosts that share one know each other's; the function is the one
/// of Linux.
#[derive(Clone)]
pub(crate) struct FastKey([u8; 16]);

impl core::fmt::Debug for FastKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FastKey")
    }
}

impl FastKey {
    pub(crate) const fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The cookie of `client`, when it calls this host by the name of `server`.
    pub(crate) fn cookie(&self, client: IpAddr, server: IpAddr) -> Cookie {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for address in [client, server] {
            match address {
                IpAddr::V4(address) => hasher.write(&address.octets()),
                IpAddr::V6(address) => hasher.write(&address.octets()),
            }
        }
        Cookie::new(&hasher.finish().to_le_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([10, 0, 0, 1], port)), SocketAddr::from(([10, 0, 0, 2], 80)))
    }

    #[test]
    fn the_cookie_of_a_key_is_the_one_of_linux() {
        // From google/packetdrill: `sysctl net.ipv4.tcp_fastopen_key=a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4`.
        let mut key = [0xa1; 16];
        key[4..8].fill(0xb2);
        key[8..12].fill(0xc3);
        key[12..].fill(0xd4);
        let cookie = FastKey::new(key).cookie([192, 0, 2, 1].into(), [192, 168, 0, 1].into());
        assert_eq!(cookie.as_slice(), [0x30, 0x21, 0xb9, 0xd8, 0x89, 0x01, 0x7e, 0xeb]);
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
