//! `quoring up` and `status`.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::OpenOptionsExt as _,
};

use serde_json::Value;

use crate::harness::{HEAL, Http, Process, eventually, free_port, quoring};

use super::down::Local;

#[tokio::test]
async fn detached_until_every_shard_has_a_leader() {
    let local = Local::new("up", 3, 3).await;
    let said = local.run(&["up", "--detach", "--wait"]).await.exits(0).stdout;
    // A line per node, and what to try.
    for port in &local.ports {
        assert!(said.contains(&port.to_string()), "{port}: {said}");
    }
    assert!(said.contains("curl"), "{said}");
    let node = Http::at(local.ports[3]);
    for key in 0..20 {
        node.put(format!("/kv/up-{key}"), "x").await.is(200);
    }

    let status: Value =
        serde_json::from_str(&local.run(&["status", "--json"]).await.exits(0).stdout).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 6);
    for (node, port) in nodes.iter().zip(&local.ports) {
        let role =
            if *port == local.ports[0] || local.ports[..3].contains(port) { "coordinator" } else { "worker" };
        assert_eq!(node["role"], role, "{node}");
        assert_eq!(node["addr"], format!("127.0.0.1:{port}"), "{node}");
        assert_eq!(node["health"], "ready", "{node}");
        assert!(node["id"].is_string() && node["pid"].is_u64(), "{node}");
        let log = node["log"].as_str().unwrap();
        assert!(fs::metadata(log).is_ok(), "{log}");
        assert!(fs::metadata(local.dir.path().join(format!("data/{role}-{port}"))).unwrap().is_dir());
        let environment = fs::read(format!("/proc/{}/environ", node["pid"])).unwrap();
        let keeps = |variable: &[u8]| variable.starts_with(b"MIMALLOC_PURGE_DELAY=");
        assert!(environment.split(|byte| *byte == 0).any(keeps), "{node} keeps what is freed");
    }
    let shards = status["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 4);
    assert!(shards.iter().all(|shard| shard["leader"].is_string()), "{status}");
    let text = local.run(&["status"]).await.exits(0).stdout;
    for node in nodes {
        assert!(text.contains(node["id"].as_str().unwrap()) && text.contains("ready"), "{text}");
    }

    // Run again, it starts only what does not run.
    let pid = nodes[4]["pid"].as_u64().unwrap();
    let victim = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
    eventually("status shows the dead node", HEAL, async || {
        let status: Value =
            serde_json::from_str(&local.run(&["status", "--json"]).await.exits(0).stdout).unwrap();
        let health = &status["nodes"][4]["health"];
        if health == "stopped" { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    local.run(&["up", "--detach", "--wait"]).await.exits(0);
    let after: Value = serde_json::from_str(&local.run(&["status", "--json"]).await.exits(0).stdout).unwrap();
    for (index, node) in after["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(node["pid"] == nodes[index]["pid"], index != 4, "{after}");
        assert_eq!(node["id"], nodes[index]["id"], "{after}");
    }
    local.down().await;
}

#[tokio::test]
async fn a_coordinator_that_the_file_gains_is_added() {
    let local = Local::new("up-gains", 1, 1).await;
    local.run(&["up", "--detach", "--wait"]).await.exits(0);
    Http::at(local.ports[1]).put("/kv/gained", "x").await.is(200);
    let path = local.dir.path().join("cluster.toml");
    let (first, gained) = (fs::read_to_string(&path).unwrap(), [free_port(), free_port()]);
    let more = gained.map(|port| format!("[[coordinator]]\nport = {port}\n")).concat();
    fs::write(&path, format!("{first}{more}")).unwrap();
    let said = local.run(&["up", "--detach", "--wait"]).await.exits(0).stdout;
    for port in gained {
        assert!(said.contains(&format!("coordinator {port} was added")), "{said}");
    }
    let members = async |node: u16| {
        let group = Http::at(node).get("/cluster/coordinators").await.is(200).json();
        group["members"].as_object().unwrap().len()
    };
    assert_eq!(members(gained[1]).await, 3);
    // Everything again: whoever was added goes by its own directory.
    local.run(&["down"]).await.exits(0);
    let said = local.run(&["up", "--detach", "--wait"]).await.exits(0).stdout;
    assert!(!said.contains("was added") && !said.contains("warning"), "{said}");
    assert_eq!(members(gained[0]).await, 3);
    Http::at(gained[0]).get("/kv/gained").await.says("x");
    // Also what the file has lost is stopped.
    fs::write(&path, first).unwrap();
    local.down().await;
    for port in gained {
        assert!(Http::at(port).get("/healthz").attempt().await.is_err(), "{port} still answers");
    }
}

#[tokio::test]
async fn in_the_foreground_until_sigterm() {
    let local = Local::new("up-foreground", 1, 1).await;
    let log = local.dir.path().join("up.log");
    let up = Process::quoring(&["up"], local.dir.path(), &log).unwrap();
    eventually("up shows what to try", HEAL, async || {
        let said = fs::read_to_string(&log).unwrap();
        assert!(up.exited().is_none(), "{said}");
        if said.contains("curl") { Ok(()) } else { Err(said) }
    })
    .await;
    Http::at(local.ports[1]).get("/readyz").await.is(200);
    up.signal(rustix::process::Signal::TERM);
    assert!(up.wait(HEAL).await.success());
    local.check_stopped().await;
}

#[tokio::test]
async fn in_the_foreground_where_nobody_reads() {
    let local = Local::new("up-unread", 1, 1).await;
    let path = local.dir.path().join("up.fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut fifo = File::options().read(true).write(true).custom_flags(no_wait).open(&path).unwrap();
    for most in [4096, 1] {
        while fifo.write(&[b'.'; 4096][..most]).is_ok() {}
    }
    let up = Process::quoring(&["up"], local.dir.path(), &path).unwrap();
    eventually("the worker is ready", HEAL, async || {
        assert!(up.exited().is_none());
        let answer =
            Http::at(local.ports[1]).get("/readyz").attempt().await.map_err(|_| "no answer".to_owned())?;
        if answer.status == 200 { Ok(()) } else { Err("not ready".to_owned()) }
    })
    .await;
    up.signal(rustix::process::Signal::TERM);
    eventually("the nodes stop", HEAL, async || {
        match Http::at(local.ports[1]).get("/healthz").attempt().await {
            Ok(_) => Err("the worker answers".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    // It may have a last word, on stderr: that it was stopped before every node was up.
    eventually("up ends", HEAL, async || {
        while fifo.read(&mut [0; 4096]).is_ok() {}
        up.exited().map(drop).ok_or_else(|| "it runs".to_owned())
    })
    .await;
    local.check_stopped().await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_started() {
    let local = Local::new("up-port", 1, 2).await;
    let _taken = TcpListener::bind(("127.0.0.1", local.ports[2])).unwrap();
    let output = local.run(&["up", "--detach"]).await.exits(1);
    assert!(output.stderr.contains(&local.ports[2].to_string()), "{output:?}");
    for port in &local.ports[..2] {
        assert!(TcpListener::bind(("127.0.0.1", *port)).is_ok(), "{port} was started and left");
    }
}

#[tokio::test]
async fn a_dead_node_is_started_again_on_demand() {
    let local = Local::new("up-restart", 1, 1).await;
    local.run(&["up", "--detach", "--wait", "--restart"]).await.exits(0);
    let pid = async || {
        let status: Value =
            serde_json::from_str(&local.run(&["status", "--json"]).await.exits(0).stdout).unwrap();
        status["nodes"][1]["pid"].as_u64()
    };
    let first = pid().await.unwrap();
    let victim = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
    eventually("the worker is started again", HEAL, async || match pid().await {
        Some(now) if now != first => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    local.down().await;
}

#[tokio::test]
async fn changed_settings_are_a_warning() {
    let local = Local::new("up-changed", 1, 1).await;
    local.run(&["up", "--detach", "--wait"]).await.exits(0);
    local.down().await;
    let file = local.dir.path().join("cluster.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("shards = 4", "shards = 5")).unwrap();
    let output = local.run(&["up", "--detach", "--wait"]).await.exits(0);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(said.contains("shards"), "{said}");
    let status: Value =
        serde_json::from_str(&local.run(&["status", "--json"]).await.exits(0).stdout).unwrap();
    assert_eq!(status["shards"].as_array().unwrap().len(), 4);
    local.down().await;
    quoring(local.dir.path(), &["status"]).await.exits(0);
}
