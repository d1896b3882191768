//! From time stamps to figures. Shared by every experiment, simulated or live, ours or Linux's.
//!
//! Nothing here uses the scheduler's or the driver's own arithmetic: what a frame occupies on the
//! wire is worked out anew in [`mod@line`], so that a driver that reckons wrongly is found out.

pub mod line;
pub mod periods;
pub mod quantiles;
pub mod shares;

pub use line::{ExactLine, worst_excess_bytes};
pub use periods::{Fulfilment, fulfilment, service_by_period};
pub use quantiles::Quantiles;
pub use shares::{bins, jain, relative_sd};
