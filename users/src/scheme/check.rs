//! Checking a password against what is stored.

use argon2::{Algorithm, Argon2, Params};
use ring::digest;
use sha_crypt::{PasswordVerifier, ShaCrypt};

use crate::secret::{Secret, equal};

use super::{Kind, Scheme, SchemeError, Stored};

/// Whether the password fits. Blocks: see the module's cost. Comparisons take the same time wherever octets differ.
pub fn verify(stored: &Stored, password: &[u8]) -> Result<bool, SchemeError> {
    match &stored.0 {
        Kind::Plain(plain) => {
            // Digests have one length, so the time tells nothing about the password's.
            let [left, right] =
                [plain.expose(), password].map(|octets| digest::digest(&digest::SHA256, octets));
            Ok(equal(left.as_ref(), right.as_ref()))
        }
        Kind::Ssha512 { digest, salt } => Ok(equal(digest, ssha512(password, salt.expose()).as_ref())),
        Kind::Sha512Crypt(text) => {
            let scheme = Scheme::Sha512Crypt;
            let malformed = |what| SchemeError::Malformed { scheme, what };
            let text = std::str::from_utf8(text.expose()).map_err(|_| malformed("not text"))?;
            match ShaCrypt::default().verify_password(password, text) {
                Ok(()) => Ok(true),
                Err(sha_crypt::password_hash::Error::PasswordInvalid) => Ok(false),
                Err(_) => Err(malformed("not a hash")),
            }
        }
        Kind::BlfCrypt(text) => {
            let malformed = SchemeError::Malformed { scheme: Scheme::BlfCrypt, what: "not a hash" };
            let text = std::str::from_utf8(text.expose()).map_err(|_| malformed.clone())?;
            // As everywhere, 72 octets of the password count.
            bcrypt::verify(password, text).map_err(|_| malformed)
        }
        Kind::Argon2id { memory_kib, passes, lanes, version, salt, tag } => {
            let params = Params::new(*memory_kib, *passes, *lanes, Some(tag.expose().len()));
            let params =
                params.map_err(|_| SchemeError::Malformed { scheme: Scheme::Argon2id, what: "costs" })?;
            let computed = argon2id(*version, params, password, salt.expose(), tag.expose().len())?;
            Ok(equal(tag.expose(), computed.expose()))
        }
        Kind::Scram(keys) => Ok(keys.fit(password)),
    }
}

pub(super) fn ssha512(password: &[u8], salt: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(password);
    context.update(salt);
    context.finish()
}

pub(super) fn argon2id(
    version: argon2::Version,
    params: Params,
    password: &[u8],
    salt: &[u8],
    tag_octets: usize,
) -> Result<Secret, SchemeError> {
    let mut tag = vec![0; tag_octets];
    let hasher = Argon2::new(Algorithm::Argon2id, version, params);
    // Parameters and lengths were checked when the password was parsed: what is left is memory.
    hasher.hash_password_into(password, salt, &mut tag).map_err(|_| SchemeError::Resources)?;
    Ok(Secret::new(tag))
}
