//! What the driver may still ask of the kernel once everything is open.

use rbuf_shm::Calls;

/// The command of `bpf(2)` that runs a program.
const BPF_PROG_TEST_RUN: u64 = 10;

/// The link may run the program it has loaded, and load no other.
pub(crate) const LOOP: Calls<'static> =
    Calls { all: CALLS, only: &[(libc::SYS_bpf, 0, BPF_PROG_TEST_RUN)] };

/// What the loop needs.
const CALLS: &[i64] = &[
    // The link, the flow manager, the domains.
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    // News of the interface.
    libc::SYS_recvfrom,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_clock_nanosleep,
    // Arenas of domains that join later.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_socketpair,
    libc::SYS_shutdown,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
];
