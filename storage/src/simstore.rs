//! A store in the simulation: one map of objects for all nodes, and requests that come late, twice, or without an answer.
//!
//! # Invariants
//! A read sees every change that was answered before it began: late is only what was not answered. What a request does, it
//! does at one instant, whole or not at all, also when its sender is gone by then.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use culver_shard::sync::Notify;
use culver_shard::{random, time};

use crate::store::op::{Abilities, Failure, Listed, Op, Outcome};
use crate::store::{Kind, Octets, Store};

/// How often something goes wrong: one of so many requests; 0 never.
#[derive(Clone, Copy, Debug)]
pub struct StoreFaults {
    /// The request is lost, or takes effect later; no answer comes.
    pub lost: u64,
    /// It takes effect, and the answer is lost.
    pub unanswered: u64,
    /// It takes effect a second time, later.
    pub doubled: u64,
    /// 503, without an effect.
    pub refused: u64,
    /// Late effects come up to so late.
    pub late_max: Duration,
    /// A request and its answer take up to so long each.
    pub delay_max: Duration,
    /// How long one waits for an answer that does not come.
    pub timeout: Duration,
}

impl StoreFaults {
    /// A store that answers everything.
    pub fn none() -> StoreFaults {
        StoreFaults {
            lost: 0,
            unanswered: 0,
            doubled: 0,
            refused: 0,
            late_max: Duration::from_secs(1),
            delay_max: Duration::from_millis(20),
            timeout: Duration::from_secs(2),
        }
    }

    /// One where every twentieth request meets something.
    pub fn some() -> StoreFaults {
        StoreFaults {
            lost: 80,
            unanswered: 80,
            doubled: 80,
            refused: 80,
            late_max: Duration::from_secs(60),
            ..StoreFaults::none()
        }
    }
}

/// The store itself. Clones are the same.
#[derive(Clone)]
pub struct SimStore(Rc<RefCell<State>>);

struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// What has yet to happen, by when and number.
    late: BTreeMap<(time::Instant, u64), Change>,
    next: u64,
    faults: StoreFaults,
    down: bool,
    /// Nodes that do not reach the store.
    cut: BTreeSet<String>,
    /// Requests answered, by kind.
    answered: BTreeMap<&'static str, u64>,
    /// Requests that a test holds up, in the order in which it asked for that.
    orders: Vec<Rc<Order>>,
    /// Requests, while somebody watches.
    watched: Option<Vec<Asked>>,
}

/// Where a request is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Before it takes effect. It does when it is released, also where its sender has given it up by then.
    Before,
    /// When it has taken effect: its answer waits.
    After,
}

/// One request of a kind for a key that is held up.
struct Order {
    node: String,
    kind: Kind,
    /// All of it, or its beginning before a `*`.
    key: String,
    hold: Hold,
    /// So many such requests pass before.
    pass: Cell<u64>,
    met: Cell<bool>,
    released: Cell<bool>,
    change: RefCell<Option<Change>>,
    result: RefCell<Option<Result<Outcome, Failure>>>,
    moved: Notify,
}

impl Order {
    /// Whether this is the request; counts those that pass.
    fn takes(&self, node: &str, op: &Op<'_>) -> bool {
        let named = match self.key.strip_suffix('*') {
            Some(start) => op.key().starts_with(start),
            None => op.key() == self.key,
        };
        let ours = named && self.node == node && self.kind == op.kind();
        if self.met.get() || self.released.get() || !ours {
            return false;
        }
        let pass = self.pass.get();
        self.pass.set(pass.saturating_sub(1));
        pass == 0
    }
}

/// A request that is held up, or will be.
pub struct Held {
    store: SimStore,
    order: Rc<Order>,
}

impl Held {
    /// Ready when the request has come.
    pub async fn met(&self) {
        loop {
            let seen = self.order.moved.version();
            if self.order.met.get() {
                return;
            }
            self.order.moved.changed_since(seen).await;
        }
    }

    pub fn is_met(&self) -> bool {
        self.order.met.get()
    }

    /// Lets it go on.
    pub fn release(&self) {
        let change = self.order.change.borrow_mut().take();
        if let Some(change) = change {
            *self.order.result.borrow_mut() = Some(self.store.0.borrow_mut().apply(change));
        }
        self.order.released.set(true);
        self.order.moved.notify_all();
    }
}

/// A request that was watched.
#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: &'static str,
    pub key: String,
    /// That a read brought.
    pub octets: u64,
    pub began: time::Instant,
    pub ended: time::Instant,
}

