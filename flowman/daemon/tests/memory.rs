//! The flow manager process counts the pages of real arenas, between an application and a driver by script.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base_flow::{BILL_WORDS, Bill, Contract, Endpoints, LinkFacts, Rate, Sap, Transport};
use base_rpc::{
    Answer, Call, FlowLayout, FromDriver, JoinOffer, MESSAGE_BYTES_MAX, Query, QueryReply, Refusal,
    Region, Reply, Request, ToDriver, UserInfo, decode, encode,
};
use base_wire::Mac;
use flowman_core::{Config, LinkConfig, Policy, Rights, Uid};
use flowman_daemon::{Daemon, driver_socket, keep};
use rbuf_domain::Passed;
use rbuf_shm::Access::{Read, Write};
use rbuf_shm::{Arena, Connection, Doorbell, DriverBell};

const MIB: u64 = 1 << 20;
const FLOWS_MAX: u32 = 64;

/// Arenas of this name, and doorbells, as a driver passes them.
fn passed(name: &str) -> Vec<OwnedFd> {
    let make = |bytes, ours, others| {
        let arena = Arena::create(name, bytes, ours, others).unwrap();
        arena.file().try_clone_to_owned().unwrap()
    };
    let (bell, _) = Doorbell::new().unwrap();
    let passed = Passed {
        control_out: make(16 * MIB, Read, Write),
        control_in: make(16 * MIB, Write, Read),
        tx_data: make(16 * MIB, Read, Write),
        rx_data: make(16 * MIB, Write, Read),
        bell: bell.into(),
        driver_bell: DriverBell::new().unwrap().as_fd().try_clone_to_owned().unwrap(),
    };
    passed.into()
}

/// A flow manager, and its driver.
struct Host {
    daemon: Daemon,
    driver: Connection,
    name: &'static str,
    socket: std::path::PathBuf,
}

