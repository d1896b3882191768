//! A hostile application on a real wire: nothing forged leaves, and a neighbour does not notice.

mod in_lab;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base_flow::{Contract, Endpoints, Sap, Transport};
use base_rpc::{
    Answer, Call, FlowLayout, JoinOffer, MESSAGE_BYTES_MAX, Reply, Request, decode, encode,
};
use base_wire::wire_bytes;
use driver_link::Link;
use driver_link_packet::PacketLink;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use fastrand::Rng;
use in_lab::{OURS, THEIRS, host, in_lab, kernel_socket, on_peer, processes, socket};
use plumb_net::{DropReason, Udp};
use rbuf_channel::{Data, IoRec, Pair};
use rbuf_domain::{Domain, Ends, Shape};
use rbuf_shm::Connection;

/// How long the attack goes on.
const ATTACK: Duration = Duration::from_secs(10);

const LIAR_PORT: u16 = 6000;
const GOOD_PORT: u16 = 6001;

/// An application that talks to the system without its library, to be able to lie.
struct Liar {
    _connection: Connection,
    domain: Domain,
    layout: FlowLayout,
    ends: Ends,
    frame: Vec<u8>,
}

fn call(connection: &Connection, request: Request) -> (Reply, Vec<OwnedFd>) {
    connection.send(&encode(&Call { tag: 7, request }), &[]).unwrap();
    let received = connection.receive(MESSAGE_BYTES_MAX).unwrap();
    let answer: Answer = decode(&received.bytes).unwrap();
    (answer.reply, received.descriptors)
}

impl Liar {
    fn join() -> Self {
        let connection = Connection::connect(&socket()).unwrap();
        call(&connection, Request::Hello);
        let join = Request::Join(JoinOffer { link: 0, flows_max: 4 });
        let (reply, descriptors) = call(&connection, join);
        assert_eq!(reply, Reply::Joined);
        let domain = Domain::new(4, descriptors).unwrap();
        let shape = Shape { tx_words: 256, rx_words: 256, tx_bytes: 1 << 18, rx_bytes: 1 << 18 };
        let layout = domain.lay_out(&shape).unwrap();
        let ends = domain.ends(&layout).unwrap();
        let endpoints = Endpoints {
            transport: Transport::Udp,
            local: Sap::new(OURS.into(), LIAR_PORT),
            remote: Some(Sap::new(THEIRS.into(), 7000)),
        };
        let contract = Contract::guaranteed(20_000_000, 100_000_000).unwrap().with_slack(true);
        let open = Request::Open { link: 0, contract, layout, endpoints: Some(endpoints) };
        let (reply, _) = call(&connection, open);
        let Reply::Opened { fib: Some(fib), .. } = reply else { panic!("{reply:?}") };
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(fib.source_mac.0, fib.next_hop_mac.unwrap().0)
            .ipv4(OURS.octets(), THEIRS.octets(), 64)
            .udp(LIAR_PORT, 7000)
            .write(&mut frame, &[0xee; 200])
            .unwrap();
        Self { _connection: connection, domain, layout, ends, frame }
    }

    /// Sends forged frames, rewrites headers after publishing them, and never takes buffers back
    /// until the ring is full.
    fn forge(&mut self, chance: &mut Rng) {
        for slot in 0..32u32 {
            let mut frame = self.frame.clone();
            for _ in 0..=chance.u64(0..3) {
                // Addresses, type, version and length, flags, protocol, ports, lengths.
                let at = chance.u64(0..42) as usize;
                frame[at] = chance.u8(..);
            }
            if chance.u64(0..4) == 0 {
                frame.splice(12..12, [0x81, 0, 0, 5]);
            }
            if chance.u64(0..8) == 0 {
                frame.truncate(chance.u64(0..frame.len() as u64) as usize + 1);
            }
            let offset = slot * 2048;
            self.ends.tx_data.write(offset, &frame);
            let rec = IoRec::single(slot as u16, Pair { offset, len: frame.len() as u32 });
            if !matches!(self.ends.tx.put(&rec), Ok(true)) {
                while matches!(self.ends.tx.take(), Ok(Some(_))) {}
            }
            if self.ends.tx.notice().post {
                self.domain.post(self.layout.slot);
            }
            // The honest frame was checked? Then make it another while it is on its way.
            self.ends.tx_data.write(offset + 6, &chance.u64(..).to_le_bytes());
            self.ends.tx_data.write(offset + 26, &chance.u64(..).to_le_bytes());
        }
    }

    /// Writes garbage into every word it may write: counts, rings, event FIFO.
    fn scribble(&self, chance: &mut Rng) {
        for _ in 0..64 {
            let value = match chance.u64(0..3) {
                0 => chance.u64(..),
                1 => chance.u64(0..1 << 20),
                _ => chance.u64(0..16) | (chance.u64(0..1 << 20) << 32),
            };
            let words = self.domain.control_out(1 << 10).unwrap();
            words[chance.u64(0..1 << 10) as usize].store(value, Ordering::Relaxed);
        }
        self.domain.post(chance.u64(0..4) as u32);
    }
}

