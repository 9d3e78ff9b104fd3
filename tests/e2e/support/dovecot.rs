//! A private Dovecot in a temporary directory: the reference that the tests themselves are tested against.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::{ACCOUNTS, Ports, free_port_base, password, user};
use super::temp::TempDir;
use super::{Fallible, eventually, process};

pub struct Dovecot {
    dir: TempDir,
    child: Child,
    pub ports: Ports,
}

impl Dovecot {
    pub fn start(name: &str) -> Fallible<Dovecot> {
        process::need("dovecot")?;
        process::need("openssl")?;
        let dir = TempDir::new(name)?;
        let base = free_port_base()?;
        let at = dir.path().display().to_string();
        for sub in ["home", "run", "state"] {
            fs::create_dir_all(dir.path().join(sub))?;
        }
        // Dovecot's mail processes run as nobody.
        fs::set_permissions(dir.path().join("home"), fs::Permissions::from_mode(0o777))?;
        let passwd: String = (0..ACCOUNTS)
            .map(|n| format!("{}:{{PLAIN}}{}:65534:65534::::\n", user(n), password(n)))
            .collect();
        fs::write(dir.path().join("passwd"), passwd)?;
        process::run_ok(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "3",
                    "-subj",
                    "/CN=localhost",
                ])
                .args(["-keyout", &format!("{at}/key.pem"), "-out", &format!("{at}/cert.pem")]),
            b"",
            Duration::from_secs(60),
        )?;
        let config = CONFIG
            .replace("@DIR@", &at)
            .replace("@IMAPS@", &(base + 993).to_string())
            .replace("@IMAP@", &(base + 143).to_string())
            .replace("@POP3S@", &(base + 995).to_string())
            .replace("@POP3@", &(base + 110).to_string())
            .replace("@LMTP@", &(base + 24).to_string());
        fs::write(dir.path().join("dovecot.conf"), config)?;
        let child = Command::new("dovecot")
            .args(["-F", "-c", &format!("{at}/dovecot.conf")])
            .env("PATH", "/usr/sbin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("stderr"))?)
            .spawn()?;
        let dovecot = Dovecot { dir, child, ports: Ports::at_base(base) };
        eventually("Dovecot listens", Duration::from_secs(20), || {
            Ok([dovecot.ports.imap, dovecot.ports.pop3, dovecot.ports.lmtp]
                .iter()
                .all(|port| TcpStream::connect(port).is_ok()))
        })
        .map_err(|e| format!("{e}\n{}", dovecot.log_tail()))?;
        Ok(dovecot)
    }

    pub fn log_tail(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let all = read("stderr") + &read("log");
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // SIGTERM, since the master ends its own children then.
        let _ = process::signal(self.child.id(), "TERM");
        if process::wait(&mut self.child, Duration::from_secs(10)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

const CONFIG: &str = r#"
base_dir = @DIR@/run
state_dir = @DIR@/state
log_path = @DIR@/log
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <@DIR@/cert.pem
ssl_key = <@DIR@/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
first_valid_uid = 1
mail_uid = 65534
mail_gid = 65534
mail_home = @DIR@/home/%u
mail_location = sdbox:~/dbox
mail_attachment_detection_options =
mail_max_userip_connections = 100
recipient_delimiter = +
lmtp_save_to_detail_mailbox = no
postmaster_address = postmaster@example.test
passdb {
  driver = passwd-file
  args = username_format=%Lu @DIR@/passwd
}
userdb {
  driver = passwd-file
  args = username_format=%Lu @DIR@/passwd
}
namespace inbox {
  inbox = yes
  separator = /
  mailbox Drafts {
    special_use = \Drafts
    auto = no
  }
  mailbox Sent {
    special_use = \Sent
    auto = no
  }
  mailbox Trash {
    special_use = \Trash
    auto = no
  }
  mailbox Junk {
    special_use = \Junk
    auto = no
  }
}
service imap-login {
  inet_listener imap {
    port = @IMAP@
  }
  inet_listener imaps {
    port = @IMAPS@
    ssl = yes
  }
}
service pop3-login {
  inet_listener pop3 {
    port = @POP3@
  }
  inet_listener pop3s {
    port = @POP3S@
    ssl = yes
  }
}
service lmtp {
  inet_listener lmtp {
    port = @LMTP@
  }
}
service stats {
  process_min_avail = 0
}
"#;
