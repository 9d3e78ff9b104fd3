//! One look at an account's state, compared with all that is known of it.
//!
//! What is visible is committed: it is taken over from here on. What must be there and is not, or is there and cannot
//! be, is an error. After a restart a look also decides what became of operations without an answer.

use crate::oracle::{Fate, Instance, Kind, Ledger, Op, Serial};
use crate::tree::{Change, Tree};
use culver_index::MailboxIndex;
use culver_mailbox::State;
use culver_model::{Guid, ModSeq};
use std::collections::{BTreeMap, BTreeSet};

type Key = (Guid, u32);

impl Ledger {
    pub fn observe(&mut self, state: &State, decide: bool, errors: &mut Vec<String>) {
        let decide = decide && !self.decided;
        self.counters(state, errors);
        self.tree(state, decide, errors);
        let mut there = BTreeSet::new();
        for (guid, index) in &state.mailboxes {
            for row in index.rows_all() {
                let key = (*guid, row.uid().get());
                there.insert(key);
                match self.by_guid.get(&row.guid()).copied() {
                    Some(message) => {
                        if row.size() != self.messages[&message].octets {
                            errors.push(format!("{key:?} has {} octets", row.size()));
                        }
                        self.arrived(key, message, errors);
                        let keywords = row.keywords().map(|keyword| keyword.as_str());
                        self.tagged(key, keywords.collect(), errors);
                    }
                    None => {
                        errors.push(format!("{key:?} holds a message that nobody brought: {:?}", row.guid()))
                    }
                }
            }
        }
        let lost: Vec<Key> = self.alive.keys().filter(|key| !there.contains(*key)).copied().collect();
        lost.into_iter().for_each(|key| self.left(key, errors));
        self.brought(errors);
        for (guid, index) in &state.mailboxes {
            self.expunge_log(*guid, index, errors);
        }
        if decide {
            self.decide(errors);
            self.decided = true;
        }
    }

    /// Nothing that was told goes back.
    fn counters(&mut self, state: &State, errors: &mut Vec<String>) {
        let modseq = state.highest_modseq().get();
        if modseq < self.modseq {
            errors.push(format!("HIGHESTMODSEQ {modseq}, told before: {}", self.modseq));
        }
        self.modseq = self.modseq.max(modseq);
        for (guid, index) in &state.mailboxes {
            let uid_next = index.uid_next().get();
            if let Some(told) = self.uid_next.get(guid).filter(|told| **told > uid_next) {
                errors.push(format!("{guid}: UIDNEXT {uid_next}, told before: {told}"));
            }
            self.raise_uid_next(*guid, uid_next);
            let highest = index.highest_modseq().get();
            if highest > modseq {
                errors.push(format!("{guid}: HIGHESTMODSEQ {highest} above the account's {modseq}"));
            }
            for row in index.rows_all() {
                if row.modseq().get() > highest || row.uid().get() >= uid_next {
                    errors.push(format!("{guid}: UID {} MODSEQ {} out of bounds", row.uid(), row.modseq()));
                }
            }
        }
    }

    /// The mailboxes are those of the model, or those that the change under way gives.
    fn tree(&mut self, state: &State, decide: bool, errors: &mut Vec<String>) {
        let seen = Tree::of(state);
        let known: BTreeSet<Guid> = state.mailboxes.keys().copied().collect();
        if known != seen.guids() || known.len() != state.account.mailboxes.len() {
            errors.push("the mailboxes are not those of the account's list".into());
        }
        let changing = self.changing.and_then(|serial| self.ops.get_mut(&serial));
        let Some(op) = changing else {
            if !self.tree.is(&seen) {
                errors.push(format!("the mailboxes are {seen:?}, expected {:?}", self.tree));
            }
            return self.adopt(seen, errors);
        };
        let Kind::Tree(change) = op.kind.clone() else { unreachable!("only such operations are noted") };
        let after = self.tree.after(&change);
        if after.as_ref().is_ok_and(|after| after.is(&seen)) {
            op.seen = true;
        } else if !self.tree.is(&seen) || op.seen {
            errors.push(format!("the mailboxes are {seen:?}, expected {:?} or after {change:?}", self.tree));
        }
        if decide {
            op.fate = if op.seen { Fate::Yes } else { Fate::No };
            self.changing = None;
            if let (true, Ok(after)) = (op.seen, after) {
                self.change_tree(after);
            }
            self.adopt(seen, errors);
        }
    }

    /// Takes over the GUIDs that were not known. No GUID ever names a second mailbox.
    fn adopt(&mut self, seen: Tree, errors: &mut Vec<String>) {
        if let Some(again) = seen.guids().iter().find(|guid| self.gone.contains(*guid)) {
            errors.push(format!("the mailbox {again} was gone and is back"));
        }
        self.tree = seen;
    }

