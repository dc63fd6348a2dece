//! The calls of the API, typed: cells, rows, pages, and the state of the cluster.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method,
    header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Client, Error, IDEMPOTENCY_KEY, Key, Request, Response, text, url::Path};
use crate::{
    command::{Condition, Version},
    coordinator::status::{Cluster, Coordinators},
    error::Outcome,
    ids::{GroupId, NodeId, Position, WorkerId},
    units,
};

/// The header of a stale read that bounds its age.
const STALENESS: &str = "quoring-staleness-ms";

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The bytes.
    pub bytes: Bytes,
    /// Its version.
    pub version: Version,
    /// The `Content-Type` it was stored with.
    pub content_type: Option<String>,
    /// For stale reads, where known: an upper bound of its age.
    pub staleness_ms: Option<u64>,
}

/// A shard that was split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The shard.
    pub id: GroupId,
    /// The new one.
    pub into: GroupId,
    /// Where the new one begins.
    pub at: Position,
}

/// What a write may say beside the value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// The `Content-Type` to store with it.
    pub content_type: Option<String>,
    /// How long the value lives.
    pub ttl_ms: Option<u64>,
    /// What must hold of the cell; none: always.
    pub condition: Option<Condition>,
    /// Makes the write repeatable; the client then tries other servers too.
    pub idempotency_key: Option<String>,
}

/// Which rows or keys to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Only names with this prefix.
    pub prefix: Option<String>,
    /// Only names from this one on.
    pub from: Option<String>,
    /// Only names before this one.
    pub to: Option<String>,
    /// The most to return in one page, 1 to 10,000.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// Whether any replica may answer.
    pub stale: bool,
}

impl ScanOptions {
    fn parameters(&self) -> [(&'static str, Option<String>); 6] {
        [
            ("prefix", self.prefix.clone()),
            ("from", self.from.clone()),
            ("to", self.to.clone()),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor.clone()),
            consistency(self.stale),
        ]
    }
}

fn consistency(stale: bool) -> (&'static str, Option<String>) {
    ("consistency", stale.then(|| "stale".to_owned()))
}

/// A row, as `GET /data/{table}/{row}` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub row: String,
    /// Its columns.
    pub columns: BTreeMap<String, Column>,
}

/// A column of a [`Row`]: `value` where it is text, else `base64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The value, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value in base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Its version.
    pub version: Version,
    /// The `Content-Type` it was stored with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// When it expires, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rows {
    /// The rows.
    pub rows: Vec<Row>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// A page of flat keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Keys {
    /// The keys.
    pub keys: Vec<KeyEntry>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// A flat key in a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key.
    pub key: String,
    /// Its version.
    pub version: Version,
}

/// Where a row lies, as `GET /ring` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Located {
    /// Its position.
    pub position: Position,
    /// Its shard.
    pub shard: GroupId,
    /// Who leads the shard.
    pub leader: Option<WorkerId>,
    /// Who keeps it, the primary first.
    pub replicas: Vec<WorkerId>,
}

/// What became of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seated {
    /// Its number.
    pub node: NodeId,
    /// `host:port`.
    pub addr: String,
    /// The member with a lost directory whose place it takes.
    pub replaces: Option<NodeId>,
    /// Whether the group's members have changed already; else they are about to.
    pub done: bool,
}

#[derive(Deserialize)]
struct Tables {
    tables: Vec<String>,
}

fn header(name: &'static str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::from_str(value).ok().map(|value| (HeaderName::from_static(name), value))
}

