//! Commands at random.

use quickcheck::{Arbitrary, Gen};

use super::super::command::*;
use crate::sasl::Secret;
use culver_model::annotation::Depth;
use culver_model::mime::{Section, SectionText};
use culver_model::search::{PartialRange, SearchKey, SortCriterion, SortKey, ThreadAlgorithm};
use culver_model::seq::Bound;
use culver_model::{
    Date, EntryName, FlagSet, Keyword, MailboxName, ModSeq, SequenceSet, SystemFlag, UidValidity,
};

#[derive(Clone, Debug)]
pub(super) struct AnyCommand(pub(super) Command<'static>);

pub(super) fn pick<T: Clone>(g: &mut Gen, choices: &[T]) -> T {
    g.choose(choices).expect("choices").clone()
}

pub(super) fn up_to(g: &mut Gen, most: usize) -> usize {
    usize::arbitrary(g) % (most + 1)
}

pub(super) fn flip(g: &mut Gen) -> bool {
    bool::arbitrary(g)
}

pub(super) fn mailbox(g: &mut Gen) -> MailboxName {
    let text: String = (0..up_to(g, 8))
        .map(|_| pick(g, &['a', ' ', '"', '\\', '&', '\u{e4}', '\u{1f600}', '/', '%', 'N', '{']))
        .collect();
    let fallback = pick(g, &["INBOX", "NIL", "Sent", "a/b"]);
    MailboxName::parse(&text).or_else(|_| MailboxName::parse(fallback)).expect("a name")
}

pub(super) fn octets(g: &mut Gen) -> Vec<u8> {
    (0..up_to(g, 10)).map(|_| pick(g, b"aZ0 \"\\\r\n{}()*%]\xff\x01+~")).collect()
}

pub(super) fn text(g: &mut Gen) -> String {
    (0..up_to(g, 8))
        .map(|_| pick(g, &['a', 'Z', ' ', '"', '\\', '\r', '\n', '\u{fc}', '\u{4e2d}', '{', '}']))
        .collect()
}

fn sequence(g: &mut Gen, star: bool) -> SequenceSet {
    let bound = |g: &mut Gen| match star && u8::arbitrary(g) % 4 == 0 {
        true => Bound::Star,
        false => Bound::Number(u32::arbitrary(g).max(1)),
    };
    let mut ranges = Vec::new();
    for _ in 0..=up_to(g, 3) {
        let first = bound(g);
        let last = if flip(g) { first } else { bound(g) };
        ranges.push((first, last));
    }
    SequenceSet(ranges)
}

fn messages(g: &mut Gen) -> MessageSet {
    if u8::arbitrary(g) % 5 == 0 { MessageSet::Saved } else { MessageSet::Set(sequence(g, true)) }
}

fn modseq(g: &mut Gen) -> ModSeq {
    ModSeq((u64::arbitrary(g) & ModSeq::MAX.get()).max(1))
}

fn keyword(g: &mut Gen) -> Keyword {
    Keyword::new(pick(g, &["$Junk", "Work", "$MDNSent", "a+b"])).expect("a keyword")
}

fn flags(g: &mut Gen) -> FlagSet {
    let mut flags = FlagSet { system: u8::arbitrary(g) & 0x1f, keywords: Vec::new() };
    for _ in 0..up_to(g, 3) {
        flags.insert(culver_model::Flag::Keyword(keyword(g)));
    }
    flags
}

pub(super) fn section(g: &mut Gen) -> Section {
    let part: Vec<u32> = (0..up_to(g, 3)).map(|_| u32::arbitrary(g).max(1)).collect();
    let fields = vec!["Subject".to_owned(), pick(g, &["X-Y", "a(b", "NIL", "x]"]).to_owned()];
    let mut texts = vec![
        None,
        Some(SectionText::Header),
        Some(SectionText::Text),
        Some(SectionText::HeaderFields(fields.clone())),
        Some(SectionText::HeaderFieldsNot(fields)),
    ];
    if !part.is_empty() {
        texts.push(Some(SectionText::Mime));
    }
    Section { part, text: pick(g, &texts) }
}

fn fetch(g: &mut Gen) -> Fetch {
    let uid = flip(g);
    let changed_since = flip(g).then(|| modseq(g));
    let mut items = FetchItems {
        uid: uid || flip(g),
        flags: flip(g),
        modseq: changed_since.is_some() || flip(g),
        internal_date: flip(g),
        save_date: flip(g),
        email_id: flip(g),
        thread_id: flip(g),
        size: flip(g),
        envelope: flip(g),
        body: flip(g),
        body_structure: flip(g),
        rfc822: flip(g),
        rfc822_header: flip(g),
        rfc822_text: flip(g),
        sections: Vec::new(),
        binaries: Vec::new(),
        preview: pick(g, &[None, Some(Preview::Now), Some(Preview::Lazy)]),
    };
    for _ in 0..up_to(g, 3) {
        let partial = flip(g).then(|| (u32::arbitrary(g), u32::arbitrary(g).max(1)));
        items.sections.push(FetchSection { section: section(g), peek: flip(g), partial });
    }
    for _ in 0..up_to(g, 2) {
        let (part, size) = ((0..up_to(g, 3)).map(|_| u32::arbitrary(g).max(1)).collect(), flip(g));
        let partial = (!size && flip(g)).then(|| (u32::arbitrary(g), u32::arbitrary(g).max(1)));
        items.binaries.push(FetchBinary { part, size, peek: !size && flip(g), partial });
    }
    if items == FetchItems::default() {
        items.flags = true;
    }
    let vanished = uid && changed_since.is_some() && flip(g);
    let partial = (uid && flip(g)).then(|| partial(g));
    Fetch { uid, set: messages(g), items, changed_since, vanished, partial }
}

fn status_items(g: &mut Gen) -> StatusItems {
    StatusItems {
        messages: true,
        recent: flip(g),
        uid_next: flip(g),
        uid_validity: flip(g),
        unseen: flip(g),
        size: flip(g),
        highest_modseq: flip(g),
        append_limit: flip(g),
        mailbox_id: flip(g),
        deleted: flip(g),
        deleted_storage: flip(g),
    }
}

fn list(g: &mut Gen) -> List<'static> {
    let select =
        ListSelect { subscribed: flip(g), remote: flip(g), recursive_match: false, special_use: flip(g) };
    let select =
        ListSelect { recursive_match: (select.subscribed || select.special_use) && flip(g), ..select };
    let mut patterns = vec![octets(g).into()];
    (0..up_to(g, 2)).for_each(|_| patterns.push(octets(g).into()));
    let mut returns = ListReturn {
        subscribed: select.subscribed,
        special_use: select.special_use,
        ..ListReturn::default()
    };
    let extended = select != ListSelect::default() || patterns.len() > 1 || flip(g);
    if extended {
        returns.subscribed |= flip(g);
        returns.special_use |= flip(g);
        returns.children = flip(g);
        returns.status = flip(g).then(|| status_items(g));
    }
    let metadata = if extended { (0..up_to(g, 2)).map(|_| entry(g)).collect() } else { Vec::new() };
    List { reference: octets(g).into(), patterns, select, returns, metadata, extended, utf8: false }
}

