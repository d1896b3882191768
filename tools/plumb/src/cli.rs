//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use base_flow::{FlowId, InvalidContract, Prefix, Rate};
use base_wire::VlanTag;
use clap::{Args, CommandFactory, Parser, Subcommand};
use flowman_core::LinkConfig;
use plumb_net::{Contract, DEFAULT_SOCKET};

use crate::output;

mod notation;
mod roles;

use notation::{at_most, share_ppm};
pub use notation::{contract, contract_argument, duration};
pub use roles::{Capture, Keeper, Labour, Peer, Reader, Sender, Sink, Source, StreamOption};

/// Your own network stack, your own slice of the wire, the bill for your own protocol work.
///
/// Start with `plumb demo`: it needs no rights and no configuration.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Six senders with contracts of 4 to 24 ms in 100 ms share a wire: the paper's figure 5(a), live.
    Demo(Demo),
    /// A lab of network namespaces: Plumb at 10.77.0.1, a Linux peer at 10.77.0.2, and a shell.
    ///
    /// In the lab, PLUMB_SOCKET names the flow manager's socket, and `$PLUMB_PEER cmd…` runs a command
    /// on the peer's side. The exit status is that of the command.
    Lab(Lab),
    /// Start the flow manager and a driver for each link, on real interfaces.
    Up(Up),
    /// Run the flow manager alone.
    Flowman(Flowman),
    /// Run one driver alone.
    Driver(Driver),
    /// Show flows: who has them, their contracts, what they used; or change a contract.
    Flows(Flows),
    /// Watch flows: what they were promised, what they get, what they are billed.
    Top(Top),
    /// Run the paper's experiments and their modern counterparts, and say whether their bands hold.
    ///
    /// The exit status is 1 if a band is missed.
    Experiment(Experiment),
    /// Read what TCP connections that met trouble did last.
    Trace(Trace),
    /// Measure Plumb beside the kernel, in a lab.
    Bench(Bench),
    /// Ask a server over Plumb for very many answers, and see that nothing goes wrong and nothing stays.
    ///
    /// A server over the kernel's stack is asked for the same. The exit status is 1 if a connection was reset, an answer
    /// was wrong, more requests than the kernel's took over 100 ms, or something was left behind.
    Soak(Soak),
    /// Connect standard input and output to a TCP stream or a UDP flow.
    Nc(Nc),
    /// Ask a host to answer, over a flow of our own.
    Ping(Ping),
    /// Say what this kernel offers, and what to do about what is missing.
    Doctor(Doctor),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Hidden(Hidden),
}

