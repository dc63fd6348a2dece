//! `cluster.toml` as it was typed: which keys are there, of which type, on which line. Nothing is
//! filled in and no value is judged here; `resolve` does both.

use std::fmt;

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

/// The one line that tells what is wrong with a `cluster.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file, as the user named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key, such as `cluster.replication`; empty where the file is no TOML.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<T> {
    /// What was typed.
    pub value: T,
    /// The key's full name.
    pub key: &'static str,
    /// The value's line, from 1.
    pub line: usize,
}

/// All of a `cluster.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// The section `[cluster]`.
    pub cluster: Cluster,
    /// Each `[[coordinator]]`.
    pub coordinators: Vec<Node>,
    /// Each `[[worker]]`.
    pub workers: Vec<Node>,
}

/// The section `[cluster]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `name`
    pub name: Option<Field<String>>,
    /// `replication`
    pub replication: Option<Field<i64>>,
    /// `shards`
    pub shards: Option<Field<i64>>,
    /// `partitioner`
    pub partitioner: Option<Field<String>>,
    /// `data_dir`
    pub data_dir: Option<Field<String>>,
    /// `ping_interval`
    pub ping_interval: Option<Field<String>>,
    /// `inactive_after`
    pub inactive_after: Option<Field<String>>,
    /// `replace_after`
    pub replace_after: Option<Field<String>>,
    /// `request_timeout`
    pub request_timeout: Option<Field<String>>,
    /// `max_value`
    pub max_value: Option<Field<String>>,
    /// `split_size`
    pub split_size: Option<Field<String>>,
    /// `cache`
    pub cache: Option<Field<String>>,
    /// `memtables`
    pub memtables: Option<Field<String>>,
    /// `queues`
    pub queues: Option<Field<String>>,
}

/// A `[[coordinator]]` or `[[worker]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The line of its header.
    pub line: usize,
    /// `port`
    pub port: Option<Field<i64>>,
    /// `zone`; coordinators have none.
    pub zone: Option<Field<String>>,
}

/// Reads what was typed. `name` is the file's name, for errors.
pub fn parse(name: &str, text: &str) -> Result<File, Error> {
    let source = Source { name, text };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        // The parser's messages may have several lines; ours have one.
        let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        source.error(at, "", format!("not valid TOML: {message}"))
    })?;
    let mut file = File::default();
    for entry in source.entries("", document.get_ref()) {
        match entry.name {
            "cluster" => file.cluster = cluster(source, entry.table("[cluster]")?)?,
            "coordinator" => file.coordinators = nodes(source, "coordinator", &entry)?,
            "worker" => file.workers = nodes(source, "worker", &entry)?,
            _ => return Err(entry.unknown("the sections are [cluster], [[coordinator]] and [[worker]]")),
        }
    }
    Ok(file)
}

fn cluster(source: Source<'_>, table: &DeTable<'_>) -> Result<Cluster, Error> {
    let mut cluster = Cluster::default();
    for entry in source.entries("cluster.", table) {
        match entry.name {
            "name" => cluster.name = Some(entry.text("cluster.name")?),
            "replication" => cluster.replication = Some(entry.integer("cluster.replication")?),
            "shards" => cluster.shards = Some(entry.integer("cluster.shards")?),
            "partitioner" => cluster.partitioner = Some(entry.text("cluster.partitioner")?),
            "data_dir" => cluster.data_dir = Some(entry.text("cluster.data_dir")?),
            "ping_interval" => cluster.ping_interval = Some(entry.text("cluster.ping_interval")?),
            "inactive_after" => cluster.inactive_after = Some(entry.text("cluster.inactive_after")?),
            "replace_after" => cluster.replace_after = Some(entry.text("cluster.replace_after")?),
            "request_timeout" => cluster.request_timeout = Some(entry.text("cluster.request_timeout")?),
            "max_value" => cluster.max_value = Some(entry.text("cluster.max_value")?),
            "split_size" => cluster.split_size = Some(entry.text("cluster.split_size")?),
            "cache" => cluster.cache = Some(entry.text("cluster.cache")?),
            "memtables" => cluster.memtables = Some(entry.text("cluster.memtables")?),
            "queues" => cluster.queues = Some(entry.text("cluster.queues")?),
            _ => {
                return Err(entry.unknown(
                    "[cluster] knows name, replication, shards, partitioner, data_dir, ping_interval, \
                     inactive_after, replace_after, request_timeout, max_value, split_size, cache, memtables \
                     and queues",
                ));
            }
        }
    }
    Ok(cluster)
}

