//! An application without the library, to be able to do what the library does not.

use std::os::fd::OwnedFd;
use std::path::Path;

use base_flow::{Contract, Endpoints, FlowId, Sap, Transport};
use base_rpc::{Answer, Call, FlowLayout, JoinOffer, MESSAGE_BYTES_MAX, Reply, Request};
use base_rpc::{decode, encode};
use rbuf_channel::{Data, IoRec, Pair};
use rbuf_domain::{Domain, Ends, Shape};
use rbuf_shm::Connection;

use crate::in_lab::{OURS, THEIRS, socket};

pub fn call(connection: &Connection, request: Request) -> (Reply, Vec<OwnedFd>) {
    connection.send(&encode(&Call { tag: 7, request }), &[]).unwrap();
    let received = connection.receive(MESSAGE_BYTES_MAX).unwrap();
    let answer: Answer = decode(&received.bytes).unwrap();
    (answer.reply, received.descriptors)
}

/// A connection that has said hello.
pub fn greet() -> Connection {
    let connection = Connection::connect(&socket()).unwrap();
    let (reply, _) = call(&connection, Request::Hello);
    assert!(matches!(reply, Reply::Welcome { .. }), "{reply:?}");
    connection
}

/// What the driver passes to who joins.
pub fn join(connection: &Connection, flows_max: u32) -> Vec<OwnedFd> {
    let (reply, descriptors) = call(connection, Request::Join(JoinOffer { link: 0, flows_max }));
    assert_eq!(reply, Reply::Joined);
    descriptors
}

/// A flow, and the parts of which it is made.
pub struct RawFlow {
    pub id: FlowId,
    pub layout: FlowLayout,
    pub ends: Ends,
    frame: Vec<u8>,
}

impl RawFlow {
    /// A UDP flow from `port` to the peer's port 7000.
    pub fn open(connection: &Connection, domain: &Domain, port: u16, contract: Contract) -> Self {
        let shape = Shape { tx_words: 256, rx_words: 256, tx_bytes: 1 << 18, rx_bytes: 1 << 18 };
        let layout = domain.lay_out(&shape).unwrap();
        let ends = domain.ends(&layout).unwrap();
        let endpoints = Endpoints {
            transport: Transport::Udp,
            local: Sap::new(OURS.into(), port),
            remote: Some(Sap::new(THEIRS.into(), 7000)),
        };
        let open = Request::Open { link: 0, contract, layout, endpoints: Some(endpoints) };
        let (reply, _) = call(connection, open);
        let Reply::Opened { fib: Some(fib), flow, .. } = reply else { panic!("{reply:?}") };
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(fib.source_mac.0, fib.next_hop_mac.unwrap().0)
            .ipv4(OURS.octets(), THEIRS.octets(), 64)
            .udp(port, 7000)
            .write(&mut frame, &[0xee; 200])
            .unwrap();
        Self { id: flow, layout, ends, frame }
    }

    /// Puts the frame once for each of `slots`; returns how many went.
    pub fn send(&mut self, domain: &Domain, slots: std::ops::Range<u16>) -> u32 {
        let mut put = 0;
        for slot in slots {
            let offset = u32::from(slot) * 2048;
            self.ends.tx_data.write(offset, &self.frame);
            let rec = IoRec::single(slot, Pair { offset, len: self.frame.len() as u32 });
            put += u32::from(matches!(self.ends.tx.put(&rec), Ok(true)));
        }
        if self.ends.tx.notice().post {
            domain.post(self.layout.slot);
        }
        put
    }

    /// Whether the driver has asked for an event since this was last asked.
    pub fn is_awaited(&mut self) -> bool {
        self.ends.tx.notice().post
    }

    /// Takes back what the driver is done with.
    pub fn reap(&mut self) -> u32 {
        let mut taken = 0;
        while matches!(self.ends.tx.take(), Ok(Some(_))) {
            taken += 1;
        }
        taken
    }
}

/// Where attackers and the test meet, besides the flow manager.
pub fn meeting_place() -> std::path::PathBuf {
    socket().parent().unwrap_or(Path::new("/tmp")).join("meeting")
}
