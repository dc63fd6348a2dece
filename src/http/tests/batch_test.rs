//! `POST /batch`, from socket to model and back.

use serde_json::json;

use super::*;

/// The members of results that tests compare, in order.
fn told(answer: &Answer) -> Vec<Value> {
    let members = |result: &Value| {
        let mut result = result.as_object().unwrap().clone();
        for member in ["title", "detail", "type"] {
            result.remove(member);
        }
        Value::Object(result)
    };
    answer.json().as_array().unwrap().iter().map(members).collect()
}

#[tokio::test]
async fn results_come_in_order_over_all_shards() {
    let server = Server::start().await;
    let puts: Vec<_> =
        (0..100).map(|i| json!({ "op": "put", "key": format!("k{i}"), "value": i.to_string() })).collect();
    let answer = server.post("/batch", &Value::from(puts).to_string()).await.ok();
    assert_eq!(told(&answer).len(), 100);
    assert!(told(&answer).iter().all(|result| result["status"] == 200 && result["version"].is_u64()));
    assert_eq!(server.model.proposals(), 4, "one proposal per shard");
    let gets: Vec<_> = (0..101).rev().map(|i| json!({ "op": "get", "key": format!("k{i}") })).collect();
    let answer = server.post("/batch", &Value::from(gets).to_string()).await.ok();
    let results = told(&answer);
    assert_eq!(results[0], json!({ "status": 404, "outcome": "none" }));
    for (i, result) in (0..100).rev().zip(&results[1..]) {
        assert_eq!((&result["status"], &result["value"]), (&json!(200), &json!(i.to_string())));
    }
    assert_eq!(server.model.proposals(), 4, "reads alone are no proposals");
    assert!(told(&server.post("/batch", "[]").await.ok()).is_empty());
}

#[tokio::test]
async fn operations_on_a_row_are_atomic_and_reads_see_it_before() {
    let server = Server::start().await;
    let cell = |op: &str, column: &str, more: Value| {
        let mut op = json!({ "op": op, "table": "t", "row": "r", "column": column });
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    };
    let batch = async |ops: Value| told(&server.post("/batch", &ops.to_string()).await.ok());
    let first = batch(json!([
        cell("put", "a", json!({ "value": "1", "if_version": 0 })),
        cell("get", "a", json!({})),
        cell("put", "b", json!({ "base64": "/w==", "ttl": "1m" })),
        cell("delete", "c", json!({})),
    ]))
    .await;
    let absent = json!({ "status": 404, "outcome": "none" });
    let done = json!({ "status": 200, "version": 1 });
    assert_eq!(first, [done.clone(), absent.clone(), done, absent]);

    let second = batch(json!([
        cell("get", "a", json!({})),
        cell("put", "b", json!({ "value": "2", "if_version": 7 })),
        cell("delete", "a", json!({})),
        json!({ "op": "put", "key": "elsewhere", "value": "stands" }),
        cell("put", "c", json!({ "value": "x", "if_version": 3 })),
    ]))
    .await;
    let dependent = json!({ "status": 424, "outcome": "none" });
    assert_eq!(second[0], dependent);
    assert_eq!(second[1], json!({ "status": 412, "outcome": "none", "version": 1 }));
    assert_eq!(second[2], dependent);
    assert_eq!(second[3]["status"], 200);
    assert_eq!(second[4], dependent, "the first condition that fails is the one told");
    assert_eq!(server.get("/data/t/r/a").await.ok().text(), "1");

    let third = batch(json!([
        cell("get", "b", json!({})),
        cell("put", "b", json!({ "value": "3" })),
        cell("get", "b", json!({ "if_version": 1 })),
    ]))
    .await;
    let before =
        json!({ "status": 200, "base64": "/w==", "version": 1, "expires_at": "2026-01-01T00:01:00.000Z" });
    assert_eq!((&third[0], &third[2]), (&before, &before));
}

