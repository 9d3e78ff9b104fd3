//! The passwd-file, in Dovecot's format, so that files can be brought along.
//!
//! `user:password:uid:gid:gecos:home:shell:extra fields`. Everything after the user may be left out. Empty lines and
//! lines that begin with `#` or `:` are passed over. Extra fields are separated by spaces and run to the end of the
//! line, colons included; there is no quoting, in Dovecot neither (a quote there is part of the field), so one that
//! begins with a quote is reported. uid, gid, gecos and shell mean nothing here. As in Dovecot, an empty field where
//! the extra fields begin makes the rest the old form's mail location.
//!
//! Known fields: `nologin`, `allow_nets`, and those of [`crate::quota`]. Other `userdb_*` and unknown ones are kept as they are. Fields that would change
//! who logs in (`user`, `nopassword`, …) are mistakes, not silence.
//!
//! # Limits
//! [`USERS_MAX`] users, [`LINE_OCTETS_MAX`] for a line, [`MISTAKES_MAX`] mistakes told.

use std::collections::HashMap;
use std::fmt;

use culver_model::AccountId;

use crate::directory::{Entry, Network, User};
use crate::quota::QuotaFields;
use crate::scheme::Stored;

/// The most users of a file.
pub const USERS_MAX: usize = 10_000_000;
/// The longest line.
pub const LINE_OCTETS_MAX: usize = 64 * 1024;
/// The most mistakes told of one file.
pub const MISTAKES_MAX: usize = 1000;

/// Extra fields that Dovecot acts upon in a way that this server does not.
const REFUSED_FIELDS: [&str; 6] = ["user", "login_user", "nopassword", "master", "password", "pass"];

/// One mistake in a file. A person must act. Never holds a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistake {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// What a file holds: the users of its good lines, and the mistakes of the others.
#[derive(Clone, Debug, Default)]
pub struct PasswdFile {
    /// In the order of the file, each account once.
    pub entries: Vec<Entry>,
    pub mistakes: Vec<Mistake>,
}

impl PasswdFile {
    /// Parses the octets of a file; `file` is its name in mistakes. A caller that finds mistakes at a reload keeps what
    /// it has; at a start it tells them all and stops.
    pub fn parse(file: &str, octets: &[u8]) -> PasswdFile {
        let mut parsed = PasswdFile::default();
        let mut lines_of: HashMap<AccountId, usize> = HashMap::new();
        for (index, line) in octets.split(|&b| b == b'\n').enumerate() {
            let number = index + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if matches!(line.first(), None | Some(b'#' | b':')) {
                continue;
            }
            let result = entry(line).and_then(|entry| {
                if parsed.entries.len() >= USERS_MAX {
                    return Err(format!("more than {USERS_MAX} users; split the file"));
                }
                let account = &entry.user.account;
                match lines_of.insert(account.clone(), number) {
                    Some(earlier) => Err(format!("{account} stands in line {earlier} too; remove one")),
                    None => Ok(entry),
                }
            });
            match result {
                Ok(entry) => parsed.entries.push(entry),
                Err(what) if parsed.mistakes.len() < MISTAKES_MAX => {
                    parsed.mistakes.push(Mistake { file: file.to_owned(), line: number, what });
                }
                Err(_) => {}
            }
        }
        parsed
    }
}

