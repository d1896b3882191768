//! A connection over its flow: segments in from the driver, segments out to it, and threads that wait.
//!
//! Whoever holds the lock runs the connection: a thread in a call, or the service thread. Nobody
//! sleeps with the lock.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base_flow::{Contract, Endpoints};
use base_rpc::TimeWait;
use base_wire::tcp_flag;
use rbuf_channel::{Buffer, Park, Wait};
use rbuf_shm::{Futex, ShmData, monotonic_ns};
use stack_layer::{Arrived, Ether, HEAD_BYTES_MAX, Peer, Tcp};
use stack_tcp::{
    Algorithm, Config, Connection, ReceiveQueue as _, Segment, SendBuffer as _, State as TcpState,
    Stream, Transmit, WriteError,
};

use super::buffers::{Frames, Payload, SendArea};
use super::dump;
use super::readiness::Condition;
use super::service::{Outcome, Served, Service};
use crate::Error;
use crate::flow::{Flow, FlowDevice, Shared};
use crate::options::{Options, stream_buffers};

/// Headers that can be on their way to the wire.
const HEADERS: u16 = 128;

/// Most frames of a super-segment: half of the headers, so that the next one can be formed meanwhile.
const FRAMES_MAX: u16 = HEADERS / 2;

/// Most bytes of a super-segment.
const SUPER_SEGMENT_BYTES: u32 = 65_160;

/// Most payload that waits for the wire in the flow's own channel: what waits there is part of the
/// round-trip time.
const QUEUED_BYTES_MAX: u32 = 256 << 10;

/// Segments with less payload are not for the link to cut.
const CUT_BYTES_MIN: u32 = 256;

/// What can be received before it is known how fast the application reads.
pub(crate) const FIRST_RECEIVE_BYTES: u32 = 65_536;

/// For ever.
pub(super) const NEVER: u64 = u64::MAX;

/// How long a sleeper waits before it asks whether the flow manager has news.
const NEWS_NS: u64 = 500_000_000;

/// How soon to look again whether the driver has sent something, if that is all there is to wait for.
const STARVED_NS: u64 = 500_000;

pub(super) type Layers = Tcp<Ether<FlowDevice>>;

/// A connection, shared by its handles, the service thread and its listener.
pub(super) struct Socket {
    state: Mutex<State>,
    shared: Arc<Shared>,
    service: Arc<Service>,
    slot: u32,
    wait: Wait,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) nonblocking: AtomicBool,
    pub(super) read_timeout_ns: AtomicU64,
    pub(super) write_timeout_ns: AtomicU64,
    /// SO_LINGER: what closing waits for, in nanoseconds; [`NEVER`] for "finish in the background".
    pub(super) linger_ns: AtomicU64,
    /// Whether the service thread will look at it within a tick.
    listed: AtomicBool,
    readable: Condition,
    writable: Condition,
    urgent: Condition,
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).field("remote", &self.remote).finish()
    }
}

/// What is protected by the lock.
pub(super) struct State {
    // Dropped before the flow is closed.
    stack: Layers,
    pub(super) stream: Stream<SendArea<ShmData>, Frames<ShmData>>,
    flow: Flow,
    /// The window for which the driver was offered buffers.
    offered_for: u64,
    /// Packets that the driver has, oldest first.
    in_driver: VecDeque<InDriver>,
    /// Payload of these.
    queued_bytes: u32,
    /// Why the flow is of no use any more.
    failed: Option<String>,
    /// Threads that sleep, until when one of them at least, and what they saw.
    sleepers: u32,
    asleep_until_ns: u64,
    seen: Sight,
    /// Whether an event is to come, or to be read.
    armed: bool,
    /// Whether there is more to send than the driver has room for.
    starved: bool,
    /// Whether the error of the connection was told.
    told: bool,
    read_shut: bool,
    /// Time-outs up to which what happened was written down.
    dumped_timeouts: u64,
}

impl Drop for State {
    /// What went wrong is kept for whoever asks, and the flow manager waits in our place until no segment
    /// can be in the network any more.
    fn drop(&mut self) {
        if self.stream.connection.error().is_some() {
            dump::write(&self.flow, &self.stream.connection);
        }
        if let Some(left) = self.stream.connection.time_wait(monotonic_ns()) {
            let stack_tcp::TimeWait { sequence, acknowledgment, clocks } = left;
            self.flow.shared.leave(TimeWait { sequence, acknowledgment, clocks });
        }
    }
}

