//! Octet by octet against rustls' buffered client, without sockets.

use std::io::{ErrorKind, Read, Write};

use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConnection, SupportedProtocolVersion};

use super::*;
use crate::tls::{CertificateFiles, Tickets, load_blocking};

const NAME: &str = "mail.example.test";
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server, and its peer.
struct Pair {
    server: Tls,
    tx: Vec<u8>,
    rx: Vec<u8>,
    client: ClientConnection,
}

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs_of(version, ring::default_provider())
}

/// The client knows what `provider` has.
fn configs_of(
    version: &'static SupportedProtocolVersion,
    provider: rustls::crypto::CryptoProvider,
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let files = CertificateFiles { chain: dir.path().join("crt"), key: dir.path().join("key") };
    std::fs::write(&files.chain, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let server = load_blocking(&[files], &Tickets::new().unwrap()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

impl Pair {
    fn new((server, client): &(Arc<ServerConfig>, Arc<ClientConfig>)) -> Pair {
        let name = ServerName::try_from(NAME).unwrap();
        let mut client = ClientConnection::new(client.clone(), name).unwrap();
        client.set_buffer_limit(None);
        let server = Tls::server(server.clone(), Vec::new()).unwrap();
        Pair { server, tx: Vec::new(), rx: Vec::new(), client }
    }

    fn shaken(configs: &(Arc<ServerConfig>, Arc<ClientConfig>)) -> Pair {
        let mut pair = Pair::new(configs);
        pair.shake(usize::MAX);
        pair
    }

    /// The client's octets reach the server in pieces.
    fn shake(&mut self, piece: usize) {
        while self.server.is_handshaking() || self.client.is_handshaking() {
            let octets = self.outgoing();
            assert!(!octets.is_empty(), "the handshake stands still");
            for piece in octets.chunks(piece.min(octets.len())) {
                self.feed(piece);
                self.server.shake(&mut self.tx).unwrap();
            }
            self.incoming().unwrap();
        }
    }

    /// What the client sends.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut octets).unwrap();
        }
        octets
    }

    fn client_says(&mut self, octets: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(octets).unwrap();
        self.outgoing()
    }

    /// As a read does.
    fn feed(&mut self, octets: &[u8]) {
        let received = &mut self.server.received;
        received.buffer.truncate(received.end);
        received.buffer.extend_from_slice(octets);
        received.end = received.buffer.len();
    }

    fn open(&mut self) -> Result<(), Error> {
        self.server.open(&mut self.rx, usize::MAX, &mut self.tx)
    }

    /// What the server sent reaches the client: the octets in it.
    fn incoming(&mut self) -> Result<Vec<u8>, Error> {
        let (sent, mut plain) = (std::mem::take(&mut self.tx), Vec::new());
        let mut sent = &sent[..];
        while !sent.is_empty() {
            self.client.read_tls(&mut sent).unwrap();
            self.client.process_new_packets()?;
            match self.client.reader().read_to_end(&mut plain) {
                Err(e) if e.kind() != ErrorKind::WouldBlock => panic!("{e}"),
                _ => {}
            }
        }
        Ok(plain)
    }

    fn server_says(&mut self, octets: &[u8]) {
        self.server.seal(octets, &mut self.tx).unwrap();
        assert_eq!(self.incoming().unwrap(), octets);
    }
}

/// A record, as it is on the wire.
fn record(kind: u8, octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3][..], &length, octets].concat()
}

#[test]
fn a_handshake_in_pieces_of_one_octet_and_a_resumed_one_tell_the_name() {
    for version in BOTH {
        let configs = configs(version);
        for (resumed, piece) in [(false, 1), (true, 1), (true, usize::MAX)] {
            let mut pair = Pair::new(&configs);
            pair.shake(piece);
            let info = pair.server.info();
            assert_eq!((info.sni.as_deref(), info.resumed), (Some(NAME), resumed));
            assert_eq!(info.version, format!("{:?}", version.version));
            pair.server_says(b"* OK\r\n");
            let octets = pair.client_says(b"a noop\r\n");
            pair.feed(&octets);
            pair.open().unwrap();
            assert_eq!(pair.rx, b"a noop\r\n");
            pair.server.rest();
            assert_eq!(pair.server.buffers(), 0);
        }
    }
}

