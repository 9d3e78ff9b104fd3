//! The address of a store: `file:`, `s3:` and `sproxyd:` URLs, with what each of them takes.
//!
//! ```text
//! file:///var/lib/culver
//! file:///mnt/mail?shared=true
//! s3://BUCKET/PREFIX?endpoint=http://127.0.0.1:9000&region=us-east-1&path_style=true
//! sproxyd://host:81/proxy/bpchord/PREFIX?class=2
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use culver_shard::http::Endpoint;
use percent_encoding::percent_decode_str;

/// Octets of a prefix at most: a key with it must stay below the 1,024 octets that S3 allows.
const PREFIX_OCTETS_MAX: usize = 512;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory of this machine. One process.
    Local(PathBuf),
    /// A directory that several machines mount.
    SharedFs(PathBuf),
    S3(S3Url),
    Sproxyd(SproxydUrl),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Url {
    pub bucket: String,
    /// Empty, or without a slash at either end.
    pub prefix: String,
    pub endpoint: Endpoint,
    pub region: String,
    /// `http://host/bucket/key` and not `http://bucket.host/key`.
    pub path_style: bool,
    /// Whether several nodes use it. Without it the store need not create if absent.
    pub shared: bool,
    /// A file of PEM certificates to trust in the place of the system's.
    pub ca: Option<PathBuf>,
    /// The profile of the shared credentials file.
    pub profile: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SproxydUrl {
    pub endpoint: Endpoint,
    /// The proxy's path, as in `/proxy/bpchord`.
    pub path: String,
    /// Goes into the digests of keys.
    pub prefix: String,
    /// Class of service, 0 to 15: the first half of a key's last octet.
    pub class: u8,
    pub ca: Option<PathBuf>,
}

/// What is wrong with an address. A person acts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("store {url:?}: {what}")]
pub struct UrlError {
    pub url: String,
    pub what: String,
}

impl StoreUrl {
    /// All that is wrong is told at once.
    pub fn parse(text: &str) -> Result<StoreUrl, UrlError> {
        let fail = |what: String| UrlError { url: without_secrets(text), what };
        let Some((scheme, rest)) = text.split_once("://") else {
            // A bare path is what people type first.
            if text.starts_with('/') {
                return Ok(StoreUrl::Local(PathBuf::from(text)));
            }
            return Err(fail(
                "not a URL: file:///PATH, s3://BUCKET/PREFIX?… or sproxyd://HOST:PORT/proxy/…".into(),
            ));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut words = Words::parse(query);
        let url = match scheme {
            "file" => file(place, &mut words),
            "s3" => s3(place, &mut words),
            "sproxyd" | "sproxyds" => sproxyd(place, scheme == "sproxyds", &mut words),
            other => {
                words
                    .faults
                    .push(format!("{other}:// is not known; there are file, s3, sproxyd and sproxyds"));
                words.rest.clear();
                None
            }
        };
        words.end();
        match url {
            Some(url) if words.faults.is_empty() => Ok(url),
            _ => Err(fail(words.faults.join("; "))),
        }
    }

    /// Whether several nodes may use it at a time.
    pub fn is_shared(&self) -> bool {
        match self {
            StoreUrl::Local(_) => false,
            StoreUrl::S3(s3) => s3.shared,
            StoreUrl::SharedFs(_) | StoreUrl::Sproxyd(_) => true,
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Local(dir) => write!(f, "file://{}", dir.display()),
            StoreUrl::SharedFs(dir) => write!(f, "file://{}?shared=true", dir.display()),
            StoreUrl::S3(s3) => write!(f, "s3://{}/{} at {}", s3.bucket, s3.prefix, s3.endpoint),
            StoreUrl::Sproxyd(s) => write!(f, "sproxyd {}{} {}", s.endpoint, s.path, s.prefix),
        }
    }
}

/// The words of a query, and what is wrong so far.
struct Words {
    rest: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Words {
    fn parse(query: &str) -> Words {
        let mut words = Words { rest: BTreeMap::new(), faults: Vec::new() };
        for word in query.split('&').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, "true"));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            if words.rest.insert(name.to_owned(), value).is_some() {
                words.faults.push(format!("{name} stands there twice"));
            }
        }
        words
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.rest.remove(name)
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.rest.remove(name).as_deref() {
            None => default,
            Some("true" | "yes" | "1") => true,
            Some("false" | "no" | "0") => false,
            Some(other) => {
                self.faults.push(format!("{name}={other}: true or false"));
                default
            }
        }
    }

    fn take<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|fault| self.faults.push(fault)).ok()
    }

    fn end(&mut self) {
        for name in std::mem::take(&mut self.rest).into_keys() {
            self.faults.push(format!("{name} is not known here"));
        }
    }
}

fn file(place: &str, words: &mut Words) -> Option<StoreUrl> {
    let path = percent_decode_str(place).decode_utf8_lossy().into_owned();
    let shared = words.flag("shared", false);
    if !path.starts_with('/') {
        words.faults.push("a path must begin with a slash: file:///PATH".into());
        return None;
    }
    let path = PathBuf::from(path);
    Some(if shared { StoreUrl::SharedFs(path) } else { StoreUrl::Local(path) })
}

