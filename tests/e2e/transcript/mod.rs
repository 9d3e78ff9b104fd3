//! Transcripts: conversations in files, played against the server under test.

pub mod parse;
pub mod pattern;
pub mod play;
