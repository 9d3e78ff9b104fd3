//! Reading a journal segment from its beginning: for recovery, `check`, `dump` and compaction.
//!
//! # Invariants
//! One sync is in flight at a time, so at most the last batch of a journal can be torn. A batch that is broken although
//! a later one says `durable_before` beyond it was durable once: that is rot, and never taken for a torn tail.
//!
//! # Cost
//! Sequential reads of [`WINDOW_OCTETS`]; memory of one window or one batch, whichever is larger.

use std::io;
use std::path::{Path, PathBuf};

use culver_shard::disk::File;
use culver_shard::yield_if_needed;

use super::format::{
    BATCH_OCTETS, BatchHeader, HEADER_BLOCK, Head, HeaderFault, RecordHeader, SEGMENT_VERSION, SegmentHeader,
    parse_head,
};
use crate::error::OpenError;
use crate::fault::{self, Fault};
use crate::place::ObjectId;

/// Octets of one read.
pub(crate) const WINDOW_OCTETS: usize = 4 << 20;

/// A record as it is met.
pub(crate) struct Scanned<'a> {
    pub lsn: u64,
    pub segment: ObjectId,
    /// Where the record begins in the segment.
    pub offset: u64,
    pub head: Head<'a>,
    /// The whole record with its frames.
    pub record: &'a [u8],
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The first octet behind the last valid batch.
    pub offset: u64,
    /// The lsn behind the last valid record.
    pub next_lsn: u64,
    /// The last valid batch: offset and octets.
    pub last: Option<(u64, u32)>,
    pub records: u64,
    /// What stands behind the end is not only zeros.
    pub torn: bool,
}

/// A segment opened for a scan.
pub(crate) struct Segment {
    pub header: SegmentHeader,
    pub path: PathBuf,
    file: File,
    octets: u64,
}

/// What the name of a segment promises.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub store: [u8; 16],
    pub id: ObjectId,
}

impl Segment {
    /// `None` where the header block was never made durable; then no batch was ever written behind it.
    pub async fn open(path: &Path, expected: Option<Expected>) -> Result<Option<Segment>, OpenError> {
        let file = File::open(path).await.map_err(OpenError::io(path))?;
        let octets = file.len().await.map_err(OpenError::io(path))?;
        let block = file.read_at(0, HEADER_BLOCK as usize).await.map_err(OpenError::io(path))?;
        let header = match SegmentHeader::parse(&block) {
            Ok(header) => header,
            Err(HeaderFault::Version(found)) => {
                return Err(OpenError::Version { path: path.to_owned(), found, reads: SEGMENT_VERSION });
            }
            Err(HeaderFault::Broken) => {
                let mut window = Window::new(&file, octets);
                let rest = window.next_nonzero(HEADER_BLOCK).await.map_err(OpenError::io(path))?;
                return match rest {
                    None => Ok(None),
                    Some(_) => Err(OpenError::corrupt(
                        path,
                        0,
                        "the segment's header is broken, its records are not",
                    )),
                };
            }
        };
        if let Some(Expected { store, id }) = expected
            && (header.store != store || header.object() != id)
        {
            return Err(OpenError::corrupt(
                path,
                0,
                "the segment belongs to another store or stood elsewhere",
            ));
        }
        Ok(Some(Segment { header, path: path.to_owned(), file, octets }))
    }

