//! The server's end of a POP3 session.
//!
//! # Invariants
//! At most one request is open; while it is, `next` consumes nothing. What follows STLS in the same read is thrown
//! away, never taken for a command under TLS.
//!
//! # Limits
//! A listing is written in pieces of [`Limits::output_octets_max`](super::Limits), so that a slow client holds back
//! its own listing and costs no memory.

use std::io::Write;
use std::sync::Arc;

use crate::away::Away;
use crate::sasl::{
    self, Channel, Credentials, Exchange, Failure, Hash, Keys, Mechanism, Proof, Secret, Step,
};

use super::Config;
use super::command::{self, Command};
use super::dot::{Stuffer, TopCutter};
use super::line::{Line, LineCutter};
use super::maildrop::Maildrop;
use super::reply::{self, Refusal};

/// One session.
#[derive(Debug)]
pub struct Server {
    pub(super) config: Arc<Config>,
    pub(super) tls: bool,
    pub(super) bad_commands: u32,
    pub(super) failed_logins: u32,
    pub(super) lines: LineCutter,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// RFC 1939 §4. `user` is there between USER and PASS.
    Authorization {
        user: Option<String>,
    },
    Sasl(Exchange),
    /// STLS is answered; the handshake is the driver's.
    Handshake,
    /// `Event::Keys` is open.
    Keys(Exchange),
    /// `Event::Login` is open. `exchange` is there where SASL brought it.
    Verifying {
        exchange: Option<Exchange>,
    },
    Transaction {
        maildrop: Maildrop,
    },
    Listing {
        maildrop: Maildrop,
        uidl: bool,
        next: u32,
    },
    /// `Event::Message` is open. `cutter` is there for TOP.
    Asked {
        maildrop: Maildrop,
        number: u32,
        cutter: Option<TopCutter>,
    },
    Sending {
        maildrop: Maildrop,
        cutter: Option<TopCutter>,
        stuffer: Stuffer,
    },
    /// `Event::Quit` is open (RFC 1939 §6: the UPDATE state).
    Committing {
        maildrop: Maildrop,
    },
    Closed,
}

/// Who wants in, and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As sent: not yet canonical.
    pub user: String,
    pub proof: Proof,
    /// `None` for USER and PASS.
    pub mechanism: Option<Mechanism>,
}

/// What the driver must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Write `out`, read more, and come back with the octets that were not consumed followed by the new ones. Also
    /// the answer while a request is open.
    NeedMore,
    /// Write `out`, then come back with the same input.
    Write,
    /// Find the user's SCRAM keys, or such as nobody can prove, then [`Server::keys`] or [`Server::refuse`].
    Keys { user: String, hash: Hash },
    /// Verify, open the mailbox, then [`Server::login_ok`] or [`Server::refuse`].
    Login(Login),
    /// Write `out`, shake hands, then [`Server::tls_started`]. Everything read so far is consumed; what else the driver
    /// may hold from before the handshake must be thrown away.
    StartTls,
    /// Send the message: [`Server::begin_message`], [`Server::message_chunk`] until it wants no more or the message
    /// is over, [`Server::end_message`]; or [`Server::refuse`]. `top` says that only the beginning is wanted.
    Message { number: u32, uid: culver_model::Uid, size: u64, top: bool },
    /// Expunge [`Server::maildrop`]'s deleted messages in one commit, then [`Server::quit_ok`] or [`Server::refuse`].
    Quit,
    /// Write `out`, then close. Marks that were not committed are forgotten.
    Close,
}

impl Server {
    /// A new session; the greeting goes to `out`.
    pub fn new(config: Arc<Config>, tls: bool, out: &mut Vec<u8>) -> Server {
        // RFC 1939 §7: a timestamp in angle brackets would offer APOP. RFC 2449 §3: 512 octets at most.
        let greeting: String = config
            .greeting
            .chars()
            .filter(|c| (' '..='~').contains(c) && !"<>[".contains(*c))
            .take(500)
            .collect();
        reply::ok(out, &greeting);
        let state = State::Authorization { user: None };
        Server { config, tls, bad_commands: 0, failed_logins: 0, lines: LineCutter::default(), state }
    }

