//! What a stream can be told, what it is told by routers, and parts of it that are lent: against a Linux kernel,
//! and as seen on the wire.

mod in_lab;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as KernelListener, TcpStream as KernelStream};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base_wire::{Arp, EtherType, Ethernet, Mac, checksum, tcp_flag};
use driver_filter::{HEADER_BYTES_MAX, Rights, Template};
use driver_link::Link;
use driver_link_packet::PacketLink;
use in_lab::{OURS, THEIRS, eventually, host, in_lab, on_peer};
use plumb_net::engine::{Keepalive, Segment, State};
use plumb_net::{NeighbourState, Options, TcpStream};
use rbuf_channel::{Data, HeapData, Pair};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tools_sim::tcp::{packet, unwrap};
use zerocopy::IntoBytes;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
#[allow(unsafe_code, reason = "counting allocations takes an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RATE: [&str; 2] = ["--rate", "1gbit"];
const FAR: [&str; 4] = ["--rate", "1gbit", "--delay", "15ms"];
const LONG: Duration = Duration::from_secs(60);
/// Long enough that what is sent at once would be here.
const WHILE: Duration = Duration::from_millis(150);

fn options() -> Options {
    Options::new().host(&host())
}

fn kernel_connect(port: u16) -> KernelStream {
    let to = SocketAddr::from((OURS, port));
    on_peer(|| KernelStream::connect_timeout(&to, LONG).unwrap())
}

/// Both ends of a connection that one of us opened.
fn opened(port: u16, by_us: bool) -> (TcpStream, KernelStream) {
    let (ours, kernel) = if by_us {
        let listener = on_peer(|| KernelListener::bind((THEIRS, port)).unwrap());
        let ours = options().connect_tcp((THEIRS, port)).unwrap();
        (ours, listener.accept().unwrap().0)
    } else {
        let listener = options().listen((OURS, port)).unwrap();
        let kernel = kernel_connect(port);
        (listener.accept().unwrap().0, kernel)
    };
    ours.set_read_timeout(Some(LONG)).unwrap();
    kernel.set_read_timeout(Some(LONG)).unwrap();
    (ours, kernel)
}

/// Whether `descriptor` becomes readable within `limit`.
fn ready(descriptor: BorrowedFd<'_>, limit: Duration) -> bool {
    let timeout = Timespec { tv_sec: limit.as_secs() as _, tv_nsec: limit.subsec_nanos().into() };
    let mut watched = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut watched, Some(&timeout)).unwrap() == 1
}

/// The peer's end of the wire: what arrives there, and what somebody there might send.
struct Wire {
    link: PacketLink,
}

/// Somebody on the wire who is not there.
const NOBODY: Mac = Mac([2, 0, 0, 0, 0, 77]);

impl Wire {
    fn open() -> Self {
        Self { link: on_peer(|| PacketLink::open("plumb1", None).unwrap()) }
    }

    /// The next frame in which `look` finds what it looks for.
    fn expect<T>(&mut self, what: &str, mut look: impl FnMut(&[u8]) -> Option<T>) -> T {
        let mut found = None;
        eventually(what, || {
            self.link.poll_rx(64, &mut |arrival| {
                found = found.take().or_else(|| look(arrival.frame));
            });
            found.is_some()
        });
        found.unwrap()
    }

