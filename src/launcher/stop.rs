//! Stopping nodes: asked first, with time to hand their leaderships over; killed only when that time
//! is up.

use std::{fs, io, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rustix::process::Signal;
use tokio::time::timeout;

use super::{Error, Launcher, Process, Report};

/// How long a node may take to stop after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a watching `up` may take to stop, with the nodes it stops.
const KEEPER_STOP_TIMEOUT: Duration = Duration::from_secs(15);

impl Launcher {
    /// Stops every node below `data_dir`, also those that `cluster.toml` no longer has, and whatever
    /// `up` watches them. Says how many there were.
    pub async fn down(&self, report: Report<'_>) -> Result<usize, Error> {
        let mut stopped = 0;
        if let Some(keeper) = self.keeper()? {
            report(&format!("stopping the quoring up that watches the nodes (process {})", keeper.pid()));
            stop_one("quoring up", &keeper, KEEPER_STOP_TIMEOUT, report).await?;
            stopped += 1;
        }
        let nodes = self.running()?;
        stopped += nodes.len();
        stop(nodes.iter().map(|(name, process)| (name.clone(), process)), report).await?;
        Ok(stopped)
    }

    /// Every node process of this `data_dir`.
    fn running(&self) -> Result<Vec<(String, Process)>, Error> {
        let dir = &self.config.data_dir;
        let doing = || format!("read the directory {}", dir.display());
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(doing())(error)),
        };
        let mut running = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io(doing()))?;
            let pid_file = entry.path().join("node.pid");
            let process = match Process::of_pid_file(&pid_file) {
                // A file beside the nodes' directories.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
                process => process.map_err(Error::io(format!("read {}", pid_file.display())))?,
            };
            if let Some(process) = process {
                running.push((entry.file_name().to_string_lossy().replacen('-', " ", 1), process));
            }
        }
        running.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(running)
    }
}

/// Stops all of these at once.
pub(super) async fn stop<'a>(
    nodes: impl Iterator<Item = (String, &'a Process)>,
    report: Report<'_>,
) -> Result<(), Error> {
    let mut all: FuturesUnordered<_> = nodes
        .map(|(name, process)| async move { stop_one(&name, process, STOP_TIMEOUT, report).await })
        .collect();
    let mut result = Ok(());
    while let Some(stopped) = all.next().await {
        // One that cannot be stopped does not keep the others running.
        result = result.and(stopped);
    }
    result
}

async fn stop_one(name: &str, process: &Process, within: Duration, report: Report<'_>) -> Result<(), Error> {
    let doing = || format!("stop {name} (process {})", process.pid());
    process.signal(Signal::TERM).map_err(Error::io(doing()))?;
    if let Ok(exited) = timeout(within, process.exited()).await {
        exited.map_err(Error::io(doing()))?;
        report(&format!("{name} has stopped"));
        return Ok(());
    }
    report(&format!("{name} did not stop within {} s; killing process {}", within.as_secs(), process.pid()));
    process.signal(Signal::KILL).map_err(Error::io(doing()))?;
    match timeout(STOP_TIMEOUT, process.exited()).await {
        Ok(exited) => exited.map_err(Error::io(doing())),
        Err(_) => Err(Error::Failed(format!("{name} (process {}) cannot be killed", process.pid()))),
    }
}
