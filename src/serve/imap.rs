//! IMAP sessions: reads requests from the protocol, carries them out on the mailbox, writes answers.
//!
//! A session begins on the shard that accepted it. Once authenticated it moves, whole, to the user's shard, and stays.
//!
//! # Invariants
//! No account state is borrowed across an await. Untagged EXPUNGE is sent only where RFC 3501 §7.4.1 allows it, and
//! not while commands are pipelined behind.
//!
//! # Limits
//! `out` is sent when it passes [`OUT_OCTETS_MAX`]; a client that does not read holds up its own session only.

mod append;
mod asleep;
mod context;
mod fetch;
mod late;
mod list;
mod metadata;
mod notify;
mod quota;
mod search;
mod select;
mod state;
mod store;

use super::auth::{self, Login};
use super::away::{away, away_from};
use super::metrics::{Gauge, add, count};
use super::{Peer, Shard};
use culver_mailbox::record::Record;
use culver_mailbox::{Changes, OpenError, Session, View};
use culver_model::{AccountId, Guid, MailboxName, ModSeq, UidSet};
use culver_proto::away::Away;
use culver_proto::imap::command::{Command, Hidden, IdPair, Request};
use culver_proto::imap::{
    Code, Event, Limits, Mask, Reason, Refusal, Server, Stage, Status, capability, encode, response,
};
use culver_proto::sasl::{Exchange, Mechanism, Mechanisms, Proof, Step};
use culver_shard as shard;
use culver_shard::conn::{Conn, Moved};
use culver_shard::{random, time};
use futures_lite::future::or;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Octets of answers that are gathered before they are sent.
const OUT_OCTETS_MAX: usize = 64 * 1024;
/// All literals of one command: with its line they fit what a connection may hold unread.
const LITERAL_OCTETS_MAX: u32 = (culver_shard::conn::RX_MAX - 256 * 1024) as u32;
/// Octets of a client's ID that are logged.
const ID_OCTETS_LOGGED: usize = 512;
/// The languages of what is said to people (RFC 5255 §3.1, RFC 2277 §4.5): one text serves both.
const ENGLISH: &str = "EN";
const I_DEFAULT: &str = "i-default";
/// What an idle session keeps of its send buffer.
const OUT_OCTETS_KEPT: usize = 4 * 1024;

/// Why a session ended, for the log.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("logged out")]
    Logout,
    #[error("connection closed by the client")]
    Closed,
    #[error("told BYE: {0:?}")]
    Bye(Reason),
    #[error("told BYE: {0}")]
    Away(Away),
    #[error("handed over to shard {0}")]
    HandedOver(usize),
    #[error("asleep")]
    Asleep,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One session.
pub struct Imap {
    shard: Rc<Shard>,
    conn: Conn,
    peer: Peer,
    server: Server,
    out: Vec<u8>,
    exchange: Option<(String, Exchange)>,
    user: Option<User>,
    began: time::Instant,
    /// The command under way is a UID command: each FETCH response has the UID (RFC 3501 §6.4.8).
    uid_command: bool,
}

/// What there is once a user is authenticated.
struct User {
    session: Session,
    selected: Option<Selected>,
    /// `$` (RFC 5182).
    saved: UidSet,
    connection: super::auth::Connection,
    /// APPENDs that had no outcome in time.
    late: Vec<late::LateAppend>,
    /// With ENABLE METADATA: changes of annotations up to here were told.
    metadata_told: ModSeq,
    /// NOTIFY was given.
    notify: Option<Box<notify::Notifying>>,
    contexts: context::Contexts,
    /// Capabilities that this user is not told of.
    hidden: Mask,
}

struct Selected {
    view: View,
    read_only: bool,
}

/// What a command asks of the loop that called it.
enum Flow {
    Go,
    Idle,
    StartTls,
    /// COMPRESS was answered: on; or UNAUTHENTICATE: off.
    Deflate(bool),
    HandOver {
        tag: String,
        account: AccountId,
        connection: super::auth::Connection,
    },
    Append(Box<append::Incoming>),
    End(End),
}

/// An IDLE under way.
#[derive(Clone, Copy)]
struct Idling {
    began: time::Instant,
    /// When the client was last told something.
    spoke: time::Instant,
}

/// How a wait for the client ended.
enum Waited {
    Go,
    /// The account has changed, of which the client wants to hear.
    Changed,
    End(End),
    /// The client has been silent for so long that the session is put away.
    Sleep,
}

/// How the session's turn on this shard ended.
enum Ending {
    End(End),
    Sleep(Option<Idling>),
    HandOver { target: usize, tag: String, account: AccountId, connection: super::auth::Connection },
}

/// An authenticated session on its way to the user's shard.
pub struct HandOver {
    moved: Moved,
    peer: Peer,
    server: Server,
    tag: String,
    account: AccountId,
    connection: super::auth::Connection,
}

impl HandOver {
    pub fn id(&self) -> super::SessionId {
        self.peer.id
    }
}

