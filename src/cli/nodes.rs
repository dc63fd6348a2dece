//! `quoring coordinator` and `quoring worker`: this process becomes a node.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Failure;
use crate::{
    config::{Address, Founders, Memory, Node, NodeArgs},
    launcher::{self, PidFile},
    node, units,
};

/// What both roles are told.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The IP address to listen on; requests are not authenticated, so mind who can reach it
    #[arg(long, value_name = "IP", default_value_t = NodeArgs::DEFAULT_LISTEN)]
    listen: IpAddr,
    /// Where the other nodes reach this one [default: the --listen address and the port]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<Address>,
    /// Threads that requests and Raft groups run on [default: one for each CPU]. On a machine with
    /// several nodes, fewer are faster: `quoring up` shares the CPUs out
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Memory for what is read from this node's files [default: 256MiB, or what cluster.toml says]
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| size(text, Memory::CACHE_BYTES))]
    cache: Option<u64>,
    /// Memory for what is not written to this node's files yet, of its log and of its state together
    /// [default: 192MiB, or what cluster.toml says]
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| size(text, Memory::MEMTABLES_BYTES))]
    memtables: Option<u64>,
    /// Memory for log entries that wait for this node's disk, and for the newest ones that are there
    /// [default: 128MiB, or what cluster.toml says]
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| size(text, Memory::QUEUES_BYTES))]
    queues: Option<u64>,
    /// Makes this process one that `quoring up` started.
    #[arg(long, hide = true, value_name = "PATH")]
    pid_file: Option<PathBuf>,
}

impl Common {
    fn args(&self, port: u16) -> NodeArgs {
        NodeArgs {
            port,
            listen: Some(self.listen),
            advertise: self.advertise.clone(),
            cache_bytes: self.cache,
            memtables_bytes: self.memtables,
            queues_bytes: self.queues,
        }
    }
}

fn size(text: &str, allowed: RangeInclusive<u64>) -> Result<u64, String> {
    let bytes = units::parse_size_bytes(text).map_err(|error| error.to_string())?;
    if allowed.contains(&bytes) {
        return Ok(bytes);
    }
    let [min, max] = [*allowed.start(), *allowed.end()].map(units::format_size_bytes);
    Err(format!("must be {min} to {max}"))
}

/// Run a coordinator: a member of the group that keeps the map of the cluster
///
/// The first start of the coordinators founds the cluster, with the [cluster] settings of
/// cluster.toml. With --join it founds none: it waits until it is added to a running one (quoring
/// coordinators add). A coordinator that has a directory goes by what that says. Runs until SIGTERM
/// or ^C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quoring coordinator 7001\n  \
    quoring coordinator 7001 --dir /var/lib/quoring --listen 10.0.0.1 \\\n      \
    --peers 10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001 --config cluster.toml\n  \
    quoring coordinator 7004 --dir /var/lib/quoring --join")]
