//! Sending in bulk: many frames in one pass of the kernel, by a program of ours inside it (`bpf(2)`).
//!
//! On an interface without a queue (veth, bridge, tunnel), to send a frame is to have it received: the kernel
//! takes each frame that a packet socket sends through the receiver's stack, wake-up included, before it looks
//! at the next one. While a program runs, that waits. So frames lie in memory that is shared with a program,
//! and one system call runs it (`BPF_PROG_TEST_RUN`): it sends them through the interface's ordinary path
//! (`bpf_clone_redirect`: filters and taps see them), and then the receiver has them all together.
//!
//! # Invariants
//!
//! 1. The program only reads the memory, and only while [`Bulk::send`] runs it. Nobody else has the memory.
//! 2. The program sends at most [`SLOTS`] frames, each whole, and ends at the first that does not leave.
//!
//! # Cost
//!
//! A frame costs half of what it costs as a message of a socket, though it is copied twice more. A run costs
//! what some three messages do, whence [`WORTH`].
//!
//! # Rights
//!
//! Loading takes `CAP_BPF` and `CAP_NET_ADMIN` in the initial user namespace; running takes none since
//! Linux 5.19. Who lacks them sends by the socket.

use std::io;
use std::ptr::NonNull;

use driver_bpf::{Map, Program};
use driver_filter::Checked;
use rbuf_channel::Data;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::program;

/// Frames in a run at most.
pub(crate) const SLOTS: usize = 64;

/// Fewer frames than this are cheaper as messages of a socket.
pub(crate) const WORTH: usize = 4;

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// So many frames were sent.
    pub(crate) sent: usize,
    /// Why the next one was not.
    pub(crate) obstacle: Option<Obstacle>,
}

/// Why a frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There is no room now.
    Full,
    /// It will never leave: the interface is down, or the frame too long for it or for the other end.
    Refused,
}

/// A program and the memory it shares with us.
#[derive(Debug)]
pub(crate) struct Bulk {
    base: NonNull<u8>,
    shape: program::Shape,
    program: Program,
}

// SAFETY: the memory is of this process and the program; it has no affinity to a thread.
unsafe impl Send for Bulk {}

impl Drop for Bulk {
    fn drop(&mut self) {
        // SAFETY: mapped by `Bulk::open`, and no slot borrowed from it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.shape.bytes()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

impl Bulk {
    /// Makes the memory and loads the program, for frames of up to `frame_bytes` through interface `index`.
    ///
    /// # Errors
    ///
    /// `EPERM` without the rights; others where the kernel knows less.
    pub(crate) fn open(index: u32, frame_bytes: usize) -> io::Result<Self> {
        let shape = program::Shape { slots: SLOTS, frame_bytes };
        let map = Map::one_value(shape.bytes())?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            mmap(std::ptr::null_mut(), shape.bytes(), rights, MapFlags::SHARED, &map, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let program = Program::sched_cls(&program::program(&shape, &map, index));
        let mut bulk = match program {
            Ok(program) => Self { base, shape, program },
            Err(error) => {
                // SAFETY: mapped above and known to nobody.
                let _ = unsafe { munmap(base.as_ptr().cast(), shape.bytes()) };
                return Err(io::Error::other(error));
            }
        };
        bulk.run(0, 0)?;
        Ok(bulk)
    }

    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has as many bytes and lives as long as `self`; `&mut self` and invariant 1 make
        // this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.shape.bytes()) }
    }

    /// Copies a frame to slot `index`; `None` if it is too long.
    pub(crate) fn fill<D: Data>(&mut self, index: usize, frame: &Checked<'_, D>) -> Option<&[u8]> {
        let (length, slot) = (self.shape.length(index), self.shape.frame(index));
        let memory = self.memory();
        let frame_bytes = frame.gather(&mut memory[slot.clone()])?.len();
        memory[length].copy_from_slice(&(frame_bytes as u32).to_ne_bytes());
        Some(&memory[slot][..frame_bytes])
    }

    /// Sends the frames in `count` slots from `first` on.
    ///
    /// # Errors
    ///
    /// The program cannot be run: nothing was sent, and it is better not tried again.
    pub(crate) fn send(&mut self, first: usize, count: usize) -> io::Result<Outcome> {
        Ok(outcome(self.run(first, count)?))
    }

    fn run(&mut self, first: usize, count: usize) -> io::Result<u32> {
        let orders = self.shape.orders();
        let [to_first, to_count] = [first as u32, count as u32].map(u32::to_ne_bytes);
        let memory = &mut self.memory()[orders];
        memory[..4].copy_from_slice(&to_first);
        memory[4..].copy_from_slice(&to_count);
        Ok(self.program.test_run(&program::packet())?.retval)
    }
}

/// Reads the answer of the program: how many frames were sent, and the kernel's word about the next.
fn outcome(answer: u32) -> Outcome {
    /// `NET_XMIT_CN`: it was taken, and so many are not welcome.
    const CONGESTED: i32 = 2;
    const NO_MEMORY: i32 = -libc::ENOMEM;
    const NO_ROOM: i32 = -libc::ENOBUFS;

    let sent = (answer & 0xFFFF) as usize;
    match i32::from((answer >> 16) as i16) {
        0 => Outcome { sent, obstacle: None },
        CONGESTED => Outcome { sent: sent + 1, obstacle: None },
        NO_MEMORY | NO_ROOM => Outcome { sent, obstacle: Some(Obstacle::Full) },
        _ => Outcome { sent, obstacle: Some(Obstacle::Refused) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_kernel_stops_the_run_or_does_not() {
        let full = Some(Obstacle::Full);
        let refused = Some(Obstacle::Refused);
        let answer = |sent: u32, word: i32| sent | ((word as u32) << 16);
        for (word, sent, obstacle) in [
            (0, 7, None),
            (1, 7, refused),
            (2, 8, None),
            (-libc::ENOMEM, 7, full),
            (-libc::ENOBUFS, 7, full),
            (-libc::ENETDOWN, 7, refused),
            (-libc::EINVAL, 7, refused),
        ] {
            assert_eq!(outcome(answer(7, word)), Outcome { sent, obstacle }, "{word}");
        }
    }
}
