//! Micro-benchmarks of the index: one mailbox of 100,000 messages, as many an INBOX has them.

use std::process::ExitCode;
use std::rc::Rc;

use cases::Case;
use cases::mail::Random;
use culver_index::{Block, FlagId, MailboxIndex, NewMessage, StoreOp};
use culver_model::{FlagSet, Guid, InternalDate, Keyword, ModSeq, SystemFlag, Uid, UidSet, UidValidity};

const MESSAGES: u32 = 100_000;
/// What an ordinary flush or search meets.
const SOME: u32 = 1_000;

const ENVELOPE: &[u8] = b"(\"Tue, 24 Nov 2026 09:58:41 +0100\" \"Re: the quarterly report\" ((\"Office\" NIL \"office\" \
    \"example.net\")) ((\"Office\" NIL \"office\" \"example.net\")) ((\"Office\" NIL \"office\" \"example.net\")) ((\"Joe \
    Doe\" NIL \"joe\" \"example.org\")) NIL NIL \"<1f2e3d@example.org>\" \"<a1b2c3d4e5f6@example.net>\")";
const BODY: &[u8] =
    b"((\"TEXT\" \"PLAIN\" (\"CHARSET\" \"utf-8\") NIL NIL \"7BIT\" 1500 30)(\"TEXT\" \"HTML\" \
    (\"CHARSET\" \"utf-8\") NIL NIL \"QUOTED-PRINTABLE\" 6000 120) \"ALTERNATIVE\")";
const HEADERS: &[u8] = b"From: Office <office@example.net>\r\nTo: Joe Doe <joe@example.org>\r\nSubject: Re: the \
    quarterly report\r\nDate: Tue, 24 Nov 2026 09:58:41 +0100\r\nMessage-ID: <a1b2c3d4e5f6@example.net>\r\n\r\n";

fn message(number: u32, flags: &FlagSet) -> NewMessage<'_> {
    let mut guid = [0x5a; 16];
    guid[..4].copy_from_slice(&number.to_le_bytes());
    let mut place = [1; 32];
    place[16..20].copy_from_slice(&number.to_le_bytes());
    NewMessage {
        flags,
        internal_date: InternalDate { seconds: 1_700_000_000 + i64::from(number), zone_minutes: 60 },
        save_date: 1_700_000_000 + i64::from(number),
        size: 2_000 + u64::from(number % 5_000),
        guid: Guid(guid),
        place,
        prefix_len: 180,
        shared: false,
        thread_id: 0,
        email_id: Guid(guid),
        pop3_uidl: None,
        pop3_order: 0,
        origin: Guid::INBOX,
        key_id: 0,
        envelope: ENVELOPE,
        body: BODY,
        bodystructure: BODY,
        parts: &[7; 60],
        headers: HEADERS,
        headers_complete: true,
    }
}

/// Most are read, one in eight is not, some are flagged, one in sixteen has a keyword.
fn flags(random: &mut Random) -> FlagSet {
    let mut system = 0;
    for (flag, one_in, has) in
        [(SystemFlag::Seen, 8, false), (SystemFlag::Flagged, 20, true), (SystemFlag::Answered, 4, true)]
    {
        if (random.below(one_in) == 0) == has {
            system |= flag.bit();
        }
    }
    let keywords =
        if random.below(16) == 0 { vec![Keyword::new("$Forwarded").expect("an atom")] } else { Vec::new() };
    FlagSet { system, keywords }
}

fn append(index: &mut MailboxIndex, count: u32, modseq: ModSeq) {
    let mut random = Random(u64::from(index.uid_next().get()));
    for _ in 0..count {
        let (number, flags) = (index.uid_next().get(), flags(&mut random));
        index.append(message(number, &flags), modseq).expect("there is room");
    }
}

/// The mailbox, open as it is after a start, and the block that it was opened from.
struct Mailbox {
    index: MailboxIndex,
    base: Rc<Vec<u8>>,
}

fn mailbox() -> Mailbox {
    let mut index = MailboxIndex::new(Guid::INBOX, UidValidity::MIN, ModSeq(1));
    append(&mut index, MESSAGES, ModSeq(2));
    let base = Rc::new(index.encode_base().0);
    Mailbox { index: open(&base, &[]), base }
}

fn open(base: &Rc<Vec<u8>>, deltas: &[Rc<Vec<u8>>]) -> MailboxIndex {
    let deltas: Vec<Block> = deltas.iter().map(|delta| Block::shared(delta.clone())).collect();
    let index = MailboxIndex::from_blocks(Block::shared(base.clone()), deltas).expect("own bytes");
    assert!(index.len() >= MESSAGES);
    index
}

