//! Offload settings (`ethtool` over generic netlink, kernel 5.6).

use std::io;

use crate::message::{NetlinkError, Request, Socket, attributes};
use crate::route::Netlink;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// A socket, and a request about interface `name`.
fn ask(message: u8, name: &str) -> io::Result<(Socket, Request)> {
    let socket = Socket::open(Some(rustix::net::netlink::GENERIC))?;
    let mut request = Request::new(GENL_ID_CTRL, 0, &[CTRL_CMD_GETFAMILY, 1, 0, 0]);
    request.text(CTRL_ATTR_FAMILY_NAME, "ethtool");
    let mut family = None;
    socket.call(request, |_, body| {
        for (kind, value) in attributes(body.get(4..).unwrap_or(&[])) {
            if kind == CTRL_ATTR_FAMILY_ID {
                family = value.try_into().ok().map(u16::from_ne_bytes);
            }
        }
    })?;
    let family = family.ok_or(io::ErrorKind::NotFound)?;
    let mut request = Request::new(family, 0, &[message, 1, 0, 0]);
    let header = request.begin(ETHTOOL_A_FEATURES_HEADER);
    request.text(ETHTOOL_A_HEADER_DEV_NAME, name);
    request.end(&header);
    Ok((socket, request))
}

/// The names of the bits in a set.
fn bits(set: &[u8]) -> impl Iterator<Item = &str> {
    attributes(set)
        .filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS)
        .flat_map(|(_, bits)| attributes(bits))
        .flat_map(|(_, bit)| attributes(bit))
        .filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BIT_NAME)
        .filter_map(|(_, name)| std::ffi::CStr::from_bytes_until_nul(name).ok()?.to_str().ok())
}

impl Netlink {
    /// Which of these features of interface `name` are on.
    ///
    /// # Errors
    ///
    /// `ENOENT` on kernels before 5.6.
    pub fn active<'a>(
        &self,
        name: &str,
        features: &[&'a str],
    ) -> Result<Vec<&'a str>, NetlinkError> {
        let mut active = Vec::new();
        let mut run = || -> io::Result<()> {
            let (socket, request) = ask(ETHTOOL_MSG_FEATURES_GET, name)?;
            socket.call(request, |_, body| {
                let all = attributes(body.get(4..).unwrap_or(&[]));
                for (_, set) in all.filter(|(kind, _)| *kind == ETHTOOL_A_FEATURES_ACTIVE) {
                    let on: Vec<&str> = bits(set).collect();
                    active.extend(features.iter().filter(|feature| on.contains(feature)));
                }
            })
        };
        run().map_err(|source| NetlinkError { what: format!("features of {name}"), source })?;
        Ok(active)
    }

    /// Turns features on or off, those of interface `name`, by their `ethtool -k` names in the kernel, as in
    /// `tx-checksum-ip-generic`.
    ///
    /// # Errors
    ///
    /// `ENOENT` on kernels before 5.6, `EINVAL` for a feature the kernel does not know, `EPERM`
    /// without `CAP_NET_ADMIN`.
    pub fn turn(&self, name: &str, features: &[&str], on: bool) -> Result<(), NetlinkError> {
        let word = if on { "on" } else { "off" };
        let what = format!("turn {word} {} of {name}", features.join(", "));
        let run = || -> io::Result<()> {
            let (socket, mut request) = ask(ETHTOOL_MSG_FEATURES_SET, name)?;
            let wanted = request.begin(ETHTOOL_A_FEATURES_WANTED);
            let bits = request.begin(ETHTOOL_A_BITSET_BITS);
            for feature in features {
                let bit = request.begin(ETHTOOL_A_BITSET_BITS_BIT);
                request.text(ETHTOOL_A_BITSET_BIT_NAME, feature);
                if on {
                    request.attribute(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
                }
                request.end(&bit);
            }
            request.end(&bits);
            request.end(&wanted);
            socket.call(request, |_, _| ())
        };
        run().map_err(|source| NetlinkError { what, source })
    }
}
