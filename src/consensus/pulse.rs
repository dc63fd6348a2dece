//! The heartbeats of a node: one task for all its groups, and one small message per interval to each
//! node that has to do with what this one leads ([`super::liveness`] has the rules). openraft's own
//! heartbeats and election timers are off.
//!
//! Where no election is due, a look at all groups touches plain memory only, and a beat that says "as
//! before" is a few bytes for any number of groups.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use openraft::ServerState;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    group::Group,
    host::Host,
    liveness::{Beat, LEASE, LOOK, Liveness, Promise, View},
    types::{LogId, Metrics, Vote, VoteRequest, VoteResponse},
    wire::{self, Answer, Malformed, method},
};
use crate::{
    ids::{GroupId, NodeId},
    peer::{Conn, Lane, Links, Peer},
};

/// The time for the answer to a beat.
const BEAT_TIMEOUT: Duration = LEASE;

/// The time for the answers to a pre-vote.
const PRE_VOTE_TIMEOUT: Duration = Duration::from_millis(600);

/// What a node tells of the groups that it leads; see [`Liveness::hear`].
type Told = (u64, Option<Vec<(GroupId, u64)>>);

/// Which version of it is known, and in which groups the leader has to speak itself.
type Known = (u64, Vec<GroupId>);

/// A leader speaks to its followers by Raft's own means at least so often. Whatever they may have
/// missed without either side noticing (a commit notice that found a full queue) reaches them then.
const REMINDER: Duration = Duration::from_secs(60);

/// The table, shared by the groups of a node.
#[derive(Clone, Default)]
pub(super) struct Pulse {
    pub(super) table: Arc<Mutex<Liveness>>,
    /// Some node does not answer: otherwise no leader here needs to ask whether it is cut off.
    misses_any: Arc<AtomicBool>,
}

impl Pulse {
    /// See [`Liveness::answers`].
    pub(super) fn answers(&self) -> BTreeMap<NodeId, Duration> {
        self.table.lock().answers(Instant::now())
    }
}

/// How a group's replica follows, as its appends tell.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The term of the last append taken from a leader since the replica runs, or since the leader's
    /// connection was last made anew.
    term: AtomicU64,
    /// Appends taken.
    appends: AtomicU64,
    /// The same at the last look.
    looked: AtomicU64,
    /// The term in which this replica, as leader, has begun to hand over.
    handing_over: AtomicU64,
}

impl Following {
    /// The replica has taken an append.
    pub(super) fn took(&self, vote: &Vote) {
        self.term.store(vote.leader_id.term, Ordering::Relaxed);
        self.appends.fetch_add(1, Ordering::Relaxed);
    }

    /// The leader must speak again before this replica counts as following.
    pub(super) fn unsettle(&self) {
        self.term.store(0, Ordering::Relaxed);
    }

    /// This replica leads in `term` and asks another one to take over: from now on it takes no writes
    /// in this term, so it no longer claims the group.
    pub(super) fn hands_over(&self, term: u64) {
        self.handing_over.store(term, Ordering::Relaxed);
    }
}

/// What is looked at in a group, and what it is claimed by.
fn view(group: &Group) -> View {
    let appends = group.following.appends.load(Ordering::Relaxed);
    let appended = group.following.looked.swap(appends, Ordering::Relaxed) != appends;
    let (promise, leads) = group.metrics(|metrics| {
        let is_leader = metrics.state == ServerState::Leader;
        (promise(&metrics.vote), is_leader && metrics.running_state.is_ok())
    });
    let handing_over = group.following.handing_over.load(Ordering::Relaxed) == promise.term;
    View {
        group: group.id,
        promise,
        leads: leads && !(handing_over && promise.term > 0),
        followed: group.following.term.load(Ordering::Relaxed),
        appended,
    }
}

fn promise(vote: &Vote) -> Promise {
    let Vote { leader_id, committed } = vote;
    Promise { term: leader_id.term, node: NodeId(leader_id.node_id), elected: *committed }
}

