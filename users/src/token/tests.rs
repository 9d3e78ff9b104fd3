use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

fn rules() -> TokenRules {
    TokenRules {
        issuer: Some("https://id.example.test".to_owned()),
        audience: Some("mail".to_owned()),
        scope: vec!["imap".to_owned()],
        username_claim: "email".to_owned(),
        leeway_s: 30,
    }
}

fn good() -> Value {
    json!({
        "iss": "https://id.example.test", "aud": ["web", "mail"], "exp": NOW + 60, "nbf": NOW - 60,
        "scope": "openid imap pop", "email": "Bob@example.test", "sub": "4711",
    })
}

fn encode(octets: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

/// An RSA key of 2048 bits, made for these tests alone.
const RSA: &[u8] = include_bytes!("rsa.der");

/// A key of each kind: its JWK, and how it signs.
struct Signers {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

const SECRET: &[u8] = b"a secret of more than 32 octets, which nobody guesses";

impl Signers {
    fn new() -> Signers {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("made");
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random);
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("made");
        let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("as made");
        let rsa = RsaKeyPair::from_pkcs8(RSA).expect("a key");
        Signers { rsa, ec: ec.expect("as made"), ed, random }
    }

    fn jwk(&self, algorithm: &str) -> Value {
        match algorithm {
            "RS256" => {
                let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
                json!({ "kty": "RSA", "n": encode(&public.n), "e": encode(&public.e), "kid": "r" })
            }
            "ES256" => {
                let point = self.ec.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]), "kid": "e" })
            }
            "EdDSA" => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(self.ed.public_key()), "kid": "d" })
            }
            _ => json!({ "kty": "oct", "k": encode(SECRET), "kid": "h" }),
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match algorithm {
            "RS256" => {
                let mut signed = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signed).expect("signed");
                signed
            }
            "ES256" => self.ec.sign(&self.random, message).expect("signed").as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            _ => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message).as_ref().to_vec(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let algorithm = header["alg"].as_str().unwrap_or_default();
        format!("{message}.{}", encode(self.sign(algorithm, message.as_bytes())))
    }

    fn keys(&self, algorithms: &[&str]) -> Jwks {
        let keys: Vec<Value> = algorithms.iter().map(|algorithm| self.jwk(algorithm)).collect();
        Jwks::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("keys")
    }
}

const ALGORITHMS: [&str; 4] = ["RS256", "ES256", "EdDSA", "HS256"];

fn judged(keys: &Jwks, token: &str) -> Result<String, TokenFault> {
    rules().jwt(keys, token.as_bytes(), NOW).map(|vouched| vouched.user)
}

#[test]
fn a_jwt_is_taken_by_its_own_key_and_no_other() {
    let signers = Signers::new();
    let all = signers.keys(&ALGORITHMS);
    for algorithm in ALGORITHMS {
        let token = signers.token(&json!({ "alg": algorithm, "typ": "at+jwt" }), &good());
        assert_eq!(judged(&all, &token), Ok("Bob@example.test".to_owned()), "{algorithm}");
        let own = signers.jwk(algorithm);
        let id = own["kid"].as_str().expect("an id");
        let named = signers.token(&json!({ "alg": algorithm, "kid": id }), &good());
        assert!(judged(&signers.keys(&[algorithm]), &named).is_ok());
        let misnamed = signers.token(&json!({ "alg": algorithm, "kid": "other" }), &good());
        assert_eq!(judged(&all, &misnamed), Err(TokenFault::NoKey));
        let others: Vec<&str> = ALGORITHMS.into_iter().filter(|other| *other != algorithm).collect();
        assert_eq!(judged(&signers.keys(&others), &token), Err(TokenFault::NoKey), "{algorithm}");
        assert!(
            judged(&Signers::new().keys(&[algorithm]), &token).is_err()
                || ["RS256", "HS256"].contains(&algorithm)
        );
        // One octet is another: of the header, the claims, the signature.
        for at in [5, token.len() / 3, token.len() - 5] {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(rules().jwt(&all, &changed, NOW).is_err(), "{algorithm} {at}");
        }
    }
}

