//! Frame: cuts commands, literals, messages and continuation lines out of the driver's receive buffer.
//!
//! The driver keeps one buffer of unread octets and calls [`Server::next`] with all of it. It takes the number of octets
//! that are done with, acts on the event, drops those octets, and calls again; on [`Event::NeedMore`] it first reads
//! more behind what is left. A command is parsed where it lies, with its literals in place, so that an ordinary command
//! is never copied; a message of APPEND is handed through piece by piece.
//!
//! # Invariants
//! Between two calls the driver removes exactly the octets that it was told to. How the input is split into reads has
//! no influence on the events, but for the sizes of [`Event::AppendData`]. After a refusal the next event begins at the
//! next command.
//!
//! # Limits
//! [`Limits`], checked before any grammar; [`Server::buffer_octets_max`] is never exceeded by what is left unread.
//!
//! # Cost
//! Every octet is looked at once by the framer and once by the grammar.
//!
//! # RFC
//! RFC 3501 §2.2.1, §4.3, §7.5; RFC 7888.

use culver_model::MailboxName;
use memchr::memchr;

use super::Limits;
use super::command::append::{self, AppendHead};
use super::command::{self, AppendLiteral, AppendPiece, Head, Hidden, Replaced, Request};
use super::literal::{ANNOUNCEMENT_OCTETS_MAX, announced, without_end};
use super::response::Status;
use super::state::{After, Phase, Stage, State};
use super::text::{Reason, Refusal};

