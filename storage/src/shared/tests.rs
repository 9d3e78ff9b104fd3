//! A directed test for each hole of the protocol that its parts close by themselves, on the simulated store; those that a
//! whole node closes are in `tests_node.rs`.
//!
//! Each runs twice: with the rule, and with the planted fault that breaks it, which it must find.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use culver_model::PartitionId;
use culver_shard::sim::{Sim, SimConfig};
use culver_shard::{Queue, Task, random, spawn, time};

use super::format::{Base, Content, Incarnation, ObjectHead, Part, PartitionOwner, SharedLow, head_octets};
use super::holding::Acquired;
use super::journal::{Appended, Ended, NewPart, NodeJournal, Windows};
use super::keys;
use super::seal::{SealError, newest_low, seal};
use super::takeover::{Taker, newest_owner};
use crate::fault::Fault;
use crate::journal::commit::shared::lsn_of;
use crate::journal::format::{FlushMeta, NewRecord, RecordKind, put_head};
use crate::manifest::Manifest;
use crate::place::{ObjectId, ObjectKind, Position};
use crate::simstore::{Hold, SimStore, StoreFaults};
use crate::store::{Created, Kind, Octets, Patience, Store};

pub(super) const STORE: [u8; 16] = [7; 16];
const P: PartitionId = PartitionId(0);
pub(super) const PATIENCE: Patience =
    Patience { within: Duration::from_secs(60), urgency: crate::store::Urgency::Interactive };

/// What a scenario finds wrong.
pub(super) type Verdict = Result<(), String>;

pub(super) fn ensure(right: bool, otherwise: &str) -> Verdict {
    right.then_some(()).ok_or_else(|| otherwise.to_owned())
}

/// Runs a scenario in a simulation of its own.
pub(super) fn in_sim<Fut: Future<Output = Verdict> + 'static>(scenario: impl Fn(SimStore) -> Fut) -> Verdict {
    Sim::new(1, SimConfig::default()).run(scenario(SimStore::new(StoreFaults::none())))
}

/// The scenario finds nothing wrong, and something where the fault is planted.
pub(super) fn holds(run: impl Fn() -> Verdict, planted: Option<Fault>) {
    assert_eq!(run(), Ok(()));
    #[cfg(feature = "planted-faults")]
    if let Some(fault) = planted {
        crate::fault::set(Some(fault));
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&run));
        crate::fault::set(None);
        assert!(!matches!(broken, Ok(Ok(()))), "{fault:?} is not found");
        println!("{fault:?}: {broken:?}");
    }
    #[cfg(not(feature = "planted-faults"))]
    let _ = planted;
}

fn incarnation() -> Incarnation {
    let mut id = [0; 16];
    random::fill(&mut id);
    Incarnation(id)
}

pub(super) fn record(kind: RecordKind, epoch: u32, meta: &[u8]) -> Vec<u8> {
    let account = if kind == RecordKind::Data { "joe@example.org" } else { "" };
    let mut out = Vec::new();
    put_head(&NewRecord { kind, partition: P, epoch, account, meta, places: &[] }, 0, &mut out);
    out
}

fn data(epoch: u32) -> Vec<u8> {
    record(RecordKind::Data, epoch, b"changed")
}

/// A journal that is written object by object, for orders that no node would choose by itself.
pub(super) struct Hand {
    pub store: Store,
    pub incarnation: Incarnation,
    next: u64,
}

impl Hand {
    pub fn new(sim: &SimStore, node: &str) -> Hand {
        Hand { store: sim.of_node(node), incarnation: incarnation(), next: 0 }
    }

    /// Appends an object; the number it has.
    pub async fn put(&mut self, records: &[Vec<u8>]) -> u64 {
        let octets = records.concat();
        let seq = self.next;
        self.next += 1;
        let part = Part {
            shard: 0,
            records: records.len() as u32,
            octets: octets.len() as u32,
            crc: crc32c::crc32c(&octets),
        };
        let head = ObjectHead {
            incarnation: self.incarnation,
            seq,
            store: STORE,
            nonce: [seq as u8; 16],
            content: Content::Records(vec![part]),
        };
        let object = Octets::from([head.encode(), octets].concat());
        let key = keys::journal(self.incarnation, seq);
        assert_eq!(self.store.create(&key, &object, PATIENCE).await, Ok(Created::Mine));
        seq
    }

