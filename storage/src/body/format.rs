//! Body frame: how the octets of a body stand in a segment or a pack.
//!
//! header (40) · chunks · chunk table (8 each) · zeros to a multiple of 8. Every chunk but the last holds
//! [`CHUNK_OCTETS`] plain octets, so that a range is read by decoding only the chunks it touches.
//! See `docs/format/pack.md`.

use std::cell::RefCell;
use std::io;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zstd::bulk::Decompressor;

pub(crate) const BODY_MAGIC: u32 = u32::from_le_bytes(*b"CVbd");
/// Plain octets of a chunk.
pub(crate) const CHUNK_OCTETS: usize = 64 << 10;
/// The most a chunk takes: zstd's bound for 64 KiB is below 65,536 + 512.
const STORED_CHUNK_MAX: usize = CHUNK_OCTETS + 1024;
pub(crate) const HEADER_OCTETS: usize = size_of::<BodyHeader>();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    Raw = 0,
    /// Each chunk is a zstd frame of its own.
    Zstd = 1,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BodyHeader {
    magic: U32,
    codec: u8,
    reserved: [u8; 3],
    chunk_octets: U32,
    chunks: U32,
    plain: U64,
    stored: U64,
    table_crc: U32,
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkEntry {
    pub stored: U32,
    pub crc: U32,
}

const _: () = assert!(size_of::<BodyHeader>() == 40);
const _: () = assert!(size_of::<ChunkEntry>() == 8);

/// A header that was found valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyShape {
    pub codec: Codec,
    pub chunks: u32,
    pub plain: u64,
    pub stored: u64,
    table_crc: u32,
}

impl BodyShape {
    /// What a frame of these chunks is headed with.
    pub fn new(codec: Codec, plain: u64, stored: u64, table: &[ChunkEntry]) -> BodyShape {
        let table_crc = crc32c::crc32c(table.as_bytes());
        BodyShape { codec, chunks: table.len() as u32, plain, stored, table_crc }
    }

    pub fn header(&self) -> [u8; HEADER_OCTETS] {
        let mut header = BodyHeader {
            magic: BODY_MAGIC.into(),
            codec: self.codec as u8,
            reserved: [0; 3],
            chunk_octets: (CHUNK_OCTETS as u32).into(),
            chunks: self.chunks.into(),
            plain: self.plain.into(),
            stored: self.stored.into(),
            table_crc: self.table_crc.into(),
            crc: 0.into(),
        };
        header.crc = crc32c::crc32c(header.as_bytes()).into();
        zerocopy::transmute!(header)
    }

    /// The shape a header tells, or what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<BodyShape, &'static str> {
        let (header, _) = BodyHeader::read_from_prefix(bytes).map_err(|_| "body header cut short")?;
        if header.magic.get() != BODY_MAGIC {
            return Err("no body header here");
        }
        let zeroed = BodyHeader { crc: 0.into(), ..header };
        if crc32c::crc32c(zeroed.as_bytes()) != header.crc.get() {
            return Err("body header's checksum is wrong");
        }
        if header.reserved != [0; 3] {
            return Err("body header of a newer program");
        }
        let codec = match header.codec {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return Err("unknown body codec"),
        };
        let shape = BodyShape {
            codec,
            chunks: header.chunks.get(),
            plain: header.plain.get(),
            stored: header.stored.get(),
            table_crc: header.table_crc.get(),
        };
        let chunks = shape.plain.div_ceil(CHUNK_OCTETS as u64);
        let sized = u64::from(shape.chunks) == chunks && shape.stored <= chunks * STORED_CHUNK_MAX as u64;
        let raw = codec != Codec::Raw || shape.plain == shape.stored;
        if header.chunk_octets.get() as usize != CHUNK_OCTETS || !sized || !raw {
            return Err("body header's sizes do not agree");
        }
        Ok(shape)
    }

    /// Where the chunk table begins, from the frame's beginning.
    pub fn table_offset(&self) -> u64 {
        HEADER_OCTETS as u64 + self.stored
    }

    pub fn table_octets(&self) -> u64 {
        u64::from(self.chunks) * size_of::<ChunkEntry>() as u64
    }

    /// Octets of the whole frame with its padding.
    pub fn frame_octets(&self) -> u64 {
        (self.table_offset() + self.table_octets()).next_multiple_of(8)
    }

    /// The chunk table, checked.
    pub fn table(&self, bytes: &[u8]) -> Result<Vec<ChunkEntry>, &'static str> {
        let bytes = bytes.get(..self.table_octets() as usize).ok_or("chunk table cut short")?;
        if crc32c::crc32c(bytes) != self.table_crc {
            return Err("chunk table's checksum is wrong");
        }
        let table = <[ChunkEntry]>::ref_from_bytes(bytes).map_err(|_| "chunk table cut short")?;
        let total: u64 = table.iter().map(|entry| u64::from(entry.stored.get())).sum();
        if total != self.stored || table.iter().any(|entry| entry.stored.get() as usize > STORED_CHUNK_MAX) {
            return Err("chunk table's sizes do not agree");
        }
        Ok(table.to_vec())
    }

    /// Plain octets of chunk `index`.
    pub fn chunk_plain(&self, index: usize) -> usize {
        let before = index as u64 * CHUNK_OCTETS as u64;
        self.plain.saturating_sub(before).min(CHUNK_OCTETS as u64) as usize
    }
}

