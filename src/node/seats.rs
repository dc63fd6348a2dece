//! The members of the coordinator group: how an empty coordinator gets its seat, how the group's
//! members become those of the map, and how one that was taken out learns of it.
//!
//! The way in: the leader asks the newcomer who it is ([`add`]), commits a number for it to the map
//! ([`crate::coordinator::seats`]), tells it that number ([`take`]), has it follow the log, and, when
//! it has caught up, lets it vote ([`converge`]). The way out is a command and the same [`converge`].
//! Every step can be taken again, by any leader, from the map and the group's membership alone.
//!
//! Invariants:
//! - a store takes one seat in its life, before its group has begun, and keeps it ([`take`]);
//! - a coordinator stops its group only when a leader has said that the committed membership is
//!   without it ([`ask_for_seat`]): until then its vote may be needed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use raft_store::types::Node as Member;
use rand::seq::IteratorRandom;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{Node, coordinator::propose, identity};
use crate::{
    consensus::group::{Group, Status},
    coordinator::{
        command::{Command, Reply},
        seats::{self, Seats},
    },
    error::Error,
    ids::{GroupId, NodeId, StoreId},
    peer::Peer,
    ring::map::Map,
    router::calls::{ClusterAnswer, ClusterCall, Seat},
};

/// Between two looks at the members while nothing tells that the map has changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// The time for one step of a change; a step that takes longer is taken up again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for a coordinator to show that it lives.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);

/// A member that has not answered the leader for so long is shown as silent: many beats.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// How often a coordinator that does not lead asks whether it still belongs to the group.
const SEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Nodes that are asked for their map at a time, when no coordinator answers.
const ASKED_AROUND: usize = 3;

/// Where a coordinator without a seat waits for one.
#[derive(Debug)]
pub(super) struct Entrance {
    /// Whether it may be given one: it founds no group, and no group that has begun knows its store.
    free: AtomicBool,
    /// The seat that it has taken.
    taken: watch::Sender<Option<NodeId>>,
    turn: tokio::sync::Mutex<()>,
}

