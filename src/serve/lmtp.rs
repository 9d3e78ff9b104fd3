//! LMTP sessions: mail on its way in, spooled once, then stored for each recipient on that recipient's own shard.
//!
//! # Invariants
//! A recipient is told 250 after its copy is durable, and not before. One recipient's failure touches no other's.
//! Nothing is handed to any recipient before the message is whole: a connection that is lost earlier delivers to nobody.
//!
//! # Limits
//! [`PARALLEL_MAX`] recipients of a message are served at a time; the spool has its own.
//!
//! # RFC
//! 2033, 5321 §4.4 and §6.3, 1870, 3030.

mod deliver;
mod resent;
mod spool;

use self::deliver::{Delivery, Undelivered};
use self::resent::{Fingerprint, Sent};
use self::spool::Spool;
use super::auth::{self, Existence};
use super::away::away;
use super::metrics::{Gauge, count};
use super::{Peer, Shard};
use culver_model::mime::BinaryConverter;
use culver_model::{AccountId, InternalDate};
use culver_proto::lmtp::{self as proto, BareLineEnds, Event, HeaderWatch, Refusal, Server, Trace};
use culver_shard as shard;
use culver_shard::conn::Conn;
use culver_shard::{Queue, Task, time};
use culver_users::Network;
use futures_lite::future::or;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Recipients of one message that are served at a time.
const PARALLEL_MAX: usize = 16;
/// How long the last words may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What an idle session keeps of its send buffer.
const OUT_OCTETS_KEPT: usize = 4 * 1024;

/// Why a session ended, for the log.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// QUIT, or too many mistakes: the client was told.
    #[error("closed")]
    Closed,
    #[error("connection closed by the client")]
    Lost,
    #[error("silent for too long")]
    Idle,
    #[error("server is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One session.
pub struct Lmtp {
    shard: Rc<Shard>,
    conn: Conn,
    peer: Peer,
    server: Server,
    out: Vec<u8>,
    /// The message that arrives, from `Begin` to its end.
    incoming: Option<Incoming>,
    /// Messages so far.
    messages: u64,
}

struct Incoming {
    watch: HeaderWatch,
    scratch: Vec<u8>,
    spool: Spool,
    fingerprint: Fingerprint,
    /// XFORWARD gave an id; else the topmost Received may have one.
    has_ident: bool,
    /// Of BODY=BINARYMIME, whose parts of CTE BINARY are stored as BASE64.
    converter: Option<Box<BinaryConverter>>,
}

/// What is done for one accepted RCPT.
enum Plan {
    Deliver(Task<Result<(), Undelivered>>),
    /// A duplicate of that earlier one, which gets the same answer and no second copy.
    Same(usize),
    Refuse(Refusal),
}

impl Lmtp {
    /// A connection that was just accepted.
    pub async fn serve(shard: Rc<Shard>, conn: Conn, peer: Peer) -> End {
        let mut out = Vec::new();
        let server = Server::new(config(&shard, &peer), conn.is_tls(), &mut out);
        Lmtp { shard, conn, peer, server, out, incoming: None, messages: 0 }.run().await
    }

    async fn run(mut self) -> End {
        let shard = self.shard.clone();
        let _gauge = Gauge::hold(&shard.counters().lmtp_sessions);
        let end = match self.turns().await {
            Ok(end) => end,
            Err(error) => End::Io(error),
        };
        self.incoming = None;
        match end {
            End::Idle => self.server.expire(&mut self.out),
            End::ShuttingDown => self.server.shut_down(Refusal::ShuttingDown, &mut self.out),
            End::Closed | End::Lost | End::Io(_) => {}
        }
        if !matches!(end, End::Lost | End::Io(_)) {
            let _ = time::deadline(CLOSE_TIMEOUT, self.flush()).await;
        }
        let _ = time::deadline(CLOSE_TIMEOUT, self.conn.shutdown()).await;
        end
    }

