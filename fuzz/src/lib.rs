//! The fuzz targets as plain functions; `targets/*.rs` hand them to libFuzzer.

pub mod targets;
