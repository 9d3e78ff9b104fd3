//! The simulated disk: what a reader sees, and what would be there after a loss of power.
//!
//! # Crash
//! A file keeps its synced content and, of each later write, all, nothing, the first of its 512-octet sectors,
//! or some of them in no order. A directory keeps its synced names and, of each later create, link, rename and remove, the
//! whole of it or nothing, in no order. Syncing a file does not make its name durable. A failed sync forgets
//! what it should have written, as Linux does: the next one succeeds without it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::{Seat, Sleep};
use crate::disk::{Entry as Listed, LockError, Mode, Space};
use crate::time;

const SECTOR: u64 = 512;

/// Room without which no file can be made.
pub const NAME_OCTETS: u64 = 4096;

/// What goes wrong on a disk. Chances are in a thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A sync fails with EIO, and loses what it should have kept.
    pub sync_eio: u64,
    pub read_eio: u64,
    /// A write that lengthens a file, and the making of a file, fail with ENOSPC.
    pub full: bool,
    /// Octets that all files may be long together, what was preallocated included; 0 means no bound. The making of a
    /// file needs [`NAME_OCTETS`] of room, which it gives back.
    pub capacity_octets: u64,
    /// Added to the delay of every operation.
    pub slow: Duration,
}

pub(crate) struct Disk {
    root: RefCell<Rc<Dir>>,
    next: Cell<u64>,
    used: Rc<Cell<u64>>,
    syncs: Cell<u64>,
    pub faults: RefCell<Faults>,
}

#[derive(Clone)]
enum Node {
    File(Rc<Inode>),
    Dir(Rc<Dir>),
}

impl Node {
    fn dir(&self) -> Option<Rc<Dir>> {
        match self {
            Node::Dir(dir) => Some(dir.clone()),
            Node::File(_) => None,
        }
    }

