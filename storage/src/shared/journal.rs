//! The journal of a node on a store: numbered objects, each created if absent, that hold what all shards hand in.
//!
//! Lives on one shard of the node. One for each incarnation.
//!
//! # Order
//! Objects are told in the order of their numbers, each when it and all before it are known to be there (R2, H11).
//!
//! # Crash
//! A create with an unknown outcome is made again, with the same octets at the same number, until it is known. An object of
//! somebody else at our number is a seal: this incarnation has ended, and whatever was not told is told to be unknown.
//!
//! With a local tail an object is written to this machine's disk as its records come, and who waits for one that needs no more
//! than that is told then: see `journal/local.rs`.
//!
//! # Limits
//! [`IN_FLIGHT_MAX`] objects on their way; [`Windows`] say when the next one is closed.

mod local;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use culver_shard::sync::{Notify, oneshot};
use culver_shard::{Queue, Task, random, spawn, time};
use hyper::body::Bytes;

use self::local::Local;
pub use self::local::{NUMBERS_MAX, Unsent};
use super::format::{Content, Incarnation, ObjectHead, Part, head_octets};
use super::keys;
use super::tail::Tail;
use crate::fault::{self, Fault};
use crate::store::{Created, Octets, Patience, Store};

/// Objects on their way at a time (R2).
pub(crate) const IN_FLIGHT_MAX: usize = 4;
/// One round of tries of a create; then somebody is told that the store does not answer, and it is tried again.
const ROUND: Duration = Duration::from_secs(10);

/// When an object is closed and sent. What arrives while one is on its way goes into the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// So long an object waits for company where a client waits for it. 10 ms.
    pub interactive: Duration,
    /// So long where only deliveries do. 250 ms.
    pub delivery: Duration,
    /// Between the beginnings of two objects where a client waits, so that many clients cost no more than a few. 53 ms.
    pub spacing: Duration,
    /// Octets from which on an object is closed at once. 4 MiB.
    pub octets: usize,
    /// How long a committed object proves that nobody else owns what this node owns (R9). 15 s.
    pub proof: Duration,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows {
            interactive: Duration::from_millis(10),
            delivery: Duration::from_millis(250),
            // With what else a node sends now and then it stays below 20 PUTs a second, however busy it is.
            spacing: Duration::from_millis(53),
            octets: 4 << 20,
            proof: Duration::from_secs(15),
        }
    }
}

/// What a shard hands in: whole records.
pub(crate) struct NewPart {
    /// Whose journal it was made for.
    pub incarnation: Incarnation,
    pub shard: u16,
    /// Counts the parts of a shard for this incarnation, so that they come in order.
    pub number: u64,
    pub records: u32,
    /// A multiple of 8.
    pub octets: Vec<u8>,
    /// A client waits for it, and not a transfer agent.
    pub interactive: bool,
    /// It is told when the store has it, however this node acknowledges.
    pub firm: bool,
    /// UIDs, and as many MODSEQs, that its records give at most.
    pub numbers: u32,
}

/// Where a part came to stand. It is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub seq: u64,
    /// Of the part in its object.
    pub offset: u64,
    /// How many records of the object stand before it.
    pub index: u32,
    /// When the object's first create began: what it proves is as old as this (H12).
    pub begun: time::Instant,
}

/// The journal was sealed, or ends: whether the part is committed is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// See the module. Clones are the same journal.
#[derive(Clone)]
pub(crate) struct NodeJournal(Rc<Inner>);

struct Inner {
    store: Store,
    store_id: [u8; 16],
    incarnation: Incarnation,
    windows: Windows,
    state: RefCell<State>,
    /// A part was taken, or the journal ends: the next of its shard may be.
    came: Notify,
    /// A part came, an object is done, or the journal ends.
    wake: Notify,
    /// The number of committed objects has grown, or the journal has ended.
    moved: Notify,
    task: RefCell<Option<Task<()>>>,
    late: Cell<bool>,
    /// Where this node acknowledges after its local disk.
    local: Option<Local>,
}

#[derive(Default)]
struct State {
    open: Vec<(NewPart, oneshot::Sender<Appended>)>,
    open_octets: usize,
    opened: Option<time::Instant>,
    interactive: bool,
    /// By shard: the number of the part that comes next.
    parts: BTreeMap<u16, u64>,
    /// The number of the next object that is closed.
    next_seq: u64,
    /// All below are known to be ours.
    committed: u64,
    /// Those that are there, and not yet told because one before them is not.
    done: BTreeMap<u64, InFlight>,
    under_way: BTreeMap<u64, InFlight>,
    last_begun: Option<time::Instant>,
    proof: Option<time::Instant>,
    ended: bool,
    /// By somebody else's object.
    sealed: bool,
    closing: bool,
}

struct InFlight {
    begun: time::Instant,
    parts: Vec<(Appended, oneshot::Sender<Appended>)>,
    /// Of an object with a local tail, for who reads what is not in the store yet.
    pieces: Vec<Bytes>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    At(time::Instant),
    Wait,
    End,
}