/// The headers by which a condition is told; a list of versions becomes a list of tags.
fn condition_header(condition: &Condition) -> Option<(HeaderName, HeaderValue)> {
    let tags = |versions: &[Version]| {
        let tags: Vec<_> = versions.iter().map(|version| format!("\"{version}\"")).collect();
        HeaderValue::from_str(&tags.join(", ")).expect("quotes, digits, commas and spaces")
    };
    match condition {
        Condition::Always => None,
        Condition::Exists => Some((IF_MATCH, HeaderValue::from_static("*"))),
        Condition::Absent => Some((IF_NONE_MATCH, HeaderValue::from_static("*"))),
        Condition::VersionIn(versions) => Some((IF_MATCH, tags(versions))),
        Condition::VersionNotIn(versions) => Some((IF_NONE_MATCH, tags(versions))),
    }
}

impl Client {
    async fn json<T: DeserializeOwned>(&self, path: Path) -> Result<T, Error> {
        let response = self.send(Request::new(Method::GET, path.finish())).await?;
        serde_json::from_slice(&response.body)
            .map_err(|error| Error::misunderstood(self.server(), error, Outcome::None))
    }

    async fn order(&self, method: Method, path: Path) -> Result<(), Error> {
        self.send(Request::new(method, path.finish())).await.map(drop)
    }

    async fn seated(&self, method: Method, path: Path) -> Result<Seated, Error> {
        let response = self.send(Request::new(method, path.finish())).await?;
        serde_json::from_slice(&response.body)
            .map_err(|error| Error::misunderstood(self.server(), error, Outcome::Unknown))
    }

    fn written(&self, response: &Response) -> Result<Version, Error> {
        let version = response.version();
        version
            .ok_or_else(|| Error::misunderstood(self.server(), "a write without an ETag", Outcome::Unknown))
    }

    /// Reads a cell; one that is not there is an error, see [`Error::is_not_found`].
    pub async fn get(&self, key: Key<'_>) -> Result<Got, Error> {
        self.read(Request::new(Method::GET, key.path())).await
    }

    /// Reads a cell from any of its replicas.
    pub async fn get_stale(&self, key: Key<'_>) -> Result<Got, Error> {
        self.read(Request::new(Method::GET, key.path_with(&[consistency(true)]))).await
    }

    async fn read(&self, request: Request) -> Result<Got, Error> {
        let response = self.send(request).await?;
        let version = response
            .version()
            .ok_or_else(|| Error::misunderstood(self.server(), "a value without an ETag", Outcome::None))?;
        let content_type = text(response.headers.get(CONTENT_TYPE));
        let staleness_ms = text(response.headers.get(STALENESS)).and_then(|ms| ms.parse().ok());
        Ok(Got { bytes: response.body, version, content_type, staleness_ms })
    }

    /// Writes a cell, whatever is there, and returns its version.
    pub async fn put(&self, key: Key<'_>, value: Bytes) -> Result<Version, Error> {
        let mut request = Request::new(Method::PUT, key.path());
        request.body = value;
        self.written(&self.send(request).await?)
    }

    /// Writes a cell with all that can be said beside the value, and returns its version.
    pub async fn put_with(&self, key: Key<'_>, value: Bytes, options: &PutOptions) -> Result<Version, Error> {
        let ttl = ("ttl", options.ttl_ms.map(units::format_duration_ms));
        let mut request = Request::new(Method::PUT, key.path_with(&[ttl]));
        request.body = value;
        for (name, value) in
            [("content-type", &options.content_type), (IDEMPOTENCY_KEY, &options.idempotency_key)]
        {
            let Some(value) = value else { continue };
            let Some((name, value)) = header(name, value) else {
                return Err(Error::unsendable(self.server(), name));
            };
            request.headers.insert(name, value);
        }
        request.headers.extend(options.condition.as_ref().and_then(condition_header));
        self.written(&self.send(request).await?)
    }

    /// Writes a cell only if it exists, and returns its version; else the error is
    /// [`Error::is_precondition_failed`].
    pub async fn update(&self, key: Key<'_>, value: Bytes) -> Result<Version, Error> {
        let options = PutOptions { condition: Some(Condition::Exists), ..PutOptions::default() };
        self.put_with(key, value, &options).await
    }

