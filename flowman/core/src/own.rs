//! The flow manager's own flows on a link: one for each kind of frame that nobody claims.
//!
//! Each kind has buffers, driver time, a pace and a contract of its own, so that a flood of one kind,
//! whoever causes it, costs the others nothing: a host whose closed ports are flooded still answers ARP.
//! What is heard is no more than what is answered; the driver drops the rest where it costs least.
//!
//! If the flows are lost, through a fault on either side, that is said, and they are opened again.

use base_flow::{Contract, FlowId, LinkFacts, Pace, Stray};
use base_rpc::{DomainId, ToDriver};

use crate::link::{Own, longest_frame_ns};
use crate::manager::{FlowManager, LinkId, Output};

/// An own flow, as the daemon is to open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnFlow {
    /// The frames that it takes.
    pub stray: Stray,
    /// Its name.
    pub flow: FlowId,
    /// What it may send.
    pub contract: Contract,
    /// Driver time for receiving, in nanoseconds a second.
    pub rx_cpu_ppb: u32,
    /// How many frames it takes.
    pub pace: Pace,
    /// Buffers in each direction.
    pub buffers: u32,
    /// Words in each control area.
    pub words: u32,
}

/// How much of everything a kind gets.
struct Share {
    /// A frame of the longest in so many of them, and before so many have passed.
    period_frames: u64,
    deadline_frames: u64,
    rx_cpu_ppb: u32,
    pace: Pace,
    buffers: u32,
}

/// The shares. The densities of the contracts, one by its deadline each, make a twentieth of the line:
/// the part that is kept back from promises.
fn share(stray: Stray) -> Share {
    let share = |period_frames, deadline_frames, rx_cpu_ppb, (per_s, burst), buffers| Share {
        period_frames,
        deadline_frames,
        rx_cpu_ppb,
        pace: Pace { per_s, burst },
        buffers,
    };
    match stray {
        // A network of a few hundred stations that all lost us at once.
        Stray::Neighbours => share(200, 80, 50_000_000, (5_000, 512), 64),
        Stray::Control => share(100, 40, 50_000_000, (10_000, 512), 128),
        // Every client of a busy server calls again as soon as it is done.
        Stray::Parked => share(500, 200, 100_000_000, (50_000, 2_048), 256),
        // Whoever looks for an open port is told of each that is closed.
        Stray::Segments => share(500, 200, 50_000_000, (10_000, 2_560), 256),
        // Answers to these are limited to fewer (RFC 1812 §4.3.2.8).
        Stray::Others => share(1_000, 800, 20_000_000, (2_000, 256), 64),
        // Nobody is answered; a station that has moved says so more than once, or is asked for.
        Stray::Gossip => share(1_000, 800, 10_000_000, (500, 64), 32),
    }
}

/// The contract of an own flow: prompt answers, however busy the line is.
fn contract(share: &Share, facts: &LinkFacts) -> Contract {
    let slice_ns = longest_frame_ns(facts).clamp(1, Contract::PERIOD_NS_MAX);
    let times = |frames: u64| slice_ns.saturating_mul(frames).min(Contract::PERIOD_NS_MAX);
    Contract {
        slice_ns,
        period_ns: times(share.period_frames),
        deadline_ns: times(share.deadline_frames),
        slack: true,
        weight: 1,
    }
}

/// Least time between two openings of a link's own flows.
const REOPEN_NS: u64 = 1_000_000_000;

impl FlowManager {
    /// Flows and domain of our own on a link whose driver has just joined; `None` if the table is full.
    pub(crate) fn new_own(&mut self, link: LinkId, facts: &LinkFacts) -> Option<Own> {
        let mut flows = [None; Stray::COUNT];
        for stray in Stray::ALL {
            let flow = self.flows.add(None, 0, link, contract(&share(stray), facts));
            flows[stray.index()] = flow;
        }
        if flows.contains(&None) {
            for id in flows.into_iter().flatten() {
                self.flows.remove(id);
            }
            return None;
        }
        let none = FlowId { index: u32::MAX, generation: 0 };
        let flows = flows.map(|flow| flow.unwrap_or(none));
        Some(Own { domain: self.new_domain(), flows, opened_at: 0, lost: false })
    }

