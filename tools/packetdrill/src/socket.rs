//! Socket addresses and options as C has them.

use std::net::Ipv4Addr;

use libc::{sockaddr, sockaddr_in, socklen_t};
use stack_tcp::Algorithm;
use tools_packet::{Information, SocketOption};

/// An IPv4 address and port; `None` for another family.
///
/// # Safety
///
/// `address` is valid for `bytes` bytes.
pub(crate) unsafe fn address(
    address: *const sockaddr,
    bytes: socklen_t,
) -> Option<(Ipv4Addr, u16)> {
    if address.is_null() || (bytes as usize) < size_of::<sockaddr_in>() {
        return None;
    }
    // SAFETY: long enough; C's structures may lie anywhere.
    let found = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
    let ip = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
    (i32::from(found.sin_family) == libc::AF_INET).then(|| (ip, u16::from_be(found.sin_port)))
}

/// Tells an address to who asked for it.
///
/// # Safety
///
/// `to` is null, or valid for as many bytes as `bytes` says.
pub(crate) unsafe fn set_address(
    (ip, port): (Ipv4Addr, u16),
    to: *mut sockaddr,
    bytes: *mut socklen_t,
) {
    // SAFETY: the caller says so.
    let Some(room) = (unsafe { bytes.as_mut() }) else { return };
    if to.is_null() || (*room as usize) < size_of::<sockaddr_in>() {
        return;
    }
    let address = sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: there is room, as was just seen.
    unsafe { to.cast::<sockaddr_in>().write_unaligned(address) };
    *room = size_of::<sockaddr_in>() as socklen_t;
}

/// A choice that a script makes.
pub(crate) enum Choice {
    /// The host's business.
    Host(SocketOption),
    /// `SO_ZEROCOPY`.
    ZeroCopy(bool),
    /// `SO_TIMESTAMPING`.
    Stamping(u32),
    /// `SO_SNDBUF`.
    SendBytes(u64),
    /// `TCP_NOTSENT_LOWAT`.
    UnsentMax(u64),
    /// `TCP_INQ`.
    TellsRest(bool),
    /// Changes nothing here.
    None,
}

