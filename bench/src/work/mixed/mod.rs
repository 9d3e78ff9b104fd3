//! Mixed work: people with think time, or the usual stress of a mail server without it.

mod desktop;
mod phone;
mod stress;
mod webmail;

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Place;
use super::lmtp::Deliverer;
use super::pop3::{Course, session};
use crate::bench::Bench;
use crate::corpus::{CorpusOptions, Message, messages};
use crate::drive::Client;
use crate::figures::Row;
use crate::options::share;
use crate::random::Random;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::imap::Imap;
use crate::wire::imap_skip::Status;
use crate::wire::{Failure, Target, TargetOptions};
use desktop::Desktop;
use phone::Phone;
use stress::Stress;
use webmail::Webmail;

/// Deliveries per second that one LMTP connection is trusted with.
const DELIVERIES_MAX: f64 = 20.0;

#[derive(clap::Args, Clone, Debug)]
pub struct MixedOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    #[command(flatten)]
    pub corpus: CorpusOptions,
    /// No people: each connection goes through rounds of commands without think time
    #[arg(long)]
    pub closed: bool,
    /// How people are made up, in parts [default: phone=50,desktop=30,webmail=15,pop3=5; pop3 only with --pop3]
    #[arg(long, value_name = "KIND=PARTS,…", conflicts_with = "closed")]
    pub profile: Option<String>,
    /// Think times are divided by this
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, conflicts_with = "closed")]
    pub speed: f64,
    /// With --closed: messages that a mailbox is kept at
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub keep: u32,
    /// With --closed: how likely a round ends with LOGOUT
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = share)]
    pub logout: f64,
    /// Where people with POP3 go
    #[arg(long, value_name = "HOST:PORT")]
    pub pop3: Option<String>,
    /// A stream of deliveries beside it, to there
    #[arg(long, value_name = "HOST:PORT")]
    pub lmtp: Option<String>,
    /// Its deliveries per second
    #[arg(long, value_name = "PER_SECOND", default_value_t = 1.0, requires = "lmtp")]
    pub lmtp_rate: f64,
}

pub async fn run(bench: &Bench, options: &MixedOptions) -> Result<Vec<Row>> {
    if bench.run.rate.is_some() {
        bail!("mixed has no --rate: people have think times (--speed), and --closed goes as fast as it can");
    }
    if !(options.speed > 0.0 && options.lmtp_rate > 0.0) {
        bail!("--speed and --lmtp-rate have to be more than 0");
    }
    let place = Place::new(bench, &options.target, &options.users)?;
    let shared = Rc::new(Shared {
        messages: Rc::new(messages(&options.corpus, bench.run.seed)?),
        pop3: elsewhere(&place, &options.users, options.pop3.as_deref()).context("--pop3")?,
        lmtp: elsewhere(&place, &options.users, options.lmtp.as_deref()).context("--lmtp")?,
        place,
        options: options.clone(),
    });
    let kinds = kinds(options)?;
    let people = bench.run.connections();
    let deliverers = match options.lmtp {
        Some(_) => (options.lmtp_rate / DELIVERIES_MAX).ceil() as usize,
        None => 0,
    };
    let open = async |n: usize| {
        let random = Random::new(bench.run.seed, n as u64);
        Ok(match n.checked_sub(people) {
            None if options.closed => Someone::Stress(Stress::open(shared.clone(), n, random).await?),
            None => shared.person(kind_of(&kinds, n), n, random).await?,
            Some(_) => {
                let place = shared.lmtp.clone().expect("deliverers are only where --lmtp was given");
                let mean = deliverers as f64 / options.lmtp_rate;
                let messages = shared.messages.clone();
                let thinking = random.clone();
                Someone::Deliverer(Deliverer::open(place, messages, 1, random).await?, thinking, mean)
            }
        })
    };
    let name = if options.closed { "mixed --closed" } else { "mixed" };
    Ok(vec![bench.measure_clients(name, people + deliverers, open).await?])
}

/// Another port of the same server, for the same users.
fn elsewhere(place: &Place, users: &UserOptions, address: Option<&str>) -> Result<Option<Rc<Place>>> {
    let Some(address) = address else { return Ok(None) };
    let target: Target = place.target.plain(address)?;
    Ok(Some(Rc::new(Place { target, accounts: crate::users::accounts(users)? })))
}

