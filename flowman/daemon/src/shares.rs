//! The arenas that applications share with drivers, as far as their pages are counted.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use flowman_core::{ClientId, LinkId};
use rbuf_domain::Passed;
use rbuf_shm::held_bytes;

/// Descriptors that are kept of what an application shares with a driver.
pub(crate) const SHARE_DESCRIPTORS: u64 = Passed::<OwnedFd>::ARENAS as u64;

/// All that is shared. A driver keeps what it has made until long after it is let go here, so that the memory is not
/// given back by this process, to which that would be a long time.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    arenas: HashMap<(ClientId, LinkId), Vec<OwnedFd>>,
}

impl Shares {
    /// The arenas among what a driver has `passed` to an application.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub(crate) fn add(
        &mut self,
        client: ClientId,
        link: LinkId,
        passed: &[OwnedFd],
    ) -> io::Result<()> {
        let arenas = passed.iter().take(Passed::<OwnedFd>::ARENAS);
        let copies: io::Result<_> = arenas.map(|file| file.as_fd().try_clone_to_owned()).collect();
        self.arenas.insert((client, link), copies?);
        Ok(())
    }

    /// An application is gone.
    pub(crate) fn forget_client(&mut self, client: ClientId) {
        self.arenas.retain(|(of, _), _| *of != client);
    }

    /// A driver is gone.
    pub(crate) fn forget_link(&mut self, link: LinkId) {
        self.arenas.retain(|(_, at), _| *at != link);
    }

    /// Pages that somebody has touched, in bytes.
    pub(crate) fn held_bytes(&self, client: ClientId, link: LinkId) -> u64 {
        self.arenas.get(&(client, link)).into_iter().flatten().map(held_bytes).sum()
    }
}
