//! What a line of a server may look like: text with holes in it.
//!
//! | hole | matches |
//! | --- | --- |
//! | `{{any}}`, `{{any:x}}` | anything, kept as `x` |
//! | `{{num}}`, `{{num:x}}`, `{{num>y}}`, `{{num>=y:x}}` | a number, compared with a variable or number |
//! | `{{word}}`, `{{word:x}}` | octets other than space, parentheses, brackets and quotes |
//! | `{{str}}` | NIL, a quoted string or a literal |
//! | `{{s\|text}}` | that text as an atom, a quoted string or a literal |
//! | `{{set\|a b c?}}` | those words in any order; `c?` may be absent |
//! | `{{flags\|\Seen}}` | the same, and `\Recent` may be there |
//! | `{{perm\|A; B; C?}}` | those patterns in any order, with spaces between |
//! | `{{opt\|A}}`, `{{or\|A; B}}` | A or nothing; one of them |
//!
//! ` ...` at the end is ` {{any}}`, or nothing. Text outside of holes stands for itself.

use std::collections::BTreeMap;

use crate::fail;
use crate::support::Fallible;

pub type Variables = BTreeMap<String, String>;

/// The most steps one line's match may take; patterns are ours, so this only catches a mistake.
const STEPS_MAX: u32 = 2_000_000;

#[derive(Clone, Debug)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Any(Option<String>),
    Number { least: Option<(u64, bool)>, name: Option<String> },
    Word(Option<String>),
    AnyString,
    StringOf(String),
    Permutation(Vec<(Pattern, bool)>),
    Choice(Vec<Pattern>),
}

impl Pattern {
    /// Reads a pattern whose `${x}` have been put in already; `variables` serve comparisons.
    pub fn parse(text: &str, variables: &Variables) -> Fallible<Pattern> {
        let mut pieces = Vec::new();
        let (text, tail) = match text.strip_suffix(" ...") {
            Some(head) => (head, true),
            None => (text, false),
        };
        let mut rest = text;
        while let Some(open) = rest.find("{{") {
            if open > 0 {
                pieces.push(Piece::Text(rest[..open].to_owned()));
            }
            let inner = &rest[open + 2..];
            let close = closing(inner).ok_or_else(|| format!("a hole without an end: {text}"))?;
            pieces.push(hole(&inner[..close], variables)?);
            rest = &inner[close + 2..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if tail {
            let more = Pattern(vec![Piece::Text(" ".into()), Piece::Any(None)]);
            pieces.push(Piece::Choice(vec![more, Pattern(Vec::new())]));
        }
        Ok(Pattern(pieces))
    }

    /// The variables the match captured, or `None`.
    pub fn matches(&self, line: &str) -> Option<Variables> {
        let mut steps = 0;
        let mut found = None;
        walk(&self.0, line, &Variables::new(), &mut steps, &mut |rest, captured| {
            if rest.is_empty() {
                found = Some(captured.clone());
            }
            rest.is_empty()
        });
        found
    }
}

/// Where the `}}` stands that closes a hole opened just before `text`.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"{{" => (depth, at) = (depth + 1, at + 2),
            b"}}" if depth == 0 => return Some(at),
            b"}}" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    None
}

/// Splits at `separator` outside of inner holes.
fn split_top(text: &str, separator: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            depth = if rest.starts_with("{{") { depth + 1 } else { depth.saturating_sub(1) };
            parts.last_mut().expect("never empty").push_str(&rest[..2]);
            at += 2;
        } else if depth == 0 && rest.starts_with(separator) {
            parts.push(String::new());
            at += separator.len();
        } else {
            let c = rest.chars().next().expect("not at the end");
            parts.last_mut().expect("never empty").push(c);
            at += c.len_utf8();
        }
    }
    parts
}

/// A number, a variable, a variable plus or minus a number, or `'text'*N`.
pub fn evaluate(expression: &str, variables: &Variables) -> Fallible<String> {
    let look = |name: &str| -> Fallible<String> {
        match variables.get(name) {
            Some(value) => Ok(value.clone()),
            None => fail!("no variable {name}"),
        }
    };
    if expression.parse::<u64>().is_ok() {
        return Ok(expression.to_owned());
    }
    if let Some((text, count)) = expression.strip_prefix('\'').and_then(|rest| rest.rsplit_once("'*")) {
        return Ok(text.repeat(count.parse()?));
    }
    for (sign, plus) in [('+', true), ('-', false)] {
        if let Some((name, number)) = expression.split_once(sign)
            && let Ok(number) = number.parse::<u64>()
        {
            let value: u64 = look(name)?.parse()?;
            return Ok(if plus { value + number } else { value.saturating_sub(number) }.to_string());
        }
    }
    look(expression)
}

