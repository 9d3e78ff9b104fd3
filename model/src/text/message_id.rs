//! Message IDs, as THREAD compares them: found in a header field and brought into one form.
//!
//! # Limits
//! A longer one than [`MESSAGE_ID_OCTETS_MAX`] is none. Of the references of one message the first and the last
//! [`LAST_REFERENCES_MAX`] count, and of a long field those in its first and its last [`REFERENCES_OCTETS_MAX`] octets.
//!
//! # Cost
//! Each octet of a field is looked at twice at most beside the search for `<`, whatever is in it.
//!
//! # RFC
//! RFC 5256 §3 (REFERENCES: normalised), RFC 5322 §3.6.4.

use crate::mime::headers::field;
use std::hash::Hasher;

/// Longest message ID, in octets with its brackets.
pub const MESSAGE_ID_OCTETS_MAX: usize = 1000;
/// Of more references of one message the first is taken, which began the thread, and the nearest, those at the end.
pub const LAST_REFERENCES_MAX: usize = 32;
/// So much is searched for references at either end of a field.
const REFERENCES_OCTETS_MAX: usize = 2 * LAST_REFERENCES_MAX * MESSAGE_ID_OCTETS_MAX;

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
        let mut references = references(value("References"));
        if references.is_empty() {
            references.extend(message_ids(value("In-Reply-To")).next());
        }
        Links { message_id: message_ids(value("Message-ID")).next(), references }
    }
}

fn references(value: &[u8]) -> Vec<u64> {
    let (head, tail) = match value.len().checked_sub(REFERENCES_OCTETS_MAX) {
        Some(cut) if cut > 0 => (message_ids(&value[..REFERENCES_OCTETS_MAX]).next(), &value[cut..]),
        _ => (None, value),
    };
    let mut references: Vec<u64> = head.into_iter().chain(message_ids(tail)).collect();
    if let Some(beyond) = references.len().checked_sub(1 + LAST_REFERENCES_MAX) {
        references.drain(1..1 + beyond);
    }
    references
}

/// The hashes of the message IDs in a field's value. What is none is passed over.
pub fn message_ids(value: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut ids = Ids { value, at: 0, searched: 0, looks: 0 };
    std::iter::from_fn(move || ids.next())
}

struct Ids<'v> {
    value: &'v [u8],
    at: usize,
    /// So far an ID was looked for that was not there. Before this place quoting hides no `<`: what begins here ends at the next
    /// one, so that no octet is looked at again and again.
    searched: usize,
    /// Octets looked at.
    looks: usize,
}

impl Ids<'_> {
    fn next(&mut self) -> Option<u64> {
        let mut id = [0; MESSAGE_ID_OCTETS_MAX];
        loop {
            let Some(open) = memchr::memchr(b'<', &self.value[self.at..]) else {
                self.at = self.value.len();
                return None;
            };
            self.at += open + 1;
            let text = &self.value[self.at..];
            let text = &text[..text.len().min(MESSAGE_ID_OCTETS_MAX)];
            let plain = self.at < self.searched;
            let (octets, end) = message_id(text, plain, &mut id);
            self.looks += end;
            if let Some(octets) = octets {
                self.at += end;
                // SipHash with a fixed key: the same in every run.
                let mut hasher = std::hash::DefaultHasher::new();
                hasher.write(&id[..octets]);
                return Some(hasher.finish());
            }
            self.searched = self.searched.max(self.at + end);
        }
    }
}

/// One message ID after its opening bracket, without folding and quotes: how many octets of `id` it takes; and where it ends, or
/// where it is found to be none. With `plain` no `<` can be quoted.
fn message_id(text: &[u8], plain: bool, id: &mut [u8; MESSAGE_ID_OCTETS_MAX]) -> (Option<usize>, usize) {
    let (mut len, mut left, mut right, mut at_sign, mut quoted) = (0, 0usize, 0usize, false, false);
    let mut octets = text.iter().copied().enumerate();
    while let Some((at, mut octet)) = octets.next() {
        match octet {
            b'<' if plain || !quoted => return (None, at),
            b'>' if !quoted => {
                return (Some(len).filter(|_| at_sign && left > 0 && right > 0), at + 1);
            }
            // RFC 5256 §3: <"a"@b> and <a@b> are the same.
            b'"' if !at_sign => {
                left += usize::from(quoted);
                quoted = !quoted;
                continue;
            }
            b'\\' if quoted => match octets.next() {
                Some((at, b'<')) if plain => return (None, at),
                Some((_, escaped)) => octet = escaped,
                None => break,
            },
            // Folding, and spaces that senders put in.
            b' ' | b'\t' | b'\r' | b'\n' if !quoted => continue,
            b'@' if !quoted && !at_sign => at_sign = true,
            _ if at_sign => right += 1,
            _ => left += 1,
        }
        id[len] = octet;
        len += 1;
    }
    (None, text.len())
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
        assert_eq!(ids("<\"a\\\"<b\"@c>"), ids("(\") <\"a\\\"\\<b\"@c>"));
        assert_eq!(ids("nothing \"<\" here, but <a@b> and <\"<c@d>"), ids("<a@b> <c@d>"));
    }

    #[test]
    fn no_octet_is_looked_at_more_than_twice() {
        for piece in
            ["<\"\\\"", "<\"", "<\"\\", "<", "<\"<a@", "<a\"", "<a@b>", "<\"\"", "<\"\\<", "<\"<a@b>", "x"]
        {
            for count in [1, 100, 100_000] {
                let value = piece.repeat(count);
                let mut ids = Ids { value: value.as_bytes(), at: 0, searched: 0, looks: 0 };
                while ids.next().is_some() {}
                assert!(ids.looks <= 2 * value.len(), "{piece} {count}: {} looks", ids.looks);
            }
        }
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
        let last: Vec<u64> = message_ids(many.as_bytes()).skip(200 - LAST_REFERENCES_MAX).collect();
        assert_eq!((links.references[0], &links.references[1..]), (one("<0@x>"), &last[..]));
        let many = format!("{}{}{many}", "<first@x> ", "<n@x>,".repeat(200_000));
        let links = Links::of(format!("References: {many}\r\n\r\n").as_bytes());
        assert_eq!((links.references[0], &links.references[1..]), (one("<first@x>"), &last[..]));
    }
}
