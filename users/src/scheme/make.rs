//! Making what is stored from a password.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha_crypt::{PasswordHasher, ShaCrypt};

use super::check::{argon2id, ssha512};
use super::{Scheme, SchemeError, ScramHash, ScramKeys};

/// ARGON2ID: 19 MiB, 2 passes, 1 lane: what a login storm can pay for, and as hard for a guesser as RFC 9106's
/// larger choices are for their price.
const ARGON2ID_MEMORY_KIB: u32 = 19 * 1024;
const ARGON2ID_PASSES: u32 = 2;
const ARGON2ID_LANES: u32 = 1;
const ARGON2ID_TAG_OCTETS: usize = 32;
const BLF_CRYPT_COST: u32 = 12;
const SHA512_CRYPT_ROUNDS: u32 = 50_000;
/// RFC 7677 §4: at least 4096.
const SCRAM_ITERATIONS: u32 = 15_000;

/// Makes the stored form, `{SCHEME}…`, with a fresh salt: a field of a passwd-file as it stands. Blocks.
pub fn hash(scheme: Scheme, password: &[u8]) -> Result<String, SchemeError> {
    let value = match scheme {
        Scheme::Plain => {
            // A colon ends the field and a line end the line.
            return match std::str::from_utf8(password) {
                Ok(text) if !text.contains([':', '\r', '\n']) => Ok(format!("{{PLAIN}}{text}")),
                _ => Ok(format!("{{PLAIN.b64}}{}", STANDARD.encode(password))),
            };
        }
        Scheme::Ssha512 => {
            let salt: [u8; 8] = random()?;
            let mut octets = ssha512(password, &salt).as_ref().to_vec();
            octets.extend_from_slice(&salt);
            STANDARD.encode(octets)
        }
        Scheme::Sha512Crypt => {
            let params = sha_crypt::Params::new(SHA512_CRYPT_ROUNDS).map_err(|_| SchemeError::Resources)?;
            // 12 octets are the 16 characters of a whole salt.
            let salt: [u8; 12] = random()?;
            let hasher = ShaCrypt::new(sha_crypt::Algorithm::Sha512Crypt, params);
            let hash = hasher.hash_password_with_salt(password, &salt).map_err(|_| SchemeError::Resources)?;
            hash.as_str().to_owned()
        }
        Scheme::BlfCrypt => {
            let parts = bcrypt::hash_with_salt(password, BLF_CRYPT_COST, random()?);
            parts.map_err(|_| SchemeError::Resources)?.format_for_version(bcrypt::Version::TwoY)
        }
        Scheme::Argon2id => {
            let (memory, passes, lanes) = (ARGON2ID_MEMORY_KIB, ARGON2ID_PASSES, ARGON2ID_LANES);
            let params = argon2::Params::new(memory, passes, lanes, Some(ARGON2ID_TAG_OCTETS));
            let params = params.map_err(|_| SchemeError::Resources)?;
            let salt: [u8; 16] = random()?;
            let tag = argon2id(argon2::Version::V0x13, params, password, &salt, ARGON2ID_TAG_OCTETS)?;
            let [salt, tag] = [&salt[..], tag.expose()].map(|octets| STANDARD_NO_PAD.encode(octets));
            format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${tag}")
        }
        Scheme::ScramSha1 => scram(ScramHash::Sha1, password)?,
        Scheme::ScramSha256 => scram(ScramHash::Sha256, password)?,
    };
    Ok(format!("{{{scheme}}}{value}"))
}

fn scram(hash: ScramHash, password: &[u8]) -> Result<String, SchemeError> {
    let salt: [u8; 16] = random()?;
    Ok(ScramKeys::derive(hash, password, &salt, SCRAM_ITERATIONS).stored())
}

fn random<const N: usize>() -> Result<[u8; N], SchemeError> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(|_| SchemeError::Resources)?;
    Ok(octets)
}
