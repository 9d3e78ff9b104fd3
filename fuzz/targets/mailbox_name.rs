//! See `culver_fuzz::targets::mailbox_name`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::mailbox_name(data));
