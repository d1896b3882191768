//! What a frame costs this driver on this link and this machine, measured before anybody is served.
//!
//! The scheduler reckons in wire time. Where the driver takes longer for a frame than the wire does, a flow of small
//! frames would be charged for less than it takes from the others; so no frame is charged less than is measured
//! here, and admission reckons with it too.
//!
//! # How
//!
//! The data path itself sends: a driver with one flow, on a line without limit, takes iorecs from shared memory, checks
//! headers, hands frames to the link and returns buffers, in batches as in production. The cheapest batch counts: the
//! others say what the machine did meanwhile. What is measured once is the same for everybody for as long as
//! the driver lives. An estimate that followed the traffic would be in the hands of whoever sends, or
//! receives, frames that are dear.
//!
//! # What leaves
//!
//! [`BATCHES`] and one to warm up, of [`BATCH`] frames of the shortest length: 30 KB. They go to the group address that no
//! bridge relays (IEEE 802.1Q, nearest bridge), which also ends loops of bridges, and not to ourselves: that
//! would turn around in the driver. They are datagrams to the discard port between addresses that are set aside for
//! benchmarks (RFC 2544), with a TTL of 1, since other frames would leave by a slower way than those of
//! applications. A host drops them: what did not come to its own address it neither forwards nor answers (RFC 1122 3.3.6).

use std::net::Ipv4Addr;

use base_flow::{Contract, Endpoints, Fib, FlowId, Rate, Sap, Transport};
use base_rpc::{DomainId, DomainUser};
use base_wire::{EtherType, Ethernet, FRAME_BYTES_MIN, Header, Ipv4, Mac, Protocol, Udp, VlanTag};
use driver_core::{Driver, Limits, bill_words};
use driver_link::Link;
use rbuf_channel::{Data, HeapWords, IoRec, Pair};
use rbuf_domain::{Domain, Ends, Shape};
use rbuf_shm::{monotonic_ns, thread_cpu_ns};

use crate::arenas::{Joined, ShmArenas};
use crate::reaper::Reaper;

/// Frames in a batch: what the loop sends in a round.
const BATCH: u32 = 64;

/// Batches that are measured.
const BATCHES: usize = 7;

/// Rounds of the loop after which a batch that has not left is given up.
const ROUNDS_MAX: usize = 64;

/// The bounds of what is believed. A measurement beyond them is of something else, such as a machine that is
/// suspended; and it must not take a fast line from those whom it does not concern.
const COST_NS_MIN: u64 = 100;
const COST_NS_MAX: u64 = 10_000;

/// What is taken for granted of a link on which nothing can be measured, such as one that is down.
const COST_NS_UNKNOWN: u64 = 1_000;

const NEAREST_BRIDGE: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
const FROM: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const TO: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const DISCARD: u16 = 9;

/// Sends on `link`, gives it back, and says what a frame costs, in nanoseconds.
pub(crate) fn measure<L: Link>(link: L) -> (L, u64) {
    let mut sender = match Sender::new(link) {
        Ok(sender) => sender,
        Err(link) => return (link, COST_NS_UNKNOWN),
    };
    // The first one touches everything for the first time.
    let cheapest = sender.batch().and_then(|_| (0..BATCHES).filter_map(|_| sender.batch()).min());
    let cost_ns = cheapest.map_or(COST_NS_UNKNOWN, |ns| ns / u64::from(BATCH));
    (sender.into_link(), cost_ns.clamp(COST_NS_MIN, COST_NS_MAX))
}

/// A driver with one flow, and the application whose flow it is.
struct Sender<L: Link> {
    driver: Driver<L, ShmArenas, HeapWords>,
    domain: Domain,
    ends: Ends,
    slot: u32,
    frame_bytes: u32,
}

const FLOW: FlowId = FlowId { index: 0, generation: 0 };

impl<L: Link> Sender<L> {
    /// Gives the link back if there is no memory for this.
    fn new(link: L) -> Result<Self, L> {
        let facts = link.facts();
        let Ok(Joined { arenas, passed, .. }) = ShmArenas::make(1 << 16, &Reaper::NOBODY) else {
            return Err(link);
        };
        let Ok(domain) = Domain::new(1, passed.into()) else { return Err(link) };
        let frame = frame(facts.station, facts.vlan);
        let frame_bytes = frame.len() as u32;
        // A buffer is named in two words.
        let shape = Shape { tx_words: 2 * BATCH, rx_words: 16, tx_bytes: 4096, rx_bytes: 4096 };
        let laid_out = domain
            .lay_out(&shape)
            .and_then(|layout| domain.ends(&layout).map(|ends| (layout, ends)));
        let Ok((layout, ends)) = laid_out else { return Err(link) };
        ends.tx_data.write(0, &frame);
        let limits =
            Limits { flows_max: 1, burst: BATCH as usize, frame_cost_ns: 0, ..Limits::default() };
        let rate = Rate::bits(Rate::MAX_BITS_PER_S).expect("it is the largest there is");
        let words = HeapWords::new(bill_words(limits.flows_max));
        let driver = Driver::new(link, rate, 10_000, limits, words, [0; 2], monotonic_ns());
        let mut driver = driver.expect("as many words as it asked for");
        let user = DomainUser { uid: Some(0), rx_cpu_ppb: 0, arena_bytes: 1 << 16 };
        let sap = |address: Ipv4Addr| Sap::new(address.into(), DISCARD);
        let fib = Fib {
            flow: FLOW,
            endpoints: Endpoints {
                transport: Transport::Udp,
                local: sap(FROM),
                remote: Some(sap(TO)),
            },
            source: FROM.into(),
            source_mac: facts.station,
            next_hop_mac: Some(NEAREST_BRIDGE),
            mtu: facts.mtu,
            unit_bytes: facts.mtu,
            path_mtu: None,
            vlan: facts.vlan,
        };
        let ready = driver
            .add_domain(DomainId(0), arenas, 1, user)
            .and_then(|()| {
                driver.add_flow(FLOW, DomainId(0), &layout, &Contract::BEST_EFFORT, 0, &[])
            })
            .and_then(|()| driver.attach(&fib, monotonic_ns()));
        match ready {
            Ok(()) => Ok(Self { driver, domain, ends, slot: layout.slot, frame_bytes }),
            Err(_) => Err(driver.into_link()),
        }
    }

