//! What the server under test uses, by its process id: itself and all it started.
//!
//! CPU and octets written are sums over the living tree, each process with what it has taken over from children that it
//! waited for. The kernel moves both to the parent at that instant, so a child that ends between two samples is counted
//! once. What is not seen: children that were given to another parent.
//!
//! These sums are in ticks of a hundredth of a second. The scheduler's own figures have nanoseconds, and know nothing of
//! threads that have ended; for a process in which both agree, the finer is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};

pub struct Server {
    roots: Vec<i32>,
    ticks_per_second: f64,
    page_kib: u64,
}

/// Sums over the tree at one instant. CPU and octets count from the processes' starts.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub cpu: Cpu,
    pub read_bytes: u64,
    pub write_bytes: u64,
    /// Proportional set size; resident set size where the kernel does not tell.
    pub pss_kib: u64,
    pub processes: u64,
    pub threads: u64,
    pub descriptors: u64,
    pub maps: u64,
    /// Of the whole machine: slab, kernel stacks and page tables.
    pub kernel_kib: u64,
    /// Of the whole machine: what TCP holds in buffers.
    pub socket_kib: u64,
}

/// CPU of the tree, process by process.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    own: BTreeMap<i32, Own>,
    /// Of children that have ended and were waited for, over all processes.
    children_seconds: f64,
}

/// Of one process, without its children.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// In ticks, user and system time each rounded down.
    coarse: f64,
    /// Of the threads that live, by the scheduler.
    fine: f64,
}

/// What rounding at both ends can make.
const ROUNDING_SECONDS: f64 = 0.025;

impl Cpu {
    pub fn seconds(&self) -> f64 {
        self.own.values().map(|own| own.coarse).sum::<f64>() + self.children_seconds
    }

    pub fn since(&self, before: &Cpu) -> f64 {
        let lived = self.own.iter().map(|(pid, now)| {
            let then = before.own.get(pid).copied().unwrap_or_default();
            let (coarse, fine) = (now.coarse - then.coarse, now.fine - then.fine);
            if (coarse - fine).abs() <= ROUNDING_SECONDS { fine } else { coarse }
        });
        // Who has ended stands whole among its parent's children; what it had used before is taken off again.
        let ended = before.own.iter().filter(|(pid, _)| !self.own.contains_key(pid));
        let ended: f64 = ended.map(|(_, then)| then.coarse).sum();
        let seconds = lived.sum::<f64>() + self.children_seconds - before.children_seconds - ended;
        seconds.max(0.0)
    }
}

impl Server {
    /// `None` where no process was named.
    pub fn new(roots: &[i32]) -> Result<Option<Server>> {
        if roots.is_empty() {
            return Ok(None);
        }
        let server = Server {
            roots: roots.to_vec(),
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            page_kib: rustix::param::page_size() as u64 / 1024,
        };
        for root in roots {
            if !fs::exists(format!("/proc/{root}/stat"))? {
                bail!("--server-pid {root}: there is no such process");
            }
            fs::read(format!("/proc/{root}/io")).with_context(|| {
                format!("--server-pid {root}: its figures may not be read; run as its user, or as root")
            })?;
        }
        Ok(Some(server))
    }

    /// Only CPU, as fine as may be.
    pub fn cpu(&self) -> Cpu {
        self.cpu_of(&self.tree())
    }

    fn cpu_of(&self, tree: &[Process]) -> Cpu {
        let own = tree.iter().map(|process| {
            let coarse = process.cpu_ticks as f64 / self.ticks_per_second;
            (process.pid, Own { coarse, fine: scheduled_seconds(process.pid) })
        });
        let children: u64 = tree.iter().map(|process| process.children_ticks).sum();
        Cpu { own: own.collect(), children_seconds: children as f64 / self.ticks_per_second }
    }

    /// Everything. This walks the server's memory maps, so it is not for the midst of a measurement.
    pub fn sample(&self) -> Sample {
        let tree = self.tree();
        let mut sample = Sample { cpu: self.cpu_of(&tree), ..Sample::default() };
        for process in tree {
            let folder = format!("/proc/{}", process.pid);
            let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
            sample.processes += 1;
            sample.threads += process.threads;
            let io = read("io");
            sample.read_bytes += field(&io, "read_bytes:").unwrap_or(0);
            sample.write_bytes += field(&io, "write_bytes:").unwrap_or(0);
            sample.pss_kib +=
                field(&read("smaps_rollup"), "Pss:").unwrap_or(process.rss_pages * self.page_kib);
            sample.descriptors +=
                fs::read_dir(format!("{folder}/fd")).map_or(0, |entries| entries.count() as u64);
            sample.maps += read("maps").lines().count() as u64;
        }
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        sample.kernel_kib =
            ["Slab:", "KernelStack:", "PageTables:"].iter().filter_map(|name| field(&memory, name)).sum();
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
        sample.socket_kib = tcp
            .rsplit_once("mem ")
            .and_then(|(_, pages)| pages.trim().parse::<u64>().ok())
            .map_or(0, |pages| pages * self.page_kib);
        sample
    }

