//! The framer: literals, limits, refusals, streams, and that no split matters.

use quickcheck::{TestResult, quickcheck};

use super::*;

fn limits() -> Limits {
    Limits {
        line_octets_login_max: 400,
        line_octets_max: 600,
        literal_octets_login_max: 20,
        literal_octets_max: 100,
        append_octets_max: 50,
        swallow_octets_max: 2000,
        literal_minus: false,
        refusals_max: 5,
    }
}

fn run(input: &str) -> Log {
    let whole = drive(limits(), Stage::Selected, input.as_bytes(), &[]);
    let ones = vec![1; input.len()];
    assert_eq!(drive(limits(), Stage::Selected, input.as_bytes(), &ones), whole, "{input:?}");
    whole
}

fn expect(input: &str, log: &[&str]) {
    assert_eq!(run(input), log, "{input:?}");
}

const NOOP: &str = "Request { tag: \"z\", command: Noop }";

#[test]
fn literals_stand_for_strings() {
    let login = "Request { tag: \"a\", command: Login { user: [102, 114, 101, 100], password: Secret(..) } }";
    expect("a LOGIN {4}\r\nfred {7+}\r\nfat man\r\nz NOOP\r\n", &["Continue", login, NOOP]);
    expect("a LOGIN {4+}\r\nfred \"fat man\"\r\nz NOOP\r\n", &[login, NOOP]);
    expect("a LOGIN {4+}\r\nfred\r\nz NOOP\r\n", &["a Expected a space", NOOP]);
    expect("a DELETE {3+}\r\n\0ab\r\nz NOOP\r\n", &["a Expected a literal without NUL", NOOP]);
    // Line ends within a literal end no command.
    let id = run("a ID (\"name\" {11+}\r\na\r\nb NOOP\r\n)\r\nz NOOP\r\n");
    assert_eq!(id.len(), 2, "{id:?}");
}

#[test]
fn refused_literals_keep_the_boundary() {
    // RFC 3501 §7.5: no `+`, and the client goes on with its next command.
    expect("a LOGIN {101}\r\nz NOOP\r\n", &["a Literal too large", NOOP]);
    expect("a XYZZY {3}\r\nz NOOP\r\n", &["a Unknown command", NOOP]);
    expect("a XYZZY {3+}\r\nabc {2+}\r\n\r\n)\r\nz NOOP\r\n", &["a Unknown command", NOOP]);
    let big = format!("a LOGIN {{200+}}\r\n{} {{3}}\r\nz NOOP\r\n", "y".repeat(200));
    expect(&big, &["a Literal too large", NOOP]);
    expect("a LOGIN ~{3+}\r\nabc x\r\nz NOOP\r\n", &["a Literal8 is not supported here", NOOP]);
    expect("a LOGIN {2001+}\r\nz NOOP\r\n", &["a Literal too large", "bye InputTooLong"]);
    expect("a LOGIN {99999999999999999999+}\r\nz NOOP\r\n", &["a Literal too large", "bye InputTooLong"]);
    expect("+ LOGIN {3+}\r\nabc\r\nz NOOP\r\n", &["* Expected a tag", NOOP]);
    // The sum counts, not each alone.
    let many = format!("a ID (\"a\" {{60+}}\r\n{0} \"b\" {{60+}}\r\n{0})\r\nz NOOP\r\n", "y".repeat(60));
    expect(&many, &["a Literal too large", NOOP]);
}

#[test]
fn literal_minus_bounds_what_nobody_waits_for() {
    let limits =
        Limits { literal_minus: true, literal_octets_max: 10_000, swallow_octets_max: 10_000, ..limits() };
    let input = format!("a DELETE {{4097+}}\r\n{}\r\nz NOOP\r\n", "y".repeat(4097));
    let log = drive(limits, Stage::Selected, input.as_bytes(), &[]);
    assert_eq!(log, ["a Non-synchronising literal of more than 4096 octets", NOOP]);
    let input = format!("a LSUB \"\" {{4096+}}\r\n{}\r\nz NOOP\r\n", "y".repeat(4096));
    assert_eq!(drive(limits, Stage::Selected, input.as_bytes(), &[]).len(), 2);
}

