//! One function for each place where foreign octets come in. A target panics where a promise is broken.
//!
//! They are plain functions so that the same code runs under libFuzzer (`cargo xtask fuzz`) and, over the seeds, as an
//! ordinary test.

use std::path::Path;
use std::sync::Arc;

use culver_model::mime::{self, Message, PartTable};
use culver_model::{Guid, ListPattern, MailboxName, Section, SectionText, Uid};
use culver_proto::{imap, lmtp, pop3, sasl};
use culver_shard::disk;
use culver_shard::sim::{Sim, SimConfig};

/// Takes any octets; panics where a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const ALL: &[(&str, Target)] = &[
    ("imap_client", imap_client),
    ("imap_server", imap_server),
    ("index_block", index_block),
    ("journal_record", journal_record),
    ("journal_segment", journal_segment),
    ("lmtp", lmtp),
    ("mailbox_name", mailbox_name),
    ("manifest", manifest),
    ("mime", mime),
    ("pack", pack),
    ("passwd_file", passwd_file),
    ("pop3", pop3),
    ("table", table),
];

/// Steps of a protocol over one input; each one takes octets or ends, so an honest protocol stays far below.
const STEPS_MAX: usize = 200_000;

/// The first octet says in what pieces the rest arrives: the answers must not depend on it.
fn pieces(data: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = data.split_first()?;
    Some((usize::from(*first % 32) + 1, rest))
}

/// The server's end of IMAP: any octets, in any pieces, in any state.
pub fn imap_server(data: &[u8]) {
    let Some((piece, input)) = pieces(data) else { return };
    let limits =
        imap::Limits { append_octets_max: 1000, swallow_octets_max: 5000, ..imap::Limits::default() };
    for stage in [imap::Stage::NotAuthenticated, imap::Stage::Selected] {
        let small = imap_events(limits, stage, input, piece);
        let whole = imap_events(limits, stage, input, input.len().max(1));
        assert_eq!(small, whole, "the events depend on how the octets arrive");
    }
}

fn imap_events(limits: imap::Limits, stage: imap::Stage, input: &[u8], piece: usize) -> Vec<String> {
    let mut server = imap::Server::new(limits);
    server.set_stage(stage);
    let (mut buffer, mut events, mut append) = (Vec::new(), Vec::new(), 0);
    for chunk in input.chunks(piece) {
        buffer.extend_from_slice(chunk);
        for step in 0.. {
            assert!(step < STEPS_MAX, "the server goes round and round");
            let state = imap::State::decode(&server.state().encode()).expect("what it encodes, it decodes");
            assert_eq!(&state, server.state());
            let (taken, event) = server.next(&buffer);
            assert!(taken <= buffer.len());
            let mut after: Option<fn(&mut imap::Server)> = None;
            let mut more = false;
            match &event {
                imap::Event::NeedMore => more = true,
                imap::Event::Bye(_) => {
                    events.push(format!("{event:?}"));
                    return events;
                }
                imap::Event::AppendData(octets) => append += octets.len(),
                imap::Event::Append(_) | imap::Event::AppendPiece(_) => {
                    after = Some(|server| {
                        let _ = server.accept_append();
                    });
                }
                imap::Event::Command(request) => match request.command {
                    imap::Command::Idle => after = Some(imap::Server::begin_idle),
                    imap::Command::Authenticate { .. } => after = Some(imap::Server::begin_response),
                    _ => {}
                },
                imap::Event::Refused { refusal, tag, .. } => {
                    let mut out = Vec::new();
                    refusal.write(*tag, &mut out);
                    assert!(out.ends_with(b"\r\n"));
                }
                _ => {}
            }
            if !more && !matches!(event, imap::Event::AppendData(_)) {
                events.push(format!("{event:?} after {append}"));
            }
            drop(event);
            if let Some(after) = after {
                after(&mut server);
            }
            buffer.drain(..taken);
            if more {
                break;
            }
        }
        assert!(buffer.len() <= server.buffer_octets_max() + piece, "{} octets are held", buffer.len());
    }
    events
}

/// The client's end of IMAP: what a server may say.
pub fn imap_client(data: &[u8]) {
    let Some((piece, input)) = pieces(data) else { return };
    let mut reader = imap::client::Reader::new(10_000);
    let mut buffer = Vec::new();
    for chunk in input.chunks(piece) {
        buffer.extend_from_slice(chunk);
        loop {
            match reader.next(&buffer) {
                Err(_) => return,
                Ok((taken, response)) => {
                    let said = response.map(|response| format!("{response:?}"));
                    assert!(taken <= buffer.len());
                    assert!(said.is_none() || taken > 0, "a response of no octets");
                    buffer.drain(..taken);
                    if said.is_none() {
                        break;
                    }
                }
            }
        }
    }
}

