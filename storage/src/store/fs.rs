//! A directory that several machines mount, as a store: files made once, with `link()` for create-if-absent.
//!
//! # Invariants
//! A name appears with its whole content or not at all: what is written goes under a temporary name, is synced, and is
//! linked to its own. `link()` refuses a name that is taken, on NFS as on a local disk; where NFS lost the answer to one that
//! succeeded, the next try finds the name taken by its own octets, and says [`Failure::Exists`] as any store does.
//!
//! # Limits
//! A client of NFS that remembers which names are missing does not see new ones in time: mounts without
//! `lookupcache=none` or `lookupcache=positive` are refused ([`check_mount`]).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use culver_shard::disk::{self, File};
use culver_shard::random;

use super::op::{Abilities, Failure, Listed, Op, Outcome};
use culver_shard::http::Octets;

/// Octets of one write.
const WRITE_OCTETS: usize = 1 << 20;
/// Octets of an object that is asked for without a range.
const WHOLE_OCTETS_MAX: u64 = 64 << 20;

pub struct Driver {
    root: PathBuf,
}

impl Driver {
    pub fn new(root: PathBuf) -> Driver {
        Driver { root }
    }

    pub fn abilities(&self) -> Abilities {
        Abilities { list: true, parts_from: None, delete_keys_max: 1000 }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub async fn perform(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        match op {
            Op::Put { key, octets, create } => {
                let made = self.put(key, octets, *create).await;
                made.map(|()| Outcome::Done).map_err(|error| self.failure(key, &error))
            }
            Op::Get { key, range } => {
                let read = self.get(key, range.clone()).await;
                read.map(Outcome::Octets).map_err(|error| self.failure(key, &error))
            }
            Op::Head { key } => {
                let length = disk::file_len(self.path(key)).await;
                length.map(Outcome::Length).map_err(|error| self.failure(key, &error))
            }
            Op::Delete { keys } => {
                let mut failed = Vec::new();
                for key in *keys {
                    match disk::remove(self.path(key)).await {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            failed.push((key.clone(), error.to_string()));
                        }
                        _ => {}
                    }
                }
                Ok(Outcome::Deleted { failed })
            }
            Op::List { prefix, after, keys_max } => {
                let listed = self.list(prefix, after, *keys_max).await;
                listed.map(Outcome::Listed).map_err(|error| self.failure(prefix, &error))
            }
            Op::Begin { .. } | Op::Part { .. } | Op::Complete { .. } | Op::Abort { .. } => {
                Err(Failure::refused("a file is not written in parts", "report this"))
            }
        }
    }