fn hole(text: &str, variables: &Variables) -> Fallible<Piece> {
    if let Some((kind, argument)) = text.split_once('|') {
        let optional = |part: &str| -> Fallible<(Pattern, bool)> {
            let (part, optional) = match part.strip_suffix('?') {
                Some(part) => (part, true),
                None => (part, false),
            };
            Ok((Pattern::parse(part, variables)?, optional))
        };
        let several = |separator: &str| split_top(argument, separator);
        return Ok(match kind {
            "s" => Piece::StringOf(argument.to_owned()),
            "set" | "flags" => {
                let mut words: Vec<(Pattern, bool)> = several(" ")
                    .iter()
                    .filter(|w| !w.is_empty())
                    .map(|w| optional(w))
                    .collect::<Fallible<_>>()?;
                if kind == "flags" {
                    words.push((Pattern(vec![Piece::Text("\\Recent".into())]), true));
                }
                Piece::Permutation(words)
            }
            "perm" => Piece::Permutation(several("; ").iter().map(|p| optional(p)).collect::<Fallible<_>>()?),
            "opt" => Piece::Choice(vec![Pattern::parse(argument, variables)?, Pattern(Vec::new())]),
            "or" => Piece::Choice(
                several("; ").iter().map(|p| Pattern::parse(p, variables)).collect::<Fallible<_>>()?,
            ),
            _ => fail!("no such hole: {text}"),
        });
    }
    let (head, name) = match text.split_once(':') {
        Some((head, name)) => (head, Some(name.to_owned())),
        None => (text, None),
    };
    Ok(match head {
        "any" => Piece::Any(name),
        "word" => Piece::Word(name),
        "str" => Piece::AnyString,
        "num" => Piece::Number { least: None, name },
        _ => {
            let Some(compared) = head.strip_prefix("num>") else { fail!("no such hole: {text}") };
            let (expression, equal) = match compared.strip_prefix('=') {
                Some(expression) => (expression, true),
                None => (compared, false),
            };
            let value = evaluate(expression, variables)?.parse()?;
            Piece::Number { least: Some((value, equal)), name }
        }
    })
}

type Next<'a> = &'a mut dyn FnMut(&str, &Variables) -> bool;

/// Matches `pieces` at the start of `line` and asks `next` about the rest, until it says yes.
fn walk(pieces: &[Piece], line: &str, captured: &Variables, steps: &mut u32, next: Next) -> bool {
    *steps += 1;
    if *steps > STEPS_MAX {
        return false;
    }
    let Some((piece, more)) = pieces.split_first() else { return next(line, captured) };
    let with = |name: &Option<String>, value: &str| -> Variables {
        let mut captured = captured.clone();
        if let Some(name) = name {
            captured.insert(name.clone(), value.to_owned());
        }
        captured
    };
    match piece {
        Piece::Text(text) => {
            line.strip_prefix(text.as_str()).is_some_and(|rest| walk(more, rest, captured, steps, next))
        }
        Piece::Any(name) => {
            ends(line).any(|end| walk(more, &line[end..], &with(name, &line[..end]), steps, next))
        }
        Piece::Number { least, name } => {
            let end = line.bytes().take_while(u8::is_ascii_digit).count();
            let Ok(value) = line[..end].parse::<u64>() else { return false };
            let enough = least.is_none_or(|(bound, equal)| value > bound || equal && value == bound);
            enough && walk(more, &line[end..], &with(name, &line[..end]), steps, next)
        }
        Piece::Word(name) => {
            let end = line.find([' ', '(', ')', '[', ']', '"']).unwrap_or(line.len());
            end > 0 && walk(more, &line[end..], &with(name, &line[..end]), steps, next)
        }
        Piece::AnyString => {
            any_string(line).into_iter().any(|end| walk(more, &line[end..], captured, steps, next))
        }
        Piece::StringOf(text) => spellings(text).iter().any(|spelling| {
            line.strip_prefix(spelling.as_str()).is_some_and(|rest| walk(more, rest, captured, steps, next))
        }),
        Piece::Choice(patterns) => patterns.iter().any(|pattern| {
            let tail: Vec<Piece> = pattern.0.iter().chain(more).cloned().collect();
            walk(&tail, line, captured, steps, next)
        }),
        Piece::Permutation(parts) => {
            if parts.iter().all(|(_, optional)| *optional) && walk(more, line, captured, steps, next) {
                return true;
            }
            permute(parts, true, line, captured, steps, &mut |rest, captured, steps| {
                walk(more, rest, captured, steps, next)
            })
        }
    }
}

