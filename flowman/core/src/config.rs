//! What the administrator decides: links, and who may have what.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use base_flow::{Prefix, Rate};
use base_wire::VlanTag;
use serde::{Deserialize, Serialize};

/// The configuration of a host, as in the TOML file of `plumb up`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The user that the flow manager becomes, by name or number; a system user `plumb` if left out, or nobody.
    #[serde(default)]
    pub user: Option<String>,
    /// Links to drive.
    #[serde(default, rename = "link")]
    pub links: Vec<LinkConfig>,
    /// Who may have what.
    #[serde(default)]
    pub policy: Policy,
}

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Name of the interface.
    pub dev: String,
    /// Addresses that Plumb owns on it, with their prefix lengths.
    pub addresses: Vec<Prefix>,
    /// Router for everything else.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Rate to schedule it at, as in `"100mbit"`; 1 Gbit/s if left out.
    #[serde(default, deserialize_with = "rate")]
    pub rate: Option<Rate>,
    /// VLAN of the interface to use.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// How long is waited, at most, before others are asked whether they have the addresses (RFC 5227,
    /// PROBE_WAIT), in milliseconds; the other times of the RFC go with it. With 0 nobody is asked: for a link
    /// whose other hosts are known.
    #[serde(default = "LinkConfig::probe_wait")]
    pub probe_wait_ms: u32,
}

impl LinkConfig {
    /// [`Self::probe_wait_ms`] as RFC 5227 §1.1 has it.
    pub const PROBE_WAIT_MS: u32 = 1_000;

    const fn probe_wait() -> u32 {
        Self::PROBE_WAIT_MS
    }
}

fn rate<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// Who may have what, by user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Part of a line that may be promised, in parts per million; the rest is the system's.
    pub promisable_ppm: u64,
    /// Rights of users not listed.
    pub default: Rights,
    /// Rights by numeric user id; what is not said is as in `default`. User 0 has all rights unless listed.
    pub user: HashMap<Uid, Rights>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { promisable_ppm: 950_000, default: Rights::ORDINARY, user: HashMap::new() }
    }
}

impl Policy {
    /// The rights of `uid`.
    pub fn rights(&self, uid: u32) -> Rights {
        match self.user.get(&Uid(uid)) {
            Some(rights) => *rights,
            None if uid == 0 => Rights::ALL,
            None => self.default,
        }
    }
}

/// A user's number, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uid(pub u32);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Uid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |text: String| Err(serde::de::Error::custom(text));
        match text.parse() {
            // Each user in one spelling only: no rights are said twice, or of nobody.
            Ok(number) if Self(number).to_string() == text => Ok(Self(number)),
            Ok(number) => wrong(format!("write user `{text}` as [policy.user.{}]", Self(number))),
            Err(_) => wrong(format!("user `{text}`: users are numeric, as in [policy.user.1000]")),
        }
    }
}

/// What a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rights {
    /// Whether ports below 1024 may be bound.
    pub reserved_ports: bool,
    /// Sum of the user's guarantees on a line, in parts per million.
    pub guarantee_ppm_max: u64,
    /// Connections the user's applications may have to the flow manager.
    pub connections_max: u32,
    /// Flows the user may have open.
    pub flows_max: u32,
    /// Access points the user may hold.
    pub ports_max: u32,
    /// Driver time that each of the user's flows may use for receiving, in nanoseconds per second; all
    /// together may use twice as much.
    pub receive_ns_per_s: u32,
    /// Bytes of each of the two data arenas that an application shares with a driver, from 64 KiB to 4 GiB.
    pub arena_bytes: u64,
    /// Bytes of memory that the user's applications may share with drivers, all together: laid out for flows that
    /// are open, or held in real pages. From 1 MiB to 1 TiB.
    pub memory_bytes: u64,
    /// Whether other users' flows and bills may be looked at, and their contracts changed.
    pub sees_others: bool,
}

impl Rights {
    /// The whole of a line, in parts per million.
    const WHOLE_PPM: RangeInclusive<u64> = 0..=1_000_000;
    /// A driver's time: nobody uses more than there is.
    const RECEIVE_NS_PER_S: RangeInclusive<u64> = 1..=1_000_000_000;
    /// Room for some frames, and what offsets of 32 bits can name.
    const ARENA_BYTES: RangeInclusive<u64> = 1 << 16..=1 << 32;

    /// Room for some flows, and more than a host has for one user.
    const MEMORY_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;

