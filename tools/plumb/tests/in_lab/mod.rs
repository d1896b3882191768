//! Tests inside a lab: real daemons, a real interface, a Linux kernel as the peer.
//!
//! A test runs itself again as the command of `plumb lab`, in the lab's namespaces, and passes if
//! that does. A machine that permits no lab fails the test, loudly, with the remedy.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod older_kernel;
pub mod questions;
pub mod wires;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use base_wire::{Arp, EtherType, Ethernet, Mac};
use driver_filter::{HEADER_BYTES_MAX, Rights, Template};
use driver_link::Link;
use driver_link_packet::PacketLink;
use plumb_net::{Contract, FlowId, Host};
use rbuf_channel::{Data, HeapData, Pair};
use rbuf_shm::monotonic_ns;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use zerocopy::IntoBytes;

pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

const INSIDE: &str = "PLUMB_TEST_INSIDE";

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_plumb")
}

/// Runs `test`, which is called `name`, in a lab made with `options`.
pub fn in_lab(name: &str, options: &[&str], test: impl FnOnce()) {
    if std::env::var(INSIDE).as_deref() == Ok(name) {
        return test();
    }
    let this = std::env::current_exe().unwrap();
    let status = Command::new(program())
        .arg("lab")
        .args(options)
        .arg("--")
        .arg(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env("RUST_BACKTRACE", "0")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in the lab ({status}); see above");
}

pub fn socket() -> PathBuf {
    std::env::var_os("PLUMB_SOCKET").unwrap().into()
}

pub fn host() -> Host {
    Host::connect(&socket()).unwrap()
}

/// Runs `work` on the peer's side of the wire: sockets made there stay there.
pub fn on_peer<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let words = std::env::var("PLUMB_PEER").unwrap();
    let pid: u32 = words.split_whitespace().last().unwrap().parse().unwrap();
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::scope(|scope| {
        let entered = scope.spawn(move || {
            // Only this thread moves.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        entered.join().unwrap()
    })
}

/// A kernel socket on the peer's side.
pub fn kernel_socket(port: u16) -> UdpSocket {
    on_peer(|| UdpSocket::bind((THEIRS, port)).unwrap())
}

/// The lab's processes by subcommand: `driver`, `flowman`, `__peer`.
pub fn processes() -> BTreeMap<String, u32> {
    children(rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32)
}

/// The processes that `parent` has started, by subcommand.
pub fn children(parent: u32) -> BTreeMap<String, u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).unwrap();
    let name = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let word = line.split(|&byte| byte == 0).nth(1)?.to_vec();
        String::from_utf8(word).ok()
    };
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(|pid| Some((name(pid)?, pid))).collect()
}

/// What a process holds: descriptors and mappings.
pub fn holdings(pid: u32) -> (usize, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let mappings = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().count();
    (descriptors, mappings)
}

/// Whether the peer's kernel answers ARP: a station that does is not believed to have moved.
pub fn peer_answers_arp(answers: bool) {
    let file = "/proc/sys/net/ipv4/conf/plumb1/arp_ignore";
    let level = if answers { "0" } else { "8" };
    on_peer(|| std::fs::write(file, level).unwrap_or_else(|error| panic!("{file}: {error}")));
}

/// Says on the peer's side of the wire, to everybody, that its address is at `station`.
pub fn claim_to_be_at(link: &mut PacketLink, station: Mac) {
    let claim = Arp::reply(station, THEIRS, Mac::BROADCAST, THEIRS);
    let ethernet =
        Ethernet { destination: Mac::BROADCAST, source: station, ether_type: EtherType::ARP };
    send_raw(link, &[ethernet.as_bytes(), claim.as_bytes()].concat());
}

/// Sends a frame as it is.
pub fn send_raw(link: &mut PacketLink, frame: &[u8]) {
    let station = Mac(frame[6..12].try_into().unwrap());
    let data = HeapData::new(2048);
    data.write(0, frame);
    let pairs = [Pair { offset: 0, len: frame.len() as u32 }];
    let mut header = [0; HEADER_BYTES_MAX];
    let head = frame.len().min(HEADER_BYTES_MAX);
    header[..head].copy_from_slice(&frame[..head]);
    let template = Template::new(&Rights::Station(station), None);
    let checked = template.check(&header, &pairs, &data, frame.len()).unwrap();
    assert!(link.transmit(&checked));
    link.flush();
    link.complete(&mut |sent| assert!(sent));
}

/// How long something may take on a machine that has much else to do: no test is judged by this, but one that
/// hangs has to end.
const HANGS: Duration = Duration::from_secs(120);

/// Asks again and again until `condition` holds; fails if it never does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < HANGS, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// A flow's account at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    at_ns: u64,
    wire_ns: u64,
    periods_missed: u64,
    /// Time the line stood still because the driver could not run.
    stall_ns: u64,
}

/// A look that took longer says too little of when it was.
const LOOK_NS_MAX: u64 = 5_000_000;

impl Account {
    /// Looks at what `flow` has used.
    pub fn of(host: &Host, flow: FlowId) -> Self {
        let mut seen = None;
        eventually("a look is quick", || {
            let at_ns = monotonic_ns();
            let flows = host.query_flows().unwrap();
            let stall_ns = host.query_links().unwrap().iter().map(|link| link.stall_ns).sum();
            let found = flows.into_iter().find(|info| info.flow == flow);
            let bill = found.unwrap().bill.unwrap();
            let (wire_ns, periods_missed) = (bill.tx_wire_ns, bill.tx_periods_missed);
            seen = Some(Self { at_ns, wire_ns, periods_missed, stall_ns });
            monotonic_ns() - at_ns < LOOK_NS_MAX
        });
        seen.unwrap()
    }

    /// Wire time used so far.
    pub const fn wire_ns(&self) -> u64 {
        self.wire_ns
    }

    /// For how many periods of `contract` the line could run since then. What a machine with other things to
    /// do takes from the driver is no part of that.
    pub fn periods_until(&self, now: &Self, contract: &Contract) -> f64 {
        let stood_ns = now.stall_ns - self.stall_ns;
        (now.at_ns - self.at_ns).saturating_sub(stood_ns) as f64 / contract.period_ns as f64
    }

    /// Fails unless a flow that always had something to send got its slice in each period that the line could
    /// run, and no more. A look falls somewhere into a period, and maybe into a time in which the driver cannot
    /// run and that it does not know of yet.
    pub fn assert_kept(&self, now: &Self, contract: &Contract) {
        let periods = self.periods_until(now, contract);
        let slices = (now.wire_ns - self.wire_ns) as f64 / contract.slice_ns as f64;
        println!("{slices:.2} slices in {periods:.2} periods");
        assert!(slices <= periods + 1.1, "{slices} slices in {periods} periods: too much");
        assert!(slices >= periods - 2.1, "{slices} slices in {periods} periods: too little");
        assert_eq!(now.periods_missed, self.periods_missed, "periods in which a frame was late");
    }
}
