//! A set of keys (JWK Set), and JWTs that are signed with one of them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde_json::{Map, Value};

use super::TokenFault;

/// The most keys of a set: a token without a key id is tried with each of its algorithm.
pub const KEYS_MAX: usize = 64;
/// RFC 7518 §3.2: a key of HS256 has at least this many octets.
const SECRET_OCTETS_MIN: usize = 32;
/// RFC 7518 §3.3: an RSA modulus has 2048 bits at least; ring takes up to 8192.
const MODULUS_OCTETS: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys of an issuer. `Debug` shows none.
pub struct Jwks(Vec<Key>);

struct Key {
    id: Option<String>,
    kind: Kind,
}

enum Kind {
    Rs256 {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
    Hs256(hmac::Key),
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jwks({} keys)", self.0.len())
    }
}

impl Kind {
    /// RFC 8725 §3.1: each key is for one algorithm.
    fn algorithm(&self) -> &'static str {
        match self {
            Kind::Rs256 { .. } => "RS256",
            Kind::Es256(_) => "ES256",
            Kind::EdDsa(_) => "EdDSA",
            Kind::Hs256(_) => "HS256",
        }
    }

    fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Kind::Rs256 { modulus, exponent } => {
                let key = signature::RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed).is_ok()
            }
            Kind::Es256(point) => {
                let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signed).is_ok()
            }
            Kind::EdDsa(point) => {
                let key = signature::UnparsedPublicKey::new(&signature::ED25519, point);
                key.verify(message, signed).is_ok()
            }
            Kind::Hs256(key) => hmac::verify(key, message, signed).is_ok(),
        }
    }
}

impl Jwks {
    /// Parses `{"keys": […]}`, or one key alone. Keys that are for something else than RS256, ES256, EdDSA or HS256 are passed
    /// over; one of these that is malformed is a mistake, and so is a set of which none is left.
    pub fn parse(octets: &[u8]) -> Result<Jwks, String> {
        let value: Value = serde_json::from_slice(octets).map_err(|error| format!("is no JSON: {error}"))?;
        let keys = match &value {
            Value::Object(set) if set.contains_key("keys") => {
                set["keys"].as_array().ok_or("\"keys\" is no array")?.clone()
            }
            Value::Object(_) => vec![value.clone()],
            _ => return Err("is no JWK Set".to_owned()),
        };
        if keys.len() > KEYS_MAX {
            return Err(format!("has more than {KEYS_MAX} keys"));
        }
        let mut parsed = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let key = key.as_object().ok_or_else(|| format!("key {} is no object", at + 1))?;
            if let Some(kind) = kind(key).map_err(|what| format!("key {}: {what}", at + 1))? {
                parsed.push(Key { id: text(key, "kid").map(str::to_owned), kind });
            }
        }
        match parsed.is_empty() {
            true => Err("has no key for signatures by RS256, ES256, EdDSA or HS256".to_owned()),
            false => Ok(Jwks(parsed)),
        }
    }

    /// The claims of a JWT that one of the keys has signed.
    pub(super) fn verify(&self, token: &[u8]) -> Result<Map<String, Value>, TokenFault> {
        let mut parts = token.split(|&octet| octet == b'.');
        let (Some(header), Some(payload), Some(signed), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::NotJwt);
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let header = object(header)?;
        // RFC 7515 §4.1.11: what is critical and not understood makes it invalid.
        let kind = text(&header, "typ").unwrap_or("JWT").to_ascii_lowercase();
        let kind = kind.strip_prefix("application/").unwrap_or(&kind);
        if header.contains_key("crit") || !["jwt", "at+jwt"].contains(&kind) {
            return Err(TokenFault::Header);
        }
        let signed = URL_SAFE_NO_PAD.decode(signed).map_err(|_| TokenFault::NotJwt)?;
        let (algorithm, id) = (text(&header, "alg"), text(&header, "kid"));
        let fits = |key: &&Key| {
            algorithm == Some(key.kind.algorithm())
                && (id.is_none() || key.id.is_none() || id == key.id.as_deref())
        };
        let mut keys = self.0.iter().filter(fits).peekable();
        if keys.peek().is_none() {
            return Err(TokenFault::NoKey);
        }
        if !keys.any(|key| key.kind.verifies(message, &signed)) {
            return Err(TokenFault::Signature);
        }
        object(payload)
    }
}

/// A key's kind; `None` where it is for something that is not done here.
fn kind(key: &Map<String, Value>) -> Result<Option<Kind>, String> {
    if text(key, "use").is_some_and(|what| what != "sig") {
        return Ok(None);
    }
    let octets = |name: &str| {
        let decoded = text(key, name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        decoded.filter(|octets| !octets.is_empty()).ok_or_else(|| format!("{name:?} is no base64url"))
    };
    let point = |name: &str| match octets(name)? {
        point if point.len() == 32 => Ok(point),
        _ => Err(format!("{name:?} has not 32 octets")),
    };
    let algorithm = text(key, "alg");
    let is_for = |name: &str| algorithm.is_none_or(|algorithm| algorithm == name);
    let kind = match (text(key, "kty"), text(key, "crv")) {
        (Some("RSA"), _) if is_for("RS256") => {
            let (modulus, exponent) = (octets("n")?, octets("e")?);
            // RFC 7518 §6.3.1.1: without zeros in front, though some write them.
            let zeros = modulus.iter().take_while(|octet| **octet == 0).count();
            let modulus = modulus[zeros..].to_vec();
            if !MODULUS_OCTETS.contains(&modulus.len()) {
                return Err("an RSA key has 2048 to 8192 bits".to_owned());
            }
            Kind::Rs256 { modulus, exponent }
        }
        (Some("EC"), Some("P-256")) if is_for("ES256") => {
            Kind::Es256([&[4][..], &point("x")?, &point("y")?].concat())
        }
        (Some("OKP"), Some("Ed25519")) if is_for("EdDSA") || is_for("Ed25519") => Kind::EdDsa(point("x")?),
        (Some("oct"), _) if is_for("HS256") => {
            let secret = octets("k")?;
            if secret.len() < SECRET_OCTETS_MIN {
                return Err(format!("\"k\" has fewer than {SECRET_OCTETS_MIN} octets"));
            }
            Kind::Hs256(hmac::Key::new(hmac::HMAC_SHA256, &secret))
        }
        (None, _) => return Err("\"kty\" is missing".to_owned()),
        _ => return Ok(None),
    };
    Ok(Some(kind))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// RFC 7515 §2: base64url without padding, of a JSON object.
fn object(part: &[u8]) -> Result<Map<String, Value>, TokenFault> {
    let octets = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::NotJwt)?;
    serde_json::from_slice(&octets).map_err(|_| TokenFault::NotJwt)
}
