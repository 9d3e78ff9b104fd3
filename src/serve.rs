//! Serving: one process, its shards, their listeners, and what every session needs.
//!
//! # Order
//! The store is locked and recovered before a listener is bound; listeners close before sessions are told; the journal
//! closes last. `store` has the order on a store that nodes share.

pub mod admin;
pub mod auth;
pub mod away;
pub mod imap;
pub mod lmtp;
mod memory;
pub mod metrics;
pub mod pop3;
mod store;

use crate::config::{ClientCertificates, Config, ListenerConfig, Service};
use anyhow::{Context, Result, bail};
use auth::tokens::{Issuer, Tokens};
use culver_mailbox::Accounts;
use culver_mailbox::quota::Allowance;
use culver_model::AccountId;
use culver_proto::imap::Mask;
use culver_proto::proxy;
use culver_shard as shard;
use culver_shard::conn::Conn;
use culver_shard::net::{Accepted, Listener};
use culver_shard::signal::Signals;
use culver_shard::sync::Notify;
use culver_shard::tls::{CertificateFiles, Tickets};
use culver_shard::{Queue, mesh, random, time};
use culver_storage::Node;
use culver_users::{Directory, Entry, PasswdFile, ScramSalts, Stored};
use metrics::{Counters, count};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a balancer may take to say whom it speaks for.
const PROXY_HEADER: Duration = Duration::from_secs(5);

/// Longest TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(30);

/// How often accounts that nobody uses are looked for.
const CLOSE_IDLE_EVERY: Duration = Duration::from_secs(5);

/// What one shard serves with.
pub struct Shard {
    config: Arc<Config>,
    directory: RefCell<Arc<Directory>>,
    /// The last reading of the users failed: whom `directory` does not know may be there all the same.
    directory_stale: Cell<bool>,
    tls: RefCell<Option<Arc<Tls>>>,
    accounts: Rc<Accounts>,
    counters: Counters,
    home: auth::Home,
    scram_salts: ScramSalts,
    tokens: RefCell<Option<Arc<Tokens>>>,
    issuer: Option<Issuer>,
    drain: Notify,
    draining: Cell<bool>,
    /// Its storage is started and its listeners are bound.
    started: Cell<bool>,
    /// All shards have started, and on a shared store the node has looked who owns what.
    ready: Cell<bool>,
    /// On a shared store: everything was handed over.
    left: Cell<bool>,
    exercise_state: bool,
    exercise_sleep: bool,
    pop3_logins: pop3::Logins,
    /// When the process began, in seconds since 1970: tells its sessions from those of an earlier one.
    start: u32,
    /// Nothing of this shard is under way any more, or the time to drain is over.
    finished: Cell<bool>,
}

/// Names a session in logs and trace fields: the start of the process, the shard that accepted it, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId {
    start: u32,
    shard: u16,
    number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.start, self.shard, self.number)
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    pub id: SessionId,
    pub address: IpAddr,
    pub tls: bool,
    /// A password may come without TLS.
    pub secure: bool,
    /// Of a network that is configured as secure: a proxy or webmail of the site, which makes logins for many.
    pub trusted: bool,
    /// Whether it is asked for a certificate.
    pub clients: Option<Arc<ClientCertificates>>,
    /// Capabilities of IMAP that it is not told of.
    pub hidden: Mask,
    /// Counts the connection of its address, on whatever shard the session is.
    pub counted: Option<Arc<auth::AddressConnection>>,
}

impl Peer {
    fn is_at(&mut self, address: IpAddr, config: &Config) {
        self.address = address;
        self.trusted = config.users.secure_networks.iter().any(|network| network.contains(Some(address)));
        self.secure = self.trusted || config.users.plaintext_login;
    }

    /// What a balancer says of its client.
    fn is_spoken_for(&mut self, header: &proxy::Header, config: &Config) {
        if let Some(source) = header.source {
            self.is_at(source.ip().to_canonical(), config);
            self.secure |= header.tls;
        }
    }
}

/// A session on its way to another shard.
pub enum HandOver {
    Imap(Box<imap::HandOver>),
    Pop3(Box<pop3::HandOver>),
}

