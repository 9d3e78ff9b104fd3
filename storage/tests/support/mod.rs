//! A small mail layer over storage, and an oracle outside of the nodes that knows what was told to clients.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use culver_model::{AccountId, Guid, PartitionId};
use culver_shard::sim::{Faults, NodeId, Sim, SimConfig};
use culver_shard::sync::{Notify, oneshot};
use culver_shard::{Queue, disk, random, spawn, stopping, time};
use culver_storage::{
    AccountBlocks, BlockKind, Body, CommitError, Committed, Haste, Inside, Limits, LocalFuture, OpenError,
    Place, Position, Root, Share, Source, SourceError, Storage,
};

pub const DIR: &str = "/store";
const KEY: Guid = Guid([1; 16]);

pub fn limits() -> Limits {
    Limits {
        partitions: 4,
        segment_octets: 64 << 10,
        batch_octets_max: 12 << 10,
        pending_octets_max: 48 << 10,
        pending_records_max: 20,
        inline_body_max: 2 << 10,
        body_memory_octets_max: 64 << 10,
        flush_octets: 96 << 10,
        unflushed_octets_max: 192 << 10,
        flush_age: Duration::from_secs(2),
        tables_max: 3,
        reserve_octets: 32 << 10,
        open_objects_max: 3,
        map_octets_min: 256,
        tick: Duration::from_millis(20),
        ..Limits::default()
    }
}

/// What became of an operation, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Unknown,
    Yes,
    No,
}

#[derive(Clone, Debug)]
pub struct Message {
    size: usize,
    append: Fate,
    delete: Option<Fate>,
}

/// What clients were told. Lives outside of the nodes.
#[derive(Default)]
pub struct Oracle {
    next: Cell<u64>,
    pub messages: RefCell<BTreeMap<AccountId, BTreeMap<u64, Message>>>,
    pub errors: RefCell<Vec<String>>,
    pub acked: Cell<u64>,
    pub verified: Cell<u64>,
    /// Of which all bodies were read.
    pub verified_partitions: RefCell<std::collections::BTreeSet<PartitionId>>,
    pub lost: Cell<u64>,
    pub flushes: Cell<u64>,
    pub compactions: Cell<u64>,
    pub starts: Cell<u64>,
    /// Starts that ended with an I/O error.
    pub failed_starts: RefCell<Vec<String>>,
}

impl Oracle {
    pub fn error(&self, text: String) {
        self.errors.borrow_mut().push(text);
    }

    fn note(&self, account: &AccountId, id: u64, change: impl FnOnce(&mut Message)) {
        if let Some(message) = self.messages.borrow_mut().get_mut(account).and_then(|all| all.get_mut(&id)) {
            change(message);
        }
    }
}

pub fn content(id: u64, size: usize) -> Vec<u8> {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Half of it compresses.
        let word = if out.len() / 512 % 2 == 0 { state } else { id };
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(size);
    out
}

#[derive(Default)]
struct State {
    position: Position,
    messages: BTreeMap<u64, Place>,
    /// Since the last committed flush.
    changes: Vec<(u64, Option<Place>)>,
    has_base: bool,
    in_flush: Option<(Position, usize, bool)>,
}

pub struct Mail {
    pub storage: Storage,
    oracle: Rc<Oracle>,
    accounts: RefCell<BTreeMap<AccountId, State>>,
    /// By partition: what was told last.
    last: RefCell<BTreeMap<PartitionId, Position>>,
}

enum Op {
    Append(u64),
    Delete(u64),
    Move(Vec<(Place, Place)>),
}

impl Op {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Op::Append(id) => {
                out.push(1);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Op::Delete(id) => {
                out.push(2);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Op::Move(moves) => {
                out.push(3);
                for (old, new) in moves {
                    out.extend_from_slice(&old.to_bytes());
                    out.extend_from_slice(&new.to_bytes());
                }
            }
        }
        out
    }

    fn decode(meta: &[u8]) -> Op {
        let id = || u64::from_le_bytes(meta[1..9].try_into().unwrap());
        let place = |bytes: &[u8]| Place::from_bytes(bytes.try_into().unwrap()).unwrap();
        match meta[0] {
            1 => Op::Append(id()),
            2 => Op::Delete(id()),
            _ => {
                Op::Move(meta[1..].chunks(64).map(|pair| (place(&pair[..32]), place(&pair[32..]))).collect())
            }
        }
    }
}

