//! Micro-benchmarks of the protocols: IMAP commands in, FETCH answers out, a message by LMTP.

use std::process::ExitCode;
use std::sync::Arc;

use cases::{Case, mail};
use culver_model::{InternalDate, SystemFlag, Uid};
use culver_proto::imap::encode::FetchWriter;
use culver_proto::{imap, lmtp};

/// What a read from a socket gives at most.
const READ_OCTETS: usize = 16 * 1024;
const ROWS: u32 = 1_000;

/// An hour of a few clients, as their commands come: how many, and their octets.
fn commands() -> (usize, Vec<u8>) {
    let message = mail::plain(3);
    let mut input = Vec::new();
    let mut count = 0;
    for round in 0..20 {
        let uid = 1000 + round;
        let set: Vec<String> = (0..200).map(|n| (uid + n * 3).to_string()).collect();
        let lines = [
            "CAPABILITY".to_owned(),
            "NOOP".to_owned(),
            "NAMESPACE".to_owned(),
            "ENABLE CONDSTORE QRESYNC".to_owned(),
            "LIST \"\" \"*\" RETURN (SPECIAL-USE SUBSCRIBED CHILDREN)".to_owned(),
            "STATUS \"Archive/2026\" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)".to_owned(),
            "SELECT INBOX (QRESYNC (67890007 20050715194045000 41,43:211,214:541))".to_owned(),
            format!("UID FETCH {uid}:* (FLAGS)"),
            format!("UID FETCH 1:{uid} (UID FLAGS) (CHANGEDSINCE 123456789)"),
            format!(
                "UID FETCH {} (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date \
                     Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To)])",
                set.join(",")
            ),
            "FETCH 1:100 (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)".to_owned(),
            format!("UID FETCH {uid} (BODY.PEEK[1.2]<0.65536> BODY.PEEK[2.MIME])"),
            format!("UID FETCH {uid} BODY[]"),
            "UID SEARCH RETURN (ALL) UNSEEN UNDELETED SINCE 1-Nov-2026".to_owned(),
            "UID SEARCH CHARSET UTF-8 OR FROM \"office\" SUBJECT \"report\" NOT KEYWORD $Junk".to_owned(),
            format!("UID STORE {} +FLAGS.SILENT (\\Seen $Forwarded)", set.join(",")),
            format!("UID STORE {uid} FLAGS (\\Deleted)"),
            format!("UID COPY {uid}:{} \"Archive/2026\"", uid + 20),
            format!("UID MOVE {uid} Trash"),
            format!("UID EXPUNGE {uid}"),
            "CREATE {12+}\r\nArchive/2027".to_owned(),
            "CHECK".to_owned(),
        ];
        count += lines.len() + 1;
        for (n, line) in lines.iter().enumerate() {
            input.extend_from_slice(format!("A{round:03}{n:02} {line}\r\n").as_bytes());
        }
        let append = format!(
            "A{round:03}ap APPEND Sent (\\Seen) \"24-Nov-2026 09:58:41 +0100\" {{{}+}}\r\n",
            message.len()
        );
        input.extend_from_slice(append.as_bytes());
        input.extend_from_slice(&message);
        input.extend_from_slice(b"\r\n");
    }
    (count, input)
}

