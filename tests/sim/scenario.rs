//! One seed: the lives of a machine, how each ends, and what its disk does meanwhile.

use crate::node::{self, Life};
use crate::oracle::{Figures, Oracle};
use culver_shard::sim::{Faults, NodeId, Sim, SimConfig};
use std::rc::Rc;
use std::time::Duration;

/// Polls of a whole run; one takes a tenth of it. More is a deadlock that only timers keep alive.
const STEPS_MAX: u64 = 2_000_000;

/// What a run gave.
pub struct Outcome {
    pub errors: Vec<String>,
    pub figures: Figures,
    pub digest: u64,
}

/// The disk of a life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Sound,
    FailingSync,
    FailingRead,
    Full,
    Slow,
}

impl Disk {
    fn draw(sim: &Sim) -> Disk {
        match sim.random() % 10 {
            0..6 => Disk::Sound,
            6 => Disk::FailingSync,
            7 => Disk::FailingRead,
            8 => Disk::Full,
            _ => Disk::Slow,
        }
    }

    fn faults(self) -> Faults {
        match self {
            Disk::Sound | Disk::Full => Faults::default(),
            Disk::FailingSync => Faults { sync_eio: 24, ..Faults::default() },
            Disk::FailingRead => Faults { read_eio: 8, ..Faults::default() },
            Disk::Slow => Faults { slow: Duration::from_millis(3), ..Faults::default() },
        }
    }
}

pub fn run(seed: u64) -> Outcome {
    let sim =
        Sim::new(seed, SimConfig { panics_end_run: true, steps_max: STEPS_MAX, ..SimConfig::default() });
    let machine = sim.node("mail");
    let oracle = Rc::new(Oracle::default());
    let accounts = 2 + (sim.random() % 5) as usize;
    let clients = 1 + (sim.random() % 3) as usize;
    let mut in_order = false;
    for _ in 0..3 + sim.random() % 4 {
        let disk = Disk::draw(&sim);
        let sound = matches!(disk, Disk::Sound | Disk::Slow);
        let life = Life {
            oracle: oracle.clone(),
            accounts,
            clients,
            only_compare: false,
            check: in_order && sound,
            sound,
        };
        in_order = live(&sim, machine, disk, life) && sound;
        oracle.life_ended();
        oracle.count(|figures| figures.lives += 1);
        if !oracle.errors.borrow().is_empty() {
            break;
        }
    }
    if oracle.errors.borrow().is_empty() {
        sim.faults(machine, Faults::default());
        let life = Life {
            oracle: oracle.clone(),
            accounts,
            clients,
            only_compare: true,
            check: in_order,
            sound: true,
        };
        node::start(&sim, machine, shards(&sim), life);
        ended(&sim, machine);
    }
    let (errors, figures) = (oracle.errors.take(), oracle.figures.borrow().clone());
    Outcome { errors, figures, digest: sim.digest() }
}

fn shards(sim: &Sim) -> usize {
    1 + (sim.random() % 3) as usize
}

fn ended(sim: &Sim, machine: NodeId) {
    let handle = sim.clone();
    sim.run(async move { handle.exited(machine).await });
}

/// One life. True where it ended in good order.
fn live(sim: &Sim, machine: NodeId, disk: Disk, life: Life) -> bool {
    sim.faults(machine, disk.faults());
    node::start(sim, machine, shards(sim), life);
    let steps = match sim.random() % 5 {
        0 => sim.random() % 500,
        1 => sim.random() % 5_000,
        _ => sim.random() % 25_000,
    };
    if disk == Disk::Full {
        sim.step(steps / 3);
        sim.faults(machine, Faults { full: true, ..Faults::default() });
        sim.step(steps / 3);
        sim.faults(machine, Faults::default());
        sim.step(steps / 3);
    } else {
        sim.step(steps);
    }
    match sim.random() % 5 {
        0 => sim.kill(machine),
        1 => {
            sim.stop(machine);
            ended(sim, machine);
            sim.crash(machine);
            return true;
        }
        _ => sim.crash(machine),
    }
    false
}
