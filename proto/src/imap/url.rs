//! IMAP URLs: what CATENATE and URLAUTH name messages by.
//!
//! A [`Url`] is a value: [`Url::parse`] reads one, `Display` writes it, and `parse(url.to_string())` gives it back.
//! Dot segments are removed before anything is decoded. Relative URLs are those that a session needs: absolute paths,
//! and messages of the base's mailbox.
//!
//! # Limits
//! [`Url::OCTETS_MAX`]; the limits of [`MailboxName`] and [`Section`].
//!
//! # RFC
//! RFC 5092 §11, RFC 4467 §9 (URLAUTH), RFC 4469 §3 (which URLs CATENATE takes), RFC 3986 §5.2.4 (dot segments).

use std::fmt;

use culver_model::mime::Section;
use culver_model::name::NameError;
use culver_model::{Date, InternalDate, MailboxName, Uid, UidValidity};

use super::command::section;
use super::cursor::Cursor;
use super::encode::section_spec;
use super::text::Refusal;

/// An `imapurl`, or one relative to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `None`: relative, of the session's own server and user.
    pub server: Option<UrlServer>,
    pub target: UrlTarget,
}

/// What a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlTarget {
    /// The server, or, relative, the base itself.
    Server,
    /// A mailbox, or the messages that a search finds in it: the octets of a `search-program`, not parsed.
    Mailbox {
        mailbox: UrlMailbox,
        search: Option<Vec<u8>>,
    },
    Message(UrlMessage),
}

/// An `iserver`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlServer {
    pub user: Option<String>,
    /// `;AUTH=`; `*` for any mechanism.
    pub auth: Option<String>,
    /// As written: a name or an address, that of IPv6 in brackets.
    pub host: String,
    pub port: Option<u16>,
}

/// A mailbox, and the validity that its UIDs had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlMailbox {
    pub name: MailboxName,
    pub uid_validity: Option<UidValidity>,
}

/// A message or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlMessage {
    /// `None`: the base's, only in a relative URL. [`Url::catenated`] puts it in.
    pub mailbox: Option<UrlMailbox>,
    pub uid: Uid,
    /// The whole message where the URL names none.
    pub section: Section,
    /// First octet, and how many, or all from there on.
    pub partial: Option<(u32, Option<u32>)>,
    pub auth: Option<UrlAuth>,
}

/// An `iurlauth`, or its rump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlAuth {
    /// In whole seconds: a fraction is cut, so that the URL is refused no later than it says.
    pub expire: Option<InternalDate>,
    pub access: UrlAccess,
    /// `None` in a rump, which GENURLAUTH is given.
    pub verifier: Option<UrlVerifier>,
}

/// Whom a URL lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlAccess {
    /// Sessions that submit on behalf of this user.
    Submit(String),
    User(String),
    /// Whoever has logged in under a name.
    AuthUser,
    Anonymous,
}

/// What proves that the URL was authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlVerifier {
    /// Compared without regard to case.
    pub mechanism: String,
    /// Hexadecimal digits, as written.
    pub token: String,
}