fn entry(g: &mut Gen) -> EntryName {
    let name = pick(g, &["/private/comment", "/shared/comment", "/private/a b\"c", "/shared/vendor/x/y"]);
    EntryName::parse(name.as_bytes()).expect("an entry")
}

fn get_metadata(g: &mut Gen) -> GetMetadata {
    GetMetadata {
        mailbox: flip(g).then(|| mailbox(g)),
        max_size: flip(g).then(|| u64::arbitrary(g)),
        depth: pick(g, &[Depth::Zero, Depth::One, Depth::Infinity]),
        entries: (0..=up_to(g, 2)).map(|_| entry(g)).collect(),
    }
}

fn set_metadata(g: &mut Gen) -> SetMetadata<'static> {
    let entries = (0..=up_to(g, 2)).map(|_| (entry(g), flip(g).then(|| octets(g).into()))).collect();
    SetMetadata { mailbox: flip(g).then(|| mailbox(g)), entries }
}

fn select(g: &mut Gen) -> Select {
    let qresync = flip(g).then(|| Qresync {
        uid_validity: UidValidity::new(u32::arbitrary(g).max(1)).expect("not 0"),
        modseq: modseq(g),
        known_uids: flip(g).then(|| sequence(g, false)),
        seq_match: flip(g).then(|| (sequence(g, false), sequence(g, false))),
    });
    Select { mailbox: Ok(mailbox(g)), read_only: flip(g), condstore: flip(g), qresync }
}

