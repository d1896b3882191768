//! When a connection wants to be asked again, and what it sends then.

use base_wire::tcp_flag;
use stack_tcp::{Config, Connection, Ecn, Error, Identity, Keepalive, Segment, State, Transmit};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const SEGMENT: u64 = 1448;

fn identity(number: u32) -> Identity {
    Identity { initial_sequence: number, timestamp_offset: number }
}

fn sent(connection: &mut Connection, now_ns: u64) -> Vec<Transmit> {
    std::iter::from_fn(|| connection.poll_transmit(now_ns)).collect()
}

/// Everything that is sent when the next is due.
fn when_due(connection: &mut Connection) -> Vec<Transmit> {
    let now_ns = connection.next_deadline().unwrap();
    sent(connection, now_ns)
}

fn deliver(all: &[Transmit], to: &mut Connection, now_ns: u64) {
    for transmit in all {
        if let Some(keep) = to.on_segment(now_ns, &transmit.segment).keep {
            to.consume(now_ns, keep.bytes.into());
        }
    }
}

/// A connection that was opened within a millisecond by whoever has `ours`, and its peer.
fn pair(ours: &Config, theirs: &Config) -> (Connection, Connection) {
    let mut a = Connection::connect(MS, ours.clone(), identity(u32::MAX - 5));
    let syn = sent(&mut a, MS);
    let mut b = Connection::accept(MS, theirs.clone(), identity(9), &syn[0].segment).unwrap();
    deliver(&sent(&mut b, MS), &mut a, 2 * MS);
    deliver(&sent(&mut a, 2 * MS), &mut b, 2 * MS);
    assert_eq!((a.state(), b.state()), (State::Established, State::Established));
    (a, b)
}

fn payloads(all: &[Transmit]) -> Vec<u32> {
    all.iter().map(|transmit| transmit.segment.payload_bytes).collect()
}

#[test]
fn at_a_rate_payload_leaves_when_it_is_due_and_nobody_is_called_for_nothing() {
    // A microsecond for a byte, and a tick that a late call may make up for.
    const TICK: u64 = MS;
    let config = Config { pacing_bytes_per_second: Some(1_000_000), ..Config::default() };
    let (mut a, _) = pair(&config, &Config::default());
    a.write(2 * SEGMENT, false).unwrap();
    assert_eq!(payloads(&sent(&mut a, S)), [1448]);
    let due_ns = S - TICK + SEGMENT * 1000;
    assert_eq!(a.next_deadline(), Some(due_ns));
    assert_eq!(sent(&mut a, due_ns - 1), []);
    assert_eq!(payloads(&sent(&mut a, due_ns)), [1448]);
    // Nothing waits for the rate now, only for an answer.
    let fin_ns = due_ns - TICK + SEGMENT * 1000;
    assert!(a.next_deadline().unwrap() > fin_ns);
    a.shut_down(due_ns);
    assert_eq!(a.next_deadline(), Some(fin_ns));
    assert_eq!(sent(&mut a, fin_ns - 1), []);
    let fin = sent(&mut a, fin_ns);
    assert_eq!((fin.len(), fin[0].segment.has(tcp_flag::FIN)), (1, true));
    assert!(a.next_deadline().unwrap() > fin_ns + TICK, "all has left");
}

#[test]
fn what_was_lost_waits_for_its_time_at_a_rate() {
    let config = Config { pacing_bytes_per_second: Some(1_000_000), ..Config::default() };
    let (mut a, mut b) = pair(&config, &Config::default());
    a.write(6 * SEGMENT, false).unwrap();
    let (mut now_ns, mut all) = (S, Vec::new());
    while all.len() < 6 {
        all.extend(sent(&mut a, now_ns));
        now_ns = a.next_deadline().unwrap();
    }
    // The first two are lost.
    let now_ns = S + 20 * MS;
    for transmit in &all[2..] {
        deliver(&[*transmit], &mut b, now_ns);
        deliver(&sent(&mut b, now_ns), &mut a, now_ns);
    }
    assert_eq!(payloads(&sent(&mut a, now_ns)), [1448], "one of them leaves");
    let due_ns = a.next_deadline().unwrap();
    assert!((now_ns + 1..=now_ns + 2 * MS).contains(&due_ns), "{due_ns}");
    assert_eq!(payloads(&sent(&mut a, due_ns)), [1448], "and the other when it is due");
    assert_eq!((a.counts().recoveries, a.counts().retransmissions), (1, 2));
}

