//! Whom the flow manager becomes, once its sockets are bound: a user with nothing of his own.

use std::fs::read_to_string;

use rbuf_shm::{ConfineError, become_user};

/// The system user that is taken if there is one.
pub const USER: &str = "plumb";

/// Who owns nothing on any system, if there is no such user.
const NOBODY: u32 = 65_534;

/// Whom the flow manager becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
    /// Whether the administrator named him.
    asked: bool,
}

/// The flow manager cannot become who was asked for.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such user.
    #[error(
        "there is no user `{0}` in /etc/passwd: create it with `useradd --system --no-create-home {0}`, or name another"
    )]
    Unknown(String),
    /// No user can be called that.
    #[error("`{0}` is no user's name or number: give one that /etc/passwd has")]
    NoName(String),
    /// Root would be a user with everything.
    #[error(
        "the flow manager is not to run as root: name another user, or none for `{USER}` or nobody"
    )]
    Root,
    /// The kernel refused.
    #[error("cannot become user {uid}: {source}")]
    Refused {
        /// Who was asked for.
        uid: u32,
        /// What it said.
        source: ConfineError,
    },
}

/// The number of a user or a group. To the kernel the last one means that nobody is meant.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id != u32::MAX)
}

impl Identity {
    /// The user that was `asked` for by name or number; if nobody was, the system user [`USER`], and if there
    /// is none, nobody.
    ///
    /// # Errors
    ///
    /// There is no such user, or it is root.
    pub fn of(asked: Option<&str>) -> Result<Self, IdentityError> {
        Self::among(&read_to_string("/etc/passwd").unwrap_or_default(), asked)
    }

    fn among(passwd: &str, asked: Option<&str>) -> Result<Self, IdentityError> {
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_string();
            let uid = number(fields.nth(1)?)?;
            // The field after it.
            Some((name, uid, number(fields.next()?)?))
        };
        let find = |name: &str| {
            let number = number(name);
            let mut all = passwd.lines().filter_map(entry);
            let listed = all.find(|(known, uid, _)| known == name || number == Some(*uid));
            // A number needs no entry.
            listed.map(|(_, uid, gid)| (uid, gid)).or(number.map(|id| (id, id)))
        };
        let found = match asked {
            None => find(USER).or(Some((NOBODY, NOBODY))),
            Some(name) => find(name),
        };
        let is_a_name = |name: &str| !name.is_empty() && name.parse::<u32>().is_err();
        match found {
            None if !asked.is_some_and(is_a_name) => {
                Err(IdentityError::NoName(asked.unwrap_or_default().to_string()))
            }
            None => Err(IdentityError::Unknown(asked.unwrap_or_default().to_string())),
            Some((0, _)) => Err(IdentityError::Root),
            Some((uid, gid)) => Ok(Self { uid, gid, asked: asked.is_some() }),
        }
    }

    /// Whether no user was named, and there is none of its own.
    pub fn is_shared(&self) -> bool {
        self.uid == NOBODY
    }

    /// His number.
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Becomes him for ever. If nobody was named and there is nobody else to become, as in the user namespace
    /// of an ordinary user's lab, it stays who it is and returns why.
    ///
    /// # Errors
    ///
    /// Somebody was named, and the kernel refuses.
    pub fn assume(&self) -> Result<Option<ConfineError>, IdentityError> {
        let me = rustix::process::geteuid();
        if me.as_raw() == self.uid || !me.is_root() && !self.asked {
            return Ok(None);
        }
        match become_user(self.uid, self.gid) {
            Ok(()) => Ok(None),
            Err(source) if self.asked => Err(IdentityError::Refused { uid: self.uid, source }),
            Err(refused) => Ok(Some(refused)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x\nnet:x:77:78:::\n";

    fn among(passwd: &str, asked: Option<&str>) -> Option<(u32, u32)> {
        Identity::among(passwd, asked).ok().map(|found| (found.uid, found.gid))
    }

    #[test]
    fn a_user_is_found_by_name_or_number_and_root_is_none() {
        let with_plumb = format!("{OTHERS}plumb:x:990:991:::\n");
        assert_eq!(among(&with_plumb, None), Some((990, 991)));
        assert_eq!(among(OTHERS, None), Some((65_534, 65_534)));
        assert_eq!(among("", None), Some((65_534, 65_534)));
        assert_eq!(among(&with_plumb, Some("net")), Some((77, 78)));
        assert_eq!(among(OTHERS, Some("77")), Some((77, 78)));
        assert_eq!(among(OTHERS, Some("4321")), Some((4321, 4321)));
        let last = u32::MAX.to_string();
        for (asked, says) in [
            ("plumb", "useradd"),
            ("broken", "no user"),
            ("root", "root"),
            ("0", "root"),
            ("", "no user's name"),
            (&last, "no user's name"),
        ] {
            let error = Identity::among(OTHERS, Some(asked)).unwrap_err().to_string();
            assert!(error.contains(says), "{asked}: {error}");
        }
        let nobodys = format!("x:x:{last}:5:::\nx:x:5:{last}:::\n");
        assert_eq!(among(&nobodys, Some("x")), None, "these are no numbers to become");
    }
}