    /// What of these nobody can have, and why.
    fn impossible(&self) -> Option<String> {
        [
            (
                "guarantee_ppm_max",
                self.guarantee_ppm_max,
                Self::WHOLE_PPM,
                "more than the whole line",
            ),
            (
                "receive_ns_per_s",
                self.receive_ns_per_s.into(),
                Self::RECEIVE_NS_PER_S,
                "no part of the driver's time",
            ),
            ("arena_bytes", self.arena_bytes, Self::ARENA_BYTES, "no size an arena can have"),
            (
                "memory_bytes",
                self.memory_bytes,
                Self::MEMORY_BYTES,
                "no memory that a user's flows can have",
            ),
        ]
        .into_iter()
        .find_map(|(name, value, range, is)| outside(name, value, range, is))
    }

    /// Everything.
    pub const ALL: Self = Self {
        reserved_ports: true,
        guarantee_ppm_max: 1_000_000,
        connections_max: 65_536,
        flows_max: 65_536,
        ports_max: 65_536,
        receive_ns_per_s: 500_000_000,
        arena_bytes: 1 << 32,
        memory_bytes: 1 << 36,
        sees_others: true,
    };

    /// What an ordinary user has unless the administrator says otherwise.
    pub const ORDINARY: Self = Self {
        reserved_ports: false,
        guarantee_ppm_max: 500_000,
        connections_max: 256,
        flows_max: 4_096,
        ports_max: 4_096,
        receive_ns_per_s: 200_000_000,
        arena_bytes: 1 << 28,
        memory_bytes: 1 << 30,
        sees_others: false,
    };
}

impl Default for Rights {
    fn default() -> Self {
        Self::ORDINARY
    }
}

/// The configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or not of this shape.
    #[error("{0}")]
    Syntax(String),
    /// It means nothing.
    #[error("{0}")]
    Meaning(String),
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// Where it is wrong, and how.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax(error.to_string());
        // As it stands, so that errors say where.
        let _: Self = toml::from_str(text).map_err(syntax)?;
        let mut table: toml::Table = toml::from_str(text).map_err(syntax)?;
        inherit(&mut table);
        let config: Self = table.try_into().map_err(syntax)?;
        config.validated()
    }

    /// This configuration if it makes sense.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Meaning`].
    pub fn validated(self) -> Result<Self, ConfigError> {
        let wrong = |text: String| Err(ConfigError::Meaning(text));
        let mut owners: HashMap<IpAddr, &str> = HashMap::new();
        for (index, link) in self.links.iter().enumerate() {
            if let Some(first) = self.links[..index].iter().position(|other| other.dev == link.dev)
            {
                return wrong(format!(
                    "link {}: links {} and {} are the same interface: one driver drives it, so put all addresses into one [[link]]",
                    link.dev,
                    first + 1,
                    index + 1
                ));
            }
            if link.addresses.is_empty() {
                return wrong(format!("link {}: `addresses` is empty", link.dev));
            }
            for prefix in &link.addresses {
                if let Some(problem) = unusable(prefix) {
                    return wrong(format!("link {}: {} {problem}", link.dev, prefix.address()));
                }
                if let Some(owner) = owners.insert(prefix.address(), &link.dev) {
                    return wrong(format!(
                        "link {}: {} is an address of link {owner} already",
                        link.dev,
                        prefix.address()
                    ));
                }
            }
            if let Some(vlan) = link.vlan
                && let Some(problem) = outside("vlan", vlan.into(), vlans(), "no VLAN's number")
            {
                return wrong(format!("link {}: {problem}", link.dev));
            }
            let before = &self.links[..index];
            for (other, prefix) in before.iter().flat_map(|other| {
                other.addresses.iter().map(move |prefix| (other, prefix.network()))
            }) {
                if link.addresses.iter().any(|own| own.network() == prefix) {
                    return wrong(format!(
                        "link {}: network {prefix} is on link {} already, and packets go there by one link only: give one of them another network, or a longer prefix for a part of it",
                        link.dev, other.dev
                    ));
                }
            }
            if link.gateway.is_some()
                && let Some(other) = before.iter().find(|other| other.gateway.is_some())
            {
                return wrong(format!(
                    "link {}: link {} has a gateway already, and everything else goes by one link only: leave one of them out",
                    link.dev, other.dev
                ));
            }
            if link.probe_wait_ms > LinkConfig::PROBE_WAIT_MS {
                // Applications wait for a link no longer than the RFC's times.
                return wrong(format!(
                    "link {}: probe_wait_ms is more than {}, as RFC 5227 has it",
                    link.dev,
                    LinkConfig::PROBE_WAIT_MS
                ));
            }
        }
        for link in &self.links {
            if let Some(gateway) = link.gateway
                && let Some(problem) = self.is_no_gateway(link, gateway)
            {
                return wrong(format!("link {}: gateway {gateway} {problem}", link.dev));
            }
        }
        let promisable = self.policy.promisable_ppm;
        let more = "more than the whole line";
        if let Some(problem) = outside("promisable_ppm", promisable, Rights::WHOLE_PPM, more) {
            return wrong(format!("policy: {problem}"));
        }
        let users = self.policy.user.iter().map(|(user, rights)| (format!("user.{user}"), rights));
        for (whose, rights) in users.chain([("default".into(), &self.policy.default)]) {
            if let Some(problem) = rights.impossible() {
                return wrong(format!("policy.{whose}: {problem}"));
            }
        }
        Ok(self)
    }

    /// Why nobody can be reached over `gateway`.
    fn is_no_gateway(&self, link: &LinkConfig, gateway: IpAddr) -> Option<&'static str> {
        let host = Prefix::new(gateway, if gateway.is_ipv4() { 32 } else { 128 }).ok()?;
        if let Some(problem) = unusable(&host) {
            return Some(problem);
        }
        let mut all = self.links.iter().flat_map(|link| &link.addresses);
        if all.any(|prefix| prefix.address() == gateway) {
            return Some("is ourselves: give the address of the router");
        }
        let around: Vec<Prefix> =
            link.addresses.iter().copied().filter(|prefix| prefix.contains(gateway)).collect();
        let in_network =
            |prefix: &Prefix| Prefix::new(gateway, prefix.bits()).ok().and_then(|it| unusable(&it));
        if let Some(problem) = around.iter().find_map(in_network) {
            return Some(problem);
        }
        // An address without a network says nothing of who else is on the link: there the router may have any.
        let alone = link.addresses.iter().any(|prefix| prefix.bits() == 32);
        (around.is_empty() && !alone).then_some("is in none of its networks")
    }
}

