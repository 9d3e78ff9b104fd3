//! The kill test of two nodes: what was acknowledged is there after every way in which accounts come from one node to another,
//! exactly once, and never two nodes write for one account. A delivery without an answer is made again, with the id that it had,
//! and its message is then there exactly once too.
//!
//! Two processes on one store. In each round workers and deliverers change mailboxes at whoever serves them, as in the kill
//! test of one server; at a random instant something is done to one of the nodes, or to the store ([`Event`]). Every account is
//! then read where it is served, and compared with what its worker knows.
//!
//! # Invariants
//! An account is read before a node that was frozen or cut off hears of anything again. Whatever that node acknowledges from
//! then on is missing in what was read, and found by the comparison.
//! Where the node that was asked goes on, a change of no consequence is committed for each account before it is read: what was
//! under way is then done, or never will be.
//!
//! # Limits
//! [`EVERY_DAY`] for a run without `CULVER_TEST_TAKEOVERS`: no round begins after it.

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{HAND_OVER, TAKE_OVER, command, login};
use crate::durability::ledger::{self, Ledger, Operation, State};
use crate::durability::number;
use crate::durability::worker::{self, Delivered, Left, Shared};
use crate::support::gate::{Gate, Mode};
use crate::support::imap::Imap;
use crate::support::netns::Netns;
use crate::support::process;
use crate::support::radosgw::Radosgw;
use crate::support::random::Random;
use crate::support::seaweed::{self, Seaweed};
use crate::support::server::{Culver, Options, binary, own_process, password, user};
use crate::support::temp::TempDir;
use crate::support::{Fallible, Skipped, eventually, patient, skip};
use crate::{Arguments, ensure, fail};

const ACCOUNTS: usize = 4;
const DELIVERERS: usize = 2;
const NAMES: [&str; 2] = ["a", "b"];
const BUCKET: &str = "chaos";
const LEASE: Duration = Duration::from_secs(super::LEASE_S);
/// So long two nodes may both answer reads: a proof of ownership holds for half a lease, and a look takes its time.
const BOTH_MAX: Duration = LEASE;
/// Rounds of an everyday run. `CULVER_TEST_TAKEOVERS` names a number of takeovers instead: so many there must be.
const ROUNDS_DIRECTORY: u64 = 7;
const ROUNDS_SEAWEED: u64 = 5;
const TAKEOVERS_LONG: u64 = 200;
/// Not every round is a takeover: twice as many rounds and so many more are enough.
const ROUNDS_MORE: u64 = 10;
/// No round of an everyday run begins later.
const EVERY_DAY: Duration = Duration::from_secs(70);
/// In a virtual machine, which emulates each instruction, so many times fewer.
const GUEST: &str = "tests/nfs/run.py";
const GUEST_ONE_IN: u64 = 10;
const GUEST_MAX: Duration = Duration::from_secs(3 * 3600);
/// The event comes within so many milliseconds of the workers' start.
const ROUND_MS_MAX: u64 = 1500;
/// A change waits a minute for its commit.
const PATIENCE: Duration = Duration::from_secs(100);
/// How long the workers of a node that is not the owner any more may take to be told.
const TOLD: Duration = Duration::from_secs(30);
/// How long accounts may take to be served after the store was away: it may take 19 s to come, and requests back off meanwhile.
const STORE_BACK: Duration = Duration::from_secs(90);
/// How long the store answers 503, and how long there is work before a frozen node thaws; in a long run longer, at the first of
/// [`LONG_ONE_IN`].
const REFUSES: Duration = Duration::from_secs(5);
const REFUSES_LONG: Duration = Duration::from_secs(60);
const FROZEN_MS: u64 = 500;
const FROZEN_MS_LONG: u64 = 20_000;
const LONG_ONE_IN: u64 = 4;

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// SIGKILL of the owner; the other one takes it for dead.
    Kill,
    /// SIGKILL, and it starts again at once.
    KillAndBack,
    /// SIGSTOP of the owner, SIGCONT when the other one serves, while the workers still wait.
    Freeze,
    /// The same, but SIGCONT comes after further work at the other one.
    FreezeLong,
    /// `culver takeover --partitions all` at the other one.
    TakeOver,
    /// The same with half of the partitions, so that the next rounds have an owner on either side.
    TakeOverSome,
    /// SIGTERM: the owner hands over.
    Terminate,
    /// The owner's connections to the store are reset, and it gets no new ones.
    Cut,
    /// What the owner and the store send each other arrives when the other node serves.
    Hang,
    /// Every packet between the owner and the store is dropped until the other node serves: what waits must come to its own time limit.
    Drop,
    /// The store answers both nodes 503.
    Unavailable,
    /// The store is killed and started again.
    StoreRestart,
}

