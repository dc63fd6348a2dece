//! A child process that dies with the tests, whatever becomes of them.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{QUORING, eventually};

/// A running, or ended, child. It is killed when dropped; if the tests themselves are killed, the
/// kernel kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Mutex<Child>,
    pid: Pid,
}

impl Process {
    /// Starts the binary under test in `dir`, with its output appended to `log`.
    pub(crate) fn quoring<S: AsRef<OsStr>>(args: &[S], dir: &Path, log: &Path) -> io::Result<Self> {
        Self::quoring_behind(&[], args, dir, log)
    }

    /// The same, with other commands before it that become it in the end: same pid.
    pub(crate) fn quoring_behind<S: AsRef<OsStr>>(
        before: &[OsString],
        args: &[S],
        dir: &Path,
        log: &Path,
    ) -> io::Result<Self> {
        // setpriv makes the parent-death signal without any unsafe code here, and then becomes the
        // node as well.
        let own = ["setpriv", "--pdeathsig", "KILL", "--", QUORING].map(OsString::from);
        let mut words = before.iter().chain(&own);
        let mut command = Command::new(words.next().expect("there are own words"));
        command.args(words).args(args).current_dir(dir);
        clean(&mut command);
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Self::spawn(command)
    }

    /// Starts any command; whoever makes it sees to it that it dies with the tests.
    pub(super) fn spawn(command: Command) -> io::Result<Self> {
        let (reply, answer) = mpsc::channel();
        SPAWNER.lock().unwrap().send((command, reply)).expect("the spawner ends with the process");
        let child = answer.recv().expect("the spawner answers every job")?;
        let pid = Pid::from_child(&child);
        Ok(Self { child: Mutex::new(child), pid })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// See [`own_memory`].
    pub(crate) fn own_memory(&self) -> u64 {
        own_memory(self.pid())
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().unwrap()
    }

    /// Sends a signal, unless it has ended: then its pid may be another process's.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut child = self.child.lock().unwrap();
        if child.try_wait().unwrap().is_none() {
            kill_process(self.pid, signal).unwrap();
        }
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.child.lock().unwrap().wait().unwrap();
    }

    pub(crate) async fn wait(&self, within: Duration) -> ExitStatus {
        eventually("the process ends", within, async || self.exited().ok_or_else(|| "it runs".into())).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Memory of its own that a process has in RAM now, bytes: what it has allocated, and no file's pages
/// (proc_pid_status(5), `RssAnon`).
pub(crate) fn own_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells");
    line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// Nothing of the tester's own environment decides what a process does.
pub(super) fn clean(command: &mut Command) {
    command.env_remove("RUST_LOG").env_remove("QUORING_SERVER");
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// The parent-death signal is sent when the *thread* that spawned the child ends, and every test
/// has a thread of its own: so one thread, which lives as long as the process, spawns for all.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        for (mut command, reply) in queue {
            // Whoever asked has gone only if its thread panicked; the child then dies by its drop.
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(jobs)
});
