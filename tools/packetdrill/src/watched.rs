//! What is kept of a socket beside the host: its error queue, and what happened to it of late.

use tools_packet::{Errno, Fd, Host, Readiness};

use crate::epoll::Happened;
use crate::notices::Notices;
use crate::room::Room;

#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) notices: Notices,
    pub(crate) room: Room,
    pub(crate) happened: Happened,
    /// Reads are told how much is left (`TCP_INQ`).
    pub(crate) tells_rest: bool,
    /// A write did not find room enough.
    full: bool,
    seen: (u64, u64, u64, Readiness),
}

impl Watched {
    /// That of a socket that comes out of a listener.
    pub(crate) fn inherited(&self) -> Self {
        Self { notices: self.notices.inherited(), room: self.room, ..Self::default() }
    }

    /// A write did not find room enough.
    pub(crate) const fn wait(&mut self) {
        self.full = true;
    }

    /// Whether a write would have to wait for another to be woken first.
    pub(crate) const fn waits(&self) -> bool {
        self.full
    }

    /// Looks at what has changed.
    pub(crate) fn observe(&mut self, host: &mut Host, fd: Fd, at_us: i64) {
        let (Ok(mut ready), Ok(info)) = (host.readiness(fd), host.information(fd)) else { return };
        self.room.observe(info.snd_wnd, info.snd_mss);
        let room = self.room.is_enough(host, fd);
        if !room {
            ready = ready.without(Readiness::OUT);
        }
        if let Ok(progress) = host.progress(fd) {
            self.notices.observe(at_us, progress);
        }
        let now = (info.bytes_received, info.state, self.notices.count, ready);
        let (received, state, notices, before) = self.seen;
        let input = received != now.0 || ready.has(Readiness::IN) && !before.has(Readiness::IN);
        let differ = |bit| ready.has(bit) != before.has(bit);
        self.happened.input += u64::from(input || differ(Readiness::RDHUP));
        self.happened.other +=
            u64::from(state != now.1 || notices != now.2 || differ(Readiness::ERR));
        if self.full && ready.has(Readiness::OUT) {
            self.full = false;
            self.happened.output += 1;
        }
        self.seen = now;
    }

    /// What `poll` and `epoll` say, in bits that both have.
    pub(crate) fn events(&self, host: &mut Host, fd: Fd) -> Result<i16, Errno> {
        let ready = host.readiness(fd)?;
        let bit = |on: bool, bit: i16| if on { bit } else { 0 };
        Ok(bit(ready.has(Readiness::ERR) || !self.notices.is_empty(), libc::POLLERR)
            | bit(ready.has(Readiness::HUP), libc::POLLHUP)
            | bit(ready.has(Readiness::IN), libc::POLLIN)
            | bit(ready.has(Readiness::OUT) && self.room.is_enough(host, fd), libc::POLLOUT)
            | bit(ready.has(Readiness::RDHUP), libc::POLLRDHUP))
    }
}
