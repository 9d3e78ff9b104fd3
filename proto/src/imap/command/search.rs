//! SEARCH, SORT and THREAD: return options, criteria, charset, keys (RFC 3501 §6.4.4, RFC 5256 §5, RFC 5267 §5, RFC 5957 §5, RFC 9394 §4, RFC 4466 §2.6, RFC 4731, RFC 5032, RFC 5182,
//! RFC 7162 §3.1.5, RFC 8514).
//!
//! # Limits
//! `SEARCH_DEPTH_MAX` nested NOT, OR and parentheses, `SEARCH_KEYS_MAX` keys.

use culver_model::search::{SEARCH_DEPTH_MAX, SEARCH_KEYS_MAX, SORT_CRITERIA_MAX, SortKey};
use culver_model::text::Charset;
use culver_model::{Date, Keyword, SystemFlag};

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

#[derive(Clone, Copy, PartialEq)]
enum Strings {
    /// None named: US-ASCII by the RFC, and in practice UTF-8.
    Unnamed,
    Ascii,
    Utf8,
    Other(Charset),
}

struct Keys {
    strings: Strings,
    depth: usize,
    count: usize,
}

pub(super) fn search(cursor: &mut Cursor<'_>, uid: bool) -> Parsed<Search> {
    let (returns, update_items) = returns(cursor)?;
    let mut strings = Strings::Unnamed;
    let named = cursor.eat_word("CHARSET");
    if named {
        cursor.space()?;
        strings = charset(cursor)?;
    }
    Ok(Search { uid, returns, update_items, charset: named, key: all_keys(cursor, strings)? })
}

/// RFC 5256 §5: the charset is mandatory, and named without a word before it.
pub(super) fn sort(cursor: &mut Cursor<'_>, uid: bool) -> Parsed<Sort> {
    let (returns, update_items) = returns(cursor)?;
    let mut criteria = Vec::new();
    cursor.list(|cursor| {
        if criteria.len() == SORT_CRITERIA_MAX {
            return Err(Refusal::TooMany("sort criteria"));
        }
        let reverse = cursor.eat_word("REVERSE");
        if reverse {
            cursor.space()?;
        }
        let key = SortKey::ALL.into_iter().find(|key| cursor.eat_word(key.name()));
        criteria.push(SortCriterion { key: key.ok_or(CRITERION)?, reverse });
        Ok(())
    })?;
    if criteria.is_empty() {
        return Err(CRITERION);
    }
    cursor.space()?;
    let strings = charset(cursor)?;
    Ok(Sort { uid, returns, update_items, criteria, key: all_keys(cursor, strings)? })
}

const CRITERION: Refusal = Refusal::Expected("a sort criterion that exists");

pub(super) fn thread(cursor: &mut Cursor<'_>, uid: bool) -> Parsed<Thread> {
    let algorithm = ThreadAlgorithm::ALL.into_iter().find(|algorithm| cursor.eat_word(algorithm.name()));
    let algorithm = algorithm.ok_or(Refusal::Expected("a threading algorithm that exists"))?;
    cursor.space()?;
    let strings = charset(cursor)?;
    Ok(Thread { uid, algorithm, key: all_keys(cursor, strings)? })
}

/// Whether arguments that begin so ask to save the result.
pub(super) fn saves(arguments: &[u8]) -> bool {
    let mut cursor = Cursor::new(arguments);
    let returns = cursor.space().and_then(|()| {
        // RFC 7377 §4: with SAVE the only source is the selected mailbox.
        if cursor.rest().get(..15).is_some_and(|from| from.eq_ignore_ascii_case(b"IN (selected) R")) {
            cursor = Cursor::new(&cursor.rest()[14..]);
        }
        returns(&mut cursor)
    });
    matches!(returns, Ok((Some(returns), _)) if returns.save)
}

/// With what is told of messages that come into the result.
type Returns = (Option<SearchReturn>, Option<Box<FetchItems>>);

