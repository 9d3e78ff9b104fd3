//! What a shard knows of one of its partitions: the manifest it stands on, and what is committed beyond it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::time::Instant;

use crate::journal::commit::Haste;
use crate::journal::format::FlushMeta;
use crate::manifest::Manifest;
use crate::place::{ObjectId, Place, Position};
use crate::shared::format::Gap;
use crate::table::Named;

/// A committed record that no committed manifest contains.
#[derive(Clone, Debug)]
pub(crate) struct Unflushed {
    pub position: Position,
    pub segment: ObjectId,
    /// Where the record stands in its segment, and how many octets its head has.
    pub offset: u64,
    pub head_octets: u32,
    /// Octets of the whole record, for the bounds.
    pub octets: u32,
    pub bodies: Box<[UnflushedBody]>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct UnflushedBody {
    pub place: Place,
    /// No message names it any more: a flush leaves it out.
    pub dead: bool,
}

/// A partition as recovery hands it to its shard.
#[derive(Clone, Debug)]
pub(crate) struct PartitionSeed {
    pub partition: PartitionId,
    /// Its owner's.
    pub epoch: u32,
    /// The newest committed Flush, the segment its record stands in, and the manifest it names.
    /// Where another owner handed it over there is no such record here, and none is needed.
    pub flush: Option<(FlushMeta, Option<ObjectId>, Manifest)>,
    pub unflushed: BTreeMap<AccountId, Vec<Unflushed>>,
    /// Objects with bodies that should be there and are not: only a rebuild starts with such.
    pub missing: BTreeSet<ObjectId>,
    /// Epochs that began with a gap, ascending.
    pub gaps: Vec<Gap>,
}

/// Whether a partition is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Another node may have it.
    Absent,
    /// It is ours as soon as its Open record is committed (R6c).
    Opening,
    Open,
    /// It is being handed over: nothing is written or read any more (R8, H7), but for what moves bodies to where a successor
    /// finds them.
    Leaving,
}

impl Serving {
    /// Whether a record of an account is taken.
    pub fn takes(self, haste: Haste) -> bool {
        match self {
            Serving::Open => true,
            Serving::Leaving => haste == Haste::Urgent,
            Serving::Absent | Serving::Opening => false,
        }
    }
}

pub(crate) struct Partition {
    pub id: PartitionId,
    pub serving: Serving,
    /// Of the owner that this process is, or was.
    pub epoch: u32,
    /// Grows whenever it comes or goes: what was begun in one term means nothing in another.
    pub term: u64,
    /// On a shared store, the journal object that its Open record is in.
    pub opened: u64,
    pub flush: Option<(FlushMeta, Option<ObjectId>)>,
    pub manifest: Option<Rc<Manifest>>,
    /// The manifest's tables, oldest first; opened at the first use.
    pub tables: Option<Rc<[Named]>>,
    /// Of each account in the order of their positions.
    pub unflushed: BTreeMap<AccountId, Vec<Unflushed>>,
    /// The records of bodies that do not stand in their record, by object and offset.
    pub elsewhere: BTreeMap<(ObjectId, u64), Position>,
    /// Octets of the unflushed records of accounts that are not left out.
    pub unflushed_octets: u64,
    /// Accounts that the last flush had to leave out, with the octets of their records. They neither hurry a flush nor
    /// hold up changes of others.
    pub left_out: BTreeMap<AccountId, u64>,
    /// When the oldest unflushed record was committed (or recovered).
    pub oldest: Option<Instant>,
    /// Grows with each committed flush of this term.
    pub generation: u64,
    /// A flush, or a Flush record carried forward, is under way.
    pub flushing: bool,
    /// When the last flush failed: the next try waits.
    pub failed: Option<Instant>,
    /// Octets of frames that lost their last message since the manifest was written, by object.
    pub released: BTreeMap<ObjectId, u64>,
    /// Objects with bodies that are not there: no manifest names them any more.
    pub missing: BTreeSet<ObjectId>,
    /// The newest of some tables of which one is damaged, so that they cannot be merged.
    pub unmergeable: Option<ObjectId>,
    /// Compacted objects, with the position their relocations end before: a flush from there on leaves them out.
    pub retiring: BTreeMap<ObjectId, Position>,
    /// Epochs that began with a gap, ascending.
    pub gaps: Vec<Gap>,
    /// Those of them whose missing tail has come, and is in the partition.
    pub merged: BTreeSet<u32>,
}

