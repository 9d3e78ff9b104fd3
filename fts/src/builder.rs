//! The builder: messages become the terms of a segment.
//!
//! All words lie in one arena and have a number each; a document is a run of numbers, each once, with the fields in which
//! the word stands. Nothing is allocated for a token. At the end the numbers are sorted by their words and the runs turned
//! round.
//!
//! # Limits
//! Memory is [`Builder::octets`]; a builder says [`Builder::is_full`] at `builder_octets_max` and one message adds at most
//! `words_max` words. Finishing takes about as much again. [`Finish::step`] ends after about as many octets as its budget
//! says.

use crate::Step;
use crate::field::{Field, Fields};
use crate::format::{TERM_OCTETS_MAX, mark, put_length};
use crate::grams::{self, MACHINE_GRAMS};
use crate::language::Languages;
use crate::limits::Limits;
use crate::token::{COMPOUND_OCTETS_MAX, Sink, cut, tokenize};
use crate::writer::{Documents, Lists, Writer};
use culver_model::text::Folder;
use roaring::RoaringBitmap;

/// Grams of one document's machine text that are listed, in one field.
const GRAMS_MAX: u32 = 1024;
/// Folded text that is gathered before it is cut.
const WINDOW_OCTETS: usize = 32 * 1024;

/// Where a document's run of words ends, and what else there is to know of it.
#[derive(Clone, Copy, Debug)]
struct Run {
    doc: u32,
    end: u32,
    tokens: u32,
    incomplete: bool,
}

pub struct Builder {
    limits: Limits,
    words: Words,
    /// The documents' words, one run after the other, and their fields.
    numbers: Vec<u32>,
    fields: Vec<u8>,
    runs: Vec<Run>,
    /// Number of a gram's word, plus one.
    gram_numbers: Vec<u32>,
    open: Open,
    folder: Folder,
    window: Vec<u8>,
}

/// The document that is being added.
#[derive(Default)]
struct Open {
    doc: Option<u32>,
    field: Option<Field>,
    tokens: u32,
    text_octets: usize,
    incomplete: bool,
    languages: Languages,
    counts: [u32; 15],
    /// Grams listed in each field.
    grams: [u32; 8],
}

