//! TCP over flows against a Linux kernel, and against ourselves.

mod in_lab;

use std::io::{ErrorKind, Read, Seek, Write};
use std::net::{Shutdown, SocketAddr, TcpListener as KernelListener, TcpStream as KernelStream};
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use in_lab::{OURS, THEIRS, eventually, host, in_lab, on_peer, program};
use plumb_net::engine::Algorithm;
use plumb_net::{Contract, Host, Options, TcpListener, TcpStream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

const RATE: [&str; 2] = ["--rate", "1gbit"];
const SOON: Option<Duration> = Some(Duration::from_secs(10));

fn options() -> Options {
    Options::new().host(&host())
}

fn kernel_listener(port: u16) -> KernelListener {
    on_peer(|| KernelListener::bind((THEIRS, port)).unwrap())
}

fn kernel_connect(port: u16) -> std::io::Result<KernelStream> {
    let to = SocketAddr::from((OURS, port));
    on_peer(|| KernelStream::connect_timeout(&to, Duration::from_secs(10)))
}

fn listen(port: u16) -> TcpListener {
    options().listen((OURS, port)).unwrap()
}

/// Our end and the kernel's of a connection that we opened.
fn opened(port: u16) -> (TcpStream, KernelStream) {
    let listener = kernel_listener(port);
    let ours = options().connect_tcp((THEIRS, port)).unwrap();
    let (kernel, _) = listener.accept().unwrap();
    ours.set_read_timeout(SOON).unwrap();
    kernel.set_read_timeout(SOON).unwrap();
    (ours, kernel)
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| chance.u8(..)).collect()
}

/// Both sides send at the same time, and each gets what the other sent.
fn exchange(ours: &TcpStream, kernel: &KernelStream, count: usize) {
    let (there, back) = (bytes(1, count), bytes(2, count));
    thread::scope(|scope| {
        let (there, back) = (&there, &back);
        scope.spawn(move || {
            (&mut &*ours).write_all(there).unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            (&mut &*kernel).write_all(back).unwrap();
            kernel.shutdown(Shutdown::Write).unwrap();
        });
        let received = scope.spawn(move || {
            let mut received = Vec::new();
            (&mut &*kernel).read_to_end(&mut received).unwrap();
            received
        });
        let mut answer = Vec::new();
        (&mut &*ours).read_to_end(&mut answer).unwrap();
        assert!(answer == *back, "what came back is not what was sent");
        assert!(received.join().unwrap() == *there, "what arrived there is not what was sent");
    });
}

#[test]
fn streams_in_both_directions_at_once_arrive_whole_whoever_opens() {
    // RFC 9293 MUST-43.
    in_lab("streams_in_both_directions_at_once_arrive_whole_whoever_opens", &RATE, || {
        let (ours, kernel) = opened(7000);
        exchange(&ours, &kernel, 8 << 20);
        assert!(ours.info().timestamps && ours.info().sack);
        let listener = listen(7001);
        let kernel = kernel_connect(7001).unwrap();
        let (ours, from) = listener.accept().unwrap();
        assert_eq!(from, kernel.local_addr().unwrap());
        assert_eq!(ours.local_addr().unwrap(), SocketAddr::from((OURS, 7001)));
        exchange(&ours, &kernel, 8 << 20);
    });
}

#[test]
fn two_applications_of_this_host_have_a_stream_without_the_wire() {
    in_lab("two_applications_of_this_host_have_a_stream_without_the_wire", &RATE, || {
        let listener = listen(7002);
        let mut client = options().connect_tcp((OURS, 7002)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let sent = bytes(3, 1 << 20);
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                client.write_all(&sent).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == sent);
    });
}

