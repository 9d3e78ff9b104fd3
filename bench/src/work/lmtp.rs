//! Deliveries: messages to users drawn at random, by LMTP.

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
use crate::wire::lmtp::{Envelope, Lmtp};
use crate::wire::{Failure, TargetOptions};

#[derive(clap::Args, Clone, Debug)]
pub struct LmtpOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    #[command(flatten)]
    pub corpus: CorpusOptions,
    /// Recipients of each message, of the users
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub recipients: u32,
}

pub async fn run(bench: &Bench, options: &LmtpOptions) -> Result<Vec<Row>> {
    let place = Place::new(bench, &options.target, &options.users)?;
    let messages = Rc::new(messages(&options.corpus, bench.run.seed)?);
    let open = async |n: usize| {
        let random = Random::new(bench.run.seed, n as u64);
        Ok(Deliverer::open(place.clone(), messages.clone(), options.recipients, random).await?)
    };
    Ok(vec![bench.measure("lmtp", open).await?])
}

pub struct Deliverer {
    place: Rc<Place>,
    messages: Rc<Vec<Message>>,
    recipients: u32,
    random: Random,
    lmtp: Lmtp,
    envelope: Envelope,
}

impl Deliverer {
    pub async fn open(
        place: Rc<Place>,
        messages: Rc<Vec<Message>>,
        recipients: u32,
        random: Random,
    ) -> Result<Deliverer, Failure> {
        let lmtp = Lmtp::open(&place.target).await?;
        Ok(Deliverer { place, messages, recipients, random, lmtp, envelope: Envelope::default() })
    }
}

impl Client for Deliverer {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        self.envelope.clear();
        let first = self.random.below(self.place.accounts.len());
        // Neighbours of the first, so that nobody gets a message twice where there are users enough.
        for n in 0..self.recipients as usize {
            self.envelope.recipient(&self.place.account(first + n).user);
        }
        self.envelope.finish();
        let message = &self.messages[self.random.below(self.messages.len())];
        let before = self.lmtp.octets();
        let delivered = self.lmtp.deliver(&self.envelope, &message.stuffed).await?;
        tally.octets(before, self.lmtp.octets());
        tally.count("recipients", u64::from(delivered.accepted));
        tally.raw(message.octets.len() as u64 * u64::from(delivered.accepted));
        if delivered.refused > 0 {
            tally.refused(|| self.lmtp.words());
        }
        if delivered.accepted > 0 {
            tally.done(due, delivered.sent.expect("what was accepted was sent"));
        }
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        self.lmtp = Lmtp::open(&self.place.target).await?;
        Ok(())
    }

    async fn close(self) {}
}