impl Event {
    const DIRECTORY: [Event; 7] = [
        Event::Kill,
        Event::KillAndBack,
        Event::Freeze,
        Event::FreezeLong,
        Event::TakeOver,
        Event::TakeOverSome,
        Event::Terminate,
    ];
    const GATED: [Event; 4] = [Event::Cut, Event::Hang, Event::Unavailable, Event::StoreRestart];
    const NETWORKED: [Event; 1] = [Event::Drop];

    /// Whether the owner is left as somebody who does not know that it is the owner no more.
    fn leaves_a_zombie(self) -> bool {
        matches!(self, Event::Freeze | Event::FreezeLong | Event::Cut | Event::Hang | Event::Drop)
    }

    /// Whether whoever was asked may go on as the owner.
    fn owner_may_stay(self) -> bool {
        matches!(self, Event::KillAndBack | Event::TakeOverSome | Event::Unavailable | Event::StoreRestart)
    }
}

enum Store {
    Directory(TempDir),
    Server(Server, Ways),
}

enum Server {
    Seaweed(Box<Seaweed>),
    Radosgw(Box<Radosgw>),
}

impl Server {
    fn restart(&mut self) -> Fallible {
        match self {
            Server::Seaweed(seaweed) => seaweed.restart(),
            Server::Radosgw(radosgw) => radosgw.restart(),
        }
    }

    fn keep(&mut self) -> &Path {
        match self {
            Server::Seaweed(seaweed) => seaweed.keep(),
            Server::Radosgw(radosgw) => radosgw.keep(),
        }
    }
}

/// How each node comes to its store: through a gate, which stands in a network of its own where that can be made.
struct Ways {
    gates: [Gate; 2],
    networks: Option<[Netns; 2]>,
}

impl Ways {
    fn new(store: SocketAddr) -> Fallible<Ways> {
        let networks = Netns::new().and_then(|one| Ok([one, Netns::new()?]));
        let networks = match networks {
            Err(e) if e.is::<Skipped>() => {
                println!("  {e}: no packets are dropped");
                None
            }
            networks => Some(networks?),
        };
        let gate = |node: usize| match &networks {
            Some(networks) => Gate::on(networks[node].listen()?, store),
            None => Gate::new(store),
        };
        Ok(Ways { gates: [gate(0)?, gate(1)?], networks })
    }
}

pub fn on_directory(arguments: &Arguments) -> Fallible {
    own_process()?;
    let dir = match env::var_os("CULVER_TEST_SHARED") {
        Some(below) => TempDir::below(Path::new(&below), "chaos")?,
        None => TempDir::new("chaos")?,
    };
    run(arguments, Store::Directory(dir), ROUNDS_DIRECTORY, "a shared directory")
}

pub fn on_seaweedfs(arguments: &Arguments) -> Fallible {
    own_process()?;
    let seaweed = Seaweed::start()?;
    let ways = Ways::new(seaweed.address())?;
    run(arguments, Store::Server(Server::Seaweed(Box::new(seaweed)), ways), ROUNDS_SEAWEED, "SeaweedFS")
}

/// Ceph is hundreds of megabytes, and slow to start: everyday runs leave it out.
pub fn on_radosgw(arguments: &Arguments) -> Fallible {
    own_process()?;
    if !arguments.long && number("CULVER_TEST_TAKEOVERS").is_none() {
        return skip("Ceph is for long runs (--long, or CULVER_TEST_TAKEOVERS)");
    }
    let radosgw = Radosgw::start(BUCKET)?;
    let ways = Ways::new(radosgw.address())?;
    run(arguments, Store::Server(Server::Radosgw(Box::new(radosgw)), ways), 0, "radosgw")
}