/// Whether a captured frame is one that somebody here may send.
fn is_rightful(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else {
        return Err("no Ethernet".into());
    };
    if link.source() != [0x02, 0x50, 0x4c, 0x55, 0x4d, 0x01] {
        return Err("source station".into());
    }
    if !packet.link_exts.is_empty() {
        return Err("VLAN".into());
    }
    let ip = match &packet.net {
        Some(NetSlice::Arp(_)) => return Ok(()),
        Some(NetSlice::Ipv4(ip)) => ip,
        _ => return Err("neither IPv4 nor ARP".into()),
    };
    let header = ip.header();
    if header.source_addr() != OURS || header.ihl() != 5 || header.is_fragmenting_payload() {
        return Err("IP header".into());
    }
    match &packet.transport {
        Some(TransportSlice::Icmpv4(_)) => Ok(()),
        Some(TransportSlice::Udp(udp)) => {
            let ends = (header.destination_addr(), udp.source_port(), udp.destination_port());
            let allowed = [(THEIRS, LIAR_PORT, 7000), (THEIRS, GOOD_PORT, 7001)];
            if allowed.contains(&ends) { Ok(()) } else { Err(format!("ports {ends:?}")) }
        }
        _ => Err("transport".into()),
    }
}

/// Whole periods between the first and the last pause of the neighbour, and its frames in them: a
/// flow sends its `slice` of frames back to back and then waits for the next period.
///
/// A machine that stands still in the midst of a slice makes a pause of its own, so a part of a slice
/// counts with what follows it. (If the neighbour were robbed, periods would be too few.)
fn whole_periods(seen: &[Duration], slice: f64) -> (usize, usize) {
    let pause = Duration::from_millis(30);
    let starts: Vec<usize> =
        (1..seen.len()).filter(|&at| seen[at] - seen[at - 1] > pause).collect();
    let (first, mut last, mut periods) = (starts[0], starts[0], 0);
    for &start in &starts[1..] {
        if (start - last) as f64 > 0.9 * slice {
            (last, periods) = (start, periods + 1);
        }
    }
    (periods, last - first)
}

#[test]
fn a_hostile_application_forges_nothing_and_hurts_nobody() {
    in_lab("a_hostile_application_forges_nothing_and_hurts_nobody", &["--lead", "4ms"], || {
        let before = processes();
        let contract = Contract::guaranteed(20_000_000, 100_000_000).unwrap();
        let good = Udp::options()
            .host(&host())
            .contract(contract)
            .send_buffers(256)
            .receive_buffers(2048)
            .between((OURS, GOOD_PORT), (THEIRS, 7001))
            .unwrap();
        let kernel = kernel_socket(7001);
        let _forged_to = kernel_socket(7000);
        let mut capture = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let stop = AtomicBool::new(false);
        let received = AtomicU64::new(0);
        let sent_to_us = AtomicU64::new(0);
        let (mut captured, mut forged) = (0u64, Vec::new());
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                let payload = [0x11; 1472];
                while !stop.load(Ordering::Relaxed) {
                    good.send(&payload).unwrap();
                }
            });
            scope.spawn(|| {
                good.set_read_timeout(Some(Duration::from_millis(300)));
                let mut buffer = [0; 2000];
                while !stop.load(Ordering::Relaxed) || good.recv(&mut buffer).is_ok() {
                    received
                        .fetch_add(u64::from(good.recv(&mut buffer).is_ok()), Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    sent_to_us.fetch_add(1, Ordering::Relaxed);
                    kernel.send_to(&[0x22; 500], (OURS, GOOD_PORT)).unwrap();
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            });
            scope.spawn(|| {
                let mut chance = Rng::with_seed(1);
                while !stop.load(Ordering::Relaxed) {
                    // Its channel is closed for every lie; so it dies and is born again.
                    let mut liar = Liar::join();
                    let life = Instant::now();
                    let (forging, span) = (chance.u64(0..2) == 0, chance.u64(0..400));
                    while life.elapsed() < Duration::from_millis(span)
                        && !stop.load(Ordering::Relaxed)
                    {
                        if forging {
                            liar.forge(&mut chance);
                        } else {
                            liar.scribble(&mut chance);
                        }
                    }
                }
            });
            // The neighbour's frames, by the time they were seen on the wire.
            let begun = Instant::now();
            let mut seen = Vec::new();
            while begun.elapsed() < ATTACK {
                captured += capture.poll_rx(64, &mut |arrival| {
                    if let Err(what) = is_rightful(arrival.frame) {
                        forged.push((what, arrival.frame.to_vec()));
                    }
                    if arrival.frame.get(34..36) == Some(&GOOD_PORT.to_be_bytes()) {
                        seen.push(begun.elapsed());
                    }
                }) as u64;
            }
            stop.store(true, Ordering::Relaxed);
            seen
        });
        assert!(
            forged.is_empty(),
            "{} of {captured} frames were forged: {:?}",
            forged.len(),
            forged[0]
        );
        assert!(captured > 10_000, "the capture saw the traffic: {captured}");
        let slice = 20_000_000.0 / (wire_bytes(1514) as f64 * 80.0);
        let (periods, frames) = whole_periods(&seen, slice);
        let expected = periods as f64 * slice;
        let error = frames as f64 / expected - 1.0;
        println!(
            "{captured} captured; {frames} of the neighbour's in {periods} periods: {:.3} %",
            error * 100.0
        );
        assert!(periods >= 80, "the neighbour was given its periods: {periods}");
        assert!(error.abs() <= 0.005, "the neighbour got {frames} frames instead of {expected:.0}");
        let bill = good.close().unwrap();
        assert_eq!(bill.dropped(DropReason::NoFreeBuffer), 0);
        let sent = sent_to_us.load(Ordering::Relaxed);
        assert_eq!(bill.rx_frames, sent, "the neighbour lost none of the {sent} frames for it");
        assert_eq!(processes(), before, "driver and flow manager are alive");
    });
}
