//! Senders, a scheduler and an exact line, in virtual time: the bench on which policies are compared.
//!
//! The scheduler is asked exactly as the driver asks it ([`driver_atropos::Scheduler`]); frames cost
//! nothing but wire time. A run is a function of its plan.

use std::collections::VecDeque;

use base_flow::{Contract, Rate};
use driver_atropos::{Head, Line, Next, Scheduler};

use crate::trace::{Frame, Lane, Trace};

/// Longest frame of the bench's line, without check sequence.
pub const FRAME_BYTES: usize = 1514;

/// How a sender behaves.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Always has another frame.
    Flood {
        /// Length of its frames.
        bytes: u16,
    },
    /// Has frames at regular times.
    Steady {
        /// Length of its frames.
        bytes: u16,
        /// Time from one to the next.
        every_ns: u64,
        /// How many at a time.
        burst: u16,
    },
}

/// A sender.
#[derive(Debug, Clone)]
pub struct Sender {
    /// What it is called.
    pub name: String,
    /// What it is promised.
    pub contract: Contract,
    /// What it does.
    pub load: Load,
    /// When it begins.
    pub from_ns: u64,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Rate of the line.
    pub rate: Rate,
    /// How long it takes.
    pub length_ns: u64,
    /// Who sends.
    pub senders: Vec<Sender>,
    /// Times from which on the scheduler does not get to run, and for how long.
    pub stalls: Vec<(u64, u64)>,
}

struct Queue {
    load: Load,
    waiting: VecDeque<u64>,
    next_at: u64,
    contract: Contract,
    joined: bool,
}

impl Queue {
    const fn bytes(&self) -> u16 {
        match self.load {
            Load::Flood { bytes } | Load::Steady { bytes, .. } => bytes,
        }
    }

    /// Lets frames appear up to `now`; whether there is one.
    fn fill(&mut self, now: u64) -> bool {
        match self.load {
            Load::Flood { .. } => {
                if self.waiting.is_empty() && now >= self.next_at {
                    self.waiting.push_back(now);
                }
            }
            Load::Steady { every_ns, burst, .. } => {
                while self.next_at <= now {
                    self.waiting.extend((0..burst).map(|_| self.next_at));
                    self.next_at += every_ns;
                }
            }
        }
        !self.waiting.is_empty()
    }

    /// When something changes by itself.
    const fn next(&self, now: u64) -> Option<u64> {
        match self.load {
            Load::Flood { .. } if self.next_at <= now => None,
            _ => Some(self.next_at),
        }
    }
}

/// Runs `plan` with the scheduler that `schedule` makes for its line.
pub fn run<S: Scheduler>(plan: &Plan, schedule: impl FnOnce(Line) -> S) -> Trace {
    let line = Line::new(plan.rate, FRAME_BYTES, 0);
    let mut scheduler = schedule(line);
    let mut trace = Trace {
        rate: plan.rate,
        from_ns: 0,
        until_ns: plan.length_ns,
        stalls: Vec::new(),
        lanes: plan.senders.iter().map(lane).collect(),
        tardiness_ns: line.tardiness_ns(),
        wall_ns: plan.length_ns,
    };
    let mut queues: Vec<Queue> = plan.senders.iter().map(queue).collect();
    let mut stalls = plan.stalls.iter().copied().peekable();
    let (mut now, mut free_at) = (0, 0);
    while now < plan.length_ns {
        for (index, queue) in queues.iter_mut().enumerate() {
            if !queue.joined && queue.next_at <= now {
                scheduler.add(index as u32, &queue.contract, &[]);
                queue.joined = true;
            }
            if queue.joined && queue.fill(now) && scheduler.wants_wake(index as u32) {
                let cost = line.cost_ns(queue.bytes().into());
                scheduler.wake(index as u32, cost, now as i64);
            }
        }
        match scheduler.next(now as i64) {
            Next::Serve { flow, slack, .. } => {
                let queue = &mut queues[flow as usize];
                let bytes = queue.bytes();
                let sent_ns = queue.waiting.pop_front().unwrap_or(now);
                let frame = Frame { sent_ns, seen_ns: now, done_ns: 0, bytes };
                trace.lanes[flow as usize].frames.push(frame);
                let cost = line.cost_ns(bytes.into());
                let head =
                    if queue.fill(now) { Head::Frame { cost_ns: cost } } else { Head::Empty };
                scheduler.served(flow, slack, cost, true, head, now as i64);
                free_at = now.max(free_at) + plan.rate.wire_ns(bytes.into());
            }
            Next::Sleep { until_ns, .. } => {
                let appears = queues.iter().filter_map(|queue| queue.next(now)).min();
                let until = until_ns.map(|at| at.max(0) as u64);
                now = [until, appears].into_iter().flatten().min().unwrap_or(u64::MAX).max(now + 1);
            }
        }
        if let Some((_, ns)) = stalls.next_if(|&(at, _)| at <= now) {
            // The line carries on until what it was given is out, then stands still.
            let stands_from = now.max(free_at);
            trace.stalls.push((stands_from, ns));
            now = stands_from + ns;
        }
    }
    trace.replay();
    trace
}

fn lane(sender: &Sender) -> Lane {
    Lane {
        name: sender.name.clone(),
        contract: sender.contract,
        frames: Vec::new(),
        from_ns: sender.from_ns,
    }
}

fn queue(sender: &Sender) -> Queue {
    Queue {
        load: sender.load,
        waiting: VecDeque::new(),
        next_at: sender.from_ns,
        contract: sender.contract,
        joined: false,
    }
}
