//! STORE (RFC 3501 §6.4.6, RFC 7162 §3.1.3).

use super::select::reason;
use super::{Imap, User, fetch};
use culver_mailbox::record::{Record, StoreOp};
use culver_mailbox::{Applied, Refusal};
use culver_model::{Uid, UidSet};
use culver_proto::imap::command::{Store, StoreOperation};
use culver_proto::imap::{Code, Reason, Status, response};
use culver_shard as shard;
use std::io;

/// Rows written between two looks at whether the client reads.
const ROWS_STEP: usize = 256;

impl Imap {
    pub(super) async fn store(&mut self, tag: &str, store: &Store, pipelined: bool) -> io::Result<()> {
        let uids = match self.messages(store.uid, &store.set) {
            Ok(uids) => uids,
            Err(reason) => {
                reason.write(tag, &mut self.out);
                return Ok(());
            }
        };
        let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(()) };
        if selected.read_only {
            Reason::ReadOnly.write(tag, &mut self.out);
            return Ok(());
        }
        if uids.is_empty() {
            self.done(tag, pipelined, store.uid, "Nothing to store");
            return Ok(());
        }
        let mailbox = selected.view.mailbox();
        let op = match store.operation {
            StoreOperation::Replace => StoreOp::Replace,
            StoreOperation::Add => StoreOp::Add,
            StoreOperation::Remove => StoreOp::Remove,
        };
        let record = Record::Store {
            mailbox,
            uids: uids.clone(),
            op,
            flags: store.flags.clone(),
            unchanged_since: store.unchanged_since,
        };
        // A change of another session that this one was not told of is not the client's own: it cannot be passed over
        // with .SILENT, or the client would never learn of it.
        let (before, untold) = {
            let state = session.account().state();
            let (seen, _) = selected.view.modseqs();
            let untold = state
                .selectable(mailbox)
                .is_some_and(|index| index.changed_since(seen).any(|row| uids.contains(row.uid().get())));
            (state.highest_modseq(), untold)
        };
        let applied = match session.change(record).await {
            Ok(applied) => applied,
            Err(error) => {
                let refused = |refusal| match refusal {
                    Refusal::Limit => Reason::KeywordLimit,
                    _ => Reason::NoSuchMailbox,
                };
                reason(&error, refused).write(tag, &mut self.out);
                return Ok(());
            }
        };
        let Applied::Store { changed, modified, modseq } = applied else { return Ok(()) };
        let there = {
            let Some(User { session, selected: Some(selected), contexts, .. }) = &mut self.user else {
                return Ok(());
            };
            let account = session.account().clone();
            let state = account.state();
            let Some(index) = state.selectable(mailbox) else {
                // It was deleted right behind the change.
                Reason::NoSuchMailbox.write(tag, &mut self.out);
                return Ok(());
            };
            if !changed.is_empty() {
                contexts.touch(&changed);
                // Where MODSEQs were given in between, another change was; what it did is told too.
                if !untold && modseq == before.next() {
                    selected.view.skip_own(modseq);
                }
                if index.keywords_version() != selected.view.keywords_told() {
                    super::select::write_flags(&mut self.out, index, false);
                    selected.view.keywords_are_told(index.keywords_version());
                }
            }
            index.existing(&uids)
        };
        let condstore = self.server.state().enabled.condstore;
        if !store.silent {
            self.tell(&there.difference(&modified), store.uid, true).await?;
        } else if condstore {
            // RFC 7162 §3.1.3: .SILENT still tells the new MODSEQ; where UNCHANGEDSINCE was given, that of each message
            // that it let pass, changed or not.
            let passed = match store.unchanged_since {
                Some(_) => there.difference(&modified),
                None => changed,
            };
            self.tell(&passed, store.uid, false).await?;
        }
        self.sync(store.uid && !pipelined);
        if !modified.is_empty() {
            let named = if store.uid { modified } else { self.sequences(&modified) };
            response::tagged(
                &mut self.out,
                tag,
                Status::Ok,
                Some(&Code::Modified(&named)),
                "Conditional STORE failed",
            );
        } else if there.len() < uids.len() {
            Reason::ExpungeIssued.write(tag, &mut self.out);
        } else {
            response::tagged(&mut self.out, tag, Status::Ok, None, "Stored");
        }
        Ok(())
    }

    async fn tell(&mut self, uids: &UidSet, uid: bool, flags: bool) -> io::Result<()> {
        let manner = fetch::Manner::unasked(self.server.state().enabled, uid);
        let mut from = Some(1);
        while let Some(start) = from {
            {
                let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(()) };
                let state = session.account().state();
                let Some(index) = state.selectable(selected.view.mailbox()) else { return Ok(()) };
                let rest = uids.intersection(&UidSet::from_iter([start..=u32::MAX]));
                let mut last: Option<Uid> = None;
                for row in index.rows(&rest).take(ROWS_STEP) {
                    last = Some(row.uid());
                    if flags {
                        fetch::write_flags(&mut self.out, &selected.view, &row, manner);
                    } else if let Some(mut writer) =
                        fetch::begin(&mut self.out, &selected.view, row.uid(), manner.uid_only)
                    {
                        if manner.uid {
                            writer.uid(row.uid());
                        }
                        writer.modseq(row.modseq());
                        writer.finish();
                    }
                }
                from = last.and_then(|last| last.get().checked_add(1));
            }
            self.flush_full().await?;
            shard::yield_if_needed().await;
        }
        Ok(())
    }

    pub(super) fn sequences(&self, uids: &UidSet) -> UidSet {
        let Some(User { selected: Some(selected), .. }) = &self.user else { return UidSet::new() };
        uids.iter().filter_map(|uid| selected.view.sequence_of(Uid::new(uid)?)).collect()
    }
}
