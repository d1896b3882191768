//! The fuzz targets over the kept corpus, mutations of it, and random bytes.

use std::path::Path;

use fastrand::Rng;
use fuzz_bodies::TARGETS;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn every_target_has_a_corpus() {
    for (name, _) in TARGETS {
        assert!(!corpus(name).is_empty(), "fuzz/corpus/{name} is empty");
    }
}

#[test]
fn nothing_kept_mutated_or_random_achieves_what_it_must_not() {
    let mut chance = Rng::with_seed(1);
    for (name, body) in TARGETS {
        let seeds = corpus(name);
        for seed in &seeds {
            body(seed);
        }
        for _ in 0..4_000 {
            let mut input = seeds[chance.usize(0..seeds.len())].clone();
            for _ in 0..=chance.usize(0..6) {
                let at = chance.usize(0..input.len().max(1));
                match chance.usize(0..4) {
                    0 if !input.is_empty() => input[at] = chance.u8(..),
                    1 if !input.is_empty() => input[at] ^= 1 << chance.usize(0..8),
                    2 => input.truncate(at),
                    _ => input.insert(at, chance.u8(..)),
                }
            }
            body(&input);
        }
        for _ in 0..1_000 {
            let length = chance.usize(0..200);
            let input: Vec<u8> = (0..length).map(|_| chance.u8(..)).collect();
            body(&input);
        }
    }
}
