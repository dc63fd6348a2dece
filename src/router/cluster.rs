//! Requests about the cluster itself: to whichever coordinator leads.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{
    ActiveWorker, FIRST_PAUSE, LONGEST_PAUSE, Router,
    calls::{self, ClusterAnswer, ClusterCall, Seat},
};
use crate::{
    coordinator::status::{Cluster, Coordinators},
    error::Error,
    ids::{GroupId, NodeId, Position, WorkerId},
    peer::{CallError, Lane, Peer},
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

    /// Asks whoever listens at an address and is to join this cluster. One that does not talk to this
    /// node, as it belongs to another cluster, is refused: that will not change by asking again.
    pub async fn ask_newcomer(
        &self,
        addr: String,
        call: &ClusterCall,
        deadline: Instant,
    ) -> Result<ClusterAnswer, Error> {
        let peer = Peer::Addr(addr);
        if let Err(CallError::Refused(why)) = self.0.links.connection(&peer, Lane::Main, deadline).await {
            return Err(Error::Refused(why));
        }
        self.ask_coordinator(&peer, call, deadline).await
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

    /// The state of the coordinator group.
    pub async fn coordinators(&self, deadline: Instant) -> Result<Coordinators, Error> {
        match self.coordinate(ClusterCall::Coordinators, deadline).await? {
            ClusterAnswer::Coordinators(coordinators) => Ok(coordinators),
            other => Err(other.unexpected()),
        }
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

    /// Brings the running, empty coordinator at `addr` into the group.
    pub async fn add_coordinator(&self, addr: String, deadline: Instant) -> Result<Seat, Error> {
        match self.coordinate(ClusterCall::AddCoordinator { addr }, deadline).await? {
            ClusterAnswer::Seat(seat) => Ok(seat),
            other => Err(other.unexpected()),
        }
    }

    /// Takes a coordinator, by its number or its `host:port`, out of the group for good.
    pub async fn remove_coordinator(&self, which: String, deadline: Instant) -> Result<Seat, Error> {
        match self.coordinate(ClusterCall::RemoveCoordinator { which }, deadline).await? {
            ClusterAnswer::Seat(seat) => Ok(seat),
            other => Err(other.unexpected()),
        }
    }

    /// Whether a shard counts on the replica of a node, as proved by its leader.
    pub async fn counts_on(&self, group: GroupId, node: NodeId, deadline: Instant) -> Result<bool, Error> {
        let map = self.map().ok_or_else(super::no_shards)?;
        let (_, shard) =
            map.shard(group).ok_or_else(|| Error::NotFound(format!("there is no shard {group}")))?;
        let mut last = Error::Unavailable("the shard has no replicas".into());
        // Whoever led last answers soonest; one that is silent would use up all the time.
        let leader = self.leader_of(group).filter(|leader| shard.replicas.contains(leader));
        let others = shard.replicas.iter().copied().filter(|replica| Some(*replica) != leader);
        for replica in leader.into_iter().chain(others).filter(|replica| *replica != node) {
            let call = ClusterCall::CountsOn { group, node };
            match self.ask_coordinator(&Peer::Node(replica), &call, deadline).await {
                Ok(ClusterAnswer::CountsOn(counts)) => return Ok(counts),
                Ok(other) => last = other.unexpected(),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The coordinators to ask in turn: first those of the map, then those that this node was told
    /// of at its start. Either may be the newer ones, after a long absence.
    fn nth_coordinator(&self, turn: usize) -> Option<Peer> {
        let me = NodeId(self.0.me.load(Ordering::Relaxed));
        let map = self.map();
        let known = map.iter().flat_map(|map| map.coordinators.keys()).filter(|id| **id != me);
        let known = known.map(|id| Peer::Node(*id));
        let peers: Vec<Peer> = known.chain(self.0.seeds.read().iter().cloned()).collect();
        (!peers.is_empty()).then(|| peers[turn % peers.len()].clone())
    }
}

/// Waits a little longer each time, never past the deadline.
async fn rest(pause: Duration, deadline: Instant) -> Duration {
    tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
    (pause * 2).min(LONGEST_PAUSE)
}
