//! Data on SYNs (RFC 7413), between a connection and a listener in virtual time.

use std::net::SocketAddr;

use base_wire::tcp_flag;
use stack_tcp::{
    Config, Connection, Error, FastCache, FastOpening, Identity, Listener, Opening, Options,
    SackBlocks, Secret, Segment, State, Transmit,
};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 80);
const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 5000);

fn listener(pending_max: usize, needs_cookie: bool) -> Listener {
    let secret = Secret::new([3; 16]);
    let mut listener = Listener::new(SERVER.into(), Config::default(), secret, 8);
    listener.set_fast_open(Some(FastOpening { pending_max, needs_cookie }), None);
    listener
}

fn client(opening: Opening, bytes: u64) -> Connection {
    let identity = Identity { initial_sequence: u32::MAX - 20, timestamp_offset: 0 };
    let mut client = Connection::connect(MS, Config::default(), identity);
    client.open_fast(opening, None);
    let room = client.fast_room();
    client.write(bytes.min(room), false).unwrap();
    client
}

fn sent(connection: &mut Connection, now_ns: u64) -> Vec<Transmit> {
    std::iter::from_fn(|| connection.poll_transmit(now_ns)).collect()
}

/// A SYN comes to the listener; the connection, if there is one at once, with what it brought.
fn call(listener: &mut Listener, from: SocketAddr, syn: &Segment) -> Option<Connection> {
    let mut connection = listener.on_segment(2 * MS, (from, ()), syn, false)?;
    let keep = connection.on_segment(2 * MS, syn).keep;
    assert_eq!(keep.map_or(0, |keep| keep.bytes), syn.payload_bytes);
    Some(connection)
}

/// How a client that has called once opens its next connection.
fn with_cookie(listener: &mut Listener) -> Opening {
    let mut cache = FastCache::default();
    let (asks, _) = cache.opening(0, SERVER.0.into(), false).unwrap();
    let mut client = client(asks, 100);
    let syn = sent(&mut client, MS)[0].segment;
    assert_eq!(syn.payload_bytes, 0, "without a cookie data waits");
    assert!(call(listener, CLIENT.into(), &syn).is_none());
    let (_, (), answer) = listener.poll_transmit(2 * MS).unwrap();
    client.on_segment(3 * MS, &answer);
    cache.learn(0, SERVER.0.into(), &client.take_learned().unwrap());
    let (opening, mss) = cache.opening(0, SERVER.0.into(), false).unwrap();
    assert_eq!(mss, Some(1460));
    assert!(matches!(opening, Opening::Option(option) if option.cookie.is_some()));
    opening
}

#[test]
fn with_a_cookie_a_request_is_answered_before_the_handshake_is_complete() {
    let mut listener = listener(4, true);
    let mut client = client(with_cookie(&mut listener), 300);
    let syn = sent(&mut client, MS)[0].segment;
    assert_eq!((syn.payload_bytes, syn.has(tcp_flag::SYN)), (300, true));
    let mut server = call(&mut listener, ([10, 0, 0, 1], 5001).into(), &syn).unwrap();
    assert_eq!((server.readable(), server.is_open()), (300, true));
    server.write(5000, false).unwrap();
    let answers = sent(&mut server, 2 * MS);
    assert!(answers[0].segment.has(tcp_flag::SYN | tcp_flag::ACK));
    let payload: u32 = answers[1..].iter().map(|sent| sent.segment.payload_bytes).sum();
    assert_eq!(payload, 5000);
    for answer in &answers {
        client.on_segment(3 * MS, &answer.segment);
    }
    assert_eq!((client.readable(), client.unacknowledged()), (5000, 0));
    assert!(client.is_fast() && server.is_fast());
    for answer in sent(&mut client, 3 * MS) {
        server.on_segment(4 * MS, &answer.segment);
    }
    assert_eq!((server.state(), server.unacknowledged()), (State::Established, 0));
}

