//! What a flow is to be like.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use base_flow::{Contract, Endpoints, Sap, Transport};
use rbuf_channel::Wait;
use rbuf_domain::Shape;
use stack_layer::{Device, HEAD_BYTES_MAX};
use stack_socket::receive_buffers;
use stack_tcp::Algorithm;

use crate::tcp::FIRST_RECEIVE_BYTES;
use crate::{Error, Flow, Host, TcpListener, TcpStream, Udp};

/// Contract, buffers and waiting of a flow to be opened.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) contract: Contract,
    pub(crate) send_buffers: u32,
    receive_buffers: Option<u32>,
    pub(crate) wait: Wait,
    pub(crate) send_bytes: u32,
    pub(crate) receive_bytes: u32,
    pub(crate) backlog: u32,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) ecn: bool,
    pub(crate) fast_open: u32,
    pub(crate) defer_accept: Duration,
    pub(crate) congestion: Option<Algorithm>,
    host: Option<Host>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            contract: Contract::BEST_EFFORT,
            send_buffers: 64,
            receive_buffers: None,
            wait: Wait::default(),
            send_bytes: 1 << 18,
            receive_bytes: 1 << 20,
            backlog: 128,
            local: None,
            ecn: false,
            fast_open: 0,
            defer_accept: Duration::ZERO,
            congestion: None,
            host: None,
        }
    }
}

impl Options {
    /// Buffers a channel can have.
    const BUFFERS_MAX: u32 = 16_384;

    /// Best effort, 64 buffers to send, spin a little and then sleep.
    pub fn new() -> Self {
        Self::default()
    }

    /// The share of the wire to ask for.
    #[must_use]
    pub const fn contract(mut self, contract: Contract) -> Self {
        self.contract = contract;
        self
    }

    /// Packets that can be on their way to the wire.
    #[must_use]
    pub fn send_buffers(mut self, buffers: u32) -> Self {
        self.send_buffers = buffers.clamp(2, Self::BUFFERS_MAX);
        self
    }

    /// Packets that can have arrived and not been read; further ones are dropped, and counted. Unless this
    /// is given, 128 datagrams, and of a stream as many as its window needs: more as that grows.
    #[must_use]
    pub fn receive_buffers(mut self, buffers: u32) -> Self {
        self.receive_buffers = Some(buffers.clamp(2, Self::BUFFERS_MAX));
        self
    }

    /// With `buffers` to receive in, if nobody has said how many.
    pub(crate) const fn or_receive_buffers(mut self, buffers: u32) -> Self {
        if self.receive_buffers.is_none() {
            self.receive_buffers = Some(buffers);
        }
        self
    }

    /// Bytes that can be written to a TCP stream and not be acknowledged.
    #[must_use]
    pub fn send_bytes(mut self, bytes: u32) -> Self {
        self.send_bytes = bytes.clamp(4096, 1 << 26).next_multiple_of(64);
        self
    }

    /// Bytes that can have arrived on a TCP stream and not been read: it begins with 64 KiB, or less, and
    /// grows as the application reads faster.
    #[must_use]
    pub fn receive_bytes(mut self, bytes: u32) -> Self {
        self.receive_bytes = bytes.clamp(1024, 1 << 26);
        self
    }

