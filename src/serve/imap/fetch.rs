//! FETCH: answers copied from prepared wire forms; message octets streamed from where they lie.
//!
//! # Cost
//! No allocation per message where no message octets are asked for.

use super::{Imap, User};
use culver_index::Row;
use culver_mailbox::View;
use culver_model::mime::{PartTable, Section, SectionText, covers, filter_header, resolve};
use culver_model::{InternalDate, Keyword, Uid, UidSet};
use culver_proto::imap::command::{Fetch, FetchItems, FetchSection};
use culver_proto::imap::encode::{self, BodyName, FetchWriter};
use culver_proto::imap::{Code, Reason, Refusal, Status, response};
use culver_shard as shard;
use culver_storage::{Place, ReadError};
use std::io;
use std::ops::Range;

/// Rows written between two looks at whether the client reads.
const ROWS_STEP: usize = 256;
/// Octets of a message that are read and sent at a time.
const CHUNK_OCTETS: u64 = 256 * 1024;
/// Longest header that is filtered for HEADER.FIELDS; of a longer one the fields beyond are not seen.
const HEADER_OCTETS_MAX: u64 = 4 << 20;

/// `* n FETCH (FLAGS …)`, as changes are told.
pub fn write_flags(out: &mut Vec<u8>, view: &View, row: &Row<'_>, modseq: bool, uid: bool) {
    let Some(sequence) = view.sequence_of(row.uid()) else { return };
    let mut writer = FetchWriter::new(out, sequence);
    if uid {
        writer.uid(row.uid());
    }
    writer.flags(row.system(), view.is_recent(row.uid()), row.keywords().map(Keyword::as_str));
    // RFC 7162 §3.2: once CONDSTORE is enabled, MODSEQ stands in every untagged FETCH.
    if modseq {
        writer.modseq(row.modseq());
    }
    writer.finish();
}

/// The items that stand in the row.
fn write_row(writer: &mut FetchWriter<'_>, view: &View, row: &Row<'_>, items: &FetchItems) {
    if items.uid {
        writer.uid(row.uid());
    }
    if items.flags {
        writer.flags(row.system(), view.is_recent(row.uid()), row.keywords().map(Keyword::as_str));
    }
    if items.modseq {
        writer.modseq(row.modseq());
    }
    if items.internal_date {
        writer.internal_date(row.internal_date());
    }
    if items.save_date {
        let seconds = Some(row.save_date()).filter(|seconds| *seconds != 0);
        writer.save_date(seconds.map(|seconds| InternalDate { seconds, zone_minutes: 0 }));
    }
    if items.email_id {
        writer.email_id(row.email_id());
    }
    if items.thread_id {
        writer.no_thread_id();
    }
    if items.size {
        writer.size(row.size());
    }
    if items.envelope {
        writer.envelope(row.envelope());
    }
    if items.body {
        writer.body(row.body());
    }
    if items.body_structure {
        writer.body_structure(row.bodystructure());
    }
}

/// The message cannot be read to its end: said in the log, for the client hears no more.
fn unreadable(peer: &super::Peer, error: &ReadError) -> io::Error {
    tracing::error!(session = %peer.id, %error, "a message cannot be read to its end");
    io::Error::other("message unreadable within a response")
}

/// Whether any item stands in the row.
fn of_rows(items: &FetchItems) -> bool {
    items.uid
        || items.flags
        || items.modseq
        || items.internal_date
        || items.save_date
        || items.email_id
        || items.thread_id
        || items.size
        || items.envelope
        || items.body
        || items.body_structure
}

/// Octets that one body item answers with.
enum Octets {
    Nil,
    Ready(Vec<u8>),
    /// Of the message.
    Range(Range<u64>),
    /// A header of the message, filtered.
    Filtered {
        range: Range<u64>,
        names: Vec<String>,
        not: bool,
    },
}

/// Where a message's octets are, and what is known of their structure.
struct Source {
    place: Option<Place>,
    table: PartTable,
}

/// What a section names, as far as it is known without reading the message.
fn plan(source: &Source, section: &Section, row: &Row<'_>) -> Octets {
    if section.part.is_empty()
        && let Some(SectionText::HeaderFields(names)) = &section.text
        && row.headers_complete()
        && covers(names)
    {
        return Octets::Ready(filter_header(row.headers(), names, false));
    }
    match resolve(&source.table, section) {
        None => Octets::Nil,
        Some(resolved) => match resolved.fields {
            None => Octets::Range(resolved.range),
            Some(fields) => {
                Octets::Filtered { range: resolved.range, names: fields.names.to_vec(), not: fields.not }
            }
        },
    }
}

