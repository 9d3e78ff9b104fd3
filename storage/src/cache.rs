//! The body cache: on a shared store, what was read and written of objects stays for a while in files of this machine.
//!
//! One for each shard, in a directory of its own. What it gives is always what the store has, for objects never change and
//! each entry is checked, with its key, whenever it is read. Whatever is wrong with a file, it is a miss.
//!
//! # Order
//! An entry is found from memory until it is written, and then from its file. Nothing is synced, ever.
//!
//! # Crash
//! What was torn is found when it is read, or when the next start looks through the files.
//!
//! # Limits
//! `cache_octets` by the number of shards, with all files; `cache_waiting_octets_max`. After an error of the disk nothing is
//! taken in for [`REST`]; a full disk gets a quarter of the cache back. [`READ_WITHIN`] for a read: the store is not slower.
//! [`WRITE_OCTETS`], [`WRITE_ENTRIES`], [`LOOK_OCTETS`] are done at once.

mod committed;
pub(crate) mod format;
mod policy;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use culver_shard::disk::{self, File};
use culver_shard::sync::Notify;
use culver_shard::{Queue, Task, spawn, time, yield_if_needed};

use self::format::{
    ENTRY_OCTETS, EntryHeader, HEADER_OCTETS, Row, entry_octets, parse_segment_header, parse_segment_name,
    put_entry, segment_header, segment_name,
};
pub(crate) use self::format::{Key, Part};
use self::policy::{Policy, SEGMENT_OCTETS_MAX, Slot};

/// For so long nothing is taken in after an error of the disk.
const REST: Duration = Duration::from_secs(60);
/// A read that takes longer is a miss.
const READ_WITHIN: Duration = Duration::from_millis(500);
/// Octets of entries that are written at once, at least one entry.
const WRITE_OCTETS: u64 = 1 << 20;
/// Entries that are written at once.
const WRITE_ENTRIES: usize = 1024;
/// Octets of a file that are looked through at once after a start.
const LOOK_OCTETS: usize = 64 << 10;

/// What the cache of one shard did since the start, and what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    pub hits: u64,
    pub hit_octets: u64,
    pub misses: u64,
    /// Entries taken in, and their octets.
    pub taken: u64,
    pub taken_octets: u64,
    /// Entries not taken in: too large, too many waiting, or the disk rests.
    pub skipped: u64,
    pub evicted: u64,
    /// Files dropped because something in them was wrong or they were gone.
    pub damaged: u64,
    /// Errors of the disk.
    pub errors: u64,
    pub entries: u64,
    /// Octets of all files.
    pub held_octets: u64,
    /// Octets taken in and not written yet.
    pub waiting_octets: u64,
    /// Files of an earlier start that are not looked through yet.
    pub unseen_files: u64,
    /// Nothing is taken in, after an error.
    pub resting: bool,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Somebody who may come again.
    Client,
    /// Flush and compaction: they take what is there, and what they read is about to be superseded.
    Copy,
}

/// See the module. Clones are the same cache.
#[derive(Clone)]
pub(crate) struct Cache(Rc<Inner>);

struct Inner {
    dir: PathBuf,
    /// Of this shard's directory's siblings, those that are not of this number of shards are removed by shard 0.
    parent: Option<PathBuf>,
    store: [u8; 16],
    waiting_octets_max: u64,
    policy: RefCell<Policy>,
    /// Open segments.
    files: RefCell<BTreeMap<u64, Rc<File>>>,
    waiting: RefCell<Waiting>,
    /// Octets that may be put in soon.
    promised: Cell<u64>,
    /// Segments of an earlier start, and how far each was looked through. `None`: they are not listed yet.
    unseen: RefCell<Option<VecDeque<(u64, u64)>>>,
    /// Segments that are given up, with files that are not removed yet.
    gone: RefCell<Vec<u64>>,
    resting: Cell<Option<time::Instant>>,
    /// Something for the task to do.
    wake: Notify,
    /// What waited is written, or given up.
    written: Notify,
    counts: RefCell<CacheStatus>,
}

struct Entry {
    key: Key,
    fingerprint: u64,
    content: Vec<u8>,
    uses: Cell<u8>,
}

/// See [`Cache::promise`].
pub(crate) struct Promised {
    cache: Cache,
    octets: u64,
}

