//! The runs of `cargo test`: a few seeds, or those that were asked for.

use std::{env, sync::Once, time::Instant};

use tracing_subscriber::EnvFilter;

use super::{
    faults,
    run::{Plan, run},
    world::{Spec, Tally},
};

/// Seeds of each test in `cargo test`.
const FEW: u64 = 4;

/// The seeds of a test: `few` of them unless `SIM_SEEDS` or `SIM_SEED` says otherwise.
pub(crate) fn seeds(few: u64) -> Vec<u64> {
    log();
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match (number("SIM_SEED"), number("SIM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (1..=count.unwrap_or(few)).collect(),
    }
}

/// The nodes' own log, where `SIM_LOG` asks for it.
fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = env::var("SIM_LOG") {
            tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).without_time().init();
        }
    });
}

fn all(test: &str, few: u64, plan: impl Fn(u64) -> Plan) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds(few) {
        let began = Instant::now();
        match run(seed, &plan(seed)) {
            Ok(report) => {
                println!("{test}, seed {seed}: {report}, {:.1} s", began.elapsed().as_secs_f64());
                tally += report.tally;
            }
            Err((failure, events)) => {
                panic!("{test}, SIM_SEED={seed}: {failure}\nthe last events:\n{events}")
            }
        }
    }
    tally
}

/// Whether so many seeds ran that what they did not show is a fault of the simulation.
fn is_telling() -> bool {
    seeds(FEW).len() as u64 >= FEW
}

#[test]
fn faults_of_machines_and_network() {
    let tally = all("faults", FEW, |seed| Plan { spec: Spec::drawn(seed), ..Plan::default() });
    assert!(!is_telling() || (tally.crashes > 20 && tally.stops > 0), "{tally:?}");
}

#[test]
fn faults_while_the_cluster_changes() {
    let plan = |_| Plan {
        spec: Spec { workers: 4, spares: 1, shards: 2, ..Spec::default() },
        faults: faults::with_changes(),
        ..Plan::default()
    };
    let tally = all("changes", FEW, plan);
    assert!(!is_telling() || (tally.splits > 0 && tally.snapshots > 0), "{tally:?}");
}