/// RFC 9266, RFC 5929 §4.
#[test]
fn both_ends_are_bound_to_the_same() {
    let mut long = ring::default_provider();
    // The one suite of TLS 1.3 with another hash.
    long.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    for (version, configs) in
        [(&TLS12, configs(&TLS12)), (&TLS13, configs(&TLS13)), (&TLS13, configs_of(&TLS13, long))]
    {
        let mut exporters = Vec::new();
        for (resumed, piece) in [(false, 1), (true, usize::MAX)] {
            let mut pair = Pair::new(&configs);
            assert_eq!(pair.server.bindings(), TlsBindings::default());
            pair.shake(piece);
            // The answer to the handshake, with the ticket for the next one.
            pair.server_says(b"* OK\r\n");
            assert_eq!(pair.server.info().resumed, resumed);
            let bindings = pair.server.bindings();
            let leaf = pair.client.peer_certificates().unwrap()[0].clone();
            let hash = ::ring::digest::digest(&::ring::digest::SHA256, &leaf);
            assert_eq!(bindings.end_point.as_deref(), Some(hash.as_ref()));
            let theirs = pair.client.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
            // RFC 9266 §4.2: not in TLS 1.2, where it would depend on how the session was made.
            let expected = (version.version == rustls::ProtocolVersion::TLSv1_3).then(|| theirs.unwrap());
            assert_eq!(bindings.exporter, expected);
            exporters.extend(bindings.exporter);
            assert_eq!(pair.server.peer_certificate(), None);
        }
        assert!(exporters.is_empty() || exporters[0] != exporters[1], "each connection has its own");
    }
}

#[test]
fn records_are_split_anywhere() {
    for version in BOTH {
        let configs = configs(version);
        let mut pair = Pair::shaken(&configs);
        let mut split = 0;
        loop {
            let octets = [pair.client_says(b"one "), pair.client_says(b"two")].concat();
            if split > octets.len() {
                break;
            }
            pair.feed(&octets[..split]);
            pair.open().unwrap();
            // Sent while half a record is held, which may be moved to another buffer before it is whole.
            pair.server_says(b"meanwhile");
            pair.server.rest();
            let held = pair.server.received.len();
            assert!(pair.server.buffers() <= held + READ_FIRST, "{split}");
            pair.feed(&octets[split..]);
            pair.open().unwrap();
            assert_eq!(std::mem::take(&mut pair.rx), b"one two", "{split}");
            split += 1;
        }
        assert!(split > 50);
    }
}

#[test]
fn what_comes_with_the_end_of_the_handshake_waits_to_be_read() {
    for version in BOTH {
        let configs = configs(version);
        let mut pair = Pair::new(&configs);
        while pair.client.is_handshaking() {
            let octets = pair.outgoing();
            pair.feed(&octets);
            pair.server.shake(&mut pair.tx).unwrap();
            if pair.incoming().is_ok() && !pair.server.is_handshaking() {
                break;
            }
        }
        let octets = [pair.outgoing(), pair.client_says(b"a capa"), pair.client_says(b"bility\r\n")].concat();
        pair.feed(&octets);
        pair.server.shake(&mut pair.tx).unwrap();
        assert!(!pair.server.is_handshaking());
        // A greeting is written before anything is read.
        pair.server_says(b"* OK\r\n");
        assert!(pair.rx.is_empty());
        pair.open().unwrap();
        assert_eq!(pair.rx, b"a capability\r\n");
        pair.server.rest();
        assert_eq!(pair.server.buffers(), 0);
    }
}

#[test]
fn opening_stops_at_the_limit_and_goes_on() {
    let mut pair = Pair::shaken(&configs(&TLS13));
    let mut octets = pair.client_says(&vec![b'x'; 100_000]);
    octets.extend(pair.client_says(b"end"));
    pair.feed(&octets);
    let mut opened = Vec::new();
    for turn in 0.. {
        assert!(turn < 100);
        pair.server.open(&mut pair.rx, 1000, &mut pair.tx).unwrap();
        if pair.rx.is_empty() {
            break;
        }
        // One record more than the limit at most.
        assert!(pair.rx.len() < 1000 + FRAGMENT + 1);
        opened.append(&mut pair.rx);
    }
    assert_eq!(opened, [vec![b'x'; 100_000], b"end".to_vec()].concat());
}

#[test]
fn keys_are_updated_from_either_side() {
    let mut pair = Pair::shaken(&configs(&TLS13));
    for turn in 0..40 {
        pair.client.refresh_traffic_keys().unwrap();
        let octets = [pair.outgoing(), pair.client_says(b"a noop\r\n")].concat();
        let split = turn * octets.len() / 40;
        pair.feed(&octets[..split]);
        pair.open().unwrap();
        pair.feed(&octets[split..]);
        pair.open().unwrap();
        assert_eq!(std::mem::take(&mut pair.rx), b"a noop\r\n");
        // The answer to the update goes before it, in the same send.
        pair.server.seal(b"a OK\r\n", &mut pair.tx).unwrap();
        let records = pair.tx.windows(3).filter(|w| *w == [23, 3, 3]).count();
        assert!(records >= 2, "no answer to the update");
        assert_eq!(pair.incoming().unwrap(), b"a OK\r\n");
    }
}

