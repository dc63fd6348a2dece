//! `?consistency=stale`.

use crate::harness::{Cluster, HEAL, eventually};

#[tokio::test]
async fn every_node_answers_stale_reads() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/data/stale/r/c", "x").await.is(200);
    node.put("/kv/stale-key", "x").await.is(200);
    for reader in cluster.each() {
        // A replica may be behind, but not for ever.
        for path in [
            "/data/stale/r/c?consistency=stale",
            "/data/stale/r?consistency=stale",
            "/data/stale?consistency=stale",
            "/kv/stale-key?consistency=stale",
            "/kv?prefix=stale-key&consistency=stale",
            "/data?consistency=stale",
        ] {
            let answer = eventually("a stale read", HEAL, async || {
                let answer = reader.get(path).await;
                if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
            })
            .await;
            if let Some(age) = answer.header("quoring-staleness-ms") {
                age.parse::<u64>().unwrap_or_else(|error| panic!("{path}: {age}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn other_words_are_refused() {
    let cluster = Cluster::shared().await;
    cluster.any().get("/kv/stale-key?consistency=eventual").await.problem(400);
    cluster.any().get("/kv/stale-none?consistency=stale").await.problem(404);
}
