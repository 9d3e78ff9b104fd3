//! Commands as they are drawn: free of any state, so that one can be taken out of a sequence and the others still
//! mean something. What they name is found when they are played.

use crate::account::{CONTENTS, DATES, How};
use crate::random::Random;

pub const NAMES: [&str; 11] =
    ["INBOX", "INBOX", "A", "A/B", "A/B/C", "D", "D/E", "INBOX/K", "inbox/k", "Entw&APw-rfe", "iNboX"];
pub const PATTERNS: [(&str, &str); 9] = [
    ("", "*"),
    ("", "%"),
    ("", "A/%"),
    ("A/", "%"),
    ("", "%/%"),
    ("", "inbox*"),
    ("", "D"),
    ("", "*B*"),
    ("", "%/B%"),
];
pub const FLAGS: [&str; 8] =
    ["\\seen", "\\deleted", "\\flagged", "\\answered", "\\draft", "work", "$later", "junk"];
pub const ENTRIES: [&str; 5] =
    ["/private/comment", "/private/a/b", "/private/a/b/c", "/private/vendor/x/y", "/shared/comment"];
pub const VALUES: [&str; 4] = ["", "one", "two\\words\"", "three\r\nlines"];
pub const ABOVE: [&str; 4] = ["/private", "/private/a", "/shared", "/private/comment"];
pub const DEPTHS: [&str; 3] = ["0", "1", "infinity"];
pub const WORDS: [&str; 12] =
    ["apple", "PEAR", "plum", "fig", "river", "Stone", "cloud", "anna", "boris", "clara", "nowhere", "ppl"];
pub const SEARCH_DATES: [(u32, &str); 6] = [
    (20240105, "5-Jan-2024"),
    (20240106, "06-Jan-2024"),
    (20231231, "31-Dec-2023"),
    (20240101, "1-Jan-2024"),
    (20240229, "29-Feb-2024"),
    (20240301, "1-Mar-2024"),
];

#[derive(Clone, Copy, Debug)]
pub enum End {
    Star,
    /// Brought into range when it is played.
    Number(u16),
}

#[derive(Clone, Debug)]
pub enum Pick {
    /// `$` (RFC 5182).
    Saved,
    Ranges(Vec<(End, End)>),
}

#[derive(Clone, Debug)]
pub enum Key {
    All,
    /// Of [`FLAGS`].
    Flag(usize, bool),
    Recent,
    New,
    Old,
    Sequence(Pick),
    Uid(Pick),
    /// Of [`SEARCH_DATES`].
    Before(usize),
    On(usize),
    Since(usize),
    SentBefore(usize),
    SentOn(usize),
    SentSince(usize),
    Larger(u32),
    Smaller(u32),
    /// Of [`WORDS`].
    Subject(usize),
    From(usize),
    Body(usize),
    Text(usize),
    Tagged,
    ModSeq(u16),
    Not(Box<Key>),
    Or(Box<Key>, Box<Key>),
    And(Vec<Key>),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Returns {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    pub save: bool,
}

/// What a client with a cache tells of it at SELECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Nothing,
    All,
    Listed,
    /// Every other UID.
    Half,
}

#[derive(Clone, Debug)]
pub enum Act {
    Append {
        to: usize,
        flags: Vec<usize>,
        date: usize,
        content: usize,
    },
    Store {
        uid: bool,
        set: Pick,
        how: How,
        silent: bool,
        flags: Vec<usize>,
        unchanged_since: Option<u16>,
    },
    Expunge,
    UidExpunge(Pick),
    Copy {
        uid: bool,
        set: Pick,
        to: usize,
        remove: bool,
    },
    Create(usize, bool),
    Delete(usize),
    Rename(usize, usize),
    Subscribe(usize, bool),
    List(usize),
    Lsub(usize),
    Status(usize, bool),
    /// Of a mailbox or (`None`) of the server: places in [`ENTRIES`] and [`VALUES`]; `None` removes.
    Annotate(Option<usize>, Vec<(usize, Option<usize>)>),
    /// Those below a place in [`ABOVE`], to that depth.
    Annotations(Option<usize>, usize, usize),
    Quota,
    Select {
        name: usize,
        read_only: bool,
        condstore: bool,
        resync: Option<Known>,
    },
    Unselect,
    Close,
    Noop,
    Check,
    Fetch {
        uid: bool,
        set: Pick,
        items: u8,
        changed_since: Option<u16>,
        vanished: bool,
    },
    Body {
        uid: bool,
        set: Pick,
        peek: bool,
        partial: Option<(u32, u32)>,
    },
    Search {
        uid: bool,
        key: Key,
        returns: Option<Returns>,
    },
    Sort {
        uid: bool,
        key: Key,
        /// Places in [`CRITERIA`], and whether reversed.
        criteria: Vec<(usize, bool)>,
    },
    /// By ORDEREDSUBJECT.
    Thread {
        uid: bool,
        key: Key,
    },
    Reconnect {
        logout: bool,
    },
    /// With a NOOP behind it, in one packet.
    Followed(Box<Act>),
    /// IDLE, while another session does this.
    Idle(Box<Op>),
}

