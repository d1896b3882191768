//! Internet control messages: the common head of ICMP (RFC 792) and `ICMPv6` (RFC 4443).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the common head of a control message.
pub const ICMP_BYTES: usize = 8;

/// The head of a control message: type, code, checksum and four bytes that depend on the type.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Icmp {
    /// Kind of message.
    pub kind: u8,
    /// Refinement of the kind.
    pub code: u8,
    /// Over the whole message (and a pseudo header on IPv6).
    pub checksum: U16,
    /// Echo: identifier, which Plumb treats as the port of an ICMP flow.
    pub id: U16,
    /// Echo: sequence number. Fragmentation needed: next-hop MTU.
    pub sequence: U16,
}

/// Types of IPv4 control messages that Plumb knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpV4Type;

impl IcmpV4Type {
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 0;
    /// The destination cannot be reached; the code says why.
    pub const UNREACHABLE: u8 = 3;
    /// Code of [`Self::UNREACHABLE`]: the host does not know the protocol.
    pub const PROTOCOL_UNREACHABLE: u8 = 2;
    /// Code of [`Self::UNREACHABLE`]: nobody listens at the port.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Code of [`Self::UNREACHABLE`]: the packet is too large and must not be fragmented.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Please answer with the same payload.
    pub const ECHO_REQUEST: u8 = 8;
    /// The packet passed too many routers, or reassembly took too long.
    pub const TIME_EXCEEDED: u8 = 11;
    /// A header field is wrong.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Types of IPv6 control messages that Plumb knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpV6Type;

impl IcmpV6Type {
    /// The destination cannot be reached.
    pub const UNREACHABLE: u8 = 1;
    /// Highest type that reports an error (RFC 4443 §2.1).
    pub const ERROR_MAX: u8 = 127;
    /// Please answer with the same payload.
    pub const ECHO_REQUEST: u8 = 128;
    /// Answer to an echo request.
    pub const ECHO_REPLY: u8 = 129;
    /// Neighbour discovery (RFC 4861 §4): from router solicitations to redirects.
    pub const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
}
