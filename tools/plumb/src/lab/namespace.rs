//! Entering new namespaces.

use std::fmt;
use std::io;

use rustix::thread::UnshareFlags;

/// This kernel or its configuration does not permit a lab.
#[derive(Debug)]
pub struct Refused {
    source: io::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespaces are refused here ({}): {}", self.source, remedy())
    }
}

/// What the administrator can do about it.
pub fn remedy() -> String {
    let setting =
        |file: &str| std::fs::read_to_string(file).ok().map(|text| text.trim().to_string());
    if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return "run `sysctl user.max_user_namespaces=15000`, or run as root".into();
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "run `sysctl kernel.unprivileged_userns_clone=1`, or run as root".into();
    }
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "run `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run as root"
            .into();
    }
    "run as root outside a container, or in one with --privileged".into()
}

/// Moves this process, which must have one thread, into its own network namespace: as root
/// directly, as anybody else through a user namespace.
///
/// # Errors
///
/// [`Refused`], with the remedy.
pub fn enter() -> Result<(), Refused> {
    let root = rustix::process::geteuid().is_root();
    if root && leave(UnshareFlags::NEWNET).is_ok() {
        return Ok(());
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let both = || -> io::Result<()> {
        leave(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
        // Root inside is this user outside.
        let _ = std::fs::write("/proc/self/setgroups", "deny");
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
    };
    both().map_err(|source| Refused { source })
}

/// Moves the calling thread, which has entered before, into another network namespace: for another
/// lab, while the kernel still tidies up after the last one.
///
/// # Errors
///
/// [`Refused`], with the remedy.
pub fn another() -> Result<(), Refused> {
    leave(UnshareFlags::NEWNET).map_err(|source| Refused { source })
}

/// Leaves the present namespaces for new ones.
#[expect(
    deprecated,
    reason = "its successor is unsafe only because of UnshareFlags::FILES, which is not used"
)]
pub fn leave(flags: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(flags)?)
}
