//! The way of a client's request from any node to whoever can answer it: row → position → shard →
//! leader, with a cached map, leader hints and bounded retries of what cannot have happened.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    command::{Answer, Command, Query, Reply},
    error::Error,
    ids::{GroupId, NodeId, Position, WorkerId},
    ring::map::Map,
};

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It reflects every write acknowledged before the request came.
    Linearizable,
    /// Any replica may answer from what it has.
    Stale,
}

/// Where a query goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// To the shard of a row.
    Row(&'a str),
    /// To a shard by its number (scans, lists of tables).
    Group(GroupId),
}

/// An answer and how old it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The answer.
    pub answer: Answer,
    /// For stale reads, where known: an upper bound of the answer's age in milliseconds.
    pub staleness_ms: Option<u64>,
}

/// Where a row lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its position on the ring.
    pub position: Position,
    /// The shard.
    pub group: GroupId,
    /// The worker believed to lead it.
    pub leader: Option<NodeId>,
    /// The workers that keep it, the primary first.
    pub replicas: Vec<NodeId>,
}

/// An active worker, as `/workers` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveWorker {
    /// Its name.
    pub id: WorkerId,
    /// `host:port`.
    pub addr: String,
}

/// Routes requests; cheap to clone.
#[derive(Clone)]
pub struct Router {}

#[allow(unused_variables, clippy::todo, clippy::unused_async, missing_docs)]
impl Router {
    /// Proposes `command` to the shard of its first write's row (the caller makes sure that all of
    /// its rows lie in one shard, see [`Router::locate`]).
    pub async fn write(&self, command: Command, deadline: Instant) -> Result<Reply, Error> {
        todo!()
    }

    /// Asks one shard.
    pub async fn query(
        &self,
        target: Target<'_>,
        query: Query,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Served, Error> {
        todo!()
    }

    /// Whether any shard has a cell in this table, asked of any replica.
    pub async fn table_exists(&self, table: &str, deadline: Instant) -> Result<bool, Error> {
        todo!()
    }

    /// Registers or renews a worker that only pings.
    pub async fn ping(&self, id: WorkerId, addr: String, deadline: Instant) -> Result<(), Error> {
        todo!()
    }

    /// The active workers, by id.
    pub async fn workers(&self, deadline: Instant) -> Result<Vec<ActiveWorker>, Error> {
        todo!()
    }

    /// The state of the whole cluster, as `GET /cluster` shows it.
    pub async fn cluster(&self, deadline: Instant) -> Result<crate::coordinator::status::Cluster, Error> {
        todo!()
    }

    /// Sets or clears the wish that everything be moved off a worker.
    pub async fn drain(&self, id: WorkerId, draining: bool, deadline: Instant) -> Result<(), Error> {
        todo!()
    }

    /// Takes a worker out for good.
    pub async fn remove(&self, id: WorkerId, deadline: Instant) -> Result<(), Error> {
        todo!()
    }

    /// Where a row lives, by this node's map; `None` before the cluster has shards.
    pub fn locate(&self, row: &str) -> Option<Located> {
        todo!()
    }

    /// This node's copy of the map; `None` before it has one.
    pub fn map(&self) -> Option<Arc<Map>> {
        todo!()
    }
}
