//! GETQUOTA, GETQUOTAROOT, SETQUOTA, and room for what a command adds (RFC 9208).
//!
//! An account has one quota root, [`ROOT`], over all its mailboxes. Those whom the configuration names as `quota.admins` meet the
//! roots of all accounts here, as [`ROOT_OF`] and the name of the account.

use super::select::reason;
use super::{Imap, User};
use crate::serve::metrics::count;
use crate::serve::{Shard, auth};
use culver_index::{FlagId, MailboxIndex};
use culver_mailbox::quota::Hold;
use culver_mailbox::record::Record;
use culver_mailbox::{OpenError, Refusal};
use culver_model::quota::{Quota, Usage};
use culver_model::{AccountId, Guid, MailboxName, SystemFlag, Uid, UidSet};
use culver_proto::imap::{Code, Reason, Status, encode, response};
use culver_shard::mesh;
use std::borrow::Cow;

/// The root of a user's own mailboxes.
pub const ROOT: &str = "User quota";
/// What stands before the name of an account in the root that an admin may set.
const ROOT_OF: &str = "user/";

const STORAGE: &str = "STORAGE";
const MESSAGE: &str = "MESSAGE";
const MAILBOX: &str = "MAILBOX";
/// RFC 9208 §5.1: octets of a unit of STORAGE.
const UNIT: u64 = 1024;

/// What a root holds and may hold.
#[derive(Clone, Copy, Debug)]
struct Root {
    usage: Usage,
    quota: Quota,
}

impl Root {
    fn write(&self, root: &str, out: &mut Vec<u8>) {
        let Root { usage, quota } = self;
        let storage = quota.octets.map(|limit| (STORAGE, usage.octets.div_ceil(UNIT), limit.div_ceil(UNIT)));
        let messages = quota.messages.map(|limit| (MESSAGE, usage.messages, limit));
        let mailboxes = quota.mailboxes.map(|limit| (MAILBOX, usage.mailboxes, limit));
        let limited: Vec<_> = [storage, messages, mailboxes].into_iter().flatten().collect();
        encode::quota(out, root, &limited);
    }
}

/// Whose root a name is.
enum Whose {
    Own,
    Of(AccountId),
    Nobody,
}

/// The limits that a SETQUOTA asks for: what it does not name is not limited (RFC 9208 §4.1.3).
fn wanted(limits: &[(&str, u64)]) -> Option<Quota> {
    let mut quota = Quota::default();
    for (resource, limit) in limits {
        match resource.to_ascii_uppercase().as_str() {
            STORAGE => quota.octets = Some(limit.saturating_mul(UNIT)),
            MESSAGE => quota.messages = Some(*limit),
            MAILBOX => quota.mailboxes = Some(*limit),
            _ => return None,
        }
    }
    Some(quota)
}

impl Imap {
    /// Whether this user sets the quota of others.
    pub(super) fn sets_quota(&self) -> bool {
        let Some(user) = &self.user else { return false };
        self.shard.config().quota.admins.contains(user.session.account().id())
    }

    fn own_root(&self) -> Option<Root> {
        let account = self.user.as_ref()?.session.account();
        let state = account.state();
        let quota = state.account.quota.unwrap_or(self.shard.allowance(account.id()).quota);
        Some(Root { usage: state.usage(), quota })
    }

    fn whose(&self, root: &[u8]) -> Whose {
        if root == ROOT.as_bytes() {
            return Whose::Own;
        }
        let name = std::str::from_utf8(root).ok().and_then(|root| root.strip_prefix(ROOT_OF));
        let account = name.filter(|_| self.sets_quota()).and_then(|name| AccountId::parse(name).ok());
        account.map_or(Whose::Nobody, Whose::Of)
    }

    pub(super) async fn get_quota(&mut self, tag: &str, root: Cow<'_, [u8]>, pipelined: bool) {
        let found = match self.whose(&root) {
            Whose::Own => self.own_root().map(|found| (ROOT.to_owned(), found)).ok_or(Reason::NoQuotaRoot),
            Whose::Of(account) => {
                let name = format!("{ROOT_OF}{}", account.as_str());
                root_of(&self.shard, account, None).await.map(|found| (name, found))
            }
            // RFC 9208 §8: nobody learns of others' usage.
            Whose::Nobody => Err(Reason::NoQuotaRoot),
        };
        match found {
            Ok((name, root)) => {
                root.write(&name, &mut self.out);
                self.done(tag, pipelined, true, "Quota given");
            }
            Err(reason) => reason.write(tag, &mut self.out),
        }
    }

    /// RFC 9208 §4.1.2: also of a mailbox that does not exist.
    pub(super) fn get_quota_root(&mut self, tag: &str, name: &MailboxName, pipelined: bool) {
        encode::quota_root(&mut self.out, name, &[ROOT], self.server.state().enabled.utf8());
        if let Some(root) = self.own_root() {
            root.write(ROOT, &mut self.out);
        }
        self.done(tag, pipelined, true, "Quota roots given");
    }

