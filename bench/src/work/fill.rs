//! Fills mailboxes for other work: as fast as the server takes messages, with flags on a seeded share of them.

use std::cell::RefCell;
use std::io::Write;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};

use super::append::create;
use super::{BUFFER_OCTETS, Place};
use crate::bench::{Bench, close};
use crate::corpus::{CorpusOptions, Message, messages};
use crate::drive::{Client, Until};
use crate::figures::Row;
use crate::options::share;
use crate::random::Random;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::imap::{Imap, quoted};
use crate::wire::imap_skip::{Answer, Status};
use crate::wire::lmtp::{Envelope, Lmtp};
use crate::wire::{Failure, Target, TargetOptions};

/// Where --connections does not say.
const CONNECTIONS: u32 = 8;
/// Messages that are sent before their answers are read.
const BATCH: usize = 100;
/// Their octets: what is sent before answers are read has to fit into what the server buffers for itself.
const BATCH_OCTETS: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// IMAP APPEND, with MULTIAPPEND or pipelined where the server offers it
    Append,
    /// LMTP, into INBOX and without flags
    Lmtp,
}

#[derive(clap::Args, Clone, Debug)]
pub struct FillOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    #[command(flatten)]
    pub corpus: CorpusOptions,
    /// Messages for each user
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub messages: u32,
    /// Where to; it is made where it does not exist
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    pub mailbox: String,
    /// The share of messages with \Seen
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    pub seen: f64,
    /// The share of messages with \Flagged
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    pub flagged: f64,
    /// How messages are brought in
    #[arg(long, value_enum, default_value = "append")]
    pub via: Via,
    /// Only what is missing for --messages
    #[arg(long)]
    pub top_up: bool,
}

/// What all connections work off.
struct Task {
    place: Rc<Place>,
    options: FillOptions,
    messages: Vec<Message>,
    seed: u64,
    missing: RefCell<Missing>,
}

pub async fn run(bench: &Bench, options: &FillOptions) -> Result<Vec<Row>> {
    if options.via == Via::Lmtp && (options.seen > 0.0 || options.flagged > 0.0 || options.top_up) {
        bail!(
            "--via lmtp brings messages without flags and cannot count: --seen, --flagged and --top-up want --via append"
        );
    }
    if options.via == Via::Lmtp && !options.mailbox.eq_ignore_ascii_case("INBOX") {
        bail!("--via lmtp delivers to INBOX: --mailbox wants --via append");
    }
    if bench.run.rate.is_some() || bench.run.count.is_some() || bench.run.duration.is_some() {
        bail!("fill ends when it is done, as fast as it goes: leave out --rate, --count and --duration");
    }
    let connections = bench.run.connections.unwrap_or(CONNECTIONS) as usize;
    let target = Target::new(&options.target, connections, BUFFER_OCTETS)?;
    let place = Rc::new(Place { target, accounts: crate::users::accounts(&options.users)? });
    let corpus = messages(&options.corpus, bench.run.seed)?;
    let largest = corpus.iter().map(|message| message.octets.len()).max().unwrap_or(1);
    let batch = (BATCH_OCTETS / largest).clamp(1, BATCH) as u32;
    let mut missing = Vec::with_capacity(place.accounts.len());
    for user in 0..place.accounts.len() {
        bench.progress("counting", user as f64 / place.accounts.len() as f64);
        let from = if options.top_up { present(&place, user, &options.mailbox).await? } else { 0 };
        missing.push(from.min(options.messages)..options.messages);
    }
    let wanted: u64 = missing.iter().map(|range| range.len() as u64).sum();
    let batches: u64 = missing.iter().map(|range| range.len().div_ceil(batch as usize) as u64).sum();
    let mut row = Row::new("fill", &bench.label);
    if batches == 0 {
        bench.end_progress();
        anstream::eprintln!("nothing is missing");
        return Ok(vec![row]);
    }
    let task = Rc::new(Task {
        place,
        options: options.clone(),
        messages: corpus,
        seed: bench.run.seed,
        missing: RefCell::new(Missing { ranges: missing, next: 0 }),
    });
    let fillers: Vec<Filler> = (0..connections.min(batches as usize))
        .map(|_| Filler { task: task.clone(), batch, user: usize::MAX, way: Way::None })
        .collect();
    let (fillers, figures, counted) = bench.measured("fill", fillers, Until::Count(batches)).await?;
    let (sent, why) = (counted.operations, counted.first_error.clone());
    row.add(figures, counted);
    close(fillers).await;
    bench.end_progress();
    if sent < wanted {
        bail!(
            "only {sent} of {wanted} messages were taken{}; --top-up adds what is missing",
            why.map_or(String::new(), |why| format!(": {why}"))
        );
    }
    Ok(vec![row])
}

