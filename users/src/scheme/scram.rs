//! What a server of SCRAM has in the place of a password, as stored and as made from a password.
//!
//! # Invariants
//! Names without a password get keys that nobody can prove, made from the name, so that they are the same each time.
//!
//! # RFC
//! 5802 §3, §5.1, 7677; 5803 has the same fields in another order, Dovecot's is taken.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::{SCRAM_ITERATIONS_MAX, Scheme, SchemeError};
use crate::secret::{Secret, equal};

/// Iterations where the password itself is stored: more would protect nothing that is at rest. RFC 7677 §4: at least 4096.
pub const SCRAM_DERIVED_ITERATIONS: u32 = 4096;
/// Octets of a salt that is made here for a name.
pub(crate) const SALT_OCTETS: usize = 16;
/// Octets of a stored salt.
const SALT_OCTETS_MAX: usize = 256;

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScramHash {
    Sha1,
    Sha256,
}

impl ScramHash {
    pub(super) fn scheme(self) -> Scheme {
        match self {
            ScramHash::Sha1 => Scheme::ScramSha1,
            ScramHash::Sha256 => Scheme::ScramSha256,
        }
    }

    fn parts(self) -> (pbkdf2::Algorithm, hmac::Algorithm, &'static digest::Algorithm) {
        match self {
            ScramHash::Sha1 => (
                pbkdf2::PBKDF2_HMAC_SHA1,
                hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                &digest::SHA1_FOR_LEGACY_USE_ONLY,
            ),
            ScramHash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
        }
    }

    fn key_octets(self) -> usize {
        self.parts().2.output_len()
    }
}

/// What the server of an exchange needs of a user. `Debug` shows no key.
#[derive(Clone)]
pub struct ScramKeys {
    pub hash: ScramHash,
    pub iterations: u32,
    pub salt: Secret,
    pub stored_key: Secret,
    pub server_key: Secret,
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramKeys({:?}, {} iterations)", self.hash, self.iterations)
    }
}

impl ScramKeys {
    /// Parses `iterations,salt,stored key,server key`, the last three in base64.
    pub(super) fn parse(hash: ScramHash, text: &str) -> Result<ScramKeys, SchemeError> {
        let scheme = hash.scheme();
        let malformed = |what| SchemeError::Malformed { scheme, what };
        let mut fields = text.split(',');
        let (Some(iterations), Some(salt), Some(stored), Some(server), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(malformed("not iterations, salt, stored key and server key"));
        };
        let iterations = match iterations.parse().map_err(|_| malformed("iterations are no number"))? {
            0 => return Err(malformed("no iterations")),
            iterations @ 1..=SCRAM_ITERATIONS_MAX => iterations,
            _ => return Err(SchemeError::TooCostly { scheme, what: "iterations" }),
        };
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| malformed("salt or key is not base64"));
        let key = |text: &str| match decode(text)? {
            key if key.len() == hash.key_octets() => Ok(Secret::new(key)),
            _ if hash == ScramHash::Sha1 => Err(malformed("a key has not 20 octets")),
            _ => Err(malformed("a key has not 32 octets")),
        };
        let (salt, stored_key, server_key) = (decode(salt)?, key(stored)?, key(server)?);
        if salt.is_empty() || salt.len() > SALT_OCTETS_MAX {
            return Err(malformed("salt is too short or too long"));
        }
        Ok(ScramKeys { hash, iterations, salt: Secret::new(salt), stored_key, server_key })
    }

    /// From a password, prepared as clients do it. Blocks.
    pub fn derive(hash: ScramHash, password: &[u8], salt: &[u8], iterations: u32) -> ScramKeys {
        let prepared = prepared(password);
        ScramKeys::of(hash, prepared.as_ref().map_or(password, Secret::expose), salt, iterations)
    }

    fn of(hash: ScramHash, password: &[u8], salt: &[u8], iterations: u32) -> ScramKeys {
        let (derivation, mac, digest) = hash.parts();
        let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let mut salted = vec![0; hash.key_octets()];
        // RFC 5802 §3: SaltedPassword := Hi(password, salt, i), ClientKey := HMAC(SaltedPassword, "Client Key").
        pbkdf2::derive(derivation, rounds, salt, password, &mut salted);
        let salted = Secret::new(salted);
        let key = hmac::Key::new(mac, salted.expose());
        let client_key = hmac::sign(&key, b"Client Key");
        ScramKeys {
            hash,
            iterations: rounds.get(),
            salt: Secret::new(salt),
            stored_key: Secret::new(digest::digest(digest, client_key.as_ref()).as_ref()),
            server_key: Secret::new(hmac::sign(&key, b"Server Key").as_ref()),
        }
    }

    /// As it stands in a file, without its scheme.
    pub(crate) fn stored(&self) -> String {
        let [salt, stored, server] =
            [&self.salt, &self.stored_key, &self.server_key].map(|octets| STANDARD.encode(octets.expose()));
        format!("{},{salt},{stored},{server}", self.iterations)
    }

    /// Whether they are this password's. Blocks.
    pub(super) fn fit(&self, password: &[u8]) -> bool {
        let are_of = |password: &[u8]| {
            let keys = ScramKeys::of(self.hash, password, self.salt.expose(), self.iterations);
            equal(self.stored_key.expose(), keys.stored_key.expose())
                & equal(self.server_key.expose(), keys.server_key.expose())
        };
        // Other programs store them without preparation.
        prepared(password).is_some_and(|prepared| are_of(prepared.expose())) || are_of(password)
    }
}

