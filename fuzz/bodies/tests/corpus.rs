//! The fuzz targets over the kept corpus, mutations of it, and random bytes.

use std::path::Path;

use fuzz_bodies::TARGETS;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

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
    let mut chance = Chance(1);
    for (name, body) in TARGETS {
        let seeds = corpus(name);
        for seed in &seeds {
            body(seed);
        }
        for _ in 0..4_000 {
            let mut input = seeds[chance.below(seeds.len())].clone();
            for _ in 0..=chance.below(6) {
                let at = chance.below(input.len());
                match chance.below(4) {
                    0 if !input.is_empty() => input[at] = chance.next() as u8,
                    1 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
                    2 => input.truncate(at),
                    _ => input.insert(at, chance.next() as u8),
                }
            }
            body(&input);
        }
        for _ in 0..1_000 {
            let length = chance.below(200);
            let input: Vec<u8> = (0..length).map(|_| chance.next() as u8).collect();
            body(&input);
        }
    }
}
