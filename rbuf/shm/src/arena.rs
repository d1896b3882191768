//! Arenas: memory that two domains share, with each side's rights.
//!
//! The driver makes all of them, because memory of a stranger's making would be a descriptor of a
//! stranger's choosing: what happens when it is looked at or closed is up to whoever chose it. What only
//! the driver writes it seals so that nobody can map it writable again; what the domain writes the domain
//! seals, when it has mapped it. An arena that is sealed so cannot have holes either: who touches a page waits for
//! nobody who punches one out, which takes as long as an arena is large. An arena has its full size from
//! the start, and can neither shrink nor grow: pages cost memory once they are touched, pointers
//! stay valid, and a flow costs no mapping of its own.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64};

use rbuf_channel::{Data, Hold};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate,
    memfd_create,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::copy;

/// What this side may do with an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only look.
    Read,
    /// Look and write.
    Write,
}

/// Why an arena could not be made or accepted.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel refused.
    #[error("{call}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The descriptor is not a memfd, or can shrink under our mapping.
    #[error("descriptor is not a memfd sealed against shrinking")]
    NotSealed,
    /// The memory is not ordinary pages.
    #[error("descriptor is not a memfd of ordinary pages")]
    NotOrdinary,
    /// The file is larger than may be mapped.
    #[error("arena of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file is empty, or not a whole number of words.
    #[error("arena of {bytes} bytes is not a positive multiple of 64")]
    Size {
        /// Its size.
        bytes: u64,
    },
}

/// Type of the file system that memfds of ordinary pages are on (`linux/magic.h`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

fn os(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> ArenaError {
    move |errno| ArenaError::Os { call, source: errno.into() }
}

/// A range of mapped pages; unmapped when the last user is gone.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    writable: bool,
}

// SAFETY: the mapping is plain memory, reachable from any thread; every access through this crate
// is atomic, or a copy made by machine instructions the compiler knows nothing about.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `Arena::map` and every view of it holds this `Mapping`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

/// Memory shared with another domain.
#[derive(Debug)]
pub struct Arena {
    file: OwnedFd,
    mapping: Arc<Mapping>,
}

