//! See `culver_fuzz::targets::index_block`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::index_block(data));