    /// As [`Self::expect`], of segments from our port, with their whole packets.
    fn expect_segment<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&[u8], (u16, u16), &Segment, &[u8]) -> Option<T>,
    ) -> T {
        self.expect(what, |frame| {
            let ip = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
            let (ports, segment, payload) = unwrap(ip).filter(|_| ip[12..16] == OURS.octets())?;
            look(ip, ports, &segment, payload)
        })
    }

    fn send(&mut self, from: Mac, to: Mac, ether_type: EtherType, packet: &[u8]) {
        let ethernet = Ethernet { destination: to, source: from, ether_type };
        let mut frame = [ethernet.as_bytes(), packet].concat();
        frame.resize(frame.len().max(60), 0);
        let data = HeapData::new(2048);
        data.write(0, &frame);
        let pairs = [Pair { offset: 0, len: frame.len() as u32 }];
        let mut header = [0; HEADER_BYTES_MAX];
        let head = frame.len().min(HEADER_BYTES_MAX);
        header[..head].copy_from_slice(&frame[..head]);
        let template = Template::new(&Rights::Station(from), None);
        let checked = template.check(&header, &pairs, &data, frame.len()).unwrap();
        assert!(self.link.transmit(&checked));
        self.link.flush();
        self.link.complete(&mut |sent| assert!(sent));
    }

    /// Answers who asks where `address` is.
    fn answer_for(&mut self, address: Ipv4Addr) {
        let asker = self.expect("somebody asks for the address", |frame| {
            let asks = frame[12..14] == [8, 6] && frame[38..42] == address.octets();
            asks.then(|| Mac(frame[6..12].try_into().unwrap()))
        });
        let reply = Arp::reply(NOBODY, address, asker, OURS);
        self.send(NOBODY, asker, EtherType::ARP, reply.as_bytes());
    }

    /// A router says `code` of unreachability about a packet of ours.
    fn unreachable(&mut self, to: Mac, about: &[u8], code: u8) {
        self.refuse(to, about, code, 0);
    }

    /// As [`Self::unreachable`]; packets of `mtu` bytes would pass.
    fn refuse(&mut self, to: Mac, about: &[u8], code: u8, mtu: u16) {
        let [high, low] = mtu.to_be_bytes();
        let mut icmp = vec![3, code, 0, 0, 0, 0, high, low];
        icmp.extend_from_slice(&about[..28]);
        let sum = checksum::finish(checksum::sum(&icmp));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut ip =
            base_wire::Ipv4::new(THEIRS, OURS, base_wire::Protocol::ICMP, icmp.len() as u16);
        ip.fill_checksum();
        self.send(NOBODY, to, EtherType::IPV4, &[ip.as_bytes(), &icmp].concat());
    }
}

const NET_UNREACHABLE: u8 = 0;
const HOST_UNREACHABLE: u8 = 1;
const PROTOCOL_UNREACHABLE: u8 = 2;
const PORT_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const COMMUNICATION_PROHIBITED: u8 = 13;

/// Our station, as the peer sees it.
fn station(frame_from: &mut Wire) -> Mac {
    frame_from.expect("a frame of ours", |frame| {
        let ours = frame[12..14] == [8, 0] && frame[26..30] == OURS.octets();
        ours.then(|| Mac(frame[6..12].try_into().unwrap()))
    })
}

