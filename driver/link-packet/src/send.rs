//! Batched sending: many frames in one system call.
//!
//! Frames leave in the order in which they were accepted. Those that a [`Bulk`] can take are copied to it at
//! once; a stretch of such frames that is long enough leaves through it, everything else through the socket,
//! payload in place.

use std::os::fd::{AsRawFd, OwnedFd};

use base_wire::{ETHERNET_BYTES, EtherType};
use driver_filter::{Checked, HEADER_BYTES_MAX};
use rbuf_channel::{Data, Hold, PAIRS_MAX};

use crate::bulk::{Bulk, Obstacle, SLOTS, WORTH};
use crate::vnet::{HEADER_BYTES, VirtioNetHdr};

/// Frames in a batch.
pub(crate) const BATCH: usize = SLOTS;

/// Pieces of a frame: what is to be done to it, its header and its payload ranges.
const PIECES: usize = 2 + PAIRS_MAX;

/// How the next frames leave, and how many.
enum Stretch {
    Bulk(usize),
    Messages(usize),
}

/// Whether nothing is to be done to the frame, and it is of the protocol that a [`Bulk`] takes.
fn is_plain<D: Data>(frame: &Checked<'_, D>) -> bool {
    let kind = frame.header().get(ETHERNET_BYTES - size_of::<EtherType>()..ETHERNET_BYTES);
    frame.segmentation().is_none() && kind == Some(&EtherType::IPV4.0.to_bytes()[..])
}

/// Frames accepted and not yet sent.
///
/// # Invariants
///
/// 1. Messages `0..queued` point to their own entries in the boxes below, which never move.
/// 2. The pieces of queued frames point into memory that a [`Hold`] in `holds` keeps mapped, or into the
///    slots of `bulk`.
pub(crate) struct Batch {
    /// Whether the socket expects to be told what is to be done to frames.
    told: bool,
    /// Whether frames can wait in the interface; if not, what it does not take now it never will.
    has_queue: bool,
    bulk: Option<Bulk>,
    /// Which frames are in slots of `bulk`, under the same index.
    in_slots: u64,
    /// Whether running the program was refused.
    bulk_failed: bool,
    vnet_hdrs: Box<[VirtioNetHdr; BATCH]>,
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
    pub(crate) fn new(told: bool, has_queue: bool, bulk: Option<Bulk>) -> Self {
        // SAFETY: `mmsghdr` is plain data for which zero means "nothing".
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            told,
            has_queue,
            bulk,
            in_slots: 0,
            bulk_failed: false,
            vnet_hdrs: Box::new([VirtioNetHdr::default(); BATCH]),
            headers: Box::new([[0; HEADER_BYTES_MAX]; BATCH]),
            pieces: Box::new([[EMPTY_PIECE; PIECES]; BATCH]),
            messages: Box::new([message; BATCH]),
            queued: 0,
            done: 0,
            refused: 0,
            holds: Vec::with_capacity(BATCH),
        }
    }

    pub(crate) const fn sends_in_bulk(&self) -> bool {
        self.bulk.is_some() && !self.bulk_failed
    }

    /// Whether what is to be done to a frame stands in front of it.
    pub(crate) const fn is_told(&self) -> bool {
        self.told
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
        let pieces = &mut self.pieces[index];
        let mut count = 0;
        if self.told {
            self.vnet_hdrs[index] = VirtioNetHdr::of(frame);
            pieces[0] = libc::iovec {
                iov_base: (&raw mut self.vnet_hdrs[index]).cast(),
                iov_len: HEADER_BYTES,
            };
            count = 1;
        }
        let slot = match &mut self.bulk {
            Some(bulk) if !self.bulk_failed && is_plain(frame) => bulk.fill(index, frame),
            _ => None,
        };
        if let Some(slot) = slot {
            self.in_slots |= 1 << index;
            pieces[count] =
                libc::iovec { iov_base: slot.as_ptr().cast_mut().cast(), iov_len: slot.len() };
            count += 1;
        } else {
            self.headers[index][..header.len()].copy_from_slice(header);
            pieces[count] = libc::iovec {
                iov_base: self.headers[index].as_mut_ptr().cast(),
                iov_len: header.len(),
            };
            count += 1;
            for pair in frame.payload() {
                let cells = frame.data().cells(pair.offset, pair.len);
                pieces[count] = libc::iovec {
                    iov_base: cells.as_ptr().cast_mut().cast(),
                    iov_len: cells.len(),
                };
                count += 1;
            }
            let memory = frame.data().memory();
            if self.holds.last().is_none_or(|(last, _)| *last != memory) {
                self.holds.push((memory, frame.data().hold()));
            }
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
            let obstacle = match self.stretch() {
                Stretch::Bulk(count) => self.send_in_bulk(socket, count),
                Stretch::Messages(count) => self.send_messages(socket, count),
            };
            match obstacle {
                None => {}
                Some(Obstacle::Full) => return,
                Some(Obstacle::Refused) => {
                    self.refused |= 1 << self.done;
                    self.done += 1;
                }
            }
        }
    }

    /// The next frames that leave in the same way.
    fn stretch(&self) -> Stretch {
        let ways = if self.bulk_failed { 0 } else { self.in_slots };
        let bulk_from = |index: usize| (ways >> index).trailing_ones() as usize;
        let count = bulk_from(self.done);
        if count >= WORTH {
            return Stretch::Bulk(count);
        }
        let next = (self.done + 1..self.queued).find(|&index| bulk_from(index) >= WORTH);
        Stretch::Messages(next.unwrap_or(self.queued) - self.done)
    }

    fn send_in_bulk(&mut self, socket: &OwnedFd, count: usize) -> Option<Obstacle> {
        let outcome = self.bulk.as_mut().map(|bulk| bulk.send(self.done, count));
        match outcome {
            Some(Ok(outcome)) => {
                self.done += outcome.sent;
                outcome.obstacle
            }
            // The frames are in the slots still.
            Some(Err(error)) => {
                self.bulk_failed = error.raw_os_error() != Some(libc::ENOMEM);
                self.send_messages(socket, count)
            }
            None => self.send_messages(socket, count),
        }
    }

    fn send_messages(&mut self, socket: &OwnedFd, count: usize) -> Option<Obstacle> {
        let first = self.messages[self.done..][..count].as_mut_ptr();
        // SAFETY: `count` messages from `first` on are valid (invariants 1 and 2); the kernel only reads what
        // they point to.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), first, count as libc::c_uint, libc::MSG_DONTWAIT)
        };
        if sent > 0 {
            self.done += sent as usize;
            return None;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => None,
            Some(libc::EAGAIN) => Some(Obstacle::Full),
            Some(libc::ENOBUFS) if self.has_queue => Some(Obstacle::Full),
            _ => Some(Obstacle::Refused),
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
        (self.queued, self.done, self.refused, self.in_slots) = (0, 0, 0, 0);
        self.holds.clear();
    }
}

const _: () = assert!(BATCH <= u64::BITS as usize, "one bit per frame");