impl Drop for Promised {
    fn drop(&mut self) {
        let promised = &self.cache.0.promised;
        promised.set(promised.get() - self.octets);
    }
}

/// What is taken in and not written yet.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<Rc<Entry>>,
    found: BTreeMap<u64, Rc<Entry>>,
    octets: u64,
}

impl Cache {
    /// The cache of this shard below `dir`, with a task that fills it.
    pub fn start(dir: &Path, store: [u8; 16], octets: u64, waiting_octets_max: u64) -> (Cache, Task<()>) {
        let (shard, shards) = (culver_shard::shard(), culver_shard::shards());
        let cache = Cache(Rc::new(Inner {
            dir: dir.join(format!("{shards}-{shard}")),
            parent: (shard == 0).then(|| dir.to_owned()),
            store,
            waiting_octets_max,
            policy: RefCell::new(Policy::new(octets / shards as u64)),
            files: RefCell::default(),
            waiting: RefCell::default(),
            promised: Cell::new(0),
            unseen: RefCell::default(),
            gone: RefCell::default(),
            resting: Cell::new(None),
            wake: Notify::new(),
            written: Notify::new(),
            counts: RefCell::default(),
        }));
        let task = spawn(Queue::Background, "body cache", cache.clone().run());
        (cache, task)
    }

    pub fn status(&self) -> CacheStatus {
        let policy = self.0.policy.borrow();
        // Before the listing nobody knows how many there are.
        let unseen_files = self.0.unseen.borrow().as_ref().map_or(1, |unseen| unseen.len() as u64);
        CacheStatus {
            waiting_octets: self.0.waiting.borrow().octets,
            unseen_files,
            entries: policy.entries() as u64,
            held_octets: policy.held(),
            resting: self.rests().is_some(),
            ..*self.0.counts.borrow()
        }
    }

    /// The octets of an entry, checked.
    pub async fn get(&self, key: &Key, reading: Reading) -> Option<Vec<u8>> {
        let found = self.find(key, reading).await;
        let mut counts = self.0.counts.borrow_mut();
        match &found {
            Some(octets) => {
                counts.hits += 1;
                counts.hit_octets += octets.len() as u64;
            }
            None => counts.misses += 1,
        }
        found
    }

    /// Whether there is such an entry, as far as is known without looking.
    pub fn has(&self, key: &Key) -> bool {
        let fingerprint = key.fingerprint();
        self.0.policy.borrow().slot(fingerprint).is_some()
            || self.0.waiting.borrow().found.contains_key(&fingerprint)
    }

    /// Whether somebody has read an entry that is there.
    pub fn was_used(&self, key: &Key) -> bool {
        self.0.policy.borrow().was_used(key.fingerprint())
    }

    /// Whether so many octets would be taken in now.
    pub fn takes(&self, octets: usize) -> bool {
        let octets = entry_octets(octets);
        let fits = octets + HEADER_OCTETS as u64 <= self.0.policy.borrow().segment_octets();
        let waiting = self.0.waiting.borrow().octets + self.0.promised.get();
        fits && self.rests().is_none() && waiting + octets <= self.0.waiting_octets_max
    }

    /// Room for octets that are going to be put in when they are committed, where there is some.
    pub fn promise(&self, octets: usize) -> Option<Promised> {
        let taken = self.takes(octets);
        if !taken {
            self.0.counts.borrow_mut().skipped += 1;
            return None;
        }
        self.0.promised.set(self.0.promised.get() + octets as u64);
        Some(Promised { cache: self.clone(), octets: octets as u64 })
    }

    /// Takes an entry of so many octets in, or not: nobody waits for it. `read`: somebody has just read it.
    pub fn put(&self, key: Key, octets: usize, read: bool, content: impl FnOnce() -> Vec<u8>) {
        if self.has(&key) {
            return;
        }
        if !self.takes(octets) {
            self.0.counts.borrow_mut().skipped += 1;
            return;
        }
        let content = content();
        let fingerprint = key.fingerprint();
        let mut waiting = self.0.waiting.borrow_mut();
        waiting.octets += entry_octets(content.len());
        let entry = Rc::new(Entry { key, fingerprint, content, uses: Cell::new(read.into()) });
        waiting.found.insert(fingerprint, entry.clone());
        waiting.queue.push_back(entry);
        drop(waiting);
        self.0.wake.notify_all();
    }

