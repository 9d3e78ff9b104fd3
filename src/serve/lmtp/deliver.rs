//! One recipient's copy: its own prefix and the shared body, stored on the shard where the account lives.
//!
//! # Limits
//! [`FEED_OCTETS`] of the message are in memory beside the spool; [`DELIVERY_TIMEOUT`] for all of it.

use super::spool::Content;
use crate::serve::Shard;
use crate::serve::away::away_from;
use crate::serve::metrics::count;
use culver_mailbox::{Arriving, ChangeError, Refusal as ChangeRefusal};
use culver_model::{AccountId, DeliveryId, InternalDate, Usage};
use culver_proto::away::Away;
use culver_proto::lmtp::Refusal;
use culver_shard as shard;
use culver_shard::disk::File;
use culver_shard::{mesh, time};
use culver_storage::Standing;
use std::io;
use std::time::Duration;

/// Octets that are read and scanned at a time.
const FEED_OCTETS: usize = 64 * 1024;
/// RFC 5321 §4.5.3.2.6: the client waits ten minutes for its answer. It must have it before.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(240);

/// A copy on its way to its recipient.
pub struct Delivery {
    /// The transaction's, for logs.
    pub id: String,
    pub account: AccountId,
    /// Names a mailbox (RFC 5233); INBOX where there is none such.
    pub detail: Option<String>,
    /// What it is known by if it is sent again.
    pub delivery: Option<DeliveryId>,
    pub internal_date: InternalDate,
    /// Return-Path, Delivered-To and Received.
    pub prefix: Vec<u8>,
    pub content: Content,
}

/// Why a copy was not stored.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the spool cannot be read: {0}")]
    Spool(io::Error),
    #[error(transparent)]
    Arrive(#[from] culver_mailbox::ArriveError),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What the client is told of a copy that was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undelivered {
    Refused(Refusal),
    Away(Away),
}

impl From<Refusal> for Undelivered {
    fn from(refusal: Refusal) -> Undelivered {
        Undelivered::Refused(refusal)
    }
}

impl Failure {
    /// `bounces`: the site wants mail for who is over quota to be sent back.
    fn refusal(&self, bounces: bool) -> Refusal {
        match self {
            Failure::Change(ChangeError::Refused(ChangeRefusal::OverQuota)) if bounces => Refusal::OverQuota,
            Failure::Change(ChangeError::Refused(
                ChangeRefusal::OverQuota | ChangeRefusal::PerhapsOverQuota,
            )) => Refusal::OverQuotaForNow,
            Failure::Change(ChangeError::Refused(ChangeRefusal::TooBig)) => Refusal::TooLarge,
            Failure::Change(ChangeError::NoSpace) => Refusal::NoSpace,
            Failure::Arrive(error) if error.is_no_space() => Refusal::NoSpace,
            _ => Refusal::Temporary,
        }
    }
}

