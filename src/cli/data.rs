//! `quoring get`, `put`, `update`, `delete` and `list`: one request each.

use std::{
    ffi::{OsStr, OsString},
    future::Future,
    io::{self, Read as _},
    os::unix::ffi::OsStringExt as _,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;

use super::exit::{Failure, say, write_out};
use crate::{
    client::{self, Client, Key, PutOptions, ScanOptions, Server},
    command::Condition,
    units,
};

/// Rows or keys per request of a list.
const PAGE: u32 = 1_000;

/// Runs what is only waited for, on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?
        .block_on(work)
}

/// Whom to ask.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Any node of the cluster, or several: the next is asked where one fails
    #[arg(
        long,
        global = true,
        value_name = "URL,…",
        value_delimiter = ',',
        env = "QUORING_SERVER",
        default_value = "http://127.0.0.1:7001"
    )]
    server: Vec<String>,
    /// How long to wait for the answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

impl Connection {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let servers = self.server.iter().map(|server| server.parse()).collect::<Result<Vec<Server>, _>>()?;
        Ok(Client::new(servers, &client::Options { timeout: self.timeout, ..client::Options::default() }))
    }
}

fn duration(text: &str) -> Result<Duration, units::InvalidUnit> {
    units::parse_duration_ms(text).map(Duration::from_millis)
}

/// Read a value: its bytes go to stdout as they are
#[derive(Debug, Args)]
#[command(
    override_usage = "quoring get [OPTIONS] KEY\n       quoring get [OPTIONS] TABLE ROW COLUMN",
    after_help = "Exits with 4 where there is no such value.\n\n\
        Examples:\n  quoring get greeting\n  quoring get users alice photo > photo.png"
)]
pub(super) struct Get {
    /// KEY, or TABLE ROW COLUMN
    #[arg(value_name = "NAME", required = true, num_args = 1..=3)]
    names: Vec<String>,
    /// Let any replica answer, even one that is behind
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Get {
    pub(super) fn run(self) -> Result<(), Failure> {
        let key = key(&self.names)?;
        let client = self.connection.client()?;
        let got = block_on(async {
            Ok(if self.stale { client.get_stale(key).await? } else { client.get(key).await? })
        })?;
        write_out(&got.bytes)
    }
}

/// What a write says beside the value.
#[derive(Debug, Args)]
struct Beside {
    /// How long the value lives, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration_ms)]
    ttl: Option<u64>,
    /// The media type to store with it
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

impl Beside {
    fn options(self, condition: Option<Condition>) -> PutOptions {
        let Beside { ttl: ttl_ms, content_type } = self;
        PutOptions { content_type, ttl_ms, condition, idempotency_key: None }
    }
}

/// Write a value, whatever is there
#[derive(Debug, Args)]
#[command(
    override_usage = "quoring put [OPTIONS] KEY VALUE\n       quoring put [OPTIONS] TABLE ROW COLUMN VALUE",
    after_help = "VALUE - reads the value from stdin, whatever its bytes.\n\n\
        Examples:\n  quoring put greeting hello\n  quoring put users alice photo - < photo.png\n  \
        quoring put session x --ttl 30m"
)]
pub(super) struct Put {
    /// KEY VALUE, or TABLE ROW COLUMN VALUE
    #[arg(value_name = "WORD", required = true, num_args = 2..=4, allow_negative_numbers = true)]
    words: Vec<OsString>,
    #[command(flatten)]
    beside: Beside,
    #[command(flatten)]
    connection: Connection,
}

impl Put {
    pub(super) fn run(self) -> Result<(), Failure> {
        write(self.words, &self.beside.options(None), &self.connection)
    }
}

/// Write a value only where there is one already
#[derive(Debug, Args)]
#[command(
    override_usage = "quoring update [OPTIONS] KEY VALUE\n       quoring update [OPTIONS] TABLE ROW COLUMN VALUE",
    after_help = "VALUE - reads the value from stdin. Exits with 4 where there is no value to replace.\n\n\
        Example:\n  quoring update greeting 'good evening'"
)]
pub(super) struct Update {
    /// KEY VALUE, or TABLE ROW COLUMN VALUE
    #[arg(value_name = "WORD", required = true, num_args = 2..=4, allow_negative_numbers = true)]
    words: Vec<OsString>,
    #[command(flatten)]
    beside: Beside,
    #[command(flatten)]
    connection: Connection,
}

impl Update {
    pub(super) fn run(self) -> Result<(), Failure> {
        write(self.words, &self.beside.options(Some(Condition::Exists)), &self.connection)
    }
}

