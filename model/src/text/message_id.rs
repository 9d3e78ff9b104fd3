//! Message IDs, as THREAD compares them: found in a header field and brought into one form.
//!
//! # Limits
//! A longer one than [`MESSAGE_ID_OCTETS_MAX`] is none.
//!
//! # RFC
//! RFC 5256 §3 (REFERENCES: normalised), RFC 5322 §3.6.4.

use crate::mime::headers::field;
use std::hash::Hasher;

/// Longest message ID, in octets with its brackets.
pub const MESSAGE_ID_OCTETS_MAX: usize = 1000;
/// Of more references of one message the nearest are taken, those at the end.
pub const REFERENCES_MAX: usize = 128;

/// What a header says of where its message stands in a thread. Message IDs are told by their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    pub message_id: Option<u64>,
    /// The oldest ancestor first, the parent last.
    pub references: Vec<u64>,
}

impl Links {
    /// Of a header block, which may be a stored one that [`covers`](crate::mime::covers) the three fields.
    // RFC 5256 §3: References, and where it holds no message ID the first one of In-Reply-To.
    pub fn of(header: &[u8]) -> Links {
        let value = |name| field(header, name).map_or(&b""[..], |field| field.value);
        let mut references: Vec<u64> = message_ids(value("References")).collect();
        if references.is_empty() {
            references.extend(message_ids(value("In-Reply-To")).next());
        }
        references.drain(..references.len().saturating_sub(REFERENCES_MAX));
        Links { message_id: message_ids(value("Message-ID")).next(), references }
    }
}

/// The hashes of the message IDs in a field's value. What is none is passed over.
pub fn message_ids(value: &[u8]) -> impl Iterator<Item = u64> {
    let mut rest = value;
    std::iter::from_fn(move || {
        loop {
            let open = memchr::memchr(b'<', rest)?;
            rest = &rest[open + 1..];
            if let Some((hash, end)) = message_id(&rest[..rest.len().min(MESSAGE_ID_OCTETS_MAX)]) {
                rest = &rest[end..];
                return Some(hash);
            }
        }
    })
}

/// One message ID after its opening bracket: its hash, and where it ends.
fn message_id(text: &[u8]) -> Option<(u64, usize)> {
    // SipHash with a fixed key: the same in every run.
    let mut hasher = std::hash::DefaultHasher::new();
    let (mut left, mut right, mut at_sign) = (0usize, 0usize, false);
    let mut octets = text.iter().copied().enumerate();
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'>' if at_sign && left > 0 && right > 0 => return Some((hasher.finish(), at + 1)),
            b'>' | b'<' => return None,
            // Folding, and spaces that senders put in.
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // RFC 5256 §3: <"a"@b> and <a@b> are the same.
            b'"' if !at_sign => loop {
                match octets.next()?.1 {
                    b'"' => break,
                    b'\\' => hasher.write_u8(octets.next()?.1),
                    octet => hasher.write_u8(octet),
                }
                left += 1;
            },
            b'@' if !at_sign => {
                at_sign = true;
                hasher.write_u8(octet);
            }
            octet => {
                *(if at_sign { &mut right } else { &mut left }) += 1;
                hasher.write_u8(octet);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_and_folding_make_no_difference() {
        let ids = |text: &str| message_ids(text.as_bytes()).collect::<Vec<_>>();
        let plain = ids("<01KF8JCEOCBS0045PS@xxx.yyy.com>");
        assert_eq!(plain.len(), 1);
        assert_eq!(ids("<\"01KF8JCEOCBS0045PS\"@xxx.yyy.com>"), plain);
        assert_eq!(ids("<01KF8JCEOCBS\r\n 0045PS@xxx.yyy.com>"), plain);
        assert_eq!(ids("(a comment) <x> <@b> <a@> <01KF8JCEOCBS0045PS@xxx.yyy.com>"), plain);
        assert_ne!(ids("<01kf8jceocbs0045ps@xxx.yyy.com>"), plain);
        assert_eq!(ids("<a@b><c@d>, <e@[1.2.3.4]>").len(), 3);
        assert_eq!(ids("<a <b@c>"), ids("<b@c>"));
        assert_eq!(ids("nothing \"<\" here"), []);
        assert_eq!(ids(&"<\"".repeat(100_000)), []);
    }

    #[test]
    fn references_come_before_in_reply_to() {
        let one = |id: &str| message_ids(id.as_bytes()).next().unwrap();
        let links =
            Links::of(b"Message-Id: <m@x>\r\nReferences: <a@x>\r\n <b@x>\r\nIn-Reply-To: <c@x>\r\n\r\n");
        assert_eq!(links.message_id, Some(one("<m@x>")));
        assert_eq!(links.references, [one("<a@x>"), one("<b@x>")]);
        let links = Links::of(b"References: none\r\nIn-Reply-To: yours of <c@x> and <d@x>\r\n\r\n");
        assert_eq!(links, Links { message_id: None, references: vec![one("<c@x>")] });
        let many: String = (0..200).map(|n| format!("<{n}@x> ")).collect();
        let links = Links::of(format!("References: {many}\r\n\r\n").as_bytes());
        assert_eq!((links.references.len(), links.references[127]), (REFERENCES_MAX, one("<199@x>")));
    }
}
