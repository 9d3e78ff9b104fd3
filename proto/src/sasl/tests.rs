use quickcheck::{TestResult, quickcheck};
use ring::{digest, hmac, pbkdf2};

use super::*;

fn channel() -> Channel {
    Channel {
        offered: MECHANISMS.into_iter().collect(),
        bindings: Bindings { exporter: Some(vec![7; 32]), end_point: None },
        certified: Some("tim@example.com".to_owned()),
        discovery: Arc::new(Discovery {
            scope: "example_scope".to_owned(),
            openid_configuration: "https://example.com/.well-known/openid-configuration".to_owned(),
        }),
    }
}

fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> (Exchange, Step) {
    Exchange::start(mechanism, initial, &channel())
}

fn credentials(mechanism: Mechanism, user: &str, password: &str) -> Step {
    let proof = Proof::Password(Secret::new(password.as_bytes().to_vec()));
    Step::Done(Credentials { mechanism, user: user.to_owned(), proof })
}

fn encode(octets: &str) -> Vec<u8> {
    STANDARD.encode(octets).into_bytes()
}

#[test]
fn plain_takes_an_initial_response_or_a_later_one() {
    let message = encode("\0tim\0tanstaaftanstaaf");
    let expected = credentials(Mechanism::Plain, "tim", "tanstaaftanstaaf");
    assert_eq!(start(Mechanism::Plain, Some(&message)).1, expected);
    let (mut exchange, step) = start(Mechanism::Plain, None);
    assert_eq!(step, Step::Challenge("".into()));
    assert_eq!(exchange.response(&message), expected);
    assert_eq!(exchange.response(&message), Step::Failed(Failure::Malformed));
}

#[test]
fn plain_refuses_what_rfc_4616_refuses() {
    for (message, failure) in [
        ("Ursel\0Kurt\0xipj3plmq", Failure::AuthorizationRefused),
        ("\0tim", Failure::Malformed),
        ("", Failure::Malformed),
        ("\0tim\0a\0b", Failure::Malformed),
        ("\0\0password", Failure::Malformed),
        ("\0tim\0", Failure::Malformed),
        ("\0t\nim\0x", Failure::Malformed),
    ] {
        let step = start(Mechanism::Plain, Some(&encode(message))).1;
        assert_eq!(step, Step::Failed(failure), "{message:?}");
    }
    let long = encode(&format!("\0{}\0x", "u".repeat(USER_OCTETS_MAX + 1)));
    assert_eq!(start(Mechanism::Plain, Some(&long)).1, Step::Failed(Failure::TooLong));
    let long = encode(&format!("\0u\0{}", "p".repeat(PASSWORD_OCTETS_MAX + 1)));
    assert_eq!(start(Mechanism::Plain, Some(&long)).1, Step::Failed(Failure::TooLong));
    assert_eq!(
        start(Mechanism::Plain, Some(&encode("tim\0Tim\0x"))).1,
        credentials(Mechanism::Plain, "Tim", "x")
    );
}

#[test]
fn base64_is_strict() {
    for line in ["=AAA", "AAA=BBB", "AAA", "A A=", "AHRpbQB4=", "AHR\npbQB4", "*x"] {
        let step = start(Mechanism::Plain, Some(line.as_bytes())).1;
        assert_eq!(step, Step::Failed(Failure::Malformed), "{line:?}");
    }
    let (mut exchange, _) = start(Mechanism::Plain, None);
    assert_eq!(exchange.response(&vec![b'A'; RESPONSE_OCTETS_MAX + 4]), Step::Failed(Failure::TooLong));
}

#[test]
fn login_asks_twice_and_takes_no_initial_response() {
    let (mut exchange, step) = start(Mechanism::Login, None);
    assert_eq!(step, Step::Challenge("VXNlcm5hbWU6".into()));
    assert_eq!(exchange.response(&encode("tim")), Step::Challenge("UGFzc3dvcmQ6".into()));
    assert_eq!(exchange.response(&encode("a b")), credentials(Mechanism::Login, "tim", "a b"));
    let step = start(Mechanism::Login, Some(&encode("tim"))).1;
    assert_eq!(step, Step::Failed(Failure::InitialRefused));
    let (mut exchange, _) = start(Mechanism::Login, None);
    assert_eq!(exchange.response(b"*"), Step::Failed(Failure::Cancelled));
}

