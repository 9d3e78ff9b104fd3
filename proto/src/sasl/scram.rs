//! SCRAM: the server's end of the exchange, with and without channel binding.
//!
//! # Invariants
//! Whether the nonce, the channel or the proof is wrong makes no difference to the client, nor does the time that it takes.
//!
//! # Limits
//! [`NONCE_OCTETS_MAX`] for the client's nonce.
//!
//! # RFC
//! 5802, 7677; 9266 (tls-exporter), 5929 §4 (tls-server-end-point). tls-unique is not offered: TLS 1.3 has none, and in
//! TLS 1.2 it is as weak as the renegotiation that RFC 7627 mends.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};

use super::{Channel, Failure, Mechanism, Secret, identity};

/// The longest nonce of a client, in octets.
pub const NONCE_OCTETS_MAX: usize = 256;

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => hmac::HMAC_SHA256,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &digest::SHA256,
        }
    }
}

/// What TLS gives to bind an exchange to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// RFC 9266: 32 octets that only the two ends of this connection know. TLS 1.3.
    pub exporter: Option<Vec<u8>>,
    /// RFC 5929 §4: the hash of the server's certificate.
    pub end_point: Option<Vec<u8>>,
}

impl Bindings {
    pub fn is_empty(&self) -> bool {
        self.exporter.is_none() && self.end_point.is_none()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.exporter.as_deref(),
            "tls-server-end-point" => self.end_point.as_deref(),
            _ => None,
        }
    }
}

/// What a server has in the place of a password, and a nonce.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Random, of printable ASCII without comma; never used before.
    pub nonce: String,
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub stored_key: Secret,
    pub server_key: Secret,
}

/// The client's first message.
#[derive(Debug)]
pub(super) struct First {
    hash: Hash,
    user: String,
    /// What the client must say for its channel: base64.
    channel: String,
    bare: String,
    nonce: String,
}

/// The client's last message is waited for.
#[derive(Debug)]
pub(super) struct Waiting {
    hash: Hash,
    user: String,
    channel: String,
    /// Both ends' first messages, without the binding.
    said: String,
    nonce: String,
    stored_key: Secret,
    server_key: Secret,
}

/// Reads the client's first message: `n,,n=user,r=nonce`.
pub(super) fn first(message: &[u8], hash: Hash, plus: bool, channel: &Channel) -> Result<First, Failure> {
    let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
    let (flag, rest) = text.split_once(',').ok_or(Failure::Malformed)?;
    let (authzid, bare) = rest.split_once(',').ok_or(Failure::Malformed)?;
    let bound = bound(flag, hash, plus, channel)?;
    // RFC 5802 §5.1: "m" would change what the rest means, so it is refused; it can only stand here.
    let mut attributes = bare.split(',');
    let user = attributes.next().and_then(|it| it.strip_prefix("n=")).ok_or(Failure::Malformed)?;
    let nonce = attributes.next().and_then(|it| it.strip_prefix("r=")).ok_or(Failure::Malformed)?;
    if nonce.len() > NONCE_OCTETS_MAX {
        return Err(Failure::TooLong);
    }
    if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Malformed);
    }
    let user = name(user)?;
    // As with PLAIN: one may only be oneself.
    if authorization(authzid)?.is_some_and(|authzid| !authzid.eq_ignore_ascii_case(&user)) {
        return Err(Failure::AuthorizationRefused);
    }
    let header = &message[..message.len() - bare.len()];
    let channel = STANDARD.encode([header, bound.unwrap_or_default()].concat());
    Ok(First { hash, user, channel, bare: bare.to_owned(), nonce: nonce.to_owned() })
}