    /// Octets of the file: what was preallocated, or where the segment ends if it was shortened.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Gives every record below `end_lsn` to `visit`, in order.
    pub async fn scan(
        &self,
        end_lsn: u64,
        visit: &mut dyn FnMut(&Scanned<'_>) -> Result<(), OpenError>,
    ) -> Result<Ended, OpenError> {
        let (path, seed) = (&self.path, self.header.seed());
        let io_error = |source: io::Error| OpenError::Io { path: path.clone(), source };
        let mut window = Window::new(&self.file, self.octets);
        let mut ended = Ended {
            offset: HEADER_BLOCK,
            next_lsn: self.header.base_lsn,
            last: None,
            records: 0,
            torn: false,
        };
        loop {
            let bytes = window.at(ended.offset, BATCH_OCTETS).await.map_err(io_error)?;
            let header = BatchHeader::parse(bytes).filter(|header| header.lsn == ended.next_lsn);
            let Some(header) = header.filter(|_| ended.next_lsn < end_lsn) else { break };
            let batch = window.at(ended.offset, header.length as usize).await.map_err(io_error)?;
            let overlooked = fault::on(Fault::IgnoreBatchChecksum) && batch.len() == header.length as usize;
            if !(header.verify(batch, seed) || overlooked) {
                break;
            }
            let next_lsn = ended.next_lsn.checked_add(u64::from(header.count)).ok_or_else(|| {
                OpenError::corrupt(path, ended.offset, "the batch's records are numbered beyond all numbers")
            })?;
            self.records(ended.offset, &header, batch, visit)?;
            ended.last = Some((ended.offset, header.length));
            ended.offset += u64::from(header.length);
            ended.next_lsn = next_lsn;
            ended.records += u64::from(header.count);
            yield_if_needed().await;
        }
        if ended.next_lsn < end_lsn {
            ended.torn = self.judge_tail(&mut window, &ended).await?;
        }
        Ok(ended)
    }

    /// All records of a batch whose checksum was right.
    fn records(
        &self,
        batch_offset: u64,
        header: &BatchHeader,
        batch: &[u8],
        visit: &mut dyn FnMut(&Scanned<'_>) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let mut at = BATCH_OCTETS;
        for index in 0..u64::from(header.count) {
            let offset = batch_offset + at as u64;
            let wrong = |what: &str| OpenError::corrupt(&self.path, offset, what);
            let rest = batch.get(at..).ok_or_else(|| wrong("fewer records than the batch tells"))?;
            let record = RecordHeader::parse(rest).ok_or_else(|| wrong("no record here"))?;
            let octets = record.length as usize;
            let record = rest.get(..octets).ok_or_else(|| wrong("record cut short"))?;
            let head = parse_head(record).map_err(wrong)?;
            let segment = self.header.object();
            visit(&Scanned { lsn: header.lsn + index, segment, offset, head, record })?;
            at += octets;
        }
        // Zeros may stand behind the records, up to the end of a page.
        let rest = &batch[at..];
        if rest.len() < HEADER_BLOCK as usize && rest.iter().all(|octet| *octet == 0) {
            Ok(())
        } else {
            let offset = batch_offset + at as u64;
            Err(OpenError::corrupt(&self.path, offset, "more octets in the batch than in its records"))
        }
    }

    /// A torn tail is the journal's end (true where anything stands there); a batch that was durable is rot.
    async fn judge_tail(&self, window: &mut Window<'_>, ended: &Ended) -> Result<bool, OpenError> {
        let io_error = |source: io::Error| OpenError::Io { path: self.path.clone(), source };
        let Some(mut at) = window.next_nonzero(ended.offset).await.map_err(io_error)? else {
            return Ok(false);
        };
        loop {
            let bytes = window.at(at, BATCH_OCTETS).await.map_err(io_error)?;
            if let Some(header) = BatchHeader::parse(bytes)
                && header.durable_before > ended.next_lsn
                && u64::from(header.length) <= self.octets - at
            {
                let batch = window.at(at, header.length as usize).await.map_err(io_error)?;
                if header.verify(batch, self.header.seed()) {
                    let what = format!(
                        "a batch of committed records (from {}) is broken; records up to {} were durable",
                        ended.next_lsn, header.durable_before
                    );
                    return Err(OpenError::corrupt(&self.path, ended.offset, what));
                }
            }
            match window.next_nonzero(at + 8).await.map_err(io_error)? {
                Some(next) => at = next,
                None => return Ok(true),
            }
        }
    }
}

/// A file seen through a buffer that moves forward.
struct Window<'a> {
    file: &'a File,
    octets: u64,
    base: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a File, octets: u64) -> Window<'a> {
        Window { file, octets, base: 0, bytes: Vec::new() }
    }

    /// `len` octets from `offset`, fewer at the file's end.
    async fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = (offset + len as u64).min(self.octets);
        let held = offset >= self.base && end <= self.base + self.bytes.len() as u64;
        if !held && offset < self.octets {
            self.bytes = self.file.read_at(offset, len.max(WINDOW_OCTETS)).await?;
            self.base = offset;
        }
        let from = (offset.saturating_sub(self.base) as usize).min(self.bytes.len());
        let to = (from + len).min(self.bytes.len());
        Ok(if offset >= self.octets { &[] } else { &self.bytes[from..to] })
    }

    /// The first word (of 8 octets, counted from `offset`) that is not zero.
    async fn next_nonzero(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        while offset < self.octets {
            let bytes = self.at(offset, 8).await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let from = (offset - self.base) as usize;
            if let Some(found) =
                self.bytes[from..].chunks(8).position(|word| word.iter().any(|byte| *byte != 0))
            {
                return Ok(Some(offset + found as u64 * 8));
            }
            let whole = (self.bytes.len() - from).div_ceil(8) as u64 * 8;
            offset += whole;
            yield_if_needed().await;
        }
        Ok(None)
    }
}