fn prefix(text: &str, words: &mut Words) -> String {
    let prefix = text.trim_matches('/').to_owned();
    if prefix.len() > PREFIX_OCTETS_MAX {
        words.faults.push(format!("the prefix has {} octets, {PREFIX_OCTETS_MAX} are allowed", prefix.len()));
    }
    let strange = |octet: u8| !(octet.is_ascii_alphanumeric() || b"-_./".contains(&octet));
    if prefix.bytes().any(strange)
        || prefix.split('/').any(|part| matches!(part, "" | "." | "..")) && !prefix.is_empty()
    {
        words.faults.push(format!("prefix {prefix:?}: letters, digits, - _ . and single slashes only"));
    }
    prefix
}

fn s3(place: &str, words: &mut Words) -> Option<StoreUrl> {
    let (bucket, rest) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix(rest, words);
    let named = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-.".contains(&octet);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(named) {
        words.faults.push(format!(
            "bucket {bucket:?}: 3 to 63 of small letters, digits, dots and hyphens, as in s3://mail-bucket/prefix"
        ));
    }
    let region = words.text("region").unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = match words.text("endpoint") {
        Some(text) => words.take(Endpoint::parse(&text)),
        None => words.take(Endpoint::parse(&format!("https://s3.{region}.amazonaws.com"))),
    };
    // A bucket with dots has no certificate as a host name.
    let dotted = bucket.contains('.') && endpoint.as_ref().is_some_and(|endpoint| endpoint.tls);
    let by_address =
        endpoint.as_ref().is_some_and(|endpoint| endpoint.host.parse::<std::net::IpAddr>().is_ok());
    Some(StoreUrl::S3(S3Url {
        bucket: bucket.to_owned(),
        prefix,
        path_style: words.flag("path_style", dotted || by_address),
        shared: words.flag("shared", true),
        ca: words.text("ca").map(PathBuf::from),
        profile: words.text("profile"),
        region,
        endpoint: endpoint?,
    }))
}

fn sproxyd(place: &str, tls: bool, words: &mut Words) -> Option<StoreUrl> {
    let (authority, rest) = place.split_once('/').unwrap_or((place, ""));
    let endpoint = words.take(Endpoint::of_authority(authority, tls, if tls { 443 } else { 81 }));
    let mut parts = rest.splitn(3, '/');
    let (first, second, rest) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    if first.is_empty() || second.is_empty() {
        words.faults.push("the proxy's path is missing, as in sproxyd://host:81/proxy/chord/PREFIX".into());
    }
    let class = words.text("class").unwrap_or_else(|| "2".to_owned());
    let class = words.take(
        class.parse::<u8>().ok().filter(|class| *class < 16).ok_or_else(|| format!("class={class}: 0 to 15")),
    );
    Some(StoreUrl::Sproxyd(SproxydUrl {
        path: format!("/{first}/{second}"),
        prefix: prefix(rest.unwrap_or(""), words),
        ca: words.text("ca").map(PathBuf::from),
        endpoint: endpoint?,
        class: class?,
    }))
}

/// An address as a log may show it: whatever looks like a password is left out.
fn without_secrets(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://…@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        StoreUrl::parse(text).unwrap_err().what
    }

    #[test]
    fn every_kind_of_address_is_read() {
        assert_eq!(StoreUrl::parse("file:///a/b"), Ok(StoreUrl::Local("/a/b".into())));
        assert_eq!(StoreUrl::parse("/a/b"), Ok(StoreUrl::Local("/a/b".into())));
        assert_eq!(StoreUrl::parse("file:///mnt/n?shared=true"), Ok(StoreUrl::SharedFs("/mnt/n".into())));
        let text = "s3://mail/a/b/?endpoint=http://127.0.0.1:9000&region=eu-west-1&path_style=true";
        let StoreUrl::S3(s3) = StoreUrl::parse(text).unwrap() else { panic!("not S3") };
        assert_eq!(
            (s3.bucket.as_str(), s3.prefix.as_str(), s3.region.as_str()),
            ("mail", "a/b", "eu-west-1")
        );
        assert_eq!(s3.endpoint, Endpoint { tls: false, host: "127.0.0.1".into(), port: 9000 });
        assert!(s3.path_style && s3.shared);
        let StoreUrl::S3(s3) = StoreUrl::parse("s3://mail?region=eu-west-1").unwrap() else {
            panic!("not S3")
        };
        assert_eq!(s3.endpoint.to_string(), "https://s3.eu-west-1.amazonaws.com");
        assert!(!s3.path_style && s3.prefix.is_empty());
        let StoreUrl::Sproxyd(ring) =
            StoreUrl::parse("sproxyd://ring:81/proxy/bpchord/mail/x?class=3").unwrap()
        else {
            panic!("not sproxyd")
        };
        assert_eq!((ring.path.as_str(), ring.prefix.as_str(), ring.class), ("/proxy/bpchord", "mail/x", 3));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let told = fault("s3://B/..?path_style=maybe&regin=x&endpoint=ftp://h");
        for part in ["bucket", "prefix", "path_style", "regin", "endpoint"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(fault("nfs://x").contains("file, s3, sproxyd"));
        assert!(fault("file://relative").contains("slash"));
        assert!(fault("sproxyd://ring").contains("path"));
        assert!(fault("sproxyd://ring:81/proxy/chord?class=16").contains("0 to 15"));
        assert!(fault("s3://mail?endpoint=http://a:b@h").contains("credentials"));
        assert!(StoreUrl::parse("mail").is_err());
    }

    #[test]
    fn a_password_is_not_told() {
        let told = StoreUrl::parse("x://user:secret@host").unwrap_err().to_string();
        assert!(!told.contains("secret"), "{told}");
    }
}
