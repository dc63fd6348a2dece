//! The nodes of a `cluster.toml` as processes of this machine: start, watch, stop, ask.
//!
//! Each node is a process of this same binary, in a directory of its own under `data_dir`, with its
//! log and its pid file in it. Nodes belong to nobody: whoever runs `up`, `down` or `status` on the
//! same `cluster.toml` finds them by their pid files (`process`).
//!
//! Not here: what a node does (`node`), and how results are shown (`cli`).

mod founding;
mod process;
mod seats;
mod spec;
mod start;
mod status;
mod stop;
mod watch;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{
    process::{PID_FILE_FLAG, PidFile, Process},
    spec::{NodeRole, Spec},
    start::{Started, UpOptions},
    status::{Health, NodeStatus, Status},
    watch::Ended,
};
use crate::config::{self, Config};

/// Between two looks at something that only polling can tell.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What goes wrong with the processes of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `cluster.toml` cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// `cluster.toml` cannot be read.
    #[error("{}: cannot be read: {source}; name another file with --config", path.display())]
    ConfigUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a person has to mend first.
    #[error("{0}")]
    Failed(String),
    /// The machine does not do what it must.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, to what.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }
}

/// Tells the person who waits one line of what happens.
pub type Report<'a> = &'a (dyn Fn(&str) + Sync);

/// Reads a `cluster.toml`.
pub fn load(path: &Path) -> Result<Config, Error> {
    let text = fs::read_to_string(path)
        .map_err(|source| Error::ConfigUnreadable { path: path.to_owned(), source })?;
    Ok(Config::parse(path, &text)?)
}

/// The nodes of one `cluster.toml`.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// As the user named it.
    shown: PathBuf,
    /// Absolute, for the nodes.
    path: PathBuf,
    /// Its `data_dir` is absolute: pid files are known again by their paths.
    config: Config,
    /// The ports of the coordinators that the cluster is founded with.
    founders: Vec<u16>,
    /// The binary that runs nodes.
    program: PathBuf,
}

impl Launcher {
    /// Reads `cluster.toml` at `path`; its nodes are, or will be, processes of `program`.
    pub fn open(path: &Path, program: PathBuf) -> Result<Launcher, Error> {
        let mut config = load(path)?;
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(Error::io(format!("find the full path of {}", path.display())))
        };
        config.data_dir = absolute(&config.data_dir)?;
        let founders = founding::founders(&config)?;
        Ok(Launcher { shown: path.to_owned(), path: absolute(path)?, config, founders, program })
    }

    /// What `cluster.toml` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every node of the file, coordinators first.
    pub fn nodes(&self) -> Vec<Spec> {
        Spec::all(&self.config, &self.founders, &self.path, cpus())
    }

    /// Waits for its turn to start nodes, so that two `up`s never start one node twice.
    async fn lock_start(&self, report: Report<'_>) -> Result<File, Error> {
        let path = self.config.data_dir.join("start.lock");
        let doing = format!("lock {}", path.display());
        fs::create_dir_all(&self.config.data_dir)
            .map_err(Error::io(format!("make the directory {}", self.config.data_dir.display())))?;
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io(&*doing))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                report("another quoring up is starting nodes here; waiting for it");
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(doing)(error)),
        }
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        locked.map_err(io::Error::other).and_then(|locked| locked).map_err(Error::io(doing))
    }

    fn keeper_path(&self) -> PathBuf {
        self.config.data_dir.join("up.lock")
    }

    /// Makes this process the one that `down` stops before the nodes, so that it does not start them
    /// again; `None` where there is one already. It lasts as long as the file is held.
    fn become_keeper(&self) -> Result<Option<File>, Error> {
        let path = self.keeper_path();
        let keep = || -> io::Result<Option<File>> {
            let mut file = File::options().create(true).truncate(false).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Some(file))
        };
        keep().map_err(Error::io(format!("lock {}", path.display())))
    }

    /// The `up` that watches these nodes, if there is one.
    fn keeper(&self) -> Result<Option<Process>, Error> {
        let path = self.keeper_path();
        let find = || -> io::Result<Option<Process>> {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let pid =
                text.trim().parse().ok().filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw);
            let Some(process) = pid.map(Process::open).transpose()?.flatten() else { return Ok(None) };
            // Still locked, after the process was opened: so it was its keeper that was opened.
            match file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => Ok(Some(process)),
                Ok(()) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        find().map_err(Error::io(format!("read {}", path.display())))
    }
}

/// The CPUs of this machine; one, where it does not tell.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
