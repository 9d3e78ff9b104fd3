//! HTML as text: what a reader sees, for searching, or in lines for a preview.

use super::Charset;
use super::extract::Source;
use crate::mime::transfer::{Decoder, Encoding};
use html5gum::{Emitter, Error, Reader, State, Tokenizer};
use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

/// Tags that do not part words.
const INLINE: [&str; 34] = [
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font",
    "i", "ins", "kbd", "mark", "nobr", "o:p", "q", "s", "samp", "small", "span", "strike", "strong", "sub",
    "sup", "time", "tt", "u", "var", "wbr",
];
/// Octets of tag and attribute names that are kept: more than any that matters.
const NAME_OCTETS_MAX: usize = 16;
/// Octets of an `alt` that are kept.
const ALT_OCTETS_MAX: usize = 4096;
/// Rendered octets that are gathered before they are given on.
const GIVEN_OCTETS: usize = 4096;

/// A text/html body that is being rendered.
pub(super) struct Html<'m> {
    tokenizer: Tokenizer<Octets<'m>, Renderer>,
    left: Rc<Cell<usize>>,
}

impl<'m> Html<'m> {
    pub(super) fn new(source: Source<'m>) -> Html<'m> {
        Html::with(source, Renderer::default())
    }

    /// Renders lines: what stands in a block begins one, with a `>` before it where it is quoted. Without the title and
    /// `alt`s.
    pub(super) fn in_lines(source: Source<'m>) -> Html<'m> {
        Html::with(source, Renderer { in_lines: true, ..Renderer::default() })
    }

    fn with(source: Source<'m>, renderer: Renderer) -> Html<'m> {
        let left = Rc::new(Cell::new(0));
        let reader = Octets { source, left: Rc::clone(&left) };
        let renderer = Renderer { left: Rc::clone(&left), ..renderer };
        Html { tokenizer: Tokenizer::new_with_emitter(reader, renderer), left }
    }

    /// Renders about `budget` octets more of the message. Gives how many, and whether the end is reached.
    pub(super) fn step(&mut self, budget: usize, sink: &mut impl FnMut(&str)) -> (usize, bool) {
        self.left.set(budget);
        loop {
            match self.tokenizer.next() {
                Some(Ok(text)) => {
                    sink(&text);
                    if self.left.get() == 0 {
                        return (budget, false);
                    }
                }
                Some(Err(never)) => match never {},
                None => return (budget - self.left.get(), true),
            }
        }
    }
}

/// The charset that a `charset=` in the first kilobyte names (HTML §4.2.5.5, and the http-equiv form).
pub(super) fn meta_charset(body: &[u8], encoding: Encoding) -> Charset {
    const LOOKED_AT: usize = 1024;
    let mut head = Vec::new();
    Decoder::new(encoding).feed(&body[..body.len().min(LOOKED_AT * 2)], &mut head);
    head.truncate(LOOKED_AT);
    head.make_ascii_lowercase();
    let Some(at) = memchr::memmem::find(&head, b"charset=") else { return Charset::UNKNOWN };
    let value = &head[at + b"charset=".len()..];
    let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
    let end = value.iter().position(|byte| byte.is_ascii_whitespace() || b"\"'>;/".contains(byte));
    Charset::of(&value[..end.unwrap_or(value.len())])
}

struct Octets<'m> {
    source: Source<'m>,
    left: Rc<Cell<usize>>,
}

impl Octets<'_> {
    fn fill(&mut self, wanted: usize) -> &[u8] {
        if self.source.octets().len() < wanted {
            let used = self.source.fill(wanted);
            self.left.set(self.left.get().saturating_sub(used));
        }
        self.source.octets()
    }
}

impl Reader for Octets<'_> {
    type Error = Infallible;

    fn read_byte(&mut self) -> Result<Option<u8>, Infallible> {
        let first = self.fill(1).first().copied();
        self.source.consume(usize::from(first.is_some()));
        Ok(first)
    }

    fn try_read_string(&mut self, text: &[u8], case_sensitive: bool) -> Result<bool, Infallible> {
        let Some(next) = self.fill(text.len()).get(..text.len()) else { return Ok(false) };
        let same = if case_sensitive { next == text } else { next.eq_ignore_ascii_case(text) };
        if same {
            self.source.consume(text.len());
        }
        Ok(same)
    }

    fn read_until<'b>(
        &'b mut self,
        needle: &[u8],
        char_buf: &'b mut [u8; 4],
    ) -> Result<Option<&'b [u8]>, Infallible> {
        let octets = self.fill(1);
        let Some(first) = octets.first().copied() else { return Ok(None) };
        if needle.contains(&first) {
            char_buf[0] = first;
            self.source.consume(1);
            return Ok(Some(&char_buf[..1]));
        }
        let end = octets.iter().position(|byte| needle.contains(byte)).unwrap_or(octets.len());
        // Consumed octets stay where they are until the next fill.
        self.source.consume(end);
        Ok(Some(self.source.before(end)))
    }
}

