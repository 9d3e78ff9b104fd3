//! An IMAP connection as a load generator has it: commands from prepared octets, answers by their tag.

use std::io::Write;
use std::time::Instant;

use super::imap_skip::{Answer, Skipper, Status};
use super::{Failure, Target, Tls, Wire};
use crate::users::Account;

/// The largest answer that is kept whole, of commands that prepare a run.
const COLLECTED_OCTETS_MAX: usize = 64 << 20;

pub struct Imap {
    pub wire: Wire,
    skipper: Skipper,
    tag: u32,
    pub can: Capabilities,
    /// How many messages the selected mailbox has, in this session's view.
    pub exists: u32,
}

/// The extensions that change what is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capabilities {
    pub literal_plus: bool,
    /// LITERAL- (RFC 7888) allows up to 4096 octets.
    pub literal_minus: bool,
    pub multiappend: bool,
    pub r#move: bool,
    pub login_disabled: bool,
}

impl Capabilities {
    fn read(text: &[u8]) -> Capabilities {
        let text = text.to_ascii_uppercase();
        let has = |word: &[u8]| text.split(|b| b" ]\r\n".contains(b)).any(|w| w == word);
        Capabilities {
            literal_plus: has(b"LITERAL+"),
            literal_minus: has(b"LITERAL-"),
            multiappend: has(b"MULTIAPPEND"),
            r#move: has(b"MOVE"),
            login_disabled: has(b"LOGINDISABLED"),
        }
    }

    /// True where a literal of so many octets may be sent without waiting.
    pub fn literal_at_once(&self, octets: usize) -> bool {
        self.literal_plus || self.literal_minus && octets <= 4096
    }
}

impl Imap {
    /// Connects, reads the greeting, and has TLS where it is wanted.
    pub async fn connect(target: &Target) -> Result<Imap, Failure> {
        let wire = target.connect().await?;
        let mut imap =
            Imap { wire, skipper: Skipper::new(), tag: 0, can: Capabilities::default(), exists: 0 };
        target.greeting(imap.answer()).await?;
        let greeting = imap.skipper.text();
        if !greeting.starts_with(b"* OK") {
            return Err(Failure::Unexpected(format!("greeting {:?}", String::from_utf8_lossy(greeting))));
        }
        imap.can = Capabilities::read(greeting);
        if target.tls == Tls::Starttls {
            imap.command("STARTTLS").await?;
            target.handshake(&mut imap.wire).await?;
            imap.can.login_disabled = false;
        }
        Ok(imap)
    }

    /// Connects and logs in, and asks for capabilities where the server does not tell them.
    pub async fn open(target: &Target, account: &Account) -> Result<Imap, Failure> {
        let mut imap = Imap::connect(target).await?;
        imap.login(account).await?;
        if !imap.skipper.text().windows(12).any(|w| w == b"[CAPABILITY ") {
            let text = imap.collect("CAPABILITY").await?;
            imap.can = Capabilities::read(&text);
        }
        Ok(imap)
    }

    pub async fn login(&mut self, account: &Account) -> Result<(), Failure> {
        if self.can.login_disabled {
            return Err(Failure::Refused(
                "the server allows no LOGIN without TLS: use --tls starttls, or its port with TLS and --tls implicit"
                    .to_owned(),
            ));
        }
        let tag = self.begin();
        self.wire.out.extend_from_slice(&account.login);
        self.wire.flush().await?;
        if self.finish(tag).await? != Status::Ok {
            let words = self.words();
            let remedy = match &words {
                words if words.contains("LIMIT") || words.to_ascii_lowercase().contains("too many") => {
                    "spread connections over more --users, or raise the server's limit"
                }
                _ => "see --user-pattern, --password and --account",
            };
            return Err(Failure::Refused(format!(
                "LOGIN of {} was refused: {words}: {remedy}",
                account.user
            )));
        }
        if self.skipper.text().windows(12).any(|w| w == b"[CAPABILITY ") {
            self.can = Capabilities::read(self.skipper.text());
        }
        Ok(())
    }

    /// Puts a new tag and a space into the send buffer.
    pub fn begin(&mut self) -> u32 {
        self.tag = self.tag.wrapping_add(1);
        write!(self.wire.out, "A{} ", self.tag).expect("a vector takes everything");
        self.tag
    }

    /// Puts a whole command into the send buffer.
    pub fn push(&mut self, command: &[u8]) -> u32 {
        let tag = self.begin();
        self.wire.out.extend_from_slice(command);
        self.wire.out.extend_from_slice(b"\r\n");
        tag
    }

    /// The next response.
    pub async fn answer(&mut self) -> Result<Answer, Failure> {
        loop {
            let (taken, answer) = self.skipper.feed(self.wire.unread());
            self.wire.consume(taken);
            match answer {
                Some(Answer::Exists(count)) => {
                    self.exists = count;
                    return Ok(Answer::Exists(count));
                }
                Some(Answer::Expunge) => {
                    self.exists = self.exists.saturating_sub(1);
                    return Ok(Answer::Expunge);
                }
                Some(answer) => return Ok(answer),
                None => self.wire.fill().await.map_err(|failure| match failure {
                    // BYE says why.
                    Failure::Closed(_) if self.skipper.text().starts_with(b"* BYE") => {
                        Failure::Closed(String::from_utf8_lossy(self.skipper.text()).into_owned())
                    }
                    other => other,
                })?,
            }
        }
    }

