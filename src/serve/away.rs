//! Away: whether an account is served here, and what its client is told where it is not.
//!
//! # Cost
//! On a local store a look at one field. On a shared one the account's own shard is asked, and where the account is elsewhere
//! shard 0 too, which knows the owners.

use super::Shard;
use culver_mailbox::Accounts;
use culver_model::{AccountId, PartitionId};
use culver_proto::away::{Away, Owner};
use culver_shard::{local, mesh};
use culver_storage::{Node, Standing};

/// Why an account of any shard is not served now; `None` where it is.
pub async fn away(shard: &Shard, account: &AccountId) -> Option<Away> {
    let storage = shard.accounts().storage();
    if !storage.is_shared() {
        return None;
    }
    let (target, id) = (shard.shard_of(account), account.clone());
    let standing = match target == culver_shard::shard() {
        true => Ok(shard.accounts().standing(account)),
        false => {
            mesh::call(target, move || async move {
                Shard::here().map_or(Standing::Moving, |shard| shard.accounts().standing(&id))
            })
            .await
        }
    };
    match standing {
        Ok(Standing::Here) => None,
        Ok(standing) => Some(of(standing, storage.partition_of(account)).await),
        // That shard has ended.
        Err(_) => Some(Away::Moving),
    }
}

/// The same for an account of this shard that was found not to be served a moment ago.
pub async fn away_from(accounts: &Accounts, account: &AccountId, standing: Standing) -> Away {
    of(standing, accounts.storage().partition_of(account)).await
}

async fn of(standing: Standing, partition: PartitionId) -> Away {
    match standing {
        Standing::Stale => return Away::Stale,
        Standing::Here | Standing::Moving => return Away::Moving,
        Standing::Elsewhere => {}
    }
    let owner = mesh::call(0, move || async move {
        let node = local::<Node>()?;
        let owner = node.owner_of(partition)?;
        Some((owner, node.name().to_owned(), node.is_damaged(partition)))
    });
    match owner.await.ok().flatten() {
        Some((_, _, true)) => Away::Damaged,
        // Claimed, and not yet taken over.
        Some(((name, _), own, _)) if name == own => Away::Moving,
        Some(((name, address), ..)) => Away::Elsewhere(Some(Owner { name, address })),
        None => Away::Elsewhere(None),
    }
}
