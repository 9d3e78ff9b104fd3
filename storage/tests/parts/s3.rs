//! A double of S3: one bucket in memory.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::http::{Reply, Request, Service, ranged};

pub const BUCKET: &str = "mail";

pub struct S3 {
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Parts of uploads that are neither completed nor given up, by id.
    pub uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    next: u64,
    /// Whether `If-None-Match` counts.
    pub conditions: bool,
    /// A range is answered with this status: 206, or 200 as rclone does.
    pub range_status: u16,
}

impl S3 {
    pub fn new() -> S3 {
        S3 {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            next: 0,
            conditions: true,
            range_status: 206,
        }
    }
}

pub fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>it is so</Message></Error>")
}

/// What stands between two tags, for each pair of them.
fn between<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    text.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0)).collect()
}

impl Service for S3 {
    fn answer(&mut self, request: &Request) -> Reply {
        let path = request.path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket != BUCKET {
            return Reply::text(404, &error("NoSuchBucket"));
        }
        if let Some(crc) = request.header("x-amz-checksum-crc32c")
            && crc != BASE64.encode(crc32c::crc32c(&request.body).to_be_bytes())
        {
            return Reply::text(400, &error("BadDigest"));
        }
        let word = |name: &str| request.query.get(name).map(String::as_str);
        match (request.method.as_str(), key) {
            ("GET", "") => self.list(request),
            ("POST", "") if word("delete").is_some() => {
                let text = String::from_utf8_lossy(&request.body);
                for key in between(&text, "Key") {
                    self.objects.remove(&key.replace("&amp;", "&"));
                }
                Reply::text(200, "<DeleteResult></DeleteResult>")
            }
            ("POST", key) if word("uploads").is_some() => {
                self.next += 1;
                let id = format!("upload-{}", self.next);
                self.uploads.insert(id.clone(), BTreeMap::new());
                let text = format!(
                    "<InitiateMultipartUploadResult><Key>{key}</Key><UploadId>{id}</UploadId>\
                     </InitiateMultipartUploadResult>"
                );
                Reply::text(200, &text)
            }
            ("POST", key) => match self.uploads.remove(word("uploadId").unwrap_or_default()) {
                None => Reply::text(404, &error("NoSuchUpload")),
                Some(parts) => {
                    self.objects.insert(key.to_owned(), parts.into_values().flatten().collect());
                    Reply::text(200, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
                }
            },
            ("PUT", _) if word("uploadId").is_some() => {
                let number = word("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
                match self.uploads.get_mut(word("uploadId").unwrap_or_default()) {
                    None => Reply::text(404, &error("NoSuchUpload")),
                    Some(parts) => {
                        parts.insert(number, request.body.clone());
                        Reply::new(200).with("etag", format!("\"{number}\""))
                    }
                }
            }
            ("PUT", key) => {
                let create = request.header("if-none-match") == Some("*");
                if create && self.conditions && self.objects.contains_key(key) {
                    return Reply::text(412, &error("PreconditionFailed"));
                }
                self.objects.insert(key.to_owned(), request.body.clone());
                Reply::new(200)
            }
            ("DELETE", _) if word("uploadId").is_some() => {
                self.uploads.remove(word("uploadId").unwrap_or_default());
                Reply::new(204)
            }
            ("DELETE", key) => {
                self.objects.remove(key);
                Reply::new(204)
            }
            ("GET", key) => match self.objects.get(key) {
                Some(octets) => match ranged(request, octets) {
                    reply if reply.status == 206 => Reply { status: self.range_status, ..reply },
                    reply => reply,
                },
                None => Reply::text(404, &error("NoSuchKey")),
            },
            ("HEAD", key) => match self.objects.get(key) {
                Some(octets) => Reply::new(200).with("content-length", octets.len()),
                None => Reply::new(404),
            },
            _ => Reply::text(501, &error("NotImplemented")),
        }
    }
}

impl S3 {
    fn list(&self, request: &Request) -> Reply {
        let word = |name: &str| request.query.get(name).map_or("", String::as_str);
        let (prefix, after) = (word("prefix"), word("start-after"));
        let keys_max = word("max-keys").parse().unwrap_or(1000);
        let found = self.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let mut all: Vec<_> = found.take(keys_max + 1).collect();
        let more = all.len() > keys_max;
        all.truncate(keys_max);
        let mut text = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        for (key, octets) in all {
            let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
            text += &format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", octets.len());
        }
        text += "</ListBucketResult>";
        Reply::text(200, &text)
    }
}
