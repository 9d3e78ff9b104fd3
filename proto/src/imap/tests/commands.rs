//! The grammar: examples of the RFCs, refusals that say what was expected, and what the client writes read back.

use quickcheck::{TestResult, quickcheck};

use super::super::command::*;
use super::arbitrary::AnyCommand;
use super::*;
use culver_model::annotation::Depth;
use culver_model::mime::{Section, SectionText};
use culver_model::search::{PartialRange, SearchKey, SortCriterion, SortKey, ThreadAlgorithm};
use culver_model::{
    Date, EntryName, FlagSet, Keyword, MailboxName, ModSeq, SequenceSet, SystemFlag, UidValidity,
};

/// The command on the line `a <text>`.
fn parse(text: &str) -> Result<Command<'static>, Refusal> {
    parse_octets(text.as_bytes())
}

fn parse_octets(text: &[u8]) -> Result<Command<'static>, Refusal> {
    let line: &'static [u8] = Box::leak([b"a ", text, b"\r\n"].concat().into_boxed_slice());
    let mut server = Server::new(Limits::default());
    server.set_stage(Stage::Selected);
    loop {
        match server.next(line) {
            (taken, Event::Command(Request { tag: "a", command })) if taken == line.len() => {
                return Ok(command);
            }
            (taken, Event::Refused { tag: Some("a"), refusal, .. }) if taken == line.len() => {
                return Err(refusal);
            }
            (0, Event::Continue) => {}
            other => panic!("{}: {other:?}", String::from_utf8_lossy(text)),
        }
    }
}

fn name(text: &str) -> MailboxName {
    MailboxName::parse(text).unwrap()
}

fn set(text: &str) -> MessageSet {
    MessageSet::Set(SequenceSet::parse(text.as_bytes()).unwrap())
}

fn numbers(text: &str) -> SequenceSet {
    SequenceSet::parse(text.as_bytes()).unwrap()
}

fn header(field: &str, value: &str) -> SearchKey {
    SearchKey::Header { field: field.into(), value: value.into() }
}

