//! Rules of the RFCs, one each, on two connections in virtual time.

use base_wire::{ControlError, tcp_flag};
use stack_tcp::{
    Arrival, Config, Connection, Error, Identity, Keepalive, RouterError, Segment, State, Transmit,
};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn identity(number: u32) -> Identity {
    Identity { initial_sequence: number, timestamp_offset: number }
}

/// Everything that is sent at `now_ns`.
fn sent(connection: &mut Connection, now_ns: u64) -> Vec<Transmit> {
    std::iter::from_fn(|| connection.poll_transmit(now_ns)).collect()
}

/// Both deliver to each other until both are silent.
fn settle(a: &mut Connection, b: &mut Connection, now_ns: u64) {
    loop {
        let (from_a, from_b) = (sent(a, now_ns), sent(b, now_ns));
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        from_a.iter().for_each(|transmit| {
            b.on_segment(now_ns, &transmit.segment);
        });
        from_b.iter().for_each(|transmit| {
            a.on_segment(now_ns, &transmit.segment);
        });
    }
}

fn pair_with(config: &Config) -> (Connection, Connection) {
    let mut client = Connection::connect(MS, config.clone(), identity(u32::MAX - 5));
    let syn = sent(&mut client, MS)[0].segment;
    let mut server = Connection::accept(2 * MS, config.clone(), identity(9), &syn).unwrap();
    settle(&mut client, &mut server, 2 * MS);
    assert_eq!((client.state(), server.state()), (State::Established, State::Established));
    (client, server)
}

fn pair() -> (Connection, Connection) {
    pair_with(&Config::default())
}

/// A segment as `from` would send it now, to be changed.
fn segment(from: &mut Connection, now_ns: u64) -> Segment {
    from.write(1, false).unwrap();
    let mut segment = sent(from, now_ns)[0].segment;
    segment.payload_bytes = 0;
    segment
}

#[test]
fn both_can_open_at_the_same_time() {
    let mut ends =
        [1, 2].map(|number| Connection::connect(MS, Config::default(), identity(number)));
    let syns = ends.each_mut().map(|end| sent(end, MS)[0].segment);
    let [a, b] = &mut ends;
    a.on_segment(2 * MS, &syns[1]);
    b.on_segment(2 * MS, &syns[0]);
    settle(a, b, 3 * MS);
    assert_eq!((a.state(), b.state()), (State::Established, State::Established));
}

#[test]
fn both_can_close_at_the_same_time_and_wait_before_they_end() {
    let (mut a, mut b) = pair();
    a.shut_down(S);
    b.shut_down(S);
    let (from_a, from_b) = (sent(&mut a, S), sent(&mut b, S));
    a.on_segment(S, &from_b[0].segment);
    b.on_segment(S, &from_a[0].segment);
    assert_eq!((a.state(), b.state()), (State::Closing, State::Closing));
    settle(&mut a, &mut b, S);
    assert_eq!((a.state(), b.state()), (State::TimeWait, State::TimeWait));
    assert_eq!(a.next_deadline(), Some(61 * S), "MUST-13: twice the MSL");
    sent(&mut a, 61 * S);
    assert_eq!(a.state(), State::Closed);
}

#[test]
fn a_reset_counts_only_at_the_next_byte_and_is_questioned_in_the_window() {
    let (mut a, mut b) = pair();
    let reset = Segment { flags: tcp_flag::RST, ..segment(&mut b, S) };
    for (ahead, challenged) in [(1, true), (60_000, true), (1_000_000, false), (u32::MAX, false)] {
        let wide = Segment { sequence: reset.sequence.wrapping_add(ahead), ..reset };
        a.on_segment(S, &wide);
        assert_eq!(a.state(), State::Established, "{ahead}");
        assert_eq!(sent(&mut a, S).len(), usize::from(challenged), "{ahead}");
    }
    a.on_segment(S, &reset);
    assert_eq!((a.state(), a.error()), (State::Closed, Some(Error::Reset)));
}

