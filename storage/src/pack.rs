//! Packs of many bodies: written by a compaction, read entry by entry.

pub(crate) mod format;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::File;
use zerocopy::IntoBytes;
use zstd::bulk::Compressor;

use self::format::{FileHeader, PACK_MAGIC, PACK_VERSION};
use crate::body::Frame;
use crate::body::format::{BodyShape, ChunkEntry, Codec, chunk_entry};
use crate::error::{FlushError, ReadError};
use crate::objects::ObjectFile;
use crate::place::{ObjectId, Place};

/// Octets gathered before they are written.
const WRITE_OCTETS: usize = 256 << 10;
/// zstd's level: fast enough for a background queue, and mail is text.
const ZSTD_LEVEL: i32 = 3;

/// A pack being written.
pub(crate) struct PackWriter {
    file: File,
    path: PathBuf,
    object: ObjectId,
    /// Octets written to the file.
    at: u64,
    buffer: Vec<u8>,
    entries: u64,
    sync: bool,
    /// One for all bodies: to make it takes as long as to compress a small one.
    compressor: Compressor<'static>,
}

impl PackWriter {
    /// `sync`: whether the file itself has to be durable.
    pub async fn create(
        path: PathBuf,
        header: FileHeader,
        object: ObjectId,
        sync: bool,
    ) -> Result<PackWriter, FlushError> {
        let file = File::create_new(&path).await.map_err(FlushError::io(&path))?;
        let buffer = header.to_bytes(PACK_MAGIC, PACK_VERSION).to_vec();
        let compressor = Compressor::new(ZSTD_LEVEL).map_err(FlushError::io(&path))?;
        Ok(PackWriter { file, path, object, at: 0, buffer, entries: 0, sync, compressor })
    }

    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    /// Copies a body, compressed where that makes it smaller, and labels it.
    pub async fn put(&mut self, body: &Frame, account: &AccountId, meta: &[u8]) -> Result<Place, FlushError> {
        let offset = self.octets();
        let plain = body.shape().plain;
        // One codec for a frame: the first chunk decides whether compressing pays.
        let mut codec = Codec::Zstd;
        let mut stored: u64 = 0;
        let mut table: Vec<ChunkEntry> = Vec::with_capacity(body.chunks());
        let header_at = self.octets();
        self.buffer.resize(self.buffer.len() + crate::body::format::HEADER_OCTETS, 0);
        for index in 0..body.chunks() {
            let chunk = body.chunk(index).await?;
            let small = match codec {
                Codec::Zstd => self.compressor.compress(&chunk).map_err(FlushError::io(&self.path))?,
                Codec::Raw => Vec::new(),
            };
            if index == 0 && small.len() + small.len() / 16 >= chunk.len() {
                codec = Codec::Raw;
            }
            let octets = if codec == Codec::Raw { chunk } else { small };
            table.push(chunk_entry(&octets));
            stored += octets.len() as u64;
            self.buffer.extend_from_slice(&octets);
            self.write_out(false).await?;
            culver_shard::yield_if_needed().await;
        }
        let shape = BodyShape::new(codec, plain, stored, &table);
        self.buffer.extend_from_slice(table.as_bytes());
        let end = header_at + shape.frame_octets();
        self.buffer.resize(self.buffer.len() + (end - self.octets()) as usize, 0);
        self.patch(header_at, &shape.header()).await?;
        format::put_label(account.as_str(), meta, &mut self.buffer);
        self.entries += 1;
        self.write_out(false).await?;
        Ok(Place { object: self.object, offset, length: plain })
    }

