//! Windows, acknowledgments and growth of the receiver, decision by decision.

use proptest::prelude::*;

use super::*;

fn receiver(capacity: u32, shift: u8) -> Receiver {
    let mut receiver = Receiver::new(capacity, capacity, shift, 0);
    receiver.synchronise(u32::MAX - 100, 1000);
    receiver.announce(true);
    receiver
}

#[test]
fn a_fin_counts_when_everything_before_it_is_there() {
    let mut receiver = receiver(10_000, 0);
    let start = receiver.next();
    assert!(!receiver.place(start + 100, 50, true).advanced);
    assert!(!receiver.is_finished());
    assert!(receiver.place(start, 100, false).advanced);
    receiver.place(start + 150, 0, true);
    assert!(receiver.is_finished());
    assert_eq!((receiver.next() - start, receiver.readable()), (151, 150));
}

#[test]
fn a_fin_in_the_midst_of_received_data_is_ignored() {
    let mut receiver = receiver(10_000, 0);
    let start = receiver.next();
    receiver.place(start + 500, 100, false);
    receiver.place(start, 10, true);
    assert!(!receiver.is_finished());
    assert_eq!(receiver.next() - start, 10);
    receiver.place(start + 10, 490, true);
    assert!(!receiver.is_finished(), "what follows was there before it");
    assert_eq!((receiver.next() - start, receiver.readable()), (600, 600));
}

#[test]
fn a_window_opens_by_a_segment_or_not_at_all() {
    let mut receiver = receiver(10_000, 0);
    let start = receiver.next();
    for segment in 0..10 {
        receiver.place(start + 1000 * segment, 1000, false);
        receiver.note_data(0, 1000, 0, Placed::default());
    }
    assert_eq!(receiver.announce(true), 0);
    assert!(!receiver.consume(0, 999));
    assert_eq!(receiver.announce(true), 0);
    assert!(receiver.consume(0, 1));
    assert_eq!(receiver.announce(true), 1000);
}

#[test]
fn a_peer_that_sends_less_than_a_unit_does_not_move_the_edge_for_ever() {
    let mut receiver = receiver(65_536, 14);
    let start = receiver.next();
    for byte in 0..200_000 {
        receiver.place(start + byte, 1, false);
        receiver.announce(true);
    }
    assert!(receiver.next() - start <= 65_536 + 2 * 16_384);
    assert_eq!((receiver.edge() - receiver.next(), receiver.announce(true)), (0, 0));
}

#[test]
fn a_buffer_smaller_than_a_unit_can_be_filled_all_the_same() {
    let mut receiver = receiver(1000, 14);
    for _ in 0..10 {
        let (next, edge) = (receiver.next(), receiver.edge());
        assert!(edge > next);
        assert_eq!(receiver.place(next, edge - next, false).keep.unwrap().bytes, 32_768);
        assert_eq!(receiver.announce(true), 0);
        assert!(receiver.consume(0, u64::MAX));
        receiver.announce(true);
    }
}

#[test]
fn a_clamp_narrows_what_is_announced_next_and_takes_nothing_back() {
    let mut receiver = receiver(60_000, 0);
    let start = receiver.next();
    receiver.set_clamp(10_000);
    assert_eq!(receiver.announce(true), 60_000, "that was announced");
    receiver.place(start, 60_000, false);
    receiver.consume(0, 60_000);
    assert_eq!(receiver.announce(true), 10_000);
    receiver.set_clamp(u64::MAX);
    assert_eq!(receiver.announce(true), 60_000);
}

#[test]
fn no_acknowledgment_is_spent_on_a_window_that_cannot_be_told() {
    let mut receiver = receiver(65_536, 14);
    let start = receiver.next();
    receiver.place(start, 65_536, false);
    receiver.note_data(0, 65_536, 0, Placed::default());
    assert_eq!(receiver.announce(true), 0);
    let updates = (0..16_384).filter(|_| {
        let opens = receiver.consume(0, 1);
        if opens {
            receiver.announce(true);
        }
        opens
    });
    assert_eq!(updates.count(), 1);
}

