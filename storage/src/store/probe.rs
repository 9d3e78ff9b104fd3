//! Whether a store can be used, and how: asked at the start, with requests of its own.
//!
//! # Invariants
//! Create-if-absent is proved, not believed: writers race for one key on connections of their own, several times, and one of
//! them wins each time; a later create of another body finds the first one's octets. A store where this fails is refused for
//! shared use, for two nodes could own one partition there.
//!
//! # Limits
//! [`PROBE_WITHIN`] in all; [`ROUNDS`] races of [`WRITERS`].

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use culver_shard::{random, time};

use super::op::{Failure, Op, Outcome};
use super::{Driver, Octets, Patience, Refusal, Store, StoreError, fs};

const PROBE_WITHIN: Duration = Duration::from_secs(20);
/// The first request of all: a store that does not answer it is away.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
const ROUNDS: usize = 4;
const WRITERS: usize = 4;

const NOT_FOUND: &str = "what was written was not found at once";

/// What was noticed of a store, for the log and the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// One create of a key wins, and no other.
    pub creates: bool,
    /// What is written is found at once.
    pub reads_own_writes: bool,
    pub ranges: bool,
    pub lists: bool,
    pub notes: Vec<String>,
}

/// Why a store is not used. A person acts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the store cannot be shared: {0}; use another store, or say shared=false and start one node only"
    )]
    NotShared(String),
}

impl Store {
    /// Proves what the store can do. `shared`: refuse one on which two nodes could both believe to own a partition.
    pub async fn probe(&self, shared: bool) -> Result<Dialect, ProbeError> {
        let late = || {
            StoreError::Refused(Refusal {
                what: format!("the store did not answer within {} s", PROBE_WITHIN.as_secs()),
                remedy: "look whether it runs, and whether this machine reaches it".to_owned(),
            })
        };
        let probed = time::deadline(PROBE_WITHIN, self.probe_within(shared)).await;
        probed.unwrap_or_else(|_| Err(late().into()))
    }

    async fn probe_within(&self, shared: bool) -> Result<Dialect, ProbeError> {
        match &self.0.driver {
            Driver::Fs(driver) if shared => {
                fs::check_mount(driver.root()).await.map_err(ProbeError::NotShared)?;
            }
            Driver::Sproxyd(driver) => {
                let checked = driver.check().await;
                checked.map_err(|failure| ProbeError::Store(of_failure("sproxyd", failure)))?;
            }
            _ => {}
        }
        let patience = Patience::interactive(PROBE_WITHIN);
        let mut dialect = Dialect { lists: self.lists(), ..Dialect::default() };
        let run = format!("probe/{:016x}", random::u64());
        let mut made = Vec::new();
        // The first request of all tells a wrong address, secret or bucket in the store's own words.
        let first = format!("{run}-0");
        let octets: Octets = b"0123456789".to_vec().into();
        self.put(&first, &octets, Patience::interactive(FIRST_WITHIN)).await.map_err(away)?;
        made.push(first.clone());
        dialect.reads_own_writes = match self.get(&first, None, patience, None).await {
            Ok(read) => read == b"0123456789",
            Err(StoreError::NotFound(_)) => false,
            Err(error) => return Err(error.into()),
        };
        dialect.ranges = match self.get(&first, Some(2..5), patience, None).await {
            Ok(read) => read == b"234",
            Err(StoreError::NotFound(_)) => false,
            Err(error) => return Err(error.into()),
        };
        let mut wrong = None;
        for round in 1..=ROUNDS {
            let key = format!("{run}-{round}");
            made.push(key.clone());
            wrong = wrong.or(self.race(&key).await?);
            if wrong.is_some() {
                break;
            }
        }
        dialect.creates = wrong.is_none();
        if let Err(error) = self.delete(&made, patience).await {
            dialect.notes.push(format!("what was made to try the store stays there: {error}"));
        }
        match wrong {
            Some(what) if shared => return Err(ProbeError::NotShared(what)),
            Some(what) => dialect.notes.push(format!("it cannot be shared: {what}")),
            None => {}
        }
        if !dialect.reads_own_writes {
            match shared {
                true => return Err(ProbeError::NotShared(NOT_FOUND.to_owned())),
                false => dialect.notes.push(NOT_FOUND.to_owned()),
            }
        }
        if !dialect.ranges {
            let what = "it does not answer a range of an object".to_owned();
            return Err(ProbeError::Store(StoreError::Refused(Refusal {
                what,
                remedy: "use another store".to_owned(),
            })));
        }
        Ok(dialect)
    }

