//! Objects of a stranger's choice, and connections that are given away.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use base_flow::Contract;
use base_rpc::{Call, JoinOffer, Request, encode};
use rbuf_domain::Domain;
use rbuf_shm::{Connection, Descriptors, Listener};

use crate::ground::{holds, peer_hears, row, say};
use crate::in_lab::{eventually, host, socket};
use crate::raw::{RawFlow, greet, join, meeting_place};

/// A socket that takes a minute to be closed by whoever closes it last: nobody reads what it has sent.
fn lingering() -> (TcpListener, TcpStream) {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(deaf.local_addr().unwrap()).unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::from_secs(60))).unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 1 << 16]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    (deaf, stream)
}

/// So many, for whoever closes one last has to be the flow manager.
const SOCKETS: usize = 16;

#[test]
fn an_object_that_takes_long_to_close_makes_no_daemon_wait() {
    let attack = || {
        let sent = std::sync::Barrier::new(SOCKETS + 1);
        std::thread::scope(|scope| {
            for number in 0..SOCKETS {
                let sent = &sent;
                scope.spawn(move || {
                    let (_deaf, stream) = lingering();
                    let connection = Connection::connect(&socket()).unwrap();
                    let request = match number % 2 {
                        0 => Request::Hello,
                        _ => Request::Join(JoinOffer { link: 0, flows_max: 4 }),
                    };
                    let bytes = encode(&Call { tag: 1, request });
                    sent.wait();
                    // As soon as it is sent it is not ours any more; what is refused we wait for ourselves.
                    let _ = connection.send(&bytes, &[stream.as_fd()]);
                    drop(stream);
                    std::thread::park();
                });
            }
            sent.wait();
            say("sent");
        });
    };
    let name = "descriptors::an_object_that_takes_long_to_close_makes_no_daemon_wait";
    row(name, attack, |ground| {
        let start = || ground.attacker_that_says("sent");
        ground.compare(start, |control, attacked| holds(control.opens, attacked.opens, 500));
    });
}

#[test]
fn a_flow_dies_with_its_process_whoever_holds_its_connection() {
    let attack = || {
        let connection = greet();
        let domain = Domain::new(4, join(&connection, 4)).unwrap();
        let contract = Contract::guaranteed(45_000_000, 100_000_000).unwrap();
        let _flow = RawFlow::open(&connection, &domain, 6100, contract);
        let friend = Connection::connect(&meeting_place()).unwrap();
        friend.send(b"keep it", &[connection.as_fd()]).unwrap();
    };
    let name = "descriptors::a_flow_dies_with_its_process_whoever_holds_its_connection";
    row(name, attack, |ground| {
        let _peer = peer_hears(7000);
        let host = host();
        let before = host.query_status().unwrap().flows;
        let meeting = Listener::bind(&meeting_place(), 0o666, Descriptors::Taken).unwrap();
        let mut attacker = ground.attacker();
        let mut given = None;
        eventually("the connection is given away", || {
            given = given.take().or_else(|| meeting.accept().unwrap());
            given.is_some()
        });
        let (given, mut received) = (given.unwrap(), None);
        eventually("it has arrived", || {
            received = received.take().or_else(|| given.receive(100).ok());
            received.is_some()
        });
        let received = received.unwrap();
        assert_eq!(received.descriptors.len(), 1);
        attacker.wait_until_dead();
        eventually("its flow is gone", || host.query_status().unwrap().flows == before);
        drop(received);
    });
}