impl Delivery {
    /// Stores the copy on shard `target`. `Ok` once it is durable.
    pub async fn send(self: Box<Self>, target: usize) -> Result<(), Undelivered> {
        let account = self.account.clone();
        let called = mesh::call(target, move || async move {
            match Shard::here() {
                Some(shard) => self.store(&shard).await,
                None => Err(Refusal::Temporary.into()),
            }
        });
        match time::deadline(DELIVERY_TIMEOUT, called).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(gone)) => {
                tracing::error!(account = %account.as_str(), %gone, "delivery");
                Err(Refusal::Temporary.into())
            }
            // It may yet be stored. The client comes again: where the message has an id it is then known, and else a second copy is
            // better than none.
            Err(elapsed) => {
                tracing::error!(account = %account.as_str(), %elapsed, "delivery");
                Err(Refusal::Temporary.into())
            }
        }
    }

    async fn store(self: Box<Self>, shard: &Shard) -> Result<(), Undelivered> {
        let octets = self.prefix.len() as u64 + self.content.octets();
        match self.try_store(shard, octets).await {
            Ok(repeated) => {
                let what = if repeated { "delivered before, and kept once" } else { "delivered" };
                tracing::info!(id = self.id, account = %self.account.as_str(), octets, "{what}");
                Ok(())
            }
            Err(failure) => {
                // Whatever failed: where the account went meanwhile, that is why.
                let standing = match &failure {
                    Failure::Change(ChangeError::Away(standing)) => *standing,
                    _ => shard.accounts().standing(&self.account),
                };
                if standing != Standing::Here {
                    let away = away_from(shard.accounts(), &self.account, standing).await;
                    tracing::info!(id = self.id, account = %self.account.as_str(), octets, %away, "not delivered");
                    return Err(Undelivered::Away(away));
                }
                let refusal = failure.refusal(shard.config().lmtp.over_quota_bounces);
                if matches!(refusal, Refusal::OverQuota | Refusal::OverQuotaForNow) {
                    count(&shard.counters().quota_undelivered);
                    tracing::info!(id = self.id, account = %self.account.as_str(), octets, %failure, "not delivered");
                } else {
                    tracing::error!(id = self.id, account = %self.account.as_str(), octets, %failure, "not delivered");
                }
                Err(refusal.into())
            }
        }
    }

    /// `Ok(true)`: the account is known to have it already.
    async fn try_store(&self, shard: &Shard, octets: u64) -> Result<bool, Failure> {
        let accounts = shard.accounts();
        // Before anything of it is written.
        let allowance = shard.allowance(&self.account);
        let _room = accounts
            .hold_room(&self.account, &allowance, Usage::message(octets))
            .map_err(ChangeError::from)?;
        let mut arriving = Arriving::deliver(accounts, &self.account, self.internal_date, octets);
        arriving.set_prefix_octets(self.prefix.len() as u32);
        arriving.set_delivery(self.delivery);
        arriving.feed(&self.prefix).await?;
        match &self.content {
            Content::Memory(octets) => {
                for chunk in octets.chunks(FEED_OCTETS) {
                    arriving.feed(chunk).await?;
                    shard::yield_if_needed().await;
                }
            }
            Content::File { path, octets } => {
                let file = File::open(path.as_ref()).await.map_err(Failure::Spool)?;
                let fed = feed(&mut arriving, &file, *octets).await;
                let _ = file.close().await;
                fed?;
            }
        }
        let (message, body) = arriving.finish().await?;
        Ok(accounts.deliver(&self.account, self.detail.as_deref(), message, body).await?)
    }
}

async fn feed(arriving: &mut Arriving, file: &File, octets: u64) -> Result<(), Failure> {
    let mut at = 0;
    while at < octets {
        let most = usize::try_from(octets - at).map_or(FEED_OCTETS, |left| left.min(FEED_OCTETS));
        let chunk = file.read_at(at, most).await.map_err(Failure::Spool)?;
        if chunk.is_empty() {
            return Err(Failure::Spool(io::ErrorKind::UnexpectedEof.into()));
        }
        at += chunk.len() as u64;
        arriving.feed(&chunk).await?;
        shard::yield_if_needed().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_what_failed() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for (failure, refusal) in [
            (Failure::Change(ChangeError::NoSpace), Refusal::NoSpace),
            (Failure::Arrive(full.into()), Refusal::NoSpace),
            (Failure::Arrive(io::Error::other("a disk").into()), Refusal::Temporary),
            (Failure::Change(ChangeError::Unavailable("a disk".into())), Refusal::Temporary),
            (Failure::Change(ChangeRefusal::TooBig.into()), Refusal::TooLarge),
            (Failure::Change(ChangeRefusal::OverQuota.into()), Refusal::OverQuotaForNow),
        ] {
            assert_eq!(failure.refusal(false), refusal, "{failure}");
        }
        // What is not known for certain is never a bounce.
        let over = |refusal: ChangeRefusal| Failure::Change(refusal.into()).refusal(true);
        assert_eq!(over(ChangeRefusal::OverQuota), Refusal::OverQuota);
        assert_eq!(over(ChangeRefusal::PerhapsOverQuota), Refusal::OverQuotaForNow);
    }
}
