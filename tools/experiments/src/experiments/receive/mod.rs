//! The receiving side: one application that must not be hurt, and somebody who would hurt it.
//!
//! Simulated runs are of the whole system ([`tools_sim::World`]): flow manager, driver, layers, and a
//! peer whose streams are exact to the nanosecond. The driver's work takes virtual time, so that it
//! can be overloaded.

pub mod bill;
pub mod fig7;
pub mod flood;

use base_flow::Contract;
use tools_sim::{AppId, Consumed, Costs, Stream, World};

use crate::reception::{Read, Receiver};

/// What a driver on a packet socket was found to need, in round numbers: looking at a frame, and
/// delivering it to an application that sleeps.
const COSTS: Costs = Costs { classify_ns: 200, deliver_ns: 1_500, send_ns: 2_000 };

/// Ports of the first and the second application, and one that nobody owns.
pub const PORTS: [u16; 3] = [6_001, 6_002, 6_003];

/// Length of a full frame, and its datagram.
pub const FULL: (u16, usize) = (1514, 1472);
/// Length of the smallest frame, and its datagram; 64 bytes with the check sequence.
pub const SMALLEST: (u16, usize) = (60, 18);

/// Time between full frames at `mbit` of wire occupancy.
pub const fn interval_ns(mbit: u64) -> u64 {
    1538 * 8 * 1_000 / mbit
}

/// An application that receives at `port`; it sends nothing.
fn receiver(world: &mut World, port: u16) -> AppId {
    world.connect(Contract::BEST_EFFORT, port).expect("an empty line admits best effort")
}

fn reads(consumed: &[Consumed]) -> Vec<Read> {
    consumed.iter().map(|one| Read { sent_ns: one.sent_ns, read_ns: one.read_ns }).collect()
}

/// What became of the stream to `app` at `port`.
fn account(
    world: &World,
    app: AppId,
    name: &str,
    port: u16,
    frame_bytes: u16,
    drops: Vec<(u64, u64)>,
) -> Receiver {
    let bill = world.bill(app);
    let reads = reads(world.consumed(app));
    Receiver {
        name: name.into(),
        frame_bytes,
        offered: world.peer().streamed(port),
        dropped: bill.dropped_total(),
        waiting: bill.rx_frames - reads.len() as u64,
        reads,
        drops,
    }
}

/// A stream of full frames to `port` at `mbit`, between two times.
fn full_stream(port: u16, mbit: u64, from_ns: u64, until_ns: u64) -> Stream {
    Stream {
        source: port,
        destination: port,
        bytes: FULL.1,
        interval_ns: interval_ns(mbit),
        from_ns,
        until_ns,
    }
}
