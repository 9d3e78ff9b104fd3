//! APPEND and REPLACE: messages are streamed into storage while they arrive, and scanned on the way.
//!
//! # Order
//! Several messages of one command are committed together when all of them are whole (RFC 3502).
//!
//! # Limits
//! [`MESSAGES_MAX`], [`ALL_OCTETS_MAX`] and [`PREPARED_OCTETS_MAX`] of one command. Beyond [`INLINE_OCTETS_MAX`] its messages do not stay in
//! memory until they are committed.

use super::fetch::{Chunks, Octets};
use super::late::{self, Before, Wanted};
use super::select::reason;
use super::{End, Imap};
use culver_mailbox::quota::Hold;
use culver_mailbox::record::{Message, Record};
use culver_mailbox::{Applied, ArriveError, Arriving, ChangeError, Refusal};
use culver_model::mime::BinaryConverter;
use culver_model::{FlagSet, Guid, InternalDate, Uid, UidSet, UidValidity, Usage};
use culver_proto::imap::command::{MessageSet, Replaced};
use culver_proto::imap::url::{Url, UrlMailbox};
use culver_proto::imap::{Append, AppendPiece, AppendStep, Code, Event, Reason, Status, response};
use culver_shard::{self as shard, time};
use culver_storage::Body;
use ring::digest::Context;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// Longest silence within a message.
const STALL: Duration = Duration::from_secs(120);
/// Messages of one APPEND.
const MESSAGES_MAX: usize = 1000;
/// Octets of an APPEND of several messages that wait in memory for its end, but for one message.
const INLINE_OCTETS_MAX: u64 = 2 << 20;
/// Octets of all messages of one APPEND.
const ALL_OCTETS_MAX: u64 = 1 << 30;
/// Octets of what is said of its messages (ENVELOPE, BODYSTRUCTURE and the like): they are one commit.
const PREPARED_OCTETS_MAX: usize = 4 << 20;

/// What an APPEND or REPLACE has brought so far.
pub struct Incoming {
    tag: String,
    mailbox: Guid,
    /// The message that goes: its mailbox and UID.
    replaced: Option<(Guid, Uid)>,
    /// Those that are whole.
    whole: Vec<(Message, Body)>,
    /// Octets of them, and of the one that comes.
    octets: u64,
    /// Octets of what is said of those that are whole.
    prepared: usize,
    /// Of one message.
    octets_max: u64,
    /// The one that comes.
    arriving: Option<Arriving>,
    /// As the client gave it.
    internal_date: Option<InternalDate>,
    /// Where it may be the repetition of one whose outcome was not known.
    fingerprint: Option<Context>,
    /// Room for the one that comes.
    room: Option<Hold>,
    /// Room for what is whole, until it is committed or given up.
    rooms: Vec<Hold>,
    /// Why it is refused when what is on its way was read.
    refused: Option<Refused>,
    /// Of a message that may have parts of CTE BINARY.
    converter: Option<BinaryConverter>,
}

/// Why messages are not taken.
enum Refused {
    Reason(Reason),
    /// The first URL that could not be read (RFC 4469 §4.1).
    Url(String),
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Refused {
        Refused::Reason(reason)
    }
}

/// Why the octets of a message cannot be taken, in the words of IMAP.
fn not_taken(error: &ArriveError) -> Reason {
    if error.is_no_space() { Reason::NoSpace } else { Reason::Unavailable }
}

/// Why the account does not take the messages.
fn not_changed(error: &ChangeError) -> Reason {
    reason(error, |refusal| match refusal {
        Refusal::TooBig => Reason::TooBig,
        Refusal::Limit => Reason::KeywordLimit,
        Refusal::Gone => Reason::ExpungeIssued,
        _ => Reason::TryCreate,
    })
}

/// Octets of its record.
fn prepared(message: &Message) -> usize {
    let Message { envelope, body, bodystructure, parts, headers, .. } = message;
    envelope.len() + body.len() + bodystructure.len() + parts.len() + headers.len()
}

