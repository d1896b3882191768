//! How long a connection had something to say, and how long the peer's window kept it from saying it.

use crate::connection::Connection;

/// What the sender waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// The application.
    Nothing,
    /// Acknowledgments.
    Busy,
    /// The peer's window.
    Window,
}

/// Time spent in each way.
#[derive(Debug)]
pub(crate) struct Waiting {
    waits: Waits,
    since_ns: u64,
    busy_ns: u64,
    window_ns: u64,
}

impl Waiting {
    pub(crate) const fn new(now_ns: u64) -> Self {
        Self { waits: Waits::Nothing, since_ns: now_ns, busy_ns: 0, window_ns: 0 }
    }

    /// Nanoseconds until now: with something to send or unacknowledged, and of these with the peer's
    /// window in the way.
    pub(crate) const fn spent_ns(&self, now_ns: u64) -> (u64, u64) {
        let lately_ns = now_ns.saturating_sub(self.since_ns);
        match self.waits {
            Waits::Nothing => (self.busy_ns, self.window_ns),
            Waits::Busy => (self.busy_ns + lately_ns, self.window_ns),
            Waits::Window => (self.busy_ns + lately_ns, self.window_ns + lately_ns),
        }
    }
}

impl Connection {
    /// Nothing more can be sent now: remembers why.
    pub(crate) fn note_waiting(&mut self, now_ns: u64) {
        let unsent = self.unsent();
        let open = (self.map.start() + self.send.window) - self.map.end();
        let waits = if unsent > 0 && open < self.window.segment.min(unsent) {
            Waits::Window
        } else if unsent > 0 || !self.map.is_empty() {
            Waits::Busy
        } else {
            Waits::Nothing
        };
        if waits != self.waiting.waits {
            let (busy_ns, window_ns) = self.waiting.spent_ns(now_ns);
            self.waiting = Waiting { waits, since_ns: now_ns, busy_ns, window_ns };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Connection, Identity};

    #[test]
    fn time_with_a_closed_window_is_told_apart() {
        let identity = |number| Identity { initial_sequence: number, timestamp_offset: 0 };
        let mut ours = Connection::connect(1, Config::default(), identity(1));
        let syn = ours.poll_transmit(1).unwrap().segment;
        let config = Config { receive_bytes: 1000, ..Config::default() };
        let mut peer = Connection::accept(1, config, identity(2), &syn).unwrap();
        ours.on_segment(2, &peer.poll_transmit(2).unwrap().segment);
        peer.on_segment(3, &ours.poll_transmit(3).unwrap().segment);
        assert_eq!(ours.waited_ns(10), (0, 0));

        ours.write(1000, false).unwrap();
        let fills: Vec<_> = std::iter::from_fn(|| ours.poll_transmit(10)).collect();
        ours.write(1000, false).unwrap();
        assert!(ours.poll_transmit(20).is_none());
        assert_eq!(ours.waited_ns(25), (15, 5));

        for fill in fills {
            peer.on_segment(30, &fill.segment);
        }
        ours.on_segment(40, &peer.poll_transmit(30).unwrap().segment);
        assert!(ours.poll_transmit(40).is_none(), "it is closed");
        assert_eq!(ours.waited_ns(50), (40, 30));
        peer.consume(50, 1000);
        ours.on_segment(60, &peer.poll_transmit(50).unwrap().segment);
        assert!(std::iter::from_fn(|| ours.poll_transmit(60)).count() > 0);
        assert_eq!(ours.waited_ns(60), (50, 40));
    }
}
