//! What clients were told: every operation with its fate, and what follows from it for each account.
//!
//! It lives outside of the simulated machine and outlives its crashes.

use crate::tree::{Change, Tree};
use culver_mailbox::{Applied, Refusal, State};
use culver_model::{AccountId, Guid};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// Names an operation in a run.
pub type Serial = u64;

/// What became of an operation, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Invoked,
    Yes,
    No,
    Unknown,
}

impl Fate {
    pub fn open(self) -> bool {
        matches!(self, Fate::Invoked | Fate::Unknown)
    }
}

/// What a client asked for. Messages are named by the serial of the operation that brought them.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `mailbox`: `None` where a name chose it. `instance`: where it was found or told to be.
    Append {
        mailbox: Option<Guid>,
        instance: Option<(Guid, u32)>,
    },
    /// Adds the keyword of its serial. `conditional`: with UNCHANGEDSINCE.
    Store {
        mailbox: Guid,
        uids: BTreeMap<u32, Serial>,
        conditional: bool,
    },
    Expunge {
        mailbox: Guid,
        uids: BTreeMap<u32, Serial>,
        only_deleted: bool,
    },
    /// `uids`: message and keywords of each. `made`: the UID in `to` of each source UID.
    Copy {
        from: Guid,
        to: Guid,
        remove: bool,
        whole: bool,
        uids: BTreeMap<u32, Instance>,
        made: BTreeMap<u32, u32>,
    },
    Tree(Change),
}

#[derive(Clone, Debug)]
pub struct Op {
    pub fate: Fate,
    /// An effect of it was visible: it can only become a yes.
    pub seen: bool,
    pub kind: Kind,
    /// What the account had given out when it was invoked.
    pub modseq: u64,
    pub uid_next: BTreeMap<Guid, u32>,
}

/// A message in a mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    pub message: Serial,
    /// The stores whose keyword it must have.
    pub tags: BTreeSet<Serial>,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub octets: u64,
}

/// Everything known of one account.
#[derive(Default)]
pub struct Ledger {
    pub ops: BTreeMap<Serial, Op>,
    pub messages: BTreeMap<Serial, Message>,
    pub by_guid: BTreeMap<Guid, Serial>,
    /// Messages that must be there.
    pub alive: BTreeMap<(Guid, u32), Instance>,
    /// Messages that must not come back, and the lowest MODSEQ from which on their going must be logged.
    pub dead: BTreeMap<(Guid, u32), Serial>,
    pub tree: Tree,
    /// Mailboxes that are gone for good.
    pub gone: BTreeSet<Guid>,
    /// Highest values told or seen.
    pub modseq: u64,
    pub uid_next: BTreeMap<Guid, u32>,
    /// Since the last start it was compared with what is stored, and unknown operations were decided.
    pub decided: bool,
    pub in_flight: usize,
    /// A change to the mailboxes that has no answer: no second one until it has.
    pub changing: Option<Serial>,
    /// The operations that rename INBOX.
    pub renames: Vec<Serial>,
    /// Deliveries to INBOX that have an id, in the order in which they were begun.
    pub sent: Vec<Serial>,
    /// Appends that were not found yet, as far as anybody has looked.
    pub unplaced: BTreeSet<Serial>,
}

/// How much a run did: a scenario that does nothing proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub yes: u64,
    pub no: u64,
    pub refused: u64,
    pub unknown: u64,
    pub observed: u64,
    pub bodies: u64,
    pub compared: u64,
    pub flushes: u64,
    pub compactions: u64,
    pub cuts: u64,
    pub checks: u64,
    /// Deliveries that were sent again, and told to be known.
    pub repeated: u64,
    pub lives: u64,
}

#[derive(Default)]
pub struct Oracle {
    next: Cell<Serial>,
    pub accounts: RefCell<BTreeMap<AccountId, Ledger>>,
    pub errors: RefCell<Vec<String>>,
    pub figures: RefCell<Figures>,
}

impl Oracle {
    pub fn error(&self, text: String) {
        self.errors.borrow_mut().push(text);
    }

