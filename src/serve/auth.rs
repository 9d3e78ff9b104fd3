//! Who may log in, and by which mechanisms: penalty of the address, cache of the name, then the stored password on the annex.
//!
//! # Invariants
//! A proof by SCRAM is held back before the client learns anything of it: before its user's salt, since the answer to the
//! proof itself would come too late for who goes away at once. Nothing of it is cached: keys that are stored cost nothing,
//! and those of a stored password little, for every name the same.
//!
//! The penalty of an address, and the cache and the connections of a name, have one home shard each: a guesser gets no
//! more tries where there are more cores. A directory or a queue that gives no answer, and a no from a directory that
//! could not be read anew, is `Unavailable`, never a wrong password.

pub mod tokens;

use self::tokens::Judged;
use super::metrics::count;
use super::{Peer, SessionId, Shard};
use crate::config::CertificateName;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culver_model::AccountId;
use culver_proto::sasl::{Bindings, Channel, Discovery, Hash, Keys, Mechanism, Mechanisms, Proof, Secret};
use culver_shard::conn::Conn;
use culver_shard::{Queue, annex, certificate, mesh, random, shards, spawn, time};
use culver_users::{
    AddressKey, AuthCache, CacheLimits, Cached, Check, Counters, Outcome, Penalty, PenaltyLimits, ScramHash,
    TokenCache, TokenCacheLimits, home,
};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most names or addresses whose connections one shard counts.
const COUNTED_MAX: usize = 1_000_000;

/// What one shard keeps as the home of names and addresses.
pub struct Home {
    /// Of the process: what is remembered is kept under it.
    key: [u8; 32],
    cache: RefCell<AuthCache>,
    tokens: RefCell<TokenCache>,
    /// Grows with each reload of the directory.
    generation: Cell<u64>,
    penalty: RefCell<Penalty>,
    users: RefCell<Counters<AccountId>>,
    addresses: RefCell<Counters<AddressKey>>,
}

impl Home {
    pub fn new(key: [u8; 32], users_max: usize, addresses_max: usize) -> Home {
        Home {
            key,
            tokens: RefCell::new(TokenCache::new(TokenCacheLimits::default())),
            cache: RefCell::new(AuthCache::new(CacheLimits::default(), key)),
            generation: Cell::new(0),
            penalty: RefCell::new(Penalty::new(PenaltyLimits::default())),
            users: RefCell::new(Counters::new(users_max as u32, COUNTED_MAX)),
            addresses: RefCell::new(Counters::new(addresses_max as u32, COUNTED_MAX)),
        }
    }

    /// Forgets passwords and tokens that were right: the directory has changed.
    pub fn clear(&self) {
        self.generation.set(self.generation.get() + 1);
        self.cache.borrow_mut().clear();
        self.tokens.borrow_mut().clear();
    }
}

/// How a login ended.
pub enum Login {
    Ok(AccountId, Connection),
    Failed,
    Unavailable,
    Disabled,
    TooMany,
}

/// Whether there is such a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    Yes,
    No,
    Unavailable,
}

/// A user's connection, counted on the home shard of his name while it lives.
pub struct Connection(Option<AccountId>);

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(account) = self.0.take() else { return };
        if !culver_shard::exec::on_shard() {
            return;
        }
        let at = home(account.as_str().as_bytes(), shards());
        spawn(Queue::Background, "connection ends", async move {
            let closed = mesh::call(at, move || async move {
                if let Some(shard) = Shard::here() {
                    shard.home().users.borrow_mut().close(&account);
                }
            });
            let _ = closed.await;
        })
        .detach();
    }
}

/// A connection of an address, counted likewise.
#[derive(Debug)]
pub struct AddressConnection(Option<AddressKey>);

impl Drop for AddressConnection {
    fn drop(&mut self) {
        let Some(key) = self.0.take() else { return };
        if !culver_shard::exec::on_shard() {
            return;
        }
        let at = home(&key.octets(), shards());
        spawn(Queue::Background, "connection ends", async move {
            let closed = mesh::call(at, move || async move {
                if let Some(shard) = Shard::here() {
                    shard.home().addresses.borrow_mut().close(&key);
                }
            });
            let _ = closed.await;
        })
        .detach();
    }
}

/// Counts a connection of this address; `None` where there are too many.
pub async fn admit(address: IpAddr) -> Option<AddressConnection> {
    let key = AddressKey::new(address);
    let admitted = mesh::call(home(&key.octets(), shards()), move || async move {
        Shard::here().is_some_and(|shard| shard.home().addresses.borrow_mut().open(&key).is_ok())
    });
    match admitted.await {
        Ok(true) => Some(AddressConnection(Some(key))),
        _ => None,
    }
}

fn now_ms() -> u64 {
    time::now().as_nanos() / 1_000_000
}

