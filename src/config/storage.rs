//! `[storage]`: where mail is, who this node is, and what the store's requests cost.

use super::reader::{Problems, Section};
use culver_storage::store::StoreUrl;
use culver_storage::{Ack, Limits, NodeConfig, TABLES_MAX_SHARED, Windows};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Below this a node whose store hesitates would be taken for dead; above it accounts of a dead node wait too long.
const LEASES: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(3600);
/// A committed object proves ownership for half of the lease, and for no longer than this.
const PROOF_MAX: Duration = Duration::from_secs(15);
/// Between two looks at the other nodes: a sixth of the lease, and no longer than this.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long a change may wait for company: longer than this nobody would wait for an answer.
const WINDOWS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(5);
/// Octets of a node's name.
const NAME_OCTETS_MAX: usize = 64;
/// Octets that are acknowledged and not in the store: they are held in memory, and are sent by a node that comes back.
const UNSENT_OCTETS: RangeInclusive<u64> = 1 << 20..=1 << 30;
/// Octets of the address that clients are told.
const ADDRESS_OCTETS_MAX: usize = 255;

const URL_REMEDY: &str = "write file:///absolute/path for a store of this machine, or file:///mnt/mail?shared=true, \
                          s3://BUCKET/PREFIX?endpoint=… or sproxyd://HOST:PORT/proxy/CHORD/PREFIX for one of several nodes";

#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// What this machine keeps: the store itself, or what a node of a shared store keeps for itself.
    pub directory: PathBuf,
    /// Where the store is not this directory.
    pub shared: Option<SharedStore>,
    pub prices: Prices,
}

/// A store that nodes share, and who this node is there.
#[derive(Clone, Debug)]
pub struct SharedStore {
    pub url: StoreUrl,
    pub name: String,
    /// What clients are told of where this node answers; empty: its IMAP listener.
    pub address: String,
    /// A node that committed nothing for so long is taken for dead. The same on all nodes of a store.
    pub lease: Duration,
    /// For what is read and written of the store, in files of this machine; 0: none.
    pub cache_octets: u64,
    /// An object for each message, and not for each flush.
    pub pack_single: bool,
    /// So long a change waits for company where a client waits for it, and where a transfer agent does.
    pub commit_interactive: Duration,
    pub commit_delivery: Duration,
    /// When a change is acknowledged.
    pub ack: Ack,
}

/// What a store bills, in a currency of the operator's: per 1,000 requests, and per GiB.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    pub currency: String,
    pub put: f64,
    pub get: f64,
    pub delete: f64,
    pub list: f64,
    pub sent_gib: f64,
    pub received_gib: f64,
}

impl Default for Prices {
    /// What large providers bill for their standard class, within a region.
    fn default() -> Prices {
        Prices {
            currency: "USD".to_owned(),
            put: 0.005,
            get: 0.0004,
            delete: 0.0,
            list: 0.005,
            sent_gib: 0.0,
            received_gib: 0.0,
        }
    }
}

impl SharedStore {
    pub const LEASE: Duration = Duration::from_secs(30);

    /// With defaults for all else.
    pub fn new(url: StoreUrl, name: String) -> SharedStore {
        let windows = Windows::default();
        SharedStore {
            url,
            name,
            address: String::new(),
            lease: SharedStore::LEASE,
            cache_octets: Limits::default().cache_octets,
            pack_single: false,
            commit_interactive: windows.interactive,
            commit_delivery: windows.delivery,
            ack: Ack::Store,
        }
    }

    pub fn limits(&self) -> Limits {
        Limits {
            cache_octets: self.cache_octets,
            pack_single: self.pack_single,
            tables_max: TABLES_MAX_SHARED,
            ..Limits::default()
        }
    }

    /// `address`: told to clients where the configuration names none.
    pub fn node(&self, address: String) -> NodeConfig {
        let proof = (self.lease / 2).min(PROOF_MAX);
        NodeConfig {
            address: if self.address.is_empty() { address } else { self.address.clone() },
            windows: Windows {
                proof,
                interactive: self.commit_interactive,
                delivery: self.commit_delivery,
                ..Windows::default()
            },
            lease: self.lease,
            late_look: self.lease,
            ack: self.ack,
            look: (self.lease / 6).min(LOOK_MAX),
            ..NodeConfig::new(&self.name)
        }
    }
}

