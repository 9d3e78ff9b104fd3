//! The log: lines of standard error, written by a thread of their own, so that a slow terminal never holds up a shard.
//!
//! # Order
//! Lines of one shard keep their order. A shard collects those of level INFO and below, and hands them over at its next
//! heartbeat, on an idle shard up to a second later; a warning or an error goes at once, with what was collected before it. A process
//! that is killed loses what its shards had collected.
//!
//! # Limits
//! [`COLLECTED_OCTETS_MAX`] a shard; behind that the bounded queue of `tracing-appender`, which drops what it has no room for.

use crate::config::Config;
use culver_shard as shard;
use std::cell::RefCell;
use std::io::{self, Write};
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Octets that a shard collects before it hands them over, heartbeat or not.
const COLLECTED_OCTETS_MAX: usize = 16 << 10;

thread_local! {
    /// `Some` on a shard whose heartbeats hand over.
    static COLLECTED: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

struct Collected {
    lines: Vec<u8>,
    to: NonBlocking,
}

impl Collected {
    fn hand_over(&mut self) {
        if !self.lines.is_empty() {
            // It takes all or, where its queue is full, drops all: there is nothing to be done about either.
            let _ = self.to.write_all(&self.lines);
            self.lines.clear();
        }
    }
}

/// Where the lines go: what a shard needs of the log.
#[derive(Clone)]
pub struct Log(NonBlocking);

/// Dropped, it waits for what was handed over.
pub struct Started {
    pub log: Log,
    _guard: WorkerGuard,
}

pub fn start(config: &Config) -> Started {
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let log = Log(writer);
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone());
    // A second server in one process (a test) keeps the first one's log.
    let _ = if config.log.json { format.json().try_init() } else { format.with_ansi(false).try_init() };
    Started { log, _guard: guard }
}

impl Log {
    /// Collects this shard's lines from here on, until [`Collecting`] is dropped.
    pub fn collect(&self) -> Collecting {
        COLLECTED.set(Some(Collected { lines: Vec::new(), to: self.0.clone() }));
        shard::at_heartbeat(|| {
            COLLECTED.with_borrow_mut(|collected| collected.iter_mut().for_each(Collected::hand_over));
        });
        Collecting(())
    }
}

/// While it lives, lines are collected.
pub struct Collecting(());

impl Drop for Collecting {
    fn drop(&mut self) {
        let collected = COLLECTED.try_with(RefCell::take).ok().flatten();
        collected.into_iter().for_each(|mut collected| collected.hand_over());
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { to: self.0.clone(), at_once: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { to: self.0.clone(), at_once: *meta.level() <= Level::WARN }
    }
}

/// One line under way.
pub struct Line {
    to: NonBlocking,
    at_once: bool,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let kept = COLLECTED.try_with(|collected| {
            let Ok(mut collected) = collected.try_borrow_mut() else { return false };
            let Some(collected) = collected.as_mut() else { return false };
            collected.lines.extend_from_slice(line);
            if self.at_once || collected.lines.len() >= COLLECTED_OCTETS_MAX {
                collected.hand_over();
            }
            true
        });
        match kept {
            Ok(true) => Ok(line.len()),
            _ => self.to.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_keep_their_order_and_all_come() {
        let kept = Kept::default();
        let (writer, guard) = tracing_appender::non_blocking(kept.clone());
        let log = Log(writer.clone());
        COLLECTED.set(Some(Collected { lines: Vec::new(), to: writer }));
        let collecting = Collecting(());
        let write = |at_once, line: &str| {
            Line { to: log.0.clone(), at_once }.write_all(line.as_bytes()).unwrap();
        };
        write(false, "one\n");
        let waiting = || COLLECTED.with_borrow(|c| c.as_ref().map_or(0, |c| c.lines.len()));
        assert_eq!(waiting(), 4);
        write(true, "two\n");
        assert_eq!(waiting(), 0);
        write(false, "three\n");
        drop(collecting);
        write(false, "four\n");
        drop(guard);
        assert_eq!(kept.0.lock().unwrap().as_slice(), b"one\ntwo\nthree\nfour\n");
    }
}
