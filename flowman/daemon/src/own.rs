//! The flow manager's own flow on a link: what nobody claims comes in, answers go out.

use std::os::fd::OwnedFd;

use base_flow::{Contract, FlowId};
use base_rpc::{DomainId, FlowLayout, ToDriver};
use flowman_core::OWN_SHAPE;
use rbuf_channel::{Buffer, Data, Fault, IoRec, Pool};
use rbuf_domain::{Domain, DomainError, Ends, Shape};
use rbuf_shm::Doorbell;

/// Frames handled before other things are looked after.
const FRAMES_PER_ROUND: usize = 64;

/// The flow, once the driver has joined.
#[derive(Debug)]
pub(crate) struct OwnFlow {
    domain: Domain,
    layout: FlowLayout,
    ends: Ends,
    sending: Pool,
    receiving: Pool,
}

impl OwnFlow {
    /// Opens the flow in the arenas that the driver passed as `descriptors`; returns it and
    /// what to tell the driver.
    pub(crate) fn open(
        descriptors: Vec<OwnedFd>,
        frame_bytes: u32,
        (domain_id, flow): (DomainId, FlowId),
        contract: Contract,
        rx_cpu_ppb: u32,
    ) -> Result<(Self, [ToDriver; 2]), DomainError> {
        let domain = Domain::new(1, descriptors)?;
        let buffer = frame_bytes.next_multiple_of(64);
        let bytes = OWN_SHAPE.buffers * buffer;
        let words = OWN_SHAPE.words;
        let shape = Shape { tx_words: words, rx_words: words, tx_bytes: bytes, rx_bytes: bytes };
        let layout = domain.lay_out(&shape)?;
        let ends = domain.ends(&layout)?;
        let pool = || Pool::new(bytes, buffer);
        let mut own = Self { domain, layout, ends, sending: pool(), receiving: pool() };
        while let Some(buffer) = own.receiving.take() {
            let rec = IoRec::single(buffer.0, own.receiving.pair(buffer));
            if !matches!(own.ends.rx.put(&rec), Ok(true)) {
                break;
            }
        }
        let add = ToDriver::AddFlow {
            flow,
            domain: domain_id,
            layout,
            contract,
            rx_cpu_ppb,
            after: Vec::new(),
        };
        Ok((own, [add, ToDriver::SetLastResort { flow }]))
    }

    pub(crate) const fn bell(&self) -> &Doorbell {
        self.domain.bell()
    }

    /// Receives up to a round's frames; `true` if there may be more. With `false` the bell will
    /// ring for the next one.
    pub(crate) fn receive(
        &mut self,
        mut each: impl FnMut(&mut Self, &[u8]),
    ) -> Result<bool, Fault> {
        self.domain.set_asleep(false);
        // Which flow has work is no question with one flow; reading only empties the FIFO.
        while self.domain.next_event()?.is_some() {}
        let mut frame = Vec::new();
        for _ in 0..FRAMES_PER_ROUND {
            let rec = match self.ends.rx.take()? {
                Some(rec) => rec,
                None if self.ends.rx.arm()? => continue,
                None => {
                    self.domain.set_asleep(true);
                    return Ok(self.ends.rx.available()? > 0);
                }
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
            each(self, &frame);
        }
        Ok(true)
    }

    /// Sends a frame; drops it if all buffers are on their way, as any network would.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), Fault> {
        while let Some(rec) = self.ends.tx.take()? {
            self.sending.give(Buffer(rec.cookie))?;
        }
        let Some(buffer) = self.sending.take() else { return Ok(()) };
        let mut pair = self.sending.pair(buffer);
        if frame.len() > pair.len as usize || !self.ends.tx_data.write(pair.offset, frame) {
            return self.sending.give(buffer);
        }
        pair.len = frame.len() as u32;
        if !self.ends.tx.put(&IoRec::single(buffer.0, pair))? {
            return self.sending.give(buffer);
        }
        if self.ends.tx.notice().post {
            self.domain.post(self.layout.slot);
        }
        Ok(())
    }
}