struct Shared {
    place: Rc<Place>,
    pop3: Option<Rc<Place>>,
    lmtp: Option<Rc<Place>>,
    messages: Rc<Vec<Message>>,
    options: MixedOptions,
}

impl Shared {
    async fn person(self: &Rc<Shared>, kind: Kind, n: usize, random: Random) -> Result<Someone> {
        Ok(match kind {
            Kind::Phone => Someone::Phone(Phone::open(self.clone(), n, random).await?),
            Kind::Desktop => Someone::Desktop(Box::new(Desktop::open(self.clone(), n, random).await?)),
            Kind::Webmail => Someone::Webmail(Webmail { shared: self.clone(), number: n, random }),
            Kind::Pop3 => Someone::Pop3(Collector { shared: self.clone(), number: n, random }),
        })
    }

    /// People do not think for equal times.
    fn think(&self, random: &mut Random, mean_seconds: f64) -> Option<Duration> {
        Some(Duration::from_secs_f64(random.exponential(mean_seconds) / self.options.speed))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Phone,
    Desktop,
    Webmail,
    Pop3,
}

/// Kinds with their parts.
fn kinds(options: &MixedOptions) -> Result<Vec<(Kind, usize)>> {
    let default = match options.pop3 {
        Some(_) => "phone=50,desktop=30,webmail=15,pop3=5",
        None => "phone=50,desktop=30,webmail=15",
    };
    let profile = options.profile.as_deref().unwrap_or(default);
    let mut kinds = Vec::new();
    for part in profile.split(',') {
        let (name, parts) =
            part.split_once('=').with_context(|| format!("--profile {part}: write KIND=PARTS"))?;
        let kind = match name.trim() {
            "phone" => Kind::Phone,
            "desktop" => Kind::Desktop,
            "webmail" => Kind::Webmail,
            "pop3" => Kind::Pop3,
            other => bail!("--profile {other}: the kinds are phone, desktop, webmail and pop3"),
        };
        let parts: usize =
            parts.trim().parse().with_context(|| format!("--profile {part}: write a number"))?;
        if kind == Kind::Pop3 && parts > 0 && options.pop3.is_none() {
            bail!("--profile with pop3 wants to know where: give --pop3 HOST:PORT");
        }
        kinds.push((kind, parts));
    }
    if kinds.iter().all(|(_, parts)| *parts == 0) {
        bail!("--profile {profile}: nobody is left");
    }
    Ok(kinds)
}

/// The kind of the n-th person: kinds are interleaved, so that few people are a mix as well.
fn kind_of(kinds: &[(Kind, usize)], n: usize) -> Kind {
    let total: usize = kinds.iter().map(|(_, parts)| parts).sum();
    // A step without a common divisor visits every part once in a round.
    let mut step = (total as f64 * 0.618) as usize | 1;
    while gcd(step, total) != 1 {
        step += 1;
    }
    let mut at = n.wrapping_mul(step) % total;
    for (kind, parts) in kinds {
        match at.checked_sub(*parts) {
            Some(rest) => at = rest,
            None => return *kind,
        }
    }
    unreachable!("the rest is below the sum of all parts")
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Everybody who takes part.
enum Someone {
    Stress(Stress),
    Phone(Phone),
    Desktop(Box<Desktop>),
    Webmail(Webmail),
    Pop3(Collector),
    /// With the mean seconds between two deliveries.
    Deliverer(Deliverer, Random, f64),
}

impl Client for Someone {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        match self {
            Someone::Stress(client) => client.round(tally).await,
            Someone::Phone(client) => client.glance(tally).await,
            Someone::Desktop(client) => client.action(tally).await,
            Someone::Webmail(client) => client.visit(tally).await,
            Someone::Pop3(client) => client.collect(tally).await,
            Someone::Deliverer(client, ..) => client.operate(due, tally).await,
        }
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        match self {
            Someone::Stress(client) => client.recover(),
            Someone::Phone(client) => client.reconnect().await?,
            Someone::Desktop(client) => client.reconnect().await?,
            Someone::Webmail(_) | Someone::Pop3(_) => {}
            Someone::Deliverer(client, ..) => client.recover().await?,
        }
        Ok(())
    }

    fn think(&mut self) -> Option<Duration> {
        match self {
            Someone::Stress(_) => None,
            Someone::Phone(client) => client.shared.think(&mut client.random, phone::THINK_SECONDS),
            Someone::Desktop(client) => client.shared.think(&mut client.random, desktop::THINK_SECONDS),
            Someone::Webmail(client) => client.shared.think(&mut client.random, webmail::THINK_SECONDS),
            Someone::Pop3(client) => client.shared.think(&mut client.random, COLLECT_SECONDS),
            // The stream has a rate of its own, whatever people's speed is.
            Someone::Deliverer(_, random, mean) => Some(Duration::from_secs_f64(random.exponential(*mean))),
        }
    }

    async fn close(self) {
        match self {
            Someone::Stress(client) => client.close().await,
            Someone::Phone(client) => client.close().await,
            Someone::Desktop(client) => client.close().await,
            Someone::Webmail(_) | Someone::Pop3(_) | Someone::Deliverer(..) => {}
        }
    }
}

/// Between two looks of a POP3 program.
const COLLECT_SECONDS: f64 = 300.0;

/// Leave on server: a program that fetches what is new and deletes nothing.
struct Collector {
    shared: Rc<Shared>,
    number: usize,
    random: Random,
}

impl Collector {
    async fn collect(&mut self, tally: &Tally) -> Result<(), Failure> {
        let place = self.shared.pop3.as_ref().expect("--profile was checked against --pop3");
        let began = Instant::now();
        let course = Course { delete: false, newest: self.random.below(4) as u32, pipeline: 1 };
        let mut pop3 = session(place, self.number, course, &Tally::default()).await?;
        tally.done_as("commands/POP3", None, began);
        tally.octets((0, 0), (pop3.wire.octets_in, pop3.wire.octets_out));
        pop3.wire.drain().await;
        Ok(())
    }
}

/// A command of a mix: its latency counts, and under its kind as well. False where it was refused.
async fn play(imap: &mut Imap, tally: &Tally, kind: &'static str, command: &str) -> Result<bool, Failure> {
    let before = imap.octets();
    let (status, sent) = imap.timed(command).await?;
    tally.octets(before, imap.octets());
    match status {
        Status::Ok => tally.done_as(kind, None, sent),
        _ => tally.refused(|| format!("{command}: {}", imap.words())),
    }
    Ok(status == Status::Ok)
}

/// APPEND, as [`play`].
async fn append(imap: &mut Imap, tally: &Tally, prefix: &str, message: &Message) -> Result<(), Failure> {
    let before = imap.octets();
    let began = Instant::now();
    let status = match imap.send_append(prefix.as_bytes(), &message.octets).await? {
        Some((tag, _)) => imap.finish(tag).await?,
        None => Status::No,
    };
    tally.octets(before, imap.octets());
    match status {
        Status::Ok => {
            tally.raw(message.octets.len() as u64);
            tally.done_as("commands/APPEND", None, began);
        }
        _ => tally.refused(|| format!("APPEND: {}", imap.words())),
    }
    Ok(())
}

/// LOGIN on a new connection, whose octets so far are counted with it.
async fn log_in(place: &Place, number: usize, tally: &Tally) -> Result<Imap, Failure> {
    let began = Instant::now();
    let mut imap = Imap::connect(&place.target).await?;
    imap.login(place.account(number)).await?;
    tally.done_as("commands/LOGIN", None, began);
    tally.octets((0, 0), imap.octets());
    Ok(imap)
}

/// LOGOUT, as [`play`], and the connection's end.
async fn log_out(mut imap: Imap, tally: &Tally) -> Result<(), Failure> {
    play(&mut imap, tally, "commands/LOGOUT", "LOGOUT").await?;
    imap.wire.drain().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_mixed_in_the_parts_asked_for() {
        for parts in [[50, 30, 15, 5], [1, 1, 1, 1], [0, 7, 0, 3], [1, 0, 0, 0]] {
            let all = [Kind::Phone, Kind::Desktop, Kind::Webmail, Kind::Pop3];
            let kinds: Vec<_> = all.into_iter().zip(parts).collect();
            let total: usize = parts.iter().sum();
            for (kind, parts) in &kinds {
                let found = (0..total).filter(|n| kind_of(&kinds, *n) == *kind).count();
                assert_eq!(found, *parts, "{kind:?} of {kinds:?}");
            }
        }
    }
}
