//! Programs for the kernel: an assembler of BPF, and the commands of `bpf(2)` that load and run them.
//!
//! Names are those of the UAPI (`linux/bpf.h`) and of the kernel's own macros: `BPF_MOV64_IMM` is
//! [`Assembler::mov64_imm`]. A program is written down in Rust, so nothing but a Rust compiler is needed to build it, and
//! whatever it shares with its user (layouts, limits) is a constant of both.
//!
//! # Invariants
//!
//! 1. What is loaded was assembled here or by a crate of this project; the kernel's verifier decides whether it may run.
//! 2. A program that is refused is refused with the verifier's log ([`LoadError`]).
//!
//! # Not here
//!
//! Which programs there are: `driver/link-packet` has one, which sends in bulk.

mod asm;
mod sys;

pub use asm::{
    Assembler, BPF_FUNC_CLONE_REDIRECT, BPF_FUNC_SKB_CHANGE_TAIL, BPF_FUNC_SKB_STORE_BYTES, Insn,
    Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Reg,
};
pub use sys::{LoadError, Map, Program, TestRun};