fn returns(cursor: &mut Cursor<'_>) -> Parsed<Returns> {
    if !cursor.eat_word("RETURN") {
        return Ok((None, None));
    }
    cursor.space()?;
    let (returns, update_items) = return_options(cursor)?;
    cursor.space()?;
    Ok((Some(returns), update_items))
}

/// With the space after it, so that what is no whole command is BAD before a charset is NO.
fn charset(cursor: &mut Cursor<'_>) -> Parsed<Strings> {
    let name = cursor.astring("a charset")?;
    cursor.space()?;
    Ok(if name.eq_ignore_ascii_case(b"UTF-8") || name.eq_ignore_ascii_case(b"UTF8") {
        Strings::Utf8
    } else if name.eq_ignore_ascii_case(b"US-ASCII") || name.eq_ignore_ascii_case(b"ASCII") {
        Strings::Ascii
    } else {
        // RFC 3501 §6.4.4: what is not known is NO, never guessed.
        match Charset::of(&name) {
            Charset::UNKNOWN => return Err(Refusal::BadCharset),
            charset => Strings::Other(charset),
        }
    })
}

fn all_keys(cursor: &mut Cursor<'_>, strings: Strings) -> Parsed<SearchKey> {
    let mut keys = Keys { strings, depth: 0, count: 0 };
    let key = keys.key(cursor)?;
    if cursor.peek() != Some(b' ') {
        return Ok(key);
    }
    let mut all = vec![key];
    while cursor.eat(b' ') {
        all.push(keys.key(cursor)?);
    }
    Ok(SearchKey::And(all))
}

fn return_options(cursor: &mut Cursor<'_>) -> Parsed<(SearchReturn, Option<Box<FetchItems>>)> {
    let (mut returns, mut update_items) = (SearchReturn::default(), None);
    cursor.list(|cursor| {
        let asked = if cursor.eat_word("MIN") {
            &mut returns.min
        } else if cursor.eat_word("MAX") {
            &mut returns.max
        } else if cursor.eat_word("ALL") {
            &mut returns.all
        } else if cursor.eat_word("COUNT") {
            &mut returns.count
        } else if cursor.eat_word("SAVE") {
            &mut returns.save
        } else if cursor.eat_word("CONTEXT") {
            &mut returns.context
        } else if cursor.eat_word("UPDATE") {
            // RFC 5465 §7.
            if cursor.rest().starts_with(b" (") {
                cursor.space()?;
                update_items = Some(Box::new(fetch::unasked(cursor)?));
            }
            &mut returns.update
        } else if cursor.eat_word("PARTIAL") {
            cursor.space()?;
            // RFC 9394 §3.1: not more than one PARTIAL.
            if returns.partial.replace(partial_range(cursor)?).is_some() {
                return Err(ALL_OR_PARTIAL);
            }
            return Ok(());
        } else {
            return Err(Refusal::Expected("MIN, MAX, ALL, COUNT, PARTIAL, SAVE, CONTEXT or UPDATE"));
        };
        *asked = true;
        Ok(())
    })?;
    // RFC 9394 §3.1: PARTIAL, or ALL, or neither.
    if returns.all && returns.partial.is_some() {
        return Err(ALL_OR_PARTIAL);
    }
    // RFC 4731 §3.1: an empty list is ALL.
    returns.all |= returns == SearchReturn::default();
    Ok((returns, update_items))
}

const ALL_OR_PARTIAL: Refusal = Refusal::Expected("one of ALL and PARTIAL, once");

/// RFC 9394 §4 `partial-range`.
pub(in super::super) fn partial_range(cursor: &mut Cursor<'_>) -> Parsed<PartialRange> {
    let from_end = cursor.eat(b'-');
    let first = cursor.nz_number32()?;
    cursor.expect(b':', "a colon and the other end of the range")?;
    if from_end {
        cursor.expect(b'-', "a second number with a minus")?;
    }
    Ok(PartialRange { bounds: (first, cursor.nz_number32()?), from_end })
}

