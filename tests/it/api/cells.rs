//! `/data/{table}/{row}/{column}`.

use crate::harness::{Cluster, names};

#[tokio::test]
async fn a_value_written_anywhere_is_read_everywhere() {
    let cluster = Cluster::shared().await;
    for writer in cluster.each() {
        let value = format!("from {}", writer.port);
        let put = writer.put("/data/cells/everywhere/c", value.clone()).await.says("OK");
        for reader in cluster.each() {
            let got = reader.get("/data/cells/everywhere/c").await.says(&value);
            assert_eq!(got.version(), put.version());
            assert!(got.header("last-modified").is_some_and(|date| date.ends_with(" GMT")), "{got:?}");
            assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
        }
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let cluster = Cluster::shared().await;
    cluster.any().put("/data/cells/head/c", "12345").header("content-type", "text/x-test").await.is(200);
    for node in cluster.each() {
        let get = node.get("/data/cells/head/c").await.says("12345");
        let head = node.head("/data/cells/head/c").await.is(200);
        assert!(head.body.is_empty());
        for name in ["etag", "content-type", "content-length", "last-modified"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
        assert_eq!(head.header("content-type"), Some("text/x-test"));
        assert_eq!(head.header("content-length"), Some("5"));
        let missing = node.head("/data/cells/head/none").await.is(404);
        assert!(missing.body.is_empty());
    }
}

#[tokio::test]
async fn delete_removes_once() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        node.put("/data/cells/delete/c", "x").await.is(200);
        node.delete("/data/cells/delete/c").await.says("OK");
        for reader in cluster.each() {
            reader.get("/data/cells/delete/c").await.problem(404);
        }
        node.delete("/data/cells/delete/c").await.problem(404);
    }
}

#[tokio::test]
async fn a_404_says_what_is_missing() {
    let cluster = Cluster::shared().await;
    cluster.any().put("/data/cells-missing/row/column", "x").await.is(200);
    for node in cluster.each() {
        for (path, missing) in [
            ("/data/no-such-table/row/column", "table"),
            ("/data/cells-missing/other/column", "row"),
            ("/data/cells-missing/row/other", "column"),
            ("/data/no-such-table/row", "table"),
            ("/data/cells-missing/other", "row"),
        ] {
            let problem = node.get(path).await.problem(404);
            assert_eq!(problem["missing"], missing, "{path} at {}", node.port);
            let problem = node.delete(path).await.problem(404);
            assert_eq!(problem["missing"], missing, "DELETE {path} at {}", node.port);
        }
    }
}

#[tokio::test]
async fn a_table_exists_while_it_has_a_cell() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let tables = async || {
        let listed = node.get("/data").await.is(200).json();
        listed["tables"].as_array().unwrap().iter().any(|table| table == "cells-table")
    };
    assert!(!tables().await);
    node.put("/data/cells-table/r/c", "x").await.is(200);
    assert!(tables().await);
    node.delete("/data/cells-table/r/c").await.is(200);
    assert!(!tables().await);
    assert_eq!(node.get("/data/cells-table/r/c").await.problem(404)["missing"], "table");
}

#[tokio::test]
async fn values_are_bytes_with_their_content_type() {
    let cluster = Cluster::shared().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let node = cluster.any();
    for (content_type, returned) in [(None, "application/octet-stream"), (Some("image/png"), "image/png")] {
        let put = node.put("/data/cells/bytes/c", bytes.clone());
        let put = content_type.map_or(put.clone(), |value| put.header("content-type", value));
        put.await.is(200);
        for reader in cluster.each() {
            let got = reader.get("/data/cells/bytes/c").await.is(200);
            assert_eq!(got.body, bytes);
            assert_eq!(got.header("content-type"), Some(returned));
        }
    }
}

#[tokio::test]
async fn the_largest_and_the_smallest_value() {
    let cluster = Cluster::shared().await;
    let largest = vec![b'x'; 8 << 20];
    for (writer, reader) in cluster.each().zip(cluster.each().skip(3)) {
        writer.put("/data/cells/large/c", largest.clone()).await.is(200);
        assert!(reader.get("/data/cells/large/c").await.is(200).body == largest);
    }
    let node = cluster.any();
    node.put("/data/cells/large/c", vec![b'x'; (8 << 20) + 1]).await.problem(413);
    assert!(node.get("/data/cells/large/c").await.is(200).body == largest);
    node.put("/data/cells/large/c", "").await.is(200);
    node.get("/data/cells/large/c").await.says("");
}

#[tokio::test]
async fn versions_only_grow_also_over_deletion() {
    let cluster = Cluster::shared().await;
    let mut last = 0;
    for node in cluster.each() {
        let first = node.put("/data/cells/grow/c", "1").await.is(200).version();
        assert!(first > last, "{first} after {last}");
        node.delete("/data/cells/grow/c").await.is(200);
        last = node.put("/data/cells/grow/c", "2").await.is(200).version();
        // The deletion has used up one as well.
        assert!(last > first + 1, "{last} after {first}");
    }
}

#[tokio::test]
async fn cells_of_one_row_are_apart() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    for (table, column) in [("cells-a", "x"), ("cells-a", "y"), ("cells-b", "x")] {
        node.put(names("/data", [table, "apart", column]), format!("{table} {column}")).await.is(200);
    }
    node.delete("/data/cells-a/apart/x").await.is(200);
    node.get("/data/cells-a/apart/x").await.problem(404);
    node.get("/data/cells-a/apart/y").await.says("cells-a y");
    node.get("/data/cells-b/apart/x").await.says("cells-b x");
}
