//! POP3 sessions: the snapshot of INBOX, messages streamed from where they lie, deletions committed at QUIT.
//!
//! A session begins on the shard that accepted it. Once authenticated it moves, whole, to the user's shard, and stays.
//!
//! # Invariants
//! No account state is borrowed across an await. Marks live in the session alone: a connection that is lost, and one
//! that ends in any way but QUIT, deletes nothing. QUIT is one record, so all of the marked messages go, or none.
//!
//! # Limits
//! One chunk of a message is in memory; a client that does not read for `pop3.inactivity` loses its connection.
//!
//! # RFC
//! 1939, 2449, 2595, 5034.

mod lock;
mod logins;
mod maildrop;

use self::lock::Hold;
pub use self::logins::Logins;
use super::auth::{self, Login};
use super::away::{away, away_from};
use super::metrics::{Gauge, add, count};
use super::{Peer, SessionId, Shard};
use culver_mailbox::record::Record;
use culver_mailbox::{ChangeError, OpenError, Session};
use culver_model::{AccountId, Guid, Uid, UidSet};
use culver_proto::away::Away;
use culver_proto::pop3::{self as proto, Event, Refusal, Server};
use culver_shard as shard;
use culver_shard::conn::{Conn, Moved};
use culver_shard::time;
use culver_storage::{Place, ReadError};
use futures_lite::future::or;
use std::fmt;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Octets of a message that are read and sent at a time.
const CHUNK_OCTETS: u64 = 64 * 1024;
/// The same for TOP, which seldom wants more than the header.
const TOP_CHUNK_OCTETS: u64 = 8 * 1024;
/// What an idle session keeps of its send buffer.
const OUT_OCTETS_KEPT: usize = 4 * 1024;
/// How long the last words may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a session ended, for the log.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// QUIT, the server's own end, or too many mistakes: the client was told.
    #[error("closed")]
    Closed,
    #[error("connection closed by the client")]
    Lost,
    #[error("silent for too long")]
    Idle,
    #[error("server is shutting down")]
    ShuttingDown,
    #[error("the maildrop went to another session")]
    Yielded,
    #[error("the account was dropped")]
    Dropped,
    #[error("{0}")]
    Away(Away),
    #[error("handed over")]
    HandedOver,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One session.
pub struct Pop3 {
    shard: Rc<Shard>,
    conn: Conn,
    peer: Peer,
    server: Server,
    out: Vec<u8>,
    user: Option<User>,
    began: time::Instant,
}

/// What there is once the user is in.
struct User {
    session: Session,
    hold: Option<Hold>,
    _connection: auth::Connection,
}

/// An authenticated session on its way to the user's shard.
pub struct HandOver {
    moved: Moved,
    peer: Peer,
    server: Server,
    account: AccountId,
    connection: auth::Connection,
}

impl HandOver {
    pub fn id(&self) -> SessionId {
        self.peer.id
    }
}

/// How the loop ends.
enum Turn {
    End(End),
    HandOver { target: usize, account: AccountId, connection: auth::Connection },
}

impl Pop3 {
    /// A connection that was just accepted.
    pub async fn serve(shard: Rc<Shard>, conn: Conn, peer: Peer) -> End {
        let config = config(&shard, &conn, &peer);
        let mut out = Vec::new();
        let server = Server::new(config, conn.is_tls(), &mut out);
        Pop3 { shard, conn, peer, server, out, user: None, began: time::now() }.run().await
    }

    /// A connection that another shard authenticated.
    pub async fn take_over(shard: Rc<Shard>, hand_over: HandOver) -> End {
        let HandOver { moved, peer, server, account, connection } = hand_over;
        let conn = Conn::attach(moved);
        let mut session = Pop3 { shard, conn, peer, server, out: Vec::new(), user: None, began: time::now() };
        session.begin(&account, connection).await;
        session.run().await
    }

    async fn run(mut self) -> End {
        let shard = self.shard.clone();
        let gauge = Gauge::hold(&shard.counters().pop3_sessions);
        let end = match self.turns().await {
            Ok(Turn::HandOver { target, account, connection }) => {
                drop(gauge);
                return self.hand_over(target, account, connection).await;
            }
            Ok(Turn::End(end)) => end,
            Err(error) => End::Io(error),
        };
        // The maildrop is free before the client learns of the end.
        self.user = None;
        if !matches!(end, End::Lost | End::Io(_)) {
            let _ = time::deadline(CLOSE_TIMEOUT, self.flush()).await;
        }
        let _ = time::deadline(CLOSE_TIMEOUT, self.conn.shutdown()).await;
        end
    }

