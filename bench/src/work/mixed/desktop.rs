//! A desktop program: three connections, one in IDLE in INBOX, one at work in INBOX, one for other mailboxes.
//!
//! About every 20 seconds its user does one thing: reads a message (40%, marking it \Seen), looks whether other mailboxes
//! have something new (20%, STATUS), looks through the list anew (10%, flags of all), searches (5%), files a message
//! (10%, MOVE or COPY), deletes one (10%), or sends one (5%, APPEND to Sent).

use std::rc::Rc;

use super::phone::begin_idle;
use super::{Shared, append, log_in, play};
use crate::random::Random;
use crate::tally::Tally;
use crate::wire::Failure;
use crate::wire::imap::Imap;
use crate::work::append::create;

pub const THINK_SECONDS: f64 = 20.0;
/// Mailboxes besides INBOX.
const OTHERS: [&str; 3] = ["Archive", "Sent", "Trash"];
/// The list that a program keeps on its screen.
const LIST_MESSAGES: u32 = 100;

pub struct Desktop {
    pub shared: Rc<Shared>,
    number: usize,
    pub random: Random,
    watching: Imap,
    working: Imap,
    other: Imap,
}

impl Desktop {
    pub async fn open(shared: Rc<Shared>, number: usize, random: Random) -> Result<Desktop, Failure> {
        let [watching, working, other] = connect(&shared, number).await?;
        Ok(Desktop { shared, number, random, watching, working, other })
    }

    pub async fn reconnect(&mut self) -> Result<(), Failure> {
        [self.watching, self.working, self.other] = connect(&self.shared, self.number).await?;
        Ok(())
    }

    pub async fn action(&mut self, tally: &Tally) -> Result<(), Failure> {
        let dice = self.random.below(100);
        if let 40..60 = dice {
            for name in OTHERS {
                let command = format!("STATUS {name} (MESSAGES UIDNEXT UNSEEN)");
                play(&mut self.other, tally, "commands/STATUS", &command).await?;
            }
            return Ok(());
        }
        if let 95.. = dice {
            let message = &self.shared.messages[self.random.below(self.shared.messages.len())];
            return append(&mut self.other, tally, "APPEND Sent (\\Seen)", message).await;
        }
        // News first, as every program does.
        let imap = &mut self.working;
        play(imap, tally, "commands/NOOP", "NOOP").await?;
        if imap.exists == 0 {
            return Ok(());
        }
        let last = imap.exists;
        let first = last.saturating_sub(LIST_MESSAGES - 1).max(1);
        let one = first + self.random.below((last - first + 1) as usize) as u32;
        match dice {
            0..40 => {
                let command = format!("FETCH {one} (ENVELOPE BODYSTRUCTURE FLAGS)");
                play(imap, tally, "commands/FETCH", &command).await?;
                play(imap, tally, "commands/FETCH2", &format!("FETCH {one} BODY.PEEK[]")).await?;
                play(imap, tally, "commands/STORE", &format!("STORE {one} +FLAGS.SILENT (\\Seen)")).await?;
            }
            60..70 => {
                play(imap, tally, "commands/FETCH", &format!("FETCH 1:{last} (UID FLAGS)")).await?;
            }
            70..75 => {
                play(imap, tally, "commands/SEARCH", "SEARCH UNSEEN SUBJECT ka").await?;
            }
            75..85 if imap.can.r#move => {
                play(imap, tally, "commands/MOVE", &format!("MOVE {one} Archive")).await?;
            }
            75..85 => {
                play(imap, tally, "commands/COPY", &format!("COPY {one} Archive")).await?;
            }
            _ => {
                play(imap, tally, "commands/STORE", &format!("STORE {one} +FLAGS.SILENT (\\Deleted)"))
                    .await?;
                play(imap, tally, "commands/EXPUNGE", "EXPUNGE").await?;
            }
        }
        Ok(())
    }

    pub async fn close(mut self) {
        self.watching.wire.out.extend_from_slice(b"DONE\r\n");
        self.watching.logout().await;
        self.working.logout().await;
        self.other.logout().await;
    }
}

async fn connect(shared: &Shared, number: usize) -> Result<[Imap; 3], Failure> {
    let scratch = Tally::default();
    let mut watching = log_in(&shared.place, number, &scratch).await?;
    watching.command("SELECT INBOX").await?;
    begin_idle(&mut watching, &scratch).await?;
    let mut working = Imap::open(&shared.place.target, shared.place.account(number)).await?;
    working.command("SELECT INBOX").await?;
    let mut other = Imap::open(&shared.place.target, shared.place.account(number)).await?;
    for name in OTHERS {
        create(&mut other, name).await?;
    }
    Ok([watching, working, other])
}
