//! The simulated machine: one life of it, from recovery to the end that the outside gives it.

use crate::client;
use crate::compare;
use crate::oracle::Oracle;
use culver_mailbox::{Accounts, inside};
use culver_model::AccountId;
use culver_shard::sim::{NodeId, Sim};
use culver_shard::sync::Notify;
use culver_shard::{Queue, random, shard, shards, spawn, stopping, time};
use culver_storage::{Limits, OpenError, Root, Share, Storage};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const STORE: &str = "/store";

/// Sizes at which everything happens often.
fn limits() -> Limits {
    Limits {
        partitions: 4,
        segment_octets: 64 << 10,
        batch_octets_max: 16 << 10,
        pending_octets_max: 64 << 10,
        pending_records_max: 24,
        inline_body_max: 2 << 10,
        body_memory_octets_max: 64 << 10,
        flush_octets: 96 << 10,
        unflushed_octets_max: 256 << 10,
        flush_age: Duration::from_millis(300),
        tables_max: 3,
        reserve_octets: 32 << 10,
        open_objects_max: 3,
        map_octets_min: 512,
        compact_below_percent: 50,
        tick: Duration::from_millis(20),
        ..Limits::default()
    }
}

/// What a life of the machine is like.
#[derive(Clone)]
pub struct Life {
    pub oracle: Rc<Oracle>,
    pub accounts: usize,
    pub clients: usize,
    /// Compare everything and end, without a client.
    pub only_compare: bool,
    /// The store was closed in good order: the check must find nothing.
    pub check: bool,
    /// The disk works: what cannot be opened or read is wrong.
    pub sound: bool,
}

/// A shard of the machine, for what runs on it.
pub struct Here {
    pub accounts: Rc<Accounts>,
    pub life: Life,
    ready: Cell<bool>,
}

impl Here {
    /// `None` before the shard has started.
    pub fn get() -> Option<Rc<Here>> {
        culver_shard::local::<Here>().filter(|here| here.ready.get())
    }

    pub fn storage(&self) -> &Storage {
        self.accounts.storage()
    }
}

pub fn account(nth: usize) -> AccountId {
    AccountId::parse(&format!("user{nth}@example.org")).expect("an account name")
}

/// Shares on their way from shard 0 to the others.
#[derive(Default)]
struct Handover {
    shares: RefCell<BTreeMap<usize, Share>>,
    failed: Cell<bool>,
    came: Notify,
    left: Cell<usize>,
}

/// Starts the machine. Its shards end when they are told to stop, or once everything is compared.
pub fn start(sim: &Sim, node: NodeId, shards: usize, life: Life) {
    let handover = Rc::new(Handover::default());
    sim.start(node, shards, move |_| run(handover.clone(), life.clone()));
}

async fn run(handover: Rc<Handover>, life: Life) {
    let mut root = None;
    if shard() == 0 {
        match open(&life).await {
            Ok((opened, shares)) => {
                handover.shares.borrow_mut().extend(shares.into_iter().map(|share| (share.shard(), share)));
                root = Some(opened);
            }
            Err(error) => {
                if life.sound || !matches!(error, OpenError::Io { .. }) {
                    life.oracle.error(format!("recovery: {error}"));
                }
                handover.failed.set(true);
            }
        }
        handover.came.notify_all();
    }
    let share = loop {
        let seen = handover.came.version();
        if handover.failed.get() {
            return;
        }
        if let Some(share) = handover.shares.borrow_mut().remove(&shard()) {
            break share;
        }
        handover.came.changed_since(seen).await;
    };
    let storage = match Storage::start(share).await {
        Ok(storage) => storage,
        Err(error) => {
            if life.sound {
                life.oracle.error(format!("start: {error}"));
            }
            handover.failed.set(true);
            handover.came.notify_all();
            return;
        }
    };
    let idle_accounts_max = random::below(3) as usize;
    let accounts =
        Accounts::new(culver_mailbox::Limits { idle_accounts_max, ..culver_mailbox::Limits::default() });
    accounts.attach(storage.clone());
    let here = Rc::new(Here { accounts, life: life.clone(), ready: Cell::new(true) });
    culver_shard::set_local(here.clone());
    let mine = || (0..life.accounts).map(account).filter(|id| here.accounts.shard_of(id) == shard());
    for id in mine() {
        compare::start_of_life(&here, &id, life.only_compare).await;
    }
    if !life.only_compare {
        let clients =
            (0..life.clients).map(|_| spawn(Queue::Interactive, "client", client::run(life.accounts)));
        let clients: Vec<_> = clients.collect();
        for client in clients {
            let _ = client.await;
        }
        // Clients of other shards may still be at work here.
        handover.left.set(handover.left.get() + 1);
        while handover.left.get() < shards() && !handover.failed.get() {
            time::sleep(Duration::from_millis(1)).await;
        }
        for id in mine() {
            compare::end_of_life(&here, &id).await;
        }
    }
    let flush = random::below(2) == 0;
    storage.clone().close(flush).await;
    let status = storage.status();
    life.oracle.count(|figures| {
        figures.flushes += status.flushes;
        figures.compactions += status.compactions;
        figures.cuts += status.cuts;
    });
    // The lock goes with the root, so it goes last.
    handover.left.set(handover.left.get() + 1);
    while root.is_some()
        && handover.left.get() < shards() * if life.only_compare { 1 } else { 2 }
        && !handover.failed.get()
    {
        time::sleep(Duration::from_millis(1)).await;
    }
}

async fn open(life: &Life) -> Result<(Root, Vec<Share>), OpenError> {
    if life.check {
        let report = culver_storage::check(Path::new(STORE), &mut inside).await?;
        life.oracle.count(|figures| figures.checks += 1);
        for finding in report.findings {
            life.oracle.error(format!("check: {}: {}", finding.path.display(), finding.what));
        }
    }
    let mut root = Root::open(Path::new(STORE), limits()).await?;
    let shares = root.recover(shards()).await?;
    Ok((root, shares))
}

/// Whether a client goes on.
pub fn going() -> bool {
    !stopping()
}
