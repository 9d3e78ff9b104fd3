//! The grammar of commands: the tag, the name, and the arguments of those that have few.

use super::super::Limits;
use super::super::cursor::{Cursor, Parsed, is_astring_char};
use super::super::text::Refusal;
use super::*;

/// What stands before the arguments.
pub(in super::super) struct Head<'a> {
    pub(in super::super) tag: &'a str,
    pub(in super::super) name: Result<Name, Refusal>,
    /// Where the arguments begin, at the space before them.
    pub(in super::super) arguments: usize,
}

/// A command's name, with `UID ` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Name {
    Capability,
    Noop,
    Logout,
    StartTls,
    Authenticate,
    Login,
    Enable,
    Select,
    Examine,
    Create,
    Delete,
    Rename,
    Subscribe,
    Unsubscribe,
    List,
    Lsub,
    Namespace,
    Status,
    Append,
    Idle,
    Id,
    Check,
    Close,
    Unselect,
    Expunge,
    Search,
    Fetch,
    Store,
    Copy,
    Move,
    UidExpunge,
    UidSearch,
    UidFetch,
    UidStore,
    UidCopy,
    UidMove,
    Sort,
    UidSort,
    Thread,
    UidThread,
    GetMetadata,
    SetMetadata,
    GetQuota,
    GetQuotaRoot,
    SetQuota,
    Replace,
    UidReplace,
    Unauthenticate,
    Compress,
    Esearch,
    Notify,
    CancelUpdate,
    Language,
}

impl Name {
    /// Whether it brings a message, which is streamed.
    pub(in super::super) fn appends(self) -> bool {
        matches!(self, Name::Append | Name::Replace | Name::UidReplace)
    }
}

const NAMES: [(&str, Name); 44] = [
    ("FETCH", Name::Fetch),
    ("NOOP", Name::Noop),
    ("IDLE", Name::Idle),
    ("STORE", Name::Store),
    ("SEARCH", Name::Search),
    ("SORT", Name::Sort),
    ("THREAD", Name::Thread),
    ("SELECT", Name::Select),
    ("EXAMINE", Name::Examine),
    ("STATUS", Name::Status),
    ("LIST", Name::List),
    ("LSUB", Name::Lsub),
    ("APPEND", Name::Append),
    ("COPY", Name::Copy),
    ("MOVE", Name::Move),
    ("CAPABILITY", Name::Capability),
    ("LOGIN", Name::Login),
    ("AUTHENTICATE", Name::Authenticate),
    ("LOGOUT", Name::Logout),
    ("ID", Name::Id),
    ("ENABLE", Name::Enable),
    ("NAMESPACE", Name::Namespace),
    ("CLOSE", Name::Close),
    ("UNSELECT", Name::Unselect),
    ("EXPUNGE", Name::Expunge),
    ("CHECK", Name::Check),
    ("CREATE", Name::Create),
    ("DELETE", Name::Delete),
    ("RENAME", Name::Rename),
    ("SUBSCRIBE", Name::Subscribe),
    ("UNSUBSCRIBE", Name::Unsubscribe),
    ("STARTTLS", Name::StartTls),
    ("GETMETADATA", Name::GetMetadata),
    ("SETMETADATA", Name::SetMetadata),
    ("GETQUOTA", Name::GetQuota),
    ("GETQUOTAROOT", Name::GetQuotaRoot),
    ("SETQUOTA", Name::SetQuota),
    ("REPLACE", Name::Replace),
    ("UNAUTHENTICATE", Name::Unauthenticate),
    ("COMPRESS", Name::Compress),
    ("ESEARCH", Name::Esearch),
    ("NOTIFY", Name::Notify),
    ("CANCELUPDATE", Name::CancelUpdate),
    ("LANGUAGE", Name::Language),
];

const UID_NAMES: [(&str, Name); 9] = [
    ("FETCH", Name::UidFetch),
    ("STORE", Name::UidStore),
    ("SEARCH", Name::UidSearch),
    ("SORT", Name::UidSort),
    ("THREAD", Name::UidThread),
    ("COPY", Name::UidCopy),
    ("MOVE", Name::UidMove),
    ("EXPUNGE", Name::UidExpunge),
    ("REPLACE", Name::UidReplace),
];

