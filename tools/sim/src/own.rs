//! The flow manager's own flows in a simulated world: one for each kind of frame that nobody claims.

use base_flow::{FlowId, Stray};
use base_rpc::{DomainId, FlowLayout, Region, ToDriver};
use driver_core::{Arenas, HeapArenas};
use flowman_core::OwnFlow;
use rbuf_channel::{
    Data, End, FifoWriter, HeapData, HeapWords, IoRec, Pair, block_words, fifo_words,
    flow_block_bytes, rx_block_offset,
};

const BUFFER: u32 = 2048;
const FLOWS: u32 = Stray::COUNT as u32;

/// More than any flow has.
const BUFFERS_MAX: u32 = 256;
const WORDS_MAX: u32 = 2 * BUFFERS_MAX;

fn fifo_bytes() -> u64 {
    (fifo_words(FLOWS) as u64 * 8).next_multiple_of(64)
}

/// Arenas with room for all own flows.
pub(crate) fn arenas() -> (HeapArenas, u32) {
    let control = fifo_bytes() + u64::from(FLOWS) * flow_block_bytes(WORDS_MAX, WORDS_MAX);
    let bytes = FLOWS * BUFFERS_MAX * BUFFER;
    (HeapArenas::new(control, bytes, bytes), FLOWS)
}

/// The own flows.
pub(crate) struct Own {
    flows: Vec<Flow>,
    events: FifoWriter<HeapWords>,
}

struct Flow {
    id: FlowId,
    buffers: u32,
    tx: End<HeapWords>,
    rx: End<HeapWords>,
    tx_data: HeapData,
    rx_data: HeapData,
    next: u32,
}

impl Own {
    /// The flows in their arenas, and what to tell the driver.
    pub(crate) fn open(
        arenas: &HeapArenas,
        domain: DomainId,
        plans: &[OwnFlow; Stray::COUNT],
    ) -> Option<(Self, Vec<ToDriver>)> {
        let mut messages = Vec::new();
        let mut flows = Vec::new();
        for (plan, slot) in plans.iter().zip(0..) {
            let (flow, layout) = Flow::new(arenas, slot, plan)?;
            flows.push(flow);
            let &OwnFlow { stray, flow, contract, rx_cpu_ppb, pace, .. } = plan;
            let after = Vec::new();
            messages.push(ToDriver::AddFlow { flow, domain, layout, contract, rx_cpu_ppb, after });
            messages.push(ToDriver::SetLastResort { stray, flow, pace });
        }
        let events = FifoWriter::new(arenas.control_out(0, fifo_words(FLOWS))?)?;
        Some((Self { flows, events }, messages))
    }

    /// Their names.
    pub(crate) fn ids(&self) -> impl Iterator<Item = FlowId> {
        self.flows.iter().map(|flow| flow.id)
    }

    /// Frames that nobody claimed, by what matters most.
    pub(crate) fn receive(&mut self) -> Vec<Vec<u8>> {
        self.flows.iter_mut().flat_map(|flow| std::iter::from_fn(|| flow.receive())).collect()
    }

    /// Sends a frame by the flow for its kind.
    pub(crate) fn send(&mut self, stray: Stray, frame: &[u8]) {
        if let Some(flow) = self.flows.get_mut(stray.index()) {
            flow.send(frame);
            if flow.tx.notice().post {
                self.events.post(stray.index() as u32);
            }
        }
    }
}

impl Flow {
    fn new(arenas: &HeapArenas, slot: u32, plan: &OwnFlow) -> Option<(Self, FlowLayout)> {
        let (words, bytes) = (plan.words, plan.buffers * BUFFER);
        let control = fifo_bytes() + u64::from(slot) * flow_block_bytes(WORDS_MAX, WORDS_MAX);
        let region = Region { offset: u64::from(slot * BUFFERS_MAX * BUFFER), bytes };
        let layout = FlowLayout {
            slot,
            control_offset: control,
            tx_words: words,
            rx_words: words,
            tx_data: region,
            rx_data: region,
        };
        let end = |offset| {
            let mine = arenas.control_out(offset, block_words(words))?;
            End::new(mine, arenas.control_in(offset, block_words(words))?, bytes)
        };
        let mut flow = Self {
            id: plan.flow,
            buffers: plan.buffers,
            tx: end(control)?,
            rx: end(control + rx_block_offset(words))?,
            tx_data: arenas.tx_data(region.offset, bytes)?,
            rx_data: arenas.rx_data(region.offset, bytes)?,
            next: 0,
        };
        for index in 0..plan.buffers {
            flow.offer(index as u16);
        }
        Some((flow, layout))
    }

    fn offer(&mut self, buffer: u16) {
        let pair = Pair { offset: u32::from(buffer) * BUFFER, len: BUFFER };
        let _ = self.rx.put(&IoRec::single(buffer, pair));
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let rec = self.rx.take().ok()??;
        let pair = rec.pairs()[0];
        let mut frame = vec![0; pair.len as usize];
        self.rx_data.read(pair.offset, &mut frame);
        self.offer(rec.cookie);
        Some(frame)
    }

    fn send(&mut self, frame: &[u8]) {
        while let Ok(Some(_)) = self.tx.take() {}
        let offset = self.next % self.buffers * BUFFER;
        self.tx_data.write(offset, frame);
        let rec = IoRec::single(self.next as u16, Pair { offset, len: frame.len() as u32 });
        if matches!(self.tx.put(&rec), Ok(true)) {
            self.next = self.next.wrapping_add(1);
        }
    }
}
