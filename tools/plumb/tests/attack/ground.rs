//! The ground on which a row is fought: attackers, and victims in turns without and with them.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::in_lab::{THEIRS, in_lab, on_peer, processes, socket};
use crate::verdict::{Pair, Verdict, judge};
use crate::victims::with_victims;

pub use crate::verdict::holds;
pub use crate::victims::Got;

/// Names the row whose attacker a process is to be.
const ATTACKER: &str = "PLUMB_TEST_ATTACKER";

/// What a process is called that attacks nobody but uses a processor.
const BUSY: &str = "busy";

/// Who attacks, where this machine lets us be somebody else.
const STRANGER: u32 = 54_321;

/// How long each turn is, in periods of the guaranteed flow, if nobody says for how long.
const PERIODS: u64 = 8;

/// One row at a time: what one attacks is not to be what another does.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the row called `name`: `attack` in processes that [`Ground::attacker`] starts, `test` in the lab.
pub fn row(name: &str, attack: impl FnOnce(), test: impl FnOnce(&Ground)) {
    match std::env::var(ATTACKER).as_deref() {
        Ok(BUSY) => {
            say(BUSY);
            loop {
                std::hint::spin_loop();
            }
        }
        Ok(attacker) if attacker == name => {
            attack();
            // Nothing of the test's harness is to follow.
            std::process::exit(0);
        }
        _ => {}
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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

impl Ground {
    /// Starts an attacker: an ordinary user if that is possible.
    pub fn attacker(&self) -> Attacker {
        self.start(&self.path)
    }

    /// Starts an attacker and waits until it says `word`.
    pub fn attacker_that_says(&self, word: &str) -> Attacker {
        let mut attacker = self.attacker();
        attacker.wait_until(word);
        attacker
    }

    /// Starts a process that uses a processor, and does nothing else: what an attacker costs by running at all.
    pub fn busy(&self) -> Attacker {
        let mut busy = self.start(BUSY);
        busy.wait_until(BUSY);
        busy
    }

    fn start(&self, what: &str) -> Attacker {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", &self.path, "--nocapture", "--test-threads=1"]);
        command.env(ATTACKER, what).stdout(Stdio::piped());
        if can_be_a_stranger() {
            command.uid(STRANGER).gid(STRANGER);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let output = BufReader::new(child.stdout.take().unwrap());
        Attacker { child, output }
    }

    /// What the victims get in turns of one length without an attacker, and with what `start` starts; fails unless
    /// that is [fair](Pair::is_fair) and `also` agrees. Returns the pair that decided.
    pub fn compare<T>(
        &self,
        start: impl FnMut() -> T,
        also: impl Fn(Got, Got) -> bool,
    ) -> (Got, Got) {
        self.compare_with(|| (), start, also)
    }

    /// As [`Ground::compare`], with what `harmless` starts in the turn without an attacker.
    pub fn compare_with<H, T>(
        &self,
        mut harmless: impl FnMut() -> H,
        mut start: impl FnMut() -> T,
        also: impl Fn(Got, Got) -> bool,
    ) -> (Got, Got) {
        let seconds = std::env::var("PLUMB_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
        let periods = seconds.map_or(PERIODS, |seconds: u64| seconds * 10);
        with_victims(|events| {
            let mut pairs = Vec::new();
            let verdict = loop {
                let control = {
                    let _harmless = harmless();
                    events.turn(periods)
                };
                let attacked = {
                    let _attackers = start();
                    events.turn(periods)
                };
                println!("{}: {control:?}, attacked {attacked:?}", self.name);
                pairs.push(Pair { control, attacked });
                if let Some(verdict) = judge(&pairs, seconds.is_some(), &also) {
                    break verdict;
                }
            };
            println!("{}: {verdict:?} after {} pairs", self.name, pairs.len());
            assert!(verdict != Verdict::Unfair, "{}: {pairs:#?}", self.name);
            let Pair { control, attacked } = pairs[pairs.len() - 1];
            (control, attacked)
        })
    }
}

/// The peer's side of the wire holds a socket at `port` as long as this lives.
pub fn peer_hears(port: u16) -> UdpSocket {
    on_peer(|| UdpSocket::bind((THEIRS, port)).unwrap())
}

#[test]
fn a_row_whose_attacker_fails_ends_and_says_why() {
    let name = "ground::a_row_whose_attacker_fails_ends_and_says_why";
    row(
        name,
        || (),
        |ground| {
            // It ends at once, and its test panics while the victims are at work.
            let compared = std::panic::catch_unwind(AssertUnwindSafe(|| {
                ground.compare(|| ground.attacker_that_says("at work"), |_, _| true)
            }));
            let panic = compared.unwrap_err();
            let words = panic.downcast_ref::<String>().unwrap();
            assert!(words.contains("ended before it said `at work`"), "{words}");
        },
    );
}
