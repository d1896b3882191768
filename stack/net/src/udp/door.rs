//! A UDP socket on one link: its flow, and the layers over it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_flow::{Endpoints, Fib};
use base_wire::Protocol;
use rbuf_shm::ShmData;
use stack_layer::{Control, Ether, Incoming, Ip4, Layer as _, Outgoing};

use crate::flow::{Flow, FlowDevice, Shared};
use crate::{Error, Host, Options};

pub(super) type Stack = stack_layer::Udp<Ip4<Ether<FlowDevice>>>;

/// The layers of a socket on one link.
#[derive(Debug)]
pub(super) struct Door {
    desk: Mutex<Desk>,
    pub(super) shared: Arc<Shared>,
}

/// What is protected by the lock. With it held, nobody asks the flow manager.
#[derive(Debug)]
pub(super) struct Desk {
    // Dropped before the flow is closed.
    pub(super) stack: Stack,
    /// Datagrams that were taken from the channel for the control messages behind them.
    inbox: VecDeque<Incoming<ShmData>>,
    pub(super) flow: Flow,
    /// Threads that sleep, by [`Side`].
    sleepers: [u32; 2],
    pub(super) rejected: u64,
    /// Whether the flow has no ends, for the socket is connected to somebody on another link.
    is_off: bool,
    /// What the flow is about to be with: the driver may know that before this side does.
    turning: Option<Turning>,
}

/// A flow's way to other ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turning {
    /// With whom it will be.
    pub(super) to: Option<SocketAddr>,
    /// Whether it may be at another of our addresses then.
    pub(super) changes_source: bool,
}

/// Whom a flow is with, as far as this side knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    Nobody,
    Anybody,
    One(SocketAddr),
}

/// What a thread waits for: buffers to send, or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Send,
    Receive,
}

impl Door {
    /// A flow between `endpoints`, on `link` if they do not decide where.
    pub(super) fn open(
        host: &Host,
        options: &Options,
        endpoints: Endpoints,
        link: Option<u16>,
    ) -> Result<Arc<Self>, Error> {
        let mut flow = Flow::open_on(host, options, endpoints, None, link, u64::MAX)?;
        let fib = *flow.fib();
        let device = flow
            .take_device()
            .ok_or_else(|| Error::Protocol("the flow has a stack already".into()))?;
        let network = Ip4::new(Ether::new(device, &fib), &fib, Protocol::UDP)?;
        let stack = stack_layer::Udp::new(network, &fib);
        let shared = Arc::clone(&flow.shared);
        let inbox = VecDeque::new();
        let desk = Desk {
            stack,
            inbox,
            flow,
            sleepers: [0; 2],
            rejected: 0,
            is_off: false,
            turning: None,
        };
        Ok(Arc::new(Self { desk: Mutex::new(desk), shared }))
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most payload of a datagram on the link.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.desk().stack.payload_bytes_max()
    }

    /// Whom the flow is with.
    pub(super) fn with(&self) -> With {
        self.desk().with()
    }

    /// Takes the flow's ends away.
    pub(super) fn switch_off(&self) {
        if !std::mem::replace(&mut self.desk().is_off, true) {
            self.shared.detach();
        }
    }
}

impl Desk {
    pub(super) fn device(&mut self) -> &mut FlowDevice {
        self.stack.device()
    }

    pub(super) fn fib(&self) -> &Fib {
        self.flow.fib()
    }

    /// Whom the flow is with.
    pub(super) fn with(&self) -> With {
        match self.fib().endpoints.remote {
            _ if self.is_off => With::Nobody,
            None => With::Anybody,
            Some(remote) => With::One(remote.into()),
        }
    }

    /// Whether datagrams can be sent to a host, and will not be refused on their way.
    pub(super) fn admits(&self, to: SocketAddr) -> bool {
        let remains =
            |turning: Turning| !turning.changes_source && turning.to.is_none_or(|whom| whom == to);
        [With::Anybody, With::One(to)].contains(&self.with()) && self.turning.is_none_or(remains)
    }

    /// Whether the flow is with a host, and knows the next hop.
    pub(super) fn is_direct(&self, to: SocketAddr) -> bool {
        self.admits(to) && self.with() == With::One(to) && self.fib().next_hop_mac.is_some()
    }

