//! The paper's evaluation (§5) and its modern counterparts: workloads, measures, bands, pictures.
//!
//! An experiment is a workload, a way to run it, and a judge. The judge sees a [`trace::Trace`] or a
//! [`reception::Reception`], which look the same whether they come from virtual time, from our driver in
//! a lab or from Linux; so all are measured by the same code ([`measure`]), and what is measured is
//! never the scheduler's own opinion.
//!
//! ```text
//! workload ──▶ transmit::run(policy)   virtual time, exact line  ──▶ Trace ─┐
//!          ──▶ tools_sim::World        virtual time, whole system ─▶ Reception ├─▶ judge ─▶ Outcome
//!          ──▶ a lab, live             (in `tools/plumb`)         ──▶ both ──┘
//! ```
//!
//! Simulated runs are functions of their seed: the same seed gives the same bytes.

#![forbid(unsafe_code)]

pub mod experiments;
pub mod measure;
pub mod outcome;
pub mod picture;
pub mod policy;
pub mod reception;
pub mod report;
pub mod trace;
pub mod transmit;
