//! The program that sends in bulk, instruction by instruction, and the three commands of `bpf(2)` it takes.
//!
//! The memory it shares with the driver is one value of an array map:
//!
//! ```text
//! first u32 | count u32 | slot 0: length u32, 4 unused, frame | slot 1 | …
//! ```
//!
//! It ends with the number of frames sent in the low half of its answer, and in the high half what the
//! kernel said of the frame after them, 0 if there is none.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use base_wire::{ETHERNET_BYTES, EtherType, IPV4_BYTES};

/// Bytes of `first` and `count`, and of a slot before its frame.
const HEAD_BYTES: usize = 8;
const FIRST_AT: usize = 0;
const COUNT_AT: usize = 4;

/// Where a program finds the length of its frame (`struct __sk_buff`).
const LENGTH_IN_CONTEXT: usize = 0;

/// Where everything lies in the memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// How many slots there are: a power of two.
    pub(crate) slots: usize,
    /// Length of the longest frame.
    pub(crate) frame_bytes: usize,
}

impl Shape {
    pub(crate) const fn bytes(&self) -> usize {
        HEAD_BYTES + self.slots * self.stride()
    }

    const fn stride(&self) -> usize {
        (HEAD_BYTES + self.frame_bytes).next_multiple_of(8)
    }

    pub(crate) const fn orders(&self) -> Range<usize> {
        0..HEAD_BYTES
    }

    pub(crate) const fn length(&self, slot: usize) -> Range<usize> {
        let at = HEAD_BYTES + slot * self.stride();
        at..at + 4
    }

    pub(crate) const fn frame(&self, slot: usize) -> Range<usize> {
        let at = HEAD_BYTES + slot * self.stride() + HEAD_BYTES;
        at..at + self.frame_bytes
    }
}

/// An instruction (`struct bpf_insn`): code, registers (target low, source high), offset, operand.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    operand: i32,
}

/// Registers: the answer and what helpers return, what helpers are given, what survives a helper.
const ANSWER: u8 = 0;
const GIVEN: [u8; 5] = [1, 2, 3, 4, 5];
const FRAME: u8 = 6;
const SENT: u8 = 7;
const SLOT: u8 = 8;
const LENGTH: u8 = 9;

/// Code of an operation with an operand; with this bit, with a register.
const BY_REGISTER: u8 = 0x08;
const SET: u8 = 0xB7;
const ADD: u8 = 0x07;
const MULTIPLY: u8 = 0x27;
const AND: u8 = 0x57;
const OR: u8 = 0x47;
const SHIFT_LEFT: u8 = 0x67;
const IF_EQUAL: u8 = 0x15;
const IF_NOT_EQUAL: u8 = 0x55;
const IF_ABOVE: u8 = 0x25;
const IF_AT_LEAST: u8 = 0x35;
const IF_BELOW: u8 = 0xA5;

const HELPER_STORE_BYTES: i32 = 9;
const HELPER_CLONE_REDIRECT: i32 = 13;
const HELPER_CHANGE_TAIL: i32 = 38;

/// Instructions, as they are written down.
#[derive(Debug, Default)]
struct Listing(Vec<Instruction>);

impl Listing {
    fn put(&mut self, code: u8, to: u8, from: u8, offset: i16, operand: i32) {
        self.0.push(Instruction { code, registers: to | from << 4, offset, operand });
    }

    /// Where the next instruction will be.
    fn next(&self) -> usize {
        self.0.len()
    }

    fn by(&mut self, code: u8, to: u8, value: i32) {
        self.put(code, to, 0, 0, value);
    }

    fn by_register(&mut self, code: u8, to: u8, from: u8) {
        self.put(code | BY_REGISTER, to, from, 0, 0);
    }

    /// Loads 32 bits.
    fn load(&mut self, to: u8, from: u8, offset: usize) {
        self.put(0x61, to, from, offset as i16, 0);
    }

