//! One message as it is read from the index, handed to it, or carried from one index to another.

use crate::format::{ColdRow, PLACE_OCTETS, ROW_HEADERS_COMPLETE};
use crate::keyword::SYSTEM;
use crate::rows::{Heap, SHARED};
use crate::{FlagId, IndexError, Limit, MailboxIndex};
use culver_model::{FlagSet, Guid, InternalDate, Keyword, ModSeq, SystemFlag, Uid};

/// A message, read in place. Block that a damaged heap does not hold read as empty; [`crate::check`] finds them.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub(crate) uid: u32,
    pub(crate) flags: u64,
    pub(crate) modseq: u64,
    pub(crate) cold: &'a ColdRow,
    pub(crate) heap: Heap<'a>,
    pub(crate) index: &'a MailboxIndex,
}

impl<'a> Row<'a> {
    pub fn uid(&self) -> Uid {
        Uid::new(self.uid).unwrap_or(Uid::MIN)
    }

    pub fn modseq(&self) -> ModSeq {
        ModSeq(self.modseq)
    }

    /// [`SystemFlag`] bits.
    pub fn system(&self) -> u8 {
        (self.flags & SYSTEM) as u8
    }

    pub fn has(&self, flag: SystemFlag) -> bool {
        self.system() & flag.bit() != 0
    }

    /// Bits 0 to 4 the system flags, bits 8 to 63 the keywords of id 0 to 55.
    pub fn flag_bits(&self) -> u64 {
        self.flags & !0xe0
    }

    /// Ids of its keywords, ascending: places in [`MailboxIndex::keywords`].
    pub fn keyword_ids(&self) -> impl Iterator<Item = u16> + use<'a> {
        let mut bits = self.flags >> 8;
        let hot = std::iter::from_fn(move || {
            let id = bits.trailing_zeros() as u16;
            bits &= bits.checked_sub(1)?;
            Some(id)
        });
        hot.chain(self.index.keywords.side_ids(self.uid))
    }

    pub fn keywords(&self) -> impl Iterator<Item = &'a Keyword> + use<'a> {
        let table = self.index.keywords();
        self.keyword_ids().filter_map(move |id| table.get(usize::from(id)))
    }

    pub fn flag_set(&self) -> FlagSet {
        FlagSet { system: self.system(), keywords: self.keywords().cloned().collect() }
    }

    pub fn internal_date(&self) -> InternalDate {
        self.cold.internal_date()
    }

    /// Seconds since 1970 (RFC 8514); 0: not known.
    pub fn save_date(&self) -> i64 {
        self.cold.save_date.get()
    }

    /// RFC822.SIZE: prefix and body.
    pub fn size(&self) -> u64 {
        self.cold.size.get()
    }

    pub fn guid(&self) -> Guid {
        Guid(self.cold.guid)
    }

    /// Where its bytes are, as the storage encodes it.
    pub fn place(&self) -> &'a [u8; PLACE_OCTETS] {
        let moved = &self.index.rows.moved;
        if moved.is_empty() { &self.cold.place } else { moved.get(&self.uid).unwrap_or(&self.cold.place) }
    }

    /// Octets of the recipient's own trace prefix, part of `size`.
    pub fn prefix_len(&self) -> u32 {
        self.cold.prefix_octets.get()
    }

    /// 0: not known.
    pub fn thread_id(&self) -> u64 {
        self.cold.thread_id.get()
    }

    pub fn email_id(&self) -> Guid {
        Guid(self.cold.email_id)
    }

    /// The mailbox into which it was first delivered or appended.
    pub fn origin(&self) -> Guid {
        Guid(self.cold.origin)
    }

    pub fn key_id(&self) -> u32 {
        self.cold.key_id.get()
    }

    pub fn pop3_order(&self) -> u32 {
        self.cold.pop3_order.get()
    }

    /// A UIDL carried from elsewhere; `None` where it is to be made from the GUID.
    pub fn pop3_uidl(&self) -> Option<&'a str> {
        let uidl = std::str::from_utf8(self.field(5)).ok()?;
        (!uidl.is_empty()).then_some(uidl)
    }

    /// Whether the bytes at its place may serve other rows too.
    pub fn shared(&self) -> bool {
        self.flags & SHARED != 0
    }

    /// ENVELOPE in wire form.
    pub fn envelope(&self) -> &'a [u8] {
        self.field(0)
    }

    /// BODY (without extension data) in wire form.
    pub fn body(&self) -> &'a [u8] {
        self.field(1)
    }

    /// BODYSTRUCTURE in wire form.
    pub fn bodystructure(&self) -> &'a [u8] {
        self.field(2)
    }

    /// The serialised table of MIME parts.
    pub fn parts(&self) -> &'a [u8] {
        self.field(3)
    }

    /// The header lines kept.
    pub fn headers(&self) -> &'a [u8] {
        self.field(4)
    }

    /// Whether [`Self::headers`] is the whole header.
    pub fn headers_complete(&self) -> bool {
        self.cold.bits & ROW_HEADERS_COMPLETE != 0
    }

    /// As a message that another index can append, borrowing all but the flags.
    pub fn message<'b>(&'b self, flags: &'b FlagSet) -> NewMessage<'b> {
        NewMessage {
            flags,
            internal_date: self.internal_date(),
            save_date: self.save_date(),
            size: self.size(),
            guid: self.guid(),
            place: *self.place(),
            prefix_len: self.prefix_len(),
            shared: self.shared(),
            thread_id: self.thread_id(),
            email_id: self.email_id(),
            pop3_uidl: self.pop3_uidl(),
            pop3_order: self.pop3_order(),
            origin: self.origin(),
            key_id: self.key_id(),
            envelope: self.envelope(),
            body: self.body(),
            bodystructure: self.bodystructure(),
            parts: self.parts(),
            headers: self.headers(),
            headers_complete: self.headers_complete(),
        }
    }

    /// The message with all it needs to be appended to another index: COPY and MOVE parse nothing again.
    pub fn to_owned_message(&self) -> OwnedMessage {
        self.message(&self.flag_set()).into()
    }

    pub(crate) fn heap_run(&self) -> &'a [u8] {
        self.heap.run(self.cold.heap.get(), self.cold.heap_octets()).unwrap_or_default()
    }

    fn field(&self, number: usize) -> &'a [u8] {
        let cold = self.cold;
        let octets = [
            cold.envelope_octets.get(),
            cold.body_octets.get(),
            cold.bodystructure_octets.get(),
            cold.parts_octets.get(),
            cold.headers_octets.get(),
            u32::from(cold.pop3_uidl_octets),
        ];
        let before: usize = octets[..number].iter().map(|octets| *octets as usize).sum();
        self.heap_run().get(before..before + octets[number] as usize).unwrap_or_default()
    }
}

