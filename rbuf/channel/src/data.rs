//! Data areas: the bytes that iorecs name (paper §2.2.1).

use std::any::Any;
use std::sync::Arc;

use crate::AtomicU8;

/// Who writes the data area, and so who chooses addresses in it (paper §2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The originator of the data is master: it puts full buffers and takes empty ones back.
    TransmitMaster,
    /// The receiver of the data is master: it puts empty buffers and takes full ones back.
    ReceiveMaster,
}

/// Keeps memory mapped while somebody (a device, a batch of system calls) still points into it.
pub type Hold = Arc<dyn Any + Send + Sync>;

/// A data area as one side sees it.
///
/// The other side may write it at any time, so it is never a `&[u8]`: bytes are copied in or out,
/// or passed on as cells.
pub trait Data: Clone {
    /// Length in bytes.
    fn bytes(&self) -> u32;

    /// The `len` bytes from `offset`; empty if they are not all inside the area.
    fn cells(&self, offset: u32, len: u32) -> &[AtomicU8];

    /// Copies bytes out; `false`, and nothing copied, if they are not all inside the area.
    fn read(&self, offset: u32, out: &mut [u8]) -> bool;

    /// Copies bytes in; `false`, and nothing copied, if they do not all fit into the area.
    fn write(&self, offset: u32, bytes: &[u8]) -> bool;

    /// Keeps the memory behind this area mapped.
    fn hold(&self) -> Hold;

    /// Equal for areas that the same [`Hold`] keeps mapped.
    fn memory(&self) -> usize;
}
