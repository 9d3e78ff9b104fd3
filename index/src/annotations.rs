//! The annotations block: what an account's metadata says of its mailboxes and of the server, to this user.
//!
//! It is written whole each time it has changed; there is no delta. Layout, version 1, little-endian, in
//! `docs/format/annotations.md`.
//!
//! # Invariants
//! - What it holds follows from the changes, in their order, and from nothing else: a replay knows the same.
//! - Who knew everything up to some MODSEQ learns of every entry that changed since, removed ones too, as long as that MODSEQ is not
//!   below the floor.
//!
//! # Limits
//! [`ENTRIES_MAX`] and [`OCTETS_MAX`] of an account, [`VALUE_OCTETS_MAX`], and [`REMOVALS_MAX`] entries that are remembered without
//! a value. They take part in what a record does, so they are never lowered.

use crate::FormatError;
use crate::dump::list;
use crate::format::Cursor;
use culver_model::annotation::Depth;
use culver_model::{EntryName, Guid, ModSeq};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"CULVANN\n";
const VERSION: u16 = 1;
const HAS_VALUE: u32 = 1 << 0;

/// Most entries with a value of an account.
pub const ENTRIES_MAX: usize = 10_000;
/// Most octets of names and values of an account.
pub const OCTETS_MAX: usize = 4 << 20;
/// Longest value, in octets.
pub const VALUE_OCTETS_MAX: usize = 1 << 20;
/// Entries that were removed, or whose value is kept elsewhere, of which it is known when they changed.
pub const REMOVALS_MAX: usize = 256;

/// What stands for the server in place of a mailbox (RFC 5464 §3.1).
pub const SERVER: Guid = Guid([0xff; 16]);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U16,
    reserved: U16,
    /// CRC-32C of all that follows this field.
    crc: U32,
    /// Of the whole block.
    octets: U64,
    /// Up to this MODSEQ removals may be forgotten.
    floor: U64,
    entries: U32,
    reserved_tail: [u8; 4],
}
const _: () = assert!(size_of::<Header>() == 40);

/// The fixed part of an entry; name and value follow it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    /// Of the whole entry.
    octets: U32,
    /// Bit 0: it has a value.
    bits: U32,
    mailbox: [u8; 16],
    modseq: U64,
    value_octets: U32,
    name_octets: U16,
    reserved: U16,
}
const _: () = assert!(size_of::<Entry>() == 40);

/// What is known of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// `None`: it was removed, or its value is not kept here.
    pub value: Option<Box<[u8]>>,
    /// When it changed.
    pub modseq: ModSeq,
}

/// There is no room for what would be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account has no room for more annotations")]
pub struct NoRoom;

/// All annotations of an account.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    entries: BTreeMap<(Guid, EntryName), Annotation>,
    /// Of those with a value: how many, and the octets of their names and values.
    count: usize,
    octets: usize,
    /// Those without one, oldest first.
    removals: BTreeSet<(ModSeq, Guid, EntryName)>,
    floor: ModSeq,
    /// No change is newer.
    newest: ModSeq,
    /// Changes so far, and how many of them stand in a block.
    changes: u64,
    stored: u64,
}

/// Annotations on their way into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnotationsToken(u64);

/// What is known is what counts, not how much of it is stored.
impl PartialEq for Annotations {
    fn eq(&self, other: &Annotations) -> bool {
        (&self.entries, self.floor) == (&other.entries, other.floor)
    }
}

impl Annotations {
    /// Entries with a value.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Octets of names and values.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Whether nothing at all is remembered, removals neither.
    pub fn is_blank(&self) -> bool {
        self.entries.is_empty() && self.floor == ModSeq::ZERO
    }

    pub fn get(&self, of: Guid, name: &EntryName) -> Option<&[u8]> {
        self.entries.get(&(of, name.clone()))?.value.as_deref()
    }

    /// The entries of a mailbox, or of [`SERVER`], that have a value, by name. Cost: those of that mailbox.
    pub fn of(&self, of: Guid) -> impl Iterator<Item = (&EntryName, &[u8])> {
        self.all_of(of).filter_map(|(name, annotation)| Some((name, annotation.value.as_deref()?)))
    }

