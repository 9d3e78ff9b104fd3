//! S3: requests, answers, and what the dialects of its many servers have in common.
//!
//! # Invariants
//! Everything is signed (version 4). A body that goes over plain HTTP is covered by the signature; over TLS it is covered by
//! TLS and a CRC-32C that the store checks where it can.
//! A 200 to a create says that these octets are there now; a 412 says that some are. A 409 to a create is a race with
//! another one: it is tried again and then answered by one of the two.

mod request;

use std::rc::Rc;
use std::sync::Arc;

use culver_shard::tls::rustls::ClientConfig;
use hyper::{Method, StatusCode};

use self::request::{Unsigned, encoded};
use super::credentials::Source;
use super::op::{Abilities, Failure, Listed, Op, Outcome, PART_OCTETS};
use super::url::S3Url;
use super::xml;
use culver_shard::http::{Answer, Http, HttpError, Octets};

/// Octets of an answer without an object in it.
const ANSWER_OCTETS_MAX: usize = 4 << 20;
/// Octets of an object that is asked for without a range.
const WHOLE_OCTETS_MAX: usize = 64 << 20;
/// Keys in one listing and one delete, which S3 fixes.
const KEYS_MAX: usize = 1000;
/// An object above this is sent in parts.
const PARTS_FROM: u64 = 2 * PART_OCTETS;

pub struct Driver {
    url: S3Url,
    http: Http,
    credentials: Rc<Source>,
}

impl Driver {
    pub fn new(url: S3Url, tls: Option<Arc<ClientConfig>>) -> Result<Driver, HttpError> {
        let mut endpoint = url.endpoint.clone();
        if !url.path_style {
            endpoint.host = format!("{}.{}", url.bucket, endpoint.host);
        }
        let credentials = Rc::new(Source::new(url.profile.clone()));
        Ok(Driver { http: Http::new(endpoint, tls)?, url, credentials })
    }

    pub fn abilities(&self) -> Abilities {
        Abilities { list: true, parts_from: Some(PARTS_FROM), delete_keys_max: KEYS_MAX }
    }

    /// The path of a key, encoded: of the bucket itself for an empty one.
    fn path(&self, key: &str) -> String {
        let mut path = String::new();
        if self.url.path_style {
            path.push('/');
            path.push_str(&self.url.bucket);
        }
        path.push('/');
        if !key.is_empty() {
            path.push_str(&encoded(&self.full(key)));
        }
        path
    }

    fn full(&self, key: &str) -> String {
        match self.url.prefix.is_empty() {
            true => key.to_owned(),
            false => format!("{}/{key}", self.url.prefix),
        }
    }

