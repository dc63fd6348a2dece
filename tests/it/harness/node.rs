//! One node of a cluster: its process, which may be killed, stopped, paused and started again.

use std::{
    ffi::OsString,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Mutex,
    time::Duration,
};

use rustix::process::Signal;

use super::{Http, Process};

/// Lines of a log that are shown when its node died.
const TAIL_LINES: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Coordinator,
    Worker,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
    args: Vec<OsString>,
    /// Commands before the node's own.
    before: Vec<OsString>,
    /// `None` while a test wants it down.
    process: Mutex<Option<Process>>,
}

impl Node {
    pub(crate) fn new(root: &Path, role: Role, port: u16, coordinators: &str, further: &[&str]) -> Self {
        let name = match role {
            Role::Coordinator => format!("coordinator-{port}"),
            Role::Worker => format!("worker-{port}"),
        };
        let dir = root.join("data").join(&name);
        let log = root.join(format!("{name}.log"));
        let mut args: Vec<OsString> = Vec::new();
        match role {
            Role::Coordinator => {
                args.extend(["coordinator".into(), port.to_string().into()]);
                args.extend(["--dir".into(), dir.clone().into()]);
                args.extend(["--peers".into(), coordinators.into()]);
                args.extend(["--config".into(), root.join("cluster.toml").into()]);
            }
            Role::Worker => {
                args.extend([
                    "worker".into(),
                    port.to_string().into(),
                    dir.clone().into(),
                    coordinators.into(),
                ]);
            }
        }
        args.extend(further.iter().map(OsString::from));
        Self { role, port, dir, log, args, before: Vec::new(), process: Mutex::new(None) }
    }

    /// Has it started behind other commands, which become it in the end.
    pub(crate) fn put_behind(&mut self, before: Vec<OsString>) {
        self.before = before;
    }

    /// Where the coordinators are, if not where the node was told at first.
    pub(super) fn set_coordinators(&mut self, addresses: &str) {
        let place = match self.role {
            Role::Coordinator => 1 + self.args.iter().position(|arg| arg == "--peers").expect("it has peers"),
            // PORT DIR COORDINATORS
            Role::Worker => 3,
        };
        self.args[place] = addresses.into();
    }

    /// Has it listen at another address than loopback's.
    pub(super) fn put_at(&mut self, host: IpAddr) {
        self.args.extend(["--listen".into(), host.to_string().into()]);
    }

    /// The same in a zone.
    pub(crate) fn in_zone(mut self, zone: &str) -> Self {
        self.args.extend(["--zone".into(), zone.into()]);
        self
    }

    /// A coordinator that founds nothing and waits to be added.
    pub(crate) fn joining(root: &Path, port: u16) -> Self {
        let mut node = Self::new(root, Role::Coordinator, port, "", &[]);
        let peers = node.args.iter().position(|arg| arg == "--peers").expect("a coordinator has peers");
        node.args.splice(peers..peers + 2, ["--join".into()]);
        node
    }

    pub(crate) fn http(&self) -> Http {
        Http::at(self.port)
    }

    pub(crate) fn start(&self) {
        let mut process = self.process.lock().unwrap();
        assert!(process.is_none(), "{} runs already", self.port);
        let root = self.log.parent().unwrap();
        let started = Process::quoring_behind(&self.before, &self.args, root, &self.log);
        *process = Some(started.expect("start quoring by setpriv"));
    }

    /// Whether a test wants it to run.
    pub(crate) fn is_up(&self) -> bool {
        self.process.lock().unwrap().is_some()
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        if let Some(process) = self.process.lock().unwrap().take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn stop(&self, within: Duration) -> ExitStatus {
        let process = self.process.lock().unwrap().take().expect("it runs");
        process.signal(Signal::TERM);
        process.wait(within).await
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.process.lock().unwrap().as_ref().expect("it runs").signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.process.lock().unwrap().as_ref().expect("it runs").signal(Signal::CONT);
    }

    /// See [`Process::own_memory`].
    pub(crate) fn own_memory(&self) -> u64 {
        self.process.lock().unwrap().as_ref().expect("it runs").own_memory()
    }

    /// A worker's name.
    pub(crate) fn id(&self) -> String {
        assert_eq!(self.role, Role::Worker);
        fs::read_to_string(self.dir.join("id")).unwrap().trim().to_owned()
    }

    /// Panics with the end of its log if it should run and does not.
    pub(crate) fn check_alive(&self) {
        let ended = self.process.lock().unwrap().as_ref().and_then(Process::exited);
        if let Some(status) = ended {
            panic!("{:?} {} ended by itself, {status}:\n{}", self.role, self.port, self.log_tail());
        }
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}