    /// Those of them that are within one entry.
    pub fn within<'a>(
        &'a self,
        of: Guid,
        above: &'a EntryName,
        depth: Depth,
    ) -> impl Iterator<Item = (&'a EntryName, &'a [u8])> {
        self.of(of).filter(move |(name, _)| name.is_within(above, depth))
    }

    fn all_of(&self, of: Guid) -> impl Iterator<Item = (&EntryName, &Annotation)> {
        // No name is empty, and "/" is before all of them.
        let from = EntryName::parse(b"/private").expect("a scope");
        self.entries
            .range((of, from)..)
            .take_while(move |((mailbox, _), _)| *mailbox == of)
            .map(|((_, name), annotation)| (name, annotation))
    }

    /// What changed after `modseq`: the mailbox or [`SERVER`], the name, and when. Of who was told less than the floor says, every
    /// entry that there is may have.
    pub fn changed_since(&self, modseq: ModSeq) -> impl Iterator<Item = (Guid, &EntryName, ModSeq)> {
        let all = modseq < self.floor;
        let changed = self.entries.iter().filter(move |(_, annotation)| all || annotation.modseq > modseq);
        changed.map(|((of, name), annotation)| (*of, name, annotation.modseq))
    }

    /// No change is newer. Cost: none.
    pub fn newest(&self) -> ModSeq {
        self.newest
    }

    /// Whether all of these can be set together.
    pub fn room_for<'a>(
        &self,
        of: Guid,
        values: impl IntoIterator<Item = (&'a EntryName, Option<&'a [u8]>)>,
    ) -> Result<(), NoRoom> {
        let (mut count, mut octets) = (self.count, self.octets);
        let mut last: BTreeMap<&EntryName, Option<&[u8]>> = BTreeMap::new();
        for (name, value) in values {
            if value.is_some_and(|value| value.len() > VALUE_OCTETS_MAX) {
                return Err(NoRoom);
            }
            last.insert(name, value);
        }
        for (name, value) in last {
            if let Some(held) = self.get(of, name) {
                count -= 1;
                octets -= name.as_str().len() + held.len();
            }
            if let Some(value) = value {
                count += 1;
                octets += name.as_str().len() + value.len();
            }
        }
        if count <= ENTRIES_MAX && octets <= OCTETS_MAX { Ok(()) } else { Err(NoRoom) }
    }

    /// Sets or removes one. False, and nothing done, where that changes nothing.
    ///
    /// # Panics
    /// Where the value is longer than [`VALUE_OCTETS_MAX`].
    pub fn set(&mut self, of: Guid, name: &EntryName, value: Option<&[u8]>, modseq: ModSeq) -> bool {
        assert!(value.is_none_or(|value| value.len() <= VALUE_OCTETS_MAX), "a value longer than its bound");
        if self.get(of, name) == value {
            return false;
        }
        self.put(of, name, value, modseq);
        true
    }

    /// Notes that an entry changed whose value is kept elsewhere.
    pub fn touch(&mut self, of: Guid, name: &EntryName, modseq: ModSeq) {
        self.put(of, name, None, modseq);
    }

    fn put(&mut self, of: Guid, name: &EntryName, value: Option<&[u8]>, modseq: ModSeq) {
        self.take(of, name);
        self.changes += 1;
        self.newest = self.newest.max(modseq);
        let key = (of, name.clone());
        match value {
            Some(value) => {
                self.count += 1;
                self.octets += name.as_str().len() + value.len();
            }
            None => {
                self.removals.insert((modseq, of, name.clone()));
            }
        }
        self.entries.insert(key, Annotation { value: value.map(Box::from), modseq });
        while self.removals.len() > REMOVALS_MAX {
            let Some((forgotten, of, name)) = self.removals.pop_first() else { break };
            self.entries.remove(&(of, name));
            self.floor = self.floor.max(forgotten);
        }
    }

    fn take(&mut self, of: Guid, name: &EntryName) {
        let Some(annotation) = self.entries.remove(&(of, name.clone())) else { return };
        match annotation.value {
            Some(value) => {
                self.count -= 1;
                self.octets -= name.as_str().len() + value.len();
            }
            None => {
                self.removals.remove(&(annotation.modseq, of, name.clone()));
            }
        }
    }

    /// The mailbox is gone, and all that was said of it: a namesake inherits nothing.
    pub fn forget(&mut self, of: Guid) {
        let names: Vec<EntryName> = self.all_of(of).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.take(of, &name);
            self.changes += 1;
        }
    }

    /// A mailbox gets all that is said of another; where there is no room for it, nothing.
    pub fn copy(&mut self, from: Guid, to: Guid, modseq: ModSeq) {
        let values: Vec<(EntryName, Box<[u8]>)> =
            self.of(from).map(|(name, value)| (name.clone(), value.into())).collect();
        let pairs = values.iter().map(|(name, value)| (name, Some(&**value)));
        if self.room_for(to, pairs).is_ok() {
            for (name, value) in &values {
                self.set(to, name, Some(value), modseq);
            }
        }
    }

    /// Forgets all of them: the account is another one now.
    pub fn clear(&mut self) {
        let changes = self.changes + 1;
        *self = Annotations { changes, stored: self.stored, ..Annotations::default() };
    }

    /// Forgets what is said of mailboxes that `there` does not know.
    pub fn retain(&mut self, there: impl Fn(Guid) -> bool) {
        let gone: BTreeSet<Guid> =
            self.entries.keys().map(|(of, _)| *of).filter(|of| *of != SERVER && !there(*of)).collect();
        gone.into_iter().for_each(|of| self.forget(of));
    }

    /// Whether there is something to store.
    pub fn dirty(&self) -> bool {
        self.changes != self.stored
    }

    /// A block, and what to note once it is stored.
    pub fn encode(&self) -> (Vec<u8>, AnnotationsToken) {
        let mut bytes = vec![0; size_of::<Header>()];
        for ((of, name), Annotation { value, modseq }) in &self.entries {
            let octets = value.as_deref().unwrap_or_default();
            let entry = Entry {
                octets: ((size_of::<Entry>() + name.as_str().len() + octets.len()) as u32).into(),
                bits: if value.is_some() { HAS_VALUE } else { 0 }.into(),
                mailbox: of.0,
                modseq: modseq.get().into(),
                value_octets: (octets.len() as u32).into(),
                // EntryName::OCTETS_MAX is 255.
                name_octets: (name.as_str().len() as u16).into(),
                reserved: 0.into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(octets);
        }
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            crc: 0.into(),
            octets: (bytes.len() as u64).into(),
            floor: self.floor.get().into(),
            entries: (self.entries.len() as u32).into(),
            reserved_tail: [0; 4],
        };
        let crc = crc32c::crc32c(&header.as_bytes()[16..]);
        header.crc = crc32c::crc32c_append(crc, &bytes[size_of::<Header>()..]).into();
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        (bytes, AnnotationsToken(self.changes))
    }

    /// The block is stored. Blocks are stored in the order in which they were made.
    pub fn mark_stored(&mut self, token: AnnotationsToken) {
        self.stored = self.stored.max(token.0);
    }

    /// Proves the checksum and every invariant of the block; bytes behind it are padding.
    pub fn load(bytes: &[u8]) -> Result<Annotations, FormatError> {
        let held = bytes.len() as u64;
        let wanted = size_of::<Header>() as u64;
        let (header, _) =
            Header::read_from_prefix(bytes).map_err(|_| FormatError::Truncated { held, wanted })?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        let found = header.version.get();
        if found == 0 || found > VERSION {
            return Err(FormatError::Version { found, known: VERSION });
        }
        let wanted = header.octets.get();
        let whole = usize::try_from(wanted).ok().and_then(|octets| bytes.get(..octets));
        let whole = whole.filter(|whole| whole.len() >= size_of::<Header>());
        let whole = whole.ok_or(FormatError::Truncated { held, wanted })?;
        if crc32c::crc32c(&whole[16..]) != header.crc.get() {
            return Err(FormatError::Checksum { section: "annotations" });
        }
        let floor = ModSeq(header.floor.get());
        let mut annotations = Annotations { floor, newest: floor, ..Annotations::default() };
        if annotations.floor > ModSeq::MAX {
            return Err(FormatError::Content { what: "MODSEQ", at: 0 });
        }
        let mut cursor = Cursor::new(&whole[size_of::<Header>()..]);
        for at in 0..u64::from(header.entries.get()) {
            let wrong = FormatError::Content { what: "annotation", at };
            let (of, name, annotation) = read_entry(&mut cursor).ok_or(wrong.clone())?;
            let key = (of, name);
            annotations.newest = annotations.newest.max(annotation.modseq);
            if annotations.entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(FormatError::Content { what: "annotation out of order", at });
            }
            match &annotation.value {
                Some(value) => {
                    annotations.count += 1;
                    annotations.octets += key.1.as_str().len() + value.len();
                }
                None => {
                    annotations.removals.insert((annotation.modseq, key.0, key.1.clone()));
                }
            }
            annotations.entries.insert(key, annotation);
            let within = annotations.count <= ENTRIES_MAX
                && annotations.octets <= OCTETS_MAX
                && annotations.removals.len() <= REMOVALS_MAX;
            if !within {
                return Err(wrong);
            }
        }
        if !cursor.is_empty() {
            return Err(FormatError::Content { what: "octets beyond the last annotation", at: 0 });
        }
        Ok(annotations)
    }
}

