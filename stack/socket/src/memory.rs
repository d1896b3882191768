//! Where a connection's bytes lie: written ones in the transmit data area, received ones in the buffers
//! the driver put them in.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU8;

use rbuf_channel::{Buffer, Data, Pair};
use stack_tcp::{Keep, ReceiveQueue, ReceiveRing, SendBuffer};

/// What was written and not acknowledged: a ring in the transmit data area, from which it is sent and
/// sent again.
#[derive(Debug)]
pub struct SendArea<D> {
    data: D,
    /// Where the ring begins in the area, and how long it is.
    start: u32,
    bytes: u32,
    released: u64,
    end: u64,
    /// Oldest byte that a packet on its way to the wire points to: an acknowledgment can overtake the
    /// driver's word that it has sent a copy.
    pub in_driver: Option<u64>,
}

impl<D: Data> SendArea<D> {
    /// All of `data` from `start` on.
    pub fn new(data: D, start: u32) -> Self {
        let bytes = data.bytes().saturating_sub(start);
        Self { data, start, bytes, released: 0, end: 0, in_driver: None }
    }

    /// The bytes from `offset` on as they lie in the area.
    pub fn parts(&self, offset: u64, bytes: u32) -> [Pair; 2] {
        let at = (offset % u64::from(self.bytes)) as u32;
        let first = bytes.min(self.bytes - at);
        [
            Pair { offset: self.start + at, len: first },
            Pair { offset: self.start, len: bytes - first },
        ]
    }

    /// Where up to `bytes` of what is written next will lie.
    pub fn next(&self, bytes: usize) -> [Pair; 2] {
        self.parts(self.end, self.room().min(bytes) as u32)
    }

    /// The next `bytes` were written where [`Self::next`] said.
    pub fn append(&mut self, bytes: u32) {
        self.end += (bytes as usize).min(self.room()) as u64;
    }
}

impl<D: Data> SendBuffer for SendArea<D> {
    fn room(&self) -> usize {
        let floor = self.in_driver.map_or(self.released, |oldest| oldest.min(self.released));
        self.bytes as usize - (self.end - floor) as usize
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        let [first, second] = self.parts(self.end, taken as u32);
        let (head, tail) = bytes[..taken].split_at(first.len as usize);
        self.data.write(first.offset, head);
        self.data.write(second.offset, tail);
        self.end += taken as u64;
        taken
    }

    fn release(&mut self, below: u64) {
        self.released = below.clamp(self.released, self.end);
    }
}

/// Frames that are lent at a time.
pub const LENT_MAX: usize = 64;

/// Where what can be read next lies, in order.
#[derive(Debug)]
pub struct Place {
    ranges: [Pair; LENT_MAX],
    count: usize,
    /// What was copied when it arrived, and is copied again; no ranges then.
    pub copied: Box<[AtomicU8]>,
}

impl Place {
    /// Ranges of the area.
    pub fn ranges(&self) -> &[Pair] {
        &self.ranges[..self.count]
    }
}

impl<D: Data> FrameQueue<D> {
    /// Where up to `bytes` of what can be read lie, until they are skipped or read.
    pub fn place(&self, bytes: u64) -> Place {
        let (mut ranges, mut count) = ([Pair { offset: 0, len: 0 }; LENT_MAX], 0);
        let mut left = bytes;
        for (kept, range) in self.kept.iter().zip(&mut ranges) {
            let Some((_, at)) = kept.frame.filter(|_| left > 0) else { break };
            let skip = self.read.saturating_sub(kept.offset) as u32;
            let len = u64::from(kept.bytes - skip).min(left) as u32;
            *range = Pair { offset: at + skip, len };
            (left, count) = (left - u64::from(len), count + 1);
        }
        if count > 0 || bytes == 0 {
            return Place { ranges, count, copied: Box::default() };
        }
        let copied =
            self.kept.front().map_or(0, |first| first.offset + u64::from(first.bytes) - self.read);
        let mut bytes = vec![0; copied.min(bytes).min(COPIED_MAX) as usize];
        self.peek(&mut bytes);
        Place { ranges, count, copied: bytes.into_iter().map(AtomicU8::new).collect() }
    }
}

/// Most that is copied again to be lent.
const COPIED_MAX: u64 = 1 << 16;

/// Bytes that arrived.
pub enum Payload<'a> {
    /// In a buffer of this flow.
    Frame(Buffer, Pair),
    /// Somewhere else; to be copied.
    Bytes(&'a [u8]),
}

