//! LISTEN: SYNs in, connections out (RFC 9293 §3.10.7.2), also under a flood of them (RFC 4987).
//!
//! A half-open connection is a [`Connection`] in SYN-RECEIVED, so a SYN-ACK is repeated, refused and
//! given up by the same code as everything else. There are at most [`Listener::new`]'s `backlog` of
//! them. When they are all in use, a SYN is answered by a *cookie*: a sequence number from which the
//! connection can be made anew when the handshake completes, and nothing is kept meanwhile.
//!
//! # Cost
//!
//! A SYN flood costs a hash and a segment for each SYN, and no memory.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use base_wire::tcp_flag;

use crate::application::RouterError;
use crate::config::Config;
use crate::connection::{Connection, Identity, State, TICK_NS};
use crate::fast_open::{FastOpen, FastOpening, Slot, Slots};
use crate::options::{Options, Timestamps};
use crate::rtt::Rtt;
use crate::secret::{FastKey, Secret};
use crate::segment::Segment;
use crate::transmit::{Transmit, reset_for};

/// Accepts connections at one local address. `W` is the way back to a peer, if whoever drives this needs
/// more than its address.
#[derive(Debug)]
pub struct Listener<W = ()> {
    local: SocketAddr,
    config: Config,
    secret: Secret,
    backlog: usize,
    half_open: HashMap<SocketAddr, (Connection, W)>,
    /// Half-open connections that may have something to send.
    ready: VecDeque<SocketAddr>,
    /// When they will be looked through again.
    look_ns: Option<u64>,
    answers: VecDeque<(SocketAddr, W, Segment)>,
    /// What is done about data on SYNs (RFC 7413), and the key of its cookies.
    fast: Option<(Slots, FastKey)>,
    /// Who completes the handshake with nothing to say is left waiting for so long.
    defer_ns: u64,
    /// When the last cookie was sent.
    cookie_ns: Option<u64>,
    counts: ListenCounts,
}

/// What happened at a listener, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenCounts {
    /// SYNs that arrived.
    pub syns: u64,
    /// SYNs answered by a cookie.
    pub cookies_sent: u64,
    /// Connections made from a cookie.
    pub cookies_accepted: u64,
    /// Segments that were refused by a reset.
    pub refused: u64,
    /// SYNs and last segments of handshakes that were taken for lost, because the application could have no more
    /// connections at that moment; the peer sends them again.
    pub put_off: u64,
    /// Half-open connections that ended before they were open.
    pub abandoned: u64,
    /// Answers not sent, because too many waited.
    pub answers_dropped: u64,
    /// Connections that began with data on the SYN.
    pub fast_opens: u64,
}

/// MSS values a cookie can tell: three bits of it.
const MSS_TABLE: [u16; 8] = [48, 216, 536, 1220, 1300, 1440, 1460, 8960];

/// A cookie is good for so long: RFC 4987 §3.6 counts in minutes.
const COOKIE_PERIOD_NS: u64 = 64_000_000_000;

/// Half-open connections are looked through for expired timers so often at most.
const LOOK_NS: u64 = 10_000_000;

/// Answers that may wait to be sent: as many as are asked for before somebody looks.
const ANSWERS_MAX: usize = 512;

impl<W: Copy> Listener<W> {
    /// Listens at `local`, with room for `backlog` half-open connections.
    pub fn new(local: SocketAddr, config: Config, secret: Secret, backlog: usize) -> Self {
        Self {
            local,
            config,
            secret,
            backlog: backlog.max(1),
            half_open: HashMap::new(),
            ready: VecDeque::new(),
            look_ns: None,
            answers: VecDeque::new(),
            fast: None,
            defer_ns: 0,
            cookie_ns: None,
            counts: ListenCounts::default(),
        }
    }

    /// What connections are told that begin from now on.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// What is done about data on SYNs from now on; without a `key`, cookies are of the listener's secret.
    pub fn set_fast_open(&mut self, opening: Option<FastOpening>, key: Option<[u8; 16]>) {
        let same = |(slots, _): &(Slots, FastKey)| Some(slots.opening()) == opening;
        let key = key.map_or_else(|| self.secret.fast_key(), FastKey::new);
        match &mut self.fast {
            // Those that are not complete still count.
            Some(known) if same(known) => known.1 = key,
            fast => *fast = opening.map(|opening| (Slots::new(opening), key)),
        }
    }

