//! The base subject (RFC 5256 §2.1): what is left of a subject without its marks of replies and forwards.

/// A subject without what replying and forwarding added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseSubject<'t> {
    pub text: &'t str,
    /// A mark of a reply or of a forward was taken away: THREAD=REFERENCES asks.
    pub reply: bool,
}

/// Step 1 of RFC 5256 §2.1, of a subject whose encoded words are decoded: tabs are spaces, several spaces are one.
pub fn plain_spaces(decoded: &str) -> String {
    let mut plain = String::with_capacity(decoded.len());
    for c in decoded.chars() {
        match c {
            ' ' | '\t' if plain.ends_with(' ') => {}
            '\t' => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

/// Steps 2 to 7, of what [`plain_spaces`] gave. One pass from either end: no subject makes it slow.
pub fn base_subject(plain: &str) -> BaseSubject<'_> {
    let (mut text, mut reply) = (plain, false);
    loop {
        // RFC 5256 §2.1 (2): subj-trailer.
        loop {
            text = text.trim_end_matches(' ');
            match cut_end(text, "(fwd)") {
                Some(rest) => (text, reply) = (rest, true),
                None => break,
            }
        }
        text = leaders(text, &mut reply);
        // RFC 5256 §2.1 (6): subj-fwd.
        match cut_start(text, "[fwd:").and_then(|rest| rest.strip_suffix(']')) {
            Some(rest) => (text, reply) = (rest, true),
            None => return BaseSubject { text, reply },
        }
    }
}

/// RFC 5256 §2.1 (3) to (5): subj-leader and subj-blob, until there is none.
fn leaders<'t>(mut text: &'t str, reply: &mut bool) -> &'t str {
    loop {
        text = text.trim_start_matches(' ');
        // A run of blobs belongs to a subj-refwd, or is taken away blob by blob: in either case the run goes as one.
        let (mut rest, mut last) = (text, text);
        while let Some(after) = blob(rest) {
            (last, rest) = (rest, after);
        }
        if let Some(after) = refwd(rest) {
            *reply = true;
            text = after;
            continue;
        }
        // (4): not the last one, if nothing else would be left.
        return if rest.is_empty() { last } else { rest };
    }
}

/// subj-blob with its white space.
fn blob(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let end = inner.find(['[', ']'])?;
    Some(inner[end..].strip_prefix(']')?.trim_start_matches(' '))
}

/// subj-refwd.
fn refwd(text: &str) -> Option<&str> {
    ["re", "fwd", "fw"].into_iter().find_map(|word| {
        let rest = cut_start(text, word)?.trim_start_matches(' ');
        blob(rest).unwrap_or(rest).strip_prefix(':')
    })
}

fn cut_start<'t>(text: &'t str, ascii: &str) -> Option<&'t str> {
    let head = text.as_bytes().get(..ascii.len())?;
    head.eq_ignore_ascii_case(ascii.as_bytes()).then(|| &text[ascii.len()..])
}

fn cut_end<'t>(text: &'t str, ascii: &str) -> Option<&'t str> {
    let at = text.len().checked_sub(ascii.len())?;
    text.as_bytes()[at..].eq_ignore_ascii_case(ascii.as_bytes()).then(|| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_subjects() {
        for (subject, base, reply) in [
            ("", "", false),
            ("  ", "", false),
            ("hello", "hello", false),
            ("hello  \t world ", "hello world", false),
            ("Re: hello", "hello", true),
            ("RE : hello", "hello", true),
            ("re:re:Re:  hello", "hello", true),
            ("Fw: hello", "hello", true),
            ("FWD: hello", "hello", true),
            ("Fwd[2]: hello", "hello", true),
            ("Re [list] : hello", "hello", true),
            ("hello (fwd)", "hello", true),
            ("hello (FWD) (fwd) ", "hello", true),
            ("[list] hello", "hello", false),
            ("[list] Re: hello", "hello", true),
            ("[a] [b][c] Re: [d] Fwd: hello", "hello", true),
            ("Re: [list] hello", "hello", true),
            ("[list]", "[list]", false),
            ("[a] [b]", "[b]", false),
            ("Re: [a]", "[a]", true),
            ("[a", "[a", false),
            ("[a[b] x", "[a[b] x", false),
            ("]x", "]x", false),
            ("[fwd: hello]", "hello", true),
            ("[Fwd: Re: [list] hello (fwd)]", "hello", true),
            ("[fwd: [fwd: hello] ]", "hello", true),
            ("[fwd:]", "", true),
            ("Re:", "", true),
            ("Re: Fwd: (fwd)", "", true),
            ("rehello", "rehello", false),
            ("rea: hello", "rea: hello", false),
            ("fwdd: x", "fwdd: x", false),
            ("AW: hello", "AW: hello", false),
            ("hello [x]", "hello [x]", false),
            ("r\u{e9}: x", "r\u{e9}: x", false),
            ("\u{20ac}(fwd)", "\u{20ac}", true),
        ] {
            let plain = plain_spaces(subject);
            assert_eq!(base_subject(&plain), BaseSubject { text: base, reply }, "{subject}");
        }
    }

    #[test]
    fn a_long_run_of_blobs_is_not_slow() {
        let subject = format!("{}[", "[a]".repeat(200_000));
        assert_eq!(base_subject(&subject).text, "[");
        let subject = "[fwd:".repeat(200_000);
        assert_eq!(base_subject(&subject).text.len(), subject.len());
    }
}