    /// A message stands at `key`: it is known there, or an operation explains it.
    fn arrived(&mut self, key: Key, message: Serial, errors: &mut Vec<String>) {
        if self.dead.contains_key(&key) {
            errors.push(format!("{key:?} is back, message {message}"));
            return;
        }
        if self.alive.contains_key(&key) {
            self.born(key, Instance { message, tags: BTreeSet::new() }, errors);
            return;
        }
        let (guid, uid) = key;
        let append = self.ops.get_mut(&message).expect("a message has its append");
        if let Kind::Append { mailbox, instance } = &mut append.kind
            && append.fate != Fate::No
            && instance.is_none()
            && mailbox.is_none_or(|mailbox| mailbox == guid)
        {
            (*instance, append.seen) = (Some(key), true);
            return self.born(key, Instance { message, tags: BTreeSet::new() }, errors);
        }
        let unanswered = self.ops.iter_mut().filter(|(_, op)| op.fate.open());
        for op in unanswered.map(|(_, op)| op) {
            let Kind::Copy { to, uids, made, .. } = &mut op.kind else { continue };
            if *to != guid {
                continue;
            }
            // Which of two equal messages it is will be told with the answer, if there is one.
            let source = uids.iter().find(|(uid, held)| held.message == message && !made.contains_key(*uid));
            if let Some(source) = source.map(|(uid, _)| *uid) {
                made.insert(source, uid);
                op.seen = true;
                return self.born(key, Instance { message, tags: BTreeSet::new() }, errors);
            }
        }
        if self.renames_of_inbox().any(|(target, _)| target == guid) {
            let append = self.ops.get_mut(&message).expect("a message has its append");
            if let Kind::Append { instance: instance @ None, .. } = &mut append.kind {
                *instance = Some(key);
                append.seen = true;
            }
            return self.born(key, Instance { message, tags: BTreeSet::new() }, errors);
        }
        errors.push(format!("message {message} is at {key:?}; its append: {:?}", self.ops.get(&message)));
    }

    /// Where INBOX was or may have been renamed to.
    pub fn renames_of_inbox(&self) -> impl Iterator<Item = (Guid, &Op)> {
        let ops = self.renames.iter().filter_map(|serial| self.ops.get(serial));
        ops.filter(|op| op.fate != Fate::No).filter_map(|op| match &op.kind {
            Kind::Tree(Change::RenameInbox { guid, .. }) => Some((*guid, op)),
            _ => None,
        })
    }

    /// It has every keyword that it must have, and others only of stores that may have given them.
    fn tagged(&mut self, key: Key, keywords: Vec<&str>, errors: &mut Vec<String>) {
        let Some(instance) = self.alive.get_mut(&key) else { return };
        let numbers = keywords.iter().filter_map(|keyword| keyword.strip_prefix('k')?.parse().ok());
        let there: BTreeSet<Serial> = numbers.collect();
        if there.len() != keywords.len() {
            errors.push(format!("{key:?} has keywords that nobody gave: {keywords:?}"));
        }
        if let Some(lost) = instance.tags.difference(&there).next() {
            errors.push(format!("{key:?} lost the keyword of store {lost}"));
        }
        for serial in &there {
            match self.ops.get_mut(serial) {
                Some(Op { fate, seen, kind: Kind::Store { uids, .. }, .. })
                    if *fate != Fate::No && uids.values().any(|message| *message == instance.message) =>
                {
                    *seen = true;
                }
                op => errors.push(format!("{key:?} has the keyword of {serial}: {op:?}")),
            }
        }
        instance.tags.extend(there);
    }

    /// A message that was there is gone: an operation without an answer may have done it.
    fn left(&mut self, key: Key, errors: &mut Vec<String>) {
        let (guid, uid) = key;
        let message = self.alive[&key].message;
        let mut explained = false;
        for op in self.ops.values_mut().filter(|op| op.fate.open()) {
            explained |= match &op.kind {
                Kind::Expunge { mailbox, uids, .. } => *mailbox == guid && uids.contains_key(&uid),
                Kind::Copy { from, remove, uids, .. } => *remove && *from == guid && uids.contains_key(&uid),
                Kind::Tree(Change::Delete { guid: deleted }) => *deleted == guid,
                _ => false,
            };
        }
        // What left INBOX by its rename is in the new mailbox, or was before that went.
        explained |= guid == Guid::INBOX
            && self.renames_of_inbox().any(|(target, _)| {
                let keys = (target, 0)..=(target, u32::MAX);
                self.gone.contains(&target)
                    || self.alive.range(keys.clone()).any(|(_, instance)| instance.message == message)
                    || self.dead.range(keys).any(|(_, held)| *held == message)
            });
        if explained {
            self.died(key);
        } else {
            errors.push(format!("message {message} is missing at {key:?}"));
            // Once is enough.
            self.alive.remove(&key);
        }
    }

