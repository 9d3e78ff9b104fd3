//! Credentials of S3: from the environment, the shared credentials file, or the instance's metadata.
//!
//! # Order
//! The first that is there counts: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (with `AWS_SESSION_TOKEN`); the profile of
//! `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials` (with `AWS_PROFILE`, else `default`); instance metadata, version 2
//! (unless `AWS_EC2_METADATA_DISABLED` is true).
//!
//! # Limits
//! What expires is fetched anew [`RENEW_BEFORE`] its end, and used until its end where that fails.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use aws_credential_types::Credentials;
use culver_model::Date;
use culver_shard::{disk, time};
use hyper::{Method, Request};

use culver_shard::http::Endpoint;
use culver_shard::http::{Http, Octets, Sent};

const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// Metadata answers at once or is not there.
const METADATA_WITHIN: Duration = Duration::from_secs(2);
const METADATA_OCTETS_MAX: usize = 64 << 10;
/// After a failure the metadata service is left alone for so long.
const METADATA_PAUSE: Duration = Duration::from_secs(10);

/// Why there are no credentials. A person acts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, write them to {file}, or give the instance a \
     role ({metadata})"
)]
pub struct NoCredentials {
    pub file: String,
    pub metadata: String,
}

/// Where credentials come from, and the newest of them.
pub struct Source {
    /// Of the address; else `AWS_PROFILE`.
    profile: Option<String>,
    held: RefCell<Option<Held>>,
    paused: RefCell<Option<(time::Instant, String)>>,
}

struct Held {
    credentials: Credentials,
    /// Seconds since 1970, where they expire.
    until: Option<i64>,
}

impl Source {
    pub fn new(profile: Option<String>) -> Source {
        Source { profile, held: RefCell::default(), paused: RefCell::default() }
    }

    /// Forgets what is held: the store does not take it.
    pub fn forget(&self) {
        *self.held.borrow_mut() = None;
    }

    /// Credentials that are good now.
    pub async fn get(&self) -> Result<Credentials, NoCredentials> {
        let now = time::wall().0;
        let fallback = {
            let held = self.held.borrow();
            match &*held {
                Some(held) => {
                    let left = held.until.map_or(i64::MAX, |until| until - now);
                    if left > RENEW_BEFORE.as_secs() as i64 {
                        return Ok(held.credentials.clone());
                    }
                    (left > 0).then(|| held.credentials.clone())
                }
                None => None,
            }
        };
        match self.look().await {
            Ok(found) => {
                let credentials = found.credentials.clone();
                *self.held.borrow_mut() = Some(found);
                Ok(credentials)
            }
            Err(error) => fallback.ok_or(error),
        }
    }

    async fn look(&self) -> Result<Held, NoCredentials> {
        if let Some(credentials) = of_environment(&|name| std::env::var(name).ok()) {
            return Ok(Held { credentials, until: None });
        }
        let file = credentials_file(&|name| std::env::var(name).ok());
        let profile = self.profile.clone().or_else(|| std::env::var("AWS_PROFILE").ok());
        let profile = profile.as_deref().unwrap_or("default");
        if let Ok(bytes) = disk::read(&file).await
            && let Some(credentials) = of_file(&String::from_utf8_lossy(&bytes), profile)
        {
            return Ok(Held { credentials, until: None });
        }
        let missing =
            |metadata: String| NoCredentials { file: format!("{} [{profile}]", file.display()), metadata };
        if std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(missing("instance metadata is disabled".to_owned()));
        }
        if let Some((since, why)) = &*self.paused.borrow()
            && since.elapsed() < METADATA_PAUSE
        {
            return Err(missing(why.clone()));
        }
        let found = time::deadline(METADATA_WITHIN * 3, of_metadata()).await;
        found.unwrap_or_else(|_| Err("no answer".to_owned())).map_err(|why| {
            *self.paused.borrow_mut() = Some((time::now(), why.clone()));
            missing(why)
        })
    }
}

fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<Credentials> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (key, secret) = (set("AWS_ACCESS_KEY_ID")?, set("AWS_SECRET_ACCESS_KEY")?);
    Some(Credentials::new(key, secret, set("AWS_SESSION_TOKEN"), None, "environment"))
}

fn credentials_file(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let named = variable("AWS_SHARED_CREDENTIALS_FILE").filter(|value| !value.is_empty());
    named.map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_default()).join(".aws/credentials"),
        PathBuf::from,
    )
}

