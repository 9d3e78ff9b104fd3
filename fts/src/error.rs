//! What can go wrong: a segment that is not what it says. Its documents are indexed anew; the other segments stand.

/// A segment that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("not a segment of a full text index")]
    Magic,
    #[error("written by a newer version: format {found}, this one reads up to {known}")]
    Version { found: u16, known: u16 },
    /// Its terms were cut or folded otherwise than a key is now.
    #[error("tokens of version {found}, not {known}: to be indexed anew")]
    Tokenizer { found: u16, known: u16 },
    #[error("cut short: {held} octets, {wanted} wanted")]
    Truncated { held: u64, wanted: u64 },
    #[error("checksum of {section} does not match")]
    Checksum { section: &'static str },
    #[error("section {0} is missing, unknown or out of place")]
    Section(u32),
    #[error("{what} at entry {at}")]
    Content { what: &'static str, at: u64 },
}