#[test]
fn segments_that_were_merged_on_the_way_here_make_no_larger_segment() {
    let mut receiver = receiver(60_000, 0);
    let start = receiver.next();
    receiver.place(start, 60_000, false);
    receiver.note_data(0, 60_000, 0, Placed::default());
    assert_eq!(receiver.announce(true), 0);
    assert!(receiver.consume(0, 1000), "room for a segment of the peer is worth telling");
}

/// A receiver that has acknowledged so much at once that it delays.
fn patient(capacity: u32, now_ns: u64) -> Receiver {
    let mut receiver = receiver(capacity, 0);
    for _ in 0..Receiver::QUICK {
        arrive(&mut receiver, now_ns, 1000);
        assert!(receiver.acks.now, "at once");
        receiver.acknowledged();
    }
    receiver
}

/// So many bytes arrive in order, with a delay of acknowledgments of 40.
fn arrive(receiver: &mut Receiver, now_ns: u64, bytes: u32) {
    let placed = receiver.place(receiver.next(), bytes.into(), false);
    receiver.note_data(now_ns, bytes, 40, placed);
}

#[test]
fn what_is_accepted_begins_before_the_edge_or_at_the_next_byte() {
    let mut receiver = receiver(10_000, 0);
    let start = receiver.next();
    assert!(receiver.accepts(start + 9_999, 1) && !receiver.accepts(start + 10_000, 1));
    assert!(receiver.accepts(start + 10_000, 0) && !receiver.accepts(start + 10_001, 0));
    receiver.place(start, 10_000, false);
    assert!(receiver.accepts(start + 10_000, 1), "a probe of the closed window");
    assert!(!receiver.accepts(start + 10_001, 1) && !receiver.accepts(start + 9_999, 1));
}

#[test]
fn what_arrived_in_order_is_counted_whether_or_not_it_was_read() {
    let mut receiver = receiver(10_000, 0);
    let start = receiver.next();
    assert_eq!(receiver.received(), 0);
    receiver.place(start, 300, false);
    receiver.place(start + 400, 100, false);
    receiver.consume(0, 120);
    assert_eq!((receiver.received(), receiver.readable()), (300, 180));
    receiver.place(start + 300, 100, true);
    receiver.place(start + 500, 0, true);
    assert_eq!((receiver.received(), receiver.is_finished()), (500, true));
}

#[test]
fn a_segment_without_payload_changes_no_report() {
    let mut receiver = receiver(10_000, 0);
    let start = receiver.next();
    receiver.place(start + 100, 100, false);
    receiver.place(start + 300, 100, false);
    let report = receiver.report();
    assert_eq!(receiver.place(start + 100, 0, false), Placed::default());
    assert_eq!(receiver.report(), report);
    receiver.place(start + 100, 1, false);
    receiver.duplicate = None;
    assert_ne!(receiver.report(), report, "what arrives again is said first");
}

#[test]
fn a_window_of_which_half_is_left_opens_by_as_much_as_that() {
    for (arrived, read, opens) in [
        (5000, 5000, true),
        (5000, 4999, false),
        (4999, 4999, false),
        (6000, 3999, false),
        (6000, 4000, true),
        (9001, 999, false),
        (9001, 1000, true),
    ] {
        let mut receiver = receiver(10_000, 0);
        receiver.acks.segment_bytes = 1000;
        receiver.place(receiver.next(), arrived, false);
        assert_eq!(receiver.consume(0, read), opens, "{arrived} {read}");
    }
    // A buffer that has grown meanwhile: (what arrived, whether its news are worth a segment).
    for (arrived, opens) in [(0, false), (1000, false), (1001, true), (1500, true)] {
        let mut receiver = receiver(2000, 0);
        receiver.acks.segment_bytes = 1000;
        receiver.announced_max = 1600;
        receiver.place(receiver.next(), arrived, false);
        receiver.set_capacity(20_000);
        assert_eq!(receiver.capacity(), 20_000);
        assert_eq!(receiver.opens(), opens, "{arrived}");
    }
}