#[test]
fn long_lines_are_refused_by_their_tag() {
    let long = format!("a SEARCH {}\r\nz NOOP\r\n", "SEEN ".repeat(200));
    expect(&long, &["a Command line too long", NOOP]);
    let endless = format!("a SEARCH {}", "SEEN ".repeat(600));
    expect(&endless, &["a Command line too long", "bye InputTooLong"]);
    let no_tag = format!("{}\r\nz NOOP\r\n", "a".repeat(700));
    expect(&no_tag, &["* Command line too long", NOOP]);
    // Exactly the limit, line end included.
    let fits = format!("a X{}\r\nz NOOP\r\n", "y".repeat(595));
    expect(&fits, &["a Unknown command", NOOP]);
    let log = drive(limits(), Stage::NotAuthenticated, fits.as_bytes(), &[]);
    assert_eq!(log, ["a Command line too long", NOOP]);
}

const END: &str = "AppendPiece(AppendPiece { steps: [End], literal: None })";

#[test]
fn several_messages_and_parts_are_told_apart() {
    let message = "Message { flags: FlagSet { system: 0, keywords: [] }, internal_date: None }";
    let literal = |octets: u64, part: bool| {
        format!(
            "Some(AppendLiteral {{ octets: {octets}, literal8: false, synchronising: false, part: {part} }})"
        )
    };
    let piece = |steps: &str, literal: &str| {
        format!("AppendPiece(AppendPiece {{ steps: [{steps}], literal: {literal} }})")
    };
    let log = run("a APPEND INBOX {2+}\r\nhi {3+}\r\nabc\r\nz NOOP\r\n");
    let next = piece(&format!("End, {message}"), &literal(3, false));
    assert_eq!(log[1..], ["data hi", next.as_str(), "data abc", END, NOOP], "{log:?}");
    let log =
        run("a APPEND INBOX CATENATE (URL {4+}\r\n/a/b TEXT {2+}\r\nhi URL c) {3+}\r\nabc\r\nz NOOP\r\n");
    assert!(log[0].contains("Url(\"/a/b\")]") && log[0].contains(&literal(2, true)), "{log:?}");
    let next = piece(&format!("Url(\"c\"), End, {message}"), &literal(3, false));
    assert_eq!(log[1..], ["data hi", next.as_str(), "data abc", END, NOOP], "{log:?}");
    let log = run("a APPEND INBOX CATENATE (URL \"x\" URL y) (\\Seen) CATENATE (URL z)\r\nz NOOP\r\n");
    assert!(
        log[0].contains("Url(\"x\"), Url(\"y\"), End, Message") && log[0].ends_with("literal: None } }"),
        "{log:?}"
    );
    assert_eq!(log[1..], [NOOP], "{log:?}");
    let log = run("a APPEND INBOX CATENATE (TEXT {2+}\r\nhi URL {4+}\r\n/a/b TEXT {0+}\r\n)\r\nz NOOP\r\n");
    let next = piece("Url(\"/a/b\")", &literal(0, true));
    assert_eq!(log[1..], ["data hi", next.as_str(), END, NOOP], "{log:?}");
    let log = run("a UID REPLACE 7 Drafts UTF8 (~{2+}\r\nhi)\r\nz NOOP\r\n");
    assert!(log[0].contains("replaced: Some(Replaced { uid: true,"), "{log:?}");
    assert_eq!(log[1..], ["data hi", END, NOOP], "{log:?}");
    for (input, refusal) in [
        ("a REPLACE 7 Drafts {2+}\r\nhi {3+}\r\nabc\r\nz NOOP\r\n", "AppendFailed(AppendTail)"),
        ("a APPEND x {2+}\r\nhi {99+}\r\nz NOOP\r\n", "AppendFailed(MessageTooLarge { octets_max: 50 })"),
        ("a APPEND x CATENATE (TEXT {2+}\r\nhi URL {101+}\r\nz NOOP\r\n", "AppendFailed(LiteralTooLarge)"),
        (
            "a APPEND x CATENATE (TEXT {2+}\r\nhi TEXTS {1+}\r\na)\r\nz NOOP\r\n",
            "AppendFailed(Expected(\"TEXT or URL\"))",
        ),
        (
            "a APPEND x UTF8 (~{2+}\r\nhi\r\nz NOOP\r\n",
            "AppendFailed(Expected(\"a closing parenthesis after UTF8\"))",
        ),
    ] {
        let log = run(input);
        assert_eq!(log[1..3], ["data hi", refusal], "{input:?}");
    }
    expect("a REPLACE 1:2 x {2+}\r\nhi\r\nz NOOP\r\n", &["a Expected one message", NOOP]);
    // A synchronising literal that is refused is not sent, and the client begins anew.
    let log = run("a APPEND x {2+}\r\nhi {99}\r\nz NOOP\r\n");
    assert_eq!(log[3], NOOP, "{log:?}");
}

