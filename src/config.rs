//! The configuration: a TOML file, or the embedded default of `quickstart`. Every mistake of a file is found in one
//! reading, each with its line, its key and what to write instead.

use crate::config::reader::{Problems, Section};
use culver_model::AccountId;
use culver_proto::imap::Mask;
use culver_proto::pop3::Expire;
use culver_proto::sasl::{Mechanism, Mechanisms};
use culver_shard::tls::{CertificateFiles, TlsError};
use culver_users::{Network, PasswdFile, Stored};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod allowance;
mod oauth2;
mod reader;
mod storage;

pub use allowance::{MetadataConfig, QuotaConfig};
pub use oauth2::{Introspection, Oauth2Config, Verification};
pub use reader::{Problem, Problems as ConfigProblems};
pub use storage::{Prices, SharedStore, StorageConfig, check_lease, check_name, store_url};

/// RFC 2177 §3 has clients begin their IDLE anew after 29 minutes: a keep-alive beyond that would never be sent.
const KEEPALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(29 * 60);
/// Below a second sessions would fall asleep between two commands; one of a day never sleeps.
const SLEEPS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// RFC 2449 §6.5: minutes, as a rule.
const LOGIN_DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
/// A client gives up on a command after a minute or more of silence.
const PROGRESS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
/// RFC 1939 §3 gives a silent client ten minutes: what yields later would never yield.
const LOCK_SILENCES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Below a second a client on a slow line could do nothing.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Everything that a process needs to know to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Host name said in greetings, LHLO replies and Received fields.
    pub hostname: String,
    /// 0: one per core.
    pub shards: usize,
    pub storage: StorageConfig,
    pub listeners: Vec<ListenerConfig>,
    pub tls: Option<TlsConfig>,
    pub users: UsersConfig,
    pub oauth2: Option<Oauth2Config>,
    pub imap: ImapConfig,
    pub lmtp: LmtpConfig,
    pub pop3: Pop3Config,
    pub quota: QuotaConfig,
    pub metadata: MetadataConfig,
    pub limits: LimitsConfig,
    pub mailboxes: Vec<SpecialUse>,
    pub log: LogConfig,
    /// How long sessions may finish what they do after SIGTERM.
    pub drain: Duration,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Imap,
    Pop3,
    Lmtp,
    Admin,
}

impl Service {
    pub const fn name(self) -> &'static str {
        match self {
            Service::Imap => "imap",
            Service::Pop3 => "pop3",
            Service::Lmtp => "lmtp",
            Service::Admin => "admin",
        }
    }
}

#[derive(Clone, Debug)]
pub struct ListenerConfig {
    pub service: Service,
    pub address: SocketAddr,
    /// TLS from the first octet.
    pub tls: bool,
    /// From these networks every connection begins with a PROXY header, from elsewhere none does.
    pub proxy_networks: Vec<Network>,
    /// Whether clients are asked for certificates.
    pub clients: Option<Arc<ClientCertificates>>,
    /// Capabilities of IMAP that are not advertised here.
    pub hidden: Mask,
}

/// Whose certificates log in, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM of those who have signed them.
    pub ca: PathBuf,
    pub name: CertificateName,
}

/// The part of a certificate that is a user's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateName {
    /// The one mail address of its subjectAltName.
    #[default]
    Email,
    CommonName,
}

#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// (certificate chain, key), the first is the default; the others are chosen by SNI.
    pub certificates: Vec<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug, Default)]
pub struct UsersConfig {
    pub passwd_file: Option<PathBuf>,
    /// `name`, stored password.
    pub static_users: Vec<(String, String)>,
    /// Networks from which a password may come without TLS.
    pub secure_networks: Vec<Network>,
    /// Without TLS and outside of `secure_networks`.
    pub plaintext_login: bool,
    /// Where it is `None`, what works for all users.
    pub mechanisms: Option<Mechanisms>,
    /// A secret of which salts are made for SCRAM; where it is `None`, one for this process.
    pub scram_secret_file: Option<PathBuf>,
}

/// The mechanisms that a configuration may name. Those that bind a channel come with theirs.
const MECHANISMS: [Mechanism; 7] = [
    Mechanism::Plain,
    Mechanism::Login,
    Mechanism::ScramSha256,
    Mechanism::ScramSha1,
    Mechanism::OauthBearer,
    Mechanism::Xoauth2,
    Mechanism::External,
];

