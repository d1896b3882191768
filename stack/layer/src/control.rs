//! Control messages about packets that a flow sent (RFC 792): word of routers, and of the peer's host.

use std::net::{IpAddr, SocketAddr};

use base_wire::ControlError;

/// A control message about a packet that this flow can have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// To whom the packet was.
    pub to: SocketAddr,
    /// Who says so.
    pub from: IpAddr,
    /// What became of it.
    pub error: ControlError,
}

/// A control message, and what it quotes of a packet of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// What became of the packet.
    pub error: ControlError,
    /// The host it was for.
    pub to: IpAddr,
    /// Its length in bytes, and how many of them its transport header and payload were.
    pub packet_bytes: u16,
    /// See [`Self::packet_bytes`].
    pub payload_bytes: u16,
    /// The first bytes of its transport header (RFC 792).
    pub transport: [u8; 8],
}

impl Quote {
    /// To whom the packet was, if it left from port `local`, and for `remote` if there is such a port.
    pub(crate) fn is_between(&self, local: u16, remote: Option<u16>) -> Option<SocketAddr> {
        let [a, b, c, d, ..] = self.transport;
        let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let ours = source == local && remote.is_none_or(|port| port == destination);
        ours.then(|| SocketAddr::new(self.to, destination))
    }
}
