//! The index against a plain map, and against damaged bytes.

mod damage;
mod format;
mod laws;
mod model;

use crate::{MailboxIndex, NewMessage};
use culver_model::{FlagSet, Guid, InternalDate, Keyword, ModSeq, SystemFlag, Uid, UidSet, UidValidity};

pub fn index() -> MailboxIndex {
    MailboxIndex::new(Guid([7; 16]), UidValidity::MIN, ModSeq(1))
}

pub fn flags(system: &[SystemFlag], keywords: &[&str]) -> FlagSet {
    let keywords = keywords.iter().map(|name| Keyword::new(name).expect("an atom")).collect();
    FlagSet { system: system.iter().fold(0, |bits, flag| bits | flag.bit()), keywords }
}

/// A message all of whose fields follow from `number`.
pub fn message<'a>(number: u32, flags: &'a FlagSet, text: &'a str) -> NewMessage<'a> {
    let byte = number as u8;
    NewMessage {
        flags,
        internal_date: InternalDate { seconds: i64::from(number) * 1000, zone_minutes: 120 },
        save_date: i64::from(number) * 1000 + 5,
        size: u64::from(number) * 10 + 100,
        guid: Guid([byte; 16]),
        place: [byte ^ 0x55; 32],
        prefix_len: number % 90,
        shared: number.is_multiple_of(3),
        thread_id: u64::from(number / 2),
        email_id: Guid([byte.wrapping_add(1); 16]),
        pop3_uidl: number.is_multiple_of(2).then_some(text).filter(|text| !text.is_empty()),
        pop3_order: number,
        origin: Guid([3; 16]),
        key_id: number % 4,
        envelope: text.as_bytes(),
        body: b"(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 1 1)",
        bodystructure: b"(\"TEXT\" \"PLAIN\")",
        parts: &[1, 2, 3],
        headers: b"Subject: x\r\n",
        headers_complete: number.is_multiple_of(5),
    }
}

pub fn uid(value: u32) -> Uid {
    Uid::new(value).expect("not 0")
}

pub fn set(ranges: &[(u32, u32)]) -> UidSet {
    ranges.iter().map(|(first, last)| *first..=*last).collect()
}

pub fn everything() -> UidSet {
    set(&[(1, u32::MAX)])
}
