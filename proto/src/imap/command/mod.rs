//! Commands: what a client asks, free of syntax, borrowed from the receive buffer where that saves a copy.
//!
//! # Limits
//! The `*_MAX` constants here, and those of `model` (sets, search keys, names, keywords).

pub(super) mod append;
mod fetch;
mod filter;
mod list;
mod metadata;
pub(super) mod notify;
mod parse;
mod quota;
mod search;
mod select;

use std::borrow::Cow;
use std::fmt;

use culver_model::annotation::Depth;
use culver_model::mime::Section;
use culver_model::name::{ListPattern, NameError};
use culver_model::search::{PartialRange, SearchKey, SortCriterion, ThreadAlgorithm};
use culver_model::{EntryName, FlagSet, InternalDate, MailboxName, ModSeq, SequenceSet, UidValidity};

use super::state::Stage;
use crate::sasl::Secret;

pub use append::{AppendLiteral, AppendPiece, AppendStep, Replaced};
pub(super) use fetch::section;
pub use filter::MailboxFilter;
pub use notify::{EventGroup, Events, Notify};
pub(super) use parse::{Head, head, request, saves};
pub(super) use search::partial_range;

/// Most keywords named by one STORE or APPEND.
pub const KEYWORDS_MAX: usize = 256;
/// Most `BODY[...]` items of one FETCH.
pub const BODY_ITEMS_MAX: usize = 1000;
/// Most attributes of one USE (RFC 6154 §3).
pub const USES_MAX: usize = 16;
/// Most mailbox filters of one command, and most names of one filter.
pub const FILTERS_MAX: usize = 64;
pub const FILTER_NAMES_MAX: usize = 1000;
/// Most ranges of one LANGUAGE.
pub const LANGUAGES_MAX: usize = 100;
/// Most tags of one CANCELUPDATE.
pub const TAGS_MAX: usize = 100;
/// Most patterns of one LIST.
pub const PATTERNS_MAX: usize = 64;
/// Most resources of one SETQUOTA.
pub const QUOTA_RESOURCES_MAX: usize = 16;
/// Most entries named by one GETMETADATA, SETMETADATA or LIST.
pub const METADATA_ENTRIES_MAX: usize = 1000;
/// RFC 2971 §3.3: most pairs of an ID, and the longest field and value in octets.
pub const ID_PAIRS_MAX: usize = 30;
pub const ID_FIELD_OCTETS_MAX: usize = 30;
pub const ID_VALUE_OCTETS_MAX: usize = 1024;

/// A command with its tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    pub tag: &'a str,
    pub command: Command<'a>,
}

