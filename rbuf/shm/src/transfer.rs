//! Between a data area and a file, without passing through this process's own memory: the kernel copies.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU8;

use rbuf_channel::{Data, Pair};

use crate::ShmData;

/// Ranges in one system call.
pub const RANGES_MAX: usize = 64;

impl ShmData {
    /// Fills `ranges` of the area from `file`, in order; returns how many bytes there were. A file that is
    /// at its end gives 0.
    ///
    /// # Errors
    ///
    /// What the kernel says; `WouldBlock` of a descriptor that does not wait.
    pub fn fill_from(&self, ranges: &[Pair], file: BorrowedFd<'_>) -> io::Result<usize> {
        let (vectors, count) = self.vectors(ranges);
        // SAFETY: `count` vectors name ranges of the area, which `self` keeps mapped. The kernel writes
        // there, as any process may that maps the area: it is only touched as atomics are, or copied.
        let done = unsafe { libc::readv(file.as_raw_fd(), vectors.as_ptr(), count) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    /// Writes `ranges` of the area to `file`, in order; returns how many bytes it took.
    ///
    /// # Errors
    ///
    /// What the kernel says; `WouldBlock` of a descriptor that does not wait.
    pub fn drain_to(&self, ranges: &[Pair], file: BorrowedFd<'_>) -> io::Result<usize> {
        let (vectors, count) = self.vectors(ranges);
        // SAFETY: as above; the kernel only reads.
        let done = unsafe { libc::writev(file.as_raw_fd(), vectors.as_ptr(), count) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    /// The ranges as the kernel takes them; what is not inside the area is left out.
    fn vectors(&self, ranges: &[Pair]) -> ([libc::iovec; RANGES_MAX], libc::c_int) {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut vectors = [none; RANGES_MAX];
        let used = ranges.iter().filter(|range| range.len > 0).take(RANGES_MAX);
        let mut count = 0;
        for range in used {
            let cells: &[AtomicU8] = self.cells(range.offset, range.len);
            vectors[count] =
                libc::iovec { iov_base: cells.as_ptr().cast_mut().cast(), iov_len: cells.len() };
            count += 1;
        }
        (vectors, count as libc::c_int)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::AsFd;

    use super::*;
    use crate::{Access, Arena};

    #[test]
    fn a_file_passes_through_an_area_in_the_order_of_the_ranges() {
        let arena = Arena::create("transfer", 4096, Access::Write, Access::Write).unwrap();
        let data = arena.data(0, 4096).unwrap();
        let memory = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(memory);
        file.write_all(b"hello, world").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let ranges = [Pair { offset: 4091, len: 5 }, Pair { offset: 0, len: 100 }];
        assert_eq!(data.fill_from(&ranges, file.as_fd()).unwrap(), 12);
        assert_eq!(data.fill_from(&ranges, file.as_fd()).unwrap(), 0, "the end");
        let mut copied = [0; 7];
        assert!(data.read(0, &mut copied));
        assert_eq!(&copied, b", world");

        let back = [Pair { offset: 4091, len: 5 }, Pair { offset: 0, len: 7 }];
        assert_eq!(data.drain_to(&back, file.as_fd()).unwrap(), 12);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello, worldhello, world");
        let outside = [Pair { offset: 4000, len: 200 }];
        assert_eq!(data.drain_to(&outside, file.as_fd()).unwrap(), 0);
    }
}
