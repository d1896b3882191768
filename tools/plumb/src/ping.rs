//! `plumb ping`: echo requests over a flow of our own.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base_wire::{Header, Icmp, IcmpV4Type, Ipv4, Protocol, checksum};
use plumb_net::layer::{Ether, Ip4, Layer};
use plumb_net::{ControlError, Endpoints, Flow, FlowDevice, Host, Options, Sap, Transport};
use rbuf_shm::monotonic_ns;

use crate::cli;
use crate::output::{say, tell};
use crate::signals::Asked;

type Stack = Ip4<Ether<FlowDevice>>;

/// How long the last answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a buffer is waited for when all requests are on their way, and how often one is looked for.
const STUCK_NS: u64 = 10_000_000_000;
const AGAIN: Duration = Duration::from_millis(1);

/// Pings a host.
pub fn run(arguments: &cli::Ping) -> Result<ExitCode> {
    let IpAddr::V4(host) = arguments.host else { bail!("only IPv4 hosts can be pinged yet") };
    let asked = Asked::listen_or_die()?;
    let mut pinger = Pinger::open(&arguments.socket.socket, host)?;
    let limit = pinger.stack.payload_bytes_max() - size_of::<Icmp>();
    if usize::from(arguments.size) > limit {
        bail!("{} bytes do not fit a packet of this link; at most {limit} do", arguments.size);
    }
    let mut times = Vec::new();
    // When each request was sent, until it is answered: late answers count too.
    let mut asked_at: Vec<Option<u64>> = Vec::new();
    let mut sent = 0u32;
    let mut sent_at = monotonic_ns();
    while sent < arguments.count && !asked.yet() {
        let begun = monotonic_ns();
        let is_sent = pinger.ask(sent as u16, usize::from(arguments.size))?;
        if is_sent {
            asked_at.push(Some(begun));
            sent += 1;
            sent_at = begun;
        } else if begun - sent_at > STUCK_NS {
            bail!("the wire takes nothing: is the driver there, and the interface up?");
        }
        let last = is_sent && sent == arguments.count;
        let pause = match (is_sent, last) {
            (false, _) => AGAIN,
            (true, false) => arguments.interval,
            (true, true) => PATIENCE.max(arguments.interval),
        };
        let until = begun + pause.as_nanos() as u64;
        while let Some((sequence, at)) = pinger.answer(until, &asked)? {
            // The newest request with this number: numbers have 16 bits.
            let Some(newest_at) = sent.checked_sub(1) else { continue };
            let newest = newest_at as u16;
            let index = newest_at.checked_sub(u32::from(newest.wrapping_sub(sequence)));
            let Some(begun) = index.and_then(|index| asked_at[index as usize].take()) else {
                continue;
            };
            let time_us = (at - begun) / 1_000;
            times.push(time_us);
            if !arguments.json {
                say!(
                    "{} bytes from {host}: seq={sequence} time={:.3} ms",
                    arguments.size + 8,
                    time_us as f64 / 1e3
                )?;
            }
            if last && times.len() == sent as usize {
                break;
            }
        }
    }
    times.sort_unstable();
    report(arguments, sent, &times)?;
    Ok(if times.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn report(arguments: &cli::Ping, sent: u32, times: &[u64]) -> Result<()> {
    let at =
        |part: usize| times.get((times.len().saturating_sub(1)) * part / 100).copied().unwrap_or(0);
    if arguments.json {
        let report = serde_json::json!({
            "host": arguments.host.to_string(), "sent": sent, "answered": times.len(),
            "min_us": at(0), "p50_us": at(50), "p99_us": at(99), "max_us": at(100),
        });
        say!("{}", serde_json::to_string(&report)?)?;
    } else {
        let lost = (sent as usize - times.len()) * 100 / sent.max(1) as usize;
        say!(
            "{sent} sent, {} answered, {lost}% lost; min/median/max {}/{}/{} us",
            times.len(),
            at(0),
            at(50),
            at(100)
        )?;
    }
    Ok(())
}

struct Pinger {
    flow: Flow,
    stack: Stack,
    identifier: u16,
}

impl Pinger {
    fn open(socket: &std::path::Path, host: Ipv4Addr) -> Result<Self> {
        let connection = Host::connect(socket)?;
        let endpoints = Endpoints {
            transport: Transport::Icmp,
            local: Sap::any_v4(0),
            remote: Some(Sap::new(host.into(), 0)),
        };
        let options = Options::new().send_buffers(8).receive_buffers(32);
        let mut flow = connection.open(&options, endpoints)?;
        let device = flow.take_device().context("a new flow has its device")?;
        let fib = *flow.fib();
        let stack = Ip4::new(Ether::new(device, &fib), &fib, Protocol::ICMP)?;
        Ok(Self { identifier: fib.endpoints.local.port, flow, stack })
    }

    /// Sends a request; `false` if all buffers are on their way.
    fn ask(&mut self, sequence: u16, bytes: usize) -> Result<bool> {
        let Some(mut packet) = self.stack.packet()? else { return Ok(false) };
        let data: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let mut icmp = Icmp {
            kind: IcmpV4Type::ECHO_REQUEST,
            code: 0,
            checksum: 0.into(),
            id: self.identifier.into(),
            sequence: sequence.into(),
        };
        let mut head = [0; size_of::<Icmp>()];
        icmp.put(&mut head);
        icmp.checksum = checksum::finish(checksum::sum(&head) + checksum::sum(&data)).into();
        icmp.put(&mut head);
        packet.write(&head);
        packet.write(&data);
        self.stack.send(packet)?;
        self.flow.kick(self.stack.device());
        Ok(true)
    }

    /// What a control message says of a request of ours, which it quotes.
    fn trouble(&self, message: &[u8]) -> Option<ControlError> {
        let (icmp, quote) = Icmp::split(message)?;
        let (ip, _) = Ipv4::split(quote)?;
        let (echo, _) = Icmp::split(quote.get(ip.header_bytes()..)?)?;
        let ours = ip.protocol == Protocol::ICMP
            && echo.kind == IcmpV4Type::ECHO_REQUEST
            && echo.id.get() == self.identifier;
        let error = ControlError::from_icmp_v4(icmp.kind, icmp.code, icmp.sequence.get());
        error.filter(|_| ours)
    }

    /// The next answer before `until_ns`, and when it came. What others say of a request is passed on.
    fn answer(&mut self, until_ns: u64, asked: &Asked) -> Result<Option<(u16, u64)>> {
        loop {
            if let Some(packet) = self.stack.receive()? {
                let at = monotonic_ns();
                let mut bytes = vec![0; packet.len()];
                packet.read(&mut bytes);
                let from = packet.from().map(|from| from.ip());
                self.stack.give_back(packet)?;
                let intact = checksum::is_valid(checksum::sum(&bytes));
                if let (true, Some(from), Some(error)) = (intact, from, self.trouble(&bytes)) {
                    tell!("plumb ping: {from} says: {error}");
                }
                if let Some((icmp, _)) = Icmp::split(&bytes)
                    && intact
                    && icmp.kind == IcmpV4Type::ECHO_REPLY
                    && icmp.id.get() == self.identifier
                {
                    return Ok(Some((icmp.sequence.get(), at)));
                }
                continue;
            }
            if monotonic_ns() >= until_ns || asked.yet() {
                return Ok(None);
            }
            let left_ns = until_ns.saturating_sub(monotonic_ns());
            self.flow.wait(self.stack.device(), Duration::from_nanos(left_ns))?;
        }
    }
}
