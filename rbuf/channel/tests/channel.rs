//! A channel against its oracle, a `VecDeque`; and against peers that lie.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use rbuf_channel::{
    BLOCK_HEADER_WORDS, End, Fault, FifoReader, FifoWriter, HeapWords, IoRec, Pair, block_words,
    fifo_words,
};

const RING: u32 = 32;
const AREA: u32 = 4096;

struct Two {
    a: End<HeapWords>,
    b: End<HeapWords>,
    /// Block that `a` writes: what a hostile `a` controls.
    a_words: HeapWords,
}

fn two() -> Two {
    let (a_words, b_words) = (HeapWords::new(block_words(RING)), HeapWords::new(block_words(RING)));
    let a = End::new(a_words.clone(), b_words.clone(), AREA).unwrap();
    let b = End::new(b_words, a_words.clone(), AREA).unwrap();
    Two { a, b, a_words }
}

fn rec(cookie: u16, pairs: usize) -> IoRec {
    let mut rec = IoRec::EMPTY;
    rec.cookie = cookie;
    for i in 0..pairs as u32 {
        assert!(rec.push(Pair { offset: i * 16, len: 16 }));
    }
    rec
}

#[derive(Debug, Clone)]
enum Step {
    Put { cookie: u16, pairs: usize },
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u16>(), 1usize..=16).prop_map(|(cookie, pairs)| Step::Put { cookie, pairs }),
        Just(Step::Take),
    ]
}

#[test]
fn who_finds_something_does_not_call_off_the_sleep_of_another_thread() {
    let Two { mut a, mut b, .. } = two();
    assert!(a.await_published(1).unwrap().is_some(), "the first thread goes to sleep");
    assert!(b.put(&rec(1, 1)).unwrap());
    assert_eq!(a.await_published(1), Ok(None), "the second need not");
    assert!(b.notice().wake_published, "the first is still to be woken");
    assert!(a.await_taken(u64::from(RING) + 1).unwrap().is_some());
    assert_eq!(a.await_taken(1), Ok(None));
    a.awake();
    assert!(a.take().unwrap().is_some());
    assert!(b.put(&rec(2, 1)).unwrap());
    assert!(!b.notice().wake_published, "nobody sleeps any more");
}

proptest! {
    #[test]
    fn what_is_taken_is_what_was_put_in_order(steps in proptest::collection::vec(step(), 0..400)) {
        let Two { mut a, mut b, .. } = two();
        let mut oracle = VecDeque::new();
        let mut used = 0u64;
        for step in steps {
            match step {
                Step::Put { cookie, pairs } => {
                    let rec = rec(cookie, pairs);
                    let fits = used + rec.words() <= u64::from(RING);
                    prop_assert_eq!(a.put(&rec), Ok(fits));
                    if fits {
                        used += rec.words();
                        oracle.push_back(rec);
                    }
                }
                Step::Take => {
                    let expected = oracle.pop_front();
                    used -= expected.as_ref().map_or(0, IoRec::words);
                    prop_assert_eq!(b.take(), Ok(expected));
                }
            }
        }
    }

    #[test]
    fn no_words_of_a_peer_make_an_end_panic_or_read_outside(
        words in proptest::collection::vec((0usize..block_words(RING), prop_oneof![any::<u64>(), 0u64..64, (0u64..17).prop_map(|n| n | 1 << 32)]), 0..64),
        puts in 0usize..8,
    ) {
        let Two { mut b, a_words, .. } = two();
        for _ in 0..puts {
            let _ = b.put(&rec(0, 1));
        }
        for (place, value) in words {
            a_words[place].store(value, Relaxed);
            if let Ok(Some(taken)) = b.take() {
                prop_assert_eq!(taken.validate(AREA), Ok(()));
            }
            let _ = b.put(&rec(1, 2));
            let _ = b.notice();
        }
    }
}

#[test]
fn every_lie_about_counts_is_named() {
    let lie = |published: u64, taken: u64| {
        let Two { mut a, mut b, a_words } = two();
        for _ in 0..2 {
            assert!(a.put(&rec(1, 1)).unwrap() && b.put(&rec(2, 1)).unwrap());
        }
        b.take().unwrap().unwrap();
        a.take().unwrap().unwrap();
        assert_eq!(b.room(), Ok(30));
        a_words[0].store(published, Relaxed);
        a_words[1].store(taken, Relaxed);
        (b.available(), b.room())
    };
    assert_eq!(lie(4, 2), (Ok(2), Ok(30)), "the truth");
    assert_eq!(lie(3, 2).0, Err(Fault::PublishedBackwards { announced: 3, seen: 4 }));
    assert_eq!(lie(35, 2).0, Err(Fault::PublishedAhead { announced: 35, taken: 2, ring: 32 }));
    assert_eq!(
        lie(u64::MAX, 2).0,
        Err(Fault::PublishedAhead { announced: u64::MAX, taken: 2, ring: 32 })
    );
    assert_eq!(lie(4, 1).1, Err(Fault::TakenBackwards { announced: 1, seen: 2 }));
    assert_eq!(lie(4, 5).1, Err(Fault::TakenAhead { announced: 5, published: 4 }));
}

