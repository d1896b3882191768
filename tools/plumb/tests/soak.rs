//! A short soak: the long one is `plumb soak --requests 10000000`.

use std::process::Command;

#[test]
fn some_thousands_of_requests_are_answered_whole_and_leave_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["soak", "--requests", "6000", "--json"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let soaked: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    for stack in ["plumb", "kernel"] {
        let tally = &soaked[stack];
        assert_eq!(tally["requests"], 6000, "{tally}");
        // How long it took is this machine's affair.
        for fault in ["resets", "errors", "cut_short", "wrong", "given_up"] {
            assert_eq!(tally[fault], 0, "{stack}: {fault}: {tally}; {told}");
        }
    }
    assert_eq!(soaked["leaks"], serde_json::json!([]), "{soaked}");
    let stalled = soaked["plumb"]["stalls"].as_u64() > soaked["kernel"]["stalls"].as_u64();
    assert_eq!(output.status.code(), Some(i32::from(stalled)), "{soaked}; {told}");
}
