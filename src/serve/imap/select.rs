//! SELECT, EXAMINE, CLOSE, STATUS, and what changes the list of mailboxes.

use super::{Flow, Imap, Selected, User};
use culver_index::MailboxIndex;
use culver_mailbox::list;
use culver_mailbox::record::{Record, StoreOp};
use culver_mailbox::{Applied, ChangeError, Refusal as Refused, View, everything};
use culver_model::id::{INBOX_ID, MAILBOX_ID};
use culver_model::{AccountId, Guid, Keyword, MailboxName, ModSeq, SystemFlag, UidSet, Usage};
use culver_proto::imap::command::{MessageSet, Qresync, Select, StatusItems};
use culver_proto::imap::encode::{self, StatusValues};
use culver_proto::imap::{Code, Enabled, Reason, Refusal, Stage, Status, response};
use culver_shard::{random, time};
use culver_storage::Standing;
use ring::digest;
use std::io;

/// Rows written between two looks at whether the client reads.
const ROWS_STEP: usize = 1000;

/// FLAGS and PERMANENTFLAGS.
pub fn write_flags(out: &mut Vec<u8>, index: &MailboxIndex, read_only: bool) {
    let system = SystemFlag::ALL.into_iter().fold(0, |bits, flag| bits | flag.bit());
    encode::flags(out, system, index.keywords().iter().map(Keyword::as_str));
    let mut permanent = String::new();
    if !read_only {
        for flag in SystemFlag::ALL {
            permanent.push_str(flag.name());
            permanent.push(' ');
        }
        for keyword in index.keywords() {
            permanent.push_str(keyword.as_str());
            permanent.push(' ');
        }
        permanent.push_str("\\*");
    }
    let text = if read_only { "No permanent flags permitted" } else { "Flags permitted" };
    response::untagged(out, Status::Ok, Some(&Code::PermanentFlags(&permanent)), text);
}

/// Why a change was refused, in the words of IMAP.
pub fn reason(error: &ChangeError, refused: impl FnOnce(Refused) -> Reason) -> Reason {
    match error {
        ChangeError::Refused(refusal) => refused(*refusal),
        ChangeError::NoSpace => Reason::NoSpace,
        ChangeError::Away(standing) => {
            tracing::info!(?standing, "a change was not committed: the account is not served here");
            if *standing == Standing::Stale { Reason::Unavailable } else { Reason::Elsewhere }
        }
        ChangeError::Unavailable(why) => {
            tracing::warn!(%why, "a change was not committed");
            Reason::Unavailable
        }
    }
}

impl Imap {
    pub(super) fn deselect(&mut self) {
        if let Some(user) = &mut self.user {
            user.selected = None;
            user.contexts.clear();
            if let Some(notify) = &mut user.notify {
                notify.deselected();
            }
            user.saved = UidSet::new();
        }
        self.server.set_stage(Stage::Authenticated);
    }

