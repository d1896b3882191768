//! The assembler: instructions by the names of the kernel's macros, and labels for jumps.

use std::os::fd::AsRawFd;

use crate::Map;

/// An instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high half.
    pub regs: u8,
    /// Of a jump or of an address.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(u8);

/// What the program, a helper or an exit returns.
pub const R0: Reg = Reg(0);
/// First argument; the context, when the program begins.
pub const R1: Reg = Reg(1);
/// Second argument.
pub const R2: Reg = Reg(2);
/// Third argument.
pub const R3: Reg = Reg(3);
/// Fourth argument.
pub const R4: Reg = Reg(4);
/// Fifth argument.
pub const R5: Reg = Reg(5);
/// Survives calls.
pub const R6: Reg = Reg(6);
/// Survives calls.
pub const R7: Reg = Reg(7);
/// Survives calls.
pub const R8: Reg = Reg(8);
/// Survives calls.
pub const R9: Reg = Reg(9);
/// The frame pointer, to be read only.
pub const R10: Reg = Reg(10);

/// `bpf_skb_store_bytes`.
pub const BPF_FUNC_SKB_STORE_BYTES: i32 = 9;
/// `bpf_clone_redirect`.
pub const BPF_FUNC_CLONE_REDIRECT: i32 = 13;
/// `bpf_skb_change_tail`.
pub const BPF_FUNC_SKB_CHANGE_TAIL: i32 = 38;

// Classes, sources and operations, as `linux/bpf.h` and `linux/bpf_common.h` number them.
const BPF_LD: u8 = 0x00;
const BPF_LDX: u8 = 0x01;
const BPF_JMP: u8 = 0x05;
const BPF_ALU64: u8 = 0x07;
const BPF_IMM: u8 = 0x00;
const BPF_MEM: u8 = 0x60;
const BPF_W: u8 = 0x00;
const BPF_DW: u8 = 0x18;
const BPF_K: u8 = 0x00;
const BPF_X: u8 = 0x08;
const BPF_ADD: u8 = 0x00;
const BPF_MUL: u8 = 0x20;
const BPF_OR: u8 = 0x40;
const BPF_AND: u8 = 0x50;
const BPF_LSH: u8 = 0x60;
const BPF_MOV: u8 = 0xb0;
const BPF_JEQ: u8 = 0x10;
const BPF_JGT: u8 = 0x20;
const BPF_JGE: u8 = 0x30;
const BPF_JNE: u8 = 0x50;
const BPF_CALL: u8 = 0x80;
const BPF_EXIT: u8 = 0x90;
const BPF_JLT: u8 = 0xa0;
/// In place of a source register: the operand is a map, the next instruction has an offset in its value.
const BPF_PSEUDO_MAP_VALUE: u8 = 2;

/// A place in a program that jumps lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program that is being written down.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    /// Where each label is, once it is known.
    places: Vec<Option<usize>>,
    /// Jumps, and the labels they lead to.
    jumps: Vec<(usize, Label)>,
}

