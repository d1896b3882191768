//! What the administrator decides: links, and who may have what.

use std::collections::HashMap;
use std::net::IpAddr;

use base_flow::{Prefix, Rate};
use serde::{Deserialize, Serialize};

/// The configuration of a host, as in the TOML file of `plumb up`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
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
    pub user: HashMap<String, Rights>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { promisable_ppm: 950_000, default: Rights::ORDINARY, user: HashMap::new() }
    }
}

impl Policy {
    /// The rights of `uid`.
    pub fn rights(&self, uid: u32) -> Rights {
        match self.user.get(&uid.to_string()) {
            Some(rights) => *rights,
            None if uid == 0 => Rights::ALL,
            None => self.default,
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
    /// Driver time the user's flows may use for receiving, all together and each, in nanoseconds per second.
    pub receive_ns_per_s: u32,
    /// Whether other users' flows and bills may be looked at, and their contracts changed.
    pub sees_others: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self {
        reserved_ports: true,
        guarantee_ppm_max: 1_000_000,
        connections_max: 65_536,
        flows_max: 65_536,
        ports_max: 65_536,
        receive_ns_per_s: 500_000_000,
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
        for link in &self.links {
            if link.addresses.is_empty() {
                return wrong(format!("link {}: `addresses` is empty", link.dev));
            }
            if let Some(gateway) = link.gateway
                && !link.addresses.iter().any(|prefix| prefix.contains(gateway))
            {
                return wrong(format!(
                    "link {}: gateway {gateway} is in none of its networks",
                    link.dev
                ));
            }
            if link.vlan.is_some_and(|vlan| vlan == 0 || vlan > 4094) {
                return wrong(format!("link {}: a VLAN is a number from 1 to 4094", link.dev));
            }
        }
        if self.policy.promisable_ppm > 1_000_000 {
            return wrong("policy: promisable_ppm is more than the whole line, 1000000".into());
        }
        let users = self.policy.user.iter().map(|(user, rights)| (format!("user.{user}"), rights));
        for (whose, rights) in users.chain([("default".into(), &self.policy.default)]) {
            if rights.guarantee_ppm_max > 1_000_000 {
                return wrong(format!(
                    "policy.{whose}: guarantee_ppm_max is more than the whole line, 1000000"
                ));
            }
        }
        if let Some(user) = self.policy.user.keys().find(|user| user.parse::<u32>().is_err()) {
            return wrong(format!(
                "policy.user.{user}: users are numeric, as in [policy.user.1000]"
            ));
        }
        Ok(self)
    }
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
            ("[[lnk]]", "lnk"),
            ("[policy.user.bob]\n", "numeric"),
            ("[policy]\npromisable_ppm = 2000000", "whole line"),
            ("[policy.default]\nguarantee_ppm_max = 3000000", "policy.default: guarantee_ppm_max"),
            ("[policy.user.5]\nguarantee_ppm_max = 1000001", "policy.user.5: guarantee_ppm_max"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
