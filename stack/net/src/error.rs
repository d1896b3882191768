//! What can go wrong, and whose fault it is.

use std::io;
use std::path::PathBuf;

use base_rpc::{DecodeError, Refusal};
use rbuf_channel::Fault;
use rbuf_domain::DomainError;
use stack_layer::{ControlError, NotIpv4, SendError};
use stack_socket::FlowEnd;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket.
    #[error(
        "no flow manager at {path}: {source}; start one with `plumb up` or `plumb lab`, or set PLUMB_SOCKET"
    )]
    NoFlowManager {
        /// Where one was expected.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The flow manager is gone. Open flows go on.
    #[error("the flow manager is gone; open flows go on, but none can be opened")]
    FlowManagerGone,
    /// The flow manager refused; it says what would be possible.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The flow manager answered what was not asked, or is of another release.
    #[error("the flow manager does not speak our language: {0}")]
    Protocol(String),
    /// Shared memory could not be had.
    #[error(transparent)]
    Memory(#[from] DomainError),
    /// No thread could be had to look after the flow while the application computes.
    #[error("no service thread: {0}")]
    Thread(io::Error),
    /// The flow was closed by the driver or the flow manager.
    #[error("flow lost: {0}")]
    Lost(String),
    /// The driver does not follow the rules of the channel.
    #[error("driver: {0}")]
    Fault(#[from] Fault),
    /// What a router or the peer said of something that was sent.
    #[error("{0}")]
    Control(ControlError),
    /// The packet was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The flow's addresses are of a family without a layer.
    #[error(transparent)]
    Family(#[from] NotIpv4),
    /// An address could not be understood.
    #[error("{0}")]
    Address(String),
    /// The flow manager has not answered in the time there was: it may be asking the network for the next hop.
    #[error(
        "the flow manager has not answered in time: it may be asking who the next hop is, or it or the driver stands still"
    )]
    TimedOut,
    /// There would be nothing to send or receive for now, and waiting was not wanted.
    #[error("not now")]
    WouldBlock,
}

impl From<&Error> for FlowEnd {
    fn from(error: &Error) -> Self {
        match error {
            Error::Lost(reason) => Self::Lost(reason.clone()),
            Error::Fault(fault) => Self::Fault(*fault),
            Error::Send(error) => Self::Send(*error),
            Error::FlowManagerGone => Self::FlowManagerGone,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<FlowEnd> for Error {
    fn from(end: FlowEnd) -> Self {
        match end {
            FlowEnd::Lost(reason) => Self::Lost(reason),
            FlowEnd::Fault(fault) => Self::Fault(fault),
            FlowEnd::Send(error) => Self::Send(error),
            FlowEnd::FlowManagerGone => Self::FlowManagerGone,
        }
    }
}

/// How a program is told why a call of a TCP socket failed.
pub(crate) fn io_error(error: stack_socket::Error) -> io::Error {
    use stack_socket::Error as Call;
    match error {
        Call::WouldBlock => io::ErrorKind::WouldBlock.into(),
        Call::NotConnected => io::ErrorKind::NotConnected.into(),
        Call::BrokenPipe => io::ErrorKind::BrokenPipe.into(),
        Call::Connection(error) => connection_error(error),
        Call::Flow(end) => Error::from(end).into(),
        error => io::Error::other(error),
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// How a program is told what became of a packet, whatever it was of: with Linux's error, by its number where `std`
/// has no kind for that.
pub(crate) const fn kind_of(control: ControlError) -> Result<io::ErrorKind, rustix::io::Errno> {
    Ok(match control {
        ControlError::PortUnreachable => io::ErrorKind::ConnectionRefused,
        ControlError::NetworkUnreachable
        | ControlError::NetworkUnknown
        | ControlError::NetworkProhibited => io::ErrorKind::NetworkUnreachable,
        ControlError::HostUnreachable | ControlError::Prohibited | ControlError::TimeExceeded => {
            io::ErrorKind::HostUnreachable
        }
        ControlError::SourceRouteFailed => io::ErrorKind::Unsupported,
        ControlError::HostUnknown => return Err(rustix::io::Errno::HOSTDOWN),
        ControlError::HostIsolated => return Err(rustix::io::Errno::NONET),
        ControlError::ProtocolUnreachable => return Err(rustix::io::Errno::NOPROTOOPT),
        ControlError::TooLarge { .. } => return Err(rustix::io::Errno::MSGSIZE),
        ControlError::ParameterProblem => return Err(rustix::io::Errno::PROTO),
    })
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            // `std` has no kind for it.
            Error::Send(SendError::TooLong { .. }) => return rustix::io::Errno::MSGSIZE.into(),
            Error::Control(control) => match kind_of(*control) {
                Ok(kind) => kind,
                Err(errno) => return errno.into(),
            },
            Error::NoFlowManager { source, .. } => source.kind(),
            Error::FlowManagerGone | Error::Lost(_) => io::ErrorKind::NotConnected,
            Error::Refused(refusal) => match refusal {
                Refusal::InUse { .. } => io::ErrorKind::AddrInUse,
                Refusal::NotOurAddress { .. } | Refusal::NoFreePort { .. } => {
                    io::ErrorKind::AddrNotAvailable
                }
                Refusal::NoLink { .. } => io::ErrorKind::NetworkDown,
                // As Linux says ENETUNREACH.
                Refusal::NoRoute { .. } | Refusal::OtherLink { .. } | Refusal::ForMany { .. } => {
                    io::ErrorKind::NetworkUnreachable
                }
                Refusal::NoRemotePort { .. } | Refusal::Contract(_) => io::ErrorKind::InvalidInput,
                Refusal::Unreachable { .. } => io::ErrorKind::HostUnreachable,
                Refusal::Policy(_) => io::ErrorKind::PermissionDenied,
                Refusal::Quota(_) => io::ErrorKind::QuotaExceeded,
                Refusal::Unsupported(_) => io::ErrorKind::Unsupported,
                _ => io::ErrorKind::Other,
            },
            Error::Send(SendError::NoDestination) => io::ErrorKind::NotConnected,
            Error::Send(_) | Error::Address(_) | Error::Family(_) => io::ErrorKind::InvalidInput,
            Error::Memory(_) => io::ErrorKind::OutOfMemory,
            Error::Thread(source) => source.kind(),
            Error::TimedOut => io::ErrorKind::TimedOut,
            Error::WouldBlock => io::ErrorKind::WouldBlock,
            Error::Protocol(_) | Error::Fault(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// An error as a program is told it: what control messages said, as of a datagram.
fn connection_error(error: stack_tcp::Error) -> io::Error {
    use stack_layer::ControlError as Said;
    use stack_tcp::Error as Tcp;
    let said = |said, error| match kind_of(said) {
        Ok(kind) => io::Error::new(kind, error),
        Err(errno) => errno.into(),
    };
    let kind = match error {
        Tcp::Refused => return said(Said::PortUnreachable, error),
        Tcp::Reset => io::ErrorKind::ConnectionReset,
        Tcp::TimedOut => io::ErrorKind::TimedOut,
        Tcp::NetUnreachable => return said(Said::NetworkUnreachable, error),
        Tcp::HostUnreachable => return said(Said::HostUnreachable, error),
        Tcp::HostUnknown => return said(Said::HostUnknown, error),
        Tcp::HostIsolated => return said(Said::HostIsolated, error),
        Tcp::ProtocolUnreachable => return said(Said::ProtocolUnreachable, error),
        Tcp::SourceRoute => return said(Said::SourceRouteFailed, error),
        Tcp::Header => return said(Said::ParameterProblem, error),
        Tcp::Aborted => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_kinds_of_what_linux_says() {
        let address = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
        let transport = base_flow::Transport::Tcp;
        for (refusal, kind) in [
            (Refusal::NoLink { link: 0 }, io::ErrorKind::NetworkDown),
            (Refusal::OtherLink { address, link: 1 }, io::ErrorKind::NetworkUnreachable),
            (Refusal::NoRoute { address }, io::ErrorKind::NetworkUnreachable),
            (Refusal::ForMany { address }, io::ErrorKind::NetworkUnreachable),
            (Refusal::Unreachable { address }, io::ErrorKind::HostUnreachable),
            (Refusal::NoRemotePort { transport }, io::ErrorKind::InvalidInput),
        ] {
            assert_eq!(io::Error::from(Error::Refused(refusal)).kind(), kind);
        }
    }

    #[test]
    fn whatever_a_control_message_says_datagrams_and_streams_have_linuxs_error_for_it() {
        use rustix::io::Errno;
        use stack_tcp::RouterError;
        let linux = [
            ((3, 0), Errno::NETUNREACH),
            ((3, 1), Errno::HOSTUNREACH),
            ((3, 2), Errno::NOPROTOOPT),
            ((3, 3), Errno::CONNREFUSED),
            ((3, 4), Errno::MSGSIZE),
            ((3, 5), Errno::OPNOTSUPP),
            ((3, 6), Errno::NETUNREACH),
            ((3, 7), Errno::HOSTDOWN),
            ((3, 8), Errno::NONET),
            ((3, 9), Errno::NETUNREACH),
            ((3, 10), Errno::HOSTUNREACH),
            ((3, 11), Errno::NETUNREACH),
            ((3, 12), Errno::HOSTUNREACH),
            ((3, 13), Errno::HOSTUNREACH),
            ((3, 14), Errno::HOSTUNREACH),
            ((3, 15), Errno::HOSTUNREACH),
            ((11, 0), Errno::HOSTUNREACH),
            ((12, 0), Errno::PROTO),
        ];
        for ((kind, code), errno) in linux {
            let of_linux = io::Error::from(errno);
            let is_linuxs = |ours: io::Error| match ours.raw_os_error() {
                Some(number) => number == errno.raw_os_error(),
                None => ours.kind() == of_linux.kind(),
            };
            let of_datagram = ControlError::from_icmp_v4(kind, code, 1400).unwrap();
            assert!(is_linuxs(Error::Control(of_datagram).into()), "{kind} {code}: {of_datagram}");
            match RouterError::from(of_datagram) {
                RouterError::TooBig(mtu) => assert_eq!((errno, mtu), (Errno::MSGSIZE, 1400)),
                RouterError::Undelivered(why) => {
                    assert!(is_linuxs(connection_error(why)), "{kind} {code}: {why}");
                }
            }
        }
    }
}
