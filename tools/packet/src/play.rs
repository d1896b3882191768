//! Plays a script: lets time go on, does what it says, and compares what leaves.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};

use base_wire::tcp_flag;

use crate::assertion::{self, Variables};
use crate::errno::Errno;
use crate::host::{Fd, Host, LOCAL, REMOTE, Sent};
use crate::packet::{Left, Numbers, Ports, ports_of};
use crate::script::{Call, EcnField, Event, OptionItem, Packet, Script, Tcp, Time, Value, What};
use crate::settings::Settings;

mod calls;

/// How much earlier or later than a script says a thing may happen, unless it says so: the engine's
/// timers have a granularity.
const TOLERANCE_NS: u64 = 4_000_000;

/// Steps of time in one event after which a script is taken for endless.
const STEPS_MAX: usize = 100_000;

/// What a script says and what happened differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Line of the script.
    pub line: usize,
    /// Time of the script.
    pub at_ns: u64,
    /// What is different.
    pub what: String,
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, at {:.6} s: {}", self.line, self.at_ns as f64 / 1e9, self.what)
    }
}

/// Plays a script on a new host.
///
/// # Errors
///
/// The first [`Failure`].
pub fn play(script: &Script) -> Result<(), Failure> {
    let mut player = Player::new(script)?;
    for event in &script.events {
        player.event(event).map_err(|what| Failure {
            line: event.line,
            at_ns: player.host.now_ns(),
            what,
        })?;
    }
    let line = script.events.last().map_or(1, |event| event.line);
    let at_ns = player.host.now_ns();
    let fail = |what| Failure { line, at_ns, what };
    if player.waits.is_some() {
        return Err(fail("the call still waits at the end".to_string()));
    }
    if let Some(sent) = player.host.next_sent().cloned() {
        let packet = player.describe(&sent);
        return Err(fail(format!("nobody expected this packet at the end: {packet}")));
    }
    Ok(())
}

/// A call that waits, and when it is to be over.
struct Waiting {
    call: Call,
    ends_ns: u64,
    connects: bool,
}

struct Player {
    host: Host,
    tolerance_ns: u64,
    /// Time of the event before.
    base_ns: u64,
    numbers: HashMap<Ports, Numbers>,
    /// Ports of packets that name none.
    ports: Ports,
    variables: Variables,
    waits: Option<Waiting>,
    /// Bytes written to, and read from, each descriptor.
    written: HashMap<Fd, u64>,
    read: HashMap<Fd, u64>,
    /// The descriptor whose connection assertions speak of.
    subject: Fd,
    booted: bool,
    settings: Settings,
}

/// Port of a socket of ours where a script names none.
const OUR_PORT: u16 = 8080;

/// Port of the peer where a script names none.
const THEIR_PORT: u16 = 49_152;

impl Player {
    fn new(script: &Script) -> Result<Self, Failure> {
        let mut tolerance_ns = TOLERANCE_NS;
        let mut settings = Settings::default();
        for (name, value) in &script.options {
            let wrong =
                || Failure { line: 1, at_ns: 0, what: format!("--{name}={value} is not known") };
            let number: u64 = value.parse().map_err(|_| wrong())?;
            match name.as_str() {
                "tolerance_usecs" => tolerance_ns = number * 1_000,
                "mtu" => settings.config.mtu = number as u16,
                _ => return Err(wrong()),
            }
        }
        Ok(Self {
            host: Host::new(LOCAL, settings.clone()),
            tolerance_ns,
            base_ns: 0,
            numbers: HashMap::new(),
            ports: (OUR_PORT, THEIR_PORT),
            variables: Variables::new(),
            waits: None,
            written: HashMap::new(),
            read: HashMap::new(),
            subject: 3,
            booted: false,
            settings,
        })
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let origin_ns = if event.time.relative { self.base_ns } else { 0 };
        if let What::Leaves(packet) = &event.what {
            return self.leaves(packet, &event.time, origin_ns);
        }
        let at_ns = match &event.time.span_ns {
            Some(span) => origin_ns + span.start,
            None => self.host.now_ns(),
        };
        self.go_to(at_ns)?;
        self.base_ns = at_ns;
        match &event.what {
            What::Arrives(packet) => {
                self.arrives(packet);
                self.wake()
            }
            What::Call(call) => {
                let ends_ns = event.time.ends_ns.map(|ends_ns| origin_ns + ends_ns);
                self.call(call, ends_ns)
            }
            What::Code(code) => {
                let info =
                    self.host.information(self.subject).map_err(|error| error.to_string())?;
                assertion::run(code, &info, &mut self.variables)
            }
            What::Command(command) => self.command(command),
            What::Leaves(_) => Ok(()),
        }
    }

