//! A kernel that cannot refuse descriptors, as there were before Linux 6.16, in so far as that can be told by asking.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::{children, eventually, processes};

const SO_PASSRIGHTS: u64 = 83;

/// Does `work` in a thread whose system calls, and those of all that it starts, find no `SO_PASSRIGHTS`.
pub fn on_an_older_kernel(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let is = |at, value: u64| {
                SeccompCondition::new(at, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
            };
            let option = vec![is(1, libc::SOL_SOCKET as u64), is(2, SO_PASSRIGHTS)];
            let rules = [(libc::SYS_setsockopt, vec![SeccompRule::new(option).unwrap()])];
            let unknown = SeccompAction::Errno(libc::ENOPROTOOPT as u32);
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, unknown, arch);
            let program: BpfProgram = filter.unwrap().try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
            assert!(!rbuf_shm::descriptors_can_be_refused());
            work();
        });
        thread.join().unwrap();
    });
}

/// The keeper of the lab's flow manager, when it has done all that it was told so far; `None` if there is none.
pub fn keeper() -> Option<u32> {
    let pid = children(processes()["flowman"]).get("__keeper").copied()?;
    eventually("the keeper waits for more", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    });
    Some(pid)
}