    /// Several creates of one key at a time, then one more: what is wrong with who won.
    async fn race(&self, key: &str) -> Result<Option<String>, StoreError> {
        let bodies: Vec<Octets> = (0..=WRITERS as u8).map(|writer| vec![b'a' + writer; 64].into()).collect();
        let mut writers: Vec<_> =
            bodies[..WRITERS].iter().map(|octets| Box::pin(self.create_once(key, octets))).collect();
        let mut results: Vec<Option<Result<bool, StoreError>>> = (0..WRITERS).map(|_| None).collect();
        std::future::poll_fn(|cx| {
            let mut pending = false;
            for (writer, result) in writers.iter_mut().zip(&mut results) {
                if result.is_none() {
                    match writer.as_mut().poll(cx) {
                        Poll::Ready(done) => *result = Some(done),
                        Poll::Pending => pending = true,
                    }
                }
            }
            if pending { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let mut winners = Vec::new();
        for (writer, result) in results.into_iter().enumerate() {
            if result.expect("all are done")? {
                winners.push(writer);
            }
        }
        let patience = Patience::interactive(PROBE_WITHIN);
        let found = match self.get(key, None, patience, None).await {
            Err(StoreError::NotFound(_)) => return Ok(Some(NOT_FOUND.to_owned())),
            found => found?,
        };
        let holder = found.first().map(|octet| usize::from(octet.wrapping_sub(b'a')));
        let late = self.create_once(key, &bodies[WRITERS]).await?;
        let kept = self.get(key, None, patience, None).await? == found;
        Ok(match winners[..] {
            _ if late || !kept => Some(
                "a create of an object that is there overwrites it (If-None-Match is ignored)".to_owned(),
            ),
            [] => Some("of several creates of one key none won".to_owned()),
            [winner] if Some(winner) == holder => None,
            [_] => Some("the create that won is not the one whose octets are there".to_owned()),
            _ => Some(format!("{} of {WRITERS} creates of one key won", winners.len())),
        })
    }

    /// One create, without a look at who won: true where this one did. An answer that is lost is asked for again, and then
    /// the object is compared.
    async fn create_once(&self, key: &str, octets: &Octets) -> Result<bool, StoreError> {
        let op = Op::Put { key, octets, create: true };
        let began = time::now();
        let result = self.0.driver.perform(&op).await;
        self.0.costs.count(&op, &result, began.elapsed(), None);
        match result {
            Ok(Outcome::Done) => Ok(true),
            Ok(_) => unreachable!("a PUT brings nothing"),
            Err(Failure::Exists) => Ok(false),
            Err(Failure::Passing { .. }) => {
                let patience = Patience::interactive(PROBE_WITHIN);
                Ok(self.create(key, octets, patience).await? == super::Created::Mine)
            }
            Err(failure) => Err(of_failure(key, failure)),
        }
    }
}

/// A store that answers nothing at all, in words for who starts a server.
fn away(error: StoreError) -> StoreError {
    match error {
        StoreError::Late { within, last, .. } => StoreError::Refused(Refusal {
            what: format!("no answer within {} s; last: {last}", within.as_secs()),
            remedy: "look whether the store runs, whether this machine reaches it, and whether its address is right"
                .to_owned(),
        }),
        error => error,
    }
}

fn of_failure(key: &str, failure: Failure) -> StoreError {
    match failure {
        Failure::Refused(refusal) => StoreError::Refused(refusal),
        Failure::NotFound => StoreError::NotFound(key.to_owned()),
        Failure::Exists => StoreError::Refused(Refusal {
            what: format!("{key}: it exists"),
            remedy: "report this".to_owned(),
        }),
        Failure::Passing { what, .. } => {
            StoreError::Late { key: key.to_owned(), within: PROBE_WITHIN, last: what }
        }
    }
}