#[test]
fn a_syn_on_a_connection_is_questioned_and_not_too_often() {
    let (mut a, mut b) = pair();
    let syn = Segment { flags: tcp_flag::SYN, ..segment(&mut b, S) };
    let mut answers = 0;
    for _ in 0..100 {
        a.on_segment(S, &syn);
        answers += sent(&mut a, S).len();
    }
    assert_eq!((a.state(), answers), (State::Established, 10));
    assert_eq!(a.counts().challenges_suppressed, 90);
}

#[test]
fn who_has_not_heard_of_the_end_is_reset_and_not_too_often() {
    let (mut a, mut b) = pair();
    a.abort(S);
    let lost = sent(&mut a, S);
    assert_eq!(lost.len(), 1, "the reset that b did not get");
    b.write(10, false).unwrap();
    let data = sent(&mut b, 2 * S)[0].segment;
    let mut answers = Vec::new();
    for _ in 0..100 {
        a.on_segment(2 * S, &data);
        answers.extend(sent(&mut a, 2 * S));
    }
    assert_eq!(answers.len(), 10);
    b.on_segment(2 * S, &answers[0].segment);
    assert_eq!((b.state(), b.error()), (State::Closed, Some(Error::Reset)));
    a.on_segment(3 * S, &answers[0].segment);
    assert_eq!(sent(&mut a, 3 * S), [], "nothing answers a reset");
}

#[test]
fn an_old_timestamp_makes_a_segment_old() {
    let (mut a, mut b) = pair();
    b.write(10, false).unwrap();
    let first = sent(&mut b, S)[0].segment;
    a.on_segment(S, &first);
    b.write(10, false).unwrap();
    let mut old = sent(&mut b, 2 * S)[0].segment;
    let clocks = old.options.timestamps.as_mut().unwrap();
    clocks.value = clocks.value.wrapping_sub(5000);
    assert_eq!(a.on_segment(2 * S, &old), Arrival::default());
    assert_eq!((a.readable(), a.counts().old_timestamps), (10, 1));
    assert_eq!(sent(&mut a, 2 * S).len(), 1, "and it is answered");
}

#[test]
fn an_acknowledgment_of_what_was_never_sent_is_questioned_and_changes_nothing() {
    let (mut a, mut b) = pair();
    let mut wrong = segment(&mut b, S);
    a.write(100, false).unwrap();
    sent(&mut a, S);
    wrong.acknowledgment = wrong.acknowledgment.wrapping_add(5000);
    a.on_segment(S, &wrong);
    assert_eq!((a.unacknowledged(), sent(&mut a, S).len()), (100, 1));
}

#[test]
fn a_closed_window_is_asked_about_for_as_long_as_the_peer_answers() {
    let config = Config { receive_bytes: 2000, receive_bytes_max: 2000, ..Config::default() };
    let (mut a, mut b) = pair_with(&config);
    a.write(10_000, false).unwrap();
    settle(&mut a, &mut b, S);
    let mut now_ns = S;
    let mut probes = 0;
    while now_ns < 7200 * S {
        now_ns = a.next_deadline().expect("it asks").max(now_ns);
        probes += 1;
        settle(&mut a, &mut b, now_ns);
    }
    assert_eq!((a.state(), a.error()), (State::Established, None), "MUST-37");
    assert!(
        (60..100).contains(&probes),
        "SHLD-30: rarer and rarer, every 2 minutes at last: {probes}"
    );
    while a.unacknowledged() > 0 {
        let readable = b.readable();
        b.consume(now_ns, readable);
        settle(&mut a, &mut b, now_ns);
        now_ns += S;
    }
}

#[test]
fn data_that_nobody_acknowledges_ends_the_connection_after_the_user_timeout() {
    let (mut a, _) = pair();
    a.set_user_timeout_ns(30 * S);
    a.write(100, false).unwrap();
    let mut now_ns = S;
    let mut last = Vec::new();
    while a.state() != State::Closed {
        last = sent(&mut a, now_ns);
        now_ns = a.next_deadline().unwrap_or(now_ns);
    }
    assert_eq!((a.error(), now_ns), (Some(Error::TimedOut), 31 * S));
    assert!(last[0].segment.has(tcp_flag::RST), "and the peer, if it is there, hears of it");
}

