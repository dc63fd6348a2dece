//! The coordinator group's state as small records, so that a command rewrites what it touched and
//! nothing else.
//!
//! ```text
//! 01                       header: cluster, settings, coordinators, epoch, counters
//! 02 node                  a worker
//! 03 start                 a shard
//! 04 id                    an id that only pings
//! 05 node                  the name of a worker that was taken out
//! 06 node                  the last opening of a worker's store
//! ```
//!
//! Numbers are big-endian, a store is the 16 bytes of its UUID. Each value is a format byte and
//! postcard (docs/FORMATS.md).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::machine::State;
use crate::{
    config::Settings,
    ids::{ClusterId, Epoch, NodeId, Position, WorkerId},
    ring::map::{Coordinator, Map},
};

const FORMAT: u8 = 1;
const HEADER: u8 = 1;
const WORKER: u8 = 2;
const SHARD: u8 = 3;
const PINGED: u8 = 4;
const REMOVED: u8 = 5;
const OPENING: u8 = 6;

/// The name of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// The cluster's identity, settings, coordinators, epoch and counters.
    Header,
    /// A worker.
    Worker(NodeId),
    /// A shard, by the start of its arc.
    Shard(Position),
    /// An id that only pings.
    Pinged(WorkerId),
    /// The name of a worker that was taken out.
    Removed(NodeId),
    /// The last opening of a worker's store.
    Opening(NodeId),
}

/// The records that a command changed, added or removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed(BTreeSet<Record>);

impl Changed {
    pub(super) fn add(&mut self, record: Record) {
        self.0.insert(record);
    }

    /// Joins what another command changed to this.
    pub fn merge(&mut self, other: Changed) {
        self.0.extend(other.0);
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the map changed, and with it its epoch.
    pub fn map_changed(&self) -> bool {
        self.0.contains(&Record::Header)
    }

    /// The records, in the order of their keys but for names.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.0.iter()
    }
}

/// What is stored cannot be read: the node must not go on with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinators' records cannot be read: {0}")]
pub struct Unreadable(String);

#[derive(Serialize, Deserialize)]
struct Header {
    cluster: ClusterId,
    settings: Settings,
    coordinators: BTreeMap<NodeId, Coordinator>,
    epoch: Epoch,
    next_node: u64,
    next_group: u64,
}

impl Record {
    /// Its key.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Record::Header => vec![HEADER],
            Record::Worker(node) => join(WORKER, &node.0.to_be_bytes(), &[]),
            Record::Shard(start) => join(SHARD, &start.0.to_be_bytes(), &[]),
            Record::Pinged(id) => join(PINGED, id.as_str().as_bytes(), &[]),
            Record::Removed(node) => join(REMOVED, &node.0.to_be_bytes(), &[]),
            Record::Opening(node) => join(OPENING, &node.0.to_be_bytes(), &[]),
        }
    }

    fn read(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let number = || Some(u64::from_be_bytes(rest.try_into().ok()?));
        let id = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
        Some(match *kind {
            HEADER if rest.is_empty() => Record::Header,
            WORKER => Record::Worker(NodeId(number()?)),
            SHARD => Record::Shard(Position(number()?)),
            PINGED => Record::Pinged(id(rest)?),
            REMOVED => Record::Removed(NodeId(number()?)),
            OPENING => Record::Opening(NodeId(number()?)),
            _ => return None,
        })
    }
}

impl State {
    /// The key of a record and its value, `None` where there is none any more.
    pub fn write(&self, record: &Record) -> (Vec<u8>, Option<Vec<u8>>) {
        let map = self.map.as_ref();
        let value = match record {
            Record::Header => map.map(|map| {
                encode(&Header {
                    cluster: map.cluster,
                    settings: map.settings.clone(),
                    coordinators: map.coordinators.clone(),
                    epoch: map.epoch,
                    next_node: self.next_node,
                    next_group: self.next_group,
                })
            }),
            Record::Worker(node) => map.and_then(|map| map.workers.get(node)).map(encode),
            Record::Shard(start) => map.and_then(|map| map.shards.get(start)).map(encode),
            Record::Pinged(id) => self.pinged.get(id).map(encode),
            Record::Removed(node) => self.removed.get(node).map(encode),
            Record::Opening(node) => self.openings.get(node).map(encode),
        };
        (record.key(), value)
    }

    /// The keys and values of all records that there are, for a snapshot.
    pub fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let map = self.map.iter();
        let map = map.flat_map(|map| {
            let workers = map.workers.keys().map(|node| Record::Worker(*node));
            let shards = map.shards.keys().map(|start| Record::Shard(*start));
            std::iter::once(Record::Header).chain(workers).chain(shards)
        });
        let pinged = self.pinged.keys().map(|id| Record::Pinged(id.clone()));
        let removed = self.removed.keys().map(|node| Record::Removed(*node));
        let openings = self.openings.keys().map(|node| Record::Opening(*node));
        map.chain(pinged).chain(removed).chain(openings).filter_map(|record| {
            let (key, value) = self.write(&record);
            value.map(|value| (key, value))
        })
    }

    /// The state that these records are, in any order.
    pub fn from_records<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Unreadable> {
        let mut state = State::default();
        let (mut workers, mut shards) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in records {
            let (key, value) = (key.as_ref(), value.as_ref());
            match Record::read(key) {
                Some(Record::Header) => {
                    let header: Header = decode(value)?;
                    state.next_node = header.next_node;
                    state.next_group = header.next_group;
                    let mut map = Map::founded(header.cluster, header.settings, header.coordinators);
                    map.epoch = header.epoch;
                    state.map = Some(map);
                }
                Some(Record::Worker(node)) => {
                    workers.insert(node, decode(value)?);
                }
                Some(Record::Shard(start)) => {
                    shards.insert(start, decode(value)?);
                }
                Some(Record::Pinged(id)) => {
                    state.pinged.insert(id, decode(value)?);
                }
                Some(Record::Removed(node)) => {
                    state.removed.insert(node, decode(value)?);
                }
                Some(Record::Opening(node)) => {
                    state.openings.insert(node, decode(value)?);
                }
                None => return Err(Unreadable(format!("a key of {} bytes is none of ours", key.len()))),
            }
        }
        match &mut state.map {
            Some(map) => (map.workers, map.shards) = (workers, shards),
            None if workers.is_empty() && shards.is_empty() => {}
            None => return Err(Unreadable("the header is missing".to_owned())),
        }
        if let Some(map) = &state.map {
            map.check().map_err(Unreadable)?;
            state.by_id = map.workers.iter().map(|(node, worker)| (worker.id.clone(), *node)).collect();
            state.by_group = map.shards.iter().map(|(start, shard)| (shard.group, *start)).collect();
        }
        Ok(state)
    }
}

fn join(kind: u8, first: &[u8], second: &[u8]) -> Vec<u8> {
    [&[kind], first, second].concat()
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT])
        .expect("a Vec takes any number of bytes, and all lengths in the records are known")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|e| Unreadable(e.to_string())),
        _ => Err(Unreadable(format!("a record is not of format {FORMAT}: a newer version wrote it"))),
    }
}
