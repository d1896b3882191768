//! Objects of a stranger's choice, and connections that are given away.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use base_flow::Contract;
use base_rpc::{Call, JoinOffer, Request, encode};
use rbuf_domain::Domain;
use rbuf_shm::{Connection, Descriptors, Listener, descriptors_can_be_refused};

use crate::ground::{Ground, holds, peer_hears, row, say};
use crate::in_lab::older_kernel::{keeper, on_an_older_kernel};
use crate::in_lab::{eventually, holdings, host, socket};
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

/// Sends sockets that linger in each way that a message can come to its end.
fn send_what_lingers() {
    let sent = std::sync::Barrier::new(SOCKETS + 1);
    std::thread::scope(|scope| {
        for number in 0..SOCKETS {
            let sent = &sent;
            scope.spawn(move || {
                let (_deaf, stream) = lingering();
                let call = |request| encode(&Call { tag: 1, request });
                let join = Request::Join(JoinOffer { link: 0, flows_max: 4 });
                let connection = match number % 4 {
                    1 => greet(),
                    _ => Connection::connect(&socket()).unwrap(),
                };
                sent.wait();
                // As soon as it is sent it is not ours any more; what is refused we wait for ourselves.
                let send = |bytes: &[u8]| drop(connection.send(bytes, &[stream.as_fd()]));
                match number % 4 {
                    0 => send(&call(Request::Hello)),
                    1 => send(&call(join)),
                    // Behind a message for which the connection is closed.
                    2 => {
                        connection.send(b"rubbish", &[]).unwrap();
                        send(b"more");
                    }
                    // And one that looks like the end.
                    _ => {
                        connection.send(b"", &[]).unwrap();
                        send(b"");
                        drop(connection);
                    }
                }
                drop(stream);
                std::thread::park();
            });
        }
        sent.wait();
        say("sent");
    });
}

/// Fails if daemons wait for attackers of whom `has_begun` is true.
fn make_no_daemon_wait(ground: &Ground, has_begun: impl Fn() -> bool) {
    let start = || {
        let attacker = ground.attacker_that_says("sent");
        eventually("the attack has begun", &has_begun);
        attacker
    };
    ground.compare(start, |control, attacked| holds(control.opens, attacked.opens, 500));
}

#[test]
fn an_object_that_takes_long_to_close_makes_no_daemon_wait() {
    let name = "descriptors::an_object_that_takes_long_to_close_makes_no_daemon_wait";
    row(name, send_what_lingers, |ground| {
        let is_kept = !descriptors_can_be_refused();
        assert_eq!(keeper().is_some(), is_kept, "what the kernel refuses is kept by nobody");
        make_no_daemon_wait(ground, || true);
    });
}

#[test]
fn where_the_kernel_refuses_no_descriptors_they_make_the_keeper_wait_and_no_daemon() {
    let name = "descriptors::where_the_kernel_refuses_no_descriptors_they_make_the_keeper_wait_and_no_daemon";
    on_an_older_kernel(|| {
        row(name, send_what_lingers, |ground| {
            let keeper = keeper().unwrap();
            let held = || holdings(keeper).0;
            let before = held();
            // It keeps all that were sent, but those for which a connection was closed too early.
            make_no_daemon_wait(ground, || held() >= before + SOCKETS * 3 / 4);
            // Sockets to who has died do not linger.
            eventually("nothing is left", || held() == before);
        });
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
