//! What a certificate says that rustls does not tell: whom it names, and the hash that binds a channel to it.
//!
//! Of a client's certificate these are read once TLS has verified it; of the server's, they are the operator's own.
//!
//! # Invariants
//! Whatever the octets are, nothing is read beyond their end. What is not DER gives nothing.
//!
//! # RFC
//! 5280 §4.1, §4.2.1.6; 5929 §4.1.

use ring::digest;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// `[n]` around another value.
const CONTEXT: u8 = 0xa0;
/// `[1] IMPLICIT IA5String` of a GeneralName.
const RFC822_NAME: u8 = 0x81;

/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.2.840.113549.1.1.
const PKCS_1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 2.16.840.1.101.3.4.2.
const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// Values of DER, one behind the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value, which must be of this kind.
    fn value(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }

    fn within(&mut self, wanted: u8) -> Option<Der<'a>> {
        self.value(wanted).map(Der)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&length, mut rest) = rest.split_first()?;
        let length = match length {
            short @ ..=0x7f => usize::from(short),
            long @ 0x81..=0x84 => {
                let (octets, after) = rest.split_at_checked(usize::from(long & 0x7f))?;
                rest = after;
                octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet))
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }
}

/// tls-server-end-point of a server that has this certificate: its hash, by the hash of its signature. `None` where that
/// is not defined, as for Ed25519.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let mut parts = Der(certificate).within(SEQUENCE)?;
    parts.value(SEQUENCE)?;
    let hash = signature_hash(parts.within(SEQUENCE)?)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

fn signature_hash(mut algorithm: Der<'_>) -> Option<&'static digest::Algorithm> {
    let name = algorithm.value(OBJECT_IDENTIFIER)?;
    // RFC 5929 §4.1: SHA-256 in the place of MD5 and SHA-1.
    let weak = Some(&digest::SHA256);
    match (name.strip_prefix(PKCS_1), name.strip_prefix(ECDSA)) {
        (Some([4 | 5]), _) | (_, Some([1])) => weak,
        (Some([11]), _) | (_, Some([3, 2])) => Some(&digest::SHA256),
        (Some([12]), _) | (_, Some([3, 3])) => Some(&digest::SHA384),
        (Some([13]), _) | (_, Some([3, 4])) => Some(&digest::SHA512),
        // RSASSA-PSS, RFC 4055 §3.1: the hash is a parameter, SHA-1 where it is left out.
        (Some([10]), _) => {
            let mut parameters = algorithm.within(SEQUENCE)?;
            let Some(mut hash) = parameters.within(CONTEXT) else { return weak };
            match hash.within(SEQUENCE)?.value(OBJECT_IDENTIFIER)?.strip_prefix(SHA_2) {
                Some([1]) => Some(&digest::SHA256),
                Some([2]) => Some(&digest::SHA384),
                Some([3]) => Some(&digest::SHA512),
                Some(_) => None,
                None => weak,
            }
        }
        _ => None,
    }
}

/// Whom a certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name of its subject, where it has exactly one.
    pub common_name: Option<String>,
    /// The mail addresses of its subjectAltName.
    pub addresses: Vec<String>,
}

/// Whom this certificate names; nobody, where it cannot be read.
pub fn subject(certificate: &[u8]) -> Subject {
    read_subject(certificate).unwrap_or_default()
}

fn read_subject(certificate: &[u8]) -> Option<Subject> {
    let mut fields = Der(certificate).within(SEQUENCE)?.within(SEQUENCE)?;
    let mut subject = Subject::default();
    // Version, where it is not the first; serial number, signature, issuer, validity.
    let ahead = if fields.0.first() == Some(&CONTEXT) { 5 } else { 4 };
    for _ in 0..ahead {
        fields.next()?;
    }
    let names = fields.within(SEQUENCE)?.filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| Der(set));
    let mut common = Vec::new();
    for (_, attribute) in names {
        let mut attribute = Der(attribute);
        if attribute.value(OBJECT_IDENTIFIER)? == COMMON_NAME {
            let (tag, value) = attribute.next()?;
            if matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING) {
                common.push(std::str::from_utf8(value).ok()?.to_owned());
            } else {
                return None;
            }
        }
    }
    if let [name] = &common[..] {
        subject.common_name = Some(name.clone());
    }
    // The key, then unique ids that nobody uses, then the extensions.
    let Some((_, extensions)) = fields.find(|(tag, _)| *tag == CONTEXT | 3) else { return Some(subject) };
    for (tag, extension) in Der(extensions).within(SEQUENCE)? {
        let mut extension = Der(extension);
        if tag != SEQUENCE || extension.value(OBJECT_IDENTIFIER)? != SUBJECT_ALT_NAME {
            continue;
        }
        if extension.0.first() == Some(&BOOLEAN) {
            extension.value(BOOLEAN)?;
        }
        for (tag, name) in extension.within(OCTET_STRING)?.within(SEQUENCE)? {
            if tag == RFC822_NAME {
                subject.addresses.push(std::str::from_utf8(name).ok()?.to_owned());
            }
        }
    }
    Some(subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn made(algorithm: &'static rcgen::SignatureAlgorithm, addresses: &[&str], names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["mail.example.test".to_owned()]).unwrap();
        for address in addresses {
            params.subject_alt_names.push(SanType::Rfc822Name((*address).try_into().unwrap()));
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_whom_it_names() {
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        let subject_of = |addresses: &[&str], names: &[&str]| subject(&made(algorithm, addresses, names));
        let both = subject_of(&["a@example.test", "b@example.test"], &["Änne"]);
        assert_eq!(both.addresses, ["a@example.test", "b@example.test"]);
        assert_eq!(both.common_name.as_deref(), Some("Änne"));
        assert_eq!(subject_of(&[], &[]), Subject::default());
        assert_eq!(subject(b""), Subject::default());
        assert_eq!(subject(b"\x30\x84\xff\xff\xff\xff"), Subject::default());
    }

    #[test]
    fn the_end_point_is_the_hash_by_the_signatures_hash() {
        for (algorithm, hash) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(&digest::SHA256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(&digest::SHA384)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let certificate = made(algorithm, &[], &["x"]);
            let expected = hash.map(|hash| digest::digest(hash, &certificate).as_ref().to_vec());
            assert_eq!(end_point(&certificate), expected);
        }
        let algorithm = |hex: &[u8]| signature_hash(Der(hex)).map(|hash| hash.output_len());
        // As in certificates: sha1WithRSAEncryption, sha512WithRSAEncryption, RSASSA-PSS of SHA-384, and with no parameters.
        assert_eq!(algorithm(&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 5, 0]), Some(32));
        assert_eq!(algorithm(&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13, 5, 0]), Some(64));
        let pss = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
        let sha384 = [0x30, 0x11, 0xa0, 0x0f, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0];
        assert_eq!(algorithm(&[&pss[..], &sha384].concat()), Some(48));
        assert_eq!(algorithm(&[&pss[..], &[0x30, 0]].concat()), Some(32));
        assert_eq!(algorithm(&pss), None);
    }

    #[test]
    fn a_certificate_that_is_cut_or_changed_is_no_panic() {
        let whole = made(&rcgen::PKCS_ECDSA_P256_SHA256, &["a@example.test"], &["a"]);
        for at in 0..whole.len() {
            let _ = (subject(&whole[..at]), end_point(&whole[..at]));
            for octet in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = octet;
                let _ = (subject(&changed), end_point(&changed));
            }
        }
    }
}