impl Mail {
    pub fn new(storage: Storage, oracle: Rc<Oracle>) -> Rc<Mail> {
        let mail = Rc::new(Mail {
            storage: storage.clone(),
            oracle,
            accounts: RefCell::default(),
            last: RefCell::default(),
        });
        storage.attach(mail.clone());
        mail
    }

    fn apply(
        &self,
        account: &AccountId,
        state: &mut State,
        position: Position,
        meta: &[u8],
        bodies: &[Place],
    ) {
        if position <= state.position {
            self.oracle.error(format!("{account}: {position} after {}", state.position));
        }
        state.position = position;
        match Op::decode(meta) {
            Op::Append(id) => {
                if state.messages.insert(id, bodies[0]).is_some() {
                    self.oracle.error(format!("{account}: message {id} appended twice"));
                }
                state.changes.push((id, Some(bodies[0])));
            }
            Op::Delete(id) => {
                match state.messages.remove(&id) {
                    Some(place) => {
                        let partition = self.storage.partition_of(account);
                        self.storage.released(partition, account, &place);
                    }
                    None => self.oracle.error(format!("{account}: message {id} deleted before it was there")),
                }
                state.changes.push((id, None));
            }
            Op::Move(moves) => {
                for (old, new) in moves {
                    for (id, place) in state.messages.iter_mut().filter(|(_, place)| **place == old) {
                        *place = new;
                        state.changes.push((*id, Some(new)));
                    }
                }
            }
        }
    }

    async fn open(&self, account: &AccountId) -> Result<(), String> {
        if self.accounts.borrow().contains_key(account) {
            return Ok(());
        }
        let partition = self.storage.partition_of(account);
        let loaded = self.storage.load(partition, account).await.map_err(|error| {
            use culver_storage::ReadError::{Io, NotHere};
            if !matches!(error, Io { .. } | NotHere) {
                self.oracle.error(format!("{account}: {error}"));
            }
            error.to_string()
        })?;
        if self.accounts.borrow().contains_key(account) {
            return Ok(());
        }
        let mut state = State { position: loaded.position, ..State::default() };
        for (_, blocks) in &loaded.blocks {
            state.has_base = true;
            for block in blocks {
                for entry in block.chunks(40) {
                    let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
                    match Place::from_bytes(entry[8..40].try_into().unwrap()) {
                        Some(place) => drop(state.messages.insert(id, place)),
                        None => drop(state.messages.remove(&id)),
                    }
                }
            }
        }
        for record in loaded.records {
            self.apply(account, &mut state, record.position, &record.meta, &record.bodies);
        }
        self.accounts.borrow_mut().insert(account.clone(), state);
        Ok(())
    }

    fn committed(&self, account: &AccountId, meta: &[u8], committed: &Committed) {
        let partition = self.storage.partition_of(account);
        let before = self.last.borrow_mut().insert(partition, committed.position);
        if let Some(before) = before.filter(|before| committed.position <= *before) {
            self.oracle.error(format!("told {} after {before}", committed.position));
        }
        if let Some(state) = self.accounts.borrow_mut().get_mut(account) {
            self.apply(account, state, committed.position, meta, &committed.bodies);
        }
    }

    async fn submit(self: &Rc<Self>, account: &AccountId, op: Op, bodies: Vec<Body>, haste: Haste) -> Fate {
        let (sender, receiver) = oneshot::channel();
        let (mail, name, meta) = (self.clone(), account.clone(), op.encode());
        let noted = meta.clone();
        let told = Box::new(move |result: Result<Committed, CommitError>| {
            let fate = match result {
                Ok(committed) => {
                    mail.committed(&name, &noted, &committed);
                    Fate::Yes
                }
                Err(CommitError::Unknown) => Fate::Unknown,
                Err(_) => {
                    mail.oracle.lost.set(mail.oracle.lost.get() + 1);
                    Fate::No
                }
            };
            mail.oracle_fate(&name, &noted, fate);
            let _ = sender.send(fate);
        });
        let partition = self.storage.partition_of(account);
        let name = account.clone();
        let again = meta.clone();
        match self.storage.submit_wait(partition, &name, meta, bodies, haste, told).await {
            Ok(()) => receiver.await.unwrap_or(Fate::Unknown),
            Err(_) => {
                self.oracle_fate(account, &again, Fate::No);
                Fate::No
            }
        }
    }

