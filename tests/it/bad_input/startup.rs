//! Nodes that cannot start: wrong arguments, a port or a directory that another process has.

use std::{fs, net::TcpListener};

use crate::harness::{Cluster, HEAL, Http, Process, Spec, Workdir, eventually, free_port, quoring};

#[tokio::test]
async fn wrong_arguments_are_named() {
    let dir = Workdir::new("arguments");
    let port = free_port().to_string();
    for (args, part) in [
        (&["worker", "0", "d", "127.0.0.1:1"][..], "0"),
        (&["worker", "65536", "d", "127.0.0.1:1"], "65536"),
        (&["worker", "x", "d", "127.0.0.1:1"], "x"),
        (&["worker"], "port"),
        (&["worker", &port], "directory"),
        (&["worker", &port, "d", "nowhere"], "nowhere"),
        (&["worker", &port, "d", "127.0.0.1:1", "--zone", ""], "zone"),
        (&["worker", &port, "d", "127.0.0.1:1", "--listen", "x"], "listen"),
        (&["coordinator"], "PORT"),
        (&["coordinator", "-1"], "-1"),
        (&["coordinator", &port, "--peers", "127.0.0.1:1"], "peers"),
        (&["coordinator", &port, "--peers", "x"], "peers"),
        (&["coordinator", &port, "--join", "--peers", "127.0.0.1:1"], "--peers"),
        (&["coordinators", "add"], "HOST:PORT"),
        (&["coordinators", "add", "x"], "HOST:PORT"),
        (&["fly"], "fly"),
        (&[], "subcommand"),
        (&["get"], "NAME"),
        (&["get", "a", "b"], "KEY"),
        (&["put", "a"], "2 values"),
        (&["up", "--fast"], "--fast"),
        (&["get", "a", "--server", "ftp://x"], "server"),
    ] {
        quoring(dir.path(), args).await.fails(2, &[part]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a directory was made");
}

#[tokio::test]
async fn help_is_there_for_every_command() {
    let dir = Workdir::new("help");
    let commands = [
        "up",
        "down",
        "status",
        "coordinator",
        "coordinators",
        "worker",
        "get",
        "put",
        "update",
        "delete",
        "list",
        "shell",
    ];
    let all = quoring(dir.path(), &["--help"]).await.exits(0).stdout;
    for command in commands {
        assert!(all.contains(command), "{command} is not in: {all}");
        let help = quoring(dir.path(), &[command, "--help"]).await.exits(0).stdout;
        assert!(help.contains("Usage: quoring") && help.contains("Example"), "{command}: {help}");
    }
}

#[tokio::test]
async fn a_taken_port_is_named_and_the_directory_untouched() {
    let dir = Workdir::new("port");
    let port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let port = port.to_string();
    quoring(dir.path(), &["worker", &port, "w", "127.0.0.1:1"]).await.exits(1).names(&port);
    quoring(dir.path(), &["coordinator", &port, "--dir", "c"]).await.exits(1).names(&port);
    assert!(!dir.path().join("w").exists() && !dir.path().join("c").exists());
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_its_user_not_disturbed() {
    let cluster = Cluster::start("directory", Spec::one()).await;
    cluster.any().put("/kv/directory", "x").await.is(200);
    for node in &cluster.nodes {
        let (port, dir) = (free_port().to_string(), node.dir.to_str().unwrap());
        let args = match node.role {
            crate::harness::Role::Worker => ["worker", &port, "--data-dir", dir],
            crate::harness::Role::Coordinator => ["coordinator", &port, "--dir", dir],
        };
        quoring(cluster.dir.path(), &args).await.exits(1).names(dir);
        node.check_alive();
    }
    cluster.any().get("/kv/directory").await.says("x");
    cluster.any().put("/kv/directory", "y").await.is(200);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() {
    let dir = Workdir::new("directory-file");
    fs::write(dir.path().join("file"), "no directory").unwrap();
    let port = free_port().to_string();
    quoring(dir.path(), &["worker", &port, "file", "127.0.0.1:1"]).await.exits(1).names("file");
    quoring(dir.path(), &["coordinator", &port, "--dir", "file"]).await.exits(1).names("file");
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "no directory");
}

#[tokio::test]
async fn a_worker_without_a_coordinator_waits_and_says_so() {
    let dir = Workdir::new("waiting");
    for extra in [&["--data-dir", "w"][..], &["--no-persistence"]] {
        let port = free_port();
        let number = port.to_string();
        let args = [&["worker", "--port", &number], extra].concat();
        let log = dir.path().join("log");
        let process = Process::quoring(&args, dir.path(), &log).unwrap();
        let node = Http::at(port);
        eventually("it answers", HEAL, async || {
            let answer = node.get("/healthz").attempt().await.map_err(|failure| format!("{failure:?}"))?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        let problem = node.get("/readyz").await.problem(503);
        assert!(problem["detail"].as_str().unwrap().contains("cluster"), "{problem}");
        node.put("/kv/a", "x").await.problem(503);
        node.get("/ring?key=a").await.problem(503);
        node.get("/").await.is(200);
        assert!(process.exited().is_none(), "{}", fs::read_to_string(&log).unwrap());
        process.signal(rustix::process::Signal::TERM);
        assert!(process.wait(HEAL).await.success());
    }
    assert!(!dir.path().join("data").exists());
}
