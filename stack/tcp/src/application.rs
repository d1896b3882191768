//! What the application and its surroundings say: write, read, close, options; routers and links.

use base_wire::ControlError;

use crate::Position;
use crate::config::{Algorithm, Config, Keepalive};
use crate::connection::{Connection, Error, State};

/// Why nothing can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This side has closed the stream.
    #[error("the stream was shut down for writing")]
    ShutDown,
    /// There is no connection any more.
    #[error("the connection has ended")]
    Ended,
}

/// What a router says about packets of a connection (RFC 9293 §3.9.2.2, RFC 5461).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterError {
    /// They do not arrive, and why.
    Undelivered(Error),
    /// They must not be larger than this many bytes.
    TooBig(u16),
}

impl From<ControlError> for RouterError {
    /// A control message as a connection reads it (MUST-54, MUST-55), each code as Linux does.
    fn from(said: ControlError) -> Self {
        let why = match said {
            ControlError::TooLarge { mtu } => return Self::TooBig(mtu),
            ControlError::ProtocolUnreachable => Error::ProtocolUnreachable,
            ControlError::PortUnreachable => Error::Refused,
            ControlError::SourceRouteFailed => Error::SourceRoute,
            ControlError::HostUnknown => Error::HostUnknown,
            ControlError::HostIsolated => Error::HostIsolated,
            ControlError::NetworkUnreachable
            | ControlError::NetworkUnknown
            | ControlError::NetworkProhibited => Error::NetUnreachable,
            ControlError::HostUnreachable
            | ControlError::Prohibited
            | ControlError::TimeExceeded => Error::HostUnreachable,
            ControlError::ParameterProblem => Error::Header,
        };
        Self::Undelivered(why)
    }
}

impl Connection {
    /// The application put `bytes` more into the send buffer; `more` will follow soon, so a segment that is
    /// not full waits for it: until it comes, the peer answers something, or a time-out has passed.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing is sent then.
    pub fn write(&mut self, bytes: u64, more: bool) -> Result<(), WriteError> {
        if self.send.fin {
            return Err(WriteError::ShutDown);
        }
        if !self.state.can_send() {
            return Err(WriteError::Ended);
        }
        self.send.written += bytes;
        if !more {
            self.send.push = self.send.written;
        }
        self.send.more = more && (bytes > 0 || self.send.more);
        Ok(())
    }

    /// What was written last ends a record: the segment that carries its end carries nothing more (Linux's
    /// `MSG_EOR`).
    pub fn end_record(&mut self) {
        self.send.records.end(self.send.written);
    }

    /// Marks what was written last as urgent (RFC 9293 §3.8.5; RFC 6093 advises against it).
    pub const fn mark_urgent(&mut self) {
        self.send.urgent = Some(self.send.written);
    }

    /// How far the stream that is read is urgent, in bytes from the next one that will be read on (RFC 9293
    /// MUST-33).
    pub fn urgent_bytes(&self) -> Option<u64> {
        let read = self.receive.next().before(self.receive.readable());
        self.receive.urgent.filter(|end| *end > read).map(|end| end - read)
    }

    /// The application has read `bytes`, and their place is free again.
    pub fn consume(&mut self, now_ns: u64, bytes: u64) {
        if self.receive.consume(now_ns, bytes) && self.state.is_synchronised() {
            self.receive.acks.now = true;
        }
    }

    /// Another congestion control from now on. The window stays, until the new one has heard of the path.
    pub fn set_congestion(&mut self, algorithm: Algorithm) {
        self.control = algorithm.build();
        self.config.congestion = algorithm;
    }

    /// The buffer for what was received and not read has this size from now on. The window that was
    /// announced stays.
    pub fn set_receive_bytes(&mut self, bytes: u64) {
        self.receive.set_capacity(bytes);
        if self.state.is_synchronised() && self.receive.opens() {
            self.receive.acks.now = true;
        }
    }

    /// No wider window is announced from now on, however large the buffer is. The window that was announced stays.
    pub const fn set_window_clamp(&mut self, bytes: u64) {
        self.receive.set_clamp(bytes);
    }

    /// How long a connection that is closed here waits for a peer that does not close.
    pub const fn set_fin_wait_ns(&mut self, wait_ns: u64) {
        self.config.fin_wait_2_ns = wait_ns;
    }

    /// No more will be written: a FIN follows what was. Reading goes on.
    pub fn shut_down(&mut self, now_ns: u64) {
        match self.state {
            State::SynSent => {
                // Nothing was established, so there is nothing to finish (RFC 9293 §3.10.4).
                self.enter(now_ns, State::Closed);
                self.timers.stop();
                self.pending.quiet();
            }
            // As soon as the handshake allows.
            State::SynReceived => self.send.fin = true,
            State::Established => {
                self.send.fin = true;
                self.enter(now_ns, State::FinWait1);
            }
            State::CloseWait => {
                self.send.fin = true;
                self.enter(now_ns, State::LastAck);
            }
            _ => {}
        }
    }

    /// The application is done: what was written is still delivered, but nothing is read any more.
    ///
    /// If something was received and not read, or is received from now on, the peer is told by a
    /// reset that it was not read (RFC 2525 §2.17).
    pub fn close(&mut self, now_ns: u64) {
        self.unread = true;
        if self.state == State::TimeWait {
            return;
        }
        if self.receive.readable() > 0 && self.is_open() {
            self.abort(now_ns);
            return;
        }
        self.shut_down(now_ns);
        self.wait_for_fin(now_ns);
    }