impl Builder {
    /// `seed` is random: by it nobody can choose words that fall together.
    pub fn new(limits: Limits, seed: u64) -> Builder {
        Builder {
            limits,
            words: Words::new(seed),
            numbers: Vec::new(),
            fields: Vec::new(),
            runs: Vec::new(),
            gram_numbers: vec![0; MACHINE_GRAMS],
            open: Open::default(),
            folder: Folder::default(),
            window: Vec::new(),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Documents that it holds.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Memory in use.
    pub fn octets(&self) -> usize {
        self.words.octets() + self.numbers.len() * 5 + self.runs.len() * size_of::<Run>()
    }

    /// Whether it should become a segment before more is added.
    pub fn is_full(&self) -> bool {
        self.octets() >= self.limits.builder_octets_max
    }

    /// Begins a document. Numbers ascend.
    pub fn open(&mut self, doc: u32) {
        assert!(self.open.doc.is_none(), "a document is open");
        assert!(self.runs.last().is_none_or(|run| run.doc < doc), "documents ascend");
        self.open = Open { doc: Some(doc), ..Open::default() };
    }

    /// A piece of a text of the open document; where it is cut has no influence.
    pub fn text(&mut self, field: Field, text: &str) {
        debug_assert!(self.open.doc.is_some(), "no document is open");
        self.open.field = Some(field);
        let mut rest = text;
        while !rest.is_empty() {
            let mut at = rest.len().min(WINDOW_OCTETS);
            while !rest.is_char_boundary(at) {
                at += 1;
            }
            let (piece, later) = rest.split_at(at);
            rest = later;
            if self.open.text_octets > self.limits.text_octets_max || self.words_left() == 0 {
                self.open.incomplete = true;
                return;
            }
            let before = self.window.len();
            self.folder.push(piece, &mut self.window);
            self.open.text_octets += self.window.len() - before;
            if self.window.len() >= WINDOW_OCTETS {
                let mut at = cut(&self.window);
                if at == 0 {
                    // A word of this length is none; but a key may stand where it is cut.
                    self.open.incomplete = true;
                    at = self.window.len();
                }
                self.take(field, at);
            }
        }
    }

    /// The end of a text: nothing matches across it.
    pub fn end_text(&mut self) {
        self.folder.finish(&mut self.window);
        if let Some(field) = self.open.field.take() {
            self.take(field, self.window.len());
            if matches!(field, Field::Body | Field::Subject) {
                self.open.languages.0 |= Languages::most_counted(&self.open.counts).0;
                self.open.counts = [0; 15];
            }
        }
        self.window.clear();
    }

    /// The open document has a header field of this name.
    pub fn header_name(&mut self, name: &str) {
        let mut term = [0; TERM_OCTETS_MAX];
        match term.get_mut(1..=name.len()) {
            Some(space) if self.words_left() > 0 => {
                space.copy_from_slice(name.as_bytes());
                space.make_ascii_lowercase();
                term[0] = mark::HEADER;
                self.add(&term[..=name.len()], Field::Other);
            }
            _ => self.open.incomplete = true,
        }
    }

    /// Something of the open document is not indexed: it is a candidate of every query.
    pub fn set_incomplete(&mut self) {
        self.open.incomplete = true;
    }

    /// Ends the document.
    pub fn close(&mut self) {
        self.end_text();
        let open = std::mem::take(&mut self.open);
        let doc = open.doc.expect("a document is open");
        for language in open.languages.iter() {
            self.add(&[mark::LANGUAGE, language as u8], Field::Body);
        }
        self.runs.push(Run {
            doc,
            end: self.numbers.len() as u32,
            tokens: open.tokens,
            incomplete: open.incomplete,
        });
    }

    /// Forgets the open document, as if it had not been opened.
    pub fn abandon(&mut self) {
        let begin = self.runs.last().map_or(0, |run| run.end as usize);
        for number in &self.numbers[begin..] {
            self.words.entries[*number as usize].run = u32::MAX;
        }
        self.numbers.truncate(begin);
        self.fields.truncate(begin);
        self.window.clear();
        self.folder.finish(&mut self.window);
        self.window.clear();
        self.open = Open::default();
    }

    fn words_left(&self) -> usize {
        let begin = self.runs.last().map_or(0, |run| run.end as usize);
        self.limits.words_max.saturating_sub(self.numbers.len() - begin)
    }

    /// Cuts the first `octets` of the window into tokens.
    fn take(&mut self, field: Field, octets: usize) {
        let window = std::mem::take(&mut self.window);
        let folded = std::str::from_utf8(&window[..octets]).expect("folding appends whole characters");
        tokenize(folded, &mut Tokens { builder: self, field });
        self.window = window;
        self.window.drain(..octets);
    }

    fn add(&mut self, term: &[u8], field: Field) -> u32 {
        let number = self.words.number(term);
        self.note(number, field);
        number
    }

    fn note(&mut self, number: u32, field: Field) {
        let run = self.runs.len() as u32;
        let entry = &mut self.words.entries[number as usize];
        if entry.run == run {
            self.fields[entry.slot as usize] |= Fields::of(field).0;
        } else {
            (entry.run, entry.slot) = (run, self.numbers.len() as u32);
            self.numbers.push(number);
            self.fields.push(Fields::of(field).0);
        }
    }

    /// The end: what [`Finish::step`] makes a segment of. `None` where there are no documents.
    pub fn finish(self) -> Option<Finish> {
        assert!(self.open.doc.is_none(), "a document is open");
        if self.runs.is_empty() {
            return None;
        }
        let mut documents = Documents::default();
        for run in &self.runs {
            documents.all.insert(run.doc);
            documents.lengths.push(put_length(run.tokens));
            if run.incomplete {
                documents.incomplete.insert(run.doc);
            }
        }
        let writer = Writer::new(documents);
        Some(Finish { builder: self, writer, state: State::Count { at: 0, ends: Vec::new() } })
    }
}

struct Tokens<'b> {
    builder: &'b mut Builder,
    field: Field,
}

impl Sink for Tokens<'_> {
    #[inline]
    fn word(&mut self, token: &[u8]) {
        let builder = &mut *self.builder;
        let number = builder.add(token, self.field);
        if matches!(self.field, Field::Body | Field::Subject) {
            builder.open.tokens += 1;
            let languages = builder.words.entries[number as usize].languages;
            if languages != 0 {
                for language in Languages(languages).iter() {
                    builder.open.counts[language as usize] += 1;
                }
            }
        }
    }

