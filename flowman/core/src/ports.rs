//! Reservation of local access points.
//!
//! An access point belongs to one client. A reservation of "any address" excludes every other
//! client from the port, one of a definite address only from that address and from "any".
//!
//! A flow that was closed may still send what it had accepted. Until it has, its access point is its user's:
//! another user's flow there would have words put into its mouth. A program that starts again has it at once.

use std::collections::HashMap;
use std::net::IpAddr;

use base_flow::{Sap, Transport};

use crate::dynamic_ports::DynamicPorts;
use crate::manager::ClientId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holding {
    address: IpAddr,
    client: ClientId,
    /// Flows that use it.
    flows: u32,
    /// Whether it was bound by itself, and so outlives its flows.
    bound: bool,
}

/// Who holds which ports.
#[derive(Debug)]
pub(crate) struct Ports {
    holdings: HashMap<(Transport, u16), Vec<Holding>>,
    /// Access points of flows that were closed and have not sent everything, and whose they were.
    closing: HashMap<(Transport, u16), Vec<(IpAddr, u32)>>,
    /// How often a port became free.
    freed: u64,
    count: usize,
    held: HashMap<ClientId, usize>,
    dynamic: DynamicPorts,
}

/// Why an access point was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    InUse,
    NoFreePort,
}

fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

