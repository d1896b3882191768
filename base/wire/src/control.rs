//! What control messages say of packets, and how much that counts (RFC 792, RFC 1122 §3.2.2, RFC 1812 §5.2.7).
//!
//! The one table of types and codes: every transport, and every command, reads messages by it, as Linux does.

use core::fmt;

use crate::IcmpV4Type;

/// Fate of a packet that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlError {
    /// A router knows no way to the network, or none for this service.
    NetworkUnreachable,
    /// A router says that there is no such network.
    NetworkUnknown,
    /// A router lets nothing pass to the network.
    NetworkProhibited,
    /// The last router does not reach the host.
    HostUnreachable,
    /// A router says that there is no such host.
    HostUnknown,
    /// A router says that the host is cut off.
    HostIsolated,
    /// A router or the host does not let such packets pass.
    Prohibited,
    /// The host does not speak the protocol.
    ProtocolUnreachable,
    /// Nobody listens at the port.
    PortUnreachable,
    /// It was too large for a link on the way, which carries packets of `mtu` bytes; 0 if the router does
    /// not say (RFC 1191).
    TooLarge {
        /// Largest packet, in bytes.
        mtu: u16,
    },
    /// A router cannot follow its source route.
    SourceRouteFailed,
    /// It passed too many routers.
    TimeExceeded,
    /// A field of its header is wrong.
    ParameterProblem,
}

impl ControlError {
    /// Meaning of a message of this type and code, with the MTU it names; `None` if it reports no error, or one
    /// that nobody has defined.
    pub const fn from_icmp_v4(kind: u8, code: u8, mtu: u16) -> Option<Self> {
        Some(match (kind, code) {
            (IcmpV4Type::UNREACHABLE, 0 | 11) => Self::NetworkUnreachable,
            (IcmpV4Type::UNREACHABLE, 1 | 12) => Self::HostUnreachable,
            (IcmpV4Type::UNREACHABLE, IcmpV4Type::PROTOCOL_UNREACHABLE) => {
                Self::ProtocolUnreachable
            }
            (IcmpV4Type::UNREACHABLE, IcmpV4Type::PORT_UNREACHABLE) => Self::PortUnreachable,
            (IcmpV4Type::UNREACHABLE, IcmpV4Type::FRAGMENTATION_NEEDED) => Self::TooLarge { mtu },
            (IcmpV4Type::UNREACHABLE, 5) => Self::SourceRouteFailed,
            (IcmpV4Type::UNREACHABLE, 6) => Self::NetworkUnknown,
            (IcmpV4Type::UNREACHABLE, 7) => Self::HostUnknown,
            (IcmpV4Type::UNREACHABLE, 8) => Self::HostIsolated,
            (IcmpV4Type::UNREACHABLE, 9) => Self::NetworkProhibited,
            // To the host, by administrators, and by precedence.
            (IcmpV4Type::UNREACHABLE, 10 | 13..=15) => Self::Prohibited,
            (IcmpV4Type::TIME_EXCEEDED, _) => Self::TimeExceeded,
            (IcmpV4Type::PARAMETER_PROBLEM, _) => Self::ParameterProblem,
            _ => return None,
        })
    }

    /// Tells a lasting error: one that a repeated packet meets again. What is not may pass by itself, as routes do, and
    /// is no error of a socket that goes on (RFC 1122 §3.2.2.1, §4.2.3.9).
    pub const fn is_hard(self) -> bool {
        match self {
            Self::NetworkUnreachable
            | Self::HostUnreachable
            | Self::SourceRouteFailed
            | Self::TimeExceeded => false,
            Self::NetworkUnknown
            | Self::NetworkProhibited
            | Self::HostUnknown
            | Self::HostIsolated
            | Self::Prohibited
            | Self::ProtocolUnreachable
            | Self::PortUnreachable
            | Self::TooLarge { .. }
            | Self::ParameterProblem => true,
        }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkUnreachable => "a router knows no way to the network",
            Self::NetworkUnknown => "a router knows of no such network",
            Self::NetworkProhibited => "nothing is let through to the network",
            Self::HostUnreachable => "a router does not reach the host",
            Self::HostUnknown => "a router knows of no such host",
            Self::HostIsolated => "a router says that the host is cut off",
            Self::Prohibited => "such packets are not let through",
            Self::ProtocolUnreachable => "the host does not speak the protocol",
            Self::PortUnreachable => "nobody listens there",
            Self::TooLarge { .. } => "the packet is too large for the path",
            Self::SourceRouteFailed => "a router cannot follow the source route",
            Self::TimeExceeded => "the packet passed too many routers",
            Self::ParameterProblem => "a router does not understand the packet's header",
        })
    }
}

impl core::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hard_is_what_linux_calls_fatal_and_undefined_codes_say_nothing() {
        let hard = |code| ControlError::from_icmp_v4(3, code, 0).map(ControlError::is_hard);
        let fatal: Vec<u8> = (0..=u8::MAX).filter(|&code| hard(code) == Some(true)).collect();
        // 4 is for datagrams only: a stream sends smaller segments.
        assert_eq!(fatal, [2, 3, 4, 6, 7, 8, 9, 10, 13, 14, 15]);
        let passing: Vec<u8> = (0..=u8::MAX).filter(|&code| hard(code) == Some(false)).collect();
        assert_eq!(passing, [0, 1, 5, 11, 12]);
        let of = |kind| ControlError::from_icmp_v4(kind, 0, 0).map(ControlError::is_hard);
        assert_eq!((of(11), of(12)), (Some(false), Some(true)));
        for kind in [0, 4, 5, 8, 13] {
            assert_eq!(of(kind), None, "type {kind} reports no error");
        }
    }
}
