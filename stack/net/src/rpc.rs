//! Calls to the flow manager: any thread may call, and whoever waits reads for all.
//!
//! What was read and is for no thread that waits, a call-back or an answer to [`Rpc::call_unattended`], is
//! heeded by the thread that read it, before anybody reads further. So who heeds it must not ask the flow
//! manager and wait, and nobody may call with a lock held that is taken there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base_rpc::{Answer, Call, MESSAGE_BYTES_MAX, Refusal, Reply, Request, decode, encode};
use rbuf_shm::{Connection, ReceiveError, Received, monotonic_ns};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::Error;

type Answered = (Reply, Vec<OwnedFd>);

/// Hears what no thread waits for.
pub(crate) type Heed<'a> = &'a dyn Fn(Answer);

/// For ever.
const NEVER: u64 = u64::MAX;

/// How long a thread that waits sleeps at most before it looks again, in nanoseconds: what the kernel's clock can
/// count, and no more.
const SOME_TIME_NS: u64 = 3_600_000_000_000;

/// Requests that a flow manager leaves unread before it is given up.
const UNSENT_MAX: usize = 1 << 14;

#[derive(Debug, Default)]
struct State {
    answers: HashMap<u32, Answered>,
    /// Calls whose answers nobody waits for.
    unattended: HashSet<u32>,
    /// Whether some thread reads, or heeds what it read.
    reading: bool,
    /// Requests that the flow manager's socket had no room for.
    unsent: VecDeque<Vec<u8>>,
    /// Threads that wait until another has read.
    waiting: u32,
    gone: bool,
    /// Why nothing is answered any more, if the flow manager has said so.
    refusal: Option<Refusal>,
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

    /// Whether nothing that was asked will be answered any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Names a call that [`Self::ask_as`] makes.
    pub(crate) fn new_tag(&self) -> u32 {
        // Tag 0 is for call-backs.
        match self.tag.fetch_add(1, Ordering::Relaxed) {
            0 => self.tag.fetch_add(1, Ordering::Relaxed),
            tag => tag,
        }
    }

    /// Sends, or keeps it until the flow manager has read what was sent before: it may stand, and who sends
    /// does not wait for it.
    fn send(&self, tag: u32, request: Request) {
        let mut state = self.state();
        if state.unsent.len() >= UNSENT_MAX {
            state.gone = true;
            return;
        }
        state.unsent.push_back(encode(&Call { tag, request }));
        self.flush(&mut state);
    }