/// A message to be appended. Times are seconds since 1970, sizes octets; the byte strings are kept as they are.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    pub flags: &'a FlagSet,
    pub internal_date: InternalDate,
    /// 0: not known.
    pub save_date: i64,
    /// RFC822.SIZE: prefix and body.
    pub size: u64,
    pub guid: Guid,
    pub place: [u8; PLACE_OCTETS],
    pub prefix_len: u32,
    /// Whether the bytes at `place` may serve other rows too.
    pub shared: bool,
    /// 0: not known.
    pub thread_id: u64,
    pub email_id: Guid,
    /// 1 to 70 octets of 0x21 to 0x7E (RFC 1939 §7).
    pub pop3_uidl: Option<&'a str>,
    pub pop3_order: u32,
    pub origin: Guid,
    pub key_id: u32,
    pub envelope: &'a [u8],
    pub body: &'a [u8],
    pub bodystructure: &'a [u8],
    pub parts: &'a [u8],
    pub headers: &'a [u8],
    pub headers_complete: bool,
}

impl NewMessage<'_> {
    /// Its cold row, with the heap run at `heap`.
    pub(crate) fn cold(&self, heap: u64) -> Result<ColdRow, IndexError> {
        let length = |field, bytes: &[u8]| {
            u32::try_from(bytes.len()).map_err(|_| Limit::FieldOctets { field, octets: bytes.len() })
        };
        let uidl = self.pop3_uidl.unwrap_or_default();
        // RFC 1939 §7: a unique-id has 1 to 70 characters.
        if uidl.len() > 70 {
            return Err(Limit::FieldOctets { field: "UIDL", octets: uidl.len() }.into());
        }
        let mut bits = 0;
        if self.headers_complete {
            bits |= ROW_HEADERS_COMPLETE;
        }
        Ok(ColdRow {
            internal_date: self.internal_date.seconds.into(),
            save_date: self.save_date.into(),
            size: self.size.into(),
            guid: self.guid.0,
            email_id: self.email_id.0,
            origin: self.origin.0,
            thread_id: self.thread_id.into(),
            place: self.place,
            heap: heap.into(),
            envelope_octets: length("ENVELOPE", self.envelope)?.into(),
            body_octets: length("BODY", self.body)?.into(),
            bodystructure_octets: length("BODYSTRUCTURE", self.bodystructure)?.into(),
            parts_octets: length("parts", self.parts)?.into(),
            headers_octets: length("headers", self.headers)?.into(),
            prefix_octets: self.prefix_len.into(),
            pop3_order: self.pop3_order.into(),
            key_id: self.key_id.into(),
            zone_minutes: self.internal_date.zone_minutes.into(),
            pop3_uidl_octets: uidl.len() as u8,
            bits,
            reserved: [0; 4],
        })
    }

    pub(crate) fn heap(&self) -> [&[u8]; 6] {
        let uidl = self.pop3_uidl.unwrap_or_default().as_bytes();
        [self.envelope, self.body, self.bodystructure, self.parts, self.headers, uidl]
    }
}

