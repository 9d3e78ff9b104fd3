//! The trace that final delivery puts before a message: Return-Path, Delivered-To, Received.
//!
//! It is the recipient's own prefix of a shared body. Lines end in CRLF and have at most 998 octets; everything that
//! came from the network is reduced first, so that no field can be forged through it: to printable ASCII, and addresses of a transaction
//! with SMTPUTF8 to what is no control character.
//!
//! # RFC
//! 5321 §4.4, 3848 (LMTP, LMTPS), 6531 §4.3 (UTF8LMTP, UTF8LMTPS).

use std::fmt::Write;
use std::net::IpAddr;

use super::address::Address;

/// What is known about the transaction.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// This server's host name.
    pub by: &'a str,
    /// The name that the client gave with LHLO.
    pub from: &'a str,
    /// `None` for a client on a local socket.
    pub peer: Option<IpAddr>,
    pub tls: bool,
    /// The transaction has SMTPUTF8.
    pub utf8: bool,
    /// This delivery's id, as in the logs.
    pub id: &'a str,
    /// The time of the delivery as an RFC 5322 date.
    pub date: &'a str,
    /// The reverse path; `None` is `<>`.
    pub sender: Option<&'a Address>,
}

impl Trace<'_> {
    /// The prefix for one recipient. `recipient` is what later loop detection compares with: the account's address;
    /// `alone` says that the transaction has no other.
    pub fn prefix(&self, recipient: &str, alone: bool) -> Vec<u8> {
        let address = |address: &str, octets_max| match self.utf8 {
            true => visible(address, octets_max),
            false => printable(address, octets_max),
        };
        let recipient = address(recipient, 400);
        let sender = self.sender.map(|sender| address(&sender.to_string(), 700)).unwrap_or_default();
        let mut text = format!("Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\nReceived: from ");
        text.push_str(&word(self.from));
        match self.peer.map(|peer| peer.to_canonical()) {
            Some(IpAddr::V4(peer)) => write!(text, " ([{peer}])"),
            // RFC 5321 §4.1.3: an IPv6 address literal has its tag.
            Some(IpAddr::V6(peer)) => write!(text, " ([IPv6:{peer}])"),
            None => Ok(()),
        }
        .expect("a String takes every character");
        let protocol = match (self.utf8, self.tls) {
            (false, false) => "LMTP",
            (false, true) => "LMTPS",
            (true, false) => "UTF8LMTP",
            (true, true) => "UTF8LMTPS",
        };
        let (by, id) = (word(self.by), word(self.id));
        write!(text, "\r\n\tby {by} with {protocol}\r\n\tid {id}").expect("a String takes every character");
        if alone {
            // RFC 5321 §7.2: with several recipients, "for" would tell each of the others.
            write!(text, "\r\n\tfor <{recipient}>").expect("a String takes every character");
        }
        write!(text, ";\r\n\t{}\r\n", printable(self.date, 100)).expect("a String takes every character");
        text.into_bytes()
    }
}

fn printable(text: &str, octets_max: usize) -> String {
    text.chars().filter(|c| (' '..='~').contains(c)).take(octets_max).collect()
}

/// Without control characters and what else ends a line somewhere.
fn visible(text: &str, octets_max: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}')) {
        if kept.len() + c.len_utf8() > octets_max {
            break;
        }
        kept.push(c);
    }
    kept
}

/// One token: nothing that ends it or begins a comment.
fn word(text: &str) -> String {
    let word: String =
        text.chars().filter(|c| c.is_ascii_graphic() && !"()<>;\"\\".contains(*c)).take(255).collect();
    if word.is_empty() { "unknown".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace<'a>(sender: Option<&'a Address>) -> Trace<'a> {
        Trace {
            by: "mx.example.test",
            from: "relay.example.test",
            peer: "192.0.2.7".parse().ok(),
            tls: false,
            utf8: false,
            id: "4fA-1",
            date: "Mon, 23 Nov 2026 20:15:45 +0000",
            sender,
        }
    }

    #[test]
    fn a_single_recipient_stands_in_received() {
        let sender = Address::parse("chris@bar.com").expect("valid");
        let prefix = trace(Some(&sender)).prefix("pat@foo.edu", true);
        assert_eq!(
            String::from_utf8(prefix).expect("ASCII"),
            "Return-Path: <chris@bar.com>\r\nDelivered-To: pat@foo.edu\r\n\
             Received: from relay.example.test ([192.0.2.7])\r\n\tby mx.example.test with LMTP\r\n\tid 4fA-1\r\n\
             \tfor <pat@foo.edu>;\r\n\tMon, 23 Nov 2026 20:15:45 +0000\r\n"
        );
    }

    #[test]
    fn several_recipients_are_not_told_of_each_other() {
        let trace = Trace { tls: true, peer: "2001:db8::1".parse().ok(), ..trace(None) };
        let prefix = String::from_utf8(trace.prefix("pat@foo.edu", false)).expect("ASCII");
        assert!(prefix.starts_with("Return-Path: <>\r\n") && !prefix.contains("for <"), "{prefix}");
        assert!(
            prefix.contains("([IPv6:2001:db8::1])") && prefix.contains(" with LMTPS\r\n\tid 4fA-1;\r\n"),
            "{prefix}"
        );
    }

    #[test]
    fn with_smtputf8_addresses_stand_as_they_are() {
        let sender = Address::parse("zo\u{eb}@b\u{fc}cher.example").expect("valid");
        let trace = Trace { utf8: true, ..trace(Some(&sender)) };
        let prefix =
            String::from_utf8(trace.prefix("m\u{fc}ller@foo.edu\r\n\u{2028}X", true)).expect("UTF-8");
        assert!(
            prefix.starts_with(
                "Return-Path: <zo\u{eb}@b\u{fc}cher.example>\r\nDelivered-To: m\u{fc}ller@foo.eduX\r\n"
            ),
            "{prefix}"
        );
        assert!(prefix.contains(" with UTF8LMTP\r\n"), "{prefix}");
    }

    #[test]
    fn nothing_can_be_forged_through_a_name() {
        let trace = Trace { from: "x\r\nSubject: y(", peer: None, ..trace(None) };
        let prefix = String::from_utf8(trace.prefix("a@b\r\nX: y", true)).expect("ASCII");
        assert!(prefix.contains("from xSubject:y\r\n\tby"), "{prefix}");
        assert_eq!(prefix.matches("\r\nX").count() + prefix.matches("\r\nS").count(), 0, "{prefix}");
    }
}
