//! A flow in memory of this process, whose driver is whoever tests: packets instead of frames on a wire.

use std::net::Ipv4Addr;

use base_flow::{Endpoints, Fib, FlowId, Sap, Transport};
use base_wire::{
    ETHERNET_BYTES, EtherType, Ethernet, Header, IPV4_BYTES, Ipv4, Mac, Protocol, checksum,
};
use rbuf_channel::{Data, End, Fault, HeapData, HeapWords, block_words, flag};
use stack_layer::{Device, Ether, HEAD_BYTES_MAX, Ip4, Layer as _, Tcp};
use stack_socket::{Layers, TcpMemory, receive_buffers};
use zerocopy::IntoBytes;

use super::RawPacket;

/// The layers of such a flow.
pub type HeapLayers = Layers<HeapWords, HeapData>;

const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// Headers that can be on their way at once.
const HEADERS: u16 = 128;

/// The driver's side of a flow.
#[derive(Debug)]
pub struct HeapFlow {
    tx: End<HeapWords>,
    rx: End<HeapWords>,
    tx_data: HeapData,
    rx_data: HeapData,
    fib: Fib,
}

/// What a flow in memory is like.
#[derive(Debug, Clone)]
pub struct HeapFlowOptions {
    /// Our end.
    pub local: (Ipv4Addr, u16),
    /// The other end; `None` for anybody's.
    pub remote: Option<(Ipv4Addr, u16)>,
    /// Longest packet that the link carries, in bytes.
    pub mtu: u16,
    /// Longest packet that it segments; the MTU if it segments none.
    pub gso_max_size: u16,
    /// Longest packet that can arrive.
    pub packet_max: u16,
    /// Bytes that can be written and not acknowledged.
    pub send_bytes: u32,
    /// Bytes that can be received at first.
    pub receive_bytes: u32,
    /// Bytes that can be received at most.
    pub receive_bytes_max: u32,
}

impl HeapFlow {
    /// A TCP flow, its layers, and its memory as a socket uses it.
    pub fn new(options: &HeapFlowOptions) -> (Self, HeapLayers, TcpMemory<HeapData>) {
        let &HeapFlowOptions { local, remote, mtu, gso_max_size, packet_max, .. } = options;
        let &HeapFlowOptions { send_bytes, receive_bytes, receive_bytes_max, .. } = options;
        let sap = |(address, port): (Ipv4Addr, u16)| Sap::new(address.into(), port);
        let (local_sap, remote) = (sap(local), remote.map(sap));
        let fib = Fib {
            flow: FlowId { index: 1, generation: 1 },
            endpoints: Endpoints { transport: Transport::Tcp, local: local_sap, remote },
            source: local.0.into(),
            source_mac: OUR_MAC,
            next_hop_mac: remote.map(|_| PEER_MAC),
            mtu,
            unit_bytes: gso_max_size,
            path_mtu: None,
            vlan: None,
        };
        let buffer_bytes = Device::<HeapWords, HeapData>::buffer_bytes(packet_max);
        let buffers = receive_buffers(mtu, receive_bytes.max(receive_bytes_max).into()) as u32;
        let tx_bytes = u32::from(HEADERS) * HEAD_BYTES_MAX as u32 + send_bytes;
        let rx_bytes = buffers * buffer_bytes;
        let (tx, driver_tx) = ends(u32::from(HEADERS) * 4, tx_bytes);
        let (rx, driver_rx) = ends(buffers * 2, rx_bytes);
        let (tx_data, rx_data) = (HeapData::new(tx_bytes), HeapData::new(rx_bytes));
        let areas = (tx_data.clone(), rx_data.clone());
        let mut device = Device::with_headers((tx, rx), areas, packet_max, HEADERS);
        device.reorganise(&fib);
        let first = receive_buffers(mtu, receive_bytes.into());
        // Of a channel that is new and large enough.
        let _ = device.offer_buffers(first);
        let network = Ip4::new(Ether::new(device, &fib), &fib, Protocol::TCP);
        let stack = Tcp::new(network.unwrap_or_else(|error| unreachable!("{error}")), &fib);
        let memory = TcpMemory {
            tx: tx_data.clone(),
            rx: rx_data.clone(),
            headers: HEADERS,
            receive_bytes,
            receive_bytes_max,
        };
        (Self { tx: driver_tx, rx: driver_rx, tx_data, rx_data, fib }, stack, memory)
    }

    /// How packets of the flow are formatted.
    pub const fn fib(&self) -> &Fib {
        &self.fib
    }

    /// The next packet that the stack has sent, its checksum filled in where the link would do that.
    ///
    /// # Errors
    ///
    /// What a driver would close the flow for.
    pub fn take(&mut self) -> Result<Option<RawPacket>, Fault> {
        let Some(rec) = self.tx.take()? else { return Ok(None) };
        let mut frame = Vec::new();
        for pair in rec.pairs() {
            let at = frame.len();
            frame.resize(at + pair.len as usize, 0);
            self.tx_data.read(pair.offset, &mut frame[at..]);
        }
        let is_to_be_segmented = rec.gso_size > 0;
        self.tx.put(&rec)?;
        let mut packet = frame.split_off(ETHERNET_BYTES);
        if is_to_be_segmented {
            fill_checksum(&mut packet);
        }
        Ok(Some(packet))
    }

    /// A packet arrives; it is dropped if there is no buffer, or none large enough.
    ///
    /// # Errors
    ///
    /// What a driver would close the flow for.
    pub fn deliver(&mut self, packet: &[u8]) -> Result<bool, Fault> {
        let Some(mut rec) = self.rx.take()? else { return Ok(false) };
        let header =
            Ethernet { destination: OUR_MAC, source: PEER_MAC, ether_type: EtherType::IPV4 };
        let frame = [header.as_bytes(), packet].concat();
        let Some(buffer) = rec.pairs().first().copied() else { return Ok(false) };
        let fits = frame.len() <= buffer.len as usize;
        let bytes = if fits { frame.len() } else { 0 };
        self.rx_data.write(buffer.offset, &frame[..bytes]);
        rec.set_len(0, bytes as u32);
        rec.flags = flag::CHECKSUM_UNVERIFIED;
        self.rx.put(&rec)?;
        Ok(fits)
    }
}

/// Both ends of a channel.
fn ends(ring_words: u32, bytes: u32) -> (End<HeapWords>, End<HeapWords>) {
    let words = || HeapWords::new(block_words(ring_words.next_power_of_two()));
    let (ours, theirs) = (words(), words());
    let end = |mine: &HeapWords, other: &HeapWords| {
        let end = End::new(mine.clone(), other.clone(), bytes);
        end.unwrap_or_else(|| unreachable!("{} words", mine.len()))
    };
    (end(&ours, &theirs), end(&theirs, &ours))
}

/// The transport checksum that a link completes when it segments.
fn fill_checksum(packet: &mut [u8]) {
    let Some((ip, _)) = Ipv4::split(packet) else { return };
    let (source, destination) = (ip.source().into(), ip.destination().into());
    let tcp = &mut packet[IPV4_BYTES..];
    tcp[16..18].fill(0);
    let pseudo =
        base_wire::pseudo_header(source, destination, Protocol::TCP, tcp.len() as u32).unwrap_or(0);
    let sum = checksum::finish(pseudo + checksum::sum(tcp));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}
