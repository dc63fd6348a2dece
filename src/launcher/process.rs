//! Processes that outlive whoever started them: pid files, signals, waiting.
//!
//! A pid file alone proves nothing: its process may be gone and its number given to another. Here it
//! counts only while the process with that number has this very file on its command line
//! (`--pid-file PATH`), and signals go through a pidfd opened *before* that check, so that they can
//! never reach a later owner of the number. A node that stopped as it was asked to removes its pid
//! file; one that died leaves it.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

/// The flag by which a process is told its pid file, and known again.
pub const PID_FILE_FLAG: &str = "--pid-file";

/// A process that was running when it was looked for; the number cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// The process that a pid file stands for, if it runs.
    pub fn of_pid_file(path: &Path) -> io::Result<Option<Process>> {
        let Some(pid) = read_pid(path)? else { return Ok(None) };
        let Some(process) = Self::open(pid)? else { return Ok(None) };
        let command_line = match fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) {
            Ok(command_line) => command_line,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // The process was there when its file was opened and is gone now (ESRCH).
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(names_pid_file(&command_line, path).then_some(process))
    }

    /// The process with this number, if there is one.
    pub(super) fn open(pid: Pid) -> io::Result<Option<Process>> {
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Process { pid, fd })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal; to a process that is gone, nothing happens.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns once the process is gone.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe for the sake of types that do not own what they name; OwnedFd does"
    )]
    pub async fn exited(&self) -> io::Result<()> {
        // A pidfd becomes readable when its process ends, and stays so (pidfd_open(2)).
        let fd = AsyncFd::with_interest(self.fd.try_clone()?, Interest::READABLE)?;
        fd.readable().await.map(drop)
    }
}

fn read_pid(path: &Path) -> io::Result<Option<Pid>> {
    match fs::read_to_string(path) {
        // A file cut short by a crash names nobody.
        Ok(text) => Ok(text.trim().parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a command line, as `/proc/PID/cmdline` shows it, names this pid file as its own. That of
/// a process which has ended and was not yet waited for is empty.
fn names_pid_file(command_line: &[u8], path: &Path) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    words.any(|word| word == PID_FILE_FLAG.as_bytes())
        && words.next().is_some_and(|word| word == path.as_os_str().as_bytes())
}

/// The pid file of the running process itself.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's number into its pid file, and leaves the terminal of whoever started
    /// it, so that neither ^C nor a hang-up there reaches it.
    pub fn adopt(path: &Path) -> io::Result<PidFile> {
        if let Some(other) = Process::of_pid_file(path)?
            && other.pid() != std::process::id()
        {
            return Err(io::Error::other(format!("runs already, as process {}", other.pid())));
        }
        // Fails where this process leads a session already, which serves as well.
        let _ = rustix::process::setsid();
        let written = path.with_extension("pid.new");
        fs::write(&written, format!("{}\n", std::process::id()))?;
        fs::rename(&written, path)?;
        Ok(PidFile(path.to_owned()))
    }

    /// Says that this process stops because it was asked to.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A process that notes its number in its pid file, and ends when its input does.
    fn node(pid_file: &Path) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$2\"; echo noted; read line", "sh", PID_FILE_FLAG]).arg(pid_file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "noted\n");
        child
    }

    #[test]
    fn command_lines_name_their_pid_file() {
        let path = Path::new("/d/worker-1/node.pid");
        assert!(names_pid_file(b"quoring\0worker\0--pid-file\0/d/worker-1/node.pid\0--x\0", path));
        for other in [
            &b""[..],
            b"quoring\0worker\0",
            b"quoring\0--pid-file\0",
            b"quoring\0--pid-file\0/d/worker-10/node.pid\0",
            b"vi\0/d/worker-1/node.pid\0",
        ] {
            assert!(!names_pid_file(other, path), "{}", String::from_utf8_lossy(other));
        }
    }

    #[tokio::test]
    async fn a_pid_file_stands_for_its_process_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.pid"), dir.path().join("b.pid"));
        assert!(Process::of_pid_file(&path).unwrap().is_none(), "there is no file");
        let mut child = node(&path);
        fs::copy(&path, &other).unwrap();
        let process = Process::of_pid_file(&path).unwrap().expect("it runs");
        assert_eq!(process.pid(), child.id());
        assert!(Process::of_pid_file(&other).unwrap().is_none(), "the number was given to another process");

        process.signal(Signal::TERM).unwrap();
        process.exited().await.unwrap();
        assert!(Process::of_pid_file(&path).unwrap().is_none(), "it has ended, and nobody waited for it");
        child.wait().unwrap();
        assert!(Process::of_pid_file(&path).unwrap().is_none(), "its number is free");
        process.signal(Signal::KILL).unwrap();
        process.exited().await.unwrap();
    }

    #[test]
    fn a_spoilt_pid_file_stands_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        for text in ["", "\n", "x", "0", "-1", "99999999999999999999", "2147483647"] {
            fs::write(&path, text).unwrap();
            assert!(Process::of_pid_file(&path).unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_second_process_does_not_take_the_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let mut child = node(&path);
        let error = PidFile::adopt(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("runs already, as process {}", child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        let own = PidFile::adopt(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), std::process::id().to_string());
        own.remove().unwrap();
        assert!(!path.exists());
    }
}
