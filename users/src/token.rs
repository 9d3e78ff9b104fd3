//! Tokens of OAuth 2.0: whom one is for, and whether it is good here.
//!
//! Two ways lead here: a JWT that is verified with the issuer's keys ([`Jwks`]), and what the issuer says of a token that it is
//! asked about ([`TokenRules::introspected`]). The claims are then the same, and so are the rules.
//!
//! # Invariants
//! Nothing that a token says of itself chooses how it is verified: a key has one algorithm, and the token's header must
//! name that one. A token that is refused is refused for good; that it cannot be found out is another answer.
//!
//! # Limits
//! [`KEYS_MAX`], [`TokenCacheLimits`].
//!
//! # RFC
//! 7515, 7517, 7518 §3, 7519, 7662, 8037 (EdDSA), 8725 (how JWTs go wrong).

mod jwks;

use culver_model::AccountId;
use ring::hmac;
use serde_json::{Map, Value};

use crate::table::Table;

pub use jwks::{Jwks, KEYS_MAX};

/// What a token must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRules {
    /// `iss`. A JWT must have it; an introspection that has another is refused.
    pub issuer: Option<String>,
    /// Must be among `aud`.
    pub audience: Option<String>,
    /// All of these must be granted.
    pub scope: Vec<String>,
    /// The claim that names the user.
    pub username_claim: String,
    /// How far clocks may be apart, in seconds.
    pub leeway_s: u64,
}

/// Whom a good token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// As the claim has it: not yet canonical.
    pub user: String,
    /// When it ends, in seconds since 1970; `None` where nobody says.
    pub until_s: Option<u64>,
}

impl Vouched {
    /// Whether a client that calls itself this, if it says so, may have the token.
    pub fn is(&self, claimed: &str) -> bool {
        let account = |name: &str| AccountId::parse(name).ok();
        claimed.is_empty() || (account(claimed).is_some() && account(claimed) == account(&self.user))
    }
}

/// Why a token is refused, for the log: it never quotes the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    #[error("it is no JWT")]
    NotJwt,
    #[error("its header asks for what is not known here")]
    Header,
    #[error("none of the keys is of its id and algorithm")]
    NoKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("the issuer says that it is not active")]
    Inactive,
    #[error("it has expired")]
    Expired,
    #[error("it does not say when it expires")]
    NoExpiry,
    #[error("its time has not come")]
    Early,
    #[error("another issuer made it")]
    Issuer,
    #[error("it was made for another audience")]
    Audience,
    #[error("it lacks a scope")]
    Scope,
    #[error("its user is not named, or the address is not verified")]
    User,
}

/// The issuer's answer makes no sense: a person acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no JSON object with a boolean \"active\" (RFC 7662 §2.2)")]
pub struct AnswerFault;

impl TokenRules {
    /// Whom a JWT is for. Costs a verified signature, some 100 µs: for the annex.
    pub fn jwt(&self, keys: &Jwks, token: &[u8], now_s: u64) -> Result<Vouched, TokenFault> {
        let claims = keys.verify(token)?;
        // RFC 9068 §4: exp, iss and aud are looked at always.
        if number(&claims, "exp").is_none() {
            return Err(TokenFault::NoExpiry);
        }
        if self.issuer.as_deref() != claims.get("iss").and_then(Value::as_str) {
            return Err(TokenFault::Issuer);
        }
        self.claims(&claims, now_s)
    }

