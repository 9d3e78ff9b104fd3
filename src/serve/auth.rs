//! Who may log in: penalty of the address, cache of the name, then the stored password on the annex.
//!
//! # Invariants
//! The penalty of an address, and the cache and the connections of a name, have one home shard each: a guesser gets no
//! more tries where there are more cores. A directory or a queue that gives no answer, and a no from a directory that
//! could not be read anew, is `Unavailable`, never a wrong password.

use super::metrics::count;
use super::{Peer, Shard};
use culver_model::AccountId;
use culver_proto::sasl::Secret;
use culver_shard::{Queue, annex, mesh, shards, spawn, time};
use culver_users::{
    AddressKey, AuthCache, CacheLimits, Cached, Counters, Outcome, Penalty, PenaltyLimits, home,
};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Most names or addresses whose connections one shard counts.
const COUNTED_MAX: usize = 1_000_000;

/// What one shard keeps as the home of names and addresses.
pub struct Home {
    cache: RefCell<AuthCache>,
    /// Grows with each reload of the directory.
    generation: Cell<u64>,
    penalty: RefCell<Penalty>,
    users: RefCell<Counters<AccountId>>,
    addresses: RefCell<Counters<AddressKey>>,
}

impl Home {
    pub fn new(key: [u8; 32], users_max: usize, addresses_max: usize) -> Home {
        Home {
            cache: RefCell::new(AuthCache::new(CacheLimits::default(), key)),
            generation: Cell::new(0),
            penalty: RefCell::new(Penalty::new(PenaltyLimits::default())),
            users: RefCell::new(Counters::new(users_max as u32, COUNTED_MAX)),
            addresses: RefCell::new(Counters::new(addresses_max as u32, COUNTED_MAX)),
        }
    }

    /// Forgets passwords that were right: the directory has changed.
    pub fn clear(&self) {
        self.generation.set(self.generation.get() + 1);
        self.cache.borrow_mut().clear();
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

/// Decides a login and counts the connection. Says nothing to the client.
pub async fn login(
    shard: &Rc<Shard>,
    user: &str,
    password: &Secret,
    peer: &Peer,
    service: &'static str,
) -> Login {
    let login = decide(shard, user, password, peer).await;
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
    tracing::info!(session = %peer.id, service, address = %peer.address, account = name, tls = peer.tls, how, "login");
    login
}

async fn decide(shard: &Rc<Shard>, user: &str, password: &Secret, peer: &Peer) -> Login {
    let address = peer.address;
    let address_key = AddressKey::new(address).octets();
    // A proxy or webmail of the site's own makes logins for many: its address is not punished.
    let punish = !peer.trusted;
    if punish {
        let Some(delay) =
            at_home(&address_key, move |home| home.penalty.borrow().delay_ms(address, now_ms())).await
        else {
            return Login::Unavailable;
        };
        if delay > 0 {
            time::sleep(Duration::from_millis(delay)).await;
        }
    }
    let generation = shard.home().generation.get();
    let check = shard.directory().check(user, Some(address));
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
                None => return Login::Unavailable,
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
                Err(_) => return Login::Unavailable,
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
    match check.outcome(right) {
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
            if punish {
                at_home(&address_key, move |home| home.penalty.borrow_mut().failed(address, now_ms())).await;
            }
            // A new user, or a new password, may stand where it could not be read. Known names and unknown ones
            // hear the same, and a guesser waits as ever.
            if shard.directory_stale() { Login::Unavailable } else { Login::Failed }
        }
    }
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
