//! Commands as octets.
//!
//! # Invariants
//! What is written here, [`super::super::Server`] reads back as the same [`Command`].

use culver_model::annotation::Depth;
use culver_model::mime::Section;
use culver_model::search::{SearchKey, SortCriterion};
use culver_model::{EntryName, FlagSet, InternalDate, MailboxName};

use super::super::command::*;
use super::super::encode::{number, section_spec};

/// A command on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    pub octets: Vec<u8>,
    /// Before the octets from each of these places on are sent, the server must have sent `+`.
    pub waits: Vec<usize>,
    /// The server takes `{n+}` (RFC 7888).
    non_synchronising: bool,
}

/// `non_synchronising`: the server advertises LITERAL+.
pub fn command(tag: &str, command: &Command<'_>, non_synchronising: bool) -> Wire {
    let mut wire = Wire { non_synchronising, ..Wire::default() };
    wire.text(tag);
    wire.text(" ");
    wire.text(command.name());
    wire.arguments(command);
    wire.text("\r\n");
    wire
}

/// An APPEND up to its message; the message and CR LF follow. The last wait, if any, is that for the message.
pub fn append(
    tag: &str,
    mailbox: &MailboxName,
    flags: &FlagSet,
    internal_date: Option<InternalDate>,
    octets: u64,
    non_synchronising: bool,
) -> Wire {
    let mut wire = Wire { non_synchronising, ..Wire::default() };
    wire.text(tag);
    wire.text(" APPEND ");
    wire.mailbox(mailbox);
    if !flags.is_empty() {
        wire.text(&format!(" ({flags})"));
    }
    if let Some(date) = internal_date {
        wire.text(&format!(" \"{}\"", date.format()));
    }
    wire.text(" ");
    wire.announce(octets);
    wire
}

impl Wire {
    fn text(&mut self, text: &str) {
        self.octets.extend_from_slice(text.as_bytes());
    }

    fn announce(&mut self, octets: u64) {
        self.text("{");
        number(&mut self.octets, octets);
        if self.non_synchronising {
            self.text("+}\r\n");
        } else {
            self.text("}\r\n");
            self.waits.push(self.octets.len());
        }
    }

    fn string(&mut self, octets: &[u8]) {
        if octets.iter().all(|byte| matches!(byte, 0x01..=0x7f) && !matches!(byte, b'\r' | b'\n')) {
            super::super::encode::string(&mut self.octets, octets);
        } else {
            self.announce(octets.len() as u64);
            self.octets.extend_from_slice(octets);
        }
    }

    fn mailbox(&mut self, name: &MailboxName) {
        super::super::encode::mailbox(&mut self.octets, name, false);
    }

    fn set(&mut self, set: &MessageSet) {
        match set {
            MessageSet::Set(set) => self.text(&set.to_string()),
            MessageSet::Saved => self.text("$"),
        }
    }

    /// The words of those that apply, in parentheses.
    fn options(&mut self, options: &[(bool, &str)]) {
        let words: Vec<&str> = options.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        self.text(&format!("({})", words.join(" ")));
    }

