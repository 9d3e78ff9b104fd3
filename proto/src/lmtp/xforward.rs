//! XFORWARD, Postfix's extension: what a trusted client knows of where a message came from. Of its attributes IDENT counts here,
//! the client's own id of the message; the others are read and not kept.
//!
//! # RFC
//! 3461 §4 (xtext).

use super::reply::Reply;
use super::xtext;

/// The attributes, as LHLO's answer names them.
pub(super) const NAMES: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// What the command says of IDENT: `None` nothing, `Some(None)` that there is none.
pub(super) fn parse(rest: &[u8]) -> Result<Option<Option<String>>, Reply> {
    let mut ident = None;
    xtext::attributes(rest, NAMES, |name, value| {
        if name.eq_ignore_ascii_case(b"IDENT") {
            ident = Some(value);
        }
        Ok(())
    })?;
    Ok(ident)
}
