//! Address conflict detection (RFC 5227): an address is not used before it was asked for and nobody had it, and
//! whoever claims it later is told otherwise, but not for ever.
//!
//! The addresses of a link are probed for when its driver has joined. Until that is over, all that leaves is
//! probes: nothing is answered, no neighbour is asked for, and no application has a flow there
//! ([`Link::is_open`](crate::link::Link)). If one is in use, the driver is refused, with the name of who uses it.
//!
//! An interface that comes up again, or gets its carrier back, may be in another network, or somebody may have taken
//! an address meanwhile: it is probed for again. But the link stays open, for the flows there are no less ours than
//! before. Whoever says then that he has the address is told otherwise, as at any other time.
//!
//! The kernel of this host is a second host at our own station: nobody can tell its frames from ours, so ARP does
//! not show it. The driver hears which addresses the kernel has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use base_flow::{Prefix, Stray};
use base_rpc::Reply;
use base_wire::{Arp, ArpOperation, Mac};

use crate::last_resort::announcement;
use crate::link::Link;
use crate::manager::{ClientId, FlowManager, LinkId, NoCounters, Output};

/// How often an address is probed for, and announced (RFC 5227 §1.1).
const PROBE_NUM: u32 = 3;
const ANNOUNCE_NUM: u32 = 2;
/// Least time between two defences of an address (RFC 5227 §1.1, §2.4).
const DEFEND_INTERVAL_NS: u64 = 10_000_000_000;

/// How long who says hello waits for all links, if there is one: applications wait for ten seconds. One step of
/// probing may pass before it is noticed.
pub(crate) const HELLO_NS: u64 = 7_000_000_000;

/// How far the addresses of a link are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Possession {
    /// Our own flows are not there: nobody can be asked.
    Unasked,
    /// So many probes were sent; something is due: the first, when the clock is read next, is to wait. `again` if the
    /// addresses were ours before and are used meanwhile.
    Probing { step: u32, due: u64, again: bool },
    /// They are ours, and were announced so often.
    Ours { announced: u32, due: Option<u64> },
}

impl Possession {
    /// Probing from the start.
    const fn probing(again: bool) -> Self {
        Self::Probing { step: 0, due: 0, again }
    }

    /// Whether the addresses can be used.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Ours { .. } | Self::Probing { again: true, .. })
    }

    const fn due(self) -> Option<u64> {
        match self {
            Self::Unasked => None,
            Self::Probing { due, .. } => Some(due),
            Self::Ours { due, .. } => due,
        }
    }
}

/// What was done about the latest conflict over an address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defence {
    at: u64,
    /// Whether it was of no use.
    in_vain: bool,
}

impl FlowManager {
    /// Our own flows on a link can be used.
    pub(crate) fn begin_possession(&mut self, link: LinkId) {
        let probes = self.probe_wait_ns(link) > 0;
        let Some(driver) = &mut self.links[usize::from(link.0)].driver else { return };
        match driver.possession {
            // They were lost, and are back: the addresses were ours all the time.
            Possession::Ours { .. } => self.announce(link),
            possession if probes => {
                driver.possession = Possession::probing(possession.is_ours());
            }
            _ => {
                driver.possession = Possession::Ours { announced: 1, due: None };
                self.possess(link);
            }
        }
    }

    /// Our own flows on a link are lost: whoever was being asked did not hear all of it.
    pub(crate) fn interrupt_possession(&mut self, link: LinkId) {
        if let Some(driver) = &mut self.links[usize::from(link.0)].driver
            && matches!(driver.possession, Possession::Probing { again: false, .. })
        {
            driver.possession = Possession::Unasked;
            self.welcome_waiting();
        }
    }

    /// The interface has come up again: whoever was asked before did not hear it, or somebody else is there now.
    pub(crate) fn came_up(&mut self, link: LinkId) {
        let probes = self.probe_wait_ns(link) > 0;
        let Some(driver) = &mut self.links[usize::from(link.0)].driver else { return };
        match driver.possession {
            Possession::Unasked => {}
            possession if probes => {
                driver.possession = Possession::probing(possession.is_ours());
            }
            _ => self.announce(link),
        }
    }

