//! Those who change mailboxes while the server is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::ledger::{Ledger, Message, Operation, between, leading_number, message};
use crate::fail;
use crate::support::Fallible;
use crate::support::connection::Connection;
use crate::support::imap::{Answer, Imap, numbers, quoted};
use crate::support::lmtp::{Lmtp, stuffed};
use crate::support::random::Random;
use crate::support::server::{Ports, password, user};

const FLAGS: [&str; 8] =
    ["\\Seen", "\\Answered", "\\Flagged", "\\Draft", "$Forwarded", "$Junk", "work", "Later"];
const NAMES: [&str; 6] = ["box0", "box1", "box2", "box3", "box4", "box5"];
/// Above this many messages, a mailbox is expunged rather than filled.
const MESSAGES_MAX: usize = 60;
/// Deliveries of one deliverer in a round: the workers must be able to expunge as much.
const DELIVERIES_MAX: u32 = 40;

/// What the workers of one server process share for a round.
pub struct Shared {
    pub ports: Ports,
    /// Set just before the kill: from then on nothing new begins, and a lost connection is no failure.
    pub stopping: AtomicBool,
    pub acknowledged: AtomicU64,
    pub next_id: Arc<AtomicU64>,
    /// Of several nodes: how long an answer may take where the store does not answer.
    pub roaming: Option<Duration>,
    /// Of several nodes, set just before something is done to one of them: a lost connection is no failure, but the work goes on.
    pub disturbed: AtomicBool,
    /// Of several nodes: the workers' connections.
    streams: Mutex<Vec<TcpStream>>,
}

impl Shared {
    pub fn new(ports: Ports, next_id: &Arc<AtomicU64>, roaming: Option<Duration>) -> Arc<Shared> {
        Arc::new(Shared {
            ports,
            stopping: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            next_id: next_id.clone(),
            roaming,
            disturbed: AtomicBool::new(false),
            streams: Mutex::default(),
        })
    }

