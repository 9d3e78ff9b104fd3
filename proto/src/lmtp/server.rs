//! The server's end of an LMTP session.
//!
//! # Invariants
//! Every accepted RCPT gets exactly one reply to the end of the message, in order, duplicates too. A transaction is
//! forgotten by RSET, LHLO, STARTTLS and the last of its replies; what XFORWARD said goes with it. What follows STARTTLS in the same read is thrown
//! away. While an event waits for its answer, `next` consumes nothing.
//!
//! # RFC
//! 2033 §4.2 (DATA), §4.3 (BDAT), 3030 §2, 3207 §4.2, 6531 §3.1.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use crate::away::Away;
use crate::pop3::line::{Line, LineCutter};

use super::address::Address;
use super::body::{self, ChunkCutter, DataCutter, Piece};
use super::command::{self, Command};
use super::reply::{self, Refusal, Reply};
use super::{BareLineEnds, Config};
use super::{xclient, xforward};

/// One session.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    tls: bool,
    lhlo: Option<String>,
    /// XFORWARD's IDENT, for the next transaction.
    ident: Option<String>,
    /// Whom XCLIENT said that the client speaks for.
    client: xclient::Client,
    bad_commands: u32,
    lines: LineCutter,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No transaction.
    Idle,
    /// MAIL was accepted.
    Envelope(Transaction),
    /// `Event::Recipient` is open.
    Asking(Transaction, Address),
    Data(Transaction, DataCutter),
    Chunk {
        transaction: Transaction,
        left: u64,
        last: bool,
    },
    /// A chunk outside of any transaction, or after an error in one: so many octets are thrown away, then the reply.
    Discarding {
        transaction: Option<Transaction>,
        left: u64,
        replies: Discarded,
    },
    /// `Event::EndOfData` is open; `answered` recipients have their reply.
    Results {
        transaction: Transaction,
        answered: usize,
    },
    Handshake,
    Closed,
}

#[derive(Clone, Copy, Debug)]
enum Discarded {
    One(Reply),
    OneEach(Refusal),
}

/// The open transaction.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    sender: Option<Address>,
    size: Option<u64>,
    eight_bit: bool,
    binary: bool,
    utf8: bool,
    ident: Option<String>,
    recipients: Vec<Address>,
    octets: u64,
    chunks: Option<ChunkCutter>,
    begun: bool,
    failed: Option<Refusal>,
}

impl Transaction {
    /// The reverse path; `None` is `<>`.
    pub fn sender(&self) -> Option<&Address> {
        self.sender.as_ref()
    }

    /// What MAIL said in SIZE.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether MAIL said BODY=BINARYMIME: octets come as they are, line ends too.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// Whether MAIL said BODY=8BITMIME, or more.
    pub fn is_eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Whether MAIL said SMTPUTF8.
    pub fn is_utf8(&self) -> bool {
        self.utf8
    }

    /// The sender's own id of the message, as XFORWARD gave it.
    pub fn ident(&self) -> Option<&str> {
        self.ident.as_deref()
    }

    /// The accepted recipients in order, duplicates too.
    pub fn recipients(&self) -> &[Address] {
        &self.recipients
    }

    /// Octets of the message given to the driver so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

/// What the driver must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Write `out`, read more, and come back with the octets that were not consumed followed by the new ones. Also
    /// the answer while an event waits for its own.
    NeedMore,
    /// Write `out`, then come back with the same input.
    Write,
    /// Write `out`, shake hands, then [`Server::tls_started`]. Everything read so far is consumed, and what else the
    /// driver may hold from before the handshake must be thrown away. A message that was begun is discarded.
    StartTls,
    /// Look the recipient up, then [`Server::accept_recipient`] or [`Server::refuse_recipient`].
    Recipient(Address),
    /// A message begins for the recipients of [`Server::transaction`].
    Begin,
    /// Octets of the message.
    Data(&'a [u8]),
    /// The message is whole. [`Server::delivered`] or [`Server::refused`] once for each recipient, in order.
    EndOfData,
    /// The message that was begun will not be completed: drop what was written. The client has its answers, or gets
    /// them once it has sent the rest.
    Discard,
    /// Write `out`, then close. A message that was begun is discarded.
    Close,
}

impl Server {
    /// A new session; the greeting goes to `out`.
    pub fn new(config: Arc<Config>, tls: bool, out: &mut Vec<u8>) -> Server {
        let (lines, state) = (LineCutter::default(), State::Idle);
        let client = xclient::Client::default();
        let server = Server { config, tls, lhlo: None, ident: None, client, bad_commands: 0, lines, state };
        server.welcome(out);
        server
    }

