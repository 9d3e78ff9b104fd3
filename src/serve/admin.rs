//! The admin port: metrics, health and readiness over HTTP/1.1, for machines that watch this one.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | the counters of all shards, as OpenMetrics or Prometheus text |
//! | `/health` | 200 as long as the process answers |
//! | `/ready` | 200, or 503 while it starts and while it drains |
//! | `/cost?accounts=20` | on a shared store, what its requests cost: for the operator, as JSON |
//! | POST `/gc?part=0&remove=false` | on a shared store, looks for orphans in a partition, or in `journals`: for the operator |
//! | POST `/takeover?partitions=all` | on a shared store, takes partitions from other nodes: for the operator |
//! | POST `/rebuild?dry_run=false&account=…` | begins to rebuild an account: for the operator |
//! | `/rebuild` | how far that is, and in the end what came of it: for the operator |
//!
//! # Invariants
//! What anybody may ask changes nothing; the operator is known by the token of the control file. No request needs a body.
//!
//! # Limits
//! [`REQUEST_TIMEOUT`] from one answer to the next whole request, so that a slow client is cut off and an idle one too, but not
//! one whose request is being worked on;
//! [`HEAD_OCTETS_MAX`] for a request's head; [`READING_TIMEOUT`] for a shard to say how it is.

mod node;
mod page;
mod pipe;
mod rebuild;

use self::page::{Format, Page, Process, Reading};
use self::pipe::Pipe;
use super::{Peer, Shard};
use culver_shard as shard;
use culver_shard::conn::Conn;
use culver_shard::{disk, mesh, time};
use futures_lite::future::or;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The same while the server drains: whoever watches has this long to learn of it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const READING_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_OCTETS_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

type Answer = Response<Full<Bytes>>;