impl Imap {
    pub(super) async fn append_offered(
        &mut self,
        offer: Append<'_>,
        pipelined: bool,
    ) -> io::Result<Option<Box<Incoming>>> {
        let Append { tag, mailbox, replaced, piece } = offer;
        let Some(user) = &self.user else {
            self.server.refuse_append();
            Reason::NotAuthenticated.write(tag, &mut self.out);
            return Ok(None);
        };
        if let Some(away) = self.away().await {
            self.server.refuse_append();
            away.write_imap(tag, &mut self.out);
            return Ok(None);
        }
        let target = {
            let state = user.session.account().state();
            state.entry(&mailbox).map(|entry| (entry.guid, entry.selectable))
        };
        let replaced = replaced.map(|replaced| self.replaced(replaced)).transpose();
        let mailbox = match (target, &replaced) {
            (_, Err(reason)) => Err(*reason),
            (Some((mailbox, true)), _) => Ok(mailbox),
            (Some((_, false)), _) => Err(Reason::NoSelect),
            // RFC 3501 §6.3.11: only where CREATE could help.
            (None, _) => Err(Reason::TryCreate),
        };
        let (mailbox, replaced) = match (mailbox, replaced) {
            (Ok(mailbox), Ok(replaced)) => (mailbox, replaced),
            (Err(reason), _) | (_, Err(reason)) => {
                self.server.refuse_append();
                reason.write(tag, &mut self.out);
                return Ok(None);
            }
        };
        let mut incoming = Box::new(Incoming {
            tag: tag.to_owned(),
            mailbox,
            replaced,
            whole: Vec::new(),
            octets: 0,
            prepared: 0,
            octets_max: self.shard.config().imap.append_octets_max,
            arriving: None,
            internal_date: None,
            fingerprint: None,
            room: None,
            rooms: Vec::new(),
            refused: None,
            converter: None,
        });
        match self.append_piece(&mut incoming, piece).await {
            Some(true) => {
                self.conn.expect_message();
                Ok(Some(incoming))
            }
            Some(false) => {
                self.append_whole(*incoming, pipelined).await;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// What a message of so many octets adds, less that which it replaces.
    fn comes(&self, incoming: &Incoming, octets: u64) -> Usage {
        let goes = incoming.replaced.and_then(|(mailbox, uid)| {
            let state = self.user.as_ref()?.session.account().state();
            Some(Usage::message(state.selectable(mailbox)?.get(uid)?.size()))
        });
        Usage::message(octets).minus(goes.unwrap_or_default())
    }

    /// The message that a REPLACE replaces.
    fn replaced(&self, replaced: Replaced) -> Result<(Guid, Uid), Reason> {
        if self.server.state().enabled.uid_only && !replaced.uid {
            return Err(Reason::UidRequired);
        }
        let uids = self.messages(replaced.uid, &MessageSet::Set(replaced.message))?;
        let selected = self.user.as_ref().and_then(|user| user.selected.as_ref());
        let selected = selected.ok_or(Reason::NotSelected)?;
        if selected.read_only {
            return Err(Reason::ReadOnly);
        }
        let uid = uids.first().and_then(Uid::new).ok_or(Reason::ExpungeIssued)?;
        Ok((selected.view.mailbox(), uid))
    }

    /// Does what a piece of the command says. `Some(true)`: octets of a message come; `Some(false)`: the command is whole;
    /// `None`: it is refused and answered.
    async fn append_piece(&mut self, incoming: &mut Incoming, piece: AppendPiece) -> Option<bool> {
        let AppendPiece { steps, literal } = piece;
        let mut steps = steps.into_iter();
        while let Some(step) = steps.next()
            && incoming.refused.is_none()
        {
            let hint = literal.filter(|_| steps.len() == 0).map_or(0, |literal| literal.octets);
            incoming.refused = match step {
                AppendStep::Message { flags, internal_date } => {
                    self.append_begins(incoming, flags, internal_date, hint)
                }
                AppendStep::Url(url) => self.append_url(incoming, url).await,
                AppendStep::End => self.append_ends(incoming).await,
            };
            shard::yield_if_needed().await;
        }
        // RFC 3502 §6.3.11, RFC 3501 §6.3.11: an empty message is none; nobody has to send it.
        let octets_max = incoming.octets_max;
        match literal {
            Some(literal) if literal.octets == 0 && !literal.part => {
                incoming.refused.get_or_insert(Reason::EmptyMessage.into());
            }
            Some(literal) if incoming.arriving_octets() + literal.octets > octets_max => {
                incoming.refused.get_or_insert(Reason::TooBig.into());
            }
            _ => {}
        }
        if let Some(refused) = incoming.refused.take() {
            self.server.refuse_append();
            self.append_refused(&incoming.tag, refused);
            return None;
        }
        let Some(literal) = literal else { return Some(false) };
        if literal.literal8 && !literal.part {
            incoming.converter = Some(BinaryConverter::new());
        }
        if self.server.accept_append() {
            self.out.extend_from_slice(response::CONTINUE);
        }
        Some(true)
    }

    fn append_refused(&mut self, tag: &str, refused: Refused) {
        match refused {
            Refused::Reason(reason) => reason.write(tag, &mut self.out),
            Refused::Url(url) => {
                let code = Code::BadUrl(&url);
                response::tagged(&mut self.out, tag, Status::No, Some(&code), "URL cannot be read");
            }
        }
    }

    fn append_begins(
        &mut self,
        incoming: &mut Incoming,
        flags: FlagSet,
        internal_date: Option<InternalDate>,
        hint: u64,
    ) -> Option<Refused> {
        let user = self.user.as_ref()?;
        if incoming.whole.len() == MESSAGES_MAX {
            return Some(Reason::AppendLimit.into());
        }
        match self.room(self.comes(incoming, hint)) {
            Ok(room) => incoming.room = room,
            Err(reason) => return Some(reason.into()),
        }
        let now = time::wall().0;
        let date = internal_date.unwrap_or(InternalDate { seconds: now, zone_minutes: 0 });
        let mut arriving = Arriving::begin(&user.session, incoming.mailbox, date, flags, hint);
        if !incoming.whole.is_empty() && incoming.octets + hint > INLINE_OCTETS_MAX {
            arriving.pack();
        }
        // Of several messages nobody looks whether they are sent again.
        incoming.fingerprint = late::fingerprint(user).filter(|_| incoming.whole.is_empty());
        incoming.internal_date = internal_date;
        incoming.arriving = Some(arriving);
        None
    }

    /// RFC 4469 §3: the octets that a URL names, unchanged.
    async fn append_url(&mut self, incoming: &mut Incoming, url: String) -> Option<Refused> {
        let named = {
            let user = self.user.as_ref()?;
            let state = user.session.account().state();
            let selected =
                user.selected.as_ref().and_then(|selected| state.entry_of(selected.view.mailbox()));
            let base = selected.map(|entry| UrlMailbox { name: entry.name.clone(), uid_validity: None });
            Url::catenated(url.as_bytes(), base.as_ref()).ok().and_then(|message| {
                let mailbox = message.mailbox.or(base)?;
                let entry = state.entry(&mailbox.name).filter(|entry| entry.selectable)?;
                let valid = mailbox.uid_validity.is_none_or(|valid| valid == entry.uid_validity);
                valid.then_some((entry.guid, message.uid, message.section, message.partial))
            })
        };
        let Some((mailbox, uid, section, partial)) = named else { return Some(Refused::Url(url)) };
        let Some((source, octets)) = self.section_of(mailbox, uid, &section).await else {
            return Some(Refused::Url(url));
        };
        let cut = |range: Range<u64>| match partial {
            None => range,
            Some((origin, octets)) => {
                let from = range.start.saturating_add(u64::from(origin)).min(range.end);
                from..octets.map_or(range.end, |octets| from.saturating_add(u64::from(octets)).min(range.end))
            }
        };
        match octets {
            Octets::Ready(octets) => {
                let range = cut(0..octets.len() as u64);
                incoming.feed(&self.peer, &octets[range.start as usize..range.end as usize]).await;
            }
            Octets::Range(range) => {
                let range = cut(range);
                let mut chunks = Chunks::of(&source, range);
                loop {
                    match self.next_chunk(&mut chunks).await {
                        Ok(Some(_)) if incoming.refused.is_some() => return incoming.refused.take(),
                        Ok(Some(octets)) => incoming.feed(&self.peer, &octets).await,
                        Ok(None) if chunks.is_done() => break,
                        // It was expunged meanwhile.
                        Ok(None) => return Some(Refused::Url(url)),
                        Err(error) => {
                            tracing::warn!(session = %self.peer.id, %error, "a URL cannot be read");
                            return Some(Refused::Url(url));
                        }
                    }
                }
            }
            _ => return Some(Refused::Url(url)),
        }
        incoming.refused.take()
    }

    async fn append_ends(&mut self, incoming: &mut Incoming) -> Option<Refused> {
        if let Some(mut converter) = incoming.converter.take() {
            let mut octets = Vec::new();
            converter.finish(&mut octets);
            incoming.feed(&self.peer, &octets).await;
            // RFC 3516 §4.4: what cannot be put into another encoding is not stored, for nobody could read it whole.
            if converter.nul_elsewhere() || converter.unconverted() {
                return Some(Reason::UnknownCte.into());
            }
            if incoming.refused.is_some() {
                return incoming.refused.take();
            }
        }
        let arriving = incoming.arriving.take()?;
        if arriving.octets() == 0 {
            return Some(Reason::EmptyMessage.into());
        }
        // What was announced may not be what came: a CATENATE has parts.
        incoming.room = None;
        match self.room(self.comes(incoming, arriving.octets())) {
            Ok(room) => incoming.rooms.extend(room),
            Err(reason) => return Some(reason.into()),
        }
        match arriving.finish().await {
            Ok(whole) => {
                incoming.prepared += prepared(&whole.0);
                if incoming.prepared > PREPARED_OCTETS_MAX {
                    return Some(Reason::AppendLimit.into());
                }
                incoming.whole.push(whole);
            }
            Err(error) => {
                tracing::warn!(session = %self.peer.id, %error, "a message cannot be taken");
                return Some(not_taken(&error).into());
            }
        }
        None
    }

    pub(super) async fn append_body(&mut self, mut incoming: Box<Incoming>) -> io::Result<Option<End>> {
        loop {
            let input = self.conn.take_rx();
            let (used, event) = self.server.next(&input);
            let (mut read, mut next) = (false, None);
            match event {
                Event::NeedMore => read = true,
                Event::AppendData(octets) => incoming.take(&self.peer, octets).await,
                Event::AppendPiece(piece) => next = Some(Ok(piece)),
                Event::AppendFailed(refusal) => next = Some(Err(refusal)),
                Event::Continue => self.out.extend_from_slice(response::CONTINUE),
                Event::Bye(reason) => {
                    self.conn.put_rx(input, used);
                    return Ok(Some(End::Bye(reason)));
                }
                _ => {}
            }
            let pipelined = used < input.len();
            self.conn.put_rx(input, used);
            match next {
                Some(Ok(piece)) => match self.append_piece(&mut incoming, piece).await {
                    Some(true) => {}
                    Some(false) => {
                        self.append_whole(*incoming, pipelined).await;
                        return Ok(None);
                    }
                    None => return Ok(None),
                },
                Some(Err(refusal)) => {
                    refusal.write(Some(&incoming.tag), &mut self.out);
                    return Ok(None);
                }
                None => {}
            }
            if read {
                self.flush().await?;
                match time::deadline(STALL, self.conn.fill()).await {
                    Ok(Ok(0)) => return Ok(Some(End::Closed)),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Ok(Some(End::Bye(Reason::Idle))),
                }
            }
        }
    }

    async fn append_whole(&mut self, incoming: Incoming, pipelined: bool) {
        let Incoming { tag, mailbox, replaced, mut whole, internal_date, fingerprint, rooms, .. } = incoming;
        let Some(user) = &mut self.user else { return };
        if whole.len() != 1 {
            return match user.session.append_all(mailbox, whole).await {
                Ok((uid_validity, uids)) => {
                    self.tell_soft(rooms);
                    self.appended(&tag, uid_validity, &uids, pipelined);
                }
                Err(error) => not_changed(&error).write(&tag, &mut self.out),
            };
        }
        let Some((message, body)) = whole.pop() else { return };
        if let Some((from, uid)) = replaced {
            let record = Record::Replace { mailbox, message: Box::new(message), from, uid };
            return match user.session.change_with(record, Some(body)).await {
                Ok(Applied::Replace { uid_validity, uid, .. }) => {
                    self.tell_soft(rooms);
                    self.has_replaced(&tag, uid_validity, uid, pipelined);
                }
                Ok(_) => Reason::ServerBug.write(&tag, &mut self.out),
                Err(error) => not_changed(&error).write(&tag, &mut self.out),
            };
        }
        let wanted = Wanted::of(mailbox, internal_date, &message);
        if let Some(fingerprint) = fingerprint {
            match late::before(user, &wanted, fingerprint).await {
                Before::New => {}
                Before::Made(uid_validity, uid) => {
                    return self.appended(&tag, uid_validity, &[uid].into_iter().collect(), pipelined);
                }
                Before::Unknown => return Reason::Unavailable.write(&tag, &mut self.out),
            }
        }
        let record = Record::Append { mailbox, message: Box::new(message) };
        let changed = match user.session.change_or_late(record, Some(body)).await {
            Ok(changed) => changed,
            Err(late) => {
                tracing::warn!(session = %self.peer.id, "an APPEND was not committed in time; it may yet be");
                late::note(user, wanted, late);
                return Reason::Unavailable.write(&tag, &mut self.out);
            }
        };
        match changed {
            Ok(Applied::Append { uid_validity, uid }) => {
                self.tell_soft(rooms);
                self.appended(&tag, uid_validity, &[uid].into_iter().collect(), pipelined);
            }
            Ok(_) => Reason::ServerBug.write(&tag, &mut self.out),
            Err(error) => not_changed(&error).write(&tag, &mut self.out),
        }
    }

    fn appended(&mut self, tag: &str, uid_validity: UidValidity, uids: &UidSet, pipelined: bool) {
        super::add(&self.shard.counters().imap_appended, uids.len());
        self.sync(!pipelined);
        self.notify_own_messages(uid_validity, uids);
        let code = Code::AppendUid(uid_validity, uids);
        response::tagged(&mut self.out, tag, Status::Ok, Some(&code), "Appended");
    }

    fn has_replaced(&mut self, tag: &str, uid_validity: UidValidity, uid: Uid, pipelined: bool) {
        super::count(&self.shard.counters().imap_appended);
        // RFC 8508 §4.3: before EXPUNGE, or the client would hear of the new message after the old one is gone.
        let uids: UidSet = [uid].into_iter().collect();
        let code = Code::AppendUid(uid_validity, &uids);
        response::untagged(&mut self.out, Status::Ok, Some(&code), "Replacement message ready");
        self.sync_for(!pipelined, true);
        self.notify_own_messages(uid_validity, &uids);
        // RFC 8508 §4.5: as for UID EXPUNGE.
        let told = self.told().filter(|_| self.server.state().enabled.condstore);
        let code = told.map(Code::HighestModSeq);
        response::tagged(&mut self.out, tag, Status::Ok, code.as_ref(), "Replaced");
    }
}

impl Incoming {
    fn arriving_octets(&self) -> u64 {
        self.arriving.as_ref().map_or(0, Arriving::octets)
    }

    /// Takes octets of a literal.
    async fn take(&mut self, peer: &super::super::Peer, octets: &[u8]) {
        // RFC 3501 §9: a literal has no NUL; RFC 3516 §4.4: a literal8 may.
        if self.converter.is_none() && memchr::memchr(0, octets).is_some() {
            self.refused.get_or_insert(Reason::NulInMessage.into());
        }
        match &mut self.converter {
            None => self.feed(peer, octets).await,
            Some(converter) => {
                let mut converted = Vec::with_capacity(octets.len());
                converter.feed(octets, &mut converted);
                self.feed(peer, &converted).await;
            }
        }
    }

    /// Takes octets of the message that comes.
    pub(super) async fn feed(&mut self, peer: &super::super::Peer, octets: &[u8]) {
        if let Some(fingerprint) = &mut self.fingerprint {
            fingerprint.update(octets);
        }
        self.octets += octets.len() as u64;
        if self.arriving_octets() + octets.len() as u64 > self.octets_max {
            self.refused.get_or_insert(Reason::TooBig.into());
        } else if self.octets > ALL_OCTETS_MAX.max(self.octets_max) {
            self.refused.get_or_insert(Reason::AppendLimit.into());
        }
        if self.refused.is_none()
            && let Some(arriving) = &mut self.arriving
            && let Err(error) = arriving.feed(octets).await
        {
            tracing::warn!(session = %peer.id, %error, "a message cannot be taken");
            self.refused = Some(not_taken(&error).into());
        }
    }
}
