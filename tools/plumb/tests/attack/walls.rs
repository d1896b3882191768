//! Walls that stand between domains, looked at from the other side: in the real processes.

use std::os::unix::fs::MetadataExt;

use base_flow::{Contract, Sap, Transport};
use base_rpc::{Refusal, Reply, Request};
use rbuf_channel::AtomicU64;
use rbuf_domain::{Domain, Passed};
use rbuf_shm::{Access, Arena, ArenaError, Connection};
use std::sync::atomic::Ordering;

use crate::ground::{can_be_a_stranger, peer_hears, row, say};
use crate::in_lab::older_kernel::{keeper, on_an_older_kernel};
use crate::in_lab::{OURS, eventually, host, processes, socket};
use crate::raw::{RawFlow, call, greet, join};

#[test]
fn an_ordinary_user_has_no_rights_of_root_and_does_not_reach_the_drivers_socket() {
    let attack = || {
        let connection = greet();
        let local = Sap::new(OURS.into(), 80);
        let (reply, _) = call(&connection, Request::Bind { transport: Transport::Udp, local });
        assert!(matches!(reply, Reply::Refused(Refusal::Policy(_))), "{reply:?}");
        let drivers = format!("{}.driver", socket().display());
        let refused = Connection::connect(drivers.as_ref()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        say("refused");
    };
    let name =
        "walls::an_ordinary_user_has_no_rights_of_root_and_does_not_reach_the_drivers_socket";
    row(name, attack, |ground| {
        let drivers = format!("{}.driver", socket().display());
        assert_eq!(std::fs::metadata(drivers).unwrap().mode() & 0o777, 0o600);
        if can_be_a_stranger() {
            let mut attacker = ground.attacker();
            attacker.wait_until("refused");
            attacker.wait_until_dead();
        }
        // Whoever it is: nobody but the first user has these rights by being who he is.
        let rights = flowman_core::Policy::default().rights(54_321);
        assert!(!rights.reserved_ports);
    });
}

#[test]
fn each_side_can_write_only_what_it_is_to_write() {
    row(
        "walls::each_side_can_write_only_what_it_is_to_write",
        || (),
        |_| {
            let connection = greet();
            let passed = Passed::from_descriptors(join(&connection, 4)).unwrap();
            let refused = Arena::open(passed.control_in, Access::Write, 1 << 28);
            assert!(matches!(refused, Err(ArenaError::Os { call: "mmap", .. })), "{refused:?}");
            // And the driver's own rights, as the kernel knows them.
            let maps = format!("/proc/{}/maps", processes()["driver"]);
            let maps = std::fs::read_to_string(maps).unwrap();
            let rights = |name: &str| {
                let of: Vec<&str> = maps
                    .lines()
                    .filter(|line| line.contains(name))
                    .map(|line| line.split_whitespace().nth(1).unwrap())
                    .collect();
                assert!(!of.is_empty(), "{name} is mapped");
                of
            };
            for (name, expected) in [
                ("plumb-control-out", "r--s"),
                ("plumb-tx-data", "r--s"),
                ("plumb-control-in", "rw-s"),
                ("plumb-rx-data", "rw-s"),
            ] {
                assert!(rights(name).iter().all(|rights| *rights == expected), "{name}: {maps}");
            }
        },
    );
}

#[test]
fn a_lie_closes_its_own_flow_and_no_other_of_the_domain() {
    row(
        "walls::a_lie_closes_its_own_flow_and_no_other_of_the_domain",
        || (),
        |_| {
            let _peer = peer_hears(7000);
            let host = host();
            let connection = greet();
            let domain = Domain::new(4, join(&connection, 4)).unwrap();
            let open = |port| {
                RawFlow::open(&connection, &domain, port, Contract::BEST_EFFORT.with_slack(true))
            };
            let (mut liar, mut honest) = (open(6300), open(6301));
            let exists = |flow: &RawFlow| {
                host.query_flows().unwrap().iter().any(|info| info.flow == flow.id)
            };
            // An event that nobody asked for is a lie of the whole domain.
            eventually("the driver waits for the liar's event", || liar.is_awaited());
            // More published than there is room for.
            let words = domain.control_out(1 << 12).unwrap();
            let at = (liar.layout.control_offset / 8) as usize;
            let published: &AtomicU64 = &words[at];
            published.store(u64::MAX / 2, Ordering::Release);
            domain.post(liar.layout.slot);
            eventually("the liar is gone", || !exists(&liar));
            assert!(exists(&honest));
            assert_eq!(honest.send(&domain, 0..8), 8);
            let mut back = 0;
            eventually("what the honest flow sends leaves", || {
                back += honest.reap();
                back == 8
            });
            liar.reap();
        },
    );
}

#[test]
fn each_of_the_flow_managers_own_flows_has_a_guarantee() {
    row(
        "walls::each_of_the_flow_managers_own_flows_has_a_guarantee",
        || (),
        |_| {
            let flows = host().query_flows().unwrap();
            let own: Vec<_> = flows.iter().filter(|flow| flow.endpoints.is_none()).collect();
            assert_eq!(own.len(), base_flow::Stray::COUNT, "{flows:?}");
            assert!(own.iter().all(|own| own.contract.slice_ns > 0), "{own:?}");
        },
    );
}

#[test]
fn the_daemons_keep_no_capability_and_few_system_calls_and_the_flow_manager_is_not_root() {
    row(
        "walls::the_daemons_keep_no_capability_and_few_system_calls_and_the_flow_manager_is_not_root",
        || (),
        |_| {
            for name in ["driver", "flowman"] {
                let pid = processes()[name];
                let status = Status::of(format!("/proc/{pid}/status").as_ref());
                assert_eq!(status.line("NoNewPrivs:"), "1", "{name}");
                assert_eq!(status.line("Seccomp:"), "2", "{name}");
                status.assert_nothing_is_left(name, name == "flowman");
            }
        },
    );
}

#[test]
fn no_thread_of_a_keeper_has_more_rights_than_its_flow_manager() {
    let name = "walls::no_thread_of_a_keeper_has_more_rights_than_its_flow_manager";
    let look = || {
        // Older kernels are a filter here, which everybody has.
        let filters = |pid: u32| {
            let status = Status::of(format!("/proc/{pid}/status").as_ref());
            status.line("Seccomp_filters:").parse::<u32>().unwrap()
        };
        let processes = processes();
        let confined = filters(processes["flowman"]);
        assert!(confined > filters(processes["__peer"]));
        let threads = || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", keeper().unwrap())).unwrap();
            threads.map(|thread| Status::of(&thread.unwrap().path().join("status")))
        };
        assert!(threads().count() > 1);
        threads().for_each(|thread| {
            assert_eq!(thread.line("Seccomp_filters:"), confined.to_string());
            thread.assert_nothing_is_left("keeper", true);
        });
    };
    on_an_older_kernel(|| row(name, || (), |_| look()));
}

/// A thread, as the kernel describes it.
struct Status(String);

impl Status {
    fn of(path: &std::path::Path) -> Self {
        Self(std::fs::read_to_string(path).unwrap())
    }

    fn line(&self, key: &str) -> String {
        let found = self.0.lines().find_map(|line| line.strip_prefix(key));
        found.unwrap_or_default().trim().to_string()
    }

    /// Fails if it has a capability, or, where this machine lets us be somebody else, could have one; or is root if it
    /// is to be another.
    fn assert_nothing_is_left(&self, name: &str, is_another: bool) {
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&self.line(set), 16), Ok(0), "{name} {set}");
        }
        if can_be_a_stranger() {
            assert_eq!(u64::from_str_radix(&self.line("CapBnd:"), 16), Ok(0), "{name}");
        }
        if can_be_a_stranger() && is_another {
            let ids = self.line("Uid:") + &self.line("Gid:");
            assert!(ids.split_whitespace().all(|id| id != "0"), "{name}: {ids}");
            assert_eq!(self.line("Groups:"), "");
        }
    }
}
