//! What a server used: processor time, octets written, memory, descriptors, maps, over a process and its descendants.
//!
//! # Invariants
//! A descendant that ended counts with the parent that waited for it: the kernel adds its time and its writes there.
//!
//! # Limits
//! Processor time is told in hundredths of a second; what is written is what became dirty in the page cache or went past
//! it, as `/proc/PID/io` says: file system metadata is not in it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// Hundredths of a second: what `/proc` counts in on every Linux that runs this.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was used since the process tree began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub write_octets: u64,
}

impl Usage {
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            write_octets: self.write_octets.saturating_sub(before.write_octets),
        }
    }
}

/// What the host of a virtual machine keeps from its cores.
pub struct Stolen {
    began: Instant,
    /// Each core, and its ticks so far.
    cores: Vec<(usize, u64)>,
}

/// A part of a core, in percent, that is worth a word.
const STOLEN_PERCENT: f64 = 1.0;

impl Stolen {
    pub fn begin(cores: &[usize]) -> Stolen {
        let cores = cores.iter().map(|core| (*core, stolen_ticks(*core))).collect();
        Stolen { began: Instant::now(), cores }
    }

    pub fn doubt(&self) -> Option<String> {
        let seconds = self.began.elapsed().as_secs_f64().max(0.01);
        let parts = self.cores.iter().filter_map(|(core, before)| {
            let ticks = stolen_ticks(*core).saturating_sub(*before) as f64;
            let percent = ticks / TICKS_PER_SECOND / seconds * 100.0;
            (percent >= STOLEN_PERCENT).then(|| format!("{percent:.0}% of core {core}"))
        });
        let parts: Vec<String> = parts.collect();
        (!parts.is_empty()).then(|| format!("the machine's host took {}", parts.join(" and ")))
    }
}

/// Ticks that the host had another use for this core while it had work.
fn stolen_ticks(core: usize) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
    line.and_then(|line| line.split_whitespace().nth(7)?.parse().ok()).unwrap_or(0)
}

/// What a process tree holds at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    pub processes: u64,
    pub pss_kib: u64,
    pub descriptors: u64,
    pub maps: u64,
}

/// Usage of a process, which may have ended and not yet been waited for, and of all below it.
pub fn usage(pid: u32) -> Result<Usage> {
    // A child that ends between the reading of its own figures and its parent's would count twice or not at all.
    for _ in 0..10 {
        let before = tree(pid)?;
        let mut usage = Usage::default();
        for member in &before {
            usage.cpu_seconds += stat(*member).map_or(0.0, |stat| stat.ticks as f64 / TICKS_PER_SECOND);
            let io = fs::read_to_string(format!("/proc/{member}/io")).unwrap_or_default();
            usage.write_octets += field(&io, "write_bytes:").unwrap_or(0);
        }
        if tree(pid)? == before {
            return Ok(usage);
        }
    }
    anyhow::bail!("the processes below {pid} come and go too fast to be counted")
}

/// Waits until a process tree uses less than a hundredth of a core over a second, at most so many seconds.
pub fn settle(pid: u32, seconds_max: u32) -> Result<()> {
    let mut last = usage(pid).map(|usage| usage.cpu_seconds);
    for _ in 0..seconds_max {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = usage(pid).map(|usage| usage.cpu_seconds);
        if let (Ok(last), Ok(now)) = (&last, &now)
            && now - last < 0.015
        {
            return Ok(());
        }
        last = now;
    }
    Ok(())
}

pub fn held(pid: u32) -> Result<Held> {
    let mut held = Held::default();
    for member in tree(pid)? {
        let rollup = fs::read_to_string(format!("/proc/{member}/smaps_rollup")).unwrap_or_default();
        held.processes += 1;
        held.pss_kib += field(&rollup, "Pss:").unwrap_or(0);
        held.descriptors +=
            fs::read_dir(format!("/proc/{member}/fd")).map_or(0, |entries| entries.count() as u64);
        let maps = fs::read_to_string(format!("/proc/{member}/maps")).unwrap_or_default();
        held.maps += maps.lines().count() as u64;
    }
    Ok(held)
}

/// A process and all below it, in the order of their numbers.
pub fn tree(pid: u32) -> Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let name = entry?.file_name();
        let Some(member) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(stat) = stat(member) {
            children.entry(stat.parent).or_default().push(member);
        }
    }
    anyhow::ensure!(stat(pid).is_some(), "process {pid} is gone");
    let mut members = vec![pid];
    let mut at = 0;
    while let Some(member) = members.get(at) {
        members.extend(children.get(member).into_iter().flatten().copied());
        at += 1;
    }
    members.sort_unstable();
    Ok(members)
}

struct Stat {
    parent: u32,
    /// Its own and that of the children it waited for.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name stands in parentheses and may have any character in it, so the last one closes it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // proc(5): after the name come state (3), parent (4), and at 14 to 17 utime, stime, cutime, cstime.
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks })
}

/// The number after a name at the beginning of a line.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_moves_no_field() {
        let stat = parse_stat("12 (a) b (c)) S 7 12 12 0 -1 4194304 1 2 3 4 10 20 300 4000 20 0").unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 4330));
        assert!(parse_stat("12 (a) S").is_none());
    }

    #[test]
    fn fields_are_found_at_line_starts() {
        let text = "wchar: 5\ncancelled_write_bytes: 9\nwrite_bytes: 4096\nPss:   77 kB\n";
        assert_eq!(field(text, "write_bytes:"), Some(4096));
        assert_eq!(field(text, "Pss:"), Some(77));
        assert_eq!(field(text, "none:"), None);
    }

    #[test]
    fn a_child_and_the_time_it_used_are_seen_after_it_ended() {
        let own = std::process::id();
        let before = usage(own).unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"])
            .spawn()
            .unwrap();
        assert!(tree(own).unwrap().contains(&child.id()));
        child.wait().unwrap();
        assert!(!tree(own).unwrap().contains(&child.id()));
        assert!(usage(own).unwrap().since(before).cpu_seconds > 0.05);
    }
}
