//! How an end waits: how often it looks, where it sleeps, and what it has announced meanwhile.
#![cfg(not(loom))]

use std::cell::{Cell, RefCell};

use rbuf_channel::{AtomicU64, End, HeapWords, IoRec, Notice, Pair, Park, Wait, block_words};

const RING: u32 = 8;

type Ends = (End<HeapWords>, End<HeapWords>);

fn ends() -> Ends {
    let (a, b) = (HeapWords::new(block_words(RING)), HeapWords::new(block_words(RING)));
    (End::new(a.clone(), b.clone(), 64).unwrap(), End::new(b, a, 64).unwrap())
}

fn rec(cookie: u16) -> IoRec {
    IoRec::single(cookie, Pair { offset: 0, len: 8 })
}

/// Sleeps as the script says, and notes what it is asked.
struct Script<F> {
    /// Runs while the end sleeps; says whether it was woken.
    asleep: F,
    /// After how many questions the deadline has passed.
    patience: u32,
    looks: Cell<u32>,
    asked: Cell<u32>,
    slept_on: RefCell<Vec<(usize, u64)>>,
    woken: RefCell<Vec<usize>>,
}

impl<F: Fn() -> bool> Script<F> {
    fn new(patience: u32, asleep: F) -> Self {
        let (looks, asked) = (Cell::new(0), Cell::new(0));
        let (slept_on, woken) = (RefCell::default(), RefCell::default());
        Self { asleep, patience, looks, asked, slept_on, woken }
    }
}

fn place(word: &AtomicU64) -> usize {
    std::ptr::from_ref(word).addr()
}

impl<F: Fn() -> bool> Park for Script<F> {
    fn sleep(&self, word: &AtomicU64, seen: u64) -> bool {
        self.slept_on.borrow_mut().push((place(word), seen));
        (self.asleep)()
    }

    fn wake(&self, word: &AtomicU64) {
        self.woken.borrow_mut().push(place(word));
    }

    fn relax(&self) {
        self.looks.set(self.looks.get() + 1);
    }

    fn expired(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() >= self.patience
    }
}

#[test]
fn who_finds_nothing_looks_as_often_as_it_was_told_and_then_sleeps_until_there_is_something() {
    let waits =
        [(Wait::Block, 0), (Wait::Adaptive { spins: 0 }, 0), (Wait::Adaptive { spins: 3 }, 3)];
    for (wait, looks) in waits {
        let (mut taker, putter) = ends();
        let putter = RefCell::new(putter);
        putter.borrow_mut().put(&rec(1)).unwrap();
        assert_eq!(taker.take_wait(wait, &Script::new(1, || panic!("asleep"))), Ok(Some(rec(1))));
        let rounds = Cell::new(0);
        let script = Script::new(1, || {
            let mut putter = putter.borrow_mut();
            assert!(putter.notice().is_quiet(), "it is not woken for nothing");
            // Woken once too early: it sleeps again.
            rounds.set(rounds.get() + 1);
            if rounds.get() == 2 {
                assert!(putter.put(&rec(2)).unwrap());
                assert!(putter.notice().wake_published, "it has said that it sleeps");
            }
            true
        });
        assert_eq!(taker.take_wait(wait, &script), Ok(Some(rec(2))));
        assert_eq!((script.looks.get(), script.asked.get()), (looks, 0), "{wait:?}");
        let word = place(putter.borrow().published_word());
        assert_eq!(*script.slept_on.borrow(), [(word, 2); 2], "{wait:?}");
        assert!(putter.borrow_mut().put(&rec(3)).unwrap());
        assert!(putter.borrow_mut().notice().is_quiet(), "it sleeps no more");
    }
}

