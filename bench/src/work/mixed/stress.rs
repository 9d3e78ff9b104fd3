//! Rounds of commands without think time, in the weights that imaptest has by default.
//!
//! A round: LOGIN, LIST 50%, STATUS 50%, SELECT, FETCH of a range's metadata, FETCH2 of a whole message (again 30%), STORE
//! of a flag 50%, DELETE (\Deleted on what the mailbox has above --keep, one message at least), EXPUNGE, APPEND (again
//! 5%, and until the mailbox has --keep), LOGOUT. With --logout below 100% the next round may go on in the same session.
//! Each user has one mailbox for it, INBOX; several connections may share it.

use std::rc::Rc;

use super::{Shared, append, log_in, log_out, play};
use crate::random::Random;
use crate::tally::Tally;
use crate::wire::Failure;
use crate::wire::imap::Imap;

const LIST: f64 = 0.5;
const STATUS: f64 = 0.5;
const FETCH2_AGAIN: f64 = 0.3;
const STORE: f64 = 0.5;
const APPEND_AGAIN: f64 = 0.05;
/// What FETCH asks for, in turn.
const METADATA: [&str; 4] = [
    "FLAGS",
    "(UID FLAGS RFC822.SIZE INTERNALDATE)",
    "ENVELOPE",
    "(UID BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)])",
];
const FLAGS: [&str; 4] = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft"];

pub struct Stress {
    shared: Rc<Shared>,
    number: usize,
    random: Random,
    session: Option<Imap>,
}

impl Stress {
    pub async fn open(shared: Rc<Shared>, number: usize, random: Random) -> Result<Stress, Failure> {
        // For an error that says what to do, before anything is measured.
        let session = log_in(&shared.place, number, &Tally::default()).await?;
        Ok(Stress { shared, number, random, session: Some(session) })
    }

    pub fn recover(&mut self) {
        self.session = None;
    }

    pub async fn round(&mut self, tally: &Tally) -> Result<(), Failure> {
        let random = &mut self.random;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => log_in(&self.shared.place, self.number, tally).await?,
        };
        let imap = &mut session;
        if random.chance(LIST) {
            play(imap, tally, "commands/LIST", "LIST \"\" \"*\"").await?;
        }
        if random.chance(STATUS) {
            play(imap, tally, "commands/STATUS", "STATUS INBOX (MESSAGES UNSEEN RECENT)").await?;
        }
        play(imap, tally, "commands/SELECT", "SELECT INBOX").await?;
        if imap.exists > 0 {
            let (first, last) = range(random, imap.exists);
            let items = METADATA[random.below(METADATA.len())];
            play(imap, tally, "commands/FETCH", &format!("FETCH {first}:{last} {items}")).await?;
        }
        while let Some(one) = one(random, imap.exists) {
            play(imap, tally, "commands/FETCH2", &format!("FETCH {one} BODY.PEEK[]")).await?;
            if !random.chance(FETCH2_AGAIN) {
                break;
            }
        }
        if imap.exists > 0 && random.chance(STORE) {
            let (first, last) = range(random, imap.exists);
            let sign = ["+", "-", ""][random.below(3)];
            let flag = FLAGS[random.below(FLAGS.len())];
            play(imap, tally, "commands/STORE", &format!("STORE {first}:{last} {sign}FLAGS ({flag})"))
                .await?;
        }
        if imap.exists > 0 {
            let surplus = imap.exists.saturating_sub(self.shared.options.keep).max(1);
            let first = 1 + random.below((imap.exists - surplus + 1) as usize) as u32;
            let last = first + surplus - 1;
            let command = format!("STORE {first}:{last} +FLAGS.SILENT (\\Deleted)");
            play(imap, tally, "commands/DELETE", &command).await?;
        }
        play(imap, tally, "commands/EXPUNGE", "EXPUNGE").await?;
        loop {
            let message = &self.shared.messages[random.below(self.shared.messages.len())];
            append(imap, tally, "APPEND INBOX", message).await?;
            if imap.exists >= self.shared.options.keep && !random.chance(APPEND_AGAIN) {
                break;
            }
        }
        if random.chance(self.shared.options.logout) {
            return log_out(session, tally).await;
        }
        self.session = Some(session);
        Ok(())
    }

    pub async fn close(self) {
        if let Some(session) = self.session {
            session.logout().await;
        }
    }
}

fn one(random: &mut Random, exists: u32) -> Option<u32> {
    (exists > 0).then(|| 1 + random.below(exists as usize) as u32)
}

/// Of a mailbox that has messages.
fn range(random: &mut Random, exists: u32) -> (u32, u32) {
    let (a, b) = (1 + random.below(exists as usize) as u32, 1 + random.below(exists as usize) as u32);
    (a.min(b), a.max(b))
}
