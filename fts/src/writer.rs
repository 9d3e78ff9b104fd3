//! The writer: terms in ascending order become a segment.
//!
//! # Cost
//! Memory: the segment, twice for a moment, and about three octets for each gram of each block. [`Writer::step`] ends
//! after about as many octets as its budget says.

use crate::Step;
use crate::field::Field;
use crate::format::{
    BLOCK_TERMS, BlockEntry, GRAM_BITMAP, Header, INLINE_OCTETS_MAX, MAGIC, SPAN_MAX, SectionEntry,
    TERM_OCTETS_MAX, TOKENIZER, Tag, VERSION, front_octets, header_crc, length, mark,
};
use crate::grams;
use crate::postings::{put_list, put_varint};
use roaring::RoaringBitmap;
use zerocopy::IntoBytes;

/// The lists of one term: for each field the documents, ascending, relative to the segment's first one.
#[derive(Debug, Default)]
pub struct Lists([Vec<u32>; 8]);

impl Lists {
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(Vec::clear);
    }

    pub fn of(&mut self, field: Field) -> &mut Vec<u32> {
        &mut self.0[field as usize]
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// Documents listed, all fields together.
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

/// What a segment says of its documents.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// By number within the account.
    pub all: RoaringBitmap,
    /// For each of them, in their order: [`crate::format::put_length`].
    pub lengths: Vec<u8>,
    /// Those that are not indexed whole.
    pub incomplete: RoaringBitmap,
}

pub struct Writer {
    first: u32,
    last: u32,
    terms: u32,
    mark_blocks: u32,
    /// `None` once it is whole.
    index: Option<fst::raw::Builder<Vec<u8>>>,
    table: Vec<BlockEntry>,
    blocks: Vec<u8>,
    postings: Vec<u8>,
    /// The block that is being filled: terms, what follows them, and how many.
    block: Block,
    /// The grams of each block: hashes, and where they end.
    gram_hashes: Vec<u16>,
    gram_ends: Vec<u32>,
    documents: Documents,
    state: State,
}

#[derive(Default)]
struct Block {
    count: usize,
    terms: Vec<u8>,
    payloads: Vec<u8>,
    postings: u32,
    last_term: Vec<u8>,
    lists: Vec<u8>,
    /// A bit for each hash that is noted already.
    seen: Vec<u64>,
}

enum State {
    Terms,
    /// The blocks' grams are turned round: this block is next.
    Grams {
        turned: Turned,
        block: usize,
    },
    /// The lists of grams are written: this one is next.
    GramLists {
        turned: Turned,
        gram: usize,
        table: Vec<u8>,
        lists: Vec<u8>,
    },
    Assemble(Assembly),
    Done(Vec<u8>),
}

/// For each gram the blocks that have it.
struct Turned {
    bits: u32,
    /// Where the next block of each gram goes.
    next: Vec<u32>,
    blocks: Vec<u32>,
}

struct Assembly {
    bytes: Vec<u8>,
    table: Vec<SectionEntry>,
    /// What is still to be copied, the next one last.
    sections: Vec<(Tag, Vec<u8>, u64)>,
    /// Octets of the section at hand that are copied, and their checksum.
    copied: usize,
    crc: u32,
}

impl Writer {
    /// A segment of these documents; there is one at least.
    pub fn new(documents: Documents) -> Writer {
        let first = documents.all.min().expect("a segment has documents");
        let last = documents.all.max().expect("a segment has documents");
        assert!(last - first < SPAN_MAX, "documents {first} to {last} in one segment");
        let block = Block { seen: vec![0; (1 << grams::HASH_BITS) / 64], ..Block::default() };
        Writer {
            first,
            last,
            terms: 0,
            mark_blocks: 0,
            index: Some(fst::raw::Builder::memory()),
            table: Vec::new(),
            blocks: Vec::new(),
            postings: Vec::new(),
            block,
            gram_hashes: Vec::new(),
            gram_ends: Vec::new(),
            documents,
            state: State::Terms,
        }
    }