#[test]
fn the_message_of_an_append_is_streamed() {
    let head = "Append { tag: \"a\", mailbox: MailboxName(\"INBOX\"), replaced: None, piece: AppendPiece { steps: [Message { \
                flags: FlagSet { system: 0, keywords: [] }, internal_date: None }], literal: Some(AppendLiteral { octets: 5, \
                literal8: false, synchronising: true, part: false }) } }";
    expect("a APPEND inbox {5}\r\nhello\r\nz NOOP\r\n", &[head, "data hello", END, NOOP]);
    let head = head.replace("synchronising: true", "synchronising: false");
    expect("a APPEND {5+}\r\nINBOX {5+}\r\nhello\r\nz NOOP\r\n", &[&head, "data hello", END, NOOP]);
    expect("a APPEND INBOX {5+}\r\nhello\nz NOOP\r\n", &[&head, "data hello", END, NOOP]);
    expect("a APPEND INBOX () {0+}\r\n\r\nz NOOP\r\n", &[&head.replace("octets: 5", "octets: 0"), END, NOOP]);
    let head = head.replace("literal8: false", "literal8: true");
    expect("a APPEND INBOX ~{5+}\r\nhe\0lo\r\nz NOOP\r\n", &[&head, "data he\0lo", END, NOOP]);
    let log = run("a APPEND INBOX (\\Seen $MDNSent) \" 7-Feb-1994 21:52:25 -0800\" {2}\r\nhi\r\n");
    assert!(log[0].contains("system: 8, keywords: [Keyword(\"$MDNSent\")]"), "{log:?}");
    assert!(log[0].contains("zone_minutes: -480"), "{log:?}");
}

#[test]
fn what_is_no_append_costs_no_message_boundary() {
    let tail = "AppendFailed(AppendTail)";
    let log = run("a APPEND INBOX {2+}\r\nhi{3+}\r\nz N\r\nz NOOP\r\n");
    assert_eq!(log[1..], ["data hi", tail, NOOP], "{log:?}");
    expect("a APPEND INBOX {51+}\r\n", &["a Message of more than 50 octets"]);
    let over = format!("a APPEND INBOX {{51+}}\r\n{}\r\nz NOOP\r\n", "y".repeat(51));
    expect(&over, &["a Message of more than 50 octets", NOOP]);
    expect("a APPEND INBOX {51}\r\nz NOOP\r\n", &["a Message of more than 50 octets", NOOP]);
    expect(
        "a APPEND INBOX (\\Foo) {5+}\r\nhello\r\nz NOOP\r\n",
        &["a Expected a system flag that exists", NOOP],
    );
    expect("a APPEND INBOX \"now\" {5+}\r\nhello\r\nz NOOP\r\n", &["a Expected a date-time", NOOP]);
    expect("a APPEND INBOX\r\nz NOOP\r\n", &["a Expected a space", NOOP]);
    expect("a APPEND INBOX hello\r\nz NOOP\r\n", &["a Expected a literal with the message", NOOP]);
    let log = drive(limits(), Stage::NotAuthenticated, b"a APPEND INBOX {5+}\r\nhello\r\nz NOOP\r\n", &[]);
    assert_eq!(log, ["a Log in first", NOOP]);
}

