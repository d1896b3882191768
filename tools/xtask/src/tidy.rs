//! Checks of the tree that no compiler makes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Crates that may hold `unsafe`.
const UNSAFE: [&str; 4] = ["rbuf/shm", "driver/bpf", "driver/link-packet", "tools/packetdrill"];

/// Lines after which a file is two.
const LINES_MAX: usize = 900;

/// Where `plumb` prints.
const PRINTER: &str = "tools/plumb/src/output.rs";

/// Runs all checks; says everything that is wrong.
pub fn run() -> Result<ExitCode> {
    let root = root()?;
    let crates = crates(&root)?;
    let mut wrong = Vec::new();
    for member in &crates {
        dependencies(member, &mut wrong);
    }
    sources(&root, &mut wrong)?;
    architecture(&root, &crates, &mut wrong)?;
    promises(&root, &mut wrong)?;
    for problem in &wrong {
        eprintln!("tidy: {problem}");
    }
    println!("tidy: {} crates, {} problems", crates.len(), wrong.len());
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of the workspace.
pub fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest
        .parent()
        .and_then(Path::parent)
        .context("the workspace is two levels up")?
        .to_path_buf())
}

/// A crate: its folder below the root, and the folders of the crates it is built from.
struct Member {
    folder: String,
    needs: Vec<String>,
}

fn crates(root: &Path) -> Result<Vec<Member>> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let folder = |package: &serde_json::Value| {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let below = manifest.strip_prefix(root).unwrap_or(&manifest);
        below.parent().map(|folder| folder.display().to_string()).unwrap_or_default()
    };
    let folders: BTreeMap<&str, String> = packages
        .iter()
        .map(|package| (package["name"].as_str().unwrap_or_default(), folder(package)))
        .collect();
    let needs = |package: &serde_json::Value| -> Vec<String> {
        let all = package["dependencies"].as_array().cloned().unwrap_or_default();
        let built = all.iter().filter(|dependency| dependency["kind"].is_null());
        built.filter_map(|dependency| folders.get(dependency["name"].as_str()?).cloned()).collect()
    };
    Ok(packages
        .iter()
        .map(|package| Member { folder: folder(package), needs: needs(package) })
        .collect())
}

/// The law of dependencies: tools over domains over channels over nouns, and domains never name
/// each other.
fn dependencies(member: &Member, wrong: &mut Vec<String>) {
    let part = |folder: &str| folder.split('/').next().unwrap_or_default().to_string();
    let level = |part: &str| match part {
        "base" => 0,
        "rbuf" => 1,
        "driver" | "flowman" | "stack" => 2,
        _ => 3,
    };
    let own = part(&member.folder);
    for need in &member.needs {
        let other = part(need);
        let allowed = own == other || level(&other) < level(&own);
        if !allowed {
            wrong.push(format!(
                "{} must not depend on {need}: dependencies point one way",
                member.folder
            ));
        }
    }
}

fn sources(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for file in files(root, "rs")? {
        let text = std::fs::read_to_string(&file)?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let below = |folder: &str| name.starts_with(folder);
        let test = name.contains("/tests/") || name.contains("/benches/");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let unsafe_word = concat!("uns", "afe {");
        let holds_unsafe = code
            .clone()
            .any(|line| line.contains(unsafe_word) || line.contains(concat!("uns", "afe impl")));
        if holds_unsafe && !test && !UNSAFE.iter().any(|folder| below(folder)) {
            wrong.push(format!("{name} holds unsafe code; only {} may", UNSAFE.join(" and ")));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!("{name} has more than {LINES_MAX} lines: it is two files"));
        }
        if !test && !below("tools/xtask") && name != PRINTER {
            prints(&name, &text, wrong);
        }
        for (number, line) in text.lines().enumerate() {
            let sleeps = line.contains(concat!("thread::", "sleep"));
            if sleeps && name.contains("/tests/") {
                wrong.push(format!("{name}:{}: tests do not sleep", number + 1));
            }
        }
        if below("base") || below("flowman/core") || below("driver/core") || below("driver/atropos")
        {
            for clock in [concat!("Instant::", "now"), concat!("SystemTime::", "now")] {
                if !test && text.contains(clock) {
                    wrong.push(format!("{name} reads a clock: time is an argument there"));
                }
            }
        }
    }
    Ok(())
}

