//! Responses: the octets that are written, and that the client reads them back.

use quickcheck::quickcheck;

use super::super::client::{EsearchData, FetchValue, ListData, ReadError, Reader, Response};
use super::super::encode::{Attribute, BodyName, Esearch, FetchWriter, StatusValues};
use super::*;
use culver_model::mime::{Section, SectionText};
use culver_model::search::PartialRange;
use culver_model::{EntryName, InternalDate, MailboxName, ModSeq, SequenceSet, Uid, UidSet, UidValidity};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

fn uids(ranges: &[(u32, u32)]) -> UidSet {
    ranges.iter().map(|(first, last)| *first..=*last).collect()
}

fn read(octets: &[u8]) -> Response<'_> {
    match Reader::new(100_000).next(octets) {
        Ok((taken, Some(response))) if taken == octets.len() => response,
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(octets)),
    }
}

#[test]
fn status_responses_and_codes() {
    let validity = UidValidity::new(38505).unwrap();
    let (one, many) = (uids(&[(3955, 3955)]), uids(&[(304, 304), (319, 320)]));
    let to = uids(&[(3956, 3958)]);
    let pairs = [(5, 9), (6, 10), (3, 12), (4, 11)]
        .map(|(from, to)| (Uid::new(from).unwrap(), Uid::new(to).unwrap()));
    for (code, expect) in [
        (Code::Alert, "ALERT"),
        (Code::BadCharset(&["UTF-8", "US-ASCII"]), "BADCHARSET (UTF-8 US-ASCII)"),
        (Code::BadCharset(&[]), "BADCHARSET"),
        (Code::Capability("IMAP4rev1 IDLE"), "CAPABILITY IMAP4rev1 IDLE"),
        (Code::PermanentFlags("\\Deleted \\*"), "PERMANENTFLAGS (\\Deleted \\*)"),
        (Code::PermanentFlags(""), "PERMANENTFLAGS ()"),
        (Code::ReadOnly, "READ-ONLY"),
        (Code::TryCreate, "TRYCREATE"),
        (Code::UidNext(4392), "UIDNEXT 4392"),
        (Code::UidValidity(validity), "UIDVALIDITY 38505"),
        (Code::Unseen(12), "UNSEEN 12"),
        (Code::AppendUid(validity, &one), "APPENDUID 38505 3955"),
        (Code::CopyUid(validity, &many, &to), "COPYUID 38505 304,319:320 3956:3958"),
        (Code::CopyUidPairs(validity, &pairs), "COPYUID 38505 5:6,3:4 9:10,12,11"),
        (Code::HighestModSeq(ModSeq(715194045007)), "HIGHESTMODSEQ 715194045007"),
        (Code::Modified(&many), "MODIFIED 304,319:320"),
        (Code::UnknownCte, "UNKNOWN-CTE"),
        (Code::MetadataLongEntries(2199), "METADATA LONGENTRIES 2199"),
        (Code::MetadataMaxSize(1024), "METADATA MAXSIZE 1024"),
        (Code::MetadataTooMany, "METADATA TOOMANY"),
        (Code::MetadataNoPrivate, "METADATA NOPRIVATE"),
        (Code::UidNotSticky, "UIDNOTSTICKY"),
    ] {
        let line = written(|out| response::tagged(out, "A003", Status::Ok, Some(&code), "done"));
        assert_eq!(line, format!("A003 OK [{expect}] done\r\n"));
        let Response::Status { tag: Some("A003"), status: Status::Ok, code: Some(read), text } =
            read(line.as_bytes())
        else {
            panic!("{line}")
        };
        assert!(read.is(code.name()) && text == "done", "{line}");
    }
    let line = written(|out| response::untagged(out, Status::Bye, None, "caf\u{e9}\r\nx"));
    assert_eq!(line, "* BYE caf????x\r\n");
    assert_eq!(written(|out| response::untagged(out, Status::Ok, None, "")), "* OK -\r\n");
    assert_eq!(written(|out| response::challenge(out, "")), "+ \r\n");
    let text = "A OK [COPYUID 38505 304,319:320 3956:3958] Done {5}\r\n";
    let Response::Status { code: Some(code), .. } = read(text.as_bytes()) else { panic!() };
    let (read, sets) = code.uids().unwrap();
    assert_eq!(
        (read, sets[0].to_string(), sets[1].to_string()),
        (validity, "304,319:320".into(), "3956:3958".into())
    );
}

