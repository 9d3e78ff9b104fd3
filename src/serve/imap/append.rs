//! APPEND: the message is streamed into storage while it arrives, and scanned on the way.

use super::late::{self, Before, Wanted};
use super::select::reason;
use super::{End, Flow, Imap};
use culver_mailbox::quota::Hold;
use culver_mailbox::record::Record;
use culver_mailbox::{Applied, ArriveError, Arriving, Refusal};
use culver_model::{Guid, InternalDate, Uid, UidSet, UidValidity, Usage};
use culver_proto::imap::{Append, Code, Event, Reason, Status, response};
use culver_shard::time;
use ring::digest::Context;
use std::io;
use std::time::Duration;

/// Longest silence within a message.
const STALL: Duration = Duration::from_secs(120);

/// A message on its way in.
pub struct Incoming {
    tag: String,
    mailbox: Guid,
    arriving: Arriving,
    /// As the client gave it.
    internal_date: Option<InternalDate>,
    /// Where it may be the repetition of one whose outcome was not known.
    fingerprint: Option<Context>,
    /// Why it will be refused when it is whole.
    refused: Option<Reason>,
    literal8: bool,
    /// Its room, until it is committed or given up.
    room: Option<Hold>,
}

/// Why the octets of a message cannot be taken, in the words of IMAP.
fn not_taken(error: &ArriveError) -> Reason {
    if error.is_no_space() { Reason::NoSpace } else { Reason::Unavailable }
}

impl Imap {
    pub(super) async fn append_offered(&mut self, offer: Append<'_>) -> io::Result<Flow> {
        let Some(user) = &self.user else {
            self.server.refuse_append();
            Reason::NotAuthenticated.write(offer.tag, &mut self.out);
            return Ok(Flow::Go);
        };
        if let Some(away) = self.away().await {
            self.server.refuse_append();
            away.write_imap(offer.tag, &mut self.out);
            return Ok(Flow::Go);
        }
        let session = &user.session;
        let target =
            session.account().state().entry(&offer.mailbox).map(|entry| (entry.guid, entry.selectable));
        let refused = match target {
            Some((_, true)) if offer.octets == 0 => Some(Reason::EmptyMessage),
            Some((_, true)) => None,
            Some((_, false)) => Some(Reason::NoSelect),
            // RFC 3501 §6.3.11: only where CREATE could help.
            None => Some(Reason::TryCreate),
        };
        if let Some(reason) = refused {
            self.server.refuse_append();
            reason.write(offer.tag, &mut self.out);
            return Ok(Flow::Go);
        }
        let room = match self.room(Usage::message(offer.octets)) {
            Ok(room) => room,
            Err(reason) => {
                self.server.refuse_append();
                reason.write(offer.tag, &mut self.out);
                return Ok(Flow::Go);
            }
        };
        let (mailbox, _) = target.expect("refused above");
        let now = time::wall().0;
        let internal_date = offer.internal_date.unwrap_or(InternalDate { seconds: now, zone_minutes: 0 });
        let arriving = Arriving::begin(session, mailbox, internal_date, offer.flags, offer.octets);
        if self.server.accept_append() {
            self.out.extend_from_slice(response::CONTINUE);
        }
        self.conn.expect_message();
        let tag = offer.tag.to_owned();
        let Append { literal8, internal_date, .. } = offer;
        let fingerprint = late::fingerprint(user);
        let incoming =
            Incoming { tag, mailbox, arriving, internal_date, fingerprint, refused: None, literal8, room };
        Ok(Flow::Append(Box::new(incoming)))
    }

    pub(super) async fn append_body(&mut self, mut incoming: Box<Incoming>) -> io::Result<Option<End>> {
        loop {
            let input = self.conn.take_rx();
            let (used, event) = self.server.next(&input);
            let mut read = false;
            let mut whole = None;
            match event {
                Event::NeedMore => read = true,
                Event::AppendData(octets) => {
                    // RFC 3501 §9: a literal has no NUL; RFC 3516 §4.4: a literal8 may.
                    if !incoming.literal8 && memchr::memchr(0, octets).is_some() {
                        incoming.refused = Some(Reason::NulInMessage);
                    }
                    if let Some(fingerprint) = &mut incoming.fingerprint {
                        fingerprint.update(octets);
                    }
                    if incoming.refused.is_none()
                        && let Err(error) = incoming.arriving.feed(octets).await
                    {
                        tracing::warn!(session = %self.peer.id, %error, "a message cannot be taken");
                        incoming.refused = Some(not_taken(&error));
                    }
                }
                Event::AppendEnd => whole = Some(None),
                Event::AppendFailed(refusal) => whole = Some(Some(refusal)),
                Event::Bye(reason) => {
                    self.conn.put_rx(input, used);
                    return Ok(Some(End::Bye(reason)));
                }
                _ => {}
            }
            let pipelined = used < input.len();
            self.conn.put_rx(input, used);
            match whole {
                Some(None) => {
                    self.append_whole(*incoming, pipelined).await;
                    return Ok(None);
                }
                Some(Some(refusal)) => {
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
        let Incoming { tag, mailbox, arriving, internal_date, fingerprint, refused, room, .. } = incoming;
        if let Some(reason) = refused {
            return reason.write(&tag, &mut self.out);
        }
        let Some(user) = &mut self.user else { return };
        let (message, body) = match arriving.finish().await {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(session = %self.peer.id, %error, "a message cannot be taken");
                return not_taken(&error).write(&tag, &mut self.out);
            }
        };
        let wanted = Wanted::of(mailbox, internal_date, &message);
        if let Some(fingerprint) = fingerprint {
            match late::before(user, &wanted, fingerprint).await {
                Before::New => {}
                Before::Made(uid_validity, uid) => return self.appended(&tag, uid_validity, uid, pipelined),
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
                self.tell_soft(room);
                self.appended(&tag, uid_validity, uid, pipelined);
            }
            Ok(_) => Reason::ServerBug.write(&tag, &mut self.out),
            Err(error) => {
                let refused = |refusal| match refusal {
                    Refusal::TooBig => Reason::TooBig,
                    Refusal::Limit => Reason::KeywordLimit,
                    _ => Reason::TryCreate,
                };
                reason(&error, refused).write(&tag, &mut self.out);
            }
        }
    }

    fn appended(&mut self, tag: &str, uid_validity: UidValidity, uid: Uid, pipelined: bool) {
        super::count(&self.shard.counters().imap_appended);
        self.sync(!pipelined);
        let uids: UidSet = [uid].into_iter().collect();
        let code = Code::AppendUid(uid_validity, &uids);
        response::tagged(&mut self.out, tag, Status::Ok, Some(&code), "Appended");
    }
}
