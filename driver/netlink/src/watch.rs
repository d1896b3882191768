//! Hearing of what becomes of an interface when somebody changes it, and of the kernel's addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use base_wire::Mac;

use crate::message::{NetlinkError, Socket};
use crate::route::{Interface, Netlink, Owned, Said, addresses_request, link_request, read_news};

/// What has become of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It carries packets of up to so many bytes.
    Mtu(u32),
    /// It is up, or down.
    Up(bool),
    /// It is up as before, and the carrier is back, or lost: a cable was pulled out, or its other end is down.
    Carrier(bool),
    /// It is called something else.
    Name(String),
    /// It has another address.
    Station(Mac),
    /// It is not there any more: it was deleted, or moved to another network namespace. It stays gone, whatever
    /// is called as it was.
    Gone,
    /// The kernel owns an address, on whichever interface.
    Owns(Owned),
    /// The kernel owns an address nowhere any more.
    Disowns(Owned),
}

/// Hears what becomes of one interface, and of the addresses of all. Needs no privileges, and keeps those of the namespace it was opened in.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    known: Interface,
    /// Whether it was said that the interface is up and has no carrier.
    lacks_carrier: bool,
    gone: bool,
    /// The kernel's addresses, each on its interface.
    owned: HashMap<(u32, IpAddr), Owned>,
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
        let netlink = Netlink::open()?;
        let known = netlink.interface(name)?;
        let owned = netlink.addresses()?.into_iter().map(|owned| (place(&owned), owned)).collect();
        let lacks_carrier = known.up && !known.carrier;
        Ok(Self { socket, known, lacks_carrier, gone: false, owned })
    }

    /// The addresses that the kernel owns, as far as was heard.
    pub fn addresses(&self) -> impl Iterator<Item = &Owned> {
        self.owned.values()
    }

    /// Whether the interface is up and has no carrier, as far as was heard.
    pub const fn lacks_carrier(&self) -> bool {
        self.lacks_carrier
    }

    /// Whether the interface is up and has a carrier, as far as was heard.
    pub const fn is_active(&self) -> bool {
        self.known.up && !self.lacks_carrier
    }

    /// What is another than at the last call; never waits.
    pub fn changed(&mut self) -> Vec<News> {
        let mut said = Vec::new();
        let complete = self.socket.hear(|kind, body| said.extend(read_news(kind, body)));
        let news = said.into_iter().flat_map(|said| self.learn(said)).collect();
        if !complete {
            // The kernel had no room for news: what it was is asked for, and heard as news, also if it is that
            // there is no such interface.
            let _ = self.socket.send(link_request(self.known.index));
            // All of them are news then: which were lost is not known.
            self.owned.clear();
            let _ = self.socket.send(addresses_request());
        }
        news
    }

    fn learn_address(&mut self, owned: Owned, is_owned: bool) -> Option<News> {
        if is_owned {
            let before = self.owned.insert(place(&owned), owned.clone());
            return before.is_none().then_some(News::Owns(owned));
        }
        self.owned.remove(&place(&owned))?;
        let address = owned.prefix.address();
        let elsewhere = self.owned.keys().any(|&(_, other)| other == address);
        (!elsewhere).then_some(News::Disowns(owned))
    }

    fn learn(&mut self, said: Said) -> Vec<News> {
        let mut news = Vec::new();
        let now = match said {
            Said::Owns(owned) => return self.learn_address(owned, true).into_iter().collect(),
            Said::Disowns(owned) => return self.learn_address(owned, false).into_iter().collect(),
            Said::Is(now) if now.index == self.known.index && !self.gone => now,
            Said::Gone { index } if index == self.known.index && !self.gone => {
                self.gone = true;
                return vec![News::Gone];
            }
            _ => return news,
        };
        let known = &mut self.known;
        // Not all messages say everything.
        if now.mtu > 0 && now.mtu != known.mtu {
            known.mtu = now.mtu;
            news.push(News::Mtu(now.mtu));
        }
        if now.up != known.up {
            known.up = now.up;
            news.push(News::Up(now.up));
        }
        // One that is down has none: that is no news of its own.
        if now.up && now.carrier == self.lacks_carrier {
            self.lacks_carrier = !now.carrier;
            news.push(News::Carrier(now.carrier));
        }
        if !now.up {
            self.lacks_carrier = false;
        }
        if !now.name.is_empty() && now.name != known.name {
            known.name.clone_from(&now.name);
            news.push(News::Name(now.name));
        }
        if now.mac != Mac::ZERO && now.mac != known.mac {
            known.mac = now.mac;
            news.push(News::Station(now.mac));
        }
        news
    }
}