    /// The driver made room for our own flows.
    pub(crate) fn open_own(&mut self, link: LinkId) {
        let Some(driver) = &self.links[usize::from(link.0)].driver else { return };
        let flows = Stray::ALL.map(|stray| {
            let share = share(stray);
            OwnFlow {
                stray,
                flow: driver.own.flows[stray.index()],
                contract: contract(&share, &driver.facts),
                rx_cpu_ppb: share.rx_cpu_ppb,
                pace: share.pace,
                buffers: share.buffers,
                // A buffer is named in two words.
                words: share.buffers * 2,
            }
        });
        let domain = driver.own.domain;
        self.outputs.push_back(Output::OpenOwn { link, domain, flows: Box::new(flows) });
        self.begin_possession(link);
    }

    /// Whether a flow is one of our own that is in use.
    pub(crate) fn is_own(&self, link: LinkId, flow: FlowId) -> bool {
        let driver = self.links.get(usize::from(link.0)).and_then(|link| link.driver.as_ref());
        driver.is_some_and(|driver| !driver.own.lost && driver.own.flows.contains(&flow))
    }

    /// Our own flows on a link do not work: what is left of them is cleared away. They are opened again
    /// when there was a pause since they last were.
    pub fn own_lost(&mut self, link: LinkId, reason: String) {
        let Some(Some(driver)) =
            self.links.get_mut(usize::from(link.0)).map(|link| link.driver.as_mut())
        else {
            return;
        };
        if std::mem::replace(&mut driver.own.lost, true) {
            return;
        }
        let Own { domain, flows, .. } = driver.own;
        self.status.last_resorts_lost += 1;
        self.interrupt_possession(link);
        for flow in flows {
            self.close(flow, None);
        }
        self.tell_driver(link, ToDriver::RemoveDomain { domain });
        self.outputs.push_back(Output::OwnLost { link, reason });
    }

    /// Opens own flows again that were lost.
    pub(crate) fn reopen_own(&mut self, now_ns: u64) {
        for index in 0..self.links.len() {
            let link = LinkId(index as u16);
            let Some(driver) = &self.links[index].driver else { continue };
            if !driver.own.lost || now_ns < driver.own.reopens_at() {
                continue;
            }
            let facts = driver.facts.clone();
            let Some(own) = self.new_own(link, &facts) else { continue };
            let Some(driver) = &mut self.links[index].driver else { continue };
            driver.own = Own { opened_at: now_ns, ..own };
            let domain = driver.own.domain;
            self.join_own(link, domain);
        }
    }

    pub(crate) fn join_own(&mut self, link: LinkId, domain: DomainId) {
        self.outputs.push_back(Output::JoinOwn { link, domain });
    }

    /// When [`Self::reopen_own`] has something to do.
    pub(crate) fn own_deadline(&self) -> Option<u64> {
        let drivers = self.links.iter().filter_map(|link| link.driver.as_ref());
        drivers.filter(|driver| driver.own.lost).map(|driver| driver.own.reopens_at()).min()
    }
}

impl Own {
    const fn reopens_at(&self) -> u64 {
        self.opened_at + REOPEN_NS
    }
}

#[cfg(test)]
mod tests {
    use base_flow::Rate;
    use base_wire::Mac;

    use super::*;

    #[test]
    fn own_contracts_make_no_more_than_what_is_kept_back_from_promises() {
        for rate in [Rate::mbit(10), Rate::mbit(100), Rate::mbit(10_000)] {
            let facts = LinkFacts {
                name: "lan".into(),
                kind: "sim".into(),
                mac: Mac([2; 6]),
                mtu: 1500,
                mtu_max: 1500,
                unit_bytes: 1500,
                vlan: None,
                rate,
                frame_cost_ns: 0,
                tardiness_ns: 1,
            };
            let own = Stray::ALL.map(|stray| contract(&share(stray), &facts).density_ppm());
            assert!(own.iter().sum::<u64>() <= 50_000 + Stray::COUNT as u64, "{own:?}");
        }
    }

    #[test]
    fn every_control_area_is_a_power_of_two_and_names_all_buffers() {
        for stray in Stray::ALL {
            assert!((share(stray).buffers * 2).is_power_of_two(), "{stray:?}");
        }
    }
}
