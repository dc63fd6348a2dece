//! Makes the shards on this worker be what the map says: starts the groups it should keep, gives a
//! new group its first members, and, where it leads, brings the members to those of the map.
//!
//! A group that the map no longer gives to this worker runs on until the coordinator says that its
//! leader has let go of it (`node::worker`): until then its vote may be needed.
//!
//! A shard that was split off another one is never given first members: it has those of its parent,
//! and a replica that does not come into being by the split gets all of it from the others.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use raft_store::types::Node as Member;
use tokio::time::{Instant, timeout};

use super::{Node, split};
use crate::{
    consensus::group::{Change, Group},
    error::Error,
    ids::{Epoch, GroupId, NodeId, Position},
    ring::map::{Indexed, Map, Shard},
    shard,
};

/// How often the groups are held against the map while nothing tells that either changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// How often the groups that run are held against the whole map where all was well.
const STARTS_ANYWAY: Duration = Duration::from_secs(5);

/// Groups whose members change at once on one worker; the map's plan bounds it further.
const CHANGES_AT_ONCE: usize = 8;

/// The time for one step of a change; a step that takes longer is taken up again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for another member to take the lead of a group that this worker is to leave.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Brings members to the map, as long as the node runs.
pub(super) async fn run(node: Arc<Node>) {
    let mut epochs = node.router.epochs();
    let mut left = Left::default();
    loop {
        if let (Some(map), Some(me)) = (node.router.map(), node.number())
            && !node.expelled.load(Ordering::Relaxed)
        {
            if left.epoch != map.epoch {
                left = Left { epoch: map.epoch, groups: Mutex::default() };
            }
            stream::iter(node.host.all())
                .for_each_concurrent(CHANGES_AT_ONCE, |group| converge(&node, &map, group, me, &left))
                .await;
        }
        // The epoch's sender lives as long as the router; a timeout is the ordinary case.
        let _ = timeout(INTERVAL, epochs.changed()).await;
    }
}

/// Starts groups, as long as the node runs. By itself: a new shard does not wait for members of
/// others that are slow to change.
pub(super) async fn start(node: Arc<Node>) {
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
        }
        let news = async {
            tokio::select! {
                _ = epochs.changed() => false,
                () = node.host.forked() => true,
            }
        };
        if timeout(INTERVAL, news).await == Ok(true) {
            settled = None;
        }
    }
}

/// Whether all of them run now, and none of them waits for its members or its parent.
async fn start_groups(node: &Arc<Node>, map: &Indexed, me: NodeId) -> bool {
    let mut failed = false;
    let here: Vec<GroupId> = node.host.store().groups().into_iter().map(GroupId).collect();
    let kept = here.iter().copied().filter(|id| *id != GroupId::COORDINATOR && map.shard(*id).is_some());
    let is_wanted = |(start, shard): &(Position, &Shard)| {
        !here.contains(&shard.group) && !split::is_expected(node, map, &here, *start, shard.parent)
    };
    let wanted = map.shards_of(me).filter(is_wanted).map(|(_, shard)| shard.group);
    // Those that have a state first: the others look at them.
    for id in kept.chain(wanted) {
        if node.host.get(id).is_some() || node.is_stopping() || node.expelled.load(Ordering::Relaxed) {
            continue;
        }
        let machine = node.host.shard(shard::Shard { group: id, partitioner: map.settings.partitioner });
        match node.host.start(id, me, machine).await {
            Ok(group) => stand(node, map, group),
            Err(error) => {
                failed = true;
                tracing::error!(group = %id, %error, "start shard");
            }
        }
    }
    if !failed {
        node.opening.store(false, Ordering::Relaxed);
    }
    for (_, shard) in map.shards_of(me).filter(|(_, shard)| !shard.formed && shard.parent.is_none()) {
        if shard.replicas.first() == Some(&me)
            && let Err(error) = form(node, map, shard).await
        {
            tracing::warn!(group = %shard.group, %error, "form shard");
        }
    }
    !failed && map.shards_of(me).all(|(_, shard)| shard.formed && node.host.get(shard.group).is_some())
}

/// Whoever leads a shard stands for election at once in the one that was split off it.
fn stand(node: &Node, map: &Map, group: Arc<Group>) {
    let Some((_, shard)) = map.shard(group.id()) else { return };
    let parent = shard.parent.filter(|_| !shard.formed).and_then(|parent| node.host.get(parent));
    if parent.is_some_and(|parent| parent.is_leader()) {
        node.host.stand(group);
    }
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

/// The groups whose lead was given up under a map, because it takes this worker out of them.
#[derive(Default)]
struct Left {
    epoch: Epoch,
    groups: Mutex<HashSet<GroupId>>,
}

/// Takes the next steps towards the map's members of a group that this node leads.
async fn converge(node: &Node, map: &Indexed, group: Arc<Group>, me: NodeId, left: &Left) {
    let Some((_, shard)) = map.shard(group.id()) else { return };
    if !shard.formed || !group.is_leader() {
        return;
    }
    let wanted = members(map, shard);
    let deadline = Instant::now() + STEP_TIMEOUT;
    // A leader that led itself out would leave the shard without one until the others stand. Tried once for
    // a map: where the lead comes back, the others are in no state to keep it.
    if !wanted.contains_key(&me) && left.groups.lock().insert(group.id()) {
        let stays = |id: NodeId| wanted.contains_key(&id) && !node.links.is_gone(id);
        group.hand_over(stays, Instant::now() + HAND_OVER).await;
        if !group.is_leader() {
            return;
        }
    }
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
