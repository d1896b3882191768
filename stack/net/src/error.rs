//! What can go wrong, and whose fault it is.

use std::io;
use std::path::PathBuf;

use base_rpc::{DecodeError, Refusal};
use rbuf_channel::Fault;
use rbuf_domain::DomainError;
use stack_layer::{ControlError, SendError};

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

/// Why a flow is of no use any more: an error that is told more than once, and stays what it was.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Lost(String),
    Fault(Fault),
    FlowManagerGone,
}

impl From<&Error> for Ending {
    fn from(error: &Error) -> Self {
        match error {
            Error::Lost(reason) => Self::Lost(reason.clone()),
            Error::Fault(fault) => Self::Fault(*fault),
            Error::FlowManagerGone => Self::FlowManagerGone,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<Ending> for Error {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Lost(reason) => Self::Lost(reason),
            Ending::Fault(fault) => Self::Fault(fault),
            Ending::FlowManagerGone => Self::FlowManagerGone,
        }
    }
}

impl From<Ending> for io::Error {
    fn from(ending: Ending) -> Self {
        Error::from(ending).into()
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            // `std` has no kinds for these.
            Error::Send(SendError::TooLong { .. })
            | Error::Control(ControlError::TooLarge { .. }) => {
                return rustix::io::Errno::MSGSIZE.into();
            }
            Error::Control(ControlError::ProtocolUnreachable) => {
                return rustix::io::Errno::NOPROTOOPT.into();
            }
            Error::Control(ControlError::ParameterProblem) => {
                return rustix::io::Errno::PROTO.into();
            }
            Error::Control(ControlError::PortUnreachable) => io::ErrorKind::ConnectionRefused,
            Error::Control(ControlError::NetworkUnreachable) => io::ErrorKind::NetworkUnreachable,
            Error::Control(
                ControlError::HostUnreachable
                | ControlError::Prohibited
                | ControlError::TimeExceeded,
            ) => io::ErrorKind::HostUnreachable,
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
            Error::Send(_) | Error::Address(_) => io::ErrorKind::InvalidInput,
            Error::Memory(_) => io::ErrorKind::OutOfMemory,
            Error::Thread(source) => source.kind(),
            Error::TimedOut => io::ErrorKind::TimedOut,
            Error::WouldBlock => io::ErrorKind::WouldBlock,
            Error::Protocol(_) | Error::Fault(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
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
}