    /// Sends probes and announcements whose time has come.
    pub(crate) fn tick_possession(&mut self, now_ns: u64) {
        self.welcome_late(now_ns);
        for index in 0..self.links.len() {
            let link = LinkId(index as u16);
            // RFC 5227 §1.1: PROBE_WAIT and PROBE_MIN are this, PROBE_MAX, ANNOUNCE_WAIT and ANNOUNCE_INTERVAL twice
            // that.
            let wait_ns = self.probe_wait_ns(link);
            let Some(driver) = &self.links[index].driver else { continue };
            let possession = driver.possession;
            if possession.due().is_none_or(|due| due > now_ns) {
                continue;
            }
            let chance_ns = self.replies.lot(&(link.0, now_ns)) % wait_ns.max(1);
            let next = match possession {
                Possession::Unasked => continue,
                // Hosts that were switched on together do not probe together.
                Possession::Probing { step: 0, again, .. } => {
                    Possession::Probing { step: 1, due: now_ns + chance_ns, again }
                }
                Possession::Probing { step, again, .. } if step <= PROBE_NUM => {
                    self.probe(link);
                    let pause_ns = if step < PROBE_NUM { wait_ns + chance_ns } else { 2 * wait_ns };
                    Possession::Probing { step: step + 1, due: now_ns + pause_ns, again }
                }
                Possession::Probing { .. } => {
                    Possession::Ours { announced: 1, due: Some(now_ns + 2 * wait_ns) }
                }
                Possession::Ours { announced, .. } => {
                    let announced = announced + 1;
                    let due = (announced < ANNOUNCE_NUM).then_some(now_ns + 2 * wait_ns);
                    Possession::Ours { announced, due }
                }
            };
            if let Some(driver) = &mut self.links[index].driver {
                driver.possession = next;
            }
            match (possession, next) {
                (Possession::Probing { .. }, Possession::Ours { .. }) => self.possess(link),
                (_, Possession::Ours { .. }) => self.announce(link),
                _ => {}
            }
        }
    }

    /// When [`Self::tick_possession`] has something to do.
    pub(crate) fn possession_deadline(&self) -> Option<u64> {
        let drivers = self.links.iter().filter_map(|link| link.driver.as_ref());
        drivers.filter_map(|driver| driver.possession.due()).min()
    }

    fn probe_wait_ns(&self, link: LinkId) -> u64 {
        u64::from(self.links[usize::from(link.0)].config.probe_wait_ms) * 1_000_000
    }

    /// The addresses of a link are ours from now on.
    fn possess(&mut self, link: LinkId) {
        self.links[usize::from(link.0)].was_open = true;
        self.announce(link);
        self.welcome_waiting();
    }

    /// Asks who has our addresses, as somebody who has none: so no neighbour learns anything (RFC 5227 §2.1.1).
    fn probe(&mut self, link: LinkId) {
        let Some(station) = self.station(link) else { return };
        for address in self.addresses(link) {
            let probe = Arp::request(station.mac, Ipv4Addr::UNSPECIFIED, address);
            let frame = station.arp(Mac::BROADCAST, &probe);
            self.outputs.push_back(Output::Frame { link, stray: Stray::Neighbours, frame });
        }
    }

    /// Says on the link that our addresses are at our station (RFC 5227 §2.3).
    fn announce(&mut self, link: LinkId) {
        let Some(station) = self.station(link) else { return };
        for address in self.addresses(link) {
            self.send(link, Stray::Neighbours, announcement(station, address));
        }
    }