/// Below that a secret can be guessed.
const SCRAM_SECRET_OCTETS_MIN: usize = 16;

/// Clients that a capability does harm.
#[derive(Clone, Debug)]
pub struct ImapClient {
    /// Beginning of the name in their ID (RFC 2971), without regard to case.
    pub name: String,
    pub hidden: Mask,
}

#[derive(Clone, Debug)]
pub struct ImapConfig {
    /// Families of clients from which something is hidden.
    pub clients: Vec<ImapClient>,
    pub append_octets_max: u64,
    /// How often an idle client hears that the server is still there.
    pub idle_keepalive: Duration,
    /// After how long a silent session is put away until something happens.
    pub sleep_after: Duration,
    /// RFC 3501 §5.4: at least 30 minutes.
    pub inactivity: Duration,
    /// How often a client hears that a long search goes on (RFC 9585).
    pub progress_after: Duration,
    /// UIDONLY (RFC 9586), which works for every client that enables it, is in the list of capabilities.
    pub advertise_uidonly: bool,
    /// COMPRESS=DEFLATE (RFC 4978) is offered.
    pub compress: bool,
    pub login_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct LmtpConfig {
    pub message_octets_max: u64,
    pub recipients_max: usize,
    /// Separates the detail from the local part in RCPT.
    pub detail_separator: Option<char>,
    /// `normalize` (default) or `refuse` bare CR and LF.
    pub refuse_bare_newlines: bool,
    /// Mail for who is over quota: `defer` (default), so that it comes again, or `bounce`.
    pub over_quota_bounces: bool,
    /// Networks whose word is taken for a message's own id (XFORWARD).
    pub xforward_networks: Vec<Network>,
    /// Networks of proxies whose word is taken for whom they speak for (XCLIENT).
    pub xclient_networks: Vec<Network>,
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Pop3Config {
    pub lock: bool,
    /// Silence after which the holder of a maildrop yields to the next login.
    pub lock_silence: Duration,
    pub inactivity: Duration,
    /// Between two logins of a user; zero: none.
    pub login_delay: Duration,
    /// What CAPA promises about how long mail is kept (RFC 2449 §6.7).
    pub expire: Expire,
}

#[derive(Clone, Debug)]
pub struct LimitsConfig {
    pub connections_max: usize,
    pub connections_per_user_max: usize,
    pub connections_per_address_max: usize,
    /// Descriptors kept free for the journal, the store and the admin port.
    pub descriptors_reserved: usize,
}

/// A name that gets a special-use attribute when a mailbox of that name is made (RFC 6154).
#[derive(Clone, Debug)]
pub struct SpecialUse {
    pub name: String,
    pub attribute: String,
    /// Made at the first login.
    pub create: bool,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    pub json: bool,
    pub level: String,
}

impl Config {
    /// What stands where a file says nothing.
    pub fn defaults(directory: PathBuf) -> Config {
        let special = |name: &str, attribute: &str| SpecialUse {
            name: name.to_owned(),
            attribute: attribute.to_owned(),
            create: false,
        };
        Config {
            hostname: hostname(),
            shards: 0,
            storage: StorageConfig::local(directory),
            listeners: Vec::new(),
            tls: None,
            oauth2: None,
            users: UsersConfig { secure_networks: loopback(), ..UsersConfig::default() },
            imap: ImapConfig {
                clients: Vec::new(),
                append_octets_max: 64 << 20,
                idle_keepalive: Duration::from_secs(120),
                progress_after: Duration::from_secs(10),
                advertise_uidonly: false,
                compress: true,
                sleep_after: Duration::from_secs(10),
                inactivity: Duration::from_secs(30 * 60),
                login_timeout: Duration::from_secs(180),
            },
            lmtp: LmtpConfig {
                message_octets_max: 64 << 20,
                recipients_max: 1000,
                detail_separator: Some('+'),
                refuse_bare_newlines: false,
                over_quota_bounces: false,
                xforward_networks: loopback(),
                xclient_networks: loopback(),
                timeout: Duration::from_secs(300),
            },
            pop3: Pop3Config {
                lock: false,
                lock_silence: Duration::from_secs(60),
                inactivity: Duration::from_secs(600),
                login_delay: Duration::ZERO,
                expire: Expire::Unsaid,
            },
            quota: QuotaConfig::default(),
            metadata: MetadataConfig::default(),
            limits: LimitsConfig {
                connections_max: 100_000,
                connections_per_user_max: 100,
                connections_per_address_max: 50_000,
                descriptors_reserved: 256,
            },
            mailboxes: vec![
                special("Drafts", "\\Drafts"),
                special("Sent", "\\Sent"),
                special("Sent Messages", "\\Sent"),
                special("Junk", "\\Junk"),
                special("Trash", "\\Trash"),
                special("Archive", "\\Archive"),
            ],
            log: LogConfig { json: false, level: "info".to_owned() },
            drain: Duration::from_secs(10),
        }
    }

    /// Where clients reach IMAP here, for nodes that tell clients of this one.
    pub fn imap_address(&self) -> String {
        let imap = self.listeners.iter().filter(|listener| listener.service == Service::Imap);
        match imap.min_by_key(|listener| listener.tls) {
            None => String::new(),
            Some(listener) if listener.address.ip().is_unspecified() => {
                format!("{}:{}", self.hostname, listener.address.port())
            }
            Some(listener) => listener.address.to_string(),
        }
    }

    /// Reads a file. `Err` has every mistake that it makes; what the files say that it names is seen when they are loaded.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        Config::read(path, false)
    }

    /// Reads a file, and looks into users and certificates too. `Err` has every mistake.
    pub fn check(path: &Path) -> Result<Config, Problems> {
        Config::read(path, true)
    }

    fn read(path: &Path, inside: bool) -> Result<Config, Problems> {
        let mut problems = Problems::new(path);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                problems
                    .whole(&format!("cannot be read: {error}"), "name a TOML file that this user may read");
                return Err(problems);
            }
        };
        let config = Config::parse(&text, inside, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    fn parse(text: &str, inside: bool, problems: &mut Problems) -> Config {
        let mut config = Config::defaults(PathBuf::new());
        let Some(mut root) = Section::root(text, problems) else { return config };
        if let Some((value, line)) = root.text_at("hostname", problems) {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if value.is_empty() || !value.bytes().all(letter) {
                let what = format!("{value:?} cannot be a host name");
                let remedy = "write \"mail.example.net\": letters, digits, dots and hyphens";
                problems.at(line, "hostname", &what, remedy);
            }
            config.hostname = value;
        }
        root.number("shards", 0..=1024, problems, |value| config.shards = value as usize);
        root.duration("drain", problems, |value| config.drain = value);

        let mut storage = root.section("storage", problems);
        config.storage = StorageConfig::parse(&mut storage, problems);
        storage.finish(problems);

        let without_tls = !root.has("tls");
        for mut listener in root.sections("listener", problems) {
            parse_listener(&mut listener, without_tls, &mut config.listeners, problems);
            listener.finish(problems);
        }
        if config.listeners.is_empty() && !root.has("listener") {
            problems.whole(
                "has no [[listener]]: nothing would be served",
                "add [[listener]] with service = \"imap\" and address = \"127.0.0.1:143\"",
            );
        }

        parse_tls(&mut root, &mut config, inside, problems);
        parse_users(&mut root, &mut config, inside, problems);
        if root.has("oauth2") {
            let mut oauth2 = root.section("oauth2", problems);
            config.oauth2 = Oauth2Config::parse(&mut oauth2, problems);
            oauth2.finish(problems);
        }

        let mut imap = root.section("imap", problems);
        imap.octets("append_octets_max", problems, |value| config.imap.append_octets_max = value);
        for mut client in imap.sections("client", problems) {
            let name = client.required_text("name", "name = \"Outlook\"", problems);
            let hidden = parse_hidden(&mut client, problems);
            if let Some((name, _)) = name {
                config.imap.clients.push(ImapClient { name, hidden });
            }
            client.finish(problems);
        }
        imap.duration_within("progress_after", PROGRESS, problems, |value| {
            config.imap.progress_after = value;
        });
        imap.flag("advertise_uidonly", problems, |value| config.imap.advertise_uidonly = value);
        imap.flag("compress", problems, |value| config.imap.compress = value);
        imap.duration_within("idle_keepalive", KEEPALIVES, problems, |value| {
            config.imap.idle_keepalive = value;
        });
        imap.duration_within("sleep_after", SLEEPS, problems, |value| config.imap.sleep_after = value);
        imap.duration_within("login_timeout", TIMEOUTS, problems, |value| config.imap.login_timeout = value);
        if let Some((value, line)) = imap.duration_at("inactivity", problems) {
            // RFC 3501 §5.4: an autologout timer must be at least 30 minutes.
            if value < Duration::from_secs(30 * 60) {
                problems.at(
                    line,
                    "imap.inactivity",
                    "is below 30 minutes (RFC 3501 §5.4)",
                    "write \"30m\" or more",
                );
            }
            config.imap.inactivity = value;
        }
        imap.finish(problems);

        let mut lmtp = root.section("lmtp", problems);
        lmtp.octets("message_octets_max", problems, |value| config.lmtp.message_octets_max = value);
        lmtp.number("recipients_max", 1..=100_000, problems, |value| {
            config.lmtp.recipients_max = value as usize
        });
        lmtp.duration_within("timeout", TIMEOUTS, problems, |value| config.lmtp.timeout = value);
        if let Some((value, line)) = lmtp.text_at("detail_separator", problems) {
            let mut letters = value.chars();
            match (letters.next(), letters.next()) {
                (None, _) => config.lmtp.detail_separator = None,
                (Some(letter), None) if letter.is_ascii_punctuation() => {
                    config.lmtp.detail_separator = Some(letter);
                }
                _ => problems.at(
                    line,
                    "lmtp.detail_separator",
                    "is not one punctuation character",
                    "write \"+\", or \"\" for none",
                ),
            }
        }
        lmtp.choice("bare_newlines", &["normalize", "refuse"], problems, |value| {
            config.lmtp.refuse_bare_newlines = value == 1;
        });
        lmtp.choice("over_quota", &["defer", "bounce"], problems, |value| {
            config.lmtp.over_quota_bounces = value == 1;
        });
        parse_networks(&mut lmtp, "xforward_networks", &mut config.lmtp.xforward_networks, problems);
        parse_networks(&mut lmtp, "xclient_networks", &mut config.lmtp.xclient_networks, problems);
        lmtp.finish(problems);

        let mut pop3 = root.section("pop3", problems);
        pop3.flag("lock", problems, |value| config.pop3.lock = value);
        pop3.duration_within("lock_silence", LOCK_SILENCES, problems, |value| {
            config.pop3.lock_silence = value;
        });
        pop3.duration_within("inactivity", TIMEOUTS, problems, |value| config.pop3.inactivity = value);
        pop3.duration_within("login_delay", LOGIN_DELAYS, problems, |value| config.pop3.login_delay = value);
        if let Some((value, line)) = pop3.text_at("expire", problems) {
            match (value.as_str(), value.strip_suffix('d').map(str::parse)) {
                ("never", _) => config.pop3.expire = Expire::Never,
                (_, Some(Ok(days))) => config.pop3.expire = Expire::Days(days),
                _ => problems.at(line, "pop3.expire", "is no time", "write \"never\", or days: \"30d\""),
            }
        }
        pop3.finish(problems);

        let mut quota = root.section("quota", problems);
        config.quota = QuotaConfig::parse(&mut quota, problems);
        quota.finish(problems);
        let mut metadata = root.section("metadata", problems);
        config.metadata = MetadataConfig::parse(&mut metadata, problems);
        metadata.finish(problems);

        let mut limits = root.section("limits", problems);
        let count = 1..=10_000_000;
        limits.number("connections_max", count.clone(), problems, |value| {
            config.limits.connections_max = value as usize;
        });
        limits.number("connections_per_user_max", count.clone(), problems, |value| {
            config.limits.connections_per_user_max = value as usize;
        });
        limits.number("connections_per_address_max", count, problems, |value| {
            config.limits.connections_per_address_max = value as usize;
        });
        limits.number("descriptors_reserved", 32..=100_000, problems, |value| {
            config.limits.descriptors_reserved = value as usize;
        });
        limits.finish(problems);

        let mailboxes = root.sections("mailbox", problems);
        if !mailboxes.is_empty() {
            config.mailboxes.clear();
        }
        for mut mailbox in mailboxes {
            let name = mailbox.required_text("name", "name = \"Sent\"", problems);
            let mut special = SpecialUse { name: String::new(), attribute: String::new(), create: false };
            if let Some((name, line)) = name {
                if culver_model::MailboxName::parse(&name).is_err() {
                    problems.at(
                        line,
                        "mailbox.name",
                        "is not a mailbox name",
                        "write a name such as \"Sent\"",
                    );
                }
                special.name = name;
            }
            let known = ["\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash"];
            mailbox.choice("special_use", &known, problems, |at| special.attribute = known[at].to_owned());
            mailbox.flag("create", problems, |value| special.create = value);
            mailbox.finish(problems);
            config.mailboxes.push(special);
        }

        let mut log = root.section("log", problems);
        log.choice("format", &["text", "json"], problems, |value| config.log.json = value == 1);
        let levels = ["error", "warn", "info", "debug", "trace"];
        log.choice("level", &levels, problems, |value| config.log.level = levels[value].to_owned());
        log.finish(problems);
        root.finish(problems);

        if config.users.passwd_file.is_none() && config.users.static_users.is_empty() && root.known("users") {
            problems.whole(
                "names no users: nobody could log in and all mail would be refused",
                "add [users] with passwd_file = \"/etc/culver/passwd\"",
            );
        }
        config
    }
}

fn parse_listener(
    section: &mut Section,
    without_tls: bool,
    listeners: &mut Vec<ListenerConfig>,
    problems: &mut Problems,
) {
    let services = [Service::Imap, Service::Pop3, Service::Lmtp, Service::Admin];
    let mut service = None;
    section
        .choice("service", &["imap", "pop3", "lmtp", "admin"], problems, |at| service = Some(services[at]));
    if service.is_none() && !section.known("service") {
        section.missing("service", "service = \"imap\"", problems);
    }
    let tls = section.flag_at("tls", problems);
    if let Some((true, line)) = tls
        && without_tls
    {
        let remedy = "add [[tls.certificate]] with chain and key, or leave tls out";
        problems.at(line, "listener.tls", "is true and there is no [tls] section", remedy);
    }
    let mut proxy_networks = Vec::new();
    parse_networks(section, "proxy_networks", &mut proxy_networks, problems);
    let clients = parse_clients(section, service, without_tls, problems);
    let hidden = parse_hidden(section, problems);
    let address = section.required_text("address", "address = \"127.0.0.1:143\"", problems);
    let Some((address, line)) = address else { return };
    let Ok(address) = address.parse() else {
        let remedy = "write an IP address and a port, \"127.0.0.1:143\" or \"[::]:143\"";
        return problems.at(line, "listener.address", "is not an address with a port", remedy);
    };
    if listeners.iter().any(|other| other.address == address) {
        let what = format!("is {address}, where another [[listener]] listens");
        problems.at(line, "listener.address", &what, "give each an address and port of its own");
    }
    if let Some(service) = service {
        let tls = tls.is_some_and(|(tls, _)| tls);
        listeners.push(ListenerConfig { service, address, tls, proxy_networks, clients, hidden });
    }
}

/// Capabilities of IMAP that are not advertised.
fn parse_hidden(section: &mut Section, problems: &mut Problems) -> Mask {
    let mut hidden = Mask::default();
    for (name, line) in section.texts_at("hide_capabilities", problems).unwrap_or_default() {
        match Mask::parse(&name) {
            Ok(mask) => hidden = hidden.and(mask),
            Err(unknown) => {
                let what = format!("{unknown:?} is no capability that can be hidden");
                let remedy =
                    "write one that CAPABILITY lists, \"COMPRESS=DEFLATE\" for instance; IMAP4rev1 stays";
                problems.at(line, &section.name("hide_capabilities"), &what, remedy);
            }
        }
    }
    hidden
}

fn parse_clients(
    section: &mut Section,
    service: Option<Service>,
    without_tls: bool,
    problems: &mut Problems,
) -> Option<Arc<ClientCertificates>> {
    let mut name = CertificateName::default();
    let names = [CertificateName::Email, CertificateName::CommonName];
    section.choice("client_name", &["email", "common-name"], problems, |at| name = names[at]);
    let Some((ca, line)) = section.text_at("client_ca", problems) else {
        if section.has("client_name") && !section.has("client_ca") {
            let line = section.line_of("client_name");
            let remedy = "add client_ca with the file of those who sign clients' certificates, or remove it";
            problems.at(line, "listener.client_name", "stands without client_ca", remedy);
        }
        return None;
    };
    let key = "listener.client_ca";
    if without_tls {
        problems.at(
            line,
            key,
            "is there and there is no [tls] section",
            "add [[tls.certificate]] with chain and key",
        );
    }
    if matches!(service, Some(Service::Lmtp | Service::Admin)) {
        problems.at(line, key, "is for imap and pop3", "remove it: nobody authenticates here");
    }
    let ca = PathBuf::from(ca);
    if let Some(error) = culver_shard::tls::check_ca_blocking(&ca) {
        problems.at(line, key, &error.to_string(), "name a file of certificates in PEM form");
    }
    Some(Arc::new(ClientCertificates { ca, name }))
}

fn parse_tls(root: &mut Section, config: &mut Config, inside: bool, problems: &mut Problems) {
    if !root.has("tls") {
        return;
    }
    let mut tls = root.section("tls", problems);
    let mut certificates = Vec::new();
    for mut certificate in tls.sections("certificate", problems) {
        let chain = certificate.required_text("chain", "chain = \"/etc/culver/cert.pem\"", problems);
        let key = certificate.required_text("key", "key = \"/etc/culver/key.pem\"", problems);
        let mut readable = true;
        for (name, given) in [("tls.certificate.chain", &chain), ("tls.certificate.key", &key)] {
            let Some((file, line)) = given else { continue };
            if let Err(error) = std::fs::read(file) {
                let what = format!("{file} cannot be read: {error}");
                problems.at(*line, name, &what, "name a PEM file that this user may read");
                readable = false;
            }
        }
        if let (Some((chain, chain_line)), Some((key, key_line))) = (chain, key) {
            let (chain, key) = (PathBuf::from(chain), PathBuf::from(key));
            if inside && readable {
                check_certificate(&chain, chain_line, &key, key_line, problems);
            }
            certificates.push((chain, key));
        }
        certificate.finish(problems);
    }
    if certificates.is_empty() {
        tls.missing("certificate", "[[tls.certificate]] with chain and key", problems);
    }
    tls.finish(problems);
    config.tls = Some(TlsConfig { certificates });
}

fn check_certificate(chain: &Path, chain_line: usize, key: &Path, key_line: usize, problems: &mut Problems) {
    let files = CertificateFiles { chain: chain.to_owned(), key: key.to_owned() };
    for error in culver_shard::tls::check_blocking(&files) {
        let of_chain = match &error {
            TlsError::NoCertificate { .. } => true,
            TlsError::Unusable { path, .. } | TlsError::Read { path, .. } => path == chain && chain != key,
            _ => false,
        };
        let remedy = match &error {
            TlsError::Mismatch { .. } => "name the key that the certificate was made with",
            _ if of_chain => "name the certificates in PEM form, the server's own first",
            _ => "name the certificate's private key in PEM form",
        };
        let (line, name) = match of_chain {
            true => (chain_line, "tls.certificate.chain"),
            false => (key_line, "tls.certificate.key"),
        };
        problems.at(line, name, &error.to_string(), remedy);
    }
}

fn parse_users(root: &mut Section, config: &mut Config, inside: bool, problems: &mut Problems) {
    let mut users = root.section("users", problems);
    let mut known = BTreeSet::new();
    if let Some((file, line)) = users.text_at("passwd_file", problems) {
        let key = "users.passwd_file";
        // Millions of lines are read for a check, and not twice at each start.
        let read = if inside { std::fs::read(&file) } else { std::fs::File::open(&file).map(|_| Vec::new()) };
        match read {
            Err(error) => {
                let what = format!("{file} cannot be read: {error}");
                problems.at(line, key, &what, "name a file in Dovecot's passwd-file format");
            }
            Ok(octets) => {
                let passwd = PasswdFile::parse(&file, &octets);
                for mistake in &passwd.mistakes {
                    problems.at(line, key, &mistake.to_string(), "mend that line of the passwd-file");
                }
                known.extend(passwd.entries.into_iter().map(|entry| entry.user.account));
            }
        }
        config.users.passwd_file = Some(PathBuf::from(file));
    }
    for mut user in users.sections("static", problems) {
        let name = user.required_text("name", "name = \"alice@example.test\"", problems);
        let password = user.required_text("password", "password = \"{ARGON2ID}$argon2id$…\"", problems);
        if let Some((name, line)) = &name {
            match AccountId::parse(name) {
                Err(error) => {
                    let remedy = "write a name such as \"alice@example.test\"";
                    problems.at(*line, "users.static.name", &format!("{name:?}: {error}"), remedy);
                }
                Ok(account) => {
                    if !known.insert(account) {
                        let what = format!("{name:?} is named twice");
                        problems.at(*line, "users.static.name", &what, "remove one of them");
                    }
                }
            }
        }
        if let Some((password, line)) = &password {
            let what = match Stored::parse(password) {
                Ok(Some(_)) => None,
                Ok(None) => Some("is no password".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(what) = what {
                problems.at(*line, "users.static.password", &what, "make one with `culver hash-password`");
            }
        }
        if let (Some((name, _)), Some((password, _))) = (name, password) {
            config.users.static_users.push((name, password));
        }
        user.finish(problems);
    }
    users.flag("plaintext_login", problems, |value| config.users.plaintext_login = value);
    parse_networks(&mut users, "secure_networks", &mut config.users.secure_networks, problems);
    parse_mechanisms(&mut users, config, root.has("oauth2"), problems);
    if let Some((file, line)) = users.text_at("scram_secret_file", problems) {
        let what = match std::fs::read(&file) {
            Ok(octets) if octets.len() >= SCRAM_SECRET_OCTETS_MIN => None,
            Ok(octets) => Some(format!("{file} has {} octets, which can be guessed", octets.len())),
            Err(error) => Some(format!("{file} cannot be read: {error}")),
        };
        if let Some(what) = what {
            let remedy =
                "name a file with 32 random octets, the same on all nodes: `head -c 32 /dev/urandom`";
            problems.at(line, "users.scram_secret_file", &what, remedy);
        }
        config.users.scram_secret_file = Some(PathBuf::from(file));
    }
    users.finish(problems);
}

fn parse_mechanisms(users: &mut Section, config: &mut Config, oauth2: bool, problems: &mut Problems) {
    let key = "users.mechanisms";
    let Some(names) = users.texts_at("mechanisms", problems) else { return };
    let known = MECHANISMS.map(|mechanism| format!("{:?}", mechanism.name().to_lowercase())).join(", ");
    if names.is_empty() {
        let line = users.line_of("mechanisms");
        let remedy = format!("name some of {known}, or leave it out");
        problems.at(line, key, "names no mechanism: nobody could log in", &remedy);
    }
    let mut mechanisms = Mechanisms::NONE;
    for (name, line) in names {
        match Mechanism::parse(name.as_bytes()) {
            Some(Mechanism::OauthBearer | Mechanism::Xoauth2) if !oauth2 => {
                let what = format!("{name:?} needs to know how tokens are verified");
                problems.at(line, key, &what, "add [oauth2], or remove it");
            }
            Some(Mechanism::External)
                if config.listeners.iter().all(|listener| listener.clients.is_none()) =>
            {
                let what = format!("{name:?} needs a listener that asks for certificates");
                problems.at(line, key, &what, "add client_ca to a [[listener]], or remove it");
            }
            Some(mechanism) if MECHANISMS.contains(&mechanism) => mechanisms = mechanisms.with(mechanism),
            Some(bound) => {
                let what = format!("{name:?} cannot be named");
                let remedy = match bound {
                    Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus => {
                        "leave out \"-plus\": over TLS the bound form comes with the other"
                    }
                    _ => "remove it",
                };
                problems.at(line, key, &what, remedy);
            }
            None => {
                let what = format!("{name:?} is no mechanism of this server");
                problems.at(line, key, &what, &format!("name some of {known}"));
            }
        }
    }
    config.users.mechanisms = Some(mechanisms);
}

fn parse_networks(section: &mut Section, key: &str, into: &mut Vec<Network>, problems: &mut Problems) {
    let Some(networks) = section.texts_at(key, problems) else { return };
    into.clear();
    for (network, line) in networks {
        match Network::parse(&network) {
            Some(network) => into.push(network),
            None => {
                let what = format!("{network:?} is not a network");
                problems.at(line, &section.name(key), &what, "write \"10.0.0.0/8\" or \"::1\"");
            }
        }
    }
}

fn loopback() -> Vec<Network> {
    ["127.0.0.0/8", "::1"].iter().filter_map(|network| Network::parse(network)).collect()
}

/// As the kernel knows this machine.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
