//! `epoll`: who waits for which descriptor, and what each was told.
//!
//! With `EPOLLET` a descriptor is told of again when something happened to it, whatever its state was
//! before. So each keeps a count of what happened, and a watch remembers how far it was told.

use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP};
use tools_packet::Fd;

/// How often something happened to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Happened {
    /// Something to read came.
    pub(crate) input: u64,
    /// A write that had to wait need not any more.
    pub(crate) output: u64,
    /// There is an error, a notice, or another state.
    pub(crate) other: u64,
}

/// What is watched for.
#[derive(Debug)]
struct Watch {
    fd: Fd,
    events: u32,
    data: u64,
    /// What had happened when it was told last; `None` if it never was.
    told: Option<Happened>,
    /// It asked to be told once, and was.
    spent: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Epoll {
    watches: Vec<Watch>,
}

const fn bits(flags: i32) -> u32 {
    flags.cast_unsigned()
}

impl Epoll {
    /// `epoll_ctl`.
    pub(crate) fn control(
        &mut self,
        operation: i32,
        fd: Fd,
        events: u32,
        data: u64,
    ) -> Result<(), i32> {
        let found = self.watches.iter().position(|watch| watch.fd == fd);
        let watch = Watch { fd, events, data, told: None, spent: false };
        match (operation, found) {
            (libc::EPOLL_CTL_ADD, None) => self.watches.push(watch),
            (libc::EPOLL_CTL_ADD, Some(_)) => return Err(libc::EEXIST),
            (libc::EPOLL_CTL_MOD, Some(index)) => self.watches[index] = watch,
            (libc::EPOLL_CTL_DEL, Some(index)) => drop(self.watches.remove(index)),
            (_, None) => return Err(libc::ENOENT),
            _ => return Err(libc::EINVAL),
        }
        Ok(())
    }

    /// Who is to be told of what, up to `max`; `look` says what a descriptor is ready for, and what
    /// happened to it.
    pub(crate) fn ready(
        &mut self,
        max: usize,
        mut look: impl FnMut(Fd) -> (u32, Happened),
    ) -> Vec<(u32, u64)> {
        let mut out = Vec::new();
        for watch in self.watches.iter_mut().filter(|watch| !watch.spent) {
            if out.len() == max {
                break;
            }
            let (state, happened) = look(watch.fd);
            let asked = |flags: i32| watch.events & bits(flags) != 0;
            let news = watch.told.is_none_or(|told| {
                asked(EPOLLIN | EPOLLRDHUP) && happened.input > told.input
                    || asked(EPOLLOUT) && happened.output > told.output
                    || happened.other > told.other
            });
            let events = state & (watch.events | bits(EPOLLERR | EPOLLHUP));
            if asked(EPOLLET) && !news {
                continue;
            }
            watch.told = Some(happened);
            if events != 0 {
                watch.spent = asked(EPOLLONESHOT);
                out.push((events, watch.data));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_told_once_and_a_state_as_long_as_it_lasts() {
        let (mut edge, mut level) = (Epoll::default(), Epoll::default());
        edge.control(libc::EPOLL_CTL_ADD, 3, bits(EPOLLIN | EPOLLET), 7).unwrap();
        level.control(libc::EPOLL_CTL_ADD, 3, bits(EPOLLIN), 7).unwrap();
        let mut happened = Happened { input: 1, ..Happened::default() };
        let told = vec![(bits(EPOLLIN), 7)];
        assert_eq!(edge.ready(1, |_| (bits(EPOLLIN), happened)), told);
        assert_eq!(edge.ready(1, |_| (bits(EPOLLIN), happened)), vec![]);
        happened.input += 1;
        assert_eq!(edge.ready(1, |_| (bits(EPOLLIN), happened)), told);
        for _ in 0..2 {
            assert_eq!(level.ready(1, |_| (bits(EPOLLIN), happened)), told);
        }
    }
}
