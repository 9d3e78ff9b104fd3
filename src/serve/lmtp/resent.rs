//! What a message is known by if it is sent again, because its answer was lost: the sender's own id of it, its envelope sender and
//! recipient, and its octets.
//!
//! # Invariants
//! Without an id of the sender's there is none: two messages that are alike are two messages.
//!
//! # Cost
//! SHA-256 over the message, once for all recipients, while it is spooled; over its header alone where there is no id.

use culver_model::{AccountId, DeliveryId};
use culver_proto::lmtp::{Address, HeaderWatch};
use ring::digest::{Context, SHA256};

/// Hashes a message that arrives.
pub struct Fingerprint(Option<Context>);

/// What all copies of one message have in common.
pub struct Sent(Context);

/// Goes into every hash, so that none is taken for one made in another way.
const PURPOSE: &[u8] = b"culver delivery 1";

impl Fingerprint {
    pub fn new() -> Fingerprint {
        Fingerprint(Some(Context::new(&SHA256)))
    }

    pub fn push(&mut self, octets: &[u8]) {
        if let Some(context) = &mut self.0 {
            context.update(octets);
        }
    }

    /// The sender gives no id: there is nothing to know the message by.
    pub fn give_up(&mut self) {
        self.0 = None;
    }

    /// The message is whole. `ident`: the sender's id of it, where XFORWARD gave one.
    pub fn finish(self, ident: Option<&str>, watch: &HeaderWatch, sender: Option<&Address>) -> Option<Sent> {
        let digest = self.0?.finish();
        let (kind, id) = match (ident, watch.queue_id()) {
            (Some(ident), _) => (1, ident.as_bytes()),
            (None, Some(id)) => (2, id),
            (None, None) => return None,
        };
        let mut sent = Sent(Context::new(&SHA256));
        sent.0.update(PURPOSE);
        sent.0.update(&[kind]);
        sent.put(id);
        sent.put(sender.map(Address::to_string).unwrap_or_default().as_bytes());
        sent.put(digest.as_ref());
        Some(sent)
    }
}

impl Sent {
    /// With its length before it, so that no two rows of values are one row of octets.
    fn put(&mut self, value: &[u8]) {
        self.0.update(&(value.len() as u64).to_le_bytes());
        self.0.update(value);
    }

    /// The copy of one recipient.
    pub fn to(&self, account: &AccountId, detail: Option<&str>) -> DeliveryId {
        let mut copy = Sent(self.0.clone());
        copy.put(account.as_str().as_bytes());
        copy.0.update(&[u8::from(detail.is_some())]);
        copy.put(detail.unwrap_or_default().as_bytes());
        let digest = copy.0.finish();
        DeliveryId(*digest.as_ref().first_chunk().expect("SHA-256 gives 32 octets"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of a message, with all that may differ between two.
    fn id(
        ident: Option<&str>,
        message: &str,
        sender: Option<&str>,
        to: (&str, Option<&str>),
    ) -> Option<DeliveryId> {
        let (mut watch, mut scratch, mut fingerprint) = (HeaderWatch::new(), Vec::new(), Fingerprint::new());
        for piece in message.as_bytes().chunks(7) {
            fingerprint.push(watch.push(piece, &mut scratch));
        }
        watch.finish(&mut scratch);
        fingerprint.push(&scratch);
        let sender = sender.map(|sender| Address::parse(sender).expect("an address"));
        let account = AccountId::parse(to.0).expect("an account");
        Some(fingerprint.finish(ident, &watch, sender.as_ref())?.to(&account, to.1))
    }

    #[test]
    fn only_the_same_message_of_one_id_sender_and_recipient_is_the_same() {
        const RECEIVED: &str = "Received: by b id X1; now\r\n";
        let message = format!("{RECEIVED}Subject: a\r\n\r\ntext\r\n");
        let first = id(None, &message, Some("s@example.net"), ("a@example.test", None));
        assert!(first.is_some());
        assert_eq!(first, id(None, &message, Some("s@example.net"), ("A@example.test", None)));
        // A Return-Path is not kept, so it is no difference.
        let returned = format!("Return-Path: <s@example.net>\r\n{message}");
        assert_eq!(first, id(None, &returned, Some("s@example.net"), ("a@example.test", None)));
        let others = [
            id(None, &message.replace("X1", "X2"), Some("s@example.net"), ("a@example.test", None)),
            id(None, &message.replace("text", "next"), Some("s@example.net"), ("a@example.test", None)),
            id(None, &message, None, ("a@example.test", None)),
            id(None, &message, Some("t@example.net"), ("a@example.test", None)),
            id(None, &message, Some("s@example.net"), ("b@example.test", None)),
            id(None, &message, Some("s@example.net"), ("a@example.test", Some(""))),
            id(None, &message, Some("s@example.net"), ("a@example.test", Some("x"))),
            id(Some("X1"), &message, Some("s@example.net"), ("a@example.test", None)),
            id(Some("X2"), &message, Some("s@example.net"), ("a@example.test", None)),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(other.is_some() && *other != first && !others[..at].contains(other), "{at}");
        }
        let without = message.replace(RECEIVED, "");
        assert_eq!(id(None, &without, None, ("a@example.test", None)), None);
        assert!(id(Some("X1"), &without, None, ("a@example.test", None)).is_some());
    }

    #[test]
    fn ids_stay_what_they_are_for_those_that_are_stored() {
        let first = id(Some("4X"), "Subject: a\r\n\r\n", None, ("a@example.test", None));
        assert_eq!(first.expect("an id").to_string(), "3bded7149bdb5979a5ade281");
    }
}
