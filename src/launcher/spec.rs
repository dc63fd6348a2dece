//! One node as a process: its directory, its files, its command line.

use std::{
    ffi::OsString,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{Error, PID_FILE_FLAG, Process};
use crate::{
    client,
    config::{Config, Memory},
    units,
};

/// Nodes of one machine find each other here, and nobody else finds them.
const LISTEN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// From this size on a log is set aside when its node starts, bytes. So a node's logs of all but
/// its present run take no more than this.
const MAX_OLD_LOG_BYTES: u64 = 16 << 20;

/// How much of a log's end is shown when its node has died, bytes and lines.
const TAIL_BYTES: usize = 4096;
const TAIL_LINES: usize = 8;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// A member of the coordinator group.
    Coordinator,
    /// A keeper of data.
    Worker,
}

impl NodeRole {
    /// The role as it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeRole::Coordinator => "coordinator",
            NodeRole::Worker => "worker",
        }
    }
}

/// How one node of a `cluster.toml` is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What it is.
    pub role: NodeRole,
    /// Its port.
    pub port: u16,
    /// Its directory.
    pub dir: PathBuf,
    /// What the binary is told.
    pub args: Vec<OsString>,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role.as_str(), self.port)
    }
}

impl Spec {
    /// Every node, coordinators first. The nodes share the machine's `cpus`: with a thread for each
    /// CPU in each of them, threads would mostly wake one another.
    ///
    /// `founders` are the coordinators that the cluster is, or was, founded with; the others wait to
    /// be added to it.
    pub(super) fn all(config: &Config, founders: &[u16], config_path: &Path, cpus: usize) -> Vec<Spec> {
        let list = |ports: &[u16]| {
            let addresses = ports.iter().map(|port| SocketAddr::new(LISTEN, *port).to_string());
            addresses.collect::<Vec<_>>().join(",")
        };
        let (coordinators, founding) = (list(&config.coordinators), list(founders));
        let mut specs = Vec::new();
        for port in &config.coordinators {
            let mut spec = Spec::new(config, NodeRole::Coordinator, *port);
            spec.args.extend(["--dir".into(), spec.dir.clone().into()]);
            if founders.contains(port) {
                spec.args.extend(["--peers".into(), founding.clone().into()]);
            } else {
                spec.args.push("--join".into());
            }
            spec.args.extend(["--config".into(), config_path.into()]);
            specs.push(spec);
        }
        for worker in &config.workers {
            let mut spec = Spec::new(config, NodeRole::Worker, worker.port);
            spec.args.extend([spec.dir.clone().into(), coordinators.clone().into()]);
            if let Some(zone) = &worker.zone {
                // With "=", a zone may begin with a dash.
                spec.args.push(format!("--zone={zone}").into());
            }
            specs.push(spec);
        }
        let threads = (cpus / specs.len().max(1)).max(1);
        for spec in &mut specs {
            spec.args.push(format!("--threads={threads}").into());
            let Memory { cache_bytes, memtables_bytes, queues_bytes } = config.memory;
            let sizes = [("cache", cache_bytes), ("memtables", memtables_bytes), ("queues", queues_bytes)];
            let flag = |(name, bytes)| format!("--{name}={}", units::format_size_bytes(bytes)).into();
            spec.args.extend(sizes.map(flag));
            spec.args.extend(["--listen".into(), LISTEN.to_string().into()]);
            spec.args.extend([PID_FILE_FLAG.into(), spec.pid_file().into()]);
        }
        specs
    }

    fn new(config: &Config, role: NodeRole, port: u16) -> Spec {
        let dir = config.node_dir(role.as_str(), port);
        Spec { role, port, dir, args: vec![role.as_str().into(), port.to_string().into()] }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(LISTEN, self.port)
    }

    /// Where its API is.
    pub fn server(&self) -> client::Server {
        self.address().to_string().parse().expect("an IPv4 address and a port other than 0")
    }

    /// Its pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("node.pid")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// Its process, if it runs.
    pub fn process(&self) -> Result<Option<Process>, Error> {
        let path = self.pid_file();
        Process::of_pid_file(&path).map_err(Error::io(format!("read {}", path.display())))
    }

