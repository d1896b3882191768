//! How much a write may put into the send buffer, in the way of Linux: what has room for a byte takes a
//! whole piece, and who had to wait is woken when a third is free.

use tools_packet::{Fd, Host};

/// Limits of one socket's buffer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    /// `SO_SNDBUF`, as it was chosen: twice that.
    pub(crate) bytes: Option<u64>,
    /// `TCP_NOTSENT_LOWAT`, as it was chosen.
    pub(crate) unsent: Option<u64>,
    /// The host's choice of that.
    pub(crate) unsent_default: Option<u64>,
    /// The peer's largest window, and a segment.
    window_max: u64,
    segment: u64,
}

impl Room {
    /// Looks at the connection.
    pub(crate) fn observe(&mut self, window: u64, segment: u64) {
        self.window_max = self.window_max.max(window);
        self.segment = segment.max(1);
    }

    fn limits(&self) -> (u64, u64) {
        let unsent = self.unsent.filter(|bytes| *bytes > 0).or(self.unsent_default);
        (self.bytes.unwrap_or(u64::MAX), unsent.unwrap_or(u64::MAX))
    }

    /// Bytes that one step of a write may add.
    pub(crate) fn left(&self, host: &mut Host, fd: Fd) -> u64 {
        let Ok(progress) = host.progress(fd) else { return u64::MAX };
        let (bytes, unsent_max) = self.limits();
        if (bytes, unsent_max) == (u64::MAX, u64::MAX) {
            return u64::MAX;
        }
        // Half of the largest window, in whole segments.
        let segment = self.segment.max(1);
        let piece = (self.window_max / 2).min(65_535) / segment * segment;
        let piece = piece.max(segment);
        let (queued, unsent) =
            (progress.written - progress.acknowledged, progress.written - progress.sent);
        match unsent % piece {
            0 if queued >= bytes || unsent >= unsent_max => 0,
            begun => piece - begun,
        }
    }

    /// Whether it is time to wake who waits for room.
    pub(crate) fn is_enough(&self, host: &mut Host, fd: Fd) -> bool {
        let Ok(progress) = host.progress(fd) else { return true };
        let (bytes, unsent_max) = self.limits();
        let (queued, unsent) =
            (progress.written - progress.acknowledged, progress.written - progress.sent);
        progress.over || queued + queued / 2 <= bytes && 2 * unsent < unsent_max
    }
}