/// What the driver must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// Read more behind what is left in the buffer.
    NeedMore,
    /// Carry it out and answer.
    Command(Request<'a>),
    /// Write [`super::response::CONTINUE`]: the client waits before it sends a literal.
    Continue,
    /// An APPEND or REPLACE begins. It goes on with what its pieces say, see [`AppendPiece`].
    Append(Append<'a>),
    /// Octets of the message, in order.
    AppendData(&'a [u8]),
    /// The literal was whole, and this follows it.
    AppendPiece(AppendPiece),
    /// What follows the literal is no part of the command: forget its messages and answer.
    AppendFailed(Refusal),
    /// One response of an AUTHENTICATE exchange, without its line end: base64, or `*` to cancel.
    Response(Hidden<'a>),
    /// The response was too long and is thrown away; the exchange is over: answer the AUTHENTICATE.
    ResponseTooLong,
    /// IDLE is over: answer it with OK; or with BAD where anything but DONE came.
    Done { clean: bool },
    /// Answer with [`Refusal::write`]; nothing of the command is left to do.
    Refused {
        tag: Option<&'a str>,
        refusal: Refusal,
        /// The saved result of a SEARCH is empty now.
        unsaved: bool,
    },
    /// Write BYE with this reason and close.
    Bye(Reason),
}

/// An APPEND or REPLACE, before its first octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append<'a> {
    pub tag: &'a str,
    pub mailbox: MailboxName,
    /// `None`: APPEND.
    pub replaced: Option<Replaced>,
    pub piece: AppendPiece,
}

/// The server's end of one connection.
#[derive(Clone, Debug)]
pub struct Server {
    limits: Limits,
    state: State,
}

/// A step: octets done with, and the event where there is one already.
type Step<'a> = (usize, Option<Event<'a>>);

impl Server {
    pub fn new(limits: Limits) -> Server {
        Server { limits, state: State::default() }
    }

    /// Goes on where another one stopped, with the same unread octets.
    pub fn resume(limits: Limits, state: State) -> Server {
        Server { limits, state }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn set_stage(&mut self, stage: Stage) {
        self.state.stage = stage;
    }

    /// For [`State::enabled`].
    pub fn enabled_mut(&mut self) -> &mut super::Enabled {
        &mut self.state.enabled
    }

    /// TLS is in place since the first octet.
    pub fn set_tls(&mut self) {
        self.state.tls = true;
    }

    /// The handshake that STARTTLS asked for is over.
    // RFC 3501 §6.2.1: nothing that the client said before it counts; the driver also empties its buffer.
    pub fn starttls_done(&mut self) {
        self.state = State { tls: true, ..State::default() };
    }

    /// UNAUTHENTICATE: all is as before the login, but for TLS. The input that is unread stays.
    // RFC 8437 §3: a login may be pipelined behind it.
    pub fn unauthenticate(&mut self) {
        let State { tls, refusals, .. } = self.state;
        self.state = State { tls, refusals, ..State::default() };
    }

    /// An IDLE was accepted: only DONE is read until it comes.
    pub fn begin_idle(&mut self) {
        self.state.phase = Phase::Idle;
    }

    /// A challenge was sent: the next line is its response. Call it again after each challenge.
    pub fn begin_response(&mut self) {
        self.state.phase = Phase::Response;
    }

    /// Takes the message that was offered. True: write [`super::response::CONTINUE`] now.
    #[must_use]
    pub fn accept_append(&mut self) -> bool {
        let Phase::AppendOffered { octets, synchronising, after } = self.state.phase else { return false };
        self.state.phase = Phase::Append { left: octets, after };
        synchronising
    }

    /// Does not take the octets that were offered, and throws the rest of the command away. The driver answers with NO, at
    /// once.
    pub fn refuse_append(&mut self) {
        if let Phase::AppendOffered { octets, synchronising, .. } = self.state.phase {
            self.discard_literal(octets, synchronising);
        }
    }

    /// Stops taking a message that is on its way; the rest of it is thrown away. The driver answers the APPEND.
    pub fn abandon_append(&mut self) {
        match self.state.phase {
            Phase::Append { left, .. } => self.discard_literal(left, false),
            Phase::AppendTail { .. } => self.state.phase = Phase::Discard { left: 0, swallowed: 0 },
            _ => {}
        }
    }

    /// The most octets that [`Self::next`] leaves unread before it says [`Event::NeedMore`].
    pub fn buffer_octets_max(&self) -> usize {
        let (line, literals) = self.command_limits();
        usize::try_from(line + literals).unwrap_or(usize::MAX)
    }

    /// Looks at `input`, all unread octets from the first on: how many of them are done with once the event is dealt
    /// with, and the event. The event borrows from them.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Event<'a>) {
        let mut done = 0;
        loop {
            let rest = &input[done..];
            let (taken, event) = match self.state.phase {
                Phase::Command { part, scanned, literals } => self.command(rest, part, scanned, literals),
                Phase::Append { left, after } => self.append(rest, left, after),
                Phase::AppendTail { part, scanned, literals, after } => {
                    self.append_tail(rest, (part, scanned, literals), after)
                }
                Phase::Discard { left, swallowed } => self.discard(rest, left, swallowed),
                Phase::Response => self.response(rest),
                Phase::Idle => self.idle(rest),
                // The driver owes an answer, or has been told to close.
                Phase::AppendOffered { .. } => (0, Some(Event::NeedMore)),
                Phase::Closed => (0, Some(Event::Bye(Reason::InputTooLong))),
            };
            done += taken;
            match event {
                Some(Event::Refused { .. } | Event::AppendFailed(_)) => {
                    self.state.refusals = self.state.refusals.saturating_add(1);
                    return (done, event.expect("just matched"));
                }
                Some(event @ Event::Append(_)) if matches!(self.state.phase, Phase::Command { .. }) => {
                    // It is whole, without octets of its own.
                    self.state.refusals = 0;
                    return (done, event);
                }
                Some(event @ Event::Command(_)) => {
                    self.state.refusals = 0;
                    return (done, event);
                }
                Some(event) => return (done, event),
                None => {}
            }
        }
    }

    /// Octets of one command: its lines, and its literals.
    fn command_limits(&self) -> (u64, u64) {
        let (line, literals) = match self.state.stage {
            Stage::NotAuthenticated => {
                (self.limits.line_octets_login_max, self.limits.literal_octets_login_max)
            }
            _ => (self.limits.line_octets_max, self.limits.literal_octets_max),
        };
        (u64::from(line), u64::from(literals))
    }

    fn command<'a>(&mut self, input: &'a [u8], part: u64, scanned: u64, literals: u64) -> Step<'a> {
        // Checked before a command, so that the answer to the last refusal has been given.
        if self.state.refusals > self.limits.refusals_max {
            self.state.phase = Phase::Closed;
            return (0, Some(Event::Bye(Reason::TooManyErrors)));
        }
        let (line_max, literals_max) = self.command_limits();
        let (Ok(part), Ok(scanned)) = (usize::try_from(part), usize::try_from(scanned)) else {
            return (0, Some(Event::NeedMore));
        };
        if input.len() < part {
            return (0, Some(Event::NeedMore));
        }
        let from = scanned.clamp(part, input.len());
        let Some(end) = memchr(b'\n', &input[from..]).map(|at| from + at + 1) else {
            if input.len() as u64 - literals >= line_max {
                return self.refuse_line(input, part, Refusal::LineTooLong);
            }
            self.state.phase = Phase::Command { part: part as u64, scanned: input.len() as u64, literals };
            return (0, Some(Event::NeedMore));
        };
        if end as u64 - literals > line_max {
            return self.refuse_line(input, part, Refusal::LineTooLong);
        }
        let line = without_end(&input[part..end]);
        let Some(literal) = announced(line) else {
            self.state.phase = Phase::START;
            return (end, Some(whole(without_end(&input[..end]), self.state.enabled.utf8())));
        };
        let until = part + line.len();
        let head = match self.admit(&input[..until]) {
            Ok(head) => head,
            Err((tag, refusal)) => {
                return self.refuse_literal(input, end, tag, refusal, literal.octets, literal.synchronising);
            }
        };
        let tag = Some(head.tag);
        let refusal = match head.name {
            Ok(name) if name.appends() => {
                match append::head(
                    name,
                    &input[head.arguments..until],
                    Some(literal),
                    self.state.enabled.utf8(),
                ) {
                    Ok(Some(AppendHead { mailbox, replaced, piece, before })) => {
                        let (octets, synchronising) = (literal.octets, literal.synchronising);
                        if let Some(refusal) = self.refuses_octets(octets, synchronising) {
                            return self.refuse_literal(input, end, tag, refusal, octets, synchronising);
                        }
                        let after = After { before, replaces: replaced.is_some() };
                        self.state.phase = Phase::AppendOffered { octets, synchronising, after };
                        return (
                            end,
                            Some(Event::Append(Append { tag: head.tag, mailbox, replaced, piece })),
                        );
                    }
                    Ok(None) => None,
                    Err(refusal) => Some(refusal),
                }
            }
            _ => None,
        };
        // RFC 3516 §4.4: literal8 carries the message of an APPEND, nothing else here.
        let refusal = refusal.or(literal.literal8.then_some(Refusal::Literal8));
        let refusal = refusal.or_else(|| self.literal_minus(literal.octets, literal.synchronising));
        let total = literals.saturating_add(literal.octets);
        let refusal = refusal.or((total > literals_max).then_some(Refusal::LiteralTooLarge));
        if let Some(refusal) = refusal {
            return self.refuse_literal(input, end, tag, refusal, literal.octets, literal.synchronising);
        }
        let part = end as u64 + literal.octets;
        self.state.phase = Phase::Command { part, scanned: part, literals: total };
        (0, literal.synchronising.then_some(Event::Continue))
    }

    /// Whether a command that begins so is worth a literal.
    fn admit<'a>(&self, input: &'a [u8]) -> Result<Head<'a>, (Option<&'a str>, Refusal)> {
        let Some(head) = command::head(input) else { return Err((None, Refusal::Expected("a tag"))) };
        match head.name {
            Err(refusal) => Err((Some(head.tag), refusal)),
            Ok(name) if name.appends() && self.state.stage == Stage::NotAuthenticated => {
                Err((Some(head.tag), Refusal::NotAuthenticated))
            }
            Ok(_) => Ok(head),
        }
    }

    /// Why so many octets of a message are not taken.
    fn refuses_octets(&self, octets: u64, synchronising: bool) -> Option<Refusal> {
        let octets_max = self.limits.append_octets_max;
        let over = (octets > octets_max).then_some(Refusal::MessageTooLarge { octets_max });
        over.or_else(|| self.literal_minus(octets, synchronising))
    }

    fn literal_minus(&self, octets: u64, synchronising: bool) -> Option<Refusal> {
        // RFC 7888 §5: with LITERAL-, a larger one must be synchronising.
        let refused = self.limits.literal_minus && !synchronising && octets > Limits::LITERAL_MINUS_OCTETS;
        refused.then_some(Refusal::LiteralMinus)
    }

    /// The line part that begins at `part` is thrown away to its end, and with it the command.
    fn refuse_line<'a>(&mut self, input: &'a [u8], part: usize, refusal: Refusal) -> Step<'a> {
        self.state.phase = Phase::Discard { left: 0, swallowed: 0 };
        (part, Some(refused(input, refusal)))
    }

    fn refuse_literal<'a>(
        &mut self,
        input: &[u8],
        end: usize,
        tag: Option<&'a str>,
        refusal: Refusal,
        octets: u64,
        synchronising: bool,
    ) -> Step<'a> {
        self.discard_literal(octets, synchronising);
        let unsaved = unsaved(&input[..end], &refusal);
        (end, Some(Event::Refused { tag, refusal, unsaved }))
    }

    fn discard_literal(&mut self, octets: u64, synchronising: bool) {
        self.state.phase = if synchronising {
            // RFC 3501 §7.5: refused instead of continued, so neither the literal nor the rest of the command comes.
            Phase::START
        } else {
            Phase::Discard { left: octets, swallowed: 0 }
        };
    }

    fn discard<'a>(&mut self, input: &'a [u8], left: u64, swallowed: u64) -> Step<'a> {
        // RFC 7888 §4: what cannot be swallowed ends the connection.
        if swallowed.saturating_add(left) > self.limits.swallow_octets_max {
            self.state.phase = Phase::Closed;
            return (0, Some(Event::Bye(Reason::InputTooLong)));
        }
        if left > 0 {
            let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (left, swallowed) = (left - taken as u64, swallowed + taken as u64);
            self.state.phase = Phase::Discard { left, swallowed };
            return (taken, (left > 0).then_some(Event::NeedMore));
        }
        let end = memchr(b'\n', input).map(|at| at + 1);
        if swallowed.saturating_add(end.unwrap_or(input.len()) as u64) > self.limits.swallow_octets_max {
            self.state.phase = Phase::Closed;
            return (0, Some(Event::Bye(Reason::InputTooLong)));
        }
        let Some(end) = end else {
            // What may yet turn out to announce a literal is kept.
            let taken = input.len().saturating_sub(ANNOUNCEMENT_OCTETS_MAX + 1);
            self.state.phase = Phase::Discard { left, swallowed: swallowed + taken as u64 };
            return (taken, Some(Event::NeedMore));
        };
        self.state.phase = match announced(without_end(&input[..end])) {
            Some(literal) if !literal.synchronising => {
                Phase::Discard { left: literal.octets, swallowed: swallowed + end as u64 }
            }
            // Nobody will send `+`: the client has its answer and begins anew.
            _ => Phase::START,
        };
        (end, None)
    }

    fn append<'a>(&mut self, input: &'a [u8], left: u64, after: After) -> Step<'a> {
        if left == 0 {
            self.state.phase = Phase::AppendTail { part: 0, scanned: 0, literals: 0, after };
            return (0, None);
        }
        if input.is_empty() {
            return (0, Some(Event::NeedMore));
        }
        let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.state.phase = Phase::Append { left: left - taken as u64, after };
        (taken, Some(Event::AppendData(&input[..taken])))
    }

    /// The line that follows octets of a message, and its strings.
    fn append_tail<'a>(
        &mut self,
        input: &'a [u8],
        (part, scanned, literals): (u64, u64, u64),
        after: After,
    ) -> Step<'a> {
        let (line_max, literals_max) = self.command_limits();
        let (Ok(at), Ok(scanned)) = (usize::try_from(part), usize::try_from(scanned)) else {
            return (0, Some(Event::NeedMore));
        };
        if input.len() < at {
            return (0, Some(Event::NeedMore));
        }
        let from = scanned.clamp(at, input.len());
        let Some(end) = memchr(b'\n', &input[from..]).map(|found| from + found + 1) else {
            if input.len() as u64 - literals >= line_max {
                self.state.phase = Phase::Discard { left: 0, swallowed: 0 };
                return (at, Some(Event::AppendFailed(Refusal::LineTooLong)));
            }
            self.state.phase = Phase::AppendTail { part, scanned: input.len() as u64, literals, after };
            return (0, Some(Event::NeedMore));
        };
        let line = without_end(&input[at..end]);
        let literal = announced(line);
        let failed = |server: &mut Server, refusal| {
            match literal {
                Some(literal) => server.discard_literal(literal.octets, literal.synchronising),
                None => server.state.phase = Phase::START,
            }
            (end, Some(Event::AppendFailed(refusal)))
        };
        if end as u64 - literals > line_max {
            return failed(self, Refusal::LineTooLong);
        }
        let read = append::piece(&input[..at + line.len()], literal, after.before, after.replaces);
        match (read, literal) {
            (Err(refusal), _) => failed(self, refusal),
            (Ok(Some((piece, before))), _) => {
                self.state.phase = match piece.literal {
                    None => Phase::START,
                    Some(AppendLiteral { octets, synchronising, .. }) => {
                        if let Some(refusal) = self.refuses_octets(octets, synchronising) {
                            return failed(self, refusal);
                        }
                        Phase::AppendOffered { octets, synchronising, after: After { before, ..after } }
                    }
                };
                self.state.refusals = 0;
                (end, Some(Event::AppendPiece(piece)))
            }
            (Ok(None), Some(literal)) => {
                let total = literals.saturating_add(literal.octets);
                let refusal = literal.literal8.then_some(Refusal::Literal8);
                let refusal = refusal.or((total > literals_max).then_some(Refusal::LiteralTooLarge));
                let refusal = refusal.or_else(|| self.literal_minus(literal.octets, literal.synchronising));
                if let Some(refusal) = refusal {
                    return failed(self, refusal);
                }
                let part = end as u64 + literal.octets;
                self.state.phase = Phase::AppendTail { part, scanned: part, literals: total, after };
                (0, literal.synchronising.then_some(Event::Continue))
            }
            (Ok(None), None) => failed(self, Refusal::AppendTail),
        }
    }

    fn response<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let line_max = self.limits.line_octets_login_max as usize;
        match memchr(b'\n', input).map(|at| at + 1) {
            Some(end) if end <= line_max => {
                self.state.phase = Phase::START;
                (end, Some(Event::Response(Hidden(without_end(&input[..end])))))
            }
            None if input.len() < line_max => (0, Some(Event::NeedMore)),
            _ => {
                self.state.phase = Phase::Discard { left: 0, swallowed: 0 };
                (0, Some(Event::ResponseTooLong))
            }
        }
    }

    fn idle<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        match memchr(b'\n', input).map(|at| at + 1) {
            Some(end) if without_end(&input[..end]).eq_ignore_ascii_case(b"DONE") => {
                self.state.phase = Phase::START;
                (end, Some(Event::Done { clean: true }))
            }
            None if input.len() < IDLE_LINE_OCTETS_MAX => (0, Some(Event::NeedMore)),
            _ => {
                // RFC 2177 §3: nothing but DONE may come.
                self.state.phase = Phase::Discard { left: 0, swallowed: 0 };
                (0, Some(Event::Done { clean: false }))
            }
        }
    }
}

