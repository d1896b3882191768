//! The words of a channel, as both sides must see them, and memory behind them.
#![cfg(not(loom))]

use std::sync::atomic::Ordering::Relaxed;

use rbuf_channel::{
    BLOCK_HEADER_WORDS, Buffer, Data, End, FIFO_HEADER_WORDS, Fault, FifoReader, FifoWriter,
    HeapData, HeapWords, IoRec, PAIRS_MAX, Pair, Pool, RING_WORDS_MAX, RING_WORDS_MIN, block_words,
    fifo_words, flow_block_bytes, rx_block_offset,
};

const fn pair(offset: u32, len: u32) -> Pair {
    Pair { offset, len }
}

#[test]
fn blocks_stand_behind_each_other_on_cache_lines_of_their_own() {
    let rows: &[(u32, u32, u64, u64)] = &[
        (4, 4, 128, 256),
        (8, 4, 128, 256),
        (4, 16, 128, 320),
        (16, 8, 192, 320),
        (64, 1024, 576, 576 + 8256),
        (RING_WORDS_MAX, RING_WORDS_MAX, 524_352, 1_048_704),
    ];
    for &(tx, rx, offset, bytes) in rows {
        assert_eq!((rx_block_offset(tx), flow_block_bytes(tx, rx)), (offset, bytes), "{tx}, {rx}");
    }
    assert_eq!((block_words(4), block_words(1024)), (12, 1032));
}