    fn oracle_fate(&self, account: &AccountId, meta: &[u8], fate: Fate) {
        if fate == Fate::Yes {
            self.oracle.acked.set(self.oracle.acked.get() + 1);
        }
        let wrong = Cell::new(false);
        // What a later owner was seen to have is decided; an earlier one may tell its client the same afterwards, or nothing.
        let decide = |held: Fate| match (held, fate) {
            (Fate::Unknown, told) => told,
            (held, Fate::Unknown) => held,
            (held, told) => {
                wrong.set(held != told);
                held
            }
        };
        match Op::decode(meta) {
            Op::Append(id) => {
                self.oracle.note(account, id, |message| message.append = decide(message.append))
            }
            Op::Delete(id) => self.oracle.note(account, id, |message| {
                message.delete = Some(decide(message.delete.unwrap_or(Fate::Unknown)));
            }),
            Op::Move(_) => {}
        }
        if wrong.get() {
            self.oracle
                .error(format!("{account}: {meta:?} was told as {fate:?}; a later owner has it otherwise"));
        }
    }

    pub async fn append(self: &Rc<Self>, account: &AccountId, size: usize) -> Fate {
        let id = self.oracle.next.get() + 1;
        self.oracle.next.set(id);
        let partition = self.storage.partition_of(account);
        let hint = (random::below(2) == 0).then_some(size as u64);
        let mut writer = self.storage.body_writer(partition, account, hint);
        for piece in content(id, size).chunks(1 + random::below(9000) as usize) {
            if writer.write(piece).await.is_err() {
                return Fate::No;
            }
        }
        let Ok(body) = writer.finish().await else { return Fate::No };
        let fresh = Message { size, append: Fate::Unknown, delete: None };
        self.oracle.messages.borrow_mut().entry(account.clone()).or_default().insert(id, fresh);
        self.submit(account, Op::Append(id), vec![body], Haste::Interactive).await
    }

    pub async fn delete_one(self: &Rc<Self>, account: &AccountId) -> Fate {
        if self.open(account).await.is_err() {
            return Fate::No;
        }
        let id = {
            let mut messages = self.oracle.messages.borrow_mut();
            let all = messages.entry(account.clone()).or_default();
            let there = |message: &Message| {
                message.append == Fate::Yes && message.delete.is_none_or(|d| d == Fate::No)
            };
            let ids: Vec<u64> = all.iter().filter(|(_, message)| there(message)).map(|(id, _)| *id).collect();
            if ids.is_empty() {
                return Fate::No;
            }
            let id = ids[random::below(ids.len() as u64) as usize];
            all.get_mut(&id).unwrap().delete = Some(Fate::Unknown);
            id
        };
        self.submit(account, Op::Delete(id), Vec::new(), Haste::Urgent).await
    }

    /// Compares an account with what its clients were told. At the start of a life nothing is in flight, so what was
    /// unknown is decided from then on (`settle`).
    pub async fn verify(&self, account: &AccountId, settle: bool, all_bodies: bool) -> Result<(), String> {
        self.verify_while(account, settle, all_bodies, &|| true).await
    }

