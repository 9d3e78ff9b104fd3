//! Dovecot 2.3 under comparison: Debian 12's packages, as shipped and at its best.
//!
//! # Invariants
//! Both configurations answer only for what is on disk (`mail_fsync = always`), as Culver does, check the same stored
//! passwords and have no limit that a work could meet: what differs between them is what an operator tunes.
//!
//! # Limits
//! Dovecot must be started by root: its services run under users of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::server::{Durability, Kind, Ports, Site, run};

const PROGRAM: &str = "/usr/sbin/dovecot";
const PACKAGES: [&str; 3] = ["dovecot-imapd", "dovecot-lmtpd", "dovecot-pop3d"];
/// Debian's way to say that a package's service is not to be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// What the kernel grants a user of watches on files, and what ten thousand sessions take: without a watch Dovecot parks no
/// session in IDLE and looks for new mail twice a minute. Its makers tell operators to raise both.
const INOTIFY: [(&str, u64); 2] =
    [("/proc/sys/fs/inotify/max_user_instances", 20_000), ("/proc/sys/fs/inotify/max_user_watches", 200_000)];
/// Owner of the mail; it needs no entry in the system's list of users.
const MAIL_ID: u32 = 5000;

/// Installs Dovecot where it is missing, without starting its service, and returns its version.
pub fn install() -> Result<String> {
    if !Path::new(PROGRAM).exists() {
        ensure!(is_root(), "Dovecot is not installed: {}", install_by_hand());
        println!("installing {}", PACKAGES.join(" "));
        let held_back = !Path::new(POLICY).exists();
        if held_back {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        let installed = apt(&["update", "-q"]).and_then(|()| {
            apt(&[&["install", "-q", "-y", "--no-install-recommends"][..], &PACKAGES].concat())
        });
        if held_back {
            fs::remove_file(POLICY)?;
        }
        installed?;
    }
    ensure!(is_root(), "Dovecot's services need root: run this as root, or with --server culver");
    let version = run(Command::new(PROGRAM).arg("--version"))?.trim().to_owned();
    if !version.starts_with("2.3.") {
        println!("note: this is Dovecot {version}; the targets stand for 2.3 of Debian 12");
    }
    Ok(version)
}

/// Kernel settings raised for as long as this lives.
pub struct Raised(Vec<(&'static str, String)>);

pub fn raise_inotify() -> Result<Raised> {
    let mut raised = Raised(Vec::new());
    for (path, wanted) in INOTIFY {
        let held = fs::read_to_string(path).with_context(|| path.to_owned())?;
        if held.trim().parse::<u64>().is_ok_and(|held| held < wanted) {
            fs::write(path, wanted.to_string())
                .with_context(|| format!("{path} is {}: raise it to {wanted}", held.trim()))?;
            raised.0.push((path, held));
        }
    }
    Ok(raised)
}

impl Drop for Raised {
    fn drop(&mut self) {
        for (path, held) in &self.0 {
            if let Err(error) = fs::write(path, held) {
                eprintln!("{path} could not be set back to {}: {error}", held.trim());
            }
        }
    }
}

fn install_by_hand() -> String {
    format!("run `apt-get install {}` as root", PACKAGES.join(" "))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut command).map(drop).with_context(install_by_hand)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes the configuration; the program and its arguments, and the directory of its sockets, which goes with it.
pub fn command(
    kind: Kind,
    site: &Site,
    dir: &Path,
    ports: Ports,
    durability: Durability,
) -> Result<(Vec<String>, PathBuf)> {
    let mail = dir.join("mail");
    fs::create_dir_all(&mail)?;
    chown(&mail, Some(MAIL_ID), Some(MAIL_ID))?;
    reachable(&mail)?;
    // Names of sockets may have 108 octets, which a directory of a run may well exceed.
    let base = std::env::temp_dir().join(format!("culver-compare-{}", ports.imap));
    fs::create_dir_all(&base)?;
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755))?;
    let file = dir.join("dovecot.conf");
    fs::write(&file, configuration(kind, site, &Places { mail: &mail, base: &base }, ports, durability))?;
    let words = [PROGRAM, "-F", "-c", &file.display().to_string()].map(str::to_owned).to_vec();
    Ok((words, base))
}

/// Mail processes give up root, so every directory above the mail must let others pass.
fn reachable(mail: &Path) -> Result<()> {
    for above in mail.ancestors().skip(1) {
        let mode = fs::metadata(above)?.permissions().mode();
        if mode & 0o001 == 0 {
            bail!("{} lets nobody else pass: choose another --dir, or `chmod o+x` it", above.display());
        }
    }
    Ok(())
}

pub struct Places<'a> {
    mail: &'a Path,
    base: &'a Path,
}

pub fn configuration(
    kind: Kind,
    site: &Site,
    places: &Places,
    ports: Ports,
    durability: Durability,
) -> String {
    let shared = shared(kind, site, places, durability);
    let listeners = |plain: u16, tls: Option<u16>, name: &str| {
        let tls = match tls {
            Some(port) => format!("address = 127.0.0.1\n    port = {port}\n    ssl = yes"),
            None => "port = 0".to_owned(),
        };
        format!(
            "  inet_listener {name} {{\n    address = 127.0.0.1\n    port = {plain}\n  }}\n  \
             inet_listener {name}s {{\n    {tls}\n  }}\n"
        )
    };
    let tuned = if kind == Kind::DovecotDefault { DEFAULT } else { BEST };
    let clients = if kind == Kind::DovecotDense { "100" } else { "1" };
    let services = tuned
        .replace("{imap}", &listeners(ports.imap, Some(ports.imaps), "imap"))
        .replace("{pop3}", &listeners(ports.pop3, None, "pop3"))
        .replace("{lmtp}", &ports.lmtp.to_string())
        .replace("{clients}", clients);
    format!("{shared}\n{services}")
}