    /// The application wants connections that have something to say. The acknowledgment that completes a handshake
    /// and carries nothing is as good as lost for so long from the SYN on; 0 for not at all. (Linux's
    /// `TCP_DEFER_ACCEPT`.)
    pub const fn set_defer_ns(&mut self, defer_ns: u64) {
        self.defer_ns = defer_ns;
    }

    /// Half-open connections.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// What happened so far.
    pub const fn counts(&self) -> &ListenCounts {
        &self.counts
    }

    /// A segment from `remote` arrived. If it completes a handshake, or begins one with data that counts, here
    /// is the connection; the segment is to be given to it too, for it may carry data. `full` says that the application has as many
    /// connections waiting as it wants.
    pub fn on_segment(
        &mut self,
        now_ns: u64,
        (remote, way): (SocketAddr, W),
        segment: &Segment,
        full: bool,
    ) -> Option<Connection> {
        // MUST-46, MUST-57, MUST-63: nobody can be connected to such an address.
        if remote.ip().is_unspecified() || remote.ip().is_multicast() || remote.port() == 0 {
            return None;
        }
        if self.half_open.contains_key(&remote) {
            return self.on_half_open(now_ns, remote, segment, full);
        }
        if segment.has(tcp_flag::RST) {
            return None;
        }
        if segment.has(tcp_flag::ACK) {
            let accepted = self.revive(now_ns, remote, segment);
            if accepted.is_some() && full {
                // As if it had been lost: data will come, and be a reminder.
                self.counts.put_off += 1;
                return None;
            }
            if accepted.is_none() {
                self.counts.refused += 1;
                self.answer((remote, way), reset_for(segment));
            } else {
                self.counts.cookies_accepted += 1;
            }
            return accepted;
        }
        if segment.opens() {
            return self.on_syn(now_ns, (remote, way), segment, full, None);
        }
        None
    }

    /// A SYN from `remote` ends a connection in TIME-WAIT; the new one begins at `number`
    /// ([`Arrival::reopens`](crate::Arrival::reopens)).
    pub fn reopen(
        &mut self,
        now_ns: u64,
        (remote, way): (SocketAddr, W),
        syn: &Segment,
        full: bool,
        number: u32,
    ) {
        // A copy of the SYN was faster.
        if !self.half_open.contains_key(&remote) {
            self.on_syn(now_ns, (remote, way), syn, full, Some(number));
        }
    }

    /// A router says what became of a SYN-ACK to `remote` (RFC 9293 MUST-54).
    pub fn on_router_error(
        &mut self,
        now_ns: u64,
        remote: SocketAddr,
        sequence: u32,
        error: RouterError,
    ) {
        if let Some((connection, _)) = self.half_open.get_mut(&remote) {
            connection.on_router_error(now_ns, sequence, error);
            if connection.state() == State::Closed {
                self.counts.abandoned += 1;
                self.half_open.remove(&remote);
            }
        }
    }

    fn on_half_open(
        &mut self,
        now_ns: u64,
        remote: SocketAddr,
        segment: &Segment,
        full: bool,
    ) -> Option<Connection> {
        let completes = segment.has(tcp_flag::ACK) && !segment.has(tcp_flag::RST);
        if completes && full {
            // As if it had been lost: the peer, or our SYN-ACK, will ask again.
            self.counts.put_off += 1;
            return None;
        }
        let (connection, _) = self.half_open.get_mut(&remote)?;
        let says_nothing = segment.payload_bytes == 0 && !segment.has(tcp_flag::FIN);
        if completes && says_nothing && connection.age_ns(now_ns) < self.defer_ns {
            return None;
        }
        // Tried on what does not matter yet: payload of this segment is given again to the whole.
        let bare = Segment {
            payload_bytes: 0,
            flags: segment.flags & !(tcp_flag::FIN | tcp_flag::PSH | tcp_flag::URG),
            ..*segment
        };
        connection.on_segment(now_ns, &bare);
        match connection.state() {
            State::Established => self.half_open.remove(&remote).map(|(connection, _)| connection),
            State::Closed => {
                self.counts.abandoned += 1;
                self.half_open.remove(&remote);
                None
            }
            _ => {
                self.ready.push_back(remote);
                None
            }
        }
    }