    fn compound(&mut self, token: &[u8]) {
        // Message IDs would fill the dictionary, and nobody looks for them in a hurry.
        if self.field == Field::Other {
            return;
        }
        match token.len() {
            ..=COMPOUND_OCTETS_MAX => self.builder.add(token, self.field),
            _ => self.builder.add(&[mark::LONG_COMPOUND], self.field),
        };
    }

    fn machine(&mut self, token: &[u8]) {
        let builder = &mut *self.builder;
        builder.add(&[mark::MACHINE], self.field);
        for hash in grams::hashes(token) {
            let listed = &mut builder.open.grams[self.field as usize];
            if *listed == GRAMS_MAX {
                builder.add(&[mark::MACHINE, mark::FULL[0], mark::FULL[1]], self.field);
                return;
            }
            let gram = grams::of_machine(hash);
            let number = match builder.gram_numbers[usize::from(gram)] {
                0 => {
                    let [high, low] = gram.to_be_bytes();
                    let number = builder.words.number(&[mark::MACHINE, high, low]);
                    builder.gram_numbers[usize::from(gram)] = number + 1;
                    number
                }
                number => number - 1,
            };
            let before = builder.numbers.len();
            builder.note(number, self.field);
            builder.open.grams[self.field as usize] += u32::from(builder.numbers.len() > before);
        }
    }
}

/// Words and their numbers.
struct Words {
    seed: u64,
    arena: Vec<u8>,
    entries: Vec<WordEntry>,
    /// Numbers plus one, at the place of their hash or behind it.
    places: Vec<u32>,
}

#[derive(Clone, Copy)]
struct WordEntry {
    at: u32,
    hash: u32,
    /// The last document that has it, and where it stands in its run.
    run: u32,
    slot: u32,
    octets: u8,
    languages: u16,
}

impl Words {
    fn new(seed: u64) -> Words {
        // Mixed (splitmix64), so that a seed with few bits set is as good as another.
        let mixed =
            (seed ^ (seed >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let seed = (mixed ^ (mixed >> 31)) | 1;
        Words { seed, arena: Vec::new(), entries: Vec::new(), places: vec![0; 1 << 12] }
    }

    fn octets(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<WordEntry>() + self.places.len() * 4
    }

    fn word(&self, number: u32) -> &[u8] {
        let entry = &self.entries[number as usize];
        &self.arena[entry.at as usize..][..usize::from(entry.octets)]
    }

    fn number(&mut self, word: &[u8]) -> u32 {
        let hash = self.hash(word);
        let mask = self.places.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            match self.places[place] {
                0 => break,
                number => {
                    let number = number - 1;
                    if self.entries[number as usize].hash == hash && self.word(number) == word {
                        return number;
                    }
                }
            }
            place = (place + 1) & mask;
        }
        let number = self.entries.len() as u32;
        self.places[place] = number + 1;
        self.entries.push(WordEntry {
            at: self.arena.len() as u32,
            hash,
            run: u32::MAX,
            slot: 0,
            octets: word.len() as u8,
            languages: Languages::of_function_word(word).0,
        });
        self.arena.extend_from_slice(word);
        if self.entries.len() * 2 > self.places.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let mut places = vec![0; self.places.len() * 2];
        let mask = places.len() - 1;
        for (number, entry) in self.entries.iter().enumerate() {
            let mut place = entry.hash as usize & mask;
            while places[place] != 0 {
                place = (place + 1) & mask;
            }
            places[place] = number as u32 + 1;
        }
        self.places = places;
    }

    /// Eight octets at a time, each multiplied to 128 bits and folded; the seed is not known to who writes the words.
    #[inline]
    fn hash(&self, word: &[u8]) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |state: u64, value: u64| {
            let product = u128::from(state ^ value) * u128::from(self.seed);
            (product as u64 ^ (product >> 64) as u64) ^ ODD
        };
        let mut state = self.seed ^ word.len() as u64;
        let (chunks, rest) = word.as_chunks::<8>();
        for chunk in chunks {
            state = mix(state, u64::from_le_bytes(*chunk));
        }
        let mut last = 0;
        for octet in rest {
            last = last << 8 | u64::from(*octet);
        }
        state = mix(mix(state, last), ODD);
        (state >> 32) as u32 ^ state as u32
    }
}

