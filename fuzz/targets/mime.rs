//! See `culver_fuzz::targets::mime`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::mime(data));