/// Processes that labs, the demo and the flow manager are made of.
#[derive(Debug, Subcommand)]
pub enum Hidden {
    #[command(name = "__peer", hide = true)]
    Peer(Peer),
    #[command(name = "__keeper", hide = true)]
    Keeper(Keeper),
    #[command(name = "__bench-end", hide = true)]
    BenchEnd(BenchEnd),
    #[command(name = "__soak-server", hide = true)]
    SoakServer(SoakServer),
    #[command(name = "__soak-clients", hide = true)]
    SoakClients(SoakClients),
    #[command(name = "__wire", hide = true)]
    Wire(Wire),
    #[command(name = "__in-peer", hide = true)]
    InPeer {
        pid: u32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    #[command(name = "__run", hide = true)]
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    #[command(name = "__sender", hide = true)]
    Sender(Sender),
    #[command(name = "__sink", hide = true)]
    Sink(Sink),
    #[command(name = "__capture", hide = true)]
    Capture(Capture),
    #[command(name = "__source", hide = true)]
    Source(Source),
    #[command(name = "__reader", hide = true)]
    Reader(Reader),
    #[command(name = "__work", hide = true)]
    Work,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Print one JSON object on standard output and nothing else there.
    #[arg(long)]
    pub json: bool,
    /// Run on a simulated wire in virtual time, as where no lab can be made.
    #[arg(long)]
    pub sim: bool,
}

#[derive(Debug, Args)]
pub struct Trace {
    /// Dumps of TCP connections: those that $PLUMB_TCP_TRACE, a folder, got from applications in whose
    /// environment it was set.
    #[arg(long, required = true)]
    pub tcp: bool,
    /// One object of JSON for each record.
    #[arg(long)]
    pub json: bool,
    /// Files, or folders of them.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    #[arg(value_enum)]
    pub what: BenchWhat,
    /// How often; Plumb and the kernel take turns, and medians count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// How long a transfer takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Only the figures whose name contains this.
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// One object of JSON for each figure.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Soak {
    /// How many requests, of 1 to 200 clients at a time.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000_000))]
    pub requests: u64,
    /// What the clients' chances follow from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object on standard output and nothing else there.
    #[arg(long)]
    pub json: bool,
}

/// The server of a soak.
#[derive(Debug, Args)]
pub struct SoakServer {
    /// Whose stack.
    #[arg(long, value_enum)]
    pub stack: Stack,
    /// Where to listen.
    #[arg(long)]
    pub at: SocketAddr,
}

/// The clients of a soak.
#[derive(Debug, Args)]
pub struct SoakClients {
    /// Where the server listens.
    #[arg(long)]
    pub to: SocketAddr,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchWhat {
    /// Streams: bulk both ways, over a lossy path, connections a second, memory.
    Tcp,
}

/// One end of a measured stream.
#[derive(Debug, Args)]
pub struct BenchEnd {
    /// Whose stack.
    #[arg(long, value_enum)]
    pub stack: Stack,
    /// What it does.
    #[arg(long, value_enum)]
    pub does: BenchDoes,
    /// Where the other end listens, or where to listen.
    #[arg(long)]
    pub at: std::net::SocketAddr,
    /// For how long.
    #[arg(long, default_value_t = 3)]
    pub seconds: u32,
    /// How many connections.
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// How many threads connect at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub callers: u32,
}

/// A stack to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stack {
    Plumb,
    Kernel,
}

/// What an end of a measured stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchDoes {
    /// Connects and sends as fast as it can.
    Send,
    /// Accepts, and says how much it received in each second.
    Receive,
    /// Connects and closes, one after the other.
    Connect,
    /// Accepts and closes.
    Accept,
    /// Opens connections and holds them.
    Hold,
    /// Accepts connections and holds them.
    AcceptAndHold,
}

