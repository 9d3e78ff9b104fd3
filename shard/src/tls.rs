//! TLS configuration of the server: certificates by name, session tickets, reload.
//!
//! # Invariants
//! A configuration is immutable and shared by all shards; a reload makes a new one, and connections keep
//! theirs. Tickets outlive reloads and are good on every shard.
//!
//! # Cost
//! A handshake looks for the certificate of the name in their order: about a microsecond each.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::ring::{digest, hkdf};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ParsedCertificate, ProducesTickets,
    ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CipherSuite, ClientConfig, KeyLog, RootCertStore, ServerConfig, crypto::ring};

use crate::annex;

pub use rustls;

/// Where a certificate is: PEM files of the chain, leaf first, and of its key (they may be one file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// A person must act: the file is named.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key in PEM form (PKCS #8, PKCS #1 or SEC 1)", path.display())]
    NoKey { path: PathBuf },
    #[error("{}: {message}", path.display())]
    Unusable { path: PathBuf, message: String },
    #[error("the key in {} does not belong to the certificate in {}", key.display(), chain.display())]
    Mismatch { chain: PathBuf, key: PathBuf },
    #[error("no certificate is configured")]
    None,
    #[error("this system trusts no certificates")]
    NoRoots,
    #[error("the kernel gives no randomness for ticket keys")]
    Tickets,
    #[error("the annex has too much to do")]
    Busy,
}

/// The keys of session tickets: made once for the process, replaced by themselves every six hours.
#[derive(Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    pub fn new() -> Result<Tickets, TlsError> {
        ring::Ticketer::new().map(Tickets).map_err(|_| TlsError::Tickets)
    }
}

/// Reads the files off the shard and makes a configuration. The first certificate serves names that none has,
/// and clients that give no name.
pub async fn load(files: Vec<CertificateFiles>, tickets: Tickets) -> Result<Arc<ServerConfig>, TlsError> {
    match annex::run(move || load_blocking(&files, &tickets)).await {
        Ok(result) => result,
        Err(_) => Err(TlsError::Busy),
    }
}

/// [`load`], before the shards run.
pub fn load_blocking(files: &[CertificateFiles], tickets: &Tickets) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider());
    let mut config = configure(files, provider.clone(), Arc::new(NoClientAuth))?;
    config.ticketer = tickets.0.clone();
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The same, for a listener that asks its clients for certificates that one of those in a PEM file has signed. A client may have none.
/// It gives no tickets: whoever comes back shows his certificate again, and it is looked at again.
pub fn load_asking_blocking(files: &[CertificateFiles], ca: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| unusable(ca, e))?;
    let mut config = configure(files, provider, verifier)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    // AES-128 with SHA-256 first, for the processor's own instructions: with SHA-384 the key schedule alone costs a tenth of a
    // handshake. A stable sort: all else keeps its order.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn configure(
    files: &[CertificateFiles],
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsError> {
    let certified = files.iter().map(certified).collect::<Result<Vec<_>, _>>()?;
    if certified.is_empty() {
        return Err(TlsError::None);
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(ByName(certified)));
    config.key_log = Arc::new(Exporter);
    // Tickets hold the state, so no memory is kept for sessions and any shard resumes any of them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ignore_client_order = true;
    Ok(config)
}

/// All that is wrong with a file of certificates to trust.
pub fn check_ca_blocking(ca: &Path) -> Option<TlsError> {
    roots(ca).err()
}

/// The certificates of a PEM file, to be trusted.
fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
        let certificate = certificate.map_err(|e| unusable(path, e))?;
        roots.add(certificate).map_err(|e| unusable(path, e))?;
    }
    match roots.is_empty() {
        true => Err(TlsError::NoCertificate { path: path.to_owned() }),
        false => Ok(roots),
    }
}

/// What a client trusts: the certificates of a PEM file, or the system's.
pub async fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let ca = ca.map(Path::to_owned);
    match annex::run(move || client_blocking(ca.as_deref())).await {
        Ok(result) => result,
        Err(_) => Err(TlsError::Busy),
    }
}

fn client_blocking(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca {
        Some(path) => roots(path)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // One that cannot be read is no reason to trust none.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(TlsError::NoRoots);
            }
            roots
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// All that is wrong with a certificate and its key, as far as one can be seen without the other.
pub fn check_blocking(files: &CertificateFiles) -> Vec<TlsError> {
    match (chain(files), key(files)) {
        (Ok(chain), Ok(key)) => match matched(files, chain, key) {
            Ok(_) => Vec::new(),
            Err(error) => vec![error],
        },
        (chain, key) => [chain.err(), key.err()].into_iter().flatten().collect(),
    }
}

fn certified(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    matched(files, chain(files)?, key(files)?)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn unusable(path: &Path, error: impl fmt::Display) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), message: error.to_string() }
}