    /// Whom a token is for, by the answer of the issuer.
    pub fn introspected(
        &self,
        answer: &[u8],
        now_s: u64,
    ) -> Result<Result<Vouched, TokenFault>, AnswerFault> {
        let Ok(Value::Object(claims)) = serde_json::from_slice(answer) else { return Err(AnswerFault) };
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(self.claims(&claims, now_s)),
            // RFC 7662 §2.2: whatever the reason, nothing more is told.
            Some(Value::Bool(false)) => Ok(Err(TokenFault::Inactive)),
            _ => Err(AnswerFault),
        }
    }

    fn claims(&self, claims: &Map<String, Value>, now_s: u64) -> Result<Vouched, TokenFault> {
        let until_s = match claims.get("exp") {
            None => None,
            Some(_) => Some(number(claims, "exp").ok_or(TokenFault::Expired)?),
        };
        // RFC 7519 §4.1.4: on or after it, the token must not be taken.
        if until_s.is_some_and(|until_s| until_s.saturating_add(self.leeway_s) <= now_s) {
            return Err(TokenFault::Expired);
        }
        if claims.contains_key("nbf")
            && number(claims, "nbf").is_none_or(|from_s| from_s > now_s.saturating_add(self.leeway_s))
        {
            return Err(TokenFault::Early);
        }
        if let (Some(issuer), Some(claimed)) = (&self.issuer, claims.get("iss"))
            && claimed.as_str() != Some(issuer)
        {
            return Err(TokenFault::Issuer);
        }
        if let Some(audience) = &self.audience
            && !words(claims, "aud", false).any(|claimed| claimed == audience)
        {
            return Err(TokenFault::Audience);
        }
        let granted: Vec<&str> = words(claims, "scope", true).chain(words(claims, "scp", true)).collect();
        if !self.scope.iter().all(|wanted| granted.contains(&&**wanted)) {
            return Err(TokenFault::Scope);
        }
        let user = claims.get(&self.username_claim).and_then(Value::as_str).unwrap_or_default();
        let unverified = self.username_claim == "email"
            && claims.get("email_verified").is_some_and(|verified| verified.as_bool() != Some(true));
        if user.is_empty() || unverified {
            return Err(TokenFault::User);
        }
        Ok(Vouched { user: user.to_owned(), until_s })
    }
}

/// Seconds since 1970. RFC 7519 §2: a NumericDate may have a fraction.
fn number(claims: &Map<String, Value>, name: &str) -> Option<u64> {
    let value = claims.get(name)?;
    value.as_u64().or_else(|| value.as_f64().filter(|date| *date >= 0.0).map(|date| date as u64))
}

/// The words of a claim that is a string or an array of strings.
fn words<'a>(claims: &'a Map<String, Value>, name: &str, split: bool) -> impl Iterator<Item = &'a str> {
    let strings: Vec<&str> = match claims.get(name) {
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(array)) => array.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    strings.into_iter().flat_map(move |text| match split {
        true => text.split(' ').collect::<Vec<_>>(),
        false => vec![text],
    })
}

/// The bounds of a [`TokenCache`].
#[derive(Clone, Copy, Debug)]
pub struct TokenCacheLimits {
    /// Tokens on one shard; the one that was put first makes room. 20,000.
    pub entries_max: usize,
}

impl Default for TokenCacheLimits {
    fn default() -> TokenCacheLimits {
        TokenCacheLimits { entries_max: 20_000 }
    }
}

/// Tokens that were good a moment ago. Those that were refused are not kept: guessing empties nothing.
#[derive(Debug)]
pub struct TokenCache(Table<[u8; 32], Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    user: String,
    until_s: Option<u64>,
    /// When the cache forgets it.
    until_ms: u64,
}

impl TokenCache {
    pub fn new(limits: TokenCacheLimits) -> TokenCache {
        TokenCache(Table::new(limits.entries_max))
    }

    /// What stands for a token here. `key` is random and new for each process, and the same on all its shards.
    pub fn digest(key: &[u8; 32], token: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), token);
        tag.as_ref().try_into().expect("SHA-256 has 32 octets")
    }

    pub fn get(&self, digest: &[u8; 32], now_ms: u64, now_s: u64) -> Option<Vouched> {
        let known = self.0.get(digest)?;
        let holds = now_ms < known.until_ms && known.until_s.is_none_or(|until_s| now_s < until_s);
        holds.then(|| Vouched { user: known.user.clone(), until_s: known.until_s })
    }

    /// Remembers a good token for so long, and no longer than it is good.
    pub fn put(&mut self, digest: &[u8; 32], vouched: Vouched, now_ms: u64, keep_ms: u64) {
        self.0.expire(|known| known.until_ms <= now_ms);
        let Vouched { user, until_s } = vouched;
        *self.0.entry(digest) = Known { user, until_s, until_ms: now_ms.saturating_add(keep_ms) };
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
