//! Dump
use std::fmt;
use std::path::Path;
use crate::error::OpenError;

pub async fn dump(_path: &Path, _out: &mut dyn fmt::Write) -> Result<(), OpenError> {
    Ok(())
}
