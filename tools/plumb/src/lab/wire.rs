//! Somebody on the way between the two sides: frames take their time, and some never arrive.
//!
//! A kernel without `netem` can be given the same path: two pairs of interfaces, and a process that
//! carries frames from one to the other over the simulated wire, in real time.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use base_flow::Rate;
use driver_link::sim::{Impairments, Side, Wire};
use driver_link::{Arrival, Checksum, Link, Polled};
use driver_link_packet::PacketLink;
use driver_netlink::Netlink;
use rbuf_shm::monotonic_ns;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::{OUR_DEV, OUR_MAC, PEER_DEV, PEER_MAC, mac, peer};
use crate::cli;
use crate::daemons::be_a_daemon;

/// The ends between which frames are carried.
const LEFT: &str = "plumbw0";
const RIGHT: &str = "plumbw1";

/// Faster than what the process can carry.
const RATE_MBIT: u32 = 40_000;

/// Frames taken in at a time.
const BATCH: usize = 256;

/// How long an overtaken frame is held back beyond its delay.
const OVERTAKEN_NS: u64 = 2_000_000;

/// Lays two wires, whose inner ends stay with us. The kernel must not speak there.
pub(super) fn lay(netlink: &Netlink, mtu: u32) -> Result<()> {
    netlink.add_veth(OUR_DEV, OUR_MAC, LEFT, mac(3), mtu)?;
    netlink.add_veth(PEER_DEV, PEER_MAC, RIGHT, mac(4), mtu)?;
    for dev in [LEFT, RIGHT] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6"), "1");
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{dev}/arp_ignore"), "8")
            .context("the kernel cannot be kept from answering on the way")?;
        peer::no_offloads(netlink, dev);
        netlink.set_up(netlink.interface(dev)?.index)?;
    }
    Ok(())
}

/// Starts the process between the wires.
pub(super) fn start(program: &Path, way: cli::Way) -> Result<Child> {
    Command::new(program)
        .args(["__wire", "--left", LEFT, "--right", RIGHT])
        .args(way.arguments())
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the wire")
}

/// Carries frames until the lab ends.
pub fn run(arguments: &cli::Wire) -> Result<ExitCode> {
    be_a_daemon(true)?;
    let way = &arguments.way;
    let wire = Wire::new(Rate::mbit(RATE_MBIT), 1);
    let impairments = Impairments {
        loss_ppm: way.loss,
        duplicate_ppm: way.duplicate,
        reorder_ppm: way.reorder,
        reorder_ns: OVERTAKEN_NS,
        delay_ns: way.delay.as_nanos() as u64,
        ..Impairments::default()
    };
    wire.impair(Side::Left, impairments);
    wire.impair(Side::Right, impairments);
    let mut left = PacketLink::open(&arguments.left, None)?;
    let mut right = PacketLink::open(&arguments.right, None)?;
    loop {
        wire.advance(monotonic_ns());
        for (link, side) in [(&mut left, Side::Left), (&mut right, Side::Right)] {
            link.poll_rx(BATCH, &mut |arrival| wire.send(side, arrival.frame.to_vec()));
        }
        wire.advance(monotonic_ns());
        for (link, side) in [(&left, Side::Left), (&right, Side::Right)] {
            while let Some((_, frame)) = wire.receive(side) {
                // What the interface has no place for is lost, as on any wire.
                let checksum = Checksum::Unverified;
                let frame = &frame[..];
                let arrival = Arrival { frame, vlan: None, checksum, merged: None, missing: 0 };
                let _ = link.forward(&arrival);
            }
        }
        let next = [Side::Left, Side::Right].into_iter().filter_map(|at| wire.next_arrival(at));
        let timeout = next.min().map(|at| at.saturating_sub(monotonic_ns())).map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as _,
            tv_nsec: (ns % 1_000_000_000) as _,
        });
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let [a, b] = left.descriptors().map(watch);
        let [c, d] = right.descriptors().map(watch);
        let _ = poll(&mut [a, b, c, d], timeout.as_ref());
    }
}