    fn is(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::File(a), Node::File(b)) => Rc::ptr_eq(a, b),
            (Node::Dir(a), Node::Dir(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

type Names = BTreeMap<String, Node>;

#[derive(Default)]
struct Dir {
    names: RefCell<Names>,
    durable: RefCell<Names>,
    /// Changes to the names since the last sync, oldest first.
    pending: RefCell<Vec<Rc<Change>>>,
}

/// One operation on names. A rename between directories stands in both, and happens in both or in neither.
struct Change {
    number: u64,
    /// Set when a sync or a crash has decided.
    kept: Cell<bool>,
    puts: Vec<(Rc<Dir>, String, Option<Node>)>,
}

impl Change {
    fn keep(&self) {
        if !self.kept.replace(true) {
            for (dir, name, node) in &self.puts {
                let mut durable = dir.durable.borrow_mut();
                match node {
                    Some(node) => durable.insert(name.clone(), node.clone()),
                    None => durable.remove(name),
                };
            }
        }
    }
}

struct Inode {
    state: RefCell<Content>,
    locked: Cell<bool>,
    used: Rc<Cell<u64>>,
}

#[derive(Default)]
struct Content {
    /// What a reader sees; beyond its end, up to `len`, there are zeros.
    now: Vec<u8>,
    len: u64,
    durable: Vec<u8>,
    durable_len: u64,
    pending: Vec<(u64, Write)>,
}

enum Write {
    Octets(u64, Vec<u8>),
    Len(u64),
}

impl Inode {
    fn lose(&self, mood: Mood, random: &mut dyn FnMut() -> u64) {
        let mut state = self.state.borrow_mut();
        let before = state.len;
        state.lose(mood, random);
        self.used.set((self.used.get() + state.len).saturating_sub(before));
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let held = self.state.get_mut().len;
        self.used.set(self.used.get().saturating_sub(held));
    }
}

fn put(to: &mut Vec<u8>, len: &mut u64, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset as usize..end].copy_from_slice(bytes);
    *len = (*len).max(end as u64);
}

fn cut(to: &mut Vec<u8>, len: &mut u64, new: u64) {
    *len = new;
    if to.len() as u64 > new {
        to.truncate(new as usize);
    }
}

impl Content {
    fn keep(&mut self, write: &Write) {
        match write {
            Write::Octets(offset, bytes) => put(&mut self.durable, &mut self.durable_len, *offset, bytes),
            Write::Len(len) => cut(&mut self.durable, &mut self.durable_len, *len),
        }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = (offset.saturating_add(len as u64)).min(self.len);
        if offset >= end {
            return Vec::new();
        }
        let (from, held) = ((offset as usize).min(self.now.len()), (end as usize).min(self.now.len()));
        let mut bytes = self.now[from..held].to_vec();
        bytes.resize((end - offset) as usize, 0);
        bytes
    }

    /// What a loss of power leaves.
    fn lose(&mut self, mood: Mood, random: &mut dyn FnMut() -> u64) {
        for (_, write) in std::mem::take(&mut self.pending) {
            let fate = random();
            match (mood, fate & 3) {
                (Mood::Keep, _) | (Mood::Mix, 0 | 1) => self.keep(&write),
                (Mood::Lose, _) | (Mood::Mix, 2) => {}
                (Mood::Mix, _) => match &write {
                    Write::Octets(offset, bytes) => self.tear(*offset, bytes, random),
                    Write::Len(_) => {}
                },
            }
        }
        self.now = self.durable.clone();
        self.len = self.durable_len;
    }

    /// Half of the torn writes end somewhere, the others have holes anywhere.
    fn tear(&mut self, offset: u64, bytes: &[u8], random: &mut dyn FnMut() -> u64) {
        let sectors = (offset % SECTOR + bytes.len() as u64).div_ceil(SECTOR);
        let fate = random();
        let end = (fate & 1 == 0).then_some((fate >> 1) % sectors);
        let mut at = 0;
        for sector in 0..sectors {
            let sector_end = ((offset + at as u64) / SECTOR + 1) * SECTOR;
            let next = ((sector_end - offset) as usize).min(bytes.len());
            if end.map_or_else(|| random() & 1 == 0, |end| sector < end) {
                put(&mut self.durable, &mut self.durable_len, offset + at as u64, &bytes[at..next]);
            }
            at = next;
        }
    }
}

#[derive(Clone, Copy)]
enum Mood {
    Keep,
    Lose,
    Mix,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            root: RefCell::default(),
            next: Cell::new(1),
            used: Rc::default(),
            syncs: Cell::new(0),
            faults: RefCell::default(),
        }
    }

    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    /// Loss of power: decides which changes of names happened, then what each file holds.
    pub fn lose_power(&self, random: &mut dyn FnMut() -> u64) {
        let mood = match random() % 8 {
            0 => Mood::Keep,
            1 => Mood::Lose,
            _ => Mood::Mix,
        };
        let mut changes = BTreeMap::new();
        self.walk(true, &mut |dir| {
            changes.extend(dir.pending.borrow_mut().drain(..).map(|change| (change.number, change)));
        });
        for change in changes.values() {
            let fate = random() & 1 == 0;
            if matches!(mood, Mood::Keep) || matches!(mood, Mood::Mix) && fate {
                change.keep();
            }
        }
        let mut settled = BTreeSet::new();
        self.walk(false, &mut |dir| {
            for node in dir.durable.borrow().values() {
                let Node::File(inode) = node else { continue };
                if settled.insert(Rc::as_ptr(inode).addr()) {
                    inode.lose(mood, random);
                }
            }
            *dir.names.borrow_mut() = dir.durable.borrow().clone();
        });
    }

    /// Octets of all files, what was preallocated included.
    pub fn used_octets(&self) -> u64 {
        self.used.get()
    }

    /// The end of every process: nothing is lost, locks are free.
    pub fn release_locks(&self) {
        self.walk(true, &mut |dir| {
            for node in dir.names.borrow().values() {
                if let Node::File(inode) = node {
                    inode.locked.set(false);
                }
            }
        });
    }

    /// Unsynced changes point back at their directories.
    pub fn forget(&self) {
        self.walk(true, &mut |dir| dir.pending.borrow_mut().clear());
    }

