//! `plumb doctor`: what this kernel offers, what is missing, and the remedy.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use flowman_daemon::{Identity, USER};
use plumb_net::Host;
use rbuf_shm::{Access, Arena, Landlock, descriptors_can_be_refused};
use rustix::thread::CapabilitySet;

use crate::output::say;
use crate::{cli, lab};

struct Finding {
    name: &'static str,
    ok: bool,
    detail: String,
}

/// Looks at everything Plumb needs.
pub fn run(arguments: &cli::Doctor) -> Result<ExitCode> {
    let mut findings = vec![
        kernel(),
        shared_memory(),
        namespaces()?,
        packet_sockets(),
        bulk(),
        forwarding(),
        user(),
        files(),
        descriptors(),
    ];
    findings.extend(addresses(&arguments.socket.socket));
    if arguments.json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| serde_json::json!({"name": finding.name, "ok": finding.ok, "detail": finding.detail}))
            .collect();
        say!("{}", serde_json::to_string(&list)?)?;
    } else {
        for Finding { name, ok, detail } in &findings {
            say!("{} {name}: {detail}", if *ok { "ok     " } else { "missing" })?;
        }
    }
    let lab =
        findings.iter().filter(|finding| finding.name != "interfaces").all(|finding| finding.ok);
    Ok(if lab { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // PACKET_IGNORE_OUTGOING came with 4.20, F_SEAL_FUTURE_WRITE with 5.1.
    let ok = version >= (5, 1);
    let detail = if ok { release } else { format!("{release}: Linux 5.1 or newer is needed") };
    Finding { name: "kernel", ok, detail }
}

fn shared_memory() -> Finding {
    let arena = Arena::create("plumb-doctor", 1 << 32, Access::Write, Access::Read);
    let (ok, detail) = match arena {
        Ok(_) => (true, "sealed memfd areas of up to 4 GiB can be mapped".into()),
        Err(error) => (false, format!("{error}: is address space limited (`ulimit -v`)?")),
    };
    Finding { name: "shared memory", ok, detail }
}

/// Tries it in another process: this one could not come back.
fn namespaces() -> Result<Finding> {
    let output = Command::new(lab::this_program()?).args(["lab", "--", "true"]).output()?;
    let detail = if output.status.success() {
        "a lab can be made: try `plumb demo` or `plumb lab`".to_string()
    } else {
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .next()
            .unwrap_or("a lab cannot be made")
            .to_string()
    };
    Ok(Finding { name: "lab", ok: output.status.success(), detail })
}

fn packet_sockets() -> Finding {
    let effective = rustix::thread::capabilities(None)
        .map(|sets| sets.effective)
        .unwrap_or(CapabilitySet::empty());
    let ok = effective.contains(CapabilitySet::NET_RAW);
    let detail = if ok {
        "CAP_NET_RAW is there: `plumb up` can drive real interfaces".into()
    } else {
        "CAP_NET_RAW is missing: run `plumb up` as root, or `setcap cap_net_raw+ep` the program; labs do not need it".into()
    };
    Finding { name: "interfaces", ok, detail }
}

/// Nothing depends on it but speed.
fn bulk() -> Finding {
    let detail = match driver_link_packet::bulk_is_possible() {
        Ok(()) => {
            "a driver of an interface without a queue sends many frames in one pass of the kernel"
                .into()
        }
        Err(error) => format!(
            "frames are sent one by one ({error}): for more speed on veth and the like, give `plumb up` CAP_BPF and CAP_NET_ADMIN, outside any user namespace"
        ),
    };
    Finding { name: "bulk sends", ok: true, detail }
}

/// What the flow manager has met, if one runs.
fn addresses(socket: &Path) -> Option<Finding> {
    let conflicts = Host::connect(socket).and_then(|host| host.query_status()).ok()?.conflicts;
    let detail = match conflicts {
        0 => "nobody else has had an address of ours".into(),
        _ => format!(
            "{conflicts} times somebody else had an address of ours: the flow manager has said who, and whoever it is needs another one"
        ),
    };
    Some(Finding { name: "addresses", ok: true, detail })
}

fn forwarding() -> Finding {
    let on = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
        .is_ok_and(|text| text.trim() == "1");
    let detail = if on {
        "this kernel forwards packets, also those for Plumb's addresses on an interface it shares: give Plumb an interface of its own, or drop them with a firewall".into()
    } else {
        "the kernel keeps out of packets for Plumb's addresses".into()
    };
    Finding { name: "forwarding", ok: true, detail }
}

/// Nothing depends on it but what a flow manager that was taken over could do.
fn user() -> Finding {
    let detail = match Identity::of(None) {
        Ok(identity) if identity.is_shared() => format!(
            "a flow manager that root starts becomes user {}, nobody, whom other programs share: create one for it with `useradd --system --no-create-home {USER}`, or name one with `--user`",
            identity.uid()
        ),
        Ok(identity) => {
            format!("a flow manager that root starts becomes user {}, `{USER}`", identity.uid())
        }
        Err(error) => error.to_string(),
    };
    Finding { name: "user", ok: true, detail }
}

/// Nor on this.
fn files() -> Finding {
    Finding { name: "files", ok: true, detail: Landlock::of_this_kernel().to_string() }
}

/// Nor on this, among users that trust each other.
fn descriptors() -> Finding {
    let detail = match descriptors_can_be_refused() {
        true => "this kernel keeps applications from sending descriptors to the flow manager",
        false => {
            "this kernel cannot keep applications from sending descriptors to the flow manager (SO_PASSRIGHTS, Linux 6.16): a process of its own closes what they send, and may stand as long as they like"
        }
    };
    Finding { name: "descriptors", ok: true, detail: detail.into() }
}
