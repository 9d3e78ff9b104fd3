//! Where the server is and how to get there: address, sources, TLS, and errors that say what to do.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::{Failure, Wire};

/// Where distributions keep the authorities they trust.
const TRUSTED: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Connections from one source address to one server, of the 28,232 ports that Linux gives out.
const PER_SOURCE: usize = 20_000;
/// TLS sessions that are remembered for resumption.
const SESSIONS_MAX: usize = 4096;

/// The longest wait for a server's first words.
const GREETING_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    No,
    /// From the first octet
    Implicit,
    Starttls,
}

#[derive(clap::Args, Clone, Debug)]
pub struct TargetOptions {
    /// The server under test
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,
    /// TLS: not at all, from the first octet, or after STARTTLS (STLS with POP3)
    #[arg(long, value_enum, value_name = "HOW", default_value = "no")]
    pub tls: Tls,
    /// Take up earlier TLS sessions again, instead of a full handshake each time
    #[arg(long)]
    pub tls_resume: bool,
    /// Accept any certificate
    #[arg(long)]
    pub insecure: bool,
    /// Certificates (PEM) of the authorities to trust, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Local addresses to connect from, in turn; without it, 127.0.0.1 and on where loopback needs more than one
    #[arg(long = "source", value_name = "ADDRESS")]
    pub sources: Vec<IpAddr>,
}

pub struct Target {
    name: String,
    address: SocketAddr,
    pub tls: Tls,
    server_name: ServerName<'static>,
    connector: Option<TlsConnector>,
    sources: Vec<IpAddr>,
    next: Cell<usize>,
    buffer_octets: usize,
}

