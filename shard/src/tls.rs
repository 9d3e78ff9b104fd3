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

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, crypto::ring};

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
    let certified = files.iter().map(certified).collect::<Result<Vec<_>, _>>()?;
    if certified.is_empty() {
        return Err(TlsError::None);
    }
    let mut provider = ring::default_provider();
    // AES-128 with SHA-256 first, for the processor's own instructions: with SHA-384 the key schedule alone costs a tenth of a
    // handshake. A stable sort: all else keeps its order.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(certified)));
    config.ticketer = tickets.0.clone();
    config.send_tls13_tickets = 1;
    // Tickets hold the state, so no memory is kept for sessions and any shard resumes any of them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ignore_client_order = true;
    Ok(Arc::new(config))
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
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
                let certificate = certificate.map_err(|e| unusable(path, e))?;
                roots.add(certificate).map_err(|e| unusable(path, e))?;
            }
            if roots.is_empty() {
                return Err(TlsError::NoCertificate { path: path.to_owned() });
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // One that cannot be read is no reason to trust none.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(TlsError::NoRoots);
            }
        }
    }
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

thread_local! {
    /// What the client whose handshake is under way asked for. Nothing stays here over a call of [`name_asked_for`].
    static NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Does a step of a server's handshake, and tells the name that the client gave in it: rustls' unbuffered connections show it to
/// nobody but the one who chooses a certificate, which is done for resumed sessions as well.
pub(crate) fn name_asked_for<T>(step: impl FnOnce() -> T) -> (T, Option<Box<str>>) {
    NAME.set(None);
    let done = step();
    (done, NAME.take())
}

struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAME.set(hello.server_name().map(Into::into));
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let has_name = |key: &&Arc<CertifiedKey>| {
            let (Some(name), Some(leaf)) = (&name, key.cert.first()) else { return false };
            ParsedCertificate::try_from(leaf).is_ok_and(|cert| verify_server_name(&cert, name).is_ok())
        };
        self.0.iter().find(has_name).or(self.0.first()).cloned()
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({} certificates)", self.0.len())
    }
}
