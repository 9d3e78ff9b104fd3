//! Responses from octets (RFC 3501 §7, RFC 4466, RFC 5258, RFC 5464, RFC 7162).

use std::borrow::Cow;

use culver_model::search::PartialRange;
use culver_model::{ModSeq, SequenceSet, UidSet, UidValidity};

use super::super::command::partial_range;
use super::super::cursor::{Cursor, Parsed};
use super::super::encode::{StatusValues, ThreadStep};
use super::super::literal::{announced, without_end};
use super::super::response::Status;
use super::super::text::Refusal;
use super::fetch::{FetchValue, fetch};

/// Cuts responses out of the receive buffer; used like [`super::super::Server::next`].
#[derive(Clone, Debug)]
pub struct Reader {
    octets_max: usize,
    /// Where the current line part begins, and the octets that hold no line end.
    part: usize,
    scanned: usize,
}

/// The other end does not speak IMAP. There is no way on but to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("response of more than {octets_max} octets")]
    TooLong { octets_max: usize },
    #[error("malformed response: {0}")]
    Malformed(Refusal),
}

impl From<Refusal> for ReadError {
    fn from(refusal: Refusal) -> ReadError {
        ReadError::Malformed(refusal)
    }
}

/// The name of an entry of metadata, and its value.
pub type EntryValue<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// One response.
#[derive(Clone, Debug, PartialEq)]
pub enum Response<'a> {
    /// `+`, with its text or base64.
    Continue(&'a [u8]),
    /// `tag`: of the command that it completes; `None` for `*`.
    Status {
        tag: Option<&'a str>,
        status: Status,
        code: Option<CodeText<'a>>,
        text: Cow<'a, str>,
    },
    Capability(Vec<&'a str>),
    Enabled(Vec<&'a str>),
    Flags(Vec<&'a str>),
    Exists(u32),
    Recent(u32),
    Expunge(u32),
    Vanished {
        earlier: bool,
        uids: UidSet,
    },
    Search {
        numbers: Vec<u32>,
        modseq: Option<ModSeq>,
    },
    /// In the order of the response.
    Sort {
        numbers: Vec<u32>,
        modseq: Option<ModSeq>,
    },
    Thread(Vec<ThreadStep>),
    Esearch(EsearchData<'a>),
    List(ListData<'a>),
    /// The name as on the wire.
    MailboxStatus {
        mailbox: Cow<'a, [u8]>,
        values: StatusValues,
    },
    /// RFC 9208 §4.2.1: resources with usage and limit.
    Quota {
        root: Cow<'a, [u8]>,
        resources: Vec<(&'a str, u64, u64)>,
    },
    /// RFC 9208 §4.2.2: the mailbox as on the wire, and its roots.
    QuotaRoot {
        mailbox: Cow<'a, [u8]>,
        roots: Vec<Cow<'a, [u8]>>,
    },
    /// RFC 5464 §4.4.1: names as on the wire, empty the server's. `None`: NIL.
    Metadata {
        mailbox: Cow<'a, [u8]>,
        values: Vec<EntryValue<'a>>,
    },
    /// RFC 5464 §4.4.2.
    MetadataChanged {
        mailbox: Cow<'a, [u8]>,
        names: Vec<Cow<'a, [u8]>>,
    },
    Fetch {
        sequence_number: u32,
        values: Vec<FetchValue<'a>>,
    },
    /// An untagged response of another kind (ID, NAMESPACE, extensions), without `* ` and line end.
    Other(&'a [u8]),
}

/// A response code: its name, and what stands between it and the bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeText<'a> {
    pub name: &'a str,
    pub arguments: &'a [u8],
}

impl CodeText<'_> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Of UIDNEXT, UIDVALIDITY, UNSEEN, HIGHESTMODSEQ.
    pub fn number(&self) -> Option<u64> {
        let mut cursor = Cursor::new(self.arguments);
        let number = cursor.number().ok()?;
        cursor.end().ok().map(|()| number)
    }

    /// Of MODIFIED.
    pub fn set(&self) -> Option<SequenceSet> {
        SequenceSet::parse(self.arguments)
    }

    /// Of APPENDUID (one set) and COPYUID (two), in the order written.
    pub fn uids(&self) -> Option<(UidValidity, Vec<SequenceSet>)> {
        let mut cursor = Cursor::new(self.arguments);
        let validity = UidValidity::new(cursor.number32().ok()?)?;
        let mut sets = Vec::new();
        while cursor.eat(b' ') && sets.len() < 2 {
            sets.push(cursor.sequence_set().ok()?);
        }
        cursor.end().ok().map(|()| (validity, sets))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EsearchData<'a> {
    pub tag: Option<Cow<'a, [u8]>>,
    pub uid: bool,
    pub min: Option<u32>,
    pub max: Option<u32>,
    pub count: Option<u64>,
    /// In the order in which they stand: SORT's is its own.
    pub all: Option<SequenceSet>,
    /// RFC 9394 §3.1. No set: NIL.
    pub partial: Option<(PartialRange, Option<SequenceSet>)>,
    pub modseq: Option<ModSeq>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListData<'a> {
    /// LSUB, not LIST.
    pub lsub: bool,
    pub attributes: Vec<&'a str>,
    /// `None`: NIL, a flat namespace.
    pub separator: Option<u8>,
    /// As on the wire.
    pub name: Cow<'a, [u8]>,
    /// The extended data, unparsed, with its parentheses.
    pub extended: &'a [u8],
}

impl Reader {
    /// `octets_max`: the longest response, with its literals.
    pub fn new(octets_max: usize) -> Reader {
        Reader { octets_max, part: 0, scanned: 0 }
    }

    /// The first response in `input`, and how many octets it takes; `None` where more must be read first.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Response<'a>>), ReadError> {
        let too_long = ReadError::TooLong { octets_max: self.octets_max };
        loop {
            if self.part > self.octets_max {
                return Err(too_long);
            }
            if input.len() < self.part {
                return Ok((0, None));
            }
            let from = self.scanned.clamp(self.part, input.len());
            let Some(end) = memchr::memchr(b'\n', &input[from..]).map(|at| from + at + 1) else {
                self.scanned = input.len();
                return if input.len() >= self.octets_max { Err(too_long) } else { Ok((0, None)) };
            };
            if end > self.octets_max {
                return Err(too_long);
            }
            let line = without_end(&input[self.part..end]);
            match announced(line).filter(|_| self.part > 0 || !is_status(line)) {
                Some(literal) => {
                    self.part = usize::try_from(literal.octets)
                        .map_or(usize::MAX, |octets| end.saturating_add(octets));
                    self.scanned = self.part;
                }
                None => {
                    (self.part, self.scanned) = (0, 0);
                    return Ok((end, Some(response(without_end(&input[..end]))?)));
                }
            }
        }
    }
}

/// A status response ends in free text, which announces nothing.
fn is_status(line: &[u8]) -> bool {
    match line.strip_prefix(b"* ") {
        Some(rest) => status(&mut Cursor::new(rest)).is_some(),
        None => true,
    }
}

fn response(line: &[u8]) -> Parsed<Response<'_>> {
    if let Some(rest) = line.strip_prefix(b"+") {
        return Ok(Response::Continue(rest.strip_prefix(b" ").unwrap_or(rest)));
    }
    let mut cursor = Cursor::new(line);
    let untagged = cursor.eat(b'*');
    let tag = if untagged { None } else { Some(word(&mut cursor, "a tag")?) };
    cursor.space()?;
    if let Some(status) = status(&mut cursor) {
        return condition(&mut cursor, tag, status);
    }
    if tag.is_some() {
        return Err(Refusal::Expected("OK, NO or BAD"));
    }
    let rest = cursor.rest();
    if cursor.peek().is_some_and(|byte| byte.is_ascii_digit()) {
        let number = cursor.number32()?;
        cursor.space()?;
        return if cursor.eat_word("EXISTS") {
            Ok(Response::Exists(number))
        } else if cursor.eat_word("RECENT") {
            Ok(Response::Recent(number))
        } else if cursor.eat_word("EXPUNGE") {
            Ok(Response::Expunge(number))
        } else if cursor.eat_word("FETCH") {
            cursor.space()?;
            Ok(Response::Fetch { sequence_number: number, values: fetch(&mut cursor)? })
        } else {
            Ok(Response::Other(rest))
        };
    }
    if cursor.eat_word("CAPABILITY") {
        words(&mut cursor).map(Response::Capability)
    } else if cursor.eat_word("ENABLED") {
        words(&mut cursor).map(Response::Enabled)
    } else if cursor.eat_word("FLAGS") {
        cursor.space()?;
        flag_names(&mut cursor).map(Response::Flags)
    } else if cursor.eat_word("VANISHED") {
        cursor.space()?;
        let earlier = cursor.rest().starts_with(b"(");
        if earlier {
            cursor.list(|cursor| word(cursor, "EARLIER").map(drop))?;
            cursor.space()?;
        }
        Ok(Response::Vanished { earlier, uids: uids(&mut cursor)? })
    } else if cursor.eat_word("SEARCH") {
        let (numbers, modseq) = search(&mut cursor)?;
        Ok(Response::Search { numbers, modseq })
    } else if cursor.eat_word("SORT") {
        let (numbers, modseq) = search(&mut cursor)?;
        Ok(Response::Sort { numbers, modseq })
    } else if cursor.eat_word("THREAD") {
        thread(&mut cursor).map(Response::Thread)
    } else if cursor.eat_word("ESEARCH") {
        esearch(&mut cursor).map(Response::Esearch)
    } else if cursor.eat_word("LIST") {
        list(&mut cursor, false).map(Response::List)
    } else if cursor.eat_word("LSUB") {
        list(&mut cursor, true).map(Response::List)
    } else if cursor.eat_word("STATUS") {
        mailbox_status(&mut cursor)
    } else if cursor.eat_word("QUOTA") {
        quota(&mut cursor)
    } else if cursor.eat_word("QUOTAROOT") {
        quota_root(&mut cursor)
    } else if cursor.eat_word("METADATA") {
        metadata(&mut cursor)
    } else {
        Ok(Response::Other(rest))
    }
}

/// A run of octets without space or parenthesis.
pub(super) fn word<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Parsed<&'a str> {
    let word = cursor.take_while(|byte| byte > b' ' && byte < 0x7f && !matches!(byte, b'(' | b')'));
    match std::str::from_utf8(word) {
        Ok(word) if !word.is_empty() => Ok(word),
        _ => Err(Refusal::Expected(what)),
    }
}

fn words<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<&'a str>> {
    let mut words = Vec::new();
    while cursor.eat(b' ') {
        if cursor.end().is_err() {
            words.push(word(cursor, "a capability")?);
        }
    }
    cursor.end().map(|()| words)
}

pub(super) fn flag_names<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<&'a str>> {
    let mut names = Vec::new();
    cursor.list(|cursor| {
        names.push(word(cursor, "a flag")?);
        Ok(())
    })?;
    Ok(names)
}

fn uids(cursor: &mut Cursor<'_>) -> Parsed<UidSet> {
    Ok(cursor.known_set()?.resolve(0))
}

fn status(cursor: &mut Cursor<'_>) -> Option<Status> {
    let all = [Status::Ok, Status::No, Status::Bad, Status::PreAuth, Status::Bye];
    all.into_iter().find(|status| cursor.eat_word(status.name()))
}

fn condition<'a>(cursor: &mut Cursor<'a>, tag: Option<&'a str>, status: Status) -> Parsed<Response<'a>> {
    cursor.eat(b' ');
    let mut code = None;
    if cursor.eat(b'[') {
        let name = cursor.take_while(|byte| byte > b' ' && byte < 0x7f && byte != b']');
        let name = std::str::from_utf8(name).map_err(|_| Refusal::Expected("a response code"))?;
        cursor.eat(b' ');
        // RFC 3501 §9: no argument holds a bracket but within a quoted string or a flag list, which servers avoid.
        let arguments = cursor.take_while(|byte| byte != b']');
        cursor.expect(b']', "the closing bracket of a response code")?;
        cursor.eat(b' ');
        code = Some(CodeText { name, arguments });
    }
    Ok(Response::Status { tag, status, code, text: String::from_utf8_lossy(cursor.rest()) })
}

fn search(cursor: &mut Cursor<'_>) -> Parsed<(Vec<u32>, Option<ModSeq>)> {
    let (mut numbers, mut modseq) = (Vec::new(), None);
    while cursor.eat(b' ') {
        match cursor.peek() {
            Some(b'(') => cursor.list(|cursor| {
                if cursor.eat_word("MODSEQ") {
                    cursor.space()?;
                    modseq = Some(cursor.modseq()?);
                    return Ok(());
                }
                Err(Refusal::Expected("MODSEQ"))
            })?,
            Some(_) => numbers.push(cursor.nz_number32()?),
            None => {}
        }
    }
    cursor.end()?;
    Ok((numbers, modseq))
}

/// RFC 5256 §4. Depth costs nothing: parentheses are steps.
fn thread(cursor: &mut Cursor<'_>) -> Parsed<Vec<ThreadStep>> {
    let (mut steps, mut depth) = (Vec::new(), 0usize);
    while let Some(octet) = cursor.peek() {
        match octet {
            b' ' => {
                cursor.eat(b' ');
            }
            b'(' => {
                cursor.eat(b'(');
                depth += 1;
                steps.push(ThreadStep::Open);
            }
            b')' if depth > 0 => {
                cursor.eat(b')');
                depth -= 1;
                steps.push(ThreadStep::Close);
            }
            _ if depth > 0 => steps.push(ThreadStep::Number(cursor.nz_number32()?)),
            _ => return Err(Refusal::Expected("a thread")),
        }
    }
    if depth == 0 { Ok(steps) } else { Err(Refusal::Expected("the end of a thread")) }
}

fn esearch<'a>(cursor: &mut Cursor<'a>) -> Parsed<EsearchData<'a>> {
    let mut data = EsearchData::default();
    while cursor.eat(b' ') {
        if cursor.peek() == Some(b'(') {
            cursor.expect(b'(', "the tag")?;
            if !cursor.eat_word("TAG") {
                return Err(Refusal::Expected("TAG"));
            }
            cursor.space()?;
            data.tag = Some(cursor.astring("a tag")?);
            cursor.expect(b')', "a closing parenthesis")?;
            continue;
        }
        let name = word(cursor, "a kind of result")?.to_ascii_uppercase();
        if name == "UID" {
            data.uid = true;
            continue;
        }
        cursor.space()?;
        match name.as_str() {
            "MIN" => data.min = Some(cursor.nz_number32()?),
            "MAX" => data.max = Some(cursor.nz_number32()?),
            "COUNT" => data.count = Some(cursor.number()?),
            "MODSEQ" => data.modseq = Some(cursor.modseq()?),
            "ALL" => data.all = Some(cursor.known_set()?),
            "PARTIAL" => {
                cursor.expect(b'(', "an opening parenthesis")?;
                let range = partial_range(cursor)?;
                cursor.space()?;
                let found = if cursor.eat_word("NIL") { None } else { Some(cursor.known_set()?) };
                cursor.expect(b')', "a closing parenthesis")?;
                data.partial = Some((range, found));
            }
            _ => return Err(Refusal::Expected("a kind of result that exists")),
        }
    }
    cursor.end().map(|()| data)
}

