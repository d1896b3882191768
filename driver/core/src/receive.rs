//! Receive: to whom a frame goes, and whether he has room (paper §3.1.1, §3.4).
//!
//! Before any copy the driver asks whether the flow has budget and a free buffer. If not, the frame
//! is dropped and counted, and nobody else notices: back-pressure is the flow's own.
//!
//! A frame that the kernel has merged is cut here into the frames that a wire would have carried, on their way
//! into the flow's buffers; each of them is asked for, counted and billed as a frame.

use base_flow::{DropReason, bill_word};
use base_wire::EtherType;
use driver_atropos::Scheduler;
use driver_filter::{Origin, Pieces, Sums, Verdict, is_transport_checksum};
use driver_link::{Arrival, Checksum, Link};
use rbuf_channel::{Data, Fault, Words, flag};

use crate::account::Accounts;
use crate::arenas::Arenas;
use crate::bills::{Bills, NO_DOMAIN, Side};
use crate::domain::Domain;
use crate::driver::{Driver, charge};
use crate::flow::{Flow, touched};
use crate::last_resort::{LastResort, Pass};

/// Words of a packet in one piece, as applications offer buffers.
const PACKET_WORDS: u64 = 2;

/// A frame as a flow gets it: its headers, if they are not the link's own, what follows them, and what is said of
/// its checksum.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    head: &'a [u8],
    rest: &'a [u8],
    flags: u8,
}

impl Piece<'_> {
    const fn bytes(&self) -> usize {
        self.head.len() + self.rest.len()
    }
}

/// What became of a frame offered to a flow.
enum Delivery {
    Delivered,
    Dropped(DropReason),
    Fault(Fault),
}

impl<L: Link, A: Arenas, W: Words, S: Scheduler> Driver<L, A, W, S> {
    /// Delivers up to a burst of arrived frames; returns how many there were.
    ///
    /// `clock` tells the processor time that the loop's thread has used. It is asked whenever frames of
    /// another domain follow, so that each pays for its own.
    pub fn receive(&mut self, now_ns: u64, clock: &mut impl FnMut() -> u64) -> usize {
        self.accounts.at(now_ns);
        self.bills.loosen(clock());
        let mtu = self.facts.mtu;
        let Self { link, demux, limits, .. } = self;
        let mut table = Table {
            flows: &mut self.flows,
            domains: &mut self.domains,
            accounts: &mut self.accounts,
            bills: &mut self.bills,
            touched: &mut self.touched,
            faults: &mut self.faults,
            last_resort: &mut self.last_resort,
            mtu,
        };
        let mut payer = None;
        let count = link.poll_rx(limits.burst, &mut |arrival| {
            let verdict = match arrival.missing {
                0 => demux.classify(arrival.frame, arrival.vlan, Origin::Wire),
                _ => Verdict::Drop(DropReason::Merged),
            };
            let whose = table.payer(verdict);
            if payer.replace(whose).is_some_and(|before| before != whose) {
                table.settle(clock());
            }
            table.deliver(&arrival, verdict, now_ns);
        });
        if payer.is_some() {
            table.settle(clock());
        }
        let lost = link.take_overflow();
        if lost > 0 {
            self.bills.count_drop(self.bills.link(), DropReason::RingOverflow, lost);
        }
        self.expel(0);
        self.announce(clock);
        count
    }

    /// Treats `frame` as if it had just arrived on the link.
    pub(crate) fn inject(&mut self, frame: &[u8], now_ns: u64) {
        let verdict = self.demux.classify(frame, None, Origin::Inside);
        self.deliver(frame, Checksum::Unverified, verdict, now_ns);
    }

    /// Treats a frame that the last resort hands back as if it had just arrived for the flow that claims
    /// it. If none does by now it is dropped: the last resort has seen it.
    pub(crate) fn inject_again(&mut self, frame: &[u8], now_ns: u64) {
        let verdict = match self.classify_again(frame) {
            Verdict::LastResort(_) => Verdict::Drop(DropReason::Unclaimed),
            verdict => verdict,
        };
        self.deliver(frame, Checksum::Unverified, verdict, now_ns);
    }

    /// Whose a frame is now that was received before, as its owner got it: the link may have taken its tag out.
    pub(crate) fn classify_again(&self, frame: &[u8]) -> Verdict {
        let is_tagged = frame.get(12..14) == Some(&EtherType::VLAN.0.to_bytes()[..]);
        // Where it came from was judged when it was first seen.
        self.demux.classify(frame, self.facts.vlan.filter(|_| !is_tagged), Origin::Inside)
    }

