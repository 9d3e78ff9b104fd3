//! An object store as everything above it sees one: immutable objects by key, and create-if-absent.
//!
//! A handle is of one shard: its connections, its pace and its counters are the shard's own.
//!
//! # Invariants
//! A request that brought no answer is tried again, with the same octets, until its deadline; then its outcome is not known,
//! and that is what is told. A create that finds its key taken compares: where the object has these very octets, an earlier
//! try of this request made it (PROTOCOL 1: every body holds a nonce of its attempt).
//!
//! # Limits
//! Requests under way follow what the store bears ([`pace`]); reads are asked a second time where the first is late, within
//! a budget ([`hedge`]).

mod cost;
mod credentials;
mod fs;
mod hedge;
pub(crate) mod op;
mod pace;
mod probe;
mod s3;
mod sproxyd;
mod url;
mod xml;

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use culver_model::AccountId;
use culver_shard::disk::File;
use culver_shard::http::HttpError;
pub use culver_shard::http::{Endpoint, Octets};
use culver_shard::{random, time};

use crate::fault::{self, Fault};
use crate::source::LocalFuture;

pub use self::cost::{Bills, Cost, Costs};
use self::hedge::Hedge;
use self::op::{Abilities, Failure, Op, Outcome, PART_OCTETS, attempt_within};
pub use self::op::{Kind, Listed, Refusal};
use self::pace::Pace;
pub use self::probe::{Dialect, ProbeError};
pub use self::url::{S3Url, SproxydUrl, StoreUrl, UrlError};

/// The first pause after a failure is up to this long, and up to twice as long after each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A store that asks for patience is given more of it.
const PAUSE_SLOW: Duration = Duration::from_millis(500);
/// Octets that are read to compare an object with those of a create.
const COMPARE_OCTETS_MAX: u64 = 64 << 20;

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A client does.
    Interactive,
    /// Flush, compaction, search for orphans: half of what the store bears is left to clients.
    Background,
}

/// How long a request may take with all its tries, and who waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub within: Duration,
    pub urgency: Urgency,
}

impl Patience {
    pub fn interactive(within: Duration) -> Patience {
        Patience { within, urgency: Urgency::Interactive }
    }

    pub fn background(within: Duration) -> Patience {
        Patience { within, urgency: Urgency::Background }
    }
}

/// What became of a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// These octets are there.
    Mine,
    /// Others are: these.
    Foreign(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object. One that is being made may appear at any later moment.
    #[error("{0}: no such object")]
    NotFound(String),
    /// A person acts.
    #[error("the store refuses: {0}")]
    Refused(Refusal),
    /// Time acts. What became of a change is not known.
    #[error("{key}: no answer within {} s; last: {last}", .within.as_secs_f32())]
    Late { key: String, within: Duration, last: String },
}

/// A store, as one shard uses it. Clones are the same.
#[derive(Clone)]
pub struct Store(Rc<Inner>);

struct Inner {
    driver: Driver,
    abilities: Abilities,
    pace: Pace,
    hedge: Hedge,
    costs: Costs,
}

enum Driver {
    Fs(fs::Driver),
    S3(s3::Driver),
    Sproxyd(sproxyd::Driver),
    #[cfg(any(test, feature = "simulation"))]
    Sim(crate::simstore::Driver),
}

impl Driver {
    fn abilities(&self) -> Abilities {
        match self {
            Driver::Fs(driver) => driver.abilities(),
            Driver::S3(driver) => driver.abilities(),
            Driver::Sproxyd(driver) => driver.abilities(),
            #[cfg(any(test, feature = "simulation"))]
            Driver::Sim(driver) => driver.abilities(),
        }
    }

    async fn perform(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        match self {
            Driver::Fs(driver) => driver.perform(op).await,
            // A request over HTTP is a large future, and every future that asks the store holds one.
            Driver::S3(driver) => Box::pin(driver.perform(op)).await,
            Driver::Sproxyd(driver) => Box::pin(driver.perform(op)).await,
            #[cfg(any(test, feature = "simulation"))]
            Driver::Sim(driver) => driver.perform(op).await,
        }
    }
}

