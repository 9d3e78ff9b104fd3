//! How soon a session in IDLE hears of a new message: from the answer to the delivery, and from its sending, to EXISTS.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_lite::future::try_zip;

use super::Place;
use crate::bench::Bench;
use crate::corpus::{CorpusOptions, Message, messages};
use crate::drive::Client;
use crate::figures::Row;
use crate::tally::Tally;
use crate::users::UserOptions;
use crate::wire::imap::Imap;
use crate::wire::imap_skip::{Answer, Status};
use crate::wire::lmtp::{Envelope, Lmtp};
use crate::wire::{Failure, Target, TargetOptions};

#[derive(clap::Args, Clone, Debug)]
pub struct NotifyOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    #[command(flatten)]
    pub corpus: CorpusOptions,
    /// Deliver by LMTP, there; without it by APPEND on a second connection
    #[arg(long, value_name = "HOST:PORT")]
    pub lmtp: Option<String>,
}

pub async fn run(bench: &Bench, options: &NotifyOptions) -> Result<Vec<Row>> {
    let place = Place::new(bench, &options.target, &options.users)?;
    let messages = Rc::new(messages(&options.corpus, bench.run.seed)?);
    let lmtp = match &options.lmtp {
        Some(address) => Some(Rc::new(place.target.plain(address).context("--lmtp")?)),
        None => None,
    };
    let open = async |n: usize| {
        let (idle, way) = Pair::connect(&place, n, lmtp.as_deref()).await?;
        let (place, messages, lmtp) = (place.clone(), messages.clone(), lmtp.clone());
        Ok(Pair { place, messages, lmtp, number: n, next: n, idle, way })
    };
    Ok(vec![bench.measure("notify", open).await?])
}

/// A session in IDLE, and a way for messages to reach its mailbox.
struct Pair {
    place: Rc<Place>,
    messages: Rc<Vec<Message>>,
    lmtp: Option<Rc<Target>>,
    number: usize,
    next: usize,
    idle: Imap,
    way: Way,
}

enum Way {
    Lmtp(Box<Lmtp>, Envelope),
    Append(Box<Imap>),
}

impl Pair {
    async fn connect(place: &Place, number: usize, lmtp: Option<&Target>) -> Result<(Imap, Way), Failure> {
        let account = place.account(number);
        let mut idle = Imap::open(&place.target, account).await?;
        idle.command("SELECT INBOX").await?;
        idle.start_idle().await?;
        let way = match lmtp {
            Some(target) => {
                let mut envelope = Envelope::default();
                envelope.clear();
                envelope.recipient(&account.user);
                envelope.finish();
                Way::Lmtp(Box::new(Lmtp::open(target).await?), envelope)
            }
            None => Way::Append(Box::new(Imap::open(&place.target, account).await?)),
        };
        Ok((idle, way))
    }
}

impl Client for Pair {
    async fn operate(&mut self, due: Option<Instant>, tally: &Tally) -> Result<(), Failure> {
        let message = &self.messages[self.next % self.messages.len()];
        self.next = self.next.wrapping_add(1);
        let (idle, way) = (&mut self.idle, &mut self.way);
        let (seen, before) = (idle.exists, octets(idle, way));
        let deliver = async {
            let sent = match way {
                Way::Lmtp(lmtp, envelope) => {
                    let delivered = lmtp.deliver(envelope, &message.stuffed).await?;
                    match delivered.sent {
                        Some(sent) if delivered.accepted == 1 => sent,
                        _ => return Err(Failure::Refused(lmtp.words())),
                    }
                }
                Way::Append(imap) => {
                    let appended = imap.send_append(b"APPEND INBOX", &message.octets).await?;
                    let Some((tag, sent)) = appended else { return Err(Failure::Refused(imap.words())) };
                    match imap.finish(tag).await? {
                        Status::Ok => sent,
                        _ => return Err(Failure::Refused(imap.words())),
                    }
                }
            };
            Ok((sent, Instant::now()))
        };
        let watch = async {
            loop {
                match idle.answer().await? {
                    Answer::Exists(count) if count > seen => return Ok(Instant::now()),
                    Answer::Bye => return Err(Failure::Closed(idle.words())),
                    _ => {}
                }
            }
        };
        // A refused delivery is never heard of, so the first failure ends both.
        let ((sent, answered), exists) = try_zip(deliver, watch).await?;
        // Who hears of it before the answer has waited for nothing.
        let heard = exists.saturating_duration_since(answered);
        tally.named("send_to_exists_us", exists - sent);
        tally.named("send_to_answer_us", answered - sent);
        tally.octets(before, octets(&self.idle, &self.way));
        tally.raw(message.octets.len() as u64);
        match due {
            // Behind its schedule, a delivery's delay counts as well.
            Some(due) => tally.took(heard + sent.saturating_duration_since(due)),
            None => tally.took(heard),
        }
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), Failure> {
        (self.idle, self.way) = Pair::connect(&self.place, self.number, self.lmtp.as_deref()).await?;
        Ok(())
    }

    async fn close(mut self) {
        self.idle.wire.out.extend_from_slice(b"DONE\r\n");
        self.idle.logout().await;
        if let Way::Append(imap) = self.way {
            imap.logout().await;
        }
    }
}

fn octets(idle: &Imap, way: &Way) -> (u64, u64) {
    let (idle, way) = (
        idle.octets(),
        match way {
            Way::Lmtp(lmtp, _) => lmtp.octets(),
            Way::Append(imap) => imap.octets(),
        },
    );
    (idle.0 + way.0, idle.1 + way.1)
}
