//! The grammar of LMTP commands: one line to one value.

use crate::pop3::line::number;

use super::address::{Address, AddressError, path};
use super::reply::Reply;
use super::{dsn, xclient, xforward};

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Lhlo(&'a str),
    Mail {
        sender: Option<Address>,
        size: Option<u64>,
        eight_bit: bool,
        /// BODY=BINARYMIME (RFC 3030 §3).
        binary: bool,
        utf8: bool,
    },
    Rcpt(Address),
    Data,
    Bdat {
        octets: u64,
        last: bool,
    },
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    Starttls,
    /// What it says of IDENT: `None` nothing, `Some(None)` that there is none.
    Xforward(Option<Option<String>>),
    Xclient(xclient::Said),
}

const NO_ARGUMENT: Reply = (501, "5.5.4", "this command takes no argument");
const UNKNOWN_PARAMETER: Reply = (555, "5.5.4", "unknown parameter");
/// RFC 6531 §3.5: an internationalised address where SMTPUTF8 is not in use.
pub(super) const NEEDS_UTF8: Reply = (553, "5.6.7", "an internationalised address needs SMTPUTF8");

/// Parses a line without its end.
pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, Reply> {
    let (verb, rest) = match line.iter().position(|&b| b == b' ') {
        Some(at) => (&line[..at], line[at..].trim_ascii()),
        None => (line.trim_ascii_end(), &b""[..]),
    };
    let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
    if is(b"LHLO") {
        lhlo(rest)
    } else if is(b"HELO") || is(b"EHLO") {
        // RFC 2033 §4.1: never a positive reply; 500 is recommended.
        Err((500, "5.5.1", "this is LMTP: say LHLO"))
    } else if is(b"MAIL") {
        mail(rest)
    } else if is(b"RCPT") {
        rcpt(rest)
    } else if is(b"DATA") {
        bare(rest, Command::Data)
    } else if is(b"BDAT") {
        bdat(rest)
    } else if is(b"RSET") {
        bare(rest, Command::Rset)
    } else if is(b"NOOP") {
        Ok(Command::Noop)
    } else if is(b"QUIT") {
        bare(rest, Command::Quit)
    } else if is(b"STARTTLS") {
        bare(rest, Command::Starttls)
    } else if is(b"XFORWARD") {
        xforward::parse(rest).map(Command::Xforward)
    } else if is(b"XCLIENT") {
        xclient::parse(rest).map(Command::Xclient)
    } else if is(b"VRFY") && !rest.is_empty() {
        Ok(Command::Vrfy)
    } else if is(b"HELP") {
        Ok(Command::Help)
    } else if is(b"VRFY") {
        Err((501, "5.5.4", "an address is wanted"))
    } else if is(b"EXPN") {
        Err((502, "5.5.1", "command not implemented"))
    } else {
        Err((500, "5.5.1", "unknown command"))
    }
}

fn bare<'a>(rest: &[u8], command: Command<'a>) -> Result<Command<'a>, Reply> {
    if rest.is_empty() { Ok(command) } else { Err(NO_ARGUMENT) }
}

fn lhlo(rest: &[u8]) -> Result<Command<'_>, Reply> {
    match std::str::from_utf8(rest) {
        Ok(name) if !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Command::Lhlo(name))
        }
        _ => Err((501, "5.5.4", "a host name is wanted")),
    }
}

/// The path after `FROM:` or `TO:`, and the parameters.
fn after<'a>(rest: &'a [u8], keyword: &[u8], syntax: Reply) -> Result<(Option<Address>, &'a [u8]), Reply> {
    match rest.split_at_checked(keyword.len()) {
        Some((head, tail)) if head.eq_ignore_ascii_case(keyword) => {
            let (address, parameters) = path(tail.trim_ascii_start()).map_err(|error| match error {
                AddressError::Malformed => syntax,
                AddressError::TooLong => (553, "5.1.3", "address too long"),
                AddressError::Utf8 => (553, "5.6.7", "an address with octets that are not UTF-8"),
            })?;
            if parameters.first().is_some_and(|&b| b != b' ') {
                return Err(syntax);
            }
            Ok((address, parameters))
        }
        _ => Err(syntax),
    }
}

fn words(parameters: &[u8]) -> impl Iterator<Item = &[u8]> {
    parameters.split(|&b| b == b' ').filter(|word| !word.is_empty())
}

fn keyword_and_value(parameter: &[u8]) -> (&[u8], &[u8]) {
    match parameter.iter().position(|&b| b == b'=') {
        Some(at) => (&parameter[..at], &parameter[at + 1..]),
        None => (parameter, b""),
    }
}

fn mail(rest: &[u8]) -> Result<Command<'_>, Reply> {
    let (sender, parameters) = after(rest, b"FROM:", (501, "5.1.7", "malformed sender address"))?;
    let (mut size, mut eight_bit, mut binary, mut utf8) = (None, false, false, false);
    let mut notices = dsn::Envelope::default();
    for parameter in words(parameters) {
        let (keyword, value) = keyword_and_value(parameter);
        if keyword.eq_ignore_ascii_case(b"SIZE") && size.is_none() {
            size = Some(number(value).ok_or((501, "5.5.4", "malformed SIZE"))?);
        } else if keyword.eq_ignore_ascii_case(b"BODY") {
            (eight_bit, binary) = match value {
                v if v.eq_ignore_ascii_case(b"7BIT") => (false, false),
                v if v.eq_ignore_ascii_case(b"8BITMIME") => (true, false),
                v if v.eq_ignore_ascii_case(b"BINARYMIME") => (true, true),
                _ => return Err((501, "5.5.4", "BODY is 7BIT, 8BITMIME or BINARYMIME")),
            };
        } else if parameter.eq_ignore_ascii_case(b"SMTPUTF8") {
            utf8 = true;
        } else if !notices.take(keyword, value)? {
            // RFC 5321 §4.1.1.11: 555 for parameters that are not implemented.
            return Err(UNKNOWN_PARAMETER);
        }
    }
    if !utf8 && sender.as_ref().is_some_and(|sender| !sender.is_ascii()) {
        return Err(NEEDS_UTF8);
    }
    Ok(Command::Mail { sender, size, eight_bit, binary, utf8 })
}

fn rcpt(rest: &[u8]) -> Result<Command<'_>, Reply> {
    let syntax = (501, "5.1.3", "malformed recipient address");
    let (recipient, parameters) = after(rest, b"TO:", syntax)?;
    let mut notices = dsn::Recipient::default();
    for parameter in words(parameters) {
        let (keyword, value) = keyword_and_value(parameter);
        if !notices.take(keyword, value)? {
            return Err(UNKNOWN_PARAMETER);
        }
    }
    recipient.map(Command::Rcpt).ok_or(syntax)
}

fn bdat(rest: &[u8]) -> Result<Command<'_>, Reply> {
    let mut words = rest.split(|&b| b == b' ').filter(|word| !word.is_empty());
    let octets = words.next().and_then(number);
    match (octets, words.next(), words.next()) {
        (Some(octets), None, _) => Ok(Command::Bdat { octets, last: false }),
        (Some(octets), Some(last), None) if last.eq_ignore_ascii_case(b"LAST") => {
            Ok(Command::Bdat { octets, last: true })
        }
        _ => Err((501, "5.5.4", "a chunk size is wanted, and LAST or nothing")),
    }
}