type AfterAll<'a> = &'a mut dyn FnMut(&str, &Variables, &mut u32) -> bool;

fn permute(
    parts: &[(Pattern, bool)],
    first: bool,
    line: &str,
    captured: &Variables,
    steps: &mut u32,
    done: AfterAll,
) -> bool {
    if !first && parts.iter().all(|(_, optional)| *optional) && done(line, captured, steps) {
        return true;
    }
    let line = if first { line } else { line.strip_prefix(' ').unwrap_or("") };
    for n in 0..parts.len() {
        let mut ends = Vec::new();
        walk(&parts[n].0.0, line, captured, steps, &mut |rest, captured| {
            ends.push((line.len() - rest.len(), captured.clone()));
            false
        });
        let mut left = parts.to_vec();
        left.remove(n);
        for (end, captured) in ends {
            if permute(&left, false, &line[end..], &captured, steps, done) {
                return true;
            }
        }
    }
    false
}

/// Every place where a character begins, and the end.
fn ends(line: &str) -> impl Iterator<Item = usize> {
    line.char_indices().map(|(at, _)| at).chain([line.len()])
}

/// Where a string (NIL, quoted, literal) at the start of `line` may end.
fn any_string(line: &str) -> Vec<usize> {
    if line.starts_with("NIL") {
        return vec![3];
    }
    if let Some(inner) = line.strip_prefix('"') {
        let mut escaped = false;
        for (at, c) in inner.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return vec![at + 2],
                _ => {}
            }
        }
        return Vec::new();
    }
    match line.find('}') {
        Some(close) if line.starts_with('{') => ends(line).filter(|&end| end > close).collect(),
        _ => Vec::new(),
    }
}

fn spellings(text: &str) -> [String; 3] {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    [format!("\"{quoted}\""), format!("{{{}}}{text}", unescape(text).len()), text.to_owned()]
        .map(|s| if text.is_empty() && s.is_empty() { "\"\"".into() } else { s })
}

/// Octets that a transcript writes as `\r`, `\n`, `\t`, `\0`, `\\`, `\xNN`.
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (octet, used) = match (bytes[at], bytes.get(at + 1)) {
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'0')) => (0, 2),
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'x')) => {
                match text.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(octet) => (octet, 4),
                    None => (b'\\', 1),
                }
            }
            (octet, _) => (octet, 1),
        };
        out.push(octet);
        at += used;
    }
    out
}

/// The tests of the patterns themselves; they run with the suite.
pub fn self_test() -> Fallible {
    let none = Variables::new();
    let table = [
        (
            "* 1 FETCH ({{perm|UID {{num}}; FLAGS ({{flags|\\Seen}})}})",
            "* 1 FETCH (FLAGS (\\Seen \\Recent) UID 5)",
            true,
        ),
        ("* 1 FETCH ({{perm|UID {{num}}; FLAGS ({{flags|\\Seen}})}})", "* 1 FETCH (FLAGS () UID 5)", false),
        ("* FLAGS ({{flags|}})", "* FLAGS ()", true),
        ("a OK ...", "a OK", true),
        ("a OK ...", "a OKAY", false),
        ("x {{s|a b}}", "x \"a b\"", true),
        ("x {{s|a b}}", "x {3}a b", true),
        ("x {{s|a b}}", "x {4}a b", false),
        ("x {{s|}}", "x ", false),
        ("{{num>5}}", "5", false),
        ("{{num>=5}}", "5", true),
        ("({{str}} {{str}})", "(\"a \\\" b\" NIL)", true),
        ("{{set|a b c?}}", "b a", true),
        ("{{set|a b c?}}", "b a c", true),
        ("{{set|a b c?}}", "b a d", false),
        ("x{{opt| y}}", "x y", true),
        ("{{or|a; {{num}}}}", "12", true),
    ];
    for (pattern, line, expected) in table {
        let got = Pattern::parse(pattern, &none)?.matches(line).is_some();
        crate::ensure!(got == expected, "pattern {pattern} against {line}: expected {expected}, got {got}");
    }
    let captured = Pattern::parse("[A {{num:v}} {{num:u}}]", &none)?.matches("[A 1 22]").ok_or("no match")?;
    crate::ensure!(captured["v"] == "1" && captured["u"] == "22", "captured {captured:?}");
    Ok(())
}
