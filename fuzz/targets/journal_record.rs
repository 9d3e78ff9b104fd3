//! See `culver_fuzz::targets::journal_record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::journal_record(data));
