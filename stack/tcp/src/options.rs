//! Options of a TCP header (RFC 9293 §3.1, RFC 7323, RFC 2018, RFC 7413).

use crate::fast_open::{Cookie, FastOpen};

/// Most selective acknowledgments in a header: 40 bytes of options hold no more.
pub const SACK_BLOCKS_MAX: usize = 4;

/// The options this implementation knows. Unknown ones are skipped, and never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Largest payload the sender of the segment can take; only on a SYN.
    pub mss: Option<u16>,
    /// By how many bits windows are shifted; only on a SYN.
    pub window_shift: Option<u8>,
    /// Selective acknowledgments are welcome; only on a SYN.
    pub sack_permitted: bool,
    /// Clocks of both sides.
    pub timestamps: Option<Timestamps>,
    /// What arrived out of order.
    pub sack: SackBlocks,
    /// A cookie, or the wish for one (RFC 7413); only on a SYN.
    pub fast_open: Option<FastOpen>,
}

/// The timestamps option (RFC 7323 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The receiver's clock as the sender saw it last.
    pub echo: u32,
}

/// Blocks of a selective acknowledgment: first number, and the one after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlocks {
    blocks: [(u32, u32); SACK_BLOCKS_MAX],
    len: u8,
}

impl SackBlocks {
    /// Appends a block; `false` if there is no place.
    pub fn push(&mut self, start: u32, end: u32) -> bool {
        let Some(place) = self.blocks.get_mut(usize::from(self.len)) else { return false };
        *place = (start, end);
        self.len += 1;
        true
    }

    /// The blocks, in the order of the header.
    pub fn as_slice(&self) -> &[(u32, u32)] {
        self.blocks.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SHIFT: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
    pub(super) const TIMESTAMPS: u8 = 8;
    pub(super) const FAST_OPEN: u8 = 34;
    /// Of experiments; what follows says of which (RFC 6994).
    pub(super) const EXPERIMENT: u8 = 254;
}

/// The experiment that became [`kind::FAST_OPEN`].
const FAST_OPEN_EXPERIMENT: [u8; 2] = [0xf9, 0x89];

/// Largest shift that has a meaning (RFC 7323 §2.3).
pub const WINDOW_SHIFT_MAX: u8 = 14;

impl Options {
    /// Reads the options of a header, of a SYN or not (RFC 9293 MUST-4, MUST-5, MUST-64).
    ///
    /// An unknown option is skipped by its length (MUST-6, MUST-68). One whose length is impossible
    /// ends the options: what stands before it counts (MUST-7).
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let [kind, rest @ ..] = bytes {
            match *kind {
                kind::END => break,
                kind::NOP => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(body) = rest
                .first()
                .and_then(|length| usize::from(*length).checked_sub(2))
                .and_then(|length| rest.get(1..1 + length))
            else {
                break;
            };
            options.read(*kind, body);
            bytes = &rest[1 + body.len()..];
        }
        options
    }

