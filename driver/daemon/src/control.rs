//! Obeying the flow manager.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base_rpc::{
    DomainId, DomainUser, FromDriver, InstallError, MESSAGE_BYTES_MAX, ToDriver, decode, encode,
};
use driver_atropos::Scheduler;
use driver_core::{Driver, Payer};
use driver_link::Link;
use rbuf_domain::Passed;
use rbuf_shm::{Connection, ReceiveError, ShmWords};

use crate::arenas::{Joined, ShmArenas};
use crate::bells::Bells;
use crate::reaper::Reaper;

/// Messages answered in one round of the loop.
const MESSAGES_PER_ROUND: usize = 64;

/// After so much time with messages, frames are looked after again.
const CONTROL_NS_MAX: u64 = 100_000;

/// Who pays for a message.
fn payer<L: Link, S: Scheduler>(
    message: &ToDriver,
    driver: &Driver<L, ShmArenas, ShmWords, S>,
) -> Option<Payer> {
    let domain = match message {
        ToDriver::AddDomain { domain, user, .. } => {
            return Some(Payer { domain: *domain, uid: user.uid });
        }
        ToDriver::RemoveDomain { domain } | ToDriver::AddFlow { domain, .. } => Some(*domain),
        ToDriver::Attach { fib } => driver.domain_of(fib.flow),
        ToDriver::Detach { flow }
        | ToDriver::RemoveFlow { flow, .. }
        | ToDriver::SetContract { flow, .. }
        | ToDriver::SetLastResort { flow, .. } => driver.domain_of(*flow),
        ToDriver::Refused { .. }
        | ToDriver::SetAddresses { .. }
        | ToDriver::Park { .. }
        | ToDriver::Unpark { .. }
        | ToDriver::Inject { .. }
        | ToDriver::Ping { .. } => None,
    };
    driver.payer(domain?)
}

/// What came of listening to the flow manager.
pub(crate) enum Heard {
    /// All it had to say, or enough for a round.
    All,
    /// It is gone.
    Gone,
    /// It does not want this driver.
    Refused(String),
}

/// The connection to the flow manager, and answers it has not taken yet.
pub(crate) struct Control {
    connection: Connection,
    unsent: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Gives back what domains had.
    reaper: Reaper,
}

impl Control {
    pub(crate) const fn new(connection: Connection, reaper: Reaper) -> Self {
        Self { connection, unsent: VecDeque::new(), reaper }
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

    /// Does what the flow manager says, for a bounded time. `clock` tells the
    /// processor time used: each message is billed to the domain it is about,
    /// and the flow manager hears of who has no time left.
    pub(crate) fn obey<L: Link, S: Scheduler>(
        &mut self,
        driver: &mut Driver<L, ShmArenas, ShmWords, S>,
        bells: &mut Bells,
        now_ns: u64,
        clock: &mut impl FnMut() -> u64,
    ) -> Heard {
        let begun_ns = clock();
        for _ in 0..MESSAGES_PER_ROUND {
            let received = match self.connection.try_receive(MESSAGE_BYTES_MAX) {
                Ok(received) => received,
                Err(ReceiveError::WouldBlock) => return Heard::All,
                Err(_) => return Heard::Gone,
            };
            // The flow manager is trusted to be right, but not to be the same release.
            let Ok(message) = decode::<ToDriver>(&received.bytes) else {
                return Heard::Gone;
            };
            if let ToDriver::Refused { reason } = message {
                return Heard::Refused(reason);
            }
            // Asked before: afterwards it may be gone.
            let payer = payer(&message, driver);
            self.act(message, driver, bells, now_ns);
            let used_ns = clock();
            // Before the next message: who has nothing left is not spoken for any more.
            if let Some(spent) = driver.bill_control(now_ns, used_ns, payer) {
                self.tell(&spent, Vec::new());
            }
            if used_ns - begun_ns > CONTROL_NS_MAX {
                break;
            }
        }
        Heard::All
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
        driver: &mut Driver<L, ShmArenas, ShmWords, S>,
        bells: &mut Bells,
        now_ns: u64,
    ) {
        match message {
            // Heard before.
            ToDriver::Refused { .. } => {}
            ToDriver::AddDomain { domain, flows_max, user } => {
                let added = join(domain, flows_max, user, &self.reaper, driver, bells);
                let (result, descriptors) = match added {
                    Ok(passed) => (Ok(()), passed.into()),
                    Err(error) => (Err(error), Vec::new()),
                };
                self.tell(&FromDriver::DomainAdded { domain, result }, descriptors);
            }
            ToDriver::RemoveDomain { domain } => {
                driver.remove_domain(domain, now_ns);
                bells.forget(domain);
            }
            ToDriver::AddFlow { flow, domain, layout, contract, rx_cpu_ppb, after } => {
                let added = driver.add_flow(flow, domain, &layout, &contract, rx_cpu_ppb, &after);
                if let Err(error) = added {
                    self.tell(&FromDriver::FlowFailed { flow, error }, Vec::new());
                }
            }
            ToDriver::Attach { fib } => {
                if let Err(error) = driver.attach(&fib, now_ns) {
                    self.tell(&FromDriver::FlowFailed { flow: fib.flow, error }, Vec::new());
                }
            }
            ToDriver::Detach { flow } => driver.detach(flow),
            ToDriver::RemoveFlow { flow, parks } => {
                driver.remove_connection(flow, parks.as_ref(), now_ns);
                self.report_removed(driver);
            }
            ToDriver::SetContract { flow, contract, change, after } => {
                driver.set_contract(flow, &contract, change, &after, now_ns)
            }
            ToDriver::SetAddresses { addresses, elsewhere } => {
                driver.set_addresses(&addresses);
                driver.set_elsewhere(&elsewhere);
            }
            ToDriver::SetLastResort { stray, flow, pace } => {
                if let Err(error) = driver.set_last_resort(stray, flow, pace, now_ns) {
                    self.tell(&FromDriver::FlowFailed { flow, error }, Vec::new());
                }
            }
            ToDriver::Park { endpoints } => driver.park(&endpoints),
            ToDriver::Unpark { endpoints } => driver.unpark(&endpoints),
            ToDriver::Inject { frame } => driver.inject_frame(&frame, now_ns),
            ToDriver::Ping { tag } => self.tell(&FromDriver::Pong { tag }, Vec::new()),
        }
    }
}

/// Makes what the driver shares with a domain; returns what goes to it.
fn join<L: Link, S: Scheduler>(
    domain: DomainId,
    flows_max: u32,
    user: DomainUser,
    reaper: &Reaper,
    driver: &mut Driver<L, ShmArenas, ShmWords, S>,
    bells: &mut Bells,
) -> Result<Passed, InstallError> {
    let Joined { arenas, bell, passed } = ShmArenas::make(user.arena_bytes, reaper)?;
    // Before anybody else has it: what they do to it first cannot make watching it dear.
    bells.watch(domain, bell)?;
    driver.add_domain(domain, arenas, flows_max, user).inspect_err(|_| bells.forget(domain))?;
    Ok(passed)
}