    /// Ends the connection at once; the peer hears it by a reset (RFC 9293 §3.10.5).
    pub fn abort(&mut self, now_ns: u64) {
        let known = match self.state {
            State::Closed | State::SynSent | State::TimeWait => false,
            // Both sides have said everything; has it arrived?
            State::Closing | State::LastAck => self.unacknowledged() > 0,
            _ => true,
        };
        if known {
            let next: Position = self.map.end();
            self.pending.reset(next, Some(self.receive.next()));
        }
        if self.state != State::Closed {
            self.fail(now_ns, Error::Aborted);
        }
    }

    /// Small segments wait for nothing (MUST-17).
    pub const fn set_no_delay(&mut self, on: bool) {
        self.send.no_delay = on;
    }

    /// Whether small segments are sent at once.
    pub const fn no_delay(&self) -> bool {
        self.send.no_delay
    }

    /// What was written waits for nothing more, whatever holds small segments back.
    pub const fn flush(&mut self) {
        self.send.flush = self.send.written;
    }

    /// Small segments wait until this is off again, or until a time-out has passed: an application that
    /// forgets them should not lose them.
    pub const fn set_cork(&mut self, on: bool) {
        self.send.cork = on;
    }

    /// Probes the connection when it is idle, or not.
    ///
    /// RFC 9293 MUST-24, MUST-27: both whether and how often are the application's choice.
    pub const fn set_keepalive(&mut self, keepalive: Option<Keepalive>) {
        self.config.keepalive = keepalive;
    }

    /// Data unacknowledged for so long ends the connection (MUST-21, RFC 5482); 0 for the default.
    pub fn set_user_timeout_ns(&mut self, timeout_ns: u64) {
        let default_ns = Config::default().user_timeout_ns;
        self.config.user_timeout_ns = if timeout_ns == 0 { default_ns } else { timeout_ns };
    }

    /// A SYN is repeated so often before it is given up, if that is sooner than by time.
    pub const fn set_syn_repetitions(&mut self, repetitions: Option<u8>) {
        self.config.syn_repetitions = repetitions;
    }

    /// Most bytes a second to send.
    pub const fn set_pacing(&mut self, bytes_per_second: Option<u64>) {
        self.config.pacing_bytes_per_second = bytes_per_second;
        if bytes_per_second.is_none() {
            self.timers.pace_ns = 0;
        }
    }

    /// How much one [`Transmit`](crate::Transmit) may carry.
    pub const fn set_super_segment_bytes(&mut self, bytes: u32) {
        self.config.super_segment_bytes = bytes;
    }

    /// How much one [`Transmit`](crate::Transmit) may carry; 0 for one segment.
    pub const fn super_segment_bytes(&self) -> u32 {
        self.config.super_segment_bytes
    }

    /// Of all that [`Self::poll_transmit`] returned, what has a number up to this one has left the
    /// host. What has not is not sent again: its first copy is still to come. A connection that is never
    /// told takes everything for departed.
    pub const fn set_departed(&mut self, number: u64) {
        self.send.departed = number;
    }

    /// A router quotes a segment of this connection and says what became of it.
    ///
    /// Believed only if the quoted number is in flight (RFC 5927 §4.1); an established connection is
    /// never ended by it (MUST-56, RFC 5927 §5), for anybody can say it. An attempt is: whoever waits
    /// for one of ours had better know at once, and can try another address (RFC 5461 §4.1, as Linux does);
    /// and nobody waits for a peer's.
    pub fn on_router_error(&mut self, now_ns: u64, sequence: u32, error: RouterError) {
        let quoted = self.map.start().nearest(sequence);
        if self.state == State::Closed || quoted < self.map.start() || quoted >= self.map.end() {
            return;
        }
        let is_attempt = !self.state.is_synchronised();
        match error {
            RouterError::TooBig(mtu) => {
                if self.path.too_big(now_ns, mtu) {
                    self.mtu_changed(now_ns);
                }
                if self.state == State::SynSent && self.on_syn_bytes() > 0 {
                    // It was the data on it: the SYN leaves again, alone.
                    self.map.mark_lost(|_, _| Some(true));
                }
            }
            RouterError::Undelivered(why) if is_attempt => self.fail(now_ns, why),
            RouterError::Undelivered(why) => self.soft_error = Some(why),
        }
    }

    /// It is known that packets larger than `mtu` do not get to the peer: another connection found out.
    pub fn set_path_mtu(&mut self, now_ns: u64, mtu: u16) {
        if self.path.remember(now_ns, mtu) {
            self.mtu_changed(now_ns);
        }
    }

    /// What this connection found out of the size of packets that get to the peer, and others who talk to it
    /// had better know (RFC 1191 §6.3); once.
    pub const fn take_path_news(&mut self) -> Option<u16> {
        self.path.take_news()
    }

    /// The way to the peer has changed: another link, another next hop.
    pub fn on_route(&mut self, now_ns: u64, mtu: u16) {
        if mtu != self.config.mtu {
            self.config.mtu = mtu;
            self.path.set_link(mtu);
            self.mtu_changed(now_ns);
        }
    }
}
