//! SEARCH, SORT and THREAD, their extended answers, and the saved result.

use super::context::Wanted;
use super::{Imap, User};
use culver_mailbox::View;
use culver_mailbox::search::SearchError;
use culver_mailbox::thread::Step;
use culver_model::search::{PartialRange, SearchKey};
use culver_model::{Guid, MailboxName, ModSeq, Uid, UidSet, UidValidity};
use culver_proto::imap::command::{
    Esearch, MailboxFilter, Search, SearchReturn, Sort, Thread, mentions_modseq,
};
use culver_proto::imap::encode::{self, Results, ThreadStep, ThreadWriter};
use culver_proto::imap::{Code, Reason, Stage, Status, response};
use culver_shard as shard;
use culver_shard::conn::Conn;
use culver_shard::time;
use futures_lite::future::or;
use std::io;
use std::time::Duration;

/// Numbers worked on between two looks at whether the client reads, and at the clock.
const NUMBERS_STEP: usize = 4096;

/// What was found, in the order in which it is answered.
struct Answer<'a> {
    tag: &'a str,
    mailbox: Guid,
    /// Where it is told: of ESEARCH.
    named: Option<(&'a MailboxName, UidValidity)>,
    uid: bool,
    returns: SearchReturn,
    /// UIDs, ascending.
    found: &'a [u32],
    /// The same in the order of the answer, and with each the number that is answered.
    uids: &'a [u32],
    numbers: &'a [u32],
    /// In the order of a SORT, which a sequence set must keep.
    sorted: bool,
    modseq: bool,
}

impl Imap {
    pub(super) async fn search(&mut self, tag: &str, search: &Search, pipelined: bool) -> io::Result<()> {
        let enabled = self.server.state().enabled;
        // RFC 9755 §3.
        if search.charset && enabled.utf8_accept {
            Reason::CharsetGiven.write(tag, &mut self.out);
            return Ok(());
        }
        if self.reuses(tag, search.returns) {
            return Ok(());
        }
        // RFC 9051 §6.4.4: always ESEARCH.
        let all = SearchReturn { all: true, ..SearchReturn::default() };
        let returns = search.returns.or(Some(all).filter(|_| enabled.rev2));
        let Some(found) = self.find(tag, &search.key, returns).await? else { return Ok(()) };
        let numbers = self.numbers(&found, search.uid).await;
        let modseq = mentions_modseq(&search.key);
        match returns {
            None => {
                let modseq = self.highest_modseq(self.selected_guid(), &found, modseq).await;
                encode::search(&mut self.out, numbers.iter().copied(), modseq);
            }
            Some(returns) => {
                if returns.update {
                    self.keep_result(Wanted {
                        tag,
                        uid: search.uid,
                        key: &search.key,
                        criteria: None,
                        results: &found,
                        items: search.update_items.as_deref(),
                    });
                }
                let (found, uids, numbers) = (&found, &found, &numbers);
                let mailbox = self.selected_guid();
                self.answer(Answer {
                    tag,
                    mailbox,
                    named: None,
                    uid: search.uid,
                    returns,
                    found,
                    uids,
                    numbers,
                    sorted: false,
                    modseq,
                })
                .await;
            }
        }
        self.sync(search.uid && !pipelined);
        response::tagged(&mut self.out, tag, Status::Ok, None, "Searched");
        Ok(())
    }