fn chain(files: &CertificateFiles) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(&files.chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(&files.chain, e))?;
    let Some(leaf) = chain.first() else {
        return Err(TlsError::NoCertificate { path: files.chain.clone() });
    };
    ParsedCertificate::try_from(leaf).map_err(|e| unusable(&files.chain, e))?;
    Ok(chain)
}

fn key(files: &CertificateFiles) -> Result<Arc<dyn SigningKey>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|e| match e {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey { path: files.key.clone() },
        e => unusable(&files.key, e),
    })?;
    ring::sign::any_supported_type(&key).map_err(|e| unusable(&files.key, e))
}

fn matched(
    files: &CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::Mismatch { chain: files.chain.clone(), key: files.key.clone() })
        }
        _ => Ok(Arc::new(certified)),
    }
}

/// What rustls' unbuffered connections show to nobody but those whom they ask on the way of a handshake: who chooses a certificate,
/// which is done for resumed sessions as well, and who is told secrets.
#[derive(Default)]
pub(crate) struct Seen {
    /// The name that the client gave.
    pub name: Option<Box<str>>,
    /// The certificate that was chosen for it.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// tls-exporter (RFC 9266), of TLS 1.3.
    pub exporter: Option<[u8; 32]>,
}

thread_local! {
    /// What was seen of the handshake that is under way. Nothing stays here over a call of [`seen_by`].
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen { name: None, certificate: None, exporter: None }) };
}

/// Does a step of a server's handshake, and tells what was to be seen of it.
pub(crate) fn seen_by<T>(step: impl FnOnce() -> T) -> (T, Seen) {
    SEEN.take();
    let done = step();
    (done, SEEN.take())
}

/// Makes what a channel is bound to from the secret that TLS 1.3 has for such ends; the secret itself goes nowhere.
#[derive(Debug)]
struct Exporter;

/// The name of that secret, in rustls as in logs of keys.
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";

impl KeyLog for Exporter {
    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET
    }

    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == EXPORTER_SECRET {
            SEEN.with_borrow_mut(|seen| seen.exporter = exporter(secret));
        }
    }
}

/// RFC 9266 §2, RFC 8446 §7.5: `TLS-Exporter("EXPORTER-Channel-Binding", "", 32)`.
fn exporter(secret: &[u8]) -> Option<[u8; 32]> {
    let (derivation, hash) = match secret.len() {
        32 => (hkdf::HKDF_SHA256, &digest::SHA256),
        48 => (hkdf::HKDF_SHA384, &digest::SHA384),
        _ => return None,
    };
    let nothing = digest::digest(hash, b"");
    let mut derived = vec![0; secret.len()];
    expand(derivation, secret, b"tls13 EXPORTER-Channel-Binding", nothing.as_ref(), &mut derived)?;
    let mut binding = [0; 32];
    expand(derivation, &derived, b"tls13 exporter", nothing.as_ref(), &mut binding)?;
    Some(binding)
}

/// RFC 8446 §7.1: HKDF-Expand-Label.
fn expand(
    derivation: hkdf::Algorithm,
    secret: &[u8],
    label: &[u8],
    context: &[u8],
    out: &mut [u8],
) -> Option<()> {
    struct Octets(usize);
    impl hkdf::KeyType for Octets {
        fn len(&self) -> usize {
            self.0
        }
    }
    let octets = u16::try_from(out.len()).ok()?.to_be_bytes();
    let (label_octets, context_octets) =
        ([u8::try_from(label.len()).ok()?], [u8::try_from(context.len()).ok()?]);
    let wanted = [&octets[..], &label_octets, label, &context_octets, context];
    let secret = hkdf::Prk::new_less_safe(derivation, secret);
    secret.expand(&wanted, Octets(out.len())).and_then(|made| made.fill(out)).ok()
}

struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let has_name = |key: &&Arc<CertifiedKey>| {
            let (Some(name), Some(leaf)) = (&name, key.cert.first()) else { return false };
            ParsedCertificate::try_from(leaf).is_ok_and(|cert| verify_server_name(&cert, name).is_ok())
        };
        let chosen = self.0.iter().find(has_name).or(self.0.first()).cloned();
        SEEN.with_borrow_mut(|seen| {
            seen.name = hello.server_name().map(Into::into);
            seen.certificate = chosen.clone();
        });
        chosen
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({} certificates)", self.0.len())
    }
}
