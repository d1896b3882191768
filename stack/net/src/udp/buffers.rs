//! Datagrams where they are sent from, and where they arrived.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use rbuf_shm::ShmData;
use stack_layer::{Incoming, Layer as _, Outgoing, Peer, SendError};

use super::Inner;
use super::door::Door;
use crate::Error;

/// A datagram under construction, in the memory it will be sent from.
#[derive(Debug)]
pub struct SendBuffer<'a> {
    door: Arc<Door>,
    packet: Option<Outgoing<ShmData>>,
    to: SocketAddr,
    /// Whether it leaves the way that the flow has by itself.
    is_direct: bool,
    socket: &'a Inner,
}

impl<'a> SendBuffer<'a> {
    pub(super) fn new(
        socket: &'a Inner,
        door: Arc<Door>,
        mut packet: Outgoing<ShmData>,
        to: SocketAddr,
        peer: Peer,
    ) -> Self {
        packet.set_destination(peer);
        Self { door, packet: Some(packet), to, is_direct: peer == Peer::Connected, socket }
    }

    /// Payload bytes that still fit.
    pub fn room(&self) -> usize {
        let max = self.door.payload_bytes_max().min(self.socket.path_payload(self.to));
        max.saturating_sub(self.len())
    }

    fn len(&self) -> usize {
        self.packet.as_ref().map_or(0, Outgoing::len)
    }

    /// Appends payload; `false`, and nothing appended, if it does not fit.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        bytes.len() <= self.room() && self.packet.as_mut().is_some_and(|packet| packet.write(bytes))
    }

    /// Sends the datagram.
    ///
    /// # Errors
    ///
    /// As [`Udp::send`](super::Udp::send).
    pub fn send(self) -> io::Result<()> {
        let left = self.leave()?;
        if left { Ok(()) } else { Err(Error::WouldBlock.into()) }
    }

    /// Sends the datagram; `false` if it was not, for the flow was turned since the buffer was asked for.
    pub(super) fn leave(mut self) -> Result<bool, Error> {
        let mut desk = self.door.desk();
        // The path may be known to carry less than when this was written.
        self.socket.take_controls(&mut desk)?;
        let (bytes, max) = (self.len(), self.socket.path_payload(self.to));
        if bytes > max {
            return Err(SendError::TooLong { bytes, max }.into());
        }
        if !desk.admits(self.to) || (self.is_direct && !desk.is_direct(self.to)) {
            return Ok(false);
        }
        let Some(packet) = self.packet.take() else { return Ok(true) };
        desk.stack.send(packet)?;
        desk.kick(&self.door.shared);
        Ok(true)
    }

    /// Hears of what the flow manager has changed.
    pub(super) fn hear(&self) -> Result<(), Error> {
        self.door.desk().hear(&self.door.shared)
    }
}

impl Drop for SendBuffer<'_> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            let _ = self.door.desk().stack.discard(packet);
        }
    }
}

impl io::Write for SendBuffer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(self.room())];
        if Self::write(self, bytes) { Ok(bytes.len()) } else { Ok(0) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A received datagram, where the driver put it.
#[derive(Debug)]
pub struct Datagram<'a> {
    door: Arc<Door>,
    packet: Option<Incoming<ShmData>>,
    socket: PhantomData<&'a super::Udp>,
}

impl Datagram<'_> {
    pub(super) fn new(door: Arc<Door>, packet: Incoming<ShmData>) -> Self {
        Self { door, packet: Some(packet), socket: PhantomData }
    }

    /// Payload bytes.
    pub fn len(&self) -> usize {
        self.packet.as_ref().map_or(0, Incoming::len)
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who sent it.
    pub fn from(&self) -> SocketAddr {
        let from = self.packet.as_ref().and_then(Incoming::from);
        from.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Copies the payload to the front of `out`, as much as fits, and returns how much that was.
    /// `None` if the datagram is damaged.
    pub fn read(&mut self, out: &mut [u8]) -> Option<usize> {
        self.packet.as_ref()?.read(out)
    }
}

impl Drop for Datagram<'_> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            // A fault shows at the next operation.
            let _ = self.door.desk().stack.give_back(packet);
        }
    }
}
