//! Status responses and their codes (RFC 3501 §7.1, RFC 5530 and the extensions).

use culver_model::{ModSeq, Uid, UidSet, UidValidity};

use super::encode::{astring, number};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Ok,
    No,
    Bad,
    PreAuth,
    Bye,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::No => "NO",
            Status::Bad => "BAD",
            Status::PreAuth => "PREAUTH",
            Status::Bye => "BYE",
        }
    }
}

/// A response code, with what stands beside it between the brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code<'a> {
    Alert,
    /// The charsets that are supported.
    BadCharset(&'a [&'a str]),
    /// The list, as [`super::capabilities`] gives it.
    Capability(&'a str),
    Parse,
    /// The flags separated by spaces, `\*` among them where keywords can be made. May be empty.
    PermanentFlags(&'a str),
    ReadOnly,
    ReadWrite,
    TryCreate,
    /// The UID that the next message gets.
    UidNext(u32),
    UidValidity(UidValidity),
    /// A sequence number.
    Unseen(u32),
    /// RFC 4315 §3.
    AppendUid(UidValidity, &'a UidSet),
    /// RFC 4315 §3: source and destination, in the same order; neither may be empty.
    CopyUid(UidValidity, &'a UidSet, &'a UidSet),
    /// As [`Self::CopyUid`], where the pairs do not ascend on both sides.
    CopyUidPairs(UidValidity, &'a [(Uid, Uid)]),
    UidNotSticky,
    /// RFC 7162 §3.1.2.1.
    HighestModSeq(ModSeq),
    /// RFC 8474 §4.1, §4.2.
    MailboxId(&'a str),
    NoModSeq,
    /// RFC 7162 §3.1.3: the messages that failed, as UIDs or sequence numbers like the command.
    Modified(&'a UidSet),
    /// RFC 7162 §3.2.11.
    Closed,
    /// RFC 5182 §2.5.
    NotSaved,
    /// RFC 3516 §4.3.
    UnknownCte,
    /// RFC 7889 §4, RFC 4469.
    TooBig,
    /// RFC 4469 §4.1: the URL.
    BadUrl(&'a str),
    /// RFC 9585: the tag of the command that is under way.
    InProgress(&'a str),
    /// RFC 5267 §4.3.1: the tag of the search.
    NoUpdate(&'a str),
    /// RFC 5465 §3.1: the events that there are, separated by spaces.
    BadEvent(&'static str),
    /// RFC 4978 §3.
    CompressionActive,
    /// RFC 9586 §3.
    UidRequired,
    /// RFC 6154 §3.
    UseAttr,
    Unavailable,
    AuthenticationFailed,
    AuthorizationFailed,
    Expired,
    PrivacyRequired,
    ContactAdmin,
    NoPerm,
    InUse,
    ExpungeIssued,
    Corruption,
    ServerBug,
    ClientBug,
    Cannot,
    Limit,
    OverQuota,
    AlreadyExists,
    NonExistent,
    /// RFC 5464 §4.2.1: octets of the longest value that was left out.
    MetadataLongEntries(u64),
    /// RFC 5464 §4.3: octets of a value that are taken at most.
    MetadataMaxSize(u64),
    MetadataTooMany,
    MetadataNoPrivate,
}

impl Code<'_> {
    pub const fn name(&self) -> &'static str {
        match self {
            Code::Alert => "ALERT",
            Code::BadCharset(_) => "BADCHARSET",
            Code::Capability(_) => "CAPABILITY",
            Code::Parse => "PARSE",
            Code::PermanentFlags(_) => "PERMANENTFLAGS",
            Code::ReadOnly => "READ-ONLY",
            Code::ReadWrite => "READ-WRITE",
            Code::TryCreate => "TRYCREATE",
            Code::UidNext(_) => "UIDNEXT",
            Code::UidValidity(_) => "UIDVALIDITY",
            Code::Unseen(_) => "UNSEEN",
            Code::AppendUid(..) => "APPENDUID",
            Code::CopyUid(..) | Code::CopyUidPairs(..) => "COPYUID",
            Code::UidNotSticky => "UIDNOTSTICKY",
            Code::HighestModSeq(_) => "HIGHESTMODSEQ",
            Code::MailboxId(_) => "MAILBOXID",
            Code::NoModSeq => "NOMODSEQ",
            Code::Modified(_) => "MODIFIED",
            Code::Closed => "CLOSED",
            Code::NotSaved => "NOTSAVED",
            Code::UnknownCte => "UNKNOWN-CTE",
            Code::TooBig => "TOOBIG",
            Code::InProgress(_) => "INPROGRESS",
            Code::NoUpdate(_) => "NOUPDATE",
            Code::BadEvent(_) => "BADEVENT",
            Code::CompressionActive => "COMPRESSIONACTIVE",
            Code::BadUrl(_) => "BADURL",
            Code::UidRequired => "UIDREQUIRED",
            Code::UseAttr => "USEATTR",
            Code::Unavailable => "UNAVAILABLE",
            Code::AuthenticationFailed => "AUTHENTICATIONFAILED",
            Code::AuthorizationFailed => "AUTHORIZATIONFAILED",
            Code::Expired => "EXPIRED",
            Code::PrivacyRequired => "PRIVACYREQUIRED",
            Code::ContactAdmin => "CONTACTADMIN",
            Code::NoPerm => "NOPERM",
            Code::InUse => "INUSE",
            Code::ExpungeIssued => "EXPUNGEISSUED",
            Code::Corruption => "CORRUPTION",
            Code::ServerBug => "SERVERBUG",
            Code::ClientBug => "CLIENTBUG",
            Code::Cannot => "CANNOT",
            Code::Limit => "LIMIT",
            Code::OverQuota => "OVERQUOTA",
            Code::AlreadyExists => "ALREADYEXISTS",
            Code::NonExistent => "NONEXISTENT",
            Code::MetadataLongEntries(_) | Code::MetadataMaxSize(_) => "METADATA",
            Code::MetadataTooMany | Code::MetadataNoPrivate => "METADATA",
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name().as_bytes());
        match self {
            Code::BadCharset(charsets) if !charsets.is_empty() => {
                out.extend_from_slice(b" (");
                for (at, charset) in charsets.iter().enumerate() {
                    if at > 0 {
                        out.push(b' ');
                    }
                    astring(out, charset.as_bytes());
                }
                out.push(b')');
            }
            Code::Capability(list) => {
                out.push(b' ');
                out.extend_from_slice(list.as_bytes());
            }
            Code::PermanentFlags(flags) => {
                out.extend_from_slice(b" (");
                out.extend_from_slice(flags.as_bytes());
                out.push(b')');
            }
            Code::UidNext(value) | Code::Unseen(value) => argument(out, u64::from(*value)),
            Code::UidValidity(value) => argument(out, u64::from(value.get())),
            Code::HighestModSeq(value) => argument(out, value.get()),
            Code::AppendUid(validity, uids) => {
                argument(out, u64::from(validity.get()));
                out.push(b' ');
                set(out, uids);
            }
            Code::CopyUid(validity, from, to) => {
                argument(out, u64::from(validity.get()));
                out.push(b' ');
                set(out, from);
                out.push(b' ');
                set(out, to);
            }
            Code::CopyUidPairs(validity, pairs) => {
                argument(out, u64::from(validity.get()));
                out.push(b' ');
                runs(out, pairs.iter().map(|pair| pair.0.get()));
                out.push(b' ');
                runs(out, pairs.iter().map(|pair| pair.1.get()));
            }
            Code::InProgress(tag) => {
                out.extend_from_slice(b" (");
                // In a response code there is no "]", but a tag may have one.
                match tag.contains(']') {
                    true => out.extend_from_slice(b"NIL"),
                    false => super::encode::string(out, tag.as_bytes()),
                }
                out.extend_from_slice(b" NIL NIL)");
            }
            Code::NoUpdate(tag) => {
                out.push(b' ');
                super::encode::string(out, tag.as_bytes());
            }
            Code::BadEvent(events) => {
                out.extend_from_slice(b" (");
                out.extend_from_slice(events.as_bytes());
                out.push(b')');
            }
            Code::MailboxId(id) => {
                out.extend_from_slice(b" (");
                out.extend_from_slice(id.as_bytes());
                out.push(b')');
            }
            Code::MetadataLongEntries(octets) => {
                out.extend_from_slice(b" LONGENTRIES");
                argument(out, *octets);
            }
            Code::MetadataMaxSize(octets) => {
                out.extend_from_slice(b" MAXSIZE");
                argument(out, *octets);
            }
            Code::MetadataTooMany => out.extend_from_slice(b" TOOMANY"),
            Code::MetadataNoPrivate => out.extend_from_slice(b" NOPRIVATE"),
            Code::BadUrl(url) => {
                out.push(b' ');
                // RFC 4469 §5: TEXT-CHAR without "]"; no URL has anything else.
                out.extend(url.bytes().filter(|byte| matches!(byte, 0x20..=0x7e) && *byte != b']'));
            }
            Code::Modified(messages) => {
                out.push(b' ');
                set(out, messages);
            }
            _ => {}
        }
    }
}

fn argument(out: &mut Vec<u8>, value: u64) {
    out.push(b' ');
    number(out, value);
}

/// Appends a set as `1:3,5`. Nothing for an empty one, which no grammar allows.
pub(super) fn set(out: &mut Vec<u8>, set: &UidSet) {
    for (at, range) in set.ranges().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        range_of(out, *range.start(), *range.end());
    }
}

/// Appends numbers in their order, ascending runs as ranges.
fn runs(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>) {
    let mut run: Option<(u32, u32)> = None;
    let mut written = false;
    let mut close = |out: &mut Vec<u8>, (first, last)| {
        if written {
            out.push(b',');
        }
        written = true;
        range_of(out, first, last);
    };
    for number in numbers {
        run = match run {
            Some((first, last)) if last.checked_add(1) == Some(number) => Some((first, number)),
            Some(done) => {
                close(out, done);
                Some((number, number))
            }
            None => Some((number, number)),
        };
    }
    if let Some(done) = run {
        close(out, done);
    }
}

fn range_of(out: &mut Vec<u8>, first: u32, last: u32) {
    number(out, u64::from(first));
    if last != first {
        out.push(b':');
        number(out, u64::from(last));
    }
}

/// `+ ` and nothing to say: before a synchronising literal.
pub const CONTINUE: &[u8] = b"+ OK\r\n";
/// The answer to IDLE (RFC 2177 §3).
pub const CONTINUE_IDLE: &[u8] = b"+ idling\r\n";

/// Appends a SASL challenge, already base64 (RFC 3501 §6.2.2). It may be empty.
pub fn challenge(out: &mut Vec<u8>, base64: &str) {
    out.extend_from_slice(b"+ ");
    out.extend_from_slice(base64.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `tag OK [CODE] text`.
pub fn tagged(out: &mut Vec<u8>, tag: &str, status: Status, code: Option<&Code<'_>>, text: &str) {
    out.extend_from_slice(tag.as_bytes());
    condition(out, status, code, text);
}

/// Appends `* OK [CODE] text`: greeting, BYE, and what a SELECT says on its way.
pub fn untagged(out: &mut Vec<u8>, status: Status, code: Option<&Code<'_>>, text: &str) {
    out.push(b'*');
    condition(out, status, code, text);
}

fn condition(out: &mut Vec<u8>, status: Status, code: Option<&Code<'_>>, text: &str) {
    out.push(b' ');
    out.extend_from_slice(status.name().as_bytes());
    if let Some(code) = code {
        out.extend_from_slice(b" [");
        code.write(out);
        out.push(b']');
    }
    out.push(b' ');
    // RFC 3501 §9: text is 1*TEXT-CHAR, 7 bits, no CR, LF or NUL. A reason may quote what a client sent.
    let before = out.len();
    out.extend(text.bytes().map(|byte| if matches!(byte, 0x20..=0x7e) { byte } else { b'?' }));
    if out.len() == before {
        out.push(b'-');
    }
    out.extend_from_slice(b"\r\n");
}