#[test]
fn closing_waits_as_long_as_linger_says_and_then_resets() {
    in_lab("closing_waits_as_long_as_linger_says_and_then_resets", &FAR, || {
        for by_us in [true, false] {
            let (mut ours, mut kernel) = opened(7000 + u16::from(by_us), by_us);
            ours.set_linger(Some(LONG));
            ours.write_all(&[7; 100_000]).unwrap();
            let begun = Instant::now();
            let reader = thread::spawn(move || {
                let mut all = Vec::new();
                kernel.read_to_end(&mut all).map(|_| all.len())
            });
            drop(ours);
            assert!(begun.elapsed() < LONG / 2, "the peer had everything long before");
            assert_eq!(reader.join().unwrap().unwrap(), 100_000);

            // Who does not read is not waited for any longer.
            let (ours, mut kernel) = opened(7002 + u16::from(by_us), by_us);
            ours.set_nonblocking(true).unwrap();
            while (&mut &ours).write(&[7; 1 << 16]).is_ok() {}
            ours.set_linger(Some(WHILE));
            let begun = Instant::now();
            drop(ours);
            assert!((WHILE..LONG / 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
            let error = kernel.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);

            let (mut ours, mut kernel) = opened(7004 + u16::from(by_us), by_us);
            ours.set_linger(Some(Duration::ZERO));
            ours.write_all(b"!").unwrap();
            drop(ours);
            let error = kernel.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}

/// Segments with payload that `act` makes us send, until all of `bytes` have arrived.
fn segments(ours: &TcpStream, kernel: &mut KernelStream, bytes: usize, act: impl FnOnce()) -> u64 {
    let before = ours.counts().segments_out;
    act();
    kernel.read_exact(&mut vec![0; bytes]).unwrap();
    ours.counts().segments_out - before
}

#[test]
fn small_writes_wait_for_answers_or_a_cork_or_not_as_they_are_told() {
    in_lab("small_writes_wait_for_answers_or_a_cork_or_not_as_they_are_told", &FAR, || {
        for by_us in [true, false] {
            let (ours, mut kernel) = opened(7000 + u16::from(by_us), by_us);
            let write = |text: &[u8]| (&mut &ours).write_all(text).unwrap();
            let three = || [b"a", b"b", b"c"].iter().for_each(|part| write(&part[..]));
            // The first at once, and the others together when it is acknowledged.
            assert_eq!(segments(&ours, &mut kernel, 3, three), 2);
            ours.set_nodelay(true).unwrap();
            assert_eq!(segments(&ours, &mut kernel, 3, three), 3);
            // A cork holds back even then.
            let corked = || {
                ours.set_cork(true);
                three();
                ours.set_cork(false);
            };
            assert_eq!(segments(&ours, &mut kernel, 3, corked), 1);
        }
    });
}

#[test]
fn an_idle_connection_is_probed_and_lives_while_the_peer_answers() {
    in_lab("an_idle_connection_is_probed_and_lives_while_the_peer_answers", &RATE, || {
        // The peer's kernel answers odd segments rarely, unless it is told otherwise.
        let limit = "/proc/sys/net/ipv4/tcp_invalid_ratelimit";
        on_peer(|| std::fs::write(limit, "0").unwrap());
        for by_us in [true, false] {
            let (mut ours, mut kernel) = opened(7000 + u16::from(by_us), by_us);
            ours.write_all(b"x").unwrap();
            kernel.read_exact(&mut [0]).unwrap();
            let mut wire = Wire::open();
            let next = Cell::new(None);
            let ns = |duration: Duration| duration.as_nanos() as u64;
            let (idle_ns, interval_ns) = (ns(WHILE / 3), ns(WHILE / 3));
            ours.set_keepalive(Some(Keepalive { idle_ns, interval_ns, probes: 2 }));
            // More of them than would end it if they were not answered. What they carry is old.
            for _ in 0..5 {
                wire.expect_segment("a probe", |_, _, segment, _| {
                    let same = next.replace(Some(segment.sequence));
                    (same.is_none_or(|before| before == segment.sequence)).then_some(())
                });
            }
            ours.set_keepalive(None);
            kernel.write_all(b"alive").unwrap();
            ours.read_exact(&mut [0; 5]).unwrap();
        }
    });
}

#[test]
fn hops_and_service_class_stand_on_the_wire_whoever_opens() {
    in_lab("hops_and_service_class_stand_on_the_wire_whoever_opens", &RATE, || {
        let mut wire = Wire::open();
        let (mut ours, _kernel) = opened(7000, true);
        assert_eq!(ours.ttl().unwrap(), 64);
        ours.set_ttl(9).unwrap();
        ours.set_service_class(46).unwrap();
        assert_eq!(ours.ttl().unwrap(), 9);
        assert_eq!(ours.set_ttl(0).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(ours.set_service_class(64).unwrap_err().kind(), ErrorKind::InvalidInput);
        ours.write_all(b"far").unwrap();
        let (hops, class) = wire.expect_segment("what was written", |ip, _, _, payload| {
            (payload == b"far").then_some((ip[8], ip[1] >> 2))
        });
        assert_eq!((hops, class), (9, 46));

        let listener = options().listen((OURS, 7001)).unwrap();
        assert_eq!(listener.ttl().unwrap(), 64);
        listener.set_ttl(5).unwrap();
        assert_eq!(listener.ttl().unwrap(), 5);
        let _kernel = kernel_connect(7001);
        let hops = wire.expect_segment("a SYN-ACK", |ip, _, segment, _| {
            segment.has(tcp_flag::SYN).then_some(ip[8]).filter(|_| segment.has(tcp_flag::ACK))
        });
        assert_eq!(hops, 5);
        let (mut ours, _) = listener.accept().unwrap();
        assert_eq!(ours.ttl().unwrap(), 5, "connections have what the listener was told");
        ours.write_all(b"near").unwrap();
        let hops = wire.expect_segment("what was written", |ip, _, _, payload| {
            (payload == b"near").then_some(ip[8])
        });
        assert_eq!(hops, 5);
        assert!(listener.take_error().unwrap().is_none());
    });
}

#[test]
fn routers_are_believed_about_what_is_in_flight_and_end_only_what_is_not_open_yet() {
    let name = "routers_are_believed_about_what_is_in_flight_and_end_only_what_is_not_open_yet";
    in_lab(name, &FAR, || {
        let absent = Ipv4Addr::new(10, 77, 0, 99);
        let mut wire = Wire::open();
        let host = host();
        let options = Options::new().host(&host);
        let is_syn = |ip: &[u8], segment: &Segment| {
            (segment.has(tcp_flag::SYN) && ip[16..20] == absent.octets()).then(|| ip.to_vec())
        };
        let words = [
            (HOST_UNREACHABLE, ErrorKind::HostUnreachable),
            (NET_UNREACHABLE, ErrorKind::NetworkUnreachable),
            (COMMUNICATION_PROHIBITED, ErrorKind::HostUnreachable),
            (PORT_UNREACHABLE, ErrorKind::ConnectionRefused),
        ];
        let mut ours = None;
        for (code, kind) in words {
            let options = options.clone();
            let connecting = thread::spawn(move || options.connect_tcp((absent, 80)));
            let ours = *ours.get_or_insert_with(|| {
                wire.answer_for(absent);
                station(&mut wire)
            });
            let syn = wire.expect_segment("a SYN", |ip, _, segment, _| is_syn(ip, segment));
            wire.unreachable(ours, &syn, code);
            assert_eq!(connecting.join().unwrap().unwrap_err().kind(), kind);
        }
        let ours = ours.unwrap();

        // Of an open connection it is told, and ends nothing.
        let (stream, mut kernel) = opened(7000, true);
        assert!(stream.soft_error().is_none());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    (&mut &stream).write_all(&[7; 10_000]).unwrap();
                }
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let reader = scope.spawn(|| kernel.read_to_end(&mut Vec::new()).unwrap());
            eventually("the stream hears of it", || {
                let mut about = wire.expect_segment("a segment", |ip, _, _, payload| {
                    (payload.len() > 1000).then(|| ip[..28].to_vec())
                });
                // What was sent after it has not been acknowledged when this arrives.
                let sequence = u32::from_be_bytes(about[24..28].try_into().unwrap());
                about[24..28].copy_from_slice(&sequence.wrapping_add(20_000).to_be_bytes());
                wire.unreachable(ours, &about, PROTOCOL_UNREACHABLE);
                stream.soft_error().is_some()
            });
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let error = stream.soft_error().unwrap();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOPROTOOPT.raw_os_error()));
        assert!(stream.take_error().unwrap().is_none());
    });
}

#[test]
fn a_host_that_was_called_before_is_sent_data_with_the_syn_and_takes_it_so() {
    let name = "a_host_that_was_called_before_is_sent_data_with_the_syn_and_takes_it_so";
    in_lab(name, &FAR, || {
        // Every listener of the kernel takes data on SYNs.
        on_peer(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027").unwrap());
        let listener = on_peer(|| KernelListener::bind((THEIRS, 7000)).unwrap());
        let question = [5; 3000];
        for (call, fast) in [false, true, true].into_iter().enumerate() {
            let mut ours = options().connect_tcp_with((THEIRS, 7000), &question).unwrap();
            let (mut kernel, _) = listener.accept().unwrap();
            let mut asked = [0; 3000];
            kernel.read_exact(&mut asked).unwrap();
            assert_eq!(asked, question);
            kernel.write_all(b"answer").unwrap();
            let mut answer = [0; 6];
            ours.read_exact(&mut answer).unwrap();
            assert_eq!((&answer, ours.info().fast), (b"answer", fast), "call {call}");
        }
        // And our own listener, which takes it from who was here.
        let listener = options().fast_open(16).listen((OURS, 7001)).unwrap();
        for fast in [false, true, true] {
            let mut caller = options().connect_tcp_with((OURS, 7001), &question).unwrap();
            let (mut called, _) = listener.accept().unwrap();
            let mut asked = [0; 3000];
            called.read_exact(&mut asked).unwrap();
            assert_eq!((asked, called.info().fast), (question, fast));
            called.write_all(b"answer").unwrap();
            let mut answer = [0; 6];
            caller.read_exact(&mut answer).unwrap();
            assert_eq!((&answer, caller.info().fast), (b"answer", fast));
        }
    });
}

#[test]
fn what_a_router_said_to_one_connection_is_known_to_the_next() {
    let name = "what_a_router_said_to_one_connection_is_known_to_the_next";
    in_lab(name, &["--rate", "1gbit", "--delay", "200ms"], || {
        let mut wire = Wire::open();
        let listener = on_peer(|| KernelListener::bind((THEIRS, 7000)).unwrap());
        eventually("a connection heeds a router", || {
            let calling = thread::spawn(|| options().connect_tcp((THEIRS, 7000)).unwrap());
            // It is under way for a while.
            let (syn, ours) = wire.expect("a SYN", |frame| {
                let ip = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
                let (_, segment, _) = unwrap(ip).filter(|_| ip[12..16] == OURS.octets())?;
                let station = Mac(frame[6..12].try_into().unwrap());
                segment.has(tcp_flag::SYN).then(|| (ip.to_vec(), station))
            });
            wire.refuse(ours, &syn, FRAGMENTATION_NEEDED, 1200);
            let stream = calling.join().unwrap();
            listener.accept().unwrap();
            stream.info().mtu == 1200
        });
        // Another application of the same user, which has learned nothing by itself.
        eventually("the next one knows it", || opened(7001, true).0.info().mtu == 1200);
        assert_eq!(opened(7002, false).0.info().mtu, 1200, "whoever opens");
    });
}

#[allow(unsafe_code, reason = "a process can be forked in no other way")]
mod forked {
    unsafe extern "C" {
        fn fork() -> i32;
    }

    /// Forks a child that ends in order at once, and returns its number.
    pub fn child_that_exits() -> i32 {
        // SAFETY: the child has this thread alone, and calls nothing but `exit`, whose handlers it is
        // about.
        match unsafe { fork() } {
            0 => std::process::exit(0),
            pid => pid,
        }
    }
}

#[test]
fn a_forked_child_that_exits_touches_no_connection_of_its_parent() {
    in_lab("a_forked_child_that_exits_touches_no_connection_of_its_parent", &RATE, || {
        let (mut ours, mut kernel) = opened(7000, true);
        for round in 0..5u8 {
            ours.write_all(&[round; 1000]).unwrap();
            let pid = rustix::process::Pid::from_raw(forked::child_that_exits()).unwrap();
            let options = rustix::process::WaitOptions::empty();
            let (_, status) = rustix::process::waitpid(Some(pid), options).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
            kernel.read_exact(&mut [0; 1000]).unwrap();
            kernel.write_all(&[round]).unwrap();
            let mut echo = [99];
            ours.read_exact(&mut echo).unwrap();
            assert_eq!(echo, [round]);
        }
    });
}

#[test]
fn a_watcher_hears_what_a_sleeping_reader_has_no_use_for() {
    in_lab("a_watcher_hears_what_a_sleeping_reader_has_no_use_for", &RATE, || {
        let (ours, mut kernel) = opened(7000, true);
        let writer = ours.try_clone().unwrap();
        let reader = thread::spawn(move || (&mut &ours).read(&mut [0; 100]).unwrap());
        // Until nothing more fits; the descriptor says so.
        let fd = writer.writable_fd().unwrap();
        let mut written = 0;
        while ready(fd, WHILE) {
            written += (&mut &writer).write(&[7; 1 << 16]).unwrap();
        }
        let drain = thread::spawn(move || {
            kernel.read_exact(&mut vec![0; written]).unwrap();
            kernel
        });
        assert!(ready(fd, LONG), "there is room, and the reader has not read");
        let mut kernel = drain.join().unwrap();
        kernel.write_all(b"answer").unwrap();
        assert_eq!(reader.join().unwrap(), 6);
    });
}

#[test]
fn room_is_there_when_the_peer_has_everything_before_anybody_looks() {
    in_lab("room_is_there_when_the_peer_has_everything_before_anybody_looks", &RATE, || {
        const BYTES: usize = 1 << 16;
        let listener = on_peer(|| KernelListener::bind((THEIRS, 7000)).unwrap());
        let mut ours = options().send_bytes(BYTES as u32).connect_tcp((THEIRS, 7000)).unwrap();
        let (mut kernel, _) = listener.accept().unwrap();
        let fd = ours.try_clone().unwrap();
        let fd = fd.writable_fd().unwrap();
        ours.set_nonblocking(true).unwrap();
        for round in 0..200 {
            let mut written = 0;
            while written < BYTES {
                assert!(ready(fd, LONG), "round {round}");
                // Whoever is told that there is room finds some.
                written += ours.write(&vec![7; BYTES - written]).unwrap();
            }
            kernel.read_exact(&mut vec![0; BYTES]).unwrap();
        }
    });
}

#[test]
fn segments_cost_the_application_no_allocation() {
    in_lab("segments_cost_the_application_no_allocation", &RATE, || {
        for by_us in [true, false] {
            let (mut ours, kernel) = opened(7000 + u16::from(by_us), by_us);
            let echo = thread::spawn(move || {
                let mut piece = vec![0; 1 << 14];
                loop {
                    let bytes = (&mut &kernel).read(&mut piece).unwrap();
                    if bytes == 0 {
                        return;
                    }
                    (&mut &kernel).write_all(&piece[..bytes]).unwrap();
                }
            });
            let (there, mut back) = (vec![7; 16_000], vec![0; 16_000]);
            let mut rounds = |count: usize| {
                for _ in 0..count {
                    ours.write_all(&there).unwrap();
                    ours.read_exact(&mut back).unwrap();
                }
                ours.counts()
            };
            // A queue that was never so long before may grow, as often as it doubles.
            let mut before = rounds(1000);
            let without = (0..8).any(|_| {
                let allocated = ALLOCATIONS.with(Cell::get);
                let after = rounds(1000);
                assert!(after.segments_in - before.segments_in > 5000);
                before = after;
                ALLOCATIONS.with(Cell::get) == allocated
            });
            assert!(without, "8 times 1000 rounds, each with an allocation");
            drop(ours);
            echo.join().unwrap();
        }
    });
}

#[test]
fn what_is_lent_is_sent_and_read_where_it_lies_and_nothing_is_lost() {
    in_lab("what_is_lent_is_sent_and_read_where_it_lies_and_nothing_is_lost", &RATE, || {
        const BYTES: usize = 3 << 20;
        let (ours, kernel) = opened(7000, true);
        let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&mut &kernel).write_all(&sent).unwrap();
                kernel.shutdown(std::net::Shutdown::Write).unwrap();
            });
            // Every bit turned over, from buffer to buffer.
            scope.spawn(|| {
                loop {
                    let mut received = ours.received().unwrap();
                    if received.is_empty() {
                        return ours.shutdown(std::net::Shutdown::Write).unwrap();
                    }
                    let mut room = ours.room().unwrap();
                    let pairs = room.cells().into_iter().flatten();
                    let mut count = 0;
                    for (to, from) in pairs.zip(received.cells().flatten()) {
                        to.store(!from.load(Ordering::Relaxed), Ordering::Relaxed);
                        count += 1;
                    }
                    room.advance(count);
                    assert_eq!(room.send().unwrap(), count);
                    received.consume(count);
                }
            });
            let mut back = Vec::new();
            (&mut &kernel).read_to_end(&mut back).unwrap();
            assert_eq!(back.len(), BYTES);
            assert!(back.iter().zip(&sent).all(|(back, sent)| *back == !*sent));
        });
    });
}