#[test]
fn debug_shows_no_secret() {
    let (_, step) = start(Mechanism::Plain, Some(&encode("\0tim\0tanstaaf")));
    let shown = format!("{step:?}");
    assert!(shown.contains("tim") && !shown.contains("tanstaaf"), "{shown}");
}

#[test]
fn a_set_holds_what_was_put_in_and_lists_it_in_order() {
    assert_eq!(format!("{:?}", Mechanisms::default()), "[\"PLAIN\", \"LOGIN\"]");
    let all: Mechanisms = MECHANISMS.into_iter().collect();
    assert!(all.iter().eq(MECHANISMS));
    for mechanism in MECHANISMS {
        assert!(!Mechanisms::NONE.contains(mechanism) && all.contains(mechanism));
        assert!(!all.without(mechanism).contains(mechanism));
        assert!(Mechanisms::NONE.with(mechanism).iter().eq([mechanism]));
        assert_eq!(Mechanism::parse(mechanism.name().to_lowercase().as_bytes()), Some(mechanism));
    }
    assert_eq!(Mechanism::parse(b"ANONYMOUS"), None);
}

#[test]
fn what_is_not_offered_is_not_taken() {
    for mechanism in MECHANISMS {
        let offered = channel().offered.without(mechanism);
        let (mut exchange, step) = Exchange::start(mechanism, None, &Channel { offered, ..channel() });
        assert_eq!(step, Step::Failed(Failure::NotOffered), "{mechanism:?}");
        assert_eq!(exchange.response(b""), Step::Failed(Failure::Malformed));
    }
}

/// The keys of a password, as RFC 5802 §3 makes them.
fn keys(hash: Hash, password: &str, salt: &[u8], iterations: u32, nonce: &str) -> Keys {
    let (derive, sign, of) = match hash {
        Hash::Sha1 => {
            (pbkdf2::PBKDF2_HMAC_SHA1, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &digest::SHA1_FOR_LEGACY_USE_ONLY)
        }
        Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
    };
    let mut salted = vec![0; of.output_len()];
    let iterations = std::num::NonZeroU32::new(iterations).expect("not 0");
    pbkdf2::derive(derive, iterations, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(sign, &salted);
    let client = hmac::sign(&key, b"Client Key");
    Keys {
        nonce: nonce.to_owned(),
        salt: salt.to_vec(),
        iterations: iterations.get(),
        stored_key: Secret::new(digest::digest(of, client.as_ref()).as_ref().to_vec()),
        server_key: Secret::new(hmac::sign(&key, b"Server Key").as_ref().to_vec()),
    }
}

fn decoded(step: &Step) -> String {
    let Step::Challenge(challenge) = step else { panic!("no challenge: {step:?}") };
    String::from_utf8(STANDARD.decode(challenge.as_bytes()).expect("base64")).expect("text")
}

/// A client: what its last message is.
struct Client<'a> {
    hash: Hash,
    password: &'a str,
    /// Header and octets of the binding.
    channel: Vec<u8>,
    bare: String,
}

impl Client<'_> {
    fn last(&self, server: &str) -> String {
        let mut attributes = server.split(',').map(|attribute| &attribute[2..]);
        let mut next = || attributes.next().expect("three attributes");
        let (nonce, salt, iterations) = (next(), STANDARD.decode(next()).expect("base64"), next());
        let iterations = iterations.parse().expect("a number");
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(&self.channel));
        let said = format!("{},{server},{without_proof}", self.bare);
        let (derive, sign) = match self.hash {
            Hash::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256),
        };
        let keys = keys(self.hash, self.password, &salt, iterations, "");
        let mut salted = vec![0; keys.stored_key.expose().len()];
        let iterations = std::num::NonZeroU32::new(iterations).expect("not 0");
        pbkdf2::derive(derive, iterations, &salt, self.password.as_bytes(), &mut salted);
        let client = hmac::sign(&hmac::Key::new(sign, &salted), b"Client Key");
        let signature = hmac::sign(&hmac::Key::new(sign, keys.stored_key.expose()), said.as_bytes());
        let proof: Vec<u8> =
            client.as_ref().iter().zip(signature.as_ref()).map(|(key, signature)| key ^ signature).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }
}

