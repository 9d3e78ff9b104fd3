//! The works: what is prepared, what the generator is told, which figures are compared, and their targets.
//!
//! Words in braces stand for the run's own: `{imap}`, `{imaps}`, `{pop3}`, `{lmtp}` are addresses, `{seconds}` the time of
//! a measurement, and the [`Scale`] gives the sizes.

use super::server::Kind;

/// A figure of one work on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Processor time of the server for each operation, everything flushed where the work says so.
    CpuUs,
    /// Operations per second.
    Rate,
    LatencyP50Ms,
    LatencyP99Ms,
    /// Octets to the client per second, in millions.
    MbPerSecond,
    /// Octets written for each octet of message taken.
    WrittenPerRaw,
    /// Operations for each second of processor time.
    RatePerCpuSecond,
    /// Memory of the server's processes for each connection, in KiB.
    PssKib,
    /// Memory of the kernel for each connection, in KiB: sockets, slabs, stacks, page tables.
    KernelKib,
    /// Processor time while nothing is asked, in percent of a core.
    IdlePercent,
    /// p99 beside appends over p99 alone.
    Interference,
    /// p99.9 of how late the tasks of a shard ran, in ms.
    StallP999Ms,
}

impl Figure {
    pub const fn name(self) -> &'static str {
        match self {
            Figure::CpuUs => "CPU per operation, µs",
            Figure::Rate => "operations per second",
            Figure::LatencyP50Ms => "latency p50, ms",
            Figure::LatencyP99Ms => "latency p99, ms",
            Figure::MbPerSecond => "MB/s",
            Figure::WrittenPerRaw => "octets written / raw",
            Figure::RatePerCpuSecond => "operations per CPU second",
            Figure::PssKib => "PSS per connection, KiB",
            Figure::KernelKib => "kernel memory per connection, both ends, KiB",
            Figure::IdlePercent => "idle CPU, % of a core",
            Figure::Interference => "p99 disturbed / p99 idle",
            Figure::StallP999Ms => "stalls p99.9, ms",
        }
    }

    const ALL: [Figure; 12] = [
        CpuUs,
        Rate,
        LatencyP50Ms,
        LatencyP99Ms,
        MbPerSecond,
        WrittenPerRaw,
        RatePerCpuSecond,
        PssKib,
        KernelKib,
        IdlePercent,
        Interference,
        StallP999Ms,
    ];

    /// Its name in JSON.
    pub fn key(self) -> String {
        format!("{self:?}")
    }

    pub fn parse(key: &str) -> Option<Figure> {
        Figure::ALL.into_iter().find(|figure| figure.key() == key)
    }

    /// More of it is better.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Figure::Rate | Figure::MbPerSecond | Figure::RatePerCpuSecond)
    }
}

/// What is demanded of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// So many times better than the better of Dovecot's two configurations.
    Times(f64),
    /// So many times better than Dovecot with a hundred clients in each process.
    TimesDense(f64),
    AtMost(f64),
    /// At least this part of a limit of the machine.
    PartOfLimit(f64),
    /// It is shown, and nothing is demanded.
    Shown,
}

/// A limit of the machine that a figure comes near to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Syncs of a growing file per second.
    AppendSync,
    Loopback,
    /// Round trips for each second of processor time through this runtime, and through epoll.
    PingPong,
}

/// Where a work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// An empty store for each repeat.
    Fresh,
    /// A store that is prepared once and that the work does not change.
    Prepared(&'static str),
    /// A copy of a prepared store for each repeat.
    CopyOf(&'static str),
}

/// How a work is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The generator counts from the end of its warm-up to the end of the work.
    Generator,
    /// Processor time and octets are counted from before the work until everything is flushed: for Culver, until the
    /// server that was told to stop has ended; for Dovecot, which has no later work, until it is quiet.
    UntilFlushed,
    /// Server started anew, page cache dropped, then LOGIN, SELECT and the command once.
    Cold,
}

pub struct Work {
    pub name: &'static str,
    pub title: &'static str,
    pub store: Store,
    pub way: Way,
    /// What the generator is told; for [`Way::Cold`] the user and the command.
    pub bench: &'static str,
    pub goals: &'static [(Figure, Goal)],
    pub limit: Option<(Figure, Limit)>,
    /// Whether the configuration with many clients in a process is measured too.
    pub dense: bool,
    /// The generator never sleeps. Not where the latency of a few is measured beside load: two cores that are never idle, and
    /// the disk's work, are more than some hosts give a virtual machine, and what they take comes in pieces of milliseconds.
    pub polls: bool,
}