#[test]
fn the_driver_may_refuse_a_message_before_or_in_it() {
    for (input, synchronising) in
        [("a APPEND INBOX {5}\r\n", true), ("a APPEND INBOX {5+}\r\nhello\r\n", false)]
    {
        let mut server = Server::new(limits());
        server.set_stage(Stage::Authenticated);
        let input = format!("{input}z NOOP\r\n");
        let (taken, event) = server.next(input.as_bytes());
        assert!(
            matches!(&event, Event::Append(append) if append.piece.literal.is_some_and(|l| l.synchronising == synchronising)),
            "{event:?}"
        );
        assert_eq!(server.next(&input.as_bytes()[taken..]), (0, Event::NeedMore));
        server.refuse_append();
        let (_, event) = server.next(&input.as_bytes()[taken..]);
        assert!(matches!(event, Event::Command(Request { tag: "z", .. })), "{event:?}");
    }
    let mut server = Server::new(limits());
    server.set_stage(Stage::Authenticated);
    let input = b"a APPEND INBOX {5+}\r\nhe";
    let (taken, _) = server.next(input);
    assert!(!server.accept_append());
    assert_eq!(server.next(&input[taken..]), (2, Event::AppendData(b"he")));
    server.abandon_append();
    let (taken, event) = server.next(b"llo\r\nz NOOP\r\n");
    assert!(matches!(event, Event::Command(Request { tag: "z", .. })), "{event:?}");
    assert_eq!(taken, 13);
}

#[test]
fn done_ends_idle_in_any_case_and_any_packet() {
    let idle = "Request { tag: \"a\", command: Idle }";
    for done in ["DONE\r\n", "done\r\n", "DoNe\n"] {
        expect(&format!("a IDLE\r\n{done}z NOOP\r\n"), &[idle, "Done { clean: true }", NOOP]);
    }
    expect("a IDLE\r\nb NOOP\r\nz NOOP\r\n", &[idle, "Done { clean: false }", NOOP]);
    let long = format!("a IDLE\r\n{}\r\nz NOOP\r\n", "DONE".repeat(50));
    expect(&long, &[idle, "Done { clean: false }", NOOP]);
}

#[test]
fn sasl_responses_are_lines() {
    let plain = "Request { tag: \"a\", command: Authenticate { mechanism: \"PLAIN\", initial: None } }";
    expect(
        "a AUTHENTICATE PLAIN\r\nAHRpbQBzZWNyZXQ=\r\nz NOOP\r\n",
        &[plain, "response AHRpbQBzZWNyZXQ=", NOOP],
    );
    expect("a AUTHENTICATE PLAIN\r\n*\r\nz NOOP\r\n", &[plain, "response *", NOOP]);
    expect("a AUTHENTICATE PLAIN\r\n\r\nz NOOP\r\n", &[plain, "response ", NOOP]);
    let long = format!("a AUTHENTICATE PLAIN\r\n{}\r\nz NOOP\r\n", "A".repeat(400));
    expect(&long, &[plain, "ResponseTooLong", NOOP]);
    let initial =
        "Request { tag: \"a\", command: Authenticate { mechanism: \"PLAIN\", initial: Some(Hidden(..)) } }";
    expect("a AUTHENTICATE PLAIN =\r\nz NOOP\r\n", &[initial, NOOP]);
    expect("a AUTHENTICATE PLAIN AHRpbQBzZWNyZXQ=\r\nz NOOP\r\n", &[initial, NOOP]);
}

#[test]
fn too_many_refusals_end_the_connection() {
    let log = run(&"a XYZZY\r\n".repeat(10));
    assert_eq!(log.len(), 7);
    assert_eq!(log[6], "bye TooManyErrors");
    let log = run(&"a XYZZY\r\na XYZZY\r\na NOOP\r\n".repeat(10));
    assert_eq!(log.len(), 30);
}

#[test]
fn starttls_forgets_all_but_itself() {
    let mut server = Server::new(limits());
    server.enabled_mut().qresync = true;
    server.next(b"a NOO");
    server.starttls_done();
    assert_eq!(server.state(), &State { tls: true, ..State::default() });
    let (taken, event) = server.next(b"b NOOP\r\n");
    assert!(matches!(event, Event::Command(Request { tag: "b", .. })) && taken == 8);
}

