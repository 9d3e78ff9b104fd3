//! SEARCH, ESEARCH and the saved result.

use super::{Imap, User};
use culver_mailbox::search::SearchError;
use culver_model::{ModSeq, Uid, UidSet};
use culver_proto::imap::command::Search;
use culver_proto::imap::encode::{self, Esearch};
use culver_proto::imap::{Reason, Status, response};
use std::io;

impl Imap {
    pub(super) async fn search(&mut self, tag: &str, search: &Search, pipelined: bool) -> io::Result<()> {
        // What was answered so far must not wait for a long search.
        self.flush().await?;
        let Some(User { session, selected: Some(selected), saved, .. }) = &self.user else { return Ok(()) };
        let found = culver_mailbox::search::search(session, &selected.view, &search.key, saved).await;
        let save = search.returns.is_some_and(|returns| returns.save);
        let Some(user) = &mut self.user else { return Ok(()) };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                // RFC 5182 §2.1: a search that fails empties the saved result.
                if save {
                    user.saved = UidSet::new();
                }
                if let Some(away) = self.away().await {
                    away.write_imap(tag, &mut self.out);
                    return Ok(());
                }
                let reason = match error {
                    SearchError::Deleted => Reason::NoSuchMailbox,
                    SearchError::Read(error) => {
                        tracing::error!(session = %self.peer.id, %error, "a search cannot read");
                        Reason::Unavailable
                    }
                };
                reason.write(tag, &mut self.out);
                return Ok(());
            }
        };
        let Some(selected) = &user.selected else { return Ok(()) };
        // RFC 5182 §2.4, RFC 4731 §3.2: with MIN and MAX alone, what is saved and whose MODSEQ is told is what they
        // return.
        let ends =
            search.returns.filter(|returns| (returns.min || returns.max) && !returns.all && !returns.count);
        let named: UidSet = match ends {
            Some(returns) => {
                let min = found.min().filter(|_| returns.min);
                let max = found.max().filter(|_| returns.max);
                min.into_iter().chain(max).collect()
            }
            None => found.iter().collect(),
        };
        let modseq = search.mentions_modseq().then(|| {
            let state = user.session.account().state();
            let index = state.selectable(selected.view.mailbox())?;
            named.iter().filter_map(|uid| index.get(Uid::new(uid)?)).map(|row| row.modseq()).max()
        });
        let modseq: Option<ModSeq> = modseq.flatten();
        let number = |uid: u32| {
            if search.uid { Some(uid) } else { Uid::new(uid).and_then(|uid| selected.view.sequence_of(uid)) }
        };
        match search.returns {
            None => encode::search(&mut self.out, found.iter().filter_map(number), modseq),
            Some(returns) => {
                let all: UidSet = match returns.all {
                    true => found.iter().filter_map(number).collect(),
                    false => UidSet::new(),
                };
                if returns.save {
                    user.saved = named;
                }
                if returns.min || returns.max || returns.all || returns.count {
                    let result = Esearch {
                        tag,
                        uid: search.uid,
                        min: found.min().filter(|_| returns.min).and_then(number),
                        max: found.max().filter(|_| returns.max).and_then(number),
                        all: returns.all.then_some(&all),
                        count: returns.count.then(|| found.len()),
                        modseq: modseq.filter(|_| !found.is_empty()),
                    };
                    encode::esearch(&mut self.out, &result);
                }
            }
        }
        self.sync(search.uid && !pipelined);
        response::tagged(&mut self.out, tag, Status::Ok, None, "Searched");
        Ok(())
    }
}
