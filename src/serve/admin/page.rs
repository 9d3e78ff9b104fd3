//! The metrics of all shards and of the process, as text.
//!
//! # Cost
//! Built from nothing at each request; nothing is kept between two of them.
//!
//! Formats: OpenMetrics 1.0, and the Prometheus text format 0.0.4 for those who ask for no better.

use super::node::Spent;
use crate::serve::Shard;
use crate::serve::metrics::Snapshot;
use culver_shard::local;
use culver_shard::stall;
use culver_storage::{CacheStatus, Late, Node, Status, Unsent};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::AtomicU64;

/// Upper bounds of the buckets of stalls, in microseconds; what is beyond the last is counted in `+Inf`.
const STALL_BOUNDS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000, 10_000_000];

type Labels = Vec<(&'static str, String)>;

/// How one shard is.
pub struct Reading {
    counters: Snapshot,
    storage: Status,
    stalls: Stalls,
    spent: Spent,
    cache: Option<CacheStatus>,
    /// Of a node on a shared store, told by shard 0.
    node: Option<(Unsent, Late)>,
}

impl Reading {
    pub fn of(shard: &Shard) -> Reading {
        let accounts = shard.accounts();
        let mut counters = shard.counters().snapshot();
        counters.accounts_open = accounts.open_count() as u64;
        let stalls = Stalls::of(&stall::snapshot());
        let storage = accounts.storage();
        let (cache, storage) = (storage.cache_status(), storage.status());
        let node = local::<Node>().map(|node| (node.unsent(), node.late()));
        Reading { counters, storage, stalls, spent: Spent::here(shard, 0), cache, node }
    }
}

/// How late the tasks of one shard ran, since its start.
#[derive(Clone, Debug, Default)]
struct Stalls {
    sum_seconds: f64,
    count: u64,
    /// Upper bound in seconds, and how many are in this bucket and in none before.
    buckets: Vec<(f64, u64)>,
    p999_seconds: f64,
    max_seconds: f64,
}

impl Stalls {
    fn of(snapshot: &stall::Snapshot) -> Stalls {
        let (seconds, mut before) = (|us: u64| us as f64 / 1e6, 0);
        let mut buckets = Vec::new();
        for bound in STALL_BOUNDS_US {
            let below = snapshot.count_at_most_us(bound);
            buckets.push((seconds(bound), below - before));
            before = below;
        }
        buckets.push((f64::MAX, snapshot.count() - before));
        Stalls {
            sum_seconds: seconds(snapshot.sum_us()),
            count: snapshot.count(),
            buckets,
            p999_seconds: seconds(snapshot.quantile_us(0.999)),
            max_seconds: seconds(snapshot.max_us()),
        }
    }
}

/// [`Stalls`] by shard, as a histogram.
#[derive(Debug)]
struct StallHistogram(Vec<(Labels, Stalls)>);

impl EncodeMetric for StallHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, stalls) in &self.0 {
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_histogram::<Labels>(stalls.sum_seconds, stalls.count, &stalls.buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// What the system says of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub resident_octets: Option<u64>,
    pub descriptors: Option<u64>,
}

/// All that is shown, by shard; `None` is one that did not answer.
pub struct Page {
    pub readings: Vec<Option<Reading>>,
    pub process: Process,
}

/// What the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// What an Accept field asks for.
    pub fn accepted(accept: &str) -> Format {
        let media = accept.split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
        match media.into_iter().any(|media| media.eq_ignore_ascii_case("application/openmetrics-text")) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Page {
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        self.process(&mut registry);
        let ours = registry.sub_registry_with_prefix("culver");
        self.shards(ours);
        self.counters(ours);
        self.storage(ours);
        self.store(ours);
        self.cache(ours);
        self.unsent(ours);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Prometheus => plain(&text),
        })
    }

    fn process(&self, registry: &mut Registry) {
        let mut gauge = |name, help, value: Option<u64>| {
            if let Some(value) = value {
                registry.register(name, help, ConstGauge::new(value));
            }
        };
        gauge(
            "process_resident_memory_bytes",
            "Resident memory of this process",
            self.process.resident_octets,
        );
        gauge("process_open_fds", "Descriptors that this process has open", self.process.descriptors);
    }

    fn shards(&self, registry: &mut Registry) {
        let build: Family<Labels, Gauge> = Family::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        registry.register("build_info", "The version that runs", build);
        let up: Family<Labels, Gauge> = Family::default();
        let mut stalls = Vec::new();
        let worst: [Family<Labels, Gauge<f64, AtomicU64>>; 2] = Default::default();
        for (shard, reading) in self.readings.iter().enumerate() {
            let shard = ("shard", shard.to_string());
            up.get_or_create(&vec![shard.clone()]).set(i64::from(reading.is_some()));
            let Some(reading) = reading else { continue };
            let labels = vec![shard];
            worst[0].get_or_create(&labels).set(reading.stalls.p999_seconds);
            worst[1].get_or_create(&labels).set(reading.stalls.max_seconds);
            stalls.push((labels, reading.stalls.clone()));
        }
        registry.register("shard_up", "Shards that answer", up);
        registry.register(
            "shard_stall_seconds",
            "How late the tasks of a shard ran, since its start",
            StallHistogram(stalls),
        );
        let [p999, max] = worst;
        registry.register("shard_stall_p999_seconds", "The lateness that 999 of 1,000 tasks keep", p999);
        registry.register("shard_stall_max_seconds", "The worst of them", max);
    }

    fn counters(&self, registry: &mut Registry) {
        let mut sum = Snapshot::default();
        self.answered().for_each(|reading| sum.add(&reading.counters));
        for (name, help, is_counter, value) in sum.values() {
            put(registry, name, help.trim(), is_counter, value);
        }
    }

    fn storage(&self, registry: &mut Registry) {
        let sum = |of: fn(&Status) -> u64| self.answered().map(|reading| of(&reading.storage)).sum::<u64>();
        for (name, help, is_counter, value) in [
            (
                "pending_records",
                "Records that wait for their commit",
                false,
                sum(|s| s.pending_records as u64),
            ),
            ("pending_octets", "Octets that wait for their commit", false, sum(|s| s.pending_octets)),
            ("unflushed_records", "Committed records in no flush", false, sum(|s| s.unflushed_records)),
            ("unflushed_octets", "Octets of journal in no flush", false, sum(|s| s.unflushed_octets)),
            ("records", "Records committed", true, sum(|s| s.records)),
            (
                "syncs",
                "Syncs of the journal, each of which commits a batch of records",
                true,
                sum(|s| s.batches),
            ),
            ("journal_octets", "Octets written to the journal", true, sum(|s| s.journal_octets)),
            ("flushes", "Flushes finished", true, sum(|s| s.flushes)),
            ("compactions", "Compactions finished", true, sum(|s| s.compactions)),
            (
                "sync_failures",
                "Syncs that failed, after which what they held was given up",
                true,
                sum(|s| s.cuts),
            ),
            (
                "left_out_accounts",
                "Accounts that flushes have to leave out because they are damaged",
                false,
                sum(|s| s.left_out_accounts),
            ),
            ("panics", "Panics of flushes and of the housekeeping", true, sum(|s| s.panics)),
            (
                "full_shards",
                "Shards that take no mail because the disk is full",
                false,
                sum(|s| u64::from(s.full)),
            ),
        ] {
            put(registry, &format!("storage_{name}"), help, is_counter, value);
        }
    }

    /// Requests to a store that is not this machine's disk.
    fn store(&self, registry: &mut Registry) {
        let families: [Family<Labels, Counter>; 4] = Default::default();
        for ((kind, purpose), cost) in self.answered().flat_map(|reading| &reading.spent.kinds) {
            let labels = vec![("kind", kind.name().to_owned()), ("purpose", (*purpose).to_owned())];
            let values = [cost.requests, cost.failed, cost.octets_sent, cost.octets_received];
            for (family, value) in families.iter().zip(values) {
                family.get_or_create(&labels).inc_by(value);
            }
        }
        let [requests, failed, sent, received] = families;
        registry.register("store_requests", "Requests to the store", requests);
        registry.register("store_requests_failed", "Requests that the store did not carry out", failed);
        registry.register("store_octets_sent", "Octets sent to the store", sent);
        registry.register("store_octets_received", "Octets received from the store", received);
    }

    /// What is kept of such a store in files of this machine; nothing where there is no cache.
    fn cache(&self, registry: &mut Registry) {
        let caches: Vec<&CacheStatus> =
            self.answered().filter_map(|reading| reading.cache.as_ref()).collect();
        if caches.is_empty() {
            return;
        }
        let sum = |of: fn(&CacheStatus) -> u64| caches.iter().map(|cache| of(cache)).sum::<u64>();
        for (name, help, is_counter, value) in [
            ("hits", "Reads that the cache answered", true, sum(|c| c.hits)),
            ("hit_octets", "Octets that the cache answered", true, sum(|c| c.hit_octets)),
            ("misses", "Reads that went to the store", true, sum(|c| c.misses)),
            ("taken", "Entries taken in", true, sum(|c| c.taken)),
            (
                "skipped",
                "Entries not taken in: too many waited, or the disk failed",
                true,
                sum(|c| c.skipped),
            ),
            ("evicted", "Entries that made room", true, sum(|c| c.evicted)),
            ("damaged", "Files dropped because something in them was wrong", true, sum(|c| c.damaged)),
            ("errors", "Errors of the disk", true, sum(|c| c.errors)),
            ("entries", "Entries held", false, sum(|c| c.entries)),
            ("held_octets", "Octets of all files", false, sum(|c| c.held_octets)),
            (
                "resting_shards",
                "Shards that take nothing in after an error",
                false,
                sum(|c| u64::from(c.resting)),
            ),
        ] {
            put(registry, &format!("cache_{name}"), help, is_counter, value);
        }
    }

    /// What is acknowledged on this machine alone, and what came late of others.
    fn unsent(&self, registry: &mut Registry) {
        let Some((unsent, late)) = self.answered().find_map(|reading| reading.node) else { return };
        let help = "Seconds since the oldest change that is acknowledged and not in the store";
        registry.register("store_unsent_age_seconds", help, ConstGauge::new(unsent.age.as_secs_f64()));
        for (name, help, is_counter, value) in [
            ("unsent_octets", "Octets acknowledged and not in the store", false, unsent.octets),
            ("unsent_parts", "Groups of changes acknowledged and not in the store", false, unsent.parts),
            (
                "unsent_waited",
                "Groups of changes that had to wait for the store all the same",
                true,
                unsent.waited,
            ),
            ("late_records", "Changes merged that another node had acknowledged", true, late.records),
            ("late_conflicts", "Of these, those that met something else since", true, late.conflicts),
            ("late_awaited", "Nodes that have gone with changes that may be missing", false, late.awaited),
        ] {
            put(registry, &format!("store_{name}"), help, is_counter, value);
        }
    }

    fn answered(&self) -> impl Iterator<Item = &Reading> {
        self.readings.iter().flatten()
    }
}

