//! What changed between two looks at the counters.

use std::collections::HashMap;

use anyhow::Result;
use plumb_net::{Bill, Contract, DropReason, FlowId, FlowInfo, Host, LinkInfo};
use rbuf_shm::monotonic_ns;
use serde::Serialize;

/// The counters at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    at_ns: u64,
    flows: Vec<FlowInfo>,
    links: Vec<LinkInfo>,
}

impl Snapshot {
    /// Asks the flow manager.
    pub fn take(host: &Host) -> Result<Self> {
        let (flows, links) = (host.query_flows()?, host.query_links()?);
        Ok(Self { at_ns: monotonic_ns(), flows, links })
    }

    #[cfg(test)]
    pub fn of(at_ns: u64, flows: Vec<FlowInfo>, links: Vec<LinkInfo>) -> Self {
        Self { at_ns, flows, links }
    }
}

/// What happened on a link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub name: String,
    pub rate_mbit: f64,
    /// Occupied by what was sent, in percent; nothing if there are flows that the asker may not see.
    pub used_pct: Option<f64>,
    /// Promised to flows, in percent.
    pub promised_pct: f64,
    /// The driver's processor time, in percent of one.
    pub driver_cpu_pct: f64,
    /// Time the line stood still because the driver could not run.
    pub stall_ms: f64,
}

/// What happened to a flow. Rates are of wire occupancy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub flow: String,
    pub pid: i32,
    pub command: String,
    pub uid: u32,
    pub ends: String,
    pub link: String,
    pub contract: String,
    /// What the contract guarantees.
    pub promised_mbit: f64,
    /// Whether the asker may see the rest.
    pub visible: bool,
    pub sent_mbit: f64,
    /// Of what was sent, on slack.
    pub slack_mbit: f64,
    /// Periods so far in which a frame was later than the contract allows, stalls not counted.
    pub periods_missed: u64,
    pub received_mbit: f64,
    /// Frames that waited for the application when the last one was delivered.
    pub backlog: u64,
    pub drops_per_s: f64,
    /// Drops so far by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Driver time billed, in percent of a processor.
    pub driver_cpu_pct: f64,
    /// Wire time billed, in percent of the line.
    pub wire_pct: f64,
    pub sent_frames: u64,
    pub received_frames: u64,
}

impl Row {
    /// What was sent of what is promised; more than 1 on slack, nothing without a promise.
    pub fn fulfilment(&self) -> Option<f64> {
        (self.promised_mbit > 0.0).then(|| self.sent_mbit / self.promised_mbit)
    }
}

/// What happened between two looks.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    pub seconds: f64,
    pub links: Vec<Line>,
    pub flows: Vec<Row>,
}

impl Report {
    /// What changed from `before` to `now`; `command` names a process.
    pub fn between(before: &Snapshot, now: &Snapshot, command: impl Fn(i32) -> String) -> Self {
        let seconds = (now.at_ns - before.at_ns) as f64 / 1e9;
        let known: HashMap<FlowId, &Bill> =
            before.flows.iter().filter_map(|info| Some((info.flow, info.bill.as_ref()?))).collect();
        let nothing = Bill::default();
        let rows = now.flows.iter().map(|info| {
            let earlier = known.get(&info.flow).copied().unwrap_or(&nothing);
            row(info, earlier, now.rate_mbit(&info.link), seconds, &command)
        });
        let flows: Vec<Row> = rows.collect();
        let links = now.links.iter().map(|link| {
            let mine = || flows.iter().filter(|row| row.link == link.facts.name);
            let all_visible = mine().all(|row| row.visible);
            let earlier = before.links.iter().find(|earlier| earlier.link == link.link);
            let (driver_ns, stall_ns) =
                earlier.map_or((0, 0), |earlier| (earlier.driver_ns, earlier.stall_ns));
            Line {
                name: link.facts.name.clone(),
                rate_mbit: now.rate_mbit(&link.facts.name),
                used_pct: all_visible.then(|| rounded(mine().map(|row| row.wire_pct).sum())),
                promised_pct: link.promised_ppm as f64 / 1e4,
                driver_cpu_pct: share(link.driver_ns.saturating_sub(driver_ns), seconds),
                stall_ms: rounded(link.stall_ns.saturating_sub(stall_ns) as f64 / 1e6),
            }
        });
        Self { seconds: rounded(seconds), links: links.collect(), flows }
    }
}

impl Snapshot {
    fn rate_mbit(&self, link: &str) -> f64 {
        let found = self.links.iter().find(|found| found.facts.name == link);
        found.map_or(0.0, |found| found.facts.rate.bits_per_s() as f64 / 1e6)
    }
}

/// Nanoseconds in so many seconds, in percent.
fn share(ns: u64, seconds: f64) -> f64 {
    rounded(ns as f64 / seconds.max(1e-9) / 1e7)
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn promised_mbit(contract: &Contract, rate_mbit: f64) -> f64 {
    rounded(rate_mbit * contract.slice_ns as f64 / contract.period_ns as f64)
}

fn row(
    info: &FlowInfo,
    earlier: &Bill,
    rate_mbit: f64,
    seconds: f64,
    command: &impl Fn(i32) -> String,
) -> Row {
    let nothing = Bill::default();
    let bill = info.bill.as_ref().unwrap_or(&nothing);
    let since = |now: u64, before: u64| now.saturating_sub(before);
    let wire_pct = share(since(bill.tx_wire_ns, earlier.tx_wire_ns), seconds);
    let slack_pct = share(since(bill.tx_slack_ns, earlier.tx_slack_ns), seconds);
    let received =
        since(bill.rx_bytes, earlier.rx_bytes) + 24 * since(bill.rx_frames, earlier.rx_frames);
    let dropped = since(bill.dropped_total(), earlier.dropped_total());
    let cpu = |bill: &Bill| bill.tx_cpu_ns + bill.rx_cpu_ns;
    Row {
        flow: info.flow.to_string(),
        pid: info.pid,
        command: if info.pid == 0 { "flow manager".into() } else { command(info.pid) },
        uid: info.uid,
        ends: match (&info.endpoints, info.pid) {
            (Some(ends), _) => ends.to_string(),
            (None, 0) => "last resort".into(),
            (None, _) => "not attached".into(),
        },
        link: info.link.clone(),
        contract: info.contract.to_string(),
        promised_mbit: promised_mbit(&info.contract, rate_mbit),
        visible: info.bill.is_some(),
        sent_mbit: rounded(rate_mbit * wire_pct / 100.0),
        slack_mbit: rounded(rate_mbit * slack_pct / 100.0),
        periods_missed: bill.tx_periods_missed,
        received_mbit: rounded(received as f64 * 8.0 / seconds.max(1e-9) / 1e6),
        backlog: bill.rx_backlog,
        drops_per_s: rounded(dropped as f64 / seconds.max(1e-9)),
        drops: bill.drops.clone(),
        driver_cpu_pct: share(since(cpu(bill), cpu(earlier)), seconds),
        wire_pct,
        sent_frames: bill.tx_frames,
        received_frames: bill.rx_frames,
    }
}

/// The name of a process of this machine; `-` if it has gone or hides.
pub fn command(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    // Any user may put anything there.
    let printable = |letter: char| if letter.is_control() { '?' } else { letter };
    name.map_or_else(|_| "-".into(), |name| name.trim().chars().map(printable).collect())
}
