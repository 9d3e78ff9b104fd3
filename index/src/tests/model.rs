//! Random changes, flushes and reloads, compared with a plain map after each step.

use super::*;
use crate::{Block, FlagId, Limits, StoreOp};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use std::collections::BTreeMap;

const SYSTEM: [SystemFlag; 5] = SystemFlag::ALL;
const LIMITS: Limits = Limits { keywords_max: 70, expunge_log_max: 12, overlay_rows_max: 10 };

#[derive(Clone, Debug)]
enum Step {
    Append { flags: FlagSet, text: String },
    AppendMany { count: u8 },
    Store { uids: UidSet, op: u8, flags: FlagSet, since: Option<u8> },
    Expunge { uids: UidSet, only_deleted: bool },
    Copy { uid: u8 },
    Move { uid: u8, to: u8 },
    Share { uids: UidSet },
    Ask { flag: u8 },
    Raise { uids: u8, modseqs: u8 },
    Delta { mark: bool },
    Base { mark: bool },
    Adopt,
    Fold { rows_max: usize },
    Reload,
}

fn small_set(g: &mut Gen) -> UidSet {
    let count = u8::arbitrary(g) % 4;
    let range = |g: &mut Gen| {
        let first = u32::from(u8::arbitrary(g)) % 120 + 1;
        let length = u32::from(u8::arbitrary(g)) % 40;
        if u8::arbitrary(g) % 8 == 0 { 1..=u32::MAX } else { first..=first + length }
    };
    (0..=count).map(|_| range(g)).collect()
}

