//! An issuer of tokens, as far as it is asked about them (RFC 7662): HTTP on a port of its own, and what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::Fallible;

/// What it says of a token.
#[derive(Clone)]
pub enum Answer {
    Json(String),
    Status(u16),
    /// It takes the question and says nothing.
    Silence,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Answer>,
    /// Heads and bodies.
    asked: Vec<(String, String)>,
}

#[derive(Clone)]
pub struct Issuer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Issuer {
    pub fn start() -> Fallible<Issuer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let issuer = Issuer { address: listener.local_addr()?, state: Arc::default() };
        let state = issuer.state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Ok(issuer)
    }

    pub fn says(&self, token: &str, answer: Answer) {
        self.state.lock().expect("no panic while held").answers.insert(token.to_owned(), answer);
    }

    /// How often it was asked about a token, and the last question.
    pub fn asked(&self, token: &str) -> (usize, Option<(String, String)>) {
        let state = self.state.lock().expect("no panic while held");
        let mut asked: Vec<_> =
            state.asked.iter().filter(|(_, body)| token_of(body) == token).cloned().collect();
        (asked.len(), asked.pop())
    }
}

fn token_of(body: &str) -> &str {
    body.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default()
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let answer = {
            let mut state = state.lock().expect("no panic while held");
            state.asked.push((head, body.clone()));
            state.answers.get(token_of(&body)).cloned()
        };
        let (status, json) = match answer {
            Some(Answer::Json(json)) => (200, json),
            Some(Answer::Status(status)) => (status, "{}".to_owned()),
            Some(Answer::Silence) => loop {
                // The other end gives up and closes.
                if reader.read(&mut [0]).ok()? == 0 {
                    return None;
                }
            },
            None => (200, r#"{"active":false}"#.to_owned()),
        };
        let octets = json.len();
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {octets}\r\n\r\n{json}"
        )
        .ok()?;
    }
}