#[test]
fn an_iorec_is_written_as_the_layout_says() {
    let (mine, theirs) = (HeapWords::new(block_words(64)), HeapWords::new(block_words(64)));
    let mut end = End::new(mine.clone(), theirs.clone(), 1 << 20).unwrap();
    let mut peer = End::new(theirs, mine.clone(), 1 << 20).unwrap();
    let mut rec = IoRec::EMPTY;
    (rec.flags, rec.cookie, rec.gso_size) = (0x05, 0xabcd, 0x05b4);
    assert!(rec.push(pair(0x1_0000, 0x54)) && rec.push(pair(0x2_0000, 0x5b4)));
    assert!(end.put(&rec).unwrap());
    let ring: Vec<u64> = mine[BLOCK_HEADER_WORDS..][..4].iter().map(|w| w.load(Relaxed)).collect();
    assert_eq!(ring, [0x05b4_abcd_0502, 0x54_0001_0000, 0x5b4_0002_0000, 0]);
    let header: Vec<u64> = mine[..BLOCK_HEADER_WORDS].iter().map(|w| w.load(Relaxed)).collect();
    assert_eq!(header, [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(peer.take(), Ok(Some(rec.clone())));
    assert!(end.put(&rec).unwrap());
    mine[0].store(5, Relaxed);
    assert_eq!(peer.take(), Err(Fault::Torn { count: 2, words: 2 }));
}

#[test]
fn iorecs_are_equal_if_whatever_they_say_is() {
    let rec = |flags, cookie, gso_size, pairs: &[Pair]| {
        let mut rec = IoRec::EMPTY;
        (rec.flags, rec.cookie, rec.gso_size) = (flags, cookie, gso_size);
        assert!(pairs.iter().all(|&pair| rec.push(pair)));
        rec
    };
    let one = rec(1, 2, 3, &[pair(0, 4)]);
    assert_eq!(one, rec(1, 2, 3, &[pair(0, 4)]));
    for other in [
        rec(0, 2, 3, &[pair(0, 4)]),
        rec(1, 3, 3, &[pair(0, 4)]),
        rec(1, 2, 4, &[pair(0, 4)]),
        rec(1, 2, 3, &[pair(1, 4)]),
        rec(1, 2, 3, &[pair(0, 5)]),
        rec(1, 2, 3, &[pair(0, 4), pair(8, 4)]),
        rec(1, 2, 3, &[]),
    ] {
        assert_ne!(one, other);
        let mut copy = other.clone();
        copy.copy_from(&one);
        assert_eq!(copy, one);
    }
    let mut rec = rec(0, 0, 0, &[pair(0, u32::MAX), pair(7, u32::MAX)]);
    assert_eq!((rec.bytes(), rec.words(), rec.is_empty()), (8_589_934_590, 3, false));
    rec.set_len(1, 9);
    rec.set_len(2, 9);
    assert_eq!(rec.pairs(), [pair(0, u32::MAX), pair(7, 9)]);
    rec.truncate(2);
    assert_eq!(rec.pairs().len(), 2);
    rec.truncate(PAIRS_MAX + 256);
    assert_eq!(rec.pairs().len(), 2);
    rec.truncate(1);
    assert_eq!(rec.bytes(), u64::from(u32::MAX));
    rec.clear();
    assert!(rec.is_empty() && rec.pairs().is_empty());
    assert_eq!(rec.bytes(), 0);
}

#[test]
fn an_end_counts_what_its_peer_has_not_taken() {
    let (a, b) = (HeapWords::new(block_words(16)), HeapWords::new(block_words(16)));
    let mut one = End::new(a.clone(), b.clone(), 64).unwrap();
    let mut other = End::new(b.clone(), a.clone(), 64).unwrap();
    assert_eq!((one.ring_words(), one.area_bytes()), (16, 64));
    for _ in 0..7 {
        assert!(one.put(&IoRec::single(1, pair(0, 8))).unwrap());
    }
    assert_eq!((one.untaken_words(), one.room()), (14, Ok(2)));
    for _ in 0..3 {
        other.take().unwrap().unwrap();
    }
    assert_eq!(one.untaken_words(), 14, "as when it last looked");
    assert_eq!((one.room(), one.untaken_words()), (Ok(8), 8));
    assert_eq!((one.published_word().load(Relaxed), one.taken_word().load(Relaxed)), (14, 0));
    assert_eq!((other.published_word().load(Relaxed), other.taken_word().load(Relaxed)), (0, 6));
    assert_eq!(one.peer_taken_word().load(Relaxed), 6);
    assert_eq!(other.peer_published_word().load(Relaxed), 14);
    assert_eq!(other.peer_words()[0].load(Relaxed), 14);
    assert_eq!(other.arm(), Ok(true));
    one.clear();
    let cleared = a[..BLOCK_HEADER_WORDS].iter().all(|word| word.load(Relaxed) == 0);
    assert!(cleared && b[1].load(Relaxed) == 6 && b[4].load(Relaxed) == 1);
    assert_eq!(a[BLOCK_HEADER_WORDS + 1].load(Relaxed), 8 << 32, "the ring is left as it is");
    other.clear();
    assert!(b.iter().all(|word| word.load(Relaxed) == 0));
}

#[test]
fn a_ring_is_a_power_of_two_within_its_limits() {
    let end = |mine: usize, theirs: usize| {
        End::new(HeapWords::new(mine), HeapWords::new(theirs), 64).is_some()
    };
    for (ring, permitted) in [
        (0, false),
        (1, false),
        (2, false),
        (RING_WORDS_MIN, true),
        (6, false),
        (RING_WORDS_MAX, true),
        (RING_WORDS_MAX * 2, false),
    ] {
        let words = block_words(ring);
        assert_eq!(end(words, words), permitted, "a ring of {ring} words");
        assert!(!end(words, words - 1) && !end(words, words + 1));
    }
}

#[test]
fn a_fifo_has_two_places_for_each_flow() {
    for (flows, slots) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 8), (5, 16), (1000, 2048)] {
        assert_eq!(fifo_words(flows), FIFO_HEADER_WORDS + slots, "{flows} flows");
        let words = HeapWords::new(FIFO_HEADER_WORDS + slots);
        assert!(FifoWriter::new(words.clone()).is_some());
        assert!(FifoReader::new(words, flows).is_some());
        assert!(FifoReader::new(HeapWords::new(FIFO_HEADER_WORDS + slots + 1), flows).is_none());
    }
    for words in [0, 7, FIFO_HEADER_WORDS, FIFO_HEADER_WORDS + 3] {
        assert!(FifoWriter::new(HeapWords::new(words)).is_none(), "{words} words");
    }
}

