//! The grammar of POP3 commands: one line to one value.

use super::line::number;

/// A command. Arguments are slices of the line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Command<'a> {
    User(&'a [u8]),
    Pass(&'a [u8]),
    Auth {
        mechanism: &'a [u8],
        initial: Option<&'a [u8]>,
    },
    AuthList,
    Apop,
    Capa,
    /// RFC 6856 §3: a language range, or which there are.
    Lang(Option<&'a [u8]>),
    Stls,
    Stat,
    List(Option<u32>),
    Uidl(Option<u32>),
    Retr(u32),
    Top(u32, u64),
    Dele(u32),
    Noop,
    Rset,
    Quit,
}

/// What is wrong with a line, in the words of the answer.
pub(super) type Mistake = &'static str;

const UNKNOWN: Mistake = "unknown command";
const NO_ARGUMENT: Mistake = "this command takes no argument";
const NUMBER_WANTED: Mistake = "a message number is wanted";
const TOP_WANTED: Mistake = "a message number and a number of lines are wanted";

/// Parses a line without its end.
pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, Mistake> {
    let (verb, rest) = match line.iter().position(|&b| b == b' ') {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    };
    let mut buffer = [0u8; 4];
    let Some(slot) = buffer.get_mut(..verb.len()) else { return Err(UNKNOWN) };
    slot.copy_from_slice(verb);
    slot.make_ascii_uppercase();
    match &buffer[..verb.len()] {
        b"USER" => match rest {
            Some(name) if !name.trim_ascii().is_empty() => Ok(Command::User(name.trim_ascii())),
            _ => Err("a user name is wanted"),
        },
        b"PASS" => match rest {
            // RFC 1939 §7: the only argument; spaces may be part of the password.
            Some(password) if !password.is_empty() => Ok(Command::Pass(password)),
            _ => Err("a password is wanted"),
        },
        b"AUTH" => {
            let mut words = words(rest);
            match (words.next(), words.next(), words.next()) {
                (None, ..) => Ok(Command::AuthList),
                (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
                _ => Err("too many arguments"),
            }
        }
        b"APOP" => Ok(Command::Apop),
        b"CAPA" => bare(rest, Command::Capa),
        b"LANG" => {
            let mut words = words(rest);
            match (words.next(), words.next()) {
                (range, None) => Ok(Command::Lang(range)),
                _ => Err("one language is wanted"),
            }
        }
        b"STLS" => bare(rest, Command::Stls),
        b"STAT" => bare(rest, Command::Stat),
        b"LIST" => optional(rest).map(Command::List),
        b"UIDL" => optional(rest).map(Command::Uidl),
        b"RETR" => optional(rest)?.map(Command::Retr).ok_or(NUMBER_WANTED),
        b"DELE" => optional(rest)?.map(Command::Dele).ok_or(NUMBER_WANTED),
        b"TOP" => {
            let mut words = words(rest);
            match (words.next().map(message), words.next().and_then(number), words.next()) {
                (Some(Ok(message)), Some(lines), None) => Ok(Command::Top(message, lines)),
                _ => Err(TOP_WANTED),
            }
        }
        b"NOOP" => bare(rest, Command::Noop),
        b"RSET" => bare(rest, Command::Rset),
        b"QUIT" => bare(rest, Command::Quit),
        _ => Err(UNKNOWN),
    }
}

fn words(rest: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    rest.unwrap_or_default().split(|&b| b == b' ').filter(|word| !word.is_empty())
}

fn bare<'a>(rest: Option<&[u8]>, command: Command<'a>) -> Result<Command<'a>, Mistake> {
    if words(rest).next().is_none() { Ok(command) } else { Err(NO_ARGUMENT) }
}

fn optional(rest: Option<&[u8]>) -> Result<Option<u32>, Mistake> {
    let mut words = words(rest);
    match (words.next(), words.next()) {
        (None, _) => Ok(None),
        (Some(word), None) => message(word).map(Some),
        _ => Err(NUMBER_WANTED),
    }
}

/// A number that is none of ours becomes 0, which no message has.
fn message(word: &[u8]) -> Result<u32, Mistake> {
    let value = number(word).ok_or(NUMBER_WANTED)?;
    Ok(u32::try_from(value).unwrap_or(0))
}
