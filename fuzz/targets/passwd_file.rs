//! See `culver_fuzz::targets::passwd_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::passwd_file(data));