#[test]
fn bare_commands() {
    for (text, command) in [
        ("CAPABILITY", Command::Capability),
        ("noop", Command::Noop),
        ("LoGoUt", Command::Logout),
        ("STARTTLS", Command::StartTls),
        ("NAMESPACE", Command::Namespace),
        ("IDLE", Command::Idle),
        ("CHECK", Command::Check),
        ("CLOSE", Command::Close),
        ("UNSELECT", Command::Unselect),
        ("EXPUNGE", Command::Expunge),
        ("UID EXPUNGE 3000:3002", Command::UidExpunge(set("3000:3002"))),
        ("UID EXPUNGE $", Command::UidExpunge(MessageSet::Saved)),
        ("ENABLE X-GOOD-IDEA CONDSTORE", Command::Enable(Enable { condstore: true, ..Enable::default() })),
        ("ENABLE qresync", Command::Enable(Enable { qresync: true, ..Enable::default() })),
        ("ENABLE Metadata", Command::Enable(Enable { metadata: true, ..Enable::default() })),
        ("ID NIL", Command::Id(None)),
        ("ID ()", Command::Id(Some(vec![]))),
        ("CREATE owatagusiam/", Command::Create { mailbox: name("owatagusiam"), special_use: Vec::new() }),
        ("CREATE {4+}\r\nx/&-", Command::Create { mailbox: name("x/&"), special_use: Vec::new() }),
        ("DELETE \"a \\\"b\\\\\"", Command::Delete(name("a \"b\\"))),
        ("RENAME blurdybloop sarasoop", Command::Rename { from: name("blurdybloop"), to: name("sarasoop") }),
        ("SUBSCRIBE #news.comp.mail.mime", Command::Subscribe(name("#news.comp.mail.mime"))),
        ("UNSUBSCRIBE NIL", Command::Unsubscribe(name("NIL"))),
        ("COPY 2:4 MEETING", Command::Copy { uid: false, set: set("2:4"), mailbox: name("MEETING") }),
        ("UID MOVE 42:69 foo", Command::Move { uid: true, set: set("42:69"), mailbox: name("foo") }),
        (
            "UID COPY $ \"Other Messages\"",
            Command::Copy { uid: true, set: MessageSet::Saved, mailbox: name("Other Messages") },
        ),
        (
            "LSUB \"#news.\" \"comp.mail.*\"",
            Command::Lsub {
                reference: b"#news."[..].into(),
                pattern: b"comp.mail.*"[..].into(),
                utf8: false,
            },
        ),
        (
            "ID (\"name\" \"sodr\" \"version\" NIL)",
            Command::Id(Some(vec![
                (b"name"[..].into(), Some(b"sodr"[..].into())),
                (b"version"[..].into(), None),
            ])),
        ),
    ] {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
}

#[test]
fn select_with_its_parameters() {
    let plain = Select { mailbox: Ok(name("INBOX")), read_only: false, condstore: false, qresync: None };
    let qresync = |known_uids, seq_match| {
        Some(Qresync {
            uid_validity: UidValidity::new(67890007).unwrap(),
            modseq: ModSeq(20050715194045000),
            known_uids,
            seq_match,
        })
    };
    for (text, select) in [
        ("SELECT inbox", plain.clone()),
        ("EXAMINE INBOX (CONDSTORE)", Select { read_only: true, condstore: true, ..plain.clone() }),
        (
            "SELECT INBOX (QRESYNC (67890007 20050715194045000 41,43:211,214:541))",
            Select { qresync: qresync(Some(numbers("41,43:211,214:541")), None), ..plain.clone() },
        ),
        (
            "SELECT INBOX (CONDSTORE QRESYNC (67890007 20050715194045000 41:211 (1,2,9 5,7,20)))",
            Select {
                condstore: true,
                qresync: qresync(Some(numbers("41:211")), Some((numbers("1,2,9"), numbers("5,7,20")))),
                ..plain.clone()
            },
        ),
        (
            "SELECT INBOX (QRESYNC (67890007 20050715194045000 (1 5)))",
            Select { qresync: qresync(None, Some((numbers("1"), numbers("5")))), ..plain.clone() },
        ),
    ] {
        assert_eq!(parse(text), Ok(Command::Select(select)), "{text}");
    }
    let Ok(Command::Select(select)) = parse("SELECT \"&&\"") else {
        panic!("an impossible name gets through")
    };
    assert!(select.mailbox.is_err());
    assert!(parse("SELECT x (QRESYNC (1 5 1:*))").is_err());
    assert!(parse("SELECT x (QRESYNC (1 0))").is_err());
    assert!(parse("STATUS x (HIGHESTMODSEQ)").unwrap().enables_condstore());
}

#[test]
fn list_and_its_extensions() {
    let list = |reference: &'static str, patterns: &[&'static str]| List {
        utf8: false,
        reference: reference.as_bytes().into(),
        patterns: patterns.iter().map(|pattern| pattern.as_bytes().into()).collect(),
        select: ListSelect::default(),
        returns: ListReturn::default(),
        metadata: Vec::new(),
        extended: false,
    };
    let subscribed = ListSelect { subscribed: true, ..ListSelect::default() };
    let return_subscribed = ListReturn { subscribed: true, ..ListReturn::default() };
    let status = StatusItems { messages: true, unseen: true, ..StatusItems::default() };
    for (text, expect) in [
        ("LIST \"\" %", list("", &["%"])),
        ("LIST /usr/staff/jones \"\"", list("/usr/staff/jones", &[""])),
        (
            "LIST (SUBSCRIBED) \"\" \"*\"",
            List { select: subscribed, returns: return_subscribed, extended: true, ..list("", &["*"]) },
        ),
        (
            "LIST () \"\" (\"INBOX\" Drafts \"Sent/%\")",
            List { extended: true, ..list("", &["INBOX", "Drafts", "Sent/%"]) },
        ),
        (
            "LIST (SUBSCRIBED RECURSIVEMATCH REMOTE) \"\" %",
            List {
                select: ListSelect { recursive_match: true, remote: true, ..subscribed },
                returns: return_subscribed,
                extended: true,
                ..list("", &["%"])
            },
        ),
        (
            "LIST \"\" % RETURN (CHILDREN SPECIAL-USE STATUS (MESSAGES UNSEEN))",
            List {
                returns: ListReturn {
                    subscribed: false,
                    children: true,
                    special_use: true,
                    status: Some(status),
                },
                extended: true,
                ..list("", &["%"])
            },
        ),
    ] {
        assert_eq!(parse(text), Ok(Command::List(expect)), "{text}");
    }
    let Ok(Command::List(list)) = parse("LIST \"\" \"\"") else { panic!() };
    assert!(list.asks_separator());
    // RFC 5258 §3: no extended form asks for the separator, and an empty pattern matches nothing.
    let Ok(Command::List(list)) = parse("LIST \"\" (\"\" INBOX)") else { panic!() };
    assert!(!list.asks_separator());
    assert_eq!(list.compile().len(), 1);
    assert!(parse("LIST (RECURSIVEMATCH) \"\" %").is_err());
    assert!(parse("LIST (REMOTE RECURSIVEMATCH) \"\" %").is_err());
}