/// A segment in the making.
pub struct Finish {
    builder: Builder,
    writer: Writer,
    state: State,
}

enum State {
    /// Documents of each word are counted; so many places of runs are.
    Count {
        at: usize,
        ends: Vec<u32>,
    },
    /// Runs are turned round: this one is next.
    Turn {
        run: usize,
        next: Vec<u32>,
        docs: Vec<u32>,
        fields: Vec<u8>,
    },
    /// Words are sorted: by their first two octets, then each of these groups.
    Sort {
        turned: Turned,
        order: Vec<u32>,
        groups: Vec<u32>,
        group: usize,
    },
    Write {
        turned: Turned,
        order: Vec<u32>,
        at: usize,
        lists: Lists,
    },
    Rest,
}

/// For each word its documents, as numbers of runs, and the fields there.
struct Turned {
    ends: Vec<u32>,
    docs: Vec<u32>,
    fields: Vec<u8>,
}

impl Finish {
    /// Does about `budget` octets more of the work.
    pub fn step(&mut self, budget: usize) -> Step {
        let state = std::mem::replace(&mut self.state, State::Rest);
        self.state = match state {
            State::Count { at, ends } => self.count(at, ends, budget),
            State::Turn { run, next, docs, fields } => self.turn(run, next, docs, fields, budget),
            State::Sort { turned, order, groups, group } => self.sort(turned, order, groups, group, budget),
            State::Write { turned, order, at, lists } => self.write(turned, order, at, lists, budget),
            State::Rest => return self.writer.step(budget),
        };
        Step::More
    }

    /// The segment, once [`Finish::step`] has said `Done`.
    pub fn into_bytes(self) -> Vec<u8> {
        self.writer.into_bytes()
    }

    /// All of it at once.
    pub fn run(mut self) -> Vec<u8> {
        while self.step(usize::MAX) == Step::More {}
        self.into_bytes()
    }

    fn count(&self, at: usize, mut ends: Vec<u32>, budget: usize) -> State {
        ends.resize(self.builder.words.entries.len(), 0);
        let numbers = &self.builder.numbers;
        let end = at.saturating_add(budget.max(1)).min(numbers.len());
        for number in &numbers[at..end] {
            ends[*number as usize] += 1;
        }
        if end < numbers.len() {
            return State::Count { at: end, ends };
        }
        // Where each word's documents begin.
        let mut begin = 0;
        for end in &mut ends {
            begin += std::mem::replace(end, begin);
        }
        State::Turn { run: 0, next: ends, docs: vec![0; numbers.len()], fields: vec![0; numbers.len()] }
    }

