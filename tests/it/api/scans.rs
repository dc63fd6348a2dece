//! `GET /data/{table}` and `GET /data`: pages and streams, complete and without duplicates.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Cluster, Http};

/// More than the default page (1,000 rows) holds.
const ROWS: usize = 2_300;

/// Fills a table, 1,000 rows a batch.
async fn fill(node: Http, table: &str, rows: usize) {
    let ops: Vec<_> = (0..rows)
        .map(|row| json!({"op": "put", "table": table, "row": format!("row-{row:05}"), "column": "c", "value": row.to_string()}))
        .collect();
    for ops in ops.chunks(1_000) {
        let results = node.post("/batch", &json!(ops)).await.is(200).json();
        assert!(results.as_array().unwrap().iter().all(|result| result["status"] == 200), "{results}");
    }
}

/// Walks all pages, each at the next node.
async fn walk(cluster: &Cluster, path: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    for node in cluster.each().cycle() {
        let page = node.get(format!("{path}{cursor}")).await.is(200).json();
        rows.extend(page["rows"].as_array().unwrap().iter().cloned());
        match &page["next"] {
            Value::Null => break,
            next => cursor = format!("&cursor={}", next.as_str().unwrap()),
        }
    }
    rows
}

/// Asserts that these are the rows of [`fill`] that `wanted` selects, each once.
#[track_caller]
fn check_rows(rows: &[Value], wanted: impl Fn(usize) -> bool) {
    let mut seen = BTreeMap::new();
    for row in rows {
        let name = row["row"].as_str().unwrap();
        assert!(seen.insert(name, &row["columns"]["c"]["value"]).is_none(), "twice: {name}");
    }
    let expected = (0..ROWS).filter(|row| wanted(*row));
    let expected: BTreeMap<_, _> =
        expected.map(|row| (format!("row-{row:05}"), json!(row.to_string()))).collect();
    assert_eq!(seen.len(), expected.len());
    for (name, value) in expected {
        assert_eq!(seen.get(name.as_str()), Some(&&value), "{name}");
    }
}

#[tokio::test]
async fn pages_hold_every_row_once() {
    let cluster = Cluster::shared().await;
    fill(cluster.any(), "scans", ROWS).await;
    for limit in ["limit=1000", "limit=333", "limit=10000", "x=1"] {
        check_rows(&walk(cluster, &format!("/data/scans?{limit}")).await, |_| true);
    }
    let page = cluster.any().get("/data/scans").await.is(200).json();
    assert_eq!(page["rows"].as_array().unwrap().len(), 1_000, "the default limit");
    check_rows(&walk(cluster, "/data/scans?prefix=row-012&limit=17").await, |row| row / 100 == 12);
    check_rows(&walk(cluster, "/data/scans?from=row-00100&to=row-00200&limit=17").await, |row| {
        (100..200).contains(&row)
    });
    check_rows(&walk(cluster, "/data/scans?prefix=row-001&from=row-00150").await, |row| {
        (150..200).contains(&row)
    });
    check_rows(&walk(cluster, "/data/scans?prefix=none").await, |_| false);

    // A row in a page looks like a GET of the row.
    let one = &walk(cluster, "/data/scans?prefix=row-00042").await[0];
    assert_eq!(*one, cluster.any().get("/data/scans/row-00042").await.is(200).json());

    // And in the order of the ring.
    let page = cluster.any().get("/data/scans?limit=50").await.is(200).json();
    let mut last = String::new();
    for row in page["rows"].as_array().unwrap() {
        let ring =
            cluster.any().get(format!("/ring?row={}", row["row"].as_str().unwrap())).await.is(200).json();
        let position = ring["position"].as_str().unwrap().to_owned();
        assert!(position > last, "{position} after {last}");
        last = position;
    }

    for node in cluster.each() {
        let stream = node.get("/data/scans").header("accept", "application/x-ndjson").await.is(200);
        assert_eq!(stream.header("content-type"), Some("application/x-ndjson"));
        let text = stream.text();
        assert!(text.ends_with('\n'));
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        check_rows(&rows, |_| true);
    }
}

#[tokio::test]
async fn a_scan_of_nothing_says_so() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        assert_eq!(node.get("/data/scans-none").await.problem(404)["missing"], "table");
        let stream = node.get("/data/scans-none").header("accept", "application/x-ndjson").await;
        stream.problem(404);
    }
}

#[tokio::test]
async fn bad_limits_and_cursors_are_refused() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/data/scans-bad/r/c", "x").await.is(200);
    for query in [
        "limit=0",
        "limit=10001",
        "limit=-1",
        "limit=x",
        "limit=",
        "cursor=x",
        "cursor=%00",
        "limit=1&limit=2",
    ] {
        for path in ["/data/scans-bad", "/kv"] {
            node.get(format!("{path}?{query}")).await.problem(400);
        }
    }
    // Another list's cursor is not this one's.
    for number in 0..3 {
        node.put(format!("/kv/scans-cursor-{number}"), "x").await.is(200);
    }
    let page = node.get("/kv?prefix=scans-cursor-&limit=1").await.is(200).json();
    let cursor = page["next"].as_str().expect("there are more");
    node.get(format!("/data/scans-bad?cursor={cursor}")).await.problem(400);
}

#[tokio::test]
async fn tables_are_listed_once() {
    let cluster = Cluster::shared().await;
    // Rows of one table on every shard.
    fill(cluster.any(), "scans-tables", 40).await;
    for node in cluster.each() {
        let list = node.get("/data").await.is(200).json();
        let tables = list["tables"].as_array().unwrap();
        assert_eq!(tables.iter().filter(|table| *table == "scans-tables").count(), 1);
    }
}
