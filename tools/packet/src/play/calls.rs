//! System calls of a script.

use stack_tcp::Algorithm;

use super::{Call, Errno, Fd, Player, REMOTE, Value, Waiting};
use crate::Readiness;
use crate::byte_at;
use crate::option::SocketOption;

/// What a call returns, or what it fails with.
type Returned = Result<i64, Errno>;

/// Where the peer listens.
const SERVER_PORT: u16 = 8080;

impl Player {
    /// Does a call. One that has an end waits until then.
    pub(super) fn call(&mut self, call: &Call, ends_ns: Option<u64>) -> Result<(), String> {
        if self.waits.is_some() {
            return Err("the call before this one still waits".to_string());
        }
        self.booted = true;
        let returned = self.attempt(call)?;
        match (returned, ends_ns) {
            (Err(error @ (Errno::Again | Errno::InProgress)), Some(ends_ns)) => {
                let connects = error == Errno::InProgress;
                self.waits = Some(Waiting { call: call.clone(), ends_ns, connects });
                Ok(())
            }
            (returned, _) => finish(call, returned),
        }
    }

    /// Asks again for what a waiting call waits for.
    pub(super) fn wake(&mut self) -> Result<(), String> {
        let Some(waiting) = self.waits.take() else { return Ok(()) };
        let returned = if waiting.connects {
            let fd = descriptor(&waiting.call, 0)?;
            self.host.connected(fd).map(|()| 0)
        } else {
            self.attempt(&waiting.call)?
        };
        if let Err(Errno::Again | Errno::InProgress) = returned {
            if self.host.now_ns() > waiting.ends_ns + self.tolerance_ns {
                return Err(format!("{} still waits", waiting.call.name));
            }
            self.waits = Some(waiting);
            return Ok(());
        }
        let difference_ns = self.host.now_ns().abs_diff(waiting.ends_ns);
        if difference_ns > self.tolerance_ns {
            let now = self.host.now_ns() as f64 / 1e9;
            return Err(format!("{} returned at {now:.6} s", waiting.call.name));
        }
        finish(&waiting.call, returned)
    }

    fn attempt(&mut self, call: &Call) -> Result<Returned, String> {
        let host = &mut self.host;
        Ok(match call.name.as_str() {
            "socket" => {
                let fd = host.socket();
                self.begins(fd);
                Ok(i64::from(fd))
            }
            "bind" => {
                let fd = descriptor(call, 0)?;
                host.bind(fd, super::OUR_PORT).map(|()| 0)
            }
            "listen" => {
                let backlog = usize::try_from(number(call, 1)?).unwrap_or(0);
                host.listen(descriptor(call, 0)?, backlog).map(|()| 0)
            }
            "accept" | "accept4" => host.accept(descriptor(call, 0)?).map(|(fd, _)| {
                self.subject = fd;
                self.begins(fd);
                i64::from(fd)
            }),
            "connect" => self.connect(descriptor(call, 0)?),
            "read" | "recv" => self.read(call)?,
            "write" | "send" => self.write(call)?,
            "shutdown" => {
                let (reading, writing) = match names(call, 1)?.as_slice() {
                    [how] if how == "SHUT_RD" => (true, false),
                    [how] if how == "SHUT_WR" => (false, true),
                    [how] if how == "SHUT_RDWR" => (true, true),
                    _ => return Err("SHUT_RD, SHUT_WR or SHUT_RDWR is needed".to_string()),
                };
                host.shut_down(descriptor(call, 0)?, reading, writing).map(|()| 0)
            }
            "close" => host.close(descriptor(call, 0)?).map(|()| 0),
            // Whether a call waits is said by its time.
            "fcntl" => Ok(match &call.returns {
                Value::Number(number) => *number,
                _ => 0,
            }),
            "setsockopt" => self.set_option(call)?,
            "getsockopt" => self.get_option(call)?,
            "ioctl" => self.ioctl(call)?,
            "poll" => self.poll(call)?,
            other => return Err(format!("the call {other} is not known")),
        })
    }

    /// A descriptor is used anew.
    fn begins(&mut self, fd: Fd) {
        self.written.remove(&fd);
        self.read.remove(&fd);
    }

    fn connect(&mut self, fd: Fd) -> Returned {
        self.subject = fd;
        let result = self.host.connect(fd, (REMOTE, SERVER_PORT));
        if result == Err(Errno::InProgress)
            && let Some(ports) =
                self.host.next_sent().and_then(|sent| super::ports_of(&sent.packet))
        {
            self.ports = ports;
        }
        result.map(|()| 0)
    }