/// Tag and name of the command that begins `input`. `None` where no tag begins it.
pub(in super::super) fn head(input: &[u8]) -> Option<Head<'_>> {
    let window = &input[..input.len().min(Limits::TAG_OCTETS_MAX + 1)];
    // RFC 3501 §9 tag: 1*<any ASTRING-CHAR except "+">.
    let length =
        window.iter().position(|byte| !is_astring_char(*byte) || *byte == b'+').unwrap_or(window.len());
    if length == 0
        || length > Limits::TAG_OCTETS_MAX
        || !matches!(input.get(length), Some(b' ' | b'\r' | b'\n') | None)
    {
        return None;
    }
    let tag = std::str::from_utf8(&input[..length]).ok()?;
    let mut cursor = Cursor::new(&input[length..]);
    let name = name(&mut cursor);
    Some(Head { tag, name, arguments: length + cursor.at() })
}

fn name(cursor: &mut Cursor<'_>) -> Parsed<Name> {
    cursor.space()?;
    let word = cursor.atom("a command")?;
    if !word.eq_ignore_ascii_case("UID") {
        return find(&NAMES, word);
    }
    cursor.space()?;
    find(&UID_NAMES, cursor.atom("a command that has a UID form")?)
}

fn find(names: &[(&str, Name)], word: &str) -> Parsed<Name> {
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, name)| *name).ok_or(Refusal::UnknownCommand)
}

/// Whether a command that begins so, and is refused with NO, empties the saved result.
// RFC 5182 §2.1: a SEARCH or SORT with SAVE that is answered NO does, whatever the reason is.
pub(in super::super) fn saves(input: &[u8]) -> bool {
    let Some(Head { name: Ok(name), arguments, .. }) = head(input) else { return false };
    let searches =
        matches!(name, Name::Search | Name::UidSearch | Name::Sort | Name::UidSort | Name::Esearch);
    searches && search::saves(&input[arguments..])
}

/// The arguments of a whole command, without its line end.
pub(in super::super) fn request(name: Name, arguments: &[u8], utf8: bool) -> Parsed<Command<'_>> {
    let mut cursor = Cursor::of_session(arguments, utf8);
    let command = arguments_of(name, &mut cursor)?;
    cursor.end()?;
    Ok(command)
}

