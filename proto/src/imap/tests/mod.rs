//! Tests of both ends together: the framer under any split, the grammar by tables, responses read back.

mod arbitrary;
mod commands;
mod framing;
mod responses;
mod url;

use super::*;

/// What a driver saw, in words that can be compared.
pub(super) type Log = Vec<String>;

/// A driver that accepts everything: feeds `input` in the pieces that `sizes` names (then the rest), and moves the
/// protocol to another core between any two events.
pub(super) fn drive(limits: Limits, stage: Stage, input: &[u8], sizes: &[usize]) -> Log {
    let mut server = Server::new(limits);
    server.set_stage(stage);
    let (mut rx, mut fed, mut sizes) = (Vec::new(), 0, sizes.iter());
    let mut log = Log::new();
    loop {
        let unread: Vec<u8> = std::mem::take(&mut rx);
        let (taken, event) = server.next(&unread);
        assert!(taken <= unread.len(), "took more than there is");
        let mut wants_more = false;
        let mut after: Option<fn(&mut Server)> = None;
        match event {
            Event::NeedMore => wants_more = true,
            Event::AppendData(data) => {
                let data = String::from_utf8_lossy(data).into_owned();
                match log.last_mut() {
                    Some(last) if last.starts_with("data ") => last.push_str(&data),
                    _ => log.push(format!("data {data}")),
                }
            }
            Event::Append(append) => {
                log.push(format!("{append:?}"));
                after = Some(|server| {
                    let _ = server.accept_append();
                });
            }
            Event::AppendPiece(piece) => {
                log.push(format!("AppendPiece({piece:?})"));
                after = Some(|server| {
                    let _ = server.accept_append();
                });
            }
            Event::Command(request) => {
                log.push(format!("{request:?}"));
                match request.command {
                    Command::Idle => after = Some(Server::begin_idle),
                    Command::Authenticate { initial: None, .. } => after = Some(Server::begin_response),
                    _ => {}
                }
            }
            Event::Response(Hidden(line)) => log.push(format!("response {}", String::from_utf8_lossy(line))),
            Event::Refused { tag, refusal, unsaved } => {
                let unsaved = if unsaved { ", unsaved" } else { "" };
                log.push(format!("{} {refusal}{unsaved}", tag.unwrap_or("*")));
            }
            Event::Bye(reason) => {
                log.push(format!("bye {reason:?}"));
                return log;
            }
            other => log.push(format!("{other:?}")),
        }
        if let Some(after) = after {
            after(&mut server);
        }
        server = Server::resume(limits, State::decode(&server.state().encode()).unwrap());
        rx.extend_from_slice(&unread[taken..]);
        if wants_more {
            assert!(rx.len() < server.buffer_octets_max(), "asked for more than it promised");
            if fed == input.len() {
                return log;
            }
            let size = sizes.next().copied().unwrap_or(usize::MAX).max(1).min(input.len() - fed);
            rx.extend_from_slice(&input[fed..fed + size]);
            fed += size;
        }
    }
}

use super::command::Hidden;
