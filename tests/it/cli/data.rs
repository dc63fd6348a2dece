//! `get`, `put`, `set`, `update`, `delete`, `list`.

use crate::harness::{Cluster, Output, free_port, quoring, quoring_with_stdin};

async fn run(cluster: &Cluster, args: &[&str]) -> Output {
    let server = format!("http://127.0.0.1:{}", cluster.any().port);
    let args = [args, &["--server", &server]].concat();
    quoring(cluster.dir.path(), &args).await
}

#[tokio::test]
async fn a_value_by_key_and_by_cell() {
    let cluster = Cluster::shared().await;
    for (names, path) in
        [(&["cli-key"][..], "/kv/cli-key"), (&["cli", "row/1", "c d"], "/data/cli/row%2F1/c%20d")]
    {
        let with = |verb, more: &[&'static str]| [&[verb], names, more].concat();
        assert_eq!(run(cluster, &with("get", &[])).await.exits(4).stdout, "");
        run(cluster, &with("update", &["no"])).await.exits(4);
        run(cluster, &with("delete", &[])).await.exits(4);
        cluster.any().get(path).await.problem(404);
        for (verb, value) in [("put", "one"), ("set", "two"), ("update", "three")] {
            run(cluster, &with(verb, &[value])).await.exits(0);
            cluster.any().get(path).await.says(value);
            // The bytes and nothing else.
            assert_eq!(run(cluster, &with("get", &[])).await.exits(0).stdout, value);
        }
        run(cluster, &with("delete", &[])).await.exits(0);
        cluster.any().get(path).await.problem(404);
    }
}

#[tokio::test]
async fn a_value_from_stdin() {
    let cluster = Cluster::shared().await;
    let server = format!("127.0.0.1:{}", cluster.any().port);
    let args = ["put", "cli-stdin", "-", "--server", &format!("http://{server}")];
    let value = "líne\n\0\n".repeat(10_000);
    quoring_with_stdin(cluster.dir.path(), &args, value.as_bytes()).await.exits(0);
    cluster.any().get("/kv/cli-stdin").await.says(&value);
    assert_eq!(run(cluster, &["get", "cli-stdin"]).await.exits(0).stdout, value);
}

#[tokio::test]
async fn lists_are_whole() {
    let cluster = Cluster::shared().await;
    let ops: Vec<_> = (0..1_500)
        .map(|n| serde_json::json!({"op": "put", "key": format!("cli-list-{n:04}"), "value": "x"}))
        .collect();
    cluster.any().post("/batch", &serde_json::json!(ops)).await.is(200);
    let listed = run(cluster, &["list", "--prefix", "cli-list-"]).await.exits(0).stdout;
    let mut lines: Vec<_> = listed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..1_500).map(|n| format!("cli-list-{n:04}")).collect::<Vec<_>>());
    cluster.any().put("/data/cli-rows/r1/c", "x").await.is(200);
    let rows = run(cluster, &["list", "cli-rows"]).await.exits(0).stdout;
    assert!(rows.contains("r1"), "{rows}");
    run(cluster, &["list", "cli-none"]).await.exits(4);
}

#[tokio::test]
async fn failures_are_one_line() {
    let cluster = Cluster::shared().await;
    let server = format!("http://127.0.0.1:{}", free_port());
    for args in [&["get", "a"][..], &["put", "a", "b"], &["list"], &["delete", "a"], &["update", "a", "b"]] {
        let args = [args, &["--server", &server]].concat();
        quoring(cluster.dir.path(), &args).await.fails(1, &[&server.replace("http://", "")]);
    }
    run(cluster, &["get", &"x".repeat(1025)]).await.fails(1, &["1024"]);
    run(cluster, &["put", "", "x"]).await.exits(1);
}