#[test]
fn every_reason_has_its_code() {
    for (reason, expect) in [
        (Reason::AuthenticationFailed, "a NO [AUTHENTICATIONFAILED] Authentication failed\r\n"),
        (Reason::TryCreate, "a NO [TRYCREATE] No such mailbox\r\n"),
        (Reason::OverQuota, "a NO [OVERQUOTA] Quota exceeded\r\n"),
        (Reason::TooManyAnnotations, "a NO [METADATA TOOMANY] Too many annotations\r\n"),
        (Reason::AnnotationTooBig(1024), "a NO [METADATA MAXSIZE 1024] Value too large\r\n"),
        (Reason::AnnotationReadOnly, "a NO [NOPERM] Entry cannot be changed\r\n"),
        (Reason::NoSpace, "a NO [UNAVAILABLE] No space left for mail, try again later\r\n"),
        (Reason::NotSelected, "a BAD [CLIENTBUG] No mailbox selected\r\n"),
        (Reason::ShuttingDown, "* BYE [UNAVAILABLE] Server is shutting down\r\n"),
    ] {
        assert_eq!(written(|out| reason.write("a", out)), expect);
    }
    for (refusal, expect) in [
        (Refusal::BadCharset, "a NO [BADCHARSET (US-ASCII UTF-8)] Charset not supported\r\n"),
        (Refusal::MessageTooLarge { octets_max: 5 }, "a NO [TOOBIG] Message of more than 5 octets\r\n"),
        (Refusal::Expected("a flag"), "a BAD Expected a flag\r\n"),
    ] {
        assert_eq!(written(|out| refusal.write(Some("a"), out)), expect);
    }
    assert_eq!(written(|out| Refusal::Expected("a tag").write(None, out)), "* BAD Expected a tag\r\n");
}

#[test]
fn strings_take_the_form_they_may() {
    for (octets, string, astring) in [
        (&b""[..], "\"\"", "\"\""),
        (b"abc", "\"abc\"", "abc"),
        (b"a]b", "\"a]b\"", "a]b"),
        (b"nil", "\"nil\"", "\"nil\""),
        (b"a \"b\\", "\"a \\\"b\\\\\"", "\"a \\\"b\\\\\""),
        (b"a\r\nb", "{4}\r\na\r\nb", "{4}\r\na\r\nb"),
        ("\u{fc}".as_bytes(), "{2}\r\n\u{fc}", "{2}\r\n\u{fc}"),
    ] {
        assert_eq!(written(|out| encode::string(out, octets)), string);
        assert_eq!(written(|out| encode::astring(out, octets)), astring);
    }
    assert_eq!(written(|out| encode::nstring(out, None)), "NIL");
    let number = |value| written(|out| encode::number(out, value));
    assert_eq!((number(0), number(10), number(u64::MAX)), ("0".into(), "10".into(), u64::MAX.to_string()));
}

