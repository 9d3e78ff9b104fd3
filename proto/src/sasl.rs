//! SASL: the server's end of each mechanism, shared by every protocol that authenticates.
//!
//! The protocol's own part (command, continuation line, cancelling, "=") ends here: this file is given the base64 of
//! one response at a time and answers with the next challenge, with a question to the driver, or with credentials.
//! What only the connection knows (its channel bindings, whose certificate its client has) comes in a [`Channel`].
//!
//! # Invariants
//! A secret never appears in `Debug`, and its octets are overwritten when it is dropped. An exchange that ended
//! stays ended. What a mechanism without a question gives is a claim that nobody has verified; SCRAM alone compares here,
//! with keys of the driver.
//!
//! # Limits
//! [`RESPONSE_OCTETS_MAX`] of base64 for a response, [`TOKEN_RESPONSE_OCTETS_MAX`] where it brings a token;
//! [`USER_OCTETS_MAX`] and [`PASSWORD_OCTETS_MAX`] decoded.
//!
//! # RFC
//! 4422, 4616 (PLAIN), draft-murchison-sasl-login (LOGIN), 5802 and 7677 (SCRAM), 7628 (OAUTHBEARER), 4648 §4. XOAUTH2 is
//! as Google and Microsoft describe it. SASLprep (4013) is not applied to names: they are made canonical where accounts are.

mod oauth;
mod scram;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use oauth::Discovery;
pub use scram::{Bindings, Hash, Keys};

/// The longest base64 response taken, in octets.
pub const RESPONSE_OCTETS_MAX: usize = 4096;
/// The same where the response holds a token. RFC 4954 §4 has every client and server of mail ready for 12288.
pub const TOKEN_RESPONSE_OCTETS_MAX: usize = 12_288;
/// The longest user name (authentication or authorization identity), in octets of UTF-8.
pub const USER_OCTETS_MAX: usize = 255;
/// The longest password, in octets.
pub const PASSWORD_OCTETS_MAX: usize = 1024;

/// All mechanisms, in the order in which a server lists them: clients that take the first they know take the strongest.
pub const MECHANISMS: [Mechanism; 9] = [
    Mechanism::External,
    Mechanism::ScramSha256Plus,
    Mechanism::ScramSha1Plus,
    Mechanism::ScramSha256,
    Mechanism::ScramSha1,
    Mechanism::OauthBearer,
    Mechanism::Xoauth2,
    Mechanism::Plain,
    Mechanism::Login,
];

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4422 appendix A: who the client is, TLS has found out.
    External,
    /// RFC 7677, bound to the TLS connection.
    ScramSha256Plus,
    /// RFC 5802, bound to the TLS connection.
    ScramSha1Plus,
    ScramSha256,
    ScramSha1,
    /// RFC 7628.
    OauthBearer,
    /// What came before it, and what most clients still know.
    Xoauth2,
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
            Mechanism::External => "EXTERNAL",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Xoauth2 => "XOAUTH2",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    fn response_octets_max(self) -> usize {
        match self {
            Mechanism::OauthBearer | Mechanism::Xoauth2 => TOKEN_RESPONSE_OCTETS_MAX,
            _ => RESPONSE_OCTETS_MAX,
        }
    }

    fn scram(self) -> Option<(Hash, bool)> {
        match self {
            Mechanism::ScramSha256Plus => Some((Hash::Sha256, true)),
            Mechanism::ScramSha1Plus => Some((Hash::Sha1, true)),
            Mechanism::ScramSha256 => Some((Hash::Sha256, false)),
            Mechanism::ScramSha1 => Some((Hash::Sha1, false)),
            _ => None,
        }
    }
}

/// A set of mechanisms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mechanisms(u16);

impl Mechanisms {
    pub const NONE: Mechanisms = Mechanisms(0);

    pub fn with(self, mechanism: Mechanism) -> Mechanisms {
        Mechanisms(self.0 | 1 << mechanism as u16)
    }

    pub fn without(self, mechanism: Mechanism) -> Mechanisms {
        Mechanisms(self.0 & !(1 << mechanism as u16))
    }

    pub fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & 1 << mechanism as u16 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a password may come as it is: then the commands that are older than SASL take one too.
    pub fn take_passwords(self) -> bool {
        self.contains(Mechanism::Plain) || self.contains(Mechanism::Login)
    }

    /// In the order of [`MECHANISMS`].
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        MECHANISMS.into_iter().filter(move |mechanism| self.contains(*mechanism))
    }
}

impl FromIterator<Mechanism> for Mechanisms {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(mechanisms: I) -> Mechanisms {
        mechanisms.into_iter().fold(Mechanisms::NONE, Mechanisms::with)
    }
}

/// PLAIN and LOGIN: what needs nothing but a password.
impl Default for Mechanisms {
    fn default() -> Mechanisms {
        Mechanisms::NONE.with(Mechanism::Plain).with(Mechanism::Login)
    }
}

impl fmt::Debug for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Mechanism::name)).finish()
    }
}