/// One profile of a file of sections `[name]` with lines `key = value`.
fn of_file(text: &str, profile: &str) -> Option<Credentials> {
    let (mut within, mut key, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            within = name.trim() == profile;
        } else if within && let Some((name, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned());
            match name.trim() {
                "aws_access_key_id" => key = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Credentials::new(key?, secret?, token, None, "credentials file"))
}

/// Credentials of the instance's role.
async fn of_metadata() -> Result<Held, String> {
    let base = std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    let base = base.unwrap_or_else(|_| "http://169.254.169.254".to_owned());
    let endpoint = Endpoint::parse(base.trim_end_matches('/'))?;
    let authority = endpoint.authority();
    let http = Http::new(endpoint, None).map_err(|error| error.to_string())?;
    let ask = |method: Method, path: String, header: (&'static str, String)| {
        let (http, authority) = (http.clone(), authority.clone());
        async move {
            let make = || {
                let request = Request::builder().method(method.clone()).uri(&path).header("host", &authority);
                let request = request.header(header.0, &header.1).header("content-length", "0");
                request.body(Sent::from(&Octets::none())).expect("its parts are plain")
            };
            let answer = time::deadline(METADATA_WITHIN, http.exchange(make, METADATA_OCTETS_MAX)).await;
            let answer = answer.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
            match answer.status.is_success() {
                true => Ok::<_, String>(String::from_utf8_lossy(&answer.body).trim().to_owned()),
                false => Err(format!("{path}: {}", answer.status)),
            }
        }
    };
    let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", "21600".to_owned());
    let token = ask(Method::PUT, "/latest/api/token".to_owned(), ttl).await?;
    let token = ("x-aws-ec2-metadata-token", token);
    let roles = "/latest/meta-data/iam/security-credentials/";
    let role = ask(Method::GET, roles.to_owned(), token.clone()).await?;
    let role = role.lines().next().unwrap_or_default().to_owned();
    if role.is_empty() || !role.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err("the instance has no role".to_owned());
    }
    let text = ask(Method::GET, format!("{roles}{role}"), token).await?;
    of_metadata_answer(&text).ok_or_else(|| "the role's credentials are not as expected".to_owned())
}

fn of_metadata_answer(text: &str) -> Option<Held> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let said = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let credentials = Credentials::new(
        said("AccessKeyId")?,
        said("SecretAccessKey")?,
        said("Token").filter(|token| !token.is_empty()),
        None,
        "instance metadata",
    );
    Some(Held { credentials, until: Some(seconds_of(&said("Expiration")?)?) })
}

/// Seconds since 1970 of `2026-01-02T03:04:05Z`.
fn seconds_of(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !text.ends_with('Z') || marks.iter().any(|(at, mark)| text.as_bytes().get(*at) != Some(mark)) {
        return None;
    }
    let part = |from: usize, to: usize| u32::try_from(number(from, to)?).ok();
    let day = Date::from_civil(i32::try_from(number(0, 4)?).ok()?, part(5, 7)?, part(8, 10)?)?;
    Some(i64::from(day.0) * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_counts_where_both_keys_are_set() {
        let of = |pairs: &'static [(&'static str, &'static str)]| {
            of_environment(&move |name| {
                pairs.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let both =
            of(&[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")]);
        let both = both.unwrap();
        assert_eq!(
            (both.access_key_id(), both.secret_access_key(), both.session_token()),
            ("k", "s", Some("t"))
        );
        assert!(of(&[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "")]).is_none());
    }

    #[test]
    fn a_profile_is_found_in_its_file() {
        let text = "[default]\naws_access_key_id=a\naws_secret_access_key = b\n# c\n[ mail ]\n\
                    aws_access_key_id = k\naws_secret_access_key= s=t\nregion = x\n[half]\naws_access_key_id = q\n";
        let mail = of_file(text, "mail").unwrap();
        assert_eq!((mail.access_key_id(), mail.secret_access_key()), ("k", "s=t"));
        assert_eq!(of_file(text, "default").unwrap().access_key_id(), "a");
        assert!(of_file(text, "half").is_none() && of_file(text, "other").is_none());
        assert_eq!(
            credentials_file(&|name| (name == "HOME").then(|| "/h".into())),
            PathBuf::from("/h/.aws/credentials")
        );
    }

    #[test]
    fn metadata_says_when_its_credentials_end() {
        let text = r#"{"Code":"Success","AccessKeyId":"k","SecretAccessKey":"s","Token":"t","Expiration":"2027-01-15T08:00:00Z"}"#;
        let held = of_metadata_answer(text).unwrap();
        assert_eq!((held.credentials.session_token(), held.until), (Some("t"), Some(1_800_000_000)));
        assert!(of_metadata_answer("{}").is_none() && of_metadata_answer("<html>").is_none());
    }

    #[test]
    fn dates_are_seconds() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2026-11-27T11:00:00Z", Some(1_795_777_200)),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-27 11:00:00", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(text), seconds, "{text}");
        }
    }
}
