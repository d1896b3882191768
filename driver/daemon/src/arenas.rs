//! The arenas a domain shares with this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use base_rpc::InstallError;
use driver_core::Arenas;
use rbuf_channel::{AtomicU64, Park};
use rbuf_domain::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, Passed};
use rbuf_shm::{Access, Arena, ArenaError, Doorbell, DriverBell, Futex, Ringer, ShmData, ShmWords};

/// Arenas in memory shared with the domain.
#[derive(Debug)]
pub struct ShmArenas {
    control_out: Arena,
    control_in: Arena,
    tx_data: Arena,
    rx_data: Arena,
    bell: Ringer,
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
    /// Makes arenas and doorbells for a domain, at their full size: pages cost memory only once they are
    /// written.
    ///
    /// # Errors
    ///
    /// Out of memory, descriptors or address space.
    pub fn make() -> Result<Joined, InstallError> {
        use Access::{Read, Write};
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
        let tx_data = make("plumb-tx-data", DATA_BYTES_MAX, Read, Write)?;
        let rx_data = make("plumb-rx-data", DATA_BYTES_MAX, Write, Read)?;
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
        let arenas = Self { control_out, control_in, tx_data, rx_data, bell: ringer };
        Ok(Joined { arenas, bell: driver_bell, passed })
    }
}

impl Arenas for ShmArenas {
    type Words = ShmWords;
    type Data = ShmData;

    fn control_out(&self, offset: u64, words: usize) -> Option<ShmWords> {
        self.control_out.words(offset, words)
    }

    fn control_in(&self, offset: u64, words: usize) -> Option<ShmWords> {
        self.control_in.words(offset, words)
    }

    fn tx_data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        self.tx_data.data(offset, bytes)
    }

    fn rx_data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        self.rx_data.data(offset, bytes)
    }

    fn wake(&self, word: &AtomicU64) {
        Futex::patient().wake(word);
    }

    fn ring(&self) {
        self.bell.ring();
    }
}
