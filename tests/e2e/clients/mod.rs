//! Real mail clients and a real MTA, driven as their users drive them.
//!
//! Each test has an account of its own on one server; a client that is not installed is skipped by name.

mod mail;
mod sync;
pub mod tls;
mod transfer;

use std::sync::{Mutex, OnceLock};

use crate::support::server::{Options, Ports, Target, password, user};
use crate::support::{Fallible, skip};
use crate::{Arguments, Test};

/// The server of all client tests, started by the first of them.
static TARGET: OnceLock<Mutex<Option<Target>>> = OnceLock::new();

/// Accounts, one a test, in the order of [`tests`].
const ACCOUNTS: usize = 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "client_curl_appends_searches_fetches", run: |_| mail::curl(&client(0)?) },
        Test { name: "client_imaplib", run: |_| mail::imaplib(&client(1)?) },
        Test { name: "client_poplib", run: |_| mail::poplib(&client(2)?) },
        Test { name: "client_mbsync_two_way_twice", run: |_| sync::mbsync(&client(3)?) },
        Test { name: "client_neomutt_copies_and_deletes", run: |_| sync::neomutt(&client(4)?) },
        Test { name: "client_fetchmail_takes_all_once", run: |_| transfer::fetchmail(&client(5)?) },
        Test { name: "client_getmail_takes_all_once", run: |_| transfer::getmail(&client(6)?) },
        Test { name: "client_postfix_delivers_by_lmtp", run: |_| transfer::postfix(&client(7)?) },
        Test { name: "client_swaks_delivers_by_lmtp", run: |_| transfer::swaks(&client(8)?) },
        Test { name: "tls_implicit_and_starttls_handshakes", run: |_| tls::handshakes(&client(9)?) },
        Test {
            name: "tls_throws_away_what_came_before_the_handshake",
            run: |_| tls::injection(&client(10)?),
        },
        Test { name: "tls_resumes_and_takes_both_versions", run: |_| tls::versions(&client(11)?) },
        Test { name: "compress_both_ways", run: |_| tls::compress(&client(13)?, false) },
        Test { name: "compress_under_tls", run: |_| tls::compress(&client(14)?, true) },
        Test { name: "logs_hold_no_password", run: |_| mail::no_password_in_logs(&client(12)?) },
        Test { name: "clients_the_server_stops_cleanly_afterwards", run: stop },
    ]
}

/// What a client test gets: the server's ports and an account.
pub struct Client {
    /// As `Target::name` gives it.
    pub server: &'static str,
    pub ports: Ports,
    pub user: String,
    pub password: String,
}

fn client(account: usize) -> Fallible<Client> {
    let mut target = TARGET.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(|e| e.into_inner());
    if target.is_none() {
        *target = Some(Target::start("clients", Options { accounts: ACCOUNTS, ..Options::default() })?);
    }
    let target = target.as_ref().expect("just set");
    Ok(Client {
        server: target.name(),
        ports: *target.ports(),
        user: user(account),
        password: password(account),
    })
}

/// The log of the server so far, where it is a Culver.
fn log() -> Fallible<String> {
    let mut target = TARGET.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(|e| e.into_inner());
    match target.as_mut() {
        Some(Target::Culver(culver)) => Ok(culver.log()),
        _ => skip("the log of a Culver only"),
    }
}

fn stop(_: &Arguments) -> Fallible {
    let target = TARGET.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(|e| e.into_inner()).take();
    match target {
        Some(mut target) => {
            let culver = target.culver()?;
            if !culver.alive() {
                return Err(format!("the server died\n{}", culver.log_tail()).into());
            }
            culver.terminate()
        }
        None => skip("no client test ran"),
    }
}