/// What a thread may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sight {
    readable: bool,
    writable: bool,
    delivered: bool,
    open: bool,
}

struct InDriver {
    buffer: Buffer,
    /// Number of the transmission it ends; 0 if more of it follows.
    number: u64,
    /// First byte of its payload.
    offset: Option<u64>,
    bytes: u32,
}

/// Opens the flow of a connection and forms its layers.
pub(super) fn open(options: &Options, endpoints: Endpoints) -> Result<(Flow, Layers), Error> {
    let mut flow = options.chosen_host()?.open_with_headers(options, endpoints, HEADERS)?;
    let stack = layers(&mut flow)?;
    Ok((flow, stack))
}

pub(super) fn layers(flow: &mut Flow) -> Result<Layers, Error> {
    let fib = *flow.fib();
    let device =
        flow.take_device().ok_or_else(|| Error::Protocol("the flow has a stack already".into()))?;
    Tcp::new(Ether::new(device, &fib), &fib)
        .ok_or_else(|| Error::Address("only IPv4 has a TCP layer yet".into()))
}

/// The bottom of these layers.
pub(super) const fn device(stack: &mut Layers) -> &mut FlowDevice {
    stack.lower().lower().lower()
}

/// What a connection of this flow is told.
pub(super) fn config(options: &Options, flow: &Flow) -> Config {
    let contract = flow.known_contract();
    let congestion = match flow.rate() {
        Some(rate) if contract.is_guaranteed() => Algorithm::Guaranteed {
            bytes_per_second: rate.bits_per_s() / 8 * contract.slice_ns / contract.period_ns.max(1),
            period_ns: contract.period_ns,
            slack: contract.slack,
        },
        _ => Algorithm::Cubic,
    };
    Config {
        mtu: flow.fib().mtu,
        super_segment_bytes: SUPER_SEGMENT_BYTES,
        receive_bytes: options.receive_bytes.min(FIRST_RECEIVE_BYTES),
        receive_bytes_max: options.receive_bytes,
        congestion,
        ecn: options.ecn,
        ..Config::default()
    }
}

impl Socket {
    /// Joins a connection with its flow.
    pub(super) fn new(
        options: &Options,
        flow: Flow,
        mut stack: Layers,
        connection: Connection,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::clone(&flow.shared);
        let service = shared.service()?;
        let fib = *flow.fib();
        let local = SocketAddr::new(fib.source, fib.endpoints.local.port);
        let remote = fib.endpoints.remote.map_or(local, SocketAddr::from);
        let (tx_data, rx_data) = shared.areas.clone();
        let send = SendArea::new(tx_data, u32::from(HEADERS) * HEAD_BYTES_MAX as u32);
        let receive = Frames::new(
            rx_data,
            device(&mut stack).receive_buffers(),
            options.receive_bytes.min(FIRST_RECEIVE_BYTES).into(),
            options.receive_bytes.into(),
        );
        let socket = Arc::new(Self {
            slot: shared.slot(),
            state: Mutex::new(State {
                stack,
                stream: Stream::new(connection, send, receive),
                flow,
                offered_for: options.receive_bytes.min(FIRST_RECEIVE_BYTES).into(),
                in_driver: VecDeque::new(),
                queued_bytes: 0,
                failed: None,
                sleepers: 0,
                asleep_until_ns: 0,
                seen: Sight::default(),
                armed: false,
                starved: false,
                told: false,
                read_shut: false,
                dumped_timeouts: 0,
            }),
            shared,
            service,
            wait: options.wait,
            local,
            remote,
            nonblocking: AtomicBool::new(false),
            read_timeout_ns: AtomicU64::new(NEVER),
            write_timeout_ns: AtomicU64::new(NEVER),
            linger_ns: AtomicU64::new(NEVER),
            listed: AtomicBool::new(false),
            readable: Condition::default(),
            writable: Condition::default(),
            urgent: Condition::default(),
        });
        let served: Arc<dyn Served> = socket.clone();
        socket.service.add(&served);
        Ok(socket)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the connection, sends what follows from it, and leaves the rest to the
    /// service thread.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = self.lock();
        let now_ns = monotonic_ns();
        state.take_in(&self.shared, now_ns);
        let result = act(&mut state, now_ns);
        state.send_out(&self.shared, now_ns);
        self.leave(state);
        result
    }

