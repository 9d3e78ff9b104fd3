//! Long work in pieces: sorting that lets others have the core between two runs.

use culver_shard as shard;
use std::cmp::Ordering;

/// Items that are sorted at a stretch.
const RUN: usize = 2048;
/// Items that are merged at a stretch.
const MERGE_STEP: usize = 8192;

/// Sorts by `compare`, which finds no two items equal. A merge sort of sorted runs: what is in order already costs one pass.
pub async fn sort<T: Copy>(mut items: Vec<T>, compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    for run in items.chunks_mut(RUN) {
        run.sort_unstable_by(&compare);
        shard::yield_if_needed().await;
    }
    let mut width = RUN;
    let mut merged: Vec<T> = Vec::new();
    if items.len() > RUN {
        merged.reserve_exact(items.len());
    }
    while width < items.len() {
        merged.clear();
        for pair in items.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let (Some(last), Some(first)) = (left.last(), right.first()) {
                if compare(last, first) == Ordering::Less {
                    break;
                }
                for _ in 0..MERGE_STEP {
                    let (Some(one), Some(other)) = (left.first(), right.first()) else { break };
                    if compare(one, other) == Ordering::Less {
                        merged.push(*one);
                        left = &left[1..];
                    } else {
                        merged.push(*other);
                        right = &right[1..];
                    }
                }
                shard::yield_if_needed().await;
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
            shard::yield_if_needed().await;
        }
        std::mem::swap(&mut items, &mut merged);
        width *= 2;
    }
    items
}

/// How much was done since others had the core.
#[derive(Debug, Default)]
pub struct Pace(usize);

impl Pace {
    /// Small steps between two looks at the clock.
    const STEPS: usize = 4096;

    pub async fn step(&mut self) {
        self.0 += 1;
        if self.0 >= Pace::STEPS {
            self.0 = 0;
            shard::yield_if_needed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sort;
    use culver_shard::sim::{Sim, SimConfig};

    #[test]
    fn any_number_of_items_is_sorted() {
        Sim::new(1, SimConfig::default()).run(async {
            for count in [0u64, 1, 2, 2047, 2048, 2049, 5000, 20_000, 33_000] {
                let scattered: Vec<u64> = (0..count).map(|n| n * 7_919 % 40_009).collect();
                let ascending: Vec<u64> = (0..count).collect();
                let descending: Vec<u64> = (0..count).rev().collect();
                for items in [scattered, ascending, descending] {
                    let mut plain = items.clone();
                    plain.sort_unstable();
                    assert_eq!(sort(items, |one, other| one.cmp(other)).await, plain);
                }
            }
        });
    }
}
