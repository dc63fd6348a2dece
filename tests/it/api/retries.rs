//! `Idempotency-Key`: a repeat gives the first answer again and changes nothing.

use serde_json::json;

use crate::harness::Cluster;

#[tokio::test]
async fn a_repeat_changes_nothing_at_any_node() {
    let cluster = Cluster::shared().await;
    for (index, node) in cluster.each().enumerate() {
        let path = format!("/kv/retries-{index}");
        let put = || node.put(&path, "first").header("idempotency-key", "abc");
        let version = put().await.says("OK").version();
        let second = node.put(&path, "second").await.is(200).version();
        for other in cluster.each() {
            let repeat = other.put(&path, "first").header("idempotency-key", "abc").await.says("OK");
            assert_eq!(repeat.version(), version);
        }
        assert_eq!(node.get(&path).await.says("second").version(), second);
        // Another key is another request.
        node.put(&path, "third").header("idempotency-key", "abd").await.is(200);
        node.get(&path).await.says("third");
    }
}

#[tokio::test]
async fn every_decided_answer_is_remembered() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let delete = || node.delete("/kv/retries-404").header("idempotency-key", "d");
    delete().await.problem(404);
    node.put("/kv/retries-404", "x").await.is(200);
    delete().await.problem(404);
    node.get("/kv/retries-404").await.says("x");

    let insert =
        || node.put("/kv/retries-404", "y").header("if-none-match", "*").header("idempotency-key", "i");
    insert().await.problem(412);
    node.delete("/kv/retries-404").await.is(200);
    insert().await.problem(412);
    node.get("/kv/retries-404").await.problem(404);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let cluster = Cluster::shared().await;
    for (index, node) in cluster.each().enumerate() {
        let path = format!("/kv/retries-422-{index}");
        node.put(&path, "one").header("idempotency-key", "same").await.is(200);
        for other in cluster.each() {
            other.put(&path, "two").header("idempotency-key", "same").await.problem(422);
        }
        node.get(&path).await.says("one");
    }
}

#[tokio::test]
async fn its_scope_is_method_and_path() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/kv/retries-scope-a", "a").header("idempotency-key", "s").await.is(200);
    node.put("/kv/retries-scope-b", "b").header("idempotency-key", "s").await.is(200);
    node.delete("/kv/retries-scope-a").header("idempotency-key", "s").await.is(200);
    node.get("/kv/retries-scope-a").await.problem(404);
    node.get("/kv/retries-scope-b").await.says("b");
}

#[tokio::test]
async fn rows_and_batches_too() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let row = format!("/data/retries/{}", node.port);
        let patch = || node.patch(&row, &json!({"a": "1"})).header("idempotency-key", "p");
        let first = patch().await.is(200).json();
        node.put(format!("{row}/a"), "2").await.is(200);
        assert_eq!(patch().await.is(200).json(), first);
        node.get(format!("{row}/a")).await.says("2");
        node.patch(&row, &json!({"a": "9"})).header("idempotency-key", "p").await.problem(422);

        let keys = [
            format!("retries-a-{}", node.port),
            format!("retries-b-{}", node.port),
            format!("retries-c-{}", node.port),
        ];
        let ops: Vec<_> = keys.iter().map(|key| json!({"op": "put", "key": key, "value": "1"})).collect();
        let batch = || node.post("/batch", &json!(ops)).header("idempotency-key", format!("b-{}", node.port));
        let first = batch().await.is(200).json();
        node.put(format!("/kv/{}", keys[1]), "2").await.is(200);
        assert_eq!(batch().await.is(200).json(), first);
        node.get(format!("/kv/{}", keys[1])).await.says("2");
        let other = json!([{"op": "put", "key": keys[0], "value": "9"}]);
        node.post("/batch", &other).header("idempotency-key", format!("b-{}", node.port)).await.problem(422);
        node.get(format!("/kv/{}", keys[0])).await.says("1");
    }
}

#[tokio::test]
async fn repeats_at_the_same_time_are_one_write() {
    let cluster = Cluster::shared().await;
    let before = cluster.any().put("/kv/retries-race", "0").await.is(200).version();
    let calls = cluster.each().cycle().take(18).map(|node| {
        let put = node.put("/kv/retries-race", "1").header("idempotency-key", "r");
        async move { put.await }
    });
    let answers = futures_util::future::join_all(calls).await;
    let mut versions: Vec<_> =
        answers.iter().filter(|answer| answer.status == 200).map(|a| a.version()).collect();
    versions.dedup();
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert!(versions[0] > before);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.problem(409);
    }
}