    pub(super) async fn select(&mut self, tag: &str, select: Select) -> io::Result<()> {
        if select.qresync.is_some() && !self.server.state().enabled.qresync {
            // RFC 7162 §3.2.5: the parameter needs ENABLE QRESYNC first.
            Refusal::Expected("ENABLE QRESYNC before the QRESYNC parameter").write(Some(tag), &mut self.out);
            return Ok(());
        }
        let had = self.user.as_ref().is_some_and(|user| user.selected.is_some());
        // RFC 3501 §6.3.1: a SELECT that fails leaves nothing selected.
        self.deselect();
        if had {
            // RFC 7162 §3.2.11: all that follows is about the other mailbox.
            response::untagged(&mut self.out, Status::Ok, Some(&Code::Closed), "Previous mailbox closed");
        }
        let Some(user) = &mut self.user else { return Ok(()) };
        let account = user.session.account().clone();
        let Ok(name) = &select.mailbox else {
            Reason::NoSuchMailbox.write(tag, &mut self.out);
            return Ok(());
        };
        let resync = {
            let state = account.state();
            let guid = match state.entry(name) {
                Some(entry) if entry.selectable => entry.guid,
                Some(_) => {
                    Reason::NoSelect.write(tag, &mut self.out);
                    return Ok(());
                }
                None => {
                    Reason::NoSuchMailbox.write(tag, &mut self.out);
                    return Ok(());
                }
            };
            let Some(index) = state.selectable(guid) else {
                Reason::NoSuchMailbox.write(tag, &mut self.out);
                return Ok(());
            };
            let Enabled { rev2, uid_only, .. } = self.server.state().enabled;
            let taken = account.take_recent(guid, index.uid_next().get(), select.read_only || rev2);
            let mut recent = UidSet::new();
            // RFC 9051 §2.3.2, §6.3.2: \Recent, RECENT and UNSEEN are of rev1.
            if !taken.is_empty() && !rev2 {
                recent.insert_range(taken.start..=taken.end - 1);
            }
            let view = View::new(index, recent);
            let out = &mut self.out;
            write_flags(out, index, select.read_only);
            encode::exists(out, view.len());
            if !rev2 {
                encode::recent(out, view.recent_count());
            }
            let unseen = index.first_unseen().filter(|_| !rev2 && !uid_only);
            if let Some(unseen) = unseen.and_then(|uid| view.sequence_of(uid)) {
                response::untagged(out, Status::Ok, Some(&Code::Unseen(unseen)), "First unseen");
            }
            response::untagged(out, Status::Ok, Some(&Code::UidValidity(index.uid_validity())), "UIDs valid");
            let next = index.uid_next().get();
            response::untagged(out, Status::Ok, Some(&Code::UidNext(next)), "Predicted next UID");
            let code = Code::HighestModSeq(index.highest_modseq());
            response::untagged(out, Status::Ok, Some(&code), "Highest");
            let id = mailbox_id(account.id(), guid);
            response::untagged(out, Status::Ok, Some(&Code::MailboxId(&id)), "Mailbox id");
            if let Some(line) = list::one(&state, name).filter(|_| rev2) {
                // RFC 9051 §6.3.2: the name as it is.
                encode::list(out, &super::list::attributes(&line), name, false, true);
            }
            let valid = index.uid_validity();
            user.selected = Some(Selected { view, read_only: select.read_only });
            select.qresync.filter(|qresync| qresync.uid_validity == valid)
        };
        self.server.set_stage(Stage::Selected);
        if let Some(qresync) = resync {
            self.server.enabled_mut().condstore = true;
            self.resync(&qresync).await?;
        }
        let code = if select.read_only { Code::ReadOnly } else { Code::ReadWrite };
        response::tagged(&mut self.out, tag, Status::Ok, Some(&code), "Selected");
        Ok(())
    }

