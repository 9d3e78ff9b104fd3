//! See `culver_fuzz::targets::pack`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::pack(data));