impl Shard {
    /// The one of the running shard.
    pub fn here() -> Option<Rc<Shard>> {
        shard::local::<Shard>()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn accounts(&self) -> &Rc<Accounts> {
        &self.accounts
    }

    pub fn home(&self) -> &auth::Home {
        &self.home
    }

    /// What tokens are verified with.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.borrow().clone()
    }

    /// Who is asked about tokens.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    pub fn scram_salts(&self) -> &ScramSalts {
        &self.scram_salts
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.directory.borrow().clone()
    }

    /// What the directory refuses may be right by now: nobody is told a verdict on it.
    pub fn directory_stale(&self) -> bool {
        self.directory_stale.get()
    }

    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.tls.borrow().as_ref().map(|tls| tls.silent.clone())
    }

    /// The one for this client, who may be asked for a certificate.
    pub fn tls_for(&self, peer: &Peer) -> Option<Arc<rustls::ServerConfig>> {
        match &peer.clients {
            None => self.tls(),
            Some(clients) => self.tls.borrow().as_ref()?.asking.get(&clients.ca).cloned(),
        }
    }

    /// The shard where this account lives.
    pub fn shard_of(&self, account: &AccountId) -> usize {
        self.accounts.shard_of(account)
    }

    /// Ready once the server drains.
    pub async fn draining(&self) {
        let seen = self.drain.version();
        if !self.draining.get() {
            self.drain.changed_since(seen).await;
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub fn is_ready(&self) -> bool {
        self.ready.get() && !self.draining.get()
    }

    /// Sessions go through their stored form between any two commands: for tests.
    /// After how long a silent IMAP session is put away.
    pub fn sleep_after(&self) -> Duration {
        if self.exercise_sleep { Duration::ZERO } else { self.config.imap.sleep_after }
    }

    pub fn exercise_state(&self) -> bool {
        self.exercise_state
    }

    /// When accounts were last logged in to by POP3.
    pub fn pop3_logins(&self) -> &pop3::Logins {
        &self.pop3_logins
    }

    /// What an account may hold where nothing was set for it alone: its user's fields, and else the configuration's.
    pub fn allowance(&self, account: &AccountId) -> Allowance {
        let config = &self.config.quota;
        let directory = self.directory.borrow();
        let fields = directory.find(account).and_then(|entry| entry.quota.as_deref());
        let quota = fields.map_or(config.quota, |fields| fields.over(config.quota));
        Allowance { quota, grace: config.grace }
    }

    /// Capabilities of IMAP that a user is not told of: `userdb_imap_hide_capabilities` of a passwd-file, names with commas between.
    pub fn hidden_from(&self, account: &AccountId) -> Mask {
        let directory = self.directory.borrow();
        let field =
            directory.find(account).and_then(|entry| entry.user.field("userdb_imap_hide_capabilities"));
        let Some(names) = field else { return Mask::default() };
        Mask::parse(&names.replace(',', " ")).unwrap_or_else(|unknown| {
            tracing::warn!(
                account = account.as_str(),
                unknown,
                "userdb_imap_hide_capabilities names no capability that can be hidden: nothing is hidden from this user"
            );
            Mask::default()
        })
    }

    /// The special use that a mailbox of this name gets (RFC 6154).
    pub fn special_use(&self, name: &str) -> Option<String> {
        let mailboxes = &self.config.mailboxes;
        let known = mailboxes.iter().find(|special| special.name == name && !special.attribute.is_empty());
        known.map(|special| special.attribute.clone())
    }

    fn begin_drain(&self) {
        self.draining.set(true);
        self.drain.notify_all();
    }
}

/// An open connection, counted on the shard that it is on.
struct Open(Rc<Shard>);

impl Open {
    fn count(shard: &Rc<Shard>) -> Open {
        count(&shard.counters.connections_open);
        Open(shard.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = &self.0.counters.connections_open;
        open.set(open.get() - 1);
    }
}

/// Sends an authenticated session to its user's shard. Where that shard's queue is full the session waits, and its
/// client with it. It is counted here until it is counted there.
pub async fn hand_over(target: usize, session: HandOver) {
    let taken = mesh::call(target, move || async move {
        let Some(here) = Shard::here() else { return };
        let open = Open::count(&here);
        match session {
            HandOver::Imap(session) => {
                let id = session.id();
                supervise(id, "imap", async move {
                    let _open = open;
                    imap::Imap::take_over(here, *session).await.to_string()
                });
            }
            HandOver::Pop3(session) => {
                let id = session.id();
                supervise(id, "pop3", async move {
                    let _open = open;
                    pop3::Pop3::take_over(here, *session).await.to_string()
                });
            }
        }
    });
    if let Err(error) = taken.await {
        // The shard has ended, and the connection with what was sent to it.
        tracing::warn!(%error, target, "a session could not be handed over");
    }
}

/// Runs a session to its end; its panic ends it alone.
fn supervise(id: SessionId, service: &'static str, session: impl Future<Output = String> + 'static) {
    let task = shard::spawn(Queue::Interactive, service, session);
    shard::spawn(Queue::Interactive, "supervisor", async move {
        match task.await {
            Ok(end) => tracing::debug!(session = %id, service, end, "session ended"),
            Err(panicked) => {
                tracing::error!(session = %id, service, %panicked, "session ended by a panic");
                if let Some(shard) = Shard::here() {
                    count(&shard.counters.panics);
                }
            }
        }
    })
    .detach();
}

/// `culver serve --config FILE`.
pub fn run_file(file: &Path) -> Result<ExitCode> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(problems) => {
            anstream::eprintln!("{problems}");
            return Ok(ExitCode::FAILURE);
        }
    };
    run(config, Vec::new(), || anstream::println!("culver is ready"))
}

