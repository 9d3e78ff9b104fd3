//! The `culver` command.

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use clap::{Parser, Subcommand};
use culver::{chores, nodes, quickstart, rebuild, serve};
use std::path::PathBuf;
use std::process::ExitCode;

/// Each shard frees what it allocated, and what thousands of sessions leave behind goes back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// A mail platform for internet service providers: LMTP in, IMAP and POP3 out.
#[derive(Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:
  culver quickstart                              a mail server on 127.0.0.1, with two accounts and sample mail
  culver quickstart --account me@example.test:secret --dir ./mail
  culver check-config /etc/culver/culver.toml    all mistakes of a configuration, with line, key and remedy
  culver serve --config /etc/culver/culver.toml  the real thing
  culver check ./culver-data                     verify everything that is stored")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve everything in one process on 127.0.0.1, with no configuration
    #[command(after_help = "Examples:
  culver quickstart
  culver quickstart --dir ./mail --port-base 30000 --account me@example.test:secret --no-samples
Ports are --port-base plus the standard port: IMAP 20143, IMAPS 20993, POP3 20110, POP3S 20995, LMTP 20024, admin HTTP 20080.")]
    Quickstart(quickstart::Options),
    /// Serve a configuration
    #[command(
        after_help = "Example:\n  culver serve --config /etc/culver/culver.toml\nSIGTERM and SIGINT drain and stop; SIGHUP reloads certificates and users."
    )]
    Serve {
        /// The configuration (TOML)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print all mistakes of a configuration, with file, line, key and remedy
    #[command(after_help = "Example:\n  culver check-config /etc/culver/culver.toml")]
    CheckConfig {
        /// The configuration (TOML)
        file: PathBuf,
    },
    /// Take accounts of other nodes over, at once: of a node on a shared store that runs in DIR
    #[command(after_help = "Examples:
  culver takeover --partitions all --dir culver-data
  culver takeover --partitions 0,3,5-9 --dir /var/lib/culver --json
The nodes that had them lose them, and stand by. Nothing that was acknowledged is lost.")]
    Takeover(nodes::Takeover),
    /// Look for objects of a shared store that nothing names, and for needed ones that are missing: of a node that runs in DIR
    #[command(after_help = "Examples:
  culver gc --dir culver-data                     tells what it finds, and deletes nothing
  culver gc --remove --json --dir /var/lib/culver
It looks through the partitions that the node has, and through all journals. Run it on each node.")]
    Gc(nodes::Gc),
    /// Tell what the requests to a shared store cost: of a node that runs in DIR
    #[command(after_help = "Examples:
  culver cost --dir culver-data
  culver cost --accounts 100 --json --dir /var/lib/culver
Reads of blocks and bodies are on an account's bill; what is written for many together is shared. Since the node's start. Prices are those of [storage.prices].")]
    Cost(nodes::Cost),
    /// Restore an account whose index is damaged or lost, from what is left of it and from its message bodies
    #[command(after_help = "Examples:
  culver rebuild alice@example.test --dir culver-data --dry-run    tells what would be done
  culver rebuild alice@example.test --dir /var/lib/culver --json
A store of this machine is opened where no server runs; else the server is asked, as the node on a shared store always is. What the
index still has stays. A mailbox of which something is lost gets a new UIDVALIDITY, so that clients fetch it anew.")]
    Rebuild(rebuild::Rebuild),
    /// Make a stored password for a passwd-file
    #[command(after_help = "Examples:
  culver hash-password                            asks for the password
  printf secret | culver hash-password --scheme SHA512-CRYPT")]
    HashPassword {
        /// PLAIN, SSHA512, SHA512-CRYPT, BLF-CRYPT, ARGON2ID, SCRAM-SHA-256 or SCRAM-SHA-1
        #[arg(long, default_value = "ARGON2ID")]
        scheme: String,
    },
    /// Show a stored file in words: journal segment, pack, table, manifest, owner, store identity
    #[command(after_help = "Examples:
  culver dump culver-data/store/STORE
  culver dump culver-data/store/journal/1-0/1")]
    Dump {
        /// A file of a store
        file: PathBuf,
    },
    /// Verify every stored format below a directory that no server has open
    #[command(after_help = "Examples:
  culver check culver-data
  culver check --json /var/lib/culver")]
    Check {
        /// The directory of a store
        dir: PathBuf,
        /// JSON for machines
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Serve { config } => serve::run_file(&config),
        Command::CheckConfig { file } => chores::check_config(&file),
        Command::Takeover(options) => nodes::takeover(&options),
        Command::Gc(options) => nodes::gc(&options),
        Command::Cost(options) => nodes::cost(&options),
        Command::Rebuild(options) => rebuild::run(&options),
        Command::HashPassword { scheme } => chores::hash_password(&scheme),
        Command::Dump { file } => chores::dump(&file),
        Command::Check { dir, json } => chores::check(&dir, json),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{ERROR}culver:{ERROR:#} {error:#}");
            ExitCode::FAILURE
        }
    }
}
