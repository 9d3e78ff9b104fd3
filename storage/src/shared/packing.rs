//! Packing: on a shared store, bodies that a flush finds in journal objects move into packs of their partition first.
//!
//! # Order
//! Pack; then records that name the new places; then the flush, whose blocks name them too. A body that arrives meanwhile
//! stays in its journal object, which the manifest names, until the next flush.
//!
//! # Cost
//! One object for each partition (more above [`PACK_OCTETS_MAX`]), or with `pack = "single"` one for each message. A message
//! that was expunged before its flush is not copied.

use std::collections::BTreeMap;
use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::{sync, yield_if_needed};

use crate::body::{Body, Form, Frame, Unnamed};
use crate::cache::{Key, Part, Reading};
use crate::compact::MOVES_MAX;
use crate::error::{CommitError, FlushError, SourceError};
use crate::objects::Stored;
use crate::pack::PackWriter;
use crate::partition::Unflushed;
use crate::place::{ObjectKind, Place};
use crate::source::{LocalFuture, Source};
use crate::storage::Inner;

/// Octets from which on the next body goes into another pack.
const PACK_OCTETS_MAX: u64 = 64 << 20;

/// Packs of one message that are sent together: one after another they would hold a flush up by a round trip each.
const SINGLES_AT_A_TIME: usize = 16;

/// Accounts whose new places are journaled together: each waits for its commit.
const ACCOUNTS_AT_A_TIME: usize = 64;

/// Places of an account: old, new, and what makes the new one's pack garbage unless it is named.
type Moves = BTreeMap<AccountId, Vec<(Place, Place, Rc<Unnamed>)>>;

impl Inner {
    /// Moves what lives in journal objects, of the records that are not flushed.
    pub async fn pack_bodies(
        self: &Rc<Self>,
        id: PartitionId,
        source: &dyn Source,
        term: u64,
    ) -> Result<(), FlushError> {
        let moves = self.copy_to_packs(id, term).await?;
        let mut calls: Vec<LocalFuture<'_, Result<(), SourceError>>> = Vec::new();
        for (account, places) in &moves {
            for chunk in places.chunks(MOVES_MAX) {
                let bodies = chunk
                    .iter()
                    .map(|(old, new, pack)| (*old, Body(Form::Placed { place: *new, file: pack.clone() })));
                calls.push(source.relocated(id, account, bodies.collect()));
                if calls.len() >= ACCOUNTS_AT_A_TIME {
                    told(sync::all(std::mem::take(&mut calls)).await)?;
                    self.still(id, term)?;
                }
            }
        }
        told(sync::all(calls).await)?;
        self.still(id, term)
    }

    async fn copy_to_packs(self: &Rc<Self>, id: PartitionId, term: u64) -> Result<Moves, FlushError> {
        let records: Vec<(AccountId, Unflushed)> = {
            let partition = self.partition(id).borrow();
            let all = partition.unflushed.iter().flat_map(|(account, records)| {
                records.iter().map(move |record| (account.clone(), record.clone()))
            });
            all.filter(|(_, record)| record.bodies.iter().any(|body| !body.dead && moves(&body.place)))
                .collect()
        };
        let mut pack: Option<(PackWriter, Rc<Unnamed>)> = None;
        let mut full = Vec::new();
        let at_a_time = if self.limits.pack_single { SINGLES_AT_A_TIME } else { 1 };
        let mut moved = Moves::new();
        for (account, record) in records {
            self.still(id, term)?;
            let (meta, _) = self.read_record(id, &account, &record).await?;
            for body in record.bodies.iter().filter(|body| !body.dead && moves(&body.place)) {
                let frame = Frame::open(self, id, &body.place, body.place.length, Reading::Copy).await?;
                full.extend(pack.take_if(|(pack, _)| self.is_full(pack)));
                if full.len() >= at_a_time {
                    self.end_packs(id, std::mem::take(&mut full)).await?;
                }
                let (writer, guard) = match &mut pack {
                    Some(pack) => pack,
                    None => {
                        self.still(id, term)?;
                        pack.insert(self.new_pack(id).await?)
                    }
                };
                let new = writer.put(&frame, &account, &meta).await?;
                self.keep_moved(id, &body.place, &new, &frame);
                moved.entry(account.clone()).or_default().push((body.place, new, guard.clone()));
                yield_if_needed().await;
            }
        }
        full.extend(pack);
        self.end_packs(id, full).await?;
        Ok(moved)
    }

    /// A body that somebody has read stays in the cache under its new place.
    fn keep_moved(&self, partition: PartitionId, old: &Place, new: &Place, frame: &Frame) {
        let key =
            |place: &Place| Key { partition, object: place.object, offset: place.offset, part: Part::Frame };
        if let (Some(cache), Some(octets)) = (self.objects.stored().and_then(Stored::cache), frame.whole())
            && cache.was_used(&key(old))
        {
            cache.put(key(new), octets.len(), true, || octets.to_vec());
        }
    }

    fn is_full(&self, pack: &PackWriter) -> bool {
        self.limits.pack_single || pack.octets() >= PACK_OCTETS_MAX
    }

    async fn end_packs(
        &self,
        id: PartitionId,
        packs: Vec<(PackWriter, Rc<Unnamed>)>,
    ) -> Result<(), FlushError> {
        let ends = packs.into_iter().map(|(writer, _)| -> LocalFuture<'_, Result<(), FlushError>> {
            Box::pin(async move {
                let object = writer.object();
                writer.finish().await?;
                let name = self.objects.name(id, object);
                self.objects.publish(id, &[object]).await.map_err(FlushError::io(&name))
            })
        });
        sync::all(ends.collect()).await.into_iter().collect()
    }

    /// What was begun in one term of a partition is given up in another.
    pub fn still(&self, id: PartitionId, term: u64) -> Result<(), FlushError> {
        match self.partition(id).borrow().term == term {
            true => Ok(()),
            false => Err(FlushError::Commit(CommitError::Unknown)),
        }
    }
}

fn moves(place: &Place) -> bool {
    place.object.kind == ObjectKind::Segment
}

fn told(results: Vec<Result<(), SourceError>>) -> Result<(), FlushError> {
    results.into_iter().try_for_each(|result| Ok(result?))
}
