//! Bodies: writing one before its record is submitted, reading it or a range of it.
//!
//! # Order
//! A pack of one is complete and durable, its name too, before [`BodyWriter::finish`] returns; so the record that
//! names it can never be recovered without it.
//!
//! # Crash
//! A pack of one that no record names is removed when its writer or [`Body`] is dropped, or at the next start.
//!
//! # Limits
//! `inline_body_max`, `body_octets_max`, `body_memory_octets_max`. A writer that finds no memory left streams to a
//! pack of one with one chunk in memory, so writers never wait for one another. `window_octets_max`: a reader of a large
//! body on a store that finds no memory left reads chunk by chunk.
//!
//! # Cost
//! On a store: a body up to [`WHOLE_MAX`] is one request; a larger one is one for its beginning, one for its chunk table, and one
//! for each [`WINDOW_OCTETS`] behind. What is cached is none.

pub(crate) mod format;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use culver_model::{AccountId, PartitionId};
use culver_shard::disk::{self, File};
use culver_shard::sync::Permit;
use zerocopy::IntoBytes;

use self::format::{BodyShape, CHUNK_OCTETS, ChunkEntry, Codec, HEADER_OCTETS, chunk_entry, decode_chunk};
use crate::cache::{Part, Reading};
use crate::error::ReadError;
use crate::fault::{self, Fault};
use crate::objects::{ObjectFile, StoredObject};
use crate::pack::format::{self as pack, FileHeader};
use crate::partition::Serving;
use crate::place::{ObjectId, ObjectKind, Place};
use crate::storage::Inner;

/// Permits of body memory are taken in steps of this many octets.
const MEMORY_STEP: usize = 16 << 10;

/// A body that waits to be named by a record.
pub struct Body(pub(crate) Form);

pub(crate) enum Form {
    /// Goes into the journal with its record.
    Inline {
        bytes: Vec<u8>,
        #[allow(dead_code, reason = "held until the record is committed, not read")]
        memory: Vec<Permit>,
    },
    /// Stands in a pack already.
    Placed { place: Place, file: Rc<Unnamed> },
}

impl Body {
    /// A body that is already in memory. Fails above `inline_body_max`: use a [`BodyWriter`] then.
    pub fn inline(bytes: Vec<u8>, limits: &crate::Limits) -> Result<Body, Vec<u8>> {
        if bytes.len() > limits.inline_body_max {
            return Err(bytes);
        }
        Ok(Body(Form::Inline { bytes, memory: Vec::new() }))
    }

    /// Plain octets.
    pub fn octets(&self) -> u64 {
        match &self.0 {
            Form::Inline { bytes, .. } => bytes.len() as u64,
            Form::Placed { place, .. } => place.length,
        }
    }

    /// Where it stands, if it stands in a pack already. An inline body gets its place with the commit.
    pub fn place(&self) -> Option<Place> {
        match &self.0 {
            Form::Inline { .. } => None,
            Form::Placed { place, .. } => Some(*place),
        }
    }

    /// In which term of its partition a pack of it was written, where it is in one.
    pub(crate) fn term(&self) -> Option<u64> {
        match &self.0 {
            Form::Inline { .. } => None,
            Form::Placed { file, .. } => Some(file.term()),
        }
    }

    /// Octets of the frame it puts into its record.
    pub(crate) fn frame_octets(&self) -> usize {
        match &self.0 {
            Form::Inline { bytes, .. } => format::raw_frame_octets(bytes.len()),
            Form::Placed { .. } => 0,
        }
    }
}

/// A pack that no record names yet. Dropping the last hold of it makes it garbage, unless it was named.
pub(crate) struct Unnamed {
    inner: Rc<Inner>,
    pack: (PartitionId, ObjectId),
    /// In which of the partition's terms here it was written: it is nothing to a later one.
    term: u64,
    named: Cell<bool>,
}