    pub fn serial(&self) -> Serial {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    pub fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.figures.borrow_mut());
    }

    pub fn with<T>(&self, account: &AccountId, look: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut accounts = self.accounts.borrow_mut();
        if !accounts.contains_key(account) {
            accounts.insert(account.clone(), Ledger::default());
        }
        look(accounts.get_mut(account).expect("inserted"))
    }

    pub fn invoke(&self, account: &AccountId, serial: Serial, kind: Kind) {
        self.with(account, |ledger| {
            ledger.in_flight += 1;
            if let Kind::Tree(_) = kind {
                ledger.changing = Some(serial);
            }
            match kind {
                Kind::Append { .. } => drop(ledger.unplaced.insert(serial)),
                Kind::Tree(Change::RenameInbox { .. }) => ledger.renames.push(serial),
                _ => {}
            }
            let (modseq, uid_next) = (ledger.modseq, ledger.uid_next.clone());
            ledger.ops.insert(serial, Op { fate: Fate::Invoked, seen: false, kind, modseq, uid_next });
        });
    }

    /// The machine ended: whoever still waited for an answer does not get one.
    pub fn life_ended(&self) {
        for ledger in self.accounts.borrow_mut().values_mut() {
            ledger.in_flight = 0;
            ledger.decided = false;
            for op in ledger.ops.values_mut().filter(|op| op.fate == Fate::Invoked) {
                op.fate = Fate::Unknown;
                self.figures.borrow_mut().unknown += 1;
            }
        }
    }

    pub fn answer(&self, account: &AccountId, serial: Serial, answer: Answer) {
        self.count(|figures| match answer {
            Answer::Yes(_) => figures.yes += 1,
            Answer::Refused(_) => figures.refused += 1,
            Answer::No => figures.no += 1,
            Answer::Unknown => figures.unknown += 1,
        });
        let mut errors = Vec::new();
        self.with(account, |ledger| ledger.answer(serial, answer, &mut errors));
        errors.into_iter().for_each(|error| self.error(format!("{account}: {error}")));
    }

    pub fn observe(&self, account: &AccountId, state: &State, decide: bool) {
        self.count(|figures| figures.observed += 1);
        let mut errors = Vec::new();
        self.with(account, |ledger| ledger.observe(state, decide, &mut errors));
        errors.into_iter().for_each(|error| self.error(format!("{account}: {error}")));
    }
}

/// What a client was told.
#[derive(Debug)]
pub enum Answer {
    /// `None`: a yes without particulars.
    Yes(Option<Applied>),
    Refused(Refusal),
    No,
    Unknown,
}

impl Ledger {
    fn answer(&mut self, serial: Serial, answer: Answer, errors: &mut Vec<String>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let mut op = self.ops.remove(&serial).expect("invoked before");
        op.fate = match &answer {
            Answer::Yes(_) => Fate::Yes,
            Answer::Refused(_) | Answer::No => Fate::No,
            Answer::Unknown => Fate::Unknown,
        };
        if op.fate == Fate::No && op.seen {
            errors.push(format!("operation {serial} was refused and is there: {op:?}"));
        }
        if let Kind::Tree(change) = op.kind.clone() {
            match (&answer, self.tree.after(&change)) {
                (Answer::Yes(_), Ok(tree)) => self.change_tree(tree),
                (Answer::Refused(refusal), Err(expected)) if *refusal == expected => {}
                (Answer::Yes(_) | Answer::Refused(_), expected) => {
                    errors.push(format!("{change:?} was answered {answer:?}, expected {:?}", expected.err()));
                }
                (Answer::No | Answer::Unknown, _) => {}
            }
            if op.fate != Fate::Unknown {
                self.changing = None;
            }
        }
        if let Answer::Yes(Some(applied)) = answer {
            self.told(serial, &mut op, &applied, errors);
        }
        self.ops.insert(serial, op);
    }

    /// Messages of mailboxes that are no more are gone for good.
    pub fn change_tree(&mut self, tree: Tree) {
        self.gone.extend(self.tree.guids().difference(&tree.guids()).copied());
        self.tree = tree;
        let lost: Vec<(Guid, u32)> =
            self.alive.keys().filter(|key| self.gone.contains(&key.0)).copied().collect();
        lost.into_iter().for_each(|key| self.died(key));
    }

    pub fn died(&mut self, key: (Guid, u32)) {
        if let Some(instance) = self.alive.remove(&key) {
            self.dead.insert(key, instance.message);
        }
    }

