//! What the demo reports: wire occupancy by flow, as the receiver counted it.
//!
//! Everything in Mbit/s counts the same: what frames occupy on the wire, check sequence, preamble and
//! gap included. Rates are over time in which the line could run: what it stood still for is taken
//! out, and reported.

use anyhow::Result;
use base_flow::Rate;
use base_wire::wire_bytes;
use hdrhistogram::Histogram;
use plumb_net::{Bill, Contract, DropReason, Host};
use serde::Serialize;
use tools_sim::World;

use super::PAYLOAD_BYTES;
use super::sink::{BIN_MS, Bin};
use crate::output::say;

/// Headers of a datagram's frame.
const HEADER_BYTES: usize = 42;

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    link: LinkReport,
    flows: Vec<FlowReport>,
    total_mbit: f64,
    ping: PingReport,
    arp_answered: u64,
    driver: DriverReport,
    stall_ms: f64,
}

#[derive(Debug, Serialize)]
struct LinkReport {
    kind: String,
    line_mbit: f64,
    peer: String,
}

#[derive(Debug, Serialize)]
struct FlowReport {
    slice_ms: u64,
    period_ms: u64,
    expected_mbit: f64,
    achieved_mbit: f64,
    error_ppm: i64,
    sd_200ms_pct: f64,
    frames: u64,
    lost: u64,
}

#[derive(Debug, Serialize)]
struct PingReport {
    sent: u64,
    answered: u64,
    p50_us: u64,
    p99_us: u64,
}

#[derive(Debug, Serialize)]
struct DriverReport {
    cpu_ns_per_frame: u64,
    frames_tx: u64,
    frames_rx: u64,
    rejected: u64,
}

/// The state of things when the measurement began.
pub struct Before {
    stall_ns: u64,
    driver: Totals,
    pings: u64,
    pongs: u64,
}

/// What the driver has done so far.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    cpu_ns: u64,
    tx: u64,
    rx: u64,
    rejected: u64,
}

fn totals(host: &Host) -> Result<(Totals, u64)> {
    let links = host.query_links()?;
    let mut totals = Totals::default();
    for flow in host.query_flows()? {
        let bill = flow.bill.unwrap_or_default();
        totals.tx += bill.tx_frames;
        totals.rx += bill.rx_frames;
        totals.rejected += rejected(&bill);
    }
    totals.cpu_ns = links.iter().map(|link| link.driver_ns).sum();
    Ok((totals, links.iter().map(|link| link.stall_ns).sum()))
}

/// Frames that were refused on their way out.
fn rejected(bill: &Bill) -> u64 {
    let out = |reason: &DropReason| *reason as u8 >= DropReason::NotAttached as u8;
    bill.drops.iter().filter(|(reason, _)| out(reason)).map(|(_, count)| count).sum()
}

impl Before {
    pub fn new(host: &Host, bin: &Bin) -> Result<Self> {
        let (driver, stall_ns) = totals(host)?;
        Ok(Self { stall_ns, driver, pings: bin.pings, pongs: bin.pongs })
    }

    /// For how long the line has stood still since.
    pub fn stall_since(&self, host: &Host) -> Result<u64> {
        let stall_ns: u64 = host.query_links()?.iter().map(|link| link.stall_ns).sum();
        Ok(stall_ns - self.stall_ns)
    }
}

/// Wire occupancy of `frames` full frames in `ns`.
pub fn wire_mbit(frames: u64, ns: u64) -> f64 {
    let bits = frames * wire_bytes(PAYLOAD_BYTES + HEADER_BYTES) as u64 * 8;
    bits as f64 * 1_000.0 / ns.max(1) as f64
}

