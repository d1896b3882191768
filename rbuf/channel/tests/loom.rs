//! The wake-up protocol under every interleaving that loom can make.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p rbuf-channel --test loom --release`.
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use rbuf_channel::{
    AtomicU64, End, FifoReader, FifoWriter, HeapWords, IoRec, Pair, Park, Wait, block_words,
    fifo_words,
};

/// A futex of loom's primitives: one queue for all words.
#[derive(Clone)]
struct Futex(Arc<(Mutex<u32>, Condvar)>);

impl Futex {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(0), Condvar::new())))
    }
}

impl Park for Futex {
    fn sleep(&self, word: &AtomicU64, seen: u64) -> bool {
        let mut wakes = self.0.0.lock().unwrap();
        // As the kernel does: the word is compared under the lock a waker must take.
        if word.load(loom::sync::atomic::Ordering::SeqCst) == seen {
            wakes = self.0.1.wait(wakes).unwrap();
        }
        drop(wakes);
        true
    }

    fn wake(&self, _word: &AtomicU64) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    fn relax(&self) {
        loom::thread::yield_now();
    }

    fn expired(&self) -> bool {
        false
    }
}

fn ends() -> (End<HeapWords>, End<HeapWords>) {
    let (a, b) = (HeapWords::new(block_words(4)), HeapWords::new(block_words(4)));
    (End::new(a.clone(), b.clone(), 64).unwrap(), End::new(b, a, 64).unwrap())
}

fn rec(cookie: u16) -> IoRec {
    IoRec::single(cookie, Pair { offset: 0, len: 8 })
}

#[test]
fn a_sleeping_taker_is_woken_by_every_put() {
    loom::model(|| {
        let futex = Futex::new();
        let (mut a, mut b) = ends();
        let peer = {
            let futex = futex.clone();
            loom::thread::spawn(move || {
                assert!(a.put(&rec(7)).unwrap());
                let notice = a.notice();
                a.wake(notice, &futex);
            })
        };
        let taken = b.take_wait(Wait::Block, &futex).unwrap().unwrap();
        assert_eq!(taken, rec(7));
        peer.join().unwrap();
    });
}

#[test]
fn a_sleeping_putter_is_woken_by_room() {
    loom::model(|| {
        let futex = Futex::new();
        let (mut a, mut b) = ends();
        assert!(a.put(&rec(0)).unwrap() && a.put(&rec(1)).unwrap());
        let peer = {
            let futex = futex.clone();
            loom::thread::spawn(move || {
                assert_eq!(b.take().unwrap().unwrap().cookie, 0);
                let notice = b.notice();
                b.wake(notice, &futex);
            })
        };
        assert!(a.put_wait(&rec(2), Wait::Block, &futex).unwrap());
        peer.join().unwrap();
    });
}

#[test]
fn an_armed_channel_is_either_seen_full_or_posted() {
    loom::model(|| {
        let (mut a, mut b) = ends();
        let peer = loom::thread::spawn(move || {
            assert!(a.put(&rec(7)).unwrap());
            a.notice().post
        });
        let seen = b.arm().unwrap();
        let posted = peer.join().unwrap();
        assert!(seen || posted, "neither side noticed the other");
    });
}

#[test]
fn who_sleeps_when_no_event_is_left_to_read_misses_nothing_and_one_place_is_enough() {
    loom::model(|| {
        let (mut a, mut b) = ends();
        let words = HeapWords::new(fifo_words(1));
        let mut posts = FifoWriter::new(words.clone()).unwrap();
        let mut events = FifoReader::new(words, 1).unwrap();
        let peer = loom::thread::spawn(move || {
            let mut posted = 0;
            for cookie in 0..2 {
                assert!(a.put(&rec(cookie)).unwrap());
                if a.notice().post {
                    posts.post(0);
                    posted += 1;
                }
            }
            posted
        });
        // A round as receivers make it: events, then what is there, and arm before sleeping.
        let (mut taken, mut read) = (0, 0);
        while let Some(event) = events.read().unwrap() {
            read += 1;
            b.heard(event);
        }
        loop {
            match b.take().unwrap() {
                Some(_) => taken += 1,
                None if b.arm().unwrap() => {}
                None => break,
            }
        }
        let asleep = !events.has_news();
        let posted = peer.join().unwrap();
        let left =
            usize::from(b.take().unwrap().is_some()) + usize::from(b.take().unwrap().is_some());
        assert_eq!(taken + left, 2);
        assert!(posted - read <= 1, "{posted} events for one arming");
        if asleep && left > 0 {
            assert!(events.has_news(), "nobody will wake who sleeps");
        }
    });
}

#[test]
fn a_domain_that_falls_asleep_has_seen_every_event_or_is_seen_asleep() {
    loom::model(|| {
        let (app, driver) = (HeapWords::new(fifo_words(1)), HeapWords::new(fifo_words(1)));
        let mut post = FifoWriter::new(app.clone()).unwrap();
        let look = FifoReader::new(driver.clone(), 1).unwrap();
        let sleeper = FifoWriter::new(driver).unwrap();
        let mut events = FifoReader::new(app, 1).unwrap();
        let peer = loom::thread::spawn(move || {
            post.post(0);
            look.peer_asleep()
        });
        sleeper.set_asleep(true);
        let seen = events.read().unwrap().is_some();
        let bell = peer.join().unwrap();
        assert!(seen || bell, "the event was lost");
    });
}
