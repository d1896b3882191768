//! Hearing of an interface's MTU when somebody changes it.

use std::os::fd::{AsFd, BorrowedFd};

use crate::message::{NetlinkError, Socket};
use crate::route::{Netlink, link_request, read_news};

/// Hears when the MTU of one interface changes. Needs no privileges, and keeps those of the namespace it
/// was opened in.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    index: u32,
    mtu: u32,
}

impl Watch {
    /// Watches the interface called `name` from now on, whatever it is called later.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none.
    pub fn open(name: &str) -> Result<Self, NetlinkError> {
        let socket = Socket::listen()
            .map_err(|source| NetlinkError { what: "watch interfaces".into(), source })?;
        // Not before the socket hears of changes, or one could be missed.
        let interface = Netlink::open()?.interface(name)?;
        Ok(Self { socket, index: interface.index, mtu: interface.mtu })
    }

    /// The MTU, if it is another than at the last call; never waits.
    pub fn changed(&mut self) -> Option<u32> {
        let before = self.mtu;
        let (index, mtu) = (self.index, &mut self.mtu);
        let complete = self.socket.hear(|kind, body| {
            if let Some(interface) = read_news(kind, body)
                && interface.index == index
                // Not all news is about this.
                && interface.mtu > 0
            {
                *mtu = interface.mtu;
            }
        });
        if !complete {
            // The kernel had no room for news: what it was is asked for, and heard as news.
            let _ = self.socket.send(link_request(self.index));
        }
        (self.mtu != before).then_some(self.mtu)
    }
}

impl AsFd for Watch {
    /// Readable when there may be news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_stays_as_it_is_makes_no_news_and_one_that_is_not_there_is_named() {
        assert_eq!(Watch::open("lo").unwrap().changed(), None);
        let error = Watch::open("nosuchif0").unwrap_err();
        assert!(error.to_string().contains("nosuchif0"), "{error}");
    }

    #[test]
    fn news_that_was_lost_is_asked_for_and_then_heard() {
        let mut watch = Watch::open("lo").unwrap();
        let known = std::mem::take(&mut watch.mtu);
        watch.socket.send(link_request(watch.index)).unwrap();
        assert_eq!(watch.changed(), Some(known));
    }
}