    fn on_syn(
        &mut self,
        now_ns: u64,
        (remote, way): (SocketAddr, W),
        syn: &Segment,
        full: bool,
        number: Option<u32>,
    ) -> Option<Connection> {
        self.counts.syns += 1;
        if full {
            // The application does not keep up: the peer had better try again later.
            self.counts.put_off += 1;
            return None;
        }
        if self.half_open.len() >= self.backlog {
            let cookie = self.cookie(now_ns, remote, syn);
            self.counts.cookies_sent += 1;
            self.cookie_ns = Some(now_ns);
            self.answer((remote, way), Some(cookie));
            return None;
        }
        let mut identity = self.secret.identity(now_ns, self.local, remote);
        if let Some(number) = number {
            let ahead = identity.initial_sequence.wrapping_sub(number).cast_signed() > 0;
            identity.initial_sequence = if ahead { identity.initial_sequence } else { number };
        }
        let config = self.config.clone();
        // What opens a connection anew comes another way, and leaves its data behind.
        let option = match self.fast_open(now_ns, remote, syn).filter(|_| number.is_none()) {
            Some(Ok(slot)) => {
                self.counts.fast_opens += 1;
                return Connection::accept_fast(now_ns, config, identity, syn, slot);
            }
            Some(Err(option)) => Some(option),
            None => None,
        };
        if let Some(mut connection) = Connection::accept(now_ns, config, identity, syn) {
            connection.fast.option = option;
            self.half_open.insert(remote, (connection, way));
            self.ready.push_back(remote);
        }
        None
    }

    /// A place for a SYN whose data counts, or the cookie with which it would (RFC 7413 §4.2.2).
    fn fast_open(
        &mut self,
        now_ns: u64,
        remote: SocketAddr,
        syn: &Segment,
    ) -> Option<Result<Slot, FastOpen>> {
        let (slots, key) = self.fast.as_mut()?;
        let Some(FastOpen { cookie, experimental }) = syn.options.fast_open else {
            let counts = !slots.opening().needs_cookie && syn.payload_bytes > 0;
            return counts.then(|| slots.take(now_ns)).flatten().map(Ok);
        };
        let right = key.cookie(remote.ip(), self.local.ip());
        if cookie == Some(right) {
            return slots.take(now_ns).map(Ok);
        }
        Some(Err(FastOpen { cookie: Some(right), experimental }))
    }