fn entry(line: &[u8]) -> Result<Entry, String> {
    if line.len() > LINE_OCTETS_MAX {
        return Err(format!("line of more than {LINE_OCTETS_MAX} octets"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8; convert the file".to_owned())?;
    let mut columns = line.splitn(8, ':');
    let name = columns.next().unwrap_or_default();
    let account = AccountId::parse(name)
        .map_err(|error| format!("user {:?}: {error}; give another name", shown(name)))?;
    let of = |what: String| format!("user {account}: {what}");
    let stored = match columns.next() {
        // Without a password: mail is delivered, nobody logs in.
        None | Some("") => None,
        Some(text) => {
            Stored::parse(text).map_err(|error| of(format!("{error}; store the password again")))?
        }
    };
    let home = columns.nth(3).filter(|home| !home.is_empty()).map(Box::from);
    // The shell.
    columns.next();
    let extra = columns.next().unwrap_or_default();
    let mut entry = Entry {
        user: User { account: account.clone(), home, fields: Vec::new() },
        stored,
        disabled: false,
        allow_nets: Vec::new(),
        quota: None,
    };
    let mut quota = QuotaFields::default();
    if let Some(mail) = extra.strip_prefix(':') {
        if !mail.is_empty() {
            entry.user.fields.push((Box::from("userdb_mail"), Box::from(mail)));
        }
        return Ok(entry);
    }
    for field in extra.split(' ').filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        if key.starts_with('"') || value.starts_with('"') {
            return Err(
                of("extra fields cannot be quoted; leave the quotes away, and spaces too".to_owned()),
            );
        }
        match key {
            // As in Dovecot, the field's presence counts, whatever its value.
            "nologin" => entry.disabled = true,
            "allow_nets" => {
                for network in value.split(',') {
                    let parsed = Network::parse(network.trim()).ok_or_else(|| {
                        of(format!("allow_nets has no network {:?}; write address/bits", shown(network)))
                    })?;
                    entry.allow_nets.push(parsed);
                }
            }
            key if REFUSED_FIELDS.contains(&key) => {
                return Err(of(format!("the extra field {key} is not supported; remove it")));
            }
            _ => {
                quota.take(key, value).map_err(of)?;
            }
        }
        entry.user.fields.push((Box::from(key), Box::from(value)));
    }
    entry.quota = Some(quota).filter(|quota| *quota != QuotaFields::default()).map(Box::new);
    Ok(entry)
}

/// So much of a wrong name as helps to find it.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# users of example.test
bob@example.test:{PLAIN}secret:1000:1000:Bob B.:/home/bob:/bin/sh:userdb_quota_rule=*:storage=1G  nodelay

alice@Example.test:{plain}a b
list@example.test
locked@example.test:!
gone@example.test:{PLAIN}x::::::nologin=no
net@example.test:{PLAIN}x::::::allow_nets=192.0.2.0/24,local,::1 userdb_x=1
old@example.test:{PLAIN}x:1:1:::::maildir:/m
:nobody
win@example.test:{PLAIN}x::::::userdb_w=1\r
";

    fn find<'a>(parsed: &'a PasswdFile, name: &str) -> &'a Entry {
        parsed.entries.iter().find(|entry| entry.user.account.as_str() == name).expect(name)
    }

    #[test]
    fn a_file_is_read_as_dovecot_reads_it() {
        let parsed = PasswdFile::parse("passwd", FILE.as_bytes());
        assert_eq!(parsed.mistakes, []);
        assert_eq!(parsed.entries.len(), 8);
        let bob = find(&parsed, "bob@example.test");
        assert_eq!(bob.user.home.as_deref(), Some("/home/bob"));
        assert_eq!(bob.user.field("userdb_quota_rule"), Some("*:storage=1G"));
        assert_eq!(bob.user.field("nodelay"), Some(""));
        assert_eq!(bob.quota.as_ref().and_then(|quota| quota.octets), Some(1 << 30));
        assert!(!bob.disabled && bob.allow_nets.is_empty());
        let alice = find(&parsed, "alice@example.test");
        assert_eq!(crate::verify(alice.stored.as_ref().expect("a password"), b"a b"), Ok(true));
        assert!(find(&parsed, "list@example.test").stored.is_none());
        assert!(find(&parsed, "locked@example.test").stored.is_none());
        assert!(find(&parsed, "gone@example.test").disabled);
        assert_eq!(find(&parsed, "net@example.test").allow_nets.len(), 3);
        assert_eq!(find(&parsed, "net@example.test").user.field("userdb_x"), Some("1"));
        assert_eq!(find(&parsed, "old@example.test").user.field("userdb_mail"), Some("maildir:/m"));
        assert_eq!(find(&parsed, "win@example.test").user.field("userdb_w"), Some("1"));
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines_and_good_lines_are_kept() {
        let file = "a@x:{PLAIN}p\n\
                    b@x:{MD5}p\n\
                    A@X:{PLAIN}q\n\
                    c/d:{PLAIN}p\n\
                    e@x:plainword\n\
                    f@x:{PLAIN}p::::::allow_nets=10.0.0.0/33\n\
                    g@x:{PLAIN}p::::::nopassword\n\
                    h@x:{PLAIN}p::::::userdb_x=\"a b\"\n\
                    i@x:$6$broken\n\
                    j@x:$1$salt$hash\n \
                    k@x:{PLAIN}p\n\
                    m@x:{PLAIN}p::::::userdb_quota_rule=*:storage=half\n\
                    l@x:{PLAIN}p\n";
        let parsed = PasswdFile::parse("etc/passwd", file.as_bytes());
        let lines: Vec<_> = parsed.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(
            parsed.mistakes[0]
                .to_string()
                .starts_with("etc/passwd:2: user b@x: unknown password scheme \"MD5\"")
        );
        assert_eq!(parsed.mistakes[1].what, "a@x stands in line 1 too; remove one");
        let names: Vec<_> = parsed.entries.iter().map(|entry| entry.user.account.as_str()).collect();
        assert_eq!(names, ["a@x", "l@x"]);
    }

    #[test]
    fn no_mistake_shows_a_password() {
        for secret in
            ["{MD5}tanstaaf", "{SSHA512}tanstaaf", "{PLAIN.hex}tanstaaf", "tanstaaf", "{ARGON2ID}tanstaaf"]
        {
            let parsed = PasswdFile::parse("f", format!("a@x:{secret}\n").as_bytes());
            assert_eq!(parsed.mistakes.len(), 1, "{secret}");
            assert!(!parsed.mistakes[0].to_string().contains("tanstaaf"), "{}", parsed.mistakes[0]);
        }
    }

    #[test]
    fn garbage_is_a_mistake_and_never_a_panic() {
        let long = format!("a@x:{{PLAIN}}{}\n", "p".repeat(LINE_OCTETS_MAX));
        for octets in
            [&b"\xff\xfe:x\n"[..], b"a\0b:x", b"{:{:{", b"a:{", b"a:{}", b"a:{}x", b"a:{.}x", long.as_bytes()]
        {
            let parsed = PasswdFile::parse("f", octets);
            assert_eq!((parsed.mistakes.len(), parsed.entries.len()), (1, 0), "{}", octets.escape_ascii());
        }
        let many = "/\n".repeat(5000);
        assert_eq!(PasswdFile::parse("f", many.as_bytes()).mistakes.len(), MISTAKES_MAX);
    }
}
