//! The parameters of delivery status notifications. They are checked and say nothing here: who delivers over LMTP learns of each
//! recipient what became of it, and notifies the sender itself.
//!
//! # Limits
//! 100 characters of ENVID, 500 of ORCPT.
//!
//! # RFC
//! 3461 §4.1 (NOTIFY), §4.2 (ORCPT), §4.3 (RET), §4.4 (ENVID). DSN is not advertised: an agent that finds it leaves the notices of success to
//! this server, which sends no mail.

use super::reply::Reply;
use super::xtext;

const ENVID_OCTETS_MAX: usize = 100;
const ORCPT_OCTETS_MAX: usize = 500;

/// Parameters of MAIL that were met.
#[derive(Default)]
pub(super) struct Envelope {
    ret: bool,
    envid: bool,
}

impl Envelope {
    /// `Ok(false)`: it is none of these.
    pub fn take(&mut self, keyword: &[u8], value: &[u8]) -> Result<bool, Reply> {
        if keyword.eq_ignore_ascii_case(b"RET") {
            let known = [&b"FULL"[..], b"HDRS"].iter().any(|known| value.eq_ignore_ascii_case(known));
            once(&mut self.ret, known, (501, "5.5.4", "RET is FULL or HDRS, once"))
        } else if keyword.eq_ignore_ascii_case(b"ENVID") {
            let valid = xtext::printable(value, ENVID_OCTETS_MAX).is_some();
            once(&mut self.envid, valid, (501, "5.5.4", "ENVID is xtext of 1 to 100 characters, once"))
        } else {
            Ok(false)
        }
    }
}

/// Parameters of RCPT that were met.
#[derive(Default)]
pub(super) struct Recipient {
    notify: bool,
    orcpt: bool,
}

impl Recipient {
    /// `Ok(false)`: it is none of these.
    pub fn take(&mut self, keyword: &[u8], value: &[u8]) -> Result<bool, Reply> {
        if keyword.eq_ignore_ascii_case(b"NOTIFY") {
            let mistake = (501, "5.5.4", "NOTIFY is NEVER, or some of SUCCESS,FAILURE,DELAY, once");
            once(&mut self.notify, is_notify(value), mistake)
        } else if keyword.eq_ignore_ascii_case(b"ORCPT") {
            let mistake = (501, "5.5.4", "ORCPT is a type, a semicolon and an address in xtext, once");
            once(&mut self.orcpt, is_orcpt(value), mistake)
        } else {
            Ok(false)
        }
    }
}

fn once(met: &mut bool, valid: bool, mistake: Reply) -> Result<bool, Reply> {
    if !valid || std::mem::replace(met, true) { Err(mistake) } else { Ok(true) }
}

fn is_notify(value: &[u8]) -> bool {
    let known = [&b"SUCCESS"[..], b"FAILURE", b"DELAY"];
    value.eq_ignore_ascii_case(b"NEVER")
        || value.split(|&b| b == b',').all(|word| known.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

fn is_orcpt(value: &[u8]) -> bool {
    let Some(at) = value.iter().position(|&b| b == b';') else { return false };
    let (kind, address) = (&value[..at], &value[at + 1..]);
    let atom = !kind.is_empty() && kind.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-');
    // RFC 6533 §3: `utf-8` addresses may stand there in UTF-8.
    let utf8 = kind.eq_ignore_ascii_case(b"utf-8") && std::str::from_utf8(address).is_ok();
    let address = !address.is_empty() && (utf8 || xtext::decode(address).is_some());
    value.len() <= ORCPT_OCTETS_MAX && atom && address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let envelope = |words: &[(&str, &str)]| {
            let mut met = Envelope::default();
            words
                .iter()
                .try_for_each(|(keyword, value)| met.take(keyword.as_bytes(), value.as_bytes()).map(drop))
        };
        // RFC 3461 §10.1.
        assert!(envelope(&[("RET", "HDRS"), ("ENVID", "QQ314159")]).is_ok());
        assert!(envelope(&[("ret", "full")]).is_ok());
        let long = "e".repeat(101);
        for bad in [
            &[("RET", "")][..],
            &[("RET", "ALL")],
            &[("RET", "FULL"), ("RET", "FULL")],
            &[("ENVID", "")],
            &[("ENVID", "a=b")],
            &[("ENVID", "a+4")],
            &[("ENVID", &long)],
        ] {
            assert!(envelope(bad).is_err(), "{bad:?}");
        }
        let recipient = |words: &[(&str, &str)]| {
            let mut met = Recipient::default();
            words
                .iter()
                .try_for_each(|(keyword, value)| met.take(keyword.as_bytes(), value.as_bytes()).map(drop))
        };
        assert!(recipient(&[("NOTIFY", "SUCCESS"), ("ORCPT", "rfc822;Bob@Example.COM")]).is_ok());
        assert!(recipient(&[("NOTIFY", "success,FAILURE,delay")]).is_ok());
        assert!(recipient(&[("NOTIFY", "NEVER"), ("ORCPT", "rfc822;a+2Bb@c")]).is_ok());
        assert!(recipient(&[("ORCPT", "utf-8;zo\u{eb}@example.org")]).is_ok());
        for bad in [
            &[("NOTIFY", "")][..],
            &[("NOTIFY", "NEVER,SUCCESS")],
            &[("NOTIFY", "SUCCESS,")],
            &[("NOTIFY", "DELAY"), ("NOTIFY", "DELAY")],
            &[("ORCPT", "rfc822")],
            &[("ORCPT", ";a@b")],
            &[("ORCPT", "rfc822;")],
            &[("ORCPT", "rfc822;zo\u{eb}@example.org")],
        ] {
            assert!(recipient(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(Recipient::default().take(b"X", b""), Ok(false)));
    }
}
