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
use crate::port_set::PortSet;
use crate::time_wait::TimeWaits;

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
    /// Dynamic ports that are in either, for each transport.
    taken: HashMap<Transport, PortSet>,
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
            taken: HashMap::new(),
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

    /// Reserves `sap` for `client` by itself; port 0 finds a free one, of which others do not wait if possible.
    pub(crate) fn bind(
        &mut self,
        (client, uid): (ClientId, u32),
        transport: Transport,
        sap: Sap,
        waits: &TimeWaits,
    ) -> Result<Sap, Taken> {
        let sap = self.choose((client, uid), transport, sap, None, waits)?;
        if self.find(client, transport, sap).is_some_and(|holding| holding.bound) {
            return Err(Taken::InUse);
        }
        self.holding(client, transport, sap)?.bound = true;
        Ok(sap)
    }

    /// Reserves `sap` for a flow of `client` to `remote`; shares the client's own reservation if there is
    /// one. Port 0 finds a free one. The user's last connection between the same ends must be over; that other
    /// users have connections that are not only matters as long as there are other ports to choose from.
    ///
    /// RFC 9293 MUST-41: succeeds or changes nothing.
    pub(crate) fn use_for_flow(
        &mut self,
        (client, uid): (ClientId, u32),
        transport: Transport,
        sap: Sap,
        remote: Option<Sap>,
        waits: &TimeWaits,
    ) -> Result<Sap, Taken> {
        let sap = self.choose((client, uid), transport, sap, remote, waits)?;
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
        self.mark(transport, sap.port);
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
            self.mark(transport, sap.port);
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
        let mut free = Vec::new();
        self.holdings.retain(|place, holdings| {
            holdings.retain(|holding| holding.client != client);
            if holdings.is_empty() {
                free.push(*place);
            }
            !holdings.is_empty()
        });
        for (transport, port) in free {
            self.mark(transport, port);
        }
        self.count -= self.held.remove(&client).unwrap_or(0);
    }

    /// Keeps [`Self::taken`] right for a port.
    fn mark(&mut self, transport: Transport, port: u16) {
        let place = (transport, port);
        let taken = self.holdings.contains_key(&place) || self.closing.contains_key(&place);
        self.taken.entry(transport).or_default().set(port, taken);
    }

    fn choose(
        &mut self,
        whose: (ClientId, u32),
        transport: Transport,
        sap: Sap,
        remote: Option<Sap>,
        waits: &TimeWaits,
    ) -> Result<Sap, Taken> {
        let (waiting, uid) = (transport == Transport::Tcp, whose.1);
        if sap.port != 0 {
            let waits = waiting && remote.is_some_and(|remote| waits.has_of(uid, sap, remote));
            let free = self.is_free(whose, transport, sap) && !waits;
            return if free { Ok(sap) } else { Err(Taken::InUse) };
        }
        let held = self.taken.get(&transport);
        let taken = |word| {
            // Nobody else's, and not this client's either.
            let held = held.map_or(0, |held| held.word(word));
            let own = |remote| waits.own_ports(uid, sap.address, remote, word);
            held | remote.filter(|_| waiting).map_or(0, own)
        };
        let others = |word| if waiting { waits.others_ports(uid, word) } else { 0 };
        let port = self.dynamic.find((transport, sap.address, remote), taken, others);
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
        self.mark(transport, sap.port);
        let holdings = self.holdings.get_mut(&(transport, sap.port));
        holdings.and_then(|holdings| holdings.get_mut(at)).ok_or(Taken::InUse)
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
                self.mark(transport, port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_set::DYNAMIC_PORTS;

    const A: (ClientId, u32) = (ClientId(1), 1);
    const B: (ClientId, u32) = (ClientId(2), 2);
    const UDP: Transport = Transport::Udp;

    fn nothing_waits() -> TimeWaits {
        TimeWaits::default()
    }

    fn sap(text: &str) -> Sap {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    #[test]
    fn any_address_excludes_everybody_and_a_definite_one_only_itself() {
        // RFC 9293 MUST-41.
        let mut ports = Ports::new([7; 16]);
        ports.bind(A, UDP, sap("10.0.0.1:53"), &nothing_waits()).unwrap();
        assert_eq!(ports.bind(B, UDP, sap("10.0.0.1:53"), &nothing_waits()), Err(Taken::InUse));
        assert_eq!(ports.bind(B, UDP, sap("0.0.0.0:53"), &nothing_waits()), Err(Taken::InUse));
        ports.bind(B, UDP, sap("10.0.0.2:53"), &nothing_waits()).unwrap();
        ports.bind(B, Transport::Tcp, sap("0.0.0.0:53"), &nothing_waits()).unwrap();
        ports.bind(B, UDP, sap("[::]:53"), &nothing_waits()).unwrap();
        assert_eq!(
            ports.bind(A, UDP, sap("10.0.0.1:53"), &nothing_waits()),
            Err(Taken::InUse),
            "not even twice"
        );
    }

    #[test]
    fn each_client_is_counted_what_it_holds() {
        let mut ports = Ports::new([7; 16]);
        for (client, at) in [(A, "10.0.0.1:53"), (A, "10.0.0.2:53"), (B, "10.0.0.3:53")] {
            ports.bind(client, UDP, sap(at), &nothing_waits()).unwrap();
        }
        let held = [A.0, B.0, ClientId(3)].map(|client| ports.held_by(client));
        assert_eq!((held, ports.len()), ([2, 1, 0], 3));
    }

    #[test]
    fn a_port_is_free_when_its_last_use_is_gone() {
        let mut ports = Ports::new([7; 16]);
        let at = sap("10.0.0.1:4000");
        ports.use_for_flow(A, UDP, at, None, &nothing_waits()).unwrap();
        ports.use_for_flow(A, UDP, at, None, &nothing_waits()).unwrap();
        ports.release_from_flow(A.0, UDP, at);
        assert_eq!(ports.use_for_flow(B, UDP, at, None, &nothing_waits()), Err(Taken::InUse));
        ports.release_from_flow(A.0, UDP, at);
        assert_eq!(ports.len(), 0);
        ports.bind(B, UDP, at, &nothing_waits()).unwrap();
        ports.use_for_flow(B, UDP, at, None, &nothing_waits()).unwrap();
        assert!(ports.unbind(B.0, UDP, at) && !ports.unbind(B.0, UDP, at));
        assert_eq!(ports.len(), 1, "a flow keeps it");
        ports.release_from_flow(B.0, UDP, at);
        assert_eq!(ports.len(), 0);
    }

    #[test]
    fn while_a_closed_flow_still_sends_its_port_is_its_users_and_nobody_elses() {
        let mut ports = Ports::new([7; 16]);
        let (at, again) = (sap("10.0.0.1:4000"), (ClientId(3), A.1));
        ports.use_for_flow(A, UDP, at, None, &nothing_waits()).unwrap();
        ports.release_from_flow(A.0, UDP, at);
        ports.closing(A.1, UDP, at);
        assert_eq!(ports.len(), 0);
        assert_eq!(ports.use_for_flow(B, UDP, at, None, &nothing_waits()), Err(Taken::InUse));
        assert_eq!(ports.bind(B, UDP, sap("0.0.0.0:4000"), &nothing_waits()), Err(Taken::InUse));
        ports.bind(B, UDP, sap("10.0.0.2:4000"), &nothing_waits()).unwrap();
        ports.use_for_flow(again, UDP, at, None, &nothing_waits()).unwrap();
        ports.release_from_flow(again.0, UDP, at);
        ports.closed(A.1, UDP, at);
        ports.use_for_flow(B, UDP, at, None, &nothing_waits()).unwrap();
    }

    #[test]
    fn dynamic_ports_run_out_with_a_reason_and_come_back() {
        let mut ports = Ports::new([7; 16]);
        let any = sap("0.0.0.0:0");
        for _ in DYNAMIC_PORTS {
            ports.bind(A, UDP, any, &nothing_waits()).unwrap();
        }
        assert_eq!(ports.bind(A, UDP, any, &nothing_waits()), Err(Taken::NoFreePort));
        ports.forget(A.0);
        assert_eq!(ports.len(), 0);
        assert!(DYNAMIC_PORTS.contains(&ports.bind(B, UDP, any, &nothing_waits()).unwrap().port));
    }
}
