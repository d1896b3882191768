//! The bottom of every stack: the flow's channels to the driver.

use base_flow::Fib;
use rbuf_channel::{Buffer, Data, End, Fault, IoRec, Notice, Pool, Words, flag};

use crate::packet::{HEAD_BYTES_MAX, Incoming, Outgoing};
use crate::{Layer, SendError};

/// A flow's channels and the buffers of their data areas.
///
/// Buffers begin with room for all headers; the payload after it is aligned to 64 bytes.
#[derive(Debug)]
pub struct Device<W, D> {
    tx: End<W>,
    rx: End<W>,
    tx_data: D,
    rx_data: D,
    sending: Pool,
    receiving: Pool,
    /// Bytes of a buffer for sending: room for headers, and for a packet unless payload is sent from
    /// elsewhere.
    send_bytes: u32,
    /// Largest IP packet at present, and the largest that buffers are made for.
    packet_max: usize,
    buffer_max: usize,
    /// Packets that were sent, and those of them whose buffers are back.
    sent: u64,
    returned: u64,
    rejected: u64,
    broken: u64,
    /// Whether something was put into or taken from the transmit and the receive channel that the
    /// driver may want to know of.
    tx_moved: bool,
    rx_moved: bool,
}

impl<W: Words, D: Data> Device<W, D> {
    /// Room for headers at the start of a buffer.
    const HEAD: u32 = HEAD_BYTES_MAX as u32;

    /// Bytes of a buffer for IP packets of up to `mtu` bytes.
    pub const fn buffer_bytes(mtu: u16) -> u32 {
        (Self::HEAD + mtu as u32).next_multiple_of(64)
    }

    /// The device of a flow, whose `ends` are (transmit, receive) and `areas` likewise. All receive
    /// buffers are offered to the driver, as far as the channel holds them.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    pub fn new(ends: (End<W>, End<W>), areas: (D, D), mtu: u16) -> Result<Self, Fault> {
        let sending = Pool::new(areas.0.bytes(), Self::buffer_bytes(mtu));
        let mut device = Self::with_pool(ends, areas, mtu, sending, Self::buffer_bytes(mtu));
        device.offer_buffers(device.receive_buffers_max())?;
        Ok(device)
    }

    /// As [`Self::new`], but packets are formed from `headers` buffers of [`HEAD_BYTES_MAX`] bytes at
    /// the start of the transmit area; payload is sent from where it lies behind them
    /// ([`Outgoing::attach`]). Receive buffers are not offered yet ([`Self::offer_buffers`]).
    pub fn with_headers(ends: (End<W>, End<W>), areas: (D, D), mtu: u16, headers: u16) -> Self {
        let sending = Pool::new(u32::from(headers) * Self::HEAD, Self::HEAD);
        Self::with_pool(ends, areas, mtu, sending, Self::HEAD)
    }

    fn with_pool(
        (tx, rx): (End<W>, End<W>),
        (tx_data, rx_data): (D, D),
        mtu: u16,
        sending: Pool,
        send_bytes: u32,
    ) -> Self {
        Self {
            sending,
            receiving: Pool::new(0, Self::buffer_bytes(mtu)),
            tx,
            rx,
            tx_data,
            rx_data,
            send_bytes,
            packet_max: usize::from(mtu),
            buffer_max: usize::from(mtu),
            sent: 0,
            returned: 0,
            rejected: 0,
            broken: 0,
            tx_moved: false,
            rx_moved: false,
        }
    }

    /// How many buffers the driver was offered, as far as the channel holds them.
    pub fn receive_buffers(&self) -> usize {
        self.receiving.len()
    }

    /// How many receive buffers the area holds.
    pub fn receive_buffers_max(&self) -> usize {
        (self.rx_data.bytes() / self.receiving.buffer_bytes()) as usize
    }

    /// Offers the driver more buffers, until it was offered `count` in all, or as many as the channel
    /// holds: what is received at once can then be more, and more of the area is in use.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    pub fn offer_buffers(&mut self, count: usize) -> Result<(), Fault> {
        self.receiving.grow(count.min(self.receive_buffers_max()));
        while let Some(buffer) = self.receiving.take() {
            if !self.offer(buffer)? {
                return self.receiving.give(buffer);
            }
        }
        self.rx_moved = true;
        Ok(())
    }

    fn offer(&mut self, buffer: Buffer) -> Result<bool, Fault> {
        self.rx.put(&IoRec::single(buffer.0, self.receiving.pair(buffer)))
    }

    /// Takes back the buffers of packets that were sent, or refused.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    pub fn reap(&mut self) -> Result<(), Fault> {
        self.reap_each(|_| ())
    }

    /// As [`Self::reap`], and shows each buffer that comes back, in the order in which packets left.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    pub fn reap_each(&mut self, mut each: impl FnMut(Buffer)) -> Result<(), Fault> {
        while let Some(rec) = self.tx.take()? {
            let buffer = Buffer(rec.cookie);
            if !self.sending.lent(buffer, rec.pairs()[0]) {
                return Err(Fault::NotLent { cookie: rec.cookie });
            }
            self.returned += 1;
            self.rejected += u64::from(rec.flags & flag::REJECTED != 0);
            self.sending.give(buffer)?;
            each(buffer);
            self.tx_moved = true;
        }
        Ok(())
    }

    /// What the driver asked to be told since last time, of the transmit and the receive channel; costs a
    /// fence for each that moved, so call it once after a batch of sends and receives.
    pub fn notice(&mut self) -> [Notice; 2] {
        // A channel that did not move has no news: the driver would wake up for nothing.
        let tx = std::mem::take(&mut self.tx_moved).then(|| self.tx.notice());
        let rx = std::mem::take(&mut self.rx_moved).then(|| self.rx.notice());
        [tx, rx].map(Option::unwrap_or_default)
    }

    /// The transmit channel.
    pub const fn tx(&mut self) -> &mut End<W> {
        &mut self.tx
    }

    /// The receive channel.
    pub const fn rx(&mut self) -> &mut End<W> {
        &mut self.rx
    }

    /// Buffers for sending: how many there are, and how many are free.
    pub fn send_buffers(&self) -> (usize, usize) {
        (self.sending.len(), self.sending.free())
    }

    /// How many packets were sent, and how many of them have left, as far as was reaped.
    pub const fn sent(&self) -> (u64, u64) {
        (self.sent, self.returned)
    }

    /// Packets the driver refused to send; the flow's bill says why.
    pub const fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Gives up the channels: zeroes this side's blocks for their next user.
    pub fn retire(&self) {
        self.tx.clear();
        self.rx.clear();
    }
}