const fn work(name: &'static str, title: &'static str) -> Work {
    Work {
        name,
        title,
        store: Store::Fresh,
        way: Way::Generator,
        bench: "",
        goals: &[],
        limit: None,
        dense: false,
        polls: true,
    }
}

/// The sizes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub quick: bool,
}

impl Scale {
    pub fn value(self, name: &str) -> Option<String> {
        let (full, quick) = match name {
            "seconds" => ("60", "5"),
            "short" => ("10", "3"),
            "warm" => ("2", "1"),
            // Long enough for several flushes.
            "flushing" => ("20", "3"),
            "crowd" => ("9000", "500"),
            "million" => ("1000000", "20000"),
            "large" => ("100000", "10000"),
            "medium" => ("10000", "1000"),
            "idle" => ("60", "5"),
            "notices" => ("200", "20"),
            // Hibernation begins after 5 s of IDLE, and what it leaves idle ends 5 s later.
            "calm" => ("60", "30"),
            _ => return None,
        };
        Some(if self.quick { quick } else { full }.to_owned())
    }

    /// Puts values for the words in braces; `other` knows those that are not sizes.
    pub fn fill(self, text: &str, other: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("{text:?}: a brace that does not close"));
            };
            out.push_str(before);
            let value = self.value(name).or_else(|| other(name));
            out.push_str(&value.ok_or_else(|| format!("{text:?}: nobody knows {{{name}}}"))?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The words of a command line, of which those with blanks stand in single quotes.
pub fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in text.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// A store that several works use: its name and the generator's commands that fill it.
pub struct Preparation {
    pub name: &'static str,
    pub fills: &'static [&'static str],
}

pub const PREPARATIONS: &[Preparation] = &[
    Preparation { name: "small", fills: &["--users 100 --messages 100 --size 4k --seen 50% --flagged 1%"] },
    Preparation {
        name: "big",
        fills: &[
            "--account user1@example.test:secret --messages {large} --size 1k --flagged 1% --seen 50%",
            "--account user2@example.test:secret --messages {medium} --size 10k --seen 50%",
            // Where COPY and MOVE go to.
            "--account user2@example.test:secret --messages 1 --size 10k --mailbox Trash",
        ],
    },
    Preparation {
        name: "million",
        fills: &["--account user1@example.test:secret --messages {million} --size 1k"],
    },
    Preparation { name: "crowd", fills: &["--users {crowd} --messages 100 --size 1k"] },
];

pub fn preparation(name: &str) -> Option<&'static Preparation> {
    PREPARATIONS.iter().find(|one| one.name == name)
}

use Figure::{
    CpuUs, IdlePercent, Interference, KernelKib, LatencyP50Ms, LatencyP99Ms, MbPerSecond, PssKib, Rate,
    RatePerCpuSecond, StallP999Ms, WrittenPerRaw,
};
use Goal::{AtMost, PartOfLimit, Shown, Times, TimesDense};

const LMTP: Work = Work { way: Way::UntilFlushed, limit: Some((Rate, Limit::AppendSync)), ..work("", "") };
const APPEND: Work = Work { way: Way::UntilFlushed, ..LMTP };
const LOGIN: Work = Work { store: Store::Prepared("small"), ..work("", "") };
const BIG: Work = Work { store: Store::Prepared("big"), ..work("", "") };
const BIG_CHANGED: Work = Work { store: Store::CopyOf("big"), ..work("", "") };
const CROWD: Work = Work { store: Store::Prepared("crowd"), ..work("", "") };

