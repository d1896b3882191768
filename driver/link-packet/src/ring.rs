//! The receive ring: slots of memory shared with the kernel.
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

/// The mapped ring of a packet socket.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    bytes: usize,
    slot_bytes: usize,
    slots: usize,
    next: usize,
    /// Whether the kernel said that it lost frames.
    pub(crate) losing: bool,
}

// SAFETY: the ring is memory of this process and the kernel; it has no affinity to a thread.
unsafe impl Send for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `Ring::map`, and no frame borrowed from the ring outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

impl Ring {
    /// Gives `socket` a ring of at least `slots` slots for frames of up to `frame_bytes`.
    pub(crate) fn map(socket: &OwnedFd, slots: usize, frame_bytes: usize) -> io::Result<Self> {
        let slot_bytes = (frame_bytes + libc::TPACKET2_HDRLEN + 64).next_power_of_two().max(2048);
        let block_bytes = slot_bytes.max(64 * 1024);
        let blocks = (slots * slot_bytes).div_ceil(block_bytes);
        let bytes = blocks * block_bytes;
        let slots = bytes / slot_bytes;
        let request = libc::tpacket_req {
            tp_block_size: block_bytes as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: slot_bytes as u32,
            tp_frame_nr: slots as u32,
        };
        let version: libc::c_int = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set_option(socket, libc::PACKET_VERSION, &version)?;
        set_option(socket, libc::PACKET_RX_RING, &request)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let base =
            unsafe { mmap(std::ptr::null_mut(), bytes, rights, MapFlags::SHARED, socket, 0)? };
        let base = NonNull::new(base.cast()).expect("mmap never returns null on success");
        Ok(Self { base, bytes, slot_bytes, slots, next: 0, losing: false })
    }

    /// Hands up to `budget` frames to `sink`, with the kernel's time of their arrival on the realtime
    /// clock in nanoseconds; returns how many.
    pub(crate) fn poll(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>, u64)) -> usize {
        for count in 0..budget {
            let slot = self.base.as_ptr().wrapping_add(self.next * self.slot_bytes);
            // SAFETY: the first word of every slot is its status, aligned and only ever accessed
            // as a whole by both sides; the ring is mapped as long as `self` lives.
            let status = unsafe { AtomicU32::from_ptr(slot.cast()) };
            // Acquire: pairs with the kernel's release of the slot (invariant 1).
            let flags = status.load(Ordering::Acquire);
            if flags & libc::TP_STATUS_USER == 0 {
                return count;
            }
            self.losing |= flags & libc::TP_STATUS_LOSING != 0;
            // SAFETY: the slot is ours (invariant 1) and begins with this structure.
            let header = unsafe { slot.cast::<libc::tpacket2_hdr>().read() };
            let (start, length) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
            if start + length <= self.slot_bytes {
                // SAFETY: inside the slot, which is ours until the status is written below; the
                // borrow ends with the call of `sink`.
                let frame = unsafe { std::slice::from_raw_parts(slot.wrapping_add(start), length) };
                let stamp_ns = u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec);
                let arrival = Arrival {
                    missing: header.tp_len.saturating_sub(header.tp_snaplen),
                    frame,
                    vlan: (flags & libc::TP_STATUS_VLAN_VALID != 0).then_some(header.tp_vlan_tci),
                    checksum: if flags & libc::TP_STATUS_CSUMNOTREADY != 0 {
                        Checksum::Partial
                    } else if flags & libc::TP_STATUS_CSUM_VALID != 0 {
                        Checksum::Verified
                    } else {
                        Checksum::Unverified
                    },
                };
                sink(arrival, stamp_ns);
            }
            // Release: our reads of the slot come before the kernel's next write.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = if self.next + 1 == self.slots { 0 } else { self.next + 1 };
        }
        budget
    }
}
