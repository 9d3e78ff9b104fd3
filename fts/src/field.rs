//! Fields: where in a message a word stands.

use std::fmt;

/// Where a word stands. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// The body texts of `culver_model::text`, file names of attachments and headers of nested messages among them.
    Body = 0,
    Subject = 1,
    From = 2,
    To = 3,
    Cc = 4,
    Bcc = 5,
    /// Every other header field, and the names of all fields.
    Other = 6,
    /// File names of attachments alone, once more.
    Attachment = 7,
}

impl Field {
    pub const ALL: [Field; 8] = [
        Field::Body,
        Field::Subject,
        Field::From,
        Field::To,
        Field::Cc,
        Field::Bcc,
        Field::Other,
        Field::Attachment,
    ];

    /// The field that words of this header field belong to.
    pub fn of_header(name: &str) -> Field {
        const NAMED: [(&str, Field); 5] = [
            ("subject", Field::Subject),
            ("from", Field::From),
            ("to", Field::To),
            ("cc", Field::Cc),
            ("bcc", Field::Bcc),
        ];
        let named = NAMED.iter().find(|(named, _)| name.eq_ignore_ascii_case(named));
        named.map_or(Field::Other, |(_, field)| *field)
    }

    pub fn name(self) -> &'static str {
        match self {
            Field::Body => "body",
            Field::Subject => "subject",
            Field::From => "from",
            Field::To => "to",
            Field::Cc => "cc",
            Field::Bcc => "bcc",
            Field::Other => "other",
            Field::Attachment => "attachment",
        }
    }
}

/// A set of fields, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub u8);

impl Fields {
    /// What `BODY` searches.
    pub const BODY: Fields = Fields(1 << Field::Body as u8);
    /// What `TEXT` searches.
    pub const TEXT: Fields = Fields(!(1 << Field::Attachment as u8));
    pub const ALL: Fields = Fields(!0);

    pub const fn of(field: Field) -> Fields {
        Fields(1 << field as u8)
    }

    pub fn has(self, field: Field) -> bool {
        self.0 & (1 << field as u8) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |field| self.has(*field))
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, field) in self.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { "+" }, field.name())?;
        }
        Ok(())
    }
}
