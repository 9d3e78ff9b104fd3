//! Password schemes: what is stored in the place of a password, and how a password is checked against it.
//!
//! # Limits
//! A stored password may not ask for more than the bounds below: a slip in a file must not stop logins for days.
//!
//! # Cost
//! [`verify`] and [`hash`] block, and are for the annex. On one core of 2024: PLAIN and SSHA512 below a microsecond;
//! SHA512-CRYPT 0.2 ms for 1,000 rounds; BLF-CRYPT 200 ms at cost 12, doubling with each; ARGON2ID as [`hash`] makes
//! it 20 ms and 19 MiB of memory; SCRAM-SHA-1 and SCRAM-SHA-256 0.6 ms for 4,000 iterations.
//!
//! # RFC
//! 9106 (Argon2), 5802 and 7677 (SCRAM), 4013 (SASLprep, of passwords for SCRAM alone). Stored forms are Dovecot's; names are taken without regard to case.

mod check;
mod make;
mod scram;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::secret::Secret;

pub use check::verify;
pub use make::hash;
pub(crate) use scram::SALT_OCTETS as SCRAM_SALT_OCTETS;
pub use scram::{SCRAM_DERIVED_ITERATIONS, ScramHash, ScramKeys, ScramSalts};

/// Rounds of SHA512-CRYPT.
pub const SHA512_CRYPT_ROUNDS_MAX: u32 = 5_000_000;
/// The cost of BLF-CRYPT, as a power of two.
pub const BLF_CRYPT_COST_MAX: u32 = 17;
/// Memory of ARGON2ID, in KiB.
pub const ARGON2ID_MEMORY_KIB_MAX: u32 = 1 << 20;
/// Passes of ARGON2ID.
pub const ARGON2ID_PASSES_MAX: u32 = 64;
/// Lanes of ARGON2ID.
pub const ARGON2ID_LANES_MAX: u32 = 64;
/// Iterations of SCRAM.
pub const SCRAM_ITERATIONS_MAX: u32 = 10_000_000;

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Plain,
    Ssha512,
    Sha512Crypt,
    BlfCrypt,
    Argon2id,
    ScramSha1,
    ScramSha256,
}

/// All schemes; the first is the one for new passwords.
pub const SCHEMES: [Scheme; 7] = [
    Scheme::Argon2id,
    Scheme::BlfCrypt,
    Scheme::ScramSha256,
    Scheme::ScramSha1,
    Scheme::Sha512Crypt,
    Scheme::Ssha512,
    Scheme::Plain,
];

impl Scheme {
    /// The name between braces.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Plain => "PLAIN",
            Scheme::Ssha512 => "SSHA512",
            Scheme::Sha512Crypt => "SHA512-CRYPT",
            Scheme::BlfCrypt => "BLF-CRYPT",
            Scheme::Argon2id => "ARGON2ID",
            Scheme::ScramSha1 => "SCRAM-SHA-1",
            Scheme::ScramSha256 => "SCRAM-SHA-256",
        }
    }

    /// The scheme of that name, without regard to case.
    pub fn parse(name: &str) -> Result<Scheme, SchemeError> {
        let name = name.trim();
        // Dovecot's other names for PLAIN.
        if ["CLEAR", "CLEARTEXT"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return Ok(Scheme::Plain);
        }
        let known = SCHEMES.into_iter().find(|scheme| name.eq_ignore_ascii_case(scheme.name()));
        known.ok_or_else(|| {
            SchemeError::Unknown(name.chars().filter(char::is_ascii_graphic).take(40).collect())
        })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a stored password is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// A person must store the password in a scheme that is known.
    #[error(
        "unknown password scheme {0:?}; known are ARGON2ID, BLF-CRYPT, SCRAM-SHA-256, SCRAM-SHA-1, SHA512-CRYPT, SSHA512, PLAIN"
    )]
    Unknown(String),
    /// A person must store the password again.
    #[error("malformed {scheme} password: {what}")]
    Malformed { scheme: Scheme, what: &'static str },
    /// A person must store the password again, or raise the bound.
    #[error("{scheme} password asks for too much: {what}")]
    TooCostly { scheme: Scheme, what: &'static str },
    /// Memory or randomness is not to be had now.
    #[error("out of memory or randomness")]
    Resources,
}

/// What is stored in the place of a password. `Debug` shows the scheme alone.
#[derive(Clone)]
pub struct Stored(pub(self) Kind);

#[derive(Clone)]
enum Kind {
    Plain(Secret),
    Ssha512 { digest: [u8; 64], salt: Secret },
    Sha512Crypt(Secret),
    BlfCrypt(Secret),
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, version: argon2::Version, salt: Secret, tag: Secret },
    Scram(ScramKeys),
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({})", self.scheme())
    }
}