fn read_entry(cursor: &mut Cursor<'_>) -> Option<(Guid, EntryName, Annotation)> {
    let octets = cursor.peek_u32()? as usize;
    let mut record = Cursor::new(cursor.take(octets)?);
    let fixed = Entry::read_from_bytes(record.take(size_of::<Entry>())?).ok()?;
    let octets = record.take(usize::from(fixed.name_octets.get()))?;
    // What `EntryName::parse` would change was not written by us.
    let name = EntryName::parse(octets).ok().filter(|name| name.as_str().as_bytes() == octets)?;
    let value = record.take(fixed.value_octets.get() as usize)?;
    let has = fixed.bits.get() & HAS_VALUE != 0;
    let modseq = ModSeq(fixed.modseq.get());
    let holds = value.len() <= VALUE_OCTETS_MAX && (has || value.is_empty()) && modseq <= ModSeq::MAX;
    holds.then(|| (Guid(fixed.mailbox), name, Annotation { value: has.then(|| value.into()), modseq }))
}

/// A block in lines of text. Of values the octets are told.
pub fn dump(bytes: &[u8]) -> Result<impl Display + use<>, FormatError> {
    Annotations::load(bytes).map(|annotations| Dump { annotations, octets: bytes.len() })
}

struct Dump {
    annotations: Annotations,
    octets: usize,
}