/// Why octets are no URL that can be used. The client must act; the answer is `NO [BADURL]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("URL of more than {} octets", Url::OCTETS_MAX)]
    TooLong,
    #[error("URL with a character that must be percent-encoded, or a wrong percent-encoding")]
    Character,
    #[error("URL of another scheme than imap")]
    Scheme,
    #[error("URL whose server is malformed")]
    Server,
    #[error("Malformed {0} in a URL")]
    Malformed(&'static str),
    #[error("URL whose mailbox cannot be used: {0}")]
    Mailbox(#[from] NameError),
    /// RFC 5092 §7.2.
    #[error("URL relative to the path of another")]
    RelativePath,
    /// RFC 4469 §3.
    #[error("URL that is not relative to this session")]
    Absolute,
    #[error("URL that does not name a message")]
    NotMessage,
    #[error("URL relative to a mailbox, and none is selected")]
    NoBase,
    #[error("URL without an authorization")]
    NotAuthorized,
}

type Parsed<T> = Result<T, UrlError>;

impl Url {
    /// Longest URL, in octets: a mailbox name of the greatest length, all of it encoded, and a long section.
    pub const OCTETS_MAX: usize = 16 * 1024;

    pub fn parse(text: &[u8]) -> Parsed<Url> {
        if text.len() > Url::OCTETS_MAX {
            return Err(UrlError::TooLong);
        }
        let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(is_url_char));
        let text = text.ok_or(UrlError::Character)?;
        if let Some(rest) = strip_prefix_nocase(text, "imap://").or_else(|| text.strip_prefix("//")) {
            let (server, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if path.starts_with('?') {
                return Err(UrlError::Malformed("path"));
            }
            let (server, target) = (UrlServer::parse(server)?, target(path)?);
            if matches!(&target, UrlTarget::Message(message) if message.mailbox.is_none()) {
                return Err(UrlError::Malformed("mailbox"));
            }
            return Ok(Url { server: Some(server), target });
        }
        // RFC 3986 §4.2: a colon in the first segment would be the end of a scheme.
        let first = text.split(['/', '?', ';']).next().unwrap_or_default();
        if first.contains(':') {
            return Err(UrlError::Scheme);
        }
        // RFC 5092 §7.2: relative-path references are neither made nor accepted. Those that begin with the UID have no
        // path to be merged: §9.1 has them name a message in the base's mailbox.
        if !text.is_empty() && !text.starts_with(['/', ';']) {
            return Err(UrlError::RelativePath);
        }
        Ok(Url { server: None, target: target(text)? })
    }

    /// The message that a URL of CATENATE names in a session whose selected mailbox is `base`.
    // RFC 4469 §3: only relative URLs of a message or a part of one, from the session's own server and user.
    pub fn catenated(text: &[u8], base: Option<&UrlMailbox>) -> Parsed<UrlMessage> {
        let url = Url::parse(text)?;
        let UrlTarget::Message(mut message) = url.target else { return Err(UrlError::NotMessage) };
        if url.server.is_some() || message.auth.is_some() {
            return Err(UrlError::Absolute);
        }
        if message.mailbox.is_none() {
            message.mailbox = Some(base.ok_or(UrlError::NoBase)?.clone());
        }
        Ok(message)
    }

    /// The server and message of an authorized URL or its rump: an absolute URL whose message has an
    /// [`UrlAuth`]. What the token is made of is [`rump`].
    // RFC 4467 §9: `authimapurl` has a server and a message, never a mailbox or a search.
    pub fn authorized(text: &[u8]) -> Parsed<(UrlServer, UrlMessage)> {
        let url = Url::parse(text)?;
        let server = url.server.ok_or(UrlError::Server)?;
        match url.target {
            UrlTarget::Message(message) if message.auth.is_some() => Ok((server, message)),
            UrlTarget::Message(_) => Err(UrlError::NotAuthorized),
            UrlTarget::Server | UrlTarget::Mailbox { .. } => Err(UrlError::NotMessage),
        }
    }
}

/// The octets of an authorized URL that its token is made of, as they stand; all of them where it is a rump already.
// RFC 4467 §6: removal of `:<mech>:<token>` is the only thing done to the URL; nothing is decoded, and no case folded.
pub fn rump(text: &[u8]) -> &[u8] {
    const NAME: &[u8] = b";URLAUTH=";
    let Some(at) = text.windows(NAME.len()).rposition(|window| window.eq_ignore_ascii_case(NAME)) else {
        return text;
    };
    let access = at + NAME.len();
    match memchr::memchr(b':', &text[access..]) {
        Some(colon) => &text[..access + colon],
        None => text,
    }
}

impl UrlServer {
    fn parse(text: &str) -> Parsed<UrlServer> {
        let (info, address) = match text.rsplit_once('@') {
            Some((info, address)) => (Some(info), address),
            None => (None, text),
        };
        let (mut user, mut auth) = (None, None);
        if let Some(info) = info {
            let (name, mechanism) = match info.split_once(';') {
                Some((name, param)) => {
                    (name, Some(strip_prefix_nocase(param, "AUTH=").ok_or(UrlError::Server)?))
                }
                None => (info, None),
            };
            if name.is_empty() && mechanism.is_none() {
                return Err(UrlError::Server);
            }
            if !name.is_empty() {
                user = Some(decoded_text(name, is_achar).map_err(|_| UrlError::Server)?);
            }
            if let Some(mechanism) = mechanism {
                let mechanism = decoded_text(mechanism, is_achar).and_then(|name| nonempty(name, "AUTH"));
                auth = Some(mechanism.map_err(|_| UrlError::Server)?);
            }
        }
        let port_at = match address.strip_prefix('[') {
            Some(rest) => rest.find(']').ok_or(UrlError::Server)? + 2,
            None => address.find(':').unwrap_or(address.len()),
        };
        let (host, port) = address.split_at(port_at);
        let port = match port.strip_prefix(':') {
            Some("") => None,
            Some(digits) => Some(u16::try_from(number(digits, "port")?).map_err(|_| UrlError::Server)?),
            None if port.is_empty() => None,
            None => return Err(UrlError::Server),
        };
        let is_host_char = |byte: u8| is_achar(byte) || byte == b'%';
        let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match name {
            Some(address) => address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte)),
            None => host.bytes().all(is_host_char),
        };
        if host.is_empty() || name == Some("") || !fits {
            return Err(UrlError::Server);
        }
        Ok(UrlServer { user, auth, host: host.to_owned(), port })
    }
}

