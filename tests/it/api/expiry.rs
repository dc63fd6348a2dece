//! `?ttl=`: an expired cell is absent for every reader, and for conditions.

use serde_json::json;

use crate::harness::{Cluster, HEAL, Http, eventually};

/// Waits until a cell is gone at a node.
async fn until_gone(node: Http, path: &str) {
    eventually("the value expires", HEAL, async || match node.get(path).await.status {
        404 => Ok(()),
        status => Err(format!("{path}: {status}")),
    })
    .await;
}

#[tokio::test]
async fn what_has_expired_is_absent_everywhere() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let path = format!("/data/expiry-{}/r/c", node.port);
        node.put(format!("{path}?ttl=300ms"), "brief").await.is(200);
        until_gone(node, &path).await;
        for reader in cluster.each() {
            reader.get(&path).await.problem(404);
            reader.get(format!("/data/expiry-{}/r", node.port)).await.problem(404);
        }
        node.delete(&path).await.problem(404);
        // For conditions too.
        let refused = node.put(&path, "x").header("if-match", "*").await;
        refused.problem(412);
        assert_eq!(refused.header("etag"), None);
        node.put(&path, "again").header("if-none-match", "*").await.is(200);
        node.get(&path).await.says("again");
    }
}

#[tokio::test]
async fn scans_leave_out_what_has_expired() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/data/expiry-scan/stays/c", "x").await.is(200);
    node.put("/data/expiry-scan/goes/c?ttl=300ms", "x").await.is(200);
    node.put("/kv/expiry-key?ttl=300ms", "x").await.is(200);
    until_gone(node, "/data/expiry-scan/goes/c").await;
    until_gone(node, "/kv/expiry-key").await;
    for reader in cluster.each() {
        let page = reader.get("/data/expiry-scan").await.is(200).json();
        let rows: Vec<_> = page["rows"].as_array().unwrap().iter().map(|row| row["row"].clone()).collect();
        assert_eq!(rows, [json!("stays")]);
        let keys = reader.get("/kv?prefix=expiry-key").await.is(200).json();
        assert_eq!(keys["keys"], json!([]));
    }
}

#[tokio::test]
async fn a_later_write_lifts_the_expiry() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/kv/expiry-lifted?ttl=400ms", "brief").await.is(200);
    node.put("/kv/expiry-lifted", "stays").await.is(200);
    // Another one, with the same time, tells when the first would have gone.
    node.put("/kv/expiry-clock?ttl=400ms", "x").await.is(200);
    until_gone(node, "/kv/expiry-clock").await;
    node.get("/kv/expiry-lifted").await.says("stays");
}

#[tokio::test]
async fn the_ttl_of_a_patch_holds_for_all_its_columns() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/data/expiry/patched/stays", "x").await.is(200);
    node.patch("/data/expiry/patched?ttl=300ms", &json!({"a": "1", "b": "2"})).await.is(200);
    until_gone(node, "/data/expiry/patched/a").await;
    node.get("/data/expiry/patched/b").await.problem(404);
    node.get("/data/expiry/patched/stays").await.says("x");
}

#[tokio::test]
async fn a_ttl_is_a_duration() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    for good in ["30s", "500ms", "5m", "2h"] {
        node.put(format!("/kv/expiry-good?ttl={good}"), "x").await.is(200);
    }
    for bad in ["", "5", "s", "-5s", "1.5s", "5d", "5%20s", "99999999999999999999s"] {
        node.put(format!("/kv/expiry-bad?ttl={bad}"), "x").await.problem(400);
    }
    node.get("/kv/expiry-bad").await.problem(404);
}
