//! What the coordinator's leader has heard, as plain data: the input of plans and of the status.
//! Not replicated; a new leader starts with nothing heard, and nothing is done for that alone.

use std::collections::BTreeMap;

use super::seats::Seats;
use crate::{
    command::At,
    ids::{GroupId, NodeId, Span, WorkerId},
};

/// All that was heard of workers and shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The joined workers. One that is missing here has not been heard of since this leader
    /// watches: nothing is taken from it, and nothing is given to it.
    pub workers: BTreeMap<NodeId, WorkerSeen>,
    /// The shards, as their leaders report them.
    pub shards: BTreeMap<GroupId, ShardSeen>,
    /// The ids that only ping.
    pub pinged: BTreeMap<WorkerId, Heartbeat>,
    /// How long the first active worker has waited, as far as this leader knows, milliseconds.
    pub first_worker_waited_ms: u64,
    /// The node that leads the coordinator group.
    pub coordinator_leader: Option<NodeId>,
    /// Its term.
    pub coordinator_term: u64,
    /// The members of the coordinator group, as its leader sees them.
    pub seats: Seats,
    /// Log entries that the slowest coordinator being added is behind.
    pub seats_behind: Option<u64>,
}

/// What was heard of a joined worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Whether it was heard of within `inactive_after`.
    pub active: bool,
    /// How long it has been silent, milliseconds; since this leader watches, where it never heard it.
    pub silent_for_ms: u64,
    /// When it was last heard of, by this leader's clock.
    pub last_ping: Option<At>,
    /// By how much its clock is off, where that is too much, milliseconds.
    pub clock_off_ms: Option<i64>,
    /// Whether its disk does not finish its syncs, or it is about to stop, as it says itself.
    pub limps: bool,
}

/// What was heard of an id that only pings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whether it was heard of within `inactive_after`.
    pub active: bool,
    /// When it was last heard of, by this leader's clock.
    pub last_ping: Option<At>,
}

/// What the newest report about a shard says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardSeen {
    /// Who leads it; `None` where its replicas report that nobody does.
    pub leader: Option<NodeId>,
    /// The leader's term.
    pub term: u64,
    /// The members that vote, of both halves of a joint configuration, each once.
    pub voters: Vec<NodeId>,
    /// The members that only follow.
    pub learners: Vec<NodeId>,
    /// The last committed index.
    pub commit: Option<u64>,
    /// The last index applied at the leader.
    pub applied: Option<u64>,
    /// The size of its data at the leader, bytes, estimated.
    pub bytes: Option<u64>,
    /// The arc that this is the size of; `None` where the shard was never split.
    pub arc: Option<Span>,
    /// Log entries that the slowest member being added is behind.
    pub behind: Option<u64>,
}
