//! TLS as clients meet it: implicit, by STARTTLS and STLS; and what must not pass from before to after.
//!
//! The handshakes are Python's (OpenSSL): the suite itself links no TLS.

use std::process::Command;
use std::time::Duration;

use super::Client;
use crate::support::process::{need, run_ok};
use crate::support::{Fallible, skip};

const LIMIT: Duration = Duration::from_secs(60);

fn python(mode: &str, client: &Client) -> Fallible {
    need("python3")?;
    let (Some(imaps), Some(pop3s)) = (client.ports.imaps, client.ports.pop3s) else {
        return skip("the server's TLS ports are not known");
    };
    run_ok(
        Command::new("python3").args(["-I", "-", mode]).args([
            client.user.clone(),
            client.password.clone(),
            client.ports.imap.port().to_string(),
            imaps.port().to_string(),
            client.ports.pop3.port().to_string(),
            pop3s.port().to_string(),
            client.ports.lmtp.port().to_string(),
            client.server.to_owned(),
        ]),
        include_bytes!("tls_session.py"),
        LIMIT,
    )?;
    Ok(())
}

/// COMPRESS=DEFLATE, by an implementation of its own (RFC 4978).
pub fn compress(client: &Client, tls: bool) -> Fallible {
    need("python3")?;
    if client.server != "culver" {
        return skip("the capabilities of a Culver");
    }
    let (kind, port) = match (tls, client.ports.imaps) {
        (false, _) => ("plain", client.ports.imap),
        (true, Some(imaps)) => ("tls", imaps),
        (true, None) => return skip("the server's TLS ports are not known"),
    };
    run_ok(
        Command::new("python3")
            .args(["-I", "-", &client.user, &client.password])
            .args([port.port().to_string(), kind.to_owned()]),
        include_bytes!("compress_session.py"),
        LIMIT,
    )?;
    Ok(())
}

pub fn handshakes(client: &Client) -> Fallible {
    python("handshakes", client)
}

pub fn injection(client: &Client) -> Fallible {
    python("injection", client)
}

pub fn versions(client: &Client) -> Fallible {
    python("versions", client)
}