pub const WORKS: &[Work] = &[
    Work {
        name: "lmtp-1",
        title: "LMTP, 10 KiB, durable, 1 connection",
        bench: "lmtp --target {lmtp} --connections 1 --users 100 --size 10k --duration {seconds}",
        goals: &[
            (CpuUs, Times(8.0)),
            (Rate, Times(2.5)),
            (WrittenPerRaw, AtMost(1.5)),
            (LatencyP99Ms, Shown),
        ],
        ..LMTP
    },
    Work {
        name: "lmtp-10",
        title: "LMTP, 10 KiB, durable, 10 connections",
        bench: "lmtp --target {lmtp} --connections 10 --users 100 --size 10k --duration {seconds}",
        goals: &[
            (CpuUs, Times(8.0)),
            (Rate, Times(5.0)),
            (WrittenPerRaw, AtMost(1.5)),
            (LatencyP99Ms, Shown),
        ],
        ..LMTP
    },
    Work {
        name: "lmtp-50",
        title: "LMTP, 10 KiB, durable, 50 connections",
        bench: "lmtp --target {lmtp} --connections 50 --users 100 --size 10k --duration {seconds}",
        goals: &[
            (CpuUs, Times(8.0)),
            (Rate, Times(8.0)),
            (WrittenPerRaw, AtMost(1.5)),
            (LatencyP99Ms, Shown),
        ],
        ..LMTP
    },
    Work {
        name: "append-20",
        title: "APPEND, 10 KiB, 20 connections, 20 users",
        bench: "append --target {imap} --connections 20 --users 20 --size 10k --duration {short}",
        goals: &[(CpuUs, Times(5.0)), (Rate, Times(3.0)), (WrittenPerRaw, Shown), (LatencyP99Ms, Shown)],
        ..APPEND
    },
    Work {
        name: "append-1",
        title: "APPEND, 10 KiB, 20 connections, one user",
        bench: "append --target {imap} --connections 20 --users 1 --size 10k --duration {short}",
        goals: &[(CpuUs, Times(5.0)), (Rate, Times(8.0)), (WrittenPerRaw, Shown), (LatencyP99Ms, Shown)],
        ..APPEND
    },
    Work {
        name: "login",
        title: "LOGIN, SELECT, LOGOUT, 20 connections",
        bench: "login --target {imap} --connections 20 --users 100 --duration {short} --warmup {warm}",
        goals: &[(CpuUs, Times(10.0)), (CpuUs, TimesDense(5.0)), (Rate, Times(5.0)), (LatencyP99Ms, Shown)],
        dense: true,
        ..LOGIN
    },
    Work {
        name: "login-tls",
        title: "LOGIN, SELECT, LOGOUT over TLS 1.3, full handshake",
        bench: "login --target {imaps} --tls implicit --insecure --connections 20 --users 100 --duration \
                {short} --warmup {warm}",
        goals: &[(CpuUs, Times(6.0)), (Rate, Times(3.0)), (LatencyP99Ms, Shown)],
        ..LOGIN
    },
    Work {
        name: "login-tls-resumed",
        title: "LOGIN, SELECT, LOGOUT over TLS 1.3, resumed",
        bench: "login --target {imaps} --tls implicit --tls-resume --insecure --connections 20 --users 100 \
                --duration {short} --warmup {warm}",
        goals: &[(CpuUs, Times(6.0)), (Rate, Times(5.0)), (LatencyP99Ms, Shown)],
        ..LOGIN
    },
    Work {
        name: "mixed",
        title: "mixed --closed, 50 connections, 100 users",
        store: Store::CopyOf("small"),
        bench: "mixed --closed --target {imap} --connections 50 --users 100 --duration {short} --warmup {warm}",
        goals: &[(CpuUs, Times(6.0)), (Rate, Times(3.0)), (LatencyP99Ms, Shown)],
        ..work("", "")
    },
    Work {
        name: "fetch-flags",
        title: "FETCH 1:* (FLAGS), {large} messages, warm",
        bench: "imap --target {imap} --connections 1 --account user1@example.test:secret --select INBOX \
                --command 'FETCH 1:* (FLAGS)' --duration {short} --warmup {warm}",
        goals: &[(LatencyP50Ms, Times(4.0)), (CpuUs, Shown)],
        ..BIG
    },
    Work {
        name: "fetch-envelope",
        title: "FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE), {medium} messages, warm",
        bench: "imap --target {imap} --connections 1 --account user2@example.test:secret --select INBOX \
                --command 'FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)' --duration {short} --warmup \
                {warm}",
        goals: &[(LatencyP50Ms, Times(10.0)), (CpuUs, Shown)],
        ..BIG
    },
    Work {
        name: "fetch-envelope-cold",
        title: "LOGIN, SELECT and that FETCH, {medium} messages, page cache dropped",
        way: Way::Cold,
        bench: "user2@example.test 'FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)'",
        goals: &[(LatencyP50Ms, Times(3.0))],
        ..BIG
    },
    Work {
        name: "fetch-body",
        title: "FETCH BODY.PEEK[] of {medium} messages, one connection, warm",
        bench: "imap --target {imap} --connections 1 --account user2@example.test:secret --select INBOX \
                --command 'FETCH 1:* (BODY.PEEK[])' --duration {short} --warmup {warm}",
        goals: &[(MbPerSecond, Times(2.0)), (CpuUs, Shown)],
        limit: Some((MbPerSecond, Limit::Loopback)),
        ..BIG
    },
    Work {
        name: "fetch-body-tls",
        title: "FETCH BODY.PEEK[] of {medium} messages, one connection, warm, TLS 1.3",
        bench: "imap --target {imaps} --tls implicit --insecure --connections 1 --account \
                user2@example.test:secret --select INBOX --command 'FETCH 1:* (BODY.PEEK[])' --duration {short} \
                --warmup {warm}",
        goals: &[(MbPerSecond, Times(2.5)), (CpuUs, Shown)],
        limit: Some((MbPerSecond, Limit::Loopback)),
        ..BIG
    },
    Work {
        name: "search",
        title: "SEARCH UNSEEN FLAGGED, {large} messages, 1% flagged",
        bench: "imap --target {imap} --connections 1 --account user1@example.test:secret --select INBOX \
                --command 'SEARCH UNSEEN FLAGGED' --duration {short} --warmup {warm}",
        goals: &[(LatencyP50Ms, Times(15.0)), (CpuUs, Shown)],
        ..BIG
    },
    Work {
        name: "store",
        title: "STORE 1:* +FLAGS.SILENT, {large} messages, durable",
        bench: "imap --target {imap} --connections 1 --account user1@example.test:secret --select INBOX \
                --before 'STORE 1:* -FLAGS.SILENT (\\Answered)' --command \
                'STORE 1:* +FLAGS.SILENT (\\Answered)' --duration {short} --warmup {warm}",
        goals: &[(LatencyP50Ms, Times(5.0))],
        ..BIG_CHANGED
    },
    Work {
        name: "copy",
        title: "COPY of {medium} messages",
        bench: "imap --target {imap} --connections 1 --account user2@example.test:secret --select INBOX \
                --command 'COPY 1:{medium} Trash' --count 3",
        goals: &[(LatencyP50Ms, Times(3.0)), (CpuUs, Shown)],
        ..BIG_CHANGED
    },
    Work {
        name: "move",
        title: "MOVE of {medium} messages",
        bench: "imap --target {imap} --connections 1 --account user2@example.test:secret --select INBOX \
                --command 'MOVE 1:{medium} Trash' --count 1",
        goals: &[(LatencyP50Ms, Times(3.0)), (CpuUs, Shown)],
        ..BIG_CHANGED
    },
    Work {
        name: "pop3-retr",
        title: "POP3: login, UIDL, RETR of {medium} messages of 10 KiB",
        bench: "pop3 --target {pop3} --connections 1 --account user2@example.test:secret --count 3",
        goals: &[(LatencyP50Ms, Times(3.0)), (CpuUs, Shown), (MbPerSecond, Shown)],
        ..BIG_CHANGED
    },
    Work {
        name: "select-million",
        title: "SELECT of {million} messages",
        store: Store::Prepared("million"),
        bench: "imap --target {imap} --connections 1 --account user1@example.test:secret --select INBOX \
                --command 'SELECT INBOX' --duration {short} --warmup {warm}",
        goals: &[(LatencyP50Ms, Times(3.0)), (CpuUs, Shown)],
        ..work("", "")
    },
    Work {
        name: "idle",
        title: "{crowd} connections in IDLE, each of its own account",
        bench: "idle --target {imap} --connections {crowd} --users {crowd} --warmup {calm} --duration {idle}",
        goals: &[(PssKib, AtMost(4.0)), (KernelKib, Shown), (IdlePercent, AtMost(0.5))],
        ..CROWD
    },
    Work {
        name: "idle-tls",
        title: "{crowd} connections in IDLE over TLS 1.3",
        bench: "idle --target {imaps} --tls implicit --insecure --connections {crowd} --users {crowd} --warmup \
                {calm} --duration {idle}",
        goals: &[(PssKib, AtMost(12.0)), (KernelKib, Shown), (IdlePercent, AtMost(0.5))],
        ..CROWD
    },
    Work {
        name: "notify",
        title: "LMTP's 250 to EXISTS in another session's IDLE",
        store: Store::CopyOf("small"),
        bench: "notify --target {imap} --lmtp {lmtp} --users 1 --count {notices}",
        goals: &[(LatencyP99Ms, AtMost(5.0)), (LatencyP50Ms, Shown)],
        polls: false,
        ..work("", "")
    },
    Work {
        name: "interfere",
        title: "NOOP on one connection while eight append, flushes included",
        bench: "interfere --target {imap} --appenders 8 --users 9 --size 10k --duration {flushing}",
        goals: &[(Interference, AtMost(3.0)), (LatencyP99Ms, Shown), (StallP999Ms, AtMost(2.0))],
        polls: false,
        ..work("", "")
    },
    Work {
        name: "noop",
        title: "NOOP, 50 connections, not pipelined",
        bench: "noop --target {imap} --connections 50 --users 50 --duration {short} --warmup {warm}",
        goals: &[(RatePerCpuSecond, PartOfLimit(0.6)), (Rate, Shown), (LatencyP99Ms, Shown)],
        limit: Some((RatePerCpuSecond, Limit::PingPong)),
        ..LOGIN
    },
];