impl Arena {
    /// Creates an arena of `bytes`, rounded up to pages, in which this side may do `ours`, and `others`
    /// what they may.
    ///
    /// With [`Access::Read`] for the `others`, nobody but this mapping can ever write it. With [`Access::Write`]
    /// they are to [close](Self::close) it when they have mapped it.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Os`]: out of memory, descriptors or address space.
    pub fn create(
        name: &str,
        bytes: u64,
        ours: Access,
        others: Access,
    ) -> Result<Self, ArenaError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know NOEXEC_SEAL; ours refuse executable memfds by policy.
        let file = memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create(name, flags))
            .map_err(os("memfd_create"))?;
        let bytes = page_ceil(bytes);
        ftruncate(&file, bytes).map_err(os("ftruncate"))?;
        let mapping = Self::map(&file, bytes, ours)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW;
        fcntl_add_seals(&file, seals).map_err(os("fcntl(F_ADD_SEALS)"))?;
        let arena = Self { file, mapping };
        if others == Access::Read {
            arena.close()?;
        }
        Ok(arena)
    }

    /// Lets nobody map it writable any more, nor punch holes into it; those who have mapped it go on.
    ///
    /// May wait for who is just punching one.
    ///
    /// # Errors
    ///
    /// [`ArenaError::Os`]: somebody has sealed it otherwise.
    pub fn close(&self) -> Result<(), ArenaError> {
        fcntl_add_seals(&self.file, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
            .map_err(os("fcntl(F_ADD_SEALS)"))
    }

    /// Whether it is [closed](Self::close). Never waits.
    pub fn is_closed(&self) -> bool {
        fcntl_get_seals(&self.file).is_ok_and(|seals| seals.contains(SealFlags::FUTURE_WRITE))
    }

    /// Maps an arena of up to `bytes_max` that a domain one trusts has created: the driver, for an
    /// application. It is looked at again because they may be of different releases.
    ///
    /// # Errors
    ///
    /// What is wrong with the descriptor; it is the peer's fault unless it is [`ArenaError::Os`].
    pub fn open(file: OwnedFd, access: Access, bytes_max: u64) -> Result<Self, ArenaError> {
        let seals = fcntl_get_seals(&file).map_err(|_| ArenaError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(ArenaError::NotSealed);
        }
        // Huge pages can run out when they are touched, which would kill us.
        if fstatfs(&file).map_err(os("fstatfs"))?.f_type as u64 != TMPFS_MAGIC {
            return Err(ArenaError::NotOrdinary);
        }
        let bytes = fstat(&file).map_err(os("fstat"))?.st_size as u64;
        if bytes == 0 || !bytes.is_multiple_of(64) {
            return Err(ArenaError::Size { bytes });
        }
        let limit = page_ceil(bytes_max);
        if bytes > limit {
            return Err(ArenaError::TooLarge { bytes, limit });
        }
        let mapping = Self::map(&file, bytes, access)?;
        Ok(Self { file, mapping })
    }

    fn map(file: &OwnedFd, bytes: u64, access: Access) -> Result<Arc<Mapping>, ArenaError> {
        let bytes = usize::try_from(bytes)
            .map_err(|_| ArenaError::TooLarge { bytes, limit: usize::MAX as u64 })?;
        let writable = access == Access::Write;
        let rights = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, rights, flags, file, 0) }
            .map_err(os("mmap"))?;
        let base = NonNull::new(base.cast()).expect("mmap never returns null on success");
        Ok(Arc::new(Mapping { base, bytes, writable }))
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes as u64
    }

    /// Whether parts of the mapping are still in use besides this.
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.mapping) > 1
    }

    /// The file, to be sent to the other domain.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The `count` words from byte `offset` on; `None` unless `offset` is a multiple of 64 and all
    /// of them exist.
    pub fn words(&self, offset: u64, count: usize) -> Option<ShmWords> {
        let base = self.range(offset, (count as u64).checked_mul(8)?)?;
        Some(ShmWords { _mapping: Arc::clone(&self.mapping), base: base.cast(), count })
    }

    /// The `bytes` from byte `offset` on as a data area; `None` unless `offset` is a multiple of
    /// 64 and all of them exist.
    pub fn data(&self, offset: u64, bytes: u32) -> Option<ShmData> {
        let base = self.range(offset, bytes.into())?;
        Some(ShmData { mapping: Arc::clone(&self.mapping), base, bytes })
    }

    fn range(&self, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        if !offset.is_multiple_of(64) || end > self.bytes() {
            return None;
        }
        // SAFETY: `offset <= end <= bytes`, so the result points into the mapping or
        // one past its end.
        Some(unsafe { self.mapping.base.add(offset as usize) })
    }
}

/// Memory that is held for a file: pages that somebody has touched, as the kernel counts them. Never waits.
pub fn held_bytes(file: impl AsFd) -> u64 {
    // In units of 512 bytes, whatever the size of a page.
    fstat(file).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
}

fn page_ceil(bytes: u64) -> u64 {
    let page = rustix::param::page_size() as u64;
    bytes.max(1).div_ceil(page).saturating_mul(page)
}