    /// A message is at a place for the first time. One place never names two messages.
    pub fn born(&mut self, key: (Guid, u32), instance: Instance, errors: &mut Vec<String>) {
        let known = self.alive.get(&key).map(|known| known.message).or(self.dead.get(&key).copied());
        match known {
            Some(message) if message != instance.message => {
                errors.push(format!("{key:?} names message {} and message {message}", instance.message));
            }
            Some(_) => {
                if let Some(known) = self.alive.get_mut(&key) {
                    known.tags.extend(instance.tags);
                }
            }
            None if self.gone.contains(&key.0) => drop(self.dead.insert(key, instance.message)),
            None => drop(self.alive.insert(key, instance)),
        }
    }

    fn told(&mut self, serial: Serial, op: &mut Op, applied: &Applied, errors: &mut Vec<String>) {
        let told_next = |guid: &Guid| op.uid_next.get(guid).copied().unwrap_or(1);
        let validity = |tree: &Tree, guid: Guid| {
            tree.entries.values().find(|entry| entry.guid == Some(guid)).map(|entry| entry.uid_validity)
        };
        match (&mut op.kind, applied) {
            (Kind::Append { mailbox: Some(guid), instance }, Applied::Append { uid_validity, uid }) => {
                let uid = uid.get();
                if uid < told_next(guid) {
                    errors.push(format!(
                        "append {serial} got UID {uid}, told before: UIDNEXT {}",
                        told_next(guid)
                    ));
                }
                if validity(&self.tree, *guid).is_some_and(|known| known != uid_validity.get()) {
                    errors.push(format!("append {serial} got UIDVALIDITY {uid_validity}"));
                }
                // A RENAME of INBOX in the append's own batch moves the message before anybody has read the answer.
                let renamed = |seen: (Guid, u32)| {
                    *guid == Guid::INBOX && self.renames_of_inbox().any(|(target, _)| target == seen.0)
                };
                if let Some(seen) = instance.filter(|seen| renamed(*seen)) {
                    self.dead.insert((*guid, uid), serial);
                    self.raise_uid_next(*guid, uid + 1);
                    *instance = Some(seen);
                    return;
                }
                if instance.is_some_and(|seen| seen != (*guid, uid)) {
                    errors.push(format!("append {serial} got UID {uid}, it was seen at {instance:?}"));
                }
                *instance = Some((*guid, uid));
                self.raise_uid_next(*guid, uid + 1);
                self.born((*guid, uid), Instance { message: serial, tags: BTreeSet::new() }, errors);
            }
            (Kind::Store { mailbox, uids, conditional }, Applied::Store { changed, modseq, modified }) => {
                for uid in changed.iter() {
                    if !uids.contains_key(&uid) {
                        errors.push(format!("store {serial} changed UID {uid}, which was not named"));
                    } else if let Some(instance) = self.alive.get_mut(&(*mailbox, uid)) {
                        instance.tags.insert(serial);
                    }
                }
                for uid in uids.keys().filter(|uid| !changed.contains(**uid)) {
                    // Another operation may have removed it meanwhile, which is checked when it is next observed.
                    if self.alive.get(&(*mailbox, *uid)).is_some_and(|held| held.tags.contains(&serial)) {
                        errors.push(format!("store {serial} left UID {uid} out and changed it"));
                    }
                }
                if !*conditional && !modified.is_empty() {
                    errors.push(format!("store {serial} without UNCHANGEDSINCE failed for {modified}"));
                }
                if !changed.is_empty() {
                    self.raise_modseq(serial, op.modseq, modseq.get(), errors);
                }
            }
            (Kind::Expunge { mailbox, uids, .. }, Applied::Expunge { uids: gone, modseq }) => {
                for uid in gone.iter() {
                    if !uids.contains_key(&uid) {
                        errors.push(format!("expunge {serial} removed UID {uid}, which was not named"));
                    }
                    self.died((*mailbox, uid));
                }
                if !gone.is_empty() {
                    self.raise_modseq(serial, op.modseq, modseq.get(), errors);
                }
            }
            (
                Kind::Copy { from, to, remove, whole, uids, made },
                Applied::Copy { from: copied, to: given, .. },
            ) => {
                let (sources, targets): (Vec<u32>, Vec<u32>) =
                    (copied.iter().collect(), given.iter().collect());
                let pairs = sources.iter().copied().zip(targets.iter().copied());
                let message = |uid: &u32| uids.get(uid).map(|instance| instance.message);
                let told: BTreeMap<u32, _> = pairs.map(|(uid, new)| (new, message(&uid))).collect();
                // What was seen of two copies of one message under way may have been put down to the wrong one.
                let seen = made.iter().filter_map(|(uid, new)| Some((*new, message(uid)?)));
                let strange: Vec<_> =
                    seen.filter(|(new, message)| told.get(new) != Some(&Some(*message))).collect();
                let explained = strange.iter().all(|(new, message)| self.other_copy(*to, *new, *message));
                if *whole && sources.len() != uids.len() {
                    errors
                        .push(format!("copy {serial} of {} messages was to be whole: {copied}", uids.len()));
                }
                if sources.len() != targets.len() || !explained {
                    errors.push(format!("copy {serial} told {copied} to {given}, seen was {made:?}"));
                }
                *made = sources.iter().copied().zip(targets.iter().copied()).collect();
                if let Some(first) = targets.first().filter(|first| **first < told_next(to)) {
                    errors.push(format!(
                        "copy {serial} gave UID {first}, told before: UIDNEXT {}",
                        told_next(to)
                    ));
                }
                for (uid, new) in made.clone() {
                    let Some(instance) = uids.get(&uid).cloned() else {
                        errors.push(format!("copy {serial} took UID {uid}, which was not named"));
                        continue;
                    };
                    self.raise_uid_next(*to, new + 1);
                    self.born((*to, new), instance, errors);
                    if *remove {
                        self.died((*from, uid));
                    }
                }
            }
            (Kind::Tree(_), Applied::Done) => {}
            (kind, applied) => errors.push(format!("operation {serial} {kind:?} was answered {applied:?}")),
        }
    }