    pub async fn perform(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        match op {
            Op::Put { key, octets, create } => {
                let mut request = Unsigned::new(Method::PUT, self.path(key));
                request.header("content-type", "application/octet-stream");
                if *create {
                    request.header("if-none-match", "*");
                }
                request.body = (*octets).clone();
                let answer = self.send(request, ANSWER_OCTETS_MAX).await?;
                match answer.status {
                    StatusCode::PRECONDITION_FAILED if *create => Err(Failure::Exists),
                    _ => self.ok(answer, key).map(|_| Outcome::Done),
                }
            }
            Op::Get { key, range } => self.get(key, range.clone()).await,
            Op::Head { key } => {
                let answer =
                    self.send(Unsigned::new(Method::HEAD, self.path(key)), ANSWER_OCTETS_MAX).await?;
                let answer = self.ok(answer, key)?;
                let length = answer.header("content-length").and_then(|length| length.parse().ok());
                length.map(Outcome::Length).ok_or_else(|| Failure::passing("a HEAD without Content-Length"))
            }
            Op::Delete { keys } => self.delete(keys).await,
            Op::List { prefix, after, keys_max } => self.list(prefix, after, *keys_max).await,
            Op::Begin { key } => {
                let mut request = Unsigned::new(Method::POST, self.path(key));
                request.query.push(("uploads", String::new()));
                request.header("content-type", "application/octet-stream");
                let answer = self.ok(self.send(request, ANSWER_OCTETS_MAX).await?, key)?;
                text_of(&answer, "UploadId").map(Outcome::Named)
            }
            Op::Part { key, upload, number, octets } => {
                let mut request = Unsigned::new(Method::PUT, self.path(key));
                request.query.push(("partNumber", number.to_string()));
                request.query.push(("uploadId", (*upload).to_owned()));
                request.body = (*octets).clone();
                let answer = self.ok(self.send(request, ANSWER_OCTETS_MAX).await?, key)?;
                let tag = answer.header("etag").map(|tag| Outcome::Named(tag.to_owned()));
                tag.ok_or_else(|| Failure::passing("a part without ETag"))
            }
            Op::Complete { key, upload, parts } => self.complete(key, upload, parts).await,
            Op::Abort { key, upload } => {
                let mut request = Unsigned::new(Method::DELETE, self.path(key));
                request.query.push(("uploadId", (*upload).to_owned()));
                match self.ok(self.send(request, ANSWER_OCTETS_MAX).await?, key) {
                    Ok(_) | Err(Failure::NotFound) => Ok(Outcome::Done),
                    Err(failure) => Err(failure),
                }
            }
        }
    }

    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Outcome, Failure> {
        let mut request = Unsigned::new(Method::GET, self.path(key));
        let octets_max = match &range {
            None => WHOLE_OCTETS_MAX,
            Some(range) if range.is_empty() => return Ok(Outcome::Octets(Vec::new())),
            Some(range) => {
                request.header("range", &format!("bytes={}-{}", range.start, range.end - 1));
                // Some servers answer a range with the whole object.
                ((range.end - range.start) as usize).max(WHOLE_OCTETS_MAX)
            }
        };
        let answer = self.send(request, octets_max).await?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            // The range begins behind the end.
            return Ok(Outcome::Octets(Vec::new()));
        }
        // Others have the range in it all the same, and say so.
        let whole = answer.status == StatusCode::OK && answer.header("content-range").is_none();
        let mut body = self.ok(answer, key)?.body;
        if let Some(range) = range
            && whole
        {
            let end = (range.end as usize).min(body.len());
            let start = (range.start as usize).min(end);
            body.truncate(end);
            body.drain(..start);
        }
        Ok(Outcome::Octets(body))
    }

    async fn delete(&self, keys: &[String]) -> Result<Outcome, Failure> {
        if let [key] = keys {
            let answer = self.send(Unsigned::new(Method::DELETE, self.path(key)), ANSWER_OCTETS_MAX).await?;
            return match self.ok(answer, key) {
                Ok(_) | Err(Failure::NotFound) => Ok(Outcome::Deleted { failed: Vec::new() }),
                Err(failure) => Err(failure),
            };
        }
        let mut text =
            String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");
        for key in keys {
            text.push_str("<Object><Key>");
            text.push_str(&xml::escaped(&self.full(key)));
            text.push_str("</Key></Object>");
        }
        text.push_str("</Delete>");
        let mut request = Unsigned::new(Method::POST, self.path(""));
        request.query.push(("delete", String::new()));
        request.header("content-type", "application/xml");
        request.body = Octets::from(text.into_bytes());
        request.md5 = true;
        let answer = self.ok(self.send(request, ANSWER_OCTETS_MAX).await?, &keys[0])?;
        let texts = texts_of(&answer)?;
        let mut failed: Vec<(String, String)> = Vec::new();
        for (path, text) in texts {
            match path.as_str() {
                "DeleteResult/Error/Key" => failed.push((self.without_prefix(&text), String::new())),
                "DeleteResult/Error/Code" if text == "NoSuchKey" => drop(failed.pop()),
                "DeleteResult/Error/Code" | "DeleteResult/Error/Message" => {
                    if let Some((_, why)) = failed.last_mut() {
                        *why = format!("{why} {text}").trim().to_owned();
                    }
                }
                _ => {}
            }
        }
        Ok(Outcome::Deleted { failed })
    }

    async fn list(&self, prefix: &str, after: &str, keys_max: usize) -> Result<Outcome, Failure> {
        let mut request = Unsigned::new(Method::GET, self.path(""));
        request.query.push(("encoding-type", "url".to_owned()));
        request.query.push(("list-type", "2".to_owned()));
        request.query.push(("max-keys", keys_max.clamp(1, KEYS_MAX).to_string()));
        request.query.push(("prefix", self.full(prefix)));
        if !after.is_empty() {
            request.query.push(("start-after", self.full(after)));
        }
        let answer = self.ok(self.send(request, ANSWER_OCTETS_MAX).await?, prefix)?;
        let mut listed = Listed::default();
        for (path, text) in texts_of(&answer)? {
            match path.as_str() {
                "ListBucketResult/Contents/Key" => {
                    let plus = text.replace('+', " ");
                    let key = percent_encoding::percent_decode_str(&plus).decode_utf8_lossy();
                    listed.objects.push((self.without_prefix(&key), 0));
                }
                "ListBucketResult/Contents/Size" => {
                    if let Some((_, length)) = listed.objects.last_mut() {
                        *length = text.parse().unwrap_or(0);
                    }
                }
                "ListBucketResult/IsTruncated" => listed.more = text == "true",
                _ => {}
            }
        }
        Ok(Outcome::Listed(listed))
    }

    async fn complete(&self, key: &str, upload: &str, parts: &[String]) -> Result<Outcome, Failure> {
        let mut text =
            String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for (number, tag) in (1..).zip(parts) {
            let tag = xml::escaped(tag);
            text.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
        }
        text.push_str("</CompleteMultipartUpload>");
        let mut request = Unsigned::new(Method::POST, self.path(key));
        request.query.push(("uploadId", upload.to_owned()));
        request.header("content-type", "application/xml");
        request.body = Octets::from(text.into_bytes());
        let answer = self.send(request, ANSWER_OCTETS_MAX).await?;
        // An upload that is gone was completed by an earlier try of this request, or never was: who asks looks.
        let answer = self.ok(answer, key)?;
        // A 200 is sent before the work is done; what became of it stands in the body.
        match texts_of(&answer)?.iter().find(|(path, _)| path == "Error/Code") {
            Some((_, code)) => Err(Failure::passing(format!("CompleteMultipartUpload: {code}"))),
            None => Ok(Outcome::Done),
        }
    }

    fn without_prefix(&self, key: &str) -> String {
        let prefix = &self.url.prefix;
        let rest = key.strip_prefix(prefix.as_str()).unwrap_or(key);
        rest.strip_prefix('/').filter(|_| !prefix.is_empty()).unwrap_or(rest).to_owned()
    }

    async fn send(&self, request: Unsigned, octets_max: usize) -> Result<Answer, Failure> {
        let credentials = self
            .credentials
            .get()
            .await
            .map_err(|error| Failure::refused("no credentials for S3", error.to_string()))?;
        let endpoint = self.http.endpoint();
        let signed = request.sign(endpoint, &self.url.region, &credentials).await?;
        let answer = self.http.exchange(|| signed.request(), octets_max).await.map_err(|error| match error {
            HttpError::Certificate(..) => Failure::refused(
                error.to_string(),
                "name the issuer's certificate with ca=FILE in the store's address, or mend the server's certificate",
            ),
            error => Failure::passing(error.to_string()),
        })?;
        if answer.status == StatusCode::FORBIDDEN {
            // The next try asks for them anew.
            self.credentials.forget();
        }
        Ok(answer)
    }

    /// The answer, if it is one of success.
    fn ok(&self, answer: Answer, key: &str) -> Result<Answer, Failure> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.failure(&answer, key))
    }

    fn failure(&self, answer: &Answer, key: &str) -> Failure {
        let texts = xml::texts(&answer.body).unwrap_or_default();
        let said = |name: &str| {
            let path = format!("Error/{name}");
            texts.iter().find(|(found, _)| *found == path).map(|(_, text)| text.clone())
        };
        let (code, message) = (said("Code").unwrap_or_default(), said("Message").unwrap_or_default());
        let what = format!("{}: {} {code} {message}", key, answer.status).trim().to_owned();
        let bucket = &self.url.bucket;
        let remedy = match (answer.status.as_u16(), code.as_str()) {
            (_, "NoSuchBucket") => {
                format!("make the bucket {bucket}, or mend its name in the store's address")
            }
            (404, _) => return Failure::NotFound,
            // rclone calls it AccessDenied.
            _ if code == "RequestTimeTooSkewed"
                || message.contains("difference between the request time") =>
            {
                let time =
                    said("RequestTime").map(|time| format!(" (its time is {time})")).unwrap_or_default();
                format!("set this machine's clock{time}: the store's is another one; keep both with NTP")
            }
            (_, "InvalidAccessKeyId") => {
                "mend AWS_ACCESS_KEY_ID, or the profile in the credentials file".to_owned()
            }
            (_, "SignatureDoesNotMatch") => {
                "mend AWS_SECRET_ACCESS_KEY, or the profile in the credentials file".to_owned()
            }
            (_, "ExpiredToken" | "TokenRefreshRequired") => {
                return Failure::passing(what);
            }
            (
                _,
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
            ) => {
                let region = said("Region").map(|region| format!(" (it says {region})")).unwrap_or_default();
                format!("mend region= or endpoint= in the store's address{region}")
            }
            (403, _) => {
                format!("give these credentials the rights to read, write, list and delete in {bucket}")
            }
            (301 | 307 | 308, _) => "mend endpoint= and region= in the store's address".to_owned(),
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity") => {
                "the store is full: make room there".to_owned()
            }
            (501, _) => "the server cannot do this: use another one".to_owned(),
            // A race of two creates, an upload that was interrupted or damaged on its way, and whatever a server has for
            // "later".
            (408 | 409 | 429, _)
            | (500.., _)
            | (_, "RequestTimeout" | "SlowDown" | "OperationAborted" | "BadDigest") => {
                let slow_down = matches!(answer.status.as_u16(), 429 | 503) || code == "SlowDown";
                return Failure::Passing { what, slow_down };
            }
            _ => "see the store's own log".to_owned(),
        };
        Failure::refused(what, remedy)
    }
}

