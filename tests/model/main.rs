//! The model test: random commands of several sessions, on the server and on a model in plain maps; all that the server
//! says must be what the model says.
//!
//! Commands are played one after the other, so each answer is determined. A sequence that fails is made shorter, and
//! is printed with all that went over the wire.
//!
//! At the end the server is killed and started again, and must show every account as the model has it.
//!
//! `CULVER_MODEL_RUNS`: sequences for each test. `CULVER_MODEL_SEED`: the seed of the first; those after it count up.
//!
//! # RFC
//! RFC 3501, 3348, 4315, 4731, 5182, 5464, 6851, 7162, 9208.

mod account;
mod op;
mod play;
mod random;
mod server;
mod session;
mod wire;

use std::env;

use op::Op;
use play::World;
use random::Random;
use server::Server;

/// Accounts for the runs of one test; each run has one of its own.
const RUNS_MAX: usize = 1000;
const RUNS: usize = 200;
/// Accounts for attempts at a shorter sequence.
const ATTEMPTS_MAX: usize = 200;
/// Commands of a run, besides those that fill the INBOX.
const OPS_MIN: usize = 40;
const OPS_MAX: usize = 160;
/// Lines of the conversation that a failure shows.
const TRACE_LINES: usize = 400;

/// What a server says in the cases that matter: sequences that no longer lead there would prove nothing.
const MUST_MEET: [&str; 19] = [
    "VANISHED (EARLIER)",
    "VANISHED ",
    " EXPUNGE",
    "[MODIFIED ",
    "[EXPUNGEISSUED]",
    "[COPYUID ",
    "[APPENDUID ",
    "[TRYCREATE]",
    "[ALREADYEXISTS]",
    "[CANNOT]",
    "[NONEXISTENT]",
    "* BYE [NONEXISTENT]",
    "[CLOSED]",
    "* ESEARCH ",
    "[HIGHESTMODSEQ ",
    "Noselect",
    "* METADATA INBOX /",
    "* METADATA INBOX (",
    "[NOPERM]",
];

struct Failure {
    /// The command at which it failed.
    at: usize,
    why: String,
    trace: Vec<String>,
}

fn run(server: &Server, user: usize, kinds: &[usize], ops: &[Op]) -> Result<World, Failure> {
    let failure = |at: usize, why: String, world: Option<&World>| Failure {
        at,
        why,
        trace: world.map_or_else(Vec::new, |world| world.trace.borrow().clone()),
    };
    let mut world = World::new(server.imap, user, kinds).map_err(|why| failure(0, why, None))?;
    for (at, op) in ops.iter().enumerate() {
        if let Err(why) = world.play(op) {
            return Err(failure(at, format!("{op:?}\n{why}"), Some(&world)));
        }
    }
    match world.finish() {
        Ok(()) => Ok(world),
        Err(why) => Err(failure(ops.len(), format!("at the end\n{why}"), Some(&world))),
    }
}

/// The shortest sequence found that still fails, and how it does.
fn shorten(server: &Server, kinds: &[usize], ops: &[Op], mut failure: Failure) -> (Vec<Op>, Failure) {
    let mut ops = ops[..(failure.at + 1).min(ops.len())].to_vec();
    let mut users = RUNS_MAX..RUNS_MAX + ATTEMPTS_MAX;
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let mut from = 0;
        while from < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(from..(from + chunk).min(ops.len()));
            let Some(user) = users.next() else { return (ops, failure) };
            match run(server, user, kinds, &fewer) {
                Err(found) => {
                    fewer.truncate(found.at + 1);
                    (ops, failure) = (fewer, found);
                }
                Ok(_) => from += chunk,
            }
        }
        chunk /= 2;
    }
    (ops, failure)
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: not a number")))
}

