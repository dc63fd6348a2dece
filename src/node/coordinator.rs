//! A coordinator's side of the cluster: forming the coordinator group, and answering what workers,
//! coordinators and clients ask of it.
//!
//! Founding: the coordinators' numbers are their places among the sorted `--peers`. Each starts the
//! group empty. The first by number waits until all the others have answered that they are empty
//! too, and then gives the group its members, each with its store. A coordinator that lost its
//! directory has another store, so the others neither vote for it nor take its vote
//! (`peer::hello`), and they tell it that the group has members, so it founds nothing and waits for a
//! seat of its own (`node::seats`), as one that names no peers does from the start.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Node, coordinate, identity, outgrown, seats, split};
use crate::{
    clock,
    config::Address,
    consensus::{group::Group, machine::Machine},
    coordinator::{
        clocks,
        command::{Command, Reply},
        leave,
        machine::State,
        observed::Observed,
        status,
    },
    error::Error,
    ids::{ClusterId, GroupId, NodeId, StoreId, WorkerId},
    peer::Peer,
    ring::map::{Coordinator, Map},
    router::{
        ActiveWorker,
        calls::{ClusterAnswer, ClusterCall, encode},
    },
};

/// Between two attempts to reach all the other coordinators before the founding.
const FOUNDING_PAUSE: Duration = Duration::from_millis(100);

/// What a coordinator says that has a seat and does not have the map from its own group yet.
const BEING_ADDED: &str = "this coordinator is being added to the group";

/// The time for one question during the founding.
const FOUNDING_ATTEMPT: Duration = Duration::from_secs(1);

/// Starts the coordinator group on this node, once it has a seat in it, and runs the leader's loop as
/// long as the node runs. A store that has a seat goes by what it says, whatever `peers` are.
pub(super) async fn run(node: Arc<Node>, mut peers: Vec<Address>) -> anyhow::Result<()> {
    peers.sort();
    node.router.set_seeds(others(&peers, &node).collect());
    let group = match resume(&node, &peers).await? {
        Some(group) => group,
        None => begin(&node, &peers).await?,
    };
    node.add_members(&group);
    tokio::spawn(seats::run(node.clone(), group.clone()));
    coordinate::run(node, group).await;
    Ok(())
}

async fn start(node: &Arc<Node>, number: NodeId) -> anyhow::Result<Arc<Group>> {
    let shared = node.coordinator.clone().expect("only coordinators run this");
    let group = node.host.start(GroupId::COORDINATOR, number, Machine::coordinator(shared)).await?;
    tokio::spawn(follow_map(node.clone(), number));
    Ok(group)
}

/// Goes on where an earlier life of this node was a member.
async fn resume(node: &Arc<Node>, peers: &[Address]) -> anyhow::Result<Option<Arc<Group>>> {
    let Some(member) = identity::member(node.host.store())? else { return Ok(None) };
    node.set_member(member.node, member.cluster)?;
    node.recall_map()?;
    outgrown::ask_others(node, others(peers, node).collect()).await;
    if node.links.outgrown().is_some() {
        return pending().await;
    }
    let group = start(node, member.node).await?;
    let initialized = group.is_initialized().await?;
    if member.cluster.is_some() || initialized {
        if !initialized {
            node.set_obstacle(Some(BEING_ADDED.into()));
        }
        return Ok(Some(group));
    }
    // It waited for a founding that never was; what it is now told decides.
    node.host.stop(GroupId::COORDINATOR).await;
    Ok(None)
}

/// The beginning of a coordinator's life: it founds the group with its peers, or it waits until it is
/// given a seat in one that is there.
async fn begin(node: &Arc<Node>, peers: &[Address]) -> anyhow::Result<Arc<Group>> {
    let place = peers.iter().position(|peer| *peer == node.advertise);
    let founding = async {
        let Some(place) = place else {
            node.set_obstacle(Some(
                "this coordinator waits to be added to a cluster: POST /cluster/coordinators?addr= there"
                    .into(),
            ));
            return pending().await;
        };
        let number = NodeId(place as u64 + 1);
        node.set_member(number, None)?;
        let group = start(node, number).await?;
        if place == 0 {
            found(node, &group, peers).await?;
            return Ok(group);
        }
        await_founding(node, &group, peers).await;
        // The group also ends when a seat is taken, and with it the wait.
        if node.entrance.close().await { Ok(group) } else { pending().await }
    };
    tokio::select! {
        group = founding => group,
        number = node.entrance.taken() => {
            node.set_obstacle(Some(BEING_ADDED.into()));
            start(node, number).await
        }
    }
}

fn others<'a>(peers: &'a [Address], node: &'a Node) -> impl Iterator<Item = Peer> + 'a {
    peers.iter().filter(|peer| **peer != node.advertise).map(|peer| Peer::Addr(peer.to_string()))
}

