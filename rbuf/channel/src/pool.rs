//! Buffer management: which parts of a data area are free (paper §2.2.3), kept by the master.

use crate::{Fault, Pair};

/// A buffer of a [`Pool`], by number; the number is the cookie of its iorecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buffer(pub u16);

/// Fixed-size buffers that tile a data area, and who has them.
///
/// Reference counts make a buffer shareable by several channels (paper §2.2.4): it is free again
/// when the last of them has given it back.
#[derive(Debug)]
pub struct Pool {
    buffer_bytes: u32,
    free: Vec<u16>,
    references: Vec<u8>,
}

impl Pool {
    /// Tiles `area_bytes` with buffers of `buffer_bytes`, at most 65 536 of them.
    pub fn new(area_bytes: u32, buffer_bytes: u32) -> Self {
        let count = area_bytes.checked_div(buffer_bytes).unwrap_or(0).min(1 << 16);
        Self {
            buffer_bytes,
            // Popped from the end: the lowest buffer first, so that a little-used area stays cold.
            free: (0..count).rev().map(|index| index as u16).collect(),
            references: vec![0; count as usize],
        }
    }

    /// Tiles what follows in the area too, until there are `count` buffers.
    pub fn grow(&mut self, count: usize) {
        let first = self.references.len();
        let count = count.clamp(first, 1 << 16);
        self.references.resize(count, 0);
        self.free.splice(0..0, (first..count).rev().map(|index| index as u16));
    }

    /// A free buffer, now busy with one reference; `None` if there is none.
    pub fn take(&mut self) -> Option<Buffer> {
        let index = self.free.pop()?;
        self.references[usize::from(index)] = 1;
        Some(Buffer(index))
    }

    /// Adds a reference to a busy buffer; `false` if it is free or has 255 already.
    pub fn share(&mut self, buffer: Buffer) -> bool {
        match self.references.get_mut(usize::from(buffer.0)) {
            Some(count @ 1..=254) => {
                *count += 1;
                true
            }
            _ => false,
        }
    }

    /// Gives up one reference; the last one frees the buffer.
    ///
    /// # Errors
    ///
    /// [`Fault::NotLent`] if nobody has it: a peer returned it twice, or made it up.
    pub fn give(&mut self, buffer: Buffer) -> Result<(), Fault> {
        match self.references.get_mut(usize::from(buffer.0)) {
            Some(count @ 1..) => {
                *count -= 1;
                if *count == 0 {
                    self.free.push(buffer.0);
                }
                Ok(())
            }
            _ => Err(Fault::NotLent { cookie: buffer.0 }),
        }
    }

    /// The whole of a buffer.
    pub fn pair(&self, buffer: Buffer) -> Pair {
        Pair { offset: u32::from(buffer.0) * self.buffer_bytes, len: self.buffer_bytes }
    }

    /// Whether `pair` lies inside `buffer`, and the buffer is busy.
    pub fn lent(&self, buffer: Buffer, pair: Pair) -> bool {
        let whole = self.pair(buffer);
        self.references.get(usize::from(buffer.0)).is_some_and(|&count| count > 0)
            && pair.offset >= whole.offset
            && pair.end() <= whole.end()
    }

    /// Bytes of a buffer.
    pub const fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Number of free buffers.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Number of buffers.
    pub fn len(&self) -> usize {
        self.references.len()
    }

    /// Whether the pool has no buffers at all.
    pub fn is_empty(&self) -> bool {
        self.references.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_twice_is_a_fault() {
        let mut pool = Pool::new(4096, 2048);
        let buffer = pool.take().unwrap();
        assert_eq!(pool.give(buffer), Ok(()));
        assert_eq!(pool.give(buffer), Err(Fault::NotLent { cookie: buffer.0 }));
        assert_eq!(pool.give(Buffer(2)), Err(Fault::NotLent { cookie: 2 }));
    }

    #[test]
    fn a_shared_buffer_is_free_when_the_last_receiver_gave_it_back() {
        let mut pool = Pool::new(4096, 2048);
        let buffer = pool.take().unwrap();
        assert!(pool.share(buffer));
        pool.give(buffer).unwrap();
        assert_eq!(pool.free(), 1);
        pool.give(buffer).unwrap();
        assert_eq!(pool.free(), 2);
        assert!(!pool.share(buffer), "a free buffer cannot be shared");
    }

    #[test]
    fn a_pool_grows_behind_what_it_has() {
        let mut pool = Pool::new(2048, 1024);
        let first = pool.take().unwrap();
        pool.grow(4);
        pool.grow(3);
        assert_eq!((pool.len(), pool.free()), (4, 3));
        assert_eq!(std::iter::from_fn(|| pool.take()).collect::<Vec<_>>(), [1, 2, 3].map(Buffer));
        assert_eq!(pool.give(first), Ok(()));
    }

    #[test]
    fn buffers_tile_the_area_and_nothing_beyond_it() {
        let mut pool = Pool::new(5000, 2048);
        assert_eq!(pool.len(), 2);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!(pool.take(), None);
        assert!(pool.lent(a, Pair { offset: 0, len: 2048 }));
        assert!(!pool.lent(a, Pair { offset: 1, len: 2048 }));
        assert!(pool.lent(b, Pair { offset: 2048, len: 1 }));
        assert!(Pool::new(100, 0).is_empty());
    }
}