impl Ports {
    /// Nobody holds any; `key` is for [`DynamicPorts`].
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let dynamic = DynamicPorts::new(key);
        Self {
            holdings: HashMap::new(),
            closing: HashMap::new(),
            freed: 0,
            count: 0,
            held: HashMap::new(),
            dynamic,
        }
    }

    /// Number of reservations of `client`.
    pub(crate) fn held_by(&self, client: ClientId) -> usize {
        self.held.get(&client).copied().unwrap_or(0)
    }

    /// Number of reservations.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Reserves `sap` for `client` by itself; port 0 finds a free one.
    pub(crate) fn bind(
        &mut self,
        (client, uid): (ClientId, u32),
        transport: Transport,
        sap: Sap,
    ) -> Result<Sap, Taken> {
        let sap = self.choose((client, uid), transport, sap, None, 0, |_| true)?;
        if self.find(client, transport, sap).is_some_and(|holding| holding.bound) {
            return Err(Taken::InUse);
        }
        self.holding(client, transport, sap)?.bound = true;
        Ok(sap)
    }

    /// Reserves `sap` for a flow of `client` to `remote`; shares the client's own reservation if there is
    /// one. Port 0 finds a free one that is `usable`; that more are has happened `again` times.
    ///
    /// RFC 9293 MUST-41: succeeds or changes nothing.
    pub(crate) fn use_for_flow(
        &mut self,
        (client, uid): (ClientId, u32),
        transport: Transport,
        sap: Sap,
        remote: Option<Sap>,
        again: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Result<Sap, Taken> {
        let sap = self.choose((client, uid), transport, sap, remote, again, usable)?;
        self.holding(client, transport, sap)?.flows += 1;
        Ok(sap)
    }

    /// A flow no longer uses `sap`.
    pub(crate) fn release_from_flow(&mut self, client: ClientId, transport: Transport, sap: Sap) {
        if let Some(holding) = self.find(client, transport, sap) {
            holding.flows = holding.flows.saturating_sub(1);
        }
        self.sweep(transport, sap.port);
    }

    /// A flow of user `uid` that was closed may send from `sap` until [`Self::closed`].
    pub(crate) fn closing(&mut self, uid: u32, transport: Transport, sap: Sap) {
        self.closing.entry((transport, sap.port)).or_default().push((sap.address, uid));
    }

    /// Ends what [`Self::closing`] began.
    pub(crate) fn closed(&mut self, uid: u32, transport: Transport, sap: Sap) {
        let place = (transport, sap.port);
        let Some(closing) = self.closing.get_mut(&place) else { return };
        if let Some(at) = closing.iter().position(|known| *known == (sap.address, uid)) {
            closing.swap_remove(at);
        }
        if closing.is_empty() {
            self.closing.remove(&place);
            self.freed += 1;
        }
    }

    /// Gives a reservation back; `false` if the client has none. Flows keep the port until they
    /// are closed.
    pub(crate) fn unbind(&mut self, client: ClientId, transport: Transport, sap: Sap) -> bool {
        let found = match self.find(client, transport, sap) {
            Some(holding) if holding.bound => {
                holding.bound = false;
                true
            }
            _ => false,
        };
        self.sweep(transport, sap.port);
        found
    }

    /// Gives back all that `client` has bound; its flows are closed separately.
    pub(crate) fn forget(&mut self, client: ClientId) {
        self.holdings.retain(|_, holdings| {
            holdings.retain(|holding| holding.client != client);
            !holdings.is_empty()
        });
        self.count -= self.held.remove(&client).unwrap_or(0);
        self.freed += 1;
    }

    fn choose(
        &mut self,
        whose: (ClientId, u32),
        transport: Transport,
        sap: Sap,
        remote: Option<Sap>,
        again: u64,
        usable: impl Fn(u16) -> bool,
    ) -> Result<Sap, Taken> {
        if sap.port != 0 {
            let free = self.is_free(whose, transport, sap) && usable(sap.port);
            return if free { Ok(sap) } else { Err(Taken::InUse) };
        }
        // Nobody else's, and not this client's either.
        let (holdings, closing) = (&self.holdings, &self.closing);
        let is_held = |port| {
            let place = (transport, port);
            holdings.contains_key(&place) || closing.contains_key(&place)
        };
        let free = |port| !is_held(port) && usable(port);
        let freed = self.freed + again;
        let port = self.dynamic.find((transport, sap.address, remote), freed, free);
        port.map(|port| Sap { port, ..sap }).ok_or(Taken::NoFreePort)
    }

    /// RFC 9293 MUST-42: a client may listen at a port from which it calls.
    fn is_free(&self, (client, uid): (ClientId, u32), transport: Transport, sap: Sap) -> bool {
        let place = (transport, sap.port);
        let mut closing = self.closing.get(&place).into_iter().flatten();
        if closing.any(|&(address, whose)| whose != uid && overlap(address, sap.address)) {
            return false;
        }
        let holdings = self.holdings.get(&place);
        holdings.is_none_or(|holdings| {
            holdings
                .iter()
                .all(|holding| holding.client == client || !overlap(holding.address, sap.address))
        })
    }

    fn find(&mut self, client: ClientId, transport: Transport, sap: Sap) -> Option<&mut Holding> {
        let holdings = self.holdings.get_mut(&(transport, sap.port))?;
        holdings
            .iter_mut()
            .find(|holding| holding.client == client && holding.address == sap.address)
    }

    fn holding(
        &mut self,
        client: ClientId,
        transport: Transport,
        sap: Sap,
    ) -> Result<&mut Holding, Taken> {
        let holdings = self.holdings.entry((transport, sap.port)).or_default();
        let at = holdings
            .iter()
            .position(|holding| holding.client == client && holding.address == sap.address);
        let at = at.unwrap_or_else(|| {
            holdings.push(Holding { address: sap.address, client, flows: 0, bound: false });
            self.count += 1;
            *self.held.entry(client).or_default() += 1;
            holdings.len() - 1
        });
        holdings.get_mut(at).ok_or(Taken::InUse)
    }

    fn sweep(&mut self, transport: Transport, port: u16) {
        if let Some(holdings) = self.holdings.get_mut(&(transport, port)) {
            let (count, held) = (&mut self.count, &mut self.held);
            holdings.retain(|holding| {
                let keep = holding.bound || holding.flows > 0;
                if !keep {
                    *count -= 1;
                    if let Some(held) = held.get_mut(&holding.client) {
                        *held -= 1;
                    }
                }
                keep
            });
            if holdings.is_empty() {
                self.holdings.remove(&(transport, port));
                self.freed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamic_ports::DYNAMIC_PORTS;

    const A: (ClientId, u32) = (ClientId(1), 1);
    const B: (ClientId, u32) = (ClientId(2), 2);
    const UDP: Transport = Transport::Udp;

    fn sap(text: &str) -> Sap {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    #[test]
    fn any_address_excludes_everybody_and_a_definite_one_only_itself() {
        // RFC 9293 MUST-41.
        let mut ports = Ports::new([7; 16]);
        ports.bind(A, UDP, sap("10.0.0.1:53")).unwrap();
        assert_eq!(ports.bind(B, UDP, sap("10.0.0.1:53")), Err(Taken::InUse));
        assert_eq!(ports.bind(B, UDP, sap("0.0.0.0:53")), Err(Taken::InUse));
        ports.bind(B, UDP, sap("10.0.0.2:53")).unwrap();
        ports.bind(B, Transport::Tcp, sap("0.0.0.0:53")).unwrap();
        ports.bind(B, UDP, sap("[::]:53")).unwrap();
        assert_eq!(ports.bind(A, UDP, sap("10.0.0.1:53")), Err(Taken::InUse), "not even twice");
    }

    #[test]
    fn a_port_is_free_when_its_last_use_is_gone() {
        let mut ports = Ports::new([7; 16]);
        let at = sap("10.0.0.1:4000");
        ports.use_for_flow(A, UDP, at, None, 0, |_| true).unwrap();
        ports.use_for_flow(A, UDP, at, None, 0, |_| true).unwrap();
        ports.release_from_flow(A.0, UDP, at);
        assert_eq!(ports.use_for_flow(B, UDP, at, None, 0, |_| true), Err(Taken::InUse));
        ports.release_from_flow(A.0, UDP, at);
        assert_eq!(ports.len(), 0);
        ports.bind(B, UDP, at).unwrap();
        ports.use_for_flow(B, UDP, at, None, 0, |_| true).unwrap();
        assert!(ports.unbind(B.0, UDP, at) && !ports.unbind(B.0, UDP, at));
        assert_eq!(ports.len(), 1, "a flow keeps it");
        ports.release_from_flow(B.0, UDP, at);
        assert_eq!(ports.len(), 0);
    }

    #[test]
    fn while_a_closed_flow_still_sends_its_port_is_its_users_and_nobody_elses() {
        let mut ports = Ports::new([7; 16]);
        let (at, again) = (sap("10.0.0.1:4000"), (ClientId(3), A.1));
        ports.use_for_flow(A, UDP, at, None, 0, |_| true).unwrap();
        ports.release_from_flow(A.0, UDP, at);
        ports.closing(A.1, UDP, at);
        assert_eq!(ports.len(), 0);
        assert_eq!(ports.use_for_flow(B, UDP, at, None, 0, |_| true), Err(Taken::InUse));
        assert_eq!(ports.bind(B, UDP, sap("0.0.0.0:4000")), Err(Taken::InUse));
        ports.bind(B, UDP, sap("10.0.0.2:4000")).unwrap();
        ports.use_for_flow(again, UDP, at, None, 0, |_| true).unwrap();
        ports.release_from_flow(again.0, UDP, at);
        ports.closed(A.1, UDP, at);
        ports.use_for_flow(B, UDP, at, None, 0, |_| true).unwrap();
    }

    #[test]
    fn dynamic_ports_run_out_with_a_reason_and_come_back() {
        let mut ports = Ports::new([7; 16]);
        let any = sap("0.0.0.0:0");
        for _ in DYNAMIC_PORTS {
            ports.bind(A, UDP, any).unwrap();
        }
        assert_eq!(ports.bind(A, UDP, any), Err(Taken::NoFreePort));
        ports.forget(A.0);
        assert_eq!(ports.len(), 0);
        assert!(DYNAMIC_PORTS.contains(&ports.bind(B, UDP, any).unwrap().port));
    }
}
