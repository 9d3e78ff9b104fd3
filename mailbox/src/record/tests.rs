use super::*;

fn every_kind() -> Vec<Record> {
    let name = |text: &str| MailboxName::parse(text).unwrap();
    let flags: FlagSet =
        [Flag::parse("\\Seen").unwrap(), Flag::parse("$Work").unwrap()].into_iter().collect();
    let uids: UidSet = [3..=9, 12..=12, 4_000_000_000..=u32::MAX].into_iter().collect();
    let message = Message {
        guid: Guid([1; 16]),
        internal_date: InternalDate { seconds: -5, zone_minutes: -330 },
        size: 1234,
        flags: flags.clone(),
        envelope: b"(NIL)".to_vec(),
        headers_complete: true,
        pop3_uidl: Some("x1".into()),
        ..Message::default()
    };
    let known = Message { delivery: Some(DeliveryId([7; 12])), ..message.clone() };
    let both = Message { mailbox_name: Some(name("Sent")), ..known.clone() };
    let replacing = Message { mailbox_name: Some(name("Drafts")), ..message.clone() };
    let named = Message { mailbox_name: Some(name("Sent")), ..message.clone() };
    vec![
        Record::Append { mailbox: Guid::INBOX, message: Box::new(message.clone()) },
        Record::Append { mailbox: Guid([3; 16]), message: Box::new(named.clone()) },
        Record::Restore { mailbox: Guid([3; 16]), place: [7; PLACE_OCTETS], message: Box::new(named) },
        Record::Restore { mailbox: Guid::INBOX, place: [7; PLACE_OCTETS], message: Box::new(message) },
        Record::Rebuilt,
        Record::Append { mailbox: Guid([9; 16]), message: Box::new(known) },
        Record::Append { mailbox: Guid([9; 16]), message: Box::new(both) },
        Record::Store {
            mailbox: Guid([2; 16]),
            uids: uids.clone(),
            op: StoreOp::Add,
            flags,
            unchanged_since: Some(ModSeq(0)),
        },
        Record::Expunge { mailbox: Guid([2; 16]), uids: uids.clone(), only_deleted: true },
        Record::Copy {
            from: Guid([2; 16]),
            uids,
            to: Guid::INBOX,
            save_date: -1,
            remove: false,
            whole: true,
        },
        Record::Create {
            guid: Guid([3; 16]),
            name: name("Sent"),
            special_use: Some("\\Sent".into()),
            selectable: true,
        },
        Record::Delete { guid: Guid([3; 16]) },
        Record::Rename { guid: Guid([3; 16]), to: name("a/b") },
        Record::RenameInbox { guid: Guid([4; 16]), to: name("old"), save_date: 7 },
        Record::Subscribe { name: name("a"), on: false },
        Record::Relocate { from: vec![[1; PLACE_OCTETS], [2; PLACE_OCTETS]] },
        Record::DeleteAccount,
        Record::Annotate {
            mailbox: Some(Guid::INBOX),
            entries: vec![
                (EntryName::parse(b"/private/comment").unwrap(), Some(b"two\r\nlines\xff".to_vec())),
                (EntryName::parse(b"/shared/comment").unwrap(), None),
                (EntryName::parse(b"/private/empty").unwrap(), Some(Vec::new())),
            ],
        },
        Record::Annotate { mailbox: None, entries: Vec::new() },
        Record::SetQuota { quota: Some(Quota { octets: Some(0), messages: None, mailboxes: Some(7) }) },
        Record::SetQuota { quota: None },
        Record::Replace {
            mailbox: Guid([3; 16]),
            message: Box::new(replacing.clone()),
            from: Guid::INBOX,
            uid: Uid::new(7).unwrap(),
        },
        Record::Replace {
            mailbox: Guid::INBOX,
            message: Box::new(Message { mailbox_name: None, ..replacing }),
            from: Guid([3; 16]),
            uid: Uid::new(u32::MAX).unwrap(),
        },
        Record::Named {
            record: Box::new(Record::Expunge {
                mailbox: Guid::INBOX,
                uids: UidSet::new(),
                only_deleted: true,
            }),
            messages: vec![(7, Guid([5; 16]))],
        },
        Record::Late {
            of: Guid([6; 16]),
            lsn: 77,
            record: Box::new(Record::Subscribe { name: name("b"), on: true }),
        },
    ]
}

#[test]
fn every_kind_survives_encode_and_decode() {
    for record in every_kind() {
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn every_prefix_and_every_changed_octet_is_an_error_or_a_record() {
    for record in every_kind() {
        let bytes = record.encode();
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "{record:?} cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let _ = Record::decode(&changed);
        }
    }
}

/// The octets that stand in journals, of a message without and with an id.
#[test]
fn an_append_writes_the_bytes_it_always_wrote_and_one_with_an_id_is_a_kind_of_its_own() {
    let message = Message { guid: Guid([1; 16]), save_date: 5, size: 3, ..Message::default() };
    let known = Message { delivery: Some(DeliveryId([7; 12])), ..message.clone() };
    let head = |kind: u8| [vec![1, kind], vec![2; 16]].concat();
    let mut tail = [vec![1; 16], vec![0; 16 + 8 + 8 + 2]].concat();
    for number in [5u64, 3] {
        tail.extend_from_slice(&number.to_le_bytes());
    }
    // Prefix, POP3 order, key id; headers complete; flags; UIDL and five forms, all empty.
    tail.extend_from_slice(&[0; 4 * 3 + 1 + 3 + 4 * 6]);
    for (message, octets) in [
        (message, [head(1), tail.clone()].concat()),
        (known, [head(12), vec![1], vec![7; 12], tail].concat()),
    ] {
        let record = Record::Append { mailbox: Guid([2; 16]), message: Box::new(message) };
        assert_eq!(record.encode(), octets);
        assert_eq!(Record::decode(&octets), Ok(record));
    }
}

#[test]
fn a_newer_version_is_named() {
    assert_eq!(Record::decode(&[2, 1]), Err(RecordError::Version(2)));
}