/// As a session's driver reads: the framer sees what has come, in reads that end anywhere.
fn read_commands((count, input): &(usize, Vec<u8>)) {
    let mut server = imap::Server::new(imap::Limits::default());
    server.set_stage(imap::Stage::Selected);
    let (mut at, mut come, mut seen) = (0, 0, 0);
    loop {
        let (taken, event) = server.next(&input[at..come]);
        at += taken;
        match event {
            imap::Event::NeedMore if come == input.len() => break,
            imap::Event::NeedMore => come = (come + READ_OCTETS).min(input.len()),
            imap::Event::Append(_) => assert!(!server.accept_append(), "it does not wait"),
            imap::Event::AppendData(octets) => drop(std::hint::black_box(octets)),
            imap::Event::Command(request) => {
                std::hint::black_box(&request);
                seen += 1;
            }
            imap::Event::AppendPiece(_) => seen += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, *count);
}

/// What the rows of a mailbox hold.
struct Rows {
    dates: Vec<InternalDate>,
    envelopes: Vec<Vec<u8>>,
}

fn rows() -> Rows {
    let scan = |n| culver_model::mime::Message::scan(&mail::plain(n));
    Rows {
        dates: (0..i64::from(ROWS))
            .map(|n| InternalDate { seconds: 1_700_000_000 + n * 777, zone_minutes: 60 })
            .collect(),
        envelopes: (0..u64::from(ROWS)).map(|n| culver_model::mime::envelope(&scan(n))).collect(),
    }
}

/// The send buffer is used again and again, as a session does.
fn buffer(_: &Rows) -> Vec<u8> {
    Vec::with_capacity(1 << 20)
}

fn system(row: u32) -> u8 {
    if row.is_multiple_of(8) { 0 } else { SystemFlag::Seen.bit() | SystemFlag::Answered.bit() }
}

fn fetch_flags(_: &Rows, out: &mut Vec<u8>) {
    for row in 0..ROWS {
        let mut writer = FetchWriter::new(out, row + 1);
        writer.flags(system(row), false, ["$Forwarded"].into_iter().filter(|_| row.is_multiple_of(16)));
        writer.finish();
    }
    assert!(out.len() > 20 * ROWS as usize);
}

fn fetch_overview(rows: &Rows, out: &mut Vec<u8>) {
    for row in 0..ROWS {
        let mut writer = FetchWriter::new(out, row + 1);
        writer.uid(Uid::new(row * 3 + 1).unwrap_or(Uid::MIN));
        writer.flags(system(row), false, ["$Forwarded"].into_iter().filter(|_| row.is_multiple_of(16)));
        writer.internal_date(rows.dates[row as usize]);
        writer.size(2_000 + u64::from(row) * 7);
        writer.envelope(&rows.envelopes[row as usize]);
        writer.finish();
    }
    assert!(out.len() > 300 * ROWS as usize && out.len() < 1 << 20);
}

/// A session that waits for the message, and the message as it stands on the wire.
struct Lmtp {
    octets: u64,
    wire: Vec<u8>,
}

fn lmtp_message() -> Lmtp {
    let mut message = mail::attachment(5);
    // Lines that must be stuffed, as signatures and lists have them.
    (0..200).for_each(|_| message.extend_from_slice(b"...and so on\r\n"));
    let mut wire = Vec::new();
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    Lmtp { octets: message.len() as u64, wire }
}

fn lmtp_session(_: &Lmtp) -> lmtp::Server {
    let mut out = Vec::new();
    let mut server = lmtp::Server::new(Arc::new(lmtp::Config::default()), false, &mut out);
    let input = b"LHLO mx.example.net\r\nMAIL FROM:<office@example.net> SIZE=300000\r\nRCPT TO:<joe@example.org>\r\nDATA\r\n";
    let mut at = 0;
    loop {
        let (taken, event) = server.next(&input[at..], &mut out);
        at += taken;
        match event {
            lmtp::Event::Recipient(_) => server.accept_recipient(&mut out),
            lmtp::Event::Begin => return server,
            other => panic!("{other:?}"),
        }
    }
}

/// As a session's driver reads, up to what would be spooled.
fn lmtp_data(message: &Lmtp, server: &mut lmtp::Server) {
    let (mut watch, mut scratch, mut out) = (lmtp::HeaderWatch::new(), Vec::new(), Vec::new());
    let (mut at, mut come, mut octets) = (0, 0, 0);
    loop {
        let (taken, event) = server.next(&message.wire[at..come], &mut out);
        at += taken;
        match event {
            lmtp::Event::NeedMore => come = (come + READ_OCTETS).min(message.wire.len()),
            lmtp::Event::Data(data) => octets += watch.push(data, &mut scratch).len() as u64,
            lmtp::Event::EndOfData => break,
            other => panic!("{other:?}"),
        }
    }
    scratch.clear();
    watch.finish(&mut scratch);
    assert_eq!(octets + scratch.len() as u64, message.octets);
}

fn main() -> ExitCode {
    cases::main(&[
        Case::reading("proto/imap_460_commands", commands, read_commands),
        Case::new("proto/fetch_1000_flags", rows, buffer, fetch_flags),
        Case::new("proto/fetch_1000_overview", rows, buffer, fetch_overview),
        Case::new("proto/lmtp_data", lmtp_message, lmtp_session, lmtp_data),
    ])
}