    fn arguments(&mut self, command: &Command<'_>) {
        match command {
            Command::Authenticate { mechanism, initial } => {
                self.text(&format!(" {mechanism}"));
                if let Some(initial) = initial {
                    self.text(" ");
                    self.octets.extend_from_slice(initial.0);
                }
            }
            Command::Login { user, password } => {
                self.text(" ");
                self.string(user);
                self.text(" ");
                self.string(password.expose());
            }
            Command::Enable(enable) => {
                let words = [
                    (enable.condstore, " CONDSTORE"),
                    (enable.qresync, " QRESYNC"),
                    (enable.metadata, " METADATA"),
                    (enable.rev2, " IMAP4rev2"),
                    (enable.utf8_accept, " UTF8=ACCEPT"),
                    (enable.uid_only, " UIDONLY"),
                ];
                words.iter().filter(|(on, _)| *on).for_each(|(_, word)| self.text(word));
            }
            Command::Select(select) => self.select(select),
            Command::Create { mailbox, special_use } => {
                self.text(" ");
                self.mailbox(mailbox);
                if !special_use.is_empty() {
                    self.text(&format!(" (USE ({}))", special_use.join(" ")));
                }
            }
            Command::Delete(name)
            | Command::GetQuotaRoot(name)
            | Command::Subscribe(name)
            | Command::Unsubscribe(name) => {
                self.text(" ");
                self.mailbox(name);
            }
            Command::Rename { from, to } => {
                self.text(" ");
                self.mailbox(from);
                self.text(" ");
                self.mailbox(to);
            }
            Command::List(list) => self.list(list),
            Command::Lsub { reference, pattern, .. } => {
                self.text(" ");
                self.string(reference);
                self.text(" ");
                self.string(pattern);
            }
            Command::Status { mailbox, items } => {
                self.text(" ");
                self.mailbox(mailbox);
                self.text(" ");
                self.status_items(items);
            }
            Command::GetQuota(root) => {
                self.text(" ");
                self.string(root);
            }
            Command::SetQuota { root, limits } => {
                self.text(" ");
                self.string(root);
                let limits: Vec<String> =
                    limits.iter().map(|(name, limit)| format!("{name} {limit}")).collect();
                self.text(&format!(" ({})", limits.join(" ")));
            }
            Command::GetMetadata(get) => self.get_metadata(get),
            Command::SetMetadata(set) => self.set_metadata(set),
            Command::Id(None) => self.text(" NIL"),
            Command::Id(Some(pairs)) => {
                self.text(" (");
                for (at, (field, value)) in pairs.iter().enumerate() {
                    self.text(if at > 0 { " " } else { "" });
                    self.string(field);
                    self.text(" ");
                    match value {
                        Some(value) => self.string(value),
                        None => self.text("NIL"),
                    }
                }
                self.text(")");
            }
            Command::UidExpunge(set) => {
                self.text(" ");
                self.set(set);
            }
            Command::Search(search) => self.search(search),
            Command::Esearch(esearch) => {
                if !esearch.sources.is_empty() {
                    self.text(" IN (");
                    for (at, filter) in esearch.sources.iter().enumerate() {
                        self.text(if at > 0 { " " } else { "" });
                        self.filter(filter);
                    }
                    self.text(")");
                }
                self.search(&esearch.search);
            }
            Command::Notify(None) => self.text(" NONE"),
            Command::Notify(Some(notify)) => self.notify(notify),
            Command::CancelUpdate(tags) | Command::Language(tags) => {
                for tag in tags {
                    self.text(" ");
                    self.string(tag.as_bytes());
                }
            }
            Command::Compress { deflate } => self.text(if *deflate { " DEFLATE" } else { " X-NONE" }),
            Command::Sort(sort) => {
                self.returns(sort.returns.as_ref(), sort.update_items.as_deref());
                let criteria: Vec<String> = sort.criteria.iter().map(criterion).collect();
                self.text(&format!(" ({})", criteria.join(" ")));
                self.charset_and_key(&sort.key);
            }
            Command::Thread(thread) => {
                self.text(" ");
                self.text(thread.algorithm.name());
                self.charset_and_key(&thread.key);
            }
            Command::Fetch(fetch) => self.fetch(fetch),
            Command::Store(store) => self.store(store),
            Command::Copy { set, mailbox, .. } | Command::Move { set, mailbox, .. } => {
                self.text(" ");
                self.set(set);
                self.text(" ");
                self.mailbox(mailbox);
            }
            Command::Capability
            | Command::Noop
            | Command::Logout
            | Command::StartTls
            | Command::Namespace => {}
            Command::Unauthenticate => {}
            Command::Idle | Command::Check | Command::Close | Command::Unselect | Command::Expunge => {}
        }
    }

    fn select(&mut self, select: &Select) {
        self.text(" ");
        match &select.mailbox {
            Ok(name) => self.mailbox(name),
            // No octets name it; the empty string is no name either.
            Err(_) => self.string(b""),
        }
        if let Some(qresync) = &select.qresync {
            self.text(if select.condstore { " (CONDSTORE QRESYNC (" } else { " (QRESYNC (" });
            self.text(&format!("{} {}", qresync.uid_validity, qresync.modseq));
            if let Some(uids) = &qresync.known_uids {
                self.text(&format!(" {uids}"));
            }
            if let Some((numbers, uids)) = &qresync.seq_match {
                self.text(&format!(" ({numbers} {uids})"));
            }
            self.text("))");
        } else if select.condstore {
            self.text(" (CONDSTORE)");
        }
    }