    /// Lets time go on, and calls that wait come to their end.
    fn go_to(&mut self, to_ns: u64) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            let more = self.host.step(to_ns);
            self.wake()?;
            if !more {
                return Ok(());
            }
        }
        Err("time does not go on: the engine is always busy".to_string())
    }

    /// What `sysctl` would set, if sockets are yet to be made.
    fn command(&mut self, command: &str) -> Result<(), String> {
        if self.booted {
            return Err("the host is set up before its first socket".to_string());
        }
        for line in command.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let setting =
                line.strip_prefix("sysctl").map(|rest| rest.trim().trim_start_matches("-q"));
            let pair = setting.and_then(|setting| setting.split_once('='));
            let Some((name, value)) = pair else {
                return Err(format!("only `sysctl -q name=value` is understood, not `{line}`"));
            };
            if !self.settings.set(name.trim(), value.trim().trim_matches('"')) {
                return Err(format!("the host has no setting {name}={value}"));
            }
        }
        self.host = Host::new(LOCAL, self.settings.clone());
        Ok(())
    }

    fn arrives(&mut self, packet: &Packet) {
        match packet {
            Packet::Tcp(tcp) => {
                // A script names the port of the peer first.
                let ports = tcp.ports.map_or(self.ports, |(theirs, ours)| (ours, theirs));
                let numbers = self.numbers.entry(ports).or_default();
                let bytes = numbers.arriving(tcp, ports);
                self.host.arrive(&bytes);
            }
            Packet::Icmp(icmp) => {
                let numbers = self.numbers.entry(self.ports).or_default();
                let bytes = numbers.quoting(icmp, self.ports);
                self.host.arrive(&bytes);
            }
        }
    }

    /// A packet is to leave.
    fn leaves(&mut self, packet: &Packet, time: &Time, origin_ns: u64) -> Result<(), String> {
        let Packet::Tcp(expected) = packet else {
            return Err("no control message leaves a host here".to_string());
        };
        let span = time.span_ns.clone().map(|span| origin_ns + span.start..origin_ns + span.end);
        let last_ns = span.as_ref().map_or(u64::MAX, |span| span.end + self.tolerance_ns);
        let sent = self.next_sent(last_ns)?;
        let Some(sent) = sent else {
            return Err(format!(
                "no packet left, not even {} ms later",
                self.tolerance_ns / 1_000_000
            ));
        };
        let ports = ports_of(&sent.packet).ok_or("what left is no sound segment")?;
        let numbers = self.numbers.entry(ports).or_default();
        let mut left = numbers.left(&sent.packet, expected).ok_or("what left is no segment")?;
        // Several frames amount to one line.
        let full = left.bytes;
        while left.bytes < expected.bytes && left.flags & tcp_flag::SYN == 0 && full > 0 {
            let Some(next) = self.host.next_sent().cloned() else { break };
            let numbers = self.numbers.entry(ports).or_default();
            let Some(more) = numbers.left(&next.packet, expected) else { break };
            let follows = ports_of(&next.packet) == Some(ports)
                && more.sequence == left.sequence.wrapping_add(left.bytes)
                && left.bytes + more.bytes <= expected.bytes
                && left.bytes.is_multiple_of(full)
                && (1..=full).contains(&more.bytes)
                && next.at_ns == sent.at_ns;
            if !follows {
                break;
            }
            self.host.take_sent();
            left.bytes += more.bytes;
            left.flags = more.flags | left.flags & tcp_flag::CWR;
            left.wrong = left.wrong.or(more.wrong);
        }
        if let Some(span) = span {
            let early = sent.at_ns + self.tolerance_ns < span.start;
            if early || sent.at_ns > last_ns {
                return Err(format!("this left at {:.6} s: {left}", sent.at_ns as f64 / 1e9));
            }
        }
        self.base_ns = sent.at_ns;
        let tolerance = (self.tolerance_ns / 1_000_000) as u32;
        match differs(expected, &left, tolerance) {
            Some(what) => Err(format!("{what} differs: this left: {left}")),
            None => Ok(()),
        }
    }

    /// The next packet that leaves, if one does until `last_ns`.
    fn next_sent(&mut self, last_ns: u64) -> Result<Option<Sent>, String> {
        for _ in 0..STEPS_MAX {
            if let Some(sent) = self.host.take_sent() {
                return Ok(Some(sent));
            }
            match self.host.next_deadline().filter(|at| *at <= last_ns) {
                Some(at) => self.host.step(at),
                None => return Ok(None),
            };
            self.wake()?;
        }
        Err("time does not go on: the engine is always busy".to_string())
    }

    fn describe(&mut self, sent: &Sent) -> String {
        let Some(ports) = ports_of(&sent.packet) else { return "no sound segment".to_string() };
        let nothing = Tcp {
            ecn: None,
            tos: None,
            ports: None,
            flags: 0,
            sequence: 0,
            bytes: 0,
            acknowledgment: None,
            window: None,
            urgent: None,
            options: None,
        };
        let numbers = self.numbers.entry(ports).or_default();
        let at = sent.at_ns as f64 / 1e9;
        numbers
            .left(&sent.packet, &nothing)
            .map_or_else(|| "no segment".to_string(), |left| format!("{left}, sent at {at:.6} s"))
    }
}

