//! `culver rebuild`: restores an account whose index is damaged or lost.
//!
//! A store of this machine that no server has open is opened here; everything else is asked of the server that runs.

use crate::chores::on_one_shard;
use crate::control::Control;
use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::Args;
use culver_mailbox::{Accounts, Progress, Rebuilt};
use culver_model::AccountId;
use culver_shard::time;
use culver_storage::{OpenError, Root, Storage};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub struct Rebuild {
    /// The account, as in alice@example.test
    pub account: String,
    /// The directory of the store or of the node: --dir of its quickstart, or storage.dir of its configuration
    #[arg(long, value_name = "DIR", default_value = "culver-data")]
    pub dir: PathBuf,
    /// Only tell what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
}

/// `culver rebuild ACCOUNT`: 0 where the account is whole then, or was.
pub fn run(options: &Rebuild) -> Result<ExitCode> {
    let account = match AccountId::parse(&options.account) {
        Ok(account) => account,
        Err(error) => bail!("{}: {error}; write it as in alice@example.test", options.account),
    };
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len} objects, {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let told = match store_of(&options.dir) {
        Some(store) => match alone(&store, &account, options.dry_run, &bar) {
            Err(error) if is_in_use(&error) => ask(&options.dir, &account, options.dry_run, &bar),
            done => done,
        },
        None => ask(&options.dir, &account, options.dry_run, &bar),
    };
    bar.finish_and_clear();
    let told = told?;
    match options.json {
        true => println!("{told}"),
        false => print(&told),
    }
    Ok(ExitCode::SUCCESS)
}

/// The store of this machine that a directory is or has.
fn store_of(dir: &Path) -> Option<PathBuf> {
    [dir.join("store"), dir.to_owned()].into_iter().find(|store| store.join("STORE").exists())
}

fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<OpenError>(), Some(OpenError::InUse { .. }))
}

/// In a store that nobody has open.
fn alone(store: &Path, account: &AccountId, dry_run: bool, bar: &ProgressBar) -> Result<Value> {
    let (store, account, bar) = (store.to_owned(), account.clone(), bar.clone());
    on_one_shard(async move || {
        let mut root = Root::open(&store, culver_storage::Limits::default()).await?;
        root.salvage();
        let Some(share) = root.recover(1).await?.pop() else { bail!("the store has no part") };
        let storage = Storage::start(share).await?;
        let accounts = Accounts::new(culver_mailbox::Limits::default());
        accounts.attach(storage.clone());
        let progress = Cell::new(Progress::default());
        let shown = async {
            loop {
                time::sleep(LOOK).await;
                let Progress { objects, objects_all, restored } = progress.get();
                show(&bar, objects as u64, objects_all as u64, restored);
            }
        };
        let rebuilt = futures_lite::future::or(accounts.rebuild(&account, dry_run, &progress), shown).await;
        // What else is unflushed stays in the journal: of other accounts nothing is decided here.
        storage.close(false).await;
        drop(root);
        Ok(report(&rebuilt?))
    })
}

/// Of the server that runs.
fn ask(dir: &Path, account: &AccountId, dry_run: bool, bar: &ProgressBar) -> Result<Value> {
    let control = Control::find(dir)?;
    let name = encoded(account.as_str());
    control.ask("POST", &format!("/rebuild?dry_run={dry_run}&account={name}"))?;
    loop {
        std::thread::sleep(LOOK);
        let mut told = control.ask("GET", "/rebuild")?;
        if told["account"].as_str() != Some(account.as_str()) {
            bail!("another rebuild was asked for meanwhile; what came of this one is in the log");
        }
        if let Some(failed) = told["failed"].as_str() {
            bail!("{account}: {failed}");
        }
        if told["report"].is_object() {
            return Ok(told["report"].take());
        }
        let number = |key: &str| told[key].as_u64().unwrap_or(0);
        show(bar, number("objects"), number("objects_all"), number("restored"));
    }
}