fn shared(kind: Kind, site: &Site, places: &Places, durability: Durability) -> String {
    let fsync = match durability {
        Durability::Full => "always",
        Durability::Preparing => "never",
    };
    // Debian ships mbox, which nobody serves with; Maildir is what its own configuration names next to it.
    let format = if kind == Kind::DovecotDefault { "maildir:~/Maildir" } else { "sdbox:~/sdbox" };
    format!(
        "base_dir = {base}\nstate_dir = {base}\nlog_path = /dev/stderr\nprotocols = imap lmtp pop3\n\
         mail_location = {format}\nmail_fsync = {fsync}\n\
         ssl = yes\nssl_cert = <{chain}\nssl_key = <{key}\n\
         disable_plaintext_auth = no\nmail_max_userip_connections = 0\nlogin_trusted_networks = 127.0.0.0/8\n\
         first_valid_uid = {MAIL_ID}\npostmaster_address = postmaster@example.test\nhostname = compare.example.test\n\
         default_client_limit = 19000\ndefault_process_limit = 200\ndefault_vsz_limit = 4 G\n\n\
         passdb {{\n  driver = passwd-file\n  args = username_format=%u {passwd}\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = username_format=%u {passwd}\n  \
         override_fields = uid={MAIL_ID} gid={MAIL_ID} home={mail}/%u\n}}\n\
         namespace inbox {{\n  inbox = yes\n{special}}}\n",
        base = places.base.display(),
        mail = places.mail.display(),
        chain = site.chain.display(),
        key = site.key.display(),
        passwd = site.passwd.display(),
        special = [
            ("Drafts", "Drafts"),
            ("Junk", "Junk"),
            ("Sent", "Sent"),
            ("\"Sent Messages\"", "Sent"),
            ("Trash", "Trash")
        ]
        .map(|(name, attribute)| format!("  mailbox {name} {{\n    special_use = \\{attribute}\n  }}\n"))
        .concat(),
    )
}

/// A login process for each connection, an imap process for each session, no cache of passwords.
const DEFAULT: &str = "\
service imap-login {
{imap}  process_limit = 10000
}
service pop3-login {
{pop3}}
service imap {
  process_limit = 10000
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = {lmtp}
  }
}
";

/// What Dovecot's pages on performance name: login processes that serve many connections, one for the one core;
/// session processes that stay and are used again; IDLE sessions parked in one process, whose socket anybody may open,
/// as the mail's owner has no name that a socket could be given to; passwords cached.
const BEST: &str = "\
auth_cache_size = 64 M
auth_cache_ttl = 1 hour
auth_cache_negative_ttl = 1 hour
imap_hibernate_timeout = 5 s
service imap-login {
{imap}  service_count = 0
  process_min_avail = 1
  process_limit = 1
  client_limit = 19000
}
service pop3-login {
{pop3}  service_count = 0
  process_min_avail = 1
  process_limit = 1
  client_limit = 19000
}
service imap {
  service_count = 0
  client_limit = {clients}
  process_min_avail = 20
  idle_kill = 5 s
  process_limit = 10000
  unix_listener imap-master {
    user = $default_internal_user
  }
}
service imap-hibernate {
  unix_listener imap-hibernate {
    mode = 0666
  }
}
service pop3 {
  service_count = 0
  process_min_avail = 4
}
service lmtp {
  service_count = 0
  process_min_avail = 10
  inet_listener lmtp {
    address = 127.0.0.1
    port = {lmtp}
  }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Kind, durability: Durability) -> String {
        let site = Site {
            passwd: "/x/passwd".into(),
            chain: "/x/cert.pem".into(),
            key: "/x/key.pem".into(),
            core: 0,
        };
        let places = Places { mail: Path::new("/x/mail"), base: Path::new("/x/base") };
        let ports = Ports { imap: 1, imaps: 2, pop3: 3, lmtp: 4, admin: 5 };
        configuration(kind, &site, &places, ports, durability)
    }

    #[test]
    fn both_sync_always_and_only_preparation_does_not() {
        for kind in [Kind::DovecotDefault, Kind::DovecotBest, Kind::DovecotDense] {
            let text = written(kind, Durability::Full);
            assert!(text.contains("mail_fsync = always"), "{text}");
            assert!(!text.contains('{') || text.matches('{').count() == text.matches('}').count());
            assert!(!text.contains("{imap}") && !text.contains("{lmtp}") && !text.contains("{clients}"));
        }
        assert!(written(Kind::DovecotBest, Durability::Preparing).contains("mail_fsync = never"));
    }

    #[test]
    fn only_the_tuned_one_reuses_hibernates_and_caches() {
        let plain = written(Kind::DovecotDefault, Durability::Full);
        let best = written(Kind::DovecotBest, Durability::Full);
        for knob in ["service_count = 0", "imap_hibernate_timeout", "auth_cache_size"] {
            assert!(best.contains(knob) && !plain.contains(knob), "{knob}");
        }
        assert!(written(Kind::DovecotDense, Durability::Full).contains("client_limit = 100\n"));
    }
}
