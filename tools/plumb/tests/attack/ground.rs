//! The ground on which a row is fought: victims, attackers, and how they are judged.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base_flow::Contract;
use plumb_net::{Host, Udp};

use crate::in_lab::{OURS, THEIRS, host, in_lab, kernel_socket, on_peer, processes, socket};

/// Names the row whose attacker a process is to be.
const ATTACKER: &str = "PLUMB_TEST_ATTACKER";

/// Who attacks, where this machine lets us be somebody else.
const STRANGER: u32 = 54_321;

const VICTIM_PORT: u16 = 6001;
const ECHO_PORT: u16 = 6002;

/// Turns are tried again if the victims did badly in an attack, for somebody else on this machine may have been
/// the cause.
const ATTEMPTS: u32 = 5;

/// Runs the row called `name`: `attack` in processes that [`Ground::attacker`] starts, `test` in the lab.
pub fn row(name: &str, attack: impl FnOnce(), test: impl FnOnce(&Ground)) {
    if std::env::var(ATTACKER).as_deref() == Ok(name) {
        attack();
        // Nothing of the test's harness is to follow.
        std::process::exit(0);
    }
    in_lab(name, &["--rate", "100mbit", "--lead", "4ms"], || {
        // The lab's folder is for its own user only.
        let folder = socket().parent().unwrap().to_path_buf();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
        test(&Ground { name: name.rsplit("::").next().unwrap().to_string(), path: name.into() });
        let alive = processes();
        assert!(alive.contains_key("driver") && alive.contains_key("flowman"), "{alive:?}");
    });
}

/// Whether attackers are ordinary users: only real root can be anybody.
pub fn can_be_a_stranger() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().last().is_some_and(|count| count != "1")
}

pub struct Ground {
    name: String,
    path: String,
}

/// A process of an attacker, killed when dropped.
pub struct Attacker {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Attacker {
    /// Waits until it says `word`, in its role.
    pub fn wait_until(&mut self, word: &str) {
        let mut line = String::new();
        while !line.trim_end().ends_with(word) {
            line.clear();
            let bytes = self.output.read_line(&mut line).unwrap();
            assert!(bytes > 0, "the attacker ended before it said `{word}`; see above");
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait_until_dead(&mut self) {
        let mut rest = String::new();
        let _ = self.output.read_to_string(&mut rest);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {rest}");
    }
}

/// Says it to the test.
pub fn say(word: &str) {
    println!("{word}");
}

/// What the victims got in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Got {
    /// Frames of the guaranteed flow that arrived at the peer.
    pub frames: u64,
    /// Echoes that the peer got.
    pub echoes: u64,
    /// Flows that another application opened and closed.
    pub opens: u64,
}

impl Ground {
    /// Starts an attacker: an ordinary user if that is possible.
    pub fn attacker(&self) -> Attacker {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", &self.path, "--nocapture", "--test-threads=1"]);
        command.env(ATTACKER, &self.path).stdout(Stdio::piped());
        if can_be_a_stranger() {
            command.uid(STRANGER).gid(STRANGER);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let output = BufReader::new(child.stdout.take().unwrap());
        Attacker { child, output }
    }

    /// What the victims get in turns of one length without an attacker, and with what `start` starts. The last
    /// pair of turns is returned, the first that is `fair` if there is one.
    pub fn compare<T>(
        &self,
        mut start: impl FnMut() -> T,
        fair: impl Fn(Got, Got) -> bool,
    ) -> (Got, Got) {
        let seconds = std::env::var("PLUMB_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
        let turn = Duration::from_secs_f64(seconds.unwrap_or(0.8));
        with_victims(|counts| {
            let mut last = (Got::default(), Got::default());
            for _ in 0..ATTEMPTS {
                let control = counts.turn(turn);
                let attackers = start();
                let attacked = counts.turn(turn);
                drop(attackers);
                println!("{}: {control:?}, attacked {attacked:?}", self.name);
                last = (control, attacked);
                if fair(control, attacked) {
                    break;
                }
            }
            last
        })
    }
}

/// Whether `attacked` is at least so many thousandths of `control`.
pub fn holds(control: u64, attacked: u64, thousandths: u64) -> bool {
    control > 0 && attacked * 1000 >= control * thousandths
}

#[derive(Default)]
struct Counts {
    frames: AtomicU64,
    echoes: AtomicU64,
    opens: AtomicU64,
}

impl Counts {
    fn turn(&self, turn: Duration) -> Got {
        let before = self.read();
        let begun = Instant::now();
        while begun.elapsed() < turn {
            std::thread::park_timeout(turn.saturating_sub(begun.elapsed()));
        }
        let after = self.read();
        Got {
            frames: after.frames - before.frames,
            echoes: after.echoes - before.echoes,
            opens: after.opens - before.opens,
        }
    }

    fn read(&self) -> Got {
        let [frames, echoes, opens] =
            [&self.frames, &self.echoes, &self.opens].map(|count| count.load(Ordering::Relaxed));
        Got { frames, echoes, opens }
    }
}

fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

/// With the victims at work: one sends all it may, one answers the peer, one opens and closes flows.
fn with_victims<T>(judge: impl FnOnce(&Counts) -> T) -> T {
    let host = host();
    let sender = Udp::options()
        .host(&host)
        .contract(ms(20, 100))
        .send_buffers(256)
        .between((OURS, VICTIM_PORT), (THEIRS, 7001))
        .unwrap();
    let echo = Udp::options()
        .host(&host)
        .contract(ms(1, 20))
        .between((OURS, ECHO_PORT), (THEIRS, 7002))
        .unwrap();
    let (sink, asker) = (kernel_socket(7001), kernel_socket(7002));
    let moment = Some(Duration::from_millis(100));
    sink.set_read_timeout(moment).unwrap();
    asker.set_read_timeout(moment).unwrap();
    echo.set_read_timeout(moment);
    sender.set_write_timeout(moment);
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    let going = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while going() {
                let _ = sender.send(&[0x11; 1472]);
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 2000];
            while going() {
                counts
                    .frames
                    .fetch_add(u64::from(sink.recv(&mut buffer).is_ok()), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 2000];
            while going() {
                if let Ok(bytes) = echo.recv(&mut buffer) {
                    let _ = echo.send(&buffer[..bytes]);
                }
            }
        });
        scope.spawn(|| ask(&asker, &counts.echoes, &going));
        let applicant = Host::connect(&socket()).unwrap();
        let (opens, going) = (&counts.opens, &going);
        scope.spawn(move || {
            while going() {
                let opened = Udp::options().host(&applicant).connect((THEIRS, 7003));
                opens.fetch_add(u64::from(opened.is_ok()), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        let judged = judge(&counts);
        stop.store(true, Ordering::Relaxed);
        judged
    })
}

fn ask(asker: &UdpSocket, echoes: &AtomicU64, going: &impl Fn() -> bool) {
    let mut buffer = [0; 2000];
    while going() {
        asker.send_to(&[0x22; 64], (OURS, ECHO_PORT)).unwrap();
        echoes.fetch_add(u64::from(asker.recv(&mut buffer).is_ok()), Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The peer's side of the wire holds a socket at `port` as long as this lives.
pub fn peer_hears(port: u16) -> UdpSocket {
    on_peer(|| UdpSocket::bind((THEIRS, port)).unwrap())
}
