//! What the flow manager has installed: domains, flows, filters, contracts (the paper's `Netif`).

use base_flow::{Bill, Contract, DropReason, Endpoints, Fib, FlowId, Pace, Prefix, Stray};
use base_rpc::{DomainId, DomainUser, FlowLayout, FromDriver, InstallError};
use driver_atropos::Scheduler;
use driver_filter::{Rights, Template};
use driver_link::Link;
use rbuf_channel::{
    End, IoRec, RING_WORDS_MAX, RING_WORDS_MIN, Words, block_words, flow_block_bytes,
    rx_block_offset,
};

use crate::account::{Accounts, Receiver};
use crate::arenas::Arenas;
use crate::domain::Domain;
use crate::driver::Driver;
use crate::flow::{Flow, NO_FLOW};

/// Flows a domain may have at most, whatever it asks for.
const DOMAIN_FLOWS_MAX: u32 = 1 << 16;

impl<L: Link, A: Arenas, W: Words, S: Scheduler> Driver<L, A, W, S> {
    /// Lets a domain open flows in its arenas. `user` says whose it is, and how long the user's flows
    /// may receive.
    ///
    /// # Errors
    ///
    /// If there is such a domain, or its control arena is too small for `flows_max` flows.
    pub fn add_domain(
        &mut self,
        id: DomainId,
        arenas: A,
        flows_max: u32,
        user: DomainUser,
    ) -> Result<(), InstallError> {
        if flows_max == 0 || flows_max > DOMAIN_FLOWS_MAX {
            return Err(InstallError::Layout(format!(
                "{flows_max} flows are not between 1 and {DOMAIN_FLOWS_MAX}"
            )));
        }
        if self.domain_index(id).is_some() {
            return Err(InstallError::InUse(format!("domain {}", id.0)));
        }
        let open = || self.accounts.open(user.uid, user.rx_cpu_ppb);
        let Some(domain) = Domain::new(id, arenas, flows_max, open) else {
            return Err(InstallError::Region { region: "event FIFO".into() });
        };
        let free = self.domains.iter().position(Option::is_none).unwrap_or(self.domains.len());
        self.domains.resize_with(self.domains.len().max(free + 1), || None);
        self.domains[free] = Some(domain);
        self.domain_at.insert(id, free as u32);
        Ok(())
    }

    pub(crate) fn domain_index(&self, id: DomainId) -> Option<usize> {
        self.domain_at.get(&id).map(|&index| index as usize)
    }

    /// Sets up a flow's channels. It is silent and deaf until it is attached.
    ///
    /// # Errors
    ///
    /// What is wrong with the layout, which is the application's, or that the place is taken.
    pub fn add_flow(
        &mut self,
        id: FlowId,
        domain: DomainId,
        layout: &FlowLayout,
        contract: &Contract,
        rx_cpu_ppb: u32,
        after: &[FlowId],
    ) -> Result<(), InstallError> {
        if id.index >= self.limits.flows_max {
            return Err(InstallError::Full);
        }
        let unknown = || InstallError::Unknown(format!("domain {}", domain.0));
        let domain_index = self.domain_index(domain).ok_or_else(unknown)?;
        let owner = self.domains[domain_index].as_mut().filter(|domain| !domain.leaving);
        let owner = owner.ok_or_else(unknown)?;
        owner.closed = owner.closed || owner.arenas.are_closed();
        if !owner.closed {
            return Err(InstallError::NotClosed);
        }
        if self.flows.len() <= id.index as usize {
            self.flows.resize_with(id.index as usize + 1, || None);
            self.names.resize(self.flows.len(), (id, 0));
        }
        // Or the last one who had the place may still be paying for what it sent.
        if self.flows[id.index as usize].is_some() || self.scheduler.binds(id.index) {
            return Err(InstallError::InUse(format!("flow {}", id.index)));
        }
        match owner.slots.get(layout.slot as usize) {
            Some(slot) if slot.flow == NO_FLOW => {}
            Some(_) => return Err(InstallError::InUse(format!("slot {}", layout.slot))),
            None => {
                return Err(InstallError::Layout(format!(
                    "slot {} of {}",
                    layout.slot,
                    owner.slots.len()
                )));
            }
        }
        let receiver = Accounts::receiver(&owner.account, rx_cpu_ppb);
        let flow = Flow::new(id, domain_index as u32, layout, &owner.arenas, contract, receiver)?;
        self.flows[id.index as usize] = Some(Box::new(flow));
        owner.enter(layout.slot, id.index);
        self.accounts.reserve(&mut owner.account, None, Some(contract));
        self.bills.clear(id.index);
        let after = self.places(after);
        self.names[id.index as usize] = (id, 0);
        self.scheduler.add(id.index, contract, &after);
        Ok(())
    }