    /// Gives the lock up; sleeping threads look again if something has changed that they may wait for,
    /// or if something is due before they would.
    fn leave(&self, mut state: MutexGuard<'_, State>) {
        self.signal(&mut state);
        let sleepers = state.sleepers > 0 && state.has_news_for_sleepers();
        drop(state);
        if sleepers {
            Futex::patient().wake(&self.shared.rx_words[0]);
        }
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.service.list(self.slot);
        }
    }

    /// Shows what the socket is ready for to whoever watches it. Such an application is not in a call
    /// when something arrives, so the driver is to say at once that it has.
    fn signal(&self, state: &mut State) {
        let all = [&self.readable, &self.writable, &self.urgent];
        if !all.into_iter().any(Condition::is_watched) {
            return;
        }
        state.arm(&self.shared);
        self.urgent.set(state.stream.connection.urgent_bytes().is_some());
        self.readable.set(state.is_readable());
        self.writable.set(state.is_writable());
    }

    /// A descriptor that is readable while a read would not wait.
    pub(super) fn readable(&self) -> io::Result<BorrowedFd<'_>> {
        self.readable.descriptor()?;
        self.with(|_, _| ());
        self.readable.descriptor()
    }

    /// A descriptor that is readable while something urgent is to be read, or to come.
    pub(super) fn urgent(&self) -> io::Result<BorrowedFd<'_>> {
        self.urgent.descriptor()?;
        self.with(|_, _| ());
        self.urgent.descriptor()
    }

    /// A descriptor that is readable while a write would not wait.
    pub(super) fn writable(&self) -> io::Result<BorrowedFd<'_>> {
        self.writable.descriptor()?;
        self.with(|_, _| ());
        self.writable.descriptor()
    }

    /// Looks until there is what `look` looks for, and sleeps between looks, until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` or `TimedOut`, or what `look` says.
    pub(super) fn wait_for<T>(
        &self,
        deadline_ns: u64,
        nonblocking: bool,
        mut look: impl FnMut(&mut State, u64) -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        let mut spins = match self.wait {
            Wait::Spin => u64::MAX,
            Wait::Block => 0,
            Wait::Adaptive { spins } => u64::from(spins),
        };
        loop {
            let mut state = self.lock();
            let now_ns = monotonic_ns();
            state.take_in(&self.shared, now_ns);
            let found = look(&mut state, now_ns);
            state.send_out(&self.shared, now_ns);
            match found {
                Err(error) => {
                    self.leave(state);
                    return Err(error);
                }
                Ok(Some(found)) => {
                    self.leave(state);
                    return Ok(found);
                }
                Ok(None) => {}
            }
            if nonblocking || now_ns >= deadline_ns {
                self.leave(state);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if spins > 0 {
                spins -= 1;
                drop(state);
                std::hint::spin_loop();
                continue;
            }
            let seen = device(&mut state.stack).rx().await_published(1);
            let Ok(Some(seen)) = seen else { continue };
            state.sleepers += 1;
            let due_ns = state.stream.connection.next_deadline().unwrap_or(NEVER);
            let starved = state.starved || state.is_over();
            let starved_ns = if starved { now_ns + STARVED_NS } else { NEVER };
            let until = deadline_ns.min(due_ns).min(starved_ns).min(now_ns + NEWS_NS);
            state.note_sleep(until);
            drop(state);
            if !Futex::until(until).sleep(&self.shared.rx_words[0], seen) {
                self.shared.host().hear_notices();
            }
            let mut state = self.lock();
            state.sleepers -= 1;
            if state.sleepers == 0 {
                device(&mut state.stack).rx().awake();
            }
        }
    }

    pub(super) fn deadline(timeout_ns: &AtomicU64) -> u64 {
        match timeout_ns.load(Ordering::Relaxed) {
            NEVER => NEVER,
            timeout => monotonic_ns().saturating_add(timeout),
        }
    }

    /// Waits until the connection is open.
    pub(super) fn wait_open(&self, deadline_ns: u64) -> io::Result<()> {
        let opened =
            self.wait_for(deadline_ns, false, |state, _| Ok(state.opened()?.then_some(())));
        opened.map_err(timed_out)
    }

    pub(super) fn read(&self, out: &mut [&mut [u8]], peek: bool) -> io::Result<usize> {
        if out.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, now_ns| state.read(now_ns, out, peek))
    }

    pub(super) fn write(&self, parts: &[&[u8]], follows: bool) -> io::Result<usize> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, _| state.write(parts, follows))
    }

    /// As [`Self::write`], of what is urgent.
    pub(super) fn write_urgent(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, _| {
            let taken = state.write(&[bytes], false)?;
            if taken.is_some() {
                state.stream.connection.mark_urgent();
            }
            Ok(taken)
        })
    }

    /// As [`Self::write`], from a file; 0 at its end.
    pub(super) fn send_from(&self, file: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, _| state.send_from(file, bytes))
    }

    /// As [`Self::read`], to a file; 0 at the stream's end.
    pub(super) fn receive_to(&self, file: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, now_ns| {
            state.receive_to(now_ns, file, bytes)
        })
    }

    /// The application has let go.
    pub(super) fn close(self: &Arc<Self>) {
        let linger_ns = self.linger_ns.load(Ordering::Relaxed);
        self.end();
        if self.with(|state, _| state.is_over() && state.in_driver.is_empty()) {
            return;
        }
        if linger_ns != NEVER {
            let deadline_ns = monotonic_ns().saturating_add(linger_ns);
            let ended = self
                .wait_for(deadline_ns, false, |state, _| Ok(state.is_delivered().then_some(())));
            if ended.is_err() {
                self.with(|state, now_ns| state.stream.connection.abort(now_ns));
            }
        }
        self.service.adopt(self.clone());
    }

    /// Sends the last word: that nothing follows, or, if closing is to wait for nothing, a reset.
    fn end(&self) {
        let at_once = self.linger_ns.load(Ordering::Relaxed) == 0;
        self.with(|state, now_ns| match at_once {
            true => state.stream.connection.abort(now_ns),
            false => state.stream.connection.close(now_ns),
        });
    }

    /// Closes the writing half and waits until the peer has everything.
    pub(super) fn finish(&self, deadline_ns: u64) -> io::Result<()> {
        self.with(|state, now_ns| state.stream.connection.shut_down(now_ns));
        let delivered = self.wait_for(deadline_ns, false, |state, _| {
            if state.is_delivered() {
                return state.check().map(Some);
            }
            Ok(None)
        });
        delivered.map_err(timed_out)
    }

    /// A segment that arrived at the listener after the connection had been made.
    pub(super) fn hand_over(&self, segment: &Segment, payload: &[u8]) {
        let mut state = self.lock();
        state.stream.on_segment(monotonic_ns(), segment, Payload::Bytes(payload));
    }

    /// Sends what follows from that.
    pub(super) fn answer(&self) {
        self.with(|_, _| ());
    }
}