fn key(g: &mut Gen, depth: usize) -> SearchKey {
    let date =
        Date::from_civil(1900 + up_to(g, 200) as i32, 1 + up_to(g, 11) as u32, 1 + up_to(g, 27) as u32)
            .expect("a date");
    let kinds = if depth == 0 { 17 } else { 21 };
    match up_to(g, kinds) {
        0 => SearchKey::All,
        1 => SearchKey::Sequence(sequence(g, true)),
        2 => SearchKey::Uid(sequence(g, true)),
        3 => SearchKey::Saved,
        4 => SearchKey::Flag(pick(g, &SystemFlag::ALL)),
        5 => SearchKey::Keyword(keyword(g)),
        6 => pick(g, &[SearchKey::Recent, SearchKey::New, SearchKey::Old]),
        7 => SearchKey::Before(date),
        8 => SearchKey::On(date),
        9 => SearchKey::Since(date),
        10 => pick(g, &[SearchKey::SentBefore(date), SearchKey::SavedBefore(date), SearchKey::Older(9)]),
        11 => pick(g, &[SearchKey::SentOn(date), SearchKey::SavedOn(date), SearchKey::Younger(1)]),
        12 => {
            pick(g, &[SearchKey::SentSince(date), SearchKey::SavedSince(date), SearchKey::SaveDateSupported])
        }
        13 => pick(g, &[SearchKey::Larger(5), SearchKey::Smaller(7)]),
        14 => SearchKey::Header { field: text(g), value: text(g) },
        15 => SearchKey::Body(text(g)),
        16 => SearchKey::Text(text(g)),
        17 => SearchKey::ModSeq(modseq(g)),
        18 => SearchKey::Not(Box::new(key(g, depth - 1))),
        19 => SearchKey::Or(Box::new(key(g, depth - 1)), Box::new(key(g, depth - 1))),
        // Of one key alone the grammar makes that key.
        _ => SearchKey::And((0..2 + up_to(g, 2)).map(|_| key(g, depth - 1)).collect()),
    }
}

fn search(g: &mut Gen) -> Search {
    let mut returns = SearchReturn {
        min: flip(g),
        max: flip(g),
        all: flip(g),
        count: flip(g),
        save: flip(g),
        context: flip(g),
        update: flip(g),
        partial: None,
    };
    if !returns.all {
        returns.partial = flip(g).then(|| partial(g));
    }
    returns.all |= returns == SearchReturn::default();
    let returns = flip(g).then_some(returns);
    let updates = returns.is_some_and(|returns| returns.update);
    let update_items = (updates && flip(g)).then(|| Box::new(unasked(g)));
    let key = key(g, 3);
    // What is no text of 7 bits needs one.
    let charset = flip(g) || !super::super::client::write::is_ascii(&key);
    Search { uid: flip(g), returns, update_items, charset, key }
}

/// Items that nobody asks for set no flag.
fn unasked(g: &mut Gen) -> FetchItems {
    let mut items = fetch(g).items;
    items.sections.iter_mut().for_each(|section| section.peek = true);
    items.binaries.iter_mut().for_each(|binary| binary.peek = true);
    items
}

fn filter(g: &mut Gen) -> MailboxFilter {
    let names = (0..=up_to(g, 2)).map(|_| mailbox(g)).collect();
    match up_to(g, 5) {
        0 => MailboxFilter::Inboxes,
        1 => MailboxFilter::Personal,
        2 => MailboxFilter::Subscribed,
        3 => MailboxFilter::Subtree(names),
        _ => MailboxFilter::Mailboxes(names),
    }
}

fn esearch(g: &mut Gen) -> Esearch {
    let mut search = Search { uid: true, ..search(g) };
    let mut sources: Vec<MailboxFilter> = (0..up_to(g, 3)).map(|_| filter(g)).collect();
    if search.returns.is_some_and(|returns| returns.save) {
        sources = if flip(g) { vec![MailboxFilter::Selected] } else { Vec::new() };
    } else if flip(g) {
        sources.push(MailboxFilter::SubtreeOne(vec![mailbox(g)]));
    }
    search.uid = true;
    Esearch { sources, search }
}

fn notify(g: &mut Gen) -> Notify {
    let mut groups = Vec::new();
    if flip(g) {
        let messages = flip(g);
        let events = Events {
            messages,
            fetch: (messages && flip(g)).then(|| Box::new(unasked(g))),
            flags: messages && flip(g),
            ..Events::default()
        };
        let filter = pick(g, &[MailboxFilter::Selected, MailboxFilter::SelectedDelayed]);
        groups.push(EventGroup { filter, events });
    }
    for _ in 0..=up_to(g, 2) {
        let messages = flip(g);
        let events = Events {
            messages,
            fetch: None,
            flags: messages && flip(g),
            mailbox_name: flip(g),
            subscription: flip(g),
            mailbox_metadata: flip(g),
            server_metadata: flip(g),
        };
        groups.push(EventGroup { filter: filter(g), events });
    }
    Notify { status: flip(g), groups }
}

