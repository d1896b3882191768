//! What the demo reports: wire occupancy by flow, as the receiver counted it.
//!
//! Everything in Mbit/s counts the same: what frames occupy on the wire, check sequence, preamble and
//! gap included. Time the line stood still is taken out of what is expected, and reported.

use anyhow::Result;
use base_flow::Rate;
use base_wire::wire_bytes;
use hdrhistogram::Histogram;
use plumb_net::{Bill, Contract, DropReason, Host};
use serde::Serialize;

use super::PAYLOAD_BYTES;
use super::sink::{BIN_NS, Bin};

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
    pub fn new(host: &Host, bin: Bin) -> Result<Self> {
        let (driver, stall_ns) = totals(host)?;
        Ok(Self { stall_ns, driver, pings: bin.pings, pongs: bin.pongs })
    }
}

/// Wire occupancy of `frames` full frames in `ns`.
pub fn wire_mbit(frames: u64, ns: u64) -> f64 {
    let bits = frames * wire_bytes(PAYLOAD_BYTES + HEADER_BYTES) as u64 * 8;
    bits as f64 * 1_000.0 / ns.max(1) as f64
}

/// What a contract is of a line.
pub fn expected_mbit(contract: &Contract, rate: Rate) -> f64 {
    rate.bits_per_s() as f64 / 1e6 * contract.slice_ns as f64 / contract.period_ns as f64
}

impl Report {
    pub fn new(
        contracts: &[Contract],
        rate: Rate,
        before: &Before,
        bins: &[Bin],
        host: &Host,
    ) -> Result<Self> {
        let (driver, stall_ns) = totals(host)?;
        let stall_ns = stall_ns - before.stall_ns;
        let measured_ns = bins.len() as u64 * BIN_NS;
        let available = 1.0 - stall_ns as f64 / measured_ns as f64;
        let flows: Vec<FlowReport> = contracts
            .iter()
            .enumerate()
            .map(|(flow, contract)| {
                let counts: Vec<u64> = bins.iter().map(|bin| bin.frames[flow]).collect();
                let lost = bins.last().map_or(0, |bin| bin.lost[flow]);
                flow_report(contract, expected_mbit(contract, rate) * available, &counts, lost)
            })
            .collect();
        let mut times = Histogram::<u64>::new(3)?;
        for time in bins.iter().flat_map(|bin| &bin.round_trips_us) {
            times.record(*time)?;
        }
        let last = bins.last();
        let answered = last.map_or(0, |bin| bin.pongs) - before.pongs;
        // A request that was just sent is not lost.
        let sent = (last.map_or(0, |bin| bin.pings) - before.pings).min(answered + 1).max(answered);
        let missing = last.map_or(0, |bin| bin.pings - before.pings).saturating_sub(answered);
        let sent = if missing > 1 { answered + missing } else { sent.min(answered) };
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
    pub fn print(&self) {
        println!(
            "wire occupancy (frame, check sequence, preamble and gap), as the receiver counted it:"
        );
        println!(
            "{:>16} {:>10} {:>10} {:>9} {:>9} {:>8} {:>5}",
            "contract", "expected", "achieved", "error", "sd 200ms", "frames", "lost"
        );
        for flow in &self.flows {
            println!(
                "{:>16} {:>10.3} {:>10.3} {:>8.3}% {:>8.3}% {:>8} {:>5}",
                format!("{} in {} ms", flow.slice_ms, flow.period_ms),
                flow.expected_mbit,
                flow.achieved_mbit,
                flow.error_ppm as f64 / 1e4,
                flow.sd_200ms_pct,
                flow.frames,
                flow.lost
            );
        }
        println!(
            "{:>16} {:>10} {:>10.3} Mbit/s of {}",
            "total", "", self.total_mbit, self.link.line_mbit
        );
        println!(
            "{} link, peer: {}; ping {} of {} answered, p50 {} us, p99 {} us; {} ARP requests answered",
            self.link.kind,
            self.link.peer,
            self.ping.answered,
            self.ping.sent,
            self.ping.p50_us,
            self.ping.p99_us,
            self.arp_answered
        );
        println!(
            "driver: {} ns of processor per frame, {} sent, {} received, {} rejected; the line stood still for {} ms, which is not counted",
            self.driver.cpu_ns_per_frame,
            self.driver.frames_tx,
            self.driver.frames_rx,
            self.driver.rejected,
            self.stall_ms
        );
    }
}

fn flow_report(contract: &Contract, expected: f64, counts: &[u64], lost: u64) -> FlowReport {
    let frames: u64 = counts.iter().sum();
    let achieved = wire_mbit(frames, counts.len() as u64 * BIN_NS);
    let mean = frames as f64 / counts.len().max(1) as f64;
    let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>()
        / counts.len().max(1) as f64;
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