impl Imap {
    /// A connection that was just accepted.
    pub async fn serve(shard: Rc<Shard>, conn: Conn, peer: Peer) -> End {
        let mut server = Server::new(limits(&shard));
        if conn.is_tls() {
            server.set_tls();
        }
        let mut session = Imap::new(shard, conn, peer, server);
        let capabilities = session.capabilities();
        let text = format!("{} Culver ready", session.shard.config().hostname);
        let code = Code::Capability(&capabilities);
        response::untagged(&mut session.out, Status::Ok, Some(&code), &text);
        session.run(None).await
    }

    /// A connection that another shard authenticated.
    pub async fn take_over(shard: Rc<Shard>, hand_over: HandOver) -> End {
        let HandOver { moved, peer, server, tag, account, connection } = hand_over;
        let conn = Conn::attach(moved);
        let mut session = Imap::new(shard, conn, peer, server);
        match session.begin(&tag, &account, connection).await {
            Flow::End(end) => session.finish(end).await,
            _ => session.run(None).await,
        }
    }

    fn new(shard: Rc<Shard>, conn: Conn, peer: Peer, server: Server) -> Imap {
        let began = time::now();
        let (out, exchange, user, uid_command) = (Vec::new(), None, None, false);
        Imap { shard, conn, peer, server, out, exchange, user, began, uid_command }
    }

    fn capabilities(&self) -> String {
        let offer = capability::Offer {
            mask: self.user.as_ref().map_or(self.peer.hidden, |user| self.peer.hidden.and(user.hidden)),
            starttls: self.shard.tls().is_some(),
            plaintext: self.peer.secure,
            mechanisms: match self.user {
                None => auth::channel(&self.shard, &self.conn, &self.peer).offered,
                Some(_) => Mechanisms::NONE,
            },
            literal_minus: false,
            append_octets_max: self.shard.config().imap.append_octets_max,
            quota_set: self.sets_quota(),
            compress: self.shard.config().imap.compress && !self.conn.is_deflated(),
            uid_only: self.shard.config().imap.advertise_uidonly,
        };
        capability::capabilities(self.server.state(), &offer)
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.send_out().await?;
        self.out.shrink_to(OUT_OCTETS_KEPT);
        Ok(())
    }