    /// As [`Mail::verify`], where this is the owner (`current`) at the moment of comparing.
    pub async fn verify_while(
        &self,
        account: &AccountId,
        settle: bool,
        all_bodies: bool,
        current: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        self.open(account).await?;
        if !current() {
            return Err("another node owns it".into());
        }
        let there =
            self.accounts.borrow().get(account).map(|state| state.messages.clone()).unwrap_or_default();
        let mut bodies = Vec::new();
        {
            let mut messages = self.oracle.messages.borrow_mut();
            let known = messages.entry(account.clone()).or_default();
            for id in there.keys().filter(|id| !known.contains_key(id)) {
                self.oracle.error(format!("{account}: message {id} was never submitted"));
            }
            for (id, message) in known.iter_mut() {
                let present = there.contains_key(id);
                let deleted = message.delete.unwrap_or(Fate::No);
                let right = match (message.append, deleted) {
                    (Fate::No, _) | (Fate::Yes, Fate::Yes) => !present,
                    (Fate::Yes, Fate::No) => present,
                    _ => true,
                };
                if !right {
                    self.oracle.error(format!("{account}: message {id} {message:?}, present: {present}"));
                }
                match (message.append, deleted) {
                    _ if !settle => {}
                    (Fate::Unknown, _) => message.append = if present { Fate::Yes } else { Fate::No },
                    (Fate::Yes, Fate::Unknown) => {
                        message.delete = Some(if present { Fate::No } else { Fate::Yes })
                    }
                    _ => {}
                }
                if present && (all_bodies || random::below(4) == 0) {
                    bodies.push((*id, message.size, there[id]));
                }
            }
        }
        for (id, size, place) in bodies {
            self.oracle.verified.set(self.oracle.verified.get() + 1);
            let partition = self.storage.partition_of(account);
            let from = random::below(size as u64 + 1);
            let to = from + random::below(size as u64 + 10);
            let wanted = content(id, size);
            let end = (to as usize).min(size);
            match self.storage.read_place(partition, &place, from..to).await {
                Ok(bytes) if bytes == wanted[from as usize..end] => {}
                Ok(bytes) => {
                    self.oracle.error(format!("message {id}: {} wrong octets {from}..{to}", bytes.len()))
                }
                Err(_) if !current() => return Err("another node owns it".into()),
                Err(culver_storage::ReadError::Gone(_)) => {
                    // Compacted meanwhile: the new place must be known.
                    if self.accounts.borrow().get(account).and_then(|s| s.messages.get(&id)) == Some(&place) {
                        self.oracle.error(format!("{account}: the place {place} of message {id} is gone"));
                    }
                }
                Err(culver_storage::ReadError::Io { .. }) => return Err("io".into()),
                Err(error) => self.oracle.error(format!("message {id}: {error}")),
            }
        }
        if all_bodies {
            let partition = self.storage.partition_of(account);
            self.oracle.verified_partitions.borrow_mut().insert(partition);
        }
        Ok(())
    }

    pub fn forget_some(&self) {
        let mut accounts = self.accounts.borrow_mut();
        accounts.retain(|_, state| state.in_flush.is_some() || random::below(3) != 0);
    }
}