/// What is different between a packet and what a script expects.
fn differs(expected: &Tcp, left: &Left, tolerance_ms: u32) -> Option<&'static str> {
    let ecn = match expected.ecn {
        None => true,
        Some(EcnField::Is(bits)) => left.tos & 3 == bits,
        Some(EcnField::Capable) => matches!(left.tos & 3, 1 | 2),
    };
    let options = match &expected.options {
        None => true,
        Some(items) => {
            items.len() == left.options.len()
                && items.iter().zip(&left.options).all(|(one, other)| match (one, other) {
                    (OptionItem::Timestamps(value, echo), OptionItem::Timestamps(clock, back)) => {
                        value.wrapping_sub(*clock).cast_signed().unsigned_abs() <= tolerance_ms
                            && echo == back
                    }
                    _ => one == other,
                })
        }
    };
    let checks = [
        ("the ports", expected.ports.is_none_or(|ports| ports == left.ports)),
        ("the flags", expected.flags == left.flags),
        ("the sequence number", expected.sequence == left.sequence),
        ("the length", expected.bytes == left.bytes),
        (
            "the acknowledgment",
            expected.acknowledgment.is_none_or(|ack| ack == left.acknowledgment),
        ),
        ("the window", expected.window.is_none_or(|window| window == left.window)),
        ("the urgent pointer", expected.urgent.is_none_or(|urgent| urgent == left.urgent)),
        ("the options", options),
        ("the congestion field", ecn),
        ("the type of service", expected.tos.is_none_or(|tos| tos == left.tos & !3)),
        ("the payload", left.wrong.is_none()),
    ];
    checks.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}