    fn read(&mut self, call: &Call) -> Result<Returned, String> {
        let fd = descriptor(call, 0)?;
        let bytes = usize::try_from(number(call, 2)?).map_err(|_| "a length is needed")?;
        let flags = names(call, 3).unwrap_or_default();
        let has = |flag: &str| flags.iter().any(|name| name == flag);
        let mut out = vec![0; bytes];
        let returned = self.host.read(fd, &mut out, has("MSG_PEEK"));
        if let Ok(taken) = returned {
            let from = self.read.entry(fd).or_default();
            if let Some((_, at)) =
                out[..taken].iter().zip(*from..).find(|(byte, at)| **byte != byte_at(*at))
            {
                return Err(format!("byte {at} of what was read is wrong"));
            }
            if !has("MSG_PEEK") {
                *from += taken as u64;
            }
        }
        Ok(returned.map(|taken| taken as i64))
    }

    fn write(&mut self, call: &Call) -> Result<Returned, String> {
        let fd = descriptor(call, 0)?;
        let bytes = u64::try_from(number(call, 2)?).map_err(|_| "a length is needed")?;
        let flags = names(call, 3).unwrap_or_default();
        let has = |flag: &str| flags.iter().any(|name| name == flag);
        let from = self.written.get(&fd).copied().unwrap_or(0);
        let content: Vec<u8> = (from..from + bytes).map(byte_at).collect();
        let returned = match has("MSG_OOB") {
            true => self.host.write_urgent(fd, &content),
            false => self.host.write(fd, &content, has("MSG_MORE")),
        };
        if let Ok(taken) = returned {
            *self.written.entry(fd).or_default() += taken as u64;
        }
        Ok(returned.map(|taken| taken as i64))
    }

    fn set_option(&mut self, call: &Call) -> Result<Returned, String> {
        let fd = descriptor(call, 0)?;
        let name = names(call, 2)?.join("|");
        let value = match call.arguments.get(3) {
            Some(Value::List(list)) => list.first().cloned(),
            other => other.cloned(),
        };
        let number = match &value {
            Some(Value::Number(number)) => *number,
            _ => 0,
        };
        let u32_of = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        let option = match name.as_str() {
            "SO_REUSEADDR" | "IP_MTU_DISCOVER" | "TCP_QUICKACK" => return Ok(Ok(0)),
            "TCP_NODELAY" => SocketOption::NoDelay(number != 0),
            "TCP_CORK" => SocketOption::Cork(number != 0),
            "TCP_MAXSEG" => match u16::try_from(number) {
                Ok(bytes @ (0 | 48..=32_767)) => SocketOption::SegmentBytes(bytes),
                _ => return Ok(Err(Errno::Invalid)),
            },
            "SO_KEEPALIVE" => SocketOption::Keepalive(number != 0),
            "TCP_KEEPIDLE" => SocketOption::KeepaliveIdle(u32_of(number)),
            "TCP_KEEPINTVL" => SocketOption::KeepaliveInterval(u32_of(number)),
            "TCP_KEEPCNT" => SocketOption::KeepaliveProbes(u8::try_from(number).unwrap_or(u8::MAX)),
            "TCP_USER_TIMEOUT" => SocketOption::UserTimeout(u32_of(number)),
            "TCP_LINGER2" => SocketOption::FinWait2(u32_of(number)),
            "SO_RCVBUF" => SocketOption::ReceiveBytes(u32_of(number)),
            "SO_SNDBUF" => SocketOption::SendBytes(u32_of(number)),
            "SO_MAX_PACING_RATE" => SocketOption::Pacing(u64::from(u32_of(number))),
            "IP_TOS" => SocketOption::TypeOfService(number as u8),
            "SO_LINGER" => match &value {
                Some(Value::Struct(fields)) => {
                    let field = |wanted: &str| {
                        fields.iter().find_map(|(name, value)| match value {
                            Value::Number(number) if name == wanted => Some(*number),
                            _ => None,
                        })
                    };
                    let on = field("onoff").unwrap_or(0) != 0;
                    SocketOption::Linger(on.then(|| u32_of(field("linger").unwrap_or(0))))
                }
                _ => return Err("SO_LINGER takes {onoff=1, linger=0}".to_string()),
            },
            "TCP_CONGESTION" => match &value {
                Some(Value::Text(name)) if name == "cubic" => {
                    SocketOption::Congestion(Algorithm::Cubic)
                }
                Some(Value::Text(name)) if name == "reno" => {
                    SocketOption::Congestion(Algorithm::Reno)
                }
                _ => return Err("TCP_CONGESTION is cubic or reno".to_string()),
            },
            other => return Err(format!("the option {other} is not known")),
        };
        Ok(self.host.set(fd, option).map(|()| 0))
    }