/// Words of an arena.
#[derive(Debug, Clone)]
pub struct ShmWords {
    _mapping: Arc<Mapping>,
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: a view of a `Mapping`, which is `Send` and `Sync`.
unsafe impl Send for ShmWords {}
// SAFETY: as above.
unsafe impl Sync for ShmWords {}

impl Deref for ShmWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `Arena::words` checked that the range exists and is aligned; the file cannot
        // shrink (invariant 1) and `_mapping` keeps it mapped. Everyone touches it through atomics,
        // which permit concurrent change. A store to a read-only view would trap, not corrupt.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

/// A data area of an arena.
#[derive(Debug, Clone)]
pub struct ShmData {
    mapping: Arc<Mapping>,
    base: NonNull<u8>,
    bytes: u32,
}

// SAFETY: a view of a `Mapping`, which is `Send` and `Sync`.
unsafe impl Send for ShmData {}
// SAFETY: as above.
unsafe impl Sync for ShmData {}

impl ShmData {
    fn at(&self, offset: u32, bytes: usize) -> Option<NonNull<u8>> {
        if offset as usize + bytes > self.bytes as usize {
            return None;
        }
        // SAFETY: inside the area, which `Arena::data` checked to be inside the mapping.
        Some(unsafe { self.base.add(offset as usize) })
    }
}

impl Data for ShmData {
    fn bytes(&self) -> u32 {
        self.bytes
    }

