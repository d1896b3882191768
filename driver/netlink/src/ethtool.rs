//! Offload settings (`ethtool` over generic netlink, kernel 5.6).

use crate::message::{NetlinkError, Request, Socket, attributes};
use crate::route::Netlink;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

impl Netlink {
    /// Turns off features of interface `name`, by their `ethtool -k` names in the kernel, as in
    /// `tx-checksum-ip-generic`.
    ///
    /// # Errors
    ///
    /// `ENOENT` on kernels before 5.6, `EINVAL` for a feature the kernel does not know, `EPERM`
    /// without `CAP_NET_ADMIN`.
    pub fn turn_off(&self, name: &str, features: &[&str]) -> Result<(), NetlinkError> {
        let what = format!("turn off {} of {name}", features.join(", "));
        let run = || -> std::io::Result<()> {
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
            let family = family.ok_or(std::io::ErrorKind::NotFound)?;
            let mut request = Request::new(family, 0, &[ETHTOOL_MSG_FEATURES_SET, 1, 0, 0]);
            let header = request.begin(ETHTOOL_A_FEATURES_HEADER);
            request.text(ETHTOOL_A_HEADER_DEV_NAME, name);
            request.end(&header);
            let wanted = request.begin(ETHTOOL_A_FEATURES_WANTED);
            let bits = request.begin(ETHTOOL_A_BITSET_BITS);
            for feature in features {
                let bit = request.begin(ETHTOOL_A_BITSET_BITS_BIT);
                request.text(ETHTOOL_A_BITSET_BIT_NAME, feature);
                request.end(&bit);
            }
            request.end(&bits);
            request.end(&wanted);
            socket.call(request, |_, _| ())
        };
        run().map_err(|source| NetlinkError { what, source })
    }
}
