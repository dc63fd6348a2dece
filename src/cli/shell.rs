//! `quoring shell`: commands one by one, from a terminal or from a pipe.

mod parse;

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use rustyline::{DefaultEditor, error::ReadlineError};
use tokio::time::{Instant, sleep};

use self::parse::{Line, parse};
use super::{
    coordinators,
    data::{self, Connection},
    exit::{Failure, say, write_out},
    show,
};
use crate::{
    client::{Client, PutOptions, ScanOptions},
    command::Condition,
    ids::WorkerId,
};

const PROMPT: &str = "quoring> ";

const HELP: &str = "\
GET KEY | GET TABLE ROW COLUMN         read a value
PUT KEY VALUE                          write a value: the rest of the line (SET does the same)
UPDATE KEY VALUE                       write a value only where there is one
DELETE KEY | DELETE TABLE ROW COLUMN   remove a value
LIST [TABLE]                           the keys, or the rows of a table
JOIN HOST:PORT                         have the waiting worker there join this cluster
LEAVE [ID]                             move everything off a worker, then take it out;
                                       without an id, the node this shell is connected to
COORDINATORS                           the members of the coordinator group
COORDINATORS ADD HOST:PORT             bring the empty coordinator there into the group
COORDINATORS REMOVE ID                 take a coordinator, by number or HOST:PORT, out of it
SPLIT SHARD [POSITION]                 make two shards of one, at the middle or there
STATUS                                 the coordinators, workers and shards
HELP                                   this
EXIT, QUIT                             leave
Also: get:KEY  put:KEY:VALUE  update:KEY:VALUE  delete:KEY";

/// The longest line from a pipe, bytes: a key and the largest value that a cluster may take.
const MAX_LINE_BYTES: u64 = 34 << 20;

/// Between two looks at how far a draining worker is.
const LEAVE_POLL: Duration = Duration::from_millis(500);

/// How long a draining worker may stand still before the shell gives up.
const LEAVE_STALLED: Duration = Duration::from_secs(60);

/// Type commands to a cluster: GET, PUT, UPDATE, DELETE, LIST, JOIN, LEAVE, SPLIT, COORDINATORS, STATUS, HELP, EXIT
///
/// Reads commands from stdin, a line each; from a pipe without prompts, and then exits with 1 if any
/// of them failed (a value that is not there is no failure).
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quoring shell\n  printf 'PUT a hello\\nGET a\\n' | quoring shell --server http://127.0.0.1:8001"
)]
pub(super) struct Shell {
    #[command(flatten)]
    connection: Connection,
}

impl Shell {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let execute = |text: &str| match parse(text) {
            Ok(line) => runtime.block_on(execute(&client, line)),
            Err(error) => Err(Failure::Usage(error)),
        };
        if io::stdin().is_terminal() { interactive(&client, execute) } else { piped(execute) }
    }
}

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Line,
    Exit,
}

fn interactive(client: &Client, execute: impl Fn(&str) -> Result<Next, Failure>) -> Result<(), Failure> {
    let broken = |error: ReadlineError| Failure::Failed(format!("cannot read the terminal: {error}"));
    let mut editor = DefaultEditor::new().map_err(broken)?;
    say(&format!("Connected to {}. HELP lists the commands.", client.server()))?;
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            // ^C drops the line, ^D leaves.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(broken(error)),
        };
        // A line that cannot be kept for recall is carried out all the same.
        let _ = editor.add_history_entry(&line);
        match execute(&line) {
            Ok(Next::Line) => {}
            Ok(Next::Exit) => return Ok(()),
            Err(failure) => say(&failure.to_string())?,
        }
    }
}