/// Where an address is.
fn place(owned: &Owned) -> (u32, IpAddr) {
    (owned.index, owned.prefix.address())
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
        assert_eq!(Watch::open("lo").unwrap().changed(), []);
        let error = Watch::open("nosuchif0").unwrap_err();
        assert!(error.to_string().contains("nosuchif0"), "{error}");
    }

    #[test]
    fn news_that_was_lost_is_asked_for_and_then_heard() {
        let mut watch = Watch::open("lo").unwrap();
        let known = std::mem::take(&mut watch.known.mtu);
        watch.socket.send(link_request(watch.known.index)).unwrap();
        assert_eq!(watch.changed(), [News::Mtu(known)]);
        // As if it were gone and that had not been heard.
        watch.known.index = u32::MAX >> 1;
        watch.socket.send(link_request(watch.known.index)).unwrap();
        assert_eq!(watch.changed(), [News::Gone]);
    }

    #[test]
    fn an_address_of_the_kernel_is_news_when_it_comes_and_when_it_is_nowhere_any_more() {
        let mut watch = Watch::open("lo").unwrap();
        let at = |index: u32| {
            let prefix = "192.0.2.1/24".parse().unwrap();
            Owned { prefix, index, dev: format!("dev{index}") }
        };
        assert_eq!(watch.learn(Said::Owns(at(1))), [News::Owns(at(1))]);
        assert_eq!(watch.learn(Said::Owns(at(1))), []);
        assert_eq!(watch.learn(Said::Owns(at(2))), [News::Owns(at(2))]);
        assert_eq!(watch.learn(Said::Disowns(at(1))), [], "it is still on the other interface");
        assert_eq!(watch.learn(Said::Disowns(at(3))), []);
        assert_eq!(watch.learn(Said::Disowns(at(2))), [News::Disowns(at(2))]);
    }

    #[test]
    fn a_carrier_is_news_when_it_is_lost_and_when_it_is_back_while_the_interface_is_up() {
        let mut watch = Watch::open("lo").unwrap();
        let mut becomes = |up, carrier| {
            let now = Interface { up, carrier, ..watch.known.clone() };
            watch.learn(Said::Is(now))
        };
        becomes(true, true);
        assert_eq!(becomes(true, false), [News::Carrier(false)]);
        assert_eq!(becomes(true, false), []);
        assert_eq!(becomes(true, true), [News::Carrier(true)]);
        assert_eq!(becomes(true, true), []);
        assert_eq!(becomes(false, false), [News::Up(false)]);
        assert_eq!(becomes(true, false), [News::Up(true), News::Carrier(false)]);
        assert!(!watch.is_active());
        let mut becomes = |up, carrier| {
            let now = Interface { up, carrier, ..watch.known.clone() };
            watch.learn(Said::Is(now))
        };
        assert_eq!(becomes(false, false), [News::Up(false)]);
        assert_eq!(becomes(true, true), [News::Up(true)]);
        assert!(watch.is_active());
    }

    #[test]
    fn every_change_of_the_interface_is_told_once_and_of_others_none() {
        let mut watch = Watch::open("lo").unwrap();
        let mut now = watch.known.clone();
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        now.mtu = 1400;
        now.up = !now.up;
        now.carrier = true;
        now.name = "other".into();
        now.mac = mac;
        let other = Interface { index: now.index + 1, ..now.clone() };
        assert_eq!(watch.learn(Said::Is(other)), []);
        assert_eq!(watch.learn(Said::Gone { index: now.index + 1 }), []);
        let expected =
            [News::Mtu(1400), News::Up(now.up), News::Name("other".into()), News::Station(mac)];
        assert_eq!(watch.learn(Said::Is(now.clone())), expected);
        assert_eq!(watch.learn(Said::Is(now.clone())), []);
        assert_eq!(watch.learn(Said::Gone { index: now.index }), [News::Gone]);
        now.mtu = 1300;
        assert_eq!(watch.learn(Said::Is(now)), [], "another one has its number");
    }
}
