//! Experiments as a person runs them: short ones live, with bands for a machine that does other things,
//! and proof that those bands still catch a scheduler that does not keep contracts.

mod in_lab;

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use in_lab::program;
use rustix::process::{Pid, Signal, kill_process_group};

fn experiment(arguments: &[&str]) -> Output {
    Command::new(program()).arg("experiment").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    text.concat()
}

#[test]
fn a_short_live_figure_5a_holds_wide_bands_and_a_policy_without_contracts_does_not() {
    let arguments = ["fig5a", "--live", "--seconds", "3", "--widen", "60"];
    // A machine that stands still for long enough makes any run look like any other: the second or third
    // time it does not.
    let verdict = |more: &[&str], wanted: i32| {
        let mut last = String::new();
        let found = (0..3).any(|_| {
            let output = experiment(&[&arguments[..], more].concat());
            last = said(&output);
            output.status.code() == Some(wanted)
        });
        assert!(found, "{last}");
        last
    };
    verdict(&[], 0);
    assert!(verdict(&["--policy", "drr"], 1).contains("missed its bands"));
}

#[test]
fn short_live_shares_and_bills_hold_wide_bands() {
    let arguments = ["fig6", "bill", "--live", "--seconds", "4", "--widen", "4"];
    let mut last = String::new();
    let held = (0..3).any(|_| {
        let output = experiment(&arguments);
        last = said(&output);
        output.status.success()
    });
    assert!(held, "{last}");
}

#[test]
fn json_has_every_metric_with_its_band_and_nothing_else_is_printed() {
    let output = experiment(&["fig5b", "--sim", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&outcome["experiment"], &outcome["pass"]), (&"fig5b".into(), &true.into()));
    let metrics = outcome["metrics"].as_array().unwrap();
    for name in ["error", "line used", "worst excess in 1 ms", "moved by a join"] {
        let found =
            metrics.iter().find(|metric| metric["name"] == name && metric["band"].is_object());
        assert!(found.is_some_and(|metric| metric["pass"] == true), "{name}");
    }
}

#[test]
fn results_are_written_where_they_were_asked_for() {
    let folder = std::env::temp_dir().join(format!("plumb-experiment-{}", std::process::id()));
    let name = folder.display().to_string();
    let output = experiment(&["fig6", "--sim", "--out", &name]);
    assert!(output.status.success(), "{}", said(&output));
    for file in ["report.html", "fig6-sim.csv", "fig6-sim-plumb.svg", "fig6-sim-plumb.csv"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(text.len() > 100, "{file}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_unknown_experiment_is_refused_with_the_known_ones() {
    let output = experiment(&["fig9"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("choose from fig5a, fig5b"), "{}", said(&output));
}

#[test]
fn an_interrupted_live_run_leaves_no_process_behind() {
    let folder = std::env::temp_dir().join(format!("plumb-interrupted-{}", std::process::id()));
    // As at a keyboard: all of its processes hear of it.
    let mut running = Command::new(program())
        .args(["experiment", "fig5a", "--live", "--out"])
        .arg(&folder)
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let all = || -> Vec<u32> {
        let mut found = vec![running.id()];
        let mut at = 0;
        while let Some(&pid) = found.get(at) {
            let file = format!("/proc/{pid}/task/{pid}/children");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        found.split_off(1)
    };
    // Peer, daemons, capture and six senders.
    in_lab::eventually("everything runs", || all().len() >= 10);
    let processes = all();
    let pid = Pid::from_raw(running.id() as i32).unwrap();
    kill_process_group(pid, Signal::INT).unwrap();
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let written = std::fs::read_to_string(folder.join("fig5a-live.json")).unwrap();
    let outcome: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&outcome["incomplete"], &outcome["pass"]), (&true.into(), &false.into()));
    std::fs::remove_dir_all(folder).unwrap();
    let lab = format!("plumb-lab-{}.0", running.id());
    assert!(!std::env::temp_dir().join(lab).exists(), "the lab's folder is gone");
    in_lab::eventually("all are gone", || {
        let alive = |pid: &u32| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.contains("(plumb)") && !state.contains(") Z ")
        };
        !processes.iter().any(alive)
    });
}