/// That a value is not what it can be, and what that is.
fn outside(name: &str, value: u64, range: RangeInclusive<u64>, is: &str) -> Option<String> {
    let (least, most) = (range.start(), range.end());
    let text = || format!("{name} = {value} is {is}: give a number from {least} to {most}");
    (!range.contains(&value)).then(text)
}

fn vlans() -> RangeInclusive<u64> {
    u64::from(*VlanTag::IDS.start())..=u64::from(*VlanTag::IDS.end())
}

/// Why no host can have this address in this network.
fn unusable(prefix: &Prefix) -> Option<&'static str> {
    let IpAddr::V4(address) = prefix.address() else {
        return Some("is an IPv6 address, and nothing here speaks IPv6 yet: give one of IPv4");
    };
    // RFC 1122 3.2.1.3.
    if address.octets()[0] == 0 {
        return Some("means no host: give an address of the network on the wire");
    }
    if address.is_loopback() {
        return Some("never leaves a host: give an address of the network on the wire");
    }
    if address.is_multicast() {
        return Some("is a group's address: give a host's");
    }
    if address.is_broadcast() || prefix.broadcast() == Some(address.into()) {
        return Some("is the broadcast address of its network: give a host's");
    }
    // With 31 bits both addresses are hosts (RFC 3021), with 32 there is only one.
    if prefix.bits() < 31 && prefix.network().address() == prefix.address() {
        return Some("is the network's own address: give a host's");
    }
    None
}