    pub(crate) fn deliver(
        &mut self,
        frame: &[u8],
        checksum: Checksum,
        verdict: Verdict,
        now_ns: u64,
    ) {
        let arrival = Arrival { frame, vlan: None, checksum, merged: None, missing: 0 };
        let mtu = self.facts.mtu;
        let mut table = Table {
            flows: &mut self.flows,
            domains: &mut self.domains,
            accounts: &mut self.accounts,
            bills: &mut self.bills,
            touched: &mut self.touched,
            faults: &mut self.faults,
            last_resort: &mut self.last_resort,
            mtu,
        };
        table.deliver(&arrival, verdict, now_ns);
        self.expel(0);
    }

    /// Takes flows that were found lying, from the `first` such report on, out of filter and
    /// scheduler; not those that have their places by now.
    pub(crate) fn expel(&mut self, first: usize) {
        for at in first..self.faults.len() {
            if let Some(index) = self.find(self.faults[at].0) {
                self.silence(index);
            }
        }
    }
}

/// The parts of the driver that a delivery touches.
struct Table<'a, A: Arenas, W> {
    flows: &'a mut [Option<Box<Flow<A>>>],
    domains: &'a mut [Option<Domain<A>>],
    accounts: &'a mut Accounts,
    bills: &'a mut Bills<W>,
    touched: &'a mut Vec<u32>,
    faults: &'a mut Vec<(base_flow::FlowId, Fault)>,
    last_resort: &'a mut LastResort,
    mtu: u16,
}

impl<A: Arenas, W: Words> Table<'_, A, W> {
    /// The domain that pays for what becomes of such a frame.
    fn payer(&self, verdict: Verdict) -> u32 {
        let index = match verdict {
            Verdict::Flow { flow, .. } => flow,
            Verdict::LastResort(stray) => self.last_resort.of(stray),
            Verdict::Drop(_) => return NO_DOMAIN,
        };
        let flow = self.flows.get(index as usize).and_then(Option::as_ref);
        flow.map_or(NO_DOMAIN, |flow| flow.domain)
    }

    /// A stretch of frames for one domain ends.
    fn settle(&mut self, used_ns: u64) {
        let Self { bills, flows, domains, accounts, .. } = self;
        bills.settle(used_ns, |work, ns| charge(flows, domains, accounts, work, ns));
    }

    fn deliver(&mut self, arrival: &Arrival<'_>, verdict: Verdict, now_ns: u64) {
        let (index, header_bytes) = match verdict {
            Verdict::Flow { flow, header_bytes } => (flow, usize::from(header_bytes)),
            Verdict::LastResort(stray) => match self.last_resort.pass(stray, now_ns) {
                Pass::To(flow) => (flow, 0),
                // Cut here, where it costs least, and not asked whether there is a buffer.
                Pass::TooMany(flow) => return self.too_many(flow),
                Pass::Nowhere => return self.nobodys(DropReason::Unclaimed),
            },
            Verdict::Drop(reason) => return self.nobodys(reason),
        };
        let strays = matches!(verdict, Verdict::LastResort(_));
        let frame = arrival.frame;
        // Who answers strangers sees what a wire would have carried.
        let sums = if strays { Sums::Whole } else { Sums::Open };
        let pieces = match (arrival.merged, arrival.checksum) {
            // What nobody vouches for gets no new checksums.
            (Some(_), Checksum::Unverified) => None,
            (Some(merged), _) => {
                let merged = (merged.protocol, merged.piece_bytes);
                Pieces::merged(frame, merged, self.mtu, sums)
            }
            (None, Checksum::Partial { start, field })
                if strays && is_transport_checksum(frame, start, field) =>
            {
                Pieces::whole(frame, sums)
            }
            (None, checksum) => {
                let flags = match checksum {
                    Checksum::Verified => 0,
                    Checksum::Partial { start, field }
                        if is_transport_checksum(frame, start, field) =>
                    {
                        flag::CHECKSUM_PARTIAL
                    }
                    Checksum::Partial { .. } | Checksum::Unverified => flag::CHECKSUM_UNVERIFIED,
                };
                return self.offer(
                    index,
                    &Piece { head: &[], rest: frame, flags },
                    header_bytes,
                    now_ns,
                );
            }
        };
        let Some(mut pieces) = pieces else { return self.nobodys(DropReason::Merged) };
        let flags = if strays { flag::CHECKSUM_UNVERIFIED } else { flag::CHECKSUM_PARTIAL };
        while let Some((head, rest)) = pieces.next_frame() {
            self.offer(index, &Piece { head, rest, flags }, header_bytes, now_ns);
            if strays {
                // One answer will do.
                let left = pieces.left() as u64;
                self.bills.count_drop(self.bills.link(), DropReason::Unclaimed, left);
                break;
            }
        }
    }

    fn offer(&mut self, index: u32, piece: &Piece<'_>, header_bytes: usize, now_ns: u64) {
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else {
            return self.nobodys(DropReason::Unclaimed);
        };
        self.bills.add(index, bill_word::RX_OFFERED, 1);
        let bytes = piece.bytes();
        let open = flow.faulted || self.accounts.receives(&mut flow.receiver, now_ns);
        let delivery = if open {
            flow.accept(piece, header_bytes)
        } else {
            Delivery::Dropped(DropReason::RxBudget)
        };
        match delivery {
            Delivery::Delivered => {
                self.bills.add(index, bill_word::RX_FRAMES, 1);
                self.bills.add(index, bill_word::RX_BYTES, bytes as u64);
                self.bills.set(
                    index,
                    bill_word::RX_BACKLOG,
                    flow.rx.untaken_words() / PACKET_WORDS,
                );
                self.bills.note(index, flow.domain, Side::Rx, bytes);
                if flow.touched == 0 {
                    self.touched.push(index);
                }
                flow.touched |= touched::RX;
            }
            Delivery::Dropped(reason) => {
                self.bills.count_drop(index, reason, 1);
                self.bills.note(index, flow.domain, Side::Rx, 0);
            }
            Delivery::Fault(fault) => {
                self.bills.count_drop(index, DropReason::ChannelClosed, 1);
                if !flow.faulted {
                    flow.faulted = true;
                    self.faults.push((flow.id, fault));
                }
            }
        }
    }

    /// More frames came for the last resort than it hears.
    fn too_many(&mut self, flow: u32) {
        self.bills.add(flow, bill_word::RX_OFFERED, 1);
        self.bills.count_drop(flow, DropReason::RxBudget, 1);
        // Billed to it, but not paid from its budget: that is for those it hears.
        self.bills.note(flow, NO_DOMAIN, Side::Wake, 0);
    }

    fn nobodys(&mut self, reason: DropReason) {
        self.bills.count_drop(self.bills.link(), reason, 1);
        self.bills.note(self.bills.link(), NO_DOMAIN, Side::Rx, 0);
    }
}