    async fn mark_low(&self, k: u64, first: u64) {
        let mark = Octets::from(SharedLow { incarnation: self.incarnation, first }.encode());
        let key = keys::low(self.incarnation, k);
        assert_eq!(self.store.create(&key, &mark, PATIENCE).await, Ok(Created::Mine));
    }

    async fn delete(&self, seqs: std::ops::Range<u64>) {
        let gone: Vec<String> = seqs.map(|seq| keys::journal(self.incarnation, seq)).collect();
        self.store.delete(&gone, PATIENCE).await.unwrap();
    }

    fn taker(&self, node: &str) -> Taker {
        taker(&self.store, node, self.incarnation)
    }
}

pub(super) fn taker(store: &Store, node: &str, incarnation: Incarnation) -> Taker {
    Taker {
        store: store.clone(),
        store_id: STORE,
        name: node.to_owned(),
        address: String::new(),
        incarnation,
        local: false,
        patience: PATIENCE,
        salvaging: BTreeSet::new(),
        kept_octets_max: 0,
    }
}

async fn flush_record(store: &Store, epoch: u32, number: u64, cov: Position) -> Vec<u8> {
    let object = ObjectId { kind: ObjectKind::Manifest, shard: 0, epoch, number };
    let (tables, bodies) = (Vec::new(), Default::default());
    let gaps = Vec::new();
    let manifest = Manifest { partition: P, object, store: STORE, cov, tables, bodies, gaps };
    store.put_new(&keys::data(P, object), &Octets::from(manifest.encode()), PATIENCE).await.unwrap();
    record(RecordKind::Flush, epoch, &FlushMeta { manifest: object, cov }.to_bytes())
}

/// What one takes over with a claim of the next epoch: the manifest's number, and the positions to be replayed.
async fn take(taker: &Taker, epoch: u32) -> Result<(Option<u64>, Vec<Position>), String> {
    let claim = taker.claim(P, epoch, Base::Pending).await.map_err(|error| error.to_string())?;
    let claim = claim.ok_or("the epoch is another's")?;
    take_claimed(taker, claim).await
}

async fn take_claimed(taker: &Taker, claim: PartitionOwner) -> Result<(Option<u64>, Vec<Position>), String> {
    let mut taken = taker.take(vec![claim]).await;
    let (_, acquired) = taken.claims.pop().ok_or("nothing was taken")?;
    let Acquired { seed, .. } = acquired.map_err(|error: SealError| error.to_string())?;
    let records = seed.unflushed.values().flatten().map(|record| record.position).collect();
    Ok((seed.flush.map(|(meta, ..)| meta.manifest.number), records))
}

fn at(epoch: u32, seq: u64) -> Position {
    Position { epoch, lsn: lsn_of(seq, 0) }
}

pub(super) fn later<T: 'static>(work: impl Future<Output = T> + 'static) -> Task<T> {
    spawn(Queue::Interactive, "scenario", work)
}

/// H1: a low mark whose create comes late changes no mark that came after it.
#[test]
fn a_low_mark_that_comes_late_hides_nothing() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        for _ in 0..3 {
            a.put(&[data(0)]).await;
        }
        let flush = flush_record(&a.store, 0, 1, at(0, 3)).await;
        let flushed = a.put(&[flush]).await;
        let lasting = a.put(&[data(0)]).await;
        // The first mark is on its way for long; its second try is answered.
        let held = sim.hold("a", Kind::Put, &keys::low(a.incarnation, 0), 0, Hold::Before);
        a.mark_low(0, 1).await;
        a.mark_low(1, flushed).await;
        a.delete(0..flushed).await;
        held.release();
        let (low, _) = newest_low(&sim.of_node("b"), a.incarnation, 0, PATIENCE).await.unwrap();
        ensure(low == flushed, "the low mark went back")?;
        let b = taker(&sim.of_node("b"), "b", incarnation());
        ensure(take(&b, 1).await? == (Some(1), vec![at(0, lasting)]), "a record is missing")
    };
    holds(|| in_sim(scenario), None);
}