#[test]
fn an_idle_connection_is_probed_if_asked_for_and_ends_if_nobody_answers() {
    let (mut a, mut b) = pair();
    assert_eq!(a.next_deadline(), None, "MUST-25: off unless asked for");
    a.set_keepalive(Some(Keepalive { idle_ns: 100 * S, interval_ns: 10 * S, probes: 3 }));
    let first = a.next_deadline().unwrap();
    settle(&mut a, &mut b, first);
    assert_eq!(a.next_deadline(), Some(first + 100 * S), "it answered");
    let mut now_ns = first;
    let mut probes = 0;
    while a.state() != State::Closed {
        now_ns = a.next_deadline().unwrap();
        probes += sent(&mut a, now_ns).iter().filter(|t| !t.segment.has(tcp_flag::RST)).count();
    }
    assert_eq!((a.error(), probes, now_ns), (Some(Error::TimedOut), 3, first + 130 * S));
}

#[test]
fn routers_are_believed_about_what_is_in_flight_and_end_nothing() {
    // MUST-47.
    let (mut a, _) = pair();
    a.write(20_000, false).unwrap();
    let flight = sent(&mut a, S);
    let inside = flight[1].segment.sequence;
    let before = a.segment_bytes();
    a.on_router_error(S, inside.wrapping_sub(50_000), RouterError::TooBig(1000));
    assert_eq!(a.segment_bytes(), before);
    a.on_router_error(S, inside, RouterError::Undelivered(Error::Refused));
    assert_eq!((a.state(), a.soft_error()), (State::Established, Some(Error::Refused)));
    a.on_router_error(S, inside, RouterError::TooBig(1000));
    assert_eq!(a.segment_bytes(), 948);
    let window = a.info().window_bytes;
    let again = sent(&mut a, S + MS);
    assert!(!again.is_empty() && again.iter().all(|t| t.segment.payload_bytes <= 948));
    assert_eq!(a.info().window_bytes, window, "it was not congestion");
}

#[test]
fn whatever_a_router_says_of_our_syn_ends_the_attempt_with_the_kernels_error() {
    let all = [
        (3, 0, Error::NetUnreachable),
        (3, 1, Error::HostUnreachable),
        (3, 2, Error::ProtocolUnreachable),
        (3, 3, Error::Refused),
        (3, 5, Error::SourceRoute),
        (3, 6, Error::NetUnreachable),
        (3, 7, Error::HostUnknown),
        (3, 8, Error::HostIsolated),
        (3, 9, Error::NetUnreachable),
        (3, 10, Error::HostUnreachable),
        (3, 11, Error::NetUnreachable),
        (3, 12, Error::HostUnreachable),
        (3, 13, Error::HostUnreachable),
        (3, 14, Error::HostUnreachable),
        (3, 15, Error::HostUnreachable),
        (11, 0, Error::HostUnreachable),
        (12, 0, Error::Header),
    ];
    for (kind, code, error) in all {
        let said = RouterError::from(ControlError::from_icmp_v4(kind, code, 0).unwrap());
        let mut attempt = Connection::connect(MS, Config::default(), identity(7));
        let syn = sent(&mut attempt, MS)[0].segment;
        // About nothing that was sent: anybody could say it.
        attempt.on_router_error(MS, syn.sequence.wrapping_add(1), said);
        assert_eq!(attempt.state(), State::SynSent);
        attempt.on_router_error(MS, syn.sequence, said);
        assert_eq!(
            (attempt.state(), attempt.error()),
            (State::Closed, Some(error)),
            "{kind} {code}"
        );
        assert!(sent(&mut attempt, MS).is_empty());

        let (mut open, _) = pair();
        open.write(1000, false).unwrap();
        let data = sent(&mut open, S)[0].segment;
        open.on_router_error(S, data.sequence, said);
        assert_eq!((open.state(), open.soft_error()), (State::Established, Some(error)));
    }
    for ignored in [(3, 16), (4, 0), (5, 0), (0, 0), (8, 0)] {
        assert_eq!(ControlError::from_icmp_v4(ignored.0, ignored.1, 0), None);
    }
}

