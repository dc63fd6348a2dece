//! Splits: the coordinators' leader changes the map, then the shard's leader puts the split into the
//! shard's own log, and every replica that applies it has the new shard too, without a copy.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};

use super::{Node, coordinate, coordinator::propose};
use crate::{
    command::{Proposal, Split},
    config::Partitioner,
    consensus::group::Group,
    coordinator::{
        command::{Command, Reply},
        plan::is_moving,
    },
    error::Error,
    ids::{GroupId, NodeId, Position, Span},
    peer::Peer,
    ring::map::{Indexed, Map},
    router::calls::{ClusterAnswer, ClusterCall, encode},
};

/// How often the shards led here are held against the map while nothing tells that either changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// The time for a shard's log to take a split; one that takes longer is asked for again, which does
/// nothing where it was done.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Shards that are split at once by one worker.
const SPLITS_AT_ONCE: usize = 8;

/// Where a shard is to be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// There.
    At(Position),
    /// In the middle of its arc; of its data, where rows are ordered.
    Middle,
    /// In the middle of its data: one that has grown too large by one row is not helped by halves of
    /// its arc.
    MiddleOfData,
}

/// At the coordinators' leader: makes a new shard in the map.
pub(super) async fn order(
    node: &Arc<Node>,
    coordinators: &Group,
    group: GroupId,
    place: Where,
    deadline: Instant,
) -> Result<(GroupId, Position), Error> {
    loop {
        let (epoch, arc, partitioner, leader) = settled(node, coordinators, group)?;
        let by_data = place == Where::MiddleOfData || partitioner == Partitioner::Ordered;
        let at = match place {
            Where::At(at) => at,
            Where::Middle | Where::MiddleOfData if arc.start == arc.last() => {
                return Err(Error::Refused(format!(
                    "shard {group} keeps one position, which cannot be split"
                )));
            }
            Where::Middle | Where::MiddleOfData if by_data => {
                let call = ClusterCall::Middle { group, arc };
                match node.router.ask_coordinator(&Peer::Node(leader), &call, deadline).await {
                    Ok(ClusterAnswer::Middle(Some(at))) => at,
                    Ok(ClusterAnswer::Middle(None)) => {
                        return Err(Error::Refused(format!(
                            "all data of shard {group} is of one position (one row, or ordered ones that begin with the \
                             same 8 bytes), which cannot be split; say where with 'at'"
                        )));
                    }
                    Ok(other) => return Err(other.unexpected()),
                    // Nothing has been changed yet.
                    Err(error) => {
                        let why = format!("ask the leader of shard {group} for its middle: {error}");
                        return Err(Error::Unavailable(why));
                    }
                }
            }
            Where::Middle | Where::MiddleOfData => arc.middle(),
        };
        let command = Command::Split { epoch, group, at };
        match propose(coordinators, &command, deadline).await? {
            Reply::Split { shard, .. } => return Ok((shard, at)),
            // Something else has changed the map meanwhile: look again.
            Reply::Refused(why) if present_epoch(node) == epoch || Instant::now() >= deadline => {
                return Err(Error::Refused(why));
            }
            Reply::Unknown(why) => return Err(Error::NotFound(why)),
            Reply::Refused(_) | Reply::Done { .. } | Reply::Joined { .. } | Reply::Outgrown { .. } => {}
        }
    }
}

fn present_epoch(node: &Node) -> crate::ids::Epoch {
    let shared = node.coordinator.as_ref().expect("only coordinators are asked");
    shared.state().map().map_or_else(Default::default, |map| map.epoch)
}