#[test]
fn who_has_no_room_sleeps_until_there_is_enough() {
    for (wait, looks) in [(Wait::Block, 0), (Wait::Adaptive { spins: 5 }, 5)] {
        let (mut putter, taker) = ends();
        let taker = RefCell::new(taker);
        while putter.put(&rec(0)).unwrap() {}
        let mut long = rec(9);
        assert!(long.push(Pair { offset: 8, len: 8 }));
        let script = Script::new(1, || {
            let mut taker = taker.borrow_mut();
            taker.take().unwrap().unwrap();
            let notice = taker.notice();
            assert!(!notice.wake_taken, "two words are not three");
            taker.take().unwrap().unwrap();
            assert_eq!(taker.notice(), Notice { wake_taken: true, ..Notice::default() });
            true
        });
        assert_eq!(putter.put_wait(&long, wait, &script), Ok(true));
        assert_eq!((script.looks.get(), script.asked.get()), (looks, 0), "{wait:?}");
        let word = place(taker.borrow().taken_word());
        assert_eq!(*script.slept_on.borrow(), [(word, 0)], "{wait:?}");
        taker.borrow_mut().take().unwrap().unwrap();
        assert!(taker.borrow_mut().notice().is_quiet(), "it sleeps no more");
    }
}

#[test]
fn who_spins_never_sleeps_and_asks_for_the_time_once_in_64_looks() {
    let asleep = || panic!("asleep");
    let (mut taker, mut putter) = ends();
    let script = Script::new(3, asleep);
    assert_eq!(taker.take_wait(Wait::Spin, &script), Ok(None));
    assert_eq!((script.looks.get(), script.asked.get()), (3 * 64, 3));
    assert!(putter.put(&rec(1)).unwrap() && putter.notice().is_quiet());
    while putter.put(&rec(0)).unwrap() {}
    let script = Script::new(2, asleep);
    assert_eq!(putter.put_wait(&rec(2), Wait::Spin, &script), Ok(false));
    assert_eq!((script.looks.get(), script.asked.get()), (2 * 64, 2));
}

#[test]
fn who_is_late_looks_once_more_and_leaves_no_word_that_it_sleeps() {
    let (mut taker, putter) = ends();
    let putter = RefCell::new(putter);
    assert_eq!(taker.take_wait(Wait::Block, &Script::new(1, || false)), Ok(None));
    let script = Script::new(1, || putter.borrow_mut().put(&rec(1)).is_err());
    assert_eq!(taker.take_wait(Wait::Block, &script), Ok(Some(rec(1))));
    assert!(putter.borrow_mut().notice().is_quiet());

    let mut putter = putter.into_inner();
    let taker = RefCell::new(taker);
    while putter.put(&rec(0)).unwrap() {}
    assert_eq!(putter.put_wait(&rec(2), Wait::Block, &Script::new(1, || false)), Ok(false));
    let script = Script::new(1, || taker.borrow_mut().take().unwrap().is_none());
    assert_eq!(putter.put_wait(&rec(2), Wait::Block, &script), Ok(true));
    assert!(taker.borrow_mut().notice().is_quiet());
}

#[test]
fn those_are_woken_of_whom_a_notice_speaks_and_where_they_sleep() {
    let (a, b) = ends();
    let (published, taken) = (place(b.peer_published_word()), place(b.peer_taken_word()));
    for (wake_published, wake_taken) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let script = Script::new(1, || true);
        let notice = Notice { wake_published, wake_taken, post: true };
        a.wake(notice, &script);
        let expected = [(wake_published, published), (wake_taken, taken)];
        let expected = expected.into_iter().filter_map(|(wake, word)| wake.then_some(word));
        assert_eq!(*script.woken.borrow(), expected.collect::<Vec<_>>());
        let quiet = Notice { post: false, ..notice }.is_quiet();
        assert_eq!(quiet, !wake_published && !wake_taken);
        assert!(!notice.is_quiet());
    }
}

#[test]
fn an_application_that_does_not_choose_looks_for_a_while_before_it_sleeps() {
    let Wait::Adaptive { spins } = Wait::default() else { panic!() };
    assert!((1..10_000).contains(&spins));
}