impl Target {
    /// `connections` is how many will be open at a time, `buffer_octets` the size of each receive buffer.
    pub fn new(options: &TargetOptions, connections: usize, buffer_octets: usize) -> Result<Target> {
        let name = options.target.clone();
        let address = name
            .to_socket_addrs()
            .with_context(|| format!("--target {name}: write HOST:PORT, for instance 127.0.0.1:143"))?
            .next()
            .with_context(|| format!("--target {name}: the name has no address"))?;
        let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).trim_matches(['[', ']']);
        let server_name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("--target {host}: not a name that a certificate can have"))?;
        let connector = match options.tls {
            Tls::No => None,
            _ => Some(TlsConnector::from(Arc::new(tls_config(options)?))),
        };
        let mut sources = options.sources.clone();
        if sources.is_empty() && address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && connections > PER_SOURCE {
            let count = u8::try_from(connections.div_ceil(PER_SOURCE)).unwrap_or(u8::MAX);
            sources = (1..=count).map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n))).collect();
        }
        Ok(Target {
            name,
            address,
            tls: options.tls,
            server_name,
            connector,
            sources,
            next: Cell::new(0),
            buffer_octets,
        })
    }

    /// The same ways at another address, without TLS.
    pub fn plain(&self, target: &str) -> Result<Target> {
        let address = target
            .to_socket_addrs()
            .with_context(|| format!("{target}: write HOST:PORT, for instance 127.0.0.1:24"))?
            .next()
            .with_context(|| format!("{target}: the name has no address"))?;
        Ok(Target {
            name: target.to_owned(),
            address,
            tls: Tls::No,
            server_name: self.server_name.clone(),
            connector: None,
            sources: self.sources.clone(),
            next: Cell::new(0),
            buffer_octets: self.buffer_octets,
        })
    }

    pub async fn connect(&self) -> Result<Wire, Failure> {
        let stream = self.socket().await.map_err(|error| self.explain(&error))?;
        let mut wire = Wire::new(stream, self.buffer_octets);
        if self.tls == Tls::Implicit {
            self.handshake(&mut wire).await?;
        }
        Ok(wire)
    }

    /// The handshake on a connection that has been without TLS so far.
    pub async fn handshake(&self, wire: &mut Wire) -> Result<(), Failure> {
        let connector = self.connector.as_ref().expect("--tls was given, or nobody would ask");
        let socket =
            wire.take_plain().ok_or_else(|| Failure::Unexpected("a second TLS handshake".to_owned()))?;
        match connector.connect(self.server_name.clone(), socket).await {
            Ok(stream) => {
                wire.put_tls(stream);
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                let remedy = match &text {
                    t if t.contains("UnknownIssuer") || t.contains("CaUsedAsEndEntity") => {
                        ": trust its authority with --ca FILE, or accept any certificate with --insecure"
                    }
                    t if t.contains("NotValidForName") || t.contains("not valid for name") => {
                        ": name the server in --target as its certificate does, or use --insecure"
                    }
                    t if t.contains("InvalidContentType") || t.contains("eof") => {
                        ": does this port speak TLS from the first octet? Otherwise use --tls starttls or --tls no"
                    }
                    _ => "",
                };
                Err(Failure::Connect(format!("TLS with {}: {text}{remedy}", self.name)))
            }
        }
    }

    /// Waits for a server's first words. Where they do not come, it is mostly TLS that one side speaks alone.
    pub async fn greeting<T>(&self, words: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let what = match tokio::time::timeout(GREETING_MAX, words).await {
            Ok(Err(Failure::Closed(why))) if why.is_empty() => "it closed the connection without a greeting",
            Err(_) => "it sends no greeting",
            Ok(result) => return result,
        };
        let remedy = match self.tls {
            Tls::Implicit => "is it busy, or for another protocol?",
            _ => "if this port speaks TLS from the first octet, use --tls implicit",
        };
        Err(Failure::Connect(format!("{}: {what}: {remedy}", self.name)))
    }

    async fn socket(&self) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if !self.sources.is_empty() {
            let turn = self.next.get();
            self.next.set(turn.wrapping_add(1));
            socket.bind(&SocketAddr::new(self.sources[turn % self.sources.len()], 0).into())?;
        }
        TcpSocket::from_std_stream(socket.into()).connect(self.address).await
    }

    fn explain(&self, error: &std::io::Error) -> Failure {
        let remedy = match (error.kind(), error.raw_os_error()) {
            (ErrorKind::ConnectionRefused, _) => {
                "is the server running, and is this its port? See --target".to_owned()
            }
            (ErrorKind::AddrNotAvailable, _) => "no local port is free: give several --source addresses \
                (127.0.0.1, 127.0.0.2 and on reach a server on loopback)"
                .to_owned(),
            // EMFILE and ENFILE.
            (_, Some(23 | 24)) => "no descriptor is left: raise the hard limit (ulimit -Hn), \
                or ask for fewer --connections"
                .to_owned(),
            (ErrorKind::TimedOut, _) => "nothing answers there: see --target".to_owned(),
            _ => String::new(),
        };
        let remedy = if remedy.is_empty() { remedy } else { format!(": {remedy}") };
        Failure::Connect(format!("{}: {error}{remedy}", self.name))
    }
}

fn tls_config(options: &TargetOptions) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = if options.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(authorities(options)?)
    }
    .with_no_client_auth();
    config.resumption = match options.tls_resume {
        true => Resumption::in_memory_sessions(SESSIONS_MAX),
        false => Resumption::disabled(),
    };
    Ok(config)
}

fn authorities(options: &TargetOptions) -> Result<RootCertStore> {
    let found = TRUSTED.iter().map(PathBuf::from).find(|path| path.exists());
    let Some(path) = options.ca.clone().or(found) else {
        bail!("no trusted certificates on this machine: give --ca FILE, or --insecure");
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&path)
        .with_context(|| format!("{}: not a file of certificates (PEM)", path.display()))?
    {
        store.add_parsable_certificates([
            certificate.with_context(|| format!("{}: a certificate cannot be read", path.display()))?
        ]);
    }
    if store.is_empty() {
        bail!("{}: no certificate in it", path.display());
    }
    Ok(store)
}

/// Accepts who the server says it is; its signatures are still checked, so that the work is that of an honest client.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