    /// Removes a cell; one that is not there is an error, see [`Error::is_not_found`].
    pub async fn delete(&self, key: Key<'_>) -> Result<(), Error> {
        self.send(Request::new(Method::DELETE, key.path())).await.map(drop)
    }

    /// All columns of a row.
    pub async fn row(&self, table: &str, row: &str) -> Result<Row, Error> {
        self.json(Path::new().segment("data").segment(table).segment(row)).await
    }

    /// A page of a table.
    pub async fn rows(&self, table: &str, options: &ScanOptions) -> Result<Rows, Error> {
        self.json(Path::new().segment("data").segment(table).query(&options.parameters())).await
    }

    /// A page of flat keys.
    pub async fn keys(&self, options: &ScanOptions) -> Result<Keys, Error> {
        self.json(Path::new().segment("kv").query(&options.parameters())).await
    }

    /// The tables.
    pub async fn tables(&self) -> Result<Vec<String>, Error> {
        self.json::<Tables>(Path::new().segment("data")).await.map(|tables| tables.tables)
    }

    /// The state of the whole cluster.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        self.json(Path::new().segment("cluster")).await
    }

    /// Where a row lies.
    pub async fn locate(&self, row: &str) -> Result<Located, Error> {
        self.json(Path::new().segment("ring").query(&[("row", Some(row.to_owned()))])).await
    }

    /// Asks the unjoined worker at `host:port` to join the cluster of the server.
    pub async fn join(&self, addr: &str) -> Result<(), Error> {
        let path = Path::new().segment("cluster").segment("join");
        self.order(Method::POST, path.query(&[("addr", Some(addr.to_owned()))])).await
    }

    /// Has everything moved off a worker, or takes that wish back.
    pub async fn drain(&self, id: &WorkerId, draining: bool) -> Result<(), Error> {
        let path = Path::new().segment("cluster").segment("workers").segment(id.as_str()).segment("drain");
        self.order(if draining { Method::POST } else { Method::DELETE }, path).await
    }

    /// Makes two shards of one, at the middle if it is not said where; the new one, and where it begins.
    pub async fn split(&self, shard: GroupId, at: Option<Position>) -> Result<Split, Error> {
        let path = Path::new().segment("cluster").segment("shards").segment(&shard.to_string());
        let path = path.segment("split").query(&[("at", at.map(|at| at.to_string()))]);
        let response = self.send(Request::new(Method::POST, path.finish())).await?;
        serde_json::from_slice(&response.body)
            .map_err(|error| Error::misunderstood(self.server(), error, Outcome::Unknown))
    }

    /// Takes a worker out for good.
    pub async fn remove(&self, id: &WorkerId) -> Result<(), Error> {
        self.order(Method::DELETE, Path::new().segment("cluster").segment("workers").segment(id.as_str()))
            .await
    }

    /// The coordinator group.
    pub async fn coordinators(&self) -> Result<Coordinators, Error> {
        self.json(Path::new().segment("cluster").segment("coordinators")).await
    }

    /// Brings the running, empty coordinator at `host:port` into the group.
    pub async fn add_coordinator(&self, addr: &str) -> Result<Seated, Error> {
        let path = Path::new().segment("cluster").segment("coordinators");
        self.seated(Method::POST, path.query(&[("addr", Some(addr.to_owned()))])).await
    }

    /// Takes a coordinator, by its number or its `host:port`, out of the group for good.
    pub async fn remove_coordinator(&self, which: &str) -> Result<Seated, Error> {
        self.seated(Method::DELETE, Path::new().segment("cluster").segment("coordinators").segment(which))
            .await
    }

    /// Whether the server's process answers.
    pub async fn healthy(&self) -> Result<(), Error> {
        self.order(Method::GET, Path::new().segment("healthz")).await
    }

    /// Whether the server can serve.
    pub async fn ready(&self) -> Result<(), Error> {
        self.order(Method::GET, Path::new().segment("readyz")).await
    }
}