#[derive(Debug, Args)]
pub struct Lab {
    /// Rate of the wire, in both directions.
    #[arg(long, default_value = "100mbit")]
    pub rate: Rate,
    /// Largest packet of the wire, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(576..=65_000))]
    pub mtu: u32,
    #[command(flatten)]
    pub pace: Pace,
    #[command(flatten)]
    pub way: Way,
    /// Let the peer cut its segments and fill in its checksums, as a wire shows them. By default its kernel leaves
    /// both to its interface, as Linux does on such a wire.
    #[arg(long)]
    pub no_offloads: bool,
    /// What to run; a shell if nothing is given.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// What happens to frames between the two sides of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args)]
pub struct Way {
    /// How long a frame takes, each way, as in `10ms`.
    #[arg(long, default_value = "0us", value_parser = duration)]
    pub delay: Duration,
    /// How many frames are lost, each way, as in `1%`.
    #[arg(long, default_value = "0%", value_name = "SHARE", value_parser = share_ppm)]
    pub loss: u32,
    /// How many frames are overtaken by later ones.
    #[arg(long, default_value = "0%", value_name = "SHARE", value_parser = share_ppm)]
    pub reorder: u32,
    /// How many frames arrive twice.
    #[arg(long, default_value = "0%", value_name = "SHARE", value_parser = share_ppm)]
    pub duplicate: u32,
}

impl Way {
    /// Whether it is a mere wire.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The options that say the same to another process.
    pub fn arguments(&self) -> Vec<String> {
        let share = |ppm: u32| format!("{}%", f64::from(ppm) / 10_000.0);
        let mut all = vec!["--delay".into(), format!("{}ns", self.delay.as_nanos())];
        for (name, ppm) in
            [("--loss", self.loss), ("--reorder", self.reorder), ("--duplicate", self.duplicate)]
        {
            all.extend([name.into(), share(ppm)]);
        }
        all
    }
}

/// The process that stands between the two sides.
#[derive(Debug, Args)]
pub struct Wire {
    #[arg(long)]
    pub left: String,
    #[arg(long)]
    pub right: String,
    #[command(flatten)]
    pub way: Way,
}

/// Beyond it, frames would be with the device for longer than the paper's period.
const LEAD_MAX: Duration = Duration::from_millis(100);
/// No period is longer, so who spins so long never sleeps.
const SPIN_MAX: Duration = Duration::from_nanos(Contract::PERIOD_NS_MAX);
/// No machine needs so long for a frame; with more than its slice a flow could never send one.
const FRAME_COST_MAX: Duration = Duration::from_millis(10);

/// As [`VlanTag::IDS`], for `clap`.
fn vlans() -> std::ops::RangeInclusive<i64> {
    (*VlanTag::IDS.start()).into()..=(*VlanTag::IDS.end()).into()
}

/// How closely the driver follows the wire.
#[derive(Debug, Clone, Default, Args)]
pub struct Pace {
    /// Hand frames to the device at most this long ahead of the wire, as in `250us`; longer means
    /// fewer wake-ups and later deadlines. Unless told, 1 ms, and 10 us for a driver that spins; two frames or one
    /// if that is longer.
    #[arg(long, value_parser = |text: &str| at_most(text, LEAD_MAX))]
    pub lead: Option<Duration>,
    /// Do not sleep when there is something to do within this time, nor for so long after there was, as
    /// in `100us`; costs processor time and saves latency.
    #[arg(long, default_value = "0us", value_parser = |text: &str| at_most(text, SPIN_MAX))]
    pub spin: Duration,
    /// Charge every frame at least this much of its contract: the driver's own time for a frame, so
    /// that contracts hold for floods of small frames too. Unless told, it is measured at the start with some 500
    /// short frames that no bridge passes on, and at most 10 us; `0us` is for the time on the wire alone.
    #[arg(long, value_parser = |text: &str| at_most(text, FRAME_COST_MAX))]
    pub frame_cost: Option<Duration>,
    /// Take frames from applications and nothing larger, also where the kernel would cut it.
    #[arg(long)]
    pub frame_by_frame: bool,
}

impl Pace {
    /// The options that say the same to another process.
    pub fn arguments(&self) -> Vec<String> {
        let ns = |time: Duration| format!("{}ns", time.as_nanos());
        let mut all = vec!["--spin".into(), ns(self.spin)];
        if let Some(cost) = self.frame_cost {
            all.extend(["--frame-cost".into(), ns(cost)]);
        }
        if let Some(lead) = self.lead {
            all.extend(["--lead".into(), ns(lead)]);
        }
        if self.frame_by_frame {
            all.push("--frame-by-frame".into());
        }
        all
    }
}

#[derive(Debug, Args)]
pub struct Socket {
    /// The flow manager's socket.
    #[arg(long, env = "PLUMB_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("links").required(true).args(["config", "dev"]))]
pub struct Up {
    #[command(flatten)]
    pub socket: Socket,
    /// A TOML file with links and policy, instead of the options below.
    #[arg(long, conflicts_with_all = ["dev", "addr", "gateway", "rate", "probe_wait"])]
    pub config: Option<PathBuf>,
    /// Interface to drive.
    #[arg(long, requires = "addr")]
    pub dev: Option<String>,
    /// Address that Plumb owns on it, with prefix length, as in 192.0.2.10/24. The kernel must not own
    /// it too.
    #[arg(long, requires = "dev")]
    pub addr: Option<Prefix>,
    /// Router for everything else.
    #[arg(long)]
    pub gateway: Option<IpAddr>,
    #[command(flatten)]
    pub probing: Probing,
    /// Rate of the wire.
    #[arg(long, default_value = "1gbit")]
    pub rate: Rate,
    /// The user that the flow manager becomes when it has bound its sockets, by name or number; a system user
    /// `plumb` if there is one, otherwise nobody.
    #[arg(long)]
    pub user: Option<String>,
    #[command(flatten)]
    pub pace: Pace,
}

/// How others on the link are asked whether they have our address.
#[derive(Debug, Clone, Copy, Args)]
pub struct Probing {
    /// Before the address is used, ask others on the link whether they have it, after up to this time
    /// (PROBE_WAIT of RFC 5227, whose other times go with it): with 1s it takes 4 to 7 seconds. With 0s nobody is
    /// asked.
    #[arg(long, default_value = "1s", value_parser = probe_wait, value_name = "TIME")]
    pub probe_wait: u32,
}

impl Probing {
    /// The options that say the same to another process.
    pub fn arguments(self) -> [String; 2] {
        ["--probe-wait".into(), format!("{}ms", self.probe_wait)]
    }
}

/// A time of up to a second, in milliseconds.
fn probe_wait(text: &str) -> Result<u32, String> {
    let time = duration(text)?;
    let ms = time.as_millis() as u64;
    if Duration::from_millis(ms) != time || ms > LinkConfig::PROBE_WAIT_MS.into() {
        return Err("whole milliseconds are needed, up to `1s`".to_string());
    }
    Ok(ms as u32)
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("links").required(true).args(["config", "dev"]))]
pub struct Flowman {
    #[command(flatten)]
    pub socket: Socket,
    /// A TOML file with links and policy.
    #[arg(long, conflicts_with_all = ["dev", "addr", "gateway", "probe_wait"])]
    pub config: Option<PathBuf>,
    /// Name of the link's interface.
    #[arg(long, requires = "addr")]
    pub dev: Option<String>,
    /// Address that Plumb owns on it.
    #[arg(long, requires = "dev")]
    pub addr: Option<Prefix>,
    /// Router for everything else.
    #[arg(long)]
    pub gateway: Option<IpAddr>,
    /// The user to become when the sockets are bound, by name or number; a system user `plumb` if there is one,
    /// otherwise nobody.
    #[arg(long)]
    pub user: Option<String>,
    #[command(flatten)]
    pub probing: Probing,
    /// Die with the process that started this one.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

#[derive(Debug, Args)]
pub struct Driver {
    #[command(flatten)]
    pub socket: Socket,
    /// Interface to drive.
    #[arg(long)]
    pub dev: String,
    /// VLAN of the interface to use.
    #[arg(long, value_parser = clap::value_parser!(u16).range(vlans()))]
    pub vlan: Option<u16>,
    /// Rate of the wire.
    #[arg(long, default_value = "1gbit")]
    pub rate: Rate,
    #[command(flatten)]
    pub pace: Pace,
    /// Run on this processor only, counted from 0: worth it with `--spin`.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Schedule the wire by a policy that Plumb is compared with: qosentry, token-bucket, drr or
    /// carousel.
    #[arg(long, hide = true)]
    pub policy: Option<String>,
    /// Die with the process that started this one.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Flows {
    #[command(subcommand)]
    pub change: Option<FlowsChange>,
    #[command(flatten)]
    pub socket: Socket,
    /// Show links, routes, neighbours and totals too.
    #[arg(long)]
    pub all: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum FlowsChange {
    /// Change the contract of a running flow, as soon as what it has sent is paid for.
    Set(FlowsSet),
}

#[derive(Debug, Args)]
pub struct FlowsSet {
    #[command(flatten)]
    pub socket: Socket,
    /// The flow, as `plumb flows` names it.
    pub flow: FlowId,
    /// Link time in every period, as in `6ms`; `0ms` for none: best effort. The period stays, unless it is given.
    #[arg(long, value_parser = duration)]
    pub slice: Option<Duration>,
    /// The period, as in `100ms`; the slice stays, unless it is given.
    #[arg(long, value_parser = duration)]
    pub period: Option<Duration>,
    /// How soon after becoming ready the slice is wanted; a new period if only that is given.
    #[arg(long, value_parser = duration)]
    pub deadline: Option<Duration>,
    /// Whether to use link time that nobody has claimed, too.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub slack: Option<bool>,
    /// Share of slack relative to other flows.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    pub weight: Option<u8>,
}

#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    pub socket: Socket,
    /// Print once what happened in one interval, as text.
    #[arg(long)]
    pub once: bool,
    /// Print once, as JSON.
    #[arg(long)]
    pub json: bool,
    /// Time between two looks.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    pub interval: Duration,
}

#[derive(Debug, Args)]
pub struct Experiment {
    /// fig5a, fig5b, fig6, fig7, flood, closed, bill, latency, scale, adversary, or all.
    #[arg(required = true)]
    pub names: Vec<String>,
    /// In virtual time, by a simulator: seconds, repeatable to the byte. This is the default.
    #[arg(long, conflicts_with = "live")]
    pub sim: bool,
    /// In a lab: real daemons, real processes, a real kernel at the other end.
    #[arg(long)]
    pub live: bool,
    /// Run the same on Linux beside us.
    #[arg(long, value_delimiter = ',', requires = "live")]
    pub peer: Vec<LinuxPeer>,
    /// How often; interleaved with the peers', judged by medians.
    #[arg(long, default_value_t = 1, conflicts_with = "sim", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// How long a live run takes, in seconds; as long as the paper's if not given.
    #[arg(long, requires = "live", value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub seconds: Option<u32>,
    /// What the simulator's chances follow from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Schedule our wire by another policy, to see the bands missed: qosentry, token-bucket, drr or
    /// carousel.
    #[arg(long, requires = "live")]
    pub policy: Option<String>,
    /// Allow so many times what the bands allow, on a machine that does other things too.
    #[arg(long, default_value_t = 1.0, value_parser = at_least_one)]
    pub widen: f64,
    /// Write CSV, SVG and one self-contained report.html into this folder.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print one JSON object for each experiment on standard output and nothing else there.
    #[arg(long)]
    pub json: bool,
}

/// Linux's own means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LinuxPeer {
    /// Kernel sockets shaped by HTB.
    Htb,
    /// Kernel sockets on a line, unshaped.
    Kernel,
}

impl LinuxPeer {
    /// As tables and the command line call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Htb => "htb",
            Self::Kernel => "kernel",
        }
    }
}