    /// Loads the address of the value of an array map.
    fn load_memory(&mut self, to: u8, map: RawFd) {
        /// In place of a register: the operand is a map, the next one an offset in its value.
        const OF_MAP_VALUE: u8 = 2;
        self.put(0x18, to, OF_MAP_VALUE, 0, map);
        self.put(0, 0, 0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.put(0x85, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.put(0x95, 0, 0, 0, 0);
    }

    /// A jump that leads nowhere yet; returns where it is.
    fn jump(&mut self, code: u8, to: u8, from: u8, value: i32) -> usize {
        self.put(code, to, from, 0, value);
        self.next() - 1
    }

    fn lead(&mut self, jump: usize, target: usize) {
        self.0[jump].offset = (target as isize - jump as isize - 1) as i16;
    }

    /// Makes `jumps` lead to what is written next.
    fn land(&mut self, jumps: &[usize]) {
        for &jump in jumps {
            self.lead(jump, self.next());
        }
    }
}

/// Writes the program down.
fn write(shape: &Shape, map: RawFd, interface: u32) -> Vec<Instruction> {
    let mut it = Listing::default();
    it.by_register(SET, FRAME, GIVEN[0]);
    it.by(SET, SENT, 0);

    let again = it.next();
    it.load_memory(SLOT, map);
    it.load(GIVEN[0], SLOT, COUNT_AT);
    let done = it.jump(IF_AT_LEAST | BY_REGISTER, SENT, GIVEN[0], 0);
    it.load(GIVEN[1], SLOT, FIRST_AT);
    it.by_register(ADD, GIVEN[1], SENT);
    it.by(AND, GIVEN[1], shape.slots as i32 - 1);
    it.by(MULTIPLY, GIVEN[1], shape.stride() as i32);
    it.by_register(ADD, SLOT, GIVEN[1]);
    it.by(ADD, SLOT, HEAD_BYTES as i32);
    it.load(LENGTH, SLOT, 0);
    it.by(SET, ANSWER, -libc::EINVAL);
    let empty = it.jump(IF_EQUAL, LENGTH, 0, 0);
    let long = it.jump(IF_ABOVE, LENGTH, 0, shape.frame_bytes as i32);

    // The buffer is as long as its last frame was.
    it.load(GIVEN[0], FRAME, LENGTH_IN_CONTEXT);
    let fits = it.jump(IF_EQUAL | BY_REGISTER, GIVEN[0], LENGTH, 0);
    it.by_register(SET, GIVEN[0], FRAME);
    it.by_register(SET, GIVEN[1], LENGTH);
    it.by(SET, GIVEN[2], 0);
    it.call(HELPER_CHANGE_TAIL);
    let unfitting = it.jump(IF_NOT_EQUAL, ANSWER, 0, 0);
    it.land(&[fits]);

    it.by_register(SET, GIVEN[0], FRAME);
    it.by(SET, GIVEN[1], 0);
    it.by_register(SET, GIVEN[2], SLOT);
    it.by(ADD, GIVEN[2], HEAD_BYTES as i32);
    it.by_register(SET, GIVEN[3], LENGTH);
    it.by(SET, GIVEN[4], 0);
    it.call(HELPER_STORE_BYTES);
    let unwritten = it.jump(IF_NOT_EQUAL, ANSWER, 0, 0);

    it.by_register(SET, GIVEN[0], FRAME);
    it.by(SET, GIVEN[1], interface as i32);
    it.by(SET, GIVEN[2], 0);
    it.call(HELPER_CLONE_REDIRECT);
    let unsent = it.jump(IF_NOT_EQUAL, ANSWER, 0, 0);
    it.by(ADD, SENT, 1);
    let more = it.jump(IF_BELOW, SENT, 0, shape.slots as i32);
    it.lead(more, again);

    it.land(&[done]);
    it.by(SET, ANSWER, 0);
    it.land(&[empty, long, unfitting, unwritten, unsent]);
    it.by(SHIFT_LEFT, ANSWER, 16);
    it.by_register(OR, ANSWER, SENT);
    it.exit();
    it.0
}

/// A command of `bpf(2)`; `request` is the part of `union bpf_attr` that it uses.
fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `request`, and what the addresses in it
    // lead to is alive in the callers below.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *request, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn owned(raw: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel just returned it, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Makes memory of `bytes` that a program can read and a process can map.
pub(crate) fn memory(bytes: usize) -> io::Result<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    const ARRAY: u32 = 2;
    const MAPPABLE: u32 = 1 << 10;
    #[repr(C)]
    struct Request {
        kind: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries: u32,
        flags: u32,
    }
    let value_bytes = u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request =
        Request { kind: ARRAY, key_bytes: 4, value_bytes, entries: 1, flags: MAPPABLE };
    bpf(MAP_CREATE, &mut request).map(owned)
}

/// Has the kernel verify the program for `interface` over the memory `map`.
pub(crate) fn load(shape: &Shape, map: RawFd, interface: u32) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const SCHED_CLS: u32 = 3;
    #[repr(C)]
    struct Request {
        kind: u32,
        instructions: u32,
        instructions_at: u64,
        license_at: u64,
    }
    let instructions = write(shape, map, interface);
    let mut request = Request {
        kind: SCHED_CLS,
        instructions: instructions.len() as u32,
        instructions_at: instructions.as_ptr() as u64,
        // None that opens helpers for the GPL only.
        license_at: c"Apache-2.0".as_ptr() as u64,
    };
    bpf(PROG_LOAD, &mut request).map(owned)
}

fn ipv4() -> [u8; ETHERNET_BYTES + IPV4_BYTES] {
    let mut frame = [0; ETHERNET_BYTES + IPV4_BYTES];
    [frame[12], frame[13]] = EtherType::IPV4.0.to_bytes();
    frame[14] = 0x45;
    frame
}

/// Runs `program` and returns its answer.
pub(crate) fn run(program: &OwnedFd) -> io::Result<u32> {
    const PROG_TEST_RUN: libc::c_int = 10;
    // The kernel makes the program's buffer from it, and takes its protocol for that of all frames.
    let frame = ipv4();
    #[repr(C)]
    struct Request {
        program: u32,
        answer: u32,
        in_bytes: u32,
        out_bytes: u32,
        in_at: u64,
        out_at: u64,
        repeat: u32,
        duration_ns: u32,
    }
    let mut request = Request {
        program: program.as_raw_fd() as u32,
        answer: 0,
        in_bytes: frame.len() as u32,
        out_bytes: 0,
        in_at: frame.as_ptr() as u64,
        out_at: 0,
        repeat: 1,
        duration_ns: 0,
    };
    bpf(PROG_TEST_RUN, &mut request)?;
    Ok(request.answer)
}
