//! FETCH: answers copied from prepared wire forms; message octets streamed from where they lie.
//!
//! # Cost
//! No allocation per message where no message octets are asked for.

use super::{Imap, User};
use culver_index::Row;
use culver_mailbox::View;
use culver_model::mime::{
    Decoder, Encoding, PartTable, Section, SectionText, covers, filter_header, resolve, resolve_binary,
};
use culver_model::text::preview::{self, PreviewPart, Step};
use culver_model::{Guid, InternalDate, Keyword, Uid, UidSet};
use culver_proto::imap::command::{Fetch, FetchBinary, FetchItems, FetchSection, Preview};
use culver_proto::imap::encode::{self, BodyName, FetchWriter};
use culver_proto::imap::{Code, Enabled, Reason, Refusal, Status, response};
use culver_shard::{self as shard, time};
use culver_storage::{Place, ReadError};
use std::io;
use std::ops::Range;
use std::time::Duration;

/// Rows written between two looks at whether the client reads.
const ROWS_STEP: usize = 256;
/// Octets of a message that are read and sent at a time.
const CHUNK_OCTETS: u64 = 256 * 1024;
/// Octets of a text that are read at a time for its preview.
const PREVIEW_OCTETS: u64 = 16 * 1024;
/// What is no undue delay for a preview that is asked for with LAZY.
const LAZY_WITHIN: Duration = Duration::from_millis(50);
/// Longest header that is filtered for HEADER.FIELDS; of a longer one the fields beyond are not seen.
const HEADER_OCTETS_MAX: u64 = 4 << 20;

/// How a session is told of messages.
#[derive(Clone, Copy)]
pub struct Manner {
    /// RFC 7162 §3.2: once CONDSTORE is enabled, MODSEQ stands in every untagged FETCH.
    pub modseq: bool,
    pub uid: bool,
    /// RFC 9586: by their UIDs, not by their sequence numbers.
    pub uid_only: bool,
}

impl Manner {
    /// Where the client asked for none of it. `uid_command`: the command under way is a UID command.
    pub fn unasked(enabled: Enabled, uid_command: bool) -> Manner {
        // RFC 7162 §3.2.4, RFC 9051 §7.5.2: the UID stands in what others' changes cause, too.
        let uid = (enabled.condstore || enabled.rev2 || uid_command) && !enabled.uid_only;
        Manner { modseq: enabled.condstore, uid, uid_only: enabled.uid_only }
    }
}

/// Begins the response for a message. `None`: it is not in view.
pub fn begin<'o>(out: &'o mut Vec<u8>, view: &View, uid: Uid, uid_only: bool) -> Option<FetchWriter<'o>> {
    let sequence = view.sequence_of(uid)?;
    Some(if uid_only { FetchWriter::by_uid(out, uid) } else { FetchWriter::new(out, sequence) })
}