/// A field of ID and its value, which may be NIL (RFC 2971 §4).
pub type IdPair<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// Octets that no log shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hidden<'a>(pub &'a [u8]);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// The commands of RFC 3501 §6 and of the extensions named in [`super`]. APPEND and REPLACE are not here: their messages are streamed,
/// see [`super::Event::Append`].
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    Capability,
    Noop,
    Logout,
    StartTls,
    /// `initial` is base64, or `=` for an empty response (RFC 4959 §3).
    Authenticate {
        mechanism: &'a str,
        initial: Option<Hidden<'a>>,
    },
    /// The user name as sent, in no particular charset.
    Login {
        user: Cow<'a, [u8]>,
        password: Secret,
    },
    Enable(Enable),
    Select(Select),
    /// `special_use`: the attributes of USE (RFC 6154 §3), with their backslash.
    Create {
        mailbox: MailboxName,
        special_use: Vec<String>,
    },
    Delete(MailboxName),
    Rename {
        from: MailboxName,
        to: MailboxName,
    },
    Subscribe(MailboxName),
    Unsubscribe(MailboxName),
    List(List<'a>),
    /// The pattern is never one of the extended forms.
    Lsub {
        reference: Cow<'a, [u8]>,
        pattern: Cow<'a, [u8]>,
        utf8: bool,
    },
    Namespace,
    Status {
        mailbox: MailboxName,
        items: StatusItems,
    },
    /// A quota root, as sent (RFC 9208 §4.1).
    GetQuota(Cow<'a, [u8]>),
    GetQuotaRoot(MailboxName),
    /// Resources and their limits; each once.
    SetQuota {
        root: Cow<'a, [u8]>,
        limits: Vec<(&'a str, u64)>,
    },
    GetMetadata(GetMetadata),
    SetMetadata(SetMetadata<'a>),
    Idle,
    /// Language ranges, the first that is known counts; empty: which there are (RFC 5255 §3.2).
    Language(Vec<String>),
    /// Tags of searches whose updates are to end (RFC 5267 §4.3.5); at least one.
    CancelUpdate(Vec<String>),
    /// `None`: NONE (RFC 5465).
    Notify(Option<Notify>),
    /// `deflate`: the algorithm is DEFLATE, the only one there is (RFC 4978).
    Compress {
        deflate: bool,
    },
    /// RFC 8437: as before the login, but for TLS.
    Unauthenticate,
    /// `None`: NIL.
    Id(Option<Vec<IdPair<'a>>>),
    Check,
    Close,
    Unselect,
    Expunge,
    /// UID EXPUNGE (RFC 4315 §2.1).
    UidExpunge(MessageSet),
    Search(Search),
    Esearch(Esearch),
    Sort(Sort),
    Thread(Thread),
    Fetch(Fetch),
    Store(Store),
    Copy {
        uid: bool,
        set: MessageSet,
        mailbox: MailboxName,
    },
    Move {
        uid: bool,
        set: MessageSet,
        mailbox: MailboxName,
    },
}

impl Command<'_> {
    /// The earliest stage in which it may be given. Those of [`Stage::NotAuthenticated`] that are not valid later:
    /// [`Self::only_before_login`].
    pub fn needs(&self) -> Stage {
        match self {
            Command::Capability | Command::Noop | Command::Logout | Command::Id(_) | Command::Language(_) => {
                Stage::NotAuthenticated
            }
            Command::StartTls | Command::Authenticate { .. } | Command::Login { .. } => {
                Stage::NotAuthenticated
            }
            Command::Check | Command::Close | Command::Unselect | Command::Expunge => Stage::Selected,
            Command::UidExpunge(_) | Command::Search(_) | Command::Fetch(_) => Stage::Selected,
            Command::Sort(_) | Command::Thread(_) => Stage::Selected,
            Command::Esearch(esearch) if esearch.of_selected() => Stage::Selected,
            Command::Store(_) | Command::Copy { .. } | Command::Move { .. } => Stage::Selected,
            Command::CancelUpdate(_) => Stage::Selected,
            _ => Stage::Authenticated,
        }
    }

    /// Whether it says or is answered with message sequence numbers, which UIDONLY has none of (RFC 9586 §3).
    pub fn needs_sequence_numbers(&self) -> bool {
        match self {
            Command::Search(Search { uid, key, .. })
            | Command::Sort(Sort { uid, key, .. })
            | Command::Thread(Thread { uid, key, .. }) => !*uid || mentions_sequence(key),
            Command::Esearch(Esearch { search, .. }) => mentions_sequence(&search.key),
            Command::Select(select) => {
                select.qresync.as_ref().is_some_and(|qresync| qresync.seq_match.is_some())
            }
            Command::Fetch(Fetch { uid, .. }) | Command::Store(Store { uid, .. }) => !*uid,
            Command::Copy { uid, .. } | Command::Move { uid, .. } => !*uid,
            _ => false,
        }
    }

    /// Whether it is one of the UID commands (RFC 3501 §6.4.8).
    pub fn is_uid(&self) -> bool {
        match self {
            Command::UidExpunge(_) => true,
            Command::Search(search) => search.uid,
            Command::Esearch(_) => true,
            Command::Sort(sort) => sort.uid,
            Command::Thread(thread) => thread.uid,
            Command::Fetch(fetch) => fetch.uid,
            Command::Store(store) => store.uid,
            Command::Copy { uid, .. } | Command::Move { uid, .. } => *uid,
            _ => false,
        }
    }

    pub fn only_before_login(&self) -> bool {
        matches!(self, Command::StartTls | Command::Authenticate { .. } | Command::Login { .. })
    }

    /// Whether it is a CONDSTORE enabling command (RFC 7162 §3.1).
    pub fn enables_condstore(&self) -> bool {
        match self {
            Command::Select(select) => select.condstore || select.qresync.is_some(),
            Command::Status { items, .. } => items.highest_modseq,
            Command::List(list) => list.returns.status.is_some_and(|items| items.highest_modseq),
            Command::Fetch(fetch) => fetch.items.modseq || fetch.changed_since.is_some(),
            Command::Store(store) => store.unchanged_since.is_some(),
            Command::Search(Search { key, .. })
            | Command::Esearch(Esearch { search: Search { key, .. }, .. })
            | Command::Sort(Sort { key, .. })
            | Command::Thread(Thread { key, .. }) => mentions_modseq(key),
            Command::Enable(enable) => enable.condstore || enable.qresync,
            _ => false,
        }
    }

    /// The command's name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Capability => "CAPABILITY",
            Command::Noop => "NOOP",
            Command::Logout => "LOGOUT",
            Command::StartTls => "STARTTLS",
            Command::Authenticate { .. } => "AUTHENTICATE",
            Command::Login { .. } => "LOGIN",
            Command::Enable(_) => "ENABLE",
            Command::Select(select) if select.read_only => "EXAMINE",
            Command::Select(_) => "SELECT",
            Command::Create { .. } => "CREATE",
            Command::Delete(_) => "DELETE",
            Command::Rename { .. } => "RENAME",
            Command::Subscribe(_) => "SUBSCRIBE",
            Command::Unsubscribe(_) => "UNSUBSCRIBE",
            Command::List(_) => "LIST",
            Command::Lsub { .. } => "LSUB",
            Command::Namespace => "NAMESPACE",
            Command::Status { .. } => "STATUS",
            Command::GetQuota(_) => "GETQUOTA",
            Command::GetQuotaRoot(_) => "GETQUOTAROOT",
            Command::SetQuota { .. } => "SETQUOTA",
            Command::GetMetadata(_) => "GETMETADATA",
            Command::SetMetadata(_) => "SETMETADATA",
            Command::Idle => "IDLE",
            Command::Language(_) => "LANGUAGE",
            Command::CancelUpdate(_) => "CANCELUPDATE",
            Command::Notify(_) => "NOTIFY",
            Command::Compress { .. } => "COMPRESS",
            Command::Unauthenticate => "UNAUTHENTICATE",
            Command::Id(_) => "ID",
            Command::Check => "CHECK",
            Command::Close => "CLOSE",
            Command::Unselect => "UNSELECT",
            Command::Expunge => "EXPUNGE",
            Command::UidExpunge(_) => "UID EXPUNGE",
            Command::Search(search) if search.uid => "UID SEARCH",
            Command::Search(_) => "SEARCH",
            Command::Esearch(_) => "ESEARCH",
            Command::Sort(sort) if sort.uid => "UID SORT",
            Command::Sort(_) => "SORT",
            Command::Thread(thread) if thread.uid => "UID THREAD",
            Command::Thread(_) => "THREAD",
            Command::Fetch(fetch) if fetch.uid => "UID FETCH",
            Command::Fetch(_) => "FETCH",
            Command::Store(store) if store.uid => "UID STORE",
            Command::Store(_) => "STORE",
            Command::Copy { uid: true, .. } => "UID COPY",
            Command::Copy { .. } => "COPY",
            Command::Move { uid: true, .. } => "UID MOVE",
            Command::Move { .. } => "MOVE",
        }
    }
}

/// Which messages: sequence numbers or UIDs as the command says, or the saved result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageSet {
    Set(SequenceSet),
    /// `$` (RFC 5182). Names the same messages in either form of the command.
    Saved,
}

