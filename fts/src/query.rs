//! Queries: what is asked, planned for each segment, and answered by two sets.
//!
//! # What is certain
//! A key of [`Mode::Substring`] that lies within one word is a substring of a term: the dictionary says it for certain.
//! So does a pair of characters of a script without spaces, and an e-mail address, which stands in a compound. A key that
//! goes over the edge of a word is narrowed: the words within it are whole terms, what stands at its begin is the end of
//! one and what stands at its end the begin of one. Messages that have all of these are possible, and a scan decides. A key
//! without letters and digits is not narrowed at all.
//!
//! Machine text is in no dictionary; messages whose machine text has all grams of a piece are possible. So are, for every
//! key, messages that are not indexed whole.
//!
//! # What the other modes find
//! [`Mode::Words`], [`Mode::Prefix`] and [`Mode::Forms`] never leave anything to verify. They differ from a scan in these
//! ways and no others: (1) a word is not found within another one; (2) of several words neither order nor distance count,
//! and they may stand in different texts of the fields asked for; (3) spaces and punctuation do not count; (4) of long runs
//! of a script without spaces only the pairs count; (5) machine text is found by its grams, so what is found may not hold
//! it; (6) what is beyond the limits of one message is not found; (7) other forms are found too, in [`Mode::Forms`].
//!
//! # Cost
//! A word is one block of terms and its lists. A substring of three octets or more reads the blocks that have its grams; a
//! shorter one all blocks. Sets of documents are bitmaps over the span of a segment.

use crate::FormatError;
use crate::field::{Field, Fields};
use crate::format::mark;
use crate::forms::{Forms, Kind};
use crate::grams::{self, GRAM_OCTETS};
use crate::language::{Language, Languages};
use crate::postings::Bits;
use crate::segment::Segment;
use crate::token::{BASE64_OCTETS_MIN, Class, Piece, is_compound, is_machine, pieces};
use culver_model::search::SearchKey;
use culver_model::text::fold;
use roaring::RoaringBitmap;

/// How a key is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As RFC 9051 has it: the folded key stands in a folded text.
    Substring,
    /// All its words stand in the fields, in any order.
    Words,
    /// As `Words`, and the last one may go on.
    Prefix,
    /// As `Words`, or another form of each: without its diacritics, of the same stem in one of these languages where the
    /// message has a text in it (or in none that was told), or with one letter wrong.
    Forms(Languages),
}

/// What is asked of an index. Keys that it knows nothing of (flags, dates) are the caller's.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    All,
    /// Exactly these documents: what the caller knows already.
    Documents(RoaringBitmap),
    Key {
        fields: Fields,
        key: String,
        mode: Mode,
    },
    /// A header field of this name whose value has the key; with an empty key, that there is one.
    Header {
        name: String,
        key: String,
        mode: Mode,
    },
    And(Vec<Query>),
    Or(Vec<Query>),
    Not(Box<Query>),
}

impl Query {
    /// What a search key asks of the texts; `None` where it, or a part of it, asks something else.
    pub fn of(key: &SearchKey) -> Option<Query> {
        let all = |keys: &[SearchKey]| keys.iter().map(Query::of).collect::<Option<Vec<_>>>();
        Some(match key {
            SearchKey::All => Query::All,
            SearchKey::Body(key) => Query::body(key),
            SearchKey::Text(key) => Query::text(key),
            SearchKey::Header { field, value } => Query::header(field, value),
            SearchKey::And(keys) => Query::And(all(keys)?),
            SearchKey::Or(left, right) => Query::Or(vec![Query::of(left)?, Query::of(right)?]),
            SearchKey::Not(key) => Query::Not(Box::new(Query::of(key)?)),
            _ => return None,
        })
    }

    /// The key `BODY`.
    pub fn body(key: &str) -> Query {
        Query::Key { fields: Fields::BODY, key: key.to_owned(), mode: Mode::Substring }
    }

    /// The key `TEXT`.
    pub fn text(key: &str) -> Query {
        Query::Key { fields: Fields::TEXT, key: key.to_owned(), mode: Mode::Substring }
    }

    /// The keys `HEADER`, `SUBJECT`, `FROM`, `TO`, `CC` and `BCC`.
    pub fn header(name: &str, key: &str) -> Query {
        Query::Header { name: name.to_owned(), key: key.to_owned(), mode: Mode::Substring }
    }
}