/// RFC 5802 §5 and RFC 7677 §3.
#[test]
fn the_exchanges_of_the_scram_rfcs() {
    let of = |salt: &str| STANDARD.decode(salt).expect("base64");
    for (mechanism, hash, first, nonce, salt, said, last, server) in [
        (
            Mechanism::ScramSha1,
            Hash::Sha1,
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "3rfcNHYJY1ZVvWVs7j",
            "QSXCR+Q6sek8bf92",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (
            Mechanism::ScramSha256,
            Hash::Sha256,
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ] {
        let begin = |password: &str| {
            let (mut exchange, step) = start(mechanism, Some(&encode(first)));
            assert_eq!(step, Step::Keys { user: "user".to_owned(), hash });
            let step = exchange.keys(keys(hash, password, &of(salt), 4096, nonce));
            assert_eq!(decoded(&step), said);
            exchange
        };
        let proved = |right| {
            let proof = Proof::Scram(right);
            Step::Done(Credentials { mechanism, user: "user".to_owned(), proof })
        };
        let mut exchange = begin("pencil");
        assert_eq!(decoded(&exchange.response(&encode(last))), server);
        assert_eq!(exchange.response(b""), proved(true));
        assert_eq!(exchange.response(b""), Step::Failed(Failure::Malformed));
        assert_eq!(begin("Pencil").response(&encode(last)), proved(false), "another password");
        let mut exchange = begin("pencil");
        exchange.response(&encode(last));
        assert_eq!(exchange.response(b"AQ=="), Step::Failed(Failure::Malformed), "nothing is left to say");
        for (from, to) in [("c=biws", "c=eSws"), (",r=", ",r=x"), (",p=", ",x=y,p=")] {
            let changed = last.replace(from, to);
            assert_eq!(begin("pencil").response(&encode(&changed)), proved(false), "{changed}");
        }
        for malformed in ["", "c=biws", "p=AAAA", "c=biws,r=x,p=AAAA", "r=x,c=biws,p=AAAA", "c=biws,r=x,p=!"]
        {
            let step = begin("pencil").response(&encode(malformed));
            assert_eq!(step, Step::Failed(Failure::Malformed), "{malformed}");
        }
    }
}

#[test]
fn a_first_message_of_scram_is_what_rfc_5802_allows() {
    let long = format!("n,,n=u,r={}", "x".repeat(scram::NONCE_OCTETS_MAX + 1));
    for (message, failure) in [
        ("", Failure::Malformed),
        ("n", Failure::Malformed),
        ("n,,", Failure::Malformed),
        ("n,,n=,r=x", Failure::Malformed),
        ("n,,n=u", Failure::Malformed),
        ("n,,n=u,r=", Failure::Malformed),
        ("n,,n=u,r=\u{e4}", Failure::Malformed),
        ("n,,n=a=b,r=x", Failure::Malformed),
        ("n,,n=a=,r=x", Failure::Malformed),
        ("n,,n=a=2\u{e4},r=x", Failure::Malformed),
        ("n,,n=a\0,r=x", Failure::Malformed),
        ("n,,m=1,n=u,r=x", Failure::Malformed),
        ("N,,n=u,r=x", Failure::Malformed),
        ("p=tls-exporter,,n=u,r=x", Failure::Malformed),
        ("n,v,n=u,r=x", Failure::Malformed),
        ("n,a=v,n=u,r=x", Failure::AuthorizationRefused),
        ("y,,n=u,r=x", Failure::Downgraded),
        (&long, Failure::TooLong),
    ] {
        let step = start(Mechanism::ScramSha256, Some(&encode(message))).1;
        assert_eq!(step, Step::Failed(failure), "{message:?}");
    }
    let asked = |user: &str| Step::Keys { user: user.to_owned(), hash: Hash::Sha1 };
    for (message, user) in [
        ("n,,n=u,r=x", "u"),
        ("n,a=,n=u,r=x", "u"),
        ("n,a=U,n=u,r=x,e=extension", "u"),
        ("n,a=a=2Cb=3D,n=a=2Cb=3D,r=x", "a,b="),
        ("n,,n=\u{e4},r=x", "\u{e4}"),
    ] {
        assert_eq!(start(Mechanism::ScramSha1, Some(&encode(message))).1, asked(user), "{message}");
    }
    // Where nothing can be bound, a client that could says so, and is right.
    let offered = channel().offered.without(Mechanism::ScramSha1Plus);
    let unbound = Channel { offered, bindings: Bindings::default(), ..channel() };
    let step = Exchange::start(Mechanism::ScramSha1, Some(&encode("y,,n=u,r=x")), &unbound).1;
    assert_eq!(step, asked("u"));
}

#[test]
fn a_bound_exchange_holds_on_its_own_channel_only() {
    let both = Bindings { exporter: Some(vec![7; 32]), end_point: Some(vec![9; 20]) };
    let channel = Channel { bindings: both, ..channel() };
    for (mechanism, hash) in
        [(Mechanism::ScramSha1Plus, Hash::Sha1), (Mechanism::ScramSha256Plus, Hash::Sha256)]
    {
        for (flag, octets, right) in [
            ("p=tls-exporter", vec![7; 32], true),
            ("p=tls-exporter", vec![8; 32], false),
            ("p=tls-exporter", vec![9; 20], false),
            ("p=tls-exporter", vec![], false),
            ("p=tls-server-end-point", vec![9; 20], true),
            ("p=tls-server-end-point", vec![7; 32], false),
        ] {
            let (header, bare) = (format!("{flag},,"), "n=u,r=abc".to_owned());
            let first = encode(&format!("{header}{bare}"));
            let (mut exchange, step) = Exchange::start(mechanism, Some(&first), &channel);
            assert_eq!(step, Step::Keys { user: "u".to_owned(), hash });
            let said = decoded(&exchange.keys(keys(hash, "secret", b"salt", 4096, "def")));
            let bound = [header.as_bytes(), &octets].concat();
            let client = Client { hash, password: "secret", channel: bound, bare };
            let mut step = exchange.response(&encode(&client.last(&said)));
            if right {
                assert!(decoded(&step).starts_with("v="), "{flag}");
                step = exchange.response(b"");
            }
            let proof = Proof::Scram(right);
            assert_eq!(step, Step::Done(Credentials { mechanism, user: "u".to_owned(), proof }), "{flag}");
        }
        for (flag, failure) in [
            ("p=tls-unique", Failure::BindingUnknown),
            ("p=", Failure::BindingUnknown),
            ("n", Failure::Malformed),
            ("y", Failure::Malformed),
        ] {
            let step = Exchange::start(mechanism, Some(&encode(&format!("{flag},,n=u,r=x"))), &channel).1;
            assert_eq!(step, Step::Failed(failure), "{flag}");
        }
    }
}

const TOKEN: &str = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";

fn token(mechanism: Mechanism, user: &str, token: &str) -> Step {
    let proof = Proof::Token(Secret::new(token.as_bytes().to_vec()));
    Step::Done(Credentials { mechanism, user: user.to_owned(), proof })
}

/// RFC 7628 §4.1 and §4.3.
#[test]
fn the_exchanges_of_rfc_7628() {
    let right = "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyI\
                 HZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB";
    let (mut exchange, step) = start(Mechanism::OauthBearer, Some(right.as_bytes()));
    assert_eq!(step, token(Mechanism::OauthBearer, "user@example.com", TOKEN));
    // The driver refuses it: what §4.3 has for an empty one.
    let refusal = "eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NvcGUiOiJleGFtcGxlX3Njb3BlIiwib3BlbmlkLWNvbmZpZ3VyYXRp\
                   b24iOiJodHRwczovL2V4YW1wbGUuY29tLy53ZWxsLWtub3duL29wZW5pZC1jb25maWd1cmF0aW9uIn0=";
    assert_eq!(exchange.refuse_token(), Some(Step::Challenge(refusal.into())));
    assert_eq!(exchange.response(b"AQ=="), Step::Failed(Failure::TokenRefused));
    assert_eq!(exchange.response(b"AQ=="), Step::Failed(Failure::Malformed));
    assert_eq!(exchange.refuse_token(), None);

    let empty = "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9AQE=";
    for answer in ["AQ==", "", "*"] {
        let (mut exchange, step) = start(Mechanism::OauthBearer, Some(empty.as_bytes()));
        assert_eq!(step, Step::Challenge(refusal.into()));
        let expected = if answer == "*" { Failure::Cancelled } else { Failure::TokenRefused };
        assert_eq!(exchange.response(answer.as_bytes()), Step::Failed(expected));
    }
}

#[test]
fn tokens_come_as_the_mechanisms_say() {
    let (bearer, xoauth2) = (Mechanism::OauthBearer, Mechanism::Xoauth2);
    for (mechanism, message, user) in [
        (bearer, format!("n,a=,\x01auth=Bearer {TOKEN}\x01\x01"), ""),
        (bearer, format!("n,,\x01auth=bEARER {TOKEN}\x01\x01"), ""),
        (bearer, format!("y,a=a=2Cb@x,\x01port=1\x01auth=Bearer {TOKEN}\x01new=\x01\x01"), "a,b@x"),
        // As Google and Microsoft have it.
        (xoauth2, format!("user=some@example.com\x01auth=Bearer {TOKEN}\x01\x01"), "some@example.com"),
    ] {
        let expected = token(mechanism, user, TOKEN);
        assert_eq!(start(mechanism, Some(&encode(&message))).1, expected, "{message:?}");
        let (mut exchange, step) = start(mechanism, None);
        assert_eq!(step, Step::Challenge("".into()));
        assert_eq!(exchange.response(&encode(&message)), expected, "{message:?}");
    }
    for (mechanism, message) in [
        (bearer, ""),
        (bearer, "\x01"),
        (bearer, "n,,"),
        (bearer, "n,a=u\x01auth=Bearer x\x01\x01"),
        (bearer, "n,user=u,\x01auth=Bearer x\x01\x01"),
        (bearer, "p=tls-exporter,,\x01auth=Bearer x\x01\x01"),
        (bearer, "n,,\x01auth=Bearer x\x01"),
        (bearer, "n,,\x01auth=Bearer x\x01\x01\x01"),
        (bearer, "n,,\x01auth=Bearer \x01\x01"),
        (bearer, "n,,\x01auth=Basic x\x01\x01"),
        (bearer, "n,,\x01auth=Bearer x y\x01\x01"),
        (bearer, "n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01"),
        (bearer, "n,,\x01=x\x01auth=Bearer x\x01\x01"),
        (xoauth2, ""),
        (xoauth2, "user=u"),
        (xoauth2, "user=\x01auth=Bearer x\x01\x01"),
        (xoauth2, "n,a=u,\x01auth=Bearer x\x01\x01"),
    ] {
        let step = start(mechanism, Some(&encode(message))).1;
        assert_eq!(step, Step::Failed(Failure::Malformed), "{message:?}");
    }
    let (mut exchange, _) = start(xoauth2, Some(&encode("user=u@x\x01auth=Bearer x\x01\x01")));
    let refusal = exchange.refuse_token().expect("a token");
    assert_eq!(decoded(&refusal), r#"{"status":"401","schemes":"bearer","scope":"example_scope"}"#);
    assert_eq!(exchange.response(b""), Step::Failed(Failure::TokenRefused));
    let long = encode(&format!("n,,\x01auth=Bearer {}\x01\x01", "x".repeat(6000)));
    assert!(matches!(start(bearer, Some(&long)).1, Step::Done(_)), "tokens are long");
    let long = encode(&format!("n,,\x01auth=Bearer {}\x01\x01", "x".repeat(10_000)));
    assert_eq!(start(bearer, Some(&long)).1, Step::Failed(Failure::TooLong));
}

#[test]
fn a_refusal_is_json_whatever_is_configured() {
    let discovery = Discovery { scope: "a\"b\\c\n".to_owned(), openid_configuration: String::new() };
    let said = discovery.refusal(Mechanism::OauthBearer);
    assert_eq!(said, r#"{"status":"invalid_token","scope":"a\"b\\c\u000a"}"#);
    assert_eq!(Discovery::default().refusal(Mechanism::OauthBearer), r#"{"status":"invalid_token"}"#);
}

#[test]
fn external_is_who_the_certificate_names() {
    let done = Step::Done(Credentials {
        mechanism: Mechanism::External,
        user: "tim@example.com".to_owned(),
        proof: Proof::Certificate,
    });
    assert_eq!(start(Mechanism::External, Some(b"=")).1, done);
    assert_eq!(start(Mechanism::External, Some(&encode("TIM@example.com"))).1, done);
    let (mut exchange, step) = start(Mechanism::External, None);
    assert_eq!(step, Step::Challenge("".into()));
    assert_eq!(exchange.response(b""), done);
    for (authzid, failure) in [
        ("eve@example.com", Failure::AuthorizationRefused),
        ("tim", Failure::AuthorizationRefused),
        ("tim@example.com\0", Failure::Malformed),
    ] {
        let step = start(Mechanism::External, Some(&encode(authzid))).1;
        assert_eq!(step, Step::Failed(failure), "{authzid:?}");
    }
    let unnamed = Channel { certified: None, ..channel() };
    let step = Exchange::start(Mechanism::External, Some(b"="), &unnamed).1;
    assert_eq!(step, Step::Failed(Failure::NotOffered));
}

#[test]
fn debug_shows_no_token_and_no_key() {
    let message = encode(&format!("n,,\x01auth=Bearer {TOKEN}\x01\x01"));
    let shown = format!("{:?}", start(Mechanism::OauthBearer, Some(&message)));
    assert!(!shown.contains(TOKEN), "{shown}");
    let keys = keys(Hash::Sha1, "pencil", b"salt", 4096, "x");
    let digits = |key: &Secret| format!("{:?}", key.expose());
    let (stored, server) = (digits(&keys.stored_key), digits(&keys.server_key));
    let (mut exchange, _) = start(Mechanism::ScramSha1, Some(&encode("n,,n=u,r=x")));
    let mut shown = format!("{keys:?}");
    exchange.keys(keys);
    shown += &format!("{exchange:?}");
    let hidden = |key: &str| !shown.contains(key.trim_matches(['[', ']']));
    assert!(hidden(&stored) && hidden(&server), "{shown}");
}

quickcheck! {
    /// Whatever comes, in whatever order: no panic, no login without proof, and an end that stays one.
    fn octets_of_a_client_break_nothing(which: usize, initial: Option<Vec<u8>>, responses: Vec<Vec<u8>>) -> bool {
        let mechanism = MECHANISMS[which % MECHANISMS.len()];
        let initial = initial.map(|octets| STANDARD.encode(octets).into_bytes());
        let (mut exchange, mut step) = start(mechanism, initial.as_deref());
        let mut ended = false;
        for response in responses {
            if matches!(step, Step::Keys { .. }) {
                let (hash, _) = mechanism.scram().expect("SCRAM asks");
                step = exchange.keys(keys(hash, "secret", b"salt", 1, "nonce"));
            }
            ended |= matches!(step, Step::Failed(_));
            if let Step::Done(Credentials { proof: Proof::Scram(true), .. }) = step {
                return false;
            }
            step = exchange.response(&STANDARD.encode(response).into_bytes());
            if ended && !matches!(step, Step::Failed(_)) {
                return false;
            }
        }
        true
    }

    /// One octet of what the client says is changed on the way: it never ends well.
    fn a_scram_message_cannot_be_changed(first: bool, at: usize, to: u8) -> TestResult {
        let (hash, bare) = (Hash::Sha256, "n=user,r=clientnonce".to_owned());
        let change = |message: String, here: bool| {
            let mut octets = message.into_bytes();
            let at = at % octets.len();
            if here {
                octets[at] = to;
            }
            octets
        };
        let said = format!("n,,{bare}");
        let heard = change(said.clone(), first);
        if first && heard == said.as_bytes() {
            return TestResult::discard();
        }
        let (mut exchange, step) =
            start(Mechanism::ScramSha256, Some(STANDARD.encode(&heard).as_bytes()));
        if !matches!(step, Step::Keys { .. }) {
            return TestResult::passed();
        }
        let server = decoded(&exchange.keys(keys(hash, "secret", b"salt", 1, "servernonce")));
        let client = Client { hash, password: "secret", channel: b"n,,".to_vec(), bare };
        let last = client.last(&server);
        let heard = change(last.clone(), !first);
        if !first && heard == last.as_bytes() {
            return TestResult::discard();
        }
        let step = exchange.response(STANDARD.encode(&heard).as_bytes());
        TestResult::from_bool(!matches!(step, Step::Challenge(_)))
    }
}