impl Unnamed {
    pub fn new(inner: Rc<Inner>, partition: PartitionId, object: ObjectId) -> Rc<Unnamed> {
        let term = inner.partition(partition).borrow().term;
        Rc::new(Unnamed { inner, pack: (partition, object), term, named: Cell::new(false) })
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// A committed record names it, or may: it stays.
    pub fn named(&self) {
        self.named.set(true);
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.named.get() {
            self.inner.garbage.borrow_mut().push(self.pack);
        }
    }
}

/// Takes the octets of one body. Dropping it leaves nothing behind.
pub struct BodyWriter {
    inner: Rc<Inner>,
    partition: PartitionId,
    account: AccountId,
    buffer: Vec<u8>,
    memory: Vec<Permit>,
    stream: Option<Stream>,
    /// It never stays in memory.
    packed: bool,
}

/// A pack of one being written.
struct Stream {
    file: File,
    unnamed: Rc<Unnamed>,
    object: ObjectId,
    plain: u64,
    table: Vec<ChunkEntry>,
}

/// Where the frame of a pack of one begins.
const FRAME_AT: u64 = pack::HEADER_OCTETS as u64;

impl BodyWriter {
    pub(crate) fn new(
        inner: Rc<Inner>,
        partition: PartitionId,
        account: AccountId,
        hint: Option<u64>,
    ) -> BodyWriter {
        let hint = hint.unwrap_or(0).min(inner.limits.inline_body_max as u64) as usize;
        let mut writer = BodyWriter {
            inner,
            partition,
            account,
            buffer: Vec::new(),
            memory: Vec::new(),
            stream: None,
            packed: false,
        };
        if hint > 0 && writer.remember(hint) {
            writer.buffer.reserve_exact(hint);
        }
        writer
    }

    /// From now on it goes into a pack of one, however short it is: what goes into the journal with many others has little
    /// room. Before its first octet.
    pub fn pack(&mut self) {
        self.packed = true;
        self.buffer = Vec::new();
        self.memory.clear();
    }

    /// Whether it stands in a pack of one.
    pub fn is_packed(&self) -> bool {
        self.stream.is_some()
    }

    /// Plain octets taken so far.
    pub fn octets(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.plain) + self.buffer.len() as u64
    }

    /// Takes octets. After an error the body is lost: drop the writer. `FileTooLarge` above `body_octets_max`.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        // What is left of a full disk is for those who free space: a pack of one would take it from them.
        if self.inner.journal.full() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        if self.octets() + bytes.len() as u64 > self.inner.limits.body_octets_max {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        if self.stream.is_none() {
            let octets = self.buffer.len() + bytes.len();
            if !self.packed && octets <= self.inner.limits.inline_body_max && self.remember(octets) {
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            }
            self.stream = Some(self.open_stream().await?);
            let held = std::mem::take(&mut self.buffer);
            self.memory.clear();
            self.stream_octets(&held).await?;
        }
        self.stream_octets(bytes).await
    }

    /// The whole body, without a label. In a pack of one it is durable now.
    pub async fn finish(self) -> std::io::Result<Body> {
        self.finish_labelled(&[]).await
    }

