//! Packets on their way through the layers.

use core::net::Ipv4Addr;

use base_wire::{Mac, Protocol, checksum};
use rbuf_channel::{Buffer, Data, Pair};

/// Most header bytes of all layers together: tagged Ethernet, and IP and TCP with all the options they can
/// have.
pub const HEAD_BYTES_MAX: usize = 144;

/// A packet to be sent: payload in the data area, headers in private memory until it leaves.
#[derive(Debug)]
pub struct Outgoing<D> {
    pub(crate) buffer: Buffer,
    area: D,
    /// Offset of the first payload byte in the area.
    at: u32,
    capacity: u32,
    len: u32,
    /// One's-complement sum of the payload, if it was written front to back.
    sum: Option<u64>,
    /// Payload that lies elsewhere in the area and follows the rest.
    pub(crate) tail: [Pair; 2],
    /// Service class and congestion field of the IP header.
    pub(crate) tos: u8,
    /// Payload of each frame, if the link is to cut the packet; 0 if it is one frame.
    pub(crate) cut: u16,
    /// Headers, at the end of this array: each layer writes in front of the one above.
    head: [u8; HEAD_BYTES_MAX],
    head_start: usize,
    /// Where the packet goes, for layers that are not told by a connection.
    pub(crate) hop: crate::Peer,
}

impl<D: Data> Outgoing<D> {
    pub(crate) const fn new(buffer: Buffer, area: D, at: u32, capacity: u32) -> Self {
        Self {
            buffer,
            area,
            at,
            capacity,
            len: 0,
            sum: Some(0),
            tail: [Pair { offset: 0, len: 0 }; 2],
            tos: 0,
            cut: 0,
            head: [0; HEAD_BYTES_MAX],
            head_start: HEAD_BYTES_MAX,
            hop: crate::Peer::Connected,
        }
    }

    /// Appends payload; `false`, and nothing appended, if it does not fit.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > (self.capacity - self.len) as usize {
            return false;
        }
        // Sums of parts add up only if all but the last are even.
        self.sum =
            self.sum.filter(|_| self.len.is_multiple_of(2)).map(|sum| sum + checksum::sum(bytes));
        let written = self.area.write(self.at + self.len, bytes);
        self.len += bytes.len() as u32;
        written
    }

    /// Lets payload follow that lies elsewhere in the data area, in one or two parts: it is sent from
    /// where it lies, and must stay there until the driver has given the packet back.
    pub const fn attach(&mut self, parts: [Pair; 2]) {
        self.tail = parts;
    }

    /// Sets service class and congestion field of the IP header.
    pub const fn set_tos(&mut self, tos: u8) {
        self.tos = tos;
    }

    /// Payload bytes written so far.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no payload was written.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Payload bytes that can still be written.
    pub const fn room(&self) -> usize {
        (self.capacity - self.len) as usize
    }

    /// Says where the packet goes; for flows that are not connected.
    pub const fn set_destination(&mut self, destination: crate::Peer) {
        self.hop = destination;
    }

    /// Puts a header in front of what is there; `false` if the head room is used up.
    pub fn push_header(&mut self, header: &[u8]) -> bool {
        let Some(start) = self.head_start.checked_sub(header.len()) else { return false };
        self.head[start..self.head_start].copy_from_slice(header);
        self.head_start = start;
        true
    }

    /// Bytes of headers and payload.
    pub const fn packet_bytes(&self) -> usize {
        let [first, second] = self.tail;
        HEAD_BYTES_MAX - self.head_start + (self.len + first.len + second.len) as usize
    }

    /// Bytes of headers that can still be put in front.
    pub const fn head_room(&self) -> usize {
        self.head_start
    }

    /// One's-complement sum of headers so far and payload, for a checksum over both.
    pub fn sum(&self) -> u64 {
        let payload = self.sum.unwrap_or_else(|| area_sum(&self.area, self.at, self.len));
        // Headers of the Internet have even lengths.
        let mut sum = checksum::sum(&self.head[self.head_start..]) + payload;
        let mut before = self.len;
        for part in self.tail {
            if part.len > 0 {
                let part_sum = area_sum(&self.area, part.offset, part.len);
                sum +=
                    if before.is_multiple_of(2) { part_sum } else { checksum::shifted(part_sum) };
                before += part.len;
            }
        }
        sum
    }

    /// Moves the headers in front of the payload and returns the whole.
    pub(crate) fn finish(&self) -> Pair {
        let head = &self.head[self.head_start..];
        let offset = self.at - head.len() as u32;
        self.area.write(offset, head);
        Pair { offset, len: head.len() as u32 + self.len }
    }
}

