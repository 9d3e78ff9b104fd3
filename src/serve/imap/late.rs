//! APPENDs that had no outcome in time: their clients were told NO [UNAVAILABLE], and their messages may yet come. A client that
//! sends the same once more gets the message that came, and not a second one.
//!
//! Two APPENDs that are alike are two messages, as long as the first one was answered with what became of it.
//!
//! # Cost
//! Nothing where all APPENDs had their answer. What came is read back to be compared with what is sent again.
//!
//! # Limits
//! [`LATE_MAX`] of a session, which stays awake for [`KEPT`] because of them.

use super::User;
use culver_mailbox::record::Message;
use culver_mailbox::{Applied, Late, Session};
use culver_model::{FlagSet, Guid, InternalDate, Uid, UidValidity};
use culver_shard::time::{self, Instant};
use ring::digest::{Context, Digest, SHA256};
use std::time::Duration;

/// The oldest are forgotten: each cost its client a minute.
const LATE_MAX: usize = 4;
/// So long a session is not put away, which would forget them.
const KEPT: Duration = Duration::from_secs(600);
/// Octets that are read back at a time.
const READ_OCTETS: u64 = 256 * 1024;

/// What an APPEND asked for, but for its octets.
#[derive(PartialEq)]
pub(super) struct Wanted {
    pub mailbox: Guid,
    /// As the client gave it.
    pub internal_date: Option<InternalDate>,
    pub flags: FlagSet,
    pub octets: u64,
}

enum Outcome {
    Open(Late),
    Made(UidValidity, Uid),
}

/// One whose client was told that nobody knows.
pub(super) struct LateAppend {
    wanted: Wanted,
    since: Instant,
    outcome: Outcome,
}

/// What became of an APPEND that is sent again.
pub(super) enum Before {
    /// Nothing: it is a new one.
    New,
    Made(UidValidity, Uid),
    Unknown,
}

impl Wanted {
    pub fn of(mailbox: Guid, internal_date: Option<InternalDate>, message: &Message) -> Wanted {
        Wanted { mailbox, internal_date, flags: message.flags.clone(), octets: message.size }
    }
}

/// Begins to hash an APPEND where there is one that it may be a repetition of.
pub(super) fn fingerprint(user: &User) -> Option<Context> {
    (!user.late.is_empty()).then(|| Context::new(&SHA256))
}

pub(super) fn keeps_awake(user: &User) -> bool {
    user.late.iter().any(|late| late.since.elapsed() < KEPT)
}

/// Notes an APPEND that had no outcome in time.
pub(super) fn note(user: &mut User, wanted: Wanted, late: Late) {
    if user.late.len() == LATE_MAX {
        user.late.remove(0);
    }
    user.late.push(LateAppend { wanted, since: time::now(), outcome: Outcome::Open(late) });
}

/// Looks whether this APPEND is one whose outcome was not known, and waits for that.
pub(super) async fn before(user: &mut User, wanted: &Wanted, fingerprint: Context) -> Before {
    let sent = fingerprint.finish();
    let mut at = 0;
    while let Some(known) = user.late.get_mut(at) {
        if known.wanted != *wanted {
            at += 1;
            continue;
        }
        if let Outcome::Open(late) = &mut known.outcome {
            match late.outcome().await {
                None => return Before::Unknown,
                Some(Ok(Applied::Append { uid_validity, uid })) => {
                    known.outcome = Outcome::Made(uid_validity, uid);
                }
                // Nothing came of it.
                Some(_) => {
                    user.late.remove(at);
                    continue;
                }
            }
        }
        let Outcome::Made(uid_validity, uid) = known.outcome else { continue };
        match stored(&user.session, wanted, uid).await {
            Some(stored) if stored.as_ref() == sent.as_ref() => {
                user.late.remove(at);
                return Before::Made(uid_validity, uid);
            }
            _ => at += 1,
        }
    }
    Before::New
}

/// The hash of a message as it is stored. `None` where it is gone or cannot be read.
async fn stored(session: &Session, wanted: &Wanted, uid: Uid) -> Option<Digest> {
    let account = session.account();
    let place = {
        let state = account.state();
        let place = *state.selectable(wanted.mailbox)?.get(uid)?.place();
        culver_storage::Place::from_bytes(&place)?
    };
    let storage = session.accounts().storage();
    let mut context = Context::new(&SHA256);
    let mut from = 0;
    while from < wanted.octets {
        let range = from..(from + READ_OCTETS).min(wanted.octets);
        from = range.end;
        context.update(&storage.read_place(account.partition(), &place, range).await.ok()?);
    }
    Some(context.finish())
}