    /// As [`BodyWriter::finish`]; the label of a pack of one gets this meta, which should be what the record that is
    /// going to name the body has: then the message can be rebuilt from the pack alone. At most `meta_octets_max`.
    pub async fn finish_labelled(mut self, meta: &[u8]) -> std::io::Result<Body> {
        if meta.len() > self.inner.limits.meta_octets_max {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let Some(stream) = self.stream.take() else {
            let bytes = std::mem::take(&mut self.buffer);
            return Ok(Body(Form::Inline { bytes, memory: std::mem::take(&mut self.memory) }));
        };
        let rest = std::mem::take(&mut self.buffer);
        let Stream { file, unnamed, object, mut plain, mut table } = stream;
        let mut at = FRAME_AT + HEADER_OCTETS as u64 + plain;
        plain += rest.len() as u64;
        if !rest.is_empty() {
            table.push(chunk_entry(&rest));
        }
        let shape = BodyShape::new(Codec::Raw, plain, plain, &table);
        let mut tail = rest;
        tail.extend_from_slice(table.as_bytes());
        let length = FRAME_AT + shape.frame_octets();
        tail.resize((length - at) as usize, 0);
        pack::put_label(self.account.as_str(), meta, &mut tail);
        let length = at + (tail.len() + pack::FOOTER_OCTETS) as u64;
        tail.extend_from_slice(&pack::footer(length, 1));
        for piece in tail.chunks(disk::TRANSFER_MAX) {
            file.write_at(at, piece).await?;
            at += piece.len() as u64;
        }
        file.write_at(FRAME_AT, shape.header()).await?;
        let objects = &self.inner.objects;
        let skip = fault::on(Fault::SkipPackSync);
        if objects.sync_drafts() && !skip {
            file.sync_data().await?;
        }
        file.close().await?;
        if !skip {
            objects.publish(self.partition, &[object]).await?;
        }
        Ok(Body(Form::Placed { place: Place { object, offset: FRAME_AT, length: plain }, file: unnamed }))
    }

    /// Takes memory for `octets` in all; false when there is none.
    fn remember(&mut self, octets: usize) -> bool {
        let held: usize = self.memory.iter().map(Permit::weight).sum();
        if octets <= held {
            return true;
        }
        // Few large permits rather than many small ones: a body doubles what it holds.
        let wanted = (octets - held).next_multiple_of(MEMORY_STEP).max(held);
        match self.inner.body_memory.try_acquire(wanted) {
            Some(permit) => self.memory.push(permit),
            None => return false,
        }
        true
    }

    async fn open_stream(&self) -> std::io::Result<Stream> {
        let inner = &self.inner;
        if inner.partition(self.partition).borrow().serving != Serving::Open {
            return Err(std::io::ErrorKind::NotConnected.into());
        }
        let object = inner.next_object(self.partition, ObjectKind::Pack);
        let path = inner.objects.draft(self.partition, object);
        inner.make_partition_dir(self.partition).await?;
        let unnamed = Unnamed::new(inner.clone(), self.partition, object);
        let file = File::create_new(&path).await?;
        let header = FileHeader {
            partition: self.partition.0,
            shard: object.shard,
            epoch: object.epoch,
            number: object.number,
            store: inner.store,
        };
        file.write_at(0, header.to_bytes(pack::PACK_MAGIC, pack::PACK_VERSION)).await?;
        Ok(Stream { file, unnamed, object, plain: 0, table: Vec::new() })
    }

    /// Writes whole chunks; the rest stays in the buffer.
    async fn stream_octets(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        let stream = self.stream.as_mut().expect("opened before");
        while !bytes.is_empty() {
            let take = bytes.len().min(CHUNK_OCTETS - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.buffer.len() == CHUNK_OCTETS {
                let chunk = std::mem::take(&mut self.buffer);
                stream.table.push(chunk_entry(&chunk));
                stream.file.write_at(FRAME_AT + HEADER_OCTETS as u64 + stream.plain, chunk).await?;
                stream.plain += CHUNK_OCTETS as u64;
            }
        }
        Ok(())
    }
}

/// Reads one body in order, a chunk at a time. Holds its object open, so a compaction does not take it away.
pub struct Reader {
    source: Frame,
    at: u64,
    end: u64,
}

impl Reader {
    /// The next octets, at most one chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let chunk_end = (self.at / CHUNK_OCTETS as u64 + 1) * CHUNK_OCTETS as u64;
        let to = chunk_end.min(self.end);
        let bytes = self.source.range_before(self.at..to, self.end).await?;
        self.at = to;
        self.source.release_before(to);
        Ok(Some(bytes))
    }

    /// Octets still to come.
    pub fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }
}

/// A frame whose header and table were read.
pub(crate) struct Frame {
    file: ObjectFile,
    path: PathBuf,
    offset: u64,
    shape: BodyShape,
    table: Vec<ChunkEntry>,
    /// Where each chunk begins, from the frame's beginning.
    starts: Vec<u64>,
    /// The first octets of the frame, which the first read brought along.
    head: Window,
    /// Octets further on, of a store's object.
    ahead: RefCell<Window>,
    reading: Reading,
}

/// Octets of a frame that are held.
#[derive(Default)]
struct Window {
    /// From the frame's beginning.
    at: u64,
    octets: Vec<u8>,
    #[allow(dead_code, reason = "held with the octets, not read")]
    memory: Option<Permit>,
}

impl Window {
    fn get(&self, at: u64, octets: usize) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.at)?).ok()?;
        self.octets.get(from..from.checked_add(octets)?)
    }
}

/// What the first read of a frame takes at least: all of a small message.
const FIRST_READ: u64 = 16 << 10;
/// What it takes at most, where so much is wanted from the beginning.
const FIRST_READ_MAX: u64 = 264 << 10;
/// Frames of bodies up to this size are read of a store with one request, and cached whole.
pub(crate) const WHOLE_MAX: u64 = 256 << 10;
/// What a store is asked for at once of a larger one.
const WINDOW_OCTETS: u64 = 1 << 20;

