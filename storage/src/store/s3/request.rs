//! A request of S3, and its signature.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use culver_shard::time;
use hyper::{Method, Request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::store::op::Failure;
use culver_shard::http::Endpoint;
use culver_shard::http::{Octets, Sent};

/// What stays as it is in a path (RFC 3986 §2.3, and the slash).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// And in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A key as a path.
pub fn encoded(key: &str) -> String {
    utf8_percent_encode(key, PATH).to_string()
}

pub struct Unsigned {
    method: Method,
    /// Encoded.
    path: String,
    /// In the order of their names.
    pub query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    pub body: Octets,
    /// A batch delete wants a checksum of its body that every server knows.
    pub md5: bool,
}

impl Unsigned {
    pub fn new(method: Method, path: String) -> Unsigned {
        Unsigned { method, path, query: Vec::new(), headers: Vec::new(), body: Octets::none(), md5: false }
    }

    pub fn header(&mut self, name: &'static str, value: &str) {
        self.headers.push((name, value.to_owned()));
    }

    fn target(&self) -> String {
        let mut target = self.path.clone();
        for (nth, (name, value)) in self.query.iter().enumerate() {
            target.push(if nth == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.extend(utf8_percent_encode(value, QUERY));
        }
        target
    }

    pub async fn sign(
        mut self,
        endpoint: &Endpoint,
        region: &str,
        credentials: &Credentials,
    ) -> Result<Signed, Failure> {
        let octets = self.body.len();
        let mut crc = 0;
        let mut sha = ring::digest::Context::new(&ring::digest::SHA256);
        let mut all = Vec::new();
        let (tls, md5) = (endpoint.tls, self.md5);
        let looked = self.body.each(|piece| {
            if !tls {
                sha.update(piece);
            }
            crc = crc32c::crc32c_append(crc, piece);
            if md5 {
                all.extend_from_slice(piece);
            }
        });
        looked
            .await
            .map_err(|error| Failure::passing(format!("what is to be sent cannot be read: {error}")))?;
        let payload = match (octets, tls) {
            (0, _) => SignableBody::Precomputed(EMPTY_SHA256.to_owned()),
            (_, true) => SignableBody::UnsignedPayload,
            (_, false) => SignableBody::Precomputed(hex(sha.finish().as_ref())),
        };
        if octets > 0 {
            self.headers.push(("x-amz-checksum-crc32c", BASE64.encode(crc.to_be_bytes())));
        }
        if md5 {
            self.headers.push(("content-md5", BASE64.encode(md5_of(&all))));
        }
        let target = self.target();
        let authority = endpoint.authority();
        self.headers.push(("host", authority));
        let identity = credentials.clone().into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let wrong =
            |what: String| Failure::refused(format!("the request cannot be signed: {what}"), "report this");
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("s3")
            .time(time::wall_system())
            .settings(settings)
            .build()
            .map_err(|error| wrong(error.to_string()))?
            .into();
        let headers = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let uri = format!("{endpoint}{target}");
        let signable = SignableRequest::new(self.method.as_str(), uri, headers, payload)
            .map_err(|error| wrong(error.to_string()))?;
        let (instructions, _) =
            sign(signable, &parameters).map_err(|error| wrong(error.to_string()))?.into_parts();
        let mut headers: Vec<(String, String)> =
            self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
        if octets > 0 || matches!(self.method, Method::PUT | Method::POST) {
            headers.push(("content-length".to_owned(), octets.to_string()));
        }
        Ok(Signed { method: self.method, target, headers, body: self.body })
    }
}

/// A request that can be sent, more than once.
pub struct Signed {
    method: Method,
    target: String,
    headers: Vec<(String, String)>,
    body: Octets,
}

impl Signed {
    pub fn request(&self) -> Request<Sent> {
        let mut request = Request::builder().method(self.method.clone()).uri(&self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Sent::from(&self.body)).expect("paths are encoded, header fields are ASCII")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// MD5 (RFC 1321), as Content-MD5 wants it; a checksum here and nothing else.
fn md5_of(bytes: &[u8]) -> [u8; 16] {
    use md5::{Digest, Md5};
    Md5::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded_once() {
        assert_eq!(encoded("data/1/a b+c%é~"), "data/1/a%20b%2Bc%25%C3%A9~");
        let mut request = Unsigned::new(Method::GET, "/b/".to_owned());
        request.query.push(("prefix", "a/b c".to_owned()));
        request.query.push(("uploads", String::new()));
        assert_eq!(request.target(), "/b/?prefix=a%2Fb%20c&uploads=");
    }

    #[test]
    fn content_md5_is_that_of_the_rfc() {
        assert_eq!(hex(&md5_of(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
    }
}