/// A user has what the administrator says of that user, and for the rest what is said of all.
fn inherit(config: &mut toml::Table) {
    let Some(policy) = config.get_mut("policy").and_then(toml::Value::as_table_mut) else { return };
    let default = policy.get("default").and_then(toml::Value::as_table).cloned();
    let users = policy.get_mut("user").and_then(toml::Value::as_table_mut);
    let (Some(default), Some(users)) = (default, users) else { return };
    for rights in users.iter_mut().filter_map(|(_, rights)| rights.as_table_mut()) {
        for (name, value) in &default {
            rights.entry(name.as_str()).or_insert_with(|| value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_file_is_read() {
        let config = Config::parse(
            r#"
            [[link]]
            dev = "eth0"
            addresses = ["192.0.2.10/24"]
            gateway = "192.0.2.1"
            rate = "1gbit"

            [policy]
            promisable_ppm = 800000

            [policy.default]
            guarantee_ppm_max = 100000

            [policy.user.1000]
            reserved_ports = true
            "#,
        )
        .unwrap();
        assert_eq!(config.links[0].rate, Some(Rate::mbit(1000)));
        assert_eq!(config.policy.rights(5).guarantee_ppm_max, 100_000);
        assert!(
            config.policy.rights(1000).reserved_ports && !config.policy.rights(5).reserved_ports
        );
        assert_eq!(config.policy.rights(1000).guarantee_ppm_max, 100_000, "as everybody");
        assert_eq!(config.policy.rights(0), Rights::ALL);
    }

    #[test]
    fn what_is_common_is_accepted() {
        for (addresses, gateway) in [
            // As clouds hand them out.
            ("'10.0.0.1/32'", "'198.51.100.1'"),
            ("'10.0.0.1/32'", "'169.254.1.1'"),
            // RFC 3021: a link of two has no other addresses.
            ("'10.0.0.0/31'", "'10.0.0.1'"),
            ("'10.0.0.1/31'", "'10.0.0.0'"),
            ("'10.0.0.1/30'", "'10.0.0.2'"),
            ("'10.0.0.255/16', '10.0.1.0/16'", "'10.0.2.0'"),
        ] {
            let text =
                format!("[[link]]\ndev = 'a'\naddresses = [{addresses}]\ngateway = {gateway}");
            assert_eq!(Config::parse(&text).map(|config| config.links.len()), Ok(1), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("[[link]]\ndev = 'a'\naddresses = []", "empty"),
            ("[[link]]\ndev = 'a'\naddresses = ['10.0.0.1']", "prefix"),
            (
                "[[link]]\ndev = 'a'\naddresses = ['10.0.0.1/8']\ngateway = '11.0.0.1'",
                "none of its networks",
            ),
            ("[[link]]\ndev = 'a'\naddresses = ['10.0.0.1/8']\nrate = 'fast'", "rate"),
            ("[[link]]\ndev = 'a'\naddresses = ['10.0.0.1/8']\nvlan = 4095", "VLAN"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\nprobe_wait_ms=1001", "RFC 5227"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.0/8']", "network's own"),
            ("[[link]]\ndev='a'\naddresses=['10.255.255.255/8']", "broadcast"),
            ("[[link]]\ndev='a'\naddresses=['255.255.255.255/32']", "broadcast"),
            ("[[link]]\ndev='a'\naddresses=['0.0.0.0/0']", "no host"),
            ("[[link]]\ndev='a'\naddresses=['0.1.2.3/24']", "no host"),
            ("[[link]]\ndev='a'\naddresses=['127.0.0.1/8']", "never leaves"),
            ("[[link]]\ndev='a'\naddresses=['224.0.0.1/24']", "group"),
            ("[[link]]\ndev='a'\naddresses=['2001:db8::1/64']", "IPv6"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/8', '10.0.0.1/24']", "of link a already"),
            (
                "[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\n[[link]]\ndev='a'\naddresses=['11.0.0.1/8']",
                "links 1 and 2 are the same interface",
            ),
            (
                "[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\n[[link]]\ndev='b'\naddresses=['10.0.0.1/8']",
                "of link a already",
            ),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\ngateway='10.0.0.1'", "ourselves"),
            (
                "[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\ngateway='11.0.0.1'\n[[link]]\ndev='b'\naddresses=['11.0.0.1/32']",
                "ourselves",
            ),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\ngateway='10.255.255.255'", "broadcast"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\ngateway='10.0.0.0'", "network's own"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\ngateway='224.0.0.1'", "group"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/32']\ngateway='0.0.0.0'", "no host"),
            ("[[link]]\ndev='a'\naddresses=['10.0.0.1/32']\ngateway='fe80::1'", "IPv6"),
            ("[[lnk]]", "lnk"),
            ("[policy.user.bob]\n", "numeric"),
            ("[policy.user.-1]\n", "numeric"),
            ("[policy.user.4294967296]\n", "numeric"),
            ("[policy.user.01000]\n", "as [policy.user.1000]"),
            ("[policy.user.'+5']\n", "as [policy.user.5]"),
            ("[policy.user.5]\nreceive_ns_per_s = 1000000001", "from 1 to 1000000000"),
            ("[policy.default]\nreceive_ns_per_s = 0", "receive_ns_per_s = 0"),
            ("[policy.default]\narena_bytes = 0", "arena_bytes = 0 is no size"),
            ("[policy.default]\narena_bytes = 4294967297", "to 4294967296"),
            ("[policy.default]\nmemory_bytes = 1048575", "memory_bytes = 1048575 is no memory"),
            ("[policy.user.5]\nmemory_bytes = 1099511627777", "to 1099511627776"),
            ("[[link]]\ndev = 'a'\naddresses = ['10.0.0.1/8']\nvlan = 0", "from 1 to 4094"),
            (
                "[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\n[[link]]\ndev='b'\naddresses=['10.9.0.1/8']",
                "network 10.0.0.0/8 is on link a already",
            ),
            (
                "[[link]]\ndev='a'\naddresses=['10.0.0.1/8']\ngateway='10.0.0.2'\n[[link]]\ndev='b'\naddresses=['11.0.0.1/8']\ngateway='11.0.0.2'",
                "link a has a gateway already",
            ),
            ("[policy]\npromisable_ppm = 2000000", "whole line"),
            ("[policy.default]\nguarantee_ppm_max = 3000000", "policy.default: guarantee_ppm_max"),
            ("[policy.user.5]\nguarantee_ppm_max = 1000001", "policy.user.5: guarantee_ppm_max"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