    async fn turns(&mut self) -> io::Result<End> {
        loop {
            let input = self.conn.take_rx();
            let (used, event) = self.server.next(&input, &mut self.out);
            let mut wait = false;
            match event {
                Event::NeedMore => wait = true,
                Event::Write => self.flush().await?,
                Event::StartTls => {
                    self.incoming = None;
                    self.conn.put_rx(input, used);
                    self.flush().await?;
                    let Some(tls) = self.shard.tls() else { return Ok(End::Closed) };
                    // RFC 3207 §4.2: what came before the handshake ended never counts; `start_tls` forgets it.
                    self.conn.start_tls(tls, super::HANDSHAKE).await?;
                    self.server.tls_started();
                    self.peer.tls = true;
                    continue;
                }
                Event::Recipient(address) => {
                    let separator = self.shard.config().lmtp.detail_separator;
                    let account = AccountId::parse_recipient(&address.name(), separator);
                    let existence = match &account {
                        Ok((account, _)) => auth::exists(&self.shard, account).await,
                        Err(_) => Existence::No,
                    };
                    let away = match (&account, existence) {
                        (Ok((account, _)), Existence::Yes) => away(&self.shard, account).await,
                        _ => None,
                    };
                    if let Some(away) = away {
                        count(&self.shard.counters().lmtp_failed);
                        self.server.refuse_recipient_away(&away, &mut self.out);
                        self.conn.put_rx(input, used);
                        continue;
                    }
                    match existence {
                        Existence::Yes => self.server.accept_recipient(&mut self.out),
                        Existence::No => self.refuse_recipient(Refusal::UnknownUser),
                        Existence::Unavailable => self.refuse_recipient(Refusal::UsersUnavailable),
                    }
                }
                Event::Begin => {
                    self.begin();
                    self.conn.expect_message();
                }
                Event::Data(octets) => {
                    if let Some(incoming) = &mut self.incoming
                        && let Err(error) = incoming.push(octets).await
                    {
                        self.unspooled(&error);
                    }
                }
                Event::EndOfData => {
                    self.conn.put_rx(input, used);
                    self.end_of_data().await?;
                    continue;
                }
                Event::Discard => self.incoming = None,
                Event::Close => {
                    self.conn.put_rx(input, used);
                    return Ok(End::Closed);
                }
            }
            self.conn.put_rx(input, used);
            if wait {
                self.flush().await?;
                if let Some(end) = self.wait().await? {
                    return Ok(end);
                }
            }
            shard::yield_if_needed().await;
        }
    }

    /// Reads more, or says why the session ends.
    async fn wait(&mut self) -> io::Result<Option<End>> {
        enum Woken {
            Read(io::Result<usize>),
            End(End),
        }
        let limit = Duration::from_millis(self.server.idle_ms_max());
        let within = self.incoming.is_some();
        let Lmtp { conn, shard, .. } = self;
        let stopping = async {
            // A message that has begun is taken to its end: whether it counts is for the client to learn.
            match within {
                true => std::future::pending().await,
                false => shard.draining().await,
            }
            Woken::End(End::ShuttingDown)
        };
        let time = async {
            time::sleep(limit).await;
            Woken::End(End::Idle)
        };
        let read = async { Woken::Read(conn.fill().await) };
        match or(read, or(stopping, time)).await {
            Woken::Read(Ok(0)) => Ok(Some(End::Lost)),
            Woken::Read(Ok(_)) => Ok(None),
            Woken::Read(Err(error)) => Err(error),
            Woken::End(end) => Ok(Some(end)),
        }
    }

    fn refuse_recipient(&mut self, refusal: Refusal) {
        count(&self.shard.counters().lmtp_failed);
        self.server.refuse_recipient(refusal, &mut self.out);
    }

    fn begin(&mut self) {
        self.messages += 1;
        let directory = self.shard.config().storage.directory.join(spool::DIRECTORY);
        let has_ident = self.server.transaction().is_some_and(|transaction| transaction.ident().is_some());
        let binary = self.server.transaction().is_some_and(|transaction| transaction.is_binary());
        let converter = binary.then(|| Box::new(BinaryConverter::new()));
        let (watch, fingerprint) = (HeaderWatch::new(), Fingerprint::new());
        let (scratch, spool) = (Vec::new(), Spool::new(directory));
        self.incoming = Some(Incoming { watch, scratch, spool, fingerprint, has_ident, converter });
    }

