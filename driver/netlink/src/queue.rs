//! Queueing disciplines (`tc-tbf(8)`).

use base_flow::Rate;
use base_wire::{FRAME_BYTES_MIN, WIRE_OVERHEAD_BYTES, wire_bytes};

use crate::message::{NLM_F_NEW, NetlinkError, Request};
use crate::route::Netlink;

const RTM_NEWQDISC: u16 = 36;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

impl Netlink {
    /// Lets interface `index` send at `rate` at most, as a wire of that rate would: `burst_bytes` at once, and up to
    /// `queue_bytes` wait.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENOENT` if the kernel has no token bucket filter, `EEXIST` if the interface
    /// has a queue of its own.
    pub fn limit(
        &self,
        index: u32,
        rate: Rate,
        burst_bytes: u32,
        queue_bytes: u32,
    ) -> Result<(), NetlinkError> {
        let mut request = Request::new(RTM_NEWQDISC, NLM_F_NEW, &queue_header(index));
        request.text(TCA_KIND, "tbf");
        let options = request.begin(TCA_OPTIONS);
        let bytes_per_s = rate.bits_per_s() / 8;
        request.attribute(TCA_TBF_PARMS, &parameters(bytes_per_s, queue_bytes));
        request.attribute(TCA_TBF_RATE64, &bytes_per_s.to_ne_bytes());
        request.attribute(TCA_TBF_BURST, &burst_bytes.to_ne_bytes());
        request.end(&options);
        self.call(format!("limit an interface to {rate}"), request, |_, _| ())
    }
}

/// A `tcmsg`: any family, no handle of our own, at the root.
fn queue_header(index: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
    header
}

/// A `tc_tbf_qopt` whose bucket is given elsewhere: a rate, no peak rate, and how much may wait. Frames are charged
/// what they occupy on a wire.
fn parameters(bytes_per_s: u64, queue_bytes: u32) -> [u8; 36] {
    let mut all = [0; 36];
    all[1] = TC_LINKLAYER_ETHERNET;
    all[2..4].copy_from_slice(&(WIRE_OVERHEAD_BYTES as u16).to_ne_bytes());
    all[6..8].copy_from_slice(&(wire_bytes(FRAME_BYTES_MIN) as u16).to_ne_bytes());
    all[8..12].copy_from_slice(&u32::try_from(bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes());
    all[24..28].copy_from_slice(&queue_bytes.to_ne_bytes());
    all
}
