//! METADATA responses (RFC 5464 §4.4).

use super::{astring, line, mailbox, nstring, string};
use culver_model::{EntryName, MailboxName};

fn begin(out: &mut Vec<u8>, of: Option<&MailboxName>, utf8: bool) {
    out.extend_from_slice(b"* METADATA ");
    match of {
        Some(name) => mailbox(out, name, utf8),
        None => string(out, b""),
    }
    out.push(b' ');
}

/// Entries with their values, of a mailbox or (`None`) of the server. Nothing where there are none, which no grammar allows.
pub fn metadata<'a>(
    out: &mut Vec<u8>,
    of: Option<&MailboxName>,
    entries: impl IntoIterator<Item = (&'a EntryName, Option<&'a [u8]>)>,
    utf8: bool,
) {
    let mut any = false;
    for (name, value) in entries {
        if any {
            out.push(b' ');
        } else {
            begin(out, of, utf8);
            out.push(b'(');
        }
        any = true;
        astring(out, name.as_str().as_bytes());
        out.push(b' ');
        nstring(out, value);
    }
    if any {
        line(out, ")");
    }
}

/// Entries that changed. RFC 5464 §4.4.2: without their values.
pub fn metadata_changed<'a>(
    out: &mut Vec<u8>,
    of: Option<&MailboxName>,
    names: impl IntoIterator<Item = &'a EntryName>,
    utf8: bool,
) {
    let mut any = false;
    for name in names {
        if any {
            out.push(b' ');
        } else {
            begin(out, of, utf8);
        }
        any = true;
        astring(out, name.as_str().as_bytes());
    }
    if any {
        line(out, "");
    }
}