/// H2: a seal that lands in a place that was trimmed meanwhile seals nothing.
#[test]
fn a_seal_in_a_trimmed_place_is_void() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        let held = sim.hold("b", Kind::Put, &keys::journal(a.incarnation, 0), 0, Hold::Before);
        let b = taker(&sim.of_node("b"), "b", incarnation());
        let taking = later(async move { take(&b, 1).await });
        // B has seen neither an object nor a mark.
        held.met().await;
        a.put(&[data(0)]).await;
        let flush = flush_record(&a.store, 0, 1, at(0, 1)).await;
        let flushed = a.put(&[flush]).await;
        a.mark_low(0, flushed).await;
        a.delete(0..flushed).await;
        let lasting = a.put(&[data(0)]).await;
        held.release();
        let taken = taking.await.map_err(|_| "the taker panicked")??;
        ensure(taken == (Some(1), vec![at(0, lasting)]), "the taker overlooks what was committed")
    };
    holds(|| in_sim(scenario), Some(Fault::LowBeforeSealOnly));
}

/// As above, where the seal in the trimmed place is another taker's.
#[test]
fn a_found_seal_in_a_trimmed_place_is_void() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        a.put(&[data(0)]).await;
        let flush = flush_record(&a.store, 0, 1, at(0, 1)).await;
        let flushed = a.put(&[flush]).await;
        // B looks for the first low mark before there is one, and reads objects when it is there and 0 is a void seal.
        let low = sim.hold("b", Kind::Get, &keys::low(a.incarnation, 0), 0, Hold::After);
        let b = taker(&sim.of_node("b"), "b", incarnation());
        let taking = later(async move { take(&b, 1).await });
        low.met().await;
        a.mark_low(0, flushed).await;
        a.delete(0..flushed).await;
        let seal = ObjectHead {
            incarnation: a.incarnation,
            seq: 0,
            store: STORE,
            nonce: [9; 16],
            content: Content::Seal("c".to_owned()),
        };
        sim.tamper(&keys::journal(a.incarnation, 0), Some(seal.encode()));
        low.release();
        let taken = taking.await.map_err(|_| "the taker panicked")??;
        ensure(taken == (Some(1), vec![]), "the taker overlooks what was committed")
    };
    holds(|| in_sim(scenario), Some(Fault::LowBeforeSealOnly));
}

/// H3: who takes over from a taker that did nothing yet seals the journal of the owner before that one too.
#[test]
fn every_journal_of_a_chain_is_sealed() {
    let scenario = |sim: SimStore| async move {
        let journal = NodeJournal::start(sim.of_node("a"), STORE, Windows::default());
        let a = taker(&sim.of_node("a"), "a", journal.incarnation());
        a.claim(P, 0, Base::Empty).await.unwrap();
        let one = append(&journal, 0, 0, data(0)).await.map_err(|_| "A cannot write")?;
        // B claims and falls asleep.
        let b = taker(&sim.of_node("b"), "b", incarnation());
        b.claim(P, 1, Base::Pending).await.unwrap().ok_or("B has no claim")?;
        let c = taker(&sim.of_node("c"), "c", incarnation());
        ensure(take(&c, 2).await? == (None, vec![at(0, one.seq)]), "C has other records than A told")?;
        let two = append(&journal, 0, 1, data(0)).await;
        ensure(two == Err(Ended), "A acknowledges what C does not have")
    };
    holds(|| in_sim(scenario), Some(Fault::SealNewestOnly));
    holds(|| in_sim(scenario), Some(Fault::SealSkipped));
}

/// H4: of a journal only the records of the epoch count that is looked for.
#[test]
fn records_of_another_epoch_in_the_same_journal_are_left_alone() {
    let scenario = |sim: SimStore| async move {
        let (mut a, mut b) = (Hand::new(&sim, "a"), Hand::new(&sim, "b"));
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        a.put(&[data(0)]).await;
        let flush = flush_record(&a.store, 0, 1, at(0, 1)).await;
        a.put(&[flush]).await;
        let first = a.put(&[data(0)]).await;
        b.taker("b").claim(P, 1, Base::Pending).await.unwrap();
        let second = b.put(&[data(1)]).await;
        // It comes back to A's very journal.
        a.taker("a").claim(P, 2, Base::Pending).await.unwrap();
        let third = a.put(&[data(2)]).await;
        let c = taker(&sim.of_node("c"), "c", incarnation());
        let wanted = vec![at(0, first), at(1, second), at(2, third)];
        ensure(take(&c, 3).await? == (Some(1), wanted), "not each record once, in the order of epochs")
    };
    holds(|| in_sim(scenario), Some(Fault::EpochsMixed));
}

