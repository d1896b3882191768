//! What a script says.

use std::ops::Range;

/// A script, in order.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// `--name=value` at its head.
    pub options: Vec<(String, String)>,
    /// What happens.
    pub events: Vec<Event>,
}

/// Something that happens, or is to happen.
#[derive(Debug, Clone)]
pub struct Event {
    /// Where the script says so, from 1 on.
    pub line: usize,
    /// When.
    pub time: Time,
    /// What.
    pub what: What,
}

/// A time, or a span of time, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// Whether it counts from the event before; otherwise from the beginning.
    pub relative: bool,
    /// `None` for any time.
    pub span_ns: Option<Range<u64>>,
    /// When a call that waits is to be over, if it waits.
    pub ends_ns: Option<u64>,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum What {
    /// A packet arrives.
    Arrives(Packet),
    /// A packet is to leave.
    Leaves(Packet),
    /// The application calls.
    Call(Call),
    /// A command of the shell; those that set how the host behaves are understood.
    Command(String),
    /// Assertions.
    Code(String),
}

/// A packet as a script writes it: numbers of both streams count from their SYN, ours and theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A segment.
    Tcp(Tcp),
    /// A router's word.
    Icmp(Icmp),
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Congestion field of the IP header: its value, or any capable one. `None` where a packet that leaves may
    /// have any.
    pub ecn: Option<EcnField>,
    /// Type of service without it.
    pub tos: Option<u8>,
    /// Source and destination port, where the script says.
    pub ports: Option<(u16, u16)>,
    /// Control bits.
    pub flags: u8,
    /// First number.
    pub sequence: u32,
    /// Payload.
    pub bytes: u32,
    /// Acknowledgment.
    pub acknowledgment: Option<u32>,
    /// Window as on the wire.
    pub window: Option<u16>,
    /// Urgent pointer.
    pub urgent: Option<u16>,
    /// Options, `None` for any.
    pub options: Option<Vec<OptionItem>>,
}

/// What the congestion field of a packet is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EcnField {
    /// This.
    Is(u8),
    /// ECT(0) or ECT(1).
    Capable,
}

/// An option of a TCP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionItem {
    /// `nop`
    Nop,
    /// `eol`
    End,
    /// `mss 1460`
    Mss(u16),
    /// `wscale 7`
    WindowShift(u8),
    /// `sackOK`
    SackPermitted,
    /// `TS val 1 ecr 2`
    Timestamps(u32, u32),
    /// `sack 1:3 5:7`
    Sack(Vec<(u32, u32)>),
    /// `kind 99 [01 02]`: any option, by number and content. Not of packetdrill.
    Other(u8, Vec<u8>),
}

/// A router's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// Type and code (RFC 792).
    pub kind: (u8, u8),
    /// Next hop's MTU.
    pub mtu: u16,
    /// First number of the segment it quotes, and its payload.
    pub quotes: (u32, u32),
}

/// A system call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// What is passed.
    pub arguments: Vec<Value>,
    /// What it is to return; any for `...`.
    pub returns: Value,
    /// The error, by name.
    pub errno: Option<String>,
}

/// A value in a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `...`
    Any,
    /// A number.
    Number(i64),
    /// In quotation marks.
    Text(String),
    /// A name, or several joined by `|`.
    Names(Vec<String>),
    /// `[...]`
    List(Vec<Value>),
    /// `{name=value, ...}`
    Struct(Vec<(String, Value)>),
}