/// Runs until the host is gone.
pub(super) async fn run(host: std::sync::Weak<Host>, links: Arc<Links>, pulse: Pulse) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut led = Vec::new();
    let looks_per_reminder = (REMINDER.as_millis() / LOOK.as_millis()) as u64;
    let mut looks = 0u64;
    loop {
        ticks.tick().await;
        let Some(host) = host.upgrade() else { return };
        let groups = host.all();
        if groups.is_empty() {
            continue;
        }
        let views: Vec<View> = groups.iter().map(|group| view(group)).collect();
        let news = claims(&groups, &views, &mut led);
        let now = Instant::now();
        let (stand, beats) = {
            let mut table = pulse.table.lock();
            pulse.misses_any.store(table.misses_any(now), Ordering::Relaxed);
            let stand = table.tick(now, &views, |id| host.get(id).map(|g| g.voters()).unwrap_or_default());
            (stand, table.beats(now, news))
        };
        for beat in beats {
            tokio::spawn(send(host.clone(), links.clone(), pulse.clone(), beat));
        }
        looks += 1;
        let due = |view: &View| view.leads && (view.group.0 + looks).is_multiple_of(looks_per_reminder);
        for (group, _) in groups.iter().zip(&views).filter(|(_, view)| due(view)) {
            // By itself: a group that is held up must not hold up the beats. Fails only when it has
            // stopped.
            let raft = group.raft.clone();
            tokio::spawn(async move { raft.trigger().heartbeat().await });
        }
        if !stand.is_empty() {
            let by_id = groups.iter().map(|group| (group.id, group)).collect::<HashMap<_, _>>();
            for group in stand.iter().filter_map(|id| by_id.get(id)) {
                tokio::spawn(self::stand((*group).clone(), links.clone()));
            }
        }
    }
}

/// What each other node is to be told, if that has changed since the last call.
fn claims(
    groups: &[Arc<Group>],
    views: &[View],
    last: &mut Vec<(GroupId, u64, Option<u64>)>,
) -> Option<HashMap<NodeId, Vec<(GroupId, u64)>>> {
    let led = || groups.iter().zip(views).filter(|(_, view)| view.leads);
    let membership = |group: &Group| {
        group.metrics(|metrics| metrics.membership_config.log_id().as_ref().map(|id| id.index))
    };
    let mut now: Vec<_> =
        led().map(|(group, view)| (view.group, view.promise.term, membership(group))).collect();
    now.sort_unstable();
    if now == *last {
        return None;
    }
    *last = now;
    let mut claims: HashMap<NodeId, Vec<(GroupId, u64)>> = HashMap::new();
    for (group, view) in led() {
        for member in group.members().into_keys().filter(|id| *id != group.me) {
            claims.entry(member).or_default().push((view.group, view.promise.term));
        }
    }
    claims.values_mut().for_each(|claims| claims.sort_unstable());
    Some(claims)
}

async fn send(host: Arc<Host>, links: Arc<Links>, pulse: Pulse, beat: Beat) {
    let sent = Instant::now();
    let told: Told = (beat.version, beat.claims);
    let body = postcard::to_stdvec(&told).expect("plain data serializes and memory does not fail");
    let peer = Peer::Node(beat.to);
    let answer = links.call(&peer, Lane::Main, method::BEAT, body.into(), sent + BEAT_TIMEOUT).await;
    let known = answer.ok().and_then(|answer| wire::read::<Known>(&answer).ok());
    pulse.table.lock().answered(beat.to, sent, known.as_ref().map(|(held, _)| *held));
    for id in known.into_iter().flat_map(|(_, unsettled)| unsettled) {
        if let Some(group) = host.get(id)
            && group.is_leader()
        {
            // Fails only when the group has stopped.
            let _ = group.raft.trigger().heartbeat().await;
        }
    }
}

/// Takes another node's beat.
pub(super) fn hear(host: &Host, pulse: &Pulse, from: &Conn, body: &[u8]) -> Result<Bytes, Malformed> {
    let (version, claims) = wire::read::<Told>(body)?;
    let mut known: Known = (0, Vec::new());
    if let Some(node) = from.peer().node {
        let groups: Vec<GroupId> = claims.iter().flatten().map(|(group, _)| *group).collect();
        let noted = pulse.table.lock().hear(Instant::now(), from.id(), node, version, claims);
        if noted.anew {
            for group in groups.into_iter().filter_map(|group| host.get(group)) {
                group.following.unsettle();
            }
        }
        known = (noted.version, noted.unsettled);
    }
    Ok(postcard::to_stdvec(&known).expect("plain data serializes and memory does not fail").into())
}

/// Whether this replica would see `candidate` lead in the place of whom it follows.
pub(super) fn may_stand(group: &Group, candidate: NodeId) -> bool {
    let (promise, voters) = group.metrics(|metrics| {
        let voters = metrics.membership_config.membership().get_joint_config();
        (promise(&metrics.vote), ids(voters))
    });
    group.pulse.table.lock().may_stand(Instant::now(), group.id, candidate, promise, &voters)
}

