//! Scality's sproxyd: objects by a key of 160 bits that is a digest of our name, or by path.
//!
//! A key, most significant first: 24 bits of dispersion, 64 of object id, 32 of volume id, 8 of service id, 24 that are the
//! application's, 4 of class of service, 4 of replica, which is 0. The first 120 are of a SHA-256 of the name, so objects
//! spread over the ring and two names meet by a chance of 2⁻¹²⁰.
//!
//! # Invariants
//! A 423 (somebody has the object locked), a 422 and whatever the ring could not decide are outcomes that are not known.
//! A 404 to a GET may be of an object that has just been made: who knows that it exists asks again.
//!
//! # Limits
//! There is no listing, so no search for what nothing names.

use std::sync::Arc;

use culver_shard::tls::rustls::ClientConfig;
use hyper::{Method, Request, StatusCode};

use super::op::{Abilities, Failure, Op, Outcome};
use super::url::SproxydUrl;
use culver_shard::http::{Answer, Http, HttpError, Octets, Sent};

const ANSWER_OCTETS_MAX: usize = 1 << 20;
const WHOLE_OCTETS_MAX: usize = 64 << 20;
/// Keys in one batch, as sproxyd's own clients have it.
const KEYS_MAX: usize = 1000;
/// Tells our objects from those of other programs on the ring.
const SERVICE_ID: u8 = 0x43;

pub struct Driver {
    url: SproxydUrl,
    http: Http,
    /// The proxy takes paths and makes the keys itself.
    by_path: bool,
}

impl Driver {
    pub fn new(url: SproxydUrl, tls: Option<Arc<ClientConfig>>) -> Result<Driver, HttpError> {
        let by_path = url.path.rsplit('/').next().is_some_and(|last| last.starts_with("bp"));
        Ok(Driver { http: Http::new(url.endpoint.clone(), tls)?, url, by_path })
    }

    pub fn abilities(&self) -> Abilities {
        let delete_keys_max = if self.by_path { 1 } else { KEYS_MAX };
        Abilities { list: false, parts_from: None, delete_keys_max }
    }

    fn name(&self, key: &str) -> String {
        let full = match self.url.prefix.is_empty() {
            true => key.to_owned(),
            false => format!("{}/{key}", self.url.prefix),
        };
        if self.by_path { full } else { ring_key(&full, self.url.class) }
    }

    fn path(&self, key: &str) -> String {
        format!("{}/{}", self.url.path, self.name(key))
    }

