//! Header fields kept beside the message, because clients ask for them with HEADER.FIELDS for whole mailboxes.

use super::Message;
use super::headers::filter_header;

/// Lower case, sorted. A stored block holds all of these fields that the message has.
pub const CHOSEN_HEADERS: [&str; 40] = [
    "auto-submitted",
    "autocrypt",
    "bcc",
    "cc",
    "content-class",
    "content-language",
    "content-transfer-encoding",
    "content-type",
    "date",
    "delivered-to",
    "disposition-notification-to",
    "envelope-to",
    "errors-to",
    "followup-to",
    "from",
    "importance",
    "in-reply-to",
    "list-id",
    "list-post",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "mail-followup-to",
    "message-id",
    "mime-version",
    "newsgroups",
    "organization",
    "precedence",
    "priority",
    "references",
    "reply-to",
    "return-path",
    "sender",
    "subject",
    "to",
    "user-agent",
    "x-mailer",
    "x-mozilla-status",
    "x-priority",
    "x-spam-flag",
    "x-uid",
];

/// Largest block that is kept, in octets; for a message with more, HEADER.FIELDS reads the message.
pub const CHOSEN_OCTETS_MAX: usize = 16 * 1024;

/// Whether a stored block answers HEADER.FIELDS with these names.
pub fn covers<S: AsRef<str>>(names: &[S]) -> bool {
    names
        .iter()
        .all(|name| CHOSEN_HEADERS.binary_search(&name.as_ref().to_ascii_lowercase().as_str()).is_ok())
}

impl Message {
    /// The chosen fields as raw lines, then the empty line where the header has one: a header block for
    /// [`filter_header`]. `None` where the scanner did not keep the whole header, or the block would be larger than
    /// [`CHOSEN_OCTETS_MAX`].
    pub fn chosen_headers(&self) -> Option<Vec<u8>> {
        let block = self.header_whole.then(|| filter_header(&self.header, &CHOSEN_HEADERS, false))?;
        (block.len() <= CHOSEN_OCTETS_MAX).then_some(block)
    }
}