impl Frame {
    /// Opens the frame of a place, of which so many octets from the beginning are going to be read.
    pub async fn open(
        inner: &Inner,
        partition: PartitionId,
        place: &Place,
        wanted: u64,
        reading: Reading,
    ) -> Result<Frame, ReadError> {
        let file = inner.open_object(partition, place).await?;
        Frame::opened(inner, partition, file, place, wanted, reading).await
    }

    /// As [`Frame::open`], for an account.
    pub async fn open_for(
        inner: &Inner,
        partition: PartitionId,
        account: &AccountId,
        place: &Place,
        wanted: u64,
    ) -> Result<Frame, ReadError> {
        let file = inner.open_object(partition, place).await?.on_bill_of(account);
        Frame::opened(inner, partition, file, place, wanted, Reading::Client).await
    }

    async fn opened(
        inner: &Inner,
        partition: PartitionId,
        file: ObjectFile,
        place: &Place,
        wanted: u64,
        reading: Reading,
    ) -> Result<Frame, ReadError> {
        let path = inner.objects.name(partition, place.object);
        let read = Frame::read_for(file, path, place.offset, Some(place.length), wanted, reading).await;
        read.map_err(|error| match error {
            // An object of a store is opened by its first read.
            ReadError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ReadError::Gone(*place)
            }
            error => error,
        })
    }

    /// Reads the header and table of the frame at `offset`, which must have `length` plain octets where that is known.
    pub async fn read(
        file: ObjectFile,
        path: PathBuf,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Frame, ReadError> {
        let wanted = length.filter(|_| !file.is_local()).unwrap_or(0);
        Frame::read_for(file, path, offset, length, wanted, Reading::Copy).await
    }

    async fn read_for(
        file: ObjectFile,
        path: PathBuf,
        offset: u64,
        length: Option<u64>,
        wanted: u64,
        reading: Reading,
    ) -> Result<Frame, ReadError> {
        if let (Some(object), Some(length)) = (file.stored().cloned(), length) {
            return Frame::read_stored(file, &object, path, offset, length, wanted, reading).await;
        }
        let whole = frame_octets_max(length.unwrap_or(FIRST_READ));
        let most = if length.is_some_and(|length| wanted >= length) { FIRST_READ_MAX } else { FIRST_READ };
        let guess = whole.min(most);
        let head = file.read_at(offset, guess as usize).await.map_err(ReadError::io(&path))?;
        let head = Window { octets: head, ..Window::default() };
        let (shape, table) = Frame::parts(&file, &path, offset, length, &head).await?;
        Ok(Frame::of(file, path, offset, (shape, table), head, reading))
    }

    /// Of a store: a small frame with one request, of a larger one as much as is wanted.
    async fn read_stored(
        file: ObjectFile,
        object: &StoredObject,
        path: PathBuf,
        offset: u64,
        length: u64,
        wanted: u64,
        reading: Reading,
    ) -> Result<Frame, ReadError> {
        let small = length <= WHOLE_MAX;
        let part = if small { Part::Frame } else { Part::FrameHead };
        if let Some(octets) = object.cached(offset, part, reading).await {
            match cached_parts(&octets, small).filter(|(shape, _)| shape.plain == length) {
                Some(parts) => {
                    let octets = if small { octets } else { Vec::new() };
                    let head = Window { octets, ..Window::default() };
                    return Ok(Frame::of(file, path, offset, parts, head, reading));
                }
                None => object.forget(offset, part),
            }
        }
        let whole = frame_octets_max(length);
        let wants_more = wanted > FIRST_READ && !small;
        let memory = if wants_more { object.window(WINDOW_OCTETS.min(whole)) } else { None };
        let guess = match (small, &memory) {
            (true, _) => whole,
            (false, Some(_)) => whole.min(WINDOW_OCTETS),
            (false, None) => FIRST_READ,
        };
        let octets = object.read_at(offset, guess as usize).await.map_err(ReadError::io(&path))?;
        let mut head = Window { at: 0, octets, memory };
        let (shape, table) = Frame::parts(&file, &path, offset, Some(length), &head).await?;
        // What stands behind a compressed frame is of others.
        head.octets.truncate(usize::try_from(shape.frame_octets()).unwrap_or(usize::MAX));
        let frame = Frame::of(file, path, offset, (shape, table), head, reading);
        match small {
            true => {
                let octets = &frame.head.octets;
                let held = octets.len() as u64 == shape.frame_octets();
                if held && (0..frame.chunks()).all(|index| frame.sound(index, &frame.head)) {
                    object.keep(offset, part, octets, reading);
                }
            }
            false => {
                let mut octets = shape.header().to_vec();
                octets.extend_from_slice(frame.table.as_bytes());
                object.keep(offset, part, &octets, reading);
                frame.keep_chunks(object, &frame.head);
            }
        }
        Ok(frame)
    }

    /// The shape and chunk table of a frame that begins with these octets.
    async fn parts(
        file: &ObjectFile,
        path: &Path,
        offset: u64,
        length: Option<u64>,
        head: &Window,
    ) -> Result<(BodyShape, Vec<ChunkEntry>), ReadError> {
        let wrong = |what: &str| ReadError::corrupt(path, offset, what);
        let shape = BodyShape::parse(&head.octets).map_err(wrong)?;
        if length.is_some_and(|length| length != shape.plain) {
            return Err(wrong("the body has another size than its place tells"));
        }
        let (table_at, octets) = (shape.table_offset(), shape.table_octets() as usize);
        let table = match head.get(table_at, octets) {
            Some(held) => shape.table(held),
            None => {
                let at = offset + table_at;
                shape.table(&file.read_at(at, octets).await.map_err(ReadError::io(path))?)
            }
        };
        Ok((shape, table.map_err(wrong)?))
    }

    fn of(
        file: ObjectFile,
        path: PathBuf,
        offset: u64,
        (shape, table): (BodyShape, Vec<ChunkEntry>),
        head: Window,
        reading: Reading,
    ) -> Frame {
        let mut starts = Vec::with_capacity(table.len());
        let mut at = HEADER_OCTETS as u64;
        for entry in &table {
            starts.push(at);
            at += u64::from(entry.stored.get());
        }
        Frame { file, path, offset, shape, table, starts, head, ahead: RefCell::default(), reading }
    }

    pub fn shape(&self) -> &BodyShape {
        &self.shape
    }

    /// Plain octets of a range; cut at the body's end.
    pub async fn range(&self, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let end = range.end;
        self.range_before(range, end).await
    }

    /// As [`Frame::range`]; the octets up to `until` are going to be read next.
    async fn range_before(&self, range: Range<u64>, until: u64) -> Result<Vec<u8>, ReadError> {
        let (from, to) = (range.start, range.end.min(self.shape.plain));
        if from >= to {
            return Ok(Vec::new());
        }
        let (first, last) =
            ((from / CHUNK_OCTETS as u64) as usize, ((to - 1) / CHUNK_OCTETS as u64) as usize);
        let until = until.min(self.shape.plain).div_ceil(CHUNK_OCTETS as u64) as usize;
        let mut out = Vec::with_capacity((to - from) as usize);
        for index in first..=last {
            let chunk = self.chunk_before(index, until).await?;
            let begin = index as u64 * CHUNK_OCTETS as u64;
            let low = from.saturating_sub(begin) as usize;
            let high = ((to - begin) as usize).min(chunk.len());
            if first == last && low == 0 && high == chunk.len() {
                return Ok(chunk);
            }
            out.extend_from_slice(&chunk[low..high]);
        }
        Ok(out)
    }

    /// Plain octets of one chunk, checked. Those behind it are read next.
    pub async fn chunk(&self, index: usize) -> Result<Vec<u8>, ReadError> {
        self.chunk_before(index, self.table.len()).await
    }

    async fn chunk_before(&self, index: usize, until: usize) -> Result<Vec<u8>, ReadError> {
        let (start, octets) = (self.starts[index], self.table[index].stored.get() as usize);
        if let Some(held) = self.head.get(start, octets) {
            return self.decode(index, held);
        }
        let Some(object) = self.file.stored() else {
            let read = self.file.read_at(self.offset + start, octets).await;
            return self.decode(index, &read.map_err(ReadError::io(&self.path))?);
        };
        if let Some(held) = self.ahead.borrow().get(start, octets) {
            return self.decode(index, held);
        }
        let part = Part::Chunk(index as u32);
        if let Some(cached) = object.cached(self.offset, part, self.reading).await {
            match self.decode(index, &cached) {
                Ok(plain) => return Ok(plain),
                Err(_) => object.forget(self.offset, part),
            }
        }
        let window = self.read_ahead(object, index, until).await?;
        let plain = self.decode(index, window.get(start, octets).unwrap_or_default());
        *self.ahead.borrow_mut() = window;
        plain
    }

    /// Reads chunks of a store's object from `index` on, before `until`: not those that are cached, and only this one where
    /// there is no memory.
    async fn read_ahead(
        &self,
        object: &StoredObject,
        index: usize,
        until: usize,
    ) -> Result<Window, ReadError> {
        // The memory of what was held before is free now.
        self.ahead.take();
        let start = self.starts[index];
        let end_of = |chunk: usize| self.starts[chunk] + u64::from(self.table[chunk].stored.get());
        let mut end = index + 1;
        while end < until.min(self.table.len())
            && end_of(end) - start <= WINDOW_OCTETS
            && !object.has_cached(self.offset, Part::Chunk(end as u32))
        {
            end += 1;
        }
        let memory = if end > index + 1 { object.window(end_of(end - 1) - start) } else { None };
        if memory.is_none() {
            end = index + 1;
        }
        let octets = (end_of(end - 1) - start) as usize;
        let octets = object.read_at(self.offset + start, octets).await.map_err(ReadError::io(&self.path))?;
        let window = Window { at: start, octets, memory };
        self.keep_chunks(object, &window);
        Ok(window)
    }

    /// Gives the cache the chunks that stand whole and sound in what was read.
    fn keep_chunks(&self, object: &StoredObject, window: &Window) {
        let first = self.starts.partition_point(|start| *start < window.at);
        for index in first..self.table.len() {
            let octets = self.table[index].stored.get() as usize;
            let Some(held) = window.get(self.starts[index], octets) else { return };
            if self.sound(index, window) {
                object.keep(self.offset, Part::Chunk(index as u32), held, self.reading);
            }
        }
    }

    fn sound(&self, index: usize, window: &Window) -> bool {
        let entry = &self.table[index];
        let held = window.get(self.starts[index], entry.stored.get() as usize);
        held.is_some_and(|held| crc32c::crc32c(held) == entry.crc.get())
    }

    fn decode(&self, index: usize, stored: &[u8]) -> Result<Vec<u8>, ReadError> {
        let plain = self.shape.chunk_plain(index);
        decode_chunk(self.shape.codec, stored, &self.table[index], plain)
            .map_err(|what| ReadError::corrupt(&self.path, self.offset + self.starts[index], what))
    }

    /// The octets of a small frame of a store, all of it: they mean the same wherever it stands.
    pub fn whole(&self) -> Option<&[u8]> {
        let octets = &self.head.octets;
        let whole = self.shape.plain <= WHOLE_MAX && octets.len() as u64 == self.shape.frame_octets();
        (whole && !self.file.is_local()).then_some(octets)
    }

    /// Nothing before this plain octet is read any more.
    fn release_before(&mut self, plain: u64) {
        let next = (plain / CHUNK_OCTETS as u64) as usize;
        let start = self.starts.get(next).copied().unwrap_or(u64::MAX);
        if self.head.at + self.head.octets.len() as u64 <= start {
            self.head = Window::default();
        }
    }

    pub fn chunks(&self) -> usize {
        self.table.len()
    }

    pub fn into_reader(self) -> Reader {
        let end = self.shape.plain;
        Reader { source: self, at: 0, end }
    }
}

/// Octets that the frame of a body takes at most, where it was compressed only if that makes it smaller.
fn frame_octets_max(plain: u64) -> u64 {
    let whole = HEADER_OCTETS as u64 + plain;
    whole + whole / CHUNK_OCTETS as u64 * 8 + 16
}

/// The shape and table of a frame that was cached: whole, or its header and table alone.
fn cached_parts(octets: &[u8], whole: bool) -> Option<(BodyShape, Vec<ChunkEntry>)> {
    let shape = BodyShape::parse(octets).ok()?;
    let table_at = if whole { usize::try_from(shape.table_offset()).ok()? } else { HEADER_OCTETS };
    let table = shape.table(octets.get(table_at..)?).ok()?;
    Some((shape, table))
}

#[cfg(test)]
mod tests;
