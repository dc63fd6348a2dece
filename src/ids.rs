//! Identities: small types, so that a shard's number can never be passed where a node's belongs.
//!
//! Not here: how an identity is given out (`coordinator::machine`) or stored (`raft_store::meta`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A Raft node number. Given out by the coordinator group once per (worker id, store) and never
/// used twice, so that a worker whose disk was lost cannot vote again under its old number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Raft group: [`GroupId::COORDINATOR`], or a shard. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group of the coordinators, which keeps the map.
    pub const COORDINATOR: GroupId = GroupId(0);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a version of the map; grows with every change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster, from its founding to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A directory on a disk, made once: another disk, or the same one emptied, is another store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One opening of a store, of which there is one in the life of a process. Heights only rise on a disk
/// that keeps what was synced, so of two openings of one store the later one is the higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opening {
    /// Drawn anew each time: two openings differ, also of two copies of one directory.
    pub id: u64,
    /// The height of the store right after it.
    pub height: u64,
}

impl Opening {
    /// Whether the directory went back to an earlier state between `earlier` and this opening.
    pub fn goes_back_behind(&self, earlier: &Opening) -> bool {
        self.id != earlier.id && self.height <= earlier.height
    }
}

/// A place on the ring of 2^64 positions; shown and read as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position of the ring is 16 hex digits, such as 8000000000000000")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parsed = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        parsed.map(Position).ok_or(InvalidPosition)
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(Position);
        }
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Position).map_err(serde::de::Error::custom)
    }
}

/// An arc `[start, end)` of the ring; an end of zero is the ring's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Where it begins.
    pub start: Position,
    /// The first position behind it.
    pub end: Position,
}

impl Span {
    /// The whole ring.
    pub const RING: Span = Span { start: Position(0), end: Position(0) };

    /// Whether a position lies in it.
    pub fn contains(&self, position: Position) -> bool {
        self.start <= position && self.is_before_end(position)
    }

    /// Whether all of another arc lies in it.
    pub fn covers(&self, other: &Span) -> bool {
        self.contains(other.start) && self.last() >= other.last()
    }

    /// Whether a position lies before its end.
    pub fn is_before_end(&self, position: Position) -> bool {
        position <= self.last()
    }

    /// The first position of its upper half; for an arc of one position, that.
    pub fn middle(&self) -> Position {
        let half = self.last().0.wrapping_sub(self.start.0) / 2 + u64::from(self.start != self.last());
        Position(self.start.0.wrapping_add(half))
    }

    /// Its last position.
    pub fn last(&self) -> Position {
        Position(self.end.0.wrapping_sub(1))
    }
}

/// A worker's name: the content of the file `id` in its directory, 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    /// The longest allowed worker id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no worker id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a worker id is 1 to {max} characters of A-Z a-z 0-9 . _ -", max = WorkerId::MAX_LEN)]
pub struct InvalidWorkerId;

impl FromStr for WorkerId {
    type Err = InvalidWorkerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for WorkerId {
    type Error = InvalidWorkerId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(InvalidWorkerId)
        }
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}