    /// What the cluster calls it: a worker's own id, once it has one; coordinators have none and
    /// are called after their ports.
    pub fn id(&self) -> Option<String> {
        match self.role {
            NodeRole::Coordinator => Some(format!("coordinator-{}", self.port)),
            NodeRole::Worker => {
                let id = fs::read_to_string(self.dir.join("id")).ok()?;
                Some(id.trim().to_owned()).filter(|id| !id.is_empty())
            }
        }
    }

    /// Opens the log for a new run of the node, behind what earlier runs left.
    pub(super) fn open_log(&self) -> io::Result<fs::File> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|log| log.len() > MAX_OLD_LOG_BYTES) {
            fs::rename(&path, path.with_extension("log.1"))?;
        }
        fs::File::options().create(true).append(true).open(path)
    }

    /// The last lines that the log has gained since it had `from` bytes.
    pub(super) fn log_tail(&self, from: u64) -> String {
        tail(&self.log(), from)
    }
}

/// The last lines of a file, of those behind its first `from` bytes.
pub(super) fn tail(path: &Path, from: u64) -> String {
    let log = fs::read(path).unwrap_or_default();
    let new = usize::try_from(from).ok().and_then(|from| log.get(from..)).unwrap_or(&log);
    let end = &new[new.len().saturating_sub(TAIL_BYTES)..];
    let text = String::from_utf8_lossy(end);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("\n    {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_all_that_the_file_says_of_it() {
        let text = "[cluster]\ndata_dir = \"/d\"\ncache = \"64MiB\"\nmemtables = \"96MiB\"\n[[coordinator]]\nport = 1\n[[coordinator]]\nport = 2\n\
                    [[worker]]\nport = 3\nzone = \"-z\"\n";
        let path = Path::new("/c/cluster.toml");
        let specs = Spec::all(&Config::parse(path, text).unwrap(), &[1, 2], path, 7);
        let lines = |specs: &[Spec]| -> Vec<String> {
            specs.iter().map(|spec| spec.args.join(" ".as_ref()).into_string().unwrap()).collect()
        };
        let peers = "127.0.0.1:1,127.0.0.1:2";
        let expected = [
            format!(
                "coordinator 1 --dir /d/coordinator-1 --peers {peers} --config /c/cluster.toml --threads=2 --cache=64MiB --memtables=96MiB --queues=128MiB --listen 127.0.0.1 --pid-file /d/coordinator-1/node.pid"
            ),
            format!(
                "coordinator 2 --dir /d/coordinator-2 --peers {peers} --config /c/cluster.toml --threads=2 --cache=64MiB --memtables=96MiB --queues=128MiB --listen 127.0.0.1 --pid-file /d/coordinator-2/node.pid"
            ),
            format!(
                "worker 3 /d/worker-3 {peers} --zone=-z --threads=2 --cache=64MiB --memtables=96MiB --queues=128MiB --listen 127.0.0.1 --pid-file /d/worker-3/node.pid"
            ),
        ];
        assert_eq!(lines(&specs), expected);
        let later = lines(&Spec::all(&Config::parse(path, text).unwrap(), &[1, 9], path, 7));
        assert!(later[0].contains(" --peers 127.0.0.1:1,127.0.0.1:9 "), "{later:?}");
        assert!(later[1].contains(" --join ") && !later[1].contains("--peers"), "{later:?}");
        assert_eq!(later[2], expected[2], "a worker is told where the coordinators are now");
        assert_eq!(specs[2].to_string(), "worker 3");
    }

    #[test]
    fn the_tail_of_a_log_is_what_this_run_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path, 0), "");
        fs::write(&path, "old\nnew\nlast\n").unwrap();
        assert_eq!(tail(&path, 4), "\n    new\n    last");
        assert_eq!(tail(&path, 999), "\n    old\n    new\n    last", "it was set aside meanwhile");
        fs::write(&path, "x\n".repeat(100_000)).unwrap();
        assert_eq!(tail(&path, 0), "\n    x".repeat(TAIL_LINES));
    }
}
