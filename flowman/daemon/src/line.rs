//! A connection and what it has not been sent yet.
//!
//! Answers queue, for each was asked for; who does not read them is asked for nothing by the daemon's loop.
//! Call-backs were not asked for: what they tell is a state, of which only the newest counts. So there is
//! at most one of each kind for each flow here, however often things change, and nobody is sent away
//! for them. Of SYNs that are handed to a listener, the only ones that strangers can cause, there is one for each
//! caller, and [`CALLS_MAX`] in all.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base_flow::{FlowId, Sap};
use base_rpc::Reply;
use rbuf_shm::Connection;

/// Of what a call-back tells the newest state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// How the packets of a flow are formatted.
    Fib(FlowId),
    /// Its contract.
    Contract(FlowId),
    /// That it is gone.
    Lost(FlowId),
    /// What a link carries.
    Carries(u16),
    /// Who calls again between ends that are in TIME-WAIT.
    Reopened(FlowId, Sap),
}

/// Call-backs that wait before a SYN is one too many, which comes again: more than the driver lets through at once.
const CALLS_MAX: usize = 4096;

impl Topic {
    /// What a call-back is about; `None` for an answer.
    pub(crate) const fn of(tag: u32, reply: &Reply) -> Option<Self> {
        match reply {
            _ if tag != 0 => None,
            Reply::Reorganised { fib } => Some(Self::Fib(fib.flow)),
            Reply::Recontracted { flow, .. } => Some(Self::Contract(*flow)),
            Reply::Lost { flow, .. } => Some(Self::Lost(*flow)),
            Reply::Carries { link, .. } => Some(Self::Carries(*link)),
            Reply::Reopened { flow, remote, .. } => Some(Self::Reopened(*flow, *remote)),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    beside: Vec<OwnedFd>,
    topic: Option<Topic>,
}

/// A connection and what it has not been sent yet.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) connection: Connection,
    /// In order; a call-back that a newer one has replaced has left a gap.
    unsent: VecDeque<Option<Message>>,
    /// Messages ever taken out of the front of `unsent`.
    gone: u64,
    /// Where the newest call-back of a topic stands: how many messages were ever queued before it.
    topics: HashMap<Topic, u64>,
    /// Unsent messages that are no call-backs.
    answers: usize,
    pub(crate) closing: bool,
}

impl Line {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            unsent: VecDeque::new(),
            gone: 0,
            topics: HashMap::new(),
            answers: 0,
            closing: false,
        }
    }

    /// Sends a message, or keeps it until the other side has read; a call-back replaces the older one of
    /// its topic.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, beside: Vec<OwnedFd>, topic: Option<Topic>) {
        match topic {
            None => self.answers += 1,
            Some(topic) => {
                let at = self.gone + self.unsent.len() as u64;
                // Behind what was said meanwhile: an answer must not be overtaken.
                if let Some(older) = self.topics.insert(topic, at)
                    && let Some(place) = self.unsent.get_mut((older - self.gone) as usize)
                {
                    *place = None;
                }
            }
        }
        self.unsent.push_back(Some(Message { bytes, beside, topic }));
        self.flush();
        self.close_gaps();
    }

    pub(crate) fn flush(&mut self) {
        while let Some(front) = self.unsent.front() {
            if let Some(Message { bytes, beside, topic }) = front {
                let borrowed: Vec<BorrowedFd<'_>> = beside.iter().map(AsFd::as_fd).collect();
                match self.connection.send(bytes, &borrowed) {
                    Ok(()) => match topic {
                        None => self.answers -= 1,
                        Some(topic) => drop(self.topics.remove(topic)),
                    },
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    // Nobody waits for an answer that got lost: the connection ends, as the loop will hear.
                    Err(_) => {
                        self.connection.end();
                        self.unsent.clear();
                        self.topics.clear();
                        self.answers = 0;
                        return;
                    }
                }
            }
            self.unsent.pop_front();
            self.gone += 1;
        }
    }

    /// Gaps never are more than what is left.
    fn close_gaps(&mut self) {
        let kept = self.answers + self.topics.len();
        if self.unsent.len() > 2 * kept + 16 {
            self.unsent.retain(Option::is_some);
            let places = self.unsent.iter().zip(self.gone..);
            let topics = places.filter_map(|(message, at)| Some((message.as_ref()?.topic?, at)));
            self.topics = topics.collect();
        }
    }

    /// Whether strangers have caused enough of what waits.
    pub(crate) fn is_crowded(&self) -> bool {
        self.topics.len() >= CALLS_MAX
    }

    /// Whether everything was sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Unsent messages that were asked for.
    pub(crate) const fn answers(&self) -> usize {
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use base_flow::Contract;
    use base_rpc::{Answer, MESSAGE_BYTES_MAX, decode, encode};

    use super::*;

    fn recontracted(line: &mut Line, index: u32, slice_ns: u64) {
        let flow = FlowId { index, generation: 0 };
        let contract = Contract { slice_ns, ..Contract::BEST_EFFORT };
        let answer = Answer { tag: 0, reply: Reply::Recontracted { flow, contract } };
        let topic = Topic::of(answer.tag, &answer.reply);
        line.send(encode(&answer), Vec::new(), topic);
    }

    #[test]
    fn what_cannot_be_sent_ends_the_connection() {
        let (ours, theirs) = Connection::pair().unwrap();
        let mut line = Line::new(ours);
        let file = std::fs::File::open("/dev/null").unwrap();
        let beside = || OwnedFd::from(file.try_clone().unwrap());
        // More than there is room for beside a message.
        let many = (0..2 * rbuf_shm::DESCRIPTORS_MAX).map(|_| beside()).collect();
        line.send(encode(&Answer { tag: 1, reply: Reply::Done }), many, None);
        assert!(line.is_idle() && line.answers() == 0);
        let ended = theirs.try_receive(MESSAGE_BYTES_MAX).unwrap_err();
        assert!(matches!(ended, rbuf_shm::ReceiveError::Closed), "{ended}");
    }

    #[test]
    fn who_does_not_listen_finds_the_newest_of_every_call_back_and_every_answer_in_order() {
        let (ours, theirs) = Connection::pair().unwrap();
        ours.set_nonblocking().unwrap();
        theirs.set_nonblocking().unwrap();
        let mut line = Line::new(ours);
        let answer = |tag| encode(&Answer { tag, reply: Reply::Done });
        for round in 0..2_000 {
            for flow in 0..50 {
                recontracted(&mut line, flow, u64::from(round) + 1);
            }
            if round % 100 == 0 {
                line.send(answer(round + 1), Vec::new(), None);
            }
            assert!(line.unsent.len() <= 2 * (50 + 20) + 16, "{} messages", line.unsent.len());
        }
        assert!(!line.is_idle() && line.answers() <= 20);
        let (mut slices, mut tags) = (HashMap::new(), Vec::new());
        loop {
            line.flush();
            let Ok(received) = theirs.try_receive(MESSAGE_BYTES_MAX) else { break };
            match decode::<Answer>(&received.bytes).unwrap() {
                Answer { reply: Reply::Recontracted { flow, contract }, .. } => {
                    slices.insert(flow.index, contract.slice_ns);
                }
                Answer { tag, .. } => tags.push(tag),
            }
        }
        assert!(line.is_idle() && line.topics.is_empty());
        assert!((0..50).all(|flow| slices[&flow] == 2_000), "{slices:?}");
        assert_eq!(tags, (0..20).map(|at| at * 100 + 1).collect::<Vec<_>>());
    }

    #[test]
    fn each_who_calls_a_listener_that_does_not_read_waits_once_until_they_are_too_many() {
        let (ours, theirs) = Connection::pair().unwrap();
        ours.set_nonblocking().unwrap();
        theirs.set_nonblocking().unwrap();
        let mut line = Line::new(ours);
        let flow = FlowId { index: 1, generation: 0 };
        let mut called = 0;
        for port in 1..=2 * CALLS_MAX as u16 {
            for above in [0, u32::from(port)] {
                let remote = Sap::new(std::net::Ipv4Addr::new(10, 77, 0, 2).into(), port);
                let (station, header) = (base_wire::Mac([2; 6]), vec![0; 40]);
                let reply = Reply::Reopened { flow, remote, station, header, above };
                if !line.is_crowded() {
                    let topic = Topic::of(0, &reply);
                    line.send(encode(&Answer { tag: 0, reply }), Vec::new(), topic);
                    called = port;
                }
            }
        }
        assert!(usize::from(called) >= CALLS_MAX, "{called}");
        assert_eq!((line.answers(), line.is_crowded()), (0, true), "it can still ask");
        let mut heard = HashMap::new();
        while let Ok(received) = theirs.try_receive(MESSAGE_BYTES_MAX) {
            let answer = decode::<Answer>(&received.bytes).unwrap();
            let Reply::Reopened { remote, above, .. } = answer.reply else { panic!("{answer:?}") };
            heard.insert(remote.port, above);
            line.flush();
        }
        assert!(line.is_idle() && line.topics.is_empty());
        assert_eq!(heard.len(), usize::from(called));
        // The last was one too many when it called again.
        assert!((1..called).all(|port| heard[&port] == u32::from(port)));
    }
}
