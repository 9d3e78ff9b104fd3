//! Webmail: a connection for each click, about every 15 seconds.
//!
//! LOGIN, SELECT, the list of the newest 50 messages; in half the clicks a message is opened and marked \Seen, in one of
//! ten something is searched; LOGOUT.

use std::rc::Rc;

use super::{Shared, log_in, log_out, play};
use crate::random::Random;
use crate::tally::Tally;
use crate::wire::Failure;

pub const THINK_SECONDS: f64 = 15.0;
const LIST_MESSAGES: u32 = 50;
const OPENED: f64 = 0.5;
const SEARCHED: f64 = 0.1;

pub struct Webmail {
    pub shared: Rc<Shared>,
    pub number: usize,
    pub random: Random,
}

impl Webmail {
    pub async fn visit(&mut self, tally: &Tally) -> Result<(), Failure> {
        let mut imap = log_in(&self.shared.place, self.number, tally).await?;
        play(&mut imap, tally, "commands/SELECT", "SELECT INBOX").await?;
        if imap.exists > 0 {
            let first = imap.exists.saturating_sub(LIST_MESSAGES - 1).max(1);
            let command =
                format!("FETCH {first}:{} (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)", imap.exists);
            play(&mut imap, tally, "commands/FETCH", &command).await?;
            if self.random.chance(OPENED) && imap.exists >= first {
                let one = first + self.random.below((imap.exists - first + 1) as usize) as u32;
                play(&mut imap, tally, "commands/FETCH2", &format!("FETCH {one} BODY.PEEK[]")).await?;
                play(&mut imap, tally, "commands/STORE", &format!("STORE {one} +FLAGS.SILENT (\\Seen)"))
                    .await?;
            }
        }
        if self.random.chance(SEARCHED) {
            play(&mut imap, tally, "commands/SEARCH", "SEARCH SUBJECT ka").await?;
        }
        log_out(imap, tally).await
    }
}