/// RFC 8725 §2.1: "none", and a public key taken for a secret.
#[test]
fn the_token_does_not_choose_how_it_is_verified() {
    let signers = Signers::new();
    let keys = signers.keys(&["RS256"]);
    let none = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(good().to_string()));
    assert_eq!(judged(&keys, &none), Err(TokenFault::NoKey));
    let right = signers.token(&json!({ "alg": "RS256" }), &good());
    let (message, _) = right.rsplit_once('.').expect("parts");
    assert_eq!(judged(&keys, &format!("{message}.")), Err(TokenFault::Signature));
    let message = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(good().to_string()));
    for secret in [RSA, signers.rsa.public().as_ref()] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        assert_eq!(judged(&keys, &format!("{message}.{}", encode(tag))), Err(TokenFault::NoKey));
    }
    for header in [
        json!({ "alg": "RS256", "crit": ["b64"], "b64": false }),
        json!({ "alg": "RS256", "typ": "logout+jwt" }),
    ] {
        assert_eq!(judged(&keys, &signers.token(&header, &good())), Err(TokenFault::Header));
    }
    for token in ["", ".", "..", "a.b", "a.b.c.d", "e30.e30.e30", "!.e30.e30", "bnVsbA.e30.AAAA"] {
        assert!(judged(&keys, token).is_err(), "{token}");
    }
}

#[test]
fn claims_are_as_the_rules_say() {
    let signers = Signers::new();
    let keys = signers.keys(&["EdDSA"]);
    let with = |name: &str, value: Value| {
        let mut claims = good();
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value,
        }
        judged(&keys, &signers.token(&json!({ "alg": "EdDSA" }), &claims))
    };
    for (name, value, fault) in [
        ("exp", json!(NOW - 30), TokenFault::Expired),
        ("exp", json!("tomorrow"), TokenFault::NoExpiry),
        ("exp", Value::Null, TokenFault::NoExpiry),
        ("nbf", json!(NOW + 31), TokenFault::Early),
        ("nbf", json!("now"), TokenFault::Early),
        ("iss", json!("https://id.example.test/"), TokenFault::Issuer),
        ("iss", Value::Null, TokenFault::Issuer),
        ("aud", json!("web"), TokenFault::Audience),
        ("aud", json!("mail web"), TokenFault::Audience),
        ("aud", Value::Null, TokenFault::Audience),
        ("scope", json!("imaps"), TokenFault::Scope),
        ("scope", Value::Null, TokenFault::Scope),
        ("email", Value::Null, TokenFault::User),
        ("email", json!(7), TokenFault::User),
        ("email_verified", json!(false), TokenFault::User),
        ("email_verified", json!("true"), TokenFault::User),
    ] {
        assert_eq!(with(name, value.clone()), Err(fault), "{name} {value}");
    }
    for (name, value) in [
        ("exp", json!(NOW - 29)),
        ("exp", json!(NOW as f64 + 0.5)),
        ("nbf", json!(NOW + 30)),
        ("nbf", Value::Null),
        ("aud", json!("mail")),
        ("scope", json!(["imap"])),
        ("scp", json!("imap")),
        ("email_verified", json!(true)),
    ] {
        assert!(with(name, value.clone()).is_ok(), "{name} {value}");
    }
}

