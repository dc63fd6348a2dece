//! `POST /batch`.

use serde_json::{Value, json};

use crate::harness::Cluster;

fn statuses(results: &Value) -> Vec<u64> {
    results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn results_come_in_order() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let port = node.port;
        let ops: Vec<_> = (0..50)
            .map(|n| json!({"op": "put", "key": format!("batch-{port}-{n}"), "value": n.to_string()}))
            .collect();
        let put = node.post("/batch", &json!(ops)).await.is(200).json();
        assert_eq!(statuses(&put), vec![200; 50]);
        let gets: Vec<_> =
            (0..50).rev().map(|n| json!({"op": "get", "table": "kv", "row": format!("batch-{port}-{n}"), "column": "value"})).collect();
        let got = node.post("/batch", &json!(gets)).await.is(200).json();
        assert_eq!(statuses(&got), vec![200; 50]);
        for (index, n) in (0..50).rev().enumerate() {
            assert_eq!(got[index]["value"], n.to_string(), "{got}");
            assert_eq!(got[index]["version"], put[n]["version"], "{got}");
        }
        let ops = json!([
            {"op": "delete", "key": format!("batch-{port}-0")},
            {"op": "delete", "key": format!("batch-{port}-none")},
            {"op": "get", "key": format!("batch-{port}-none")},
        ]);
        assert_eq!(statuses(&node.post("/batch", &ops).await.is(200).json()), [200, 404, 404]);
        node.get(format!("/kv/batch-{port}-0")).await.problem(404);
    }
}

#[tokio::test]
async fn bytes_and_expiry_in_a_batch() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let ops = json!([
        {"op": "put", "table": "batch", "row": "bytes", "column": "c", "base64": "/wA="},
        {"op": "put", "table": "batch", "row": "brief", "column": "c", "value": "x", "ttl": "1h"},
    ]);
    assert_eq!(statuses(&node.post("/batch", &ops).await.is(200).json()), [200, 200]);
    assert_eq!(node.get("/data/batch/bytes/c").await.is(200).body.as_ref(), [0xff, 0]);
    let row = node.get("/data/batch/brief").await.is(200).json();
    assert!(row["columns"]["c"]["expires_at"].is_string(), "{row}");
}

#[tokio::test]
async fn the_operations_on_a_row_happen_together_or_not() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let row = format!("together-{}", node.port);
        let op = |op: &str, column: &str, more: Value| {
            let mut all = json!({"op": op, "table": "batch", "row": row, "column": column});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let first = node
            .post(
                "/batch",
                &json!([
                    op("put", "a", json!({"value": "1", "if_version": 0})),
                    op("put", "b", json!({"value": "1"})),
                ]),
            )
            .await
            .is(200)
            .json();
        assert_eq!(statuses(&first), [200, 200]);
        let version = first[0]["version"].clone();
        // One condition fails: nothing on that row happens; another row's operation stands.
        let second = node.post("/batch", &json!([
            op("put", "b", json!({"value": "2"})),
            op("put", "a", json!({"value": "2", "if_version": 0})),
            {"op": "put", "table": "batch", "row": format!("{row}-other"), "column": "c", "value": "x"},
            op("delete", "b", json!({})),
        ])).await.is(200).json();
        assert_eq!(statuses(&second), [424, 412, 200, 424], "{second}");
        let now = node.get(format!("/data/batch/{row}")).await.is(200).json();
        assert_eq!(
            (&now["columns"]["a"]["value"], &now["columns"]["b"]["value"]),
            (&json!("1"), &json!("1"))
        );
        node.get(format!("/data/batch/{row}-other/c")).await.says("x");
        // `get`s see the state before the batch.
        let third = node
            .post(
                "/batch",
                &json!([
                    op("put", "a", json!({"value": "3", "if_version": version})),
                    op("get", "a", json!({})),
                    op("delete", "b", json!({})),
                    op("get", "b", json!({})),
                ]),
            )
            .await
            .is(200)
            .json();
        assert_eq!(statuses(&third), [200, 200, 200, 200], "{third}");
        assert_eq!((&third[1]["value"], &third[3]["value"]), (&json!("1"), &json!("1")));
        node.get(format!("/data/batch/{row}/a")).await.says("3");
        node.get(format!("/data/batch/{row}/b")).await.problem(404);
    }
}

#[tokio::test]
async fn one_malformed_operation_refuses_the_whole() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let good = json!({"op": "put", "key": "batch-bad", "value": "x"});
    for bad in [
        json!({"op": "jump", "key": "a"}),
        json!({"op": "put", "value": "x"}),
        json!({"op": "put", "key": "a"}),
        json!({"op": "put", "key": "a", "value": 5}),
        json!({"op": "put", "key": "a", "value": "x", "base64": ""}),
        json!({"op": "put", "key": "a", "base64": "!"}),
        json!({"op": "put", "key": "", "value": "x"}),
        json!({"op": "put", "key": "n".repeat(1025), "value": "x"}),
        json!({"op": "put", "key": "a", "table": "t", "row": "r", "column": "c", "value": "x"}),
        json!({"op": "put", "table": "t", "row": "r", "value": "x"}),
        json!({"op": "put", "key": "a", "value": "x", "ttl": "5"}),
        json!({"op": "put", "key": "a", "value": "x", "if_version": -1}),
        json!({"op": "get", "key": "a", "ttl": "5s"}),
        json!("put"),
    ] {
        let problem = node.post("/batch", &json!([good, good, bad])).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains('2'), "the index is not named: {problem}");
    }
    for body in ["", "{}", "[", "5", "[{}]"] {
        node.call("POST", "/batch").body(body).await.problem(400);
    }
    node.get("/kv/batch-bad").await.problem(404);
}

#[tokio::test]
async fn the_bounds_of_a_batch() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let ops: Vec<_> =
        (0..10_001).map(|n| json!({"op": "put", "key": format!("batch-many-{n}"), "value": ""})).collect();
    node.post("/batch", &json!(ops)).await.problem(400);
    node.get("/kv/batch-many-0").await.problem(404);
    let all = node.post("/batch", &json!(ops[..10_000])).await.is(200).json();
    assert!(statuses(&all).iter().all(|status| *status == 200));
    assert_eq!(node.post("/batch", &json!([])).await.is(200).json(), json!([]));

    // 32 MiB as sent; the spaces count.
    let op = "[{\"op\": \"put\", \"key\": \"batch-large\", \"value\": \"x\"}]";
    let padded = |length: usize| format!("{op}{}", " ".repeat(length - op.len()));
    node.call("POST", "/batch").body(padded((32 << 20) + 1)).await.problem(413);
    node.get("/kv/batch-large").await.problem(404);
    node.call("POST", "/batch").body(padded(32 << 20)).await.is(200);
    // A single value in it is bound like any other.
    let large = json!([{"op": "put", "key": "batch-large", "value": "x".repeat((8 << 20) + 1)}]);
    node.post("/batch", &large).await.problem(413);
    node.get("/kv/batch-large").await.says("x");
}