    /// Takes entries in, in their order, as fast as they are written; half of what may wait stays free for others. Ends
    /// when the disk rests.
    pub async fn feed(self, entries: impl Iterator<Item = (Key, Vec<u8>)>) {
        for (key, content) in entries {
            loop {
                let seen = self.0.written.version();
                let waiting = self.0.waiting.borrow().octets;
                if waiting == 0 || waiting + entry_octets(content.len()) <= self.0.waiting_octets_max / 2 {
                    break;
                }
                self.0.written.changed_since(seen).await;
            }
            if self.rests().is_some() {
                return;
            }
            self.put(key, content.len(), false, || content);
            yield_if_needed().await;
        }
    }

    /// An entry that turned out to be of no use.
    pub fn forget(&self, key: &Key) {
        self.0.policy.borrow_mut().forget(key.fingerprint());
    }

    async fn find(&self, key: &Key, reading: Reading) -> Option<Vec<u8>> {
        let fingerprint = key.fingerprint();
        if let Some(entry) = self.0.waiting.borrow().found.get(&fingerprint) {
            if reading == Reading::Client {
                // What came and was read in one moment was used once.
                entry.uses.set(entry.uses.get().max(1));
            }
            return (entry.key == *key).then(|| entry.content.clone());
        }
        let slot = match reading {
            Reading::Client => self.0.policy.borrow_mut().use_slot(fingerprint, second())?,
            Reading::Copy => self.0.policy.borrow().slot(fingerprint)?,
        };
        self.read(slot, Some(key)).await.map(|(_, content)| content)
    }

