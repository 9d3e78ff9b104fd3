//! The root directory of a store: its identity, its lock, its chain of owners.
//!
//! # Invariants
//! One process at a time holds the lock. The chain `owner/all/0, 1, 2, ...` has no gap; each start adds one link, and a
//! link is never changed or removed.
//!
//! # Crash
//! Each small object is made whole and durable or not at all. A store without its first link is finished at the next
//! start, if it holds nothing yet.

pub(crate) mod format;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culver_shard::disk::{self, File, Lock};
use culver_shard::{random, time};

use self::format::{Owner, SmallFault, StoreIdentity, VERSION};
use crate::error::{OpenError, no_space};
use crate::limits::Limits;
use crate::partition::PartitionSeed;
use crate::paths::{Paths, parse_journal_name};
use crate::recover::Shared;

/// Octets of the reserve that a start gives up first: for its owner object and what names it.
pub(crate) const START_RESERVE_OCTETS: u64 = 64 << 10;

/// A locked store. Keep it until every shard's [`crate::Storage`] is closed: the lock goes with it.
pub struct Root {
    pub(crate) paths: Paths,
    pub(crate) limits: Limits,
    pub(crate) identity: StoreIdentity,
    pub(crate) owner: Owner,
    pub(crate) salvaging: bool,
    _lock: Lock,
}

/// What one shard gets of a recovered store; goes to that shard, to [`crate::Storage::start`].
pub struct Share {
    pub(crate) paths: Paths,
    pub(crate) limits: Limits,
    pub(crate) store: [u8; 16],
    pub(crate) partition_count: u16,
    pub(crate) epoch: u32,
    pub(crate) shard: u16,
    pub(crate) partitions: Vec<PartitionSeed>,
    pub(crate) shared: Arc<Shared>,
}

impl Share {
    /// The shard it is for.
    pub fn shard(&self) -> usize {
        usize::from(self.shard)
    }

    /// Records that a flush has yet to take.
    pub fn unflushed_records(&self) -> usize {
        self.partitions.iter().flat_map(|partition| partition.unflushed.values()).map(Vec::len).sum()
    }
}

impl Root {
    /// Locks the store of a directory; makes one where the directory is empty or missing.
    pub async fn open(dir: &Path, limits: Limits) -> Result<Root, OpenError> {
        let paths = Paths::new(dir);
        disk::create_dir_all(dir).await.map_err(OpenError::io(dir))?;
        let lock = disk::lock(paths.lock()).await.map_err(OpenError::lock)?;
        let identity = match read_small(&paths.store()).await? {
            Some(bytes) => StoreIdentity::parse(&bytes).map_err(small_fault(&paths.store()))?,
            None => make_store(&paths, &limits).await?,
        };
        let owner = newest_owner(&paths, &identity).await?;
        Ok(Root { paths, limits, identity, owner, salvaging: false, _lock: lock })
    }

    /// Recovers also where a manifest, a table or an object with bodies is damaged or missing, so that accounts can be
    /// rebuilt. What that leaves in doubt is served to nobody.
    pub fn salvage(&mut self) {
        self.salvaging = true;
    }

    pub fn store_id(&self) -> [u8; 16] {
        self.identity.store
    }

    pub fn partition_count(&self) -> u16 {
        self.identity.partitions
    }

    /// The epoch of the newest owner: after [`Root::recover`], this process's own.
    pub fn epoch(&self) -> u32 {
        self.owner.epoch
    }

    /// Adds this process to the chain of owners. On a full disk reserves are given up for it: a server that cannot start
    /// cannot free space either.
    pub(crate) async fn claim(&mut self, owner: Owner) -> Result<(), OpenError> {
        let (path, octets) = (self.paths.owner(owner.epoch), owner.encode());
        let mut reserves = self.reserves().await?;
        let mut tried = false;
        loop {
            match disk::create_durable(&path, &octets).await {
                Ok(()) => break,
                Err(error) if no_space(&error) => {
                    let Some(reserve) = reserves.pop() else { return Err(OpenError::io(&path)(error)) };
                    tracing::error!(path = %reserve.display(), "no space left to start; a reserve is given up");
                    give_up(&reserve).await.map_err(OpenError::io(&reserve))?;
                    tried = true;
                }
                // The try that found no space may have got as far as the name.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tried => {
                    if read_small(&path).await?.as_deref() != Some(&octets) {
                        return Err(OpenError::io(&path)(error));
                    }
                    let dir = self.paths.owners();
                    disk::sync_dir(&dir).await.map_err(OpenError::io(&dir))?;
                    break;
                }
                Err(error) => return Err(OpenError::io(&path)(error)),
            }
        }
        self.owner = owner;
        Ok(())
    }

    /// The reserves there are, the one that is given up first last.
    async fn reserves(&self) -> Result<Vec<PathBuf>, OpenError> {
        let start = self.paths.start_reserve();
        let names = list(self.paths.root()).await?.into_iter().map(|entry| entry.name);
        let of_shards =
            names.filter(|name| name.starts_with("reserve-")).map(|name| self.paths.root().join(name));
        let mut reserves: Vec<PathBuf> = of_shards.collect();
        reserves.sort_by_key(|path| *path == start);
        Ok(reserves)
    }
}

