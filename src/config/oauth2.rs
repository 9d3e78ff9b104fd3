//! `[oauth2]`: how tokens are verified, and what one must be good for.

use super::reader::{Problems, Section};
use culver_shard::http::Endpoint;
use culver_users::{Jwks, TokenRules};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Beyond ten minutes it is a clock that is wrong.
const LEEWAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
/// A client waits for the answer.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// So long a token that was taken back is still good here.
const CACHES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// How tokens are judged.
#[derive(Clone, Debug)]
pub struct Oauth2Config {
    pub verification: Verification,
    pub rules: TokenRules,
    /// What clients are told of the issuer; may be empty.
    pub openid_configuration: String,
}

#[derive(Clone, Debug)]
pub enum Verification {
    /// A JWK Set, for JWTs.
    Keys(PathBuf),
    Introspection(Introspection),
}

/// RFC 7662.
#[derive(Clone, Debug)]
pub struct Introspection {
    pub endpoint: Endpoint,
    /// With its query.
    pub path: String,
    /// Id, and the file of the secret.
    pub client: Option<(String, PathBuf)>,
    /// Whom to trust in the place of those whom the system trusts.
    pub ca: Option<PathBuf>,
    pub timeout: Duration,
    /// How long a good token is good without a question.
    pub cache: Duration,
}

impl Oauth2Config {
    /// `None` where it is of no use: `problems` says why.
    pub fn parse(section: &mut Section, problems: &mut Problems) -> Option<Oauth2Config> {
        let keys = section.text_at("keys_file", problems);
        let url = section.text_at("introspection_url", problems);
        let id = section.text_at("client_id", problems);
        let secret = section.text_at("client_secret_file", problems);
        let ca = section.text_at("ca", problems);
        let issuer = section.text_at("issuer", problems).map(|(issuer, _)| issuer);
        let audience = section.text_at("audience", problems).map(|(audience, _)| audience);
        let scope = section.text_at("scope", problems).map(|(scope, _)| scope).unwrap_or_default();
        let mut username_claim = "email".to_owned();
        if let Some((claim, line)) = section.text_at("username_claim", problems) {
            if claim.is_empty() {
                problems.at(line, "oauth2.username_claim", "is empty", "name a claim such as \"email\"");
            }
            username_claim = claim;
        }
        let mut openid_configuration = String::new();
        if let Some((url, line)) = section.text_at("openid_configuration", problems) {
            if !url.starts_with("https://") || !url.bytes().all(|octet| octet.is_ascii_graphic()) {
                let remedy = "write \"https://id.example.net/.well-known/openid-configuration\"";
                problems.at(line, "oauth2.openid_configuration", "is no https:// URL", remedy);
            }
            openid_configuration = url;
        }
        let (mut leeway, mut timeout, mut cache) =
            (Duration::from_secs(60), Duration::from_secs(5), Duration::from_secs(60));
        section.duration_within("leeway", LEEWAYS, problems, |value| leeway = value);
        section.duration_within("timeout", TIMEOUTS, problems, |value| timeout = value);
        section.duration_within("cache", CACHES, problems, |value| cache = value);
        let file = |name: &str, given: &Option<(String, usize)>, problems: &mut Problems| {
            let (path, line) = given.as_ref()?;
            match std::fs::read(path) {
                Ok(octets) => Some((octets, *line)),
                Err(error) => {
                    let what = format!("{path} cannot be read: {error}");
                    problems.at(
                        *line,
                        &format!("oauth2.{name}"),
                        &what,
                        "name a file that this user may read",
                    );
                    None
                }
            }
        };
        if let Some((octets, line)) = file("keys_file", &keys, problems)
            && let Err(what) = Jwks::parse(&octets)
        {
            let remedy = "save what the issuer's jwks_uri gives, a JWK Set, in that file";
            problems.at(line, "oauth2.keys_file", &what, remedy);
        }
        if let Some((octets, line)) = file("client_secret_file", &secret, problems)
            && octets.trim_ascii_end().is_empty()
        {
            problems.at(line, "oauth2.client_secret_file", "is empty", "write the client's secret into it");
        }
        file("ca", &ca, problems);
        for (name, given, other, missing) in [
            ("client_id", &id, "client_secret_file", &secret),
            ("client_secret_file", &secret, "client_id", &id),
        ] {
            if let (Some((_, line)), None) = (given, missing) {
                let what = format!("stands without {other}");
                problems.at(*line, &format!("oauth2.{name}"), &what, &format!("add {other}, or remove it"));
            }
        }
        let verification = match (keys, url) {
            (Some((path, line)), None) => {
                // RFC 8725 §3.8, §3.9: the keys of an issuer sign tokens for others too.
                for (name, given) in [("issuer", &issuer), ("audience", &audience)] {
                    if given.is_none() {
                        let what = format!("is there without {name}");
                        let remedy = format!("add {name}: a JWT of anybody's would do otherwise");
                        problems.at(line, "oauth2.keys_file", &what, &remedy);
                    }
                }
                Verification::Keys(PathBuf::from(path))
            }
            (None, Some((url, line))) => {
                let (endpoint, path) = match parse_url(&url) {
                    Ok(parsed) => parsed,
                    Err(what) => {
                        let remedy = "write \"https://id.example.net/oauth2/introspect\"";
                        problems.at(line, "oauth2.introspection_url", &what, remedy);
                        return None;
                    }
                };
                let client = id.zip(secret).map(|((id, _), (file, _))| (id, PathBuf::from(file)));
                let ca = ca.map(|(file, _)| PathBuf::from(file));
                Verification::Introspection(Introspection { endpoint, path, client, ca, timeout, cache })
            }
            (Some((_, line)), Some(_)) => {
                let remedy = "keep one: keys_file verifies JWTs here, introspection_url asks about any token";
                problems.at(line, "oauth2.keys_file", "stands beside introspection_url", remedy);
                return None;
            }
            (None, None) => {
                let remedy = "introspection_url = \"https://…\" or keys_file = \"/etc/culver/jwks.json\"";
                section.missing("introspection_url", remedy, problems);
                return None;
            }
        };
        let scope = scope.split_ascii_whitespace().map(str::to_owned).collect();
        let rules = TokenRules { issuer, audience, scope, username_claim, leeway_s: leeway.as_secs() };
        Some(Oauth2Config { verification, rules, openid_configuration })
    }
}

/// RFC 7662 §4: over TLS; but for a neighbour on this machine.
fn parse_url(url: &str) -> Result<(Endpoint, String), String> {
    let (scheme, rest) = url.split_once("://").ok_or("is no URL")?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let endpoint = Endpoint::parse(&format!("{scheme}://{authority}"))?;
    let loopback = endpoint.host == "localhost"
        || endpoint.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !endpoint.tls && !loopback {
        return Err("would send tokens without TLS".to_owned());
    }
    if path.contains('#') || !path.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err("has a path that cannot be sent".to_owned());
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((endpoint, path))
}