impl Served for Socket {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn serve(&self) -> Outcome {
        self.listed.store(false, Ordering::Release);
        let mut state = self.lock();
        if state.sleepers > 0 {
            return Outcome::Until(None);
        }
        let now_ns = monotonic_ns();
        state.take_in(&self.shared, now_ns);
        state.send_out(&self.shared, now_ns);
        state.arm(&self.shared);
        self.signal(&mut state);
        if state.is_over() && (state.in_driver.is_empty() || state.failed.is_some()) {
            return Outcome::Finished;
        }
        let deadline_ns = state.stream.connection.next_deadline();
        Outcome::Until(if state.starved || state.is_over() {
            Some(deadline_ns.unwrap_or(NEVER).min(now_ns + STARVED_NS))
        } else {
            deadline_ns
        })
    }

    fn event_read(&self) {
        self.lock().armed = false;
    }

    fn leave(&self) {
        self.end();
    }

    fn is_delivered(&self) -> bool {
        self.lock().is_delivered()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.service.remove(self.slot);
    }
}

impl State {
    /// Everything that has arrived, and what the flow manager says.
    fn take_in(&mut self, shared: &Shared, now_ns: u64) {
        match shared.news() {
            Ok(None) => {}
            Ok(Some(fib)) => {
                self.stack.reorganise(&fib);
                self.stream.connection.on_route(now_ns, fib.mtu);
            }
            Err(error) => self.fail(now_ns, &error),
        }
        loop {
            match self.stack.receive() {
                Ok(Some(Arrived::Segment(received))) => {
                    let payload = Payload::Frame(received.buffer, received.payload);
                    self.stream.on_segment(now_ns, &received.segment, payload);
                }
                Ok(Some(Arrived::RouterError { sequence, error, .. })) => {
                    self.stream.connection.on_router_error(now_ns, sequence, error);
                }
                Ok(None) => break,
                Err(fault) => return self.fail(now_ns, &fault.into()),
            }
        }
        self.give_back(now_ns);
    }