/// H5: what was committed between a flush's beginning and its record is not in the manifest.
#[test]
fn replay_begins_at_what_the_flush_covers() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        a.put(&[data(0)]).await;
        // The flush begins here.
        let flush = flush_record(&a.store, 0, 1, at(0, 1)).await;
        let meanwhile = a.put(&[data(0)]).await;
        a.put(&[flush]).await;
        let later = a.put(&[data(0)]).await;
        let b = taker(&sim.of_node("b"), "b", incarnation());
        ensure(take(&b, 1).await? == (Some(1), vec![at(0, meanwhile), at(0, later)]), "a record is missing")
    };
    holds(|| in_sim(scenario), Some(Fault::ReplayFromFlush));
}

/// The newest Flush in order counts.
#[test]
fn the_newest_flush_counts() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        let one = flush_record(&a.store, 0, 1, at(0, 0)).await;
        a.put(&[one]).await;
        a.put(&[data(0)]).await;
        let two = flush_record(&a.store, 0, 2, at(0, 2)).await;
        a.put(&[two]).await;
        let b = taker(&sim.of_node("b"), "b", incarnation());
        ensure(take(&b, 1).await? == (Some(2), vec![]), "an older Flush counts")
    };
    holds(|| in_sim(scenario), Some(Fault::LoseNewestFlush));
}

/// H8: an object that a later owner makes has no name that an earlier one may still delete.
#[test]
fn a_late_deletion_of_an_earlier_owner_removes_nothing_of_a_later_one() {
    let scenario = |sim: SimStore| async move {
        let (a, b) = (sim.of_node("a"), sim.of_node("b"));
        let object = |epoch| ObjectId { kind: ObjectKind::Pack, shard: 0, epoch, number: 1 };
        let (old, new) = (keys::data(P, object(0)), keys::data(P, object(1)));
        a.put_new(&old, &Octets::from(b"old".to_vec()), PATIENCE).await.unwrap();
        // A deletes what nothing names any more; a second copy of the request comes late.
        let held = sim.hold("a", Kind::Delete, &old, 0, Hold::Before);
        a.delete(std::slice::from_ref(&old), PATIENCE).await.unwrap();
        b.put_new(&new, &Octets::from(b"new".to_vec()), PATIENCE).await.unwrap();
        held.release();
        let there = b.get(&new, None, PATIENCE, None).await;
        ensure(there.is_ok_and(|octets| octets == b"new"), "the later owner's object is gone")
    };
    holds(|| in_sim(scenario), Some(Fault::NamesWithoutEpoch));
}

async fn append(journal: &NodeJournal, shard: u16, number: u64, octets: Vec<u8>) -> Result<Appended, Ended> {
    let incarnation = journal.incarnation();
    let part = NewPart {
        incarnation,
        shard,
        number,
        records: 1,
        octets,
        interactive: true,
        firm: false,
        numbers: 1,
    };
    journal.append(part).await
}

/// Every part closes an object.
fn eager() -> Windows {
    Windows { octets: 1, ..Windows::default() }
}