fn compare(exercise_state: bool) {
    let runs = number("CULVER_MODEL_RUNS").map_or(RUNS, |runs| runs as usize).min(RUNS_MAX);
    let seed = number("CULVER_MODEL_SEED").unwrap_or_else(Random::seed);
    println!("CULVER_MODEL_SEED={seed} CULVER_MODEL_RUNS={runs}");
    let server = Server::start(RUNS_MAX + ATTEMPTS_MAX, exercise_state.then_some("1"));
    let mut worlds = Vec::with_capacity(runs);
    let mut met = MUST_MEET.map(|what| (what, 0));
    for at in 0..runs {
        let seed = seed.wrapping_add(at as u64);
        let mut random = Random::new(seed);
        let sessions = 2 + random.below(3);
        let first = random.below(3);
        let kinds: Vec<usize> = (0..sessions).map(|session| (first + session) % 3).collect();
        let count = OPS_MIN + random.below(OPS_MAX - OPS_MIN);
        let ops = op::sequence(&mut random, sessions, count);
        let failure = match run(&server, at, &kinds, &ops) {
            Ok(world) => {
                met.iter_mut().for_each(|(what, count)| *count += world.met(what));
                worlds.push((seed, world));
                continue;
            }
            Err(failure) => failure,
        };
        let (ops, failure) = shorten(&server, &kinds, &ops, failure);
        let skipped = failure.trace.len().saturating_sub(TRACE_LINES);
        for line in &failure.trace[skipped..] {
            println!("{line}");
        }
        for (at, op) in ops.iter().enumerate() {
            println!("{at}: {op:?}");
        }
        println!("server log:\n{}", server.log());
        panic!("CULVER_MODEL_SEED={seed} CULVER_MODEL_RUNS=1, sessions {kinds:?}: {}", failure.why);
    }
    println!("met: {met:?}");
    let never: Vec<&str> = met.iter().filter(|(_, count)| *count == 0).map(|(what, _)| *what).collect();
    assert!(runs < RUNS || never.is_empty(), "the sequences never meet {never:?}");
    let server = server.restart();
    for (seed, mut world) in worlds {
        if let Err(why) = world.look_again(server.imap) {
            world.trace.borrow().iter().for_each(|line| println!("{line}"));
            println!("server log:\n{}", server.log());
            panic!("CULVER_MODEL_SEED={seed} CULVER_MODEL_RUNS=1, after a restart: {why}");
        }
    }
}

#[test]
fn sessions_agree_with_the_model() {
    compare(false);
}

#[test]
fn sessions_that_move_between_commands_agree_with_the_model() {
    compare(true);
}

/// One line of commands on a connection of its own; what came back until the tag, or until the end.
fn talk(stream: &mut std::net::TcpStream, line: &str, until: &str) -> String {
    use std::io::{Read, Write};
    stream.write_all(line.as_bytes()).expect("the connection takes a line");
    let mut said = String::new();
    let mut octets = [0; 4096];
    while !said.contains(until) {
        match stream.read(&mut octets) {
            Ok(0) | Err(_) => break,
            Ok(count) => said.push_str(&String::from_utf8_lossy(&octets[..count])),
        }
    }
    said
}

#[test]
fn a_panic_in_one_session_ends_its_account_s_sessions_and_no_other() {
    // Sessions that sleep hold nothing of their account: they go on.
    for (how, others_end) in [("awake", true), ("1", false)] {
        panic_in_a_session(how, others_end);
    }
}

fn panic_in_a_session(how: &'static str, others_end: bool) {
    let server = server::Server::start(2, Some(how));
    let login = |account: usize| {
        let mut stream = std::net::TcpStream::connect(server.imap).expect("the server listens");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout can be set");
        let line = format!("a LOGIN {} {}\r\n", server::user(account), server::password(account));
        assert!(talk(&mut stream, &line, "a OK").contains("a OK"));
        stream
    };
    let (mut panics, mut same, mut other) = (login(0), login(0), login(1));
    let message = "Subject: kept\r\n\r\nx\r\n";
    let append = format!("b APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len());
    assert!(talk(&mut panics, &append, "b OK").contains("APPENDUID"));
    assert_eq!(talk(&mut panics, "XPANIC NOOP\r\n", "never"), "", "the session ends without a word");
    // The account is dropped and rebuilt: its other sessions end, and the next finds all that was acknowledged.
    let (until, word) = if others_end { ("BYE", "BYE") } else { ("c OK", "c OK") };
    assert!(talk(&mut same, "c NOOP\r\n", until).contains(word));
    assert!(talk(&mut other, "c NOOP\r\n", "c OK").contains("c OK"));
    let mut again = login(0);
    assert!(
        talk(&mut again, "d STATUS INBOX (MESSAGES UIDNEXT)\r\n", "d OK").contains("MESSAGES 1 UIDNEXT 2")
    );
}
