//! The keeper: a process that closes the connections of applications, where the kernel cannot refuse descriptors
//! to who sends them (before Linux 6.16).
//!
//! What happens when a descriptor is closed is up to who chose it: a socket lingers as long as its owner likes, and a
//! file of his own file system, or a socket whose lock he holds, can keep who closes it asleep where not even SIGKILL
//! wakes it. Descriptors beside a message are closed by whoever discards it: who reads it and does not take them,
//! who closes the connection last in whose queue it is, or the listener at which that waits to be accepted, and who
//! ends with one of these.
//!
//! The flow manager does none of this. It looks before it reads ([`Connection::wary`]), leaves a message with
//! descriptors where it is, and sends away who sent it. Of the listener and of every connection the keeper has a copy,
//! from before its first message is read until after the flow manager has closed its own: that is never the last,
//! also when the flow manager is killed. The keeper takes out what it can, closes those connections in which nothing
//! else is, and gives the others to threads that may stand, each for one user at a time.
//!
//! A keeper that stands hurts nobody: it has nothing else, its clients have been told before that their connection
//! has ended, and a flow manager can end and another start beside it. When the flow manager is gone, the keeper ends
//! what is left, and itself. If a thread of it sleeps uninterruptibly, its process stays until that is over, whoever
//! kills it, and so does what waits for all its children: a lab, or a PID namespace.
//!
//! | Instead | Why not |
//! |---|---|
//! | a thread of the flow manager, with descriptors of its own | the process would not end before it |
//! | a process for each user that reads and passes words on | turns and back-pressure at two places, every request twice through the kernel |
//! | a pipe for the requests of each application, and a socket that is never read | its queue has to be closed by somebody all the same, and on more kernels the look costs a microsecond |
//! | to have the kernel collect such sockets as unreachable | it does so in one thread for the whole host |

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use base_rpc::MESSAGE_BYTES_MAX;
use rbuf_shm::{Calls, ConfineError, Connection, ReceiveError, confine, raise_descriptor_limit};

/// Connections that may stand at a time, each of another user, before those of further users wait to be closed.
const CLOSERS: usize = 32;

/// Stack of a thread that closes.
const STACK_BYTES: usize = 256 << 10;

/// By which number the keeper has the listener.
const LISTENER: u64 = 0;

/// A message: the number of a connection. To the keeper, with a copy of it to be kept, or without when it is to be
/// closed; from the keeper, when it is closed, and that of the listener when it begins.
const MESSAGE_BYTES: usize = 8;

/// The keeper, as the flow manager sees it.
#[derive(Debug)]
pub(crate) struct Keeper {
    connection: Connection,
    /// Connections it has, and may have.
    kept: usize,
    kept_max: usize,
    /// What it has not been told yet to close.
    untold: VecDeque<u64>,
}

impl Keeper {
    /// With the keeper at the other end of `connection`, when that has begun; it gets a copy of `listener` first.
    pub(crate) fn new(connection: Connection, listener: BorrowedFd<'_>) -> io::Result<Self> {
        connection.send(&LISTENER.to_le_bytes(), &[listener])?;
        connection.receive(MESSAGE_BYTES).map_err(io::Error::other)?;
        connection.set_nonblocking()?;
        Ok(Self { connection, kept: 0, kept_max: usize::MAX, untold: VecDeque::new() })
    }

    /// Bounds how many connections it has, those among them that it cannot close.
    pub(crate) const fn set_kept_max(&mut self, kept_max: usize) {
        self.kept_max = kept_max;
    }

    /// Whether it may have another connection.
    pub(crate) const fn has_room(&self) -> bool {
        self.kept < self.kept_max
    }

    /// Gives it a copy of a connection.
    ///
    /// # Errors
    ///
    /// It has none, so the connection must not be closed: it has to be tried again.
    pub(crate) fn keep(&mut self, number: u64, connection: &Connection) -> io::Result<()> {
        self.connection.send(&number.to_le_bytes(), &[connection.as_fd()])?;
        self.kept += 1;
        Ok(())
    }

    /// Has it close a connection that is closed here.
    pub(crate) fn let_go(&mut self, number: u64) {
        self.untold.push_back(number);
        self.flush();
    }

    /// Tells it what it could not be told before.
    pub(crate) fn flush(&mut self) {
        while let Some(number) = self.untold.front() {
            match self.connection.send(&number.to_le_bytes(), &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Or it is gone, as will be heard.
                _ => drop(self.untold.pop_front()),
            }
        }
    }