impl NodeJournal {
    /// Begins a journal. Nothing is stored before its first object.
    pub fn start(store: Store, store_id: [u8; 16], windows: Windows) -> NodeJournal {
        NodeJournal::begin(store, store_id, windows, Incarnation::random(), None)
    }

    /// Begins one that acknowledges after the local disk, with `octets_max` that are not in the store yet.
    pub fn start_local(
        store: Store,
        store_id: [u8; 16],
        windows: Windows,
        (incarnation, tail): (Incarnation, Tail),
        octets_max: u64,
    ) -> NodeJournal {
        NodeJournal::begin(store, store_id, windows, incarnation, Some(Local::new(tail, octets_max)))
    }

    fn begin(
        store: Store,
        store_id: [u8; 16],
        windows: Windows,
        incarnation: Incarnation,
        local: Option<Local>,
    ) -> NodeJournal {
        let journal = NodeJournal(Rc::new(Inner {
            store,
            store_id,
            incarnation,
            windows,
            state: RefCell::default(),
            came: Notify::new(),
            wake: Notify::new(),
            moved: Notify::new(),
            task: RefCell::default(),
            late: Cell::new(false),
            local,
        }));
        let task = spawn(Queue::Commit, "journal objects", journal.0.clone().run());
        *journal.0.task.borrow_mut() = Some(task);
        journal
    }

    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation
    }

    /// Hands a part in; ready when it is committed.
    pub async fn append(&self, part: NewPart) -> Result<Appended, Ended> {
        debug_assert!(part.octets.len().is_multiple_of(8), "records are multiples of 8");
        if part.incarnation != self.0.incarnation {
            return Err(Ended);
        }
        let (sender, receiver) = oneshot::channel();
        loop {
            let seen = self.0.came.version();
            {
                let state = self.0.state.borrow();
                if state.ended || state.closing {
                    return Err(Ended);
                }
                if state.parts.get(&part.shard).copied().unwrap_or(0) == part.number {
                    break;
                }
            }
            self.0.came.changed_since(seen).await;
        }
        {
            let mut state = self.0.state.borrow_mut();
            state.parts.insert(part.shard, part.number + 1);
            match &self.0.local {
                Some(local) => local.take(part, sender),
                None => {
                    state.open_octets += part.octets.len();
                    state.opened.get_or_insert_with(time::now);
                    state.interactive |= part.interactive;
                    state.open.push((part, sender));
                }
            }
        }
        self.0.came.notify_all();
        self.0.wake.notify_all();
        receiver.await.map_err(|_| Ended)
    }

    /// All objects below are committed.
    pub fn committed(&self) -> u64 {
        self.0.state.borrow().committed
    }

    /// Until when the newest proof holds that nobody else owns what this node owns; `None` before the first one.
    pub fn fresh_until(&self) -> Option<time::Instant> {
        self.0.state.borrow().proof.map(|proof| proof + self.0.windows.proof)
    }

    /// Whether it was sealed, or has ended otherwise.
    pub fn has_ended(&self) -> bool {
        self.0.state.borrow().ended
    }

    /// Whether somebody else's object ended it.
    pub fn was_sealed(&self) -> bool {
        self.0.state.borrow().sealed
    }

    /// Ready when it has ended.
    pub async fn ended(&self) {
        loop {
            let seen = self.0.moved.version();
            if self.has_ended() {
                return;
            }
            self.0.moved.changed_since(seen).await;
        }
    }

    /// Ready when the number of committed objects, the proof, or the end has changed.
    pub async fn moved(&self) {
        self.0.moved.notified().await;
    }

    /// The store has not answered a create for long.
    pub fn is_late(&self) -> bool {
        self.0.late.get()
    }

    /// Takes nothing more and commits what was taken.
    pub async fn close(&self) {
        self.0.state.borrow_mut().closing = true;
        self.0.wake.notify_all();
        let task = self.0.task.borrow_mut().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Inner {
    async fn run(self: Rc<Self>) {
        if self.local.is_some() {
            self.clone().run_local().await;
            return self.end();
        }
        let mut sent: VecDeque<Task<()>> = VecDeque::new();
        loop {
            let seen = self.wake.version();
            match self.due() {
                Due::Now => {
                    let (seq, octets) = self.close_window();
                    let put = spawn(Queue::Commit, "journal object", self.clone().put(seq, octets));
                    sent.push_back(put);
                    while sent.len() > IN_FLIGHT_MAX {
                        drop(sent.pop_front().expect("counted").await);
                    }
                }
                Due::At(at) => {
                    let _ = time::deadline(at - time::now(), self.wake.changed_since(seen)).await;
                }
                Due::Wait => self.wake.changed_since(seen).await,
                Due::End => break,
            }
        }
        for put in sent {
            let _ = put.await;
        }
        self.end();
    }

    fn due(&self) -> Due {
        let state = self.state.borrow();
        let windows = &self.windows;
        if state.ended {
            return Due::End;
        }
        let now = time::now();
        let on_their_way = state.under_way.len();
        if state.open.is_empty() {
            if state.closing {
                return if on_their_way == 0 { Due::End } else { Due::Wait };
            }
            // R9: an idle node proves that it still owns what it owns.
            let proof = state.last_begun.map_or(now, |begun| begun + windows.proof / 2);
            return match on_their_way {
                0 if now >= proof => Due::Now,
                0 => Due::At(proof),
                _ => Due::Wait,
            };
        }
        if on_their_way >= IN_FLIGHT_MAX {
            return Due::Wait;
        }
        if state.open_octets >= windows.octets {
            return Due::Now;
        }
        if on_their_way > 0 {
            return Due::Wait;
        }
        let (window, spacing) = match state.interactive || state.closing {
            true => (windows.interactive, windows.spacing),
            false => (windows.delivery, windows.delivery),
        };
        let opened = state.opened.unwrap_or(now) + window;
        let spaced = state.last_begun.map_or(now, |begun| begun + spacing);
        match opened.max(spaced) {
            at if at <= now => Due::Now,
            at => Due::At(at),
        }
    }

    /// The object that is open, closed: its number and octets.
    fn close_window(&self) -> (u64, Octets) {
        let mut state = self.state.borrow_mut();
        let now = time::now();
        let open = std::mem::take(&mut state.open);
        (state.open_octets, state.opened, state.interactive) = (0, None, false);
        let seq = state.next_seq;
        state.next_seq += 1;
        state.last_begun = Some(now);
        let parts: Vec<Part> = open
            .iter()
            .map(|(part, _)| Part {
                shard: part.shard,
                records: part.records,
                octets: part.octets.len() as u32,
                crc: crc32c::crc32c(&part.octets),
            })
            .collect();
        let mut nonce = [0; 16];
        random::fill(&mut nonce);
        let (mut offset, mut index) = (head_octets(parts.len()) as u64, 0);
        let head = ObjectHead {
            incarnation: self.incarnation,
            seq,
            store: self.store_id,
            nonce,
            content: Content::Records(parts),
        };
        let mut pieces = vec![Bytes::from(head.encode())];
        let mut told = Vec::with_capacity(open.len());
        for (part, sender) in open {
            told.push((Appended { seq, offset, index, begun: now }, sender));
            offset += part.octets.len() as u64;
            index += part.records;
            pieces.push(part.octets.into());
        }
        state.under_way.insert(seq, InFlight { begun: now, parts: told, pieces: Vec::new() });
        (seq, Octets::Pieces(pieces))
    }

    async fn put(self: Rc<Self>, seq: u64, octets: Octets) {
        let key = keys::journal(self.incarnation, seq);
        let created = loop {
            match self.store.create(&key, &octets, Patience::interactive(ROUND)).await {
                Ok(created) => break created,
                Err(error) => {
                    if self.state.borrow().ended {
                        return;
                    }
                    // R2: its outcome is not known, so the name is not given up.
                    tracing::error!(%error, "the journal cannot be written to the store; it is tried again");
                    self.late.set(true);
                    time::sleep(Duration::from_millis(100 + random::below(900))).await;
                }
            }
        };
        self.late.set(false);
        match created {
            Created::Mine => self.landed(seq),
            Created::Foreign(_) if fault::on(Fault::AckWhenSealed) => self.landed(seq),
            Created::Foreign(found) => {
                match ObjectHead::parse(&found).map(|head| head.content) {
                    Ok(Content::Seal(by)) => {
                        tracing::error!(seq, by, "this node's journal was sealed: another node took over");
                    }
                    _ => tracing::error!(
                        key,
                        "the journal has an object of somebody else: this node ends its journal"
                    ),
                }
                self.state.borrow_mut().sealed = true;
                self.end();
            }
        }
        self.wake.notify_all();
    }

    /// An object is known to be there: tells it, and those behind it that were waiting.
    fn landed(&self, seq: u64) {
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                if state.ended {
                    return;
                }
                if let Some(landed) = state.under_way.remove(&seq) {
                    state.done.insert(seq, landed);
                }
                let committed = state.committed;
                // H11: what stands behind a gap is not told.
                let gap = fault::on(Fault::TellGaps).then(|| state.done.pop_first().map(|(_, next)| next));
                let Some(next) = gap.flatten().or_else(|| state.done.remove(&committed)) else { break };
                state.committed += 1;
                if let Some(local) = &self.local {
                    local.landed(state.committed);
                }
                // H12: as old as its first create.
                let begun = if fault::on(Fault::FreshFromAnswer) { time::now() } else { next.begun };
                state.proof = state.proof.max(Some(begun));
                next
            };
            for (appended, sender) in next.parts {
                let _ = sender.send(appended);
            }
        }
        self.moved.notify_all();
    }

    /// Ends this incarnation: everything that was not told stays unknown.
    fn end(&self) {
        let dropped = {
            let mut state = self.state.borrow_mut();
            state.ended = true;
            if let Some(local) = &self.local {
                local.end();
            }
            let open = std::mem::take(&mut state.open);
            let under_way = std::mem::take(&mut state.under_way);
            let done = std::mem::take(&mut state.done);
            (open, under_way, done)
        };
        drop(dropped);
        self.came.notify_all();
        self.wake.notify_all();
        self.moved.notify_all();
    }
}