/// What start-up gives to the shards, each of which takes its part.
struct Shared {
    config: Arc<Config>,
    directory: Mutex<Arc<Directory>>,
    tls: Mutex<Option<Arc<Tls>>>,
    auth_key: [u8; 32],
    scram_salts: ScramSalts,
    tokens: Mutex<Option<Arc<Tokens>>>,
    tickets: Tickets,
    start: u32,
}

/// Serves until a signal ends it. `samples` get sample messages; `announce` is called once everything listens.
pub fn run(
    config: Config,
    samples: Vec<AccountId>,
    announce: impl FnOnce() + Send + 'static,
) -> Result<ExitCode> {
    let started = crate::log::start(&config);
    let log = started.log.clone();
    let mut auth_key = [0; 32];
    random::fill(&mut auth_key);
    let directory = load_directory(&config)?;
    let scram_salts = load_scram_salts(&config)?;
    let tokens = auth::tokens::load_blocking(&config)?;
    let tickets = Tickets::new()?;
    let tls = load_tls(&config, &tickets)?;
    raise_descriptor_limit();
    probe(&config)?;
    // What was read to get here is of no more use.
    memory::give_back();
    memory::start();
    let limits = shard::Limits {
        descriptors_reserved: config.limits.descriptors_reserved as u64,
        ..shard::Limits::default()
    };
    let shards = shard::Config { shards: config.shards, limits, ..shard::Config::default() };
    let shared = Arc::new(Shared {
        config: Arc::new(config),
        directory: Mutex::new(Arc::new(directory)),
        tls: Mutex::new(tls),
        auth_key,
        scram_salts,
        tokens: Mutex::new(tokens),
        tickets,
        start: time::wall().0 as u32,
    });
    let first = Arc::new(Mutex::new(Some((samples, announce))));
    let handover = Arc::new(Mutex::new(Vec::new()));
    let result = shard::run(shards, move |index| {
        let (shared, first, handover) = (shared.clone(), first.clone(), handover.clone());
        let log = log.clone();
        async move {
            let _collecting = log.collect();
            let first = if index == 0 { first.lock().ok().and_then(|mut first| first.take()) } else { None };
            serve_shard(shared, handover, first).await
        }
    });
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(shard::RunError::Failed { shard, error }) => Err(error.context(format!("shard {shard}"))),
        Err(error) => Err(anyhow::Error::msg(error.to_string())),
    }
}

/// Each address, taken once and alone: the shards share it afterwards, and so would another server that has it. One
/// that was killed a moment ago gives its sockets back only when the kernel has taken its rings apart.
fn probe(config: &Config) -> Result<()> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);
    for listener in &config.listeners {
        let mut tries = 1;
        let bound = loop {
            match std::net::TcpListener::bind(listener.address) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
                bound => break bound,
            }
        };
        bound
            .with_context(|| format!("{} cannot listen on {}", listener.service.name(), listener.address))?;
    }
    Ok(())
}

