//! xtext: printable ASCII in which `+` and two hexadecimal digits stand for an octet.
//!
//! # RFC
//! 3461 §4.

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
