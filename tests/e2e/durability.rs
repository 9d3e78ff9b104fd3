//! The kill test: what was acknowledged is there after SIGKILL, exactly once.
//!
//! Workers (one an account, each with two IMAP connections and one for LMTP) and deliverers (LMTP to several
//! recipients) change mailboxes until the server is killed at a random instant; it restarts, now and then
//! with another number of shards; every account is read and compared with what its worker knows.
//!
//! # Invariants
//! A worker has at most one command in flight. An account must be as before that command or as after it;
//! where the command names several messages, each of them may be on either side, but in one place only.
//! UIDs, UIDVALIDITY and HIGHESTMODSEQ never go back, and a UID never names another message.

pub mod ledger;
pub mod worker;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ledger::Ledger;
use worker::{Delivered, Shared};

use crate::support::random::Random;
use crate::support::server::{Options, Target, user};
use crate::support::{Fallible, Skipped};
use crate::{Arguments, Test, fail};

const ACCOUNTS: usize = 4;
const ALL: [usize; ACCOUNTS] = [0, 1, 2, 3];
const DELIVERERS: usize = 2;
/// Kills of a run in CI and of a long one; `CULVER_TEST_KILLS` names another number.
const KILLS: u64 = 15;
const KILLS_LONG: u64 = 300;
/// The kill comes within so many milliseconds of the round's start.
const ROUND_MS_MAX: u64 = 1500;
/// After one kill in so many, everything stored is verified before the restart.
const CHECK_ONE_IN: u64 = 4;

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "durability_ledger_finds_every_kind_of_loss", run: |_| ledger::self_test() },
        Test { name: "durability_what_was_acknowledged_survives_kill", run: killed },
    ]
}

/// A number of the environment.
pub fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn killed(arguments: &Arguments) -> Fallible {
    let seed = number("CULVER_TEST_SEED").unwrap_or_else(Random::seed);
    let kills = number("CULVER_TEST_KILLS").unwrap_or(if arguments.long { KILLS_LONG } else { KILLS });
    println!("durability: {kills} kills, CULVER_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let mut target = Target::start("durability", Options { accounts: ACCOUNTS, ..Options::default() })?;
    let mut ledgers: Vec<Ledger> = (0..ACCOUNTS).map(Ledger::new).collect();
    let next_id = Arc::new(AtomicU64::new(1));
    for ledger in &mut ledgers {
        ledger.compare(&ledger::read(target.ports(), ledger.account)?, None, &[])?;
    }
    let mut acknowledged = 0;
    for round in 1..=kills {
        let result = play_round(&mut target, &mut ledgers, &next_id, &mut random);
        match result {
            Ok(commands) => acknowledged += commands,
            Err(e) if e.is::<Skipped>() => return Err(e),
            Err(e) => {
                let kept = match target.culver() {
                    Ok(culver) => {
                        let log = culver.log_tail();
                        format!("\nkept: {}\n{log}", culver.keep().display())
                    }
                    Err(_) => target.log_tail(),
                };
                fail!("round {round} of seed {seed}: {e}{kept}")
            }
        }
    }
    println!("durability: {acknowledged} acknowledged commands and deliveries over {kills} kills");
    if acknowledged < kills {
        fail!("only {acknowledged} commands were acknowledged in {kills} rounds: the test proved nothing");
    }
    Ok(())
}

/// One round: work, kill, restart, compare. Gives how much was acknowledged.
fn play_round(
    target: &mut Target,
    ledgers: &mut Vec<Ledger>,
    next_id: &Arc<AtomicU64>,
    random: &mut Random,
) -> Fallible<u64> {
    let shared = Shared::new(*target.ports(), next_id, None);
    let workers: Vec<_> = ledgers
        .drain(..)
        .map(|ledger| {
            let (shared, random) = (shared.clone(), Random::new(random.next()));
            thread::spawn(move || worker::work(&shared, ledger, random))
        })
        .collect();
    let deliverers: Vec<_> = (0..DELIVERERS)
        .map(|_| {
            let (shared, random) = (shared.clone(), Random::new(random.next()));
            thread::spawn(move || worker::deliver_all(&shared, &ALL, random))
        })
        .collect();
    // The random instant of the kill.
    thread::sleep(Duration::from_millis(20 + random.below(ROUND_MS_MAX)));
    shared.stopping.store(true, Ordering::SeqCst);
    if let Ok(culver) = target.culver() {
        if !culver.alive() {
            fail!("the server died by itself");
        }
        culver.kill();
    }
    let mut pending = Vec::new();
    let mut problem = None;
    for one in workers {
        match one.join().map_err(|_| "a worker panicked")? {
            Ok((ledger, operation)) => {
                ledgers.push(ledger);
                pending.push(operation);
            }
            Err(e) => problem = Some(e),
        }
    }
    let mut delivered = Delivered::default();
    for one in deliverers {
        match one.join().map_err(|_| "a deliverer panicked")? {
            Ok(more) => delivered.extend(more),
            Err(e) => problem = Some(e),
        }
    }
    if let Some(e) = problem {
        return Err(e);
    }
    if let Ok(culver) = target.culver() {
        if random.chance(CHECK_ONE_IN) {
            culver.check()?;
        }
        let shards = if random.chance(3) { 1 + random.below(4) as usize } else { 2 };
        culver.restart(shards)?;
    }
    for (ledger, operation) in ledgers.iter_mut().zip(pending) {
        for id in delivered.acknowledged(ledger.account) {
            ledger.add_delivered(id);
        }
        let perhaps = delivered.unknown(ledger.account);
        let state = ledger::read(target.ports(), ledger.account)?;
        ledger
            .compare(&state, operation.as_ref(), &perhaps)
            .map_err(|e| format!("account {}: {e}\nin flight: {operation:?}", user(ledger.account)))?;
    }
    Ok(shared.acknowledged.load(Ordering::SeqCst))
}
