//! How a journal is read ahead: in how much time, in what order, and with how much memory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use culver_shard::sim::{Sim, SimConfig};
use culver_shard::time;

use super::ahead::{OBJECTS_MAX, OCTETS_MAX, PIECE, PIECE_MAX, UNDER_WAY_MAX};
use super::format::{Incarnation, ObjectHead};
use super::keys;
use super::seal::seal;
use super::tests::{Hand, PATIENCE, STORE, ensure, in_sim, later, record};
use crate::journal::format::RecordKind;
use crate::simstore::{Hold, SimStore, StoreFaults};
use crate::store::Kind;

/// A record of about so many octets.
fn sized(octets: usize) -> Vec<u8> {
    record(RecordKind::Data, 0, &vec![1; octets])
}

/// A journal with objects of these sizes.
async fn journal(sim: &SimStore, sizes: &[usize]) -> Incarnation {
    let mut a = Hand::new(sim, "a");
    for size in sizes {
        a.put(&[sized(*size)]).await;
    }
    a.incarnation
}

/// The numbers of what is read, in order, and where the seal is.
async fn sealed(sim: &SimStore, of: Incarnation) -> (Vec<u64>, u64) {
    let mut seen = Vec::new();
    let visit = &mut |head: &ObjectHead, _: &[u8]| {
        seen.push(head.seq);
        Ok(())
    };
    let at = seal(&sim.of_node("b"), of, STORE, "b", PATIENCE, visit).await.unwrap();
    (seen, at)
}

/// Where some requests are slow, those behind them go on meanwhile: nobody waits for the slowest of each sixteen.
#[test]
fn a_journal_is_read_faster_than_in_batches() {
    const OBJECTS: u64 = 800;
    // A request takes up to 60 ms, and 30 in the mean; of sixteen the slowest takes about 52.
    let (mean, slowest_of_16) = (Duration::from_millis(30), Duration::from_millis(52));
    for seed in 1..4 {
        let store = SimStore::new(StoreFaults { delay_max: Duration::ZERO, ..StoreFaults::none() });
        let slow = StoreFaults { delay_max: Duration::from_millis(30), ..StoreFaults::none() };
        Sim::new(seed, SimConfig::default()).run(async move {
            let of = journal(&store, &[100; OBJECTS as usize]).await;
            store.set_faults(slow);
            let began = time::now();
            let (seen, at) = sealed(&store, of).await;
            let took = began.elapsed();
            assert!(seen.iter().copied().eq(0..OBJECTS) && at == OBJECTS);
            let rounds = (OBJECTS / UNDER_WAY_MAX as u64) as u32;
            println!("{took:?}, {:?} and {:?}", mean * rounds, slowest_of_16 * rounds);
            assert!(took < slowest_of_16 * rounds * 7 / 10, "{took:?}");
            assert!(took > mean * rounds * 95 / 100, "{took:?}: more than sixteen at a time");
        });
    }
}

/// The first object is late and all others are quick: how many octets of them came and wait.
fn held(size: usize) -> (u64, usize) {
    let told: Rc<Cell<(u64, usize)>> = Rc::default();
    let noted = told.clone();
    let scenario = move |sim: SimStore| {
        let noted = noted.clone();
        async move {
            let of = journal(&sim, &[size; 80]).await;
            let first = sim.hold("b", Kind::Get, &keys::journal(of, 0), 0, Hold::After);
            sim.watch();
            let store = sim.clone();
            let reading = later(async move { sealed(&store, of).await });
            first.met().await;
            time::sleep(Duration::from_secs(5)).await;
            // The last answer to each; one that was cut short was thrown away.
            let mut came: BTreeMap<String, u64> = BTreeMap::new();
            let watched = sim.watch();
            ensure(watched.len() <= 3 * OBJECTS_MAX, "asked again and again")?;
            for asked in watched.iter().filter(|asked| asked.key.starts_with("journal/")) {
                let cut = asked.octets == PIECE || asked.octets == PIECE_MAX;
                came.insert(asked.key.clone(), if cut { 0 } else { asked.octets });
            }
            noted.set((came.values().sum(), came.values().filter(|octets| **octets > 0).count()));
            first.release();
            let (seen, at) = reading.await.map_err(|_| "the reader panicked")?;
            ensure(seen.iter().copied().eq(0..80) && at == 80, "not each object once, in order")
        }
    };
    assert_eq!(in_sim(scenario), Ok(()));
    told.get()
}

/// What waits behind a late object is bounded in objects and in octets; what is larger than that is read all the same.
#[test]
fn what_is_read_ahead_is_bounded() {
    let (octets, objects) = held(1000);
    assert!(objects == OBJECTS_MAX - 1 && octets < 80_000, "{objects} objects with {octets} octets");
    let (octets, objects) = held(3 << 20);
    assert!((15..=20).contains(&objects) && octets <= OCTETS_MAX, "{objects} objects with {octets} octets");
    // Larger than a request brings at first: fewer at a time.
    let (octets, objects) = held(7 << 20);
    assert!((5..=8).contains(&objects) && octets <= OCTETS_MAX, "{objects} objects with {octets} octets");
    // Larger than any request brings: none but the first.
    assert_eq!(held(9 << 20), (0, 0));
}