/// From the path on: `["/" [icommand]]`, or what is relative.
fn target(text: &str) -> Parsed<UrlTarget> {
    let (path, search) = match text.split_once('?') {
        Some((path, search)) => (path, Some(search)),
        None => (text, None),
    };
    let path = without_dot_segments(path);
    // RFC 5092 §11: `enc-mailbox` has no semicolon, so that the first begins the parameters.
    let (mailbox, mut params) = path.split_at(path.find(';').unwrap_or(path.len()));
    let mailbox = mailbox.strip_prefix('/').unwrap_or(mailbox);
    if mailbox.starts_with('/') {
        return Err(UrlError::Malformed("mailbox"));
    }
    let (name, mut slash) = match mailbox.strip_suffix('/') {
        Some(name) => (name, true),
        None => (mailbox, mailbox.is_empty()),
    };
    let uid_validity = match param(&mut params, "UIDVALIDITY") {
        Some(_) if name.is_empty() || slash => return Err(UrlError::Malformed("UIDVALIDITY")),
        Some((digits, then_slash)) => {
            slash = then_slash;
            Some(UidValidity::new(number(digits, "UIDVALIDITY")?).ok_or(UrlError::Malformed("UIDVALIDITY"))?)
        }
        None => None,
    };
    let mailbox = match name {
        "" => None,
        name => Some(UrlMailbox { name: MailboxName::parse(&decoded_text(name, is_bchar)?)?, uid_validity }),
    };
    let uid = match param(&mut params, "UID") {
        Some(_) if !slash => return Err(UrlError::Malformed("UID")),
        Some((digits, then_slash)) => {
            slash = then_slash;
            Some(Uid::new(number(digits, "UID")?).ok_or(UrlError::Malformed("UID"))?)
        }
        None => None,
    };
    let Some(uid) = uid else {
        return match (mailbox, search) {
            _ if !params.is_empty() => Err(UrlError::Malformed("parameter")),
            (None, Some(_)) => Err(UrlError::Malformed("search")),
            (None, None) => Ok(UrlTarget::Server),
            (Some(mailbox), search) => {
                let search = search.map(|search| decoded(search, is_bchar)).transpose()?;
                Ok(UrlTarget::Mailbox { mailbox, search })
            }
        };
    };
    if search.is_some() {
        return Err(UrlError::Malformed("search"));
    }
    let section = match param(&mut params, "SECTION") {
        Some(_) if !slash => return Err(UrlError::Malformed("SECTION")),
        Some((text, then_slash)) => {
            slash = then_slash;
            parse_section(text)?
        }
        None => Section::default(),
    };
    let partial = match param(&mut params, "PARTIAL") {
        Some(_) if !slash => return Err(UrlError::Malformed("PARTIAL")),
        Some((text, then_slash)) => {
            slash = then_slash;
            Some(parse_partial(text)?)
        }
        None => None,
    };
    let auth = if params.is_empty() { None } else { Some(parse_auth(params)?) };
    if slash {
        return Err(UrlError::Malformed("parameter"));
    }
    Ok(UrlTarget::Message(UrlMessage { mailbox, uid, section, partial, auth }))
}

