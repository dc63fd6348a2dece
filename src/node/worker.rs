//! A worker's side of the cluster: becoming a member, telling that it lives, taking the map.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rand::RngExt;
use tokio::time::{Instant, timeout};

use super::{Node, identity, seats};
use crate::{
    clock,
    config::Address,
    coordinator::clocks,
    error::Error,
    ids::{GroupId, NodeId, WorkerId},
    peer::Peer,
    router::calls::{ClusterAnswer, ClusterCall, Held, Leads},
};

/// The time for one attempt to reach a coordinator that leads.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Between two attempts to join, with as much again at random.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// How often a worker looks whether what it leads, or who votes there, has changed: then the coordinator hears of it at
/// once and not with the next heartbeat.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Shards that are asked at once whether they count on a replica here.
const ASKED_AT_ONCE: usize = 16;

/// The time for giving the leaderships away.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Who a worker says it is when it joins.
#[derive(Debug, Clone)]
pub(super) struct Introduction {
    pub(super) id: WorkerId,
    pub(super) zone: Option<String>,
}

/// Runs as long as the node: joins when it knows of coordinators, then sends heartbeats.
pub(super) async fn run(node: Arc<Node>, introduction: Introduction) {
    let mut invitations = node.invitations.subscribe();
    if node.number().is_none() {
        // Without coordinators the worker waits until it is asked to join.
        let _ = invitations.wait_for(|coordinators| !coordinators.is_empty()).await;
    }
    let mut refused = None;
    while node.links.outgrown().is_none() {
        let coordinators = invitations.borrow_and_update().clone();
        node.router.set_seeds(coordinators.iter().map(|addr| Peer::Addr(addr.to_string())).collect());
        match join(&node, &introduction).await {
            Ok(()) => {
                node.set_obstacle(None);
                heartbeats(&node).await;
            }
            Err(error) => {
                let told = error.to_string();
                if refused.as_ref() != Some(&told) {
                    tracing::warn!(%error, "join the cluster");
                }
                // A member that cannot reach a coordinator goes on serving; a newcomer cannot.
                if node.number().is_none() || matches!(error, Error::Refused(_)) {
                    node.set_obstacle(Some(told.clone()));
                }
                refused = Some(told);
                if matches!(error, Error::Unavailable(_) | Error::Unknown(_)) {
                    seats::ask_around(&node).await;
                }
            }
        }
        let pause = JOIN_PAUSE.mul_f64(1.0 + rand::rng().random::<f64>());
        let _ = timeout(pause, invitations.changed()).await;
    }
}

async fn join(node: &Arc<Node>, introduction: &Introduction) -> Result<(), Error> {
    let call = ClusterCall::Join {
        id: introduction.id.clone(),
        store: identity::store_id(node.host.store()),
        addr: node.advertise.to_string(),
        zone: introduction.zone.clone(),
        node: node.number(),
        at: clock::now(),
        opening: node.links.identity().opening,
    };
    match node.router.coordinate(call, Instant::now() + ATTEMPT).await? {
        ClusterAnswer::Joined { node: number, map } => {
            node.become_member(number, map.cluster).map_err(|error| Error::Unavailable(error.to_string()))?;
            node.take_map(*map).await;
            Ok(())
        }
        ClusterAnswer::Outgrown { height } => {
            node.links.take_part_no_more(height);
            Err(Error::Refused("the directory of this worker is an older copy of itself".into()))
        }
        ClusterAnswer::Expelled => {
            node.expel().await;
            Err(Error::Refused(
                "this worker was removed from the cluster and cannot come back from its directory: \
                 start a new one with an empty directory"
                    .into(),
            ))
        }
        other => Err(other.unexpected()),
    }
}

/// Sends heartbeats until the coordinators no longer know this worker, or do not answer for long.
async fn heartbeats(node: &Arc<Node>) {
    let mut told = (Vec::new(), false);
    let mut next = Instant::now();
    let mut clock_is_off = false;
    while node.links.outgrown().is_none() {
        // Only what tells whether there is news is looked at so often: a whole report asks the store
        // for the size of every shard.
        let news = (leads(node), is_unfit(node));
        if Instant::now() < next && news == told && !node.router.is_map_old() {
            tokio::time::sleep(LOOK_INTERVAL).await;
            continue;
        }
        let (Some((number, call)), Some(map)) = (heartbeat(node), node.router.map()) else { return };
        match node.router.coordinate(call, Instant::now() + ATTEMPT).await {
            Ok(ClusterAnswer::Heard { map: newer, wipe, clock_off_ms }) => {
                told = news;
                mind_clock(node, &mut clock_is_off, clock_off_ms).await;
                next = Instant::now() + Duration::from_millis(map.settings.ping_interval_ms);
                if let Some(newer) = newer {
                    node.take_map(*newer).await;
                }
                wipe_replicas(node, number, wipe).await;
            }
            Ok(other) => tracing::warn!(?other, "heartbeat: unexpected answer"),
            // The coordinator does not know this worker: it was removed, or the answer will say why.
            Err(Error::NotFound(_) | Error::Refused(_)) => return,
            Err(error) => {
                tracing::debug!(%error, "heartbeat");
                seats::ask_around(node).await;
                tokio::time::sleep(JOIN_PAUSE).await;
            }
        }
    }
}

