//! What only this crate can verify of a store: that records and blocks say what they should.

use crate::rebuild::Unfinished;
use crate::record::Record;
use crate::state::{ACCOUNT_KEY, ANNOTATIONS_KEY, DELIVERIES_KEY, is_mailbox_key};
use culver_index::account::AccountState;
use culver_index::annotations::Annotations;
use culver_index::deliveries::Deliveries;
use culver_index::{Block, MailboxIndex};
use culver_storage::{Inside, Place};
use std::rc::Rc;

/// For `culver_storage::check`: what one record, or the blocks of one key, say of themselves, and the places they name.
pub fn inside(inside: Inside<'_>) -> Result<Vec<Place>, String> {
    match inside {
        Inside::Record { meta, bodies, .. } => match Record::decode(meta) {
            Ok(Record::Restore { place, .. }) => match Place::from_bytes(&place) {
                Some(place) => Ok(vec![place]),
                None => Err("a message is restored from no place".into()),
            },
            Ok(_) => Ok(bodies.to_vec()),
            Err(error) => Err(error.to_string()),
        },
        Inside::Blocks { guid, blocks, .. } if guid == ACCOUNT_KEY => {
            let wrong = blocks.iter().find_map(|block| AccountState::decode(block).err());
            wrong.map_or(Ok(Vec::new()), |error| Err(error.to_string()))
        }
        Inside::Blocks { guid, blocks, .. } if guid == Unfinished::KEY => {
            let wrong = blocks.iter().find_map(|block| Unfinished::decode(block).err());
            wrong.map_or(Ok(Vec::new()), |error| Err(error.to_string()))
        }
        Inside::Blocks { guid, blocks, .. } if guid == DELIVERIES_KEY => {
            let deliveries = Deliveries::load(blocks.iter().map(|block| block.as_ref()));
            deliveries.map(|_| Vec::new()).map_err(|error| error.to_string())
        }
        Inside::Blocks { guid, blocks, .. } if guid == ANNOTATIONS_KEY => {
            let wrong = blocks.iter().find_map(|block| Annotations::load(block).err());
            wrong.map_or(Ok(Vec::new()), |error| Err(error.to_string()))
        }
        Inside::Blocks { guid, .. } if !is_mailbox_key(guid) => Ok(Vec::new()),
        Inside::Blocks { blocks, .. } => {
            for block in blocks {
                culver_index::check(block).map_err(|error| error.to_string())?;
            }
            // That each delta follows the one before it shows only when they are put together.
            let mut blocks = blocks.iter().map(|block| Block::shared(Rc::new(block.clone())));
            let Some(base) = blocks.next() else { return Ok(Vec::new()) };
            let index = MailboxIndex::from_blocks(base, blocks).map_err(|error| error.to_string())?;
            let named = index.rows_all().map(|row| match Place::from_bytes(row.place()) {
                Some(place) => Ok(place),
                None => Err(format!("message {} of mailbox {} has no place", row.uid(), index.guid())),
            });
            named.collect()
        }
    }
}
