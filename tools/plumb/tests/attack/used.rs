//! What attackers have used while they were at work: of the driver by its bills, of the line by what arrives.

use std::cell::RefCell;
use std::net::UdpSocket;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base_flow::{Bill, Contract};
use rbuf_shm::monotonic_ns;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::ground::{Attacker, Ground, peer_hears};
use crate::in_lab::host;

/// Where the peer hears attackers.
const HEARD_PORT: u16 = 7000;

/// The longest frame's time of the lab's line.
pub const FRAME_NS: u64 = 123_040;

/// What the flows of an attacker have used in a turn.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    pub elapsed_ns: u64,
    /// The driver's time.
    pub cpu_ns: u64,
    /// Packets that the driver has refused.
    pub refused: u64,
}

impl Used {
    /// What the flows at `ports` that are left have used since `begun_ns`.
    fn by(ports: &Range<u16>, begun_ns: u64) -> Self {
        let flows = host().query_flows().unwrap();
        let theirs = flows
            .iter()
            .filter(|flow| flow.endpoints.is_some_and(|ends| ports.contains(&ends.local.port)));
        let bills: Vec<&Bill> = theirs.filter_map(|flow| flow.bill.as_ref()).collect();
        Self {
            elapsed_ns: monotonic_ns() - begun_ns,
            cpu_ns: bills.iter().map(|bill| bill.tx_cpu_ns + bill.rx_cpu_ns).sum(),
            refused: bills.iter().map(|bill| bill.dropped_total()).sum(),
        }
    }

    /// The part of the time that the driver worked for the attacker.
    pub const fn cpu_ppm(&self) -> u64 {
        self.cpu_ns * 1_000_000 / self.elapsed_ns
    }
}

/// The attack, at work, and since when.
struct Working<'a> {
    _attacker: Attacker,
    begun_ns: u64,
    ports: Range<u16>,
    turns: &'a RefCell<Vec<Used>>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.turns.borrow_mut().push(Used::by(&self.ports, self.begun_ns));
        }
    }
}

/// Others hardly notice; returns what the flows at `ports` of the attacker have used in each turn.
pub fn used_by(ground: &Ground, ports: Range<u16>) -> Vec<Used> {
    let _peer = peer_hears(HEARD_PORT);
    let turns = RefCell::new(Vec::new());
    let start = || {
        let begun_ns = monotonic_ns();
        let attacker = ground.attacker_that_says("at work");
        Working { _attacker: attacker, begun_ns, ports: ports.clone(), turns: &turns }
    };
    ground.compare_with(|| ground.busy(), start, |_, _| true);
    let turns = turns.into_inner();
    println!("{turns:?}");
    turns
}

/// Others hardly notice, and who posts, rings or asks has no more of the driver's time than its account earns.
pub fn bounded(ground: &Ground, ports: Range<u16>, part_ppm_max: u64) {
    let most = used_by(ground, ports).iter().map(Used::cpu_ppm).max().unwrap();
    assert!((1_000..part_ppm_max).contains(&most), "{most} millionths of the time");
}

/// Counts what arrives of an attacker, as long as it lives.
struct Counting<'a> {
    _attacker: Attacker,
    begun_ns: u64,
    arrived: &'a AtomicU64,
    before: u64,
    turns: &'a RefCell<Vec<(u64, u64)>>,
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let frames = self.arrived.load(Ordering::Relaxed) - self.before;
        self.turns.borrow_mut().push((monotonic_ns() - self.begun_ns, frames));
    }
}

/// Others hardly notice, and who sends frames of the longest as fast as it can has no more of the line than
/// `contract` says, wherever it has that.
pub fn keeps_to(ground: &Ground, contract: &Contract) {
    let peer = peer_hears(HEARD_PORT);
    // Whoever reads may be late: that is no loss.
    set_socket_recv_buffer_size_force(&peer, 16 << 20).unwrap();
    let (arrived, over, turns) = (AtomicU64::new(0), AtomicBool::new(false), RefCell::default());
    std::thread::scope(|scope| {
        scope.spawn(|| count(&peer, &arrived, &over));
        let _over = Over(&over);
        let start = || {
            let (begun_ns, before) = (monotonic_ns(), arrived.load(Ordering::Relaxed));
            let attacker = ground.attacker_that_says("at work");
            Counting { _attacker: attacker, begun_ns, arrived: &arrived, before, turns: &turns }
        };
        ground.compare_with(|| ground.busy(), start, |_, _| true);
    });
    for (elapsed_ns, frames) in turns.into_inner() {
        // Of a line that stands still there is less, and a turn begins and ends somewhere in a period.
        let slices_max = elapsed_ns / contract.period_ns + 2;
        let had = frames * FRAME_NS;
        println!("{had} ns in {elapsed_ns} ns, {} slices at most", slices_max);
        assert!(had <= slices_max * contract.slice_ns, "{had} ns in {elapsed_ns} ns");
        assert!(frames > 64, "{frames} frames in {elapsed_ns} ns: no attack");
    }
}

fn count(peer: &UdpSocket, arrived: &AtomicU64, over: &AtomicBool) {
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !over.load(Ordering::Relaxed) {
        if peer.recv(&mut [0; 64]).is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends a thread when dropped, also if what it serves has failed.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
