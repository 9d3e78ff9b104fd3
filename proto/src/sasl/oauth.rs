//! OAUTHBEARER and XOAUTH2: how a client hands over a token, and how it is told that the token was refused.
//!
//! # RFC
//! 7628; 6750 §2.1 (the form of a token).

use super::{Failure, Mechanism, Secret, identity};

/// Ends each pair of key and value.
const SEPARATOR: u8 = 1;

/// What a client needs to get another token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// What a token must be good for; may be empty.
    pub scope: String,
    /// Where the authorization server describes itself; may be empty.
    pub openid_configuration: String,
}

impl Discovery {
    /// Why a token was refused, as JSON.
    pub(super) fn refusal(&self, mechanism: Mechanism) -> String {
        let mut members = match mechanism {
            Mechanism::Xoauth2 => vec![("status", "401"), ("schemes", "bearer")],
            _ => vec![("status", "invalid_token")],
        };
        // RFC 7628 §3.2.2: left out where there is none.
        if !self.scope.is_empty() {
            members.push(("scope", &self.scope));
        }
        if !self.openid_configuration.is_empty() && mechanism != Mechanism::Xoauth2 {
            members.push(("openid-configuration", &self.openid_configuration));
        }
        let members: Vec<_> =
            members.iter().map(|(key, value)| format!("\"{key}\":{}", json(value))).collect();
        format!("{{{}}}", members.join(","))
    }
}

/// A JSON string.
fn json(text: &str) -> String {
    let mut string = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => string.extend(['\\', letter]),
            control if control < ' ' => string += &format!("\\u{:04x}", control as u32),
            letter => string.push(letter),
        }
    }
    string.push('"');
    string
}

/// OAUTHBEARER, `n,a=user,^Aauth=Bearer token^A^A`: the user, empty where none is named, and the token, `None` where it is
/// left empty.
pub(super) fn bearer(message: &[u8]) -> Result<(String, Option<Secret>), Failure> {
    let at = message.iter().position(|&byte| byte == SEPARATOR).ok_or(Failure::Malformed)?;
    let (header, pairs) = (&message[..at], &message[at + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| Failure::Malformed)?;
    let mut fields = header.split(',');
    // RFC 7628 §3.1: a GS2 header. There is nothing to bind a token to.
    let (Some("n" | "y"), Some(authzid), Some(""), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Failure::Malformed);
    };
    let user = super::scram::authorization(authzid)?.unwrap_or_default();
    Ok((user, token(pairs)?))
}

/// XOAUTH2, `user=…^Aauth=Bearer token^A^A`.
pub(super) fn xoauth2(message: &[u8]) -> Result<(String, Option<Secret>), Failure> {
    let rest = message.strip_prefix(b"user=").ok_or(Failure::Malformed)?;
    let at = rest.iter().position(|&byte| byte == SEPARATOR).ok_or(Failure::Malformed)?;
    Ok((identity(&rest[..at])?, token(&rest[at + 1..])?))
}

/// The token among `key=value^A…^A`; others of the keys tell nothing that is not known.
fn token(pairs: &[u8]) -> Result<Option<Secret>, Failure> {
    let pairs = match pairs {
        [SEPARATOR] => return Ok(None),
        [pairs @ .., SEPARATOR, SEPARATOR] => pairs,
        _ => return Err(Failure::Malformed),
    };
    let mut token = None;
    for pair in pairs.split(|&byte| byte == SEPARATOR) {
        let at = pair.iter().position(|&byte| byte == b'=').ok_or(Failure::Malformed)?;
        let (key, value) = (&pair[..at], &pair[at + 1..]);
        if key.is_empty() || !key.iter().all(u8::is_ascii_alphabetic) {
            return Err(Failure::Malformed);
        }
        if key.eq_ignore_ascii_case(b"auth") && token.replace(value).is_some() {
            return Err(Failure::Malformed);
        }
    }
    let Some(value) = token.filter(|value| !value.is_empty()) else { return Ok(None) };
    // RFC 6750 §2.1, RFC 7628 §3.1: the scheme has no case.
    let (scheme, token) = value.split_at_checked(7).ok_or(Failure::Malformed)?;
    let token = token.trim_ascii_start();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.is_empty() || !token.iter().all(plain) {
        return Err(Failure::Malformed);
    }
    Ok(Some(Secret::new(token.to_vec())))
}