/// The same in a virtual machine that is its own NFS server and client: this test's binary runs on in there.
pub fn on_nfs(arguments: &Arguments) -> Fallible {
    own_process()?;
    let Some(asked) = number("CULVER_TEST_TAKEOVERS").or(arguments.long.then_some(TAKEOVERS_LONG)) else {
        return skip("the guest is for long runs (--long, or CULVER_TEST_TAKEOVERS)");
    };
    process::need("python3")?;
    let script = option_env!("CARGO_MANIFEST_DIR").map(|root| Path::new(root).join(GUEST));
    let mut guest = Command::new("python3");
    guest.arg(script.ok_or("no sources here")?).arg("--no-laws");
    guest.args(["--takeovers", &(asked / GUEST_ONE_IN).max(1).to_string()]);
    guest.args(["--seed", &number("CULVER_TEST_SEED").unwrap_or_else(Random::seed).to_string()]);
    guest.arg("--e2e").arg(env::current_exe()?).arg("--binary").arg(binary()?);
    let told = process::run(&mut guest, b"", GUEST_MAX)?;
    if let Some((_, why)) = told.output.split_once("nfs: skipped: ") {
        return skip(why.trim());
    }
    println!("{}", told.output);
    ensure!(told.code == Some(0), "the guest's test failed");
    Ok(())
}

fn run(arguments: &Arguments, store: Store, every_day: u64, what: &str) -> Fallible {
    let seed = number("CULVER_TEST_SEED").unwrap_or_else(Random::seed);
    let asked = number("CULVER_TEST_TAKEOVERS").or(arguments.long.then_some(TAKEOVERS_LONG));
    let rounds = asked.map_or(every_day, |asked| ROUNDS_MORE + 2 * asked);
    match asked {
        Some(asked) => println!("nodes on {what}: {asked} takeovers, CULVER_TEST_SEED={seed}"),
        None => println!("nodes on {what}: {rounds} rounds, CULVER_TEST_SEED={seed}"),
    }
    let began = Instant::now();
    let mut site = Site::start(store, seed, asked.is_some())?;
    let mut done = 0;
    for round in 1..=rounds {
        let enough = match asked {
            Some(asked) => site.takeovers >= asked,
            None => began.elapsed() > EVERY_DAY,
        };
        if enough {
            break;
        }
        let event = site.next_event();
        let began = Instant::now();
        let played = site
            .play(event)
            .and_then(|told| if site.all_alive() { Ok(told) } else { fail!("a node died by itself") });
        match played {
            Ok(told) => println!("  round {round}: {event:?}: {told} ({} ms)", began.elapsed().as_millis()),
            Err(e) => {
                let kept = site.keep();
                fail!("round {round} of seed {seed}, {event:?}: {e}\n{kept}")
            }
        }
        done += 1;
    }
    let Site { acknowledged, takeovers, .. } = site;
    println!(
        "nodes on {what}: {acknowledged} acknowledged commands and deliveries, {takeovers} takeovers in {done} rounds"
    );
    site.end().map_err(|e| format!("at the end of seed {seed}: {e}\n{}", site.keep()))?;
    match asked {
        Some(asked) => ensure!(takeovers >= asked, "only {takeovers} takeovers in {done} rounds"),
        None => ensure!(done >= rounds.min(3), "only {done} rounds in {EVERY_DAY:?}: the test proved little"),
    }
    ensure!(
        acknowledged >= done,
        "only {acknowledged} commands were acknowledged in {done} rounds: the test proved nothing"
    );
    Ok(())
}

/// Two nodes, their store, and what is known of the accounts.
struct Site {
    // Nodes end before their store.
    nodes: Vec<Culver>,
    store: Store,
    ledgers: Vec<Ledger>,
    next_id: Arc<AtomicU64>,
    random: Random,
    /// Events of this cycle that have not been played.
    events: Vec<Event>,
    played: Vec<Event>,
    long: bool,
    acknowledged: u64,
    /// Rounds after which at least one account had come to another node.
    takeovers: u64,
}

/// What a crew gives when its work is over.
#[derive(Default)]
struct Worked {
    ledgers: Vec<Ledger>,
    in_flight: BTreeMap<usize, Operation>,
    delivered: Delivered,
}

/// The workers at one node.
struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Fallible<Left>>>,
    deliverers: Vec<JoinHandle<Fallible<Delivered>>>,
}

