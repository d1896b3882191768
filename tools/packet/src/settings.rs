//! What a host decides for all its connections, by the names that Linux gives them.

use stack_tcp::{Algorithm, Config, Keepalive};

/// Settings of a [`Host`](crate::Host).
#[derive(Debug, Clone)]
pub struct Settings {
    /// What new connections are told.
    pub config: Config,
    /// Bytes of a new socket's send buffer.
    pub send_bytes: u32,
    /// Segments leave as the engine hands them over, cut or not.
    pub whole_segments: bool,
    /// How connections are probed whose application asks for it.
    pub keepalive: Keepalive,
    /// Data on SYNs.
    pub fast_open: FastSettings,
}

impl Default for Settings {
    /// The engine's own, on a link of 1500 bytes.
    fn default() -> Self {
        Self {
            config: Config::default(),
            send_bytes: 4 << 20,
            whole_segments: false,
            keepalive: Keepalive::DEFAULT,
            fast_open: FastSettings { client: true, ..FastSettings::default() },
        }
    }
}

/// `tcp_fastopen`, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FastSettings {
    /// SYNs carry data where the application says so.
    pub client: bool,
    /// Data on SYNs is taken where the application says so.
    pub server: bool,
    /// Without a cookie.
    pub client_bare: bool,
    /// Without a cookie.
    pub server_bare: bool,
    /// Every listener takes it.
    pub all_listeners: bool,
    /// `tcp_fastopen_key`.
    pub key: Option<[u8; 16]>,
}

/// Four words in hexadecimal.
fn fast_key(value: &str) -> Option<[u8; 16]> {
    let mut key = [0; 16];
    let mut words = value.trim().split(',').next()?.split('-');
    for place in key.chunks_exact_mut(4) {
        place.copy_from_slice(&u32::from_str_radix(words.next()?, 16).ok()?.to_le_bytes());
    }
    Some(key)
}

impl Settings {
    /// Sets one as `sysctl` would: `net.ipv4.tcp_ecn` to `1`. `false` if it is not known, or if the value
    /// has no meaning.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        let Some(name) = name.strip_prefix("net.ipv4.tcp_") else { return false };
        let fields: Vec<u64> =
            value.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let first = fields.first().copied();
        let seconds = |value: u64| value.saturating_mul(1_000_000_000);
        let config = &mut self.config;
        match (name, first) {
            ("timestamps", Some(on)) => config.timestamps = on != 0,
            ("sack", Some(on)) => config.sack = on != 0,
            ("window_scaling", Some(on)) => config.window_scaling = on != 0,
            ("syn_linear_timeouts", Some(count)) => {
                config.syn_linear_timeouts = u8::try_from(count).unwrap_or(u8::MAX);
            }
            // 2 accepts it of others and does not offer it.
            ("fastopen", Some(bits)) => {
                let key = self.fast_open.key;
                self.fast_open = FastSettings {
                    client: bits & 1 != 0,
                    server: bits & 2 != 0,
                    client_bare: bits & 4 != 0,
                    server_bare: bits & 0x200 != 0,
                    all_listeners: bits & 0x400 != 0,
                    key,
                };
            }
            ("ecn", Some(on)) => (config.ecn, config.ecn_accepted) = (on == 1, on == 2),
            ("min_tso_segs", Some(value)) => {
                config.burst_segments_min = u16::try_from(value).unwrap_or(u16::MAX);
            }
            ("slow_start_after_idle", Some(on)) => config.restart_after_idle = on != 0,
            ("mtu_probing", Some(on)) => config.probe_mtu = on != 0,
            ("fin_timeout", Some(value)) => config.fin_wait_2_ns = seconds(value),
            ("rto_min_us", Some(value)) => config.rto_min_ns = value.saturating_mul(1_000),
            ("keepalive_time", Some(value)) => self.keepalive.idle_ns = seconds(value),
            ("keepalive_intvl", Some(value)) => self.keepalive.interval_ns = seconds(value),
            ("keepalive_probes", Some(value)) => {
                self.keepalive.probes = u8::try_from(value).unwrap_or(u8::MAX);
            }
            ("rmem", Some(_)) if fields.len() == 3 => {
                let bytes = |index: usize| u32::try_from(fields[index]).unwrap_or(u32::MAX / 2);
                (config.receive_bytes, config.receive_bytes_max) = (bytes(1), bytes(2));
            }
            ("wmem", Some(_)) if fields.len() == 3 => {
                self.send_bytes = u32::try_from(fields[2]).unwrap_or(1 << 22).min(1 << 24);
            }
            ("fastopen_key", _) => self.fast_open.key = fast_key(value),
            ("congestion_control", None) => match value.trim() {
                "cubic" => config.congestion = Algorithm::Cubic,
                "reno" => config.congestion = Algorithm::Reno,
                _ => return false,
            },
            _ => return false,
        }
        true
    }
}
