//! culver
