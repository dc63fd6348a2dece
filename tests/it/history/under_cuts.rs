//! Clients at work while the network between the nodes is cut here and there, in one direction or in
//! both: what they saw must be what one register per key would have shown.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::under_faults::Running;
use crate::harness::{Cluster, Node, Spec, in_network};

/// Clients that pick a node that reaches nobody are soon told so.
const SETTINGS: &str = "ping_interval = \"500ms\"\nrequest_timeout = \"1s\"";

/// Operations with a known outcome while something is cut.
const WHILE_CUT: u64 = 150;

/// Cuts of a history. Each leaves operations without an answer, which the checker has to place
/// everywhere: on a busy machine, twice as many were too hard for it.
const ROUNDS: usize = 3;

#[tokio::test]
async fn single_paths_cut() {
    in_network("history::under_cuts::single_paths_cut", async |network| {
        let spec = Spec { settings: SETTINGS, ..Spec::default() };
        let cluster = Cluster::start_in(&network, "history-paths", spec).await;
        let running = Running::start(&cluster);
        running.until_more().await;
        let mut rng = StdRng::seed_from_u64(1);
        let nodes: Vec<&Node> = cluster.nodes.iter().collect();
        for _ in 0..ROUNDS {
            // Some of the thirty, all at once.
            for _ in 0..rng.random_range(2..6) {
                let two: Vec<_> = nodes.sample(&mut rng, 2).collect();
                network.cut(two[0], two[1]);
            }
            running.until(WHILE_CUT).await;
            network.heal();
            cluster.until_whole().await;
            running.until_more().await;
        }
        running.judge().await;
    })
    .await;
}

#[tokio::test]
async fn workers_cut_off_one_after_the_other() {
    in_network("history::under_cuts::workers_cut_off_one_after_the_other", async |network| {
        let spec = Spec { settings: SETTINGS, ..Spec::default() };
        let cluster = Cluster::start_in(&network, "history-off", spec).await;
        let running = Running::start(&cluster);
        running.until_more().await;
        for round in 0..ROUNDS {
            let victim = cluster.worker(round % 3);
            for other in cluster.nodes.iter().filter(|node| node.port != victim.port) {
                // Each of them in another way.
                match round % 3 {
                    0 => network.part(victim, other),
                    1 => network.cut(victim, other),
                    _ => network.cut(other, victim),
                }
            }
            running.until(WHILE_CUT).await;
            // The next one is cut off before the last one has found its way back.
            network.heal();
            running.until(WHILE_CUT).await;
        }
        cluster.until_whole().await;
        running.until_more().await;
        running.judge().await;
    })
    .await;
}