macro_rules! alu64 {
    ($($(#[$doc:meta])* $imm:ident, $reg:ident, $op:ident;)*) => {$(
        $(#[$doc])*
        pub fn $imm(&mut self, dst: Reg, imm: i32) {
            self.insn(BPF_ALU64 | $op | BPF_K, dst, Reg(0), 0, imm);
        }

        /// The same with a register.
        pub fn $reg(&mut self, dst: Reg, src: Reg) {
            self.insn(BPF_ALU64 | $op | BPF_X, dst, src, 0, 0);
        }
    )*};
}

macro_rules! jumps {
    ($($(#[$doc:meta])* $imm:ident, $reg:ident, $op:ident;)*) => {$(
        $(#[$doc])*
        pub fn $imm(&mut self, dst: Reg, imm: i32, to: Label) {
            self.jump($op | BPF_K, dst, Reg(0), imm, to);
        }

        /// The same with a register.
        pub fn $reg(&mut self, dst: Reg, src: Reg, to: Label) {
            self.jump($op | BPF_X, dst, src, 0, to);
        }
    )*};
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    fn insn(&mut self, code: u8, dst: Reg, src: Reg, off: i16, imm: i32) {
        self.insns.push(Insn { code, regs: dst.0 | src.0 << 4, off, imm });
    }

    fn jump(&mut self, code: u8, dst: Reg, src: Reg, imm: i32, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.insn(BPF_JMP | code, dst, src, 0, imm);
    }

    alu64! {
        /// `dst = imm` (`BPF_MOV64_IMM`).
        mov64_imm, mov64_reg, BPF_MOV;
        /// `dst += imm`.
        add64_imm, add64_reg, BPF_ADD;
        /// `dst *= imm`.
        mul64_imm, mul64_reg, BPF_MUL;
        /// `dst &= imm`.
        and64_imm, and64_reg, BPF_AND;
        /// `dst |= imm`.
        or64_imm, or64_reg, BPF_OR;
        /// `dst <<= imm`.
        lsh64_imm, lsh64_reg, BPF_LSH;
    }

    jumps! {
        /// Goes on at `to` if `dst == imm` (`BPF_JEQ`).
        jeq_imm, jeq_reg, BPF_JEQ;
        /// Goes on at `to` if `dst != imm`.
        jne_imm, jne_reg, BPF_JNE;
        /// Goes on at `to` if `dst > imm`, both unsigned.
        jgt_imm, jgt_reg, BPF_JGT;
        /// Goes on at `to` if `dst >= imm`, both unsigned.
        jge_imm, jge_reg, BPF_JGE;
        /// Goes on at `to` if `dst < imm`, both unsigned.
        jlt_imm, jlt_reg, BPF_JLT;
    }

    /// `dst = *(u32 *)(src + off)` (`BPF_LDX_MEM(BPF_W, …)`).
    pub fn ldx_w(&mut self, dst: Reg, src: Reg, off: i16) {
        self.insn(BPF_LDX | BPF_MEM | BPF_W, dst, src, off, 0);
    }

    /// `dst` = address of the value of an array map with one entry (`BPF_LD_IMM64` of `BPF_PSEUDO_MAP_VALUE`).
    pub fn ld_map_value(&mut self, dst: Reg, map: &Map) {
        let fd = map.as_raw_fd();
        self.insn(BPF_LD | BPF_DW | BPF_IMM, dst, Reg(BPF_PSEUDO_MAP_VALUE), 0, fd);
        self.insn(0, Reg(0), Reg(0), 0, 0);
    }

    /// Calls a helper (`BPF_EMIT_CALL`): arguments in [`R1`] to [`R5`], which it destroys, the result in [`R0`].
    pub fn call(&mut self, helper: i32) {
        self.insn(BPF_JMP | BPF_CALL, Reg(0), Reg(0), 0, helper);
    }

    /// Ends the program (`BPF_EXIT_INSN`): [`R0`] is its result.
    pub fn exit(&mut self) {
        self.insn(BPF_JMP | BPF_EXIT, Reg(0), Reg(0), 0, 0);
    }

    /// A label that is placed later.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// What is written next is where `label` is.
    pub fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.insns.len());
    }

    /// A label for what is written next.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.place(label);
        label
    }

    /// The program.
    ///
    /// # Panics
    ///
    /// If a jump leads to a label that was never placed, or too far: a fault of who wrote it.
    pub fn finish(mut self) -> Vec<Insn> {
        for (jump, label) in self.jumps {
            let place = self.places[label.0].expect("every label is placed");
            let off = place as isize - jump as isize - 1;
            self.insns[jump].off = i16::try_from(off).expect("jumps are short");
        }
        self.insns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_codes_of_the_kernels_macros() {
        let mut asm = Assembler::new();
        asm.mov64_imm(R0, -22);
        asm.mov64_reg(R6, R1);
        asm.add64_reg(R2, R7);
        asm.and64_imm(R2, 63);
        asm.ldx_w(R9, R8, 4);
        asm.call(BPF_FUNC_SKB_STORE_BYTES);
        asm.exit();
        let codes: Vec<_> = asm.finish().iter().map(|i| (i.code, i.regs, i.off, i.imm)).collect();
        let expected = [
            (0xb7, 0x00, 0, -22),
            (0xbf, 0x16, 0, 0),
            (0x0f, 0x72, 0, 0),
            (0x57, 0x02, 0, 63),
            (0x61, 0x89, 4, 0),
            (0x85, 0x00, 0, 9),
            (0x95, 0x00, 0, 0),
        ];
        assert_eq!(codes, expected);
    }

    #[test]
    fn jumps_lead_to_their_labels_forwards_and_backwards() {
        let mut asm = Assembler::new();
        let again = asm.here();
        let out = asm.label();
        asm.jge_imm(R7, 5, out);
        asm.add64_imm(R7, 1);
        asm.jlt_reg(R7, R1, again);
        asm.place(out);
        asm.exit();
        let jumps: Vec<_> = asm.finish().iter().map(|i| (i.code, i.off)).collect();
        assert_eq!(jumps, [(0x35, 2), (0x07, 0), (0xad, -3), (0x95, 0)]);
    }

    #[test]
    #[should_panic(expected = "every label is placed")]
    fn a_jump_to_nowhere_is_found_before_it_is_loaded() {
        let mut asm = Assembler::new();
        let nowhere = asm.label();
        asm.jeq_imm(R0, 0, nowhere);
        asm.finish();
    }
}
