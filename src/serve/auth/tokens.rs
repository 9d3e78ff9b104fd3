//! Tokens of OAUTHBEARER and XOAUTH2: verified with the issuer's keys on the annex, or asked about where they were issued.
//!
//! # Invariants
//! An issuer that gives no answer, or none that makes sense, is `Unavailable`, never a refused token. A token goes to nobody but
//! the issuer, and into no log.
//!
//! # Limits
//! [`ASKED_MAX`] questions of a shard under way, [`ANSWER_OCTETS_MAX`] of an answer, `oauth2.timeout` for each.
//!
//! # RFC
//! 7662.

use crate::config::{Config, Oauth2Config, Verification};
use crate::serve::Shard;
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culver_proto::sasl::Secret;
use culver_shard::http::{Http, Octets, Sent};
use culver_shard::{annex, time};
use culver_users::{Jwks, TokenCache, Vouched};
use hyper::{Method, Request};
use std::cell::Cell;
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Questions of one shard that wait for an answer.
const ASKED_MAX: usize = 256;
/// Octets of an answer.
const ANSWER_OCTETS_MAX: usize = 64 << 10;

/// What the files of the configuration say, for all shards.
pub enum Tokens {
    Keys(Jwks),
    /// The value of `Authorization`.
    Client(Option<Secret>),
}

/// What a token came to.
pub enum Judged {
    Good(Vouched),
    Refused,
    Unavailable,
}

/// Reads what the configuration names.
pub fn load_blocking(config: &Config) -> Result<Option<Arc<Tokens>>> {
    let Some(oauth2) = &config.oauth2 else { return Ok(None) };
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let tokens = match &oauth2.verification {
        Verification::Keys(path) => {
            let keys = Jwks::parse(&read(path)?).map_err(|what| anyhow!("{} {what}", path.display()))?;
            Tokens::Keys(keys)
        }
        Verification::Introspection(how) => match &how.client {
            None => Tokens::Client(None),
            Some((id, path)) => {
                let secret = Secret::new(read(path)?);
                let secret = secret.expose().trim_ascii_end();
                if secret.is_empty() {
                    bail!("{} is empty", path.display());
                }
                // RFC 6749 §2.3.1: both are encoded as in a form.
                let both =
                    Secret::new(format!("{}:{}", encoded(id.as_bytes()), encoded(secret)).into_bytes());
                let header = format!("Basic {}", STANDARD.encode(both.expose()));
                Tokens::Client(Some(Secret::new(header.into_bytes())))
            }
        },
    };
    Ok(Some(Arc::new(tokens)))
}

/// One shard's way to the issuer.
pub struct Issuer {
    http: Http,
    asked: Cell<usize>,
}

impl Issuer {
    /// `None` where nobody is asked.
    pub async fn open(config: &Config) -> Result<Option<Issuer>> {
        let Some(Oauth2Config { verification: Verification::Introspection(how), .. }) = &config.oauth2 else {
            return Ok(None);
        };
        let tls = match how.endpoint.tls {
            true => {
                Some(culver_shard::tls::client(how.ca.as_deref()).await.context("oauth2.introspection_url")?)
            }
            false => None,
        };
        let http = Http::new(how.endpoint.clone(), tls).context("oauth2.introspection_url")?;
        Ok(Some(Issuer { http, asked: Cell::new(0) }))
    }
}

/// A question that is under way.
struct Asked<'a>(&'a Cell<usize>);

