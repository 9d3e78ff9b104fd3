//! The fuzz targets over their seeds, and over some thousand damaged copies of each: what a fuzzer found stays found.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::PathBuf;

/// Damaged copies of each seed.
const COPIES: u64 = 300;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn damage(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut octets = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        if octets.is_empty() {
            break;
        }
        let at = random.below(octets.len());
        match random.below(5) {
            0 => octets[at] = random.below(256) as u8,
            1 => octets[at] ^= 1 << random.below(8),
            2 => drop(octets.remove(at)),
            3 => octets.insert(at, *b"\0\r\n\"{}()\\.%*&"[..].get(random.below(13)).unwrap_or(&b' ')),
            _ => {
                let end = (at + random.below(20)).min(octets.len());
                let piece = octets[at..end].to_vec();
                let to = random.below(octets.len());
                octets.splice(to..to, piece);
            }
        }
    }
    octets
}

fn run(name: &str, target: targets::Target) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .expect("every target has seeds")
        .map(|e| e.expect("readable").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no seed");
    let mut random = Random(0x5eed_0001);
    for path in paths {
        let seed = fs::read(&path).expect("readable");
        target(&seed);
        for _ in 0..COPIES {
            let octets = damage(&seed, &mut random);
            let outcome = std::panic::catch_unwind(|| target(&octets));
            assert!(outcome.is_ok(), "{name}: a damaged copy of {} fails: {octets:?}", path.display());
        }
    }
}

#[test]
fn seeds_and_damaged_seeds_break_no_promise() {
    for (name, target) in targets::ALL {
        run(name, *target);
    }
}
