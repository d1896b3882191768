//! Obeying the flow manager.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base_rpc::{DomainId, FromDriver, InstallError, MESSAGE_BYTES_MAX, ToDriver, decode, encode};
use driver_atropos::Scheduler;
use driver_core::Driver;
use driver_link::Link;
use rbuf_shm::{Connection, Doorbell, ReceiveError, ShmWords};

use crate::arenas::ShmArenas;

/// Messages answered in one round of the loop.
const MESSAGES_PER_ROUND: usize = 64;

/// What is to be done about epoll after a message.
pub(crate) enum Change {
    None,
    /// A domain joined: watch its bell.
    Joined(DomainId, Doorbell),
    Left(DomainId),
}

/// The connection to the flow manager, and answers it has not taken yet.
pub(crate) struct Control {
    connection: Connection,
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Control {
    pub(crate) const fn new(connection: Connection) -> Self {
        Self { connection, unsent: VecDeque::new() }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    pub(crate) fn tell(&mut self, message: &FromDriver, descriptors: Vec<OwnedFd>) {
        self.unsent.push_back((encode(message), descriptors));
        self.flush();
    }

    /// Whether answers wait for the flow manager to read.
    pub(crate) fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(crate) fn flush(&mut self) {
        while let Some((bytes, descriptors)) = self.unsent.front() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.connection.send(bytes, &borrowed) {
                // Told, or nobody is there to be told.
                Ok(()) => self.unsent.pop_front(),
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.unsent.pop_front(),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.unsent.pop_front(),
                // The flow manager is behind, or the kernel is short of something.
                Err(_) => return,
            };
        }
    }

    /// Does what the flow manager says; `false` when it is gone.
    pub(crate) fn obey<L: Link, S: Scheduler>(
        &mut self,
        driver: &mut Driver<L, ShmArenas, ShmWords, S>,
        now_ns: u64,
        changes: &mut Vec<Change>,
    ) -> bool {
        for _ in 0..MESSAGES_PER_ROUND {
            let received = match self.connection.try_receive(MESSAGE_BYTES_MAX) {
                Ok(received) => received,
                Err(ReceiveError::WouldBlock) => return true,
                Err(_) => return false,
            };
            // The flow manager is trusted to be right, but not to be the same release.
            let Ok(message) = decode::<ToDriver>(&received.bytes) else { return false };
            let change = self.act(message, received.descriptors, driver, now_ns);
            changes.push(change);
        }
        true
    }

    /// Says which flows and domains are gone.
    pub(crate) fn report_removed<L: Link, S: Scheduler>(
        &mut self,
        driver: &mut Driver<L, ShmArenas, ShmWords, S>,
    ) {
        if driver.has_removed() {
            for removed in driver.take_removed() {
                self.tell(&removed, Vec::new());
            }
        }
    }

    fn act<L: Link, S: Scheduler>(
        &mut self,
        message: ToDriver,
        descriptors: Vec<OwnedFd>,
        driver: &mut Driver<L, ShmArenas, ShmWords, S>,
        now_ns: u64,
    ) -> Change {
        match message {
            ToDriver::AddDomain { domain, flows_max } => {
                return self.join(domain, flows_max, descriptors, driver);
            }
            ToDriver::RemoveDomain { domain } => {
                driver.remove_domain(domain, now_ns);
                return Change::Left(domain);
            }
            ToDriver::AddFlow { flow, domain, layout, contract, rx_cpu_ppb } => {
                if let Err(error) = driver.add_flow(flow, domain, &layout, &contract, rx_cpu_ppb) {
                    self.tell(&FromDriver::FlowFailed { flow, error }, Vec::new());
                }
            }
            ToDriver::Attach { fib } => {
                if let Err(error) = driver.attach(&fib, now_ns) {
                    self.tell(&FromDriver::FlowFailed { flow: fib.flow, error }, Vec::new());
                }
            }
            ToDriver::Detach { flow } => driver.detach(flow),
            ToDriver::RemoveFlow { flow } => {
                driver.remove_flow(flow, now_ns);
                self.report_removed(driver);
            }
            ToDriver::SetContract { flow, contract } => {
                driver.set_contract(flow, &contract, now_ns)
            }
            ToDriver::SetAddresses { addresses } => driver.set_addresses(&addresses),
            ToDriver::SetLastResort { flow } => {
                if let Err(error) = driver.set_last_resort(flow, now_ns) {
                    self.tell(&FromDriver::FlowFailed { flow, error }, Vec::new());
                }
            }
            ToDriver::Park { endpoints } => driver.park(&endpoints),
            ToDriver::Unpark { endpoints } => driver.unpark(&endpoints),
            ToDriver::Inject { frame } => driver.inject_frame(&frame, now_ns),
            ToDriver::Ping { tag } => self.tell(&FromDriver::Pong { tag }, Vec::new()),
        }
        Change::None
    }

    fn join<L: Link, S: Scheduler>(
        &mut self,
        domain: DomainId,
        flows_max: u32,
        descriptors: Vec<OwnedFd>,
        driver: &mut Driver<L, ShmArenas, ShmWords, S>,
    ) -> Change {
        let result = ShmArenas::accept(descriptors).and_then(|arenas| {
            let os = |problem: std::io::Error| InstallError::Arena {
                arena: "control-in".into(),
                problem: problem.to_string(),
            };
            let (bell, ringer) = Doorbell::new().map_err(os)?;
            let control = arenas.control_in_arena().file().try_clone_to_owned().map_err(os)?;
            let theirs = ringer.as_fd().try_clone_to_owned().map_err(os)?;
            driver.add_domain(domain, arenas, flows_max)?;
            Ok((bell, vec![control, theirs]))
        });
        match result {
            Ok((bell, descriptors)) => {
                self.tell(&FromDriver::DomainAdded { domain, result: Ok(()) }, descriptors);
                Change::Joined(domain, bell)
            }
            Err(error) => {
                self.tell(&FromDriver::DomainAdded { domain, result: Err(error) }, Vec::new());
                Change::None
            }
        }
    }
}