/// Runs `f` on the home of `key`.
async fn at_home<T: Send + 'static>(key: &[u8], f: impl FnOnce(&Home) -> T + Send + 'static) -> Option<T> {
    let at = home(key, shards());
    mesh::call(at, move || async move { Shard::here().map(|shard| f(shard.home())) }).await.ok().flatten()
}

/// The mechanisms of SCRAM, with and without a bound channel.
const SCRAM: [(ScramHash, Mechanism, Mechanism); 2] = [
    (ScramHash::Sha256, Mechanism::ScramSha256, Mechanism::ScramSha256Plus),
    (ScramHash::Sha1, Mechanism::ScramSha1, Mechanism::ScramSha1Plus),
];

/// What a connection brings into SASL as it is now.
pub fn channel(shard: &Shard, conn: &Conn, peer: &Peer) -> Channel {
    let bound = conn.tls_bindings();
    let bindings = Bindings { exporter: bound.exporter.map(Into::into), end_point: bound.end_point };
    let mut offered = mechanisms(shard);
    for (_, scram, plus) in SCRAM {
        if offered.contains(scram) && !bindings.is_empty() {
            offered = offered.with(plus);
        }
    }
    let discovery = shard.config().oauth2.as_ref().map(|oauth2| Discovery {
        scope: oauth2.rules.scope.join(" "),
        openid_configuration: oauth2.openid_configuration.clone(),
    });
    let certified = certified(conn, peer);
    offered = match certified {
        Some(_) if shard.config().users.mechanisms.is_none() => offered.with(Mechanism::External),
        Some(_) => offered,
        None => offered.without(Mechanism::External),
    };
    Channel { offered, bindings, certified, discovery: Arc::new(discovery.unwrap_or_default()) }
}

/// The user whom the client's certificate names, where its listener has asked for one and TLS has verified it.
fn certified(conn: &Conn, peer: &Peer) -> Option<String> {
    let name = peer.clients.as_ref()?.name;
    let mut subject = certificate::subject(conn.peer_certificate()?);
    match name {
        CertificateName::CommonName => subject.common_name,
        // Of several addresses none is chosen for the client.
        CertificateName::Email if subject.addresses.len() == 1 => subject.addresses.pop(),
        CertificateName::Email => None,
    }
}

/// What is offered on any connection that may log in.
fn mechanisms(shard: &Shard) -> Mechanisms {
    if let Some(mechanisms) = shard.config().users.mechanisms {
        return mechanisms;
    }
    let directory = shard.directory();
    let scram = SCRAM.into_iter().filter(|(hash, ..)| directory.all_can_scram(*hash));
    let offered = scram.fold(Mechanisms::default(), |offered, (_, scram, _)| offered.with(scram));
    match shard.config().oauth2 {
        None => offered,
        Some(_) => offered.with(Mechanism::OauthBearer).with(Mechanism::Xoauth2),
    }
}

/// The keys of a user of SCRAM. `None` where they cannot be found out now.
pub async fn scram_keys(shard: &Rc<Shard>, user: &str, hash: Hash, peer: &Peer) -> Option<Keys> {
    held_back(peer).await?;
    let hash = match hash {
        Hash::Sha1 => ScramHash::Sha1,
        Hash::Sha256 => ScramHash::Sha256,
    };
    let check = shard.directory().scram(user, hash, shard.scram_salts());
    let keys = match check.blocks() {
        true => annex::run(move || check.run()).await.ok()?,
        false => check.run(),
    };
    let mut nonce = [0; 18];
    random::fill(&mut nonce);
    Some(Keys {
        nonce: STANDARD.encode(nonce),
        salt: keys.salt.expose().to_vec(),
        iterations: keys.iterations,
        stored_key: Secret::new(keys.stored_key.expose().to_vec()),
        server_key: Secret::new(keys.server_key.expose().to_vec()),
    })
}

/// Decides a login and counts the connection. Says nothing to the client.
pub async fn login(
    shard: &Rc<Shard>,
    user: &str,
    proof: &Proof,
    peer: &Peer,
    service: &'static str,
) -> Login {
    let login = decide(shard, user, proof, peer).await;
    let counters = shard.counters();
    let (counter, how) = match &login {
        Login::Ok(..) => (&counters.logins, "ok"),
        Login::Failed => (&counters.logins_failed, "failed"),
        Login::Disabled => (&counters.logins_failed, "disabled"),
        Login::TooMany => (&counters.logins_failed, "too many connections"),
        Login::Unavailable => (&counters.logins_unavailable, "unavailable"),
    };
    count(counter);
    // The name is shown only where there is one: a client may have sent its password in its place.
    let name = match &login {
        Login::Ok(account, _) => account.as_str(),
        _ => "-",
    };
    let by = match proof {
        Proof::Password(_) => "password",
        Proof::Scram(_) => "scram",
        Proof::Token(_) => "token",
        Proof::Certificate => "certificate",
    };
    tracing::info!(session = %peer.id, service, address = %peer.address, account = name, tls = peer.tls, by, how, "login");
    login
}

