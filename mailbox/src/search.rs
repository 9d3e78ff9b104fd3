//! SEARCH: set algebra over the flag bitmaps, then the rows, and the messages' octets last and only where nothing
//! else decides.
//!
//! # Invariants
//! The answer is a subset of the session's view. A message that is in view but expunged meanwhile matches nothing.
//! Account state is never borrowed across an await.
//!
//! # Cost
//! Keys of an AND are tried in the order of their cost, each only on what the ones before left. A key over message
//! octets reads each message once, however many BODY and TEXT keys stand side by side.

use crate::accounts::{Account, Accounts, Session};
use crate::view::View;
use culver_index::{FlagId, MailboxIndex, RoaringBitmap, Row};
use culver_model::id::EMAIL_ID;
use culver_model::mime::{PartTable, covers};
use culver_model::search::SearchKey;
use culver_model::text::{Extract, HeaderSearch, Scope, Step, TextSearch, sent_date};
use culver_model::{Date, Guid, InternalDate, SystemFlag, Uid, UidSet};
use culver_shard as shard;
use culver_storage::{Place, ReadError};
use std::future::Future;
use std::pin::Pin;
use thiserror::Error;

/// Rows looked at between two yields.
const ROWS_STEP: usize = 10_000;
/// Octets of text searched between two yields.
const TEXT_STEP: usize = 64 * 1024;
/// Longest message header that is read to answer a header key.
const HEADER_OCTETS_MAX: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum SearchError {
    /// The mailbox is gone.
    #[error("the mailbox was deleted")]
    Deleted,
    /// What SORT and THREAD compare is more than may be held.
    #[error("what is compared takes too much memory")]
    TooLarge,
    #[error(transparent)]
    Read(#[from] ReadError),
}

type Found<'a> = Pin<Box<dyn Future<Output = Result<RoaringBitmap, SearchError>> + 'a>>;

/// The UIDs in `view` that match `key`. `saved` is what `$` stands for.
pub async fn search(
    session: &Session,
    view: &View,
    key: &SearchKey,
    saved: &UidSet,
) -> Result<RoaringBitmap, SearchError> {
    let search = Search { saved, now: shard::time::wall().0, ..Search::of(session, view) };
    let within = search.with(|index| view.uids() & index.uids())?;
    search.eval(key, within).await
}

/// A look at one mailbox that takes time.
pub(crate) struct Search<'a> {
    session: &'a Session,
    view: &'a View,
    saved: &'a UidSet,
    /// Seconds since 1970, for OLDER and YOUNGER: one instant for the whole search.
    now: i64,
}

