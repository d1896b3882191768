//! Who owns an arriving frame, and who may send a leaving one (paper §3.1, §4.3).
//!
//! | Direction | Question | Here |
//! |---|---|---|
//! | receive | which flow, if any, is the frame for? | [`Demux::classify`] |
//! | receive | which frames did a wire carry, that the kernel has merged? | [`Pieces`] |
//! | transmit | is the frame what its flow may send? | [`Template::check`] |
//!
//! All are native code for the protocols everybody uses; the flow manager, which is trusted,
//! decides what is installed. None allocates, and all treat every byte as an allegation.
//!
//! # Invariants
//!
//! 1. Of the flows that match a frame exactly one is most specific: connected before listening
//!    before wildcard. The flow manager promises that no two are equal; [`Demux::install`] refuses
//!    a second one.
//! 2. What comes from the wire comes from somebody else, and what is for one host came to it alone
//!    ([`Demux::classify`] has the rule), before anybody sees it, the flow manager included.
//! 3. A [`Checked`] frame's header lies in the driver's private memory and has passed its flow's
//!    template. Only [`Template::check`] makes one, and links send nothing else.

#![forbid(unsafe_code)]

mod demux;
mod key;
mod merged;
mod parse;
mod template;

pub use demux::{Demux, InUse, Origin, Verdict};
pub use merged::{PIECES_MAX, Pieces, Sums, is_transport_checksum, opens_connection};
pub use template::{Checked, HEADER_BYTES_MAX, Rights, Template};
