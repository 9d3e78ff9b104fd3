//! What this node commits itself goes into the cache as it is committed, and what it reads of the journals of others as it takes
//! over: nobody has to fetch it back.
//!
//! # Limits
//! Heads of records, and bodies in the journal up to [`WHOLE_MAX`], as far as the cache has promised room; what it has none for is
//! read of the store when it is wanted.

use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::{Queue, spawn};

use super::{Key, Part};
use crate::body::format::put_raw_frame;
use crate::body::{Body, Form, WHOLE_MAX};
use crate::journal::commit::OnCommit;
use crate::journal::format::{NewRecord, RecordKind, put_head};
use crate::objects::Stored;
use crate::place::{HERE, ObjectId};
use crate::shared::takeover::ReadPart;
use crate::storage::{Committed, Inner};

impl Inner {
    /// What is about to be committed goes into the cache when it is: whoever is told of it reads it, and so does the next flush.
    pub fn keep_committed(
        self: &Rc<Self>,
        partition: PartitionId,
        account: &AccountId,
        meta: &[u8],
        bodies: &[Body],
        on_commit: OnCommit,
    ) -> OnCommit {
        let Some(cache) = self.objects.stored().and_then(Stored::cache) else { return on_commit };
        // A record without bodies is read again, too: where its account is closed by then, by whoever opens it, and by the flush.
        let small = |body: &&Body| body.octets() <= WHOLE_MAX;
        let frames: usize = bodies.iter().map(Body::frame_octets).sum();
        let held: usize = bodies.iter().filter(small).map(Body::frame_octets).sum();
        let Some(promised) = cache.promise(meta.len() + held) else { return on_commit };
        let (cache, inner, account) = (cache.clone(), Rc::downgrade(self), account.clone());
        let frame = |body: &Body| {
            let mut frame = Vec::new();
            if let (Form::Inline { bytes, .. }, true) = (&body.0, small(&body)) {
                put_raw_frame(bytes, &mut frame);
            }
            frame
        };
        let kept: Vec<Vec<u8>> = if held > 0 { bodies.iter().map(frame).collect() } else { Vec::new() };
        let meta = meta.to_vec();
        Box::new(move |result| {
            drop(promised);
            if let (Ok(committed), Some(inner)) = (&result, inner.upgrade()) {
                if let Some((key, head)) = inner.record_head(partition, &account, &meta, frames, committed) {
                    cache.put(key, head.len(), false, || head);
                }
                for (place, frame) in committed.bodies.iter().zip(kept) {
                    let key =
                        Key { partition, object: place.object, offset: place.offset, part: Part::Frame };
                    if !frame.is_empty() {
                        cache.put(key, frame.len(), false, || frame);
                    }
                }
            }
            on_commit(result);
        })
    }

    /// What a takeover has read of unflushed records goes into the cache before anybody opens their accounts.
    pub fn keep_parts(&self, partition: PartitionId, parts: Vec<(ObjectId, ReadPart)>) {
        let Some(cache) = self.objects.stored().and_then(Stored::cache).filter(|_| !parts.is_empty()) else {
            return;
        };
        // Somebody waits for an account to be opened; bodies wait for a flush.
        let (heads, bodies): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(_, of)| of.part == Part::RecordHead);
        let entries = heads.into_iter().chain(bodies).map(move |(object, of)| {
            let ReadPart { offset, part, octets } = of;
            (Key { partition, object, offset, part }, octets.into_vec())
        });
        self.run_beside(spawn(Queue::Background, "parts of records", cache.clone().feed(entries)));
    }

    /// The head of a record that was just committed, as it stands in its journal object.
    fn record_head(
        &self,
        id: PartitionId,
        account: &AccountId,
        meta: &[u8],
        frames: usize,
        committed: &Committed,
    ) -> Option<(Key, Vec<u8>)> {
        let partition = self.partition(id).borrow();
        let records = partition.unflushed.get(account)?;
        let record = records.iter().rev().find(|record| record.position == committed.position)?;
        let mut places = committed.bodies.clone();
        for place in places.iter_mut().filter(|place| place.object == record.segment) {
            place.object.number = HERE;
            place.offset -= record.offset;
        }
        let (kind, epoch, account) = (RecordKind::Data, committed.position.epoch, account.as_str());
        let mut head = Vec::new();
        put_head(
            &NewRecord { kind, partition: id, epoch, account, meta, places: &places },
            frames,
            &mut head,
        );
        let part = Part::RecordHead;
        Some((Key { partition: id, object: record.segment, offset: record.offset, part }, head))
    }
}