fn list<'a>(cursor: &mut Cursor<'a>, lsub: bool) -> Parsed<ListData<'a>> {
    cursor.space()?;
    let attributes = flag_names(cursor)?;
    cursor.space()?;
    let separator = match cursor.nstring("a separator")? {
        None => None,
        Some(text) if text.len() == 1 => Some(text[0]),
        Some(_) => return Err(Refusal::Expected("a separator of one character")),
    };
    cursor.space()?;
    let name = cursor.astring("a mailbox name")?;
    let extended = if cursor.eat(b' ') { cursor.rest() } else { &[] };
    if extended.is_empty() {
        cursor.end()?;
    }
    Ok(ListData { lsub, attributes, separator, name, extended })
}

fn quota<'a>(cursor: &mut Cursor<'a>) -> Parsed<Response<'a>> {
    cursor.space()?;
    let root = cursor.astring("a quota root")?;
    cursor.space()?;
    let mut resources = Vec::new();
    cursor.list(|cursor| {
        let resource = word(cursor, "a resource")?;
        cursor.space()?;
        let usage = cursor.number()?;
        cursor.space()?;
        resources.push((resource, usage, cursor.number()?));
        Ok(())
    })?;
    cursor.end()?;
    Ok(Response::Quota { root, resources })
}

fn quota_root<'a>(cursor: &mut Cursor<'a>) -> Parsed<Response<'a>> {
    cursor.space()?;
    let mailbox = cursor.astring("a mailbox name")?;
    let mut roots = Vec::new();
    while cursor.eat(b' ') {
        roots.push(cursor.astring("a quota root")?);
    }
    cursor.end()?;
    Ok(Response::QuotaRoot { mailbox, roots })
}

