//! One IMAP connection: commands out as text, the octets of whole responses in.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use culver_proto::imap::Status;
use culver_proto::imap::client::{Reader, Response};

/// The longest that any one command of the model may take.
const ANSWER: Duration = Duration::from_secs(30);
const RESPONSE_OCTETS_MAX: usize = 1 << 20;

/// What went over all connections of a run, for the report of a failure.
pub type Trace = Rc<RefCell<Vec<String>>>;

pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    name: String,
    trace: Trace,
    tags: u32,
    /// The next command is sent with a NOOP behind it, in one write.
    pub followed: bool,
    /// The answer to that NOOP.
    pub second: Option<Answer>,
}

/// The answer to one command.
#[derive(Debug)]
pub struct Answer {
    pub tag: String,
    /// Untagged responses, each whole, in order.
    pub untagged: Vec<Vec<u8>>,
    pub status: Status,
    /// Name in upper case, and arguments.
    pub code: Option<(String, String)>,
    /// The connection ended with BYE, before or in place of the tagged response.
    pub bye: bool,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.code.as_ref().map_or("", |(name, _)| name)
    }
}

pub fn response(octets: &[u8]) -> Result<Response<'_>, String> {
    match Reader::new(RESPONSE_OCTETS_MAX).next(octets) {
        Ok((used, Some(response))) if used == octets.len() => Ok(response),
        other => Err(format!("not one response: {other:?}: {}", String::from_utf8_lossy(octets))),
    }
}

impl Wire {
    pub fn open(address: SocketAddr, name: &str, trace: &Trace) -> Result<Wire, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(ANSWER)).map_err(|error| error.to_string())?;
        let trace = trace.clone();
        let mut wire = Wire {
            stream,
            buffer: Vec::new(),
            name: name.to_owned(),
            trace,
            tags: 0,
            followed: false,
            second: None,
        };
        let greeting = wire.next()?.ok_or("no greeting")?;
        match response(&greeting)? {
            Response::Status { tag: None, status: Status::Ok, .. } => Ok(wire),
            other => Err(format!("not a greeting: {other:?}")),
        }
    }

    /// One whole response; `None` at the end of the connection.
    fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut reader = Reader::new(RESPONSE_OCTETS_MAX);
        loop {
            let used = match reader.next(&self.buffer) {
                Ok((used, Some(_))) => used,
                Ok((_, None)) => 0,
                Err(error) => return Err(format!("{error}: {}", String::from_utf8_lossy(&self.buffer))),
            };
            if used > 0 {
                let rest = self.buffer.split_off(used);
                let octets = std::mem::replace(&mut self.buffer, rest);
                self.note("S", &octets);
                return Ok(Some(octets));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) => return Err(format!("no answer: {error}")),
            }
        }
    }

    fn note(&self, side: &str, octets: &[u8]) {
        let text = String::from_utf8_lossy(octets);
        self.trace.borrow_mut().push(format!("{} {side}: {}", self.name, text.trim_end().escape_debug()));
    }

    fn tag(&mut self) -> String {
        self.tags += 1;
        format!("t{}", self.tags)
    }

    fn send(&mut self, octets: &[u8]) {
        self.note("C", octets);
        // What ends the connection is seen when it is read.
        let _ = self.stream.write_all(octets);
    }

    /// Sends a command, which may hold non-synchronising literals, and reads until it is answered.
    pub fn command(&mut self, text: &[u8]) -> Result<Answer, String> {
        let tag = self.tag();
        let mut octets = [tag.as_bytes(), b" ", text, b"\r\n"].concat();
        if !std::mem::take(&mut self.followed) {
            self.send(&octets);
            return self.answer(tag);
        }
        let second = self.tag();
        octets.extend_from_slice(format!("{second} NOOP\r\n").as_bytes());
        self.send(&octets);
        let answer = self.answer(tag)?;
        self.second = Some(self.answer(second)?);
        Ok(answer)
    }

    /// Begins IDLE. Gives what came before the `+`; for [`Self::end_idle`], its tag.
    pub fn idle(&mut self) -> Result<Answer, String> {
        let tag = self.tag();
        self.send(format!("{tag} IDLE\r\n").as_bytes());
        self.answer(tag)
    }

    pub fn end_idle(&mut self, tag: String) -> Result<Answer, String> {
        self.send(b"DONE\r\n");
        self.answer(tag)
    }

    /// Reads until the command is answered, or asks for more with `+`: its status is then [`Status::PreAuth`], which
    /// no command gets.
    fn answer(&mut self, tag: String) -> Result<Answer, String> {
        let mut answer = Answer { tag, untagged: Vec::new(), status: Status::Bye, code: None, bye: false };
        loop {
            let Some(octets) = self.next()? else {
                return if answer.bye { Ok(answer) } else { Err("the connection ended without BYE".into()) };
            };
            match response(&octets)? {
                Response::Continue(_) => {
                    answer.status = Status::PreAuth;
                    return Ok(answer);
                }
                Response::Status { tag, status, code, .. } => {
                    let arguments = |arguments| String::from_utf8_lossy(arguments).into_owned();
                    let given = code.map(|code| (code.name.to_ascii_uppercase(), arguments(code.arguments)));
                    match tag {
                        Some(tag) if tag == answer.tag => {
                            (answer.status, answer.code) = (status, given);
                            return Ok(answer);
                        }
                        Some(tag) => return Err(format!("an answer with the tag {tag}, not {}", answer.tag)),
                        None => answer.bye |= status == Status::Bye,
                    }
                }
                _ => {}
            }
            answer.untagged.push(octets);
        }
    }

    /// Whether the server has ended the connection, as it must after BYE.
    pub fn ended(&mut self) -> Result<bool, String> {
        Ok(match self.next()? {
            None => true,
            Some(octets) => match response(&octets)? {
                Response::Status { status: Status::Bye, .. } => self.next()?.is_none(),
                _ => false,
            },
        })
    }
}
