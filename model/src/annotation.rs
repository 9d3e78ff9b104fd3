//! Annotations: the names of metadata entries, of a mailbox or of the server.
//!
//! # Invariants
//! A name is kept in lower case: names that differ in case alone are one. Its first component is `/private` or `/shared`.
//!
//! # Limits
//! [`EntryName::OCTETS_MAX`].
//!
//! # RFC
//! RFC 5464 §3.2.

use std::fmt;

/// The name of an entry, such as `/private/comment`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<str>);

/// Why octets name no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryNameError {
    /// RFC 5464 §3.2: the command is BAD.
    #[error("not the name of an entry under /private or /shared")]
    Shape,
    #[error("entry name of more than {} octets", EntryName::OCTETS_MAX)]
    TooLong,
}

/// How far below the entries that are named others are given too (RFC 5464 §4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    #[default]
    Zero,
    One,
    Infinity,
}

impl EntryName {
    /// Longest name.
    pub const OCTETS_MAX: usize = 255;

    /// RFC 6154 §4.
    pub const SPECIAL_USE: &str = "/private/specialuse";

    // RFC 5464 §3.2: no empty component, neither "*" nor "%", ASCII without controls, and one of two scopes in front.
    pub fn parse(octets: &[u8]) -> Result<EntryName, EntryNameError> {
        if octets.len() > EntryName::OCTETS_MAX {
            return Err(EntryNameError::TooLong);
        }
        let fits = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'*' | b'%');
        let text = std::str::from_utf8(octets).map_err(|_| EntryNameError::Shape)?;
        let components = text.strip_prefix('/').ok_or(EntryNameError::Shape)?;
        if !octets.iter().all(fits) || components.split('/').any(str::is_empty) {
            return Err(EntryNameError::Shape);
        }
        let name = text.to_ascii_lowercase();
        let scope = name[1..].split('/').next();
        match scope {
            Some("private" | "shared") => Ok(EntryName(name.into())),
            _ => Err(EntryNameError::Shape),
        }
    }

    pub fn special_use() -> EntryName {
        EntryName(EntryName::SPECIAL_USE.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_special_use(&self) -> bool {
        &*self.0 == EntryName::SPECIAL_USE
    }

    pub fn is_shared(&self) -> bool {
        self.0.starts_with("/shared")
    }

    /// Whether it may have a value: what only stands above such names may not.
    // RFC 5464 §3.2: two components, and four where the second is `vendor`.
    pub fn holds_values(&self) -> bool {
        let mut components = self.0[1..].split('/');
        let (count, vendor) = (self.0.matches('/').count(), components.nth(1) == Some("vendor"));
        count >= if vendor { 4 } else { 2 }
    }

    /// Whether it is that entry, or one below it that `depth` reaches.
    pub fn is_within(&self, above: &EntryName, depth: Depth) -> bool {
        let Some(rest) = self.0.strip_prefix(&*above.0) else { return false };
        match (rest.strip_prefix('/'), depth) {
            (None, _) => rest.is_empty(),
            (Some(_), Depth::Zero) => false,
            (Some(below), Depth::One) => !below.contains('/'),
            (Some(_), Depth::Infinity) => true,
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> EntryName {
        EntryName::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn names_have_no_case_and_two_scopes() {
        assert_eq!(entry("/Shared/Comment"), entry("/shared/comment"));
        assert_eq!(entry("/private/a b").as_str(), "/private/a b");
        for bad in [
            "",
            "/",
            "comment",
            "/comment",
            "/private/",
            "//private/x",
            "/private//x",
            "/private/*",
            "/private/a%",
            "/private/\u{e4}",
            "/private/\u{1}",
            "/private/a\x7f",
            "/privates/x",
            "private/x",
        ] {
            assert_eq!(EntryName::parse(bad.as_bytes()), Err(EntryNameError::Shape), "{bad:?}");
        }
        assert_eq!(EntryName::parse(b"/private/\xff"), Err(EntryNameError::Shape));
        let long = format!("/private/{}", "x".repeat(EntryName::OCTETS_MAX));
        assert_eq!(EntryName::parse(long.as_bytes()), Err(EntryNameError::TooLong));
    }

    #[test]
    fn values_stand_from_the_second_component_on_and_a_vendor_s_from_the_fourth() {
        for (text, holds) in [
            ("/private", false),
            ("/shared", false),
            ("/private/comment", true),
            ("/private/devicetoken", true),
            ("/private/filters/values/boss", true),
            ("/shared/vendor", false),
            ("/shared/vendor/kolab", false),
            ("/shared/vendor/kolab/folder-type", true),
            ("/private/vendors", true),
        ] {
            assert_eq!(entry(text).holds_values(), holds, "{text}");
        }
    }

    #[test]
    fn depth_reaches_nothing_children_or_all_below() {
        let above = entry("/private/a");
        for (text, zero, one, infinity) in [
            ("/private/a", true, true, true),
            ("/private/a/b", false, true, true),
            ("/private/a/b/c", false, false, true),
            ("/private/ab", false, false, false),
            ("/private", false, false, false),
            ("/shared/a", false, false, false),
        ] {
            let within =
                [Depth::Zero, Depth::One, Depth::Infinity].map(|depth| entry(text).is_within(&above, depth));
            assert_eq!(within, [zero, one, infinity], "{text}");
        }
    }
}