impl Source for Mail {
    fn blocks<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        _: Position,
    ) -> LocalFuture<'a, Result<AccountBlocks, SourceError>> {
        Box::pin(async move {
            // Such an account is left out; the others of its partition are flushed.
            match random::below(60) {
                0..3 => return Err(SourceError("this account cannot be read now".into())),
                // Without a word on standard error, unlike a panic.
                3 => std::panic::resume_unwind(Box::new("this account cannot be made into blocks now")),
                _ => {}
            }
            self.open(account).await.map_err(SourceError)?;
            if random::below(4) == 0 {
                time::sleep(Duration::from_micros(random::below(500))).await;
                self.open(account).await.map_err(SourceError)?;
            }
            let mut accounts = self.accounts.borrow_mut();
            let state = accounts.get_mut(account).ok_or_else(|| SourceError("reset".into()))?;
            let entry = |(id, place): (&u64, Option<&Place>)| {
                let mut out = id.to_le_bytes().to_vec();
                out.extend_from_slice(&place.map_or([0; 32], Place::to_bytes));
                out
            };
            let (kind, bytes) = if state.messages.is_empty() && state.has_base {
                (BlockKind::Removed, Vec::new())
            } else if state.has_base && random::below(2) == 0 {
                (
                    BlockKind::Delta,
                    state.changes.iter().flat_map(|(id, place)| entry((id, place.as_ref()))).collect(),
                )
            } else {
                (
                    BlockKind::Base,
                    state.messages.iter().flat_map(|(id, place)| entry((id, Some(place)))).collect(),
                )
            };
            state.in_flush = Some((state.position, state.changes.len(), kind != BlockKind::Removed));
            Ok(AccountBlocks { position: state.position, blocks: vec![(KEY, kind, bytes)] })
        })
    }

    fn flushed(&self, _: PartitionId, account: &AccountId, position: Position) {
        if let Some(state) = self.accounts.borrow_mut().get_mut(account)
            && let Some((at, changes, has_base)) = state.in_flush.take()
        {
            if at == position {
                state.changes.drain(..changes);
                state.has_base = has_base;
            } else {
                self.oracle.error(format!("{account}: flushed {position}, written {at}"));
            }
        }
    }

    fn live<'a>(
        &'a self,
        _: PartitionId,
        account: &'a AccountId,
        places: &'a [Place],
    ) -> LocalFuture<'a, Result<Vec<bool>, SourceError>> {
        Box::pin(async move {
            if places.iter().collect::<std::collections::BTreeSet<_>>().len() < places.len() {
                self.oracle.error(format!("{account}: asked twice for one place"));
            }
            self.open(account).await.map_err(SourceError)?;
            let accounts = self.accounts.borrow();
            let state = accounts.get(account).ok_or_else(|| SourceError("reset".into()))?;
            Ok(places.iter().map(|place| state.messages.values().any(|held| held == place)).collect())
        })
    }

    fn relocated<'a>(
        &'a self,
        partition: PartitionId,
        account: &'a AccountId,
        moves: Vec<(Place, Body)>,
    ) -> LocalFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            let places = moves.iter().map(|(old, body)| (*old, body.place().unwrap())).collect();
            let op = Op::Move(places);
            let meta = op.encode();
            let (sender, receiver) = oneshot::channel();
            // The state is found again through the shard, for a closure must not borrow the source.
            let mail = culver_shard::local::<Mail>().ok_or_else(|| SourceError("ends".into()))?;
            let (name, noted) = (account.clone(), meta.clone());
            let told = Box::new(move |result: Result<Committed, CommitError>| {
                if let Ok(committed) = &result {
                    mail.committed(&name, &noted, committed);
                }
                let _ = sender.send(result.is_ok());
            });
            let bodies = moves.into_iter().map(|(_, body)| body).collect();
            let submitted =
                self.storage.submit_wait(partition, account, meta, bodies, Haste::Urgent, told).await;
            submitted.map_err(|error| SourceError(error.to_string()))?;
            match receiver.await {
                Ok(true) => Ok(()),
                _ => Err(SourceError("not committed".into())),
            }
        })
    }

    fn lost(&self, partition: PartitionId) {
        self.accounts.borrow_mut().retain(|account, _| self.storage.partition_of(account) != partition);
    }

    fn reset(&self, account: Option<&AccountId>) {
        match account {
            Some(account) => drop(self.accounts.borrow_mut().remove(account)),
            None => self.accounts.borrow_mut().clear(),
        }
    }
}

/// Shares on their way from shard 0 to the others.
#[derive(Default)]
pub struct Handover {
    shares: RefCell<BTreeMap<usize, Share>>,
    failed: Cell<bool>,
    came: Notify,
}

/// What a life of the node does after it has verified everything.
#[derive(Clone)]
pub struct Life {
    pub oracle: Rc<Oracle>,
    pub accounts: usize,
    pub writers: usize,
    /// Verify and end, without writing.
    pub only_verify: bool,
    pub limits: Limits,
}

pub fn account(nth: usize) -> AccountId {
    AccountId::parse(&format!("user{nth}@example.org")).unwrap()
}

/// Starts the node; its roots end when they are told to stop, or after verifying.
pub fn start(sim: &Sim, node: NodeId, shards: usize, life: Life) {
    let handover = Rc::new(Handover::default());
    sim.start(node, shards, move |shard| run_shard(shard, shards, handover.clone(), life.clone()));
}