fn cut(octets: Vec<u8>, partial: Option<(u32, u32)>) -> Vec<u8> {
    match partial {
        None => octets,
        Some((origin, most)) => {
            let from = (origin as usize).min(octets.len());
            let to = from.saturating_add(most as usize).min(octets.len());
            octets[from..to].to_vec()
        }
    }
}

fn cut_range(range: Range<u64>, partial: Option<(u32, u32)>) -> Range<u64> {
    match partial {
        None => range,
        Some((origin, most)) => {
            let from = range.start.saturating_add(u64::from(origin)).min(range.end);
            from..from.saturating_add(u64::from(most)).min(range.end)
        }
    }
}

impl Imap {
    pub(super) async fn fetch(&mut self, tag: &str, fetch: &Fetch, pipelined: bool) -> io::Result<()> {
        if fetch.vanished && !self.server.state().enabled.qresync {
            // RFC 7162 §3.2.6: the modifier needs ENABLE QRESYNC first.
            Refusal::Expected("ENABLE QRESYNC before VANISHED").write(Some(tag), &mut self.out);
            return Ok(());
        }
        let mut uids = match self.messages(fetch.uid, &fetch.set) {
            Ok(uids) => uids,
            Err(reason) => {
                reason.write(tag, &mut self.out);
                return Ok(());
            }
        };
        if let Some(range) = fetch.partial {
            // RFC 9394 §3.4: the range is taken first, and of that what changed.
            let places = range.of(uids.len());
            uids = uids.places(places);
        }
        let enabled = self.server.state().enabled;
        let mut items = fetch.items.clone();
        // RFC 7162 §3.1: once it is enabled, MODSEQ in every FETCH that tells of flags.
        items.modseq |= enabled.condstore && (items.flags || items.sets_seen());
        if let Some(modseq) = fetch.changed_since {
            let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(()) };
            let state = session.account().state();
            let Some(index) = state.selectable(selected.view.mailbox()) else { return Ok(()) };
            if fetch.vanished {
                let known = match &fetch.set {
                    // RFC 7162 §3.2.6: `*` reaches beyond what is visible, or what went there is never told.
                    culver_proto::imap::MessageSet::Set(set) => set.resolve(u32::MAX),
                    culver_proto::imap::MessageSet::Saved => uids.clone(),
                };
                let gone = super::select::vanished_since(index, modseq, &known);
                encode::vanished(&mut self.out, true, &gone);
            }
            let mut changed = UidSet::new();
            index.changed_since(modseq).for_each(|row| changed.insert(row.uid().get()));
            uids = uids.intersection(&changed);
        }
        let wanted = uids.len();
        let (found, unseen) = if items.needs_octets() {
            match self.fetch_octets(&uids, &items).await? {
                Ok(done) => done,
                Err(error) => {
                    if let Some(away) = self.away().await {
                        away.write_imap(tag, &mut self.out);
                        return Ok(());
                    }
                    tracing::error!(session = %self.peer.id, %error, "a message cannot be read");
                    let reason = match error {
                        ReadError::Corrupt { .. } => Reason::Corruption,
                        _ => Reason::Unavailable,
                    };
                    reason.write(tag, &mut self.out);
                    return Ok(());
                }
            }
        } else {
            (self.fetch_rows(&uids, &items).await?, UidSet::new())
        };
        if !unseen.is_empty() {
            self.set_seen(unseen).await;
        }
        self.sync(fetch.uid && !pipelined);
        if found < wanted && found == 0 {
            Reason::ExpungeIssued.write(tag, &mut self.out);
        } else if found < wanted {
            let code = Code::ExpungeIssued;
            response::tagged(&mut self.out, tag, Status::No, Some(&code), "Some messages are expunged");
        } else {
            response::tagged(&mut self.out, tag, Status::Ok, None, "Fetched");
        }
        Ok(())
    }

    /// Items of the rows alone. Answers how many messages were there.
    async fn fetch_rows(&mut self, uids: &UidSet, items: &FetchItems) -> io::Result<u64> {
        let mut found = 0;
        let mut from = 1;
        loop {
            {
                let Some(User { session, selected: Some(selected), .. }) = &self.user else {
                    return Ok(found);
                };
                let state = session.account().state();
                let Some(index) = state.selectable(selected.view.mailbox()) else { return Ok(found) };
                let rest = uids.intersection(&UidSet::from_iter([from..=u32::MAX]));
                let mut written = 0;
                let mut last = None;
                for row in index.rows(&rest) {
                    last = Some(row.uid().get());
                    let Some(sequence) = selected.view.sequence_of(row.uid()) else { continue };
                    let mut writer = FetchWriter::new(&mut self.out, sequence);
                    write_row(&mut writer, &selected.view, &row, items);
                    writer.finish();
                    found += 1;
                    written += 1;
                    if written == ROWS_STEP || self.out.len() >= super::OUT_OCTETS_MAX {
                        break;
                    }
                }
                match last.and_then(|last| last.checked_add(1)) {
                    Some(next) => from = next,
                    None => return Ok(found),
                }
            }
            self.flush_full().await?;
            shard::yield_if_needed().await;
        }
    }

    /// Items that need message octets, one message after the other. Answers how many were there, and which of them
    /// this made \Seen.
    async fn fetch_octets(
        &mut self,
        uids: &UidSet,
        items: &FetchItems,
    ) -> io::Result<Result<(u64, UidSet), ReadError>> {
        let mut found = 0;
        let mut unseen = UidSet::new();
        let sections = all_sections(items);
        for uid in uids.iter().filter_map(Uid::new) {
            let mut again = false;
            loop {
                let plans = {
                    let Some(User { session, selected: Some(selected), .. }) = &self.user else { break };
                    let state = session.account().state();
                    let index = state.selectable(selected.view.mailbox());
                    let Some(row) = index.and_then(|index| index.get(uid)) else { break };
                    let Some(sequence) = selected.view.sequence_of(uid) else { break };
                    let Ok(table) = PartTable::decode(row.parts()) else {
                        tracing::error!(session = %self.peer.id, %uid, "a stored part table is damaged");
                        break;
                    };
                    let source = Source { place: Place::from_bytes(row.place()), table };
                    let plans: Vec<Octets> =
                        sections.iter().map(|wanted| plan(&source, &wanted.section, &row)).collect();
                    let sets_seen =
                        items.sets_seen() && !selected.read_only && !row.has(culver_model::SystemFlag::Seen);
                    (sequence, plans, source, sets_seen)
                };
                let (sequence, plans, source, sets_seen) = plans;
                match self.write_octets(uid, sequence, items, &sections, plans, &source).await? {
                    Ok(written) => {
                        found += u64::from(written);
                        if written && sets_seen {
                            unseen.insert(uid.get());
                        }
                        break;
                    }
                    // Compaction moved it between the look and the read: look again, once.
                    Err(ReadError::Gone(_)) if !again => again = true,
                    Err(error) => return Ok(Err(error)),
                }
            }
            self.flush_full().await?;
            shard::yield_if_needed().await;
        }
        Ok(Ok((found, unseen)))
    }

    /// False where the message was expunged before anything was said of it.
    async fn write_octets(
        &mut self,
        uid: Uid,
        sequence: u32,
        items: &FetchItems,
        sections: &[Wanted],
        plans: Vec<Octets>,
        source: &Source,
    ) -> io::Result<Result<bool, ReadError>> {
        let mut began = of_rows(items);
        let mut plans = plans.into_iter().zip(sections);
        // The first is read before anything is said, so that a failure is an honest NO.
        let mut next = match plans.next() {
            Some((octets, wanted)) => match self.fetch_section(octets, wanted.partial, source).await {
                Ok(octets) => Some((octets, wanted)),
                Err(error) => return Ok(Err(error)),
            },
            None => None,
        };
        {
            let Some(User { session, selected: Some(selected), .. }) = &self.user else {
                return Ok(Ok(false));
            };
            let state = session.account().state();
            let index = state.selectable(selected.view.mailbox());
            let Some(row) = index.and_then(|index| index.get(uid)) else { return Ok(Ok(false)) };
            if began {
                let mut writer = FetchWriter::new(&mut self.out, sequence);
                write_row(&mut writer, &selected.view, &row, items);
            }
        }
        while let Some((octets, Wanted { named, section, partial })) = next {
            let name = match named {
                Named::Section => BodyName::Section { section, origin: partial.map(|partial| partial.0) },
                Named::Rfc822 => BodyName::Rfc822,
                Named::Rfc822Header => BodyName::Rfc822Header,
                Named::Rfc822Text => BodyName::Rfc822Text,
            };
            let mut writer = match began {
                true => FetchWriter::resume(&mut self.out),
                false => FetchWriter::new(&mut self.out, sequence),
            };
            began = true;
            match octets {
                Octets::Nil | Octets::Filtered { .. } => writer.nil(name),
                Octets::Ready(octets) => {
                    writer.octets(name, &octets);
                    self.sent(octets.len() as u64);
                }
                Octets::Range(range) => {
                    writer.literal(name, range.end - range.start);
                    self.stream(uid, source, range).await?;
                }
            }
            self.flush_full().await?;
            next = match plans.next() {
                Some((octets, wanted)) => match self.fetch_section(octets, wanted.partial, source).await {
                    Ok(octets) => Some((octets, wanted)),
                    // The response has begun: the connection cannot be kept honest any more.
                    Err(error) => return Err(unreadable(&self.peer, &error)),
                },
                None => None,
            };
        }
        FetchWriter::resume(&mut self.out).finish();
        Ok(Ok(true))
    }

    /// The octets of one item, read where they are few, else their range.
    async fn fetch_section(
        &self,
        octets: Octets,
        partial: Option<(u32, u32)>,
        source: &Source,
    ) -> Result<Octets, ReadError> {
        Ok(match octets {
            Octets::Nil => Octets::Nil,
            Octets::Ready(octets) => Octets::Ready(cut(octets, partial)),
            Octets::Range(range) => {
                let range = cut_range(range, partial);
                if range.end - range.start > CHUNK_OCTETS {
                    Octets::Range(range)
                } else {
                    Octets::Ready(self.read(source, range).await?)
                }
            }
            Octets::Filtered { range, names, not } => {
                let range = range.start..range.end.min(range.start + HEADER_OCTETS_MAX);
                let header = self.read(source, range).await?;
                Octets::Ready(cut(filter_header(&header, &names, not), partial))
            }
        })
    }

    async fn read(&self, source: &Source, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.read_at(source.place.as_ref(), range).await
    }

    async fn read_at(&self, place: Option<&Place>, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let (Some(user), Some(place)) = (&self.user, place) else { return Ok(Vec::new()) };
        let account = user.session.account();
        let storage = self.shard.accounts().storage();
        storage.read_place_for(account.partition(), account.id(), place, range).await
    }

    /// Sends a long range chunk by chunk. What compaction moves meanwhile is looked up again.
    async fn stream(&mut self, uid: Uid, source: &Source, range: Range<u64>) -> io::Result<()> {
        let mut place = source.place;
        let mut from = range.start;
        self.flush().await?;
        while from < range.end {
            let to = range.end.min(from + CHUNK_OCTETS);
            let mut read = self.read_at(place.as_ref(), from..to).await;
            if matches!(read, Err(ReadError::Gone(_))) {
                place = self.place_of(uid);
                read = self.read_at(place.as_ref(), from..to).await;
            }
            let mut octets = match read {
                Ok(octets) if octets.len() as u64 == to - from => octets,
                Ok(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(error) => return Err(unreadable(&self.peer, &error)),
            };
            encode::mask_nul(&mut octets);
            self.send(&octets).await?;
            self.sent(octets.len() as u64);
            from = to;
        }
        Ok(())
    }

    /// Where the message is now.
    fn place_of(&self, uid: Uid) -> Option<Place> {
        let User { session, selected: Some(selected), .. } = self.user.as_ref()? else { return None };
        let state = session.account().state();
        let row = state.selectable(selected.view.mailbox())?.get(uid)?;
        Place::from_bytes(row.place())
    }

    /// The implicit \Seen, committed behind the answer.
    async fn set_seen(&mut self, uids: UidSet) {
        let Some(User { session, selected: Some(selected), .. }) = &self.user else { return };
        let record = super::select::seen(selected.view.mailbox(), uids);
        if let Err(error) = session.change(record).await {
            tracing::warn!(session = %self.peer.id, %error, "\\Seen was not stored");
        }
    }
}

/// Under which name a section was asked for.
enum Named {
    Section,
    Rfc822,
    Rfc822Header,
    Rfc822Text,
}

/// One body item.
struct Wanted {
    named: Named,
    section: Section,
    /// First octet and most octets.
    partial: Option<(u32, u32)>,
}

fn all_sections(items: &FetchItems) -> Vec<Wanted> {
    let whole = |named, text| Wanted { named, section: Section { part: Vec::new(), text }, partial: None };
    let mut sections = Vec::new();
    if items.rfc822 {
        sections.push(whole(Named::Rfc822, None));
    }
    if items.rfc822_header {
        sections.push(whole(Named::Rfc822Header, Some(SectionText::Header)));
    }
    if items.rfc822_text {
        sections.push(whole(Named::Rfc822Text, Some(SectionText::Text)));
    }
    for FetchSection { section, partial, .. } in &items.sections {
        sections.push(Wanted { named: Named::Section, section: section.clone(), partial: *partial });
    }
    sections
}