impl<'a> Search<'a> {
    pub fn of(session: &'a Session, view: &'a View) -> Search<'a> {
        static NOTHING: UidSet = UidSet::new();
        Search { session, view, saved: &NOTHING, now: 0 }
    }

    pub fn mailbox(&self) -> Guid {
        self.view.mailbox()
    }

    pub fn account(&self) -> &Account {
        self.session.account()
    }

    pub fn accounts(&self) -> &Accounts {
        self.session.accounts()
    }

    /// The header of a message whose kept lines are not all.
    pub async fn header(&self, uid: Uid, place: &[u8; 32], octets: u64) -> Result<Vec<u8>, SearchError> {
        self.read_again(uid, place, octets.min(HEADER_OCTETS_MAX)).await
    }

    pub fn with<T>(&self, look: impl FnOnce(&MailboxIndex) -> T) -> Result<T, SearchError> {
        let state = self.session.account().state();
        state.selectable(self.view.mailbox()).map(look).ok_or(SearchError::Deleted)
    }

    fn eval(&'a self, key: &'a SearchKey, within: RoaringBitmap) -> Found<'a> {
        Box::pin(async move {
            if within.is_empty() {
                return Ok(within);
            }
            match key {
                SearchKey::All => Ok(within),
                SearchKey::And(keys) => self.all(keys, within).await,
                SearchKey::Or(left, right) => {
                    let (first, second) =
                        if cost(left) <= cost(right) { (left, right) } else { (right, left) };
                    let found = self.eval(first, within.clone()).await?;
                    let rest = self.eval(second, within - &found).await?;
                    Ok(found | rest)
                }
                SearchKey::Not(key) => {
                    let found = self.eval(key, within.clone()).await?;
                    Ok(within - found)
                }
                SearchKey::Sequence(set) => {
                    Ok(keep(&within, &self.view.uids_at(&set.resolve(self.view.len()))))
                }
                SearchKey::Uid(set) => Ok(keep(&within, &set.resolve(self.view.last_uid()))),
                SearchKey::Saved => Ok(keep(&within, self.saved)),
                SearchKey::Recent => Ok(keep(&within, self.view.recent())),
                SearchKey::Old => Ok(&within - keep(&within, self.view.recent())),
                SearchKey::New => {
                    let recent = keep(&within, self.view.recent());
                    self.with(|index| recent - index.bitmap(FlagId::system(SystemFlag::Seen)))
                }
                SearchKey::Flag(flag) => self.with(|index| within & index.bitmap(FlagId::system(*flag))),
                SearchKey::Keyword(keyword) => self.with(|index| match index.keyword_id(keyword) {
                    Some(id) => within & index.bitmap(FlagId::keyword(id)),
                    None => RoaringBitmap::new(),
                }),
                SearchKey::Before(date) => self.rows(within, |row| row.internal_date().date() < *date).await,
                SearchKey::On(date) => self.rows(within, |row| row.internal_date().date() == *date).await,
                SearchKey::Since(date) => self.rows(within, |row| row.internal_date().date() >= *date).await,
                SearchKey::Older(seconds) => {
                    let target = self.now - i64::from(*seconds);
                    self.rows(within, |row| row.internal_date().seconds <= target).await
                }
                SearchKey::Younger(seconds) => {
                    let target = self.now - i64::from(*seconds);
                    self.rows(within, |row| row.internal_date().seconds >= target).await
                }
                SearchKey::SavedBefore(date) => self.rows(within, |row| saved_on(row) < *date).await,
                SearchKey::SavedOn(date) => self.rows(within, |row| saved_on(row) == *date).await,
                SearchKey::SavedSince(date) => self.rows(within, |row| saved_on(row) >= *date).await,
                // RFC 8514 §4.3: every mailbox here keeps save dates.
                SearchKey::SaveDateSupported => Ok(within),
                SearchKey::EmailId(id) => match Guid::of_object_id(EMAIL_ID, id) {
                    Some(id) => self.rows(within, |row| row.email_id() == id).await,
                    None => Ok(RoaringBitmap::new()),
                },
                // RFC 8474 §6: nothing has a thread id.
                SearchKey::ThreadId(_) => Ok(RoaringBitmap::new()),
                SearchKey::Larger(octets) => self.rows(within, |row| row.size() > *octets).await,
                SearchKey::Smaller(octets) => self.rows(within, |row| row.size() < *octets).await,
                SearchKey::ModSeq(modseq) => self.rows(within, |row| row.modseq() >= *modseq).await,
                SearchKey::SentBefore(date) => self.sent(within, |sent| sent < *date).await,
                SearchKey::SentOn(date) => self.sent(within, |sent| sent == *date).await,
                SearchKey::SentSince(date) => self.sent(within, |sent| sent >= *date).await,
                SearchKey::Header { field, value } => {
                    let wanted = HeaderSearch::new(field, value);
                    self.headers(within, field, |header| wanted.matches(header)).await
                }
                SearchKey::Body(_) | SearchKey::Text(_) => self.texts(within, vec![scope(key)]).await,
            }
        })
    }

    /// All of `keys`: the cheap ones first, and those over the text in one reading.
    async fn all(
        &'a self,
        keys: &'a [SearchKey],
        mut within: RoaringBitmap,
    ) -> Result<RoaringBitmap, SearchError> {
        let mut order: Vec<&SearchKey> = keys.iter().collect();
        order.sort_by_key(|key| cost(key));
        let texts: Vec<_> = order
            .iter()
            .filter(|key| matches!(key, SearchKey::Body(_) | SearchKey::Text(_)))
            .map(|key| scope(key))
            .collect();
        for key in order {
            if !matches!(key, SearchKey::Body(_) | SearchKey::Text(_)) {
                within = self.eval(key, within).await?;
            }
        }
        if texts.is_empty() || within.is_empty() {
            return Ok(within);
        }
        self.texts(within, texts).await
    }

    /// Those whose row says so.
    async fn rows(
        &self,
        within: RoaringBitmap,
        matches: impl Fn(&Row<'_>) -> bool,
    ) -> Result<RoaringBitmap, SearchError> {
        let mut found = RoaringBitmap::new();
        let mut next = 0;
        loop {
            let step: UidSet = within.range(next..).take(ROWS_STEP).collect();
            let Some(last) = step.last() else { return Ok(found) };
            self.with(|index| {
                for row in index.rows(&step).filter(|row| matches(row)) {
                    found.insert(row.uid().get());
                }
            })?;
            match last.checked_add(1) {
                Some(after) => next = after,
                None => return Ok(found),
            }
            shard::yield_if_needed().await;
        }
    }

    async fn sent(
        &self,
        within: RoaringBitmap,
        matches: impl Fn(Date) -> bool,
    ) -> Result<RoaringBitmap, SearchError> {
        self.headers(within, "Date", |header| sent_date(header).is_some_and(&matches)).await
    }

    /// Those whose header says so: from the kept lines where they hold the field, else from the message.
    async fn headers(
        &self,
        within: RoaringBitmap,
        field: &str,
        matches: impl Fn(&[u8]) -> bool,
    ) -> Result<RoaringBitmap, SearchError> {
        let kept = covers(&[field]);
        let mut found = RoaringBitmap::new();
        for (done, uid) in within.iter().enumerate() {
            let Some(uid) = Uid::new(uid) else { continue };
            let known = self.with(|index| {
                index.get(uid).map(|row| match kept && row.headers_complete() {
                    true => Ok(matches(row.headers())),
                    false => Err((*row.place(), header_octets(&row))),
                })
            })?;
            let hit = match known {
                None => false,
                Some(Ok(hit)) => hit,
                Some(Err((place, octets))) => {
                    let header = self.header(uid, &place, octets).await?;
                    matches(&header)
                }
            };
            if hit {
                found.insert(uid.get());
            }
            if done % 100 == 99 {
                shard::yield_if_needed().await;
            }
        }
        Ok(found)
    }

    /// Those in whose text every key is found.
    async fn texts(
        &self,
        within: RoaringBitmap,
        wanted: Vec<(Scope, String)>,
    ) -> Result<RoaringBitmap, SearchError> {
        let count = wanted.len();
        let mut text = TextSearch::new(wanted);
        let mut found = RoaringBitmap::new();
        for uid in &within {
            let Some(uid) = Uid::new(uid) else { continue };
            let known = self
                .with(|index| index.get(uid).map(|row| (*row.place(), row.size(), row.parts().to_vec())))?;
            let Some((place, size, parts)) = known else { continue };
            let _octets = self.session.accounts().search_octets.acquire(size as usize).await;
            let message = self.read_again(uid, &place, size).await?;
            let Ok(table) = PartTable::decode(&parts) else { continue };
            text.start();
            let mut extract = Extract::new(&table, &message);
            while text.step(&mut extract, TEXT_STEP) == Step::More {
                shard::yield_if_needed().await;
            }
            if (0..count).all(|key| text.found(key)) {
                found.insert(uid.get());
            }
            shard::yield_if_needed().await;
        }
        Ok(found)
    }

    /// Reads a message, looked up again where compaction moved it meanwhile.
    async fn read_again(&self, uid: Uid, place: &[u8; 32], octets: u64) -> Result<Vec<u8>, SearchError> {
        match self.read(place, octets).await {
            Err(SearchError::Read(ReadError::Gone(_))) => {
                match self.with(|index| index.get(uid).map(|row| *row.place()))? {
                    Some(place) => self.read(&place, octets).await,
                    None => Ok(Vec::new()),
                }
            }
            read => read,
        }
    }

    async fn read(&self, place: &[u8; 32], octets: u64) -> Result<Vec<u8>, SearchError> {
        let storage = self.session.accounts().storage();
        let account = self.session.account();
        match Place::from_bytes(place) {
            Some(place) => {
                Ok(storage.read_place_for(account.partition(), account.id(), &place, 0..octets).await?)
            }
            None => Ok(Vec::new()),
        }
    }
}