    /// Offers buffers that were read; and more of them, if there is to be room for more.
    fn give_back(&mut self, now_ns: u64) {
        let capacity = self.stream.receive.capacity();
        if capacity > self.offered_for {
            self.offered_for = capacity;
            let count = stream_buffers(self.flow.fib().mtu, capacity);
            if let Err(fault) = device(&mut self.stack).offer_buffers(count) {
                return self.fail(now_ns, &fault.into());
            }
            let count = device(&mut self.stack).receive_buffers();
            self.stream.receive.set_buffers(count);
        }
        while let Some(buffer) = self.stream.receive.free.pop() {
            if let Err(fault) = self.stack.release(buffer) {
                return self.fail(now_ns, &fault.into());
            }
        }
    }

    /// Most payload of what is sent at a time: as much as the link cuts, or as many frames as there are
    /// headers for.
    fn unit_bytes(&self) -> u32 {
        let segment = self.stream.connection.segment_bytes();
        match self.stack.unit_payload_max() {
            // Reports in every header make segments a little smaller, and so more.
            0 => (segment * u32::from(FRAMES_MAX - FRAMES_MAX / 8)).min(SUPER_SEGMENT_BYTES),
            unit => unit,
        }
    }

    /// Whether the link cuts this; what has flags for one frame alone is cut here.
    fn is_for_the_link_to_cut(&self, transmit: &Transmit) -> bool {
        let Segment { payload_bytes, flags, .. } = transmit.segment;
        payload_bytes > transmit.segment_bytes
            && payload_bytes <= self.stack.unit_payload_max()
            && flags & (tcp_flag::CWR | tcp_flag::URG) == 0
            && transmit.segment_bytes >= CUT_BYTES_MIN
    }

    /// Everything that can go.
    fn send_out(&mut self, shared: &Shared, now_ns: u64) {
        self.give_back(now_ns);
        let (in_driver, queued_bytes) = (&mut self.in_driver, &mut self.queued_bytes);
        let mut departed = 0;
        let reaped = device(&mut self.stack).reap_each(|buffer| {
            while let Some(first) = in_driver.pop_front() {
                departed = departed.max(first.number);
                *queued_bytes -= first.bytes;
                if first.buffer == buffer {
                    break;
                }
            }
        });
        if let Err(fault) = reaped {
            return self.fail(now_ns, &fault.into());
        }
        if departed > 0 {
            self.stream.connection.set_departed(departed);
        }
        self.starved = false;
        while self.failed.is_none() {
            let (_, free) = device(&mut self.stack).send_buffers();
            if free < usize::from(FRAMES_MAX) || self.queued_bytes > QUEUED_BYTES_MAX {
                self.starved = true;
                break;
            }
            let unit = self.unit_bytes();
            self.stream.connection.set_super_segment_bytes(unit);
            let Some(transmit) = self.stream.poll_transmit(now_ns) else { break };
            let whole = self.is_for_the_link_to_cut(&transmit);
            let cut = if whole { transmit.segment_bytes as u16 } else { 0 };
            let whole = whole.then_some(transmit);
            let frames = (cut == 0).then(|| transmit.frames()).into_iter().flatten();
            let mut packets = whole.into_iter().chain(frames).peekable();
            while let Some(frame) = packets.next() {
                let number = if packets.peek().is_none() { frame.number } else { 0 };
                let bytes = frame.segment.payload_bytes;
                let parts = self.stream.send.parts(frame.offset, bytes);
                match self.stack.send(&frame.segment, Peer::Connected, parts, cut) {
                    Ok(Some(buffer)) => {
                        self.queued_bytes += bytes;
                        let offset = (bytes > 0).then_some(frame.offset);
                        self.in_driver.push_back(InDriver { buffer, number, offset, bytes });
                    }
                    // As if it had been lost on the way.
                    Ok(None) => break,
                    Err(error) => {
                        self.fail(now_ns, &error.into());
                        break;
                    }
                }
            }
        }
        let timeouts = self.stream.connection.counts().timeouts;
        if timeouts > self.dumped_timeouts {
            self.dumped_timeouts = timeouts;
            dump::write(&self.flow, &self.stream.connection);
        }
        self.stream.send.in_driver = self.in_driver.iter().filter_map(|packet| packet.offset).min();
        shared.kick(device(&mut self.stack));
    }

