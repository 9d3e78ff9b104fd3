//! See `culver_fuzz::targets::imap_client`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::imap_client(data));