    /// The flow is about to be with somebody, or is with whom it was to be with, or not.
    pub(super) const fn set_turning(&mut self, turning: Option<Turning>) {
        self.turning = turning;
    }

    /// The flow was given ends.
    pub(super) const fn switch_on(&mut self) {
        self.is_off = false;
    }

    /// Hears of what the flow manager has changed.
    pub(super) fn hear(&mut self, shared: &Shared) -> Result<(), Error> {
        let rejected = self.device().rejected();
        if rejected != self.rejected {
            // Refused packets may mean that the way has changed: ask now, not later.
            self.rejected = rejected;
            shared.host().hear_notices();
        }
        if let Some(fib) = shared.news()?.and_then(|changes| changes.fib) {
            self.flow.set_fib(fib);
            self.stack.set_endpoints(&fib)?;
        }
        Ok(())
    }

    /// The next datagram.
    pub(super) fn receive(&mut self) -> Result<Option<Incoming<ShmData>>, Error> {
        match self.inbox.pop_front() {
            Some(packet) => Ok(Some(packet)),
            None => Ok(self.stack.receive()?),
        }
    }

    /// The next datagram, of those from `only` if it is somebody: others' are dropped, and counted.
    pub(super) fn receive_from(
        &mut self,
        only: Option<SocketAddr>,
        shared: &Arc<Shared>,
    ) -> Result<Option<Incoming<ShmData>>, Error> {
        // No more than there are buffers, for none is given back meanwhile.
        let mut others = Vec::new();
        let mut found = None;
        while let Some(packet) = self.receive()? {
            if only.is_none() || packet.from() == only {
                found = Some(packet);
                break;
            }
            others.push(packet);
        }
        if !others.is_empty() {
            shared.count_strangers(others.len() as u64);
            // No more will come than these, that were here before.
            if matches!(self.with(), With::One(_)) {
                shared.tell_strangers();
            }
        }
        for packet in others {
            self.stack.give_back(packet)?;
        }
        Ok(found)
    }

    /// The next control message, behind whatever datagrams.
    pub(super) fn control(&mut self) -> Result<Option<Control>, Error> {
        if let Some(control) = self.stack.take_control() {
            return Ok(Some(control));
        }
        // No more than there are buffers, for none is given back meanwhile.
        while let Some(packet) = self.stack.receive()? {
            self.inbox.push_back(packet);
        }
        Ok(self.stack.take_control())
    }

    /// A buffer to send from.
    pub(super) fn packet(&mut self) -> Result<Option<Outgoing<ShmData>>, Error> {
        Ok(self.stack.packet()?)
    }

    /// How many datagrams were sent.
    pub(super) fn sent(&mut self) -> u64 {
        self.device().sent().0
    }

    /// How many of them have left.
    pub(super) fn left(&mut self) -> Result<u64, Error> {
        self.device().reap()?;
        Ok(self.device().sent().1)
    }

    pub(super) fn kick(&mut self, shared: &Shared) {
        shared.kick(self.device());
    }

    /// Announces to the driver that a thread is about to sleep; the count it has seen, or `None` if
    /// there is something by now.
    pub(super) fn fall_asleep(&mut self, side: Side) -> Result<Option<u64>, Error> {
        if side == Side::Receive && !self.inbox.is_empty() {
            return Ok(None);
        }
        let device = self.device();
        let seen = match side {
            // Until half of the buffers that are out are back, not until one is: fewer wake-ups.
            Side::Send => {
                let (total, free) = device.send_buffers();
                device.tx().await_published(((total - free) as u64).max(2))?
            }
            Side::Receive => device.rx().await_published(1)?,
        };
        self.sleepers[side as usize] += u32::from(seen.is_some());
        Ok(seen)
    }

    /// A thread has slept; the last one says so to the driver.
    pub(super) fn wake_up(&mut self, side: Side) {
        self.sleepers[side as usize] -= 1;
        if self.sleepers[side as usize] == 0 {
            let device = self.device();
            match side {
                Side::Send => device.tx().awake(),
                Side::Receive => device.rx().awake(),
            }
        }
    }
}