/// Epochs that began with a gap, ascending, and whether what is missing there is still to come.
pub(crate) struct Waiting(Vec<(u32, bool)>);

impl Waiting {
    /// Whether an object of this epoch may be named by a record that has not come yet.
    pub fn awaits(&self, epoch: u32) -> bool {
        self.0.iter().find(|(gap, _)| *gap > epoch).is_some_and(|(_, waits)| *waits)
    }
}

impl Partition {
    /// One that is not served here.
    pub fn absent(id: PartitionId, term: u64) -> Partition {
        // No object may be named by an epoch that is somebody else's.
        let seed = PartitionSeed {
            partition: id,
            epoch: u32::MAX,
            flush: None,
            unflushed: BTreeMap::new(),
            missing: BTreeSet::new(),
            gaps: Vec::new(),
        };
        Partition { serving: Serving::Absent, term, ..Partition::new(seed, Instant::default()) }
    }

    pub fn new(seed: PartitionSeed, now: Instant) -> Partition {
        let octets = seed.unflushed.values().flatten().map(|record| u64::from(record.octets)).sum();
        let (flush, manifest) = match seed.flush {
            Some((meta, segment, manifest)) => (Some((meta, segment)), Some(Rc::new(manifest))),
            None => (None, None),
        };
        let elsewhere = seed.unflushed.values().flatten().flat_map(bodies_elsewhere).collect();
        debug_assert!(seed.unflushed.values().all(|records| records.is_sorted_by(stands_before)));
        Partition {
            id: seed.partition,
            serving: Serving::Open,
            epoch: seed.epoch,
            term: 0,
            opened: 0,
            flush,
            manifest,
            tables: None,
            oldest: (!seed.unflushed.is_empty()).then_some(now),
            unflushed: seed.unflushed,
            elsewhere,
            unflushed_octets: octets,
            left_out: BTreeMap::new(),
            generation: 0,
            flushing: false,
            failed: None,
            released: BTreeMap::new(),
            missing: seed.missing,
            unmergeable: None,
            retiring: BTreeMap::new(),
            gaps: seed.gaps,
            merged: BTreeSet::new(),
        }
    }

    /// A gap that the manifest does not know: who stood on that alone would forget it.
    pub fn has_new_gap(&self) -> bool {
        self.manifest.as_ref().map_or(0, |manifest| manifest.gaps.len()) != self.gaps.len()
    }

    /// The epochs of whose objects some may be named by a record that has not come yet.
    pub fn waiting(&self) -> Waiting {
        Waiting(self.gaps.iter().map(|gap| (gap.epoch, !self.merged.contains(&gap.epoch))).collect())
    }

    /// Where UIDs and MODSEQs are raised beyond a position, ascending, and the journals whose tails may be missing there.
    pub fn gaps_after(&self, position: Position) -> Vec<(Position, Guid)> {
        let all = self.gaps.iter().map(|gap| (Position { epoch: gap.epoch, lsn: 0 }, Guid(gap.of.0)));
        all.filter(|(gap, _)| *gap > position).collect()
    }

    /// Changes with each committed flush, and when it comes or goes.
    pub fn generation(&self) -> (u64, u64) {
        (self.term, self.generation)
    }

    /// Notes whom the newest flush left out, and counts octets anew.
    pub fn note_left_out(&mut self, accounts: &BTreeSet<AccountId>) {
        self.left_out.clear();
        self.unflushed_octets = 0;
        for (account, records) in &self.unflushed {
            let octets = records.iter().map(|record| u64::from(record.octets)).sum::<u64>();
            match accounts.contains(account) {
                true => drop(self.left_out.insert(account.clone(), octets)),
                false => self.unflushed_octets += octets,
            }
        }
    }