#[test]
fn mailbox_data() {
    let name = |text: &str| MailboxName::parse(text).unwrap();
    let none = uids(&[]);
    let found = uids(&[(2, 2), (10, 11)]);
    let result = Esearch { tag: "A282", min: Some(2), count: Some(3), ..Esearch::default() };
    let status = StatusValues {
        messages: Some(231),
        uid_next: Some(44292),
        size: Some(1 << 40),
        ..StatusValues::default()
    };
    for (line, expect) in [
        (
            written(|out| {
                encode::list(
                    out,
                    &[Attribute::HasNoChildren, Attribute::Sent],
                    &name("Gesendet/\u{e4}"),
                    false,
                    false,
                )
            }),
            "* LIST (\\HasNoChildren \\Sent) \"/\" Gesendet/&AOQ-\r\n",
        ),
        (written(|out| encode::list(out, &[], &name("NIL"), false, false)), "* LIST () \"/\" \"NIL\"\r\n"),
        (
            written(|out| encode::list(out, &[Attribute::NonExistent], &name("Foo"), true, false)),
            "* LIST (\\NonExistent) \"/\" Foo (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n",
        ),
        (
            written(|out| encode::lsub(out, &[Attribute::NoSelect], &name("a b"), false)),
            "* LSUB (\\Noselect) \"/\" \"a b\"\r\n",
        ),
        (written(|out| encode::list_separator(out, "")), "* LIST (\\Noselect) \"/\" \"\"\r\n"),
        (
            written(|out| encode::status(out, &name("blurdybloop"), &status, false)),
            "* STATUS blurdybloop (MESSAGES 231 UIDNEXT 44292 SIZE 1099511627776)\r\n",
        ),
        (written(|out| encode::search(out, [2, 3, 6], None)), "* SEARCH 2 3 6\r\n"),
        (
            written(|out| encode::search(out, [2, 5], Some(ModSeq(917162500)))),
            "* SEARCH 2 5 (MODSEQ 917162500)\r\n",
        ),
        (written(|out| encode::search(out, [], Some(ModSeq(1)))), "* SEARCH\r\n"),
        (
            written(|out| {
                encode::esearch(
                    out,
                    &Esearch { all: Some(encode::Results::Set(&found)), uid: true, ..result },
                )
            }),
            "* ESEARCH (TAG \"A282\") UID MIN 2 COUNT 3 ALL 2,10:11\r\n",
        ),
        (
            written(|out| {
                encode::esearch(
                    out,
                    &Esearch {
                        tag: "A1",
                        all: Some(encode::Results::Set(&none)),
                        count: Some(0),
                        ..Esearch::default()
                    },
                )
            }),
            "* ESEARCH (TAG \"A1\") COUNT 0\r\n",
        ),
        (
            written(|out| encode::flags(out, 0x1f, ["$Junk"])),
            "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Junk)\r\n",
        ),
        (written(|out| encode::exists(out, 172)), "* 172 EXISTS\r\n"),
        (written(|out| encode::recent(out, 1)), "* 1 RECENT\r\n"),
        (written(|out| encode::expunge(out, 44)), "* 44 EXPUNGE\r\n"),
        (written(|out| encode::vanished(out, true, &found)), "* VANISHED (EARLIER) 2,10:11\r\n"),
        (written(|out| encode::vanished(out, false, &none)), ""),
        (written(|out| encode::enabled(out, &["CONDSTORE"])), "* ENABLED CONDSTORE\r\n"),
        (written(|out| encode::enabled(out, &[])), "* ENABLED\r\n"),
        (written(|out| encode::id(out, &[("name", "Culver")])), "* ID (\"name\" \"Culver\")\r\n"),
        (written(|out| encode::id(out, &[])), "* ID NIL\r\n"),
        (
            written(|out| encode::namespace(out, [&[""], &[], &["Shared/", "#x/"]])),
            "* NAMESPACE ((\"\" \"/\")) NIL ((\"Shared/\" \"/\")(\"#x/\" \"/\"))\r\n",
        ),
    ] {
        assert_eq!(line, expect);
    }
    assert_eq!(
        read(b"* ESEARCH (TAG \"A282\") UID MIN 2 COUNT 3 ALL 2,10:11 MODSEQ 7\r\n"),
        Response::Esearch(EsearchData {
            tag: Some(b"A282"[..].into()),
            uid: true,
            min: Some(2),
            max: None,
            count: Some(3),
            all: SequenceSet::parse(b"2,10:11"),
            partial: None,
            modseq: Some(ModSeq(7)),
        })
    );
    let sorted = [3, 4, 9, 8, 7, 8];
    let partial = |bounds, from_end| PartialRange { bounds, from_end };
    let results = encode::Results::Sorted(&sorted);
    let line = written(|out| {
        encode::esearch(
            out,
            &Esearch {
                tag: "E01",
                uid: true,
                partial: Some((partial((1, 100), true), results)),
                ..Esearch::default()
            },
        )
    });
    assert_eq!(line, "* ESEARCH (TAG \"E01\") UID PARTIAL (-1:-100 3:4,9,8,7:8)\r\n");
    let Response::Esearch(data) = read(line.as_bytes()) else { panic!() };
    assert_eq!(data.partial, Some((partial((1, 100), true), SequenceSet::parse(b"3:4,9,8,7:8"))));
    let nothing = Some((partial((5, 9), false), encode::Results::Sorted(&[])));
    assert_eq!(
        written(|out| encode::esearch(out, &Esearch { tag: "a", partial: nothing, ..Esearch::default() })),
        "* ESEARCH (TAG \"a\") PARTIAL (5:9 NIL)\r\n"
    );
    assert_eq!(
        read(b"* LIST (\\NonExistent) \"/\" {3}\r\nFoo (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n"),
        Response::List(ListData {
            lsub: false,
            attributes: vec!["\\NonExistent"],
            separator: Some(b'/'),
            name: b"Foo"[..].into(),
            extended: b"(\"CHILDINFO\" (\"SUBSCRIBED\"))",
        })
    );
    let line = "* STATUS blurdybloop (MESSAGES 231 UIDNEXT 44292 SIZE 1099511627776)\r\n";
    assert_eq!(
        read(line.as_bytes()),
        Response::MailboxStatus { mailbox: b"blurdybloop"[..].into(), values: status }
    );
    assert_eq!(read(b"* SEARCH\r\n"), Response::Search { numbers: vec![], modseq: None });
    assert_eq!(
        read(b"* SEARCH 2 5 (MODSEQ 9)\r\n"),
        Response::Search { numbers: vec![2, 5], modseq: Some(ModSeq(9)) }
    );
    assert_eq!(read(b"* VANISHED (EARLIER) 2,10:11\r\n"), Response::Vanished { earlier: true, uids: found });
    assert_eq!(read(b"+ idling\r\n"), Response::Continue(b"idling"));
    assert_eq!(
        read(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n"),
        Response::Capability(vec!["IMAP4rev1", "AUTH=PLAIN"])
    );
    assert_eq!(read(b"* XYZZY 1 {\r\n"), Response::Other(b"XYZZY 1 {"));
}

#[test]
fn quota_roots_and_what_they_hold() {
    let resources = [("STORAGE", 104, 10923847), ("MESSAGE", 42, 1000)];
    let line = written(|out| encode::quota(out, "#user/alice", &resources));
    assert_eq!(line, "* QUOTA \"#user/alice\" (STORAGE 104 10923847 MESSAGE 42 1000)\r\n");
    assert_eq!(
        read(line.as_bytes()),
        Response::Quota { root: b"#user/alice"[..].into(), resources: resources.to_vec() }
    );
    assert_eq!(written(|out| encode::quota(out, "", &[])), "* QUOTA \"\" ()\r\n");
    let inbox = MailboxName::inbox();
    let line = written(|out| encode::quota_root(out, &inbox, &["User quota", ""], false));
    assert_eq!(line, "* QUOTAROOT INBOX \"User quota\" \"\"\r\n");
    let Response::QuotaRoot { mailbox, roots } = read(line.as_bytes()) else { panic!() };
    assert_eq!((&*mailbox, roots.len()), (&b"INBOX"[..], 2));
    assert_eq!(written(|out| encode::quota_root(out, &inbox, &[], false)), "* QUOTAROOT INBOX\r\n");
    let values = StatusValues { deleted: Some(4), deleted_storage: Some(8), ..StatusValues::default() };
    let line = written(|out| encode::status(out, &inbox, &values, false));
    assert_eq!(line, "* STATUS INBOX (DELETED 4 DELETED-STORAGE 8)\r\n");
    assert_eq!(read(line.as_bytes()), Response::MailboxStatus { mailbox: b"INBOX"[..].into(), values });
}

#[test]
fn metadata_has_values_or_names() {
    let entry = |text: &str| EntryName::parse(text.as_bytes()).unwrap();
    let (shared, own, odd) = (entry("/shared/comment"), entry("/private/comment"), entry("/private/a b"));
    let inbox = MailboxName::inbox();
    let values: [(&EntryName, Option<&[u8]>); 3] =
        [(&shared, Some(b"Its sunny outside!")), (&own, None), (&odd, Some(b"\"\r\n\xff"))];
    let mut line = Vec::new();
    encode::metadata(&mut line, Some(&inbox), values, false);
    let expect = b"* METADATA INBOX (/shared/comment \"Its sunny outside!\" /private/comment NIL \"/private/a b\" {4}\r\n\"\r\n\xff)\r\n";
    assert_eq!(line, expect);
    let Response::Metadata { mailbox, values: read_values } = read(&line) else { panic!() };
    assert_eq!(&*mailbox, b"INBOX");
    for ((name, value), (read_name, read_value)) in values.iter().zip(&read_values) {
        assert_eq!((name.as_str().as_bytes(), *value), (&**read_name, read_value.as_deref()));
    }
    let line = written(|out| encode::metadata_changed(out, None, [&shared, &odd], false));
    assert_eq!(line, "* METADATA \"\" /shared/comment \"/private/a b\"\r\n");
    let Response::MetadataChanged { mailbox, names } = read(line.as_bytes()) else { panic!() };
    assert_eq!((mailbox.len(), names.len()), (0, 2));
    assert_eq!(written(|out| encode::metadata(out, None, [], false)), "");
    assert_eq!(written(|out| encode::metadata_changed(out, None, [], false)), "");
}

#[test]
fn fetch_responses_hold_streamed_octets() {
    let date = InternalDate::parse(b"17-Jul-1996 02:44:25 -0700").unwrap();
    let section = |part: &[u32], text| Section { part: part.to_vec(), text };
    let fields = section(&[1], Some(SectionText::HeaderFields(vec!["DATE".into(), "a b".into()])));
    let whole = Section::default();
    let mut out = Vec::new();
    let mut writer = FetchWriter::new(&mut out, 12);
    writer.uid(Uid::new(7).unwrap());
    writer.flags(8, true, ["$Junk"]);
    writer.modseq(ModSeq(65402));
    writer.internal_date(date);
    writer.save_date(None);
    writer.size(4286);
    writer.envelope(b"(NIL \"a)\" NIL)");
    writer.body(b"(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 3028 92)");
    writer.body_structure(b"((\"TEXT\" \"PLAIN\") {2}\r\n)) \"MIXED\")");
    writer.literal(BodyName::Section { section: &whole, origin: None }, 5);
    out.extend_from_slice(b"he\r\nl");
    let mut writer = FetchWriter::resume(&mut out);
    writer.octets(BodyName::Section { section: &fields, origin: Some(10) }, b"a\0b");
    writer.octets(BodyName::Rfc822Text, b"");
    writer.nil(BodyName::Rfc822Header);
    writer.octets(BodyName::Rfc822, b"x");
    writer.finish();
    let expect: &[u8] = b"* 12 FETCH (UID 7 FLAGS (\\Seen \\Recent $Junk) MODSEQ (65402) \
        INTERNALDATE \"17-Jul-1996 02:44:25 -0700\" SAVEDATE NIL RFC822.SIZE 4286 ENVELOPE (NIL \"a)\" NIL) \
        BODY (\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 3028 92) BODYSTRUCTURE ((\"TEXT\" \"PLAIN\") {2}\r\n)) \"MIXED\") \
        BODY[] {5}\r\nhe\r\nl BODY[1.HEADER.FIELDS (DATE \"a b\")]<10> {3}\r\na\x80b RFC822.TEXT \"\" RFC822.HEADER NIL RFC822 {1}\r\nx)\r\n";
    assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expect));
    // The client wants field names that could be some: those of the test above are not.
    let octets = String::from_utf8_lossy(expect).replace("\"a b\"", "FROM");
    let octets = octets.replace('\u{fffd}', "?");
    let Response::Fetch { sequence_number: 12, values } = read(octets.as_bytes()) else { panic!() };
    let fields = section(&[1], Some(SectionText::HeaderFields(vec!["DATE".into(), "FROM".into()])));
    let expect = [
        FetchValue::Uid(7),
        FetchValue::Flags(vec!["\\Seen", "\\Recent", "$Junk"]),
        FetchValue::ModSeq(ModSeq(65402)),
        FetchValue::InternalDate(date),
        FetchValue::SaveDate(None),
        FetchValue::Size(4286),
        FetchValue::Envelope(b"(NIL \"a)\" NIL)"),
        FetchValue::Body(b"(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 3028 92)"),
        FetchValue::BodyStructure(b"((\"TEXT\" \"PLAIN\") {2}\r\n)) \"MIXED\")"),
        FetchValue::Section { section: whole, origin: None, octets: Some(b"he\r\nl"[..].into()) },
        FetchValue::Section { section: fields, origin: Some(10), octets: Some(b"a?b"[..].into()) },
        FetchValue::Rfc822Text(Some(b""[..].into())),
        FetchValue::Rfc822Header(None),
        FetchValue::Rfc822(Some(b"x"[..].into())),
    ];
    assert_eq!(values, expect);
}

