//! Sleep: a session whose client has been silent for a while is put away, small, until something happens.
//!
//! Most connections of a mail server wait: phones and desktop clients in IDLE, webmail between two clicks. Asleep a session is
//! its socket and its encoded state; its account may be closed, and is opened again when it wakes.
//!
//! # Invariants
//! Nothing of the client's was read and not answered, and nothing is waiting to be sent, when a session falls asleep.
//! In IDLE it has been told of everything that was committed by then, and wakes at the next change.
//!
//! # Limits
//! [`STATE_OCTETS_MAX`]: a session with a larger state stays awake.

use super::state::SessionState;
use super::{End, Idling, Imap, Selected, User, late, limits};
use crate::serve::away::away_from;
use crate::serve::metrics::Gauge;
use crate::serve::{Open, Peer, Shard, auth, supervise};
use culver_mailbox::{OpenError, Watch};
use culver_proto::imap::{Reason, Server, Status, response};
use culver_shard::conn::Conn;
use culver_shard::{Queue, spawn, time};
use futures_lite::future::or;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// What an idle client is told now and then, so that nothing between forgets the connection.
pub const STILL_HERE: &str = "Still here";
/// Octets of encoded state with which a session still sleeps. A mailbox of many gaps has many ranges of UIDs.
const STATE_OCTETS_MAX: usize = 64 * 1024;
/// How long a sleeping client may take to read a line.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// When it is put away a second time: its account and those of its neighbours have been closed by then.
const SETTLE_AFTER: Duration = Duration::from_secs(30);

/// Keep-alives that are due within this time are sent together.
const TOGETHER: Duration = Duration::from_secs(1);

/// A session that sleeps.
struct Asleep {
    conn: Conn,
    peer: Peer,
    watch: Watch,
    /// The account's version of which the client has been told all.
    seen: u64,
    connection: auth::Connection,
    state: Box<[u8]>,
    /// The IDLE under way and its tag.
    idling: Option<(Idling, Box<str>)>,
    /// When the client was last heard.
    silent_since: time::Instant,
    open: Open,
    /// When it is to be put away a second time.
    settles: Option<time::Instant>,
}

/// What wakes it.
enum Woken {
    Read(io::Result<usize>),
    Changed,
    Keepalive,
    Settle,
    Inactive,
    Stop,
}

impl Imap {
    /// Whether the session could be put away as it stands.
    pub(super) fn may_sleep(&self) -> bool {
        let Some(user) = &self.user else { return false };
        let ranges = user.selected.as_ref().map_or(0, |selected| selected.view.ranges_max());
        self.out.is_empty()
            && self.conn.rx().is_empty()
            && self.conn.backlog() == 0
            && !late::keeps_awake(user)
            && user.notify.is_none()
            && user.contexts.is_empty()
            && (ranges + user.saved.ranges().len()) * size_of::<u64>() < STATE_OCTETS_MAX
    }

    /// Puts the session away.
    pub(super) fn sleep(self, idling: Option<Idling>) {
        let Imap { shard, conn, peer, server, exchange, user, .. } = self;
        let Some(User { session, selected, saved, connection, metadata_told, .. }) = user else { return };
        let state = SessionState {
            protocol: server.state().clone(),
            metadata_told,
            saved,
            selected: selected.map(|selected| (selected.view, selected.read_only)),
        };
        let mut conn = conn;
        conn.rest();
        let watch = session.into_watch();
        let asleep = Asleep {
            conn,
            peer,
            // A change between here and the first wait is one that wakes it.
            seen: watch.changed().version(),
            watch,
            connection,
            state: state.encode().into_boxed_slice(),
            idling: idling.zip(exchange.map(|(tag, _)| tag.into_boxed_str())),
            silent_since: time::now(),
            open: Open::count(&shard),
            settles: Some(time::now() + if shard.exercise_sleep { Duration::ZERO } else { SETTLE_AFTER }),
        };
        spawn(Queue::Interactive, "imap asleep", rest(shard, Box::new(asleep))).detach();
    }

    /// Goes on where it fell asleep.
    async fn wake(shard: Rc<Shard>, asleep: Box<Asleep>) -> End {
        let Asleep { conn, peer, watch, connection, state, idling, open, .. } = *asleep;
        let _open = open;
        let opened = shard.accounts().session(watch.id()).await;
        let state = SessionState::decode(&state).expect("a session state survives its own encoding");
        let server = Server::resume(limits(&shard), state.protocol);
        let mut session = Imap::new(shard, conn, peer, server);
        match opened {
            Ok(opened) => {
                let selected = state.selected.map(|(view, read_only)| Selected { view, read_only });
                let (saved, late) = (state.saved, Vec::new());
                let (metadata_told, notify) = (state.metadata_told, None);
                let contexts = super::context::Contexts::default();
                let hidden = session.shard.hidden_from(opened.account().id());
                session.user = Some(User {
                    session: opened,
                    selected,
                    saved,
                    connection,
                    late,
                    metadata_told,
                    notify,
                    contexts,
                    hidden,
                });
            }
            Err(OpenError::Away { standing, .. }) => {
                let away = away_from(session.shard.accounts(), watch.id(), standing).await;
                return session.finish(End::Away(away)).await;
            }
            Err(error) => {
                tracing::error!(session = %session.peer.id, account = %watch.id().as_str(), %error, "account cannot be opened");
                return session.finish(End::Bye(Reason::Unavailable)).await;
            }
        }
        drop(watch);
        let idling = idling.map(|(idling, tag)| {
            session.idle_tag(&tag);
            idling
        });
        session.run(idling).await
    }
}