#[test]
fn a_syn_is_repeated_as_often_as_was_said_and_data_is_not_given_up_so_soon() {
    let config = Config { syn_repetitions: Some(2), ..Config::default() };
    let mut a = Connection::connect(0, config.clone(), identity(1));
    let mut syns = sent(&mut a, 0).len();
    while let Some(at_ns) = a.next_deadline() {
        syns += sent(&mut a, at_ns).len();
        assert!(a.state() == State::Closed || a.counts().retransmissions as usize == syns - 1);
    }
    assert_eq!((syns, a.error()), (3, Some(Error::TimedOut)));
    let (mut a, _) = pair(&config, &Config::default());
    a.write(100, false).unwrap();
    sent(&mut a, S);
    while a.counts().timeouts < 5 {
        when_due(&mut a);
    }
    assert_eq!(a.state(), State::Established);
}

#[test]
fn only_a_connection_that_waits_for_nothing_is_asked_whether_it_lives() {
    let keepalive = Some(Keepalive { idle_ns: 10 * MS, interval_ns: 10 * MS, probes: 9 });
    let config = Config { keepalive, ..Config::default() };
    let mut opening = Connection::connect(0, config.clone(), identity(1));
    sent(&mut opening, 0);
    assert_eq!(opening.next_deadline(), Some(S), "the SYN is repeated");
    let (mut a, mut b) = pair(&config, &Config { receive_bytes: 1000, ..Config::default() });
    assert_eq!(a.next_deadline(), Some(12 * MS));
    a.write(1000, false).unwrap();
    let data = sent(&mut a, 3 * MS);
    assert!(a.next_deadline().unwrap() > 13 * MS, "an answer is expected");
    // The window is closed, and nothing is under way.
    for data in data {
        b.on_segment(4 * MS, &data.segment);
    }
    a.write(1000, false).unwrap();
    deliver(&sent(&mut b, 4 * MS), &mut a, 4 * MS);
    assert_eq!(sent(&mut a, 4 * MS), []);
    assert!(a.next_deadline().unwrap() > 14 * MS, "the window is asked for");
    let (mut a, mut b) = pair(&config, &Config::default());
    a.shut_down(S);
    deliver(&sent(&mut a, S), &mut b, S);
    b.shut_down(S);
    deliver(&sent(&mut b, S), &mut a, S);
    assert_eq!((a.state(), a.next_deadline()), (State::TimeWait, Some(61 * S)));
}

#[test]
fn data_that_has_not_left_this_host_does_not_time_out() {
    let (mut a, _) = pair(&Config::default(), &Config::default());
    a.write(100, false).unwrap();
    let data = sent(&mut a, S);
    a.set_departed(data[0].number - 1);
    for _ in 0..5 {
        assert_eq!(when_due(&mut a), []);
    }
    assert_eq!(a.counts().timeouts, 0);
    a.set_departed(u64::MAX);
    while a.counts().timeouts == 0 {
        assert!(when_due(&mut a).len() <= 1);
    }
}

/// What is sent to probe for the loss of a whole window, after which `unsent` bytes and perhaps a FIN are left, with a
/// window of so many bytes more.
fn tail_probe(unsent: u64, fin: bool, more: u32) -> Segment {
    let theirs = Config {
        receive_bytes: 10 * SEGMENT as u32 + more,
        window_scaling: false,
        ..Config::default()
    };
    let (mut a, _) = pair(&Config::default(), &theirs);
    a.write(10 * SEGMENT + unsent, false).unwrap();
    if fin {
        a.shut_down(S);
    }
    assert_eq!(payloads(&sent(&mut a, S)), [1448; 10]);
    let probes = when_due(&mut a);
    assert_eq!(probes.len(), 1);
    probes[0].segment
}

#[test]
fn a_probe_for_a_lost_tail_carries_what_comes_next_and_the_fin_if_there_is_room() {
    for (unsent, fin, more, bytes, ends) in [
        (500, true, 501, 500, true),
        (500, true, 500, 500, false),
        (500, false, 501, 500, false),
        (2000, true, 5000, 1448, false),
        // No room: the last segment again.
        (500, true, 499, 1448, false),
    ] {
        let probe = tail_probe(unsent, fin, more);
        let says = (probe.payload_bytes, probe.has(tcp_flag::FIN));
        assert_eq!(says, (bytes, ends), "{unsent} {fin} {more}");
    }
}