/// A proxy or webmail of the site's own makes logins for many: its address is not punished.
fn is_punished(peer: &Peer) -> bool {
    !peer.trusted
}

/// Waits as long as the address has earned. `None` where that is not to be found out.
async fn held_back(peer: &Peer) -> Option<()> {
    if is_punished(peer) {
        let address = peer.address;
        let key = AddressKey::new(address).octets();
        let delay = at_home(&key, move |home| home.penalty.borrow().delay_ms(address, now_ms())).await?;
        if delay > 0 {
            time::sleep(Duration::from_millis(delay)).await;
        }
    }
    Some(())
}

async fn decide(shard: &Rc<Shard>, user: &str, proof: &Proof, peer: &Peer) -> Login {
    let address = peer.address;
    let outcome = match proof {
        Proof::Password(password) => {
            if held_back(peer).await.is_none() {
                return Login::Unavailable;
            }
            let generation = shard.home().generation.get();
            let check = shard.directory().check(user, Some(address));
            password_outcome(check, password, generation).await
        }
        // `scram_keys` has waited.
        Proof::Scram(right) => shard.directory().check(user, Some(address)).outcome(Ok(*right)),
        Proof::Token(token) => {
            if held_back(peer).await.is_none() {
                return Login::Unavailable;
            }
            match tokens::judge(shard, token, peer.id).await {
                Judged::Good(vouched) if vouched.is(user) => {
                    shard.directory().check(&vouched.user, Some(address)).vouched()
                }
                Judged::Good(_) | Judged::Refused => Outcome::Fail,
                Judged::Unavailable => Outcome::Unavailable,
            }
        }
        Proof::Certificate => shard.directory().check(user, Some(address)).vouched(),
    };
    match outcome {
        Outcome::Ok(entry) => {
            let account = entry.user.account.clone();
            let name = account.clone();
            let opened =
                at_home(account.as_str().as_bytes(), move |home| home.users.borrow_mut().open(&name).is_ok());
            match opened.await {
                Some(true) => {
                    let connection = Connection(Some(account.clone()));
                    Login::Ok(account, connection)
                }
                Some(false) => Login::TooMany,
                None => Login::Unavailable,
            }
        }
        Outcome::Disabled => Login::Disabled,
        Outcome::Unavailable => Login::Unavailable,
        Outcome::Fail => {
            if is_punished(peer) {
                let key = AddressKey::new(address).octets();
                at_home(&key, move |home| home.penalty.borrow_mut().failed(address, now_ms())).await;
            }
            // A new user, or a new password, may stand where it could not be read. Known names and unknown ones
            // hear the same, and a guesser waits as ever.
            if shard.directory_stale() { Login::Unavailable } else { Login::Failed }
        }
    }
}

/// Compares a password with what is stored, or with what was right or wrong a moment ago. `generation` is that of the
/// directory which made the check.
async fn password_outcome(check: Check, password: &Secret, generation: u64) -> Outcome {
    let account = check.account().cloned();
    let cached = match &account {
        None => Cached::Unknown,
        Some(account) => {
            let (name, secret) = (account.clone(), password.clone());
            let looked = at_home(account.as_str().as_bytes(), move |home| {
                home.cache.borrow().get(&name, secret.expose(), now_ms())
            });
            match looked.await {
                Some(cached) => cached,
                None => return Outcome::Unavailable,
            }
        }
    };
    let right = match cached {
        Cached::Right => Ok(true),
        Cached::Wrong => Ok(false),
        Cached::Unknown => {
            let (hashed, secret) = (check.clone(), password.clone());
            let right = match annex::run(move || hashed.run(secret.expose())).await {
                Ok(right) => right,
                // The hashing queue is full, or the hash could not be computed.
                Err(_) => return Outcome::Unavailable,
            };
            if let (Some(account), Ok(right)) = (&account, &right) {
                let (name, secret, right) = (account.clone(), password.clone(), *right);
                at_home(account.as_str().as_bytes(), move |home| {
                    // What was decided by an older directory is not remembered beyond it.
                    if home.generation.get() == generation {
                        home.cache.borrow_mut().put(&name, secret.expose(), right, now_ms());
                    }
                })
                .await;
            }
            right
        }
    };
    check.outcome(right)
}

/// Whether mail can be delivered to this account.
pub async fn exists(shard: &Rc<Shard>, account: &AccountId) -> Existence {
    match shard.directory().find(account) {
        Some(_) => Existence::Yes,
        // A bounce cannot be taken back.
        None if shard.directory_stale() => Existence::Unavailable,
        None => Existence::No,
    }
}