    fn get_option(&mut self, call: &Call) -> Result<Returned, String> {
        let fd = descriptor(call, 0)?;
        let name = names(call, 2)?.join("|");
        let expected = match call.arguments.get(3) {
            Some(Value::List(list)) => list.first().cloned(),
            other => other.cloned(),
        };
        let value = match name.as_str() {
            "SO_ERROR" => match self.host.take_error(fd) {
                Ok(error) => {
                    let expected = match &expected {
                        Some(Value::Names(names)) => names.join("|"),
                        _ => "0".to_string(),
                    };
                    let name = error.map_or("0", Errno::name);
                    return match name == expected {
                        true => Ok(Ok(0)),
                        false => Err(format!("SO_ERROR is {name}")),
                    };
                }
                Err(error) => return Ok(Err(error)),
            },
            "TCP_MAXSEG" => self.host.information(fd).map(|info| info.snd_mss as i64),
            other => return Err(format!("the option {other} cannot be asked for")),
        };
        match (value, expected) {
            (Ok(value), Some(Value::Number(expected))) if value != expected => {
                Err(format!("{name} is {value}"))
            }
            (value, _) => Ok(value.map(|_| 0)),
        }
    }

    fn ioctl(&mut self, call: &Call) -> Result<Returned, String> {
        let fd = descriptor(call, 0)?;
        let value = match names(call, 1)?.join("|").as_str() {
            "SIOCINQ" => self.host.queued(fd).map(|(readable, _)| readable as i64),
            "SIOCOUTQ" => self.host.queued(fd).map(|(_, written)| written as i64),
            "SIOCATMARK" => self.host.urgent_bytes(fd).map(|urgent| i64::from(urgent == Some(1))),
            other => return Err(format!("the request {other} is not known")),
        };
        match (value, call.arguments.get(2)) {
            (Ok(value), Some(Value::List(list))) if !matches!(list.first(), Some(Value::Number(number)) if *number == value) => {
                Err(format!("the value is {value}"))
            }
            (value, _) => Ok(value.map(|_| 0)),
        }
    }

    /// One descriptor: `poll([{fd=4, events=POLLIN, revents=POLLIN}], 1, 1000) = 1`.
    fn poll(&mut self, call: &Call) -> Result<Returned, String> {
        let Some(Value::List(list)) = call.arguments.first() else {
            return Err("poll takes a list".to_string());
        };
        let (mut ready, mut problem) = (0, None);
        for entry in list {
            let Value::Struct(fields) = entry else { return Err("poll takes structs".to_string()) };
            let field = |wanted: &str| {
                fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
            };
            let Some(Value::Number(fd)) = field("fd") else {
                return Err("fd is missing".to_string());
            };
            let events = list_of(field("events"));
            let wanted = list_of(field("revents"));
            let readiness =
                self.host.readiness(fd as Fd).map_err(|error| format!("poll: {error}"))?;
            let got = events_of(&readiness, &events);
            ready += i64::from(!got.is_empty());
            let mut sorted = wanted.clone();
            sorted.sort_unstable();
            if sorted != got {
                problem = Some(format!("revents is {}", got.join("|")));
            }
        }
        if ready == 0 && !matches!(call.returns, Value::Number(0)) {
            return Ok(Err(Errno::Again));
        }
        problem.map_or(Ok(Ok(ready)), Err)
    }
}

fn list_of(value: Option<Value>) -> Vec<String> {
    match value {
        Some(Value::Names(names)) => names,
        _ => Vec::new(),
    }
}

/// What `poll` says, in the order of the alphabet.
fn events_of(ready: &Readiness, events: &[String]) -> Vec<String> {
    let asked = |name: &str| events.iter().any(|event| event == name);
    let all = [
        ("POLLERR", ready.has(Readiness::ERR)),
        ("POLLHUP", ready.has(Readiness::HUP)),
        ("POLLIN", ready.has(Readiness::IN) && asked("POLLIN")),
        ("POLLOUT", ready.has(Readiness::OUT) && asked("POLLOUT")),
        ("POLLRDHUP", ready.has(Readiness::RDHUP) && asked("POLLRDHUP")),
    ];
    all.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_string()).collect()
}

/// Compares what a call returned with what it was to return.
fn finish(call: &Call, returned: Returned) -> Result<(), String> {
    let name = &call.name;
    match (&call.returns, &call.errno, returned) {
        (_, Some(wanted), Err(error)) if error.name() == wanted => Ok(()),
        (Value::Any, None, Ok(_)) => Ok(()),
        (Value::Number(wanted), None, Ok(value)) if *wanted == value => Ok(()),
        (_, _, Ok(value)) => Err(format!("{name} returned {value}")),
        (_, _, Err(error)) => Err(format!("{name} failed: {} ({error})", error.name())),
    }
}

fn number(call: &Call, index: usize) -> Result<i64, String> {
    match call.arguments.get(index) {
        Some(Value::Number(number)) => Ok(*number),
        _ => Err(format!("argument {} of {} is to be a number", index + 1, call.name)),
    }
}

fn descriptor(call: &Call, index: usize) -> Result<Fd, String> {
    Fd::try_from(number(call, index)?).map_err(|_| "no descriptor".to_string())
}

fn names(call: &Call, index: usize) -> Result<Vec<String>, String> {
    match call.arguments.get(index) {
        Some(Value::Names(names)) => Ok(names.clone()),
        _ => Err(format!("argument {} of {} is to be a name", index + 1, call.name)),
    }
}
