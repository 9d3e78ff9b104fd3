//! A connection as HTTP sees it: two buffers in memory, which [`carry`](super::carry) fills and empties.
//!
//! # Limits
//! Input is taken only when HTTP has used what there was; output waits at [`OUTPUT_OCTETS_MAX`].

use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const OUTPUT_OCTETS_MAX: usize = 256 * 1024;

/// The side of the connection. It and HTTP are polled by one task.
pub struct Pipe(Rc<RefCell<Buffers>>);

/// The side of HTTP.
pub struct End(Rc<RefCell<Buffers>>);

#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    used: usize,
    input_ended: bool,
    output: Vec<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    pub fn new() -> Pipe {
        Pipe(Rc::default())
    }

    pub fn end(&self) -> End {
        End(self.0.clone())
    }

    pub fn put_input(&self, octets: &[u8]) {
        let mut buffers = self.0.borrow_mut();
        let used = std::mem::take(&mut buffers.used);
        buffers.input.drain(..used);
        buffers.input.extend_from_slice(octets);
        wake(&mut buffers.reader);
    }

    /// The client sends no more.
    pub fn end_input(&self) {
        let mut buffers = self.0.borrow_mut();
        buffers.input_ended = true;
        wake(&mut buffers.reader);
    }

    /// Ready when all input was used and more may come.
    pub async fn wants_input(&self) {
        poll_fn(|_| {
            let buffers = self.0.borrow();
            match buffers.used == buffers.input.len() && !buffers.input_ended {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    pub async fn has_output(&self) {
        poll_fn(|_| if self.0.borrow().output.is_empty() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    pub fn take_output(&self) -> Vec<u8> {
        let mut buffers = self.0.borrow_mut();
        wake(&mut buffers.writer);
        std::mem::take(&mut buffers.output)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Read for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffers = self.0.borrow_mut();
        let Buffers { input, used, .. } = &mut *buffers;
        let left = &input[*used..];
        if left.is_empty() {
            if buffers.input_ended {
                return Poll::Ready(Ok(()));
            }
            buffers.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let octets = left.len().min(to.remaining());
        to.put_slice(&left[..octets]);
        *used += octets;
        if *used == input.len() {
            input.clear();
            *used = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut buffers = self.0.borrow_mut();
        let room = OUTPUT_OCTETS_MAX.saturating_sub(buffers.output.len());
        if room == 0 && !octets.is_empty() {
            buffers.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let octets = &octets[..octets.len().min(room)];
        buffers.output.extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    /// What is in the pipe is sent without being asked for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, or};
    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use std::convert::Infallible;

    /// The answers to `requests`, given to HTTP in pieces of `size`; each of them has `octets` octets.
    fn exchange(requests: &[u8], size: usize, octets: usize) -> String {
        let pipe = Pipe::new();
        let service = service_fn(move |_: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("x".repeat(octets))))
        });
        let connection = http1::Builder::new()
            .half_close(true)
            .header_read_timeout(None)
            .serve_connection(pipe.end(), service);
        let mut sent = Vec::new();
        let mut pieces = requests.chunks(size);
        let client = async {
            loop {
                or(pipe.has_output(), pipe.wants_input()).await;
                let output = pipe.take_output();
                if !output.is_empty() {
                    sent.extend(output);
                    continue;
                }
                match pieces.next() {
                    Some(piece) => pipe.put_input(piece),
                    None => pipe.end_input(),
                }
            }
        };
        let http = async { drop(connection.await) };
        block_on(or(http, client));
        sent.extend(pipe.take_output());
        String::from_utf8(sent).expect("ASCII")
    }

    #[test]
    fn requests_on_one_connection_are_answered_at_any_split() {
        let requests = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n";
        for size in 1..=requests.len() {
            let answers = exchange(requests, size, 3);
            assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{size}: {answers}");
            assert_eq!(answers.matches("xxx").count(), 2, "{size}: {answers}");
        }
    }

    #[test]
    fn an_answer_longer_than_the_pipe_comes_whole() {
        let octets = 3 * OUTPUT_OCTETS_MAX + 1;
        let answer = exchange(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", 7, octets);
        assert!(answer.ends_with(&"x".repeat(octets)));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(exchange(b"GET /a HTTP/9.9\r\n\r\n", 64, 1).starts_with("HTTP/1.1 4"));
    }
}
