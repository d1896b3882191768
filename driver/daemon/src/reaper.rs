//! Who gives memory back to the kernel: not the loop.
//!
//! Freeing what a domain had costs the kernel time for each page of it, whoever closes it last. So a thread of its own
//! does that, confined as the loop is and behind everything else, and the loop does not notice.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rbuf_shm::{Arena, ConfineError, confine};

use crate::confine::LOOP;

/// How often it is looked whether the link is done with memory that is to go.
const LOOK: Duration = Duration::from_millis(10);

/// The arenas of a domain.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) control_out: Arena,
    pub(crate) control_in: Arena,
    pub(crate) tx_data: Arena,
    pub(crate) rx_data: Arena,
}

impl Memory {
    /// Whether somebody in this process still uses it, such as the link a frame.
    fn is_in_use(&self) -> bool {
        let Self { control_out, control_in, tx_data, rx_data } = self;
        [control_out, control_in, tx_data, rx_data].into_iter().any(Arena::is_in_use)
    }
}

/// Takes memory that is no longer needed.
#[derive(Debug, Clone)]
pub struct Reaper(Option<Sender<Memory>>);

impl Reaper {
    /// Memory is given back by whoever drops it: for processes that have no time to lose.
    pub const NOBODY: Self = Self(None);

    /// Starts the thread, confined if the loop will be.
    pub(crate) fn start(confined: bool) -> Result<Self, ConfineError> {
        let (reaper, memory) = Self::new();
        let (ready, is_ready) = channel();
        let spawned = std::thread::Builder::new().name("reaper".into()).spawn(move || {
            // Of this thread only, on Linux. It matters where the loop has a processor of its own, which this
            // thread has then too.
            let _ = rustix::process::setpriority_process(None, 19);
            let confined = if confined { confine(LOOP).map(drop) } else { Ok(()) };
            let goes_on = confined.is_ok();
            let _ = ready.send(confined);
            if goes_on {
                reap(&memory);
            }
        });
        spawned.map_err(|source| ConfineError::Os { call: "clone", source })?;
        is_ready.recv().unwrap_or(Ok(())).map(|()| reaper)
    }

    fn new() -> (Self, Receiver<Memory>) {
        let (sender, receiver) = channel();
        (Self(Some(sender)), receiver)
    }

    /// Never waits.
    pub(crate) fn take(&self, memory: Memory) {
        if let Some(sender) = &self.0 {
            // If nobody takes it, it is dropped here.
            let _ = sender.send(memory);
        }
    }
}

fn reap(memory: &Receiver<Memory>) {
    while let Ok(memory) = memory.recv() {
        while memory.is_in_use() {
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use driver_core::Arenas;
    use rbuf_channel::Data;

    use super::*;
    use crate::arenas::{Joined, ShmArenas};

    /// Arenas of this test that are mapped.
    fn mapped(bytes: u64) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let length = |line: &str| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
        };
        let data = maps.lines().filter(|line| line.contains("plumb-tx-data"));
        data.filter(|line| length(line) == Some(bytes)).count()
    }

    #[test]
    fn what_a_domain_had_is_not_given_back_by_who_drops_it() {
        let bytes = 77 << 20;
        let (reaper, memory) = Reaper::new();
        let Joined { arenas, .. } = ShmArenas::make(bytes, &reaper).unwrap();
        let sent = arenas.tx_data(0, 4096).unwrap().hold();
        assert_eq!(mapped(bytes), 1);
        drop(arenas);
        assert_eq!(mapped(bytes), 1, "the loop has unmapped it");
        let memory = memory.try_recv().unwrap();
        assert!(memory.is_in_use(), "by a frame that the link has");
        drop(sent);
        assert!(!memory.is_in_use());
        drop(memory);
        assert_eq!(mapped(bytes), 0);
    }
}