#[test]
fn errors_are_those_of_the_standard_library() {
    in_lab("errors_are_those_of_the_standard_library", &RATE, || {
        let refused = options().connect_tcp((THEIRS, 7999)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(kernel_connect(7998).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        let (mut ours, kernel) = opened(7003);
        ours.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(ours.read_timeout().unwrap(), Some(Duration::from_millis(20)));
        assert_eq!((ours.write_timeout().unwrap(), ours.linger()), (None, None));
        ours.set_nodelay(true).unwrap();
        assert!(ours.nodelay().unwrap());
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(
            ours.set_read_timeout(Some(Duration::ZERO)).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        ours.set_nonblocking(true).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let full = ours.write_all(&[0; 16 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock, "nobody reads there");
        ours.set_nonblocking(false).unwrap();
        ours.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let full = ours.write_all(&vec![0; 64 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        // Data that is not read makes the kernel reset.
        drop(kernel);
        ours.set_read_timeout(SOON).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "once, and then the end");
        assert_eq!(ours.write(&[0]).unwrap_err().kind(), ErrorKind::BrokenPipe);

        let (mut ours, _kernel) = opened(7004);
        ours.shutdown(Shutdown::Write).unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        assert_eq!(ours.write(&[0]).unwrap_err().kind(), ErrorKind::BrokenPipe);
        ours.shutdown(Shutdown::Read).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        let listener = listen(7005);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let taken = options().listen((OURS, 7005)).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn reading_can_look_ahead_and_fill_several_buffers() {
    in_lab("reading_can_look_ahead_and_fill_several_buffers", &RATE, || {
        let (mut ours, mut kernel) = opened(7006);
        kernel.write_all(b"hello, plumb").unwrap();
        let mut out = [0; 100];
        eventually("all of it is here", || ours.peek(&mut out).unwrap() == 12);
        assert_eq!(&out[..12], b"hello, plumb");
        let (mut first, mut second) = ([0; 7], [0; 20]);
        let mut parts = [&mut first[..], &mut second[..]].map(std::io::IoSliceMut::new);
        assert_eq!(ours.read_vectored(&mut parts).unwrap(), 12);
        assert_eq!((&first, &second[..5]), (b"hello, ", &b"plumb"[..]));
        let parts = [&b"a"[..], b"bc", b"", b"def"].map(std::io::IoSlice::new);
        assert_eq!(ours.write_vectored(&parts).unwrap(), 6);
        let mut six = [0; 6];
        kernel.read_exact(&mut six).unwrap();
        assert_eq!(&six, b"abcdef");
    });
}

#[test]
fn a_dropped_stream_delivers_what_was_written_or_resets_as_linger_says() {
    in_lab("a_dropped_stream_delivers_what_was_written_or_resets_as_linger_says", &RATE, || {
        let (mut ours, mut kernel) = opened(7007);
        let sent = bytes(4, 200_000);
        ours.write_all(&sent).unwrap();
        drop(ours);
        let mut received = Vec::new();
        kernel.read_to_end(&mut received).unwrap();
        assert!(received == sent);

        let (ours, mut kernel) = opened(7008);
        ours.set_linger(Some(Duration::ZERO));
        drop(ours);
        assert_eq!(kernel.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_application_that_computes_is_served_meanwhile() {
    in_lab("an_application_that_computes_is_served_meanwhile", &RATE, || {
        let (mut ours, kernel) = opened(7009);
        let sent = bytes(5, 50_000);
        (&kernel).write_all(&sent).unwrap();
        kernel.shutdown(Shutdown::Write).unwrap();
        // Nobody is in a call here: what the kernel sent is acknowledged all the same.
        eventually("everything is acknowledged", || unacknowledged(&kernel) == 0);
        let mut received = Vec::new();
        ours.read_to_end(&mut received).unwrap();
        assert!(received == sent);
    });
}

/// Bytes that the kernel has sent, or will send, and that were not acknowledged.
fn unacknowledged(stream: &KernelStream) -> u64 {
    let ours = stream.local_addr().unwrap().port();
    let table = on_peer(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let line = table.lines().skip(1).find(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[1].ends_with(&format!(":{ours:04X}")) && words[3] != "0A"
    });
    let queues = line.and_then(|line| line.split_whitespace().nth(4).map(str::to_owned));
    let queues = queues.expect("the connection is in the table");
    u64::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn hundreds_of_short_connections_come_and_go() {
    in_lab("hundreds_of_short_connections_come_and_go", &RATE, || {
        let host = host();
        let before = host.query_status().unwrap().flows;
        let options = Options::new().host(&host);
        let kernel = kernel_listener(7010);
        let server = thread::spawn(move || {
            for stream in kernel.incoming().take(300) {
                let mut stream = stream.unwrap();
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&request).unwrap();
            }
        });
        for number in 0..300u32 {
            let mut stream = options.connect_tcp((THEIRS, 7010)).unwrap();
            stream.write_all(&number.to_be_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, number.to_be_bytes());
        }
        server.join().unwrap();
        let listener = options.listen((OURS, 7011)).unwrap();
        let clients = thread::spawn(|| {
            for number in 0..300u32 {
                let mut stream = kernel_connect(7011).unwrap();
                stream.write_all(&number.to_be_bytes()).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                assert_eq!(answer, number.to_be_bytes());
            }
        });
        for stream in listener.incoming().take(300) {
            let mut stream = stream.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
        clients.join().unwrap();
        drop(listener);
        eventually("their flows are closed", || host.query_status().unwrap().flows == before);
    });
}

#[test]
fn the_peer_of_an_application_that_is_killed_hears_of_it_at_once() {
    in_lab("the_peer_of_an_application_that_is_killed_hears_of_it_at_once", &RATE, || {
        for listens in [false, true] {
            let port = if listens { 7013 } else { 7012 };
            let kernel = kernel_listener(port);
            let mut nc = Command::new(program());
            nc.arg("nc").args(listens.then_some("-l"));
            let place = if listens { OURS } else { THEIRS };
            nc.args([place.to_string(), port.to_string()]).stdin(Stdio::piped());
            let mut application = nc.stdout(Stdio::piped()).spawn().unwrap();
            let mut stream = if listens {
                let mut stream = None;
                eventually("it listens", || {
                    stream = kernel_connect(port).ok();
                    stream.is_some()
                });
                stream.unwrap()
            } else {
                kernel.accept().unwrap().0
            };
            stream.set_read_timeout(SOON).unwrap();
            stream.write_all(b"!").unwrap();
            application.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            // An idle connection: nothing would ever tell the peer.
            application.kill().unwrap();
            application.wait().unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// Whether `descriptor` becomes readable within `ms`.
fn ready(descriptor: BorrowedFd<'_>, ms: i64) -> bool {
    let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    let mut watched = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut watched, Some(&timeout)).unwrap() == 1
}

#[test]
fn descriptors_say_what_a_socket_is_ready_for() {
    in_lab("descriptors_say_what_a_socket_is_ready_for", &RATE, || {
        let (mut ours, mut kernel) = opened(7014);
        ours.set_nonblocking(true).unwrap();
        assert!(!ready(ours.readable_fd().unwrap(), 0));
        assert!(ready(ours.writable_fd().unwrap(), 0));
        for round in 0..20 {
            kernel.write_all(b"some bytes").unwrap();
            assert!(ready(ours.readable_fd().unwrap(), 10_000), "round {round}");
            let mut out = [0; 100];
            let mut read = 0;
            while read < 10 {
                assert!(ready(ours.readable_fd().unwrap(), 10_000));
                read += ours.read(&mut out).unwrap();
            }
            assert!(!ready(ours.readable_fd().unwrap(), 0), "all of it was read");
        }
        // Room again when the kernel has read.
        let full = ours.write_all(&vec![0; 64 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let drain = thread::spawn(move || {
            let mut sink = vec![0; 1 << 16];
            while kernel.read(&mut sink).unwrap() > 0 {}
            kernel
        });
        assert!(ready(ours.writable_fd().unwrap(), 10_000));
        ours.shutdown(Shutdown::Write).unwrap();
        drop(drain.join().unwrap());
        assert!(ready(ours.readable_fd().unwrap(), 10_000), "the end is something to read");
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);

        let listener = listen(7015);
        listener.set_nonblocking(true).unwrap();
        assert!(!ready(listener.acceptable_fd().unwrap(), 0));
        let _kernel = kernel_connect(7015).unwrap();
        assert!(ready(listener.acceptable_fd().unwrap(), 10_000));
        listener.accept().unwrap();
        assert!(!ready(listener.acceptable_fd().unwrap(), 0));
    });
}

#[test]
fn a_file_is_sent_and_received_without_passing_through_the_application() {
    in_lab("a_file_is_sent_and_received_without_passing_through_the_application", &RATE, || {
        let (ours, kernel) = opened(7000);
        let content = bytes(3, 3 << 20);
        let memory = || {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            std::fs::File::from(rustix::fs::memfd_create("content", flags).unwrap())
        };
        let mut file = memory();
        file.write_all(&content).unwrap();
        file.rewind().unwrap();
        let received = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut received = Vec::new();
                (&mut &kernel).read_to_end(&mut received).unwrap();
                received
            });
            while ours.send_from(&file, 100_000).unwrap() > 0 {}
            ours.shutdown(Shutdown::Write).unwrap();
            reader.join().unwrap()
        });
        assert!(received == content);

        let mut copy = memory();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&mut &kernel).write_all(&content).unwrap();
                kernel.shutdown(Shutdown::Write).unwrap();
            });
            while ours.receive_to(&copy, 100_000).unwrap() > 0 {}
        });
        copy.rewind().unwrap();
        let mut back = Vec::new();
        copy.read_to_end(&mut back).unwrap();
        assert!(back == content);
    });
}

#[test]
fn a_connection_that_we_closed_first_waits_although_its_flow_is_gone() {
    in_lab("a_connection_that_we_closed_first_waits_although_its_flow_is_gone", &RATE, || {
        let flows = || host().query_flows().unwrap().len();
        let before = flows();
        let (ours, kernel) = opened(7000);
        let local = ours.local_addr().unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&mut &kernel).read(&mut [0]).unwrap(), 0);
        kernel.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&mut &ours).read(&mut [0]).unwrap(), 0);
        drop(ours);
        eventually("the flow is closed", || flows() == before);
        // Nobody else gets its ends, and it may call from others.
        let again = options().local(local).connect_tcp((THEIRS, 7000)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AddrInUse);
        let listener = kernel_listener(7001);
        options().local(local).connect_tcp((THEIRS, 7001)).unwrap();
        drop(listener);
    });
}

#[test]
fn urgent_bytes_are_told_apart_on_both_sides() {
    // RFC 9293 MUST-32.
    in_lab("urgent_bytes_are_told_apart_on_both_sides", &RATE, || {
        let (ours, kernel) = opened(7000);
        (&mut &ours).write_all(b"plain").unwrap();
        assert_eq!(ours.write_urgent(b"!").unwrap(), 1);
        // The kernel keeps the urgent byte apart.
        let mut out = [0; 5];
        (&mut &kernel).read_exact(&mut out).unwrap();
        assert_eq!(&out, b"plain");
        let mut urgent = [0; 1];
        eventually("the urgent byte is there", || {
            rustix::net::recv(&kernel, &mut urgent, rustix::net::RecvFlags::OOB).is_ok()
        });
        assert_eq!(&urgent, b"!");

        (&mut &kernel).write_all(b"calm").unwrap();
        rustix::net::send(&kernel, b"help", rustix::net::SendFlags::OOB).unwrap();
        let fd = ours.urgent_fd().unwrap();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None).unwrap();
        let urgent = ours.urgent_bytes().unwrap();
        assert!((1..=8).contains(&urgent), "{urgent}");
        let mut all = vec![0; urgent as usize];
        (&mut &ours).read_exact(&mut all).unwrap();
        assert!(b"calmhelp".starts_with(&all));
        assert_eq!(ours.urgent_bytes(), None);
    });
}

#[test]
fn streams_wait_on_tokio_as_others_do() {
    in_lab("streams_wait_on_tokio_as_others_do", &RATE, || {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = plumb_net::tokio::TcpListener::from_std(listen(7001)).unwrap();
            let kernels = thread::spawn(|| {
                let all: Vec<KernelStream> =
                    (0..20).map(|_| kernel_connect(7001).unwrap()).collect();
                for (index, kernel) in all.iter().enumerate().rev() {
                    kernel.set_read_timeout(SOON).unwrap();
                    (&mut &*kernel).write_all(&[index as u8; 5000]).unwrap();
                    kernel.shutdown(Shutdown::Write).unwrap();
                }
                all.iter().enumerate().all(|(index, kernel)| {
                    let mut echo = Vec::new();
                    (&mut &*kernel).read_to_end(&mut echo).unwrap();
                    echo == vec![index as u8; 5000]
                })
            });
            let mut served = Vec::new();
            for _ in 0..20 {
                let (mut stream, _) = listener.accept().await.unwrap();
                served.push(async move {
                    let mut said = Vec::new();
                    stream.read_to_end(&mut said).await.unwrap();
                    stream.write_all(&said).await.unwrap();
                    stream.shutdown().await.unwrap();
                    stream
                });
            }
            // In the order of accepting, while they speak in the other one.
            let mut streams = Vec::new();
            for one in served {
                streams.push(one.await);
            }
            assert!(kernels.join().unwrap(), "each hears what it said");
            let refused = plumb_net::tokio::TcpStream::connect((THEIRS, 9).into()).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        });
    });
}

#[test]
fn a_runtime_goes_on_while_a_neighbour_is_asked_for() {
    in_lab("a_runtime_goes_on_while_a_neighbour_is_asked_for", &RATE, || {
        let listener = kernel_listener(7001);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut absent =
                pin!(plumb_net::tokio::TcpStream::connect(([10, 77, 0, 99], 80).into()));
            // Another connection is had, by the only thread there is, before that one is given up.
            let mut present = pin!(plumb_net::tokio::TcpStream::connect((THEIRS, 7001).into()));
            let both = std::future::poll_fn(|context| {
                assert!(absent.as_mut().poll(context).is_pending(), "nobody is there");
                present.as_mut().poll(context)
            });
            drop(both.await.unwrap());
            assert_eq!(absent.await.unwrap_err().kind(), ErrorKind::HostUnreachable);
        });
        drop(listener);
    });
}