/// Serves one connection to its end; says how it ended, for the log.
pub async fn serve(shard: Rc<Shard>, mut conn: Conn, _peer: Peer) -> String {
    let pipe = Pipe::new();
    let here = shard.clone();
    let working = Rc::new(Cell::new(false));
    let works = working.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shard, works) = (here.clone(), works.clone());
        async move {
            works.set(true);
            let answer = respond(&shard, &request).await;
            works.set(false);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(HEAD_OCTETS_MAX)
        .max_headers(HEADERS_MAX)
        // Who sends one request and says that no more follow gets the answer all the same.
        .half_close(true)
        // Time is kept by `carry`.
        .header_read_timeout(None)
        .serve_connection(pipe.end(), service);
    let http = async {
        match connection.await {
            Ok(()) => "closed".to_owned(),
            Err(error) => format!("HTTP: {error}"),
        }
    };
    let carried = async {
        match carry(&shard, &mut conn, &pipe, &working).await {
            Ok(why) => why.to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let end = or(http, carried).await;
    let rest = pipe.take_output();
    let _ = time::deadline(WRITE_TIMEOUT, conn.write_all(&rest)).await;
    let _ = time::deadline(CLOSE_TIMEOUT, conn.shutdown()).await;
    end
}

/// Carries octets between the connection and HTTP until nothing is heard for too long.
async fn carry(
    shard: &Shard,
    conn: &mut Conn,
    pipe: &Pipe,
    working: &Cell<bool>,
) -> io::Result<&'static str> {
    enum Woken {
        Read(io::Result<usize>),
        Output,
        Draining,
        Time,
    }
    let mut answered = time::now();
    loop {
        let output = pipe.take_output();
        if !output.is_empty() {
            time::deadline(WRITE_TIMEOUT, conn.write_all(&output)).await??;
            answered = time::now();
        }
        let limit = if shard.is_draining() { DRAIN_TIMEOUT } else { REQUEST_TIMEOUT };
        let left = limit.saturating_sub(answered.elapsed());
        let read = async {
            // What HTTP has not taken yet holds back the client.
            pipe.wants_input().await;
            Woken::Read(conn.fill().await)
        };
        let output = async {
            pipe.has_output().await;
            Woken::Output
        };
        let draining = async {
            match shard.is_draining() {
                true => std::future::pending().await,
                false => shard.draining().await,
            }
            Woken::Draining
        };
        let time = async {
            time::sleep(left).await;
            Woken::Time
        };
        match or(output, or(read, or(draining, time))).await {
            Woken::Output => {}
            Woken::Draining => answered = time::now(),
            Woken::Read(Ok(0)) => pipe.end_input(),
            Woken::Read(Ok(_)) => {
                let input = conn.take_rx();
                pipe.put_input(&input);
                let used = input.len();
                conn.put_rx(input, used);
            }
            Woken::Read(Err(error)) => return Err(error),
            // The silence is ours; what is worked on has a limit of its own.
            Woken::Time if working.get() && !shard.is_draining() => answered = time::now(),
            Woken::Time => return Ok("silent for too long"),
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Health,
    Ready,
    Cost,
    Gc,
    Takeover,
    Rebuild,
    Rebuilding,
    NotFound,
    /// What is allowed.
    MethodNotAllowed(&'static str),
}

fn route(method: &Method, path: &str) -> Route {
    let route = match path {
        "/metrics" => Route::Metrics,
        "/health" => Route::Health,
        "/ready" => Route::Ready,
        "/cost" => Route::Cost,
        "/takeover" if *method == Method::POST => return Route::Takeover,
        "/gc" if *method == Method::POST => return Route::Gc,
        "/rebuild" if *method == Method::POST => return Route::Rebuild,
        "/rebuild" => Route::Rebuilding,
        "/takeover" | "/gc" => return Route::MethodNotAllowed("POST"),
        _ => return Route::NotFound,
    };
    // RFC 9110 §9.1: a general-purpose server supports GET and HEAD.
    match *method == Method::GET || *method == Method::HEAD {
        true => route,
        false => Route::MethodNotAllowed("GET, HEAD"),
    }
}

/// Asks for the token.
fn unauthorized() -> Answer {
    let mut answer = plain(StatusCode::UNAUTHORIZED, "for the operator of this node\n");
    // RFC 6750 §3: a 401 says how to authenticate.
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn json_answer((status, value): (StatusCode, serde_json::Value)) -> Answer {
    text_answer(status, "application/json", format!("{value}\n"))
}

async fn respond(shard: &Shard, request: &Request<Incoming>) -> Answer {
    let authorization = request.headers().get(AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
    let mut answer = match route(request.method(), request.uri().path()) {
        Route::Cost | Route::Gc | Route::Takeover | Route::Rebuild | Route::Rebuilding
            if !node::allows(authorization) =>
        {
            unauthorized()
        }
        Route::Cost | Route::Gc | Route::Takeover if !node::is_here() => json_answer(node::alone()),
        Route::Rebuild => json_answer(rebuild::begin(shard, request.uri().query().unwrap_or_default())),
        Route::Rebuilding => json_answer(rebuild::told().await),
        Route::Cost => {
            let query = request.uri().query().unwrap_or_default();
            json_answer(node::cost(&shard.config().storage, query).await)
        }
        Route::Gc => json_answer(node::gc(shard, request.uri().query().unwrap_or_default()).await),
        Route::Takeover => {
            json_answer(node::takeover(shard, request.uri().query().unwrap_or_default()).await)
        }
        Route::Metrics => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept.unwrap_or_default());
            match page().await.text(format) {
                Ok(text) => text_answer(StatusCode::OK, format.content_type(), text),
                Err(error) => {
                    tracing::error!(%error, "metrics");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n")
                }
            }
        }
        Route::Health => plain(StatusCode::OK, "ok\n"),
        Route::Ready if shard.is_ready() => plain(StatusCode::OK, "ready\n"),
        Route::Ready if shard.is_draining() => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        Route::Ready => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Route::NotFound => plain(StatusCode::NOT_FOUND, "there are /metrics, /health and /ready\n"),
        Route::MethodNotAllowed(allowed) => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "not with this method\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            answer
        }
    };
    if shard.is_draining() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    text_answer(status, "text/plain; charset=utf-8", text)
}

fn text_answer(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Asks every shard how it is; one that does not answer in time is shown as down.
async fn page() -> Page {
    let mut readings = Vec::with_capacity(shard::shards());
    for at in 0..shard::shards() {
        let asked = mesh::call(at, || async { Shard::here().map(|shard| Reading::of(&shard)) });
        readings.push(time::deadline(READING_TIMEOUT, asked).await.ok().and_then(Result::ok).flatten());
    }
    Page { readings, process: process().await }
}

/// What the system says of this process; nothing where it has no procfs.
async fn process() -> Process {
    let status = disk::read("/proc/self/status").await.unwrap_or_default();
    let descriptors = disk::list("/proc/self/fd").await.ok();
    Process {
        resident_octets: page::resident_octets(&String::from_utf8_lossy(&status)),
        descriptors: descriptors.map(|open| open.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths_take_what_they_are_for_and_unknown_ones_nothing() {
        for (method, path, expected) in [
            (Method::GET, "/metrics", Route::Metrics),
            (Method::HEAD, "/metrics", Route::Metrics),
            (Method::GET, "/health", Route::Health),
            (Method::GET, "/ready", Route::Ready),
            (Method::POST, "/ready", Route::MethodNotAllowed("GET, HEAD")),
            (Method::DELETE, "/metrics", Route::MethodNotAllowed("GET, HEAD")),
            (Method::GET, "/cost", Route::Cost),
            (Method::POST, "/takeover", Route::Takeover),
            (Method::GET, "/takeover", Route::MethodNotAllowed("POST")),
            (Method::POST, "/rebuild", Route::Rebuild),
            (Method::GET, "/rebuild", Route::Rebuilding),
            (Method::DELETE, "/rebuild", Route::MethodNotAllowed("GET, HEAD")),
            (Method::GET, "/", Route::NotFound),
            (Method::GET, "/metrics/", Route::NotFound),
            (Method::POST, "/elsewhere", Route::NotFound),
        ] {
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
    }
}