#[test]
fn a_whole_initial_window_leaves_before_the_handshake_is_complete() {
    let mut listener = listener(4, false);
    let syn = sent(&mut client(Opening::Bare, 10), MS)[0].segment;
    let mut server = call(&mut listener, CLIENT.into(), &syn).unwrap();
    server.write(100_000, false).unwrap();
    let bytes: u32 = sent(&mut server, 2 * MS).iter().map(|sent| sent.segment.payload_bytes).sum();
    assert_eq!(bytes, 10 * server.segment_bytes());
}

/// A server that has answered a SYN with ten segments of data, and these.
fn early() -> (Connection, Segment, Vec<Transmit>) {
    let config = Config { receive_bytes: 1 << 20, ..Config::default() };
    let mut listener = Listener::new(SERVER.into(), config, Secret::new([3; 16]), 8);
    listener.set_fast_open(Some(FastOpening { pending_max: 4, needs_cookie: false }), None);
    let syn = sent(&mut client(Opening::Bare, 10), MS)[0].segment;
    let mut server = call(&mut listener, CLIENT.into(), &syn).unwrap();
    let mut answers = sent(&mut server, 2 * MS);
    server.write(10 * u64::from(server.segment_bytes()), false).unwrap();
    answers.extend(sent(&mut server, 9 * MS));
    (server, syn, answers)
}

#[test]
fn until_the_handshake_is_complete_no_wider_window_is_told_than_on_the_syn() {
    let (mut server, syn, answers) = early();
    assert_eq!(u32::from(answers[0].segment.window) + syn.payload_bytes, 0xffff);
    let unit = 1 << server.info().window_shifts.1;
    for answer in &answers[1..] {
        assert_eq!(u64::from(answer.segment.window) * unit, 0x1_0000);
    }
    let acknowledges = Segment {
        sequence: syn.sequence.wrapping_add(11),
        acknowledgment: answers[0].segment.sequence.wrapping_add(1),
        window: 1000,
        payload_bytes: 10,
        flags: tcp_flag::ACK,
        options: Options { timestamps: syn.options.timestamps, ..Options::default() },
        ..Segment::default()
    };
    server.on_segment(10 * MS, &acknowledges);
    let later = sent(&mut server, 60 * MS)[0].segment;
    assert!(u64::from(later.window) * unit > 0x1_0000, "{later:?}");
}

#[test]
fn how_late_our_syn_is_answered_does_not_delay_the_repair_of_what_was_lost_after_it() {
    let (mut server, syn, answers) = early();
    let bytes = server.segment_bytes();
    let first = answers[0].segment.sequence.wrapping_add(1);
    let mut sack = SackBlocks::default();
    sack.push(first.wrapping_add(2 * bytes), first.wrapping_add(5 * bytes));
    let tells = Segment {
        sequence: syn.sequence.wrapping_add(11),
        acknowledgment: first,
        window: 1000,
        flags: tcp_flag::ACK,
        options: Options { sack, timestamps: syn.options.timestamps, ..Options::default() },
        ..Segment::default()
    };
    // A round trip of 1 ms; the SYN was sent 8 ms ago.
    server.on_segment(10 * MS, &tells);
    let again = sent(&mut server, 10 * MS);
    let bytes_again: u32 = again.iter().map(|sent| sent.segment.payload_bytes).sum();
    assert_eq!((again[0].segment.sequence, bytes_again), (first, 2 * bytes));
}