/// `* n FETCH (FLAGS …)`, as changes are told.
pub fn write_flags(out: &mut Vec<u8>, view: &View, row: &Row<'_>, manner: Manner) {
    let Some(mut writer) = begin(out, view, row.uid(), manner.uid_only) else { return };
    if manner.uid {
        writer.uid(row.uid());
    }
    writer.flags(row.system(), view.is_recent(row.uid()), row.keywords().map(Keyword::as_str));
    if manner.modseq {
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
fn unreadable(peer: &super::Peer, error: &dyn std::fmt::Display) -> io::Error {
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

/// Why a message cannot be answered.
pub(super) enum FetchError {
    Read(ReadError),
    /// RFC 3516 §4.3: of a part that is to be decoded.
    UnknownCte,
}

impl From<ReadError> for FetchError {
    fn from(error: ReadError) -> FetchError {
        FetchError::Read(error)
    }
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchError::Read(error) => error.fmt(f),
            FetchError::UnknownCte => f.write_str("unknown content transfer encoding"),
        }
    }
}

/// Octets that one body item answers with.
pub(super) enum Octets {
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
    /// Of the message, to be decoded.
    Encoded {
        range: Range<u64>,
        encoding: Encoding,
    },
    /// The same where they are many: which of the decoded octets are wanted.
    Decoded {
        range: Range<u64>,
        encoding: Encoding,
        wanted: Range<u64>,
    },
    /// How many there are.
    Size(u64),
    /// What may be shown of it.
    Previews(Vec<PreviewPart>),
    /// `None`: not now.
    Preview(Option<String>),
    UnknownCte,
}

/// Where a message's octets are, and what is known of their structure.
pub(super) struct Source {
    mailbox: Guid,
    uid: Uid,
    place: Option<Place>,
    table: PartTable,
}

impl Source {
    pub fn of(mailbox: Guid, row: &Row<'_>) -> Option<Source> {
        let table = PartTable::decode(row.parts()).ok()?;
        Some(Source { mailbox, uid: row.uid(), place: Place::from_bytes(row.place()), table })
    }
}

/// What BINARY names.
fn plan_binary(source: &Source, part: &[u32]) -> Octets {
    match resolve_binary(&source.table, part) {
        None => Octets::Nil,
        // RFC 3516 §4.3.
        Some(binary) if binary.encoding.decoder().is_err() => Octets::UnknownCte,
        Some(binary) => Octets::Encoded { range: binary.range, encoding: binary.encoding },
    }
}

/// What a section names, as far as it is known without reading the message.
pub(super) fn plan(source: &Source, section: &Section, row: &Row<'_>) -> Octets {
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
                    let reason = match error {
                        FetchError::UnknownCte => Reason::UnknownCte,
                        FetchError::Read(error) => {
                            tracing::error!(session = %self.peer.id, %error, "a message cannot be read");
                            match error {
                                ReadError::Corrupt { .. } => Reason::Corruption,
                                _ => Reason::Unavailable,
                            }
                        }
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
    pub(super) async fn fetch_rows(&mut self, uids: &UidSet, items: &FetchItems) -> io::Result<u64> {
        let (mut found, mut from) = (0, 1);
        let uid_only = self.server.state().enabled.uid_only;
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
                    let Some(mut writer) = begin(&mut self.out, &selected.view, row.uid(), uid_only) else {
                        continue;
                    };
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
    pub(super) async fn fetch_octets(
        &mut self,
        uids: &UidSet,
        items: &FetchItems,
    ) -> io::Result<Result<(u64, UidSet), FetchError>> {
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
                    if selected.view.sequence_of(uid).is_none() {
                        break;
                    }
                    let Some(source) = Source::of(selected.view.mailbox(), &row) else {
                        tracing::error!(session = %self.peer.id, %uid, "a stored part table is damaged");
                        break;
                    };
                    let plans: Vec<Octets> = sections
                        .iter()
                        .map(|wanted| match wanted.named {
                            Named::Binary | Named::BinarySize => plan_binary(&source, &wanted.section.part),
                            Named::Preview(_) => Octets::Previews(preview::choose(&source.table)),
                            _ => plan(&source, &wanted.section, &row),
                        })
                        .collect();
                    let sets_seen =
                        items.sets_seen() && !selected.read_only && !row.has(culver_model::SystemFlag::Seen);
                    (plans, source, sets_seen)
                };
                let (plans, source, sets_seen) = plans;
                match self.write_octets(uid, items, &sections, plans, &source).await? {
                    Ok(written) => {
                        found += u64::from(written);
                        if written && sets_seen {
                            unseen.insert(uid.get());
                        }
                        break;
                    }
                    // Compaction moved it between the look and the read: look again, once.
                    Err(FetchError::Read(ReadError::Gone(_))) if !again => again = true,
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
        items: &FetchItems,
        sections: &[Wanted],
        plans: Vec<Octets>,
        source: &Source,
    ) -> io::Result<Result<bool, FetchError>> {
        let mut began = of_rows(items);
        let uid_only = self.server.state().enabled.uid_only;
        let plans: Vec<(Octets, &Wanted)> = plans.into_iter().zip(sections).collect();
        let mut plans = plans.into_iter();
        // The first is read before anything is said, so that a failure is an honest NO.
        let mut next = match plans.next() {
            Some((octets, wanted)) => match self.fetch_section(octets, wanted, source).await {
                Ok(octets) => Some((octets, wanted)),
                Err(error) => return Ok(Err(error)),
            },
            None => None,
        };
        // What is to be decoded and cannot be is said before anything else is.
        if plans.as_slice().iter().any(|(octets, _)| matches!(octets, Octets::UnknownCte)) {
            return Ok(Err(FetchError::UnknownCte));
        }
        {
            let Some(User { session, selected: Some(selected), .. }) = &self.user else {
                return Ok(Ok(false));
            };
            let state = session.account().state();
            let index = state.selectable(selected.view.mailbox());
            let Some(row) = index.and_then(|index| index.get(uid)) else { return Ok(Ok(false)) };
            let Some(mut writer) = begin(&mut self.out, &selected.view, uid, uid_only) else {
                return Ok(Ok(false));
            };
            if began {
                write_row(&mut writer, &selected.view, &row, items);
            }
        }
        while let Some((octets, Wanted { named, section, partial })) = next {
            let name = match named {
                Named::Section => BodyName::Section { section, origin: partial.map(|partial| partial.0) },
                Named::Rfc822 | Named::Binary | Named::BinarySize | Named::Preview(_) => BodyName::Rfc822,
                Named::Rfc822Header => BodyName::Rfc822Header,
                Named::Rfc822Text => BodyName::Rfc822Text,
            };
            let mut writer = match began {
                true => FetchWriter::resume(&mut self.out),
                false => FetchWriter::begun(&mut self.out),
            };
            began = true;
            let (part, origin) = (section.part.as_slice(), partial.map(|partial| partial.0));
            match (named, octets) {
                (Named::Preview(_), Octets::Preview(text)) => writer.preview(text.as_deref()),
                (Named::BinarySize, Octets::Size(octets)) => writer.binary_size(part, octets),
                (Named::BinarySize, _) => writer.binary_size(part, 0),
                (Named::Binary, Octets::Ready(octets)) => {
                    writer.binary(part, origin, Some(&octets));
                    self.sent(octets.len() as u64);
                }
                (Named::Binary, Octets::Range(range)) => {
                    writer.binary_literal(part, origin, range.end - range.start);
                    self.stream(source, range, false).await?;
                }
                (Named::Binary, Octets::Decoded { range, encoding, wanted }) => {
                    writer.binary_literal(part, origin, wanted.end - wanted.start);
                    self.stream_decoded(source, range, encoding, wanted).await?;
                }
                (Named::Binary, _) => writer.binary(part, origin, None),
                (_, Octets::Ready(octets)) => {
                    writer.octets(name, &octets);
                    self.sent(octets.len() as u64);
                }
                (_, Octets::Range(range)) => {
                    writer.literal(name, range.end - range.start);
                    self.stream(source, range, true).await?;
                }
                (_, _) => writer.nil(name),
            }
            self.flush_full().await?;
            next = match plans.next() {
                Some((octets, wanted)) => match self.fetch_section(octets, wanted, source).await {
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
        wanted: &Wanted,
        source: &Source,
    ) -> Result<Octets, FetchError> {
        let partial = wanted.partial;
        Ok(match octets {
            Octets::UnknownCte => return Err(FetchError::UnknownCte),
            Octets::Nil | Octets::Size(_) | Octets::Decoded { .. } | Octets::Preview(_) => octets,
            Octets::Previews(parts) => Octets::Preview(match wanted.named {
                // RFC 8970 §4.1.
                Named::Preview(Preview::Lazy) => {
                    time::deadline(LAZY_WITHIN, self.preview(source, parts)).await.ok().transpose()?
                }
                _ => Some(self.preview(source, parts).await?),
            }),
            Octets::Encoded { range, encoding: Encoding::Identity } => {
                let octets = range.end - range.start;
                let range = cut_range(range, partial);
                match wanted.named {
                    Named::BinarySize => Octets::Size(octets),
                    _ if range.end - range.start > CHUNK_OCTETS => Octets::Range(range),
                    _ => Octets::Ready(self.read(source, range).await?),
                }
            }
            Octets::Encoded { range, encoding } if range.end - range.start <= CHUNK_OCTETS => {
                let encoded = self.read(source, range).await?;
                let mut decoder = Decoder::new(encoding);
                let mut octets = Vec::with_capacity(encoded.len());
                decoder.feed(&encoded, &mut octets);
                decoder.finish(&mut octets);
                match wanted.named {
                    Named::BinarySize => Octets::Size(octets.len() as u64),
                    _ => Octets::Ready(cut(octets, partial)),
                }
            }
            Octets::Encoded { range, encoding } => {
                // How many there are has to be said before the first of them.
                let octets = self.decoded_octets(source, range.clone(), encoding).await?;
                match wanted.named {
                    Named::BinarySize => Octets::Size(octets),
                    _ => Octets::Decoded { range, encoding, wanted: cut_range(0..octets, partial) },
                }
            }
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

    async fn preview(&self, source: &Source, parts: Vec<PreviewPart>) -> Result<String, ReadError> {
        for part in parts {
            let (mut preview, mut from) = (preview::Preview::new(&part), part.range.start);
            while from < part.range.end {
                let to = part.range.end.min(from + PREVIEW_OCTETS);
                let octets = self.read(source, from..to).await?;
                if preview.feed(&octets) == Step::Done {
                    break;
                }
                from = to;
                shard::yield_if_needed().await;
            }
            let text = preview.finish();
            if !text.is_empty() {
                return Ok(text);
            }
        }
        Ok(String::new())
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

    /// Sends a long range chunk by chunk.
    async fn stream(&mut self, source: &Source, range: Range<u64>, text: bool) -> io::Result<()> {
        let mut chunks = Chunks::of(source, range);
        self.flush().await?;
        loop {
            let mut octets = match self.next_chunk(&mut chunks).await {
                Ok(Some(octets)) => octets,
                Ok(None) if chunks.is_done() => return Ok(()),
                Ok(None) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(error) => return Err(unreadable(&self.peer, &error)),
            };
            if text {
                encode::mask_nul(&mut octets);
            }
            self.send(&octets).await?;
            self.sent(octets.len() as u64);
        }
    }

    /// Sends decoded octets of a long range chunk by chunk.
    async fn stream_decoded(
        &mut self,
        source: &Source,
        range: Range<u64>,
        encoding: Encoding,
        wanted: Range<u64>,
    ) -> io::Result<()> {
        let mut chunks = Chunks::of(source, range);
        let mut decoder = Decoder::new(encoding);
        let (mut at, mut octets) = (0, Vec::new());
        self.flush().await?;
        while at < wanted.end {
            octets.clear();
            match self.next_chunk(&mut chunks).await {
                Ok(Some(encoded)) => decoder.feed(&encoded, &mut octets),
                // What was held back at the end.
                Ok(None) if chunks.ended || !chunks.is_done() => {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                Ok(None) => {
                    chunks.ended = true;
                    decoder.finish(&mut octets);
                }
                Err(error) => return Err(unreadable(&self.peer, &error)),
            }
            let from = wanted.start.saturating_sub(at).min(octets.len() as u64) as usize;
            let to = (wanted.end - at).min(octets.len() as u64) as usize;
            at += octets.len() as u64;
            if from < to {
                self.send(&octets[from..to]).await?;
                self.sent((to - from) as u64);
            }
        }
        Ok(())
    }

    async fn decoded_octets(
        &self,
        source: &Source,
        range: Range<u64>,
        encoding: Encoding,
    ) -> Result<u64, ReadError> {
        let mut chunks = Chunks::of(source, range);
        let (mut decoder, mut octets) = (Decoder::new(encoding), 0);
        while let Some(encoded) = self.next_chunk(&mut chunks).await? {
            octets += decoder.count(&encoded);
            shard::yield_if_needed().await;
        }
        Ok(octets + decoder.finish_count())
    }

    /// The next octets of a range. What compaction moves meanwhile is looked up again. `None` at its end, and where the message is
    /// expunged.
    pub(super) async fn next_chunk(&self, chunks: &mut Chunks) -> Result<Option<Vec<u8>>, ReadError> {
        let Chunks { mailbox, uid, place, range, .. } = chunks;
        if range.is_empty() {
            return Ok(None);
        }
        let to = range.end.min(range.start + CHUNK_OCTETS);
        let mut read = self.read_at(place.as_ref(), range.start..to).await;
        if matches!(read, Err(ReadError::Gone(_))) {
            *place = self.place_of(*mailbox, *uid);
            read = self.read_at(place.as_ref(), range.start..to).await;
        }
        let octets = read?;
        if octets.len() as u64 != to - range.start {
            return Ok(None);
        }
        range.start = to;
        Ok(Some(octets))
    }

    /// Where the message is now.
    fn place_of(&self, mailbox: Guid, uid: Uid) -> Option<Place> {
        let state = self.user.as_ref()?.session.account().state();
        Place::from_bytes(state.selectable(mailbox)?.get(uid)?.place())
    }

    /// What a section of any message names: octets that are at hand, or a range of them. `None`: nothing.
    pub(super) async fn section_of(
        &self,
        mailbox: Guid,
        uid: Uid,
        section: &Section,
    ) -> Option<(Source, Octets)> {
        let (source, octets) = {
            let state = self.user.as_ref()?.session.account().state();
            let row = state.selectable(mailbox)?.get(uid)?;
            let source = Source::of(mailbox, &row)?;
            let octets = plan(&source, section, &row);
            (source, octets)
        };
        let octets = match octets {
            Octets::Filtered { range, names, not } => {
                let range = range.start..range.end.min(range.start + HEADER_OCTETS_MAX);
                Octets::Ready(filter_header(&self.read(&source, range).await.ok()?, &names, not))
            }
            octets => octets,
        };
        Some((source, octets))
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

/// A range of a message that is read piece by piece.
pub(super) struct Chunks {
    mailbox: Guid,
    uid: Uid,
    place: Option<Place>,
    range: Range<u64>,
    ended: bool,
}

impl Chunks {
    pub fn is_done(&self) -> bool {
        self.range.is_empty()
    }

    pub fn of(source: &Source, range: Range<u64>) -> Chunks {
        Chunks { mailbox: source.mailbox, uid: source.uid, place: source.place, range, ended: false }
    }
}

/// Under which name a section was asked for.
enum Named {
    Section,
    Binary,
    BinarySize,
    Preview(Preview),
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
    if let Some(preview) = items.preview {
        sections.push(whole(Named::Preview(preview), None));
    }
    for FetchBinary { part, size, partial, .. } in &items.binaries {
        let named = if *size { Named::BinarySize } else { Named::Binary };
        let section = Section { part: part.clone(), text: None };
        sections.push(Wanted { named, section, partial: *partial });
    }
    sections
}