impl StorageConfig {
    /// A store of this machine.
    pub fn local(directory: PathBuf) -> StorageConfig {
        StorageConfig { directory, shared: None, prices: Prices::default() }
    }

    pub(super) fn parse(section: &mut Section, problems: &mut Problems) -> StorageConfig {
        let url = section.required_text("url", "url = \"file:///var/lib/culver\"", problems);
        let node = section.text_at("node", problems);
        let dir = section.text_at("dir", problems);
        let address = section.text_at("address", problems);
        let lease = section.duration_at("lease", problems);
        let cache = section.octets_or_off("cache", problems);
        let pack = section.text_at("pack", problems);
        let windows = ["commit_interactive", "commit_delivery"].map(|key| section.duration_at(key, problems));
        let ack = section.text_at("ack", problems);
        let unsent = section.octets_or_off("unsent", problems);
        let mut config = StorageConfig::local(PathBuf::new());
        parse_prices(section, &mut config.prices, problems);
        if let Some((name, line)) = &node
            && let Err(what) = check_name(name)
        {
            let remedy = "write a short name such as \"mail-1\", another one for each node";
            problems.at(*line, "storage.node", &what, remedy);
        }
        if let Some((address, line)) = &address
            && (address.len() > ADDRESS_OCTETS_MAX || !address.bytes().all(|octet| octet.is_ascii_graphic()))
        {
            let remedy = "write what a client can connect to, such as \"mail-1.example.net:143\"";
            problems.at(*line, "storage.address", "is not an address", remedy);
        }
        if let Some((dir, line)) = &dir
            && !dir.starts_with('/')
        {
            let remedy = "write a directory of this machine alone, such as \"/var/lib/culver\"";
            problems.at(*line, "storage.dir", "is not an absolute path", remedy);
        }
        if let Some((lease, line)) = &lease
            && !LEASES.contains(lease)
        {
            let what = format!("is not within {:?} and {:?}", LEASES.start(), LEASES.end());
            problems.at(*line, "storage.lease", &what, "write \"30s\", the same on all nodes of the store");
        }
        if let Some((pack, line)) = &pack
            && !["flush", "single"].contains(&pack.as_str())
        {
            let remedy = "write \"flush\" for one object for each flush of a partition, or \"single\" for one for each message";
            problems.at(*line, "storage.pack", &format!("is {pack:?}"), remedy);
        }
        if let Some((ack, line)) = &ack
            && !["store", "local"].contains(&ack.as_str())
        {
            let remedy = "write \"store\" to acknowledge a change when the store has it, or \"local\" when this machine's disk has it: \
                          what is not in the store yet is missing, until this node is back, where another one takes over";
            problems.at(*line, "storage.ack", &format!("is {ack:?}"), remedy);
        }
        if let Some((octets, line)) = &unsent {
            let remedy = "write \"64MiB\", or leave it out";
            if !UNSENT_OCTETS.contains(octets) {
                problems.at(*line, "storage.unsent", "is not within 1MiB and 1GiB", remedy);
            } else if ack.as_ref().is_none_or(|(ack, _)| ack != "local") {
                let remedy = "remove it, or write ack = \"local\"";
                problems.at(*line, "storage.unsent", "has no meaning where the store acknowledges", remedy);
            }
        }
        for (window, key) in windows.iter().zip(["commit_interactive", "commit_delivery"]) {
            if let Some((window, line)) = window
                && !WINDOWS.contains(window)
            {
                let what = format!("is not within {:?} and {:?}", WINDOWS.start(), WINDOWS.end());
                problems.at(
                    *line,
                    &format!("storage.{key}"),
                    &what,
                    "write \"10ms\", or \"250ms\" for deliveries",
                );
            }
        }
        // Without an address of the store nothing can be said of what belongs to it.
        let Some((text, line)) = url else { return config };
        let url = match store_url(&text) {
            Ok(url) => url,
            Err(what) => {
                problems.at(line, "storage.url", &what, URL_REMEDY);
                return config;
            }
        };
        if let StoreUrl::Local(directory) = url {
            for (key, line) in [
                ("node", node.map(|(_, line)| line)),
                ("dir", dir.map(|(_, line)| line)),
                ("address", address.map(|(_, line)| line)),
                ("lease", lease.map(|(_, line)| line)),
                ("cache", cache.map(|(_, line)| line)),
                ("pack", pack.map(|(_, line)| line)),
                ("commit_interactive", windows[0].map(|(_, line)| line)),
                ("commit_delivery", windows[1].map(|(_, line)| line)),
                ("ack", ack.map(|(_, line)| line)),
            ] {
                let Some(line) = line else { continue };
                let what = "has no meaning for a store of this machine alone";
                let remedy = "remove it, or name a store that nodes share: add ?shared=true to storage.url";
                problems.at(line, &format!("storage.{key}"), what, remedy);
            }
            config.directory = directory;
            return config;
        }
        match dir {
            None => section.missing("dir", "dir = \"/var/lib/culver\": the node's own part", problems),
            Some((dir, _)) => config.directory = PathBuf::from(dir),
        }
        let name = match node {
            Some((name, _)) => name,
            None => {
                let name = super::hostname();
                if let Err(what) = check_name(&name) {
                    let what = format!("is missing, and this host's name {what}");
                    problems.at(line, "storage.node", &what, "write node = \"mail-1\"");
                }
                name
            }
        };
        let mut shared = SharedStore::new(url, name);
        if let Some((address, _)) = address {
            shared.address = address;
        }
        if let Some((lease, _)) = lease {
            shared.lease = lease;
        }
        if let Some((octets, _)) = cache {
            shared.cache_octets = octets;
        }
        shared.pack_single = pack.is_some_and(|(pack, _)| pack == "single");
        if ack.is_some_and(|(ack, _)| ack == "local") {
            let octets_max = unsent.map_or(Ack::UNSENT_OCTETS_MAX, |(octets, _)| octets);
            shared.ack = Ack::Local { octets_max };
        }
        let [interactive, delivery] = windows;
        for (to, window) in
            [(&mut shared.commit_interactive, interactive), (&mut shared.commit_delivery, delivery)]
        {
            if let Some((window, _)) = window {
                *to = window;
            }
        }
        config.shared = Some(shared);
        config
    }
}