/// A packet that was received: its head in private memory, the rest where the driver put it.
#[derive(Debug)]
pub struct Incoming<D> {
    pub(crate) buffer: Buffer,
    area: D,
    /// The whole packet in the area.
    pair: Pair,
    /// Its first bytes, as they were when it was taken.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// How much of the packet the layers have stripped, and where it ends.
    start: usize,
    end: usize,
    /// Whether the link vouches for the transport checksum.
    pub(crate) vouched: bool,
    /// Sum of what a checksum covers besides what is left, if it must still be verified.
    pending: Option<u64>,
    /// Who sent it.
    pub(crate) from: Option<core::net::SocketAddr>,
    /// The MAC address it came from.
    pub(crate) mac: Mac,
    /// Whether it is a control message about a packet of this flow.
    pub(crate) control: bool,
    /// Service class and congestion field of the IP header.
    pub(crate) tos: u8,
    /// Sum of the pseudo header without the length, for the layer above IP.
    pseudo: u64,
}

impl<D: Data> Incoming<D> {
    pub(crate) fn new(buffer: Buffer, area: D, pair: Pair, vouched: bool) -> Self {
        let mut head = [0; HEAD_BYTES_MAX];
        let head_bytes = (pair.len as usize).min(HEAD_BYTES_MAX);
        area.read(pair.offset, &mut head[..head_bytes]);
        let end = pair.len as usize;
        Self {
            buffer,
            area,
            pair,
            head,
            head_bytes,
            start: 0,
            end,
            vouched,
            pending: None,
            from: None,
            mac: Mac([0; 6]),
            control: false,
            tos: 0,
            pseudo: 0,
        }
    }

    /// What is left of the head: enough for every header, but not always the whole packet.
    pub fn head(&self) -> &[u8] {
        let end = self.head_bytes.min(self.end);
        self.head.get(self.start..end).unwrap_or(&[])
    }

    /// Strips `bytes` from the front; `false` if there are not so many.
    pub const fn strip(&mut self, bytes: usize) -> bool {
        if bytes > self.len() {
            return false;
        }
        self.start += bytes;
        true
    }

    /// Cuts what is left to `bytes`; `false` if there are fewer.
    pub const fn truncate(&mut self, bytes: usize) -> bool {
        if bytes > self.len() {
            return false;
        }
        self.end = self.start + bytes;
        true
    }

    /// Bytes left.
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who sent it, as far as the layers know.
    pub const fn from(&self) -> Option<core::net::SocketAddr> {
        self.from
    }

    /// The MAC address on the link that it came from.
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether what is left is a control message (RFC 792) about a packet of this flow, instead of what
    /// the layer above is for.
    pub const fn is_control(&self) -> bool {
        self.control
    }

    /// Service class and congestion field of the IP header.
    pub const fn tos(&self) -> u8 {
        self.tos
    }

    /// Whether what is left and `covered` have a right checksum; true if the link vouches for it.
    pub(crate) fn verify(&self, covered: u64) -> bool {
        let at = self.pair.offset + self.start as u32;
        self.vouched || checksum::is_valid(covered + area_sum(&self.area, at, self.len() as u32))
    }

    /// Its buffer, and where in the area what is left of it lies. The buffer is to be given back with
    /// [`Layer::release`](crate::Layer::release).
    pub fn detach(self) -> (Buffer, Pair) {
        let pair = Pair { offset: self.pair.offset + self.start as u32, len: self.len() as u32 };
        (self.buffer, pair)
    }

    /// Demands that the checksum over what is left and `covered` be verified when it is read.
    pub(crate) const fn verify_later(&mut self, covered: u64) {
        self.pending = Some(covered);
    }

    pub(crate) fn set_pseudo_header(
        &mut self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: Protocol,
    ) {
        self.pseudo =
            base_wire::pseudo_header(source.into(), destination.into(), protocol, 0).unwrap_or(0);
    }

    /// Sum of the pseudo header for a payload of `bytes`.
    pub(crate) fn pseudo_header(&self, bytes: u64) -> u64 {
        self.pseudo + bytes
    }

    /// Copies what is left to the front of `out`, as much as fits, and returns how much that was.
    /// `None` if the packet is damaged.
    pub fn read(&self, out: &mut [u8]) -> Option<usize> {
        let bytes = self.len().min(out.len());
        let whole = bytes == self.len();
        self.area.read(self.pair.offset + self.start as u32, &mut out[..bytes]);
        match self.pending {
            None => Some(bytes),
            // Verified on the copy, which nobody can change any more.
            Some(covered) if whole => {
                checksum::is_valid(covered + checksum::sum(&out[..bytes])).then_some(bytes)
            }
            Some(covered) => {
                let at = self.pair.offset + self.start as u32;
                checksum::is_valid(covered + area_sum(&self.area, at, self.len() as u32))
                    .then_some(bytes)
            }
        }
    }
}

/// One's-complement sum of a part of a data area.
fn area_sum(area: &impl Data, at: u32, len: u32) -> u64 {
    let mut sum = 0;
    let mut chunk = [0; 512];
    let mut done = 0;
    while done < len {
        let bytes = (len - done).min(chunk.len() as u32);
        area.read(at + done, &mut chunk[..bytes as usize]);
        sum += checksum::sum(&chunk[..bytes as usize]);
        done += bytes;
    }
    sum
}
