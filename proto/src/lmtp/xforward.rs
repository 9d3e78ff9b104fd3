//! XFORWARD, Postfix's extension: what a trusted client knows of where a message came from. Of its attributes IDENT counts here,
//! the client's own id of the message; the others are read and not kept.
//!
//! # Limits
//! [`VALUE_OCTETS_MAX`] for a value.
//!
//! # RFC
//! 3461 §4 (xtext).

use super::reply::Reply;
use super::xtext;

/// The attributes, as LHLO's answer names them.
pub(super) const NAMES: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";
/// As Postfix has it.
const VALUE_OCTETS_MAX: usize = 255;

const SYNTAX: Reply = (501, "5.5.4", "attributes are wanted: NAME=value");
const VALUE: Reply = (501, "5.5.4", "a value is 1 to 255 printable characters, in xtext");

/// What the command says of IDENT: `None` nothing, `Some(None)` that there is none.
pub(super) fn parse(rest: &[u8]) -> Result<Option<Option<String>>, Reply> {
    let (mut any, mut ident) = (false, None);
    for word in rest.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
        let at = word.iter().position(|&b| b == b'=').ok_or(SYNTAX)?;
        let name = &word[..at];
        let value = xtext::printable(&word[at + 1..], VALUE_OCTETS_MAX).ok_or(VALUE)?;
        if !NAMES.split(' ').any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
            return Err((501, "5.5.4", "unknown attribute"));
        }
        any = true;
        if name.eq_ignore_ascii_case(b"IDENT") {
            ident =
                Some(Some(value).filter(|value| !matches!(&value[..], "[UNAVAILABLE]" | "[TEMPUNAVAIL]")));
        }
    }
    if any { Ok(ident) } else { Err(SYNTAX) }
}
