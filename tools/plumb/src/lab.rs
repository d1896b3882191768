//! The lab: two network namespaces, a wire between them, Plumb on one side and Linux on the other.
//!
//! Made by this program over netlink, as root or as an ordinary user in a user namespace; gone when
//! the program ends, however it ends: every process of the lab dies with its parent, and
//! namespaces and interfaces die with their last process.

mod namespace;
pub mod peer;
pub mod wire;

use std::ffi::OsString;
use std::fs::{DirEntry, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use base_flow::{Prefix, Rate};
use base_wire::Mac;
use driver_netlink::Netlink;
use rustix::fs::{FlockOperation, flock};

pub use namespace::{another, enter};

use crate::cli;
use crate::output::tell;
use crate::signals::{Asked, Bell};
use crate::supervise::Daemons;

/// Plumb's interface, and the peer's.
pub const OUR_DEV: &str = "plumb0";
pub const PEER_DEV: &str = "plumb1";
const OUR_MAC: Mac = mac(1);
const PEER_MAC: Mac = mac(2);
/// Plumb's address in a lab.
pub const OUR_ADDRESS: &str = "10.77.0.1/24";
/// The peer's address in a lab.
pub const PEER_ADDRESS: &str = "10.77.0.2/24";

/// What the folders of labs are called, before two numbers.
const FOLDER: &str = "plumb-lab-";

const fn mac(last: u8) -> Mac {
    Mac([0x02, 0x50, 0x4c, 0x55, 0x4d, last])
}

/// A running lab. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Lab {
    folder: Folder,
    socket: PathBuf,
    peer: Child,
    /// The peer lives until this is closed.
    _peer_input: ChildStdin,
    daemons: Daemons,
}

/// What a lab is to be like.
#[derive(Debug, Clone)]
pub struct Shape {
    pub rate: Rate,
    /// Whether the peer has that rate too, or sends as fast as it can.
    pub both_ways: bool,
    pub mtu: u32,
    pub pace: cli::Pace,
    pub way: cli::Way,
    /// Whether the peer's kernel leaves to its interface what Linux leaves to one: cutting segments, and
    /// checksums. If not, or if somebody is on the way, the wire carries frame by frame.
    pub offloads: bool,
    /// A processor for the driver.
    pub cpu: Option<usize>,
    /// Schedule by another policy than Plumb's.
    pub policy: Option<String>,
}

/// Runs a command, or a shell, in a lab.
pub fn run(arguments: &cli::Lab) -> Result<ExitCode> {
    enter().map_err(|refused| anyhow::anyhow!("{refused}"))?;
    let asked = Asked::listen()?;
    let bell = Bell::for_a_command()?;
    let shape = Shape {
        rate: arguments.rate,
        both_ways: true,
        mtu: arguments.mtu,
        pace: arguments.pace.clone(),
        way: arguments.way,
        offloads: !arguments.no_offloads,
        cpu: None,
        policy: None,
    };
    let lab = Lab::start(&shape, &asked)?;
    // Whatever the command leaves behind becomes ours, and ends with the lab.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut words: Vec<OsString> = arguments.command.iter().map(OsString::from).collect();
    if words.is_empty() {
        tell!(
            "plumb lab: Plumb is 10.77.0.1, the Linux peer 10.77.0.2; try `plumb ping 10.77.0.2` or `$PLUMB_PEER ping 10.77.0.1`"
        );
        words.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    }
    let command = lab.command(this_program()?).arg("__run").args(&words).spawn();
    let mut command = command.context("cannot start a process")?;
    // Who asks the lab to end means what runs in it.
    bell.pass_on(&command)?;
    let status = command.wait()?;
    let keep: Vec<u32> = lab.processes();
    reap_strays(&keep);
    drop(lab);
    Ok(exit_code(status))
}

/// Becomes `command`, and dies with the lab.
pub fn run_and_die_with_it(command: &[OsString]) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    crate::daemons::die_with_parent()?;
    let (program, arguments) = command.split_first().context("no command")?;
    // What was set for us outlives the change of program.
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run `{}`", program.display()))
}

/// The exit code a shell would give.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(code as u8)
}

