//! The system as a whole, in a lab: flow set-up, resident memory, idle cost.
//!
//! Runs itself again as the command of `plumb lab`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use plumb_net::{Host, Udp};

const INSIDE: &str = "PLUMB_BENCH_INSIDE";
const FLOWS: usize = 1_000;

fn main() {
    if std::env::var_os(INSIDE).is_some() {
        return measure();
    }
    let this = std::env::current_exe().expect("this program has a file");
    let status = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["lab", "--rate", "1gbit", "--"])
        .arg(this)
        .env(INSIDE, "1")
        .status()
        .expect("plumb runs");
    assert!(status.success(), "the bench failed in the lab");
}

fn measure() {
    let socket: PathBuf = std::env::var_os("PLUMB_SOCKET").expect("in a lab").into();
    let host = Host::connect_for(&socket, 2048).expect("a flow manager");
    let idle: Vec<(String, u64)> =
        daemons().into_iter().map(|(name, pid)| (name, resident_kib(pid))).collect();
    println!("resident, idle: {} KiB ({idle:?})", idle.iter().map(|(_, kib)| kib).sum::<u64>());

    // The neighbour is known before, as in the steady state of a host.
    let options = || Udp::options().host(&host).send_buffers(4).receive_buffers(4);
    let open = || {
        let flow = options().connect("10.77.0.2:7000").expect("a flow");
        flow.send(b"first").expect("a buffer");
        flow
    };
    drop(open());
    let driver = daemons().into_iter().find(|(name, _)| name == "driver").expect("a driver").1;
    let before = status_kib(driver, "RssAnon:");
    let begun = Instant::now();
    let mut times: Vec<u64> = Vec::with_capacity(FLOWS);
    let mut flows = Vec::with_capacity(FLOWS);
    for _ in 0..FLOWS {
        let begun = Instant::now();
        flows.push(open());
        times.push(begun.elapsed().as_nanos() as u64 / 1_000);
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    println!(
        "set-up (open, attach, first frame queued): median {} us, p99 {} us, {:.0} a second",
        times[FLOWS / 2],
        times[FLOWS * 99 / 100],
        FLOWS as f64 / seconds
    );
    // The driver hears of the last flows a little later.
    let seen = || {
        host.query_flows()
            .expect("flows")
            .iter()
            .filter(|flow| flow.bill.as_ref().is_some_and(|bill| bill.tx_frames > 0))
            .count()
    };
    while seen() < FLOWS {
        std::thread::yield_now();
    }
    // Channels and counters are shared memory; counters are the driver's too.
    let grown = status_kib(driver, "RssAnon:").saturating_sub(before) * 1024 / FLOWS as u64;
    let counters = base_flow::BILL_WORDS as u64 * 8;
    println!("an open flow costs the driver {} bytes beyond its channels", grown + counters);
    drop(flows);

    // With nothing to do, processor time over two seconds.
    let before: Vec<u64> = daemons().iter().map(|(_, pid)| cpu_ticks(*pid)).collect();
    std::thread::sleep(Duration::from_secs(2));
    let used: Vec<String> = daemons()
        .iter()
        .zip(before)
        .map(|((name, pid), before)| {
            format!("{name} {:.2} %", (cpu_ticks(*pid) - before) as f64 / 2.0)
        })
        .collect();
    println!("idle processor time: {}", used.join(", "));
}

/// The daemons of the lab, by subcommand.
fn daemons() -> Vec<(String, u32)> {
    let lab = std::os::unix::process::parent_id();
    let children =
        std::fs::read_to_string(format!("/proc/{lab}/task/{lab}/children")).unwrap_or_default();
    let name = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8(line.split(|&byte| byte == 0).nth(1)?.to_vec()).ok()
    };
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(|pid| Some((name(pid)?, pid)))
        .filter(|(name, _)| name == "driver" || name == "flowman")
        .collect()
}

fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Hundredths of a second of processor time.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let words: Vec<&str> = after.split_whitespace().collect();
    [11, 12].iter().filter_map(|&at| words.get(at)?.parse::<u64>().ok()).sum()
}
