//! See `culver_fuzz::targets::imap_server`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culver_fuzz::targets::imap_server(data));
