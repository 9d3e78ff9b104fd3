//! Account ids: one canonical form of an address, made by one function, used by everything.

/// A canonical account id: lower-cased, NFC, 1 to 254 octets, `local@domain` or a bare name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Box<str>);

impl AccountId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