    fn list(&mut self, list: &List<'_>) {
        let select = list.select;
        if select != ListSelect::default() {
            self.text(" ");
            self.options(&[
                (select.subscribed, "SUBSCRIBED"),
                (select.remote, "REMOTE"),
                (select.recursive_match, "RECURSIVEMATCH"),
                (select.special_use, "SPECIAL-USE"),
            ]);
        }
        self.text(" ");
        self.string(&list.reference);
        self.text(" ");
        let one = list.patterns.len() == 1;
        self.text(if one { "" } else { "(" });
        for (at, pattern) in list.patterns.iter().enumerate() {
            self.text(if at > 0 { " " } else { "" });
            self.string(pattern);
        }
        self.text(if one { "" } else { ")" });
        let returns = list.returns;
        if list.extended {
            self.text(" RETURN (");
            let words = [
                (returns.subscribed, "SUBSCRIBED"),
                (returns.children, "CHILDREN"),
                (returns.special_use, "SPECIAL-USE"),
                (returns.status.is_some(), "STATUS"),
            ];
            let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
            self.text(&words.join(" "));
            if let Some(items) = &returns.status {
                self.text(" ");
                self.status_items(items);
            }
            if !list.metadata.is_empty() {
                self.text(if words.is_empty() { "METADATA " } else { " METADATA " });
                self.entries(&list.metadata);
            }
            self.text(")");
        }
    }

    fn mailbox_or_server(&mut self, mailbox: Option<&MailboxName>) {
        match mailbox {
            Some(name) => self.mailbox(name),
            None => self.string(b""),
        }
    }

    fn entries(&mut self, entries: &[EntryName]) {
        self.text("(");
        for (at, name) in entries.iter().enumerate() {
            self.text(if at > 0 { " " } else { "" });
            self.string(name.as_str().as_bytes());
        }
        self.text(")");
    }

    fn get_metadata(&mut self, get: &GetMetadata) {
        let mut options = Vec::new();
        options.extend(get.max_size.map(|octets| format!("MAXSIZE {octets}")));
        options.extend(match get.depth {
            Depth::Zero => None,
            Depth::One => Some("DEPTH 1".to_owned()),
            Depth::Infinity => Some("DEPTH infinity".to_owned()),
        });
        if !options.is_empty() {
            self.text(&format!(" ({})", options.join(" ")));
        }
        self.text(" ");
        self.mailbox_or_server(get.mailbox.as_ref());
        self.text(" ");
        self.entries(&get.entries);
    }

    fn set_metadata(&mut self, set: &SetMetadata<'_>) {
        self.text(" ");
        self.mailbox_or_server(set.mailbox.as_ref());
        self.text(" (");
        for (at, (name, value)) in set.entries.iter().enumerate() {
            self.text(if at > 0 { " " } else { "" });
            self.string(name.as_str().as_bytes());
            self.text(" ");
            match value {
                Some(value) => self.string(value),
                None => self.text("NIL"),
            }
        }
        self.text(")");
    }

    fn status_items(&mut self, items: &StatusItems) {
        self.options(&[
            (items.messages, "MESSAGES"),
            (items.recent, "RECENT"),
            (items.uid_next, "UIDNEXT"),
            (items.uid_validity, "UIDVALIDITY"),
            (items.unseen, "UNSEEN"),
            (items.size, "SIZE"),
            (items.highest_modseq, "HIGHESTMODSEQ"),
            (items.mailbox_id, "MAILBOXID"),
            (items.append_limit, "APPENDLIMIT"),
            (items.deleted, "DELETED"),
            (items.deleted_storage, "DELETED-STORAGE"),
        ]);
    }

    fn fetch(&mut self, fetch: &Fetch) {
        self.text(" ");
        self.set(&fetch.set);
        self.text(" ");
        self.fetch_items(&fetch.items);
        let mut modifiers = Vec::new();
        modifiers.extend(fetch.partial.map(|range| format!("PARTIAL {range}")));
        modifiers.extend(fetch.changed_since.map(|since| format!("CHANGEDSINCE {since}")));
        modifiers.extend(fetch.vanished.then(|| "VANISHED".to_owned()));
        if !modifiers.is_empty() {
            self.text(&format!(" ({})", modifiers.join(" ")));
        }
    }

