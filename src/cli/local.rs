//! `quoring up`, `down` and `status`: the cluster of a `cluster.toml` on this machine.

use std::{path::PathBuf, pin::pin};

use clap::Args;

use super::{
    data::block_on,
    exit::{Failure, say},
    nodes::{Signals, asked_to_stop},
    reporter::Reporter,
    show,
};
use crate::launcher::{Ended, Launcher, Started, UpOptions};

/// The default of `--config`.
pub(super) const DEFAULT_CONFIG: &str = "cluster.toml";

#[derive(Debug, Args)]
struct Config {
    /// The file that describes the cluster
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

impl Config {
    fn open(&self) -> Result<Launcher, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Failed(format!("cannot find this program's own file: {error}")))?;
        Ok(Launcher::open(&self.config, program)?)
    }
}

fn reporter() -> Result<Reporter, Failure> {
    Reporter::start().map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))
}

/// Start the cluster of cluster.toml on this machine, and show it until ^C
///
/// Every node that does not run yet is started as a process of its own; its directory, with its log
/// in node.log, is coordinator-PORT or worker-PORT in data_dir. ^C or SIGTERM stops gracefully what
/// this command has started.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quoring up\n  \
    quoring up --detach --wait && curl -X PUT --data-binary hello localhost:8001/kv/greeting\n  \
    quoring up --detach --restart --config other/cluster.toml")]
pub(super) struct Up {
    #[command(flatten)]
    config: Config,
    /// Return once every node answers, and leave them running
    #[arg(long)]
    detach: bool,
    /// Return once every shard has a leader, and leave the nodes running; implies --detach
    #[arg(long)]
    wait: bool,
    /// Keep the nodes running: start one again that has died, after 1 s and at most 30 s; with
    /// --detach, a process in the background does it
    #[arg(long)]
    restart: bool,
    /// This is that process.
    #[arg(long, hide = true, requires = "restart", conflicts_with_all = ["detach", "wait"])]
    in_background: bool,
}

impl Up {
    pub(super) fn run(self) -> Result<(), Failure> {
        let launcher = self.config.open()?;
        let options = UpOptions { detach: self.detach || self.wait, wait: self.wait, restart: self.restart };
        if self.in_background {
            // Fails where this process leads a session already, which serves as well.
            let _ = rustix::process::setsid();
        }
        block_on(up(&launcher, options, self.in_background))
    }
}

async fn up(launcher: &Launcher, options: UpOptions, in_background: bool) -> Result<(), Failure> {
    let mut shutdown = pin!(asked_to_stop(Signals::new()?));
    let reporter = reporter()?;
    let report = |line: &str| reporter.say(line);
    let started = if options.detach && options.restart {
        launcher.start_keeper(options, &report).await?;
        None
    } else {
        let started = launcher.start(options, &mut shutdown, &report).await?;
        Some(started.ok_or_else(|| Failure::Failed("stopped before every node was up".to_owned()))?)
    };
    if options.wait {
        launcher.until_led().await?;
        report("every shard has a leader");
    }
    if !in_background {
        report(&show::urls(launcher.config(), options.wait || started.as_ref().is_some_and(Started::ready)));
    }
    let Some(started) = started.filter(|_| !options.detach) else { return Ok(()) };
    if !in_background {
        report(match started.own() {
            0 => "Nothing had to be started. ^C leaves the nodes running; quoring down stops them.",
            _ => "^C stops the nodes that were started here.",
        });
    }
    match launcher.watch(started, options.restart, &mut shutdown, &report).await? {
        Ended::Asked | Ended::AllStopped => Ok(()),
        Ended::AllGone => Err(Failure::Failed("no node is left running".to_owned())),
    }
}

/// Stop the cluster of cluster.toml on this machine, gracefully
///
/// Each node is asked to stop, and hands its leaderships over; one that has not stopped after 10 s is
/// killed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quoring down")]
pub(super) struct Down {
    #[command(flatten)]
    config: Config,
}

impl Down {
    pub(super) fn run(self) -> Result<(), Failure> {
        let launcher = self.config.open()?;
        let reporter = reporter()?;
        let report = |line: &str| reporter.say(line);
        let stopped = block_on(async { Ok(launcher.down(&report).await?) })?;
        if stopped == 0 {
            report("nothing was running");
        }
        Ok(())
    }
}

/// Show the nodes of cluster.toml (role, id, address, process, health, log) and the shards
#[derive(Debug, Args)]
#[command(
    after_help = "Health is one of: ready, unready (it answers, but cannot serve), unreachable (its process\n\
    runs but does not answer), stopped.\n\n\
    Examples:\n  quoring status\n  quoring status --json"
)]
pub(super) struct Status {
    #[command(flatten)]
    config: Config,
    /// Show it as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let launcher = self.config.open()?;
        let status = block_on(async { Ok(launcher.status().await?) })?;
        let text = if self.json {
            serde_json::to_string_pretty(&status).expect("texts and numbers")
        } else {
            show::status(&status)
        };
        say(&text)
    }
}