#[test]
fn a_wrong_cookie_and_none_are_worth_nothing_but_the_right_one() {
    let mut listener = listener(4, true);
    let right = with_cookie(&mut listener);
    // From another address the cookie is a wrong one.
    let mut stranger = client(right, 300);
    let syn = sent(&mut stranger, MS)[0].segment;
    let elsewhere = SocketAddr::from(([10, 0, 0, 99], 5002));
    assert!(call(&mut listener, elsewhere, &syn).is_none());
    let (_, (), answer) = listener.poll_transmit(2 * MS).unwrap();
    assert!(answer.options.fast_open.is_some_and(|option| option.cookie.is_some()));
    assert_eq!(answer.acknowledgment, syn.sequence.wrapping_add(1), "its data is not taken");
    // Which is sent again at once, and is no congestion.
    let window = stranger.info().window_bytes;
    stranger.on_segment(3 * MS, &answer);
    let again = sent(&mut stranger, 3 * MS);
    assert_eq!(again.iter().map(|sent| sent.segment.payload_bytes).sum::<u32>(), 300);
    assert!(!stranger.is_fast() && stranger.info().window_bytes >= window);
    assert_eq!(stranger.counts().recoveries + stranger.counts().timeouts, 0);
    // Data without the option counts only where the listener says so.
    let mut bare = client(Opening::Bare, 300);
    let syn = sent(&mut bare, MS)[0].segment;
    assert!(call(&mut listener, ([10, 0, 0, 1], 5003).into(), &syn).is_none());
    let mut trusting = self::listener(4, false);
    assert!(call(&mut trusting, ([10, 0, 0, 1], 5003).into(), &syn).is_some());
}

#[test]
fn a_syn_that_is_lost_is_repeated_without_data_and_without_a_cookie() {
    let mut listener = listener(4, true);
    let mut client = client(with_cookie(&mut listener), 300);
    assert_eq!(sent(&mut client, MS).len(), 1);
    let again = sent(&mut client, MS + S);
    let [again] = again.as_slice() else { panic!("{again:?}") };
    assert!(again.segment.has(tcp_flag::SYN));
    assert_eq!((again.segment.payload_bytes, again.segment.options.fast_open), (0, None));
    assert!(call(&mut listener, ([10, 0, 0, 1], 5001).into(), &again.segment).is_none());
    let (_, (), answer) = listener.poll_transmit(2 * MS).unwrap();
    client.on_segment(2 * S, &answer);
    assert_eq!(client.state(), State::Established);
    let data: u32 = sent(&mut client, 2 * S).iter().map(|sent| sent.segment.payload_bytes).sum();
    assert_eq!(data, 300, "the data follows");
    assert!(client.take_learned().unwrap().lost);
}

#[test]
fn so_many_connections_begin_with_data_at_a_time_and_those_that_are_reset_count_on() {
    let mut listener = listener(2, false);
    let syn_of = || sent(&mut client(Opening::Bare, 10), MS)[0].segment;
    let from = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let mut one = call(&mut listener, from(1), &syn_of()).unwrap();
    let two = call(&mut listener, from(2), &syn_of()).unwrap();
    assert!(call(&mut listener, from(3), &syn_of()).is_none(), "an ordinary handshake");
    assert_eq!(listener.half_open(), 1);
    // One that is complete, or forgotten, makes room.
    drop(two);
    let three = call(&mut listener, from(4), &syn_of()).unwrap();
    sent(&mut one, 2 * MS);
    let reset = Segment {
        flags: tcp_flag::RST,
        sequence: syn_of().sequence.wrapping_add(11),
        ..Segment::default()
    };
    one.on_segment(3 * MS, &reset);
    assert_eq!((one.error(), one.readable()), (Some(Error::Reset), 10), "what came can be read");
    drop((one, three));
    let _five = call(&mut listener, from(5), &syn_of()).unwrap();
    assert!(call(&mut listener, from(6), &syn_of()).is_none(), "RFC 7413 §5.1");
}

#[test]
fn a_repeated_syn_of_an_early_connection_is_answered_again_and_ends_nothing() {
    let mut listener = listener(2, false);
    let syn = sent(&mut client(Opening::Bare, 10), MS)[0].segment;
    let mut server = call(&mut listener, CLIENT.into(), &syn).unwrap();
    sent(&mut server, 2 * MS);
    server.on_segment(3 * MS, &syn);
    let bare = Segment { payload_bytes: 0, ..syn };
    server.on_segment(3 * MS, &bare);
    let again = sent(&mut server, 3 * MS);
    assert!(again.iter().all(|sent| sent.segment.has(tcp_flag::SYN | tcp_flag::ACK)));
    assert_eq!((again.len(), server.readable(), server.is_open()), (1, 10, true));
}