    /// Visits every directory: those a reader sees too, or the durable ones alone.
    fn walk(&self, seen_too: bool, visit: &mut dyn FnMut(&Rc<Dir>)) {
        let (mut met, mut next) = (BTreeSet::new(), vec![self.root.borrow().clone()]);
        while let Some(dir) = next.pop() {
            if !met.insert(Rc::as_ptr(&dir).addr()) {
                continue;
            }
            let below = |names: &Names| names.values().filter_map(Node::dir).collect::<Vec<_>>();
            next.extend(below(&dir.durable.borrow()));
            if seen_too {
                next.extend(below(&dir.names.borrow()));
            }
            visit(&dir);
        }
    }

    /// The paths of all files and what a reader sees.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Rc<Dir>, at: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
            for (name, node) in dir.names.borrow().iter() {
                let path = at.join(name);
                match node {
                    Node::File(inode) => {
                        let state = inode.state.borrow();
                        out.push((path, state.read(0, state.len as usize)));
                    }
                    Node::Dir(dir) => walk(dir, &path, out),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.root.borrow(), Path::new("/"), &mut out);
        out
    }

    fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Dir(self.root.borrow().clone());
        for name in names(path)? {
            let Node::Dir(dir) = &node else { return Err(io::ErrorKind::NotADirectory.into()) };
            let next = dir.names.borrow().get(name).cloned();
            node = next.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    fn find_file(&self, path: &Path) -> io::Result<Rc<Inode>> {
        match self.find(path)? {
            Node::File(inode) => Ok(inode),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn find_dir(&self, path: &Path) -> io::Result<Rc<Dir>> {
        match self.find(path)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn parent(&self, path: &Path) -> io::Result<(Rc<Dir>, String)> {
        let name = *names(path)?.last().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find_dir(dir)?, name.to_owned()))
    }

    fn change(&self, puts: Vec<(Rc<Dir>, String, Option<Node>)>) {
        for (dir, name, node) in &puts {
            let mut names = dir.names.borrow_mut();
            match node {
                Some(node) => names.insert(name.clone(), node.clone()),
                None => names.remove(name),
            };
        }
        let change = Rc::new(Change { number: self.number(), kept: Cell::new(false), puts });
        for (at, (dir, ..)) in change.puts.iter().enumerate() {
            if !change.puts[..at].iter().any(|(d, ..)| Rc::ptr_eq(d, dir)) {
                dir.pending.borrow_mut().push(change.clone());
            }
        }
    }

    fn room(&self, more: u64) -> io::Result<()> {
        let faults = self.faults.borrow();
        let over = faults.capacity_octets > 0 && self.used.get() + more > faults.capacity_octets;
        if faults.full || over { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }
}

fn names(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}

/// An open file of one life of a node.
pub(crate) struct File {
    inode: Rc<Inode>,
    seat: Seat,
    writable: bool,
}

/// Takes a drawn time, and fails where the node has crashed since (destructors of a dying shard).
async fn pause(seat: &Seat, us: u64) -> io::Result<()> {
    let slow = seat.disk().faults.borrow().slow;
    let drawn = Duration::from_nanos(seat.world.below(us * 1000) + 1);
    Sleep::new(time::now() + drawn + slow).await;
    alive(seat)
}

fn alive(seat: &Seat) -> io::Result<()> {
    if seat.alive() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
}

fn chance(seat: &Seat, in_a_thousand: u64) -> io::Result<()> {
    match in_a_thousand > 0 && seat.world.below(1000) < in_a_thousand {
        true => Err(io::Error::from_raw_os_error(libc::EIO)),
        false => Ok(()),
    }
}

pub(crate) async fn open(seat: &Seat, path: &Path, mode: Mode) -> io::Result<File> {
    pause(seat, 40).await?;
    let disk = seat.disk();
    let inode = if mode == Mode::New {
        let (dir, name) = disk.parent(path)?;
        if dir.names.borrow().contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.room(NAME_OCTETS)?;
        let inode =
            Rc::new(Inode { state: RefCell::default(), locked: Cell::new(false), used: disk.used.clone() });
        disk.change(vec![(dir, name, Some(Node::File(inode.clone())))]);
        inode
    } else {
        disk.find_file(path)?
    };
    Ok(File { inode, seat: seat.clone(), writable: mode != Mode::Read })
}

impl File {
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        pause(&self.seat, 50).await?;
        let read_eio = self.seat.disk().faults.borrow().read_eio;
        chance(&self.seat, read_eio)?;
        Ok(self.inode.state.borrow().read(offset, len))
    }

    /// A large write is done in pieces, so that a crash finds it half done.
    pub async fn write_at(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let mut at = offset;
        for piece in bytes.chunks(64 << 10) {
            pause(&self.seat, 60).await?;
            self.append_inline(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    pub fn append_inline(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        alive(&self.seat)?;
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let disk = self.seat.disk();
        let mut state = self.inode.state.borrow_mut();
        let state = &mut *state;
        // Reserved space is there even on a full disk.
        let more = (offset + bytes.len() as u64).saturating_sub(state.len);
        if more > 0 {
            disk.room(more)?;
            disk.used.set(disk.used.get() + more);
        }
        put(&mut state.now, &mut state.len, offset, bytes);
        state.pending.push((disk.number(), Write::Octets(offset, bytes.to_vec())));
        Ok(())
    }

    pub async fn sync_data(&self) -> io::Result<()> {
        let disk = self.seat.disk();
        let before = disk.number();
        pause(&self.seat, 800).await?;
        disk.syncs.set(disk.syncs.get() + 1);
        let sync_eio = disk.faults.borrow().sync_eio;
        let failed = chance(&self.seat, sync_eio);
        let mut state = self.inode.state.borrow_mut();
        let split = state.pending.partition_point(|(number, _)| *number < before);
        let synced: Vec<_> = state.pending.drain(..split).collect();
        for (_, write) in synced {
            if failed.is_ok() || self.seat.world.random() & 1 == 0 {
                state.keep(&write);
            }
        }
        failed
    }

    pub async fn set_len(&self, len: u64, may_cut: bool) -> io::Result<()> {
        pause(&self.seat, 60).await?;
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let disk = self.seat.disk();
        let mut state = self.inode.state.borrow_mut();
        let state = &mut *state;
        if len == state.len || len < state.len && !may_cut {
            return Ok(());
        }
        if len > state.len {
            disk.room(len - state.len)?;
        }
        let before = state.len;
        cut(&mut state.now, &mut state.len, len);
        disk.used.set((disk.used.get() + len).saturating_sub(before));
        state.pending.push((disk.number(), Write::Len(len)));
        Ok(())
    }

    pub fn len(&self) -> io::Result<u64> {
        alive(&self.seat)?;
        Ok(self.inode.state.borrow().len)
    }
}

pub(crate) async fn create_dir_all(seat: &Seat, path: &Path) -> io::Result<()> {
    pause(seat, 40).await?;
    let disk = seat.disk();
    let mut dir = disk.root.borrow().clone();
    for name in names(path)? {
        let found = dir.names.borrow().get(name).cloned();
        dir = match found {
            Some(Node::Dir(next)) => next,
            Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                let next = Rc::new(Dir::default());
                disk.change(vec![(dir, name.to_owned(), Some(Node::Dir(next.clone())))]);
                next
            }
        };
    }
    Ok(())
}

pub(crate) async fn rename(seat: &Seat, from: &Path, to: &Path) -> io::Result<()> {
    pause(seat, 60).await?;
    let disk = seat.disk();
    let node = disk.find(from)?;
    let ((from_dir, from_name), (to_dir, to_name)) = (disk.parent(from)?, disk.parent(to)?);
    let there = to_dir.names.borrow().get(&to_name).cloned();
    match (&node, &there) {
        // POSIX: two names of one file, nothing happens.
        (_, Some(there)) if there.is(&node) => return Ok(()),
        (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
        (Node::Dir(_), Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
        (Node::Dir(_), Some(Node::Dir(d))) if !d.names.borrow().is_empty() => {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        _ => {}
    }
    disk.change(vec![(from_dir, from_name, None), (to_dir, to_name, Some(node))]);
    Ok(())
}

pub(crate) async fn link(seat: &Seat, from: &Path, to: &Path) -> io::Result<()> {
    pause(seat, 60).await?;
    let disk = seat.disk();
    let inode = disk.find_file(from)?;
    let (dir, name) = disk.parent(to)?;
    if dir.names.borrow().contains_key(&name) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    disk.change(vec![(dir, name, Some(Node::File(inode)))]);
    Ok(())
}

pub(crate) async fn remove(seat: &Seat, path: &Path, directory: bool) -> io::Result<()> {
    pause(seat, 40).await?;
    let disk = seat.disk();
    match (disk.find(path)?, directory) {
        (Node::Dir(_), false) => return Err(io::ErrorKind::IsADirectory.into()),
        (Node::File(_), true) => return Err(io::ErrorKind::NotADirectory.into()),
        (Node::Dir(d), true) if !d.names.borrow().is_empty() => {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        _ => {}
    }
    let (dir, name) = disk.parent(path)?;
    disk.change(vec![(dir, name, None)]);
    Ok(())
}

pub(crate) async fn list(seat: &Seat, path: &Path) -> io::Result<Vec<Listed>> {
    pause(seat, 60).await?;
    let dir = seat.disk().find_dir(path)?;
    let names = dir.names.borrow();
    let entry = |(name, node): (&String, &Node)| {
        let (is_dir, len) = match node {
            Node::Dir(_) => (true, 0),
            Node::File(inode) => (false, inode.state.borrow().len),
        };
        Listed { name: name.clone(), is_dir, len }
    };
    Ok(names.iter().map(entry).collect())
}

pub(crate) async fn sync_dir(seat: &Seat, path: &Path) -> io::Result<()> {
    let disk = seat.disk();
    let (dir, before) = (disk.find_dir(path)?, disk.number());
    pause(seat, 800).await?;
    let sync_eio = disk.faults.borrow().sync_eio;
    chance(seat, sync_eio)?;
    let mut pending = dir.pending.borrow_mut();
    let split = pending.partition_point(|change| change.number < before);
    let synced: Vec<_> = pending.drain(..split).collect();
    drop(pending);
    for change in synced {
        change.keep();
        for (other, ..) in &change.puts {
            if !Rc::ptr_eq(other, &dir) {
                other.pending.borrow_mut().retain(|c| !Rc::ptr_eq(c, &change));
            }
        }
    }
    Ok(())
}

pub(crate) async fn read(seat: &Seat, path: &Path) -> io::Result<Vec<u8>> {
    open(seat, path, Mode::Read).await?.read_at(0, usize::MAX).await
}

pub(crate) async fn exists(seat: &Seat, path: &Path) -> io::Result<bool> {
    pause(seat, 20).await?;
    match seat.disk().find(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

pub(crate) async fn file_len(seat: &Seat, path: &Path) -> io::Result<u64> {
    pause(seat, 20).await?;
    let inode = seat.disk().find_file(path)?;
    let len = inode.state.borrow().len;
    Ok(len)
}

pub(crate) async fn space(seat: &Seat, _path: &Path) -> io::Result<Space> {
    pause(seat, 20).await?;
    let disk = seat.disk();
    let faults = disk.faults.borrow();
    let total = if faults.capacity_octets > 0 { faults.capacity_octets } else { 1 << 40 };
    let free = if faults.full { 0 } else { total.saturating_sub(disk.used.get()) };
    Ok(Space { free_octets: free, total_octets: total, free_inodes: 1 << 20 })
}

/// Held until dropped or until the node's life ends.
pub(crate) struct Lock {
    inode: Rc<Inode>,
    seat: Seat,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.seat.alive() {
            self.inode.locked.set(false);
        }
    }
}

pub(crate) async fn lock(seat: &Seat, path: &Path) -> Result<Lock, LockError> {
    let io = |source| LockError::Io { path: path.to_owned(), source };
    let file = match open(seat, path, Mode::Write).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => open(seat, path, Mode::New).await.map_err(io)?,
        other => other.map_err(io)?,
    };
    if file.inode.locked.replace(true) {
        return Err(LockError::Held { path: path.to_owned(), pid: Some(seat.node.0 as u32) });
    }
    Ok(Lock { inode: file.inode.clone(), seat: seat.clone() })
}