#[test]
fn a_process_may_end_when_it_has_written() {
    const NAME: &str = "a_process_may_end_when_it_has_written";
    const WRITES: &str = "PLUMB_TEST_WRITES";
    const BYTES: usize = 200_000;
    if let Ok(how) = std::env::var(WRITES) {
        let stream = options().connect_tcp((THEIRS, 7460)).unwrap();
        (&mut &stream).write_all(&bytes(7, BYTES)).unwrap();
        match how.as_str() {
            "dropped" => drop(stream),
            "held" => std::mem::forget(stream),
            _ => {
                stream.set_linger(Some(Duration::ZERO));
                std::mem::forget(stream);
            }
        }
        std::process::exit(0);
    }
    in_lab(NAME, &["--rate", "1gbit", "--delay", "20ms"], || {
        let listener = kernel_listener(7460);
        for how in ["dropped", "held", "reset"] {
            let mut writer = Command::new(std::env::current_exe().unwrap());
            let mut writer =
                writer.args(["--exact", NAME, "--nocapture"]).env(WRITES, how).spawn().unwrap();
            let (mut kernel, _) = listener.accept().unwrap();
            kernel.set_read_timeout(SOON).unwrap();
            let mut received = Vec::new();
            let read = kernel.read_to_end(&mut received);
            if how == "reset" {
                assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
            } else {
                read.unwrap();
                assert!(received == bytes(7, BYTES), "{how}: {} bytes came", received.len());
            }
            drop(kernel);
            assert!(writer.wait().unwrap().success());
        }
    });
}