/// SASLprep, which clients of SCRAM apply to what their user types; `None` where it changes nothing. What it refuses stays as it
/// is.
fn prepared(password: &[u8]) -> Option<Secret> {
    match std::str::from_utf8(password).map(stringprep::saslprep) {
        Ok(Ok(Cow::Owned(prepared))) => {
            Some(Secret::new(prepared.into_bytes())).filter(|it| it.expose() != password)
        }
        _ => None,
    }
}

/// Makes the salts of passwords that are stored as they are, and keys for names that have none: the same each time.
#[derive(Clone, Debug)]
pub struct ScramSalts(hmac::Key);

impl ScramSalts {
    /// `secret` is random. Where several nodes serve the same users, or users are not to see a restart, it is always the same.
    pub fn new(secret: &[u8]) -> ScramSalts {
        ScramSalts(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn make(&self, what: &str, hash: ScramHash, name: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [what, hash.scheme().name(), name] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        context.sign()
    }

    pub(crate) fn salt(&self, hash: ScramHash, name: &str, octets: usize) -> Vec<u8> {
        let octets = octets.min(SALT_OCTETS_MAX);
        let mut salt = Vec::new();
        for part in 0.. {
            if salt.len() >= octets {
                break;
            }
            salt.extend_from_slice(self.make(&format!("salt {part}"), hash, name).as_ref());
        }
        salt.truncate(octets);
        salt
    }

    /// Keys that nobody can prove.
    pub(crate) fn unknown(&self, hash: ScramHash, name: &str, salt: Vec<u8>, iterations: u32) -> ScramKeys {
        let key = |what| Secret::new(&self.make(what, hash, name).as_ref()[..hash.key_octets()]);
        let (stored_key, server_key) = (key("stored"), key("server"));
        ScramKeys { hash, iterations, salt: Secret::new(salt), stored_key, server_key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for hash in [ScramHash::Sha1, ScramHash::Sha256] {
            let keys = ScramKeys::derive(hash, b"pencil", b"salt", 4096);
            let read = ScramKeys::parse(hash, &keys.stored()).expect("as written");
            assert_eq!(read.stored(), keys.stored());
            assert!(read.fit(b"pencil") && !read.fit(b"pencils"));
            let shown = format!("{keys:?}");
            assert!(shown.len() < 40, "{shown}");
        }
        // RFC 5802 §5, of which the RFC has no keys: by Python's hashlib.
        let salt = STANDARD.decode("QSXCR+Q6sek8bf92").expect("base64");
        let keys = ScramKeys::derive(ScramHash::Sha1, b"pencil", &salt, 4096);
        assert_eq!(
            keys.stored(),
            "4096,QSXCR+Q6sek8bf92,6dlGYMOdZcOPutkcNY8U2g7vK9Y=,D+CSWLOshSulAsxiupA+qs2/fTE="
        );
    }

    /// RFC 4013 §3: a soft hyphen means nothing, a Roman numeral is its letters; a bell is refused.
    #[test]
    fn passwords_are_prepared_and_may_be_stored_unprepared() {
        let keys = |password: &str| ScramKeys::derive(ScramHash::Sha256, password.as_bytes(), b"salt", 1);
        let raw = |password: &str| ScramKeys::of(ScramHash::Sha256, password.as_bytes(), b"salt", 1);
        for (password, prepared) in
            [("I\u{ad}X", "IX"), ("\u{2168}", "IX"), ("\u{aa}", "a"), ("user", "user")]
        {
            assert_eq!(keys(password).stored(), raw(prepared).stored(), "{password:?}");
            assert!(keys(password).fit(prepared.as_bytes()) && raw(password).fit(password.as_bytes()));
        }
        assert_eq!(keys("a\u{7}").stored(), raw("a\u{7}").stored());
        assert!(ScramKeys::derive(ScramHash::Sha1, b"\xff", b"salt", 1).fit(b"\xff"));
    }

    #[test]
    fn salts_depend_on_all_that_is_given() {
        let salts = ScramSalts::new(b"secret");
        let salt = salts.salt(ScramHash::Sha1, "a@x", 40);
        assert_eq!((salt.len(), &salt), (40, &ScramSalts::new(b"secret").salt(ScramHash::Sha1, "a@x", 40)));
        for other in [
            salts.salt(ScramHash::Sha256, "a@x", 40),
            salts.salt(ScramHash::Sha1, "b@x", 40),
            ScramSalts::new(b"other").salt(ScramHash::Sha1, "a@x", 40),
        ] {
            assert_ne!(salt, other);
        }
    }
}
