//! Dump: any stored file, as text for a person. Which kind it is stands in its first octets.
//!
//! What is inside of records and blocks is opaque here, so the caller says it in words; where it cannot, the first of the
//! octets are shown. Damage does not end a dump where more can be read; it is told in its place.
//!
//! # Cost
//! Sequential; memory of one batch, page, label or block, and of what is said of one record or block.

use std::fmt::{self, Write};
use std::path::Path;
use std::rc::Rc;

use culver_model::{Guid, PartitionId};
use culver_shard::disk::{self, File};

use crate::cache::Key;
use crate::cache::format::{
    CACHE_MAGIC, ENTRY_OCTETS, EntryHeader, HEADER_OCTETS, SegmentHeader, entry_octets,
};
use crate::error::{OpenError, ReadError};
use crate::journal::format::{FlushMeta, RecordKind, SEGMENT_MAGIC};
use crate::journal::scan::{Scanned, Segment};
use crate::manifest::{MANIFEST_MAGIC, Manifest, TableRef};
use crate::pack::PackReader;
use crate::pack::format::{FileHeader, PACK_MAGIC, PACK_VERSION};
use crate::place::{ObjectId, ObjectKind};
use crate::root::format::{END_MAGIC, End, LOW_MAGIC, Low, OWNER_MAGIC, Owner, STORE_MAGIC, StoreIdentity};
use crate::root::small_fault;
use crate::source::BlockKind;
use crate::table::Table;
use crate::table::format::{TABLE_MAGIC, TABLE_VERSION};

/// The octets of meta and small blocks that are shown.
const SHOWN_OCTETS: usize = 32;

/// Why a dump ended early.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{path}: {what}")]
    Unknown { path: String, what: String },
    /// The place it is written to failed.
    #[error(transparent)]
    Out(#[from] fmt::Error),
}

/// A piece of a file, for who knows what is in it.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// The meta of a Data record.
    Record(&'a [u8]),
    /// The meta of a body's label in a pack; that of a body without one is not asked for.
    Label(&'a [u8]),
    /// A block of an account, base or delta.
    Block { guid: Guid, octets: &'a [u8] },
}

/// Says in lines of text what a piece holds; `None` where it is nothing that is known, else what is wrong with it. In both
/// cases its octets are shown instead.
pub type Describe<'d> = dyn FnMut(Piece<'_>) -> Result<Option<String>, String> + 'd;

/// Writes what a file of a store holds.
pub async fn dump(path: &Path, describe: &mut Describe<'_>, out: &mut dyn Write) -> Result<(), DumpError> {
    let file = File::open(path).await.map_err(OpenError::io(path))?;
    let head = file.read_at(0, 64).await.map_err(OpenError::io(path))?;
    let magic: [u8; 8] = head.get(..8).and_then(|magic| magic.try_into().ok()).unwrap_or_default();
    match magic {
        SEGMENT_MAGIC => segment(path, describe, out).await,
        PACK_MAGIC | TABLE_MAGIC => {
            let table = magic == TABLE_MAGIC;
            let version = if table { TABLE_VERSION } else { PACK_VERSION };
            let header = FileHeader::parse(&head, magic, version).map_err(unknown(path))?;
            let kind = if table { ObjectKind::Table } else { ObjectKind::Pack };
            let object = ObjectId { kind, shard: header.shard, epoch: header.epoch, number: header.number };
            writeln!(out, "{kind:?} {object}, partition {}, store {}", header.partition, hex(&header.store))?;
            let partition = PartitionId(header.partition);
            match table {
                true => dump_table(path, partition, object, describe, out).await,
                false => pack(path, partition, object, describe, out).await,
            }
        }
        MANIFEST_MAGIC => manifest(path, out).await,
        CACHE_MAGIC => cache(path, out).await,
        STORE_MAGIC | OWNER_MAGIC | LOW_MAGIC | END_MAGIC => small(path, magic, out).await,
        _ => Err(DumpError::Unknown { path: path.display().to_string(), what: "no file of a store".into() }),
    }
}

fn unknown(path: &Path) -> impl Fn(String) -> DumpError {
    let path = path.display().to_string();
    move |what| DumpError::Unknown { path: path.clone(), what }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN_OCTETS) {
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN_OCTETS {
        text.push_str("...");
    }
    text
}

/// What was said of a piece.
enum Said {
    Words(String),
    /// Its octets are shown; why, where they should have been understood.
    Octets(Option<String>),
}

impl Said {
    fn of(piece: Piece<'_>, describe: &mut Describe<'_>) -> Said {
        match describe(piece) {
            Ok(Some(words)) => Said::Words(words),
            Ok(None) => Said::Octets(None),
            Err(what) => Said::Octets(Some(what)),
        }
    }

    /// The octets behind the piece's own line, where there are no words.
    fn octets(&self, octets: &[u8], out: &mut dyn Write) -> fmt::Result {
        match self {
            Said::Words(_) => Ok(()),
            Said::Octets(_) => write!(out, " {}", hex(octets)),
        }
    }

    /// The lines below the piece's own.
    fn lines(&self, indent: &str, out: &mut dyn Write) -> fmt::Result {
        match self {
            Said::Words(words) => words.lines().try_for_each(|line| writeln!(out, "{indent}{line}")),
            Said::Octets(None) => Ok(()),
            Said::Octets(Some(what)) => writeln!(out, "{indent}cannot be read: {what}"),
        }
    }
}

async fn segment(path: &Path, describe: &mut Describe<'_>, out: &mut dyn Write) -> Result<(), DumpError> {
    let Some(segment) = Segment::open(path, None).await? else {
        writeln!(out, "segment without a header: never used")?;
        return Ok(());
    };
    let header = segment.header;
    writeln!(
        out,
        "segment {} of epoch {} shard {}, store {}: records from {}; its predecessor ends before {}; {} octets of {} preallocated",
        header.number,
        header.epoch,
        header.shard,
        hex(&header.store),
        header.base_lsn,
        header.previous_end,
        segment.octets(),
        header.capacity
    )?;
    let mut failed = None;
    let visit = &mut |record: &Scanned<'_>| {
        if let Err(error) = one_record(record, describe, out) {
            failed.get_or_insert(error);
        }
        Ok(())
    };
    let scanned = segment.scan(u64::MAX, visit).await;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let ended = scanned?;
    let tail = if ended.torn { "; a torn batch stands behind" } else { "" };
    writeln!(out, "end at octet {}, next record {}{tail}", ended.offset, ended.next_lsn)?;
    Ok(())
}