/// H11: what has landed behind an object of which that is not known is not told, and does not count behind a seal.
#[test]
fn nothing_is_told_behind_a_gap() {
    let scenario = |sim: SimStore| async move {
        let journal = NodeJournal::start(sim.of_node("a"), STORE, eager());
        let first = append(&journal, 0, 0, data(0)).await.map_err(|_| "A cannot write")?;
        let (gap, behind) = (first.seq + 1, first.seq + 2);
        let of = journal.incarnation();
        // The first of two is lost on its way, until a seal stands in its place.
        let held = sim.hold("a", Kind::Put, &keys::journal(of, gap), 0, Hold::Before);
        let landed = sim.hold("a", Kind::Put, &keys::journal(of, behind), 0, Hold::After);
        let told: Rc<RefCell<Vec<Result<Appended, Ended>>>> = Rc::default();
        let writers: Vec<Task<()>> = (1..3)
            .map(|shard| {
                let (journal, told) = (journal.clone(), told.clone());
                later(async move {
                    let result = append(&journal, shard, 0, data(0)).await;
                    told.borrow_mut().push(result);
                })
            })
            .collect();
        held.met().await;
        landed.met().await;
        landed.release();
        time::sleep(Duration::from_secs(1)).await;
        ensure(told.borrow().is_empty(), "told before what stands before it")?;
        ensure(journal.committed() == gap, "counted before what stands before it")?;
        let mut seen = BTreeSet::new();
        let sealer = sim.of_node("b");
        let visit = &mut |head: &ObjectHead, _: &[u8]| {
            seen.insert(head.seq);
            Ok(())
        };
        let at = seal(&sealer, of, STORE, "b", PATIENCE, visit).await.map_err(|error| error.to_string())?;
        ensure((at, seen.contains(&behind)) == (gap, false), "what stands behind the gap was taken")?;
        held.release();
        for writer in writers {
            let _ = writer.await;
        }
        ensure(*told.borrow() == [Err(Ended), Err(Ended)], "acknowledged, and behind the seal")
    };
    holds(|| in_sim(scenario), Some(Fault::TellGaps));
}

/// A node whose number is taken by a seal tells nothing more.
#[test]
fn a_fenced_node_acknowledges_nothing() {
    let scenario = |sim: SimStore| async move {
        let journal = NodeJournal::start(sim.of_node("a"), STORE, Windows::default());
        append(&journal, 0, 0, data(0)).await.map_err(|_| "A cannot write")?;
        let none = &mut |_: &ObjectHead, _: &[u8]| Ok(());
        let sealed = seal(&sim.of_node("b"), journal.incarnation(), STORE, "b", PATIENCE, none).await;
        sealed.map_err(|error| error.to_string())?;
        ensure(append(&journal, 0, 1, data(0)).await == Err(Ended), "acknowledged behind the seal")?;
        ensure(journal.has_ended() && journal.was_sealed(), "it does not know that it has ended")
    };
    holds(|| in_sim(scenario), Some(Fault::AckWhenSealed));
}

/// H12: what a create proves is as old as its first try, not as its answer.
#[test]
fn a_proof_is_as_old_as_its_first_create() {
    let scenario = |sim: SimStore| async move {
        let windows = Windows { proof: Duration::from_secs(5), ..eager() };
        let journal = NodeJournal::start(sim.of_node("a"), STORE, windows);
        let first = append(&journal, 0, 0, data(0)).await.map_err(|_| "A cannot write")?;
        let key = keys::journal(journal.incarnation(), first.seq + 1);
        // It lands at once, and its answer is lost: the second try finds it, 10 s later.
        let _held = sim.hold("a", Kind::Put, &key, 0, Hold::After);
        let second =
            append(&journal, 0, 1, data(0)).await.map_err(|_| "its own object was taken for a seal")?;
        ensure(second.seq == first.seq + 1, "written twice")?;
        ensure(second.begun.elapsed() > Duration::from_secs(5), "the answer was not late")?;
        let fresh = journal.fresh_until().is_some_and(|until| until > time::now());
        ensure(!fresh, "the late answer proves that nobody else owned it in between")
    };
    holds(|| in_sim(scenario), Some(Fault::FreshFromAnswer));
}

/// An answer that was lost: the same octets at the same name are one's own.
#[test]
fn an_earlier_try_of_a_create_is_ones_own() {
    let scenario = |sim: SimStore| async move {
        let store = sim.of_node("a");
        let octets = Octets::from(b"mine".to_vec());
        let _held = sim.hold("a", Kind::Put, "k", 0, Hold::After);
        let created = store.create("k", &octets, PATIENCE).await;
        ensure(created == Ok(Created::Mine), "its own earlier try is taken for another's")?;
        let other = store.create("k", &Octets::from(b"else".to_vec()), PATIENCE).await;
        ensure(other == Ok(Created::Foreign(b"mine".to_vec())), "another's object is taken for its own")
    };
    holds(|| in_sim(scenario), Some(Fault::OwnRetryForeign));
}