/// Constants of Linux that libc does not know everywhere.
const SO_ZEROCOPY: i32 = 60;
const TCP_FASTOPEN_KEY: i32 = 33;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// What a call of `setsockopt` means.
pub(crate) fn choice(level: i32, name: i32, value: &[u8]) -> Result<Choice, i32> {
    let number = value
        .first_chunk::<4>()
        .map(|bytes| i32::from_ne_bytes(*bytes))
        .or_else(|| value.first().map(|byte| i32::from(*byte)));
    let number = number.ok_or(libc::EINVAL);
    let unsigned = || number.map(|number| u32::try_from(number).unwrap_or(0));
    let byte = || number.map(|number| u8::try_from(number).unwrap_or(u8::MAX));
    Ok(Choice::Host(match (level, name) {
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => SocketOption::NoDelay(number? != 0),
        (libc::IPPROTO_TCP, libc::TCP_CORK) => SocketOption::Cork(number? != 0),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => match u16::try_from(number?) {
            Ok(bytes @ (0 | 88..=32_767)) => SocketOption::SegmentBytes(bytes),
            _ => return Err(libc::EINVAL),
        },
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => SocketOption::KeepaliveIdle(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => SocketOption::KeepaliveInterval(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => SocketOption::KeepaliveProbes(byte()?),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => SocketOption::UserTimeout(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP) => SocketOption::WindowClamp(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT) => SocketOption::DeferAccept(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_SYNCNT) => SocketOption::SynRepetitions(byte()?),
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN) => SocketOption::FastOpen(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT) => {
            SocketOption::FastOpenConnect(number? != 0)
        }
        (libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE) => SocketOption::FastOpenBare(number? != 0),
        (libc::IPPROTO_TCP, TCP_FASTOPEN_KEY) => {
            SocketOption::FastOpenKey(value.try_into().map_err(|_| libc::EINVAL)?)
        }
        (libc::IPPROTO_TCP, libc::TCP_LINGER2) => SocketOption::FinWait2(unsigned()?),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
            let name: Vec<u8> = value.iter().copied().take_while(|byte| *byte != 0).collect();
            match name.as_slice() {
                b"cubic" => SocketOption::Congestion(Algorithm::Cubic),
                b"reno" => SocketOption::Congestion(Algorithm::Reno),
                _ => return Err(libc::ENOENT),
            }
        }
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => SocketOption::Keepalive(number? != 0),
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => SocketOption::ReceiveBytes(unsigned()?),
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
            return Ok(Choice::SendBytes(2 * u64::from(unsigned()?)));
        }
        (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) => {
            return Ok(Choice::UnsentMax(number?.cast_unsigned().into()));
        }
        (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE) => SocketOption::Pacing(unsigned()?.into()),
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let seconds = value.get(4..8).and_then(|bytes| bytes.try_into().ok());
            let seconds = seconds.map(u32::from_ne_bytes).ok_or(libc::EINVAL)?;
            SocketOption::Linger((number? != 0).then_some(seconds))
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => SocketOption::TypeOfService(byte()?),
        (libc::SOL_SOCKET, libc::SO_REUSEADDR | libc::SO_PRIORITY | libc::SO_MARK)
        | (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER | libc::IP_RECVERR | libc::IP_FREEBIND)
        | (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => return Ok(Choice::None),
        (libc::SOL_SOCKET, SO_ZEROCOPY) => return Ok(Choice::ZeroCopy(number? != 0)),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPING) => return Ok(Choice::Stamping(unsigned()?)),
        (libc::IPPROTO_TCP, libc::TCP_INQ) => return Ok(Choice::TellsRest(number? != 0)),
        _ => return Err(libc::ENOPROTOOPT),
    }))
}

/// `struct tcp_info`, as far as this libc knows it.
pub(crate) fn tcp_info(info: &Information) -> Vec<u8> {
    let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes();
    let wide = |value: u64| value.to_ne_bytes();
    let mut out = vec![
        byte(info.state),
        byte(info.ca_state),
        byte(info.retransmits),
        0,
        byte(info.backoff),
        byte(info.options),
        byte(info.snd_wscale) | byte(info.rcv_wscale) << 4,
        0,
    ];
    let words = [
        info.rto,
        40_000,
        info.snd_mss,
        info.rcv_mss,
        info.unacked,
        info.sacked,
        info.lost,
        info.retrans,
        0,
        // Times of the last segments sent and received.
        0,
        0,
        info.last_data_recv,
        0,
        info.pmtu,
        0,
        info.rtt,
        info.rttvar,
        info.snd_ssthresh,
        info.snd_cwnd,
        info.advmss,
        info.reordering,
        0,
        0,
        info.total_retrans,
    ];
    out.extend(words.into_iter().flat_map(word));
    // Pacing rates, bytes acknowledged and received.
    out.extend([u64::MAX, u64::MAX, info.bytes_acked, info.bytes_received].map(wide).concat());
    let words = [
        info.segs_out,
        info.segs_in,
        info.notsent_bytes,
        info.min_rtt,
        info.segs_in,
        info.segs_out,
    ];
    out.extend(words.into_iter().flat_map(word));
    // Delivery rate; busy, window-limited and buffer-limited time.
    out.extend([0, info.busy_time, info.rwnd_limited, 0].map(wide).concat());
    out.extend([info.delivered, 0].into_iter().flat_map(word));
    out.extend([info.bytes_sent, info.bytes_retrans].map(wide).concat());
    out.extend([0; 4].into_iter().flat_map(word));
    // Whatever newer kernels know.
    out.resize(TCP_INFO_BYTES, 0);
    out
}

/// As long as it is anywhere.
const TCP_INFO_BYTES: usize = 320;