#[test]
fn a_stream_adapts_to_its_contract_as_that_changes_unless_told_how() {
    in_lab("a_stream_adapts_to_its_contract_as_that_changes_unless_told_how", &RATE, || {
        let contract = Contract::guaranteed(1_000_000, 100_000_000).unwrap();
        let (ours, _kernel) = opened(7000);
        assert_eq!(ours.info().congestion, "cubic");
        ours.adjust(contract).unwrap();
        assert_eq!(ours.info().congestion, "guaranteed");
        // Who may change it, too.
        host().adjust(ours.flow_id(), Contract::BEST_EFFORT).unwrap();
        eventually("the stream hears of it", || {
            ours.contract() == Contract::BEST_EFFORT && ours.info().congestion == "cubic"
        });

        let listener = kernel_listener(7001);
        let with_reno = options().congestion(Algorithm::Reno).contract(contract);
        let ours = with_reno.connect_tcp((THEIRS, 7001)).unwrap();
        assert_eq!(ours.info().congestion, "reno");
        ours.adjust(Contract::BEST_EFFORT).unwrap();
        assert_eq!(ours.info().congestion, "reno");
        drop(listener);
    });
}

/// How often threads of this process went to sleep.
fn sleeps() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let status = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")));
    let line = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    // A thread may have ended meanwhile.
    status.filter_map(Result::ok).map(|text| line(&text)).sum()
}

