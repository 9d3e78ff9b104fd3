//! A node that comes back with changes that it acknowledged on its disk and that are not in the store.
//!
//! # Order
//! Before anything is claimed: objects go to their places in their journal, which nobody else writes; the journal is sealed, if
//! nobody has; what the seal has cut off goes to `late/`; the end that says so; and then the files. Each step may be done again.
//!
//! # Crash
//! What was acknowledged is the same at every try; what stands behind it in the last file may have been lost since, and counts
//! as the first try that came through sent it. Without the end nobody reads what is under `late/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Inner;
use crate::error::OpenError;
use crate::fault::{self, Fault};
use crate::shared::format::{Content, Incarnation, LateEnd, ObjectHead};
use crate::shared::journal::{IN_FLIGHT_MAX, NodeJournal};
use crate::shared::keys;
use crate::shared::seal::{SealError, seal};
use crate::shared::tail::{Left, empty_object, forget, left_in, object_of};
use crate::shared::takeover::late_end;
use crate::store::{Created, Octets};

use super::PATIENCE;

/// The tails in a directory; one that cannot be read is a reason not to start: it is nowhere else.
pub(super) async fn look(dir: &Path, store: [u8; 16]) -> Result<Vec<Left>, OpenError> {
    let left = left_in(dir).await.map_err(OpenError::io(dir))?;
    for tail in &left {
        for (seq, path) in tail.files().await.map_err(OpenError::io(&tail.dir))? {
            object_of(&path, store, tail.incarnation, seq).await?;
        }
    }
    Ok(left)
}

impl Inner {
    /// Notes that an incarnation of this very process has ended: it may have left a tail.
    pub(super) async fn look_for_tail_of(&self, ended: Incarnation) {
        match left_in(&self.share.dir).await {
            Ok(left) => {
                let of_it = left.into_iter().filter(|left| left.incarnation == ended);
                self.state.borrow_mut().left.extend(of_it);
            }
            Err(error) => {
                tracing::error!(%error, "whether this node has acknowledged what is not in the store is looked at when it starts anew");
            }
        }
    }

    /// Sends on what earlier incarnations of this directory have acknowledged.
    pub(super) async fn send_tails(&self) -> Result<(), SealError> {
        if fault::on(Fault::TailForgotten) {
            return Ok(());
        }
        loop {
            let Some(left) = self.state.borrow().left.first().cloned() else { return Ok(()) };
            Box::pin(self.send_tail(&left)).await?;
            self.state.borrow_mut().left.retain(|other| *other != left);
        }
    }

    async fn send_tail(&self, left: &Left) -> Result<(), SealError> {
        let of = left.incarnation;
        if late_end(&self.store, of, PATIENCE).await?.is_none() {
            let files = left.files().await.map_err(|error| tail_error(&left.dir, &error))?;
            self.complete(of, &files).await?;
            let mut none = |_: &ObjectHead, _: &[u8]| Ok(());
            let name = &self.config.name;
            let first = seal(&self.store, of, self.share.store_id, name, PATIENCE, &mut none).await?;
            let next = files.keys().next_back().map_or(first, |last| first.max(last + 1));
            for seq in first..next {
                let octets = Octets::from(self.tail_object(of, &files, seq).await?);
                let key = keys::late(of, seq);
                if let Created::Foreign(found) = self.store.create(&key, &octets, PATIENCE).await?
                    && let There::Seal = there(&key, &found, of, seq)?
                {
                    return Err(SealError::Damaged { key, what: "a seal stands here".to_owned() });
                }
            }
            let end = Octets::from(LateEnd { incarnation: of, first, next }.encode());
            self.store.create(&keys::late_end(of), &end, PATIENCE).await?;
            match next - first {
                0 => tracing::info!(
                    objects = files.len(),
                    "what this node had acknowledged before it ended is in the store"
                ),
                late => tracing::warn!(
                    objects = late,
                    "another node took over before all that this node had acknowledged was in the store: it is merged now"
                ),
            }
        }
        forget(&left.dir).await.map_err(|error| tail_error(&left.dir, &error))
    }

    /// Makes the objects of a tail in their journal, up to its seal if there is one.
    async fn complete(&self, of: Incarnation, files: &BTreeMap<u64, PathBuf>) -> Result<(), SealError> {
        let (Some(first), Some(last)) = (files.keys().next(), files.keys().next_back()) else {
            return Ok(());
        };
        // Objects without a file held nothing that was told; so many may have been on their way before the first one.
        for seq in first.saturating_sub(IN_FLIGHT_MAX as u64)..=*last {
            let octets = Octets::from(self.tail_object(of, files, seq).await?);
            let key = keys::journal(of, seq);
            match self.store.create(&key, &octets, PATIENCE).await? {
                Created::Mine => {}
                Created::Foreign(found) => {
                    if let There::Seal = there(&key, &found, of, seq)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn tail_object(
        &self,
        of: Incarnation,
        files: &BTreeMap<u64, PathBuf>,
        seq: u64,
    ) -> Result<Vec<u8>, SealError> {
        let store = self.share.store_id;
        let object = match files.get(&seq) {
            Some(path) => object_of(path, store, of, seq).await.map_err(|error| tail_error(path, &error))?,
            None => None,
        };
        Ok(object.unwrap_or_else(|| empty_object(store, of, seq)))
    }

    /// Says of a journal that ended in order, sealed at a number, that nothing is missing in it.
    pub(super) async fn note_complete(&self, journal: &NodeJournal, sealed: u64) {
        let all = journal.is_local() && journal.committed() == sealed && journal.unsent().parts == 0;
        if !all {
            return;
        }
        let end = LateEnd { incarnation: journal.incarnation(), first: sealed, next: sealed };
        let octets = Octets::from(end.encode());
        match self.store.create(&keys::late_end(end.incarnation), &octets, PATIENCE).await {
            Ok(_) => journal.forget_tail().await,
            Err(error) => {
                tracing::warn!(%error, "whoever comes next leaves a gap in UIDs, though nothing is missing")
            }
        }
    }
}

/// What stands at a place of a journal that this node did not send just now.
enum There {
    Seal,
    /// What this very journal sent, with records that its disk had failed to keep.
    Records,
}

fn there(key: &str, found: &[u8], of: Incarnation, seq: u64) -> Result<There, SealError> {
    match ObjectHead::parse(found) {
        Ok(ObjectHead { content: Content::Seal(_), .. }) => Ok(There::Seal),
        Ok(head) if (head.incarnation, head.seq) == (of, seq) => Ok(There::Records),
        Ok(_) => Err(SealError::Damaged { key: key.to_owned(), what: "it stood elsewhere".to_owned() }),
        Err(what) => Err(SealError::Damaged { key: key.to_owned(), what }),
    }
}

fn tail_error(path: &Path, error: &dyn std::fmt::Display) -> SealError {
    SealError::Tail { path: path.display().to_string(), what: error.to_string() }
}