    fn answer(&mut self, (remote, way): (SocketAddr, W), segment: Option<Segment>) {
        let Some(segment) = segment else { return };
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((remote, way, segment));
        } else {
            self.counts.answers_dropped += 1;
        }
    }

    /// The next segment to send, and to whom; to be called until there is none.
    pub fn poll_transmit(&mut self, now_ns: u64) -> Option<(SocketAddr, W, Segment)> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if self.look_ns.is_some_and(|look_ns| look_ns <= now_ns) {
            self.look_ns = None;
            let due = |connection: &Connection| {
                connection.next_deadline().is_some_and(|deadline_ns| deadline_ns <= now_ns)
            };
            let all = self.half_open.iter().filter(|(_, (connection, _))| due(connection));
            self.ready.extend(all.map(|(remote, _)| *remote));
            let next = self.half_open.values().filter_map(|(half, _)| half.next_deadline());
            self.look_ns = next.filter(|at| *at > now_ns).min().map(|at| at.max(now_ns + LOOK_NS));
        }
        while let Some(remote) = self.ready.front().copied() {
            let sent = self.half_open.get_mut(&remote).and_then(|(connection, way)| {
                let sent = connection.poll_transmit(now_ns);
                if let Some(deadline_ns) = connection.next_deadline() {
                    let at = deadline_ns.max(now_ns + LOOK_NS);
                    self.look_ns = Some(self.look_ns.map_or(at, |look_ns| look_ns.min(at)));
                }
                sent.map(|Transmit { segment, .. }| (remote, *way, segment))
            });
            if sent.is_some() {
                return sent;
            }
            self.ready.pop_front();
            if self.half_open.get(&remote).is_some_and(|(half, _)| half.state() == State::Closed) {
                self.half_open.remove(&remote);
                self.counts.abandoned += 1;
            }
        }
        None
    }

    /// When [`Self::poll_transmit`] is to be called although nothing arrives.
    pub const fn next_deadline(&self) -> Option<u64> {
        self.look_ns
    }

    /// A SYN-ACK that remembers the connection in its numbers: the peer's MSS in the sequence number, and,
    /// if it sent timestamps, its other options in the low bits of our clock, which it echoes.
    fn cookie(&self, now_ns: u64, remote: SocketAddr, syn: &Segment) -> Segment {
        let period = now_ns / COOKIE_PERIOD_NS;
        let mss = syn.options.mss.unwrap_or(self.config.default_mss());
        let index = MSS_TABLE.iter().rposition(|known| *known <= mss).unwrap_or(0) as u32;
        let sequence = self.cookie_base(period, remote, syn.sequence) & !7 | index;
        let identity = self.secret.identity(now_ns, self.local, remote);
        let clocks = syn.options.timestamps.filter(|_| self.config.timestamps);
        let kept = clocks.map(|_| Kept::of(&syn.options, &self.config));
        let clock = ((now_ns / TICK_NS) as u32).wrapping_add(identity.timestamp_offset);
        let options = Options {
            mss: Some(self.config.own_mss()),
            window_shift: kept.and_then(|kept| kept.shift).map(|_| self.config.window_shift()),
            sack_permitted: kept.is_some_and(|kept| kept.sack),
            timestamps: clocks.map(|clocks| Timestamps {
                value: kept.map_or(0, |kept| kept.hide_in(clock)),
                echo: clocks.value,
            }),
            ..Options::default()
        };
        Segment {
            sequence,
            acknowledgment: syn.sequence.wrapping_add(1),
            flags: tcp_flag::SYN | tcp_flag::ACK,
            window: self.config.receive_bytes.min(0xffff) as u16,
            options,
            ..Segment::default()
        }
    }

    fn cookie_base(&self, period: u64, remote: SocketAddr, peer: u32) -> u32 {
        (self.secret.hash(4, &(self.local, remote, period, peer)) as u32)
            .wrapping_add(peer.rotate_left(7))
    }

    /// The connection whose handshake this acknowledgment completes, if it was one of our cookies.
    fn revive(&self, now_ns: u64, remote: SocketAddr, ack: &Segment) -> Option<Connection> {
        // Who sent none of late need not look for them: guesses would be tried for nothing.
        self.cookie_ns.filter(|sent_ns| now_ns.saturating_sub(*sent_ns) < 2 * COOKIE_PERIOD_NS)?;
        let (ours, theirs) = (ack.acknowledgment.wrapping_sub(1), ack.sequence.wrapping_sub(1));
        let period = now_ns / COOKIE_PERIOD_NS;
        let fresh = [period, period.saturating_sub(1)]
            .iter()
            .any(|period| self.cookie_base(*period, remote, theirs) & !7 == ours & !7);
        if !fresh || ack.has(tcp_flag::SYN) {
            return None;
        }
        let clocks = ack.options.timestamps.filter(|_| self.config.timestamps);
        let kept = clocks.map(|clocks| Kept::from_bits(clocks.echo));
        let syn = Segment {
            sequence: theirs,
            flags: tcp_flag::SYN,
            window: ack.window,
            options: Options {
                mss: Some(MSS_TABLE[(ours & 7) as usize]),
                window_shift: kept.and_then(|kept| kept.shift),
                sack_permitted: kept.is_some_and(|kept| kept.sack),
                timestamps: clocks,
                ..Options::default()
            },
            ..Segment::default()
        };
        let identity = Identity {
            initial_sequence: ours,
            timestamp_offset: self.secret.identity(now_ns, self.local, remote).timestamp_offset,
        };
        let mut connection = Connection::accept(now_ns, self.config.clone(), identity, &syn)?;
        // The SYN-ACK was sent, by nobody in particular; its acknowledgment is here.
        connection.poll_transmit(now_ns)?;
        let bare = Segment { payload_bytes: 0, flags: tcp_flag::ACK, ..*ack };
        connection.on_segment(now_ns, &bare);
        // Both at the same time: no round trip was seen.
        connection.rtt = Rtt::new();
        (connection.state() == State::Established).then_some(connection)
    }
}