impl<W: Words, D: Data> Layer for Device<W, D> {
    type Area = D;
    type Words = W;

    fn device(&mut self) -> &mut Self {
        self
    }

    fn head_room(&self) -> usize {
        0
    }

    fn payload_bytes_max(&self) -> usize {
        self.packet_max + base_wire::ETHERNET_BYTES + base_wire::VLAN_TAG_BYTES
    }

    fn packet(&mut self) -> Result<Option<Outgoing<D>>, Fault> {
        if self.sending.free() == 0 {
            self.reap()?;
        }
        let Some(buffer) = self.sending.take() else { return Ok(None) };
        let at = self.sending.pair(buffer).offset + Self::HEAD;
        let capacity = self.send_bytes - Self::HEAD;
        Ok(Some(Outgoing::new(buffer, self.tx_data.clone(), at, capacity)))
    }

    fn discard(&mut self, packet: Outgoing<D>) -> Result<(), Fault> {
        self.sending.give(packet.buffer)
    }

    fn send(&mut self, packet: Outgoing<D>) -> Result<(), SendError> {
        let pair = packet.finish();
        self.tx_moved = true;
        let mut rec = IoRec::single(packet.buffer.0, pair);
        rec.gso_size = packet.cut;
        for part in packet.tail {
            if part.len > 0 {
                rec.push(part);
            }
        }
        if self.tx.put(&rec)? {
            self.sent += 1;
            return Ok(());
        }
        // The ring holds as many packets as there are buffers; a driver that takes none of them
        // for so long that it is full has the buffer back.
        self.sending.give(packet.buffer)?;
        Err(SendError::TooLong { bytes: pair.len as usize, max: 0 })
    }

    fn receive(&mut self) -> Result<Option<Incoming<D>>, Fault> {
        loop {
            let Some(rec) = self.rx.take()? else { return Ok(None) };
            self.rx_moved = true;
            let (buffer, pair) = (Buffer(rec.cookie), rec.pairs()[0]);
            if !self.receiving.lent(buffer, pair) {
                return Err(Fault::NotLent { cookie: rec.cookie });
            }
            if rec.pairs().len() == 1 {
                let vouched = rec.flags & flag::CHECKSUM_UNVERIFIED == 0;
                return Ok(Some(Incoming::new(buffer, self.rx_data.clone(), pair, vouched)));
            }
            // Only single ranges were offered.
            self.broken += 1;
            self.offer(buffer)?;
        }
    }

    fn release(&mut self, buffer: Buffer) -> Result<(), Fault> {
        self.rx_moved = true;
        self.offer(buffer).map(|_| ())
    }

    /// Packets are as large as the link carries now, and never larger than the buffers.
    fn reorganise(&mut self, fib: &Fib) {
        self.packet_max = usize::from(fib.mtu).min(self.buffer_max);
    }

    fn damaged(&self) -> u64 {
        self.broken
    }
}
