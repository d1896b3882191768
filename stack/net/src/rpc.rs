//! Calls to the flow manager: any thread may call, and whoever waits reads for all.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use base_rpc::{Answer, Call, MESSAGE_BYTES_MAX, Reply, Request, decode, encode};
use rbuf_shm::{Connection, ReceiveError};

use crate::Error;

type Answered = (Reply, Vec<OwnedFd>);

#[derive(Debug, Default)]
struct State {
    answers: HashMap<u32, Answered>,
    /// Call-backs nobody has looked at yet.
    notices: Vec<Reply>,
    /// Whether some thread is reading.
    reading: bool,
    gone: bool,
}

/// A connection to the flow manager, shared by threads.
#[derive(Debug)]
pub(crate) struct Rpc {
    connection: Connection,
    state: Mutex<State>,
    changed: Condvar,
    tag: AtomicU32,
}

impl Rpc {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            state: Mutex::default(),
            changed: Condvar::new(),
            tag: AtomicU32::new(1),
        }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits for the answer. A refusal is an error.
    pub(crate) fn call(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answered, Error> {
        // Tag 0 is for call-backs.
        let tag = match self.tag.fetch_add(1, Ordering::Relaxed) {
            0 => self.tag.fetch_add(1, Ordering::Relaxed),
            tag => tag,
        };
        let message = encode(&Call { tag, request });
        if self.connection.send(&message, descriptors).is_err() {
            self.state().gone = true;
        }
        let mut state = self.state();
        loop {
            if let Some((reply, descriptors)) = state.answers.remove(&tag) {
                return match reply {
                    Reply::Refused(refusal) => Err(refusal.into()),
                    reply => Ok((reply, descriptors)),
                };
            }
            if state.gone {
                return Err(Error::FlowManagerGone);
            }
            if state.reading {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.reading = true;
            drop(state);
            let received = self.connection.receive(MESSAGE_BYTES_MAX);
            state = self.state();
            state.reading = false;
            match received {
                Ok(received) => {
                    if let Err(error) = state.take(&received.bytes, received.descriptors) {
                        state.gone = true;
                        self.changed.notify_all();
                        return Err(error);
                    }
                }
                Err(ReceiveError::WouldBlock) => {}
                Err(_) => state.gone = true,
            }
            self.changed.notify_all();
        }
    }

    /// Call-backs that have come; never waits.
    pub(crate) fn notices(&self) -> Vec<Reply> {
        let mut state = self.state();
        if !state.reading && !state.gone {
            loop {
                match self.connection.try_receive(MESSAGE_BYTES_MAX) {
                    Ok(received) => {
                        if state.take(&received.bytes, received.descriptors).is_err() {
                            state.gone = true;
                            break;
                        }
                    }
                    Err(ReceiveError::WouldBlock) => break,
                    Err(_) => {
                        state.gone = true;
                        break;
                    }
                }
            }
            self.changed.notify_all();
        }
        std::mem::take(&mut state.notices)
    }
}

impl State {
    fn take(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<(), Error> {
        let Answer { tag, reply } = decode(bytes)?;
        if tag == 0 {
            self.notices.push(reply);
        } else {
            self.answers.insert(tag, (reply, descriptors));
        }
        Ok(())
    }
}