/// The entry of a stored chunk.
pub(crate) fn chunk_entry(stored: &[u8]) -> ChunkEntry {
    ChunkEntry { stored: (stored.len() as u32).into(), crc: crc32c::crc32c(stored).into() }
}

/// Plain octets of a stored chunk, checked.
pub(crate) fn decode_chunk(
    codec: Codec,
    stored: &[u8],
    entry: &ChunkEntry,
    plain: usize,
) -> Result<Vec<u8>, &'static str> {
    if stored.len() != entry.stored.get() as usize || crc32c::crc32c(stored) != entry.crc.get() {
        return Err("body chunk's checksum is wrong");
    }
    let octets = match codec {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => decompress(stored, plain).map_err(|_| "body chunk does not decompress")?,
    };
    if octets.len() != plain {
        return Err("body chunk has the wrong size");
    }
    Ok(octets)
}

/// A context is 160 KiB that would be made and given back for each chunk: a thread keeps one.
fn decompress(stored: &[u8], plain: usize) -> io::Result<Vec<u8>> {
    thread_local!(static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) });
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) => context.decompress(stored, plain),
        None => context.insert(Decompressor::new()?).decompress(stored, plain),
    })
}

/// Octets of a raw frame of a body of `plain` octets.
pub(crate) fn raw_frame_octets(plain: usize) -> usize {
    (HEADER_OCTETS + plain + plain.div_ceil(CHUNK_OCTETS) * size_of::<ChunkEntry>()).next_multiple_of(8)
}

/// Appends a raw frame.
pub(crate) fn put_raw_frame(body: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let table: Vec<ChunkEntry> = body.chunks(CHUNK_OCTETS).map(chunk_entry).collect();
    let shape = BodyShape::new(Codec::Raw, body.len() as u64, body.len() as u64, &table);
    out.extend_from_slice(&shape.header());
    out.extend_from_slice(body);
    out.extend_from_slice(table.as_bytes());
    out.resize(begin + raw_frame_octets(body.len()), 0);
}

/// Reads a whole frame that stands at the beginning of `bytes`: its plain octets and the frame's size.
pub(crate) fn decode_frame(bytes: &[u8]) -> Result<(Vec<u8>, u64), &'static str> {
    let shape = BodyShape::parse(bytes)?;
    let table_at = usize::try_from(shape.table_offset()).map_err(|_| "body frame cut short")?;
    let table = shape.table(bytes.get(table_at..).ok_or("body frame cut short")?)?;
    let mut plain = Vec::new();
    let mut at = HEADER_OCTETS;
    for (index, entry) in table.iter().enumerate() {
        let end = at + entry.stored.get() as usize;
        let stored = bytes.get(at..end).ok_or("body frame cut short")?;
        plain.extend_from_slice(&decode_chunk(shape.codec, stored, entry, shape.chunk_plain(index))?);
        at = end;
    }
    Ok((plain, shape.frame_octets()))
}

/// The frame that begins here; how many octets it takes. See [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn mend(bytes: &mut [u8]) -> Option<usize> {
    use crate::fuzzing::put_crc;
    let crc_at = std::mem::offset_of!(BodyHeader, crc);
    put_crc(bytes.get_mut(..HEADER_OCTETS)?, crc_at);
    let shape = BodyShape::parse(bytes).ok()?;
    let (stored, table) = bytes
        .get_mut(HEADER_OCTETS..usize::try_from(shape.table_offset() + shape.table_octets()).ok()?)?
        .split_at_mut(shape.stored as usize);
    let mut at = 0;
    for entry in table.chunks_exact_mut(size_of::<ChunkEntry>()) {
        let octets = ChunkEntry::read_from_bytes(entry).ok()?.stored.get() as usize;
        let Some(chunk) = stored.get(at..at + octets) else { break };
        entry.copy_from_slice(chunk_entry(chunk).as_bytes());
        at += octets;
    }
    let table_crc = crc32c::crc32c(table);
    let table_crc_at = std::mem::offset_of!(BodyHeader, table_crc);
    bytes[table_crc_at..table_crc_at + 4].copy_from_slice(&table_crc.to_le_bytes());
    put_crc(&mut bytes[..HEADER_OCTETS], crc_at);
    usize::try_from(shape.frame_octets()).ok()
}
