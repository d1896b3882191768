//! Routes: by which link, and over whom (longest prefix first).

use std::net::IpAddr;

use base_flow::Prefix;

use crate::manager::LinkId;

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) prefix: Prefix,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: LinkId,
}

/// The routing table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Longest prefix first, so that the first match is the right one.
    routes: Vec<Route>,
}

impl Routes {
    pub(crate) fn add(&mut self, route: Route) {
        let route = Route { prefix: route.prefix.network(), ..route };
        // Two addresses of one network are one way there.
        if self.routes.contains(&route) {
            return;
        }
        let at = self.routes.partition_point(|other| other.prefix.bits() >= route.prefix.bits());
        self.routes.insert(at, route);
    }

    /// The link to `destination`, and the next hop on it.
    pub(crate) fn find(&self, destination: IpAddr) -> Option<(LinkId, IpAddr)> {
        // RFC 1122 3.2.1.3: neither ever appears outside a host, whatever the default route.
        let stays = match destination {
            IpAddr::V4(address) => address.is_loopback() || address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_loopback() || address.is_unspecified(),
        };
        if stays {
            return None;
        }
        let route = self.routes.iter().find(|route| route.prefix.contains(destination))?;
        Some((route.link, route.gateway.unwrap_or(destination)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_addresses_of_a_network_are_one_way_there() {
        let mut routes = Routes::default();
        for (prefix, link) in [("10.0.0.1/24", 0), ("10.0.0.2/24", 0), ("10.0.0.3/24", 1)] {
            let prefix = prefix.parse().unwrap();
            routes.add(Route { prefix, gateway: None, link: LinkId(link) });
        }
        assert_eq!(routes.iter().map(|route| route.link.0).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn the_longest_prefix_decides_whatever_the_order() {
        let route = |prefix: &str, gateway: Option<&str>, link| Route {
            prefix: prefix.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            link: LinkId(link),
        };
        let rows = [
            route("0.0.0.0/0", Some("10.0.0.254"), 0),
            route("10.0.0.0/24", None, 0),
            route("10.0.0.128/25", None, 1),
            route("192.168.0.0/16", Some("10.0.0.9"), 0),
        ];
        for rotation in 0..rows.len() {
            let mut routes = Routes::default();
            for index in 0..rows.len() {
                routes.add(rows[(index + rotation) % rows.len()]);
            }
            let find = |to: &str| {
                routes.find(to.parse().unwrap()).map(|(link, hop)| (link.0, hop.to_string()))
            };
            assert_eq!(find("10.0.0.5"), Some((0, "10.0.0.5".into())));
            assert_eq!(find("10.0.0.200"), Some((1, "10.0.0.200".into())));
            assert_eq!(find("192.168.3.3"), Some((0, "10.0.0.9".into())));
            assert_eq!(find("8.8.8.8"), Some((0, "10.0.0.254".into())));
            assert_eq!(find("fd00::1"), None);
            assert_eq!(find("127.0.0.1"), None, "whatever the default route");
            assert_eq!(find("0.0.0.0"), None);
        }
    }

    #[test]
    fn nobody_is_reached_by_the_addresses_that_never_leave_a_host() {
        let mut routes = Routes::default();
        for prefix in ["0.0.0.0/0", "::/0"] {
            routes.add(Route { prefix: prefix.parse().unwrap(), gateway: None, link: LinkId(0) });
        }
        let reached = |to: &&str| routes.find(to.parse().unwrap()).is_some();
        let all = ["127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "::1", "::"];
        assert_eq!(all.iter().find(|to| reached(to)), None);
        assert!(["1.0.0.0", "128.0.0.1", "::2", "fd00::1"].iter().all(reached));
    }
}