/// What ENABLE names and this server knows; the rest is ignored (RFC 5161 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enable {
    pub condstore: bool,
    pub qresync: bool,
    pub metadata: bool,
    pub rev2: bool,
    pub utf8_accept: bool,
    pub uid_only: bool,
}

/// SELECT and EXAMINE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// An impossible name still deselects the mailbox selected before (RFC 3501 §6.3.1), so it gets this far.
    pub mailbox: Result<MailboxName, NameError>,
    pub read_only: bool,
    pub condstore: bool,
    pub qresync: Option<Qresync>,
}

/// The QRESYNC parameter of SELECT (RFC 7162 §3.2.5). No set holds `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qresync {
    pub uid_validity: UidValidity,
    pub modseq: ModSeq,
    pub known_uids: Option<SequenceSet>,
    /// Sequence numbers and the UIDs that they had.
    pub seq_match: Option<(SequenceSet, SequenceSet)>,
}

/// LIST with its extended forms (RFC 5258, 5819, 6154, 9590).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<'a> {
    pub reference: Cow<'a, [u8]>,
    /// At least one.
    pub patterns: Vec<Cow<'a, [u8]>>,
    pub select: ListSelect,
    pub returns: ListReturn,
    /// RETURN (METADATA …), RFC 9590: may be empty.
    pub metadata: Vec<EntryName>,
    /// One of the extended forms was used: an empty pattern then has no special meaning (RFC 5258 §3).
    pub extended: bool,
    /// Reference and patterns are UTF-8, else modified UTF-7.
    pub utf8: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListSelect {
    pub subscribed: bool,
    pub remote: bool,
    pub recursive_match: bool,
    pub special_use: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListReturn {
    /// Set by the selection option of the same name too (RFC 5258 §3.1).
    pub subscribed: bool,
    pub children: bool,
    /// Set by the selection option of the same name too (RFC 6154 §3).
    pub special_use: bool,
    pub status: Option<StatusItems>,
}

impl List<'_> {
    /// The patterns with the reference before each. A pattern that can match nothing is left out.
    pub fn compile(&self) -> Vec<ListPattern> {
        // RFC 5258 §3: a pattern that is not accepted is silently ignored, and so is an empty one.
        let patterns = self.patterns.iter().filter(|pattern| !pattern.is_empty());
        let compile = if self.utf8 { ListPattern::from_utf8 } else { ListPattern::from_wire };
        patterns.filter_map(|pattern| compile(&self.reference, pattern).ok()).collect()
    }

    /// `LIST "" ""`: asks only for the separator and the root of the reference (RFC 3501 §6.3.8).
    pub fn asks_separator(&self) -> bool {
        !self.extended && self.patterns.iter().all(|pattern| pattern.is_empty())
    }
}