    /// Every message that was taken was seen somewhere.
    fn brought(&mut self, errors: &mut Vec<String>) {
        let gone = &self.gone;
        let inbox_went = self.renames_of_inbox().any(|(target, _)| gone.contains(&target));
        let changing = self.changing.and_then(|serial| self.ops.get(&serial));
        let deleting =
            changing.is_some_and(|op| op.fate.open() && matches!(op.kind, Kind::Tree(Change::Delete { .. })));
        let ops = &self.ops;
        self.unplaced.retain(|serial| {
            ops.get(serial).is_some_and(|op| {
                op.fate != Fate::No && matches!(op.kind, Kind::Append { instance: None, .. })
            })
        });
        let lost = self.unplaced.iter().copied().find(|serial| {
            let op = &ops[serial];
            let Kind::Append { mailbox, .. } = &op.kind else { return false };
            let may_be_gone =
                mailbox.is_none_or(|guid| gone.contains(&guid) || guid == Guid::INBOX && inbox_went);
            op.fate == Fate::Yes && !may_be_gone && !deleting
        });
        if let Some((serial, op)) = lost.and_then(|serial| Some((serial, self.ops.get_mut(&serial)?))) {
            errors.push(format!("message {serial} was taken and is nowhere: {op:?}"));
            op.fate = Fate::No;
        }
    }

    /// RFC 7162 §3.2.6: what went since a client last looked is named, and nothing that is there.
    fn expunge_log(&self, guid: Guid, index: &MailboxIndex, errors: &mut Vec<String>) {
        let Some(logged) = index.expunged_since(ModSeq::ZERO) else {
            return errors.push(format!("{guid}: the expunge log begins at {}", index.expunge_floor()));
        };
        for (guid, uid) in self.dead.range((guid, 0)..=(guid, u32::MAX)).map(|(key, _)| key) {
            if !logged.contains(*uid) {
                errors.push(format!("{guid}: the expunge of UID {uid} is not in the log"));
                break;
            }
        }
        if let Some(uid) = index.uids().iter().find(|uid| logged.contains(*uid)) {
            errors.push(format!("{guid}: UID {uid} is there and in the expunge log"));
        }
    }

    /// Operations without an answer happened whole or not at all; from now on that stands.
    fn decide(&mut self, errors: &mut Vec<String>) {
        let open: Vec<Serial> =
            self.ops.iter().filter(|(_, op)| op.fate.open()).map(|(serial, _)| *serial).collect();
        let mut fates = BTreeMap::new();
        for serial in &open {
            let op = &self.ops[serial];
            let (done, missing) = self.effects(*serial, op, &open);
            if done > 0 && missing > 0 {
                errors.push(format!(
                    "operation {serial} happened by halves ({done} and not {missing}): {op:?}"
                ));
            }
            if op.seen && done == 0 && missing > 0 {
                errors.push(format!("operation {serial} was visible and is gone: {op:?}"));
            }
            fates.insert(*serial, if done > 0 { Fate::Yes } else { Fate::No });
        }
        for (serial, fate) in fates {
            let op = self.ops.get_mut(&serial).expect("listed above");
            // A part of it that cannot be told apart any more may have been visible.
            op.fate = if op.seen { Fate::Yes } else { fate };
        }
    }

    /// How many of its effects are there, and how many that would be there if it had happened are not.
    fn effects(&self, serial: Serial, op: &Op, open: &[Serial]) -> (usize, usize) {
        let mut count = (0, 0);
        let mut add = |done: bool| if done { count.0 += 1 } else { count.1 += 1 };
        match &op.kind {
            Kind::Append { instance, .. } => add(instance.is_some()),
            Kind::Store { mailbox, uids, conditional } => {
                for uid in uids.keys() {
                    if let Some(instance) = self.alive.get(&(*mailbox, *uid)) {
                        let done = instance.tags.contains(&serial);
                        if done || !conditional {
                            add(done);
                        }
                    }
                }
            }
            Kind::Expunge { mailbox, uids, only_deleted } => {
                for uid in uids.keys() {
                    let there = self.alive.contains_key(&(*mailbox, *uid));
                    // Somebody else without an answer may have removed it, or it was not \Deleted.
                    if there && !only_deleted {
                        add(false);
                    } else if !there && !self.others_removed(serial, (*mailbox, *uid), open) {
                        add(true);
                    }
                }
            }
            Kind::Copy { from, uids, made, .. } => {
                for (uid, instance) in uids {
                    let of_equals = || made.keys().any(|uid| uids[uid].message == instance.message);
                    if made.contains_key(uid) {
                        add(true);
                    } else if self.alive.contains_key(&(*from, *uid)) && !of_equals() {
                        add(false);
                    }
                }
            }
            Kind::Tree(_) => add(op.seen),
        }
        count
    }

    /// Whether another operation removed it or may have.
    fn others_removed(&self, serial: Serial, key: Key, open: &[Serial]) -> bool {
        let (guid, uid) = key;
        let may = |other: &Serial| {
            *other != serial
                && match &self.ops[other].kind {
                    Kind::Expunge { mailbox, uids, .. } => *mailbox == guid && uids.contains_key(&uid),
                    Kind::Copy { from, remove, uids, .. } => {
                        *remove && *from == guid && uids.contains_key(&uid)
                    }
                    _ => false,
                }
        };
        self.gone.contains(&guid)
            || guid == Guid::INBOX && self.renames_of_inbox().next().is_some()
            || open.iter().any(may)
            || self.ops.iter().any(|(other, op)| op.fate == Fate::Yes && may(other))
    }
}