fn arguments_of<'a>(name: Name, cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let bare = match name {
        Name::Capability => Some(Command::Capability),
        Name::Noop => Some(Command::Noop),
        Name::Logout => Some(Command::Logout),
        Name::StartTls => Some(Command::StartTls),
        Name::Namespace => Some(Command::Namespace),
        Name::Idle => Some(Command::Idle),
        Name::Unauthenticate => Some(Command::Unauthenticate),
        Name::Check => Some(Command::Check),
        Name::Close => Some(Command::Close),
        Name::Unselect => Some(Command::Unselect),
        Name::Expunge => Some(Command::Expunge),
        _ => None,
    };
    if let Some(command) = bare {
        return Ok(command);
    }
    if name == Name::Language && cursor.end().is_ok() {
        return Ok(Command::Language(Vec::new()));
    }
    cursor.space()?;
    Ok(match name {
        Name::Authenticate => authenticate(cursor)?,
        Name::Login => {
            let user = cursor.astring("a user name")?;
            cursor.space()?;
            Command::Login { user, password: Secret::new(cursor.astring("a password")?.into_owned()) }
        }
        Name::Enable => enable(cursor)?,
        Name::Select => Command::Select(select::select(cursor, false)?),
        Name::Examine => Command::Select(select::select(cursor, true)?),
        Name::Create => create(cursor)?,
        Name::Delete => Command::Delete(cursor.mailbox()?),
        Name::Rename => {
            let from = cursor.mailbox()?;
            cursor.space()?;
            Command::Rename { from, to: cursor.mailbox()? }
        }
        Name::Subscribe => Command::Subscribe(cursor.mailbox()?),
        Name::Unsubscribe => Command::Unsubscribe(cursor.mailbox()?),
        Name::List => Command::List(list::list(cursor)?),
        Name::Lsub => {
            let reference = cursor.mailbox_wire()?;
            cursor.space()?;
            Command::Lsub { reference, pattern: cursor.list_mailbox()?, utf8: cursor.utf8() }
        }
        Name::Status => {
            let mailbox = cursor.mailbox()?;
            cursor.space()?;
            Command::Status { mailbox, items: select::status_items(cursor)? }
        }
        Name::GetQuota => Command::GetQuota(cursor.astring("a quota root")?),
        Name::GetQuotaRoot => Command::GetQuotaRoot(cursor.mailbox()?),
        Name::SetQuota => quota::set_quota(cursor)?,
        Name::GetMetadata => Command::GetMetadata(metadata::get_metadata(cursor)?),
        Name::SetMetadata => Command::SetMetadata(metadata::set_metadata(cursor)?),
        Name::Compress => {
            let algorithm = cursor.atom("a compression algorithm")?;
            Command::Compress { deflate: algorithm.eq_ignore_ascii_case("DEFLATE") }
        }
        Name::Id => id(cursor)?,
        Name::UidExpunge => Command::UidExpunge(cursor.message_set()?),
        Name::Search | Name::UidSearch => Command::Search(search::search(cursor, name == Name::UidSearch)?),
        Name::Language => language(cursor)?,
        Name::CancelUpdate => cancel_update(cursor)?,
        Name::Notify => Command::Notify(notify::notify(cursor)?),
        Name::Esearch => Command::Esearch(filter::esearch(cursor)?),
        Name::Sort | Name::UidSort => Command::Sort(search::sort(cursor, name == Name::UidSort)?),
        Name::Thread | Name::UidThread => Command::Thread(search::thread(cursor, name == Name::UidThread)?),
        Name::Fetch | Name::UidFetch => Command::Fetch(fetch::fetch(cursor, name == Name::UidFetch)?),
        Name::Store | Name::UidStore => Command::Store(store(cursor, name == Name::UidStore)?),
        Name::Copy | Name::UidCopy | Name::Move | Name::UidMove => {
            let uid = matches!(name, Name::UidCopy | Name::UidMove);
            let set = cursor.message_set()?;
            cursor.space()?;
            let mailbox = cursor.mailbox()?;
            match name {
                Name::Copy | Name::UidCopy => Command::Copy { uid, set, mailbox },
                _ => Command::Move { uid, set, mailbox },
            }
        }
        _ => return Err(Refusal::UnknownCommand),
    })
}

fn authenticate<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let mechanism = cursor.atom("an authentication mechanism")?;
    if !cursor.eat(b' ') {
        return Ok(Command::Authenticate { mechanism, initial: None });
    }
    // RFC 4959 §3: base64, or "=" for an empty response. What is in it is the mechanism's to judge.
    let initial =
        cursor.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    if initial.is_empty() {
        return Err(Refusal::Expected("an initial response in base64"));
    }
    Ok(Command::Authenticate { mechanism, initial: Some(Hidden(initial)) })
}

/// RFC 6154 §6: `CREATE mailbox (USE (\attribute …))`.
fn create<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let mailbox = cursor.mailbox_create()?;
    let mut special_use = None;
    if cursor.eat(b' ') {
        cursor.list(|cursor| {
            if special_use.is_some() || !cursor.eat_word("USE") {
                return Err(Refusal::Expected("USE, once"));
            }
            cursor.space()?;
            let mut attributes = Vec::new();
            cursor.list(|cursor| {
                if attributes.len() == USES_MAX {
                    return Err(Refusal::TooMany("attributes in USE"));
                }
                cursor.expect(b'\\', "a special-use attribute")?;
                attributes.push(format!("\\{}", cursor.atom("a special-use attribute")?));
                Ok(())
            })?;
            special_use = Some(attributes);
            Ok(())
        })?;
    }
    Ok(Command::Create { mailbox, special_use: special_use.unwrap_or_default() })
}

