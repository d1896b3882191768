//! Flows that are closed with something to send, by their owner or by its death.

mod rig;

use base_flow::{Bill, DropReason, Endpoints, FlowId, Pace, Stray, Transport};
use base_rpc::FromDriver;
use driver_core::DRAIN_NS_MAX;
use driver_link::sim::Side;
use etherparse::PacketBuilder;
use rbuf_channel::Data as _;
use rig::{App, OURS, Rig, THEIRS, incoming, ms};

const MS: u64 = 1_000_000;

/// Puts `count` frames of a kilobyte, each with its number, into the channel.
fn fill(app: &mut App, count: u8) -> Vec<Vec<u8>> {
    let frames: Vec<_> = (0..count).map(|number| app.frame(&[number; 1000])).collect();
    assert!(frames.iter().all(|frame| app.send(frame)));
    frames
}

/// The last bill of `flow`, if the driver has said that it is gone.
fn last_bill(rig: &mut Rig, flow: FlowId) -> Option<Bill> {
    rig.driver.take_removed().into_iter().find_map(|removed| match removed {
        FromDriver::FlowRemoved { flow: gone, bill, .. } if gone == flow => Some(bill),
        _ => None,
    })
}

#[test]
fn what_was_handed_over_before_a_flow_is_closed_leaves_under_its_contract_and_then_it_is_gone() {
    let mut rig = Rig::new();
    // Two of these frames in every ten milliseconds.
    let mut app = rig.app(4000, base_flow::Contract::guaranteed(150_000, 10 * MS).unwrap());
    let frames = fill(&mut app, 20);
    rig.driver.remove_flow(app.flow, rig.now);
    assert!(!rig.driver.has_removed());
    rig.run(50 * MS);
    let half = rig.arrived();
    assert!((8..=12).contains(&half.len()), "{} frames in five periods", half.len());
    assert!(last_bill(&mut rig, app.flow).is_none());
    rig.run(200 * MS);
    let all: Vec<_> = half.into_iter().chain(rig.arrived()).collect();
    assert_eq!(all, frames);
    let bill = last_bill(&mut rig, app.flow).expect("it is gone");
    assert_eq!((bill.tx_frames, bill.dropped_total()), (20, 0));
    assert_eq!((rig.driver.flows(), rig.driver.draining()), (0, 0));
}

#[test]
fn a_flow_that_has_nothing_to_send_is_gone_at_once_and_one_that_is_unknown_was() {
    let mut rig = Rig::new();
    let app = rig.app(4000, ms(10, 100));
    rig.driver.remove_flow(app.flow, rig.now);
    assert!(last_bill(&mut rig, app.flow).is_some());
    rig.driver.remove_flow(app.flow, rig.now);
    assert_eq!(last_bill(&mut rig, app.flow), Some(Bill::default()));
}

#[test]
fn a_dead_process_takes_no_buffers_back_and_everything_leaves_all_the_same() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(90, 100));
    // As many as can be returned, which nobody takes, and then as many again.
    let first = fill(&mut app, rig::WORDS as u8 / 2);
    rig.run(50 * MS);
    assert_eq!(rig.arrived().len(), first.len());
    let second = fill(&mut app, rig::WORDS as u8 / 2);
    rig.driver.remove_flow(app.flow, rig.now);
    rig.driver.remove_domain(app.domain, rig.now);
    assert!(!rig.driver.has_removed());
    rig.run(rig.now + 50 * MS);
    assert_eq!(rig.arrived(), second);
    let removed = rig.driver.take_removed();
    let order = matches!(
        removed[..],
        [FromDriver::FlowRemoved { .. }, FromDriver::DomainRemoved { domain }] if domain == app.domain
    );
    assert!(order, "the domain is gone after its last flow: {removed:?}");
}

#[test]
fn what_is_put_into_a_closed_flow_never_leaves() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(1, 100));
    let frames = fill(&mut app, 16);
    rig.driver.remove_flow(app.flow, rig.now);
    while rig.driver.draining() > 0 {
        while app.send(&frames[0]) {}
        app.reap();
        rig.run(rig.now + MS);
    }
    assert_eq!(rig.arrived().len(), frames.len());
    let bill = last_bill(&mut rig, app.flow).expect("its owner cannot keep it");
    assert!(bill.dropped(DropReason::Closed) > 0);
}

#[test]
fn a_closed_flow_hears_nothing_and_its_ends_are_free_for_another() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(1, 100));
    app.offer(4);
    fill(&mut app, 20);
    rig.driver.remove_flow(app.flow, rig.now);
    let mut next = rig.app(4000, ms(10, 100));
    next.offer(4);
    rig.wire.send(Side::Right, incoming(4000, b"for the next"));
    rig.run(rig.now + 10 * MS);
    assert_eq!((app.received().len(), next.received().len()), (0, 1));
}

