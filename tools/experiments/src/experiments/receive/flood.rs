//! A flood of the smallest frames, at a neighbour who cannot read them as fast or at a port that
//! nobody owns, while the first application receives 40 Mbit/s.

use base_flow::{DropReason, Rate};
use base_wire::IcmpV4Type;
use tools_sim::{Costs, Stream, World};

use super::{COSTS, FULL, PORTS, SMALLEST, account, full_stream, receiver};
use crate::experiments::{MS, S};
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::reception::{Receiver, Reception, latency_metrics, latency_picture};

/// At whom the flood is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An application that works on each packet.
    Neighbour,
    /// Nobody: the last resort.
    Nobody,
}

impl Target {
    /// Its port.
    pub const fn port(self) -> u16 {
        match self {
            Self::Neighbour => PORTS[1],
            Self::Nobody => PORTS[2],
        }
    }
}

/// How long the flooded application works on a packet.
pub const WORK_NS: u64 = 2_000;

/// Replies to unclaimed packets a second that are still "rate-limited".
const REPLIES_PER_S: f64 = 1_100.0;

/// What happened besides reception.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flooding {
    /// Packets of the flood that were sent.
    pub sent: u64,
    /// Replies that came back, if the target is nobody.
    pub replies: u64,
    /// Frames lost because the driver did not look into the link's ring in time.
    pub overrun: u64,
}

/// Judges a run of `subject`.
pub fn judge(subject: &str, target: Target, reception: &Reception, flooding: &Flooding) -> Part {
    let ours = subject == Policy::Atx.name();
    let band = |band| ours.then_some(band);
    let first = &reception.receivers[0];
    let latency = first.latencies();
    let seconds = (reception.until_ns - reception.from_ns) as f64 / 1e9;
    let metric =
        |item: &str, name: &str, value: f64, unit| Metric::new(subject, item, name, value, unit);
    let lost = first.offered as f64 - first.reads.len() as f64 - first.waiting as f64;
    let unseen: i64 = reception.receivers.iter().map(Receiver::unaccounted).sum();
    let uncounted = unseen - flooding.overrun as i64;
    let everybody = target == Target::Neighbour;
    let mut metrics = vec![
        metric("all", "lost and not counted", uncounted as f64, "packets")
            .within(band(Band::Within(0.0)).filter(|_| everybody)),
        metric("link", "lost in its ring", flooding.overrun as f64, "frames"),
        metric("victim", "lost", lost, "packets").within(band(Band::Within(0.0))),
        metric("victim", "offered", first.offered as f64, "packets")
            .within(band(Band::AtLeast(1.0))),
        metric("flood", "offered", flooding.sent as f64 / seconds / 1e3, "kpackets/s"),
    ];
    for metric in latency_metrics(subject, "victim", &latency) {
        let limited = metric.name == "latency p99";
        metrics.push(metric.within(band(Band::AtMost(300.0)).filter(|_| limited)));
    }
    match target {
        Target::Neighbour => {
            if let Some(second) = reception.receivers.get(1) {
                let name = "dropped of what was offered";
                let dropped = second.dropped as f64 / second.offered.max(1) as f64 * 100.0;
                metrics.push(metric("flood", name, dropped, "%"));
                let unaccounted = second.unaccounted() as f64;
                metrics.push(metric("flood", "unaccounted for", unaccounted, "packets"));
            }
        }
        Target::Nobody => {
            let replies = flooding.replies as f64 / seconds;
            metrics.push(
                metric("flood", "replies", replies, "1/s")
                    .within(band(Band::AtMost(REPLIES_PER_S))),
            );
        }
    }
    let title = format!("The victim's latency under the flood, {subject}");
    let picture =
        latency_picture(&format!("{subject}-latency"), &title, &[("victim".into(), latency)]);
    Part { metrics, pictures: vec![picture] }
}

/// A world in which the flood has been on for `length_ns`.
pub(super) fn run(
    seed: u64,
    target: Target,
    costs: Costs,
    length_ns: u64,
) -> (World, Reception, Flooding) {
    let mut world = World::new(Rate::mbit(1_000), seed);
    world.charge(costs);
    let victim = receiver(&mut world, PORTS[0]);
    world.consume(victim, |_| 0);
    let neighbour = (target == Target::Neighbour).then(|| receiver(&mut world, PORTS[1]));
    if let Some(neighbour) = neighbour {
        world.consume(neighbour, |_| WORK_NS);
    }
    let from_ns = world.now_ns() + MS;
    let until_ns = from_ns + length_ns;
    world.peer_mut().stream(full_stream(PORTS[0], 40, from_ns, until_ns));
    // What the victim's stream leaves of the line.
    let flood = Stream {
        source: target.port(),
        destination: target.port(),
        bytes: SMALLEST.1,
        interval_ns: 700,
        from_ns,
        until_ns,
    };
    world.peer_mut().stream(flood);
    world.run_for(length_ns + S / 5);
    let mut receivers = vec![account(&world, victim, "victim", PORTS[0], FULL.0, Vec::new())];
    if let Some(neighbour) = neighbour {
        let name = "flooded";
        receivers.push(account(&world, neighbour, name, PORTS[1], SMALLEST.0, Vec::new()));
    }
    let flooding = Flooding {
        sent: world.peer().streamed(target.port()),
        replies: world.peer().heard(IcmpV4Type::UNREACHABLE),
        overrun: world.link_bill().dropped(DropReason::RingOverflow),
    };
    (world, Reception { from_ns, until_ns, receivers }, flooding)
}

pub(in crate::experiments) fn simulate(outcome: &mut Outcome, seed: u64, target: Target) {
    let (_, reception, flooding) = run(seed, target, COSTS, S);
    outcome.add(judge(Policy::Atx.name(), target, &reception, &flooding));
    outcome.note("The flood is a 64-byte frame every 700 ns of virtual time: all of 1 Gbit/s that the victim's stream leaves.");
    outcome.note(format!(
        "The driver takes {} ns of virtual time to look at a frame and {} ns more to deliver it: to deliver all would take it 2.4 processors.",
        COSTS.classify_ns, COSTS.deliver_ns
    ));
}