    fn read(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (kind::MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            // RFC 7323 §2.3: a larger shift is taken for 14.
            (kind::WINDOW_SHIFT, &[shift]) => {
                self.window_shift = Some(shift.min(WINDOW_SHIFT_MAX));
            }
            (kind::FAST_OPEN, cookie) => self.read_fast_open(cookie, false),
            (kind::EXPERIMENT, body) => {
                if let Some(cookie) = body.strip_prefix(&FAST_OPEN_EXPERIMENT) {
                    self.read_fast_open(cookie, true);
                }
            }
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some(Timestamps {
                    value: u32::from_be_bytes([a, b, c, d]),
                    echo: u32::from_be_bytes([e, f, g, h]),
                });
            }
            (kind::SACK, blocks) if blocks.len().is_multiple_of(8) => {
                for block in blocks.chunks_exact(8) {
                    let (start, end) = block.split_at(4);
                    let number =
                        |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap_or_default());
                    self.sack.push(number(start), number(end));
                }
            }
            _ => {}
        }
    }

    /// RFC 7413 §4.1.1: a cookie of an odd length, or an impossible one, is none.
    fn read_fast_open(&mut self, cookie: &[u8], experimental: bool) {
        let known = Cookie::new(cookie);
        if known.is_some() || cookie.is_empty() {
            self.fast_open = Some(FastOpen { cookie: known, experimental });
        }
    }

    /// Bytes the options take in a header.
    pub fn bytes(&self) -> usize {
        self.write(&mut [0; 40])
    }

    /// Writes the options to the front of `out`, of 40 bytes, padded with NOP to whole words
    /// (MUST-69: what follows the last option is nothing), and returns their length.
    ///
    /// Order and padding are those of Linux, which middleboxes know best.
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let mut writer = Writer { out, at: 0 };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            writer.put(&[kind::MSS, 4, a, b]);
        }
        let permitted = [kind::SACK_PERMITTED, 2];
        match self.timestamps {
            Some(Timestamps { value, echo }) => {
                writer.put(if self.sack_permitted { &permitted } else { &[kind::NOP; 2] });
                writer.put(&[kind::TIMESTAMPS, 10]);
                writer.put(&value.to_be_bytes());
                writer.put(&echo.to_be_bytes());
            }
            None if self.sack_permitted => {
                writer.put(&[kind::NOP; 2]);
                writer.put(&permitted);
            }
            None => {}
        }
        if let Some(shift) = self.window_shift {
            writer.put(&[kind::NOP, kind::WINDOW_SHIFT, 3, shift]);
        }
        if let Some(FastOpen { cookie, experimental }) = &self.fast_open {
            let cookie = cookie.as_ref().map_or(&[][..], Cookie::as_slice);
            let head: &[u8] = if *experimental { &FAST_OPEN_EXPERIMENT } else { &[] };
            let bytes = 2 + head.len() + cookie.len();
            let padded = bytes.next_multiple_of(4);
            if writer.at + padded <= writer.out.len() {
                let kind = if *experimental { kind::EXPERIMENT } else { kind::FAST_OPEN };
                writer.put(&[kind, bytes as u8]);
                writer.put(head);
                writer.put(cookie);
                writer.put(&[kind::NOP; 3][..padded - bytes]);
            }
        }
        let blocks = self.sack.as_slice();
        let room = (writer.out.len() - writer.at).saturating_sub(4) / 8;
        if let Some(blocks) = blocks.get(..blocks.len().min(room)).filter(|some| !some.is_empty()) {
            writer.put(&[kind::NOP, kind::NOP, kind::SACK, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                writer.put(&start.to_be_bytes());
                writer.put(&end.to_be_bytes());
            }
        }
        writer.at
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.at..self.at + bytes.len()) {
            place.copy_from_slice(bytes);
            self.at += bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_options_are_skipped_and_impossible_lengths_end_the_options() {
        let known = [2, 4, 5, 180];
        assert_eq!(Options::parse(&[&[254, 6, 1, 2, 3, 4][..], &known].concat()).mss, Some(1460));
        for broken in [&[254][..], &[254, 0], &[254, 1], &[254, 41]] {
            let options = Options::parse(&[&known[..], broken, &[3, 3, 7]].concat());
            assert_eq!((options.mss, options.window_shift), (Some(1460), None), "{broken:?}");
        }
        assert_eq!(Options::parse(&[&[0][..], &known].concat()).mss, None, "after the end");
        assert_eq!(Options::parse(&[2, 3, 9, 1]).mss, None, "an MSS of one byte");
        assert_eq!(Options::parse(&[3, 3, 200]).window_shift, Some(14));
    }

    #[test]
    fn a_header_has_room_for_three_blocks_beside_timestamps_and_four_alone() {
        let mut options = Options::default();
        for block in 0..5 {
            assert_eq!(options.sack.push(block * 10, block * 10 + 5), block < 4);
        }
        let mut out = [0; 40];
        let bytes = options.write(&mut out);
        assert_eq!(Options::parse(&out[..bytes]).sack.as_slice().len(), 4);
        options.timestamps = Some(Timestamps { value: 1, echo: 2 });
        let bytes = options.write(&mut out);
        assert_eq!(Options::parse(&out[..bytes]).sack.as_slice().len(), 3);
    }

    fn timestamps() -> impl Strategy<Value = Timestamps> {
        (any::<u32>(), any::<u32>()).prop_map(|(value, echo)| Timestamps { value, echo })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..=40)) {
            Options::parse(&bytes);
        }

        #[test]
        fn what_was_written_is_read(
            mss: Option<u16>, shift in proptest::option::of(0u8..=14), sack_permitted: bool,
            timestamps in proptest::option::of(timestamps()),
            blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..=2),
            fast_open in proptest::option::of((0usize..=8, any::<bool>())),
        ) {
            let mut options = Options { mss, window_shift: shift, sack_permitted, timestamps, ..Options::default() };
            if let Some((half, experimental)) = fast_open.filter(|_| blocks.is_empty()) {
                let cookie = Cookie::new(&vec![7; 2 * half]);
                options.fast_open = Some(FastOpen { cookie, experimental });
            }
            for (start, end) in blocks {
                options.sack.push(start, end);
            }
            let mut out = [0; 40];
            let bytes = options.write(&mut out);
            prop_assert_eq!(bytes % 4, 0);
            prop_assert_eq!(Options::parse(&out[..bytes]), options);
        }
    }
}
