//! Applications that come and go, and die at any moment: nothing of them stays.

mod in_lab;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use base_rpc::{Answer, Call, MESSAGE_BYTES_MAX, Refusal, Reply, Request, decode, encode};
use in_lab::older_kernel::{keeper, on_an_older_kernel};
use in_lab::{
    THEIRS, eventually, holdings, host, in_lab, kernel_socket, processes, program, socket,
};
use plumb_net::{Host, StatusInfo, Udp};
use rbuf_shm::{Connection, ReceiveError};
use std::os::fd::AsFd;

/// What the daemons hold, and what the flow manager knows of.
fn state(host: &Host) -> (StatusInfo, Vec<(usize, usize)>) {
    let processes = processes();
    let status = host.query_status().unwrap();
    let daemons = [Some(processes["flowman"]), Some(processes["driver"]), keeper()];
    (status, daemons.into_iter().flatten().map(holdings).collect())
}

#[test]
fn two_thousand_flows_opened_and_closed_leave_nothing() {
    in_lab("two_thousand_flows_opened_and_closed_leave_nothing", &[], || {
        let _kernel = kernel_socket(7000);
        let host = host();
        let open = || Udp::options().host(&host).connect((THEIRS, 7000)).unwrap();
        open().close().unwrap();
        let before = state(&host);
        for round in 0..2_000 {
            let socket = open();
            if round % 3 == 0 {
                socket.send(b"x").unwrap();
            }
            drop(socket);
        }
        eventually("everything is as before", || state(&host) == before);
    });
}

#[test]
fn two_hundred_applications_killed_with_open_flows_leave_nothing() {
    in_lab("two_hundred_applications_killed_with_open_flows_leave_nothing", &[], || {
        let _kernel = kernel_socket(7000);
        let host = host();
        // The neighbour is known before, and stays known.
        Udp::options().host(&host).connect((THEIRS, 7000)).unwrap().close().unwrap();
        let before = state(&host);
        for _ in 0..200 {
            let mut sender = Command::new(program())
                .args([
                    "__sender",
                    "--to",
                    "10.77.0.2:7000",
                    "--contract",
                    "1ms/100ms",
                    "--bytes",
                    "100",
                ])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(sender.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert!(line.starts_with("ready"), "{line}");
            sender.kill().unwrap();
            sender.wait().unwrap();
        }
        eventually("everything is as before", || state(&host) == before);
    });
}

/// The refusal that a message gets, after which the connection is closed.
fn refusal(connection: &Connection) -> Refusal {
    let received = connection.receive(MESSAGE_BYTES_MAX).unwrap();
    let answer: Answer = decode(&received.bytes).unwrap();
    let Reply::Refused(refusal) = answer.reply else { panic!("{answer:?}") };
    assert!(matches!(connection.receive(MESSAGE_BYTES_MAX), Err(ReceiveError::Closed)));
    refusal
}

#[test]
fn messages_that_make_no_sense_are_refused_with_a_reason_and_leak_nothing() {
    refuse("messages_that_make_no_sense_are_refused_with_a_reason_and_leak_nothing");
}

#[test]
fn where_the_kernel_refuses_no_descriptors_messages_are_refused_for_them_and_leak_nothing() {
    on_an_older_kernel(|| {
        refuse(
            "where_the_kernel_refuses_no_descriptors_messages_are_refused_for_them_and_leak_nothing",
        );
    });
}

/// Has messages refused that make no sense, in a lab of the test called `name`.
fn refuse(name: &str) {
    in_lab(name, &[], || {
        let host = host();
        let before = state(&host);
        let connect = || Connection::connect(&socket()).unwrap();
        let good = encode(&Call { tag: 1, request: Request::Hello });
        let mut other_version = good.clone();
        other_version[1] = 99;
        let rows: [(&str, Vec<u8>, &str); 5] = [
            ("one byte", vec![1], "too short"),
            ("another protocol", b"GET / HTTP/1.1".to_vec(), "does not speak"),
            ("another version", other_version, "version 99"),
            ("cut short", good[..good.len() - 1].to_vec(), "malformed"),
            ("too long", vec![0x50; MESSAGE_BYTES_MAX + 1], "exceed"),
        ];
        for (name, bytes, says) in rows {
            let connection = connect();
            connection.send(&bytes, &[]).unwrap();
            let text = refusal(&connection).to_string();
            assert!(text.contains(says), "{name}: {text}");
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let connection = connect();
        match connection.send(&good, &[file.as_fd(); 3]) {
            // The kernel refuses them, and the flow manager does where it cannot.
            Err(error) => {
                assert!(keeper().is_none());
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            }
            Ok(()) => {
                assert!(keeper().is_some());
                assert!(matches!(refusal(&connection), Refusal::Descriptors(_)));
            }
        }
        drop(connection);
        let connection = connect();
        connection
            .send(&encode(&Call { tag: 1, request: Request::Query(base_rpc::Query::Status) }), &[])
            .unwrap();
        assert!(matches!(refusal(&connection), Refusal::Order(_)), "no hello");
        drop(connection);
        eventually("everything is as before", || state(&host) == before);
    });
}