async fn run_shard(shard: usize, shards: usize, handover: Rc<Handover>, life: Life) {
    let mut held = None;
    if shard == 0 {
        if life.only_verify {
            check_store(&life.oracle).await;
        }
        match open(shards, &life).await {
            Ok((root, shares)) => {
                older_segments_are_short(&life.oracle, root.epoch()).await;
                handover.shares.borrow_mut().extend(shares.into_iter().map(|share| (share.shard(), share)));
                held = Some(root);
            }
            Err(error) => {
                if !matches!(error, OpenError::Io { .. }) {
                    life.oracle.error(format!("recovery: {error}"));
                }
                life.oracle.failed_starts.borrow_mut().push(error.to_string());
                handover.failed.set(true);
            }
        }
        handover.came.notify_all();
    }
    let share = loop {
        let seen = handover.came.version();
        if handover.failed.get() {
            return;
        }
        if let Some(share) = handover.shares.borrow_mut().remove(&shard) {
            break share;
        }
        handover.came.changed_since(seen).await;
    };
    let storage = match Storage::start(share).await {
        Ok(storage) => storage,
        Err(error) => return life.oracle.failed_starts.borrow_mut().push(error.to_string()),
    };
    life.oracle.starts.set(life.oracle.starts.get() + 1);
    let mail = Mail::new(storage.clone(), life.oracle.clone());
    culver_shard::set_local(mail.clone());
    let mine: Vec<AccountId> = (0..life.accounts)
        .map(account)
        .filter(|account| storage.partitions().contains(&storage.partition_of(account)))
        .collect();
    for account in &mine {
        if mail.verify(account, true, life.only_verify).await.is_err() {
            break;
        }
    }
    if !life.only_verify && !mine.is_empty() {
        let mut tasks = Vec::new();
        for _ in 0..life.writers {
            let (mail, mine) = (mail.clone(), mine.clone());
            tasks.push(spawn(Queue::Interactive, "writer", write(mail, mine)));
        }
        for task in tasks {
            let _ = task.await;
        }
    }
    storage.clone().close(random::below(2) == 0).await;
    let status = storage.status();
    life.oracle.flushes.set(life.oracle.flushes.get() + status.flushes);
    life.oracle.compactions.set(life.oracle.compactions.get() + status.compactions);
    drop(held);
}

/// Everything stored must be whole, and every place that a message has.
async fn check_store(oracle: &Oracle) {
    let look = &mut |piece: Inside<'_>| match piece {
        Inside::Blocks { blocks, .. } => {
            let mut messages = BTreeMap::new();
            for entry in blocks.iter().flat_map(|block| block.chunks(40)) {
                let id = u64::from_le_bytes(entry[..8].try_into().unwrap());
                match Place::from_bytes(entry[8..40].try_into().unwrap()) {
                    Some(place) => drop(messages.insert(id, place)),
                    None => drop(messages.remove(&id)),
                }
            }
            Ok(messages.into_values().collect())
        }
        Inside::Record { .. } => Ok(Vec::new()),
    };
    match culver_storage::check(Path::new(DIR), look).await {
        Ok(report) => report.findings.iter().for_each(|finding| oracle.error(format!("check: {finding}"))),
        Err(error) => oracle.error(format!("check: {error}")),
    }
}

/// After a start no segment of an earlier epoch is longer than its records.
async fn older_segments_are_short(oracle: &Oracle, epoch: u32) {
    let journals = Path::new(DIR).join("journal");
    for journal in disk::list(&journals).await.unwrap_or_default() {
        if journal.name.starts_with(&format!("{epoch}-")) {
            continue;
        }
        let dir = journals.join(&journal.name);
        for segment in disk::list(&dir).await.unwrap_or_default() {
            let mut text = String::new();
            let dumped = culver_storage::dump(&dir.join(&segment.name), &mut |_| Ok(None), &mut text).await;
            let end = format!("end at octet {},", segment.len);
            if dumped.is_err() || !text.contains(&end) {
                let last = text.lines().last().unwrap_or_default();
                oracle.error(format!("{}/{}: {} octets, {last}", journal.name, segment.name, segment.len));
            }
        }
    }
}

async fn open(shards: usize, life: &Life) -> Result<(Root, Vec<Share>), OpenError> {
    let mut root = Root::open(Path::new(DIR), life.limits.clone()).await?;
    let shares = root.recover(shards).await?;
    Ok((root, shares))
}