/// H13: a claim that is made a second time in one incarnation does not look like the first, which was overtaken since.
#[test]
fn a_claim_that_is_repeated_is_not_ones_own() {
    let scenario = |sim: SimStore| async move {
        let a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        let b = a.taker("b");
        ensure(b.claim(P, 1, Base::Pending).await.unwrap().is_some(), "the first claim is lost")?;
        let c = taker(&sim.of_node("c"), "c", incarnation());
        ensure(c.claim(P, 2, Base::Pending).await.unwrap().is_some(), "the next claim is lost")?;
        ensure(b.claim(P, 1, Base::Pending).await.unwrap().is_none(), "claimed twice")?;
        let newest = newest_owner(&b.store, P, 0, PATIENCE).await.unwrap();
        ensure(newest.is_some_and(|owner| (owner.epoch, owner.incarnation) == (2, c.incarnation)), "not C's")
    };
    holds(|| in_sim(scenario), Some(Fault::ClaimRepeats));
}

/// A claim whose answer was lost is one's own: the partition has an owner who knows it.
#[test]
fn a_claim_whose_answer_was_lost_is_ones_own() {
    let scenario = |sim: SimStore| async move {
        let a = Hand::new(&sim, "a");
        let _held = sim.hold("a", Kind::Put, &keys::owner(P, 0), 0, Hold::After);
        ensure(a.taker("a").claim(P, 0, Base::Empty).await.unwrap().is_some(), "its own claim is lost")
    };
    holds(|| in_sim(scenario), Some(Fault::OwnRetryForeign));
}

/// Seals stay: a second taker finds the first one's, and what was sealed.
#[test]
fn a_seal_stays() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        a.taker("a").claim(P, 0, Base::Empty).await.unwrap();
        let one = a.put(&[data(0)]).await;
        let b = taker(&sim.of_node("b"), "b", incarnation());
        ensure(take(&b, 1).await? == (None, vec![at(0, one)]), "a record is missing")?;
        let key = keys::journal(a.incarnation, one + 1);
        let there = sim.objects().get(&key).map(|bytes| ObjectHead::parse(bytes).map(|head| head.content));
        ensure(matches!(there, Some(Ok(Content::Seal(by))) if by == "b"), "no seal of B")?;
        // What A had under way lands nowhere.
        let late = ObjectHead {
            incarnation: a.incarnation,
            seq: one + 1,
            store: STORE,
            nonce: [1; 16],
            content: Content::Records(Vec::new()),
        };
        let octets = Octets::from(late.encode());
        let landed = a.store.create(&key, &octets, PATIENCE).await;
        ensure(matches!(landed, Ok(Created::Foreign(_))), "A writes where the seal stood")?;
        ensure(head_octets(0) == late.encode().len(), "an empty object is its head")
    };
    holds(|| in_sim(scenario), Some(Fault::SealDeleted));
}

/// R5: any number of nodes may seal a journal at a time, and all find the same end.
#[test]
fn two_sealers_find_one_end() {
    let scenario = |sim: SimStore| async move {
        let mut a = Hand::new(&sim, "a");
        let last = a.put(&[data(0)]).await;
        let of = a.incarnation;
        // B's seal is on its way while C's lands.
        let held = sim.hold("b", Kind::Put, &keys::journal(of, last + 1), 0, Hold::Before);
        let sealing = |node: &'static str| {
            let store = sim.of_node(node);
            later(async move {
                let mut seen = Vec::new();
                let visit = &mut |head: &ObjectHead, _: &[u8]| {
                    seen.push(head.seq);
                    Ok(())
                };
                let at = seal(&store, of, STORE, node, PATIENCE, visit).await;
                (at, seen)
            })
        };
        let first = sealing("b");
        held.met().await;
        let second = sealing("c").await;
        held.release();
        let first = first.await;
        ensure(first == second && first == Ok((Ok(last + 1), vec![last])), "two ends, or other records")
    };
    holds(|| in_sim(scenario), None);
}
