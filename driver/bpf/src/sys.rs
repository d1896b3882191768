//! Commands of `bpf(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::Insn;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// Room for what the verifier says of a program that it refuses.
const LOG_BYTES: usize = 1 << 18;

/// A command; `attr` is the part of `union bpf_attr` that it uses.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attr`, and what the addresses in it lead to is alive
    // in the callers below.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn owned(raw: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel just returned it, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Memory that programs share with each other and with their user.
#[derive(Debug)]
pub struct Map(OwnedFd);

impl Map {
    /// An array of one value of `value_size` bytes, which a process can map (`BPF_MAP_TYPE_ARRAY`, `BPF_F_MMAPABLE`).
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without `CAP_BPF`; what the kernel says.
    pub fn one_value(value_size: usize) -> io::Result<Self> {
        #[repr(C)]
        struct MapCreate {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
        }
        let value_size = u32::try_from(value_size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut attr = MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size,
            max_entries: 1,
            map_flags: BPF_F_MMAPABLE,
        };
        bpf(BPF_MAP_CREATE, &mut attr).map(|fd| Self(owned(fd)))
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Map {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Why a program was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel lets this process load none.
    #[error("this process may not load BPF programs ({0}): it takes CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted(io::Error),
    /// The verifier refused it.
    #[error("the kernel's verifier refused the program ({source}):\n{log}")]
    Refused {
        /// What the command returned.
        source: io::Error,
        /// What the verifier said.
        log: String,
    },
}

/// A program that the kernel has verified.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// Result of [`Program::test_run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned.
    pub retval: u32,
    /// How long it took, in nanoseconds.
    pub duration_ns: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

impl Program {
    /// Has the kernel verify a program that sees packets (`BPF_PROG_TYPE_SCHED_CLS`).
    ///
    /// # Errors
    ///
    /// [`LoadError`], with the verifier's log: a program that is refused is loaded once more for that.
    pub fn sched_cls(insns: &[Insn]) -> Result<Self, LoadError> {
        let mut attr = ProgLoad {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: insns.len() as u32,
            insns: insns.as_ptr() as u64,
            // None that opens helpers for the GPL only.
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
        };
        let source = match bpf(BPF_PROG_LOAD, &mut attr) {
            Ok(fd) => return Ok(Self(owned(fd))),
            Err(source) => source,
        };
        // What the verifier refuses is EACCES.
        if source.raw_os_error() == Some(libc::EPERM) {
            return Err(LoadError::NotPermitted(source));
        }
        let mut log = vec![0_u8; LOG_BYTES];
        (attr.log_level, attr.log_size) = (1, LOG_BYTES as u32);
        attr.log_buf = log.as_mut_ptr() as u64;
        match bpf(BPF_PROG_LOAD, &mut attr) {
            // The kernel was short of something a moment ago.
            Ok(fd) => Ok(Self(owned(fd))),
            Err(source) => {
                log.truncate(log.iter().position(|byte| *byte == 0).unwrap_or(LOG_BYTES));
                let log = String::from_utf8_lossy(&log).into_owned();
                Err(LoadError::Refused { source, log })
            }
        }
    }

    /// Runs the program once on `packet` (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn test_run(&self, packet: &[u8]) -> io::Result<TestRun> {
        #[repr(C)]
        struct ProgTestRun {
            prog_fd: u32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
        }
        let mut attr = ProgTestRun {
            prog_fd: self.0.as_raw_fd() as u32,
            retval: 0,
            data_size_in: packet.len() as u32,
            data_size_out: 0,
            data_in: packet.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        bpf(BPF_PROG_TEST_RUN, &mut attr)?;
        Ok(TestRun { retval: attr.retval, duration_ns: attr.duration })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Assembler, R0, R1, R2};

    /// Loads a program; `None` for who must not: without `CAP_BPF`, or in a user namespace.
    fn load(asm: Assembler) -> Option<Result<Program, LoadError>> {
        const CAP_BPF: u32 = 39;
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        let has_right = u64::from_str_radix(effective, 16).unwrap() >> CAP_BPF & 1 == 1;
        let uids = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        let is_initial = uids.split_whitespace().eq(["0", "0", "4294967295"]);
        let loaded = Program::sched_cls(&asm.finish());
        let refused = matches!(loaded, Err(LoadError::NotPermitted(_)));
        assert_eq!(refused, !(has_right && is_initial), "{loaded:?}");
        (!refused).then_some(loaded)
    }

    #[test]
    fn a_program_returns_what_it_computes_of_the_packet() {
        let mut asm = Assembler::new();
        // `len` of `struct __sk_buff`.
        asm.ldx_w(R0, R1, 0);
        asm.lsh64_imm(R0, 1);
        asm.exit();
        let Some(program) = load(asm) else { return };
        assert_eq!(program.unwrap().test_run(&[0; 60]).unwrap().retval, 120);
    }

    #[test]
    fn a_program_that_is_refused_is_refused_with_the_verifiers_reason() {
        let mut asm = Assembler::new();
        asm.mov64_reg(R0, R2);
        asm.exit();
        let Some(refused) = load(asm) else { return };
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("R2 !read_ok"), "{error}");
    }

    #[test]
    fn a_map_is_made_and_its_value_read() {
        let mut asm = Assembler::new();
        let Ok(map) = Map::one_value(64) else {
            // Who may make no map may load no program.
            asm.exit();
            return assert!(load(asm).is_none());
        };
        asm.ld_map_value(R1, &map);
        asm.ldx_w(R0, R1, 4);
        asm.exit();
        let Some(program) = load(asm) else { return };
        assert_eq!(program.unwrap().test_run(&[0; 60]).unwrap().retval, 0);
    }
}