    /// The workers hear no more of what they have asked for; the server does not learn of it before it reads.
    pub fn abandon(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().expect("no panic while held").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn enlist(&self, connection: &mut Connection) -> Fallible {
        if let Some(limit) = self.roaming {
            connection.limit = limit;
            self.streams.lock().expect("no panic while held").push(connection.stream().try_clone()?);
        }
        Ok(())
    }

    /// Whether this may be how a worker's time with this server ends: what was asked for is then done, or it is not.
    fn may_end(&self, broken: &Broken) -> bool {
        match broken {
            Broken::Refused(answer) => self.roaming.is_some() && says_away(answer),
            Broken::Lost(why) => {
                let roaming = self.disturbed.load(Ordering::SeqCst) || says_away(why);
                self.stopping() || self.roaming.is_some() && roaming
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::SeqCst)
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether an answer says that the account is served elsewhere, or not now.
fn says_away(answer: &str) -> bool {
    ["[UNAVAILABLE]", "451 4.", "421 4."].iter().any(|said| answer.contains(said))
}

struct Connections {
    imap: [Imap; 2],
    selected: [Option<String>; 2],
    lmtp: Lmtp,
}

/// What a worker leaves: its ledger, and the command that was in flight.
pub type Left = (Ledger, Option<Operation>);

/// Works until the server goes away.
pub fn work(shared: &Shared, mut ledger: Ledger, mut random: Random) -> Fallible<Left> {
    let (name, password) = (user(ledger.account), password(ledger.account));
    let open = || -> Fallible<Connections> {
        let imap = || -> Fallible<Imap> {
            let mut imap = Imap::login(shared.ports.imap, &name, &password)?;
            shared.enlist(&mut imap.connection)?;
            imap.must("ENABLE CONDSTORE")?;
            Ok(imap)
        };
        let mut lmtp = Lmtp::open(shared.ports.lmtp)?;
        shared.enlist(&mut lmtp.connection)?;
        Ok(Connections { imap: [imap()?, imap()?], selected: [None, None], lmtp })
    };
    let mut connections = match open() {
        Ok(connections) => connections,
        Err(e) if shared.may_end(&Broken::Lost(e.to_string())) => return Ok((ledger, None)),
        Err(e) => return Err(e),
    };
    while !shared.stopping() {
        let operation = choose(shared, &ledger, &mut random);
        match perform(&mut connections, &mut ledger, &operation, &mut random) {
            Ok(uids) => {
                ledger.apply(&operation, &uids);
                shared.acknowledge();
            }
            Err(broken) if shared.may_end(&broken) => return Ok((ledger, Some(operation))),
            Err(Broken::Refused(answer)) => fail!("{operation:?} was refused: {answer}"),
            Err(Broken::Lost(e)) => fail!("{operation:?}: {e}"),
        }
    }
    Ok((ledger, None))
}

fn choose(shared: &Shared, ledger: &Ledger, random: &mut Random) -> Operation {
    let names: Vec<&String> = ledger.mailboxes.keys().collect();
    let others: Vec<&String> = names.iter().copied().filter(|name| *name != "INBOX").collect();
    let mailbox = (*random.pick(&names)).clone();
    let held = &ledger.mailboxes[&mailbox];
    let known: Vec<u32> = held.messages.iter().filter_map(|m| m.uid).collect();
    let few = |random: &mut Random| -> Vec<u32> {
        let mut uids: Vec<u32> = (0..1 + random.below(3)).map(|_| *random.pick(&known)).collect();
        uids.sort_unstable();
        uids.dedup();
        uids
    };
    let flags = |random: &mut Random| -> BTreeSet<String> {
        (0..random.below(4)).map(|_| (*random.pick(&FLAGS)).to_owned()).collect()
    };
    // Only what is known to have \Deleted is expunged, so that marking is a command of its own.
    let expunge = |uids: Vec<u32>| {
        let marked = |m: &&Message| m.flags.contains("\\Deleted");
        let marked: Vec<u32> = held.messages.iter().filter(marked).filter_map(|m| m.uid).take(3).collect();
        match marked.is_empty() {
            true => Operation::Store {
                mailbox: mailbox.clone(),
                uids,
                how: '+',
                flags: BTreeSet::from(["\\Deleted".to_owned()]),
            },
            false => Operation::Expunge { mailbox: mailbox.clone(), uids: marked },
        }
    };
    if held.messages.len() > MESSAGES_MAX && !known.is_empty() {
        return expunge(known[..known.len().min(3)].to_vec());
    }
    let append = |random: &mut Random, mailbox: &str| Operation::Append {
        mailbox: mailbox.to_owned(),
        id: shared.id(),
        flags: flags(random),
    };
    match random.below(20) {
        0..=3 => append(random, &mailbox),
        4 | 5 => Operation::Deliver { id: shared.id() },
        6..=10 if !known.is_empty() => {
            let how = *random.pick(&['+', '-', '=']);
            Operation::Store { uids: few(random), mailbox, how, flags: flags(random) }
        }
        11 | 12 if !known.is_empty() => expunge(few(random)),
        13 | 14 if !known.is_empty() => {
            Operation::Copy { uids: few(random), from: mailbox, to: (*random.pick(&names)).clone() }
        }
        15 | 16 if !known.is_empty() => {
            let targets: Vec<_> = names.iter().filter(|name| ***name != mailbox).collect();
            match targets.is_empty() {
                true => append(random, &mailbox),
                false => Operation::Move {
                    uids: few(random),
                    from: mailbox,
                    to: (**random.pick(&targets)).clone(),
                },
            }
        }
        17 => {
            let parent = others.iter().filter(|name| !name.contains('/')).collect::<Vec<_>>();
            let name = match parent.is_empty() || random.chance(2) {
                true => (*random.pick(&NAMES)).to_owned(),
                false => format!("{}/sub", random.pick(&parent)),
            };
            match ledger.mailboxes.contains_key(&name) {
                true => append(random, &name),
                false => Operation::Create { mailbox: name },
            }
        }
        18 if !others.is_empty() => {
            let from = (*random.pick(&others)).clone();
            let to = (*random.pick(&NAMES)).to_owned();
            let clear =
                !ledger.mailboxes.keys().any(|name| *name == to || name.starts_with(&format!("{to}/")));
            match clear && !from.contains('/') {
                true => Operation::Rename { from, to },
                false => append(random, &from),
            }
        }
        19 if !others.is_empty() => {
            let name = (*random.pick(&others)).clone();
            match ledger.mailboxes.keys().any(|other| other.starts_with(&format!("{name}/"))) {
                true => append(random, &name),
                false => Operation::Delete { mailbox: name },
            }
        }
        _ => append(random, &mailbox),
    }
}

enum Broken {
    /// The server said no.
    Refused(String),
    /// No answer.
    Lost(String),
}

fn set(uids: &[u32]) -> String {
    uids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Does one operation; gives the new UIDs that the server told.
fn perform(
    connections: &mut Connections,
    ledger: &mut Ledger,
    operation: &Operation,
    random: &mut Random,
) -> Result<Vec<u32>, Broken> {
    let which = random.below(2) as usize;
    match operation {
        Operation::Append { mailbox, id, flags } => {
            let flags = flags.iter().cloned().collect::<Vec<_>>().join(" ");
            let answer = connections.imap[which]
                .append(mailbox, &format!("({flags}) "), &message(*id))
                .map_err(|e| Broken::Lost(e.to_string()))?;
            let answer = accepted(answer)?;
            let told =
                answer.code("APPENDUID").ok_or_else(|| Broken::Refused("OK without APPENDUID".into()))?;
            Ok(told.split(' ').nth(1).map(numbers).unwrap_or_default())
        }
        Operation::Deliver { id } => {
            let recipient = user(ledger.account);
            let replies = connections.lmtp.deliver("sender@example.net", &[&recipient], &message(*id));
            let replies = replies.map_err(|e| Broken::Lost(e.to_string()))?;
            match replies[0].starts_with("250") {
                true => Ok(Vec::new()),
                false => Err(Broken::Refused(replies[0].clone())),
            }
        }
        Operation::Store { mailbox, uids, how, flags } => {
            let flags = flags.iter().cloned().collect::<Vec<_>>().join(" ");
            let how = if *how == '=' { String::new() } else { how.to_string() };
            let silent = if random.chance(2) { ".SILENT" } else { "" };
            let command = format!("UID STORE {} {how}FLAGS{silent} ({flags})", set(uids));
            within(connections, ledger, which, mailbox, &command)?;
            Ok(Vec::new())
        }
        Operation::Expunge { mailbox, uids } => {
            within(connections, ledger, which, mailbox, &format!("UID EXPUNGE {}", set(uids)))?;
            Ok(Vec::new())
        }
        Operation::Copy { from, to, uids } => {
            let answer =
                within(connections, ledger, which, from, &format!("UID COPY {} {}", set(uids), quoted(to)))?;
            copied(uids, answer.code("COPYUID"))
        }
        Operation::Move { from, to, uids } => {
            let answer =
                within(connections, ledger, which, from, &format!("UID MOVE {} {}", set(uids), quoted(to)))?;
            let told = answer.untagged_code("COPYUID").or_else(|| answer.code("COPYUID").map(str::to_owned));
            copied(uids, told.as_deref())
        }
        Operation::Create { mailbox } => by_name(connections, which, &format!("CREATE {}", quoted(mailbox))),
        Operation::Delete { mailbox } => by_name(connections, which, &format!("DELETE {}", quoted(mailbox))),
        Operation::Rename { from, to } => {
            by_name(connections, which, &format!("RENAME {} {}", quoted(from), quoted(to)))
        }
    }
}

fn accepted(answer: Answer) -> Result<Answer, Broken> {
    if answer.ok() { Ok(answer) } else { Err(Broken::Refused(answer.result)) }
}

/// Runs a command with the mailbox selected, and keeps the MODSEQs that its answer tells.
fn within(
    connections: &mut Connections,
    ledger: &mut Ledger,
    which: usize,
    mailbox: &str,
    command: &str,
) -> Result<Answer, Broken> {
    let imap = &mut connections.imap[which];
    let lost = |e: Box<dyn std::error::Error + Send + Sync>| Broken::Lost(e.to_string());
    if connections.selected[which].as_deref() != Some(mailbox) {
        accepted(imap.command(&format!("SELECT {}", quoted(mailbox))).map_err(lost)?)?;
        connections.selected[which] = Some(mailbox.to_owned());
    } else {
        // A session acts on its own view: let it see what the other connection has added.
        accepted(imap.command("NOOP").map_err(lost)?)?;
    }
    let answer = accepted(imap.command(command).map_err(lost)?)?;
    for line in answer.lines().iter().chain([&answer.result]) {
        for mark in ["MODSEQ (", "HIGHESTMODSEQ "] {
            if let Some(modseq) = between(line, mark, "").and_then(leading_number) {
                ledger.saw_modseq(mailbox, modseq);
            }
        }
    }
    Ok(answer)
}

/// The target's UIDs from COPYUID, which must name all the messages.
fn copied(uids: &[u32], told: Option<&str>) -> Result<Vec<u32>, Broken> {
    let told = told.ok_or_else(|| Broken::Refused("OK without COPYUID".into()))?;
    let parts: Vec<&str> = told.split(' ').collect();
    let (from, to) = (parts.get(1).map(|s| numbers(s)), parts.get(2).map(|s| numbers(s)));
    match (from, to) {
        (Some(from), Some(to)) if from == uids && to.len() == uids.len() => Ok(to),
        _ => Err(Broken::Refused(format!("COPYUID {told} for {uids:?}"))),
    }
}

/// A command on mailbox names; both connections leave what they have selected first.
fn by_name(connections: &mut Connections, which: usize, command: &str) -> Result<Vec<u32>, Broken> {
    let lost = |e: Box<dyn std::error::Error + Send + Sync>| Broken::Lost(e.to_string());
    for n in 0..2 {
        if connections.selected[n].take().is_some() {
            accepted(connections.imap[n].command("UNSELECT").map_err(lost)?)?;
        }
    }
    accepted(connections.imap[which].command(command).map_err(lost)?)?;
    Ok(Vec::new())
}

/// What the deliverers know at the end of a round.
#[derive(Default)]
pub struct Delivered {
    acknowledged: BTreeMap<usize, Vec<u64>>,
    unknown: BTreeMap<usize, Vec<u64>>,
}

impl Delivered {
    pub fn extend(&mut self, other: Delivered) {
        for (account, ids) in other.acknowledged {
            self.acknowledged.entry(account).or_default().extend(ids);
        }
        for (account, ids) in other.unknown {
            self.unknown.entry(account).or_default().extend(ids);
        }
    }

    pub fn acknowledged(&self, account: usize) -> Vec<u64> {
        self.acknowledged.get(&account).cloned().unwrap_or_default()
    }

    pub fn unknown(&self, account: usize) -> Vec<u64> {
        self.unknown.get(&account).cloned().unwrap_or_default()
    }
}

/// Delivers messages to one or more of the accounts until the server goes away.
pub fn deliver_all(shared: &Shared, accounts: &[usize], mut random: Random) -> Fallible<Delivered> {
    let mut delivered = Delivered::default();
    let open = || -> Fallible<Lmtp> {
        let mut lmtp = Lmtp::open(shared.ports.lmtp)?;
        shared.enlist(&mut lmtp.connection)?;
        Ok(lmtp)
    };
    let mut lmtp = match open() {
        Ok(lmtp) => lmtp,
        Err(e) if shared.may_end(&Broken::Lost(e.to_string())) => return Ok(delivered),
        Err(e) => return Err(e),
    };
    for _ in 0..DELIVERIES_MAX {
        if shared.stopping() {
            break;
        }
        let id = shared.id();
        let mut recipients: Vec<usize> = (0..1 + random.below(3)).map(|_| *random.pick(accounts)).collect();
        recipients.sort_unstable();
        recipients.dedup();
        let mut replied = 0;
        let result = deliver_one(shared, &mut lmtp, id, &recipients, &mut delivered, &mut replied);
        match result {
            Ok(()) => {}
            Err(broken) if shared.may_end(&broken) => {
                for &account in &recipients[replied..] {
                    delivered.unknown.entry(account).or_default().push(id);
                }
                return Ok(delivered);
            }
            Err(Broken::Refused(answer)) => fail!("delivery: {answer}"),
            Err(Broken::Lost(e)) => fail!("delivery: {e}"),
        }
    }
    Ok(delivered)
}

/// The sender's own id of a message.
fn xforward(id: u64) -> String {
    format!("XFORWARD IDENT=Q{id}")
}

/// Delivers a message whose answer was lost again, as its sender would.
pub fn deliver_again(ports: &Ports, account: usize, id: u64) -> Fallible {
    let mut lmtp = Lmtp::open(ports.lmtp)?;
    lmtp.command(&xforward(id), "250")?;
    let replies = lmtp.deliver("sender@example.net", &[&user(account)], &message(id))?;
    match replies[0].starts_with("250") {
        true => Ok(()),
        false => fail!("message {id} is not taken again: {}", replies[0]),
    }
}

fn deliver_one(
    shared: &Shared,
    lmtp: &mut Lmtp,
    id: u64,
    recipients: &[usize],
    delivered: &mut Delivered,
    replied: &mut usize,
) -> Result<(), Broken> {
    let lost = |e: Box<dyn std::error::Error + Send + Sync>| Broken::Lost(e.to_string());
    if shared.roaming.is_some() {
        lmtp.command(&xforward(id), "250").map_err(lost)?;
    }
    lmtp.command("MAIL FROM:<sender@example.net>", "250").map_err(lost)?;
    for &account in recipients {
        lmtp.command(&format!("RCPT TO:<{}>", user(account)), "250").map_err(lost)?;
    }
    lmtp.command("DATA", "354").map_err(lost)?;
    lmtp.connection.send(&stuffed(&message(id))).map_err(lost)?;
    for &account in recipients {
        let reply = lmtp.reply().map_err(lost)?;
        if !reply.starts_with("250") {
            return Err(Broken::Refused(reply));
        }
        delivered.acknowledged.entry(account).or_default().push(id);
        *replied += 1;
        shared.acknowledge();
    }
    Ok(())
}
