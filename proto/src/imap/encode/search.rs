//! The answers of SEARCH, SORT and THREAD (RFC 3501 §7.2.5, RFC 4731, RFC 5256 §4, RFC 5267, RFC 9394).

use culver_model::search::PartialRange;
use culver_model::{MailboxName, ModSeq, UidSet, UidValidity};

use super::{mailbox, number, set, string};

/// `modseq`: the highest of those found, where the search mentions MODSEQ (RFC 7162 §3.1.5).
pub fn search(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>, modseq: Option<ModSeq>) {
    out.extend_from_slice(b"* SEARCH");
    let mut found = false;
    for value in numbers {
        found = true;
        out.push(b' ');
        number(out, u64::from(value));
    }
    search_end(out, modseq.filter(|_| found));
}

/// What SORT found begins (RFC 5256 §4); numbers follow with [`sort_numbers`], then [`search_end`].
pub fn sort_begin(out: &mut Vec<u8>) {
    out.extend_from_slice(b"* SORT");
}

pub fn sort_numbers(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = u32>) {
    for value in numbers {
        out.push(b' ');
        number(out, u64::from(value));
    }
}

/// The end of a SEARCH or SORT response (RFC 7162 §7).
pub fn search_end(out: &mut Vec<u8>, modseq: Option<ModSeq>) {
    if let Some(modseq) = modseq {
        out.extend_from_slice(b" (MODSEQ ");
        number(out, modseq.get());
        out.push(b')');
    }
    out.extend_from_slice(b"\r\n");
}

/// One step through a thread (RFC 5256 §4 `thread-list`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadStep {
    Open,
    Close,
    Number(u32),
}

/// Writes a THREAD response, in as many pieces as wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadWriter {
    after_number: bool,
    began: bool,
}

impl ThreadWriter {
    pub fn push(&mut self, out: &mut Vec<u8>, step: ThreadStep) {
        if !std::mem::replace(&mut self.began, true) {
            out.extend_from_slice(b"* THREAD ");
        }
        if self.after_number && step != ThreadStep::Close {
            out.push(b' ');
        }
        self.after_number = matches!(step, ThreadStep::Number(_));
        match step {
            ThreadStep::Open => out.push(b'('),
            ThreadStep::Close => out.push(b')'),
            ThreadStep::Number(value) => number(out, u64::from(value)),
        }
    }

    pub fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.began { b"\r\n" } else { b"* THREAD\r\n" });
    }
}

/// Numbers in the order in which they were found: ascending ones of a SEARCH, any of a SORT.
#[derive(Clone, Copy, Debug)]
pub enum Results<'a> {
    Set(&'a UidSet),
    Sorted(&'a [u32]),
}

impl Results<'_> {
    pub fn is_empty(&self) -> bool {
        match self {
            Results::Set(set) => set.is_empty(),
            Results::Sorted(numbers) => numbers.is_empty(),
        }
    }

    /// As a sequence set; not where it is empty.
    fn write(&self, out: &mut Vec<u8>) {
        let numbers = match self {
            Results::Set(all) => return set(out, all),
            Results::Sorted(numbers) => numbers,
        };
        // RFC 5267 §3.2: a range stands for ascending numbers, whichever way it is written.
        let runs = numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next));
        for (at, run) in runs.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            number(out, u64::from(run[0]));
            if let [_, .., last] = run {
                out.push(b':');
                number(out, u64::from(*last));
            }
        }
    }
}

/// An ESEARCH response (RFC 4466 §2.6.2, RFC 4731 §3.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Esearch<'a> {
    pub tag: &'a str,
    /// RFC 7377 §2.1: where it was found; and whether its name is told in UTF-8.
    pub mailbox: Option<(&'a MailboxName, UidValidity, bool)>,
    pub uid: bool,
    /// `None` where nothing was found, or it was not asked for.
    pub min: Option<u32>,
    pub max: Option<u32>,
    /// Left out where it is empty.
    pub all: Option<Results<'a>>,
    /// RFC 9394 §3.1: the range as it was asked, and what stands there.
    pub partial: Option<(PartialRange, Results<'a>)>,
    pub count: Option<u64>,
    /// RFC 4731 §3.2, RFC 7162 §3.1.10.
    pub modseq: Option<ModSeq>,
}

/// What came into a result, or left it (RFC 5267 §4.3): positions, and what stands there, in that order.
pub fn esearch_update(out: &mut Vec<u8>, tag: &str, uid: bool, adds: bool, changes: &[(usize, Results<'_>)]) {
    if changes.is_empty() {
        return;
    }
    out.extend_from_slice(b"* ESEARCH (TAG ");
    string(out, tag.as_bytes());
    out.push(b')');
    if uid {
        out.extend_from_slice(b" UID");
    }
    out.extend_from_slice(if adds { b" ADDTO (" } else { b" REMOVEFROM (" });
    for (at, (position, results)) in changes.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        number(out, *position as u64);
        out.push(b' ');
        results.write(out);
    }
    out.extend_from_slice(b")\r\n");
}

pub fn esearch(out: &mut Vec<u8>, result: &Esearch<'_>) {
    out.extend_from_slice(b"* ESEARCH (TAG ");
    string(out, result.tag.as_bytes());
    if let Some((name, uid_validity, utf8)) = result.mailbox {
        out.extend_from_slice(b" MAILBOX ");
        mailbox(out, name, utf8);
        out.extend_from_slice(b" UIDVALIDITY ");
        number(out, u64::from(uid_validity.get()));
    }
    out.push(b')');
    if result.uid {
        out.extend_from_slice(b" UID");
    }
    let mut item = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            number(out, value);
        }
    };
    item(" MIN ", result.min.map(u64::from));
    item(" MAX ", result.max.map(u64::from));
    item(" COUNT ", result.count);
    // RFC 4731 §3.1: no ALL where nothing matches.
    if let Some(all) = result.all.filter(|all| !all.is_empty()) {
        out.extend_from_slice(b" ALL ");
        all.write(out);
    }
    if let Some((range, results)) = result.partial {
        out.extend_from_slice(format!(" PARTIAL ({range} ").as_bytes());
        match results.is_empty() {
            true => out.extend_from_slice(b"NIL"),
            false => results.write(out),
        }
        out.push(b')');
    }
    if let Some(modseq) = result.modseq {
        out.extend_from_slice(b" MODSEQ ");
        number(out, modseq.get());
    }
    out.extend_from_slice(b"\r\n");
}
