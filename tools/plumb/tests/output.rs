//! What becomes of a command whose output nobody takes.

mod in_lab;

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use in_lab::{in_lab, on_peer, program};

/// A pipe whose other end is closed.
fn closed_pipe() -> Stdio {
    rustix::pipe::pipe().unwrap().1.into()
}

/// What no byte can be written to.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Runs `plumb` with `words` and standard output to a closed pipe, to a full device, and both outputs to a
/// closed pipe.
fn nobody_reads(words: &[&str]) {
    nobody_reads_after(|| (), words);
}

/// As [`nobody_reads`], with something to be done before each run.
fn nobody_reads_after(before: impl Fn(), words: &[&str]) {
    let run = |output: Stdio, notices: Stdio| {
        before();
        let mut command = Command::new(program());
        command.args(words).stdin(Stdio::null()).stdout(output).stderr(notices);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(closed_pipe(), Stdio::piped());
    assert_eq!(code, Some(141), "{words:?}: {said}");
    assert!(!said.contains("plumb:") && !said.contains("panicked"), "quietly: {words:?}: {said}");

    let (code, said) = run(full(), Stdio::piped());
    assert_eq!(code, Some(1), "{words:?}: {said}");
    let complaint = "plumb: cannot write to standard output: No space left on device (os error 28)";
    assert_eq!(said.lines().last(), Some(complaint), "{words:?}");
    assert!(!said.contains("panicked"), "{words:?}: {said}");

    assert_eq!(run(closed_pipe(), closed_pipe()).0, Some(141), "{words:?}");
}

#[test]
fn output_that_nobody_takes_ends_a_command_in_order() {
    for words in [
        &["--help"][..],
        &["flows", "--help"],
        &["--version"],
        &["completions", "bash"],
        &["doctor"],
        &["doctor", "--json"],
        &["demo", "--sim", "--seconds", "1"],
        &["demo", "--sim", "--seconds", "1", "--json"],
        &["experiment", "fig6", "--sim"],
        &["experiment", "fig6", "--sim", "--json"],
        &["bench", "tcp", "--runs", "1", "--seconds", "1", "--only", "memory"],
    ] {
        nobody_reads(words);
    }
}

#[test]
fn mistakes_that_nobody_hears_of_still_have_their_status() {
    for (words, code) in
        [(&["no-such-command"][..], 2), (&["ping", "10.77.0.2", "--socket", "/"], 1)]
    {
        for notices in [closed_pipe(), full()] {
            let mut command = Command::new(program());
            let status = command.args(words).stderr(notices).status().unwrap();
            assert_eq!(status.code(), Some(code), "{words:?}");
        }
    }
}

#[test]
fn output_that_nobody_takes_ends_a_command_in_a_lab_in_order() {
    in_lab("output_that_nobody_takes_ends_a_command_in_a_lab_in_order", &[], || {
        let held = plumb_net::Udp::options().host(&in_lab::host()).connect((in_lab::THEIRS, 7000));
        let held = held.unwrap();
        let flow = held.flow_id().to_string();
        for words in [
            &["flows"][..],
            &["flows", "--all"],
            &["flows", "--json"],
            &["top", "--once", "-i", "1ms"],
            &["top", "--json", "-i", "1ms"],
            &["ping", "-c", "3", "-i", "1ms", "10.77.0.2"],
            &["ping", "-c", "3", "-i", "1ms", "--json", "10.77.0.2"],
        ] {
            nobody_reads(words);
        }
        nobody_reads_after(
            || assert!(held.adjust(plumb_net::Contract::BEST_EFFORT).unwrap().slack),
            &["flows", "set", &flow, "--slice", "1ms", "--period", "100ms"],
        );
        // Whoever connects is told something.
        on_peer(|| {
            let listener = std::net::TcpListener::bind((in_lab::THEIRS, 7001)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let _ = std::io::Write::write_all(&mut stream.unwrap(), b"hello\n");
                }
            });
        });
        nobody_reads(&["nc", "10.77.0.2", "7001"]);
    });
}
