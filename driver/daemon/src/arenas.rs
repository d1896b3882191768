//! The arenas a domain shares with this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use base_rpc::InstallError;
use driver_core::Arenas;
use rbuf_channel::{AtomicU64, Park};
use rbuf_domain::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, Passed};
use rbuf_shm::{Access, Arena, ArenaError, Doorbell, DriverBell, Futex, Ringer, ShmData, ShmWords};

use crate::reaper::{Memory, Reaper};

/// Arenas in memory shared with the domain.
#[derive(Debug)]
pub struct ShmArenas {
    /// Until it goes to the reaper.
    memory: Option<Memory>,
    bell: Ringer,
    reaper: Reaper,
}

impl Drop for ShmArenas {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.reaper.take(memory);
        }
    }
}

/// What is made for a domain that joins.
#[derive(Debug)]
pub struct Joined {
    /// The driver's side.
    pub arenas: ShmArenas,
    /// What the domain will ring to wake the driver.
    pub bell: DriverBell,
    /// What goes to the domain.
    pub passed: Passed,
}

impl ShmArenas {
    /// Makes arenas and doorbells for a domain, at their full size, data arenas of `data_bytes`: pages cost memory
    /// only once they are written. `reaper` gives all back in the end.
    ///
    /// # Errors
    ///
    /// Out of memory, descriptors or address space.
    pub fn make(data_bytes: u64, reaper: &Reaper) -> Result<Joined, InstallError> {
        use Access::{Read, Write};
        let data_bytes = data_bytes.clamp(1, DATA_BYTES_MAX);
        let problem = |arena: &'static str| {
            move |error: ArenaError| InstallError::Memory {
                what: arena.into(),
                problem: error.to_string(),
            }
        };
        let make = |name: &'static str, bytes, ours, others| {
            Arena::create(name, bytes, ours, others).map_err(problem(name))
        };
        let control_out = make("plumb-control-out", CONTROL_BYTES_MAX, Read, Write)?;
        let control_in = make("plumb-control-in", CONTROL_BYTES_MAX, Write, Read)?;
        let tx_data = make("plumb-tx-data", data_bytes, Read, Write)?;
        let rx_data = make("plumb-rx-data", data_bytes, Write, Read)?;
        let os = |error: io::Error| InstallError::Memory {
            what: "a doorbell".into(),
            problem: error.to_string(),
        };
        let (bell, ringer) = Doorbell::new().map_err(os)?;
        let driver_bell = DriverBell::new().map_err(os)?;
        let copy = |file: BorrowedFd<'_>| file.try_clone_to_owned().map_err(os);
        let passed = Passed {
            control_out: copy(control_out.file())?,
            control_in: copy(control_in.file())?,
            tx_data: copy(tx_data.file())?,
            rx_data: copy(rx_data.file())?,
            bell: bell.into(),
            driver_bell: copy(driver_bell.as_fd())?,
        };
        let memory = Some(Memory { control_out, control_in, tx_data, rx_data });
        let arenas = Self { memory, bell: ringer, reaper: reaper.clone() };
        Ok(Joined { arenas, bell: driver_bell, passed })
    }
}

impl Arenas for ShmArenas {
    type Words = ShmWords;
    type Data = ShmData;

    fn control_out(&self, offset: u64, words: usize) -> Option<ShmWords> {
        self.memory.as_ref()?.control_out.words(offset, words)
    }

    fn control_in(&self, offset: u64, words: usize) -> Option<ShmWords> {
        self.memory.as_ref()?.control_in.words(offset, words)
    }

    fn tx_data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        self.memory.as_ref()?.tx_data.data(offset, bytes)
    }

    fn rx_data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        self.memory.as_ref()?.rx_data.data(offset, bytes)
    }

    fn are_closed(&self) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|memory| memory.control_out.is_closed() && memory.tx_data.is_closed())
    }

    fn wake(&self, word: &AtomicU64) {
        Futex::patient().wake(word);
    }

    fn ring(&self) {
        self.bell.ring();
    }
}