    async fn turns(&mut self) -> io::Result<Turn> {
        loop {
            let input = self.conn.take_rx();
            let (used, event) = self.server.next(&input, &mut self.out);
            self.conn.put_rx(input, used);
            if let Some(hold) = self.hold() {
                if hold.is_lost() {
                    return Ok(Turn::End(self.stop(End::Yielded)));
                }
                hold.touch();
            }
            match event {
                Event::NeedMore => {
                    self.flush().await?;
                    if let Some(mut end) = self.wait().await? {
                        if let (End::Dropped, Some(away)) = (&end, self.away().await) {
                            end = End::Away(away);
                        }
                        return Ok(Turn::End(self.stop(end)));
                    }
                    continue;
                }
                Event::Write => self.flush().await?,
                Event::Keys { user, hash } => {
                    self.flush().await?;
                    match auth::scram_keys(&self.shard, &user, hash, &self.peer).await {
                        Some(keys) => self.server.keys(keys, &mut self.out),
                        None => self.refuse(Refusal::Unavailable),
                    }
                }
                Event::Login(login) => {
                    // What was answered so far must not wait for a slow hash.
                    self.flush().await?;
                    match auth::login(&self.shard, &login.user, &login.proof, &self.peer, "pop3").await {
                        Login::Ok(account, connection) => {
                            let target = self.shard.shard_of(&account);
                            if target != shard::shard() {
                                return Ok(Turn::HandOver { target, account, connection });
                            }
                            self.begin(&account, connection).await;
                        }
                        Login::Failed => self.refuse(Refusal::AuthenticationFailed),
                        Login::Unavailable => self.refuse(Refusal::Unavailable),
                        Login::Disabled => self.refuse(Refusal::Disabled),
                        Login::TooMany => self.refuse(Refusal::TooManyConnections),
                    }
                }
                Event::StartTls => {
                    self.flush().await?;
                    let Some(tls) = self.shard.tls_for(&self.peer) else { return Ok(Turn::End(End::Closed)) };
                    // RFC 2595 §4: what came before the handshake ended never counts; `start_tls` forgets it.
                    self.conn.start_tls(tls, super::HANDSHAKE).await?;
                    self.server.tls_started(auth::channel(&self.shard, &self.conn, &self.peer));
                    self.peer.tls = true;
                }
                Event::Message { uid, size, top, .. } => self.message(uid, size, top).await?,
                Event::Quit => self.quit().await,
                Event::Close => return Ok(Turn::End(End::Closed)),
            }
            if self.shard.exercise_state() {
                self.exercise_state();
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
        // One deadline from the first octet to the login: a drip of octets does not move it.
        let limit = Duration::from_millis(self.server.idle_ms_max());
        let limit = if self.user.is_some() { limit } else { limit.saturating_sub(self.began.elapsed()) };
        let Pop3 { conn, shard, user, .. } = self;
        let user = user.as_ref();
        let stopping = async {
            shard.draining().await;
            Woken::End(End::ShuttingDown)
        };
        let dropped = async {
            match user {
                Some(user) => dropped(&user.session).await,
                None => std::future::pending().await,
            }
            Woken::End(End::Dropped)
        };
        let yielded = async {
            match user.and_then(|user| user.hold.as_ref()) {
                Some(hold) => hold.lost().await,
                None => std::future::pending().await,
            }
            Woken::End(End::Yielded)
        };
        let time = async {
            time::sleep(limit).await;
            Woken::End(End::Idle)
        };
        let read = async { Woken::Read(conn.fill().await) };
        match or(read, or(or(dropped, yielded), or(stopping, time))).await {
            Woken::Read(Ok(0)) => Ok(Some(End::Lost)),
            Woken::Read(Ok(_)) => Ok(None),
            Woken::Read(Err(error)) => Err(error),
            Woken::End(end) => Ok(Some(end)),
        }
    }

    /// Tells the client why the session ends, where it can still be told.
    fn stop(&mut self, end: End) -> End {
        match end {
            End::Idle => self.server.expire(&mut self.out),
            End::ShuttingDown => self.server.shut_down(Refusal::ShuttingDown, &mut self.out),
            End::Yielded => self.server.shut_down(Refusal::InUse, &mut self.out),
            End::Away(ref away) => self.server.end_away(away, &mut self.out),
            End::Dropped => self.server.shut_down(Refusal::Temporary, &mut self.out),
            End::Closed | End::Lost | End::HandedOver | End::Io(_) => {}
        }
        end
    }

    async fn hand_over(self, target: usize, account: AccountId, connection: auth::Connection) -> End {
        let moved = match self.conn.detach().await {
            Ok(moved) => moved,
            Err(error) => return End::Io(error),
        };
        count(&self.shard.counters().hand_overs);
        let hand_over = HandOver { moved, peer: self.peer, server: self.server, account, connection };
        super::hand_over(target, super::HandOver::Pop3(Box::new(hand_over))).await;
        End::HandedOver
    }

    /// Opens the maildrop on this, the account's own shard, and answers the login.
    async fn begin(&mut self, account: &AccountId, connection: auth::Connection) {
        // RFC 2449 §6.5: all logins of an account come to its shard.
        let delay = self.shard.config().pop3.login_delay;
        if !delay.is_zero() && !self.shard.pop3_logins().admit(account, delay) {
            return self.refuse(Refusal::LoginDelay);
        }
        let hold = match self.shard.config().pop3.lock {
            false => None,
            true => match Hold::take(account, self.shard.config().pop3.lock_silence) {
                Some(hold) => Some(hold),
                None => return self.refuse(Refusal::InUse),
            },
        };
        let session = match self.shard.accounts().session(account).await {
            Ok(session) => session,
            Err(OpenError::Away { standing, .. }) => {
                let away = away_from(self.shard.accounts(), account, standing).await;
                tracing::info!(session = %self.peer.id, account = %account.as_str(), %away, "login");
                return self.server.refuse_away(&away, &mut self.out);
            }
            Err(error) => {
                tracing::error!(session = %self.peer.id, account = %account.as_str(), %error, "account cannot be opened");
                return self.refuse(Refusal::Temporary);
            }
        };
        match maildrop::snapshot(&session).await {
            Some(maildrop) => {
                self.server.login_ok(maildrop, &mut self.out);
                self.user = Some(User { session, hold, _connection: connection });
            }
            None => {
                tracing::error!(session = %self.peer.id, account = %account.as_str(), "account has no INBOX");
                self.refuse(Refusal::Permanent);
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.server.refuse(refusal, &mut self.out);
    }

    /// Why nothing of the user's account may be answered now, if that is so (R9 of docs/protocol.md).
    async fn away(&self) -> Option<Away> {
        away(&self.shard, self.user.as_ref()?.session.account().id()).await
    }

    /// RETR and TOP.
    async fn message(&mut self, uid: Uid, size: u64, top: bool) -> io::Result<()> {
        if let Some(away) = self.away().await {
            self.server.refuse_away(&away, &mut self.out);
            return Ok(());
        }
        let step = if top { TOP_CHUNK_OCTETS } else { CHUNK_OCTETS };
        // The first octets are read before anything is said, so that a failure is an honest -ERR.
        let mut chunk = match self.read(uid, 0..size.min(step)).await {
            Ok(chunk) => chunk,
            Err(unread) => {
                if let Some(away) = self.away().await {
                    self.server.refuse_away(&away, &mut self.out);
                    return Ok(());
                }
                let refusal = self.unread(uid, &unread);
                self.refuse(refusal);
                return Ok(());
            }
        };
        self.server.begin_message(&mut self.out);
        let mut sent = 0;
        loop {
            let wanted = self.server.message_chunk(&chunk, &mut self.out);
            add(&self.shard.counters().message_octets_sent, chunk.len() as u64);
            sent += chunk.len() as u64;
            if !wanted || sent >= size {
                break;
            }
            self.flush().await?;
            if let Some(hold) = self.hold() {
                hold.touch();
            }
            chunk = match self.read(uid, sent..size.min(sent + step)).await {
                Ok(chunk) => chunk,
                Err(unread) => {
                    // The message has begun: only a lost connection keeps the client from taking a part for the whole.
                    self.unread(uid, &unread);
                    return Err(io::Error::other("message unreadable after its beginning was sent"));
                }
            };
            shard::yield_if_needed().await;
        }
        self.server.end_message(&mut self.out);
        Ok(())
    }

    /// Octets of a message, from where it lies now.
    async fn read(&self, uid: Uid, range: Range<u64>) -> Result<Vec<u8>, Unread> {
        let user = self.user.as_ref().ok_or(Unread::Gone)?;
        let account = user.session.account();
        let storage = self.shard.accounts().storage();
        let mut again = false;
        loop {
            let place = {
                let state = account.state();
                let row = state.selectable(Guid::INBOX).and_then(|index| index.get(uid));
                Place::from_bytes(row.ok_or(Unread::Gone)?.place())
            };
            if range.is_empty() {
                return Ok(Vec::new());
            }
            let place = place.ok_or(Unread::NoPlace)?;
            let read = storage.read_place_for(account.partition(), account.id(), &place, range.clone());
            match read.await {
                Ok(octets) if octets.len() as u64 == range.end - range.start => return Ok(octets),
                Ok(octets) => {
                    return Err(Unread::Short { got: octets.len() as u64, wanted: range.end - range.start });
                }
                // Compaction moved it between the look and the read: look again, once.
                Err(ReadError::Gone(_)) if !again => again = true,
                Err(error) => return Err(Unread::Failed(error)),
            }
        }
    }

    /// Logs what needs a person, and says what the client is told.
    fn unread(&self, uid: Uid, unread: &Unread) -> Refusal {
        if let Unread::Gone = unread {
            return Refusal::MessageGone;
        }
        let account = self.user.as_ref().map_or("-", |user| user.session.account().id().as_str());
        tracing::error!(session = %self.peer.id, account, uid = uid.get(), %unread, "a message cannot be read");
        match unread {
            Unread::Failed(ReadError::Io { .. }) => Refusal::Temporary,
            _ => Refusal::Permanent,
        }
    }

    /// RFC 1939 §6: the UPDATE state.
    async fn quit(&mut self) {
        let deleted = self.server.maildrop().into_iter().flat_map(|maildrop| maildrop.deleted());
        // As ranges: these are sorted once, in whatever order the maildrop has them.
        let uids: UidSet = deleted.map(|uid| uid.get()..=uid.get()).collect();
        let Some(user) = &self.user else { return self.refuse(Refusal::NotDeleted) };
        let record = Record::Expunge { mailbox: Guid::INBOX, uids, only_deleted: false };
        match user.session.change(record).await {
            Ok(_) => self.server.quit_ok(&mut self.out),
            Err(ChangeError::Away(standing)) => {
                let account = user.session.account().id().clone();
                let away = away_from(self.shard.accounts(), &account, standing).await;
                self.server.refuse_away(&away, &mut self.out);
            }
            Err(error) => {
                let account = user.session.account().id().as_str();
                tracing::warn!(session = %self.peer.id, account, %error, "deletions were not committed");
                self.refuse(Refusal::NotDeleted);
            }
        }
    }

    fn hold(&self) -> Option<&Hold> {
        self.user.as_ref()?.hold.as_ref()
    }

    /// Sends what is ready. A client that does not read ends its own session.
    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            time::deadline(self.shard.config().pop3.inactivity, self.conn.write_all(&self.out)).await??;
            self.out.clear();
            self.out.shrink_to(OUT_OCTETS_KEPT);
        }
        Ok(())
    }

    /// Takes the session through its stored form, where it stands between two commands.
    fn exercise_state(&mut self) {
        if let Ok(bytes) = self.server.encode() {
            let config = config(&self.shard, &self.conn, &self.peer);
            self.server = Server::decode(config, &bytes).expect("what was just encoded");
        }
    }
}

/// Why octets of a message are not there.
enum Unread {
    /// Another session expunged it.
    Gone,
    NoPlace,
    Short {
        got: u64,
        wanted: u64,
    },
    Failed(ReadError),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Gone => f.write_str("expunged"),
            Unread::NoPlace => f.write_str("its row names no place"),
            Unread::Short { got, wanted } => write!(f, "{got} octets where {wanted} were expected"),
            Unread::Failed(error) => error.fmt(f),
        }
    }
}

/// What this connection is offered.
fn config(shard: &Shard, conn: &Conn, peer: &Peer) -> Arc<proto::Config> {
    let channel = auth::channel(shard, conn, peer);
    let config = shard.config();
    let idle_ms_max = u64::try_from(config.pop3.inactivity.as_millis()).unwrap_or(u64::MAX);
    Arc::new(proto::Config {
        greeting: format!("{} Culver ready", config.hostname),
        starttls: shard.tls().is_some(),
        plaintext_allowed: peer.secure,
        channel,
        limits: proto::Limits { idle_ms_max, ..proto::Limits::default() },
        expire: config.pop3.expire,
        login_delay_s: Some(config.pop3.login_delay.as_secs() as u32).filter(|seconds| *seconds > 0),
        ..proto::Config::default()
    })
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
