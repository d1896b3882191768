//! Giving up privileges once everything is open.

use std::collections::BTreeMap;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Why privileges could not be given up. The driver must not serve then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel refused.
    #[error("{call}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// The system call filter could not be made or installed.
    #[error("seccomp: {0}")]
    Seccomp(String),
}

/// Gives up all capabilities, and every system call but those of the loop; for ever.
pub(crate) fn confine() -> Result<(), ConfineError> {
    let os = |call| move |errno: rustix::io::Errno| ConfineError::Os { call, source: errno.into() };
    set_no_new_privs(true).map_err(os("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(os("capset"))?;
    let seccomp = |error: &dyn std::fmt::Display| ConfineError::Seccomp(error.to_string());
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| seccomp(&error))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|&call| (call, Vec::new())).collect();
    // The link may run the program it has loaded, and load no other.
    let runs =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, BPF_PROG_TEST_RUN)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| seccomp(&error))?;
    rules.insert(libc::SYS_bpf, vec![runs]);
    let refuse = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error() as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)
        .map_err(|error| seccomp(&error))?;
    let program: BpfProgram =
        filter.try_into().map_err(|error: seccompiler::BackendError| seccomp(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| seccomp(&error))
}

/// The command of `bpf(2)` that runs a program.
const BPF_PROG_TEST_RUN: u64 = 10;

/// What the loop, the allocator and the death of the process need.
const CALLS: &[i64] = &[
    // The link, the flow manager, the domains.
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    // News of the interface.
    libc::SYS_recvfrom,
    libc::SYS_getsockopt,
    libc::SYS_futex,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_ppoll,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Arenas of domains that join later.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_socketpair,
    libc::SYS_shutdown,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_close,
    // The allocator, signals, the end.
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
