//! Search keys, sort criteria and threads (RFC 3501 §6.4.4, RFC 5032, RFC 5182, RFC 7162 §3.1.5, RFC 8514 §4.3): what a SEARCH asks, free of syntax.

use crate::{Date, Keyword, ModSeq, SequenceSet, SystemFlag};

/// Deepest nesting of NOT, OR and parentheses.
pub const SEARCH_DEPTH_MAX: usize = 32;
/// Most keys in one SEARCH.
pub const SEARCH_KEYS_MAX: usize = 1000;

/// Most criteria of one SORT.
pub const SORT_CRITERIA_MAX: usize = 16;

/// What SORT compares (RFC 5256 §3, RFC 5957 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SortKey {
    Arrival,
    Cc,
    Date,
    DisplayFrom,
    DisplayTo,
    From,
    Size,
    Subject,
    To,
}

impl SortKey {
    pub const ALL: [SortKey; 9] = [
        SortKey::Arrival,
        SortKey::Cc,
        SortKey::Date,
        SortKey::DisplayFrom,
        SortKey::DisplayTo,
        SortKey::From,
        SortKey::Size,
        SortKey::Subject,
        SortKey::To,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SortKey::Arrival => "ARRIVAL",
            SortKey::Cc => "CC",
            SortKey::Date => "DATE",
            SortKey::DisplayFrom => "DISPLAYFROM",
            SortKey::DisplayTo => "DISPLAYTO",
            SortKey::From => "FROM",
            SortKey::Size => "SIZE",
            SortKey::Subject => "SUBJECT",
            SortKey::To => "TO",
        }
    }
}

/// One criterion of SORT; `reverse`: descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortCriterion {
    pub key: SortKey,
    pub reverse: bool,
}

/// How THREAD gathers messages (RFC 5256 §3; REFS: draft-ietf-morg-inthread).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadAlgorithm {
    OrderedSubject,
    References,
    Refs,
}

impl ThreadAlgorithm {
    pub const ALL: [ThreadAlgorithm; 3] =
        [ThreadAlgorithm::OrderedSubject, ThreadAlgorithm::References, ThreadAlgorithm::Refs];

    pub fn name(self) -> &'static str {
        match self {
            ThreadAlgorithm::OrderedSubject => "ORDEREDSUBJECT",
            ThreadAlgorithm::References => "REFERENCES",
            ThreadAlgorithm::Refs => "REFS",
        }
    }
}

/// Which of the results are wanted (RFC 9394 §3.1): from the first on, or from the last on backwards. Both bounds count, and
/// either may be the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialRange {
    pub bounds: (u32, u32),
    pub from_end: bool,
}

impl PartialRange {
    /// The places of the results that it names, of so many, counted from 0.
    pub fn of(self, results: u64) -> std::ops::Range<u64> {
        let (first, last) = (self.bounds.0.min(self.bounds.1), self.bounds.0.max(self.bounds.1));
        let (before, to) = (u64::from(first).saturating_sub(1).min(results), u64::from(last).min(results));
        if self.from_end { results - to..results - before } else { before..to }
    }
}

/// The wire form, as it was asked: `1:500`, `-1:-100`.
impl std::fmt::Display for PartialRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.from_end { "-" } else { "" };
        write!(f, "{sign}{}:{sign}{}", self.bounds.0, self.bounds.1)
    }
}

/// A search key. Strings are UTF-8: the command's CHARSET has been decoded at the edge.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchKey {
    All,
    /// All of them; empty means ALL.
    And(Vec<SearchKey>),
    Or(Box<SearchKey>, Box<SearchKey>),
    Not(Box<SearchKey>),
    /// Message sequence numbers.
    Sequence(SequenceSet),
    Uid(SequenceSet),
    /// `$`: the result saved by SEARCH RETURN (SAVE) (RFC 5182).
    Saved,
    Flag(SystemFlag),
    Keyword(Keyword),
    Recent,
    /// `NEW`: RECENT UNSEEN. `OLD`: NOT RECENT.
    New,
    Old,
    Before(Date),
    On(Date),
    Since(Date),
    SentBefore(Date),
    SentOn(Date),
    SentSince(Date),
    /// RFC 5032 §2: INTERNALDATE at least, at most so many seconds ago; not 0.
    Older(u32),
    Younger(u32),
    /// RFC 8514 §4.3: of the date when the message came into the mailbox.
    SavedBefore(Date),
    SavedOn(Date),
    SavedSince(Date),
    /// All messages, where the mailbox keeps save dates.
    SaveDateSupported,
    /// RFC 8474 §6: an object id as the client sent it.
    EmailId(String),
    ThreadId(String),
    /// RFC822.SIZE greater than, less than.
    Larger(u64),
    Smaller(u64),
    /// FROM, TO, CC, BCC, SUBJECT and HEADER alike. An empty value asks only that the field exists.
    Header {
        field: String,
        value: String,
    },
    Body(String),
    Text(String),
    /// RFC 7162 §3.1.5: MODSEQ at least this.
    ModSeq(ModSeq),
}

#[cfg(test)]
mod tests {
    use super::PartialRange;

    #[test]
    fn partial_ranges_name_what_is_there() {
        let of =
            |first, last, from_end, results| PartialRange { bounds: (first, last), from_end }.of(results);
        assert_eq!(of(1, 500, false, 264), 0..264);
        assert_eq!(of(500, 1, false, 1000), 0..500);
        assert_eq!(of(23_500, 24_000, false, 23_764), 23_499..23_764);
        assert!(of(24_000, 24_500, false, 23_764).is_empty());
        assert_eq!(of(1, 100, true, 23_764), 23_664..23_764);
        assert_eq!(of(3, 2, true, 4), 1..3);
        assert!(of(5, 9, true, 4).is_empty());
        assert!(of(1, u32::MAX, true, 0).is_empty());
    }
}