    /// Whether another copy of this message made the one at `new`, or may have: then it is put down to that.
    fn other_copy(&mut self, mailbox: Guid, new: u32, message: Serial) -> bool {
        let mut open = None;
        for (serial, op) in self.ops.iter().filter(|(_, op)| op.fate != Fate::No) {
            let Kind::Copy { to, uids, made, .. } = &op.kind else { continue };
            if *to != mailbox {
                continue;
            }
            if made.values().any(|uid| *uid == new) {
                return true;
            }
            let source = uids.iter().find(|(uid, held)| held.message == message && !made.contains_key(*uid));
            if let Some((source, _)) = source.filter(|_| op.fate.open()) {
                open.get_or_insert((*serial, *source));
            }
        }
        let Some((serial, source)) = open else { return false };
        let op = self.ops.get_mut(&serial).expect("found above");
        if let Kind::Copy { made, .. } = &mut op.kind {
            made.insert(source, new);
        }
        op.seen = true;
        true
    }

    pub fn raise_uid_next(&mut self, guid: Guid, uid_next: u32) {
        let told = self.uid_next.entry(guid).or_insert(1);
        *told = uid_next.max(*told);
    }

    /// A change that came after one that was told has a higher MODSEQ.
    fn raise_modseq(&mut self, serial: Serial, before: u64, modseq: u64, errors: &mut Vec<String>) {
        if modseq <= before {
            errors.push(format!("operation {serial} got MODSEQ {modseq}, told before it: {before}"));
        }
        self.modseq = self.modseq.max(modseq);
    }
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.yes += other.yes;
        self.no += other.no;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.observed += other.observed;
        self.bodies += other.bodies;
        self.compared += other.compared;
        self.flushes += other.flushes;
        self.compactions += other.compactions;
        self.cuts += other.cuts;
        self.checks += other.checks;
        self.repeated += other.repeated;
        self.lives += other.lives;
    }

    /// Whether everything that a run is about has happened.
    pub fn proves_something(&self) -> bool {
        let all = [
            self.yes / 1000,
            self.no,
            self.refused,
            self.unknown,
            self.bodies / 1000,
            self.compared / 100,
            self.flushes,
            self.compactions,
            self.cuts,
            self.checks,
            self.repeated / 20,
        ];
        all.iter().all(|count| *count > 0)
    }
}