impl Stored {
    /// Parses `{SCHEME}…`, `{SCHEME.b64}…`, `{SCHEME.hex}…`, or a `$…$` form without braces. `Ok(None)` is a locked
    /// password (`*`, `!`, `x` and other such words without a scheme): there is no password that fits.
    pub fn parse(text: &str) -> Result<Option<Stored>, SchemeError> {
        let Some((name, value)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return crypt(text);
        };
        // Dovecot's {CRYPT} is whatever the form of the value says.
        if name.eq_ignore_ascii_case("CRYPT") {
            return crypt(value);
        }
        let (name, encoding) = name.split_once('.').unwrap_or((name, ""));
        let scheme = Scheme::parse(name)?;
        let malformed = |what| SchemeError::Malformed { scheme, what };
        let octets = if encoding.eq_ignore_ascii_case("hex") {
            Secret::new(unhex(value).ok_or(malformed("not hexadecimal"))?)
        } else if encoding.eq_ignore_ascii_case("b64") || encoding.eq_ignore_ascii_case("base64") {
            Secret::new(unbase64(value).ok_or(malformed("not base64"))?)
        } else if !encoding.is_empty() {
            return Err(malformed("the encoding after the dot is b64 or hex"));
        } else if scheme == Scheme::Ssha512 {
            Secret::new(unbase64(value).ok_or(malformed("not base64"))?)
        } else {
            Secret::new(value.as_bytes())
        };
        Stored::from_octets(scheme, octets).map(Some)
    }

    /// A password stored as it is, for users that stand in a configuration.
    pub fn plain(password: &[u8]) -> Stored {
        Stored(Kind::Plain(Secret::new(password)))
    }

    pub fn scheme(&self) -> Scheme {
        match &self.0 {
            Kind::Plain(_) => Scheme::Plain,
            Kind::Ssha512 { .. } => Scheme::Ssha512,
            Kind::Sha512Crypt(_) => Scheme::Sha512Crypt,
            Kind::BlfCrypt(_) => Scheme::BlfCrypt,
            Kind::Argon2id { .. } => Scheme::Argon2id,
            Kind::Scram(keys) => keys.hash.scheme(),
        }
    }

    /// What SCRAM needs, where it is stored.
    pub(crate) fn scram(&self) -> Option<&ScramKeys> {
        match &self.0 {
            Kind::Scram(keys) => Some(keys),
            _ => None,
        }
    }

    /// The password itself, where that is stored.
    pub(crate) fn plain_text(&self) -> Option<&Secret> {
        match &self.0 {
            Kind::Plain(password) => Some(password),
            _ => None,
        }
    }

    fn from_octets(scheme: Scheme, octets: Secret) -> Result<Stored, SchemeError> {
        let malformed = |what| SchemeError::Malformed { scheme, what };
        if scheme == Scheme::Plain {
            return if octets.expose().is_empty() {
                Err(malformed("empty"))
            } else {
                Ok(Stored(Kind::Plain(octets)))
            };
        }
        if scheme == Scheme::Ssha512 {
            let (digest, salt) = octets.expose().split_first_chunk().ok_or(malformed("too short"))?;
            return Ok(Stored(Kind::Ssha512 { digest: *digest, salt: Secret::new(salt) }));
        }
        let text = std::str::from_utf8(octets.expose()).map_err(|_| malformed("not text"))?;
        let kind = match scheme {
            Scheme::Sha512Crypt => sha512_crypt(text)?,
            Scheme::BlfCrypt => blf_crypt(text)?,
            Scheme::Argon2id => argon2id(text)?,
            Scheme::ScramSha1 => Kind::Scram(ScramKeys::parse(ScramHash::Sha1, text)?),
            _ => Kind::Scram(ScramKeys::parse(ScramHash::Sha256, text)?),
        };
        Ok(Stored(kind))
    }
}

fn crypt(value: &str) -> Result<Option<Stored>, SchemeError> {
    let scheme = match value {
        v if v.starts_with("$6$") => Scheme::Sha512Crypt,
        v if v.starts_with("$2") => Scheme::BlfCrypt,
        v if v.starts_with("$argon2") => Scheme::Argon2id,
        v if v.starts_with('$') => {
            let id = v[1..].split('$').next().unwrap_or_default();
            return Err(SchemeError::Unknown(format!("${}$", id.chars().take(20).collect::<String>())));
        }
        // As in a system's own file: no hash of any password has this form.
        v if v.is_empty() || v == "x" || v.starts_with(['*', '!']) => return Ok(None),
        _ => {
            return Err(SchemeError::Unknown(
                "CRYPT (traditional), or a password without {SCHEME}".to_owned(),
            ));
        }
    };
    Stored::from_octets(scheme, Secret::new(value.as_bytes())).map(Some)
}

