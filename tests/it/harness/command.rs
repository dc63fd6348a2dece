//! One run of the binary under test, to its end.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

use super::{QUORING, process::clean};

/// The longest that a command may take; it is killed then.
const LIMIT: Duration = Duration::from_secs(120);

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Asserts that its last word was one clear line that contains `part`; a node's log may stand
    /// before it.
    #[track_caller]
    pub(crate) fn names(&self, part: &str) {
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("quoring: ") && last.contains(part), "'{part}' is not told: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }

    /// Asserts that it failed with one clear line that contains all of `parts`, and said nothing else.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) {
        let this = self.exits(code);
        assert_eq!(this.stderr.trim_end().lines().count(), 1, "{this:?}");
        assert_eq!(this.stdout, "", "{this:?}");
        for part in parts {
            assert!(this.stderr.contains(part), "'{part}' is not in: {}", this.stderr);
        }
    }
}

/// Runs `quoring ARGS` in a directory.
pub(crate) async fn quoring<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Output {
    quoring_with_stdin(dir, args, b"").await
}

/// Starts it, with all its ends in the caller's hands. It is killed when the child is dropped.
pub(crate) fn spawn_quoring<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Child {
    let mut command = std::process::Command::new(QUORING);
    clean(&mut command);
    command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Command::from(command).kill_on_drop(true).spawn().unwrap()
}

/// The same, with something to read.
pub(crate) async fn quoring_with_stdin<S: AsRef<OsStr>>(dir: &Path, args: &[S], stdin: &[u8]) -> Output {
    let mut child = spawn_quoring(dir, args);
    let mut input = child.stdin.take().unwrap();
    // A command that reads nothing closes its end: that is its right.
    let feed = async {
        let _ = input.write_all(stdin).await;
        drop(input);
    };
    let ((), output) = timeout(LIMIT, async { tokio::join!(feed, child.wait_with_output()) })
        .await
        .unwrap_or_else(|_| panic!("the command did not end within {LIMIT:?}"));
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("commands write UTF-8 here");
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
