//! A run: the cluster is founded, then comes a time of faults with clients at work, then all faults
//! end and the cluster must be whole again, and then what the clients were told is judged.

use std::fmt;

use quoring::ids::Epoch;

use super::{
    clients::{Clients, Reads},
    faults::{self, Fault, Faults},
    world::{Failure, Spec, Tally, World},
};

/// For the cluster to be founded and to have all its shards, ms.
pub(crate) const FOUND_MS: u64 = 30_000;

const SECOND_MS: u64 = 1_000;

/// For the cluster to be whole again once all faults have ended, ms: replicas may have to be made anew
/// one after the other.
const HEAL_MS: u64 = 60_000;

/// For every client to have its answer then, ms.
pub(crate) const ANSWER_MS: u64 = 20_000;

/// Answers that each run must come to at the end, when nothing is wrong any more.
const ANSWERS_AFTER: u64 = 60;

/// What is drawn from a seed, and what is not.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) spec: Spec,
    pub(crate) faults: Vec<Fault>,
    pub(crate) faults_ms: u64,
    pub(crate) clients: u64,
    pub(crate) keys: usize,
    pub(crate) reads: Reads,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            spec: Spec::default(),
            faults: faults::FAULTS.to_vec(),
            faults_ms: 20_000,
            clients: 6,
            keys: 8,
            reads: Reads::Linearizable,
        }
    }
}

/// What a run has come to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) simulated_ms: u64,
    pub(crate) answers: u64,
    pub(crate) entries: usize,
    pub(crate) leaderships: usize,
    pub(crate) shards: usize,
    pub(crate) epoch: Epoch,
    pub(crate) tally: Tally,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { simulated_ms, answers, entries, leaderships, shards, epoch, tally } = self;
        write!(
            f,
            "{simulated_ms} ms, {answers} answers, {entries} entries, {leaderships} leaderships, {shards} shards, "
        )?;
        write!(f, "epoch {epoch}, {tally:?}")
    }
}

/// Runs a seed. A failure comes with the last events.
pub(crate) fn run(seed: u64, plan: &Plan) -> Result<Report, (Failure, String)> {
    let mut world = World::new(seed, plan.spec.clone()).map_err(|failure| (failure, String::new()))?;
    let result = play(&mut world, seed, plan);
    result.map_err(|failure| (failure, world.events()))
}

fn play(world: &mut World, seed: u64, plan: &Plan) -> Result<Report, Failure> {
    world.until("the cluster is founded", FOUND_MS, |_| Ok(()), World::is_whole)?;
    // At a full second: however long that took, what follows is drawn for the same moments.
    while !world.now.is_multiple_of(SECOND_MS) {
        world.tick()?;
    }
    world.note("the cluster is whole, and clients come");
    let mut clients = Clients::new(seed, plan.clients, plan.keys, plan.reads);
    let mut faults = Faults::new(seed, plan.faults.clone());
    let calm = world.now + plan.faults_ms;
    while world.now < calm {
        world.tick()?;
        faults.step(world)?;
        clients.step(world)?;
    }

    faults.end(world)?;
    let stay = |world: &mut World| {
        if world.now.is_multiple_of(500) {
            let draining = world.map().into_iter().flat_map(|map| map.workers.into_values());
            for worker in draining.filter(|worker| worker.draining) {
                faults::undrain(worker.id.as_str(), world);
            }
        }
    };
    let step = |world: &mut World| {
        stay(world);
        clients.step(world)
    };
    world.until("the cluster is whole again", HEAL_MS, step, World::is_whole)?;
    world.note("the cluster is whole again");

    let wanted = clients.told() + ANSWERS_AFTER;
    let deadline = world.now + ANSWER_MS;
    while clients.told() < wanted || !clients.are_idle() {
        clients.resting = clients.told() >= wanted;
        world.tick()?;
        clients.step(world)?;
        if world.now >= deadline {
            return Err(Failure::TooLate("clients are answered at the end".into()));
        }
    }
    world.until("the replicas agree", ANSWER_MS, |_| Ok(()), World::replicas_agree)?;
    world.look()?;
    clients.judge()?;
    Ok(Report {
        simulated_ms: world.now,
        answers: clients.told(),
        entries: world.watch.entries(),
        leaderships: world.watch.leaderships(),
        shards: world.map().map_or(0, |map| map.shards.len()),
        epoch: world.map().map_or(Epoch(0), |map| map.epoch),
        tally: world.tally(),
    })
}
