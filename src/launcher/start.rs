//! Starting nodes: what does not run yet, all at once, watched until each answers.

use std::{
    fs::{self, File},
    future::Future,
    net::TcpListener,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{select_ok, try_join},
    stream::FuturesUnordered,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::{Error, Launcher, POLL_INTERVAL, Process, Report, Spec, spec::tail, stop};
use crate::{
    client::{self, Client},
    coordinator::status::Cluster,
};

/// How long a node may take to become ready before that is told. It is left to go on: a large log
/// takes long to read.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one question to a node may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What `up` is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpOptions {
    /// Leave the nodes running and return.
    pub detach: bool,
    /// Return only once every shard has a leader.
    pub wait: bool,
    /// Start a node again that has died.
    pub restart: bool,
}

/// A node that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) spec: Spec,
    pub(super) process: Process,
    /// Set where this process started it.
    child: Option<Child>,
    /// How long its log was before.
    log_from: u64,
}

impl Running {
    pub(super) fn adopted(spec: Spec, process: Process) -> Running {
        let log_from = fs::metadata(spec.log()).map_or(0, |log| log.len());
        Running { spec, process, child: None, log_from }
    }

    pub(super) fn is_own(&self) -> bool {
        self.child.is_some()
    }

    /// Returns once it is gone, saying how it went.
    pub(super) async fn ended(&mut self) -> String {
        let ended = match &mut self.child {
            Some(child) => child.wait().await.map(|status| told(&status)),
            None => self.process.exited().await.map(|()| String::new()),
        };
        ended.unwrap_or_else(|error| format!(" and cannot be watched: {error}"))
    }

    pub(super) fn log_tail(&self) -> String {
        let tail = self.spec.log_tail(self.log_from);
        if tail.is_empty() {
            String::new()
        } else {
            format!("; the end of {}:{tail}", self.spec.log().display())
        }
    }
}

fn told(status: &ExitStatus) -> String {
    format!(" ({status})")
}

/// The nodes of a cluster after `up` has started what did not run.
#[derive(Debug)]
pub struct Started {
    pub(super) nodes: Vec<Running>,
    /// Whether all of them are known to be ready.
    ready: bool,
    /// Held while this process watches the nodes.
    pub(super) keeper: Option<File>,
}

impl Started {
    /// Whether every node was ready in time.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// How many of the nodes this process started.
    pub fn own(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_own()).count()
    }
}

impl Launcher {
    /// Starts every node that does not run, and returns once all of them answer; unless they are to
    /// be left alone, once all of them are ready. A node that dies meanwhile, or `shutdown`, stops
    /// those that were started. `None` after a shutdown.
    pub async fn start(
        &self,
        options: UpOptions,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
        report: Report<'_>,
    ) -> Result<Option<Started>, Error> {
        let turn = self.lock_start(report).await?;
        let keeper = self.become_keeper()?;
        if keeper.is_none() && options.restart {
            return Err(self.kept());
        }
        let (mut nodes, missing) = self.sort_out()?;
        for node in &nodes {
            report(&format!("{} is running already, process {}", node.spec, node.process.pid()));
        }
        for warning in self.founding_warnings()? {
            report(&warning);
        }
        let spawned = missing.into_iter().try_for_each(|spec| {
            nodes.push(self.spawn(spec)?);
            Ok(())
        });
        let ready = !options.detach || options.wait;
        let result = match spawned {
            Err(error) => Err(error),
            Ok(()) => tokio::select! {
                result = try_join(until_up(&mut nodes, ready, report), self.seat_newcomers(report)) => {
                    result.map(|(answered, ())| Some(answered))
                }
                () = shutdown => Ok(None),
            },
        };
        if !matches!(result, Ok(Some(_))) {
            let own: Vec<_> = nodes.iter().filter(|node| node.is_own()).collect();
            stop::stop(own.iter().map(|node| (node.spec.to_string(), &node.process)), report).await?;
        }
        drop(turn);
        result.map(|up| up.map(|answered| Started { nodes, ready: ready && answered, keeper }))
    }

    fn kept(&self) -> Error {
        let who = match self.keeper() {
            Ok(Some(keeper)) => format!("process {}", keeper.pid()),
            _ => "another process".to_owned(),
        };
        Error::Failed(format!(
            "another quoring up ({who}) watches these nodes; stop it with ^C or quoring down before using --restart"
        ))
    }