/// How many messages are there already.
async fn present(place: &Place, user: usize, mailbox: &str) -> Result<u32, Failure> {
    let mut imap = Imap::open(&place.target, place.account(user)).await?;
    create(&mut imap, mailbox).await?;
    let text = imap.collect(&format!("STATUS {} (MESSAGES)", quoted(mailbox))).await?;
    imap.logout().await;
    let text = String::from_utf8_lossy(&text);
    let count = text.rsplit_once("MESSAGES ").and_then(|(_, rest)| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    count.ok_or_else(|| Failure::Unexpected(format!("to STATUS: {text}")))
}

/// What is still to be sent, by user.
struct Missing {
    ranges: Vec<Range<u32>>,
    /// Where the next connection without work begins to look.
    next: usize,
}

impl Missing {
    /// At most `batch` messages: of the same user where some are left, so that connections seldom log in.
    fn take(&mut self, user: usize, batch: u32) -> Option<(usize, Range<u32>)> {
        let users = self.ranges.len();
        let has = |user: &usize| self.ranges.get(*user).is_some_and(|range| !range.is_empty());
        let user = Some(user).filter(has).or_else(|| {
            let found = (self.next..self.next + users).map(|n| n % users).find(has)?;
            self.next = found + 1;
            Some(found)
        })?;
        let range = &mut self.ranges[user];
        let end = range.end.min(range.start.saturating_add(batch));
        let taken = range.start..end;
        range.start = end;
        Some((user, taken))
    }
}

struct Filler {
    task: Rc<Task>,
    batch: u32,
    user: usize,
    way: Way,
}

enum Way {
    None,
    Append(Box<Imap>),
    Lmtp(Box<Lmtp>),
}

impl Filler {
    async fn connect(&mut self) -> Result<(), Failure> {
        let options = &self.task.options;
        self.way = match options.via {
            Via::Lmtp => Way::Lmtp(Box::new(Lmtp::open(&self.task.place.target).await?)),
            Via::Append => {
                let mut imap =
                    Imap::open(&self.task.place.target, self.task.place.account(self.user)).await?;
                create(&mut imap, &options.mailbox).await?;
                Way::Append(Box::new(imap))
            }
        };
        Ok(())
    }
}

impl Client for Filler {
    async fn operate(&mut self, _due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        // Batches are counted beforehand, so that there is one for everybody who asks.
        let taken = self.task.missing.borrow_mut().take(self.user, self.batch);
        let Some((user, batch)) = taken else { return Ok(()) };
        let same = std::mem::replace(&mut self.user, user) == user;
        let ready = match &self.way {
            Way::None => false,
            Way::Append(_) => same,
            Way::Lmtp(_) => true,
        };
        if !ready {
            if let Way::Append(imap) = std::mem::replace(&mut self.way, Way::None) {
                imap.logout().await;
            }
            self.connect().await?;
        }
        match &mut self.way {
            Way::None => Err(Failure::Closed("it could not be opened again".to_owned())),
            Way::Append(imap) if imap.can.multiappend && imap.can.literal_plus => {
                self.task.multiappend(imap, self.user, batch, tally).await
            }
            Way::Append(imap) => self.task.append(imap, self.user, batch, tally).await,
            Way::Lmtp(lmtp) => self.task.deliver(lmtp, self.user, batch, tally).await,
        }
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        self.connect().await
    }

    async fn close(self) {
        if let Way::Append(imap) = self.way {
            imap.logout().await;
        }
    }
}

impl Task {
    /// A message and its flags, the same for the same seed, user and number.
    fn message(&self, user: usize, number: u32) -> (&Message, &'static str) {
        let mut random = Random::new(self.seed, (user as u64) << 32 | u64::from(number));
        let message = &self.messages[random.below(self.messages.len())];
        let flags = match (random.chance(self.options.seen), random.chance(self.options.flagged)) {
            (false, false) => "",
            (true, false) => " (\\Seen)",
            (false, true) => " (\\Flagged)",
            (true, true) => " (\\Seen \\Flagged)",
        };
        (message, flags)
    }

    /// MULTIAPPEND (RFC 3502): one command for all, and all or nothing.
    async fn multiappend(
        &self,
        imap: &mut Imap,
        user: usize,
        batch: Range<u32>,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let before = imap.octets();
        let tag = imap.begin();
        let mut octets = 0;
        write!(imap.wire.out, "APPEND {}", quoted(&self.options.mailbox)).expect("a vector takes everything");
        for number in batch.clone() {
            let (message, flags) = self.message(user, number);
            write!(imap.wire.out, "{flags} {{{}+}}\r\n", message.octets.len())
                .expect("a vector takes everything");
            imap.wire.out.extend_from_slice(&message.octets);
            octets += message.octets.len() as u64;
        }
        imap.wire.out.extend_from_slice(b"\r\n");
        let sent = imap.wire.flush().await?;
        match imap.finish(tag).await? {
            Status::Ok => {
                tally.raw(octets);
                batch.for_each(|_| tally.done(None, sent));
            }
            _ => return Err(Failure::Refused(imap.words())),
        }
        tally.octets(before, imap.octets());
        Ok(())
    }

    async fn append(
        &self,
        imap: &mut Imap,
        user: usize,
        batch: Range<u32>,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let before = imap.octets();
        let mut waiting = 0;
        for number in batch {
            let (message, flags) = self.message(user, number);
            tally.raw(message.octets.len() as u64);
            let prefix = format!("APPEND {}{flags}", quoted(&self.options.mailbox));
            if imap.can.literal_at_once(message.octets.len()) {
                imap.begin();
                let octets = message.octets.len();
                write!(imap.wire.out, "{prefix} {{{octets}+}}\r\n").expect("a vector takes everything");
                imap.wire.out.extend_from_slice(&message.octets);
                imap.wire.out.extend_from_slice(b"\r\n");
                waiting += 1;
                continue;
            }
            let Some((tag, at)) = imap.send_append(prefix.as_bytes(), &message.octets).await? else {
                return Err(Failure::Refused(imap.words()));
            };
            match imap.finish(tag).await? {
                Status::Ok => tally.done(None, at),
                _ => return Err(Failure::Refused(imap.words())),
            }
        }
        let sent = imap.wire.flush().await?;
        while waiting > 0 {
            match imap.answer().await? {
                Answer::Tagged(_, Status::Ok) => tally.done(None, sent),
                Answer::Tagged(..) => return Err(Failure::Refused(imap.words())),
                _ => continue,
            }
            waiting -= 1;
        }
        tally.octets(before, imap.octets());
        Ok(())
    }

    async fn deliver(
        &self,
        lmtp: &mut Lmtp,
        user: usize,
        batch: Range<u32>,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let before = lmtp.octets();
        let mut envelope = Envelope::default();
        envelope.clear();
        envelope.recipient(&self.place.account(user).user);
        envelope.finish();
        for number in batch {
            let (message, _) = self.message(user, number);
            let delivered = lmtp.deliver(&envelope, &message.stuffed).await?;
            match delivered.sent {
                Some(sent) if delivered.accepted == 1 => tally.done(None, sent),
                _ => return Err(Failure::Refused(lmtp.words())),
            }
            tally.raw(message.octets.len() as u64);
        }
        tally.octets(before, lmtp.octets());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_taken_once_by_as_many_batches_as_were_counted() {
        let ranges = vec![0..750, 40..41, 0..0, 0..333];
        let batches: usize = ranges.iter().map(|range| range.len().div_ceil(100)).sum();
        let mut missing = Missing { ranges: ranges.clone(), next: 0 };
        let mut seen = vec![Vec::new(); 4];
        // Three connections, each with the user it had last.
        let mut users = [usize::MAX; 3];
        for n in 0..batches {
            let (user, batch) = missing.take(users[n % 3], 100).expect("there is one for everybody who asks");
            assert!(n >= 3 || !users.contains(&user), "connections begin with users of their own");
            users[n % 3] = user;
            seen[user].extend(batch);
        }
        assert_eq!(missing.take(0, 100), None);
        assert_eq!(seen, ranges.into_iter().map(Vec::from_iter).collect::<Vec<_>>());
    }
}