/// Remove a value
#[derive(Debug, Args)]
#[command(
    override_usage = "quoring delete [OPTIONS] KEY\n       quoring delete [OPTIONS] TABLE ROW COLUMN",
    after_help = "Exits with 4 where there was none.\n\n\
        Examples:\n  quoring delete greeting\n  quoring delete users alice photo"
)]
pub(super) struct Delete {
    /// KEY, or TABLE ROW COLUMN
    #[arg(value_name = "NAME", required = true, num_args = 1..=3)]
    names: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Delete {
    pub(super) fn run(self) -> Result<(), Failure> {
        let key = key(&self.names)?;
        let client = self.connection.client()?;
        block_on(async { Ok(client.delete(key).await?) })?;
        say("OK")
    }
}

/// List the keys, a line each; or the rows of a table, a line of JSON each
#[derive(Debug, Args)]
#[command(after_help = "Keys and rows come in ring order; with the ordered partitioner, by name.\n\n\
    Examples:\n  quoring list\n  quoring list --prefix user:\n  quoring list users | jq .row\n  quoring list --tables")]
pub(super) struct List {
    /// The table [default: the keys of put KEY]
    table: Option<String>,
    /// List the tables
    #[arg(long, conflicts_with_all = ["table", "prefix", "limit", "stale"])]
    tables: bool,
    /// Only names with this prefix
    #[arg(long)]
    prefix: Option<String>,
    /// The most lines [default: all]
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Let any replica answer, even one that is behind
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.connection.client()?;
        if self.tables {
            let tables = block_on(async { Ok(client.tables().await?) })?;
            return tables.iter().try_for_each(|table| say(table));
        }
        let options = ScanOptions { prefix: self.prefix, stale: self.stale, ..ScanOptions::default() };
        block_on(list(&client, self.table.as_deref(), options, self.limit.unwrap_or(u64::MAX)))
    }
}

/// Lists a table, or the keys, page by page.
pub(super) async fn list(
    client: &Client,
    table: Option<&str>,
    mut options: ScanOptions,
    limit: u64,
) -> Result<(), Failure> {
    let mut left = limit;
    while left > 0 {
        options.limit = Some(u32::try_from(left).unwrap_or(PAGE).min(PAGE));
        let (lines, next) = match table {
            None => {
                let page = client.keys(&options).await?;
                (page.keys.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), page.next)
            }
            Some(table) => {
                let page = client.rows(table, &options).await?;
                let json = |row| serde_json::to_string(row).expect("texts and numbers");
                (page.rows.iter().map(json).collect(), page.next)
            }
        };
        left = left.saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        lines.iter().try_for_each(|line| say(line))?;
        match next {
            Some(cursor) => options.cursor = Some(cursor),
            None => break,
        }
    }
    Ok(())
}

/// The cell that these names mean.
pub(super) fn key<T: AsRef<str>>(names: &[T]) -> Result<Key<'_>, Failure> {
    match names {
        [key] => Ok(Key::Flat(key.as_ref())),
        [table, row, column] => {
            Ok(Key::Cell { table: table.as_ref(), row: row.as_ref(), column: column.as_ref() })
        }
        _ => Err(Failure::Usage("a value is named by KEY, or by TABLE ROW COLUMN".to_owned())),
    }
}

fn write(mut words: Vec<OsString>, options: &PutOptions, connection: &Connection) -> Result<(), Failure> {
    let value = words.pop();
    let names = words.iter().map(|word| name(word)).collect::<Result<Vec<_>, _>>()?;
    let key = key(&names)?;
    let client = connection.client()?;
    let value = match value {
        Some(value) if value == "-" => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::Failed(format!("cannot read stdin: {error}")))?;
            bytes
        }
        value => value.unwrap_or_default().into_vec(),
    };
    block_on(put(&client, key, value.into(), options))?;
    say("OK")
}

/// Writes a value. Where it was to replace one and there is none, that is "not found".
pub(super) async fn put(
    client: &Client,
    key: Key<'_>,
    value: Bytes,
    options: &PutOptions,
) -> Result<(), Failure> {
    match client.put_with(key, value, options).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_precondition_failed() && error.current().is_none() => {
            Err(Failure::NotFound("there is no such value to update".to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

fn name(word: &OsStr) -> Result<&str, Failure> {
    word.to_str().ok_or_else(|| Failure::Usage(format!("{} is not UTF-8, as names are", word.display())))
}