    pub fn first(&self) -> u32 {
        self.first
    }

    /// The next term: above the one before it, of 1 to [`TERM_OCTETS_MAX`] octets, and in some document.
    pub fn push(&mut self, term: &[u8], lists: &Lists) {
        assert!(!term.is_empty() && term.len() <= TERM_OCTETS_MAX, "a term of {} octets", term.len());
        assert!(self.terms == 0 || self.block.last_term.as_slice() < term, "terms ascend");
        let is_mark = |term: &[u8]| term[0] < mark::TOKENS;
        if self.block.count == BLOCK_TERMS
            || (self.block.count > 0 && is_mark(&self.block.last_term) && !is_mark(term))
        {
            self.end_block();
        }
        let span = self.last - self.first + 1;
        let block = &mut self.block;
        let shared = match block.count {
            0 => 0,
            _ => term.iter().zip(&block.last_term).take_while(|(one, other)| one == other).count(),
        };
        put_suffix(shared, &term[shared..], &mut block.terms);
        block.last_term.clear();
        block.last_term.extend_from_slice(term);
        block.count += 1;
        self.terms += 1;
        put_payload(lists, span, &mut block.lists, &mut block.payloads, &mut self.postings);
        if !is_mark(term) {
            for hash in grams::hashes(term) {
                let (word, bit) = (usize::from(hash) / 64, 1 << (hash % 64));
                if block.seen[word] & bit == 0 {
                    block.seen[word] |= bit;
                    self.gram_hashes.push(hash);
                }
            }
        }
    }

    fn end_block(&mut self) {
        let block = &mut self.block;
        if block.count == 0 {
            return;
        }
        let number = self.table.len() as u64;
        let index = self.index.as_mut().expect("it is not whole yet");
        index.insert(&block.last_term, number).expect("terms ascend");
        let at = u32::try_from(self.blocks.len()).expect("a segment is below 4 GiB");
        self.table.push(BlockEntry { block: at.into(), postings: block.postings.into() });
        self.blocks.push(block.count as u8);
        self.blocks.extend_from_slice(&block.terms);
        self.blocks.extend_from_slice(&block.payloads);
        if block.last_term[0] < mark::TOKENS {
            self.mark_blocks += 1;
        }
        let begin = self.gram_ends.last().map_or(0, |end| *end as usize);
        for hash in &self.gram_hashes[begin..] {
            block.seen[usize::from(*hash) / 64] = 0;
        }
        self.gram_ends.push(self.gram_hashes.len() as u32);
        block.count = 0;
        block.terms.clear();
        block.payloads.clear();
        block.postings = u32::try_from(self.postings.len()).expect("a segment is below 4 GiB");
    }

    /// After the last term: about `budget` octets more of what makes the segment whole.
    pub fn step(&mut self, budget: usize) -> Step {
        let state = std::mem::replace(&mut self.state, State::Terms);
        self.state = match state {
            State::Terms => {
                self.end_block();
                let turned = self.count_grams();
                State::Grams { turned, block: 0 }
            }
            State::Grams { turned, block } => self.turn_grams(turned, block, budget),
            State::GramLists { turned, gram, table, lists } => {
                self.list_grams(turned, gram, table, lists, budget)
            }
            State::Assemble(assembly) => self.assemble(assembly, budget),
            State::Done(bytes) => State::Done(bytes),
        };
        if matches!(self.state, State::Done(_)) { Step::Done } else { Step::More }
    }

