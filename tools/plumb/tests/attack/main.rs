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
//! | Attack | Test |
//! |---|---|
//! | objects of a stranger's choice in messages | `descriptors::an_object_that_takes_long_to_close_makes_no_daemon_wait`, and where the kernel refuses none `descriptors::where_the_kernel_refuses_no_descriptors_they_make_the_keeper_wait_and_no_daemon`; `nothing_can_be_queued_to_who_rings` in `rbuf/shm` |
//! | requests that overtake each other | `flow_manager_and_driver_agree_after_every_step` in `flowman/core` |
//! | contracts given back and taken again | `contracts`; `who_closes_and_opens_whenever_a_slice_is_used_up_has_one_share_of_the_line` in `driver/atropos` |
//! | a connection that outlives its process | `descriptors::a_flow_dies_with_its_process_whoever_holds_its_connection` |
//! | thousands asleep on one count | `sleepers::two_thousand_threads_asleep_on_one_count_cost_nobody_his_contract` |
//! | packets that claim to be endless | `claims::packets_that_claim_all_their_memory_cost_others_nothing`; `a_frame_that_claims_to_be_endless_is_no_claim_on_anybodys_slack` in `driver/atropos` |
//! | frames that are refused, requests without end | `claims` |
//! | requests that are dear for the driver | `claims::flows_that_are_closed_with_full_rings_cost_others_nothing` |
//! | events and rings without end | `notices`; `Accounts` in `driver/core` |
//! | the shortest frames, on slack or guaranteed | `tests/frame_cost.rs` in `driver/core` |
//! | gratuitous ARPs | `shouts`; `an_application_with_hundreds_of_flows_may_hear_late_that_a_neighbour_has_moved` in `tests/tcp_manager.rs` |
//! | frames for a flow that is being opened | `what_is_handed_back_comes_to_the_last_resort_no_second_time` in `flowman/core` |
//! | floods at closed ports | from the peer: `closed_ports_under_a_flood_leave_arp_and_echo_answered` in `tests/strays.rs`; from a user: `floods::a_user_who_floods_closed_ports_of_this_host_leaves_arp_and_echo_answered` |
//! | ends in TIME-WAIT | `a_connection_that_received_nothing_leaves_its_ends_to_anybody` in `flowman/core` |
//! | limits as oracles | `what_is_sent_in_one_hosts_name_tells_nothing_to_another` in `flowman/core` |
//! | floods of many flows of a user | `floods::floods_of_sixty_four_flows_of_a_user_cost_others_no_more_than_a_flood_of_one` |
//! | connections without end, drivers that stand | `crowd` |
//! | walls taken away in the source | `walls` |

#[path = "../in_lab/mod.rs"]
mod in_lab;

mod claims;
mod contracts;
mod crowd;
mod descriptors;
mod floods;
mod ground;
mod notices;
mod raw;
mod shouts;
mod sleepers;
mod used;
mod verdict;
mod victims;
mod walls;
