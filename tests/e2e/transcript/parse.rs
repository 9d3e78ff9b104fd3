//! A transcript file: what clients send, what the server must answer.
//!
//! The first line is `# ` and the sentence that the file proves. Then:
//!
//! | line | meaning |
//! | --- | --- |
//! | `C: text`, `C2: text` | the client (connection 2) sends a line; `{{lit\|..}}` and `{{lit+\|..}}` are literals |
//! | `C>: text` | sends octets, with escapes (`\r\n`), without an added CRLF |
//! | `S: pattern` | the next line from the server, literals inlined and escaped (see `pattern`) |
//! | `S*: pattern` | neighbouring ones come in any order |
//! | `S?: pattern` | may be there |
//! | `S~:` | passes over untagged lines up to what the next `S:` says |
//! | `S!: pattern` | no passed-over line may look like this |
//! | `@open 2 imap [raw] [as=2]` | opens a connection; `raw`: the greeting is still to be read |
//! | `@close 2`, `@end 2`, `@quiet 2` | we close; the server must have closed; nothing may have been sent |
//! | `@message NAME` ... `.` | defines a message, lines joined by CRLF (`..` stands for `.`) |
//! | `@let NAME value` | defines a variable |
//! | `@deliver NAME [to=ADDRESS]...` | delivers it by LMTP |
//! | `@append MAILBOX NAME [options]` | appends it on a connection of its own |
//! | `@messages N [MAILBOX]` | appends N small messages, Subject `message 1` to `message N` |
//! | `@mailbox NAME` | creates a mailbox |
//! | `@needs CAPABILITY` | skips the file where a server that is not Culver lacks it |
//! | `@differs NAME: reason` | skips it for that server, which is known to answer otherwise |
//! | `@tls` | needs a listener with implicit TLS |
//!
//! `${'x'*50}` is fifty x; `${x}`, `${x+1}` stand for variables: `user`, `pass`, `user2`, `pass2`, what patterns captured, messages.
//! A connection opens when first named: of the protocol of the file's area, logged in (LHLO for LMTP).

use std::path::{Path, PathBuf};

use crate::fail;
use crate::support::Fallible;

#[derive(Debug)]
pub struct Transcript {
    pub name: String,
    pub area: Protocol,
    pub sentence: String,
    pub steps: Vec<(usize, Step)>,
    pub accounts: usize,
    pub needs: Vec<String>,
    /// Server name and reason.
    pub differs: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Imap,
    Pop3,
    Lmtp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Next,
    Unordered,
    Optional,
    Never,
}

#[derive(Debug)]
pub enum Step {
    Open { connection: String, protocol: Protocol, raw: bool, account: usize },
    Send { connection: String, text: String, raw: bool },
    Expect { connection: String, kind: Kind, pattern: String },
    PassOver { connection: String },
    Close { connection: String },
    End { connection: String },
    Quiet { connection: String },
    Let { name: String, value: String },
    Deliver { message: String, to: Vec<String> },
    Append { mailbox: String, message: String, options: String },
    Messages { count: usize, mailbox: String },
    Mailbox { name: String },
}

fn protocol(word: &str) -> Fallible<Protocol> {
    Ok(match word {
        "imap" => Protocol::Imap,
        "pop3" => Protocol::Pop3,
        "lmtp" => Protocol::Lmtp,
        _ => fail!("no such protocol: {word}"),
    })
}

/// Every transcript under a directory, sorted by name.
pub fn all(directory: &Path) -> Fallible<Vec<Transcript>> {
    let mut transcripts = Vec::new();
    for area in entries(directory)? {
        for file in entries(&area)? {
            if file.extension().is_some_and(|e| e == "txt") {
                transcripts.push(read(&file).map_err(|e| format!("{}: {e}", file.display()))?);
            }
        }
    }
    Ok(transcripts)
}

