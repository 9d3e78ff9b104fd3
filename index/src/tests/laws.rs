//! Single behaviours, each with the sentence it proves.

use super::*;
use crate::{Block, FlagId, IndexError, Limit, Limits, StoreOp};

fn filled(count: u32) -> MailboxIndex {
    let mut index = index();
    let none = FlagSet::default();
    for number in 1..=count {
        index.append(message(number, &none, "text"), ModSeq(u64::from(number) + 1)).expect("room");
    }
    index
}

fn reopened(index: &mut MailboxIndex) -> MailboxIndex {
    let (base, token) = index.encode_base();
    assert!(index.mark_flushed(token));
    MailboxIndex::from_blocks(Block::from(base), []).expect("own bytes")
}

#[test]
fn fields_of_a_message_come_back() {
    let mut first = index();
    let set = flags(&[SystemFlag::Seen, SystemFlag::Draft], &["$Work", "Home"]);
    let new = message(4, &set, "(envelope)");
    let given = first.append(new, ModSeq(9)).expect("room");
    for index in [&first.clone(), &reopened(&mut first)] {
        let row = index.get(given).expect("appended");
        assert_eq!(row.flag_set(), set);
        assert_eq!((row.uid().get(), row.modseq(), row.size()), (1, ModSeq(9), new.size));
        assert_eq!((row.internal_date(), row.save_date()), (new.internal_date, new.save_date));
        assert_eq!((row.guid(), row.email_id(), row.origin()), (new.guid, new.email_id, new.origin));
        assert_eq!((*row.place(), row.prefix_len(), row.shared()), (new.place, new.prefix_len, new.shared));
        assert_eq!((row.thread_id(), row.key_id()), (new.thread_id, new.key_id));
        assert_eq!((row.pop3_uidl(), row.pop3_order()), (new.pop3_uidl, new.pop3_order));
        assert_eq!((row.envelope(), row.body()), (new.envelope, new.body));
        assert_eq!((row.bodystructure(), row.parts()), (new.bodystructure, new.parts));
        assert_eq!((row.headers(), row.headers_complete()), (new.headers, new.headers_complete));
        let mut copy = super::index();
        let owned = row.to_owned_message();
        copy.append(owned.as_new(), ModSeq(3)).expect("room");
        assert_eq!(copy.get(uid(1)).expect("copied").flag_set(), set);
        assert_eq!(copy.get(uid(1)).expect("copied").headers(), new.headers);
        assert_eq!(copy.get(uid(1)).expect("copied").pop3_uidl(), new.pop3_uidl);
    }
}

#[test]
fn a_store_that_changes_nothing_bumps_nothing() {
    let mut index = reopened(&mut filled(50));
    let seen = flags(&[SystemFlag::Seen], &[]);
    let stored = index.store(&set(&[(1, 5)]), StoreOp::Add, &seen, None, ModSeq(100)).expect("room");
    assert_eq!(stored.changed, set(&[(1, 5)]));
    let stored = index.store(&set(&[(1, 6)]), StoreOp::Add, &seen, None, ModSeq(101)).expect("room");
    assert_eq!(stored.changed, set(&[(6, 6)]));
    let stored = index.store(&set(&[(1, 6)]), StoreOp::Replace, &seen, None, ModSeq(102)).expect("room");
    assert!(stored.changed.is_empty());
    assert_eq!(index.highest_modseq(), ModSeq(101));
    assert_eq!(index.get(uid(5)).expect("there").modseq(), ModSeq(100));
    assert_eq!((index.unseen_count(), index.first_unseen()), (44, Some(uid(7))));
}

#[test]
fn unchangedsince_spares_messages_one_by_one() {
    let mut index = filled(4);
    let flagged = flags(&[SystemFlag::Flagged], &["New"]);
    let stored =
        index.store(&everything(), StoreOp::Add, &flagged, Some(ModSeq(3)), ModSeq(50)).expect("room");
    assert_eq!((stored.changed, stored.modified), (set(&[(1, 2)]), set(&[(3, 4)])));
    let none = index
        .store(&everything(), StoreOp::Add, &flags(&[], &["Later"]), Some(ModSeq(1)), ModSeq(51))
        .expect("room");
    assert_eq!(none.modified, set(&[(1, 4)]));
    assert_eq!(index.keywords().len(), 1, "a keyword that no message got stays unknown");
}

