//! The sending side of Raft's messages: openraft's network traits over [`crate::peer`].

use std::{
    collections::VecDeque,
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, stream_append_sequential},
    raft::{TransferLeaderRequest, TransferLeaderResponse},
};
use raft_store::{
    SnapshotData,
    types::{Node, TypeConfig},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    log_limits::SharedIndex,
    snapshots::{self, Turns},
    types::{
        AppendRequest, AppendResponse, AppendResult, LogId, RpcError, Snapshot, SnapshotResponse, Vote,
        VoteRequest, VoteResponse,
    },
    wire::{self, Answer, GoneLeader, method},
};
use crate::{
    ids::{GroupId, NodeId},
    peer::{Call, CallError, Conn, Lane, Links, Peer},
};

/// Appends of one session that may be unanswered at once.
const MAX_APPENDS_IN_FLIGHT: usize = 32;

/// How long news wait for which nobody waits; see [`Session`].
const NEWS_DELAY: Duration = Duration::from_millis(10);

/// The time for an answer to an append. openraft offers the heartbeat interval, which is too short
/// for megabytes on a slow link; a leader's liveness does not depend on this, beats go apart.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for an answer to a vote request or a transfer.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);

/// Which leader of a group a candidate here knows to be gone; see [`super::host`].
#[derive(Clone, Default)]
pub(super) struct GoneHint(Arc<AtomicU64>);

impl GoneHint {
    pub(super) fn set(&self, leader: NodeId) {
        self.0.store(leader.0, Ordering::Relaxed);
    }