    /// RFC 7162 §3.2.5: what went and what changed since the client was last here.
    async fn resync(&mut self, qresync: &Qresync) -> io::Result<()> {
        let uid_only = self.server.state().enabled.uid_only;
        let known = match &qresync.known_uids {
            Some(known) => known.resolve(u32::MAX),
            None => everything(),
        };
        let changed = {
            let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(()) };
            let state = session.account().state();
            let Some(index) = state.selectable(selected.view.mailbox()) else { return Ok(()) };
            // VANISHED (EARLIER) before FETCH.
            encode::vanished(&mut self.out, true, &vanished_since(index, qresync.modseq, &known));
            let mut changed = UidSet::new();
            for row in index.changed_since(qresync.modseq) {
                if known.contains(row.uid().get()) {
                    changed.insert(row.uid().get());
                }
            }
            changed
        };
        let mut rest = changed.iter().peekable();
        while rest.peek().is_some() {
            let step: UidSet = rest.by_ref().take(ROWS_STEP).collect();
            if let Some(User { session, selected: Some(selected), .. }) = &self.user {
                let state = session.account().state();
                if let Some(index) = state.selectable(selected.view.mailbox()) {
                    for row in index.rows(&step) {
                        let manner = super::fetch::Manner { modseq: true, uid: !uid_only, uid_only };
                        super::fetch::write_flags(&mut self.out, &selected.view, &row, manner);
                    }
                }
            }
            self.flush_full().await?;
        }
        Ok(())
    }

    pub(super) async fn close(&mut self, tag: &str) -> io::Result<Flow> {
        let Some(User { session, selected: Some(selected), .. }) = &self.user else { return Ok(Flow::Go) };
        if !selected.read_only {
            let mailbox = selected.view.mailbox();
            let record = Record::Expunge { mailbox, uids: everything(), only_deleted: true };
            let nothing =
                session.account().state().selectable(mailbox).is_none_or(|index| index.deleted_count() == 0)
                    && !session.account().is_changing();
            if !nothing && let Err(error) = session.change(record).await {
                reason(&error, |_| Reason::NoSuchMailbox).write(tag, &mut self.out);
                return Ok(Flow::Go);
            }
        }
        self.deselect();
        response::tagged(&mut self.out, tag, Status::Ok, None, "Closed");
        Ok(Flow::Go)
    }

    pub(super) async fn expunge(&mut self, tag: &str, set: Option<MessageSet>) {
        let Some(User { session, selected: Some(selected), saved, .. }) = &self.user else { return };
        if selected.read_only {
            Reason::ReadOnly.write(tag, &mut self.out);
            return;
        }
        let uids = match &set {
            None => everything(),
            Some(MessageSet::Saved) => saved.clone(),
            Some(MessageSet::Set(set)) => selected.view.uids_in(&set.resolve(selected.view.last_uid())),
        };
        let mailbox = selected.view.mailbox();
        let idle =
            session.account().state().selectable(mailbox).is_some_and(|index| index.deleted_count() == 0)
                && !session.account().is_changing();
        if !idle && !uids.is_empty() {
            let record = Record::Expunge { mailbox, uids, only_deleted: true };
            if let Err(error) = session.change(record).await {
                reason(&error, |_| Reason::NoSuchMailbox).write(tag, &mut self.out);
                return;
            }
        }
        self.sync_for(true, true);
        // RFC 7162 §3.2.7, §3.2.8: a client that keeps mod-sequences learns that of the expunge.
        let told = self.told().filter(|_| self.server.state().enabled.condstore);
        let code = told.map(Code::HighestModSeq);
        response::tagged(&mut self.out, tag, Status::Ok, code.as_ref(), "Expunged");
    }

    pub(super) fn told(&self) -> Option<ModSeq> {
        let user = self.user.as_ref()?;
        let told = user.selected.as_ref()?.view.told();
        // RFC 7162 §3.2.7: changes that NOTIFY keeps from the client are found by its next QRESYNC.
        Some(user.notify.as_ref().and_then(|notify| notify.withheld()).map_or(told, |stood| stood.min(told)))
    }

    pub(super) fn status_values(&self, index: &MailboxIndex, items: StatusItems) -> StatusValues {
        let recent = || {
            let account = self.user.as_ref()?.session.account();
            let range = account.take_recent(index.guid(), index.uid_next().get(), true);
            Some(index.uids().range_cardinality(range) as u32)
        };
        let id = || {
            let account = self.user.as_ref()?.session.account();
            Some(mailbox_id(account.id(), index.guid()))
        };
        StatusValues {
            messages: items.messages.then(|| index.len()),
            recent: items.recent.then(recent).flatten(),
            uid_next: items.uid_next.then(|| index.uid_next().get()),
            uid_validity: items.uid_validity.then(|| index.uid_validity().get()),
            unseen: items.unseen.then(|| index.unseen_count()),
            size: items.size.then(|| index.total_size()),
            highest_modseq: items.highest_modseq.then(|| self.status_modseq(index)),
            append_limit: items.append_limit.then(|| self.shard.config().imap.append_octets_max),
            mailbox_id: items.mailbox_id.then(id).flatten(),
            deleted: items.deleted.then(|| index.deleted_count()),
            deleted_storage: items.deleted_storage.then(|| super::quota::deleted_octets(index)),
        }
    }

    /// Of the selected mailbox no more than the session has been told.
    fn status_modseq(&self, index: &MailboxIndex) -> ModSeq {
        let selected = self.user.as_ref().and_then(|user| user.selected.as_ref());
        match selected {
            Some(selected) if selected.view.mailbox() == index.guid() => {
                self.told().unwrap_or(selected.view.told())
            }
            _ => index.highest_modseq(),
        }
    }

    pub(super) fn status(&mut self, tag: &str, name: &MailboxName, items: StatusItems, pipelined: bool) {
        let Some(user) = &self.user else { return };
        let account = user.session.account().clone();
        let values = {
            let state = account.state();
            let index = state.entry(name).and_then(|entry| state.selectable(entry.guid));
            match (index, state.entry(name)) {
                (Some(index), _) => Ok(self.status_values(index, items)),
                (None, Some(_)) => Err(Reason::NoSelect),
                (None, None) => Err(Reason::NoSuchMailbox),
            }
        };
        match values {
            Ok(values) => {
                let utf8 = self.server.state().enabled.utf8();
                encode::status(&mut self.out, name, &values, utf8);
                self.done(tag, pipelined, true, "Status done");
            }
            Err(reason) => reason.write(tag, &mut self.out),
        }
    }

    async fn change_list(
        &mut self,
        tag: &str,
        record: Record,
        refused: impl FnOnce(Refused) -> Reason,
        code: Option<Code<'_>>,
        pipelined: bool,
    ) {
        let Some(user) = &self.user else { return };
        let own = match &record {
            Record::Create { guid, .. } | Record::Rename { guid, .. } | Record::RenameInbox { guid, .. } => {
                Ok(*guid)
            }
            Record::Subscribe { name, on } => Err(Some((name.clone(), *on))),
            _ => Err(None),
        };
        match user.session.change(record).await {
            Ok(_) => {
                match own {
                    Ok(guid) => self.notify_own_mailbox(guid),
                    Err(Some((name, on))) => self.notify_own_subscription(&name, on),
                    Err(None) => {}
                }
                self.sync(!pipelined);
                response::tagged(&mut self.out, tag, Status::Ok, code.as_ref(), "Done");
            }
            Err(error) => reason(&error, refused).write(tag, &mut self.out),
        }
    }

    /// RFC 6154 §3: the use that CREATE asks for, or the configured one of the name.
    fn use_of(&self, name: &MailboxName, asked: &[String]) -> Result<Option<String>, Reason> {
        let Some(user) = &self.user else { return Ok(None) };
        let state = user.session.account().state();
        let taken = |attribute: &str| {
            let uses = state.account.mailboxes.iter().filter_map(|entry| entry.special_use.as_deref());
            uses.into_iter().any(|used| used.eq_ignore_ascii_case(attribute))
        };
        match asked {
            // RFC 6154 §5.1: one mailbox for each use.
            [] => Ok(self.shard.special_use(name.as_str()).filter(|attribute| !taken(attribute))),
            [one] => match super::list::special(one) {
                Some(attribute) if !taken(attribute.name()) => Ok(Some(attribute.name().to_owned())),
                _ => Err(Reason::UseAttribute),
            },
            // A mailbox has one use here.
            _ => Err(Reason::UseAttribute),
        }
    }

    pub(super) async fn create(
        &mut self,
        tag: &str,
        name: MailboxName,
        special_use: &[String],
        pipelined: bool,
    ) {
        let mut guid = Guid::default();
        random::fill(&mut guid.0);
        let special_use = match self.use_of(&name, special_use) {
            Ok(special_use) => special_use,
            Err(reason) => return reason.write(tag, &mut self.out),
        };
        let refused = |refusal| match refusal {
            Refused::AlreadyExists => Reason::MailboxExists,
            Refused::Limit => Reason::MailboxLimit,
            _ => Reason::CannotName,
        };
        let _room = match self.room(self.made(&name)) {
            Ok(room) => room,
            Err(reason) => return reason.write(tag, &mut self.out),
        };
        let record = Record::Create { guid, name, special_use, selectable: true };
        let Some(user) = &self.user else { return };
        let id = mailbox_id(user.session.account().id(), guid);
        // RFC 8474 §4.1.
        self.change_list(tag, record, refused, Some(Code::MailboxId(&id)), pipelined).await;
    }

    pub(super) async fn delete(&mut self, tag: &str, name: MailboxName, pipelined: bool) {
        let Some(User { session, selected, .. }) = &self.user else { return };
        let guid = session.account().state().entry(&name).map(|entry| entry.guid);
        let Some(guid) = guid else {
            Reason::NoSuchMailbox.write(tag, &mut self.out);
            return;
        };
        let own = selected.as_ref().is_some_and(|selected| selected.view.mailbox() == guid);
        let record = Record::Delete { guid };
        match session.change(record).await {
            Ok(_) => {
                if own {
                    self.deselect();
                }
                self.notify_own_mailbox(guid);
                self.done(tag, pipelined, true, "Deleted");
            }
            Err(error) => {
                let refused = |refusal| match refusal {
                    Refused::NonExistent => Reason::NoSuchMailbox,
                    _ if guid == Guid::INBOX => Reason::CannotDeleteInbox,
                    _ => Reason::HasChildren,
                };
                reason(&error, refused).write(tag, &mut self.out);
            }
        }
    }

    pub(super) async fn rename(&mut self, tag: &str, from: MailboxName, to: MailboxName, pipelined: bool) {
        let Some(user) = &self.user else { return };
        let guid = user.session.account().state().entry(&from).map(|entry| entry.guid);
        let Some(guid) = guid else { return Reason::NoSuchMailbox.write(tag, &mut self.out) };
        // A new name takes room where levels above it are made, or it is that of INBOX's messages.
        let mut adds = self.made(&to);
        adds.mailboxes -= u64::from(guid != Guid::INBOX && adds.mailboxes > 0);
        let _room = match self.room(adds) {
            Ok(room) => room,
            Err(reason) => return reason.write(tag, &mut self.out),
        };
        let record = match guid {
            Guid::INBOX => {
                let mut guid = Guid::default();
                random::fill(&mut guid.0);
                Record::RenameInbox { guid, to, save_date: time::wall().0 }
            }
            guid => Record::Rename { guid, to },
        };
        let refused = |refusal| match refusal {
            Refused::NonExistent => Reason::NoSuchMailbox,
            Refused::AlreadyExists => Reason::MailboxExists,
            Refused::Limit => Reason::MailboxLimit,
            _ => Reason::CannotRename,
        };
        self.change_list(tag, record, refused, None, pipelined).await;
    }

    pub(super) async fn subscribe(&mut self, tag: &str, name: MailboxName, on: bool, pipelined: bool) {
        let record = Record::Subscribe { name, on };
        self.change_list(tag, record, |_| Reason::SubscriptionLimit, None, pipelined).await;
    }

    pub(super) async fn copy(
        &mut self,
        tag: &str,
        uid: bool,
        set: &MessageSet,
        to: &MailboxName,
        remove: bool,
        pipelined: bool,
    ) {
        let uids = match self.messages(uid, set) {
            Ok(uids) => uids,
            Err(reason) => return reason.write(tag, &mut self.out),
        };
        let Some(User { session, selected: Some(selected), .. }) = &self.user else { return };
        if remove && selected.read_only {
            return Reason::ReadOnly.write(tag, &mut self.out);
        }
        let target = session.account().state().entry(to).map(|entry| (entry.guid, entry.selectable));
        let guid = match target {
            Some((guid, true)) => guid,
            Some((_, false)) => return Reason::NoSelect.write(tag, &mut self.out),
            None => return Reason::TryCreate.write(tag, &mut self.out),
        };
        if uids.is_empty() {
            // RFC 4315 §3: COPY of nothing is OK, without COPYUID.
            return self.done(tag, pipelined, uid, "Nothing to copy");
        }
        let wanted = uids.len();
        let from = selected.view.mailbox();
        // A move within the account adds nothing.
        let adds = if remove { Usage::default() } else { self.copied(from, &uids) };
        let room = match self.room(adds) {
            Ok(room) => room,
            Err(reason) => return reason.write(tag, &mut self.out),
        };
        // RFC 3501 §6.4.7: all of them or none; a UID that is gone is no error (§6.4.8).
        let record = Record::Copy { from, uids, to: guid, save_date: time::wall().0, remove, whole: !uid };
        let applied = match session.change(record).await {
            Ok(applied) => applied,
            Err(error) => {
                let refused = |refusal| match refusal {
                    Refused::Limit => Reason::KeywordLimit,
                    Refused::Gone => Reason::ExpungeIssued,
                    _ => Reason::TryCreate,
                };
                return reason(&error, refused).write(tag, &mut self.out);
            }
        };
        let Applied::Copy { uid_validity, from, to, .. } = applied else { return };
        if from.is_empty() {
            self.sync(uid && !pipelined);
            return Reason::ExpungeIssued.write(tag, &mut self.out);
        }
        let code = Code::CopyUid(uid_validity, &from, &to);
        if remove {
            // RFC 6851 §4.3: COPYUID before the expunges.
            response::untagged(&mut self.out, Status::Ok, Some(&code), "Moved");
            self.sync_for(true, true);
            let told = self.told().filter(|_| self.server.state().enabled.condstore);
            let code = told.map(Code::HighestModSeq);
            response::tagged(&mut self.out, tag, Status::Ok, code.as_ref(), "Moved");
            return;
        }
        self.tell_soft(room);
        self.sync(uid && !pipelined);
        let text = if from.len() == wanted { "Copied" } else { "Copied; some messages are expunged" };
        response::tagged(&mut self.out, tag, Status::Ok, Some(&code), text);
    }

    /// The UIDs that a command names, in view.
    pub(super) fn messages(&self, uid: bool, set: &MessageSet) -> Result<UidSet, Reason> {
        let Some(User { selected: Some(selected), saved, .. }) = &self.user else {
            return Err(Reason::NotSelected);
        };
        let view = &selected.view;
        match set {
            MessageSet::Saved => Ok(view.uids_in(saved)),
            MessageSet::Set(set) if uid => Ok(view.uids_in(&set.resolve(view.last_uid()))),
            MessageSet::Set(set) => {
                let sequences = set.resolve(view.len());
                if !view.holds_sequences(&sequences) {
                    return Err(Reason::NoSuchMessage);
                }
                Ok(view.uids_at(&sequences))
            }
        }
    }
}

