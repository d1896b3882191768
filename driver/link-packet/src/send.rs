//! Batched sending: many frames in one system call, payload in place.

use std::os::fd::{AsRawFd, OwnedFd};

use driver_filter::{Checked, HEADER_BYTES_MAX};
use rbuf_channel::{Data, Hold, PAIRS_MAX};

/// Frames in a batch.
pub(crate) const BATCH: usize = 64;

/// Pieces of a frame: what is to be done to it, its header and its payload ranges.
const PIECES: usize = 2 + PAIRS_MAX;

/// What the kernel is to do to a frame (`struct virtio_net_hdr`, in the machine's own byte order).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Todo {
    flags: u8,
    gso_type: u8,
    header_bytes: u16,
    segment_bytes: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

const NEEDS_CHECKSUM: u8 = 1;
const CUT_TCP4: u8 = 1;

/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: u16 = 16;

impl Todo {
    fn of<D: Data>(frame: &Checked<'_, D>) -> Self {
        let Some(cut) = frame.segmentation() else { return Self::default() };
        Self {
            flags: NEEDS_CHECKSUM,
            gso_type: CUT_TCP4,
            header_bytes: frame.header().len() as u16,
            segment_bytes: cut.segment_bytes,
            checksum_start: cut.transport_at,
            checksum_offset: TCP_CHECKSUM,
        }
    }
}

/// Frames accepted and not yet sent.
///
/// # Invariants
///
/// 1. Messages `0..queued` point to their own entries in the boxes below, which never move.
/// 2. The pieces of queued frames point into memory that a [`Hold`] in `holds` keeps mapped.
pub(crate) struct Batch {
    /// Whether the socket expects to be told what is to be done to frames.
    told: bool,
    todos: Box<[Todo; BATCH]>,
    headers: Box<[[u8; HEADER_BYTES_MAX]; BATCH]>,
    pieces: Box<[[libc::iovec; PIECES]; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
    /// Frames accepted.
    queued: usize,
    /// Of these, frames the kernel has dealt with.
    done: usize,
    /// Which of the frames dealt with the kernel refused.
    refused: u64,
    holds: Vec<(usize, Hold)>,
}

// SAFETY: the raw pointers lead to the boxes and to memory kept by `holds`, neither of which has
// an affinity to a thread.
unsafe impl Send for Batch {}

const EMPTY_PIECE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

impl Batch {
    pub(crate) fn new(told: bool) -> Self {
        // SAFETY: `mmsghdr` is plain data for which zero means "nothing".
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            told,
            todos: Box::new([Todo::default(); BATCH]),
            headers: Box::new([[0; HEADER_BYTES_MAX]; BATCH]),
            pieces: Box::new([[EMPTY_PIECE; PIECES]; BATCH]),
            messages: Box::new([message; BATCH]),
            queued: 0,
            done: 0,
            refused: 0,
            holds: Vec::with_capacity(BATCH),
        }
    }

    pub(crate) const fn room(&self) -> usize {
        BATCH - self.queued
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.done == self.queued
    }

    pub(crate) fn push<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool {
        if self.room() == 0 {
            return false;
        }
        let index = self.queued;
        let header = frame.header();
        self.headers[index][..header.len()].copy_from_slice(header);
        let pieces = &mut self.pieces[index];
        let mut count = 0;
        if self.told {
            self.todos[index] = Todo::of(frame);
            pieces[0] = libc::iovec {
                iov_base: (&raw mut self.todos[index]).cast(),
                iov_len: size_of::<Todo>(),
            };
            count = 1;
        }
        pieces[count] = libc::iovec {
            iov_base: self.headers[index].as_mut_ptr().cast(),
            iov_len: header.len(),
        };
        count += 1;
        for pair in frame.payload() {
            let cells = frame.data().cells(pair.offset, pair.len);
            pieces[count] =
                libc::iovec { iov_base: cells.as_ptr().cast_mut().cast(), iov_len: cells.len() };
            count += 1;
        }
        let memory = frame.data().memory();
        if self.holds.last().is_none_or(|(last, _)| *last != memory) {
            self.holds.push((memory, frame.data().hold()));
        }
        let message = &mut self.messages[index].msg_hdr;
        message.msg_iov = pieces.as_mut_ptr();
        message.msg_iovlen = count;
        self.queued += 1;
        true
    }

    /// Hands queued frames to the kernel; those it has no room for stay.
    pub(crate) fn flush(&mut self, socket: &OwnedFd) {
        while self.done < self.queued {
            let first = self.messages[self.done..].as_mut_ptr();
            let count = (self.queued - self.done) as libc::c_uint;
            // SAFETY: `count` messages from `first` on are valid (invariants 1 and 2); the kernel
            // only reads what they point to.
            let sent =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), first, count, libc::MSG_DONTWAIT) };
            if sent > 0 {
                self.done += sent as usize;
                continue;
            }
            match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOBUFS) => return,
                // This frame will never leave: the interface is down or the frame too long for it.
                _ => {
                    self.refused |= 1 << self.done;
                    self.done += 1;
                }
            }
        }
    }

    pub(crate) fn complete(&mut self, done: &mut impl FnMut(bool)) {
        if self.done < self.queued {
            // What is left moves to the front only when all is gone: a full device is rare, and
            // until then nothing is reported, so the order stays.
            return;
        }
        for index in 0..self.done {
            done(self.refused & (1 << index) == 0);
        }
        (self.queued, self.done, self.refused) = (0, 0, 0);
        self.holds.clear();
    }
}

const _: () = assert!(BATCH <= u64::BITS as usize, "one bit per frame");