/// Gives the group its members, once every other coordinator has answered that it is empty.
async fn found(node: &Arc<Node>, group: &Group, peers: &[Address]) -> anyhow::Result<()> {
    let ask = async |peer: &Address| -> Result<Coordinator, Error> {
        let addr = peer.to_string();
        if *peer == node.advertise {
            return Ok(Coordinator { addr, store: identity::store_id(node.host.store()) });
        }
        let deadline = Instant::now() + FOUNDING_ATTEMPT;
        let answer =
            node.router.ask_coordinator(&Peer::Addr(addr.clone()), &ClusterCall::Formed, deadline).await?;
        match answer {
            ClusterAnswer::Formed { initialized: false, store, .. } => Ok(Coordinator { addr, store }),
            // Only this node founds, and it has not: it did so in a life that it has forgotten.
            ClusterAnswer::Formed { .. } => Err(lost(node, &addr)),
            other => Err(other.unexpected()),
        }
    };
    loop {
        match try_join_all(peers.iter().map(&ask)).await {
            Ok(all) => {
                if !node.entrance.close().await {
                    return pending().await;
                }
                let numbered = all.into_iter().zip(1..).map(|(peer, number)| (NodeId(number), peer));
                let coordinators: BTreeMap<_, _> = numbered.collect();
                let members = coordinators
                    .iter()
                    .map(|(id, c)| (*id, raft_store::types::Node { addr: c.addr.clone(), store: c.store.0 }));
                node.add_coordinators(&coordinators);
                group.initialize(members.collect()).await?;
                return Ok(());
            }
            Err(Error::Refused(why)) => node.set_obstacle(Some(why)),
            Err(error) => node.set_obstacle(Some(format!("waiting for the other coordinators: {error}"))),
        }
        if node.is_stopping() {
            return Ok(());
        }
        sleep(FOUNDING_PAUSE).await;
    }
}

/// Until the founder has called: tells whoever asks why this coordinator is not ready.
async fn await_founding(node: &Arc<Node>, group: &Group, peers: &[Address]) {
    let mine = identity::store_id(node.host.store());
    while !node.is_stopping() {
        if matches!(group.is_initialized().await, Ok(true) | Err(_)) {
            return;
        }
        for peer in peers.iter().filter(|peer| **peer != node.advertise) {
            let deadline = Instant::now() + FOUNDING_ATTEMPT;
            let asked = Peer::Addr(peer.to_string());
            let answer = node.router.ask_coordinator(&asked, &ClusterCall::Formed, deadline).await;
            match answer {
                Ok(ClusterAnswer::Formed { initialized: true, stores, .. }) => {
                    // Who is named there will be called.
                    if !stores.contains(&mine) {
                        let told = lost(node, &peer.to_string());
                        node.set_obstacle(Some(told.to_string()));
                    }
                    break;
                }
                _ => node.set_obstacle(Some("waiting for the coordinator group to be founded".into())),
            }
        }
        sleep(FOUNDING_PAUSE).await;
    }
}

/// The group has begun without this store, and will not count on it: it may be given a seat.
fn lost(node: &Node, told_by: &str) -> Error {
    node.entrance.open();
    Error::Refused(format!(
        "{told_by} is a member of a coordinator group and this coordinator is not: its directory is new or was \
         lost; give it a new seat with POST /cluster/coordinators?addr={}",
        node.advertise
    ))
}

