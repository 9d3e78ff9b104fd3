//! Text: what is said about errors, once: status, response code and wording.
//!
//! [`Refusal`] is what the framer and the grammar found wrong with the octets; [`Reason`] is why a well-formed command
//! cannot be carried out.
//!
//! # RFC
//! RFC 3501 §7.1, RFC 5530.

use culver_model::name::NameError;

use super::response::{Code, Status, tagged, untagged};

/// Why a command was not understood, or not even read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Expected {0}")]
    Expected(&'static str),
    #[error("Unknown command")]
    UnknownCommand,
    /// In this stage of the session.
    #[error("Log in first")]
    NotAuthenticated,
    #[error("Command line too long")]
    LineTooLong,
    #[error("Literal too large")]
    LiteralTooLarge,
    /// RFC 7888 §5.
    #[error("Non-synchronising literal of more than 4096 octets")]
    LiteralMinus,
    #[error("Message of more than {octets_max} octets")]
    MessageTooLarge { octets_max: u64 },
    #[error("Message is not followed by the end of the command")]
    AppendTail,
    #[error("Charset not supported")]
    BadCharset,
    #[error("String is not text in its charset")]
    NotText,
    #[error("Too many {0}")]
    TooMany(&'static str),
    #[error("Not a mailbox name that can be used: {0}")]
    Name(#[from] NameError),
    #[error("Literal8 is not supported here")]
    Literal8,
    #[error("An event that there is not")]
    BadEvent,
    #[error("Expected DONE")]
    NotDone,
}

impl Refusal {
    pub fn status(&self) -> Status {
        match self {
            // Well-formed, and refused for what it asks.
            Refusal::MessageTooLarge { .. }
            | Refusal::BadCharset
            | Refusal::TooMany(_)
            | Refusal::Name(_) => Status::No,
            Refusal::Literal8 | Refusal::LiteralTooLarge | Refusal::BadEvent => Status::No,
            _ => Status::Bad,
        }
    }

    pub fn code(&self) -> Option<Code<'static>> {
        match self {
            // RFC 7889 §4: an APPEND over the limit gets TOOBIG.
            // RFC 7888 §5: so does one whose literal nobody waited for.
            Refusal::MessageTooLarge { .. } | Refusal::LiteralMinus => Some(Code::TooBig),
            Refusal::BadCharset => Some(Code::BadCharset(&["US-ASCII", "UTF-8"])),
            Refusal::TooMany(_) | Refusal::LiteralTooLarge => Some(Code::Limit),
            Refusal::Name(_) => Some(Code::Cannot),
            // RFC 3516 §4.2, §4.4.
            Refusal::Literal8 => Some(Code::UnknownCte),
            Refusal::BadEvent => Some(Code::BadEvent(super::command::notify::EVENTS)),
            Refusal::NotAuthenticated => Some(Code::ClientBug),
            _ => None,
        }
    }

    /// Appends the response. Without a tag it is an untagged BAD: there is no command to answer.
    pub fn write(&self, tag: Option<&str>, out: &mut Vec<u8>) {
        let (code, text) = (self.code(), self.to_string());
        match tag {
            Some(tag) => tagged(out, tag, self.status(), code.as_ref(), &text),
            None => untagged(out, Status::Bad, code.as_ref(), &text),
        }
    }
}

/// Why a command is not carried out. Which of them a session meets is the driver's to find; the words are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    AuthenticationFailed,
    AuthenticationCancelled,
    AuthenticationMalformed,
    MechanismUnknown,
    AuthorizationFailed,
    PasswordExpired,
    /// The client and this server do not agree on whether, or to what, they can bind their exchange.
    ChannelBinding,
    /// LOGIN, where no password is taken as it is.
    LoginDisabled,
    /// LOGIN or AUTHENTICATE without TLS, where that is asked for.
    PrivacyRequired,
    /// Of the user database: not a verdict on the password.
    UsersUnavailable,
    AccountDisabled,
    TooManyConnections,
    NotAuthenticated,
    AlreadyAuthenticated,
    TlsActive,
    TlsUnavailable,
    /// An UPDATE under this tag is there already.
    TagReused,
    NoSuchUpdate,
    LanguageUnknown,
    CompressionActive,
    CompressionUnknown,
    CompressionOff,
    NotSelected,
    /// A message sequence number where UIDONLY is enabled.
    UidRequired,
    /// CHARSET where UTF8=ACCEPT is enabled.
    CharsetGiven,
    /// Not one of the uses that mailboxes have here, or another mailbox has it.
    UseAttribute,
    ReadOnly,
    NoSuchMailbox,
    /// The destination of APPEND, COPY and MOVE.
    TryCreate,
    /// LIST shows it, but it holds no messages.
    NoSelect,
    MailboxExists,
    CannotName,
    CannotDeleteInbox,
    CannotRename,
    HasChildren,
    MailboxLimit,
    KeywordLimit,
    SubscriptionLimit,
    ResultLimit,
    TooManyAnnotations,
    /// Octets of a value that are taken at most.
    AnnotationTooBig(u64),
    /// All annotations of the account together.
    AnnotationLimit,
    /// The server's own.
    AnnotationReadOnly,
    /// Messages of one APPEND.
    AppendLimit,
    OverQuota,
    NoQuotaRoot,
    /// Of a SETQUOTA.
    QuotaResource,
    TooBig,
    EmptyMessage,
    /// A message that the session still sees is gone.
    ExpungeIssued,
    NoSuchMessage,
    MailboxDeleted,
    InUse,
    NoPermission,
    NotSaved,
    UnknownCte,
    NulInMessage,
    Corruption,
    /// Storage does not answer; it will later.
    Unavailable,
    /// Another node has the account, or will have it; which one, [`crate::away::Away`] says.
    Elsewhere,
    /// The disk is full, which is no quota of the user's (RFC 9208).
    NoSpace,
    ShuttingDown,
    ServerBug,
    TooManyErrors,
    InputTooLong,
    Idle,
    Logout,
}