    /// Asks the driver for an event when something arrives; what came before that was asked is taken in.
    fn arm(&mut self, shared: &Shared) {
        if self.armed {
            return;
        }
        self.armed = true;
        // What came before it was armed is found by looking once more.
        if device(&mut self.stack).rx().arm() != Ok(false) {
            // Later: what was sent a moment ago may be answered already.
            let now_ns = monotonic_ns();
            self.take_in(shared, now_ns);
            self.send_out(shared, now_ns);
        }
    }

    fn sight(&self) -> Sight {
        Sight {
            readable: self.is_readable(),
            writable: self.is_writable(),
            delivered: self.is_delivered(),
            open: self.stream.connection.state().is_synchronised(),
        }
    }

    /// A thread is about to sleep.
    fn note_sleep(&mut self, until_ns: u64) {
        let earlier = if self.sleepers > 1 { self.asleep_until_ns } else { NEVER };
        self.asleep_until_ns = until_ns.min(earlier);
        self.seen = self.sight();
    }

    /// Whether threads that sleep see something else than when they went to sleep, or would be late.
    fn has_news_for_sleepers(&mut self) -> bool {
        let due_ns = self.stream.connection.next_deadline().unwrap_or(NEVER);
        let late = due_ns < self.asleep_until_ns || self.starved;
        let sight = self.sight();
        std::mem::replace(&mut self.seen, sight) != sight || late
    }

    fn is_readable(&self) -> bool {
        self.read_shut || self.failed.is_some() || self.stream.is_readable()
    }

    fn is_writable(&self) -> bool {
        self.failed.is_some() || self.stream.is_writable()
    }

    /// The flow is of no use any more.
    fn fail(&mut self, now_ns: u64, error: &Error) {
        self.failed.get_or_insert_with(|| error.to_string());
        self.stream.connection.abort(now_ns);
    }

