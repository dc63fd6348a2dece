//! Whole nodes of the program in one process: real groups, real stores and the real placement driver, on
//! a simulated network, on disks that lose in a crash what was not synced, and on a clock that stands
//! still while anybody works. Minutes of a cluster's life take seconds.
//!
//! ```sh
//! SIM_SEEDS=100 cargo test --test sim           # more seeds
//! SIM_SEED=17 cargo test --test sim             # only this one, in each of the tests
//! SIM_LOG=info SIM_SEED=17 cargo test --test sim faults -- --nocapture
//! ```
//!
//! docs/TESTING.md says how far a seed repeats a run.

// A panic is a test's verdict here, and the reader of a test is its only user.
#![allow(clippy::unwrap_used, missing_docs)]

mod clients;
mod disk;
mod faults;
#[path = "../linearizability/mod.rs"]
mod linearizability;
mod maps;
mod net;
mod net_test;
mod node;
mod panics;
mod pipe;
mod put_back;
mod run;
mod runs;
mod stuck;
mod take_over;
mod watch;
mod world;

use rand::{SeedableRng, rngs::StdRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A source of chance of its own for each thing: what one of them draws does not change what others do.
fn rng(seed: u64, what: &str, number: u64) -> StdRng {
    StdRng::seed_from_u64(xxh3_64_with_seed(format!("{what}-{number}").as_bytes(), seed))
}
