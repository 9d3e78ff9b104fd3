//! Sessions: connect, TLS where wanted, LOGIN, SELECT, LOGOUT, one after the other.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;

use super::Place;
use crate::bench::Bench;
use crate::drive::Client;
use crate::figures::Row;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::imap::{Imap, quoted};
use crate::wire::{Failure, TargetOptions};

#[derive(clap::Args, Clone, Debug)]
pub struct LoginOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    /// What is selected in each session
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    pub select: String,
}

pub async fn run(bench: &Bench, options: &LoginOptions) -> Result<Vec<Row>> {
    let place = Place::new(bench, &options.target, &options.users)?;
    let select = Rc::new(format!("SELECT {}", quoted(&options.select)));
    let step = bench.run.connections();
    // One session before the measurement, for an error that says what to do.
    session(&place, 0, &select, &Tally::default()).await?;
    let open = async |n: usize| Ok(Visitor { place: place.clone(), select: select.clone(), next: n, step });
    Ok(vec![bench.measure("login", open).await?])
}

struct Visitor {
    place: Rc<Place>,
    select: Rc<String>,
    /// The number of the next session, over all users.
    next: usize,
    step: usize,
}

impl Client for Visitor {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        let began = Instant::now();
        let number = self.next;
        self.next = self.next.wrapping_add(self.step);
        let mut imap = session(&self.place, number, &self.select, tally).await?;
        tally.done(due, began);
        tally.octets((0, 0), imap.octets());
        // The end is the server's: then the waiting state of a closed connection is on its side, and our ports stay free.
        imap.wire.drain().await;
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn close(self) {}
}

/// A whole session, to the answer to LOGOUT.
async fn session(place: &Place, number: usize, select: &str, tally: &Tally) -> Result<Imap, Failure> {
    let began = Instant::now();
    let mut imap = Imap::connect(&place.target).await?;
    if imap.wire.is_resumed() {
        tally.count("tls_resumed", 1);
    }
    tally.named("connect_us", began.elapsed());
    let logging_in = Instant::now();
    imap.login(place.account(number)).await?;
    tally.named("login_us", logging_in.elapsed());
    let selecting = Instant::now();
    imap.command(select).await?;
    tally.named("select_us", selecting.elapsed());
    imap.command("LOGOUT").await?;
    Ok(imap)
}
