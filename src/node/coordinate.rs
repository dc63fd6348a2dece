//! What the coordinator group's leader does, over and over: observe, plan, act (D10). Plans are
//! committed before anything moves, and made from the committed map alone, so that a new leader goes
//! on where the old one was.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};

use super::{Node, coordinator, coordinator::propose, seats, seen::Signs, split};
use crate::{
    consensus::group::Group,
    coordinator::{
        command::Command,
        machine::State,
        observed::Observed,
        plan::{self, Step},
    },
    error::Error,
    ids::{Epoch, GroupId, NodeId},
    peer::{Lane, Peer},
    ring::map::{Coordinator, Map},
    router::calls::ClusterCall,
};

/// Between two rounds while nothing tells that something has changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// A plan is made at least so often while nothing that it is known to look at has changed.
const PLAN_ANYWAY: Duration = Duration::from_secs(10);

/// Workers that are sent a map at the same time.
const PUSHES_AT_ONCE: usize = 16;

/// The time for finding out whether a worker can be reached.
const REACH_TIMEOUT: Duration = Duration::from_millis(500);

/// A transfer of leadership that was ordered is not ordered again for so long.
const TRANSFER_PAUSE: Duration = Duration::from_secs(3);

/// A shard that could not be split for its size is left alone for so long.
const SPLIT_PAUSE: Duration = Duration::from_secs(30);

/// The time for a split for a shard's size: its leader may have to write down much to find the middle.
const SPLIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The time for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs as long as the node.
pub(super) async fn run(node: Arc<Node>, group: Arc<Group>) {
    let shared = node.coordinator.clone().expect("only coordinators run this");
    let mut epochs = shared.epochs();
    let mut pushed = None;
    let mut quiet = None;
    while !node.is_stopping() && !node.expelled.load(Ordering::Relaxed) {
        if group.is_leader() {
            node.seen.lock().lead(Instant::now());
            if let Err(error) = round(&node, &group, &mut quiet).await {
                tracing::debug!(%error, "coordinate");
            }
            push_map(&node, &mut pushed);
        } else {
            node.seen.lock().follow();
            (pushed, quiet) = (None, None);
        }
        // The sender lives as long as the group; a timeout is the ordinary case.
        let _ = timeout(INTERVAL, epochs.changed()).await;
    }
}

/// What the last plan was made from, where it had no steps.
type Quiet = Option<(Epoch, u64, Signs, Instant)>;

/// One round: found the cluster if that was not done, else plan and act. Where nothing has changed
/// since a plan without steps was made, a plan would have none again: a round then costs nothing per
/// shard.
async fn round(node: &Arc<Node>, group: &Arc<Group>, quiet: &mut Quiet) -> Result<(), Error> {
    let basis = basis(node, group);
    if let (Some((epoch, term, signs)), Some((last_epoch, last_term, last_signs, at))) = (&basis, &*quiet)
        && (epoch, term, signs) == (last_epoch, last_term, last_signs)
        && at.elapsed() < PLAN_ANYWAY
    {
        return Ok(());
    }
    *quiet = None;
    let deadline = Instant::now() + STEP_TIMEOUT;
    // Everything below looks at the state; before the barrier it may be that of a former life.
    group.read_barrier(deadline).await?;
    let shared = node.coordinator.as_ref().expect("only coordinators run this");
    let steps = {
        let state = shared.state();
        match state.map() {
            None => vec![Step::Propose(founding(node, group))],
            Some(map) => {
                node.seen.lock().retain(map, |id| state.pinged().contains_key(id));
                let observed = observed(node, &state, map, group, Instant::now());
                plan::steps(map, &plan::Policy::default(), &observed)
            }
        }
    };
    if steps.is_empty() {
        // The basis was looked at before what the plan was made from: news in between only cost a plan.
        *quiet = basis.map(|(epoch, term, signs)| (epoch, term, signs, Instant::now()));
    }
    for step in steps {
        match step {
            Step::Propose(command) => {
                let reply = propose(group, &command, Instant::now() + STEP_TIMEOUT).await?;
                tracing::info!(?reply, command = name(&command), "plan committed");
            }
            Step::Split { group: shard } => {
                if node.seen.lock().order_split(shard, SPLIT_PAUSE, Instant::now()) {
                    let (node, group) = (node.clone(), group.clone());
                    tokio::spawn(async move {
                        let deadline = Instant::now() + SPLIT_TIMEOUT;
                        match split::order(&node, &group, shard, split::Where::MiddleOfData, deadline).await {
                            Ok((child, at)) => {
                                node.seen.lock().forget_split(shard);
                                tracing::info!(%shard, %child, %at, "split for its size");
                            }
                            Err(error) => tracing::info!(%shard, %error, "split for its size"),
                        }
                    });
                }
            }
            Step::TransferLeader { group, to } => {
                let Some(leader) = node.seen.lock().order_transfer(group, TRANSFER_PAUSE, Instant::now())
                else {
                    continue;
                };
                let call = ClusterCall::Transfer { group, to };
                let router = node.router.clone();
                tokio::spawn(async move {
                    let deadline = Instant::now() + STEP_TIMEOUT;
                    if let Err(error) = router.ask_coordinator(&Peer::Node(leader), &call, deadline).await {
                        tracing::debug!(%group, %to, %error, "order transfer of leadership");
                    }
                });
            }
        }
    }
    Ok(())
}

