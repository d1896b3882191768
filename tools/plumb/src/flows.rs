//! `plumb flows`: who has what, and what it used.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use base_flow::{Contract, LinkFacts};
use base_wire::FRAME_BYTES_MIN;
use plumb_net::{FlowInfo, Host};

use crate::cli;
use crate::output::say;

/// Shows flows, and with `--all` everything else.
pub fn run(arguments: &cli::Flows) -> Result<ExitCode> {
    if let Some(cli::FlowsChange::Set(set)) = &arguments.change {
        return change(set);
    }
    let host = Host::connect(&arguments.socket.socket)?;
    let flows = host.query_flows()?;
    if arguments.json {
        let mut report = serde_json::json!({ "flows": flows });
        if arguments.all {
            report["links"] = serde_json::to_value(host.query_links()?)?;
            report["routes"] = serde_json::to_value(host.query_routes()?)?;
            report["neighbours"] = serde_json::to_value(host.query_neighbours()?)?;
            report["users"] = serde_json::to_value(host.query_users()?)?;
            report["status"] = serde_json::to_value(host.query_status()?)?;
        }
        say!("{}", serde_json::to_string(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.all {
        show_surroundings(&host)?;
    }
    show_flows(&flows)?;
    Ok(ExitCode::SUCCESS)
}

fn change(set: &cli::FlowsSet) -> Result<ExitCode> {
    let host = Host::connect(&set.socket.socket)?;
    let flows = host.query_flows()?;
    let Some(found) = flows.iter().find(|info| info.flow == set.flow) else {
        bail!("there is no flow {}: see `plumb flows`", set.flow)
    };
    let before = found.contract;
    let admitted = host.adjust(set.flow, changed(before, set)?)?;
    say!("flow {}: {before}, now {admitted}", set.flow)?;
    Ok(ExitCode::SUCCESS)
}

/// Another contract: what is not given stays as it is, but a new period is the new deadline too.
fn changed(before: Contract, set: &cli::FlowsSet) -> Result<Contract> {
    let ns = |time: Duration| time.as_nanos() as u64;
    let mut contract = before;
    let is_any = set.slice.or(set.period).or(set.deadline).is_some();
    if !is_any && set.slack.is_none() && set.weight.is_none() {
        bail!(
            "nothing is to change: the flow has {before}; give another, as in --slice 6ms --period 100ms"
        );
    }
    let is_half = match (set.slice, set.period) {
        (Some(slice), None) => !slice.is_zero(),
        (None, period) => period.is_some(),
        (Some(_), Some(_)) => false,
    };
    ensure!(
        before.is_guaranteed() || !is_half,
        "the flow has no slice of a period yet: give both, as in --slice 6ms --period 100ms"
    );
    contract.slice_ns = set.slice.map_or(before.slice_ns, ns);
    if let Some(period) = set.period {
        contract.period_ns = ns(period);
        contract.deadline_ns = contract.period_ns;
    }
    // What has no slice can only be best effort.
    contract.slack |= !contract.is_guaranteed();
    contract.deadline_ns = set.deadline.map_or(contract.deadline_ns, ns);
    contract.slack = set.slack.unwrap_or(contract.slack);
    contract.weight = set.weight.unwrap_or(contract.weight);
    Ok(contract.validated()?)
}

fn show_surroundings(host: &Host) -> Result<()> {
    for link in host.query_links()? {
        let addresses: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
        let LinkFacts { name, kind, mac, mtu, mtu_max, .. } = &link.facts;
        let room = if mtu < mtu_max { format!(" of {mtu_max}") } else { String::new() };
        say!("link {name} ({kind}), {} at {mac}, mtu {mtu}{room}", addresses.join(" "))?;
        say!(
            "  {} scheduled, {:.1} of {:.1} % promised, a frame is charged at least {} ns, a guaranteed one is at most {} us late, line stood still {} ms",
            link.facts.rate,
            link.promised_ppm as f64 / 1e4,
            link.promisable_ppm as f64 / 1e4,
            link.facts.rate.wire_ns(FRAME_BYTES_MIN).max(link.facts.frame_cost_ns),
            link.facts.tardiness_ns / 1_000,
            link.stall_ns / 1_000_000
        )?;
        show_drops("  frames of no flow dropped", &link.bill)?;
    }
    for route in host.query_routes()? {
        match route.gateway {
            Some(gateway) => say!("route {} over {gateway} on {}", route.prefix, route.link)?,
            None => say!("route {} on {}", route.prefix, route.link)?,
        }
    }
    for neighbour in host.query_neighbours()? {
        let mac = neighbour.mac.map_or_else(|| "-".to_string(), |mac| mac.to_string());
        let state = format!("{:?}", neighbour.state).to_lowercase();
        say!(
            "neighbour {} {mac} {state} for {} s on {}",
            neighbour.address,
            neighbour.age_ms / 1000,
            neighbour.link
        )?;
    }
    for user in host.query_users()? {
        say!(
            "user {}: {} connections, {} flows, {} laid out and {} held of {} of shared memory",
            user.uid,
            user.connections,
            user.flows,
            mebibytes(user.laid_out_bytes),
            mebibytes(user.held_bytes),
            mebibytes(user.memory_bytes)
        )?;
    }
    let status = host.query_status()?;
    say!(
        "answered: {} ARP, {} echo, {} unreachable, {} resets; {} held back; {} address conflicts; last resort lost {} times",
        status.arp_answered,
        status.echo_answered,
        status.unreachable_sent,
        status.resets_sent,
        status.replies_suppressed,
        status.conflicts,
        status.last_resorts_lost
    )?;
    say!()?;
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn show_flows(flows: &[FlowInfo]) -> Result<()> {
    say!(
        "{:>8} {:>7} {:>5}  {:<44} {:<22} {:>10} {:>10} {:>9}",
        "FLOW",
        "PID",
        "UID",
        "ENDS",
        "CONTRACT",
        "SENT",
        "RECEIVED",
        "DROPPED"
    )?;
    for info in flows {
        let ends = match (&info.endpoints, info.pid) {
            (Some(ends), _) => ends.to_string(),
            (None, 0) => "last resort".to_string(),
            (None, _) => "not attached".to_string(),
        };
        let number =
            |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let bill = info.bill.as_ref();
        say!(
            "{:>8} {:>7} {:>5}  {ends:<44} {:<22} {:>10} {:>10} {:>9}",
            info.flow.to_string(),
            info.pid,
            info.uid,
            info.contract.to_string(),
            number(bill.map(|bill| bill.tx_frames)),
            number(bill.map(|bill| bill.rx_frames)),
            number(bill.map(plumb_net::Bill::dropped_total)),
        )?;
        if let Some(bill) = bill {
            show_drops("          dropped", bill)?;
        }
    }
    Ok(())
}

fn show_drops(what: &str, bill: &plumb_net::Bill) -> Result<()> {
    for (reason, count) in &bill.drops {
        say!("{what}: {count} {reason} ({})", reason.meaning())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn set(before: Contract, options: &str) -> Result<Contract> {
        let words = ["plumb", "flows", "set", "3.1"].into_iter().chain(options.split_whitespace());
        let cli = cli::Cli::try_parse_from(words)?;
        let cli::Command::Flows(cli::Flows { change: Some(cli::FlowsChange::Set(set)), .. }) =
            cli.command
        else {
            panic!("other words")
        };
        changed(before, &set)
    }

    #[test]
    fn what_is_not_given_of_a_contract_stays_and_no_slice_is_best_effort() {
        let guaranteed = Contract::guaranteed(6_000_000, 100_000_000).unwrap();
        let other = |slice_ns, period_ns| Contract::guaranteed(slice_ns, period_ns).unwrap();
        assert_eq!(set(guaranteed, "--slice 2ms").unwrap(), other(2_000_000, 100_000_000));
        assert_eq!(set(guaranteed, "--period 50ms").unwrap(), other(6_000_000, 50_000_000));
        for none in ["--slice 0ms", "--slice 0ms --slack", "--slice 0ms --period 100ms"] {
            let contract = set(guaranteed, none).unwrap();
            assert!(!contract.is_guaranteed() && contract.slack, "{none}: {contract:?}");
        }
        assert_eq!(
            set(guaranteed, "--slice 6ms").unwrap(),
            guaranteed,
            "asking twice is no mistake"
        );
        for (before, options, says) in [
            (Contract::BEST_EFFORT, "--slice 6ms", "give both"),
            (Contract::BEST_EFFORT, "--period 100ms", "give both"),
            (guaranteed, "", "6ms in 100ms"),
            (guaranteed, "--period 1ms", "longer than its period"),
            (guaranteed, "--slice 0ms --slack false", "slack"),
        ] {
            let error = set(before, options).unwrap_err().to_string();
            assert!(error.contains(says), "{options}: {error}");
        }
    }
}
