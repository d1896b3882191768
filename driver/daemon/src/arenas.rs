//! The arenas a domain shares with this process.

use std::os::fd::OwnedFd;

use base_rpc::InstallError;
use driver_core::Arenas;
use rbuf_channel::{AtomicU64, Park};
use rbuf_domain::{CONTROL_BYTES_MAX, DATA_BYTES_MAX};
use rbuf_shm::{Access, Arena, ArenaError, Futex, Ringer, ShmData, ShmWords};

/// Arenas in memory shared with the domain.
#[derive(Debug)]
pub struct ShmArenas {
    control_out: Arena,
    control_in: Arena,
    tx_data: Arena,
    rx_data: Arena,
    bell: Ringer,
}

impl ShmArenas {
    /// Accepts a domain's descriptors (control-out, transmit data, receive data, doorbell) and
    /// makes the driver's control arena.
    ///
    /// # Errors
    ///
    /// What is wrong with which descriptor.
    pub fn accept(descriptors: Vec<OwnedFd>) -> Result<Self, InstallError> {
        let problem = |arena: &'static str| {
            move |error: ArenaError| InstallError::Arena {
                arena: arena.into(),
                problem: error.to_string(),
            }
        };
        let Ok([control_out, tx_data, rx_data, bell]) = <[OwnedFd; 4]>::try_from(descriptors)
        else {
            return Err(InstallError::Arena {
                arena: "all".into(),
                problem: "four descriptors are needed".into(),
            });
        };
        let bell = Ringer::from(bell);
        Ok(Self {
            control_out: Arena::open(control_out, Access::Read, CONTROL_BYTES_MAX)
                .map_err(problem("control-out"))?,
            tx_data: Arena::open(tx_data, Access::Read, DATA_BYTES_MAX)
                .map_err(problem("transmit data"))?,
            rx_data: Arena::open(rx_data, Access::Write, DATA_BYTES_MAX)
                .map_err(problem("receive data"))?,
            // At its full size at once, so that a domain can map a flow's block before the driver
            // has heard of the flow; pages cost memory only once they are written.
            control_in: Arena::create(
                "plumb-control-in",
                CONTROL_BYTES_MAX,
                CONTROL_BYTES_MAX,
                Access::Read,
            )
            .map_err(problem("control-in"))?,
            bell,
        })
    }

    /// The driver's control arena, for the domain.
    pub const fn control_in_arena(&self) -> &Arena {
        &self.control_in
    }

    /// `get` from an arena that its creator may have grown since we last looked.
    fn grown<T>(arena: &Arena, get: impl Fn(&Arena) -> Option<T>) -> Option<T> {
        get(arena).or_else(|| {
            arena.refresh().ok()?;
            get(arena)
        })
    }
}

impl Arenas for ShmArenas {
    type Words = ShmWords;
    type Data = ShmData;

    fn control_out(&self, offset: u64, words: usize) -> Option<ShmWords> {
        Self::grown(&self.control_out, |arena| arena.words(offset, words))
    }

    fn control_in(&self, offset: u64, words: usize) -> Option<ShmWords> {
        let end = offset.checked_add((words as u64).checked_mul(8)?)?;
        // Only as far as the domain has grown its own side: it pays first.
        if end > self.control_out.bytes() {
            return None;
        }
        self.control_in.words(offset, words)
    }

    fn tx_data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        Self::grown(&self.tx_data, |arena| arena.data(offset, bytes))
    }

    fn rx_data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        Self::grown(&self.rx_data, |arena| arena.data(offset, bytes))
    }

    fn wake(&self, word: &AtomicU64) {
        Futex::patient().wake(word);
    }

    fn ring(&self) {
        self.bell.ring();
    }
}