#[tokio::test]
async fn a_malformed_operation_refuses_the_whole() {
    let server = Server::start().await;
    let problem =
        server.post("/batch", r#"[{"op":"put","key":"k","value":"v"},{"op":"put"}]"#).await.problem(400);
    assert!(problem["detail"].as_str().unwrap().contains("operation 1"), "{problem}");
    let large = json!([{ "op": "put", "key": "k", "value": "x".repeat(65_537) }]).to_string();
    server.post("/batch", &large).await.problem(413);
    assert_eq!(server.model.proposals(), 0);
    server.get("/kv/k").await.problem(404);
}

#[tokio::test]
async fn a_shard_that_fails_fails_alone() {
    let server = Server::start().await;
    let group = |key: &str| server.model.locate(key).unwrap().group.0;
    let other = (0..).map(|i| format!("k{i}")).find(|key| group(key) != group("k")).unwrap();
    for (error, status, outcome) in [
        (Error::Unavailable("no majority".into()), 503, "none"),
        (Error::Unknown("no answer".into()), 504, "unknown"),
        (Error::Busy("full".into()), 429, "none"),
    ] {
        server.model.fail(group("k"), error);
        let ops = json!([
            { "op": "put", "key": "k", "value": "v" },
            { "op": "put", "key": other, "value": "v" },
        ]);
        let results = told(&server.post("/batch", &ops.to_string()).await.ok());
        assert_eq!(results[0], json!({ "status": status, "outcome": outcome }));
        assert_eq!(results[1]["status"], 200);
        let read = told(&server.post("/batch", r#"[{"op":"get","key":"k"}]"#).await.ok());
        assert_eq!(read[0]["status"], status);
    }
    server.model.forget_map();
    let results = told(&server.post("/batch", r#"[{"op":"put","key":"k","value":"v"}]"#).await.ok());
    assert_eq!(results[0]["status"], 503);
}

#[tokio::test]
async fn a_batch_follows_a_shard_that_was_split() {
    let server = Server::start().await;
    for at in [1 << 61, 3 << 61, 5 << 61, 7 << 61] {
        server.model.part(at);
    }
    let puts: Vec<_> =
        (0..50).map(|i| json!({ "op": "put", "key": format!("k{i}"), "value": "v" })).collect();
    let answer = server.post("/batch", &Value::from(puts).to_string()).await.ok();
    assert!(told(&answer).iter().all(|result| result["status"] == 200), "{answer:?}");
    for i in 0..50 {
        server.get(&format!("/kv/k{i}")).await.ok();
    }
}

#[tokio::test]
async fn a_repeated_batch_gives_the_first_answer_and_another_body_is_refused_whole() {
    let server = Server::start().await;
    let batch =
        async |text: &str| server.send("POST", "/batch", &[("idempotency-key", "b")], text.as_bytes()).await;
    server.put("/kv/read", b"before").await.ok();
    let ops = r#"[{"op":"put","key":"a","value":"1"},{"op":"get","key":"read"},{"op":"delete","key":"b"}]"#;
    let first = batch(ops).await.ok().json();
    assert_eq!(first[1]["value"], "before");
    server.put("/kv/read", b"after").await.ok();
    server.delete("/kv/a").await.ok();
    assert_eq!(batch(ops).await.ok().json(), first);
    server.get("/kv/a").await.problem(404);
    // None of these keys was in the first batch: their shards may never have heard of it.
    for i in 0..8 {
        let other = json!([{ "op": "put", "key": format!("new{i}"), "value": "1" }]).to_string();
        batch(&other).await.problem(422);
        server.get(&format!("/kv/new{i}")).await.problem(404);
    }
}

#[tokio::test]
async fn what_a_batch_reads_is_bounded() {
    let server = Server::start().await;
    let large = vec![b'x'; 64 << 10];
    server.put("/kv/k", &large).await.ok();
    server.put("/kv/small", b"s").await.ok();
    let mut ops = vec![json!({ "op": "get", "key": "k" }); 1_100];
    ops.push(json!({ "op": "put", "key": "other", "value": "v" }));
    let results = told(&server.post("/batch", &Value::from(ops).to_string()).await.ok());
    let with = |status: u64| results.iter().filter(|result| result["status"] == status).count();
    assert_eq!((with(200), with(413)), (1_025, 76));
}
