//! The prepared ENVELOPE read back: what SORT compares, without the message.
//!
//! # Limits
//! Of a string [`FIELD_OCTETS_MAX`] octets are read.
//!
//! # Cost
//! Memory only for what is given back; the rest is passed over.

/// Octets of a string that are read, before encoded words in it are decoded: enough for what is compared of it.
pub const FIELD_OCTETS_MAX: usize = 8 * 1024;

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
        self.from = reader.first_address()?;
        reader.eat(b' ')?;
        reader.skip_addresses()?;
        reader.eat(b' ')?;
        reader.skip_addresses()?;
        reader.eat(b' ')?;
        self.to = reader.first_address()?;
        reader.eat(b' ')?;
        self.cc = reader.first_address()?;
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
        let mut text = Vec::new();
        self.string(|octets| {
            let room = FIELD_OCTETS_MAX - text.len();
            text.extend_from_slice(&octets[..octets.len().min(room)]);
        })?;
        Some(Some(text))
    }

    fn skip_nstring(&mut self) -> Option<()> {
        if self.nil() { Some(()) } else { self.string(|_| {}) }
    }

    /// A string, in as many pieces as it has escapes.
    fn string(&mut self, mut piece: impl FnMut(&'w [u8])) -> Option<()> {
        if let Some(rest) = self.0.strip_prefix(b"{") {
            let end = memchr::memchr(b'}', rest)?;
            let octets: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
            let (text, rest) = rest[end..].strip_prefix(b"}\r\n")?.split_at_checked(octets)?;
            piece(text);
            self.0 = rest;
            return Some(());
        }
        self.eat(b'"')?;
        loop {
            let stop = memchr::memchr2(b'"', b'\\', self.0)?;
            piece(&self.0[..stop]);
            let found = self.0[stop];
            self.0 = &self.0[stop + 1..];
            if found == b'"' {
                return Some(());
            }
            let (escaped, rest) = self.0.split_at_checked(1)?;
            piece(escaped);
            self.0 = rest;
        }
    }

    fn first_address(&mut self) -> Option<Option<FirstAddress>> {
        if self.nil() {
            return Some(None);
        }
        self.eat(b'(')?;
        if self.eat(b')').is_some() {
            return Some(None);
        }
        self.eat(b'(')?;
        let name = self.nstring()?;
        self.eat(b' ')?;
        self.skip_nstring()?;
        self.eat(b' ')?;
        let mailbox = self.nstring()?;
        self.eat(b' ')?;
        let host = self.nstring()?;
        self.eat(b')')?;
        self.skip_rest()?;
        Some(Some(FirstAddress { name, mailbox, host }))
    }

    fn skip_addresses(&mut self) -> Option<()> {
        if self.nil() {
            return Some(());
        }
        self.eat(b'(')?;
        self.skip_rest()
    }

    /// Address structures up to the end of their list.
    fn skip_rest(&mut self) -> Option<()> {
        while self.eat(b')').is_none() {
            self.eat(b'(')?;
            for after in [b' ', b' ', b' ', b')'] {
                self.skip_nstring()?;
                self.eat(after)?;
            }
        }
        Some(())
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
    fn no_more_is_kept_than_is_used() {
        let long = "\\a".repeat(50_000);
        let many = format!("(\"{long}\" NIL \"{long}\" \"{long}\")").repeat(3);
        let (utf8, cut) = ("\u{e4}".repeat(50_000), |text: &Option<Text>| text.as_ref().map(Vec::len));
        let wire = format!(
            "(\"{long}\" {{{}}}\r\n{utf8} ({many}) ({many}) ({many}) ({many}) ((NIL NIL \"c\" NIL)) NIL NIL NIL)",
            utf8.len()
        );
        let fields = EnvelopeFields::parse(wire.as_bytes());
        assert_eq!(
            (cut(&fields.date), cut(&fields.subject)),
            (Some(FIELD_OCTETS_MAX), Some(FIELD_OCTETS_MAX))
        );
        for address in [fields.from, fields.to].into_iter().flatten() {
            for text in [address.name, address.mailbox, address.host] {
                assert!(text.is_some_and(
                    |text| text.len() == FIELD_OCTETS_MAX && text.capacity() < 3 * FIELD_OCTETS_MAX
                ));
            }
        }
        assert_eq!(fields.cc.and_then(|address| address.mailbox).as_deref(), Some(&b"c"[..]));
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
