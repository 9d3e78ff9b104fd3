//! Search keys (RFC 3501 §6.4.4, RFC 5032, RFC 5182, RFC 7162 §3.1.5, RFC 8514 §4.3): what a SEARCH asks, free of syntax.

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
    /// RFC 5032 §2: INTERNALDATE at least, at most so many seconds ago; not 0.
    Older(u32),
    Younger(u32),
    /// RFC 8514 §4.3: of the date when the message came into the mailbox.
    SavedBefore(Date),
    SavedOn(Date),
    SavedSince(Date),
    /// All messages, where the mailbox keeps save dates.
    SaveDateSupported,
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
