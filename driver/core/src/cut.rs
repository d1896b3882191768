//! Units: TCP segments longer than a frame, which the link cuts. What they cost is what their frames cost.

use driver_atropos::Line;
use driver_filter::HEADER_BYTES_MAX;
use rbuf_channel::IoRec;

/// What a packet is on the wire: one frame, or as many as the link cuts it into.
///
/// Made from what the sender says, before that is checked; a unit is sent only if its first range
/// is its header, as is taken for granted here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    header_bytes: usize,
    payload_bytes: usize,
    segment_bytes: usize,
}

impl Cut {
    pub(crate) fn of(rec: &IoRec) -> Self {
        let bytes = rec.bytes() as usize;
        let header_bytes = rec.pairs().first().map_or(0, |pair| pair.len as usize);
        let payload_bytes = bytes - header_bytes;
        let segment_bytes = match usize::from(rec.gso_size) {
            0 => payload_bytes,
            // What no check would let pass need not be reckoned.
            cut if bytes > usize::from(u16::MAX) + HEADER_BYTES_MAX => cut.max(payload_bytes),
            cut => cut,
        };
        Self { header_bytes, payload_bytes, segment_bytes: segment_bytes.max(1) }
    }

    pub(crate) const fn frames(self) -> u64 {
        let frames = self.payload_bytes.div_ceil(self.segment_bytes);
        if frames == 0 { 1 } else { frames as u64 }
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.frames() * self.header_bytes as u64 + self.payload_bytes as u64
    }

    /// What it is charged on `line`.
    pub(crate) fn cost_ns(self, line: &Line) -> u64 {
        line.unit_cost_ns(self.ns(|bytes| line.rate().wire_ns(bytes)), self.frames())
    }

    /// Time of all its frames, given that of one.
    pub(crate) fn ns(self, frame: impl Fn(usize) -> u64) -> u64 {
        let whole = (self.frames() - 1) as usize;
        let last = self.payload_bytes - whole * self.segment_bytes;
        let last_ns = frame(self.header_bytes + last);
        if whole == 0 {
            return last_ns;
        }
        whole as u64 * frame(self.header_bytes + self.segment_bytes) + last_ns
    }
}

#[cfg(test)]
mod tests {
    use base_flow::Rate;
    use rbuf_channel::Pair;

    use super::*;

    fn unit(header: u32, payload: u32, cut: u16) -> IoRec {
        let mut rec = IoRec::single(1, Pair { offset: 0, len: header });
        if payload > 0 {
            rec.push(Pair { offset: 4096, len: payload });
        }
        rec.gso_size = cut;
        rec
    }

    #[test]
    fn a_unit_costs_what_its_frames_would_one_by_one() {
        let rate = Rate::mbit(100);
        let wire = |bytes: usize| rate.wire_ns(bytes);
        for (header, payload, cut) in
            [(66, 14_480, 1448), (66, 14_481, 1448), (54, 256, 256), (66, 100, 1448), (54, 0, 256)]
        {
            let whole = Cut::of(&unit(header, payload, cut));
            let (mut frames, mut ns, mut left) = (0, 0, payload);
            loop {
                let bytes = left.min(u32::from(cut));
                let frame = Cut::of(&unit(header, bytes, 0));
                (frames, ns) = (frames + 1, ns + frame.ns(wire));
                left -= bytes;
                if left == 0 {
                    break;
                }
            }
            assert_eq!((whole.frames(), whole.ns(wire)), (frames, ns), "{header} {payload} {cut}");
            assert_eq!(whole.bytes(), frames * u64::from(header) + u64::from(payload));
        }
    }

    #[test]
    fn what_nobody_would_send_is_not_reckoned_by_the_byte() {
        let rec = unit(66, 4_000_000_000, 1);
        assert_eq!(Cut::of(&rec).frames(), 1);
        assert_eq!(Cut::of(&unit(66, 0, 1)).frames(), 1);
        let longest = u32::from(u16::MAX) + HEADER_BYTES_MAX as u32;
        assert_eq!(
            Cut::of(&unit(66, longest - 66, 1000)).frames(),
            (longest - 66).div_ceil(1000).into()
        );
        assert_eq!(Cut::of(&unit(66, longest - 65, 1000)).frames(), 1);
    }
}