#[test]
fn a_stream_closed_with_data_unread_is_reset() {
    let (mut a, mut b) = pair();
    b.write(100, false).unwrap();
    settle(&mut a, &mut b, S);
    a.close(S);
    assert!(sent(&mut a, S)[0].segment.has(tcp_flag::RST));

    let (mut a, mut b) = pair();
    a.close(S);
    settle(&mut a, &mut b, S);
    assert_eq!((a.state(), b.state()), (State::FinWait2, State::CloseWait));
    b.write(100, false).unwrap();
    settle(&mut a, &mut b, 2 * S);
    assert_eq!((a.state(), b.error()), (State::Closed, Some(Error::Reset)), "nobody will read it");
}

#[test]
fn small_writes_wait_for_each_other_unless_told_otherwise() {
    for no_delay in [false, true] {
        let (mut a, _) = pair();
        a.set_no_delay(no_delay);
        let mut segments = 0;
        for _ in 0..5 {
            a.write(10, false).unwrap();
            segments += sent(&mut a, S).len();
        }
        assert_eq!(segments, if no_delay { 5 } else { 1 });
        let (mut a, _) = pair();
        a.set_cork(true);
        a.write(10, false).unwrap();
        assert!(sent(&mut a, S).is_empty());
        a.set_cork(false);
        assert_eq!(sent(&mut a, S).len(), 1);
    }
}

#[test]
fn a_mark_halts_growth_once_a_round_trip_and_is_echoed_until_it_was_heard() {
    let config = Config { ecn: true, ..Config::default() };
    let (mut a, mut b) = pair_with(&config);
    assert!(a.info().ecn && b.info().ecn);
    a.write(14_000, false).unwrap();
    let mut data = sent(&mut a, S);
    let before = a.info().window_bytes;
    data[0].segment.ecn = stack_tcp::Ecn::Congested;
    data.iter().for_each(|transmit| {
        b.on_segment(S, &transmit.segment);
    });
    let echo = sent(&mut b, S);
    assert!(echo.iter().all(|ack| ack.segment.has(tcp_flag::ECE)));
    a.on_segment(S + MS, &echo[0].segment);
    assert!(a.info().window_bytes < before);
    a.write(1000, false).unwrap();
    let heard = sent(&mut a, S + MS)[0].segment;
    assert!(heard.has(tcp_flag::CWR));
    b.on_segment(S + 2 * MS, &heard);
    let silent = sent(&mut b, S + S);
    assert!(silent.iter().all(|ack| !ack.segment.has(tcp_flag::ECE)));
}

#[test]
fn a_batch_of_segments_is_answered_by_one_acknowledgment_of_all() {
    let (mut ours, mut peer) = pair();
    peer.write(5 * 1460, false).unwrap();
    let batch = sent(&mut peer, 5 * MS);
    assert!(batch.len() >= 5);
    for transmit in &batch {
        ours.on_segment(6 * MS, &transmit.segment);
    }
    let answers = sent(&mut ours, 6 * MS);
    let end =
        batch.last().map(|last| last.segment.sequence.wrapping_add(last.segment.payload_bytes));
    assert_eq!(answers.len(), 1, "MUST-58, MUST-59: {answers:?}");
    assert_eq!(Some(answers[0].segment.acknowledgment), end);
}

#[test]
fn what_has_not_left_this_host_is_probed_for_when_it_has() {
    let (mut a, _) = pair();
    a.set_departed(a.counts().segments_out);
    a.write(3000, false).unwrap();
    assert!(!sent(&mut a, S).is_empty());
    // The wire is slow: the time for a probe comes and goes.
    let mut now_ns = S;
    for _ in 0..3 {
        let due_ns = a.next_deadline().unwrap();
        assert!(due_ns < now_ns + 5 * S, "{due_ns}");
        now_ns = due_ns;
        assert_eq!(sent(&mut a, now_ns), []);
    }
    a.set_departed(u64::MAX);
    let due_ns = a.next_deadline().unwrap();
    assert!(due_ns < now_ns + 5 * S, "{due_ns}");
    assert!(!sent(&mut a, due_ns).is_empty(), "it is lost, and sent again");
}