    pub async fn perform(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        match op {
            Op::Put { key, octets, create } => {
                let condition = create.then_some(("if-none-match", "*".to_owned()));
                let answer =
                    self.send(Method::PUT, &self.path(key), condition, octets, ANSWER_OCTETS_MAX).await?;
                match answer.status {
                    StatusCode::PRECONDITION_FAILED if *create => Err(Failure::Exists),
                    _ => ok(answer, key).map(|_| Outcome::Done),
                }
            }
            Op::Get { key, range } => {
                let (wanted, octets_max) = match range {
                    None => (None, WHOLE_OCTETS_MAX),
                    Some(range) if range.is_empty() => return Ok(Outcome::Octets(Vec::new())),
                    Some(range) => {
                        let header = ("range", format!("bytes={}-{}", range.start, range.end - 1));
                        (Some(header), (range.end - range.start) as usize)
                    }
                };
                let answer =
                    self.send(Method::GET, &self.path(key), wanted, &Octets::none(), octets_max).await?;
                match answer.status {
                    StatusCode::RANGE_NOT_SATISFIABLE => Ok(Outcome::Octets(Vec::new())),
                    _ => ok(answer, key).map(|answer| Outcome::Octets(answer.body)),
                }
            }
            Op::Head { key } => {
                let answer = self
                    .send(Method::HEAD, &self.path(key), None, &Octets::none(), ANSWER_OCTETS_MAX)
                    .await?;
                let answer = ok(answer, key)?;
                let length = answer.header("x-scal-size").or(answer.header("content-length"));
                let length = length.and_then(|length| length.parse().ok());
                length.map(Outcome::Length).ok_or_else(|| Failure::passing("a HEAD without a length"))
            }
            Op::Delete { keys } => self.delete(keys).await,
            Op::List { .. } => Err(Failure::refused("sproxyd has no listing", "report this")),
            Op::Begin { .. } | Op::Part { .. } | Op::Complete { .. } | Op::Abort { .. } => {
                Err(Failure::refused("sproxyd takes objects whole", "report this"))
            }
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<Outcome, Failure> {
        let none = Octets::none();
        if let [key] = keys {
            let answer = self.send(Method::DELETE, &self.path(key), None, &none, ANSWER_OCTETS_MAX).await?;
            return match ok(answer, key) {
                Ok(_) | Err(Failure::NotFound) => Ok(Outcome::Deleted { failed: Vec::new() }),
                Err(failure) => Err(failure),
            };
        }
        let names: Vec<String> = keys.iter().map(|key| self.name(key)).collect();
        let text = serde_json::json!({ "keys": names }).to_string();
        let kind = Some(("content-type", "application/json".to_owned()));
        let path = format!("{}/.batch_delete", self.url.path);
        let answer =
            self.send(Method::POST, &path, kind, &Octets::from(text.into_bytes()), ANSWER_OCTETS_MAX).await?;
        ok(answer, &path).map(|_| Outcome::Deleted { failed: Vec::new() })
    }

    /// Whether there is a sproxyd at all, and of this path.
    pub async fn check(&self) -> Result<(), Failure> {
        let path = format!("{}/.conf", self.url.path);
        let answer = self.send(Method::GET, &path, None, &Octets::none(), ANSWER_OCTETS_MAX).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Err(Failure::refused(
                format!("{}{path}: 404", self.url.endpoint),
                "mend the path in the store's address: /proxy/chord, /proxy/arc, /proxy/bpchord or /proxy/bparc",
            )),
            _ => ok(answer, &path).map(drop),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        header: Option<(&'static str, String)>,
        octets: &Octets,
        octets_max: usize,
    ) -> Result<Answer, Failure> {
        let authority = self.url.endpoint.authority();
        let make = || {
            let mut request = Request::builder().method(method.clone()).uri(path).header("host", &authority);
            if let Some((name, value)) = &header {
                request = request.header(*name, value);
            }
            if matches!(method, Method::PUT | Method::POST) {
                request = request.header("content-length", octets.len().to_string());
            }
            if method == Method::PUT {
                request = request.header("content-type", "application/octet-stream");
            }
            request.body(Sent::from(octets)).expect("names are hexadecimal or plain paths")
        };
        self.http.exchange(make, octets_max).await.map_err(|error| match error {
            HttpError::Certificate(..) => Failure::refused(
                error.to_string(),
                "name the issuer's certificate with ca=FILE in the store's address, or mend the server's certificate",
            ),
            error => Failure::passing(error.to_string()),
        })
    }
}

fn ok(answer: Answer, key: &str) -> Result<Answer, Failure> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let ring = answer.header("x-scal-ring-status").unwrap_or_default();
    let what = format!("{key}: {} {ring}", answer.status).trim().to_owned();
    Err(match answer.status.as_u16() {
        404 => Failure::NotFound,
        401 | 403 => Failure::refused(what, "let this machine use the proxy"),
        507 => Failure::refused(what, "the ring is full: make room there"),
        429 | 503 => Failure::Passing { what, slow_down: true },
        412 | 422 | 423 | 408 | 409 | 500.. => Failure::passing(what),
        _ => Failure::refused(what, "see the proxy's own log"),
    })
}

/// The key of a name: 40 hexadecimal digits.
fn ring_key(name: &str, class: u8) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let mut key = [0; 20];
    key[..15].copy_from_slice(&digest.as_ref()[..15]);
    key[15] = SERVICE_ID;
    // The application's 24 bits are of the digest too.
    key[16..19].copy_from_slice(&digest.as_ref()[15..18]);
    key[19] = class << 4;
    key.iter().map(|octet| format!("{octet:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::url::StoreUrl;

    #[test]
    fn keys_have_the_rings_form() {
        let key = ring_key("mail/data/1/7-0-1.pack", 3);
        assert_eq!(key.len(), 40);
        assert!(key.bytes().all(|octet| octet.is_ascii_hexdigit() && !octet.is_ascii_lowercase()));
        assert_eq!((&key[30..32], &key[38..]), ("43", "30"));
        assert_ne!(key[..30], ring_key("mail/data/1/7-0-2.pack", 3)[..30]);
        assert_eq!(key, ring_key("mail/data/1/7-0-1.pack", 3));
    }

    #[test]
    fn names_are_keys_or_paths_as_the_proxy_wants_them() {
        let driver = |text: &str| {
            let StoreUrl::Sproxyd(url) = StoreUrl::parse(text).unwrap() else { panic!("not sproxyd") };
            Driver::new(url, None).unwrap()
        };
        let by_key = driver("sproxyd://h:81/proxy/chord/mail?class=2");
        assert_eq!(by_key.path("STORE"), format!("/proxy/chord/{}", ring_key("mail/STORE", 2)));
        let by_path = driver("sproxyd://h:81/proxy/bpchord/mail");
        assert_eq!(by_path.path("owner/1/0"), "/proxy/bpchord/mail/owner/1/0");
        assert_eq!((by_key.abilities().delete_keys_max, by_path.abilities().delete_keys_max), (1000, 1));
    }
}