/// `$6$[rounds=N$]salt$hash`.
fn sha512_crypt(text: &str) -> Result<Kind, SchemeError> {
    let scheme = Scheme::Sha512Crypt;
    let malformed = |what| SchemeError::Malformed { scheme, what };
    let mut fields =
        text.strip_prefix("$6$").ok_or(malformed("does not begin with $6$"))?.split('$').peekable();
    if let Some(rounds) = fields.peek().and_then(|field| field.strip_prefix("rounds=")) {
        match rounds.parse::<u32>().map_err(|_| malformed("rounds are no number"))? {
            ..1000 => return Err(malformed("fewer than 1000 rounds")),
            1000..=SHA512_CRYPT_ROUNDS_MAX => {}
            _ => return Err(SchemeError::TooCostly { scheme, what: "rounds" }),
        }
        fields.next();
    }
    let is_crypt64 = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b));
    match (fields.next(), fields.next(), fields.next()) {
        (Some(salt), Some(hash), None) if salt.len() <= 16 && hash.len() == 86 && is_crypt64(hash) => {
            if !is_crypt64(salt) {
                return Err(malformed("the salt has a strange character"));
            }
            Ok(Kind::Sha512Crypt(Secret::new(text.as_bytes())))
        }
        _ => Err(malformed("not a salt of up to 16 and a hash of 86 characters")),
    }
}

/// `$2y$cost$salt-and-hash`.
fn blf_crypt(text: &str) -> Result<Kind, SchemeError> {
    let scheme = Scheme::BlfCrypt;
    let malformed = |what| SchemeError::Malformed { scheme, what };
    // $2x$ marks the hashes of an implementation that was wrong about 8-bit passwords.
    if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
        return Err(malformed("does not begin with $2a$, $2b$ or $2y$"));
    }
    let parts: bcrypt::HashParts = text.parse().map_err(|_| malformed("not 60 characters of bcrypt"))?;
    match parts.get_cost() {
        4..=BLF_CRYPT_COST_MAX => Ok(Kind::BlfCrypt(Secret::new(text.as_bytes()))),
        ..4 => Err(malformed("cost below 4")),
        _ => Err(SchemeError::TooCostly { scheme, what: "cost" }),
    }
}

/// `$argon2id$v=19$m=65536,t=3,p=1$salt$tag`.
fn argon2id(text: &str) -> Result<Kind, SchemeError> {
    let scheme = Scheme::Argon2id;
    let malformed = |what| SchemeError::Malformed { scheme, what };
    let rest = text.strip_prefix("$argon2id$").ok_or(malformed("does not begin with $argon2id$"))?;
    let mut fields = rest.split('$').peekable();
    // Without v= it is version 1.0, which had no such field.
    let version = match fields.next_if(|field| field.starts_with("v=")) {
        None | Some("v=16") => argon2::Version::V0x10,
        Some("v=19") => argon2::Version::V0x13,
        Some(_) => return Err(malformed("unknown version")),
    };
    let (Some(costs), Some(salt), Some(tag), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(malformed("not costs, salt and tag"));
    };
    let mut numbers = [0; 3];
    let mut costs = costs.split(',');
    for (number, key) in numbers.iter_mut().zip(["m=", "t=", "p="]) {
        let value =
            costs.next().and_then(|cost| cost.strip_prefix(key)).and_then(|value| value.parse::<u32>().ok());
        *number = value.ok_or(malformed("costs are m=, t= and p="))?;
    }
    let [memory_kib, passes, lanes] = numbers;
    if costs.next().is_some() {
        return Err(malformed("costs are m=, t= and p="));
    }
    if memory_kib > ARGON2ID_MEMORY_KIB_MAX || passes > ARGON2ID_PASSES_MAX || lanes > ARGON2ID_LANES_MAX {
        return Err(SchemeError::TooCostly { scheme, what: "memory, passes or lanes" });
    }
    let decode =
        |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| malformed("salt or tag is not base64"));
    let (salt, tag) = (decode(salt)?, decode(tag)?);
    if !(argon2::MIN_SALT_LEN..=64).contains(&salt.len()) || !(16..=128).contains(&tag.len()) {
        return Err(malformed("salt or tag is too short or too long"));
    }
    argon2::Params::new(memory_kib, passes, lanes, Some(tag.len()))
        .map_err(|_| malformed("costs are too small"))?;
    Ok(Kind::Argon2id { memory_kib, passes, lanes, version, salt: Secret::new(salt), tag: Secret::new(tag) })
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).map(|value| value as u8);
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests;