#[test]
fn as_many_events_as_there_are_places_can_be_read_and_not_one_more() {
    let words = HeapWords::new(fifo_words(4));
    let mut reader = FifoReader::new(words.clone(), 4).unwrap();
    let mut writer = FifoWriter::new(words.clone()).unwrap();
    assert!(!reader.has_news());
    for event in 0..8 {
        writer.post(event % 4);
    }
    for event in 0..8 {
        assert!(reader.has_news());
        assert_eq!(reader.read().unwrap().map(|event| event.slot()), Some(event % 4));
    }
    assert!(!reader.has_news() && reader.read().unwrap().is_none());
    for (announced, believed) in [(16, true), (17, false), (7, false), (0, false)] {
        let words = HeapWords::new(fifo_words(4));
        let mut reader = FifoReader::new(words.clone(), 4).unwrap();
        words[0].store(8, Relaxed);
        for _ in 0..8 {
            let _ = reader.read().unwrap().unwrap();
        }
        words[0].store(announced, Relaxed);
        let read = reader.read().map(|event| event.is_some());
        let lie = Err(Fault::EventsAhead { announced, seen: 8, ring: 8 });
        assert_eq!(read, if believed { Ok(true) } else { lie });
    }
}

#[test]
fn a_part_of_memory_is_all_that_its_holder_can_reach() {
    let words = HeapWords::new(10);
    for (place, word) in words.iter().enumerate() {
        word.store(place as u64, Relaxed);
    }
    let seen = |part: Option<HeapWords>| {
        part.map(|part| part.iter().map(|word| word.load(Relaxed)).collect::<Vec<_>>())
    };
    let part = words.part(3, 5).unwrap();
    assert_eq!(seen(Some(part.clone())), Some(vec![3, 4, 5, 6, 7]));
    assert_eq!(seen(part.part(2, 3)), Some(vec![5, 6, 7]));
    assert_eq!(seen(part.part(5, 0)), Some(vec![]));
    assert_eq!(seen(part.part(2, 4)), None);
    assert_eq!(seen(words.part(0, 11)), None);
    assert_eq!(seen(words.part(usize::MAX, 2)), None);

    let data = HeapData::new(100);
    assert!(data.write(0, &(0..100).collect::<Vec<u8>>()));
    let part = data.part(10, 20).unwrap();
    let read = |data: &HeapData, offset, bytes| {
        let mut out = vec![0xee; bytes];
        let read = data.read(offset, &mut out);
        let cells: Vec<u8> =
            data.cells(offset, bytes as u32).iter().map(|cell| cell.load(Relaxed)).collect();
        assert_eq!(cells, if read { out.clone() } else { vec![] });
        assert!(read || out == vec![0xee; bytes], "nothing was copied");
        read.then_some(out)
    };
    assert_eq!((data.bytes(), part.bytes()), (100, 20));
    assert_eq!(read(&part, 3, 2), Some(vec![13, 14]));
    assert_eq!(read(&part, 18, 2), Some(vec![28, 29]));
    assert_eq!(read(&part, 19, 2), None);
    assert_eq!(read(&part, 20, 1), None);
    assert_eq!(read(&part, 20, 0), Some(vec![]));
    assert_eq!(read(&part, u32::MAX, 2), None);
    let inner = part.part(5, 15).unwrap();
    assert_eq!((read(&inner, 0, 1), inner.bytes()), (Some(vec![15]), 15));
    assert!(part.part(5, 16).is_none() && part.part(21, 0).is_none());
    assert!(part.part(u32::MAX, 1).is_none());
    assert!(inner.write(14, &[99]) && !inner.write(14, &[1, 2]) && !inner.write(15, &[1]));
    assert_eq!(read(&data, 28, 3), Some(vec![28, 99, 30]), "parts share what they are of");
    assert_eq!((inner.memory(), part.memory()), (data.memory(), data.memory()));
    assert_ne!(HeapData::new(100).memory(), data.memory());
}

#[test]
fn who_holds_memory_keeps_it() {
    let data = HeapData::new(16);
    let hold = data.hold();
    let place = data.memory();
    drop(data);
    // While it is held nothing else can stand there.
    assert!((0..100).all(|_| HeapData::new(16).memory() != place));
    drop(hold);
}

