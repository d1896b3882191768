//! What the README says to paste does what it says.

use std::process::{Command, Stdio};

#[test]
fn the_lab_block_of_the_readme_runs_as_it_is_pasted() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```sh\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["lab", "--", "bash", "-e", "-o", "pipefail", "-c", block])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}\n{complaints}");
    for words in ["3 sent, 3 answered", "hello\n", "last resort", "now 6ms in 100ms"] {
        assert!(said.contains(words), "`{words}` is not in:\n{said}\n{complaints}");
    }
}
