//! `culver quickstart`: everything in one process on 127.0.0.1, with no configuration.

use crate::config::{
    Config, ListenerConfig, Service, SharedStore, StorageConfig, TlsConfig, check_lease, check_name,
    store_url,
};
use crate::private::write_private;
use crate::serve::{self, Shard};
use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result, bail};
use clap::Args;
use culver_mailbox::Arriving;
use culver_model::{AccountId, InternalDate};
use culver_shard::{mesh, time};
use culver_storage::store::StoreUrl;
use culver_users::Scheme;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

const HEAD: Style = AnsiColor::Green.on_default().bold();

/// (service, standard port, TLS from the first octet)
const SERVICES: [(Service, u16, bool); 6] = [
    (Service::Imap, 143, false),
    (Service::Imap, 993, true),
    (Service::Pop3, 110, false),
    (Service::Pop3, 995, true),
    (Service::Lmtp, 24, false),
    (Service::Admin, 80, false),
];

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where mail, certificate and users are kept
    #[arg(long, value_name = "DIR", default_value = "culver-data")]
    pub dir: PathBuf,
    /// Added to each service's standard port
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u16).range(1024..=64_000))]
    pub port_base: u16,
    /// An account and its password; may be given several times, and is remembered in DIR
    #[arg(long = "account", value_name = "USER:PASSWORD")]
    pub accounts: Vec<String>,
    /// Put no sample messages into new accounts
    #[arg(long)]
    pub no_samples: bool,
    /// Executors, one per core where not given; at most 64
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = shards)]
    pub shards: usize,
    /// Where mail is kept, if not in DIR: file:///path, or shared by nodes: file:///path?shared=true, s3://…, sproxyd://…
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// The name of this node on a shared store; the host's name where not given
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Seconds after which a silent node is taken for dead; the same on all nodes
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub lease: Option<u64>,
}

/// A store of its own has 64 partitions: more shards would have nothing to do.
fn shards(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(shards) if shards <= 64 => Ok(shards),
        _ => Err("write a number up to 64".to_owned()),
    }
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let dir = &options.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let dir = dir.canonicalize()?;
    // Nothing here is changed under the feet of a process that serves it.
    let _lock = lock(&dir)?;
    let storage = storage(options, &dir)?;
    let fresh = accounts(&dir, &options.accounts)?;
    let (chain, key) = certificate(&dir)?;
    let mut config = Config::defaults(PathBuf::new());
    // Accounts of a shared store may be another node's, and have mail already.
    let samples = !options.no_samples && storage.shared.is_none();
    config.storage = storage;
    config.shards = options.shards;
    config.tls = Some(TlsConfig { certificates: vec![(chain, key)] });
    config.users.passwd_file = Some(dir.join("passwd"));
    config.log.level = std::env::var("CULVER_LOG").unwrap_or_else(|_| "warn".to_owned());
    config.listeners = SERVICES
        .iter()
        .map(|(service, port, tls)| ListenerConfig {
            proxy_networks: Vec::new(),
            clients: None,
            service: *service,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), options.port_base + port),
            tls: *tls,
        })
        .collect();
    let samples = if samples { fresh.iter().map(|(id, _)| id.clone()).collect() } else { Vec::new() };
    let base = options.port_base;
    let shown = fresh.first().cloned();
    let shared = config.storage.shared.as_ref();
    let node = shared.map(|shared| format!("Node {} of {}", shared.name, shared.url));
    serve::run(config, samples, move || {
        if let Some(node) = node {
            println!("{node}");
        }
        announce(&dir, base, shown.as_ref());
    })
}

/// Where mail is, and on a shared store who this node is: its own part lies in `DIR/node`.
fn storage(options: &Options, dir: &Path) -> Result<StorageConfig> {
    let url = match &options.store {
        Some(text) => store_url(text).map_err(|what| anyhow::anyhow!("--store {what}"))?,
        None => StoreUrl::Local(dir.join("store")),
    };
    if let StoreUrl::Local(directory) = url {
        if options.node.is_some() {
            bail!(
                "--node names a node of a shared store, and this store is of this machine alone; add --store \
                 with file:///PATH?shared=true, s3://… or sproxyd://…, or leave --node out"
            );
        }
        return Ok(StorageConfig::local(directory));
    }
    let name = options.node.clone().unwrap_or_else(crate::config::hostname);
    check_name(&name).map_err(|what| anyhow::anyhow!("--node {what}; write a short name such as mail-1"))?;
    let lease = options.lease.map_or(SharedStore::LEASE, Duration::from_secs);
    check_lease(lease).map_err(|what| anyhow::anyhow!("--lease: {what}"))?;
    let shared = SharedStore { lease, ..SharedStore::new(url, name) };
    Ok(StorageConfig { shared: Some(shared), ..StorageConfig::local(dir.join("node")) })
}