/// The value of the parameter that stands first, if it has this name, and whether a slash follows it, which belongs to
/// the next.
fn param<'t>(params: &mut &'t str, name: &str) -> Option<(&'t str, bool)> {
    let rest = strip_prefix_nocase(params.strip_prefix(';')?, name)?.strip_prefix('=')?;
    let (value, after) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
    *params = after;
    match value.strip_suffix('/') {
        Some(value) => Some((value, true)),
        None => Some((value, false)),
    }
}

fn parse_section(text: &str) -> Parsed<Section> {
    const MALFORMED: UrlError = UrlError::Malformed("SECTION");
    let mut spec = decoded(text, is_bchar)?;
    if spec.is_empty() {
        return Err(MALFORMED);
    }
    spec.push(b']');
    let mut cursor = Cursor::new(&spec);
    let read = |cursor: &mut Cursor<'_>| -> Result<Section, Refusal> {
        let section = section(cursor)?;
        cursor.expect(b']', "the end of the section")?;
        cursor.end()?;
        Ok(section)
    };
    read(&mut cursor).map_err(|_| MALFORMED)
}

fn parse_partial(text: &str) -> Parsed<(u32, Option<u32>)> {
    let (first, octets) = match text.split_once('.') {
        Some((first, octets)) => (first, Some(number(octets, "PARTIAL")?)),
        None => (text, None),
    };
    if octets == Some(0) {
        return Err(UrlError::Malformed("PARTIAL"));
    }
    Ok((number(first, "PARTIAL")?, octets))
}

fn parse_auth(mut params: &str) -> Parsed<UrlAuth> {
    const MALFORMED: UrlError = UrlError::Malformed("URLAUTH");
    let expire = match param(&mut params, "EXPIRE") {
        Some((text, false)) => Some(parse_expire(text).ok_or(UrlError::Malformed("EXPIRE"))?),
        Some((_, true)) => return Err(UrlError::Malformed("EXPIRE")),
        None => None,
    };
    let Some((text, false)) = param(&mut params, "URLAUTH") else { return Err(MALFORMED) };
    if !params.is_empty() {
        return Err(MALFORMED);
    }
    let mut parts = text.split(':');
    let access = parts.next().unwrap_or_default();
    let access = if access.eq_ignore_ascii_case("authuser") {
        UrlAccess::AuthUser
    } else if access.eq_ignore_ascii_case("anonymous") {
        UrlAccess::Anonymous
    } else if let Some(user) = strip_prefix_nocase(access, "submit+") {
        UrlAccess::Submit(nonempty(decoded_text(user, is_achar)?, "URLAUTH")?)
    } else if let Some(user) = strip_prefix_nocase(access, "user+") {
        UrlAccess::User(nonempty(decoded_text(user, is_achar)?, "URLAUTH")?)
    } else {
        return Err(MALFORMED);
    };
    let verifier = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => None,
        (Some(mechanism), Some(token), None) => {
            let is_mechanism = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            // RFC 5092 §11: `enc-urlauth` has 32 hexadecimal digits or more.
            let fits = !mechanism.is_empty()
                && mechanism.bytes().all(is_mechanism)
                && token.len() >= 32
                && token.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !fits {
                return Err(MALFORMED);
            }
            Some(UrlVerifier { mechanism: mechanism.to_owned(), token: token.to_owned() })
        }
        _ => return Err(MALFORMED),
    };
    Ok(UrlAuth { expire, access, verifier })
}

