//! What writers do to others: NOOP at a calm rate, first alone, then while appenders write as fast as they can.

use std::rc::Rc;

use anyhow::{Result, bail};
use futures_lite::future::zip;

use super::Place;
use super::append::Appender;
use super::imap::{Player, Script};
use crate::bench::{Bench, close};
use crate::corpus::{CorpusOptions, messages};
use crate::costs::Costs;
use crate::drive::{Until, phase};
use crate::figures::{Figures, Row};
use crate::options::RunOptions;
use crate::random::Random;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::TargetOptions;

/// NOOPs per second and connection, where --rate does not say: far from being work themselves.
const RATE: f64 = 200.0;

#[derive(clap::Args, Clone, Debug)]
pub struct InterfereOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    #[command(flatten)]
    pub corpus: CorpusOptions,
    /// Connections that append
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub appenders: u32,
    /// Where they append to; it is made where it does not exist
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    pub mailbox: String,
}

pub async fn run(bench: &Bench, options: &InterfereOptions) -> Result<Vec<Row>> {
    if bench.run.count.is_some() {
        bail!("interfere compares two times of the same length: give --duration, not --count");
    }
    let place = Place::new(bench, &options.target, &options.users)?;
    let messages = Rc::new(messages(&options.corpus, bench.run.seed)?);
    let script = Rc::new(Script::of("NOOP", "SELECT INBOX"));
    let noops = bench.run.connections();
    let rate = bench.run.rate.unwrap_or(RATE * noops as f64);
    let calm = RunOptions { rate: Some(rate), ..bench.run.clone() };
    let eager = RunOptions { rate: None, ..bench.run.clone() };
    let until = Until::Time(bench.run.duration());
    let mut rows = [Row::new("interfere quiet", &bench.label), Row::new("interfere busy", &bench.label)];
    for repeat in 0..bench.run.repeat {
        bench.begin_repeat(repeat);
        let players =
            bench.open(noops, &async |n| Ok(Player::open(place.clone(), n, script.clone()).await?)).await?;
        // Other users than those of the NOOPs, where there are others.
        let appenders = async |n: usize| {
            let random = Random::new(bench.run.seed, n as u64);
            Ok(Appender::open(place.clone(), noops + n, messages.clone(), &options.mailbox, random).await?)
        };
        let appenders = bench.open(options.appenders as usize, &appenders).await?;
        let players = bench.warm(players).await?;

        let tally = Rc::new(Tally::default());
        let costs = Costs::start(bench.server.as_ref());
        let (players, seconds) =
            phase(players, &calm, until, &tally, |share| bench.progress("quiet", share)).await?;
        let counted = tally.take();
        let mut quiet = Figures::of(&counted, seconds);
        costs.finish(&bench.costs, &mut quiet).await?;
        rows[0].add(quiet.clone(), counted);

        let (tally, appended) = (Rc::new(Tally::default()), Rc::new(Tally::default()));
        let costs = Costs::start(bench.server.as_ref());
        let (players, appenders) = zip(
            phase(players, &calm, until, &tally, |share| bench.progress("busy", share)),
            phase(appenders, &eager, until, &appended, |_| {}),
        )
        .await;
        let ((players, seconds), (appenders, append_seconds)) = (players?, appenders?);
        let (mut counted, appended) = (tally.take(), appended.take());
        counted.errors += appended.errors;
        counted.first_error = counted.first_error.or(appended.first_error);
        let mut busy = Figures::of(&counted, seconds);
        busy.set("appended", appended.operations as f64);
        busy.set("appended_per_second", appended.operations as f64 / append_seconds);
        for percentile in ["p50", "p99"] {
            let path = format!("latency_us/{percentile}");
            if let (Some(alone), Some(beside)) = (quiet.get(&path), busy.get(&path)) {
                busy.set(format!("{percentile}_ratio"), beside / alone.max(1e-3));
            }
        }
        costs.finish(&bench.costs, &mut busy).await?;
        rows[1].add(busy, counted);
        close(players).await;
        close(appenders).await;
    }
    bench.end_progress();
    Ok(rows.into())
}
