//! `culver-bench`: load on a mail server, of any make, and what comes of it.
//!
//! One thread, so that the generator leaves the other cores to the server; [`drive`] says how latencies are counted.

mod alarm;
mod bench;
mod busy;
mod corpus;
mod costs;
mod drive;
mod figures;
mod options;
mod random;
mod report;
mod schedule;
mod server;
mod tally;
mod users;
mod wire;
mod work;

use std::process::ExitCode;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use bench::Bench;
use options::{OutputOptions, RunOptions, ServerOptions};

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Load on a mail server over LMTP, IMAP and POP3: rates, latencies without coordinated omission, and what the server
/// spends on it.
#[derive(Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:
  culver-bench lmtp --target 127.0.0.1:24 -c 10 --users 100 --duration 30
  culver-bench noop --target 127.0.0.1:143 --account me@example.test:secret --rate 500
  culver-bench login --target 127.0.0.1:993 --tls implicit --insecure -c 20 --users 100 --server-pid 4711
Without --rate, each connection sends when it has its answer (closed loop). With it, operations are due at a rate of
their own, and latencies count from then (open loop). A row is INVALID where this program used more than 80% of a core.
Each kind of work has its own help: culver-bench lmtp --help")]
struct Cli {
    #[command(subcommand)]
    work: Work,
}

#[derive(clap::Args)]
struct Shared {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    server: ServerOptions,
    #[command(flatten)]
    output: OutputOptions,
}