    /// Reads to the tagged answer.
    pub async fn finish(&mut self, tag: u32) -> Result<Status, Failure> {
        loop {
            match self.answer().await? {
                Answer::Tagged(found, status) if found == tag => return Ok(status),
                Answer::Tagged(..) | Answer::Continue => {
                    return Err(Failure::Unexpected(format!(
                        "{:?} while A{tag} was waited for",
                        self.words()
                    )));
                }
                _ => {}
            }
        }
    }

    /// Waits for `+`. False where the command was refused instead.
    pub async fn go_ahead(&mut self) -> Result<bool, Failure> {
        loop {
            match self.answer().await? {
                Answer::Continue => return Ok(true),
                Answer::Tagged(..) => return Ok(false),
                _ => {}
            }
        }
    }

    /// What the server said, without the tag.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(self.skipper.text()).into_owned();
        text.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or(text)
    }

    /// A command, timed from its write. What it may be answered is up to the caller.
    pub async fn timed(&mut self, command: &str) -> Result<(Status, Instant), Failure> {
        let tag = self.push(command.as_bytes());
        let sent = self.wire.flush().await?;
        Ok((self.finish(tag).await?, sent))
    }

    /// Octets received and sent so far.
    pub fn octets(&self) -> (u64, u64) {
        (self.wire.octets_in, self.wire.octets_out)
    }

    /// A command that has to succeed.
    pub async fn command(&mut self, command: &str) -> Result<(), Failure> {
        let tag = self.push(command.as_bytes());
        self.wire.flush().await?;
        match self.finish(tag).await? {
            Status::Ok => Ok(()),
            _ => Err(Failure::Refused(format!("{command}: {}", self.words()))),
        }
    }

    /// A command whose untagged answers are wanted, octet by octet.
    pub async fn collect(&mut self, command: &str) -> Result<Vec<u8>, Failure> {
        let tag = self.push(command.as_bytes());
        self.wire.flush().await?;
        let mut kept = Vec::new();
        loop {
            let (taken, answer) = self.skipper.feed(self.wire.unread());
            kept.extend_from_slice(&self.wire.unread()[..taken]);
            self.wire.consume(taken);
            if kept.len() > COLLECTED_OCTETS_MAX {
                return Err(Failure::Unexpected(format!("{command}: an answer of more than 64 MiB")));
            }
            match answer {
                Some(Answer::Tagged(found, Status::Ok)) if found == tag => return Ok(kept),
                Some(Answer::Tagged(..)) => {
                    return Err(Failure::Refused(format!("{command}: {}", self.words())));
                }
                Some(Answer::Exists(count)) => self.exists = count,
                Some(Answer::Expunge) => self.exists = self.exists.saturating_sub(1),
                Some(_) => {}
                None => self.wire.fill().await?,
            }
        }
    }

    /// The UIDs of all messages of the selected mailbox.
    pub async fn uids(&mut self) -> Result<Vec<u32>, Failure> {
        let text = self.collect("UID SEARCH ALL").await?;
        let mut uids: Vec<u32> = Vec::new();
        for line in text.split(|b| *b == b'\n') {
            if let Some(rest) = line.strip_prefix(b"* SEARCH") {
                let numbers = rest.split(|b| !b.is_ascii_digit()).filter(|w| !w.is_empty());
                uids.extend(numbers.filter_map(|w| std::str::from_utf8(w).ok()?.parse::<u32>().ok()));
            }
        }
        Ok(uids)
    }

    /// IDLE, up to the server's `+`. Returns its tag, for who will end it.
    pub async fn start_idle(&mut self) -> Result<u32, Failure> {
        let tag = self.push(b"IDLE");
        self.wire.flush().await?;
        match self.go_ahead().await? {
            true => Ok(tag),
            false => Err(Failure::Refused(format!("IDLE: {}", self.words()))),
        }
    }

    /// LOGOUT, and the end of the connection by the server.
    pub async fn logout(mut self) {
        let tag = self.push(b"LOGOUT");
        if self.wire.flush().await.is_ok() && self.finish(tag).await.is_ok() {
            self.wire.drain().await;
        }
    }

    /// Sends APPEND of one message with what stands in the send buffer before it, waiting where the server wants that.
    /// Returns the tag and the instant of the last write; `None` where the command was refused before its literal.
    pub async fn send_append(
        &mut self,
        prefix: &[u8],
        message: &[u8],
    ) -> Result<Option<(u32, Instant)>, Failure> {
        let tag = self.begin();
        let at_once = self.can.literal_at_once(message.len());
        self.wire.out.extend_from_slice(prefix);
        let plus = if at_once { "+" } else { "" };
        write!(self.wire.out, " {{{}{plus}}}\r\n", message.len()).expect("a vector takes everything");
        if !at_once {
            self.wire.flush().await?;
            if !self.go_ahead().await? {
                return Ok(None);
            }
        }
        self.wire.out.extend_from_slice(message);
        self.wire.out.extend_from_slice(b"\r\n");
        Ok(Some((tag, self.wire.flush().await?)))
    }
}

/// A string as IMAP wants it quoted. Names with octets that need a literal are not for a load generator.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
