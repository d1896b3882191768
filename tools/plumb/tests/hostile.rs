//! A hostile application on a real wire: nothing forged leaves, and a neighbour does not notice.

mod in_lab;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base_flow::{Contract, Endpoints, Sap, Transport};
use base_rpc::{
    Answer, Call, FlowLayout, JoinOffer, MESSAGE_BYTES_MAX, Reply, Request, decode, encode,
};
use driver_link::Link;
use driver_link_packet::PacketLink;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use fastrand::Rng;
use in_lab::{
    Account, OURS, THEIRS, eventually, host, in_lab, kernel_socket, on_peer, processes, socket,
};
use plumb_net::{DropReason, Udp};
use rbuf_channel::{Data, IoRec, Pair};
use rbuf_domain::{Domain, Ends, Shape};
use rbuf_shm::Connection;

/// How long the attack goes on, in periods that the line could run.
const PERIODS: f64 = 90.0;

/// Frames of the attack's time that the test has to have seen.
const CAPTURED_MIN: u64 = 10_000;

/// Enough for ten seconds: the neighbour always has something to send, and room for what comes, also when it
/// cannot run for a while.
const BUFFERS: u32 = 16_384;

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

#[test]
fn a_hostile_application_forges_nothing_and_hurts_nobody() {
    in_lab("a_hostile_application_forges_nothing_and_hurts_nobody", &["--lead", "4ms"], || {
        let before = processes();
        let contract = Contract::guaranteed(20_000_000, 100_000_000).unwrap();
        let host = host();
        let good = Udp::options()
            .host(&host)
            .contract(contract)
            .send_buffers(BUFFERS)
            .receive_buffers(BUFFERS)
            .between((OURS, GOOD_PORT), (THEIRS, 7001))
            .unwrap();
        let kernel = kernel_socket(7001);
        let _forged_to = kernel_socket(7000);
        let mut capture = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let stop = AtomicBool::new(false);
        let heard_all = AtomicBool::new(false);
        let sent_to_us = AtomicU64::new(0);
        let (mut captured, mut forged) = (0u64, Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let payload = [0x11; 1472];
                while !stop.load(Ordering::Relaxed) {
                    good.send(&payload).unwrap();
                }
            });
            scope.spawn(|| {
                good.set_read_timeout(Some(Duration::from_millis(300)));
                let mut buffer = [0; 2000];
                while !heard_all.load(Ordering::Relaxed) {
                    let _ = good.recv(&mut buffer);
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
            let account = || Account::of(&host, good.flow_id());
            eventually("the neighbour sends", || account().wire_ns() > 0);
            let (before, mut now) = (account(), account());
            eventually("the attack has lasted long enough", || {
                for _ in 0..1_000 {
                    captured += capture.poll_rx(64, &mut |arrival| {
                        if let Err(what) = is_rightful(arrival.frame) {
                            forged.push((what, arrival.frame.to_vec()));
                        }
                    }) as u64;
                }
                now = account();
                before.periods_until(&now, &contract) >= PERIODS && captured >= CAPTURED_MIN
            });
            stop.store(true, Ordering::Relaxed);
            before.assert_kept(&now, &contract);
            eventually("everything for the neighbour has come", || {
                let flows = host.query_flows().unwrap();
                let mine = flows.into_iter().find(|info| info.flow == good.flow_id()).unwrap();
                mine.bill.unwrap().rx_offered >= sent_to_us.load(Ordering::Relaxed)
            });
            heard_all.store(true, Ordering::Relaxed);
        });
        assert!(
            forged.is_empty(),
            "{} of {captured} frames were forged: {:?}",
            forged.len(),
            forged[0]
        );
        let bill = good.close().unwrap();
        assert_eq!(bill.dropped(DropReason::NoFreeBuffer), 0);
        let sent = sent_to_us.load(Ordering::Relaxed);
        assert_eq!(bill.rx_frames, sent, "the neighbour lost none of the {sent} frames for it");
        assert_eq!(processes(), before, "driver and flow manager are alive");
    });
}