    /// Lets a flow send what `fib` describes and receive what matches its endpoints.
    ///
    /// # Errors
    ///
    /// If there is no such flow, or another one has the endpoints.
    pub fn attach(&mut self, fib: &Fib, now_ns: u64) -> Result<(), InstallError> {
        let unknown = || InstallError::Unknown(format!("flow {}", fib.flow));
        let index = self.find(fib.flow).ok_or_else(unknown)?;
        let flow = self.flows[index as usize].as_mut().ok_or_else(unknown)?;
        if flow.faulted || flow.drain_words.is_some() {
            return Err(unknown());
        }
        // A change of route keeps the endpoints: install only what differs.
        let before = flow.endpoints.replace(fib.endpoints);
        if before != Some(fib.endpoints) {
            if let Err(error) = self.demux.install(&fib.endpoints, index) {
                flow.endpoints = before;
                return Err(InstallError::InUse(error.to_string()));
            }
            if let Some(before) = before {
                self.demux.remove(&before, index);
            }
        }
        flow.template = Some(Template::new(&Rights::Flow(*fib), self.facts.vlan));
        self.activate(index, now_ns);
        Ok(())
    }

    /// Lets a flow neither send nor receive; its channels stay.
    pub fn detach(&mut self, id: FlowId) {
        let Some(index) = self.find(id) else { return };
        let Some(flow) = &mut self.flows[index as usize] else { return };
        flow.template = None;
        if let Some(endpoints) = flow.endpoints.take() {
            self.demux.remove(&endpoints, index);
        }
    }

    /// Removes a flow and returns its last bill; packets still in its channel are counted as dropped.
    pub(crate) fn remove(&mut self, index: u32) -> Bill {
        self.silence(index);
        if let Some(mut flow) = self.flows[index as usize].take() {
            let mut unsent = u64::from(!flow.head.is_empty());
            while !flow.faulted
                && matches!(flow.tx.take(), Ok(Some(_)))
                && unsent <= flow.tx.ring_words()
            {
                unsent += 1;
            }
            self.bills.count_drop(index, DropReason::Closed, unsent);
            if let Some(Some(domain)) = self.domains.get_mut(flow.domain as usize) {
                domain.leave(flow.slot, flow.tx.is_armed());
                self.accounts.reserve(&mut domain.account, Some(&flow.contract), None);
            }
            // The next user of the place finds counts of zero.
            flow.tx.clear();
            flow.rx.clear();
        }
        let bill = self.bills.read(index);
        self.bills.clear(index);
        self.bills.forget(index);
        bill
    }