impl Store {
    /// A handle for this shard. Nothing is asked of the store yet: see [`Store::probe`].
    ///
    /// # Errors
    /// Where a certificate file cannot be read, or a host's name is none.
    pub async fn open(url: &StoreUrl) -> Result<Store, StoreError> {
        let driver = match url {
            StoreUrl::Local(dir) | StoreUrl::SharedFs(dir) => Driver::Fs(fs::Driver::new(dir.clone())),
            StoreUrl::S3(s3) => {
                let tls = client_tls(&s3.endpoint, s3.ca.as_deref()).await?;
                Driver::S3(s3::Driver::new(s3.clone(), tls).map_err(unusable)?)
            }
            StoreUrl::Sproxyd(ring) => {
                let tls = client_tls(&ring.endpoint, ring.ca.as_deref()).await?;
                Driver::Sproxyd(sproxyd::Driver::new(ring.clone(), tls).map_err(unusable)?)
            }
        };
        Ok(Store::with(driver))
    }

    fn with(driver: Driver) -> Store {
        let abilities = driver.abilities();
        Store(Rc::new(Inner {
            driver,
            abilities,
            pace: Pace::new(),
            hedge: Hedge::new(),
            costs: Costs::default(),
        }))
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn simulated(driver: crate::simstore::Driver) -> Store {
        Store::with(Driver::Sim(driver))
    }

    /// Whether it can list keys.
    pub fn lists(&self) -> bool {
        self.0.abilities.list
    }

    /// What its requests cost so far.
    pub fn costs(&self) -> &Costs {
        &self.0.costs
    }

    /// Makes an object where there is none of this key.
    pub async fn create(
        &self,
        key: &str,
        octets: &Octets,
        patience: Patience,
    ) -> Result<Created, StoreError> {
        let until = time::now() + patience.within;
        loop {
            let left = Patience { within: until - time::now(), ..patience };
            match self.call(&Op::Put { key, octets, create: true }, left, None).await {
                Ok(_) => return Ok(Created::Mine),
                Err(Stop::Exists) => {}
                Err(stop) => return Err(stop.told(key)),
            }
            let left = Patience { within: until - time::now(), ..patience };
            let range = Some(0..COMPARE_OCTETS_MAX.max(octets.len() + 1));
            match self.call(&Op::Get { key, range }, left, None).await {
                Ok(Outcome::Octets(found)) => {
                    // These very octets are an earlier try's.
                    return Ok(match same(octets, &found).await && !fault::on(Fault::OwnRetryForeign) {
                        true => Created::Mine,
                        false => Created::Foreign(found),
                    });
                }
                Ok(_) => unreachable!("a GET brings octets"),
                // Its maker has seen it; a store that does not show it yet will.
                Err(Stop::NotFound) => {}
                Err(stop) => return Err(stop.told(key)),
            }
            self.pause(1, false, until).await.map_err(|()| {
                Stop::Late { within: patience.within, last: "it is there and cannot be read".into() }
                    .told(key)
            })?;
        }
    }

    /// Makes an object of a name that nobody else uses; one that is there all the same is not overwritten.
    pub async fn put_new(&self, key: &str, octets: &Octets, patience: Patience) -> Result<(), StoreError> {
        let in_parts = self.0.abilities.parts_from.is_some_and(|from| octets.len() > from);
        if in_parts && matches!(octets, Octets::File { .. }) {
            return self.put(key, octets, patience).await;
        }
        match self.create(key, octets, patience).await? {
            Created::Mine => Ok(()),
            Created::Foreign(_) => Err(StoreError::Refused(Refusal {
                what: format!("{key}: the name is taken by another object"),
                remedy: "report this: two nodes took themselves for one".to_owned(),
            })),
        }
    }

    /// Writes an object of a name that is used once.
    pub async fn put(&self, key: &str, octets: &Octets, patience: Patience) -> Result<(), StoreError> {
        let parts = self.0.abilities.parts_from.is_some_and(|from| octets.len() > from);
        if let (true, Octets::File { file, offset, octets }) = (parts, octets) {
            return self.put_in_parts(key, file, *offset, *octets, patience).await;
        }
        let put = Op::Put { key, octets, create: false };
        self.call(&put, patience, None).await.map(drop).map_err(|stop| stop.told(key))
    }

    async fn put_in_parts(
        &self,
        key: &str,
        file: &Rc<File>,
        offset: u64,
        octets: u64,
        patience: Patience,
    ) -> Result<(), StoreError> {
        let until = time::now() + patience.within;
        let left = || Patience { within: until - time::now(), ..patience };
        let Outcome::Named(upload) =
            self.call(&Op::Begin { key }, left(), None).await.map_err(|stop| stop.told(key))?
        else {
            unreachable!("an upload has an id")
        };
        let sent = async {
            let mut tags = Vec::new();
            for (number, at) in (1..).zip((0..octets).step_by(PART_OCTETS as usize)) {
                let part = Octets::File {
                    file: file.clone(),
                    offset: offset + at,
                    octets: PART_OCTETS.min(octets - at),
                };
                let op = Op::Part { key, upload: &upload, number, octets: &part };
                match self.call(&op, left(), None).await? {
                    Outcome::Named(tag) => tags.push(tag),
                    _ => unreachable!("a part has a tag"),
                }
            }
            match self.call(&Op::Complete { key, upload: &upload, parts: &tags }, left(), None).await {
                // An earlier try of this request may have completed it.
                Err(Stop::NotFound) => match self.call(&Op::Head { key }, left(), None).await {
                    Ok(Outcome::Length(length)) if length == octets => Ok(()),
                    Ok(_) | Err(Stop::NotFound) => Err(Stop::NotFound),
                    Err(stop) => Err(stop),
                },
                other => other.map(drop),
            }
        };
        let sent = sent.await;
        if sent.is_err() {
            // What was sent is billed until it is given up.
            let patience = Patience::background(Duration::from_secs(30));
            if let Err(stop) = self.call(&Op::Abort { key, upload: &upload }, patience, None).await {
                tracing::warn!(key, upload, error = %stop.told(key), "an unfinished upload stays in the store");
            }
        }
        sent.map_err(|stop| stop.told(key))
    }

    /// Octets of a range, fewer at the object's end. `account`: on whose bill.
    pub async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        patience: Patience,
        account: Option<&AccountId>,
    ) -> Result<Vec<u8>, StoreError> {
        match self.call(&Op::Get { key, range }, patience, account).await {
            Ok(Outcome::Octets(octets)) => Ok(octets),
            Ok(_) => unreachable!("a GET brings octets"),
            Err(stop) => Err(stop.told(key)),
        }
    }

