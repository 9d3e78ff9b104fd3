//! Address lists (RFC 5322 §3.4, obsolete forms of §4.4), as ENVELOPE shows them.
//!
//! Every value gives some list: what is no address is read as a name without a host, never refused. One pass.

use super::param::Cursor;

/// One address structure (RFC 3501 §7.4.2): raw octets, quotes removed, encoded words not decoded.
///
/// A group begins with its name as `mailbox` and `host` `None`, and ends with both `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub name: Option<Vec<u8>>,
    /// The source route, `@a,@b`.
    pub route: Option<Vec<u8>>,
    pub mailbox: Option<Vec<u8>>,
    /// Empty where an address has none; `None` only in groups' marks.
    pub host: Option<Vec<u8>>,
}

impl Address {
    /// Most addresses of one envelope; the rest is not shown.
    pub const LIST_MAX: usize = 5000;
}

/// The address list in a field's raw value, at most `list_max` structures.
pub fn parse_addresses(value: &[u8], list_max: usize) -> Vec<Address> {
    let mut reader = Reader { cursor: Cursor { rest: value }, comment: Vec::new(), spaced: false };
    let mut list: Vec<Address> = Vec::new();
    let mut in_group = false;
    // Room for a group's end stays free.
    while list.len() + 1 < list_max {
        reader.comment.clear();
        let words = reader.words(b",;:<>");
        match reader.next_byte() {
            Some(b':') if !in_group => {
                list.push(Address { mailbox: Some(phrase(&words)), ..Address::default() });
                in_group = true;
            }
            Some(b'<') => {
                let mut address = reader.angle();
                // Whatever stands behind the brackets is no part of the address; a comment may be its name.
                drop(reader.words(b",;"));
                let name = if words.is_empty() { reader.comment.clone() } else { phrase(&words) };
                address.name = (!name.is_empty()).then_some(name);
                list.push(address);
                if reader.next_byte() == Some(b';') && in_group {
                    list.push(Address::default());
                    in_group = false;
                }
            }
            delimiter => {
                if !words.is_empty() {
                    list.push(bare(&words, &reader.comment));
                }
                match delimiter {
                    Some(b';') if in_group => {
                        list.push(Address::default());
                        in_group = false;
                    }
                    None => break,
                    _ => {}
                }
            }
        }
    }
    if in_group {
        list.push(Address::default());
    }
    list
}

/// `local@domain`, perhaps after words that are a name without its brackets.
fn bare(words: &[Word], comment: &[u8]) -> Address {
    let mut name = comment.to_vec();
    let address = match words.iter().rposition(|word| word.kind == Kind::At) {
        Some(at) => {
            // `Joe Doe joe@example.org`: the local part begins after the last space between two words.
            let begin = (1..at)
                .rev()
                .find(|index| {
                    words[*index].spaced
                        && words[*index].kind == Kind::Text
                        && words[*index - 1].kind == Kind::Text
                })
                .unwrap_or(0);
            if begin > 0 {
                name = phrase(&words[..begin]);
            }
            Address {
                mailbox: Some(joined(&words[begin..at])),
                host: Some(joined(&words[at + 1..])),
                ..Address::default()
            }
        }
        None => Address { mailbox: Some(phrase(words)), host: Some(Vec::new()), ..Address::default() },
    };
    Address { name: (!name.is_empty()).then_some(name), ..address }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Dot,
    At,
}

struct Word {
    kind: Kind,
    text: Vec<u8>,
    /// White space or a comment stood before it.
    spaced: bool,
}

/// Words as a display name: one space where there was any.
fn phrase(words: &[Word]) -> Vec<u8> {
    let mut text = Vec::new();
    for word in words {
        if word.spaced && !text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(&word.text);
    }
    text
}

/// Words as a local part or domain: white space in them is obsolete syntax (RFC 5322 §4.4).
fn joined(words: &[Word]) -> Vec<u8> {
    words.iter().flat_map(|word| word.text.iter().copied()).collect()
}

struct Reader<'v> {
    cursor: Cursor<'v>,
    /// The last comment: in `joe@example.org (Joe Doe)` it is the name.
    comment: Vec<u8>,
    spaced: bool,
}

