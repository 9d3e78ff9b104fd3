//! Damaged blocks are refused or read as less; they never panic.

use super::*;
use crate::account::AccountState;
use crate::format::{Header, SectionEntry};
use crate::{Block, FlagId, FormatError, StoreOp, check, dump};
use quickcheck::{QuickCheck, TestResult};
use zerocopy::{FromBytes, IntoBytes};

fn sample() -> (Vec<u8>, Vec<u8>) {
    let mut index = index();
    let names: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for number in 1..=40 {
        let flags = flags(&[SystemFlag::Seen], &names[..(number as usize * 3 / 2)]);
        index.append(message(number, &flags, "envelope"), ModSeq(u64::from(number) + 1)).expect("room");
    }
    index.expunge(&set(&[(3, 4), (9, 9)]), false, ModSeq(60));
    let (base, token) = index.encode_base();
    assert!(index.mark_flushed(token));
    let deleted = flags(&[SystemFlag::Deleted], &["more", "k59"]);
    index.store(&set(&[(10, 20)]), StoreOp::Add, &deleted, None, ModSeq(61)).expect("room");
    index.expunge(&set(&[(12, 12), (30, 40)]), false, ModSeq(62));
    index.append(message(50, &deleted, "late"), ModSeq(63)).expect("room");
    let old = *index.get(uid(1)).expect("there").place();
    assert!(index.set_place(uid(1), &old, [1; 32]));
    (base, index.encode_delta().0)
}

/// Makes all checksums right again, so that damage reaches what lies behind them.
fn reseal(bytes: &mut [u8]) {
    let Ok((header, rest)) = Header::read_from_prefix(bytes) else { return };
    let count = (header.sections.get() as usize).min(rest.len() / size_of::<SectionEntry>());
    for place in 0..count {
        let at = size_of::<Header>() + place * size_of::<SectionEntry>();
        let Ok((mut entry, _)) = SectionEntry::read_from_prefix(&bytes[at..]) else { return };
        let end = entry.offset.get().saturating_add(entry.octets.get());
        if let Some(content) = bytes.get(entry.offset.get() as usize..end as usize) {
            entry.crc = crc32c::crc32c(content).into();
        }
        bytes[at..at + size_of::<SectionEntry>()].copy_from_slice(entry.as_bytes());
    }
    let table = size_of::<Header>()..size_of::<Header>() + count * size_of::<SectionEntry>();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), &bytes[table]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// Everything that a session could ask of an index.
fn exercise(mut index: MailboxIndex) {
    for row in index.rows_all() {
        let _ = (row.flag_set(), row.envelope(), row.headers(), row.pop3_uidl(), row.to_owned_message());
        let _ = (row.place(), row.internal_date(), row.has_flag(FlagId::keyword(59)));
    }
    let _ = (index.first_unseen(), index.changed_since(ModSeq(5)).count(), index.expunged_since(ModSeq(5)));
    let _ = index.bitmap(FlagId::system(SystemFlag::Seen)).len();
    let all = everything();
    let _ = index.store(&all, StoreOp::Replace, &flags(&[SystemFlag::Draft], &["z"]), None, ModSeq(90));
    let _ = index.expunge(&set(&[(1, 9)]), false, ModSeq(91));
    let _ = index.append(message(9, &FlagSet::default(), "x"), ModSeq(92));
    let _ = (index.encode_delta(), index.encode_base(), index.memory_octets());
}

#[test]
fn damaged_blocks_never_panic() {
    let (base, delta) = sample();
    fn mutate(bytes: &[u8], damage: &[(u16, u8)], cut: Option<u16>, seal: bool) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (at, value) in damage {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::from(cut) % bytes.len());
        }
        if seal && bytes.len() >= 64 {
            reseal(&mut bytes);
        }
        bytes
    }
    let (mut opened, mut refused) = (0, 0);
    let mut random = quickcheck::Gen::new(6);
    for round in 0..6000 {
        let damage = <Vec<(u16, u8)> as quickcheck::Arbitrary>::arbitrary(&mut random);
        let cut = <u16 as quickcheck::Arbitrary>::arbitrary(&mut random);
        let cut = (round % 7 == 0).then_some(cut);
        let bad_base = mutate(&base, &damage, cut, round % 5 != 0);
        let bad_delta = mutate(&delta, &damage, cut, round % 5 != 0);
        let _ = (check(&bad_base), check(&bad_delta));
        for block in [&bad_base, &bad_delta] {
            if let Ok(lines) = dump(block, &|_| String::new()) {
                assert!(lines.to_string().ends_with('\n'));
            }
        }
        match MailboxIndex::from_blocks(Block::from(bad_base), []) {
            Ok(index) => {
                opened += 1;
                exercise(index);
            }
            Err(_) => refused += 1,
        }
        if let Ok(index) = MailboxIndex::from_blocks(Block::from(base.clone()), [Block::from(bad_delta)]) {
            exercise(index);
        }
    }
    assert!(
        opened > 500 && refused > 500,
        "{opened} opened, {refused} refused: damage must reach both sides"
    );
}

#[test]
fn random_bytes_are_refused() {
    fn refused(bytes: Vec<u8>) -> TestResult {
        let account = AccountState::decode(&bytes).is_err();
        TestResult::from_bool(check(&bytes).is_err() && account)
    }
    QuickCheck::new().tests(500).quickcheck(refused as fn(Vec<u8>) -> TestResult);
}

#[test]
fn every_flipped_octet_is_found_by_check() {
    let (base, delta) = sample();
    for block in [base, delta] {
        let whole = check(&block).expect("sound");
        let mut found = 0;
        for at in 0..block.len() {
            let mut bytes = block.clone();
            bytes[at] ^= 0x10;
            // Octets between sections are padding and belong to nothing.
            found += usize::from(check(&bytes) != Ok(whole));
        }
        assert!(found + 12 * 7 >= block.len(), "{found} of {}", block.len());
    }
}

#[test]
fn a_newer_version_and_a_required_section_are_refused() {
    let (base, _) = sample();
    let mut newer = base.clone();
    newer[8] = 2;
    reseal(&mut newer);
    assert_eq!(check(&newer), Err(FormatError::Version { found: 2, known: 1 }));
    for (tag, fate) in [(33u32, true), (33 | crate::format::REQUIRED, false)] {
        // The log's entry becomes one of a tag that this version does not know.
        let mut bytes = base.clone();
        let count = u32::from_le_bytes(bytes[12..16].try_into().expect("four"));
        let last = 64 + 32 * (count as usize - 1);
        bytes[last..last + 4].copy_from_slice(&tag.to_le_bytes());
        reseal(&mut bytes);
        assert_eq!(MailboxIndex::from_blocks(Block::from(bytes), []).is_ok(), fate);
    }
}

#[test]
fn a_delta_of_another_mailbox_is_refused() {
    let (base, _) = sample();
    let mut other = MailboxIndex::new(Guid([8; 16]), UidValidity::MIN, ModSeq(1));
    let (foreign, _) = other.encode_delta();
    let opened = MailboxIndex::from_blocks(Block::from(base.clone()), [Block::from(foreign.clone())]);
    assert_eq!(opened.err(), Some(FormatError::Foreign));
    assert_eq!(MailboxIndex::from_blocks(Block::from(foreign), []).err(), Some(FormatError::Foreign));
}
