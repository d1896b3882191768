//! Contracts that are given back and taken again, to have them more than once in a period.

use std::time::Duration;

use base_flow::Contract;
use plumb_net::Udp;

use crate::ground::{row, say};
use crate::in_lab::{OURS, THEIRS, host};
use crate::used::{FRAME_NS, keeps_to};

const FLOWS: usize = 40;

/// What the victims have not left is a little more.
fn contract() -> Contract {
    Contract::guaranteed(45_000_000, 100_000_000).unwrap()
}

fn open(host: &plumb_net::Host, port: u16, contract: Contract) -> std::io::Result<Udp> {
    let flow = Udp::options().host(host).contract(contract).send_buffers(64);
    let flow = flow.between((OURS, port), (THEIRS, 7000))?;
    flow.set_write_timeout(Some(Duration::from_millis(1)));
    Ok(flow)
}

/// Sends until the slice is used up.
fn use_up(flow: &Udp) {
    while flow.send(&[0xee; 1472]).is_ok() {}
}

#[test]
fn who_closes_and_opens_a_flow_whenever_its_slice_is_used_up_takes_nothing_from_others() {
    let attack = || {
        let host = host();
        let mut said = false;
        loop {
            // Refused as long as what the last one sent is not paid for.
            if let Ok(flow) = open(&host, 6400, contract()) {
                use_up(&flow);
                if !said {
                    say("at work");
                    said = true;
                }
            }
        }
    };
    let name = "contracts::who_closes_and_opens_a_flow_whenever_its_slice_is_used_up_takes_nothing_from_others";
    row(name, attack, |ground| keeps_to(ground, &contract()));
}

#[test]
fn who_moves_one_contract_between_forty_flows_takes_nothing_from_others() {
    let attack = || {
        let host = host();
        // Next to nothing, and no slack.
        let idle = Contract::guaranteed(FRAME_NS, 100_000_000).unwrap();
        let flows: Vec<Udp> =
            (0..FLOWS).map(|flow| open(&host, 6400 + flow as u16, idle).unwrap()).collect();
        let mut said = false;
        loop {
            for flow in &flows {
                if host.adjust(flow.flow_id(), contract()).is_ok() {
                    use_up(flow);
                    host.adjust(flow.flow_id(), idle).unwrap();
                    if !said {
                        say("at work");
                        said = true;
                    }
                }
            }
        }
    };
    let name = "contracts::who_moves_one_contract_between_forty_flows_takes_nothing_from_others";
    row(name, attack, |ground| {
        let all = contract().slice_ns + FLOWS as u64 * FRAME_NS;
        keeps_to(ground, &Contract::guaranteed(all, contract().period_ns).unwrap());
    });
}
