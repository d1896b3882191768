//! What a peer alleged that cannot be.

/// A peer broke the rules of the channel. The channel can only be closed; others are unaffected.
///
/// Every variant carries what was alleged, so that its author can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// `published` is further ahead than the ring is long.
    #[error("peer published {announced} words, but only {taken} were taken from a ring of {ring}")]
    PublishedAhead {
        /// The count alleged.
        announced: u64,
        /// What we had taken.
        taken: u64,
        /// Words in the ring.
        ring: u64,
    },
    /// `published` went down.
    #[error("peer's count of published words went back to {announced} from {seen}")]
    PublishedBackwards {
        /// The count alleged.
        announced: u64,
        /// What it had been.
        seen: u64,
    },
    /// `taken` is beyond what we published.
    #[error("peer took {announced} words of the {published} that were published")]
    TakenAhead {
        /// The count alleged.
        announced: u64,
        /// What we had published.
        published: u64,
    },
    /// `taken` went down.
    #[error("peer's count of taken words went back to {announced} from {seen}")]
    TakenBackwards {
        /// The count alleged.
        announced: u64,
        /// What it had been.
        seen: u64,
    },
    /// An iorec has no pairs, or more than are allowed.
    #[error("iorec announces {count} pairs, between 1 and 16 are possible")]
    PairCount {
        /// The number alleged.
        count: u8,
    },
    /// The published words end inside an iorec.
    #[error("iorec of {count} pairs was published in {words} words")]
    Torn {
        /// The number of pairs alleged.
        count: u8,
        /// Words published from its header on.
        words: u64,
    },
    /// Reserved bits of a header are set.
    #[error("iorec header {header:#018x} has reserved bits set")]
    Reserved {
        /// The header word.
        header: u64,
    },
    /// A pair is empty.
    #[error("pair at offset {offset} is empty")]
    EmptyPair {
        /// Its offset.
        offset: u32,
    },
    /// A pair reaches beyond the data area.
    #[error("pair of {len} bytes at offset {offset} is outside a data area of {area} bytes")]
    OutsideArea {
        /// Its offset.
        offset: u32,
        /// Its length.
        len: u32,
        /// Bytes in the data area.
        area: u32,
    },
    /// Two pairs of an iorec share bytes.
    #[error("pairs at offsets {first} and {second} overlap")]
    Overlap {
        /// Offset of one.
        first: u32,
        /// Offset of the other.
        second: u32,
    },
    /// A buffer came back that was not away, or not whole.
    #[error("buffer {cookie} came back, but was not given away as such")]
    NotLent {
        /// The buffer alleged.
        cookie: u16,
    },
    /// An event FIFO ran ahead of its reader by more than it can hold.
    #[error("peer posted {announced} events, {seen} were read from a ring of {ring}")]
    EventsAhead {
        /// The count alleged.
        announced: u64,
        /// What we had read.
        seen: u64,
        /// Slots in the FIFO.
        ring: u64,
    },
    /// An event names a flow that cannot exist.
    #[error("event names flow {slot} of a domain that has at most {slots}")]
    EventSlot {
        /// The flow alleged.
        slot: u64,
        /// How many can exist.
        slots: u64,
    },
    /// An event was posted for a flow that nobody had armed.
    #[error("peer posted an event for flow {slot}, for which none was asked")]
    EventUnarmed {
        /// The flow alleged.
        slot: u32,
    },
}