    fn welcome(&self, out: &mut Vec<u8>) {
        write!(out, "220 {} LMTP Culver ready\r\n", self.config.host).expect("a Vec takes every octet");
    }

    /// Takes the next step with what the receive buffer holds: how many octets of it are done with, and what to do.
    pub fn next<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> (usize, Event<'a>) {
        let limits = self.config.limits;
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (octets, event) = match &mut self.state {
                State::Closed => return (input.len(), Event::Close),
                State::Handshake | State::Asking(..) | State::Results { .. } => {
                    return (used, Event::NeedMore);
                }
                State::Data(..) | State::Chunk { .. } => self.body(rest, out),
                State::Discarding { .. } => self.discard(rest, out),
                State::Idle | State::Envelope(_) => {
                    if out.len() >= limits.output_octets_max {
                        return (used, Event::Write);
                    }
                    match self.lines.cut(rest, limits.line_octets_max, limits.swallow_octets_max) {
                        Line::Incomplete => (0, Some(Event::NeedMore)),
                        Line::Swallowed(octets) => (octets, Some(Event::NeedMore)),
                        Line::TooLong(octets) => {
                            // RFC 5321 §4.5.3.1.9.
                            self.bad(out, (500, "5.5.2", "line too long"));
                            (octets, None)
                        }
                        Line::Endless => {
                            self.shut_down(Refusal::TooManyErrors, out);
                            (0, None)
                        }
                        Line::Whole(line, octets) => (octets, self.line(line, out)),
                    }
                }
            };
            used += octets;
            match event {
                // RFC 3207 §4.2: nothing that the client sent before the handshake outlives it.
                Some(Event::StartTls) => return (input.len(), Event::StartTls),
                Some(event) => return (used, event),
                None => {}
            }
        }
    }