#[test]
fn ranges_that_touch_do_not_overlap_in_either_order() {
    let check = |pairs: [Pair; 2]| {
        let mut rec = IoRec::EMPTY;
        assert!(pairs.iter().all(|&pair| rec.push(pair)));
        rec.validate(64).is_ok()
    };
    for (second, sound) in [(pair(16, 8), true), (pair(17, 8), false), (pair(24, 8), false)] {
        let first = pair(24, 8);
        assert_eq!((check([first, second]), check([second, first])), (sound, sound), "{second:?}");
    }
    assert!(check([pair(32, 8), pair(24, 8)]) && !check([pair(31, 8), pair(24, 8)]));
}

#[test]
fn a_pool_lends_whole_buffers_to_as_many_as_it_can_count() {
    let mut pool = Pool::new(5000, 1000);
    assert_eq!((pool.len(), pool.free(), pool.buffer_bytes()), (5, 5, 1000));
    assert!(!pool.is_empty() && Pool::new(999, 1000).is_empty());
    assert_eq!(pool.pair(Buffer(3)), pair(3000, 1000));
    let buffers: Vec<Buffer> = std::iter::from_fn(|| pool.take()).take(2).collect();
    assert_eq!(buffers, [Buffer(0), Buffer(1)]);
    assert_eq!(pool.free(), 3);
    let rows = [
        (1, pair(1000, 1000), true),
        (1, pair(1999, 1), true),
        (1, pair(999, 2), false),
        (1, pair(1999, 2), false),
        (1, pair(2000, 1), false),
        (2, pair(2000, 1000), false),
        (9, pair(9000, 1000), false),
    ];
    for (buffer, pair, lent) in rows {
        assert_eq!(pool.lent(Buffer(buffer), pair), lent, "{pair:?} of {buffer}");
    }
    for _ in 1..255 {
        assert!(pool.share(Buffer(1)));
    }
    assert!(!pool.share(Buffer(1)), "of more it would lose count");
    assert!(!pool.share(Buffer(2)) && !pool.share(Buffer(9)));
    for left in (0..255).rev() {
        assert_eq!(pool.free(), 3);
        pool.give(Buffer(1)).unwrap();
        assert_eq!(pool.lent(Buffer(1), pair(1000, 1)), left > 0);
    }
    assert_eq!(pool.free(), 4);
    assert_eq!(Pool::new(u32::MAX, 1).len(), 1 << 16);
    let mut pool = Pool::new(1000, 1000);
    pool.grow(usize::MAX);
    assert_eq!((pool.len(), pool.free()), (1 << 16, 1 << 16));
}

#[test]
fn an_end_finds_what_its_peer_has_not_taken_in_order_whatever_the_peer_says() {
    let (a, b) = (HeapWords::new(block_words(16)), HeapWords::new(block_words(16)));
    let mut one = End::new(a.clone(), b.clone(), 64).unwrap();
    let mut other = End::new(b.clone(), a, 64).unwrap();
    let untaken = |one: &mut End<HeapWords>| -> Vec<u16> {
        one.untaken().unwrap().map(|rec| rec.cookie).collect()
    };
    assert_eq!(untaken(&mut one), []);
    // Around the end of the ring.
    for number in 0..20 {
        let mut rec = IoRec::single(number, pair(0, 8));
        assert!(rec.push(pair(8, 16)));
        assert!(one.put(&rec).unwrap());
        if number >= 3 {
            let first = number - 3;
            assert_eq!(untaken(&mut one), [first, first + 1, first + 2, number]);
            assert_eq!(other.take().unwrap().unwrap().cookie, first);
        }
    }
    assert_eq!(one.untaken().unwrap().next().unwrap().pairs(), [pair(0, 8), pair(8, 16)]);
    // Between two of them, where a pair is no header.
    b[1].store(58, Relaxed);
    assert_eq!(untaken(&mut one), []);
    b[1].store(61, Relaxed);
    assert!(one.untaken().is_err(), "more than was put");
}