/// What there is to know about a shard that can be split now.
fn settled(
    node: &Node,
    coordinators: &Group,
    group: GroupId,
) -> Result<(crate::ids::Epoch, Span, Partitioner, NodeId), Error> {
    let shared = node.coordinator.as_ref().expect("only coordinators are asked");
    let state = shared.state();
    let map = state.map().ok_or_else(|| Error::Unavailable("the cluster is being founded".into()))?;
    let (start, shard) = state
        .shard(group)
        .ok_or_else(|| Error::NotFound(format!("there is no shard {group}; GET /cluster lists them")))?;
    let observed = coordinate::observed(node, &state, map, coordinators, Instant::now());
    let seen = observed.shards.get(&group);
    // The machine has better sentences for these.
    let is_judged_later = !shard.formed || map.splitting(start).is_some();
    let leader = seen.and_then(|seen| seen.leader);
    if !is_judged_later {
        if leader.is_none() {
            return Err(Error::Refused(format!(
                "shard {group} has no leader now; try again when it has one"
            )));
        }
        if seen.is_some_and(|seen| is_moving(shard, seen)) {
            return Err(Error::Refused(format!(
                "shard {group} is just changing its members; try again when that is done"
            )));
        }
    }
    let leader = leader.unwrap_or(shard.replicas[0]);
    Ok((map.epoch, map.span(start), map.settings.partitioner, leader))
}

/// At a shard's leader: where the middle of its data is; that of the arc, where it has none.
pub(super) async fn middle(node: &Arc<Node>, group: GroupId, arc: Span) -> Result<Option<Position>, Error> {
    let group = node.host.get(group).ok_or(Error::NotHere { epoch: node.epoch() })?;
    if !group.is_leader() {
        return Err(Error::NotLeader { leader: group.leader() });
    }
    let store = node.host.store().clone();
    let looked = tokio::task::spawn_blocking(move || group.middle(arc, || store.flush())).await;
    looked.map_err(|error| Error::Unavailable(error.to_string()))?
}

/// Puts the splits that the map wants into the logs of the shards that this node leads, as long as
/// the node runs.
pub(super) async fn run(node: Arc<Node>) {
    let mut epochs = node.router.epochs();
    loop {
        if let Some(map) = node.router.map() {
            let led = node.host.all().into_iter().filter(|group| group.is_leader());
            stream::iter(led).for_each_concurrent(SPLITS_AT_ONCE, |group| part(&map, group)).await;
        }
        // The epoch's sender lives as long as the router; a timeout is the ordinary case.
        let _ = timeout(INTERVAL, epochs.changed()).await;
    }
}

async fn part(map: &Indexed, group: Arc<Group>) {
    let Some((start, _)) = map.shard(group.id()) else { return };
    let (Some(child), at) = (map.splitting(start), map.end_of(start)) else { return };
    // The child begins with the members of that moment: not with those of two configurations.
    let is_split = group.arc().map(|arc| arc.is_some_and(|arc| !arc.contains(at)));
    if is_split != Ok(false) || group.status().joint {
        return;
    }
    let arc = Span { start, end: map.end_of(at) };
    let proposal: Proposal = Proposal::Split(Split { child: child.group, at, arc });
    let proposal = encode(&proposal);
    match group.propose(proposal, Instant::now() + STEP_TIMEOUT).await {
        Ok(_) => tracing::info!(group = %group.id(), child = %child.group, %at, "split"),
        Err(error) => tracing::debug!(group = %group.id(), child = %child.group, %error, "split"),
    }
}

/// Whether a shard that is not here yet will come into being here by the split of one that is: then
/// it is not to be started empty, and filled by a copy.
pub(super) fn is_expected(
    node: &Node,
    map: &Map,
    here: &[GroupId],
    start: Position,
    parent: Option<GroupId>,
) -> bool {
    let mut ancestor = parent;
    while let Some(group) = ancestor {
        if here.contains(&group) {
            let keeps =
                |group: Arc<Group>| group.arc().map_or(true, |arc| arc.is_none_or(|arc| arc.contains(start)));
            return node.host.get(group).is_none_or(keeps);
        }
        ancestor = map.shard(group).and_then(|(_, shard)| shard.parent);
    }
    false
}
