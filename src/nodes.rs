//! The commands that speak to a running node: takeover, gc and cost.

use crate::control::{Control, partitions};
use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

#[derive(Args, Clone, Debug)]
pub struct Takeover {
    /// all, or numbers and ranges as in 0,3,5-9
    #[arg(long, value_name = "LIST")]
    pub partitions: String,
    /// The directory of the node: --dir of its quickstart, or storage.dir of its configuration
    #[arg(long, value_name = "DIR", default_value = "culver-data")]
    pub dir: PathBuf,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Cost {
    /// How many accounts are told one by one, the dearest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub accounts: usize,
    /// The directory of the node: --dir of its quickstart, or storage.dir of its configuration
    #[arg(long, value_name = "DIR", default_value = "culver-data")]
    pub dir: PathBuf,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Gc {
    /// The directory of the node: --dir of its quickstart, or storage.dir of its configuration
    #[arg(long, value_name = "DIR", default_value = "culver-data")]
    pub dir: PathBuf,
    /// Delete the orphans; without it they are only told
    #[arg(long)]
    pub remove: bool,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
}

/// `culver gc`: 0 where nothing that is needed is missing, 1 otherwise.
pub fn gc(options: &Gc) -> Result<ExitCode> {
    let control = Control::find(&options.dir)?;
    let ask = |part: &str| control.ask("POST", &format!("/gc?part={part}&remove={}", options.remove));
    let first = ask("journals")?;
    let partitions = first["partitions"].as_u64().unwrap_or(0);
    // It shows itself on a terminal only.
    let bar = ProgressBar::new(partitions);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len} partitions, {eta} left {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let (mut sums, mut keys) = ([0u64; GC_SUMS.len()], [Vec::new(), Vec::new()]);
    let mut add = |found: &Value| {
        for (sum, key) in sums.iter_mut().zip(GC_SUMS) {
            *sum += found[key].as_u64().unwrap_or(0);
        }
        for (keys, key) in keys.iter_mut().zip(["orphan_keys", "missing_keys"]) {
            let told = found[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            keys.extend(told.map(str::to_owned));
        }
    };
    add(&first["found"]);
    let mut elsewhere = 0;
    for part in 0..partitions {
        let told = ask(&part.to_string())?;
        match &told["found"] {
            Value::Null => elsewhere += 1,
            found => add(found),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let [objects, octets, named, in_work, orphans, orphan_octets, missing] = sums;
    let [orphan_keys, missing_keys] = keys;
    if options.json {
        println!(
            "{}",
            json!({
                "objects": objects, "octets": octets, "named": named, "in_work": in_work, "orphans": orphans,
                "orphan_octets": orphan_octets, "orphan_keys": orphan_keys, "removed": options.remove,
                "missing": missing, "missing_keys": missing_keys, "elsewhere": elsewhere,
            })
        );
    } else {
        for key in &missing_keys {
            println!("{BAD}missing{BAD:#} {key}");
        }
        for key in &orphan_keys {
            println!("{} {key}", if options.remove { "removed" } else { "orphan" });
        }
        for (kind, all, told) in
            [("orphans", orphans, orphan_keys.len()), ("missing", missing, missing_keys.len())]
        {
            if all > told as u64 {
                println!("... and {} more {kind}", all - told as u64);
            }
        }
        let what = if options.remove { "orphans removed" } else { "orphans; --remove deletes them" };
        println!(
            "{objects} objects of {octets} octets, {named} of them needed; {orphans} {what} ({orphan_octets} octets)"
        );
        if elsewhere > 0 {
            println!("{elsewhere} partitions are of other nodes: run it there too");
        }
        match missing {
            0 => println!("{GOOD}ok{GOOD:#} everything that is needed is there"),
            _ => println!(
                "{BAD}{missing} needed objects are missing{BAD:#}: restore them from a backup of the store"
            ),
        }
    }
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is summed of all parts.
const GC_SUMS: [&str; 7] = ["objects", "octets", "named", "in_work", "orphans", "orphan_octets", "missing"];

/// `culver takeover`: 0 where the node has all that was asked for, 1 otherwise.
pub fn takeover(options: &Takeover) -> Result<ExitCode> {
    if let Err(what) = partitions(&options.partitions) {
        bail!("--partitions: {what}");
    }
    let control = Control::find(&options.dir)?;
    let told = control.ask("POST", &format!("/takeover?partitions={}", options.partitions))?;
    let number = |key: &str| told[key].as_u64().unwrap_or(0);
    let missing = number("asked").saturating_sub(number("had") + number("taken"));
    if options.json {
        println!("{told}");
    } else {
        println!(
            "{GOOD}taken{GOOD:#} {} partitions in {} ms; node {} has {} now",
            number("taken"),
            number("ms"),
            control.node,
            number("held")
        );
        if missing > 0 {
            println!(
                "{BAD}not taken{BAD:#} {missing}: another node was quicker, or they are damaged; look at the log"
            );
        }
    }
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `culver cost`.
pub fn cost(options: &Cost) -> Result<ExitCode> {
    let told = Control::find(&options.dir)?.ask("GET", &format!("/cost?accounts={}", options.accounts))?;
    if options.json {
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    let currency = told["currency"].as_str().unwrap_or_default();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(whole) => whole.to_string(),
            None => format!("{:.6}", number.as_f64().unwrap_or(0.0)),
        },
        _ => String::new(),
    };
    let money = format!("money ({currency})");
    let columns = ["kind", "purpose", "requests", "failed", "octets sent", "octets received", &money];
    println!("{}", row(&columns.map(str::to_owned)));
    for kind in told["kinds"].as_array().into_iter().flatten() {
        let keys = ["kind", "purpose", "requests", "failed", "octets_sent", "octets_received", "money"];
        println!("{}", row(&keys.map(|key| text(&kind[key]))));
    }
    println!(
        "in all {} {currency}; {} retries, {} reads asked twice",
        text(&told["money"]),
        told["retries"],
        told["hedges"]
    );
    let line = |name: &str, cost: &Value| {
        println!("  {name:<40}{:>12} requests{:>16} {currency}", cost["requests"], text(&cost["money"]));
    };
    for account in told["accounts"].as_array().into_iter().flatten() {
        line(&text(&account["account"]), account);
    }
    line("other accounts", &told["other_accounts"]);
    line("shared (journals, packs, tables)", &told["shared"]);
    Ok(ExitCode::SUCCESS)
}

fn row(cells: &[String; 7]) -> String {
    let [kind, purpose, numbers @ ..] = cells;
    let mut row = format!("{kind:<8}{purpose:<10}");
    for cell in numbers {
        row += &format!("{cell:>17}");
    }
    row
}
