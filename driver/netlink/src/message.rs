//! Netlink messages: building, sending, reading.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct NetlinkError {
    /// What was asked.
    pub what: String,
    /// What it said.
    pub source: io::Error,
}

impl NetlinkError {
    /// Whether the right to do this is missing.
    pub fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Fail if it exists, create if not.
pub(crate) const NLM_F_NEW: u16 = 0x600;
pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The groups of what is said about interfaces (`RTMGRP_LINK`) and their addresses (`RTMGRP_IPV4_IFADDR`).
const LINKS: u32 = 1;
const ADDRESSES: u32 = 0x10;
const NESTED: u16 = 1 << 15;

/// A request under construction: a header, a fixed part, attributes.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

/// Where a nested attribute began.
pub(crate) struct Nest(usize);

impl Request {
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend(fixed);
        Self { bytes }
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A text with the terminating zero the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    pub(crate) fn begin(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        Nest(at)
    }

    pub(crate) fn end(&mut self, nest: &Nest) {
        let length = (self.bytes.len() - nest.0) as u16;
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }
}

/// A netlink socket of one family.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
}

impl Socket {
    /// `None` is the routing family.
    pub(crate) fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket })
    }

    /// One that hears of every change of an interface or an IPv4 address.
    pub(crate) fn listen() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, LINKS | ADDRESSES))?;
        Ok(Self { socket })
    }

    /// Calls `each` with the kind and body of what has been said, and does not wait for more; `false` if
    /// something was said that is lost.
    pub(crate) fn hear(&self, mut each: impl FnMut(u16, &[u8])) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, received)) => {
                    let mut rest = &buffer[..received.min(64 * 1024)];
                    while let Some((kind, body, next)) = split(rest) {
                        rest = next;
                        each(kind, body);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return errno == rustix::io::Errno::AGAIN,
            }
        }
    }

    pub(crate) fn send(&self, mut request: Request) -> io::Result<()> {
        let length = request.bytes.len() as u32;
        request.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        sendto(&self.socket, &request.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Sends a request and calls `each` with the kind and body of every message of the answer.
    pub(crate) fn call(
        &self,
        request: Request,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(request)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (_, received) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..received];
            while let Some((kind, body, next)) = split(rest) {
                rest = next;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body
                            .first_chunk()
                            .map_or(-libc_einval(), |code| i32::from_ne_bytes(*code));
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const fn libc_einval() -> i32 {
    rustix::io::Errno::INVAL.raw_os_error()
}

/// Splits the first message off: kind, body, rest.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

/// The attributes in `bytes`: kind without its flags, and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}
