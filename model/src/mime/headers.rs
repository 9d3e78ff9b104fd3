//! Header blocks: their fields as raw octets, unfolding, and the filters of HEADER.FIELDS.
//!
//! A header block ends with its first empty line. Both CRLF and LF end a line; a line that begins with space or tab
//! continues the one before it. Lines that are no field (an mbox `From ` line, text without a colon) are fields
//! without a name, so that nothing of a block is lost.

/// One field of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'h> {
    /// As written, without space before the colon; empty where the line is no field.
    pub name: &'h [u8],
    /// Raw octets after the colon, without the last line end; folded as written.
    pub value: &'h [u8],
    /// The whole field with its line ends.
    pub line: &'h [u8],
}

impl Field<'_> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header block, in order; stops at the empty line.
pub fn fields(block: &[u8]) -> Fields<'_> {
    Fields { rest: block }
}

/// See [`fields`].
#[derive(Clone, Debug)]
pub struct Fields<'h> {
    rest: &'h [u8],
}

impl<'h> Iterator for Fields<'h> {
    type Item = Field<'h>;

    fn next(&mut self) -> Option<Field<'h>> {
        if self.rest.is_empty() || self.rest.starts_with(b"\n") || self.rest.starts_with(b"\r\n") {
            return None;
        }
        let mut end = 0;
        loop {
            match memchr::memchr(b'\n', &self.rest[end..]) {
                Some(at) => end += at + 1,
                None => end = self.rest.len(),
            }
            if !matches!(self.rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        let content = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        let field = match memchr::memchr(b':', content) {
            Some(colon) => {
                // RFC 5322 §4.5.1: obsolete fields have white space before the colon.
                let name = content[..colon].trim_ascii_end();
                let proper = !name.is_empty() && name.iter().all(|byte| (0x21..=0x7e).contains(byte));
                if proper {
                    Field { name, value: &content[colon + 1..], line }
                } else {
                    Field { name: b"", value: content, line }
                }
            }
            None => Field { name: b"", value: content, line },
        };
        Some(field)
    }
}

/// The first field with this name.
pub fn field<'h>(block: &'h [u8], name: &str) -> Option<Field<'h>> {
    fields(block).find(|field| field.is(name))
}

/// A field's value on one line: line ends are removed (RFC 5322 §2.2.3), the space they stood before stays; space
/// around the whole is cut. NUL, which no answer may carry, is dropped.
pub fn unfold(value: &[u8]) -> Vec<u8> {
    let mut line: Vec<u8> = Vec::with_capacity(value.len());
    line.extend(value.trim_ascii().iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
    line
}

/// The fields of a header block that `names` lists, or with `not` those that it does not list, as they stand and in
/// their order; then the empty line, where the block has one.
// RFC 3501 §6.4.5: subsetting does not exclude the blank line, except where the message has none.
pub fn filter_header<S: AsRef<str>>(block: &[u8], names: &[S], not: bool) -> Vec<u8> {
    let mut wanted: Vec<String> = names.iter().map(|name| name.as_ref().to_ascii_lowercase()).collect();
    wanted.sort_unstable();
    let listed = |name: &[u8]| {
        let lower = name.to_ascii_lowercase();
        wanted.binary_search_by(|have| have.as_bytes().cmp(&lower)).is_ok()
    };
    let mut filtered = Vec::new();
    let mut all = fields(block);
    for field in all.by_ref() {
        if listed(field.name) != not {
            filtered.extend_from_slice(field.line);
        }
    }
    if all.rest.starts_with(b"\r\n") {
        filtered.extend_from_slice(b"\r\n");
    } else if all.rest.starts_with(b"\n") {
        filtered.push(b'\n');
    }
    filtered
}