/// What may stand unread before it is clear that it is not DONE.
const IDLE_LINE_OCTETS_MAX: usize = 64;

/// The event of a command that is whole: `input` ends before its line end.
fn whole(input: &[u8], utf8: bool) -> Event<'_> {
    let Some(head) = command::head(input) else {
        return refused(input, Refusal::Expected("a tag"));
    };
    let arguments = &input[head.arguments..];
    let parsed = match head.name {
        Ok(name) if name.appends() => match append::head(name, arguments, None, utf8) {
            Ok(Some(AppendHead { mailbox, replaced, piece, .. })) => {
                return Event::Append(Append { tag: head.tag, mailbox, replaced, piece });
            }
            Ok(None) => Err(Refusal::Expected("a literal with the message")),
            Err(refusal) => Err(refusal),
        },
        Ok(name) => command::request(name, arguments, utf8),
        Err(refusal) => Err(refusal),
    };
    match parsed {
        Ok(command) => Event::Command(Request { tag: head.tag, command }),
        Err(refusal) => refused(input, refusal),
    }
}

/// The event of a command that begins so and is refused.
fn refused(input: &[u8], refusal: Refusal) -> Event<'_> {
    let unsaved = unsaved(input, &refusal);
    Event::Refused { tag: command::head(input).map(|head| head.tag), refusal, unsaved }
}

fn unsaved(input: &[u8], refusal: &Refusal) -> bool {
    refusal.status() == Status::No && command::saves(input)
}