impl Keys {
    fn key(&mut self, cursor: &mut Cursor<'_>) -> Parsed<SearchKey> {
        self.count += 1;
        if self.count > SEARCH_KEYS_MAX {
            return Err(Refusal::TooMany("search keys"));
        }
        match cursor.peek() {
            Some(b'0'..=b'9' | b'*') => return cursor.sequence_set().map(SearchKey::Sequence),
            Some(b'$') if !cursor.rest().get(1).is_some_and(|next| next.is_ascii_alphanumeric()) => {
                cursor.eat(b'$');
                return Ok(SearchKey::Saved);
            }
            Some(b'(') => {
                return self.nested(|keys| {
                    let mut all = Vec::new();
                    cursor.list(|cursor| {
                        all.push(keys.key(cursor)?);
                        Ok(())
                    })?;
                    match all.len() {
                        0 => Err(Refusal::Expected("a search key")),
                        1 => Ok(all.pop().expect("one key")),
                        _ => Ok(SearchKey::And(all)),
                    }
                });
            }
            _ => {}
        }
        let word = cursor.atom("a search key")?.to_ascii_uppercase();
        self.word(cursor, &word)
    }

    fn nested(&mut self, inner: impl FnOnce(&mut Keys) -> Parsed<SearchKey>) -> Parsed<SearchKey> {
        if self.depth == SEARCH_DEPTH_MAX {
            return Err(Refusal::TooMany("nested search keys"));
        }
        self.depth += 1;
        let key = inner(self);
        self.depth -= 1;
        key
    }

    fn word(&mut self, cursor: &mut Cursor<'_>, word: &str) -> Parsed<SearchKey> {
        let simple = match word {
            "ALL" => Some(SearchKey::All),
            "NEW" => Some(SearchKey::New),
            "OLD" => Some(SearchKey::Old),
            "RECENT" => Some(SearchKey::Recent),
            "SAVEDATESUPPORTED" => Some(SearchKey::SaveDateSupported),
            _ => {
                let (name, not) = word.strip_prefix("UN").map_or((word, false), |name| (name, true));
                let flag =
                    SystemFlag::ALL.into_iter().find(|flag| flag.name()[1..].eq_ignore_ascii_case(name));
                flag.map(SearchKey::Flag).map(|key| if not { SearchKey::Not(Box::new(key)) } else { key })
            }
        };
        if let Some(key) = simple {
            return Ok(key);
        }
        const UNKNOWN: Refusal = Refusal::Expected("a search key that exists");
        if !ARGUMENT_KEYS.contains(&word) {
            return Err(UNKNOWN);
        }
        cursor.space()?;
        Ok(match word {
            "BCC" | "CC" | "FROM" | "SUBJECT" | "TO" => {
                SearchKey::Header { field: word.to_owned(), value: self.text(cursor)? }
            }
            "HEADER" => {
                let field = self.text(cursor)?;
                cursor.space()?;
                SearchKey::Header { field, value: self.text(cursor)? }
            }
            "BODY" => SearchKey::Body(self.text(cursor)?),
            "TEXT" => SearchKey::Text(self.text(cursor)?),
            "BEFORE" => SearchKey::Before(date(cursor)?),
            "ON" => SearchKey::On(date(cursor)?),
            "SINCE" => SearchKey::Since(date(cursor)?),
            "SENTBEFORE" => SearchKey::SentBefore(date(cursor)?),
            "SENTON" => SearchKey::SentOn(date(cursor)?),
            "SENTSINCE" => SearchKey::SentSince(date(cursor)?),
            "OLDER" => SearchKey::Older(cursor.nz_number32()?),
            "YOUNGER" => SearchKey::Younger(cursor.nz_number32()?),
            "SAVEDBEFORE" => SearchKey::SavedBefore(date(cursor)?),
            "SAVEDON" => SearchKey::SavedOn(date(cursor)?),
            "SAVEDSINCE" => SearchKey::SavedSince(date(cursor)?),
            "EMAILID" => SearchKey::EmailId(object_id(cursor)?),
            "THREADID" => SearchKey::ThreadId(object_id(cursor)?),
            "LARGER" => SearchKey::Larger(cursor.number()?),
            "SMALLER" => SearchKey::Smaller(cursor.number()?),
            "KEYWORD" => SearchKey::Keyword(keyword(cursor)?),
            "UNKEYWORD" => SearchKey::Not(Box::new(SearchKey::Keyword(keyword(cursor)?))),
            "UID" => match cursor.message_set()? {
                MessageSet::Set(set) => SearchKey::Uid(set),
                MessageSet::Saved => SearchKey::Saved,
            },
            "NOT" => SearchKey::Not(Box::new(self.nested(|keys| keys.key(cursor))?)),
            "OR" => self.nested(|keys| {
                let left = keys.key(cursor)?;
                cursor.space()?;
                Ok(SearchKey::Or(Box::new(left), Box::new(keys.key(cursor)?)))
            })?,
            "MODSEQ" => SearchKey::ModSeq(modseq(cursor)?),
            _ => return Err(UNKNOWN),
        })
    }