fn entries(directory: &Path) -> Fallible<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Fallible<Transcript> {
    let text = std::fs::read_to_string(path)?;
    let area_name =
        path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    let sentence = match lines.next().and_then(|(_, line)| line.strip_prefix("# ")) {
        Some(sentence) => sentence.to_owned(),
        None => fail!("1: the first line is `# ` and what the file proves"),
    };
    let mut transcript = Transcript {
        name: format!("{area_name}/{stem}"),
        area: protocol(&area_name)?,
        sentence,
        steps: Vec::new(),
        accounts: if text.contains("user2") || text.contains("as=2") { 2 } else { 1 },
        needs: Vec::new(),
        differs: Vec::new(),
    };
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("@message ") {
            let mut value = String::new();
            loop {
                match lines.next() {
                    Some((_, ".")) => break,
                    Some((_, line)) => {
                        value.push_str(&format!("{}\r\n", line.strip_prefix('.').unwrap_or(line)))
                    }
                    None => fail!("{number}: the message has no end"),
                }
            }
            transcript.steps.push((number, Step::Let { name: name.trim().to_owned(), value }));
            continue;
        }
        directive(&mut transcript, number, line).map_err(|e| format!("{number}: {e}"))?;
    }
    Ok(transcript)
}

fn directive(transcript: &mut Transcript, number: usize, line: &str) -> Fallible {
    let mut add = |step| transcript.steps.push((number, step));
    if let Some(rest) = line.strip_prefix('@') {
        let (word, argument) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut words = argument.split(' ').filter(|w| !w.is_empty());
        let connection = argument.to_owned();
        match word {
            "open" => {
                let connection = words.next().unwrap_or_default().to_owned();
                let mut step = (transcript.area, false, 1);
                for word in words {
                    match word {
                        "raw" => step.1 = true,
                        "as=1" => step.2 = 1,
                        "as=2" => step.2 = 2,
                        word => step.0 = protocol(word)?,
                    }
                }
                let connection = if connection == "0" { String::new() } else { connection };
                add(Step::Open { connection, protocol: step.0, raw: step.1, account: step.2 });
            }
            "close" => add(Step::Close { connection }),
            "end" => add(Step::End { connection }),
            "quiet" => add(Step::Quiet { connection }),
            "let" => {
                let (name, value) = argument.split_once(' ').ok_or("@let NAME value")?;
                add(Step::Let { name: name.to_owned(), value: value.to_owned() });
            }
            "deliver" => {
                let message = words.next().ok_or("@deliver NAME")?.to_owned();
                let to = words.map(|w| w.strip_prefix("to=").map(str::to_owned).ok_or("to=ADDRESS"));
                add(Step::Deliver { message, to: to.collect::<Result<_, _>>()? });
            }
            "append" => {
                let (mailbox, rest) = argument.split_once(' ').ok_or("@append MAILBOX NAME")?;
                let (message, options) = rest.split_once(' ').unwrap_or((rest, ""));
                let options = if options.is_empty() { String::new() } else { format!("{options} ") };
                add(Step::Append { mailbox: mailbox.to_owned(), message: message.to_owned(), options });
            }
            "messages" => {
                let count = words.next().unwrap_or_default().parse()?;
                add(Step::Messages { count, mailbox: words.next().unwrap_or("INBOX").to_owned() });
            }
            "mailbox" => add(Step::Mailbox { name: argument.to_owned() }),
            "needs" => transcript.needs.push(argument.to_owned()),
            "differs" => {
                let (server, reason) = argument.split_once(": ").ok_or("@differs SERVER: reason")?;
                transcript.differs.push((server.to_owned(), reason.to_owned()));
            }
            _ => fail!("no such directive: @{word}"),
        }
        return Ok(());
    }
    let (head, text) = line.split_once(':').ok_or("expected C:, S: or @")?;
    let text = text.strip_prefix(' ').unwrap_or(text).to_owned();
    let marker = head.chars().last().filter(|c| "*?!~>".contains(*c));
    let head = head.trim_end_matches(['*', '?', '!', '~', '>']);
    let connection = head[1..].to_owned();
    if !connection.bytes().all(|b| b.is_ascii_digit()) {
        fail!("expected C:, S: or @, not {line}");
    }
    add(match (&head[..1], marker) {
        ("C", None) => Step::Send { connection, text, raw: false },
        ("C", Some('>')) => Step::Send { connection, text, raw: true },
        ("S", Some('~')) => Step::PassOver { connection },
        ("S", marker) => {
            let kind = match marker {
                None => Kind::Next,
                Some('*') => Kind::Unordered,
                Some('?') => Kind::Optional,
                Some('!') => Kind::Never,
                _ => fail!("no such marker: {line}"),
            };
            Step::Expect { connection, kind, pattern: text }
        }
        _ => fail!("expected C:, S: or @, not {line}"),
    });
    Ok(())
}