fn at_least_one(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if factor >= 1.0 && factor.is_finite() {
        Ok(factor)
    } else {
        Err("bands can be widened only: give at least 1".into())
    }
}

#[derive(Debug, Args)]
pub struct Nc {
    #[command(flatten)]
    pub socket: Socket,
    /// Datagrams instead of a stream.
    #[arg(short, long)]
    pub udp: bool,
    /// Wait for somebody at PORT, or at HOST and PORT, and talk to who comes first.
    #[arg(short, long)]
    pub listen: bool,
    /// HOST and PORT to talk to, as in `10.77.0.2 5000` or `10.77.0.2:5000`.
    #[arg(required = true, num_args = 1..=2, value_name = "HOST PORT")]
    pub place: Vec<String>,
    #[command(flatten)]
    pub share: Share,
    /// Seconds to wait for more datagrams after the end of standard input.
    #[arg(short = 'w', long, default_value_t = 1)]
    pub wait: u32,
}

/// A contract, in one word or as an offer says it.
#[derive(Debug, Args)]
pub struct Share {
    /// Share of the wire to ask for, as in `4ms/100ms` or `4ms/100ms+slack*3`; best effort if not given.
    #[arg(long, value_parser = contract,
        conflicts_with_all = ["slice", "period", "deadline", "slack", "weight"])]
    contract: Option<Contract>,
    /// The same in options, as refusals offer it: link time in every period, as in `6ms`.
    #[arg(long, value_parser = duration, requires = "period")]
    slice: Option<Duration>,
    /// The period, as in `100ms`.
    #[arg(long, value_parser = duration, requires = "slice")]
    period: Option<Duration>,
    /// How soon after becoming ready the slice is wanted.
    #[arg(long, value_parser = duration, requires = "slice")]
    deadline: Option<Duration>,
    /// Use link time that nobody has claimed, too.
    #[arg(long)]
    slack: bool,
    /// Share of slack relative to other flows.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    weight: Option<u8>,
}

