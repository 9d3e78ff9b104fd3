//! The id in a Received field: who added the field knows the message by it, as by its name in a queue.
//!
//! # RFC
//! 5321 §4.4 (clauses of a keyword and a value; others may stand between), 5322 §3.2.2 (comments).

/// Longest id that is taken for one.
const ID_OCTETS_MAX: usize = 255;

/// The value of the clause `id`, if there is one. `field`: what stands behind the colon, folded or not.
pub(super) fn id(field: &[u8]) -> Option<&[u8]> {
    let mut words = Words(field);
    while let Some(word) = words.next() {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        if is("id") {
            return words.next().filter(|id| id.len() <= ID_OCTETS_MAX);
        }
        // Their values may be any word, also one of these.
        if ["from", "by", "via", "with", "for"].into_iter().any(is) {
            words.next();
        }
    }
    None
}

/// The words of a field up to its date: comments and white space lie between, a quoted string is part of its word.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            match self.0 {
                [b'(', ..] => self.0 = &self.0[delimited(self.0, b')', Some(b'('))..],
                [octet, rest @ ..] if octet.is_ascii_whitespace() => self.0 = rest,
                [] | [b';', ..] => return None,
                _ => break,
            }
        }
        let mut end = 0;
        while let Some(octet) = self.0.get(end) {
            match octet {
                b'"' => end += delimited(&self.0[end..], b'"', None),
                b'(' | b';' => break,
                octet if octet.is_ascii_whitespace() => break,
                _ => end += 1,
            }
        }
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(word)
    }
}

/// Octets of what begins with its opening delimiter, to its closing one or the end. `nests`: the opening one, where it may stand
/// within.
fn delimited(octets: &[u8], close: u8, nests: Option<u8>) -> usize {
    let (mut at, mut depth) = (1, 1);
    while let Some(&octet) = octets.get(at) {
        at += 1;
        if octet == b'\\' {
            at += 1;
        } else if octet == close {
            depth -= 1;
        } else if Some(octet) == nests {
            depth += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at.min(octets.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_what_is_in_use() {
        for (field, expected) in [
            // Postfix.
            (
                " from mx.example.net (mx.example.net [192.0.2.1])\r\n\tby mail.example.org (Postfix) with ESMTPS id 4XyZ0123ABz1\r\n\tfor <a@example.org>; Mon, 23 Nov 2026 10:00:00 +0000 (UTC)",
                Some("4XyZ0123ABz1"),
            ),
            (
                " by mail.example.org (Postfix, from userid 1000)\r\n\tid 5DA2F40123; Mon, 23 Nov 2026 10:00:00 +0000",
                Some("5DA2F40123"),
            ),
            // Exim.
            (
                " from [192.0.2.1] (helo=mx)\r\n\tby mail.example.org with esmtps  (TLS1.3) tls TLS_AES_256_GCM_SHA384\r\n\t(Exim 4.98)\r\n\t(envelope-from <b@example.net>)\r\n\tid 1tXyZ0-000000012AB-0cDe\r\n\tfor a@example.org;\r\n\tMon, 23 Nov 2026 10:00:00 +0000",
                Some("1tXyZ0-000000012AB-0cDe"),
            ),
            // Sendmail.
            (
                " (from root@localhost)\r\n\tby mail.example.org (8.18.1/8.18.1/Submit) id 4ANA0000123456;\r\n\tMon, 23 Nov 2026 10:00:00 GMT",
                Some("4ANA0000123456"),
            ),
            // OpenSMTPD.
            (
                " from mx.example.net (mx.example.net [192.0.2.1])\r\n\tby mail.example.org (OpenSMTPD) with ESMTPS id 0a1b2c3d (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO)\r\n\tfor <a@example.org>;\r\n\tMon, 23 Nov 2026 10:00:00 +0000 (UTC)",
                Some("0a1b2c3d"),
            ),
            // qmail.
            (" (qmail 1234 invoked by uid 89); 23 Nov 2026 10:00:00 -0000", None),
            (" from id by with id X1", Some("X1")),
            (" by b (a (nested \\) id NO) id NO) Id X1 (id NO)", Some("X1")),
            (" by \"a id NO\" id X1", Some("X1")),
            (" by b; id NO", None),
            (" by b id ; now", None),
            (" by b id", None),
            (" by b (id NO", None),
            (" by \"b id NO", None),
            (" by b \\", None),
            ("", None),
        ] {
            assert_eq!(id(field.as_bytes()), expected.map(str::as_bytes), "{field}");
        }
        assert_eq!(id(format!("id {}", "x".repeat(256)).as_bytes()), None);
    }
}
