//! A small blocking POP3 client.

use std::net::SocketAddr;

use super::Fallible;
use super::connection::Connection;
use crate::fail;

pub struct Pop3 {
    pub connection: Connection,
}

impl Pop3 {
    pub fn login(address: SocketAddr, user: &str, password: &str) -> Fallible<Pop3> {
        let mut pop3 = Pop3 { connection: Connection::open(address)? };
        let greeting = pop3.connection.read_line()?;
        if !greeting.starts_with("+OK") {
            fail!("not a greeting: {greeting}");
        }
        pop3.must(&format!("USER {user}"))?;
        pop3.must(&format!("PASS {password}"))?;
        Ok(pop3)
    }

    pub fn must(&mut self, line: &str) -> Fallible<String> {
        self.connection.send_line(line)?;
        let answer = self.connection.read_line()?;
        if !answer.starts_with("+OK") {
            fail!("{line}: {answer}");
        }
        Ok(answer)
    }
}
