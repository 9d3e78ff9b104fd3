//! What only this crate can verify of a store: that records and blocks say what they should.

use crate::record::Record;
use crate::state::ACCOUNT_KEY;
use culver_index::account::AccountState;
use culver_index::{Block, MailboxIndex};
use culver_storage::Inside;
use std::rc::Rc;

/// For `culver_storage::check`: the content of one record, or of the blocks of one key.
pub fn inside(inside: Inside<'_>) -> Result<(), String> {
    match inside {
        Inside::Record { meta, .. } => Record::decode(meta).map(drop).map_err(|error| error.to_string()),
        Inside::Blocks { guid, blocks, .. } if guid == ACCOUNT_KEY => {
            let wrong = blocks.iter().find_map(|block| AccountState::decode(block).err());
            wrong.map_or(Ok(()), |error| Err(error.to_string()))
        }
        Inside::Blocks { blocks, .. } => {
            for block in blocks {
                culver_index::check(block).map_err(|error| error.to_string())?;
            }
            // That each delta follows the one before it shows only when they are put together.
            let mut blocks = blocks.iter().map(|block| Block::shared(Rc::new(block.clone())));
            let Some(base) = blocks.next() else { return Ok(()) };
            MailboxIndex::from_blocks(base, blocks).map(drop).map_err(|error| error.to_string())
        }
    }
}