    pub(super) async fn sort(&mut self, tag: &str, sort: &Sort, pipelined: bool) -> io::Result<()> {
        if self.reuses(tag, sort.returns) {
            return Ok(());
        }
        let Some(found) = self.find(tag, &sort.key, sort.returns).await? else { return Ok(()) };
        let by_uid = self.numbers(&found, sort.uid).await;
        let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(()) };
        let (after, patience) = (self.shard.config().imap.progress_after, self.patience());
        let sorting = culver_mailbox::sort::sort(session, &selected.view, &found, &sort.criteria);
        let order = in_progress(&mut self.conn, tag, after, patience, sorting).await?;
        let order = match order {
            Ok(order) => order,
            Err(error) => return self.failed(tag, error, sort.returns).await,
        };
        let (mut uids, mut numbers) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
        for step in order.chunks(NUMBERS_STEP) {
            uids.extend(step.iter().map(|at| found[*at as usize]));
            numbers.extend(step.iter().map(|at| by_uid[*at as usize]));
            shard::yield_if_needed().await;
        }
        let modseq = mentions_modseq(&sort.key);
        match sort.returns {
            None => {
                // RFC 7162 §3.1.5: the MODSEQ of SORT is that of SEARCH.
                let modseq = self.highest_modseq(self.selected_guid(), &uids, modseq).await;
                encode::sort_begin(&mut self.out);
                for step in numbers.chunks(NUMBERS_STEP) {
                    encode::sort_numbers(&mut self.out, step.iter().copied());
                    self.flush_full().await?;
                    shard::yield_if_needed().await;
                }
                encode::search_end(&mut self.out, modseq);
            }
            Some(returns) => {
                if returns.update {
                    self.keep_result(Wanted {
                        tag,
                        uid: sort.uid,
                        key: &sort.key,
                        criteria: Some(&sort.criteria),
                        results: &uids,
                        items: sort.update_items.as_deref(),
                    });
                }
                let (found, uids, numbers) = (&found, &uids, &numbers);
                let mailbox = self.selected_guid();
                self.answer(Answer {
                    tag,
                    mailbox,
                    named: None,
                    uid: sort.uid,
                    returns,
                    found,
                    uids,
                    numbers,
                    sorted: true,
                    modseq,
                })
                .await;
            }
        }
        // RFC 5256 §3: EXPUNGE is not permitted while SORT is answered, and is with UID SORT.
        self.sync(sort.uid && !pipelined);
        response::tagged(&mut self.out, tag, Status::Ok, None, "Sorted");
        Ok(())
    }

    pub(super) async fn thread(&mut self, tag: &str, thread: &Thread, pipelined: bool) -> io::Result<()> {
        let Some(found) = self.find(tag, &thread.key, None).await? else { return Ok(()) };
        let numbers = self.numbers(&found, thread.uid).await;
        let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(()) };
        let (after, patience) = (self.shard.config().imap.progress_after, self.patience());
        let threading = culver_mailbox::thread::thread(session, &selected.view, &found, thread.algorithm);
        let steps = in_progress(&mut self.conn, tag, after, patience, threading).await?;
        let steps = match steps {
            Ok(steps) => steps,
            Err(error) => return self.failed(tag, error, None).await,
        };
        let mut writer = ThreadWriter::default();
        for steps in steps.chunks(NUMBERS_STEP) {
            for step in steps {
                let step = match step {
                    Step::Open => ThreadStep::Open,
                    Step::Close => ThreadStep::Close,
                    Step::Message(at) => ThreadStep::Number(numbers[*at as usize]),
                };
                writer.push(&mut self.out, step);
            }
            self.flush_full().await?;
            shard::yield_if_needed().await;
        }
        writer.end(&mut self.out);
        // RFC 5256 §3: as with SORT.
        self.sync(thread.uid && !pipelined);
        response::tagged(&mut self.out, tag, Status::Ok, None, "Threaded");
        Ok(())
    }

    /// RFC 5267 §4.3: UPDATE under the tag of another is BAD.
    fn reuses(&mut self, tag: &str, returns: Option<SearchReturn>) -> bool {
        let reused = returns.is_some_and(|returns| returns.update) && self.updates(tag);
        if reused {
            Reason::TagReused.write(tag, &mut self.out);
        }
        reused
    }

    fn selected_guid(&self) -> Guid {
        let selected = self.user.as_ref().and_then(|user| user.selected.as_ref());
        selected.map(|selected| selected.view.mailbox()).unwrap_or_default()
    }

    /// The mailboxes of filters that can be selected, by name, each once.
    pub(super) fn filtered(&self, filters: &[MailboxFilter]) -> Vec<(Guid, MailboxName)> {
        let Some(user) = &self.user else { return Vec::new() };
        let selected = user.selected.as_ref().map(|selected| selected.view.mailbox());
        let state = user.session.account().state();
        let entries = state.account.mailboxes.iter().filter(|entry| entry.selectable);
        let wanted = entries.filter(|entry| {
            let name = &entry.name;
            let below = |above: &MailboxName| name == above || name.starts_under(above);
            filters.iter().any(|filter| match filter {
                MailboxFilter::Selected | MailboxFilter::SelectedDelayed => selected == Some(entry.guid),
                MailboxFilter::Inboxes => name.is_inbox(),
                MailboxFilter::Personal => true,
                MailboxFilter::Subscribed => state.account.subscriptions.binary_search(name).is_ok(),
                MailboxFilter::Subtree(names) => names.iter().any(below),
                MailboxFilter::SubtreeOne(names) => {
                    names.contains(name) || name.parent().is_some_and(|parent| names.contains(&parent))
                }
                MailboxFilter::Mailboxes(names) => names.contains(name),
            })
        });
        wanted.map(|entry| (entry.guid, entry.name.clone())).collect()
    }

    /// RFC 7377.
    pub(super) async fn esearch(&mut self, tag: &str, esearch: &Esearch, pipelined: bool) -> io::Result<()> {
        let Esearch { sources, search } = esearch;
        if search.charset && self.server.state().enabled.utf8_accept {
            Reason::CharsetGiven.write(tag, &mut self.out);
            return Ok(());
        }
        if self.reuses(tag, search.returns) {
            return Ok(());
        }
        // RFC 7377 §2.1: without a result option, ALL.
        let all = SearchReturn { all: true, ..SearchReturn::default() };
        let returns = search.returns.unwrap_or(all);
        let selected = self.selected_guid();
        // RFC 7377 §2.2.
        if returns.update && self.server.state().stage != Stage::Selected {
            Reason::NotSelected.write(tag, &mut self.out);
            return Ok(());
        }
        let sources = if sources.is_empty() { &[MailboxFilter::Selected][..] } else { sources };
        self.flush().await?;
        for (mailbox, name) in self.filtered(sources) {
            let Some(User { session, selected: own, saved, .. }) = &self.user else { return Ok(()) };
            // What the session sees of its own mailbox is its view.
            let other = match own {
                Some(own) if mailbox == selected => Ok(&own.view),
                _ => {
                    let state = session.account().state();
                    let Some(index) = state.selectable(mailbox) else { continue };
                    Err(View::new(index, UidSet::new()))
                }
            };
            let view = other.as_ref().map_or_else(|view| view, |view| *view);
            let uid_validity = view.uid_validity();
            let (after, patience) = (self.shard.config().imap.progress_after, self.patience());
            let searching = culver_mailbox::search::search(session, view, &search.key, saved);
            let found = match in_progress(&mut self.conn, tag, after, patience, searching).await? {
                Ok(found) => found.iter().collect::<Vec<u32>>(),
                // It went while it was searched.
                Err(SearchError::Deleted) if mailbox != selected => continue,
                Err(error) => return self.failed(tag, error, Some(returns)).await,
            };
            if returns.update && mailbox == selected {
                self.keep_result(Wanted {
                    tag,
                    uid: true,
                    key: &search.key,
                    criteria: None,
                    results: &found,
                    items: search.update_items.as_deref(),
                });
            }
            // RFC 7377 §2.1: nothing of mailboxes where nothing matches; SAVE has to know.
            if found.is_empty() && !returns.save {
                continue;
            }
            let answers = !found.is_empty();
            let returns = SearchReturn {
                save: returns.save,
                ..if answers { returns } else { SearchReturn::default() }
            };
            let named = Some((&name, uid_validity));
            let modseq = mentions_modseq(&search.key);
            let found = &found;
            self.answer(Answer {
                tag,
                mailbox,
                named,
                uid: true,
                returns,
                found,
                uids: found,
                numbers: found,
                sorted: false,
                modseq,
            })
            .await;
            self.flush_full().await?;
            shard::yield_if_needed().await;
        }
        self.sync(!pipelined);
        response::tagged(&mut self.out, tag, Status::Ok, None, "Searched");
        Ok(())
    }

    /// The UIDs that match, ascending. `None`: the client has its answer already.
    async fn find(
        &mut self,
        tag: &str,
        key: &SearchKey,
        returns: Option<SearchReturn>,
    ) -> io::Result<Option<Vec<u32>>> {
        // What was answered so far must not wait for a long search.
        self.flush().await?;
        let Some(User { session, selected: Some(selected), saved, .. }) = &self.user else { return Ok(None) };
        let (after, patience) = (self.shard.config().imap.progress_after, self.patience());
        let searching = culver_mailbox::search::search(session, &selected.view, key, saved);
        match in_progress(&mut self.conn, tag, after, patience, searching).await? {
            Ok(found) => Ok(Some(found.iter().collect())),
            Err(error) => self.failed(tag, error, returns).await.map(|()| None),
        }
    }

    async fn failed(
        &mut self,
        tag: &str,
        error: SearchError,
        returns: Option<SearchReturn>,
    ) -> io::Result<()> {
        // RFC 5182 §2.1: a search that fails empties the saved result.
        if let Some(user) = self.user.as_mut().filter(|_| returns.is_some_and(|returns| returns.save)) {
            user.saved = UidSet::new();
        }
        if let Some(away) = self.away().await {
            away.write_imap(tag, &mut self.out);
            return Ok(());
        }
        let reason = match error {
            SearchError::Deleted => Reason::NoSuchMailbox,
            SearchError::TooLarge => Reason::ResultLimit,
            SearchError::Read(error) => {
                tracing::error!(session = %self.peer.id, %error, "a search cannot read");
                Reason::Unavailable
            }
        };
        reason.write(tag, &mut self.out);
        Ok(())
    }

    /// What is answered for each of `uids`, which ascend: they themselves, or their sequence numbers.
    async fn numbers(&self, uids: &[u32], uid: bool) -> Vec<u32> {
        let view = self.user.as_ref().and_then(|user| user.selected.as_ref()).map(|selected| &selected.view);
        let Some(view) = view.filter(|_| !uid) else { return uids.to_vec() };
        let mut numbers = Vec::with_capacity(uids.len());
        let mut in_view = (1..).zip(view.uids());
        // Of few, each is counted; of many, all that lie between are passed over.
        let few = uids.len() < view.len() as usize / 64;
        for step in uids.chunks(NUMBERS_STEP) {
            match few {
                true => numbers.extend(step.iter().filter_map(|uid| sequence_of(view, *uid))),
                false => numbers.extend(
                    step.iter().filter_map(|uid| in_view.find(|(_, have)| have == uid).map(|found| found.0)),
                ),
            }
            shard::yield_if_needed().await;
        }
        numbers
    }

    /// The highest MODSEQ of `uids`, where it is asked for.
    async fn highest_modseq(&self, mailbox: Guid, uids: &[u32], asked: bool) -> Option<ModSeq> {
        let user = self.user.as_ref().filter(|_| asked)?;
        let mut highest = None;
        for step in uids.chunks(NUMBERS_STEP) {
            {
                let state = user.session.account().state();
                let index = state.selectable(mailbox)?;
                let rows = step.iter().filter_map(|uid| index.get(Uid::new(*uid)?));
                highest = highest.max(rows.map(|row| row.modseq()).max());
            }
            shard::yield_if_needed().await;
        }
        highest
    }

    /// ESEARCH, and what is saved.
    async fn answer(&mut self, answer: Answer<'_>) {
        let Answer { tag, mailbox, named: told, uid, returns, found, uids, numbers, sorted, modseq } = answer;
        let SearchReturn { min, max, all, count, save, partial, .. } = returns;
        let place = |range: PartialRange| {
            let places = range.of(numbers.len() as u64);
            places.start as usize..places.end as usize
        };
        // RFC 5182 §2.4, RFC 4731 §3.2, RFC 9394 §3.2: with MIN, MAX and PARTIAL, and neither ALL nor COUNT, what is saved
        // and whose MODSEQ is told is what they return.
        let all_named = all || count || !(min || max || partial.is_some());
        let named: Vec<u32> = match !all_named && (save || modseq) {
            true => {
                let ends = [uids.first().filter(|_| min), uids.last().filter(|_| max)];
                let partial = partial.map_or(&uids[..0], |range| &uids[place(range)]);
                let mut named: Vec<u32> = ends.into_iter().flatten().chain(partial).copied().collect();
                named.sort_unstable();
                named
            }
            false => Vec::new(),
        };
        let named = if all_named { found } else { &named };
        let modseq = self.highest_modseq(mailbox, named, modseq).await;
        if save && let Some(user) = &mut self.user {
            user.saved = named.iter().copied().collect();
        }
        if !returns.answers() {
            return;
        }
        let listed = match (all, partial) {
            (true, _) => numbers,
            (false, Some(range)) => &numbers[place(range)],
            (false, None) => &numbers[..0],
        };
        let set = if sorted { UidSet::new() } else { listed.iter().copied().collect() };
        let results = if sorted { Results::Sorted(listed) } else { Results::Set(&set) };
        let utf8 = self.server.state().enabled.utf8();
        let result = encode::Esearch {
            tag,
            mailbox: told.map(|(name, uid_validity)| (name, uid_validity, utf8)),
            uid,
            min: numbers.first().copied().filter(|_| min),
            max: numbers.last().copied().filter(|_| max),
            all: all.then_some(results),
            partial: partial.map(|range| (range, results)),
            count: count.then_some(numbers.len() as u64),
            modseq,
        };
        encode::esearch(&mut self.out, &result);
    }
}

/// Does work that may take long; meanwhile the client hears now and then that it goes on (RFC 9585).
async fn in_progress<T>(
    conn: &mut Conn,
    tag: &str,
    after: Duration,
    patience: Duration,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let done = async { Some(work.as_mut().await) };
        let time = async {
            time::sleep(after).await;
            None
        };
        if let Some(done) = or(done, time).await {
            return Ok(done);
        }
        let (mut out, code) = (Vec::new(), Code::InProgress(tag));
        response::untagged(&mut out, Status::Ok, Some(&code), "Still searching");
        time::deadline(patience, conn.write_all(&out)).await??;
    }
}

fn sequence_of(view: &View, uid: u32) -> Option<u32> {
    Uid::new(uid).and_then(|uid| view.sequence_of(uid))
}