/// RFC 7662 §2.2.
#[test]
fn an_introspection_has_the_last_word() {
    let judged = |answer: &str| rules().introspected(answer.as_bytes(), NOW);
    let mut active = good();
    active["active"] = json!(true);
    let vouched = judged(&active.to_string()).expect("an answer").expect("good");
    assert_eq!((vouched.user.as_str(), vouched.until_s), ("Bob@example.test", Some(NOW + 60)));
    assert!(vouched.is("") && vouched.is("BOB@example.test"));
    assert!(!vouched.is("eve@example.test") && !vouched.is("../x"));
    for (change, fault) in [
        (r#"{"active":false}"#.to_owned(), TokenFault::Inactive),
        (r#"{"active":false,"email":"bob@example.test"}"#.to_owned(), TokenFault::Inactive),
        (active.to_string().replace("mail\"", "post\""), TokenFault::Audience),
        (active.to_string().replace("id.example", "evil.example"), TokenFault::Issuer),
        (active.to_string().replace("Bob@example.test", ""), TokenFault::User),
    ] {
        assert_eq!(judged(&change), Ok(Err(fault)), "{change}");
    }
    active.as_object_mut().expect("an object").remove("iss");
    active.as_object_mut().expect("an object").remove("exp");
    assert!(judged(&active.to_string()).expect("an answer").is_ok(), "the issuer itself was asked");
    for nonsense in ["", "true", "[]", "{}", r#"{"active":"true"}"#, "<html>"] {
        assert_eq!(judged(nonsense), Err(AnswerFault), "{nonsense}");
    }
}

#[test]
fn sets_of_keys_are_read_and_mistakes_told() {
    let signers = Signers::new();
    let mut other = signers.jwk("RS256");
    other["use"] = json!("enc");
    let odd = json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" });
    let mut named = signers.jwk("ES256");
    named["alg"] = json!("ES256");
    let set = json!({ "keys": [other, odd, named] }).to_string();
    assert_eq!(format!("{:?}", Jwks::parse(set.as_bytes()).expect("one is good")), "Jwks(1 keys)");
    assert!(Jwks::parse(signers.jwk("EdDSA").to_string().as_bytes()).is_ok(), "one alone");
    for (set, what) in [
        ("x".to_owned(), "is no JSON"),
        ("[]".to_owned(), "is no JWK Set"),
        (r#"{"keys":{}}"#.to_owned(), "no array"),
        (r#"{"keys":[]}"#.to_owned(), "no key"),
        (json!({ "keys": [other] }).to_string(), "no key"),
        (r#"{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}"#.to_owned(), "key 1: \"k\" has fewer"),
        (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#.to_owned(), "2048"),
        (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#.to_owned(), "32 octets"),
        (r#"{"keys":[{"k":"AA"}]}"#.to_owned(), "kty"),
        (json!({ "keys": vec![odd.clone(); KEYS_MAX + 1] }).to_string(), "more than"),
    ] {
        let told = Jwks::parse(set.as_bytes()).expect_err(&set);
        assert!(told.contains(what), "{told}");
    }
    assert!(!format!("{:?}", signers.keys(&["HS256"])).contains("secret"));
}

#[test]
fn good_tokens_are_remembered_for_a_while() {
    let mut cache = TokenCache::new(TokenCacheLimits { entries_max: 2 });
    let digest = |token: &[u8]| TokenCache::digest(&[7; 32], token);
    let vouched = |until_s| Vouched { user: "bob@x".to_owned(), until_s };
    cache.put(&digest(b"a"), vouched(Some(NOW + 5)), 0, 10_000);
    assert_eq!(cache.get(&digest(b"a"), 9_999, NOW), Some(vouched(Some(NOW + 5))));
    assert_eq!(cache.get(&digest(b"a"), 10_000, NOW), None, "for so long");
    assert_eq!(cache.get(&digest(b"a"), 5_000, NOW + 5), None, "and no longer than it is good");
    assert_eq!(cache.get(&digest(b"b"), 0, NOW), None);
    assert_ne!(digest(b"a"), TokenCache::digest(&[8; 32], b"a"));
    for token in [&b"b"[..], b"c", b"d"] {
        cache.put(&digest(token), vouched(None), 0, 10_000);
    }
    assert_eq!(cache.len(), 2);
    assert!(!format!("{cache:?}").contains("\"d\""));
    cache.clear();
    assert!(cache.is_empty());
}
