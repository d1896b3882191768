//! What a segment that arrives changes, and what it does not.

use base_wire::tcp_flag;
use stack_tcp::{Config, Connection, Ecn, Identity, Segment, State, Transmit};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn identity(number: u32) -> Identity {
    Identity { initial_sequence: number, timestamp_offset: 0 }
}

fn sent(connection: &mut Connection, now_ns: u64) -> Vec<Transmit> {
    std::iter::from_fn(|| connection.poll_transmit(now_ns)).collect()
}

/// The one segment that is sent.
fn one(connection: &mut Connection, now_ns: u64) -> Segment {
    let all = sent(connection, now_ns);
    assert_eq!(all.len(), 1);
    all[0].segment
}

fn pair(config: &Config) -> (Connection, Connection) {
    let mut a = Connection::connect(MS, config.clone(), identity(u32::MAX - 5));
    let syn = one(&mut a, MS);
    let mut b = Connection::accept(MS, config.clone(), identity(9), &syn).unwrap();
    a.on_segment(2 * MS, &one(&mut b, MS));
    b.on_segment(2 * MS, &one(&mut a, 2 * MS));
    assert_eq!((a.state(), b.state()), (State::Established, State::Established));
    (a, b)
}

/// So many bytes from `a`, in a segment of their own.
fn data(a: &mut Connection, bytes: u64, now_ns: u64) -> Segment {
    a.write(bytes, false).unwrap();
    one(a, now_ns)
}

#[test]
fn an_older_segment_says_nothing_of_the_window() {
    let (mut a, mut b) = pair(&Config { no_delay: true, ..Config::default() });
    let (old, new) = (data(&mut b, 10, S), data(&mut b, 10, S));
    a.on_segment(S, &Segment { window: 200, ..new });
    assert_eq!(a.info().peer_window_bytes, 200 << 7);
    a.on_segment(S, &Segment { window: 300, ..old });
    assert_eq!(a.info().peer_window_bytes, 200 << 7);
}

#[test]
fn what_is_no_news_is_counted_as_what_it_is() {
    let (mut a, mut b) = pair(&Config::default());
    let before = b.counts().segments_in;
    let first = data(&mut a, 100, S);
    for _ in 0..3 {
        b.on_segment(S, &first);
    }
    let counts = b.counts();
    assert_eq!(counts.segments_in - before, 3);
    assert_eq!((counts.outside_window, counts.duplicate_bytes), (2, 200));
    let mut old = Segment { sequence: first.sequence.wrapping_add(100), ..first };
    old.options.timestamps.as_mut().unwrap().value = first.options.timestamps.unwrap().value - 1;
    b.on_segment(S, &old);
    assert_eq!((b.counts().old_timestamps, b.readable()), (1, 100));
}

#[test]
fn what_is_empty_and_outside_the_window_is_answered_a_few_times_only() {
    let (mut a, mut b) = pair(&Config::default());
    let mut empty = data(&mut a, 100, S);
    (empty.payload_bytes, empty.sequence) = (0, empty.sequence.wrapping_add(10_000_000));
    let answers: usize = (0..50)
        .map(|_| {
            b.on_segment(S, &empty);
            sent(&mut b, S).len()
        })
        .sum();
    assert_eq!((answers, b.counts().challenges_suppressed), (10, 40));
}

#[test]
fn a_mark_of_congestion_is_echoed_at_once_and_then_with_what_is_sent_anyway() {
    let (mut a, mut b) = pair(&Config { ecn: true, no_delay: true, ..Config::default() });
    // Whoever answers does not acknowledge at once any more.
    b.on_segment(S, &data(&mut a, 10, S));
    a.on_segment(S, &data(&mut b, 10, S));
    let mut arrive = |payload_bytes, ecn| {
        let segment = data(&mut a, 10, S);
        b.on_segment(S, &Segment { ecn, payload_bytes, ..segment });
        sent(&mut b, S).iter().map(|sent| sent.segment.has(tcp_flag::ECE)).collect::<Vec<_>>()
    };
    assert_eq!(arrive(10, Ecn::Capable), [], "it waits");
    assert_eq!(arrive(10, Ecn::Congested), [true]);
    assert_eq!(arrive(10, Ecn::Congested), [], "that is known");
    let (mut a, mut b) = pair(&Config { ecn: true, ..Config::default() });
    let empty = Segment { payload_bytes: 0, ecn: Ecn::Congested, ..data(&mut a, 10, S) };
    b.on_segment(S, &empty);
    assert!(!data(&mut b, 10, S).has(tcp_flag::ECE), "RFC 3168 §6.1.4: nobody marks those");
}

#[test]
fn a_syn_that_comes_again_may_take_back_what_it_offered() {
    use tcp_flag::{CWR, ECE};
    let config = Config { ecn: true, ..Config::default() };
    let mut a = Connection::connect(MS, config.clone(), identity(1));
    let syn = one(&mut a, MS);
    assert_eq!(syn.flags & (ECE | CWR), ECE | CWR);
    let mut b = Connection::accept(MS, config, identity(9), &syn).unwrap();
    assert!(one(&mut b, MS).has(ECE));
    b.on_segment(S, &syn);
    assert!(one(&mut b, S).has(ECE), "it offers it still");
    b.on_segment(2 * S, &Segment { flags: syn.flags & !(ECE | CWR), ..syn });
    assert!(!one(&mut b, 2 * S).has(ECE));
}

#[test]
fn a_report_of_what_is_missing_leaves_less_room_for_payload() {
    let (mut a, mut b) = pair(&Config { no_delay: true, ..Config::default() });
    for (gaps, bytes) in [(1, 1448 - 12), (2, 1448 - 20), (3, 1448 - 28), (4, 1448 - 28)] {
        let _lost = data(&mut a, 10, S);
        b.on_segment(S, &data(&mut a, 10, S));
        // What is said once need not be said again.
        sent(&mut b, S);
        b.write(1448 * 2, false).unwrap();
        let all = sent(&mut b, S);
        assert_eq!(all[0].segment.payload_bytes, bytes, "{gaps}");
        assert_eq!(all[0].segment.options.sack.as_slice().len(), gaps);
        let mut ack = data(&mut a, 10, S);
        ack.acknowledgment = ack.acknowledgment.wrapping_add(1448 * 2);
        (ack.payload_bytes, ack.sequence) = (0, ack.sequence.wrapping_add(10));
        b.on_segment(S, &ack);
    }
}
