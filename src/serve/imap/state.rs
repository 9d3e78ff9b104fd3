//! The state of a session between two commands, as a versioned value: what a relay needs to attach it elsewhere.

use super::{Imap, Selected, User};
use culver_mailbox::View;
use culver_model::{Guid, ModSeq, UidSet, UidValidity};
use culver_proto::imap::{Server, state};

const VERSION: u8 = 2;

/// Bytes that are no session state of a version that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no session state")]
pub struct StateError;

/// All that a session is, but for the connection and the user's name.
#[derive(Debug)]
pub struct SessionState {
    pub protocol: state::State,
    pub metadata_told: ModSeq,
    pub saved: UidSet,
    pub selected: Option<(View, bool)>,
}

impl SessionState {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let protocol = self.protocol.encode();
        out.extend((protocol.len() as u32).to_le_bytes());
        out.extend(&protocol);
        out.extend(self.metadata_told.get().to_le_bytes());
        put_set(&mut out, &self.saved);
        out.push(u8::from(self.selected.is_some()));
        if let Some((view, read_only)) = &self.selected {
            out.push(u8::from(*read_only));
            out.extend(view.mailbox().0);
            out.extend(view.uid_validity().get().to_le_bytes());
            let (seen, told) = view.modseqs();
            out.extend(seen.get().to_le_bytes());
            out.extend(told.get().to_le_bytes());
            out.extend(view.keywords_told().to_le_bytes());
            put_set(&mut out, &view.uids().iter().collect());
            put_set(&mut out, view.recent());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<SessionState, StateError> {
        let mut r = Reader(bytes);
        if r.array::<1>()? != [VERSION] {
            return Err(StateError);
        }
        let octets = r.u32()? as usize;
        let protocol = state::State::decode(r.take(octets)?).map_err(|_| StateError)?;
        let metadata_told = ModSeq(r.u64()?);
        let saved = r.set()?;
        let selected = match r.array()? {
            [0u8] => None,
            [1] => {
                let read_only = match r.array()? {
                    [0u8] => false,
                    [1] => true,
                    _ => return Err(StateError),
                };
                let mailbox = Guid(r.array()?);
                let uid_validity = UidValidity::new(r.u32()?).ok_or(StateError)?;
                let modseqs = (ModSeq(r.u64()?), ModSeq(r.u64()?));
                let keywords = r.u32()?;
                let uids = r.set()?;
                let recent = r.set()?;
                let view = View::from_parts(mailbox, uid_validity, &uids, modseqs, keywords, recent);
                Some((view, read_only))
            }
            _ => return Err(StateError),
        };
        if r.0.is_empty() {
            Ok(SessionState { protocol, metadata_told, saved, selected })
        } else {
            Err(StateError)
        }
    }
}

fn put_set(out: &mut Vec<u8>, set: &UidSet) {
    let ranges = set.ranges();
    out.extend((ranges.len() as u32).to_le_bytes());
    for range in ranges {
        out.extend(range.start().to_le_bytes());
        out.extend(range.end().to_le_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self.0.split_at_checked(octets).ok_or(StateError)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        Ok(self.take(N)?.try_into().expect("take gives N octets"))
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, StateError> {
        self.array().map(u64::from_le_bytes)
    }

    fn set(&mut self) -> Result<UidSet, StateError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / 8 {
            return Err(StateError);
        }
        let mut set = UidSet::new();
        for _ in 0..count {
            let (first, last) = (self.u32()?, self.u32()?);
            if first == 0 || first > last || set.last().is_some_and(|have| have >= first) {
                return Err(StateError);
            }
            set.insert_range(first..=last);
        }
        Ok(set)
    }
}

impl Imap {
    /// Puts the session through its stored form, where a test asks for it.
    pub(super) fn exercise_state(&mut self) {
        let Some(user) = &mut self.user else { return };
        let User { saved, selected, metadata_told, .. } = user;
        let state = SessionState {
            protocol: self.server.state().clone(),
            metadata_told: *metadata_told,
            saved: saved.clone(),
            selected: selected.as_ref().map(|selected| (selected.view.clone(), selected.read_only)),
        };
        let bytes = state.encode();
        let SessionState { protocol, metadata_told: told, saved: kept, selected: view } =
            SessionState::decode(&bytes).expect("a session state survives its own encoding");
        *metadata_told = told;
        *saved = kept;
        *selected = view.map(|(view, read_only)| Selected { view, read_only });
        self.server = Server::resume(*self.server.limits(), protocol);
    }
}