    fn addresses(&self, link: LinkId) -> Vec<Ipv4Addr> {
        let all = self.links[usize::from(link.0)].config.addresses.iter();
        let v4 = all.filter_map(|prefix| match prefix.address() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        v4.collect()
    }

    /// Whether an ARP packet from another station is about one of our addresses in a way that concerns us only;
    /// what follows is done.
    pub(crate) fn is_about_possession(&mut self, now_ns: u64, link: LinkId, arp: &Arp) -> bool {
        let known = &self.links[usize::from(link.0)];
        let (sender, target) = (IpAddr::V4(arp.sender()), IpAddr::V4(arp.target()));
        if known.is_open() {
            let claimed = known.owns(sender);
            if claimed {
                self.conflict(now_ns, link, arp.sender(), arp.sender_mac);
            }
            return claimed;
        }
        // Until then nobody hears of us, and nothing is learned. Whoever probes for the same address at the same
        // time is as good as somebody who has it (RFC 5227 §2.1.1).
        let probed = arp.sender().is_unspecified()
            && arp.operation() == Some(ArpOperation::Request)
            && known.owns(target);
        if known.owns(sender) || probed {
            let address = if probed { target } else { sender };
            let (dev, mac) = (&known.config.dev, arp.sender_mac);
            let does = if probed { "asks for it too" } else { "has it" };
            let reason = format!(
                "address {address} is in use on {dev}: station {mac} {does}; choose another one, or take it from that host"
            );
            self.refuse_driver(link, reason);
        }
        true
    }

    /// Our addresses on a link cannot be used: so the link cannot.
    fn refuse_driver(&mut self, link: LinkId, reason: String) {
        self.status.conflicts += 1;
        self.outputs.push_back(Output::RefuseDriver { link, reason });
        self.driver_left(link);
    }

    /// Somebody else says that he has one of our addresses: say otherwise, but not for ever, for two who never
    /// give in would fill the network (RFC 5227 §2.4, where this is c: flows and their peers depend on the
    /// address).
    fn conflict(&mut self, now_ns: u64, link: LinkId, address: Ipv4Addr, mac: Mac) {
        self.status.conflicts += 1;
        let number = self.status.conflicts;
        let Some(station) = self.station(link) else { return };
        let known = &mut self.links[usize::from(link.0)];
        let dev = known.config.dev.clone();
        let Some(driver) = &mut known.driver else { return };
        let recent = driver
            .defences
            .get_mut(&address)
            .filter(|defence| now_ns.saturating_sub(defence.at) < DEFEND_INTERVAL_NS);
        match recent {
            None => {
                driver.defences.insert(address, Defence { at: now_ns, in_vain: false });
                self.send(link, Stray::Neighbours, announcement(station, address));
                self.say(format!(
                    "station {mac} claims our address {address} on {dev} (conflict {number}): it was told whose it is"
                ));
            }
            Some(defence) => {
                if !std::mem::replace(&mut defence.in_vain, true) {
                    self.say(format!(
                        "station {mac} goes on claiming our address {address} on {dev}: it is kept, and defended once in 10 s; both lose packets until one of them has another address"
                    ));
                }
            }
        }
    }

    /// The kernel of this host has got an address, on interface `dev`, or given it back. If it is ours on the
    /// link, both answer at the same station.
    pub(crate) fn kernel_address(&mut self, link: LinkId, kernels: Prefix, dev: &str, taken: bool) {
        let address = kernels.address();
        let known = &mut self.links[usize::from(link.0)];
        let is_ours = known.owns(address);
        let Some(driver) = known.driver.as_mut().filter(|_| is_ours) else { return };
        if !taken {
            if driver.kernels.remove(&address) {
                self.say(format!("the kernel has given our address {address} back"));
            }
            return;
        }
        let is_open = driver.possession.is_ours();
        let (owns, remedy) = (
            format!("the kernel owns {address} on {dev}, and both would answer"),
            format!("take it from the kernel with `ip address del {kernels} dev {dev}`"),
        );
        if !is_open {
            return self
                .refuse_driver(link, format!("{owns}: choose another address, or {remedy}"));
        }
        if driver.kernels.insert(address) {
            self.status.conflicts += 1;
            let number = self.status.conflicts;
            self.say(format!(
                "the kernel has taken our address {address} on {dev} (conflict {number}), and answers for it too: connections break; {remedy}"
            ));
        }
    }

    fn say(&mut self, words: String) {
        self.outputs.push_back(Output::Say { words });
    }

    /// Whether applications would not find all links now that they find when probing is over: a socket for any
    /// address has the links that there were. A link that comes again holds up nobody, unless there is no other.
    pub(crate) fn is_about_to_open(&self) -> bool {
        let is_any_open = self.links.iter().any(Link::is_open);
        self.links.iter().any(|link| link.is_probing() && !(link.was_open && is_any_open))
    }

    /// Welcomes those who said hello while the first addresses were probed for.
    pub(crate) fn welcome_waiting(&mut self) {
        if self.is_about_to_open() {
            return;
        }
        for (client, (tag, _)) in std::mem::take(&mut self.waiting_hellos) {
            self.welcome(client, tag);
        }
    }

    /// Welcomes those who have waited so long that they would give up, if there is a link.
    fn welcome_late(&mut self, now_ns: u64) {
        if !self.links.iter().any(Link::is_open) {
            return;
        }
        for (client, (tag, until)) in self.waiting_hellos.clone() {
            if until <= now_ns {
                self.waiting_hellos.remove(&client);
                self.welcome(client, tag);
            }
        }
    }

    fn welcome(&mut self, client: ClientId, tag: u32) {
        let flows_max = self.rights(client).flows_max;
        // Links that have just opened have no bills worth reading.
        let links = self.link_infos(&NoCounters);
        self.tell(client, tag, Reply::Welcome { links, flows_max });
    }
}

/// Those who wait for a welcome: the request, and until when it waits for links that come later than others.
pub(crate) type Hellos = std::collections::BTreeMap<ClientId, (u32, u64)>;

/// Our addresses that the kernel has too.
pub(crate) type Kernels = BTreeSet<IpAddr>;
