//! Counters of one shard, and the Prometheus text made of all of them.
//!
//! # Cost
//! A count is an add to a cell of the shard; nothing is shared until somebody asks.

use std::cell::Cell;

macro_rules! counters {
    ($($(#[doc = $help:literal])* $kind:ident $name:ident,)*) => {
        /// The counters of this shard.
        #[derive(Default)]
        pub struct Counters { $(pub $name: Cell<u64>,)* }

        /// Their values at one moment; adds up over shards.
        #[derive(Clone, Default)]
        pub struct Snapshot { $(pub $name: u64,)* }

        impl Counters {
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get(),)* }
            }
        }

        impl Snapshot {
            pub fn add(&mut self, other: &Snapshot) {
                $(self.$name += other.$name;)*
            }

            /// (name, help, is a counter, value)
            pub fn values(&self) -> Vec<(&'static str, &'static str, bool, u64)> {
                vec![$((stringify!($name), concat!($($help,)*), stringify!($kind) == "counter", self.$name),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted
    counter connections,
    /// Connections refused at a limit
    counter connections_refused,
    /// Connections open now
    gauge connections_open,
    /// IMAP sessions open now
    gauge imap_sessions,
    /// IMAP sessions among them that sleep: their clients have been silent for a while
    gauge imap_asleep,
    /// POP3 sessions open now
    gauge pop3_sessions,
    /// LMTP sessions open now
    gauge lmtp_sessions,
    /// Logins that succeeded
    counter logins,
    /// Logins refused for a wrong name or password
    counter logins_failed,
    /// Logins that could not be decided
    counter logins_unavailable,
    /// IMAP commands
    counter imap_commands,
    /// Messages delivered by LMTP, per recipient
    counter lmtp_delivered,
    /// Recipients refused or failed in LMTP
    counter lmtp_failed,
    /// Messages appended by IMAP
    counter imap_appended,
    /// Commands refused because the account is over its quota
    counter quota_refused,
    /// Deliveries refused because the account is over its quota, or may be
    counter quota_undelivered,
    /// Connections handed over between shards
    counter hand_overs,
    /// Sessions ended by a panic
    counter panics,
    /// Octets of messages sent to clients
    counter message_octets_sent,
    /// Accounts open now
    gauge accounts_open,
}

pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

pub fn add(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get() + amount);
}

/// Counts one up while it lives.
pub struct Gauge<'a>(&'a Cell<u64>);

impl<'a> Gauge<'a> {
    pub fn hold(cell: &'a Cell<u64>) -> Gauge<'a> {
        count(cell);
        Gauge(cell)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