/// RFC 3339 §5.6 `date-time`.
fn parse_expire(text: &str) -> Option<InternalDate> {
    let [y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, t, h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] =
        text.as_bytes()
    else {
        return None;
    };
    let digits = |octets: &[u8]| {
        octets.iter().try_fold(0, |sum, byte| Some(sum * 10 + char::from(*byte).to_digit(10)?))
    };
    let year = i32::try_from(digits(&[*y1, *y2, *y3, *y4])?).ok()?;
    let date = Date::from_civil(year, digits(&[*o1, *o2])?, digits(&[*d1, *d2])?)?;
    let (hour, minute, second) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?, digits(&[*s1, *s2])?);
    if !t.eq_ignore_ascii_case(&b'T') || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let zone = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let count = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if count == 0 {
                return None;
            }
            &fraction[count..]
        }
        None => rest,
    };
    let zone_minutes = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let east = i16::try_from(hours * 60 + minutes).ok()?;
            if *sign == b'-' { -east } else { east }
        }
        _ => return None,
    };
    let local = i64::from(date.0) * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
    Some(InternalDate::new(local - i64::from(zone_minutes) * 60, zone_minutes))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(server) = &self.server {
            write!(f, "imap://{server}")?;
        }
        match &self.target {
            UrlTarget::Server if self.server.is_none() => Ok(()),
            UrlTarget::Server => f.write_str("/"),
            UrlTarget::Mailbox { mailbox, search } => {
                write!(f, "/{mailbox}")?;
                let Some(search) = search else { return Ok(()) };
                write!(f, "?{}", Encoded(search, is_bchar))
            }
            UrlTarget::Message(message) => message.fmt(f),
        }
    }
}

impl fmt::Display for UrlServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{}", Encoded(user.as_bytes(), is_achar))?;
        }
        if let Some(auth) = &self.auth {
            write!(f, ";AUTH={}", Encoded(auth.as_bytes(), is_achar))?;
        }
        if self.user.is_some() || self.auth.is_some() {
            f.write_str("@")?;
        }
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// As after the slash of an absolute path.
impl fmt::Display for UrlMailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, level) in self.name.as_str().split(MailboxName::SEPARATOR).enumerate() {
            if at > 0 {
                f.write_str("/")?;
            }
            // RFC 5092 §7: such levels are encoded, or they would be dot segments.
            match level {
                "." => f.write_str("%2E")?,
                ".." => f.write_str("%2E%2E")?,
                _ => write!(f, "{}", Encoded(level.as_bytes(), is_bchar))?,
            }
        }
        match self.uid_validity {
            Some(validity) => write!(f, ";UIDVALIDITY={validity}"),
            None => Ok(()),
        }
    }
}

/// An absolute path, or, of the base's mailbox, from `/;UID=` on.
impl fmt::Display for UrlMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mailbox) = &self.mailbox {
            write!(f, "/{mailbox}")?;
        }
        write!(f, "/;UID={}", self.uid)?;
        if self.section != Section::default() {
            let mut spec = Vec::new();
            section_spec(&mut spec, &self.section);
            // A slash may end a name, and would then belong to the next parameter; a segment of dots would go.
            let is_plain = |byte| is_bchar(byte) && byte != b'/';
            write!(f, "/;SECTION={}", Encoded(&spec, is_plain))?;
        }
        match self.partial {
            Some((first, Some(octets))) => write!(f, "/;PARTIAL={first}.{octets}")?,
            Some((first, None)) => write!(f, "/;PARTIAL={first}")?,
            None => {}
        }
        match &self.auth {
            Some(auth) => auth.fmt(f),
            None => Ok(()),
        }
    }
}

