//! A script of IMAP commands on logged-in connections; NOOP and FETCH of bodies are scripts of their own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Place;
use crate::bench::Bench;
use crate::drive::Client;
use crate::figures::Row;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::imap::{Imap, quoted};
use crate::wire::imap_skip::{Answer, Status};
use crate::wire::{Failure, Target, TargetOptions};

/// Large answers are read in large steps.
const BUFFER_OCTETS: usize = 256 * 1024;

#[derive(clap::Args, Clone, Debug)]
pub struct ScriptOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    /// The mailbox that is selected, once
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    pub select: String,
    /// Commands that are sent before their answers are waited for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pipeline: u32,
}

#[derive(clap::Args, Clone, Debug)]
pub struct ImapOptions {
    #[command(flatten)]
    pub script: ScriptOptions,
    /// A command, without tag; several are sent in turn
    #[arg(long = "command", value_name = "COMMAND", required = true)]
    pub commands: Vec<String>,
    /// A command that is sent before each of them and not timed, to undo it or to make it work
    #[arg(long, value_name = "COMMAND")]
    pub before: Option<String>,
    /// SELECT anew before each command, not timed
    #[arg(long)]
    pub reselect: bool,
}

#[derive(clap::Args, Clone, Debug)]
pub struct FetchOptions {
    #[command(flatten)]
    pub script: ScriptOptions,
    /// What is fetched of each message
    #[arg(long, value_name = "ITEMS", default_value = "BODY.PEEK[]")]
    pub items: String,
    /// Messages of each command
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
}

pub async fn run(bench: &Bench, options: &ImapOptions) -> Result<Vec<Row>> {
    if options.script.pipeline > 1 && (options.before.is_some() || options.reselect) {
        bail!("--pipeline does not go with --before and --reselect: these are waited for");
    }
    let commands = options.commands.iter().map(|command| command.clone().into_bytes()).collect();
    let script = Script {
        commands,
        before: options.before.clone(),
        select: select(&options.script),
        reselect: options.reselect,
        pipeline: options.script.pipeline as usize,
    };
    Ok(vec![measure(bench, "imap", &options.script, script).await?])
}

pub async fn noop(bench: &Bench, options: &ScriptOptions) -> Result<Vec<Row>> {
    let script = Script { pipeline: options.pipeline as usize, ..Script::of("NOOP", &select(options)) };
    Ok(vec![measure(bench, "noop", options, script).await?])
}

/// All messages of the mailbox, over and over; once where neither time nor count is given.
pub async fn fetch(bench: &mut Bench, options: &FetchOptions) -> Result<Vec<Row>> {
    let place = Place::new(bench, &options.script.target, &options.script.users)?;
    let mut imap = Imap::open(&place.target, place.account(0)).await?;
    let selected = select(&options.script);
    imap.command(&selected).await?;
    let uids = imap.uids().await?;
    imap.logout().await;
    if uids.is_empty() {
        bail!("{}: no message to fetch: `culver-bench fill` puts some in", options.script.select);
    }
    let commands: Vec<Vec<u8>> = uids
        .chunks(options.batch as usize)
        .map(|batch| {
            let (first, last) = (batch[0], batch[batch.len() - 1]);
            let set = if first == last { first.to_string() } else { format!("{first}:{last}") };
            format!("UID FETCH {set} {}", options.items).into_bytes()
        })
        .collect();
    if bench.run.duration.is_none() && bench.run.count.is_none() {
        bench.run.count = Some(commands.len() as u64 * bench.run.connections() as u64);
    }
    let script = Script {
        commands,
        before: None,
        select: selected,
        reselect: false,
        pipeline: options.script.pipeline as usize,
    };
    Ok(vec![measure(bench, "fetch", &options.script, script).await?])
}

fn select(options: &ScriptOptions) -> String {
    format!("SELECT {}", quoted(&options.select))
}

async fn measure(bench: &Bench, name: &str, options: &ScriptOptions, script: Script) -> Result<Row> {
    let target = Target::new(&options.target, bench.run.connections(), BUFFER_OCTETS)?;
    let place = Rc::new(Place { target, accounts: crate::users::accounts(&options.users)? });
    let script = Rc::new(script);
    if bench.run.rate.is_some() && script.pipeline > 1 {
        bail!("--pipeline does not go with --rate: an open loop decides itself when to send");
    }
    let open = async |n: usize| Ok(Player::open(place.clone(), n, script.clone()).await?);
    bench.measure(name, open).await
}

pub struct Script {
    commands: Vec<Vec<u8>>,
    before: Option<String>,
    select: String,
    reselect: bool,
    pipeline: usize,
}

impl Script {
    /// One command, over and over, one at a time.
    pub fn of(command: &str, select: &str) -> Script {
        Script {
            commands: vec![command.as_bytes().to_vec()],
            before: None,
            select: select.to_owned(),
            reselect: false,
            pipeline: 1,
        }
    }
}

pub struct Player {
    place: Rc<Place>,
    number: usize,
    script: Rc<Script>,
    imap: Imap,
    next: usize,
    /// Sent and not answered.
    waiting: VecDeque<(u32, Instant)>,
}

impl Player {
    pub async fn open(place: Rc<Place>, number: usize, script: Rc<Script>) -> Result<Player, Failure> {
        let mut imap = Imap::open(&place.target, place.account(number)).await?;
        imap.command(&script.select).await?;
        let waiting = VecDeque::with_capacity(script.pipeline);
        Ok(Player { place, number, script, imap, next: 0, waiting })
    }

    fn push(&mut self) -> u32 {
        let commands = &self.script.commands;
        let tag = self.imap.push(&commands[self.next % commands.len()]);
        self.next += 1;
        tag
    }

    /// Answers one command, the oldest.
    async fn settle(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        loop {
            let Answer::Tagged(tag, status) = self.imap.answer().await? else { continue };
            let at = self.waiting.iter().position(|(sent, _)| *sent == tag);
            let Some((_, sent)) = at.and_then(|at| self.waiting.remove(at)) else {
                return Err(Failure::Unexpected(format!(
                    "an answer that nobody waits for: {}",
                    self.imap.words()
                )));
            };
            match status {
                Status::Ok => tally.done(due, sent),
                _ => tally.refused(|| self.imap.words()),
            }
            return Ok(());
        }
    }
}

impl Client for Player {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        if self.script.reselect {
            self.imap.command(&self.script.select).await?;
        }
        if let Some(before) = &self.script.before {
            self.imap.command(before).await?;
        }
        let before = self.imap.octets();
        // A pipeline is filled up when half of it is answered: one write for many commands.
        if self.waiting.len() <= self.script.pipeline / 2 {
            let began = self.waiting.len();
            while self.waiting.len() < self.script.pipeline {
                let tag = self.push();
                self.waiting.push_back((tag, Instant::now()));
            }
            let sent = self.imap.wire.flush().await?;
            self.waiting.iter_mut().skip(began).for_each(|(_, at)| *at = sent);
        }
        self.settle(due, tally).await?;
        tally.octets(before, self.imap.octets());
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        self.waiting.clear();
        self.imap = Imap::open(&self.place.target, self.place.account(self.number)).await?;
        self.imap.command(&self.script.select).await
    }

    async fn close(mut self) {
        while !self.waiting.is_empty() && self.settle(None, &Tally::default()).await.is_ok() {}
        self.imap.logout().await;
    }
}
