//! The directory: all users, by canonical account id.
//!
//! # Invariants
//! A directory is never changed once it serves; a reload makes a new one. A wrong name, a wrong password and a wrong
//! network all give `Fail` after the same work, so that answers do not tell which names exist.
//!
//! # Cost
//! A look-up is one hash of the name. About 300 octets for a user without extra fields.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use culver_model::AccountId;

use crate::quota::QuotaFields;
use crate::scheme::{Scheme, SchemeError, Stored, verify};

/// What a login gives to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub account: AccountId,
    /// The home of a passwd-file: kept for those who bring one along; nothing is stored there.
    pub home: Option<Box<str>>,
    /// Extra fields, in their order: `userdb_quota_rule` and the like. A field without a value has "".
    pub fields: Vec<(Box<str>, Box<str>)>,
}

impl User {
    /// The value of the first extra field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }
}

/// A user, and how it may log in.
#[derive(Clone, Debug)]
pub struct Entry {
    pub user: User,
    /// `None`: no password fits; mail is delivered all the same.
    pub stored: Option<Stored>,
    /// May not log in even with the right password (`nologin`).
    pub disabled: bool,
    /// Where it may log in from; empty is everywhere.
    pub allow_nets: Vec<Network>,
    /// Where its fields say something of it.
    pub quota: Option<Box<QuotaFields>>,
}

impl Entry {
    /// A user with nothing but a password, as in a configuration.
    pub fn fixed(account: AccountId, stored: Stored) -> Entry {
        let user = User { account, home: None, fields: Vec::new() };
        Entry { user, stored: Some(stored), disabled: false, allow_nets: Vec::new(), quota: None }
    }

    fn allows(&self, peer: Option<IpAddr>) -> bool {
        self.allow_nets.is_empty() || self.allow_nets.iter().any(|network| network.contains(peer))
    }
}

/// A network of `allow_nets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Clients without an address: `local`.
    Local,
    V4 {
        network: u32,
        bits: u8,
    },
    V6 {
        network: u128,
        bits: u8,
    },
}

impl Network {
    /// Parses `192.0.2.0/24`, `2001:db8::/32`, an address alone, or `local`.
    pub fn parse(text: &str) -> Option<Network> {
        if text == "local" {
            return Some(Network::Local);
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        match address.parse().ok()? {
            IpAddr::V4(address) => {
                let bits = bits.unwrap_or(32);
                (bits <= 32).then(|| Network::V4 { network: address.to_bits() & mask(bits, 32) as u32, bits })
            }
            IpAddr::V6(address) => {
                let bits = bits.unwrap_or(128);
                (bits <= 128).then(|| Network::V6 { network: address.to_bits() & mask(bits, 128), bits })
            }
        }
    }

    /// Whether that client is in it. `None` is a client without an address.
    pub fn contains(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer.map(|peer| peer.to_canonical())) {
            (Network::Local, None) => true,
            (Network::V4 { network, bits }, Some(IpAddr::V4(peer))) => {
                peer.to_bits() & mask(*bits, 32) as u32 == *network
            }
            (Network::V6 { network, bits }, Some(IpAddr::V6(peer))) => {
                peer.to_bits() & mask(*bits, 128) == *network
            }
            _ => false,
        }
    }
}

fn mask(bits: u8, width: u8) -> u128 {
    let host = width.saturating_sub(bits);
    u128::MAX.checked_shl(u32::from(host)).unwrap_or(0)
}

/// The account is there already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("account {0} exists already")]
pub struct Duplicate(pub AccountId);

/// All users.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    entries: HashMap<AccountId, Arc<Entry>>,
    decoy: Option<Stored>,
}

impl Directory {
    pub fn new() -> Directory {
        Directory::default()
    }