fn flag_set(g: &mut Gen) -> FlagSet {
    let system = u8::arbitrary(g) & 0x1f;
    let names: Vec<String> =
        (0..u8::arbitrary(g) % 4).map(|_| format!("k{}", u8::arbitrary(g) % 66)).collect();
    let mut set = FlagSet { system, keywords: Vec::new() };
    for name in names {
        set.insert(culver_model::Flag::parse(&name).expect("an atom"));
    }
    set
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Step {
        match u8::arbitrary(g) % 24 {
            0..=3 => Step::Append { flags: flag_set(g), text: format!("t{}", u8::arbitrary(g)) },
            4..=5 => Step::AppendMany { count: u8::arbitrary(g) % 60 },
            6..=10 => Step::Store {
                uids: small_set(g),
                op: u8::arbitrary(g) % 3,
                flags: flag_set(g),
                since: Option::arbitrary(g),
            },
            11..=13 => Step::Expunge { uids: small_set(g), only_deleted: bool::arbitrary(g) },
            14 => Step::Copy { uid: u8::arbitrary(g) },
            15 => Step::Move { uid: u8::arbitrary(g), to: u8::arbitrary(g) },
            16 => Step::Share { uids: small_set(g) },
            17 => Step::Ask { flag: u8::arbitrary(g) },
            18 => Step::Raise { uids: u8::arbitrary(g) % 3, modseqs: u8::arbitrary(g) % 3 },
            19..=20 => Step::Delta { mark: u8::arbitrary(g) % 4 != 0 },
            21 => Step::Base { mark: u8::arbitrary(g) % 4 != 0 },
            22 => {
                if bool::arbitrary(g) {
                    Step::Adopt
                } else {
                    Step::Fold { rows_max: 1 + usize::arbitrary(g) % 40 }
                }
            }
            _ => Step::Reload,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Plain {
    flags: FlagSet,
    modseq: u64,
    size: u64,
    place: [u8; 32],
    shared: bool,
    text: String,
    guid: Guid,
}

/// The mailbox as anyone would write it, and the blocks stored so far.
struct World {
    index: MailboxIndex,
    map: BTreeMap<u32, Plain>,
    /// UID and MODSEQ of each expunge, for ever.
    expunged: Vec<(u32, u64)>,
    uid_next: u32,
    modseq: u64,
    highest: u64,
    base: Vec<u8>,
    deltas: Vec<Vec<u8>>,
    /// What a reload of the blocks must give: state at the last block.
    stored: Option<Snapshot>,
    number: u32,
}

type Snapshot = (BTreeMap<u32, Plain>, Vec<(u32, u64)>, u32, u64);

fn sorted(flags: &FlagSet) -> FlagSet {
    let mut flags = flags.clone();
    flags.keywords.sort();
    flags
}

impl World {
    fn new() -> World {
        let mut index = index().with_limits(LIMITS);
        let (base, token) = index.encode_base();
        assert!(index.mark_flushed(token));
        World {
            index,
            map: BTreeMap::new(),
            expunged: Vec::new(),
            uid_next: 1,
            modseq: 1,
            highest: 1,
            base,
            deltas: Vec::new(),
            stored: None,
            number: 0,
        }
    }

    fn tick(&mut self) -> ModSeq {
        self.modseq += 1;
        ModSeq(self.modseq)
    }

    fn append(&mut self, flags: &FlagSet, text: &str) {
        let modseq = self.tick();
        self.number += 1;
        let new = message(self.number, flags, text);
        match self.index.append(new, modseq) {
            Ok(uid) => {
                assert_eq!(uid.get(), self.uid_next);
                self.remember(new, modseq);
            }
            Err(error) => assert!(matches!(error, crate::IndexError::Limit(_))),
        }
    }

    fn remember(&mut self, new: NewMessage<'_>, modseq: ModSeq) {
        let plain = Plain {
            flags: sorted(new.flags),
            modseq: modseq.get(),
            size: new.size,
            place: new.place,
            shared: new.shared,
            text: String::from_utf8(new.envelope.to_vec()).expect("text"),
            guid: new.guid,
        };
        self.map.insert(self.uid_next, plain);
        self.uid_next += 1;
        self.highest = self.highest.max(modseq.get());
    }

    fn store(&mut self, uids: &UidSet, op: u8, flags: &FlagSet, since: Option<u8>) {
        let modseq = self.tick();
        let since = since.map(|back| self.modseq.saturating_sub(u64::from(back) / 8));
        let op = [StoreOp::Add, StoreOp::Remove, StoreOp::Replace][usize::from(op)];
        let Ok(stored) = self.index.store(uids, op, flags, since.map(ModSeq), modseq) else {
            return;
        };
        let (mut changed, mut modified) = (UidSet::new(), UidSet::new());
        for (uid, plain) in self.map.iter_mut().filter(|(uid, _)| uids.contains(**uid)) {
            if since.is_some_and(|since| plain.modseq > since) {
                modified.insert(*uid);
                continue;
            }
            let mut new = plain.flags.clone();
            match op {
                StoreOp::Add => {
                    new.system |= flags.system;
                    let missing =
                        flags.keywords.iter().filter(|keyword| !plain.flags.keywords.contains(keyword));
                    new.keywords.extend(missing.cloned());
                }
                StoreOp::Remove => {
                    new.system &= !flags.system;
                    new.keywords.retain(|keyword| !flags.keywords.contains(keyword));
                }
                StoreOp::Replace => new = flags.clone(),
            }
            let new = sorted(&new);
            if new != plain.flags {
                plain.flags = new;
                plain.modseq = modseq.get();
                changed.insert(*uid);
            }
        }
        if !changed.is_empty() {
            self.highest = self.highest.max(modseq.get());
        }
        assert_eq!((stored.changed, stored.modified), (changed, modified));
    }

    fn expunge(&mut self, uids: &UidSet, only_deleted: bool) {
        let modseq = self.tick();
        let gone = self.index.expunge(uids, only_deleted, modseq);
        let leaves = |uid: &u32, plain: &Plain| {
            uids.contains(*uid) && (!only_deleted || plain.flags.has(SystemFlag::Deleted))
        };
        let expected: Vec<u32> =
            self.map.iter().filter(|(uid, plain)| leaves(uid, plain)).map(|(uid, _)| *uid).collect();
        assert_eq!(gone.iter().map(|gone| gone.uid.get()).collect::<Vec<_>>(), expected);
        for gone in &gone {
            let plain = self.map.remove(&gone.uid.get()).expect("expected");
            assert_eq!((gone.place, gone.size, gone.shared), (plain.place, plain.size, plain.shared));
            assert_eq!(gone.guid, plain.guid);
            self.expunged.push((gone.uid.get(), modseq.get()));
            self.highest = self.highest.max(modseq.get());
        }
    }

    /// Folds from a copy, while the mailbox goes on between the steps; a block may be stored meanwhile too.
    fn fold(&mut self, rows_max: usize) {
        let (copy, token) = self.index.begin_fold();
        let mut encoding = copy.begin(true);
        let mut nth = 0;
        while !copy.step(&mut encoding, rows_max) {
            nth += 1;
            match nth {
                1 => self.store(&set(&[(1, 20)]), 0, &flags(&[SystemFlag::Seen], &["k3"]), None),
                2 => self.expunge(&set(&[(4, 5)]), false),
                3 => self.append(&flags(&[SystemFlag::Flagged], &[]), "meanwhile"),
                4 => self.store_block(false, true),
                5 => self.expunge(&set(&[(self.uid_next - 1, self.uid_next)]), false),
                _ => {}
            }
        }
        let mut replaced = self.index.end_fold(token, copy, encoding).expect("no other fold was begun");
        while !replaced.release(3) {}
    }

    fn store_block(&mut self, base: bool, mark: bool) {
        let (bytes, token) = if base { self.index.encode_base() } else { self.index.encode_delta() };
        let summary = crate::check(&bytes).expect("own bytes are sound");
        assert_eq!(u64::from(summary.messages), self.map.len() as u64);
        if mark {
            assert!(self.index.mark_flushed(token));
            assert!(!self.index.dirty());
        }
        if base {
            self.base = bytes;
            self.deltas.clear();
        } else {
            self.deltas.push(bytes);
        }
        self.stored = Some((self.map.clone(), self.expunged.clone(), self.uid_next, self.highest));
    }

    fn reload(&mut self) {
        let deltas = self.deltas.iter().map(|delta| Block::from(delta.clone()));
        let base = Block::shared(std::rc::Rc::new(self.base.clone()));
        let index = MailboxIndex::from_blocks(base, deltas).expect("own bytes").with_limits(LIMITS);
        assert!(!index.dirty());
        let (map, expunged, uid_next, highest) =
            self.stored.clone().unwrap_or_else(|| (BTreeMap::new(), Vec::new(), 1, 1));
        self.index = index;
        self.map = map;
        self.expunged = expunged;
        self.uid_next = uid_next;
        self.highest = highest;
    }

    fn step(&mut self, step: &Step) {
        let uid_of = |uid: u8| Uid::new(u32::from(uid)).unwrap_or(Uid::MIN);
        match step {
            Step::Append { flags, text } => self.append(flags, text),
            Step::AppendMany { count } => (0..*count).for_each(|_| self.append(&FlagSet::default(), "many")),
            Step::Store { uids, op, flags, since } => self.store(uids, *op, flags, *since),
            Step::Expunge { uids, only_deleted } => self.expunge(uids, *only_deleted),
            Step::Copy { uid } => {
                if let Some(copy) = self.index.copy_row(uid_of(*uid)) {
                    let modseq = self.tick();
                    self.index.append(copy.as_new(), modseq).expect("its keywords are known");
                    self.remember(copy.as_new(), modseq);
                }
            }
            Step::Move { uid, to } => {
                let uid = uid_of(*uid);
                let old = self.map.get(&uid.get()).map_or([0; 32], |plain| plain.place);
                assert_eq!(self.index.set_place(uid, &old, [*to; 32]), self.map.contains_key(&uid.get()));
                if let Some(plain) = self.map.get_mut(&uid.get()) {
                    plain.place = [*to; 32];
                }
            }
            Step::Share { uids } => {
                self.index.set_shared(uids);
                let named = self.map.iter_mut().filter(|(uid, _)| uids.contains(**uid));
                named.for_each(|(_, plain)| plain.shared = true);
            }
            Step::Ask { flag } => {
                let _ = self.index.bitmap(FlagId::keyword(u16::from(*flag) % 70));
                let _ = self.index.bitmap(FlagId::system(SYSTEM[usize::from(*flag) % 5]));
            }
            Step::Raise { uids, modseqs } => {
                self.index.raise(u32::from(*uids), u64::from(*modseqs));
                self.uid_next += u32::from(*uids);
                self.highest += u64::from(*modseqs);
                self.modseq = self.modseq.max(self.highest);
            }
            Step::Delta { mark } => self.store_block(false, *mark),
            Step::Base { mark } => self.store_block(true, *mark),
            Step::Adopt => {
                let (bytes, token) = self.index.encode_base();
                self.base = bytes.clone();
                self.deltas.clear();
                self.stored = Some((self.map.clone(), self.expunged.clone(), self.uid_next, self.highest));
                let seen = flags(&[SystemFlag::Seen], &["k3"]);
                self.store(&set(&[(1, 30)]), 0, &seen, None);
                self.expunge(&set(&[(4, 5)]), false);
                self.append(&seen, "after");
                assert_eq!(self.index.adopt(token, Block::from(bytes)), Ok(true));
            }
            Step::Fold { rows_max } => self.fold(*rows_max),
            Step::Reload => self.reload(),
        }
    }

    fn compare(&self) {
        let (index, map) = (&self.index, &self.map);
        assert_eq!(index.uid_next().get(), self.uid_next);
        assert_eq!(index.highest_modseq().get(), self.highest);
        assert_eq!(u64::from(index.len()), map.len() as u64);
        assert_eq!(index.total_size(), map.values().map(|plain| plain.size).sum::<u64>());
        let rows: Vec<u32> = index.rows_all().map(|row| row.uid().get()).collect();
        assert_eq!(rows, map.keys().copied().collect::<Vec<_>>());
        assert!(index.uids().iter().eq(map.keys().copied()));
        for (at, (uid, plain)) in map.iter().enumerate() {
            let id = Uid::new(*uid).expect("not 0");
            let row = index.get(id).expect("in the map");
            let found = Plain {
                flags: sorted(&row.flag_set()),
                modseq: row.modseq().get(),
                size: row.size(),
                place: *row.place(),
                shared: row.shared(),
                text: String::from_utf8(row.envelope().to_vec()).expect("text"),
                guid: row.guid(),
            };
            assert_eq!(&found, plain, "UID {uid}");
            assert_eq!(index.seq_of(id), Some(at as u32 + 1));
            assert_eq!(index.uid_at(at as u32 + 1), Some(id));
        }
        assert_eq!(index.uid_at(map.len() as u32 + 1), None);
        for flag in SYSTEM {
            let having: Vec<u32> =
                map.iter().filter(|(_, plain)| plain.flags.has(flag)).map(|(uid, _)| *uid).collect();
            assert_eq!(index.flag_count(flag) as usize, having.len());
            let bitmap = index.clone();
            assert!(bitmap.bitmap(FlagId::system(flag)).iter().eq(having), "{flag:?}");
        }
        for (id, keyword) in index.keywords().iter().enumerate() {
            let having = map.iter().filter(|(_, plain)| plain.flags.keywords.contains(keyword));
            let bitmap = index.clone();
            assert!(
                bitmap.bitmap(FlagId::keyword(id as u16)).iter().eq(having.map(|(uid, _)| *uid)),
                "{keyword}"
            );
        }
        let unseen = map.iter().find(|(_, plain)| !plain.flags.has(SystemFlag::Seen)).map(|(uid, _)| *uid);
        assert_eq!(index.first_unseen().map(Uid::get), unseen);
        for since in [0, self.modseq / 2, self.modseq.saturating_sub(5), self.modseq] {
            let changed: Vec<u32> =
                map.iter().filter(|(_, plain)| plain.modseq > since).map(|(uid, _)| *uid).collect();
            let found: Vec<u32> = index.changed_since(ModSeq(since)).map(|row| row.uid().get()).collect();
            assert_eq!(found, changed, "changed since {since}");
            match index.expunged_since(ModSeq(since)) {
                None => assert!(since < index.expunge_floor().get()),
                Some(found) => {
                    assert!(since >= index.expunge_floor().get());
                    let gone = self.expunged.iter().filter(|(_, modseq)| *modseq > since);
                    let gone: UidSet = gone.map(|(uid, _)| *uid).collect();
                    assert_eq!(found, gone, "expunged since {since}");
                }
            }
        }
        let odd: UidSet = (1..200u32).step_by(2).collect();
        let picked: Vec<u32> = index.rows(&odd).map(|row| row.uid().get()).collect();
        assert_eq!(picked, map.keys().copied().filter(|uid| odd.contains(*uid)).collect::<Vec<_>>());
    }
}

/// The bitmaps of `self.index` are asked for only by [`Step::Ask`], so both the kept and the fresh are compared.
#[test]
fn random_changes_and_flushes_answer_as_a_plain_map() {
    fn holds(steps: Vec<Step>) -> bool {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.compare();
        }
        true
    }
    QuickCheck::new().tests(300).quickcheck(holds as fn(Vec<Step>) -> bool);
}
