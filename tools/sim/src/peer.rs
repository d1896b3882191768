//! The host at the other end of the wire: answers ARP and echo, and keeps what it receives.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base_wire::{
    Arp, ArpOperation, EtherType, Ethernet, Header, Icmp, IcmpV4Type, Ipv4, Mac, Protocol, Udp,
    checksum,
};
use driver_link::sim::{Side, Wire};

/// Headers of a datagram's frame.
const HEADER_BYTES: usize = 42;

/// A datagram that arrived at the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// When its last bit arrived.
    pub at_ns: u64,
    /// Bytes of its frame.
    pub frame_bytes: usize,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Datagrams that the peer sends at a steady rate. Each begins with its number and with the time
/// at which its last bit is on the wire, both as 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Port it comes from.
    pub source: u16,
    /// Port it goes to.
    pub destination: u16,
    /// Payload, at least 16.
    pub bytes: usize,
    /// Time from one datagram to the next.
    pub interval_ns: u64,
    /// When the first one is sent.
    pub from_ns: u64,
    /// When the last one was sent.
    pub until_ns: u64,
}

/// A host that speaks just enough to be a peer.
#[derive(Debug)]
pub struct Peer {
    wire: Wire,
    mac: Mac,
    address: Ipv4Addr,
    received: BTreeMap<u16, Vec<Arrived>>,
    /// Echo replies heard: sequence and time.
    echoes: Vec<(u16, u64)>,
    /// Station of the other side, once it was heard.
    other: Option<Mac>,
    /// Every frame, if they are to be kept.
    pub frames: Option<Vec<Vec<u8>>>,
    /// Streams, and how many datagrams of each were sent.
    streams: Vec<(Stream, u64)>,
    /// ICMP messages heard, by type.
    icmp: BTreeMap<u8, u64>,
}

