//! The prepared ENVELOPE read back: what SORT compares, without the message.

/// The octets of a string in a prepared form, without quotes and escapes.
type Text = Vec<u8>;

/// The fields of a prepared ENVELOPE. Of each address list the first address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeFields {
    pub date: Option<Text>,
    pub subject: Option<Text>,
    pub from: Option<FirstAddress>,
    pub to: Option<FirstAddress>,
    pub cc: Option<FirstAddress>,
}

/// The first address structure of a list; of a group, what begins it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstAddress {
    pub name: Option<Text>,
    pub mailbox: Option<Text>,
    pub host: Option<Text>,
}

impl EnvelopeFields {
    /// Of what [`envelope`](super::envelope) made. What is damaged reads as absent.
    pub fn parse(wire: &[u8]) -> EnvelopeFields {
        let mut fields = EnvelopeFields::default();
        fields.read(&mut Reader(wire));
        fields
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.eat(b'(')?;
        self.date = reader.nstring()?;
        reader.eat(b' ')?;
        self.subject = reader.nstring()?;
        reader.eat(b' ')?;
        self.from = reader.addresses()?;
        reader.eat(b' ')?;
        reader.addresses()?;
        reader.eat(b' ')?;
        reader.addresses()?;
        reader.eat(b' ')?;
        self.to = reader.addresses()?;
        reader.eat(b' ')?;
        self.cc = reader.addresses()?;
        Some(())
    }
}

struct Reader<'w>(&'w [u8]);

impl<'w> Reader<'w> {
    fn eat(&mut self, octet: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[octet])?;
        Some(())
    }

    fn nil(&mut self) -> bool {
        match self.0.strip_prefix(b"NIL") {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// `Some(None)`: NIL.
    fn nstring(&mut self) -> Option<Option<Text>> {
        if self.nil() {
            return Some(None);
        }
        if let Some(rest) = self.0.strip_prefix(b"{") {
            let end = memchr::memchr(b'}', rest)?;
            let octets: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
            let text = rest[end..].strip_prefix(b"}\r\n")?;
            self.0 = text.get(octets..)?;
            return Some(Some(text[..octets].to_vec()));
        }
        self.eat(b'"')?;
        let mut text = Vec::new();
        loop {
            let stop = memchr::memchr2(b'"', b'\\', self.0)?;
            text.extend_from_slice(&self.0[..stop]);
            let found = self.0[stop];
            self.0 = &self.0[stop + 1..];
            if found == b'"' {
                return Some(Some(text));
            }
            let (escaped, rest) = self.0.split_first()?;
            text.push(*escaped);
            self.0 = rest;
        }
    }

    fn addresses(&mut self) -> Option<Option<FirstAddress>> {
        if self.nil() {
            return Some(None);
        }
        self.eat(b'(')?;
        let mut first = None;
        while self.eat(b')').is_none() {
            self.eat(b'(')?;
            let name = self.nstring()?;
            self.eat(b' ')?;
            self.nstring()?;
            self.eat(b' ')?;
            let mailbox = self.nstring()?;
            self.eat(b' ')?;
            let host = self.nstring()?;
            self.eat(b')')?;
            first.get_or_insert(FirstAddress { name, mailbox, host });
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mime::{Message, envelope};

    #[test]
    fn what_was_written_is_read() {
        let message = Message::scan(
            b"Date: Tue, 1 Jul 2025 10:00:00 +0200\r\nSubject: a \"b\" \\c\r\n\
              From: \"An, na\" <anna@x.example>, b@x.example\r\nTo: list: c@x.example;\r\n\r\n",
        );
        let fields = EnvelopeFields::parse(&envelope(&message));
        assert_eq!(fields.date.as_deref(), Some(&b"Tue, 1 Jul 2025 10:00:00 +0200"[..]));
        assert_eq!(fields.subject.as_deref(), Some(&b"a \"b\" \\c"[..]));
        let from = fields.from.unwrap();
        assert_eq!(
            (from.name.as_deref(), from.mailbox.as_deref()),
            (Some(&b"An, na"[..]), Some(&b"anna"[..]))
        );
        assert_eq!(fields.to.unwrap().mailbox.as_deref(), Some(&b"list"[..]));
        assert_eq!(fields.cc, None);
        let message = Message::scan("Subject: \u{e4}\r\n\r\n".as_bytes());
        let fields = EnvelopeFields::parse(&envelope(&message));
        assert_eq!(fields.subject.as_deref(), Some("\u{e4}".as_bytes()));
        assert_eq!((fields.date, fields.from), (None, None));
    }

    #[test]
    fn damaged_forms_are_absent() {
        let whole = envelope(&Message::scan("Subject: \u{e4}\r\nFrom: a@b.example\r\n\r\n".as_bytes()));
        for cut in 0..whole.len() {
            EnvelopeFields::parse(&whole[..cut]);
        }
        assert_eq!(EnvelopeFields::parse(b"(NIL {99}\r\nx NIL"), EnvelopeFields::default());
    }
}
