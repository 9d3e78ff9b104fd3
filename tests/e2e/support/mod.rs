//! What every end-to-end test stands on: servers, connections, processes, deadlines.
//!
//! Nothing here links a crate of Culver: the suite sees what a client on the network sees, so the same
//! tests run against any server.

pub mod connection;
pub mod dovecot;
pub mod gate;
pub mod imap;
pub mod lmtp;
pub mod netns;
pub mod pop3;
pub mod process;
pub mod radosgw;
pub mod random;
pub mod seaweed;
pub mod server;
pub mod temp;

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a test gives back: nothing, or why it failed (or was skipped: see [`Skipped`]).
pub type Fallible<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The longest that any single answer of a server may take.
pub const ANSWER: Duration = Duration::from_secs(20);

/// A time limit on this machine: longer by `CULVER_TEST_SLOW`, for one that is emulated.
pub fn patient(limit: Duration) -> Duration {
    static SLOW: OnceLock<u32> = OnceLock::new();
    limit
        * *SLOW.get_or_init(|| {
            std::env::var("CULVER_TEST_SLOW").ok().and_then(|times| times.parse().ok()).unwrap_or(1).max(1)
        })
}

/// A test that could not run here, and why.
#[derive(Debug)]
pub struct Skipped(pub String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl Error for Skipped {}

/// Ends the test as skipped.
pub fn skip<T>(why: impl Into<String>) -> Fallible<T> {
    Err(Box::new(Skipped(why.into())))
}

/// Fails with a formatted message.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => { return Err(format!($($arg)*).into()) };
}

/// Fails with a formatted message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => { if !$cond { $crate::fail!($($arg)*) } };
}

/// Asks `condition` until it says yes; fails with `what` after `limit`.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> Fallible<bool>) -> Fallible {
    let limit = patient(limit);
    let end = Instant::now() + limit;
    loop {
        if condition()? {
            return Ok(());
        }
        if Instant::now() > end {
            fail!("waited {limit:?} in vain for: {what}");
        }
        // A pause between two looks at a condition, never instead of one.
        std::thread::sleep(Duration::from_millis(20));
    }
}
