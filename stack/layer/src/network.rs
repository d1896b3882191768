//! A network layer: packets go from host to host (RFC 1122 §3).

use std::net::IpAddr;

use base_flow::Fib;
use base_wire::Protocol;

use crate::control::Quote;
use crate::packet::Incoming;
use crate::{Layer, Peer, SendError};

/// A layer over which transports stand: IPv4, and whatever else has addresses.
pub trait Network: Layer {
    /// Why a flow cannot have this layer.
    type Error: std::error::Error;

    /// The protocol that its packets carry.
    fn protocol(&self) -> Protocol;

    /// Our address.
    fn source(&self) -> IpAddr;

    /// Where packets go; `None` if the flow is not connected.
    fn remote(&self) -> Option<IpAddr>;

    /// Address a packet to `peer` goes to.
    ///
    /// # Errors
    ///
    /// [`SendError::NoDestination`] or [`SendError::OtherDestination`].
    fn destination(&self, peer: &Peer) -> Result<IpAddr, SendError>;

    /// Takes other ends over: what a socket's `connect` does.
    ///
    /// # Errors
    ///
    /// If the ends are of another family; the old ones stay then.
    fn set_endpoints(&mut self, fib: &Fib) -> Result<(), Self::Error>;

    /// Sets how many routers a packet may pass (RFC 9293 MUST-49).
    fn set_ttl(&mut self, ttl: u8);

    /// Sets the service class of what is sent (RFC 2474, RFC 9293 MUST-48): 0 to 63.
    fn set_service(&mut self, class: u8);

    /// Most payload of a packet that the link segments (`gso_max_size` without headers), in bytes; 0 if it
    /// segments none.
    fn gso_payload_max(&self) -> u16;

    /// Most frames that the link segments a packet into, however short they are (`gso_max_segs`); 0 if it segments
    /// none.
    fn gso_max_segs(&self) -> u16;

    /// Reads a control message ([`Incoming::is_control`]); `None` if it is damaged, reports no error, or quotes no
    /// packet of this protocol that this flow can have sent.
    fn control(&self, packet: &Incoming<Self::Area>) -> Option<Quote>;
}
