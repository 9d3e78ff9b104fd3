//! What can go wrong: a block that is not what it says (rebuild it), and a change that a limit refuses (tell the client).

/// A stored block that cannot be used: fetch it again or rebuild it from the packs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("not a mailbox index block")]
    Magic,
    #[error("written by a newer version: format {found}, this one reads up to {known}")]
    Version { found: u16, known: u16 },
    #[error("cut short: {held} octets, {wanted} wanted")]
    Truncated { held: u64, wanted: u64 },
    #[error("checksum of {section} does not match")]
    Checksum { section: &'static str },
    #[error("section {0} is missing, unknown or out of place")]
    Section(u32),
    #[error("{what} at entry {at}")]
    Content { what: &'static str, at: u64 },
    #[error("{what}: the block says {said}, its rows give {found}")]
    Count { what: &'static str, said: u64, found: u64 },
    #[error("a block of another mailbox, or of another kind")]
    Foreign,
    #[error("a delta after serial {after} does not follow serial {held}")]
    Chain { after: u64, held: u64 },
}

/// A change that was refused before anything changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The client's: `NO [LIMIT]`.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// The caller's: UIDs ascend.
    #[error("UID {uid} lies below UIDNEXT {uid_next}")]
    UidTaken { uid: u32, uid_next: u32 },
}

/// What a mailbox has no room for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    #[error("the mailbox holds {held} keywords of at most {max}")]
    Keywords { held: u32, max: u32 },
    #[error("the mailbox has given out every UID")]
    Uids,
    #[error("{field} has {octets} octets, more than a row can hold")]
    FieldOctets { field: &'static str, octets: usize },
}