impl fmt::Display for UrlAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(expire) = self.expire {
            let local = expire.seconds + i64::from(expire.zone_minutes) * 60;
            let (year, month, day) = expire.date().civil();
            let time = local.rem_euclid(86_400);
            let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
            write!(f, ";EXPIRE={year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
            match expire.zone_minutes {
                0 => f.write_str("Z")?,
                east => {
                    let sign = if east < 0 { '-' } else { '+' };
                    let zone = east.unsigned_abs();
                    write!(f, "{sign}{:02}:{:02}", zone / 60, zone % 60)?;
                }
            }
        }
        f.write_str(";URLAUTH=")?;
        match &self.access {
            UrlAccess::Submit(user) => write!(f, "submit+{}", Encoded(user.as_bytes(), is_achar))?,
            UrlAccess::User(user) => write!(f, "user+{}", Encoded(user.as_bytes(), is_achar))?,
            UrlAccess::AuthUser => f.write_str("authuser")?,
            UrlAccess::Anonymous => f.write_str("anonymous")?,
        }
        match &self.verifier {
            Some(verifier) => write!(f, ":{}:{}", verifier.mechanism, verifier.token),
            None => Ok(()),
        }
    }
}

/// Octets, percent-encoded where they do not fit.
struct Encoded<'o, F>(&'o [u8], F);

impl<F: Fn(u8) -> bool> fmt::Display for Encoded<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match (self.1)(*byte) {
            true => write!(f, "{}", char::from(*byte)),
            false => write!(f, "%{byte:02X}"),
        })
    }
}

/// RFC 3986 §5.2.4. A parameter belongs to its segment, so that `..;UIDVALIDITY=1` is none.
fn without_dot_segments(path: &str) -> String {
    if !path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return path.to_owned();
    }
    let absolute = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in path.split('/').skip(usize::from(absolute)) {
        open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => _ = kept.pop(),
            _ => kept.push(segment),
        }
    }
    let mut whole = String::with_capacity(path.len());
    if absolute {
        whole.push('/');
    }
    whole.push_str(&kept.join("/"));
    if open && !kept.is_empty() {
        whole.push('/');
    }
    whole
}

fn strip_prefix_nocase<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn number(text: &str, what: &'static str) -> Parsed<u32> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| UrlError::Malformed(what)),
        false => Err(UrlError::Malformed(what)),
    }
}

fn nonempty(text: String, what: &'static str) -> Parsed<String> {
    if text.is_empty() { Err(UrlError::Malformed(what)) } else { Ok(text) }
}

/// Percent-decoded; what is not encoded must fit.
fn decoded(text: &str, fits: impl Fn(u8) -> bool) -> Parsed<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            if !fits(*first) {
                return Err(UrlError::Character);
            }
            octets.push(*first);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let octet = after.first_chunk::<2>().and_then(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
        octets.push(octet.ok_or(UrlError::Character)? as u8);
        rest = &after[2..];
    }
    Ok(octets)
}

/// As [`decoded`], for what must be UTF-8.
fn decoded_text(text: &str, fits: impl Fn(u8) -> bool) -> Parsed<String> {
    String::from_utf8(decoded(text, fits)?).map_err(|_| UrlError::Character)
}

/// RFC 5092 §11 `achar`, without `pct-encoded`.
fn is_achar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$'()*+,&=".contains(&byte)
}

/// RFC 5092 §11 `bchar`, likewise.
fn is_bchar(byte: u8) -> bool {
    is_achar(byte) || b":@/".contains(&byte)
}

fn is_url_char(byte: u8) -> bool {
    is_bchar(byte) || b"%;?[]".contains(&byte)
}