    /// Changes a contract, to the one numbered `change`, as soon as what was sent under the earlier one
    /// is paid for.
    pub fn set_contract(
        &mut self,
        id: FlowId,
        contract: &Contract,
        change: u32,
        after: &[FlowId],
        now_ns: u64,
    ) {
        let Some(index) = self.find(id) else { return };
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return };
        if let Some(Some(domain)) = self.domains.get_mut(flow.domain as usize) {
            self.accounts.reserve(&mut domain.account, Some(&flow.contract), Some(contract));
        }
        flow.contract = *contract;
        let after = self.places(after);
        self.names[index as usize].1 = change;
        self.scheduler.set_contract(index, contract, &after, now_ns as i64);
        if !self.scheduler.binds(index) {
            self.settled.push(FromDriver::Settled { flow: id, change: Some(change) });
        }
        self.activate(index, now_ns);
    }

    /// Gives what is between `endpoints` to the last resort, whoever listens there, until it is taken
    /// back or a flow has these ends.
    pub fn park(&mut self, endpoints: &Endpoints) {
        self.demux.park(endpoints);
    }

    /// Ends what [`Self::park`] began.
    pub fn unpark(&mut self, endpoints: &Endpoints) {
        self.demux.unpark(endpoints);
    }

    /// Sets this host's addresses on the link.
    pub fn set_addresses(&mut self, addresses: &[Prefix]) {
        self.demux.set_addresses(addresses);
    }

    /// Sets this host's addresses on its other links: nobody on this wire has them.
    pub fn set_elsewhere(&mut self, addresses: &[Prefix]) {
        self.demux.set_elsewhere(addresses);
    }

    /// Gives frames of a kind that nobody claims to `id`, no more than `pace` of them; it may send any frame
    /// from our station.
    ///
    /// # Errors
    ///
    /// If there is no such flow.
    pub fn set_last_resort(
        &mut self,
        stray: Stray,
        id: FlowId,
        pace: Pace,
        now_ns: u64,
    ) -> Result<(), InstallError> {
        let unknown = || InstallError::Unknown(format!("flow {id}"));
        let index = self.find(id).ok_or_else(unknown)?;
        let flow = self.flows[index as usize].as_mut().ok_or_else(unknown)?;
        let rights = Rights::Station(self.facts.station);
        flow.template = Some(Template::new(&rights, self.facts.vlan));
        flow.receiver.save_up(pace.burst);
        self.last_resort.set(stray, index, pace);
        self.activate(index, now_ns);
        Ok(())
    }

    /// Treats a frame from the flow manager as if it had just arrived, but for the last resort: what no flow
    /// claims does not go there a second time.
    pub fn inject_frame(&mut self, frame: &[u8], now_ns: u64) {
        self.inject_again(frame, now_ns);
    }
}

impl<A: Arenas> Flow<A> {
    fn new(
        id: FlowId,
        domain: u32,
        layout: &FlowLayout,
        arenas: &A,
        contract: &Contract,
        receiver: Receiver,
    ) -> Result<Self, InstallError> {
        let depth = |words: u32| {
            words.is_power_of_two() && (RING_WORDS_MIN..=RING_WORDS_MAX).contains(&words)
        };
        if !depth(layout.tx_words) || !depth(layout.rx_words) {
            return Err(InstallError::Layout(format!(
                "rings of {} and {} words are not powers of two from {RING_WORDS_MIN} to {RING_WORDS_MAX}",
                layout.tx_words, layout.rx_words
            )));
        }
        let region = |region: &'static str| move || InstallError::Region { region: region.into() };
        let bytes = flow_block_bytes(layout.tx_words, layout.rx_words);
        layout.control_offset.checked_add(bytes).ok_or_else(region("control block"))?;
        let tx_data = arenas
            .tx_data(layout.tx_data.offset, layout.tx_data.bytes)
            .ok_or_else(region("transmit data"))?;
        let rx_data = arenas
            .rx_data(layout.rx_data.offset, layout.rx_data.bytes)
            .ok_or_else(region("receive data"))?;
        let end = |offset: u64, words: u32, area: u32| {
            let theirs = arenas.control_out(offset, block_words(words))?;
            let ours = arenas.control_in(offset, block_words(words))?;
            End::new(ours, theirs, area)
        };
        let tx = end(layout.control_offset, layout.tx_words, layout.tx_data.bytes)
            .ok_or_else(region("transmit control"))?;
        let rx_offset = layout.control_offset + rx_block_offset(layout.tx_words);
        let rx = end(rx_offset, layout.rx_words, layout.rx_data.bytes)
            .ok_or_else(region("receive control"))?;
        Ok(Self {
            id,
            domain,
            slot: layout.slot,
            tx,
            tx_data,
            rx,
            rx_data,
            head: IoRec::EMPTY,
            spare: IoRec::EMPTY,
            owed_words: 0,
            template: None,
            endpoints: None,
            receiver,
            contract: *contract,
            touched: 0,
            drain_words: None,
            faulted: false,
        })
    }
}
