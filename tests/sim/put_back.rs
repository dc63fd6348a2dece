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

/// Runs at most so many seeds until one of them finds the bug, by what is lost or seen to be wrong, and not
/// by a node that gave up.
fn found_within(most: u64, plan: &Plan) {
    let mut others = Vec::new();
    for seed in seeds(most).into_iter().take(most as usize) {
        match run(seed, plan) {
            Err((Failure::NotLinearizable(_) | Failure::Broken(_), _)) => {
                println!("found by seed {seed}");
                return;
            }
            Err((other, events)) => others.push(format!("seed {seed}: {other}\n{events}")),
            Ok(report) => others.push(format!("seed {seed}: nothing: {report}")),
        }
    }
    panic!("not found by {most} seeds:\n{}", others.join("\n"));
}

/// A small cluster, in which what is lost on one disk is not on all the others.
fn small() -> Spec {
    Spec { workers: 3, spares: 0, shards: 2, ..Spec::default() }
}

/// An acknowledgement before the sync: what a majority said to have was on no disk.
#[test]
fn an_early_acknowledgement_is_found() {
    let faults = vec![Fault::Crash(Crash::Unpowered), Fault::CrashMany(Crash::Unpowered), Fault::CutOff];
    found_within(20, &Plan { spec: Spec { lies_ms: 60, ..small() }, faults, ..Plan::default() });
}

/// A disk that has said "synced" and forgets what it was given a second ago: votes and entries.
#[test]
fn a_disk_that_lies_is_found() {
    let faults = vec![Fault::Crash(Crash::Unpowered), Fault::CrashMany(Crash::Unpowered)];
    found_within(20, &Plan { spec: Spec { lies_ms: 1_000, ..small() }, faults, ..Plan::default() });
}

/// Reads from a node that believes to lead, without a proof.
#[test]
fn reads_without_a_proof_are_found() {
    let spec = Spec { coordinators: 1, shards: 1, ..small() };
    let faults = vec![Fault::CutOffLeader, Fault::PauseLeader];
    found_within(20, &Plan { spec, faults, keys: 3, reads: Reads::Unproved, ..Plan::default() });
}
