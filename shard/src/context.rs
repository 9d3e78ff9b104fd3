//! The context of the shard that is running on this thread: which world, which shard, what it holds.
//!
//! # Invariants
//! A glommio thread sets its context once. The simulator sets the context of a shard around each poll and
//! each drop of that shard's tasks.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use glommio::TaskQueueHandle;

use crate::exec::Registry;
use crate::limits::Limits;
use crate::mesh::Mesh;
use crate::sim::Seat;
use crate::sync::Notify;

pub(crate) struct Context {
    pub shard: usize,
    pub shards: usize,
    pub world: World,
    pub limits: Rc<Limits>,
    pub mesh: Arc<Mesh>,
    pub registry: Registry,
    pub stopping: Cell<bool>,
    pub stopped: Notify,
    pub locals: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

pub(crate) enum World {
    Real(Real),
    Sim(Seat),
}

/// What a shard of the real world holds beside its executor.
pub(crate) struct Real {
    pub queues: [TaskQueueHandle; 3],
    pub annex: crate::annex::Pool,
    pub disk: crate::annex::Pool,
}

impl Context {
    pub fn new(
        shard: usize,
        shards: usize,
        world: World,
        limits: Rc<Limits>,
        mesh: Arc<Mesh>,
    ) -> Rc<Context> {
        Rc::new(Context {
            shard,
            shards,
            world,
            limits,
            mesh,
            registry: Registry::default(),
            stopping: Cell::new(false),
            stopped: Notify::new(),
            locals: RefCell::default(),
        })
    }

    pub fn seat(&self) -> Option<&Seat> {
        match &self.world {
            World::Real(_) => None,
            World::Sim(seat) => Some(seat),
        }
    }
}

thread_local! {
    static CONTEXT: RefCell<Option<Rc<Context>>> = const { RefCell::new(None) };
}

/// The context of the running shard; `None` outside every shard (a foreign thread, `main`).
pub(crate) fn current() -> Option<Rc<Context>> {
    CONTEXT.try_with(|c| c.borrow().clone()).ok().flatten()
}

/// The context of the running shard, for what makes no sense elsewhere.
#[track_caller]
pub(crate) fn here() -> Rc<Context> {
    current().expect("called on a shard: inside exec::run or sim::Sim")
}

/// The seat in the simulation, where this is one.
pub(crate) fn seat() -> Option<Seat> {
    current().and_then(|c| c.seat().cloned())
}

/// Sets the context until the guard is dropped, which restores what stood before.
pub(crate) fn enter(context: Rc<Context>) -> Entered {
    Entered(CONTEXT.with(|c| c.replace(Some(context))))
}

pub(crate) struct Entered(Option<Rc<Context>>);

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.0.take();
        let _ = CONTEXT.try_with(|c| c.replace(before));
    }
}
