//! See `culver_fuzz::targets::journal_segment`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::journal_segment(data));