#[test]
fn sockets_at_rest_wake_nobody() {
    in_lab("sockets_at_rest_wake_nobody", &RATE, || {
        let listener = listen(7000);
        listener.set_nonblocking(true).unwrap();
        let fd = listener.acceptable_fd().unwrap();
        let _kernel = kernel_connect(7000).unwrap();
        assert!(ready(fd, 10_000));
        let (ours, _) = listener.accept().unwrap();
        let (_other, _other_kernel) = opened(7001);
        // Once all that was to be done is done, nobody wakes in a while in which nothing happens, but for
        // looking after news.
        let silent = ours.readable_fd().unwrap();
        eventually("everybody rests", || {
            let before = sleeps();
            assert!(!ready(silent, 200));
            sleeps() - before < 10
        });
    });
}

#[test]
fn a_connection_beyond_the_limit_is_not_answered_and_is_had_when_there_is_room() {
    let name = "a_connection_beyond_the_limit_is_not_answered_and_is_had_when_there_is_room";
    in_lab(name, &RATE, || {
        // One flow for the listener, one for a connection.
        let host = Host::connect_for(&in_lab::socket(), 2).unwrap();
        let listener = Options::new().host(&host).listen((OURS, 7000)).unwrap();
        let first = kernel_connect(7000).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let second = thread::spawn(|| kernel_connect(7000));
        // It asks again, for nobody has answered.
        eventually("it has asked twice", || listener.counts().syns >= 3);
        assert!(!second.is_finished());
        drop((ours, first));
        let (stream, from) = listener.accept().unwrap();
        let second = second.join().unwrap().unwrap();
        assert_eq!(from, second.local_addr().unwrap());
        assert_eq!((listener.counts().refused, listener.turned_away()), (0, (0, None)));
        drop(stream);
    });
}

#[test]
fn more_than_a_thousand_connections_are_had_at_a_time() {
    in_lab("more_than_a_thousand_connections_are_had_at_a_time", &["--rate", "1gbit"], || {
        const COUNT: usize = 1200;
        rbuf_shm::raise_descriptor_limit();
        let listener = options().backlog(COUNT as u32).listen((OURS, 7000)).unwrap();
        let accepts = thread::spawn(move || {
            (0..COUNT).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>()
        });
        let connect = |_| KernelStream::connect((OURS, 7000)).unwrap();
        let kernels: Vec<_> = on_peer(|| (0..COUNT).map(connect).collect());
        let ours = accepts.join().unwrap();
        for (number, stream) in ours.iter().enumerate() {
            (&mut &*stream).write_all(&(number as u32).to_be_bytes()).unwrap();
        }
        let mut numbers: Vec<u32> = kernels
            .iter()
            .map(|kernel| {
                let mut bytes = [0; 4];
                kernel.set_read_timeout(SOON).unwrap();
                (&mut &*kernel).read_exact(&mut bytes).unwrap();
                u32::from_be_bytes(bytes)
            })
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..COUNT as u32));
        // Who lets go first of so many is held up.
        drop(kernels);
    });
}