fn partial(g: &mut Gen) -> PartialRange {
    PartialRange { bounds: (u32::arbitrary(g).max(1), u32::arbitrary(g).max(1)), from_end: flip(g) }
}

fn sort(g: &mut Gen) -> Sort {
    let Search { uid, returns, update_items, key, .. } = search(g);
    let criterion = |g: &mut Gen| SortCriterion { key: pick(g, &SortKey::ALL), reverse: flip(g) };
    let criteria = (0..1 + up_to(g, 3)).map(|_| criterion(g)).collect();
    Sort { uid, returns, update_items, criteria, key }
}

fn store(g: &mut Gen) -> Store {
    Store {
        uid: flip(g),
        set: messages(g),
        operation: pick(g, &[StoreOperation::Replace, StoreOperation::Add, StoreOperation::Remove]),
        silent: flip(g),
        flags: flags(g),
        unchanged_since: flip(g).then(|| modseq(g)),
    }
}

impl Arbitrary for AnyCommand {
    fn arbitrary(g: &mut Gen) -> AnyCommand {
        let bare = [
            Command::Capability,
            Command::Noop,
            Command::Logout,
            Command::StartTls,
            Command::Namespace,
            Command::Idle,
            Command::Check,
            Command::Close,
            Command::Unselect,
            Command::Expunge,
            Command::Id(None),
            Command::Authenticate { mechanism: "PLAIN", initial: Some(Hidden(b"AHRpbQBzZWNyZXQ=")) },
            Command::Authenticate { mechanism: "LOGIN", initial: None },
            Command::Enable(Enable {
                condstore: true,
                qresync: true,
                rev2: true,
                utf8_accept: true,
                uid_only: true,
                metadata: true,
            }),
            Command::Unauthenticate,
            Command::Notify(None),
            Command::Language(Vec::new()),
            Command::Language(vec!["FR-CA".to_owned(), "EN".to_owned()]),
            Command::Compress { deflate: true },
            Command::CancelUpdate(vec!["a1".to_owned(), "b\\\"".to_owned()]),
        ];
        AnyCommand(match up_to(g, 23) {
            0 => pick(g, &bare),
            1 => Command::Login { user: octets(g).into(), password: Secret::new(octets(g)) },
            2 => Command::Select(select(g)),
            3 => Command::Create {
                mailbox: mailbox(g),
                special_use: pick(
                    g,
                    &[vec![], vec!["\\Drafts".to_owned()], vec!["\\A".to_owned(), "\\b".to_owned()]],
                ),
            },
            4 => Command::Rename { from: mailbox(g), to: mailbox(g) },
            5 => Command::Subscribe(mailbox(g)),
            6 => Command::List(list(g)),
            7 => Command::Lsub { reference: octets(g).into(), pattern: octets(g).into(), utf8: false },
            8 => Command::Status { mailbox: mailbox(g), items: status_items(g) },
            9 => {
                let pairs = (0..up_to(g, 4)).map(|_| (octets(g).into(), flip(g).then(|| octets(g).into())));
                Command::Id(Some(pairs.collect()))
            }
            10 => Command::UidExpunge(messages(g)),
            11 => Command::Search(search(g)),
            12 if flip(g) => Command::Sort(sort(g)),
            12 => Command::Thread(Thread {
                uid: flip(g),
                algorithm: pick(g, &ThreadAlgorithm::ALL),
                key: key(g, 3),
            }),
            13 => Command::Fetch(fetch(g)),
            14 => Command::Store(store(g)),
            16 => Command::Esearch(esearch(g)),
            17 => Command::Notify(Some(notify(g))),
            15 => Command::Copy { uid: flip(g), set: messages(g), mailbox: mailbox(g) },
            18 => Command::GetQuota(octets(g).into()),
            19 => Command::GetQuotaRoot(mailbox(g)),
            20 => {
                let limits = ["STORAGE", "MESSAGE"].map(|resource| (resource, u64::arbitrary(g) >> 1));
                Command::SetQuota { root: octets(g).into(), limits: limits[..up_to(g, 2)].to_vec() }
            }
            21 => Command::GetMetadata(get_metadata(g)),
            22 => Command::SetMetadata(set_metadata(g)),
            _ => Command::Move { uid: flip(g), set: messages(g), mailbox: mailbox(g) },
        })
    }
}