    /// The oldest segment, by journal, that holds an unflushed record or the Flush record this partition stands on.
    pub fn needed_segments(&self) -> BTreeMap<(u32, u16), u64> {
        let mut needed: BTreeMap<(u32, u16), u64> = BTreeMap::new();
        let flush = self.flush.as_ref().and_then(|(_, segment)| *segment);
        // The records of an account are in order, but it may have lived on several shards.
        let records = self.unflushed.values().flatten().map(|record| record.segment);
        // Asked at every tick: records that follow each other mostly stand in one segment.
        let mut last = None;
        for segment in records.chain(flush) {
            if last.replace(segment) == Some(segment) {
                continue;
            }
            let least = needed.entry((segment.epoch, segment.shard)).or_insert(segment.number);
            *least = (*least).min(segment.number);
        }
        needed
    }

    /// Adds a record that was just committed.
    pub fn note_unflushed(&mut self, account: &AccountId, record: Unflushed) {
        for (at, position) in bodies_elsewhere(&record) {
            self.elsewhere.entry(at).or_insert(position);
        }
        match self.unflushed.get_mut(account) {
            Some(records) => {
                debug_assert!(records.last().is_none_or(|last| stands_before(last, &record)));
                records.push(record);
            }
            None => drop(self.unflushed.insert(account.clone(), vec![record])),
        }
    }

    /// Drops the records of an account that `gone` finds; it sees each once, in order.
    pub fn drop_unflushed(&mut self, account: &AccountId, mut gone: impl FnMut(&Unflushed) -> bool) {
        let Some(records) = self.unflushed.get_mut(account) else { return };
        records.retain(|record| {
            let gone = gone(record);
            if gone {
                for (at, position) in bodies_elsewhere(record) {
                    if self.elsewhere.get(&at) == Some(&position) {
                        self.elsewhere.remove(&at);
                    }
                }
            }
            !gone
        });
        if records.is_empty() {
            self.unflushed.remove(account);
        }
    }

    /// The body of an unflushed record at a place.
    pub fn unflushed_body(&mut self, account: &AccountId, place: &Place) -> Option<&mut UnflushedBody> {
        let records = self.unflushed.get_mut(account)?;
        let nth = match self.elsewhere.get(&(place.object, place.offset)) {
            Some(position) => records.binary_search_by_key(position, |record| record.position).ok()?,
            // The last record that begins before it.
            None => {
                let at = order(place.object, place.offset);
                records.partition_point(|record| order(record.segment, record.offset) <= at).checked_sub(1)?
            }
        };
        let bodies = &mut records[nth].bodies;
        // A record's bodies mostly stand in one object, in their order.
        let found = bodies.binary_search_by_key(&place.offset, |body| body.place.offset).ok();
        let found = found.filter(|nth| bodies[*nth].place == *place);
        let nth = found.or_else(|| bodies.iter().position(|body| body.place == *place))?;
        Some(&mut bodies[nth])
    }

    /// Does an unflushed record name this object?
    pub fn unflushed_names(&self, object: ObjectId) -> bool {
        self.unflushed
            .values()
            .flatten()
            .flat_map(|record| record.bodies.iter())
            .any(|b| b.place.object == object)
    }
}

/// Records of an account stand in this order in their journals, which is that of their positions: an epoch has one journal of the
/// account, whatever shard that is of.
fn order(segment: ObjectId, offset: u64) -> (u32, u64, u64) {
    (segment.epoch, segment.number, offset)
}

fn stands_before(one: &Unflushed, other: &Unflushed) -> bool {
    one.position < other.position && order(one.segment, one.offset) < order(other.segment, other.offset)
}

/// Where bodies stand that are not in their record, and its position.
fn bodies_elsewhere(record: &Unflushed) -> impl Iterator<Item = ((ObjectId, u64), Position)> {
    let inside = record.offset..record.offset + u64::from(record.octets);
    let of = record.bodies.iter().map(|body| body.place);
    of.filter(move |place| place.object != record.segment || !inside.contains(&place.offset))
        .map(|place| ((place.object, place.offset), record.position))
}

#[cfg(test)]
mod tests;
