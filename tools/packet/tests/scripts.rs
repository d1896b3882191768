//! Every script below `tests/packet` holds.

use std::path::{Path, PathBuf};

use tools_packet::{Script, play};

fn scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scripts(&path, found);
        } else {
            assert!(path.extension().is_some_and(|extension| extension == "pkt"), "{path:?}");
            found.push(path);
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/packet")
}

fn outcome(text: &str) -> Result<(), String> {
    let script = Script::parse(text).map_err(|error| error.to_string())?;
    play(&script).map_err(|failure| failure.to_string())
}

#[test]
fn every_script_holds() {
    let mut all = Vec::new();
    scripts(&folder(), &mut all);
    assert!(all.len() >= 150, "{} scripts", all.len());
    let failures: Vec<String> = all
        .iter()
        .filter_map(|path| {
            let problem = outcome(&std::fs::read_to_string(path).unwrap()).err()?;
            Some(format!("{}: {problem}", path.display()))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

const HANDSHAKE: &str = "
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S 0:0(0) win 65535 <mss 1000>
   +0 > S. 0:0(0) ack 1 <mss 1460>
  +.1 < . 1:1(0) ack 1 win 65535
   +0 accept(3, ..., ...) = 4
";

#[test]
fn what_a_script_says_and_does_not_happen_fails_it() {
    let fails = |lines: &str, why: &str| {
        let problem = outcome(&format!("{HANDSHAKE}{lines}")).unwrap_err();
        assert!(problem.contains(why), "{lines}: {problem}");
    };
    outcome(&format!("{HANDSHAKE} +0 write(4, ..., 10) = 10\n +0 > P. 1:11(10) ack 1")).unwrap();
    fails("+0 write(4, ..., 10) = 11", "write returned 10");
    fails("+0 read(4, ..., 10) = 0", "EAGAIN");
    fails("+0 write(4, ..., 10) = 10\n +0 > P. 1:11(10) ack 2", "the acknowledgment differs");
    fails("+0 write(4, ..., 10) = 10\n +0 > P. 1:12(11) ack 1", "the length differs");
    fails("+0 write(4, ..., 10) = 10\n +0 > P. 1:11(10) ack 1 win 1", "the window differs");
    fails("+0 write(4, ..., 10) = 10\n +0 > P. 1:11(10) ack 1 <nop,nop>", "the options differs");
    fails("+0 write(4, ..., 10) = 10\n +1 > P. 1:11(10) ack 1", "this left at 0.1");
    fails("+0 write(4, ..., 10) = 10", "nobody expected this packet");
    fails("+0 > . 1:1(0) ack 1", "no packet left");
    fails("+0...0.5 read(4, ..., 10) = 10\n +1 < . 1:1(0) ack 1 win 1", "still waits");
    fails("+0 %{ assert tcpi_snd_cwnd == 9 }%", "tcpi_snd_cwnd is 10");
    fails("+0 < Q 1:1(0) ack 1", "flags");
    // Of frames that amount to a line only the last may be smaller.
    fails(
        "+0 write(4, ..., 400) = 400\n +0 write(4, ..., 600) = 600\n +0 < . 1:1(0) ack 401 win 65535\n +0 > P. 1:1001(1000) ack 1",
        "the length differs",
    );
}
