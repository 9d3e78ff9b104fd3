//! The directory: all users, by canonical account id.
//!
//! # Invariants
//! A directory is never changed once it serves; a reload makes a new one. A wrong name, a wrong password and a wrong
//! network all give `Fail` after the same work, so that answers do not tell which names exist.
//!
//! # Cost
//! A look-up is one hash of the name. About 300 octets for a user without extra fields.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use culver_model::AccountId;

use crate::quota::QuotaFields;
use crate::scheme::{Scheme, SchemeError, ScramHash, ScramKeys, ScramSalts, Stored, verify};
use crate::secret::Secret;

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
    scram: Scram,
}

/// What is known of all users together that matters to SCRAM.
#[derive(Clone, Debug, Default)]
struct Scram {
    passwords: usize,
    /// Of them, those that are stored as they are.
    plain: usize,
    /// For each hash, how many have which iterations and octets of salt.
    shapes: [BTreeMap<(u32, usize), usize>; 2],
}

impl Scram {
    fn add(&mut self, stored: &Stored) {
        self.passwords += 1;
        if let Some(keys) = stored.scram() {
            *self.shapes[keys.hash as usize]
                .entry((keys.iterations, keys.salt.expose().len()))
                .or_default() += 1;
        }
        self.plain += usize::from(stored.plain_text().is_some());
    }

    /// What most users have.
    fn shape(&self, hash: ScramHash) -> (u32, usize) {
        let most = self.shapes[hash as usize].iter().max_by_key(|(_, users)| **users);
        most.filter(|(_, users)| **users > self.plain).map_or(DERIVED, |(shape, _)| *shape)
    }
}

/// Iterations and octets of salt where keys are made from the password.
const DERIVED: (u32, usize) = (crate::scheme::SCRAM_DERIVED_ITERATIONS, crate::scheme::SCRAM_SALT_OCTETS);

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
        if let Some(stored) = &entry.stored {
            self.scram.add(stored);
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

    /// Whether every user who has a password can use SCRAM with this hash.
    pub fn all_can_scram(&self, hash: ScramHash) -> bool {
        let stored: usize = self.scram.shapes[hash as usize].values().sum();
        self.scram.passwords > 0 && stored + self.scram.plain == self.scram.passwords
    }

    /// Begins a login by SCRAM: `name` as the client sent it.
    pub fn scram(&self, name: &str, hash: ScramHash, salts: &ScramSalts) -> ScramCheck {
        let account = AccountId::parse(name).ok();
        let stored = account.as_ref().and_then(|account| self.entries.get(account)?.stored.as_ref());
        // Names that cannot be an account's are told apart as far as they would be, were they one's.
        let name =
            account.as_ref().map_or_else(|| name.to_lowercase(), |account| account.as_str().to_owned());
        let known = stored.and_then(Stored::scram).filter(|keys| keys.hash == hash);
        let (found, derived) = match (known, stored.and_then(Stored::plain_text)) {
            (Some(keys), _) => (Found::Keys(keys.clone()), None),
            (None, Some(password)) => {
                (Found::Password(password.clone()), Some(salts.salt(hash, &name, DERIVED.1)))
            }
            (None, None) => {
                let (iterations, octets) = self.scram.shape(hash);
                let salt = salts.salt(hash, &name, octets);
                (Found::Keys(salts.unknown(hash, &name, salt, iterations)), None)
            }
        };
        // Where one name costs a derivation, all do.
        let salt = derived.or_else(|| (self.scram.plain > 0).then(|| vec![0; DERIVED.1]));
        ScramCheck { hash, found, salt }
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
        Scheme::ScramSha1 | Scheme::ScramSha256 => 1,
        Scheme::Sha512Crypt => 2,
        Scheme::Argon2id => 3,
        Scheme::BlfCrypt => 4,
    }
}

/// A login by SCRAM whose name is looked up. It may be sent to the annex.
#[derive(Clone, Debug)]
pub struct ScramCheck {
    hash: ScramHash,
    found: Found,
    /// There is a derivation to be made.
    salt: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Found {
    Keys(ScramKeys),
    Password(Secret),
}

impl ScramCheck {
    /// Whether [`run`](ScramCheck::run) blocks.
    pub fn blocks(&self) -> bool {
        self.salt.is_some()
    }

    /// The user's keys, or where there is none, keys that nobody can prove.
    pub fn run(self) -> ScramKeys {
        let derive = |password: &[u8]| {
            self.salt.as_ref().map(|salt| ScramKeys::derive(self.hash, password, salt, DERIVED.0))
        };
        match &self.found {
            Found::Keys(keys) => {
                std::hint::black_box(derive(b""));
                keys.clone()
            }
            Found::Password(password) => derive(password.expose()).expect("a password has a salt"),
        }
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
        match right {
            Err(_) => Outcome::Unavailable,
            Ok(true) if self.entry.as_ref().is_some_and(|entry| entry.stored.is_some()) => self.vouched(),
            Ok(_) => Outcome::Fail,
        }
    }

