//! Known bugs, put back: the simulation must find each of them within a bounded number of seeds. Were
//! one of them not found, what the other runs do not find would mean nothing.

use super::{
    clients::Reads,
    disk::Crash,
    faults::Fault,
    run::{Plan, run},
    runs::seeds,
    world::{Failure, Spec},
};

/// Seeds until one must have found the bug. Of those with a disk that lies about one in eight does, and not always the
/// same: most often a node is told that it has forgotten something, and takes part in nothing any more.
const MOST_SEEDS: u64 = 60;

/// Runs seeds until one of them finds the bug, by what is lost or seen to be wrong, and not by a node that gave
/// up.
fn is_found(plan: &Plan) {
    let mut others = Vec::new();
    for seed in seeds(MOST_SEEDS).into_iter().take(MOST_SEEDS as usize) {
        match run(seed, plan) {
            Err((Failure::NotLinearizable(_) | Failure::Broken(_), _)) => {
                println!("found by seed {seed}");
                return;
            }
            Err((other, events)) => others.push(format!("seed {seed}: {other}\n{events}")),
            Ok(report) => others.push(format!("seed {seed}: nothing: {report}")),
        }
    }
    panic!("not found by {MOST_SEEDS} seeds:\n{}", others.join("\n"));
}

/// A small cluster, in which what is lost on one disk is not on all the others.
fn small() -> Spec {
    Spec { workers: 3, spares: 0, shards: 2, ..Spec::default() }
}

/// An acknowledgement before the sync: what a majority said to have was on no disk.
#[test]
fn an_early_acknowledgement_is_found() {
    let faults = vec![Fault::CrashMany(Crash::Unpowered), Fault::CutOff];
    is_found(&Plan { spec: Spec { lies_ms: 60, ..small() }, faults, ..Plan::default() });
}

/// A disk that has said "synced" and forgets what it was given a second ago: votes and entries.
#[test]
fn a_disk_that_lies_is_found() {
    let faults = vec![Fault::Crash(Crash::Unpowered), Fault::CrashMany(Crash::Unpowered)];
    is_found(&Plan { spec: Spec { lies_ms: 1_000, ..small() }, faults, ..Plan::default() });
}

/// Reads from a node that believes to lead, without a proof.
#[test]
fn reads_without_a_proof_are_found() {
    let spec = Spec { coordinators: 1, shards: 1, ..small() };
    let faults = vec![Fault::CutOffLeader, Fault::PauseLeader];
    is_found(&Plan { spec, faults, keys: 3, reads: Reads::Unproved, ..Plan::default() });
}