impl Peer {
    pub(crate) const fn new(wire: Wire, mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            wire,
            mac,
            address,
            received: BTreeMap::new(),
            echoes: Vec::new(),
            other: None,
            frames: None,
            streams: Vec::new(),
            icmp: BTreeMap::new(),
        }
    }

    /// What arrived for `port`, in order.
    pub fn received(&self, port: u16) -> &[Arrived] {
        self.received.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Echo replies that came back: sequence number and time.
    pub fn echoes(&self) -> &[(u16, u64)] {
        &self.echoes
    }

    /// Sends `stream` to the other side, which must have been heard.
    pub fn stream(&mut self, stream: Stream) {
        self.streams.push((stream, 0));
    }

    /// How many datagrams of all streams to `port` were sent.
    pub fn streamed(&self, port: u16) -> u64 {
        let to = self.streams.iter().filter(|(stream, _)| stream.destination == port);
        to.map(|(_, sent)| sent).sum()
    }

    /// ICMP messages of type `kind` that came back.
    pub fn heard(&self, kind: u8) -> u64 {
        self.icmp.get(&kind).copied().unwrap_or(0)
    }

    /// When the next datagram of a stream is due.
    pub(crate) fn next_send(&self) -> Option<u64> {
        self.streams.iter().filter_map(|(stream, sent)| stream.due(*sent)).min()
    }

    /// Sends what is due.
    pub(crate) fn work(&mut self, now: u64, to: Ipv4Addr) {
        for index in 0..self.streams.len() {
            while let (stream, sent) = self.streams[index]
                && stream.due(sent).is_some_and(|at| at <= now)
            {
                self.streams[index].1 += 1;
                let mut payload = vec![0; stream.bytes.max(16)];
                payload[..8].copy_from_slice(&sent.to_be_bytes());
                let out = self.wire.would_be_out(Side::Right, payload.len() + HEADER_BYTES);
                payload[8..16].copy_from_slice(&out.to_be_bytes());
                self.send(to, stream.source, stream.destination, &payload);
            }
        }
    }

    /// Sends a datagram to the other side, which must have been heard.
    pub fn send(&self, to: Ipv4Addr, source: u16, destination: u16, payload: &[u8]) {
        let Some(mac) = self.other else { return };
        let mut udp = Udp {
            source: source.into(),
            destination: destination.into(),
            bytes: (payload.len() as u16 + 8).into(),
            checksum: 0.into(),
        };
        let mut head = [0; 8];
        udp.put(&mut head);
        let pseudo = base_wire::pseudo_header(
            self.address.into(),
            to.into(),
            Protocol::UDP,
            payload.len() as u32 + 8,
        );
        udp.checksum =
            checksum::finish(pseudo.unwrap_or(0) + checksum::sum(&head) + checksum::sum(payload))
                .into();
        udp.put(&mut head);
        self.send_ip(mac, to, Protocol::UDP, &[&head, payload]);
    }

    /// Sends an echo request to the other side.
    pub fn ping(&self, to: Ipv4Addr, sequence: u16) {
        let Some(mac) = self.other else { return self.ask(to) };
        let mut icmp = Icmp {
            kind: IcmpV4Type::ECHO_REQUEST,
            code: 0,
            checksum: 0.into(),
            id: 1.into(),
            sequence: sequence.into(),
        };
        let mut head = [0; 8];
        icmp.put(&mut head);
        icmp.checksum = checksum::finish(checksum::sum(&head)).into();
        icmp.put(&mut head);
        self.send_ip(mac, to, Protocol::ICMP, &[&head]);
    }

    /// Asks for the station of `to` by ARP.
    pub fn ask(&self, to: Ipv4Addr) {
        let arp = Arp::request(self.mac, self.address, to);
        self.send_frame(Mac::BROADCAST, EtherType::ARP, &[zerocopy_bytes(&arp).as_slice()]);
    }

    fn send_ip(&self, mac: Mac, to: Ipv4Addr, protocol: Protocol, parts: &[&[u8]]) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let ip = zerocopy_bytes(&Ipv4::new(self.address, to, protocol, bytes as u16));
        let mut all = vec![ip.as_slice()];
        all.extend(parts);
        self.send_frame(mac, EtherType::IPV4, &all);
    }

    fn send_frame(&self, to: Mac, ether_type: EtherType, parts: &[&[u8]]) {
        let mut frame = zerocopy_bytes(&Ethernet { destination: to, source: self.mac, ether_type });
        for part in parts {
            frame.extend(*part);
        }
        self.wire.send(Side::Right, frame);
    }

    /// Takes what has arrived.
    pub(crate) fn poll(&mut self) {
        while let Some((at_ns, frame)) = self.wire.receive(Side::Right) {
            self.hear(at_ns, &frame);
            if let Some(frames) = &mut self.frames {
                frames.push(frame);
            }
        }
    }

    fn hear(&mut self, at_ns: u64, frame: &[u8]) {
        let Some((ethernet, rest)) = Ethernet::split(frame) else { return };
        if ethernet.ether_type == EtherType::ARP {
            let Some((arp, _)) = Arp::split(rest) else { return };
            self.other = Some(arp.sender_mac);
            if arp.operation() == Some(ArpOperation::Request) && arp.target() == self.address {
                let reply = Arp::reply(self.mac, self.address, arp.sender_mac, arp.sender());
                self.send_frame(
                    arp.sender_mac,
                    EtherType::ARP,
                    &[zerocopy_bytes(&reply).as_slice()],
                );
            }
            return;
        }
        let Some((ip, _)) = Ipv4::split(rest) else { return };
        let total = usize::from(ip.total_bytes.get());
        let Some(payload) = rest.get(ip.header_bytes()..total) else { return };
        match ip.protocol {
            Protocol::UDP => {
                if let Some((udp, data)) = Udp::split(payload) {
                    let arrived =
                        Arrived { at_ns, frame_bytes: frame.len(), payload: data.to_vec() };
                    self.received.entry(udp.destination.get()).or_default().push(arrived);
                }
            }
            Protocol::ICMP => {
                let Some((icmp, _)) = Icmp::split(payload) else { return };
                *self.icmp.entry(icmp.kind).or_default() += 1;
                if icmp.kind == IcmpV4Type::ECHO_REPLY {
                    self.echoes.push((icmp.sequence.get(), at_ns));
                }
            }
            _ => {}
        }
    }
}

impl Stream {
    fn due(&self, sent: u64) -> Option<u64> {
        let at = self.from_ns + sent * self.interval_ns;
        (at < self.until_ns).then_some(at)
    }
}

fn zerocopy_bytes(header: &impl Header) -> Vec<u8> {
    header.as_bytes().to_vec()
}
