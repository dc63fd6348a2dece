//! A store of another version, a damaged one, and a damaged id.

use std::{fs, path::Path};

use crate::harness::{Cluster, HEAL, Node, Spec, quoring};

/// Starts the worker by hand, and asserts that it says why it does not run.
async fn refused(cluster: &Cluster, worker: &Node, part: &str) {
    let port = worker.port.to_string();
    let dir = worker.dir.to_str().unwrap();
    let args = ["worker", &port, "--data-dir", dir];
    quoring(cluster.dir.path(), &args).await.exits(1).names(part);
}

/// Sets the store's format record, and returns what it was.
fn set_format(database: &Path, format: &[u8]) -> Vec<u8> {
    let db = rocksdb::DB::open_default(database).unwrap();
    let records = db.iterator(rocksdb::IteratorMode::Start).map(Result::unwrap);
    let mut records = records.filter(|(key, _)| key.windows(12).any(|part| part == b"store.format"));
    let (key, before) = records.next().expect("a store has a format record");
    assert!(records.next().is_none());
    db.put(&key, format).unwrap();
    db.flush().unwrap();
    before.to_vec()
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused() {
    let cluster = Cluster::start("format", Spec::one()).await;
    cluster.any().put("/kv/format", "x").await.is(200);
    let worker = cluster.worker(0);
    worker.kill();
    for part in ["log", "data"] {
        let database = worker.dir.join(part);
        let real = set_format(&database, &[200]);
        refused(&cluster, worker, "200").await;
        set_format(&database, b"nonsense");
        refused(&cluster, worker, "format").await;
        set_format(&database, &real);
    }
    // It was not changed by that.
    worker.start();
    cluster.until_whole().await;
    cluster.any().get("/kv/format").await.says("x");
}

#[tokio::test]
async fn half_a_store_is_refused() {
    let cluster = Cluster::start("half", Spec::one()).await;
    cluster.any().put("/kv/half", "x").await.is(200);
    let worker = cluster.worker(0);
    // Both parts are on disk: a store killed at its birth may hold nothing yet, and is made anew.
    assert!(worker.stop(HEAL).await.success());
    for part in ["log", "data"] {
        let (from, to) = (worker.dir.join(part), worker.dir.join("aside"));
        fs::rename(&from, &to).unwrap();
        refused(&cluster, worker, part).await;
        // What was made in its place, if anything, is not it.
        let _ = fs::remove_dir_all(&from);
        fs::rename(&to, &from).unwrap();
    }
    worker.start();
    cluster.until_whole().await;
    cluster.any().get("/kv/half").await.says("x");
}

#[tokio::test]
async fn a_damaged_id_is_refused() {
    let cluster = Cluster::start("id", Spec::one()).await;
    let worker = cluster.worker(0);
    worker.kill();
    let id = worker.id();
    for text in ["", "a b", "../x", &"x".repeat(65)] {
        fs::write(worker.dir.join("id"), text).unwrap();
        refused(&cluster, worker, "id").await;
    }
    fs::write(worker.dir.join("id"), &id).unwrap();
    worker.start();
    cluster.until_whole().await;
    assert_eq!(worker.id(), id);
}
