//! State: all that the protocol remembers between two events, as a plain value that can be moved to another core.
//!
//! The unread octets of the receive buffer belong to it: [`State`] counts from the first of them.

use super::command::append::Before;

/// How far a session has come (RFC 3501 §3). Which mailbox is selected is the driver's to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    #[default]
    NotAuthenticated,
    Authenticated,
    Selected,
    Logout,
}

/// What the client enabled (RFC 5161; RFC 7162 §3.1, §3.2.3; RFC 5464 §4.1; RFC 9051 §6.3.1; RFC 9755 §3; RFC 9586).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    pub condstore: bool,
    /// Implies `condstore`.
    pub qresync: bool,
    /// Changes of annotations are told.
    pub metadata: bool,
    /// IMAP4rev2.
    pub rev2: bool,
    /// UTF8=ACCEPT.
    pub utf8_accept: bool,
    /// UIDONLY.
    pub uid_only: bool,
}

impl Enabled {
    /// Mailbox names are sent and read as UTF-8, and strings may be.
    pub fn utf8(&self) -> bool {
        self.rev2 || self.utf8_accept
    }
}

/// The state of one session's protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub stage: Stage,
    /// A TLS layer is in place.
    pub tls: bool,
    pub enabled: Enabled,
    pub(super) refusals: u8,
    pub(super) phase: Phase,
}

/// What the next octet of input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Of a command. `part`: where its current line part begins (beyond the input while a literal is coming in);
    /// `scanned`: no line end stands before; `literals`: octets of its literals so far.
    Command { part: u64, scanned: u64, literals: u64 },
    /// The driver was told of an APPEND and has not answered.
    AppendOffered { octets: u64, synchronising: bool, after: After },
    /// Of a message.
    Append { left: u64, after: After },
    /// After a message: the end of the command, or what comes before the next octets. Numbers as in `Command`.
    AppendTail { part: u64, scanned: u64, literals: u64, after: After },
    /// Of something refused: so many octets of a literal, then the rest of the line.
    Discard { left: u64, swallowed: u64 },
    /// Of a SASL response.
    Response,
    /// Of the line that ends IDLE.
    Idle,
    /// Of nothing: BYE was said.
    Closed,
}

/// What an APPEND or REPLACE remembers while octets of a message come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    pub(super) before: Before,
    /// It is a REPLACE, of one message.
    pub(super) replaces: bool,
}

impl After {
    const fn code(self) -> u8 {
        self.before.code() << 1 | (self.replaces as u8) << 3
    }

    const fn from_code(code: u8) -> After {
        After { before: Before::from_code(code >> 1), replaces: code & 8 != 0 }
    }
}

impl Phase {
    pub(super) const START: Phase = Phase::Command { part: 0, scanned: 0, literals: 0 };
}

impl Default for Phase {
    fn default() -> Phase {
        Phase::START
    }
}

/// The bytes are not a state of a version that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no IMAP session state")]
pub struct StateError;

const VERSION: u8 = 1;
const OCTETS: usize = 30;

impl State {
    /// Version, stage, bits, refusals, kind of phase, flag, three little-endian numbers.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, flag, numbers) = match self.phase {
            Phase::Command { part, scanned, literals } => (0, 0, [part, scanned, literals]),
            Phase::AppendOffered { octets, synchronising, after } => {
                (1, u8::from(synchronising) | after.code(), [octets, 0, 0])
            }
            Phase::Append { left, after } => (2, after.code(), [left, 0, 0]),
            Phase::AppendTail { part, scanned, literals, after } => {
                (3, after.code(), [part, scanned, literals])
            }
            Phase::Discard { left, swallowed } => (4, 0, [left, swallowed, 0]),
            Phase::Response => (5, 0, [0; 3]),
            Phase::Idle => (6, 0, [0; 3]),
            Phase::Closed => (7, 0, [0; 3]),
        };
        let stage = match self.stage {
            Stage::NotAuthenticated => 0,
            Stage::Authenticated => 1,
            Stage::Selected => 2,
            Stage::Logout => 3,
        };
        let Enabled { condstore, qresync, rev2, utf8_accept, uid_only, metadata } = self.enabled;
        let bits = [self.tls, condstore, qresync, rev2, utf8_accept, uid_only, metadata];
        let bits = bits.iter().enumerate().fold(0, |bits, (at, bit)| bits | u8::from(*bit) << at);
        let mut bytes = Vec::with_capacity(OCTETS);
        bytes.extend([VERSION, stage, bits, self.refusals, kind, flag]);
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<State, StateError> {
        let bytes: &[u8; OCTETS] = bytes.try_into().map_err(|_| StateError)?;
        let [VERSION, stage, bits, refusals, kind, flag, rest @ ..] = bytes else { return Err(StateError) };
        let mut numbers = [0; 3];
        for (number, octets) in numbers.iter_mut().zip(rest.chunks_exact(8)) {
            *number = u64::from_le_bytes(octets.try_into().expect("chunks of eight"));
        }
        let [first, second, third] = numbers;
        // Only the scanner's own arithmetic makes these; others would send it beyond the input.
        let scans = first <= second && third <= first && second <= u64::from(u32::MAX) * 4;
        let phase = match (kind, flag) {
            (0, 0) if scans => Phase::Command { part: first, scanned: second, literals: third },
            (1, ..16) => {
                let (synchronising, after) = (flag & 1 != 0, After::from_code(*flag));
                Phase::AppendOffered { octets: first, synchronising, after }
            }
            (2, ..16) if flag & 1 == 0 => Phase::Append { left: first, after: After::from_code(*flag) },
            (3, ..16) if flag & 1 == 0 && scans => {
                let after = After::from_code(*flag);
                Phase::AppendTail { part: first, scanned: second, literals: third, after }
            }
            (4, 0) => Phase::Discard { left: first, swallowed: second },
            (5, 0) => Phase::Response,
            (6, 0) => Phase::Idle,
            (7, 0) => Phase::Closed,
            _ => return Err(StateError),
        };
        let stage = match stage {
            0 => Stage::NotAuthenticated,
            1 => Stage::Authenticated,
            2 => Stage::Selected,
            3 => Stage::Logout,
            _ => return Err(StateError),
        };
        if bits & !127 != 0 {
            return Err(StateError);
        }
        let bit = |at: u8| bits & 1 << at != 0;
        let enabled = Enabled {
            condstore: bit(1),
            qresync: bit(2),
            rev2: bit(3),
            utf8_accept: bit(4),
            uid_only: bit(5),
            metadata: bit(6),
        };
        Ok(State { stage, tls: bits & 1 != 0, enabled, refusals: *refusals, phase })
    }
}
