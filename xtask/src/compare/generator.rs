//! The load generator's run, and the figures of its JSON.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::culver;
use super::server::pinned_script;

/// One row of the generator's report.
#[derive(Clone, Debug)]
pub struct Row(pub Value);

impl Row {
    /// A number at a path of names, such as `latency_us/p99`.
    pub fn get(&self, path: &str) -> Option<f64> {
        path.split('/').try_fold(&self.0, |value, name| value.get(name))?.as_f64()
    }

    pub fn operations(&self) -> f64 {
        self.get("operations").unwrap_or(0.0)
    }

    /// Why this row may not be used as a figure; the generator's core was too busy, or answers were no answers.
    pub fn doubt(&self) -> Option<String> {
        let own = self.get("own_cpu_share").unwrap_or(0.0);
        let wrong = self.get("errors").unwrap_or(0.0) + self.get("refused").unwrap_or(0.0);
        if wrong > 0.0 {
            let first = self.0.get("first_error").and_then(Value::as_str).unwrap_or("not told");
            return Some(format!(
                "{wrong:.0} failed beside {:.0} that were done: {first}",
                self.operations()
            ));
        }
        let valid = self.0.get("valid").and_then(Value::as_bool).unwrap_or(true);
        (!valid).then(|| format!("the generator took {:.0}% of its core", own * 100.0))
    }
}

/// Runs the generator on its core, once, and returns its row.
pub fn run(arguments: &[String], core: usize, server: Option<u32>, json: &Path) -> Result<Row> {
    let program = culver::binary("culver-bench");
    let mut command = Command::new("sh");
    command.args(["-c", &pinned_script(core), "sh"]);
    command.arg(&program).args(arguments).args(["--core", &core.to_string()]).arg("--json").arg(json);
    if let Some(pid) = server {
        command.args(["--server-pid", &pid.to_string()]);
    }
    let output = command.output().with_context(|| program.display().to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("culver-bench {}: {}", arguments.join(" "), said.trim());
    }
    let row = row(&fs::read_to_string(json).with_context(|| json.display().to_string())?)?;
    if row.operations() == 0.0 {
        bail!("culver-bench {}: {}", arguments.join(" "), row.doubt().unwrap_or("it did nothing".to_owned()));
    }
    Ok(row)
}

/// The last row: some kinds of work tell their parts before the whole.
fn row(text: &str) -> Result<Row> {
    let value: Value = serde_json::from_str(text).context("culver-bench wrote no JSON")?;
    let rows = value.get("rows").and_then(Value::as_array).context("culver-bench's JSON has no rows")?;
    let last = rows.last().context("culver-bench's JSON has an empty list of rows")?;
    ensure!(last.is_object(), "culver-bench's row is {last}");
    Ok(Row(last.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_is_read_by_path() {
        let row =
            row(r#"{"rows":[{"a":1},{"per_second":5,"latency_us":{"p99":7.5},"errors":0,"valid":true}]}"#)
                .unwrap();
        assert_eq!(row.get("latency_us/p99"), Some(7.5));
        assert_eq!(row.get("latency_us/p50"), None);
        assert_eq!(row.doubt(), None);
    }

    #[test]
    fn errors_and_a_busy_generator_are_doubts() {
        let busy = Row(serde_json::json!({"own_cpu_share": 0.93, "valid": false, "errors": 0}));
        assert_eq!(busy.doubt().unwrap(), "the generator took 93% of its core");
        let wrong = Row(serde_json::json!({"operations": 9, "errors": 2, "first_error": "NO"}));
        assert_eq!(wrong.doubt().unwrap(), "2 failed beside 9 that were done: NO");
        assert!(self::row("{}").is_err() && self::row(r#"{"rows":[]}"#).is_err());
    }
}