/// RFC 5802 §6: the octets of the binding that the client's flag asks for.
fn bound<'a>(flag: &str, hash: Hash, plus: bool, channel: &'a Channel) -> Result<Option<&'a [u8]>, Failure> {
    let offered = channel.offered.contains(match hash {
        Hash::Sha1 => Mechanism::ScramSha1Plus,
        Hash::Sha256 => Mechanism::ScramSha256Plus,
    });
    match (flag.strip_prefix("p="), flag, plus) {
        (Some(name), _, true) => channel.bindings.get(name).map(Some).ok_or(Failure::BindingUnknown),
        (None, "n", false) => Ok(None),
        // The client would have bound itself, had it seen that this server can: the list did not reach it as it was sent.
        (None, "y", false) if offered => Err(Failure::Downgraded),
        (None, "y", false) => Ok(None),
        _ => Err(Failure::Malformed),
    }
}

/// The authorization identity of a GS2 header. RFC 5801 §4 wants it left out where it is empty; some clients write `a=`.
pub(super) fn authorization(text: &str) -> Result<Option<String>, Failure> {
    match text {
        "" | "a=" => Ok(None),
        text => name(text.strip_prefix("a=").ok_or(Failure::Malformed)?).map(Some),
    }
}

/// RFC 5802 §5.1: `,` and `=` in a name are written `=2C` and `=3D`.
fn name(text: &str) -> Result<String, Failure> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        name.push_str(before);
        name.push(match after.get(..2) {
            Some("2C") => ',',
            Some("3D") => '=',
            _ => return Err(Failure::Malformed),
        });
        rest = &after[2..];
    }
    name.push_str(rest);
    identity(name.as_bytes())
}

impl First {
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// The server's first message, in base64, and what then is waited for.
    pub(super) fn answer(self, keys: Keys) -> (Waiting, String) {
        let First { hash, user, channel, mut bare, mut nonce } = self;
        nonce.push_str(&keys.nonce);
        let said = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        write!(bare, ",{said}").expect("a String takes every character");
        let Keys { stored_key, server_key, .. } = keys;
        let waiting = Waiting { hash, user, channel, said: bare, nonce, stored_key, server_key };
        (waiting, STANDARD.encode(said))
    }
}

impl Waiting {
    /// Reads the client's last message, `c=…,r=…,p=…`. Gives the user, and where the client knows the password, the server's
    /// last message in base64.
    pub(super) fn verify(self, message: &[u8]) -> Result<(String, Option<String>), Failure> {
        let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Failure::Malformed)?;
        let mut attributes = without_proof.split(',');
        let channel = attributes.next().and_then(|it| it.strip_prefix("c=")).ok_or(Failure::Malformed)?;
        let nonce = attributes.next().and_then(|it| it.strip_prefix("r=")).ok_or(Failure::Malformed)?;
        let mut proof = Secret::new(STANDARD.decode(proof).map_err(|_| Failure::Malformed)?);
        if proof.0.len() != self.hash.digest().output_len() {
            return Err(Failure::Malformed);
        }
        let said = format!("{},{without_proof}", self.said);
        // RFC 5802 §3: ClientKey := ClientProof XOR HMAC(StoredKey, AuthMessage), and its hash is StoredKey.
        let signature = sign(self.hash, &self.stored_key, &said);
        proof.0.iter_mut().zip(signature.as_ref()).for_each(|(proof, signature)| *proof ^= signature);
        let key = digest::digest(self.hash.digest(), proof.expose());
        let right = equal(channel.as_bytes(), self.channel.as_bytes())
            & equal(nonce.as_bytes(), self.nonce.as_bytes())
            & equal(key.as_ref(), self.stored_key.expose());
        let server = right.then(|| {
            let signature = sign(self.hash, &self.server_key, &said);
            STANDARD.encode(format!("v={}", STANDARD.encode(signature)))
        });
        Ok((self.user, server))
    }
}

fn sign(hash: Hash, key: &Secret, said: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hash.hmac(), key.expose()), said.as_bytes())
}

/// Compares in a time that depends on the lengths alone.
fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference =
        left.iter().zip(right).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    std::hint::black_box(difference) == 0
}
