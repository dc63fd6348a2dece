//! `/data/{table}/{row}`.

use serde_json::json;

use crate::harness::Cluster;

#[tokio::test]
async fn a_row_is_read_whole() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let text = node
        .put("/data/rows/whole/text", "héllo")
        .header("content-type", "text/plain")
        .await
        .is(200)
        .version();
    node.put("/data/rows/whole/bytes", vec![0xff, 0x00]).await.is(200);
    node.put("/data/rows/whole/brief?ttl=1h", "soon gone").await.is(200);
    // Another table's columns of the same row are not this row's.
    node.put("/data/rows-other/whole/else", "x").await.is(200);
    for node in cluster.each() {
        let row = node.get("/data/rows/whole").await.is(200).json();
        assert_eq!(row["row"], "whole");
        let columns = row["columns"].as_object().unwrap();
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["brief", "bytes", "text"]);
        assert_eq!(columns["text"], json!({"value": "héllo", "version": text, "content_type": "text/plain"}));
        assert_eq!(columns["bytes"]["base64"], "/wA=");
        assert_eq!(columns["bytes"].get("value"), None);
        let expires = columns["brief"]["expires_at"].as_str().unwrap();
        assert!(expires.ends_with('Z') && expires.contains('T'), "{expires}");
    }
}

#[tokio::test]
async fn a_patch_changes_columns_together() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let path = format!("/data/rows/patch-{}", node.port);
        let first =
            node.patch(&path, &json!({"a": "1", "b": {"base64": "/wA="}, "c": "x"})).await.is(200).json();
        let second = node.patch(&path, &json!({"a": "2", "c": null, "d": "4"})).await.is(200).json();
        assert!(second["version"].as_u64().unwrap() > first["version"].as_u64().unwrap());
        let row = node.get(&path).await.is(200).json();
        let columns = row["columns"].as_object().unwrap();
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["a", "b", "d"]);
        // One write has one version.
        assert_eq!(columns["a"], json!({"value": "2", "version": second["version"]}));
        assert_eq!(columns["d"]["version"], second["version"]);
        assert_eq!(columns["b"], json!({"base64": "/wA=", "version": first["version"]}));
        let cell = node.get(format!("{path}/b")).await.is(200);
        assert_eq!(cell.body.as_ref(), [0xff, 0x00]);
    }
}

#[tokio::test]
async fn readers_never_see_half_a_patch() {
    let cluster = Cluster::shared().await;
    let writer = cluster.any();
    writer.patch("/data/rows/atomic", &json!({"a": "0", "b": "0"})).await.is(200);
    let write = async {
        for number in 1..40 {
            let text = number.to_string();
            writer.patch("/data/rows/atomic", &json!({"a": text, "b": text})).await.is(200);
        }
    };
    let read = async {
        loop {
            for reader in cluster.each() {
                let row = reader.get("/data/rows/atomic").await.is(200).json();
                let columns = &row["columns"];
                assert_eq!(columns["a"], columns["b"]);
                if columns["a"]["value"] == "39" {
                    return;
                }
            }
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_row_is_deleted_whole() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        node.patch("/data/rows/gone", &json!({"a": "1", "b": "2"})).await.is(200);
        node.put("/data/rows-other/gone/a", "stays").await.is(200);
        node.delete("/data/rows/gone").await.is(200);
        node.get("/data/rows/gone").await.problem(404);
        node.get("/data/rows/gone/a").await.problem(404);
        node.get("/data/rows-other/gone/a").await.says("stays");
        node.delete("/data/rows/gone").await.problem(404);
    }
}

#[tokio::test]
async fn a_malformed_patch_changes_nothing() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.patch("/data/rows/bad", &json!({"a": "1"})).await.is(200);
    for body in [
        "",
        "[]",
        "\"a\"",
        "{\"a\": 1}",
        "{\"a\": {\"base64\": \"!\"}}",
        "{\"a\": {}}",
        "{\"\": \"x\"}",
        "{\"a\": \"2\"",
        "{\"b\": \"2\", \"a\": []}",
    ] {
        node.call("PATCH", "/data/rows/bad").body(body).await.problem(400);
    }
    let row = node.get("/data/rows/bad").await.is(200).json();
    assert_eq!(row["columns"].as_object().unwrap().len(), 1);
    assert_eq!(row["columns"]["a"]["value"], "1");
    // JSON is read whatever its Content-Type.
    node.call("PATCH", "/data/rows/bad")
        .header("content-type", "text/plain")
        .body("{\"a\": \"2\"}")
        .await
        .is(200);
    node.get("/data/rows/bad/a").await.says("2");
}