    /// The message cannot be kept until it is whole.
    fn unspooled(&mut self, error: &io::Error) {
        tracing::error!(session = %self.peer.id, %error, "a message cannot be spooled");
        self.incoming = None;
        self.server.abandon(refusal_of(error));
    }

    /// The message is whole: every recipient gets its copy and the client its replies.
    async fn end_of_data(&mut self) -> io::Result<()> {
        let recipients = self.server.transaction().map_or(0, |transaction| transaction.recipients().len());
        let Some(incoming) = self.incoming.take() else {
            return self.refuse_all(recipients, Refusal::Temporary);
        };
        let (watch, fingerprint, spooled) = match incoming.finish().await {
            Ok(finished) => finished,
            Err(error) => {
                tracing::error!(session = %self.peer.id, %error, "a message cannot be spooled");
                return self.refuse_all(recipients, refusal_of(&error));
            }
        };
        let id = format!("{}-{}", self.peer.id, self.messages);
        let mut plans = self.plan(&id, &watch, fingerprint, spooled.content()).into_iter();
        let mut running: VecDeque<Plan> = VecDeque::new();
        let mut answers: Vec<Result<(), Undelivered>> = Vec::with_capacity(recipients);
        for _ in 0..recipients {
            while running.len() < PARALLEL_MAX
                && let Some(plan) = plans.next()
            {
                running.push_back(plan.start(self.shard.clone()));
            }
            let answer = match running.pop_front() {
                Some(Plan::Deliver(task)) => {
                    if !task.is_finished() {
                        self.flush().await?;
                    }
                    task.await.unwrap_or_else(|panicked| {
                        tracing::error!(session = %self.peer.id, id, %panicked, "a delivery ended by a panic");
                        Err(Refusal::Temporary.into())
                    })
                }
                Some(Plan::Same(earlier)) => {
                    answers.get(earlier).cloned().unwrap_or(Err(Refusal::Temporary.into()))
                }
                Some(Plan::Refuse(refusal)) => Err(refusal.into()),
                None => Err(Refusal::Temporary.into()),
            };
            match &answer {
                Ok(()) => {
                    count(&self.shard.counters().lmtp_delivered);
                    self.server.delivered(&id, &mut self.out);
                }
                Err(Undelivered::Refused(refusal)) => {
                    count(&self.shard.counters().lmtp_failed);
                    self.server.refused(*refusal, &mut self.out);
                }
                Err(Undelivered::Away(away)) => {
                    count(&self.shard.counters().lmtp_failed);
                    self.server.refused_away(away, &mut self.out);
                }
            }
            answers.push(answer);
        }
        Ok(())
    }

    fn refuse_all(&mut self, recipients: usize, refusal: Refusal) -> io::Result<()> {
        for _ in 0..recipients {
            count(&self.shard.counters().lmtp_failed);
            self.server.refused(refusal, &mut self.out);
        }
        Ok(())
    }

    /// What is to be done for each accepted RCPT, in order. Nothing of it has begun.
    fn plan(
        &self,
        id: &str,
        watch: &HeaderWatch,
        fingerprint: Fingerprint,
        content: &spool::Content,
    ) -> Vec<Planned> {
        let Some(transaction) = self.server.transaction() else { return Vec::new() };
        let config = self.shard.config();
        let internal_date = InternalDate { seconds: time::wall().0, zone_minutes: 0 };
        let date = internal_date.format_header();
        let trace = Trace {
            by: &config.hostname,
            from: self.server.lhlo().unwrap_or_default(),
            peer: Some(self.server.client_address().unwrap_or(self.peer.address)),
            tls: self.server.is_tls(),
            utf8: transaction.is_utf8(),
            id,
            date: &date,
            sender: transaction.sender(),
        };
        let sent: Option<Sent> = fingerprint.finish(transaction.ident(), watch, transaction.sender());
        let alone = transaction.recipients().len() == 1;
        let mut seen: BTreeMap<(AccountId, Option<String>), usize> = BTreeMap::new();
        let mut plans = Vec::with_capacity(transaction.recipients().len());
        for (at, address) in transaction.recipients().iter().enumerate() {
            let parsed = AccountId::parse_recipient(&address.name(), config.lmtp.detail_separator);
            plans.push(match parsed {
                Err(_) => Planned::Refuse(Refusal::UnknownUser),
                // RFC 5321 §6.3: a loop is broken before one more copy is made.
                Ok((account, _)) if watch.loops_at(account.as_str()) => Planned::Refuse(Refusal::Loop),
                Ok(recipient) => match seen.get(&recipient) {
                    Some(earlier) => Planned::Same(*earlier),
                    None => {
                        let prefix = trace.prefix(recipient.0.as_str(), alone);
                        let (account, detail) = recipient.clone();
                        let delivery = sent.as_ref().map(|sent| sent.to(&account, detail.as_deref()));
                        seen.insert(recipient, at);
                        let (id, content) = (id.to_owned(), content.clone());
                        Planned::Deliver(Box::new(Delivery {
                            id,
                            account,
                            detail,
                            delivery,
                            internal_date,
                            prefix,
                            content,
                        }))
                    }
                },
            });
        }
        plans
    }

