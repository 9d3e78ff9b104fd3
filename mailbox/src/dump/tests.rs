use super::*;
use crate::{Accounts, Arriving, Limits, Session, everything};
use culver_model::{AccountId, EntryName, Flag, MailboxName, PartitionId, Quota, UidSet};
use culver_shard::disk;
use culver_shard::sim::{Sim, SimConfig};
use culver_storage::{Limits as StorageLimits, Root, Storage, dump};
use std::path::Path;

/// The file of a store as `culver dump` shows it.
fn dumped(file: Vec<u8>) -> String {
    let sim = Sim::new(1, SimConfig::default());
    sim.run(async move {
        disk::create_durable("/file", &file).await.expect("the disk is well");
        let mut text = String::new();
        let dumped = dump(Path::new("/file"), &mut describe, &mut text).await;
        dumped.map(|()| text).expect("a file of a store")
    })
}

/// The files of a store after [`some_mail`], by name.
fn files() -> Vec<(String, Vec<u8>)> {
    let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
    let node = sim.node("mail");
    // Only a mailbox that was read from a base gives a delta: it needs a second start.
    for start in 1..=2 {
        sim.start(node, 1, move |_| async move {
            let limits = StorageLimits {
                partitions: 1,
                segment_octets: 128 << 10,
                inline_body_max: 1000,
                ..StorageLimits::default()
            };
            let mut root = Root::open(Path::new("/store"), limits).await.expect("opens");
            let share = root.recover(1).await.expect("recovers").remove(0);
            let storage = Storage::start(share).await.expect("starts");
            let accounts = Accounts::new(Limits::default());
            accounts.attach(storage.clone());
            let account = AccountId::parse("joe@example.org").expect("an id");
            let session = accounts.session(&account).await.expect("opens");
            some_mail(start, session).await;
            storage.flush(PartitionId(0)).await.expect("flushed");
            storage.close(false).await;
        });
        let handle = sim.clone();
        sim.run(async move { handle.exited(node).await });
    }
    let files = sim.files(node).into_iter();
    files.map(|(path, octets)| (path.to_string_lossy().into_owned(), octets)).collect()
}

const MESSAGE: &[u8] = b"From: whistle@blower.example\r\nSubject: confidential\r\n\r\nnobody reads this\r\n";

fn flags(names: &[&str]) -> FlagSet {
    names.iter().map(|name| Flag::parse(name).expect("a flag")).collect()
}

async fn append(session: &Session, filler: usize) {
    let date = InternalDate::new(1_800_000_000, 60);
    let mut arriving = Arriving::begin(session, Guid::INBOX, date, flags(&["\\Seen", "$Work"]), 4_000);
    arriving.feed(MESSAGE).await.expect("taken");
    arriving.feed(&vec![b'x'; filler]).await.expect("taken");
    let (message, body) = arriving.finish().await.expect("taken");
    let record = Record::Append { mailbox: Guid::INBOX, message: Box::new(message) };
    session.change_with(record, Some(body)).await.expect("committed");
}

fn store(names: &[&str]) -> Record {
    let uids: UidSet = [2..=2].into_iter().collect();
    let flags = flags(names);
    Record::Store { mailbox: Guid::INBOX, uids, op: StoreOp::Add, flags, unchanged_since: None }
}

async fn some_mail(start: u32, session: Session) {
    if start == 2 {
        session.change(store(&["\\Deleted", "$Work"])).await.expect("stored");
        let expunge = Record::Expunge { mailbox: Guid::INBOX, uids: everything(), only_deleted: true };
        session.change(expunge).await.expect("expunged");
        return append(&session, 0).await;
    }
    for filler in [0, 2_000, 0, 0, 0, 0, 0, 0, 0, 0] {
        append(&session, filler).await;
    }
    let name = MailboxName::parse("Sent").expect("a name");
    let create = Record::Create {
        guid: Guid([5; 16]),
        name: name.clone(),
        special_use: Some("\\Sent".into()),
        selectable: true,
    };
    session.change(create).await.expect("made");
    session.change(Record::Subscribe { name, on: true }).await.expect("subscribed");
    let entry = |text: &str| EntryName::parse(text.as_bytes()).expect("an entry");
    let entries = vec![
        (entry("/private/comment"), Some(b"whistle".to_vec())),
        (entry("/shared/comment"), None),
        (entry("/private/specialuse"), Some(b"\\Junk".to_vec())),
    ];
    let annotate = Record::Annotate { mailbox: Some(Guid([5; 16])), entries };
    session.change(annotate).await.expect("set");
    let quota = Some(Quota { octets: Some(5 << 20), ..Quota::default() });
    session.change(Record::SetQuota { quota }).await.expect("set");
}