type First<A> = Option<(Vec<AccountId>, A)>;

async fn serve_shard<A: FnOnce()>(
    shared: Arc<Shared>,
    parts: store::Parts,
    first: First<A>,
) -> Result<(), anyhow::Error> {
    // Shard 0 locks and recovers the store and lays out what each shard owns; the others wait for theirs.
    let node = match first.is_some() {
        true => store::open(&shared.config, &parts).await?,
        false => None,
    };
    let served = serve_part(shared, parts, first, node.as_ref()).await;
    if let (Err(_), Some(node)) = (&served, &node) {
        // It has claimed nothing yet; others need not wait to learn that it is gone.
        store::leave(node).await;
    }
    served
}

async fn serve_part<A: FnOnce()>(
    shared: Arc<Shared>,
    parts: store::Parts,
    first: First<A>,
    node: Option<&Node>,
) -> Result<(), anyhow::Error> {
    let config = shared.config.clone();
    let part = loop {
        let mine =
            parts.lock().ok().and_then(|mut parts| parts.get_mut(shard::shard()).and_then(Option::take));
        match mine {
            Some(part) => break part,
            None if shard::stopping() => return Ok(()),
            None => time::sleep(Duration::from_millis(2)).await,
        }
    };
    let exercise = std::env::var_os("CULVER_EXERCISE_STATE");
    let exercise_sleep = exercise.as_ref().is_some_and(|how| how != "awake");
    let mut limits = culver_mailbox::Limits {
        message_octets_max: config.lmtp.message_octets_max.max(config.imap.append_octets_max),
        ..culver_mailbox::Limits::default()
    };
    if exercise_sleep {
        // Sessions sleep at every wait, and their accounts are closed under them.
        limits.idle_accounts_max = 0;
    }
    let accounts = Accounts::new(limits);
    let storage = store::start(part).await?;
    accounts.attach(storage.clone());
    let here = Rc::new(Shard {
        directory: RefCell::new(shared.directory.lock().map(|it| it.clone()).unwrap_or_default()),
        directory_stale: Cell::new(false),
        tls: RefCell::new(shared.tls.lock().map(|it| it.clone()).unwrap_or_default()),
        accounts: accounts.clone(),
        counters: Counters::default(),
        home: auth::Home::new(
            shared.auth_key,
            config.limits.connections_per_user_max,
            config.limits.connections_per_address_max,
        ),
        scram_salts: shared.scram_salts.clone(),
        tokens: RefCell::new(shared.tokens.lock().map(|it| it.clone()).unwrap_or_default()),
        issuer: Issuer::open(&config).await?,
        drain: Notify::new(),
        draining: Cell::new(false),
        started: Cell::new(false),
        ready: Cell::new(false),
        left: Cell::new(false),
        exercise_state: exercise.is_some(),
        exercise_sleep,
        pop3_logins: pop3::Logins::default(),
        start: shared.start,
        finished: Cell::new(false),
        config: config.clone(),
    });
    shard::set_local(here.clone());
    shard::stall::start();
    shard::spawn(Queue::Background, "close idle accounts", close_idle(accounts)).detach();
    let mut listening = Vec::new();
    for listener in &config.listeners {
        if listener.service == Service::Admin && first.is_none() {
            continue;
        }
        let bound = Listener::bind(listener.address, true)
            .with_context(|| format!("{} cannot listen on {}", listener.service.name(), listener.address))?;
        listening.push((bound, listener.clone()));
    }
    // Every shard listens before anyone says that the server is ready.
    let barrier = all_started(&here).await;
    memory::give_back();
    let (mut tasks, mut monitors) = (Vec::new(), Vec::new());
    let (watched, listening): (Vec<_>, Vec<_>) =
        listening.into_iter().partition(|(_, listener)| listener.service == Service::Admin);
    for (bound, listener) in watched {
        monitors.push(shard::spawn(Queue::Interactive, "listener", accept(here.clone(), bound, listener)));
    }
    let announce = match first {
        Some((samples, announce)) => {
            barrier?;
            let (terminate, hangup) = (shard::signal::terminate()?, shard::signal::hangup()?);
            tasks.push(shard::spawn(
                Queue::Background,
                "signals",
                signals(shared.clone(), terminate, hangup),
            ));
            store::announce(&config, node).await?;
            if let Some(node) = node {
                node.begin();
                futures_lite::future::or(node.looked(), shard::stopped()).await;
            }
            for account in &samples {
                crate::quickstart::deliver_samples(&here, account).await?;
            }
            all_ready().await;
            Some(announce)
        }
        None => {
            while !here.ready.get() && !shard::stopping() {
                time::sleep(Duration::from_millis(2)).await;
            }
            None
        }
    };
    for (bound, listener) in listening {
        tasks.push(shard::spawn(Queue::Interactive, "listener", accept(here.clone(), bound, listener)));
    }
    if let Some(announce) = announce
        && !shard::stopping()
    {
        announce();
    }
    let failed = futures_lite::future::or(
        async {
            storage.failed().await;
            true
        },
        async {
            shard::stopped().await;
            false
        },
    )
    .await;
    if failed {
        tracing::error!("the journal's disk failed: the server stops; nothing acknowledged is lost");
        shard::stop();
    }
    here.begin_drain();
    drop(tasks);
    // Sessions see the drain and end by themselves; what has not ended by then is cut off.
    let busy = async {
        while here.counters.connections_open.get() > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = time::deadline(config.drain, busy).await;
    here.finished.set(true);
    // Sessions of the others may still bring mail for accounts of this one.
    let _ = time::deadline(config.drain, others_finished()).await;
    // Until now it answered that the server is not ready.
    drop(monitors);
    store::end(&here, node, storage, !failed).await;
    if failed {
        bail!("the journal's disk failed; look at the log, mend the disk and start again")
    }
    Ok(())
}

/// Accounts are closed when the last one that was used rests, and by this where none does.
async fn close_idle(accounts: Rc<Accounts>) {
    loop {
        time::sleep(CLOSE_IDLE_EVERY).await;
        accounts.close_idle();
    }
}

/// Ready once no shard has anything under way.
async fn others_finished() {
    let finished = || async { Shard::here().is_none_or(|shard| shard.finished.get()) };
    for other in 0..shard::shards() {
        while let Ok(false) = mesh::call(other, finished).await {
            time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Lets every shard take connections.
async fn all_ready() {
    for at in 0..shard::shards() {
        let set = mesh::call(at, || async {
            if let Some(shard) = Shard::here() {
                shard.ready.set(true);
            }
        });
        // One that is gone takes none.
        let _ = set.await;
    }
}

/// Ready once every shard has its `Shard`.
async fn all_started(here: &Rc<Shard>) -> Result<()> {
    here.started.set(true);
    for other in 0..shard::shards() {
        loop {
            match mesh::call(other, || async { Shard::here().is_some_and(|shard| shard.started.get()) }).await
            {
                Ok(true) => break,
                Ok(false) => time::sleep(Duration::from_millis(2)).await,
                Err(gone) => bail!("shard {} did not start", gone.shard),
            }
            if shard::stopping() {
                bail!("stopped while starting");
            }
        }
    }
    Ok(())
}

async fn accept(shard: Rc<Shard>, listener: Listener, config: ListenerConfig) {
    loop {
        let (stream, address, turn) = match listener.accept().await {
            Ok(Accepted::Conn(stream, address)) => (stream, address, None),
            // The admin port is what the reserve is kept for: it takes nobody's turn.
            Ok(Accepted::Refuse(stream, address, _)) if config.service == Service::Admin => {
                (stream, address, None)
            }
            Ok(Accepted::Refuse(stream, address, turn)) => (stream, address, Some(turn)),
            Err(error) => {
                tracing::warn!(%error, service = config.service.name(), "accept");
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        count(&shard.counters.connections);
        let number = shard.counters.connections.get();
        let id = SessionId { start: shard.start, shard: culver_shard::shard() as u16, number };
        let address = address.ip().to_canonical();
        let clients = config.clients.clone();
        let mut peer = Peer {
            id,
            address,
            tls: config.tls,
            secure: false,
            trusted: false,
            clients,
            hidden: config.hidden,
            counted: None,
        };
        peer.is_at(address, &shard.config);
        let proxied = config.proxy_networks.iter().any(|network| network.contains(Some(address)));
        let here = shard.clone();
        let open = shard.counters.connections_open.get() as usize;
        let full = turn.is_some() || open * culver_shard::shards() >= shard.config.limits.connections_max;
        let (service, tls) = (config.service, config.tls);
        supervise(id, service.name(), async move {
            let end = connection(here, stream, peer, service, (proxied, tls), full).await;
            drop(turn);
            end
        });
    }
}

/// A connection from its first octet.
async fn connection(
    shard: Rc<Shard>,
    stream: culver_shard::net::Stream,
    mut peer: Peer,
    service: Service,
    (proxied, tls): (bool, bool),
    full: bool,
) -> String {
    let _open = Open::count(&shard);
    let mut conn = Conn::new(stream);
    if proxied && !full {
        match time::deadline(PROXY_HEADER, proxy_header(&mut conn)).await {
            Ok(Ok(header)) => peer.is_spoken_for(&header, &shard.config),
            Ok(Err(error)) => {
                tracing::warn!(session = %peer.id, balancer = %peer.address, %error, "a connection without PROXY header is closed");
                return format!("PROXY header: {error}");
            }
            Err(error) => {
                tracing::warn!(session = %peer.id, balancer = %peer.address, %error, "no PROXY header came in time");
                return "no PROXY header came in time".to_owned();
            }
        }
    }
    if service != Service::Admin {
        peer.counted = if full { None } else { auth::admit(peer.address).await.map(Arc::new) };
        if peer.counted.is_none() {
            count(&shard.counters.connections_refused);
            return refuse(conn, service, tls).await;
        }
    }
    if tls {
        let Some(config) = shard.tls_for(&peer) else { return "no certificate".to_owned() };
        if let Err(error) = conn.accept_tls(config, HANDSHAKE).await {
            return format!("TLS: {error}");
        }
        peer.tls = true;
    }
    match service {
        Service::Imap => imap::Imap::serve(shard, conn, peer).await.to_string(),
        Service::Pop3 => pop3::Pop3::serve(shard, conn, peer).await.to_string(),
        Service::Lmtp => lmtp::Lmtp::serve(shard, conn, peer).await.to_string(),
        Service::Admin => admin::serve(shard, conn, peer).await,
    }
}

/// Reads the header and leaves what follows it to be read.
async fn proxy_header(conn: &mut Conn) -> std::io::Result<proxy::Header> {
    loop {
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        if let Some(header) = proxy::header(conn.rx()).map_err(invalid)? {
            conn.consume(header.octets);
            return Ok(header);
        }
        if conn.fill().await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A polite no, where the protocol has one before TLS.
async fn refuse(mut conn: Conn, service: Service, tls: bool) -> String {
    let words: &[u8] = match service {
        _ if tls => b"",
        Service::Imap => b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n",
        Service::Pop3 => b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
        Service::Lmtp => b"421 4.3.2 Too many connections, try again later\r\n",
        Service::Admin => b"",
    };
    let _ = time::deadline(Duration::from_secs(5), conn.write_all(words)).await;
    let _ = time::deadline(Duration::from_secs(5), conn.shutdown()).await;
    "refused: too many connections".to_owned()
}

/// SIGTERM and SIGINT end the server, SIGHUP reads certificates and users again.
async fn signals(shared: Arc<Shared>, terminate: Signals, hangup: Signals) {
    loop {
        let ended = futures_lite::future::or(
            async {
                terminate.next().await;
                true
            },
            async {
                hangup.next().await;
                false
            },
        );
        if ended.await {
            tracing::info!("stopping");
            return shard::stop();
        }
        reload(&shared).await;
    }
}

/// Users, certificates and what verifies tokens are read again, each for itself: what cannot be read stays as it was. Users that
/// stayed may be out of date, so from then on nobody is told that there is no such user, or that a password is wrong.
async fn reload(shared: &Arc<Shared>) {
    let (config, tickets) = (shared.config.clone(), shared.tickets.clone());
    let read = shard::annex::run(move || {
        (load_directory(&config), load_tls(&config, &tickets), auth::tokens::load_blocking(&config))
    });
    let (directory, tls, tokens) = match read.await {
        Ok((directory, tls, tokens)) => (Some(directory.map(Arc::new)), Some(tls), Some(tokens)),
        Err(error) => {
            tracing::error!(%error, "reload: nothing could be read; send SIGHUP again");
            (None, None, None)
        }
    };
    if let Some(Err(error)) = &directory {
        tracing::error!(error = %one_line(error), "reload: the users stay as they were");
    }
    if let Some(Err(error)) = &tls {
        tracing::error!(error = %one_line(error), "reload: the certificates stay as they were");
    }
    if let Some(Err(error)) = &tokens {
        tracing::error!(error = %one_line(error), "reload: what verifies tokens stays as it was");
    }
    let whole = matches!((&directory, &tls, &tokens), (Some(Ok(_)), Some(Ok(_)), Some(Ok(_))));
    let directory = directory.and_then(Result::ok);
    let (tls, tokens) = (tls.and_then(Result::ok), tokens.and_then(Result::ok));
    for at in 0..shard::shards() {
        let (directory, tls, tokens) = (directory.clone(), tls.clone(), tokens.clone());
        let _ = mesh::call(at, move || async move {
            let Some(shard) = Shard::here() else { return };
            shard.directory_stale.set(directory.is_none());
            if let Some(directory) = directory {
                shard.directory.replace(directory);
                shard.home.clear();
            }
            if let Some(tls) = tls {
                shard.tls.replace(tls);
            }
            if let Some(tokens) = tokens {
                shard.tokens.replace(tokens);
            }
        })
        .await;
    }
    if whole {
        tracing::info!("certificates and users read again");
    }
}

/// All of an error where only one line is to be had, as in a log.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

pub fn load_directory(config: &Config) -> Result<Directory> {
    let mut directory = Directory::new();
    let mut mistakes = Vec::new();
    if let Some(path) = &config.users.passwd_file {
        let octets = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let file = PasswdFile::parse(&path.display().to_string(), &octets);
        mistakes.extend(file.mistakes.iter().map(ToString::to_string));
        for entry in file.entries {
            if let Err(duplicate) = directory.insert(entry) {
                mistakes.push(format!("{}: named twice", duplicate.0.as_str()));
            }
        }
    }
    for (name, password) in &config.users.static_users {
        let entry =
            AccountId::parse(name).map_err(|error| error.to_string()).and_then(
                |account| match Stored::parse(password) {
                    Ok(Some(stored)) => Ok(Entry::fixed(account, stored)),
                    Ok(None) => Err("has no password".to_owned()),
                    Err(error) => Err(error.to_string()),
                },
            );
        match entry {
            Ok(entry) => {
                if let Err(duplicate) = directory.insert(entry) {
                    mistakes.push(format!("{}: named twice", duplicate.0.as_str()));
                }
            }
            Err(why) => mistakes.push(format!("users.static {name}: {why}")),
        }
    }
    if mistakes.is_empty() { Ok(directory) } else { bail!("users cannot be read:\n{}", mistakes.join("\n")) }
}

/// The secret of salts: the file's, or one for this process alone.
fn load_scram_salts(config: &Config) -> Result<ScramSalts> {
    let secret = match &config.users.scram_secret_file {
        Some(path) => std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?,
        None => {
            let mut secret = vec![0; 32];
            random::fill(&mut secret);
            secret
        }
    };
    Ok(ScramSalts::new(&secret))
}

/// How connections are encrypted.
pub struct Tls {
    /// Where no client is asked for a certificate.
    silent: Arc<rustls::ServerConfig>,
    /// Where they are asked, by the file of those who sign them.
    asking: BTreeMap<PathBuf, Arc<rustls::ServerConfig>>,
}

pub fn load_tls(config: &Config, tickets: &Tickets) -> Result<Option<Arc<Tls>>> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let files =
        |(chain, key): &(PathBuf, PathBuf)| CertificateFiles { chain: chain.clone(), key: key.clone() };
    let files: Vec<CertificateFiles> = tls.certificates.iter().map(files).collect();
    let mut asking = BTreeMap::new();
    for clients in config.listeners.iter().filter_map(|listener| listener.clients.as_ref()) {
        asking.insert(clients.ca.clone(), shard::tls::load_asking_blocking(&files, &clients.ca)?);
    }
    Ok(Some(Arc::new(Tls { silent: shard::tls::load_blocking(&files, tickets)?, asking })))
}

/// As many descriptors as the system lets this process have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