    /// The nodes that run, and those to be started, none of whose ports is taken.
    fn sort_out(&self) -> Result<(Vec<Running>, Vec<Spec>), Error> {
        let (mut running, mut missing, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for spec in self.nodes() {
            match spec.process()? {
                Some(process) => running.push(Running::adopted(spec, process)),
                None => {
                    if let Err(error) = TcpListener::bind(spec.address()) {
                        taken.push(format!("port {} of the {}: {error}", spec.port, spec.role.as_str()));
                    }
                    missing.push(spec);
                }
            }
        }
        if taken.is_empty() {
            return Ok((running, missing));
        }
        let taken = taken.join("; ");
        Err(Error::Failed(format!(
            "nothing was started, for what is needed is taken by another process: {taken}"
        )))
    }

    pub(super) fn spawn(&self, spec: Spec) -> Result<Running, Error> {
        fs::create_dir_all(&spec.dir)
            .map_err(Error::io(format!("make the directory {}", spec.dir.display())))?;
        let log = spec.open_log().map_err(Error::io(format!("open {}", spec.log().display())))?;
        let log_from = log.metadata().map_or(0, |log| log.len());
        let mut command = Command::new(&self.program);
        command.args(&spec.args);
        let (child, process) = spawn(command, log).map_err(Error::io(format!("start {spec}")))?;
        Ok(Running { spec, process, child: Some(child), log_from })
    }

    /// Has another process start and keep the nodes, and returns once all of them answer.
    pub async fn start_keeper(&self, options: UpOptions, report: Report<'_>) -> Result<(), Error> {
        let turn = self.lock_start(report).await?;
        if self.keeper()?.is_some() {
            return Err(self.kept());
        }
        self.sort_out()?;
        for warning in self.founding_warnings()? {
            report(&warning);
        }
        drop(turn);
        let path = self.config.data_dir.join("up.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(Error::io(format!("open {}", path.display())))?;
        let log_from = log.metadata().map_or(0, |log| log.len());
        let mut command = Command::new(&self.program);
        command.args(["up", "--restart", "--in-background", "--config"]).arg(&self.path);
        let (mut child, process) = spawn(command, log).map_err(Error::io("start quoring up"))?;
        report(&format!("process {} keeps the nodes running; its log: {}", process.pid(), path.display()));
        let nodes = self.nodes();
        let mut all: FuturesUnordered<_> = nodes
            .iter()
            .map(|spec| async move { (spec, answers(&spec.server(), options.wait).await) })
            .collect();
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map(|status| told(&status)).unwrap_or_default();
                    return Err(Error::Failed(format!("quoring up{status} failed:{}", tail(&path, log_from))));
                }
                next = all.next() => match next {
                    None => return Ok(()),
                    Some((spec, answer)) => report_answer(spec, None, answer, options.wait, report),
                }
            }
        }
    }

    /// Returns once every shard has a leader.
    pub async fn until_led(&self) -> Result<(), Error> {
        if self.config.workers.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let lacking = match self.cluster().await {
                Err(error) => error.to_string(),
                Ok(cluster) if cluster.shards.is_empty() => "the cluster has no shards yet".to_owned(),
                Ok(cluster) => {
                    let led = cluster.shards.iter().filter(|shard| shard.leader.is_some()).count();
                    if led == cluster.shards.len() {
                        return Ok(());
                    }
                    format!("{led} of {} shards have a leader", cluster.shards.len())
                }
            };
            if Instant::now() >= deadline {
                return Err(Error::Failed(format!(
                    "still waiting after {} s: {lacking}; the nodes are left running, see quoring status",
                    READY_TIMEOUT.as_secs()
                )));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The state of the cluster as the first node to answer knows it. All are asked at once: a node
    /// that hangs keeps nobody waiting.
    pub(super) async fn cluster(&self) -> Result<Cluster, client::Error> {
        let clients: Vec<_> = self.nodes().iter().map(|spec| ask(&spec.server())).collect();
        let asked = clients.iter().map(|client| client.cluster().boxed());
        select_ok(asked).await.map(|(cluster, _)| cluster)
    }
}

/// A client of one node, quick to give it up.
pub(super) fn ask(server: &client::Server) -> Client {
    let options = client::Options { timeout: ASK_TIMEOUT, ..client::Options::default() };
    Client::new(vec![server.clone()], &options)
}

/// Starts a process that does not depend on this one: without a terminal to read from, and with its
/// output in a file.
fn spawn(mut command: Command, log: File) -> std::io::Result<(Child, Process)> {
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn()?;
    // Not waited for yet: its number is its own, even if it has ended already.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let process = pid.map(Process::open).transpose()?.flatten();
    process.map(|process| (child, process)).ok_or_else(|| std::io::Error::other("it has no process number"))
}

/// Returns once all nodes answer, telling of each, and whether all did so in time; an error as soon
/// as one has died.
async fn until_up(nodes: &mut [Running], ready: bool, report: Report<'_>) -> Result<bool, Error> {
    let mut all: FuturesUnordered<_> = nodes
        .iter_mut()
        .map(|node| async move {
            let server = node.spec.server();
            let answer = tokio::select! {
                how = node.ended() => {
                    let log = node.log_tail();
                    return Err(Error::Failed(format!("{} stopped while it started{how}{log}", node.spec)));
                }
                answer = answers(&server, ready) => answer,
            };
            let answered = answer.is_ok();
            report_answer(&node.spec, Some(node.process.pid()), answer, ready, report);
            Ok(answered)
        })
        .collect();
    let mut answered = true;
    while let Some(result) = all.next().await {
        answered &= result?;
    }
    Ok(answered)
}

fn report_answer(
    spec: &Spec,
    pid: Option<u32>,
    answer: Result<(), client::Error>,
    ready: bool,
    report: Report<'_>,
) {
    let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    match answer {
        Ok(()) if ready => report(&format!("{spec} is ready: {}{pid}", spec.server())),
        Ok(()) => report(&format!("{spec} is running: {}{pid}", spec.server())),
        Err(error) => report(&format!(
            "{spec} is not ready after {} s and goes on: {error}; its log: {}",
            READY_TIMEOUT.as_secs(),
            spec.log().display()
        )),
    }
}

/// Returns once a node answers, or is ready, or has not done so for too long.
async fn answers(server: &client::Server, ready: bool) -> Result<(), client::Error> {
    let client = ask(server);
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let answer = if ready { client.ready().await } else { client.healthy().await };
        match answer {
            Err(_) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            answer => return answer,
        }
    }
}