    /// An entry's key and content, checked. With `wanted`, only where it is of that key.
    async fn read(&self, slot: Slot, wanted: Option<&Key>) -> Option<(Key, Vec<u8>)> {
        let number = slot.segment;
        let octets = ENTRY_OCTETS + slot.octets as usize;
        let read = time::deadline(READ_WITHIN, async {
            self.file(number).await?.read_at(slot.offset.into(), octets).await
        });
        let mut bytes = match read.await.map_err(io::Error::from).and_then(|read| read) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.unreadable(number, &error);
                return None;
            }
        };
        let header = EntryHeader::parse(&bytes);
        let Some(header) = header.filter(|header| header.holds(&self.0.store, &bytes[ENTRY_OCTETS..])) else {
            self.damaged(number);
            return None;
        };
        if wanted.is_some_and(|wanted| *wanted != header.key) {
            self.0.policy.borrow_mut().forget(wanted?.fingerprint());
            return None;
        }
        bytes.drain(..ENTRY_OCTETS);
        Some((header.key, bytes))
    }

    async fn file(&self, number: u64) -> io::Result<Rc<File>> {
        if let Some(file) = self.0.files.borrow().get(&number) {
            return Ok(file.clone());
        }
        let file = Rc::new(File::open(self.0.dir.join(segment_name(number))).await?);
        if self.0.policy.borrow().segment(number).is_some() {
            self.0.files.borrow_mut().insert(number, file.clone());
        }
        Ok(file)
    }

    /// A file cannot be read: one that is gone is no fault of the disk.
    fn unreadable(&self, number: u64, error: &io::Error) {
        // Evicted while it was about to be opened.
        if self.0.policy.borrow().segment(number).is_none() {
            return;
        }
        match error.kind() {
            io::ErrorKind::NotFound => self.damaged(number),
            _ => {
                self.give_up(number);
                self.failed(error);
            }
        }
    }

    /// Something in a segment is not what was written: nothing of it is believed any more.
    fn damaged(&self, number: u64) {
        if self.0.policy.borrow().segment(number).is_some() {
            tracing::warn!(dir = %self.0.dir.display(), number, "a file of the body cache is damaged or gone; it is dropped");
            self.0.counts.borrow_mut().damaged += 1;
            self.give_up(number);
        }
    }

    fn give_up(&self, number: u64) {
        self.0.policy.borrow_mut().remove(number);
        self.0.files.borrow_mut().remove(&number);
        self.0.gone.borrow_mut().push(number);
        self.0.wake.notify_all();
    }

    fn failed(&self, error: &io::Error) {
        if self.rests().is_none() {
            tracing::warn!(dir = %self.0.dir.display(), %error, "the body cache takes nothing for a minute; mend its disk or make room");
        }
        self.0.counts.borrow_mut().errors += 1;
        self.0.resting.set(Some(time::now() + REST));
        let mut waiting = self.0.waiting.borrow_mut();
        self.0.counts.borrow_mut().skipped += waiting.found.len() as u64;
        *waiting = Waiting::default();
        drop(waiting);
        self.0.written.notify_all();
        if error.kind() == io::ErrorKind::StorageFull {
            // Others need the disk more.
            let gone = {
                let policy = self.0.policy.borrow();
                policy.beyond(policy.held() / 4 * 3)
            };
            gone.into_iter().for_each(|number| self.give_up(number));
        }
        self.0.wake.notify_all();
    }

    fn rests(&self) -> Option<time::Instant> {
        self.0.resting.get().filter(|until| time::now() < *until)
    }

    /// Fills, evicts and looks through what an earlier start left.
    async fn run(self) {
        loop {
            let seen = self.0.wake.version();
            self.remove_gone().await;
            if let Some(until) = self.rests() {
                // What is read meanwhile may turn out to be damaged.
                let woken = self.0.wake.changed_since(seen);
                let _ = time::deadline(until - time::now(), woken).await;
                continue;
            }
            match self.work().await {
                Ok(true) => yield_if_needed().await,
                Ok(false) => self.0.wake.changed_since(seen).await,
                Err(error) => self.failed(&error),
            }
        }
    }

    /// A bounded piece of work; false where there is none.
    async fn work(&self) -> io::Result<bool> {
        if self.0.unseen.borrow().is_none() {
            self.look_around().await?;
            return Ok(true);
        }
        if self.write_waiting().await? {
            return Ok(true);
        }
        Ok(self.look_through().await)
    }

    async fn remove_gone(&self) {
        let gone = std::mem::take(&mut *self.0.gone.borrow_mut());
        for number in gone {
            self.remove_file(number).await;
        }
    }

    async fn remove_file(&self, number: u64) {
        let path = self.0.dir.join(segment_name(number));
        if let Err(error) = disk::remove(&path).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a file of the body cache stays until the next start");
        }
    }

    /// Lists what an earlier start left, removes what is not ours, and what is too much.
    async fn look_around(&self) -> io::Result<()> {
        disk::create_dir_all(&self.0.dir).await?;
        if let Some(parent) = &self.0.parent
            && let Err(error) = remove_other_shards(parent).await
        {
            tracing::warn!(dir = %parent.display(), %error, "body caches of another number of shards stay until the next start");
        }
        let mut unseen = VecDeque::new();
        for entry in disk::list(&self.0.dir).await? {
            match parse_segment_name(&entry.name).filter(|_| !entry.is_dir) {
                Some(number) if entry.len <= SEGMENT_OCTETS_MAX => {
                    self.0.policy.borrow_mut().adopt(number, entry.len);
                    unseen.push_back((number, 0));
                }
                // Of ours and too long, or somebody else's.
                Some(number) => self.0.gone.borrow_mut().push(number),
                None => {}
            }
        }
        let too_much = {
            let policy = self.0.policy.borrow();
            policy.beyond(policy.budget().saturating_sub(policy.segment_octets()))
        };
        for number in too_much {
            self.give_up(number);
        }
        self.remove_gone().await;
        // Newest first: what came last is asked for first.
        unseen.make_contiguous().sort_unstable_by(|a, b| b.cmp(a));
        *self.0.unseen.borrow_mut() = Some(unseen);
        Ok(())
    }

    /// Looks through a piece of a segment that an earlier start left; false where none is left.
    async fn look_through(&self) -> bool {
        let next = self.0.unseen.borrow().as_ref().and_then(|unseen| unseen.front().copied());
        let Some((number, at)) = next else { return false };
        let rest = self.look_at(number, at).await;
        if let Some(unseen) = self.0.unseen.borrow_mut().as_mut() {
            unseen.pop_front();
            rest.into_iter().for_each(|at| unseen.push_front((number, at)));
        }
        true
    }

    /// Where the rest of the segment begins, where there is some.
    async fn look_at(&self, number: u64, at: u64) -> Option<u64> {
        let end = self.0.policy.borrow().segment(number)?;
        let read = match self.file(number).await {
            Ok(file) => file.read_at(at, LOOK_OCTETS).await,
            Err(error) => Err(error),
        };
        let piece = match read {
            Ok(piece) => piece,
            Err(error) => {
                self.unreadable(number, &error);
                return None;
            }
        };
        let mut pos = 0;
        if at == 0 {
            match parse_segment_header(&piece, &self.0.store, number) {
                Some(row) => self.0.policy.borrow_mut().set_row(number, row),
                None => {
                    self.damaged(number);
                    return None;
                }
            }
            pos = HEADER_OCTETS as u64;
        }
        // What stands behind something torn is not found; it goes when its segment's turn comes.
        while let Some(header) = piece.get(pos as usize..).and_then(EntryHeader::parse) {
            let (offset, octets) = (at + pos, header.octets());
            if offset + ENTRY_OCTETS as u64 + u64::from(octets) > end {
                return None;
            }
            let fingerprint = header.key.fingerprint();
            self.0.policy.borrow_mut().put_found(fingerprint, number, offset as u32, octets);
            pos += entry_octets(octets as usize);
        }
        let header_is_beyond = pos as usize + ENTRY_OCTETS > piece.len();
        (pos > 0 && header_is_beyond && at + pos + (ENTRY_OCTETS as u64) <= end).then_some(at + pos)
    }

    async fn write_waiting(&self) -> io::Result<bool> {
        let mut rows: BTreeMap<Row, Vec<Rc<Entry>>> = BTreeMap::new();
        let mut octets = 0;
        {
            let (mut waiting, mut policy) = (self.0.waiting.borrow_mut(), self.0.policy.borrow_mut());
            while octets < WRITE_OCTETS.min(policy.segment_octets()) {
                let Some(entry) = waiting.queue.pop_front() else { break };
                octets += entry_octets(entry.content.len());
                let row = policy.row_for(entry.fingerprint);
                rows.entry(row).or_default().push(entry);
            }
        }
        let any = !rows.is_empty();
        for (row, entries) in rows {
            let octets: u64 = entries.iter().map(|entry| entry_octets(entry.content.len())).sum();
            self.make_room(octets + HEADER_OCTETS as u64).await?;
            self.write(row, &entries, true).await?;
            let mut waiting = self.0.waiting.borrow_mut();
            for entry in entries {
                if waiting.found.remove(&entry.fingerprint).is_some() {
                    waiting.octets -= entry_octets(entry.content.len());
                }
            }
        }
        self.0.written.notify_all();
        Ok(any)
    }

    /// Evicts until `octets` have room.
    async fn make_room(&self, octets: u64) -> io::Result<()> {
        loop {
            let victim = self.0.policy.borrow().victim(octets);
            let Some(number) = victim else { return Ok(()) };
            self.copy_survivors(number).await?;
            self.0.files.borrow_mut().remove(&number);
            let evicted = self.0.policy.borrow_mut().remove(number);
            self.0.counts.borrow_mut().evicted += evicted as u64;
            self.remove_file(number).await;
            yield_if_needed().await;
        }
    }

    async fn copy_survivors(&self, number: u64) -> io::Result<()> {
        let (survivors, most) = {
            let policy = self.0.policy.borrow();
            (policy.survivors(number), policy.segment_octets())
        };
        let (mut batch, mut octets) = (Vec::new(), 0);
        for (fingerprint, slot, uses) in survivors {
            // It may have been found damaged meanwhile, or be from a time when segments were larger.
            let there = self.0.policy.borrow().slot(fingerprint).is_some_and(|now| now.segment == number);
            if !there || HEADER_OCTETS as u64 + entry_octets(slot.octets as usize) > most {
                continue;
            }
            let Some((key, content)) = self.read(slot, None).await else { continue };
            octets += entry_octets(content.len());
            batch.push(Rc::new(Entry { key, fingerprint, content, uses: Cell::new(uses) }));
            if octets >= WRITE_OCTETS {
                self.write(Row::Main, &std::mem::take(&mut batch), false).await?;
                octets = 0;
            }
        }
        self.write(Row::Main, &batch, false).await
    }

    /// Writes entries into the segments of a queue. There is room.
    async fn write(&self, row: Row, entries: &[Rc<Entry>], new: bool) -> io::Result<()> {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let (number, at, file) = self.segment_for(row, entry_octets(first.content.len())).await?;
            let segment_octets = self.0.policy.borrow().segment_octets();
            let mut out = Vec::new();
            if at == 0 {
                out.extend_from_slice(&segment_header(&self.0.store, number, row));
            }
            let mut laid = Vec::new();
            while let Some((entry, after)) = rest.split_first() {
                let offset = at + out.len() as u64;
                let fits = offset + entry_octets(entry.content.len()) <= segment_octets;
                if !fits || out.len() as u64 >= WRITE_OCTETS || laid.len() >= WRITE_ENTRIES {
                    break;
                }
                put_entry(&self.0.store, &entry.key, &entry.content, &mut out);
                laid.push((entry.clone(), offset as u32));
                rest = after;
            }
            let octets = out.len() as u64;
            let written = file.write_at(at, out).await;
            self.wrote(row, number, octets, &laid, written, new)?;
            yield_if_needed().await;
        }
        Ok(())
    }

    /// Entries stand in their segment now, or some of their octets do.
    fn wrote(
        &self,
        row: Row,
        number: u64,
        octets: u64,
        laid: &[(Rc<Entry>, u32)],
        written: io::Result<()>,
        new: bool,
    ) -> io::Result<()> {
        let mut policy = self.0.policy.borrow_mut();
        policy.lengthen(number, octets);
        if written.is_err() {
            policy.end(row);
            return written;
        }
        let mut counts = self.0.counts.borrow_mut();
        for (entry, offset) in laid {
            let octets = entry.content.len() as u32;
            policy.put(entry.fingerprint, number, *offset, octets, entry.uses.get(), second());
            counts.taken += u64::from(new);
            counts.taken_octets += if new { octets.into() } else { 0 };
        }
        Ok(())
    }

    /// The segment to write an entry to, where it ends, and its file.
    async fn segment_for(&self, row: Row, octets: u64) -> io::Result<(u64, u64, Rc<File>)> {
        let active = self.0.policy.borrow_mut().active(row, octets);
        if let Some((number, at)) = active
            && let Some(file) = self.0.files.borrow().get(&number)
        {
            return Ok((number, at, file.clone()));
        }
        let number = self.0.policy.borrow_mut().begin(row);
        match self.create(&self.0.dir.join(segment_name(number))).await {
            Ok(file) => {
                let file = Rc::new(file);
                self.0.files.borrow_mut().insert(number, file.clone());
                Ok((number, 0, file))
            }
            Err(error) => {
                self.0.policy.borrow_mut().remove(number);
                Err(error)
            }
        }
    }

    async fn create(&self, path: &Path) -> io::Result<File> {
        let first = File::create_new(path).await;
        match first.as_ref().map_err(io::Error::kind) {
            // Somebody has tidied up.
            Err(io::ErrorKind::NotFound) => disk::create_dir_all(&self.0.dir).await?,
            // Nobody of ours made it.
            Err(io::ErrorKind::AlreadyExists) => disk::remove(path).await?,
            _ => return first,
        }
        File::create_new(path).await
    }
}

/// Seconds of the shard's clock.
fn second() -> u32 {
    (time::now().as_nanos() / 1_000_000_000) as u32
}

/// Removes caches of another number of shards: their partitions are elsewhere now.
async fn remove_other_shards(parent: &Path) -> io::Result<()> {
    let shards = culver_shard::shards();
    for entry in disk::list(parent).await? {
        // What is not a cache of ours is somebody else's.
        let numbers = entry
            .name
            .split_once('-')
            .and_then(|(of, shard)| Some((of.parse::<usize>().ok()?, shard.parse::<usize>().ok()?)));
        if !numbers.is_some_and(|(of, shard)| of != shards && shard < of) || !entry.is_dir {
            continue;
        }
        let dir = parent.join(&entry.name);
        let mut foreign = false;
        for file in disk::list(&dir).await? {
            match parse_segment_name(&file.name).filter(|_| !file.is_dir) {
                Some(_) => disk::remove(dir.join(&file.name)).await?,
                None => foreign = true,
            }
            yield_if_needed().await;
        }
        if !foreign {
            disk::remove_dir(&dir).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
