//! Account ids: one canonical form of an address, made by one function, used by everything.
//!
//! # Invariants
//! SASL, LOGIN, RCPT, the passwd-file and the partition hash see the same octets for the same account. The id is
//! lower-cased and NFC, so `Zoe@Example.ORG` and `zoe@example.org` are one account. An id never becomes a file name;
//! what would be harmful in one (`/`, NUL, `..`, control characters) is refused all the same.
//!
//! # Limits
//! [`AccountId::OCTETS_MAX`] octets.

use crate::PartitionId;
use std::fmt;
use unicode_normalization::UnicodeNormalization;

/// A canonical account id: lower-cased, NFC, 1 to 254 octets, `local@domain` or a bare name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Box<str>);

/// Why a text is no account id. The client must act: it gave a name that no account can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error("empty account name or part of one")]
    Empty,
    #[error("account name of more than {} octets", AccountId::OCTETS_MAX)]
    TooLong,
    #[error("account name with a character that is not allowed")]
    Character,
}

impl AccountId {
    /// RFC 5321 §4.5.3.1.3: a path has 256 octets with its brackets.
    pub const OCTETS_MAX: usize = 254;

    /// The canonical id of what SASL, LOGIN or a passwd-file names. A `+detail` is part of the name here.
    pub fn parse(text: &str) -> Result<AccountId, AccountError> {
        // Composition shortens a text less than fourfold, so this bound refuses nothing that could fit.
        if text.len() > AccountId::OCTETS_MAX * 4 {
            return Err(AccountError::TooLong);
        }
        AccountId::canonical(text)
    }

    /// The canonical id of an RCPT address without its brackets, and the detail after `separator` in its local part,
    /// which names no account of its own. The detail keeps its case.
    pub fn parse_recipient(
        text: &str,
        separator: Option<char>,
    ) -> Result<(AccountId, Option<String>), AccountError> {
        if text.len() > AccountId::OCTETS_MAX * 4 {
            return Err(AccountError::TooLong);
        }
        let (local, domain) = match text.rfind('@') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        // RFC 5233 §4: the user part ends at the first separator; a leading one belongs to the name.
        let cut = separator.and_then(|separator| {
            local.char_indices().skip(1).find(|(_, c)| *c == separator).map(|(at, c)| (at, at + c.len_utf8()))
        });
        match cut {
            Some((end, detail)) => {
                let account = AccountId::canonical(&format!("{}{domain}", &local[..end]))?;
                Ok((account, Some(local[detail..].nfc().collect())))
            }
            None => Ok((AccountId::canonical(text)?, None)),
        }
    }

    fn canonical(text: &str) -> Result<AccountId, AccountError> {
        let name = if text.is_ascii() { text.to_ascii_lowercase() } else { AccountId::folded(text) };
        if name.len() > AccountId::OCTETS_MAX {
            return Err(AccountError::TooLong);
        }
        let refused = |c: char| c == '/' || c.is_control() || c.is_whitespace() || c == '\u{fffd}';
        if name.contains(refused) || name.contains("..") {
            return Err(AccountError::Character);
        }
        let (local, domain) = match name.rfind('@') {
            Some(at) => (&name[..at], Some(&name[at + 1..])),
            None => (name.as_str(), None),
        };
        if local.is_empty() || domain.is_some_and(str::is_empty) {
            return Err(AccountError::Empty);
        }
        if domain.is_some() && local == "." || domain == Some(".") || name == "." {
            return Err(AccountError::Character);
        }
        Ok(AccountId(name.into_boxed_str()))
    }

