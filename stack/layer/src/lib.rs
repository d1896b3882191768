//! Protocol layers that look like channels (paper §4.2).
//!
//! A layer presents the two faces of a channel, [`Layer::send`] and [`Layer::receive`], and is built
//! over another thing that does: at the bottom a [`Device`], which is the flow's real channels. So
//! layers compose freely, by types (`Udp<Ip4<Ether<Device<…>>>>`) or behind `Box<dyn Layer>`, and no
//! protection domain is crossed between them: they are procedure calls.
//!
//! Transports ([`Udp`], [`Tcp`]) stand over any [`Network`], which today is [`Ip4`].
//!
//! * **Sending.** A packet starts as payload, written once, straight into the flow's data area, with
//!   room in front for the headers of all layers: [`Layer::head_room`], summed when the composition
//!   is built. Each layer puts its header in front of what it is given.
//! * **Receiving.** The head of a frame is copied to private memory, and each layer strips its header
//!   from the front. The payload stays where the driver put it until it is read, and a checksum that
//!   covers it is verified as it is read ([`Incoming::read`]).
//!
//! Nothing here is trusted by anyone: the driver's template decides what leaves. The checks on
//! receiving protect the application from the network.

#![forbid(unsafe_code)]

mod control;
mod device;
mod ether;
mod ip4;
mod network;
mod packet;
mod tcp;
mod udp;

pub use base_wire::{ControlError, Protocol};
pub use control::{Control, Quote};
pub use device::Device;
pub use ether::Ether;
pub use ip4::{Ip4, NotIpv4};
pub use network::Network;
pub use packet::{HEAD_BYTES_MAX, Incoming, Outgoing};
pub use tcp::{Arrived, Received, Tcp};
pub use udp::{Peer, Udp};

pub use rbuf_channel::{Buffer, Fault};

use base_flow::Fib;
use rbuf_channel::{Data, Words};

/// A layer, or the device at the bottom.
pub trait Layer {
    /// The data area packets are in.
    type Area: Data;
    /// The counts of the flow's channels.
    type Words: Words;

    /// The flow's channels, at the bottom.
    fn device(&mut self) -> &mut Device<Self::Words, Self::Area>;

    /// Header bytes of this layer and all below it.
    fn head_room(&self) -> usize;

    /// Most payload bytes of a packet.
    fn payload_bytes_max(&self) -> usize;

    /// An empty packet with head room for all layers; `None` if all buffers are on their way.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    fn packet(&mut self) -> Result<Option<Outgoing<Self::Area>>, Fault>;

    /// Gives an unsent packet's buffer back.
    ///
    /// # Errors
    ///
    /// Never for a packet of this stack.
    fn discard(&mut self, packet: Outgoing<Self::Area>) -> Result<(), Fault>;

    /// Puts this layer's header in front and passes the packet down. A packet that is not sent is
    /// discarded.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    fn send(&mut self, packet: Outgoing<Self::Area>) -> Result<(), SendError>;

    /// The next packet that is for this layer, its header stripped; `None` if there is none yet.
    ///
    /// Packets that are not for this layer, or damaged, are given back and counted.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    fn receive(&mut self) -> Result<Option<Incoming<Self::Area>>, Fault>;

    /// Gives a received packet's buffer back, to receive again.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    fn give_back(&mut self, packet: Incoming<Self::Area>) -> Result<(), Fault> {
        self.release(packet.buffer)
    }

    /// Gives the buffer of a received packet back, to receive again.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    fn release(&mut self, buffer: Buffer) -> Result<(), Fault>;

    /// Takes over how packets are to be formatted from now on (a call-back of the flow manager).
    fn reorganise(&mut self, fib: &Fib);

    /// Packets dropped by this layer and all below it because they were damaged or not for us.
    fn damaged(&self) -> u64;
}

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More than a packet can carry.
    #[error("{bytes} bytes do not fit a packet, which carries {max}")]
    TooLong {
        /// Bytes to send.
        bytes: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The flow is not connected and the packet names no destination.
    #[error("no destination: connect the flow, or send to an address")]
    NoDestination,
    /// The flow is connected, and not to there.
    #[error("the flow is connected to another address")]
    OtherDestination,
    /// The driver does not follow the rules of the channel.
    #[error("driver: {0}")]
    Fault(#[from] Fault),
}
