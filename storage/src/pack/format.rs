//! Pack: bodies outside the journal, each followed by a label that says whose it is. See `docs/format/pack.md`.
//!
//! header (64) · entries (body frame, label) · footer (32).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const PACK_MAGIC: [u8; 8] = *b"CULVPAK1";
pub(crate) const PACK_END: [u8; 8] = *b"CULVPAKE";
pub(crate) const PACK_VERSION: u32 = 1;
pub(crate) const LABEL_MAGIC: u32 = u32::from_le_bytes(*b"CVlb");
/// Octets of a pack's or a table's header; the first entry stands behind it.
pub(crate) const HEADER_OCTETS: usize = size_of::<RawHeader>();
pub(crate) const LABEL_OCTETS: usize = size_of::<RawLabel>();
pub(crate) const FOOTER_OCTETS: usize = size_of::<RawFooter>();

/// Packs and tables begin alike.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    partition: U16,
    shard: U16,
    epoch: U32,
    reserved: U32,
    number: U64,
    store: [u8; 16],
    crc: U32,
    reserved2: [u8; 12],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLabel {
    magic: U32,
    account_octets: U16,
    reserved: U16,
    meta_octets: U32,
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFooter {
    magic: [u8; 8],
    length: U64,
    entries: U64,
    reserved: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 64);
const _: () = assert!(size_of::<RawLabel>() == 16);
const _: () = assert!(size_of::<RawFooter>() == 32);

/// What a pack or a table says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub partition: u16,
    pub shard: u16,
    pub epoch: u32,
    pub number: u64,
    pub store: [u8; 16],
}

impl FileHeader {
    pub fn to_bytes(self, magic: [u8; 8], version: u32) -> [u8; HEADER_OCTETS] {
        let mut raw = RawHeader {
            magic,
            version: version.into(),
            partition: self.partition.into(),
            shard: self.shard.into(),
            epoch: self.epoch.into(),
            reserved: 0.into(),
            number: self.number.into(),
            store: self.store,
            crc: 0.into(),
            reserved2: [0; 12],
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        zerocopy::transmute!(raw)
    }

    pub fn parse(bytes: &[u8], magic: [u8; 8], version: u32) -> Result<FileHeader, String> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| "header cut short".to_owned())?;
        if raw.magic != magic {
            return Err("another kind of file".into());
        }
        if crc32c::crc32c(RawHeader { crc: 0.into(), ..raw }.as_bytes()) != raw.crc.get() {
            return Err("header's checksum is wrong".into());
        }
        if raw.version.get() != version {
            return Err(format!("format version {}, this program reads {version}", raw.version));
        }
        Ok(FileHeader {
            partition: raw.partition.get(),
            shard: raw.shard.get(),
            epoch: raw.epoch.get(),
            number: raw.number.get(),
            store: raw.store,
        })
    }
}

/// Appends the label of the frame before it.
pub(crate) fn put_label(account: &str, meta: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let raw = RawLabel {
        magic: LABEL_MAGIC.into(),
        account_octets: (account.len() as u16).into(),
        reserved: 0.into(),
        meta_octets: (meta.len() as u32).into(),
        crc: 0.into(),
    };
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(account.as_bytes());
    out.extend_from_slice(meta);
    let crc = label_crc(&out[begin..]);
    out[begin + 12..begin + 16].copy_from_slice(&crc.to_le_bytes());
    let padded = (out.len() - begin).next_multiple_of(8);
    out.resize(begin + padded, 0);
}

fn label_crc(label: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&label[..12]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &label[16..])
}

/// Octets of the label (padded) that begins here; enough of it to tell is [`LABEL_OCTETS`].
pub(crate) fn label_octets(bytes: &[u8]) -> Result<usize, &'static str> {
    let (raw, _) = RawLabel::read_from_prefix(bytes).map_err(|_| "label cut short")?;
    if raw.magic.get() != LABEL_MAGIC || raw.reserved.get() != 0 {
        return Err("no label here");
    }
    Ok((LABEL_OCTETS + usize::from(raw.account_octets.get()) + raw.meta_octets.get() as usize)
        .next_multiple_of(8))
}

/// The account and meta of the label at the beginning of `bytes`.
pub(crate) fn parse_label(bytes: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let bytes = bytes.get(..label_octets(bytes)?).ok_or("label cut short")?;
    let (raw, rest) = RawLabel::read_from_prefix(bytes).map_err(|_| "label cut short")?;
    let (account, rest) = rest.split_at(usize::from(raw.account_octets.get()));
    let meta = &rest[..raw.meta_octets.get() as usize];
    if label_crc(&bytes[..LABEL_OCTETS + account.len() + meta.len()]) != raw.crc.get() {
        return Err("label's checksum is wrong");
    }
    Ok((std::str::from_utf8(account).map_err(|_| "label's account is no text")?, meta))
}

/// The end of a whole pack of `length` octets.
pub(crate) fn footer(length: u64, entries: u64) -> [u8; FOOTER_OCTETS] {
    let mut raw = RawFooter {
        magic: PACK_END,
        length: length.into(),
        entries: entries.into(),
        reserved: 0.into(),
        crc: 0.into(),
    };
    raw.crc = crc32c::crc32c(raw.as_bytes()).into();
    zerocopy::transmute!(raw)
}

/// The length and entries a footer tells.
pub(crate) fn parse_footer(bytes: &[u8]) -> Result<(u64, u64), &'static str> {
    let raw = RawFooter::read_from_bytes(bytes).map_err(|_| "pack cut short")?;
    if raw.magic != PACK_END || crc32c::crc32c(RawFooter { crc: 0.into(), ..raw }.as_bytes()) != raw.crc.get()
    {
        return Err("pack has no valid end");
    }
    Ok((raw.length.get(), raw.entries.get()))
}

/// See [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn mend(pack: &mut [u8]) {
    use crate::fuzzing::put_crc;
    mend_header(pack);
    let Some(end) = pack.len().checked_sub(FOOTER_OCTETS) else { return };
    put_crc(&mut pack[end..], std::mem::offset_of!(RawFooter, crc));
    let mut at = HEADER_OCTETS;
    while let Some(frame) = pack.get_mut(at..end).and_then(crate::body::format::mend) {
        at += frame;
        let Some(rest) = pack.get_mut(at..end) else { return };
        let Ok((raw, _)) = RawLabel::read_from_prefix(rest) else { return };
        let octets = LABEL_OCTETS + usize::from(raw.account_octets.get()) + raw.meta_octets.get() as usize;
        let Some(label) = rest.get_mut(..octets) else { return };
        let crc = label_crc(label);
        label[12..16].copy_from_slice(&crc.to_le_bytes());
        at += octets.next_multiple_of(8);
    }
}

/// The header of a pack or a table; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn mend_header(file: &mut [u8]) {
    if let Some(header) = file.get_mut(..HEADER_OCTETS) {
        crate::fuzzing::put_crc(header, std::mem::offset_of!(RawHeader, crc));
    }
}
