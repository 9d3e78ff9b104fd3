//! Away: why an account is not served here now, in the words of all protocols.
//!
//! Whoever is told has given the account's password, or is a mail transfer agent of the site.
//!
//! # RFC
//! 5530 §3 (UNAVAILABLE), 3206 §4 (SYS/TEMP), 3463 §3.4 (X.3.2).

use std::fmt;

use crate::imap::response::{Code, Status, tagged, untagged};

/// Letters of a name or an address: RFC 5321 §4.5.3.1.5 gives a reply line 512 octets.
const SHOWN_MAX: usize = 72;

/// Why an account is not served here now. Time acts, or who directs clients to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Away {
    /// Another node has it; `None` where it is not known which.
    Elsewhere(Option<Owner>),
    /// This node takes it on, or hands it over.
    Moving,
    /// This node has it, and the store has not answered for too long.
    Stale,
    /// This node has it, and something of it is damaged or missing in the store. A person acts.
    Damaged,
}

/// A node, as its operator named it, and where it answers; an empty address is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub name: String,
    pub address: String,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Away::Elsewhere(Some(Owner { name, address })) if address.is_empty() => {
                write!(f, "this account is served by {}", shown(name))
            }
            Away::Elsewhere(Some(Owner { name, address })) => {
                write!(f, "this account is served by {} ({})", shown(name), shown(address))
            }
            Away::Elsewhere(None) => f.write_str("this account is served by another node"),
            Away::Moving => f.write_str("this account is moving between nodes, try again in a moment"),
            Away::Damaged => f.write_str("this account cannot be served until its operator has looked"),
            Away::Stale => f.write_str("the store of this account does not answer, try again later"),
        }
    }
}

/// What another node wrote, as a line of any protocol may hold it.
fn shown(text: &str) -> String {
    let letters = text.chars().filter(|letter| letter.is_ascii_graphic() || *letter == ' ');
    letters.take(SHOWN_MAX).collect()
}

impl Away {
    /// Appends IMAP's answer to the command `tag`.
    pub fn write_imap(&self, tag: &str, out: &mut Vec<u8>) {
        tagged(out, tag, Status::No, Some(&Code::Unavailable), &self.to_string());
    }

    /// Appends IMAP's BYE: the session ends for this.
    pub fn write_imap_bye(&self, out: &mut Vec<u8>) {
        untagged(out, Status::Bye, Some(&Code::Unavailable), &self.to_string());
    }

    /// The text after POP3's `-ERR `.
    pub(crate) fn pop3(&self) -> String {
        format!("[SYS/TEMP] {self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_wrote_ends_no_line() {
        let owner = |name: &str, address: &str| {
            Away::Elsewhere(Some(Owner { name: name.to_owned(), address: address.to_owned() }))
        };
        let mut out = Vec::new();
        owner("b\r\n* OK", "10.0.0.2:143\0").write_imap("a1", &mut out);
        assert_eq!(out, b"a1 NO [UNAVAILABLE] this account is served by b* OK (10.0.0.2:143)\r\n");
        assert_eq!(owner("b", "").pop3(), "[SYS/TEMP] this account is served by b");
    }
}
