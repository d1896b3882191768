//! Interfaces and addresses (`rtnetlink(7)`).

use std::net::IpAddr;

use base_flow::Prefix;
use base_wire::Mac;

use crate::message::{
    NLM_F_DUMP, NLM_F_NEW, NLMSG_ERROR, NetlinkError, Request, Socket, attributes,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;

const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 1 << 7;
const IFF_LOWER_UP: u32 = 1 << 16;

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What its frames are (`ARPHRD_…`).
    pub hardware: u16,
    /// Its address; zero if it has none of six bytes.
    pub mac: Mac,
    /// Largest packet it carries, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether there is a carrier: a cable and somebody at its other end. Only if it is up can there be.
    pub carrier: bool,
    /// Whether nobody on it answers for an address (`IFF_NOARP`, as on dummy interfaces).
    pub no_arp: bool,
    /// Name of its queueing discipline (`tc(8)`).
    pub queue: String,
}

impl Interface {
    /// Whether its frames are Ethernet's, between stations that are asked who they are.
    pub fn is_ethernet(&self) -> bool {
        const ARPHRD_ETHER: u16 = 1;
        self.hardware == ARPHRD_ETHER
            && !self.no_arp
            && self.mac != Mac::ZERO
            && !self.mac.is_group()
    }
}

/// Talks to the kernel about the interfaces of the current network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a connection; it stays with the namespace it was opened in.
    ///
    /// # Errors
    ///
    /// Out of descriptors, or netlink is forbidden by a sandbox.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(None)
            .map_err(|source| NetlinkError { what: "open a netlink socket".into(), source })?;
        Ok(Self { socket })
    }

    pub(crate) fn call(
        &self,
        what: String,
        request: Request,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.socket.call(request, each).map_err(|source| NetlinkError { what, source })
    }

    /// Describes the interface called `name`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none.
    pub fn interface(&self, name: &str) -> Result<Interface, NetlinkError> {
        let mut request = Request::new(RTM_GETLINK, 0, &link_header(0, 0, 0));
        request.text(IFLA_IFNAME, name);
        let mut found = None;
        self.call(format!("look up interface {name}"), request, |kind, body| {
            if kind == RTM_NEWLINK {
                found = read_link(body);
            }
        })?;
        let missing = || rustix::io::Errno::NODEV.into();
        found.ok_or_else(|| NetlinkError {
            what: format!("look up interface {name}"),
            source: missing(),
        })
    }

    /// The addresses the kernel owns.
    ///
    /// # Errors
    ///
    /// Only if the kernel does not tell.
    pub fn addresses(&self) -> Result<Vec<Owned>, NetlinkError> {
        let mut found = Vec::new();
        self.call("list addresses".into(), addresses_request(), |kind, body| {
            if let Some(Said::Owns(owned)) = read_news(kind, body) {
                found.push(owned);
            }
        })?;
        Ok(found)
    }

    /// Makes a pair of connected virtual interfaces with these names and addresses, down.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `EEXIST` if there is such a name.
    pub fn add_veth(
        &self,
        name: &str,
        mac: Mac,
        peer: &str,
        peer_mac: Mac,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut request = Request::new(RTM_NEWLINK, NLM_F_NEW, &link_header(0, 0, 0));
        request.text(IFLA_IFNAME, name);
        request.attribute(IFLA_ADDRESS, &mac.0);
        request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        let info = request.begin(IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "veth");
        let data = request.begin(IFLA_INFO_DATA);
        let other = request.begin(VETH_INFO_PEER);
        request.raw(&link_header(0, 0, 0));
        request.text(IFLA_IFNAME, peer);
        request.attribute(IFLA_ADDRESS, &peer_mac.0);
        request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        request.end(&other);
        request.end(&data);
        request.end(&info);
        self.call(format!("create veth pair {name} and {peer}"), request, |_, _| ())
    }

    /// Moves interface `index` to the network namespace of process `pid`.
    ///
    /// # Errors
    ///
    /// `EPERM` without rights in both namespaces, `ESRCH` if there is no such process.
    pub fn move_to_namespace(&self, index: u32, pid: u32) -> Result<(), NetlinkError> {
        let mut request = Request::new(RTM_SETLINK, 0, &link_header(index, 0, 0));
        request.attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes());
        self.call("move interface to namespace".into(), request, |_, _| ())
    }

    /// Brings interface `index` up.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let request = Request::new(RTM_SETLINK, 0, &link_header(index, IFF_UP, IFF_UP));
        self.call("bring interface up".into(), request, |_, _| ())
    }

    /// Brings interface `index` down.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_down(&self, index: u32) -> Result<(), NetlinkError> {
        let request = Request::new(RTM_SETLINK, 0, &link_header(index, 0, IFF_UP));
        self.call("bring interface down".into(), request, |_, _| ())
    }

    /// Lets interface `index` carry packets of up to `mtu` bytes.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `EINVAL` if the interface cannot.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut request = Request::new(RTM_SETLINK, 0, &link_header(index, 0, 0));
        request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        self.call(format!("set the MTU of an interface to {mtu}"), request, |_, _| ())
    }

    /// Gives the kernel an address on interface `index`.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `EEXIST` if it has it.
    pub fn add_address(&self, index: u32, prefix: Prefix) -> Result<(), NetlinkError> {
        let family = if prefix.address().is_ipv4() { 2 } else { 10 };
        let mut header = [family, prefix.bits(), 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let mut request = Request::new(RTM_NEWADDR, NLM_F_NEW, &header);
        let bytes = match prefix.address() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        request.attribute(IFA_LOCAL, &bytes);
        request.attribute(IFA_ADDRESS, &bytes);
        self.call(format!("add address {prefix}"), request, |_, _| ())
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Asks which addresses the kernel owns.
pub(crate) fn addresses_request() -> Request {
    Request::new(RTM_GETADDR, NLM_F_DUMP, &[0; 8])
}

/// Asks what interface `index` is.
pub(crate) fn link_request(index: u32) -> Request {
    Request::new(RTM_GETLINK, 0, &link_header(index, 0, 0))
}

/// An address that the kernel owns. It answers for it on every interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The address, and its network.
    pub prefix: Prefix,
    /// Number of the interface.
    pub index: u32,
    /// Name of the interface, as the address is labelled.
    pub dev: String,
}

/// What is said of an interface, or of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// The kernel owns it.
    Owns(Owned),
    /// The kernel does not own it any more.
    Disowns(Owned),
    /// It is there, and is this.
    Is(Interface),
    /// It is not there any more.
    Gone {
        /// Its number.
        index: u32,
    },
}