/// Names that are no works: the machine itself, and the long run.
pub const OTHERS: [(&str, &str); 2] = [
    ("limits", "the machine's own limits: ping-pong, loopback, durable appends and overwrites"),
    (
        "churn",
        "mixed load for --minutes, with Culver's memory, descriptors and maps sampled (only where named)",
    ),
];

/// Which servers a work runs on.
pub fn servers(work: &Work, only: Option<Kind>) -> Vec<Kind> {
    let all = [Kind::Culver, Kind::DovecotDefault, Kind::DovecotBest, Kind::DovecotDense];
    let wanted =
        |kind: &Kind| only.is_none_or(|only| only == *kind) && (*kind != Kind::DovecotDense || work.dense);
    all.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_in_braces_is_known_and_every_store_is_prepared() {
        let service =
            |name: &str| ["imap", "imaps", "pop3", "lmtp"].contains(&name).then(|| "x:1".to_owned());
        let mut names = BTreeSet::new();
        for work in WORKS {
            assert!(names.insert(work.name), "{} stands there twice", work.name);
            assert!(!work.title.is_empty() && !work.bench.is_empty() && !work.goals.is_empty());
            for scale in [Scale { quick: true }, Scale { quick: false }] {
                for text in [work.bench, work.title] {
                    scale.fill(text, &service).unwrap();
                }
            }
            if let Store::Prepared(name) | Store::CopyOf(name) = work.store {
                assert!(preparation(name).is_some(), "{name}");
            }
        }
        for preparation in PREPARATIONS {
            for fill in preparation.fills {
                Scale { quick: true }.fill(fill, &|_| None).unwrap();
            }
        }
    }

    #[test]
    fn words_in_braces_are_replaced_or_told() {
        let scale = Scale { quick: true };
        let other = |name: &str| (name == "imap").then(|| "h:1".to_owned());
        assert_eq!(scale.fill("{imap} x {seconds}", &other), Ok("h:1 x 5".to_owned()));
        assert!(scale.fill("{nothing}", &other).is_err());
        assert!(scale.fill("{imap", &other).is_err());
    }

    #[test]
    fn words_in_quotes_stay_whole() {
        assert_eq!(
            split("imap  --command 'FETCH 1:* (FLAGS)' -c 1"),
            ["imap", "--command", "FETCH 1:* (FLAGS)", "-c", "1"]
        );
        assert!(WORKS.iter().all(|work| work.bench.matches('\'').count() % 2 == 0));
    }

    #[test]
    fn the_dense_configuration_runs_where_a_goal_names_it() {
        for work in WORKS {
            let named = work.goals.iter().any(|(_, goal)| matches!(goal, TimesDense(_)));
            assert_eq!(named, servers(work, None).contains(&Kind::DovecotDense), "{}", work.name);
        }
    }
}