/// When a client is told again that the server is there, a little before it is due: thousands who sleep are told at the same
/// instants, so that the shard wakes once for many.
fn together(spoke: time::Instant, keepalive: Duration) -> time::Instant {
    let grid = (keepalive / 16).min(TOGETHER).as_nanos().max(1) as u64;
    let due = (spoke + keepalive).as_nanos();
    time::Instant(due - due % grid)
}

impl Asleep {
    async fn wait(&mut self, shard: &Shard) -> Woken {
        let config = &shard.config().imap;
        let Asleep { conn, watch, seen, idling, silent_since, settles, .. } = self;
        let (until, last) = match idling {
            Some((idling, _)) => (together(idling.spoke, config.idle_keepalive) - time::now(), idling.began),
            None => (Duration::MAX, *silent_since),
        };
        let left = config.inactivity.saturating_sub(last.elapsed());
        let changed = async {
            // A client that is not in IDLE hears of changes when it asks; of the account's going, at once.
            if idling.is_none() && !watch.accounts().storage().is_shared() {
                std::future::pending::<()>().await;
            }
            let mut known = *seen;
            loop {
                watch.changed().changed_since(known).await;
                if idling.is_some() || watch.is_lost() {
                    return Woken::Changed;
                }
                known = watch.changed().version();
            }
        };
        let stop = async {
            shard.draining().await;
            Woken::Stop
        };
        let time = async {
            let settle = settles.map_or(Duration::MAX, |at| at - time::now());
            time::sleep(until.min(left).min(settle)).await;
            match () {
                () if settle < until.min(left) => Woken::Settle,
                () if until < left => Woken::Keepalive,
                () => Woken::Inactive,
            }
        };
        let read = async { Woken::Read(conn.fill().await) };
        or(read, or(changed, or(stop, time))).await
    }

    /// Tells an idle client that the server is there.
    async fn still_here(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        response::untagged(&mut line, Status::Ok, None, STILL_HERE);
        time::deadline(SEND_WITHIN, self.conn.write_all(&line)).await??;
        self.conn.rest();
        if let Some((idling, _)) = &mut self.idling {
            idling.spoke = time::now();
        }
        Ok(())
    }

    async fn bye(&mut self, reason: Reason) {
        let mut line = Vec::new();
        reason.write_bye(&mut line);
        let _ = time::deadline(SEND_WITHIN, self.conn.write_all(&line)).await;
        let _ = time::deadline(SEND_WITHIN, self.conn.shutdown()).await;
    }
}

/// The same, anew in memory. What a session leaves when it falls asleep lies scattered between what its account and its
/// neighbours had, and would keep the allocator from giving that back.
async fn settle(asleep: Box<Asleep>) -> io::Result<Box<Asleep>> {
    let Asleep { conn, peer, watch, seen, connection, state, idling, silent_since, open, .. } = *asleep;
    Ok(Box::new(Asleep {
        conn: Conn::attach(conn.detach().await?),
        peer,
        watch: watch.again(),
        seen,
        connection,
        state: Box::from(&*state),
        idling: idling.map(|(idling, tag)| (idling, Box::from(&*tag))),
        silent_since,
        open,
        settles: None,
    }))
}

/// Sleeps until something wakes the session, and sees to that.
async fn rest(shard: Rc<Shard>, mut asleep: Box<Asleep>) {
    let counted = shard.clone();
    let _session = Gauge::hold(&counted.counters().imap_sessions);
    let _asleep = Gauge::hold(&counted.counters().imap_asleep);
    let id = asleep.peer.id;
    let woken = loop {
        match asleep.wait(&shard).await {
            Woken::Keepalive => {
                if let Err(error) = Box::pin(asleep.still_here()).await {
                    break Woken::Read(Err(error));
                }
            }
            Woken::Settle => {
                let (settled, shard) = (Box::pin(settle(asleep)).await, shard.clone());
                return match settled {
                    Ok(asleep) => spawn(Queue::Interactive, "imap asleep", rest(shard, asleep)).detach(),
                    Err(error) => tracing::debug!(session = %id, end = %error, "session ended"),
                };
            }
            woken => break woken,
        }
    };
    Box::pin(end(shard, asleep, woken)).await;
}

/// What follows on the sleep. In a future of its own, as are the others that few sleepers ever need at a time: thousands hold one
/// of [`rest`].
async fn end(shard: Rc<Shard>, mut asleep: Box<Asleep>, woken: Woken) {
    let id = asleep.peer.id;
    match woken {
        Woken::Read(Ok(0)) => {
            let _ = time::deadline(SEND_WITHIN, asleep.conn.shutdown()).await;
            tracing::debug!(session = %id, end = %End::Closed, "session ended");
        }
        Woken::Read(Err(error)) => tracing::debug!(session = %id, end = %error, "session ended"),
        Woken::Stop => asleep.bye(Reason::ShuttingDown).await,
        Woken::Inactive => asleep.bye(Reason::Idle).await,
        Woken::Read(Ok(_)) | Woken::Changed | Woken::Keepalive | Woken::Settle => {
            supervise(id, "imap", async move { Imap::wake(shard, asleep).await.to_string() });
        }
    }
}
