//! `Idempotency-Key` over the death of a leader, and of all.

use serde_json::json;

use crate::harness::{Answer, Call, Cluster, HEAL, Spec, eventually};

/// Sends until there is an answer that decides.
async fn decided(call: Call) -> Answer {
    eventually("a repeat is answered", HEAL, async || match call.attempt().await {
        Ok(answer) if matches!(answer.status, 409 | 429 | 503 | 504) => Err(answer.text()),
        Ok(answer) => Ok(answer),
        Err(failure) => Err(format!("{failure:?}")),
    })
    .await
}

#[tokio::test]
async fn a_repeat_after_kills_gives_the_first_answer() {
    let cluster = Cluster::start("retry", Spec::default()).await;
    let put =
        |node: &crate::harness::Node| node.http().put("/kv/retry", "first").header("idempotency-key", "once");
    let ops: Vec<_> =
        (0..12).map(|n| json!({"op": "put", "key": format!("retry-batch-{n}"), "value": "1"})).collect();
    let batch = |node: &crate::harness::Node| {
        node.http().post("/batch", &json!(ops)).header("idempotency-key", "many")
    };
    let (leader, followers) = cluster.leader_and_followers("retry").await;
    let version = put(leader).await.is(200).version();
    let results = batch(leader).await.is(200).json();
    cluster.any().put("/kv/retry", "second").await.is(200);
    leader.kill();
    for follower in followers {
        let repeat = decided(put(follower)).await.says("OK");
        assert_eq!(repeat.version(), version);
        assert_eq!(decided(batch(follower)).await.is(200).json(), results);
        let other = follower.http().put("/kv/retry", "other").header("idempotency-key", "once");
        decided(other).await.problem(422);
        follower.http().get("/kv/retry").await.says("second");
    }
    cluster.kill_all();
    cluster.restart_all().await;
    for node in &cluster.nodes {
        assert_eq!(decided(put(node)).await.says("OK").version(), version);
        node.http().get("/kv/retry").await.says("second");
    }
}
