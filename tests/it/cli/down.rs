//! `quoring down`, and the cluster of a `cluster.toml` that these tests bring up.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::SemaphorePermit;

use crate::harness::{HEAL, Http, Output, QUORING, Spec, Workdir, eventually, free_port, private, quoring};

/// A cluster of detached processes, which belong to nobody.
pub(super) struct Local {
    pub(super) dir: Workdir,
    pub(super) ports: Vec<u16>,
    guard: Child,
    _permit: SemaphorePermit<'static>,
}

impl Local {
    pub(super) async fn new(name: &str, coordinators: usize, workers: usize) -> Self {
        let permit = private().await;
        let dir = Workdir::new(name);
        let ports: Vec<_> = (0..coordinators + workers).map(|_| free_port()).collect();
        let (first, rest) = ports.split_at(coordinators);
        fs::write(dir.path().join("cluster.toml"), Spec::default().toml(first, rest)).unwrap();
        // Should this process be killed, its end of the pipe closes, and the cluster is stopped.
        let guard = Command::new("sh")
            .args(["-c", "read line; exec \"$0\" down", QUORING])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { dir, ports, guard, _permit: permit }
    }

    pub(super) async fn run(&self, args: &[&str]) -> Output {
        quoring(self.dir.path(), args).await
    }

    /// Stops it, and makes sure.
    pub(super) async fn down(&self) {
        self.run(&["down"]).await.exits(0);
        self.check_stopped().await;
    }

    pub(super) async fn check_stopped(&self) {
        for port in &self.ports {
            let free =
                async || TcpListener::bind(("127.0.0.1", *port)).map(drop).map_err(|error| error.to_string());
            eventually("the port is free", HEAL, free).await;
        }
        assert_eq!(self.pids(), Vec::<Pid>::new(), "processes are left");
    }

    /// The processes that have this directory as their own.
    fn pids(&self) -> Vec<Pid> {
        let mine = self.dir.path().to_str().unwrap().as_bytes();
        let names = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pids = names.filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(mine.len()).any(|part| part == mine)
        });
        pids.filter_map(Pid::from_raw).collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for pid in self.pids() {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

#[tokio::test]
async fn down_stops_all_and_up_finds_everything_again() {
    let local = Local::new("down", 1, 3).await;
    local.run(&["up", "--detach", "--wait"]).await.exits(0);
    for key in 0..30 {
        Http::at(local.ports[1]).put(format!("/kv/down-{key}"), key.to_string()).await.is(200);
    }
    local.down().await;
    // Nothing is left to stop.
    local.run(&["down"]).await.exits(0);
    let status: serde_json::Value =
        serde_json::from_str(&local.run(&["status", "--json"]).await.exits(0).stdout).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["health"] == "stopped" && node["pid"].is_null()), "{status}");
    assert_eq!(status["shards"].as_array().unwrap().len(), 0);

    local.run(&["up", "--detach", "--wait"]).await.exits(0);
    for key in 0..30 {
        Http::at(local.ports[2]).get(format!("/kv/down-{key}")).await.says(&key.to_string());
    }
    local.down().await;
}
