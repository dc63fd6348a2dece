//! How a command ends: one line on stderr, and the exit code of the contract.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::{client, launcher};

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It failed: exit code 1.
    Failed(String),
    /// It cannot be asked for like this: exit code 2.
    Usage(String),
    /// What it names is not there: exit code 4.
    NotFound(String),
    /// Whoever read its output has gone and wants no more of it: exit code 0.
    Closed,
}

impl Failure {
    pub(super) fn code(&self) -> u8 {
        match self {
            Failure::Closed => 0,
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::NotFound(_) => 4,
        }
    }

    /// Says what is wrong.
    pub(super) fn tell(self) -> ExitCode {
        if self != Failure::Closed {
            // Without a stderr, the exit code is all that can be told.
            let _ = writeln!(io::stderr(), "quoring: {self}");
        }
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(why) | Failure::Usage(why) | Failure::NotFound(why) => f.write_str(why),
            Failure::Closed => f.write_str("nobody reads the output"),
        }
    }
}

impl From<launcher::Error> for Failure {
    fn from(error: launcher::Error) -> Self {
        match error {
            launcher::Error::Config(_) | launcher::Error::ConfigUnreadable { .. } => {
                Failure::Usage(error.to_string())
            }
            launcher::Error::Failed(_) | launcher::Error::Io { .. } => Failure::Failed(error.to_string()),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        if error.is_not_found() {
            Failure::NotFound(error.to_string())
        } else {
            Failure::Failed(error.to_string())
        }
    }
}

impl From<client::InvalidServer> for Failure {
    fn from(error: client::InvalidServer) -> Self {
        Failure::Usage(format!("--server (or QUORING_SERVER): {error}"))
    }
}

/// Writes to stdout, whatever the bytes.
pub(super) fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::Failed(format!("cannot write to stdout: {error}")),
    })
}

/// Writes a line to stdout.
pub(super) fn say(line: &str) -> Result<(), Failure> {
    write_out(format!("{line}\n").as_bytes())
}
