//! One end of a channel: puts iorecs into its own control area, takes them from the peer's.

use crate::control::{
    ARMED, AWAITS_PUBLISHED, AWAITS_TAKEN, BLOCK_HEADER_WORDS, PUBLISHED, RING_WORDS_MAX,
    RING_WORDS_MIN, TAKEN, Words, block_words,
};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::{Event, Fault, IoRec};

/// What the peer must be told after an advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notice {
    /// The peer sleeps on `published`: wake the futex [`End::published_word`].
    pub wake_published: bool,
    /// The peer sleeps on `taken`: wake the futex [`End::taken_word`].
    pub wake_taken: bool,
    /// The peer armed this channel: post its slot in the peer's event FIFO.
    pub post: bool,
}

impl Notice {
    /// Whether there is nothing to tell.
    pub const fn is_quiet(self) -> bool {
        !self.wake_published && !self.wake_taken && !self.post
    }
}

/// One end of a channel, over shared words `W`.
///
/// All counts used for decisions are this end's private copies; the shared ones are written for
/// the peer, and what the peer writes is compared with them.
#[derive(Debug)]
pub struct End<W> {
    mine: W,
    theirs: W,
    ring: u64,
    /// Bytes in the data area, against which iorecs taken are checked.
    area: u32,
    published: u64,
    taken: u64,
    /// The peer's counts as last seen; both only grow.
    peer_published: u64,
    peer_taken: u64,
    /// The last `armed` value of the peer that was answered with an event.
    answered: u64,
    armed: u64,
    /// Whether the event of the last arming is still to come, or to be read.
    event_due: bool,
}

impl<W: Words> End<W> {
    /// An end that writes block `mine` and reads block `theirs`, over a data area of `area` bytes.
    ///
    /// The counts of both blocks must be zero; they need not be the same size as each other's ring is bounded
    /// by its own block.
    ///
    /// `None` unless both have room for a header and rings of the same permitted power of two.
    pub fn new(mine: W, theirs: W, area: u32) -> Option<Self> {
        let ring = mine.len().checked_sub(BLOCK_HEADER_WORDS)? as u64;
        let permitted = (u64::from(RING_WORDS_MIN)..=u64::from(RING_WORDS_MAX)).contains(&ring);
        if !permitted || !ring.is_power_of_two() || theirs.len() != block_words(ring as u32) {
            return None;
        }
        Some(Self {
            mine,
            theirs,
            ring,
            area,
            published: 0,
            taken: 0,
            peer_published: 0,
            peer_taken: 0,
            answered: 0,
            armed: 0,
            event_due: false,
        })
    }

