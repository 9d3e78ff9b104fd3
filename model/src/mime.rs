//! MIME
