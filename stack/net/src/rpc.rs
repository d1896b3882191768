//! Calls to the flow manager: any thread may call, and whoever waits reads for all.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use base_rpc::{Answer, Call, MESSAGE_BYTES_MAX, Reply, Request, decode, encode};
use rbuf_shm::{Connection, ReceiveError, Received};

use crate::Error;

type Answered = (Reply, Vec<OwnedFd>);

#[derive(Debug, Default)]
struct State {
    answers: HashMap<u32, Answered>,
    /// Calls whose answers nobody waits for.
    unattended: HashSet<u32>,
    /// Call-backs, and answers that nobody waited for, which nobody has looked at yet.
    notices: Vec<Answer>,
    /// Whether some thread is reading.
    reading: bool,
    /// Threads that wait until another has read.
    waiting: u32,
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

    fn new_tag(&self) -> u32 {
        // Tag 0 is for call-backs.
        match self.tag.fetch_add(1, Ordering::Relaxed) {
            0 => self.tag.fetch_add(1, Ordering::Relaxed),
            tag => tag,
        }
    }

    fn send(&self, tag: u32, request: Request, descriptors: &[BorrowedFd<'_>]) {
        if self.connection.send(&encode(&Call { tag, request }), descriptors).is_err() {
            self.state().gone = true;
        }
    }

    /// Asks, and waits for the answer. A refusal is an error.
    pub(crate) fn call(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answered, Error> {
        let tag = self.new_tag();
        self.send(tag, request, descriptors);
        match self.read_until(|state| state.answers.remove(&tag))? {
            (Reply::Refused(refusal), _) => Err(refusal.into()),
            answered => Ok(answered),
        }
    }

    /// Asks for something whose answer is to be found among the notices. `known` hears by which tag, before
    /// anybody can find it.
    pub(crate) fn call_unattended(&self, request: Request, known: impl FnOnce(u32)) {
        let tag = self.new_tag();
        known(tag);
        self.state().unattended.insert(tag);
        self.send(tag, request, &[]);
    }

    /// Waits until everything that was asked is answered.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub(crate) fn settle(&self) -> Result<(), Error> {
        self.read_until(|state| state.unattended.is_empty().then_some(()))
    }

    /// Reads, or waits while another thread reads, until `look` finds what it looks for.
    fn read_until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Result<T, Error> {
        let mut state = self.state();
        loop {
            if let Some(found) = look(&mut state) {
                return Ok(found);
            }
            if state.gone {
                return Err(Error::FlowManagerGone);
            }
            if state.reading {
                state.waiting += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
                continue;
            }
            state.reading = true;
            drop(state);
            let received = self.connection.receive(MESSAGE_BYTES_MAX);
            state = self.state();
            state.reading = false;
            let taken = state.take(received);
            self.tell_others(&state);
            taken?;
        }
    }

    /// What was read may be for another thread, or another is to read now.
    fn tell_others(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Call-backs that have come, by tag 0, and answers that nobody waited for; never waits.
    pub(crate) fn notices(&self) -> Vec<Answer> {
        let mut state = self.state();
        if !state.reading {
            while !state.gone {
                match self.connection.try_receive(MESSAGE_BYTES_MAX) {
                    Err(ReceiveError::WouldBlock) => break,
                    received => _ = state.take(received),
                }
            }
            self.tell_others(&state);
        }
        std::mem::take(&mut state.notices)
    }

    /// Those that were read by the way; asks nobody.
    pub(crate) fn known_notices(&self) -> Vec<Answer> {
        std::mem::take(&mut self.state().notices)
    }
}

impl State {
    fn take(&mut self, received: Result<Received, ReceiveError>) -> Result<(), Error> {
        let received = match received {
            Ok(received) => received,
            Err(ReceiveError::WouldBlock) => return Ok(()),
            Err(_) => {
                self.gone = true;
                return Ok(());
            }
        };
        let answer: Answer = decode(&received.bytes).inspect_err(|_| self.gone = true)?;
        if answer.tag == 0 || self.unattended.remove(&answer.tag) {
            self.notices.push(answer);
        } else {
            self.answers.insert(answer.tag, (answer.reply, received.descriptors));
        }
        Ok(())
    }
}
