//! Attacks on the real daemons, each beside its control run.
//!
//! A victim has a guarantee and keeps to it, an echo answers the peer, and an attacker, an ordinary user where
//! this machine lets us be one, does what its row is about. What the victims get is counted in turns without
//! and with the attack, and the two are compared: a machine that is slow is slow for both. Short by default;
//! `PLUMB_ATTACK_SECONDS` makes each turn longer.

#[path = "../in_lab/mod.rs"]
mod in_lab;

mod descriptors;
mod ground;
mod raw;
mod sleepers;
mod walls;