impl<A: Arenas> Flow<A> {
    /// Copies a frame into the flow's next free buffer, headers first.
    fn accept(&mut self, piece: &Piece<'_>, header_bytes: usize) -> Delivery {
        if self.faulted {
            return Delivery::Dropped(DropReason::ChannelClosed);
        }
        if self.spare.is_empty() {
            match self.rx.take_into(&mut self.spare) {
                Ok(true) => {}
                Ok(false) => return Delivery::Dropped(DropReason::NoFreeBuffer),
                Err(fault) => return Delivery::Fault(fault),
            }
        }
        match self.rx.room() {
            Err(fault) => return Delivery::Fault(fault),
            Ok(room) if room < self.spare.words() => {
                return Delivery::Dropped(DropReason::NoFreeBuffer);
            }
            Ok(_) if self.spare.bytes() < piece.bytes() as u64 => {
                return Delivery::Dropped(DropReason::BufferTooSmall);
            }
            Ok(_) => {}
        }
        self.fill(piece, header_bytes);
        let put = self.rx.put(&self.spare);
        self.spare.clear();
        match put {
            Ok(true) => Delivery::Delivered,
            Ok(false) => Delivery::Dropped(DropReason::NoFreeBuffer),
            Err(fault) => Delivery::Fault(fault),
        }
    }

    /// Copies the frame into the buffer: with several ranges the headers into the first and the
    /// payload behind, with one range all of it.
    fn fill(&mut self, piece: &Piece<'_>, header_bytes: usize) {
        let buffer = &mut self.spare;
        let bytes = piece.bytes();
        let split = match buffer.pairs() {
            // Only if the frame also fits when the first range is not filled.
            [first, _, ..] if header_bytes > 0 => {
                let unused = u64::from(first.len).saturating_sub(header_bytes as u64);
                bytes as u64 + unused <= buffer.bytes()
            }
            _ => false,
        };
        let (mut head, mut rest) = (piece.head, piece.rest);
        let mut used = 0;
        while let Some(pair) = buffer.pairs().get(used).copied() {
            let limit = if split && used == 0 { header_bytes } else { bytes };
            let room = limit.min(pair.len as usize);
            let (first, behind) = head.split_at(head.len().min(room));
            let (second, left) = rest.split_at(rest.len().min(room - first.len()));
            if !first.is_empty() {
                self.rx_data.write(pair.offset, first);
            }
            self.rx_data.write(pair.offset + first.len() as u32, second);
            buffer.set_len(used, (first.len() + second.len()) as u32);
            used += 1;
            (head, rest) = (behind, left);
            if head.is_empty() && rest.is_empty() {
                break;
            }
        }
        buffer.truncate(used);
        buffer.flags = piece.flags;
    }
}
