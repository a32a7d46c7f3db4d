//! The fuzz targets on inputs that are the same every time: `fuzz/seeds/<target>/*`, what is made of them by a seeded
//! generator, and noise. `BERTH_FUZZ_RUNS=100000 cargo test -p berth-fuzz` runs more of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_fuzz::TARGETS;

/// What one input may take, on a busy machine and without optimisation.
const LONGEST: Duration = Duration::from_secs(20);

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// A few bytes changed, left out, put in or repeated.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, self.below(256) as u8),
                _ => {
                    let end = at + self.below(bytes.len() - at);
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn run(target: &str) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    let runs = std::env::var("BERTH_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(600);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let timed = |input: &[u8]| {
        let began = Instant::now();
        body(input);
        assert!(began.elapsed() < LONGEST, "{target} takes {:?} for {input:?}", began.elapsed());
    };
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| timed(seed));
    for run in 0..runs {
        let mut input = match seeds.get(run % (2 * seeds.len() + 1)) {
            Some(seed) => seed.clone(),
            None => {
                let length = random.below(300);
                random.bytes(length)
            }
        };
        if run % 2 == 1 {
            random.spoil(&mut input);
        }
        timed(&input);
    }
}

/// A test for each target, so that a failure says whose it is; the last says that none is forgotten.
macro_rules! targets {
    ($($target:ident),*) => {
        $(#[test] fn $target() { run(stringify!($target)); })*

        #[test]
        fn every_target_has_a_test_and_a_program() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
            for (name, _) in TARGETS {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz_targets/{name}.rs"));
                let text = std::fs::read_to_string(program).expect("a program of libFuzzer's");
                assert!(text.contains(&format!("berth_fuzz::{name}(data)")), "{name}");
            }
        }
    };
}

targets!(config, process, mount_options, seccomp, messages, arguments, passwd, resources);
