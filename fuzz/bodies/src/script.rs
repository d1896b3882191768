//! An adversary's bytes, read as what he does.

use stack_tcp::Options;

/// Reads an input front to back; zeros after its end.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl Script<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }
}

/// The options of a header that he wrote.
pub(crate) fn options(script: &mut Script<'_>) -> Options {
    let bytes: Vec<u8> = (0..script.byte() % 41).map(|_| script.byte()).collect();
    Options::parse(&bytes)
}
