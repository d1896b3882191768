//! The commands that Plumb runs itself, as processes of a lab or an experiment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base_flow::{Prefix, Rate};
use clap::Args;
use plumb_net::Contract;

use super::Socket;
use super::notation::{contract, duration};

#[derive(Debug, Args)]
pub struct Peer {
    /// Name the interface will have.
    #[arg(long)]
    pub dev: String,
    /// The kernel's address on it.
    #[arg(long)]
    pub addr: Prefix,
    /// Leave nothing to it.
    #[arg(long)]
    pub no_offloads: bool,
    /// Rate at which it sends, at most.
    #[arg(long)]
    pub rate: Option<Rate>,
}

#[derive(Debug, Args)]
pub struct Keeper {
    /// Whom the flow manager was told to become.
    #[arg(long)]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
pub struct Sender {
    #[command(flatten)]
    pub socket: Socket,
    #[arg(long)]
    pub to: SocketAddr,
    #[arg(long, value_parser = contract)]
    pub contract: Contract,
    #[arg(long, default_value_t = 1472)]
    pub bytes: usize,
    /// Time between datagrams; as fast as possible if not given.
    #[arg(long, value_parser = duration)]
    pub every: Option<Duration>,
    /// Datagrams at a time, if they are sent at regular times.
    #[arg(long, default_value_t = 1)]
    pub burst: u16,
    /// Datagrams that can be on their way to the wire.
    #[arg(long, default_value_t = 256)]
    pub buffers: u32,
    /// Use the kernel's sockets.
    #[arg(long)]
    pub kernel: bool,
    /// Wait for a line on standard input before sending.
    #[arg(long)]
    pub hold: bool,
}

#[derive(Debug, Args)]
pub struct Capture {
    #[arg(long)]
    pub dev: String,
    /// Ports that frames come to.
    #[arg(long, value_delimiter = ',')]
    pub ports: Vec<u16>,
    /// Where to write what was seen.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Source {
    /// Whom to send to.
    #[arg(long)]
    pub to: std::net::Ipv4Addr,
    /// Port, payload bytes and nanoseconds between datagrams (0 for as fast as possible), as in
    /// `6001:1472:307600`.
    #[arg(long, value_parser = stream)]
    pub stream: Vec<StreamOption>,
}

/// A stream of a source.
#[derive(Debug, Clone, Copy)]
pub struct StreamOption {
    pub port: u16,
    pub bytes: usize,
    pub every_ns: u64,
}

fn stream(text: &str) -> Result<StreamOption, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let wrong = || format!("`{text}` is no stream: write port:bytes:nanoseconds");
    let [port, bytes, every] = parts[..] else { return Err(wrong()) };
    Ok(StreamOption {
        port: port.parse().map_err(|_| wrong())?,
        bytes: bytes.parse().map_err(|_| wrong())?,
        every_ns: every.parse().map_err(|_| wrong())?,
    })
}

#[derive(Debug, Args)]
pub struct Reader {
    #[command(flatten)]
    pub socket: Socket,
    #[arg(long)]
    pub port: u16,
    /// What to do with each datagram.
    #[arg(long, value_enum, default_value_t = Labour::None)]
    pub work: Labour,
    /// With `--work fig7`: become slower after every so many datagrams.
    #[arg(long, default_value_t = 20_000)]
    pub slower_after: u64,
    /// Use the kernel's sockets.
    #[arg(long)]
    pub kernel: bool,
    /// Only count.
    #[arg(long)]
    pub count: bool,
    /// Where to write what was read.
    #[arg(long)]
    pub out: PathBuf,
}

/// What a reader does with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Labour {
    /// Nothing.
    None,
    /// More and more, as in figure 7.
    Fig7,
    /// A little.
    Flood,
}

#[derive(Debug, Args)]
pub struct Sink {
    /// First port; one socket per flow.
    #[arg(long)]
    pub port: u16,
    #[arg(long)]
    pub flows: u16,
    /// How long to count.
    #[arg(long)]
    pub seconds: u32,
    /// Whom to ping meanwhile.
    #[arg(long)]
    pub ping: std::net::Ipv4Addr,
}
