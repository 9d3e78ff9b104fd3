//! One invocation: what was asked for, what all work shares, and the rows that come of it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::costs::Costs;
use crate::drive::{Client, Until, phase};
use crate::figures::{Figures, Row};
use crate::options::{OutputOptions, RunOptions, ServerOptions};
use crate::server::Server;
use crate::tally::Tally;

pub struct Bench {
    pub run: RunOptions,
    pub costs: ServerOptions,
    pub label: String,
    pub server: Option<Server>,
    bar: ProgressBar,
    repeat: Cell<u32>,
}

/// Of the progress bar.
const STEPS: u64 = 1000;

impl Bench {
    pub fn new(run: RunOptions, costs: ServerOptions, output: &OutputOptions) -> Result<Bench> {
        let server = Server::new(&costs.pids)?;
        // On something else than a terminal it draws nothing.
        let bar = ProgressBar::new(STEPS);
        let style = ProgressStyle::with_template("{msg:<28} {wide_bar} {percent:>3}%")?;
        bar.set_style(style);
        Ok(Bench { run, costs, label: output.label.clone(), server, bar, repeat: Cell::new(0) })
    }

    pub fn progress(&self, what: &str, share: f64) {
        let repeat = match self.run.repeat {
            1 => String::new(),
            repeats => format!(" {}/{repeats}", self.repeat.get() + 1),
        };
        self.bar.set_message(format!("{what}{repeat}"));
        self.bar.set_position((share.clamp(0.0, 1.0) * STEPS as f64) as u64);
    }

    pub fn end_progress(&self) {
        self.bar.finish_and_clear();
    }

    pub fn until(&self) -> Until {
        match self.run.count {
            Some(count) => Until::Count(count),
            None => Until::Time(self.run.duration()),
        }
    }

    /// The usual course: clients are made by `open`, by their number; warm-up; the measured phase; the server settles.
    /// As often as is asked for.
    pub async fn measure<C: Client>(
        &self,
        name: &str,
        open: impl AsyncFn(usize) -> Result<C>,
    ) -> Result<Row> {
        self.measure_clients(name, self.run.connections(), open).await
    }

    /// The same with another number of clients than --connections.
    pub async fn measure_clients<C: Client>(
        &self,
        name: &str,
        count: usize,
        open: impl AsyncFn(usize) -> Result<C>,
    ) -> Result<Row> {
        let mut row = Row::new(name, &self.label);
        for repeat in 0..self.run.repeat {
            self.begin_repeat(repeat);
            let clients = self.open(count, &open).await?;
            let clients = self.warm(clients).await?;
            let (clients, figures, counted) = self.measured(name, clients, self.until()).await?;
            row.add(figures, counted);
            self.progress("closing", 1.0);
            close(clients).await;
        }
        self.end_progress();
        Ok(row)
    }

    pub fn begin_repeat(&self, repeat: u32) {
        self.repeat.set(repeat);
    }

    pub async fn open<C>(&self, count: usize, open: &impl AsyncFn(usize) -> Result<C>) -> Result<Vec<C>> {
        let mut clients = Vec::with_capacity(count);
        for n in 0..count {
            self.progress("connecting", n as f64 / count as f64);
            clients.push(open(n).await.with_context(|| format!("connection {}", n + 1))?);
        }
        Ok(clients)
    }

    pub async fn warm<C: Client>(&self, clients: Vec<C>) -> Result<Vec<C>> {
        let warmup = self.run.warmup();
        if warmup == Duration::ZERO {
            return Ok(clients);
        }
        let scratch = Rc::new(Tally::default());
        // Other arrivals than those that are measured.
        let options = RunOptions { seed: self.run.seed.wrapping_add(1), ..self.run.clone() };
        let look = |share| self.progress("warm-up", share);
        let (clients, _) = phase(clients, &options, Until::Time(warmup), &scratch, look).await?;
        Ok(clients)
    }

    /// The measured phase and its costs.
    pub async fn measured<C: Client>(
        &self,
        what: &str,
        clients: Vec<C>,
        until: Until,
    ) -> Result<(Vec<C>, Figures, crate::tally::Counted)> {
        let tally = Rc::new(Tally::default());
        let costs = Costs::start(self.server.as_ref());
        let look = |share| self.progress(what, share);
        let (clients, seconds) = phase(clients, &self.run, until, &tally, look).await?;
        let counted = tally.take();
        let mut figures = Figures::of(&counted, seconds);
        self.progress("settling", 1.0);
        costs.finish(&self.costs, &mut figures).await?;
        Ok((clients, figures, counted))
    }
}

/// Closes all at a time, and does not wait for long.
pub async fn close<C: Client>(clients: Vec<C>) {
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::task::spawn_local(client.close())).collect();
    let all = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
}