async fn write(mail: Rc<Mail>, accounts: Vec<AccountId>) {
    while !stopping() {
        let account = &accounts[random::below(accounts.len() as u64) as usize];
        let partition = mail.storage.partition_of(account);
        match random::below(100) {
            0..50 => {
                let size = match random::below(20) {
                    0 => 0,
                    1 => 2000 + random::below(9000) as usize,
                    2 => random::below(200_000) as usize,
                    _ => random::below(1800) as usize,
                };
                mail.append(account, size).await;
            }
            50..92 => {
                mail.delete_one(account).await;
            }
            92..94 => drop(mail.storage.flush(partition).await),
            94 => drop(mail.storage.trim().await),
            95 => drop(mail.storage.compact().await),
            96..98 => mail.forget_some(),
            _ => drop(mail.verify(account, false, false).await),
        }
        if random::below(8) == 0 {
            time::sleep(Duration::from_micros(random::below(20_000))).await;
        }
    }
}

/// The disk fills up for a while and has room again: the acknowledged operations before, meanwhile and after, and the
/// oracle after a crash and a last look.
#[allow(dead_code, reason = "not every test that shares this fills a disk")]
pub fn run_full(seed: u64) -> ([u64; 3], Rc<Oracle>) {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let oracle = Rc::new(Oracle::default());
    let life = Life { oracle: oracle.clone(), accounts: 9, writers: 3, only_verify: false, limits: limits() };
    start(&sim, node, 2, life.clone());
    let mut acked = [0; 3];
    for (phase, full) in [false, true, false].into_iter().enumerate() {
        sim.faults(node, Faults { full, ..Faults::default() });
        let before = oracle.acked.get();
        sim.step(15_000);
        acked[phase] = oracle.acked.get() - before;
    }
    sim.crash(node);
    start(&sim, node, 3, Life { only_verify: true, ..life });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    (acked, oracle)
}

/// The disk is filled to its last octet before the first of some starts, which must come up all the same and take what
/// frees space; then it has room again. The acknowledged operations on the full disk and after it.
#[allow(dead_code, reason = "not every test that shares this fills a disk")]
pub fn run_starts_on_full(seed: u64) -> ([u64; 2], Rc<Oracle>) {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let oracle = Rc::new(Oracle::default());
    let life = Life { oracle: oracle.clone(), accounts: 9, writers: 3, only_verify: false, limits: limits() };
    let shards = 1 + (sim.random() % 3) as usize;
    start(&sim, node, shards, life.clone());
    sim.step(12_000);
    let before = oracle.acked.get();
    for nth in 0..4 {
        match sim.random() % 2 {
            0 => sim.kill(node),
            _ => sim.crash(node),
        }
        if nth == 0 {
            sim.faults(node, Faults { capacity_octets: sim.used_octets(node), ..Faults::default() });
        }
        start(&sim, node, shards, life.clone());
        sim.step(4_000);
    }
    let full = oracle.acked.get();
    sim.faults(node, Faults::default());
    sim.step(15_000);
    let after = oracle.acked.get();
    sim.crash(node);
    start(&sim, node, 3, Life { only_verify: true, ..life });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    ([full - before, after - full], oracle)
}

/// One run: lives that end by crash, kill or stop, and a last one that verifies everything. The oracle, and why it is
/// not content.
#[allow(dead_code, reason = "not every test that shares this has one node")]
pub fn run(seed: u64, lives: usize, faults: Faults) -> Rc<Oracle> {
    let sim = Sim::new(seed, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    let oracle = Rc::new(Oracle::default());
    let base = Life { oracle: oracle.clone(), accounts: 9, writers: 3, only_verify: false, limits: limits() };
    for _ in 0..lives {
        sim.faults(node, if sim.random().is_multiple_of(2) { faults.clone() } else { Faults::default() });
        start(&sim, node, 1 + (sim.random() % 3) as usize, base.clone());
        let steps = match sim.random() % 4 {
            0 => sim.random() % 300,
            1 => sim.random() % 3_000,
            _ => sim.random() % 30_000,
        };
        sim.step(steps);
        match sim.random() % 4 {
            0 => sim.kill(node),
            1 => {
                sim.stop(node);
                let handle = sim.clone();
                sim.run(async move { handle.exited(node).await });
                sim.crash(node);
            }
            _ => sim.crash(node),
        }
        if !oracle.errors.borrow().is_empty() {
            return oracle;
        }
    }
    sim.faults(node, Faults::default());
    start(&sim, node, 1 + (sim.random() % 3) as usize, Life { only_verify: true, ..base });
    let handle = sim.clone();
    sim.run(async move { handle.exited(node).await });
    oracle
}