    /// Puts an iorec, published but not announced: see [`Self::notice`].
    ///
    /// `Ok(false)` if the peer has not taken enough to make room.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn put(&mut self, rec: &IoRec) -> Result<bool, Fault> {
        let words = rec.words();
        debug_assert!(words > 1, "an iorec names something");
        if self.room_as_seen() < words && self.room()? < words {
            return Ok(false);
        }
        self.slot(self.published).store(rec.header_word(), Ordering::Relaxed);
        for index in 0..rec.pairs().len() {
            let position = self.published + 1 + index as u64;
            self.slot(position).store(rec.pair_word(index), Ordering::Relaxed);
        }
        self.published += words;
        // ORDERING: pairs with the Acquire fence in `take`: who sees the count sees the words.
        self.mine[PUBLISHED].store(self.published, Ordering::Release);
        Ok(true)
    }

    /// Words that were put and that the peer had not taken when its count was last looked at, which
    /// [`Self::room`] does.
    pub const fn untaken_words(&self) -> u64 {
        self.published - self.peer_taken
    }

    /// What was put and the peer has not taken, oldest first, as it stands there: for who closes the channel. The
    /// peer may still take it.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn untaken(&mut self) -> Result<impl Iterator<Item = IoRec> + use<'_, W>, Fault> {
        self.room()?;
        let mut at = self.peer_taken;
        Ok(std::iter::from_fn(move || {
            let mut rec = IoRec::EMPTY;
            // The peer's count may point between two, where its own reader would find a lie.
            let word = (at < self.published).then(|| self.slot(at).load(Ordering::Relaxed))?;
            rec.set_header_word(word).ok().filter(|()| at + rec.words() <= self.published)?;
            for index in 0..rec.pairs().len() {
                let position = at + 1 + index as u64;
                rec.set_pair_word(index, self.slot(position).load(Ordering::Relaxed));
            }
            at += rec.words();
            Some(rec)
        }))
    }

    /// Takes the next iorec, checked against the data area; `None` if there is nothing new.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if what the peer wrote cannot be. The channel must then be closed.
    pub fn take(&mut self) -> Result<Option<IoRec>, Fault> {
        let mut rec = IoRec::EMPTY;
        Ok(self.take_into(&mut rec)?.then_some(rec))
    }

    /// As [`Self::take`], into `rec`; `false`, and `rec` names nothing, if there is nothing new.
    ///
    /// # Errors
    ///
    /// As [`Self::take`]; `rec` names nothing then.
    pub fn take_into(&mut self, rec: &mut IoRec) -> Result<bool, Fault> {
        let taken = self.look(rec);
        match taken {
            Ok(true) => {
                self.taken += rec.words();
                // ORDERING: pairs with the Acquire fence in `room`: the peer may now overwrite the
                // words.
                self.mine[TAKEN].store(self.taken, Ordering::Release);
            }
            _ => rec.clear(),
        }
        taken
    }

    /// Reads the next iorec without taking it.
    fn look(&mut self, rec: &mut IoRec) -> Result<bool, Fault> {
        if self.peer_published == self.taken && self.available()? == 0 {
            return Ok(false);
        }
        let available = self.peer_published - self.taken;
        rec.set_header_word(self.peer_slot(self.taken).load(Ordering::Relaxed))?;
        if rec.words() > available {
            return Err(Fault::Torn { count: rec.pairs().len() as u8, words: available });
        }
        for index in 0..rec.pairs().len() {
            let position = self.taken + 1 + index as u64;
            rec.set_pair_word(index, self.peer_slot(position).load(Ordering::Relaxed));
        }
        rec.validate(self.area)?;
        Ok(true)
    }

    /// Words the peer has published and this end has not taken.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn available(&mut self) -> Result<u64, Fault> {
        let announced = self.theirs[PUBLISHED].load(Ordering::Relaxed);
        // ORDERING: pairs with the Release store in `put`. A fence after a Relaxed load, because
        // the page may be mapped read-only, where std permits only Relaxed loads.
        fence(Ordering::Acquire);
        if announced < self.peer_published {
            return Err(Fault::PublishedBackwards { announced, seen: self.peer_published });
        }
        if announced - self.taken > self.ring {
            return Err(Fault::PublishedAhead { announced, taken: self.taken, ring: self.ring });
        }
        self.peer_published = announced;
        Ok(announced - self.taken)
    }

    /// Words that can be put now.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn room(&mut self) -> Result<u64, Fault> {
        let announced = self.theirs[TAKEN].load(Ordering::Relaxed);
        // ORDERING: pairs with the Release store in `take`.
        fence(Ordering::Acquire);
        if announced < self.peer_taken {
            return Err(Fault::TakenBackwards { announced, seen: self.peer_taken });
        }
        if announced > self.published {
            return Err(Fault::TakenAhead { announced, published: self.published });
        }
        self.peer_taken = announced;
        Ok(self.room_as_seen())
    }

    /// What the peer asked to be told since the last advances. Call once after a batch of
    /// [`Self::put`] and [`Self::take`]; it costs the system's only sequentially consistent fence.
    pub fn notice(&mut self) -> Notice {
        // ORDERING: pairs with the fence in `announce`. Either this side sees that the peer is
        // about to sleep, or the peer sees the advance made before this fence.
        fence(Ordering::SeqCst);
        let awaited = |word: usize| self.theirs[word].load(Ordering::Relaxed);
        let reached = |count: u64, awaited: u64| awaited != 0 && count >= awaited;
        let armed = self.theirs[ARMED].load(Ordering::Relaxed);
        let post = armed != self.answered;
        self.answered = armed;
        Notice {
            wake_published: reached(self.published, awaited(AWAITS_PUBLISHED)),
            wake_taken: reached(self.taken, awaited(AWAITS_TAKEN)),
            post,
        }
    }

    /// Arms the channel: the peer's next advance posts an event. Returns whether there is already
    /// something to take, in which case an event may or may not come.
    ///
    /// Nothing is announced while the event of an earlier arming is still to come, or to be read: that
    /// one will do as well. So whoever arms must read events before it sleeps, and have this end
    /// [hear](Self::heard) its own.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn arm(&mut self) -> Result<bool, Fault> {
        if !self.event_due {
            self.event_due = true;
            self.armed += 1;
            self.announce(ARMED, self.armed);
        }
        Ok(self.available()? > 0)
    }

    /// Whether an event is still to come, or to be read.
    pub const fn is_armed(&self) -> bool {
        self.event_due
    }

    /// The event of this end's arming was read: it can be armed again.
    ///
    /// `false` if it was not armed. The event is late, of a flow that had the place before, or a lie.
    pub fn heard(&mut self, event: Event) -> bool {
        let Event { .. } = event;
        std::mem::take(&mut self.event_due)
    }

    /// Announces sleep until the peer has published `words` words that are not taken yet. `None`,
    /// with what was announced before left as it was, if it has. The sleeper then waits on the futex
    /// [`Self::peer_published_word`] while its value is the one returned, and calls
    /// [`Self::awake`] when it has slept.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn await_published(&mut self, words: u64) -> Result<Option<u64>, Fault> {
        let before = self.mine[AWAITS_PUBLISHED].load(Ordering::Relaxed);
        self.announce(AWAITS_PUBLISHED, self.taken + words);
        if self.available()? >= words {
            self.mine[AWAITS_PUBLISHED].store(before, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(Some(self.peer_published))
    }

    /// Announces sleep until `words` words can be put. `None`, with what was announced before left as it was, if they can be. The
    /// sleeper then waits on the futex [`Self::peer_taken_word`] while its value is the one
    /// returned.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn await_taken(&mut self, words: u64) -> Result<Option<u64>, Fault> {
        let before = self.mine[AWAITS_TAKEN].load(Ordering::Relaxed);
        self.announce(AWAITS_TAKEN, (self.published + words).saturating_sub(self.ring));
        if self.room()? >= words {
            self.mine[AWAITS_TAKEN].store(before, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(Some(self.peer_taken))
    }

    /// Takes back what was announced by [`Self::await_published`] and [`Self::await_taken`].
    pub fn awake(&self) {
        self.mine[AWAITS_PUBLISHED].store(0, Ordering::Relaxed);
        self.mine[AWAITS_TAKEN].store(0, Ordering::Relaxed);
    }

    fn announce(&self, word: usize, value: u64) {
        self.mine[word].store(value, Ordering::Relaxed);
        // ORDERING: pairs with the fence in `notice`.
        fence(Ordering::SeqCst);
    }

    /// The word a peer that awaits iorecs sleeps on.
    pub fn published_word(&self) -> &AtomicU64 {
        &self.mine[PUBLISHED]
    }

    /// The word a peer that awaits room sleeps on.
    pub fn taken_word(&self) -> &AtomicU64 {
        &self.mine[TAKEN]
    }

    /// The word this end sleeps on when it awaits iorecs.
    pub fn peer_published_word(&self) -> &AtomicU64 {
        &self.theirs[PUBLISHED]
    }

    /// The word this end sleeps on when it awaits room.
    pub fn peer_taken_word(&self) -> &AtomicU64 {
        &self.theirs[TAKEN]
    }

    /// The words the peer writes: a handle to sleep on without holding this end.
    pub fn peer_words(&self) -> W
    where
        W: Clone,
    {
        self.theirs.clone()
    }

    /// Sets this end's counts to zero, for the next channel that will use its block. What stands in the ring is
    /// left: nobody reads beyond the counts, and writing it would cost memory that was never used.
    pub fn clear(&self) {
        for word in &self.mine[..BLOCK_HEADER_WORDS] {
            word.store(0, Ordering::Relaxed);
        }
        fence(Ordering::Release);
    }

    /// Words in each ring.
    pub const fn ring_words(&self) -> u64 {
        self.ring
    }

    /// Bytes in the data area.
    pub const fn area_bytes(&self) -> u32 {
        self.area
    }

    const fn room_as_seen(&self) -> u64 {
        self.ring - (self.published - self.peer_taken)
    }

    fn slot(&self, position: u64) -> &AtomicU64 {
        &self.mine[BLOCK_HEADER_WORDS + (position & (self.ring - 1)) as usize]
    }

    fn peer_slot(&self, position: u64) -> &AtomicU64 {
        &self.theirs[BLOCK_HEADER_WORDS + (position & (self.ring - 1)) as usize]
    }
}