    fn tree(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let all: Vec<Process> = pids
            .filter_map(|pid: i32| Process::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
            .collect();
        let pairs: Vec<(i32, i32)> = all.iter().map(|process| (process.pid, process.parent)).collect();
        let ours = descendants(&self.roots, &pairs);
        all.into_iter().filter(|process| ours.contains(&process.pid)).collect()
    }
}

/// What the scheduler gave the threads of a process that live now.
fn scheduled_seconds(pid: i32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// utime and stime.
    cpu_ticks: u64,
    /// cutime and cstime.
    children_ticks: u64,
    threads: u64,
    rss_pages: u64,
}

impl Process {
    /// The one line of /proc/PID/stat. The name in brackets may hold anything, brackets too.
    fn parse(stat: &str) -> Option<Process> {
        let (front, rest) = stat.rsplit_once(')')?;
        let pid = front.split_once(' ')?.0.parse().ok()?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
        Some(Process {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ticks: number(11)? + number(12)?,
            children_ticks: number(13)? + number(14)?,
            threads: number(17)?,
            rss_pages: number(21)?,
        })
    }
}

/// The roots and all below them. `pairs` are processes with their parents, in any order.
fn descendants(roots: &[i32], pairs: &[(i32, i32)]) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open: Vec<i32> = roots.to_vec();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(pairs.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        }
    }
    found
}

/// The first number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_has_all_generations_once() {
        let pairs = [(12, 11), (1, 0), (10, 1), (11, 10), (20, 1), (13, 11), (21, 20), (14, 10)];
        assert_eq!(Vec::from_iter(descendants(&[10], &pairs)), [10, 11, 12, 13, 14]);
        // A root below another root is not counted twice.
        assert_eq!(Vec::from_iter(descendants(&[11, 10, 20], &pairs)), [10, 11, 12, 13, 14, 20, 21]);
    }

    #[test]
    fn a_name_with_brackets_and_blanks_is_no_trap() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 9 0 555 1000 77 0";
        let want =
            Process { pid: 42, parent: 7, cpu_ticks: 120, children_ticks: 7, threads: 9, rss_pages: 77 };
        assert_eq!(Process::parse(stat), Some(want));
        assert_eq!(Process::parse("nonsense"), None);
    }

    #[test]
    fn cpu_of_children_that_have_ended_stays_counted() {
        // A shell whose child burns CPU and ends; the shell waits for it, says so, and stays.
        let burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let mut shell = Command::new("sh")
            .args(["-c", &format!("read go; sh -c '{burn}'; echo done; read end")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Server::new(&[shell.id() as i32]).unwrap().unwrap();
        let before = server.sample();
        let mut input = shell.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"go\n").unwrap();
        let mut said = [0; 4];
        shell.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        let after = server.sample();
        drop(input);
        shell.wait().unwrap();
        assert_eq!((before.processes, after.processes), (1, 1));
        // The child is gone, and with it what the scheduler knew of it.
        assert!(after.cpu.since(&before.cpu) >= 0.02, "{before:?} {after:?}");
        assert!(after.pss_kib > 0 && after.descriptors >= 3 && after.maps > 0 && after.kernel_kib > 0);
    }

    fn cpu(own: &[(i32, f64, f64)], children_seconds: f64) -> Cpu {
        let own = own.iter().map(|(pid, coarse, fine)| (*pid, Own { coarse: *coarse, fine: *fine }));
        Cpu { own: own.collect(), children_seconds }
    }

    #[test]
    fn fine_figures_are_told_for_a_process_in_which_they_agree_with_the_coarse() {
        let near = |found: f64, want: f64| assert!((found - want).abs() < 1e-9, "{found} {want}");
        near(cpu(&[(1, 1.51, 1.403)], 0.0).since(&cpu(&[(1, 1.5, 1.4)], 0.0)), 0.003);
        // A thread that has ended took half a second of the fine sum with it.
        near(
            cpu(&[(1, 2.5, 0.9), (2, 1.01, 1.016)], 0.0).since(&cpu(&[(1, 1.5, 1.4), (2, 1.0, 1.0)], 0.0)),
            1.016,
        );
    }

    #[test]
    fn a_process_that_ends_is_counted_once() {
        // Process 2 had used 3 s, used 1 s more and ended; process 3 came and went with 0.5 s; process 4 came and stays.
        let before = cpu(&[(1, 10.0, 10.0), (2, 3.0, 3.0)], 7.0);
        let after = cpu(&[(1, 10.0, 10.0), (4, 0.25, 0.0)], 7.0 + 4.0 + 0.5);
        let found = after.since(&before);
        assert!((found - 1.75).abs() < 1e-9, "{found}");
        assert!((after.seconds() - 21.75).abs() < 1e-9);
    }

    #[test]
    fn a_process_that_is_not_there_is_said() {
        assert!(Server::new(&[i32::MAX]).is_err());
        assert!(Server::new(&[]).unwrap().is_none());
    }
}