#[test]
fn new_data_that_waits_for_more_does_not_keep_what_is_lost_waiting() {
    let (mut a, mut b) = pair();
    let segment = u64::from(a.segment_bytes());
    a.write(10 * segment, false).unwrap();
    let flight = sent(&mut a, S);
    assert!(flight.len() >= 2);
    // Held back by Nagle.
    a.write(50, false).unwrap();
    assert_eq!(sent(&mut a, S), []);
    // Everything is lost; the first one sent again arrives.
    let mut rounds = 0;
    while a.unacknowledged() > 0 {
        rounds += 1;
        assert!(rounds < 12, "a time-out for each segment");
        let mut now_ns = a.next_deadline().unwrap();
        loop {
            let again = sent(&mut a, now_ns);
            now_ns += MS;
            for transmit in &again {
                b.on_segment(now_ns, &transmit.segment);
            }
            let acks = sent(&mut b, now_ns);
            if again.is_empty() && acks.is_empty() {
                break;
            }
            for ack in acks {
                a.on_segment(now_ns, &ack.segment);
            }
        }
    }
    assert!(a.counts().timeouts <= 2, "{:?}", a.counts());
}

#[test]
fn absurd_probes_of_an_idle_connection_end_it_or_nothing_and_never_at_once() {
    let (mut a, _) = pair();
    a.set_keepalive(Some(Keepalive { idle_ns: u64::MAX, interval_ns: u64::MAX, probes: 255 }));
    assert_eq!(sent(&mut a, 3600 * S), []);
    a.set_keepalive(Some(Keepalive { idle_ns: 0, interval_ns: 0, probes: 0 }));
    let first = sent(&mut a, 7200 * S);
    assert_eq!(first.len(), 1);
    assert!(a.next_deadline().unwrap() > 7200 * S, "the peer has time to answer");
    a.set_user_timeout_ns(0);
    a.write(1, false).unwrap();
    sent(&mut a, 7200 * S);
    assert_eq!(a.state(), State::Established);
}

/// An established sender that wrote eight segments, and the one super-segment they leave in.
fn eight_segments() -> (Connection, Connection, Transmit) {
    let config = Config { super_segment_bytes: 65_000, ..Config::default() };
    let (mut a, b) = pair_with(&config);
    let segment = u64::from(a.segment_bytes());
    a.write(8 * segment, false).unwrap();
    let whole = a.poll_transmit(S).unwrap();
    assert!(whole.frames().count() >= 3, "{whole:?}");
    (a, b, whole)
}

#[test]
fn of_a_super_segment_that_a_link_took_in_part_the_rest_is_found_lost_and_sent_again() {
    let (mut a, mut b, whole) = eight_segments();
    let mut taken: Vec<_> = whole.frames().collect();
    let lost = taken.pop().unwrap();
    taken.remove(1);
    for frame in &taken {
        b.on_segment(S + 5 * MS, &frame.segment);
    }
    for round in 0..200 {
        let now_ns = S + round * 10 * MS;
        for transmit in sent(&mut a, now_ns) {
            b.on_segment(now_ns + 5 * MS, &transmit.segment);
        }
        for answer in sent(&mut b, now_ns + 5 * MS) {
            a.on_segment(now_ns + 10 * MS, &answer.segment);
        }
    }
    assert_eq!((a.unacknowledged(), b.readable()), (0, 8 * u64::from(a.segment_bytes())));
    let again = a.counts().retransmitted_bytes;
    let missing = 2 * u64::from(lost.segment_bytes);
    assert!((missing..=missing + u64::from(lost.segment_bytes)).contains(&again), "{again}");
}

#[test]
fn what_is_queued_in_part_is_not_sent_again_before_all_of_it_has_left() {
    let (mut a, _, whole) = eight_segments();
    a.set_departed(whole.number - 1);
    let others = sent(&mut a, S);
    for seconds in 2..20 {
        sent(&mut a, seconds * S);
    }
    assert_eq!((a.counts().retransmissions, a.counts().timeouts), (0, 0));
    a.set_departed(whole.number + others.len() as u64);
    for seconds in 20..25 {
        sent(&mut a, seconds * S);
    }
    assert!(a.counts().retransmissions > 0, "now it may have been lost");
}