#[test]
fn the_reader_is_bounded() {
    let mut reader = Reader::new(50);
    assert_eq!(reader.next(b"* 1 FETCH (BODY[] {100}\r\n"), Err(ReadError::TooLong { octets_max: 50 }));
    assert_eq!(Reader::new(50).next(&[b'x'; 50]), Err(ReadError::TooLong { octets_max: 50 }));
    assert!(matches!(Reader::new(50).next(b"* FLAGS (\r\n"), Err(ReadError::Malformed(_))));
    // Other servers send NUL.
    let Response::Fetch { values, .. } = read(b"* 1 FETCH (BODY[] {3}\r\na\0b)\r\n") else { panic!() };
    assert!(
        matches!(&values[0], FetchValue::Section { octets: Some(octets), .. } if octets.as_ref() == b"a\0b")
    );
}

quickcheck! {
    fn any_string_reads_back(octets: Vec<u8>, more: Vec<u8>) -> bool {
        let name = [&octets[..], b"x"].concat();
        let octets: Vec<u8> = octets.into_iter().filter(|byte| *byte != 0).collect();
        let name: Vec<u8> = name.into_iter().filter(|byte| *byte != 0).collect();
        let mut out = b"* STATUS ".to_vec();
        encode::astring(&mut out, &name);
        out.extend_from_slice(b" (MESSAGES 1)\r\n");
        let end = out.len();
        out.extend_from_slice(&more);
        let mut reader = Reader::new(10_000);
        for cut in 0..end {
            assert_eq!(reader.next(&out[..cut]), Ok((0, None)));
        }
        let (taken, response) = reader.next(&out).unwrap();
        let Some(Response::MailboxStatus { mailbox, values }) = response else { panic!("{response:?}") };
        let mut again = Vec::new();
        encode::string(&mut again, &octets);
        taken == end && mailbox == name && values.messages == Some(1) && again.len() >= octets.len()
    }
}