/// What a connection brings into its exchanges.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// What is listed for this connection; nothing else is taken.
    pub offered: Mechanisms,
    pub bindings: Bindings,
    /// The user whom the client's certificate names, once TLS has verified it.
    pub certified: Option<String>,
    /// What is told to a client whose token was refused.
    pub discovery: Arc<Discovery>,
}

/// A password or token as the client sent it, or a key. `Debug` shows nothing of it; dropping it overwrites it.
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

/// What an exchange gave: who claims to be whom, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub mechanism: Mechanism,
    /// The authentication identity, as sent: not yet canonical. Of OAUTHBEARER it is empty where the client leaves it
    /// to the token.
    pub user: String,
    pub proof: Proof,
}

/// By what a client claims to be a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// To be compared with what is stored.
    Password(Secret),
    /// Compared here: whether the client knows the password of the user whose keys the driver gave.
    Scram(bool),
    /// To be verified. Where it is refused, [`Exchange::refuse_token`] goes on.
    Token(Secret),
    /// Verified by TLS.
    Certificate,
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
    /// Not among the mechanisms of the connection.
    #[error("unknown mechanism")]
    NotOffered,
    /// An authorization identity other than the authentication identity.
    #[error("authorization identity refused")]
    AuthorizationRefused,
    /// A type of channel binding that this connection does not have.
    #[error("unsupported channel binding type")]
    BindingUnknown,
    /// The client can bind to the channel and believes that this server cannot: somebody between them said so.
    #[error("server does support channel binding")]
    Downgraded,
    /// The client has heard why its token was refused.
    #[error("token refused")]
    TokenRefused,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this base64 (it may be empty) as the protocol's continuation and come back with the response.
    Challenge(Cow<'static, str>),
    /// Come back with this user's keys ([`Exchange::keys`]): with some that nobody can prove where there is no such user,
    /// the same each time for a name.
    Keys {
        user: String,
        hash: Hash,
    },
    Done(Credentials),
    Failed(Failure),
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Plain,
    LoginUser,
    LoginPassword {
        user: String,
    },
    Scram(Box<Scram>),
    External {
        certified: Option<String>,
    },
    Token {
        discovery: Arc<Discovery>,
    },
    /// A token is with the driver.
    TokenGiven {
        discovery: Arc<Discovery>,
    },
    /// The client knows why its token was refused, and says so.
    TokenRefused,
    Over,
}

#[derive(Debug)]
enum Scram {
    First {
        hash: Hash,
        plus: bool,
        channel: Channel,
    },
    /// The driver looks for keys.
    Asked(scram::First),
    Final(scram::Waiting),
    /// The server has proved itself; the client, who has nothing to add, agrees.
    Proved {
        user: String,
    },
}