/// Takes the tokenizer's events and keeps what is text.
#[derive(Default)]
struct Renderer {
    left: Rc<Cell<usize>>,
    text: Vec<u8>,
    at_end: bool,
    tag: Vec<u8>,
    is_end_tag: bool,
    last_start_tag: Vec<u8>,
    /// Within an element whose content is no text.
    hidden: bool,
    attribute: Vec<u8>,
    alt: Vec<u8>,
    /// See [`Html::in_lines`]; and how many blockquotes are open.
    in_lines: bool,
    quotes: usize,
}

impl Renderer {
    fn push(buffer: &mut Vec<u8>, octets: &[u8], octets_max: usize) {
        let room = octets_max.saturating_sub(buffer.len()).min(octets.len());
        buffer.extend_from_slice(&octets[..room]);
    }
}

impl Emitter for Renderer {
    type Token = String;

    fn set_last_start_tag(&mut self, last_start_tag: Option<&[u8]>) {
        self.last_start_tag = last_start_tag.unwrap_or_default().to_vec();
    }

    fn emit_eof(&mut self) {
        self.at_end = true;
    }

    fn emit_error(&mut self, _: Error) {}

    fn should_emit_errors(&mut self) -> bool {
        false
    }

    /// The text so far, where it is enough, or the budget is used up, or at the end.
    fn pop_token(&mut self) -> Option<String> {
        let due = self.text.len() >= GIVEN_OCTETS || (self.at_end && !self.text.is_empty());
        if !due && (self.left.get() > 0 || self.at_end) {
            return None;
        }
        let whole = match std::str::from_utf8(&self.text) {
            // Octets come one by one, so a character may be there in part.
            Err(error) if error.error_len().is_none() && !self.at_end => error.valid_up_to(),
            _ => self.text.len(),
        };
        let rest = self.text.split_off(whole);
        let text = std::mem::replace(&mut self.text, rest);
        Some(
            String::from_utf8(text)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        )
    }

    fn emit_string(&mut self, text: &[u8]) {
        if self.hidden {
            return;
        }
        if self.in_lines {
            // Line ends of the source are white space, and no lines.
            self.text
                .extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        } else {
            self.text.extend_from_slice(text);
        }
    }

    fn init_start_tag(&mut self) {
        self.tag.clear();
        self.alt.clear();
        self.is_end_tag = false;
    }

    fn init_end_tag(&mut self) {
        self.tag.clear();
        self.is_end_tag = true;
    }

    fn init_comment(&mut self) {}

    fn emit_current_tag(&mut self) -> Option<State> {
        let inline = INLINE.iter().any(|name| name.as_bytes() == self.tag);
        if self.in_lines && self.tag == b"blockquote" {
            self.quotes =
                if self.is_end_tag { self.quotes.saturating_sub(1) } else { self.quotes.saturating_add(1) };
        }
        if !inline && self.in_lines && !matches!(self.tag.as_slice(), b"td" | b"th" | b"img") {
            self.text.extend_from_slice(if self.quotes > 0 { b"\n>" } else { b"\n" });
        } else if !inline {
            self.text.push(b' ');
        }
        if self.is_end_tag {
            self.hidden = false;
            self.last_start_tag.clear();
            return None;
        }
        if self.tag == b"img" && !self.alt.is_empty() && !self.in_lines {
            let alt = String::from_utf8_lossy(&self.alt).into_owned();
            self.text.extend_from_slice(alt.as_bytes());
            self.text.push(b' ');
        }
        self.attribute.clear();
        self.last_start_tag.clone_from(&self.tag);
        let state = match self.tag.as_slice() {
            b"title" | b"textarea" => State::RcData,
            b"script" => State::ScriptData,
            b"style" | b"iframe" | b"xmp" | b"noembed" | b"noframes" => State::RawText,
            _ => return None,
        };
        self.hidden = !matches!(self.tag.as_slice(), b"title" | b"textarea" | b"xmp")
            || (self.in_lines && self.tag == b"title");
        Some(state)
    }

    fn emit_current_comment(&mut self) {}
    fn emit_current_doctype(&mut self) {}
    fn set_self_closing(&mut self) {}
    fn set_force_quirks(&mut self) {}

    fn push_tag_name(&mut self, name: &[u8]) {
        Renderer::push(&mut self.tag, name, NAME_OCTETS_MAX);
    }

    fn push_comment(&mut self, _: &[u8]) {}
    fn push_doctype_name(&mut self, _: &[u8]) {}
    fn init_doctype(&mut self) {}

    fn init_attribute(&mut self) {
        self.attribute.clear();
    }

    fn push_attribute_name(&mut self, name: &[u8]) {
        Renderer::push(&mut self.attribute, name, NAME_OCTETS_MAX);
    }

    fn push_attribute_value(&mut self, value: &[u8]) {
        if self.attribute == b"alt" {
            Renderer::push(&mut self.alt, value, ALT_OCTETS_MAX);
        }
    }

    fn set_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn set_doctype_system_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_system_identifier(&mut self, _: &[u8]) {}

    fn current_is_appropriate_end_tag_token(&mut self) -> bool {
        self.is_end_tag && !self.tag.is_empty() && self.tag == self.last_start_tag
    }
}