#[test]
fn fetch_items_and_macros() {
    let fetch =
        |set, items| Fetch { uid: false, set, items, changed_since: None, vanished: false, partial: None };
    let fast = FetchItems { flags: true, internal_date: true, size: true, ..FetchItems::default() };
    let section = |part: &[u32], text, peek, partial| FetchSection {
        section: Section { part: part.to_vec(), text },
        peek,
        partial,
    };
    let fields = SectionText::HeaderFields(vec!["DATE".into(), "FROM".into()]);
    for (text, expect) in [
        ("FETCH 1:* FAST", fetch(set("1:*"), fast.clone())),
        ("FETCH 1 all", fetch(set("1"), FetchItems { envelope: true, ..fast.clone() })),
        ("FETCH 1 FULL", fetch(set("1"), FetchItems { envelope: true, body: true, ..fast.clone() })),
        (
            "FETCH 2:4 (FLAGS BODY[HEADER.FIELDS (DATE FROM)])",
            fetch(
                set("2:4"),
                FetchItems {
                    flags: true,
                    sections: vec![section(&[], Some(fields), false, None)],
                    ..FetchItems::default()
                },
            ),
        ),
        (
            "FETCH $ (BODY.PEEK[] BODY[4.2.2.1]<0.2048> BODY[1.MIME] BODY.PEEK[TEXT] BODY[2.HEADER])",
            fetch(
                MessageSet::Saved,
                FetchItems {
                    sections: vec![
                        section(&[], None, true, None),
                        section(&[4, 2, 2, 1], None, false, Some((0, 2048))),
                        section(&[1], Some(SectionText::Mime), false, None),
                        section(&[], Some(SectionText::Text), true, None),
                        section(&[2], Some(SectionText::Header), false, None),
                    ],
                    ..FetchItems::default()
                },
            ),
        ),
        (
            "FETCH 1 (RFC822 RFC822.HEADER RFC822.TEXT RFC822.SIZE BODY BODYSTRUCTURE ENVELOPE UID MODSEQ INTERNALDATE)",
            fetch(
                set("1"),
                FetchItems {
                    uid: true,
                    flags: false,
                    modseq: true,
                    internal_date: true,
                    save_date: false,
                    email_id: false,
                    thread_id: false,
                    size: true,
                    envelope: true,
                    body: true,
                    body_structure: true,
                    rfc822: true,
                    rfc822_header: true,
                    rfc822_text: true,
                    sections: vec![],
                    binaries: vec![],
                    preview: None,
                },
            ),
        ),
        (
            "UID FETCH 300:500 (FLAGS) (CHANGEDSINCE 12345 VANISHED)",
            Fetch {
                uid: true,
                set: set("300:500"),
                items: FetchItems { uid: true, flags: true, modseq: true, ..FetchItems::default() },
                changed_since: Some(ModSeq(12345)),
                vanished: true,
                partial: None,
            },
        ),
    ] {
        assert_eq!(parse(text), Ok(Command::Fetch(expect)), "{text}");
    }
    for bad in [
        "FETCH 1 (ALL)",
        "FETCH 1 (FLAGS FAST)",
        "FETCH 1 ()",
        "FETCH 1 BODY.PEEK",
        "FETCH 1 BODY[MIME]",
        "FETCH 1 BODY[0]",
        "FETCH 1 BODY[1.]",
        "FETCH 1 BODY[]<0.0>",
        "FETCH 1 BODY[]<1>",
        "FETCH 1 BODY[HEADER.FIELDS ()]",
        "FETCH 1 FLAGS (VANISHED CHANGEDSINCE 1)",
        "UID FETCH 1 FLAGS (VANISHED)",
        "FETCH 0 FLAGS",
        "FETCH 1:4294967296 FLAGS",
        "FETCH 1,$ FLAGS",
        "FETCH 1 FLAGS (CHANGEDSINCE 9223372036854775808)",
        "FETCH 1 (FLAGS) ",
        "FETCH 1 (FLAGS",
        "FETCH 1  FLAGS",
    ] {
        assert!(matches!(parse(bad), Err(Refusal::Expected(_))), "{bad}: {:?}", parse(bad));
    }
}