enum Change {
    Put { key: String, octets: Vec<u8>, create: bool },
    Delete { keys: Vec<String> },
}

impl SimStore {
    pub fn new(faults: StoreFaults) -> SimStore {
        SimStore(Rc::new(RefCell::new(State {
            objects: BTreeMap::new(),
            late: BTreeMap::new(),
            next: 0,
            faults,
            down: false,
            cut: BTreeSet::new(),
            answered: BTreeMap::new(),
            orders: Vec::new(),
            watched: None,
        })))
    }

    /// The store as one shard of a node uses it.
    pub fn of_node(&self, node: &str) -> Store {
        Store::simulated(Driver { store: self.clone(), node: node.to_owned() })
    }

    /// Holds up a node's request of a kind for a key (or for one that begins with what stands before a `*`), after `pass`
    /// such requests.
    pub fn hold(&self, node: &str, kind: Kind, key: &str, pass: u64, hold: Hold) -> Held {
        let order = Rc::new(Order {
            node: node.to_owned(),
            kind,
            key: key.to_owned(),
            hold,
            pass: Cell::new(pass),
            met: Cell::new(false),
            released: Cell::new(false),
            change: RefCell::default(),
            result: RefCell::default(),
            moved: Notify::new(),
        });
        self.0.borrow_mut().orders.push(order.clone());
        Held { store: self.clone(), order }
    }

    pub fn set_faults(&self, faults: StoreFaults) {
        self.0.borrow_mut().faults = faults;
    }

    /// Nobody gets an answer but 503 while it is down.
    pub fn set_down(&self, down: bool) {
        self.0.borrow_mut().down = down;
    }

    pub fn cut(&self, node: &str, cut: bool) {
        let mut state = self.0.borrow_mut();
        match cut {
            true => drop(state.cut.insert(node.to_owned())),
            false => drop(state.cut.remove(node)),
        }
    }

    /// All objects, as they are now.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.borrow().objects.clone()
    }

    /// Octets of all objects, by key.
    pub fn sizes(&self) -> BTreeMap<String, u64> {
        let state = self.0.borrow();
        state.objects.iter().map(|(key, octets)| (key.clone(), octets.len() as u64)).collect()
    }

    /// Removes or replaces an object, as a fault would.
    pub fn tamper(&self, key: &str, octets: Option<Vec<u8>>) {
        let mut state = self.0.borrow_mut();
        match octets {
            Some(octets) => drop(state.objects.insert(key.to_owned(), octets)),
            None => drop(state.objects.remove(key)),
        }
    }

    /// Begins to watch, and gives what was asked since this was called last.
    pub fn watch(&self) -> Vec<Asked> {
        self.0.borrow_mut().watched.replace(Vec::new()).unwrap_or_default()
    }

    pub fn answered(&self) -> BTreeMap<&'static str, u64> {
        self.0.borrow().answered.clone()
    }
}

impl State {
    /// Lets everything happen that is due.
    fn settle(&mut self) {
        let now = time::now();
        while let Some(entry) = self.late.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let change = entry.remove();
            drop(self.apply(change));
        }
    }

    fn apply(&mut self, change: Change) -> Result<Outcome, Failure> {
        match change {
            Change::Put { key, octets, create } => {
                if create && self.objects.contains_key(&key) {
                    return Err(Failure::Exists);
                }
                self.objects.insert(key, octets);
                Ok(Outcome::Done)
            }
            Change::Delete { keys } => {
                for key in keys {
                    self.objects.remove(&key);
                }
                Ok(Outcome::Deleted { failed: Vec::new() })
            }
        }
    }

    fn look(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        match op {
            Op::Get { key, range } => {
                let octets = self.objects.get(*key).ok_or(Failure::NotFound)?;
                let range = range.clone().unwrap_or(0..u64::MAX);
                let end = (range.end.min(octets.len() as u64)) as usize;
                let start = (range.start as usize).min(end);
                Ok(Outcome::Octets(octets[start..end].to_vec()))
            }
            Op::Head { key } => {
                let octets = self.objects.get(*key).ok_or(Failure::NotFound)?;
                Ok(Outcome::Length(octets.len() as u64))
            }
            Op::List { prefix, after, keys_max } => {
                let keys = self.objects.range((*prefix).to_owned()..);
                let mut objects: Vec<(String, u64)> = keys
                    .take_while(|(key, _)| key.starts_with(prefix))
                    .filter(|(key, _)| key.as_str() > *after)
                    .take(keys_max + 1)
                    .map(|(key, octets)| (key.clone(), octets.len() as u64))
                    .collect();
                let more = objects.len() > *keys_max;
                objects.truncate(*keys_max);
                Ok(Outcome::Listed(Listed { objects, more }))
            }
            _ => Err(Failure::refused("the simulated store does not do this", "report this")),
        }
    }

    fn later(&mut self, change: Change) {
        let after = Duration::from_nanos(random::below(self.faults.late_max.as_nanos() as u64 + 1));
        self.next += 1;
        self.late.insert((time::now() + after, self.next), change);
    }
}