    fn turn(
        &self,
        mut run: usize,
        mut next: Vec<u32>,
        mut docs: Vec<u32>,
        mut fields: Vec<u8>,
        budget: usize,
    ) -> State {
        let builder = &self.builder;
        let first = self.writer.first();
        let mut left = budget;
        while run < builder.runs.len() && left > 0 {
            let begin = if run == 0 { 0 } else { builder.runs[run - 1].end as usize };
            let (end, doc) = (builder.runs[run].end as usize, builder.runs[run].doc - first);
            for (number, here) in builder.numbers[begin..end].iter().zip(&builder.fields[begin..end]) {
                let next = &mut next[*number as usize];
                (docs[*next as usize], fields[*next as usize]) = (doc, *here);
                *next += 1;
            }
            left = left.saturating_sub(end - begin + 1);
            run += 1;
        }
        if run < builder.runs.len() {
            return State::Turn { run, next, docs, fields };
        }
        let words = &builder.words;
        let group = |number: u32| {
            let word = words.word(number);
            usize::from(word[0]) << 8 | usize::from(word.get(1).copied().unwrap_or_default())
        };
        let mut groups = vec![0u32; (1 << 16) + 1];
        let live = |number: &u32| {
            let begin = if *number == 0 { 0 } else { next[*number as usize - 1] };
            next[*number as usize] > begin
        };
        let numbers = 0..words.entries.len() as u32;
        numbers.clone().filter(live).for_each(|number| groups[group(number) + 1] += 1);
        for at in 1..groups.len() {
            groups[at] += groups[at - 1];
        }
        let mut order = vec![0; groups[1 << 16] as usize];
        let mut places = groups.clone();
        for number in numbers.filter(live) {
            let place = &mut places[group(number)];
            order[*place as usize] = number;
            *place += 1;
        }
        State::Sort { turned: Turned { ends: next, docs, fields }, order, groups, group: 0 }
    }

    fn sort(
        &self,
        turned: Turned,
        mut order: Vec<u32>,
        groups: Vec<u32>,
        mut group: usize,
        budget: usize,
    ) -> State {
        let words = &self.builder.words;
        let mut left = budget;
        while group + 1 < groups.len() && left > 0 {
            let run = &mut order[groups[group] as usize..groups[group + 1] as usize];
            run.sort_unstable_by(|one, other| words.word(*one).cmp(words.word(*other)));
            left = left.saturating_sub(run.len() * 8 + 1);
            group += 1;
        }
        if group + 1 < groups.len() {
            return State::Sort { turned, order, groups, group };
        }
        State::Write { turned, order, at: 0, lists: Lists::default() }
    }

    fn write(
        &mut self,
        turned: Turned,
        order: Vec<u32>,
        mut at: usize,
        mut lists: Lists,
        budget: usize,
    ) -> State {
        let words = &self.builder.words;
        let mut left = budget;
        while at < order.len() && left > 0 {
            let number = order[at];
            let begin = if number == 0 { 0 } else { turned.ends[number as usize - 1] };
            let range = begin as usize..turned.ends[number as usize] as usize;
            let (docs, fields) = (&turned.docs[range.clone()], &turned.fields[range]);
            lists.clear();
            for (doc, fields) in docs.iter().zip(fields) {
                let mut fields = *fields;
                while fields != 0 {
                    lists.of(Field::ALL[fields.trailing_zeros() as usize]).push(*doc);
                    fields &= fields - 1;
                }
            }
            self.writer.push(words.word(number), &lists);
            left = left.saturating_sub(docs.len() * 2 + 16);
            at += 1;
        }
        if at < order.len() { State::Write { turned, order, at, lists } } else { State::Rest }
    }
}

/// A segment of documents without a word: what a lost one is replaced by until they are indexed anew. All of them are
/// candidates of every query.
pub fn unknown(all: RoaringBitmap) -> Vec<u8> {
    let lengths = vec![0; all.len() as usize];
    let mut writer = Writer::new(Documents { incomplete: all.clone(), all, lengths });
    while writer.step(usize::MAX) == Step::More {}
    writer.into_bytes()
}
