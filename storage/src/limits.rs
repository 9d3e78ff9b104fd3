//! Bounds of this crate, each with its default. The configuration fills them from one table.

use std::time::Duration;

/// Bounds and sizes. All are per shard where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Partitions of a new store; an existing store keeps its own. 64.
    pub partitions: u16,
    /// Octets preallocated for a journal segment. 64 MiB. A record that is larger gets a segment of its own size.
    pub segment_octets: u64,
    /// Octets of records put into one batch, which is one write and one sync. 4 MiB. At least one record always goes.
    pub batch_octets_max: u64,
    /// Octets submitted and not yet committed; above it submissions are told to wait. 16 MiB.
    pub pending_octets_max: u64,
    /// Records submitted and not yet committed. 65,536.
    pub pending_records_max: usize,
    /// Meta octets of one record. 16 MiB.
    pub meta_octets_max: usize,
    /// Bodies of up to this size stand in the journal itself; larger ones become a pack of one. 256 KiB.
    pub inline_body_max: usize,
    /// Octets of one body. 1 GiB.
    pub body_octets_max: u64,
    /// Octets of bodies held in memory by writers and by records not yet committed; above it, writers stream to a
    /// pack of one with a buffer of one chunk. 64 MiB.
    pub body_memory_octets_max: u64,
    /// Octets of committed but unflushed journal at which flushes start. 128 MiB.
    pub flush_octets: u64,
    /// Octets of committed but unflushed journal at which submissions that are not urgent wait. 256 MiB.
    pub unflushed_octets_max: u64,
    /// Octets of journal that an account may have which flushes have to leave out (its blocks cannot be read or made);
    /// above it only its urgent changes are taken. 64 MiB.
    pub left_out_octets_max: u64,
    /// Age of the oldest unflushed record of a partition at which it is flushed. 10 minutes.
    pub flush_age: Duration,
    /// Tables a partition may have after a flush; above it some are merged. 16; where each that a cold account is looked up in
    /// is a request, 8 ([`TABLES_MAX_SHARED`]).
    pub tables_max: usize,
    /// Octets of a preallocated file that is given up when the disk is full, so that urgent records still commit. 8 MiB.
    pub reserve_octets: u64,
    /// Objects held open for reading. 128.
    pub open_objects_max: usize,
    /// Blocks from this size are mapped, smaller ones read. 1 MiB: the first mapping of a table costs a look at all of
    /// it, which small blocks do not repay.
    pub map_octets_min: u64,
    /// Objects are rewritten when less than this part of them, in percent, is alive. 50.
    pub compact_below_percent: u64,
    /// On a shared store, one object for each message and not for each flush of a partition. No.
    pub pack_single: bool,
    /// On a shared store, journal objects by which the low mark may lag because of one cold partition before its Flush
    /// record is carried forward. 256.
    pub carry_objects: u64,
    /// On a shared store, octets of bodies, blocks and records kept in files of this machine, of all shards together;
    /// 0: none. 4 GiB.
    pub cache_octets: u64,
    /// Octets that wait to be written to the cache; above it what is read is not kept. 8 MiB.
    pub cache_waiting_octets_max: u64,
    /// Octets that readers of large bodies of a shared store hold ahead; above it they read chunk by chunk. 64 MiB.
    pub window_octets_max: u64,
    /// Pause of the housekeeping between two looks at what is due. 1 s.
    pub tick: Duration,
    /// Segments by which the low mark may lag because of one cold partition before its Flush record is carried
    /// forward. 1.
    pub carry_segments: u64,
}

/// [`Limits::tables_max`] of a shared store.
pub const TABLES_MAX_SHARED: usize = 8;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            partitions: 64,
            segment_octets: 64 << 20,
            batch_octets_max: 4 << 20,
            pending_octets_max: 16 << 20,
            pending_records_max: 65_536,
            meta_octets_max: 16 << 20,
            inline_body_max: 256 << 10,
            body_octets_max: 1 << 30,
            body_memory_octets_max: 64 << 20,
            flush_octets: 128 << 20,
            unflushed_octets_max: 256 << 20,
            left_out_octets_max: 64 << 20,
            flush_age: Duration::from_secs(600),
            tables_max: 16,
            reserve_octets: 8 << 20,
            open_objects_max: 128,
            map_octets_min: 1 << 20,
            compact_below_percent: 50,
            pack_single: false,
            carry_objects: 256,
            cache_octets: 4 << 30,
            cache_waiting_octets_max: 8 << 20,
            window_octets_max: 64 << 20,
            tick: Duration::from_secs(1),
            carry_segments: 1,
        }
    }
}
