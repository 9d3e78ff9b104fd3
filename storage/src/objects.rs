//! Where immutable objects are: files of this directory, or objects of a store.
//!
//! An object is drafted in a file of this machine and then published. On a local store the draft has its final name and
//! publishing makes that name durable; for a shared store the draft is sent.
//!
//! # Crash
//! A draft that was not published is nothing. One that was published and that no record names is an orphan.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::sync::{Permit, Semaphore};

use crate::cache::{Cache, Key, Part, Reading};
use crate::paths::Paths;
use crate::place::{ObjectId, ObjectKind};
use crate::shared::format::Incarnation;
use crate::shared::keys;
use crate::source::LocalFuture;
use crate::store::{Costs, Octets, Patience, Store, StoreError};

/// How long a draft may take to be sent, with all tries.
const SEND_WITHIN: Duration = Duration::from_secs(120);
/// How long a read may take that somebody waits for.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// How long deletions are tried; what is not deleted then is a leak that the search for orphans finds.
const DELETE_WITHIN: Duration = Duration::from_secs(60);

pub(crate) enum Objects {
    Local(Paths),
    Stored(Stored),
}

/// Reads a range of a journal object that this node has acknowledged and the store does not have yet; `None` for all others.
pub(crate) type UnsentRead = dyn Fn(Incarnation, u64, Range<u64>) -> LocalFuture<'static, Option<Vec<u8>>>;

/// Objects of a shared store, as one shard sees them.
pub(crate) struct Stored {
    store: Store,
    /// Where drafts are written.
    drafts: PathBuf,
    /// Whose journal an epoch of a partition is in.
    journals: RefCell<BTreeMap<(PartitionId, u32), Incarnation>>,
    /// `None`: switched off.
    cache: Option<Cache>,
    /// Octets that readers of large bodies may hold ahead.
    windows: Semaphore,
    /// Where this node acknowledges after its local disk.
    unsent: Option<Rc<UnsentRead>>,
}

impl Stored {
    pub fn new(
        store: Store,
        drafts: PathBuf,
        cache: Option<Cache>,
        window_octets: u64,
        unsent: Option<Rc<UnsentRead>>,
    ) -> Stored {
        let windows = Semaphore::new(window_octets as usize);
        Stored { store, drafts, journals: RefCell::default(), cache, windows, unsent }
    }

    /// The journal of an object that may not be in the store yet, and how it is read then.
    fn unsent(&self, partition: PartitionId, id: ObjectId) -> Option<(Incarnation, Rc<UnsentRead>)> {
        let unsent = self.unsent.as_ref().filter(|_| id.kind == ObjectKind::Segment)?;
        Some((*self.journals.borrow().get(&(partition, id.epoch))?, unsent.clone()))
    }

    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// What its requests cost so far.
    pub fn costs(&self) -> &Costs {
        self.store.costs()
    }

    /// Notes in which journal the records of an epoch of a partition stand.
    pub fn note_journal(&self, partition: PartitionId, epoch: u32, incarnation: Incarnation) {
        self.journals.borrow_mut().insert((partition, epoch), incarnation);
    }

    /// Forgets the journals of a partition's epochs below one.
    pub fn forget_journals(&self, partition: PartitionId, below: u32) {
        self.journals.borrow_mut().retain(|(of, epoch), _| *of != partition || *epoch >= below);
    }

    /// The journals of a partition's epochs below one.
    pub fn journals_below(&self, partition: PartitionId, below: u32) -> Vec<(u32, Incarnation)> {
        let journals = self.journals.borrow();
        let of = journals.range((partition, 0)..(partition, below));
        of.map(|((_, epoch), incarnation)| (*epoch, *incarnation)).collect()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key of an object; `None` for a journal object of an epoch that is not known here any more.
    pub fn key(&self, partition: PartitionId, id: ObjectId) -> Option<String> {
        Some(match id.kind {
            ObjectKind::Segment => {
                let incarnation = *self.journals.borrow().get(&(partition, id.epoch))?;
                keys::journal(incarnation, id.number)
            }
            _ => keys::data(partition, id),
        })
    }
}

impl Objects {
    /// Its name in messages: a path, or a key.
    pub fn name(&self, partition: PartitionId, id: ObjectId) -> PathBuf {
        match self {
            Objects::Local(paths) => paths.object(partition, id),
            Objects::Stored(stored) => match stored.key(partition, id) {
                Some(key) => PathBuf::from(key),
                None => PathBuf::from(format!("journal of epoch {} of partition {partition}", id.epoch)),
            },
        }
    }