    /// The error that ended the connection, if one did: once; after that it is at its end.
    fn check(&mut self) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(Error::Lost(reason.clone()).into());
        }
        match self.stream.connection.error() {
            Some(error) if !self.told => {
                self.told = true;
                Err(io_error(error))
            }
            _ => Ok(()),
        }
    }

    fn read(
        &mut self,
        now_ns: u64,
        out: &mut [&mut [u8]],
        peek: bool,
    ) -> io::Result<Option<usize>> {
        if self.read_shut {
            return Ok(Some(0));
        }
        let mut total = 0;
        if peek {
            total = out.first_mut().map_or(0, |part| self.stream.peek(part));
        } else {
            for part in out.iter_mut() {
                let bytes = self.stream.read(now_ns, part);
                total += bytes;
                if bytes < part.len() {
                    break;
                }
            }
        }
        if total > 0 {
            return Ok(Some(total));
        }
        self.nothing_to_read()
    }

    /// The end of the stream, or why there is nothing, or nothing yet.
    fn nothing_to_read(&mut self) -> io::Result<Option<usize>> {
        // What arrived before an error is read before it is told.
        self.check()?;
        let connection = &self.stream.connection;
        if connection.is_at_end() || connection.state() == TcpState::Closed {
            return Ok(Some(0));
        }
        if connection.state() == TcpState::SynSent {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(None)
    }

    /// Whether the connection is open, or why it will not be.
    pub(super) fn opened(&mut self) -> io::Result<bool> {
        self.check()?;
        Ok(self.stream.connection.state().is_synchronised())
    }

    fn receive_to(
        &mut self,
        now_ns: u64,
        file: BorrowedFd<'_>,
        bytes: usize,
    ) -> io::Result<Option<usize>> {
        let urgent = self.stream.connection.urgent_bytes().unwrap_or(u64::MAX);
        let bytes = self.stream.connection.readable().min(bytes as u64).min(urgent);
        if self.read_shut || bytes == 0 {
            return if self.read_shut { Ok(Some(0)) } else { self.nothing_to_read() };
        }
        let taken = self.stream.receive.drain_to(file, bytes)?;
        self.stream.skip(now_ns, taken as u64);
        Ok(Some(taken))
    }

    fn send_from(&mut self, file: BorrowedFd<'_>, bytes: usize) -> io::Result<Option<usize>> {
        if !self.can_write()? {
            return Ok(None);
        }
        let ended = |_: WriteError| io::Error::from(io::ErrorKind::BrokenPipe);
        self.stream.connection.write(0, true).map_err(ended)?;
        if self.stream.send.room() == 0 {
            return Ok(None);
        }
        let taken = self.stream.send.fill_from(file, bytes)?;
        self.stream.connection.write(taken as u64, false).map_err(ended)?;
        Ok(Some(taken))
    }

    /// Whether there is a connection that could be written to, or was.
    fn can_write(&mut self) -> io::Result<bool> {
        self.check()?;
        let state = self.stream.connection.state();
        Ok(state.is_synchronised() || state == TcpState::Closed)
    }

    fn write(&mut self, parts: &[&[u8]], follows: bool) -> io::Result<Option<usize>> {
        if !self.can_write()? {
            return Ok(None);
        }
        let mut total = 0;
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            let taken = match self.stream.write(part, follows || !last) {
                Ok(taken) => taken,
                Err(WriteError::ShutDown | WriteError::Ended) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            };
            total += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok((total > 0).then_some(total))
    }

    /// Whether the peer has everything, and the last word has left this host.
    fn is_delivered(&self) -> bool {
        let heard = self.is_over() || self.stream.connection.is_fin_acknowledged();
        heard && self.in_driver.is_empty()
    }

    /// Whether nothing is left to be done.
    fn is_over(&self) -> bool {
        self.failed.is_some()
            || matches!(self.stream.connection.state(), TcpState::Closed | TcpState::TimeWait)
    }

    pub(super) fn shut_down(&mut self, now_ns: u64, how: std::net::Shutdown) -> io::Result<()> {
        let connection = &mut self.stream.connection;
        if !connection.state().is_synchronised() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if how != std::net::Shutdown::Write {
            self.read_shut = true;
        }
        if how != std::net::Shutdown::Read {
            connection.shut_down(now_ns);
        }
        Ok(())
    }

    /// What routers say of the peer, which may pass.
    pub(super) fn soft_error(&self) -> Option<io::Error> {
        self.stream.connection.soft_error().map(io_error)
    }

    pub(super) fn set_ttl(&mut self, ttl: u8) {
        self.stack.lower().set_ttl(ttl);
    }

    pub(super) fn set_service(&mut self, class: u8) {
        self.stack.lower().set_service(class);
    }

    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.check().err()
    }

    pub(super) fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }

    pub(super) fn contract(&self) -> Contract {
        self.flow.contract()
    }
}

/// Waiting ended because of a time limit.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn io_error(error: stack_tcp::Error) -> io::Error {
    use stack_tcp::Error as Tcp;
    let kind = match error {
        Tcp::Refused => io::ErrorKind::ConnectionRefused,
        Tcp::Reset => io::ErrorKind::ConnectionReset,
        Tcp::TimedOut => io::ErrorKind::TimedOut,
        Tcp::Unreachable => io::ErrorKind::HostUnreachable,
        Tcp::Aborted => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

pub(super) fn nanos(timeout: Option<Duration>) -> io::Result<u64> {
    match timeout {
        Some(Duration::ZERO) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a timeout of zero; use set_nonblocking",
        )),
        Some(timeout) => Ok(u64::try_from(timeout.as_nanos()).unwrap_or(NEVER - 1)),
        None => Ok(NEVER),
    }
}
