//! Search keys (RFC 3501 §6.4.4, RFC 7162 §3.1.5, RFC 5182): what a SEARCH asks, free of syntax.

use crate::{Date, Keyword, ModSeq, SequenceSet, SystemFlag};

/// Deepest nesting of NOT, OR and parentheses.
pub const SEARCH_DEPTH_MAX: usize = 32;
/// Most keys in one SEARCH.
pub const SEARCH_KEYS_MAX: usize = 1000;

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