/// The server's end of POP3.
pub fn pop3(data: &[u8]) {
    let Some((piece, input)) = pieces(data) else { return };
    let channel = sasl::Channel {
        offered: sasl::MECHANISMS.into_iter().collect(),
        bindings: sasl::Bindings { exporter: Some(vec![7; 32]), end_point: Some(vec![9; 32]) },
        certified: Some("u".to_owned()),
        ..sasl::Channel::default()
    };
    let config =
        pop3::Config { plaintext_allowed: true, channel: channel.clone(), ..pop3::Config::default() };
    let mut out = Vec::new();
    let mut server = pop3::Server::new(Arc::new(config), false, &mut out);
    let mut buffer = Vec::new();
    for chunk in input.chunks(piece) {
        buffer.extend_from_slice(chunk);
        for step in 0.. {
            assert!(step < STEPS_MAX, "the server goes round and round");
            let (taken, event) = server.next(&buffer, &mut out);
            assert!(taken <= buffer.len());
            buffer.drain(..taken);
            out.clear();
            match event {
                pop3::Event::NeedMore => break,
                pop3::Event::Write => {}
                pop3::Event::Close => return,
                pop3::Event::StartTls => {
                    buffer.clear();
                    server.tls_started(channel.clone());
                }
                pop3::Event::Keys { .. } => {
                    let key = || sasl::Secret::new(vec![1; 32]);
                    let (nonce, salt) = ("nonce".to_owned(), b"salt".to_vec());
                    let keys =
                        sasl::Keys { nonce, salt, iterations: 4096, stored_key: key(), server_key: key() };
                    server.keys(keys, &mut out);
                }
                pop3::Event::Login(login) if matches!(login.proof, sasl::Proof::Token(_)) => {
                    server.refuse(pop3::Refusal::AuthenticationFailed, &mut out);
                }
                pop3::Event::Login(login) => {
                    assert!(login.proof != sasl::Proof::Scram(true), "nobody knows that password");
                    let mut maildrop = pop3::Maildrop::new();
                    for n in 1..4 {
                        let uid = Uid::new(n).expect("not 0");
                        maildrop.push(uid, 10 * u64::from(n), &format!("u{n}")).expect("a good UIDL");
                    }
                    server.login_ok(maildrop, &mut out);
                }
                pop3::Event::Message { .. } => {
                    server.begin_message(&mut out);
                    let wants_more = server.message_chunk(b"Subject: x\r\n\r\n.dot\r\n..\r\nend", &mut out);
                    if wants_more {
                        server.message_chunk(b"\r\n.\r\n", &mut out);
                    }
                    server.end_message(&mut out);
                    let text = out.clone();
                    assert!(text.ends_with(b"\r\n.\r\n"), "a message without its end");
                }
                pop3::Event::Quit => server.quit_ok(&mut out),
            }
        }
    }
}

/// The server's end of LMTP; a message must come out the same in whatever pieces it arrived.
pub fn lmtp(data: &[u8]) {
    let Some((piece, input)) = pieces(data) else { return };
    assert_eq!(lmtp_messages(input, piece), lmtp_messages(input, input.len().max(1)));
}

fn lmtp_messages(input: &[u8], piece: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut all_out = Vec::new();
    let mut out = Vec::new();
    let mut server = lmtp::Server::new(Arc::new(lmtp::Config::default()), false, &mut out);
    let (mut buffer, mut messages, mut message) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in input.chunks(piece) {
        buffer.extend_from_slice(chunk);
        for step in 0.. {
            assert!(step < STEPS_MAX, "the server goes round and round");
            let (taken, event) = server.next(&buffer, &mut out);
            assert!(taken <= buffer.len());
            let mut more = false;
            match event {
                lmtp::Event::NeedMore => more = true,
                lmtp::Event::Write => {}
                // What else a handshake would throw away depends on the pieces, so the input ends there too.
                lmtp::Event::Close | lmtp::Event::StartTls => {
                    all_out.append(&mut out);
                    return (messages, all_out);
                }
                lmtp::Event::Recipient(address) => match address.to_string().contains('x') {
                    true => server.refuse_recipient(lmtp::Refusal::UnknownUser, &mut out),
                    false => server.accept_recipient(&mut out),
                },
                lmtp::Event::Begin => message.clear(),
                lmtp::Event::Data(octets) => message.extend_from_slice(octets),
                lmtp::Event::Discard => message.clear(),
                lmtp::Event::EndOfData => {
                    let recipients = server.transaction().map_or(0, |t| t.recipients().len());
                    for n in 0..recipients {
                        server.delivered(&format!("id{n}"), &mut out);
                    }
                    messages.push(std::mem::take(&mut message));
                }
            }
            buffer.drain(..taken);
            all_out.append(&mut out);
            if more {
                break;
            }
        }
    }
    (messages, all_out)
}