fn all() -> UidSet {
    UidSet::from_iter([1..=u32::MAX])
}

/// Messages all over the mailbox.
fn spread() -> UidSet {
    (0..SOME).filter_map(|n| Uid::new(n * (MESSAGES / SOME) + 1)).collect()
}

fn system(flag: SystemFlag) -> FlagSet {
    FlagSet { system: flag.bit(), keywords: Vec::new() }
}

/// A day later: some flags changed, some messages came, some went.
fn change(index: &mut MailboxIndex, day: u64) {
    let modseq = ModSeq(2 + day);
    let (set, flags) = (spread(), system(SystemFlag::Flagged));
    let op = if day.is_multiple_of(2) { StoreOp::Remove } else { StoreOp::Add };
    index.store(&set, op, &flags, None, modseq).expect("a system flag");
    append(index, SOME, modseq);
    let first = day as u32 * 500;
    assert_eq!(index.expunge(&UidSet::from_iter([first + 2..=first + 40]), false, modseq).len(), 39);
}

struct Deltas {
    base: Rc<Vec<u8>>,
    deltas: Vec<Rc<Vec<u8>>>,
}

fn deltas() -> Deltas {
    let Mailbox { mut index, base } = mailbox();
    let deltas = (1..=3).map(|day| {
        change(&mut index, day);
        let (delta, token) = index.encode_delta();
        assert!(index.mark_flushed(token));
        Rc::new(delta)
    });
    Deltas { deltas: deltas.collect(), base }
}

fn fresh(mailbox: &Mailbox) -> MailboxIndex {
    mailbox.index.clone()
}

fn changed(mailbox: &Mailbox) -> MailboxIndex {
    let mut index = mailbox.index.clone();
    change(&mut index, 1);
    index
}

fn unseen_flagged(index: &MailboxIndex) -> u64 {
    let seen = index.bitmap(FlagId::system(SystemFlag::Seen));
    let flagged = index.bitmap(FlagId::system(SystemFlag::Flagged));
    let found = (index.uids() - seen) & flagged;
    assert!((400..900).contains(&found.len()), "{}", found.len());
    found.len()
}

fn main() -> ExitCode {
    cases::main(&[
        Case::reading("index/open", mailbox, |mailbox| open(&mailbox.base, &[])),
        Case::reading("index/open_with_3_deltas", deltas, |Deltas { base, deltas }| open(base, deltas)),
        Case::new("index/store_all", mailbox, fresh, |_, index| {
            let stored = index.store(&all(), StoreOp::Add, &system(SystemFlag::Deleted), None, ModSeq(9));
            assert_eq!(stored.expect("a system flag").changed.len(), u64::from(MESSAGES));
        }),
        Case::new("index/store_1000_spread", mailbox, fresh, |_, index| {
            let stored = index.store(&spread(), StoreOp::Add, &system(SystemFlag::Deleted), None, ModSeq(9));
            assert_eq!(stored.expect("a system flag").changed.len(), u64::from(SOME));
        }),
        Case::new("index/unseen_flagged_first", mailbox, fresh, |_, index| unseen_flagged(index)),
        Case::new(
            "index/unseen_flagged_again",
            mailbox,
            |mailbox| {
                let index = fresh(mailbox);
                unseen_flagged(&index);
                index
            },
            |_, index| unseen_flagged(index),
        ),
        Case::reading("index/walk_flags", mailbox, |mailbox| {
            let rows = mailbox.index.rows_all();
            let unseen = rows.filter(|row| !row.has(SystemFlag::Seen)).count();
            assert_eq!(unseen as u32, mailbox.index.unseen_count());
        }),
        Case::reading("index/walk_envelopes", mailbox, |mailbox| {
            let octets: usize = mailbox.index.rows_all().map(|row| row.envelope().len()).sum();
            assert_eq!(octets, ENVELOPE.len() * MESSAGES as usize);
        }),
        Case::new("index/append_1000", mailbox, fresh, |_, index| append(index, SOME, ModSeq(9))),
        Case::new("index/expunge_1000_spread", mailbox, fresh, |_, index| {
            assert_eq!(index.expunge(&spread(), false, ModSeq(9)).len() as u32, SOME);
        }),
        Case::new("index/encode_base", mailbox, changed, |mailbox, index| {
            let (base, _) = index.encode_base();
            assert!(base.len() > mailbox.base.len());
            base
        }),
        Case::new("index/encode_delta", mailbox, changed, |mailbox, index| {
            let (delta, _) = index.encode_delta();
            assert!(delta.len() < mailbox.base.len() / 20);
            delta
        }),
    ])
}