fn nodes(source: Source<'_>, role: &'static str, entry: &Entry<'_>) -> Result<Vec<Node>, Error> {
    let mut nodes = Vec::new();
    let (port, zone, prefix) = match role {
        "coordinator" => ("coordinator.port", None, "coordinator."),
        _ => ("worker.port", Some("worker.zone"), "worker."),
    };
    for table in entry.tables(role)? {
        let mut node = Node { line: source.line(table.span().start), port: None, zone: None };
        let DeValue::Table(fields) = table.get_ref() else {
            return Err(source.error(table.span().start, role, format!("must be a section [[{role}]]")));
        };
        for entry in source.entries(prefix, fields) {
            match (entry.name, zone) {
                ("port", _) => node.port = Some(entry.integer(port)?),
                ("zone", Some(zone)) => node.zone = Some(entry.text(zone)?),
                (_, Some(_)) => return Err(entry.unknown("[[worker]] knows port and zone")),
                (_, None) => return Err(entry.unknown("[[coordinator]] knows port")),
            }
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// The file, to turn byte offsets into lines.
#[derive(Clone, Copy)]
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn error(&self, offset: usize, key: &str, message: String) -> Error {
        Error { file: self.name.to_owned(), line: self.line(offset), key: key.to_owned(), message }
    }

    /// The entries of a table in the order of the file, so that the first mistake is the one told.
    fn entries(self, prefix: &'static str, table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| Entry {
                source: self,
                prefix,
                name: key.get_ref(),
                at: key.span().start,
                value,
            })
            .collect();
        entries.sort_by_key(|entry| entry.at);
        entries
    }
}

/// A key and its value.
struct Entry<'a> {
    source: Source<'a>,
    prefix: &'static str,
    name: &'a str,
    at: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Entry<'a> {
    fn error(&self, message: String) -> Error {
        self.source.error(self.at, &format!("{}{}", self.prefix, self.name), message)
    }

    fn unknown(&self, known: &str) -> Error {
        self.error(format!("unknown key; {known}"))
    }

    fn expected(&self, what: &str) -> Error {
        self.error(format!("must be {what}, is {}", an(self.value.get_ref().type_str())))
    }

    fn field<T>(&self, key: &'static str, value: T) -> Field<T> {
        Field { value, key, line: self.source.line(self.value.span().start) }
    }

    fn text(&self, key: &'static str) -> Result<Field<String>, Error> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(self.field(key, text.clone().into_owned())),
            _ => Err(self.expected("a text in quotes")),
        }
    }

    fn integer(&self, key: &'static str) -> Result<Field<i64>, Error> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return Err(self.expected("an integer"));
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Ok(self.field(key, value)),
            Err(_) => Err(self.error(format!("{} is out of range", number.as_str()))),
        }
    }

    fn table(&self, what: &str) -> Result<&'a DeTable<'a>, Error> {
        match self.value.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.error(format!("must be a section {what}"))),
        }
    }

    fn tables(&self, role: &str) -> Result<&'a DeArray<'a>, Error> {
        match self.value.get_ref() {
            DeValue::Array(tables) => Ok(tables),
            _ => Err(self.error(format!("must be a section in double brackets: [[{role}]]"))),
        }
    }
}

fn an(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}
