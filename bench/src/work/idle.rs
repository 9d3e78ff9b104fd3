//! Many connections that do nothing: what one costs in memory, and all in CPU.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Resource, getrlimit};

use crate::bench::Bench;
use crate::costs::own_cpu_seconds;
use crate::figures::{Figures, Row};
use crate::server::{Sample, Server};
use crate::tally::Tally;
use crate::users::{Account, UserOptions, accounts};
use crate::wire::imap::{Imap, quoted};
use crate::wire::{Failure, Target, TargetOptions};

/// Connections that are opened at a time.
const OPENING: usize = 32;
/// Ours, as small as may be: tens of thousands of them are open.
const BUFFER_OCTETS: usize = 512;
/// Between the last login and the first look at memory, where --warmup does not say.
const CALM: Duration = Duration::from_secs(5);
/// Descriptors of this program that are no connections.
const OTHER_DESCRIPTORS: u64 = 32;

#[derive(clap::Args, Clone, Debug)]
pub struct IdleOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub users: UserOptions,
    /// The mailbox that is selected
    #[arg(long, value_name = "MAILBOX", default_value = "INBOX")]
    pub select: String,
    /// Only log in and select, without IDLE
    #[arg(long)]
    pub no_idle: bool,
}

struct Opening {
    target: Target,
    accounts: Vec<Account>,
    select: String,
    idle: bool,
    connections: usize,
    next: Cell<usize>,
    tally: Tally,
}

pub async fn run(bench: &Bench, options: &IdleOptions) -> Result<Vec<Row>> {
    let connections = bench.run.connections();
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if connections as u64 + OTHER_DESCRIPTORS > limit {
        bail!(
            "{connections} connections need {} descriptors and this process may have {limit}: raise the hard limit \
             (ulimit -Hn, LimitNOFILE=), or run several of it",
            connections as u64 + OTHER_DESCRIPTORS
        );
    }
    let mut row = Row::new(if options.no_idle { "idle --no-idle" } else { "idle" }, &bench.label);
    for _ in 0..bench.run.repeat {
        let opening = Rc::new(Opening {
            target: Target::new(&options.target, connections, BUFFER_OCTETS)?,
            accounts: accounts(&options.users)?,
            select: format!("SELECT {}", quoted(&options.select)),
            idle: !options.no_idle,
            connections,
            next: Cell::new(0),
            tally: Tally::default(),
        });
        let server = bench.server.as_ref();
        let before = server.map(Server::sample);
        let began = Instant::now();
        let held = open_all(bench, &opening).await?;
        let seconds = began.elapsed().as_secs_f64();
        let counted = opening.tally.take();
        let mut figures = Figures::of(&counted, seconds);
        wait(bench, "calming down", bench.run.warmup.unwrap_or(CALM)).await;
        let calm = server.map(Server::sample);
        let (own, start) = (own_cpu_seconds(), Instant::now());
        wait(bench, "holding", bench.run.duration()).await;
        let seconds = start.elapsed().as_secs_f64();
        figures.set("own_cpu_share", (own_cpu_seconds() - own) / seconds);
        figures.set("held_seconds", seconds);
        if let (Some(server), Some(before), Some(calm)) = (server, before, calm) {
            costs(&mut figures, [before, calm, server.sample()], seconds, held.len() as f64);
        }
        let closed = held.iter().filter(|imap| imap.wire.is_closed()).count();
        figures.set("closed_by_server", closed as f64);
        figures.set("errors", figures.get("errors").unwrap_or(0.0) + closed as f64);
        row.add(figures, counted);
        if closed > 0 {
            row.first_error = Some(format!("the server closed {closed} connections while they were idle"));
        }
    }
    bench.end_progress();
    Ok(vec![row])
}

fn costs(figures: &mut Figures, [before, calm, after]: [Sample; 3], seconds: f64, held: f64) {
    let each = |now: u64, then: u64| (now as f64 - then as f64) / held.max(1.0);
    let mut set = |name: &str, value: f64| figures.set(format!("server/{name}"), value);
    set("pss_kib_per_connection", each(after.pss_kib, before.pss_kib));
    set("kernel_kib_per_connection", each(after.kernel_kib, before.kernel_kib));
    set("socket_kib_per_connection", each(after.socket_kib, before.socket_kib));
    set("pss_kib", after.pss_kib as f64);
    set("pss_kib_before", before.pss_kib as f64);
    set("cpu_seconds_opening", calm.cpu.since(&before.cpu));
    set("cpu_seconds", after.cpu.since(&calm.cpu));
    set("cpu_share_working", after.cpu.since(&calm.cpu) / seconds);
    set("write_bytes", after.write_bytes.saturating_sub(calm.write_bytes) as f64);
    set("processes", after.processes as f64);
    set("threads", after.threads as f64);
    set("descriptors", after.descriptors as f64);
    set("maps", after.maps as f64);
}

async fn open_all(bench: &Bench, opening: &Rc<Opening>) -> Result<Vec<Imap>> {
    let tasks: Vec<_> = (0..OPENING)
        .map(|_| {
            let opening = opening.clone();
            tokio::task::spawn_local(async move {
                let mut held = Vec::new();
                while opening.next.get() < opening.connections {
                    let n = opening.next.get();
                    opening.next.set(n + 1);
                    match open(&opening, n).await {
                        Ok(imap) => held.push(imap),
                        Err(failure) => return Err((n, failure)),
                    }
                }
                Ok(held)
            })
        })
        .collect();
    let mut held = Vec::with_capacity(opening.connections);
    for task in tasks {
        while !task.is_finished() {
            bench.progress("connecting", opening.next.get() as f64 / opening.connections as f64);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match task.await? {
            Ok(some) => held.extend(some),
            Err((n, failure)) => bail!("connection {}: {failure}", n + 1),
        }
    }
    Ok(held)
}

async fn open(opening: &Opening, n: usize) -> Result<Imap, Failure> {
    let began = Instant::now();
    let mut imap = Imap::open(&opening.target, &opening.accounts[n % opening.accounts.len()]).await?;
    imap.command(&opening.select).await?;
    if opening.idle {
        imap.start_idle().await?;
    }
    opening.tally.done(None, began);
    opening.tally.octets((0, 0), imap.octets());
    // It grew with the login, and is not needed again.
    imap.wire.out = Vec::new();
    Ok(imap)
}

async fn wait(bench: &Bench, what: &str, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        bench.progress(what, start.elapsed().as_secs_f64() / time.as_secs_f64());
        let left = time.saturating_sub(start.elapsed());
        tokio::time::sleep(left.min(Duration::from_millis(500))).await;
    }
}