/// The same experiment in virtual time: where no lab can be made.
pub fn simulated(contracts: &[Contract], rate: Rate, seconds: u32) -> Result<Report> {
    const PING_NS: u64 = 50_000_000;
    let mut world = World::new(rate, 1);
    // The peer finds us as hosts do.
    world.peer().ask(tools_sim::OUR_ADDRESS);
    let port = |flow: usize| super::PORT + flow as u16;
    let mut apps = Vec::new();
    for (flow, contract) in contracts.iter().enumerate() {
        apps.push(world.connect(*contract, port(flow))?);
    }
    for &app in &apps {
        world.saturate(app, PAYLOAD_BYTES);
        // As people start programs: one after the other.
        world.run_for(7_000_000);
    }
    // Several whole periods pass before the measurement begins, as in the lab.
    world.run_for(1_000_000_000);
    let (begun, end) = (world.now_ns(), world.now_ns() + (u64::from(seconds) + 1) * 1_000_000_000);
    let mut asked = Vec::new();
    while world.now_ns() < end {
        asked.push(world.now_ns());
        world.peer().ping(tools_sim::OUR_ADDRESS, asked.len() as u16 - 1);
        world.run_for(PING_NS);
    }
    let measured_ns = u64::from(seconds) * 1_000_000_000;
    let flow = |(flow, contract): (usize, &Contract)| {
        let mut counts = vec![0; ((end - begun) / 1_000_000) as usize];
        for arrived in world.peer().received(port(flow)) {
            if let Some(count) = arrived
                .at_ns
                .checked_sub(begun)
                .and_then(|at| counts.get_mut((at / 1_000_000) as usize))
            {
                *count += 1;
            }
        }
        let counts = whole_periods(&counts, (measured_ns / 1_000_000) as usize, contract);
        flow_report(contract, rate, counts, measured_ns, 0)
    };
    let flows: Vec<FlowReport> = contracts.iter().enumerate().map(flow).collect();
    let mut times = Histogram::<u64>::new(3)?;
    for &(sequence, at) in world.peer().echoes() {
        times.record((at - asked[usize::from(sequence)]) / 1_000)?;
    }
    let bills: Vec<Bill> = apps.iter().map(|&app| world.bill(app)).collect();
    Ok(Report {
        link: LinkReport {
            kind: "sim".into(),
            line_mbit: rate.bits_per_s() as f64 / 1e6,
            peer: "simulated-host".into(),
        },
        total_mbit: round(flows.iter().map(|flow| flow.achieved_mbit).sum()),
        flows,
        ping: PingReport {
            sent: asked.len() as u64,
            answered: world.peer().echoes().len() as u64,
            p50_us: times.value_at_quantile(0.5),
            p99_us: times.value_at_quantile(0.99),
        },
        arp_answered: world.arp_answered(),
        driver: DriverReport {
            cpu_ns_per_frame: 0,
            frames_tx: bills.iter().map(|bill| bill.tx_frames).sum(),
            frames_rx: bills.iter().map(|bill| bill.rx_frames).sum(),
            rejected: bills.iter().map(rejected).sum(),
        },
        stall_ms: 0.0,
    })
}

/// What a contract is of a line.
pub fn expected_mbit(contract: &Contract, rate: Rate) -> f64 {
    rate.bits_per_s() as f64 / 1e6 * contract.slice_ns as f64 / contract.period_ns as f64
}

impl Report {
    /// The report on the first `measured_ns` of `bins`.
    pub fn new(
        contracts: &[Contract],
        rate: Rate,
        before: &Before,
        bins: &[Bin],
        measured_ns: u64,
        host: &Host,
    ) -> Result<Self> {
        let (driver, stalled) = totals(host)?;
        let stall_ns = stalled - before.stall_ns;
        let available_ns = measured_ns - stall_ns.min(measured_ns);
        let flows: Vec<FlowReport> = contracts
            .iter()
            .enumerate()
            .map(|(flow, contract)| {
                let all = bins.iter().flat_map(|bin| &bin.frames[flow]);
                let all: Vec<u64> = all.map(|&count| u64::from(count)).collect();
                let counts = whole_periods(&all, (measured_ns / 1_000_000) as usize, contract);
                let lost = bins.last().map_or(0, |bin| bin.lost[flow]);
                flow_report(contract, rate, counts, available_ns, lost)
            })
            .collect();
        let mut times = Histogram::<u64>::new(3)?;
        for time in bins.iter().flat_map(|bin| &bin.round_trips_us) {
            times.record(*time)?;
        }
        let last = bins.last();
        let pings = last.map_or(0, |bin| bin.pings) - before.pings;
        let answered = last.map_or(0, |bin| bin.pongs) - before.pongs;
        // One request may be under way.
        let sent = if pings == answered + 1 { answered } else { pings };
        let done = Totals {
            cpu_ns: driver.cpu_ns - before.driver.cpu_ns,
            tx: driver.tx - before.driver.tx,
            rx: driver.rx - before.driver.rx,
            rejected: driver.rejected - before.driver.rejected,
        };
        Ok(Self {
            link: LinkReport {
                kind: "packet".into(),
                line_mbit: rate.bits_per_s() as f64 / 1e6,
                peer: "linux-udp-sockets".into(),
            },
            total_mbit: round(flows.iter().map(|flow| flow.achieved_mbit).sum()),
            flows,
            ping: PingReport {
                sent,
                answered,
                p50_us: times.value_at_quantile(0.5),
                p99_us: times.value_at_quantile(0.99),
            },
            arp_answered: host.query_status()?.arp_answered,
            driver: DriverReport {
                cpu_ns_per_frame: done.cpu_ns / (done.tx + done.rx).max(1),
                frames_tx: done.tx,
                frames_rx: done.rx,
                rejected: done.rejected,
            },
            stall_ms: round(stall_ns as f64 / 1e6),
        })
    }

