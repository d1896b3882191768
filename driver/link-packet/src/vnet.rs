//! What is to be done to a frame: the header in front of it, in both directions (`struct virtio_net_hdr`, in the
//! machine's own byte order).

use base_wire::{EtherType, Ethernet, Header as _, Protocol};
use driver_filter::Checked;
use driver_link::{Arrival, Checksum, Merged};
use rbuf_channel::Data;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = size_of::<VirtioNetHdr>();

/// The header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct VirtioNetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

/// The checksum covers the pseudo header only; or it is right, or was not looked at.
const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;

const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
/// Beside the kind: congestion is told in the header, once.
const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

/// Where the checksum is in a TCP header.
const TCP_CSUM_OFFSET: u16 = 16;

impl VirtioNetHdr {
    /// What the kernel is to do to a frame of ours.
    pub(crate) fn of<D: Data>(frame: &Checked<'_, D>) -> Self {
        let Some(cut) = frame.segmentation() else { return Self::default() };
        Self {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type: VIRTIO_NET_HDR_GSO_TCPV4,
            hdr_len: frame.header().len() as u16,
            gso_size: cut.segment_bytes,
            csum_start: cut.transport_at,
            csum_offset: TCP_CSUM_OFFSET,
        }
    }

    /// What says of a frame what was said of it when it arrived.
    pub(crate) fn again(arrival: &Arrival<'_>) -> Self {
        let (flags, csum_start, csum_offset) = match arrival.checksum {
            Checksum::Partial { start, field } => (VIRTIO_NET_HDR_F_NEEDS_CSUM, start, field),
            Checksum::Verified => (VIRTIO_NET_HDR_F_DATA_VALID, 0, 0),
            Checksum::Unverified => (0, 0, 0),
        };
        let v6 = Ethernet::split(arrival.frame)
            .is_some_and(|(ethernet, _)| ethernet.ether_type == EtherType::IPV6);
        let gso_type = match arrival.merged.map(|merged| merged.protocol) {
            None => 0,
            Some(Protocol::UDP) => VIRTIO_NET_HDR_GSO_UDP_L4,
            Some(_) if v6 => VIRTIO_NET_HDR_GSO_TCPV6,
            Some(_) => VIRTIO_NET_HDR_GSO_TCPV4,
        };
        Self {
            flags,
            gso_type,
            hdr_len: 0,
            gso_size: arrival.merged.map_or(0, |merged| merged.piece_bytes),
            csum_start,
            csum_offset,
        }
    }

    /// As it stands in front of a frame.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
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
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// What is known of the frame's checksum.
    pub(crate) const fn checksum(&self) -> Checksum {
        if self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
            Checksum::Partial { start: self.csum_start, field: self.csum_offset }
        } else if self.flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 {
            Checksum::Verified
        } else {
            Checksum::Unverified
        }
    }

    /// What the frame was merged from.
    pub(crate) const fn merged(&self) -> Option<Merged> {
        let protocol = match self.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            0 => return None,
            VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_TCPV6 => Protocol::TCP,
            VIRTIO_NET_HDR_GSO_UDP_L4 => Protocol::UDP,
            // Nothing that can be cut.
            _ => Protocol(u8::MAX),
        };
        Some(Merged { protocol, piece_bytes: self.gso_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: u8, gso_type: u8, words: [u16; 4]) -> VirtioNetHdr {
        let mut bytes = vec![flags, gso_type];
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        VirtioNetHdr::read(&bytes)
    }

    #[test]
    fn what_the_kernel_says_of_a_frame_is_read_field_by_field() {
        let plain = read(0, 0, [0; 4]);
        assert_eq!((plain.checksum(), plain.merged()), (Checksum::Unverified, None));
        let open = read(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, [0, 0, 34, 6]);
        assert_eq!(open.checksum(), Checksum::Partial { start: 34, field: 6 });
        assert_eq!(read(VIRTIO_NET_HDR_F_DATA_VALID, 0, [0; 4]).checksum(), Checksum::Verified);
        for (gso_type, protocol) in [
            (1, Protocol::TCP),
            (4, Protocol::TCP),
            (0x81, Protocol::TCP),
            (5, Protocol::UDP),
            (3, Protocol(u8::MAX)),
        ] {
            let merged = read(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso_type, [66, 1448, 34, 16]).merged();
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
                let header = VirtioNetHdr::read(&VirtioNetHdr::again(&arrival).to_bytes());
                assert_eq!((header.checksum(), header.merged()), (checksum, merged));
            }
        }
    }

    #[test]
    fn a_header_that_is_not_all_there_says_nothing() {
        assert_eq!(VirtioNetHdr::read(&[]), VirtioNetHdr::default());
        assert_eq!(HEADER_BYTES, 10);
    }
}
