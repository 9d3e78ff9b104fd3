//! Contexts (RFC 5267): results of SEARCH and SORT that are kept up to date, and changes of which are told.
//!
//! # Invariants
//! What a client was told of a result, in order, is what the context holds. Message sequence numbers and `$` in a search program mean
//! what they meant when it was given.
//!
//! # Cost
//! For each change of the mailbox a search among the messages that changed; for a sorted result, if any of them comes or goes, a sort
//! of the whole result.
//!
//! # Limits
//! [`CONTEXTS_MAX`] of a session. [`RESULTS_MAX`] messages of all of them.

use super::{Imap, User};
use culver_mailbox::View;
use culver_model::search::{SearchKey, SortCriterion};
use culver_model::{SequenceSet, Uid, UidSet};
use culver_proto::imap::command::FetchItems;
use culver_proto::imap::encode::{self, Results};
use culver_proto::imap::{Code, Reason, Status, response};
use std::io;

/// Contexts of one session.
const CONTEXTS_MAX: usize = 16;
/// Messages in all results of one session.
const RESULTS_MAX: usize = 2_000_000;

/// One result that is kept.
pub(super) struct Context {
    tag: String,
    /// Its messages are told by UID.
    uid: bool,
    key: SearchKey,
    /// Of SORT.
    criteria: Option<Vec<SortCriterion>>,
    /// UIDs, in the order of the result.
    results: Vec<u32>,
    /// What is told of each message that comes.
    items: Option<Box<FetchItems>>,
}

/// A search that asked for updates.
pub(super) struct Wanted<'a> {
    pub tag: &'a str,
    pub uid: bool,
    pub key: &'a SearchKey,
    pub criteria: Option<&'a [SortCriterion]>,
    pub results: &'a [u32],
    pub items: Option<&'a FetchItems>,
}

/// The contexts of a session, and what they do not know of yet.
#[derive(Default)]
pub(super) struct Contexts {
    all: Vec<Context>,
    /// Messages that came or changed.
    touched: UidSet,
}

impl Contexts {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Contexts::default();
    }

    pub fn touch(&mut self, uids: &UidSet) {
        if !self.all.is_empty() {
            uids.ranges().for_each(|range| self.touched.insert_range(range.clone()));
        }
    }

    /// RFC 5267 §4.3.4: told before the EXPUNGE, with the numbers that are valid until then.
    pub fn expunged(&mut self, out: &mut Vec<u8>, before: &View, gone: &UidSet) {
        for context in &mut self.all {
            context.remove(out, before, |uid| gone.contains(uid));
        }
        self.touched = self.touched.difference(gone);
    }
}

impl Context {
    /// A message as it is told.
    fn number(&self, view: &View, uid: u32) -> Option<u32> {
        if self.uid { Some(uid) } else { Uid::new(uid).and_then(|uid| view.sequence_of(uid)) }
    }