impl Reason {
    /// Status, code and wording. A reason that ends the connection has [`Status::Bye`].
    pub const fn answer(self) -> (Status, Option<Code<'static>>, &'static str) {
        use Status::{Bad, Bye, No};
        match self {
            // RFC 5530 §3: says nothing on whether the user or the password was wrong.
            Reason::AuthenticationFailed => (No, Some(Code::AuthenticationFailed), "Authentication failed"),
            Reason::AuthenticationCancelled => (Bad, None, "Authentication cancelled"),
            Reason::AuthenticationMalformed => (Bad, None, "Malformed authentication response"),
            Reason::MechanismUnknown => (No, Some(Code::Cannot), "Authentication mechanism not supported"),
            Reason::AuthorizationFailed => {
                (No, Some(Code::AuthorizationFailed), "Not allowed to act for that user")
            }
            Reason::ChannelBinding => {
                (No, Some(Code::AuthenticationFailed), "Channel binding does not fit what is offered")
            }
            Reason::LoginDisabled => (No, Some(Code::Cannot), "LOGIN is disabled, use AUTHENTICATE"),
            Reason::PasswordExpired => (No, Some(Code::Expired), "Password expired"),
            Reason::PrivacyRequired => (No, Some(Code::PrivacyRequired), "Use TLS to log in"),
            Reason::UsersUnavailable => {
                (No, Some(Code::Unavailable), "Users cannot be looked up now, try again later")
            }
            Reason::AccountDisabled => (No, Some(Code::ContactAdmin), "Account is disabled"),
            Reason::TooManyConnections => (No, Some(Code::Limit), "Too many connections of this user"),
            Reason::NotAuthenticated => (Bad, Some(Code::ClientBug), "Log in first"),
            Reason::AlreadyAuthenticated => (Bad, Some(Code::ClientBug), "Already logged in"),
            Reason::TlsActive => (Bad, Some(Code::ClientBug), "TLS is active already"),
            Reason::TlsUnavailable => (Bad, None, "TLS is not available"),
            // RFC 5267 §4.3.
            Reason::TagReused => (Bad, Some(Code::ClientBug), "Tag of a search that is being updated"),
            Reason::NoSuchUpdate => (Bad, None, "No updates under this tag"),
            Reason::LanguageUnknown => (No, None, "None of these languages is spoken here"),
            // RFC 4978 §3.
            Reason::CompressionActive => (Bad, Some(Code::CompressionActive), "DEFLATE is active already"),
            Reason::CompressionUnknown => (Bad, None, "Only DEFLATE is known"),
            Reason::CompressionOff => (No, Some(Code::Cannot), "Compression is switched off"),
            Reason::NotSelected => (Bad, Some(Code::ClientBug), "No mailbox selected"),
            Reason::UidRequired => (Bad, Some(Code::UidRequired), "Only UIDs are used in this session"),
            Reason::CharsetGiven => (Bad, None, "No CHARSET: strings are UTF-8 in this session"),
            Reason::UseAttribute => (No, Some(Code::UseAttr), "No mailbox can have this use"),
            Reason::ReadOnly => (No, Some(Code::Cannot), "Mailbox is open read-only"),
            Reason::NoSuchMailbox => (No, Some(Code::NonExistent), "No such mailbox"),
            // RFC 3501 §6.3.11, §6.4.7: only where CREATE could help.
            Reason::TryCreate => (No, Some(Code::TryCreate), "No such mailbox"),
            Reason::NoSelect => (No, Some(Code::Cannot), "Mailbox cannot be selected"),
            Reason::MailboxExists => (No, Some(Code::AlreadyExists), "Mailbox exists"),
            Reason::CannotName => (No, Some(Code::Cannot), "Not a mailbox name that can be used"),
            Reason::CannotDeleteInbox => (No, Some(Code::Cannot), "INBOX cannot be deleted"),
            Reason::CannotRename => (No, Some(Code::Cannot), "Mailbox cannot be renamed to there"),
            Reason::HasChildren => (No, Some(Code::Cannot), "Mailbox has children"),
            Reason::MailboxLimit => (No, Some(Code::Limit), "Too many mailboxes"),
            Reason::KeywordLimit => (No, Some(Code::Limit), "Too many keywords in the mailbox"),
            Reason::SubscriptionLimit => (No, Some(Code::Limit), "Too many subscriptions"),
            Reason::ResultLimit => (No, Some(Code::Limit), "Result too large"),
            Reason::TooManyAnnotations => (No, Some(Code::MetadataTooMany), "Too many annotations"),
            Reason::AnnotationTooBig(octets_max) => {
                (No, Some(Code::MetadataMaxSize(octets_max)), "Value too large")
            }
            Reason::AnnotationLimit => (No, Some(Code::Limit), "No room for more annotations"),
            Reason::AnnotationReadOnly => (No, Some(Code::NoPerm), "Entry cannot be changed"),
            Reason::AppendLimit => (No, Some(Code::Limit), "Too many messages in one APPEND"),
            Reason::OverQuota => (No, Some(Code::OverQuota), "Quota exceeded"),
            Reason::NoQuotaRoot => (No, Some(Code::NonExistent), "No such quota root"),
            Reason::QuotaResource => (No, Some(Code::Cannot), "Resource cannot be limited"),
            Reason::TooBig => (No, Some(Code::TooBig), "Message too large"),
            Reason::EmptyMessage => (No, Some(Code::Cannot), "Empty message"),
            Reason::ExpungeIssued => (No, Some(Code::ExpungeIssued), "Some messages are expunged"),
            Reason::NoSuchMessage => (Bad, None, "No such message"),
            Reason::MailboxDeleted => (Bye, Some(Code::NonExistent), "Selected mailbox was deleted"),
            Reason::InUse => (No, Some(Code::InUse), "Mailbox is in use"),
            Reason::NoPermission => (No, Some(Code::NoPerm), "Permission denied"),
            Reason::NotSaved => (No, Some(Code::NotSaved), "Search result not saved"),
            Reason::UnknownCte => (No, Some(Code::UnknownCte), "Unknown content transfer encoding"),
            Reason::NulInMessage => (No, Some(Code::Cannot), "Message contains NUL"),
            Reason::Corruption => (No, Some(Code::Corruption), "Mailbox data is damaged"),
            Reason::Unavailable => (No, Some(Code::Unavailable), "Temporarily unavailable, try again later"),
            Reason::Elsewhere => (No, Some(Code::Unavailable), "This account is served by another node"),
            Reason::NoSpace => (No, Some(Code::Unavailable), "No space left for mail, try again later"),
            Reason::ShuttingDown => (Bye, Some(Code::Unavailable), "Server is shutting down"),
            Reason::ServerBug => (No, Some(Code::ServerBug), "Internal error"),
            Reason::TooManyErrors => (Bye, Some(Code::ClientBug), "Too many errors"),
            Reason::InputTooLong => (Bye, Some(Code::TooBig), "Input too long"),
            Reason::Idle => (Bye, None, "Idle for too long"),
            Reason::Logout => (Bye, None, "Logging out"),
        }
    }

    /// Appends the response to the command `tag`; a BYE is untagged.
    pub fn write(self, tag: &str, out: &mut Vec<u8>) {
        let (status, code, text) = self.answer();
        match status {
            Status::Bye => untagged(out, status, code.as_ref(), text),
            _ => tagged(out, tag, status, code.as_ref(), text),
        }
    }

    /// Appends it as `* BYE`, whatever its status: the connection ends for this reason.
    pub fn write_bye(self, out: &mut Vec<u8>) {
        let (_, code, text) = self.answer();
        untagged(out, Status::Bye, code.as_ref(), text);
    }
}
