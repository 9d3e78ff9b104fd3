//! One request to a store and its outcome, as drivers see them.

use std::ops::Range;
use std::time::Duration;

use culver_shard::http::Octets;

/// One request. Each means the same when it is made twice.
pub enum Op<'a> {
    /// `create`: only where no object has this key, which is the one decision that a store makes.
    Put {
        key: &'a str,
        octets: &'a Octets,
        create: bool,
    },
    /// Octets of a range, cut at the object's end; all of a small object without one.
    Get {
        key: &'a str,
        range: Option<Range<u64>>,
    },
    /// Its length.
    Head {
        key: &'a str,
    },
    /// Those that are not there count as deleted.
    Delete {
        keys: &'a [String],
    },
    /// Keys with a prefix, ascending, after a key.
    List {
        prefix: &'a str,
        after: &'a str,
        keys_max: usize,
    },
    /// A large object in parts.
    Begin {
        key: &'a str,
    },
    Part {
        key: &'a str,
        upload: &'a str,
        number: u32,
        octets: &'a Octets,
    },
    Complete {
        key: &'a str,
        upload: &'a str,
        parts: &'a [String],
    },
    Abort {
        key: &'a str,
        upload: &'a str,
    },
}

/// What kinds of requests are counted apart; stores bill them apart too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Put,
    Get,
    Head,
    Delete,
    List,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Put, Kind::Get, Kind::Head, Kind::Delete, Kind::List];

    /// Its label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Head => "head",
            Kind::Delete => "delete",
            Kind::List => "list",
        }
    }
}

impl Op<'_> {
    pub fn kind(&self) -> Kind {
        match self {
            Op::Put { .. } | Op::Begin { .. } | Op::Part { .. } | Op::Complete { .. } => Kind::Put,
            Op::Get { .. } => Kind::Get,
            Op::Head { .. } => Kind::Head,
            Op::Delete { .. } | Op::Abort { .. } => Kind::Delete,
            Op::List { .. } => Kind::List,
        }
    }

    /// For messages.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. }
            | Op::Get { key, .. }
            | Op::Head { key }
            | Op::Begin { key }
            | Op::Part { key, .. }
            | Op::Complete { key, .. }
            | Op::Abort { key, .. } => key,
            Op::Delete { keys } => keys.first().map_or("", String::as_str),
            Op::List { prefix, .. } => prefix,
        }
    }

    /// Octets that are sent.
    pub fn octets(&self) -> u64 {
        match self {
            Op::Put { octets, .. } | Op::Part { octets, .. } => octets.len(),
            _ => 0,
        }
    }
}

/// What a request brought.
#[derive(Debug)]
pub enum Outcome {
    Done,
    Octets(Vec<u8>),
    Length(u64),
    /// Keys that are still there, each with the reason.
    Deleted {
        failed: Vec<(String, String)>,
    },
    Listed(Listed),
    /// The id of an upload, or the tag of a part.
    Named(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Ascending, with their lengths.
    pub objects: Vec<(String, u64)>,
    pub more: bool,
}

/// Why one request brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such object (now).
    NotFound,
    /// `create`: an object has this key. It may be the same request's, tried before.
    Exists,
    /// A person acts.
    Refused(Refusal),
    /// Time acts: what became of the request is not known.
    Passing { what: String, slow_down: bool },
}

/// A store says no, and will say so again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct Refusal {
    pub what: String,
    /// What a person can do.
    pub remedy: String,
}

impl Failure {
    pub fn passing(what: impl Into<String>) -> Failure {
        Failure::Passing { what: what.into(), slow_down: false }
    }

    pub fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure::Refused(Refusal { what: what.into(), remedy: remedy.into() })
    }
}

/// What a driver can do beyond objects by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    pub list: bool,
    /// Octets from which on an object is sent in parts, where it can be.
    pub parts_from: Option<u64>,
    /// Keys in one delete.
    pub delete_keys_max: usize,
}

/// A part of a large object.
pub const PART_OCTETS: u64 = 16 << 20;

/// How long one request may take at most, by what it carries: half a megabyte a second is slow for a store.
pub fn attempt_within(octets: u64) -> Duration {
    Duration::from_secs(10) + Duration::from_micros(octets * 2)
}
