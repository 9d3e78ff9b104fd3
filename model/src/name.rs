//! Mailbox names: NFC UTF-8 with `/` between levels, and modified UTF-7 on the wire.

/// A mailbox name in its stored form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxName(Box<str>);