#[test]
fn threads_are_written_and_read() {
    // RFC 5256 §4: both examples.
    for text in ["(2)(3 6 (4 23)(44 7 96))", "((3)(5))", ""] {
        let line = format!("* THREAD{}{text}\r\n", if text.is_empty() { "" } else { " " });
        let Response::Thread(steps) = read(line.as_bytes()) else { panic!("{text}") };
        let rewritten = written(|out| {
            let mut writer = encode::ThreadWriter::default();
            steps.iter().for_each(|step| writer.push(out, *step));
            writer.end(out);
        });
        assert_eq!(rewritten, line);
    }
    for text in ["* THREAD (1\r\n", "* THREAD 1\r\n", "* THREAD (1))\r\n", "* THREAD (0)\r\n"] {
        assert!(Reader::new(100).next(text.as_bytes()).is_err(), "{text}");
    }
    let sorted = written(|out| {
        encode::sort_begin(out);
        encode::sort_numbers(out, [5, 3]);
        encode::sort_numbers(out, [4]);
        encode::search_end(out, Some(ModSeq(9)));
    });
    assert_eq!(sorted, "* SORT 5 3 4 (MODSEQ 9)\r\n");
    assert_eq!(read(sorted.as_bytes()), Response::Sort { numbers: vec![5, 3, 4], modseq: Some(ModSeq(9)) });
}
