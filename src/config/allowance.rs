//! `[quota]` and `[metadata]`: what an account may have.

use super::reader::{Problems, Section};
use culver_index::annotations::{ENTRIES_MAX, OCTETS_MAX, VALUE_OCTETS_MAX};
use culver_model::{AccountId, EntryName, Quota};
use std::ops::RangeInclusive;

/// RFC 5464 §4.1: a value of 1024 octets, and 10 entries, are taken at least.
const VALUES: RangeInclusive<u64> = 1024..=VALUE_OCTETS_MAX as u64;
const ENTRIES: RangeInclusive<i64> = 10..=ENTRIES_MAX as i64;
const ACCOUNTS: RangeInclusive<u64> = 64 << 10..=OCTETS_MAX as u64;

/// Below a message nobody could receive anything.
const STORAGES: RangeInclusive<u64> = 1024..=1 << 60;
const GRACES: RangeInclusive<u64> = 1..=1 << 40;
const COUNTS: RangeInclusive<i64> = 0..=1 << 40;

/// What an account may hold, where neither its user's fields nor an administrator say otherwise.
#[derive(Clone, Debug)]
pub struct QuotaConfig {
    pub quota: Quota,
    /// Octets by which the last message may pass the limit.
    pub grace: u64,
    /// Who may set the quota of others, with SETQUOTA.
    pub admins: Vec<AccountId>,
}

impl Default for QuotaConfig {
    fn default() -> QuotaConfig {
        QuotaConfig { quota: Quota::default(), grace: 10 << 20, admins: Vec::new() }
    }
}

impl QuotaConfig {
    pub fn parse(section: &mut Section, problems: &mut Problems) -> QuotaConfig {
        let mut config = QuotaConfig::default();
        let limit = |value: u64| Some(value).filter(|value| *value > 0);
        if let Some(octets) = section.octets_or_off_within("storage", STORAGES, problems) {
            config.quota.octets = limit(octets);
        }
        section.number("messages", COUNTS, problems, |value| config.quota.messages = limit(value as u64));
        section.number("mailboxes", COUNTS, problems, |value| config.quota.mailboxes = limit(value as u64));
        if let Some(octets) = section.octets_or_off_within("grace", GRACES, problems) {
            config.grace = octets;
        }
        for (name, line) in section.texts_at("admins", problems).unwrap_or_default() {
            match AccountId::parse(&name) {
                Ok(account) => config.admins.push(account),
                Err(error) => {
                    let remedy = "write a name such as \"postmaster@example.net\"";
                    problems.at(line, "quota.admins", &format!("{name:?}: {error}"), remedy);
                }
            }
        }
        config
    }
}

#[derive(Clone, Debug)]
pub struct MetadataConfig {
    /// What all users may read of the server, by name: `/shared/admin` and `/shared/comment`.
    pub server: Vec<(EntryName, String)>,
    pub value_octets_max: usize,
    /// Of one mailbox, and of the server.
    pub entries_max: usize,
    /// Names and values of an account.
    pub octets_max: usize,
}

impl Default for MetadataConfig {
    fn default() -> MetadataConfig {
        MetadataConfig {
            server: Vec::new(),
            value_octets_max: 64 << 10,
            entries_max: 100,
            octets_max: 1 << 20,
        }
    }
}

impl MetadataConfig {
    pub fn parse(section: &mut Section, problems: &mut Problems) -> MetadataConfig {
        let mut config = MetadataConfig::default();
        let mut server = |key: &str, value: String| {
            let name =
                EntryName::parse(format!("/shared/{key}").as_bytes()).expect("a name of RFC 5464 §3.2.1.1");
            config.server.push((name, value));
        };
        if let Some((value, line)) = section.text_at("admin", problems) {
            if is_uri(&value) {
                server("admin", value);
            } else {
                // RFC 5464 §3.2.1.1.
                let remedy = "write a URI such as \"mailto:postmaster@example.net\"";
                problems.at(line, "metadata.admin", &format!("{value:?} is not a URI"), remedy);
            }
        }
        if let Some((value, line)) = section.text_at("comment", problems) {
            if value.contains('\0') || value.len() > *VALUES.start() as usize {
                let what = "has a NUL, or more than 1024 octets";
                problems.at(line, "metadata.comment", what, "write a sentence or two");
            } else {
                server("comment", value);
            }
        }
        section.octets_within("value_octets_max", VALUES, problems, |value| {
            config.value_octets_max = value as usize;
        });
        section.number("entries_max", ENTRIES, problems, |value| config.entries_max = value as usize);
        section.octets_within("octets_max", ACCOUNTS, problems, |value| config.octets_max = value as usize);
        config
    }
}

/// RFC 3986 §3: a scheme, a colon, and something.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(letter)
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic())
}