fn one_record(record: &Scanned<'_>, describe: &mut Describe<'_>, out: &mut dyn Write) -> fmt::Result {
    let header = record.head.header;
    let said = match header.kind {
        RecordKind::Data => Said::of(Piece::Record(record.head.meta), describe),
        _ => Said::Octets(None),
    };
    write!(
        out,
        "{}:{} at {} {:?} partition {} account {:?} octets {} meta {}",
        header.epoch,
        record.lsn,
        record.offset,
        header.kind,
        header.partition,
        record.head.account,
        record.record.len(),
        record.head.meta.len()
    )?;
    said.octets(record.head.meta, out)?;
    if header.kind == RecordKind::Flush
        && let Some(flush) = FlushMeta::parse(record.head.meta)
    {
        write!(out, " manifest {} cov {}", flush.manifest, flush.cov)?;
    }
    record.head.places.iter().try_for_each(|place| write!(out, " body {place}"))?;
    writeln!(out)?;
    said.lines("  ", out)
}

async fn pack(
    path: &Path,
    partition: PartitionId,
    object: ObjectId,
    describe: &mut Describe<'_>,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let mut pack = PackReader::open(path, partition, object).await?;
    writeln!(out, "{} entries", pack.entries)?;
    while let Some(entry) = pack.next().await? {
        let shape = entry.frame.shape();
        let said = match &entry.meta[..] {
            [] => Said::Octets(None),
            meta => Said::of(Piece::Label(meta), describe),
        };
        write!(
            out,
            "{} account {:?} {:?} plain {} stored {} chunks {} meta {}",
            entry.place,
            entry.account,
            shape.codec,
            shape.plain,
            shape.stored,
            shape.chunks,
            entry.meta.len()
        )?;
        said.octets(&entry.meta, out)?;
        writeln!(out)?;
        said.lines("  ", out)?;
        for chunk in 0..entry.frame.chunks() {
            if let Err(error) = entry.frame.chunk(chunk).await {
                writeln!(out, "  chunk {chunk}: {error}")?;
            }
        }
    }
    Ok(())
}