impl Share {
    /// The contract, if one is asked for.
    pub fn contract(&self) -> Result<Option<Contract>, InvalidContract> {
        if self.slice.is_none() && !self.slack && self.weight.is_none() {
            return Ok(self.contract);
        }
        let ns = |time: Duration| time.as_nanos() as u64;
        let period_ns = self.period.map_or(Contract::BEST_EFFORT.period_ns, ns);
        let contract = Contract {
            slice_ns: self.slice.map_or(0, ns),
            period_ns,
            deadline_ns: self.deadline.map_or(period_ns, ns),
            slack: self.slack || self.slice.is_none(),
            weight: self.weight.unwrap_or(1),
        };
        contract.validated().map(Some)
    }
}

#[derive(Debug, Args)]
pub struct Ping {
    #[command(flatten)]
    pub socket: Socket,
    /// The host.
    pub host: IpAddr,
    /// How many requests to send.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Time between requests.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Data bytes in a request.
    #[arg(short, long, default_value_t = 56)]
    pub size: u16,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub socket: Socket,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // It panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "plumb", &mut script);
    output::bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_a_refusal_offers_can_be_typed_where_it_was_asked_for() {
        let guaranteed = Contract::guaranteed(1_500_000, 100_000_000).unwrap();
        let hint = guaranteed.with_deadline(20_000_000).unwrap().with_slack(true);
        for offer in [
            guaranteed,
            hint,
            Contract { weight: 9, ..hint },
            Contract::BEST_EFFORT,
            Contract { weight: 2, ..Contract::BEST_EFFORT },
        ] {
            let options = offer.options().to_string();
            let words = ["plumb", "nc"].into_iter().chain(options.split(' '));
            let read = Cli::try_parse_from(words.chain(["10.77.0.2", "5000"])).unwrap();
            let Command::Nc(nc) = read.command else { panic!("{read:?}") };
            assert_eq!(nc.share.contract(), Ok(Some(offer)), "{options}");
        }
    }

    #[test]
    fn what_no_driver_can_do_is_refused_with_what_it_can() {
        let parse = |option: &str, value: &str| {
            let words = ["plumb", "driver", "--dev", "eth0", option, value];
            Cli::try_parse_from(words).map_err(|error| error.to_string())
        };
        for (option, least, most, beyond) in [
            ("--vlan", "1", "4094", "4095"),
            ("--lead", "0us", "100ms", "100.1ms"),
            ("--spin", "0us", "1s", "1.1s"),
            ("--frame-cost", "0us", "10ms", "11ms"),
        ] {
            assert!(parse(option, least).is_ok() && parse(option, most).is_ok(), "{option}");
            let refusal = parse(option, beyond).unwrap_err();
            let most = if most == "1s" { "1000ms" } else { most };
            assert!(refusal.contains(option) && refusal.contains(most), "{refusal}");
        }
        assert!(parse("--vlan", "0").unwrap_err().contains("1..=4094"));
    }
}