#[test]
fn a_broken_record_is_answered_with_an_alert_once() {
    let too_long = || {
        let mut octets = record(23, &[0; 16]);
        octets[3..5].copy_from_slice(&(16384u16 + 2049).to_be_bytes());
        octets
    };
    type Broken = fn(&mut Vec<u8>);
    let flipped: Broken = |octets| *octets.last_mut().unwrap() ^= 1;
    let unknown: Broken = |octets| octets[0] = 99;
    for version in BOTH {
        let configs = configs(version);
        for (what, alert) in [
            (Some(flipped), AlertDescription::BadRecordMac),
            (Some(unknown), AlertDescription::DecodeError),
            (None, AlertDescription::DecodeError),
        ] {
            let mut pair = Pair::shaken(&configs);
            let good = pair.client_says(b"good");
            let mut bad = pair.client_says(b"bad");
            match what {
                Some(what) => what(&mut bad),
                None => bad = too_long(),
            }
            pair.feed(&[good, bad].concat());
            pair.open().unwrap_err();
            assert_eq!(pair.rx, b"good");
            assert!(pair.server.failed);
            let sent = pair.tx.len();
            // Neither asked again nor answered again.
            pair.open().unwrap_err();
            pair.server.seal(b"more", &mut pair.tx).unwrap_err();
            pair.server.close(&mut pair.tx).unwrap();
            assert_eq!(pair.tx.len(), sent);
            assert_eq!(pair.incoming().unwrap_err(), Error::AlertReceived(alert));
        }
    }
}

#[test]
fn a_first_flight_that_is_no_tls_is_answered_with_an_alert() {
    let mut pair = Pair::new(&configs(&TLS13));
    pair.feed(b"EHLO there, this is no TLS at all\r\n");
    pair.server.shake(&mut pair.tx).unwrap_err();
    assert_eq!(pair.tx[0], 21, "no alert");
}

#[test]
fn sending_in_the_midst_of_a_message_of_the_handshake_loses_nothing() {
    for version in BOTH {
        let mut configs = configs(version);
        // The smallest records: the client's last message takes two.
        Arc::get_mut(&mut configs.1).unwrap().max_fragment_size = Some(32);
        let mut pair = Pair::new(&configs);
        let (mut refused, mut sent, mut halves) = (0, Vec::new(), 0);
        while pair.server.is_handshaking() {
            let octets = pair.outgoing();
            let mut octets = &octets[..];
            assert!(!octets.is_empty(), "the handshake stands still");
            while !octets.is_empty() {
                let length = 5 + usize::from(u16::from_be_bytes([octets[3], octets[4]]));
                let (record, rest) = octets.split_at(length);
                octets = rest;
                pair.feed(record);
                pair.server.shake(&mut pair.tx).unwrap();
                halves += usize::from(pair.server.received.len() > 0);
                match pair.server.seal(b"x", &mut pair.tx) {
                    Ok(()) => sent.push(b'x'),
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::NotConnected);
                        refused += 1;
                    }
                }
            }
            if pair.server.is_handshaking() {
                pair.incoming().unwrap();
            }
        }
        assert!(halves > 2 && refused > 2, "{halves} {refused}");
        let heard = pair.incoming().unwrap();
        assert!(!heard.is_empty() && sent.ends_with(&heard), "{heard:?} of {sent:?}");
        pair.server_says(b"* OK\r\n");
    }
}

#[test]
fn a_close_is_seen_behind_what_came_and_is_said_once() {
    for version in BOTH {
        let mut pair = Pair::shaken(&configs(version));
        pair.client.writer().write_all(b"last").unwrap();
        pair.client.send_close_notify();
        let octets = pair.outgoing();
        pair.feed(&octets);
        pair.open().unwrap();
        assert!(pair.server.peer_closed());
        assert_eq!(pair.rx, b"last");
        // The other direction is open.
        pair.server_says(b"bye");
        pair.server.close(&mut pair.tx).unwrap();
        let sent = pair.tx.len();
        assert!(sent > 0);
        pair.server.close(&mut pair.tx).unwrap();
        assert_eq!(pair.tx.len(), sent);
        assert!(pair.incoming().unwrap().is_empty());
        assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0);
    }
}
