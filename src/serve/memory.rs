//! Memory that is free goes back to the system, on a thread of its own.
//!
//! mimalloc does that on whatever thread happens to allocate when the time has come: after a flush of a large mailbox that was
//! a pause of 9 ms in a shard.

use std::ffi::c_long;
use std::time::Duration;

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};

/// How often. What is used again sooner costs no page faults.
const EVERY: Duration = Duration::from_secs(5);

/// `mi_option_purge_delay` of `mimalloc.h`, in milliseconds; the bindings do not name it.
const PURGE_DELAY: mi_option_t = 15;

/// From now on other threads give nothing back by themselves. Where another allocator is the program's, nothing happens.
pub fn start() {
    let spawned = std::thread::Builder::new().name("memory".to_owned()).spawn(|| {
        // It has time; shards do not.
        let _ = rustix::process::setpriority_process(None, 19);
        loop {
            std::thread::sleep(EVERY);
            give_back();
        }
    });
    match spawned {
        // SAFETY: sets a number; how it counts when other threads allocate is the allocator's concern.
        Ok(_) => unsafe { mi_option_set(PURGE_DELAY, c_long::from(i32::MAX)) },
        Err(error) => tracing::warn!(%error, "free memory goes back on the shards' own threads"),
    }
}

/// Gives what this thread has freed, and what no thread needs, back to the system.
pub fn give_back() {
    // SAFETY: it looks at this thread's own heap and at pages that are nobody's.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads a number.
        let delay = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        // Its default, or what [`start`] made of it; another number means that the options were numbered anew.
        assert!([1000, c_long::from(i32::MAX)].contains(&delay), "{delay}");
    }
}