impl Crew {
    fn is_finished(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
            && self.deliverers.iter().all(JoinHandle::is_finished)
    }

    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }

    /// Waits for all of them, each of which has a bound for every wait.
    fn join(&mut self, worked: &mut Worked) -> Fallible {
        let mut problem = None;
        for worker in self.workers.drain(..) {
            match worker.join().map_err(|_| "a worker panicked")? {
                Ok((ledger, operation)) => {
                    if let Some(operation) = operation {
                        worked.in_flight.insert(ledger.account, operation);
                    }
                    worked.ledgers.push(ledger);
                }
                Err(e) => problem = Some(e),
            }
        }
        for deliverer in self.deliverers.drain(..) {
            match deliverer.join().map_err(|_| "a deliverer panicked")? {
                Ok(more) => worked.delivered.extend(more),
                Err(e) => problem = Some(e),
            }
        }
        problem.map_or(Ok(()), Err)
    }
}

impl Site {
    fn start(store: Store, seed: u64, long: bool) -> Fallible<Site> {
        let nodes = (0..2).map(|node| start_node(&store, node)).collect::<Fallible<Vec<_>>>()?;
        let mut site = Site {
            nodes,
            store,
            ledgers: (0..ACCOUNTS).map(Ledger::new).collect(),
            next_id: Arc::new(AtomicU64::new(1)),
            random: Random::new(seed),
            events: Vec::new(),
            played: Vec::new(),
            long,
            acknowledged: 0,
            takeovers: 0,
        };
        let homes = site.settled(TAKE_OVER)?;
        let states = site.read(homes, true)?;
        site.compare(&states, &BTreeMap::new(), &Delivered::default())?;
        Ok(site)
    }

    /// Every event once, in a random order, and again. An everyday run begins with what only a gate can do.
    fn next_event(&mut self) -> Event {
        if self.events.is_empty() {
            let mut shuffled = |mut events: Vec<Event>| {
                for n in (1..events.len()).rev() {
                    events.swap(n, self.random.below(n as u64 + 1) as usize);
                }
                events
            };
            self.events = shuffled(Event::DIRECTORY.to_vec());
            if let Store::Server(_, ways) = &self.store {
                let mut gated = Event::GATED.to_vec();
                if ways.networks.is_some() {
                    gated.extend(Event::NETWORKED);
                }
                self.events.extend(shuffled(gated));
            }
        }
        let event = self.events.pop().expect("it was filled");
        self.played.push(event);
        event
    }

    /// Whether this is one of the rounds of a long run that wait long.
    fn takes_long(&self, event: Event) -> bool {
        self.long && self.played.iter().filter(|&&played| played == event).count() as u64 % LONG_ONE_IN == 1
    }

    fn all_alive(&mut self) -> bool {
        self.nodes.iter_mut().all(Culver::alive)
    }

    fn crew(&mut self, node: usize, homes: &[usize]) -> Crew {
        let shared = Shared::new(self.nodes[node].ports, &self.next_id, Some(patient(PATIENCE)));
        let (here, elsewhere): (Vec<Ledger>, Vec<Ledger>) =
            self.ledgers.drain(..).partition(|ledger| homes[ledger.account] == node);
        self.ledgers = elsewhere;
        let accounts: Vec<usize> = here.iter().map(|ledger| ledger.account).collect();
        let deliverers = if accounts.is_empty() { 0 } else { DELIVERERS };
        let workers = here.into_iter().map(|ledger| {
            let (shared, random) = (shared.clone(), Random::new(self.random.next()));
            thread::spawn(move || worker::work(&shared, ledger, random))
        });
        let workers = workers.collect();
        let deliverers = (0..deliverers).map(|_| {
            let (shared, accounts) = (shared.clone(), accounts.clone());
            let random = Random::new(self.random.next());
            thread::spawn(move || worker::deliver_all(&shared, &accounts, random))
        });
        Crew { deliverers: deliverers.collect(), shared, workers }
    }

