//! QUOTA and QUOTAROOT responses (RFC 9208 §4.2).

use super::{line, mailbox, number, string};
use culver_model::MailboxName;

/// A resource, its usage and its limit.
pub type Resource<'a> = (&'a str, u64, u64);

/// Resources that are not among them are not limited.
pub fn quota(out: &mut Vec<u8>, root: &str, resources: &[Resource<'_>]) {
    out.extend_from_slice(b"* QUOTA ");
    string(out, root.as_bytes());
    out.extend_from_slice(b" (");
    for (at, (resource, usage, limit)) in resources.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(resource.as_bytes());
        out.push(b' ');
        number(out, *usage);
        out.push(b' ');
        number(out, *limit);
    }
    line(out, ")");
}

pub fn quota_root(out: &mut Vec<u8>, name: &MailboxName, roots: &[&str], utf8: bool) {
    out.extend_from_slice(b"* QUOTAROOT ");
    mailbox(out, name, utf8);
    for root in roots {
        out.push(b' ');
        string(out, root.as_bytes());
    }
    line(out, "");
}