/// What a cookie keeps of a SYN's options, in six bits of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    shift: Option<u8>,
    sack: bool,
}

impl Kept {
    const NO_SHIFT: u32 = 15;

    fn of(options: &Options, config: &Config) -> Self {
        Self {
            shift: options.window_shift.filter(|_| config.window_scaling),
            sack: options.sack_permitted && config.sack,
        }
    }

    /// In the low bits of a clock, which never shows a time that is still to come: the next segment
    /// would be older than this one.
    fn hide_in(self, clock: u32) -> u32 {
        let bits = self.shift.map_or(Self::NO_SHIFT, u32::from) | u32::from(self.sack) << 4;
        let value = clock & !63 | bits;
        if value > clock { value.wrapping_sub(64) } else { value }
    }

    fn from_bits(bits: u32) -> Self {
        let shift = bits & 15;
        Self { shift: (shift != Self::NO_SHIFT).then_some(shift as u8), sack: bits & 16 != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: ([u8; 4], u16) = ([10, 0, 0, 2], 80);

    fn listener(backlog: usize) -> Listener {
        Listener::new(LOCAL.into(), Config::default(), Secret::new([3; 16]), backlog)
    }

    fn remote(port: u16) -> (SocketAddr, ()) {
        (([10, 0, 0, 1], port).into(), ())
    }

    fn client(number: u32) -> (Connection, Segment) {
        let identity = Identity { initial_sequence: number, timestamp_offset: number };
        let mut client = Connection::connect(0, Config::default(), identity);
        let syn = client.poll_transmit(0).unwrap().segment;
        (client, syn)
    }

    /// Everything the listener sends.
    fn sent(listener: &mut Listener, now_ns: u64) -> Vec<(SocketAddr, Segment)> {
        let all = std::iter::from_fn(|| listener.poll_transmit(now_ns));
        all.map(|(remote, (), segment)| (remote, segment)).collect()
    }

    #[test]
    fn a_handshake_gives_a_connection_that_takes_the_data_of_its_last_segment() {
        let mut listener = listener(4);
        let (mut client, syn) = client(5);
        assert!(listener.on_segment(0, remote(1), &syn, false).is_none());
        let answers = sent(&mut listener, 0);
        assert_eq!((answers.len(), answers[0].0), (1, remote(1).0));
        client.on_segment(1, &answers[0].1);
        client.write(100, false).unwrap();
        let data = client.poll_transmit(1).unwrap().segment;
        let mut server = listener.on_segment(2, remote(1), &data, false).unwrap();
        assert_eq!((server.state(), listener.half_open()), (State::Established, 0));
        assert_eq!(server.on_segment(2, &data).keep.unwrap().bytes, 100);
    }

    #[test]
    fn a_flood_costs_no_memory_and_those_who_mean_it_get_in_by_cookie() {
        let mut listener = listener(8);
        for port in 1..1000 {
            let (_, syn) = client(u32::from(port));
            listener.on_segment(0, remote(port), &syn, false);
            sent(&mut listener, 0);
        }
        assert_eq!(listener.half_open(), 8);
        assert_eq!(listener.counts().cookies_sent, 991);
        let (mut client, syn) = client(77);
        listener.on_segment(0, remote(2000), &syn, false);
        let (_, syn_ack) = sent(&mut listener, 0)[0];
        client.on_segment(1_000_000, &syn_ack);
        assert_eq!(client.state(), State::Established);
        let ack = client.poll_transmit(1_000_000).unwrap().segment;
        let server = listener.on_segment(2_000_000, remote(2000), &ack, false).unwrap();
        let (ours, theirs) = (server.info(), client.info());
        assert_eq!((ours.sack, ours.timestamps, ours.window_shifts), (true, true, (7, 7)));
        assert_eq!((ours.peer_mss, ours.window_shifts), (theirs.peer_mss, theirs.window_shifts));
    }

    #[test]
    fn a_handshake_by_cookie_is_no_measurement_and_the_first_answer_to_data_is() {
        let ms = 1_000_000;
        for timestamps in [true, false] {
            let config = Config { timestamps, ..Config::default() };
            let mut listener: Listener =
                Listener::new(LOCAL.into(), config.clone(), Secret::new([3; 16]), 1);
            listener.on_segment(ms, remote(1), &client(1).1, false);
            let identity = Identity { initial_sequence: 77, timestamp_offset: 77 };
            let mut client = Connection::connect(ms, config, identity);
            let syn = client.poll_transmit(ms).unwrap().segment;
            listener.on_segment(ms, remote(2), &syn, false);
            let answers = sent(&mut listener, ms);
            let syn_ack = answers.iter().find(|(to, _)| *to == remote(2).0).unwrap().1;
            client.on_segment(40 * ms, &syn_ack);
            let ack = client.poll_transmit(40 * ms).unwrap().segment;
            let mut server = listener.on_segment(80 * ms, remote(2), &ack, false).unwrap();
            server.on_segment(80 * ms, &ack);
            let info = server.info();
            assert_eq!((info.smoothed_rtt_ns, info.min_rtt_ns), (None, None), "{info:?}");
            assert_eq!(info.timeout_ns, Config::default().rto_initial_ns);
            server.write(100, false).unwrap();
            let data = server.poll_transmit(100 * ms).unwrap().segment;
            client.on_segment(140 * ms, &data);
            // A second one, so that it is answered at once, whatever the delay of acknowledgments is.
            client.on_segment(140 * ms, &data);
            let answer = client.poll_transmit(140 * ms).unwrap().segment;
            server.on_segment(180 * ms, &answer);
            let info = server.info();
            assert_eq!((info.smoothed_rtt_ns, info.min_rtt_ns), (Some(80 * ms), Some(80 * ms)));
        }
    }

    #[test]
    fn a_cookie_is_good_for_who_got_it_and_for_two_minutes() {
        let mut listener = listener(1);
        let (_, first) = client(1);
        listener.on_segment(0, remote(1), &first, false);
        let (mut client, syn) = client(77);
        listener.on_segment(0, remote(2), &syn, false);
        let answers = sent(&mut listener, 0);
        let syn_ack = answers.iter().find(|(to, _)| *to == remote(2).0).unwrap().1;
        client.on_segment(0, &syn_ack);
        let ack = client.poll_transmit(0).unwrap().segment;
        assert!(listener.on_segment(0, remote(3), &ack, false).is_none(), "another port");
        let guess = Segment { acknowledgment: ack.acknowledgment ^ 8, ..ack };
        assert!(listener.on_segment(0, remote(2), &guess, false).is_none());
        assert!(listener.on_segment(130_000_000_000, remote(2), &ack, false).is_none(), "late");
        let resets = sent(&mut listener, 130_000_000_000);
        assert_eq!(resets.iter().filter(|(_, answer)| answer.has(tcp_flag::RST)).count(), 3);
        assert!(listener.on_segment(60_000_000_000, remote(2), &ack, false).is_some());
        assert!(listener.on_segment(127_999_999_999, remote(2), &ack, false).is_some());
        let counts = listener.counts();
        assert_eq!((counts.syns, counts.cookies_sent, counts.cookies_accepted), (2, 1, 2));
        assert_eq!((counts.refused, counts.abandoned), (3, 0));
    }

    #[test]
    fn answers_that_nobody_fetches_are_counted_and_take_no_more_room() {
        let mut listener = listener(1);
        for port in 1..=ANSWERS_MAX as u16 + 44 {
            listener.on_segment(0, remote(port), &client(1).1, false);
        }
        // The first is half-open, and its answer is made when it is fetched.
        assert_eq!(listener.counts().answers_dropped, 43);
        assert_eq!(sent(&mut listener, 0).len(), ANSWERS_MAX + 1);
    }

    #[test]
    fn who_calls_hears_what_the_listener_was_told_last() {
        let mut listener = listener(4);
        let mss = |listener: &mut Listener, port| {
            listener.on_segment(0, remote(port), &client(1).1, false);
            sent(listener, 0)[0].1.options.mss
        };
        assert_eq!(mss(&mut listener, 1), Some(1460));
        listener.set_config(Config { mtu: 700, ..Config::default() });
        assert_eq!(mss(&mut listener, 2), Some(660));
    }

    #[test]
    fn who_resets_a_handshake_has_abandoned_it() {
        let mut listener = listener(4);
        listener.on_segment(0, remote(1), &client(5).1, false);
        sent(&mut listener, 0);
        let reset = Segment { flags: tcp_flag::RST, sequence: 6, ..Segment::default() };
        listener.on_segment(1, remote(1), &reset, false);
        assert_eq!((listener.counts().abandoned, listener.half_open()), (1, 0));
    }

    #[test]
    fn whoever_does_not_answer_is_asked_again_and_then_forgotten() {
        let mut listener = listener(4);
        let (_, syn) = client(1);
        listener.on_segment(0, remote(1), &syn, false);
        let (mut now_ns, mut asked) = (0, 0);
        while let Some(at) = {
            asked += sent(&mut listener, now_ns).len();
            listener.next_deadline()
        } {
            now_ns = at;
        }
        assert_eq!((listener.half_open(), listener.counts().abandoned), (0, 1));
        assert!((6..=9).contains(&asked), "{asked}");
        assert!(now_ns >= 180_000_000_000, "MUST-23: {now_ns}");
    }

    #[test]
    fn an_application_that_has_enough_is_not_given_more() {
        let mut listener = listener(4);
        let (mut client, syn) = client(1);
        assert!(listener.on_segment(0, remote(1), &syn, true).is_none());
        assert!(sent(&mut listener, 0).is_empty());
        listener.on_segment(0, remote(1), &syn, false);
        client.on_segment(0, &sent(&mut listener, 0)[0].1);
        let ack = client.poll_transmit(0).unwrap().segment;
        assert!(listener.on_segment(0, remote(1), &ack, true).is_none());
        assert_eq!((listener.counts().syns, listener.counts().put_off), (2, 2));
        assert!(listener.on_segment(1, remote(1), &ack, false).is_some(), "later it is");
        assert_eq!(listener.counts().put_off, 2);
    }

    #[test]
    fn who_has_nothing_to_say_is_not_accepted_before_its_time() {
        const S: u64 = 1_000_000_000;
        let mut listener = listener(4);
        listener.set_defer_ns(5 * S);
        let (mut client, syn) = client(1);
        listener.on_segment(0, remote(1), &syn, false);
        client.on_segment(0, &sent(&mut listener, 0)[0].1);
        let ack = client.poll_transmit(0).unwrap().segment;
        assert!(listener.on_segment(S, remote(1), &ack, false).is_none());
        let data = Segment { payload_bytes: 10, ..ack };
        let mut other = self::listener(4);
        other.set_defer_ns(5 * S);
        other.on_segment(0, remote(1), &syn, false);
        sent(&mut other, 0);
        assert!(other.on_segment(S, remote(1), &data, false).is_some(), "it says something");
        sent(&mut listener, 3 * S);
        assert!(listener.on_segment(4 * S, remote(1), &ack, false).is_none());
        assert!(listener.on_segment(5 * S, remote(1), &ack, false).is_some(), "late enough");
    }

    #[test]
    fn nobody_is_answered_who_cannot_be_there() {
        // RFC 9293 MUST-46, MUST-63.
        let mut listener = listener(4);
        let (_, syn) = client(1);
        for odd in [([0, 0, 0, 0], 1), ([224, 0, 0, 1], 1), ([10, 0, 0, 1], 0)] {
            listener.on_segment(0, (odd.into(), ()), &syn, false);
        }
        let reset = Segment { flags: tcp_flag::RST, ..syn };
        listener.on_segment(0, remote(1), &reset, false);
        assert!(sent(&mut listener, 0).is_empty());
    }
}