#[test]
fn a_window_is_rounded_up_by_no_more_than_two_units_beyond_the_room() {
    for (capacity, units) in [(40_000, 4), (32_868, 4), (32_867, 3)] {
        let mut receiver = receiver(65_536, 14);
        receiver.place(receiver.next(), 100, false);
        receiver.set_capacity(capacity);
        assert_eq!(receiver.announce(true), units, "{capacity}");
    }
}

#[test]
fn an_acknowledgment_waits_unless_the_sender_may_have_begun_anew() {
    const S: u64 = 1_000_000_000;
    for (pause_ns, at_once) in [(0, 0), (S, 0), (S + 1, 2)] {
        let mut receiver = patient(1 << 20, 5);
        for count in 0..3 {
            arrive(&mut receiver, 5 + pause_ns, 1000);
            assert_eq!(receiver.acks.now, count < at_once, "{pause_ns} {count}");
            let due_ns = (count >= at_once).then_some(5 + pause_ns + 40);
            assert_eq!(receiver.acks.deadline, due_ns);
            receiver.acknowledged();
        }
    }
}

#[test]
fn a_second_segment_is_acknowledged_at_once_and_a_deadline_is_not_put_off() {
    let mut receiver = patient(1 << 20, 5);
    arrive(&mut receiver, 6, 600);
    arrive(&mut receiver, 10, 400);
    assert_eq!((receiver.acks.now, receiver.acks.deadline), (false, Some(46)));
    arrive(&mut receiver, 11, 1);
    assert!(receiver.acks.now, "more than one segment");
}

#[test]
fn who_answers_within_the_delay_acknowledges_with_the_next_answer() {
    for (after_ns, waits) in [(39, true), (40, false), (41, false)] {
        let mut receiver = receiver(1 << 20, 0);
        arrive(&mut receiver, 100, 10);
        receiver.acknowledged();
        receiver.answered(100 + after_ns, 40);
        arrive(&mut receiver, 200, 10);
        assert_eq!(receiver.acks.now, !waits, "{after_ns}");
    }
}

#[test]
fn who_answers_a_syn_with_data_waits_for_data_from_then_on() {
    for (now, deadline, received, waits) in [
        (true, None, 0, true),
        (false, Some(9), 0, true),
        (false, None, 0, false),
        (true, Some(9), 1, false),
    ] {
        let mut receiver = receiver(1 << 20, 0);
        receiver.place(receiver.next(), received, false);
        (receiver.acks.now, receiver.acks.deadline) = (now, deadline);
        receiver.answered_syn();
        assert_eq!(receiver.acks.quick == 0, waits, "{now} {deadline:?} {received}");
    }
}

#[test]
fn a_round_trip_is_what_echoes_say_smoothed_or_else_how_long_a_window_takes() {
    let mut echoed = receiver(10_000, 0);
    echoed.note_rtt(800);
    assert_eq!(echoed.tuning.rtt_ns, Some(800));
    echoed.note_rtt(1600);
    assert_eq!(echoed.tuning.rtt_ns, Some(900));

    let mut receiver = receiver(10_000, 0);
    receiver.note_window(100);
    assert_eq!(receiver.tuning.rtt_ns, None, "the handshake is no window");
    receiver.place(receiver.next(), 9_999, false);
    receiver.note_window(150);
    assert_eq!(receiver.tuning.rtt_ns, None, "not all of it");
    receiver.place(receiver.next(), 1, false);
    receiver.note_window(170);
    assert_eq!(receiver.tuning.rtt_ns, Some(70));
    receiver.consume(170, 10_000);
    receiver.announce(true);
    receiver.place(receiver.next(), 10_000, false);
    receiver.note_window(180);
    assert_eq!(receiver.tuning.rtt_ns, Some(70), "it is known");
    assert_eq!(receiver.tuning.window_since_ns, 180);
}