impl Entrance {
    pub(super) fn new() -> Self {
        Self {
            free: AtomicBool::new(false),
            taken: watch::Sender::new(None),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// From now on a seat may be given to it.
    pub(super) fn open(&self) {
        self.free.store(true, Ordering::Release);
    }

    pub(super) fn is_free(&self) -> bool {
        self.free.load(Ordering::Acquire)
    }

    /// From now on no seat is given to it; tells whether none was.
    pub(super) async fn close(&self) -> bool {
        let _turn = self.turn.lock().await;
        self.free.store(false, Ordering::Release);
        self.taken.borrow().is_none()
    }

    /// Returns once a seat was taken.
    pub(super) async fn taken(&self) -> NodeId {
        let mut taken = self.taken.subscribe();
        match taken.wait_for(Option::is_some).await.map(|seat| *seat) {
            Ok(Some(number)) => number,
            // The sender lives as long as the node.
            _ => std::future::pending().await,
        }
    }
}

/// On an empty coordinator: takes the seat that the map has for it; durable on return.
pub(super) async fn take(node: &Arc<Node>, number: NodeId, map: Map) -> Result<(), Error> {
    let _turn = node.entrance.turn.lock().await;
    let mine = identity::store_id(node.host.store());
    if map.coordinators.get(&number).is_none_or(|seat| seat.store != mine) {
        return Err(Error::Refused(format!("the seat of coordinator {number} is for another directory")));
    }
    if node.member().is_some_and(|member| member.node == number && member.cluster == Some(map.cluster)) {
        return Ok(());
    }
    if !node.entrance.is_free() {
        return Err(Error::Refused("this coordinator is not empty, or is not waiting to be added".into()));
    }
    let failed = |error: anyhow::Error| Error::Unavailable(format!("{error:#}"));
    // Where it took itself for a founder, a group waits here under a number that is void, and that
    // another store may have votes under.
    node.host.stop(GroupId::COORDINATOR).await;
    // The map first: who has a seat knows where the others are.
    identity::set_map(node.host.store(), &map).map_err(failed)?;
    node.set_member(number, Some(map.cluster)).map_err(failed)?;
    node.follow_map(map).await;
    node.entrance.free.store(false, Ordering::Release);
    node.entrance.taken.send_replace(Some(number));
    tracing::info!(%number, "taken into the coordinator group");
    Ok(())
}

/// At the leader: gives a seat to the coordinator that answers at `addr`.
pub(super) async fn add(
    node: &Arc<Node>,
    group: &Group,
    addr: String,
    deadline: Instant,
) -> Result<ClusterAnswer, Error> {
    group.read_barrier(deadline).await?;
    let cluster = with_map(node, |map| map.cluster)?;
    let asked = node.router.ask_newcomer(addr.clone(), &ClusterCall::Formed, Instant::now() + ANSWER_TIMEOUT);
    let (addr, store) = match asked.await {
        Ok(ClusterAnswer::Formed { addr, store, free: true, .. }) => (addr, store),
        Ok(ClusterAnswer::Formed { cluster: Some(other), .. }) if other != cluster => {
            return Err(Error::Refused(format!(
                "the coordinator at {addr} belongs to another cluster, {other}; start it on an empty directory"
            )));
        }
        Ok(ClusterAnswer::Formed { addr, store, initialized, cluster, .. }) => {
            // A member says so itself; who was one is told what to do.
            let is_member = with_map(node, |map| map.coordinators.values().any(|c| c.store == store))?;
            return Err(Error::Refused(match (is_member, initialized || cluster.is_some()) {
                (true, _) => format!("{addr} is a member of the coordinator group already"),
                (false, true) => format!(
                    "the coordinator at {addr} is not empty: it was a member before; start it on an empty directory"
                ),
                (false, false) => format!(
                    "the coordinator at {addr} is founding a cluster with its own --peers; start it with --join"
                ),
            }));
        }
        Ok(other) => return Err(other.unexpected()),
        Err(error @ Error::Refused(_)) => return Err(error),
        Err(error) => {
            return Err(Error::Refused(format!(
                "no coordinator for this cluster answers: {error}; start one there, on an empty directory, with --join"
            )));
        }
    };
    let seen = probe(node, group).await;
    let (judged, among) = with_map(node, |map| {
        (seats::may_add(map, &seen, &addr, store), map.coordinators.keys().copied().collect())
    })?;
    let replaces = judged.map_err(Error::Refused)?;
    let command = Command::AddCoordinator { addr: addr.clone(), store, among };
    match propose(group, &command, deadline).await? {
        Reply::Joined { node, .. } => Ok(ClusterAnswer::Seat(Seat { node, addr, replaces })),
        Reply::Refused(why) => Err(Error::Refused(why)),
        other => Err(Error::Unknown(format!("the coordinators answered something else: {other:?}"))),
    }
}

/// At the leader: takes a coordinator off the map; [`converge`] does the rest.
pub(super) async fn remove(
    node: &Arc<Node>,
    group: &Group,
    which: &str,
    deadline: Instant,
) -> Result<ClusterAnswer, Error> {
    group.read_barrier(deadline).await?;
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    let number = shared.state().coordinator(which);
    let number = number.ok_or_else(|| {
        Error::NotFound(format!("there is no coordinator {which}; GET /cluster/coordinators lists them"))
    })?;
    let seen = probe(node, group).await;
    let (judged, addr, among) = with_map(node, |map| {
        let addr = map.coordinators.get(&number).map(|seat| seat.addr.clone()).unwrap_or_default();
        (seats::may_remove(map, &seen, number), addr, map.coordinators.keys().copied().collect())
    })?;
    judged.map_err(Error::Refused)?;
    match propose(group, &Command::RemoveCoordinator { node: number, among }, deadline).await? {
        Reply::Done { .. } => Ok(ClusterAnswer::Seat(Seat { node: number, addr, replaces: None })),
        Reply::Refused(why) => Err(Error::Refused(why)),
        Reply::Unknown(why) => Err(Error::NotFound(why)),
        other => Err(Error::Unknown(format!("the coordinators answered something else: {other:?}"))),
    }
}

/// Whether a coordinator has lost its seat for good: it is off the map, and the membership without
/// it is committed.
pub(super) fn is_unseated(node: &Node, group: &Group, number: NodeId) -> bool {
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    let status = group.status();
    let sits = status.voters.contains(&number) || status.learners.contains(&number);
    status.members_committed && !status.joint && !sits && shared.state().unseated(number)
}

fn with_map<T>(node: &Node, look: impl FnOnce(&Map) -> T) -> Result<T, Error> {
    let shared = node.coordinator.as_ref().expect("the group runs on coordinators only");
    let state = shared.state();
    state.map().map(look).ok_or_else(|| Error::Unavailable("the cluster is being founded".into()))
}

async fn ask(node: &Node, peer: &Peer, call: ClusterCall) -> Result<ClusterAnswer, Error> {
    node.router.ask_coordinator(peer, &call, Instant::now() + ANSWER_TIMEOUT).await
}

/// The group as its leader sees it, from what its messages tell, at no cost.
pub(super) fn seen(node: &Node, status: &Status) -> Seats {
    let answers = |(_, ago): &(&NodeId, &Duration)| **ago < SILENT_AFTER;
    let alive = status.answered.iter().filter(answers).map(|(id, _)| *id).chain(node.number());
    Seats {
        voters: status.voters.clone(),
        learners: status.learners.clone(),
        unsettled: status.joint || !status.members_committed,
        alive: alive.collect(),
    }
}

/// The same, with everyone asked anew: before a change that counts on the others.
async fn probe(node: &Arc<Node>, group: &Group) -> Seats {
    let mut seats = seen(node, &group.status());
    let members =
        with_map(node, |map| map.coordinators.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
    let me = node.number();
    let asked = members.into_iter().map(|member| async move {
        let lives = Some(member) == me || ask(node, &Peer::Node(member), ClusterCall::Formed).await.is_ok();
        lives.then_some(member)
    });
    seats.alive = join_all(asked).await.into_iter().flatten().collect();
    seats
}

/// Runs on a coordinator with a seat, as long as the node or until the seat is gone.
pub(super) async fn run(node: Arc<Node>, group: Arc<Group>) {
    let shared = node.coordinator.clone().expect("only coordinators run this");
    let mut epochs = shared.epochs();
    let mut asked = Instant::now();
    while !node.is_stopping() && !node.expelled.load(Ordering::Relaxed) {
        if group.is_leader() {
            let deadline = Instant::now() + STEP_TIMEOUT;
            match timeout_at(deadline, converge(&node, &group, deadline)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "change the coordinators"),
                Err(_) => tracing::debug!("change the coordinators: no answer yet"),
            }
        } else if asked.elapsed() >= SEAT_INTERVAL {
            ask_for_seat(&node).await;
            asked = Instant::now();
        }
        // The sender lives as long as the group; a timeout is the ordinary case.
        let _ = timeout(INTERVAL, epochs.changed()).await;
    }
}

/// At the leader: takes the next step towards the map's coordinators.
async fn converge(node: &Arc<Node>, group: &Group, deadline: Instant) -> Result<(), Error> {
    let wanted = || -> Result<BTreeMap<NodeId, Member>, Error> {
        with_map(node, |map| {
            let member = |store: StoreId, addr: &String| Member { addr: addr.clone(), store: store.0 };
            map.coordinators.iter().map(|(id, c)| (*id, member(c.store, &c.addr))).collect()
        })
    };
    let is_settled = |wanted: &BTreeMap<NodeId, Member>, status: &Status| {
        status.voters.iter().eq(wanted.keys()) && status.learners.is_empty() && !status.joint
    };
    match wanted() {
        // Not founded yet, or nothing to do.
        Err(_) => return Ok(()),
        Ok(wanted) if is_settled(&wanted, &group.status()) => return Ok(()),
        Ok(_) => {}
    }
    // The members may be newer than the state of a leader that has just been elected.
    group.read_barrier(deadline).await?;
    let (wanted, status) = (wanted()?, group.status());
    if node.number().is_some_and(|me| !wanted.contains_key(&me)) {
        // Another leads the change that takes this one out.
        let stays = |id: NodeId| wanted.contains_key(&id) && !node.links.is_gone(id);
        group.hand_over(stays, deadline).await;
        return Ok(());
    }
    for (id, member) in wanted.iter().filter(|(id, _)| !status.voters.contains(id)) {
        // It must live, and know its number, before anything counts on it.
        if ask(node, &Peer::Node(*id), ClusterCall::Formed).await.is_err() {
            let map = with_map(node, |map| Box::new(map.clone()))?;
            ask(node, &Peer::Addr(member.addr.clone()), ClusterCall::TakeSeat { node: *id, map })
                .await?
                .done()?;
        }
    }
    group.change_members(&wanted).await.map(|_| ())
}

/// Off the lead: asks whether the group still counts on this coordinator, and stops it if not.
async fn ask_for_seat(node: &Arc<Node>) {
    let Some(number) = node.number() else { return };
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    match node.router.coordinate(ClusterCall::Seated { node: number }, deadline).await {
        Ok(ClusterAnswer::Expelled) => {
            node.expel().await;
            node.set_obstacle(Some(
                "this coordinator was removed from the cluster and cannot come back from its directory: start \
                 a new one on an empty directory, with --join, and add it"
                    .into(),
            ));
        }
        Ok(_) => {}
        Err(_) => ask_around(node).await,
    }
}

/// When no coordinator answers: asks other nodes for a newer map, which may name other coordinators.
pub(super) async fn ask_around(node: &Arc<Node>) {
    let Some(map) = node.router.map() else { return };
    let me = node.number();
    let others = map.workers.keys().chain(map.coordinators.keys()).filter(|id| Some(**id) != me).copied();
    let chosen = others.sample(&mut rand::rng(), ASKED_AROUND);
    let answers = join_all(chosen.into_iter().map(|id| ask_for_map(node, id))).await;
    let newest = answers.into_iter().flatten().max_by_key(|newer| newer.epoch);
    if let Some(newer) = newest.filter(|newer| newer.cluster == map.cluster && newer.epoch > map.epoch) {
        tracing::info!(epoch = %newer.epoch, "a newer map from another node");
        node.take_map(newer).await;
    }
}

async fn ask_for_map(node: &Arc<Node>, of: NodeId) -> Option<Map> {
    match ask(node, &Peer::Node(of), ClusterCall::Map).await {
        Ok(ClusterAnswer::Map(map)) => map.map(|map| *map),
        _ => None,
    }
}

/// The coordinator group, if this node's replica of it runs.
pub(super) fn group(node: &Node) -> Option<Arc<Group>> {
    node.host.get(GroupId::COORDINATOR)
}