    /// Prints the table.
    pub fn print(&self) -> Result<()> {
        say!(
            "wire occupancy (frame, check sequence, preamble and gap), as the receiver counted it:"
        )?;
        say!(
            "{:>16} {:>10} {:>10} {:>9} {:>9} {:>8} {:>5}",
            "contract",
            "expected",
            "achieved",
            "error",
            "sd 200ms",
            "frames",
            "lost"
        )?;
        for flow in &self.flows {
            say!(
                "{:>16} {:>10.3} {:>10.3} {:>8.3}% {:>8.3}% {:>8} {:>5}",
                format!("{} in {} ms", flow.slice_ms, flow.period_ms),
                flow.expected_mbit,
                flow.achieved_mbit,
                flow.error_ppm as f64 / 1e4,
                flow.sd_200ms_pct,
                flow.frames,
                flow.lost
            )?;
        }
        say!(
            "{:>16} {:>10} {:>10.3} Mbit/s of {}",
            "total",
            "",
            self.total_mbit,
            self.link.line_mbit
        )?;
        say!(
            "{} link, peer: {}; ping {} of {} answered, p50 {} us, p99 {} us; {} ARP requests answered",
            self.link.kind,
            self.link.peer,
            self.ping.answered,
            self.ping.sent,
            self.ping.p50_us,
            self.ping.p99_us,
            self.arp_answered
        )?;
        say!(
            "driver: {} ns of processor per frame, {} sent, {} received, {} rejected; the line stood still for {} ms, which is not counted",
            self.driver.cpu_ns_per_frame,
            self.driver.frames_tx,
            self.driver.frames_rx,
            self.driver.rejected,
            self.stall_ms
        )?;
        Ok(())
    }
}

/// The `length` milliseconds of `counts` that begin and end where the flow pauses, as near to the
/// start as can be: a window whose edges cut through a slice would count a part of it.
fn whole_periods<'a>(counts: &'a [u64], length: usize, contract: &Contract) -> &'a [u64] {
    let period_ms = (contract.period_ns / 1_000_000) as usize;
    let busy = |at: usize| counts.iter().skip(at.saturating_sub(3)).take(6).sum::<u64>();
    let last = counts.len().saturating_sub(length).min(period_ms);
    let start = (0..=last).min_by_key(|&start| busy(start) + busy(start + length)).unwrap_or(0);
    counts.get(start..start + length).unwrap_or(counts)
}

/// `counts` are frames per millisecond.
fn flow_report(
    contract: &Contract,
    rate: Rate,
    counts: &[u64],
    available_ns: u64,
    lost: u64,
) -> FlowReport {
    let frames: u64 = counts.iter().sum();
    let (achieved, expected) = (wire_mbit(frames, available_ns), expected_mbit(contract, rate));
    let bins: Vec<u64> = counts.chunks_exact(BIN_MS as usize).map(|bin| bin.iter().sum()).collect();
    let count = bins.len().max(1) as f64;
    let mean = bins.iter().sum::<u64>() as f64 / count;
    let variance = bins.iter().map(|&bin| (bin as f64 - mean).powi(2)).sum::<f64>() / count;
    FlowReport {
        slice_ms: contract.slice_ns / 1_000_000,
        period_ms: contract.period_ns / 1_000_000,
        expected_mbit: round(expected),
        achieved_mbit: round(achieved),
        error_ppm: ((achieved / expected - 1.0) * 1e6).round() as i64,
        sd_200ms_pct: round(variance.sqrt() / mean.max(f64::MIN_POSITIVE) * 100.0),
        frames,
        lost,
    }
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