#[test]
fn store_in_its_forms() {
    let flags = |system: &[SystemFlag], keywords: &[&str]| FlagSet {
        system: system.iter().fold(0, |bits, flag| bits | flag.bit()),
        keywords: keywords.iter().map(|keyword| Keyword::new(keyword).unwrap()).collect(),
    };
    let store = |operation, silent, flags| Store {
        uid: false,
        set: set("2:4"),
        operation,
        silent,
        flags,
        unchanged_since: None,
    };
    use StoreOperation::{Add, Remove, Replace};
    use SystemFlag::{Deleted, Seen};
    for (text, expect) in [
        ("STORE 2:4 +FLAGS (\\Deleted)", store(Add, false, flags(&[Deleted], &[]))),
        (
            "STORE 2:4 -flags.silent \\Seen $Forwarded $forwarded",
            store(Remove, true, flags(&[Seen], &["$Forwarded"])),
        ),
        ("STORE 2:4 FLAGS ()", store(Replace, false, flags(&[], &[]))),
        ("STORE 2:4 FLAGS (\\Recent \\seen)", store(Replace, false, flags(&[Seen], &[]))),
        (
            "STORE 2:4 (UNCHANGEDSINCE 0) FLAGS.SILENT (\\Deleted)",
            Store { unchanged_since: Some(ModSeq(0)), ..store(Replace, true, flags(&[Deleted], &[])) },
        ),
    ] {
        assert_eq!(parse(text), Ok(Command::Store(expect)), "{text}");
    }
    for bad in [
        "STORE 1 +FLAGS",
        "STORE 1 +FLAGS (\\Foo)",
        "STORE 1 +-FLAGS (\\Seen)",
        "STORE 1 FLAGSX (\\Seen)",
        "STORE 1 (UNCHANGEDSINCE 1 UNCHANGEDSINCE 2) FLAGS ()",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let many: String = (0..300).map(|n| format!(" k{n}")).collect();
    assert_eq!(parse(&format!("STORE 1 FLAGS{many}")), Err(Refusal::TooMany("keywords")));
}

#[test]
fn search_keys() {
    let date = |text: &str| Date::parse(text.as_bytes()).unwrap();
    let not = |key| SearchKey::Not(Box::new(key));
    let flag = SearchKey::Flag;
    for (text, key) in [
        ("ALL", SearchKey::All),
        (
            "FLAGGED SINCE 1-Feb-1994 NOT FROM \"Smith\"",
            SearchKey::And(vec![
                flag(SystemFlag::Flagged),
                SearchKey::Since(date("1-Feb-1994")),
                not(header("FROM", "Smith")),
            ]),
        ),
        ("UNSEEN", not(flag(SystemFlag::Seen))),
        ("undeleted", not(flag(SystemFlag::Deleted))),
        ("1:3,*", SearchKey::Sequence(numbers("1:3,*"))),
        ("UID 1:*", SearchKey::Uid(numbers("1:*"))),
        ("$", SearchKey::Saved),
        ("UID $", SearchKey::Saved),
        (
            "OR $ 1,3000:3021",
            SearchKey::Or(Box::new(SearchKey::Saved), Box::new(SearchKey::Sequence(numbers("1,3000:3021")))),
        ),
        ("(SEEN)", flag(SystemFlag::Seen)),
        ("NOT (SEEN DRAFT)", not(SearchKey::And(vec![flag(SystemFlag::Seen), flag(SystemFlag::Draft)]))),
        ("UNKEYWORD $Junk", not(SearchKey::Keyword(Keyword::new("$Junk").unwrap()))),
        ("HEADER X-Spam \"\"", header("X-Spam", "")),
        ("SENTON \"01-Feb-1994\"", SearchKey::SentOn(date("1-Feb-1994"))),
        ("LARGER 4294967296", SearchKey::Larger(4294967296)),
        ("SMALLER 10", SearchKey::Smaller(10)),
        ("YOUNGER 259200", SearchKey::Younger(259_200)),
        ("older 1", SearchKey::Older(1)),
        ("SAVEDON 28-Dec-2014", SearchKey::SavedOn(date("28-Dec-2014"))),
        ("SAVEDBEFORE 28-Dec-2014", SearchKey::SavedBefore(date("28-Dec-2014"))),
        ("SAVEDSINCE 28-Dec-2014", SearchKey::SavedSince(date("28-Dec-2014"))),
        ("SAVEDATESUPPORTED", SearchKey::SaveDateSupported),
        // RFC 8474 §6.
        ("EMAILID M6d99ac3275bb4e", SearchKey::EmailId("M6d99ac3275bb4e".to_owned())),
        ("THREADID T64b478a75b7ea9", SearchKey::ThreadId("T64b478a75b7ea9".to_owned())),
        ("NEW", SearchKey::New),
        ("OLD", SearchKey::Old),
        ("RECENT", SearchKey::Recent),
        ("MODSEQ 620162338", SearchKey::ModSeq(ModSeq(620162338))),
        ("MODSEQ \"/flags/\\\\draft\" all 620162338", SearchKey::ModSeq(ModSeq(620162338))),
        ("CHARSET UTF-8 TEXT {7+}\r\nm\u{fc}ller", SearchKey::Text("m\u{fc}ller".into())),
        ("CHARSET \"us-ascii\" BODY abc", SearchKey::Body("abc".into())),
        ("SUBJECT \"m\u{fc}ller\"", header("SUBJECT", "m\u{fc}ller")),
    ] {
        assert_eq!(
            parse(&format!("SEARCH {text}")),
            Ok(Command::Search(Search {
                uid: false,
                returns: None,
                update_items: None,
                charset: text.starts_with("CHARSET"),
                key
            })),
            "{text}"
        );
    }
}

#[test]
fn search_strings_are_decoded() {
    let text = |octets: &[u8]| match parse_octets(octets) {
        Ok(Command::Search(Search { key: SearchKey::Text(text), .. })) => Ok(text),
        Err(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    };
    assert_eq!(text(b"SEARCH CHARSET ISO-8859-1 TEXT {6+}\r\nm\xfcller"), Ok("m\u{fc}ller".into()));
    assert_eq!(text(b"SEARCH CHARSET koi8-r TEXT \"\xc2\""), Ok("\u{431}".into()));
    assert_eq!(text(b"SEARCH CHARSET Shift_JIS TEXT \"\x81\""), Err(Refusal::NotText));
    assert_eq!(text(b"SEARCH CHARSET UTF-8 TEXT {6+}\r\nm\xfcller"), Err(Refusal::NotText));
    assert_eq!(text(b"SEARCH TEXT {6+}\r\nm\xfcller"), Err(Refusal::NotText));
    assert_eq!(text(b"SEARCH CHARSET UTF-16 TEXT x"), Err(Refusal::NotText));
}

#[test]
fn search_results_and_refusals() {
    let returns = |text: &str| match parse(&format!("UID SEARCH {text} ALL")) {
        Ok(Command::Search(Search { uid: true, returns, .. })) => returns.unwrap(),
        other => panic!("{text}: {other:?}"),
    };
    let none = SearchReturn::default();
    assert_eq!(returns("RETURN ()"), SearchReturn { all: true, ..none });
    assert_eq!(returns("RETURN (SAVE)"), SearchReturn { save: true, ..none });
    assert_eq!(
        returns("RETURN (MIN MAX COUNT ALL)"),
        SearchReturn { min: true, max: true, count: true, all: true, ..none }
    );
    for (text, refusal) in [
        ("CHARSET X-UNKNOWN ALL", Refusal::BadCharset),
        ("CHARSET US-ASCII TEXT \"\u{fc}\"", Refusal::NotText),
        ("XYZZY", Refusal::Expected("a search key that exists")),
        ("OLDER 0", Refusal::Expected("a number other than 0")),
        ("UNOLD", Refusal::Expected("a search key that exists")),
        ("()", Refusal::Expected("a search key")),
        ("SINCE 30-Feb-1994", Refusal::Expected("a date like 1-Feb-1994")),
        ("RETURN (AVG) ALL", Refusal::Expected("MIN, MAX, ALL, COUNT, PARTIAL, SAVE, CONTEXT or UPDATE")),
        ("1 2x", Refusal::Expected("the end of the command")),
    ] {
        assert_eq!(parse(&format!("SEARCH {text}")), Err(refusal), "{text}");
    }
    let deep = |depth: usize| parse(&format!("SEARCH {}SEEN", "NOT ".repeat(depth)));
    assert!(deep(32).is_ok());
    assert_eq!(deep(33), Err(Refusal::TooMany("nested search keys")));
    assert!(parse(&format!("SEARCH {}SEEN{}", "(".repeat(5000), ")".repeat(5000))).is_err());
    assert_eq!(parse(&format!("SEARCH{}", " SEEN".repeat(1001))), Err(Refusal::TooMany("search keys")));
}

#[test]
fn sort_and_thread() {
    let sort = |text: &str| match parse(text) {
        Ok(Command::Sort(sort)) => sort,
        other => panic!("{text}: {other:?}"),
    };
    let by = |key, reverse| SortCriterion { key, reverse };
    // RFC 5256 §3.
    let given = sort("SORT (SUBJECT REVERSE DATE) UTF-8 ALL");
    assert_eq!(given.criteria, [by(SortKey::Subject, false), by(SortKey::Date, true)]);
    assert_eq!((given.uid, given.returns, given.key), (false, None, SearchKey::All));
    // RFC 5267 §3.3.
    let given = sort("UID SORT RETURN () (reverse displayfrom) \"UTF-8\" UNDELETED UNKEYWORD $Junk");
    assert!(given.uid && given.returns.is_some_and(|returns| returns.all));
    assert_eq!(given.criteria, [by(SortKey::DisplayFrom, true)]);
    // RFC 9394 §3.1.
    let returns = sort("SORT RETURN (PARTIAL -1:-100 COUNT) (ARRIVAL) US-ASCII 1:*").returns.unwrap();
    assert_eq!(returns.partial, Some(PartialRange { bounds: (1, 100), from_end: true }));
    let Ok(Command::Thread(thread)) = parse("UID THREAD refs US-ASCII SINCE 5-MAR-2000 TEXT x") else {
        panic!()
    };
    assert_eq!((thread.uid, thread.algorithm), (true, ThreadAlgorithm::Refs));
    const CRITERION: Refusal = Refusal::Expected("a sort criterion that exists");
    const ONE: Refusal = Refusal::Expected("one of ALL and PARTIAL, once");
    for (text, refusal) in [
        ("SORT () UTF-8 ALL", CRITERION),
        ("SORT (SENDER) UTF-8 ALL", CRITERION),
        ("SORT (REVERSE REVERSE DATE) UTF-8 ALL", CRITERION),
        ("SORT (DATE) X-UNKNOWN ALL", Refusal::BadCharset),
        ("SORT RETURN (SAVE) (DATE) X-UNKNOWN ALL", Refusal::BadCharset),
        ("SORT (DATE) UTF-8", Refusal::Expected("a space")),
        ("SORT DATE UTF-8 ALL", Refusal::Expected("an opening parenthesis")),
        ("THREAD XYZZY UTF-8 ALL", Refusal::Expected("a threading algorithm that exists")),
        ("THREAD REFERENCES UTF-8 \u{fc}", Refusal::Expected("a search key")),
        ("SEARCH RETURN (ALL PARTIAL 1:2) ALL", ONE),
        ("SEARCH RETURN (PARTIAL 1:2 PARTIAL 1:2) ALL", ONE),
        ("SEARCH RETURN (PARTIAL 1:-2) ALL", Refusal::Expected("a number")),
        ("SEARCH RETURN (PARTIAL 0:2) ALL", Refusal::Expected("a number other than 0")),
        ("SEARCH RETURN (PARTIAL 1:*) ALL", Refusal::Expected("a number")),
        ("FETCH 1 (FLAGS) (PARTIAL 1:2)", Refusal::Expected("UID FETCH for PARTIAL")),
    ] {
        assert_eq!(parse(text), Err(refusal), "{text}");
    }
    let many = format!("SORT ({}) UTF-8 ALL", ["DATE"; 17].join(" "));
    assert_eq!(parse(&many), Err(Refusal::TooMany("sort criteria")));
}

fn entry(text: &str) -> EntryName {
    EntryName::parse(text.as_bytes()).unwrap()
}

#[test]
fn getmetadata_takes_its_options_before_and_behind_the_mailbox() {
    let inbox = GetMetadata {
        mailbox: Some(name("INBOX")),
        max_size: None,
        depth: Depth::Zero,
        entries: vec![entry("/shared/comment"), entry("/private/comment")],
    };
    let one = |text| GetMetadata { entries: vec![entry(text)], ..inbox.clone() };
    let filters = GetMetadata { depth: Depth::One, ..one("/private/filters/values") };
    let small = GetMetadata { max_size: Some(1024), ..inbox.clone() };
    for (text, get) in [
        ("GETMETADATA \"\" /shared/comment", GetMetadata { mailbox: None, ..one("/shared/comment") }),
        ("GETMETADATA \"INBOX\" /private/comment", one("/private/comment")),
        ("GETMETADATA INBOX (/shared/comment /private/comment)", inbox.clone()),
        ("getmetadata INBOX /SHARED/Comment /Private/comment", inbox.clone()),
        ("GETMETADATA INBOX (\"/shared/comment\" {16+}\r\n/private/comment)", inbox.clone()),
        ("GETMETADATA \"INBOX\" (MAXSIZE 1024) (/shared/comment /private/comment)", small.clone()),
        ("GETMETADATA (MAXSIZE 1024) \"INBOX\" (/shared/comment /private/comment)", small.clone()),
        ("GETMETADATA \"INBOX\" (DEPTH 1) (/private/filters/values)", filters.clone()),
        ("GETMETADATA (DEPTH 1) INBOX /private/filters/values", filters.clone()),
        (
            "GETMETADATA (DEPTH infinity MAXSIZE 0) {0+}\r\n (/private)",
            GetMetadata { mailbox: None, depth: Depth::Infinity, max_size: Some(0), ..one("/private") },
        ),
    ] {
        assert_eq!(parse(text), Ok(Command::GetMetadata(get)), "{text}");
    }
    const NAME: Refusal = Refusal::Expected("the name of an entry under /private or /shared");
    const OPTION: Refusal = Refusal::Expected("MAXSIZE or DEPTH, once");
    for (text, refusal) in [
        ("GETMETADATA INBOX", Refusal::Expected("a space")),
        ("GETMETADATA INBOX /comment", NAME),
        ("GETMETADATA INBOX /private//x", NAME),
        ("GETMETADATA INBOX \"/private/*\"", NAME),
        ("GETMETADATA INBOX ()", OPTION),
        ("GETMETADATA (DEPTH 2) INBOX /private/x", Refusal::Expected("0, 1 or infinity")),
        ("GETMETADATA (DEPTH 1 DEPTH 1) INBOX /private/x", OPTION),
        ("GETMETADATA () INBOX /private/x", OPTION),
        ("GETMETADATA (X 1) INBOX /private/x", OPTION),
        ("GETMETADATA a//b /private/x", Refusal::Name(culver_model::name::NameError::Empty)),
    ] {
        assert_eq!(parse(text), Err(refusal), "{text}");
    }
    let long = format!("GETMETADATA INBOX /private/{}", "x".repeat(300));
    assert_eq!(parse(&long), Err(Refusal::TooMany("octets in the name of an entry")));
}

#[test]
fn setmetadata_sets_strings_and_removes_with_nil() {
    let set = |mailbox: Option<&str>, entries: &[(&str, Option<&'static str>)]| {
        let entries =
            entries.iter().map(|(name, value)| (entry(name), value.map(|value| value.as_bytes().into())));
        Command::SetMetadata(SetMetadata { mailbox: mailbox.map(name), entries: entries.collect() })
    };
    for (text, command) in [
        (
            "SETMETADATA INBOX (/private/comment {33}\r\nMy new comment across\r\ntwo lines.)",
            set(Some("INBOX"), &[("/private/comment", Some("My new comment across\r\ntwo lines."))]),
        ),
        ("SETMETADATA INBOX (/private/comment NIL)", set(Some("INBOX"), &[("/private/comment", None)])),
        (
            "SETMETADATA \"\" (/Private/Vendor/x/Y \"\" \"/shared/comment\" \"This one is for you!\")",
            set(
                None,
                &[("/private/vendor/x/y", Some("")), ("/shared/comment", Some("This one is for you!"))],
            ),
        ),
        ("SETMETADATA x (/private/a \"NIL\")", set(Some("x"), &[("/private/a", Some("NIL"))])),
    ] {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
    const VALUES: Refusal = Refusal::Expected("the name of an entry that can have a value");
    for (text, refusal) in [
        ("SETMETADATA INBOX /private/comment \"x\"", Refusal::Expected("an opening parenthesis")),
        ("SETMETADATA INBOX ()", Refusal::Expected("an entry")),
        ("SETMETADATA INBOX (/private/comment)", Refusal::Expected("a space")),
        ("SETMETADATA INBOX (/private/comment x)", Refusal::Expected("a value, or NIL")),
        ("SETMETADATA INBOX (/private \"x\")", VALUES),
        ("SETMETADATA INBOX (/private/vendor/x \"x\")", VALUES),
    ] {
        assert_eq!(parse(text), Err(refusal), "{text}");
    }
    let many = format!("SETMETADATA x ({})", ["/private/a NIL"; METADATA_ENTRIES_MAX + 1].join(" "));
    assert_eq!(parse(&many), Err(Refusal::TooMany("entries of metadata")));
}

#[test]
fn quota_commands() {
    let root = |text: &'static str| std::borrow::Cow::Borrowed(text.as_bytes());
    for (text, command) in [
        ("GETQUOTA \"!partition/sda4\"", Command::GetQuota(root("!partition/sda4"))),
        ("getquota \"\"", Command::GetQuota(root(""))),
        ("GETQUOTA {10+}\r\nUser quota", Command::GetQuota(root("User quota"))),
        ("GETQUOTAROOT INBOX", Command::GetQuotaRoot(name("INBOX"))),
        (
            "SETQUOTA \"#user/alice\" (STORAGE 510)",
            Command::SetQuota { root: root("#user/alice"), limits: vec![("STORAGE", 510)] },
        ),
        (
            "SETQUOTA #user/alice (storage 0 MESSAGE 9223372036854775807)",
            Command::SetQuota {
                root: root("#user/alice"),
                limits: vec![("storage", 0), ("MESSAGE", 9223372036854775807)],
            },
        ),
        ("SETQUOTA x ()", Command::SetQuota { root: root("x"), limits: vec![] }),
    ] {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
    for (text, refusal) in [
        ("GETQUOTA", Refusal::Expected("a space")),
        ("GETQUOTAROOT", Refusal::Expected("a space")),
        ("SETQUOTA x STORAGE 5", Refusal::Expected("an opening parenthesis")),
        ("SETQUOTA x (STORAGE)", Refusal::Expected("a space")),
        ("SETQUOTA x (STORAGE 9223372036854775808)", Refusal::Expected("a limit of 63 bits")),
        ("SETQUOTA x (STORAGE 1 storage 2)", Refusal::Expected("each resource once")),
    ] {
        assert_eq!(parse(text), Err(refusal), "{text}");
    }
    let Ok(Command::Status { items, .. }) = parse("STATUS INBOX (MESSAGES DELETED DELETED-STORAGE)") else {
        panic!()
    };
    assert!(items.messages && items.deleted && items.deleted_storage && !items.size);
}

#[test]
fn list_returns_metadata() {
    for (text, entries) in [
        ("LIST \"\" % RETURN (METADATA (\"/shared/vendor/cmu/cyrus-imapd/color\"))", 1),
        ("LIST \"\" % RETURN (METADATA /private/comment SUBSCRIBED)", 1),
        ("LIST \"\" % RETURN (CHILDREN METADATA (/private/a /shared/b))", 2),
    ] {
        let Ok(Command::List(list)) = parse(text) else { panic!("{text}") };
        assert_eq!((list.metadata.len(), list.extended), (entries, true), "{text}");
    }
    assert_eq!(parse("LIST \"\" % RETURN (METADATA ())"), Err(Refusal::Expected("an entry")));
}

#[test]
fn refusals_say_what_was_expected() {
    for (text, refusal) in [
        ("XYZZY", Refusal::UnknownCommand),
        ("UID NOOP", Refusal::UnknownCommand),
        ("UID", Refusal::Expected("a space")),
        ("", Refusal::Expected("a command")),
        ("NOOP ", Refusal::Expected("the end of the command")),
        ("LOGIN", Refusal::Expected("a space")),
        ("LOGIN fred", Refusal::Expected("a space")),
        ("LOGIN fred \"fat", Refusal::Expected("the closing quote of a string")),
        ("LOGIN fred \"f\\at\"", Refusal::Expected("a quote or a backslash after a backslash")),
        ("STATUS x ()", Refusal::Expected("a STATUS item")),
        ("STATUS x (FOO)", Refusal::Expected("a STATUS item that exists")),
        ("CREATE a//b", Refusal::Name(culver_model::name::NameError::Empty)),
        ("CREATE \"&Jjo!\"", Refusal::Name(culver_model::name::NameError::Encoding)),
    ] {
        assert_eq!(parse(text), Err(refusal), "{text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    for text in ["LOGIN fred \"fat man\"", "AUTHENTICATE PLAIN AHRpbQBzZWNyZXQ="] {
        let shown = format!("{:?}", parse(text).unwrap());
        assert!(
            !shown.contains("AHRp") && !shown.contains("man") && !shown.contains("109, 97, 110"),
            "{shown}"
        );
    }
}

quickcheck! {
    fn what_the_client_writes_the_server_reads(any: AnyCommand, non_synchronising: bool) -> TestResult {
        let wire = client::write::command("tag", &any.0, non_synchronising);
        let mut server = Server::new(Limits::default());
        server.set_stage(Stage::Selected);
        let mut continues = 0;
        loop {
            match server.next(&wire.octets) {
                (0, Event::Continue) => continues += 1,
                (taken, Event::Command(Request { tag: "tag", command })) => {
                    assert_eq!(command, any.0, "{:?}", String::from_utf8_lossy(&wire.octets));
                    assert_eq!(continues, wire.waits.len());
                    return TestResult::from_bool(taken == wire.octets.len());
                }
                other => panic!("{other:?} for {:?}", String::from_utf8_lossy(&wire.octets)),
            }
        }
    }
}