    /// The segment, once [`Writer::step`] has said `Done`.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.state {
            State::Done(bytes) => bytes,
            _ => panic!("the segment is not whole yet"),
        }
    }

    fn count_grams(&mut self) -> Turned {
        // With few blocks a long table would be longer than the lists.
        let bits = (self.table.len().max(1).ilog2() + 3).min(grams::HASH_BITS);
        let mut next = vec![0u32; 1 << bits];
        for hash in &self.gram_hashes {
            next[usize::from(hash >> (grams::HASH_BITS - bits))] += 1;
        }
        let mut end = 0;
        for next in &mut next {
            end += std::mem::replace(next, end);
        }
        Turned { bits, next, blocks: vec![0; self.gram_hashes.len()] }
    }

    fn turn_grams(&mut self, mut turned: Turned, mut block: usize, budget: usize) -> State {
        let mut left = budget;
        while block < self.gram_ends.len() && left > 0 {
            let begin = if block == 0 { 0 } else { self.gram_ends[block - 1] as usize };
            let hashes = &self.gram_hashes[begin..self.gram_ends[block] as usize];
            for hash in hashes {
                let next = &mut turned.next[usize::from(hash >> (grams::HASH_BITS - turned.bits))];
                turned.blocks[*next as usize] = block as u32;
                *next += 1;
            }
            left = left.saturating_sub(hashes.len() + 1);
            block += 1;
        }
        if block < self.gram_ends.len() {
            return State::Grams { turned, block };
        }
        (self.gram_hashes, self.gram_ends) = (Vec::new(), Vec::new());
        State::GramLists { turned, gram: 0, table: Vec::new(), lists: Vec::new() }
    }

    fn list_grams(
        &mut self,
        turned: Turned,
        mut gram: usize,
        mut table: Vec<u8>,
        mut lists: Vec<u8>,
        budget: usize,
    ) -> State {
        let bitmap_octets = self.table.len().div_ceil(8);
        let mut left = budget;
        while gram < turned.next.len() && left > 0 {
            let begin = if gram == 0 { 0 } else { turned.next[gram - 1] as usize };
            let blocks = &turned.blocks[begin..turned.next[gram] as usize];
            let at = lists.len();
            let (mut next, mut flag) = (0, 0);
            for (n, block) in blocks.iter().enumerate() {
                // A coarser hash may have met a block twice.
                if n > 0 && blocks[n - 1] == *block {
                    continue;
                }
                put_varint(block - next, &mut lists);
                next = block + 1;
            }
            if lists.len() - at > bitmap_octets {
                lists.truncate(at);
                lists.resize(at + bitmap_octets, 0);
                for block in blocks {
                    lists[at + *block as usize / 8] |= 1 << (block % 8);
                }
                flag = GRAM_BITMAP;
            }
            let offset = u32::try_from(at).expect("a segment is below 4 GiB");
            table.extend_from_slice(&(offset | flag).to_le_bytes());
            left = left.saturating_sub(blocks.len() + 1);
            gram += 1;
        }
        if gram < turned.next.len() {
            return State::GramLists { turned, gram, table, lists };
        }
        table.extend_from_slice(&(lists.len() as u32).to_le_bytes());
        self.begin_assembly(table, lists)
    }

    fn begin_assembly(&mut self, gram_table: Vec<u8>, grams: Vec<u8>) -> State {
        let roaring = |docs: &RoaringBitmap| {
            let mut docs = docs.clone();
            docs.optimize();
            let mut bytes = Vec::with_capacity(docs.serialized_size());
            docs.serialize_into(&mut bytes).expect("a vector takes everything");
            bytes
        };
        let documents = &self.documents;
        let index = self.index.take().expect("it is made once");
        let index = index.into_inner().expect("a vector takes everything");
        let gram_lists = (gram_table.len() / 4 - 1) as u64;
        let count = |octets: &Vec<u8>| octets.len() as u64;
        let mut sections = vec![
            (Tag::Documents, roaring(&documents.all), documents.all.len()),
            (Tag::Lengths, documents.lengths.clone(), count(&documents.lengths)),
            (Tag::Incomplete, roaring(&documents.incomplete), documents.incomplete.len()),
            (Tag::Index, index, self.table.len() as u64),
            (Tag::BlockTable, self.table.as_bytes().to_vec(), self.table.len() as u64),
            (Tag::Blocks, std::mem::take(&mut self.blocks), u64::from(self.terms)),
            (Tag::Postings, std::mem::take(&mut self.postings), 0),
            (Tag::GramTable, gram_table, gram_lists),
            (Tag::Grams, grams, 0),
        ];
        let octets: usize = sections.iter().map(|(_, bytes, _)| bytes.len().next_multiple_of(8)).sum();
        let front = front_octets(sections.len());
        let mut bytes = Vec::with_capacity(front + octets);
        bytes.resize(front, 0);
        sections.reverse();
        State::Assemble(Assembly { bytes, table: Vec::new(), sections, copied: 0, crc: 0 })
    }

    fn assemble(&self, mut assembly: Assembly, budget: usize) -> State {
        let mut left = budget.max(1);
        while left > 0 {
            let Some((tag, octets, count)) = assembly.sections.last() else {
                return State::Done(self.head(assembly));
            };
            if assembly.copied == 0 {
                assembly.bytes.resize(assembly.bytes.len().next_multiple_of(8), 0);
            }
            let end = octets.len().min(assembly.copied + left);
            let piece = &octets[assembly.copied..end];
            assembly.crc = crc32c::crc32c_append(assembly.crc, piece);
            assembly.bytes.extend_from_slice(piece);
            left = left.saturating_sub(piece.len() + 1);
            assembly.copied = end;
            if end == octets.len() {
                assembly.table.push(SectionEntry {
                    tag: (*tag as u32).into(),
                    crc: assembly.crc.into(),
                    offset: ((assembly.bytes.len() - octets.len()) as u64).into(),
                    octets: (octets.len() as u64).into(),
                    count: (*count).into(),
                });
                (assembly.copied, assembly.crc) = (0, 0);
                assembly.sections.pop();
            }
        }
        State::Assemble(assembly)
    }

    fn head(&self, mut assembly: Assembly) -> Vec<u8> {
        let tokens: u64 = self.documents.lengths.iter().map(|octet| u64::from(length(*octet))).sum();
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            tokenizer: TOKENIZER.into(),
            sections: (assembly.table.len() as u32).into(),
            octets: (assembly.bytes.len() as u64).into(),
            first: self.first.into(),
            last: self.last.into(),
            documents: (self.documents.all.len() as u32).into(),
            terms: self.terms.into(),
            mark_blocks: self.mark_blocks.into(),
            tokens: tokens.into(),
            reserved: [0; 8],
            crc: 0.into(),
        };
        header.crc = header_crc(&header, &assembly.table).into();
        assembly.bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        assembly.bytes[size_of::<Header>()..front_octets(assembly.table.len())]
            .copy_from_slice(assembly.table.as_bytes());
        assembly.bytes
    }
}

