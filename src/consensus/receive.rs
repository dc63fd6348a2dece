//! The receiving side of Raft's messages.

use std::{
    collections::HashMap,
    future::ready,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::raft::TransferLeaderRequest;
use parking_lot::Mutex;
use raft_store::types::TypeConfig;
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{
    freshness::ASK_TIMEOUT,
    group::Group,
    pulse::{self, Following},
    types::{AppendRequest, AppendResponse, AppendResult, VoteRequest},
    wire::{self, Answer, GoneLeader, method},
};
use crate::{
    ids::NodeId,
    peer::{Conn, Lane, Links, Peer, Reply},
};

/// Appends of one session that may wait for the group: the sender's window, and some.
const MAX_QUEUED_APPENDS: usize = 64;

/// The time to find out whether a leader that a candidate calls gone is gone for this node too.
const CONFIRM_GONE: Duration = Duration::from_millis(200);

/// The append sessions of a group: one per sending member, the latest one. A member has one at a
/// time; with two, the order between their appends would be lost.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<NodeId, Session>>);

struct Session {
    conn: u64,
    number: u64,
    queue: mpsc::Sender<(Appending, Reply)>,
}

/// An append that the group has been given.
type Appending = BoxFuture<'static, Answer<AppendResult>>;

impl Sessions {
    /// Gives the group an append behind the earlier ones of its session. Called in the order of
    /// arrival.
    fn push(group: &Arc<Group>, from: &Conn, session: u64, request: AppendRequest, reply: Reply) {
        let Some(node) = from.peer().node else { return };
        let mut sessions = group.sessions.0.lock();
        let current = sessions.get(&node).filter(|s| s.conn == from.id() && s.number == session);
        let queue = match current {
            Some(session) => session.queue.clone(),
            None => {
                // The sender began anew; the old session ends when its queue is dropped.
                let (queue, appends) = mpsc::channel(MAX_QUEUED_APPENDS);
                tokio::spawn(run_session(appends, group.following.clone()));
                sessions.insert(node, Session { conn: from.id(), number: session, queue: queue.clone() });
                queue
            }
        };
        drop(sessions);
        // A dropped reply tells the sender, which begins a new session.
        let Ok(place) = queue.try_reserve() else { return group.following.unsettle() };
        let mut appending: Appending = Box::pin(append(group.clone(), request));
        // The first poll puts the request into the group's channel, or in line for it: so the order
        // of arrival is the order in which the group gets them. Whoever polls next is woken.
        if let Poll::Ready(answer) = appending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            appending = Box::pin(ready(answer));
        }
        place.send((appending, reply));
    }
}

async fn append(group: Arc<Group>, request: AppendRequest) -> Answer<AppendResult> {
    let (prev, vote) = (request.prev_log_id, request.vote);
    let last = request.entries.last().map_or(prev, |entry| Some(entry.log_id));
    match group.raft.append_entries(request).await {
        Ok(response) => {
            let result = response.into_stream_result(prev, last);
            if result.is_ok() {
                group.following.took(&vote);
            }
            Ok(result)
        }
        Err(fatal) => Err(fatal.to_string()),
    }
}

/// Answers the appends of a session in order. It ends at the first append that the group refuses;
/// the sender then starts another.
async fn run_session(mut appends: mpsc::Receiver<(Appending, Reply)>, following: Arc<Following>) {
    while let Some((appending, reply)) = appends.recv().await {
        let answer = appending.await;
        reply.send(wire::answer(&answer));
        if !matches!(answer, Ok(Ok(_))) {
            // What waits behind it is dropped, and may have told what is committed.
            following.unsettle();
            return;
        }
    }
}

