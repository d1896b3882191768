//! A station that says again and again that it is another.

use base_wire::Mac;
use driver_link::Link;
use driver_link_packet::PacketLink;
use plumb_net::{Options, Udp};

use crate::ground::row;
use crate::in_lab::{OURS, THEIRS, claim_to_be_at, eventually, host, on_peer, peer_answers_arp};

/// Flows of the program that listens to nobody, claims in a row, and how often the last of so many is believed:
/// far more call-backs than a connection keeps.
const FLOWS: u16 = 200;
const CLAIMS: u8 = 40;
const MOVES: u8 = 4;

fn station(claim: u8) -> Mac {
    Mac([2, 0, 0, 0, 7, claim])
}

#[test]
fn forty_claims_to_be_the_next_hop_leave_a_program_that_is_idle_its_connection_and_all_flows() {
    let name = "shouts::forty_claims_to_be_the_next_hop_leave_a_program_that_is_idle_its_connection_and_all_flows";
    row(
        name,
        || (),
        |_| {
            let (idle, watcher) = (host(), host());
            let options = Options::new().host(&idle).send_buffers(2).receive_buffers(2);
            let open = |flow| options.between((OURS, 6600 + flow), (THEIRS, 9000)).unwrap();
            let flows: Vec<Udp> = (0..FLOWS).map(open).collect();
            let mut wire = on_peer(|| PacketLink::open("plumb1", None).unwrap());
            // Nobody says otherwise, so that they are believed, as fast as any is.
            peer_answers_arp(false);
            for place in 0..MOVES {
                let claims = place * CLAIMS..(place + 1) * CLAIMS;
                for claim in claims.clone() {
                    claim_to_be_at(&mut wire, station(claim));
                }
                eventually("one is believed", || {
                    let neighbours = watcher.query_neighbours().unwrap();
                    let there = neighbours.iter().find_map(|neighbour| neighbour.mac);
                    there.is_some_and(|mac| claims.clone().any(|claim| mac == station(claim)))
                });
            }
            // The program has read nothing meanwhile, and every flow hears where its next hop is.
            let open = watcher.query_flows().unwrap();
            for (number, flow) in flows.iter().enumerate() {
                assert!(
                    open.iter().any(|info| info.flow == flow.flow_id()),
                    "flow {number} is gone"
                );
                eventually("it sends to the station that is believed", || {
                    flow.send(b"?").unwrap();
                    let port = (6600 + number as u16).to_be_bytes();
                    let mut arrived = false;
                    wire.poll_rx(64, &mut |arrival| {
                        let frame = arrival.frame;
                        arrived |=
                            frame.get(34..36) == Some(&port[..]) && frame[..5] == station(0).0[..5];
                    });
                    arrived
                });
            }
            assert!(idle.query_status().unwrap().flows >= FLOWS.into());
        },
    );
}
