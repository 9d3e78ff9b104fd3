//! The commands that speak to a running node: takeover and cost.

use crate::control::{Control, partitions};
use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
/// Accounts that are shown to people.
const ACCOUNTS_SHOWN: usize = 20;

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
    /// The directory of the node: --dir of its quickstart, or storage.dir of its configuration
    #[arg(long, value_name = "DIR", default_value = "culver-data")]
    pub dir: PathBuf,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
}

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
    let told = Control::find(&options.dir)?.ask("GET", "/cost")?;
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
    let accounts = told["accounts"].as_array().map_or(&[][..], Vec::as_slice);
    for account in accounts.iter().take(ACCOUNTS_SHOWN) {
        println!(
            "  {} {} requests, {} {currency}",
            text(&account["account"]),
            account["requests"],
            text(&account["money"])
        );
    }
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