/// RFC 5255 §3.5.
fn language<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let mut ranges = Vec::new();
    loop {
        if ranges.len() == LANGUAGES_MAX {
            return Err(Refusal::TooMany("languages"));
        }
        ranges.push(String::from_utf8_lossy(&cursor.astring("a language range")?).into_owned());
        if !cursor.eat(b' ') {
            return Ok(Command::Language(ranges));
        }
    }
}

/// RFC 5267 §5: `CANCELUPDATE 1*(SP quoted)`.
fn cancel_update<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let mut tags = Vec::new();
    loop {
        if tags.len() == TAGS_MAX {
            return Err(Refusal::TooMany("tags"));
        }
        tags.push(String::from_utf8_lossy(&cursor.string("a tag in quotes")?).into_owned());
        if !cursor.eat(b' ') {
            return Ok(Command::CancelUpdate(tags));
        }
    }
}

fn enable<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let mut enable = Enable::default();
    loop {
        let capability = cursor.atom("a capability")?;
        if capability.eq_ignore_ascii_case("CONDSTORE") {
            enable.condstore = true;
        } else if capability.eq_ignore_ascii_case("QRESYNC") {
            enable.qresync = true;
        } else if capability.eq_ignore_ascii_case("METADATA") {
            enable.metadata = true;
        } else if capability.eq_ignore_ascii_case("IMAP4rev2") {
            enable.rev2 = true;
        } else if capability.eq_ignore_ascii_case("UTF8=ACCEPT") {
            enable.utf8_accept = true;
        } else if capability.eq_ignore_ascii_case("UIDONLY") {
            enable.uid_only = true;
        }
        if !cursor.eat(b' ') {
            return Ok(Command::Enable(enable));
        }
    }
}

fn id<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    if cursor.eat_word("NIL") {
        return Ok(Command::Id(None));
    }
    let mut pairs = Vec::new();
    cursor.list(|cursor| {
        let field = cursor.string("the name of an ID field")?;
        cursor.space()?;
        let value = cursor.nstring("the value of an ID field")?;
        // RFC 2971 §3.3.
        if pairs.len() == ID_PAIRS_MAX {
            return Err(Refusal::TooMany("fields in ID"));
        }
        if field.len() > ID_FIELD_OCTETS_MAX
            || value.as_ref().is_some_and(|value| value.len() > ID_VALUE_OCTETS_MAX)
        {
            return Err(Refusal::TooMany("octets in an ID field"));
        }
        pairs.push((field, value));
        Ok(())
    })?;
    Ok(Command::Id(Some(pairs)))
}

fn store(cursor: &mut Cursor<'_>, uid: bool) -> Parsed<Store> {
    let set = cursor.message_set()?;
    cursor.space()?;
    let mut unchanged_since = None;
    if cursor.peek() == Some(b'(') {
        cursor.list(|cursor| {
            // RFC 7162 §7: only a single UNCHANGEDSINCE.
            if unchanged_since.is_some() || !cursor.eat_word("UNCHANGEDSINCE") {
                return Err(Refusal::Expected("UNCHANGEDSINCE, once"));
            }
            cursor.space()?;
            unchanged_since = Some(cursor.modseq()?);
            Ok(())
        })?;
        cursor.space()?;
    }
    let operation = match cursor.peek() {
        Some(b'+') => StoreOperation::Add,
        Some(b'-') => StoreOperation::Remove,
        _ => StoreOperation::Replace,
    };
    let _sign = cursor.eat(b'+') || cursor.eat(b'-');
    let item = cursor.atom("FLAGS")?;
    let silent = item.eq_ignore_ascii_case("FLAGS.SILENT");
    if !silent && !item.eq_ignore_ascii_case("FLAGS") {
        return Err(Refusal::Expected("FLAGS or FLAGS.SILENT"));
    }
    cursor.space()?;
    let flags = if cursor.peek() == Some(b'(') {
        cursor.flag_list()?
    } else {
        let mut flags = FlagSet::default();
        cursor.flag(&mut flags)?;
        while cursor.eat(b' ') {
            cursor.flag(&mut flags)?;
        }
        flags
    };
    Ok(Store { uid, set, operation, silent, flags, unchanged_since })
}
