//! What a phase cost, the server and ourselves; and the wait until the server has paid what it put off.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figures::Figures;
use crate::options::ServerOptions;
use crate::server::{Sample, Server};

/// Less than this share of a core is quiet, for [`QUIET`].
const QUIET_SHARE: f64 = 0.01;
const QUIET: Duration = Duration::from_secs(2);
/// How long quiet is waited for where no time was given.
const SETTLE_DEFAULT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(250);

pub struct Costs<'a> {
    server: Option<&'a Server>,
    before: Sample,
    own_before: f64,
    began: Instant,
}

impl<'a> Costs<'a> {
    pub fn start(server: Option<&'a Server>) -> Costs<'a> {
        let before = server.map(Server::sample).unwrap_or_default();
        Costs { server, before, own_before: own_cpu_seconds(), began: Instant::now() }
    }

    /// Call it when the work is done: adds to `figures`, which has `operations` and `raw_octets`.
    pub async fn finish(self, options: &ServerOptions, figures: &mut Figures) -> Result<()> {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        figures.set("own_cpu_share", (own_cpu_seconds() - self.own_before) / seconds);
        let Some(server) = self.server else {
            drain(options).await?;
            return Ok(());
        };
        let working = server.cpu().since(&self.before.cpu);
        drain(options).await?;
        let settled = settle(server, options).await;
        let after = server.sample();
        let operations = figures.get("operations").unwrap_or(0.0).max(1.0);
        let raw = figures.get("raw_octets").unwrap_or(0.0);
        let cpu = after.cpu.since(&self.before.cpu);
        let written = after.write_bytes.saturating_sub(self.before.write_bytes) as f64;
        let mut set = |name: &str, value: f64| figures.set(format!("server/{name}"), value);
        set("cpu_seconds", cpu);
        set("cpu_seconds_working", working);
        set("cpu_share_working", working / seconds);
        set("cpu_us_per_operation", cpu * 1e6 / operations);
        set("write_bytes", written);
        set("write_bytes_per_operation", written / operations);
        if raw > 0.0 {
            set("write_bytes_per_raw_octet", written / raw);
        }
        set("read_bytes", after.read_bytes.saturating_sub(self.before.read_bytes) as f64);
        set("pss_kib", after.pss_kib as f64);
        set("pss_kib_before", self.before.pss_kib as f64);
        set("processes", after.processes as f64);
        set("threads", after.threads as f64);
        set("descriptors", after.descriptors as f64);
        set("maps", after.maps as f64);
        set("settle_seconds", settled.as_secs_f64());
        Ok(())
    }
}

/// What this program used, looks of `--busy-poll` that found nothing left out.
pub fn own_cpu_seconds() -> f64 {
    seconds(ClockId::ProcessCPUTime) - crate::busy::idle_seconds()
}

#[cfg(test)]
pub fn thread_cpu_seconds() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn settle(server: &Server, options: &ServerOptions) -> Duration {
    let limit = match (options.settle, options.settle_idle) {
        (Some(limit), _) => limit,
        (None, true) => SETTLE_DEFAULT,
        (None, false) => return Duration::ZERO,
    };
    let start = Instant::now();
    // Sums at the last looks, as far back as quiet is asked for.
    let mut seen = std::collections::VecDeque::from([(start, server.cpu().seconds())]);
    while start.elapsed() < limit {
        tokio::time::sleep(LOOK.min(limit - start.elapsed().min(limit))).await;
        let (now, cpu) = (Instant::now(), server.cpu().seconds());
        seen.push_back((now, cpu));
        while seen.get(1).is_some_and(|(at, _)| now - *at >= QUIET) {
            seen.pop_front();
        }
        let (since, before) = seen[0];
        let quiet = now - since >= QUIET && cpu - before <= QUIET_SHARE * (now - since).as_secs_f64();
        if options.settle_idle && quiet {
            break;
        }
    }
    start.elapsed()
}

/// POST without a body, HTTP/1.1.
async fn drain(options: &ServerOptions) -> Result<()> {
    let Some(url) = &options.drain_url else { return Ok(()) };
    let rest =
        url.strip_prefix("http://").with_context(|| format!("--drain-url {url}: only http:// is spoken"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let ask = async {
        let mut stream = TcpStream::connect(&address).await?;
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = ask.await.with_context(|| format!("--drain-url {url}"))?;
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    if line.get(9) != Some(&b'2') {
        bail!("--drain-url {url}: {}", String::from_utf8_lossy(line));
    }
    Ok(())
}
