//! The clients of a soak: as many connections at a time as it is told, on the kernel's sockets, in one thread.
//!
//! Half of the connections carry one request, the others up to sixteen; answers are of a few hundred bytes mostly, and
//! sometimes of many segments. Every byte of them is compared.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::server::{body, head};
use super::tally::Tally;
use crate::cli;
use crate::daemons::die_with_parent;
use crate::output::say;

/// A request that has no answer by then gets none.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests that a connection carries at most.
const REQUESTS_MAX: u32 = 16;

/// How often those that wait for ever are looked for.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Answers of most bytes that a connection asks for in a round of the largest: more than fit into what it sends from.
const LARGEST: u32 = 4;

/// Does the rounds that it is told of: a line with the number of connections at a time, of requests, and a seed each; and
/// 1 if all answers are to be as large as there are.
pub fn run(arguments: &cli::SoakClients) -> Result<ExitCode> {
    die_with_parent()?;
    let body = body();
    say!("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut numbers = line.split(' ').map_while(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().context("a round has four numbers");
        let (at_a_time, requests, seed, largest) = (next()?, next()?, next()?, next()? == 1);
        let before = sent_again();
        let mut round = Round {
            to: arguments.to,
            body: &body,
            left: requests,
            largest,
            lot: Rng::with_seed(seed),
            tally: Tally::default(),
        };
        round.run(at_a_time as usize)?;
        let after = sent_again();
        round.tally.sent_again = after.0 - before.0;
        round.tally.syns_sent_again = after.1 - before.1;
        say!("{}", serde_json::to_string(&round.tally)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the kernel of this namespace counts: segments sent again, and SYNs among them.
fn sent_again() -> (u64, u64) {
    let count = |file: &str, section: &str, name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(file).ok()?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(section));
        let at = lines.next()?.split_whitespace().position(|word| word == name)?;
        lines.next()?.split_whitespace().nth(at)?.parse().ok()
    };
    let segments = count("/proc/thread-self/net/snmp", "Tcp:", "RetransSegs");
    let syns = count("/proc/thread-self/net/netstat", "TcpExt:", "TCPSynRetrans");
    (segments.unwrap_or(0), syns.unwrap_or(0))
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Connection,
    Room,
    Answer,
    End,
}

impl Awaits {
    /// The same in `poll`'s words.
    const fn flags(self) -> PollFlags {
        match self {
            Self::Connection | Self::Room => PollFlags::OUT,
            Self::Answer | Self::End => PollFlags::IN,
        }
    }
}

/// A connection and the request on it.
struct Client {
    stream: TcpStream,
    awaits: Awaits,
    /// Requests after this one.
    left: u32,
    asked: Instant,
    request: Vec<u8>,
    /// Bytes of the request that have left.
    sent: usize,
    head: String,
    bytes: usize,
    /// Bytes of the answer that have come.
    received: usize,
}

/// How a connection ended before its time.
enum Failure {
    Error(io::Error),
    CutShort,
    Wrong,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

struct Round<'a> {
    to: SocketAddr,
    body: &'a [u8],
    /// Requests that no connection has been opened for.
    left: u64,
    /// Whether all answers are as large as there are.
    largest: bool,
    lot: Rng,
    tally: Tally,
}

impl Round<'_> {
    fn run(&mut self, at_a_time: usize) -> Result<()> {
        let mut clients: Vec<Client> = Vec::new();
        loop {
            while clients.len() < at_a_time && self.left > 0 {
                // The descriptor is what fails, if anything: there is no point in going on.
                clients.push(self.open().context("cannot open a socket")?);
            }
            if clients.is_empty() {
                return Ok(());
            }
            let ready: Vec<bool> = {
                let mut watched: Vec<PollFd<'_>> = clients
                    .iter()
                    .map(|client| PollFd::new(&client.stream, client.awaits.flags()))
                    .collect();
                match poll(&mut watched, Some(&LOOK)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                watched.iter().map(|one| !one.revents().is_empty()).collect()
            };
            let mut ready = ready.into_iter();
            clients.retain_mut(|client| {
                if !ready.next().unwrap_or(false) {
                    return self.is_waited_for(client);
                }
                match self.go_on(client) {
                    Ok(goes_on) => goes_on,
                    Err(failure) => {
                        self.count(&failure, client);
                        false
                    }
                }
            });
        }
    }

    fn open(&mut self) -> Result<Client> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        let asked = Instant::now();
        match connect(&socket, &self.to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let several = match self.lot.bool() {
            _ if self.largest => LARGEST,
            true => self.lot.u32(1..=REQUESTS_MAX),
            false => 1,
        };
        let requests = u64::from(several).min(self.left);
        self.left -= requests;
        self.tally.connections += 1;
        let mut client = Client {
            stream: socket.into(),
            awaits: Awaits::Connection,
            left: requests as u32,
            asked,
            request: Vec::new(),
            sent: 0,
            head: String::new(),
            bytes: 0,
            received: 0,
        };
        self.next_request(&mut client);
        Ok(client)
    }

    /// Draws the next request of a connection.
    fn next_request(&mut self, client: &mut Client) {
        client.left -= 1;
        client.bytes = match self.lot.u32(0..100) {
            _ if self.largest => self.body.len(),
            0 => self.body.len(),
            1..6 => self.lot.usize(2_000..20_000),
            _ => self.lot.usize(0..2_000),
        };
        let after = if client.left == 0 { "close" } else { "keep-alive" };
        let bytes = client.bytes;
        client.request =
            format!("GET /{bytes} HTTP/1.1\r\nHost: plumb\r\nConnection: {after}\r\n\r\n").into();
        client.head = head(bytes);
        (client.sent, client.received) = (0, 0);
    }

    /// Whether the client may go on waiting.
    fn is_waited_for(&mut self, client: &Client) -> bool {
        if client.asked.elapsed() < PATIENCE {
            return true;
        }
        self.tally.requests += 1 + u64::from(client.left);
        self.tally.given_up += 1;
        false
    }

    fn count(&mut self, failure: &Failure, client: &Client) {
        self.tally.requests += 1 + u64::from(client.left);
        match failure {
            Failure::CutShort => self.tally.cut_short += 1,
            Failure::Wrong => self.tally.wrong += 1,
            Failure::Error(error) => match error.kind() {
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionRefused
                | ErrorKind::BrokenPipe => self.tally.resets += 1,
                _ => self.tally.errors += 1,
            },
        }
    }

    /// Does what can be done without waiting; returns whether there is more to come.
    fn go_on(&mut self, client: &mut Client) -> Result<bool, Failure> {
        loop {
            let done = match client.awaits {
                Awaits::Connection => {
                    socket_error(&client.stream)
                        .map_err(io::Error::from)?
                        .map_err(io::Error::from)?;
                    client.awaits = Awaits::Room;
                    true
                }
                Awaits::Room => client.send()?,
                Awaits::Answer | Awaits::End => client.receive(self.body)?,
            };
            if !done {
                return Ok(true);
            }
            if client.awaits != Awaits::End && client.received < client.head.len() + client.bytes {
                continue;
            }
            if client.awaits == Awaits::Answer {
                if client.left == 0 {
                    client.awaits = Awaits::End;
                    continue;
                }
                self.tally.answered(client.asked.elapsed());
                self.next_request(client);
                client.asked = Instant::now();
                client.awaits = Awaits::Room;
                continue;
            }
            // The other end has closed, as it was asked to.
            self.tally.answered(client.asked.elapsed());
            return Ok(false);
        }
    }
}

impl Client {
    /// Sends what is left of the request; returns whether all has left.
    fn send(&mut self) -> Result<bool, Failure> {
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.awaits = Awaits::Answer;
        Ok(true)
    }

    /// Receives and compares; returns whether the answer, or the end that is awaited, is here.
    fn receive(&mut self, body: &[u8]) -> Result<bool, Failure> {
        let mut buffer = [0; 1 << 15];
        loop {
            if self.awaits == Awaits::Answer && self.received == self.head.len() + self.bytes {
                return Ok(true);
            }
            let bytes = match self.stream.read(&mut buffer) {
                Ok(0) if self.awaits == Awaits::End => return Ok(true),
                Ok(0) => return Err(Failure::CutShort),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if !self.expects(&buffer[..bytes], body) {
                return Err(Failure::Wrong);
            }
            self.received += bytes;
        }
    }

    /// Whether `piece` is what comes next in the answer.
    fn expects(&self, piece: &[u8], body: &[u8]) -> bool {
        let head = self.head.as_bytes();
        let of_head = head.len().saturating_sub(self.received).min(piece.len());
        let (first, rest) = piece.split_at(of_head);
        let at = (self.received + of_head).saturating_sub(head.len());
        head[self.received.min(head.len())..].starts_with(first)
            && at + rest.len() <= self.bytes
            && body[at..at + rest.len()] == *rest
    }
}

#[test]
fn an_answer_is_compared_byte_by_byte_however_it_comes() {
    let body = body();
    let head = head(300);
    let answer = [head.as_bytes(), &body[..300]].concat();
    let client = |received| Client {
        stream: TcpStream::from(
            rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap(),
        ),
        awaits: Awaits::Answer,
        left: 0,
        asked: Instant::now(),
        request: Vec::new(),
        sent: 0,
        head: head.clone(),
        bytes: 300,
        received,
    };
    for at in 0..answer.len() {
        let client = client(at);
        assert!(client.expects(&answer[at..], &body), "{at}");
        assert!(!client.expects(&[&answer[at..], &[1][..]].concat(), &body), "{at}: one more");
        let mut other = answer[at..].to_vec();
        *other.last_mut().unwrap() ^= 1;
        assert!(!client.expects(&other, &body), "{at}: another byte");
    }
}