/// Takes every map that the group agrees on to where this node looks for it, as long as the group
/// runs under this number.
async fn follow_map(node: Arc<Node>, number: NodeId) {
    let shared = node.coordinator.clone().expect("only coordinators run this");
    let mut applied = shared.epochs();
    while node.number() == Some(number) {
        let map = shared.state().map().cloned();
        if let Some(map) = map {
            if let Err(error) = node.set_member(number, Some(map.cluster)) {
                tracing::error!(%error, "keep the cluster's identity");
            }
            // A newcomer's log begins before it was added, and a seat may be lost.
            if map.coordinators.contains_key(&number) {
                node.set_obstacle(None);
            } else if shared.state().unseated(number) {
                node.set_obstacle(Some("this coordinator is being removed from the cluster".into()));
            }
            node.follow_map(map).await;
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Answers a call, if this coordinator leads; `Formed` is answered by all.
pub(super) async fn answer(
    node: &Arc<Node>,
    call: ClusterCall,
    deadline: Instant,
) -> Result<ClusterAnswer, Error> {
    if call == ClusterCall::Formed {
        return formed(node).await;
    }
    let not_here = Error::NotLeader { leader: None };
    let group = seats::group(node).ok_or(not_here)?;
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    if !group.is_leader() {
        return Err(Error::NotLeader { leader: group.leader() });
    }
    match call {
        ClusterCall::Join { id, store, addr, zone, node: number, at, opening } => {
            // An id that came back with another store replaces the old worker only if that one is silent.
            let known = shared.state().worker(&id).map(|(number, _)| number);
            let inactive_after = inactive_after(&shared.state());
            let replace =
                known.is_some_and(|n| node.seen.lock().silent_for(n, Instant::now()) >= inactive_after);
            group.read_barrier(deadline).await?;
            if number.is_some_and(|number| shared.state().expelled(number)) {
                return Ok(ClusterAnswer::Expelled);
            }
            // A member is needed for what it keeps; its heartbeats are told.
            let off = node.seen.lock().clock_off(number, at, clock::now());
            if let Some(off) = off.filter(|_| number.is_none()) {
                return Err(Error::Refused(clocks::sentence(off)));
            }
            let command = Command::Join { id, store, addr, zone, node: number, replace, opening };
            match propose(&group, &command, deadline).await? {
                Reply::Joined { node: number, .. } => {
                    node.seen.lock().heard(number, &[], Some(at), Instant::now(), clock::now());
                    let map = shared.state().map().cloned();
                    let map = map.ok_or_else(|| Error::Unavailable("the cluster is being founded".into()))?;
                    Ok(ClusterAnswer::Joined { node: number, map: Box::new(map) })
                }
                Reply::Outgrown { height } => Ok(ClusterAnswer::Outgrown { height }),
                other => done(other),
            }
        }
        ClusterCall::Heartbeat { node: number, epoch, held, at, limps } => {
            let state = shared.state();
            let map = state.map().filter(|map| map.workers.contains_key(&number));
            let map = map.ok_or_else(|| Error::NotFound(format!("node {number} is not a member")))?;
            let mut seen = node.seen.lock();
            let now = clock::now();
            seen.heard(number, &held, Some(at), Instant::now(), now);
            seen.limps(number, limps);
            let clock_off_ms = seen.clock_off(Some(number), at, now);
            let wipe = held.iter().map(|held| held.group).filter(|group| {
                // Only a report of the shard's leader, made under a map that does not want the replica
                // here, says that nobody counts on it any more.
                let wanted = state.shard(*group).is_some_and(|(_, shard)| shard.replicas.contains(&number));
                let let_go = seen.shard(*group).is_some_and(|shard| {
                    shard.leader.is_some_and(|leader| leader != number)
                        && !shard.voters.contains(&number)
                        && !shard.learners.contains(&number)
                });
                !wanted && let_go
            });
            let wipe = wipe.collect();
            let newer = (map.epoch > epoch).then(|| Box::new(map.clone()));
            Ok(ClusterAnswer::Heard { map: newer, wipe, clock_off_ms })
        }
        ClusterCall::Ping { id, addr } => ping(node, &group, id, addr, deadline).await,
        ClusterCall::Workers => {
            group.read_barrier(deadline).await?;
            let cluster = cluster(node, &group)?;
            let active = cluster.workers.into_iter().filter(|worker| worker.active);
            Ok(ClusterAnswer::Workers(
                active.map(|worker| ActiveWorker { id: worker.id, addr: worker.addr }).collect(),
            ))
        }
        ClusterCall::Status => {
            group.read_barrier(deadline).await?;
            Ok(ClusterAnswer::Status(Box::new(cluster(node, &group)?)))
        }
        ClusterCall::Drain { id, draining } => {
            group.read_barrier(deadline).await?;
            if draining {
                leave_allowed(node, &group, |map, observed| leave::may_drain(map, observed, &id))?;
            }
            done(propose(&group, &Command::Drain { worker: id, draining }, deadline).await?)
        }
        ClusterCall::Remove { id } => {
            group.read_barrier(deadline).await?;
            let known = shared.state().worker(&id).map(|(number, _)| number);
            if let Some(number) = known {
                leave_allowed(node, &group, |map, observed| leave::may_remove(map, observed, number))?;
            }
            done(propose(&group, &Command::Remove { worker: id }, deadline).await?)
        }
        ClusterCall::Coordinators => {
            group.read_barrier(deadline).await?;
            let state = shared.state();
            let map = state.map().ok_or_else(|| Error::Unavailable("the cluster is being founded".into()))?;
            let observed = coordinate::observed(node, &state, map, &group, Instant::now());
            Ok(ClusterAnswer::Coordinators(status::coordinators(map, &observed)))
        }
        ClusterCall::AddCoordinator { addr } => seats::add(node, &group, addr, deadline).await,
        ClusterCall::RemoveCoordinator { which } => seats::remove(node, &group, &which, deadline).await,
        ClusterCall::Seated { node: number } => Ok(match seats::is_unseated(node, &group, number) {
            true => ClusterAnswer::Expelled,
            false => ClusterAnswer::Done,
        }),
        ClusterCall::Split { group: shard, at } => {
            let place = at.map_or(split::Where::Middle, split::Where::At);
            group.read_barrier(deadline).await?;
            let (shard, at) = split::order(node, &group, shard, place, deadline).await?;
            Ok(ClusterAnswer::Split { shard, at })
        }
        ClusterCall::Formed
        | ClusterCall::TakeSeat { .. }
        | ClusterCall::Map
        | ClusterCall::CountsOn { .. }
        | ClusterCall::TakeMap(_)
        | ClusterCall::Middle { .. }
        | ClusterCall::Transfer { .. }
        | ClusterCall::Invite { .. } => Err(Error::Invalid("this is not for a coordinator".into())),
    }
}

/// Who this coordinator is, for whoever founds a group or adds members to one.
async fn formed(node: &Arc<Node>) -> Result<ClusterAnswer, Error> {
    let Some(shared) = &node.coordinator else {
        return Err(Error::Refused(format!("the node at {} is a worker, not a coordinator", node.advertise)));
    };
    let (initialized, members) = match seats::group(node) {
        Some(group) => (group.is_initialized().await?, group.members()),
        None => (false, BTreeMap::new()),
    };
    let cluster = shared.state().map().map(|map| map.cluster);
    Ok(ClusterAnswer::Formed {
        initialized,
        cluster: cluster.or_else(|| node.member()?.cluster),
        store: identity::store_id(node.host.store()),
        stores: members.into_values().map(|member| StoreId(member.store)).collect(),
        addr: node.advertise.to_string(),
        free: node.entrance.is_free() && !initialized,
    })
}

/// Renews an id that only pings. Only a new one, or one that moved, costs a Raft write (D11).
async fn ping(
    node: &Arc<Node>,
    group: &Group,
    id: WorkerId,
    addr: String,
    deadline: Instant,
) -> Result<ClusterAnswer, Error> {
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    enum Known {
        Member(NodeId),
        Pinged,
        Not,
    }
    let known = {
        let state = shared.state();
        match (state.worker(&id), state.pinged().get(&id)) {
            (Some((number, worker)), _) if worker.addr == addr => Known::Member(number),
            (_, Some(pinged)) if pinged.addr == addr => Known::Pinged,
            _ => Known::Not,
        }
    };
    match known {
        // Its own heartbeats tell more; still, whoever pings for it from its address sees it alive.
        Known::Member(number) => {
            node.seen.lock().heard(number, &[], None, Instant::now(), clock::now());
        }
        Known::Pinged => {
            group.read_barrier(deadline).await?;
            node.seen.lock().pinged(id, Instant::now(), clock::now());
        }
        Known::Not => {
            let command = Command::Ping { id: id.clone(), addr };
            done(propose(group, &command, deadline).await?)?;
            node.seen.lock().pinged(id, Instant::now(), clock::now());
        }
    }
    Ok(ClusterAnswer::Done)
}

/// Asks the rules for workers that leave, which look at what was heard and not only at the map.
fn leave_allowed(
    node: &Node,
    group: &Group,
    rule: impl FnOnce(&Map, &Observed) -> Result<(), String>,
) -> Result<(), Error> {
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    let state = shared.state();
    let map = state.map().ok_or_else(|| Error::Unavailable("the cluster is being founded".into()))?;
    let observed = coordinate::observed(node, &state, map, group, Instant::now());
    rule(map, &observed).map_err(Error::Refused)
}

/// Puts a command through the coordinator group.
pub(super) async fn propose(group: &Group, command: &Command, deadline: Instant) -> Result<Reply, Error> {
    let reply = group.propose(encode(command), deadline).await?;
    postcard::from_bytes(&reply).map_err(|_| Error::Invalid("the coordinators run different versions".into()))
}

fn done(reply: Reply) -> Result<ClusterAnswer, Error> {
    match reply {
        Reply::Done { .. } | Reply::Joined { .. } | Reply::Split { .. } => Ok(ClusterAnswer::Done),
        Reply::Refused(why) => Err(Error::Refused(why)),
        Reply::Unknown(why) => Err(Error::NotFound(why)),
        Reply::Outgrown { .. } => Err(Error::Refused("the directory is an older copy of itself".into())),
    }
}

fn inactive_after(state: &State) -> Duration {
    Duration::from_millis(state.map().map_or(0, |map| map.settings.inactive_after_ms))
}

/// The whole cluster, from the map and from what was heard.
fn cluster(node: &Node, group: &Group) -> Result<status::Cluster, Error> {
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    let state = shared.state();
    let founding = || Error::Unavailable("the cluster is being founded".into());
    let map = state.map().ok_or_else(founding)?;
    let observed = coordinate::observed(node, &state, map, group, Instant::now());
    status::cluster(&state, &observed).ok_or_else(founding)
}

/// A new cluster's identity.
pub(super) fn new_cluster() -> ClusterId {
    ClusterId(Uuid::new_v4())
}
