//! APPEND: each connection is logged in once, and its user's mailbox grows.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;

use super::Place;
use crate::bench::Bench;
use crate::corpus::{CorpusOptions, Message, messages};
use crate::drive::Client;
use crate::figures::Row;
use crate::random::Random;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::imap::{Imap, quoted};
use crate::wire::imap_skip::Status;
use crate::wire::{Failure, TargetOptions};

#[derive(clap::Args, Clone, Debug)]
pub struct AppendOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    #[command(flatten)]
    pub corpus: CorpusOptions,
    /// Where to; it is made where it does not exist
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    pub mailbox: String,
}

pub async fn run(bench: &Bench, options: &AppendOptions) -> Result<Vec<Row>> {
    let place = Place::new(bench, &options.target, &options.users)?;
    let messages = Rc::new(messages(&options.corpus, bench.run.seed)?);
    let open = async |n: usize| {
        let random = Random::new(bench.run.seed, n as u64);
        Ok(Appender::open(place.clone(), n, messages.clone(), &options.mailbox, random).await?)
    };
    Ok(vec![bench.measure("append", open).await?])
}

pub struct Appender {
    place: Rc<Place>,
    number: usize,
    messages: Rc<Vec<Message>>,
    /// APPEND and the mailbox.
    prefix: Vec<u8>,
    random: Random,
    imap: Imap,
}

impl Appender {
    pub async fn open(
        place: Rc<Place>,
        number: usize,
        messages: Rc<Vec<Message>>,
        mailbox: &str,
        random: Random,
    ) -> Result<Appender, Failure> {
        let mut imap = Imap::open(&place.target, place.account(number)).await?;
        create(&mut imap, mailbox).await?;
        let prefix = format!("APPEND {}", quoted(mailbox)).into_bytes();
        Ok(Appender { place, number, messages, prefix, random, imap })
    }
}

/// Makes a mailbox, where it is not there.
pub async fn create(imap: &mut Imap, mailbox: &str) -> Result<(), Failure> {
    if mailbox.eq_ignore_ascii_case("INBOX") {
        return Ok(());
    }
    match imap.command(&format!("CREATE {}", quoted(mailbox))).await {
        // If it is refused for another reason than that it exists, what comes next will say so.
        Ok(()) | Err(Failure::Refused(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

impl Client for Appender {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        let message = &self.messages[self.random.below(self.messages.len())];
        let before = self.imap.octets();
        let began = Instant::now();
        let status = match self.imap.send_append(&self.prefix, &message.octets).await? {
            Some((tag, _)) => self.imap.finish(tag).await?,
            None => Status::No,
        };
        tally.octets(before, self.imap.octets());
        match status {
            Status::Ok => {
                tally.raw(message.octets.len() as u64);
                tally.done(due, began);
            }
            _ => tally.refused(|| self.imap.words()),
        }
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        self.imap = Imap::open(&self.place.target, self.place.account(self.number)).await?;
        Ok(())
    }

    async fn close(self) {
        self.imap.logout().await;
    }
}