impl<'a> Asked<'a> {
    fn begin(asked: &'a Cell<usize>) -> Option<Asked<'a>> {
        if asked.get() >= ASKED_MAX {
            return None;
        }
        asked.set(asked.get() + 1);
        Some(Asked(asked))
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn now_s() -> u64 {
    u64::try_from(time::wall().0).unwrap_or(0)
}

/// Whom a token is for. `id` is of the session, for the log.
pub async fn judge(shard: &Rc<Shard>, token: &Secret, id: super::SessionId) -> Judged {
    let (Some(oauth2), Some(tokens)) = (&shard.config().oauth2, shard.tokens()) else {
        return Judged::Refused;
    };
    let judged = match &*tokens {
        Tokens::Keys(_) => {
            let (rules, token, tokens) = (oauth2.rules.clone(), token.clone(), tokens.clone());
            let verified = annex::run(move || match &*tokens {
                Tokens::Keys(keys) => Some(rules.jwt(keys, token.expose(), now_s())),
                Tokens::Client(_) => None,
            });
            match verified.await {
                Ok(Some(verified)) => verified,
                _ => return Judged::Unavailable,
            }
        }
        Tokens::Client(authorization) => {
            let Verification::Introspection(how) = &oauth2.verification else { return Judged::Unavailable };
            let keep_ms = u64::try_from(how.cache.as_millis()).unwrap_or(u64::MAX);
            let digest = TokenCache::digest(&shard.home().key, token.expose());
            let known = super::at_home(&digest, move |home| {
                home.tokens.borrow().get(&digest, super::now_ms(), now_s())
            });
            if let Some(Some(vouched)) = known.await {
                return Judged::Good(vouched);
            }
            let answer = match ask(shard, how, authorization.as_ref(), token).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(session = %id, %error, "tokens cannot be verified");
                    return Judged::Unavailable;
                }
            };
            match oauth2.rules.introspected(&answer, now_s()) {
                Ok(judged) => {
                    if let Ok(vouched) = &judged
                        && keep_ms > 0
                    {
                        let vouched = vouched.clone();
                        super::at_home(&digest, move |home| {
                            home.tokens.borrow_mut().put(&digest, vouched, super::now_ms(), keep_ms);
                        })
                        .await;
                    }
                    judged
                }
                Err(error) => {
                    tracing::warn!(session = %id, %error, "tokens cannot be verified");
                    return Judged::Unavailable;
                }
            }
        }
    };
    match judged {
        Ok(vouched) => Judged::Good(vouched),
        Err(why) => {
            tracing::info!(session = %id, %why, "a token is refused");
            Judged::Refused
        }
    }
}

async fn ask(
    shard: &Rc<Shard>,
    how: &crate::config::Introspection,
    authorization: Option<&Secret>,
    token: &Secret,
) -> Result<Vec<u8>> {
    let issuer = shard.issuer().context("the way to the issuer is not open")?;
    let _asked = Asked::begin(&issuer.asked).context("too many tokens wait to be asked about")?;
    let body = format!("token={}&token_type_hint=access_token", encoded(token.expose())).into_bytes();
    let octets = Octets::from(body);
    let make = || {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&how.path)
            .header("host", how.endpoint.authority())
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("content-length", octets.len());
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization.expose());
        }
        request.body(Sent::from(&octets)).expect("its parts are plain")
    };
    let answer = time::deadline(how.timeout, issuer.http.exchange(make, ANSWER_OCTETS_MAX)).await;
    let answer = answer.map_err(|_| anyhow!("no answer within {:?}", how.timeout))??;
    match answer.status.as_u16() {
        200 => Ok(answer.body),
        // RFC 7662 §2.3: it is this server that is not let in.
        401 | 403 => bail!("the issuer refuses client_id and client_secret_file: {}", answer.status),
        _ => bail!("the issuer answers {}", answer.status),
    }
}

/// As in a form.
fn encoded(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for octet in octets {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(*octet as char),
            octet => write!(text, "%{octet:02X}").expect("a String takes every character"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_encoded_as_in_a_form() {
        assert_eq!(encoded(b"aZ0-._~"), "aZ0-._~");
        assert_eq!(encoded("a+b/c=d e\u{e4}&".as_bytes()), "a%2Bb%2Fc%3Dd%20e%C3%A4%26");
    }
}