#[test]
fn the_last_segment_of_what_is_written_is_pushed_and_a_fin_is_marked_as_no_data() {
    let config = Config { ecn: true, ..Config::default() };
    let (mut a, mut b) = pair(&config, &config);
    a.write(2 * SEGMENT + 100, false).unwrap();
    let all = sent(&mut a, S);
    let pushed: Vec<bool> = all.iter().map(|each| each.segment.has(tcp_flag::PSH)).collect();
    assert_eq!(pushed, [false, false, true]);
    assert!(all.iter().all(|each| each.segment.ecn == Ecn::Capable));
    deliver(&all, &mut b, S);
    deliver(&sent(&mut b, S), &mut a, S);
    a.shut_down(S);
    let fin = sent(&mut a, S)[0].segment;
    assert_eq!((fin.ecn, fin.has(tcp_flag::FIN | tcp_flag::PSH)), (Ecn::NotCapable, false));
}

#[test]
fn nothing_is_sent_before_the_handshake_is_over_and_a_reset_alone_after_the_end() {
    let mut a = Connection::connect(0, Config::default(), identity(1));
    let syn = sent(&mut a, 0)[0].segment;
    let mut b = Connection::accept(0, Config::default(), identity(2), &syn).unwrap();
    let answer = sent(&mut b, 0);
    b.write(100, false).unwrap();
    assert_eq!(sent(&mut b, MS), [], "it is not established");
    deliver(&answer, &mut a, MS);
    deliver(&sent(&mut a, MS), &mut b, MS);
    assert_eq!(payloads(&sent(&mut b, MS)), [100]);
    b.write(100_000, false).unwrap();
    b.abort(MS);
    let last = sent(&mut b, MS);
    assert_eq!((last.len(), last[0].segment.has(tcp_flag::RST)), (1, true));
    assert_eq!((sent(&mut b, 100 * S), b.next_deadline()), (vec![], None));
}

#[test]
fn a_super_segment_is_cut_as_a_link_would() {
    use tcp_flag::{ACK, CWR, FIN, PSH, URG};
    let segment = Segment {
        sequence: u32::MAX - 10,
        flags: ACK | CWR | FIN | PSH | URG,
        urgent: 1500,
        payload_bytes: 2500,
        ..Segment::default()
    };
    let whole = Transmit { segment, offset: 100, segment_bytes: 1000, number: 7 };
    let frames: Vec<_> = whole
        .frames()
        .map(|Transmit { segment, offset, .. }| {
            (segment.sequence, offset, segment.payload_bytes, segment.flags, segment.urgent)
        })
        .collect();
    let expected = [
        (u32::MAX - 10, 100, 1000, ACK | CWR | URG, 1500),
        (989, 1100, 1000, ACK | URG, 500),
        (1989, 2100, 500, ACK | FIN | PSH, 0),
    ];
    assert_eq!(frames, expected);
}

#[test]
fn who_is_kept_from_sending_by_no_window_is_busy_and_who_has_nothing_to_send_is_not() {
    let theirs = Config { receive_bytes: 30_000, window_scaling: false, ..Config::default() };
    let (mut a, mut b) = pair(&Config::default(), &theirs);
    sent(&mut a, S);
    assert_eq!(a.waited_ns(S + 10), (0, 0), "nothing to send");
    // Held back by the application: no other segment is under way.
    a.write(100, true).unwrap();
    assert_eq!(sent(&mut a, S + 10), []);
    assert_eq!(a.waited_ns(S + 15), (5, 0));
    // By the congestion window, not the peer's.
    a.write(20_000, false).unwrap();
    let all = sent(&mut a, S + 20);
    assert_eq!(a.waited_ns(S + 50), (40, 0));
    deliver(&all, &mut b, S + 50);
}

#[test]
fn a_window_shrinks_when_an_idle_connection_sends_again_and_not_before() {
    let theirs = Config { receive_bytes: 1 << 20, ..Config::default() };
    let (mut a, mut b) = pair(&Config::default(), &theirs);
    let mut now_ns = S;
    a.write(400 * SEGMENT, false).unwrap();
    loop {
        let all = sent(&mut a, now_ns);
        if all.is_empty() {
            break;
        }
        deliver(&all, &mut b, now_ns + 10 * MS);
        now_ns += 20 * MS;
        deliver(&sent(&mut b, now_ns), &mut a, now_ns);
    }
    now_ns += 50 * MS;
    deliver(&sent(&mut b, now_ns), &mut a, now_ns);
    assert!(a.info().window_bytes > 50 * SEGMENT && a.info().in_flight_bytes == 0);
    let window = a.info().window_bytes;
    now_ns += 60 * S;
    assert_eq!(sent(&mut a, now_ns), []);
    assert_eq!(a.info().window_bytes, window, "it sends nothing");
    a.write(1, false).unwrap();
    sent(&mut a, now_ns);
    assert_eq!(a.info().window_bytes, 10 * SEGMENT, "as at the beginning");
}