    /// Whether it has to be told more.
    pub(crate) fn is_behind(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Hears what it has closed.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub(crate) fn hear(&mut self) -> io::Result<()> {
        loop {
            match self.connection.try_receive(MESSAGE_BYTES) {
                Ok(_) => self.kept = self.kept.saturating_sub(1),
                Err(ReceiveError::WouldBlock) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// What the keeper needs of the kernel.
const CALLS: &[i64] =
    &[libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_shutdown, libc::SYS_getsockopt];

/// And to see whether there are messages without words in a queue.
const PASSCRED: (i64, u8, u64) = (libc::SYS_setsockopt, 2, libc::SO_PASSCRED as u64);

/// Is the keeper of the flow manager at the other end of `connection`, until that is gone: confined, if `is_confined`,
/// so for ever. The process should end then: what is left is closed when it does.
///
/// # Errors
///
/// Privileges could not be given up, or there are no threads.
pub fn keep(connection: Connection, is_confined: bool) -> Result<(), ConfineError> {
    raise_descriptor_limit();
    let be_confined = move || match is_confined {
        true => confine(Calls { all: CALLS, only: &[PASSCRED] }).map(drop),
        false => Ok(()),
    };
    let flow_manager = Arc::new(connection);
    let closing = Arc::new(Closing::default());
    for _ in 0..CLOSERS {
        let (closing, flow_manager) = (Arc::clone(&closing), Arc::clone(&flow_manager));
        let (ready, is_ready) = channel();
        let closer = move || {
            let confined = be_confined();
            let goes_on = confined.is_ok();
            let _ = ready.send(confined);
            if goes_on {
                closing.go_on(&flow_manager);
            }
        };
        let thread = std::thread::Builder::new().name("closer".into()).stack_size(STACK_BYTES);
        thread.spawn(closer).map_err(|source| ConfineError::Os { call: "clone", source })?;
        is_ready.recv().unwrap_or(Ok(()))?;
    }
    be_confined()?;
    tell(&flow_manager, LISTENER);

    let mut kept: HashMap<u64, Connection> = HashMap::new();
    while let Ok(mut received) = flow_manager.receive(MESSAGE_BYTES) {
        let Ok(number) = received.bytes.try_into().map(u64::from_le_bytes) else { break };
        if let Some(copy) = received.descriptors.pop() {
            kept.insert(number, Connection::from(copy));
        } else if let Some(connection) = kept.remove(&number) {
            if connection.end_and_empty().unwrap_or(false) {
                drop(connection);
                tell(&flow_manager, number);
            } else {
                // Who it was does not matter if nobody knows.
                let uid = connection.peer().map_or(u32::MAX, |peer| peer.uid);
                closing.push(uid, number, connection);
            }
        }
    }
    // Whoever waits hears that nobody answers any more, and who connects that nobody listens.
    kept.values().for_each(Connection::end);
    closing.end();
    // Not one by one, waiting for each: a process that ends does not linger.
    std::mem::forget(kept);
    Ok(())
}

/// Tells the flow manager that a connection is closed, or that the listener is kept.
fn tell(flow_manager: &Connection, number: u64) {
    let _ = flow_manager.send(&number.to_le_bytes(), &[]);
}

/// Connections that may take long to close.
#[derive(Debug, Default)]
struct Closing {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Of each user who has some, or at one of whose a thread stands.
    users: HashMap<u32, VecDeque<(u64, Connection)>>,
    /// Users who have some and at none of whose a thread stands, by whose turn is next.
    order: VecDeque<u32>,
    is_over: bool,
}

impl Closing {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, uid: u32, number: u64, connection: Connection) {
        let mut waiting = self.waiting();
        if !waiting.users.contains_key(&uid) {
            waiting.order.push_back(uid);
        }
        waiting.users.entry(uid).or_default().push_back((number, connection));
        self.changed.notify_one();
    }

    /// Closes, one of a user after the other, until all is over.
    fn go_on(&self, flow_manager: &Connection) {
        let mut waiting = self.waiting();
        while !waiting.is_over {
            let Some(uid) = waiting.order.pop_front() else {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let next = waiting.users.get_mut(&uid).and_then(VecDeque::pop_front);
            drop(waiting);
            if let Some((number, connection)) = next {
                // Or its other side would hear of what nobody read before it hears why.
                while connection.try_receive(MESSAGE_BYTES_MAX).is_ok() {}
                drop(connection);
                tell(flow_manager, number);
            }
            waiting = self.waiting();
            if waiting.users.get(&uid).is_some_and(|more| !more.is_empty()) {
                waiting.order.push_back(uid);
            } else {
                waiting.users.remove(&uid);
            }
        }
    }

    fn end(&self) {
        self.waiting().is_over = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