    /// Unless it is about another one by now.
    pub(super) fn unset(&self, leader: NodeId) {
        let _ = self.0.compare_exchange(leader.0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> GoneLeader {
        Some(self.0.load(Ordering::Relaxed)).filter(|&leader| leader != 0).map(NodeId)
    }
}

/// Makes the senders of one group.
pub(super) struct Transport {
    pub(super) group: GroupId,
    pub(super) links: Arc<Links>,
    /// Of all groups of the node.
    pub(super) turns: Arc<Turns>,
    pub(super) gone: GoneHint,
    pub(super) shared: SharedIndex,
}

/// Sends one group's messages to one member.
pub struct Sender {
    /// openraft's heartbeats, which here are a leader's signs to replicas that do not follow it yet
    /// ([`super::pulse`]): each is sent as a stream of its own, beside the replication's. They bear no
    /// order, so they form no session.
    heartbeats: bool,
    group: GroupId,
    to: Peer,
    links: Arc<Links>,
    turns: Arc<Turns>,
    gone: GoneHint,
    shared: SharedIndex,
}

impl RaftNetworkFactory<TypeConfig> for Transport {
    type Network = Sender;

    async fn new_client(&mut self, target: u64, _node: &Node) -> Sender {
        self.sender(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &Node) -> Sender {
        self.sender(target, true)
    }
}

impl Transport {
    fn sender(&self, target: u64, heartbeats: bool) -> Sender {
        Sender {
            heartbeats,
            group: self.group,
            to: Peer::Node(NodeId(target)),
            links: self.links.clone(),
            turns: self.turns.clone(),
            gone: self.gone.clone(),
            shared: self.shared.clone(),
        }
    }
}

/// The appends to one member, in order on one connection.
///
/// Every message between two members costs both of them more than what it says, so two kinds of news
/// that nobody waits for are held back for [`NEWS_DELAY`], and go together with what comes meanwhile:
///
/// - *How far the log is committed*, to a follower: it applies that much later than the leader, and
///   what has gathered in one batch. Told late it is told as if the network were slow. Whoever is
///   elected meanwhile has the entries, and finds out that they are committed by its own first one.
/// - *That a follower has entries that are committed already*, to openraft at the leader: a majority
///   of others was faster. Left out is sound, as openraft takes the answer to a later append of the
///   same session as one to all before it.
struct Session {
    group: GroupId,
    shared: SharedIndex,
    number: u64,
    conn: Arc<Conn>,
    /// Appends that are not answered, in order.
    unanswered: VecDeque<Unanswered>,
    /// Whose append is late; looks at the oldest unanswered one when it fires.
    late: Pin<Box<Sleep>>,
    /// The newest log id that the member has confirmed. An append without entries behind it probes
    /// where the logs part, and is no notice.
    matched: Option<LogId>,
    /// The leader's vote.
    vote: Vote,
    /// How far the log is committed, as far as openraft has said so.
    committed: Option<LogId>,
    /// How far the member was told that it is, and when.
    told: Option<LogId>,
    told_at: Instant,
    /// An answer that says nothing new about what is committed.
    held: Option<AppendResult>,
    /// When what is held back is to go; armed while there is anything.
    due: Pin<Box<Sleep>>,
    is_due_set: bool,
}

struct Unanswered {
    call: Result<Call, CallError>,
    sent_at: Instant,
}

impl Session {
    fn new(group: GroupId, shared: SharedIndex, conn: Arc<Conn>, vote: Vote) -> Self {
        // Its number tells the receiver which appends belong together in order.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let now = Instant::now();
        Self {
            group,
            shared,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            conn,
            unanswered: VecDeque::new(),
            late: Box::pin(sleep_until(now + APPEND_TIMEOUT)),
            matched: None,
            vote,
            committed: None,
            told: None,
            told_at: now,
            held: None,
            due: Box::pin(sleep_until(now)),
            is_due_set: false,
        }
    }

    /// Sends what comes until there is an answer; `None` when nothing more comes.
    async fn next(
        &mut self,
        requests: &mut Option<impl Stream<Item = AppendRequest> + Unpin>,
    ) -> Option<Result<AppendResult, RpcError>> {
        loop {
            let may_send = self.unanswered.len() < MAX_APPENDS_IN_FLIGHT;
            let more = requests.is_some();
            if !more && self.unanswered.is_empty() {
                return self.held.take().map(Ok);
            }
            tokio::select! {
                biased;
                // Requests first: they tell what is committed, and by that which answers are news.
                request = next_of(requests), if may_send && more => match request {
                    Some(request) => self.take(request),
                    None => *requests = None,
                },
                answer = next_answer(&mut self.unanswered) => match answer {
                    Ok(Ok(matched)) => {
                        self.matched = self.matched.max(matched);
                        if more && matched <= self.committed {
                            self.held = Some(Ok(matched));
                            self.set_due();
                        } else {
                            self.held = None;
                            return Some(Ok(Ok(matched)));
                        }
                    }
                    answer => return Some(answer),
                },
                () = &mut self.due, if self.is_due_set && may_send => {
                    self.is_due_set = false;
                    if self.told < self.committed {
                        self.send_notice();
                    }
                    if let Some(answer) = self.held.take() {
                        return Some(Ok(answer));
                    }
                }
                // Not while nothing is awaited: an idle group costs no wake-up.
                () = &mut self.late, if !self.unanswered.is_empty() => {
                    let oldest = self.unanswered.front().map(|oldest| oldest.sent_at + APPEND_TIMEOUT);
                    match oldest {
                        Some(deadline) if deadline <= Instant::now() => {
                            return Some(Err(rpc_error(&CallError::Timeout)));
                        }
                        deadline => {
                            let next = deadline.unwrap_or_else(|| Instant::now() + APPEND_TIMEOUT);
                            self.late.as_mut().reset(next);
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, mut request: AppendRequest) {
        self.vote = request.vote;
        self.committed = self.committed.max(request.leader_commit);
        let is_notice = request.entries.is_empty()
            && request.prev_log_id.is_some()
            && request.prev_log_id <= self.matched;
        if is_notice {
            return self.set_due();
        }
        // The notice to come stands behind a log id that the member is known to have.
        if self.matched.is_some() && self.told_at.elapsed() < NEWS_DELAY {
            request.leader_commit = self.told;
            if self.told < self.committed {
                self.set_due();
            }
        }
        self.send(&request);
    }

    /// Has what is held back go in time.
    fn set_due(&mut self) {
        if !self.is_due_set {
            self.is_due_set = true;
            self.due.as_mut().reset(Instant::now() + NEWS_DELAY);
        }
    }

    fn send_notice(&mut self) {
        self.send(&AppendRequest {
            vote: self.vote,
            prev_log_id: self.matched,
            entries: Vec::new(),
            leader_commit: self.committed,
        });
    }

    fn send(&mut self, request: &AppendRequest) {
        let sent_at = Instant::now();
        if self.told < request.leader_commit {
            self.told = request.leader_commit;
            self.told_at = sent_at;
        }
        let call =
            self.conn.call(method::APPEND, wire::append(self.group, self.number, self.shared.get(), request));
        self.unanswered.push_back(Unanswered { call, sent_at });
    }
}

/// The answer to the oldest append; never, while there is none.
async fn next_answer(unanswered: &mut VecDeque<Unanswered>) -> Result<AppendResult, RpcError> {
    let answer = match unanswered.front_mut() {
        Some(Unanswered { call: Ok(call), .. }) => call.await,
        Some(Unanswered { call: Err(error), .. }) => Err(error.clone()),
        None => pending().await,
    };
    unanswered.pop_front();
    open(answer)
}

/// The next request; never, once there are no more.
async fn next_of<S: Stream<Item = AppendRequest> + Unpin>(requests: &mut Option<S>) -> Option<AppendRequest> {
    match requests {
        Some(requests) => requests.next().await,
        None => pending().await,
    }
}

fn rpc_error(error: &CallError) -> RpcError {
    match error {
        // openraft waits before it tries again where a node is unreachable, and not otherwise.
        CallError::NotSent(_) | CallError::Refused(_) | CallError::Busy | CallError::Timeout => {
            Unreachable::new(error).into()
        }
        CallError::Broken => NetworkError::new(error).into(),
    }
}

fn open<T: DeserializeOwned>(answer: Result<Bytes, CallError>) -> Result<T, RpcError> {
    let body = answer.map_err(|error| rpc_error(&error))?;
    match wire::read::<Answer<T>>(&body) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(reason)) => Err(Unreachable::from_string(reason).into()),
        Err(malformed) => Err(Unreachable::new(&malformed).into()),
    }
}

impl Sender {
    async fn ask<T: DeserializeOwned>(&self, method: u8, body: Bytes, time: Duration) -> Result<T, RpcError> {
        let deadline = Instant::now() + time;
        open(self.links.call(&self.to, Lane::Main, method, body, deadline).await)
    }
}

impl RaftNetworkV2<TypeConfig> for Sender {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        _option: RPCOption,
    ) -> Result<AppendResponse, RpcError> {
        self.ask(
            method::APPEND_ONE,
            wire::append(self.group, 0, self.shared.get(), &request),
            CONTROL_TIMEOUT,
        )
        .await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeats {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // openraft waits between its attempts where the input is asked for the first request, and
            // nowhere else: a connection tried before that would be tried without a pause.
            let mut input = input;
            let Some(first) = input.next().await else {
                return Ok::<BoxStream<'s, _>, _>(Box::pin(stream::empty()));
            };
            // One session stays on one connection, whose order is the session's order.
            let deadline = Instant::now() + CONTROL_TIMEOUT;
            let conn = self.links.connection(&self.to, Lane::Main, deadline).await;
            let conn = conn.map_err(|error| rpc_error(&error))?;
            let mut session = Session::new(self.group, self.shared.clone(), conn, first.vote);
            session.take(first);
            let requests = Some(input);
            let answers = stream::unfold((session, requests), |(mut session, mut requests)| async move {
                let answer = session.next(&mut requests).await?;
                Some((answer, (session, requests)))
            });
            Ok::<BoxStream<'s, _>, _>(Box::pin(answers))
        })
    }

    async fn vote(&mut self, request: VoteRequest, _option: RPCOption) -> Result<VoteResponse, RpcError> {
        let body = wire::message(self.group, &(request, self.gone.get()));
        self.ask(method::VOTE, body, CONTROL_TIMEOUT).await
    }

    async fn pre_vote(&mut self, request: VoteRequest, _option: RPCOption) -> Result<VoteResponse, RpcError> {
        let body = wire::message(self.group, &(request, self.gone.get()));
        self.ask(method::PRE_VOTE, body, CONTROL_TIMEOUT).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            result = snapshots::send(&self.links, &self.turns, &self.to, self.group, vote, snapshot) => result,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.ask(method::TRANSFER, wire::message(self.group, &request), CONTROL_TIMEOUT).await
    }
}

#[cfg(test)]
#[path = "transport_test.rs"]
mod tests;