/// Hands a member's call to the group.
pub(super) fn receive(
    group: &Arc<Group>,
    links: &Arc<Links>,
    from: &Arc<Conn>,
    what: u8,
    body: Bytes,
    reply: Reply,
) {
    match what {
        method::APPEND => match wire::read_append(body) {
            Ok((session, shared, request)) => {
                group.shared.set(shared);
                Sessions::push(group, from, session, request, reply);
            }
            Err(malformed) => reply.send(wire::answer::<()>(&Err(malformed.to_string()))),
        },
        method::APPEND_ONE => {
            let group = group.clone();
            tokio::spawn(async move {
                reply.send(match wire::read_append(body) {
                    Ok((_, shared, request)) => {
                        group.shared.set(shared);
                        let vote = request.vote;
                        let result = group.raft.append_entries(request).await;
                        if result.as_ref().is_ok_and(AppendResponse::is_success) {
                            group.following.took(&vote);
                        }
                        answer(result)
                    }
                    Err(malformed) => wire::answer::<()>(&Err(malformed.to_string())),
                });
            });
        }
        method::VOTE => {
            let (group, links) = (group.clone(), links.clone());
            tokio::spawn(async move { reply.send(vote(&group, &links, &body).await) });
        }
        method::PRE_VOTE => {
            let (group, links) = (group.clone(), links.clone());
            tokio::spawn(async move {
                reply.send(match wire::read::<(VoteRequest, GoneLeader)>(&body) {
                    Ok((request, gone)) => {
                        let free = is_free(&group, &links, &request, gone).await;
                        wire::answer(&pulse::pre_vote(&group, &request, free).await)
                    }
                    Err(malformed) => wire::answer::<()>(&Err(malformed.to_string())),
                });
            });
        }
        method::TRANSFER => {
            let group = group.clone();
            tokio::spawn(async move {
                reply.send(match wire::read::<TransferLeaderRequest<TypeConfig>>(&body) {
                    Ok(request) => answer(group.raft.handle_transfer_leader(request).await),
                    Err(malformed) => wire::answer::<()>(&Err(malformed.to_string())),
                });
            });
        }
        method::READ_INDEX => {
            let group = group.clone();
            tokio::spawn(async move {
                reply.send(answer(group.read_index(Instant::now() + ASK_TIMEOUT).await));
            });
        }
        _ => reply.send(wire::answer::<()>(&Err("no such method".into()))),
    }
}

/// Votes, where this node is free to.
///
/// openraft's lease never ends (`host::config`) and is passed over by the mark of a transfer, as it
/// knows nothing of the beats that renew what this node goes by.
async fn vote(group: &Group, links: &Arc<Links>, body: &[u8]) -> Bytes {
    let (mut request, gone) = match wire::read::<(VoteRequest, GoneLeader)>(body) {
        Ok(message) => message,
        Err(malformed) => return wire::answer::<()>(&Err(malformed.to_string())),
    };
    if !request.leadership_transfer && !is_free(group, links, &request, gone).await {
        return wire::answer(&pulse::refuse(group).await);
    }
    request.leadership_transfer = true;
    let _ballot = group.ballot.lock().await;
    answer(group.raft.vote(request).await)
}

/// Whether this node does not hear the group's leader: that keeps a slow candidate from disturbing one
/// that serves. A candidate that stands because the leader's process is gone need not wait until
/// this node has missed it too, if this node finds the process gone as well and knows of no other
/// leader. Nothing rests on either: reads are proved by a quorum round of their own (D6, D15).
async fn is_free(group: &Group, links: &Arc<Links>, request: &VoteRequest, gone: GoneLeader) -> bool {
    let candidate = NodeId(request.vote.leader_id.node_id);
    pulse::may_stand(group, candidate)
        || match gone {
            Some(leader) => {
                group.leader().is_none_or(|known| known == leader) && confirm_gone(links, leader).await
            }
            None => false,
        }
}

async fn confirm_gone(links: &Arc<Links>, node: NodeId) -> bool {
    if !links.is_gone(node) {
        // The attempt itself is what `is_gone` learns from.
        let _ = links.connection(&Peer::Node(node), Lane::Main, Instant::now() + CONFIRM_GONE).await;
    }
    links.is_gone(node)
}

fn answer<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Bytes {
    let result: Answer<T> = result.map_err(|error| error.to_string());
    wire::answer(&result)
}