/// Reads a message about an interface or an address.
pub(crate) fn read_news(kind: u16, body: &[u8]) -> Option<Said> {
    match kind {
        RTM_NEWADDR => return read_address(body).map(Said::Owns),
        RTM_DELADDR => return read_address(body).map(Said::Disowns),
        _ => {}
    }
    if kind == NLMSG_ERROR {
        // Refused as there is no such interface: behind the error stands what was asked.
        let error = i32::from_ne_bytes(*body.first_chunk()?);
        let asked = read_link(body.get(20..)?)?;
        let missing = error == -rustix::io::Errno::NODEV.raw_os_error();
        return missing.then_some(Said::Gone { index: asked.index });
    }
    let interface = read_link(body)?;
    // Bridges speak of their ports in messages of their own family, which say less.
    let of_all = body.first() == Some(&0);
    match kind {
        RTM_NEWLINK => Some(Said::Is(interface)),
        RTM_DELLINK if of_all => Some(Said::Gone { index: interface.index }),
        _ => None,
    }
}

fn read_link(body: &[u8]) -> Option<Interface> {
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let flags = word(8)?;
    let mut interface = Interface {
        index: word(4)?,
        name: String::new(),
        hardware: u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?),
        mac: Mac::ZERO,
        mtu: 0,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        no_arp: flags & IFF_NOARP != 0,
        queue: String::new(),
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => interface.name = text(value),
            IFLA_QDISC => interface.queue = text(value),
            IFLA_ADDRESS => interface.mac = value.try_into().map(Mac).unwrap_or_default(),
            IFLA_MTU => interface.mtu = value.try_into().map(u32::from_ne_bytes).unwrap_or(0),
            _ => {}
        }
    }
    Some(interface)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_string()
}

fn read_address(body: &[u8]) -> Option<Owned> {
    let (bits, index) = (*body.get(1)?, u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?));
    let (mut address, mut dev) = (None, format!("interface {index}"));
    for (kind, value) in attributes(body.get(8..)?) {
        let read = || -> Option<IpAddr> {
            if let Ok(v4) = <[u8; 4]>::try_from(value) {
                return Some(v4.into());
            }
            <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
        };
        match kind {
            IFA_LOCAL => address = read(),
            IFA_ADDRESS if address.is_none() => address = read(),
            // As in `eth0:1`.
            IFA_LABEL => dev = text(value).split(':').next().unwrap_or_default().to_string(),
            _ => {}
        }
    }
    Some(Owned { prefix: Prefix::new(address?, bits).ok()?, index, dev })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_with_its_address() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.interface("lo").unwrap();
        assert_eq!((lo.index, lo.name.as_str()), (1, "lo"));
        assert!(lo.mtu >= 1500);
        assert!(!lo.is_ethernet(), "there are no stations on it");
        if lo.up {
            let addresses = netlink.addresses().unwrap();
            let (prefix, dev) = ("127.0.0.1/8".parse().unwrap(), "lo".to_string());
            assert!(addresses.contains(&Owned { prefix, index: 1, dev }), "{addresses:?}");
        }
    }

    #[test]
    fn an_interface_whose_frames_nobody_answers_is_not_ethernet() {
        // As dummy interfaces describe themselves, but for `IFF_NOARP`.
        let flags = IFF_UP | IFF_LOWER_UP;
        let read = |flags| {
            let mut body = link_header(7, flags, 0).to_vec();
            body[2..4].copy_from_slice(&1_u16.to_ne_bytes());
            body.extend([10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0]);
            read_link(&body).unwrap()
        };
        assert!(read(flags).is_ethernet() && read(flags).carrier);
        assert!(!read(flags | IFF_NOARP).is_ethernet());
        assert!(!read(IFF_UP).carrier);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Netlink::open().unwrap().interface("nosuchif0").unwrap_err();
        assert!(error.to_string().contains("nosuchif0"), "{error}");
        assert_eq!(error.source.raw_os_error(), Some(19));
    }
}