    /// Processor time of sending one batch; `None` if not all of it left.
    fn batch(&mut self) -> Option<u64> {
        while self.ends.tx.take().ok()?.is_some() {}
        let rec = IoRec::single(0, Pair { offset: 0, len: self.frame_bytes });
        for _ in 0..BATCH {
            self.ends.tx.put(&rec).ok().filter(|&put| put)?;
        }
        if self.ends.tx.notice().post {
            self.domain.post(self.slot);
        }
        let before = self.driver.flow_bill(FLOW)?;
        let all = before.tx_frames + u64::from(BATCH);
        let begun = thread_cpu_ns();
        for _ in 0..ROUNDS_MAX {
            self.driver.transmit(monotonic_ns(), &mut monotonic_ns);
            self.driver.bill(monotonic_ns());
            if self.driver.flow_bill(FLOW)?.tx_frames >= all && !self.driver.link().is_congested() {
                break;
            }
        }
        let spent = thread_cpu_ns() - begun;
        let after = self.driver.flow_bill(FLOW)?;
        let left = after.tx_frames == all && after.dropped_total() == before.dropped_total();
        (left && !self.driver.link().is_congested()).then_some(spent)
    }

    fn into_link(self) -> L {
        let mut link = self.driver.into_link();
        // What a full device has not taken yet is nobody's any more.
        for _ in 0..ROUNDS_MAX {
            link.flush();
            link.complete(&mut |_| ());
            if !link.is_congested() {
                break;
            }
        }
        link
    }
}

/// The shortest datagram, from `station`.
fn frame(station: Mac, vlan: Option<u16>) -> Vec<u8> {
    let tag = vlan.map(|id| VlanTag { control: id.into(), ether_type: EtherType::IPV4 });
    let ether_type = if tag.is_some() { EtherType::VLAN } else { EtherType::IPV4 };
    let ethernet = Ethernet { destination: NEAREST_BRIDGE, source: station, ether_type };
    let link_bytes = size_of::<Ethernet>() + tag.map_or(0, |_| size_of::<VlanTag>());
    let payload_bytes = FRAME_BYTES_MIN - size_of::<Ethernet>() - size_of::<Ipv4>();
    let udp_bytes = payload_bytes as u16;
    let mut ip = Ipv4::new(FROM, TO, Protocol::UDP, udp_bytes);
    ip.ttl = 1;
    ip.fill_checksum();
    let udp = Udp {
        source: DISCARD.into(),
        destination: DISCARD.into(),
        bytes: udp_bytes.into(),
        checksum: 0.into(),
    };
    let mut frame = vec![0; link_bytes + size_of::<Ipv4>() + payload_bytes];
    ethernet.put(&mut frame);
    if let Some(tag) = tag {
        tag.put(&mut frame[size_of::<Ethernet>()..]);
    }
    ip.put(&mut frame[link_bytes..]);
    udp.put(&mut frame[link_bytes + size_of::<Ipv4>()..]);
    frame
}

#[cfg(test)]
mod tests {
    use base_wire::Header;
    use driver_link::null::NullLink;
    use driver_link::sim::{Side, Wire};

    use super::*;

    const STATION: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const FRAMES: u64 = BATCH as u64 * (BATCHES as u64 + 1);

    #[test]
    fn a_frame_costs_something_between_the_bounds_and_so_many_leave_for_it() {
        let (mut link, cost_ns) = measure(NullLink::new(STATION, 1500));
        assert_eq!(link.frames, FRAMES);
        assert!((COST_NS_MIN..=COST_NS_MAX).contains(&cost_ns), "{cost_ns}");
        let mut left = 0;
        link.complete(&mut |_| left += 1);
        assert_eq!(left, 0, "the next driver finds the link empty");
    }

    #[test]
    fn what_leaves_is_as_short_as_can_be_and_no_bridge_or_router_passes_it_on() {
        let wire = Wire::new(Rate::mbit(1000), 1);
        let _ = measure(wire.link(Side::Left, STATION, 1500));
        wire.advance(1_000_000_000);
        let mut frames = 0;
        while let Some((_, frame)) = wire.receive(Side::Right) {
            frames += 1;
            let (ethernet, packet) = Ethernet::split(&frame).unwrap();
            assert_eq!((ethernet.destination, ethernet.source), (NEAREST_BRIDGE, STATION));
            let (ip, _) = Ipv4::split(packet).unwrap();
            assert_eq!((frame.len(), ip.ttl, ip.destination()), (FRAME_BYTES_MIN, 1, TO));
        }
        // Time stands still, and so this wire takes no more.
        assert!(frames >= u64::from(BATCH), "{frames}");
        assert_eq!(frame(STATION, Some(7))[12..18], [0x81, 0, 0, 7, 0x08, 0]);
    }
}
