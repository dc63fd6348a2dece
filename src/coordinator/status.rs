//! What `GET /cluster` shows, put together from the map and from what the coordinator's leader
//! has heard. Field names are the contract's (docs/API.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Epoch, GroupId, NodeId, Position, WorkerId};

/// The whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The epoch of the map.
    pub epoch: Epoch,
    /// The cluster's identity.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// The coordinator group.
    pub coordinators: Coordinators,
    /// All workers: joined, and those that have only pinged.
    pub workers: Vec<WorkerStatus>,
    /// The shards in ring order.
    pub shards: Vec<ShardStatus>,
    /// Moves under way.
    pub moves: Vec<Move>,
}

/// The coordinator group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinators {
    /// The node that leads it.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// `host:port` of each member.
    pub members: BTreeMap<NodeId, String>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub id: WorkerId,
    /// Its node number, once it has joined.
    pub node: Option<NodeId>,
    /// `host:port`.
    pub addr: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it was heard of within `inactive_after`.
    pub active: bool,
    /// Whether it is a real node, not only pinged for.
    pub joined: bool,
    /// Whether everything is being moved off it.
    pub draining: bool,
    /// When it was last heard of, RFC 3339, by the coordinator leader's clock.
    pub last_ping: Option<String>,
    /// How many shards it leads.
    pub leads: u32,
    /// How many shards it keeps a replica of.
    pub holds: u32,
    /// The arcs whose primary it is.
    pub ranges: Vec<Range>,
}

/// An arc `[start, end)`; an end of zero is the ring's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins.
    pub start: Position,
    /// The first position behind it.
    pub end: Position,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its Raft group.
    pub id: GroupId,
    /// Where its arc begins.
    pub start: Position,
    /// The first position behind it; zero is the ring's end.
    pub end: Position,
    /// The workers that should keep it, the primary first.
    pub replicas: Vec<WorkerId>,
    /// Who leads it, as far as known.
    pub leader: Option<WorkerId>,
    /// The leader's term.
    pub term: Option<u64>,
    /// The last committed index.
    pub commit: Option<u64>,
    /// The last index applied at the leader.
    pub applied: Option<u64>,
    /// The size of its data at the leader, bytes, estimated.
    pub bytes: Option<u64>,
}

/// A replica on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard.
    pub shard: GroupId,
    /// Workers that are to keep it and do not yet vote.
    pub adding: Vec<WorkerId>,
    /// Workers that still vote and are to leave it.
    pub removing: Vec<WorkerId>,
    /// Log entries that the slowest added replica is behind, where known.
    pub behind: Option<u64>,
}
