//! See `culver_fuzz::targets::pop3`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::pop3(data));
