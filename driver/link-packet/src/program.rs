//! The program that sends in bulk, instruction by instruction.
//!
//! The memory it shares with the driver is one value of an array map:
//!
//! ```text
//! first u32 | count u32 | slot 0: length u32, 4 unused, frame | slot 1 | …
//! ```
//!
//! It ends with the number of frames sent in the low half of its answer, and in the high half what the
//! kernel said of the frame after them, 0 if there is none.

use std::ops::Range;

use base_wire::{ETHERNET_BYTES, EtherType, IPV4_BYTES};
use driver_bpf::{
    Assembler, BPF_FUNC_CLONE_REDIRECT, BPF_FUNC_SKB_CHANGE_TAIL, BPF_FUNC_SKB_STORE_BYTES, Insn,
    Map, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9,
};

/// Bytes of `first` and `count`, and of a slot before its frame.
const HEAD_BYTES: usize = 8;
const FIRST_AT: i16 = 0;
const COUNT_AT: i16 = 4;

/// `len` of `struct __sk_buff`: the length of a program's frame.
const SKB_LEN: i16 = 0;

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

/// Writes the program down, for `ifindex`, over the memory `map`.
pub(crate) fn program(shape: &Shape, map: &Map, ifindex: u32) -> Vec<Insn> {
    let mut asm = Assembler::new();
    let (skb, sent, slot, len) = (R6, R7, R8, R9);
    let (fits, done, end) = (asm.label(), asm.label(), asm.label());
    asm.mov64_reg(skb, R1);
    asm.mov64_imm(sent, 0);

    let again = asm.here();
    asm.ld_map_value(slot, map);
    asm.ldx_w(R1, slot, COUNT_AT);
    asm.jge_reg(sent, R1, done);
    asm.ldx_w(R2, slot, FIRST_AT);
    asm.add64_reg(R2, sent);
    asm.and64_imm(R2, shape.slots as i32 - 1);
    asm.mul64_imm(R2, shape.stride() as i32);
    asm.add64_reg(slot, R2);
    asm.add64_imm(slot, HEAD_BYTES as i32);
    asm.ldx_w(len, slot, 0);
    asm.mov64_imm(R0, -libc::EINVAL);
    asm.jeq_imm(len, 0, end);
    asm.jgt_imm(len, shape.frame_bytes as i32, end);

    // The buffer is as long as its last frame was.
    asm.ldx_w(R1, skb, SKB_LEN);
    asm.jeq_reg(R1, len, fits);
    asm.mov64_reg(R1, skb);
    asm.mov64_reg(R2, len);
    asm.mov64_imm(R3, 0);
    asm.call(BPF_FUNC_SKB_CHANGE_TAIL);
    asm.jne_imm(R0, 0, end);
    asm.place(fits);

    asm.mov64_reg(R1, skb);
    asm.mov64_imm(R2, 0);
    asm.mov64_reg(R3, slot);
    asm.add64_imm(R3, HEAD_BYTES as i32);
    asm.mov64_reg(R4, len);
    asm.mov64_imm(R5, 0);
    asm.call(BPF_FUNC_SKB_STORE_BYTES);
    asm.jne_imm(R0, 0, end);

    asm.mov64_reg(R1, skb);
    asm.mov64_imm(R2, ifindex as i32);
    asm.mov64_imm(R3, 0);
    asm.call(BPF_FUNC_CLONE_REDIRECT);
    asm.jne_imm(R0, 0, end);
    asm.add64_imm(sent, 1);
    asm.jlt_imm(sent, shape.slots as i32, again);

    asm.place(done);
    asm.mov64_imm(R0, 0);
    asm.place(end);
    asm.lsh64_imm(R0, 16);
    asm.or64_reg(R0, sent);
    asm.exit();
    asm.finish()
}

/// The kernel makes the program's buffer from this, and takes its protocol for that of all frames.
pub(crate) fn packet() -> [u8; ETHERNET_BYTES + IPV4_BYTES] {
    let mut frame = [0; ETHERNET_BYTES + IPV4_BYTES];
    [frame[12], frame[13]] = EtherType::IPV4.0.to_bytes();
    frame[14] = 0x45;
    frame
}