    /// Adds a user; the first of a name stays.
    pub fn insert(&mut self, entry: Entry) -> Result<(), Duplicate> {
        let account = entry.user.account.clone();
        if self.entries.contains_key(&account) {
            return Err(Duplicate(account));
        }
        // The most expensive scheme in use is the one that an unknown name must cost as much as.
        if let Some(stored) = &entry.stored
            && self.decoy.as_ref().is_none_or(|decoy| weight(stored.scheme()) > weight(decoy.scheme()))
        {
            self.decoy = Some(stored.clone());
        }
        self.entries.insert(account, Arc::new(entry));
        Ok(())
    }

    /// The user of that account, for delivery and for whoever is logged in already.
    pub fn find(&self, account: &AccountId) -> Option<&Arc<Entry>> {
        self.entries.get(account)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The accounts, in no order.
    pub fn accounts(&self) -> impl Iterator<Item = &AccountId> {
        self.entries.keys()
    }

    /// Begins a login: `name` as the client sent it, `peer` its address if it has one.
    pub fn check(&self, name: &str, peer: Option<IpAddr>) -> Check {
        let entry = AccountId::parse(name).ok().and_then(|account| self.entries.get(&account)).cloned();
        let decoy = if entry.as_ref().is_some_and(|entry| entry.stored.is_some()) {
            None
        } else {
            self.decoy.clone()
        };
        let allowed = entry.as_ref().is_some_and(|entry| entry.allows(peer));
        Check { entry, decoy, allowed }
    }
}

fn weight(scheme: Scheme) -> u8 {
    match scheme {
        Scheme::Plain | Scheme::Ssha512 => 0,
        Scheme::ScramSha256 => 1,
        Scheme::Sha512Crypt => 2,
        Scheme::Argon2id => 3,
        Scheme::BlfCrypt => 4,
    }
}

/// How a login ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    Ok(Arc<Entry>),
    /// Unknown name, wrong password, or not from there: IMAP's AUTHENTICATIONFAILED. The client's user must act.
    Fail,
    /// The password was right, but the account may not log in.
    Disabled,
    /// It could not be found out, or too much waits to be hashed: IMAP's UNAVAILABLE. Time must act.
    Unavailable,
}

impl Outcome {
    pub fn is_ok(&self) -> bool {
        matches!(self, Outcome::Ok(_))
    }
}

/// A login whose name is looked up and whose password is not yet checked. It may be sent to the annex.
#[derive(Clone, Debug)]
pub struct Check {
    entry: Option<Arc<Entry>>,
    decoy: Option<Stored>,
    allowed: bool,
}

impl Check {
    /// The account, if there is one: the key of the authentication cache. Unknown names have no place there.
    pub fn account(&self) -> Option<&AccountId> {
        self.entry.as_ref().map(|entry| &entry.user.account)
    }

    /// Hashes the password. Blocks as long as the scheme costs, for unknown names too: run it on the annex.
    pub fn run(&self, password: &[u8]) -> Result<bool, SchemeError> {
        match (self.entry.as_ref().and_then(|entry| entry.stored.as_ref()), &self.decoy) {
            (Some(stored), _) => verify(stored, password),
            (None, Some(decoy)) => verify(decoy, password).map(|_| false),
            (None, None) => Ok(false),
        }
    }

    /// What the login comes to, given what [`run`](Check::run) or the cache said of the password.
    pub fn outcome(self, right: Result<bool, SchemeError>) -> Outcome {
        match (self.entry, right) {
            (_, Err(_)) => Outcome::Unavailable,
            (Some(entry), Ok(true)) if self.allowed && entry.stored.is_some() => {
                if entry.disabled {
                    Outcome::Disabled
                } else {
                    Outcome::Ok(entry)
                }
            }
            _ => Outcome::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).expect("an account")
    }

    fn directory() -> Directory {
        let mut directory = Directory::new();
        let entry = |name: &str| Entry::fixed(account(name), Stored::plain(b"secret"));
        let office = Network::parse("192.0.2.0/24").expect("a network");
        for entry in [
            entry("bob@example.test"),
            Entry { disabled: true, ..entry("old@example.test") },
            Entry { stored: None, ..entry("list@example.test") },
            Entry { allow_nets: vec![office, Network::Local], ..entry("office@example.test") },
        ] {
            directory.insert(entry).expect("new");
        }
        directory
    }