#[test]
fn what_is_lent_and_not_used_is_there_again_and_others_wait_for_it() {
    in_lab("what_is_lent_and_not_used_is_there_again_and_others_wait_for_it", &RATE, || {
        let (ours, mut kernel) = opened(7000, false);
        kernel.write_all(b"GET / and more").unwrap();
        let mut head = [0; 4];
        eventually("all of it is here", || ours.received().unwrap().len() == 14);
        let mut received = ours.received().unwrap();
        received.read_exact(&mut head).unwrap();
        assert_eq!((&head, received.len()), (b"GET ", 10));
        ours.set_nonblocking(true).unwrap();
        assert_eq!((&mut &ours).read(&mut head).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(!ready(ours.readable_fd().unwrap(), Duration::ZERO));
        drop(received);
        assert!(ready(ours.readable_fd().unwrap(), Duration::ZERO));
        let mut rest = [0; 20];
        assert_eq!((&mut &ours).read(&mut rest).unwrap(), 10);
        assert_eq!(&rest[..10], b"/ and more");

        let mut room = ours.room().unwrap();
        room.write_all(b"never sent").unwrap();
        assert_eq!((&mut &ours).write(b"!").unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(room);
        let mut room = ours.room().unwrap();
        room.write_all(b"sent").unwrap();
        ours.set_nonblocking(false).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| (&mut &ours).write_all(b" later").unwrap());
            assert_eq!(room.send().unwrap(), 4);
            waits.join().unwrap();
        });
        let mut out = [0; 10];
        kernel.read_exact(&mut out).unwrap();
        assert_eq!(&out, b"sent later");
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(ours.room().unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_pipe_that_gives_nothing_holds_up_no_reader_and_no_timer() {
    in_lab("a_pipe_that_gives_nothing_holds_up_no_reader_and_no_timer", &RATE, || {
        let (ours, mut kernel) = opened(7000, true);
        let (from, mut to) = std::io::pipe().unwrap();
        thread::scope(|scope| {
            let sends = scope.spawn(|| ours.send_from(&from, 1000).unwrap());
            eventually("it waits for the pipe", || {
                !ready(ours.writable_fd().unwrap(), Duration::ZERO)
            });
            kernel.write_all(b"meanwhile").unwrap();
            (&mut &ours).read_exact(&mut [0; 9]).unwrap();
            assert!(ours.info().timestamps);
            to.write_all(b"at last").unwrap();
            assert_eq!(sends.join().unwrap(), 7);
        });
        let mut out = [0; 7];
        kernel.read_exact(&mut out).unwrap();
        assert_eq!(&out, b"at last");
    });
}

/// A peer that opens a connection and cannot be asked for.
fn open_from(wire: &mut Wire, absent: Ipv4Addr, port: u16, ours: Mac) {
    let ports = (4000, port);
    let syn = Segment { sequence: 1, flags: tcp_flag::SYN, window: 1000, ..Segment::default() };
    wire.send(NOBODY, ours, EtherType::IPV4, &packet((absent, OURS), ports, &syn, &[]));
    let sequence = wire.expect_segment("a SYN-ACK", |ip, _, segment, _| {
        (segment.has(tcp_flag::SYN) && ip[16..20] == absent.octets()).then_some(segment.sequence)
    });
    let flags = tcp_flag::ACK;
    let acknowledgment = sequence.wrapping_add(1);
    let ack = Segment { sequence: 2, acknowledgment, flags, ..syn };
    wire.send(NOBODY, ours, EtherType::IPV4, &packet((absent, OURS), ports, &ack, &[]));
}

#[test]
fn a_neighbour_that_does_not_answer_holds_up_nobody_else_while_nobody_accepts() {
    let name = "a_neighbour_that_does_not_answer_holds_up_nobody_else_while_nobody_accepts";
    in_lab(name, &RATE, || {
        let host = host();
        let options = Options::new().host(&host);
        let listener = options.listen((OURS, 7000)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fd = listener.acceptable_fd().unwrap();
        let mut wire = Wire::open();
        let (ours, _kernel) = opened(7001, true);
        let station = station(&mut wire);
        for last in [50, 51, 52] {
            open_from(&mut wire, Ipv4Addr::new(10, 77, 0, last), 7000, station);
        }
        // The flow manager asks the network for them, for seconds.
        wire.expect("a question for the last one", |frame| {
            (frame[12..14] == [8, 6] && frame[38..42] == [10, 77, 0, 52]).then_some(())
        });
        let mut kernel = kernel_connect(7000);
        assert!(ready(fd, LONG));
        let (mut accepted, _) = listener.accept().unwrap();
        kernel.write_all(b"first").unwrap();
        accepted.read_exact(&mut [0; 5]).unwrap();
        let mut asked = host.query_neighbours().unwrap().into_iter();
        let last = asked.find(|asked| asked.address == Ipv4Addr::new(10, 77, 0, 52));
        assert_eq!(last.unwrap().state, NeighbourState::Incomplete, "it is still being asked");
        assert!(ours.info().timestamps);

        // A time limit holds for asking, too; and what comes late is closed.
        let flows = host.query_status().unwrap().flows;
        let begun = Instant::now();
        let nowhere = SocketAddr::from(([10, 77, 0, 60], 80));
        let error = options.connect_tcp_timeout(&nowhere, WHILE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // What the network does not answer would be another error.
        assert!(begun.elapsed() >= WHILE);
        eventually("nothing is left of it", || host.query_status().unwrap().flows <= flows);
    });
}

#[test]
fn connections_that_nobody_accepted_are_reset_when_the_last_handle_goes() {
    let name = "connections_that_nobody_accepted_are_reset_when_the_last_handle_goes";
    in_lab(name, &RATE, || {
        for round in 0..30 {
            let listener = options().listen((OURS, 7000 + round)).unwrap();
            let other = listener.try_clone().unwrap();
            drop(listener);
            // One that has its flow; or several that have, are being given theirs, or wait for that.
            let (count, has_flow) = if round % 2 == 0 { (1, true) } else { (3, false) };
            let mut kernels: Vec<_> = (0..count).map(|_| kernel_connect(7000 + round)).collect();
            if has_flow {
                assert!(ready(other.acceptable_fd().unwrap(), LONG));
            }
            drop(other);
            for kernel in &mut kernels {
                kernel.set_read_timeout(Some(LONG)).unwrap();
                // The end of its handshake may come when nobody listens any more: it hears when it speaks.
                let said = if has_flow { Ok(0) } else { kernel.write(b"hello?") };
                let error = said.and_then(|_| kernel.read(&mut [0])).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "round {round}");
            }
        }
    });
}

#[test]
fn a_peer_may_open_anew_what_we_closed_and_still_hold() {
    in_lab("a_peer_may_open_anew_what_we_closed_and_still_hold", &RATE, || {
        use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
        let listener = options().listen((OURS, 7000)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fd = listener.acceptable_fd().unwrap();
        let mut held: Vec<TcpStream> = Vec::new();
        for round in 0..20u8 {
            let mut kernel: KernelStream = on_peer(|| {
                let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
                let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
                net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
                net::bind(&socket, &SocketAddr::from((THEIRS, 4000))).unwrap();
                let to = SocketAddr::from((OURS, 7000));
                // As soon as the peer's kernel has forgotten the old one.
                eventually("the first SYN is answered", || {
                    let connected = net::connect(&socket, &to);
                    connected != Err(rustix::io::Errno::ADDRNOTAVAIL)
                        && connected.map(|()| true).unwrap()
                });
                socket.into()
            });
            kernel.set_read_timeout(Some(LONG)).unwrap();
            assert!(ready(fd, LONG));
            let (ours, _) = listener.accept().unwrap();
            kernel.write_all(&[round; 10_000]).unwrap();
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(kernel.read(&mut [0]).unwrap(), 0);
            drop(kernel);
            eventually("everything has arrived", || {
                ours.received().unwrap().len() == 10_000 && ours.info().state == State::TimeWait
            });
            held.push(ours);
        }
        // What was not read before is there.
        for (round, mut stream) in held.into_iter().enumerate() {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!((all.len(), all[0]), (10_000, round as u8));
        }
    });
}

#[test]
fn the_first_address_that_answers_is_connected_to() {
    in_lab("the_first_address_that_answers_is_connected_to", &RATE, || {
        let kernel = on_peer(|| KernelListener::bind((THEIRS, 7001)).unwrap());
        let all = [SocketAddr::from((THEIRS, 7000)), SocketAddr::from((THEIRS, 7001))];
        let ours = options().connect_tcp(&all[..]).unwrap();
        assert_eq!(ours.peer_addr().unwrap(), all[1]);
        drop(kernel);
        let refused = options().connect_tcp(&all[..1]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}