/// Its dumps of one kind of file, one after the other.
fn dumps(files: &[(String, Vec<u8>)], kind: &str) -> String {
    let mut found: Vec<_> = files.iter().filter(|(name, _)| name.contains(kind)).collect();
    found.sort();
    let text: String = found.into_iter().map(|(_, file)| dumped(file.clone())).collect();
    for content in ["confidential", "whistle", "blower", "nobody reads"] {
        assert!(!text.contains(content), "{content} in {text}");
    }
    text
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn a_dumped_segment_has_its_records_in_words() {
    let text = dumps(&files(), "/journal/");
    assert_has(
        &text,
        &[
            "\n  Append mailbox=INBOX uid=given when applied flags=(\\Seen $Work) internal_date=\"15-Jan-2027 09:00:00 +0100\"",
            " parts=(0 text/plain 0+55+19)\n",
            "\n  Create name=\"Sent\" guid=05050505050505050505050505050505 special_use=\\Sent selectable=yes\n",
            "\n  Subscribe name=\"Sent\" on=yes\n",
            "\n  Annotate of=05050505050505050505050505050505 \"/private/comment\"=7 octets \"/shared/comment\" removed",
            "\n  SetQuota octets=5242880 messages=not limited mailboxes=not limited\n",
            "\n  Store mailbox=INBOX uids=2 add=(\\Deleted $Work)\n",
            "\n  Expunge mailbox=INBOX uids=1:4294967295 which=with \\Deleted\n",
        ],
    );
    for line in text.lines().filter(|line| line.contains(" Data partition ")) {
        let meta = line.split(" meta ").nth(1).expect("each record has one");
        let behind = meta.split_once(' ').map_or("body", |(_, behind)| behind);
        assert!(behind.starts_with("body"), "hexadecimal in {line}");
    }
}

#[test]
fn a_dumped_pack_has_the_record_of_each_body_in_words() {
    let text = dumps(&files(), ".pack");
    assert_has(&text, &["\n  Append mailbox=INBOX uid=given when applied flags=(\\Seen $Work)"]);
}

#[test]
fn a_dumped_table_has_its_blocks_in_words() {
    let text = dumps(&files(), ".table");
    assert_has(
        &text,
        &[
            "\n    account block, ",
            "\n      last given: modseq ",
            "\n      mailbox 05050505050505050505050505050505 \"Sent\" uid_validity 2 ",
            " special_use \\Junk subscribed\n",
            "\n      quota of its own: octets 5242880, messages not limited, mailboxes not limited\n",
            "\n    annotations block, ",
            "\n      annotation of mailbox 05050505050505050505050505050505 \"/private/comment\" modseq ",
            " \"/private/specialuse\" modseq ",
            "\n    mailbox index 00000000000000000000000000000000, Base, ",
            "\n      section head at ",
            "\n      uid_validity 1 uid_next 11 ",
            " messages 10 total_size ",
            "\n      keyword 0 $Work\n",
            "\n      message 2 modseq 3 flags (\\Seen $Work) internal_date 15-Jan-2027 09:00:00 +0100 save_date ",
            ".pack@64+2074 ",
            " (0 text/plain 0+55+2019)\n",
            "\n    mailbox index 00000000000000000000000000000000, Delta, ",
            "\n      expunged 2:2 at modseq ",
            "\n      gone 2:2\n",
        ],
    );
    assert!(!text.contains("damaged") && !text.contains("cannot be read"), "{text}");
}

#[test]
fn a_dump_shows_octets_where_there_are_no_words() {
    // Made by storage alone: its metas and blocks are no records and blocks of ours.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/golden/v1");
    let dumped = |name: &str| dumped(std::fs::read(golden.join(name)).expect("a golden file"));
    let segment =
        " meta 4 6d657461 body journal/1-0/1@4216+23\n  cannot be read: record version 109 is not known";
    assert_has(&dumped("segment.bin"), &[segment, "Flush partition 2", "end at octet 4504"]);
    let table = " octets 13 62617365206f6620494e424f58\n    cannot be read: ";
    assert_has(&dumped("table.bin"), &[table, "Removed at 88"]);
}

#[test]
fn a_dump_of_damaged_octets_is_an_error_or_words() {
    let message = Message { parts: vec![1, 1, 0, 0, 1, 0, 0, 0, 9], ..Message::default() };
    let records = [
        Record::Append { mailbox: Guid([2; 16]), message: Box::new(message) },
        store(&["\\Seen", "a"]),
        Record::Relocate { from: vec![[1; PLACE_OCTETS], [0xff; PLACE_OCTETS]] },
    ];
    for record in records {
        let meta = record.encode();
        assert_eq!(describe(Piece::Label(&meta)), describe(Piece::Record(&meta)));
        for at in 0..meta.len() {
            assert!(describe(Piece::Record(&meta[..at])).is_err(), "{record:?} cut at {at}");
            for flip in [1, 0x80, 0xff] {
                let mut changed = meta.clone();
                changed[at] ^= flip;
                let said = describe(Piece::Record(&changed));
                assert!(
                    said.is_err()
                        || said.is_ok_and(|said| said.is_some_and(|text| text.lines().count() == 1))
                );
            }
        }
    }
    let mut index =
        culver_index::MailboxIndex::new(Guid::INBOX, culver_model::UidValidity::MIN, culver_model::ModSeq(1));
    let with = flags(&["\\Seen", "a"]);
    let message = Message { flags: with, parts: vec![1, 1, 0, 0, 1, 0, 0, 0, 9], ..Message::default() };
    index.append(message.as_new([3; PLACE_OCTETS], Guid::INBOX), culver_model::ModSeq(2)).expect("room");
    let block = index.encode_base().0;
    for at in 0..block.len() {
        let mut changed = block.clone();
        changed[at] ^= 0x41;
        for (guid, octets) in
            [(Guid::INBOX, &changed[..]), (Guid::INBOX, &block[..at]), (ACCOUNT_KEY, &changed)]
        {
            match describe(Piece::Block { guid, octets }) {
                Ok(text) => assert!(text.is_some_and(|text| !text.is_empty())),
                Err(what) => assert!(!what.is_empty()),
            }
        }
    }
    let later = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(describe(Piece::Block { guid: Guid(later), octets: &block }), Ok(None));
}