    /// One round; gives a line about it.
    fn play(&mut self, event: Event) -> Fallible<String> {
        let homes = self.settled(TAKE_OVER)?;
        let victim = homes[self.random.below(ACCOUNTS as u64) as usize];
        let other = 1 - victim;
        let mut crews = [self.crew(0, &homes), self.crew(1, &homes)];
        let result = self.disturbed(event, victim, &homes, &mut crews);
        // Nobody works on when the round is over, however.
        for crew in &crews {
            crew.shared.abandon();
            self.acknowledged += crew.shared.acknowledged.load(Ordering::SeqCst);
        }
        let after = result?;
        let moved = (0..ACCOUNTS).filter(|&account| homes[account] != after[account]).count();
        self.takeovers += u64::from(moved > 0);
        let acknowledged: u64 =
            crews.iter().map(|crew| crew.shared.acknowledged.load(Ordering::SeqCst)).sum();
        Ok(format!(
            "{acknowledged} acknowledged, {moved} of {ACCOUNTS} accounts from {} to {}",
            NAMES[victim], NAMES[other]
        ))
    }

    /// What happens between two settled states; gives where the accounts are then.
    fn disturbed(
        &mut self,
        event: Event,
        victim: usize,
        homes: &[usize],
        crews: &mut [Crew; 2],
    ) -> Fallible<Vec<usize>> {
        let other = 1 - victim;
        let mut probes = match event.leaves_a_zombie() {
            true => self.probes(victim, homes)?,
            false => Vec::new(),
        };
        // The random instant of the event.
        thread::sleep(Duration::from_millis(20 + self.random.below(ROUND_MS_MAX)));
        ensure!(self.all_alive(), "a node died by itself before anything was done to it");
        for crew in crews.iter() {
            crew.shared.disturbed.store(true, Ordering::SeqCst);
        }
        let mut worked = Worked::default();
        if event == Event::Kill || event == Event::KillAndBack {
            crews[victim].stop();
        }
        self.disturb(event, victim)?;
        let places = match event.owner_may_stay() {
            true => self.settled(STORE_BACK)?,
            false => {
                self.serves_all(other, event)?;
                vec![other; ACCOUNTS]
            }
        };
        crews[other].stop();
        crews[other].join(&mut worked)?;
        match event {
            Event::FreezeLong => crews[victim].shared.abandon(),
            _ if event.owner_may_stay() => crews[victim].stop(),
            _ => {}
        }
        if event == Event::FreezeLong || event.owner_may_stay() {
            crews[victim].join(&mut worked)?;
        }
        let places = if event.owner_may_stay() { self.barrier(places)? } else { places };
        let states = self.read(places, event.owner_may_stay())?;
        if event == Event::FreezeLong {
            self.ledgers.append(&mut worked.ledgers);
            self.compare(&states, &worked.in_flight, &worked.delivered)?;
            worked = Worked::default();
            self.work_on(other, &mut worked)?;
        }
        self.mend(event, victim, &mut probes, homes)?;
        let crew = &crews[victim];
        let told = eventually("the workers of the former owner are told", TOLD, || Ok(crew.is_finished()));
        crew.stop();
        crews[victim].join(&mut worked)?;
        self.ledgers.append(&mut worked.ledgers);
        if event != Event::FreezeLong {
            self.compare(&states, &worked.in_flight, &worked.delivered)?;
        }
        // What was acknowledged and is not there tells more.
        told?;
        // When all are back: one serves, the other one stands by, and the accounts are as they were.
        let mut after = self.settled(TAKE_OVER)?;
        if event != Event::FreezeLong {
            after = self.send_again(after, &worked.delivered)?;
        }
        let states = self.read(after.clone(), true)?;
        match event {
            Event::FreezeLong => self.compare(&states, &worked.in_flight, &worked.delivered)?,
            _ => self
                .compare(&states, &BTreeMap::new(), &Delivered::default())
                .map_err(|e| format!("after the former owner came back: {e}"))?,
        }
        Ok(after)
    }

    /// Sessions at the owner, which will try to change something when it is the owner no more.
    fn probes(&self, victim: usize, homes: &[usize]) -> Fallible<Vec<(usize, Imap)>> {
        let mut probes = Vec::new();
        for account in (0..ACCOUNTS).filter(|&account| homes[account] == victim) {
            let end = Instant::now() + patient(TAKE_OVER);
            let imap = loop {
                let ports = &self.nodes[victim].ports;
                let opened = Imap::login(ports.imap, &user(account), &password(account))
                    .and_then(|mut imap| imap.must("SELECT INBOX").map(|_| imap));
                match opened {
                    Ok(imap) => break imap,
                    // Its store is slow: it has no proof for a moment.
                    Err(e) if e.to_string().contains("[UNAVAILABLE]") && Instant::now() < end => {
                        thread::sleep(Duration::from_millis(20));
                    }
                    Err(e) => return Err(e),
                }
            };
            probes.push((account, imap));
        }
        Ok(probes)
    }