    /// Connections that can wait for a TCP listener to accept them, and half-open ones.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections.clamp(1, 1 << 16);
        self
    }

    /// How to wait for packets and for buffers.
    #[must_use]
    pub const fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Our end of a TCP stream: one of our addresses, and a port, or 0 for any.
    #[must_use]
    pub const fn local(mut self, local: SocketAddr) -> Self {
        self.local = Some(local);
        self
    }

    /// Offers explicit congestion notification for TCP (RFC 3168). Who offers it to us has it either way, as
    /// with Linux's default.
    #[must_use]
    pub const fn ecn(mut self, on: bool) -> Self {
        self.ecn = on;
        self
    }

    /// A TCP listener takes data that comes with a SYN (RFC 7413, TCP Fast Open) from who was here before: the
    /// connection can be accepted, read and written before its handshake is complete. So many such
    /// connections are there at a time; 0, unless this is given. Such data may come twice, if a SYN does: it should
    /// ask for nothing that must not be done twice.
    #[must_use]
    pub const fn fast_open(mut self, pending: u32) -> Self {
        self.fast_open = pending;
        self
    }

    /// A TCP listener leaves connections that say nothing waiting for so long before they can be accepted. Zero,
    /// unless this is given.
    #[must_use]
    pub const fn defer_accept(mut self, wait: Duration) -> Self {
        self.defer_accept = wait;
        self
    }

    /// How a TCP stream adapts to the path. Unless this is given, the contract decides: a stream without
    /// a guarantee is CUBIC (RFC 9438), and one with a guarantee does not probe for what it was given.
    #[must_use]
    pub const fn congestion(mut self, algorithm: Algorithm) -> Self {
        self.congestion = Some(algorithm);
        self
    }

    /// The flow manager to use instead of the one at `$PLUMB_SOCKET`.
    #[must_use]
    pub fn host(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }

    pub(crate) fn chosen_host(&self) -> Result<Host, Error> {
        self.host.clone().map_or_else(Host::shared, Ok)
    }

    /// Shape of the channels for datagrams of up to `mtu` bytes.
    pub(crate) fn datagram_shape(&self, mtu: u16) -> Shape {
        let (send, receive) = (self.send_buffers, self.receive_buffers.unwrap_or(DATAGRAMS));
        Shape {
            // A packet is one range, so two words.
            tx_words: (send * 2).next_power_of_two(),
            tx_bytes: send * buffer_bytes(mtu),
            ..receive_shape(mtu, receive)
        }
    }

    /// Shape of the channels for a stream, whose segments are formed from `headers`; with as many receive
    /// buffers as the largest window needs if the arenas are `roomy`. If not, what is too much for them
    /// is copied on arrival.
    pub(crate) fn stream_shape(&self, mtu: u16, headers: u16, roomy: bool) -> Shape {
        let headers = u32::from(headers);
        let needed = match self.receive_buffers {
            None if roomy => receive_buffers(mtu, self.receive_bytes.into()),
            _ => self.first_buffers(mtu),
        };
        Shape {
            // Header, payload, and the rest of it if it wraps.
            tx_words: (headers * 4).next_power_of_two(),
            tx_bytes: headers * HEAD_BYTES_MAX as u32 + self.send_bytes,
            ..receive_shape(mtu, needed as u32)
        }
    }

    /// How many receive buffers a stream begins with.
    pub(crate) fn first_buffers(&self, mtu: u16) -> usize {
        let window = self.receive_bytes.min(FIRST_RECEIVE_BYTES);
        self.receive_buffers
            .map_or_else(|| receive_buffers(mtu, window.into()), |some| some as usize)
    }

    /// Opens a flow between `endpoints`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn open(&self, endpoints: Endpoints) -> Result<Flow, Error> {
        self.chosen_host()?.open(self, endpoints)
    }

    /// A UDP socket that receives from anyone at `local`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn bind(&self, local: impl ToSocketAddrs) -> Result<Udp, Error> {
        let local = Sap::from(first(local)?);
        Udp::open(self, Endpoints { transport: Transport::Udp, local, remote: None })
    }

    /// A UDP socket between a port of the flow manager's choice and `remote`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn connect(&self, remote: impl ToSocketAddrs) -> Result<Udp, Error> {
        let remote = first(remote)?;
        let local = if remote.is_ipv4() { Sap::any_v4(0) } else { Sap::any_v6(0) };
        Udp::open(self, Endpoints { transport: Transport::Udp, local, remote: Some(remote.into()) })
    }

    /// A TCP stream between a port of the flow manager's choice and `remote`, the first of its addresses that
    /// answers.
    ///
    /// # Errors
    ///
    /// What the flow manager says, or the peer; of several addresses, about the last one.
    pub fn connect_tcp(&self, remote: impl ToSocketAddrs) -> io::Result<TcpStream> {
        let mut last = None;
        for address in remote.to_socket_addrs()? {
            match TcpStream::open(self, address, None) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Address("the name has no address".into()).into()))
    }

    /// As [`Self::connect_tcp`], and sends `first`: with the SYN, as far as it has room, if the host has given
    /// this process a cookie for that (RFC 7413, TCP Fast Open); it is asked for one if it has not. Data on a SYN
    /// may reach the application there twice: it should ask for nothing that must not be done twice.
    ///
    /// # Errors
    ///
    /// As [`Self::connect_tcp`].
    pub fn connect_tcp_with(
        &self,
        remote: impl ToSocketAddrs,
        first: &[u8],
    ) -> io::Result<TcpStream> {
        let mut last = None;
        for address in remote.to_socket_addrs()? {
            match TcpStream::open_with(self, address, first) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Address("the name has no address".into()).into()))
    }

    /// As [`Self::connect_tcp`], and gives up after `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Self::connect_tcp`].
    pub fn connect_tcp_timeout(
        &self,
        remote: &SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        TcpStream::open(self, *remote, Some(timeout))
    }

    /// A TCP listener at `local`; every connection it accepts has these options.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn listen(&self, local: impl ToSocketAddrs) -> io::Result<TcpListener> {
        TcpListener::open(self, first(local)?)
    }

    /// A UDP socket between `local` and `remote`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn between(
        &self,
        local: impl ToSocketAddrs,
        remote: impl ToSocketAddrs,
    ) -> Result<Udp, Error> {
        let (local, remote) = (Sap::from(first(local)?), Sap::from(first(remote)?));
        Udp::open(self, Endpoints { transport: Transport::Udp, local, remote: Some(remote) })
    }
}

/// Datagrams that can have arrived, unless somebody says otherwise.
const DATAGRAMS: u32 = 128;

const fn buffer_bytes(mtu: u16) -> u32 {
    Device::<rbuf_shm::ShmWords, rbuf_shm::ShmData>::buffer_bytes(mtu)
}

/// The receiving half of a shape. Buffers are offered in one range, so two words.
fn receive_shape(mtu: u16, buffers: u32) -> Shape {
    let rx_words = (buffers * 2).next_power_of_two();
    Shape { tx_words: 0, tx_bytes: 0, rx_words, rx_bytes: buffers * buffer_bytes(mtu) }
}

pub(crate) fn first(address: impl ToSocketAddrs) -> Result<SocketAddr, Error> {
    let mut addresses =
        address.to_socket_addrs().map_err(|error| Error::Address(error.to_string()))?;
    addresses.next().ok_or_else(|| Error::Address("the name has no address".into()))
}
