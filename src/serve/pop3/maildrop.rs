//! The snapshot of INBOX that a POP3 session numbers.
//!
//! # Cost
//! Eight octets a message while it is made; the rows are read in steps, so that a large INBOX holds up nobody.

use culver_index::Row;
use culver_mailbox::Session;
use culver_model::{Guid, Uid, UidSet};
use culver_proto::pop3::{MESSAGES_MAX, Maildrop, MaildropError};
use culver_shard as shard;

/// Rows read between two yields.
const ROWS_STEP: usize = 1024;

/// Numbers the messages of INBOX: those with an order of their own first, in that order, then the others by UID.
/// `None`: there is no INBOX.
pub async fn snapshot(session: &Session) -> Option<Maildrop> {
    let account = session.account();
    let mut numbered: Vec<(u32, u32)> = Vec::new();
    let mut from = 1;
    loop {
        let next = {
            let state = account.state();
            let index = state.selectable(Guid::INBOX)?;
            let rest = index.uids_shared();
            let step: UidSet = rest.range(from..).take(ROWS_STEP).collect();
            numbered.extend(index.rows(&step).map(|row| (order_key(row.pop3_order()), row.uid().get())));
            step.iter().last().and_then(|last| last.checked_add(1))
        };
        match next {
            Some(next) if numbered.len() < MESSAGES_MAX => from = next,
            _ => break,
        }
        shard::yield_if_needed().await;
    }
    if !numbered.is_sorted() {
        numbered.sort_unstable();
    }
    let mut maildrop = Maildrop::new();
    for step in numbered.chunks(ROWS_STEP) {
        {
            let state = account.state();
            let index = state.selectable(Guid::INBOX)?;
            let rows = step.iter().filter_map(|(_, uid)| index.get(Uid::new(*uid)?));
            for row in rows {
                if push(&mut maildrop, &row) == Err(MaildropError::Full) {
                    return Some(maildrop);
                }
            }
        }
        shard::yield_if_needed().await;
    }
    Some(maildrop)
}

/// 0 is no order of its own.
fn order_key(pop3_order: u32) -> u32 {
    pop3_order.checked_sub(1).unwrap_or(u32::MAX)
}

fn push(maildrop: &mut Maildrop, row: &Row<'_>) -> Result<(), MaildropError> {
    if let Some(uidl) = row.pop3_uidl() {
        match maildrop.push(row.uid(), row.size(), uidl) {
            // One that was carried here from elsewhere and is none: the GUID serves.
            Err(MaildropError::BadUidl) => {}
            pushed => return pushed,
        }
    }
    maildrop.push(row.uid(), row.size(), &row.guid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_an_order_come_before_those_without() {
        let mut numbered: Vec<(u32, u32)> =
            [(0, 1), (2, 2), (0, 3), (1, 4), (2, 5)].map(|(order, uid)| (order_key(order), uid)).to_vec();
        numbered.sort_unstable();
        assert_eq!(numbered.iter().map(|(_, uid)| *uid).collect::<Vec<_>>(), [4, 2, 5, 1, 3]);
    }
}
