//! A user's own limits, in the extra fields of a passwd-file, as Dovecot writes them.
//!
//! Of 2.3: `userdb_quota_rule=*:storage=1G:messages=1000`, `*:bytes=1073741824`, `*:ignore`. A size without a unit is of kilobytes there. Rules
//! for single mailboxes (`Trash:storage=+100M`), and of other roots, mean nothing here. Of 2.4: `userdb_quota_storage_size=1G`,
//! `userdb_quota_message_count`, `userdb_quota_mailbox_count`; a size without a unit is of octets. 0 and `unlimited` are no limit.

use culver_model::Quota;

/// What a user's fields say of the quota; where they say nothing, the configuration does. 0: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaFields {
    pub octets: Option<u64>,
    pub messages: Option<u64>,
    pub mailboxes: Option<u64>,
}

impl QuotaFields {
    /// The limits of a user for whom the configuration says `default`.
    pub fn over(&self, default: Quota) -> Quota {
        let one = |field: Option<u64>, default: Option<u64>| match field {
            None => default,
            Some(0) => None,
            limit => limit,
        };
        Quota {
            octets: one(self.octets, default.octets),
            messages: one(self.messages, default.messages),
            mailboxes: one(self.mailboxes, default.mailboxes),
        }
    }

    /// Takes in an extra field. `Ok`: whether it was one of these. `Err`: what is wrong, and what to do.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "userdb_quota_rule" => self.rule(value).map_err(|what| format!("userdb_quota_rule: {what}"))?,
            "userdb_quota_storage_size" => {
                self.octets = Some(size(value, 1).ok_or_else(|| wrong_size(key, value))?)
            }
            "userdb_quota_message_count" => {
                self.messages = Some(count(value).ok_or_else(|| wrong_count(key, value))?)
            }
            "userdb_quota_mailbox_count" => {
                self.mailboxes = Some(count(value).ok_or_else(|| wrong_count(key, value))?)
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn rule(&mut self, rule: &str) -> Result<(), String> {
        let (mailbox, limits) = rule.split_once(':').ok_or("has no limits; write *:storage=1G")?;
        if mailbox != "*" && mailbox != "?" {
            return Ok(());
        }
        for limit in limits.split(':').filter(|limit| !limit.is_empty()) {
            let (name, value) = limit.split_once('=').unwrap_or((limit, ""));
            match name {
                "storage" => self.octets = Some(size(value, 1024).ok_or_else(|| wrong_size(name, value))?),
                "bytes" => self.octets = Some(size(value, 1).ok_or_else(|| wrong_size(name, value))?),
                "messages" => self.messages = Some(count(value).ok_or_else(|| wrong_count(name, value))?),
                "ignore" => (self.octets, self.messages) = (Some(0), Some(0)),
                _ => {
                    return Err(format!(
                        "has no limit {:?}; write storage=, bytes= or messages=",
                        shown(name)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn wrong_size(name: &str, value: &str) -> String {
    format!(
        "{name}={:?} is no size; write 500M, 2G or 0 for no limit, and no share of another one",
        shown(value)
    )
}

fn wrong_count(name: &str, value: &str) -> String {
    format!("{name}={:?} is no number; write one, or 0 for no limit", shown(value))
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn count(text: &str) -> Option<u64> {
    if text.eq_ignore_ascii_case("unlimited") { Some(0) } else { text.parse().ok() }
}

/// A number with b, k, M, G or T behind it, with or without `B` or `iB` after that, or with the unit `plain`.
fn size(text: &str, plain: u64) -> Option<u64> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Some(0);
    }
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" => plain,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Result<QuotaFields, String> {
        let mut fields = QuotaFields::default();
        pairs.iter().try_for_each(|(key, value)| fields.take(key, value).map(drop))?;
        Ok(fields)
    }

    #[test]
    fn rules_and_sizes_are_read_as_dovecot_reads_them() {
        for (key, value, octets, messages) in [
            ("userdb_quota_rule", "*:storage=1G", Some(1 << 30), None),
            ("userdb_quota_rule", "*:storage=1G:messages=1000", Some(1 << 30), Some(1000)),
            ("userdb_quota_rule", "*:storage=512", Some(512 << 10), None),
            ("userdb_quota_rule", "*:bytes=512", Some(512), None),
            ("userdb_quota_rule", "?:messages=7", None, Some(7)),
            ("userdb_quota_rule", "*:ignore", Some(0), Some(0)),
            ("userdb_quota_rule", "Trash:storage=+100M", None, None),
            ("userdb_quota_storage_size", "1500M", Some(1500 << 20), None),
            ("userdb_quota_storage_size", "2GiB", Some(2 << 30), None),
            ("userdb_quota_storage_size", "512", Some(512), None),
            ("userdb_quota_storage_size", "unlimited", Some(0), None),
            ("userdb_quota_message_count", "12", None, Some(12)),
        ] {
            let expected = QuotaFields { octets, messages, mailboxes: None };
            assert_eq!(fields(&[(key, value)]), Ok(expected), "{key}={value}");
        }
        assert_eq!(QuotaFields::default().take("userdb_quota_rule2", "Trash:x"), Ok(false));
        for (key, value) in [
            ("userdb_quota_rule", "1G"),
            ("userdb_quota_rule", "*:storage=50%"),
            ("userdb_quota_rule", "*:storage=+1G"),
            ("userdb_quota_rule", "*:inodes=5"),
            ("userdb_quota_storage_size", "1X"),
            ("userdb_quota_storage_size", "99999999999T"),
            ("userdb_quota_mailbox_count", "-1"),
        ] {
            let mistake = fields(&[(key, value)]).expect_err(value);
            assert!(mistake.contains("write "), "{mistake}");
        }
    }

    #[test]
    fn what_a_user_does_not_say_the_configuration_does() {
        let default = Quota { octets: Some(10), messages: Some(20), mailboxes: None };
        let own = QuotaFields { octets: Some(0), messages: None, mailboxes: Some(5) };
        let expected = Quota { octets: None, messages: Some(20), mailboxes: Some(5) };
        assert_eq!(own.over(default), expected);
    }
}
