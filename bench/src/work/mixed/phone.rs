//! A phone: one connection, mostly in IDLE. Somebody glances at it about once a minute.
//!
//! Each glance ends IDLE, asks for the flags of the newest 20 messages, reads the beginning of one of them, marks one of
//! three as seen, and begins IDLE anew. One glance in ten follows a lost network: connect, LOGIN, SELECT.

use std::rc::Rc;
use std::time::Instant;

use super::{Shared, log_in, play};
use crate::random::Random;
use crate::tally::Tally;
use crate::wire::Failure;
use crate::wire::imap::Imap;

pub const THINK_SECONDS: f64 = 60.0;
const LIST_MESSAGES: u32 = 20;
const LOST: f64 = 0.1;
const MARKED: f64 = 0.33;

pub struct Phone {
    pub shared: Rc<Shared>,
    number: usize,
    pub random: Random,
    imap: Imap,
    /// The tag of IDLE.
    idle: u32,
}

impl Phone {
    pub async fn open(shared: Rc<Shared>, number: usize, random: Random) -> Result<Phone, Failure> {
        let (imap, idle) = connect(&shared, number, &Tally::default()).await?;
        Ok(Phone { shared, number, random, imap, idle })
    }

    pub async fn reconnect(&mut self) -> Result<(), Failure> {
        (self.imap, self.idle) = connect(&self.shared, self.number, &Tally::default()).await?;
        Ok(())
    }

    pub async fn glance(&mut self, tally: &Tally) -> Result<(), Failure> {
        if self.random.chance(LOST) {
            (self.imap, self.idle) = connect(&self.shared, self.number, tally).await?;
        }
        self.imap.wire.out.extend_from_slice(b"DONE\r\n");
        let sent = self.imap.wire.flush().await?;
        self.imap.finish(self.idle).await?;
        tally.done_as("commands/DONE", None, sent);
        let imap = &mut self.imap;
        if imap.exists > 0 {
            let first = imap.exists.saturating_sub(LIST_MESSAGES - 1).max(1);
            let command = format!("FETCH {first}:{} (UID FLAGS)", imap.exists);
            play(imap, tally, "commands/FETCH", &command).await?;
        }
        if imap.exists > 0 {
            let first = imap.exists.saturating_sub(LIST_MESSAGES - 1).max(1);
            let one = first + self.random.below((imap.exists - first + 1) as usize) as u32;
            let command = format!("FETCH {one} (ENVELOPE BODYSTRUCTURE BODY.PEEK[]<0.4096>)");
            play(imap, tally, "commands/FETCH2", &command).await?;
            if self.random.chance(MARKED) && one <= imap.exists {
                play(imap, tally, "commands/STORE", &format!("STORE {one} +FLAGS.SILENT (\\Seen)")).await?;
            }
        }
        self.idle = begin_idle(imap, tally).await?;
        Ok(())
    }

    pub async fn close(mut self) {
        self.imap.wire.out.extend_from_slice(b"DONE\r\n");
        self.imap.logout().await;
    }
}

async fn connect(shared: &Shared, number: usize, tally: &Tally) -> Result<(Imap, u32), Failure> {
    let mut imap = log_in(&shared.place, number, tally).await?;
    play(&mut imap, tally, "commands/SELECT", "SELECT INBOX").await?;
    let idle = begin_idle(&mut imap, tally).await?;
    Ok((imap, idle))
}

pub async fn begin_idle(imap: &mut Imap, tally: &Tally) -> Result<u32, Failure> {
    let began = Instant::now();
    let before = imap.octets();
    let tag = imap.start_idle().await?;
    tally.octets(before, imap.octets());
    tally.done_as("commands/IDLE", None, began);
    Ok(tag)
}