    fn line<'a>(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Event<'a>> {
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(mistake) => {
                self.bad(out, mistake);
                return None;
            }
        };
        match command {
            Command::Lhlo(name) => {
                self.lhlo = Some(name.to_owned());
                self.greet(out);
                return self.forget();
            }
            Command::Rset => {
                reply::write(out, OK);
                return self.forget();
            }
            Command::Noop => reply::write(out, OK),
            // RFC 5321 §3.5.3: 252 where a server will not say.
            Command::Vrfy => reply::write(out, (252, "2.0.0", "try RCPT")),
            Command::Help => reply::write(out, (214, "2.0.0", "see RFC 2033")),
            Command::Quit => {
                write!(out, "221 2.0.0 {} closing connection\r\n", self.config.host)
                    .expect("a Vec takes every octet");
                self.state = State::Closed;
            }
            Command::Starttls if self.tls => self.bad(out, (503, "5.5.1", "TLS is active already")),
            Command::Starttls if !self.config.starttls => {
                self.bad(out, (502, "5.5.1", "STARTTLS is not offered"))
            }
            Command::Starttls => {
                reply::write(out, (220, "2.0.0", "begin TLS"));
                self.state = State::Handshake;
                return Some(Event::StartTls);
            }
            // Before LHLO too.
            Command::Xclient(said) => self.xclient(said, out),
            // A chunk follows its command whatever the answer is, and must never be read as commands.
            Command::Bdat { octets, last } => return self.bdat(octets, last, out),
            _ if self.lhlo.is_none() => self.bad(out, (503, "5.5.1", "say LHLO first")),
            Command::Mail { sender, size, eight_bit, binary, utf8 } => {
                let transaction =
                    Transaction { sender, size, eight_bit, binary, utf8, ..Transaction::default() };
                self.mail(transaction, out);
            }
            Command::Rcpt(recipient) => return self.rcpt(recipient, out),
            Command::Data => return self.data(out),
            Command::Xforward(ident) => self.xforward(ident, out),
        }
        None
    }

    fn greet(&self, out: &mut Vec<u8>) {
        // RFC 2034 §4: the answer to LHLO has no enhanced code.
        let size = self.config.limits.message_octets_max;
        let starttls = if self.config.starttls && !self.tls { "250-STARTTLS\r\n" } else { "" };
        let line = |offered: bool, name: &str, names: &str| match offered {
            true => format!("250-{name} {names}\r\n"),
            false => String::new(),
        };
        let xforward = line(self.config.xforward, "XFORWARD", xforward::NAMES);
        let xclient = line(self.config.xclient, "XCLIENT", xclient::NAMES);
        write!(
            out,
            "250-{}\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE {size}\r\n250-CHUNKING\r\n250-BINARYMIME\r\n{starttls}\
             {xforward}{xclient}250 ENHANCEDSTATUSCODES\r\n",
            self.config.host
        )
        .expect("a Vec takes every octet");
    }

    fn xforward(&mut self, ident: Option<Option<String>>, out: &mut Vec<u8>) {
        if !self.config.xforward {
            return self.bad(out, (550, "5.7.0", "XFORWARD is not for this client"));
        }
        if let State::Envelope(_) = self.state {
            return self.bad(out, (503, "5.5.1", "a transaction is open already"));
        }
        if let Some(ident) = ident {
            self.ident = ident;
        }
        reply::write(out, OK);
    }

    /// The session begins anew, for another client.
    fn xclient(&mut self, said: xclient::Said, out: &mut Vec<u8>) {
        if !self.config.xclient {
            return self.bad(out, (550, "5.7.0", "XCLIENT is not for this client"));
        }
        if let State::Envelope(_) = self.state {
            return self.bad(out, (503, "5.5.1", "a transaction is open already"));
        }
        self.client.hear(said);
        self.lhlo = None;
        self.ident = None;
        self.welcome(out);
    }

    /// Ends the transaction from the client's side.
    fn forget<'a>(&mut self) -> Option<Event<'a>> {
        self.ident = None;
        let open = match std::mem::replace(&mut self.state, State::Idle) {
            State::Envelope(transaction) => transaction.begun && transaction.failed.is_none(),
            _ => false,
        };
        open.then_some(Event::Discard)
    }

    fn mail(&mut self, mut transaction: Transaction, out: &mut Vec<u8>) {
        if let State::Envelope(_) = self.state {
            // RFC 5321 §4.1.4: MAIL within a transaction.
            return self.bad(out, (503, "5.5.1", "a transaction is open already"));
        }
        if transaction.size.is_some_and(|size| size > self.config.limits.message_octets_max) {
            // RFC 1870 §6.1.
            return reply::write(out, Refusal::TooLarge.reply());
        }
        reply::write(out, (250, "2.1.0", "sender OK"));
        transaction.ident = self.ident.take();
        self.state = State::Envelope(transaction);
    }

    fn rcpt<'a>(&mut self, recipient: Address, out: &mut Vec<u8>) -> Option<Event<'a>> {
        match &mut self.state {
            State::Envelope(transaction) if !transaction.begun => {
                if transaction.recipients.len() >= self.config.limits.recipients_max {
                    // RFC 5321 §4.5.3.1.10: 452 for too many recipients.
                    reply::write(out, Refusal::TooManyRecipients.reply());
                } else if !transaction.utf8 && !recipient.is_ascii() {
                    self.bad(out, command::NEEDS_UTF8);
                } else if recipient.local().contains('@') {
                    // An account's name has one "@"; a quoted one must not reach into another domain.
                    reply::write_for(out, &recipient, Refusal::UnknownUser.reply());
                } else {
                    self.state = State::Asking(std::mem::take(transaction), recipient.clone());
                    return Some(Event::Recipient(recipient));
                }
            }
            State::Envelope(_) => self.bad(out, (503, "5.5.1", "the message has begun")),
            _ => self.bad(out, (503, "5.5.1", "MAIL comes first")),
        }
        None
    }

    /// Answers `Recipient` with yes.
    pub fn accept_recipient(&mut self, out: &mut Vec<u8>) {
        if let State::Asking(transaction, recipient) = &mut self.state {
            let mut transaction = std::mem::take(transaction);
            reply::write_for(out, recipient, (250, "2.1.5", "OK"));
            transaction.recipients.push(recipient.clone());
            self.state = State::Envelope(transaction);
        }
    }

    /// Answers `Recipient` with no.
    pub fn refuse_recipient(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        if let State::Asking(transaction, recipient) = &mut self.state {
            reply::write_for(out, recipient, refusal.reply());
            self.state = State::Envelope(std::mem::take(transaction));
        }
    }

    /// Refuses a recipient whose account is not served here.
    pub fn refuse_recipient_away(&mut self, away: &Away, out: &mut Vec<u8>) {
        if let State::Asking(transaction, recipient) = &mut self.state {
            reply::write_away(out, recipient, away);
            self.state = State::Envelope(std::mem::take(transaction));
        }
    }

    fn data<'a>(&mut self, out: &mut Vec<u8>) -> Option<Event<'a>> {
        match &mut self.state {
            // RFC 3030 §2: DATA after BDAT in one transaction is a bad sequence.
            State::Envelope(transaction) if transaction.begun => {
                self.bad(out, (503, "5.5.1", "BDAT has begun"))
            }
            // RFC 3030 §3: what is binary has no end that DATA could tell.
            State::Envelope(transaction) if transaction.binary => {
                self.bad(out, (503, "5.5.1", "BODY=BINARYMIME needs BDAT"));
            }
            State::Envelope(transaction) if !transaction.recipients.is_empty() => {
                out.extend_from_slice(b"354 send the message, end with CRLF.CRLF\r\n");
                let mut transaction = std::mem::take(transaction);
                transaction.begun = true;
                self.state = State::Data(transaction, DataCutter::new());
                return Some(Event::Begin);
            }
            // RFC 2033 §4.2: no successful RCPT, 503.
            _ => self.bad(out, (503, "5.5.1", "no valid recipients")),
        }
        None
    }

    fn bdat<'a>(&mut self, octets: u64, last: bool, out: &mut Vec<u8>) -> Option<Event<'a>> {
        match &mut self.state {
            State::Envelope(transaction) if !transaction.recipients.is_empty() => {
                let mut transaction = std::mem::take(transaction);
                if let Some(refusal) = transaction.failed {
                    // RFC 3030 §2: chunks in the pipeline behind a failed one are thrown away.
                    let replies =
                        if last { Discarded::OneEach(refusal) } else { Discarded::One(BAD_SEQUENCE) };
                    self.state = State::Discarding { transaction: Some(transaction), left: octets, replies };
                    return None;
                }
                let begins = !transaction.begun;
                transaction.begun = true;
                transaction.chunks.get_or_insert_default();
                self.state = State::Chunk { transaction, left: octets, last };
                begins.then_some(Event::Begin)
            }
            // RFC 2033 §4.3: with no successful RCPT, BDAT LAST returns zero replies.
            State::Envelope(transaction) if last => {
                let replies = Discarded::OneEach(Refusal::Temporary);
                let transaction = Some(std::mem::take(transaction));
                self.state = State::Discarding { transaction, left: octets, replies };
                None
            }
            state => {
                let transaction = match state {
                    State::Envelope(transaction) => Some(std::mem::take(transaction)),
                    _ => None,
                };
                self.state =
                    State::Discarding { transaction, left: octets, replies: Discarded::One(BAD_SEQUENCE) };
                self.count_bad(out);
                None
            }
        }
    }

    /// Throws away what is left of a chunk that nobody wants.
    fn discard<'a>(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Event<'a>>) {
        let State::Discarding { transaction, left, replies } = &mut self.state else { return (0, None) };
        let octets = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
        *left -= octets as u64;
        if *left > 0 {
            return (octets, Some(Event::NeedMore));
        }
        match *replies {
            Discarded::One(reply) => {
                reply::write(out, reply);
                self.state = transaction.take().map_or(State::Idle, State::Envelope);
            }
            Discarded::OneEach(refusal) => {
                for recipient in transaction.iter().flat_map(|transaction| &transaction.recipients) {
                    reply::write_for(out, recipient, refusal.reply());
                }
                self.state = State::Idle;
            }
        }
        (octets, None)
    }

    /// Passes on what is there of a message.
    fn body<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> (usize, Option<Event<'a>>) {
        let (octets, piece, transaction) = match &mut self.state {
            State::Data(transaction, cutter) => {
                let (octets, piece) = cutter.cut(input);
                (octets, piece, transaction)
            }
            State::Chunk { transaction, left, last } => {
                let (octets, piece) = match transaction.binary {
                    true => body::whole(input, *left),
                    false => transaction.chunks.get_or_insert_default().cut(input, *left, *last),
                };
                *left -= octets as u64;
                if matches!(piece, Piece::NeedMore) && *left == 0 {
                    return (octets, self.end_of_chunk(out));
                }
                (octets, piece, transaction)
            }
            _ => return (0, None),
        };
        let content = match piece {
            Piece::NeedMore => return (octets, Some(Event::NeedMore)),
            Piece::End => return (octets, self.end_of_data(out)),
            Piece::Octets(content) => content,
            Piece::Bare => &b"\r\n"[..],
        };
        if transaction.failed.is_some() {
            return (octets, None);
        }
        let total = transaction.octets.saturating_add(content.len() as u64);
        if piece == Piece::Bare && self.config.bare_line_ends == BareLineEnds::Refuse {
            transaction.failed = Some(Refusal::BareLineEnd);
        } else if total > self.config.limits.message_octets_max {
            transaction.failed = Some(Refusal::TooLarge);
        } else {
            transaction.octets = total;
            return (octets, Some(Event::Data(content)));
        }
        (octets, Some(Event::Discard))
    }

    fn end_of_chunk<'a>(&mut self, out: &mut Vec<u8>) -> Option<Event<'a>> {
        let State::Chunk { transaction, last, .. } = &mut self.state else { return None };
        if *last {
            return self.end_of_data(out);
        }
        reply::write(out, transaction.failed.map_or((250, "2.0.0", "chunk OK"), Refusal::reply));
        self.state = State::Envelope(std::mem::take(transaction));
        None
    }

    fn end_of_data<'a>(&mut self, out: &mut Vec<u8>) -> Option<Event<'a>> {
        let (State::Data(transaction, _) | State::Chunk { transaction, .. }) = &mut self.state else {
            return None;
        };
        let transaction = std::mem::take(transaction);
        let Some(refusal) = transaction.failed else {
            self.state = State::Results { transaction, answered: 0 };
            return Some(Event::EndOfData);
        };
        for recipient in &transaction.recipients {
            reply::write_for(out, recipient, refusal.reply());
        }
        self.state = State::Idle;
        None
    }

    /// The driver cannot take the message that was begun: the rest is thrown away, and every recipient gets
    /// `refusal`. `Discard` does not follow.
    pub fn abandon(&mut self, refusal: Refusal) {
        match &mut self.state {
            State::Envelope(transaction) | State::Data(transaction, _) | State::Chunk { transaction, .. }
                if transaction.begun =>
            {
                transaction.failed.get_or_insert(refusal);
            }
            _ => {}
        }
    }

    /// Answers `EndOfData` for the next recipient: the copy is durable. `id` goes into the reply, for the logs of
    /// the client.
    pub fn delivered(&mut self, id: &str, out: &mut Vec<u8>) {
        self.result(out, |out, recipient| {
            let id: String = id.chars().filter(char::is_ascii_graphic).take(64).collect();
            write!(out, "250 2.0.0 <{recipient}> {id} saved\r\n").expect("a Vec takes every octet");
        });
    }

    /// Answers `EndOfData` for the next recipient: no copy.
    pub fn refused(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.result(out, |out, recipient| reply::write_for(out, recipient, refusal.reply()));
    }

    /// The same, where the account is not served here any more.
    pub fn refused_away(&mut self, away: &Away, out: &mut Vec<u8>) {
        self.result(out, |out, recipient| reply::write_away(out, recipient, away));
    }

    fn result(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>, &Address)) {
        if let State::Results { transaction, answered } = &mut self.state {
            if let Some(recipient) = transaction.recipients.get(*answered) {
                write(out, recipient);
                *answered += 1;
            }
            if *answered >= transaction.recipients.len() {
                self.state = State::Idle;
            }
        }
    }

    /// The handshake is done. RFC 3207 §4.2: LHLO and the transaction are forgotten.
    pub fn tls_started(&mut self) {
        if let State::Handshake = self.state {
            self.tls = true;
            self.lhlo = None;
            self.ident = None;
            self.client = xclient::Client::default();
            self.lines = LineCutter::default();
            self.state = State::Idle;
        }
    }

    /// Ends the session from the server's side; `Close` follows.
    pub fn shut_down(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        match &self.state {
            State::Closed | State::Handshake => {}
            // The only replies that the client waits for are those of its recipients.
            State::Results { transaction, answered } => {
                for recipient in &transaction.recipients[*answered..] {
                    reply::write_for(out, recipient, Refusal::Temporary.reply());
                }
            }
            _ => {
                let (_, enhanced, text) = refusal.reply();
                reply::write(out, (421, enhanced, text));
            }
        }
        self.state = State::Closed;
    }

    /// How long the client may be silent, in milliseconds; then [`expire`](Server::expire).
    pub fn idle_ms_max(&self) -> u64 {
        self.config.limits.idle_ms_max
    }

    /// The client was silent too long.
    pub fn expire(&mut self, out: &mut Vec<u8>) {
        self.shut_down(Refusal::Idle, out);
    }

    /// The open transaction, from MAIL to the last reply.
    pub fn transaction(&self) -> Option<&Transaction> {
        match &self.state {
            State::Envelope(transaction)
            | State::Asking(transaction, _)
            | State::Data(transaction, _)
            | State::Chunk { transaction, .. }
            | State::Results { transaction, .. } => Some(transaction),
            State::Discarding { transaction, .. } => transaction.as_ref(),
            State::Idle | State::Handshake | State::Closed => None,
        }
    }

    /// The name that the client gave with LHLO, or that a proxy gave of its client.
    pub fn lhlo(&self) -> Option<&str> {
        self.client.helo.as_deref().or(self.lhlo.as_deref())
    }

    /// Whom a proxy speaks for (XCLIENT).
    pub fn client_address(&self) -> Option<IpAddr> {
        self.client.address
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    fn bad(&mut self, out: &mut Vec<u8>, mistake: Reply) {
        reply::write(out, mistake);
        self.count_bad(out);
    }

    fn count_bad(&mut self, out: &mut Vec<u8>) {
        self.bad_commands = self.bad_commands.saturating_add(1);
        if self.bad_commands >= self.config.limits.bad_commands_max {
            self.shut_down(Refusal::TooManyErrors, out);
        }
    }
}

const OK: Reply = (250, "2.0.0", "OK");
const BAD_SEQUENCE: Reply = (503, "5.5.1", "bad sequence of commands");
