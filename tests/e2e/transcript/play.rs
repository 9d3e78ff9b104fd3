//! Plays a transcript against a server and says where the two part.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parse::{Kind, Protocol, Step, Transcript};
use super::pattern::{Pattern, Variables, evaluate, unescape};
use crate::support::connection::{Connection, Read1, Unit, escape};
use crate::support::imap::{Imap, quoted};
use crate::support::lmtp::Lmtp;
use crate::support::pop3::Pop3;
use crate::support::server::{Ports, password, user};
use crate::support::{Fallible, skip};
use crate::{ensure, fail};

/// How long silence must last to count as silence.
const QUIET: Duration = Duration::from_millis(300);
/// Lines of the conversation that a failure shows.
const SHOWN_LINES_MAX: usize = 24;
/// Characters of one line that a failure shows.
const SHOWN_CHARS_MAX: usize = 400;

struct Peer {
    connection: Connection,
    protocol: Protocol,
    /// A line read but not yet matched.
    held: Option<Unit>,
    pass_over: bool,
    never: Vec<(usize, String)>,
}

pub struct Player<'a> {
    ports: &'a Ports,
    server: &'a str,
    accounts: Vec<usize>,
    variables: Variables,
    peers: BTreeMap<String, Peer>,
    set_up: Option<Imap>,
    conversation: Vec<String>,
}

/// Plays one transcript with accounts that nobody else uses.
pub fn play(transcript: &Transcript, ports: &Ports, server: &str, accounts: Vec<usize>) -> Fallible {
    if let Some((_, reason)) = transcript.differs.iter().find(|(name, _)| name == server) {
        return skip(format!("{server} differs: {reason}"));
    }
    let mut variables = Variables::new();
    for (n, account) in accounts.iter().enumerate() {
        let suffix = if n == 0 { String::new() } else { (n + 1).to_string() };
        variables.insert(format!("user{suffix}"), user(*account));
        variables.insert(format!("pass{suffix}"), password(*account));
        let (local, domain) =
            user(*account).split_once('@').map(|(l, d)| (l.to_owned(), d.to_owned())).unwrap_or_default();
        variables.insert(format!("local{suffix}"), local);
        variables.insert(format!("domain{suffix}"), domain);
    }
    let mut player = Player {
        ports,
        server,
        accounts,
        variables,
        peers: BTreeMap::new(),
        set_up: None,
        conversation: Vec::new(),
    };
    player.check_needs(transcript)?;
    let mut at = 0;
    while at < transcript.steps.len() {
        let line = transcript.steps[at].0;
        let taken =
            player.step(transcript, at).map_err(|e| player.report(transcript, line, &e.to_string()))?;
        at += taken;
    }
    player.nothing_left().map_err(|e| player.report(transcript, 0, &e.to_string()))?;
    Ok(())
}