    /// The file that an object is written to.
    pub fn draft(&self, partition: PartitionId, id: ObjectId) -> PathBuf {
        match self {
            Objects::Local(paths) => paths.object(partition, id),
            Objects::Stored(stored) => stored.drafts.join(format!("{partition}-{id}")),
        }
    }

    /// Whether a draft has to be synced before it is published.
    pub fn sync_drafts(&self) -> bool {
        matches!(self, Objects::Local(_))
    }

    /// Makes drafts that are written, and where it counts synced, durable under their names.
    pub async fn publish(&self, partition: PartitionId, ids: &[ObjectId]) -> io::Result<()> {
        match self {
            Objects::Local(paths) => disk::sync_dir(paths.partition(partition)).await,
            Objects::Stored(stored) => {
                for id in ids {
                    // It was begun when its partition had just gone: no owner has this epoch, and nothing will name it.
                    if id.epoch == u32::MAX {
                        let what = "its partition went before it was begun";
                        return Err(io::Error::new(io::ErrorKind::NotConnected, what));
                    }
                    let draft = self.draft(partition, *id);
                    let file = Rc::new(File::open(&draft).await?);
                    let octets = file.len().await?;
                    let sent = Octets::File { file, offset: 0, octets };
                    let key = keys::data(partition, *id);
                    stored
                        .store
                        .put_new(&key, &sent, Patience::background(SEND_WITHIN))
                        .await
                        .map_err(io_of)?;
                    remove_draft(&draft).await;
                }
                Ok(())
            }
        }
    }

    /// Opens an object for reading; `NotFound` where it is gone.
    pub async fn open(&self, partition: PartitionId, id: ObjectId) -> io::Result<ObjectFile> {
        match self {
            Objects::Local(paths) => {
                File::open(paths.object(partition, id)).await.map(|file| ObjectFile::Local(Rc::new(file)))
            }
            Objects::Stored(stored) => {
                let key = stored.key(partition, id).ok_or(io::ErrorKind::NotFound)?;
                Ok(ObjectFile::Stored(Rc::new(StoredObject {
                    store: stored.store.clone(),
                    key,
                    partition,
                    id,
                    cache: stored.cache.clone(),
                    windows: stored.windows.clone(),
                    account: None,
                    unsent: stored.unsent(partition, id),
                })))
            }
        }
    }

    /// Opens an object that is not published yet.
    pub async fn open_draft(&self, partition: PartitionId, id: ObjectId) -> io::Result<ObjectFile> {
        File::open(self.draft(partition, id)).await.map(|file| ObjectFile::Local(Rc::new(file)))
    }

    /// Removes objects that nothing names, and drafts of objects that will not be; what cannot be removed is told.
    pub async fn remove(&self, gone: Vec<(PartitionId, ObjectId)>) {
        match self {
            Objects::Local(paths) => {
                for (partition, id) in gone {
                    let path = paths.object(partition, id);
                    if let Err(error) = disk::remove(&path).await
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        tracing::warn!(path = %path.display(), %error, "an unnamed file stays until the next start");
                    }
                }
            }
            Objects::Stored(stored) => {
                let mut keys = Vec::with_capacity(gone.len());
                for (partition, id) in gone {
                    remove_draft(&self.draft(partition, id)).await;
                    keys.push(keys::data(partition, id));
                }
                let patience = Patience::background(DELETE_WITHIN);
                if !keys.is_empty()
                    && let Err(error) = stored.store.delete(&keys, patience).await
                {
                    tracing::warn!(%error, objects = keys.len(), "unnamed objects stay until `culver gc` finds them");
                }
            }
        }
    }

    pub fn stored(&self) -> Option<&Stored> {
        match self {
            Objects::Local(_) => None,
            Objects::Stored(stored) => Some(stored),
        }
    }
}

async fn remove_draft(path: &PathBuf) {
    if let Err(error) = disk::remove(path).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a draft stays until the next start");
    }
}

/// An object opened for reading. It stays readable where its file is removed; one of a store may be gone at any read.
#[derive(Clone)]
pub(crate) enum ObjectFile {
    Local(Rc<File>),
    Stored(Rc<StoredObject>),
}

#[derive(Clone)]
pub(crate) struct StoredObject {
    store: Store,
    key: String,
    partition: PartitionId,
    id: ObjectId,
    cache: Option<Cache>,
    windows: Semaphore,
    /// For whom it is read.
    account: Option<AccountId>,
    unsent: Option<(Incarnation, Rc<UnsentRead>)>,
}

