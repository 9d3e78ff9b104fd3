//! Micro-benchmarks of the domain: a message arriving, its record, and what the record does to the account.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use cases::{Case, mail};
use culver_mailbox::record::{Message, Record};
use culver_mailbox::{Accounts, Applied, Arriving, Limits, State, View};
use culver_model::mime::{self, body, bodystructure, envelope};
use culver_model::{AccountId, Guid, InternalDate, UidSet};
use culver_shard::sim::{Sim, SimConfig};
use culver_shard::sync::Notify;
use culver_storage::{Root, Storage};

const RECORDS: u64 = 200;
const ARRIVALS: u64 = 20;
/// Of a spool that is read: what is fed at a time.
const PIECE_OCTETS: usize = 64 * 1024;
/// Far more than a run takes: a run that comes here is stuck.
const STEPS_MAX: u32 = 10_000;

fn guid(number: u64) -> Guid {
    let mut guid = Guid([0x5a; 16]);
    guid.0[..8].copy_from_slice(&number.to_le_bytes());
    guid
}

fn message(number: u64) -> Message {
    let octets = mail::plain(number);
    let scanned = mime::Message::scan(&octets);
    Message {
        guid: guid(number),
        email_id: guid(number),
        internal_date: InternalDate { seconds: 1_700_000_000, zone_minutes: 60 },
        save_date: 1_700_000_000,
        size: octets.len() as u64,
        envelope: envelope(&scanned),
        body: body(&scanned),
        bodystructure: bodystructure(&scanned),
        parts: scanned.table().encode(),
        headers: scanned.chosen_headers().expect("a short header"),
        headers_complete: true,
        ..Message::default()
    }
}

fn appends() -> Vec<Record> {
    let record = |n| Record::Append { mailbox: Guid::INBOX, message: Box::new(message(n)) };
    (1..=RECORDS).map(record).collect()
}

fn apply(records: &[Record], state: &mut State) {
    for (n, record) in records.iter().enumerate() {
        let applied = state.apply(record, &[[n as u8; 32]]);
        assert!(matches!(applied, Ok(Applied::Append { .. })));
    }
}

fn filled(records: &[Record]) -> State {
    let mut state = State::new();
    apply(records, &mut state);
    state
}

/// COPY of all messages into the mailbox that they are in.
fn copy(state: &mut State) {
    let uids = UidSet::from_iter([1..=u32::MAX]);
    let record =
        Record::Copy { from: Guid::INBOX, uids, to: Guid::INBOX, save_date: 1, remove: false, whole: false };
    let applied = state.apply(&record, &[]);
    assert!(matches!(applied, Ok(Applied::Copy { to, .. }) if to.len() == RECORDS));
}

/// What an idle session does when all of these have come.
fn sync((state, view): &mut (State, View)) {
    let index = state.selectable(Guid::INBOX).expect("INBOX is always there");
    let changes = view.sync(index, true);
    assert!(!changes.is_empty());
    assert_eq!(u64::from(view.len()), RECORDS);
}

/// A node with accounts, whose task waits to be told to go.
struct Node {
    sim: Sim,
    stage: Rc<Stage>,
}

#[derive(Default)]
struct Stage {
    ready: Cell<bool>,
    go: Cell<bool>,
    arrived: Cell<u64>,
    told: Notify,
    messages: RefCell<Rc<Vec<Vec<u8>>>>,
}

async fn shard(stage: Rc<Stage>) {
    let limits = culver_storage::Limits {
        partitions: 4,
        segment_octets: 1 << 20,
        reserve_octets: 64 << 10,
        ..culver_storage::Limits::default()
    };
    let mut root = Root::open(Path::new("/store"), limits).await.expect("an empty disk");
    let share = root.recover(1).await.expect("an empty store").remove(0);
    let accounts = Accounts::new(Limits::default());
    accounts.attach(Storage::start(share).await.expect("a sound disk"));
    stage.ready.set(true);
    while !stage.go.get() {
        let seen = stage.told.version();
        stage.told.changed_since(seen).await;
    }
    let account = AccountId::parse("joe@example.org").expect("a name");
    let messages = stage.messages.take();
    for octets in messages.iter() {
        let date = InternalDate { seconds: 1_700_000_000, zone_minutes: 60 };
        let mut arriving = Arriving::deliver(&accounts, &account, date, octets.len() as u64);
        for piece in octets.chunks(PIECE_OCTETS) {
            arriving.feed(piece).await.expect("a sound disk");
        }
        let (message, body) = arriving.finish().await.expect("a sound disk");
        assert_eq!((message.size, body.octets()), (octets.len() as u64, octets.len() as u64));
        stage.arrived.set(stage.arrived.get() + 1);
    }
    culver_shard::stopped().await;
    drop(root);
}

impl Node {
    fn new(messages: &Rc<Vec<Vec<u8>>>) -> Node {
        let sim = Sim::new(1, SimConfig { panics_end_run: true, ..SimConfig::default() });
        let stage = Rc::new(Stage { messages: RefCell::new(messages.clone()), ..Stage::default() });
        let (node, held) = (sim.node("mail"), stage.clone());
        sim.start(node, 1, move |_| shard(held.clone()));
        let node = Node { sim, stage };
        node.step_until(|stage| stage.ready.get());
        node
    }

    fn step_until(&self, done: impl Fn(&Stage) -> bool) {
        let mut steps = 0;
        while !done(&self.stage) {
            steps += 1;
            assert!(steps < STEPS_MAX, "the simulation is stuck");
            self.sim.step(1);
        }
    }

    fn arrive(&self) {
        self.stage.go.set(true);
        self.stage.told.notify_all();
        self.step_until(|stage| stage.arrived.get() == ARRIVALS);
    }
}

fn main() -> ExitCode {
    let fresh = |_: &Vec<Record>| State::new();
    cases::main(&[
        Case::reading("mailbox/encode_200_appends", appends, |records| {
            records.iter().map(|record| record.encode().len()).sum::<usize>()
        }),
        Case::reading(
            "mailbox/decode_200_appends",
            || appends().iter().map(Record::encode).collect::<Vec<_>>(),
            |records| records.iter().for_each(|bytes| assert!(Record::decode(bytes).is_ok())),
        ),
        Case::new("mailbox/apply_200_appends", appends, fresh, |records, state| apply(records, state)),
        Case::new("mailbox/apply_copy_of_200", appends, |records| filled(records), |_, state| copy(state)),
        Case::new(
            "mailbox/sync_200_arrivals",
            appends,
            |records| {
                let empty = State::new();
                let view = View::new(empty.selectable(Guid::INBOX).expect("INBOX"), UidSet::new());
                (filled(records), view)
            },
            |_, at| sync(at),
        ),
        Case::new(
            "mailbox/arrive_20_plain",
            || Rc::new((1..=ARRIVALS).map(mail::plain).collect::<Vec<_>>()),
            Node::new,
            |_, node| node.arrive(),
        ),
        Case::new(
            "mailbox/arrive_20_attachment",
            || Rc::new((1..=ARRIVALS).map(mail::attachment).collect::<Vec<_>>()),
            Node::new,
            |_, node| node.arrive(),
        ),
    ])
}