pub(super) struct Coordinator {
    /// The one port of this node
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Where it keeps its data [default: coordinator-PORT in the data_dir of cluster.toml]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Every coordinator that founds the cluster, this one too [default: those of cluster.toml if
    /// this port is one of them, else only this one]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    peers: Vec<Address>,
    /// Found no cluster: wait, not ready, to be added to one that is running
    #[arg(long, conflicts_with = "peers")]
    join: bool,
    /// The settings to found the cluster with [default: ./cluster.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Coordinator {
    pub(super) fn run(self) -> Result<(), Failure> {
        let beside = PathBuf::from(super::local::DEFAULT_CONFIG);
        let config = match self.config.as_ref().or(beside.exists().then_some(&beside)) {
            Some(path) => Some(launcher::load(path)?),
            None => None,
        };
        let args = self.common.args(self.port);
        let founders = match (self.join, self.peers.is_empty()) {
            (true, _) => Founders::None,
            (false, true) => Founders::Default,
            (false, false) => Founders::Peers(self.peers),
        };
        let node = Node::coordinator(&args, self.dir, founders, config.as_ref()).map_err(Failure::Usage)?;
        run(node, &self.common)
    }
}

/// Run a worker: a node that keeps data
///
/// It joins the cluster of the coordinators it is told; without one it waits to be asked to join
/// (JOIN in quoring shell). Its identity is the file `id` in its directory: a worker whose directory
/// was lost is a new worker. Runs until SIGTERM or ^C.
#[derive(Debug, Args)]
#[command(
    override_usage = "quoring worker [OPTIONS] PORT DIR COORDINATOR[,COORDINATOR…]\n       \
        quoring worker [OPTIONS] --port PORT --data-dir DIR [--coordinator HOST:PORT,…]",
    after_help = "Examples:\n  \
        quoring worker 8001 data/w1 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 --zone a\n  \
        quoring worker --port 8002 --data-dir data/w2 --coordinator 127.0.0.1:7001\n  \
        quoring worker --port 8003 --no-persistence"
)]
pub(super) struct Worker {
    /// The one port of this node
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Where it keeps its data
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to find the coordinators, one or more of them
    #[arg(value_name = "COORDINATOR", value_delimiter = ',')]
    coordinators: Vec<Address>,
    /// The same as PORT
    #[arg(long = "port", value_name = "PORT", conflicts_with = "port",
          value_parser = clap::value_parser!(u16).range(1..))]
    port_flag: Option<u16>,
    /// The same as DIR
    #[arg(long = "data-dir", value_name = "DIR", conflicts_with = "dir")]
    dir_flag: Option<PathBuf>,
    /// The same as COORDINATOR
    #[arg(
        long = "coordinator",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        conflicts_with = "coordinators"
    )]
    coordinators_flag: Vec<Address>,
    /// Keep nothing on disk, not even the id: what this worker acknowledges is in memory only
    #[arg(long)]
    no_persistence: bool,
    /// Where it stands: the copies of a shard are put into distinct zones where there are enough
    #[arg(long)]
    zone: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Worker {
    pub(super) fn run(self) -> Result<(), Failure> {
        let common = self.common.clone();
        run(self.resolve().map_err(Failure::Usage)?, &common)
    }

    /// Both forms mean the same.
    pub(super) fn resolve(self) -> Result<Node, String> {
        let port = self.port.or(self.port_flag).ok_or("a worker needs a port (see quoring worker --help)")?;
        let dir = match (self.dir.or(self.dir_flag), self.no_persistence) {
            (_, true) => None,
            (Some(dir), false) => Some(dir),
            (None, false) => {
                return Err(
                    "a worker needs a directory, or --no-persistence (see quoring worker --help)".to_owned()
                );
            }
        };
        let coordinators = [self.coordinators, self.coordinators_flag].concat();
        Node::worker(&self.common.args(port), dir, coordinators, self.zone)
    }
}

fn run(config: Node, common: &Common) -> Result<(), Failure> {
    // A task that panics would leave its group, or the store, half alive: no node is better than
    // such a one. (The release profile aborts by itself.)
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let pid_file = common
        .pid_file
        .as_ref()
        .map(|path| {
            let adopted = PidFile::adopt(path);
            adopted.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
        })
        .transpose()?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = common.threads {
        builder.worker_threads(threads.into());
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    let done = runtime.block_on(async {
        let signals = Signals::new()?;
        node::run(config, asked_to_stop(signals)).await.map_err(|error| Failure::Failed(format!("{error:#}")))
    });
    if done.is_ok()
        && let Some(file) = pid_file
        && let Err(error) = file.remove()
    {
        tracing::warn!(%error, "cannot remove the pid file");
    }
    done
}

/// The signals that ask a process to stop.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None under `nohup`, which asks for just that signal to be ignored.
    hang_up: Option<Signal>,
}

impl Signals {
    pub(super) fn new() -> Result<Signals, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Signals {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: if ignores_hang_up() { None } else { Some(on(SignalKind::hangup())?) },
        })
    }

    pub(super) async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => {}
        }
    }
}

/// Whether whoever started this process had it ignore SIGHUP. Listening for the signal would undo that.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A bit for each signal, the lowest for number 1, SIGHUP (proc_pid_status(5)).
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Returns at the first signal; a second one ends the process at once, as a crash would.
pub(super) async fn asked_to_stop(mut signals: Signals) {
    signals.next().await;
    tokio::spawn(async move {
        signals.next().await;
        tracing::warn!("asked to stop a second time; ending at once");
        std::process::exit(1);
    });
}