impl StoredObject {
    /// The same, read for an account.
    pub fn on_bill_of(&self, account: &AccountId) -> StoredObject {
        StoredObject { account: Some(account.clone()), ..self.clone() }
    }

    /// `len` octets from `offset`, of the store; fewer at the end.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        if let Some((incarnation, read)) = &self.unsent
            && let Some(octets) = read(*incarnation, self.id.number, offset..offset + len as u64).await
        {
            return Ok(octets);
        }
        let range = Some(offset..offset + len as u64);
        let patience = Patience::interactive(READ_WITHIN);
        self.store.get(&self.key, range, patience, self.account.as_ref()).await.map_err(io_of)
    }

    /// Octets of a part that its user can tell from others by `check`: of the cache, else of the store.
    pub async fn read_part(
        &self,
        offset: u64,
        len: usize,
        part: Part,
        check: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<u8>> {
        if let Some(octets) = self.cached(offset, part, Reading::Client).await {
            if check(&octets) {
                return Ok(octets);
            }
            self.forget(offset, part);
        }
        let octets = self.read_at(offset, len).await?;
        if check(&octets) {
            self.keep(offset, part, &octets, Reading::Client);
        }
        Ok(octets)
    }

    /// What the cache has of a part, checked against what was put in.
    pub async fn cached(&self, offset: u64, part: Part, reading: Reading) -> Option<Vec<u8>> {
        self.cache.as_ref()?.get(&self.part(offset, part), reading).await
    }

    pub fn has_cached(&self, offset: u64, part: Part) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.has(&self.part(offset, part)))
    }

    /// Gives the cache a part that was read of the store, and found sound.
    pub fn keep(&self, offset: u64, part: Part, octets: &[u8], reading: Reading) {
        if let (Some(cache), Reading::Client) = (&self.cache, reading) {
            cache.put(self.part(offset, part), octets.len(), true, || octets.to_vec());
        }
    }

    /// The cache's part is not what its reader can use.
    pub fn forget(&self, offset: u64, part: Part) {
        if let Some(cache) = &self.cache {
            cache.forget(&self.part(offset, part));
        }
    }

    /// Memory to hold octets ahead, where there is some.
    pub fn window(&self, octets: u64) -> Option<Permit> {
        // A semaphore gives all that it has to who wants more than that: here it would be more than there may be.
        (self.windows.free() as u64 >= octets).then(|| self.windows.try_acquire(octets as usize))?
    }

    fn part(&self, offset: u64, part: Part) -> Key {
        Key { partition: self.partition, object: self.id, offset, part }
    }
}

impl ObjectFile {
    /// `len` octets from `offset`; fewer at the end.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            ObjectFile::Local(file) => file.read_at(offset, len).await,
            ObjectFile::Stored(object) => object.read_at(offset, len).await,
        }
    }

    /// All of it; for what is known to be small.
    pub async fn read_whole(&self) -> io::Result<Vec<u8>> {
        match self {
            ObjectFile::Local(file) => file.read_at(0, file.len().await? as usize).await,
            ObjectFile::Stored(object) => {
                let patience = Patience::interactive(READ_WITHIN);
                object.store.get(&object.key, None, patience, None).await.map_err(io_of)
            }
        }
    }

    pub async fn len(&self) -> io::Result<u64> {
        match self {
            ObjectFile::Local(file) => file.len().await,
            ObjectFile::Stored(object) => {
                object.store.head(&object.key, Patience::interactive(READ_WITHIN)).await.map_err(io_of)
            }
        }
    }

    /// The same; what a store is asked for it goes on the bill of an account.
    pub fn on_bill_of(&self, account: &AccountId) -> ObjectFile {
        match self {
            ObjectFile::Local(file) => ObjectFile::Local(file.clone()),
            ObjectFile::Stored(object) => ObjectFile::Stored(Rc::new(object.on_bill_of(account))),
        }
    }

    /// Whether it is a file of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self, ObjectFile::Local(_))
    }

    /// The object, where it is one of a store.
    pub fn stored(&self) -> Option<&Rc<StoredObject>> {
        match self {
            ObjectFile::Local(_) => None,
            ObjectFile::Stored(object) => Some(object),
        }
    }
}

pub(crate) fn io_of(error: StoreError) -> io::Error {
    let kind = match &error {
        StoreError::NotFound(_) => io::ErrorKind::NotFound,
        StoreError::Refused(_) => io::ErrorKind::PermissionDenied,
        StoreError::Late { .. } => io::ErrorKind::TimedOut,
    };
    io::Error::new(kind, error)
}