/// What matches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Documents that match.
    pub certain: RoaringBitmap,
    /// Documents that may match: to be verified. None of them is among the certain ones.
    pub possible: RoaringBitmap,
    /// Segments (by their place among those asked) that could not be read; all their documents are possible.
    pub damaged: Vec<(usize, FormatError)>,
}

/// Asks segments whose documents do not overlap.
pub fn search(segments: &[Segment<'_>], query: &Query) -> Found {
    let mut found = Found::default();
    for (at, segment) in segments.iter().enumerate() {
        let asked = Asked { segment };
        match asked.eval(query) {
            Ok(Answer { certain, mut possible }) => {
                possible.less(&certain);
                certain.add_to(segment.first(), &mut found.certain);
                possible.add_to(segment.first(), &mut found.possible);
            }
            Err(error) => {
                segment.documents().add_to(segment.first(), &mut found.possible);
                found.damaged.push((at, error));
            }
        }
    }
    found
}

/// Documents of one segment: those that match, and those that may, which contain them.
struct Answer {
    certain: Bits,
    possible: Bits,
}

struct Asked<'q, 's> {
    segment: &'q Segment<'s>,
}

impl Asked<'_, '_> {
    fn none(&self) -> Bits {
        Bits::none(self.segment.span())
    }

    fn all(&self) -> Bits {
        self.segment.documents().clone()
    }

    fn exactly(&self, certain: Bits) -> Answer {
        Answer { possible: certain.clone(), certain }
    }

    fn eval(&self, query: &Query) -> Result<Answer, FormatError> {
        Ok(match query {
            Query::All => self.exactly(self.all()),
            Query::Documents(docs) => {
                let mut bits = self.none();
                let first = self.segment.first();
                docs.range(first..=first + (self.segment.span() - 1))
                    .for_each(|doc| bits.insert(doc - first));
                bits.and(self.segment.documents());
                self.exactly(bits)
            }
            Query::Key { fields, key, mode } => self.key(*fields, &fold(key), *mode)?,
            Query::Header { name, key, mode } => self.header(name, &fold(key), *mode)?,
            Query::And(queries) => {
                let mut answer = self.exactly(self.all());
                for query in queries {
                    // Nothing can match any more.
                    if answer.possible.is_empty() {
                        break;
                    }
                    let next = self.eval(query)?;
                    answer.certain.and(&next.certain);
                    answer.possible.and(&next.possible);
                }
                answer
            }
            Query::Or(queries) => {
                let mut answer = self.exactly(self.none());
                for query in queries {
                    let next = self.eval(query)?;
                    answer.certain.or(&next.certain);
                    answer.possible.or(&next.possible);
                }
                answer
            }
            Query::Not(query) => {
                let inner = self.eval(query)?;
                let (mut certain, mut possible) = (self.all(), self.all());
                certain.less(&inner.possible);
                possible.less(&inner.certain);
                Answer { certain, possible }
            }
        })
    }

    fn header(&self, name: &str, key: &str, mode: Mode) -> Result<Answer, FormatError> {
        let field = Field::of_header(name);
        if field != Field::Other && !key.is_empty() {
            return self.key(Fields::of(field), key, mode);
        }
        let term = [&[mark::HEADER], name.to_ascii_lowercase().as_bytes()].concat();
        let mut having = self.none();
        self.add_term(&term, &mut [(Fields::ALL, &mut having)])?;
        if key.is_empty() {
            let mut answer = self.exactly(having);
            answer.possible.or(self.segment.incomplete());
            return Ok(answer);
        }
        // Whether the word stands in this field or another one is not known.
        let mut answer = self.key(Fields::of(field), key, mode)?;
        answer.possible.and(&having);
        if mode == Mode::Substring {
            answer.certain = self.none();
            answer.possible.or(self.segment.incomplete());
        } else {
            answer.certain.and(&having);
        }
        Ok(answer)
    }

    fn key(&self, fields: Fields, key: &str, mode: Mode) -> Result<Answer, FormatError> {
        if key.is_empty() {
            let mut answer = self.exactly(self.all());
            let header = fields.iter().next().filter(|field| fields == Fields::of(*field));
            match header {
                Some(Field::Subject | Field::From | Field::To | Field::Cc | Field::Bcc) => {
                    return self.header(header.map_or("", Field::name), key, mode);
                }
                _ if fields.has(Field::Body) => {}
                _ => answer.certain = self.none(),
            }
            return Ok(answer);
        }
        let pieces = pieces(key);
        if mode != Mode::Substring {
            return self.words(fields, &pieces, mode);
        }
        let mut certain = self.none();
        let mut possible = match pieces.as_slice() {
            [] => self.all(),
            [piece] if piece.open_left && piece.open_right => {
                match (piece.class, piece.token.chars().count()) {
                    (Class::Pair, 2) => {
                        self.add_term(piece.token.as_bytes(), &mut [(fields, &mut certain)])?
                    }
                    (Class::Pair, 3..) => {}
                    _ => {
                        let certain = &mut certain;
                        self.segment
                            .substring(piece.token.as_bytes(), |entry| entry.add_to(fields, certain))?;
                    }
                }
                match piece.class {
                    Class::Word => self.machine(fields, piece.token)?,
                    _ if piece.token.chars().nth(2).is_some() => self.narrowed(fields, key, &pieces)?,
                    _ => self.none(),
                }
            }
            _ if is_compound(key) => {
                let (kept, other) =
                    (Fields(fields.0 & !Fields::of(Field::Other).0), Fields::of(Field::Other));
                let certain = &mut certain;
                self.segment.substring(key.as_bytes(), |entry| entry.add_to(kept, certain))?;
                let mut possible = match fields.has(Field::Other) {
                    true => self.narrowed(other, key, &pieces)?,
                    false => self.none(),
                };
                self.add_term(&[mark::LONG_COMPOUND], &mut [(kept, &mut possible)])?;
                possible
            }
            _ => self.narrowed(fields, key, &pieces)?,
        };
        possible.or(&certain);
        possible.or(self.segment.incomplete());
        Ok(Answer { certain, possible })
    }

    /// Documents that have what all pieces ask for, in one field of the body or of the header.
    fn narrowed(&self, fields: Fields, key: &str, pieces: &[Piece<'_>]) -> Result<Bits, FormatError> {
        // A field's name and its value are one text, and the name counts as another field.
        let header = Fields(fields.0 & !Fields::BODY.0);
        let body = Fields(fields.0 & Fields::BODY.0);
        let (mut in_body, mut in_header) = (self.all(), self.all());
        let mut steps: Vec<(u8, &Piece<'_>)> = pieces.iter().map(|piece| (step_cost(piece), piece)).collect();
        steps.sort_by_key(|(cost, _)| *cost);
        for (n, (cost, piece)) in steps.iter().enumerate() {
            // What is left is few, or what narrows it further is costly and narrows little.
            const FEW: u32 = 8;
            if n > 0 && (*cost == LAST || (*cost > 0 && in_body.len() + in_header.len() <= FEW)) {
                break;
            }
            let (mut one, mut other) = (self.none(), self.none());
            self.add_piece(piece, &mut [(body, &mut one), (header, &mut other)])?;
            if piece.class == Class::Word && may_be_machine(key, piece) {
                one.or(&self.machine(body, piece.token)?);
                other.or(&self.machine(header, piece.token)?);
            }
            in_body.and(&one);
            in_header.and(&other);
        }
        in_body.or(&in_header);
        Ok(in_body)
    }

    /// Adds the documents that have what a piece asks for.
    fn add_piece(&self, piece: &Piece<'_>, to: &mut [(Fields, &mut Bits)]) -> Result<(), FormatError> {
        if piece.class == Class::Pair {
            let mut chars = piece.token.char_indices();
            let (first, second) = (chars.next(), chars.next());
            if let (Some(_), Some(_)) = (first, second) {
                return self.add_pairs(piece.token, to);
            }
        }
        let token = piece.token.as_bytes();
        let add = |entry: &crate::segment::Entry<'_>| {
            to.iter_mut().try_for_each(|(fields, bits)| entry.add_to(*fields, bits))
        };
        match (piece.open_left, piece.open_right) {
            (false, false) => self.add_term(token, to),
            (false, true) => self.segment.prefix(token, add),
            (true, false) => self.segment.suffix(token, add),
            (true, true) => self.segment.substring(token, add),
        }
    }

    /// Documents that have all pairs of a run.
    fn add_pairs(&self, run: &str, to: &mut [(Fields, &mut Bits)]) -> Result<(), FormatError> {
        let places: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
        for (fields, bits) in to {
            let mut all = self.all();
            for pair in places.windows(3) {
                let mut having = self.none();
                self.add_term(&run.as_bytes()[pair[0]..pair[2]], &mut [(*fields, &mut having)])?;
                all.and(&having);
            }
            bits.or(&all);
        }
        Ok(())
    }

    fn add_term(&self, term: &[u8], to: &mut [(Fields, &mut Bits)]) -> Result<(), FormatError> {
        if let Some(entry) = self.segment.lookup(term)? {
            to.iter_mut().try_for_each(|(fields, bits)| entry.add_to(*fields, bits))?;
        }
        Ok(())
    }

    /// Documents whose machine text may hold this token.
    fn machine(&self, fields: Fields, token: &str) -> Result<Bits, FormatError> {
        let mut found = self.none();
        if fields.0 == 0 {
            return Ok(found);
        }
        self.add_term(&[mark::MACHINE], &mut [(fields, &mut found)])?;
        if found.is_empty() || token.len() < GRAM_OCTETS {
            return Ok(found);
        }
        for hash in grams::hashes(token.as_bytes()) {
            let [high, low] = grams::of_machine(hash).to_be_bytes();
            let mut having = self.none();
            self.add_term(&[mark::MACHINE, high, low], &mut [(fields, &mut having)])?;
            found.and(&having);
            if found.is_empty() {
                break;
            }
        }
        self.add_term(&[mark::MACHINE, mark::FULL[0], mark::FULL[1]], &mut [(fields, &mut found)])?;
        Ok(found)
    }

    /// Documents with a text in one of these languages, or in none that was told.
    fn written_in(&self, languages: Languages) -> Result<Bits, FormatError> {
        let (mut here, mut known) = (self.none(), self.none());
        for language in Language::ALL {
            let term = [mark::LANGUAGE, language as u8];
            match languages.has(language) {
                true => self.add_term(&term, &mut [(Fields::ALL, &mut here), (Fields::ALL, &mut known)])?,
                false => self.add_term(&term, &mut [(Fields::ALL, &mut known)])?,
            }
        }
        let mut found = self.all();
        found.less(&known);
        found.or(&here);
        Ok(found)
    }

    fn words(&self, fields: Fields, pieces: &[Piece<'_>], mode: Mode) -> Result<Answer, FormatError> {
        let mut all = self.all();
        if pieces.is_empty() {
            return Ok(self.exactly(self.none()));
        }
        for (n, piece) in pieces.iter().enumerate() {
            let mut found = self.none();
            let token = piece.token.as_bytes();
            let is_last = n + 1 == pieces.len();
            match (piece.class, mode) {
                (Class::Word, Mode::Prefix) if is_last => {
                    self.segment.prefix(token, |entry| entry.add_to(fields, &mut found))?;
                }
                (Class::Word, Mode::Forms(languages)) => {
                    let forms = Forms::of(piece.token, languages, true);
                    forms.find(self.segment, |entry, kind, languages| {
                        if kind != Kind::Stem {
                            return entry.add_to(fields, &mut found);
                        }
                        // A stem means something in texts of its language.
                        let mut in_language = self.none();
                        entry.add_to(fields, &mut in_language)?;
                        in_language.and(&self.written_in(languages)?);
                        found.or(&in_language);
                        Ok(())
                    })?;
                }
                (Class::Word, _) if is_machine(token) => found = self.machine(fields, piece.token)?,
                (Class::Word, _) => self.add_term(token, &mut [(fields, &mut found)])?,
                _ => {
                    let open = Piece { open_left: true, open_right: true, ..*piece };
                    self.add_piece(&open, &mut [(fields, &mut found)])?;
                }
            }
            all.and(&found);
        }
        Ok(self.exactly(all))
    }
}

/// The cost of a piece that is looked at only where there is no other.
const LAST: u8 = 3;

fn step_cost(piece: &Piece<'_>) -> u8 {
    match (piece.open_left, piece.open_right) {
        (false, false) => 0,
        _ if piece.class == Class::Pair => 0,
        _ if piece.token.len() < GRAM_OCTETS => LAST,
        (false, true) => 1,
        _ => 2,
    }
}

/// Whether the token that a piece of a key is, or belongs to, may have been taken for machine text.
fn may_be_machine(key: &str, piece: &Piece<'_>) -> bool {
    let alone = piece.token.len() >= BASE64_OCTETS_MIN || is_machine(piece.token.as_bytes());
    if piece.open_left || piece.open_right || alone {
        return true;
    }
    // A line of base64 is parted by these alone, and ends at a space or a comma.
    let begin = piece.token.as_ptr() as usize - key.as_ptr() as usize;
    let octets = key.as_bytes();
    let in_base64 = |octet: u8| matches!(octet, b'+' | b'/' | b'=');
    in_base64(octets[begin - 1]) || in_base64(octets[begin + piece.token.len()])
}