/// What plans are made from, as far as they look at it; `None` while time alone may bring a step.
fn basis(node: &Node, group: &Group) -> Option<(Epoch, u64, Signs)> {
    let shared = node.coordinator.as_ref()?;
    let state = shared.state();
    let map = state.map().filter(|map| !map.shards.is_empty())?;
    Some((map.epoch, group.leads_in()?, node.seen.lock().signs(map, Instant::now())))
}

fn founding(node: &Node, group: &Group) -> Command {
    let members = group.members();
    let coordinator = |(id, member): (NodeId, raft_store::types::Node)| {
        (id, Coordinator { addr: member.addr, store: crate::ids::StoreId(member.store) })
    };
    Command::Found {
        cluster: coordinator::new_cluster(),
        settings: node.settings.clone(),
        coordinators: members.into_iter().map(coordinator).collect(),
    }
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Found { .. } => "found",
        Command::Join { .. } => "join",
        Command::Ping { .. } => "ping",
        Command::Place { .. } => "place",
        Command::Formed { .. } => "formed",
        Command::Drain { .. } => "drain",
        Command::Remove { .. } => "remove",
        Command::AddCoordinator { .. } => "add coordinator",
        Command::RemoveCoordinator { .. } => "remove coordinator",
        Command::Split { .. } => "split",
    }
}

/// Sends the map to every worker when it is newer than what was sent last. A worker that misses it
/// gets it with its next heartbeat.
fn push_map(node: &Arc<Node>, pushed: &mut Option<Epoch>) {
    let shared = node.coordinator.as_ref().expect("only coordinators run this");
    let newer = shared.state().map().filter(|map| *pushed != Some(map.epoch)).cloned();
    let Some(map) = newer else { return };
    *pushed = Some(map.epoch);
    let router = node.router.clone();
    tokio::spawn(async move {
        let call = ClusterCall::TakeMap(Box::new(map.clone()));
        let deadline = Instant::now() + STEP_TIMEOUT;
        let send = async |worker: NodeId| {
            if let Err(error) = router.ask_coordinator(&Peer::Node(worker), &call, deadline).await {
                tracing::debug!(%worker, %error, "push the map");
            }
        };
        stream::iter(map.workers.keys().copied()).for_each_concurrent(PUSHES_AT_ONCE, send).await;
    });
}

/// What was heard, for plans and the status.
pub(super) fn observed(node: &Node, state: &State, map: &Map, group: &Group, now: Instant) -> Observed {
    let status = group.status();
    let me = node.number().unwrap_or_default();
    let observed = node.seen.lock().observed(map, state.pinged().keys().cloned(), me, status.term, now);
    let matched = status.learners.iter().map(|id| status.matched.get(id).copied().unwrap_or(0));
    let seats_behind = matched.min().map(|least| status.last.saturating_sub(least));
    Observed { seats: seats::seen(node, &status), seats_behind, ..observed }
}

/// Obeys the coordinator's wish that another voter lead a shard. The coordinator learns late that a
/// worker has died; a leader that began to hand over to one would take no writes until it gave up.
pub(super) async fn transfer(node: &Node, group: GroupId, to: NodeId) -> Result<(), Error> {
    let deadline = Instant::now() + REACH_TIMEOUT;
    if let Err(error) = node.links.connection(&Peer::Node(to), Lane::Main, deadline).await {
        return Err(Error::Refused(format!("node {to} cannot be reached: {error}")));
    }
    match node.host.get(group) {
        Some(group) if group.is_leader() => group.transfer_to(to).await,
        Some(group) => Err(Error::NotLeader { leader: group.leader() }),
        None => Err(Error::NotHere { epoch: *node.router.epochs().borrow() }),
    }
}
