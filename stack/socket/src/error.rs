//! Why a call fails, by the names of `errno(3)`.

use rbuf_channel::Fault;
use stack_layer::SendError;

/// Failure of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `EAGAIN`: there is nothing to be had now.
    #[error("the call would have to wait")]
    WouldBlock,
    /// `ENOTCONN`: there is no connection, or none any more.
    #[error("the socket is not connected")]
    NotConnected,
    /// `EPIPE`: nothing can be written any more.
    #[error("nothing can be written any more: this side was shut down, or the connection is over")]
    BrokenPipe,
    /// The connection ended before its time.
    #[error(transparent)]
    Connection(#[from] stack_tcp::Error),
    /// The flow is of no use any more.
    #[error(transparent)]
    Flow(#[from] FlowEnd),
}

/// Why a flow is of no use any more: told as often as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowEnd {
    /// The driver or the flow manager closed it, and says why.
    #[error("flow lost: {0}")]
    Lost(String),
    /// The driver does not follow the rules of the channel.
    #[error("driver: {0}")]
    Fault(#[from] Fault),
    /// A packet could not be formed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The flow manager is gone, and a listen socket needs it for each connection.
    #[error("the flow manager is gone")]
    FlowManagerGone,
}

impl From<stack_tcp::WriteError> for Error {
    fn from(error: stack_tcp::WriteError) -> Self {
        match error {
            stack_tcp::WriteError::ShutDown | stack_tcp::WriteError::Ended => Self::BrokenPipe,
        }
    }
}