/// A message taken out of one index for another: COPY and MOVE parse nothing again.
#[derive(Clone, Debug)]
pub struct OwnedMessage {
    pub flags: FlagSet,
    pub internal_date: InternalDate,
    pub save_date: i64,
    pub size: u64,
    pub guid: Guid,
    pub place: [u8; PLACE_OCTETS],
    pub prefix_len: u32,
    pub shared: bool,
    pub thread_id: u64,
    pub email_id: Guid,
    pub pop3_uidl: Option<Box<str>>,
    pub pop3_order: u32,
    pub origin: Guid,
    pub key_id: u32,
    pub headers_complete: bool,
    heap: Box<[u8]>,
    /// Ends of ENVELOPE, BODY, BODYSTRUCTURE and the parts in `heap`; the header lines run to its end.
    ends: [usize; 4],
}

impl OwnedMessage {
    pub fn as_new(&self) -> NewMessage<'_> {
        let [envelope, body, bodystructure, parts] = self.ends;
        NewMessage {
            flags: &self.flags,
            internal_date: self.internal_date,
            save_date: self.save_date,
            size: self.size,
            guid: self.guid,
            place: self.place,
            prefix_len: self.prefix_len,
            shared: self.shared,
            thread_id: self.thread_id,
            email_id: self.email_id,
            pop3_uidl: self.pop3_uidl.as_deref(),
            pop3_order: self.pop3_order,
            origin: self.origin,
            key_id: self.key_id,
            envelope: &self.heap[..envelope],
            body: &self.heap[envelope..body],
            bodystructure: &self.heap[body..bodystructure],
            parts: &self.heap[bodystructure..parts],
            headers: &self.heap[parts..],
            headers_complete: self.headers_complete,
        }
    }
}

impl From<NewMessage<'_>> for OwnedMessage {
    fn from(message: NewMessage<'_>) -> OwnedMessage {
        let fields = [message.envelope, message.body, message.bodystructure, message.parts, message.headers];
        let mut ends = [0; 4];
        let mut end = 0;
        for (slot, field) in ends.iter_mut().zip(fields) {
            end += field.len();
            *slot = end;
        }
        OwnedMessage {
            flags: message.flags.clone(),
            internal_date: message.internal_date,
            save_date: message.save_date,
            size: message.size,
            guid: message.guid,
            place: message.place,
            prefix_len: message.prefix_len,
            shared: message.shared,
            thread_id: message.thread_id,
            email_id: message.email_id,
            pop3_uidl: message.pop3_uidl.map(Box::from),
            pop3_order: message.pop3_order,
            origin: message.origin,
            key_id: message.key_id,
            headers_complete: message.headers_complete,
            heap: fields.concat().into_boxed_slice(),
            ends,
        }
    }
}

impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("uid", &self.uid)
            .field("modseq", &self.modseq)
            .field("flags", &format_args!("{}", self.flag_set()))
            .field("guid", &self.guid())
            .finish_non_exhaustive()
    }
}

impl Row<'_> {
    pub fn has_flag(&self, flag: FlagId) -> bool {
        match flag.hot_bit() {
            Some(bit) => self.flags & bit != 0,
            None => self.index.keywords.side_of(flag).is_some_and(|uids| uids.contains(self.uid)),
        }
    }
}
