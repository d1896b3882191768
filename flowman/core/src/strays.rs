//! What becomes of a frame that no flow claimed: whom it tells something, and who answers it.

use std::net::IpAddr;

use base_flow::{Endpoints, Sap, Stray, Transport};
use base_rpc::{Reply, ToDriver};
use base_wire::{Arp, ArpOperation, Header, Protocol, Tcp, Udp, tcp_flag};

use crate::flows::Flow;
use crate::last_resort::{Answer, Content, Packet, answer, read};
use crate::manager::{FlowManager, LinkId};
use crate::segment::{Ends, Segment};
use crate::time_wait::{Verdict, endpoints};

impl FlowManager {
    /// A frame came that no flow claimed.
    pub fn frame(&mut self, now_ns: u64, link: LinkId, frame: &[u8]) {
        match read(frame) {
            Content::Arp(arp) => self.arp(now_ns, link, arp),
            // Nobody speaks for an address that may be another's.
            Content::Packet(packet) if self.is_open(link) => {
                self.stray(now_ns, link, &packet, frame);
            }
            Content::Packet(_) | Content::Nothing => {}
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
        if self.is_about_possession(now_ns, link, arp) {
            return;
        }
        let to_us = self.links[usize::from(link.0)].owns(target);
        // A probe (RFC 5227) has no sender address yet.
        if !arp.sender().is_unspecified()
            && self.routes.find(sender).is_some_and(|(on, hop)| on == link && hop == sender)
        {
            let mut events = Vec::new();
            let place = (link, sender);
            self.neighbours.heard(place, arp.sender_mac, to_us, now_ns, &mut events);
            self.neighbour_events(events);
        }
        if operation == ArpOperation::Request && to_us {
            self.status.arp_answered += 1;
            let reply = Arp::reply(station.mac, arp.target(), arp.sender_mac, arp.sender());
            let frame = station.arp(arp.sender_mac, &reply);
            self.send(link, Stray::Neighbours, frame);
        }
    }

    /// A packet for a port nobody owns, or for a flow that the driver is about to hear of.
    fn stray(&mut self, now_ns: u64, link: LinkId, packet: &Packet<'_>, frame: &[u8]) {
        let Some(station) = self.station(link) else { return };
        let destination = IpAddr::V4(packet.ip.destination());
        if !self.links[usize::from(link.0)].owns(destination) {
            return;
        }
        let connection = ends_of(packet).filter(|_| packet.ip.protocol == Protocol::TCP);
        if let Some(ends) = connection
            && !self.is_news(now_ns, link, ends, packet)
        {
            return;
        }
        let parked = connection.is_some_and(|(here, there)| self.time_waits.has(here, there));
        if !parked && let Some(flow) = self.flow_for(link, packet) {
            // The driver knows the flow, or is told before it hears this. As long as a neighbour is being
            // asked for it does not: nobody can be answered then, and who sent this will send it again.
            if flow.attachment.fib().is_some() {
                self.tell_driver(link, ToDriver::Inject { frame: frame.to_vec() });
            }
            return;
        }
        let Some(back) = answer(packet, station) else {
            if let (Some(ends), Some(segment)) = (connection, Segment::read(packet))
                && segment.has(tcp_flag::RST)
            {
                // The peer has nothing left that it need hear of.
                self.departed.forget(ends);
            }
            return;
        };
        // Each kind has its own measure: how many the driver lets through, and the contract of the flow by
        // which it is answered. ICMP's errors have a limit besides. Who was connected to an application that
        // died is no stranger.
        let (count, stray, frame) = match back {
            Answer::Echo(frame) => (&mut self.status.echo_answered, Stray::Control, frame),
            Answer::Unreachable(frame) => {
                if !self.replies.take(now_ns, packet.ip.source()) {
                    self.status.replies_suppressed += 1;
                    return;
                }
                (&mut self.status.unreachable_sent, Stray::Others, frame)
            }
            Answer::Reset(frame) => {
                let known = connection.is_some_and(|ends| self.departed.answers(ends));
                let stray = if known { Stray::Parked } else { Stray::Segments };
                (&mut self.status.resets_sent, stray, frame)
            }
        };
        *count += 1;
        self.send(link, stray, frame);
    }

    /// Asks those connections that are over but not forgotten; `false` if one of them had something to do
    /// with the segment, and nobody else has.
    fn is_news(&mut self, now_ns: u64, link: LinkId, ends: Ends, packet: &Packet<'_>) -> bool {
        if !self.time_waits.has(ends.0, ends.1) {
            return true;
        }
        let segment = Segment::read(packet);
        match self.time_waits.on_segment(now_ns, ends, segment.as_ref()) {
            Verdict::NotHere => true,
            Verdict::Silence => false,
            Verdict::Acknowledge(words) => {
                let frame = self.station(link).and_then(|us| words.frame(us, packet.from, ends));
                if let Some(frame) = frame {
                    self.send(link, Stray::Parked, frame);
                }
                false
            }
            Verdict::Reopens(above) => {
                let settled = |flow: &&Flow| flow.attachment.fib().is_some();
                let listener = self.flow_for(link, packet).filter(settled);
                let listener = listener.and_then(|flow| Some((flow.id, flow.client?)));
                let (Some((flow, client)), Some(syn)) = (listener, segment) else {
                    self.time_waits.remove(ends);
                    self.let_go(link, ends);
                    return true;
                };
                let header = syn.header.to_vec();
                let (remote, station) = (ends.1, packet.from);
                self.tell(client, 0, Reply::Reopened { flow, remote, station, header, above });
                false
            }
            Verdict::Free => {
                self.let_go(link, ends);
                true
            }
        }
    }

    /// A connection that was over is forgotten: what comes now is others' business.
    pub(crate) fn let_go(&mut self, link: LinkId, ends: Ends) {
        self.departed.forget(ends);
        self.tell_driver(link, ToDriver::Unpark { endpoints: endpoints(ends) });
    }

    /// The flow of the link that a packet belongs to: it was opened while the packet was on its way here.
    fn flow_for(&self, link: LinkId, packet: &Packet<'_>) -> Option<&Flow> {
        let transport = match packet.ip.protocol {
            Protocol::UDP => Transport::Udp,
            Protocol::TCP => Transport::Tcp,
            _ => return None,
        };
        let (local, remote) = ends_of(packet)?;
        let ends = |local, remote| Endpoints { transport, local, remote };
        [ends(local, Some(remote)), ends(local, None), ends(Sap::any_v4(local.port), None)]
            .iter()
            .find_map(|ends| self.flows.with(link, ends))
    }
}

/// Our end and the other of a UDP or TCP packet to us.
pub(crate) fn ends_of(packet: &Packet<'_>) -> Option<Ends> {
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
