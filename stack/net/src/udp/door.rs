//! A UDP socket on one link: its flow, and the layers over it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_flow::{Endpoints, Fib};
use rbuf_shm::ShmData;
use stack_layer::{Control, Ether, Incoming, Layer as _, Outgoing};

use crate::flow::{Flow, FlowDevice, Shared};
use crate::{Error, Host, Options};

pub(super) type Stack = stack_layer::Udp<Ether<FlowDevice>>;

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
        let stack = stack_layer::Udp::new(Ether::new(device, &fib), &fib).ok_or_else(only_ipv4)?;
        let shared = Arc::clone(&flow.shared);
        let inbox = VecDeque::new();
        let desk = Desk { stack, inbox, flow, sleepers: [0; 2], rejected: 0 };
        Ok(Arc::new(Self { desk: Mutex::new(desk), shared }))
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most payload of a datagram on the link.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.desk().stack.payload_bytes_max()
    }

    /// Gives the flow other ends.
    pub(super) fn attach(&self, endpoints: Endpoints) -> Result<(), Error> {
        let fib = self.shared.attach(endpoints)?;
        let mut desk = self.desk();
        desk.flow.set_fib(fib);
        if desk.stack.set_endpoints(&fib) { Ok(()) } else { Err(only_ipv4()) }
    }
}

fn only_ipv4() -> Error {
    Error::Address("only IPv4 has a UDP layer yet".into())
}

impl Desk {
    pub(super) fn device(&mut self) -> &mut FlowDevice {
        self.stack.lower().lower().lower()
    }

    pub(super) fn fib(&self) -> &Fib {
        self.flow.fib()
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
            self.stack.reorganise(&fib);
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

    /// The next datagram, of those from `only` if it is somebody: others' are dropped.
    pub(super) fn receive_from(
        &mut self,
        only: Option<SocketAddr>,
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

    /// Whether everything that was sent has left.
    pub(super) fn has_left(&mut self) -> Result<bool, Error> {
        self.device().reap()?;
        let (total, free) = self.device().send_buffers();
        Ok(total == free)
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
