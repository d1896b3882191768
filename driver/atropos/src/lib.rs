//! A-TX: decides which flow may use the wire next (paper §4.4).
//!
//! The paper's driver used a form of Atropos, the CPU scheduler of Nemesis, for frames. This is the
//! same idea put on firmer ground: every guaranteed flow is a *hard constant-bandwidth server* with
//! budget `slice` per `period`, servers are served earliest deadline first, and time nobody has a
//! claim to goes round-robin to flows that take slack. Integers only; no clock, no I/O.
//!
//! # The rules
//!
//! A guaranteed flow has a budget `r`, the start of its next period `T`, and a fluid tag `F`: when a
//! fluid line serving it at its rate would have finished what it has sent. With `l` the deadline
//! hint (the period, unless shorter) and `c` the wire time of its next frame:
//!
//! * *wake* (the flow was idle and has a frame): keep budget and deadline if the reservation allows,
//!   else start a new period. The original zeroed the budget of a flow that blocked for less than
//!   a period, which cost a steady sender with small gaps up to a period of latency;
//! * *key* of a ready flow: its deadline `d = F + r·l/s` if the budget covers the frame, else
//!   `F + c·l/s`: a frame that straddles two periods borrows from the next one and carries its
//!   later deadline;
//! * *serve* the smallest key: `r -= c`, `F += c·l/s`; a flow without budget waits for `T`;
//! * *replenish* at `T`: `r += s`, so debts are paid and no share is lost, `F = max(F, T)`, `T += p`;
//! * *end* (the flow is removed, or gets another contract): what it has sent binds until `F`. Only then is
//!   the contract *settled* ([`Scheduler::settled`]), and its share free for others; and only then begins
//!   the first budget of the flow's own next contract, or of one that was admitted after it.
//!
//! # Invariants
//!
//! 1. If the densities `s/l` of all flows, and of all contracts that are not settled, sum to at most one, every guaranteed frame has left the
//!    wire by its key plus one longest unit (a frame, unless the link cuts), the lead and a bucket width ([`Line::tardiness_ns`]),
//!    whatever the flows do. The experiment `adversary` tries hard to violate this.
//!    The proof is of shares, not of flows: of one share of density `u`, frames that are sent after `t₀`
//!    with keys up to `κ` cost at most `u·(κ - t₀)`, because `F` never goes back, is never before the time
//!    at which a budget begins, and passes from each contract of the share to the next.
//! 2. A flow without slack never gets more than `s·(⌊τ/p⌋ + 2)` plus one frame in any interval `τ`.
//! 3. Deadlines are in *available* line time: when the driver could not run, or the device did not
//!    get a frame when it should have, the clock of the scheduler stood still ([`Atropos::stall_ns`]), and what was lost is shared and reported.
//!
//! # Cost
//!
//! One cache line per flow and two bucket queues found by first-set-bit: constant per frame, and no
//! queue operation at all while a flow sends within its slice. Contracts that are ended while they bind
//! are in a heap of their own, which nothing looks into before its first is due.

#![forbid(unsafe_code)]

mod buckets;
mod flow;
mod line;
mod policy;
mod scheduler;
mod slack;
mod terms;

pub use line::Line;
pub use policy::{Head, Next, Scheduler};
pub use scheduler::Atropos;