fn metadata<'a>(cursor: &mut Cursor<'a>) -> Parsed<Response<'a>> {
    cursor.space()?;
    let mailbox = cursor.astring("a mailbox name")?;
    cursor.space()?;
    if cursor.peek() != Some(b'(') {
        let mut names = vec![cursor.astring("the name of an entry")?];
        while cursor.eat(b' ') {
            names.push(cursor.astring("the name of an entry")?);
        }
        cursor.end()?;
        return Ok(Response::MetadataChanged { mailbox, names });
    }
    let mut values = Vec::new();
    cursor.list(|cursor| {
        let name = cursor.astring("the name of an entry")?;
        cursor.space()?;
        values.push((name, cursor.nstring("a value")?));
        Ok(())
    })?;
    cursor.end()?;
    Ok(Response::Metadata { mailbox, values })
}

fn mailbox_status<'a>(cursor: &mut Cursor<'a>) -> Parsed<Response<'a>> {
    cursor.space()?;
    let mailbox = cursor.astring("a mailbox name")?;
    cursor.space()?;
    let mut values = StatusValues::default();
    cursor.list(|cursor| {
        let item = word(cursor, "a STATUS item")?.to_ascii_uppercase();
        cursor.space()?;
        if cursor.eat_word("NIL") {
            return Ok(());
        }
        match item.as_str() {
            "MESSAGES" => values.messages = Some(cursor.number32()?),
            "RECENT" => values.recent = Some(cursor.number32()?),
            "UIDNEXT" => values.uid_next = Some(cursor.number32()?),
            "UIDVALIDITY" => values.uid_validity = Some(cursor.number32()?),
            "UNSEEN" => values.unseen = Some(cursor.number32()?),
            "SIZE" => values.size = Some(cursor.number()?),
            "HIGHESTMODSEQ" => values.highest_modseq = Some(cursor.modseq()?),
            "MAILBOXID" => values.mailbox_id = Some(super::fetch::object_id(cursor)?),
            "APPENDLIMIT" => values.append_limit = Some(cursor.number()?),
            "DELETED" => values.deleted = Some(cursor.number32()?),
            "DELETED-STORAGE" => values.deleted_storage = Some(cursor.number()?),
            _ => {
                word(cursor, "a value")?;
            }
        }
        Ok(())
    })?;
    Ok(Response::MailboxStatus { mailbox, values })
}
