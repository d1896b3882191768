//! What is to be done to a frame: the header in front of it, in both directions (`struct virtio_net_hdr`, in the
//! machine's own byte order).

use base_wire::{EtherType, Ethernet, Header as _, Protocol};
use driver_filter::Checked;
use driver_link::{Arrival, Checksum, Merged};
use rbuf_channel::Data;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = size_of::<Header>();

/// The header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Header {
    flags: u8,
    gso_type: u8,
    header_bytes: u16,
    segment_bytes: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

/// The checksum covers the pseudo header only; or it is right, or was not looked at.
const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;

const CUT_TCP4: u8 = 1;
const CUT_TCP6: u8 = 4;
const CUT_UDP: u8 = 5;
/// Beside the kind: congestion is told in the header, once.
const WITH_ECN: u8 = 0x80;

/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: u16 = 16;

impl Header {
    /// What the kernel is to do to a frame of ours.
    pub(crate) fn of<D: Data>(frame: &Checked<'_, D>) -> Self {
        let Some(cut) = frame.segmentation() else { return Self::default() };
        Self {
            flags: NEEDS_CHECKSUM,
            gso_type: CUT_TCP4,
            header_bytes: frame.header().len() as u16,
            segment_bytes: cut.segment_bytes,
            checksum_start: cut.transport_at,
            checksum_offset: TCP_CHECKSUM,
        }
    }

    /// What says of a frame what was said of it when it arrived.
    pub(crate) fn again(arrival: &Arrival<'_>) -> Self {
        let (flags, checksum_start, checksum_offset) = match arrival.checksum {
            Checksum::Partial { start, field } => (NEEDS_CHECKSUM, start, field),
            Checksum::Verified => (CHECKSUM_VALID, 0, 0),
            Checksum::Unverified => (0, 0, 0),
        };
        let v6 = Ethernet::split(arrival.frame)
            .is_some_and(|(ethernet, _)| ethernet.ether_type == EtherType::IPV6);
        let gso_type = match arrival.merged.map(|merged| merged.protocol) {
            None => 0,
            Some(Protocol::UDP) => CUT_UDP,
            Some(_) if v6 => CUT_TCP6,
            Some(_) => CUT_TCP4,
        };
        Self {
            flags,
            gso_type,
            header_bytes: 0,
            segment_bytes: arrival.merged.map_or(0, |merged| merged.piece_bytes),
            checksum_start,
            checksum_offset,
        }
    }

    /// As it stands in front of a frame.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words =
            [self.header_bytes, self.segment_bytes, self.checksum_start, self.checksum_offset];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Reads what the kernel wrote in front of a frame.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| match bytes.get(at..at + 2) {
            Some(&[a, b]) => u16::from_ne_bytes([a, b]),
            _ => 0,
        };
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        Self {
            flags: byte(0),
            gso_type: byte(1),
            header_bytes: word(2),
            segment_bytes: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// What is known of the frame's checksum.
    pub(crate) const fn checksum(&self) -> Checksum {
        if self.flags & NEEDS_CHECKSUM != 0 {
            Checksum::Partial { start: self.checksum_start, field: self.checksum_offset }
        } else if self.flags & CHECKSUM_VALID != 0 {
            Checksum::Verified
        } else {
            Checksum::Unverified
        }
    }

    /// What the frame was merged from.
    pub(crate) const fn merged(&self) -> Option<Merged> {
        let protocol = match self.gso_type & !WITH_ECN {
            0 => return None,
            CUT_TCP4 | CUT_TCP6 => Protocol::TCP,
            CUT_UDP => Protocol::UDP,
            // Nothing that can be cut.
            _ => Protocol(u8::MAX),
        };
        Some(Merged { protocol, piece_bytes: self.segment_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: u8, gso_type: u8, words: [u16; 4]) -> Header {
        let mut bytes = vec![flags, gso_type];
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        Header::read(&bytes)
    }

    #[test]
    fn what_the_kernel_says_of_a_frame_is_read_field_by_field() {
        let plain = read(0, 0, [0; 4]);
        assert_eq!((plain.checksum(), plain.merged()), (Checksum::Unverified, None));
        let open = read(NEEDS_CHECKSUM, 0, [0, 0, 34, 6]);
        assert_eq!(open.checksum(), Checksum::Partial { start: 34, field: 6 });
        assert_eq!(read(CHECKSUM_VALID, 0, [0; 4]).checksum(), Checksum::Verified);
        for (gso_type, protocol) in [
            (1, Protocol::TCP),
            (4, Protocol::TCP),
            (0x81, Protocol::TCP),
            (5, Protocol::UDP),
            (3, Protocol(u8::MAX)),
        ] {
            let merged = read(NEEDS_CHECKSUM, gso_type, [66, 1448, 34, 16]).merged();
            assert_eq!(merged, Some(Merged { protocol, piece_bytes: 1448 }), "{gso_type}");
        }
    }

    #[test]
    fn what_was_said_of_a_frame_can_be_said_again() {
        let merged = |protocol| Some(Merged { protocol, piece_bytes: 1448 });
        for checksum in
            [Checksum::Verified, Checksum::Unverified, Checksum::Partial { start: 34, field: 16 }]
        {
            for merged in [None, merged(Protocol::TCP), merged(Protocol::UDP)] {
                let arrival = Arrival { frame: &[0; 60], vlan: None, checksum, merged, missing: 0 };
                let header = Header::read(&Header::again(&arrival).to_bytes());
                assert_eq!((header.checksum(), header.merged()), (checksum, merged));
            }
        }
    }

    #[test]
    fn a_header_that_is_not_all_there_says_nothing() {
        assert_eq!(Header::read(&[]), Header::default());
        assert_eq!(HEADER_BYTES, 10);
    }
}