/// Whether it is better that another worker leads: the disk limps, or the node is about to stop.
fn is_unfit(node: &Node) -> bool {
    node.limping.load(Ordering::Relaxed) || node.is_stopping()
}

/// What the coordinator is told; `None` for a node that is no member yet.
fn heartbeat(node: &Node) -> Option<(NodeId, ClusterCall)> {
    let (number, map) = (node.number()?, node.router.map()?);
    let (held, at, limps) = (held(node), clock::now(), is_unfit(node));
    Some((number, ClusterCall::Heartbeat { node: number, epoch: map.epoch, held, at, limps }))
}

/// Tells the coordinators at once how this worker is; coordinators have nothing to tell.
pub(super) async fn tell(node: &Arc<Node>) {
    if node.coordinator.is_some() {
        return;
    }
    if let Some((_, call)) = heartbeat(node)
        && let Err(error) = node.router.coordinate(call, Instant::now() + ATTEMPT).await
    {
        tracing::debug!(%error, "heartbeat");
    }
}

/// A worker whose clock is far off serves what it keeps, but must not date what is written: it gives
/// its leaderships away, and says that it is not ready, until its clock is right.
async fn mind_clock(node: &Arc<Node>, was_off: &mut bool, off_ms: Option<i64>) {
    if let Some(off) = off_ms {
        node.set_obstacle(Some(clocks::sentence(off)));
        node.host.hand_over(Instant::now() + HAND_OVER).await;
    } else if *was_off {
        node.set_obstacle(None);
    }
    *was_off = off_ms.is_some();
}

/// Wipes replicas that no coordinator wants here.
///
/// The order may be old: from a coordinator that leads no more, or made from what a shard's leader
/// told long ago. A replica that votes must never be wiped, as it would forget what it acknowledged.
/// So the shard itself is asked: its leader proves that the membership is without this replica, at a
/// time after the end of this replica's log was noted. Whoever counts on it from then on has to send
/// it something first, and the log would end elsewhere.
async fn wipe_replicas(node: &Arc<Node>, me: NodeId, groups: Vec<GroupId>) {
    // Heartbeats wait for it; what is not answered in time is ordered again.
    let deadline = Instant::now() + ATTEMPT;
    let ask = |group| async move {
        let asked = async {
            let end = node.host.log_end(group).await?;
            let counted_on = node.router.counts_on(group, me, deadline).await?;
            Ok::<_, Error>((!counted_on).then_some(end))
        };
        (group, asked.await)
    };
    let mut asked = stream::iter(groups.into_iter().map(ask)).buffer_unordered(ASKED_AT_ONCE);
    while let Some((group, answer)) = asked.next().await {
        let wiped = match answer {
            Ok(Some(end)) => node.host.wipe(group, &end).await,
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        match wiped {
            Ok(true) => tracing::info!(%group, "wipe replica: its shard has let go of it"),
            Ok(false) => tracing::info!(%group, "keep replica: its shard counts on it"),
            Err(error) => tracing::debug!(%group, %error, "wipe replica"),
        }
    }
}

/// The shards that this worker leads, in order: what [`held`] says of them is another thing once this is.
fn leads(node: &Node) -> Vec<(GroupId, (u64, u64))> {
    let led = |group: &Arc<crate::consensus::group::Group>| Some((group.id(), group.settled()?));
    let mut leads: Vec<_> =
        node.host.all().iter().filter(|group| group.id() != GroupId::COORDINATOR).filter_map(led).collect();
    leads.sort_unstable();
    leads
}

/// What this worker keeps, for the coordinator.
fn held(node: &Node) -> Vec<Held> {
    let groups = node.host.all();
    let shards = groups.iter().filter(|group| group.id() != GroupId::COORDINATOR);
    let report = |group: &Arc<crate::consensus::group::Group>| {
        let status = group.status();
        // Who has no majority behind it yet may never have one.
        let leads = status.settled.then(|| {
            let size = group.size();
            let slowest = status.matched.values().min().copied().unwrap_or(status.last);
            Leads {
                term: status.term,
                commit: status.commit,
                applied: status.applied,
                bytes: size.bytes,
                arc: size.arc,
                behind: status.last.saturating_sub(slowest),
                voters: status.voters,
                learners: status.learners,
            }
        });
        Held { group: group.id(), leads }
    };
    shards.map(report).collect()
}

/// Whether an address is one that can be asked for.
pub(super) fn addresses(texts: &[String]) -> Result<Vec<Address>, Error> {
    let parse = |text: &String| text.parse().map_err(|_| Error::Invalid(format!("{text:?} is no HOST:PORT")));
    texts.iter().map(parse).collect()
}