    fn text(&self, cursor: &mut Cursor<'_>) -> Parsed<String> {
        let octets = cursor.astring("a string")?.into_owned();
        match self.strings {
            Strings::Ascii if !octets.is_ascii() => Err(Refusal::NotText),
            Strings::Other(charset) => match charset.decode(&octets) {
                text if text.contains(char::REPLACEMENT_CHARACTER) => Err(Refusal::NotText),
                text => Ok(text),
            },
            _ => String::from_utf8(octets).map_err(|_| Refusal::NotText),
        }
    }
}

/// RFC 8474 §7: 1 to 255 letters, digits, `_` and `-`.
fn object_id(cursor: &mut Cursor<'_>) -> Parsed<String> {
    let id = cursor.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    match id.len() {
        1..=255 => Ok(String::from_utf8_lossy(id).into_owned()),
        _ => Err(Refusal::Expected("an object id")),
    }
}

const ARGUMENT_KEYS: [&str; 29] = [
    "EMAILID",
    "THREADID",
    "BCC",
    "BEFORE",
    "BODY",
    "CC",
    "FROM",
    "HEADER",
    "KEYWORD",
    "LARGER",
    "MODSEQ",
    "NOT",
    "OLDER",
    "ON",
    "OR",
    "SAVEDBEFORE",
    "SAVEDON",
    "SAVEDSINCE",
    "SENTBEFORE",
    "SENTON",
    "SENTSINCE",
    "SINCE",
    "SMALLER",
    "SUBJECT",
    "TEXT",
    "TO",
    "UID",
    "UNKEYWORD",
    "YOUNGER",
];

fn date(cursor: &mut Cursor<'_>) -> Parsed<Date> {
    let text = cursor.astring("a date")?;
    Date::parse(&text).ok_or(Refusal::Expected("a date like 1-Feb-1994"))
}

fn keyword(cursor: &mut Cursor<'_>) -> Parsed<Keyword> {
    Keyword::new(cursor.atom("a keyword")?).ok_or(Refusal::TooMany("octets in a keyword"))
}

/// RFC 7162 §3.1.5: a server without a mod-sequence per flag ignores the entry and its type, once they are well-formed.
fn modseq(cursor: &mut Cursor<'_>) -> Parsed<ModSeq> {
    if cursor.peek() == Some(b'"') {
        let entry = cursor.string("an entry name")?;
        if !entry.to_ascii_lowercase().starts_with(b"/flags/") {
            return Err(Refusal::Expected("an entry name that begins with /flags/"));
        }
        cursor.space()?;
        if !(cursor.eat_word("PRIV") || cursor.eat_word("SHARED") || cursor.eat_word("ALL")) {
            return Err(Refusal::Expected("priv, shared or all"));
        }
        cursor.space()?;
    }
    cursor.modseq()
}