    /// Takes the next step with what the receive buffer holds: how many octets of it are done with, and what to do.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Event) {
        let limits = self.config.limits;
        let mut used = 0;
        loop {
            match &self.state {
                State::Closed => return (input.len(), Event::Close),
                State::Handshake
                | State::Keys(_)
                | State::Verifying { .. }
                | State::Asked { .. }
                | State::Sending { .. }
                | State::Committing { .. } => return (used, Event::NeedMore),
                State::Listing { .. }
                | State::Authorization { .. }
                | State::Sasl(_)
                | State::Transaction { .. } => {}
            }
            if !self.list_on(out) {
                return (used, Event::Write);
            }
            if out.len() >= limits.output_octets_max {
                return (used, Event::Write);
            }
            let rest = &input[used..];
            let event = match self.lines.cut(rest, limits.line_octets_max, limits.swallow_octets_max) {
                Line::Incomplete => return (used, Event::NeedMore),
                Line::Swallowed(octets) => return (used + octets, Event::NeedMore),
                Line::TooLong(octets) => {
                    used += octets;
                    if let State::Sasl(_) = self.state {
                        self.state = State::Authorization { user: None };
                    }
                    self.bad(out, "line too long");
                    None
                }
                Line::Endless => {
                    self.shut_down(Refusal::TooManyErrors, out);
                    None
                }
                Line::Whole(line, octets) => {
                    used += octets;
                    self.line(line, out)
                }
            };
            match event {
                // RFC 2595 §4, and the injection known since 2011: nothing sent before the handshake outlives it.
                Some(Event::StartTls) => return (input.len(), Event::StartTls),
                Some(event) => return (used, event),
                None => {}
            }
        }
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        if let State::Sasl(exchange) = &mut self.state {
            let step = exchange.response(line);
            return self.sasl_step(step, out);
        }
        match command::parse(line) {
            Err(mistake) => {
                self.bad(out, mistake);
                None
            }
            Ok(Command::Capa) => {
                reply::capabilities(&self.config, self.tls, out);
                None
            }
            Ok(Command::Lang(None)) => {
                reply::ok(out, "languages follow");
                out.extend_from_slice(b"en English\r\ni-default\r\n.\r\n");
                None
            }
            Ok(Command::Lang(Some(range))) => {
                // RFC 6856 §3.2: what is told already is English, which i-default is, too (RFC 2277 §4.5).
                let is = |name: &[u8]| range.eq_ignore_ascii_case(name);
                let english =
                    is(b"en") || range.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case(b"en-"));
                match (english, is(b"*") || is(b"i-default")) {
                    (true, _) => reply::ok(out, "en English from now on"),
                    (false, true) => reply::ok(out, "i-default English from now on"),
                    (false, false) => self.bad(out, "this language is not spoken here"),
                }
                None
            }
            Ok(command) => match &mut self.state {
                State::Transaction { .. } => self.transaction(command, out),
                _ => self.authorization(command, out),
            },
        }
    }

    fn authorization(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Option<Event> {
        let State::Authorization { user } = &mut self.state else { return None };
        match command {
            Command::User(_) | Command::Pass(_) | Command::Auth { .. }
                if !self.tls && !self.config.plaintext_allowed =>
            {
                *user = None;
                reply::err(out, Refusal::PrivacyRequired.text());
                self.count_bad(out);
            }
            Command::User(_) | Command::Pass(_) if !self.config.mechanisms(self.tls).take_passwords() => {
                reply::err(out, Refusal::MechanismRequired.text());
                self.count_bad(out);
            }
            Command::User(name) => match std::str::from_utf8(name) {
                Ok(name) if name.len() <= sasl::USER_OCTETS_MAX && !name.contains(char::is_control) => {
                    *user = Some(name.to_owned());
                    // RFC 1939 §13: the answer does not tell whether there is such a user.
                    reply::ok(out, "send PASS");
                }
                _ => self.bad(out, "this cannot be a user name"),
            },
            Command::Pass(password) => match user.take() {
                None => self.bad(out, "USER comes first"),
                Some(_) if password.len() > sasl::PASSWORD_OCTETS_MAX || password.contains(&0) => {
                    self.bad(out, "this cannot be a password");
                }
                Some(user) => {
                    self.state = State::Verifying { exchange: None };
                    let proof = Proof::Password(Secret::new(password.to_vec()));
                    return Some(Event::Login(Login { user, proof, mechanism: None }));
                }
            },
            Command::Auth { mechanism, initial } => match Mechanism::parse(mechanism) {
                None => self.bad(out, "unknown mechanism"),
                Some(mechanism) => {
                    let (exchange, step) = Exchange::start(mechanism, initial, &self.config.channel);
                    self.state = State::Sasl(exchange);
                    return self.sasl_step(step, out);
                }
            },
            // RFC 1734's predecessor of CAPA, which some clients still send.
            Command::AuthList => {
                reply::ok(out, "mechanisms follow");
                for mechanism in self.config.mechanisms(self.tls).iter() {
                    out.extend_from_slice(mechanism.name().as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b".\r\n");
            }
            Command::Apop => self.bad(out, "APOP is not offered"),
            Command::Stls if self.tls => self.bad(out, "TLS is active already"),
            Command::Stls if !self.config.starttls => self.bad(out, "STLS is not offered"),
            Command::Stls => {
                reply::ok(out, "begin TLS");
                self.state = State::Handshake;
                return Some(Event::StartTls);
            }
            Command::Quit => {
                reply::ok(out, "bye");
                self.state = State::Closed;
            }
            _ => self.bad(out, "log in first"),
        }
        None
    }

    fn sasl_step(&mut self, step: Step, out: &mut Vec<u8>) -> Option<Event> {
        match step {
            Step::Challenge(challenge) => {
                out.extend_from_slice(b"+ ");
                out.extend_from_slice(challenge.as_bytes());
                out.extend_from_slice(b"\r\n");
                None
            }
            Step::Keys { user, hash } => {
                if let State::Sasl(exchange) = std::mem::replace(&mut self.state, State::Closed) {
                    self.state = State::Keys(exchange);
                }
                Some(Event::Keys { user, hash })
            }
            Step::Done(Credentials { mechanism, user, proof }) => {
                let exchange = match std::mem::replace(&mut self.state, State::Closed) {
                    State::Sasl(exchange) => Some(exchange),
                    _ => None,
                };
                self.state = State::Verifying { exchange };
                Some(Event::Login(Login { user, proof, mechanism: Some(mechanism) }))
            }
            Step::Failed(failure) => {
                self.state = State::Authorization { user: None };
                match failure {
                    Failure::AuthorizationRefused | Failure::TokenRefused => {
                        self.refuse_login(Refusal::AuthenticationFailed.text(), out)
                    }
                    Failure::Downgraded | Failure::BindingUnknown => {
                        self.refuse_login(&format!("[AUTH] {failure}"), out)
                    }
                    Failure::InitialRefused => self.bad(out, "this mechanism takes no initial response"),
                    failure => self.bad(out, &failure.to_string()),
                }
                None
            }
        }
    }

    /// Answers `Keys`.
    pub fn keys(&mut self, keys: Keys, out: &mut Vec<u8>) {
        let State::Keys(exchange) = &mut self.state else { return };
        let mut exchange = std::mem::replace(exchange, Exchange::over());
        let step = exchange.keys(keys);
        self.state = State::Sasl(exchange);
        // What follows keys is a challenge, or the end.
        let _ = self.sasl_step(step, out);
    }

    fn transaction(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Option<Event> {
        let State::Transaction { maildrop } = &mut self.state else { return None };
        match command {
            Command::Stat => {
                let (count, octets) = (maildrop.count_left(), maildrop.octets_left());
                reply::ok(out, &format!("{count} {octets}"));
            }
            Command::List(None) | Command::Uidl(None) => {
                let uidl = matches!(command, Command::Uidl(_));
                reply::ok(out, &drop_listing(maildrop));
                let maildrop = std::mem::take(maildrop);
                self.state = State::Listing { maildrop, uidl, next: 1 };
            }
            Command::List(Some(number)) | Command::Uidl(Some(number)) => match maildrop.get(number) {
                Some(message) if !message.deleted => {
                    if let Command::Uidl(_) = command {
                        reply::ok(out, &format!("{number} {}", message.uidl));
                    } else {
                        reply::ok(out, &format!("{number} {}", message.size));
                    }
                }
                _ => reply::err(out, NO_SUCH_MESSAGE),
            },
            Command::Retr(number) | Command::Top(number, _) => match maildrop.get(number) {
                Some(message) if !message.deleted => {
                    let (uid, size) = (message.uid, message.size);
                    let cutter =
                        if let Command::Top(_, lines) = command { Some(TopCutter::new(lines)) } else { None };
                    let top = cutter.is_some();
                    self.state = State::Asked { maildrop: std::mem::take(maildrop), number, cutter };
                    return Some(Event::Message { number, uid, size, top });
                }
                _ => reply::err(out, NO_SUCH_MESSAGE),
            },
            Command::Dele(number) => {
                if maildrop.delete(number) {
                    reply::ok(out, &format!("message {number} deleted"));
                } else {
                    reply::err(out, NO_SUCH_MESSAGE);
                }
            }
            Command::Noop => reply::ok(out, ""),
            Command::Rset => {
                maildrop.reset();
                reply::ok(out, &drop_listing(maildrop));
            }
            Command::Quit if maildrop.deleted().next().is_none() => {
                reply::ok(out, "bye");
                self.state = State::Closed;
            }
            Command::Quit => {
                self.state = State::Committing { maildrop: std::mem::take(maildrop) };
                return Some(Event::Quit);
            }
            _ => self.bad(out, "logged in already"),
        }
        None
    }

    /// Writes on a listing; true when it is whole.
    fn list_on(&mut self, out: &mut Vec<u8>) -> bool {
        let State::Listing { maildrop, uidl, next } = &mut self.state else { return true };
        while let Some(message) = maildrop.get(*next) {
            if out.len() >= self.config.limits.output_octets_max {
                return false;
            }
            *next += 1;
            if message.deleted {
                continue;
            }
            let written = if *uidl {
                write!(out, "{} {}\r\n", message.number, message.uidl)
            } else {
                write!(out, "{} {}\r\n", message.number, message.size)
            };
            written.expect("a Vec takes every octet");
        }
        out.extend_from_slice(b".\r\n");
        self.state = State::Transaction { maildrop: std::mem::take(maildrop) };
        true
    }

    /// Answers `Login`: the user is in, and this is the maildrop.
    pub fn login_ok(&mut self, maildrop: Maildrop, out: &mut Vec<u8>) {
        if let State::Verifying { .. } = self.state {
            reply::ok(out, "logged in");
            self.state = State::Transaction { maildrop };
        }
    }

    /// Answers the open request with no.
    pub fn refuse(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        if let (State::Verifying { exchange: Some(exchange) }, Refusal::AuthenticationFailed) =
            (&mut self.state, refusal)
            && let Some(step) = exchange.refuse_token()
        {
            // RFC 7628 §3.2.3: the client hears why, and answers, before it is told no.
            self.state = State::Sasl(std::mem::replace(exchange, Exchange::over()));
            let _ = self.sasl_step(step, out);
            return;
        }
        self.refuse_saying(refusal.text(), out);
    }

    /// The same, where the account is not served here.
    pub fn refuse_away(&mut self, away: &Away, out: &mut Vec<u8>) {
        self.refuse_saying(&away.pop3(), out);
    }

    fn refuse_saying(&mut self, text: &str, out: &mut Vec<u8>) {
        match &mut self.state {
            State::Keys(_) | State::Verifying { .. } => {
                self.state = State::Authorization { user: None };
                self.refuse_login(text, out);
            }
            State::Asked { maildrop, .. } => {
                reply::err(out, text);
                self.state = State::Transaction { maildrop: std::mem::take(maildrop) };
            }
            // RFC 1939 §6: whatever became of the deletions, QUIT releases the maildrop and closes.
            State::Committing { .. } => self.end_saying(text, out),
            _ => {}
        }
    }

    fn refuse_login(&mut self, text: &str, out: &mut Vec<u8>) {
        self.failed_logins = self.failed_logins.saturating_add(1);
        reply::err(out, text);
        if self.failed_logins >= self.config.limits.failed_logins_max {
            self.state = State::Closed;
        }
    }

    /// The handshake is done. USER is forgotten with everything else that came in the clear. `channel` is what TLS
    /// has brought.
    pub fn tls_started(&mut self, channel: Channel) {
        if let State::Handshake = self.state {
            self.tls = true;
            self.config = Arc::new(Config { channel, ..Config::clone(&self.config) });
            self.lines = LineCutter::default();
            self.state = State::Authorization { user: None };
        }
    }

    /// Answers `Message`: the octets follow. A driver that cannot go on after this must close the connection without
    /// [`end_message`](Server::end_message), so that the client never takes a part for the whole.
    pub fn begin_message(&mut self, out: &mut Vec<u8>) {
        if let State::Asked { maildrop, number, cutter } = &mut self.state {
            match (cutter.is_some(), maildrop.get(*number)) {
                (false, Some(message)) => reply::ok(out, &format!("{} octets", message.size)),
                _ => reply::ok(out, "top of message follows"),
            }
            let (maildrop, cutter) = (std::mem::take(maildrop), cutter.take());
            // RFC 1939 §3: octets with bit 7 pass as they are; a NUL is never sent.
            self.state = State::Sending { maildrop, cutter, stuffer: Stuffer::without_nul() };
        }
    }

    /// Appends the next octets of the message in wire form; false when no more of it is wanted.
    pub fn message_chunk(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> bool {
        let State::Sending { cutter, stuffer, .. } = &mut self.state else { return false };
        match cutter {
            None => {
                stuffer.push(chunk, out);
                true
            }
            Some(cutter) => {
                let taken = cutter.take(chunk);
                stuffer.push(&chunk[..taken], out);
                !cutter.is_done()
            }
        }
    }

    /// The message is over, or no more of it was wanted.
    pub fn end_message(&mut self, out: &mut Vec<u8>) {
        if let State::Sending { maildrop, stuffer, .. } = &mut self.state {
            std::mem::take(stuffer).finish(out);
            self.state = State::Transaction { maildrop: std::mem::take(maildrop) };
        }
    }

    /// Answers `Quit`: the deletions are durable. `Close` follows.
    pub fn quit_ok(&mut self, out: &mut Vec<u8>) {
        if let State::Committing { .. } = self.state {
            reply::ok(out, "bye");
            self.state = State::Closed;
        }
    }

    /// Ends the session from the server's side. Marks are forgotten; `Close` follows.
    pub fn shut_down(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.end_saying(refusal.text(), out);
    }

    /// The same, where the account went elsewhere.
    pub fn end_away(&mut self, away: &Away, out: &mut Vec<u8>) {
        self.end_saying(&away.pop3(), out);
    }

    fn end_saying(&mut self, text: &str, out: &mut Vec<u8>) {
        // In the middle of a message or a listing every line would be taken for content.
        if !matches!(
            self.state,
            State::Closed | State::Handshake | State::Sending { .. } | State::Listing { .. }
        ) {
            reply::err(out, text);
        }
        self.state = State::Closed;
    }

    /// How long the client may be silent now, in milliseconds; then [`expire`](Server::expire).
    pub fn idle_ms_max(&self) -> u64 {
        let limits = &self.config.limits;
        if self.is_authenticated() { limits.idle_ms_max } else { limits.login_ms_max }
    }

    /// The client was silent too long. RFC 1939 §3: the maildrop is left without the deletions.
    pub fn expire(&mut self, out: &mut Vec<u8>) {
        self.shut_down(Refusal::Idle, out);
    }

    /// The maildrop, once the user is in.
    pub fn maildrop(&self) -> Option<&Maildrop> {
        match &self.state {
            State::Transaction { maildrop }
            | State::Listing { maildrop, .. }
            | State::Asked { maildrop, .. }
            | State::Sending { maildrop, .. }
            | State::Committing { maildrop } => Some(maildrop),
            _ => None,
        }
    }

    pub fn is_authenticated(&self) -> bool {
        self.maildrop().is_some()
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    fn bad(&mut self, out: &mut Vec<u8>, text: &str) {
        reply::err(out, text);
        self.count_bad(out);
    }

    fn count_bad(&mut self, out: &mut Vec<u8>) {
        self.bad_commands = self.bad_commands.saturating_add(1);
        if self.bad_commands >= self.config.limits.bad_commands_max {
            self.shut_down(Refusal::TooManyErrors, out);
        }
    }
}

const NO_SUCH_MESSAGE: &str = "no such message";

fn drop_listing(maildrop: &Maildrop) -> String {
    format!("{} messages ({} octets)", maildrop.count_left(), maildrop.octets_left())
}