    /// Sends what is ready. A client that does not read ends its own session.
    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            time::deadline(self.shard.config().lmtp.timeout, self.conn.write_all(&self.out)).await??;
            self.out.clear();
            self.out.shrink_to(OUT_OCTETS_KEPT);
        }
        Ok(())
    }
}

/// A [`Plan`] that has not begun.
enum Planned {
    Deliver(Box<Delivery>),
    Same(usize),
    Refuse(Refusal),
}

impl Planned {
    fn start(self, shard: Rc<Shard>) -> Plan {
        match self {
            Planned::Deliver(delivery) => {
                let target = shard.shard_of(&delivery.account);
                Plan::Deliver(shard::spawn(Queue::Interactive, "delivery", delivery.send(target)))
            }
            Planned::Same(earlier) => Plan::Same(earlier),
            Planned::Refuse(refusal) => Plan::Refuse(refusal),
        }
    }
}

impl Incoming {
    async fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        let Some(converter) = &mut self.converter else { return self.keep(octets).await };
        let mut converted = Vec::with_capacity(octets.len());
        converter.feed(octets, &mut converted);
        self.keep(&converted).await
    }

    async fn keep(&mut self, octets: &[u8]) -> io::Result<()> {
        let kept = self.watch.push(octets, &mut self.scratch);
        self.fingerprint.push(kept);
        if !self.has_ident && self.watch.in_body() && self.watch.queue_id().is_none() {
            self.fingerprint.give_up();
        }
        self.spool.write(kept).await
    }

    async fn finish(mut self) -> io::Result<(HeaderWatch, Fingerprint, spool::Spooled)> {
        if let Some(mut converter) = self.converter.take() {
            let mut rest = Vec::new();
            converter.finish(&mut rest);
            self.keep(&rest).await?;
        }
        self.watch.finish(&mut self.scratch);
        self.fingerprint.push(&self.scratch);
        self.spool.write(&self.scratch).await?;
        Ok((self.watch, self.fingerprint, self.spool.finish().await?))
    }
}

fn refusal_of(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::NoSpace,
        _ => Refusal::Temporary,
    }
}

/// What a connection is offered.
fn config(shard: &Shard, peer: &Peer) -> Arc<proto::Config> {
    let config = shard.config();
    let among = |networks: &[Network]| networks.iter().any(|network| network.contains(Some(peer.address)));
    let bare_line_ends =
        if config.lmtp.refuse_bare_newlines { BareLineEnds::Refuse } else { BareLineEnds::Normalise };
    Arc::new(proto::Config {
        host: config.hostname.clone(),
        starttls: shard.tls().is_some(),
        xforward: among(&config.lmtp.xforward_networks),
        xclient: among(&config.lmtp.xclient_networks),
        bare_line_ends,
        limits: proto::Limits {
            recipients_max: config.lmtp.recipients_max,
            message_octets_max: config.lmtp.message_octets_max,
            idle_ms_max: u64::try_from(config.lmtp.timeout.as_millis()).unwrap_or(u64::MAX),
            ..proto::Limits::default()
        },
    })
}

#[cfg(test)]
mod tests;
