//! Giving up privileges once everything is open.

use std::collections::BTreeMap;
use std::{fmt, io};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, Scope,
};
use rustix::process::{
    Gid, Uid, getppid, parent_process_death_signal, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Why privileges could not be given up. A daemon must not serve then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel refused.
    #[error("{call}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The system call filter could not be made or installed.
    #[error("seccomp: {0}")]
    Seccomp(String),
    /// The kernel has Landlock, and refused this.
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
}

fn os(call: &'static str) -> impl Fn(rustix::io::Errno) -> ConfineError {
    move |errno| ConfineError::Os { call, source: errno.into() }
}

/// Becomes another user for ever, of one group and no others, and ends with its parent as before. Only the
/// calling thread: it has to be the only one.
///
/// # Errors
///
/// [`ConfineError::Os`], if the thread is not root's, or there is no such user in its namespace. It may be of
/// fewer groups then.
pub fn become_user(uid: u32, gid: u32) -> Result<(), ConfineError> {
    // What only root can empty.
    empty_bounding_set();
    // Another user's process would outlive its parent.
    let (parent, dies_by) = (getppid(), parent_process_death_signal());
    let dies_by = dies_by.map_err(os("prctl(PR_GET_PDEATHSIG)"))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[]).map_err(os("setgroups"))?;
    set_thread_res_gid(group, group, group).map_err(os("setresgid"))?;
    set_thread_res_uid(user, user, user).map_err(os("setresuid"))?;
    set_parent_process_death_signal(dies_by).map_err(os("prctl(PR_SET_PDEATHSIG)"))?;
    if dies_by.is_some() && getppid() != parent {
        let source = io::Error::other("its parent is dead");
        return Err(ConfineError::Os { call: "prctl(PR_SET_PDEATHSIG)", source });
    }
    Ok(())
}

fn empty_bounding_set() {
    for capability in 0..u64::BITS {
        // Whoever may not has nothing to give up; and the kernel does not know so many.
        let _ =
            remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << capability));
    }
}

/// How far this kernel's Landlock goes: its version, 0 if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landlock(u32);

impl Landlock {
    /// Finds out by confining a thread that has nothing to do.
    pub fn of_this_kernel() -> Self {
        let thread = std::thread::Builder::new().spawn(|| {
            let _ = set_no_new_privs(true);
            close_off()
        });
        let tried = thread.ok().and_then(|thread| thread.join().ok());
        tried.and_then(Result::ok).unwrap_or(Self(0))
    }

    /// Whether there is none.
    pub const fn is_absent(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = match self.0 {
            0 => {
                return f.write_str(
                    "this kernel has no Landlock (Linux 5.13, with `landlock` among its `lsm=`): the system call filter alone keeps daemons from files",
                );
            }
            1..4 => "",
            4..6 => " and TCP",
            _ => ", TCP, abstract sockets and signals to others",
        };
        write!(f, "Landlock {} keeps daemons from files{more}", self.0)
    }
}

/// Nothing new can be reached any more: no file, no TCP port, and nobody by a signal or a name.
fn close_off() -> Result<Landlock, ConfineError> {
    // The last version that is known here. An older kernel does what it can of it.
    let known = ABI::V7;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(known))?
        .handle_access(AccessNet::from_all(known))?
        .scope(Scope::from_all(known))?
        .create()?
        .restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Landlock(0),
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Landlock(kernel_abi.map_or(effective_abi as u32, |abi| abi as u32))
        }
    })
}

/// What a daemon may still ask of the kernel, besides memory and its own death.
#[derive(Debug, Clone, Copy)]
pub struct Calls<'a> {
    /// These, whatever their arguments.
    pub all: &'a [i64],
    /// These, if an argument (counted from 0) is this one.
    pub only: &'a [(i64, u8, u64)],
}

