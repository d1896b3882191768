//! Attacks on the real daemons, each beside its control run.
//!
//! One application has a guarantee and uses it up, an echo answers the peer, a third opens and closes flows, and an
//! attacker, an ordinary user where this machine lets us be one, does what its row is about. Turns without and with
//! the attack follow each other, and what the victims get in whole periods is compared: their contract within 1 %,
//! no longer silence, the time that 99 of 100 echoes take within twice. What an attack costs by using a processor at
//! all is in the control run too, where that is much. A pair of turns whose control run is no good says nothing of
//! the attack; if there is no other, the machine is overloaded, and what is left is a comparison within wider bands
//! ([`verdict`]).
//!
//! Short by default. `PLUMB_ATTACK_SECONDS` is the length of each turn; then no wider bands are granted.
//!
//! | Row | Attack | Test |
//! |---|---|---|
//! | B1 | objects of a stranger's choice in messages | `descriptors::an_object_that_takes_long_to_close_makes_no_daemon_wait`; `nothing_can_be_queued_to_who_rings` in `rbuf/shm` |
//! | B2 | requests that overtake each other | `flow_manager_and_driver_agree_after_every_step` in `flowman/core` |
//! | B4 | a connection that outlives its process | `descriptors::a_flow_dies_with_its_process_whoever_holds_its_connection` |
//! | B6 | thousands asleep on one count | `sleepers::two_thousand_threads_asleep_on_one_count_cost_nobody_his_contract` |
//! | B12 | floods from the peer at closed ports | `closed_ports_under_a_flood_leave_arp_and_echo_answered` in `tests/strays.rs` |
//! | B18 | walls taken away in the source | `walls` |

#[path = "../in_lab/mod.rs"]
mod in_lab;

mod crowd;
mod descriptors;
mod ground;
mod raw;
mod sleepers;
mod verdict;
mod victims;
mod walls;