    fn fetch_items(&mut self, items: &FetchItems) {
        self.text("(");
        let words = [
            (items.uid, "UID"),
            (items.flags, "FLAGS"),
            (items.modseq, "MODSEQ"),
            (items.internal_date, "INTERNALDATE"),
            (items.save_date, "SAVEDATE"),
            (items.email_id, "EMAILID"),
            (items.thread_id, "THREADID"),
            (items.size, "RFC822.SIZE"),
            (items.envelope, "ENVELOPE"),
            (items.body, "BODY"),
            (items.body_structure, "BODYSTRUCTURE"),
            (items.rfc822, "RFC822"),
            (items.rfc822_header, "RFC822.HEADER"),
            (items.rfc822_text, "RFC822.TEXT"),
        ];
        let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        self.text(&words.join(" "));
        for (at, item) in items.sections.iter().enumerate() {
            self.text(if at > 0 || !words.is_empty() { " " } else { "" });
            self.text(if item.peek { "BODY.PEEK[" } else { "BODY[" });
            section_spec(&mut self.octets, &item.section);
            self.text("]");
            self.partial(item.partial);
        }
        let mut first = words.is_empty() && items.sections.is_empty();
        for binary in &items.binaries {
            self.text(if std::mem::take(&mut first) { "" } else { " " });
            self.text(match (binary.size, binary.peek) {
                (true, _) => "BINARY.SIZE[",
                (false, true) => "BINARY.PEEK[",
                (false, false) => "BINARY[",
            });
            section_spec(&mut self.octets, &Section { part: binary.part.clone(), text: None });
            self.text("]");
            self.partial(binary.partial);
        }
        if let Some(preview) = items.preview {
            self.text(if first { "" } else { " " });
            self.text(if preview == Preview::Lazy { "PREVIEW (LAZY)" } else { "PREVIEW" });
        }
        self.text(")");
    }

    fn partial(&mut self, partial: Option<(u32, u32)>) {
        if let Some((origin, octets)) = partial {
            self.text(&format!("<{origin}.{octets}>"));
        }
    }

    fn filter(&mut self, filter: &MailboxFilter) {
        let (word, names) = match filter {
            MailboxFilter::Selected => ("selected", None),
            MailboxFilter::SelectedDelayed => ("selected-delayed", None),
            MailboxFilter::Inboxes => ("inboxes", None),
            MailboxFilter::Personal => ("personal", None),
            MailboxFilter::Subscribed => ("subscribed", None),
            MailboxFilter::Subtree(names) => ("subtree", Some(names)),
            MailboxFilter::SubtreeOne(names) => ("subtree-one", Some(names)),
            MailboxFilter::Mailboxes(names) => ("mailboxes", Some(names)),
        };
        self.text(word);
        for (at, name) in names.into_iter().flatten().enumerate() {
            self.text(if at > 0 { " " } else { " (" });
            self.mailbox(name);
        }
        self.text(if names.is_some() { ")" } else { "" });
    }

    fn notify(&mut self, notify: &Notify) {
        self.text(if notify.status { " SET STATUS" } else { " SET" });
        for EventGroup { filter, events } in &notify.groups {
            self.text(" (");
            self.filter(filter);
            self.text(" (");
            let words = [
                (events.messages, "MessageExpunge MessageNew"),
                (events.flags, "FlagChange"),
                (events.mailbox_name, "MailboxName"),
                (events.subscription, "SubscriptionChange"),
                (events.mailbox_metadata, "MailboxMetadataChange"),
                (events.server_metadata, "ServerMetadataChange"),
            ];
            for (at, (_, word)) in words.iter().filter(|(on, _)| *on).enumerate() {
                self.text(if at > 0 { " " } else { "" });
                self.text(word);
                if let Some(items) = events.fetch.as_deref().filter(|_| at == 0) {
                    self.text(" ");
                    self.fetch_items(items);
                }
            }
            if *events == Events::default() {
                self.octets.truncate(self.octets.len() - 1);
                self.text("NONE)");
            } else {
                self.text("))");
            }
        }
    }

    fn store(&mut self, store: &Store) {
        self.text(" ");
        self.set(&store.set);
        if let Some(since) = store.unchanged_since {
            self.text(&format!(" (UNCHANGEDSINCE {since})"));
        }
        self.text(match store.operation {
            StoreOperation::Replace => " FLAGS",
            StoreOperation::Add => " +FLAGS",
            StoreOperation::Remove => " -FLAGS",
        });
        self.text(if store.silent { ".SILENT" } else { "" });
        self.text(&format!(" ({})", store.flags));
    }

    fn returns(&mut self, returns: Option<&SearchReturn>, update_items: Option<&FetchItems>) {
        let Some(returns) = returns else { return };
        let partial = returns.partial.map_or(String::new(), |range| format!("PARTIAL {range}"));
        self.text(" RETURN ");
        let mut update = Wire::default();
        if let Some(items) = update_items {
            update.text("UPDATE ");
            update.fetch_items(items);
        }
        let update = match update_items {
            Some(_) => String::from_utf8_lossy(&update.octets).into_owned(),
            None => "UPDATE".to_owned(),
        };
        self.options(&[
            (returns.min, "MIN"),
            (returns.max, "MAX"),
            (returns.all, "ALL"),
            (returns.count, "COUNT"),
            (returns.partial.is_some(), &partial),
            (returns.save, "SAVE"),
            (returns.context, "CONTEXT"),
            (returns.update, &update),
        ]);
    }

