//! One Raft group on this node: what the layers above may do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    ChangeMembers, ServerState,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, InitializeError, RaftError},
};
use parking_lot::Mutex;
use raft_store::{
    Reader, Store, StoreError,
    types::{Node, TypeConfig},
};
use tokio::time::Instant;

use super::{
    alarms::Alarms,
    freshness::Freshness,
    log_limits::SharedIndex,
    machine::ShardView,
    proposer::Proposer,
    pulse::{self, Following, Pulse},
    reads::{Lead, Reads},
    receive::Sessions,
    transport::GoneHint,
    types::{Metrics, Raft},
};
use crate::{
    error::Error,
    ids::{GroupId, NodeId, Position, Span},
    shard::{self, Estimate, Shard},
};

/// Log entries a learner may be behind to count as caught up: what it misses is then replicated
/// while the change of members is under way.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// A group that runs on this node.
pub struct Group {
    pub(super) id: GroupId,
    pub(super) me: NodeId,
    pub(super) raft: Raft,
    pub(super) sessions: Sessions,
    pub(super) gone: GoneHint,
    pub(super) shared: SharedIndex,
    pub(super) freshness: Freshness,
    pub(super) following: Arc<Following>,
    pub(super) pulse: Pulse,
    /// Held while this replica is asked for its vote, and while it makes sure that it has given none and
    /// stands itself. Else it might depose whom it has just helped to be elected.
    pub(super) ballot: tokio::sync::Mutex<()>,
    shard: Option<Shard>,
    store: Store,
    reader: Reader,
    proposer: Proposer,
    reads: Arc<Reads>,
    size: Mutex<Size>,
}

/// How much data a shard has, when that was last looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// On disk, about.
    pub bytes: u64,
    /// Its arc at that time; `None` before its first split.
    pub arc: Option<Span>,
}

/// What all groups of a node share.
pub(super) struct Common {
    pub(super) store: Store,
    pub(super) reads: Arc<Reads>,
    pub(super) pulse: Pulse,
    pub(super) alarms: Arc<Alarms>,
}

/// What a replica knows about its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// The last index it knows to be committed.
    pub commit: u64,
    /// The last index it has applied.
    pub applied: u64,
    /// The last index in its log.
    pub last: u64,
    /// Who votes, by its latest membership: the union while members change.
    pub voters: BTreeSet<NodeId>,
    /// Who only listens.
    pub learners: BTreeSet<NodeId>,
    /// Whether it leads and a majority has its first entry: until then it may lead in name only.
    pub settled: bool,
    /// Whether its membership is between two sets of voters.
    pub joint: bool,
    /// Whether its membership is known to be committed.
    pub members_committed: bool,
    /// At the leader: the last index each other member is known to have.
    pub matched: BTreeMap<NodeId, u64>,
    /// At the leader: how long ago each other member's node last answered a beat; one that never did is
    /// not there.
    pub answered: BTreeMap<NodeId, Duration>,
    /// Why it has stopped, if it has.
    pub stopped: Option<String>,
}

/// How far a change of members has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The members are as wanted.
    Done,
    /// A step was taken, or a learner is catching up: ask again.
    Underway,
}

impl Group {
    pub(super) fn new(
        id: GroupId,
        me: NodeId,
        raft: Raft,
        shard: Option<Shard>,
        common: Common,
        gone: GoneHint,
        shared: SharedIndex,
    ) -> Self {
        let Common { store, reads, pulse, alarms } = common;
        let proposer = Proposer::new(id, raft.clone(), alarms);
        let reader = store.reader(id.0);
        let (sessions, size) = (Sessions::default(), Mutex::default());
        let freshness = Freshness::default();
        let following = Arc::default();
        Self {
            id,
            me,
            raft,
            sessions,
            gone,
            shared,
            freshness,
            following,
            pulse,
            ballot: tokio::sync::Mutex::default(),
            shard,
            store,
            reader,
            proposer,
            reads,
            size,
        }
    }

    /// Its number.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whether this replica believes to lead.
    pub fn is_leader(&self) -> bool {
        self.metrics(|metrics| {
            metrics.current_leader == Some(self.me.0) && metrics.state == ServerState::Leader
        })
    }

