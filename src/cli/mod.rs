//! The command line: what was typed, who does it, and the exit code.
//!
//! Not here: anything that a program could not do as well with the library (`client`, `launcher`,
//! `node`); here it is only asked for and shown.

mod allocator;
mod bench;
mod coordinators;
mod data;
mod exit;
mod local;
mod nodes;
mod reporter;
mod shell;
mod show;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use self::exit::Failure;

/// A distributed key-value store over plain HTTP: sharded, replicated, linearizable.
#[derive(Debug, Parser)]
#[command(
    name = "quoring",
    version,
    subcommand_required = true,
    arg_required_else_help = false,
    after_help = "Examples:\n  \
        quoring up                        start the cluster of ./cluster.toml, show it until ^C\n  \
        quoring up --detach --wait        start it and leave it running\n  \
        quoring put greeting hello        write a key\n  \
        quoring get greeting              read it\n  \
        quoring status                    the nodes and the shards\n  \
        quoring down                      stop it\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 4 not found."
)]
struct Cli {
    /// What to log to stderr: a level, or levels by module, such as quoring=debug,openraft=warn
    /// [default: info for nodes, warn for all else]
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(local::Up),
    Down(local::Down),
    Status(local::Status),
    Coordinator(nodes::Coordinator),
    Coordinators(coordinators::Coordinators),
    Worker(nodes::Worker),
    Get(data::Get),
    #[command(visible_alias = "set")]
    Put(data::Put),
    Update(data::Update),
    Delete(data::Delete),
    List(data::List),
    Shell(shell::Shell),
    Bench(Box<bench::Bench>),
}

impl Command {
    fn default_log(&self) -> &'static str {
        match self {
            // Its progress is told in lines of its own; openraft tells each step of an election.
            _ if self.is_node() => "info,openraft=warn",
            _ => "warn",
        }
    }

    /// Whether this process becomes a node.
    fn is_node(&self) -> bool {
        matches!(self, Command::Coordinator(_) | Command::Worker(_))
    }
}

/// Does what the process's arguments say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    if cli.command.is_node() {
        allocator::keep_what_is_freed();
    }
    let done =
        start_log(cli.log.as_deref().unwrap_or(cli.command.default_log())).and_then(|()| match cli.command {
            Command::Up(up) => up.run(),
            Command::Down(down) => down.run(),
            Command::Status(status) => status.run(),
            Command::Coordinator(coordinator) => coordinator.run(),
            Command::Coordinators(coordinators) => coordinators.run(),
            Command::Worker(worker) => worker.run(),
            Command::Get(get) => get.run(),
            Command::Put(put) => put.run(),
            Command::Update(update) => update.run(),
            Command::Delete(delete) => delete.run(),
            Command::List(list) => list.run(),
            Command::Shell(shell) => shell.run(),
            Command::Bench(bench) => bench.run(),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Help was asked for, or the arguments are wrong: then one line says what and where to read on.
fn misused(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell that stdout was closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => Failure::Usage(one_line(&error.to_string())).tell(),
    }
}

/// The first paragraph of one of clap's messages, on one line, and whose help tells more.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let first = message.split("\n\n").next().unwrap_or(message);
    let what = first.split_whitespace().collect::<Vec<_>>().join(" ");
    let usage = message.split_once("Usage: quoring ").map(|(_, usage)| usage);
    let named = usage.and_then(|usage| usage.split_whitespace().next());
    let command = Cli::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .find(|name| Some(name.as_str()) == named);
    let help = command.map_or("quoring --help".to_owned(), |command| format!("quoring {command} --help"));
    format!("{what} (see {help})")
}

fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::Usage(format!("--log (or RUST_LOG): '{filter}' is no log filter: {error}"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}