    /// The length of an object.
    pub async fn head(&self, key: &str, patience: Patience) -> Result<u64, StoreError> {
        match self.call(&Op::Head { key }, patience, None).await {
            Ok(Outcome::Length(length)) => Ok(length),
            Ok(_) => unreachable!("a HEAD brings a length"),
            Err(stop) => Err(stop.told(key)),
        }
    }

    /// Deletes objects; those that are not there count as deleted. What cannot be deleted stays, and is told: it is only a
    /// leak.
    pub async fn delete(&self, keys: &[String], patience: Patience) -> Result<(), StoreError> {
        let mut first = None;
        for batch in keys.chunks(self.0.abilities.delete_keys_max.max(1)) {
            match self.call(&Op::Delete { keys: batch }, patience, None).await {
                Ok(Outcome::Deleted { failed }) => {
                    for (key, why) in failed {
                        tracing::warn!(key, why, "an object could not be deleted");
                    }
                }
                Ok(_) => unreachable!("a DELETE brings what failed"),
                Err(stop) => drop(first.get_or_insert(stop.told(&batch[0]))),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Keys with a prefix, ascending, after a key; a thousand or fewer.
    pub async fn list(&self, prefix: &str, after: &str, patience: Patience) -> Result<Listed, StoreError> {
        match self.call(&Op::List { prefix, after, keys_max: 1000 }, patience, None).await {
            Ok(Outcome::Listed(listed)) => Ok(listed),
            Ok(_) => unreachable!("a listing brings keys"),
            Err(stop) => Err(stop.told(prefix)),
        }
    }

    /// Tries until there is an answer or the time is up.
    ///
    /// A request's future is large, and those who wait for one are many and deep: it has memory of its own.
    fn call<'a>(
        &'a self,
        op: &'a Op<'a>,
        patience: Patience,
        account: Option<&'a AccountId>,
    ) -> LocalFuture<'a, Result<Outcome, Stop>> {
        Box::pin(self.tries(op, patience, account))
    }

    async fn tries(
        &self,
        op: &Op<'_>,
        patience: Patience,
        account: Option<&AccountId>,
    ) -> Result<Outcome, Stop> {
        let until = time::now() + patience.within;
        let mut tries = 0;
        loop {
            let left = until - time::now();
            let result = match op {
                Op::Get { .. } => self.hedged(op, left, patience.urgency, account).await,
                _ => self.attempt(op, left, patience.urgency, account).await,
            };
            let (last, slow_down) = match result {
                Ok(outcome) => return Ok(outcome),
                Err(Failure::NotFound) => return Err(Stop::NotFound),
                Err(Failure::Exists) => return Err(Stop::Exists),
                Err(Failure::Refused(refusal)) => return Err(Stop::Refused(refusal)),
                Err(Failure::Passing { what, slow_down }) => (what, slow_down),
            };
            tries += 1;
            self.0.costs.retried(op.kind());
            tracing::debug!(key = op.key(), tries, last, "a request to the store is tried again");
            if self.pause(tries, slow_down, until).await.is_err() {
                return Err(Stop::Late { within: patience.within, last });
            }
        }
    }

    /// Waits before the next try: full jitter, so that those who failed together do not come back together.
    async fn pause(&self, tries: u32, slow_down: bool, until: time::Instant) -> Result<(), ()> {
        let first = if slow_down { PAUSE_SLOW } else { PAUSE_FIRST };
        let most = (first * 2u32.saturating_pow(tries.min(10))).min(PAUSE_MAX);
        let pause = Duration::from_micros(random::below(most.as_micros() as u64 + 1));
        if time::now() + pause >= until {
            return Err(());
        }
        time::sleep(pause).await;
        Ok(())
    }

    async fn attempt(
        &self,
        op: &Op<'_>,
        left: Duration,
        urgency: Urgency,
        account: Option<&AccountId>,
    ) -> Result<Outcome, Failure> {
        let within = left.min(attempt_within(op.octets()));
        let inner = &self.0;
        let late = |_| Failure::passing("no answer in time");
        let (slot, waited) = {
            let since = time::now();
            let slot = time::deadline(within, inner.pace.slot(urgency)).await.map_err(late)?;
            (slot, since.elapsed())
        };
        let began = time::now();
        let result = time::deadline(within.saturating_sub(waited), inner.driver.perform(op)).await;
        drop(slot);
        let took = began.elapsed();
        let result = result.map_err(late).and_then(|result| result);
        inner.costs.count(op, &result, took, account);
        match &result {
            Err(Failure::Passing { slow_down: true, .. }) => inner.pace.slower(),
            Ok(_) => inner.pace.faster(),
            Err(_) => {}
        }
        result
    }

    /// A read that is asked a second time where it is later than nearly all others are.
    async fn hedged(
        &self,
        op: &Op<'_>,
        left: Duration,
        urgency: Urgency,
        account: Option<&AccountId>,
    ) -> Result<Outcome, Failure> {
        let began = time::now();
        let first = self.attempt(op, left, urgency, account);
        let result = match self.0.hedge.after(op) {
            None => first.await,
            Some(after) => {
                let asked = Cell::new(false);
                let second = async {
                    time::sleep(after).await;
                    match self.0.hedge.take() {
                        true => {
                            asked.set(true);
                            self.0.costs.hedged();
                            self.attempt(op, left.saturating_sub(after), urgency, account).await
                        }
                        false => std::future::pending().await,
                    }
                };
                hedge::first_of(first, second, &asked).await
            }
        };
        if result.is_ok() {
            self.0.hedge.took(op, began.elapsed());
        }
        result
    }
}

/// Why a request is not tried again.
enum Stop {
    NotFound,
    Exists,
    Refused(Refusal),
    Late { within: Duration, last: String },
}

impl Stop {
    fn told(self, key: &str) -> StoreError {
        match self {
            Stop::NotFound => StoreError::NotFound(key.to_owned()),
            Stop::Refused(refusal) => StoreError::Refused(refusal),
            Stop::Late { within, last } => StoreError::Late { key: key.to_owned(), within, last },
            Stop::Exists => StoreError::Refused(Refusal {
                what: format!("{key}: the store says that it exists, and nobody asked"),
                remedy: "report this".to_owned(),
            }),
        }
    }
}

/// Whether an object has these octets.
async fn same(octets: &Octets, found: &[u8]) -> bool {
    if octets.len() != found.len() as u64 {
        return false;
    }
    let (mut at, mut same) = (0, true);
    let read = octets.each(|piece| {
        same &= found[at..at + piece.len()] == *piece;
        at += piece.len();
    });
    read.await.is_ok() && same
}

fn unusable(error: HttpError) -> StoreError {
    StoreError::Refused(Refusal { what: error.to_string(), remedy: "mend the store's address".to_owned() })
}

/// TLS as a client, where the endpoint wants it.
async fn client_tls(
    endpoint: &Endpoint,
    ca: Option<&std::path::Path>,
) -> Result<Option<std::sync::Arc<culver_shard::tls::rustls::ClientConfig>>, StoreError> {
    if !endpoint.tls {
        return Ok(None);
    }
    culver_shard::tls::client(ca).await.map(Some).map_err(|error| {
        StoreError::Refused(Refusal {
            what: error.to_string(),
            remedy: "mend ca= in the store's address, or install the system's certificates (ca-certificates)"
                .to_owned(),
        })
    })
}
