//! What becomes of a frame that no flow claimed: whom it tells something, and who answers it.

use std::net::IpAddr;

use base_flow::{Endpoints, Sap, Transport};
use base_rpc::ToDriver;
use base_wire::{Arp, ArpOperation, Header, Protocol, Tcp, Udp};

use crate::last_resort::{Packet, Reply as Back, Stray, announcement, answer, read};
use crate::manager::{FlowManager, LinkId, Output};
use crate::time_wait::Verdict;

/// Least time between two defences of an address (RFC 5227 §2.4).
const DEFENCE_NS: u64 = 10_000_000_000;

impl FlowManager {
    /// A frame came that no flow claimed.
    pub fn frame(&mut self, now_ns: u64, link: LinkId, frame: &[u8]) {
        match read(frame) {
            Stray::Arp(arp) => self.arp(now_ns, link, arp),
            Stray::Packet(packet) => self.stray(now_ns, link, &packet, frame),
            Stray::Nothing => {}
        }
    }

    fn arp(&mut self, now_ns: u64, link: LinkId, arp: &Arp) {
        let (Some(operation), Some(station)) = (arp.operation(), self.station(link)) else {
            return;
        };
        let (sender, target) = (IpAddr::V4(arp.sender()), IpAddr::V4(arp.target()));
        if arp.sender_mac.is_group() || arp.sender_mac == station.mac {
            return;
        }
        let ours = &self.links[usize::from(link.0)];
        if ours.owns(sender) {
            return self.conflict(now_ns, link, arp);
        }
        let to_us = ours.owns(target);
        // A probe (RFC 5227) has no sender address yet.
        if !arp.sender().is_unspecified()
            && self.routes.find(sender).is_some_and(|(on, hop)| on == link && hop == sender)
        {
            let event = self.neighbours.heard((link, sender), arp.sender_mac, to_us, now_ns);
            self.neighbour_events(event.into_iter().collect());
        }
        if operation == ArpOperation::Request && to_us {
            self.status.arp_answered += 1;
            let reply = Arp::reply(station.mac, arp.target(), arp.sender_mac, arp.sender());
            let frame = station.arp(arp.sender_mac, &reply);
            self.outputs.push_back(Output::Frame { link, frame });
        }
    }

    /// Somebody else says that he has one of our addresses: say otherwise, but not for ever.
    fn conflict(&mut self, now_ns: u64, link: LinkId, arp: &Arp) {
        self.status.conflicts += 1;
        let Some(station) = self.station(link) else { return };
        let Some(driver) = &mut self.links[usize::from(link.0)].driver else { return };
        if driver.defended_at.is_none_or(|at| now_ns.saturating_sub(at) >= DEFENCE_NS) {
            driver.defended_at = Some(now_ns);
            self.outputs
                .push_back(Output::Frame { link, frame: announcement(station, arp.sender()) });
        }
    }

    /// A packet for a port nobody owns, or for a flow that the driver is about to hear of.
    fn stray(&mut self, now_ns: u64, link: LinkId, packet: &Packet<'_>, frame: &[u8]) {
        let Some(station) = self.station(link) else { return };
        let destination = IpAddr::V4(packet.ip.destination());
        if !self.links[usize::from(link.0)].owns(destination) {
            return;
        }
        match self.time_waits.on_packet(now_ns, packet, station) {
            Verdict::Silence => return,
            Verdict::Acknowledge(frame) => {
                if self.replies.take(now_ns) {
                    self.outputs.push_back(Output::Frame { link, frame });
                } else {
                    self.status.replies_suppressed += 1;
                }
                return;
            }
            Verdict::Reopens(endpoints) => {
                self.tell_driver(link, ToDriver::Unpark { endpoints });
            }
            Verdict::NotHere => {}
        }
        let parked = ends_of(packet).is_some_and(|(here, there)| self.time_waits.has(here, there));
        if !parked && self.has_flow_for(link, packet) {
            return self.tell_driver(link, ToDriver::Inject { frame: frame.to_vec() });
        }
        let Some(back) = answer(packet, station) else { return };
        // Echo has its own measure, the contract of this flow; the others are limited.
        if !matches!(back, Back::Echo(_)) && !self.replies.take(now_ns) {
            self.status.replies_suppressed += 1;
            return;
        }
        if matches!(back, Back::Reset(_))
            && let Some((local, remote)) = ends_of(packet)
        {
            self.departed.heard(local, remote);
        }
        let (count, frame) = match back {
            Back::Echo(frame) => (&mut self.status.echo_answered, frame),
            Back::Unreachable(frame) => (&mut self.status.unreachable_sent, frame),
            Back::Reset(frame) => (&mut self.status.resets_sent, frame),
        };
        *count += 1;
        self.outputs.push_back(Output::Frame { link, frame });
    }

    /// Whether a flow of the link exists that the packet belongs to: it was opened while the packet was on
    /// its way here.
    fn has_flow_for(&self, link: LinkId, packet: &Packet<'_>) -> bool {
        let transport = match packet.ip.protocol {
            Protocol::UDP => Transport::Udp,
            Protocol::TCP => Transport::Tcp,
            _ => return false,
        };
        let Some((local, remote)) = ends_of(packet) else { return false };
        let ends = |local, remote| Endpoints { transport, local, remote };
        [ends(local, Some(remote)), ends(local, None), ends(Sap::any_v4(local.port), None)]
            .iter()
            .filter_map(|ends| self.flows.with(ends))
            .any(|flow| flow.link == link)
    }
}

/// Our end and the other of a UDP or TCP packet to us.
pub(crate) fn ends_of(packet: &Packet<'_>) -> Option<(Sap, Sap)> {
    let (here, there) = match packet.ip.protocol {
        Protocol::UDP => {
            Udp::split(packet.payload()).map(|(udp, _)| (udp.destination, udp.source))?
        }
        Protocol::TCP => {
            Tcp::split(packet.payload()).map(|(tcp, _)| (tcp.destination, tcp.source))?
        }
        _ => return None,
    };
    let local = Sap::new(packet.ip.destination().into(), here.get());
    Some((local, Sap::new(packet.ip.source().into(), there.get())))
}