impl Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dump { annotations, octets } = self;
        writeln!(
            f,
            "annotations block, {octets} octets, removals known from modseq {} on",
            annotations.floor
        )?;
        let entries: Vec<_> = annotations.entries.iter().collect();
        list(f, "annotations", &entries, |f, _, ((of, name), Annotation { value, modseq })| {
            match *of {
                SERVER => write!(f, "  annotation of the server")?,
                of => write!(f, "  annotation of mailbox {of}")?,
            }
            write!(f, " {:?} modseq {modseq} ", name.as_str())?;
            match value {
                Some(value) => writeln!(f, "{} octets", value.len()),
                None => writeln!(f, "no value here"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> EntryName {
        EntryName::parse(text.as_bytes()).expect(text)
    }

    fn some() -> Annotations {
        let mut annotations = Annotations::default();
        let inbox = Guid::INBOX;
        assert!(annotations.set(inbox, &entry("/private/comment"), Some(b"My own"), ModSeq(3)));
        assert!(annotations.set(SERVER, &entry("/private/vendor/x/y"), Some(b""), ModSeq(4)));
        assert!(annotations.set(Guid([7; 16]), &entry("/shared/comment"), Some(b"\xff\r\n"), ModSeq(5)));
        assert!(annotations.set(inbox, &entry("/shared/comment"), Some(b"x"), ModSeq(6)));
        assert!(annotations.set(inbox, &entry("/shared/comment"), None, ModSeq(7)));
        annotations
    }

    fn counted(annotations: &Annotations) -> (usize, usize) {
        let with: Vec<_> = annotations
            .entries
            .iter()
            .filter_map(|((_, name), annotation)| Some((name, annotation.value.as_deref()?)))
            .collect();
        (with.len(), with.iter().map(|(name, value)| name.as_str().len() + value.len()).sum())
    }

    #[test]
    fn what_is_written_is_read_and_counted() {
        let annotations = some();
        assert_eq!((annotations.len(), annotations.octets()), counted(&annotations));
        let (bytes, _) = annotations.encode();
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0; 9]);
        for bytes in [&bytes, &padded] {
            let read = Annotations::load(bytes).expect("whole");
            assert_eq!(read, annotations);
            assert_eq!((read.len(), read.octets()), counted(&annotations));
            assert!(!read.dirty());
        }
        assert_eq!(Annotations::load(&Annotations::default().encode().0), Ok(Annotations::default()));
    }

    #[test]
    fn a_block_writes_the_bytes_it_always_wrote() {
        let mut annotations = Annotations::default();
        annotations.set(Guid::INBOX, &entry("/private/comment"), Some(b"hi"), ModSeq(3));
        annotations.touch(SERVER, &entry("/shared/x"), ModSeq(4));
        let mut expected = b"CULVANN\n".to_vec();
        expected.extend_from_slice(&[1, 0, 0, 0]);
        let mut rest = Vec::new();
        rest.extend_from_slice(&147u64.to_le_bytes());
        rest.extend_from_slice(&[0; 8]);
        rest.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        rest.extend_from_slice(&[58, 0, 0, 0, 1, 0, 0, 0]);
        rest.extend_from_slice(&[0; 16]);
        rest.extend_from_slice(&3u64.to_le_bytes());
        rest.extend_from_slice(&[2, 0, 0, 0, 16, 0, 0, 0]);
        rest.extend_from_slice(b"/private/commenthi");
        rest.extend_from_slice(&[49, 0, 0, 0, 0, 0, 0, 0]);
        rest.extend_from_slice(&[0xff; 16]);
        rest.extend_from_slice(&4u64.to_le_bytes());
        rest.extend_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0]);
        rest.extend_from_slice(b"/shared/x");
        expected.extend_from_slice(&crc32c::crc32c(&rest).to_le_bytes());
        expected.extend_from_slice(&rest);
        assert_eq!(annotations.encode().0, expected);
        assert_eq!(Annotations::load(&expected), Ok(annotations));
    }

    #[test]
    fn every_flipped_octet_is_found() {
        let (bytes, _) = some().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            // The two octets beside the version stand outside the checksum and mean nothing yet.
            assert!((10..12).contains(&at) || Annotations::load(&damaged).is_err(), "octet {at}");
            assert!(Annotations::load(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn what_is_set_to_what_it_is_changes_nothing() {
        let mut annotations = some();
        let (_, token) = annotations.encode();
        annotations.mark_stored(token);
        assert!(!annotations.set(Guid::INBOX, &entry("/PRIVATE/comment"), Some(b"My own"), ModSeq(9)));
        assert!(!annotations.set(Guid::INBOX, &entry("/private/none"), None, ModSeq(9)));
        assert!(!annotations.dirty());
        annotations.forget(Guid([7; 16]));
        assert!(annotations.dirty() && annotations.of(Guid([7; 16])).next().is_none());
        assert_eq!((annotations.len(), annotations.octets()), counted(&annotations));
    }

    #[test]
    fn who_was_told_up_to_a_modseq_learns_of_what_changed_since() {
        let mut annotations = some();
        let since = |annotations: &Annotations, modseq: u64| {
            let changed = annotations.changed_since(ModSeq(modseq));
            changed.map(|(of, name, _)| (of.0[0], name.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(since(&annotations, 5), [(0, "/shared/comment".to_owned())]);
        assert_eq!(since(&annotations, 4).len(), 2);
        assert_eq!(since(&annotations, 7), []);
        assert_eq!(annotations.newest(), ModSeq(7));
        for number in 0..=REMOVALS_MAX as u64 {
            let name = entry(&format!("/private/{number}"));
            annotations.set(Guid::INBOX, &name, Some(b"x"), ModSeq(10 + 2 * number));
            annotations.set(Guid::INBOX, &name, None, ModSeq(11 + 2 * number));
        }
        assert_eq!(annotations.removals.len(), REMOVALS_MAX);
        // The oldest removals are forgotten: who was told less hears of all that there is.
        assert_eq!(annotations.floor, ModSeq(11));
        assert_eq!(since(&annotations, 10).len(), annotations.entries.len());
        assert_eq!(since(&annotations, 11).len(), REMOVALS_MAX);
        assert_eq!(Annotations::load(&annotations.encode().0), Ok(annotations));
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let mut annotations = Annotations::default();
        let big = vec![b'x'; VALUE_OCTETS_MAX - 64];
        for number in 0..4 {
            let name = entry(&format!("/private/{number}"));
            assert_eq!(annotations.room_for(SERVER, [(&name, Some(&big[..]))]), Ok(()));
            annotations.set(SERVER, &name, Some(&big), ModSeq(1));
        }
        let (last, first) = (entry("/private/last"), entry("/private/0"));
        let longer = vec![b'x'; VALUE_OCTETS_MAX + 1];
        assert_eq!(annotations.room_for(SERVER, [(&last, Some(&big[..]))]), Err(NoRoom));
        assert_eq!(annotations.room_for(SERVER, [(&first, Some(&longer[..]))]), Err(NoRoom));
        // What is replaced or removed by the same command makes room.
        assert_eq!(annotations.room_for(SERVER, [(&first, Some(&big[..]))]), Ok(()));
        assert_eq!(annotations.room_for(SERVER, [(&first, None), (&last, Some(&big[..]))]), Ok(()));
    }

    #[test]
    fn a_copy_brings_values_and_no_removals() {
        let mut annotations = some();
        annotations.copy(Guid::INBOX, Guid([8; 16]), ModSeq(9));
        let copied: Vec<_> = annotations.all_of(Guid([8; 16])).collect();
        assert_eq!(copied.len(), 1);
        assert_eq!(copied[0].1.modseq, ModSeq(9));
        annotations.retain(|guid| guid == Guid::INBOX);
        assert!(annotations.of(Guid([8; 16])).next().is_none() && annotations.of(SERVER).next().is_some());
        annotations.clear();
        assert!(annotations.is_blank() && annotations.dirty());
    }
}