fn one_in(many: u64) -> bool {
    many > 0 && random::below(many) == 0
}

/// See [`SimStore::of_node`].
pub struct Driver {
    store: SimStore,
    node: String,
}

impl Driver {
    pub fn abilities(&self) -> Abilities {
        Abilities { list: true, parts_from: None, delete_keys_max: 1000 }
    }

    pub async fn perform(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        let began = time::now();
        let result = self.answer(op).await;
        if let Some(watched) = &mut self.store.0.borrow_mut().watched {
            let (kind, key) = (op.kind().name(), op.key().to_owned());
            let octets = match &result {
                Ok(Outcome::Octets(octets)) => octets.len() as u64,
                _ => 0,
            };
            watched.push(Asked { kind, key, octets, began, ended: time::now() });
        }
        result
    }

    async fn answer(&self, op: &Op<'_>) -> Result<Outcome, Failure> {
        let octets = match op {
            Op::Put { octets, .. } => self.read(octets).await?,
            _ => Vec::new(),
        };
        let faults = self.store.0.borrow().faults;
        delay(faults).await;
        let cut = || self.store.0.borrow().cut.contains(&self.node);
        if cut() {
            time::sleep(faults.timeout).await;
            return Err(Failure::passing("cut off"));
        }
        if self.store.0.borrow().down || one_in(faults.refused) {
            return Err(Failure::Passing { what: "503".to_owned(), slow_down: true });
        }
        let change = || match op {
            Op::Put { key, create, .. } => {
                Some(Change::Put { key: (*key).to_owned(), octets: octets.clone(), create: *create })
            }
            Op::Delete { keys } => Some(Change::Delete { keys: keys.to_vec() }),
            _ => None,
        };
        let order = {
            let state = self.store.0.borrow();
            state.orders.iter().find(|order| order.takes(&self.node, op)).cloned()
        };
        if let Some(order) = order {
            return self.held(&order, op, change()).await;
        }
        if one_in(faults.lost) {
            if let Some(change) = change().filter(|_| random::below(2) == 0) {
                self.store.0.borrow_mut().later(change);
            }
            time::sleep(faults.timeout).await;
            return Err(Failure::passing("no answer"));
        }
        let result = {
            let mut state = self.store.0.borrow_mut();
            state.settle();
            if let Some(change) = change().filter(|_| one_in(faults.doubled)) {
                state.later(change);
            }
            *state.answered.entry(op.kind().name()).or_default() += 1;
            match change() {
                Some(change) => state.apply(change),
                None => state.look(op),
            }
        };
        if one_in(faults.unanswered) || cut() {
            time::sleep(faults.timeout).await;
            return Err(Failure::passing("the answer is lost"));
        }
        delay(faults).await;
        result
    }

    /// A request that a test holds up.
    async fn held(&self, order: &Order, op: &Op<'_>, change: Option<Change>) -> Result<Outcome, Failure> {
        let look = |change: Option<Change>| {
            let mut state = self.store.0.borrow_mut();
            match change {
                Some(change) => state.apply(change),
                None => state.look(op),
            }
        };
        match order.hold {
            Hold::Before => *order.change.borrow_mut() = change,
            Hold::After => *order.result.borrow_mut() = Some(look(change)),
        }
        order.met.set(true);
        order.moved.notify_all();
        loop {
            let seen = order.moved.version();
            if order.released.get() {
                break;
            }
            order.moved.changed_since(seen).await;
        }
        let result = order.result.borrow_mut().take();
        result.unwrap_or_else(|| look(None))
    }

    async fn read(&self, octets: &Octets) -> Result<Vec<u8>, Failure> {
        octets.collect().await.map_err(|error| Failure::passing(error.to_string()))
    }
}

async fn delay(faults: StoreFaults) {
    time::sleep(Duration::from_nanos(random::below(faults.delay_max.as_nanos() as u64 + 1))).await;
}