#[derive(Clone, Debug)]
pub struct Op {
    pub session: usize,
    pub act: Act,
}

fn set(random: &mut Random) -> Pick {
    if random.one_in(12) {
        return Pick::Saved;
    }
    let end = |random: &mut Random| {
        if random.one_in(6) { End::Star } else { End::Number(random.draw() as u16) }
    };
    let ranges = 1 + random.below(3);
    if random.one_in(5) {
        return Pick::Ranges(vec![(End::Number(0), End::Star)]);
    }
    let mut range = || {
        let first = end(random);
        if random.one_in(2) { (first, first) } else { (first, end(random)) }
    };
    Pick::Ranges((0..ranges).map(|_| range()).collect())
}

fn flags(random: &mut Random) -> Vec<usize> {
    let mut flags: Vec<usize> = (0..random.below(3)).map(|_| random.below(FLAGS.len())).collect();
    // Without them there is nothing to expunge.
    if random.one_in(4) {
        flags.push(1);
    }
    flags.sort_unstable();
    flags.dedup();
    flags
}

fn key(random: &mut Random, depth: usize) -> Key {
    let deep = if depth == 0 { 0 } else { 5 };
    match random.below(21 + deep) {
        0 => Key::All,
        1..=4 => Key::Flag(random.below(FLAGS.len()), random.one_in(2)),
        5 => random.pick(&[Key::Recent, Key::New, Key::Old]),
        6 => Key::Sequence(set(random)),
        7 => Key::Uid(set(random)),
        8 => Key::Before(random.below(SEARCH_DATES.len())),
        9 => Key::On(random.below(SEARCH_DATES.len())),
        10 => Key::Since(random.below(SEARCH_DATES.len())),
        11 => Key::SentBefore(random.below(SEARCH_DATES.len())),
        12 => Key::SentOn(random.below(SEARCH_DATES.len())),
        13 => Key::SentSince(random.below(SEARCH_DATES.len())),
        14 => Key::Larger(80 + random.below(60) as u32),
        15 => Key::Smaller(80 + random.below(60) as u32),
        16 => Key::Subject(random.below(WORDS.len())),
        17 => random.pick(&[Key::From(7), Key::From(8), Key::Tagged]),
        18 => Key::Body(random.below(WORDS.len())),
        19 => Key::Text(random.below(WORDS.len())),
        20 => Key::ModSeq(random.draw() as u16),
        21 | 22 => Key::Not(Box::new(key(random, depth - 1))),
        23 | 24 => Key::Or(Box::new(key(random, depth - 1)), Box::new(key(random, depth - 1))),
        _ => Key::And((0..1 + random.below(3)).map(|_| key(random, depth - 1)).collect()),
    }
}

/// What messages are sorted by.
pub const CRITERIA: [&str; 5] = ["ARRIVAL", "DATE", "FROM", "SIZE", "SUBJECT"];

fn returns(random: &mut Random) -> Returns {
    let bits = random.draw();
    let bit = |at: u32| bits >> at & 1 == 1;
    Returns { min: bit(0), max: bit(1), all: bit(2), count: bit(3), save: bit(4) }
}

fn maybe<T>(random: &mut Random, one_in: usize, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
    if random.one_in(one_in) { Some(value(random)) } else { None }
}

/// `None` once in so many times.
fn maybe_not<T>(random: &mut Random, one_in: usize, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
    if random.one_in(one_in) { None } else { Some(value(random)) }
}