#[test]
fn the_keyword_limit_refuses_before_anything_changes() {
    let mut index = filled(2).with_limits(Limits { keywords_max: 60, ..Limits::default() });
    for number in 0..60 {
        let name = format!("k{number}");
        index
            .store(&set(&[(1, 1)]), StoreOp::Add, &flags(&[], &[&name]), None, ModSeq(10 + number))
            .expect("room");
    }
    let before = index.encode_base().0;
    let refused =
        index.store(&everything(), StoreOp::Add, &flags(&[SystemFlag::Seen], &["more"]), None, ModSeq(99));
    assert_eq!(refused, Err(IndexError::Limit(Limit::Keywords { held: 60, max: 60 })));
    let same = MailboxIndex::from_blocks(Block::from(before), []).expect("own bytes");
    assert_eq!(same.get(uid(1)).map(|row| row.flag_set()), index.get(uid(1)).map(|row| row.flag_set()));
    assert_eq!(
        index.get(uid(1)).expect("there").keyword_ids().collect::<Vec<_>>(),
        (0..60).collect::<Vec<_>>()
    );
    assert_eq!(index.get(uid(2)).expect("there").keyword_ids().count(), 0);
    // Keywords compare without case, so this one is known.
    index.store(&set(&[(2, 2)]), StoreOp::Add, &flags(&[], &["K59"]), None, ModSeq(100)).expect("known");
    assert_eq!(index.bitmap(FlagId::keyword(59)).iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_unused_keyword_gives_up_its_id_at_the_limit() {
    let mut index = filled(2).with_limits(Limits { keywords_max: 2, ..Limits::default() });
    let version = index.keywords_version();
    index.store(&everything(), StoreOp::Add, &flags(&[], &["a", "b"]), None, ModSeq(10)).expect("room");
    assert!(index.bitmap(FlagId::keyword(0)).contains(1));
    index.store(&everything(), StoreOp::Remove, &flags(&[], &["a"]), None, ModSeq(11)).expect("no new one");
    index.store(&set(&[(2, 2)]), StoreOp::Add, &flags(&[], &["c"]), None, ModSeq(12)).expect("room of a");
    assert_ne!(index.keywords_version(), version);
    let index = reopened(&mut index);
    assert_eq!(index.get(uid(2)).expect("there").flag_set(), flags(&[], &["c", "b"]));
    assert_eq!(index.get(uid(1)).expect("there").flag_set(), flags(&[], &["b"]));
}

#[test]
fn replace_keeps_shared_and_clears_side_keywords() {
    let mut index = filled(3);
    let many: Vec<String> = (0..70).map(|number| format!("k{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    index.store(&everything(), StoreOp::Replace, &flags(&[], &many), None, ModSeq(10)).expect("room");
    index.set_shared(&set(&[(2, 2)]));
    let stored =
        index.store(&everything(), StoreOp::Replace, &flags(&[], &["k69"]), None, ModSeq(11)).expect("room");
    assert_eq!(stored.changed, set(&[(1, 3)]));
    for index in [&index.clone(), &reopened(&mut index)] {
        assert_eq!(index.get(uid(2)).expect("there").keyword_ids().collect::<Vec<_>>(), [69]);
        let shared: Vec<bool> = index.rows_all().map(|row| row.shared()).collect();
        assert_eq!(shared, [false, true, true]);
        assert_eq!(index.bitmap(FlagId::keyword(60)).len(), 0);
    }
}

#[test]
fn the_expunge_log_keeps_its_floor() {
    let limits = Limits { expunge_log_max: 3, ..Limits::default() };
    let mut index = reopened(&mut filled(20)).with_limits(limits);
    for number in 1..=5 {
        index.expunge(&set(&[(number * 3, number * 3)]), false, ModSeq(100 + u64::from(number)));
    }
    assert_eq!(index.expunge_floor(), ModSeq(102));
    assert_eq!(index.expunged_since(ModSeq(101)), None);
    assert_eq!(index.expunged_since(ModSeq(102)), Some(set(&[(9, 9), (12, 12), (15, 15)])));
    let index = reopened(&mut index);
    assert_eq!(index.expunged_since(ModSeq(101)), None);
    assert_eq!(index.expunged_since(ModSeq(104)), Some(set(&[(15, 15)])));
    assert_eq!(index.expunged_since(ModSeq(105)), Some(UidSet::new()));
}

#[test]
fn the_expunge_log_stays_searchable_where_a_modseq_falls() {
    let mut index = filled(9);
    index.expunge(&set(&[(1, 1)]), false, ModSeq(50));
    index.expunge(&set(&[(2, 2)]), false, ModSeq(40));
    assert_eq!(index.expunged_since(ModSeq(45)), Some(set(&[(1, 2)])));
    assert_eq!(reopened(&mut index).expunged_since(ModSeq(49)), Some(set(&[(1, 2)])));
}

#[test]
fn expunge_takes_only_deleted_where_asked() {
    let mut index = reopened(&mut filled(10));
    let deleted = flags(&[SystemFlag::Deleted], &[]);
    index.store(&set(&[(2, 4)]), StoreOp::Add, &deleted, None, ModSeq(50)).expect("room");
    let gone = index.expunge(&set(&[(3, 9)]), true, ModSeq(51));
    assert_eq!(gone.iter().map(|gone| gone.uid.get()).collect::<Vec<_>>(), [3, 4]);
    assert_eq!((gone[0].size, gone[0].shared, gone[0].place), (130, true, [3 ^ 0x55; 32]));
    assert_eq!((index.len(), index.deleted_count()), (8, 1));
    assert_eq!((index.seq_of(uid(5)), index.uid_at(3)), (Some(3), Some(uid(5))));
    assert!(index.get(uid(3)).is_none());
    assert!(index.expunge(&set(&[(3, 4)]), false, ModSeq(52)).is_empty());
    assert_eq!(index.highest_modseq(), ModSeq(51));
}

#[test]
fn a_place_moves_only_from_where_it_is() {
    let mut index = reopened(&mut filled(3));
    let old = *index.get(uid(2)).expect("there").place();
    assert!(!index.set_place(uid(2), &[0; 32], [9; 32]));
    assert!(index.set_place(uid(2), &old, [9; 32]));
    assert!(!index.set_place(uid(2), &old, [8; 32]));
    let (delta, token) = index.encode_delta();
    assert!(crate::check(&delta).expect("sound").moved == 1 && index.mark_flushed(token) && !index.dirty());
    assert_eq!(*index.get(uid(2)).expect("there").place(), [9; 32]);
    assert_eq!(index.highest_modseq(), ModSeq(4));
}

#[test]
fn uids_ascend_and_end() {
    let mut index = index();
    let none = FlagSet::default();
    index.append_with_uid(message(1, &none, ""), uid(7), ModSeq(2)).expect("room");
    let low = index.append_with_uid(message(1, &none, ""), uid(7), ModSeq(3));
    assert_eq!(low, Err(IndexError::UidTaken { uid: 7, uid_next: 8 }));
    index.raise(u32::MAX - 9, 1000);
    assert_eq!((index.uid_next().get(), index.highest_modseq()), (u32::MAX - 1, ModSeq(1002)));
    assert_eq!(index.append(message(1, &none, ""), ModSeq(2000)), Ok(uid(u32::MAX - 1)));
    assert_eq!(index.append(message(1, &none, ""), ModSeq(2001)), Err(IndexError::Limit(Limit::Uids)));
    assert_eq!(index.rows(&everything()).map(|row| row.uid().get()).collect::<Vec<_>>(), [7, u32::MAX - 1]);
    assert_eq!(reopened(&mut index).len(), 2);
}

#[test]
fn changes_between_encode_and_mark_stay_unflushed() {
    let mut index = filled(40);
    let (base, token) = index.encode_base();
    let seen = flags(&[SystemFlag::Seen], &[]);
    index.store(&set(&[(3, 3)]), StoreOp::Add, &seen, None, ModSeq(90)).expect("room");
    index.expunge(&set(&[(5, 5)]), false, ModSeq(91));
    assert!(index.mark_flushed(token) && index.dirty());
    // Written and lost: never marked, so the second carries the same changes.
    let (_lost, lost) = index.encode_delta();
    index.append(message(41, &seen, "later"), ModSeq(92)).expect("room");
    let (delta, token) = index.encode_delta();
    assert!(!index.mark_flushed(lost) && index.mark_flushed(token) && !index.dirty());
    let read = MailboxIndex::from_blocks(Block::from(base.clone()), [Block::from(delta.clone())])
        .expect("own bytes");
    assert_eq!(read.expunged_since(ModSeq(90)), Some(set(&[(5, 5)])));
    assert_eq!((read.len(), read.unseen_count(), read.get(uid(5)).is_none()), (40, 38, true));
    // The unmarked one may have been stored after all.
    let both = [Block::from(_lost), Block::from(delta.clone())];
    let read = MailboxIndex::from_blocks(Block::from(base.clone()), both).expect("own bytes");
    assert_eq!((read.len(), read.unseen_count()), (40, 38));
    assert_eq!(read.expunged_since(ModSeq(0)), Some(set(&[(5, 5)])));
    let missing = {
        index.store(&set(&[(8, 8)]), StoreOp::Add, &seen, None, ModSeq(95)).expect("room");
        let (next, _) = index.encode_delta();
        MailboxIndex::from_blocks(Block::from(base), [Block::from(next)])
    };
    assert!(matches!(missing, Err(crate::FormatError::Chain { .. })), "a delta is not skipped unseen");
}

#[test]
fn adopting_a_base_keeps_what_came_since() {
    let mut index = filled(100);
    let (base, token) = index.encode_base();
    let flagged = flags(&[SystemFlag::Flagged], &["x"]);
    index.store(&set(&[(10, 20)]), StoreOp::Add, &flagged, None, ModSeq(500)).expect("room");
    index.expunge(&set(&[(30, 40)]), false, ModSeq(501));
    index.append(message(101, &flagged, "new"), ModSeq(502)).expect("room");
    let told: Vec<_> = index.rows_all().map(|row| (row.uid(), row.modseq(), row.flag_set())).collect();
    let before = index.memory_octets();
    let mapped = Block::shared(std::rc::Rc::new(base));
    assert_eq!(index.adopt(token, mapped), Ok(true));
    assert!(index.memory_octets() < before, "the overlay is freed");
    let now: Vec<_> = index.rows_all().map(|row| (row.uid(), row.modseq(), row.flag_set())).collect();
    assert_eq!(told, now);
    assert!(index.dirty());
    assert_eq!(index.expunged_since(ModSeq(500)), Some(set(&[(30, 40)])));
    assert_eq!(index.changed_since(ModSeq(500)).map(|row| row.uid().get()).collect::<Vec<_>>(), [101]);
}

#[test]
fn an_open_mailbox_of_100_mapped_messages_is_small() {
    let mut index = filled(100);
    let (base, token) = index.encode_base();
    assert_eq!(index.adopt(token, Block::shared(std::rc::Rc::new(base))), Ok(true));
    assert!(index.memory_octets() < 1536, "{} octets", index.memory_octets());
}

#[test]
fn the_tail_of_an_emptied_mailbox_is_freed() {
    let mut index = filled(100);
    let full = index.memory_octets();
    index.expunge(&everything(), false, ModSeq(1000));
    assert!(index.memory_octets() < full / 10 && index.is_empty());
    assert_eq!((index.total_size(), index.uid_next().get()), (0, 101));
    assert_eq!(reopened(&mut index).expunged_since(ModSeq(1)), Some(set(&[(1, 100)])));
}

#[test]
fn a_block_made_in_steps_is_the_block_made_at_once() {
    // A base with an overlay of every kind: new rows, changed flags, moved places, messages gone, a keyword beyond the words.
    let mut index = reopened(&mut filled(300));
    let none = FlagSet::default();
    let work = flags(&[SystemFlag::Seen], &["$Work"]);
    index.store(&set(&[(3, 90), (200, 210)]), StoreOp::Add, &work, None, ModSeq(400)).expect("room");
    index.expunge(&set(&[(50, 60), (299, 299)]), false, ModSeq(401));
    for number in [5, 100, 250] {
        let old = *index.get(uid(number)).expect("there").place();
        assert!(index.set_place(uid(number), &old, [number as u8; crate::PLACE_OCTETS]));
    }
    for number in 301..=340 {
        index.append(message(number, &none, "later"), ModSeq(402)).expect("room");
    }
    index.expunge(&set(&[(310, 312)]), false, ModSeq(403));
    for whole in [true, false] {
        let at_once = match (index.clone(), whole) {
            (mut index, true) => index.encode_base().0,
            (mut index, false) => index.encode_delta().0,
        };
        for rows_max in [1, 7, 64, 1000] {
            let mut live = index.clone();
            let mut encoding = if whole { live.begin_base() } else { live.begin_delta() };
            while !encoding.step(&live, rows_max) {}
            assert_eq!(live.encoded(encoding).0, at_once, "{rows_max} rows a step");

            // The frozen copy gives the block of its moment, whatever is changed meanwhile.
            let mut live = index.clone();
            let (frozen, token) = live.freeze();
            let mut encoding = frozen.begin(whole);
            let mut modseq = 500;
            while !frozen.step(&mut encoding, rows_max) {
                modseq += 1;
                live.append(message(modseq as u32, &none, "meanwhile"), ModSeq(modseq)).expect("room");
            }
            assert_eq!(frozen.finish(encoding), at_once, "{rows_max} rows a step, frozen");
            assert!(live.mark_flushed(token));
            assert_eq!(live.dirty(), modseq > 500, "what came later is still to be stored");
        }
    }
}

/// A base is written where what is stored is more than twice of this: an estimate that left something out would have one written
/// at every flush.
#[test]
fn what_a_base_takes_is_known_before_it_is_written() {
    let near = |index: &mut MailboxIndex| {
        let (said, written) = (index.whole_octets(), index.encode_base().0.len() as u64);
        assert!(said < written + written / 2 && written < said + said / 2, "{said} said, {written} written");
    };
    near(&mut filled(3));
    near(&mut filled(400));
    let mut emptied = filled(2000);
    for uid in (1..=1990).rev() {
        emptied.expunge(&set(&[(uid, uid)]), false, ModSeq(3000 + u64::from(1990 - uid)));
    }
    near(&mut emptied);
}

#[test]
fn of_two_folds_only_the_later_is_put_in_place() {
    let mut index = filled(50);
    let (copy, token) = index.begin_fold();
    index.expunge(&set(&[(1, 2)]), false, ModSeq(300));
    let (later, later_token) = index.begin_fold();
    index.expunge(&set(&[(3, 4)]), false, ModSeq(301));
    for (copy, token, fits) in [(copy, token, false), (later, later_token, true)] {
        let mut encoding = copy.begin(true);
        while !copy.step(&mut encoding, 7) {}
        let replaced = index.end_fold(token, copy, encoding);
        assert_eq!(replaced.is_some(), fits);
        assert_eq!(
            index.rows_all().map(|row| row.uid().get()).collect::<Vec<_>>(),
            (5..=50).collect::<Vec<_>>()
        );
    }
    assert_eq!(index.expunged_since(ModSeq(299)), Some(set(&[(1, 4)])));
}

#[test]
fn a_fold_that_is_given_up_lets_another_begin() {
    let mut index = filled(50);
    let (copy, token) = index.begin_fold();
    index.give_up_fold(token);
    assert!(!index.folding());
    let mut encoding = copy.begin(true);
    while !copy.step(&mut encoding, 7) {}
    assert!(index.end_fold(token, copy, encoding).is_none());
    // Of another one it is no business.
    let (_, later) = index.begin_fold();
    index.give_up_fold(token);
    assert!(index.folding());
    index.give_up_fold(later);
    assert!(!index.folding());
}

#[test]
fn rows_of_expunged_messages_are_given_back_by_a_fold() {
    let mut index = filled(1000);
    let full = index.memory_octets();
    index.expunge(&set(&[(1, 500)]), false, ModSeq(2000));
    assert!(!index.over_bounds(), "half of the rows are in use");
    index.expunge(&set(&[(501, 900)]), false, ModSeq(2001));
    assert!(index.over_bounds());
    let (copy, token) = index.begin_fold();
    let mut encoding = copy.begin(true);
    while !copy.step(&mut encoding, 100) {}
    let mut replaced = index.end_fold(token, copy, encoding).expect("no other fold was begun");
    while !replaced.release(8) {}
    assert!(!index.over_bounds());
    assert!(index.memory_octets() < full / 4, "{} of {full}", index.memory_octets());
    // A few are not worth it.
    let mut few = filled(20);
    few.expunge(&set(&[(1, 19)]), false, ModSeq(2000));
    assert!(!few.over_bounds());
}

#[test]
fn an_overlay_is_folded_in_steps_and_nothing_reads_otherwise() {
    let mut index = filled(200);
    index.expunge(&set(&[(10, 20)]), false, ModSeq(300));
    let before: Vec<_> = index.rows_all().map(|row| (row.uid(), row.modseq(), *row.place())).collect();
    let (copy, token) = index.begin_fold();
    let mut encoding = copy.begin(true);
    while !copy.step(&mut encoding, 9) {}
    let mut replaced = index.end_fold(token, copy, encoding).expect("no other fold was begun");
    while !replaced.release(1) {}
    assert!(index.base_octets() > 0 && index.dirty(), "what is unflushed stays so");
    let after: Vec<_> = index.rows_all().map(|row| (row.uid(), row.modseq(), *row.place())).collect();
    assert_eq!(before, after);
}