/// RFC 8514 §4.3: where a save date is not known, the internal date is taken.
fn saved_on(row: &Row<'_>) -> Date {
    match row.save_date() {
        0 => row.internal_date().date(),
        seconds => InternalDate { seconds, zone_minutes: 0 }.date(),
    }
}

pub(crate) fn header_octets(row: &Row<'_>) -> u64 {
    PartTable::decode(row.parts()).map_or(HEADER_OCTETS_MAX, |table| {
        table.parts().first().map_or(HEADER_OCTETS_MAX, |root| root.header().end)
    })
}

fn scope(key: &SearchKey) -> (Scope, String) {
    match key {
        SearchKey::Body(text) => (Scope::Body, text.clone()),
        SearchKey::Text(text) => (Scope::Text, text.clone()),
        _ => unreachable!("asked only for BODY and TEXT"),
    }
}

fn keep(within: &RoaringBitmap, set: &UidSet) -> RoaringBitmap {
    let mut kept = RoaringBitmap::new();
    for range in set.ranges() {
        for uid in within.range(range) {
            kept.insert(uid);
        }
    }
    kept
}

/// Rank of cost: sets, rows, kept headers, message octets.
fn cost(key: &SearchKey) -> u8 {
    match key {
        SearchKey::And(keys) => keys.iter().map(cost).max().unwrap_or(0),
        SearchKey::Or(left, right) => cost(left).max(cost(right)),
        SearchKey::Not(key) => cost(key),
        SearchKey::Before(_) | SearchKey::On(_) | SearchKey::Since(_) => 1,
        SearchKey::Older(_) | SearchKey::Younger(_) => 1,
        SearchKey::SavedBefore(_) | SearchKey::SavedOn(_) | SearchKey::SavedSince(_) => 1,
        SearchKey::Larger(_) | SearchKey::Smaller(_) | SearchKey::ModSeq(_) | SearchKey::EmailId(_) => 1,
        SearchKey::SentBefore(_) | SearchKey::SentOn(_) | SearchKey::SentSince(_) => 2,
        SearchKey::Header { field, .. } if covers(&[field.as_str()]) => 2,
        SearchKey::Header { .. } => 3,
        SearchKey::Body(_) | SearchKey::Text(_) => 4,
        _ => 0,
    }
}