    /// RFC 5256 §5 `search-criteria`.
    fn charset_and_key(&mut self, key: &SearchKey) {
        self.text(if is_ascii(key) { " US-ASCII" } else { " UTF-8" });
        self.top(key);
    }

    fn search(&mut self, search: &Search) {
        self.returns(search.returns.as_ref(), search.update_items.as_deref());
        if search.charset || !is_ascii(&search.key) {
            self.text(" CHARSET UTF-8");
        }
        self.top(&search.key);
    }

    fn top(&mut self, key: &SearchKey) {
        self.text(" ");
        match key {
            // At the top, keys stand side by side.
            SearchKey::And(keys) if keys.len() > 1 => self.keys(keys),
            key => self.key(key),
        }
    }

    fn keys(&mut self, keys: &[SearchKey]) {
        for (at, key) in keys.iter().enumerate() {
            self.text(if at > 0 { " " } else { "" });
            self.key(key);
        }
    }

    fn with(&mut self, word: &str, value: impl std::fmt::Display) {
        self.text(&format!("{word} {value}"));
    }

    fn with_string(&mut self, word: &str, value: &str) {
        self.text(word);
        self.text(" ");
        self.string(value.as_bytes());
    }

    fn key(&mut self, key: &SearchKey) {
        match key {
            SearchKey::All => self.text("ALL"),
            SearchKey::And(keys) if keys.is_empty() => self.text("ALL"),
            SearchKey::And(keys) => {
                self.text("(");
                self.keys(keys);
                self.text(")");
            }
            SearchKey::Or(left, right) => {
                self.text("OR ");
                self.key(left);
                self.text(" ");
                self.key(right);
            }
            SearchKey::Not(key) => {
                self.text("NOT ");
                self.key(key);
            }
            SearchKey::Sequence(set) => self.text(&set.to_string()),
            SearchKey::Uid(set) => self.with("UID", set),
            SearchKey::Saved => self.text("$"),
            SearchKey::Flag(flag) => self.text(&flag.name()[1..].to_ascii_uppercase()),
            SearchKey::Keyword(keyword) => self.with("KEYWORD", keyword),
            SearchKey::Recent => self.text("RECENT"),
            SearchKey::New => self.text("NEW"),
            SearchKey::Old => self.text("OLD"),
            SearchKey::Before(date) => self.with("BEFORE", date),
            SearchKey::On(date) => self.with("ON", date),
            SearchKey::Since(date) => self.with("SINCE", date),
            SearchKey::SentBefore(date) => self.with("SENTBEFORE", date),
            SearchKey::SentOn(date) => self.with("SENTON", date),
            SearchKey::SentSince(date) => self.with("SENTSINCE", date),
            SearchKey::Older(seconds) => self.with("OLDER", seconds),
            SearchKey::Younger(seconds) => self.with("YOUNGER", seconds),
            SearchKey::SavedBefore(date) => self.with("SAVEDBEFORE", date),
            SearchKey::SavedOn(date) => self.with("SAVEDON", date),
            SearchKey::SavedSince(date) => self.with("SAVEDSINCE", date),
            SearchKey::SaveDateSupported => self.text("SAVEDATESUPPORTED"),
            SearchKey::EmailId(id) => self.with("EMAILID", id),
            SearchKey::ThreadId(id) => self.with("THREADID", id),
            SearchKey::Larger(octets) => self.with("LARGER", octets),
            SearchKey::Smaller(octets) => self.with("SMALLER", octets),
            SearchKey::Header { field, value } => {
                self.with_string("HEADER", field);
                self.text(" ");
                self.string(value.as_bytes());
            }
            SearchKey::Body(value) => self.with_string("BODY", value),
            SearchKey::Text(value) => self.with_string("TEXT", value),
            SearchKey::ModSeq(modseq) => self.with("MODSEQ", modseq),
        }
    }
}

fn criterion(criterion: &SortCriterion) -> String {
    format!("{}{}", if criterion.reverse { "REVERSE " } else { "" }, criterion.key.name())
}

pub(in super::super) fn is_ascii(key: &SearchKey) -> bool {
    match key {
        SearchKey::And(keys) => keys.iter().all(is_ascii),
        SearchKey::Or(left, right) => is_ascii(left) && is_ascii(right),
        SearchKey::Not(key) => is_ascii(key),
        SearchKey::Header { field, value } => field.is_ascii() && value.is_ascii(),
        SearchKey::Body(value) | SearchKey::Text(value) => value.is_ascii(),
        _ => true,
    }
}