async fn dump_table(
    path: &Path,
    partition: PartitionId,
    object: ObjectId,
    describe: &mut Describe<'_>,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let octets = disk::file_len(path).await.map_err(OpenError::io(path))?;
    let table = Table::open(path, partition, TableRef { object, octets, accounts: 0, level: 0 }).await?;
    let table = Rc::new(table);
    for page in 0..table.pages() {
        for entry in table.page(page).await? {
            writeln!(out, "account {:?} up to record {}", entry.account, entry.position)?;
            for block in &entry.blocks {
                write!(out, "  {} {:?} at {} octets {}", block.guid, block.kind, block.offset, block.length)?;
                let octets = match table.block(block).await {
                    Ok(octets) => octets,
                    Err(error) => {
                        writeln!(out, " {error}")?;
                        continue;
                    }
                };
                let said = match block.kind {
                    BlockKind::Removed => Said::Octets(None),
                    BlockKind::Base | BlockKind::Delta => {
                        Said::of(Piece::Block { guid: block.guid, octets: &octets }, describe)
                    }
                };
                said.octets(&octets, out)?;
                writeln!(out)?;
                said.lines("    ", out)?;
            }
        }
    }
    Ok(())
}

async fn manifest(path: &Path, out: &mut dyn Write) -> Result<(), DumpError> {
    let bytes = disk::read(path).await.map_err(OpenError::io(path))?;
    let manifest = Manifest::parse(&bytes).map_err(unknown(path))?;
    writeln!(
        out,
        "manifest {} of partition {}, store {}: all records before {}",
        manifest.object,
        manifest.partition,
        hex(&manifest.store),
        manifest.cov
    )?;
    for table in &manifest.tables {
        let TableRef { object, octets, accounts, level } = table;
        writeln!(out, "table {object} octets {octets} accounts {accounts} level {level}")?;
    }
    for (object, share) in &manifest.bodies {
        writeln!(out, "bodies {object} alive about {} of {}", share.live, share.total)?;
    }
    for gap in &manifest.gaps {
        writeln!(out, "gap before epoch {}, for what is missing of journal {}", gap.epoch, gap.of)?;
    }
    Ok(())
}

async fn cache(path: &Path, out: &mut dyn Write) -> Result<(), DumpError> {
    let bytes = disk::read(path).await.map_err(OpenError::io(path))?;
    let SegmentHeader { store, number, row } = SegmentHeader::parse(&bytes).map_err(unknown(path))?;
    writeln!(out, "cache segment {number}, {row:?}, store {}", hex(&store))?;
    let mut at = HEADER_OCTETS;
    while let Some(header) = bytes.get(at..).and_then(EntryHeader::parse) {
        let octets = header.octets() as usize;
        let begin = at + ENTRY_OCTETS;
        let content = bytes.get(begin..begin.saturating_add(octets)).unwrap_or_default();
        let state = if header.holds(&store, content) { "" } else { " its checksum is wrong" };
        let Key { partition, object, offset, part } = header.key;
        writeln!(
            out,
            "{at} octets {octets}: {part:?} at {offset} of {object}, partition {partition}{state}"
        )?;
        at += entry_octets(octets) as usize;
    }
    if at < bytes.len() {
        writeln!(out, "{at} torn: {} octets that are no entry", bytes.len() - at)?;
    }
    Ok(())
}

async fn small(path: &Path, magic: [u8; 8], out: &mut dyn Write) -> Result<(), DumpError> {
    let bytes = disk::read(path).await.map_err(OpenError::io(path))?;
    match magic {
        STORE_MAGIC => {
            let StoreIdentity { partitions, store, created } =
                StoreIdentity::parse(&bytes).map_err(small_fault(path))?;
            writeln!(out, "store {}, {partitions} partitions, made at {created}", hex(&store))?;
        }
        OWNER_MAGIC => {
            let owner = Owner::parse(&bytes).map_err(small_fault(path))?;
            let (epoch, shards, created) = (owner.epoch, owner.shards, owner.created);
            writeln!(
                out,
                "owner of epoch {epoch}, {shards} shards, store {}, made at {created}",
                hex(&owner.store)
            )?;
            for journal in &owner.journals {
                writeln!(
                    out,
                    "needs journal {}-{}: segments {} to {}, records before {}",
                    journal.epoch, journal.shard, journal.first, journal.last, journal.end_lsn
                )?;
            }
        }
        END_MAGIC => {
            let End { epoch, shard, last, end_lsn, .. } = End::parse(&bytes).map_err(small_fault(path))?;
            writeln!(
                out,
                "end of journal {epoch}-{shard}: last segment {last}, records before {end_lsn}, closed in order"
            )?;
        }
        _ => {
            let low = Low::parse(&bytes).map_err(small_fault(path))?;
            writeln!(out, "low mark of journal {}-{}: first segment {}", low.epoch, low.shard, low.first)?;
        }
    }
    Ok(())
}
