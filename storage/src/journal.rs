//! The journal of a shard: its format, reading it, and group commit.

pub(crate) mod commit;
pub(crate) mod format;
pub(crate) mod scan;
pub(crate) mod shorten;

#[cfg(test)]
mod tests;
