//! The map: which worker keeps which arc of the ring. Committed by the coordinator group, cached by
//! every node, and judged on its own by [`Map::check`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    config::Settings,
    ids::{ClusterId, Epoch, GroupId, NodeId, Position, StoreId, WorkerId},
};

/// The committed metadata of a cluster.
///
/// Invariants ([`Map::check`]):
/// - the shards' arcs cover the ring without gap or overlap, the first starting at 0 (or there are
///   no shards yet);
/// - a shard has at least one replica, each on a different, existing worker;
/// - a shard has no more than `settings.replication` replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Grows with every change.
    pub epoch: Epoch,
    /// The cluster this map belongs to.
    pub cluster: ClusterId,
    /// What the cluster was founded with.
    pub settings: Settings,
    /// The members of the coordinator group.
    pub coordinators: BTreeMap<NodeId, Coordinator>,
    /// The workers that have joined and were not removed.
    pub workers: BTreeMap<NodeId, Worker>,
    /// The shards, by the start of their arcs.
    pub shards: BTreeMap<Position, Shard>,
}

/// A member of the coordinator group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinator {
    /// `host:port`.
    pub addr: String,
    /// Its store: a coordinator that lost its disk is another one.
    pub store: StoreId,
}

/// A worker that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// `host:port`, as it told.
    pub addr: String,
    /// Its store.
    pub store: StoreId,
    /// Where it stands; replicas of a shard prefer distinct zones. Workers without one share none.
    pub zone: Option<String>,
    /// Everything is to be moved off it.
    pub draining: bool,
}

/// An arc `[start, end)` of the ring and the workers that keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its Raft group, for ever.
    pub group: GroupId,
    /// The workers that should keep it, the primary first.
    pub replicas: Vec<NodeId>,
    /// Whether its Raft group was initialised: that happens once, and never again.
    pub formed: bool,
}
