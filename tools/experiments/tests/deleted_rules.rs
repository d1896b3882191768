//! Rules that matter, deleted one at a time: each time the experiment that is there to notice does.
//!
//! The sources are copied, the rule is deleted from the copy, and the copy's own test of the experiment
//! is run. A rule that was rewritten is not found any more and fails here too: then this file must say
//! where it is now.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A rule, and the test that must fail without it.
struct Rule {
    file: &'static str,
    /// What is deleted; or, with `instead`, replaced.
    text: &'static str,
    instead: &'static str,
    noticed_by: &'static str,
}

/// One copy for all rules, so that what none of them touches is built once; whoever has this uses it,
/// for a test may be a thread or a process.
fn take_copy(folder: &Path) -> File {
    std::fs::create_dir_all(folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Copies what differs, so that the time stamps of the rest stay.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_string_lossy().into_owned();
        if name == "target" || name.starts_with('.') {
            continue;
        }
        let to = to.join(&name);
        if from.is_dir() {
            copy(&from, &to);
        } else {
            let new = std::fs::read(&from).unwrap();
            if std::fs::read(&to).ok().as_ref() != Some(&new) {
                std::fs::write(&to, new).unwrap();
            }
        }
    }
}

/// Runs the copy's test of an experiment; whether it passed, and what it said.
fn test(copy: &Path, name: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--quiet", "-p", "tools-experiments", "--test", "bands"])
        .args(["--", "--exact", name])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("../built"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

fn without(rule: &Rule) {
    let workspace = workspace();
    let _taken = take_copy(&workspace.join("target/deleted-rules"));
    let copied = workspace.join("target/deleted-rules/tree");
    copy(&workspace, &copied);
    let file = copied.join(rule.file);
    let whole = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        whole.matches(rule.text).count(),
        1,
        "{}: the rule is not here (any more)",
        rule.file
    );
    std::fs::write(&file, whole.replace(rule.text, rule.instead)).unwrap();
    let (passed, said) = test(&copied, rule.noticed_by);
    std::fs::write(&file, whole).unwrap();
    assert!(!passed, "{} did not notice:\n{said}", rule.noticed_by);
    assert!(said.contains("✗"), "failed for another reason:\n{said}");
}

#[test]
fn without_the_rule_for_straddling_frames_the_adversary_breaks_the_bound() {
    without(&Rule {
        file: "driver/atropos/src/flow.rs",
        text: "        if cost > self.budget {
            return if self.is_implicit() {
                self.next_period + self.stretch(cost - self.budget)
            } else {
                self.fluid_ns + self.stretch(cost)
            };
        }
",
        instead: "",
        noticed_by: "four_hundred_hostile_task_sets_never_miss_a_deadline_by_more_than_the_bound",
    });
}

#[test]
fn without_the_stall_rule_figure_5b_catches_up_at_the_others_cost() {
    without(&Rule {
        file: "driver/atropos/src/scheduler.rs",
        text: "        if late > STALL_NS_MIN {
            self.due = None;
            t -= self.stand_still(late);
        }
",
        instead: "",
        noticed_by: "fig5b_holds_its_bands",
    });
}

#[test]
fn without_the_wire_overhead_figure_5a_gives_more_than_was_promised() {
    without(&Rule {
        file: "base/wire/src/ethernet.rs",
        text: "    padded + WIRE_OVERHEAD_BYTES",
        instead: "    padded",
        noticed_by: "fig5a_holds_its_bands",
    });
}

#[test]
fn without_the_early_drop_a_flood_reaches_the_neighbour() {
    without(&Rule {
        file: "driver/core/src/receive.rs",
        text: "flow.faulted || self.accounts.receives(&mut flow.receiver, now_ns)",
        instead: "true",
        noticed_by: "flood_holds_its_bands",
    });
}