fn announce(dir: &Path, base: u16, account: Option<&(AccountId, String)>) {
    let user = account.map_or("USER".to_owned(), |(id, _)| id.as_str().to_owned());
    let password = account.map_or("PASSWORD".to_owned(), |(_, password)| password.clone());
    println!("{HEAD}Culver{HEAD:#} keeps its data in {}", dir.display());
    println!();
    println!("  IMAP 127.0.0.1:{}   IMAPS 127.0.0.1:{}", base + 143, base + 993);
    println!("  POP3 127.0.0.1:{}   POP3S 127.0.0.1:{}", base + 110, base + 995);
    println!("  LMTP 127.0.0.1:{}   admin http://127.0.0.1:{}/metrics", base + 24, base + 80);
    println!();
    println!("Read mail with curl:");
    println!("  curl -u {user}:{password} 'imap://127.0.0.1:{}/INBOX;MAILINDEX=1'", base + 143);
    println!("Read mail with neomutt:");
    println!("  neomutt -f imap://{}:{password}@127.0.0.1:{}/INBOX", user.replace('@', "%40"), base + 143);
    println!("Add a message with curl:");
    println!("  printf 'Subject: hello\\r\\n\\r\\nhi\\r\\n' > hello.eml");
    println!("  curl -u {user}:{password} -T hello.eml imap://127.0.0.1:{}/INBOX", base + 143);
    println!();
    println!("culver is ready");
    let _ = std::io::stdout().flush();
}

/// Brings the passwd-file up to date, and returns the accounts that are new in it with their passwords.
fn accounts(dir: &Path, given: &[String]) -> Result<Vec<(AccountId, String)>> {
    let path = dir.join("passwd");
    let existing = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let mut wanted = Vec::new();
    for account in given {
        let Some((user, password)) = account.split_once(':') else {
            bail!("--account {account:?}: write USER:PASSWORD");
        };
        let id = AccountId::parse(user).map_err(|why| anyhow::anyhow!("--account {user:?}: {why}"))?;
        if password.is_empty() {
            bail!("--account {user}: the password is empty");
        }
        wanted.push((id, password.to_owned()));
    }
    if wanted.is_empty() && existing.is_empty() {
        for name in ["alice", "bob"] {
            let id = AccountId::parse(&format!("{name}@example.test")).expect("a literal that is an address");
            wanted.push((id, name.to_owned()));
        }
    }
    let mut lines: BTreeMap<String, String> = existing
        .lines()
        .filter_map(|line| line.split_once(':').map(|(user, _)| (user.to_owned(), line.to_owned())))
        .collect();
    let fresh: Vec<_> = wanted.iter().filter(|(id, _)| !lines.contains_key(id.as_str())).cloned().collect();
    for (id, password) in &wanted {
        // Salted and fast: these are throw-away accounts on loopback, and a hundred may be given.
        let stored = culver_users::hash(Scheme::Ssha512, password.as_bytes())?;
        lines.insert(id.as_str().to_owned(), format!("{}:{stored}::::::", id.as_str()));
    }
    if !wanted.is_empty() {
        let text: String = lines.into_values().map(|line| line + "\n").collect();
        write_private(&path, text.as_bytes())?;
    }
    Ok(fresh)
}

/// The self-signed certificate of this directory, made on first start.
fn certificate(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let (chain, key) = (dir.join("tls-cert.pem"), dir.join("tls-key.pem"));
    if !chain.exists() || !key.exists() {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let made = rcgen::generate_simple_self_signed(names).context("a certificate cannot be made")?;
        write_private(&key, made.signing_key.serialize_pem().as_bytes())?;
        write_private(&chain, made.cert.pem().as_bytes())?;
    }
    Ok((chain, key))
}

/// The lock of the directory, with the process's id in it; kept as long as the file is open.
fn lock(dir: &Path) -> Result<std::fs::File> {
    use rustix::fs::{FlockOperation, flock};
    let path = dir.join("quickstart.lock");
    let opened = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(|| format!("{} cannot be opened", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "{} is in use by process {}; stop it, or choose another --dir and --port-base",
            dir.display(),
            holder.trim()
        );
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// A few messages that show what there is, so that a first look is not at an empty mailbox.
pub async fn deliver_samples(shard: &Rc<Shard>, account: &AccountId) -> Result<()> {
    let target = shard.shard_of(account);
    for (number, (subject, body)) in SAMPLES.iter().enumerate() {
        let account = account.clone();
        let delivered = mesh::call(target, move || async move {
            let here = Shard::here().context("the shard is stopping")?;
            let date = InternalDate { seconds: time::wall().0, zone_minutes: 0 };
            let text = format!(
                "Date: {}\r\nFrom: Culver <postmaster@localhost>\r\nTo: <{}>\r\nSubject: {subject}\r\n\
                 Message-ID: <sample-{number}-{}@localhost>\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{body}",
                date.format_header(),
                account.as_str(),
                account.local(),
            );
            let accounts = here.accounts();
            let mut arriving = Arriving::deliver(accounts, &account, date, text.len() as u64);
            arriving.feed(text.as_bytes()).await?;
            let (message, body) = arriving.finish().await?;
            accounts.deliver(&account, None, message, body).await?;
            Ok::<(), anyhow::Error>(())
        });
        delivered.await??;
    }
    Ok(())
}

/// (subject, body)
const SAMPLES: [(&str, &str); 3] = [
    (
        "Welcome to Culver",
        "This mailbox lives in the directory that `culver quickstart` named.\r\n\r\n\
         What was answered with OK or 250 is on disk; kill the server at any moment and look again.\r\n",
    ),
    (
        "Flags, keywords, folders",
        "Any IMAP client will do. Create mailboxes, set flags, move messages: two clients see each other's\r\n\
         changes at once (IDLE), and a client that was away catches up in one round trip (QRESYNC).\r\n",
    ),
    (
        "=?utf-8?Q?Gr=C3=BC=C3=9Fe?= aus dem Taubenschlag",
        "A culver is a dove, a culverhouse is a dovecote. Diese Nachricht steht in UTF-8 da, damit die Suche nach\r\n\
         „Grüße“ etwas findet.\r\n",
    ),
];