    /// Lower case and NFC; for ASCII it is what `to_ascii_lowercase` gives.
    fn folded(text: &str) -> String {
        // Lower-casing can leave a sequence that composes, so NFC stands last; a second round settles the few
        // characters whose composed form has a lower case of its own.
        let mut name: String = text.nfc().flat_map(char::to_lowercase).nfc().collect();
        let again: String = name.chars().flat_map(char::to_lowercase).nfc().collect();
        if again != name {
            name = again;
        }
        name
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the last `@`, or the whole of a bare name.
    pub fn local(&self) -> &str {
        self.0.rfind('@').map_or(&self.0, |at| &self.0[..at])
    }

    /// What stands after the last `@`.
    pub fn domain(&self) -> Option<&str> {
        self.0.rfind('@').map(|at| &self.0[at + 1..])
    }

    /// The partition that holds this account, of `partitions` (at least 1).
    ///
    /// The hash is a stored format: FNV-1a with 64 bits over the id's octets, then the finaliser of MurmurHash3
    /// (so that the low bits depend on all octets), then modulo. It never changes.
    pub fn partition(&self, partitions: u16) -> PartitionId {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in self.0.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        PartitionId((hash % u64::from(partitions.max(1))) as u16)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_has_one_id() {
        for text in ["Zoe@Example.ORG", "zoe@example.org", "ZOE@EXAMPLE.ORG"] {
            assert_eq!(AccountId::parse(text).unwrap().as_str(), "zoe@example.org");
        }
        let composed = AccountId::parse("ZOË@example.org").unwrap();
        assert_eq!(AccountId::parse("zoe\u{308}@example.org").unwrap(), composed);
        let id = AccountId::parse("\"a@b\"@c").unwrap();
        assert_eq!((id.local(), id.domain()), ("\"a@b\"", Some("c")));
        assert_eq!(AccountId::parse("joe").unwrap().domain(), None);
    }

    #[test]
    fn ascii_needs_no_tables() {
        for c in (0..=0x7f).map(char::from) {
            let text = format!("A{c}z@Example.ORG");
            assert_eq!(AccountId::folded(&text), text.to_ascii_lowercase());
        }
    }

    #[test]
    fn canonical_form_is_a_fixed_point() {
        for c in (1..=0x10_ffff).filter_map(char::from_u32) {
            if let Ok(id) = AccountId::parse(&format!("x{c}@d")) {
                assert_eq!(AccountId::parse(id.as_str()).as_ref(), Ok(&id), "{c:?}");
            }
        }
    }

    #[test]
    fn what_no_account_may_be_called_is_refused() {
        for (text, error) in [
            ("", AccountError::Empty),
            ("@example.org", AccountError::Empty),
            ("joe@", AccountError::Empty),
            ("a/b@c", AccountError::Character),
            ("a\0@c", AccountError::Character),
            ("a\n@c", AccountError::Character),
            ("a b@c", AccountError::Character),
            ("a..b@c", AccountError::Character),
            ("..", AccountError::Character),
            (".", AccountError::Character),
            ("a\u{85}b", AccountError::Character),
        ] {
            assert_eq!(AccountId::parse(text), Err(error), "{text:?}");
        }
        assert!(AccountId::parse(&"a".repeat(254)).is_ok());
        assert_eq!(AccountId::parse(&"a".repeat(255)), Err(AccountError::TooLong));
        assert_eq!(AccountId::parse(&"a".repeat(1 << 20)), Err(AccountError::TooLong));
    }

    #[test]
    fn detail_is_stripped_in_recipients_only() {
        let parse = |text, separator| {
            let (id, detail) = AccountId::parse_recipient(text, separator).unwrap();
            (id.as_str().to_owned(), detail)
        };
        assert_eq!(parse("Joe+Lists@X.org", Some('+')), ("joe@x.org".into(), Some("Lists".into())));
        assert_eq!(parse("joe+a+b@x.org", Some('+')), ("joe@x.org".into(), Some("a+b".into())));
        assert_eq!(parse("joe+@x.org", Some('+')), ("joe@x.org".into(), Some(String::new())));
        assert_eq!(parse("+joe@x.org", Some('+')), ("+joe@x.org".into(), None));
        assert_eq!(parse("joe-x@x.org", Some('-')), ("joe@x.org".into(), Some("x".into())));
        assert_eq!(parse("joe+x@x.org", None), ("joe+x@x.org".into(), None));
        assert_eq!(parse("joe@x+y.org", Some('+')), ("joe@x+y.org".into(), None));
        assert_eq!(parse("joe+x", Some('+')), ("joe".into(), Some("x".into())));
        assert_eq!(AccountId::parse("Joe+Lists@X.org").unwrap().as_str(), "joe+lists@x.org");
    }

    #[test]
    fn partition_hash_never_changes() {
        let partition = |text: &str, n| AccountId::parse(text).unwrap().partition(n).0;
        assert_eq!(partition("joe@example.org", 1), 0);
        assert_eq!(partition("joe@example.org", 0), 0);
        let golden =
            ["joe@example.org", "zoë@example.org", "u000001@isp.example", "a"].map(|id| partition(id, 4096));
        assert_eq!(golden, GOLDEN);
        let mut seen = [0u32; 64];
        (0..64_000).for_each(|n| seen[usize::from(partition(&format!("user{n}@isp.example"), 64))] += 1);
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
    }

    const GOLDEN: [u16; 4] = [2414, 2250, 3315, 3675];
}