/// Pieces of which the property tests build their input.
const PIECES: [&str; 30] = [
    "a NOOP\r\n",
    "b LOGIN {4}\r\nfred {3+}\r\nabc\r\n",
    "c LOGIN {4+}\r\nfred {3000+}\r\n",
    "d APPEND INBOX (\\Seen) {10}\r\n0123456789\r\n",
    "e APPEND {5+}\r\nINBOX {3+}\r\nabc\r\n",
    "e APPEND {5+}\r\nINBOX {3+}\r\nabc {4+}\r\n",
    "f APPEND INBOX {99+}\r\n",
    "g IDLE\r\n",
    "DONE\r\n",
    "h AUTHENTICATE PLAIN\r\n",
    "AHRpbQBzZWNyZXQ=\r\n",
    "i UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (DATE FROM)]<0.100>)\r\n",
    "j SEARCH RETURN (MIN) CHARSET UTF-8 OR TEXT {5+}\r\nm\u{fc}ll NOT SEEN\r\n",
    "k XYZZY {3+}\r\n",
    "l XYZZY {3}\r\n",
    "{",
    "3",
    "+}",
    "}",
    "\r",
    "\n",
    "\r\n",
    " ",
    "\"",
    "\\",
    "(",
    ")",
    "~{3+}\r\n",
    "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    "\0",
];

quickcheck! {
    fn any_split_gives_the_same_events(pieces: Vec<u8>, sizes: Vec<u8>, login: bool) -> bool {
        let input: String = pieces.iter().map(|piece| PIECES[usize::from(*piece) % PIECES.len()]).collect();
        let stage = if login { Stage::NotAuthenticated } else { Stage::Selected };
        let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size) % 16).collect();
        let whole = drive(limits(), stage, input.as_bytes(), &[]);
        let ones = vec![1; input.len()];
        drive(limits(), stage, input.as_bytes(), &sizes) == whole && drive(limits(), stage, input.as_bytes(), &ones) == whole
    }

    fn garbage_never_panics(garbage: Vec<u8>, sizes: Vec<usize>) -> bool {
        drive(limits(), Stage::Selected, &garbage, &sizes);
        let line = [b"a FETCH ", &garbage[..], b"\r\n"].concat();
        drive(limits(), Stage::Selected, &line, &sizes);
        let mut reader = client::Reader::new(1000);
        let mut rest = &garbage[..];
        while let Ok((taken, Some(_))) = reader.next(rest) {
            rest = &rest[taken..];
        }
        true
    }

    fn damaged_commands_never_panic(piece: u8, at: usize, byte: u8) -> bool {
        let mut input = PIECES[usize::from(piece) % PIECES.len()].as_bytes().to_vec();
        let at = at % input.len();
        input[at] = byte;
        drive(limits(), Stage::Selected, &input, &[]);
        true
    }

    fn any_state_that_decodes_is_safe(bytes: Vec<u8>, input: Vec<u8>) -> TestResult {
        let mut bytes = bytes;
        bytes.resize(30, 0);
        bytes[0] = 1;
        bytes[1] %= 4;
        bytes[2] %= 8;
        bytes[4] %= 8;
        bytes[5] %= 2;
        let Ok(state) = State::decode(&bytes) else { return TestResult::discard() };
        let mut server = Server::resume(limits(), state.clone());
        server.next(&input);
        TestResult::from_bool(State::decode(&state.encode()) == Ok(state))
    }
}

#[test]
fn a_search_that_is_refused_with_no_empties_the_saved_result() {
    let deep = "NOT ".repeat(33);
    for (command, answer) in [
        ("SEARCH RETURN (SAVE) SUBJECT ~{3+}\r\nabc", "a Literal8 is not supported here, unsaved"),
        ("UID SEARCH RETURN (MIN SAVE) SUBJECT {101}", "a Literal too large, unsaved"),
        ("SORT RETURN (SAVE) (DATE) UTF-8 SUBJECT {101+}\r\n", "a Literal too large, unsaved"),
        ("uid sort return (save) (DATE) X-UNKNOWN ALL", "a Charset not supported, unsaved"),
        (&format!("SEARCH RETURN (SAVE) {deep}SEEN"), "a Too many nested search keys, unsaved"),
        (&format!("SEARCH {deep}SEEN"), "a Too many nested search keys"),
        ("SEARCH RETURN (MIN) SUBJECT {101}", "a Literal too large"),
        ("SEARCH RETURN (SAVE) NO-SUCH-KEY", "a Expected a search key that exists"),
    ] {
        let log = run(&format!("a {command}\r\nz NOOP\r\n"));
        assert_eq!(log[0], answer, "{command}");
    }
}