/// Ends processes that were left behind and became our children.
fn reap_strays(keep: &[u32]) {
    let children = || -> Vec<u32> {
        let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        text.split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| !keep.contains(pid))
            .collect()
    };
    // A killed process hands its own children to us: until none is left.
    for _ in 0..64 {
        let strays = children();
        if strays.is_empty() {
            return;
        }
        for stray in strays {
            if let Some(pid) = rustix::process::Pid::from_raw(stray as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
    }
}

/// This program, to be started again as another process.
pub fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

impl Lab {
    /// Brings everything up. The process must be in its own namespaces already: [`enter`].
    pub fn start(shape: &Shape, asked: &Asked) -> Result<Self> {
        let peers_rate = shape.both_ways.then_some(shape.rate);
        let mut lab = Self::wire(shape.mtu, shape.way, shape.offloads, peers_rate)?;
        lab.start_daemons(shape, asked)?;
        Ok(lab)
    }

    /// A lab without Plumb: Linux owns both ends of the wire, and leaves to its interfaces what Linux does, or nothing.
    pub fn linux(mtu: u32, way: cli::Way, offloads: bool) -> Result<Self> {
        let lab = Self::wire(mtu, way, offloads, None)?;
        let netlink = Netlink::open()?;
        netlink.add_address(netlink.interface(OUR_DEV)?.index, prefix(OUR_ADDRESS))?;
        Ok(lab)
    }

    /// Two namespaces and a wire between them; with somebody on the way, two wires.
    fn wire(mtu: u32, way: cli::Way, offloads: bool, peers_rate: Option<Rate>) -> Result<Self> {
        let program = this_program()?;
        let offloads = offloads && way.is_plain();
        let (peer, mut peer_input, mut peer_output) = start_peer(&program, offloads, peers_rate)?;
        // From here on an error drops `lab`, which ends the peer.
        let netlink = Netlink::open()?;
        if way.is_plain() {
            netlink.add_veth(OUR_DEV, OUR_MAC, PEER_DEV, PEER_MAC, mtu)?;
        } else {
            wire::lay(&netlink, mtu)?;
        }
        netlink.move_to_namespace(netlink.interface(PEER_DEV)?.index, peer.id())?;
        say(&mut peer_input, "configure")?;
        expect(&mut peer_output, "configured")?;
        // The kernel must not speak on our side of the wire.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{OUR_DEV}/disable_ipv6"), "1");
        netlink.set_up(netlink.interface("lo")?.index)?;
        if !offloads {
            peer::no_offloads(&netlink, OUR_DEV);
        }
        netlink.set_up(netlink.interface(OUR_DEV)?.index)?;
        let folder = Folder::new()?;
        let socket = folder.path.join("plumb.sock");
        let mut daemons = Daemons::default();
        if !way.is_plain() {
            daemons.add("the wire", wire::start(&program, way)?);
        }
        Ok(Self { folder, socket, peer, _peer_input: peer_input, daemons })
    }

    fn start_daemons(&mut self, shape: &Shape, asked: &Asked) -> Result<()> {
        let daemons = &mut self.daemons;
        daemons.start_flowman(&self.socket, asked, |flowman| {
            flowman.args(["--dev", OUR_DEV, "--addr", OUR_ADDRESS]);
            // Both hosts on this wire have their addresses from here.
            flowman.args(["--probe-wait", "0s"]);
        })?;
        daemons.start_driver(&self.socket, OUR_DEV, |driver| {
            driver.args(["--rate", &shape.rate.to_string()]);
            driver.args(shape.pace.arguments());
            if let Some(cpu) = shape.cpu {
                driver.args(["--cpu", &cpu.to_string()]);
            }
            if let Some(policy) = &shape.policy {
                driver.args(["--policy", policy]);
            }
        })?;
        daemons.wait_for_links(&self.socket, 1, asked)
    }

    /// The flow manager's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A folder for what the lab's processes write; it goes with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// Its daemons: what people call each, and its process identifier.
    pub fn daemons(&self) -> impl Iterator<Item = (&str, u32)> {
        self.daemons.named()
    }

    /// Processes of the lab.
    fn processes(&self) -> Vec<u32> {
        self.daemons.pids().chain([self.peer.id()]).collect()
    }

    /// A command on Plumb's side.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PLUMB_SOCKET", &self.socket);
        if let Ok(this) = this_program() {
            command.env("PLUMB_PEER", format!("{} __in-peer {}", this.display(), self.peer.id()));
            // `plumb` in the lab is the program that made the lab.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = this
                .parent()
                .map(Path::to_path_buf)
                .into_iter()
                .chain(std::env::split_paths(&path));
            if let Ok(path) = std::env::join_paths(folders) {
                command.env("PATH", path);
            }
        }
        command
    }

    /// A command on the peer's side.
    pub fn peer_command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(this_program()?);
        command.arg("__in-peer").arg(self.peer.id().to_string()).arg(program);
        Ok(command)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.daemons));
        let _ = self.peer.kill();
        let _ = self.peer.wait();
    }
}

/// A folder only this user can look into, locked as long as its lab lives; removed when dropped.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn new() -> Result<Self> {
        remove_forgotten_folders();
        // Another lab may have this number in another namespace of them.
        let mut attempt = 0;
        let path = loop {
            let name = format!("{FOLDER}{}.{attempt}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => attempt += 1,
                Err(error) => {
                    return Err(error).context(format!("cannot create {}", path.display()));
                }
            }
        };
        let cannot = || format!("cannot lock {}", path.display());
        let lock = File::open(&path).with_context(cannot)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(cannot)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes what labs of this user left that were killed before they could.
fn remove_forgotten_folders() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if is_forgotten(&entry) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_forgotten(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy().into_owned();
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let is_named_so = name.strip_prefix(FOLDER).is_some_and(|rest| rest.split('.').all(is_number));
    let user = rustix::process::geteuid().as_raw();
    is_named_so
        && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user)
        && File::open(entry.path())
            .is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Starts the process that holds the peer's namespace.
fn start_peer(
    program: &Path,
    offloads: bool,
    rate: Option<Rate>,
) -> Result<(Child, ChildStdin, impl BufRead + use<>)> {
    let mut peer = Command::new(program)
        .args(["__peer", "--dev", PEER_DEV, "--addr", PEER_ADDRESS])
        .args((!offloads).then_some("--no-offloads"))
        .args(rate.iter().flat_map(|rate| ["--rate".to_string(), rate.to_string()]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the peer")?;
    let input = peer.stdin.take().context("no pipe to the peer")?;
    let mut output = BufReader::new(peer.stdout.take().context("no pipe from the peer")?);
    expect(&mut output, "ready")?;
    Ok((peer, input, output))
}

fn say(to: &mut ChildStdin, word: &str) -> Result<()> {
    writeln!(to, "{word}").context("the peer does not listen")
}

fn expect(from: &mut impl BufRead, word: &str) -> Result<()> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    ensure!(line.trim() == word, "the peer could not be set up; its message is above");
    Ok(())
}

/// The prefix of an address in the lab.
pub fn prefix(text: &str) -> Prefix {
    text.parse().expect("the lab's addresses are valid")
}