/// What a closed pipe or a full device would turn into a panic: the macros, and in `plumb` also what goes past
/// its printer.
fn prints(name: &str, text: &str, wrong: &mut Vec<String>) {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let words: &[&str] = match name.starts_with("tools/plumb") {
        true => &["println!(", "print!(", "io::stdout()", "io::stderr()"],
        false => &["println!(", "print!("],
    };
    for (number, line) in code.lines().enumerate() {
        // Whether it is a terminal is no output.
        if words.iter().any(|word| line.contains(word)) && !line.contains("is_terminal()") {
            wrong.push(format!(
                "{name}:{}: prints so that a closed pipe is a panic; in `plumb`, `say!` and `tell!` do not",
                number + 1
            ));
        }
    }
}

fn architecture(root: &Path, crates: &[Member], wrong: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    for member in crates {
        if !text.contains(&format!("`{}`", member.folder)) {
            wrong.push(format!("ARCHITECTURE.md does not name `{}`", member.folder));
        }
    }
    Ok(())
}

/// Every promise in `specs` says where it is kept and where it is tested, and those places exist.
fn promises(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let sources: Vec<(String, String)> = files(root, "rs")?
        .into_iter()
        .filter_map(|file| {
            Some((
                file.strip_prefix(root).ok()?.display().to_string(),
                std::fs::read_to_string(&file).ok()?,
            ))
        })
        .collect();
    let scripts: Vec<String> = files(root, "pkt")?
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let exists = |place: &str| {
        let function = format!("fn {place}(");
        let generic = format!("fn {place}<");
        let in_source = |(name, text): &(String, String)| {
            name == place || text.contains(&function) || text.contains(&generic)
        };
        scripts.iter().any(|script| script == place) || sources.iter().any(in_source)
    };
    for spec in files(&root.join("specs"), "md")? {
        let text = std::fs::read_to_string(&spec)?;
        let name = spec.strip_prefix(root).unwrap_or(&spec).display().to_string();
        for section in text.split("\n### ").skip(1) {
            let title = section.lines().next().unwrap_or_default();
            for marker in ["Kept:", "Tested:"] {
                let Some(line) = section.lines().find_map(|line| line.strip_prefix(marker)) else {
                    wrong.push(format!("{name}, {title}: no line `{marker}`"));
                    continue;
                };
                for place in line.split('`').skip(1).step_by(2).filter(|place| !exists(place)) {
                    wrong.push(format!(
                        "{name}, {title}: `{place}` is neither a file, a function nor a script"
                    ));
                }
            }
        }
    }
    citations(root, &sources, wrong)
}

/// Every MUST of RFC 9293 is there, and cited by its number in code and in a test.
fn citations(root: &Path, sources: &[(String, String)], wrong: &mut Vec<String>) -> Result<()> {
    let spec =
        std::fs::read_to_string(root.join("specs/rfc9293.md")).context("specs/rfc9293.md")?;
    let (mut code, mut tests) = (BTreeSet::new(), BTreeSet::new());
    for (name, text) in sources {
        let part = name.split('/').next().unwrap_or_default();
        let (body, inside) = text.split_once("#[cfg(test)]").unwrap_or((text, ""));
        tests.extend(musts(inside));
        if name.contains("/tests/") {
            tests.extend(musts(body));
        } else if matches!(part, "base" | "rbuf" | "driver" | "flowman" | "stack") {
            code.extend(musts(body));
        }
    }
    for script in files(root, "pkt")? {
        tests.extend(musts(&std::fs::read_to_string(&script)?));
    }
    for number in 1..=69 {
        if !spec.contains(&format!("\n### MUST-{number} ")) {
            wrong.push(format!("specs/rfc9293.md does not have MUST-{number}"));
        }
        if !code.contains(&number) {
            wrong.push(format!("MUST-{number} of RFC 9293 is cited nowhere in code"));
        }
        if !tests.contains(&number) {
            wrong.push(format!("MUST-{number} of RFC 9293 is cited by no test"));
        }
    }
    Ok(())
}

/// The numbers after `MUST-` in a text.
fn musts(text: &str) -> impl Iterator<Item = u32> {
    text.split("MUST-").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
