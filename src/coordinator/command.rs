//! What the coordinator group is asked to change. The encoding (postcard) is part of its log's
//! format: variants and fields are only appended (docs/FORMATS.md).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    config::Settings,
    ids::{ClusterId, Epoch, GroupId, NodeId, Opening, Position, StoreId, WorkerId},
    ring::map::{Coordinator, Shard},
};

/// A change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Founds the cluster: the first command of its life. A repeat changes nothing; any other
    /// founding is refused.
    Found {
        /// Its identity for ever.
        cluster: ClusterId,
        /// Its settings.
        settings: Settings,
        /// The coordinators. Their node numbers are the first ones given out.
        coordinators: BTreeMap<NodeId, Coordinator>,
    },
    /// A worker makes itself known as a real node, at its first start and after a change.
    Join {
        /// Its name.
        id: WorkerId,
        /// Its store.
        store: StoreId,
        /// `host:port`.
        addr: String,
        /// Where it stands.
        zone: Option<String>,
        /// The number that it was given earlier; none where it never heard of one.
        node: Option<NodeId>,
        /// Set by a leader that sees no sign of life of the worker that had this id with another
        /// store: then that one is retired.
        replace: bool,
        /// The opening of its store.
        opening: Opening,
    },
    /// An id that only pings.
    Ping {
        /// Its name.
        id: WorkerId,
        /// `host:port`.
        addr: String,
    },
    /// A plan: shards that change their replicas, or, where there are none yet, the first ones.
    Place {
        /// The epoch of the map that the plan was made from; refused where it is not the present one.
        epoch: Epoch,
        /// By the start of their arcs, as they are to be. New ones are [`Shard::UNNUMBERED`].
        shards: Vec<(Position, Shard)>,
    },
    /// These Raft groups are initialised.
    Formed {
        /// The shards.
        groups: Vec<GroupId>,
    },
    /// Sets or clears the wish that everything be moved off a worker.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// Which of the two.
        draining: bool,
    },
    /// Takes a worker, or an id that only pinged, out for good.
    Remove {
        /// The worker.
        worker: WorkerId,
    },
    /// A coordinator that has nothing yet becomes a member of the group, under a new number. Where
    /// its address is a member's, it takes that one's place.
    AddCoordinator {
        /// `host:port`.
        addr: String,
        /// Its store.
        store: StoreId,
        /// The members that this was judged by; refused where they are others.
        among: BTreeSet<NodeId>,
    },
    /// Takes a coordinator out of the group for good.
    RemoveCoordinator {
        /// Its number.
        node: NodeId,
        /// The members that this was judged by; refused where they are others.
        among: BTreeSet<NodeId>,
    },
    /// Gives the upper part of a shard's arc to a new shard on the same workers.
    Split {
        /// The epoch of the map that it was decided by; refused where it is not the present one.
        epoch: Epoch,
        /// The shard.
        group: GroupId,
        /// Where the new one begins.
        at: Position,
    },
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is so now.
    Done {
        /// The map's epoch.
        epoch: Epoch,
    },
    /// A worker, or a coordinator, is a node of the cluster.
    Joined {
        /// Its number.
        node: NodeId,
        /// The cluster it has joined.
        cluster: ClusterId,
        /// The map's epoch.
        epoch: Epoch,
    },
    /// Nothing has changed; the sentence says why and what to do.
    Refused(String),
    /// There is no such worker, coordinator or shard.
    Unknown(String),
    /// There is a new shard.
    Split {
        /// Its group.
        shard: GroupId,
        /// The map's epoch.
        epoch: Epoch,
    },
    /// The worker's directory went back to an earlier state; nothing has changed.
    Outgrown {
        /// The height that it was at before.
        height: u64,
    },
}