    /// Overwrites octets that may have been written out already.
    async fn patch(&mut self, at: u64, bytes: &[u8]) -> Result<(), FlushError> {
        match at.checked_sub(self.at) {
            Some(held) => {
                let held = held as usize;
                self.buffer[held..held + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            // A header is written out with at least its own chunk behind it, so it never straddles.
            None => self.file.write_at(at, bytes).await.map_err(FlushError::io(&self.path)),
        }
    }

    async fn write_out(&mut self, all: bool) -> Result<(), FlushError> {
        if all || self.buffer.len() >= WRITE_OCTETS {
            let octets = std::mem::take(&mut self.buffer);
            let len = octets.len() as u64;
            self.file.write_at(self.at, octets).await.map_err(FlushError::io(&self.path))?;
            self.at += len;
        }
        Ok(())
    }

    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// Ends the pack, durable where that was asked for; its name is when it is published.
    pub async fn finish(mut self) -> Result<u64, FlushError> {
        let length = self.octets() + format::FOOTER_OCTETS as u64;
        self.buffer.extend_from_slice(&format::footer(length, self.entries));
        self.write_out(true).await?;
        if self.sync {
            self.file.sync_data().await.map_err(FlushError::io(&self.path))?;
        }
        self.file.close().await.map_err(FlushError::io(&self.path))?;
        Ok(length)
    }
}

/// One entry of a pack.
pub(crate) struct PackEntry {
    pub account: String,
    pub meta: Vec<u8>,
    pub place: Place,
    pub frame: Frame,
}

/// A pack read entry by entry.
pub(crate) struct PackReader {
    file: ObjectFile,
    path: PathBuf,
    pub header: FileHeader,
    object: ObjectId,
    at: u64,
    end: u64,
    pub entries: u64,
}

impl PackReader {
    pub async fn open(
        path: &Path,
        partition: PartitionId,
        object: ObjectId,
    ) -> Result<PackReader, ReadError> {
        let file = File::open(path).await.map_err(ReadError::io(path))?;
        PackReader::of(ObjectFile::Local(Rc::new(file)), path, partition, object).await
    }

    /// A pack that is open already; `path` names it in messages.
    pub async fn of(
        file: ObjectFile,
        path: &Path,
        partition: PartitionId,
        object: ObjectId,
    ) -> Result<PackReader, ReadError> {
        let octets = file.len().await.map_err(ReadError::io(path))?;
        let head = file.read_at(0, format::HEADER_OCTETS).await.map_err(ReadError::io(path))?;
        let wrong = |what: String| ReadError::corrupt(path, 0, what);
        let header = FileHeader::parse(&head, PACK_MAGIC, PACK_VERSION).map_err(wrong)?;
        let named =
            (object.shard, object.epoch, object.number) == (header.shard, header.epoch, header.number);
        if !named || header.partition != partition.0 {
            return Err(wrong("the pack stood elsewhere".into()));
        }
        let end = octets.saturating_sub(format::FOOTER_OCTETS as u64);
        let tail = file.read_at(end, format::FOOTER_OCTETS).await.map_err(ReadError::io(path))?;
        let cut = |what: &str| ReadError::corrupt(path, end, what);
        let (length, entries) = format::parse_footer(&tail).map_err(cut)?;
        if length != octets {
            return Err(cut("the pack has another size than it tells"));
        }
        let at = format::HEADER_OCTETS as u64;
        Ok(PackReader { file, path: path.to_owned(), header, object, at, end, entries })
    }

    /// The next entry; its label is checked, its chunks are when they are read.
    pub async fn next(&mut self) -> Result<Option<PackEntry>, ReadError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let offset = self.at;
        let frame = Frame::read(self.file.clone(), self.path.clone(), offset, None).await?;
        let label_at = offset + frame.shape().frame_octets();
        let wrong = |what: &str| ReadError::corrupt(&self.path, label_at, what);
        let head =
            self.file.read_at(label_at, format::LABEL_OCTETS).await.map_err(ReadError::io(&self.path))?;
        let octets = format::label_octets(&head).map_err(wrong)?;
        if label_at + octets as u64 > self.end {
            return Err(wrong("label cut short"));
        }
        let label = self.file.read_at(label_at, octets).await.map_err(ReadError::io(&self.path))?;
        let (account, meta) = format::parse_label(&label).map_err(wrong)?;
        let place = Place { object: self.object, offset, length: frame.shape().plain };
        self.at = label_at + octets as u64;
        Ok(Some(PackEntry { account: account.to_owned(), meta: meta.to_vec(), place, frame }))
    }
}