fn texts_of(answer: &Answer) -> Result<Vec<(String, String)>, Failure> {
    xml::texts(&answer.body).map_err(|what| Failure::passing(format!("the answer is no XML: {what}")))
}

/// The text of the first element of a name, whatever stands around it: servers do not agree on that.
fn text_of(answer: &Answer, name: &str) -> Result<String, Failure> {
    let mut texts = texts_of(answer)?.into_iter();
    let found = texts.find(|(path, _)| path.rsplit('/').next() == Some(name)).map(|(_, text)| text);
    found.ok_or_else(|| Failure::passing(format!("the answer has no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::url::StoreUrl;
    use hyper::header::HeaderMap;

    fn driver(url: &str) -> Driver {
        let StoreUrl::S3(url) = StoreUrl::parse(url).unwrap() else { panic!("not S3") };
        Driver::new(url, None).unwrap()
    }

    fn failure(status: u16, body: &str) -> Failure {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
        };
        driver("s3://mail/p?endpoint=http://h").failure(&answer, "k")
    }

    #[test]
    fn paths_name_bucket_prefix_and_key() {
        let path = driver("s3://mail/p/q?endpoint=http://h:9&path_style=true");
        assert_eq!(path.path("data/1/a b"), "/mail/p/q/data/1/a%20b");
        assert_eq!(path.path(""), "/mail/");
        assert_eq!(path.without_prefix("p/q/data/1"), "data/1");
        let host = driver("s3://mail?endpoint=http://h:9");
        assert_eq!(
            (host.path("owner/1/0"), host.http.endpoint().host.as_str()),
            ("/owner/1/0".into(), "mail.h")
        );
        assert_eq!(host.without_prefix("owner/1"), "owner/1");
    }

    #[test]
    fn who_must_act_is_told_by_status_and_code() {
        let code = |code: &str| {
            format!("<Error><Code>{code}</Code><Message>m</Message><Region>r-2</Region></Error>")
        };
        assert_eq!(failure(404, &code("NoSuchKey")), Failure::NotFound);
        assert_eq!(failure(404, ""), Failure::NotFound);
        for (status, name, part) in [
            (404, "NoSuchBucket", "make the bucket mail"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            (403, "RequestTimeTooSkewed", "clock"),
            (403, "AccessDenied", "rights"),
            (400, "AuthorizationHeaderMalformed", "it says r-2"),
            (301, "PermanentRedirect", "region="),
            (507, "", "full"),
        ] {
            let Failure::Refused(refusal) = failure(status, &code(name)) else { panic!("{status} {name}") };
            assert!(refusal.remedy.contains(part), "{status} {name}: {}", refusal.remedy);
        }
        let late = "<Error><Code>AccessDenied</Code><Message>The difference between the request time and the \
                    server's time exceeds the maximum allowed.</Message></Error>";
        let Failure::Refused(refusal) = failure(400, late) else { panic!("{late}") };
        assert!(refusal.remedy.contains("clock"), "{}", refusal.remedy);
        for (status, name, slow) in [
            (500, "InternalError", false),
            (500, "UnknownError", false),
            (409, "ConditionalRequestConflict", false),
            (503, "SlowDown", true),
            (429, "", true),
            (400, "RequestTimeout", false),
            (400, "ExpiredToken", false),
        ] {
            let Failure::Passing { slow_down, .. } = failure(status, &code(name)) else {
                panic!("{status} {name}")
            };
            assert_eq!(slow_down, slow, "{status} {name}");
        }
    }
}