#[test]
fn every_lie_in_an_iorec_is_named() {
    let lie = |header: u64, first: u64, published: u64| {
        let Two { mut b, a_words, .. } = two();
        a_words[BLOCK_HEADER_WORDS].store(header, Relaxed);
        a_words[BLOCK_HEADER_WORDS + 1].store(first, Relaxed);
        a_words[BLOCK_HEADER_WORDS + 2].store(first, Relaxed);
        a_words[0].store(published, Relaxed);
        b.take()
    };
    let good = 16u64 << 32;
    assert!(lie(1, good, 2).unwrap().is_some());
    assert_eq!(lie(0, good, 2), Err(Fault::PairCount { count: 0 }));
    assert_eq!(lie(17, good, 30), Err(Fault::PairCount { count: 17 }));
    assert_eq!(lie(2, good, 2), Err(Fault::Torn { count: 2, words: 2 }));
    assert_eq!(lie(1 | 1 << 63, good, 2), Err(Fault::Reserved { header: 1 | 1 << 63 }));
    assert_eq!(lie(1, 7, 2), Err(Fault::EmptyPair { offset: 7 }));
    assert_eq!(
        lie(1, 1 | 4096 << 32, 2),
        Err(Fault::OutsideArea { offset: 1, len: 4096, area: 4096 })
    );
    assert_eq!(lie(2, good, 3), Err(Fault::Overlap { first: 0, second: 0 }));
}

#[test]
fn an_iorec_is_what_it_was_when_it_was_taken() {
    let Two { mut a, mut b, a_words } = two();
    assert!(a.put(&rec(9, 1)).unwrap());
    let taken = b.take().unwrap().unwrap();
    for word in a_words.iter().skip(BLOCK_HEADER_WORDS) {
        word.store(u64::MAX, Relaxed);
    }
    assert_eq!(taken, rec(9, 1), "later writes of the peer change nothing");
}

#[test]
fn a_full_ring_refuses_until_the_peer_has_taken() {
    let Two { mut a, mut b, .. } = two();
    while a.put(&rec(0, 3)).unwrap() {}
    assert_eq!(a.room(), Ok(0));
    b.take().unwrap().unwrap();
    assert_eq!(a.room(), Ok(4));
    assert!(a.put(&rec(0, 3)).unwrap());
}

#[test]
fn an_armed_channel_posts_once_and_is_quiet_until_armed_again() {
    let Two { mut a, mut b, .. } = two();
    assert!(a.notice().is_quiet());
    assert_eq!(b.arm(), Ok(false));
    assert!(a.put(&rec(0, 1)).unwrap());
    assert!(a.notice().post);
    assert!(a.put(&rec(0, 1)).unwrap());
    assert!(!a.notice().post, "one event per arming");
    assert_eq!(b.arm(), Ok(true), "arming finds what is already there");
}

#[test]
fn an_end_is_armed_again_only_when_its_event_was_read_however_often_it_asks() {
    let Two { mut a, mut b, .. } = two();
    let words = HeapWords::new(fifo_words(1));
    let mut posts = FifoWriter::new(words.clone()).unwrap();
    let mut events = FifoReader::new(words, 1).unwrap();
    for _ in 0..10 {
        // As a receiver does that always finds something just before it would sleep.
        for _ in 0..5 {
            assert!(b.take().unwrap().is_none());
            assert!(a.put(&rec(0, 1)).unwrap());
            assert_eq!(b.arm(), Ok(true));
            if a.notice().post {
                posts.post(0);
            }
            assert!(b.take().unwrap().is_some());
        }
        assert_eq!((b.arm(), b.is_armed()), (Ok(false), true));
        let event = events.read().unwrap().expect("one for all of them");
        assert!(b.heard(event) && events.read().unwrap().is_none());
        assert!(!b.is_armed());
    }
    posts.post(0);
    let unasked = events.read().unwrap().unwrap();
    assert!(!b.heard(unasked), "an event that nobody asked for");
}

#[test]
fn blocks_of_the_wrong_size_make_no_channel() {
    let words = |n| HeapWords::new(n);
    assert!(End::new(words(block_words(32)), words(block_words(64)), AREA).is_none());
    assert!(End::new(words(block_words(32) - 1), words(block_words(32) - 1), AREA).is_none());
    assert!(End::new(words(7), words(7), AREA).is_none());
    assert!(End::new(words(8 + 2), words(8 + 2), AREA).is_none());
}

#[test]
fn events_arrive_in_order_and_lies_are_named() {
    let words = HeapWords::new(fifo_words(4));
    let mut writer = FifoWriter::new(words.clone()).unwrap();
    let mut reader = FifoReader::new(words.clone(), 4).unwrap();
    let read = |reader: &mut FifoReader<HeapWords>| {
        reader.read().map(|event| event.map(|event| event.slot()))
    };
    assert_eq!(read(&mut reader), Ok(None));
    for round in 0..100 {
        writer.post(round % 4);
        writer.post((round + 1) % 4);
        assert!(reader.has_news());
        assert_eq!(read(&mut reader), Ok(Some(round % 4)));
        assert_eq!(read(&mut reader), Ok(Some((round + 1) % 4)));
        assert_eq!(read(&mut reader), Ok(None));
    }
    writer.post(4);
    assert_eq!(read(&mut reader), Err(Fault::EventSlot { slot: 4, slots: 4 }));
    words[0].store(u64::MAX, Relaxed);
    assert!(matches!(reader.read(), Err(Fault::EventsAhead { .. })));
    assert!(!reader.peer_asleep());
    writer.set_asleep(true);
    assert!(reader.peer_asleep());
}