impl Player<'_> {
    fn check_needs(&mut self, transcript: &Transcript) -> Fallible {
        if transcript.needs.is_empty() || self.server == "culver" {
            return Ok(());
        }
        let has = self.set_up()?.must("CAPABILITY")?.lines().join(" ");
        match transcript.needs.iter().find(|need| !has.split(' ').any(|c| c == need.as_str())) {
            Some(need) => skip(format!("the server has no {need}")),
            None => Ok(()),
        }
    }

    fn report(&self, transcript: &Transcript, line: usize, error: &str) -> String {
        let from = self.conversation.len().saturating_sub(SHOWN_LINES_MAX);
        let cut = |line: &String| line.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        let shown = self.conversation[from..].iter().map(cut).collect::<Vec<_>>().join("\n    ");
        format!(
            "tests/transcripts/{}.txt:{line}\n  proves: {}\n  conversation:\n    {shown}\n  {}",
            transcript.name,
            transcript.sentence,
            error.replace('\n', "\n  "),
        )
    }

    fn set_up(&mut self) -> Fallible<&mut Imap> {
        if self.set_up.is_none() {
            let account = self.accounts[0];
            self.set_up = Some(Imap::login(self.ports.imap, &user(account), &password(account))?);
        }
        Ok(self.set_up.as_mut().expect("just set"))
    }

    fn open(&mut self, name: &str, protocol: Protocol, raw: bool, account: usize) -> Fallible {
        let (user, password) = {
            let n = *self.accounts.get(account - 1).ok_or("the file has one account only")?;
            (user(n), password(n))
        };
        let connection = match protocol {
            Protocol::Imap if !raw => Imap::login(self.ports.imap, &user, &password)?.connection,
            Protocol::Pop3 if !raw => Pop3::login(self.ports.pop3, &user, &password)?.connection,
            Protocol::Lmtp if !raw => Lmtp::open(self.ports.lmtp)?.connection,
            Protocol::Imap => Connection::open(self.ports.imap)?,
            Protocol::Pop3 => Connection::open(self.ports.pop3)?,
            Protocol::Lmtp => Connection::open(self.ports.lmtp)?,
        };
        let peer = Peer { connection, protocol, held: None, pass_over: false, never: Vec::new() };
        self.peers.insert(name.to_owned(), peer);
        Ok(())
    }

    fn peer(&mut self, name: &str, area: Protocol) -> Fallible<&mut Peer> {
        if !self.peers.contains_key(name) {
            self.open(name, area, false, 1)?;
        }
        Ok(self.peers.get_mut(name).expect("just opened"))
    }

    /// Puts the variables in.
    fn fill_in(&self, text: &str) -> Fallible<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(open) = rest.find("${") {
            let close = open + rest[open..].find('}').ok_or("a variable without an end")?;
            out.push_str(&rest[..open]);
            out.push_str(&evaluate(&rest[open + 2..close], &self.variables)?);
            rest = &rest[close + 1..];
        }
        Ok(out + rest)
    }

    /// Does the step at `at`; gives how many steps were done.
    fn step(&mut self, transcript: &Transcript, at: usize) -> Fallible<usize> {
        let area = transcript.area;
        match &transcript.steps[at].1 {
            Step::Open { connection, protocol, raw, account } => {
                self.open(connection, *protocol, *raw, *account)?
            }
            Step::Send { connection, text, raw } => self.send(connection, area, text, *raw)?,
            Step::Expect { connection, kind: Kind::Never, pattern } => {
                let line = transcript.steps[at].0;
                let pattern = self.fill_in(pattern)?;
                self.peer(connection, area)?.never.push((line, pattern));
            }
            Step::Expect { connection, kind, pattern } => {
                let mut patterns = vec![pattern.clone()];
                if *kind == Kind::Unordered {
                    patterns.extend(transcript.steps[at + 1..].iter().map_while(|(_, step)| match step {
                        Step::Expect { connection: c, kind: Kind::Unordered, pattern } if c == connection => {
                            Some(pattern.clone())
                        }
                        _ => None,
                    }));
                }
                let taken = patterns.len();
                self.expect(connection, area, *kind, patterns)?;
                return Ok(taken);
            }
            Step::PassOver { connection } => self.peer(connection, area)?.pass_over = true,
            Step::Close { connection } => {
                let peer = self.peers.remove(connection).ok_or("no such connection")?;
                peer.connection.shutdown();
            }
            Step::End { connection } => {
                let peer = self.peers.get_mut(connection).ok_or("no such connection")?;
                let rest = peer.connection.read_to_end()?;
                ensure!(rest.is_empty(), "expected the end, the server sent: {}", escape(&rest));
                self.peers.remove(connection);
            }
            Step::Quiet { connection } => self.quiet(connection, area)?,
            Step::Let { name, value } => {
                let value = self.fill_in(value)?;
                self.variables.insert(name.clone(), value);
            }
            Step::Deliver { message, to } => self.deliver(message, to)?,
            Step::Append { mailbox, message, options } => {
                let message = self.variables.get(message).ok_or("no such message")?.clone();
                let answer = self.set_up()?.append(mailbox, options, message.as_bytes())?;
                ensure!(answer.ok(), "@append: {}", answer.result);
            }
            Step::Messages { count, mailbox } => {
                let set_up = self.set_up()?;
                for n in 1..=*count {
                    let message = small_message(n);
                    let answer = set_up.append(mailbox, "", message.as_bytes())?;
                    ensure!(answer.ok(), "@messages: {}", answer.result);
                }
            }
            Step::Mailbox { name } => {
                let command = format!("CREATE {}", quoted(name));
                self.set_up()?.must(&command)?;
            }
        }
        Ok(1)
    }

    fn send(&mut self, name: &str, area: Protocol, text: &str, raw: bool) -> Fallible {
        self.conversation.push(format!("C{name}: {text}"));
        let text = self.fill_in(text)?;
        if raw {
            return self.peer(name, area)?.connection.send(&unescape(&text));
        }
        let mut rest = text.as_str();
        // RFC 3501 §4.3: a synchronising literal's octets follow the server's continuation.
        while let Some(open) = rest.find("{{lit") {
            let inner = &rest[open + 5..];
            let close = inner.find("}}").ok_or("a literal without an end")?;
            let (kind, content) = inner[..close].split_once('|').ok_or("{{lit|octets}}")?;
            let octets = unescape(content);
            let head = format!("{}{{{}{kind}}}\r\n", &rest[..open], octets.len());
            self.peer(name, area)?.connection.send(head.as_bytes())?;
            if kind.is_empty() {
                self.expect(name, area, Kind::Next, vec!["+{{any}}".into()])?;
            }
            self.peer(name, area)?.connection.send(&octets)?;
            rest = &inner[close + 2..];
        }
        self.peer(name, area)?.connection.send_line(rest)
    }

    fn expect(&mut self, name: &str, area: Protocol, kind: Kind, patterns: Vec<String>) -> Fallible {
        let mut wanted = Vec::new();
        for pattern in patterns {
            let filled = self.fill_in(&pattern)?;
            wanted.push(filled);
        }
        while !wanted.is_empty() {
            let variables = self.variables.clone();
            let peer = self.peer(name, area)?;
            let unit = match peer.held.take() {
                Some(unit) => unit,
                None => {
                    let (limit, literals) = (peer.connection.limit, peer.protocol == Protocol::Imap);
                    let why = match peer.connection.read_within(literals, limit) {
                        Ok(Read1::Unit(unit)) => Ok(unit),
                        // What may be there need not be: the end of the connection is no failure yet.
                        Ok(Read1::End) if kind == Kind::Optional => return Ok(()),
                        Ok(Read1::End) => Err("the server closed the connection".to_owned()),
                        Ok(Read1::Nothing) => Err(format!("no answer within {limit:?}")),
                        Err(e) => Err(e.to_string()),
                    };
                    why.map_err(|e| format!("expected: {}\n{e}", wanted.join("\n     or: ")))?
                }
            };
            let shown = unit.shown();
            let mut hit = None;
            for (n, pattern) in wanted.iter().enumerate() {
                if let Some(captured) = Pattern::parse(pattern, &variables)?.matches(&shown) {
                    hit = Some((n, captured));
                    break;
                }
            }
            let Some((n, captured)) = hit else {
                if kind == Kind::Optional {
                    peer.held = Some(unit);
                    return Ok(());
                }
                let untagged = peer.protocol != Protocol::Imap || shown.starts_with("* ");
                if peer.pass_over && untagged {
                    for (line, never) in &peer.never {
                        let forbidden = Pattern::parse(never, &variables)?.matches(&shown).is_some();
                        ensure!(!forbidden, "line {line} forbids: {shown}");
                    }
                } else if !ignorable(&shown) {
                    fail!("expected: {}\n     got: {shown}", wanted.join("\n     or: "));
                }
                self.conversation.push(format!("S{name}~ {shown}"));
                continue;
            };
            wanted.remove(n);
            if wanted.is_empty() {
                peer.pass_over = false;
                peer.never.clear();
            }
            self.conversation.push(format!("S{name}: {shown}"));
            self.variables.extend(captured);
        }
        Ok(())
    }

    fn quiet(&mut self, name: &str, area: Protocol) -> Fallible {
        let peer = self.peer(name, area)?;
        if let Some(unit) = &peer.held {
            fail!("expected silence, got: {}", unit.shown());
        }
        match peer.connection.read_within(true, QUIET)? {
            Read1::Unit(unit) if !ignorable(&unit.shown()) => {
                fail!("expected silence, got: {}", unit.shown())
            }
            Read1::End => fail!("expected silence, the server closed"),
            _ => Ok(()),
        }
    }

    fn deliver(&mut self, message: &str, to: &[String]) -> Fallible {
        let message = self.variables.get(message).ok_or("no such message")?.clone();
        let mut recipients = Vec::new();
        for address in to {
            recipients.push(self.fill_in(address)?);
        }
        if recipients.is_empty() {
            recipients.push(user(self.accounts[0]));
        }
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let mut lmtp = Lmtp::open(self.ports.lmtp)?;
        for reply in lmtp.deliver("sender@example.net", &recipients, message.as_bytes())? {
            ensure!(reply.starts_with("250"), "@deliver: {reply}");
        }
        Ok(())
    }

    /// A line that nobody expected must not be left behind.
    fn nothing_left(&mut self) -> Fallible {
        for (name, peer) in &mut self.peers {
            if let Some(unit) = &peer.held {
                fail!("connection {name}: left over: {}", unit.shown());
            }
            if let Read1::Unit(unit) =
                peer.connection.read_within(peer.protocol == Protocol::Imap, Duration::from_millis(1))?
                && !ignorable(&unit.shown())
            {
                fail!("connection {name}: left over: {}", unit.shown());
            }
        }
        Ok(())
    }
}

/// RECENT and keep-alives may come at any time and prove nothing.
fn ignorable(shown: &str) -> bool {
    let recent = shown.starts_with("* ") && shown.ends_with(" RECENT");
    recent || shown.eq_ignore_ascii_case("* OK Still here")
}

pub fn small_message(n: usize) -> String {
    format!(
        "From: Sender <sender@example.net>\r\nTo: you@example.test\r\nSubject: message {n}\r\n\
         Date: Mon, 02 Nov 2026 10:00:{:02} +0100\r\nMessage-ID: <m{n}@example.net>\r\n\r\nbody {n}\r\n",
        n % 60
    )
}