#[test]
fn a_buffer_is_wanted_for_twice_of_what_is_read_in_a_round_trip() {
    let mut receiver = Receiver::new(10_000, 60_000, 0, 1000);
    receiver.synchronise(1, 1000);
    receiver.announce(true);
    receiver.acks.segment_bytes = 1000;
    receiver.place(receiver.next(), 10_000, false);
    receiver.consume(5000, 2000);
    assert_eq!(receiver.wanted(), 10_000, "nobody knows what a round trip is");
    receiver.note_rtt(100);
    receiver.tuning.since_ns = 5000;
    receiver.consume(5099, 1000);
    assert_eq!(receiver.wanted(), 10_000, "it is not over");
    receiver.consume(5100, 1000);
    assert_eq!(receiver.wanted(), 2 * 4000 + 16 * 1000);
    receiver.consume(5200, 1000);
    assert_eq!(receiver.wanted(), 24_000, "no less than it was");
    receiver.set_capacity(100_000);
    receiver.announce(true);
    receiver.place(receiver.next(), 50_000, false);
    receiver.consume(5300, 50_000);
    assert_eq!(receiver.wanted(), 60_000, "no more than is allowed");
}

proptest! {
    #[test]
    fn no_byte_within_an_announced_window_is_refused_or_kept_twice(
        capacity in 1u32..20_000, shift in 0u8..=14,
        steps in proptest::collection::vec((0u8..7, 0u64..=1 << 15, 1u64..3000), 1..120),
    ) {
        let mut receiver = receiver(capacity, shift);
        let start = receiver.next();
        let (mut kept, mut contiguous) = (vec![false; 1 << 20], 0);
        let mut told = receiver.edge();
        let mut largest = receiver.store();
        for (what, place, bytes) in steps {
            match what {
                0 => {
                    receiver.consume(0, bytes);
                }
                1 => {
                    let edge = receiver.edge();
                    let window = u64::from(receiver.announce(true)) << shift;
                    prop_assert!(receiver.edge() >= edge);
                    prop_assert!(receiver.next() + window + (1 << shift) > edge, "taken back");
                    told = told.max(receiver.next() + window);
                }
                2 => {
                    receiver.set_capacity(place.max(1));
                    largest = largest.max(receiver.store());
                }
                3 => {
                    for _ in 0..bytes {
                        let keep = receiver.place(receiver.next(), 1, false).keep;
                        prop_assert_eq!(keep.is_some(), contiguous < (told - start) as usize);
                        let Some(keep) = keep else { break };
                        kept[keep.offset as usize] = true;
                        contiguous = (receiver.next() - start) as usize;
                        let window = u64::from(receiver.announce(true)) << shift;
                        told = told.max(receiver.next() + window);
                    }
                }
                _ => {
                    // Somewhere in the window, or up to its edge, or beyond.
                    let window = told - receiver.next();
                    let at = receiver.next() + ((window * place) >> 15);
                    let bytes = if what == 4 { told - at } else { bytes };
                    let mut placed = receiver.place(at, bytes, false);
                    while let Some(keep) = placed.keep {
                        let range = keep.offset as usize..(keep.offset as usize + keep.bytes as usize);
                        prop_assert!(range.end as u64 <= told - start);
                        prop_assert!(!kept[range.clone()].contains(&true), "twice");
                        kept[range].fill(true);
                        placed = receiver.place_more(at, bytes);
                    }
                    let invited = (at - start) as usize..((at + bytes).min(told) - start) as usize;
                    prop_assert!(!kept[invited].contains(&false), "refused");
                }
            }
            prop_assert!(receiver.edge() <= receiver.read + largest + (2 << shift));
            let next = (receiver.next() - start) as usize;
            prop_assert!(!kept[contiguous..next].contains(&false) && !kept[next]);
            contiguous = next;
        }
    }
}
