//! The receive rings: slots of memory shared with the kernel.
//!
//! # Invariants
//!
//! 1. A slot belongs to whom its status word says: the kernel writes it while the status is
//!    `TP_STATUS_KERNEL`, we read it while the bit `TP_STATUS_USER` is set.
//! 2. Nobody but the kernel and this module touches the ring.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use driver_link::{Arrival, Checksum};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::socket::set_option;
use crate::vnet::{HEADER_BYTES, VirtioNetHdr};

/// What the kernel puts in front of a frame in its slot, at most: its own header, the address of the sender, and
/// what is to be done to the frame.
const SLOT_HEAD_BYTES: usize = libc::TPACKET2_HDRLEN + HEADER_BYTES + 64;

/// How many slots of what size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) slots: usize,
    pub(crate) slot_bytes: usize,
    /// Slots lie in blocks of this size, none across a border.
    pub(crate) block_bytes: usize,
}

impl Shape {
    /// At least `slots` slots for frames of up to `frame_bytes`, and somewhat more where that costs nothing.
    pub(crate) fn narrow(slots: usize, frame_bytes: usize) -> Self {
        let slot_bytes = (frame_bytes + SLOT_HEAD_BYTES).next_power_of_two().max(2048);
        Self { slots, slot_bytes, block_bytes: slot_bytes.max(64 * 1024) }
    }

    /// At least `slots` slots for frames of up to `frame_bytes`, which are no power of two: packed as tight as
    /// blocks allow.
    pub(crate) const fn wide(slots: usize, frame_bytes: usize) -> Self {
        /// Bytes to which the kernel aligns slots (`TPACKET_ALIGNMENT`).
        const ALIGNMENT: usize = 16;
        const BLOCK_BYTES: usize = 2 << 20;
        let slot_bytes = (frame_bytes + SLOT_HEAD_BYTES).next_multiple_of(ALIGNMENT);
        Self { slots, slot_bytes, block_bytes: BLOCK_BYTES }
    }

    /// Longest frame that is whole in a slot.
    pub(crate) const fn frame_bytes_max(&self) -> usize {
        self.slot_bytes - SLOT_HEAD_BYTES
    }

    const fn per_block(&self) -> usize {
        self.block_bytes / self.slot_bytes
    }

    const fn blocks(&self) -> usize {
        self.slots.div_ceil(self.per_block())
    }
}

/// The mapped ring of a packet socket.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    shape: Shape,
    /// The next slot: its block, and its place there.
    next: (usize, usize),
    /// Whether the kernel said that it lost frames.
    pub(crate) losing: bool,
}

// SAFETY: the ring is memory of this process and the kernel; it has no affinity to a thread.
unsafe impl Send for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        let bytes = self.shape.blocks() * self.shape.block_bytes;
        // SAFETY: mapped by `Ring::map`, and no frame borrowed from the ring outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

impl Ring {
    /// Gives `socket` a ring; its frames begin with what is to be done to them (`PACKET_VNET_HDR`).
    pub(crate) fn map(socket: &OwnedFd, shape: Shape) -> io::Result<Self> {
        let (blocks, slots) = (shape.blocks(), shape.blocks() * shape.per_block());
        let request = libc::tpacket_req {
            tp_block_size: shape.block_bytes as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: shape.slot_bytes as u32,
            tp_frame_nr: slots as u32,
        };
        let version: libc::c_int = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        let on: libc::c_int = 1;
        set_option(socket, libc::PACKET_VERSION, &version)?;
        set_option(socket, libc::PACKET_VNET_HDR, &on)?;
        set_option(socket, libc::PACKET_RX_RING, &request)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = blocks * shape.block_bytes;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let base =
            unsafe { mmap(std::ptr::null_mut(), bytes, rights, MapFlags::SHARED, socket, 0)? };
        let base = NonNull::new(base.cast()).expect("mmap never returns null on success");
        Ok(Self { base, shape, next: (0, 0), losing: false })
    }

    /// The next slot, and its status.
    fn slot(&self) -> (*mut u8, &AtomicU32) {
        let (block, place) = self.next;
        let at = block * self.shape.block_bytes + place * self.shape.slot_bytes;
        let slot = self.base.as_ptr().wrapping_add(at);
        // SAFETY: the first word of every slot is its status, aligned and only ever accessed as a whole by both
        // sides; the ring is mapped as long as `self` lives.
        (slot, unsafe { AtomicU32::from_ptr(slot.cast()) })
    }

    /// When the next frame arrived, by the kernel's realtime clock in nanoseconds; `None` if there is none yet.
    pub(crate) fn next_stamp(&self) -> Option<u64> {
        let (slot, status) = self.slot();
        // Acquire: pairs with the kernel's release of the slot (invariant 1).
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot is ours (invariant 1) and begins with this structure.
        let header = unsafe { slot.cast::<libc::tpacket2_hdr>().read() };
        Some(stamp_ns(&header))
    }

    /// Hands the next frame to `sink`, with the time of its arrival; how many frames it is, none if there is none
    /// yet.
    pub(crate) fn take(&mut self, sink: &mut impl FnMut(Arrival<'_>, u64)) -> usize {
        let (slot, status) = self.slot();
        // Acquire: pairs with the kernel's release of the slot (invariant 1).
        let flags = status.load(Ordering::Acquire);
        if flags & libc::TP_STATUS_USER == 0 {
            return 0;
        }
        let mut count = 1;
        // SAFETY: the slot is ours (invariant 1) and begins with this structure.
        let header = unsafe { slot.cast::<libc::tpacket2_hdr>().read() };
        let (start, length) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        let inside = start >= size_of::<libc::tpacket2_hdr>() + HEADER_BYTES
            && start.saturating_add(length) <= self.shape.slot_bytes;
        if inside {
            // SAFETY: inside the slot, which is ours until the status is written below; the borrow ends with
            // the call of `sink`.
            let bytes = unsafe {
                let at = slot.wrapping_add(start - HEADER_BYTES);
                std::slice::from_raw_parts(at, HEADER_BYTES + length)
            };
            let (vnet_hdr, frame) = bytes.split_at(HEADER_BYTES);
            let vnet_hdr = VirtioNetHdr::read(vnet_hdr);
            let arrival = Arrival {
                missing: header.tp_len.saturating_sub(header.tp_snaplen),
                frame,
                vlan: (flags & libc::TP_STATUS_VLAN_VALID != 0).then_some(header.tp_vlan_tci),
                checksum: match vnet_hdr.checksum() {
                    Checksum::Unverified if flags & libc::TP_STATUS_CSUM_VALID != 0 => {
                        Checksum::Verified
                    }
                    checksum => checksum,
                },
                merged: vnet_hdr.merged(),
            };
            count = arrival.frames();
            sink(arrival, stamp_ns(&header));
        }
        // Release: our reads of the slot come before the kernel's next write.
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.losing |= flags & libc::TP_STATUS_LOSING != 0;
        let (block, place) = self.next;
        self.next = if place + 1 < self.shape.per_block() {
            (block, place + 1)
        } else if block + 1 < self.shape.blocks() {
            (block + 1, 0)
        } else {
            (0, 0)
        };
        count
    }
}

const fn stamp_ns(header: &libc::tpacket2_hdr) -> u64 {
    header.tp_sec as u64 * 1_000_000_000 + header.tp_nsec as u64
}
