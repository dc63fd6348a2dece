//! Makes the shards on this worker be what the map says: starts the groups it should keep, gives a
//! new group its first members, and, where it leads, brings the members to those of the map.
//!
//! A group that the map no longer gives to this worker runs on until the coordinator says that its
//! leader has let go of it (`node::worker`): until then its vote may be needed.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use raft_store::types::Node as Member;
use tokio::time::{Instant, timeout};

use super::Node;
use crate::{
    consensus::{
        group::{Change, Group},
        machine::Machine,
    },
    error::Error,
    ids::{Epoch, GroupId, NodeId},
    ring::map::{Indexed, Map, Shard},
};

/// How often the groups are held against the map while nothing tells that either changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// How often the groups that run are held against the whole map where all was well.
const STARTS_ANYWAY: Duration = Duration::from_secs(5);

/// Groups whose members change at once on one worker; the map's plan bounds it further.
const CHANGES_AT_ONCE: usize = 8;

/// The time for one step of a change; a step that takes longer is taken up again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs as long as the node.
pub(super) async fn run(node: Arc<Node>) {
    let mut epochs = node.router.epochs();
    // Under which map every group was found to run and to be formed, and when.
    let mut settled: Option<(Epoch, Instant)> = None;
    loop {
        if let (Some(map), Some(me)) = (node.router.map(), node.number())
            && !node.expelled.load(Ordering::Relaxed)
        {
            let is_settled =
                |(epoch, at): (Epoch, Instant)| epoch == map.epoch && at.elapsed() < STARTS_ANYWAY;
            if !settled.is_some_and(is_settled) {
                let begun = Instant::now();
                settled = start_groups(&node, &map, me).await.then_some((map.epoch, begun));
            }
            stream::iter(node.host.all())
                .for_each_concurrent(CHANGES_AT_ONCE, |group| converge(&map, group, me))
                .await;
        }
        // The epoch's sender lives as long as the router; a timeout is the ordinary case.
        let _ = timeout(INTERVAL, epochs.changed()).await;
    }
}

/// Whether all of them run now, and none of them waits for its members.
async fn start_groups(node: &Arc<Node>, map: &Indexed, me: NodeId) -> bool {
    let mut all = true;
    let machine = || Machine::shard(map.settings.partitioner);
    let kept = node.host.store().groups().into_iter().map(GroupId);
    let kept = kept.filter(|id| *id != GroupId::COORDINATOR && map.shard(*id).is_some());
    let wanted = map.shards_of(me).map(|(_, shard)| shard.group);
    for id in wanted.chain(kept) {
        if node.host.get(id).is_none()
            && !node.is_stopping()
            && let Err(error) = node.host.start(id, me, machine()).await
        {
            all = false;
            tracing::error!(group = %id, %error, "start shard");
        }
    }
    for (_, shard) in map.shards_of(me).filter(|(_, shard)| !shard.formed) {
        all = false;
        if shard.replicas.first() == Some(&me)
            && let Err(error) = form(node, map, shard).await
        {
            tracing::warn!(group = %shard.group, %error, "form shard");
        }
    }
    all
}

/// Gives a new shard its first members. Only its primary does, and only while the map says that it
/// was not done: the primary's log tells whether it did so itself in an earlier life.
async fn form(node: &Node, map: &Map, shard: &Shard) -> Result<(), Error> {
    let Some(group) = node.host.get(shard.group) else { return Ok(()) };
    if group.is_initialized().await? {
        return Ok(());
    }
    group.initialize(members(map, shard)).await
}

/// Takes the next steps towards the map's members of a group that this node leads.
async fn converge(map: &Indexed, group: Arc<Group>, me: NodeId) {
    let Some((_, shard)) = map.shard(group.id()) else { return };
    if !shard.formed || !group.is_leader() {
        return;
    }
    let wanted = members(map, shard);
    let deadline = Instant::now() + STEP_TIMEOUT;
    match tokio::time::timeout_at(deadline, group.change_members(&wanted)).await {
        Ok(Ok(Change::Done | Change::Underway)) => {}
        Ok(Err(error)) => tracing::debug!(group = %group.id(), %me, %error, "change members"),
        Err(_) => tracing::debug!(group = %group.id(), %me, "change members: no answer yet"),
    }
}

fn members(map: &Map, shard: &Shard) -> BTreeMap<NodeId, Member> {
    let member = |id: &NodeId| {
        let worker = map.workers.get(id)?;
        Some((*id, Member { addr: worker.addr.clone(), store: worker.store.0 }))
    };
    shard.replicas.iter().filter_map(member).collect()
}