impl Reader<'_> {
    fn next_byte(&mut self) -> Option<u8> {
        let (first, rest) = self.cursor.rest.split_first()?;
        self.cursor.rest = rest;
        Some(*first)
    }

    /// Words up to one of `stop` or the end.
    fn words(&mut self, stop: &[u8]) -> Vec<Word> {
        let mut words = Vec::new();
        self.spaced = false;
        loop {
            self.skip_space();
            let Some(first) = self.cursor.rest.first().copied() else { break };
            let (kind, text) = match first {
                _ if stop.contains(&first) => break,
                b'"' => {
                    self.next_byte();
                    (Kind::Text, self.cursor.quoted())
                }
                b'.' | b'@' => {
                    self.next_byte();
                    (if first == b'.' { Kind::Dot } else { Kind::At }, vec![first])
                }
                _ => (Kind::Text, self.atom(stop)),
            };
            words.push(Word { kind, text, spaced: self.spaced });
            self.spaced = false;
        }
        words
    }

    /// At least one octet.
    fn atom(&mut self, stop: &[u8]) -> Vec<u8> {
        let rest = self.cursor.rest;
        let mut end = encoded_word(rest).unwrap_or(0);
        if rest[0] == b'[' {
            // RFC 5322 §3.4.1: a domain literal holds what would stop an atom.
            let close =
                rest.iter().take_while(|byte| !matches!(byte, b'\r' | b'\n')).position(|byte| *byte == b']');
            end = close.map_or(0, |at| at + 1);
        }
        if end == 0 {
            let ends = |byte: u8| byte <= b' ' || b"\"(.@".contains(&byte) || stop.contains(&byte);
            end = 1 + rest[1..].iter().position(|byte| ends(*byte)).unwrap_or(rest.len() - 1);
        }
        let (text, rest) = rest.split_at(end);
        self.cursor.rest = rest;
        text.to_vec()
    }

    fn skip_space(&mut self) {
        while let Some(first) = self.cursor.rest.first().copied() {
            match first {
                b'(' => self.take_comment(),
                _ if first <= b' ' => drop(self.next_byte()),
                _ => break,
            }
            self.spaced = true;
        }
    }

    fn take_comment(&mut self) {
        self.comment.clear();
        let mut depth = 0usize;
        while let Some(byte) = self.next_byte() {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' => {
                    let escaped = self.next_byte().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0));
                    self.comment.extend(escaped);
                    continue;
                }
                b'\r' | b'\n' | 0 => continue,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth > 1 || byte != b'(' {
                self.comment.push(byte);
            }
        }
        self.comment = self.comment.trim_ascii().to_vec();
    }

    /// What follows `<`, with its `>`.
    fn angle(&mut self) -> Address {
        let mut route = None;
        let mut words = self.words(b">,:;");
        // RFC 5322 §4.4 `obs-route`: `@a,@b:` before the address.
        if words.first().is_some_and(|word| word.kind == Kind::At) {
            let mut domains = joined(&words);
            loop {
                match self.cursor.rest.first() {
                    Some(b',') => {
                        self.next_byte();
                        words = self.words(b">,:;");
                        if !words.is_empty() {
                            domains.push(b',');
                            domains.extend(joined(&words));
                        }
                    }
                    Some(b':') => {
                        self.next_byte();
                        words = self.words(b">,;");
                        route = Some(domains);
                        break;
                    }
                    _ => break,
                }
            }
        } else if self.cursor.rest.first() == Some(&b':') {
            // `<mailto:joe@example.org>`, and other colons that belong there no less.
            let mut more = self.words(b">,;");
            words.append(&mut more);
        }
        let at = words.iter().rposition(|word| word.kind == Kind::At);
        let (local, host) = match at {
            Some(at) => (&words[..at], joined(&words[at + 1..])),
            None => (&words[..], Vec::new()),
        };
        let address = Address { name: None, route, mailbox: Some(joined(local)), host: Some(host) };
        if self.cursor.rest.first() == Some(&b'>') {
            self.next_byte();
        }
        address
    }
}

/// Octets of the encoded word that `text` begins with: one with a comma or a dot in it is still one word.
fn encoded_word(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"=?")?;
    let mut marks = 0;
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            b'?' if marks == 2 => return (inner.get(at + 1) == Some(&b'=')).then_some(at + 4),
            b'?' => marks += 1,
            _ if *byte <= b' ' => return None,
            _ => {}
        }
    }
    None
}