fn show(bar: &ProgressBar, objects: u64, all: u64, restored: u64) {
    bar.set_length(all);
    bar.set_position(objects);
    bar.set_message(format!("{restored} messages restored"));
}

/// A rebuild for machines.
pub fn report(rebuilt: &Rebuilt) -> Value {
    let mailboxes = rebuilt.mailboxes.iter().map(|(name, mailbox)| {
        json!({
            "name": name,
            "uid_validity": mailbox.uid_validity,
            "kept": mailbox.kept,
            "restored": mailbox.restored,
        })
    });
    let findings = rebuilt
        .findings
        .iter()
        .map(|finding| json!({"object": finding.path, "offset": finding.offset, "what": finding.what}));
    json!({
        "account": rebuilt.account,
        "dry_run": rebuilt.dry_run,
        "damaged": rebuilt.damaged,
        "list_lost": rebuilt.list_lost,
        "mailboxes": mailboxes.collect::<Vec<_>>(),
        "restored": rebuilt.restored,
        "gone": rebuilt.gone,
        "changes_lost": rebuilt.changes_lost,
        "objects": rebuilt.objects,
        "octets": rebuilt.octets,
        "findings": findings.collect::<Vec<_>>(),
        "findings_left_out": rebuilt.findings_left_out,
    })
}

/// The same for people.
fn print(told: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |key: &str| told[key].as_u64().unwrap_or(0);
    let account = text(&told["account"]);
    for finding in told["findings"].as_array().into_iter().flatten() {
        let (object, what) = (text(&finding["object"]), text(&finding["what"]));
        println!("{BAD}damaged{BAD:#} {object} at octet {}: {what}", finding["offset"]);
    }
    if number("findings_left_out") > 0 {
        println!("... and {} more", number("findings_left_out"));
    }
    if told["damaged"] != json!(true) {
        println!("{GOOD}whole{GOOD:#} {account}: its index has everything, nothing was changed");
        return;
    }
    println!("{:<40}{:>10}{:>10}{:>13}", "mailbox", "kept", "restored", "UIDVALIDITY");
    for mailbox in told["mailboxes"].as_array().into_iter().flatten() {
        let name = text(&mailbox["name"]);
        let validity = mailbox["uid_validity"].as_u64().filter(|validity| *validity > 0);
        let validity = validity.map_or("new".to_owned(), |validity| validity.to_string());
        println!("{name:<40}{:>10}{:>10}{validity:>13}", mailbox["kept"], mailbox["restored"]);
    }
    if told["list_lost"] == json!(true) {
        println!(
            "the list of mailboxes was lost: names are those that messages came in under; subscriptions and special uses are gone, \
             and what was deleted or expunged may be back"
        );
    }
    if number("gone") > 0 {
        println!("{BAD}lost{BAD:#} {} messages: the index names them, their bodies are gone", number("gone"));
    }
    if number("changes_lost") > 0 {
        println!("{} changes of flags, moves and expunges could not be carried out", number("changes_lost"));
    }
    let done = if told["dry_run"] == json!(true) { "would be restored" } else { "restored" };
    println!(
        "{GOOD}{done}{GOOD:#} {account}: {} messages found in {} objects of {} octets",
        number("restored"),
        number("objects"),
        number("octets")
    );
}

/// An account's name in a request.
fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for octet in name.bytes() {
        match octet.is_ascii_alphanumeric() || b"@.-_".contains(&octet) {
            true => out.push(octet as char),
            false => drop(write!(out, "%{octet:02X}")),
        }
    }
    out
}

/// The name back; `None` where it is none.
pub fn decoded(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_through_a_request_whatever_is_in_them() {
        for name in ["alice@example.test", "a+b=c&d%e@example.test", "jürgen@münchen.example"] {
            let sent = encoded(name);
            assert!(sent.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'&'), "{sent}");
            assert_eq!(decoded(&sent).as_deref(), Some(name));
        }
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