macro_rules! works {
    ($($(#[$meta:meta])* $name:ident($options:ty)),* $(,)?) => {
        #[derive(Subcommand)]
        enum Work {
            $($(#[$meta])* $name {
                #[command(flatten)]
                work: $options,
                #[command(flatten)]
                shared: Shared,
            }),*
        }

        impl Work {
            fn shared(&self) -> &Shared {
                match self {
                    $(Work::$name { shared, .. } => shared),*
                }
            }
        }
    };
}

works! {
    /// Deliver messages to users drawn at random, by LMTP
    #[command(after_help = "Latency: from the write that holds the final dot to the last recipient's answer.
Examples:
  culver-bench lmtp --target 127.0.0.1:24 -c 50 --users 100 --size 10k --duration 60
  culver-bench lmtp --target 127.0.0.1:24 --users 100 --corpus ./mails --rate 200 --server-pid 4711 --settle-idle")]
    Lmtp(work::lmtp::LmtpOptions),
    /// Add messages to each connection's mailbox, by IMAP APPEND
    #[command(after_help = "Latency: from the first octet of APPEND to its tagged answer.
Examples:
  culver-bench append --target 127.0.0.1:143 -c 20 --users 20 --size 10k
  culver-bench append --target 127.0.0.1:143 -c 20 --account me@example.test:secret --mailbox Archive")]
    Append(work::append::AppendOptions),
    /// Play a script of IMAP commands
    #[command(after_help = "Latency: from a command's write to its tagged answer.
Examples:
  culver-bench imap --target 127.0.0.1:143 --command 'FETCH 1:* (FLAGS)' --count 50
  culver-bench imap --target 127.0.0.1:143 --command 'STORE 1:* +FLAGS.SILENT (\\Seen)' \\
      --before 'STORE 1:* -FLAGS.SILENT (\\Seen)' --count 20
  culver-bench imap --target 127.0.0.1:143 --command 'SEARCH UNSEEN FLAGGED' --pipeline 8 --duration 10")]
    Imap(work::imap::ImapOptions),
    /// NOOP, one after the other
    #[command(after_help = "Examples:
  culver-bench noop --target 127.0.0.1:143 --duration 10
  culver-bench noop --target 127.0.0.1:143 -c 10 --users 10 --rate 1000")]
    Noop(work::imap::ScriptOptions),
    /// Fetch the bodies of all messages of a mailbox
    #[command(after_help = "Once through the mailbox, where neither --count nor --duration is given.
Examples:
  culver-bench fetch --target 127.0.0.1:143 --pipeline 16
  culver-bench fetch --target 127.0.0.1:993 --tls implicit --insecure --batch 100 --items 'BODY.PEEK[HEADER]'")]
    Fetch(work::imap::FetchOptions),
    /// Connect, LOGIN, SELECT, LOGOUT, one session after the other
    #[command(after_help = "Latency: from connect() to the answer to LOGOUT; connect_us (with TLS and greeting), login_us and \
select_us are its parts.
Examples:
  culver-bench login --target 127.0.0.1:143 -c 20 --users 100
  culver-bench login --target 127.0.0.1:993 --tls implicit --tls-resume --insecure -c 20 --users 100")]
    Login(work::login::LoginOptions),
    /// Hold many connections that do nothing, and tell what each costs
    #[command(after_help = "Memory is counted against that before the first connection; --warmup is the time between the last login \
and the first look, --duration how long they are held. Kernel and socket memory are the whole machine's.
Example:
  culver-bench idle --target 127.0.0.1:143 -c 9000 --users 9000 --duration 60 --server-pid 4711")]
    Idle(work::idle::IdleOptions),
    /// How soon a session in IDLE hears of a new message
    #[command(after_help = "Latency: from the delivery's answer to EXISTS; zero where EXISTS came first. send_to_exists_us counts from the \
delivery's last write.
Examples:
  culver-bench notify --target 127.0.0.1:143 --lmtp 127.0.0.1:24 --users 1 --count 1000
  culver-bench notify --target 127.0.0.1:143 -c 10 --users 10 --rate 50")]
    Notify(work::notify::NotifyOptions),
    /// POP3 sessions: log in, list, retrieve all
    #[command(after_help = "Latency: of a whole session; login_us, list_us, retr_us and quit_us are its parts.
Examples:
  culver-bench pop3 --target 127.0.0.1:110 -c 5 --users 100
  culver-bench pop3 --target 127.0.0.1:110 --count 1 --pipeline 32 --delete")]
    Pop3(work::pop3::Pop3Options),
    /// What many people do, or a stress of all commands
    #[command(after_help = "People (--connections is how many), with the think times that they have on average:
  phone    60 s   one connection in IDLE; glances at the newest messages; one in ten after a lost network
  desktop  20 s   three connections; reads, files, deletes, searches, looks at other mailboxes, sends
  webmail  15 s   a session for each click: the list, a message in half of them
  pop3    300 s   a session that leaves all on the server, and fetches up to 3 messages
--closed: rounds of LOGIN, LIST 50%, STATUS 50%, SELECT, FETCH, FETCH2 (a body; again 30%), STORE 50%, DELETE, EXPUNGE,
APPEND (again 5%), LOGOUT, with no think time: imaptest's default weights.
Operations are commands; latencies of each kind stand under `commands`.
Examples:
  culver-bench mixed --target 127.0.0.1:143 -c 200 --users 200 --duration 300 --lmtp 127.0.0.1:24 --lmtp-rate 5
  culver-bench mixed --target 127.0.0.1:143 -c 100 --users 100 --profile phone=70,webmail=30 --speed 10
  culver-bench mixed --target 127.0.0.1:143 -c 50 --users 100 --closed --server-pid 4711")]
    Mixed(work::mixed::MixedOptions),
    /// NOOP alone, then beside connections that append as fast as they can
    #[command(after_help = "Two rows, and p50_ratio and p99_ratio between them. NOOPs come at --rate (200 a second), whatever happens.
Example:
  culver-bench interfere --target 127.0.0.1:143 --users 9 --appenders 8 --duration 20")]
    Interfere(work::interfere::InterfereOptions),
    /// Fill mailboxes for other work
    #[command(after_help = "Examples:
  culver-bench fill --target 127.0.0.1:143 --messages 100000 --size 1k --seen 50% --flagged 1%
  culver-bench fill --target 127.0.0.1:143 -c 8 --users 9000 --messages 100 --top-up
  culver-bench fill --target 127.0.0.1:24 --via lmtp -c 8 --users 100 --messages 100")]
    Fill(work::fill::FillOptions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{ERROR}culver-bench:{ERROR:#} {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: &Work) -> Result<()> {
    let shared = work.shared();
    let busy_poll = shared.run.busy_poll;
    if let Some(core) = shared.run.core {
        pin(core)?;
    }
    raise_descriptors();
    let bench = Bench::new(shared.run.clone(), shared.server.clone(), &shared.output)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = tokio::task::LocalSet::new().block_on(&runtime, async {
        let _polling = busy_poll.then(busy::Polling::start);
        perform(bench, work).await
    })?;
    report::write(&rows, &shared.output)
}

async fn perform(mut bench: Bench, work: &Work) -> Result<Vec<figures::Row>> {
    match work {
        Work::Lmtp { work, .. } => work::lmtp::run(&bench, work).await,
        Work::Append { work, .. } => work::append::run(&bench, work).await,
        Work::Imap { work, .. } => work::imap::run(&bench, work).await,
        Work::Noop { work, .. } => work::imap::noop(&bench, work).await,
        Work::Fetch { work, .. } => work::imap::fetch(&mut bench, work).await,
        Work::Login { work, .. } => work::login::run(&bench, work).await,
        Work::Idle { work, .. } => work::idle::run(&bench, work).await,
        Work::Notify { work, .. } => work::notify::run(&bench, work).await,
        Work::Pop3 { work, .. } => work::pop3::run(&bench, work).await,
        Work::Mixed { work, .. } => work::mixed::run(&bench, work).await,
        Work::Interfere { work, .. } => work::interfere::run(&bench, work).await,
        Work::Fill { work, .. } => work::fill::run(&bench, work).await,
    }
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        anyhow::bail!("--core {core}: there is no such core");
    }
    set.set(core);
    sched_setaffinity(None, &set)
        .with_context(|| format!("--core {core}: not a core that this process may use"))
}

/// As many descriptors as may be had; who needs more than that says so.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
