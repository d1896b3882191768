//! Linux's own shaper on the same wire: kernel sockets, HTB tuned as its users tune it, or a bare line.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Result;
use tools_experiments::outcome::{Metric, Outcome, Part};
use tools_experiments::trace::Trace;

use super::transmit::{PORT, Workload, observe};
use super::{Live, must};
use crate::cli::LinuxPeer;
use crate::lab::OUR_DEV;

/// A way to set Linux up.
pub struct Shaper {
    pub name: String,
    peer: LinuxPeer,
    /// Share of the line that HTB's root may use: its users' remedy for a line that it overcommits.
    root_percent: u64,
    /// HTB's buckets, as `tc` writes them.
    burst: &'static str,
}

/// The ways to set `peer` up for `workload`: HTB with the burst that suits precision, with one that
/// rides out more of what the machine does meanwhile, and on request with a root below the line's rate.
pub fn shapers(peer: LinuxPeer, workload: &Workload, spare: bool) -> Vec<Shaper> {
    let shaper =
        |name: &str, root_percent, burst| Shaper { name: name.into(), peer, root_percent, burst };
    if peer == LinuxPeer::Kernel {
        return vec![shaper(peer.name(), 100, "")];
    }
    // At 1 Gbit/s the default burst costs HTB 2.7 % of the rate.
    let mut all = vec![shaper("htb", 100, "15k")];
    if workload.rate.bits_per_s() < 1_000_000_000 {
        all.push(shaper("htb, burst 1600", 100, "1600"));
    }
    if spare {
        all.push(shaper("htb at 95 %", 95, "15k"));
    }
    all
}

fn tc(words: &str) -> Result<()> {
    must(Command::new("tc").args(words.split_whitespace()))
}

impl Shaper {
    /// Configures the wire's queueing discipline.
    fn configure(&self, workload: &Workload) -> Result<()> {
        let kbit = workload.rate.bits_per_s() / 1_000;
        if self.peer == LinuxPeer::Kernel {
            let burst = if kbit >= 1_000_000 { "15k" } else { "3200" };
            return tc(&format!(
                "qdisc add dev {OUR_DEV} root tbf rate {kbit}kbit burst {burst} limit 150k overhead 24"
            ));
        }
        let burst = format!("burst {0} cburst {0}", self.burst);
        let wire = "overhead 24 mpu 84 quantum 1514";
        let root = kbit * self.root_percent / 100;
        tc(&format!("qdisc add dev {OUR_DEV} root handle 1: htb default fff"))?;
        tc(&format!(
            "class add dev {OUR_DEV} parent 1: classid 1:1 htb rate {root}kbit ceil {root}kbit {burst} {wire}"
        ))?;
        for (index, sender) in workload.senders.iter().enumerate() {
            let (class, port) = (0x10 + index, PORT + index as u16);
            let contract = &sender.contract;
            let share = kbit * contract.slice_ns / contract.period_ns;
            let (rate, prio) = if contract.is_guaranteed() { (share, 0) } else { (8, 1) };
            let ceil = if contract.slack { root } else { rate };
            tc(&format!(
                "class add dev {OUR_DEV} parent 1:1 classid 1:{class:x} htb rate {rate}kbit ceil {ceil}kbit prio {prio} {burst} {wire}"
            ))?;
            tc(&format!("qdisc add dev {OUR_DEV} parent 1:{class:x} pfifo limit 100"))?;
            tc(&format!(
                "filter add dev {OUR_DEV} parent 1: protocol ip prio 1 u32 match ip dport {port} 0xffff flowid 1:{class:x}"
            ))?;
        }
        Ok(())
    }
}

/// Runs `workload` over kernel sockets and `shaper`; or says why that is not possible here.
pub fn run(live: &Live<'_>, shaper: &Shaper, workload: &Workload) -> Result<Result<Trace, String>> {
    let lab = live.linux_lab()?;
    if let Err(reason) = shaper.configure(workload) {
        return Ok(Err(reason.to_string()));
    }
    let (trace, _) = observe(live, &lab, workload, true, &mut || Ok(0), 0)?;
    Ok(Ok(trace))
}

/// Numbers of classes; the last is the most that fit.
const CLASSES: [u32; 4] = [16, 256, 4_096, 65_000];
/// Longest that an installation may take.
const PATIENCE_S: u64 = 45;

/// What a class costs to install, up to HTB's limit of 16 bits.
pub fn scale(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    use std::fmt::Write as _;
    let lab = live.linux_lab()?;
    for classes in CLASSES {
        live.go_on()?;
        let _ = tc(&format!("qdisc del dev {OUR_DEV} root"));
        let mut text = format!("qdisc add dev {OUR_DEV} root handle 1: htb\n");
        for class in 1..=classes {
            let _ = writeln!(
                text,
                "class add dev {OUR_DEV} parent 1: classid 1:{class:x} htb rate 8kbit quantum 1514"
            );
        }
        let file = lab.folder().join("classes");
        std::fs::write(&file, text)?;
        let begun = Instant::now();
        let started = Command::new("tc").arg("-batch").arg(&file).stderr(Stdio::null()).spawn();
        let Ok(mut process) = started else {
            outcome.note("htb left out: `tc` is missing: install iproute2");
            return Ok(());
        };
        let status = loop {
            if let Some(status) = process.try_wait()? {
                break Some(status);
            }
            if begun.elapsed().as_secs() > PATIENCE_S || live.go_on().is_err() {
                process.kill()?;
                process.wait()?;
                break None;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let item = format!("{classes} classes");
        match status {
            Some(status) if status.success() => {
                let each = begun.elapsed().as_micros() as f64 / f64::from(classes);
                let metric = Metric::new("htb", &item, "join", each, "µs");
                outcome.add(Part { metrics: vec![metric], ..Part::default() });
            }
            Some(_) => outcome.note(format!("htb with {item}: `tc` failed")),
            None => outcome.note(format!("htb with {item}: not installed after {PATIENCE_S} s")),
        }
    }
    outcome.note("HTB numbers classes with 16 bits; there are no more than 65,535.");
    Ok(())
}
