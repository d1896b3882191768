//! smoltcp as a host: another implementation, written by others from the same RFCs.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tools_sim::tcp::{Behaviour, Host, Progress, RawPacket, byte_at};

#[derive(Default)]
struct Queues {
    arrived: VecDeque<RawPacket>,
    leaving: Vec<RawPacket>,
}

struct Arrived(RawPacket);
struct Leaving<'a>(&'a mut Vec<RawPacket>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// A host with smoltcp's stack.
pub struct Smoltcp {
    side: u8,
    queues: Queues,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    behaviour: Behaviour,
    progress: Progress,
    deadline_ns: Option<u64>,
    closed: bool,
}

fn instant(now_ns: u64) -> Instant {
    Instant::from_micros((now_ns / 1000) as i64)
}

impl Smoltcp {
    /// The host at end `side`, which opens the connection or waits for it.
    pub fn new(side: u8, behaviour: Behaviour, buffer: usize, opens: bool) -> Self {
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut queues, instant(0));
        let address = |side: u8| IpAddress::v4(10, 0, 0, 1 + side);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(address(side), 24)).unwrap());
        let ring = |bytes: usize| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(ring(buffer), ring(buffer));
        socket.set_congestion_control(CongestionControl::Reno);
        socket.set_nagle_enabled(false);
        let (local, remote) = (4000 + u16::from(side), 4001 - u16::from(side));
        if opens {
            socket.connect(interface.context(), (address(1 - side), remote), local).unwrap();
        } else {
            socket.listen(local).unwrap();
        }
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        let progress = Progress::default();
        let deadline_ns = opens.then_some(0);
        Self {
            side,
            queues,
            interface,
            sockets,
            handle,
            behaviour,
            progress,
            deadline_ns,
            closed: false,
        }
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn work(&mut self, now_ns: u64) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut out = [0; 4096];
        while let Ok(bytes) = socket.recv_slice(&mut out) {
            if bytes == 0 {
                break;
            }
            self.progress.check(1 - self.side, now_ns, &out[..bytes]);
        }
        self.progress.ended |= matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        ) && !socket.can_recv();
        while socket.can_send() && self.progress.written < self.behaviour.writes {
            let from = self.progress.written;
            let to = (from + 4096).min(self.behaviour.writes);
            let chunk: Vec<u8> = (from..to).map(|offset| byte_at(self.side, offset)).collect();
            self.progress.written += socket.send_slice(&chunk).unwrap() as u64;
        }
        let done = self.progress.written == self.behaviour.writes && socket.may_send();
        if done && !self.closed {
            self.closed = true;
            socket.close();
        }
    }
}

impl Host for Smoltcp {
    fn arrive(&mut self, _now_ns: u64, packet: &[u8]) {
        self.queues.arrived.push_back(packet.to_vec());
    }

    fn poll(&mut self, now_ns: u64, out: &mut dyn FnMut(RawPacket)) {
        for _ in 0..2 {
            self.interface.poll(instant(now_ns), &mut self.queues, &mut self.sockets);
            self.work(now_ns);
        }
        self.interface.poll(instant(now_ns), &mut self.queues, &mut self.sockets);
        self.queues.leaving.drain(..).for_each(out);
        // A microsecond later at least: its clock has no finer ticks.
        let at = self.interface.poll_at(instant(now_ns), &self.sockets);
        self.deadline_ns = at.map(|at| (at.total_micros() as u64 * 1000).max(now_ns + 1000));
    }

    fn deadline(&self) -> Option<u64> {
        self.deadline_ns
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn is_over(&self) -> bool {
        self.closed && matches!(self.socket().state(), State::Closed | State::TimeWait)
    }

    fn failure(&self) -> Option<String> {
        let ended = self.socket().state() == State::Closed && !self.closed;
        ended.then(|| "smoltcp closed".into())
    }
}
