//! xtext: printable ASCII in which `+` and two hexadecimal digits stand for an octet; and the attributes of XFORWARD and XCLIENT, whose
//! values are xtext.
//!
//! # Limits
//! [`VALUE_OCTETS_MAX`] for the value of an attribute.
//!
//! # RFC
//! 3461 §4.

use super::reply::Reply;

/// As Postfix has it.
const VALUE_OCTETS_MAX: usize = 255;

const SYNTAX: Reply = (501, "5.5.4", "attributes are wanted: NAME=value");
const VALUE: Reply = (501, "5.5.4", "a value is 1 to 255 printable characters, in xtext");

/// Reads `NAME=value` at least once, of the `names` that stand between spaces. `take` gets the name as it was sent; and no value
/// where the client says that it has none.
pub(super) fn attributes(
    rest: &[u8],
    names: &str,
    mut take: impl FnMut(&[u8], Option<String>) -> Result<(), Reply>,
) -> Result<(), Reply> {
    let mut any = false;
    for word in rest.split(|&b| b == b' ').filter(|word| !word.is_empty()) {
        let at = word.iter().position(|&b| b == b'=').ok_or(SYNTAX)?;
        let (name, value) = (&word[..at], printable(&word[at + 1..], VALUE_OCTETS_MAX).ok_or(VALUE)?);
        if !names.split(' ').any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
            return Err((501, "5.5.4", "unknown attribute"));
        }
        any = true;
        take(name, Some(value).filter(|value| !matches!(&value[..], "[UNAVAILABLE]" | "[TEMPUNAVAIL]")))?;
    }
    if any { Ok(()) } else { Err(SYNTAX) }
}

/// The octets that `xtext` stands for; `None` where it is none.
pub(super) fn decode(xtext: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(xtext.len());
    let mut octets = xtext.iter();
    while let Some(&octet) = octets.next() {
        value.push(match octet {
            b'+' => hex(octets.next()?)? << 4 | hex(octets.next()?)?,
            b'=' => return None,
            b'!'..=b'~' => octet,
            _ => return None,
        });
    }
    Some(value)
}

/// The same, where what it stands for is 1 to `octets_max` octets of printable ASCII.
pub(super) fn printable(xtext: &[u8], octets_max: usize) -> Option<String> {
    let value = decode(xtext)?;
    let valid =
        (1..=octets_max).contains(&value.len()) && value.iter().all(|octet| (b' '..=b'~').contains(octet));
    valid.then(|| String::from_utf8(value).ok()).flatten()
}

/// RFC 3461 §4: hexadecimal digits are upper case.
fn hex(digit: &u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