fn piped(execute: impl Fn(&str) -> Result<Next, Failure>) -> Result<(), Failure> {
    use io::Read as _;
    let mut failed = 0_u64;
    let mut stdin = io::stdin().lock();
    loop {
        let mut bytes = Vec::new();
        let read = stdin.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
        read.map_err(|error| Failure::Failed(format!("cannot read stdin: {error}")))?;
        if bytes.is_empty() {
            break;
        }
        if bytes.len() as u64 == MAX_LINE_BYTES && bytes.last() != Some(&b'\n') {
            return Err(Failure::Failed(format!("a line is longer than {MAX_LINE_BYTES} bytes")));
        }
        let done = match std::str::from_utf8(&bytes) {
            Ok(line) => {
                let line = line.strip_suffix('\n').unwrap_or(line);
                execute(line.strip_suffix('\r').unwrap_or(line))
            }
            Err(_) => {
                Err(Failure::Usage("a line that is not UTF-8; quoring put KEY - takes any bytes".to_owned()))
            }
        };
        match done {
            Ok(Next::Line) => {}
            Ok(Next::Exit) => break,
            Err(Failure::NotFound(what)) => say(&what)?,
            Err(Failure::Closed) => return Err(Failure::Closed),
            Err(failure) => {
                failed += 1;
                failure.tell();
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Failed(format!("commands that failed: {failed}"))) }
}

async fn execute(client: &Client, line: Line<'_>) -> Result<Next, Failure> {
    match line {
        Line::Empty => {}
        Line::Exit => return Ok(Next::Exit),
        Line::Help => say(HELP)?,
        Line::Get(names) => {
            let got = client.get(data::key(&names)?).await?;
            write_out(&[&got.bytes[..], b"\n"].concat())?;
        }
        Line::Put { key, value, must_exist } => {
            let condition = must_exist.then_some(Condition::Exists);
            let options = PutOptions { condition, ..PutOptions::default() };
            let value = Bytes::copy_from_slice(value.as_bytes());
            data::put(client, data::key(&[key])?, value, &options).await?;
            say("OK")?;
        }
        Line::Delete(names) => {
            client.delete(data::key(&names)?).await?;
            say("OK")?;
        }
        Line::List(table) => data::list(client, table, ScanOptions::default(), u64::MAX).await?,
        Line::Join(addr) => {
            client.join(addr.as_str()).await?;
            say("OK")?;
        }
        Line::Leave(id) => leave(client, id).await?,
        Line::Coordinators(order) => coordinators::carry_out(client, order).await?,
        Line::Split(shard, at) => {
            let split = client.split(shard, at).await?;
            say(&format!(
                "shard {} keeps what is before {}, shard {} the rest",
                split.id, split.at, split.into
            ))?;
        }
        Line::Status => say(&show::cluster(&client.cluster().await?))?,
    }
    Ok(Next::Line)
}

/// Drains a worker, waits until it holds nothing, and takes it out.
async fn leave(client: &Client, id: Option<WorkerId>) -> Result<(), Failure> {
    let id = match id {
        Some(id) => id,
        None => own_worker(client).await?,
    };
    client.drain(&id, true).await?;
    let (mut least, mut since) = (u32::MAX, Instant::now());
    loop {
        let cluster = client.cluster().await?;
        let Some(worker) = cluster.workers.iter().find(|worker| worker.id == id) else {
            return Err(Failure::NotFound(format!("there is no worker {id} any more")));
        };
        if worker.holds == 0 {
            break;
        }
        if worker.holds < least {
            (least, since) = (worker.holds, Instant::now());
            say(&format!("{id} still holds {least} shards"))?;
        }
        if since.elapsed() >= LEAVE_STALLED {
            let waited = LEAVE_STALLED.as_secs();
            return Err(Failure::Failed(format!(
                "{id} still holds {least} shards after {waited} s without progress; it goes on draining, and \
                 LEAVE {id} can be given again"
            )));
        }
        sleep(LEAVE_POLL).await;
    }
    client.remove(&id).await?;
    say(&format!("{id} has left"))
}

/// The worker that this client is connected to.
async fn own_worker(client: &Client) -> Result<WorkerId, Failure> {
    let resolve = |address: String| async move {
        tokio::net::lookup_host(address).await.map(Iterator::collect::<Vec<_>>).unwrap_or_default()
    };
    let own = resolve(client.server().host_port().to_owned()).await;
    for worker in client.cluster().await?.workers {
        if worker.joined && resolve(worker.addr).await.iter().any(|address| own.contains(address)) {
            return Ok(worker.id);
        }
    }
    Err(Failure::NotFound(format!("{} is no worker; say which one is to leave: LEAVE ID", client.server())))
}
