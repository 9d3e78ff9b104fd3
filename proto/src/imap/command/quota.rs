//! SETQUOTA (RFC 9208 §7).

use super::super::cursor::{Cursor, Parsed};
use super::super::text::Refusal;
use super::*;

/// RFC 9208 §3.1.2: usages and limits have 63 bits.
const LIMIT_MAX: u64 = u64::MAX >> 1;

pub(super) fn set_quota<'a>(cursor: &mut Cursor<'a>) -> Parsed<Command<'a>> {
    let root = cursor.astring("a quota root")?;
    cursor.space()?;
    let mut limits: Vec<(&str, u64)> = Vec::new();
    cursor.list(|cursor| {
        let resource = cursor.atom("a resource")?;
        cursor.space()?;
        let limit = cursor.number()?;
        if limit > LIMIT_MAX {
            return Err(Refusal::Expected("a limit of 63 bits"));
        }
        if limits.iter().any(|(other, _)| other.eq_ignore_ascii_case(resource)) {
            return Err(Refusal::Expected("each resource once"));
        }
        if limits.len() == QUOTA_RESOURCES_MAX {
            return Err(Refusal::TooMany("resources"));
        }
        limits.push((resource, limit));
        Ok(())
    })?;
    Ok(Command::SetQuota { root, limits })
}