    /// The same where a token or a certificate has proved who it is: the user needs no password then.
    pub fn vouched(self) -> Outcome {
        match self.entry {
            Some(entry) if self.allowed && entry.disabled => Outcome::Disabled,
            Some(entry) if self.allowed => Outcome::Ok(entry),
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
    fn a_token_needs_no_password_but_all_else() {
        for (name, peer, expected) in [
            ("bob@example.test", None, "ok"),
            ("list@example.test", None, "ok"),
            ("old@example.test", None, "disabled"),
            ("eve@example.test", None, "fail"),
            ("office@example.test", Some("192.0.3.1"), "fail"),
        ] {
            let check = directory().check(name, peer.map(|peer: &str| peer.parse().expect("an address")));
            let outcome = match check.vouched() {
                Outcome::Ok(_) => "ok",
                Outcome::Fail => "fail",
                Outcome::Disabled => "disabled",
                Outcome::Unavailable => "unavailable",
            };
            assert_eq!(outcome, expected, "{name}");
        }
    }

    /// RFC 5803 keys of `pencil`, in Dovecot's order.
    const STORED: &str = "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn stored(text: &str) -> Stored {
        Stored::parse(text).expect("well formed").expect("not locked")
    }

    #[test]
    fn scram_has_the_keys_of_who_can_use_it() {
        use ScramHash::{Sha1, Sha256};
        let salts = ScramSalts::new(b"secret");
        let mut directory = directory();
        directory.insert(Entry::fixed(account("keys@x"), stored(STORED))).expect("new");
        let keys = |name: &str, hash| directory.scram(name, hash, &salts).run();
        let known = keys("KEYS@x", Sha256);
        assert_eq!(format!("{{SCRAM-SHA-256}}{}", known.stored()), STORED);
        for hash in [Sha1, Sha256] {
            let derived = keys("Bob@example.test", hash);
            let again = ScramKeys::derive(hash, b"secret", derived.salt.expose(), 4096);
            assert_eq!(derived.stored(), again.stored());
            assert_eq!(derived.stored(), keys("bob@example.test", hash).stored());
            assert_ne!(derived.salt.expose(), keys("old@example.test", hash).salt.expose());
        }
        // Of a mechanism that the stored form cannot do, there are none.
        let none = keys("keys@x", Sha1);
        let derived = ScramKeys::derive(Sha1, b"pencil", none.salt.expose(), none.iterations);
        assert_ne!(none.stored(), derived.stored());
    }

    #[test]
    fn an_unknown_name_looks_like_a_known_one() {
        let salts = ScramSalts::new(b"secret");
        let shape = |keys: &ScramKeys| (keys.hash, keys.iterations, keys.salt.expose().len());
        let mut directory = directory();
        let unknown =
            |directory: &Directory, name: &str| directory.scram(name, ScramHash::Sha256, &salts).run();
        let (bob, eve) = (unknown(&directory, "bob@example.test"), unknown(&directory, "eve@example.test"));
        assert_eq!(shape(&bob), shape(&eve));
        assert_eq!(eve.stored(), unknown(&directory, "EVE@example.test").stored(), "the same each time");
        assert_ne!(eve.stored(), unknown(&directory, "eva@example.test").stored());
        assert_eq!(unknown(&directory, "../x").stored(), unknown(&directory, "../X").stored());
        assert!(directory.scram("eve@example.test", ScramHash::Sha256, &salts).blocks(), "as bob's does");
        // Most have stored keys of another shape.
        for n in 0..9 {
            let more = STORED.replace("4096,W22ZaJ0SNY7soEsUEjb6gQ==", "5000,c2FsdHNhbHRzYWx0");
            directory.insert(Entry::fixed(account(&format!("k{n}@x")), stored(&more))).expect("new");
        }
        assert_eq!(shape(&unknown(&directory, "k0@x")), shape(&unknown(&directory, "k99@x")));
        let other = ScramSalts::new(b"other");
        assert_ne!(
            directory.scram("k99@x", ScramHash::Sha256, &other).run().salt.expose(),
            eve.salt.expose()
        );
    }

    #[test]
    fn scram_is_for_all_or_it_is_not_for_all() {
        use ScramHash::{Sha1, Sha256};
        let mut directory = directory();
        assert!(directory.all_can_scram(Sha1) && directory.all_can_scram(Sha256));
        directory.insert(Entry::fixed(account("keys@x"), stored(STORED))).expect("new");
        assert!(!directory.all_can_scram(Sha1) && directory.all_can_scram(Sha256));
        let hashed = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        directory.insert(Entry::fixed(account("hashed@x"), stored(hashed))).expect("new");
        assert!(!directory.all_can_scram(Sha256));
        assert!(!Directory::new().all_can_scram(Sha256), "of nobody");
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
