//! Daemons that die or stand still, and those who wait for them.

mod in_lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener as KernelListener, TcpStream as KernelStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use in_lab::older_kernel::on_an_older_kernel;
use in_lab::{OURS, THEIRS, eventually, host, in_lab, on_peer, processes, program};
use plumb_net::{Error, Options, Udp};
use rustix::process::{Pid, Signal, kill_process};

/// Who waits for ever is found out after so long.
const LONG: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options::new().host(&host())
}

fn signal(daemon: &str, signal: Signal) {
    let pid = Pid::from_raw(processes()[daemon] as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

/// What blocked calls of each kind come to when `kill` has been done.
fn blocked(kill: impl FnOnce()) -> Vec<(&'static str, std::io::Result<usize>)> {
    let peer = on_peer(|| KernelListener::bind((THEIRS, 7000)).unwrap());
    let connected = || {
        let ours = options().connect_tcp((THEIRS, 7000)).unwrap();
        (ours, peer.accept().unwrap().0)
    };
    let udp = options().bind((OURS, 7001)).unwrap();
    let everywhere = options().bind(("0.0.0.0", 7002)).unwrap();
    let listener = options().listen(("0.0.0.0", 7003)).unwrap();
    let ((reader, _held), (writer, _unread)) = (connected(), connected());
    let (told, heard) = mpsc::channel();
    let wait = |what: &'static str, call: Box<dyn FnOnce() -> std::io::Result<usize> + Send>| {
        let told = told.clone();
        thread::spawn(move || told.send((what, call())).unwrap());
    };
    wait("a datagram", Box::new(move || udp.recv(&mut [0; 10])));
    wait("a datagram at any address", Box::new(move || everywhere.recv(&mut [0; 10])));
    wait("a connection", Box::new(move || listener.accept().map(|_| 0)));
    wait("bytes", Box::new(move || (&reader).read(&mut [0; 10])));
    wait(
        "room",
        Box::new(move || {
            loop {
                (&writer).write_all(&[7; 1 << 16])?;
            }
        }),
    );
    // All of them are asleep, or will see what sleepers do.
    kill();
    let next = |_| heard.recv_timeout(LONG).expect("everybody hears");
    (0..5).map(next).collect()
}

#[test]
fn every_call_that_waits_fails_when_the_daemons_are_killed() {
    kill_the_daemons("every_call_that_waits_fails_when_the_daemons_are_killed");
}

#[test]
fn every_call_that_waits_fails_when_the_daemons_are_killed_that_have_a_keeper() {
    on_an_older_kernel(|| {
        kill_the_daemons(
            "every_call_that_waits_fails_when_the_daemons_are_killed_that_have_a_keeper",
        );
    });
}

/// Kills them while many calls wait, in a lab of the test called `name`.
fn kill_the_daemons(name: &str) {
    in_lab(name, &[], || {
        let ends = blocked(|| {
            signal("flowman", Signal::KILL);
            signal("driver", Signal::KILL);
        });
        for (what, result) in ends {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::NotConnected, "{what}: {error}");
            assert!(error.to_string().matches("flow lost").count() <= 1, "{error}");
        }
        let error = Udp::bind((OURS, 0)).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::NoFlowManager { .. }), "{error}");
    });
}

#[test]
fn every_call_that_waits_fails_when_the_driver_is_killed_and_the_flow_manager_stands() {
    let name = "every_call_that_waits_fails_when_the_driver_is_killed_and_the_flow_manager_stands";
    in_lab(name, &[], || {
        let ends = blocked(|| {
            signal("flowman", Signal::STOP);
            signal("driver", Signal::KILL);
        });
        for (what, result) in ends {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::NotConnected, "{what}: {error}");
        }
        signal("flowman", Signal::CONT);
    });
}

#[test]
fn a_runtime_of_one_thread_goes_on_while_its_tasks_wait_for_a_flow_manager_that_stands() {
    use std::future::Future as _;
    let name =
        "a_runtime_of_one_thread_goes_on_while_its_tasks_wait_for_a_flow_manager_that_stands";
    in_lab(name, &[], || {
        use plumb_net::tokio::{TcpListener, TcpStream};
        let options = options();
        let kernel = on_peer(|| KernelListener::bind((THEIRS, 7200)).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        signal("flowman", Signal::STOP);
        runtime.block_on(async {
            let mut bind =
                std::pin::pin!(TcpListener::bind_with(options.clone(), (OURS, 7201).into()));
            let mut connect =
                std::pin::pin!(TcpStream::connect_with(options, (THEIRS, 7200).into()));
            // Both have begun, and the runtime's other task gets its turns.
            let mut turns = 0;
            std::future::poll_fn(|context| {
                assert!(bind.as_mut().poll(context).is_pending(), "nobody has answered");
                assert!(connect.as_mut().poll(context).is_pending(), "nobody has answered");
                turns += 1;
                context.waker().wake_by_ref();
                if turns < 100 { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
            })
            .await;
            signal("flowman", Signal::CONT);
            let at = bind.await.unwrap().get_ref().local_addr().unwrap();
            assert_eq!(at, (OURS, 7201).into());
            connect.await.unwrap();
        });
        kernel.accept().unwrap();
    });
}

#[test]
fn without_the_flow_manager_what_needs_it_fails_at_once_and_streams_go_on() {
    let name = "without_the_flow_manager_what_needs_it_fails_at_once_and_streams_go_on";
    in_lab(name, &[], || {
        let options = options();
        let listener = options.listen((OURS, 7100)).unwrap();
        let mut kernel: KernelStream = on_peer(|| KernelStream::connect((OURS, 7100)).unwrap());
        let (ours, _) = listener.accept().unwrap();
        let waits = thread::spawn(move || listener.accept().map(|_| ()));
        signal("flowman", Signal::KILL);
        let error = waits.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("flow manager is gone"), "{error}");
        let gone = |error: &Error| matches!(error, Error::FlowManagerGone);
        assert!(options.bind((OURS, 7101)).is_err_and(|error| gone(&error)));
        assert!(options.connect((THEIRS, 7101)).is_err_and(|error| gone(&error)));
        for round in 0..100u8 {
            (&ours).write_all(&[round; 100]).unwrap();
            let mut heard = [0; 100];
            kernel.read_exact(&mut heard).unwrap();
            kernel.write_all(&heard).unwrap();
            (&ours).read_exact(&mut heard).unwrap();
            assert_eq!(heard, [round; 100]);
        }
    });
}

#[test]
fn who_waits_for_a_driver_that_stands_still_can_be_told_to_end_and_gives_up_by_itself() {
    let name = "who_waits_for_a_driver_that_stands_still_can_be_told_to_end_and_gives_up_by_itself";
    in_lab(name, &[], || {
        let waits = host();
        signal("driver", Signal::STOP);
        let mut ping = Command::new(program())
            .args(["ping", "10.77.0.2"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&ping);
        // It waits for the driver when there is one client more.
        eventually("it waits", || waits.query_status().unwrap().clients >= 2);
        kill_process(pid, Signal::TERM).unwrap();
        let mut ended = None;
        eventually("it has ended", || {
            ended = ping.try_wait().unwrap();
            ended.is_some()
        });
        let error = Options::new().host(&waits).bind((OURS, 7200)).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error}");
        signal("driver", Signal::CONT);
        // What was asked for then is there now.
        Options::new().host(&waits).bind((OURS, 7200)).unwrap();
    });
}
