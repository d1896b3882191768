//! What a driver passes to a domain that joins.

use std::os::fd::OwnedFd;

/// What the driver made for a domain; the descriptors go with the message in this order.
///
/// A domain passes nothing: whoever keeps, uses or closes an object waits for whoever chose it.
#[derive(Debug)]
pub struct Passed<T = OwnedFd> {
    /// The control arena that the domain writes.
    pub control_out: T,
    /// The control arena that the driver writes.
    pub control_in: T,
    /// The transmit data arena.
    pub tx_data: T,
    /// The receive data arena.
    pub rx_data: T,
    /// The domain's end of its doorbell.
    pub bell: T,
    /// The driver's bell.
    pub driver_bell: T,
}

impl<T> Passed<T> {
    /// How many of the descriptors are those of arenas: the first ones.
    pub const ARENAS: usize = 4;
}

impl From<Passed> for Vec<OwnedFd> {
    fn from(passed: Passed) -> Self {
        let Passed { control_out, control_in, tx_data, rx_data, bell, driver_bell } = passed;
        Self::from([control_out, control_in, tx_data, rx_data, bell, driver_bell])
    }
}

impl Passed {
    /// What came beside a message; `None` if it is not this.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [control_out, control_in, tx_data, rx_data, bell, driver_bell] =
            descriptors.try_into().ok()?;
        Some(Self { control_out, control_in, tx_data, rx_data, bell, driver_bell })
    }
}