/// GETMETADATA (RFC 5464 §4.2). `mailbox`: `None` is the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetMetadata {
    pub mailbox: Option<MailboxName>,
    /// Longer values are left out.
    pub max_size: Option<u64>,
    pub depth: Depth,
    /// At least one.
    pub entries: Vec<EntryName>,
}

/// SETMETADATA (RFC 5464 §4.3). `mailbox`: `None` is the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMetadata<'a> {
    pub mailbox: Option<MailboxName>,
    /// At least one; each can have a value. `None`: NIL, it is removed.
    pub entries: Vec<(EntryName, Option<Cow<'a, [u8]>>)>,
}

/// What STATUS asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusItems {
    pub messages: bool,
    pub recent: bool,
    pub uid_next: bool,
    pub uid_validity: bool,
    pub unseen: bool,
    pub size: bool,
    pub highest_modseq: bool,
    pub append_limit: bool,
    pub mailbox_id: bool,
    /// RFC 9208 §4.1.4.
    pub deleted: bool,
    pub deleted_storage: bool,
}

/// SEARCH and UID SEARCH. Strings in the key are UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub uid: bool,
    /// `None`: answered with `* SEARCH`, or where IMAP4rev2 is enabled as RETURN (ALL); else with `* ESEARCH`.
    pub returns: Option<SearchReturn>,
    /// What is told of messages that come into the result later, with UPDATE.
    pub update_items: Option<Box<FetchItems>>,
    /// CHARSET was given.
    pub charset: bool,
    pub key: SearchKey,
}

/// ESEARCH (RFC 7377 §2), which is answered by UID, mailbox by mailbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Esearch {
    /// Empty: the selected mailbox.
    pub sources: Vec<MailboxFilter>,
    pub search: Search,
}

impl Esearch {
    pub fn of_selected(&self) -> bool {
        self.sources.is_empty() || self.sources.contains(&MailboxFilter::Selected)
    }
}

/// SORT and UID SORT (RFC 5256 §3), with the return options of RFC 5267 §3.
#[derive(Clone, Debug, PartialEq)]
pub struct Sort {
    pub uid: bool,
    /// `None`: answered with `* SORT`; else with `* ESEARCH`.
    pub returns: Option<SearchReturn>,
    /// As in [`Search`].
    pub update_items: Option<Box<FetchItems>>,
    /// At least one.
    pub criteria: Vec<SortCriterion>,
    pub key: SearchKey,
}

/// THREAD and UID THREAD (RFC 5256 §3).
#[derive(Clone, Debug, PartialEq)]
pub struct Thread {
    pub uid: bool,
    pub algorithm: ThreadAlgorithm,
    pub key: SearchKey,
}