/// UIDs of `known` that a client may still have from `modseq` and that are gone.
pub fn vanished_since(index: &MailboxIndex, modseq: ModSeq, known: &UidSet) -> UidSet {
    let given = match index.uid_next().get() {
        1 => return UidSet::new(),
        next => UidSet::from_iter([1..=next - 1]),
    };
    let known = known.intersection(&given);
    match index.expunged_since(modseq) {
        Some(gone) => gone.intersection(&known),
        // RFC 7162 §3.2.6: the log does not reach back so far, so every UID that is absent is named.
        None => known.difference(&index.existing(&known)),
    }
}

/// The STORE that a FETCH of a body implies.
pub fn seen(mailbox: Guid, uids: UidSet) -> Record {
    let flags = [culver_model::Flag::System(SystemFlag::Seen)].into_iter().collect();
    Record::Store { mailbox, uids, op: StoreOp::Add, flags, unchanged_since: None }
}

/// RFC 8474 §4: INBOX has one id in all accounts, which others would meet who may read several.
fn mailbox_id(account: &AccountId, mailbox: Guid) -> String {
    if mailbox != Guid::INBOX {
        return mailbox.object_id(MAILBOX_ID);
    }
    let digest = digest::digest(&digest::SHA256, account.as_str().as_bytes());
    let mut of_account = Guid::default();
    of_account.0.copy_from_slice(&digest.as_ref()[..16]);
    of_account.object_id(INBOX_ID)
}
