//! The flow manager's own flows on a link: what nobody claims comes in, answers go out.
//!
//! One flow for each kind of frame. A round takes so many of each, and those that matter most first, so
//! that a flood of one kind holds up no other.

use std::os::fd::OwnedFd;

use base_flow::Stray;
use base_rpc::{DomainId, FlowLayout, ToDriver};
use rbuf_channel::{Buffer, Data, Fault, IoRec, Pool};
use rbuf_domain::{Domain, DomainError, Ends, Shape};
use rbuf_shm::Doorbell;

/// Frames of a kind that are handled before other things are looked after.
const FRAMES_PER_ROUND: usize = 64;

/// The flows, once the driver has joined.
#[derive(Debug)]
pub(crate) struct OwnFlows {
    domain: Domain,
    /// By kind.
    flows: [OwnFlow; Stray::COUNT],
    /// Room for a frame.
    frame: Vec<u8>,
}

#[derive(Debug)]
struct OwnFlow {
    layout: FlowLayout,
    ends: Ends,
    sending: Pool,
    receiving: Pool,
}

impl OwnFlows {
    /// Opens the flows in the arenas that the driver passed as `descriptors`; returns them and
    /// what to tell the driver.
    pub(crate) fn open(
        descriptors: Vec<OwnedFd>,
        frame_bytes: u32,
        domain_id: DomainId,
        flows: &[flowman_core::OwnFlow; Stray::COUNT],
    ) -> Result<(Self, Vec<ToDriver>), DomainError> {
        let domain = Domain::new(Stray::COUNT as u32, descriptors)?;
        let mut messages = Vec::new();
        let mut open = |stray: Stray| {
            let plan = &flows[stray.index()];
            let own = OwnFlow::new(&domain, frame_bytes, plan)?;
            let &flowman_core::OwnFlow { flow, contract, rx_cpu_ppb, pace, .. } = plan;
            let layout = own.layout;
            let domain = domain_id;
            let after = Vec::new();
            messages.push(ToDriver::AddFlow { flow, domain, layout, contract, rx_cpu_ppb, after });
            messages.push(ToDriver::SetLastResort { stray, flow, pace });
            Ok::<OwnFlow, DomainError>(own)
        };
        let [a, b, c, d, e, f] = Stray::ALL;
        let flows = [open(a)?, open(b)?, open(c)?, open(d)?, open(e)?, open(f)?];
        Ok((Self { domain, flows, frame: Vec::new() }, messages))
    }

    pub(crate) const fn bell(&self) -> &Doorbell {
        self.domain.bell()
    }

    /// Receives up to a round's frames; `true` if there may be more. With `false` the bell will
    /// ring for the next one.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8])) -> Result<bool, Fault> {
        self.domain.set_asleep(false);
        while let Some(event) = self.domain.next_event()? {
            let slot = event.slot();
            if let Some(flow) = self.flows.iter_mut().find(|flow| flow.layout.slot == slot) {
                flow.ends.rx.heard(event);
            }
        }
        let mut more = false;
        for flow in &mut self.flows {
            more |= flow.receive(&mut self.frame, &mut each)?;
        }
        if more {
            return Ok(true);
        }
        // Every flow is armed. An event that came meanwhile is read before this sleeps: its flow is not
        // armed any more.
        self.domain.set_asleep(true);
        if self.domain.has_events() {
            self.domain.set_asleep(false);
            return Ok(true);
        }
        Ok(false)
    }

    /// Sends a frame; drops it if all buffers are on their way, as any network would.
    pub(crate) fn send(&mut self, stray: Stray, frame: &[u8]) -> Result<(), Fault> {
        let flow = &mut self.flows[stray.index()];
        if flow.send(frame)? && flow.ends.tx.notice().post {
            self.domain.post(flow.layout.slot);
        }
        Ok(())
    }
}

impl OwnFlow {
    fn new(
        domain: &Domain,
        frame_bytes: u32,
        plan: &flowman_core::OwnFlow,
    ) -> Result<Self, DomainError> {
        let buffer = frame_bytes.next_multiple_of(64);
        let (bytes, words) = (plan.buffers * buffer, plan.words);
        let shape = Shape { tx_words: words, rx_words: words, tx_bytes: bytes, rx_bytes: bytes };
        let layout = domain.lay_out(&shape)?;
        let ends = domain.ends(&layout)?;
        let pool = || Pool::new(bytes, buffer);
        let mut own = Self { layout, ends, sending: pool(), receiving: pool() };
        while let Some(buffer) = own.receiving.take() {
            let rec = IoRec::single(buffer.0, own.receiving.pair(buffer));
            if !matches!(own.ends.rx.put(&rec), Ok(true)) {
                break;
            }
        }
        Ok(own)
    }

    /// Takes up to a round's frames, with room for one in `frame`; `true` if there may be more. With
    /// `false` the flow is armed.
    fn receive(
        &mut self,
        frame: &mut Vec<u8>,
        each: &mut impl FnMut(&[u8]),
    ) -> Result<bool, Fault> {
        for _ in 0..FRAMES_PER_ROUND {
            let rec = match self.ends.rx.take()? {
                Some(rec) => rec,
                None if self.ends.rx.arm()? => continue,
                None => return Ok(false),
            };
            frame.clear();
            for pair in rec.pairs() {
                let at = frame.len();
                frame.resize(at + pair.len as usize, 0);
                self.ends.rx_data.read(pair.offset, &mut frame[at..]);
            }
            let whole = self.receiving.pair(Buffer(rec.cookie));
            if !self.receiving.lent(Buffer(rec.cookie), rec.pairs()[0]) {
                return Err(Fault::NotLent { cookie: rec.cookie });
            }
            self.ends.rx.put(&IoRec::single(rec.cookie, whole))?;
            each(frame);
        }
        Ok(true)
    }

    /// `false` if the frame was dropped.
    fn send(&mut self, frame: &[u8]) -> Result<bool, Fault> {
        while let Some(rec) = self.ends.tx.take()? {
            self.sending.give(Buffer(rec.cookie))?;
        }
        let Some(buffer) = self.sending.take() else { return Ok(false) };
        let mut pair = self.sending.pair(buffer);
        if frame.len() > pair.len as usize || !self.ends.tx_data.write(pair.offset, frame) {
            return self.sending.give(buffer).map(|()| false);
        }
        pair.len = frame.len() as u32;
        if !self.ends.tx.put(&IoRec::single(buffer.0, pair))? {
            return self.sending.give(buffer).map(|()| false);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
