//! Where applications come in and go out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rbuf_shm::{Connection, Listener};

use crate::keeper::Keeper;

/// Where applications come in and go out: by a [`Keeper`], if they can bring what must not be closed here.
#[derive(Debug)]
pub(crate) struct Door {
    listener: Listener,
    keeper: Option<Keeper>,
    /// Accepted, and not kept yet.
    arriving: Option<Connection>,
}

impl Door {
    /// Of those who connect to `listener`; `start` starts a keeper, if one is needed, and returns the connection to it.
    pub(crate) fn new(
        listener: Listener,
        start: impl FnOnce() -> io::Result<Connection>,
    ) -> io::Result<Self> {
        match listener.is_wary() {
            true => Self::kept(listener, start()?),
            false => Ok(Self { listener, keeper: None, arriving: None }),
        }
    }

    /// With the keeper at the other end of `connection`.
    pub(crate) fn kept(listener: Listener, connection: Connection) -> io::Result<Self> {
        let keeper = Keeper::new(connection, listener.as_fd())?;
        Ok(Self { listener, keeper: Some(keeper), arriving: None })
    }

    pub(crate) const fn keeper(&mut self) -> Option<&mut Keeper> {
        self.keeper.as_mut()
    }

    /// Whether the keeper has to be told more.
    pub(crate) fn is_behind(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::is_behind)
    }

    /// The next connection, which has `number` from now on; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the keeper has to read first; otherwise out of descriptors, here or there, which may take longer.
    pub(crate) fn accept(&mut self, number: u64) -> io::Result<Option<Connection>> {
        let Some(keeper) = &mut self.keeper else { return self.listener.accept() };
        if keeper.is_behind() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !keeper.has_room() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let next = match self.arriving.take() {
            None => self.listener.accept()?,
            arriving => arriving,
        };
        let Some(connection) = next else { return Ok(None) };
        match keeper.keep(number, &connection) {
            Ok(()) => Ok(Some(connection)),
            Err(error) => {
                self.arriving = Some(connection);
                Err(error)
            }
        }
    }

    /// Closes a connection, and whatever is in its queue, here or elsewhere.
    pub(crate) fn part(&mut self, number: u64, connection: Connection) {
        let Some(keeper) = &mut self.keeper else { return };
        // Its other side notices, whenever the last copy is closed.
        connection.end();
        drop(connection);
        keeper.let_go(number);
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