    /// The term in which this replica believes to lead.
    pub fn leads_in(&self) -> Option<u64> {
        self.metrics(|metrics| (metrics.state == ServerState::Leader).then_some(metrics.current_term))
    }

    /// Where this replica leads and a majority has its first entry: the term, and the index of the latest
    /// membership.
    pub fn settled(&self) -> Option<(u64, u64)> {
        self.metrics(|metrics| {
            let members = metrics.membership_config.log_id().as_ref().map_or(0, |id| id.index);
            self.is_settled(metrics).then_some((metrics.current_term, members))
        })
    }

    fn is_settled(&self, metrics: &Metrics) -> bool {
        metrics.current_leader == Some(self.me.0)
            && metrics.state == ServerState::Leader
            && metrics.local_committed.as_ref().is_some_and(|id| id.leader_id == metrics.vote.leader_id)
    }

    /// Whom this replica believes to lead.
    pub fn leader(&self) -> Option<NodeId> {
        self.metrics(|metrics| metrics.current_leader.map(NodeId))
    }

    /// Puts a command into the log and returns the machine's reply once it is applied here, which
    /// is after a majority has it on disk. The error tells whether it may still happen.
    pub async fn propose(&self, command: Bytes, deadline: Instant) -> Result<Bytes, Error> {
        // A leader that hears of no majority refuses what it could only leave in doubt.
        if pulse::is_cut_off(self) {
            return Err(Error::NotLeader { leader: None });
        }
        self.proposer.propose(command, deadline).await
    }