    pub(super) async fn set_quota(
        &mut self,
        tag: &str,
        root: Cow<'_, [u8]>,
        limits: &[(&str, u64)],
        pipelined: bool,
    ) {
        if !self.sets_quota() {
            return Reason::NoPermission.write(tag, &mut self.out);
        }
        let account = match self.whose(&root) {
            Whose::Of(account) => account,
            Whose::Own => match &self.user {
                Some(user) => user.session.account().id().clone(),
                None => return,
            },
            Whose::Nobody => return Reason::NoQuotaRoot.write(tag, &mut self.out),
        };
        // RFC 9208 §3.2: what cannot be limited is refused.
        let Some(quota) = wanted(limits) else { return Reason::QuotaResource.write(tag, &mut self.out) };
        match root_of(&self.shard, account.clone(), Some(quota)).await {
            Ok(found) => {
                tracing::info!(session = %self.peer.id, account = account.as_str(), ?quota, "quota set");
                found.write(&String::from_utf8_lossy(&root), &mut self.out);
                self.done(tag, pipelined, true, "Quota set");
            }
            Err(reason) => reason.write(tag, &mut self.out),
        }
    }

    /// Room for what a command adds. `Err`: it is over quota, and refused.
    pub(super) fn room(&self, adds: Usage) -> Result<Option<Hold>, Reason> {
        let Some(user) = &self.user else { return Ok(None) };
        let allowance = self.shard.allowance(user.session.account().id());
        match user.session.hold_room(&allowance, adds) {
            Ok(hold) => Ok(Some(hold)),
            Err(_) => {
                count(&self.shard.counters().quota_refused);
                Err(Reason::OverQuota)
            }
        }
    }

    /// RFC 9208 §4.3.1: what was let in over the limit is told, once.
    pub(super) fn tell_soft(&mut self, rooms: impl IntoIterator<Item = Hold>) {
        if rooms.into_iter().any(|room| room.is_soft()) {
            let (code, text) = (Code::OverQuota, "Soft quota has been exceeded");
            response::untagged(&mut self.out, Status::No, Some(&code), text);
        }
    }

    /// What a COPY of these messages adds. Cost: those messages, where anything is limited.
    pub(super) fn copied(&self, from: Guid, uids: &UidSet) -> Usage {
        if self.own_root().is_none_or(|root| root.quota.is_unlimited()) {
            return Usage::default();
        }
        let Some(User { session, .. }) = &self.user else { return Usage::default() };
        let state = session.account().state();
        let rows = state.selectable(from).into_iter().flat_map(|index| index.rows(uids));
        rows.fold(Usage::default(), |sum, row| sum.plus(Usage::message(row.size())))
    }

    /// What making a mailbox of this name adds: levels above it that are missing too.
    pub(super) fn made(&self, name: &MailboxName) -> Usage {
        let Some(User { session, .. }) = &self.user else { return Usage::default() };
        let state = session.account().state();
        let names = name.ancestors().chain([name.clone()]);
        let mailboxes = names.filter(|name| state.entry(name).is_none()).count() as u64;
        Usage { mailboxes, ..Usage::default() }
    }
}

/// RFC 9208 §4.1.4: what an EXPUNGE would set free. Cost: the messages with \Deleted.
pub fn deleted_octets(index: &MailboxIndex) -> u64 {
    let deleted = index.bitmap(FlagId::system(SystemFlag::Deleted));
    let rows = deleted.iter().filter_map(Uid::new).filter_map(|uid| index.get(uid));
    rows.fold(0u64, |sum, row| sum.saturating_add(row.size()))
}

/// The root of any account, on whatever shard it lives; with `set` after these limits became its own. An administrator's command, and
/// the only one that leaves its shard.
async fn root_of(shard: &Shard, account: AccountId, set: Option<Quota>) -> Result<Root, Reason> {
    let target = shard.shard_of(&account);
    let called = mesh::call(target, move || async move {
        let Some(here) = Shard::here() else { return Err(Reason::Unavailable) };
        match auth::exists(&here, &account).await {
            auth::Existence::Yes => {}
            auth::Existence::No => return Err(Reason::NoQuotaRoot),
            auth::Existence::Unavailable => return Err(Reason::UsersUnavailable),
        }
        let session = here.accounts().session(&account).await.map_err(|error| match error {
            OpenError::Away { .. } => Reason::Elsewhere,
            error => {
                tracing::error!(account = account.as_str(), %error, "account cannot be opened");
                Reason::Unavailable
            }
        })?;
        if let Some(quota) = set {
            let record = Record::SetQuota { quota: Some(quota) };
            session.change(record).await.map_err(|error| reason(&error, |_: Refusal| Reason::ServerBug))?;
        }
        let state = session.account().state();
        let quota = state.account.quota.unwrap_or(here.allowance(&account).quota);
        Ok(Root { usage: state.usage(), quota })
    });
    called.await.unwrap_or(Err(Reason::Unavailable))
}