    /// Takes those out that go, and tells so: each position is that of the result as it then is.
    fn remove(&mut self, out: &mut Vec<u8>, view: &View, goes: impl Fn(u32) -> bool) {
        let gone: Vec<(usize, u32)> = self
            .results
            .iter()
            .enumerate()
            .filter(|(_, uid)| goes(**uid))
            .map(|(at, uid)| (at, *uid))
            .collect();
        if gone.is_empty() {
            return;
        }
        let numbers: Vec<(usize, u32)> =
            gone.iter().filter_map(|(at, uid)| Some((*at, self.number(view, *uid)?))).collect();
        match self.criteria {
            None => {
                let set: UidSet = numbers.iter().map(|(_, number)| *number).collect();
                if !set.is_empty() {
                    let changes = [(0, Results::Set(&set))];
                    encode::esearch_update(out, &self.tag, self.uid, false, &changes);
                }
            }
            Some(_) => {
                // From the end, so that none of them moves another.
                let one: Vec<[u32; 1]> = numbers.iter().map(|(_, number)| [*number]).collect();
                let changes: Vec<(usize, Results<'_>)> = numbers
                    .iter()
                    .zip(&one)
                    .rev()
                    .map(|((at, _), number)| (at + 1, Results::Sorted(number)))
                    .collect();
                encode::esearch_update(out, &self.tag, self.uid, false, &changes);
            }
        }
        let mut gone = gone.into_iter().map(|(at, _)| at).peekable();
        let mut at = 0;
        self.results.retain(|_| {
            let goes = gone.next_if_eq(&at).is_some();
            at += 1;
            !goes
        });
    }

    /// Takes the new result, of which `added` were not in it, and tells so.
    fn add(&mut self, out: &mut Vec<u8>, view: &View, results: Vec<u32>, added: &UidSet) {
        match self.criteria {
            None => {
                let set: UidSet = added.iter().filter_map(|uid| self.number(view, uid)).collect();
                if !set.is_empty() {
                    encode::esearch_update(out, &self.tag, self.uid, true, &[(0, Results::Set(&set))]);
                }
            }
            Some(_) => {
                // Runs of them, each at the place where it then stands.
                let mut runs: Vec<(usize, Vec<u32>)> = Vec::new();
                let mut last = None;
                for (at, uid) in results.iter().enumerate().filter(|(_, uid)| added.contains(**uid)) {
                    let Some(number) = self.number(view, *uid) else { continue };
                    match runs.last_mut().filter(|_| last == at.checked_sub(1)) {
                        Some((_, run)) => run.push(number),
                        None => runs.push((at + 1, vec![number])),
                    }
                    last = Some(at);
                }
                let changes: Vec<(usize, Results<'_>)> =
                    runs.iter().map(|(at, run)| (*at, Results::Sorted(run))).collect();
                encode::esearch_update(out, &self.tag, self.uid, true, &changes);
            }
        }
        self.results = results;
    }
}

/// The program with what it means now in place of sequence numbers and `$` (RFC 5267 §4.3).
fn fixed(key: &SearchKey, view: &View, saved: &UidSet) -> SearchKey {
    let uids = |uids: UidSet| SearchKey::Uid(SequenceSet::from(&uids));
    match key {
        SearchKey::Sequence(set) => uids(view.uids_at(&set.resolve(view.len()))),
        SearchKey::Saved => uids(saved.clone()),
        SearchKey::And(keys) => SearchKey::And(keys.iter().map(|key| fixed(key, view, saved)).collect()),
        SearchKey::Or(left, right) => {
            SearchKey::Or(Box::new(fixed(left, view, saved)), Box::new(fixed(right, view, saved)))
        }
        SearchKey::Not(key) => SearchKey::Not(Box::new(fixed(key, view, saved))),
        key => key.clone(),
    }
}

impl Imap {
    /// Whether updates are kept under this tag already.
    pub(super) fn updates(&self, tag: &str) -> bool {
        self.user.as_ref().is_some_and(|user| user.contexts.all.iter().any(|context| context.tag == tag))
    }

    /// Keeps a result, or says that it is not kept.
    pub(super) fn keep_result(&mut self, wanted: Wanted<'_>) {
        let Wanted { tag, uid, key, criteria, results, items } = wanted;
        let Some(User { selected: Some(selected), contexts, saved, .. }) = &mut self.user else { return };
        let held: usize = contexts.all.iter().map(|context| context.results.len()).sum();
        if contexts.all.len() == CONTEXTS_MAX || held + results.len() > RESULTS_MAX {
            let code = Code::NoUpdate(tag);
            response::untagged(&mut self.out, Status::No, Some(&code), "Too many contexts");
            return;
        }
        contexts.all.push(Context {
            tag: tag.to_owned(),
            uid,
            key: fixed(key, &selected.view, saved),
            criteria: criteria.map(<[SortCriterion]>::to_vec),
            results: results.to_vec(),
            items: items.map(|items| Box::new(items.clone())),
        });
    }

    /// RFC 5267 §4.3.5.
    pub(super) fn cancel_update(&mut self, tag: &str, tags: &[String], pipelined: bool) {
        let Some(User { contexts, .. }) = &mut self.user else { return };
        if !tags.iter().all(|tag| contexts.all.iter().any(|context| context.tag == *tag)) {
            return Reason::NoSuchUpdate.write(tag, &mut self.out);
        }
        contexts.all.retain(|context| !tags.contains(&context.tag));
        self.done(tag, pipelined, true, "No further updates");
    }

    /// Looks again at what came or changed, and tells what that makes of the results.
    pub(super) async fn update_contexts(&mut self) -> io::Result<()> {
        let Some(User { contexts, .. }) = &mut self.user else { return Ok(()) };
        if contexts.touched.is_empty() {
            return Ok(());
        }
        let touched = std::mem::replace(&mut contexts.touched, UidSet::new());
        for at in 0..contexts.all.len() {
            let Some(User { session, selected: Some(selected), contexts, .. }) = &mut self.user else {
                return Ok(());
            };
            let Some(context) = contexts.all.get_mut(at) else { return Ok(()) };
            let among = SearchKey::Uid(SequenceSet::from(&touched));
            let key = SearchKey::And(vec![among, context.key.clone()]);
            let found = culver_mailbox::search::search(session, &selected.view, &key, &UidSet::new()).await;
            // What cannot be searched now is told as it was.
            let Ok(found) = found else { continue };
            context
                .remove(&mut self.out, &selected.view, |uid| touched.contains(uid) && !found.contains(uid));
            let have: UidSet = context.results.iter().copied().filter(|uid| touched.contains(*uid)).collect();
            let added: UidSet = found.iter().filter(|uid| !have.contains(*uid)).collect();
            if added.is_empty() {
                continue;
            }
            let mut all: Vec<u32> = context.results.iter().copied().chain(added.iter()).collect();
            all.sort_unstable();
            if let Some(criteria) = &context.criteria {
                match culver_mailbox::sort::sort(session, &selected.view, &all, criteria).await {
                    Ok(order) => all = order.iter().map(|at| all[*at as usize]).collect(),
                    Err(_) => continue,
                }
            }
            context.add(&mut self.out, &selected.view, all, &added);
            if let Some(items) = context.items.clone() {
                self.tell_new(&added, &items).await?;
            }
        }
        Ok(())
    }
}