/// What was received and not read. A frame stays in the driver's buffer. When buffers begin to run low,
/// what is small is copied together, and later everything, so that a peer cannot use them all up with a
/// few bytes in each.
#[derive(Debug)]
pub struct FrameQueue<D> {
    data: D,
    /// In order of their place in the stream.
    kept: VecDeque<Kept>,
    spilt: Option<ReceiveRing>,
    read: u64,
    capacity: u64,
    capacity_max: u64,
    /// Buffers that the driver was offered or is to be, and those that are held.
    buffers: usize,
    frames: usize,
    /// Buffers to be offered to the driver again.
    pub free: Vec<Buffer>,
    /// What is copied passes through here.
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    offset: u64,
    bytes: u32,
    /// Where it lies in its buffer; `None` if it was copied.
    frame: Option<(Buffer, u32)>,
}

impl<D: Data> FrameQueue<D> {
    /// Payload smaller than this is copied when an eighth of the buffers is held.
    const SMALL_BYTES: u32 = 512;

    /// Frames in `buffers` buffers of `data`; `capacity` bytes can be kept and not read, and `capacity_max` when it has
    /// grown.
    pub fn new(data: D, buffers: usize, capacity: u64, capacity_max: u64) -> Self {
        Self {
            data,
            kept: VecDeque::new(),
            spilt: None,
            read: 0,
            capacity,
            capacity_max,
            buffers,
            frames: 0,
            free: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// There are so many buffers from now on.
    pub const fn set_buffers(&mut self, buffers: usize) {
        self.buffers = buffers;
    }

    const fn is_to_be_copied(&self, bytes: u32) -> bool {
        let small = bytes < Self::SMALL_BYTES;
        self.frames >= self.buffers / 4 * 3 || small && self.frames >= self.buffers / 8
    }

    fn insert(&mut self, kept: Kept) {
        if self.kept.back().is_none_or(|last| last.offset < kept.offset) {
            self.kept.push_back(kept);
        } else {
            let at = self.kept.partition_point(|other| other.offset < kept.offset);
            self.kept.insert(at, kept);
        }
    }

    fn spill(&mut self, keep: Keep, payload: &[u8]) {
        let (capacity, read) = (self.capacity as usize, self.read);
        let ring = self.spilt.get_or_insert_with(|| {
            let mut ring = ReceiveRing::new(capacity, usize::MAX);
            ring.skip(read);
            ring
        });
        ring.keep(keep, payload);
        self.note_copied(keep);
    }

    /// Copied stretches that touch are one: a peer that sends single bytes gets no entry for each.
    fn note_copied(&mut self, keep: Keep) {
        let (start, end) = (keep.offset, keep.offset + u64::from(keep.bytes));
        let at = match self.kept.back() {
            Some(last) if last.offset < start => self.kept.len(),
            _ => self.kept.partition_point(|other| other.offset < start),
        };
        if let Some(before) = at.checked_sub(1).and_then(|before| self.kept.get_mut(before))
            && before.frame.is_none()
            && before.offset + u64::from(before.bytes) == start
        {
            before.bytes += keep.bytes;
        } else if let Some(after) = self.kept.get_mut(at)
            && after.frame.is_none()
            && after.offset == end
        {
            (after.offset, after.bytes) = (start, after.bytes + keep.bytes);
        } else {
            self.kept.insert(at, Kept { offset: start, bytes: keep.bytes, frame: None });
        }
    }

    /// Keeps part of a frame as a copy.
    fn copy_part(&mut self, keep: Keep, pair: Pair) {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.resize(pair.len as usize, 0);
        self.data.read(pair.offset, &mut bytes);
        self.spill(keep, &bytes);
        self.scratch = bytes;
    }

    /// Copies what lies in frames: they are of no use any more.
    pub fn leave_frames(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        for Kept { offset, bytes, frame } in kept {
            let passed = self.read.saturating_sub(offset).min(bytes.into()) as u32;
            let keep = Keep { offset: offset + u64::from(passed), skip: 0, bytes: bytes - passed };
            match frame {
                Some((_, at)) => {
                    let pair = Pair { offset: at + passed, len: keep.bytes };
                    self.copy_part(keep, pair);
                }
                // It stays where it is.
                None => self.note_copied(keep),
            }
        }
        self.frames = 0;
        self.free.clear();
    }

    fn look(&self, kept: &Kept, skip: u32, out: &mut [u8]) {
        match (kept.frame, &self.spilt) {
            (Some((_, at)), _) => {
                self.data.read(at + skip, out);
            }
            (None, Some(ring)) => ring.copy(kept.offset + u64::from(skip), out),
            (None, None) => {}
        }
    }

    /// Goes over the next `bytes` of the stream; `copy` sees each stretch: what was kept, from where
    /// in it, and how many bytes.
    fn advance(&mut self, mut bytes: u64, mut copy: impl FnMut(&Self, &Kept, u32, u32)) {
        while bytes > 0 {
            let Some(first) = self.kept.front().copied() else { break };
            let skip = (self.read - first.offset) as u32;
            let part = u64::from(first.bytes - skip).min(bytes) as u32;
            copy(self, &first, skip, part);
            bytes -= u64::from(part);
            self.read += u64::from(part);
            if skip + part == first.bytes {
                self.kept.pop_front();
                if let Some((buffer, _)) = first.frame {
                    self.free.push(buffer);
                    self.frames -= 1;
                }
            }
        }
        if let Some(ring) = &mut self.spilt {
            if self.kept.len() < 64 && self.kept.iter().all(|kept| kept.frame.is_some()) {
                self.spilt = None;
            } else {
                ring.skip_to(self.read);
            }
        }
    }
}

impl<D: Data> ReceiveQueue for FrameQueue<D> {
    type Payload<'a> = Payload<'a>;

    fn keep(&mut self, keep: Keep, payload: Payload<'_>) {
        match payload {
            Payload::Bytes(bytes) => self.spill(keep, bytes),
            Payload::Frame(buffer, pair) if self.is_to_be_copied(keep.bytes) => {
                self.copy_part(keep, pair);
                self.free.push(buffer);
            }
            Payload::Frame(buffer, pair) => {
                self.frames += 1;
                let frame = Some((buffer, pair.offset + keep.skip));
                self.insert(Kept { offset: keep.offset, bytes: keep.bytes, frame });
            }
        }
    }

    fn keep_part(&mut self, keep: Keep, payload: &Payload<'_>) {
        match payload {
            Payload::Bytes(bytes) => self.spill(keep, bytes),
            Payload::Frame(_, pair) => self.copy_part(keep, *pair),
        }
    }

    fn discard(&mut self, payload: Payload<'_>) {
        if let Payload::Frame(buffer, _) = payload {
            self.free.push(buffer);
        }
    }

    fn read(&mut self, out: &mut [u8]) {
        let mut done = 0;
        self.advance(out.len() as u64, |all, kept, skip, bytes| {
            all.look(kept, skip, &mut out[done..done + bytes as usize]);
            done += bytes as usize;
        });
    }

    fn peek(&self, out: &mut [u8]) {
        let mut done = 0;
        for kept in &self.kept {
            let skip = self.read.saturating_sub(kept.offset) as u32;
            let bytes = (kept.bytes - skip).min((out.len() - done) as u32);
            self.look(kept, skip, &mut out[done..done + bytes as usize]);
            done += bytes as usize;
            if done == out.len() {
                break;
            }
        }
    }

    fn skip(&mut self, bytes: u64) {
        self.advance(bytes, |_, _, _, _| ());
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn grow(&mut self, wanted: u64) {
        self.capacity = wanted.clamp(self.capacity, self.capacity_max);
        if let Some(ring) = &mut self.spilt {
            ring.grow(self.capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use rbuf_channel::HeapData;

    use super::*;

    fn frames(buffers: usize) -> FrameQueue<HeapData> {
        let data = HeapData::new(2048 * 16);
        for buffer in 0..16u32 {
            let bytes: Vec<u8> = (0..2048u32).map(|at| (buffer * 16 + at % 7) as u8).collect();
            data.write(buffer * 2048, &bytes);
        }
        FrameQueue::new(data, buffers, 65_536, 1 << 20)
    }

    fn frame(buffer: u16, bytes: u32) -> Payload<'static> {
        Payload::Frame(Buffer(buffer), Pair { offset: u32::from(buffer) * 2048, len: bytes })
    }

    fn expected(buffer: u32, from: u32, bytes: u32) -> Vec<u8> {
        (from..from + bytes).map(|at| (buffer * 16 + at % 7) as u8).collect()
    }

    #[test]
    fn frames_are_read_in_order_from_where_they_lie_and_then_given_back() {
        let mut frames = frames(16);
        frames.keep(Keep { offset: 1000, skip: 0, bytes: 1000 }, frame(2, 1000));
        frames.keep(Keep { offset: 0, skip: 100, bytes: 1000 }, frame(1, 1100));
        let mut out = [0; 1500];
        frames.read(&mut out);
        assert_eq!(out[..1000], expected(1, 100, 1000));
        assert_eq!(out[1000..], expected(2, 0, 500));
        assert_eq!(frames.free, [Buffer(1)]);
        frames.skip(500);
        assert_eq!(frames.free, [Buffer(1), Buffer(2)]);
    }

    #[test]
    fn buffers_are_held_until_they_run_low_and_small_payload_gives_way_first() {
        let mut frames = frames(16);
        let parts: Vec<(u16, u32)> =
            [(0, 10), (1, 20), (2, 30)].into_iter().chain((3..14).map(|at| (at, 1000))).collect();
        let mut offset = 0;
        for &(buffer, bytes) in &parts {
            frames.keep(Keep { offset, skip: 0, bytes }, frame(buffer, bytes));
            offset += u64::from(bytes);
        }
        // Of twelve, two small ones are held; the third is copied, and what comes when eight are.
        assert_eq!(frames.free, [Buffer(2), Buffer(13)]);
        frames.grow(100_000);
        let whole: Vec<u8> =
            parts.iter().flat_map(|&(buffer, bytes)| expected(buffer.into(), 0, bytes)).collect();
        let mut out = vec![0; whole.len()];
        frames.peek(&mut out);
        assert_eq!(out, whole);
        frames.read(&mut out);
        assert_eq!(out, whole);
        assert!(frames.spilt.is_none(), "memory is given back");
        assert_eq!(frames.free.len(), parts.len());
    }

    #[test]
    fn what_is_lent_lies_where_it_arrived_unless_it_was_copied_then() {
        let mut frames = frames(16);
        frames.keep(Keep { offset: 0, skip: 0, bytes: 700 }, frame(3, 700));
        frames.keep(Keep { offset: 700, skip: 10, bytes: 600 }, frame(4, 610));
        frames.keep(Keep { offset: 1300, skip: 0, bytes: 5 }, Payload::Bytes(b"small"));
        frames.keep(Keep { offset: 1305, skip: 0, bytes: 900 }, frame(5, 900));
        frames.skip(100);
        let place = frames.place(5000);
        let lies = |range: &Pair| (range.offset, range.len);
        let ranges: Vec<_> = place.ranges().iter().map(lies).collect();
        assert_eq!(ranges, [(3 * 2048 + 100, 600), (4 * 2048 + 10, 600)]);
        assert_eq!(frames.place(600).ranges().len(), 1);
        assert!(frames.free.is_empty(), "nothing was read");
        frames.skip(1201);
        let place = frames.place(5000);
        let copied: Vec<u8> =
            place.copied.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        assert_eq!((copied.as_slice(), place.ranges().len()), (&b"mall"[..], 0));
        frames.skip(4);
        assert_eq!(frames.place(5000).ranges().len(), 1);
    }

    #[test]
    fn what_was_not_read_outlives_its_frames() {
        let mut frames = frames(16);
        frames.keep(Keep { offset: 0, skip: 0, bytes: 700 }, frame(3, 700));
        frames.keep(Keep { offset: 700, skip: 0, bytes: 5 }, Payload::Bytes(b"small"));
        frames.keep(Keep { offset: 705, skip: 0, bytes: 900 }, frame(5, 900));
        frames.skip(100);
        frames.leave_frames();
        (0..16).for_each(|buffer| assert!(frames.data.write(buffer * 2048, &[0; 2048])));
        let mut out = [0; 1505];
        frames.read(&mut out);
        assert_eq!(out[..600], expected(3, 100, 600));
        assert_eq!((&out[600..605], &out[605..]), (&b"small"[..], &expected(5, 0, 900)[..]));
        assert!(frames.free.is_empty());
    }

    #[test]
    fn room_that_is_lent_follows_what_was_written_and_wraps() {
        let mut area = SendArea::new(HeapData::new(256), 56);
        assert_eq!(area.write(&[1; 150]), 150);
        area.release(100);
        let [first, second] = area.next(1000);
        assert_eq!((first.offset, first.len, second.offset, second.len), (206, 50, 56, 100));
        area.append(60);
        assert_eq!(area.room(), 90);
        assert_eq!(area.next(1000)[0].offset, 66);
        area.append(1000);
        assert_eq!(area.room(), 0, "no more than there was");
    }

    #[test]
    fn single_bytes_cost_no_entry_each_in_whatever_order_they_come() {
        let mut frames = frames(0);
        let byte = |offset: u64| [(offset % 251) as u8];
        for offset in (0..1000).chain((2000..3000).rev()).chain(1000..2000) {
            let keep = Keep { offset, skip: 0, bytes: 1 };
            frames.keep(keep, Payload::Bytes(&byte(offset)));
        }
        assert!(frames.kept.len() <= 2, "{} entries", frames.kept.len());
        let mut out = [0; 3000];
        frames.read(&mut out);
        assert!(out.iter().zip(0..).all(|(got, offset)| *got == byte(offset)[0]));
        assert!(frames.kept.is_empty());
    }
}