    fn cells(&self, offset: u32, len: u32) -> &[AtomicU8] {
        let Some(base) = self.at(offset, len as usize) else { return &[] };
        // SAFETY: inside the area; bytes that anyone may change at any time are what `AtomicU8` is
        // for, and `self` keeps the mapping.
        unsafe { std::slice::from_raw_parts(base.cast().as_ptr(), len as usize) }
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> bool {
        let Some(from) = self.at(offset, out.len()) else { return false };
        // SAFETY: `from` is readable for the whole length, and `out` is ours alone.
        unsafe { copy::volatile(out.as_mut_ptr(), from.as_ptr(), out.len()) };
        true
    }

    fn write(&self, offset: u32, bytes: &[u8]) -> bool {
        let Some(to) = self.at(offset, bytes.len()) else { return false };
        if !self.mapping.writable {
            return false;
        }
        // SAFETY: `to` is writable for the whole length, and `bytes` is ours.
        unsafe { copy::volatile(to.as_ptr(), bytes.as_ptr(), bytes.len()) };
        true
    }

    fn hold(&self) -> Hold {
        Arc::<Mapping>::clone(&self.mapping)
    }

    fn memory(&self) -> usize {
        Arc::as_ptr(&self.mapping).addr()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    fn both(others: Access) -> (Arena, Arena) {
        let ours = Arena::create("test", 4096, Access::Write, others).unwrap();
        let file = ours.file().try_clone_to_owned().unwrap();
        let theirs = Arena::open(file, others, 1 << 20).unwrap();
        (ours, theirs)
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (ours, theirs) = both(Access::Read);
        let data = ours.data(64, 2000).unwrap();
        for len in [0, 1, 7, 8, 63, 64, 200, 1500] {
            let sent: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            assert!(data.write(3, &sent));
            let mut received = vec![0; len];
            assert!(theirs.data(64, 2000).unwrap().read(3, &mut received));
            assert_eq!(received, sent);
        }
        ours.words(0, 8).unwrap()[1].store(42, Ordering::Relaxed);
        assert_eq!(theirs.words(0, 8).unwrap()[1].load(Ordering::Relaxed), 42);
    }

    #[test]
    fn pages_are_held_when_they_are_touched_by_either_side_and_not_before() {
        let page = rustix::param::page_size() as u32;
        let ours =
            Arena::create("test", 64 * u64::from(page), Access::Write, Access::Read).unwrap();
        assert_eq!(held_bytes(ours.file()), 0);
        let data = ours.data(0, 64 * page).unwrap();
        for (index, offset) in [0, 1, 2 * page, 63 * page].into_iter().enumerate() {
            assert!(data.write(offset, &[1]));
            let touched = [1, 1, 2, 3][index];
            assert_eq!(held_bytes(ours.file()), touched * u64::from(page));
        }
        let theirs = Arena::open(
            ours.file().try_clone_to_owned().unwrap(),
            Access::Read,
            64 * u64::from(page),
        );
        assert!(theirs.unwrap().data(0, 64 * page).unwrap().read(5 * page, &mut [0]));
        assert_eq!(held_bytes(ours.file()), 4 * u64::from(page), "reading touches a page, too");
    }

    #[test]
    fn nothing_outside_an_area_can_be_touched() {
        let (ours, theirs) = both(Access::Write);
        let data = ours.data(0, 100).unwrap();
        assert!(!data.write(1, &[0; 100]) && !data.read(u32::MAX, &mut [0; 8]));
        assert!(data.cells(99, 2).is_empty() && data.cells(99, 1).len() == 1);
        assert!(theirs.data(4096, 1).is_none() && theirs.data(8, 8).is_none());
        assert!(theirs.words(u64::MAX - 63, 8).is_none() && theirs.words(4096 - 64, 9).is_none());
    }

    #[test]
    fn an_arena_for_readers_can_be_mapped_writable_by_nobody() {
        let ours = Arena::create("test", 4096, Access::Write, Access::Read).unwrap();
        let file = ours.file().try_clone_to_owned().unwrap();
        assert!(matches!(
            Arena::open(file, Access::Write, 4096),
            Err(ArenaError::Os { call: "mmap", .. })
        ));
        let file = ours.file().try_clone_to_owned().unwrap();
        let theirs = Arena::open(file, Access::Read, 4096).unwrap();
        assert!(!theirs.data(0, 64).unwrap().write(0, &[1]));
    }

    #[test]
    fn an_arena_that_is_closed_has_no_holes_and_who_has_mapped_it_writes_on() {
        use rustix::fs::{FallocateFlags, fallocate};
        let (ours, theirs) = both(Access::Write);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert!(theirs.data(0, 64).unwrap().write(0, b"kept"));
        assert!(!ours.is_closed());
        theirs.close().unwrap();
        assert!(ours.is_closed());
        assert_eq!(fallocate(theirs.file(), hole, 0, 4096), Err(rustix::io::Errno::PERM));
        let mut seen = [0; 4];
        assert!(ours.data(0, 64).unwrap().read(0, &mut seen) && &seen == b"kept");
        assert!(theirs.data(0, 64).unwrap().write(0, b"more"));
        assert!(ours.data(0, 64).unwrap().read(0, &mut seen) && &seen == b"more");
        let file = ours.file().try_clone_to_owned().unwrap();
        assert!(matches!(
            Arena::open(file, Access::Write, 4096),
            Err(ArenaError::Os { call: "mmap", .. })
        ));
        let made = Arena::create("test", 4096, Access::Write, Access::Read).unwrap();
        assert!(made.is_closed() && fallocate(made.file(), hole, 0, 4096).is_err());
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, 4096).unwrap();
        assert!(matches!(Arena::open(file, Access::Read, 4096), Err(ArenaError::NotSealed)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Arena::open(file.into(), Access::Read, 4096), Err(ArenaError::NotSealed)));
        let ours = Arena::create("test", 4096, Access::Write, Access::Read).unwrap();
        assert!(ftruncate(ours.file(), 0).is_err(), "and ours cannot");
        assert!(ftruncate(ours.file(), 1 << 20).is_err(), "nor can it become more than was given");
    }

    #[test]
    fn memory_beyond_the_limit_is_refused() {
        let ours = Arena::create("test", 8192, Access::Write, Access::Read).unwrap();
        let file = ours.file().try_clone_to_owned().unwrap();
        assert!(matches!(Arena::open(file, Access::Read, 4096), Err(ArenaError::TooLarge { .. })));
    }

    #[test]
    fn who_only_reads_cannot_write_what_he_made() {
        let ours = Arena::create("test", 4096, Access::Read, Access::Write).unwrap();
        let file = ours.file().try_clone_to_owned().unwrap();
        let theirs = Arena::open(file, Access::Write, 4096).unwrap();
        assert!(theirs.data(0, 64).unwrap().write(0, b"theirs"));
        let view = ours.data(0, 64).unwrap();
        assert!(!view.write(0, b"ours"));
        let mut seen = [0; 6];
        assert!(view.read(0, &mut seen));
        assert_eq!(&seen, b"theirs");
    }
}
