//! See `culver_fuzz::targets::table`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::table(data));