    fn flush(&self, state: &mut State) {
        while let Some(message) = state.unsent.front() {
            match self.connection.try_send(message) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // It may have said why: who reads finds that, or that it is gone.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                    return state.unsent.clear();
                }
                Err(_) => state.gone = true,
                Ok(()) => {}
            }
            state.unsent.pop_front();
        }
    }

    /// Asks something whose answer [`Self::answer`] waits for.
    pub(crate) fn ask(&self, request: Request) -> u32 {
        let tag = self.new_tag();
        self.ask_as(tag, request);
        tag
    }

    /// As [`Self::ask`], by a tag that others may wait for already.
    pub(crate) fn ask_as(&self, tag: u32, request: Request) {
        self.send(tag, request);
    }

    /// The answer to what [`Self::ask`] asked; [`Error::TimedOut`] if it is not here by `deadline_ns`, and it can
    /// be waited for again. A refusal is an error.
    pub(crate) fn answer(
        &self,
        tag: u32,
        deadline_ns: u64,
        heed: Heed<'_>,
    ) -> Result<Answered, Error> {
        let answered = self.read_until(deadline_ns, heed, |state| state.answers.remove(&tag))?;
        answered_or_refused(answered.ok_or(Error::TimedOut)?)
    }

    /// Waits until `deadline_ns` for an answer that many threads wait for. Whoever is first `enter`s it, before the
    /// others look whether it `is_entered`: both under the lock of this, so nobody may call here who holds a lock that
    /// they take.
    pub(crate) fn answer_for_all<T>(
        &self,
        tag: u32,
        deadline_ns: u64,
        heed: Heed<'_>,
        enter: impl Fn(Answered) -> T,
        is_entered: impl Fn() -> Option<T>,
    ) -> Result<T, Error> {
        // At one go: who looked in between would read on for what has been read.
        let entered = self.read_until(deadline_ns, heed, |state| {
            state.answers.remove(&tag).map(&enter).or_else(&is_entered)
        })?;
        entered.ok_or(Error::TimedOut)
    }

    /// Threads that wait while another reads.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> u32 {
        self.state().waiting
    }

    /// Asks, and waits for the answer until `deadline_ns`; [`Error::TimedOut`] then. The answer is heeded when it
    /// comes, and `late` hears by which tag, before that. A refusal is an error.
    pub(crate) fn call_until(
        &self,
        request: Request,
        deadline_ns: u64,
        heed: Heed<'_>,
        late: impl FnOnce(u32),
    ) -> Result<Reply, Error> {
        let tag = self.new_tag();
        self.send(tag, request);
        let answered =
            match self.read_until(deadline_ns, heed, |state| state.answers.remove(&tag))? {
                Some(answered) => answered,
                None => {
                    let mut state = self.state();
                    let Some(answered) = state.answers.remove(&tag) else {
                        late(tag);
                        state.unattended.insert(tag);
                        return Err(Error::TimedOut);
                    };
                    answered
                }
            };
        Ok(answered_or_refused(answered)?.0)
    }

    /// Asks for something whose answer is heeded by whoever reads it. `known` hears by which tag, before that.
    pub(crate) fn call_unattended(&self, request: Request, known: impl FnOnce(u32)) {
        let tag = self.new_tag();
        known(tag);
        self.state().unattended.insert(tag);
        self.send(tag, request);
    }

    /// Waits until what was heeded makes `done` true, or until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], [`Error::FlowManagerGone`].
    pub(crate) fn settle(
        &self,
        deadline_ns: u64,
        heed: Heed<'_>,
        done: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let settled = self.read_until(deadline_ns, heed, |_| done().then_some(()))?;
        settled.ok_or(Error::TimedOut)
    }

    /// Reads, or waits while another thread reads, until `look` finds what it looks for, or until
    /// `deadline_ns`.
    fn read_until<T>(
        &self,
        deadline_ns: u64,
        heed: Heed<'_>,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut state = self.state();
        loop {
            if let Some(found) = look(&mut state) {
                return Ok(Some(found));
            }
            if state.gone {
                return Err(state.refusal.clone().map_or(Error::FlowManagerGone, Error::Refused));
            }
            let left_ns = match deadline_ns {
                NEVER => NEVER,
                _ => deadline_ns.saturating_sub(monotonic_ns()),
            };
            if left_ns == 0 {
                return Ok(None);
            }
            if state.reading {
                state.waiting += 1;
                state = self.wait(state, left_ns);
                state.waiting -= 1;
                continue;
            }
            state.reading = true;
            drop(state);
            let received = self.receive(left_ns);
            let taken = self.take(received, heed);
            state = self.finish_reading();
            taken?;
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left_ns: u64) -> MutexGuard<'a, State> {
        if left_ns == NEVER {
            return self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout(state, Duration::from_nanos(left_ns));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn receive(&self, left_ns: u64) -> Result<Received, ReceiveError> {
        let behind = {
            let mut state = self.state();
            self.flush(&mut state);
            !state.unsent.is_empty()
        };
        if left_ns == NEVER && !behind {
            return self.connection.receive(MESSAGE_BYTES_MAX);
        }
        let left_ns = left_ns.min(SOME_TIME_NS);
        let timeout = Timespec {
            tv_sec: (left_ns / 1_000_000_000) as _,
            tv_nsec: (left_ns % 1_000_000_000) as _,
        };
        let room = if behind { PollFlags::OUT } else { PollFlags::empty() };
        let mut watched = [PollFd::new(&self.connection, PollFlags::IN | room)];
        let _ = poll(&mut watched, Some(&timeout));
        self.connection.try_receive(MESSAGE_BYTES_MAX)
    }

    /// Another thread may read now, and is to look whether what was read was for it.
    fn finish_reading(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.reading = false;
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        state
    }

    /// Heeds what has come; never waits.
    pub(crate) fn hear(&self, heed: Heed<'_>) {
        let mut state = self.state();
        if state.reading || state.gone {
            return;
        }
        self.flush(&mut state);
        state.reading = true;
        drop(state);
        loop {
            match self.connection.try_receive(MESSAGE_BYTES_MAX) {
                Err(ReceiveError::WouldBlock) => break,
                received => {
                    // Who waits for an answer hears that this is none.
                    if self.take(received, heed).is_err() || self.is_gone() {
                        break;
                    }
                }
            }
        }
        drop(self.finish_reading());
    }

    /// Puts what was received where it belongs.
    fn take(&self, received: Result<Received, ReceiveError>, heed: Heed<'_>) -> Result<(), Error> {
        let received = match received {
            Ok(received) => received,
            Err(ReceiveError::WouldBlock) => return Ok(()),
            Err(_) => {
                self.state().gone = true;
                return Ok(());
            }
        };
        let decoded = decode(&received.bytes);
        let mut state = self.state();
        let answer: Answer = decoded.inspect_err(|_| state.gone = true)?;
        if let Answer { tag: 0, reply: Reply::Refused(refusal) } = answer {
            state.refusal = Some(refusal);
            return Ok(());
        }
        if answer.tag == 0 || state.unattended.remove(&answer.tag) {
            drop(state);
            heed(answer);
        } else {
            state.answers.insert(answer.tag, (answer.reply, received.descriptors));
        }
        Ok(())
    }
}

fn answered_or_refused(answered: Answered) -> Result<Answered, Error> {
    match answered {
        (Reply::Refused(refusal), _) => Err(refusal.into()),
        answered => Ok(answered),
    }
}
