//! Requests about the cluster itself: to whichever coordinator leads.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{
    ActiveWorker, FIRST_PAUSE, LONGEST_PAUSE, Router,
    calls::{self, ClusterAnswer, ClusterCall},
};
use crate::{
    coordinator::status::Cluster,
    error::Error,
    ids::{GroupId, NodeId, Position, WorkerId},
    peer::Peer,
};

impl Router {
    /// Asks the coordinator that leads.
    pub async fn coordinate(&self, call: ClusterCall, deadline: Instant) -> Result<ClusterAnswer, Error> {
        let mut pause = FIRST_PAUSE;
        let mut last = Error::Unavailable("no coordinator answers".into());
        let mut turn = 0;
        while Instant::now() < deadline {
            match self.0.coordination.answer(call.clone(), deadline).await {
                Err(Error::NotLeader { leader: Some(leader) })
                    if leader.0 != self.0.me.load(Ordering::Relaxed) =>
                {
                    *self.0.coordinator.write() = Some(Peer::Node(leader));
                }
                Err(Error::NotLeader { .. }) => {}
                result => return result,
            }
            let hint = self.0.coordinator.read().clone();
            let peer = match hint {
                Some(peer) => peer,
                None => match self.nth_coordinator(turn) {
                    Some(peer) => peer,
                    None => break,
                },
            };
            turn += 1;
            match self.ask_coordinator(&peer, &call, deadline).await {
                Err(Error::NotLeader { leader: Some(leader) }) if Peer::Node(leader) != peer => {
                    *self.0.coordinator.write() = Some(Peer::Node(leader));
                    continue;
                }
                Err(error @ (Error::NotLeader { .. } | Error::Unavailable(_))) => {
                    *self.0.coordinator.write() = None;
                    if !matches!(error, Error::NotLeader { .. }) {
                        last = error;
                    }
                }
                result => {
                    *self.0.coordinator.write() = Some(peer);
                    return result;
                }
            }
            pause = rest(pause, deadline).await;
        }
        Err(last)
    }

    /// Asks one coordinator, whoever leads.
    pub async fn ask_coordinator(
        &self,
        peer: &Peer,
        call: &ClusterCall,
        deadline: Instant,
    ) -> Result<ClusterAnswer, Error> {
        let body = calls::cluster(deadline, call);
        let answer = self.call(peer, calls::method::CLUSTER, body, deadline).await?;
        calls::decode_cluster(&answer)
    }

    /// Registers or renews a worker that only pings.
    pub async fn ping(&self, id: WorkerId, addr: String, deadline: Instant) -> Result<(), Error> {
        self.coordinate(ClusterCall::Ping { id, addr }, deadline).await?.done()
    }

    /// The active workers, by id.
    pub async fn workers(&self, deadline: Instant) -> Result<Vec<ActiveWorker>, Error> {
        match self.coordinate(ClusterCall::Workers, deadline).await? {
            ClusterAnswer::Workers(workers) => Ok(workers),
            other => Err(other.unexpected()),
        }
    }

    /// The state of the whole cluster, as `GET /cluster` shows it.
    pub async fn cluster(&self, deadline: Instant) -> Result<Cluster, Error> {
        match self.coordinate(ClusterCall::Status, deadline).await? {
            ClusterAnswer::Status(cluster) => Ok(*cluster),
            other => Err(other.unexpected()),
        }
    }

    /// Sets or clears the wish that everything be moved off a worker.
    pub async fn drain(&self, id: WorkerId, draining: bool, deadline: Instant) -> Result<(), Error> {
        self.coordinate(ClusterCall::Drain { id, draining }, deadline).await?.done()
    }

    /// Takes a worker out for good.
    pub async fn remove(&self, id: WorkerId, deadline: Instant) -> Result<(), Error> {
        self.coordinate(ClusterCall::Remove { id }, deadline).await?.done()
    }

    /// Splits a shard, at the middle if it is not said where: the new shard and where it begins.
    pub async fn split(
        &self,
        group: GroupId,
        at: Option<Position>,
        deadline: Instant,
    ) -> Result<(GroupId, Position), Error> {
        match self.coordinate(ClusterCall::Split { group, at }, deadline).await? {
            ClusterAnswer::Split { shard, at } => Ok((shard, at)),
            other => Err(other.unexpected()),
        }
    }

    fn nth_coordinator(&self, turn: usize) -> Option<Peer> {
        let me = NodeId(self.0.me.load(Ordering::Relaxed));
        let mut peers: Vec<Peer> = match self.map() {
            Some(map) => map.coordinators.keys().filter(|id| **id != me).map(|id| Peer::Node(*id)).collect(),
            None => Vec::new(),
        };
        if peers.is_empty() {
            peers = self.0.seeds.read().clone();
        }
        (!peers.is_empty()).then(|| peers[turn % peers.len()].clone())
    }
}

/// Waits a little longer each time, never past the deadline.
async fn rest(pause: Duration, deadline: Instant) -> Duration {
    tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
    (pause * 2).min(LONGEST_PAUSE)
}