    async fn put(&self, key: &str, octets: &Octets, create: bool) -> std::io::Result<()> {
        let path = self.path(key);
        let dir = path.parent().unwrap_or(&self.root).to_owned();
        let temporary = dir.join(format!("{}{:016x}", disk::TEMPORARY, random::u64()));
        let file = match File::create_new(&temporary).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_dir(&dir).await?;
                File::create_new(&temporary).await?
            }
            other => other?,
        };
        let written = self.write(&file, octets).await;
        let closed = file.close().await;
        let named = match written.and(closed) {
            Err(error) => Err(error),
            Ok(()) if create => disk::link(&temporary, &path).await,
            Ok(()) => disk::rename(&temporary, &path).await,
        };
        // After an error the name may be there all the same; who asks again finds out.
        let synced = match &named {
            Ok(()) => disk::sync_dir(&dir).await,
            Err(_) => Ok(()),
        };
        if create || named.is_err() {
            match disk::remove(&temporary).await {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(path = %temporary.display(), %error, "a temporary file stays");
                }
                _ => {}
            }
        }
        named.and(synced)
    }

    async fn write(&self, file: &File, octets: &Octets) -> std::io::Result<()> {
        let mut at = 0;
        match octets {
            Octets::Pieces(pieces) => {
                for piece in pieces.iter().flat_map(|piece| piece.chunks(WRITE_OCTETS)) {
                    file.write_at(at, piece).await?;
                    at += piece.len() as u64;
                }
            }
            Octets::File { file: from, offset, octets } => {
                while at < *octets {
                    let wanted = (WRITE_OCTETS as u64).min(octets - at) as usize;
                    let piece = from.read_at(offset + at, wanted).await?;
                    if piece.is_empty() {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    at += piece.len() as u64;
                    file.write_at(at - piece.len() as u64, piece).await?;
                }
            }
        }
        file.sync_data().await
    }

    /// Makes a directory and those above it durable.
    async fn make_dir(&self, dir: &Path) -> std::io::Result<()> {
        disk::create_dir_all(dir).await?;
        let mut above = dir.parent();
        while let Some(one) = above.filter(|one| one.starts_with(&self.root)) {
            disk::sync_dir(one).await?;
            above = one.parent();
        }
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> std::io::Result<Vec<u8>> {
        let file = File::open(self.path(key)).await?;
        let range = match range {
            Some(range) => range,
            None => 0..file.len().await?.min(WHOLE_OCTETS_MAX),
        };
        let read = match range.is_empty() {
            true => Ok(Vec::new()),
            false => file.read_at(range.start, (range.end - range.start) as usize).await,
        };
        file.close().await?;
        read
    }

    /// All files below the directory that the prefix names, as an object store would list them.
    async fn list(&self, prefix: &str, after: &str, keys_max: usize) -> std::io::Result<Listed> {
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let mut dirs = vec![dir.to_owned()];
        let mut objects = Vec::new();
        while let Some(dir) = dirs.pop() {
            let entries = match disk::list(self.path(&dir)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                let key = if dir.is_empty() { entry.name.clone() } else { format!("{dir}/{}", entry.name) };
                if entry.is_dir {
                    dirs.push(key);
                } else if key.starts_with(prefix) && !entry.name.starts_with(disk::TEMPORARY) {
                    objects.push((key, entry.len));
                }
            }
        }
        objects.sort_unstable();
        objects.retain(|(key, _)| key.as_str() > after);
        let more = objects.len() > keys_max;
        objects.truncate(keys_max);
        Ok(Listed { objects, more })
    }

    fn failure(&self, key: &str, error: &std::io::Error) -> Failure {
        let what = format!("{}: {error}", self.path(key).display());
        match error.kind() {
            ErrorKind::NotFound => Failure::NotFound,
            ErrorKind::AlreadyExists => Failure::Exists,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Failure::refused(what, "give this process's user the right to write there")
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Failure::refused(what, "the store is full: make room there")
            }
            _ => Failure::passing(what),
        }
    }
}

/// Whether a directory may be a shared store: on NFS, only where names that are missing are looked up each time.
pub async fn check_mount(root: &Path) -> Result<(), String> {
    let mounts = disk::read("/proc/self/mounts").await.unwrap_or_default();
    let root = root.to_owned();
    let whole = culver_shard::annex::run(move || std::fs::canonicalize(&root).unwrap_or(root)).await;
    let Ok(root) = whole else { return Ok(()) };
    unfit_mount(&String::from_utf8_lossy(&mounts), &root).map_or(Ok(()), Err)
}

/// What is wrong with the mount that holds `root`, as `/proc/self/mounts` tells it.
fn unfit_mount(mounts: &str, root: &Path) -> Option<String> {
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        // Blanks and the like are octal there.
        let dir = fields.next()?.replace("\\040", " ").replace("\\011", "\t");
        Some((PathBuf::from(dir), fields.next()?, fields.next()?))
    });
    let (dir, kind, options) =
        fields.filter(|(dir, ..)| root.starts_with(dir)).max_by_key(|(dir, ..)| dir.components().count())?;
    let fresh = ["lookupcache=none", "lookupcache=positive", "lookupcache=pos", "noac"];
    let remembers = !options.split(',').any(|option| fresh.contains(&option));
    (kind.starts_with("nfs") && remembers).then(|| {
        format!(
            "{} is mounted from NFS so that names which were missing are remembered as missing: mount it with \
             -o lookupcache=positive",
            dir.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_remembers_missing_names_is_refused() {
        let mounts = "/dev/vda / ext4 rw,relatime 0 0\n\
                      nas:/mail /mnt/mail nfs4 rw,vers=4.2,local_lock=none 0 0\n\
                      nas:/good /mnt/mail/good nfs4 rw,lookupcache=pos,vers=4.2 0 0\n\
                      nas:/b /mnt/a\\040b nfs rw,noac 0 0\n";
        assert!(unfit_mount(mounts, Path::new("/mnt/mail/x")).unwrap().contains("lookupcache=positive"));
        for fit in ["/mnt/mail/good/x", "/mnt/a b", "/var", "/mnt/mailing"] {
            assert_eq!(unfit_mount(mounts, Path::new(fit)), None, "{fit}");
        }
    }
}