/// The MIME scanner and all that is made of what it finds.
pub fn mime(data: &[u8]) {
    let Some((piece, input)) = pieces(data) else { return };
    let whole = Message::scan(input);
    let mut scanner = mime::Scanner::new(mime::Limits::default());
    for chunk in input.chunks(piece) {
        scanner.feed(chunk);
    }
    let pieced = scanner.finish();
    let table = whole.table();
    assert_eq!(table.encode(), pieced.table().encode(), "the parts depend on how the octets arrive");
    assert_eq!(mime::envelope(&whole), mime::envelope(&pieced));
    assert_eq!(mime::bodystructure(&whole), mime::bodystructure(&pieced));
    assert_eq!(table.size(), input.len() as u64);
    let decoded = PartTable::decode(&table.encode()).expect("what it encodes, it decodes");
    assert_eq!(decoded.encode(), table.encode());
    for part in table.parts() {
        for range in [part.header(), part.body()] {
            assert!(range.start <= range.end && range.end <= table.size(), "{range:?} of {}", table.size());
        }
    }
    let _ = mime::body(&whole);
    let _ = PartTable::decode(input);
    for text in [None, Some(SectionText::Header), Some(SectionText::Text), Some(SectionText::Mime)] {
        for part in [vec![], vec![1], vec![1, 1], vec![2, 1], vec![u32::MAX]] {
            let _ = mime::resolve(&table, &Section { part, text: text.clone() });
        }
    }
    let envelope = mime::EnvelopeFields::parse(&mime::envelope(&whole));
    let shown = whole.envelope.subject.as_deref();
    let shown = shown.map(|subject| &subject[..subject.len().min(mime::FIELD_OCTETS_MAX)]);
    assert_eq!(envelope.subject.as_deref(), shown, "what is sorted is not what is shown");
    let subject = culver_model::text::plain_spaces(&mime::decode_words(input));
    let base = culver_model::text::base_subject(&subject);
    assert!(!base.text.starts_with(' ') && !base.text.ends_with(' '), "{base:?}");
    culver_model::text::casemap(base.text, &mut Vec::new());
    let _ = culver_model::text::Links::of(input);
    let _ = culver_model::InternalDate::sent_seconds(input);
    let _ = mime::filter_header(input, &["subject"], true);
    let mut search = culver_model::text::TextSearch::new([(culver_model::text::Scope::Text, "x")]);
    search.search(&table, input);
}

/// Mailbox names and LIST patterns from the wire.
pub fn mailbox_name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for name in [MailboxName::from_wire(data), MailboxName::from_wire_create(data), MailboxName::parse(&text)]
    {
        let Ok(name) = name else { continue };
        let wire = name.to_mutf7().into_owned();
        assert_eq!(MailboxName::from_wire(wire.as_bytes()), Ok(name.clone()), "{wire}");
        assert_eq!(MailboxName::parse(name.as_str()), Ok(name.clone()));
        let _ = (name.parent(), name.leaf(), name.ancestors().count());
        if let Ok(pattern) = ListPattern::new("*") {
            assert!(pattern.matches(name.as_str()));
        }
    }
    if let Some((at, rest)) = pieces(data) {
        let (pattern, name) = rest.split_at(at.min(rest.len()));
        if let Ok(pattern) = ListPattern::from_wire(b"", pattern) {
            let _ = pattern.matches(&String::from_utf8_lossy(name));
        }
    }
}

/// A passwd-file somebody brought along. (The password itself is not tried: hashing is slow by design.)
pub fn passwd_file(data: &[u8]) {
    let file = culver_users::PasswdFile::parse("file", data);
    assert!(file.entries.len() <= data.iter().filter(|&&b| b == b'\n').count() + 1);
    for mistake in &file.mistakes {
        assert!(!mistake.what.is_empty());
    }
}