/// How many octets are shared with the term before, and those that are not.
fn put_suffix(shared: usize, suffix: &[u8], terms: &mut Vec<u8>) {
    if shared < 15 && suffix.len() < 16 {
        terms.push((shared << 4 | suffix.len()) as u8);
    } else {
        terms.extend_from_slice(&[0xf0, shared as u8, suffix.len() as u8]);
    }
    terms.extend_from_slice(suffix);
}

fn put_payload(
    lists: &Lists,
    span: u32,
    scratch: &mut Vec<u8>,
    payloads: &mut Vec<u8>,
    postings: &mut Vec<u8>,
) {
    assert!(!lists.is_empty(), "a term without documents");
    if let ([doc], true) = (lists.0[0].as_slice(), lists.0[1..].iter().all(Vec::is_empty)) {
        payloads.push(0);
        return put_varint(*doc, payloads);
    }
    let mut fields = 0u8;
    for (n, _) in lists.0.iter().enumerate().filter(|(_, docs)| !docs.is_empty()) {
        fields |= 1 << n;
    }
    payloads.push(fields);
    scratch.clear();
    for docs in lists.0.iter().filter(|docs| !docs.is_empty()) {
        let begin = scratch.len();
        let dense = put_list(docs, span, scratch);
        let octets = u32::try_from(scratch.len() - begin).expect("a list is shorter than its segment");
        put_varint(octets << 1 | u32::from(dense), payloads);
    }
    let to = if scratch.len() <= INLINE_OCTETS_MAX { payloads } else { postings };
    to.extend_from_slice(scratch);
}