impl Exchange {
    /// Begins. `initial` is the base64 of the initial response, where the client sent one; `=` stands for an empty one.
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>, channel: &Channel) -> (Exchange, Step) {
        let discovery = || channel.discovery.clone();
        let stage = match mechanism {
            Mechanism::Plain => Stage::Plain,
            Mechanism::Login => Stage::LoginUser,
            Mechanism::External => Stage::External { certified: channel.certified.clone() },
            Mechanism::OauthBearer | Mechanism::Xoauth2 => Stage::Token { discovery: discovery() },
            Mechanism::ScramSha256Plus
            | Mechanism::ScramSha1Plus
            | Mechanism::ScramSha256
            | Mechanism::ScramSha1 => {
                let (hash, plus) = mechanism.scram().expect("these are the SCRAMs");
                Stage::Scram(Box::new(Scram::First { hash, plus, channel: channel.clone() }))
            }
        };
        let mut exchange = Exchange { mechanism, stage };
        let step = match (mechanism, initial) {
            _ if !channel.offered.contains(mechanism) => exchange.end(Failure::NotOffered),
            (Mechanism::Login, None) => Step::Challenge(LOGIN_USER.into()),
            // RFC 5034 §4: an initial response to a mechanism without one is refused.
            (Mechanism::Login, Some(_)) => exchange.end(Failure::InitialRefused),
            (_, None) => Step::Challenge("".into()),
            // RFC 5034 §4, RFC 4959 §3: "=" is the empty initial response.
            (_, Some(b"=")) => exchange.response(b""),
            (_, Some(initial)) => exchange.response(initial),
        };
        (exchange, step)
    }

    /// An exchange that has ended.
    pub fn over() -> Exchange {
        Exchange { mechanism: Mechanism::Plain, stage: Stage::Over }
    }

    /// Takes one response line, without its CRLF.
    pub fn response(&mut self, line: &[u8]) -> Step {
        if line == b"*" {
            return self.end(Failure::Cancelled);
        }
        if line.len() > self.mechanism.response_octets_max() {
            return self.end(Failure::TooLong);
        }
        // RFC 4648 §3: no character outside the alphabet, no padding but at the end, no stray bits.
        let Ok(octets) = STANDARD.decode(line) else { return self.end(Failure::Malformed) };
        let octets = Secret::new(octets);
        let (stage, step) = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Plain => (Stage::Over, plain(octets.expose()).into()),
            Stage::LoginUser => match identity(octets.expose()) {
                Ok(user) => (Stage::LoginPassword { user }, Step::Challenge(LOGIN_PASSWORD.into())),
                Err(failure) => (Stage::Over, Step::Failed(failure)),
            },
            Stage::LoginPassword { user } => {
                let proof = password(octets.expose()).map(Proof::Password);
                (Stage::Over, proof.map(|proof| self.credentials(user, proof)).into())
            }
            Stage::Scram(scram) => self.scram(*scram, octets.expose()),
            Stage::External { certified } => (Stage::Over, external(octets.expose(), certified).into()),
            Stage::Token { discovery } => self.token(octets.expose(), discovery),
            // RFC 7628 §3.2.3: whatever it says, it is the end.
            Stage::TokenRefused => (Stage::Over, Step::Failed(Failure::TokenRefused)),
            Stage::TokenGiven { .. } | Stage::Over => (Stage::Over, Step::Failed(Failure::Malformed)),
        };
        self.stage = stage;
        step
    }

    /// The answer to [`Step::Keys`].
    pub fn keys(&mut self, keys: Keys) -> Step {
        let Stage::Scram(scram) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Step::Failed(Failure::Malformed);
        };
        let Scram::Asked(first) = *scram else { return Step::Failed(Failure::Malformed) };
        let (waiting, challenge) = first.answer(keys);
        self.stage = Stage::Scram(Box::new(Scram::Final(waiting)));
        Step::Challenge(challenge.into())
    }

    /// The token that this exchange gave is refused: what the client is told before its command is answered with no. `None`
    /// where the exchange gave no token.
    pub fn refuse_token(&mut self) -> Option<Step> {
        let Stage::TokenGiven { discovery } = std::mem::replace(&mut self.stage, Stage::Over) else {
            return None;
        };
        Some(self.token_refused(&discovery))
    }

    fn token_refused(&mut self, discovery: &Discovery) -> Step {
        self.stage = Stage::TokenRefused;
        Step::Challenge(STANDARD.encode(discovery.refusal(self.mechanism)).into())
    }

    fn scram(&self, scram: Scram, message: &[u8]) -> (Stage, Step) {
        let failed = |failure| (Stage::Over, Step::Failed(failure));
        match scram {
            Scram::First { hash, plus, channel } => match scram::first(message, hash, plus, &channel) {
                Ok(first) => {
                    let step = Step::Keys { user: first.user().to_owned(), hash };
                    (Stage::Scram(Box::new(Scram::Asked(first))), step)
                }
                Err(failure) => failed(failure),
            },
            Scram::Final(waiting) => match waiting.verify(message) {
                Ok((user, Some(proof))) => {
                    (Stage::Scram(Box::new(Scram::Proved { user })), Step::Challenge(proof.into()))
                }
                Ok((user, None)) => (Stage::Over, Step::Done(self.credentials(user, Proof::Scram(false)))),
                Err(failure) => failed(failure),
            },
            Scram::Proved { user } if message.is_empty() => {
                (Stage::Over, Step::Done(self.credentials(user, Proof::Scram(true))))
            }
            Scram::Proved { .. } | Scram::Asked(_) => failed(Failure::Malformed),
        }
    }

    fn token(&mut self, message: &[u8], discovery: Arc<Discovery>) -> (Stage, Step) {
        let parsed = match self.mechanism {
            Mechanism::Xoauth2 => oauth::xoauth2(message),
            _ => oauth::bearer(message),
        };
        match parsed {
            Ok((user, Some(token))) => {
                let step = Step::Done(self.credentials(user, Proof::Token(token)));
                (Stage::TokenGiven { discovery }, step)
            }
            // RFC 7628 §4.3: without a token it asks what a token must be good for.
            Ok((_, None)) => {
                let step = self.token_refused(&discovery);
                (Stage::TokenRefused, step)
            }
            Err(failure) => (Stage::Over, Step::Failed(failure)),
        }
    }

    fn credentials(&self, user: String, proof: Proof) -> Credentials {
        Credentials { mechanism: self.mechanism, user, proof }
    }

    fn end(&mut self, failure: Failure) -> Step {
        self.stage = Stage::Over;
        Step::Failed(failure)
    }
}

impl From<Result<Credentials, Failure>> for Step {
    fn from(result: Result<Credentials, Failure>) -> Step {
        match result {
            Ok(credentials) => Step::Done(credentials),
            Err(failure) => Step::Failed(failure),
        }
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
    Ok(Credentials { mechanism: Mechanism::Plain, user, proof: Proof::Password(password(secret)?) })
}

fn external(authzid: &[u8], certified: Option<String>) -> Result<Credentials, Failure> {
    let user = certified.ok_or(Failure::NotOffered)?;
    // RFC 4422 appendix A.1: an empty message asks for the identity that goes with the certificate.
    if !authzid.is_empty() && !identity(authzid)?.eq_ignore_ascii_case(&user) {
        return Err(Failure::AuthorizationRefused);
    }
    Ok(Credentials { mechanism: Mechanism::External, user, proof: Proof::Certificate })
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
mod tests;
