//! A wrong `cluster.toml`: one line that names the file's line and the key, exit code 2, and nothing
//! is started.

use std::fs;

use crate::harness::{Workdir, free_port, quoring};

#[tokio::test]
async fn every_mistake_is_named_with_its_line() {
    let dir = Workdir::new("config");
    let port = free_port();
    let head = format!("[[coordinator]]\nport = {port}\n");
    for (text, line, key) in [
        (format!("{head}[cluster]\nreplication = 0\n"), 4, "replication"),
        (format!("{head}[cluster]\nreplication = \"3\"\n"), 4, "replication"),
        (format!("{head}[cluster]\nshards = 0\n"), 4, "shards"),
        (format!("{head}[cluster]\n\npartitioner = \"sha1\"\n"), 5, "partitioner"),
        (format!("{head}[cluster]\nping_interval = \"5\"\n"), 4, "ping_interval"),
        (format!("{head}[cluster]\nrequest_timeout = 5\n"), 4, "request_timeout"),
        (format!("{head}[cluster]\nmax_value = \"8MB\"\n"), 4, "max_value"),
        (format!("{head}[cluster]\nname = \"x\"\nreplicas = 3\n"), 5, "replicas"),
        (format!("{head}[[worker]]\nport = {port}\n"), 4, "port"),
        (format!("{head}[[worker]]\nport = 0\n"), 4, "port"),
        (format!("{head}[[worker]]\nport = 70000\n"), 4, "port"),
        (format!("{head}[[worker]]\nport = {}\nzones = \"a\"\n", port + 1), 5, "zones"),
        (format!("{head}[workers]\n"), 3, "workers"),
        (format!("{head}[[worker]]\nzone = \"a\"\n"), 3, "port"),
        ("[[worker]]\nport = 8001\n".into(), 1, "coordinator"),
        (format!("{head}[cluster\n"), 3, "TOML"),
    ] {
        fs::write(dir.path().join("cluster.toml"), &text).unwrap();
        for args in [&["up", "--detach"][..], &["status"], &["down"], &["coordinator", &port.to_string()]] {
            let output = quoring(dir.path(), args).await;
            output.fails(2, &[&format!("cluster.toml:{line}"), key]);
        }
        assert!(!dir.path().join("data").exists(), "something was started by:\n{text}");
    }
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let dir = Workdir::new("config-missing");
    for command in ["up", "down", "status"] {
        quoring(dir.path(), &[command]).await.fails(2, &["cluster.toml"]);
        quoring(dir.path(), &[command, "--config", "other.toml"]).await.fails(2, &["other.toml"]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