/// Blocks of the mailbox index and of the account, as they may lie damaged on a disk.
pub fn index_block(data: &[u8]) {
    let mut aligned = vec![0u64; data.len().div_ceil(8)];
    for (word, octets) in aligned.iter_mut().zip(data.chunks(8)) {
        let mut full = [0; 8];
        full[..octets.len()].copy_from_slice(octets);
        *word = u64::from_le_bytes(full);
    }
    let octets: Vec<u8> = aligned.iter().flat_map(|word| word.to_le_bytes()).collect();
    for bytes in [data, &octets] {
        let piece = |guid| culver_storage::Piece::Block { guid, octets: bytes };
        use culver_mailbox::state::{ACCOUNT_KEY, ANNOTATIONS_KEY, DELIVERIES_KEY};
        let keys = [Guid::INBOX, ACCOUNT_KEY, DELIVERIES_KEY, ANNOTATIONS_KEY];
        let said = keys.map(|guid| culver_mailbox::describe(piece(guid)));
        if culver_index::check(bytes).is_ok() {
            assert!(said[0].is_ok(), "what passes the check can be described");
        }
        if let Ok(account) = culver_index::account::AccountState::decode(bytes) {
            let again = account.encode();
            assert!(culver_index::account::AccountState::decode(&again).is_ok());
        }
        if let Ok(annotations) = culver_index::annotations::Annotations::load(bytes) {
            let (again, _) = annotations.encode();
            assert!(culver_index::annotations::Annotations::load(&again) == Ok(annotations));
        }
        if let Ok(deliveries) = culver_index::deliveries::Deliveries::load([bytes]) {
            let (again, _) = deliveries.encode(culver_index::BlockKind::Base);
            assert!(culver_index::deliveries::Deliveries::load([&again[..]]) == Ok(deliveries));
        }
    }
}

/// What a mailbox writes into the journal.
pub fn journal_record(data: &[u8]) {
    let said = culver_mailbox::describe(culver_storage::Piece::Record(data));
    if let Ok(record) = culver_mailbox::record::Record::decode(data) {
        assert!(said.is_ok_and(|said| said.is_some()), "what is decoded can be described");
        let again = culver_mailbox::record::Record::decode(&record.encode());
        assert!(again.is_ok(), "what it encodes, it decodes");
    }
}

/// A segment of the journal as it may lie damaged on a disk. The zeros of the header block are left out of the input.
pub fn journal_segment(data: &[u8]) {
    let (header, batches) = data.split_at(data.len().min(SEGMENT_HEADER_OCTETS));
    let mut file = header.to_vec();
    file.resize(SEGMENT_HEADER_BLOCK, 0);
    file.extend_from_slice(batches);
    stored_file(file, b"CULVJRN1");
}

/// A manifest.
pub fn manifest(data: &[u8]) {
    stored_file(data.to_vec(), b"CULVMAN1");
}

/// A pack of bodies.
pub fn pack(data: &[u8]) {
    stored_file(data.to_vec(), b"CULVPAK1");
}

/// A table of blocks.
pub fn table(data: &[u8]) {
    stored_file(data.to_vec(), b"CULVTBL1");
}

/// As `docs/format/journal.md` has them.
const SEGMENT_HEADER_OCTETS: usize = 96;
const SEGMENT_HEADER_BLOCK: usize = 4096;

/// A file of the store is read from end to end, as it is, and with checksums that hide the damage.
fn stored_file(mut file: Vec<u8>, magic: &[u8; 8]) {
    let Some(begin) = file.get_mut(..8) else { return };
    begin.copy_from_slice(magic);
    let as_it_is = dumped(file.clone());
    culver_storage::fuzzing::mend_checksums(&mut file);
    let mended = dumped(file.clone());
    // What reads a file that is whole must not be led by chance.
    assert_eq!(mended, dumped(file));
    drop(as_it_is);
}

/// What `culver dump` says, on a simulated disk.
fn dumped(file: Vec<u8>) -> Result<String, String> {
    let sim = Sim::new(1, SimConfig::default());
    sim.run(async move {
        let path = Path::new("/file");
        disk::create_durable(path, &file).await.expect("the disk is well");
        let mut text = String::new();
        let dumped = culver_storage::dump(path, &mut culver_mailbox::describe, &mut text).await;
        dumped.map(|()| text).map_err(|error| error.to_string())
    })
}
