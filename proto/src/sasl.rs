//! SASL: the server's end of PLAIN and LOGIN, shared by every protocol that authenticates.
//!
//! The protocol's own part (command, continuation line, cancelling, "=") ends here: this file is given the base64 of
//! one response at a time and answers with the next challenge, or with credentials.
//!
//! # Invariants
//! A secret never appears in `Debug`, and its octets are overwritten when it is dropped. An exchange that ended
//! stays ended.
//!
//! # Limits
//! [`RESPONSE_OCTETS_MAX`] of base64 for a response, [`USER_OCTETS_MAX`] and [`PASSWORD_OCTETS_MAX`] decoded.
//!
//! # RFC
//! 4422, 4616 (PLAIN), draft-murchison-sasl-login (LOGIN), 4648 §4. SASLprep (4013) is not applied: names are made
//! canonical where accounts are, and passwords are compared octet by octet, as their stored forms were made.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest base64 response taken, in octets.
pub const RESPONSE_OCTETS_MAX: usize = 4096;
/// The longest user name (authentication or authorization identity), in octets of UTF-8.
pub const USER_OCTETS_MAX: usize = 255;
/// The longest password, in octets.
pub const PASSWORD_OCTETS_MAX: usize = 1024;

/// The mechanisms that a server offers, in the order in which it lists them.
pub const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// draft-murchison-sasl-login: for clients that know nothing else.
    Login,
}

impl Mechanism {
    /// The mechanism of that name, without regard to case.
    pub fn parse(name: &[u8]) -> Option<Mechanism> {
        MECHANISMS.into_iter().find(|m| name.eq_ignore_ascii_case(m.name().as_bytes()))
    }

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }
}

/// A password as the client sent it. `Debug` shows nothing of it; dropping it overwrites it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the octets over; the caller keeps no copy.
    pub fn new(octets: Vec<u8>) -> Secret {
        Secret(octets)
    }

    /// The octets, for the one place that checks them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites octets in a way that the optimiser may not leave out.
fn wipe(octets: &mut [u8]) {
    octets.fill(0);
    std::hint::black_box(octets);
}

/// What an exchange gave: who claims to be whom. Nothing is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub mechanism: Mechanism,
    /// The authentication identity, as sent: not yet canonical.
    pub user: String,
    pub password: Secret,
}

/// Why an exchange ended without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The client sent `*`.
    #[error("authentication cancelled")]
    Cancelled,
    /// Not base64, or not what the mechanism asks for.
    #[error("malformed authentication response")]
    Malformed,
    /// Longer than the limits of this file.
    #[error("authentication response too long")]
    TooLong,
    /// An initial response to a mechanism in which the server speaks first.
    #[error("mechanism takes no initial response")]
    InitialRefused,
    /// An authorization identity other than the authentication identity.
    #[error("authorization identity refused")]
    AuthorizationRefused,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this base64 (it may be empty) as the protocol's continuation and come back with the response.
    Challenge(&'static str),
    Done(Credentials),
    Failed(Failure),
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    Over,
}

impl Exchange {
    /// Begins. `initial` is the base64 of the initial response, where the client sent one; `=` stands for an empty one.
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> (Exchange, Step) {
        let stage = match mechanism {
            Mechanism::Plain => Stage::Plain,
            Mechanism::Login => Stage::LoginUser,
        };
        let mut exchange = Exchange { stage };
        let step = match (mechanism, initial) {
            (Mechanism::Plain, None) => Step::Challenge(""),
            // RFC 5034 §4, RFC 4959 §3: "=" is the empty initial response.
            (Mechanism::Plain, Some(b"=")) => exchange.end(Failure::Malformed),
            (Mechanism::Plain, Some(initial)) => exchange.response(initial),
            (Mechanism::Login, None) => Step::Challenge(LOGIN_USER),
            // RFC 5034 §4: an initial response to a mechanism without one is refused.
            (Mechanism::Login, Some(_)) => exchange.end(Failure::InitialRefused),
        };
        (exchange, step)
    }

    /// Takes one response line, without its CRLF.
    pub fn response(&mut self, line: &[u8]) -> Step {
        if line == b"*" {
            return self.end(Failure::Cancelled);
        }
        if line.len() > RESPONSE_OCTETS_MAX {
            return self.end(Failure::TooLong);
        }
        // RFC 4648 §3: no character outside the alphabet, no padding but at the end, no stray bits.
        let Ok(octets) = STANDARD.decode(line) else { return self.end(Failure::Malformed) };
        let octets = Secret::new(octets);
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Plain => match plain(octets.expose()) {
                Ok(credentials) => Step::Done(credentials),
                Err(failure) => Step::Failed(failure),
            },
            Stage::LoginUser => match identity(octets.expose()) {
                Ok(user) => {
                    self.stage = Stage::LoginPassword { user };
                    Step::Challenge(LOGIN_PASSWORD)
                }
                Err(failure) => Step::Failed(failure),
            },
            Stage::LoginPassword { user } => match password(octets.expose()) {
                Ok(password) => Step::Done(Credentials { mechanism: Mechanism::Login, user, password }),
                Err(failure) => Step::Failed(failure),
            },
            Stage::Over => Step::Failed(Failure::Malformed),
        }
    }

    fn end(&mut self, failure: Failure) -> Step {
        self.stage = Stage::Over;
        Step::Failed(failure)
    }
}