fn act(random: &mut Random) -> Act {
    // A few names more often, so that the sessions meet there.
    let name =
        |random: &mut Random| if random.one_in(2) { 2 + random.below(3) } else { random.below(NAMES.len()) };
    let modseq = |random: &mut Random| random.draw() as u16;
    match random.below(103) {
        100..103 => Act::Annotate(
            maybe_not(random, 4, name),
            (0..1 + random.below(2))
                .map(|_| {
                    (random.below(ENTRIES.len()), maybe_not(random, 3, |random| random.below(VALUES.len())))
                })
                .collect(),
        ),
        0..13 => Act::Append {
            to: if random.one_in(3) { name(random) } else { 0 },
            flags: flags(random),
            date: random.below(DATES.len()),
            content: random.below(CONTENTS.len()),
        },
        13..28 => Act::Store {
            uid: random.one_in(2),
            set: set(random),
            how: random.pick(&[How::Replace, How::Add, How::Add, How::Remove]),
            silent: random.one_in(2),
            flags: flags(random),
            unchanged_since: maybe(random, 4, modseq),
        },
        28..32 => Act::Expunge,
        32..34 => Act::UidExpunge(set(random)),
        34..38 => Act::Copy { uid: random.one_in(2), set: set(random), to: name(random), remove: false },
        38..42 => Act::Copy { uid: random.one_in(2), set: set(random), to: name(random), remove: true },
        42..47 => Act::Create(name(random), random.one_in(5)),
        47..50 => Act::Delete(name(random)),
        50..52 => Act::Rename(name(random), name(random)),
        52..54 => Act::Subscribe(name(random), !random.one_in(3)),
        54 if random.one_in(3) => Act::Quota,
        54 => Act::Annotations(
            maybe_not(random, 4, name),
            random.below(ABOVE.len()),
            random.below(DEPTHS.len()),
        ),
        55 => Act::List(random.below(PATTERNS.len())),
        56 => Act::Lsub(random.below(PATTERNS.len())),
        57..60 => Act::Status(name(random), random.one_in(3)),
        60..69 => Act::Select {
            name: if random.one_in(2) { name(random) } else { 0 },
            read_only: random.one_in(6),
            condstore: random.one_in(5),
            resync: if random.one_in(4) {
                None
            } else {
                Some(random.pick(&[Known::Nothing, Known::Nothing, Known::All, Known::Listed, Known::Half]))
            },
        },
        69 => random.pick(&[Act::Unselect, Act::Close]),
        70..77 => Act::Noop,
        77 => Act::Check,
        78..85 => Act::Fetch {
            uid: random.one_in(2),
            set: set(random),
            items: random.draw() as u8,
            changed_since: maybe(random, 4, modseq),
            vanished: random.one_in(2),
        },
        85..88 => Act::Body {
            uid: random.one_in(2),
            set: set(random),
            peek: !random.one_in(3),
            partial: maybe(random, 2, |random| (random.below(150) as u32, 1 + random.below(150) as u32)),
        },
        88 | 89 => Act::Sort {
            uid: random.one_in(2),
            key: key(random, 2),
            criteria: (0..1 + random.below(3))
                .map(|_| (random.below(CRITERIA.len()), random.one_in(2)))
                .collect(),
        },
        90 => Act::Thread { uid: random.one_in(2), key: key(random, 2) },
        91..98 => {
            Act::Search { uid: random.one_in(2), key: key(random, 3), returns: maybe(random, 2, returns) }
        }
        98.. => Act::Reconnect { logout: random.one_in(2) },
    }
}

/// Those of [`act`] that can stand anywhere.
fn plain(random: &mut Random, wanted: fn(&Act) -> bool) -> Act {
    loop {
        let drawn = act(random);
        if wanted(&drawn) {
            return drawn;
        }
    }
}

fn any(random: &mut Random, session: usize, sessions: usize) -> Act {
    match random.below(12) {
        0 => Act::Followed(Box::new(plain(random, |act| {
            matches!(
                act,
                Act::Append { .. }
                    | Act::Store { .. }
                    | Act::Fetch { .. }
                    | Act::Search { .. }
                    | Act::Sort { .. }
                    | Act::Thread { .. }
                    | Act::List(_)
                    | Act::Copy { remove: false, .. }
                    | Act::Status(..)
                    | Act::Subscribe(..)
            )
        }))),
        1 => {
            let other = (session + 1 + random.below(sessions - 1)) % sessions;
            let act =
                plain(random, |act| !matches!(act, Act::Noop | Act::Check | Act::List(_) | Act::Lsub(_)));
            Act::Idle(Box::new(Op { session: other, act }))
        }
        _ => act(random),
    }
}

/// `count` commands of `sessions` sessions, which are two or more. The first fill the INBOX, so that there is something to do.
pub fn sequence(random: &mut Random, sessions: usize, count: usize) -> Vec<Op> {
    let filled = 3 + random.below(6);
    let fill = |random: &mut Random| Act::Append {
        to: 0,
        flags: flags(random),
        date: random.below(DATES.len()),
        content: random.below(CONTENTS.len()),
    };
    let mut ops: Vec<Op> = (0..filled).map(|_| Op { session: 0, act: fill(random) }).collect();
    ops.extend((0..count).map(|_| {
        let session = random.below(sessions);
        Op { session, act: any(random, session, sessions) }
    }));
    ops
}
