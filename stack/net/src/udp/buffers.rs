//! Datagrams where they are sent from, and where they arrived.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use rbuf_shm::ShmData;
use stack_layer::{Incoming, Layer as _, Outgoing, Peer};

use super::door::Door;
use crate::Error;

/// A datagram under construction, in the memory it will be sent from.
#[derive(Debug)]
pub struct SendBuffer<'a> {
    door: Arc<Door>,
    packet: Option<Outgoing<ShmData>>,
    /// Most payload that the path carries.
    path_max: usize,
    socket: PhantomData<&'a super::Udp>,
}

impl SendBuffer<'_> {
    pub(super) fn new(
        door: Arc<Door>,
        mut packet: Outgoing<ShmData>,
        peer: Peer,
        path_max: usize,
    ) -> Self {
        packet.set_destination(peer);
        Self { door, packet: Some(packet), path_max, socket: PhantomData }
    }

    /// Payload bytes that still fit.
    pub fn room(&self) -> usize {
        let written = self.packet.as_ref().map_or(0, Outgoing::len);
        self.door.payload_bytes_max().min(self.path_max).saturating_sub(written)
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
        Ok(self.leave()?)
    }

    pub(super) fn leave(mut self) -> Result<(), Error> {
        let Some(packet) = self.packet.take() else { return Ok(()) };
        let mut desk = self.door.desk();
        desk.stack.send(packet)?;
        desk.kick(&self.door.shared);
        Ok(())
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