/// Preallocates a reserve where it is missing or was not finished. False where there is no space for it.
pub(crate) async fn make_reserve(path: &Path, octets: u64) -> std::io::Result<bool> {
    match disk::file_len(path).await {
        Ok(len) if len >= octets => return Ok(true),
        Ok(_) => disk::remove(path).await?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let made = async {
        let file = File::create_new(path).await?;
        file.preallocate(octets).await?;
        file.sync_data().await?;
        file.close().await?;
        disk::sync_dir(path.parent().unwrap_or(path)).await
    };
    match made.await {
        Err(error) if no_space(&error) => match disk::remove(path).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(false),
        },
        other => other.map(|()| true),
    }
}

/// Removes a reserve. Its octets can be had when that is durable: some file systems keep them until then.
pub(crate) async fn give_up(reserve: &Path) -> std::io::Result<()> {
    match disk::remove(reserve).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => disk::sync_dir(reserve.parent().unwrap_or(reserve)).await,
    }
}

/// A nonce for an owner object.
pub(crate) fn nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    random::fill(&mut nonce);
    nonce
}

/// The octets of a small object, or `None` where it is missing.
pub(crate) async fn read_small(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    match disk::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

pub(crate) fn small_fault(path: &Path) -> impl Fn(SmallFault) -> OpenError {
    let path = path.to_owned();
    move |fault| match fault {
        SmallFault::Broken(what) => OpenError::corrupt(&path, 0, what),
        SmallFault::Version(found) => OpenError::Version { path: path.clone(), found, reads: VERSION },
    }
}

/// The names in a directory; none where it is missing.
pub(crate) async fn list(path: &Path) -> Result<Vec<disk::Entry>, OpenError> {
    match disk::list(path).await {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

async fn make_store(paths: &Paths, limits: &Limits) -> Result<StoreIdentity, OpenError> {
    for dir in [paths.owners(), paths.journals(), paths.lows(), paths.data()] {
        if let Some(entry) = list(&dir).await?.iter().find(|entry| !entry.name.starts_with(disk::TEMPORARY)) {
            let what = format!("is missing, but {}/{} is there", dir.display(), entry.name);
            return Err(OpenError::corrupt(&paths.store(), 0, what));
        }
        disk::create_dir_all(&dir).await.map_err(OpenError::io(&dir))?;
    }
    let owner_dir = paths.root().join("owner");
    // Directories above the root may be new too.
    let above = paths.root().ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
    for dir in [&*owner_dir, paths.root()].into_iter().chain(above) {
        match disk::sync_dir(dir).await {
            // Above the root one may be allowed to pass and not to read; such a directory is not new.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && dir != paths.root() => {}
            other => other.map_err(OpenError::io(dir))?,
        }
    }
    let identity =
        StoreIdentity { partitions: limits.partitions.max(1), store: nonce(), created: time::wall().0 };
    let path = paths.store();
    disk::create_durable(&path, &identity.encode()).await.map_err(OpenError::io(&path))?;
    Ok(identity)
}

async fn newest_owner(paths: &Paths, identity: &StoreIdentity) -> Result<Owner, OpenError> {
    let dir = paths.owners();
    let mut epochs: Vec<u32> = Vec::new();
    for entry in list(&dir).await? {
        match entry.name.parse::<u32>() {
            Ok(epoch) if epoch.to_string() == entry.name => epochs.push(epoch),
            _ if entry.name.starts_with(disk::TEMPORARY) => remove_leftover(dir.join(&entry.name)).await,
            _ => tracing::warn!(path = %dir.join(&entry.name).display(), "a strange file among the owners"),
        }
    }
    epochs.sort_unstable();
    let Some(newest) = epochs.last().copied() else {
        for dir in [paths.journals(), paths.data()] {
            if !list(&dir).await?.is_empty() {
                return Err(OpenError::corrupt(&paths.owner(0), 0, "the chain of owners is missing"));
            }
        }
        let owner = Owner {
            epoch: 0,
            shards: 0,
            store: identity.store,
            nonce: nonce(),
            created: time::wall().0,
            journals: Vec::new(),
        };
        let path = paths.owner(0);
        disk::create_durable(&path, &owner.encode()).await.map_err(OpenError::io(&path))?;
        return Ok(owner);
    };
    if let Some(gap) = (0..=newest).zip(&epochs).find(|(expected, epoch)| expected != *epoch) {
        return Err(OpenError::corrupt(&paths.owner(gap.0), 0, "a link of the chain of owners is missing"));
    }
    // A journal is made after its owner's link.
    for entry in list(&paths.journals()).await? {
        if let Some((epoch, _)) = parse_journal_name(&entry.name).filter(|(epoch, _)| *epoch > newest) {
            let what = format!("a link of the chain of owners is missing; journal/{} is there", entry.name);
            return Err(OpenError::corrupt(&paths.owner(epoch), 0, what));
        }
    }
    let path = paths.owner(newest);
    read_owner(&path, newest, identity).await
}

/// One link, checked.
pub(crate) async fn read_owner(
    path: &Path,
    epoch: u32,
    identity: &StoreIdentity,
) -> Result<Owner, OpenError> {
    let bytes = disk::read(path).await.map_err(OpenError::io(path))?;
    let owner = Owner::parse(&bytes).map_err(small_fault(path))?;
    if owner.epoch != epoch || owner.store != identity.store {
        return Err(OpenError::corrupt(path, 0, "the owner belongs to another store or stood elsewhere"));
    }
    Ok(owner)
}

/// Removes what an interrupted write left; it is in nobody's way, so a failure is only told.
pub(crate) async fn remove_leftover(path: PathBuf) {
    if let Err(error) = disk::remove(&path).await {
        tracing::warn!(path = %path.display(), %error, "cannot remove a leftover");
    }
}