#[test]
fn a_flow_that_may_not_send_is_kept_no_longer_than_the_limit_and_its_frames_are_counted() {
    let mut rig = Rig::new();
    // One of these frames in two seconds.
    let mut app = rig.app(4000, base_flow::Contract::guaranteed(45_000, 1000 * MS).unwrap());
    fill(&mut app, 32);
    rig.driver.remove_flow(app.flow, rig.now);
    rig.run(DRAIN_NS_MAX - 1);
    assert_eq!(rig.driver.draining(), 1);
    rig.run(DRAIN_NS_MAX + MS);
    let bill = last_bill(&mut rig, app.flow).expect("its time is over");
    assert_eq!(bill.tx_frames + bill.dropped(DropReason::Closed), 32);
    assert!(bill.tx_frames < 20 && rig.driver.draining() == 0);
}

#[test]
fn a_lie_in_the_channel_of_a_closed_flow_ends_it_and_is_nobodys_fault_any_more() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(1, 100));
    fill(&mut app, 20);
    rig.driver.remove_flow(app.flow, rig.now);
    // The count of published words of its transmit block.
    app.word(16).store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    for word in 16..88 {
        app.word(word).store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    }
    rig.run(rig.now + 500 * MS);
    assert!(last_bill(&mut rig, app.flow).is_some());
    assert!(rig.driver.take_faults().is_empty());
}

#[test]
fn a_buffer_that_is_refused_while_its_flow_is_being_closed_is_not_returned() {
    let mut rig = Rig::new();
    // One of these frames in two seconds.
    let mut app = rig.app(4000, base_flow::Contract::guaranteed(45_000, 1000 * MS).unwrap());
    let bad = app.frame(b"x")[..30].to_vec();
    let good = app.frame(&[0; 1000]);
    for frame in [&bad, &good, &good, &good] {
        assert!(app.send(frame));
    }
    rig.driver.remove_flow(app.flow, rig.now);
    rig.run(MS);
    let bill = rig.driver.flow_bill(app.flow).expect("it is kept for the rest");
    assert_eq!((bill.dropped_total(), app.reap()), (1, (0, 0)));
}

/// A segment from the peer's `port` to our port 80.
fn segment(port: u16, kind: impl Fn(TcpStep) -> TcpStep) -> Vec<u8> {
    let head = PacketBuilder::ethernet2(rig::PEER.0, rig::US.0);
    let tcp = head.ipv4(THEIRS.octets(), OURS.octets(), 64).tcp(port, 80, 1000, 500);
    let mut frame = Vec::new();
    kind(tcp).write(&mut frame, &[]).unwrap();
    frame
}

type TcpStep = etherparse::PacketBuilderStep<etherparse::TcpHeader>;

/// An application with a flow between our port 80 and `remote`, which has room for four frames.
fn connection(rig: &mut Rig, remote: Option<u16>) -> (App, Endpoints) {
    let mut app = rig.bare(ms(1, 100));
    app.fib = rig::fib(app.flow, OURS, 80, remote.map(|port| (THEIRS, port)), Some(rig::PEER));
    app.fib.endpoints.transport = Transport::Tcp;
    rig.driver.attach(&app.fib, rig.now).unwrap();
    app.offer(4);
    let ends = app.fib.endpoints;
    (app, ends)
}

#[test]
fn who_calls_while_a_connection_is_being_closed_is_heard_by_whoever_has_its_ends_then() {
    let mut rig = Rig::new();
    let (mut listener, _) = connection(&mut rig, None);
    let mut parked = rig.bare(ms(1, 100));
    parked.offer(4);
    let pace = Pace { per_s: 1000, burst: 100 };
    rig.driver.set_last_resort(Stray::Parked, parked.flow, pace, 0).unwrap();
    let syn = segment(4000, |tcp| tcp.syn());
    for parks in [true, false] {
        let (mut app, ends) = connection(&mut rig, Some(4000));
        // The first is read; what is no beginning of anything will come again.
        for frame in [&syn, &segment(4000, |tcp| tcp.fin().ack(7)), &syn] {
            rig.wire.send(Side::Right, frame.clone());
            rig.run(rig.now + MS);
        }
        assert!(app.rx.take().unwrap().is_some());
        assert_eq!((listener.received(), parked.received()), (vec![], vec![]));
        rig.driver.remove_connection(app.flow, Some(&ends).filter(|_| parks), rig.now);
        rig.run(rig.now + MS);
        let heard = [parked.received(), listener.received()];
        let expected = [vec![syn.clone()], vec![]];
        assert_eq!(heard, if parks { expected } else { [vec![], vec![syn.clone()]] });
        rig.driver.unpark(&ends);
    }
}

#[test]
fn an_application_cannot_have_others_called_from_the_channel_of_a_flow_that_it_closes() {
    let mut rig = Rig::new();
    let (mut listener, _) = connection(&mut rig, None);
    let (mut app, ends) = connection(&mut rig, Some(4000));
    rig.wire.send(Side::Right, segment(4000, |tcp| tcp.syn()));
    rig.run(rig.now + MS);
    // Its memory is its own: it makes another caller of the one that called.
    let forged = segment(4001, |tcp| tcp.syn());
    assert!(app.rx_data.write(0, &forged));
    rig.driver.remove_connection(app.flow, Some(&ends), rig.now);
    rig.run(rig.now + MS);
    assert_eq!(listener.received(), Vec::<Vec<u8>>::new());
    assert_eq!(rig.driver.flows(), 1, "and it is gone: {:?}", app.rx.take());
}