    /// Returns once what [`Group::reader`] shows reflects every write acknowledged before this call.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), Error> {
        let Some(lead) = self.lead() else { return Err(Error::NotLeader { leader: self.leader() }) };
        if !self.has_own_entry(lead) {
            let wait = self.raft.wait(Some(deadline.saturating_duration_since(Instant::now())));
            let applied = |metrics: &Metrics| {
                self.has_own_entry(lead) || metrics.vote > lead.vote || metrics.running_state.is_err()
            };
            if wait.metrics(applied, "the leader's first entry is applied").await.is_err() {
                return Err(Error::Unavailable("the shard's new leader is not ready yet".into()));
            }
            if !self.has_own_entry(lead) {
                return Err(Error::NotLeader { leader: self.leader() });
            }
        }
        let voters =
            || self.metrics(|metrics| metrics.membership_config.membership().get_joint_config().clone());
        self.reads.prove(lead, voters, deadline).await
    }

    /// At the leader: an index that every write acknowledged before this call is at or below. It had
    /// applied them when it was proved to lead, or leaders before it had acknowledged them and its
    /// own entry came behind.
    pub(super) async fn read_index(&self, deadline: Instant) -> Result<u64, Error> {
        self.read_barrier(deadline).await?;
        Ok(self.reader.applied().map_or(0, |id| id.index))
    }

    /// As whom this replica leads, by the vote on its disk.
    fn lead(&self) -> Option<Lead> {
        let vote = self.store.vote(self.id.0)?;
        let leads = vote.committed && vote.leader_id.node_id == self.me.0;
        leads.then_some(Lead { group: self.id, vote })
    }

    /// Whether an entry of this leader itself is applied here, and with it all that earlier leaders
    /// had acknowledged.
    fn has_own_entry(&self, lead: Lead) -> bool {
        self.reader.applied().is_some_and(|applied| applied.leader_id == lead.vote.leader_id)
    }

    /// The applied state of this replica.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// For a shard: which one it is.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// For a shard: the arc that its applied state says; `None` before its first split.
    pub fn arc(&self) -> Result<Option<Span>, Error> {
        let Some(shard) = self.shard else { return Ok(None) };
        let view = ShardView::of(&self.reader).map_err(unavailable)?;
        shard::arc(&view, shard).map_err(unavailable)
    }

    /// For a shard: how much data it had at the last [`Group::measure`].
    pub fn size(&self) -> Size {
        *self.size.lock()
    }

    /// For a shard: looks how much data it has on disk. Blocks.
    pub fn measure(&self) -> Result<(), Error> {
        let Some(shard) = self.shard else { return Ok(()) };
        let view = ShardView::of(&self.reader).map_err(unavailable)?;
        let arc = shard::arc(&view, shard).map_err(unavailable)?;
        let bytes = match arc {
            None => self.reader.size_bytes().map_err(unavailable)?,
            Some(arc) => self.size_of(&view, arc)?,
        };
        *self.size.lock() = Size { bytes, arc };
        Ok(())
    }

    fn size_of(&self, view: &ShardView, arc: Span) -> Result<u64, Error> {
        let ranges = shard::ranges(view, arc).map_err(unavailable)?;
        Ok(self.reader.sizes_bytes(&ranges).map_err(unavailable)?.iter().sum())
    }

    /// For a shard that keeps this arc: the position that parts its data into halves; `None` where all
    /// of it has one position. `flush` is for what is only in memory, where there is much. Blocks.
    pub fn middle(
        &self,
        arc: Span,
        flush: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<Option<Position>, Error> {
        let view = ShardView::of(&self.reader).map_err(unavailable)?;
        match shard::middle(&view, arc).map_err(unavailable)? {
            Estimate::At(position) => Ok(Some(position)),
            Estimate::None => Ok(None),
            Estimate::TooMany => {
                flush().map_err(unavailable)?;
                let mut size =
                    |part| self.size_of(&view, part).map_err(|error| shard::view::Fatal(error.to_string()));
                shard::middle_of_sizes(arc, &mut size).map_err(unavailable)
            }
        }
    }

    /// A moment by which every acknowledged write is in what [`Group::reader`] shows from now on, where
    /// one is known (`consensus::freshness`).
    pub fn as_of(&self) -> Option<Instant> {
        self.freshness.as_of(self.reader.applied().map_or(0, |id| id.index))
    }

    /// Who belongs to the group, by its latest membership.
    pub fn members(&self) -> BTreeMap<NodeId, Node> {
        self.metrics(|metrics| {
            let nodes = metrics.membership_config.membership().nodes();
            nodes.map(|(id, node)| (NodeId(*id), node.clone())).collect()
        })
    }

    /// What this replica knows.
    pub fn status(&self) -> Status {
        // Before the metrics are looked at: who has the table may be waiting for them.
        let mut answered = self.pulse.answers();
        self.metrics(|metrics| {
            let membership = metrics.membership_config.membership();
            let matched = metrics.replication.iter().flatten();
            answered
                .retain(|id, _| metrics.state == ServerState::Leader && membership.get_node(&id.0).is_some());
            Status {
                leader: metrics.current_leader.map(NodeId),
                term: metrics.current_term,
                commit: metrics.local_committed.as_ref().map_or(0, |id| id.index),
                applied: metrics.last_applied.as_ref().map_or(0, |id| id.index),
                last: metrics.last_log_index.unwrap_or(0),
                voters: membership.voter_ids().map(NodeId).collect(),
                learners: membership.learner_ids().map(NodeId).collect(),
                settled: self.is_settled(metrics),
                joint: membership.get_joint_config().len() > 1,
                members_committed: metrics.membership_config.log_id()
                    == metrics.committed_membership_config.log_id(),
                answered,
                matched: matched
                    .map(|(id, log)| (NodeId(*id), log.as_ref().map_or(0, |id| id.index)))
                    .collect(),
                stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
            }
        })
    }

    /// Whether the group has members, that is, was ever initialised as far as this replica knows.
    pub async fn is_initialized(&self) -> Result<bool, Error> {
        self.raft.is_initialized().await.map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// Gives the group its first members. To be called on one member only, once in the group's life
    /// (the map says whether it was); where it has members already, nothing happens.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Node>) -> Result<(), Error> {
        let members: BTreeMap<u64, Node> = members.into_iter().map(|(id, node)| (id.0, node)).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Error::Refused(error.to_string())),
        }
    }

    /// At the leader: whether the group counts on a member, by a membership that was the latest one at
    /// some time after this call began.
    pub async fn counts_on(&self, member: NodeId, deadline: Instant) -> Result<bool, Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader { leader: self.leader() });
        }
        // Who leads has every earlier membership in its log, be it committed or not.
        self.read_barrier(deadline).await?;
        let status = self.status();
        let named = status.voters.contains(&member) || status.learners.contains(&member);
        Ok(named || status.joint || !status.members_committed)
    }

    /// At the leader: takes the next step towards `wanted` voters. New ones listen first; when they
    /// have caught up, the voters change through a joint configuration (dissertation, section 4.3),
    /// and whoever is not wanted leaves.
    pub async fn change_members(&self, wanted: &BTreeMap<NodeId, Node>) -> Result<Change, Error> {
        let status = self.status();
        let target: BTreeSet<NodeId> = wanted.keys().copied().collect();
        if status.voters == target && status.learners.is_empty() && !status.joint {
            return Ok(Change::Done);
        }
        let member = |id: &&NodeId| status.voters.contains(id) || status.learners.contains(id);
        if !member(&&self.me) {
            // A leader that has led itself out goes on for a moment, until another one takes over.
            // openraft does not expect it to change members any more (an assertion of its debug
            // builds): whoever is wanted now is for the next leader to add.
            return Err(Error::NotLeader { leader: None });
        }
        if let Some(id) = target.iter().find(|id| !member(id)) {
            let added = self.raft.add_learner(id.0, wanted[id].clone(), false).await;
            return changed(added);
        }
        let caught_up = |id: &NodeId| {
            // A learner that never answered has nothing, however short the log is.
            let matched = status.matched.get(id).copied().unwrap_or(0);
            *id == self.me
                || status.voters.contains(id)
                || (matched > 0 && matched + CAUGHT_UP_ENTRIES >= status.last)
        };
        if !target.iter().all(caught_up) {
            return Ok(Change::Underway);
        }
        if status.voters != target || status.joint {
            let voters = target.iter().map(|id| id.0).collect();
            return changed(
                self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await,
            );
        }
        let unwanted = status.learners.iter().map(|id| id.0).collect();
        changed(self.raft.change_membership(ChangeMembers::RemoveNodes(unwanted), false).await)
    }

    /// At the leader: asks another voter to take over; it has, when [`Group::is_leader`] turns false.
    /// Refused where the voter lacks entries: until it had them, nobody would take writes.
    pub async fn transfer_to(&self, to: NodeId) -> Result<(), Error> {
        let status = self.status();
        let matched = status.matched.get(&to).copied().unwrap_or(0);
        if !status.voters.contains(&to) || matched + CAUGHT_UP_ENTRIES < status.last {
            return Err(Error::Refused(format!("node {to} has not caught up with group {}", self.id)));
        }
        self.following.hands_over(status.term);
        self.raft.trigger().transfer_leader(to.0).await.map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// At the leader: gives leadership to the voter that has most of the log, and waits until it is
    /// gone, at most until the deadline. Where there is nobody else that lives, nothing happens.
    pub async fn hand_over(&self, lives: impl Fn(NodeId) -> bool, deadline: Instant) {
        let status = self.status();
        let others = status.voters.iter().filter(|id| **id != self.me && lives(**id));
        let best = others.max_by_key(|id| status.matched.get(id).copied().unwrap_or(0));
        let Some(&to) = best else { return };
        if !self.is_leader() || self.transfer_to(to).await.is_err() {
            return;
        }
        let me = self.me.0;
        let wait = self.raft.wait(Some(deadline.saturating_duration_since(Instant::now())));
        // Past the deadline the others elect by themselves, a little later.
        let _ =
            wait.metrics(|metrics| metrics.current_leader.is_some_and(|id| id != me), "handed over").await;
    }

    /// Stops the replica; what it has stays on disk.
    pub(super) async fn stop(&self) {
        // Fails only if its task had panicked, and then it has stopped.
        let _ = self.raft.shutdown().await;
    }

    /// Who votes, by its latest membership.
    pub(super) fn voters(&self) -> BTreeSet<NodeId> {
        self.metrics(|metrics| metrics.membership_config.membership().voter_ids().map(NodeId).collect())
    }

    pub(super) fn metrics<T>(&self, look: impl FnOnce(&Metrics) -> T) -> T {
        look(&self.raft.metrics().borrow_watched())
    }
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

fn changed<T>(
    result: Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
) -> Result<Change, Error> {
    match result {
        Ok(_) => Ok(Change::Underway),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(Error::NotLeader { leader: forward.leader_id.map(NodeId) })
        }
        Err(error) => Err(Error::Unavailable(error.to_string())),
    }
}