    async fn send_out(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            self.send(&out).await?;
            self.out = out;
            self.out.clear();
        }
        Ok(())
    }

    /// Sends octets to a client that must read them in time.
    async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        let limit = self.patience();
        match time::deadline(limit, self.conn.write_all(octets)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")),
        }
    }

    /// How long the client may be silent, or not read.
    fn patience(&self) -> Duration {
        let config = &self.shard.config().imap;
        match self.user {
            Some(_) => config.inactivity,
            // One deadline from the first octet to the login: a drip of octets does not move it.
            None => config.login_timeout.saturating_sub(self.began.elapsed()),
        }
    }

    async fn flush_full(&mut self) -> io::Result<()> {
        // The rest of a long answer takes the room again: it is given back at its end.
        if self.out.len() >= OUT_OCTETS_MAX { self.send_out().await } else { Ok(()) }
    }

    async fn run(mut self, idling: Option<Idling>) -> End {
        let shard = self.shard.clone();
        let _gauge = Gauge::hold(&shard.counters().imap_sessions);
        let end = match self.turn(idling).await {
            Ok(Ending::End(end)) => end,
            Ok(Ending::Sleep(idling)) => {
                self.sleep(idling);
                return End::Asleep;
            }
            Ok(Ending::HandOver { target, tag, account, connection }) => {
                return self.hand_over(target, tag, account, connection).await;
            }
            Err(error) => End::Io(error),
        };
        self.finish(end).await
    }

    /// The last words.
    async fn finish(mut self, end: End) -> End {
        match &end {
            End::Bye(reason) => reason.write_bye(&mut self.out),
            End::Away(away) => away.write_imap_bye(&mut self.out),
            _ => {}
        }
        let _ = time::deadline(Duration::from_secs(5), self.flush()).await;
        let _ = time::deadline(Duration::from_secs(5), self.conn.shutdown()).await;
        end
    }

    async fn turn(&mut self, idling: Option<Idling>) -> io::Result<Ending> {
        if let Some(idling) = idling
            && let Some(ending) = self.idle(idling).await?
        {
            return Ok(ending);
        }
        loop {
            let input = self.conn.take_rx();
            let (used, event) = self.server.next(&input);
            let pipelined = used < input.len();
            let flow = match event {
                Event::NeedMore => {
                    self.conn.put_rx(input, used);
                    self.flush().await?;
                    match self.wait().await? {
                        Waited::Go => continue,
                        Waited::Changed => {
                            self.notify_now(false).await?;
                            continue;
                        }
                        Waited::End(end) => return Ok(Ending::End(end)),
                        Waited::Sleep => return Ok(Ending::Sleep(None)),
                    }
                }
                Event::Command(request) => {
                    count(&self.shard.counters().imap_commands);
                    self.command(request, pipelined).await?
                }
                Event::Continue => {
                    self.out.extend_from_slice(response::CONTINUE);
                    Flow::Go
                }
                Event::Append(offer) => match self.append_offered(offer, pipelined).await? {
                    Some(incoming) => Flow::Append(incoming),
                    None => Flow::Go,
                },
                Event::Response(Hidden(line)) => self.sasl_response(line).await,
                Event::ResponseTooLong => {
                    if let Some((tag, _)) = self.exchange.take() {
                        Reason::AuthenticationMalformed.write(&tag, &mut self.out);
                    }
                    Flow::Go
                }
                Event::Refused { tag, refusal, unsaved } => {
                    if let Some(user) = self.user.as_mut().filter(|_| unsaved) {
                        user.saved = UidSet::new();
                    }
                    refusal.write(tag, &mut self.out);
                    Flow::Go
                }
                Event::Bye(reason) => Flow::End(End::Bye(reason)),
                // These answer only what `append_body` and `idle` ask for.
                Event::AppendData(_)
                | Event::AppendPiece(_)
                | Event::AppendFailed(_)
                | Event::Done { .. } => Flow::Go,
            };
            self.conn.put_rx(input, used);
            self.update_contexts().await?;
            self.flush_full().await?;
            match flow {
                Flow::Go => {}
                Flow::Idle => {
                    let now = time::now();
                    if let Some(ending) = self.idle(Idling { began: now, spoke: now }).await? {
                        return Ok(ending);
                    }
                }
                Flow::StartTls => {
                    self.flush().await?;
                    // RFC 3501 §6.2.1: what came before the handshake ended never counts.
                    let Some(tls) = self.shard.tls_for(&self.peer) else {
                        return Ok(Ending::End(End::Closed));
                    };
                    self.conn.start_tls(tls, super::HANDSHAKE).await?;
                    self.server.starttls_done();
                    self.peer.tls = true;
                }
                Flow::Deflate(on) => {
                    // RFC 4978 §3: from right after the answer on.
                    self.flush().await?;
                    if on { self.conn.start_deflate() } else { self.conn.end_deflate() }
                }
                Flow::HandOver { tag, account, connection } => {
                    let target = self.shard.shard_of(&account);
                    if target == shard::shard() {
                        if let Flow::End(end) = self.begin(&tag, &account, connection).await {
                            return Ok(Ending::End(end));
                        }
                        continue;
                    }
                    self.flush().await?;
                    return Ok(Ending::HandOver { target, tag, account, connection });
                }
                Flow::Append(incoming) => {
                    if let Some(end) = self.append_body(incoming).await? {
                        return Ok(Ending::End(end));
                    }
                }
                Flow::End(end) => return Ok(Ending::End(end)),
            }
            if self.shard.exercise_state() {
                self.exercise_state();
            }
            shard::yield_if_needed().await;
        }
    }

    /// Reads more, or ends the session for time or for the server's own end.
    async fn wait(&mut self) -> io::Result<Waited> {
        let patience = self.patience();
        let sleepy = match self.may_sleep() {
            true => self.shard.sleep_after().min(patience),
            false => patience,
        };
        enum Woken {
            Read(io::Result<usize>),
            Time,
            Stop,
            Dropped,
            Changed,
        }
        let Imap { conn, shard, user, .. } = self;
        let user = user.as_ref();
        let stopping = async {
            shard.draining().await;
            Woken::Stop
        };
        let dropped = async {
            match user {
                Some(user) => dropped(&user.session).await,
                None => std::future::pending().await,
            }
            Woken::Dropped
        };
        let changed = async {
            match user {
                Some(user) => Imap::notified(user).await,
                None => std::future::pending().await,
            }
            Woken::Changed
        };
        let time = async {
            time::sleep(sleepy).await;
            Woken::Time
        };
        let read = async { Woken::Read(conn.fill().await) };
        Ok(match or(read, or(dropped, or(changed, or(stopping, time)))).await {
            Woken::Changed => Waited::Changed,
            Woken::Read(Ok(0)) => Waited::End(End::Closed),
            Woken::Read(Ok(_)) => Waited::Go,
            Woken::Read(Err(error)) => return Err(error),
            Woken::Time if sleepy < patience => Waited::Sleep,
            Woken::Time => Waited::End(End::Bye(Reason::Idle)),
            Woken::Stop => Waited::End(End::Bye(Reason::ShuttingDown)),
            Woken::Dropped => Waited::End(self.dropped_end().await),
        })
    }

    async fn hand_over(
        self,
        target: usize,
        tag: String,
        account: AccountId,
        connection: super::auth::Connection,
    ) -> End {
        let Imap { shard, conn, peer, server, .. } = self;
        let moved = match conn.detach().await {
            Ok(moved) => moved,
            Err(error) => return End::Io(error),
        };
        count(&shard.counters().hand_overs);
        let hand_over = HandOver { moved, peer, server, tag, account, connection };
        super::hand_over(target, super::HandOver::Imap(Box::new(hand_over))).await;
        End::HandedOver(target)
    }

    /// The user's account on this, its own shard.
    async fn begin(&mut self, tag: &str, account: &AccountId, connection: super::auth::Connection) -> Flow {
        match self.shard.accounts().session(account).await {
            Ok(session) => {
                self.make_mailboxes(&session).await;
                self.server.set_stage(Stage::Authenticated);
                self.user = Some(User {
                    session,
                    selected: None,
                    saved: UidSet::new(),
                    connection,
                    late: Vec::new(),
                    metadata_told: ModSeq::ZERO,
                    notify: None,
                    contexts: context::Contexts::default(),
                    hidden: self.shard.hidden_from(account),
                });
                let capabilities = self.capabilities();
                let code = Code::Capability(&capabilities);
                response::tagged(&mut self.out, tag, Status::Ok, Some(&code), "Logged in");
                Flow::Go
            }
            // It may log in as somebody else who is served here.
            Err(OpenError::Away { standing, .. }) => {
                let away = away_from(self.shard.accounts(), account, standing).await;
                tracing::info!(session = %self.peer.id, account = %account.as_str(), %away, "login");
                away.write_imap(tag, &mut self.out);
                Flow::Go
            }
            Err(error) => {
                tracing::error!(session = %self.peer.id, account = %account.as_str(), %error, "account cannot be opened");
                Reason::Unavailable.write(tag, &mut self.out);
                Flow::End(End::Bye(Reason::Unavailable))
            }
        }
    }

    /// What the client is told whose account was dropped under it.
    async fn dropped_end(&self) -> End {
        let Some(user) = &self.user else { return End::Bye(Reason::Unavailable) };
        match away(&self.shard, user.session.account().id()).await {
            Some(away) => End::Away(away),
            None => End::Bye(Reason::Unavailable),
        }
    }

    /// Why nothing of the user's account may be answered now, if that is so (R9 of docs/protocol.md).
    async fn away(&self) -> Option<Away> {
        away(&self.shard, self.user.as_ref()?.session.account().id()).await
    }

    async fn command(&mut self, request: Request<'_>, pipelined: bool) -> io::Result<Flow> {
        let Request { tag, command } = request;
        let stage = self.server.state().stage;
        tracing::debug!(session = %self.peer.id, command = command.name());
        // Only where a test asks for its hooks: how a panic of one session leaves the others alone.
        assert!(!(self.shard.exercise_state() && tag == "XPANIC"), "a test asked for this panic");
        if command.only_before_login() && stage != Stage::NotAuthenticated {
            Reason::AlreadyAuthenticated.write(tag, &mut self.out);
            return Ok(Flow::Go);
        }
        if command.needs() > stage {
            let reason =
                if stage == Stage::NotAuthenticated { Reason::NotAuthenticated } else { Reason::NotSelected };
            reason.write(tag, &mut self.out);
            return Ok(Flow::Go);
        }
        if matches!(command, Command::Logout) {
            Reason::Logout.write_bye(&mut self.out);
            response::tagged(&mut self.out, tag, Status::Ok, None, "Logged out");
            return Ok(Flow::End(End::Logout));
        }
        if matches!(command, Command::Unauthenticate) && stage != Stage::NotAuthenticated {
            // RFC 8437 §3: never NO, for a login may be pipelined behind it.
            (self.user, self.began) = (None, time::now());
            self.server.unauthenticate();
            response::tagged(&mut self.out, tag, Status::Ok, None, "Logged out of the account");
            // RFC 8437 §4.1.
            return Ok(if self.conn.is_deflated() { Flow::Deflate(false) } else { Flow::Go });
        }
        if self.user.as_ref().is_some_and(|user| user.session.account().is_dropped()) {
            return Ok(Flow::End(self.dropped_end().await));
        }
        if command.needs() > Stage::NotAuthenticated
            && let Some(away) = self.away().await
        {
            // RFC 3501 §6.3.1: after a SELECT that failed no mailbox is selected.
            if matches!(command, Command::Select(_)) {
                let had = self.user.as_ref().is_some_and(|user| user.selected.is_some());
                self.deselect();
                if had {
                    // RFC 7162 §3.2.11, as for a SELECT that succeeds.
                    let (closed, text) = (Code::Closed, "Previous mailbox closed");
                    response::untagged(&mut self.out, Status::Ok, Some(&closed), text);
                }
            }
            away.write_imap(tag, &mut self.out);
            return Ok(Flow::Go);
        }
        if self.deleted_under_us() {
            return Ok(Flow::End(End::Bye(Reason::MailboxDeleted)));
        }
        if self.server.state().enabled.uid_only && command.needs_sequence_numbers() {
            Reason::UidRequired.write(tag, &mut self.out);
            return Ok(Flow::Go);
        }
        self.uid_command = command.is_uid();
        match &command {
            // It leaves the mailbox that is selected: where that one stands would be taken for where the new one does.
            Command::Select(_) if command.enables_condstore() => self.server.enabled_mut().condstore = true,
            _ if command.enables_condstore() => self.enable_condstore(),
            _ => {}
        }
        match command {
            Command::Capability => {
                let list = self.capabilities();
                encode::capability(&mut self.out, &list);
                self.done(tag, pipelined, true, "Capabilities listed");
            }
            Command::Noop | Command::Check => self.done(tag, pipelined, true, "Done"),
            Command::Logout | Command::Unauthenticate => {}
            Command::Id(fields) => {
                if let Some(fields) = fields {
                    self.is_client(&fields);
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let shown: Vec<String> = fields
                        .iter()
                        .filter_map(|(field, value)| {
                            Some(format!("{}={}", text(field), text(value.as_deref()?)))
                        })
                        .collect();
                    let mut shown = shown.join(" ");
                    shown.truncate(shown.floor_char_boundary(ID_OCTETS_LOGGED));
                    // What a client sends may hold line ends: escaped, it forges no line of the log.
                    tracing::info!(session = %self.peer.id, id = ?shown, "client");
                }
                encode::id(&mut self.out, &[("name", "Culver"), ("version", env!("CARGO_PKG_VERSION"))]);
                self.done(tag, pipelined, true, "ID done");
            }
            Command::StartTls if self.server.state().tls => Reason::TlsActive.write(tag, &mut self.out),
            Command::StartTls if self.shard.tls().is_none() => {
                Reason::TlsUnavailable.write(tag, &mut self.out)
            }
            Command::StartTls => {
                response::tagged(&mut self.out, tag, Status::Ok, None, "Begin TLS");
                return Ok(Flow::StartTls);
            }
            Command::Login { user, password } => {
                if !self.password_allowed() {
                    Reason::PrivacyRequired.write(tag, &mut self.out);
                    return Ok(Flow::Go);
                }
                if !auth::channel(&self.shard, &self.conn, &self.peer).offered.take_passwords() {
                    Reason::LoginDisabled.write(tag, &mut self.out);
                    return Ok(Flow::Go);
                }
                let Ok(user) = std::str::from_utf8(&user) else {
                    Reason::AuthenticationFailed.write(tag, &mut self.out);
                    return Ok(Flow::Go);
                };
                let exchange = Exchange::over();
                return Ok(self.login(tag.to_owned(), exchange, user, &Proof::Password(password)).await);
            }
            Command::Authenticate { mechanism, initial } => {
                if !self.password_allowed() {
                    Reason::PrivacyRequired.write(tag, &mut self.out);
                    return Ok(Flow::Go);
                }
                let Some(mechanism) = Mechanism::parse(mechanism.as_bytes()) else {
                    Reason::MechanismUnknown.write(tag, &mut self.out);
                    return Ok(Flow::Go);
                };
                let channel = auth::channel(&self.shard, &self.conn, &self.peer);
                let (exchange, step) = Exchange::start(mechanism, initial.map(|initial| initial.0), &channel);
                self.exchange = Some((tag.to_owned(), exchange));
                return Ok(self.sasl_step(step).await);
            }
            Command::Enable(enable) => {
                let mut enabled = Vec::new();
                if enable.condstore || enable.qresync {
                    enabled.push("CONDSTORE");
                }
                if enable.qresync {
                    self.server.enabled_mut().qresync = true;
                    enabled.push("QRESYNC");
                }
                if enable.metadata {
                    self.enable_metadata();
                    enabled.push("METADATA");
                }
                let now = self.server.enabled_mut();
                for (asked, have, name) in [
                    (enable.rev2, &mut now.rev2, "IMAP4rev2"),
                    (enable.utf8_accept, &mut now.utf8_accept, "UTF8=ACCEPT"),
                    (enable.uid_only, &mut now.uid_only, "UIDONLY"),
                ] {
                    if asked {
                        *have = true;
                        enabled.push(name);
                    }
                }
                if let Some(user) = self.user.as_mut().filter(|_| enable.uid_only) {
                    user.contexts.forget_numbers();
                }
                encode::enabled(&mut self.out, &enabled);
                self.done(tag, pipelined, true, "Enabled");
            }
            Command::Namespace => {
                encode::namespace(&mut self.out, [&[""], &[], &[]]);
                self.done(tag, pipelined, true, "Namespaces listed");
            }
            Command::Language(ranges) if ranges.is_empty() => {
                encode::language(&mut self.out, &[ENGLISH, I_DEFAULT]);
                self.done(tag, pipelined, true, "Languages listed");
            }
            Command::Language(ranges) => {
                // RFC 5255 §3.2 with RFC 4647 §3.4: a range loses subtags from its end until it is known.
                let known = |range: &String| {
                    let first = range.split('-').next().unwrap_or_default();
                    let default = range.eq_ignore_ascii_case("default") || range == "*";
                    if default || range.eq_ignore_ascii_case(I_DEFAULT) {
                        Some(I_DEFAULT)
                    } else {
                        first.eq_ignore_ascii_case(ENGLISH).then_some(ENGLISH)
                    }
                };
                match ranges.iter().find_map(known) {
                    Some(language) => {
                        encode::language(&mut self.out, &[language]);
                        self.done(tag, pipelined, true, "Language set");
                    }
                    None => Reason::LanguageUnknown.write(tag, &mut self.out),
                }
            }
            Command::CancelUpdate(tags) => self.cancel_update(tag, &tags, pipelined),
            Command::Notify(notify) => self.notify(tag, notify, pipelined).await?,
            Command::Compress { deflate } => {
                let refused = match deflate {
                    false => Some(Reason::CompressionUnknown),
                    true if self.conn.is_deflated() => Some(Reason::CompressionActive),
                    true if !self.shard.config().imap.compress => Some(Reason::CompressionOff),
                    true => None,
                };
                match refused {
                    Some(reason) => reason.write(tag, &mut self.out),
                    None => {
                        self.sync(!pipelined);
                        // Nothing follows the answer without being compressed.
                        self.update_contexts().await?;
                        response::tagged(&mut self.out, tag, Status::Ok, None, "DEFLATE active");
                        return Ok(Flow::Deflate(true));
                    }
                }
            }
            Command::Idle => {
                self.sync(!pipelined);
                self.out.extend_from_slice(response::CONTINUE_IDLE);
                self.exchange = None;
                self.server.begin_idle();
                self.idle_tag(tag);
                return Ok(Flow::Idle);
            }
            Command::Select(select) => self.select(tag, select).await?,
            Command::Close => return self.close(tag).await,
            Command::Unselect => {
                self.deselect();
                response::tagged(&mut self.out, tag, Status::Ok, None, "Unselected");
            }
            Command::Create { mailbox, special_use } => {
                self.create(tag, mailbox, &special_use, pipelined).await;
            }
            Command::Delete(name) => self.delete(tag, name, pipelined).await,
            Command::Rename { from, to } => self.rename(tag, from, to, pipelined).await,
            Command::Subscribe(name) => self.subscribe(tag, name, true, pipelined).await,
            Command::Unsubscribe(name) => self.subscribe(tag, name, false, pipelined).await,
            Command::List(list) => self.list(tag, &list, pipelined).await?,
            Command::Lsub { reference, pattern, utf8 } => {
                self.lsub(tag, &reference, &pattern, utf8, pipelined).await?;
            }
            Command::Status { mailbox, items } => self.status(tag, &mailbox, items, pipelined),
            Command::GetQuota(root) => self.get_quota(tag, root, pipelined).await,
            Command::GetQuotaRoot(name) => self.get_quota_root(tag, &name, pipelined),
            Command::SetQuota { root, limits } => self.set_quota(tag, root, &limits, pipelined).await,
            Command::GetMetadata(get) => self.get_metadata(tag, &get, pipelined).await?,
            Command::SetMetadata(set) => self.set_metadata(tag, set, pipelined).await,
            Command::Expunge => self.expunge(tag, None).await,
            Command::UidExpunge(set) => self.expunge(tag, Some(set)).await,
            Command::Search(search) => self.search(tag, &search, pipelined).await?,
            Command::Esearch(esearch) => self.esearch(tag, &esearch, pipelined).await?,
            Command::Sort(sort) => self.sort(tag, &sort, pipelined).await?,
            Command::Thread(thread) => self.thread(tag, &thread, pipelined).await?,
            Command::Fetch(fetch) => self.fetch(tag, &fetch, pipelined).await?,
            Command::Store(store) => self.store(tag, &store, pipelined).await?,
            Command::Copy { uid, set, mailbox } => {
                self.copy(tag, uid, &set, &mailbox, false, pipelined).await
            }
            Command::Move { uid, set, mailbox } => self.copy(tag, uid, &set, &mailbox, true, pipelined).await,
        }
        Ok(Flow::Go)
    }

    /// `tag OK text`, after what the session has to be told.
    fn done(&mut self, tag: &str, pipelined: bool, expunges: bool, text: &str) {
        self.sync(expunges && !pipelined);
        response::tagged(&mut self.out, tag, Status::Ok, None, text);
    }

    fn password_allowed(&self) -> bool {
        self.server.state().tls || self.peer.secure
    }

    async fn sasl_response(&mut self, line: &[u8]) -> Flow {
        let Some((_, exchange)) = &mut self.exchange else { return Flow::Go };
        let step = exchange.response(line);
        self.sasl_step(step).await
    }

    async fn sasl_step(&mut self, step: Step) -> Flow {
        match step {
            Step::Challenge(challenge) => {
                response::challenge(&mut self.out, &challenge);
                self.server.begin_response();
                Flow::Go
            }
            Step::Keys { user, hash } => {
                // What was answered so far must not wait for a slow hash.
                if self.flush().await.is_err() {
                    return Flow::End(End::Closed);
                }
                let keys = auth::scram_keys(&self.shard, &user, hash, &self.peer).await;
                let Some((tag, exchange)) = &mut self.exchange else { return Flow::Go };
                match keys.map(|keys| exchange.keys(keys)) {
                    // What follows keys is a challenge.
                    Some(Step::Challenge(challenge)) => {
                        response::challenge(&mut self.out, &challenge);
                        self.server.begin_response();
                    }
                    _ => {
                        Reason::UsersUnavailable.write(tag, &mut self.out);
                        self.exchange = None;
                    }
                }
                Flow::Go
            }
            Step::Done(credentials) => {
                let Some((tag, exchange)) = self.exchange.take() else { return Flow::Go };
                self.login(tag, exchange, &credentials.user, &credentials.proof).await
            }
            Step::Failed(failure) => {
                use culver_proto::sasl::Failure;
                let Some((tag, _)) = self.exchange.take() else { return Flow::Go };
                let reason = match failure {
                    Failure::Cancelled => Reason::AuthenticationCancelled,
                    Failure::AuthorizationRefused => Reason::AuthorizationFailed,
                    Failure::NotOffered => Reason::MechanismUnknown,
                    Failure::TokenRefused => Reason::AuthenticationFailed,
                    Failure::Downgraded | Failure::BindingUnknown => Reason::ChannelBinding,
                    Failure::Malformed | Failure::TooLong | Failure::InitialRefused => {
                        Reason::AuthenticationMalformed
                    }
                };
                reason.write(&tag, &mut self.out);
                Flow::Go
            }
        }
    }

    async fn login(&mut self, tag: String, mut exchange: Exchange, user: &str, proof: &Proof) -> Flow {
        // What was answered so far must not wait for a slow hash.
        if self.flush().await.is_err() {
            return Flow::End(End::Closed);
        }
        let reason = match auth::login(&self.shard, user, proof, &self.peer, "imap").await {
            Login::Ok(account, connection) => return Flow::HandOver { tag, account, connection },
            Login::Failed => {
                // RFC 7628 §3.2.3: the client hears why, and answers, before it is told no.
                if let Some(Step::Challenge(challenge)) = exchange.refuse_token() {
                    response::challenge(&mut self.out, &challenge);
                    self.server.begin_response();
                    self.exchange = Some((tag, exchange));
                    return Flow::Go;
                }
                Reason::AuthenticationFailed
            }
            Login::Unavailable => Reason::UsersUnavailable,
            Login::Disabled => Reason::AccountDisabled,
            Login::TooMany => Reason::TooManyConnections,
        };
        reason.write(&tag, &mut self.out);
        Flow::Go
    }

    /// What the configuration hides from clients that call themselves so.
    fn is_client(&mut self, fields: &[IdPair<'_>]) {
        let named = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(b"name"));
        let Some(name) = named.and_then(|(_, value)| value.as_deref()) else { return };
        let families = self.shard.config().imap.clients.iter();
        let of = families.filter(|client| {
            name.get(..client.name.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(client.name.as_bytes()))
        });
        self.peer.hidden = of.fold(self.peer.hidden, |hidden, client| hidden.and(client.hidden));
    }

    fn enable_condstore(&mut self) {
        if self.server.state().enabled.condstore {
            return;
        }
        self.server.enabled_mut().condstore = true;
        // RFC 7162 §3.1.2: with a mailbox selected, the client is told where it stands.
        if let Some(selected) = self.user.as_ref().and_then(|user| user.selected.as_ref()) {
            let code = Code::HighestModSeq(selected.view.told());
            response::untagged(&mut self.out, Status::Ok, Some(&code), "CONDSTORE enabled");
        }
    }

    /// The selected mailbox went away under the session.
    fn deleted_under_us(&self) -> bool {
        let Some(user) = &self.user else { return false };
        let Some(selected) = &user.selected else { return false };
        user.session.account().state().selectable(selected.view.mailbox()).is_none()
    }

    /// Tells the session what happened in its mailbox, and with annotations, as far as NOTIFY lets it hear of that.
    fn sync(&mut self, expunges: bool) {
        self.sync_for(expunges, false);
    }

    /// The same. `own`: the command under way expunges, and its answer is no notification.
    fn sync_for(&mut self, expunges: bool, own: bool) {
        self.tell_metadata(None);
        let Some(User { session, selected: Some(selected), notify, contexts, .. }) = &mut self.user else {
            return;
        };
        // RFC 5465 §3.1: of the selected mailbox what NOTIFY asked for.
        let told = notify.as_ref().map(|notify| notify.told());
        if told.is_some_and(|told| !told.messages && !own) {
            return;
        }
        let account = session.account().clone();
        let state = account.state();
        let Some(index) = state.selectable(selected.view.mailbox()) else { return };
        let last = selected.view.last_uid();
        let before = (!contexts.is_empty()).then(|| selected.view.clone());
        let stood = selected.view.told();
        let changes = selected.view.sync(index, expunges);
        if changes.is_empty() {
            return;
        }
        let enabled = self.server.state().enabled;
        let Changes { expunged, vanished, exists, flags, keywords } = changes;
        let out = &mut self.out;
        if let Some(before) = before {
            contexts.expunged(out, &before, &vanished);
            contexts.touch(&flags);
        }
        // RFC 9586 §3.3.
        if enabled.qresync || enabled.uid_only {
            encode::vanished(out, false, &vanished);
        } else {
            expunged.iter().for_each(|sequence| encode::expunge(out, *sequence));
        }
        if let Some(exists) = exists {
            encode::exists(out, exists);
            if !enabled.rev2 {
                let next = index.uid_next().get();
                let recent = account.take_recent(index.guid(), next, selected.read_only);
                if !recent.is_empty() {
                    selected.view.add_recent(&std::iter::once(recent.start..=recent.end - 1).collect());
                }
                encode::recent(out, selected.view.recent_count());
            }
        }
        if keywords {
            select::write_flags(out, index, selected.read_only);
        }
        if exists.is_some() && (notify.is_some() || !contexts.is_empty()) {
            let new = selected.view.uids_in(&std::iter::once(last.saturating_add(1)..=u32::MAX).collect());
            contexts.touch(&new);
            if let Some(notify) = notify.as_mut() {
                notify.arrived(&new);
            }
        }
        if let Some(notify) = notify.as_mut().filter(|notify| !notify.told().flags) {
            if !flags.is_empty() {
                notify.withhold(stood);
            }
            return;
        }
        // RFC 5465 §5.1: with the UID.
        let manner = fetch::Manner::unasked(enabled, self.uid_command || told.is_some());
        for row in index.rows(&flags) {
            fetch::write_flags(out, &selected.view, &row, manner);
        }
    }

    fn idle_tag(&mut self, tag: &str) {
        // An IDLE is an exchange of one response: its tag waits in the same place.
        self.exchange = Some((tag.to_owned(), Exchange::over()));
    }

    /// RFC 2177: until DONE, changes are told as they come. `None`: it was ended by the client.
    async fn idle(&mut self, idling: Idling) -> io::Result<Option<Ending>> {
        self.uid_command = false;
        let config = &self.shard.config().imap;
        let (keepalive, inactivity) = (config.idle_keepalive, config.inactivity);
        let Idling { began, mut spoke } = idling;
        let ended = |reason| Ok(Some(Ending::End(End::Bye(reason))));
        loop {
            let Some(user) = &self.user else { return Ok(Some(Ending::End(End::Closed))) };
            let account = user.session.account().clone();
            let seen = account.changed().version();
            if account.is_dropped() {
                return Ok(Some(Ending::End(self.dropped_end().await)));
            }
            if self.deleted_under_us() {
                return ended(Reason::MailboxDeleted);
            }
            let input = self.conn.take_rx();
            let (used, event) = self.server.next(&input);
            let pipelined = used < input.len();
            let done = match event {
                Event::Done { clean } => Some(clean),
                Event::Bye(reason) => return ended(reason),
                _ => None,
            };
            self.conn.put_rx(input, used);
            if let Some(clean) = done {
                let Some((tag, _)) = self.exchange.take() else {
                    return Ok(Some(Ending::End(End::Closed)));
                };
                match clean {
                    true => self.done(&tag, pipelined, true, "Idle done"),
                    false => Refusal::NotDone.write(Some(&tag), &mut self.out),
                }
                return Ok(None);
            }
            match self.user.as_ref().is_some_and(|user| user.notify.is_some()) {
                true => self.notify_now(true).await?,
                false => {
                    self.sync(true);
                    self.update_contexts().await?;
                }
            }
            if !self.out.is_empty() {
                spoke = time::now();
                self.flush().await?;
            }
            enum Woken {
                Read(io::Result<usize>),
                Changed,
                Time,
                Stop,
            }
            let until =
                keepalive.saturating_sub(spoke.elapsed()).min(inactivity.saturating_sub(began.elapsed()));
            let sleepy = match self.may_sleep() {
                true => self.shard.sleep_after().min(until),
                false => until,
            };
            let woken = {
                let Imap { conn, shard, .. } = &mut *self;
                let read = async { Woken::Read(conn.fill().await) };
                let changed = async {
                    account.changed().changed_since(seen).await;
                    Woken::Changed
                };
                let stop = async {
                    shard.draining().await;
                    Woken::Stop
                };
                let time = async {
                    time::sleep(sleepy).await;
                    Woken::Time
                };
                or(read, or(changed, or(stop, time))).await
            };
            match woken {
                Woken::Read(Ok(0)) => return Ok(Some(Ending::End(End::Closed))),
                Woken::Read(Ok(_)) | Woken::Changed => {}
                Woken::Read(Err(error)) => return Err(error),
                Woken::Stop => return ended(Reason::ShuttingDown),
                Woken::Time if sleepy < until => {
                    return Ok(Some(Ending::Sleep(Some(Idling { began, spoke }))));
                }
                Woken::Time if began.elapsed() >= inactivity => return ended(Reason::Idle),
                Woken::Time => response::untagged(&mut self.out, Status::Ok, None, asleep::STILL_HERE),
            }
        }
    }

    /// Those that the configuration wants every account to have.
    async fn make_mailboxes(&self, session: &Session) {
        for special in self.shard.config().mailboxes.iter().filter(|special| special.create) {
            let Ok(name) = MailboxName::parse(&special.name) else { continue };
            if session.account().state().entry(&name).is_some() {
                continue;
            }
            let mut guid = Guid::default();
            random::fill(&mut guid.0);
            let special_use = Some(special.attribute.clone()).filter(|attribute| !attribute.is_empty());
            let record = Record::Create { guid, name, special_use, selectable: true };
            if let Err(error) = session.change(record).await {
                tracing::warn!(session = %self.peer.id, mailbox = special.name, %error, "not made at login");
            }
        }
    }

    fn sent(&self, octets: u64) {
        add(&self.shard.counters().message_octets_sent, octets);
    }
}

fn limits(shard: &Shard) -> Limits {
    Limits {
        append_octets_max: shard.config().imap.append_octets_max,
        literal_octets_max: LITERAL_OCTETS_MAX,
        ..Limits::default()
    }
}

/// Ready once the account was dropped under the session.
async fn dropped(session: &Session) {
    let account = session.account();
    loop {
        let seen = account.changed().version();
        if account.is_dropped() {
            return;
        }
        account.changed().changed_since(seen).await;
    }
}