impl Host {
    fn new(name: &'static str, memory_bytes: u64) -> Self {
        let folder = std::env::temp_dir().join(format!("plumb-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("plumb.sock");
        let link = LinkConfig {
            dev: "lan".into(),
            addresses: vec!["10.77.0.1/24".parse().unwrap()],
            gateway: None,
            rate: None,
            vlan: None,
            probe_wait_ms: 0,
        };
        let rights = Rights { memory_bytes, ..Rights::ALL };
        let uid = rustix::process::getuid().as_raw();
        let policy = Policy { user: [(Uid(uid), rights)].into(), ..Policy::default() };
        let config = Config { links: vec![link], policy, ..Config::default() };
        let daemon = Daemon::new(config, &socket, || {
            let (ours, theirs) = Connection::pair()?;
            std::thread::spawn(|| keep(theirs, false));
            Ok(ours)
        })
        .unwrap();
        let driver = Connection::connect(&driver_socket(&socket)).unwrap();
        let words = (FLOWS_MAX as usize + 1) * BILL_WORDS;
        let counters = Arena::create("bills", words as u64 * 8, Write, Read).unwrap();
        let facts = LinkFacts {
            name: "lan".into(),
            kind: "script".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            mtu_max: 1500,
            unit_bytes: 1500,
            vlan: None,
            rate: Rate::mbit(100),
            frame_cost_ns: 0,
            tardiness_ns: 1,
        };
        let mut host = Self { daemon, driver, name, socket };
        host.say(&FromDriver::Hello { facts, flows_max: FLOWS_MAX }, &[counters.file()]);
        host
    }

    fn say(&mut self, message: &FromDriver, beside: &[BorrowedFd<'_>]) {
        self.driver.send(&encode(message), beside).unwrap();
    }

    /// A round of the flow manager, and what its driver says to it.
    fn round(&mut self) {
        self.daemon.round(Some(1_000_000)).unwrap();
        while let Ok(received) = self.driver.try_receive(MESSAGE_BYTES_MAX) {
            match decode(&received.bytes).unwrap() {
                ToDriver::AddDomain { domain, .. } => {
                    let passed = passed(self.name);
                    let beside: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
                    self.say(&FromDriver::DomainAdded { domain, result: Ok(()) }, &beside);
                }
                ToDriver::RemoveFlow { flow, .. } => {
                    let bill = Bill::default();
                    self.say(&FromDriver::FlowRemoved { flow, bill, settled: true }, &[]);
                }
                _ => {}
            }
        }
    }

    /// What the flow manager answers, and passes beside.
    fn ask(&mut self, client: &Connection, request: Request) -> (Reply, Vec<OwnedFd>) {
        client.send(&encode(&Call { tag: 1, request }), &[]).unwrap();
        loop {
            self.round();
            if let Ok(received) = client.try_receive(MESSAGE_BYTES_MAX) {
                let Answer { tag, reply } = decode(&received.bytes).unwrap();
                assert_eq!(tag, 1, "{reply:?}");
                return (reply, received.descriptors);
            }
        }
    }

    /// An application that has joined, and its arenas.
    fn client(&mut self) -> (Connection, Passed) {
        let client = Connection::connect(&self.socket).unwrap();
        let is_open =
            |reply: &Reply| matches!(reply, Reply::Welcome { links, .. } if !links.is_empty());
        while !is_open(&self.ask(&client, Request::Hello).0) {}
        let join = Request::Join(JoinOffer { link: 0, flows_max: FLOWS_MAX });
        let (joined, passed) = self.ask(&client, join);
        assert_eq!(joined, Reply::Joined);
        (client, Passed::from_descriptors(passed).unwrap())
    }

    fn open(&mut self, client: &Connection, port: u16, data_bytes: u32) -> Reply {
        let area = Region { offset: 0, bytes: data_bytes };
        let layout = FlowLayout {
            slot: 0,
            control_offset: 4096,
            tx_words: 16,
            rx_words: 16,
            tx_data: area,
            rx_data: area,
        };
        let local = Sap::any_v4(port);
        let endpoints = Some(Endpoints { transport: Transport::Udp, local, remote: None });
        let contract = Contract::BEST_EFFORT;
        self.ask(client, Request::Open { link: 0, contract, layout, endpoints }).0
    }

    fn user(&mut self, client: &Connection) -> UserInfo {
        match self.ask(client, Request::Query(Query::Users { from: 0 })).0 {
            Reply::Found(QueryReply::Users { users, .. }) => users[0],
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(folder) = self.socket.parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

#[test]
fn pages_that_an_application_has_left_behind_count_for_its_user_until_it_is_gone() {
    let mut host = Host::new("pages", 8 * MIB);
    let ((first, arenas), (second, _)) = (host.client(), host.client());
    assert_eq!(host.user(&first).held_bytes, 0, "arenas of 128 MiB and not a page");
    let Reply::Opened { flow, .. } = host.open(&first, 2000, MIB as u32) else {
        panic!("not opened")
    };
    // It writes where its flow is, and far beyond.
    let data = Arena::open(arenas.tx_data, Write, 16 * MIB).unwrap();
    for offset in (0..6 * MIB as u32).step_by(4096) {
        assert!(rbuf_channel::Data::write(&data.data(0, 16 << 20).unwrap(), offset, &[1]));
    }
    assert_eq!(host.user(&second).held_bytes, 6 * MIB);
    let (closed, _) = host.ask(&first, Request::Close { flow, time_wait: None });
    assert!(matches!(closed, Reply::Closed { .. }), "{closed:?}");
    let refused = host.open(&second, 2001, 2 * MIB as u32);
    let Reply::Refused(Refusal::Quota(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains(&format!("hold {} bytes", 6 * MIB)), "{text}");
    drop((first, data, arenas.rx_data, arenas.control_in, arenas.control_out));
    while host.user(&second).connections > 1 {
        host.round();
    }
    assert_eq!(host.user(&second).held_bytes, 0);
    let opened = host.open(&second, 2001, 2 * MIB as u32);
    assert!(matches!(opened, Reply::Opened { .. }), "{opened:?}");
}

#[test]
fn a_driver_that_is_gone_takes_what_was_shared_with_it_along() {
    let mut host = Host::new("gone", 8 * MIB);
    let open = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("memfd:gone")).count()
    };
    let (client, arenas) = host.client();
    let data = Arena::open(arenas.rx_data, Read, 16 * MIB).unwrap();
    assert!(rbuf_channel::Data::read(&data.data(0, 4096).unwrap(), 0, &mut [0]));
    assert_eq!(host.user(&client).held_bytes, 4096);
    drop((data, arenas.tx_data, arenas.control_in, arenas.control_out));
    drop((arenas.bell, arenas.driver_bell));
    let (ours, theirs) = Connection::pair().unwrap();
    drop((theirs, std::mem::replace(&mut host.driver, ours)));
    while host.user(&client).held_bytes > 0 {}
    drop(client);
    while open() > 0 {
        host.round();
    }
}