    fn disturb(&mut self, event: Event, victim: usize) -> Fallible {
        match event {
            Event::Kill => self.nodes[victim].kill(),
            Event::KillAndBack => {
                self.nodes[victim].kill();
                self.restart(victim)?;
            }
            Event::Freeze | Event::FreezeLong => self.signal(victim, "STOP")?,
            Event::TakeOver => takeover(&self.nodes[1 - victim], "all")?,
            Event::TakeOverSome => {
                let first = self.random.below(32);
                takeover(&self.nodes[1 - victim], &format!("{first}-{}", first + 31))?;
            }
            Event::Terminate => self.nodes[victim].terminate()?,
            Event::Cut => self.gate(victim, Mode::Cut)?,
            Event::Hang => self.gate(victim, Mode::Hang)?,
            Event::Drop => self.drop_packets(victim, true)?,
            Event::Unavailable => {
                let long = self.takes_long(event);
                for node in 0..2 {
                    self.gate(node, Mode::Unavailable)?;
                }
                thread::sleep(if long { REFUSES_LONG } else { REFUSES });
                for node in 0..2 {
                    self.gate(node, Mode::Open)?;
                }
            }
            Event::StoreRestart => match &mut self.store {
                Store::Server(server, _) => server.restart()?,
                Store::Directory(_) => fail!("a directory has no process"),
            },
        }
        Ok(())
    }

    /// Undoes what was done to the former owner, which must not serve for a moment.
    fn mend(
        &mut self,
        event: Event,
        victim: usize,
        probes: &mut [(usize, Imap)],
        homes: &[usize],
    ) -> Fallible {
        match event {
            Event::Kill | Event::Terminate => self.restart(victim)?,
            Event::Freeze | Event::FreezeLong => self.signal(victim, "CONT")?,
            Event::Cut | Event::Hang => self.gate(victim, Mode::Open)?,
            Event::Drop => self.drop_packets(victim, false)?,
            Event::KillAndBack
            | Event::TakeOver
            | Event::TakeOverSome
            | Event::Unavailable
            | Event::StoreRestart => {}
        }
        if !event.leaves_a_zombie() {
            return Ok(());
        }
        // Its proof is older than the lease of those who took over.
        for account in (0..ACCOUNTS).filter(|&account| homes[account] == victim) {
            let said = login(&self.nodes[victim], account)?;
            ensure!(said.starts_with("NO [UNAVAILABLE]"), "the former owner answers a LOGIN: {said}");
        }
        for (account, imap) in probes {
            let id = self.next_id.fetch_add(1, Ordering::SeqCst);
            match imap.append("INBOX", "", &ledger::message(id)) {
                Ok(answer) => ensure!(
                    answer.result.starts_with("NO [UNAVAILABLE]"),
                    "the former owner answers an APPEND for {}: {}",
                    user(*account),
                    answer.result
                ),
                // It has said BYE.
                Err(e) => {
                    let e = e.to_string();
                    ensure!(
                        !e.contains("no answer within"),
                        "the former owner leaves an APPEND without an answer: {e}"
                    );
                }
            }
        }
        Ok(())
    }

    /// Further work at a node that has all accounts.
    fn work_on(&mut self, node: usize, worked: &mut Worked) -> Fallible {
        let mut crew = self.crew(node, &[node; ACCOUNTS]);
        let frozen = if self.takes_long(Event::FreezeLong) { FROZEN_MS_LONG } else { FROZEN_MS };
        thread::sleep(Duration::from_millis(frozen + self.random.below(ROUND_MS_MAX)));
        crew.stop();
        let joined = crew.join(worked);
        self.acknowledged += crew.shared.acknowledged.load(Ordering::SeqCst);
        joined
    }

    fn signal(&self, node: usize, name: &str) -> Fallible {
        process::signal(self.nodes[node].pid().ok_or("the node does not run")?, name)
    }