fn parse_prices(section: &mut Section, prices: &mut Prices, problems: &mut Problems) {
    let mut given = section.section("prices", problems);
    if let Some((currency, _)) = given.text_at("currency", problems) {
        prices.currency = currency;
    }
    for (key, price) in [
        ("put", &mut prices.put),
        ("get", &mut prices.get),
        ("delete", &mut prices.delete),
        ("list", &mut prices.list),
        ("sent_gib", &mut prices.sent_gib),
        ("received_gib", &mut prices.received_gib),
    ] {
        given.price(key, problems, |value| *price = value);
    }
    given.finish(problems);
}

/// The address of a store; what is wrong with it otherwise.
pub fn store_url(text: &str) -> Result<StoreUrl, String> {
    let url = StoreUrl::parse(text).map_err(|error| format!("{:?}: {}", error.url, error.what))?;
    match &url {
        StoreUrl::Local(path) | StoreUrl::SharedFs(path) if path.parent().is_none() => {
            Err(format!("{text:?} does not name a directory below the root"))
        }
        _ => Ok(url),
    }
}

/// A node's name stands in objects of the store, in logs, and in what clients are told.
pub fn check_name(name: &str) -> Result<(), String> {
    let letter = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.len() > NAME_OCTETS_MAX {
        return Err(format!("has {} octets, {NAME_OCTETS_MAX} are allowed", name.len()));
    }
    if !name.bytes().all(letter) || name.starts_with('.') {
        return Err(format!("is {name:?}: letters, digits, - _ and . only, and no dot in front"));
    }
    Ok(())
}

/// Whether a lease can be kept.
pub fn check_lease(lease: Duration) -> Result<(), String> {
    match LEASES.contains(&lease) {
        true => Ok(()),
        false => Err(format!("{lease:?} is not within {:?} and {:?}", LEASES.start(), LEASES.end())),
    }
}
