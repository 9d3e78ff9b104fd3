//! LIST and LSUB.

use super::Imap;
use culver_mailbox::list::{self, Listed, Query};
use culver_model::name::ListPattern;
use culver_proto::imap::command::List;
use culver_proto::imap::encode::{self, Attribute};
use std::io;

/// Lines written between two looks at whether the client reads.
const LINES_STEP: usize = 256;

pub fn special(attribute: &str) -> Option<Attribute> {
    [
        Attribute::All,
        Attribute::Archive,
        Attribute::Drafts,
        Attribute::Flagged,
        Attribute::Junk,
        Attribute::Sent,
        Attribute::Trash,
    ]
    .into_iter()
    .find(|known| known.name().eq_ignore_ascii_case(attribute))
}

pub fn attributes(line: &Listed) -> Vec<Attribute> {
    let mut attributes = Vec::with_capacity(4);
    if !line.exists {
        // RFC 5258 §3.4: \NonExistent implies \NoSelect.
        attributes.push(Attribute::NonExistent);
    } else if !line.selectable {
        attributes.push(Attribute::NoSelect);
    }
    attributes.push(if line.has_children { Attribute::HasChildren } else { Attribute::HasNoChildren });
    if line.subscribed {
        attributes.push(Attribute::Subscribed);
    }
    attributes.extend(line.special_use.as_deref().and_then(special));
    attributes
}

impl Imap {
    pub(super) async fn list(&mut self, tag: &str, command: &List<'_>, pipelined: bool) -> io::Result<()> {
        if command.asks_separator() {
            encode::list_separator(&mut self.out, "");
            self.done(tag, pipelined, true, "Listed");
            return Ok(());
        }
        let patterns = command.compile();
        let query = Query {
            patterns,
            subscribed: command.select.subscribed,
            recursive: command.select.recursive_match,
            special_use: command.select.special_use,
            return_subscribed: command.returns.subscribed,
        };
        let Some(user) = &self.user else { return Ok(()) };
        let account = user.session.account().clone();
        let utf8 = self.server.state().enabled.utf8();
        let lines = list::list(&account.state(), &query);
        for (at, line) in lines.iter().enumerate() {
            encode::list(&mut self.out, &attributes(line), &line.name, line.child_subscribed, utf8);
            if let Some(items) = command.returns.status {
                // RFC 5819 §2: no STATUS for what cannot be selected.
                let values = {
                    let state = account.state();
                    let index = state.entry(&line.name).and_then(|entry| state.selectable(entry.guid));
                    index.map(|index| self.status_values(index, items))
                };
                if let Some(values) = values {
                    encode::status(&mut self.out, &line.name, &values, utf8);
                }
            }
            self.list_metadata(&line.name, &command.metadata);
            if at % LINES_STEP == LINES_STEP - 1 || !command.metadata.is_empty() {
                self.flush_full().await?;
            }
        }
        self.done(tag, pipelined, true, "Listed");
        Ok(())
    }

    pub(super) async fn lsub(
        &mut self,
        tag: &str,
        reference: &[u8],
        pattern: &[u8],
        utf8: bool,
        pipelined: bool,
    ) -> io::Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        let compile = if utf8 { ListPattern::from_utf8 } else { ListPattern::from_wire };
        let lines = match compile(reference, pattern) {
            Ok(pattern) => list::lsub(&user.session.account().state(), &pattern),
            Err(_) => Vec::new(),
        };
        for (at, line) in lines.iter().enumerate() {
            // RFC 3501 §6.3.9: of attributes only \NoSelect means something here; a name that stands for subscriptions
            // below it, and is none itself, has it whether or not it exists.
            let no_select = !line.subscribed || (line.exists && !line.selectable);
            let attributes: &[Attribute] = if no_select { &[Attribute::NoSelect] } else { &[] };
            encode::lsub(&mut self.out, attributes, &line.name, utf8);
            if at % LINES_STEP == LINES_STEP - 1 {
                self.flush_full().await?;
            }
        }
        self.done(tag, pipelined, true, "Listed");
        Ok(())
    }
}
