//! Units, which the link cuts into frames: only for the wire, and only if it can.

mod rig;

use base_flow::{DropReason, Rate, Transport};
use base_wire::Mac;
use driver_link::null::NullLink;
use etherparse::PacketBuilder;
use rbuf_channel::{Data, IoRec, Pair};
use rig::{BUFFER, OURS, PEER, THEIRS, US, fib};

const SEGMENT_BYTES: u16 = 1448;
const SEGMENTS: u64 = 2;

/// What becomes of a unit for `hop`, if the link cuts packets of up to `unit_bytes`: frames sent, packets refused for
/// their segmentation, and whether it came back as refused.
fn fate(hop: Mac, unit_bytes: u16) -> (u64, u64, bool) {
    let mut link = NullLink::new(US, 1500);
    link.set_unit_bytes(unit_bytes);
    let (mut driver, mut app) = rig::one_app(link, Rate::mbit(1000));
    let remote = if hop == US { OURS } else { THEIRS };
    app.fib = fib(app.flow, OURS, 4000, Some((remote, 5000)), Some(hop));
    app.fib.endpoints.transport = Transport::Tcp;
    driver.attach(&app.fib, 0).unwrap();

    let mut unit = Vec::new();
    let payload = vec![7; usize::from(SEGMENT_BYTES) * SEGMENTS as usize];
    PacketBuilder::ethernet2(US.0, hop.0)
        .ipv4(OURS.octets(), remote.octets(), 64)
        .tcp(4000, 5000, 1, 1000)
        .ack(1)
        .write(&mut unit, &payload)
        .unwrap();
    let (header, payload) = unit.split_at(unit.len() - payload.len());
    assert!(app.tx_data.write(0, header) && app.tx_data.write(BUFFER, payload));
    let mut rec = IoRec::single(1, Pair { offset: 0, len: header.len() as u32 });
    assert!(rec.push(Pair { offset: BUFFER, len: payload.len() as u32 }));
    rec.gso_size = SEGMENT_BYTES;
    assert!(app.tx.put(&rec).unwrap());
    app.events.post(1);
    driver.transmit(1_000_000, &mut || 0);
    driver.transmit(2_000_000, &mut || 0);
    let bill = driver.flow_bill(app.flow).unwrap();
    assert_eq!(bill.dropped_total(), bill.dropped(DropReason::Segmentation), "{bill:?}");
    let (returned, refused) = app.reap();
    assert_eq!(returned, 1);
    (bill.tx_frames, bill.dropped(DropReason::Segmentation), refused == 1)
}

#[test]
fn a_unit_leaves_as_its_frames_if_the_link_cuts_it_and_is_refused_if_nobody_would() {
    assert_eq!(fate(PEER, 9000), (SEGMENTS, 0, false));
    assert_eq!(fate(PEER, 1500), (0, 1, true), "a link that does not cut");
    assert_eq!(fate(US, 9000), (0, 1, true), "for this host itself");
}
