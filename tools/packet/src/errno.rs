//! What a socket call may fail with.

macro_rules! errno {
    ($($name:ident $variant:ident $meaning:literal;)*) => {
        /// An error of a socket call, by the name and number of Linux.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
        pub enum Errno {
            $(#[doc = $meaning] #[error($meaning)] $variant,)*
        }

        impl Errno {
            /// Its name in C.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name),)* }
            }

            /// Its number.
            pub const fn number(self) -> i32 {
                match self { $(Self::$variant => libc::$name,)* }
            }
        }
    };
}

errno! {
    EAGAIN Again "it would have to wait";
    EALREADY Already "it is under way";
    EBADF BadDescriptor "there is no such descriptor";
    ECONNABORTED ConnectionAborted "the connection was aborted";
    ECONNREFUSED Refused "the peer refused the connection";
    ECONNRESET Reset "the peer reset the connection";
    EADDRINUSE AddressInUse "the address is in use";
    EDESTADDRREQ NoDestination "there is no destination";
    EHOSTDOWN HostDown "there is no such host";
    EHOSTUNREACH HostUnreachable "no way leads to the peer";
    EINPROGRESS InProgress "it has begun";
    EINVAL Invalid "an argument is wrong";
    EISCONN IsConnected "there is a connection already";
    EMSGSIZE TooBig "the message is too large";
    ENETUNREACH NetUnreachable "no way leads to the peer's net";
    ENONET NotOnNet "the peer is isolated";
    ENOPROTOOPT NoSuchOption "there is no such option";
    ENOTCONN NotConnected "there is no connection";
    EOPNOTSUPP NotSupported "the socket cannot do that";
    EPIPE Pipe "this side has closed";
    EPROTO Protocol "a header is wrong";
    ETIMEDOUT TimedOut "the peer does not answer";
}

impl From<stack_socket::Error> for Errno {
    fn from(error: stack_socket::Error) -> Self {
        use stack_socket::Error;
        match error {
            Error::WouldBlock => Self::Again,
            Error::NotConnected => Self::NotConnected,
            Error::BrokenPipe => Self::Pipe,
            Error::Connection(error) => error.into(),
            // The driver of these flows does not lie.
            _ => Self::Protocol,
        }
    }
}

impl From<stack_tcp::Error> for Errno {
    fn from(error: stack_tcp::Error) -> Self {
        use stack_tcp::Error;
        match error {
            Error::Refused => Self::Refused,
            Error::Reset => Self::Reset,
            Error::TimedOut => Self::TimedOut,
            Error::NetUnreachable => Self::NetUnreachable,
            Error::HostUnreachable => Self::HostUnreachable,
            Error::HostUnknown => Self::HostDown,
            Error::HostIsolated => Self::NotOnNet,
            Error::ProtocolUnreachable => Self::NoSuchOption,
            Error::SourceRoute => Self::NotSupported,
            Error::Header => Self::Protocol,
            Error::Aborted => Self::ConnectionAborted,
        }
    }
}
