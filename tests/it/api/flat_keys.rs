//! `/kv/{key}`, which is the cell `value` of a row of table `kv`.

use std::collections::BTreeSet;

use crate::harness::Cluster;

#[tokio::test]
async fn a_key_is_a_cell() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let put = node.put("/kv/flat-cell", "1").await.says("OK");
        let cell = node.get("/data/kv/flat-cell/value").await.says("1");
        assert_eq!(cell.version(), put.version());
        node.head("/kv/flat-cell").await.is(200);
        node.put("/data/kv/flat-cell/value", "2").await.is(200);
        node.get("/kv/flat-cell").await.says("2");
        node.delete("/kv/flat-cell").await.says("OK");
        node.get("/kv/flat-cell").await.problem(404);
        node.delete("/kv/flat-cell").await.problem(404);
        node.head("/kv/flat-cell").await.is(404);
    }
}

#[tokio::test]
async fn keys_are_listed_in_pages() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let mut written = BTreeSet::new();
    for number in 0..57 {
        let key = format!("flat-list-{number}");
        let version = node.put(format!("/kv/{key}"), "x").await.is(200).version();
        written.insert((key, version));
    }
    // A row of the table without the column `value` is no key.
    node.put("/data/kv/flat-list-none/other", "x").await.is(200);
    let mut listed = BTreeSet::new();
    let mut cursor = String::new();
    let mut pages = 0;
    for reader in cluster.each().cycle() {
        let page = reader.get(format!("/kv?prefix=flat-list-&limit=10{cursor}")).await.is(200).json();
        let keys = page["keys"].as_array().unwrap();
        assert!(keys.len() <= 10);
        pages += 1;
        for key in keys {
            assert_eq!(key.as_object().unwrap().len(), 2, "{key}");
            let entry = (key["key"].as_str().unwrap().to_owned(), key["version"].as_u64().unwrap());
            assert!(listed.insert(entry), "twice: {key}");
        }
        // A cursor is good at any node, so the next one goes on.
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed, written);
    assert!(pages >= 6);
}
