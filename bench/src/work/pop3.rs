//! POP3 sessions: log in, list, retrieve all, leave or delete.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;

use super::Place;
use crate::bench::Bench;
use crate::drive::Client;
use crate::figures::Row;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::pop3::Pop3;
use crate::wire::{Failure, TargetOptions};

#[derive(clap::Args, Clone, Debug)]
pub struct Pop3Options {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    /// DELE each message after its RETR
    #[arg(long)]
    pub delete: bool,
    /// At most so many messages of each session, the newest
    #[arg(long, value_name = "N", default_value_t = u32::MAX, hide_default_value = true)]
    pub newest: u32,
    /// RETR commands that are sent before their answers are waited for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pipeline: u32,
}

pub async fn run(bench: &Bench, options: &Pop3Options) -> Result<Vec<Row>> {
    let place = Place::new(bench, &options.target, &options.users)?;
    let course = Course { delete: options.delete, newest: options.newest, pipeline: options.pipeline };
    let step = bench.run.connections();
    // A login before the measurement, for an error that says what to do.
    let mut first = Pop3::open(&place.target).await?;
    first.login(place.account(0)).await?;
    first.command("QUIT").await?;
    let open = async |n: usize| Ok(Reader { place: place.clone(), course, next: n, step });
    Ok(vec![bench.measure("pop3", open).await?])
}

/// What happens in a session.
#[derive(Clone, Copy)]
pub struct Course {
    pub delete: bool,
    pub newest: u32,
    pub pipeline: u32,
}

struct Reader {
    place: Rc<Place>,
    course: Course,
    next: usize,
    step: usize,
}

impl Client for Reader {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        let began = Instant::now();
        let number = self.next;
        self.next = self.next.wrapping_add(self.step);
        let mut pop3 = session(&self.place, number, self.course, tally).await?;
        tally.done(due, began);
        tally.octets((0, 0), (pop3.wire.octets_in, pop3.wire.octets_out));
        pop3.wire.drain().await;
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn close(self) {}
}

/// A whole session, to the answer to QUIT.
pub async fn session(place: &Place, number: usize, course: Course, tally: &Tally) -> Result<Pop3, Failure> {
    let began = Instant::now();
    let mut pop3 = Pop3::open(&place.target).await?;
    pop3.login(place.account(number)).await?;
    tally.named("login_us", began.elapsed());
    let listing = Instant::now();
    let count = pop3.stat().await?;
    pop3.listing("UIDL").await?;
    pop3.listing("LIST").await?;
    tally.named("list_us", listing.elapsed());
    let mut next = count.saturating_sub(course.newest) + 1;
    while next <= count {
        let last = count.min(next.saturating_add(course.pipeline - 1));
        for message in next..=last {
            pop3.push("RETR", message);
        }
        let sent = pop3.wire.flush().await?;
        for _ in next..=last {
            pop3.expect("RETR").await?;
            pop3.body().await?;
            tally.named("retr_us", sent.elapsed());
        }
        if course.delete {
            for message in next..=last {
                pop3.push("DELE", message);
            }
            pop3.wire.flush().await?;
            for _ in next..=last {
                pop3.expect("DELE").await?;
            }
        }
        tally.count("messages", u64::from(last - next + 1));
        next = last + 1;
    }
    let quitting = Instant::now();
    pop3.command("QUIT").await?;
    tally.named("quit_us", quitting.elapsed());
    Ok(pop3)
}
