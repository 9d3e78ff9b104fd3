//! Acknowledging after the local disk: what a client is told first, the store learns within a second.
//!
//! # Invariants
//! What is told before the store has it stands in the local tail, synced. Firm parts (records of ownership, Flush records, and
//! what gives more numbers than can be taken back) are told when the store has them.
//! Nothing is told early when the newest proof of ownership has run out (R9): a node that does not reach the store stops
//! acknowledging before anybody takes it for dead.
//!
//! # Crash
//! The next start of this node finds the tail, and sends it on: see `node/returning.rs`. Where a write or a sync of the tail
//! fails, the rest of its object is told when the store has it, and the next object tries anew.
//!
//! # Limits
//! Octets that are told and not in the store, and [`NUMBERS_MAX`]: above them parts wait for the store.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use culver_shard::sync::oneshot;
use culver_shard::{Queue, spawn, time};
use hyper::body::Bytes;

use super::{Appended, Due, IN_FLIGHT_MAX, InFlight, Inner, NewPart, NodeJournal};
use crate::fault::{self, Fault};
use crate::shared::tail::{Tail, TailFile, object_head, part_offset};
use crate::store::Octets;

/// UIDs and MODSEQs that are told and not in the store. A gap after a takeover is larger.
pub const NUMBERS_MAX: u32 = 1 << 16;

/// An object is closed when its first record is so old, whoever waits for it: the store has it within a second.
const UPLOAD_AFTER_MAX: Duration = Duration::from_millis(500);

/// What is acknowledged here and not known to be in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    pub octets: u64,
    pub parts: u64,
    /// Of the oldest of it.
    pub age: Duration,
    /// Parts that had to wait for the store although they need not, since the start: a bound was reached, the disk failed, or
    /// the proof of ownership had run out.
    pub waited: u64,
}

pub(super) struct Local {
    tail: Tail,
    octets_max: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Taken, and not yet written.
    fresh: VecDeque<(NewPart, oneshot::Sender<Appended>)>,
    /// Of the object that is open, in its order.
    open: Vec<Bytes>,
    waiting: Vec<(Appended, oneshot::Sender<Appended>)>,
    file: Option<TailFile>,
    /// The open object's file has failed.
    broken: bool,
    records: u32,
    octets: u64,
    /// By object: what is told of it.
    told: BTreeMap<u64, Told>,
    waited: u64,
    /// All files below are removed.
    removed: u64,
}

struct Told {
    octets: u64,
    parts: u64,
    numbers: u64,
    since: time::Instant,
}

impl Local {
    pub fn new(tail: Tail, octets_max: u64) -> Local {
        Local { tail, octets_max, state: RefCell::default() }
    }

    pub fn take(&self, part: NewPart, sender: oneshot::Sender<Appended>) {
        self.state.borrow_mut().fresh.push_back((part, sender));
    }

    /// All objects below are in the store.
    pub fn landed(&self, committed: u64) {
        let mut state = self.state.borrow_mut();
        state.told = state.told.split_off(&committed);
    }

    pub fn end(&self) {
        let mut state = self.state.borrow_mut();
        let (fresh, waiting) = (std::mem::take(&mut state.fresh), std::mem::take(&mut state.waiting));
        drop(state);
        drop((fresh, waiting));
    }

    /// Writes records to the file of the open object, which is made for the first of them.
    async fn write(
        &self,
        file: &mut Option<TailFile>,
        seq: u64,
        index: u32,
        records: u32,
        pieces: &[&[u8]],
    ) -> io::Result<()> {
        let file = match file {
            Some(file) => file,
            None => file.insert(self.tail.open(seq).await?),
        };
        file.write(seq, index, records, pieces).await
    }

    fn has_room(&self, state: &State, part: &NewPart) -> bool {
        let octets: u64 = state.told.values().map(|told| told.octets).sum();
        let numbers: u64 = state.told.values().map(|told| told.numbers).sum();
        octets + part.octets.len() as u64 <= self.octets_max
            && numbers + u64::from(part.numbers) <= u64::from(NUMBERS_MAX)
    }
}

impl NodeJournal {
    /// Whether parts that are not firm are told after the local disk.
    pub fn is_local(&self) -> bool {
        self.0.local.is_some()
    }

    pub fn unsent(&self) -> Unsent {
        let Some(local) = &self.0.local else { return Unsent::default() };
        let state = local.state.borrow();
        Unsent {
            octets: state.told.values().map(|told| told.octets).sum(),
            parts: state.told.values().map(|told| told.parts).sum(),
            age: state.told.values().next().map_or(Duration::ZERO, |told| told.since.elapsed()),
            waited: state.waited,
        }
    }

    /// Octets of an object that is not known to be in the store, where this journal still has it.
    pub fn read_unsent(&self, seq: u64, range: Range<u64>) -> Option<Vec<u8>> {
        let local = self.0.local.as_ref()?;
        let state = self.0.state.borrow();
        if seq == state.next_seq {
            let from = range.start.checked_sub(part_offset())?;
            let to = range.end.checked_sub(part_offset())?;
            return Some(cut(&local.state.borrow().open, from..to));
        }
        let object = state.under_way.get(&seq).or_else(|| state.done.get(&seq))?;
        Some(cut(&object.pieces, range))
    }

    /// Nothing that was acknowledged is missing in the store: the local tail is of no use any more.
    pub async fn forget_tail(&self) {
        if let Some(local) = &self.0.local {
            local.tail.end().await;
        }
    }
}