    fn gate(&self, node: usize, mode: Mode) -> Fallible {
        match &self.store {
            Store::Server(_, ways) => ways.gates[node].set(mode),
            Store::Directory(_) => fail!("a directory has no gate"),
        }
        Ok(())
    }

    fn drop_packets(&self, node: usize, drops: bool) -> Fallible {
        match &self.store {
            Store::Server(_, Ways { networks: Some(networks), .. }) => networks[node].drops(drops),
            _ => fail!("no network of its own"),
        }
    }

    fn restart(&mut self, node: usize) -> Fallible {
        let shards = 1 + self.random.below(3) as usize;
        self.nodes[node].restart(shards)
    }

    fn serves_all(&self, node: usize, event: Event) -> Fallible {
        let limit = match event {
            Event::TakeOver => Duration::ZERO,
            Event::Terminate => HAND_OVER,
            _ => TAKE_OVER,
        };
        super::serves_all(&self.nodes[node], limit)
    }

    /// Waits until each account is served by one node while the other one says so; which. Both nodes must run.
    ///
    /// Two nodes may answer reads at a time as long as a proof holds, and no longer.
    fn settled(&mut self, limit: Duration) -> Fallible<Vec<usize>> {
        let end = Instant::now() + patient(limit);
        let mut both: [Option<Instant>; ACCOUNTS] = [None; ACCOUNTS];
        loop {
            ensure!(self.all_alive(), "a node died by itself");
            let mut homes = Vec::new();
            let mut last = String::new();
            for (account, both) in both.iter_mut().enumerate() {
                let said = [0, 1].map(|node| match login(&self.nodes[node], account) {
                    Ok(said) => said,
                    Err(e) => format!("no answer: {e}"),
                });
                let serves = [0, 1].map(|node: usize| said[node].starts_with("OK"));
                let knows = |node: usize| said[node].contains(&format!("is served by {} ", NAMES[1 - node]));
                if serves == [true, true] {
                    let since = both.get_or_insert_with(Instant::now).elapsed();
                    ensure!(
                        since < patient(BOTH_MAX),
                        "both nodes have served {} for {since:?}",
                        user(account)
                    );
                } else {
                    *both = None;
                }
                match (0..2).find(|&node| serves[node] && knows(1 - node)) {
                    Some(node) => homes.push(node),
                    None => last = format!("{}: a says {:?}, b says {:?}", user(account), said[0], said[1]),
                }
            }
            if homes.len() == ACCOUNTS {
                return Ok(homes);
            }
            ensure!(Instant::now() < end, "waited {limit:?} in vain for one owner of each account; {last}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has a change of no consequence committed for each account; where they are then.
    fn barrier(&mut self, mut places: Vec<usize>) -> Fallible<Vec<usize>> {
        let end = Instant::now() + patient(STORE_BACK);
        let mut account = 0;
        while account < ACCOUNTS {
            let ports = &self.nodes[places[account]].ports;
            let changed = Imap::login(ports.imap, &user(account), &password(account)).and_then(|mut imap| {
                // One of the two is a change, whatever was there.
                imap.must("SUBSCRIBE INBOX")?;
                imap.must("UNSUBSCRIBE INBOX")
            });
            match changed {
                Ok(_) => account += 1,
                Err(e) => {
                    ensure!(Instant::now() < end, "no change is taken for {}: {e}", user(account));
                    places = self.settled(STORE_BACK)?;
                    account = 0;
                }
            }
        }
        Ok(places)
    }

    /// Delivers again what had no answer; where the accounts are then. The ledgers say what of it is there already.
    fn send_again(&mut self, mut places: Vec<usize>, delivered: &Delivered) -> Fallible<Vec<usize>> {
        let end = Instant::now() + patient(STORE_BACK);
        for account in 0..ACCOUNTS {
            for id in delivered.unknown(account) {
                while let Err(e) = worker::deliver_again(&self.nodes[places[account]].ports, account, id) {
                    ensure!(Instant::now() < end, "{}: {e}", user(account));
                    places = self.settled(STORE_BACK)?;
                }
                let ledger = self.ledgers.iter_mut().find(|ledger| ledger.account == account);
                let ledger = ledger.ok_or("an account without a ledger")?;
                if !ledger.holds(id) {
                    ledger.add_delivered(id);
                }
            }
        }
        Ok(places)
    }

    /// All accounts, each where it is served. A node that has no proof for a moment, since its store was slow, is asked again; where
    /// both run, one of them may still be about to take over, and an account is then read at its new place.
    fn read(&mut self, mut places: Vec<usize>, both: bool) -> Fallible<Vec<State>> {
        let mut states = Vec::new();
        let end = Instant::now() + patient(STORE_BACK);
        while states.len() < ACCOUNTS {
            let account = states.len();
            let node = places[account];
            match ledger::read(&self.nodes[node].ports, account) {
                Ok(state) => states.push(state),
                Err(e) if e.to_string().contains("[UNAVAILABLE]") && Instant::now() < end => match both {
                    true => places = self.settled(TAKE_OVER)?,
                    false => thread::sleep(Duration::from_millis(20)),
                },
                Err(e) => fail!("reading {} at {}: {e}", user(account), NAMES[node]),
            }
        }
        Ok(states)
    }

    /// Compares, and takes what was read as the truth.
    fn compare(
        &mut self,
        states: &[State],
        in_flight: &BTreeMap<usize, Operation>,
        delivered: &Delivered,
    ) -> Fallible {
        self.ledgers.sort_by_key(|ledger| ledger.account);
        ensure!(self.ledgers.len() == ACCOUNTS, "{} ledgers", self.ledgers.len());
        for ledger in &mut self.ledgers {
            let account = ledger.account;
            for id in delivered.acknowledged(account) {
                ledger.add_delivered(id);
            }
            let operation = in_flight.get(&account);
            ledger
                .compare(&states[account], operation, &delivered.unknown(account))
                .map_err(|e| format!("{}: {e}\nin flight: {operation:?}", user(account)))?;
        }
        Ok(())
    }

    /// Nothing that is needed is missing in the store, and both nodes end in order.
    fn end(&mut self) -> Fallible {
        let told = command(&["gc", "--json"], &self.nodes[0].data())?;
        ensure!(told.code == Some(0) && told.output.contains("\"missing\":0"), "culver gc: {}", told.output);
        for node in &mut self.nodes {
            node.terminate()?;
            // A panic ends its task and nothing else; what is damaged is told in the log alone until somebody asks for it.
            let log = node.log();
            let wrong =
                log.lines().find(|line| line.contains("panicked at") || line.contains("a person must look"));
            if let Some(line) = wrong {
                fail!("a node's log says: {line}");
            }
        }
        Ok(())
    }

    /// Keeps all directories for whoever looks into the failure; where they are, and the ends of the logs.
    fn keep(&mut self) -> String {
        let mut kept = String::new();
        match &mut self.store {
            Store::Directory(dir) => {
                dir.keep();
                kept += &format!("kept: {}\n", dir.path().display());
            }
            Store::Server(server, _) => kept += &format!("kept: {}\n", server.keep().display()),
        }
        for node in &mut self.nodes {
            // One that was frozen writes no log, and is not ended by less.
            kept += &format!("kept: {}\n", node.keep().display());
            kept += &format!("{}\n", node.log_tail());
        }
        kept
    }
}

/// Has a node take partitions of the 64 that there are.
fn takeover(node: &Culver, partitions: &str) -> Fallible {
    let done = command(&["takeover", "--partitions", partitions, "--json"], &node.data())?;
    ensure!(done.code == Some(0), "culver takeover: {}", done.output);
    Ok(())
}

fn start_node(store: &Store, node: usize) -> Fallible<Culver> {
    let url = match store {
        Store::Directory(dir) => format!("file://{}/store?shared=true", dir.path().display()),
        Store::Server(_, ways) => {
            format!(
                "s3://{BUCKET}/mail?endpoint=http://{}&region=us-east-1&path_style=true",
                ways.gates[node].address
            )
        }
    };
    let lease = patient(LEASE).as_secs().to_string();
    let words = ["--store", &url, "--node", NAMES[node], "--lease", &lease];
    let words = words.map(str::to_owned).to_vec();
    let environment = match store {
        Store::Directory(_) => Vec::new(),
        Store::Server(..) => vec![
            ("AWS_ACCESS_KEY_ID", seaweed::KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", seaweed::SECRET.to_owned()),
        ],
    };
    Culver::start(NAMES[node], Options { accounts: ACCOUNTS, words, environment, ..Options::default() })
}