/// RFC 4731 §3.1, RFC 5182 §2.1, RFC 9394 §3.1. `RETURN ()` is `RETURN (ALL)`; with SAVE alone nothing is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchReturn {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    pub save: bool,
    /// RFC 5267 §4.2: the same may be searched for again.
    pub context: bool,
    /// RFC 5267 §4.3: what comes into the result and leaves it is told.
    pub update: bool,
    /// Never beside `all`.
    pub partial: Option<PartialRange>,
}

impl SearchReturn {
    /// Whether an answer is asked for: SAVE alone has none.
    pub fn answers(&self) -> bool {
        self.min || self.max || self.all || self.count || self.partial.is_some()
    }
}

/// Whether it names messages by their sequence numbers.
fn mentions_sequence(key: &SearchKey) -> bool {
    match key {
        SearchKey::Sequence(_) => true,
        SearchKey::And(keys) => keys.iter().any(mentions_sequence),
        SearchKey::Or(left, right) => mentions_sequence(left) || mentions_sequence(right),
        SearchKey::Not(key) => mentions_sequence(key),
        _ => false,
    }
}

/// RFC 7162 §3.1.5: the answer of SEARCH or SORT then carries a MODSEQ.
pub fn mentions_modseq(key: &SearchKey) -> bool {
    match key {
        SearchKey::ModSeq(_) => true,
        SearchKey::And(keys) => keys.iter().any(mentions_modseq),
        SearchKey::Or(left, right) => mentions_modseq(left) || mentions_modseq(right),
        SearchKey::Not(key) => mentions_modseq(key),
        _ => false,
    }
}

/// FETCH and UID FETCH. A macro has become its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub uid: bool,
    pub set: MessageSet,
    pub items: FetchItems,
    pub changed_since: Option<ModSeq>,
    /// Only with `uid` and `changed_since` (RFC 7162 §3.2.6).
    pub vanished: bool,
    /// Only with `uid` (RFC 9394 §3.3).
    pub partial: Option<PartialRange>,
}

/// What FETCH asks. `uid` is set by UID FETCH, `modseq` by CHANGEDSINCE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchItems {
    pub uid: bool,
    pub flags: bool,
    pub modseq: bool,
    pub internal_date: bool,
    /// RFC 8514 §4.2.
    pub save_date: bool,
    pub email_id: bool,
    pub thread_id: bool,
    pub size: bool,
    pub envelope: bool,
    /// `BODY` without a section: BODYSTRUCTURE without extension data.
    pub body: bool,
    pub body_structure: bool,
    /// As `BODY[]`, `BODY.PEEK[HEADER]` and `BODY[TEXT]`, under their own names.
    pub rfc822: bool,
    pub rfc822_header: bool,
    pub rfc822_text: bool,
    pub sections: Vec<FetchSection>,
    /// RFC 3516 §4.2.
    pub binaries: Vec<FetchBinary>,
    pub preview: Option<Preview>,
}

impl FetchItems {
    /// Whether fetching sets \Seen (RFC 3501 §6.4.5).
    pub fn sets_seen(&self) -> bool {
        self.rfc822
            || self.rfc822_text
            || self.sections.iter().any(|section| !section.peek)
            || self.binaries.iter().any(|binary| !binary.peek && !binary.size)
    }

    /// Whether message octets are needed.
    pub fn needs_octets(&self) -> bool {
        self.rfc822
            || self.rfc822_header
            || self.rfc822_text
            || !self.sections.is_empty()
            || !self.binaries.is_empty()
            || self.preview.is_some()
    }
}

/// `BODY[section]<origin.octets>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSection {
    pub section: Section,
    pub peek: bool,
    /// First octet and most octets, the latter not 0.
    pub partial: Option<(u32, u32)>,
}

/// `BINARY[part]<origin.octets>` and `BINARY.SIZE[part]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchBinary {
    /// Empty: the whole message.
    pub part: Vec<u32>,
    /// Only how many octets there are.
    pub size: bool,
    pub peek: bool,
    /// As in [`FetchSection`], of the decoded octets.
    pub partial: Option<(u32, u32)>,
}

/// PREVIEW (RFC 8970 §3.1, §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preview {
    Now,
    /// NIL where it would take long.
    Lazy,
}

/// STORE and UID STORE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub uid: bool,
    pub set: MessageSet,
    pub operation: StoreOperation,
    pub silent: bool,
    pub flags: FlagSet,
    /// 0 fails for every message (RFC 7162 §3.1.3).
    pub unchanged_since: Option<ModSeq>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    Replace,
    Add,
    Remove,
}