/// A range of what pieces hold, cut at their end.
fn cut(pieces: &[Bytes], range: Range<u64>) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    for piece in pieces {
        let end = at + piece.len() as u64;
        let (from, to) = (range.start.clamp(at, end), range.end.clamp(at, end));
        out.extend_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
        at = end;
    }
    out
}

impl Inner {
    /// Writes parts to the local tail as they come, and closes objects. Ends when the journal does.
    pub(super) async fn run_local(self: Rc<Self>) {
        let Some(local) = &self.local else { return };
        loop {
            let seen = self.wake.version();
            let batch = std::mem::take(&mut local.state.borrow_mut().fresh);
            if !batch.is_empty() {
                self.write_local(local, batch.into()).await;
            }
            self.remove_landed(local);
            match self.due_local(local) {
                Due::Now => {
                    let (seq, octets) = self.close_local(local);
                    spawn(Queue::Commit, "journal object", self.clone().put(seq, octets)).detach();
                }
                Due::At(at) => {
                    let _ = time::deadline(at - time::now(), self.wake.changed_since(seen)).await;
                }
                Due::Wait => self.wake.changed_since(seen).await,
                Due::End => return,
            }
        }
    }

    async fn write_local(&self, local: &Local, batch: Vec<(NewPart, oneshot::Sender<Appended>)>) {
        let seq = self.state.borrow().next_seq;
        let (mut file, index, broken) = {
            let mut state = local.state.borrow_mut();
            (state.file.take(), state.records, state.broken)
        };
        let records = batch.iter().map(|(part, _)| part.records).sum();
        let pieces: Vec<&[u8]> = batch.iter().map(|(part, _)| &part.octets[..]).collect();
        let written = match broken {
            true => false,
            false => match local.write(&mut file, seq, index, records, &pieces).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(seq, %error, "the local tail cannot be written: its changes wait for the store");
                    false
                }
            },
        };
        drop(pieces);
        let now = time::now();
        let mut journal = self.state.borrow_mut();
        if journal.ended {
            return;
        }
        let fresh = journal.proof.is_some_and(|proof| now < proof + self.windows.proof);
        let mut state = local.state.borrow_mut();
        state.file = file;
        state.broken |= !written;
        for (part, sender) in batch {
            let (offset, index) = (part_offset() + state.octets, state.records);
            let appended = Appended { seq, offset, index, begun: now };
            let (firm, octets) = (part.firm && !fault::on(Fault::FirmToldEarly), part.octets.len() as u64);
            if written && fresh && !firm && local.has_room(&state, &part) {
                let told =
                    state.told.entry(seq).or_insert(Told { octets: 0, parts: 0, numbers: 0, since: now });
                (told.octets, told.parts) = (told.octets + octets, told.parts + 1);
                told.numbers += u64::from(part.numbers);
                let _ = sender.send(appended);
            } else {
                state.waited += u64::from(!firm);
                // Somebody waits for the store.
                journal.interactive = true;
                state.waiting.push((appended, sender));
            }
            (state.records, state.octets) = (state.records + part.records, state.octets + octets);
            journal.open_octets += octets as usize;
            journal.opened.get_or_insert(now);
            state.open.push(part.octets.into());
        }
    }

    fn due_local(&self, local: &Local) -> Due {
        let (state, of_tail) = (self.state.borrow(), local.state.borrow());
        let windows = &self.windows;
        if state.ended {
            return Due::End;
        }
        let now = time::now();
        let on_their_way = state.under_way.len();
        if of_tail.open.is_empty() {
            if !of_tail.fresh.is_empty() {
                return Due::At(now);
            }
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
            false => {
                let window = windows.delivery.min(UPLOAD_AFTER_MAX);
                (window, window)
            }
        };
        let opened = state.opened.unwrap_or(now) + window;
        let spaced = state.last_begun.map_or(now, |begun| begun + spacing);
        match opened.max(spaced) {
            at if at <= now => Due::Now,
            at => Due::At(at),
        }
    }

    /// The object that is open, closed: its number and octets.
    fn close_local(&self, local: &Local) -> (u64, Octets) {
        let (mut state, mut of_tail) = (self.state.borrow_mut(), local.state.borrow_mut());
        let now = time::now();
        let open = std::mem::take(&mut of_tail.open);
        let (records, octets) = (std::mem::take(&mut of_tail.records), std::mem::take(&mut of_tail.octets));
        (of_tail.file, of_tail.broken) = (None, false);
        (state.open_octets, state.opened, state.interactive) = (0, None, false);
        let seq = state.next_seq;
        state.next_seq += 1;
        state.last_begun = Some(now);
        let crc = open.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        let head = object_head(self.store_id, self.incarnation, seq, records, octets as u32, crc);
        let mut pieces = vec![Bytes::from(head.encode())];
        pieces.extend(open);
        let parts = std::mem::take(&mut of_tail.waiting);
        state.under_way.insert(seq, InFlight { begun: now, parts, pieces: pieces.clone() });
        (seq, Octets::Pieces(pieces))
    }

    /// Removes the files of objects that are in the store.
    fn remove_landed(self: &Rc<Self>, local: &Local) {
        let committed = self.state.borrow().committed;
        let range = {
            let mut state = local.state.borrow_mut();
            let from = std::mem::replace(&mut state.removed, committed);
            from..committed
        };
        if !range.is_empty() {
            let journal = self.clone();
            let remove = async move {
                if let Some(local) = &journal.local {
                    local.tail.remove(range).await;
                }
            };
            spawn(Queue::Background, "sent tail", remove).detach();
        }
    }
}
