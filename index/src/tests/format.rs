//! Golden files: the bytes that earlier versions wrote, and that this one must read and still write.

use super::*;
use crate::account::{AccountState, MailboxEntry};
use crate::{Block, FormatError, LINES_MAX, Opaque, StoreOp, Words, check, dump};
use culver_model::{MailboxName, Quota};
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// `CULVER_BLESS=1` writes the file anew: only together with a new format version.
fn compare(name: &str, bytes: &[u8]) -> Vec<u8> {
    if std::env::var("CULVER_BLESS").is_ok_and(|value| value == "1") {
        std::fs::write(golden(name), bytes).expect("golden directory");
    }
    let held = std::fs::read(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(held == bytes, "{name}: the format's bytes have changed");
    held
}

#[test]
fn a_mailbox_writes_the_bytes_it_always_wrote() {
    let mut index = index();
    let seen = flags(&[SystemFlag::Seen], &["$Forwarded"]);
    for number in 1..=3 {
        index.append(message(number, &seen, "(NIL)"), ModSeq(u64::from(number) + 1)).expect("room");
    }
    index.expunge(&set(&[(2, 2)]), false, ModSeq(5));
    let (base, token) = index.encode_base();
    assert!(index.mark_flushed(token));
    let base = compare("base-1.idx", &base);
    index
        .store(&set(&[(3, 3)]), StoreOp::Add, &flags(&[SystemFlag::Flagged], &[]), None, ModSeq(6))
        .expect("room");
    index.append(message(4, &seen, "(NIL)"), ModSeq(7)).expect("room");
    let delta = compare("delta-1.idx", &index.encode_delta().0);
    let read =
        MailboxIndex::from_blocks(Block::from(base.clone()), [Block::from(delta.clone())]).expect("golden");
    assert_eq!(read.rows_all().map(|row| row.uid().get()).collect::<Vec<_>>(), [1, 3, 4]);
    let words: &Words<'_> = &|opaque| match opaque {
        Opaque::Place(place) => format!("{:02x} of {}", place[0], place.len()),
        Opaque::Parts(parts) => format!("{} octets", parts.len()),
    };
    let text = [&base, &delta].map(|block| dump(block, words).expect("golden").to_string());
    compare("dump-1.txt", text.concat().as_bytes());
    assert!(check(&base).is_ok() && check(&delta).is_ok());
}

fn account() -> AccountState {
    let entry = |byte: u8, name: &str, special_use: Option<&str>, selectable| MailboxEntry {
        guid: Guid([byte; 16]),
        name: MailboxName::parse(name).expect("a name"),
        special_use: special_use.map(str::to_owned),
        created: ModSeq(u64::from(byte)),
        uid_validity: UidValidity::new(u32::from(byte) + 1).expect("not 0"),
        selectable,
    };
    AccountState {
        incarnation: Guid([0xee; 16]),
        uid_validity: 9,
        modseq: ModSeq(77),
        thread_id: 12,
        mailboxes: vec![
            entry(0, "INBOX", None, true),
            entry(4, "Gelöscht", Some("\\Trash"), true),
            entry(5, "a", None, false),
        ],
        subscriptions: vec![MailboxName::parse("a/gone").expect("a name"), MailboxName::inbox()],
        late: Vec::new(),
        quota: None,
    }
}

#[test]
fn an_account_writes_the_bytes_it_always_wrote() {
    let bytes = compare("account-1.acc", &account().encode());
    assert_eq!(AccountState::decode(&bytes), Ok(account()));
    let mut padded = bytes.clone();
    padded.extend_from_slice(&[0; 5]);
    assert_eq!(AccountState::decode(&padded), Ok(account()));
    assert_eq!(AccountState::decode(&AccountState::default().encode()), Ok(AccountState::default()));
}

#[test]
fn an_account_with_late_marks_is_of_version_2() {
    let late = vec![(Guid([1; 16]), 7), (Guid([2; 16]), u64::MAX)];
    let marked = AccountState { late, ..account() };
    let bytes = marked.encode();
    assert_eq!((account().encode()[8], bytes[8]), (1, 2));
    assert_eq!(AccountState::decode(&bytes), Ok(marked.clone()));
    let twice = AccountState { late: vec![marked.late[0]; 2], ..marked };
    assert!(AccountState::decode(&twice.encode()).is_err());
}

#[test]
fn an_account_with_a_quota_of_its_own_is_of_version_3() {
    let quota = Some(Quota { octets: Some(5 << 30), messages: None, mailboxes: Some(0) });
    let late = vec![(Guid([1; 16]), 7)];
    let limited = AccountState { quota, late, ..account() };
    let bytes = compare("account-3.acc", &limited.encode());
    assert_eq!(bytes[8], 3);
    assert_eq!(AccountState::decode(&bytes), Ok(limited));
    // Of versions 2 and 1 what stands there means nothing.
    let plain = AccountState { quota: Some(Quota::default()), ..account() };
    let mut older = plain.encode();
    older[8] = 2;
    assert_eq!(AccountState::decode(&older), Ok(account()));
    let text = crate::account::dump(&bytes).expect("whole").to_string();
    assert!(
        text.contains("  quota of its own: octets 5368709120, messages not limited, mailboxes 0\n"),
        "{text}"
    );
}

#[test]
fn a_dump_of_an_account_has_its_counters_and_all_names() {
    let text = crate::account::dump(&account().encode()).expect("whole").to_string();
    for line in [
        "  last given: modseq 77 uid_validity 9 thread_id 12\n",
        "  mailbox 00000000000000000000000000000000 \"INBOX\" uid_validity 1 created 0 subscribed\n",
        "  mailbox 04040404040404040404040404040404 \"Gelöscht\" uid_validity 5 created 4 special_use \\Trash\n",
        "  mailbox 05050505050505050505050505050505 \"a\" uid_validity 6 created 5 noselect\n",
        "  subscription \"a/gone\", which names no mailbox\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(crate::account::dump(b"no account").is_err());
}

#[test]
fn a_dump_of_a_large_mailbox_is_bounded_and_says_what_is_left_out() {
    let mut index = index();
    for number in 1..=LINES_MAX as u64 + 7 {
        index.append(message(1, &flags(&[], &[]), "(NIL)"), ModSeq(number + 1)).expect("room");
    }
    let text = dump(&index.encode_base().0, &|_| String::new()).expect("whole").to_string();
    assert_eq!(text.matches("  message ").count(), LINES_MAX);
    assert!(text.contains("  … and 7 more messages\n"));
}

#[test]
fn every_flipped_octet_of_an_account_is_found() {
    let bytes = account().encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // The two octets beside the version stand outside the checksum and mean nothing yet.
        assert!((10..12).contains(&at) || AccountState::decode(&damaged).is_err(), "octet {at}");
        assert!(AccountState::decode(&bytes[..at]).is_err());
    }
}

#[test]
fn an_account_names_each_mailbox_once_and_keeps_its_counters() {
    let mut twice = account();
    twice.mailboxes.push(twice.mailboxes[1].clone());
    let held = AccountState::decode(&twice.encode());
    assert_eq!(held, Err(FormatError::Content { what: "mailbox listed twice", at: 3 }));
    let mut beyond = account();
    beyond.uid_validity = 3;
    assert_eq!(AccountState::decode(&beyond.encode()), Err(FormatError::Content { what: "mailbox", at: 1 }));
}