    fn login(name: &str, password: &str, peer: Option<&str>) -> &'static str {
        let check = directory().check(name, peer.map(|peer| peer.parse().expect("an address")));
        let right = check.run(password.as_bytes());
        match check.outcome(right) {
            Outcome::Ok(_) => "ok",
            Outcome::Fail => "fail",
            Outcome::Disabled => "disabled",
            Outcome::Unavailable => "unavailable",
        }
    }

    #[test]
    fn logins_come_to_what_the_entry_says() {
        for (name, password, peer, outcome) in [
            ("bob@example.test", "secret", Some("203.0.113.1"), "ok"),
            ("BOB@Example.Test", "secret", None, "ok"),
            ("bob@example.test", "Secret", None, "fail"),
            ("bob@example.test", "", None, "fail"),
            ("eve@example.test", "secret", None, "fail"),
            ("", "secret", None, "fail"),
            ("../bob@example.test", "secret", None, "fail"),
            ("old@example.test", "secret", None, "disabled"),
            ("old@example.test", "wrong", None, "fail"),
            ("list@example.test", "secret", None, "fail"),
            ("office@example.test", "secret", Some("192.0.2.77"), "ok"),
            ("office@example.test", "secret", Some("::ffff:192.0.2.77"), "ok"),
            ("office@example.test", "secret", Some("192.0.3.1"), "fail"),
            ("office@example.test", "secret", Some("2001:db8::1"), "fail"),
            ("office@example.test", "secret", None, "ok"),
        ] {
            assert_eq!(login(name, password, peer), outcome, "{name} {password} {peer:?}");
        }
    }

    #[test]
    fn a_check_that_cannot_be_made_is_unavailable_and_never_a_wrong_password() {
        let check = directory().check("bob@example.test", None);
        assert!(matches!(check.outcome(Err(SchemeError::Resources)), Outcome::Unavailable));
    }

    #[test]
    fn an_unknown_name_costs_what_a_known_one_costs() {
        let mut directory = directory();
        let costly = Stored::parse(
            "$6$rounds=1400$anotherlongsalts$SAu0xGXppllhPD9yNR32OgiJVhVXUbqF.y4UgOGG7d/nFYCFpaB43f5cW0d.q2OdGqPxRgXYYRc0Cg4uiz4PD/",
        );
        let costly = costly.expect("well formed").expect("not locked");
        directory.insert(Entry::fixed(account("costly@x"), costly)).expect("new");
        let check = directory.check("nobody@x", None);
        assert_eq!(check.decoy.as_ref().map(Stored::scheme), Some(Scheme::Sha512Crypt));
        assert_eq!(check.account(), None);
        let right = check.run(b"a short string");
        assert_eq!(right, Ok(false));
        assert!(matches!(check.outcome(Ok(true)), Outcome::Fail));
    }

    #[test]
    fn the_first_of_a_name_stays() {
        let mut directory = directory();
        let again = Entry::fixed(account("BOB@example.test"), Stored::plain(b"other"));
        assert_eq!(directory.insert(again), Err(Duplicate(account("bob@example.test"))));
        assert_eq!((directory.len(), directory.accounts().count()), (4, 4));
        assert!(directory.find(&account("list@example.test")).is_some());
    }

    #[test]
    fn networks_hold_what_is_in_them() {
        for (network, peer, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/33", "2001:db8:ffff::1", false),
            ("::/0", "2001:db8::1", true),
            ("::1", "::1", true),
        ] {
            let parsed = Network::parse(network).expect(network);
            assert_eq!(parsed.contains(peer.parse().ok()), inside, "{network} {peer}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "host", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        assert!(!format!("{:?}", directory()).contains("secret"));
    }
}