/// "Username:" and "Password:", the prompts that clients compare with.
const LOGIN_USER: &str = "VXNlcm5hbWU6";
const LOGIN_PASSWORD: &str = "UGFzc3dvcmQ6";

fn plain(message: &[u8]) -> Result<Credentials, Failure> {
    let mut fields = message.split(|&b| b == 0);
    let (Some(authzid), Some(authcid), Some(secret), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Failure::Malformed);
    };
    let user = identity(authcid)?;
    // RFC 4616 §2: an authorization identity asks to act as somebody; here one may only be oneself.
    if !authzid.is_empty() && !authzid.eq_ignore_ascii_case(authcid) {
        return Err(Failure::AuthorizationRefused);
    }
    Ok(Credentials { mechanism: Mechanism::Plain, user, password: password(secret)? })
}

fn identity(octets: &[u8]) -> Result<String, Failure> {
    if octets.len() > USER_OCTETS_MAX {
        return Err(Failure::TooLong);
    }
    match std::str::from_utf8(octets) {
        Ok(user) if !user.is_empty() && !user.contains(char::is_control) => Ok(user.to_owned()),
        _ => Err(Failure::Malformed),
    }
}

fn password(octets: &[u8]) -> Result<Secret, Failure> {
    if octets.len() > PASSWORD_OCTETS_MAX {
        return Err(Failure::TooLong);
    }
    if octets.is_empty() || octets.contains(&0) {
        return Err(Failure::Malformed);
    }
    Ok(Secret::new(octets.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(mechanism: Mechanism, user: &str, password: &str) -> Step {
        let password = Secret::new(password.as_bytes().to_vec());
        Step::Done(Credentials { mechanism, user: user.to_owned(), password })
    }

    fn encode(octets: &str) -> Vec<u8> {
        STANDARD.encode(octets).into_bytes()
    }

    #[test]
    fn plain_takes_an_initial_response_or_a_later_one() {
        let message = encode("\0tim\0tanstaaftanstaaf");
        let expected = credentials(Mechanism::Plain, "tim", "tanstaaftanstaaf");
        assert_eq!(Exchange::start(Mechanism::Plain, Some(&message)).1, expected);
        let (mut exchange, step) = Exchange::start(Mechanism::Plain, None);
        assert_eq!(step, Step::Challenge(""));
        assert_eq!(exchange.response(&message), expected);
        assert_eq!(exchange.response(&message), Step::Failed(Failure::Malformed));
    }

    #[test]
    fn plain_refuses_what_rfc_4616_refuses() {
        for (message, failure) in [
            ("Ursel\0Kurt\0xipj3plmq", Failure::AuthorizationRefused),
            ("\0tim", Failure::Malformed),
            ("", Failure::Malformed),
            ("\0tim\0a\0b", Failure::Malformed),
            ("\0\0password", Failure::Malformed),
            ("\0tim\0", Failure::Malformed),
            ("\0t\nim\0x", Failure::Malformed),
        ] {
            let step = Exchange::start(Mechanism::Plain, Some(&encode(message))).1;
            assert_eq!(step, Step::Failed(failure), "{message:?}");
        }
        let long = encode(&format!("\0{}\0x", "u".repeat(USER_OCTETS_MAX + 1)));
        assert_eq!(Exchange::start(Mechanism::Plain, Some(&long)).1, Step::Failed(Failure::TooLong));
        let long = encode(&format!("\0u\0{}", "p".repeat(PASSWORD_OCTETS_MAX + 1)));
        assert_eq!(Exchange::start(Mechanism::Plain, Some(&long)).1, Step::Failed(Failure::TooLong));
        assert_eq!(
            Exchange::start(Mechanism::Plain, Some(&encode("tim\0Tim\0x"))).1,
            credentials(Mechanism::Plain, "Tim", "x")
        );
    }

    #[test]
    fn base64_is_strict() {
        for line in ["=AAA", "AAA=BBB", "AAA", "A A=", "AHRpbQB4=", "AHR\npbQB4", "*x"] {
            let step = Exchange::start(Mechanism::Plain, Some(line.as_bytes())).1;
            assert_eq!(step, Step::Failed(Failure::Malformed), "{line:?}");
        }
        let (mut exchange, _) = Exchange::start(Mechanism::Plain, None);
        assert_eq!(exchange.response(&vec![b'A'; RESPONSE_OCTETS_MAX + 4]), Step::Failed(Failure::TooLong));
    }

    #[test]
    fn login_asks_twice_and_takes_no_initial_response() {
        let (mut exchange, step) = Exchange::start(Mechanism::Login, None);
        assert_eq!(step, Step::Challenge("VXNlcm5hbWU6"));
        assert_eq!(exchange.response(&encode("tim")), Step::Challenge("UGFzc3dvcmQ6"));
        assert_eq!(exchange.response(&encode("a b")), credentials(Mechanism::Login, "tim", "a b"));
        let step = Exchange::start(Mechanism::Login, Some(&encode("tim"))).1;
        assert_eq!(step, Step::Failed(Failure::InitialRefused));
        let (mut exchange, _) = Exchange::start(Mechanism::Login, None);
        assert_eq!(exchange.response(b"*"), Step::Failed(Failure::Cancelled));
    }

    #[test]
    fn debug_shows_no_secret() {
        let (_, step) = Exchange::start(Mechanism::Plain, Some(&encode("\0tim\0tanstaaf")));
        let shown = format!("{step:?}");
        assert!(shown.contains("tim") && !shown.contains("tanstaaf"), "{shown}");
    }
}
