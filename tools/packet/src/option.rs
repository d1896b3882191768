//! What an application may choose for one socket.

use stack_tcp::{Algorithm, Connection, FastOpening, Keepalive};

use crate::settings::Settings;

/// A choice, as `setsockopt` would make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOption {
    /// `TCP_NODELAY`.
    NoDelay(bool),
    /// `TCP_CORK`.
    Cork(bool),
    /// `TCP_MAXSEG`: bytes; 0 for no choice.
    SegmentBytes(u16),
    /// `SO_KEEPALIVE`.
    Keepalive(bool),
    /// `TCP_KEEPIDLE`, in seconds.
    KeepaliveIdle(u32),
    /// `TCP_KEEPINTVL`, in seconds.
    KeepaliveInterval(u32),
    /// `TCP_KEEPCNT`.
    KeepaliveProbes(u8),
    /// `TCP_USER_TIMEOUT`, in milliseconds; 0 for no choice.
    UserTimeout(u32),
    /// `SO_LINGER`: seconds to wait for, 0 to reset at once, or `None` for off.
    Linger(Option<u32>),
    /// `TCP_LINGER2`: seconds in FIN-WAIT-2.
    FinWait2(u32),
    /// `SO_RCVBUF`, in bytes. The buffer grows no more by itself.
    ReceiveBytes(u32),
    /// `SO_SNDBUF`, in bytes.
    SendBytes(u32),
    /// `TCP_CONGESTION`.
    Congestion(Algorithm),
    /// `SO_MAX_PACING_RATE`, in bytes a second.
    Pacing(u64),
    /// `TCP_FASTOPEN`: connections that may be open before their handshakes are complete.
    FastOpen(u32),
    /// `TCP_FASTOPEN_CONNECT`: the SYN waits for what is written first.
    FastOpenConnect(bool),
    /// `TCP_FASTOPEN_NO_COOKIE`.
    FastOpenBare(bool),
    /// `TCP_FASTOPEN_KEY`.
    FastOpenKey([u8; 16]),
    /// `TCP_WINDOW_CLAMP`: bytes; 0 for no choice.
    WindowClamp(u32),
    /// `TCP_DEFER_ACCEPT`, in seconds.
    DeferAccept(u32),
    /// `TCP_SYNCNT`: repetitions of a SYN before it is given up.
    SynRepetitions(u8),
    /// `IP_TOS`; the congestion bits are the connection's.
    TypeOfService(u8),
}

/// All choices for a socket; those accepted from a listener have the listener's.
#[derive(Debug, Clone)]
pub(crate) struct Choices {
    pub(crate) settings: Settings,
    pub(crate) keepalive: bool,
    pub(crate) cork: bool,
    pub(crate) linger_s: Option<u32>,
    pub(crate) type_of_service: u8,
    /// Connections of a listener that may be open early, if it said so.
    pub(crate) fast_pending: Option<u32>,
    pub(crate) fast_connect: bool,
    pub(crate) window_clamp: Option<u32>,
    pub(crate) defer_ns: u64,
}

impl Choices {
    pub(crate) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            keepalive: false,
            cork: false,
            linger_s: None,
            type_of_service: 0,
            fast_pending: None,
            fast_connect: false,
            window_clamp: None,
            defer_ns: 0,
        }
    }

    /// Takes a choice, for connections that are yet to be made.
    pub(crate) fn set(&mut self, option: SocketOption) {
        let seconds = |value: u32| u64::from(value) * 1_000_000_000;
        let (config, keepalive) = (&mut self.settings.config, &mut self.settings.keepalive);
        match option {
            SocketOption::NoDelay(on) => config.no_delay = on,
            SocketOption::Cork(on) => self.cork = on,
            SocketOption::SegmentBytes(bytes) => {
                config.mss_max = Some(bytes).filter(|max| *max > 0)
            }
            SocketOption::Keepalive(on) => self.keepalive = on,
            SocketOption::KeepaliveIdle(value) => keepalive.idle_ns = seconds(value),
            SocketOption::KeepaliveInterval(value) => keepalive.interval_ns = seconds(value),
            SocketOption::KeepaliveProbes(probes) => keepalive.probes = probes,
            SocketOption::UserTimeout(0) => {
                config.user_timeout_ns = stack_tcp::Config::default().user_timeout_ns
            }
            SocketOption::UserTimeout(ms) => {
                config.user_timeout_ns = u64::from(ms) * 1_000_000;
                config.syn_timeout_ns = config.user_timeout_ns;
            }
            SocketOption::Linger(seconds) => self.linger_s = seconds,
            SocketOption::FinWait2(value) => config.fin_wait_2_ns = seconds(value),
            SocketOption::ReceiveBytes(bytes) => {
                (config.receive_bytes, config.receive_bytes_max) = (bytes, bytes);
            }
            SocketOption::SendBytes(bytes) => self.settings.send_bytes = bytes,
            SocketOption::Congestion(algorithm) => config.congestion = algorithm,
            SocketOption::Pacing(rate) => config.pacing_bytes_per_second = Some(rate),
            SocketOption::WindowClamp(bytes) => {
                self.window_clamp = Some(bytes).filter(|bytes| *bytes > 0);
            }
            SocketOption::DeferAccept(value) => self.defer_ns = seconds(value),
            SocketOption::SynRepetitions(count) => config.syn_repetitions = Some(count),
            SocketOption::FastOpen(pending) => self.fast_pending = Some(pending),
            SocketOption::FastOpenConnect(on) => self.fast_connect = on,
            SocketOption::FastOpenBare(on) => {
                self.settings.fast_open.client_bare = on;
                self.settings.fast_open.server_bare = on;
            }
            SocketOption::FastOpenKey(key) => self.settings.fast_open.key = Some(key),
            SocketOption::TypeOfService(tos) => self.type_of_service = tos & !3,
        }
    }

    /// Makes all choices that a connection can still take.
    pub(crate) fn apply(&self, connection: &mut Connection) {
        let config = &self.settings.config;
        connection.set_no_delay(config.no_delay);
        connection.set_cork(self.cork);
        connection.set_keepalive(self.keepalive_now());
        connection.set_user_timeout_ns(config.user_timeout_ns);
        connection.set_fin_wait_ns(config.fin_wait_2_ns);
        connection.set_window_clamp(self.window_clamp.map_or(u64::MAX, u64::from));
        connection.set_syn_repetitions(config.syn_repetitions);
        connection.set_pacing(config.pacing_bytes_per_second);
    }

    /// What a listener with so long a queue does about data on SYNs.
    pub(crate) fn fast_opening(&self, backlog: usize) -> Option<FastOpening> {
        let fast = self.settings.fast_open;
        let all = fast.all_listeners.then_some(backlog as u32);
        let pending = self.fast_pending.or(all).filter(|pending| *pending > 0 && fast.server)?;
        Some(FastOpening { pending_max: pending as usize, needs_cookie: !fast.server_bare })
    }

    fn keepalive_now(&self) -> Option<Keepalive> {
        self.keepalive.then_some(self.settings.keepalive)
    }
}
