//! Flags: the system flags of RFC 3501 §2.3.2 and keywords.

use std::fmt;

/// A system flag, with its bit in [`FlagSet::system`]. `\Recent` is not stored: it belongs to a session's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SystemFlag {
    Answered = 1 << 0,
    Flagged = 1 << 1,
    Deleted = 1 << 2,
    Seen = 1 << 3,
    Draft = 1 << 4,
}

impl SystemFlag {
    /// In the order in which they are sent.
    pub const ALL: [SystemFlag; 5] =
        [SystemFlag::Answered, SystemFlag::Flagged, SystemFlag::Deleted, SystemFlag::Seen, SystemFlag::Draft];

    pub const fn bit(self) -> u8 {
        self as u8
    }

    /// The wire name, with its backslash.
    pub const fn name(self) -> &'static str {
        match self {
            SystemFlag::Answered => "\\Answered",
            SystemFlag::Flagged => "\\Flagged",
            SystemFlag::Deleted => "\\Deleted",
            SystemFlag::Seen => "\\Seen",
            SystemFlag::Draft => "\\Draft",
        }
    }

    /// From the wire name, without regard to case.
    pub fn parse(name: &str) -> Option<SystemFlag> {
        SystemFlag::ALL.into_iter().find(|flag| flag.name().eq_ignore_ascii_case(name))
    }
}

/// A keyword: an atom, compared without regard to ASCII case, kept as first written.
#[derive(Clone, Debug)]
pub struct Keyword(Box<str>);

impl Keyword {
    /// Longest keyword, in octets.
    pub const OCTETS_MAX: usize = 128;

    /// `None` where `name` is empty, too long, not an RFC 3501 atom, or begins with a backslash.
    pub fn new(name: &str) -> Option<Keyword> {
        let atom = |byte: u8| byte > 0x20 && byte < 0x7f && !b"(){%*\"\\]".contains(&byte);
        let fits = !name.is_empty() && name.len() <= Keyword::OCTETS_MAX;
        (fits && name.bytes().all(atom)).then(|| Keyword(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Keyword {
    fn eq(&self, other: &Keyword) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Keyword {}

impl std::hash::Hash for Keyword {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

impl PartialOrd for Keyword {
    fn partial_cmp(&self, other: &Keyword) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyword {
    fn cmp(&self, other: &Keyword) -> std::cmp::Ordering {
        let lower = |keyword: &Keyword| keyword.0.to_ascii_lowercase();
        lower(self).cmp(&lower(other))
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One flag as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    System(SystemFlag),
    Keyword(Keyword),
}

impl Flag {
    /// `None` for `\Recent` and other backslash names that cannot be stored, and for what is no atom.
    pub fn parse(name: &str) -> Option<Flag> {
        if name.starts_with('\\') {
            SystemFlag::parse(name).map(Flag::System)
        } else {
            Keyword::new(name).map(Flag::Keyword)
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Flag::System(flag) => flag.name(),
            Flag::Keyword(keyword) => keyword.as_str(),
        }
    }
}

/// The flags of one message, or those named by one STORE or APPEND.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlagSet {
    /// [`SystemFlag`] bits.
    pub system: u8,
    /// Without duplicates, in the order given.
    pub keywords: Vec<Keyword>,
}

impl FlagSet {
    pub fn insert(&mut self, flag: Flag) {
        match flag {
            Flag::System(flag) => self.system |= flag.bit(),
            Flag::Keyword(keyword) => {
                if !self.keywords.contains(&keyword) {
                    self.keywords.push(keyword);
                }
            }
        }
    }

    pub fn contains(&self, flag: &Flag) -> bool {
        match flag {
            Flag::System(flag) => self.has(*flag),
            Flag::Keyword(keyword) => self.keywords.contains(keyword),
        }
    }

    pub const fn has(&self, flag: SystemFlag) -> bool {
        self.system & flag.bit() != 0
    }

    pub fn is_empty(&self) -> bool {
        self.system == 0 && self.keywords.is_empty()
    }
}

impl FromIterator<Flag> for FlagSet {
    fn from_iter<I: IntoIterator<Item = Flag>>(flags: I) -> FlagSet {
        let mut set = FlagSet::default();
        flags.into_iter().for_each(|flag| set.insert(flag));
        set
    }
}

impl fmt::Display for FlagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for flag in SystemFlag::ALL.into_iter().filter(|flag| self.has(*flag)) {
            write!(f, "{separator}{}", flag.name())?;
            separator = " ";
        }
        for keyword in &self.keywords {
            write!(f, "{separator}{keyword}")?;
            separator = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_atoms_without_case() {
        assert_eq!(Keyword::new("$Junk"), Keyword::new("$JUNK"));
        assert_eq!(Keyword::new("$Junk").unwrap().as_str(), "$Junk");
        for name in
            ["", "\\Seen", "a b", "a(", "a)", "a{", "a%", "a*", "a\"", "a]", "a\u{e9}", "a\x7f", "a\0"]
        {
            assert_eq!(Keyword::new(name), None, "{name:?}");
        }
        assert!(Keyword::new(&"k".repeat(128)).is_some() && Keyword::new(&"k".repeat(129)).is_none());
        let hash = |name| {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hasher = DefaultHasher::new();
            Keyword::new(name).hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash("Work"), hash("wORK"));
    }

    #[test]
    fn flags_are_those_that_can_be_stored() {
        assert_eq!(Flag::parse("\\seen"), Some(Flag::System(SystemFlag::Seen)));
        assert_eq!(Flag::parse("\\Recent"), None);
        assert_eq!(Flag::parse("\\*"), None);
        let names = ["work", "\\Draft", "WORK", "\\ANSWERED", "\\draft", "play"];
        let set: FlagSet = names.iter().filter_map(|name| Flag::parse(name)).collect();
        assert_eq!(set.to_string(), "\\Answered \\Draft work play");
        assert!(set.contains(&Flag::parse("Play").unwrap()) && !set.has(SystemFlag::Seen));
        assert!(FlagSet::default().is_empty() && !set.is_empty());
        assert!(SystemFlag::ALL.iter().all(|flag| SystemFlag::parse(flag.name()) == Some(*flag)));
    }
}