/// Whether this leader can commit nothing, because too many voters have stopped answering it.
pub(super) fn is_cut_off(group: &Group) -> bool {
    if !group.pulse.misses_any.load(Ordering::Relaxed) {
        return false;
    }
    let voters = group.metrics(|metrics| ids(metrics.membership_config.membership().get_joint_config()));
    group.pulse.table.lock().is_cut_off(Instant::now(), &voters)
}

fn ids(voters: &[BTreeSet<u64>]) -> Vec<BTreeSet<NodeId>> {
    voters.iter().map(|voters| voters.iter().copied().map(NodeId).collect()).collect()
}

/// What a replica has promised, and the last entry of its log.
async fn known(group: &Group) -> Answer<(Vote, Option<LogId>)> {
    let known = group.raft.with_raft_state(|state| (*state.vote_ref(), state.log_ids.last().copied())).await;
    known.map_err(|fatal| fatal.to_string())
}

/// Answers whether this replica, where it is `free` to, would vote as asked, in a term that is high
/// enough: the candidate learns from the answer which one that is. Nothing changes by it.
pub(super) async fn pre_vote(group: &Group, request: &VoteRequest, free: bool) -> Answer<VoteResponse> {
    let (vote, last) = known(group).await?;
    Ok(VoteResponse::new(vote, last, free && request.last_log_id >= last))
}

/// Refuses a vote without asking openraft, whose leases know nothing of beats.
pub(super) async fn refuse(group: &Group) -> Answer<VoteResponse> {
    let (vote, last) = known(group).await?;
    Ok(VoteResponse::new(vote, last, false))
}

/// Stands for election, if a majority would vote so (pre-vote: Ongaro's dissertation, section 9.6). A
/// replica that was cut off so neither deposes a leader that the others hear, nor raises its term. Tells
/// whether it stood.
pub(super) async fn stand(group: Arc<Group>, links: Arc<Links>) -> bool {
    if group.is_leader() {
        return false;
    }
    let Ok((vote, last)) = known(&group).await else { return false };
    let voters = group.metrics(|metrics| ids(metrics.membership_config.membership().get_joint_config()));
    let mut wanted = vote;
    (wanted.leader_id.term, wanted.leader_id.node_id, wanted.committed) =
        (vote.leader_id.term + 1, group.me.0, false);
    let (request, gone) = (VoteRequest::new(wanted, last), group.gone.get());
    let deadline = Instant::now() + PRE_VOTE_TIMEOUT;
    let others: BTreeSet<NodeId> = voters.iter().flatten().copied().filter(|id| *id != group.me).collect();
    let mut answers: FuturesUnordered<_> = others
        .into_iter()
        .map(|id| {
            let (links, body) = (links.clone(), wire::message(group.id, &(&request, gone)));
            async move {
                let answer = links.call(&Peer::Node(id), Lane::Main, method::PRE_VOTE, body, deadline).await;
                let answer = answer.ok().and_then(|body| wire::read::<Answer<VoteResponse>>(&body).ok());
                (id, answer.and_then(Result::ok).filter(|answer| answer.vote_granted))
            }
        })
        .collect();
    let mut granted = BTreeSet::from([group.me]);
    let mut term = vote.leader_id.term;
    loop {
        let majority = |voters: &BTreeSet<NodeId>| voters.intersection(&granted).count() * 2 > voters.len();
        if voters.iter().all(majority) {
            break;
        }
        match answers.next().await {
            Some((id, Some(answer))) => {
                granted.insert(id);
                term = term.max(answer.vote.leader_id.term);
            }
            Some((_, None)) => {}
            None => return false,
        }
    }
    // Whom this replica has voted for meanwhile was the first: let it win. openraft takes votes and the
    // order to stand in the order in which they are given to it.
    let ballot = group.ballot.lock().await;
    if !known(&group).await.is_ok_and(|(now, _)| now == vote) {
        return false;
    }
    let why = if gone.is_some() { "the leader's process is gone" } else { "nobody is heard to lead" };
    tracing::info!(group = %group.id, leader = ?group.leader(), "stand for election: {why}");
    // Fails only when the group has stopped.
    let _ = group.raft.trigger().elect(false).await;
    drop(ballot);
    if term > vote.leader_id.term {
        // A voter was in a higher term. openraft learns of it where it is refused, and not before.
        let learned = |metrics: &Metrics| metrics.vote.leader_id.term >= term;
        let wait = group.raft.wait(Some(deadline.saturating_duration_since(Instant::now())));
        if wait.metrics(learned, "the term to exceed is known").await.is_ok() && group.leader().is_none() {
            let _ = group.raft.trigger().elect(false).await;
        }
    }
    true
}