fn put(registry: &mut Registry, name: &str, help: &str, is_counter: bool, value: u64) {
    if is_counter {
        registry.register(name, help, ConstCounter::new(value));
    } else {
        registry.register(name, help, ConstGauge::new(value));
    }
}

/// OpenMetrics as Prometheus text: there a counter's family has the name of its samples, and there is no end mark.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let described = is_counter(line) || lines.peek().is_some_and(|next| is_counter(next));
        match line.strip_prefix("# ").map(|rest| rest.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
            Some(["EOF"]) => continue,
            Some([what @ ("HELP" | "TYPE"), name, rest]) if described => {
                plain.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

/// `VmRSS` of a `/proc/self/status`, in octets.
pub fn resident_octets(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use culver_storage::store::{Cost, Kind};

    fn spent() -> Spent {
        let cost = Cost { requests: 5, failed: 1, octets_sent: 70, octets_received: 0 };
        Spent { kinds: [((Kind::Put, "journal"), cost)].into(), ..Spent::default() }
    }

    fn page() -> Page {
        let reading = |logins, full| Reading {
            counters: Snapshot { logins, imap_sessions: 1, ..Snapshot::default() },
            storage: Status { records: 10, pending_records: 2, full, ..Status::default() },
            stalls: Stalls {
                sum_seconds: 0.005,
                count: 4,
                buckets: vec![(0.001, 1), (0.002, 2), (f64::MAX, 1)],
                p999_seconds: 0.003,
                max_seconds: 0.003,
            },
            spent: spent(),
            cache: Some(CacheStatus { hits: 6, held_octets: 9, ..CacheStatus::default() }),
            node: Some((Unsent { octets: 8, ..Unsent::default() }, Late { records: 2, ..Late::default() })),
        };
        let process = Process { resident_octets: Some(4096), descriptors: None };
        Page { readings: vec![Some(reading(3, false)), Some(reading(4, true)), None], process }
    }

    #[test]
    fn what_the_shards_say_is_added_up() {
        let text = page().text(Format::OpenMetrics).expect("text");
        for line in [
            "process_resident_memory_bytes 4096",
            "culver_build_info{version=\"0.1.0\"} 1",
            "# TYPE culver_logins counter",
            "culver_logins_total 7",
            "culver_imap_sessions 2",
            "culver_storage_records_total 20",
            "culver_storage_pending_records 4",
            "culver_storage_full_shards 1",
            "culver_store_requests_total{kind=\"put\",purpose=\"journal\"} 10",
            "culver_store_octets_sent_total{kind=\"put\",purpose=\"journal\"} 140",
            "culver_cache_hits_total 12",
            "culver_store_unsent_octets 8",
            "culver_store_late_records_total 2",
            "culver_cache_held_octets 18",
            "culver_shard_up{shard=\"1\"} 1",
            "culver_shard_up{shard=\"2\"} 0",
            "culver_shard_stall_seconds_bucket{le=\"0.002\",shard=\"0\"} 3",
            "culver_shard_stall_seconds_count{shard=\"0\"} 4",
            "culver_shard_stall_p999_seconds{shard=\"0\"} 0.003",
            "# EOF",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("process_open_fds") && !text.contains("shard_stall_max_seconds{shard=\"2\""));
    }

    #[test]
    fn prometheus_text_names_counters_by_their_samples() {
        let text = page().text(Format::Prometheus).expect("text");
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.contains(&"culver_logins_total counter"), "{text}");
        assert!(families.contains(&"culver_imap_sessions gauge"), "{text}");
        assert!(
            text.contains("# HELP culver_logins_total ") && !text.contains("# HELP culver_logins "),
            "{text}"
        );
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn the_client_gets_openmetrics_only_where_it_asks_for_it() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4;q=0.5", Format::Prometheus),
            ("text/plain, Application/OpenMetrics-Text; version=1.0.0;q=0.8", Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn resident_memory_is_read_from_procfs() {
        assert_eq!(resident_octets("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(resident_octets("Name:\tx\n"), None);
        assert_eq!(resident_octets("VmRSS:\tmany kB\n"), None);
    }
}
