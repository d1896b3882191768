//! A TCP socket and its flow: word of the flow manager in, what outlives the connection out.

use std::sync::Weak;

use base_rpc::TimeWait;
use rbuf_shm::{ShmData, ShmWords, monotonic_ns};
use stack_socket::{FlowEnd, Readiness, TcpMemory};
use stack_tcp::{Algorithm, Connection};

use super::door::Door;
use super::dump::{self, Dump};
use super::fast_cache;
use super::layers::{FIRST_RECEIVE_BYTES, HEADERS, Layers, congestion};
use super::readiness::Condition;
use super::seat::{NEVER, Work};
use crate::flow::{Changes, Flow, FlowDevice, Shared};
use crate::options::Options;

pub(super) type TcpSocket = stack_socket::TcpSocket<ShmWords, ShmData>;

/// A socket, and the flow that is its own.
pub(super) struct Exchange {
    // Dropped before the flow is closed.
    pub(super) socket: TcpSocket,
    /// `None` once it was given up for a new connection between the same ends.
    flow: Option<Flow>,
    /// Where the connection came in, if it did.
    pub(super) door: Weak<Door>,
    /// The congestion control that the application chose; the contract does if it did not.
    congestion: Option<Algorithm>,
    /// Time-outs up to which what happened was noted, and what of it is to be written down.
    noted_timeouts: u64,
    notes: Option<Dump>,
}

impl Drop for Exchange {
    /// What went wrong is kept for whoever asks, and the flow manager waits in our place until no segment
    /// can be in the network any more.
    fn drop(&mut self) {
        if self.socket.connection().error().is_some() {
            self.note();
            self.report().iter().for_each(dump::append);
        }
        if let Some(left) = self.socket.connection().time_wait(monotonic_ns())
            && let Some(flow) = &self.flow
        {
            let stack_tcp::TimeWait { sequence, acknowledgment, clocks } = left;
            flow.shared.leave(TimeWait { sequence, acknowledgment, clocks });
        }
    }
}

/// Descriptors that show what a socket is ready for.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) readable: Condition,
    pub(super) writable: Condition,
    pub(super) urgent: Condition,
}

impl Work for Exchange {
    type Sight = Readiness;
    type Conditions = Conditions;

    fn device(&mut self) -> Option<&mut FlowDevice> {
        self.socket.device()
    }

    fn take_in(&mut self, shared: &Shared, now_ns: u64) {
        if self.flow.is_none() {
            return;
        }
        match shared.news() {
            Ok(None) => {}
            Ok(Some(changes)) => self.heed(now_ns, &changes),
            Err(error) => self.socket.fail(now_ns, FlowEnd::from(&error)),
        }
        self.socket.receive(now_ns, self.door.strong_count() > 0);
        if let Some(request) = self.socket.take_reopen() {
            // Closed before the listener asks for another.
            self.flow = None;
            if let Some(door) = self.door.upgrade() {
                door.knock(request);
            }
            return;
        }
        if let Some(learned) = self.socket.connection_mut().take_learned() {
            fast_cache().learn(now_ns, self.socket.remote().ip(), &learned);
        }
    }

    fn send_out(&mut self, shared: &Shared, now_ns: u64) {
        if self.flow.is_none() {
            return;
        }
        self.socket.transmit(now_ns);
        if let Some(mtu) = self.socket.connection_mut().take_path_news() {
            shared.tell_path(self.socket.remote().ip(), mtu);
        }
        let timeouts = self.socket.connection().counts().timeouts;
        if timeouts > self.noted_timeouts {
            self.noted_timeouts = timeouts;
            self.note();
        }
        if let Some(device) = self.socket.device() {
            shared.kick(device);
        }
    }

    fn sight(&self) -> Readiness {
        self.socket.readiness()
    }

    fn due_ns(&self, now_ns: u64) -> u64 {
        self.socket.next_deadline(now_ns).unwrap_or(NEVER)
    }

    fn is_done(&self) -> bool {
        self.socket.is_done()
    }

    fn is_watched(conditions: &Conditions) -> bool {
        let Conditions { readable, writable, urgent } = conditions;
        [readable, writable, urgent].into_iter().any(Condition::is_watched)
    }

    fn show(&self, conditions: &Conditions) {
        let readiness = self.socket.readiness();
        conditions.urgent.set(readiness.has(Readiness::PRI));
        conditions.readable.set(readiness.has(Readiness::IN));
        conditions.writable.set(readiness.has(Readiness::OUT));
    }

    fn report(&mut self) -> Option<Dump> {
        self.notes.take()
    }
}

impl Exchange {
    /// Joins a connection with its flow.
    pub(super) fn new(
        options: &Options,
        flow: Flow,
        stack: Layers,
        connection: Connection,
    ) -> Self {
        let (tx, rx) = flow.shared.areas.clone();
        let memory = TcpMemory {
            tx,
            rx,
            headers: HEADERS,
            receive_bytes: options.receive_bytes.min(FIRST_RECEIVE_BYTES),
            receive_bytes_max: options.receive_bytes,
        };
        Self {
            socket: TcpSocket::new(monotonic_ns(), stack, memory, flow.fib(), connection),
            flow: Some(flow),
            door: Weak::new(),
            congestion: options.congestion,
            noted_timeouts: 0,
            notes: None,
        }
    }

    fn note(&mut self) {
        let ends = (self.socket.local(), self.socket.remote());
        self.notes = dump::of(ends, self.socket.connection());
    }

    /// The flow goes another way, or has another contract.
    fn heed(&mut self, now_ns: u64, changes: &Changes) {
        if let Some(fib) = &changes.fib {
            self.socket.set_fib(now_ns, fib);
        }
        if let Some(flow) = &self.flow
            && changes.contract.is_some()
            && self.congestion.is_none()
        {
            self.socket.connection_mut().set_congestion(congestion(flow));
        }
    }
}
