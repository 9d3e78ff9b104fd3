//! A POP3 session as bytes, for moving it to another shard.
//!
//! Not a stored format: both ends run the same build, but the first octet is a version, so that a rolling change can
//! be told. Integers are little-endian.
//!
//! | octets | what |
//! | --- | --- |
//! | 1 | version, 1 |
//! | 1 | bit 0: TLS |
//! | 4, 4 | bad commands, failed logins |
//! | 1 | 0 authorization, 1 authorization with USER, 2 verifying, 3 transaction |
//! | 2 + n | (1) user name |
//! | 4 | (3) messages; for each: uid 4, size 8, deleted 1, length 1, unique-id |

use std::sync::Arc;

use culver_model::Uid;

use super::Config;
use super::line::LineCutter;
use super::maildrop::{MESSAGES_MAX, Maildrop};
use super::server::{Server, State};

/// Why a session cannot be encoded or decoded: the driver's mistake or a foreign build's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// In the middle of a SASL exchange, a listing, a message, a commit, a handshake or an endless line.
    #[error("the session is not between two commands")]
    Busy,
    #[error("these bytes are no session of this version")]
    Malformed,
}

const VERSION: u8 = 1;

impl Server {
    /// The session as bytes. Possible between two commands, and while `Event::Login` is open: that is when an
    /// authenticated connection moves to the owner of its account.
    pub fn encode(&self) -> Result<Vec<u8>, StateError> {
        if self.lines.is_swallowing() {
            return Err(StateError::Busy);
        }
        let mut bytes = vec![VERSION, u8::from(self.tls)];
        bytes.extend_from_slice(&self.bad_commands.to_le_bytes());
        bytes.extend_from_slice(&self.failed_logins.to_le_bytes());
        match &self.state {
            State::Authorization { user: None } => bytes.push(0),
            State::Authorization { user: Some(user) } => {
                bytes.push(1);
                let octets = u16::try_from(user.len()).map_err(|_| StateError::Busy)?;
                bytes.extend_from_slice(&octets.to_le_bytes());
                bytes.extend_from_slice(user.as_bytes());
            }
            State::Verifying { .. } => bytes.push(2),
            State::Transaction { maildrop } => {
                bytes.push(3);
                bytes.extend_from_slice(&maildrop.len().to_le_bytes());
                for message in maildrop.messages() {
                    bytes.extend_from_slice(&message.uid.get().to_le_bytes());
                    bytes.extend_from_slice(&message.size.to_le_bytes());
                    bytes.push(u8::from(message.deleted));
                    bytes.push(message.uidl.len() as u8);
                    bytes.extend_from_slice(message.uidl.as_bytes());
                }
            }
            _ => return Err(StateError::Busy),
        }
        Ok(bytes)
    }

    /// The session that [`encode`](Server::encode) gave; nothing is written.
    pub fn decode(config: Arc<Config>, bytes: &[u8]) -> Result<Server, StateError> {
        let mut bytes = Reader(bytes);
        if bytes.u8()? != VERSION {
            return Err(StateError::Malformed);
        }
        let tls = bytes.flag()?;
        let (bad_commands, failed_logins) = (bytes.u32()?, bytes.u32()?);
        let state = match bytes.u8()? {
            0 => State::Authorization { user: None },
            1 => {
                let octets = u16::from_le_bytes(bytes.array()?);
                State::Authorization { user: Some(bytes.text(usize::from(octets))?.to_owned()) }
            }
            2 => State::Verifying { exchange: None },
            3 => State::Transaction { maildrop: maildrop(&mut bytes)? },
            _ => return Err(StateError::Malformed),
        };
        if !bytes.0.is_empty() {
            return Err(StateError::Malformed);
        }
        Ok(Server { config, tls, bad_commands, failed_logins, lines: LineCutter::default(), state })
    }
}

fn maildrop(bytes: &mut Reader<'_>) -> Result<Maildrop, StateError> {
    let count = bytes.u32()?;
    if count as usize > MESSAGES_MAX {
        return Err(StateError::Malformed);
    }
    let mut maildrop = Maildrop::new();
    for number in 1..=count {
        let uid = Uid::new(bytes.u32()?).ok_or(StateError::Malformed)?;
        let size = u64::from_le_bytes(bytes.array()?);
        let deleted = bytes.flag()?;
        let octets = bytes.u8()?;
        let uidl = bytes.text(usize::from(octets))?;
        maildrop.push(uid, size, uidl).map_err(|_| StateError::Malformed)?;
        if deleted {
            maildrop.delete(number);
        }
    }
    Ok(maildrop)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self.0.split_at_checked(octets).ok_or(StateError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        self.take(N)?.try_into().map_err(|_| StateError::Malformed)
    }

    fn u8(&mut self) -> Result<u8, StateError> {
        self.array::<1>().map(|[octet]| octet)
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, StateError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StateError::Malformed),
        }
    }

    fn text(&mut self, octets: usize) -> Result<&'a str, StateError> {
        std::str::from_utf8(self.take(octets)?).map_err(|_| StateError::Malformed)
    }
}