/// Gives up all capabilities, also those that a program could bring, everything that could be opened by a name, and
/// every system call but `calls`; for ever. Only the calling thread is confined: each one has to call it.
///
/// # Errors
///
/// See [`ConfineError`]; the thread may be confined in part.
pub fn confine(calls: Calls<'_>) -> Result<Landlock, ConfineError> {
    // Asked of the kernel once, by a call that is none of the daemon's.
    let _ = rustix::param::page_size();
    empty_bounding_set();
    set_no_new_privs(true).map_err(os("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(os("capset"))?;
    let landlock = close_off()?;
    let seccomp = |error: &dyn std::fmt::Display| ConfineError::Seccomp(error.to_string());
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| seccomp(&error))?;
    let every = calls.all.iter().chain(BASIC);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        every.map(|&call| (call, Vec::new())).collect();
    let pid = std::process::id();
    let own = [
        // Its own threads only: for the end of the process.
        (libc::SYS_tgkill, 0, SeccompCmpOp::Eq, u64::from(pid)),
        // No memory that could hold a program.
        (libc::SYS_mmap, 2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0),
        (libc::SYS_mprotect, 2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0),
    ];
    let asked = calls.only.iter().map(|&(call, at, value)| (call, at, SeccompCmpOp::Eq, value));
    for (call, at, compare, value) in asked.chain(own) {
        let rule = SeccompCondition::new(at, SeccompCmpArgLen::Dword, compare, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| seccomp(&error))?;
        rules.entry(call).or_default().push(rule);
    }
    let refuse = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error() as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)
        .map_err(|error| seccomp(&error))?;
    let program: BpfProgram =
        filter.try_into().map_err(|error: seccompiler::BackendError| seccomp(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| seccomp(&error))?;
    Ok(landlock)
}

/// What the allocator, signals and the end of any process need.
const BASIC: &[i64] = &[
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_clock_gettime,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: &str = "RBUF_SHM_TEST_CONFINED";

    /// Runs this test once more, in a process of its own that `confined` may confine.
    fn in_another_process(name: &str, confined: impl FnOnce()) {
        if std::env::var(INSIDE).as_deref() == Ok(name) {
            confined();
            // Nothing more can be printed to anybody's satisfaction.
            std::process::exit(77);
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(INSIDE, name)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(77), "see above");
    }

    fn call(number: i64, arguments: [i64; 3]) -> Result<i64, i32> {
        // SAFETY: each call of these tests passes no pointer, or a null one.
        let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2]) };
        if result >= 0 {
            return Ok(result);
        }
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    #[test]
    fn who_is_confined_reaches_no_file_no_port_and_nobody_even_without_the_filter() {
        let name = "confine::tests::who_is_confined_reaches_no_file_no_port_and_nobody_even_without_the_filter";
        in_another_process(name, || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap();
            set_no_new_privs(true).unwrap();
            let landlock = close_off().unwrap();
            println!("{landlock}");
            let is_refused = |what: &str, since, refused: bool| {
                assert_eq!(refused, landlock.0 >= since, "{what}: {landlock}");
            };
            let denied = io::ErrorKind::PermissionDenied;
            is_refused("/etc/passwd", 1, std::fs::File::open("/etc/passwd").is_err());
            let made = std::env::temp_dir().join(format!("rbuf-shm-{}", std::process::id()));
            is_refused("a new file", 1, std::fs::write(made, "").is_err());
            let connected = std::net::TcpStream::connect(port);
            is_refused("a port", 4, connected.is_err_and(|error| error.kind() == denied));
            let bound = std::net::TcpListener::bind("127.0.0.1:0");
            is_refused("listening", 4, bound.is_err_and(|error| error.kind() == denied));
            let parent = i64::from(std::os::unix::process::parent_id());
            is_refused("its parent", 6, call(libc::SYS_kill, [parent, 0, 0]) == Err(libc::EPERM));
        });
    }

    #[test]
    fn who_became_another_user_cannot_be_root_again() {
        let name = "confine::tests::who_became_another_user_cannot_be_root_again";
        in_another_process(name, || {
            let ids = |of: &str| {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap();
                line.split_whitespace().map(str::to_string).collect::<Vec<_>>()
            };
            let before = ids("Uid:");
            set_parent_process_death_signal(Some(rustix::process::Signal::TERM)).unwrap();
            let became = become_user(65_534, 65_533);
            if became.is_err() {
                // There is nobody else in this namespace, or this is not root.
                assert_eq!(ids("Uid:"), before);
                return;
            }
            assert_eq!(ids("Uid:"), ["65534"; 4]);
            assert_eq!(ids("Gid:"), ["65533"; 4]);
            assert_eq!(ids("Groups:"), [""; 0]);
            assert!(
                ids("CapBnd:").iter().chain(&ids("CapPrm:")).all(|set| set == "0000000000000000")
            );
            assert_eq!(parent_process_death_signal().unwrap(), Some(rustix::process::Signal::TERM));
            assert_eq!(call(libc::SYS_setuid, [0; 3]), Err(libc::EPERM));
        });
    }

    #[test]
    fn who_is_confined_has_the_calls_it_named_and_no_others() {
        let name = "confine::tests::who_is_confined_has_the_calls_it_named_and_no_others";
        in_another_process(name, || {
            let parent = i64::from(std::os::unix::process::parent_id());
            let own = i64::from(std::process::id());
            let calls = Calls { all: &[libc::SYS_epoll_create1], only: &[(libc::SYS_bpf, 0, 10)] };
            confine(calls).unwrap();
            assert!(call(libc::SYS_epoll_create1, [0; 3]).is_ok());
            let stranger = libc::AF_INET as i64;
            let refused = [
                ("socket", libc::SYS_socket, [stranger, 1, 0]),
                ("openat", libc::SYS_openat, [-100, 0, 0]),
                ("execve", libc::SYS_execve, [0; 3]),
                ("clone", libc::SYS_clone, [0; 3]),
                ("ptrace", libc::SYS_ptrace, [0; 3]),
                ("kill", libc::SYS_kill, [parent, 0, 0]),
                ("tgkill of another process", libc::SYS_tgkill, [parent, parent, 0]),
                ("bpf, to load", libc::SYS_bpf, [5, 0, 0]),
                ("setuid", libc::SYS_setuid, [0; 3]),
                ("mprotect for a program", libc::SYS_mprotect, [0, 0, i64::from(libc::PROT_EXEC)]),
                ("mmap of a program", libc::SYS_mmap, [0, 0, i64::from(libc::PROT_EXEC)]),
            ];
            for (what, number, arguments) in refused {
                assert_eq!(call(number, arguments), Err(libc::EPERM), "{what}");
            }
            assert_ne!(call(libc::SYS_bpf, [10, 0, 0]), Err(libc::EPERM));
            assert_eq!(call(libc::SYS_mprotect, [0; 3]), Ok(0));
            let thread = call(libc::SYS_gettid, [0; 3]).unwrap();
            assert_eq!(call(libc::SYS_tgkill, [own, thread, 0]), Ok(0));
        });
    }
}
